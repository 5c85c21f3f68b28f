//! A runtime as small as a test needs: buffers by the program's sizes, launches one after the other, one engine.

use crate::amx;
use crate::native::Mapped;
use crate::weights::{Matrix, Random, channel_tiles, file_row, tiles};
use codegen::Backend;
use codegen::back::interp::{self, Value};
use half::f16;
use ir::model::{Family, Model, Tensor};
use ir::program::{
    Arg, Buf, CHUNK, GROUP, Launch, PAGE, Program, SUMMARY_CHANNELS, SUMMARY_SCALES, Source, head_blocks,
};
use ir::schedule::{Attention, KvFormat, ModelSchedule, Numerics, Prologue};
use ir::target::Isa;
use ir::tensor::DType;
use std::collections::BTreeMap;
use std::ops::Range;

/// KV pages of every machine.
pub(crate) const PAGES: usize = 160;
/// Pages of one sequence.
pub(crate) const SEQUENCE_PAGES: usize = 40;
/// Attention partials per row of a step at most.
const PARTIALS: u64 = 4;

/// A tiny model with its weights.
pub(crate) struct Tiny {
    pub(crate) model: Model,
    pub(crate) matrices: BTreeMap<String, Matrix>,
    pub(crate) vectors: BTreeMap<String, Vec<f32>>,
}

/// Types of q, k, v, output, gate, up, down, head.
pub(crate) type Types = [DType; 8];

/// Hidden, heads, KV heads, head dimension, feed-forward, vocabulary.
pub(crate) type Widths = [u32; 6];

impl Tiny {
    pub(crate) fn new(family: Family, layers: u32, widths: Widths, types: Types) -> Self {
        let [hidden, heads, kv_heads, head_dim, ffn, vocab] = widths;
        let mut r = Random(u64::from(hidden) * 7919 + types.iter().map(|t| *t as u64).sum::<u64>());
        let (mut matrices, mut vectors) = (BTreeMap::new(), BTreeMap::new());
        let (q, kv) = (heads * head_dim, kv_heads * head_dim);
        for l in 0..layers {
            let shapes = [
                ("attn_q", hidden, q),
                ("attn_k", hidden, kv),
                ("attn_v", hidden, kv),
                ("attn_output", q, hidden),
                ("ffn_gate", hidden, ffn),
                ("ffn_up", hidden, ffn),
                ("ffn_down", ffn, hidden),
            ];
            for ((name, k, n), dtype) in shapes.into_iter().zip(types) {
                let m = Matrix::random(&mut r, dtype, n as usize, k as usize);
                matrices.insert(format!("blk.{l}.{name}.weight"), m);
            }
            for name in ["attn_norm", "ffn_norm"] {
                vectors.insert(format!("blk.{l}.{name}.weight"), gains(&mut r, hidden));
            }
            if family.mechanisms().qkv_bias {
                for (name, n) in [("attn_q", q), ("attn_k", kv), ("attn_v", kv)] {
                    vectors.insert(format!("blk.{l}.{name}.bias"), (0..n).map(|_| r.unit() as f32).collect());
                }
            }
        }
        vectors.insert("output_norm.weight".into(), gains(&mut r, hidden));
        let embedding = Matrix::random(&mut r, types[7], vocab as usize, hidden as usize);
        matrices.insert("token_embd.weight".into(), embedding);
        let tensor = |name: &String, dtype, shape| Tensor { name: name.clone(), dtype, shape };
        let mut tensors: Vec<Tensor> =
            matrices.iter().map(|(n, m)| tensor(n, m.dtype, vec![m.k as u64, m.n as u64])).collect();
        tensors.extend(vectors.iter().map(|(n, v)| tensor(n, DType::F32, vec![v.len() as u64])));
        let model = Model {
            name: "tiny".into(),
            family,
            layers,
            hidden,
            heads,
            kv_heads,
            head_dim,
            ffn,
            vocab,
            context: (SEQUENCE_PAGES * PAGE) as u32,
            rope_base: 10_000.0,
            rms_eps: 1e-5,
            tied: true,
            parameters: 0,
            tensors,
            identity: String::new(),
        };
        Self { model, matrices, vectors }
    }
}

fn gains(r: &mut Random, n: u32) -> Vec<f32> {
    (0..n).map(|_| 1.0 + 0.3 * r.unit() as f32).collect()
}

