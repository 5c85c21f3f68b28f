//! The end of K6: from the statistics of a row's vocabulary blocks to the row's summary.
//!
//! Takes what `head` leaves per block; leaves, per row that wants logits, the largest logit, ln Σ exp, the entropy and the
//! index of the largest logit. Blocks are folded in order, sums in 64 bits. It reads no logits.

use super::build::{Build, Built, Flt, Int, Place};
use super::math::{exp, ln};
use super::{Dims, step_words};
use ir::kernel::{Cmp, Split};
use ir::program::{Buf, FACT_WORDS, STAT_WORDS};

/// Bytes of a block's statistics.
pub(super) const STAT_BYTES: i64 = 4 * STAT_WORDS as i64;
/// Bytes of a row's summary.
pub(super) const FACT_BYTES: i64 = 4 * FACT_WORDS as i64;

/// The kernel. A unit is a row.
pub(super) fn kernel(name: &str, dims: &Dims) -> Built {
    let mut b = Build::new(name);
    let n = step_words::load(&mut b, step_words::HEAD_ROWS);
    let stats = b.read_buf("stats", Buf::Stats);
    let facts = b.write_buf("facts", Buf::Facts);
    b.par_for(n, Split::Cyclic, |b, row| {
        let base = b.mul_const(row, dims.stat_blocks() * STAT_BYTES);
        let (most, index) = largest(b, dims, stats, base);
        let none = b.flt(0.0);
        let zero = b.widen(none);
        let (z, weighted) = (b.var(zero), b.var(zero));
        b.for_to(dims.stat_blocks() * STAT_BYTES, STAT_BYTES, |b, block| {
            let at = b.add(base, block);
            let [m, sum, product] = [0, 4, 8].map(|word| b.load_f32(stats.at(at, word)));
            let less = b.sub(m, most);
            let e = exp_of(b, less);
            let (wide, sum) = (b.widen(e), b.widen(sum));
            let part = b.mul(wide, sum);
            let next = b.add(z.now(), part);
            b.set(z, next);
            // What was relative to the block's maximum becomes relative to the row's. A block of weight 0 may be −∞ away.
            let (less, product) = (b.widen(less), b.widen(product));
            let moved = b.mul(less, sum);
            let moved = b.add(moved, product);
            let moved = b.mul(wide, moved);
            let moved = b.select(Cmp::Eq, e, none, zero, moved);
            let next = b.add(weighted.now(), moved);
            b.set(weighted, next);
        });
        let sum = b.narrow(z.now());
        let sum = b.splat(sum);
        let log = ln(b, sum);
        let log = b.lane(log, 0);
        let mean = b.div(weighted.now(), z.now());
        let wide = b.widen(log);
        let entropy = b.sub(wide, mean);
        let entropy = b.narrow(entropy);
        let entropy = b.max(entropy, none);
        let log_z = b.add(most, log);
        let to = b.mul_const(row, FACT_BYTES);
        b.store_f32(facts.at(to, 0), most);
        b.store_f32(facts.at(to, 4), log_z);
        b.store_f32(facts.at(to, 8), entropy);
        b.store_i32(facts.at(to, 12), index);
    });
    b.finish()
}

/// The largest maximum of a row's blocks and its index, the first of equals; −∞ and 0 when there is none.
pub(super) fn largest(b: &mut Build, dims: &Dims, stats: Place, base: Int) -> (Flt, Int) {
    let (never, zero) = (b.flt(f32::NEG_INFINITY), b.int(0));
    let (most, index) = (b.var(never), b.var(zero));
    b.for_to(dims.stat_blocks() * STAT_BYTES, STAT_BYTES, |b, block| {
        let at = b.add(base, block);
        let (m, i) = (b.load_f32(stats.at(at, 0)), b.load_i32(stats.at(at, 12)));
        let next = b.select(Cmp::Lt, most.now(), m, i, index.now());
        b.set(index, next);
        let next = b.select(Cmp::Lt, most.now(), m, m, most.now());
        b.set(most, next);
    });
    (most.now(), index.now())
}

/// e^x of one number.
pub(super) fn exp_of(b: &mut Build, x: Flt) -> Flt {
    let x = b.splat(x);
    let y = exp(b, x);
    b.lane(y, 0)
}
