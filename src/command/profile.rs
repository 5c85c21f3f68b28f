//! `inferc profile-device`: measures this machine and stores the profile that later plans are priced with.

use super::{OK, print, print_json, say};
use crate::args::{Format, ProfileArgs};
use anyhow::{Context as _, Result, bail};
use inferc::cache::Cache;
use inferc::{artifact, machine, profile};
use ir::plan_text::three;
use serde_json::json;
use std::io::IsTerminal as _;
use std::path::Path;

/// Runs the command.
pub(crate) fn run(args: &ProfileArgs) -> Result<u8> {
    let output = match &args.output {
        Some(path) => path.clone(),
        None => machine::profile_path()
            .context("there is no cache folder to keep the profile in: name a file with -o FILE")?,
    };
    let threads = args
        .threads
        .unwrap_or_else(|| u32::try_from(runtime::device::probe::probe().threads).unwrap_or(1))
        .clamp(1, 1024);
    if args.threads == Some(0) {
        bail!("--threads must be at least 1");
    }
    let folder = output.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or(Path::new("."));
    if !folder.is_dir() {
        bail!("cannot write {}: there is no folder {}", output.display(), folder.display());
    }
    let start = std::time::Instant::now();
    let loud = std::io::stderr().is_terminal();
    let cache = Cache::open().ok();
    let target = profile::measure(threads, inferc::default_backend(), cache.as_ref(), &mut |line| {
        if loud {
            say(&format!("measuring {line}"));
        }
    })?;
    let seconds = start.elapsed().as_secs_f64();
    let document = json!({ "target": target, "seconds": seconds });
    artifact::write(&output, serde_json::to_string_pretty(&document)?.as_bytes())?;
    match args.format {
        Format::Json => print_json(json!({
            "profile": output.display().to_string(), "seconds": seconds, "bandwidth": target.bandwidth, "target": target,
        })),
        Format::Text => {
            print(&format!("{} · {seconds:.1} s · written to {}\n", target.name, output.display()));
            for b in &target.read {
                print(&format!(
                    "read {:>7} MB   {:>8} GB/s one thread   {:>8} GB/s all\n",
                    three(b.bytes / 1e6),
                    three(b.one_thread / 1e9),
                    three(b.all_threads / 1e9)
                ));
            }
            for k in &target.kernels {
                print(&format!(
                    "{:<14} rows {:>4}   {:>8} G/s one thread   {:>8} G/s all\n",
                    k.class,
                    k.rows,
                    three(k.one_thread / 1e9),
                    three(k.all_threads / 1e9)
                ));
            }
            print(&format!("launch {} µs\n", three(target.launch * 1e6)));
        }
    }
    Ok(OK)
}
