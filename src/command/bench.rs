//! `inferc bench`: a strategy on data, with accuracy and predicted beside measured cost; or the kernels of a model; or the
//! machine's roofs.

use super::{FAILED, OK, print, print_json, say};
use crate::args::{BenchArgs, Format};
use anyhow::{Context as _, Result, bail};
use inferc::engine::Shelf;
use inferc::measure::{self, Case, Measured};
use inferc::{grade, inputs, report, roofs};
use ir::plan::{Plan, PrefixMode};
use ir::plan_text::{seconds, three};
use ir::schedule::ModelSchedule;
use ir::strategy::Ty;
use runtime::exec::{Event, Options, RunError, Watch};
use runtime::forward::KernelTime;
use runtime::metrics::Metrics;
use runtime::value::Usage;
use serde_json::{Map, Value, json};
use std::io::IsTerminal as _;
use std::path::{Path, PathBuf};

/// Runs the command.
pub(crate) fn run(args: &BenchArgs) -> Result<u8> {
    match args.plans {
        Some(most) => super::plans::run(args, most),
        None if args.kernels => kernels(args),
        None if args.roofs => machine_roofs(args),
        None => strategy(args),
    }
}

/// What all tasks came to.
#[derive(Default)]
struct Tally {
    tasks: usize,
    graded: usize,
    right: usize,
    failed: usize,
    /// Runs that ended for another reason than the strategy's own.
    broken: usize,
    usage: Usage,
    metrics: Vec<Metrics>,
    latencies: Vec<f64>,
    /// A row for each task, in order.
    results: Vec<Value>,
}

