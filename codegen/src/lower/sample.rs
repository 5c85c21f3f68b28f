//! K7: draws tokens from logits.
//!
//! Takes logits, their statistics and summaries, and a table of what to draw; leaves tokens and their log-probabilities.
//! The order is: mask, temperature, then top-k, then top-p over what top-k left, then min-p against the most probable
//! token. Of equal logits the lower token counts as the more probable one. A draw walks the tokens in order until their
//! running sum exceeds `uniform · total`; weights are f32, sums over more than 16 lanes and blocks are 64 bits wide.
//!
//! Two kernels. `weigh` makes statistics per block of the vocabulary, as `head` does, at the draw's temperature and under
//! its mask (which it writes into the logits); where those of `head` will do it copies them. `draw` finishes one token per
//! unit: without filters it picks a block by the sums and looks into that block alone; with filters it gathers candidates
//! near the maximum, finds the lowest kept logit by bisection on ordered bits, and draws among the candidates. Nothing is
//! sorted. Random numbers come from outside.

use super::build::{Build, Built, Dbl, Flt, Int, Place, Var, Vf};
use super::finalise::{FACT_BYTES, STAT_BYTES, exp_of, largest};
use super::head::statistics;
use super::math::{exp, ln};
use super::select::{Candidates, Found, Kept};
use super::{Dims, step_words};
use ir::kernel::{Cmp, Mem, Split};
use ir::program::{Arg, Buf, CHOICE_WORDS, DRAW_WORDS, STAT_BLOCK, mask_bytes};

/// Bytes of a table entry.
const DRAW_BYTES: i64 = 8 * DRAW_WORDS as i64;
/// Bytes of a result.
const CHOICE_BYTES: i64 = 4 * CHOICE_WORDS as i64;
/// Tiles of a block.
pub(super) const BLOCK_TILES: i64 = (STAT_BLOCK / 16) as i64;

/// Bytes of scratch that a thread needs: logits, weights and numbers of candidates.
pub(super) fn scratch_bytes(dims: &Dims) -> i64 {
    3 * Candidates::part_bytes(dims)
}

/// An entry of the table.
struct Entry {
    row: Int,
    mask: Int,
    top_k: Int,
    scale: Flt,
    top_p: Flt,
    min_p: Flt,
    uniform: Dbl,
    alone: Int,
}

impl Entry {
    fn load(b: &mut Build, draws: Place, draw: Int) -> Self {
        let at = b.mul_const(draw, DRAW_BYTES);
        let [row, mask, top_k] = [0, 8, 16].map(|word| b.load_i64(draws.at(at, word)));
        let [scale, top_p, min_p] = [24, 32, 40].map(|word| b.load_f32(draws.at(at, word)));
        let uniform = b.load_f64(draws.at(at, 48));
        let alone = b.load_i64(draws.at(at, 56));
        Self { row, mask, top_k, scale, top_p, min_p, uniform, alone }
    }

    /// Whether top-k keeps less than all.
    fn by_rank(&self, b: &mut Build, dims: &Dims) -> Int {
        let vocab = b.int(dims.vocab);
        b.lt(self.top_k, vocab)
    }

    /// Whether top-p keeps less than all.
    fn by_mass(&self, b: &mut Build) -> Int {
        let one = b.flt(1.0);
        b.lt(self.top_p, one)
    }

    /// Whether min-p keeps less than all.
    fn by_share(&self, b: &mut Build) -> Int {
        let none = b.flt(0.0);
        b.lt(none, self.min_p)
    }
}

/// `1 − a` of a truth value.
fn not(b: &mut Build, a: Int) -> Int {
    let one = b.int(1);
    b.sub(one, a)
}

