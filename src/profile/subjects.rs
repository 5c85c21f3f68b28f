//! The synthetic models that kernels are measured on, the steps that are timed on each, and the rates that follow.
//!
//! Takes a machine; times steps on one thread and on all, notes them in a ledger, and derives rates of kernel classes from
//! what settled. Two models per weight format, one that caches hold and one that they do not; attention over each kind of
//! keys by groups of query heads; the choice of pages beside the same attention without a choice.

use super::quiet;
use super::settle::{Settled, Visit, lower_quartile, rising, settle};
use crate::machine::Machine;
use crate::measure;
use crate::synthetic::{Shape, gguf};
use anyhow::Result;
use ir::kernel::TILE_ROWS;
use ir::plan::PrefixMode;
use ir::program::PAGE;
use ir::schedule::{Attention, KvFormat, Numerics};
use ir::target::KernelRate;
use ir::tensor::{DType, tile_bytes};
use optimizer::lossy::Forced;
use optimizer::roofline::Roofline;
use runtime::forward::LocalModel;
use runtime::gguf::Gguf;
use runtime::model::{Append, LanguageModel, SeqId, Wanted};
use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::sync::Arc;
use std::time::Instant;

/// A weight format whose rates are measured, as `linear.<name>` and `head.<name>`; others are priced like the nearest. In
/// int8 per channel output matrices stay as stored, so that class has no `head.<name>`. It is measured by blocks of rows, and
/// where there are tiles once more through these, with rows that fill them.
#[derive(Clone, Copy, Debug)]
struct Format {
    name: &'static str,
    stored: DType,
    numerics: Numerics,
    tiles: bool,
}

/// A format whose kernels use no tiles.
const fn format(name: &'static str, stored: DType, numerics: Numerics) -> Format {
    Format { name, stored, numerics, tiles: false }
}

const FORMATS: &[Format] = &[
    format("q4_1", DType::Q4_1, Numerics::Int8),
    format("q8_0", DType::Q8_0, Numerics::Int8),
    format("q4_k", DType::Q4_K, Numerics::Int8),
    format("q5_0", DType::Q5_0, Numerics::Int8),
    format("q6_k", DType::Q6_K, Numerics::Int8),
    format("f16", DType::F16, Numerics::Int8),
    format("int8_channel", DType::Q8_0, Numerics::Int8Channel),
    Format { tiles: true, ..format("int8_channel_tiles", DType::Q8_0, Numerics::Int8Channel) },
];
/// Rows per step at which linear rates are measured.
const ROWS: &[u32] = &[1, 2, 4, 8, 12, 16, 32, 128];
/// Weights of the model that caches do not hold, bytes.
const STREAMED: usize = 96 << 20;
/// Copies of a context that caches do not hold together.
const COPIES: u32 = 48;
/// Keys that attention is measured over.
const DEPTH: u32 = 1024;
/// Query heads of a KV head, and the most rows that are measured with so many.
const GROUPS: [(u32, u32); 3] = [(1, 8), (3, 4), (7, 1)];
/// Contexts out of which pages are chosen, tokens.
const CHOICES: [u32; 2] = [2048, 7168];
/// Pages that are chosen: few, so that attention to them is short beside the choice.
const CHOSEN: u32 = 4;

/// A step that is timed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Step {
    /// So many sequences without a past; logits for each on request.
    Fresh { rows: u32, logits: bool },
    /// So many tokens of one sequence without a past.
    Prompt { rows: u32 },
    /// So many tokens after `depth` cached ones, in one of so many copies in turn.
    Deep { rows: u32, depth: u32, copies: u32 },
}

/// A step on a subject by a team.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Key {
    /// Position in the list of subjects.
    pub(super) subject: usize,
    /// Threads.
    team: u32,
    step: Step,
}

