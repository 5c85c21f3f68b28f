//! What each kernel must leave, in f64 from what it actually read. Activations are read back from the records as they
//! were rounded, so that tolerances are those of f32 sums.

use crate::machine::{Machine, Row, Tiny, element, page_of, value_step};
use crate::weights::{Matrix, mixed};
use ir::program::{Buf, Launch, PAGE, STAT_BLOCK};
use ir::schedule::{KvFormat, Numerics};
use ir::tensor::{DType, Scales, channel_block};

/// The layout of an activation record, as its description says.
struct Record {
    k: usize,
    /// Features that are mixed and share a scale, in int8 per channel.
    block: Option<usize>,
    int8: bool,
    fields: usize,
    float: bool,
}

impl Record {
    /// The record of a layer's matrices, of whose input `run` features are written together.
    fn layer(k: usize, run: usize, readers: &[DType], numerics: Numerics) -> Self {
        let block = channel_block(run).filter(|_| numerics == Numerics::Int8Channel);
        Self { block, ..Self::new(k, readers, numerics) }
    }

    fn new(k: usize, readers: &[DType], numerics: Numerics) -> Self {
        let quantised: Vec<_> = readers.iter().filter_map(|t| t.tile()).filter(|_| numerics != Numerics::F32).collect();
        let sum = quantised.iter().any(|f| matches!(f.scales, Scales::F16Min | Scales::SuperMin));
        let halves = quantised.iter().any(|f| f.scales == Scales::Super16);
        let mut zeros: Vec<i32> = quantised.iter().filter(|f| f.scales == Scales::F16).map(|f| f.zero_point).collect();
        zeros.sort_unstable();
        zeros.dedup();
        let fields = 1 + usize::from(sum) + zeros.len() + 2 * usize::from(halves);
        Self { k, block: None, int8: !quantised.is_empty(), fields, float: quantised.len() < readers.len() }
    }

    fn floats_at(&self) -> usize {
        if self.int8 { (self.k / 32 * (32 + 4 * self.fields)).next_multiple_of(64) } else { 0 }
    }

    fn stride(&self) -> usize {
        let bytes = match self.block {
            Some(block) => self.k.next_multiple_of(64) + 8 * (self.k / block),
            None => self.floats_at() + if self.float { 4 * self.k } else { 0 },
        };
        let bytes = bytes.next_multiple_of(64);
        if (bytes / 64).is_multiple_of(2) { bytes + 64 } else { bytes }
    }

    /// The activations that a matrix of this type reads, and the step they were rounded to.
    fn row(&self, bytes: &[u8], row: usize, reader: DType, numerics: Numerics) -> (Vec<f64>, Vec<f64>) {
        let row = &bytes[row * self.stride()..];
        let f = |at: usize| f64::from(f32::from_le_bytes([row[at], row[at + 1], row[at + 2], row[at + 3]]));
        if let Some(block) = self.block {
            let scales = self.k.next_multiple_of(64);
            let d = |i: usize| f(scales + i / block * 8);
            for first in (0..self.k).step_by(block) {
                let at = scales + first / block * 8 + 4;
                let zero = i32::from_le_bytes([row[at], row[at + 1], row[at + 2], row[at + 3]]);
                let sum: i32 = row[first..first + block].iter().map(|q| i32::from(*q as i8)).sum();
                assert_eq!(zero, -128 * sum);
            }
            return ((0..self.k).map(|i| f64::from(row[i] as i8) * d(i)).collect(), (0..self.k).map(d).collect());
        }
        if reader.tile().is_none() || numerics == Numerics::F32 {
            let x = (0..self.k).map(|i| f(self.floats_at() + 4 * i)).collect();
            return (x, vec![0.0; self.k]);
        }
        let block = 32 + 4 * self.fields;
        let d = |i: usize| f(i / 32 * block + 32);
        let x = (0..self.k).map(|i| f64::from(row[i / 32 * block + i % 32] as i8) * d(i)).collect();
        (x, (0..self.k).map(d).collect())
    }

    /// Activations as the record holds them: mixed where it mixes.
    fn of(&self, x: Vec<f64>) -> Vec<f64> {
        self.block.map_or_else(|| x.clone(), |block| mixed(&x, block))
    }

    /// Rows of a matrix as they are multiplied with the record's activations.
    fn rows(&self, m: &Matrix) -> Vec<Vec<f64>> {
        match self.block {
            Some(block) => m.channel(block).w,
            None => (0..m.n).map(|r| m.row(r).to_vec()).collect(),
        }
    }
}