/// A schedule for tests.
pub(crate) fn schedule() -> ModelSchedule {
    ModelSchedule {
        isa: Isa { avx2: true, avx512: true, vnni: true, amx_int8: false },
        threads: 2,
        row_block: 8,
        tile_from: 0,
        attend_rows: 4,
        max_rows: 16,
        max_head_rows: 16,
        prologue: Prologue::Fused,
        interleave: true,
        numerics: Numerics::Int8,
        prefetch: 0,
        kv: KvFormat::F16,
        attention: Attention::Dense,
    }
}

/// What runs kernels.
pub(crate) enum Engine {
    Interp,
    Native(Mapped),
}

impl Engine {
    /// The compiled tiers of this build that this machine can run, the slowest first.
    fn tiers() -> Vec<(Backend, Isa)> {
        let v3 =
            is_x86_feature_detected!("avx2") && is_x86_feature_detected!("fma") && is_x86_feature_detected!("f16c");
        let v4 = v3
            && is_x86_feature_detected!("avx512f")
            && is_x86_feature_detected!("avx512bw")
            && is_x86_feature_detected!("avx512dq")
            && is_x86_feature_detected!("avx512vl");
        let vnni = v4 && is_x86_feature_detected!("avx512vnni");
        let isa = |avx512, vnni| Isa { avx2: true, avx512, vnni, amx_int8: false };
        amx::enable();
        let all = [
            (Backend::Cranelift, isa(false, false), v3),
            (Backend::Llvm, isa(false, false), v3),
            (Backend::Llvm, isa(true, false), v4),
            (Backend::Llvm, Isa { amx_int8: true, ..isa(true, true) }, vnni),
            (Backend::Llvm, isa(true, true), vnni),
        ];
        all.into_iter().filter(|(b, _, here)| *here && b.available()).map(|(b, isa, _)| (b, isa)).collect()
    }

    fn compiled(program: &Program, (backend, isa): (Backend, Isa)) -> Self {
        Self::Native(Mapped::new(codegen::emit(&program.kernels, isa, backend).expect("kernels compile")))
    }

    /// Every compiled engine, with its name; for programs with tiles those that differ in what they make of tiles.
    pub(crate) fn all(program: &Program) -> Vec<(String, Self)> {
        let name = |(backend, isa): (Backend, Isa)| format!("{} {isa:?}", backend.name());
        let tiled = program.kernels.iter().any(|k| ir::kernel::uses_tiles(&k.body));
        let tells = |(backend, isa): &(Backend, Isa)| {
            if tiled { isa.amx_int8 || *backend == Backend::Cranelift } else { !isa.amx_int8 }
        };
        Self::tiers().into_iter().filter(tells).map(|t| (name(t), Self::compiled(program, t))).collect()
    }

    /// The fastest engine here.
    pub(crate) fn best(program: &Program) -> Self {
        Self::tiers().pop().map_or(Self::Interp, |t| Self::compiled(program, t))
    }
}

/// One row of a step.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Row {
    pub(crate) sequence: usize,
    pub(crate) position: usize,
}

/// A program, its weights and its memory.
#[derive(Clone)]
pub(crate) struct Machine {
    pub(crate) program: Program,
    pub(crate) team: i64,
    /// Whether items hold one chunk each, or all chunks of their rows.
    pub(crate) cut: bool,
    pub(crate) weights: Vec<Vec<u8>>,
    pub(crate) buffers: BTreeMap<Buf, Vec<u8>>,
    /// Whether rows of short sequences get lists of pages too.
    pub(crate) list_all: bool,
    /// Keys and values per layer.
    pub(crate) kv: Vec<[Vec<u8>; 2]>,
    /// Summaries of pages per layer.
    pub(crate) summaries: Vec<Vec<u8>>,
    pub(crate) layout: Layout,
}

