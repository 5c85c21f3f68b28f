//! `inferc run`: one request on a strategy or on a compiled plan.

use super::interrupt::Interrupt;
use super::{FAILED, OK, print, print_json, say};
use crate::args::{Format, RunArgs};
use anyhow::{Context as _, Result, bail};
use indicatif::{ProgressBar, ProgressStyle};
use inferc::engine::{Ready, Shelf};
use inferc::inputs;
use inferc::machine::Machine;
use inferc::render::Sources;
use inferc::{artifact, manifest, report};
use ir::artifact::Artifact;
use ir::strategy::Binding;
use runtime::exec::{Event, Failure, Options, RunError, Watch};
use std::io::{IsTerminal as _, Write as _};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

/// Everything a run needs, whether it came from a source or from a plan file.
struct Request {
    artifact: Artifact,
    verifiers: Vec<(String, Binding)>,
    /// Tunables that a plan file is run with in place of its own.
    tuned: Vec<(String, String)>,
    machine: Machine,
    sources: Sources,
    shelf: Shelf,
}

/// Runs the command.
pub(crate) fn run(args: &RunArgs) -> Result<u8> {
    let words = parameters(&args.parameters)?;
    let bar = progress();
    let (path, name) = inputs::split(&args.source);
    let request = if artifact::is_plan(&path) {
        from_plan(args, &path)?
    } else {
        from_source(args, &path, name.as_deref(), &bar)?
    };
    let Some(request) = request else { return Ok(FAILED) };
    let interrupt = Interrupt::watch()?;
    let cancel = interrupt.cancel();
    let Request { artifact, verifiers, tuned, machine, sources, mut shelf } = request;
    let target = machine.target;
    let mut ready = shelf.load(artifact, &verifiers, &tuned, cancel, &mut |line| bar.set_message(line.to_owned()))?;
    let values = match ready.engine.arguments(&words) {
        Ok(values) => values,
        Err(e) => bail!("{e}; parameters follow `--`, as in: inferc run FILE -- --q \"text\""),
    };
    let options = Options { usd_per_second: target.usd_per_hour / 3600.0, ..Options::default() };
    let trace = args.trace.as_deref().map(Trace::create).transpose()?;
    let shown = Shown::new(&bar, ready.engine.plan().strategy.bounds.tokens);
    let events = |event: &Event<'_>| {
        shown.event(event);
        if let Some(trace) = &trace {
            trace.write(event);
        }
    };
    let outcome = ready.session.run(values, args.seed, &options, Watch { events: &events, cancel });
    bar.finish_and_clear();
    let code = finish(args, &ready, &target, outcome, &sources)?;
    // The result is out; a trace that is not whole is still no success.
    match trace.map(Trace::finish) {
        Some(Err(cause)) => {
            say(&format!("error: {cause}"));
            Ok(code.max(FAILED))
        }
        _ => Ok(code),
    }
}

/// A file of events, a line of JSON each.
struct Trace {
    path: PathBuf,
    /// The file, until writing to it fails; then why.
    file: Mutex<Result<std::io::BufWriter<std::fs::File>, std::io::Error>>,
}

impl Trace {
    fn create(path: &Path) -> Result<Self> {
        let file = std::fs::File::create(path).with_context(|| format!("cannot write {}", path.display()))?;
        Ok(Self { path: path.to_owned(), file: Mutex::new(Ok(std::io::BufWriter::new(file))) })
    }

    /// Adds an event; after a failure nothing more is written.
    fn write(&self, event: &Event<'_>) {
        let mut file = self.file.lock().unwrap_or_else(PoisonError::into_inner);
        let failed = file.as_mut().ok().and_then(|f| writeln!(f, "{}", event_json(event)).err());
        if let Some(cause) = failed {
            *file = Err(cause);
        }
    }

    /// Writes what is left; the first failure, if there was one.
    fn finish(self) -> Result<()> {
        let file = self.file.into_inner().unwrap_or_else(PoisonError::into_inner);
        file.and_then(|mut f| f.flush()).map_err(|cause| {
            let path = self.path.display();
            anyhow::anyhow!("the trace {path} is not whole: {cause}; make room or name another file with --trace")
        })
    }
}