/// Runs a strategy on every task of a file.
fn strategy(args: &BenchArgs) -> Result<u8> {
    let source = args.source.as_deref().context("name a strategy: FILE[::STRATEGY]")?;
    let data = args.data.as_deref().context("name the tasks with --data FILE")?;
    let tasks = tasks(data, args.limit)?;
    let (path, name) = inputs::split(source);
    let Some((checked, machine, prepared)) = super::runnable(&path, name.as_deref(), &args.binding, true)? else {
        return Ok(FAILED);
    };
    let artifact = prepared.artifact(&machine, args.binding.assumptions(), &checked)?;
    let interrupt = super::interrupt::Interrupt::watch()?;
    let cancel = interrupt.cancel();
    let mut ready = Shelf::default().load(artifact, &prepared.verifiers, &[], cancel, &mut |_| {})?;
    let loud = std::io::stderr().is_terminal();
    let mut tally = Tally::default();
    for (line, task) in &tasks {
        let object = task_arguments(task, ready.engine.plan(), &args.binding.set)
            .with_context(|| format!("{}:{line}", data.display()))?;
        let values =
            ready.engine.arguments_json(&object).map_err(|e| anyhow::anyhow!("{}:{line}: {e}", data.display()))?;
        let watch = Watch { events: &|_: &Event<'_>| {}, cancel };
        let seed = args.seed.wrapping_add(*line as u64);
        let start = std::time::Instant::now();
        let outcome = ready.session.run(values, seed, &Options::default(), watch);
        tally.latencies.push(start.elapsed().as_secs_f64());
        tally.tasks += 1;
        if interrupt.asked() {
            say("cancelled");
            return Ok(FAILED);
        }
        let gradable = task.get("answer").is_some();
        let before = tally.right;
        let (mut tokens, mut error) = (None, None);
        match outcome {
            Ok(outcome) => {
                tokens = Some(outcome.usage.tokens);
                if gradable {
                    tally.graded += 1;
                    let answer = outcome.value.to_json();
                    let answer = answer_text(&answer).unwrap_or_else(|| outcome.text.clone());
                    tally.right +=
                        usize::from(grade::grade(task, &answer).with_context(|| format!("{}:{line}", data.display()))?);
                }
                tally.usage.add(&outcome.usage);
                tally.metrics.push(outcome.metrics);
            }
            Err(failure) => {
                tally.failed += 1;
                tally.graded += usize::from(gradable);
                tally.broken += usize::from(!withheld(&failure.cause));
                if loud || !withheld(&failure.cause) {
                    say(&format!("{}:{line}: {failure}", data.display()));
                }
                error = Some(failure.to_string());
            }
        }
        tally.results.push(json!({
            "id": task.get("id").cloned().unwrap_or_else(|| json!(line)), "category": task.get("category"),
            "right": gradable.then_some(tally.right > before), "tokens": tokens,
            "seconds": tally.latencies.last(), "error": error,
        }));
        if loud {
            say(&format!("{} of {} tasks, {} right", tally.tasks, tasks.len(), tally.right));
        }
    }
    show(args, ready.engine.plan(), &machine.target, &tally);
    if tally.broken > 0 {
        say(&format!("{} of {} runs could not be done; they count as wrong", tally.broken, tally.tasks));
    }
    Ok(if tally.broken > 0 { FAILED } else { OK })
}

/// Whether a strategy withheld its answer, which counts as wrong: by `fail`, for want of budget, or because no sequence
/// came to an end. Everything else is no answer of the strategy.
fn withheld(failure: &RunError) -> bool {
    matches!(failure, RunError::Failed(_) | RunError::Budget { .. } | RunError::AllFailed { .. })
}

/// The answer in a value: a vote's or sample's `.value` where there is one.
fn answer_text(value: &Value) -> Option<String> {
    match value {
        Value::String(s) => Some(s.clone()),
        Value::Number(n) => Some(n.to_string()),
        Value::Object(fields) => {
            fields.get("value").and_then(answer_text).or_else(|| fields.get("text").and_then(answer_text))
        }
        _ => None,
    }
}

/// Lines of a JSON-lines file with their numbers.
pub(super) fn tasks(path: &Path, limit: Option<usize>) -> Result<Vec<(usize, Value)>> {
    let text = inputs::source_text(path)?;
    let lines = text.lines().enumerate().filter(|(_, l)| !l.trim().is_empty()).take(limit.unwrap_or(usize::MAX));
    lines
        .map(|(i, line)| {
            let task: Value = serde_json::from_str(line)
                .with_context(|| format!("{}:{}: not a JSON object", path.display(), i + 1))?;
            if task.is_object() { Ok((i + 1, task)) } else { bail!("{}:{}: not a JSON object", path.display(), i + 1) }
        })
        .collect()
}

/// The strategy's parameters in a task: by name; `question` stands for the first text parameter when that name is not
/// there. Other fields of the task (`id`, `answer`, `verifier`, …) are not arguments.
pub(super) fn task_arguments(task: &Value, plan: &Plan, settings: &[String]) -> Result<Map<String, Value>> {
    let mut out = Map::new();
    let mut question = task.get("question").cloned();
    for param in &plan.strategy.params {
        if let Some(value) = task.get(&param.name) {
            out.insert(param.name.clone(), value.clone());
        } else if param.ty == Ty::Text
            && let Some(value) = question.take()
        {
            out.insert(param.name.clone(), value);
        }
    }
    for (name, value) in inputs::settings(settings)? {
        if plan.strategy.params.iter().any(|p| p.name == name) {
            out.insert(name.clone(), serde_json::from_str(&value).unwrap_or(Value::String(value)));
        }
    }
    Ok(out)
}

#[allow(clippy::cast_precision_loss, reason = "counts of tasks and tokens")]
fn show(args: &BenchArgs, plan: &Plan, target: &ir::target::Target, tally: &Tally) {
    let mut sorted = tally.latencies.clone();
    sorted.sort_by(f64::total_cmp);
    let at = |q: f64| sorted.get(((sorted.len() as f64 - 1.0) * q).round().max(0.0) as usize).copied().unwrap_or(0.0);
    let sum: f64 = sorted.iter().sum();
    let n = tally.tasks.max(1) as f64;
    let accuracy = tally.right as f64 / tally.graded.max(1) as f64;
    let (lo, hi) = grade::wilson(tally.right, tally.graded);
    let rows = report::rows(plan, target, &report::sum(&tally.metrics));
    let (predicted, measured) = rows.iter().fold((0.0, 0.0), |(p, m), r| (p + r.predicted, m + r.measured));
    if args.format == Format::Json {
        print_json(json!({
            "strategy": plan.strategy.name, "tasks": tally.tasks, "graded": tally.graded, "right": tally.right,
            "failed": tally.failed, "accuracy": accuracy, "accuracy_low": lo, "accuracy_high": hi,
            "tokens_per_task": tally.usage.tokens as f64 / n, "seconds_per_task": sum / n,
            "latency": { "p50": at(0.5), "p95": at(0.95), "max": at(1.0) },
            "predicted_seconds": predicted, "measured_seconds": measured,
            "predicted_before": report::cost(&plan.cost), "results": tally.results,
            "operators": rows.iter().map(|r| json!({
                "name": r.name, "site": r.site, "tokens": r.tokens, "predicted_seconds": r.predicted,
                "measured_seconds": r.measured, "off": r.is_off(),
            })).collect::<Vec<_>>(),
        }));
        return;
    }
    let mut out = format!("{}: {} tasks", plan.strategy.name, tally.tasks);
    if tally.graded > 0 {
        out.push_str(&format!(" · accuracy {accuracy:.3} [{lo:.3}, {hi:.3}] ({} of {})", tally.right, tally.graded));
    }
    out.push_str(&format!(
        " · {} failed\n{} tokens and {} per task · p50 {} · p95 {}\npredicted {} beside measured {} for the same tokens\n",
        tally.failed,
        three(tally.usage.tokens as f64 / n),
        seconds(sum / n),
        seconds(at(0.5)),
        seconds(at(0.95)),
        seconds(predicted),
        seconds(measured),
    ));
    if args.analyze {
        out.push_str(&format!("{:<28} {:>10} {:>12} {:>12}\n", "operator", "tokens", "predicted", "measured"));
        for r in &rows {
            let flag = if r.is_off() { "  off by more than 2×" } else { "" };
            out.push_str(&format!(
                "{:<28} {:>10} {:>12} {:>12}{flag}\n",
                r.name,
                r.tokens,
                seconds(r.predicted),
                seconds(r.measured)
            ));
        }
    }
    print(&out);
}

/// One case, its prompt read in one way.
struct Row {
    case: String,
    mode: PrefixMode,
    best: Measured,
    median: Measured,
    profile: Option<(Measured, Vec<KernelTime>)>,
    schedule: ModelSchedule,
    weight_bytes: u64,
}

/// Measures cases on one model, each with the planner's choices for it; the fastest of the repetitions counts, the median
/// is printed beside it.
fn kernels(args: &BenchArgs) -> Result<u8> {
    let [file] = &args.binding.models[..] else { bail!("--kernels measures one model: --model FILE") };
    if let Some(option) = args.binding.of_texts() {
        bail!("{option} says what a strategy's texts are like; with --kernels the cases say it");
    }
    let path = PathBuf::from(file);
    let machine = args.binding.machine(None, true)?;
    machine.runs_here()?;
    let cases: Vec<(String, Case)> = match &args.cases[..] {
        [] => ["decode:depth=0", "decode:depth=2048", "branches:n=8,prompt=512,gen=64", "prefill:n=512"]
            .map(str::to_owned)
            .to_vec(),
        given => given.to_vec(),
    }
    .into_iter()
    .map(|text| Ok((text.clone(), Case::parse(&text)?)))
    .collect::<Result<_>>()?;
    let mut bench = measure::Bench::open(&path, machine)?;
    let repeat = args.repeat.max(1);
    let mut rows = Vec::new();
    for (name, case) in &cases {
        let (model, plan) = bench.planned(*case)?;
        let modes: &[PrefixMode] =
            if case.shares_prompt() { &[PrefixMode::Shared, PrefixMode::Cascade] } else { &[PrefixMode::Shared] };
        for mode in modes {
            let mut ready = measure::prepare(model, *case, *mode)?;
            ready.once(model)?;
            let mut runs: Vec<Measured> = (0..repeat).map(|_| ready.once(model)).collect::<Result<_>>()?;
            let profiled = if args.profile { repeat } else { 0 };
            let mut profiles =
                (0..profiled).map(|_| ready.profile(model)).collect::<Result<Vec<(Measured, Vec<KernelTime>)>>>()?;
            ready.free(model);
            runs.sort_by(|a, b| a.seconds.total_cmp(&b.seconds));
            profiles.sort_by(|a, b| a.0.seconds.total_cmp(&b.0.seconds));
            rows.push(Row {
                case: name.clone(),
                mode: *mode,
                best: *runs.first().context("at least one run")?,
                median: runs[runs.len() / 2],
                profile: profiles.into_iter().nth(repeat as usize / 2),
                schedule: plan.schedule,
                weight_bytes: plan.weight_bytes,
            });
        }
    }
    #[allow(clippy::cast_precision_loss, reason = "token counts of a measurement are small")]
    let rate = |m: &Measured| m.tokens as f64 / m.seconds;
    match args.format {
        Format::Json => {
            for Row { case, mode, best, median, profile, schedule, weight_bytes } in &rows {
                let mut row = json!({
                    "format_version": super::FORMAT_VERSION, "case": case, "prefix": mode.to_string(),
                    "tokens_per_second": rate(best), "median_tokens_per_second": rate(median), "seconds": best.seconds,
                    "tokens": best.tokens, "rows": best.tokens / best.steps.max(1), "threads": schedule.threads,
                    "weight_bytes": weight_bytes, "prologues": schedule.prologue.name(),
                    "row_block": schedule.row_block, "round_trip_seconds": best.round_trips,
                });
                if let Some((run, kernels)) = profile {
                    row["kernels"] = kernels.iter().map(|k| kernel_json(run, k)).collect();
                    row["kernels_round_trip_seconds"] = json!(run.round_trips);
                }
                print(&format!("{row}\n"));
            }
        }
        Format::Text => {
            let mut head = None;
            for Row { case, mode, best, median, profile, schedule, weight_bytes } in &rows {
                if head.replace(*weight_bytes) != Some(*weight_bytes) {
                    let (file, megabytes) = (path.display(), *weight_bytes as f64 / 1e6);
                    print(&format!("{file} · {} threads · {megabytes:.1} MB of weights\n", schedule.threads));
                }
                let (best, median) = (rate(best), rate(median));
                let how = format!("{mode}, prologues {}", schedule.prologue.name());
                print(&format!("{case:<36} {how:<24} {best:>10.1} tok/s best {median:>10.1} median\n"));
                if let Some((run, kernels)) = profile {
                    print(&kernel_table(run, kernels));
                }
            }
        }
    }
    Ok(OK)
}

#[allow(clippy::cast_precision_loss, reason = "counts and bytes of a measurement")]
fn kernel_json(run: &Measured, k: &KernelTime) -> Value {
    let steps = run.steps.max(1) as f64;
    json!({
        "name": k.name, "launches_per_step": k.launches as f64 / steps, "seconds_per_step": k.seconds / steps,
        "weight_bytes_per_step": k.weight_bytes as f64 / steps,
    })
}

/// A line for each kernel: time and share of a step, and for those that read weights how fast, if they read them once.
#[allow(clippy::cast_precision_loss, reason = "counts and bytes of a measurement")]
fn kernel_table(run: &Measured, kernels: &[KernelTime]) -> String {
    let steps = run.steps.max(1) as f64;
    let sum: f64 = kernels.iter().map(|k| k.seconds).sum();
    let mut out = format!("  {:<34} {:>8} {:>10} {:>6} {:>11}\n", "kernel", "launches", "a step", "share", "weights");
    for k in kernels {
        let read = match k.weight_bytes {
            0 => "–".to_owned(),
            bytes => format!("{:.1} GB/s", bytes as f64 / k.seconds / 1e9),
        };
        out.push_str(&format!(
            "  {:<34} {:>8.1} {:>10} {:>4.0} % {read:>11}\n",
            k.name,
            k.launches as f64 / steps,
            seconds(k.seconds / steps),
            100.0 * k.seconds / sum,
        ));
    }
    let rest = (run.seconds - sum).max(0.0) / steps;
    out.push_str(&format!("  {:<34} {:>8} {:>10}\n", "between kernels", "", seconds(rest)));
    out
}

/// Bounds of the machine, on the threads and CPUs of this process.
fn machine_roofs(args: &BenchArgs) -> Result<u8> {
    let machine = args.binding.machine(None, true)?;
    machine.runs_here()?;
    let isa = machine.target.isa;
    let sets = roofs::Sets { bytes: &args.bytes, pieces: &args.pieces, queries: &args.queries };
    let found = roofs::measure(machine.threads, isa, machine.backend, machine.cache.as_ref(), sets)?;
    match args.format {
        Format::Json => print_json(json!({
            "threads": machine.threads, "isa": isa,
            "backend": machine.backend.name(),
            "read": found.read.iter().map(|r| json!({
                "bytes": r.bytes, "bytes_per_second": r.best, "median_bytes_per_second": r.median,
                "round_trip_seconds": r.round_trips,
            })).collect::<Vec<_>>(),
            "scattered": found.scattered.iter().map(|s| json!({
                "bytes": s.read.bytes, "piece": s.piece,
                "bytes_per_second": s.read.best, "median_bytes_per_second": s.read.median,
                "round_trip_seconds": s.read.round_trips,
            })).collect::<Vec<_>>(),
            "attended": found.attended.iter().map(|a| json!({
                "bytes": a.read.bytes, "kv": a.kv.name(), "queries": a.queries, "piece": a.piece,
                "bytes_per_second": a.read.best, "median_bytes_per_second": a.read.median,
                "round_trip_seconds": a.read.round_trips,
            })).collect::<Vec<_>>(),
            "int8_macs_per_second": found.int8_macs, "int8_scaled_macs_per_second": found.int8_scaled_macs,
            "int8_scaled_min_macs_per_second": found.int8_scaled_min_macs, "f32_macs_per_second": found.f32_macs,
            "bf16_macs_per_second": found.bf16_macs,
        })),
        Format::Text => {
            let mut out = format!("{} threads\n", machine.threads);
            let mut reading = |r: &roofs::Read, how: &str| {
                let (size, best, median) = (r.bytes as f64 / 1e6, r.best / 1e9, r.median / 1e9);
                let between = r.round_trips.map_or(String::new(), |[shortest, longest]| {
                    format!("; a line there and back {:.0} to {:.0} ns", 1e9 * shortest, 1e9 * longest)
                });
                out.push_str(&format!(
                    "reading {size:>8.1} MB {best:>10.1} GB/s best {median:>10.1} median{how}{between}\n"
                ));
            };
            for r in &found.read {
                reading(r, "");
            }
            for s in &found.scattered {
                reading(&s.read, &format!(", scattered pieces of {} bytes", s.piece));
            }
            for a in &found.attended {
                let pieces = a.piece.map_or(String::new(), |piece| format!(", scattered pieces of {piece} bytes"));
                let (kv, queries) = (a.kv.name(), a.queries);
                reading(&a.read, &format!(", {kv} with products for {queries} queries{pieces}"));
            }
            let rates = [
                ("int8 products", Some(found.int8_macs)),
                ("int8 products, scales", Some(found.int8_scaled_macs)),
                ("int8 products, scales and minima", Some(found.int8_scaled_min_macs)),
                ("f32 products", Some(found.f32_macs)),
                ("bf16 products, in no kernel", found.bf16_macs),
            ];
            for (what, rate) in rates.into_iter().filter_map(|(what, rate)| Some((what, rate?))) {
                out.push_str(&format!("{what:<34}{:>8.1} G/s\n", rate / 1e9));
            }
            print(&out);
        }
    }
    Ok(OK)
}
