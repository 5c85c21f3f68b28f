//! K2: attention of query rows over their pages, one partial state per row and item; and the fold of states.
//!
//! Takes scaled queries and paged keys and values, leaves `(m, l, o)` per row, partial and head: the maximum score, the
//! sum of `exp(score − m)` and the so weighted sum of values. The query heads that share a KV head, and neighbouring
//! rows, read a chunk together. Per row and head the order is fixed: scores over dimensions in order, sums by lanes,
//! values key by key, chunks left to right. Scores and sums over values are here for f16 and, for int8, in
//! [`super::attend_int8`]; everything else is the same for both.

use super::attend_int8::Queries;
use super::build::{Build, Built, Flt, Int, Place, Slot, Var, Vf};
use super::math::exp;
use super::{Dims, item_words, row_words, step_words};
use ir::kernel::{Cache, Cmp, Mem, Split};
use ir::program::{Buf, CHUNK, GROUP, PAGE};
use ir::schedule::KvFormat;
use std::iter;

/// Bytes of one query's scores of a page. A page's scores of all queries taken together follow each other, so that the sum
/// over values reads them as one stream.
pub(super) const SCORE_BYTES: i64 = 4 * PAGE as i64;
/// A query's place in the local of the softmax, in bytes.
mod softmax {
    /// Sum of the weights so far, by lanes.
    pub(super) const L: i64 = 0;
    /// Maximum.
    pub(super) const M: i64 = 64;
    /// What scores are counted from: the maximum, or 0 where nothing is seen.
    pub(super) const FROM: i64 = 68;
    pub(super) const BYTES: i64 = 128;
}
/// Queries that are accumulated together: beside an element of keys or values they fit the 32 registers.
pub(super) const QUERIES: i64 = 28;
/// Chains of sums that keep the units busy.
const CHAINS: i64 = 5;
/// The most queries times vectors where [`together`] is more than one: fewer than `CHAINS` are doubled until they are
/// enough.
const MOST_COPIED: i64 = 2 * CHAINS;
/// Accumulators of a weighted sum of values: with the values beside them they still fit.
const SUMS: i64 = 28;
/// Bytes between a read of keys or values and its prefetch.
const AHEAD: i64 = 8192;
/// The same of one row's prefetch into the second cache: what the first cache drops is near then (a twentieth of a step after
/// 7900 tokens on one thread of Zen 5, a fiftieth on two; 10 KiB gain half of it, 20 a third, 8 nothing).
const FAR: i64 = 14336;

/// How many vectors of keys or values are taken together, a power of two, so that `queries` of them keep the units busy.
///
/// Over f16, where it is more than one, each vector has factors of its own at an address of their own. A factor that is
/// used once comes with its product, from memory; one that is loaded for several products takes a place beside the
/// conversions of keys and values, which costs more than the copies do (a third of the scores' time of three queries on
/// Zen 4).
pub(super) fn together(queries: i64) -> i64 {
    [1, 2, 4].into_iter().find(|vectors| queries * vectors >= CHAINS).unwrap_or(4)
}

/// A running state of one row and head.
pub(super) struct State {
    m: Var<Flt>,
    /// Sum of weights.
    pub(super) l: Var<Flt>,
    /// Weighted sum of values, by 16 dimensions.
    pub(super) o: Vec<Var<Vf>>,
}

impl State {
    /// The state stored at byte `at`: `o`, `m`, `l`.
    pub(super) fn load(b: &mut Build, dims: &Dims, place: Place, at: Int) -> Self {
        let o = (0..dims.head_dim / 16)
            .map(|i| {
                let v = b.load(Mem::F32, place.at(at, 64 * i));
                b.var(v)
            })
            .collect();
        let (m, l) = load_ml(b, dims, place, at);
        Self { m: b.var(m), l: b.var(l), o }
    }

    fn store(&self, b: &mut Build, dims: &Dims, place: Place, at: Int) {
        for (i, o) in self.o.iter().enumerate() {
            b.store(Mem::F32, place.at(at, 64 * i as i64), o.now());
        }
        b.store_f32(place.at(at, 4 * dims.head_dim), self.m.now());
        b.store_f32(place.at(at, 4 * dims.head_dim + 4), self.l.now());
    }
}

