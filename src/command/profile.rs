//! `inferc profile-device`: measures this machine and stores the profile that later plans are priced with. With `--check`
//! it prints predicted beside measured, with `--crossovers` what the stored rates say about ways of doing the same.

use super::{OK, print, print_json, say};
use crate::args::{Format, ProfileArgs};
use anyhow::{Context as _, Result, bail};
use inferc::cache::Cache;
use inferc::machine::Machine;
use inferc::profile::Profile;
use inferc::validate::{Kind, Pair};
use inferc::{artifact, inputs, machine, measure, profile, validate};
use ir::plan_text::{seconds, three};
use ir::schedule::Numerics;
use optimizer::crossovers::{Crossover, crossovers};
use optimizer::roofline::Roofline;
use serde_json::{Value, json};
use std::io::IsTerminal as _;
use std::path::Path;

/// CPUs in use by others from which on a person is told to measure again.
const FOREIGN: f64 = 0.1;

/// Runs the command.
pub(crate) fn run(args: &ProfileArgs) -> Result<u8> {
    if !args.check.is_empty() {
        return check(args);
    }
    if !args.crossovers.is_empty() {
        return show_crossovers(args);
    }
    let output = match &args.output {
        Some(path) => path.clone(),
        None => machine::profile_path()
            .context("there is no cache folder to keep the profile in: name a file with -o FILE")?,
    };
    let threads = machine::team(args.threads, runtime::device::probe::probe().threads)?;
    let folder = output.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or(Path::new("."));
    if !folder.is_dir() {
        bail!("cannot write {}: there is no folder {}", output.display(), folder.display());
    }
    let start = std::time::Instant::now();
    let loud = std::io::stderr().is_terminal();
    let cache = Cache::open().ok();
    let profile = profile::measure(threads, inferc::default_backend(), cache, &mut |line| {
        if loud {
            say(&format!("{:>4.0} s  {line}", start.elapsed().as_secs_f64()));
        }
    })?;
    let seconds = start.elapsed().as_secs_f64();
    let document = json!({
        "format": profile::FORMAT, "target": profile.target, "seconds": seconds, "foreign_cpus": profile.foreign,
    });
    artifact::write(&output, serde_json::to_string_pretty(&document)?.as_bytes())?;
    show(args, &output, &profile, seconds);
    Ok(OK)
}

/// A profile of which more than one rate in so many did not settle is worth repeating: of four on two shared cores, the one
/// below that had the smallest 90th percentile of errors, and two of the three above it more than 30 % (docs/COST_MODEL.md).
const QUIET: usize = 4;