impl Machine {
    /// Memory as a running system has it: random residual stream and cache, rope table filled.
    pub(crate) fn new(tiny: &Tiny, schedule: &ModelSchedule, team: i64) -> Self {
        let program = codegen::lower::program(&tiny.model, schedule).expect("the model lowers");
        let weights = program.weights.iter().map(|w| resident(tiny, &w.source)).collect();
        let mut r = Random(5);
        let mut buffers = BTreeMap::new();
        for (buf, s) in &program.buffers {
            let bytes = s.fixed
                + s.per_row * u64::from(program.max_rows)
                + s.per_thread * team as u64
                + s.per_partial * PARTIALS * u64::from(program.max_rows)
                + s.per_head_row * u64::from(program.max_head_rows);
            // What nobody wrote is poison.
            buffers.insert(*buf, vec![0xFF; bytes as usize]);
        }
        let rope = rope(tiny);
        let hidden: Vec<f32> = (0..program.max_rows * tiny.model.hidden).map(|_| r.unit() as f32 * 2.0).collect();
        put(buffers.get_mut(&Buf::Rope).expect("a rope table"), 0, &rope);
        put(buffers.get_mut(&Buf::Hidden).expect("a residual stream"), 0, &hidden);
        // Keys, values and summaries each have a memory of their own, most of which is the others' room.
        let layout = Layout::new(&program, &tiny.model);
        let mut pool = || -> Vec<u8> { layout.cache(&mut r) };
        let kv: Vec<[Vec<u8>; 2]> = (0..tiny.model.layers).map(|_| [pool(), pool()]).collect();
        let summaries = kv.iter().map(|[keys, _]| layout.summaries_of(keys)).collect();
        Self { program, team, cut: false, list_all: false, weights, buffers, kv, summaries, layout }
    }

    /// Takes over the cache of another machine over the same model, which may lie otherwise in memory.
    pub(crate) fn take_cache(&mut self, other: &Self) {
        let (to, from, block) = (self.layout, other.layout, self.layout.block_bytes());
        for (mine, theirs) in self.kv.iter_mut().flatten().zip(other.kv.iter().flatten()) {
            for (page, head) in (0..PAGES).flat_map(|p| (0..to.kv_heads).map(move |h| (p, h))) {
                let (to, from) = (to.block(page, head), from.block(page, head));
                mine[to..to + block].copy_from_slice(&theirs[from..from + block]);
            }
        }
        self.summaries = self.kv.iter().map(|[keys, _]| to.summaries_of(keys)).collect();
    }

    fn buffer(&mut self, buf: Buf) -> &mut Vec<u8> {
        self.buffers.get_mut(&buf).expect("the program has this buffer")
    }

    /// The number by which kernels know a page.
    pub(crate) fn number(&self, page: usize) -> usize {
        self.layout.number(page)
    }

    /// Describes a step to the kernels. All rows want logits, in reverse order.
    pub(crate) fn step(&mut self, rows: &[Row]) {
        let mut table: Vec<[i64; 8]> = Vec::new();
        let mut items: Vec<[i64; 8]> = Vec::new();
        let mut partials = 0;
        let mut at = 0;
        while at < rows.len() {
            let most = self.program.attend_rows as usize;
            let same = rows[at..].iter().take(most).take_while(|r| r.sequence == rows[at].sequence).count();
            let group = &rows[at..at + same];
            let keys = group.iter().map(|r| r.position + 1).max().expect("a group has rows");
            let chunks = keys.div_ceil(CHUNK) as i64;
            let ranges: Vec<(i64, i64)> =
                if self.cut { (0..chunks).map(|c| (c, c + 1)).collect() } else { vec![(0, chunks)] };
            let first_page = (rows[at].sequence * SEQUENCE_PAGES) as i64;
            for (i, (from, to)) in ranges.iter().enumerate() {
                items.push([at as i64, same as i64, *from, *to, first_page, i as i64, 0, 0]);
            }
            for r in group {
                let number = self.number(page_of(r.sequence, r.position / PAGE));
                let slot = (number * PAGE + r.position % PAGE) as i64;
                let n = ranges.len() as i64;
                table.push([r.position as i64, slot, r.position as i64 + 1, partials, n, 0, 0, 0]);
                partials += n;
            }
            at += same;
        }
        assert!(partials as u64 <= PARTIALS * u64::from(self.program.max_rows));
        let n = rows.len();
        let pages: Vec<i32> =
            (0..PAGES).map(|i| self.number(page_of(i / SEQUENCE_PAGES, i % SEQUENCE_PAGES)) as i32).collect();
        let wanted: Vec<i32> = (0..n as i32).rev().collect();
        let step = [n as i64, items.len() as i64, n as i64, PAGES as i64, 0, 0, 0, 0];
        put_words(self.buffer(Buf::Step), &step);
        put_words(self.buffer(Buf::Rows), table.as_flattened());
        put_words(self.buffer(Buf::Items), items.as_flattened());
        if let Some(budget) = self.program.attention.pages() {
            let part = self.part(rows, &table, &items, i64::from(budget));
            put_words(
                self.buffer(Buf::PartStep),
                &[n as i64, part.1.len() as i64, n as i64, 0, 0, 0, 0, part.2.len() as i64],
            );
            put_words(self.buffer(Buf::PartRows), part.0.as_flattened());
            put_words(self.buffer(Buf::PartItems), part.1.as_flattened());
            put_words(self.buffer(Buf::Picks), part.2.as_flattened());
        }
        put_ints(self.buffer(Buf::Tables), &pages);
        put_ints(self.buffer(Buf::HeadRows), &wanted);
    }