/// What was timed, and what the matrices of subjects do.
#[derive(Debug, Default)]
pub(super) struct Ledger {
    visits: BTreeMap<Key, Vec<Visit>>,
    matrices: BTreeMap<usize, Matrices>,
    /// Launches of the layers by subject and threads, as they were scheduled.
    launches: BTreeMap<(usize, u32), u64>,
}

/// Multiply-adds per row of the layers and of the output matrix, and bytes of all weights.
#[derive(Clone, Copy, Debug)]
struct Matrices {
    layers: f64,
    head: f64,
    bytes: f64,
}

impl Ledger {
    /// Steps noted.
    pub(super) fn len(&self) -> usize {
        self.visits.len()
    }

    /// Steps whose visits do not agree.
    pub(super) fn unsettled(&self) -> Vec<Key> {
        self.visits.iter().filter(|(_, v)| settle(v).is_none_or(|s| !s.agrees())).map(|(k, _)| *k).collect()
    }

    /// Seconds in launches of a step's layers; one thread waits for nobody.
    fn waits(&self, subject: usize, team: u32, machine: &Machine) -> f64 {
        #[allow(clippy::cast_precision_loss, reason = "a few launches a layer")]
        let launches = self.launches.get(&(subject, team)).map_or(0.0, |n| *n as f64);
        if team > 1 { launches * machine.target.launch } else { 0.0 }
    }

    fn note(&mut self, key: Key, visit: Visit) {
        self.visits.entry(key).or_default().push(visit);
    }

    fn settled(&self, subject: usize, team: u32, step: Step) -> Option<Settled> {
        settle(self.visits.get(&Key { subject, team, step })?)
    }
}