fn show(args: &ProfileArgs, output: &Path, profile: &Profile, seconds: f64) {
    let target = &profile.target;
    match args.format {
        Format::Json => print_json(json!({
            "profile": output.display().to_string(), "seconds": seconds, "bandwidth": target.bandwidth, "target": target,
            "foreign_cpus": profile.foreign, "steps": profile.steps, "again": profile.again, "noisy": profile.noisy(),
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
                let quiet = k.spread <= profile::AGREE;
                let noise = if quiet { String::new() } else { format!("   ± {:.0} %", 100.0 * k.spread) };
                print(&format!(
                    "{:<14} rows {:>4} over {:>6} MB   {:>8} G/s one thread   {:>8} G/s all{noise}\n",
                    k.class,
                    k.rows,
                    three(k.bytes / 1e6),
                    three(k.one_thread / 1e9),
                    three(k.all_threads / 1e9)
                ));
            }
            print(&format!("launch {} µs, process {} ms\n", three(target.launch * 1e6), three(target.start * 1e3)));
            print(&format!(
                "{} steps, {} measured again, {} of {} rates did not settle within {:.0} %\n",
                profile.steps,
                profile.again,
                profile.noisy(),
                target.kernels.len(),
                100.0 * profile::AGREE
            ));
        }
    }
    if let Some(cpus) = profile.foreign.filter(|cpus| *cpus > FOREIGN) {
        say(&format!(
            "warning: other processes used {cpus:.1} CPUs meanwhile; measure again when the machine is quiet"
        ));
    }
    if profile.noisy() > target.kernels.len() / QUIET {
        say("warning: many rates changed while they were measured, and predictions may be far off; measure again");
    }
}

/// From where on one way is faster than another, by the rates of this machine, on one and on all threads.
fn show_crossovers(args: &ProfileArgs) -> Result<u8> {
    let machine = super::here(args.threads)?;
    if !machine.target.measured {
        say("warning: this machine was not measured: these are estimates; run inferc profile-device");
    }
    let mut rows: Vec<(String, u32, Crossover)> = Vec::new();
    for path in &args.crossovers {
        let name = stem(path);
        let model = inputs::model_shape(&path.to_string_lossy())?;
        for threads in machine.teams() {
            let roofline = Roofline::new(&model, &machine.target).with_threads(threads);
            rows.extend(crossovers(&roofline, Numerics::Int8).into_iter().map(|c| (name.clone(), threads, c)));
        }
    }
    match args.format {
        Format::Json => print_json(json!({
            "target": machine.target.name, "measured": machine.target.measured,
            "crossovers": rows.iter().map(|(model, threads, c)| json!({
                "model": model, "threads": threads, "faster": c.faster, "than": c.than, "unit": c.unit, "from": c.from,
                "most": c.most, "gain": c.gain,
            })).collect::<Vec<_>>(),
        })),
        Format::Text => {
            for (model, threads, c) in &rows {
                let ways = format!("{} before {}", c.faster, c.than);
                let from = c.from.map_or("never".to_owned(), |n| format!("from {n}"));
                print(&format!(
                    "{model:<36} {threads} threads  {ways:<58} {from:>11} {:<18} {:.2}x at {}\n",
                    c.unit, c.gain, c.most
                ));
            }
        }
    }
    Ok(OK)
}

fn stem(path: &Path) -> String {
    path.file_stem().map_or_else(String::new, |n| n.to_string_lossy().into_owned())
}

/// Predicted beside measured for steps of real models, on one and on all threads, for all kinds of attention.
fn check(args: &ProfileArgs) -> Result<u8> {
    let loud = std::io::stderr().is_terminal();
    let machine = super::here(args.threads)?;
    let mut rows: Vec<(String, u32, Pair)> = Vec::new();
    for path in &args.check {
        let name = stem(path);
        for threads in machine.teams() {
            for kind in Kind::ALL {
                let forced = kind.forced();
                let machine = Machine { forced, ..machine.clone() };
                let (mut model, plan) = measure::load(path, &machine, threads)?;
                let (kv, attention) = (plan.schedule.kv, plan.schedule.attention);
                let roofline = Roofline::new(&plan.model, &machine.target).with_numerics(plan.schedule.numerics);
                let roofline = roofline.with_threads(threads).with_cache(kv, attention);
                let roofline = roofline.with_prologue(plan.schedule.prologue);
                let pairs = validate::run(&mut model, &roofline, kind, args.depth, &mut |pair| {
                    if loud {
                        say(&format!("{name} · {threads} threads · {} · {}", kind.name(), pair.config));
                    }
                })?;
                rows.extend(pairs.into_iter().map(|p| (name.clone(), threads, p)));
            }
        }
    }
    let all: Vec<Pair> = rows.iter().map(|r| r.2).collect();
    let (median, p90) = validate::quantiles(&all);
    let mut groups: Vec<(String, Vec<Pair>)> = Vec::new();
    for (model, _, pair) in &rows {
        let group = format!("{model} · {}", pair.kind.name());
        match groups.iter_mut().find(|g| g.0 == group) {
            Some((_, pairs)) => pairs.push(*pair),
            None => groups.push((group, vec![*pair])),
        }
    }
    match args.format {
        Format::Json => print_json(json!({
            "configurations": all.len(), "median_error": median, "p90_error": p90,
            "groups": groups.iter().map(|(name, pairs)| {
                let (median, p90) = validate::quantiles(pairs);
                json!({ "group": name, "configurations": pairs.len(), "median_error": median, "p90_error": p90 })
            }).collect::<Vec<Value>>(),
            "rows": rows.iter().map(|(model, threads, p)| json!({
                "model": model, "threads": threads, "kind": p.kind.name(), "configuration": p.config.to_string(),
                "predicted_seconds": p.predicted, "measured_seconds": p.measured, "error": p.error(),
            })).collect::<Vec<_>>(),
        })),
        Format::Text => {
            for (model, threads, p) in &rows {
                print(&format!(
                    "{model:<36} {threads} threads  {:<10} {:<28} predicted {:>9}  measured {:>9}  {:>+6.1} %\n",
                    p.kind.name(),
                    p.config.to_string(),
                    seconds(p.predicted),
                    seconds(p.measured),
                    100.0 * p.error()
                ));
            }
            let line = |name: &str, count: usize, (median, p90): (f64, f64)| {
                let (median, p90) = (100.0 * median, 100.0 * p90);
                print(&format!(
                    "{name}: {count} configurations: median error {median:.1} %, 90th percentile {p90:.1} %\n"
                ));
            };
            for (name, pairs) in &groups {
                line(name, pairs.len(), validate::quantiles(pairs));
            }
            line("all", all.len(), (median, p90));
        }
    }
    Ok(OK)
}