    /// Rows, items and picks of layers that attend to lists of pages: sequences with one row in the step, when they are
    /// longer than the budget or all shall have lists. An item covers a whole list.
    fn part(&self, rows: &[Row], table: &[[i64; 8]], items: &[[i64; 8]], budget: i64) -> Part {
        let (mut table, mut picks) = (table.to_vec(), Vec::new());
        let mut listed = Vec::new();
        for (i, row) in rows.iter().enumerate() {
            let pages = (row.position / PAGE + 1) as i64;
            let alone = rows.iter().filter(|r| r.sequence == row.sequence).count() == 1;
            if alone && (self.list_all || pages > budget) {
                let heads = self.layout.kv_heads as i64;
                let trims = i64::from(self.program.attention.trims());
                let list = PAGES as i64 + picks.len() as i64 * heads * (budget + trims);
                picks.push([i as i64, (row.sequence * SEQUENCE_PAGES) as i64, pages, list]);
                table[i][2] = (pages.min(budget) - 1) * PAGE as i64 + (row.position % PAGE) as i64 + 1;
                table[i][4] = 1;
                listed.push((i as i64, list, table[i][2], trims * (list + heads * budget)));
            }
        }
        let mut items: Vec<[i64; 8]> =
            items.iter().filter(|item| listed.iter().all(|l| l.0 != item[0])).copied().collect();
        for (row, list, limit, trims) in listed {
            items.push([row, 1, 0, (limit + CHUNK as i64 - 1) / CHUNK as i64, list, 0, budget, trims]);
        }
        (table, items, picks)
    }

    /// Physical pages that row `i` of the step attends to in a layer and KV head, in order.
    pub(crate) fn pages_of(&self, layer: usize, i: usize, row: &Row, head: usize) -> Vec<usize> {
        let all = (0..=row.position / PAGE).map(|p| page_of(row.sequence, p)).collect();
        if (layer as u32) < self.program.attention.dense_layers() {
            return all;
        }
        let words = |buf: Buf, at: usize, n: usize| -> Vec<i64> {
            let bytes = &self.buffers[&buf][8 * at..8 * (at + n)];
            bytes.chunks_exact(8).map(|b| i64::from_le_bytes(b.try_into().expect("eight bytes"))).collect()
        };
        let picks = words(Buf::PartStep, 7, 1)[0] as usize;
        let picked = (0..picks).map(|p| words(Buf::Picks, 4 * p, 4)).find(|p| p[0] == i as i64);
        let Some(pick) = picked else { return all };
        let budget = i64::from(self.program.attention.pages().expect("a budget"));
        let list = (pick[3] + head as i64 * budget) as usize;
        let tables = &self.buffers[&Buf::Tables];
        let mut entries = &tables[4 * list..][..4 * budget.min(pick[2]) as usize];
        if self.program.attention.trims() {
            let heads = self.layout.kv_heads as i64;
            let short = &tables[4 * (pick[3] + heads * budget + head as i64) as usize..][..4];
            let short = i32::from_le_bytes(short.try_into().expect("four bytes"));
            entries = &entries[..entries.len() - 4 * usize::try_from(short).expect("a number of pages")];
        }
        let number = |b: &[u8]| i32::from_le_bytes([b[0], b[1], b[2], b[3]]) as usize;
        let page = |n: usize| (0..PAGES).find(|p| self.number(*p) == n).expect("the number of a page");
        entries.chunks_exact(4).map(|b| page(number(b))).collect()
    }

