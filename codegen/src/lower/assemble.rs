//! The program around the kernels: checks, weights, buffers, launches.
//!
//! Takes what [`super::program`] takes. Tensor names are GGUF's.

use super::build::{Built, Role, Slot};
use super::channel_tiles::SPARE_ROWS;
use super::linear::{Blocking, Resident};
use super::pages::Choice;
use super::prologue::{Attended, Norm, alone};
use super::record::Record;
use super::{Dims, Error, append, attend, ffn, finalise, fork, head, project, qkv, sample, step_words};
use ir::model::Model;
use ir::program::{
    Arg, Buf, CHOICE_WORDS, DRAW_WORDS, EDIT_WORDS, FACT_WORDS, ITEM_WORDS, Launch, MOST_PAGES, PAGE, PICK_WORDS,
    Program, ROW_WORDS, RowOrder, STAT_WORDS, STEP_WORDS, Size, Source, Weight, mask_bytes,
};
use ir::schedule::{Attention, KvFormat, ModelSchedule, Numerics, Prologue};
use ir::tensor::{DType, SUPER_K, TILE_K, channel_block};
use std::collections::BTreeMap;

/// Widest residual stream, feed-forward layer or row of heads.
const MAX_WIDTH: u64 = 1 << 20;
/// Largest vocabulary: token numbers are exact as f32.
const MAX_VOCAB: u64 = 1 << 24;
/// Widest head: its state lives in registers while partials are folded.
const MAX_HEAD_DIM: u64 = 256;
/// Most query heads per KV head: their scores of a chunk lie on the stack.
const MAX_GROUP: u64 = 64;
/// Most layers.
const MAX_LAYERS: u64 = 4096;
/// Longest context.
const MAX_CONTEXT: u64 = 1 << 24;
/// Most rows of a step, and threads.
const MAX_ROWS: u64 = 1 << 20;

/// Tensors that would change the meaning of the model if they were left out.
const UNSUPPORTED: [(&str, &str); 5] = [
    ("attn_q_norm.weight", "norms of queries are not computed"),
    ("attn_k_norm.weight", "norms of keys are not computed"),
    ("attn_output.bias", "a bias on the attention output is not computed"),
    ("ffn_gate_inp.weight", "mixtures of experts are not computed"),
    ("ffn_down.bias", "biases in the feed-forward layer are not computed"),
];

pub(super) fn program(model: &Model, schedule: &ModelSchedule) -> Result<Program, Error> {
    let dims = dims(model, schedule)?;
    let mut a = Assembly::new(model, schedule, dims);
    for layer in 0..model.layers {
        a.layer(layer)?;
    }
    a.head()?;
    a.sample();
    a.fork();
    Ok(a.finish())
}

fn check(ok: bool, field: &'static str, value: u64, reason: &'static str) -> Result<(), Error> {
    if ok { Ok(()) } else { Err(Error::Model { field, value, reason }) }
}

