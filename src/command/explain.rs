//! `inferc explain`: the long text of a code, or the plan of a strategy with its predicted cost and what-ifs.

use super::{FAILED, OK, print, print_json};
use crate::args::{ExplainArgs, Format};
use crate::command::check::grouped;
use anyhow::{Context as _, Result, bail};
use inferc::prepare::Prepared;
use inferc::{inputs, manifest, report};
use ir::plan::Plan;
use ir::plan_text::{bytes, seconds, three};
use ir::schedule::ModelSchedule;
use serde_json::{Value, json};
use std::fmt::Write as _;

/// Runs the command.
pub(crate) fn run(args: &ExplainArgs) -> Result<u8> {
    if is_code(&args.what) { code(args) } else { strategy(args) }
}

fn is_code(what: &str) -> bool {
    what.len() == 5 && what.starts_with(['E', 'W', 'e', 'w']) && what[1..].bytes().all(|b| b.is_ascii_digit())
}

fn code(args: &ExplainArgs) -> Result<u8> {
    let Some(entry) = dsl::codes::explain(&args.what) else {
        bail!("no code {}: codes are printed in brackets after `error` or `warning`", args.what);
    };
    match args.format {
        Format::Json => print_json(json!({ "code": entry.code.0, "title": entry.title, "text": entry.text })),
        Format::Text => print(&format!("{}: {}\n\n{}\n", entry.code.0, entry.title, entry.text)),
    }
    Ok(OK)
}

/// A row of what-if: another target or another number of samples.
struct WhatIf {
    name: String,
    outcome: Result<Plan, String>,
}

fn strategy(args: &ExplainArgs) -> Result<u8> {
    let (path, name) = inputs::split(&args.what);
    let Some((_, lowered)) = super::lowered(&path, name.as_deref())? else { return Ok(FAILED) };
    let manifest = manifest::load(&path, args.binding.manifest.as_deref())?;
    let assumptions = args.binding.assumptions();
    let machine = args.binding.machine_for(args.binding.target.first().cloned(), Some(&manifest), false)?;
    let prepared = Prepared::new(lowered, &manifest, &args.binding.models, &args.binding.set)?;
    let plan = prepared.plan(&machine, assumptions)?;
    let mut others = Vec::new();
    for n in [1_u32, 8, 32] {
        let Some(param) = prepared.strategy.params.iter().find(|p| p.name == "n") else { break };
        if param.range.is_some_and(|(lo, hi)| !(lo..=hi).contains(&f64::from(n))) {
            continue;
        }
        let mut options = machine.planner(assumptions, prepared.values.clone());
        options.values.insert("n".to_owned(), f64::from(n));
        let outcome = optimizer::optimize(&prepared.strategy, &prepared.models, &machine.target, &options);
        others.push(WhatIf { name: format!("n={n}"), outcome: outcome.map_err(|e| e.to_string()) });
    }
    let mut targets: Vec<String> = args.binding.target.iter().skip(1).cloned().collect();
    if targets.is_empty() {
        targets = ["b200", "h200", "h100", "a100", "l4"].map(str::to_owned).to_vec();
    }
    for name in targets {
        let target = inputs::target(&name, Some(&manifest))?;
        let options =
            optimizer::Options { threads: target.threads, ..machine.planner(assumptions, prepared.values.clone()) };
        let outcome = optimizer::optimize(&prepared.strategy, &prepared.models, &target, &options);
        others.push(WhatIf { name, outcome: outcome.map_err(|e| e.to_string()) });
    }
    match args.format {
        Format::Json => print_json(document(&plan, &others)?),
        Format::Text => print(&text(&plan, &others)),
    }
    Ok(OK)
}

/// The class of a model's matrices, and from how many rows on they go through tiles, where they do.
fn arithmetic(schedule: &ModelSchedule) -> String {
    let class = schedule.numerics.name();
    match schedule.tile_from {
        0 => class.to_owned(),
        from => format!("{class}, tiles from {from} rows"),
    }
}