    /// Runs one launch.
    pub(crate) fn launch(&mut self, engine: &Engine, launch: &Launch) {
        let kernel = self.program.kernels[launch.kernel as usize].clone();
        let stride = self.program.buffers.iter().find(|(b, _)| *b == Buf::Scratch).expect("scratch").1.per_thread;
        let mut args: Vec<Value> = launch
            .args
            .iter()
            .map(|arg| match *arg {
                Arg::Buf(buf) => Value::Buffer(std::mem::take(self.buffer(buf))),
                Arg::Weight(i, at) => Value::Buffer(self.weights[i as usize][at as usize..].to_vec()),
                Arg::Kv(layer, values) => {
                    Value::Buffer(std::mem::take(&mut self.kv[layer as usize][usize::from(values)]))
                }
                Arg::Summary(layer) => Value::Buffer(std::mem::take(&mut self.summaries[layer as usize])),
                Arg::ScratchStride => Value::I64(stride as i64),
            })
            .collect();
        match engine {
            Engine::Interp => {
                interp::run(&kernel, &mut args, self.team).unwrap_or_else(|e| panic!("{}: {e}", kernel.name))
            }
            Engine::Native(code) => code.run(&kernel, &mut args, self.team, 0),
        }
        for (arg, value) in launch.args.iter().zip(args) {
            let Value::Buffer(bytes) = value else { continue };
            match *arg {
                Arg::Buf(buf) => *self.buffer(buf) = bytes,
                Arg::Kv(layer, values) => self.kv[layer as usize][usize::from(values)] = bytes,
                Arg::Summary(layer) => self.summaries[layer as usize] = bytes,
                _ => (),
            }
        }
    }

    /// Runs a whole step.
    pub(crate) fn run(&mut self, engine: &Engine, rows: &[Row]) {
        self.step(rows);
        let launches: Vec<Launch> = self.program.forward.iter().chain(&self.program.head).cloned().collect();
        for launch in &launches {
            self.launch(engine, launch);
        }
    }

    /// f32 elements of a buffer.
    pub(crate) fn floats(&self, buf: Buf, at: usize, n: usize) -> Vec<f32> {
        floats(&self.buffers[&buf][4 * at..4 * (at + n)])
    }

    /// Everything a step leaves for row `i` of `n`: residual stream, logits, statistics, as bits.
    pub(crate) fn outcome(&self, model: &Model, i: usize, n: usize) -> Vec<u32> {
        let (hidden, padded) = (model.hidden as usize, (model.vocab as usize).next_multiple_of(16));
        let stats = 4 * padded.div_ceil(ir::program::STAT_BLOCK);
        let wanted = n - 1 - i;
        let mut all = self.floats(Buf::Hidden, i * hidden, hidden);
        all.extend(self.floats(Buf::Logits, wanted * padded, padded));
        all.extend(self.floats(Buf::Stats, wanted * stats, stats));
        all.into_iter().map(f32::to_bits).collect()
    }
}

/// Rows, items and picks.
type Part = (Vec<[i64; 8]>, Vec<[i64; 8]>, Vec<[i64; 4]>);

/// How pages of one layer lie in memory.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Layout {
    format: KvFormat,
    kv_heads: usize,
    head_dim: usize,
    summaries: bool,
}

impl Layout {
    fn new(program: &Program, model: &Model) -> Self {
        let (kv_heads, head_dim) = (model.kv_heads as usize, model.head_dim as usize);
        Self { format: program.kv, kv_heads, head_dim, summaries: program.summary_bytes > 0 }
    }

    fn head_blocks(&self) -> usize {
        head_blocks(self.format, self.head_dim as u64, self.summaries) as usize
    }

    fn group_blocks(&self) -> usize {
        (self.kv_heads * self.head_blocks()).next_multiple_of(GROUP)
    }

    fn block_bytes(&self) -> usize {
        self.format.head_bytes(self.head_dim as u64) as usize
    }

    fn number(&self, page: usize) -> usize {
        page / GROUP * self.group_blocks() + page % GROUP
    }

    /// Bytes of the keys, values or summaries of a head on a page.
    fn block(&self, page: usize, head: usize) -> usize {
        (self.number(page) + head * self.head_blocks()) * self.block_bytes()
    }

    /// Which bytes are the summary of a head on a page: its bounds, and their scales.
    pub(crate) fn summary(&self, page: usize, head: usize) -> [Range<usize>; 2] {
        let (group, in_group) = (self.block(page - page % GROUP, head), page % GROUP);
        let channels = self.head_dim.next_multiple_of(SUMMARY_CHANNELS);
        let lines = group + in_group * 2 * channels;
        let scales = group + GROUP * 2 * channels + in_group * channels / 2;
        [lines..lines + 2 * channels, scales..scales + channels / 2]
    }

