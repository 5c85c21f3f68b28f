//! `inferc profile-device`: measures this machine and stores the profile that later plans are priced with.

use super::{OK, print, print_json, say};
use crate::args::{Format, ProfileArgs};
use anyhow::{Context as _, Result, bail};
use inferc::cache::Cache;
use inferc::{artifact, machine, measure, profile, validate};
use ir::plan_text::{seconds, three};
use optimizer::roofline::Roofline;
use serde_json::json;
use std::io::IsTerminal as _;
use std::path::Path;

/// Runs the command.
pub(crate) fn run(args: &ProfileArgs) -> Result<u8> {
    if !args.check.is_empty() {
        return check(args);
    }
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
    let target = profile::measure(threads, inferc::default_backend(), cache, &mut |line| {
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
                    "{:<14} rows {:>4} over {:>6} MB   {:>8} G/s one thread   {:>8} G/s all\n",
                    k.class,
                    k.rows,
                    three(k.bytes / 1e6),
                    three(k.one_thread / 1e9),
                    three(k.all_threads / 1e9)
                ));
            }
            print(&format!("launch {} µs\n", three(target.launch * 1e6)));
        }
    }
    Ok(OK)
}

/// Predicted beside measured for steps of real models, on one and on all threads.
fn check(args: &ProfileArgs) -> Result<u8> {
    let loud = std::io::stderr().is_terminal();
    let machine = super::here(args.threads)?;
    let mut all = Vec::new();
    let mut rows = Vec::new();
    for path in &args.check {
        let name = path.file_stem().map_or_else(String::new, |n| n.to_string_lossy().into_owned());
        let mut teams = vec![1, machine.threads];
        teams.dedup();
        for threads in teams {
            let (mut model, plan) = measure::load(path, &machine, threads)?;
            let roofline = Roofline::new(&plan.model, &machine.target).with_threads(threads);
            let pairs = validate::run(&mut model, &roofline, args.depth, &mut |pair| {
                if loud {
                    say(&format!("{name} · {threads} threads · {}", pair.config));
                }
            })?;
            rows.extend(pairs.iter().map(|p| (name.clone(), threads, *p)));
            all.extend(pairs);
        }
    }
    let (median, p90) = validate::quantiles(&all);
    match args.format {
        Format::Json => print_json(json!({
            "configurations": all.len(), "median_error": median, "p90_error": p90,
            "rows": rows.iter().map(|(model, threads, p)| json!({
                "model": model, "threads": threads, "configuration": p.config.to_string(),
                "predicted_seconds": p.predicted, "measured_seconds": p.measured, "error": p.error(),
            })).collect::<Vec<_>>(),
        })),
        Format::Text => {
            for (model, threads, p) in &rows {
                print(&format!(
                    "{model:<36} {threads} threads  {:<28} predicted {:>9}  measured {:>9}  {:>+6.1} %\n",
                    p.config.to_string(),
                    seconds(p.predicted),
                    seconds(p.measured),
                    100.0 * p.error()
                ));
            }
            print(&format!(
                "{} configurations: median error {:.1} %, 90th percentile {:.1} %\n",
                all.len(),
                100.0 * median,
                100.0 * p90
            ));
        }
    }
    Ok(OK)
}