fn finish(
    args: &RunArgs,
    ready: &Ready,
    target: &ir::target::Target,
    outcome: Result<runtime::session::Outcome, Failure>,
    sources: &Sources,
) -> Result<u8> {
    let plan = ready.engine.plan();
    match (outcome, args.format) {
        (Ok(outcome), Format::Json) => print_json(report::json(plan, target, args.seed, &outcome)),
        (Ok(outcome), Format::Text) => {
            print(&format!("{}\n", outcome.text));
            say(report::text(plan, target, args.seed, &outcome).trim_end());
        }
        (Err(failure), Format::Json) => {
            let place = place(&failure, sources);
            print_json(serde_json::json!({
                "strategy": plan.strategy.name, "seed": args.seed, "error": failure.to_string(),
                "at": place.map(|(_, line, column)| serde_json::json!({ "line": line, "column": column })),
            }));
            return Ok(code(&failure.cause));
        }
        (Err(failure), Format::Text) => {
            let place = place(&failure, sources).map(|(name, line, column)| format!("{name}:{line}:{column}: "));
            say(&format!("error: {}{failure}", place.unwrap_or_default()));
            return Ok(code(&failure.cause));
        }
    }
    Ok(OK)
}

/// Where a run failed, as file, line and column: nowhere where no place is known, or where a plan has no source beside it.
fn place<'a>(failure: &Failure, sources: &'a Sources) -> Option<(&'a str, usize, usize)> {
    let (name, _) = sources.0.first().filter(|_| failure.at != (0, 0))?;
    let (line, column) = sources.position(0, failure.at.0);
    Some((name, line, column))
}

/// The exit code of a failed run, in every format: arguments are usage, everything else is the run's.
fn code(cause: &RunError) -> u8 {
    if matches!(cause, RunError::Argument(_)) { super::USAGE } else { FAILED }
}

fn from_plan(args: &RunArgs, path: &std::path::Path) -> Result<Option<Request>> {
    if let Some(option) = args.binding.of_compilation() {
        bail!(
            "{option} works with a source file only: {} has it decided; compile its source anew with {option}",
            path.display()
        );
    }
    let bytes = artifact::read(path)?;
    let artifact = artifact::decode(path, &bytes)?;
    let files = artifact::fits(&artifact).with_context(|| format!("{} does not run here", path.display()))?;
    let manifest = manifest::load(path, args.binding.manifest.as_deref())?;
    let machine = args.binding.machine(Some(&manifest), false)?;
    let mut verifiers = Vec::new();
    for role in artifact.plan.strategy.roles.iter().filter(|r| r.kind != ir::strategy::RoleKind::Generator) {
        let bound = inputs::bind(std::slice::from_ref(role), &manifest, &[])?;
        verifiers.extend(bound.into_iter().map(|b| (role.name.clone(), b)));
    }
    let tuned = inputs::settings(&args.binding.set)?.into_iter().collect();
    let (sources, shelf) = (Sources::default(), Shelf::opened(files));
    Ok(Some(Request { artifact, verifiers, tuned, machine, sources, shelf }))
}

fn from_source(
    args: &RunArgs,
    path: &std::path::Path,
    name: Option<&str>,
    bar: &ProgressBar,
) -> Result<Option<Request>> {
    let Some((checked, machine, prepared)) = super::runnable(path, name, &args.binding, !args.no_cache)? else {
        return Ok(None);
    };
    bar.set_message(format!("compile {}", prepared.strategy.name));
    let artifact = prepared.artifact(&machine, args.binding.assumptions(), &checked)?;
    let (verifiers, tuned) = (prepared.verifiers, Vec::new());
    let (sources, shelf) = (checked.sources, Shelf::default());
    Ok(Some(Request { artifact, verifiers, tuned, machine, sources, shelf }))
}

/// `--q text --n=8` as pairs.
pub(crate) fn parameters(words: &[String]) -> Result<Vec<(String, String)>> {
    let mut out = Vec::new();
    let mut words = words.iter();
    while let Some(word) = words.next() {
        let Some(name) = word.strip_prefix("--") else {
            bail!("parameter `{word}`: expected --NAME VALUE after `--`");
        };
        match name.split_once('=') {
            Some((name, value)) => out.push((name.to_owned(), value.to_owned())),
            None => {
                let value = words.next().with_context(|| format!("parameter --{name} has no value"))?;
                out.push((name.to_owned(), value.clone()));
            }
        }
    }
    Ok(out)
}

