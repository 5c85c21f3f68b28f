//! The planner's cost model: seconds of prefills, decode steps and scores on a target, operator by operator.
//!
//! Takes a model, a target and the shape of a step; returns time, operations and bytes, and what bounds them. Where the
//! target's kernels were measured, an operator's time is its work over the rate measured for its rows and working set,
//! memory included: neither `max` nor sum of compute and memory held on machines whose caches hold a part of the weights.
//! Elsewhere it is `max(work / rate, bytes / bandwidth)` from peaks and the efficiencies below. A step adds launches or
//! barriers. It does not know strategies; `planner` adds those up.

use crate::kinetics::{self, Attention, Mode, Workload};
use ir::model::Model;
use ir::plan::Cost;
use ir::program::summary_bytes;
use ir::schedule::{KvFormat, Launches, Numerics, Prologue};
use ir::target::{Target, TargetKind};
use ir::tensor::{DType, channel_tile_bytes, tile_bytes};

/// Share of the peak FLOP rate that unmeasured matrix products reach on a CPU: int8 dot products run faster than the f32
/// peak of a profile, unpacking eats it up again.
const CPU_LINEAR: f64 = 0.8;
/// Multiply-adds per second and thread of unmeasured CPU attention, as a share of the f32 peak.
const CPU_ATTEND: f64 = 0.35;
/// Kernel classes of the layers' matrices in int8 per channel: by blocks of rows, and through tiles where there are any.
const CHANNEL: &str = "linear.int8_channel";
const CHANNEL_TILES: &str = "linear.int8_channel_tiles";
/// Rows of a tile.
const TILE_ROWS: u32 = ir::kernel::TILE_ROWS as u32;
/// Rows from which a tile of 16 rows is taken to be faster than blocks of rows where it was not measured: an estimate, from
/// a machine on which blocks were faster up to 8 rows and tiles from about 10.
const TILE_FROM: u32 = 10;
/// What the bound of a page costs where that was not measured, as key × query-head pairs of attention with one row.
const CHOICE_PAIRS: f64 = 3.0;
/// Tokens per page.
#[allow(clippy::cast_precision_loss, reason = "a page is a few tokens")]
const PAGE: f64 = ir::program::PAGE as f64;

/// One sequence of a step: how many new rows it brings and how many keys it has afterwards.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Part {
    /// Sequences of this kind.
    pub count: f64,
    /// New rows of each.
    pub rows: f64,
    /// Keys before the step, of its own.
    pub keys: f64,
    /// Keys before the step that all sequences of the part share.
    pub shared: f64,
    /// Shared keys are read once for all (cascade) instead of once per sequence.
    pub together: bool,
}

/// Cost of a step or of many.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Time {
    /// Seconds in linear layers and the output matrix.
    pub linear: f64,
    /// Seconds in attention.
    pub attend: f64,
    /// Seconds in launches or barriers.
    pub launch: f64,
    /// Operations, two per multiply-add.
    pub flops: f64,
    /// Bytes of weights read.
    pub weight_bytes: f64,
    /// Bytes of KV read and written.
    pub kv_bytes: f64,
    /// Share of the time without launches in which memory, not arithmetic, is the limit.
    pub memory_bound: f64,
}

impl Time {
    /// Seconds.
    #[must_use]
    pub fn seconds(&self) -> f64 {
        self.linear + self.attend + self.launch
    }

    /// The same `n` times over.
    #[must_use]
    pub fn times(self, n: f64) -> Self {
        Self {
            linear: self.linear * n,
            attend: self.attend * n,
            launch: self.launch * n,
            flops: self.flops * n,
            weight_bytes: self.weight_bytes * n,
            kv_bytes: self.kv_bytes * n,
            memory_bound: self.memory_bound,
        }
    }

