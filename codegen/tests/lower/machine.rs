//! A runtime as small as a test needs: buffers by the program's sizes, launches one after the other, one engine.

use crate::native::Mapped;
use crate::weights::{Matrix, Random, file_row, tiles};
use codegen::Backend;
use codegen::back::interp::{self, Value};
use half::f16;
use ir::model::{Family, Model, Tensor};
use ir::program::{Arg, Buf, CHUNK, GROUP, Launch, PAGE, Program, Source};
use ir::schedule::{ModelSchedule, Numerics, Prologue};
use ir::target::Isa;
use ir::tensor::DType;
use std::collections::BTreeMap;

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
        isa: Isa { avx2: true, avx512: true, vnni: true },
        threads: 2,
        row_block: 8,
        attend_rows: 4,
        max_rows: 16,
        max_head_rows: 16,
        prologue: Prologue::Fused,
        interleave: true,
        numerics: Numerics::Int8,
        prefetch: 0,
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
        let isa = |avx512, vnni| Isa { avx2: true, avx512, vnni };
        let all = [
            (Backend::Cranelift, isa(false, false), v3),
            (Backend::Llvm, isa(false, false), v3),
            (Backend::Llvm, isa(true, false), v4),
            (Backend::Llvm, isa(true, true), vnni),
        ];
        all.into_iter().filter(|(b, _, here)| *here && b.available()).map(|(b, isa, _)| (b, isa)).collect()
    }

    fn compiled(program: &Program, (backend, isa): (Backend, Isa)) -> Self {
        Self::Native(Mapped::new(codegen::emit(&program.kernels, isa, backend).expect("kernels compile")))
    }

    /// Every compiled engine, with its name.
    pub(crate) fn all(program: &Program) -> Vec<(String, Self)> {
        let name = |(backend, isa): (Backend, Isa)| format!("{} {isa:?}", backend.name());
        Self::tiers().into_iter().map(|t| (name(t), Self::compiled(program, t))).collect()
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
    /// Keys and values per layer.
    pub(crate) kv: Vec<[Vec<u8>; 2]>,
    kv_heads: usize,
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
        // Keys and values each have a memory of their own, half of which is the other's room.
        let elements = PAGES * program.page_bytes as usize;
        let mut pool = || (0..elements).flat_map(|_| f16::from_f64(2.0 * r.unit()).to_le_bytes()).collect();
        let kv = (0..tiny.model.layers).map(|_| [pool(), pool()]).collect();
        let kv_heads = tiny.model.kv_heads as usize;
        Self { program, team, cut: false, weights, buffers, kv, kv_heads }
    }

    fn buffer(&mut self, buf: Buf) -> &mut Vec<u8> {
        self.buffers.get_mut(&buf).expect("the program has this buffer")
    }

    /// The number by which kernels know a page.
    pub(crate) fn number(&self, page: usize) -> usize {
        page / GROUP * 2 * GROUP * self.kv_heads + page % GROUP
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
        put_ints(self.buffer(Buf::Tables), &pages);
        put_ints(self.buffer(Buf::HeadRows), &wanted);
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
                Arg::Int(v) => Value::I64(v),
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