fn dims(model: &Model, s: &ModelSchedule) -> Result<Dims, Error> {
    let [hidden, heads, kv_heads, head_dim, ffn, vocab] =
        [model.hidden, model.heads, model.kv_heads, model.head_dim, model.ffn, model.vocab].map(u64::from);
    let whole = "must be a positive multiple of 32, at most 1048576";
    let wide = |v: u64| v > 0 && v.is_multiple_of(TILE_K as u64) && v <= MAX_WIDTH;
    check(wide(hidden), "hidden width", hidden, whole)?;
    check(wide(ffn), "feed-forward width", ffn, whole)?;
    check(heads > 0 && heads <= MAX_WIDTH, "number of heads", heads, "must be positive, at most 1048576")?;
    let divides = kv_heads > 0 && heads.is_multiple_of(kv_heads);
    check(divides, "number of KV heads", kv_heads, "must be positive and divide the number of heads")?;
    let group = heads / kv_heads;
    check(group <= MAX_GROUP, "number of heads per KV head", group, "must be at most 64")?;
    let fits = head_dim > 0 && head_dim.is_multiple_of(32) && head_dim <= MAX_HEAD_DIM;
    check(fits, "head dimension", head_dim, "must be a positive multiple of 32, at most 256")?;
    check(heads * head_dim <= MAX_WIDTH, "width of all heads", heads * head_dim, "must be at most 1048576")?;
    check(vocab > 0 && vocab <= MAX_VOCAB, "vocabulary", vocab, "must be positive, at most 16777216")?;
    let layers = u64::from(model.layers);
    check(layers > 0 && layers <= MAX_LAYERS, "number of layers", layers, "must be positive, at most 4096")?;
    let context = u64::from(model.context);
    check(context > 0 && context <= MAX_CONTEXT, "context", context, "must be positive, at most 16777216")?;
    let eps = u64::from(model.rms_eps.to_bits());
    check(
        model.rms_eps.is_finite() && model.rms_eps >= 0.0,
        "norm epsilon (bits)",
        eps,
        "must be finite, not negative",
    )?;

    let schedule = |ok: bool, field, value: u32, reason| {
        if ok { Ok(()) } else { Err(Error::Schedule { field, value: u64::from(value), reason }) }
    };
    schedule(matches!(s.row_block, 1 | 2 | 4 | 8), "row_block", s.row_block, "must be 1, 2, 4 or 8")?;
    for (field, value) in [
        ("attend_rows", s.attend_rows),
        ("max_rows", s.max_rows),
        ("max_head_rows", s.max_head_rows),
        ("threads", s.threads),
    ] {
        let ok = value > 0 && u64::from(value) <= MAX_ROWS;
        schedule(ok, field, value, "must be positive, at most 1048576")?;
    }
    schedule(s.prefetch <= 1 << 24, "prefetch", s.prefetch, "must be at most 16777216 bytes")?;
    if let Attention::Sparse { top_p, .. } = s.attention {
        schedule((1..=1000).contains(&top_p), "top_p", top_p, "must be 1 to 1000 thousandths")?;
    }
    if let Some(pages) = s.attention.pages() {
        let always = match s.attention {
            Attention::Sparse { sinks, window, .. } | Attention::Window { sinks, window, .. } => {
                schedule(window > 0, "window", window, "must be at least 1, the page that is being filled")?;
                sinks.saturating_add(window)
            }
            Attention::Dense => 0,
        };
        schedule(always <= pages, "sinks and window", always, "must not exceed the pages attended to")?;
        schedule(pages <= 1 << 20, "pages", pages, "must be at most 1048576")?;
        let longest = context.div_ceil(PAGE as u64);
        let fits = !s.attention.chooses() || longest <= MOST_PAGES as u64;
        const { assert!(MOST_PAGES * PAGE == 524_288) };
        check(fits, "context", context, "must be at most 524288 where pages are chosen by bounds")?;
    }
    schedule(s.tile_from <= 16, "tile_from", s.tile_from, "must be at most 16")?;
    let blocking = Blocking {
        rows: i64::from(s.row_block),
        prefetch: i64::from(s.prefetch),
        threads: s.threads > 1,
        numerics: s.numerics,
        tile_from: i64::from(s.tile_from),
    };
    Ok(Dims {
        hidden: i64::from(model.hidden),
        heads: i64::from(model.heads),
        kv_heads: i64::from(model.kv_heads),
        head_dim: i64::from(model.head_dim),
        ffn: i64::from(model.ffn),
        vocab: i64::from(model.vocab),
        eps: model.rms_eps,
        blocking,
        prologue: s.prologue,
        kv: s.kv,
        summaries: s.attention.chooses(),
    })
}

/// Which list a launch goes to.
#[derive(Clone, Copy)]
enum Phase {
    Forward,
    Head,
    Sample,
    Fork,
}