    /// One after the other.
    #[must_use]
    pub fn then(self, next: Self) -> Self {
        let (a, b) = (self.linear + self.attend, next.linear + next.attend);
        let bound = if a + b > 0.0 { (self.memory_bound * a + next.memory_bound * b) / (a + b) } else { 0.0 };
        Self {
            linear: self.linear + next.linear,
            attend: self.attend + next.attend,
            launch: self.launch + next.launch,
            flops: self.flops + next.flops,
            weight_bytes: self.weight_bytes + next.weight_bytes,
            kv_bytes: self.kv_bytes + next.kv_bytes,
            memory_bound: bound,
        }
    }

    /// As a plan's cost.
    #[must_use]
    pub fn cost(&self, tokens: f64, kv_bytes: f64, target: &Target) -> Cost {
        Cost {
            seconds: self.seconds(),
            flops: self.flops,
            bytes: self.weight_bytes + self.kv_bytes,
            tokens,
            kv_bytes,
            usd: self.seconds() / 3600.0 * target.usd_per_hour,
        }
    }

    /// `memory: weights 96 %, KV 4 %` or `compute`.
    #[must_use]
    pub fn bound_by(&self) -> String {
        let bytes = self.weight_bytes + self.kv_bytes;
        if self.launch > self.linear + self.attend {
            "barriers and launches".to_owned()
        } else if self.memory_bound >= 0.5 && bytes > 0.0 {
            let share = (100.0 * self.weight_bytes / bytes).round();
            format!("memory: weights {share:.0} %, KV {:.0} %", 100.0 - share)
        } else if self.attend > self.linear {
            "attention".to_owned()
        } else {
            "compute".to_owned()
        }
    }
}

/// A model on a target with a number of threads.
#[derive(Clone, Debug)]
pub struct Roofline<'a> {
    model: &'a Model,
    target: &'a Target,
    threads: u32,
    /// Matrices of the layers by type, then the output matrix.
    layers: Vec<Linear>,
    head: Linear,
    numerics: Numerics,
    /// Rows from which the layers' matrices go through tiles; 0: never.
    tile_from: u32,
    kv: KvFormat,
    /// Which pages decoded tokens attend to.
    pages: ir::schedule::Attention,
    prologue: Prologue,
}

/// What choosing pages takes in a step.
#[derive(Clone, Copy, Debug, Default)]
struct Choice {
    /// Pages of a sequence.
    pages: f64,
    /// Bounds of a page for one KV head, over all sequences and layers.
    bounds: f64,
}

/// Matrices of one type.
#[derive(Clone, Debug)]
struct Linear {
    /// Kernel class that prices them.
    class: String,
    /// Multiply-adds per row.
    macs: f64,
    /// Resident bytes.
    bytes: f64,
    /// Where `class` is a stand-in: how many times as fast as its arithmetic this one is taken to be.
    gain: Option<f64>,
}

/// Rows whose arithmetic is paid for where those beyond a tile's worth are `gain` times as fast: few rows wait for memory
/// between their products, and faster products do not shorten that.
fn paid(rows: f64, gain: f64) -> f64 {
    let few = rows.min(float(TILE_ROWS));
    few + (rows - few) / gain
}

fn float(x: u32) -> f64 {
    f64::from(x)
}

impl<'a> Roofline<'a> {
    /// A model on a target with all its threads, in the default class, cache and attention, with fused prologues.
    #[must_use]
    pub fn new(model: &'a Model, target: &'a Target) -> Self {
        let (layers, head) = weights(model, target, Numerics::Int8);
        let (kv, pages) = (KvFormat::F16, ir::schedule::Attention::Dense);
        let (threads, numerics) = (target.threads.max(1), Numerics::Int8);
        Self { model, target, threads, layers, head, numerics, tile_from: 0, kv, pages, prologue: Prologue::Fused }
    }

    /// The same with another number of threads; more than the target has are no faster.
    #[must_use]
    pub fn with_threads(&self, threads: u32) -> Self {
        Self { threads: threads.max(1), ..self.clone() }.tiled()
    }

    /// The same in another arithmetic class: what its matrices hold in memory, and which rates price them.
    #[must_use]
    pub fn with_numerics(&self, numerics: Numerics) -> Self {
        let (layers, head) = weights(self.model, self.target, numerics);
        Self { layers, head, numerics, ..self.clone() }.tiled()
    }

