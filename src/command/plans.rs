//! `inferc bench --plans N`: what the planner's choice is worth. Runs the chosen plan and plans beside it on one input, or on
//! the tasks of a file, whose times are added.
//!
//! All plans of a strategy end in the same way, with the same answer or the same `fail`, so a plan that ends otherwise is
//! a fault and ends the command; but for plans with other waves where a rule looks at the finished samples of a site, which
//! may end with other samples: such a plan may be faster by the luck of an input, and several tell more than one. A plan
//! beside the chosen one that memory is too small for does not fit, which is a result.
//!
//! Rounds are interleaved. In the first, a plan that takes much longer than the fastest so far is stopped. The fastest plans
//! and the chosen one meet again in more rounds, and only those decide, because the best of many noisy times is too good.
//! Regret is time(chosen) / time(best), the median of the rounds' ratios: what disturbs a round disturbs both times. Every
//! run computes its prompts anew; resident weights are shared by the plans that lay them out alike.

use super::interrupt::Interrupt;
use super::run::parameters;
use super::{FAILED, OK, bench, print, print_json, say};
use crate::args::{BenchArgs, Format};
use anyhow::{Context as _, Result, bail};
use inferc::engine::{Ready, Shelf};
use inferc::inputs;
use inferc::prepare::Prepared;
use ir::artifact::Artifact;
use ir::plan::Plan;
use ir::plan_text::seconds;
use optimizer::Neighbour;
use runtime::error::Error;
use runtime::exec::{Event, Options, RunError, Watch};
use runtime::session::Engine;
use runtime::value::Value;
use serde_json::{Map, json};
use std::io::IsTerminal as _;
use std::sync::Arc;
use std::sync::mpsc::{self, RecvTimeoutError};
use std::time::{Duration, Instant};

/// Plans that meet the chosen one again.
const FINALISTS: usize = 4;
/// Rounds of the finalists for each round of all: so many …
const FINAL_ROUNDS: u32 = 3;
/// … and more of short runs, but no more than these …
const MOST_FINAL_ROUNDS: u32 = 15;
/// … once the finalists' runs have taken so many seconds together.
const FINAL_SECONDS: f64 = 15.0;
/// A plan is stopped when its run has taken this many times the fastest so far …
const STOP_AT: f64 = 1.5;
/// … and so many seconds more: stopping short runs would save nothing, and noise would decide.
const STOP_SLACK: f64 = 0.5;
/// The first run of a loaded plan touches its memory for the first time and is not counted, unless it takes so many
/// seconds that this is a small part of it.
const WARM_UP: f64 = 1.0;

/// How a run of the strategy ends.
#[derive(Clone, Debug, PartialEq)]
enum End {
    /// With a value: its text, and the tokens of the returned sample.
    Answer(String, Vec<u32>),
    /// With `fail`: its text.
    Failed(String),
}

/// A plan and its times.
struct Entry {
    name: String,
    /// It must end as the chosen plan does.
    ends_alike: bool,
    artifact: Artifact,
    /// Of the rounds of all plans.
    seconds: Vec<f64>,
    /// Of the finalists' rounds.
    finals: Vec<f64>,
    /// Seconds after which its first run was stopped.
    stopped: Option<f64>,
    /// What memory it lacks: it does not fit.
    misfit: Option<String>,
    /// Loaded, and whether it has run.
    held: Option<(Ready, bool)>,
}

impl Entry {
    /// Median of the rounds that count for it; for a stopped plan what it had taken, which is less than it takes.
    fn median(&self) -> f64 {
        let times = if self.finals.is_empty() { &self.seconds } else { &self.finals };
        median(times.clone()).or(self.stopped).unwrap_or(f64::INFINITY)
    }

    /// Time of the chosen plan over that of this finalist: the median of their rounds.
    fn regret(&self, chosen: &Self) -> Option<f64> {
        ratio(&chosen.finals, &self.finals)
    }

    /// It takes part: neither stopped nor too large.
    fn runs(&self) -> bool {
        self.stopped.is_none() && self.misfit.is_none()
    }

    /// Notes that it does not fit and gives back what it holds. The chosen plan (number 0) has to.
    fn note_misfit(&mut self, number: usize, why: String) -> Result<()> {
        if number == 0 {
            bail!("plan \"{}\": {why}", self.name);
        }
        (self.misfit, self.held) = (Some(why), None);
        Ok(())
    }

