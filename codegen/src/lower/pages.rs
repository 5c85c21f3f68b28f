//! The choice of the pages that a decoded row attends to, for each KV head by itself.
//!
//! Takes the row's queries, its sequence's page table and the pages' summaries, writes a list of page numbers in the order
//! of the sequence: the first pages, the last pages, and of those between them the ones with the largest bounds, as many
//! as the budget has room for. Equal bounds go to the earlier page. The bound of a page is Σ over channels of
//! `max(q·min, q·max)`, summed over the query heads of the KV head: no key of the page has a larger sum of scores. It is taken
//! in products of bytes, by four channels with a scale of their own: minima and maxima are rounded outwards when the page is
//! summarised, and what rounding the queries may take away is added. Over int8 attention rounds its queries, too, by at most
//! half a step of `max|q| / 127` per channel; scores of rounded queries can exceed the bound by no more than what that makes of
//! the key. A bound that is no number counts as the largest. There is no sort: an integer that as many bounds reach as there is
//! room for is found bit by bit, or where bounds are equal, the bound that too many reach.
//!
//! Where lists may be trimmed, the smallest bound that is in is also the largest one at which the pages down to it hold the
//! wanted share of the weight of all pages between the first and the last ones, `exp((bound − largest) / query heads)` each.
//! Sums of weights are taken in the order of the pages, so that they cannot fall when more pages are in; pages with equal
//! bounds are in or out together. Behind a row's lists stands by how many pages each of them is too short.

use super::build::{Build, Bytes, Flt, Int, Place, Var, Vf};
use super::math::exp;
use super::rounding::ZERO_BELOW;
use super::{Dims, Summary, pick_words};
use ir::kernel::{Cache, Cmp, Mem, Split};
use ir::program::{Buf, GROUP, MOST_PAGES};

/// Entries ahead that summaries are asked for, and asked for once more: the CPU drops requests while too many are under way.
const AHEAD: [i64; 2] = [64, 16];
/// The largest byte of a rounded query: unsigned.
const TOP_QUERY: f32 = 255.0;
/// What a lane's products start at: rounding takes at most a half from each of at most eight factors, which are multiplied by up
/// to 128.
const START: i64 = 8 * 128 / 2;
/// Vectors of bounds that are counted together: one addition at a time would wait for the one before.
const TOGETHER: i64 = 4;

/// How lists are chosen.
#[derive(Clone, Copy, Debug)]
pub(super) struct Choice {
    /// Pages of a list.
    pub(super) pages: i64,
    /// First pages that are always in.
    pub(super) sinks: i64,
    /// Last pages that are always in.
    pub(super) window: i64,
    /// Pages of the longest sequence.
    pub(super) most: i64,
    /// Share of the weight that is enough, in thousandths; 1000: all pages that there is room for are in.
    pub(super) top_p: u32,
}

impl Choice {
    /// Bytes of the bounds of the longest sequence, up to vectors that are counted together.
    fn bounds_bytes(&self) -> i64 {
        let pages = 16 * TOGETHER;
        (self.most + pages - 1) / pages * 64 * TOGETHER
    }
}

/// Queries of a row in [`ir::program::SUMMARY_CHANNELS`] channels, summed over the query heads of a KV head and rounded to
/// unsigned bytes, which lie as those of summaries.
struct Queries {
    /// The parts above zero; the parts below zero, with the sign turned.
    bytes: [Bytes; 2],
    /// What a step of a lane's bytes stands for.
    scale: Vf,
}

/// Places of the choice.
struct Select<'a> {
    dims: &'a Dims,
    choice: &'a Choice,
    tables: Place,
    query: Place,
    summary: Place,
    /// A line of rounded queries on its way to a register.
    line: Place,
    /// One bound per page between the first and the last ones; then the same as ordered integers.
    bounds: Place,
    /// What the pages weigh, where lists may be trimmed.
    weights: Option<Place>,
}