    /// The same with tiles from where on its threads are faster with them.
    fn tiled(self) -> Self {
        let slower = |rows: &u32| self.tile_gain(float(*rows)).is_some_and(|gain| gain > 1.0);
        let tile_from = match (self.target.isa.amx_int8 && self.numerics == Numerics::Int8Channel, self.tile_gain(1.0))
        {
            (false, _) => 0,
            (true, None) => TILE_FROM,
            (true, Some(_)) => (1..=TILE_ROWS).find(slower).unwrap_or(0),
        };
        Self { tile_from, ..self }
    }

    /// Rows from which products of int8 per channel go through tiles of 16 rows, 1 to 16: the fewest whose blocks were
    /// measured to take longer than a whole tile does. 0: never, or no such tiles or class.
    #[must_use]
    pub fn tile_from(&self) -> u32 {
        self.tile_from
    }

    /// Time of `rows` rows by blocks over that of a whole tile, both out of caches: the weights of a tile's rows and of the
    /// rows beside them are read once. `None` where it was not measured.
    pub(crate) fn tile_gain(&self, rows: f64) -> Option<f64> {
        let tile = float(TILE_ROWS);
        let blocks = rows / self.target.kernel_rate(CHANNEL, rows, 0.0, self.threads)?;
        Some(blocks / (tile / self.target.kernel_rate(CHANNEL_TILES, tile, 0.0, self.threads)?))
    }

    /// The same with another cache and attention of decoded tokens.
    #[must_use]
    pub fn with_cache(&self, kv: KvFormat, attention: ir::schedule::Attention) -> Self {
        Self { kv, pages: attention, ..self.clone() }
    }

    /// The same with prologues elsewhere: more launches, or none of their own.
    #[must_use]
    pub fn with_prologue(&self, prologue: Prologue) -> Self {
        Self { prologue, ..self.clone() }
    }

    /// Launches of a step.
    #[must_use]
    pub fn launches(&self) -> Launches {
        Launches::of(self.model.layers, self.prologue, self.kv, self.pages)
    }

    /// Bytes of KV per token, with scales and summaries.
    #[must_use]
    #[allow(clippy::cast_precision_loss, reason = "bytes per token are far below 2^53")]
    pub fn kv_bytes_per_token(&self) -> f64 {
        page_bytes(self.model, self.kv, self.pages) as f64 / PAGE
    }

