//! Prologues: what turns the residual stream or attention partials into activation records.
//!
//! Takes a row number, writes that row's record. A prologue runs at the head of the kernel that reads the records, every
//! thread for itself in its own scratch, or as a kernel of its own in thread 0's scratch; the arithmetic is the same.

use super::attend::{State, fold};
use super::build::{Build, Built, Int, Place, Role, Slot, Vf};
use super::linear::Rows;
use super::record::Record;
use super::{Dims, head_words, row_words, step_words};
use ir::kernel::{Cmp, Mem, Split};
use ir::program::{Arg, Buf};
use ir::schedule::Prologue;

/// Makes one row's record.
pub(super) trait Prepare {
    /// Emits the code for row `row`.
    fn row(&self, b: &mut Build, dims: &Dims, row: Int, to: Rows<'_>);
}

/// RMSNorm of a row of the residual stream.
pub(super) struct Norm {
    hidden: Place,
    gain: Place,
    picked: Option<Place>,
}

impl Norm {
    /// Declares its parameters; `picked` norms only the rows that want logits.
    pub(super) fn declare(b: &mut Build, picked: bool) -> Self {
        let hidden = b.read_buf("hidden", Buf::Hidden);
        let gain = b.read("gain", Slot::Weight(Role::Gain));
        let picked = picked.then(|| b.read_buf("head_rows", Buf::HeadRows));
        Self { hidden, gain, picked }
    }
}

impl Prepare for Norm {
    /// `x / sqrt(mean(x²) + ε) · gain`; squares are summed in two vectors, even and odd ones of 16.
    fn row(&self, b: &mut Build, dims: &Dims, row: Int, to: Rows<'_>) {
        let source = match self.picked {
            Some(list) => {
                let at = b.mul_const(row, head_words::BYTES);
                b.load_i32(list.at(at, 0))
            }
            None => row,
        };
        let bytes = 4 * dims.hidden;
        let from = b.mul_const(source, bytes);
        let zero = b.vf(0.0);
        let (even, odd) = (b.var(zero), b.var(zero));
        let end = b.add_const(from, bytes);
        b.for_(from, end, 128, |b, at| {
            for (i, sum) in [even, odd].into_iter().enumerate() {
                let x = b.load(Mem::F32, self.hidden.at(at, 64 * i as i64));
                let next = b.fma(x, x, sum.now());
                b.set(sum, next);
            }
        });
        let sum = b.add(even.now(), odd.now());
        let sum = b.sum_lanes(sum);
        let (count, eps, one) = (b.flt(dims.hidden as f32), b.flt(dims.eps), b.flt(1.0));
        let mean = b.div(sum, count);
        let mean = b.add(mean, eps);
        let root = b.sqrt(mean);
        let scale = b.div(one, root);
        let scale = b.splat(scale);
        let out = b.scale_add(row, to.record.stride(), to.base);
        let bytes = 4 * to.record.block_features();
        b.for_to(to.record.blocks(), 1, |b, block| {
            let at = b.mul_const(block, bytes);
            let x_at = b.add(from, at);
            let x: Vec<Vf> = (0..bytes)
                .step_by(64)
                .map(|offset| {
                    let x = b.load(Mem::F32, self.hidden.at(x_at, offset));
                    let g = b.load(Mem::F32, self.gain.at(at, offset));
                    let x = b.mul(x, scale);
                    b.mul(x, g)
                })
                .collect();
            to.record.store_block(b, to.place, out, block, &x);
        });
    }
}

/// The left fold of a row's attention partials.
pub(super) struct Attended {
    rows: Place,
    partials: Place,
}

impl Attended {
    /// Declares its parameters.
    pub(super) fn declare(b: &mut Build) -> Self {
        Self { rows: b.read_buf("rows", Buf::Rows), partials: b.read_buf("partials", Buf::Partials) }
    }
}

impl Prepare for Attended {
    fn row(&self, b: &mut Build, dims: &Dims, row: Int, to: Rows<'_>) {
        let at = b.mul_const(row, row_words::BYTES);
        let first = b.load_i64(self.rows.at(at, row_words::FIRST_PARTIAL));
        let count = b.load_i64(self.rows.at(at, row_words::PARTIALS));
        let base = b.mul_const(first, dims.partial_bytes());
        let more = b.mul_const(count, dims.partial_bytes());
        let end = b.add(base, more);
        let out = b.scale_add(row, to.record.stride(), to.base);
        b.for_to(dims.heads, 1, |b, head| {
            let mine = b.scale_add(head, dims.head_partial_bytes(), base);
            let state = State::load(b, dims, self.partials, mine);
            let second = b.add_const(base, dims.partial_bytes());
            b.for_(second, end, dims.partial_bytes(), |b, partial| {
                let at = b.scale_add(head, dims.head_partial_bytes(), partial);
                fold(b, dims, &state, self.partials, at);
            });
            // Nothing attended means a result of 0; a NaN stays one.
            let (zero, one) = (b.flt(0.0), b.flt(1.0));
            let inverse = b.div(one, state.l.now());
            let inverse = b.select(Cmp::Eq, state.l.now(), zero, zero, inverse);
            let inverse = b.splat(inverse);
            let features = to.record.block_features();
            for (i, part) in state.o.chunks((features / 16) as usize).enumerate() {
                let block = b.mul_const(head, dims.head_dim / features);
                let block = b.add_const(block, i as i64);
                let x: Vec<Vf> = part.iter().map(|o| b.mul(o.now(), inverse)).collect();
                to.record.store_block(b, to.place, out, block, &x);
            }
        });
    }
}

/// The rows a kernel's linear layers read, after the prologue when it is fused.
pub(super) fn rows<'a, P: Prepare>(
    b: &mut Build,
    dims: &Dims,
    record: &'a Record,
    n: Int,
    declare: impl FnOnce(&mut Build) -> P,
) -> Rows<'a> {
    match dims.prologue {
        Prologue::Split => {
            let place = b.read_buf("scratch", Buf::Scratch);
            Rows { place, base: b.int(0), record }
        }
        Prologue::Fused => {
            let prepare = declare(b);
            let place = b.write_buf("scratch", Buf::Scratch);
            let stride = b.int_param("scratch_stride", Arg::ScratchStride);
            let tid = b.tid();
            let base = b.mul(tid, stride);
            let to = Rows { place, base, record };
            let zero = b.int(0);
            b.for_(zero, n, 1, |b, row| prepare.row(b, dims, row, to));
            to
        }
    }
}

/// A prologue as a kernel of its own: rows counted by word `count` of the step header.
pub(super) fn alone<P: Prepare>(
    name: &str,
    dims: &Dims,
    record: &Record,
    count: i64,
    declare: impl FnOnce(&mut Build) -> P,
) -> Built {
    let mut b = Build::new(name);
    let n = step_words::load(&mut b, count);
    let prepare = declare(&mut b);
    let place = b.write_buf("scratch", Buf::Scratch);
    let to = Rows { place, base: b.int(0), record };
    b.par_for(n, Split::Blocked, |b, row| prepare.row(b, dims, row, to));
    b.finish()
}