/// `got` equals `want` within `tolerance · size`.
fn near(what: &str, got: f64, want: f64, size: f64, tolerance: f64) {
    let slack = tolerance * size + 1e-30;
    assert!((got - want).abs() <= slack, "{what}: {got} is not {want} within {slack}");
}

/// Activations times a row of a matrix: the product and the sum of magnitudes.
fn times(w: &[f64], x: &[f64]) -> (f64, f64) {
    w.iter().zip(x).fold((0.0, 0.0), |(s, a), (w, x)| (s + w * x, a + (w * x).abs()))
}

/// Tolerance of f32 sums of a few hundred products, relative to the sum of magnitudes.
const SUM: f64 = 3e-6;

/// Runs a step launch by launch and checks every buffer.
pub(crate) struct Checker<'a> {
    pub(crate) tiny: &'a Tiny,
    pub(crate) numerics: Numerics,
    pub(crate) rows: &'a [Row],
}

impl Checker<'_> {
    /// Checks what `launch` turned `before` into.
    pub(crate) fn check(&self, launch: &Launch, before: &Machine, after: &Machine) {
        let name = after.program.kernels[launch.kernel as usize].name.clone();
        let forward = &before.program.forward;
        let starts = |l: &&Launch| before.program.kernels[l.kernel as usize].name.starts_with("qkv");
        let until = forward.iter().position(|l| l == launch).map_or(0, |i| i + 1);
        let layer = forward[..until].iter().filter(starts).count().saturating_sub(1);
        match name.split('.').next().expect("a name has a stem") {
            "qkv" => self.qkv(layer, before, after),
            "attend" | "norm" | "fold" | "head_norm" => (),
            "append" => self.append(layer, before, after),
            "out" => self.out(layer, before, after),
            "gate_up" => self.gate_up(layer, before, after),
            "down" => self.down(layer, before, after),
            "head" => self.head(before, after),
            "finalise" => (),
            other => panic!("no check for kernel {other}"),
        }
    }

    fn matrix(&self, layer: usize, name: &str) -> &Matrix {
        &self.tiny.matrices[&format!("blk.{layer}.{name}.weight")]
    }

    /// Normed rows of a record, checked against the norm of the residual stream, for each reader.
    fn normed(&self, gain: &str, source: usize, record: &Record, at: usize, reader: DType, m: &Machine) -> Vec<f64> {
        let hidden = self.tiny.model.hidden as usize;
        let h: Vec<f64> = m.floats(Buf::Hidden, source * hidden, hidden).into_iter().map(f64::from).collect();
        let mean = h.iter().map(|x| x * x).sum::<f64>() / hidden as f64;
        let scale = 1.0 / (mean + f64::from(self.tiny.model.rms_eps)).sqrt();
        let gains = &self.tiny.vectors[gain];
        let want: Vec<f64> = h.iter().zip(gains).map(|(x, g)| x * scale * f64::from(*g)).collect();
        let terms = if record.block.is_some() { want.iter().fold(0.0f64, |m, x| m.max(x.abs())) } else { 0.0 };
        let want = record.of(want);
        let (x, step) = record.row(&m.buffers[&Buf::Scratch], at, reader, self.numerics);
        self.rounded("norm", record, (&x, &step), &want, terms);
        x
    }

    /// `x` is `want`, a sum of terms of size `terms`, rounded to a grid of `step`, whose size is right.
    fn rounded(&self, what: &str, record: &Record, (x, step): (&[f64], &[f64]), want: &[f64], terms: f64) {
        let block = record.block.unwrap_or(32);
        for i in 0..x.len() {
            near(what, x[i], want[i], step[i] * 0.501 + SUM * (want[i].abs() + terms), 1.0);
            if step[i] > 0.0 {
                let most = want[i / block * block..][..block].iter().fold(0.0f64, |m, v| m.max(v.abs()));
                near("step", step[i], most / 127.0, (most + terms) / 127.0, 1e-5);
            }
        }
    }

    fn qkv(&self, layer: usize, before: &Machine, after: &Machine) {
        let m = &self.tiny.model;
        let (d, hidden) = (m.head_dim as usize, m.hidden as usize);
        let parts = ["attn_q", "attn_k", "attn_v"].map(|n| self.matrix(layer, n));
        let record = Record::layer(hidden, hidden, &parts.map(|p| p.dtype), self.numerics);
        let weights = parts.map(|p| record.rows(p));
        let pairs = m.family.mechanisms().rope_pairs;
        for (i, row) in self.rows.iter().enumerate() {
            for ((part, w), name) in parts.iter().zip(&weights).zip(["attn_q", "attn_k", "attn_v"]) {
                let gain = format!("blk.{layer}.attn_norm.weight");
                let x = self.normed(&gain, i, &record, i, part.dtype, after);
                let bias = self.tiny.vectors.get(&format!("blk.{layer}.{name}.bias"));
                let (y, size): (Vec<f64>, Vec<f64>) = (0..part.n)
                    .map(|n| {
                        let (y, size) = times(&w[n], &x);
                        let b = bias.map_or(0.0, |b| f64::from(b[n]));
                        (y + b, size + b.abs())
                    })
                    .unzip();
                for head in 0..part.n / d {
                    for j in 0..d {
                        let (want, size) = if name == "attn_v" {
                            (y[head * d + j], size[head * d + j])
                        } else {
                            // Dimension j of the resident order is the first or second of a pair of the file.
                            let p = j % (d / 2);
                            let (a, b) = if pairs { (2 * p, 2 * p + 1) } else { (p, p + d / 2) };
                            let (ya, yb) = (y[head * d + a], y[head * d + b]);
                            let angle = row.position as f64 * f64::from(m.rope_base).powf(-(p as f64) / (d / 2) as f64);
                            let (sin, cos) = angle.sin_cos();
                            let v = if j < d / 2 { ya * cos - yb * sin } else { yb * cos + ya * sin };
                            (v, size[head * d + a] + size[head * d + b])
                        };
                        let (page, s) = (page_of(row.sequence, row.position / PAGE), row.position % PAGE);
                        let kept = |values: bool| match after.program.kv {
                            KvFormat::F16 => element(after, layer, values, [page, head, j, s]),
                            KvFormat::Int8 => self.fresh(after, i, values, head, j),
                        };
                        match name {
                            "attn_q" => {
                                let at = (i * m.heads as usize + head) * d + j;
                                let got = f64::from(after.floats(Buf::Query, at, 1)[0]);
                                near("query", got, want / (d as f64).sqrt(), size, SUM);
                            }
                            "attn_k" => near("key", kept(false), want, size, 6e-4),
                            _ => near("value", kept(true), want, size, 6e-4),
                        }
                    }
                }
            }
        }
        self.untouched(layer, before, after);
    }

    /// A key or value before it is rounded to int8.
    fn fresh(&self, m: &Machine, row: usize, values: bool, head: usize, channel: usize) -> f64 {
        let (d, kv) = (self.tiny.model.head_dim as usize, self.tiny.model.kv_heads as usize);
        let at = (2 * row + usize::from(values)) * kv * d + head * d + channel;
        f64::from(m.floats(Buf::Fresh, at, 1)[0])
    }

    /// New keys and values are rounded to the nearest of 255 steps, and nothing else changes.
    fn append(&self, layer: usize, before: &Machine, after: &Machine) {
        let m = &self.tiny.model;
        let d = m.head_dim as usize;
        for (i, row) in self.rows.iter().enumerate().filter(|_| after.program.kv == KvFormat::Int8) {
            let (page, slot) = (page_of(row.sequence, row.position / PAGE), row.position % PAGE);
            for (head, values) in (0..m.kv_heads as usize).flat_map(|h| [(h, false), (h, true)]) {
                let want: Vec<f64> = (0..d).map(|c| self.fresh(before, i, values, head, c)).collect();
                let step = want.iter().fold(0.0f64, |m, x| m.max(x.abs())) / 127.0;
                for (c, want) in want.iter().enumerate() {
                    let got = element(after, layer, values, [page, head, c, slot]);
                    near("rounded", got, *want, 0.5001 * step, 1.0);
                }
            }
        }
        self.untouched(layer, before, after);
    }

    /// Nothing but the step's slots changed in the cache.
    fn untouched(&self, layer: usize, before: &Machine, after: &Machine) {
        let m = &self.tiny.model;
        for page in 0..crate::machine::PAGES {
            for slot in 0..PAGE {
                let here = |r: &Row| page_of(r.sequence, r.position / PAGE) == page && r.position % PAGE == slot;
                if self.rows.iter().any(here) {
                    continue;
                }
                for head in 0..m.kv_heads as usize {
                    for (channel, values) in (0..m.head_dim as usize).flat_map(|c| [(c, false), (c, true)]) {
                        let at = [page, head, channel, slot];
                        let [old, new] = [before, after].map(|x| element(x, layer, values, at));
                        assert!(old == new, "element {at:?} of the cache changed");
                    }
                }
            }
        }
    }

    fn out(&self, layer: usize, before: &Machine, after: &Machine) {
        let m = &self.tiny.model;
        let (d, heads) = (m.head_dim as usize, m.heads as usize);
        let w = self.matrix(layer, "attn_output");
        let record = Record::layer(heads * d, d, &[w.dtype], self.numerics);
        let weights = record.rows(w);
        for (i, row) in self.rows.iter().enumerate() {
            let query = before.floats(Buf::Query, i * heads * d, heads * d);
            let (mut want, mut flips) = (Vec::new(), 0.0f64);
            for head in 0..heads {
                let kv_head = head / (heads / m.kv_heads as usize);
                let pages = before.pages_of(layer, i, row, kv_head);
                let key = |values, p: usize, c| element(before, layer, values, [pages[p / PAGE], kv_head, c, p % PAGE]);
                let keys = (pages.len() - 1) * PAGE + row.position % PAGE + 1;
                let query = &query[head * d..][..d];
                if before.program.kv == KvFormat::Int8 {
                    let step = |p: usize| value_step(before, layer, [pages[p / PAGE], kv_head, p % PAGE]);
                    let (o, flip) = attend_bytes(query, keys, &key, &step);
                    want.extend(o);
                    flips = flips.max(flip);
                } else {
                    let query: Vec<f64> = query.iter().map(|q| f64::from(*q)).collect();
                    want.extend(attend(&query, keys, &key));
                }
            }
            let (x, step) = record.row(&after.buffers[&Buf::Scratch], i, w.dtype, self.numerics);
            // A weighted mean of values between −2 and 2.
            let want = record.of(want);
            // Mixing adds up to eight of them; a weight at the edge of two steps may be either.
            let terms = if record.block.is_some() { 8.0 } else { 1.0 };
            self.rounded("attention", &record, (&x, &step), &want, terms * (1.0 + flips / SUM));
            self.residual("out", &weights, &x, i, before, after);
        }
    }

    fn residual(&self, what: &str, w: &[Vec<f64>], x: &[f64], row: usize, before: &Machine, after: &Machine) {
        let old = before.floats(Buf::Hidden, row * w.len(), w.len());
        let new = after.floats(Buf::Hidden, row * w.len(), w.len());
        for n in 0..w.len() {
            let (y, size) = times(&w[n], x);
            let old = f64::from(old[n]);
            near(what, f64::from(new[n]), old + y, size + old.abs(), SUM);
        }
    }

    fn gate_up(&self, layer: usize, _before: &Machine, after: &Machine) {
        let [gate, up, down] = ["ffn_gate", "ffn_up", "ffn_down"].map(|n| self.matrix(layer, n));
        let record = Record::layer(gate.k, gate.k, &[gate.dtype, up.dtype], self.numerics);
        let act = Record::layer(down.k, down.k, &[down.dtype], self.numerics);
        let (gates, ups) = (record.rows(gate), record.rows(up));
        let gain = format!("blk.{layer}.ffn_norm.weight");
        for i in 0..self.rows.len() {
            let g = self.normed(&gain, i, &record, i, gate.dtype, after);
            let u = self.normed(&gain, i, &record, i, up.dtype, after);
            let want: Vec<f64> = (0..gate.n)
                .map(|n| {
                    let (g, u) = (times(&gates[n], &g).0, times(&ups[n], &u).0);
                    g / (1.0 + (-g).exp()) * u
                })
                .collect();
            let most = want.iter().fold(0.1f64, |m, x| m.max(x.abs()));
            let terms = if act.block.is_some() { 8.0 * most } else { 0.1 };
            let want = act.of(want);
            let (x, step) = act.row(&after.buffers[&Buf::Act], i, down.dtype, self.numerics);
            for n in 0..x.len() {
                near("activation", x[n], want[n], step[n] * 0.51 + 2e-5 * (want[n].abs() + terms), 1.0);
            }
        }
    }

    fn down(&self, layer: usize, before: &Machine, after: &Machine) {
        let w = self.matrix(layer, "ffn_down");
        let record = Record::layer(w.k, w.k, &[w.dtype], self.numerics);
        let weights = record.rows(w);
        for i in 0..self.rows.len() {
            let (x, _) = record.row(&before.buffers[&Buf::Act], i, w.dtype, self.numerics);
            self.residual("down", &weights, &x, i, before, after);
        }
    }

    fn head(&self, before: &Machine, after: &Machine) {
        let w = &self.tiny.matrices["token_embd.weight"];
        let record = Record::new(w.k, &[w.dtype], self.numerics);
        let padded = w.n.next_multiple_of(16);
        let blocks = padded.div_ceil(STAT_BLOCK);
        for i in 0..self.rows.len() {
            let source = self.rows.len() - 1 - i;
            let x = self.normed("output_norm.weight", source, &record, i, w.dtype, after);
            let logits = after.floats(Buf::Logits, i * padded, padded);
            for (n, got) in logits.iter().enumerate() {
                if n >= w.n {
                    assert_eq!(*got, f32::NEG_INFINITY);
                    continue;
                }
                let (y, size) = times(w.row(n), &x);
                near("logit", f64::from(*got), y, size, SUM);
            }
            for (block, x) in logits[..w.n].chunks(STAT_BLOCK).enumerate() {
                let stats = after.floats(Buf::Stats, (i * blocks + block) * 4, 4);
                let most = x.iter().copied().fold(f32::NEG_INFINITY, f32::max);
                let first = x.iter().position(|v| *v == most).expect("a maximum") + block * STAT_BLOCK;
                let e = |v: &f32| (f64::from(*v) - f64::from(most)).exp();
                let sum: f64 = x.iter().map(e).sum();
                let below = |v: &f32| f64::from(*v) - f64::from(most);
                let weighted: f64 = x.iter().map(|v| below(v) * e(v)).sum();
                let size = weighted.abs() + sum;
                assert_eq!((stats[0], stats[3].to_bits()), (most, first as u32));
                near("sum of exponentials", f64::from(stats[1]), sum, sum, 1e-5);
                near("weighted sum", f64::from(stats[2]), weighted, size, 1e-5);
            }
        }
        assert_eq!(before.buffers[&Buf::Hidden], after.buffers[&Buf::Hidden]);
    }
}

