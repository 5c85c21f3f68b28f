//! K2 over int8: queries, scores and weighted sums of values in products of bytes.
//!
//! Takes a chunk as [`super::attend`] walks it, leaves the same scores, maxima, sums and outputs in the same places.
//! Queries are rounded once per unit, or where they are many, per part of a chunk, to signed bytes with one scale per
//! row and head; keys lie as unsigned bytes, so a score starts at what their 128 adds. Weights times the values' scales
//! are rounded per page and query to 0..=255 of the largest, which keeps small weights beside the large ones of other
//! pages; the softmax's sum is of weights that are not rounded.
//!
//! Integers are exact: a score is at most 127 · 255 · 256 before the start is added, a page's sum of values at most
//! 16 · 255 · 128, both below 2^24, so that their conversion is exact too. Floats follow page by page in order. So bits do
//! not depend on how many queries, pages or vectors are taken together.

use super::Dims;
use super::attend::{Attend, Chunk, QUERIES, SCORE_BYTES, together};
use super::build::{Build, Bytes, Int, Place, Var, Vf, Vi};
use super::rounding::{none_if_unsound, step};
use ir::kernel::{Cache, Mem};
use ir::program::PAGE;

/// Keys of a page whose bytes of a dimension share a lane of values.
pub(super) const KEYS_IN_LANE: i64 = 4;
/// What a key's byte is more than the key.
pub(super) const KEY_ZERO: u8 = 128;
/// Queries whose sums over values are accumulated together: with the four vectors of a page's values, their weights, an
/// integer and its start they fill the 32 registers.
pub(super) const SUM_QUERIES: i64 = 24;
/// Offset of the weights' scale behind a page's rounded weights of a query.
const WEIGHT_SCALE: i64 = PAGE as i64;
/// What a page's largest weight times its value's scale at least counts as, so that `255 / max` is finite.
const LEAST_WEIGHT: f32 = 1e-30;
/// Pages ahead at which the queries of one row ask once more for what they asked for before. The CPU drops requests while too
/// many are under way, as it does in bursts; what arrived is not asked for again (a twelfth of the time on Zen 5).
const AGAIN: i64 = 2;
/// The most bytes of rounded queries that are kept for a whole unit.
const UNIT_BYTES: i64 = 64 * 1024;

/// Rounded queries: of each the bytes, what its scores start at in 16 lanes, and its scale.
#[derive(Clone, Copy)]
pub(super) struct Queries {
    place: Place,
    /// Whether all of a unit's rows are there, or only those of a chunk's part.
    pub(super) of_unit: bool,
}

impl Queries {
    /// Room for the rows of a unit or, where that is much, for `most` rows.
    pub(super) fn new(b: &mut Build, dims: &Dims, unit_rows: i64, most: i64) -> Self {
        let of_unit = unit_rows * dims.group() * stride(dims) <= UNIT_BYTES;
        let rows = if of_unit { unit_rows.max(most) } else { most };
        Self { place: b.local("rounded", rows * dims.group() * stride(dims)), of_unit }
    }

    /// Byte of the first query of the row that is `row` rows behind the first one.
    pub(super) fn row(b: &mut Build, dims: &Dims, row: Int) -> Int {
        b.mul_const(row, dims.group() * stride(dims))
    }