/// Statistics of a draw's blocks. A unit is a block of a draw.
pub(super) fn weigh(name: &str, dims: &Dims) -> Built {
    let mut b = Build::new(name);
    let n = step_words::load(&mut b, step_words::DRAWS);
    let draws = b.read_buf("draws", Buf::Draws);
    let masks = b.read_buf("masks", Buf::Masks);
    let stats = b.read_buf("stats", Buf::Stats);
    let logits = b.write_buf("logits", Buf::Logits);
    let weighed = b.write_buf("weighed", Buf::Weighed);
    let units = b.mul_const(n, dims.stat_blocks());
    b.par_for(units, Split::Blocked, |b, unit| {
        let (draw, block) = b.div_rem(unit, dims.stat_blocks());
        let e = Entry::load(b, draws, draw);
        let first = b.mul_const(block, BLOCK_TILES);
        let (end, all) = (b.add_const(first, BLOCK_TILES), b.int(dims.vocab_padded() / 16));
        let tiles = (first, b.min(end, all));
        let base = b.mul_const(e.row, 4 * dims.vocab_padded());
        let to = b.mul_const(unit, STAT_BYTES);
        let zero = b.int(0);
        let masked = b.le(zero, e.mask);
        b.if_(masked, |b| apply_mask(b, dims, masks, e.mask, logits, base, tiles));
        // The sums of `head` stand for temperature 1; those of greedy rows and of a filter by rank or share are not read.
        let (none, one) = (b.flt(0.0), b.flt(1.0));
        let (greedy, plain) = (b.eq(e.scale, none), b.eq(e.scale, one));
        let (rank, mass, share) = (e.by_rank(b, dims), e.by_mass(b), e.by_share(b));
        let whole = not(b, mass);
        let unread = b.and(share, whole);
        let same = [plain, rank, unread].into_iter().fold(greedy, |any, x| b.or(any, x));
        let same = not(b, same);
        let own = b.or(same, masked);
        let own = b.or(own, e.alone);
        b.if_else(
            own,
            |b| {
                let words = statistics(b, logits, base, tiles, Some(e.scale));
                for (i, word) in words.into_iter().enumerate() {
                    b.store_f32(weighed.at(to, 4 * i as i64), word);
                }
            },
            |b| {
                let from = b.mul_const(e.row, dims.stat_blocks() * STAT_BYTES);
                let from = b.scale_add(block, STAT_BYTES, from);
                for half in [0, 8] {
                    let words = b.load_i64(stats.at(from, half));
                    b.store_i64(weighed.at(to, half), words);
                }
            },
        );
    });
    b.finish()
}

/// Makes the logits of tokens that are not allowed −∞.
fn apply_mask(b: &mut Build, dims: &Dims, masks: Place, mask: Int, logits: Place, base: Int, (first, end): (Int, Int)) {
    let bytes = i64::try_from(mask_bytes(dims.vocab.unsigned_abs())).expect("the vocabulary is bounded");
    let row = b.mul_const(mask, bytes);
    // Bit `l` in lane `l`, made as a float of that power of two.
    let (lanes, bias) = (b.iota(), b.vi(127));
    let power = b.add(lanes, bias);
    let power = b.shl(power, 23);
    let power = b.unbits(power);
    let bit = b.round(power);
    let (none, never) = (b.vi(0), b.vf(f32::NEG_INFINITY));
    b.for_(first, end, 1, |b, tile| {
        let at = b.scale_add(tile, 2, row);
        let allowed = b.load_i32(masks.at(at, 0));
        let allowed = b.splat_int(allowed);
        let allowed = b.and(allowed, bit);
        let at = b.scale_add(tile, 64, base);
        let x = b.load(Mem::F32, logits.at(at, 0));
        let x = b.select(Cmp::Eq, allowed, none, never, x);
        b.store(Mem::F32, logits.at(at, 0), x);
    });
}

/// What `draw` knows of its unit.
pub(super) struct Row {
    /// Logits of the row begin here.
    pub(super) logits: Place,
    pub(super) base: Int,
    /// Statistics of its blocks.
    pub(super) weighed: Place,
    pub(super) blocks: Int,
    /// Largest logit.
    pub(super) most: Flt,
    /// 1 / temperature.
    pub(super) scale: Flt,
    /// Sums of the weights of blocks, f64, private to the thread.
    pub(super) sums: Place,
}

impl Row {
    /// `exp((x − from) · scale)`.
    pub(super) fn weight(&self, b: &mut Build, x: Vf, from: Flt) -> Vf {
        let (from, scale) = (b.splat(from), b.splat(self.scale));
        let less = b.sub(x, from);
        let less = b.mul(less, scale);
        exp(b, less)
    }

    /// Weight of a block's maximum.
    fn block_weight(&self, b: &mut Build, most: Flt) -> Flt {
        let less = b.sub(most, self.most);
        let less = b.mul(less, self.scale);
        exp_of(b, less)
    }

    /// Puts the weights of the vocabulary's blocks into `sums`; returns their sum.
    pub(super) fn total(&self, b: &mut Build, dims: &Dims) -> Dbl {
        let none = b.flt(0.0);
        let none = b.widen(none);
        let total = b.var(none);
        b.for_to(dims.stat_blocks(), 1, |b, block| {
            let at = b.scale_add(block, STAT_BYTES, self.blocks);
            let (m, sum) = (b.load_f32(self.weighed.at(at, 0)), b.load_f32(self.weighed.at(at, 4)));
            let e = self.block_weight(b, m);
            let (e, sum) = (b.widen(e), b.widen(sum));
            let part = b.mul(e, sum);
            let to = b.mul_const(block, 8);
            b.store_f64(self.sums.at(to, 0), part);
            let next = b.add(total.now(), part);
            b.set(total, next);
        });
        total.now()
    }
}