    fn rounds(&self) -> usize {
        if self.finals.is_empty() { self.seconds.len() } else { self.finals.len() }
    }
}

fn median(mut values: Vec<f64>) -> Option<f64> {
    values.sort_by(f64::total_cmp);
    values.get(values.len() / 2).copied()
}

/// The median of the ratios of two plans' times, round by round.
fn ratio(chosen: &[f64], own: &[f64]) -> Option<f64> {
    median(chosen.iter().zip(own).map(|(chosen, own)| chosen / own).collect())
}

/// What a run came to.
enum Ran {
    /// It ended after so many seconds.
    Whole(f64),
    /// It was stopped after so many seconds.
    Stopped(f64),
    /// There is too little memory for it.
    Misfit(String),
    /// The person stopped it.
    Interrupted,
}

/// What the strategy is run on.
enum Input {
    /// Parameters of the command line.
    Words(Vec<(String, String)>),
    /// A task and where it is written.
    Task(Map<String, serde_json::Value>, String),
}

impl Input {
    /// Where a task is written, for errors.
    fn place(&self) -> String {
        match self {
            Self::Words(_) => String::new(),
            Self::Task(_, place) => format!(" on {place}"),
        }
    }

    fn values(&self, engine: &Engine) -> Result<Vec<Value>> {
        match self {
            Self::Words(words) => {
                engine.arguments(words).map_err(|e| anyhow::anyhow!("{e}; parameters follow `--`, tasks --data"))
            }
            Self::Task(object, place) => engine.arguments_json(object).map_err(|e| anyhow::anyhow!("{place}: {e}")),
        }
    }
}

/// What all plans have in common.
struct Bench {
    prepared: Prepared,
    /// What a round runs, one after the other, each with its seed.
    inputs: Vec<(Input, u64)>,
    interrupt: Arc<Interrupt>,
    shelf: Shelf,
    /// How the runs ended, one for each input.
    ends: Vec<End>,
}

/// Runs the command.
pub(crate) fn run(args: &BenchArgs, most: usize) -> Result<u8> {
    let source = args.source.as_deref().context("name a strategy: FILE[::STRATEGY]")?;
    let (path, name) = inputs::split(source);
    let Some((checked, machine, prepared)) = super::runnable(&path, name.as_deref(), &args.binding, true)? else {
        return Ok(FAILED);
    };
    let chosen = prepared.plan(&machine, args.binding.assumptions())?;
    let inputs = inputs_of(args, &chosen)?;
    let others = optimizer::neighbours(&chosen, &prepared.values, machine.threads, most);
    let mut entries = Vec::new();
    let chosen = Neighbour { name: "chosen".to_owned(), plan: chosen, ends_alike: true };
    for Neighbour { name, plan, ends_alike } in std::iter::once(chosen).chain(others) {
        let artifact = prepared.generate(plan, &machine, &checked).with_context(|| format!("plan \"{name}\""))?;
        let (seconds, finals) = (Vec::new(), Vec::new());
        entries.push(Entry { name, ends_alike, artifact, seconds, finals, stopped: None, misfit: None, held: None });
    }
    let interrupt = Interrupt::watch()?;
    let mut bench = Bench { prepared, inputs, interrupt, shelf: Shelf::default(), ends: Vec::new() };
    let Some(finalists) = bench.rounds(&mut entries, args.repeat.max(1))? else {
        say("cancelled");
        return Ok(FAILED);
    };
    show(args, &entries, finalists, &bench);
    Ok(OK)
}

/// What a round runs: the command line's parameters, or each task of the file, with a seed of its own.
fn inputs_of(args: &BenchArgs, plan: &Plan) -> Result<Vec<(Input, u64)>> {
    let Some(data) = args.data.as_deref() else {
        return Ok(vec![(Input::Words(parameters(&args.parameters)?), args.seed)]);
    };
    let tasks = bench::tasks(data, args.limit)?;
    if tasks.is_empty() {
        bail!("{}: there is no task to run", data.display());
    }
    let mut inputs = Vec::new();
    for (line, task) in &tasks {
        let place = format!("{}:{line}", data.display());
        let object = bench::task_arguments(task, plan, &args.binding.set).with_context(|| place.clone())?;
        inputs.push((Input::Task(object, place), args.seed.wrapping_add(*line as u64)));
    }
    Ok(inputs)
}

