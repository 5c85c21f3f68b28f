//! Candidates of a filtered draw: gathering, thresholds, and the draw among what is kept.
//!
//! Candidates lie in a thread's scratch in the order of tokens: logits, weights, token numbers. What is kept is named by
//! the lowest kept logit and how many of those equal to it are kept. Thresholds are found by bisection over the ordered
//! bits of floats: 32 passes over the candidates, each a sum of fixed shape that never falls when the threshold does.

use super::Dims;
use super::build::{Build, Dbl, Flt, Int, Place, Var};
use super::finalise::STAT_BYTES;
use super::sample::{BLOCK_TILES, Row, pick_block, rest, step_past};
use ir::kernel::{Cmp, Mem};

/// Tiles that are looked at together before one is looked at alone.
const TOGETHER: i64 = 8;
/// Bytes of a tile.
const TILE: i64 = 64;

/// Places of candidates in a thread's scratch.
#[derive(Clone, Copy)]
pub(super) struct Candidates {
    place: Place,
    base: Int,
    /// Bytes of each of the three lists.
    part: i64,
}

/// What [`Candidates::keep`] is to leave of the candidates.
pub(super) struct Found {
    /// Candidates.
    pub(super) count: Int,
    /// Whether top-k filters, and to how many.
    pub(super) rank: Int,
    pub(super) top_k: Int,
    /// Whether top-p filters, and to which probability.
    pub(super) mass: Int,
    pub(super) top_p: Flt,
    /// The weight to reach when top-k does not filter.
    pub(super) target: Dbl,
    /// Least weight.
    pub(super) min_p: Flt,
}

/// What [`Candidates::keep`] left: weights of the others are 0.
#[derive(Clone, Copy)]
pub(super) struct Kept {
    tiles: Int,
}

/// The lowest kept logit, and how many of those equal to it are kept.
struct Threshold {
    at: Flt,
    equals: Int,
}

impl Candidates {
    /// The lists of a thread whose scratch begins at `base`.
    pub(super) fn new(dims: &Dims, place: Place, base: Int) -> Self {
        Self { place, base, part: Self::part_bytes(dims) }
    }

    /// Bytes of a list: every token, and the tile that a store or the padding may touch behind the last.
    pub(super) fn part_bytes(dims: &Dims) -> i64 {
        4 * dims.vocab_padded() + 2 * TILE
    }

    /// Address of byte `at` of the logits (0), weights (1) or numbers (2).
    fn at(self, b: &mut Build, list: i64, at: Int) -> ir::kernel::Addr {
        let at = b.add(self.base, at);
        self.place.at(at, list * self.part)
    }

    /// Puts weights at byte `at` of their list.
    pub(super) fn store_weights(self, b: &mut Build, at: Int, w: super::build::Vf) {
        let to = self.at(b, 1, at);
        b.store(Mem::F32, to, w);
    }

    /// Gathers all tokens with logits of `floor` and above, weighs them, pads the last tile; returns how many.
    pub(super) fn gather(self, b: &mut Build, dims: &Dims, row: &Row, floor: Flt) -> Int {
        let zero = b.int(0);
        let n = b.var(zero);
        b.for_to(dims.stat_blocks(), 1, |b, block| {
            let at = b.scale_add(block, STAT_BYTES, row.blocks);
            let most = b.load_f32(row.weighed.at(at, 0));
            let any = b.le(floor, most);
            b.if_(any, |b| {
                let first = b.mul_const(block, BLOCK_TILES);
                let (end, all) = (b.add_const(first, BLOCK_TILES), b.int(dims.vocab_padded() / 16));
                let end = b.min(end, all);
                b.for_(first, end, TOGETHER, |b, group| {
                    let last = b.add_const(group, TOGETHER);
                    let last = b.min(last, end);
                    let any = reaches(b, row, (group, last), floor);
                    b.if_(any, |b| {
                        b.for_(group, last, 1, |b, tile| {
                            let next = b.add_const(tile, 1);
                            let any = reaches(b, row, (tile, next), floor);
                            b.if_(any, |b| self.gather_tile(b, row, tile, floor, n));
                        });
                    });
                });
            });
        });
        // −∞ behind the last candidate: weight 0, and below every threshold but −∞.
        let end = b.mul_const(n.now(), 4);
        let to = self.at(b, 0, end);
        let never = b.vf(f32::NEG_INFINITY);
        b.store(Mem::F32, to, never);
        let bytes = tiles_bytes(b, n.now());
        b.for_(zero, bytes, TILE, |b, at| {
            let from = self.at(b, 0, at);
            let x = b.load(Mem::F32, from);
            let w = row.weight(b, x, row.most);
            self.store_weights(b, at, w);
        });
        n.now()
    }