struct Assembly<'a> {
    model: &'a Model,
    schedule: &'a ModelSchedule,
    dims: Dims,
    kernels: Vec<Built>,
    by_name: BTreeMap<String, u32>,
    weights: Vec<Weight>,
    forward: Vec<Launch>,
    head: Vec<Launch>,
    sample: Vec<Launch>,
    fork: Vec<Launch>,
    /// Bytes of scratch per thread and of a row's activations, the most of any kernel.
    scratch: i64,
    act: i64,
}

/// A matrix of the file, found and checked.
#[derive(Clone)]
struct Found {
    name: String,
    /// Type in the file.
    dtype: DType,
    /// What is made of it.
    resident: Resident,
    n: i64,
    k: i64,
}

impl<'a> Assembly<'a> {
    fn new(model: &'a Model, schedule: &'a ModelSchedule, dims: Dims) -> Self {
        Self {
            model,
            schedule,
            dims,
            kernels: Vec::new(),
            by_name: BTreeMap::new(),
            weights: Vec::new(),
            forward: Vec::new(),
            head: Vec::new(),
            sample: Vec::new(),
            fork: Vec::new(),
            scratch: 0,
            act: 0,
        }
    }

    /// A matrix of the file; `run` features of its input are written together, see [`Resident::Int8Channel`].
    fn matrix(&self, name: String, run: i64, k: i64, n: i64) -> Result<Found, Error> {
        let Some(t) = self.model.tensor(&name) else { return Err(Error::Missing { tensor: name }) };
        let expected = vec![k.unsigned_abs(), n.unsigned_abs()];
        if t.shape != expected {
            return Err(Error::Shape { tensor: name, expected, found: t.shape.clone() });
        }
        if t.dtype.block() == SUPER_K && !expected[0].is_multiple_of(SUPER_K as u64) {
            let reason = "needs rows of a multiple of 256 features";
            return Err(Error::Type { tensor: name, dtype: t.dtype, reason });
        }
        // The class int8 per channel rounds the layers' matrices; the output matrix decides between tokens and stays.
        let resident = match self.schedule.numerics {
            Numerics::Int8Channel if name.starts_with("blk.") => {
                let block = channel_block(run.unsigned_abs() as usize).expect("runs are multiples of 32");
                Resident::Int8Channel(block as i64)
            }
            _ => Resident::Stored(t.dtype),
        };
        Ok(Found { name, dtype: t.dtype, resident, n, k })
    }

    fn weight(&mut self, name: &str, source: Source) -> u32 {
        self.weights.push(Weight { name: name.to_owned(), source });
        self.weights.len() as u32 - 1
    }

    fn tiles(&mut self, tensors: &[&Found], rows: RowOrder) -> u32 {
        let first = tensors[0];
        let names: Vec<String> = tensors.iter().map(|t| t.name.clone()).collect();
        let (tensors, dtype, n, k) = (names.clone(), first.dtype, first.n.unsigned_abs(), first.k.unsigned_abs());
        let source = match first.resident {
            Resident::Stored(_) => Source::Tiles { tensors, dtype, n, k, rows },
            Resident::Int8Channel(block) => {
                Source::Int8Channel { tensors, dtype, n, k, rows, block: block.unsigned_abs() }
            }
        };
        self.weight(&names.join("+"), source)
    }

    fn vector(&mut self, name: String, len: i64, rows: RowOrder) -> Result<u32, Error> {
        let Some(t) = self.model.tensor(&name) else { return Err(Error::Missing { tensor: name }) };
        let len = len.unsigned_abs();
        if t.shape != [len] {
            return Err(Error::Shape { tensor: name, expected: vec![len], found: t.shape.clone() });
        }
        if t.dtype.tile().is_some() {
            return Err(Error::Type { tensor: name, dtype: t.dtype, reason: "norms and biases must be floats" });
        }
        Ok(self.weight(&name.clone(), Source::Vector { tensor: name, len, rows }))
    }