/// What a subject is measured for.
#[derive(Clone, Copy, Debug)]
enum Kind {
    /// Matrices; those that caches do not hold also give the output matrix, where the class makes one of its own.
    Linear { format: Format, streamed: bool },
    /// Attention of a group of query heads.
    Attend { class: &'static str, group: u32 },
    /// Attention to chosen pages.
    Choose,
    /// Attention to as many pages without a choice: what [`Kind::Choose`] is compared with.
    Listed,
}

/// A synthetic model, how it is run, and what is timed.
#[derive(Clone, Debug)]
pub(super) struct Subject {
    kind: Kind,
    shape: Shape,
    numerics: Numerics,
    forced: Forced,
    steps: Vec<Step>,
}

/// All subjects of a machine with or without tiles.
pub(super) fn subjects(tiles: bool) -> Vec<Subject> {
    let mut all = Vec::new();
    for format in FORMATS.iter().filter(|f| tiles || !f.tiles) {
        all.extend(linear(*format));
    }
    for (class, kv) in [("attend", KvFormat::F16), ("attend.int8", KvFormat::Int8)] {
        for (group, most) in GROUPS {
            let rows: Vec<u32> = (0..4).map(|i| 1 << i).take_while(|r| *r <= most).collect();
            let deep = |copies| rows.iter().map(move |r| Step::Deep { rows: *r, depth: DEPTH, copies });
            let steps = rows.iter().map(|r| Step::Prompt { rows: *r }).chain(deep(1)).chain(deep(COPIES)).collect();
            let forced = Forced { kv: Some(kv), attention: None };
            let (kind, shape) = (Kind::Attend { class, group }, thin(group, 2 * DEPTH));
            all.push(Subject { kind, shape, numerics: Numerics::Int8, forced, steps });
        }
    }
    let choose = Attention::Sparse { pages: CHOSEN, sinks: 1, window: 2, dense_layers: 0, top_p: 1000 };
    let listed = Attention::Window { sinks: 1, window: CHOSEN - 1, dense_layers: 0 };
    for (kind, attention) in [(Kind::Choose, choose), (Kind::Listed, listed)] {
        let steps = CHOICES.iter().map(|depth| Step::Deep { rows: 1, depth: *depth, copies: 1 }).collect();
        let forced = Forced { kv: None, attention: Some(attention) };
        all.push(Subject { kind, shape: thin(1, 8192), numerics: Numerics::Int8, forced, steps });
    }
    all
}

/// A model that is little more than attention.
fn thin(group: u32, context: u32) -> Shape {
    let (layers, heads, dtype) = (4, 2 * group, DType::Q8_0);
    Shape { layers, hidden: 256, heads, kv_heads: 2, ffn: 256, vocab: 2048, context, dtype }
}

/// The small and the large model of a format.
fn linear(format: Format) -> [Subject; 2] {
    let (dtype, numerics, forced) = (format.stored, format.numerics, Forced::default());
    let small = Shape { layers: 4, hidden: 512, heads: 8, kv_heads: 2, ffn: 1536, vocab: 2048, context: 256, dtype };
    let layer = tile_bytes(dtype, 1024) * (2 * 1024 + 512 + 3 * 3072) / 16;
    let layers = u32::try_from(STREAMED / layer).unwrap_or(1).max(2);
    let large = Shape { layers, hidden: 1024, heads: 16, kv_heads: 4, ffn: 3072, vocab: 16384, context: 256, dtype };
    [(small, false), (large, true)].map(|(shape, streamed)| {
        // Output matrices are large: the small model says nothing about them. Nor does a model of a hundred megabytes
        // say more about long prompts than the small one.
        let rows = ROWS
            .iter()
            .filter(|r| (!streamed || **r <= 32) && (!format.tiles || (**r as usize).is_multiple_of(TILE_ROWS)));
        let logits = streamed && numerics != Numerics::Int8Channel;
        let step = |rows| if rows <= 32 { Step::Fresh { rows, logits } } else { Step::Prompt { rows } };
        Subject {
            kind: Kind::Linear { format, streamed },
            shape,
            numerics,
            forced,
            steps: rows.map(|r| step(*r)).collect(),
        }
    })
}

impl Subject {
    /// What is measured, for people.
    pub(super) fn name(&self) -> String {
        match self.kind {
            Kind::Linear { format, streamed: false } => format!("{} weights in caches", format.name),
            Kind::Linear { format, .. } => format!("{} weights out of memory", format.name),
            Kind::Attend { class: "attend.int8", group } => format!("attention to int8 keys, {group} heads together"),
            Kind::Attend { group, .. } => format!("attention, {group} heads together"),
            Kind::Choose => "choice of pages".to_owned(),
            Kind::Listed => "pages without a choice".to_owned(),
        }
    }

    /// Times the steps that `wanted` picks, each once more, and notes them.
    ///
    /// # Errors
    /// When memory or threads are refused, or the kernels cannot be compiled.
    pub(super) fn visit(
        &self,
        index: usize,
        machine: &Machine,
        ledger: &mut Ledger,
        wanted: &dyn Fn(&Key) -> bool,
    ) -> Result<()> {
        let mut machine = Machine { forced: self.forced, numerics: Some(self.numerics), ..machine.clone() };
        machine.target.isa.amx_int8 &= matches!(self.kind, Kind::Linear { format: Format { tiles: true, .. }, .. });
        let image = Arc::new(Gguf::from_bytes("synthetic", gguf(self.shape))?);
        if let Kind::Linear { .. } = self.kind {
            let model = image.model()?;
            let roofline = Roofline::new(&model, &machine.target).with_numerics(self.numerics);
            let (layers, head) = (roofline.layer_macs(), f64::from(model.hidden) * f64::from(model.vocab));
            ledger.matrices.insert(index, Matrices { layers, head, bytes: roofline.weight_bytes() });
        }
        for team in machine.teams() {
            let keys = self.steps.iter().map(|step| Key { subject: index, team, step: *step });
            let keys: Vec<Key> = keys.filter(|k| wanted(k)).collect();
            if keys.is_empty() {
                continue;
            }
            let pages = 64 + 3 * u64::from(self.shape.context);
            let (mut model, plan) = measure::start(image.clone(), Path::new("synthetic"), &machine, team, pages)?;
            ledger.launches.insert((index, team), plan.schedule.launches(self.shape.layers).layers);
            // Forks get copies of their keys.
            model.set_prefix_mode(PrefixMode::Copied);
            for key in keys {
                ledger.note(key, time(&mut model, key.step)?);
            }
        }
        Ok(())
    }