fn load_ml(b: &mut Build, dims: &Dims, place: Place, at: Int) -> (Flt, Flt) {
    (b.load_f32(place.at(at, 4 * dims.head_dim)), b.load_f32(place.at(at, 4 * dims.head_dim + 4)))
}

/// Folds the state stored at byte `at` into `state`. A state with `m = −∞` is the identity, on either side, exactly.
pub(super) fn fold(b: &mut Build, dims: &Dims, state: &State, place: Place, at: Int) {
    let (m, l) = load_ml(b, dims, place, at);
    let nothing = b.flt(f32::NEG_INFINITY);
    let skip = b.eq(m, nothing);
    b.if_else(
        skip,
        |_| (),
        |b| {
            let empty = b.eq(state.m.now(), nothing);
            b.if_else(
                empty,
                |b| {
                    b.set(state.m, m);
                    b.set(state.l, l);
                    for (i, &o) in state.o.iter().enumerate() {
                        let v = b.load(Mem::F32, place.at(at, 64 * i as i64));
                        b.set(o, v);
                    }
                },
                |b| {
                    let most = b.max(state.m.now(), m);
                    let weight = |b: &mut Build, m: Flt| {
                        let less = b.sub(m, most);
                        let less = b.splat(less);
                        exp(b, less)
                    };
                    let (old, new) = (weight(b, state.m.now()), weight(b, m));
                    let (old_l, new_l) = (b.lane(old, 0), b.lane(new, 0));
                    let kept = b.mul(state.l.now(), old_l);
                    let sum = b.fma(l, new_l, kept);
                    b.set(state.m, most);
                    b.set(state.l, sum);
                    for (i, &o) in state.o.iter().enumerate() {
                        let v = b.load(Mem::F32, place.at(at, 64 * i as i64));
                        let kept = b.mul(o.now(), old);
                        let sum = b.fma(v, new, kept);
                        b.set(o, sum);
                    }
                },
            );
        },
    );
}

/// Buffers and locals.
pub(super) struct Attend<'a> {
    pub(super) dims: &'a Dims,
    rows: Place,
    tables: Place,
    query: Place,
    pub(super) keys: Place,
    pub(super) values: Place,
    partials: Place,
    /// Scores, then weights.
    pub(super) scores: Place,
    /// Of each query what [`softmax`] says.
    softmax: Place,
    /// Copies of queries, for pages that are taken together.
    copies: Place,
    /// One state at a time is assembled here: `o`, `m`, `l` of each query.
    pub(super) outs: Place,
    /// Queries in bytes, over int8.
    rounded: Option<Queries>,
}

/// One chunk of one item and KV head for some of its rows.
pub(super) struct Chunk {
    /// Rows taken together.
    n: i64,
    /// First row.
    row: Int,
    /// Byte of the first row's rounded queries.
    pub(super) rounded: Int,
    /// KV head.
    head: Int,
    /// First key.
    start: Int,
    /// Whether this is the item's first chunk.
    opens: Int,
    /// Byte offset of the chunk's first page number.
    table: Int,
    /// Keys by which the list of this KV head is shorter than the rows' limits say, where lists may be.
    trim: Option<Int>,
    /// Which partial of each row.
    partial: Int,
    /// Pages from the chunk's first to the end of the item.
    to_end: Int,
    /// This thread's next unit.
    after: After,
}

impl Chunk {
    /// Where keys and values are asked for: queries of one row leave the first cache free for what is read once.
    pub(super) fn cache(&self) -> Cache {
        if self.n == 1 { Cache::First } else { Cache::Second }
    }
}

/// The page to prefetch while `page` is read: so far ahead that no page of a chunk of few `pages` is passed over.
fn ahead(b: &mut Build, page: Int, further: i64, pages: Int) -> Int {
    let most = b.int(further);
    let most = b.min(most, pages);
    b.add(page, most)
}

/// Which bytes of a page of values one of `count` parts of the loop over keys asks for, in the order of addresses: where they
/// begin, and how many a turn of `unroll` keys takes.
fn stretch(dims: &Dims, unroll: i64, (part, count): (i64, i64)) -> (i64, i64) {
    let (lines, turns) = (dims.block_bytes() / 64, PAGE as i64 / unroll);
    let each = (lines / turns + count - 1) / count;
    let mine = each.min(lines / turns - part * each).max(0);
    (64 * turns * part * each, 64 * mine)
}