    /// The model.
    #[must_use]
    pub fn model(&self) -> &'a Model {
        self.model
    }

    /// The target.
    #[must_use]
    pub fn target(&self) -> &'a Target {
        self.target
    }

    /// Bytes of resident weights: tiles as the kernels read them, 16 bits per parameter for shapes without tensors.
    #[must_use]
    pub fn weight_bytes(&self) -> f64 {
        self.layer_bytes() + self.head_bytes()
    }

    /// Bytes of the layers' weights.
    #[must_use]
    pub fn layer_bytes(&self) -> f64 {
        self.layers.iter().map(|l| l.bytes).sum()
    }

    /// Bytes of the output matrix.
    #[must_use]
    pub fn head_bytes(&self) -> f64 {
        self.head.bytes
    }

    /// Multiply-adds of the layers per row.
    #[must_use]
    pub fn layer_macs(&self) -> f64 {
        self.layers.iter().map(|l| l.macs).sum()
    }

    /// Seconds of matrices over `rows` rows in a step that goes through `working_set` bytes.
    fn linear(&self, linear: &Linear, rows: f64, working_set: f64) -> f64 {
        if self.tile_from > 0 && rows >= float(self.tile_from) && linear.class == CHANNEL {
            // Rows that fill a part of a tile take as long as all of it.
            let rows = rows.max(float(TILE_ROWS));
            if let Some(rate) = self.target.kernel_rate(CHANNEL_TILES, rows, working_set, self.threads) {
                return rows * linear.macs / rate;
            }
        }
        let work = rows * linear.macs;
        let streamed = linear.bytes / self.target.read_bandwidth(working_set, self.threads);
        if let Some(rate) = self.target.kernel_rate(&linear.class, rows, working_set, self.threads) {
            return linear.gain.map_or(work / rate, |gain| (linear.macs * paid(rows, gain) / rate).max(streamed));
        }
        let peak = self.target.flops / 2.0;
        let rate = match self.target.kind {
            TargetKind::Gpu => peak,
            TargetKind::Cpu => CPU_LINEAR * peak * self.thread_share(),
        };
        (linear.macs * paid(rows, linear.gain.unwrap_or(1.0)) / rate).max(streamed)
    }

    fn thread_share(&self) -> f64 {
        (float(self.threads) / float(self.target.threads.max(1))).min(1.0)
    }

    /// Seconds of a launch; one thread waits for nobody.
    fn launch(&self) -> f64 {
        if self.target.kind == TargetKind::Cpu && self.threads == 1 { 0.0 } else { self.target.launch }
    }

    /// Query heads that read a key together when `rows` rows may.
    fn together(&self, rows: f64) -> f64 {
        let group = (self.model.heads / self.model.kv_heads.max(1)).max(1);
        match self.target.kind {
            TargetKind::Gpu => float(group) * rows,
            TargetKind::Cpu => float(group) * rows.min(float(attend_rows(self.model, self.target))),
        }
    }

    /// Key × query-head pairs per second of attention when `rows` rows may share the keys they read, which come out of
    /// a working set of `bytes`.
    fn attend_rate(&self, rows: f64, bytes: f64) -> f64 {
        let head_dim = float(self.model.head_dim);
        let measured = |class| self.target.kernel_rate(class, self.together(rows), bytes, self.threads);
        let rate = match self.kv {
            KvFormat::F16 => measured("attend"),
            KvFormat::Int8 => measured("attend.int8").or_else(|| measured("attend")),
        };
        match self.target.kind {
            TargetKind::Gpu => self.target.flops / (4.0 * head_dim),
            TargetKind::Cpu => rate.map_or_else(
                || CPU_ATTEND * self.target.flops / 2.0 * self.thread_share() / (2.0 * head_dim),
                |rate| rate * 64.0 / head_dim,
            ),
        }
    }

    /// Seconds of choosing pages, in a step that goes through `working_set` bytes.
    fn choose(&self, choice: Choice, working_set: f64) -> f64 {
        if choice.bounds == 0.0 {
            return 0.0;
        }
        match self.target.kernel_rate("choose", choice.pages, working_set, self.threads) {
            Some(rate) => choice.bounds / (rate * 64.0 / float(self.model.head_dim)),
            None => choice.bounds * CHOICE_PAIRS / self.attend_rate(1.0, working_set),
        }
    }

    /// Seconds of attention of one part of a step that goes through `working_set` bytes. Keys come from there once; rows
    /// that read them again find one layer's keys in a cache near the core.
    fn attend(&self, p: &Part, working_set: f64) -> f64 {
        let m = self.model;
        let (heads, layers) = (float(m.heads), float(m.layers));
        let per_token = self.kv_bytes_per_token() / layers;
        let seconds = |readers: f64, rows: f64, keys: f64| {
            if readers <= 0.0 || keys <= 0.0 {
                return 0.0;
            }
            let pairs = readers * keys * heads * layers;
            let first = (rows.min(float(attend_rows(m, self.target))) / readers).min(1.0);
            pairs * first / self.attend_rate(rows, working_set)
                + pairs * (1.0 - first) / self.attend_rate(rows, keys * per_token)
        };
        // Causal attention within the new rows: half of them on average, itself included.
        let own = p.count * seconds(p.rows, p.rows, p.keys + (p.rows + 1.0) / 2.0);
        let together = if p.together { p.count * p.rows } else { p.rows };
        own + seconds(p.count * p.rows, together, p.shared)
    }

    /// One step over `parts`, with logits for `heads` rows.
    #[must_use]
    pub fn step(&self, parts: &[Part], heads: f64) -> Time {
        let m = self.model;
        let rows: f64 = parts.iter().map(|p| p.count * p.rows).sum();
        if rows == 0.0 {
            return Time::default();
        }
        let head_bytes = if heads > 0.0 { self.head_bytes() } else { 0.0 };
        let weight_bytes = self.layer_bytes() + head_bytes;
        let per_token = self.kv_bytes_per_token();
        let (mut pairs, mut kv_bytes, mut resident) = (0.0, 0.0, 0.0);
        let (parts, choices): (Vec<Part>, Vec<Choice>) = parts.iter().map(|p| self.part(*p)).unzip();
        for p in &parts {
            let seen = p.count * p.rows * (p.keys + (p.rows + 1.0) / 2.0 + p.shared);
            let read_shared = if p.together { p.shared } else { p.count * p.shared };
            pairs += seen * float(m.heads);
            kv_bytes += (read_shared + p.count * (p.keys + p.rows)) * per_token;
            resident += (p.shared + p.count * (p.keys + p.rows)) * per_token;
        }
        let working_set = self.weight_bytes() + resident;
        let bandwidth = self.target.read_bandwidth(working_set, self.threads);
        let layers: f64 = self.layers.iter().map(|l| self.linear(l, rows, working_set)).sum();
        let head = if heads > 0.0 { self.linear(&self.head, heads, working_set) } else { 0.0 };
        let mut attend: f64 = parts.iter().map(|p| self.attend(p, working_set)).sum();
        attend += choices.iter().map(|c| self.choose(*c, working_set)).sum::<f64>();
        let kv_time = kv_bytes / bandwidth;
        if self.target.kernel_rate("attend", 1.0, working_set, self.threads).is_none() {
            attend = attend.max(kv_time);
        }
        let head_macs = if heads > 0.0 { heads * self.head.macs } else { 0.0 };
        let launches = self.launches();
        #[allow(clippy::cast_precision_loss, reason = "a few launches a layer")]
        let launches = (launches.layers + if heads > 0.0 { launches.head } else { 0 }) as f64;
        let flops = 2.0 * (rows * self.layer_macs() + head_macs) + 4.0 * pairs * float(m.head_dim) * float(m.layers);
        Time {
            linear: layers + head,
            attend,
            launch: launches * self.launch(),
            flops,
            weight_bytes,
            kv_bytes,
            memory_bound: {
                let streamed = (weight_bytes / bandwidth).min(layers + head) + kv_time.min(attend);
                streamed / (layers + head + attend).max(f64::MIN_POSITIVE)
            },
        }
    }

    /// A part as layers see it on average where decoded rows attend to some of the pages, and how these are chosen.
    fn part(&self, p: Part) -> (Part, Choice) {
        let m = self.model;
        let (keys, layers) = (p.keys + p.shared, float(m.layers));
        let most = self.pages.pages().map_or(f64::INFINITY, |n| float(n) * PAGE);
        if p.rows != 1.0 || keys <= most {
            return (p, Choice::default());
        }
        let sparse = (layers - float(self.pages.dense_layers())).max(0.0);
        let share = (sparse * most / keys + (layers - sparse)) / layers;
        let seen = Part { keys: p.keys * share, shared: p.shared * share, together: false, ..p };
        let pages = if self.pages.chooses() { keys / PAGE } else { 0.0 };
        (seen, Choice { pages, bounds: p.count * pages * float(m.kv_heads) * sparse })
    }

    /// Prefill of `rows` tokens in steps of at most `chunk`, after `keys` cached tokens, with logits for the last row.
    /// Very long prompts are priced at the middles of equal stretches.
    #[must_use]
    pub fn prefill(&self, rows: f64, keys: f64, chunk: f64) -> Time {
        const STEPS: f64 = 64.0;
        let chunk = chunk.max(1.0);
        let part = |rows, keys| [Part { count: 1.0, rows, keys, shared: 0.0, together: false }];
        let full = ((rows / chunk).ceil() - 1.0).max(0.0);
        let stretches = full.min(STEPS);
        let mut time = Time::default();
        let mut i = 0.0;
        while i < stretches {
            let middle = (full / stretches) * (i + 0.5) - 0.5;
            time = time.then(self.step(&part(chunk, keys + middle * chunk), 0.0).times(full / stretches));
            i += 1.0;
        }
        time.then(self.step(&part(rows - full * chunk, keys + full * chunk), 1.0))
    }

    /// Decode of `tokens` steps by `branches` sequences over a shared prompt: the sum over the steps, integrated at the
    /// middle of eight equal stretches.
    #[must_use]
    pub fn decode(&self, branches: f64, prompt: f64, tokens: f64, together: bool) -> Time {
        const STRETCHES: u32 = 8;
        let mut time = Time::default();
        for i in 0..STRETCHES {
            let keys = tokens * (float(i) + 0.5) / float(STRETCHES);
            let part = Part { count: branches, rows: 1.0, keys, shared: prompt, together };
            time = time.then(self.step(&[part], branches).times(tokens / float(STRETCHES)));
        }
        time
    }
}