/// Adds the choice of `lists` lists to a kernel. A unit is a list and a KV head.
pub(super) fn choose(b: &mut Build, dims: &Dims, choice: &Choice, summary: Place, lists: Int) {
    let picks = b.read_buf("picks", Buf::Picks);
    let query = b.read_buf("query", Buf::Query);
    let tables = b.write_buf("tables", Buf::Tables);
    let bounds = b.local("bounds", choice.bounds_bytes());
    let weights = (choice.top_p < 1000).then(|| b.local("weights", choice.bounds_bytes()));
    let line = b.local("line", Summary::LINE);
    let s = Select { dims, choice, tables, query, summary, line, bounds, weights };
    let units = b.mul_const(lists, dims.kv_heads);
    b.par_for(units, Split::Cyclic, |b, unit| {
        let (pick, head) = b.div_rem(unit, dims.kv_heads);
        let at = b.mul_const(pick, pick_words::BYTES);
        let mut word = |offset| b.load_i64(picks.at(at, offset));
        let (row, table) = (word(pick_words::ROW), word(pick_words::TABLE));
        let (pages, lists) = (word(pick_words::PAGES), word(pick_words::LIST));
        let table = b.mul_const(table, 4);
        let list = b.scale_add(head, choice.pages, lists);
        let list = b.mul_const(list, 4);
        let filled = s.list(b, row, head, table, pages, list);
        if s.weights.is_some() {
            let room = b.int(choice.pages);
            let room = b.min(room, pages);
            let short = b.sub(room, filled);
            let to = b.add_const(lists, choice.pages * dims.kv_heads);
            let to = b.add(to, head);
            let to = b.mul_const(to, 4);
            b.store_i32(s.tables.at(to, 0), short);
        }
    });
}