    /// Adds a launch of the kernel of this name, which is built when it is new.
    fn launch(
        &mut self,
        phase: Phase,
        name: String,
        layer: u32,
        weights: &[(Role, u32)],
        build: impl FnOnce(&str, &Dims) -> Built,
    ) {
        let kernel = match self.by_name.get(&name) {
            Some(&i) => i,
            None => {
                let i = self.kernels.len() as u32;
                self.kernels.push(build(&name, &self.dims));
                self.by_name.insert(name, i);
                i
            }
        };
        let given = |role: Role| {
            let found = weights.iter().find(|(r, _)| *r == role);
            found.expect("a launch names every weight of its kernel").1
        };
        let args = self.kernels[kernel as usize]
            .slots
            .iter()
            .map(|slot| match *slot {
                Slot::Always(arg) => arg,
                Slot::Weight(role) => Arg::Weight(given(role), 0),
                Slot::Keys => Arg::Kv(layer, false),
                Slot::Values => Arg::Kv(layer, true),
                Slot::Summary => Arg::Summary(layer),
            })
            .map(|arg| if matches!(phase, Phase::Forward) { self.part(layer, arg) } else { arg })
            .collect();
        let list = match phase {
            Phase::Forward => &mut self.forward,
            Phase::Head => &mut self.head,
            Phase::Sample => &mut self.sample,
            Phase::Fork => &mut self.fork,
        };
        list.push(Launch { kernel, args });
    }

    fn split(&self) -> bool {
        self.schedule.prologue == Prologue::Split
    }

    /// A layer that attends to a part of the pages.
    fn in_part(&self, layer: u32) -> bool {
        layer >= self.schedule.attention.dense_layers()
    }

    /// What stands for an argument in a layer: those that attend to a part of the pages have tables of their own.
    fn part(&self, layer: u32, arg: Arg) -> Arg {
        match arg {
            Arg::Buf(Buf::Step) if self.in_part(layer) => Arg::Buf(Buf::PartStep),
            Arg::Buf(Buf::Rows) if self.in_part(layer) => Arg::Buf(Buf::PartRows),
            Arg::Buf(Buf::Items) if self.in_part(layer) => Arg::Buf(Buf::PartItems),
            other => other,
        }
    }

    /// How the lists of pages are chosen, where they are.
    fn choice(&self) -> Option<Choice> {
        let Attention::Sparse { pages, sinks, window, top_p, .. } = self.schedule.attention else { return None };
        let [pages, sinks, window] = [pages, sinks, window].map(i64::from);
        Some(Choice { pages, sinks, window, most: self.pages(), top_p })
    }

    /// Pages of the longest sequence.
    fn pages(&self) -> i64 {
        (i64::from(self.model.context) + PAGE as i64 - 1) / PAGE as i64
    }

    /// What comes between K1 and K2, where anything does.
    fn append(&mut self, layer: u32) {
        let choice = self.choice().filter(|_| self.in_part(layer));
        if self.dims.kv == KvFormat::F16 && choice.is_none() {
            return;
        }
        let name = if choice.is_some() { "append.choose" } else { "append" };
        self.launch(Phase::Forward, name.to_owned(), layer, &[], |name, dims| {
            append::kernel(name, dims, choice.as_ref())
        });
    }

    /// Records that are read behind the last one.
    fn spare_rows(&self) -> i64 {
        if self.schedule.tile_from > 0 { SPARE_ROWS } else { 0 }
    }

    /// Counts a record kept in scratch for `rows` rows.
    fn needs_scratch(&mut self, record: &Record, rows: u32) {
        self.scratch = self.scratch.max(record.stride() * (i64::from(rows) + self.spare_rows()));
    }