/// Weights `exp(score − largest)` of one query over `keys` keys.
fn weights(query: &[f64], keys: usize, key: &dyn Fn(bool, usize, usize) -> f64) -> Vec<f64> {
    let score = |p: usize| query.iter().enumerate().map(|(c, q)| q * key(false, p, c)).sum::<f64>();
    let scores: Vec<f64> = (0..keys).map(score).collect();
    let most = scores.iter().copied().fold(f64::NEG_INFINITY, f64::max);
    scores.iter().map(|s| (s - most).exp()).collect()
}

/// Attention of one scaled query over `keys` keys; `key(values, position, channel)` reads them.
fn attend(query: &[f64], keys: usize, key: &dyn Fn(bool, usize, usize) -> f64) -> Vec<f64> {
    let weights = weights(query, keys, key);
    let total: f64 = weights.iter().sum();
    (0..query.len())
        .map(|c| weights.iter().enumerate().map(|(p, w)| w * key(true, p, c)).sum::<f64>() / total)
        .collect()
}

/// The same over int8, whose `step(position)` is what a step of a value stands for: the query rounded to 255 steps, the
/// weights times the values' steps to 256 steps of the largest of their page. Beside it, what the weights that lie between
/// two steps can make of it when each falls to the other side.
fn attend_bytes(
    query: &[f32],
    keys: usize,
    key: &dyn Fn(bool, usize, usize) -> f64,
    step: &dyn Fn(usize) -> f64,
) -> (Vec<f64>, f64) {
    let most = query.iter().fold(0.0f32, |m, q| m.max(q.abs()));
    let rounded: Vec<f64> =
        query.iter().map(|q| f64::from((q * (127.0 / most)).round_ties_even()) * f64::from(most / 127.0)).collect();
    let exact = weights(&rounded, keys, key);
    let total: f64 = exact.iter().sum();
    let (mut taken, mut flips) = (Vec::new(), 0.0);
    for (page, exact) in exact.chunks(PAGE).enumerate() {
        let step = |i: usize| step(page * PAGE + i);
        let most = exact.iter().enumerate().map(|(i, w)| w * step(i)).fold(0.0, f64::max);
        for (i, w) in exact.iter().enumerate() {
            let steps = w * step(i) * 255.0 / most;
            taken.push(steps.round() * most / 255.0 / step(i));
            if (steps.fract() - 0.5).abs() < 0.005 {
                flips += most / 255.0 * 128.0 / total;
            }
        }
    }
    let o = (0..query.len())
        .map(|c| taken.iter().enumerate().map(|(p, w)| w * key(true, p, c)).sum::<f64>() / total)
        .collect();
    (o, flips)
}