    /// Seconds per step, one thread's and all threads', of what a class does in steps with rising `rows`, by working set.
    fn curves(&self, index: usize, all: &[Subject], ledger: &Ledger, machine: &Machine) -> Vec<Curve> {
        let seen = |team, step| ledger.settled(index, team, step);
        let waits = |subject: usize, team: u32| ledger.waits(subject, team, machine);
        let context = |tokens: f64| tokens * f64::from(self.shape.layers * self.shape.kv_heads * 64) * 2.0;
        let heads = f64::from(self.shape.heads * self.shape.layers);
        let mut curves = Vec::new();
        match self.kind {
            Kind::Linear { format, .. } => {
                let Some(work) = ledger.matrices.get(&index) else { return curves };
                let curve = |kind| Curve::new(kind, format.name, work.bytes);
                let (mut layers, mut heads) = (curve("linear"), curve("head"));
                for step in &self.steps {
                    let (Step::Fresh { rows, .. } | Step::Prompt { rows } | Step::Deep { rows, .. }) = *step;
                    layers.point(rows, work.layers * f64::from(rows), machine, |team| {
                        seen(team, *step).map(|s| (s.layers - waits(index, team), s.spread))
                    });
                    if let Step::Fresh { logits: true, .. } = *step {
                        let part = |team| seen(team, *step).map(|s| (s.head, s.spread));
                        heads.point(rows, work.head * f64::from(rows), machine, part);
                    }
                }
                curves.extend([layers, heads]);
            }
            Kind::Attend { class, group } => {
                for copies in [1, COPIES] {
                    let scales = if class == "attend" { 2.0 } else { 1.0 + 4.0 / 64.0 };
                    let bytes = f64::from(copies) * context(f64::from(DEPTH)) * scales;
                    let mut curve = Curve::new(class, "", bytes);
                    for step in &self.steps {
                        let Step::Deep { rows, .. } = *step else { continue };
                        if *step != (Step::Deep { rows, depth: DEPTH, copies }) {
                            continue;
                        }
                        let work = f64::from(rows) * f64::from(DEPTH) * heads;
                        curve.point(rows * group, work, machine, |team| {
                            let (deep, bare) = (seen(team, *step)?, seen(team, Step::Prompt { rows })?);
                            Some((deep.layers - bare.layers, deep.spread.max(bare.spread)))
                        });
                    }
                    curves.push(curve);
                }
                larger_is_slower(&mut curves);
            }
            Kind::Choose => {
                let listed = all.iter().position(|s| matches!(s.kind, Kind::Listed));
                let mut curve = Curve::new("choose", "", context(f64::from(CHOICES[0])) * 2.0);
                for step in &self.steps {
                    let Step::Deep { depth, .. } = *step else { continue };
                    let pages = depth / u32::try_from(PAGE).expect("a page is a few tokens");
                    let work = f64::from(pages) * f64::from(self.shape.kv_heads * self.shape.layers);
                    curve.point(pages, work, machine, |team| {
                        let (with, without) = (seen(team, *step)?, ledger.settled(listed?, team, *step)?);
                        let waits = waits(index, team) - waits(listed?, team);
                        Some((with.layers - without.layers - waits, with.spread.max(without.spread)))
                    });
                }
                curves.push(curve);
            }
            Kind::Listed => {}
        }
        curves
    }
}

/// Times of one class over one working set, by rising rows.
#[derive(Debug)]
struct Curve {
    class: String,
    bytes: f64,
    points: Vec<Point>,
}

/// A point of a curve.
#[derive(Clone, Copy, Debug)]
struct Point {
    rows: u32,
    work: f64,
    /// Seconds of one thread and of all.
    seconds: [f64; 2],
    spread: f64,
}

impl Curve {
    fn new(class: &str, format: &str, bytes: f64) -> Self {
        let class = if format.is_empty() { class.to_owned() } else { format!("{class}.{format}") };
        Self { class, bytes, points: Vec::new() }
    }