/// A line on standard error that changes while work goes on; nothing when it is no terminal.
fn progress() -> ProgressBar {
    if !std::io::stderr().is_terminal() {
        return ProgressBar::hidden();
    }
    let bar = ProgressBar::new_spinner();
    if let Ok(style) = ProgressStyle::with_template("{spinner} {elapsed} {msg}") {
        bar.set_style(style);
    }
    bar.enable_steady_tick(std::time::Duration::from_millis(120));
    bar
}

/// What the progress line shows of a run.
struct Shown<'a> {
    bar: &'a ProgressBar,
    most: u64,
    state: Mutex<(u64, std::time::Instant)>,
}

impl<'a> Shown<'a> {
    fn new(bar: &'a ProgressBar, most: u64) -> Self {
        Self { bar, most, state: Mutex::new((0, std::time::Instant::now())) }
    }

    fn event(&self, event: &Event<'_>) {
        if self.bar.is_hidden() {
            return;
        }
        match event {
            Event::Token { live, .. } => {
                let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
                if state.0 == 0 {
                    state.1 = std::time::Instant::now();
                }
                state.0 += 1;
                #[allow(clippy::cast_precision_loss, reason = "token counts are far below 2^53")]
                let rate = state.0 as f64 / state.1.elapsed().as_secs_f64().max(1e-3);
                self.bar.set_message(format!("{live} live · {} of {} tokens · {rate:.0} tok/s", state.0, self.most));
            }
            Event::Prefilled { role, tokens, .. } => {
                self.bar.set_message(format!("prompt of {tokens} tokens on {role}"))
            }
            _ => {}
        }
    }
}

fn event_json(event: &Event<'_>) -> serde_json::Value {
    use serde_json::json;
    match event {
        Event::Started { strategy, seed } => json!({ "event": "started", "strategy": strategy, "seed": seed }),
        Event::Prefilled { site, role, tokens, reused, seconds } => {
            json!({ "event": "prefilled", "site": site, "role": role, "tokens": tokens, "reused": reused, "seconds": seconds })
        }
        Event::WaveStarted { site, wave, sequences } => {
            json!({ "event": "wave", "site": site, "wave": wave, "sequences": sequences })
        }
        Event::Token { site, seq, token, logprob, text, live } => {
            json!({ "event": "token", "site": site, "seq": seq, "token": token, "logprob": logprob, "text": text, "live": live })
        }
        Event::Branched { site, parent, child, position } => {
            json!({ "event": "branched", "site": site, "parent": parent, "child": child, "position": position })
        }
        Event::RuleFired { site, rule, seq, position } => {
            json!({ "event": "rule", "site": site, "rule": rule, "seq": seq, "position": position })
        }
        Event::SequenceEnded { site, seq, reason, tokens } => {
            json!({ "event": "ended", "site": site, "seq": seq, "reason": reason.name(), "tokens": tokens })
        }
        Event::Scored { site, score, inconclusive, seconds } => {
            json!({ "event": "scored", "site": site, "score": score, "inconclusive": inconclusive, "seconds": seconds })
        }
        Event::Routed { arm, probability } => json!({ "event": "routed", "arm": arm, "probability": probability }),
        Event::BudgetTripped { limit } => json!({ "event": "budget", "limit": limit }),
        Event::Done { seconds, tokens } => json!({ "event": "done", "seconds": seconds, "tokens": tokens }),
        other => json!({ "event": format!("{other:?}") }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_failure_has_a_place_where_one_is_known() {
        let sources = Sources(vec![("a.infer".to_owned(), "model\nbase".to_owned())]);
        let nowhere = Failure::from(RunError::Cancelled);
        let at = Failure { at: (8, 10), ..Failure::from(RunError::Cancelled) };
        assert_eq!(place(&nowhere, &sources), None);
        assert_eq!(place(&at, &sources), Some(("a.infer", 2, 3)));
        assert_eq!(place(&at, &Sources::default()), None, "a plan has no source beside it");
    }

    #[test]
    fn arguments_are_usage_and_failures_are_not() {
        let (place, expected, found) = ("n".to_owned(), "a value from 1 to 8".to_owned(), "9".to_owned());
        assert_eq!(code(&runtime::value::ValueError { place, expected, found }.into()), crate::command::USAGE);
        for cause in [RunError::Failed("no".to_owned()), RunError::Cancelled, RunError::Operation("x".to_owned())] {
            assert_eq!(code(&cause), FAILED, "{cause}");
        }
    }
}
