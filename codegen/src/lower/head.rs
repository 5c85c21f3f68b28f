//! K6: final norm, output projection, logits and their statistics.
//!
//! Takes the residual stream and the rows that want logits; leaves logits (−∞ past the vocabulary) and, per block of the
//! vocabulary, maximum, Σ exp(x − max), Σ (x − max)·exp(x − max) and the first index of the maximum. One thread makes a whole
//! block, so statistics do not depend on the team.

use super::build::{Build, Built, Flt, Int, Place, Role, Slot, Vf};
use super::finalise::STAT_BYTES;
use super::linear::{Matrix, RESULT_BYTES, Resident, Results, row_blocks};
use super::math::exp;
use super::prologue::{Norm, rows};
use super::record::Record;
use super::{Dims, step_words};
use ir::kernel::{Cmp, Mem, Split};
use ir::program::{Buf, STAT_BLOCK, STAT_WORDS};

/// The record that the output projection reads.
pub(super) fn record(dims: &Dims, resident: Resident) -> Record {
    Record::new(dims.hidden, &[resident], dims.blocking.numerics)
}

/// The kernel. A unit is a statistics block.
pub(super) fn kernel(name: &str, dims: &Dims, resident: Resident) -> Built {
    let mut b = Build::new(name);
    let n = step_words::load(&mut b, step_words::HEAD_ROWS);
    let record = record(dims, resident);
    let rows = rows(&mut b, dims, &record, n, |b| Norm::declare(b, true));
    let matrix = Matrix { place: b.read("weight", Slot::Weight(Role::Matrix)), resident };
    let logits = b.write_buf("logits", Buf::Logits);
    let stats = b.write_buf("stats", Buf::Stats);
    let results = b.local("results", dims.blocking.at_once(&record) * RESULT_BYTES);
    let per_unit = (STAT_BLOCK / 16) as i64;
    let units = b.int(dims.stat_blocks());
    b.par_for(units, Split::Blocked, |b, unit| {
        let first_tile = b.mul_const(unit, per_unit);
        let end = b.add_const(first_tile, per_unit);
        let all = b.int(dims.vocab_padded() / 16);
        let end = b.min(end, all);
        b.for_(first_tile, end, 1, |b, tile| {
            let at = b.mul_const(tile, matrix.tile_bytes(dims.hidden));
            let none = b.int(0);
            row_blocks(b, (none, n), dims.blocking.at_once(&record), |b, first, count| {
                let zero = b.int(0);
                matrix.times(b, dims.blocking, at, rows, first, count, Results { place: results, offset: zero });
                b.for_(zero, count, 1, |b, r| {
                    let from = b.mul_const(r, RESULT_BYTES);
                    let x = b.load(Mem::F32, results.at(from, 0));
                    let x = beyond(b, dims, tile, x);
                    let row = b.add(first, r);
                    let to = b.mul_const(row, 4 * dims.vocab_padded());
                    let to = b.scale_add(tile, 64, to);
                    b.store(Mem::F32, logits.at(to, 0), x);
                });
            });
        });
        let zero = b.int(0);
        b.for_(zero, n, 1, |b, row| {
            let base = b.mul_const(row, 4 * dims.vocab_padded());
            let to = b.mul_const(row, dims.stat_blocks() * STAT_BYTES);
            let to = b.scale_add(unit, STAT_BYTES, to);
            let words = statistics(b, logits, base, (first_tile, end), None);
            for (i, word) in words.into_iter().enumerate() {
                b.store_f32(stats.at(to, 4 * i as i64), word);
            }
        });
    });
    b.finish()
}

/// −∞ for the rows that pad the last tile.
fn beyond(b: &mut Build, dims: &Dims, tile: Int, x: Vf) -> Vf {
    if dims.vocab == dims.vocab_padded() {
        return x;
    }
    let token = b.mul_const(tile, 16);
    let (token, lanes) = (b.splat_int(token), b.iota());
    let token = b.add(token, lanes);
    let (vocab, never) = (b.vi(dims.vocab), b.vf(f32::NEG_INFINITY));
    b.select(Cmp::Lt, token, vocab, x, never)
}

/// Statistics of the logits of tiles `first..end` of the row at byte `row`; with a scale, of differences times the scale, and
/// without the third.
pub(super) fn statistics(
    b: &mut Build,
    logits: Place,
    row: Int,
    (first, end): (Int, Int),
    scale: Option<Flt>,
) -> [Flt; STAT_WORDS] {
    let (never, none, lanes) = (b.vf(f32::NEG_INFINITY), b.vf(0.0), b.iota());
    let token = |b: &mut Build, tile: Int| {
        let token = b.mul_const(tile, 16);
        let token = b.splat_int(token);
        b.add(token, lanes)
    };
    let start = token(b, first);
    let (most, index) = (b.var(never), b.var(start));
    b.for_(first, end, 1, |b, tile| {
        let at = b.scale_add(tile, 64, row);
        let x = b.load(Mem::F32, logits.at(at, 0));
        let here = token(b, tile);
        let next = b.select(Cmp::Lt, most.now(), x, here, index.now());
        b.set(index, next);
        let next = b.max(most.now(), x);
        b.set(most, next);
    });
    let m = b.max_lanes(most.now());
    let every = b.splat(m);
    let factor = match scale {
        Some(scale) => b.splat(scale),
        None => none,
    };
    let (sum, weighted) = (b.var(none), b.var(none));
    b.for_(first, end, 1, |b, tile| {
        let at = b.scale_add(tile, 64, row);
        let x = b.load(Mem::F32, logits.at(at, 0));
        // Also −∞ below a maximum of −∞.
        let less = b.sub(x, every);
        let less = b.select(Cmp::Eq, x, never, never, less);
        let scaled = match scale {
            Some(_) => b.mul(less, factor),
            None => less,
        };
        let e = exp(b, scaled);
        let next = b.add(sum.now(), e);
        b.set(sum, next);
        if scale.is_none() {
            // −∞ has weight 0 and must not make 0 · ∞; a NaN weight stays.
            let product = b.mul(less, e);
            let product = b.select(Cmp::Eq, e, none, none, product);
            let next = b.add(weighted.now(), product);
            b.set(weighted, next);
        }
    });
    // Token numbers are below 2^24 and exact as floats; the least of the lanes that hold the maximum is the first.
    let far = b.vf(16_777_216.0);
    let token = b.float(index.now());
    let token = b.select(Cmp::Eq, most.now(), every, token, far);
    let minus = b.sub(none, token);
    let least = b.max_lanes(minus);
    let least = b.splat(least);
    let least = b.sub(none, least);
    let least = b.round(least);
    let least = b.unbits(least);
    let index = b.lane(least, 0);
    let (sum, weighted) = (b.sum_lanes(sum.now()), b.sum_lanes(weighted.now()));
    [m, sum, weighted, index]
}
