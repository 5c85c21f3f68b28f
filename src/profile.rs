//! Measures this machine in about a minute: read bandwidth by working set, rates of the real emitted kernels, barriers,
//! the start of a process.
//!
//! Kernels are measured on synthetic models ([`subjects`]), in whole steps: a step without keys is linear layers and
//! barriers, logits are the head's, what a key adds is attention, what a choice of pages adds is its price. Everything is
//! measured in two passes over all classes, so that a disturbance of seconds meets a step once; steps whose times do not
//! agree are measured again, and what does not settle is marked ([`settle`]). Buffers are random: constant pages are read
//! faster. It stores nothing.

mod quiet;
mod settle;
mod subjects;

pub use settle::AGREE;
pub(crate) use settle::lower_quartile;

use crate::cache::Cache;
use crate::machine::{Machine, host_name, usable};
use crate::roofs::Reader;
use anyhow::Result;
use codegen::Backend;
use ir::target::{Bandwidth, Target};
use optimizer::lossy::Forced;
use runtime::device::cpu::{Function, Launch, Team};
use runtime::device::probe;
use std::process::{Command, Stdio};
use std::time::Instant;
use subjects::{Ledger, rates, subjects};

/// Version of the document that a profile is kept in: another one is measured again, not read.
pub const FORMAT: u64 = 2;
/// Working sets at which bandwidth is measured, bytes.
const SETS: &[u64] = &[1 << 20, 8 << 20, 32 << 20, 96 << 20, 384 << 20];
/// Seconds that a working set is read by each of the reading kernels.
const READING: f64 = 0.05;
/// Passes over everything.
const PASSES: usize = 2;
/// Passes at most over what has not settled.
const AGAIN: usize = 4;
/// Seconds for measuring again.
const BUDGET: f64 = 10.0;

/// A measured machine and how far the measurement can be trusted.
#[derive(Clone, Debug)]
pub struct Profile {
    /// The machine.
    pub target: Target,
    /// CPUs that other processes used meanwhile, on average; `None` where the system does not say.
    pub foreign: Option<f64>,
    /// Steps that were timed.
    pub steps: usize,
    /// Steps whose times did not agree after the passes; they are timed again while the budget lasts.
    pub again: usize,
}

impl Profile {
    /// Rates whose measurements did not agree.
    #[must_use]
    pub fn noisy(&self) -> usize {
        self.target.kernels.iter().filter(|k| k.spread > AGREE).count()
    }
}

/// Measures; `say` gets a line per part.
///
/// # Errors
/// When memory or threads are refused, or the kernels cannot be compiled.
pub fn measure(threads: u32, backend: Backend, cache: Option<Cache>, say: &mut dyn FnMut(&str)) -> Result<Profile> {
    let watch = quiet::Watch::start();
    let host = probe::probe();
    let mut target = ir::target::builtin(if host.isa.avx512 { "cpu-avx512" } else { "cpu-avx2" })
        .unwrap_or_else(|| unreachable!("both CPU classes are built in"));
    target.name = host_name(&host);
    target.isa = usable(host.isa, backend);
    target.threads = threads;
    #[allow(clippy::cast_precision_loss, reason = "memory sizes are far below 2^53")]
    let memory = host.total_memory as f64;
    target.memory = memory;
    target.measured = true;
    say("barriers, read bandwidth, process start");
    target.launch = barrier(threads)?;
    target.start = process_start();
    let (numerics, forced, warnings) = (None, Forced::default(), Vec::new());
    let mut machine = Machine { target, threads, backend, cache, numerics, forced, warnings };
    let mut reads = Reads::new(&machine)?;
    reads.pass()?;
    let subjects = subjects(machine.target.isa.amx_int8);
    let mut ledger = Ledger::default();
    for pass in 1..=PASSES {
        for (index, subject) in subjects.iter().enumerate() {
            say(&format!("pass {pass} of {PASSES}: {}", subject.name()));
            subject.visit(index, &machine, &mut ledger, &|_| true)?;
        }
    }
    // Buffers of hundreds of megabytes are read after the kernels once more: a second time at another time.
    reads.pass()?;
    machine.target.launch = machine.target.launch.min(barrier(threads)?);
    let (open, again) = (ledger.unsettled().len(), Instant::now());
    for _ in 0..AGAIN {
        for (index, subject) in subjects.iter().enumerate() {
            let open = ledger.unsettled();
            if open.iter().any(|k| k.subject == index) && again.elapsed().as_secs_f64() < BUDGET {
                say(&format!("again, {} steps do not agree: {}", open.len(), subject.name()));
                subject.visit(index, &machine, &mut ledger, &|key| open.contains(key))?;
            }
        }
    }
    let kernels = rates(&subjects, &ledger, &machine);
    let mut target = machine.target;
    target.read = reads.bandwidth();
    if let Some(last) = target.read.last() {
        target.bandwidth = last.all_threads;
    }
    // A profile names the CPU, whatever code generator measured it.
    target.isa = host.isa;
    target.kernels = kernels;
    // The peak prices classes that a plan may take unasked: int8 per channel, through tiles above all, is far above them.
    let stored = |class: &str| class.starts_with("linear") && !class.starts_with("linear.int8_channel");
    let linear = target.kernels.iter().filter(|k| stored(&k.class));
    if let Some(best) = linear.map(|k| k.all_threads).reduce(f64::max) {
        target.flops = 2.0 * best;
    }
    Ok(Profile { target, foreign: watch.foreign(), steps: ledger.len(), again: open })
}

