//! `inferc bench`: a strategy on data, with accuracy and predicted beside measured cost; or the kernels of a model.

use super::{OK, print, print_json};
use crate::args::{BenchArgs, Format};
use anyhow::{Context as _, Result, bail};
use inferc::measure::{self, Case, Measured};
use ir::plan::PrefixMode;
use serde_json::json;
use std::path::PathBuf;

/// Runs the command.
pub fn run(args: &BenchArgs) -> Result<u8> {
    if args.kernels { kernels(args) } else { bail!("strategies come next") }
}

/// Measures cases on one model; the fastest of the repetitions counts, the median is printed beside it.
fn kernels(args: &BenchArgs) -> Result<u8> {
    let [file] = &args.binding.models[..] else { bail!("--kernels measures one model: --model FILE") };
    let path = PathBuf::from(file);
    let machine = args.binding.machine(None, true)?;
    machine.runs_here()?;
    let cases: Vec<(String, Case)> = match &args.cases[..] {
        [] => ["decode:depth=0", "decode:depth=2048", "branches:n=8,prompt=512,gen=64", "prefill:n=512"].map(str::to_owned).to_vec(),
        given => given.to_vec(),
    }
    .into_iter()
    .map(|text| Ok((text.clone(), Case::parse(&text)?)))
    .collect::<Result<_>>()?;
    let (mut model, plan) =
        measure::load(&path, &machine.target, machine.threads, machine.numerics, machine.backend, machine.cache.as_ref())?;
    let mut rows = Vec::new();
    for (name, case) in &cases {
        let modes: &[PrefixMode] =
            if matches!(case, Case::Branches { .. }) { &[PrefixMode::Shared, PrefixMode::Cascade] } else { &[PrefixMode::Shared] };
        for mode in modes {
            measure::run(&mut model, *case, *mode)?;
            let mut runs: Vec<Measured> =
                (0..args.repeat.max(1)).map(|_| measure::run(&mut model, *case, *mode)).collect::<Result<_>>()?;
            runs.sort_by(|a, b| a.seconds.total_cmp(&b.seconds));
            let best = *runs.first().context("at least one run")?;
            let median = runs[runs.len() / 2];
            rows.push((name.clone(), *mode, best, median));
        }
    }
    #[allow(clippy::cast_precision_loss, reason = "token counts of a measurement are small")]
    let rate = |m: &Measured| m.tokens as f64 / m.seconds;
    match args.format {
        Format::Json => {
            for (name, mode, best, median) in &rows {
                let row = json!({
                    "format_version": super::FORMAT_VERSION, "case": name, "prefix": mode.to_string(),
                    "tokens_per_second": rate(best), "median_tokens_per_second": rate(median), "seconds": best.seconds,
                    "tokens": best.tokens, "rows": best.tokens / best.steps.max(1), "threads": plan.schedule.threads,
                    "weight_bytes": plan.weight_bytes,
                });
                print(&format!("{row}\n"));
            }
        }
        Format::Text => {
            print(&format!("{} · {} threads · {:.1} MB of weights\n", path.display(), plan.schedule.threads, plan.weight_bytes as f64 / 1e6));
            for (name, mode, best, median) in &rows {
                print(&format!("{name:<36} {mode:<8} {:>10.1} tok/s best {:>10.1} median\n", rate(best), rate(median)));
            }
        }
    }
    let _ = print_json;
    Ok(OK)
}