/// Tokens from logits. A unit is a token.
pub(super) fn draw(name: &str, dims: &Dims) -> Built {
    let mut b = Build::new(name);
    let n = step_words::load(&mut b, step_words::DRAWS);
    let draws = b.read_buf("draws", Buf::Draws);
    let facts = b.read_buf("facts", Buf::Facts);
    let weighed = b.read_buf("weighed", Buf::Weighed);
    let logits = b.read_buf("logits", Buf::Logits);
    let scratch = b.write_buf("scratch", Buf::Scratch);
    let stride = b.int_param("scratch_stride", Arg::ScratchStride);
    let choices = b.write_buf("choices", Buf::Choices);
    let sums = b.local("sums", 8 * dims.stat_blocks());
    let tid = b.tid();
    let mine = b.mul(tid, stride);
    let found = Candidates::new(dims, scratch, mine);
    b.par_for(n, Split::Cyclic, |b, draw| {
        let e = Entry::load(b, draws, draw);
        let blocks = b.mul_const(draw, dims.stat_blocks() * STAT_BYTES);
        let (most, index) = largest(b, dims, weighed, blocks);
        let base = b.mul_const(e.row, 4 * dims.vocab_padded());
        let row = Row { logits, base, weighed, blocks, most, scale: e.scale, sums };
        let to = b.mul_const(draw, CHOICE_BYTES);
        let (nothing, zero) = (b.int(-1), b.flt(0.0));
        b.store_i32(choices.at(to, 0), nothing);
        b.store_f32(choices.at(to, 4), zero);
        let at = b.mul_const(e.row, FACT_BYTES);
        let log_z = b.load_f32(facts.at(at, 4));
        let own = b.load_f32(facts.at(at, 0));
        let sound = [own, log_z, most].map(|x| {
            let (low, high) = (b.flt(f32::NEG_INFINITY), b.flt(f32::INFINITY));
            let (above, below) = (b.lt(low, x), b.lt(x, high));
            b.and(above, below)
        });
        let sound = sound.into_iter().reduce(|all, x| b.and(all, x)).expect("three conditions");
        b.if_(sound, |b| {
            let token = b.var(index);
            let drawn = b.lt(zero, e.scale);
            b.if_(drawn, |b| {
                let (rank, mass, share) = (e.by_rank(b, dims), e.by_mass(b), e.by_share(b));
                let filtered = b.or(rank, mass);
                let filtered = b.or(filtered, share);
                b.if_else(
                    filtered,
                    |b| {
                        let kept = filter(b, dims, &row, &found, &e);
                        let drawn = found.draw(b, &row, kept, e.uniform);
                        b.set(token, drawn);
                    },
                    |b| {
                        let drawn = among_all(b, dims, &row, &found, e.uniform);
                        b.set(token, drawn);
                    },
                );
            });
            let at = b.scale_add(token.now(), 4, base);
            let x = b.load_f32(logits.at(at, 0));
            let logprob = b.sub(x, log_z);
            b.store_i32(choices.at(to, 0), token.now());
            b.store_f32(choices.at(to, 4), logprob);
        });
    });
    b.finish()
}

/// A draw without filters: a block by the sums of blocks, then a token of the block.
fn among_all(b: &mut Build, dims: &Dims, row: &Row, found: &Candidates, uniform: Dbl) -> Int {
    let total = row.total(b, dims);
    let count = b.int(dims.stat_blocks());
    let target = b.mul(uniform, total);
    let (block, rest) = pick_block(b, row.sums, count, target);
    let at = b.scale_add(block, STAT_BYTES, row.blocks);
    let most = b.load_f32(row.weighed.at(at, 0));
    // Inside the block weights are relative to the block's maximum.
    let factor = row.block_weight(b, most);
    let factor = b.widen(factor);
    let rest = b.div(rest, factor);
    let first = b.mul_const(block, BLOCK_TILES);
    let all = b.int(dims.vocab_padded() / 16);
    let left = b.sub(all, first);
    let most_tiles = b.int(BLOCK_TILES);
    let tiles = b.min(left, most_tiles);
    let from = b.scale_add(first, 64, row.base);
    let bytes = b.mul_const(tiles, 64);
    let zero = b.int(0);
    b.for_(zero, bytes, 64, |b, at| {
        let source = b.add(from, at);
        let x = b.load(Mem::F32, row.logits.at(source, 0));
        let w = row.weight(b, x, most);
        found.store_weights(b, at, w);
    });
    let index = found.pick(b, zero, tiles, rest);
    b.scale_add(block, STAT_BLOCK as i64, index)
}