impl Bench {
    /// `rounds` rounds of all plans, and those of the finalists. The chosen plan stays first, the others end in order of their
    /// times; returns how many at the front are finalists, or `None` when the person stopped it.
    fn rounds(&mut self, entries: &mut [Entry], rounds: u32) -> Result<Option<usize>> {
        for round in 0..rounds {
            let mut fastest = f64::INFINITY;
            for i in 0..entries.len() {
                let entry = &mut entries[i];
                if !entry.runs() {
                    continue;
                }
                let limit = (round == 0 && fastest.is_finite()).then_some(STOP_AT * fastest + STOP_SLACK);
                match self.measure(entry, limit)? {
                    Ran::Whole(s) => entry.seconds.push(s),
                    Ran::Stopped(s) => (entry.stopped, entry.held) = (Some(s), None),
                    Ran::Misfit(why) => entry.note_misfit(i, why)?,
                    Ran::Interrupted => return Ok(None),
                }
                progress(&format!("round {}", round + 1), entry);
                fastest = fastest.min(entry.median());
                let_go(entries);
            }
        }
        let others = entries.get_mut(1..).unwrap_or_default();
        // What was stopped comes behind, although it is not known how long it would take, and what does not fit last.
        let rank = |e: &Entry| (e.misfit.is_some(), e.stopped.is_some());
        others.sort_by(|a, b| rank(a).cmp(&rank(b)).then(a.median().total_cmp(&b.median())));
        let whole = entries.iter().filter(|e| e.runs()).count();
        let finalists = whole.min(1 + FINALISTS);
        let (least, most) = (rounds.saturating_mul(FINAL_ROUNDS), rounds.saturating_mul(MOST_FINAL_ROUNDS));
        let (mut spent, enough) = (0.0, FINAL_SECONDS * f64::from(rounds));
        let mut round = 0;
        while round < least || (round < most && spent < enough) {
            // There and back: what drifts through a round favours no plan.
            let mut order: Vec<usize> = (0..finalists).collect();
            if round % 2 == 1 {
                order.reverse();
            }
            for i in order {
                let entry = &mut entries[i];
                if !entry.runs() {
                    continue;
                }
                match self.measure(entry, None)? {
                    Ran::Whole(s) => {
                        spent += s;
                        entry.finals.push(s);
                    }
                    Ran::Misfit(why) => entry.note_misfit(i, why)?,
                    Ran::Stopped(_) | Ran::Interrupted => return Ok(None),
                }
                progress(&format!("final round {}", round + 1), entry);
            }
            round += 1;
        }
        Ok(Some(finalists))
    }

    /// Seconds of a round of a plan that has run before, or long enough not to need it.
    fn measure(&mut self, entry: &mut Entry, limit: Option<f64>) -> Result<Ran> {
        let (mut ready, warm) = match entry.held.take() {
            Some(held) => held,
            None => {
                let (artifact, prepared) = (entry.artifact.clone(), &self.prepared);
                let verifiers = &prepared.verifiers;
                match self.shelf.load(artifact, verifiers, &[], self.interrupt.cancel(), &mut |_| {}) {
                    Ok(ready) => (ready, false),
                    Err(cause) if cause.chain().any(|e| e.downcast_ref().is_some_and(short_of_memory)) => {
                        return Ok(Ran::Misfit(format!("{cause:#}")));
                    }
                    Err(cause) => return Err(cause).with_context(|| format!("plan \"{}\"", entry.name)),
                }
            }
        };
        let mut ran = self.round(entry, &mut ready, limit)?;
        if !warm && matches!(ran, Ran::Whole(s) if s < WARM_UP) {
            ran = self.round(entry, &mut ready, limit)?;
        }
        entry.held = Some((ready, true));
        Ok(ran)
    }