    /// Appends the tokens of a tile that reach the floor.
    fn gather_tile(self, b: &mut Build, row: &Row, tile: Int, floor: Flt, n: Var<Int>) {
        let first = b.mul_const(tile, 16);
        let end = b.add_const(first, 16);
        b.for_(first, end, 1, |b, token| {
            let at = b.scale_add(token, 4, row.base);
            let x = b.load_f32(row.logits.at(at, 0));
            let to = b.mul_const(n.now(), 4);
            let (logit, number) = (self.at(b, 0, to), self.at(b, 2, to));
            b.store_f32(logit, x);
            b.store_i32(number, token);
            // A token that does not count is overwritten by the next.
            let counts = b.le(floor, x);
            let next = b.add(n.now(), counts);
            b.set(n, next);
        });
    }

    /// How many of `n` candidates are at `floor` or above, or strictly above it.
    fn count(self, b: &mut Build, n: Int, floor: Flt, strictly: bool) -> Flt {
        let (none, one, floor, zero) = (b.vf(0.0), b.vf(1.0), b.splat(floor), b.int(0));
        let sum = b.var(none);
        let bytes = tiles_bytes(b, n);
        b.for_(zero, bytes, TILE, |b, at| {
            let from = self.at(b, 0, at);
            let x = b.load(Mem::F32, from);
            let cmp = if strictly { Cmp::Lt } else { Cmp::Le };
            let here = b.select(cmp, floor, x, one, none);
            let next = b.add(sum.now(), here);
            b.set(sum, next);
        });
        b.sum_lanes(sum.now())
    }

    /// Weight of the candidates at `floor` or above, or strictly above it. Blocks are summed in 16 lanes, then in 64 bits.
    pub(super) fn mass(self, b: &mut Build, n: Int, floor: Flt, strictly: bool) -> Dbl {
        let (none, floor, zero, nothing) = (b.vf(0.0), b.splat(floor), b.int(0), b.flt(0.0));
        let nothing = b.widen(nothing);
        let total = b.var(nothing);
        let bytes = tiles_bytes(b, n);
        b.for_(zero, bytes, BLOCK_TILES * TILE, |b, block| {
            let end = b.add_const(block, BLOCK_TILES * TILE);
            let end = b.min(end, bytes);
            let sum = b.var(none);
            b.for_(block, end, TILE, |b, at| {
                let (x, w) = (self.at(b, 0, at), self.at(b, 1, at));
                let (x, w) = (b.load(Mem::F32, x), b.load(Mem::F32, w));
                let cmp = if strictly { Cmp::Lt } else { Cmp::Le };
                let here = b.select(cmp, floor, x, w, none);
                let next = b.add(sum.now(), here);
                b.set(sum, next);
            });
            let sum = b.sum_lanes(sum.now());
            let sum = b.widen(sum);
            let next = b.add(total.now(), sum);
            b.set(total, next);
        });
        total.now()
    }