/// Which of `count` sums `target` falls into, and how far: the first whose running sum exceeds it, else the last that is
/// not 0.
pub(super) fn pick_block(b: &mut Build, sums: Place, count: Int, target: Dbl) -> (Int, Dbl) {
    let (zero, none) = (b.int(0), b.flt(0.0));
    let none = b.widen(none);
    let (index, last, run, before) = (b.var(zero), b.var(zero), b.var(none), b.var(none));
    b.for_(zero, count, 1, |b, i| {
        let at = b.mul_const(i, 8);
        let sum = b.load_f64(sums.at(at, 0));
        let next = b.add(run.now(), sum);
        b.set(run, next);
        step_past(b, target, (index, before), next);
        let next = b.select(Cmp::Lt, none, sum, i, last.now());
        b.set(last, next);
    });
    (b.min(index.now(), last.now()), rest(b, target, (index, before), last))
}

/// How far into the element that was picked `target` lies; all the way when rounding carried it past the last one.
pub(super) fn rest(b: &mut Build, target: Dbl, (index, before): (Var<Int>, Var<Dbl>), last: Var<Int>) -> Dbl {
    let inside = b.sub(target, before.now());
    b.select(Cmp::Le, index.now(), last.now(), inside, target)
}

/// Counts an element of a running sum that does not reach beyond `target`.
pub(super) fn step_past(b: &mut Build, target: Dbl, (index, before): (Var<Int>, Var<Dbl>), run: Dbl) {
    let past = b.le(run, target);
    let next = b.add(index.now(), past);
    b.set(index, next);
    let next = b.select(Cmp::Le, run, target, run, before.now());
    b.set(before, next);
}

/// Gathers what can be kept and finds what is.
fn filter(b: &mut Build, dims: &Dims, row: &Row, found: &Candidates, e: &Entry) -> Kept {
    let (rank, mass) = (e.by_rank(b, dims), e.by_mass(b));
    let (one, none) = (b.flt(1.0), b.flt(0.0));
    let min_p = b.min(e.min_p, one);
    // Without top-k, top-p counts all tokens; otherwise the sums may not be this temperature's.
    let nowhere = b.widen(none);
    let all = b.var(nowhere);
    let other = not(b, rank);
    let needed = b.and(mass, other);
    b.if_(needed, |b| {
        let total = row.total(b, dims);
        let p = b.max(e.top_p, none);
        let p = b.widen(p);
        let target = b.mul(p, total);
        b.set(all, target);
    });
    // How far below the maximum to look first. A filter by share alone says it; the margin covers rounding.
    let either = b.or(rank, mass);
    let (near, margin, zero) = (b.flt(8.0), b.flt(0.01), b.int(0));
    let log = {
        let least = b.flt(f32::MIN_POSITIVE);
        let share = b.max(min_p, least);
        let share = b.splat(share);
        let log = ln(b, share);
        b.lane(log, 0)
    };
    let exact = b.sub(margin, log);
    let start = b.select(Cmp::Eq, either, zero, exact, near);
    let (count, done) = (b.var(zero), b.var(zero));
    b.for_to(3, 1, |b, attempt| {
        let open = b.eq(done.now(), zero);
        b.if_(open, |b| {
            // What is farther than exp can reach has weight 0: the third attempt takes everything.
            let (one, far, all_of_it) = (b.int(1), b.flt(24.0), b.flt(f32::INFINITY));
            let depth = b.select(Cmp::Eq, attempt, one, far, all_of_it);
            let depth = b.select(Cmp::Eq, attempt, zero, start, depth);
            let reach = b.div(depth, row.scale);
            let floor = b.sub(row.most, reach);
            let n = found.gather(b, dims, row, floor);
            b.set(count, n);
            let enough = b.var(one);
            b.if_else(
                rank,
                |b| {
                    let many = b.le(e.top_k, n);
                    b.set(enough, many);
                },
                |b| {
                    b.if_(mass, |b| {
                        let lowest = b.flt(f32::NEG_INFINITY);
                        let have = found.mass(b, n, lowest, false);
                        let reached = b.le(all.now(), have);
                        b.set(enough, reached);
                    });
                },
            );
            b.set(done, enough.now());
        });
    });
    found.keep(
        b,
        row,
        &Found { count: count.now(), rank, top_k: e.top_k, mass, top_p: e.top_p, target: all.now(), min_p },
    )
}