/// Where a unit's first pages are found.
#[derive(Clone, Copy)]
struct After {
    /// Byte offset of their first number.
    table: Int,
    /// How many numbers there are behind the first.
    last: Int,
    /// KV head.
    head: Int,
}

/// The kernel. A unit is an item and a KV head. `trimmed`: lists of pages may be shorter than the limits say.
pub(super) fn kernel(name: &str, dims: &Dims, attend_rows: i64, trimmed: bool) -> Built {
    let mut b = Build::new(name);
    let step = b.read_buf("step", Buf::Step);
    let (items_n, team) = (b.load_i64(step.fixed(step_words::ITEMS)), b.load_i64(step.fixed(step_words::TEAM)));
    let items = b.read_buf("items", Buf::Items);
    // The most rows that still fit the accumulators; the rest of an item is taken by halves of it.
    let mut most = 1;
    while 2 * most <= attend_rows && 2 * most * dims.group() <= QUERIES {
        most *= 2;
    }
    let queries = most * dims.group();
    let rounded = (dims.kv == KvFormat::Int8).then(|| Queries::new(&mut b, dims, attend_rows, most));
    let a = Attend {
        dims,
        rows: b.read_buf("rows", Buf::Rows),
        tables: b.read_buf("tables", Buf::Tables),
        query: b.read_buf("query", Buf::Query),
        keys: b.read("keys", Slot::Keys),
        values: b.read("values", Slot::Values),
        partials: b.write_buf("partials", Buf::Partials),
        scores: b.local("scores", GROUP as i64 * queries.max(MOST_COPIED) * SCORE_BYTES),
        softmax: b.local("softmax", queries * softmax::BYTES),
        copies: b.local("copies", MOST_COPIED * 4 * dims.head_dim),
        outs: b.local("outs", queries * dims.head_partial_bytes()),
        rounded,
    };
    let units = b.mul_const(items_n, dims.kv_heads);
    b.par_for(units, Split::Cyclic, |b, unit| {
        let (item, head) = b.div_rem(unit, dims.kv_heads);
        let at = b.mul_const(item, item_words::BYTES);
        let mut word = |offset| b.load_i64(items.at(at, offset));
        let first = word(item_words::FIRST_ROW);
        let count = word(item_words::ROWS);
        let (from, to) = (word(item_words::FIRST_CHUNK), word(item_words::END_CHUNK));
        let table = word(item_words::TABLE);
        let partial = word(item_words::PARTIAL);
        let lists = word(item_words::LIST_STRIDE);
        let trims = trimmed.then(|| word(item_words::TRIMS));
        let trim = trims.map(|trims| a.trim(b, trims, head));
        let lists = b.mul(lists, head);
        let table = b.add(table, lists);
        let after = b.add(unit, team);
        let last = b.add_const(units, -1);
        let after = b.min(after, last);
        let after = a.after(b, items, after);
        let of_unit = rounded.filter(|rounded| rounded.of_unit);
        if let Some(rounded) = of_unit {
            rounded.round(b, dims, a.query, (first, count), head);
        }
        b.for_(from, to, 1, |b, chunk| {
            let opens = b.eq(chunk, from);
            let start = b.mul_const(chunk, CHUNK as i64);
            let table = b.scale_add(chunk, GROUP as i64, table);
            let table = b.mul_const(table, 4);
            let to_end = b.sub(to, chunk);
            let to_end = b.mul_const(to_end, GROUP as i64);
            let chunk = |b: &mut Build, n, row| {
                let before = if of_unit.is_some() { b.sub(row, first) } else { b.int(0) };
                let rounded = Queries::row(b, dims, before);
                Chunk { n, row, rounded, head, start, opens, table, trim, partial, to_end, after }
            };
            let over = b.int(most - 1);
            let over = b.and(count, over);
            let full = b.sub(count, over);
            let zero = b.int(0);
            b.for_(zero, full, most, |b, r| {
                let row = b.add(first, r);
                let chunk = chunk(b, most, row);
                a.chunk(b, &chunk);
            });
            let next = b.add(first, full);
            let row = b.var(next);
            let mut n = most / 2;
            while n > 0 {
                let bit = b.int(n);
                let take = b.and(over, bit);
                b.if_(take, |b| {
                    let chunk = chunk(b, n, row.now());
                    a.chunk(b, &chunk);
                    let next = b.add_const(row.now(), n);
                    b.set(row, next);
                });
                n /= 2;
            }
        });
    });
    b.finish()
}