    /// The largest float from `low` to `high` for which `holds`, which holds for `low` and never begins to hold on the way
    /// up. Floats are walked as the integers that order them.
    fn highest(self, b: &mut Build, low: Flt, high: Flt, holds: impl FnOnce(&mut Build, Flt) -> Int) -> Flt {
        let spare = b.local("bits", 64);
        let (low, high) = (rank(b, spare, low), rank(b, spare, high));
        let (low, high) = (b.var(low), b.var(high));
        b.for_to(33, 1, |b, _| {
            let open = b.lt(low.now(), high.now());
            b.if_(open, |b| {
                let span = b.sub(high.now(), low.now());
                let span = b.add_const(span, 1);
                let half = b.sar(span, 1);
                let middle = b.add(low.now(), half);
                let x = unrank(b, spare, middle);
                let yes = holds(b, x);
                let (zero, below) = (b.int(0), b.add_const(middle, -1));
                let next = b.select(Cmp::Eq, yes, zero, low.now(), middle);
                b.set(low, next);
                let next = b.select(Cmp::Eq, yes, zero, below, high.now());
                b.set(high, next);
            });
        });
        unrank(b, spare, low.now())
    }

    /// Finds what top-k, top-p and min-p keep, and makes the weights of all others 0.
    pub(super) fn keep(self, b: &mut Build, row: &Row, found: &Found) -> Kept {
        let n = found.count;
        let never = b.flt(f32::NEG_INFINITY);
        let (at, equals) = (b.var(never), b.var(n));
        let cut = b.lt(found.top_k, n);
        let cut = b.and(cut, found.rank);
        b.if_(cut, |b| {
            let most = b.float_of(found.top_k);
            let t = self.highest(b, never, row.most, |b, x| {
                let count = self.count(b, n, x, false);
                b.le(most, count)
            });
            let above = self.count(b, n, t, true);
            let left = b.sub(most, above);
            let left = b.splat(left);
            let left = b.round(left);
            let left = self.first_lane(b, left);
            b.set(at, t);
            b.set(equals, left);
        });
        b.if_(found.mass, |b| {
            let by_rank = Threshold { at: at.now(), equals: equals.now() };
            let t = self.nucleus(b, row, found, by_rank);
            b.set(at, t.at);
            b.set(equals, t.equals);
        });
        let threshold = Threshold { at: at.now(), equals: equals.now() };
        self.drop_others(b, n, &threshold, found.min_p);
        let bytes = tiles_bytes(b, n);
        Kept { tiles: b.shr(bytes, 6) }
    }

    /// Lane 0 as an index.
    fn first_lane(self, b: &mut Build, v: super::build::Vi) -> Int {
        let spare = b.local("lane", 64);
        b.store_ints(Mem::I32, spare.fixed(0), v);
        b.load_i32(spare.fixed(0))
    }

    /// The fewest highest of what top-k left that reach the probability.
    fn nucleus(self, b: &mut Build, row: &Row, found: &Found, by_rank: Threshold) -> Threshold {
        let n = found.count;
        let target = b.var(found.target);
        b.if_(found.rank, |b| {
            // The weight of what top-k left: all above its threshold and some of those equal to it.
            let above = self.mass(b, n, by_rank.at, true);
            let w = weight_of(b, row, by_rank.at);
            let equals = b.float_of(by_rank.equals);
            let equals = b.widen(equals);
            let more = b.mul(equals, w);
            let all = b.add(above, more);
            let none = b.flt(0.0);
            let p = b.max(found.top_p, none);
            let p = b.widen(p);
            let part = b.mul(p, all);
            b.set(target, part);
        });
        let target = target.now();
        let at = self.highest(b, by_rank.at, row.most, |b, x| {
            let mass = self.mass(b, n, x, false);
            b.le(target, mass)
        });
        let above = self.mass(b, n, at, true);
        let w = weight_of(b, row, at);
        let here = {
            let (all, over) = (self.count(b, n, at, false), self.count(b, n, at, true));
            let here = b.sub(all, over);
            let here = b.splat(here);
            let here = b.round(here);
            self.first_lane(b, here)
        };
        let here = b.select(Cmp::Eq, at, by_rank.at, by_rank.equals, here);
        // One of the equals, and more while the weight is not reached.
        let one = b.int(1);
        let first = b.add(above, w);
        let (equals, run) = (b.var(one), b.var(first));
        b.for_(one, here, 1, |b, _| {
            let more = b.lt(run.now(), target);
            let next = b.add(equals.now(), more);
            b.set(equals, next);
            let next = b.add(run.now(), w);
            b.set(run, next);
        });
        Threshold { at, equals: equals.now() }
    }