/// Bytes of a page of KV over all layers, with scales and summaries.
pub(crate) fn page_bytes(model: &Model, kv: KvFormat, attention: ir::schedule::Attention) -> u64 {
    let summary = if attention.chooses() { summary_bytes(u64::from(model.head_dim)) } else { 0 };
    let head = 2 * kv.head_bytes(u64::from(model.head_dim)) + summary;
    u64::from(model.layers).saturating_mul(u64::from(model.kv_heads)).saturating_mul(head)
}

/// Rows that an attention item may hold: as many as keep their sums in registers.
#[must_use]
pub fn attend_rows(model: &Model, target: &Target) -> u32 {
    let group = (model.heads / model.kv_heads.max(1)).max(1);
    let registers = if target.isa.avx512 { 28 } else { 6 };
    (registers / group).clamp(1, 8)
}

/// Types that are not measured, with the measured one of nearest size and unpacking.
const STAND_INS: &[(DType, DType)] = &[
    (DType::Q4_0, DType::Q4_1),
    (DType::Q5_1, DType::Q5_0),
    (DType::Q5_K, DType::Q4_K),
    (DType::BF16, DType::F16),
    (DType::F32, DType::F16),
];

/// The class that prices a type on a target.
fn class(kind: &str, dtype: DType, target: &Target) -> String {
    let name = |d: DType| format!("{kind}.{}", d.name().to_lowercase());
    let own = name(dtype);
    let measured = target.kernels.iter().any(|k| k.class == own);
    match STAND_INS.iter().find(|(d, _)| *d == dtype) {
        Some((_, other)) if !measured => name(*other),
        _ => own,
    }
}