    /// One round: a run of each input, which must end as all its runs do that end alike.
    fn round(&mut self, entry: &Entry, ready: &mut Ready, limit: Option<f64>) -> Result<Ran> {
        let mut spent = 0.0;
        // All of them before the first runs: a task that does not fit the strategy is found at once.
        let values = self.inputs.iter().map(|(input, _)| input.values(&ready.engine)).collect::<Result<Vec<_>>>()?;
        for (i, ((input, seed), values)) in self.inputs.iter().zip(values).enumerate() {
            let name = || format!("plan \"{}\"{}", entry.name, input.place());
            ready.session.forget();
            let watch = Watch { events: &|_: &Event<'_>| {}, cancel: self.interrupt.cancel() };
            let left = limit.map(|limit| (limit - spent).max(0.0));
            let ((outcome, seconds), stopped) = limited(&self.interrupt, left, || {
                let start = Instant::now();
                let outcome = ready.session.run(values, *seed, &Options::default(), watch);
                (outcome, start.elapsed().as_secs_f64())
            });
            if self.interrupt.asked() {
                return Ok(Ran::Interrupted);
            }
            spent += seconds;
            let end = match outcome {
                Ok(outcome) => End::Answer(outcome.text, outcome.tokens),
                Err(_) if stopped => return Ok(Ran::Stopped(spent)),
                Err(failure) => match failure.cause {
                    RunError::Failed(text) => End::Failed(text),
                    cause if is_misfit(&cause) => return Ok(Ran::Misfit(cause.to_string())),
                    cause => bail!("{}: {cause}", name()),
                },
            };
            match self.ends.get(i) {
                None => self.ends.push(end),
                Some(known) if entry.ends_alike && *known != end => {
                    bail!("{} ends with {end:?} where the others end with {known:?}: this is a fault", name())
                }
                Some(_) => {}
            }
        }
        Ok(Ran::Whole(spent))
    }
}

/// There was no memory, or no pages for keys and values.
fn short_of_memory(cause: &Error) -> bool {
    matches!(cause, Error::OutOfPages { .. } | Error::System { .. })
}

/// The run ended for want of memory, of which other plans of the strategy may need less.
fn is_misfit(cause: &RunError) -> bool {
    match cause {
        RunError::Model { source, .. } => short_of_memory(source),
        RunError::Budget { limit, .. } => *limit == "kv",
        _ => false,
    }
}

/// Runs something that ends soon after a run is to be stopped, and stops it when `limit` seconds are over; whether it did.
/// The next run is not stopped; but what the person asked for stays.
fn limited<T>(interrupt: &Interrupt, limit: Option<f64>, run: impl FnOnce() -> T) -> (T, bool) {
    let Some(limit) = limit.and_then(|s| Duration::try_from_secs_f64(s).ok()) else { return (run(), false) };
    let (done, over) = mpsc::channel::<()>();
    let expired = move || {
        let expired = over.recv_timeout(limit) == Err(RecvTimeoutError::Timeout) && !interrupt.asked();
        if expired {
            interrupt.stop_run();
        }
        expired
    };
    std::thread::scope(|scope| {
        let watch = scope.spawn(expired);
        let result = run();
        drop(done);
        let stopped = watch.join().unwrap_or(false);
        if stopped {
            interrupt.go_on();
        }
        (result, stopped)
    })
}

/// Keeps what was loaded only of the chosen plan and of those that would be finalists now: memory is touched by each.
fn let_go(entries: &mut [Entry]) {
    let mut others: Vec<&mut Entry> = entries.iter_mut().skip(1).filter(|e| e.held.is_some()).collect();
    others.sort_by(|a, b| a.median().total_cmp(&b.median()));
    for entry in others.into_iter().skip(FINALISTS) {
        entry.held = None;
    }
}

fn progress(round: &str, entry: &Entry) {
    if std::io::stderr().is_terminal() {
        let (name, time) = (&entry.name, seconds(entry.median()));
        let how = match (&entry.misfit, entry.stopped) {
            (Some(_), _) => "does not fit".to_owned(),
            (None, Some(_)) => format!("{time}, stopped"),
            (None, None) => time,
        };
        say(&format!("{round} · {name} · {how}"));
    }
}

fn show(args: &BenchArgs, entries: &[Entry], finalists: usize, bench: &Bench) {
    let chosen = entries[0].median();
    // The chosen plan is one of them: nothing regrets less than 1.
    let best = |alike: bool| {
        let finalists = entries[..finalists].iter().filter(|e| e.runs() && (e.ends_alike || !alike));
        let regrets = finalists.filter_map(|e| Some((e.regret(&entries[0])?, e.median())));
        regrets.fold((1.0, chosen), |best, next| if next.0 > best.0 { next } else { best })
    };
    let ((regret, best), (regret_alike, _)) = (best(false), best(true));
    let stopped = entries.iter().filter(|e| e.stopped.is_some()).count();
    let misfits = entries.iter().filter(|e| e.misfit.is_some()).count();
    match args.format {
        Format::Json => print_json(json!({
            "strategy": args.source, "inputs": bench.inputs.len(), "plans": entries.len(), "stopped": stopped, "does_not_fit": misfits,
            "regret": regret, "regret_alike": regret_alike,
            "outcome": bench.ends.first().map(|end| match end {
                End::Answer(text, _) => json!({ "text": text }),
                End::Failed(text) => json!({ "failed": text }),
            }),
            "chosen_seconds": chosen, "best_seconds": best,
            "rows": entries.iter().enumerate().map(|(i, e)| json!({
                "plan": e.name, "seconds": e.misfit.is_none().then(|| e.median()), "rounds": e.rounds(),
                "finalist": i < finalists && e.runs(), "stopped": e.stopped.is_some(), "does_not_fit": e.misfit,
                "ends_alike": e.ends_alike, "regret": e.regret(&entries[0]),
            })).collect::<Vec<_>>(),
        })),
        Format::Text => {
            for e in entries {
                if let Some(why) = &e.misfit {
                    print(&format!("{:<60} does not fit: {why}\n", e.name));
                    continue;
                }
                let (sign, note) = match e.stopped {
                    Some(_) => (">", "stopped".to_owned()),
                    None => ("", format!("{} rounds", e.rounds())),
                };
                let (time, ratio) =
                    (format!("{sign}{}", seconds(e.median())), format!("{sign}{:.2}", e.median() / chosen));
                print(&format!("{:<60} {time:>10}  {ratio:>6} of the chosen  ({note})\n", e.name));
            }
            let bound = entries.iter().filter(|e| e.runs() && e.ends_alike).count();
            let by =
                if bound == entries.len() { "all".to_owned() } else { format!("the {bound} that must and ran whole") };
            let same = match &bench.ends[..] {
                [End::Failed(text)] => format!("the same `fail` by {by}: {text}"),
                [_] => format!("the same answer by {by}"),
                many => format!("for each of {} tasks the same end by {by}", many.len()),
            };
            let also = if regret_alike < regret {
                format!(", {regret_alike:.3} beside those that must end alike")
            } else {
                String::new()
            };
            print(&format!("{} plans, {same}; regret {regret:.3}{also}\n", entries.len()));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::Ordering;

    #[test]
    fn a_run_is_stopped_at_its_limit_and_only_then() {
        let interrupt = Interrupt::default();
        let stopping = || interrupt.cancel().load(Ordering::SeqCst);
        let wait = || {
            while !stopping() {
                std::thread::sleep(Duration::from_millis(1));
            }
        };
        assert_eq!(limited(&interrupt, Some(0.02), wait), ((), true));
        assert!(!stopping(), "the next run is not stopped");
        assert_eq!(limited(&interrupt, Some(60.0), || 7), (7, false), "nothing waits for the limit");
        assert_eq!(limited(&interrupt, None, || 7), (7, false));
        // The person comes while the limit stops the run: that is a first interrupt, and it is not forgotten.
        let late = || {
            wait();
            assert!(interrupt.ask());
        };
        assert_eq!(limited(&interrupt, Some(0.02), late), ((), true));
        assert!(interrupt.asked() && stopping());
        // The person was first: that is no limit.
        assert_eq!(limited(&interrupt, Some(0.02), || std::thread::sleep(Duration::from_millis(60))), ((), false));
        assert!(stopping());
    }

    /// A round that was slow for both says nothing about either.
    #[test]
    fn regret_is_the_median_of_the_rounds_ratios() {
        assert_eq!(ratio(&[1.0, 9.0, 1.0], &[1.0, 9.0, 1.0]), Some(1.0));
        assert_eq!(ratio(&[2.0, 3.0, 8.0], &[1.0, 1.5, 1.0]), Some(2.0));
        assert_eq!(ratio(&[], &[]), None);
    }

    #[test]
    fn only_a_plan_that_lacks_memory_does_not_fit() {
        let model = |source| RunError::Model { role: "base".to_owned(), source };
        let over = |limit| RunError::Budget { limit, spent: "2".to_owned(), most: "1".to_owned() };
        let none = Error::System { what: "pages", bytes: 1 << 40, cause: std::io::ErrorKind::OutOfMemory.into() };
        assert!(is_misfit(&model(Error::OutOfPages { needed: 9, free: 1, total: 32 })) && is_misfit(&model(none)));
        assert!(is_misfit(&over("kv")) && !is_misfit(&over("tokens")));
        assert!(!is_misfit(&model(Error::Cancelled)) && !is_misfit(&RunError::Cancelled));
    }
}