    /// Weights of what is below the threshold, of surplus equals and of what is below the least share become 0.
    fn drop_others(self, b: &mut Build, n: Int, t: &Threshold, min_p: Flt) {
        let (none, floor, share, zero) = (b.vf(0.0), b.splat(t.at), b.splat(min_p), b.int(0));
        let bytes = tiles_bytes(b, n);
        b.for_(zero, bytes, TILE, |b, at| {
            let (x, to) = (self.at(b, 0, at), self.at(b, 1, at));
            let (x, w) = (b.load(Mem::F32, x), b.load(Mem::F32, to));
            let w = b.select(Cmp::Le, floor, x, w, none);
            let w = b.select(Cmp::Le, share, w, w, none);
            b.store(Mem::F32, to, w);
        });
        let (all, over) = (self.count(b, n, t.at, false), self.count(b, n, t.at, true));
        let here = b.sub(all, over);
        let kept = b.float_of(t.equals);
        let surplus = b.lt(kept, here);
        b.if_(surplus, |b| {
            let seen = b.var(zero);
            let end = b.mul_const(n, 4);
            b.for_(zero, end, 4, |b, at| {
                let (x, to) = (self.at(b, 0, at), self.at(b, 1, at));
                let x = b.load_f32(x);
                let equal = b.eq(x, t.at);
                let next = b.add(seen.now(), equal);
                b.set(seen, next);
                let late = b.lt(t.equals, seen.now());
                let late = b.and(late, equal);
                b.if_(late, |b| {
                    let none = b.flt(0.0);
                    b.store_f32(to, none);
                });
            });
        });
    }

    /// Draws among the candidates whose weight is not 0; returns the token.
    pub(super) fn draw(self, b: &mut Build, row: &Row, kept: Kept, uniform: Dbl) -> Int {
        let (zero, none, nothing) = (b.int(0), b.vf(0.0), b.flt(0.0));
        let nothing = b.widen(nothing);
        let (total, blocks) = (b.var(nothing), b.var(zero));
        b.for_(zero, kept.tiles, BLOCK_TILES, |b, first| {
            let end = b.add_const(first, BLOCK_TILES);
            let end = b.min(end, kept.tiles);
            let sum = b.var(none);
            b.for_(first, end, 1, |b, tile| {
                let at = b.mul_const(tile, TILE);
                let from = self.at(b, 1, at);
                let w = b.load(Mem::F32, from);
                let next = b.add(sum.now(), w);
                b.set(sum, next);
            });
            let sum = b.sum_lanes(sum.now());
            let sum = b.widen(sum);
            let to = b.mul_const(blocks.now(), 8);
            b.store_f64(row.sums.at(to, 0), sum);
            let next = b.add(total.now(), sum);
            b.set(total, next);
            let next = b.add_const(blocks.now(), 1);
            b.set(blocks, next);
        });
        let target = b.mul(uniform, total.now());
        let (block, rest) = pick_block(b, row.sums, blocks.now(), target);
        let first = b.mul_const(block, BLOCK_TILES);
        let left = b.sub(kept.tiles, first);
        let most = b.int(BLOCK_TILES);
        let tiles = b.min(left, most);
        let at = b.mul_const(first, TILE);
        let index = self.pick(b, at, tiles, rest);
        let at = b.scale_add(index, 4, at);
        let number = self.at(b, 2, at);
        b.load_i32(number)
    }