    /// Adds a point whose seconds and spread `of` knows by team; a difference that noise made negative is no point.
    fn point(&mut self, rows: u32, work: f64, machine: &Machine, of: impl Fn(u32) -> Option<(f64, f64)>) {
        let (Some(one), Some(all)) = (of(1), of(machine.threads)) else { return };
        if one.0 > 0.0 && all.0 > 0.0 {
            self.points.push(Point { rows, work, seconds: [one.0, all.0], spread: one.1.max(all.1).min(1.0) });
        }
    }

    /// More rows take no less time.
    fn repair(&mut self) {
        self.points.sort_by_key(|p| p.rows);
        rise(self.points.iter_mut().collect());
    }

    fn rates(&self) -> impl Iterator<Item = KernelRate> + '_ {
        self.points.iter().map(|p| KernelRate {
            class: self.class.clone(),
            rows: p.rows,
            bytes: self.bytes,
            one_thread: p.work / p.seconds[0],
            all_threads: p.work / p.seconds[1],
            spread: p.spread,
        })
    }
}

/// Repairs the times of points in an order in which they cannot fall, for each team.
fn rise(mut points: Vec<&mut Point>) {
    for team in 0..2 {
        let mut seconds: Vec<f64> = points.iter().map(|p| p.seconds[team]).collect();
        rising(&mut seconds);
        points.iter_mut().zip(seconds).for_each(|(p, s)| p.seconds[team] = s);
    }
}

/// The same steps over rising working sets take no less time.
fn larger_is_slower(curves: &mut [Curve]) {
    let rows: BTreeSet<u32> = curves.iter().flat_map(|c| c.points.iter().map(|p| p.rows)).collect();
    for rows in rows {
        rise(curves.iter_mut().filter_map(|c| c.points.iter_mut().find(|p| p.rows == rows)).collect());
    }
}

/// Rates of all classes, from what settled.
pub(super) fn rates(subjects: &[Subject], ledger: &Ledger, machine: &Machine) -> Vec<KernelRate> {
    let mut rates = Vec::new();
    for (index, subject) in subjects.iter().enumerate() {
        for mut curve in subject.curves(index, subjects, ledger, machine) {
            curve.repair();
            rates.extend(curve.rates());
        }
    }
    rates
}

/// One visit of a step.
fn time(model: &mut LocalModel, step: Step) -> Result<Visit> {
    match step {
        Step::Fresh { rows, logits } => {
            let ids = measure::tokens(rows as usize, model.info().vocab);
            let parts: Vec<&[u32]> = ids.chunks(1).collect();
            fresh(model, &parts, if logits { Wanted::Last } else { Wanted::None })
        }
        Step::Prompt { rows } => {
            let ids = measure::tokens(rows as usize, model.info().vocab);
            fresh(model, &[&ids], Wanted::None)
        }
        Step::Deep { rows, depth, copies } => deep(model, rows as usize, depth as usize, copies),
    }
}

/// A step that starts one sequence with each of `parts`.
fn fresh(model: &mut LocalModel, parts: &[&[u32]], wanted: Wanted) -> Result<Visit> {
    let seqs = parts.iter().map(|_| model.create()).collect::<Result<Vec<_>, _>>()?;
    let appends: Vec<Append<'_>> =
        seqs.iter().zip(parts).map(|(seq, tokens)| Append { seq: *seq, tokens, wanted, decoded: false }).collect();
    let visit = repeat(|| {
        let (start, before) = (Instant::now(), model.metrics().head_seconds);
        model.step(&appends, &mut |_, _, _| {})?;
        let (seconds, head) = (start.elapsed().as_secs_f64(), model.metrics().head_seconds - before);
        for seq in &seqs {
            model.truncate(*seq, 0)?;
        }
        Ok((seconds - head, head))
    });
    for seq in seqs {
        model.free(seq);
    }
    visit
}