impl Attend<'_> {
    fn chunk(&self, b: &mut Build, c: &Chunk) {
        let entry = b.mul_const(c.row, row_words::BYTES);
        let limits: Vec<Int> = (0..c.n)
            .map(|r| {
                let limit = b.load_i64(self.rows.at(entry, r * row_words::BYTES + row_words::LIMIT));
                c.trim.map_or(limit, |trim| b.sub(limit, trim))
            })
            .collect();
        let mut most = limits[0];
        for &limit in &limits[1..] {
            most = b.max(most, limit);
        }
        let left = b.sub(most, c.start);
        let all = b.int(CHUNK as i64);
        let left = b.min(left, all);
        let up = b.add_const(left, PAGE as i64 - 1);
        // May be zero or negative when no row sees a key of this chunk; then every loop below runs no times.
        let pages = b.sar(up, PAGE.trailing_zeros());
        // The table goes on behind the chunk, as far as some row sees.
        let visible = b.add_const(most, PAGE as i64 - 1);
        let visible = b.sar(visible, PAGE.trailing_zeros());
        let before = b.sar(c.start, PAGE.trailing_zeros());
        let visible = b.sub(visible, before);
        let next = b.min(visible, c.to_end);
        match self.rounded {
            None => {
                self.scores(b, c, &limits, pages);
                self.most(b, c, pages);
                self.sums(b, c, pages, next);
            }
            Some(rounded) => {
                if !rounded.of_unit {
                    let count = b.int(c.n);
                    rounded.round(b, self.dims, self.query, (c.row, count), c.head);
                }
                self.byte_scores(b, c, rounded, &limits, pages);
                self.most(b, c, pages);
                self.byte_sums(b, c, pages, next);
            }
        }
        self.finish(b, c, entry);
    }

    /// Keys by which the list of a KV head is shorter than the rows' limits say; `trims` as an item has it.
    fn trim(&self, b: &mut Build, trims: Int, head: Int) -> Int {
        let zero = b.int(0);
        let keys = b.var(zero);
        let some = b.lt(zero, trims);
        b.if_(some, |b| {
            let at = b.add(trims, head);
            let at = b.mul_const(at, 4);
            let pages = b.load_i32(self.tables.at(at, 0));
            let pages = b.mul_const(pages, PAGE as i64);
            b.set(keys, pages);
        });
        keys.now()
    }

    /// Byte offset of the chunk's page `page` for this KV head.
    pub(super) fn page(&self, b: &mut Build, c: &Chunk, page: Int) -> Int {
        let at = b.scale_add(page, 4, c.table);
        self.listed(b, at, c.head)
    }

    /// Byte offset of the page whose number stands at byte `at` of the tables, for a KV head.
    fn listed(&self, b: &mut Build, at: Int, head: Int) -> Int {
        let number = b.load_i32(self.tables.at(at, 0));
        let base = b.mul_const(number, self.dims.block_bytes());
        b.scale_add(head, self.dims.head_stride(), base)
    }

    /// The first pages of a unit: those of its first chunk that its first row sees.
    fn after(&self, b: &mut Build, items: Place, unit: Int) -> After {
        let (item, head) = b.div_rem(unit, self.dims.kv_heads);
        let at = b.mul_const(item, item_words::BYTES);
        let row = b.load_i64(items.at(at, item_words::FIRST_ROW));
        let from = b.load_i64(items.at(at, item_words::FIRST_CHUNK));
        let table = b.load_i64(items.at(at, item_words::TABLE));
        let lists = b.load_i64(items.at(at, item_words::LIST_STRIDE));
        let lists = b.mul(lists, head);
        let table = b.add(table, lists);
        let table = b.scale_add(from, GROUP as i64, table);
        let table = b.mul_const(table, 4);
        let row = b.mul_const(row, row_words::BYTES);
        let limit = b.load_i64(self.rows.at(row, row_words::LIMIT));
        let before = b.mul_const(from, CHUNK as i64);
        let seen = b.sub(limit, before);
        let seen = b.add_const(seen, -1);
        let last = b.sar(seen, PAGE.trailing_zeros());
        let (zero, most) = (b.int(0), b.int(GROUP as i64 - 1));
        let last = b.max(last, zero);
        let last = b.min(last, most);
        After { table, last, head }
    }

    /// Where to prefetch while page `page` of the chunk's keys is read: so many pages further on in keys, then values.
    pub(super) fn behind_keys(&self, b: &mut Build, c: &Chunk, (page, further): (Int, i64), pages: Int) -> Int {
        let ahead = ahead(b, page, further, pages);
        let last = b.add_const(pages, -1);
        let value = b.sub(ahead, pages);
        let value = b.min(value, last);
        let keys = b.lt(ahead, pages);
        let one = b.int(1);
        let at = b.select(Cmp::Eq, keys, one, ahead, value);
        let at = self.page(b, c, at);
        let values = b.add_const(at, GROUP as i64 * self.dims.block_bytes());
        b.select(Cmp::Eq, keys, one, at, values)
    }

    /// The same while values are read: further on in values, then in the keys of the item's next chunk, whose pages end
    /// at `next`, or of the next unit.
    pub(super) fn behind_values(
        &self,
        b: &mut Build,
        c: &Chunk,
        (page, further): (Int, i64),
        pages: Int,
        next: Int,
    ) -> Int {
        let ahead = ahead(b, page, further, pages);
        let last = b.add_const(next, -1);
        let at = b.min(ahead, last);
        let at = self.page(b, c, at);
        let values = b.add_const(at, GROUP as i64 * self.dims.block_bytes());
        let (over, zero) = (b.sub(ahead, next), b.int(0));
        let over = b.max(over, zero);
        let over = b.min(over, c.after.last);
        let over = b.scale_add(over, 4, c.after.table);
        let after = self.listed(b, over, c.after.head);
        let at = b.select(Cmp::Lt, ahead, next, at, after);
        b.select(Cmp::Lt, ahead, pages, values, at)
    }

    /// How many pages ahead of their reads keys and values are asked for at most.
    pub(super) fn pages_ahead(&self) -> i64 {
        (AHEAD / self.dims.block_bytes()).max(1)
    }

    /// How many pages ahead of their reads keys and values of 16 bits are asked for, and into which cache.
    fn requests(&self, c: &Chunk) -> impl Iterator<Item = (i64, Cache)> {
        let (near, far) = (self.pages_ahead(), FAR / self.dims.block_bytes());
        let twice = c.cache() == Cache::First && far > near;
        iter::once((near, c.cache())).chain(twice.then_some((far, Cache::Second)))
    }

    /// Where a turn of the loop over dimensions, at the queries' byte `d`, asks for the pages `soon`: as many bytes as it
    /// takes, in the order of addresses, one page after the other. Memory delivers that order faster than two pages in
    /// turn (a tenth of the time of one sequence on Zen 5).
    fn in_order(&self, b: &mut Build, soon: &[Int], d: Int) -> Int {
        let (dims, count) = (self.dims, soon.len() as i64);
        let bytes = 4 * dims.head_dim;
        let mut base = soon[0];
        for (j, &page) in (0..).zip(soon).skip(1) {
            let (from, before) = (b.int(j * bytes / count), b.int(j * dims.block_bytes()));
            let page = b.sub(page, before);
            base = b.select(Cmp::Lt, d, from, base, page);
        }
        b.scale_add(d, count * dims.kv_bytes() * PAGE as i64 / 4, base)
    }

    /// Queries of the chunk's rows.
    fn queries(&self, c: &Chunk) -> i64 {
        c.n * self.dims.group()
    }

    /// The same, in as few and as even parts as there are of at most `most` queries.
    pub(super) fn blocks_of_queries(&self, c: &Chunk, most: i64) -> Vec<Vec<i64>> {
        let all: Vec<i64> = (0..self.queries(c)).collect();
        all.chunks(all.len().div_ceil(all.len().div_ceil(most as usize))).map(<[i64]>::to_vec).collect()
    }

    /// Copies of a page's weights: one for each vector of its values that is taken together. Over int8 there
    /// is one.
    fn copies(&self, c: &Chunk) -> i64 {
        let vectors = self.dims.head_dim / 16;
        if self.rounded.is_some() { 1 } else { together(self.queries(c)).min(vectors) }
    }

    /// Bytes of a page's scores, and of one of the copies of its weights.
    fn copy_bytes(&self, c: &Chunk) -> i64 {
        self.queries(c) * SCORE_BYTES
    }

    /// Byte of the scores of page `page` of the chunk.
    pub(super) fn scores_of(&self, b: &mut Build, c: &Chunk, page: Int) -> Int {
        b.mul_const(page, self.copies(c) * self.copy_bytes(c))
    }

    /// Scores of all queries, −∞ where a row does not see the key.
    fn scores(&self, b: &mut Build, c: &Chunk, limits: &[Int], pages: Int) {
        const UNROLL: i64 = 4;
        let dims = self.dims;
        let base = b.mul_const(c.row, dims.query_bytes());
        let base = b.scale_add(c.head, dims.group() * 4 * dims.head_dim, base);
        let query = |q: i64| q / dims.group() * dims.query_bytes() + q % dims.group() * 4 * dims.head_dim;
        let page_row = dims.kv_bytes() * PAGE as i64;
        for (block, queries) in self.blocks_of_queries(c, QUERIES).into_iter().enumerate() {
            let prefetch = block == 0;
            // One behind the last may be the last again, behind all limits.
            let wide = together(queries.len() as i64);
            let copy = |i: i64, j: i64| ((j - 1) * queries.len() as i64 + i) * 4 * dims.head_dim;
            for (i, &q) in (0..).zip(&queries) {
                for t in (0..4 * dims.head_dim).step_by(64).take_while(|_| wide > 1) {
                    let x = b.load(Mem::F32, self.query.at(base, query(q) + t));
                    for j in 1..wide {
                        b.store(Mem::F32, self.copies.fixed(copy(i, j) + t), x);
                    }
                }
            }
            let zero = b.int(0);
            b.for_(zero, pages, wide, |b, page| {
                let last = b.add_const(pages, -1);
                let numbers: Vec<Int> = (0..wide).map(|j| b.add_const(page, j)).collect();
                let keys: Vec<Int> = numbers
                    .iter()
                    .map(|&p| {
                        let p = b.min(p, last);
                        self.page(b, c, p)
                    })
                    .collect();
                let mut soon = Vec::new();
                for (further, cache) in self.requests(c).filter(|_| prefetch) {
                    let places: Vec<Int> =
                        numbers.iter().map(|&p| self.behind_keys(b, c, (p, further), pages)).collect();
                    soon.push((places, cache));
                }
                let none = b.vf(0.0);
                let sums: Vec<Vec<Var<Vf>>> =
                    (0..wide).map(|_| queries.iter().map(|_| b.var(none)).collect()).collect();
                b.for_to(4 * dims.head_dim, 4 * UNROLL, |b, d| {
                    let q_at = b.add(base, d);
                    let k_at: Vec<Int> = keys.iter().map(|&k| b.scale_add(d, page_row / 4, k)).collect();
                    for (places, cache) in &soon {
                        let next = self.in_order(b, places, d);
                        for line in (0..wide * UNROLL * page_row).step_by(64) {
                            b.prefetch(self.keys.at(next, line), *cache);
                        }
                    }
                    for step in 0..UNROLL {
                        for (j, (&k, sums)) in (0..).zip(k_at.iter().zip(&sums)) {
                            let k = b.load(Mem::F16, self.keys.at(k, step * page_row));
                            for (i, (&q, &sum)) in (0..).zip(queries.iter().zip(sums)) {
                                let x = match j {
                                    0 => b.load_splat(self.query.at(q_at, query(q) + 4 * step)),
                                    _ => b.load_splat(self.copies.at(d, copy(i, j) + 4 * step)),
                                };
                                let next = b.fma(x, k, sum.now());
                                b.set(sum, next);
                            }
                        }
                    }
                });
                for (&page, sums) in numbers.iter().zip(&sums) {
                    let scores: Vec<Vf> = sums.iter().map(|sum| sum.now()).collect();
                    self.store_scores(b, c, limits, page, &queries, &scores);
                }
            });
        }
    }

    /// Stores scores of page `page`, 16 for each of `queries`: −∞ where a row does not see the key.
    pub(super) fn store_scores(
        &self,
        b: &mut Build,
        c: &Chunk,
        limits: &[Int],
        page: Int,
        queries: &[i64],
        scores: &[Vf],
    ) {
        let key = b.scale_add(page, PAGE as i64, c.start);
        let key = b.splat_int(key);
        let lanes = b.iota();
        let key = b.add(key, lanes);
        let to = self.scores_of(b, c, page);
        for (&q, &score) in queries.iter().zip(scores) {
            let limit = b.splat_int(limits[(q / self.dims.group()) as usize]);
            let hidden = b.vf(f32::NEG_INFINITY);
            let score = b.select(Cmp::Lt, key, limit, score, hidden);
            b.store(Mem::F32, self.scores.at(to, q * SCORE_BYTES), score);
        }
    }

    /// Each query's `m`, and its `l` at none.
    fn most(&self, b: &mut Build, c: &Chunk, pages: Int) {
        let bytes = self.scores_of(b, c, pages);
        let page_bytes = self.copies(c) * self.copy_bytes(c);
        b.for_to(self.queries(c), 1, |b, query| {
            let base = b.mul_const(query, SCORE_BYTES);
            let zero = b.int(0);
            let (nothing, none) = (b.vf(f32::NEG_INFINITY), b.vf(0.0));
            let most = b.var(nothing);
            b.for_(zero, bytes, page_bytes, |b, at| {
                let at = b.add(base, at);
                let x = b.load(Mem::F32, self.scores.at(at, 0));
                let next = b.max(most.now(), x);
                b.set(most, next);
            });
            let m = b.max_lanes(most.now());
            // With nothing seen, −∞ − 0 keeps every weight at 0 where −∞ − −∞ would be NaN.
            let (infinite, nought) = (b.flt(f32::NEG_INFINITY), b.flt(0.0));
            let from = b.select(Cmp::Eq, m, infinite, nought, m);
            let at = b.mul_const(query, softmax::BYTES);
            b.store(Mem::F32, self.softmax.at(at, softmax::L), none);
            b.store_f32(self.softmax.at(at, softmax::M), m);
            b.store_f32(self.softmax.at(at, softmax::FROM), from);
        });
    }

    /// Scores of page `page` become weights, for int8 rounded, and are added to `l`. A page at a time, between sums over
    /// values: memory is asked for what comes next all the while.
    pub(super) fn weigh(&self, b: &mut Build, c: &Chunk, queries: &[i64], page: Int) {
        let base = self.scores_of(b, c, page);
        let (first, end) = (b.int(queries[0]), b.int(queries[0] + queries.len() as i64));
        b.for_(first, end, 1, |b, query| {
            let at = b.scale_add(query, SCORE_BYTES, base);
            let of = b.mul_const(query, softmax::BYTES);
            let from = b.load_splat(self.softmax.at(of, softmax::FROM));
            let x = b.load(Mem::F32, self.scores.at(at, 0));
            let x = b.sub(x, from);
            let w = exp(b, x);
            let l = b.load(Mem::F32, self.softmax.at(of, softmax::L));
            let l = b.add(l, w);
            b.store(Mem::F32, self.softmax.at(of, softmax::L), l);
            match self.rounded {
                None => {
                    for copy in 0..self.copies(c) {
                        b.store(Mem::F32, self.scores.at(at, copy * self.copy_bytes(c)), w);
                    }
                }
                Some(_) => self.round_weights(b, c, page, at, w),
            }
        });
    }

    /// Weighted sums of values into `outs`.
    fn sums(&self, b: &mut Build, c: &Chunk, pages: Int, next: Int) {
        const UNROLL: i64 = 4;
        let dims = self.dims;
        let vectors = dims.head_dim / 16;
        let row_bytes = dims.kv_bytes() * dims.head_dim;
        let together = self.copies(c);
        for (block, queries) in self.blocks_of_queries(c, QUERIES).into_iter().enumerate() {
            let fits = |n: i64| vectors % n == 0 && n * queries.len() as i64 <= SUMS;
            let wide = (1..=vectors).rev().find(|&n| fits(n)).unwrap_or(1);
            for first in (0..vectors).step_by(wide as usize) {
                let none = b.vf(0.0);
                let sums: Vec<Vec<Var<Vf>>> =
                    (0..wide).map(|_| queries.iter().map(|_| b.var(none)).collect()).collect();
                let zero = b.int(0);
                b.for_(zero, pages, 1, |b, page| {
                    let values = self.page(b, c, page);
                    let mut soon = Vec::new();
                    for (further, cache) in self.requests(c).filter(|_| block == 0 && first == 0) {
                        soon.push((self.behind_values(b, c, (page, further), pages, next), cache));
                    }
                    if first == 0 {
                        self.weigh(b, c, &queries, page);
                    }
                    let weights = self.scores_of(b, c, page);
                    let parts = sums.chunks(together as usize);
                    let count = parts.len() as i64;
                    for (part, sums) in (0..).zip(parts) {
                        b.for_to(PAGE as i64, UNROLL, |b, key| {
                            for &(soon, cache) in &soon {
                                let (from, size) = stretch(dims, UNROLL, (part, count));
                                let soon = b.scale_add(key, size / UNROLL, soon);
                                for line in (from..from + size).step_by(64) {
                                    b.prefetch(self.keys.at(soon, line), cache);
                                }
                            }
                            let v_at = b.scale_add(key, row_bytes, values);
                            let w_at = b.scale_add(key, 4, weights);
                            for step in 0..UNROLL {
                                for (copy, sums) in (0..).zip(sums) {
                                    let vector = first + part * together + copy;
                                    let offset = step * row_bytes + 16 * dims.kv_bytes() * vector;
                                    let v = b.load(Mem::F16, self.values.at(v_at, offset));
                                    for (&q, &sum) in queries.iter().zip(sums) {
                                        let at = copy * self.copy_bytes(c) + q * SCORE_BYTES + 4 * step;
                                        let w = b.load_splat(self.scores.at(w_at, at));
                                        let next = b.fma(w, v, sum.now());
                                        b.set(sum, next);
                                    }
                                }
                            }
                        });
                    }
                });
                let base = b.int(0);
                for (vector, sums) in (first..).zip(&sums) {
                    for (&q, sum) in queries.iter().zip(sums) {
                        b.store(Mem::F32, self.outs.at(base, q * dims.head_partial_bytes() + 64 * vector), sum.now());
                    }
                }
            }
        }
    }

    /// The chunk's states into the partials: stored for the item's first chunk, folded after.
    fn finish(&self, b: &mut Build, c: &Chunk, entry: Int) {
        let dims = self.dims;
        for r in 0..c.n {
            let partial = b.load_i64(self.rows.at(entry, r * row_words::BYTES + row_words::FIRST_PARTIAL));
            let partial = b.add(partial, c.partial);
            let base = b.mul_const(partial, dims.partial_bytes());
            let base = b.scale_add(c.head, dims.group() * dims.head_partial_bytes(), base);
            b.for_to(dims.group(), 1, |b, g| {
                let to = b.scale_add(g, dims.head_partial_bytes(), base);
                let query = b.add_const(g, r * dims.group());
                let from = b.mul_const(query, dims.head_partial_bytes());
                let of = b.mul_const(query, softmax::BYTES);
                let m = b.load_f32(self.softmax.at(of, softmax::M));
                let l = b.load(Mem::F32, self.softmax.at(of, softmax::L));
                let l = b.sum_lanes(l);
                b.store_f32(self.outs.at(from, 4 * dims.head_dim), m);
                b.store_f32(self.outs.at(from, 4 * dims.head_dim + 4), l);
                b.if_else(
                    c.opens,
                    |b| State::load(b, dims, self.outs, from).store(b, dims, self.partials, to),
                    |b| {
                        let state = State::load(b, dims, self.partials, to);
                        fold(b, dims, &state, self.outs, from);
                        state.store(b, dims, self.partials, to);
                    },
                );
            });
        }
    }
}
