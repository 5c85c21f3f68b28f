//! `inferc cost`: FLOPs, bytes, eFLOPs and seconds of a workload, by the Kinetics or the roofline model.

use super::{OK, print, print_json};
use crate::args::{CostArgs, CostModel, Format, KineticsMode};
use anyhow::{Context, Result, bail};
use inferc::inputs;
use ir::model::SHAPES;
use optimizer::kinetics::{self, Attention, INTENSITY, Mode, Workload};
use optimizer::roofline;
use serde_json::json;

/// Runs the command.
pub(crate) fn run(args: &CostArgs) -> Result<u8> {
    if args.list {
        return Ok(list(args.format));
    }
    let name = args.model.as_deref().context("--model is missing")?;
    let model = inputs::model_shape(name)?;
    let attention = args.sparse.as_deref().map_or(Ok(Attention::Dense), attention)?;
    if args.r#gen == 0 || args.n == 0 {
        bail!("--gen and --n must be at least 1");
    }
    const MOST: u64 = 1 << 40;
    if args.prompt > MOST || args.r#gen > MOST || args.n > MOST {
        bail!("--prompt, --gen and --n are limited to 2^40");
    }
    let work = Workload { prompt: args.prompt, generated: args.r#gen, trials: args.n };
    let (flops, bytes, eflops, seconds, target) = match args.model_kind {
        CostModel::Kinetics => {
            let mode = match args.mode {
                KineticsMode::Compat => Mode::Compat,
                KineticsMode::Exact => Mode::Exact,
            };
            let k = kinetics::cost(&model, work, attention, mode);
            (k.flops, k.bytes, k.eflops(), k.seconds(), None)
        }
        CostModel::Roofline => {
            let target = inputs::target(&args.target, None)?;
            let c = roofline::workload(&model, work, attention, &target)
                .map_err(|why| anyhow::anyhow!("{why}; use a larger target, fewer trials or fewer tokens"))?;
            (c.flops, c.bytes, c.flops + INTENSITY * c.bytes, c.seconds, Some(target.name))
        }
    };
    let kind = match args.model_kind {
        CostModel::Kinetics => "kinetics",
        CostModel::Roofline => "roofline",
    };
    let mode = match (args.model_kind, args.mode) {
        (CostModel::Roofline, _) => None,
        (_, KineticsMode::Compat) => Some("compat"),
        (_, KineticsMode::Exact) => Some("exact"),
    };
    match args.format {
        Format::Json => print_json(json!({
            "model": model.name, "model_kind": kind, "mode": mode, "target": target,
            "prompt": args.prompt, "gen": args.r#gen, "n": args.n, "sparse": args.sparse,
            "flops": flops, "bytes": bytes, "eflops": eflops, "seconds": seconds,
        })),
        Format::Text => {
            let machine = target.unwrap_or_else(|| "B200 at peak".to_owned());
            let mode = mode.map_or(String::new(), |m| format!(" ({m})"));
            print(&format!(
                "model    {} · prompt {} · gen {} · n {} · attention {}\n\
                 by       {kind}{mode}\n\
                 flops    {flops:.6e}\nbytes    {bytes:.6e}\neflops   {eflops:.6e}\nseconds  {seconds:.6} on {machine}\n",
                model.name,
                args.prompt,
                args.r#gen,
                args.n,
                args.sparse.as_deref().unwrap_or("dense"),
            ));
        }
    }
    Ok(OK)
}

fn list(format: Format) -> u8 {
    let models: Vec<_> = SHAPES.iter().map(|s| s.name).collect();
    let targets = ir::target::names();
    match format {
        Format::Json => print_json(json!({ "models": models, "targets": targets })),
        Format::Text => print(&format!("models   {}\ntargets  {}\n", models.join(" "), targets.join(" "))),
    }
    OK
}

fn attention(text: &str) -> Result<Attention> {
    let usage = "sparse attention is block:SIZE,BLOCKS[,LOCAL], topk:BUDGET or window:BUDGET, all numbers at least 1";
    let (kind, rest) = text.split_once(':').with_context(|| format!("`{text}`: {usage}"))?;
    let numbers: Vec<u64> = rest
        .split(',')
        .map(|n| n.trim().parse().ok().filter(|n| (1..=1 << 30).contains(n)))
        .collect::<Option<_>>()
        .with_context(|| format!("`{text}`: {usage}"))?;
    Ok(match (kind, numbers[..].len(), &numbers[..]) {
        ("topk", 1, n) => Attention::TopK { budget: n[0] },
        ("window", 1, n) => Attention::Window { budget: n[0] },
        ("block", 2, n) => Attention::Block { size: n[0], blocks: n[1], local: 0 },
        ("block", 3, n) => Attention::Block { size: n[0], blocks: n[1], local: n[2] },
        _ => bail!("`{text}`: {usage}"),
    })
}