/// A step that appends `rows` tokens to one of so many copies of a context, another each time, so that keys come from
/// where that many bytes are.
fn deep(model: &mut LocalModel, rows: usize, depth: usize, copies: u32) -> Result<Visit> {
    let ids = measure::tokens(depth + rows, model.info().vocab);
    let first = model.create()?;
    for chunk in ids[..depth].chunks(256) {
        let append = Append { seq: first, tokens: chunk, wanted: Wanted::None, decoded: false };
        model.step(&[append], &mut |_, _, _| {})?;
    }
    let mut seqs: Vec<SeqId> = vec![first];
    for _ in 1..copies {
        seqs.push(model.fork(first)?);
    }
    let mut next = 0;
    let mut once = || {
        let seq = seqs[next % seqs.len()];
        next += 1;
        let start = Instant::now();
        // A single row is a decode step: where pages are chosen, it is what chooses.
        let append = Append { seq, tokens: &ids[depth..], wanted: Wanted::None, decoded: rows == 1 };
        model.step(&[append], &mut |_, _, _| {})?;
        let seconds = start.elapsed().as_secs_f64();
        model.truncate(seq, depth)?;
        Ok((seconds, 0.0))
    };
    // Once through all, so that no page is new and the caches hold what they will hold.
    for _ in 1..copies {
        once()?;
    }
    let visit = repeat(once);
    for seq in seqs {
        model.free(seq);
    }
    visit
}