#[allow(clippy::cast_precision_loss, reason = "sizes for people")]
fn text(plan: &Plan, others: &[WhatIf]) -> String {
    let s = &plan.strategy;
    let b = &s.bounds;
    let mut out = String::new();
    let params: Vec<String> = s.params.iter().map(|p| p.name.clone()).collect();
    let _ = writeln!(
        out,
        "strategy {}({}) on {} (profile {})",
        s.name,
        params.join(", "),
        plan.target,
        &plan.target_hash[..8]
    );
    let per_token = plan.models.iter().flatten().map(|m| m.model.kv_bytes_per_token()).max().unwrap_or(0);
    let kv = bytes((b.kv_tokens.saturating_add(plan.assumptions.prompt_tokens)).saturating_mul(per_token) as f64);
    let _ = writeln!(
        out,
        "proved     tokens ≤ {} · calls ≤ {} · live ≤ {} · KV ≤ {kv} with a prompt of {} tokens",
        grouped(b.tokens),
        grouped(b.calls),
        b.live,
        plan.assumptions.prompt_tokens
    );
    let limit = s.within.time.map_or(String::new(), |t| {
        let verdict = if plan.cost.seconds > t { "exceeds" } else { "within" };
        format!(" ({verdict} the limit of {})", seconds(t))
    });
    let _ = writeln!(out, "estimated  {}{limit}", plan.cost);
    for m in plan.models.iter().flatten() {
        let sc = &m.schedule;
        let _ = writeln!(
            out,
            "model      {} = {} · weights {} · arithmetic {} · KV {} · attention {} · {} threads",
            m.role,
            m.model.name,
            bytes(m.weight_bytes as f64),
            arithmetic(sc),
            sc.kv.name(),
            sc.attention,
            sc.threads
        );
    }
    let _ = writeln!(out, "\n{:<34} {:>10} {:>10} {:>10}   bound by", "op", "est. time", "tokens", "KV peak");
    for o in &plan.operators {
        let name = format!("{}{}", "  ".repeat(o.depth as usize), o.name);
        let number = |x: f64| if x > 0.0 { three(x) } else { "—".to_owned() };
        let kv = if o.cost.kv_bytes > 0.0 { bytes(o.cost.kv_bytes) } else { "—".to_owned() };
        let _ = writeln!(
            out,
            "{name:<34} {:>10} {:>10} {kv:>10}   {}",
            seconds(o.cost.seconds),
            number(o.cost.tokens),
            o.bound_by
        );
    }
    let _ = writeln!(out, "\nchoices");
    for d in &plan.decisions {
        let _ = writeln!(out, "  {}: {} ({}) — {}", d.topic, d.chosen, seconds(d.cost.seconds), d.reason);
        for (name, cost) in &d.runners_up {
            let _ = writeln!(out, "      instead of {name} ({})", seconds(cost.seconds));
        }
    }
    let _ = writeln!(out, "\nwhat-if");
    for w in others {
        let text = match &w.outcome {
            Ok(p) => {
                let over = s.within.time.is_some_and(|t| p.cost.seconds > t);
                format!("{}{}", seconds(p.cost.seconds), if over { "   exceeds the time limit" } else { "" })
            }
            Err(why) => why.clone(),
        };
        let _ = writeln!(out, "  {:<10} {text}", w.name);
    }
    out
}

fn document(plan: &Plan, others: &[WhatIf]) -> Result<Value> {
    let plan_json = |p: &Plan| report::cost(&p.cost);
    Ok(json!({
        "strategy": plan.strategy.name,
        "target": plan.target,
        "target_hash": plan.target_hash,
        "bounds": plan.strategy.bounds,
        "declared": plan.strategy.within,
        "estimated": plan_json(plan),
        "assumptions": plan.assumptions,
        "numerics": report::numerics(plan),
        "operators": serde_json::to_value(&plan.operators).context("operators are plain data")?,
        "decisions": serde_json::to_value(&plan.decisions).context("decisions are plain data")?,
        "sites": serde_json::to_value(&plan.sites).context("site plans are plain data")?,
        "what_if": others.iter().map(|w| match &w.outcome {
            Ok(p) => json!({ "name": w.name, "estimated": plan_json(p) }),
            Err(why) => json!({ "name": w.name, "error": why }),
        }).collect::<Vec<_>>(),
    }))
}