/// How many times as fast as that of a stored type the arithmetic of int8 per channel is taken to be where it was not
/// measured. From prompts of 512 tokens on one core (Zen 4, SmolLM2): 1.26 times the tokens per second with byte products
/// (VNNI), where scales per block cost much beside them; 0.87 with AVX2, whose emulated products cost more and leave mixing on
/// top. The layers' share of those times is about five sixths. Few rows gain nothing: see [`paid`].
fn channel_gain(target: &Target) -> f64 {
    match (target.kind, target.isa.vnni) {
        (TargetKind::Gpu, _) => 1.0,
        (TargetKind::Cpu, true) => 1.3,
        (TargetKind::Cpu, false) => 0.85,
    }
}

/// The layers' matrices in int8 per channel: priced by their own class, or by the stored type of nearest size where that was
/// not measured.
fn channel(target: &Target, macs: f64, bytes: f64) -> Linear {
    if target.kernels.iter().any(|k| k.class == CHANNEL) {
        return Linear { class: CHANNEL.to_owned(), macs, bytes, gain: None };
    }
    Linear { class: class("linear", DType::Q8_0, target), macs, bytes, gain: Some(channel_gain(target)) }
}

/// The layers' matrices by type, and the output matrix. Shapes without tensors count as 16 bits per parameter.
#[allow(clippy::cast_precision_loss, clippy::cast_possible_truncation, reason = "weights are far below 2^53 bytes")]
fn weights(model: &Model, target: &Target, numerics: Numerics) -> (Vec<Linear>, Linear) {
    let m = model;
    let head_macs = float(m.hidden) * float(m.vocab);
    if model.tensors.is_empty() {
        let (h, q, kv) = (float(m.hidden), float(m.heads * m.head_dim), float(m.kv_heads * m.head_dim));
        let macs = float(m.layers) * (h * (q + 2.0 * kv) + q * h + 3.0 * h * float(m.ffn));
        let f16 = |kind, macs, bytes| Linear { class: class(kind, DType::F16, target), macs, bytes, gain: None };
        let head = f16("head", head_macs, 2.0 * head_macs);
        let bytes = (2.0 * model.parameters as f64 - head.bytes).max(0.0);
        let layers = match numerics {
            Numerics::Int8Channel => channel(target, macs, bytes / 2.0),
            Numerics::Int8 | Numerics::F32 => f16("linear", macs, bytes),
        };
        return (vec![layers], head);
    }
    let size = |t: &ir::model::Tensor| match t.shape[..] {
        [k, n] => (k as f64 * n as f64, tile_bytes(t.dtype, k as usize) as f64 * n.div_ceil(16) as f64),
        _ => (0.0, 4.0 * t.shape.iter().product::<u64>() as f64),
    };
    let mut layers: Vec<Linear> = Vec::new();
    if numerics == Numerics::Int8Channel {
        let (mut macs, mut bytes) = (0.0, 0.0);
        for t in model.tensors.iter().filter(|t| t.name.starts_with("blk.")) {
            if let [k, n] = t.shape[..] {
                macs += k as f64 * n as f64;
                bytes += channel_tile_bytes(k as usize) as f64 * n.div_ceil(16) as f64;
            } else {
                bytes += size(t).1;
            }
        }
        layers.push(channel(target, macs, bytes));
    }
    for dtype in DType::ALL.into_iter().filter(|_| numerics != Numerics::Int8Channel) {
        let (mut macs, mut bytes) = (0.0, 0.0);
        for t in model.tensors.iter().filter(|t| t.dtype == dtype && t.name.starts_with("blk.")) {
            let (m, b) = size(t);
            macs += m;
            bytes += b;
        }
        if bytes > 0.0 {
            layers.push(Linear { class: class("linear", dtype, target), macs, bytes, gain: None });
        }
    }
    let name = if model.tensor("output.weight").is_some() { "output.weight" } else { "token_embd.weight" };
    let (dtype, bytes) = model.tensor(name).map_or((DType::F16, 2.0 * head_macs), |t| (t.dtype, size(t).1));
    (layers, Linear { class: class("head", dtype, target), macs: head_macs, bytes, gain: None })
}