    /// A norm split off, when it is.
    fn norm(&mut self, layer: u32, record: &Record, gain: u32) {
        self.needs_scratch(record, self.schedule.max_rows);
        if self.split() {
            let name = format!("norm.{}", record.tag());
            self.launch(Phase::Forward, name, layer, &[(Role::Gain, gain)], |name, dims| {
                alone(name, dims, record, step_words::ROWS, |b| Norm::declare(b, false))
            });
        }
    }

    fn layer(&mut self, layer: u32) -> Result<(), Error> {
        let at = |suffix: &str| format!("blk.{layer}.{suffix}");
        for (suffix, reason) in UNSUPPORTED {
            if self.model.tensor(&at(suffix)).is_some() {
                return Err(Error::Unsupported { tensor: at(suffix), reason });
            }
        }
        self.attention(layer)?;
        self.feed_forward(layer)
    }

    fn attention(&mut self, layer: u32) -> Result<(), Error> {
        let at = |suffix: &str| format!("blk.{layer}.{suffix}");
        let mechanisms = self.model.family.mechanisms();
        let Dims { hidden, heads, kv_heads, head_dim, .. } = self.dims;
        let (q_n, kv_n) = (heads * head_dim, kv_heads * head_dim);
        // Either way a pair of tiles holds what rope turns together, see `qkv`.
        let turned = match mechanisms.rope_pairs {
            true => RowOrder::PairsToHalves(32),
            false => RowOrder::HalvesTogether(self.model.head_dim),
        };

        let gain = self.vector(at("attn_norm.weight"), hidden, RowOrder::File)?;
        let mut weights = vec![(Role::Gain, gain)];
        let mut kinds = [Resident::Stored(DType::F32); 3];
        let parts = [
            ("attn_q", Role::Query, Role::QueryBias, q_n, turned),
            ("attn_k", Role::Key, Role::KeyBias, kv_n, turned),
            ("attn_v", Role::Value, Role::ValueBias, kv_n, RowOrder::File),
        ];
        for (i, (name, role, bias_role, n, order)) in parts.into_iter().enumerate() {
            let found = self.matrix(at(&format!("{name}.weight")), hidden, hidden, n)?;
            kinds[i] = found.resident;
            weights.push((role, self.tiles(&[&found], order)));
            let bias = at(&format!("{name}.bias"));
            if mechanisms.qkv_bias {
                weights.push((bias_role, self.vector(bias, n, order)?));
            } else if self.model.tensor(&bias).is_some() {
                return Err(Error::Unsupported { tensor: bias, reason: "this family has no biases on q, k, v" });
            }
        }
        let record = qkv::record(&self.dims, &kinds);
        self.norm(layer, &record, gain);
        let name = kernel_name("qkv", &kinds);
        self.launch(Phase::Forward, name, layer, &weights, |name, dims| {
            qkv::kernel(name, dims, &kinds, mechanisms.qkv_bias)
        });
        self.append(layer);
        let attend_rows = i64::from(self.schedule.attend_rows);
        let trimmed = self.in_part(layer) && self.schedule.attention.trims();
        let name = if trimmed { "attend.trimmed" } else { "attend" };
        self.launch(Phase::Forward, name.to_owned(), layer, &[], |name, dims| {
            attend::kernel(name, dims, attend_rows, trimmed)
        });

        let found = self.matrix(at("attn_output.weight"), head_dim, q_n, hidden)?;
        let record = project::record(&self.dims, found.resident);
        self.needs_scratch(&record, self.schedule.max_rows);
        if self.split() {
            let name = format!("fold.{}", record.tag());
            self.launch(Phase::Forward, name, layer, &[], |name, dims| {
                alone(name, dims, &record, step_words::ROWS, Attended::declare)
            });
        }
        let out = self.tiles(&[&found], RowOrder::File);
        let name = kernel_name("out", &[found.resident]);
        self.launch(Phase::Forward, name, layer, &[(Role::Matrix, out)], |name, dims| {
            project::out(name, dims, found.resident)
        });
        Ok(())
    }