impl Select<'_> {
    /// Writes the list at byte `list` of a row with `pages` pages, whose numbers start at byte `table`; how many they are.
    fn list(&self, b: &mut Build, row: Int, head: Int, table: Int, pages: Int, list: Int) -> Int {
        let sinks = b.int(self.choice.sinks);
        let sinks = b.min(sinks, pages);
        let window = b.add_const(pages, -self.choice.window);
        let window = b.max(window, sinks);
        let between = b.sub(window, sinks);
        let zero = b.int(0);
        b.for_(zero, sinks, 1, |b, p| self.copy(b, table, p, list, p));
        let first = b.scale_add(sinks, 4, table);
        self.bounds(b, row, head, first, between);
        let lowest = self.lowest(b, between);
        let lowest = match self.weights {
            Some(weights) => {
                let enough = self.enough(b, weights, between);
                b.max(lowest, enough)
            }
            None => lowest,
        };
        let taken = self.take(b, first, between, lowest, list, sinks);
        b.for_(window, pages, 1, |b, p| {
            let behind = b.sub(p, window);
            let to = b.add(taken, behind);
            self.copy(b, table, p, list, to);
        });
        let last = b.sub(pages, window);
        b.add(taken, last)
    }

    /// Entry `to` of the list becomes page `from` of the table.
    fn copy(&self, b: &mut Build, table: Int, from: Int, list: Int, to: Int) {
        let at = b.scale_add(from, 4, table);
        let number = b.load_i32(self.tables.at(at, 0));
        let at = b.scale_add(to, 4, list);
        b.store_i32(self.tables.at(at, 0), number);
    }

    /// Where a head's summary of page `p` is, of those whose numbers start at byte `first`.
    fn summary_at(&self, b: &mut Build, first: Int, p: Int, head: Int) -> Summary {
        let at = b.scale_add(p, 4, first);
        let number = b.load_i32(self.tables.at(at, 0));
        self.dims.summary_at(b, number, head)
    }

    /// The bounds of `n` pages whose numbers start at byte `first`, as integers in their order; behind them the least
    /// integer, up to vectors that are counted together.
    fn bounds(&self, b: &mut Build, row: Int, head: Int, first: Int, n: Int) {
        let zero = b.int(0);
        // Summaries of a group lie together, far from those of the next one. Asked for one by one, each first line would wait
        // for its translation; together they are translated side by side (a quarter of the choice on Zen 5).
        b.for_(zero, n, GROUP as i64, |b, p| {
            let at = self.summary_at(b, first, p, head);
            b.prefetch(self.summary.at(at.lines, 0), Cache::First);
        });
        let queries = self.queries(b, row, head);
        let none = b.flt(f32::MIN);
        let largest = b.var(none);
        b.for_(zero, n, 1, |b, p| {
            // The pages some entries ahead, or the last one again.
            let last = b.add_const(n, -1);
            for ahead in AHEAD {
                let ahead = b.add_const(p, ahead);
                let ahead = b.min(ahead, last);
                let ahead = self.summary_at(b, first, ahead, head);
                let groups = self.dims.summary_groups();
                for line in (0..groups * Summary::LINES).step_by(64) {
                    b.prefetch(self.summary.at(ahead.lines, line), Cache::First);
                }
                for line in (0..groups * Summary::SCALES).step_by(64) {
                    b.prefetch(self.summary.at(ahead.scales, line), Cache::First);
                }
            }
            let at = self.summary_at(b, first, p, head);
            let mut bound = b.vf(0.0);
            for (group, query) in (0..).zip(&queries) {
                let mut dots = b.vi(START);
                for (line, bytes) in (0..).zip(query.bytes) {
                    let offset = Summary::LINES * group + Summary::LINE * line;
                    let bounds = b.load_bytes(self.summary.at(at.lines, offset));
                    dots = b.dot4(dots, bytes, bounds);
                }
                let dots = b.float(dots);
                let scale = b.load(Mem::F16, self.summary.at(at.scales, Summary::SCALES * group));
                let scale = b.mul(scale, query.scale);
                bound = b.fma(dots, scale, bound);
            }
            let bound = b.sum_lanes(bound);
            let most = b.flt(f32::MAX);
            let bound = b.select(Cmp::Le, bound, most, bound, most);
            let to = b.mul_const(p, 4);
            b.store_f32(self.bounds.at(to, 0), bound);
            let next = b.max(largest.now(), bound);
            b.set(largest, next);
        });
        if let Some(weights) = self.weights {
            self.weigh(b, weights, n, largest.now());
        }
        let bytes = b.mul_const(n, 4);
        b.for_(zero, bytes, 64 * TOGETHER, |b, at| {
            for vector in 0..TOGETHER {
                let x = b.load_ints(Mem::I32, self.bounds.at(at, 64 * vector));
                let (none, least) = (b.vi(0), b.vi(i64::from(i32::MIN)));
                // Floats with a sign descend as integers.
                let turned = b.sub(least, x);
                let x = b.select(Cmp::Lt, x, none, turned, x);
                let left = b.sub(bytes, at);
                let left = b.sar(left, 2);
                let left = b.add_const(left, -16 * vector);
                let left = b.splat_int(left);
                let lanes = b.iota();
                let x = b.select(Cmp::Lt, lanes, left, x, least);
                b.store_ints(Mem::I32, self.bounds.at(at, 64 * vector), x);
            }
        });
    }

    /// What `n` pages weigh by their bounds, of which `largest` is the largest; 0 up to a whole vector.
    fn weigh(&self, b: &mut Build, weights: Place, n: Int, largest: Flt) {
        let (zero, bytes) = (b.int(0), b.mul_const(n, 4));
        let largest = b.splat(largest);
        b.for_(zero, bytes, 64, |b, at| {
            let x = b.load(Mem::F32, self.bounds.at(at, 0));
            let below = b.sub(x, largest);
            let each = b.vf(1.0 / self.dims.group() as f32);
            let below = b.mul(below, each);
            let weight = exp(b, below);
            let left = b.sub(bytes, at);
            let left = b.sar(left, 2);
            let left = b.splat_int(left);
            let (lanes, none) = (b.iota(), b.vf(0.0));
            let weight = b.select(Cmp::Lt, lanes, left, weight, none);
            b.store(Mem::F32, weights.at(at, 0), weight);
        });
    }

    /// The weight of the pages among the first `bytes / 4` whose bounds are at least `least`.
    fn weight(&self, b: &mut Build, weights: Place, bytes: Int, least: Int) -> Flt {
        let least = b.splat_int(least);
        let (none, zero) = (b.vf(0.0), b.int(0));
        let sum = b.var(none);
        b.for_(zero, bytes, 64, |b, at| {
            let x = b.load_ints(Mem::I32, self.bounds.at(at, 0));
            let w = b.load(Mem::F32, weights.at(at, 0));
            let w = b.select(Cmp::Le, least, x, w, none);
            let next = b.add(sum.now(), w);
            b.set(sum, next);
        });
        b.sum_lanes(sum.now())
    }

    /// The largest integer that bounds with the wanted share of the weight reach.
    fn enough(&self, b: &mut Build, weights: Place, n: Int) -> Int {
        let bytes = b.mul_const(n, 4);
        let least = b.int(i64::from(i32::MIN));
        let all = self.weight(b, weights, bytes, least);
        let share = b.flt(self.choice.top_p as f32 / 1000.0);
        let wanted = b.mul(all, share);
        // The wanted share itself does not end it: a page that weighs nothing may be left out by a larger integer.
        self.search(b, wanted, false, |b, least| self.weight(b, weights, bytes, least))
    }

    /// The row's queries, by [`ir::program::SUMMARY_CHANNELS`].
    fn queries(&self, b: &mut Build, row: Int, head: Int) -> Vec<Queries> {
        let dims = self.dims;
        let at = b.mul_const(row, dims.query_bytes());
        let at = b.scale_add(head, dims.group() * 4 * dims.head_dim, at);
        let zero = b.vf(0.0);
        // Parts above zero, parts below zero with the sign turned, summed over the query heads.
        let signs = |b: &mut Build, t: i64| {
            let (mut up, mut down) = (zero, zero);
            for g in (0..dims.group()).filter(|_| 16 * t < dims.head_dim) {
                let q = b.load(Mem::F32, self.query.at(at, 4 * g * dims.head_dim + 64 * t));
                let (above, below) = (b.max(q, zero), b.min(q, zero));
                up = b.add(up, above);
                down = b.sub(down, below);
            }
            (up, down)
        };
        (0..dims.summary_groups())
            .map(|group| {
                let quarters = [0, 1, 2, 3].map(|j| signs(b, 4 * group + j));
                let mut most = zero;
                for (up, down) in quarters {
                    let larger = b.max(up, down);
                    most = b.max(most, larger);
                }
                let (top, share, least) = (b.vf(TOP_QUERY), b.vf(1.0 / TOP_QUERY), b.vf(ZERO_BELOW));
                let scale = b.mul(most, share);
                let inverse = b.div(top, most);
                let inverse = b.select(Cmp::Lt, most, least, zero, inverse);
                let bytes = [quarters.map(|(up, _)| up), quarters.map(|(_, down)| down)].map(|quarters| {
                    let bytes = quarters.map(|x| {
                        let x = b.mul(x, inverse);
                        b.round(x)
                    });
                    let bytes = b.pack_bytes(bytes);
                    b.store_ints(Mem::I32, self.line.fixed(0), bytes);
                    b.load_bytes(self.line.fixed(0))
                });
                Queries { bytes, scale }
            })
            .collect()
    }

    /// How many of the first `bytes / 4` bounds are at least `least`. Where that is the least integer, lanes behind them count,
    /// too.
    fn count(&self, b: &mut Build, bytes: Int, least: Int) -> Flt {
        let least = b.splat_int(least);
        let (one, none, zero) = (b.vf(1.0), b.vf(0.0), b.int(0));
        let sums: Vec<Var<Vf>> = (0..TOGETHER).map(|_| b.var(none)).collect();
        b.for_(zero, bytes, 64 * TOGETHER, |b, at| {
            for (vector, &sum) in (0..).zip(&sums) {
                let x = b.load_ints(Mem::I32, self.bounds.at(at, 64 * vector));
                let counts = b.select(Cmp::Le, least, x, one, none);
                let next = b.add(sum.now(), counts);
                b.set(sum, next);
            }
        });
        let mut all = sums[0].now();
        for sum in &sums[1..] {
            all = b.add(all, sum.now());
        }
        b.sum_lanes(all)
    }

    /// An integer that as many bounds reach as there is room for or, where no integer is such a one, the largest that more
    /// reach; the least of all when there are not more.
    fn lowest(&self, b: &mut Build, n: Int) -> Int {
        let bytes = b.mul_const(n, 4);
        let room = b.flt(self.room() as f32);
        self.search(b, room, true, |b, least| self.count(b, bytes, least))
    }

    /// The largest integer from which on `wanted` is held, the least of all when none is; what is `held` from an integer on
    /// never grows with it. `any`: or an integer from which on just that is held.
    fn search(&self, b: &mut Build, wanted: Flt, any: bool, held: impl Fn(&mut Build, Int) -> Flt) -> Int {
        let (least, bit, no) = (b.int(i64::from(i32::MIN)), b.int(1 << 31), b.int(0));
        let (found, bit, done) = (b.var(least), b.var(bit), b.var(no));
        b.for_to(32, 1, |b, _| {
            let goes_on = b.eq(done.now(), no);
            b.if_(goes_on, |b| {
                let more = b.add(found.now(), bit.now());
                let held = held(b, more);
                let over = b.lt(held, wanted);
                b.if_else(over, |_| (), |b| b.set(found, more));
                if any {
                    let just = b.eq(held, wanted);
                    b.set(done, just);
                }
                let next = b.sar(bit.now(), 1);
                b.set(bit, next);
            });
        });
        found.now()
    }

    /// Places between the first and the last pages.
    fn room(&self) -> i64 {
        self.choice.pages - self.choice.sinks - self.choice.window
    }

    /// Appends the pages at and above `lowest`, as far as there is room, to the list of `filled` entries; returns how many
    /// entries there are then. The entry behind them is overwritten with something: the last pages follow.
    fn take(&self, b: &mut Build, first: Int, n: Int, lowest: Int, list: Int, filled: Int) -> Int {
        self.drop_equals(b, n, lowest);
        let filled = b.var(filled);
        let zero = b.int(0);
        b.for_(zero, n, 1, |b, p| {
            let at = b.mul_const(p, 4);
            let bound = b.load_i32(self.bounds.at(at, 0));
            let taken = b.le(lowest, bound);
            let at = b.add(first, at);
            let number = b.load_i32(self.tables.at(at, 0));
            let to = b.scale_add(filled.now(), 4, list);
            b.store_i32(self.tables.at(to, 0), number);
            let next = b.add(filled.now(), taken);
            b.set(filled, next);
        });
        filled.now()
    }

    /// Gives the least integer to those bounds of `n` pages at `lowest` for which there is no room, the last ones. Rare, and so
    /// left out of what one page after the other must wait for. No page's own bound is the least integer.
    fn drop_equals(&self, b: &mut Build, n: Int, lowest: Int) {
        let bytes = b.mul_const(n, 4);
        let room = b.flt(self.room() as f32);
        let reached = self.count(b, bytes, lowest);
        let too_many = b.lt(room, reached);
        b.if_(too_many, |b| {
            let above = b.add_const(lowest, 1);
            let above = self.count(b, bytes, above);
            let left = b.sub(room, above);
            let (left, zero) = (b.var(left), b.int(0));
            b.for_(zero, n, 1, |b, p| {
                let at = b.mul_const(p, 4);
                let bound = b.load_i32(self.bounds.at(at, 0));
                let same = b.eq(bound, lowest);
                b.if_(same, |b| {
                    let (none, one) = (b.flt(0.0), b.flt(1.0));
                    let full = b.le(left.now(), none);
                    let least = b.int(i64::from(i32::MIN));
                    b.if_(full, |b| b.store_i32(self.bounds.at(at, 0), least));
                    let next = b.sub(left.now(), one);
                    b.set(left, next);
                });
            });
        });
    }
}

/// Bytes of locals that a kernel with a choice may have beside the choice's own.
const BESIDE: i64 = 4096;
const _: () = assert!(MOST_PAGES as i64 * 2 * 4 + BESIDE <= ir::kernel_check::LOCAL_BYTES as i64);