/// Seconds, FLOPs and bytes of a workload as `inferc cost` prices it: decode only, like the Kinetics formulas, with
/// weights and launches; the prompt's KV is read once per step for all trials, selected keys once per trial.
///
/// # Errors
/// When weights and KV do not fit into the target's memory: says by how much.
pub fn workload(model: &Model, work: Workload, attention: Attention, target: &Target) -> Result<Cost, String> {
    #[allow(clippy::cast_precision_loss, reason = "token counts are limited far below 2^53")]
    let (c, g, n) = (work.prompt as f64, work.generated as f64, work.trials as f64);
    let roofline = Roofline::new(model, target);
    #[allow(clippy::cast_precision_loss, reason = "bytes per token are far below 2^53")]
    let per_token = model.kv_bytes_per_token() as f64;
    let kv = (c + n * g) * per_token;
    let need = roofline.weight_bytes() + kv;
    if need > target.memory {
        return Err(format!(
            "{} needs {:.1} GB for weights and {:.1} GB for KV, {} has {:.1} GB",
            model.name,
            roofline.weight_bytes() / 1e9,
            kv / 1e9,
            target.name,
            target.memory / 1e9
        ));
    }
    let dense = roofline.decode(n, c, g, true);
    let time = if attention == Attention::Dense {
        dense
    } else {
        // Attention is replaced by what the exact sparse formulas read and compute; the rest of the step stays.
        let sparse = kinetics::cost(model, work, attention, Mode::Exact);
        #[allow(clippy::cast_precision_loss, reason = "parameters are far below 2^53")]
        let linear_flops = n * 2.0 * model.parameters as f64 * g;
        let pairs = (sparse.flops - linear_flops).max(0.0) / (4.0 * float(model.head_dim));
        let working_set = roofline.weight_bytes() + kv;
        let compute = pairs / roofline.attend_rate(1.0, working_set);
        let memory = sparse.bytes / target.read_bandwidth(working_set, target.threads);
        Time {
            attend: compute.max(memory),
            kv_bytes: sparse.bytes,
            flops: dense.flops - 4.0 * dense_pairs(model, c, g, n) * float(model.head_dim)
                + 4.0 * pairs * float(model.head_dim),
            ..dense
        }
    };
    Ok(time.cost(n * g, kv, target))
}