    /// Where a channel's bound is in a summary, and its scale: [`Layout::summary`]'s bytes; `low`: the negated minimum.
    fn bound(channel: usize, low: bool) -> [usize; 2] {
        let (group, c) = (channel / SUMMARY_CHANNELS, channel % SUMMARY_CHANNELS);
        let lane = c % SUMMARY_SCALES;
        let line = SUMMARY_CHANNELS * (2 * group + usize::from(low));
        [line + 4 * lane + c / SUMMARY_SCALES, 2 * (SUMMARY_SCALES * group + lane)]
    }

    /// The byte of a channel's bound, signed, and what a step of it stands for.
    pub(crate) fn bound_of(&self, summaries: &[u8], [page, head]: [usize; 2], channel: usize, low: bool) -> (i8, f32) {
        let [lines, scales] = self.summary(page, head).map(|bytes| &summaries[bytes]);
        let [byte, scale] = Self::bound(channel, low);
        (lines[byte].cast_signed(), f16::from_le_bytes([scales[scale], scales[scale + 1]]).to_f32())
    }

    /// Byte of an element of the keys or values.
    pub(crate) fn place(&self, values: bool, [page, head, channel, slot]: [usize; 4]) -> usize {
        let i = match (self.format, values) {
            (KvFormat::F16, false) => channel * PAGE + slot,
            (KvFormat::F16, true) => slot * self.head_dim + channel,
            (KvFormat::Int8, false) => (channel / 4 * PAGE + slot) * 4 + channel % 4,
            (KvFormat::Int8, true) => (slot / 4 * self.head_dim + channel) * 4 + slot % 4,
        };
        self.block(page, head) + i * self.format.element_bytes() as usize
    }

    /// Key or value `channel` of slot `slot` of a head on a page.
    fn element(&self, kv: &[u8], values: bool, at: [usize; 4]) -> f64 {
        let [page, head, _, slot] = at;
        let place = self.place(values, at);
        match self.format {
            KvFormat::F16 => f16::from_le_bytes([kv[place], kv[place + 1]]).to_f64(),
            KvFormat::Int8 => {
                let q = if values { kv[place].cast_signed() } else { kv[place].wrapping_sub(128).cast_signed() };
                f64::from(q) * self.scale(kv, [page, head, slot])
            }
        }
    }

    /// What a step of an int8 key or value of a slot of a head on a page stands for.
    fn scale(&self, kv: &[u8], [page, head, slot]: [usize; 3]) -> f64 {
        let at = self.block(page, head) + PAGE * self.head_dim + 4 * slot;
        f64::from(floats(&kv[at..at + 4])[0])
    }

    /// Keys, or values, of all pages of a layer: about −2 to 2.
    fn cache(&self, r: &mut Random) -> Vec<u8> {
        let elements = PAGE * self.head_dim;
        let mut bytes = Vec::new();
        for _ in 0..PAGES.div_ceil(GROUP) * self.group_blocks() {
            match self.format {
                KvFormat::F16 => bytes.extend((0..elements).flat_map(|_| f16::from_f64(2.0 * r.unit()).to_le_bytes())),
                KvFormat::Int8 => {
                    // Signed as values, and as keys, which are unsigned: -128 to 127 of both.
                    bytes.extend((0..elements).map(|_| ((128.0 * r.unit()).floor() as i8).cast_unsigned()));
                    bytes.extend((0..PAGE).flat_map(|_| ((1.5 + 0.5 * r.unit() as f32) / 127.0).to_le_bytes()));
                }
            }
        }
        bytes
    }