    /// Rounds the queries of a KV head in `count` rows from `first`. A query with a number that is none or not finite gets
    /// a scale that is none, and so do its scores.
    pub(super) fn round(self, b: &mut Build, dims: &Dims, query: Place, (first, count): (Int, Int), head: Int) {
        let d = dims.head_dim;
        let (zero, group) = (b.int(0), b.int(dims.group()));
        let from = b.mul_const(first, dims.query_bytes());
        let from = b.scale_add(head, dims.group() * 4 * d, from);
        b.for_(zero, count, 1, |b, row| {
            let from = b.scale_add(row, dims.query_bytes(), from);
            let to = Self::row(b, dims, row);
            b.for_(zero, group, 1, |b, g| {
                let from = b.scale_add(g, 4 * d, from);
                let to = b.scale_add(g, stride(dims), to);
                let q: Vec<Vf> = (0..d / 16).map(|t| b.load(Mem::F32, query.at(from, 64 * t))).collect();
                let (scale, inverse) = step(b, &q);
                let scale = none_if_unsound(b, scale, &q);
                b.store_f32(self.place.at(to, d + 64), scale);
                let mut sum_rounded = b.vf(0.0);
                for (t, x) in (0..).zip(q) {
                    let x = b.mul(x, inverse);
                    let rounded = b.round(x);
                    b.store_ints(Mem::I8, self.place.at(to, 16 * t), rounded);
                    let rounded = b.float(rounded);
                    sum_rounded = b.add(sum_rounded, rounded);
                }
                // Integers of a few digits: a sum of floats has them exactly.
                let sum = b.sum_lanes(sum_rounded);
                let minus = b.flt(-f32::from(KEY_ZERO));
                let start = b.mul(sum, minus);
                let start = b.splat(start);
                let start = b.round(start);
                b.store_ints(Mem::I32, self.place.at(to, d), start);
            });
        });
    }
}

/// Bytes from one rounded query to the next.
fn stride(dims: &Dims) -> i64 {
    dims.head_dim + 128
}

