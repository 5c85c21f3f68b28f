//! `inferc bench --plans N`: what the planner's choice is worth. Runs the chosen plan and plans beside it on one input.
//!
//! All plans of a strategy give the same answer, so a plan that answers otherwise is a fault and ends the command. Rounds
//! are interleaved; the fastest plans and the chosen one meet again in more rounds, because the best of many noisy
//! medians is too good. Regret is time(chosen) / time(best).

use super::run::{cancel_on_interrupt, parameters};
use super::{FAILED, OK, print, print_json, say};
use crate::args::{BenchArgs, Format};
use anyhow::{Context as _, Result, bail};
use inferc::prepare::Prepared;
use inferc::{engine, inputs};
use ir::artifact::Artifact;
use ir::plan_text::seconds;
use runtime::exec::{Event, Options, Watch};
use serde_json::json;
use std::io::IsTerminal as _;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Instant;

/// Plans that meet the chosen one again.
const FINALISTS: usize = 4;

/// A plan and its times.
struct Entry {
    name: String,
    artifact: Artifact,
    seconds: Vec<f64>,
}

impl Entry {
    fn median(&self) -> f64 {
        let mut sorted = self.seconds.clone();
        sorted.sort_by(f64::total_cmp);
        sorted.get(sorted.len() / 2).copied().unwrap_or(f64::INFINITY)
    }
}

/// Runs the command.
pub(crate) fn run(args: &BenchArgs, most: usize) -> Result<u8> {
    let source = args.source.as_deref().context("name a strategy: FILE[::STRATEGY]")?;
    let words = parameters(&args.parameters)?;
    let (path, name) = inputs::split(source);
    let Some((checked, machine, prepared)) = super::runnable(&path, name.as_deref(), &args.binding, true)? else {
        return Ok(FAILED);
    };
    let chosen = prepared.plan(&machine, args.binding.assumptions())?;
    let others = optimizer::neighbours(&chosen, &prepared.values, machine.threads, most);
    let mut entries = Vec::new();
    for (name, plan) in std::iter::once(("chosen".to_owned(), chosen)).chain(others) {
        let artifact = prepared.generate(plan, &machine, &checked).with_context(|| format!("plan \"{name}\""))?;
        entries.push(Entry { name, artifact, seconds: Vec::new() });
    }
    let cancel = cancel_on_interrupt()?;
    let mut answer = None;
    let rounds = args.repeat.max(1);
    let finalists = entries.len().min(1 + FINALISTS);
    let mut meeting = entries.len();
    for round in 0..rounds.saturating_mul(3) {
        if round == rounds {
            entries[1..].sort_by(|a, b| a.median().total_cmp(&b.median()));
            meeting = finalists;
        }
        for entry in &mut entries[..meeting] {
            measure(args, &prepared, &words, entry, &mut answer, &cancel)?;
            if cancel.load(Ordering::SeqCst) {
                say("cancelled");
                return Ok(FAILED);
            }
            progress(round, entry);
        }
    }
    show(args, &entries, finalists);
    Ok(OK)
}

fn progress(round: u32, entry: &Entry) {
    if std::io::stderr().is_terminal() {
        say(&format!("round {} · {} · {}", round + 1, entry.name, seconds(entry.median())));
    }
}

/// Loads a plan, runs it once and notes the seconds of the run; the answer must be that of the other plans.
fn measure(
    args: &BenchArgs,
    prepared: &Prepared,
    words: &[(String, String)],
    entry: &mut Entry,
    answer: &mut Option<String>,
    cancel: &Arc<AtomicBool>,
) -> Result<()> {
    let artifact = entry.artifact.clone();
    let mut ready = engine::load(artifact, &prepared.verifiers, &prepared.tuned, cancel, &mut |_| {})?;
    let watch = || Watch { events: &|_: &Event<'_>| {}, cancel };
    let values = |ready: &engine::Ready| {
        ready.engine.arguments(words).map_err(|e| anyhow::anyhow!("{e}; parameters follow `--`"))
    };
    // The first run touches memory for the first time; it is not what a plan costs.
    let mut last = 0.0;
    for _ in 0..2 {
        let values = values(&ready)?;
        let start = Instant::now();
        let outcome = ready.session.run(values, args.seed, &Options::default(), watch());
        last = start.elapsed().as_secs_f64();
        if cancel.load(Ordering::SeqCst) {
            return Ok(());
        }
        let text = outcome.map_err(|f| anyhow::anyhow!("plan \"{}\": {f}", entry.name))?.text;
        match answer {
            None => *answer = Some(text),
            Some(known) if *known != text => {
                bail!("plan \"{}\" answers {text:?} where the others answer {known:?}: this is a fault", entry.name)
            }
            Some(_) => {}
        }
    }
    entry.seconds.push(last);
    Ok(())
}

fn show(args: &BenchArgs, entries: &[Entry], finalists: usize) {
    let chosen = entries[0].median();
    let best = entries[..finalists].iter().map(Entry::median).fold(f64::INFINITY, f64::min);
    let regret = chosen / best;
    match args.format {
        Format::Json => print_json(json!({
            "strategy": args.source, "plans": entries.len(), "regret": regret, "chosen_seconds": chosen, "best_seconds": best,
            "rows": entries.iter().map(|e| json!({
                "plan": e.name, "seconds": e.median(), "rounds": e.seconds.len(),
            })).collect::<Vec<_>>(),
        })),
        Format::Text => {
            for e in entries {
                print(&format!(
                    "{:<60} {:>9}  {:>5.2} of the chosen  ({} rounds)\n",
                    e.name,
                    seconds(e.median()),
                    e.median() / chosen,
                    e.seconds.len()
                ));
            }
            print(&format!("{} plans, the same answer by all; regret {regret:.3}\n", entries.len()));
        }
    }
}