    fn feed_forward(&mut self, layer: u32) -> Result<(), Error> {
        let at = |suffix: &str| format!("blk.{layer}.{suffix}");
        let Dims { hidden, ffn, .. } = self.dims;
        let gain = self.vector(at("ffn_norm.weight"), hidden, RowOrder::File)?;
        let gate = self.matrix(at("ffn_gate.weight"), hidden, hidden, ffn)?;
        let up = self.matrix(at("ffn_up.weight"), hidden, hidden, ffn)?;
        let down = self.matrix(at("ffn_down.weight"), ffn, ffn, hidden)?;

        let record = ffn::record(&self.dims, gate.resident, up.resident);
        self.norm(layer, &record, gain);
        let interleaved = self.schedule.interleave && gate.dtype == up.dtype;
        let mut weights = vec![(Role::Gain, gain)];
        if interleaved {
            weights.push((Role::Matrix, self.tiles(&[&gate, &up], RowOrder::File)));
        } else {
            weights.push((Role::Gate, self.tiles(&[&gate], RowOrder::File)));
            weights.push((Role::Up, self.tiles(&[&up], RowOrder::File)));
        }
        let act = project::down_record(&self.dims, down.resident);
        self.act = self.act.max(act.stride());
        let name = format!("{}.to.{}", kernel_name("gate_up", &[gate.resident, up.resident]), act.tag());
        self.launch(Phase::Forward, name, layer, &weights, |name, dims| {
            ffn::kernel(name, dims, gate.resident, up.resident, interleaved, &act)
        });
        let matrix = self.tiles(&[&down], RowOrder::File);
        let name = kernel_name("down", &[down.resident]);
        self.launch(Phase::Forward, name, layer, &[(Role::Matrix, matrix)], |name, dims| {
            project::down(name, dims, down.resident)
        });
        Ok(())
    }

    fn head(&mut self) -> Result<(), Error> {
        let Dims { hidden, vocab, .. } = self.dims;
        let gain = self.vector("output_norm.weight".to_owned(), hidden, RowOrder::File)?;
        // A model without its own output matrix uses the embedding.
        let own = self.model.tensor("output.weight").is_some();
        let name = if own { "output.weight" } else { "token_embd.weight" };
        let found = self.matrix(name.to_owned(), hidden, hidden, vocab)?;
        let record = head::record(&self.dims, found.resident);
        self.needs_scratch(&record, self.schedule.max_head_rows);
        if self.split() {
            let name = format!("head_norm.{}", record.tag());
            self.launch(Phase::Head, name, 0, &[(Role::Gain, gain)], |name, dims| {
                alone(name, dims, &record, step_words::HEAD_ROWS, |b| Norm::declare(b, true))
            });
        }
        let matrix = self.tiles(&[&found], RowOrder::File);
        let weights = [(Role::Gain, gain), (Role::Matrix, matrix)];
        let name = kernel_name("head", &[found.resident]);
        self.launch(Phase::Head, name, 0, &weights, |name, dims| head::kernel(name, dims, found.resident));
        self.launch(Phase::Head, "finalise".to_owned(), 0, &[], finalise::kernel);
        Ok(())
    }

    fn sample(&mut self) {
        self.scratch = self.scratch.max(sample::scratch_bytes(&self.dims));
        self.launch(Phase::Sample, "weigh".to_owned(), 0, &[], sample::weigh);
        self.launch(Phase::Sample, "draw".to_owned(), 0, &[], sample::draw);
    }

    fn fork(&mut self) {
        for layer in 0..self.model.layers {
            self.launch(Phase::Fork, "fork".to_owned(), layer, &[], fork::kernel);
        }
    }