impl Attend<'_> {
    /// The page of the chunk to ask for once more while page `page` is read, near the end the last. None where several rows
    /// leave memory the time of their products, and where pages are so large, or so many taken together, that it would be asked
    /// for the first time just then.
    fn again(&self, b: &mut Build, c: &Chunk, (page, together): (Int, i64), pages: Int) -> Option<Int> {
        let asks = c.cache() == Cache::First && together <= AGAIN && AGAIN + together <= self.pages_ahead();
        asks.then(|| {
            let (near, last) = (b.add_const(page, AGAIN), b.add_const(pages, -1));
            let near = b.min(near, last);
            self.page(b, c, near)
        })
    }

    /// Scores of all queries, −∞ where a row does not see the key.
    pub(super) fn byte_scores(&self, b: &mut Build, c: &Chunk, q8: Queries, limits: &[Int], pages: Int) {
        let dims = self.dims;
        let d = dims.head_dim;
        // More than one turn: without a loop around them queries would be spread over all lanes once, ahead of all pages,
        // and come as 64 bytes each from more memory than the first cache has.
        let step = if d > 32 { 32 } else { 16 };
        for (block, queries) in self.blocks_of_queries(c, QUERIES).into_iter().enumerate() {
            let n = queries.len() as i64;
            // Few queries leave room to take pages together; one behind the last may be the last again, behind all limits.
            let wide = together(n);
            let zero = b.int(0);
            b.for_(zero, pages, wide, |b, page| {
                let last = b.add_const(pages, -1);
                let numbers: Vec<Int> = (0..wide).map(|i| b.add_const(page, i)).collect();
                let bases: Vec<Int> = numbers
                    .iter()
                    .map(|&p| {
                        let p = b.min(p, last);
                        self.page(b, c, p)
                    })
                    .collect();
                let mut soon = Vec::new();
                if block == 0 {
                    soon.extend(numbers.iter().map(|&p| self.behind_keys(b, c, (p, self.pages_ahead()), pages)));
                    soon.extend(numbers.iter().filter_map(|&p| self.again(b, c, (p, wide), pages)));
                    for &next in &soon {
                        b.prefetch(self.keys.at(next, dims.scales()), c.cache());
                    }
                    for &base in &bases {
                        // A page's weights take these up just before its values.
                        b.prefetch(self.values.at(base, dims.scales()), c.cache());
                    }
                }
                let mut sums: Vec<Var<Vi>> = Vec::new();
                for &q in &queries {
                    let start = b.load_ints(Mem::I32, q8.place.at(c.rounded, q * stride(dims) + d));
                    sums.extend((0..wide).map(|_| b.var(start)));
                }
                b.for_to(d, step, |b, dim| {
                    let q_at = b.add(c.rounded, dim);
                    let at: Vec<Int> = bases.iter().map(|&k| b.scale_add(dim, PAGE as i64, k)).collect();
                    let soon: Vec<Int> = soon.iter().map(|&k| b.scale_add(dim, PAGE as i64, k)).collect();
                    for four in (0..step).step_by(4) {
                        let line = four * PAGE as i64;
                        for &next in &soon {
                            b.prefetch(self.keys.at(next, line), c.cache());
                        }
                        let k: Vec<Bytes> = at.iter().map(|&at| b.load_bytes(self.keys.at(at, line))).collect();
                        for (sums, &q) in sums.chunks(wide as usize).zip(&queries) {
                            let x = b.load_bytes4(q8.place.at(q_at, q * stride(dims) + four));
                            for (&sum, &k) in sums.iter().zip(&k) {
                                let next = b.dot4(sum.now(), k, x);
                                b.set(sum, next);
                            }
                        }
                    }
                });
                for (j, (&page, &base)) in numbers.iter().zip(&bases).enumerate() {
                    let scales = b.load(Mem::F32, self.keys.at(base, dims.scales()));
                    let scores: Vec<Vf> = queries
                        .iter()
                        .zip(sums.chunks(wide as usize))
                        .map(|(&q, sums)| {
                            let score = b.float(sums[j].now());
                            let score = b.mul(score, scales);
                            let scale = b.load_splat(q8.place.at(c.rounded, q * stride(dims) + d + 64));
                            b.mul(score, scale)
                        })
                        .collect();
                    self.store_scores(b, c, limits, page, &queries, &scores);
                }
            });
        }
    }

    /// Stores a query's weights `w` of page `page` of the chunk at byte `at` of the scores, times the values' scales,
    /// rounded, with their scale behind them.
    pub(super) fn round_weights(&self, b: &mut Build, c: &Chunk, page: Int, at: Int, w: Vf) {
        let values = self.page(b, c, page);
        let scales = b.load(Mem::F32, self.values.at(values, self.dims.scales()));
        let w = b.mul(w, scales);
        let most = b.max_lanes(w);
        let (least, top, share) = (b.flt(LEAST_WEIGHT), b.flt(255.0), b.flt(1.0 / 255.0));
        let most = b.max(most, least);
        let scale = b.mul(most, share);
        let inverse = b.div(top, most);
        let inverse = b.splat(inverse);
        let w = b.mul(w, inverse);
        let w = b.round(w);
        b.store_ints(Mem::U8, self.scores.at(at, 0), w);
        b.store_f32(self.scores.at(at, WEIGHT_SCALE), scale);
    }

    /// Weighted sums of values into `outs`.
    pub(super) fn byte_sums(&self, b: &mut Build, c: &Chunk, pages: Int, next: Int) {
        let dims = self.dims;
        let vectors = dims.head_dim / 16;
        for (block, queries) in self.blocks_of_queries(c, SUM_QUERIES).into_iter().enumerate() {
            let taken = Taken::of(queries.len() as i64, vectors);
            for first in (0..vectors).step_by(taken.wide as usize) {
                let none = b.vf(0.0);
                let sums: Vec<Var<Vf>> = (0..queries.len() as i64 * taken.wide).map(|_| b.var(none)).collect();
                let zero = b.int(0);
                b.for_(zero, pages, 1, |b, page| {
                    let values = self.page(b, c, page);
                    if block == 0 && first == 0 {
                        let soon = self.behind_values(b, c, (page, self.pages_ahead()), pages, next);
                        for line in (0..dims.block_bytes()).step_by(64) {
                            b.prefetch(self.keys.at(soon, line), c.cache());
                        }
                        if let Some(again) = self.again(b, c, (page, 1), pages) {
                            for line in (0..dims.block_bytes()).step_by(64) {
                                b.prefetch(self.values.at(again, line), c.cache());
                            }
                        }
                    }
                    if first == 0 {
                        self.weigh(b, c, &queries, page);
                    }
                    let weights = self.scores_of(b, c, page);
                    self.page_sums(b, &queries, taken, first, (values, weights), &sums);
                });
                let base = b.int(0);
                for (sums, &q) in sums.chunks(taken.wide as usize).zip(&queries) {
                    for (j, sum) in (first..).zip(sums) {
                        b.store(Mem::F32, self.outs.at(base, q * dims.head_partial_bytes() + 64 * j), sum.now());
                    }
                }
            }
        }
    }

    /// Adds a page's values to `sums`: exact integers of its 16 keys, then one multiplication.
    fn page_sums(
        &self,
        b: &mut Build,
        queries: &[i64],
        taken: Taken,
        first: i64,
        (values, weights): (Int, Int),
        sums: &[Var<Vf>],
    ) {
        let groups = PAGE as i64 / KEYS_IN_LANE;
        let value = |b: &mut Build, group: i64, i: i64| {
            b.load_bytes(self.values.at(values, KEYS_IN_LANE * (group * self.dims.head_dim + 16 * (first + i))))
        };
        let weight = |b: &mut Build, q: i64, group: i64| {
            b.load_bytes4(self.scores.at(weights, q * SCORE_BYTES + KEYS_IN_LANE * group))
        };
        let add = |b: &mut Build, q: i64, sums: &[Var<Vf>], dots: &[Vi]| {
            let scale = b.load_splat(self.scores.at(weights, q * SCORE_BYTES + WEIGHT_SCALE));
            for (&sum, &dot) in sums.iter().zip(dots) {
                let dot = b.float(dot);
                let next = b.fma(dot, scale, sum.now());
                b.set(sum, next);
            }
        };
        let none = b.vi(0);
        let wide = taken.wide as usize;
        if taken.by_groups {
            let mut dots = vec![none; sums.len()];
            for group in 0..groups {
                let v: Vec<Bytes> = (0..taken.wide).map(|i| value(b, group, i)).collect();
                for (dots, &q) in dots.chunks_mut(wide).zip(queries) {
                    let w = weight(b, q, group);
                    for (dot, &v) in dots.iter_mut().zip(&v) {
                        *dot = b.dot4(*dot, w, v);
                    }
                }
            }
            for ((sums, dots), &q) in sums.chunks(wide).zip(dots.chunks(wide)).zip(queries) {
                add(b, q, sums, dots);
            }
        } else {
            let v: Vec<Vec<Bytes>> =
                (0..groups).map(|group| (0..taken.wide).map(|i| value(b, group, i)).collect()).collect();
            for (sums, &q) in sums.chunks(wide).zip(queries) {
                let mut dots = vec![none; wide];
                for (group, v) in (0..).zip(&v) {
                    let w = weight(b, q, group);
                    for (dot, &v) in dots.iter_mut().zip(v) {
                        *dot = b.dot4(*dot, w, v);
                    }
                }
                add(b, q, sums, &dots);
            }
        }
    }
}

/// How the sums over values are taken.
#[derive(Clone, Copy)]
struct Taken {
    /// Vectors of 16 dimensions together.
    wide: i64,
    /// All queries by groups of keys, each with an integer per vector; or query by query, with all of the page's values.
    by_groups: bool,
}

impl Taken {
    /// The way that takes the most vectors together of those that fit the registers.
    fn of(queries: i64, vectors: i64) -> Self {
        const REGISTERS: i64 = 31;
        let widest =
            |fits: &dyn Fn(i64) -> bool| (1..=vectors).rev().find(|&n| vectors % n == 0 && fits(n)).unwrap_or(1);
        let by_groups = widest(&|n| 2 * queries * n + n < REGISTERS);
        let by_queries = widest(&|n| queries * n + 5 * n < REGISTERS);
        if by_groups >= by_queries && 2 * queries < REGISTERS {
            Self { wide: by_groups, by_groups: true }
        } else {
            Self { wide: by_queries, by_groups: false }
        }
    }
}