    /// Summaries of all pages of a layer as the contract has them.
    fn summaries_of(&self, keys: &[u8]) -> Vec<u8> {
        if !self.summaries {
            return Vec::new();
        }
        let mut bytes = vec![0; keys.len()];
        for (page, head) in (0..PAGES).flat_map(|p| (0..self.kv_heads).map(move |h| (p, h))) {
            let [lines, scales] = self.summary(page, head);
            let extremes: Vec<[f64; 2]> = (0..self.head_dim)
                .map(|channel| {
                    let keys = (0..PAGE).map(|s| self.element(keys, false, [page, head, channel, s]));
                    keys.fold([f64::MIN; 2], |[high, low], k| [high.max(k), low.max(-k)])
                })
                .collect();
            for (channel, own) in extremes.iter().enumerate() {
                // A hundredth more than needed, whatever rounding to f16 does.
                let first = channel - channel % SUMMARY_CHANNELS + channel % SUMMARY_SCALES;
                let four =
                    (first..first + SUMMARY_CHANNELS).step_by(SUMMARY_SCALES).filter_map(|c| extremes.get(c)).flatten();
                let most = four.fold(0.0, |most: f64, x| most.max(x.abs()));
                let scale = f16::from_f64(1.01 * most / 127.0);
                for (low, extreme) in [false, true].into_iter().zip(own) {
                    let [byte, at] = Self::bound(channel, low);
                    bytes[lines.start + byte] = ((extreme / scale.to_f64()).ceil() as i8).cast_unsigned();
                    bytes[scales.start + at..][..2].copy_from_slice(&scale.to_le_bytes());
                }
            }
        }
        bytes
    }
}

/// Key or value `channel` of slot `slot` of a head on a page: `[page, head, channel, slot]`.
pub(crate) fn element(m: &Machine, layer: usize, values: bool, at: [usize; 4]) -> f64 {
    m.layout.element(&m.kv[layer][usize::from(values)], values, at)
}

/// What a step of an int8 value stands for: `[page, head, slot]`.
pub(crate) fn value_step(m: &Machine, layer: usize, at: [usize; 3]) -> f64 {
    m.layout.scale(&m.kv[layer][1], at)
}

/// Physical page of a sequence's page: scattered, so that mistakes in tables show.
pub(crate) fn page_of(sequence: usize, page: usize) -> usize {
    (sequence * SEQUENCE_PAGES + page) * 67 % PAGES
}

/// Cosines and sines per position.
pub(crate) fn rope(tiny: &Tiny) -> Vec<f32> {
    let half = tiny.model.head_dim as usize / 2;
    let angle = |p: usize, i: usize| p as f64 * f64::from(tiny.model.rope_base).powf(-(i as f64) / half as f64);
    (0..tiny.model.context as usize)
        .flat_map(|p| {
            let cos = (0..half).map(move |i| angle(p, i).cos() as f32);
            cos.chain((0..half).map(move |i| angle(p, i).sin() as f32))
        })
        .collect()
}

fn resident(tiny: &Tiny, source: &Source) -> Vec<u8> {
    match source {
        Source::Vector { tensor, len, rows } => {
            let v = &tiny.vectors[tensor];
            (0..*len as usize).flat_map(|i| v[file_row(*rows, i)].to_le_bytes()).collect()
        }
        Source::Tiles { tensors, dtype, n, k, rows } => {
            let all: Vec<&Matrix> = tensors.iter().map(|t| &tiny.matrices[t]).collect();
            assert!(all.iter().all(|m| m.dtype == *dtype && m.n as u64 == *n && m.k as u64 == *k));
            tiles(&all, *rows)
        }
        Source::Int8Channel { tensors, dtype, n, k, rows, block } => {
            let all: Vec<&Matrix> = tensors.iter().map(|t| &tiny.matrices[t]).collect();
            assert!(all.iter().all(|m| m.dtype == *dtype && m.n as u64 == *n && m.k as u64 == *k));
            channel_tiles(&all, *rows, *block as usize)
        }
    }
}

pub(crate) fn floats(bytes: &[u8]) -> Vec<f32> {
    bytes.chunks_exact(4).map(|b| f32::from_le_bytes([b[0], b[1], b[2], b[3]])).collect()
}

fn put(to: &mut [u8], at: usize, v: &[f32]) {
    for (i, x) in v.iter().enumerate() {
        to[at + 4 * i..at + 4 * i + 4].copy_from_slice(&x.to_le_bytes());
    }
}

fn put_words(to: &mut [u8], v: &[i64]) {
    for (i, x) in v.iter().enumerate() {
        to[8 * i..8 * i + 8].copy_from_slice(&x.to_le_bytes());
    }
}

fn put_ints(to: &mut [u8], v: &[i32]) {
    for (i, x) in v.iter().enumerate() {
        to[4 * i..4 * i + 4].copy_from_slice(&x.to_le_bytes());
    }
}