    fn finish(self) -> Program {
        let buffers = self.buffers();
        let summary_bytes = self.choice().map_or(0, |_| self.dims.summary_bytes());
        Program {
            kernels: self.kernels.into_iter().map(|k| k.kernel).collect(),
            buffers,
            weights: self.weights,
            forward: self.forward,
            head: self.head,
            sample: self.sample,
            fork: self.fork,
            attend_rows: self.schedule.attend_rows,
            page_bytes: self.dims.page_bytes().unsigned_abs(),
            summary_bytes,
            kv: self.schedule.kv,
            attention: self.schedule.attention,
            max_rows: self.schedule.max_rows,
            max_head_rows: self.schedule.max_head_rows,
        }
    }

    /// Sizes of all buffers but the KV pool's.
    fn buffers(&self) -> Vec<(Buf, Size)> {
        let d = &self.dims;
        let none = Size::default();
        let fixed = |bytes: i64| Size { fixed: bytes.unsigned_abs(), ..none };
        let per_row = |bytes: i64| Size { per_row: bytes.unsigned_abs(), ..none };
        let per_partial = |bytes: i64| Size { per_partial: bytes.unsigned_abs(), ..none };
        let per_head_row = |bytes: i64| Size { per_head_row: bytes.unsigned_abs(), ..none };
        let context = i64::from(self.model.context);
        let pages = self.pages();
        let attention = self.schedule.attention;
        let only_part = |bytes: i64| if attention.pages().is_some() { bytes } else { 0 };
        let lists = attention.list_words(d.kv_heads.unsigned_abs()) as i64;
        let fresh = if d.kv == KvFormat::Int8 { d.fresh_bytes() } else { 0 };
        let picks = if attention.chooses() { 8 * PICK_WORDS as i64 } else { 0 };
        vec![
            (Buf::Step, fixed(8 * STEP_WORDS as i64)),
            (Buf::Rows, per_row(8 * ROW_WORDS as i64)),
            // Every item writes at least one partial, and every row may be a sequence of its own.
            (Buf::Items, per_partial(8 * ITEM_WORDS as i64)),
            (Buf::PartStep, fixed(only_part(8 * STEP_WORDS as i64))),
            (Buf::PartRows, per_row(only_part(8 * ROW_WORDS as i64))),
            (Buf::PartItems, per_partial(only_part(8 * ITEM_WORDS as i64))),
            (Buf::Picks, per_row(picks)),
            (Buf::Tables, per_row(4 * (pages + lists))),
            (Buf::Fresh, per_row(fresh)),
            (Buf::HeadRows, per_head_row(4)),
            (Buf::Rope, fixed(4 * context * d.head_dim)),
            (Buf::Hidden, per_row(4 * d.hidden)),
            (Buf::Query, per_row(d.query_bytes())),
            (Buf::Partials, per_partial(d.partial_bytes())),
            (Buf::Act, Size { fixed: (self.act * self.spare_rows()).unsigned_abs(), ..per_row(self.act) }),
            (Buf::Scratch, Size { per_thread: self.scratch.unsigned_abs(), ..none }),
            (Buf::Logits, per_head_row(4 * d.vocab_padded())),
            (Buf::Stats, per_head_row(4 * STAT_WORDS as i64 * d.stat_blocks())),
            (Buf::Facts, per_head_row(4 * FACT_WORDS as i64)),
            (Buf::Draws, per_head_row(8 * DRAW_WORDS as i64)),
            (Buf::Masks, Size { per_head_row: mask_bytes(d.vocab.unsigned_abs()), ..none }),
            (Buf::Weighed, per_head_row(4 * STAT_WORDS as i64 * d.stat_blocks())),
            (Buf::Choices, per_head_row(4 * CHOICE_WORDS as i64)),
            (Buf::Edits, per_row(8 * EDIT_WORDS as i64)),
        ]
    }
}

/// `stem.q4_1.q6_k`
fn kernel_name(stem: &str, kinds: &[Resident]) -> String {
    let mut name = stem.to_owned();
    for kind in kinds {
        name.push('.');
        name.push_str(&kind.tag());
    }
    name
}