/// Key × query-head pairs over all layers of a dense decode, as [`Roofline::decode`] counts them.
fn dense_pairs(model: &Model, c: f64, g: f64, n: f64) -> f64 {
    n * g * (c + g / 2.0 + 1.0) * float(model.heads) * float(model.layers)
}

#[cfg(test)]
mod tests {
    use super::*;
    use ir::{model::known, target::builtin};

    /// The what-if table of the language's documentation: ideal roofline, decode only, 200-token prompt, 1000 tokens.
    #[test]
    fn ideal_decode_of_an_8b_model_on_known_machines() {
        let model = known("qwen3-8b").expect("a row of the table");
        for (name, seconds) in [
            ("b200", [2.06, 2.12, 2.35, 3.23]),
            ("h200", [3.43, 3.54, 3.91, 5.38]),
            ("h100", [4.92, 5.07, 5.60, 7.71]),
            ("a100", [8.08, 8.34, 9.20, 12.67]),
            ("l40s", [19.1, 19.7, 21.7, 29.9]),
        ] {
            let mut target = builtin(name).expect("a built-in profile");
            target.launch = 0.0;
            let roofline = Roofline::new(&model, &target);
            for (n, want) in [1.0, 8.0, 32.0, 128.0].into_iter().zip(seconds) {
                let got = roofline.decode(n, 200.0, 1000.0, true).seconds();
                assert!((got - want).abs() <= 0.012 * want, "{name} n={n}: {got} is not {want}");
            }
        }
    }

    /// Prologues of their own are three more barriers a layer and one more before the output matrix, on several threads.
    #[test]
    fn every_launch_is_priced() {
        let model = known("smollm2-135m").expect("a row of the table");
        let target = ir::target::Target { launch: 1e-6, ..builtin("reference").expect("a built-in profile") };
        let part = [Part { count: 4.0, rows: 1.0, keys: 10.0, shared: 100.0, together: false }];
        let launches = |roofline: Roofline<'_>, heads| {
            let step = roofline.with_threads(2).step(&part, heads);
            assert_eq!(roofline.with_threads(1).step(&part, heads).launch, 0.0, "one thread waits for nobody");
            (step.launch / 1e-6).round()
        };
        let (fused, layers) = (Roofline::new(&model, &target), float(model.layers));
        let split = fused.with_prologue(Prologue::Split);
        assert_eq!([0.0, 4.0].map(|heads| launches(fused.clone(), heads)), [5.0 * layers, 5.0 * layers + 2.0]);
        assert_eq!([0.0, 4.0].map(|heads| launches(split.clone(), heads)), [8.0 * layers, 8.0 * layers + 3.0]);
        let int8 = split.with_cache(KvFormat::Int8, ir::schedule::Attention::Dense);
        assert_eq!(launches(int8, 0.0), 9.0 * layers);
    }

    #[test]
    fn more_bandwidth_is_never_slower() {
        let model = known("smollm2-135m").expect("a row of the table");
        let mut slow = builtin("reference").expect("a built-in profile");
        let a = Roofline::new(&model, &slow).decode(8.0, 512.0, 64.0, false).seconds();
        slow.bandwidth *= 2.0;
        let b = Roofline::new(&model, &slow).decode(8.0, 512.0, 64.0, false).seconds();
        assert!(b <= a);
    }
}