    /// Which of the weights of `tiles` tiles from byte `at` on `target` falls into: first the tile, then the lane.
    pub(super) fn pick(self, b: &mut Build, at: Int, tiles: Int, target: Dbl) -> Int {
        let (zero, none) = (b.int(0), b.flt(0.0));
        let nothing = b.widen(none);
        let (index, last, run, before) = (b.var(zero), b.var(zero), b.var(nothing), b.var(nothing));
        b.for_(zero, tiles, 1, |b, tile| {
            let from = b.scale_add(tile, TILE, at);
            let from = self.at(b, 1, from);
            let w = b.load(Mem::F32, from);
            let sum = b.sum_lanes(w);
            let wide = b.widen(sum);
            let next = b.add(run.now(), wide);
            b.set(run, next);
            step_past(b, target, (index, before), next);
            let next = b.select(Cmp::Lt, none, sum, tile, last.now());
            b.set(last, next);
        });
        let tile = b.min(index.now(), last.now());
        let rest = rest(b, target, (index, before), last);
        let from = b.scale_add(tile, TILE, at);
        let (lane, last, run, before) = (b.var(zero), b.var(zero), b.var(nothing), b.var(nothing));
        b.for_to(16, 1, |b, i| {
            let from = b.scale_add(i, 4, from);
            let from = self.at(b, 1, from);
            let w = b.load_f32(from);
            let wide = b.widen(w);
            let next = b.add(run.now(), wide);
            b.set(run, next);
            step_past(b, rest, (lane, before), next);
            let next = b.select(Cmp::Lt, none, w, i, last.now());
            b.set(last, next);
        });
        let lane = b.min(lane.now(), last.now());
        b.scale_add(tile, 16, lane)
    }
}

/// Bytes of the tiles that hold `n` numbers of four bytes.
fn tiles_bytes(b: &mut Build, n: Int) -> Int {
    let n = b.add_const(n, 15);
    let n = b.shr(n, 4);
    b.shl(n, 6)
}

/// Whether a logit of the tiles is `floor` or above.
fn reaches(b: &mut Build, row: &Row, (first, end): (Int, Int), floor: Flt) -> Int {
    let never = b.vf(f32::NEG_INFINITY);
    let most = b.var(never);
    b.for_(first, end, 1, |b, tile| {
        let at = b.scale_add(tile, TILE, row.base);
        let x = b.load(Mem::F32, row.logits.at(at, 0));
        let next = b.max(most.now(), x);
        b.set(most, next);
    });
    let most = b.max_lanes(most.now());
    b.le(floor, most)
}

/// Weight of a logit.
fn weight_of(b: &mut Build, row: &Row, x: Flt) -> Dbl {
    let x = b.splat(x);
    let w = row.weight(b, x, row.most);
    let w = b.lane(w, 0);
    b.widen(w)
}

/// The place of a float among all floats: its magnitude, negative for negative ones (both zeros are 0).
fn rank(b: &mut Build, spare: Place, x: Flt) -> Int {
    b.store_f32(spare.fixed(0), x);
    let bits = b.load_i32(spare.fixed(0));
    let (zero, magnitude) = (b.int(0), b.int(0x7FFF_FFFF));
    let below = b.and(bits, magnitude);
    let below = b.sub(zero, below);
    b.select(Cmp::Lt, bits, zero, below, bits)
}

/// The float at a place.
fn unrank(b: &mut Build, spare: Place, place: Int) -> Flt {
    let (zero, sign) = (b.int(0), b.int(1 << 31));
    let below = b.sub(zero, place);
    let below = b.or(below, sign);
    let bits = b.select(Cmp::Lt, place, zero, below, place);
    b.store_i32(spare.fixed(0), bits);
    b.load_f32(spare.fixed(0))
}