/// Read bandwidth by working set and threads.
struct Reads {
    reader: Reader,
    threads: u32,
    /// Fastest bytes per second so far, of one thread and of all, by working set.
    best: Vec<(f64, f64)>,
}

impl Reads {
    fn new(machine: &Machine) -> Result<Self> {
        let largest = SETS.iter().copied().max().unwrap_or(0);
        let (threads, isa, backend) = (machine.threads, machine.target.isa, machine.backend);
        let reader = Reader::new(largest, threads, isa, backend, machine.cache.as_ref())?;
        Ok(Self { reader, threads, best: vec![(0.0, 0.0); SETS.len()] })
    }

    fn pass(&mut self) -> Result<()> {
        let mut alone = Team::new(1)?;
        for (set, best) in SETS.iter().zip(&mut self.best) {
            best.0 = best.0.max(self.reader.read(&mut alone, *set, READING)?.best);
            if self.threads == 1 {
                best.1 = best.0;
            }
        }
        if self.threads > 1 {
            let mut team = Team::new(self.threads as usize)?;
            for (set, best) in SETS.iter().zip(&mut self.best) {
                best.1 = best.1.max(self.reader.read(&mut team, *set, READING)?.best);
            }
        }
        Ok(())
    }

    /// Rates that fall with the working set.
    fn bandwidth(&self) -> Vec<Bandwidth> {
        let falling = |rate: &dyn Fn(&(f64, f64)) -> f64| {
            let mut seconds: Vec<f64> = self.best.iter().map(|b| 1.0 / rate(b)).collect();
            settle::rising(&mut seconds);
            seconds.into_iter().map(|s| 1.0 / s).collect::<Vec<_>>()
        };
        let (one, all) = (falling(&|b| b.0), falling(&|b| b.1));
        SETS.iter()
            .zip(one.into_iter().zip(all))
            .map(|(set, (one_thread, all_threads))| {
                #[allow(clippy::cast_precision_loss, reason = "sizes of a few hundred megabytes")]
                Bandwidth { bytes: *set as f64, one_thread, all_threads }
            })
            .collect()
    }
}

/// Seconds to start a program that does nothing and to see its end: the lower quartile of some starts; 0 where there is no
/// such program.
fn process_start() -> f64 {
    let mut seconds = Vec::new();
    for _ in 0..16 {
        let start = Instant::now();
        let mut command = Command::new("true");
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        match command.status() {
            Ok(status) if status.success() => seconds.push(start.elapsed().as_secs_f64()),
            _ => return 0.0,
        }
    }
    lower_quartile(&mut seconds)
}

/// Fastest seconds per launch of a list of launches that do nothing: what a barrier of the team costs.
fn barrier(threads: u32) -> Result<f64> {
    extern "C-unwind" fn nothing(_: *const u64, _: i64, _: i64) {}
    const LAUNCHES: usize = 200;
    let mut team = Team::new(threads as usize)?;
    let list: Vec<Launch> = (0..LAUNCHES).map(|_| Launch::new(Function::native(nothing), Vec::new())).collect();
    let mut best = f64::MAX;
    for _ in 0..50 {
        let start = Instant::now();
        team.run(&list)?;
        best = best.min(start.elapsed().as_secs_f64());
    }
    #[allow(clippy::cast_precision_loss, reason = "a small count")]
    Ok((best / LAUNCHES as f64).max(1e-8))
}