/// Lower quartiles of repeated runs: as many as fit a budget, at least three (of which the fastest counts).
fn repeat(mut once: impl FnMut() -> Result<(f64, f64)>) -> Result<Visit> {
    const BUDGET: f64 = 0.02;
    const MOST: usize = 40;
    once()?;
    let (mut layers, mut heads) = (Vec::new(), Vec::new());
    let (start, waited) = (Instant::now(), quiet::waited());
    while layers.len() < 3 || (start.elapsed().as_secs_f64() < BUDGET && layers.len() < MOST) {
        let (layer, head) = once()?;
        layers.push(layer);
        heads.push(head);
    }
    let waited = (quiet::waited() - waited).max(0.0) / start.elapsed().as_secs_f64().max(1e-9);
    Ok(Visit { layers: lower_quartile(&mut layers), head: lower_quartile(&mut heads), waited })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn subjects_cover_the_classes_and_their_steps_are_distinct() {
        let all = subjects(true);
        let classes = |f: &dyn Fn(&Kind) -> bool| all.iter().filter(|s| f(&s.kind)).count();
        assert_eq!(classes(&|k| matches!(k, Kind::Linear { .. })), 2 * FORMATS.len());
        assert_eq!(subjects(false).len(), all.len() - 2, "tiles are measured where there are any");
        assert_eq!(classes(&|k| matches!(k, Kind::Attend { .. })), 2 * GROUPS.len());
        assert_eq!((classes(&|k| matches!(k, Kind::Choose)), classes(&|k| matches!(k, Kind::Listed))), (1, 1));
        for subject in &all {
            let mut steps = subject.steps.clone();
            steps.sort_unstable();
            steps.dedup();
            assert_eq!(steps.len(), subject.steps.len(), "{}", subject.name());
        }
    }

    /// Rates of a ledger in which steps take what a step of their kind would, and a choice adds `choice` seconds to a long one.
    fn rates_of(choice: f64) -> Vec<KernelRate> {
        let mut target = ir::target::builtin("reference").expect("a built-in profile");
        (target.threads, target.launch) = (2, 1e-6);
        let (backend, numerics, forced) = (crate::default_backend(), None, Forced::default());
        let machine = Machine { target, threads: 2, backend, cache: None, numerics, forced, warnings: Vec::new() };
        let (all, mut ledger) = (subjects(true), Ledger::default());
        for (subject, what) in all.iter().enumerate() {
            ledger.matrices.insert(subject, Matrices { layers: 1e6, head: 1e5, bytes: 1e7 });
            for team in [1, 2] {
                for step in &what.steps {
                    let (layers, head) = match (*step, what.kind) {
                        (Step::Fresh { rows, logits }, _) => (f64::from(rows), if logits { 0.5 } else { 0.0 }),
                        (Step::Prompt { rows }, _) => (f64::from(rows), 0.0),
                        (Step::Deep { .. }, Kind::Choose) => (100.0 + choice, 0.0),
                        (Step::Deep { rows, copies: 1, .. }, _) => (2.0 * f64::from(rows), 0.0),
                        (Step::Deep { .. }, _) => (100.0, 0.0),
                    };
                    let key = Key { subject, team, step: *step };
                    for by in [1.0, 1.01, 7.0] {
                        ledger.note(key, Visit { layers: layers * by, head: head * by, waited: 0.0 });
                    }
                }
            }
        }
        assert!(ledger.unsettled().is_empty());
        rates(&all, &ledger, &machine)
    }

    #[test]
    fn rates_are_work_over_what_it_adds_to_a_step() {
        let close = |a: f64, b: f64| (a / b - 1.0).abs() < 0.02;
        let rates = rates_of(0.0);
        let find = |class: &str, rows: u32| rates.iter().find(|k| k.class == class && k.rows == rows).expect("a rate");
        assert!(close(find("linear.q4_1", 8).one_thread, 1e6), "{:?}", find("linear.q4_1", 8));
        assert!(close(find("head.f16", 4).one_thread, 4.0 * 1e5 / 0.5));
        assert!(close(find("linear.int8_channel", 8).one_thread, 1e6));
        assert!(rates.iter().all(|k| !k.class.starts_with("head.int8")), "output matrices stay as stored");
        let tiles: Vec<u32> = rates.iter().filter(|k| k.class.ends_with("_tiles")).map(|k| k.rows).collect();
        assert_eq!(tiles, [16, 32, 128, 16, 32], "whole tiles, in caches and out of memory");
        // What 1024 keys add to a step of one row, which takes two seconds with and one without them.
        assert!(close(find("attend", 3).all_threads, 1024.0 * f64::from(6 * 4)), "{:?}", find("attend", 3));
        assert!(rates.iter().any(|k| k.class == "attend.int8"));
        let choose = find("choose", 2048 / 16);
        assert!(choose.one_thread > 0.0 && choose.spread < 0.02, "{choose:?}");
        let none = rates_of(-99.5);
        assert!(none.iter().all(|k| k.class != "choose"), "a negative time is no rate");
    }

    #[test]
    fn curves_are_repaired_over_rows_and_working_sets() {
        let point = |rows, seconds: f64| Point { rows, work: f64::from(rows), seconds: [seconds; 2], spread: 0.0 };
        let curve = |bytes, points: &[Point]| Curve { class: "attend".to_owned(), bytes, points: points.to_vec() };
        // One row was disturbed in caches, two rows beyond them.
        let mut curves = [curve(1e6, &[point(1, 9.0), point(2, 4.0)]), curve(1e8, &[point(1, 5.0), point(2, 12.0)])];
        larger_is_slower(&mut curves);
        curves.iter_mut().for_each(Curve::repair);
        let seconds: Vec<f64> = curves.iter().flat_map(|c| c.points.iter().map(|p| p.seconds[0])).collect();
        assert_eq!(seconds, [4.0, 4.0, 5.0, 12.0]);
        let rates: Vec<f64> = curves[0].rates().map(|r| r.all_threads).collect();
        assert_eq!(rates, [0.25, 0.5]);
    }
}
