//! What follows K1 where the cache is more than plain f16: new keys and values rounded to int8, summaries of the pages
//! that are now full, and the choice of the pages that decoded rows attend to.
//!
//! Takes the step's tables and what `qkv` left; a page is written by one unit alone, the one of its first row in the step,
//! because the rows of a page are neighbours of one sequence. Int8 lies as products of bytes read it: keys as unsigned bytes
//! by four dimensions, values as signed bytes by four keys. It reads no page that this step writes, but for the summary
//! of the page just filled: the choice never asks for the summary of a row's last page. A page's summary is a function of
//! its keys as attention will read them, whatever was there before.

use super::attend_int8::{KEY_ZERO, KEYS_IN_LANE};
use super::build::{Build, Built, Int, Place, Slot, Vf};
use super::pages::{self, Choice};
use super::rounding::{F16_MAX, none_if_unsound, step};
use super::{Dims, Summary, row_words, step_words};
use ir::kernel::{Cmp, Mem, Split};
use ir::program::{Buf, PAGE};
use ir::schedule::KvFormat;

/// The largest byte of a bound: signed.
const TOP_BOUND: f32 = 127.0;

/// Places of the append.
struct Append<'a> {
    dims: &'a Dims,
    table: Place,
    keys: Place,
    /// What `qkv` left, and where values go: for int8.
    fresh: Option<(Place, Place)>,
    summary: Option<Place>,
}

/// The kernel. `choice` summarises pages and chooses lists. A unit is a row and a KV head, then a list and a KV head.
pub(super) fn kernel(name: &str, dims: &Dims, choice: Option<&Choice>) -> Built {
    let mut b = Build::new(name);
    let step = b.read_buf("step", Buf::Step);
    let rows_n = b.load_i64(step.fixed(step_words::ROWS));
    let int8 = dims.kv == KvFormat::Int8;
    let table = b.read_buf("rows", Buf::Rows);
    let keys = if int8 { b.write("keys", Slot::Keys) } else { b.read("keys", Slot::Keys) };
    let fresh = int8.then(|| (b.read_buf("fresh", Buf::Fresh), b.write("values", Slot::Values)));
    let summary = choice.map(|_| b.write("summary", Slot::Summary));
    let a = Append { dims, table, keys, fresh, summary };
    let units = b.mul_const(rows_n, dims.kv_heads);
    b.par_for(units, Split::Cyclic, |b, unit| {
        let (row, head) = b.div_rem(unit, dims.kv_heads);
        let slot = a.slot(b, row);
        let page = b.sar(slot, PAGE.trailing_zeros());
        // The first row has no neighbour before it; its own page with one more never equals its page.
        let zero = b.int(0);
        let before = b.add_const(row, -1);
        let before = b.max(before, zero);
        let before = a.slot(b, before);
        let before = b.sar(before, PAGE.trailing_zeros());
        let other = b.add_const(page, 1);
        let before = b.select(Cmp::Eq, row, zero, other, before);
        let goes_on = b.eq(before, page);
        b.if_else(goes_on, |_| (), |b| a.page(b, rows_n, row, head, slot));
    });
    if let (Some(choice), Some(summary)) = (choice, summary) {
        let lists = b.load_i64(step.fixed(step_words::PICKS));
        pages::choose(&mut b, dims, choice, summary, lists);
    }
    b.finish()
}

impl Append<'_> {
    fn slot(&self, b: &mut Build, row: Int) -> Int {
        let entry = b.mul_const(row, row_words::BYTES);
        b.load_i64(self.table.at(entry, row_words::SLOT))
    }

    /// The new rows of a page, the first of which is `row` at `slot`, and the page's summary when it is full.
    fn page(&self, b: &mut Build, rows_n: Int, row: Int, head: Int, slot: Int) {
        let dims = self.dims;
        let page = b.sar(slot, PAGE.trailing_zeros());
        let in_page = b.int(PAGE as i64 - 1);
        let in_page = b.and(slot, in_page);
        let base = b.mul_const(page, dims.block_bytes());
        let base = b.scale_add(head, dims.head_stride(), base);
        let room = b.int(PAGE as i64);
        let room = b.sub(room, in_page);
        let end = b.add(row, room);
        if let Some((fresh, values)) = self.fresh {
            let stop = b.min(end, rows_n);
            b.for_(row, stop, 1, |b, r| {
                let at = self.slot(b, r);
                let theirs = b.sar(at, PAGE.trailing_zeros());
                let mine = b.eq(theirs, page);
                b.if_(mine, |b| {
                    let mask = b.int(PAGE as i64 - 1);
                    let in_page = b.and(at, mask);
                    self.round(b, (fresh, values), r, head, base, in_page);
                });
            });
        }
        let Some(summary) = self.summary else { return };
        let fits = b.add_const(rows_n, 1);
        let fits = b.lt(end, fits);
        b.if_(fits, |b| {
            let last = b.add_const(end, -1);
            let last = self.slot(b, last);
            let first = b.mul_const(page, PAGE as i64);
            let want = b.add_const(first, PAGE as i64 - 1);
            let full = b.eq(last, want);
            b.if_(full, |b| {
                let to = dims.summary_at(b, page, head);
                self.summarise(b, summary, to, base);
            });
        });
    }

    /// Rounds a row's keys and values of a head to the page at `base`.
    fn round(&self, b: &mut Build, (fresh, values): (Place, Place), row: Int, head: Int, base: Int, in_page: Int) {
        let dims = self.dims;
        let d = dims.head_dim;
        let from = b.mul_const(row, dims.fresh_bytes());
        let from = b.scale_add(head, 4 * d, from);
        let vectors = d / 16;
        let load = |b: &mut Build, offset: i64| -> Vec<Vf> {
            (0..vectors).map(|t| b.load(Mem::F32, fresh.at(from, offset + 64 * t))).collect()
        };
        let scale_at = b.scale_add(in_page, 4, base);

        let k = load(b, 0);
        let (scale, inverse) = step(b, &k);
        let scale = none_if_unsound(b, scale, &k);
        b.store_f32(self.keys.at(scale_at, dims.scales()), scale);
        // Four dimensions of a key are neighbours, so the row goes to its places by fours.
        let row = b.shared_local("row", d);
        let bias = b.vi(i64::from(KEY_ZERO));
        let at = b.int(0);
        for (t, x) in (0..).zip(k) {
            let x = b.mul(x, inverse);
            let q = b.round(x);
            let q = b.add(q, bias);
            b.store_ints(Mem::U8, row.at(at, 16 * t), q);
        }
        let at = b.scale_add(in_page, 4, base);
        for four in (0..d).step_by(4) {
            let word = b.load_i32(row.fixed(four));
            b.store_i32(self.keys.at(at, four * PAGE as i64), word);
        }

        let (least, most) = (b.vf(-F16_MAX), b.vf(F16_MAX));
        let v: Vec<Vf> = load(b, dims.fresh_bytes() / 2)
            .into_iter()
            .map(|x| {
                let x = b.max(x, least);
                b.min(x, most)
            })
            .collect();
        let (scale, inverse) = step(b, &v);
        b.store_f32(values.at(scale_at, dims.scales()), scale);
        let (group, in_lane) = b.div_rem(in_page, KEYS_IN_LANE);
        let at = b.scale_add(group, KEYS_IN_LANE * d, base);
        let at = b.add(at, in_lane);
        for (t, x) in (0..).zip(v) {
            let x = b.mul(x, inverse);
            let q = b.round(x);
            b.store_bytes_strided(values.at(at, KEYS_IN_LANE * 16 * t), KEYS_IN_LANE, q);
        }
    }

    /// Bounds on every channel of the full page at `base`, as [`ir::program::Arg::Summary`] says.
    fn summarise(&self, b: &mut Build, summary: Place, to: Summary, base: Int) {
        let d = self.dims.head_dim;
        let half = 4 * Summary::LINE * self.dims.summary_groups();
        // The negated minima behind the maxima, both f32.
        let bounds = b.local("channel bounds", 2 * half);
        let none = b.vf(0.0);
        for first in [0, half] {
            for at in (4 * d..half).step_by(64) {
                b.store(Mem::F32, bounds.fixed(first + at), none);
            }
        }
        // 0, or no number where a key is none or not finite.
        let unsound = b.var(none);
        let channel_bounds = |b: &mut Build, at: Int, offset: i64, keys: Vf| {
            let next = b.fma(keys, none, unsound.now());
            b.set(unsound, next);
            let high = b.max_lanes(keys);
            let minus = b.sub(none, keys);
            let low = b.max_lanes(minus);
            b.store_f32(bounds.at(at, offset), high);
            b.store_f32(bounds.at(at, half + offset), low);
        };
        match self.dims.kv {
            KvFormat::F16 => b.for_to(d, 1, |b, channel| {
                let at = b.scale_add(channel, PAGE as i64 * self.dims.kv_bytes(), base);
                let keys = b.load(Mem::F16, self.keys.at(at, 0));
                let at = b.mul_const(channel, 4);
                channel_bounds(b, at, 0, keys);
            }),
            KvFormat::Int8 => {
                let scale = b.load(Mem::F32, self.keys.at(base, self.dims.scales()));
                b.for_to(d, 4, |b, channel| {
                    let at = b.scale_add(channel, PAGE as i64, base);
                    let four = b.load_ints(Mem::I32, self.keys.at(at, 0));
                    let at = b.mul_const(channel, 4);
                    for i in 0..4 {
                        let (byte, bias) = (b.vi(0xFF), b.vi(i64::from(KEY_ZERO)));
                        let q = b.shr(four, 8 * i);
                        let q = b.and(q, byte);
                        let q = b.sub(q, bias);
                        let q = b.float(q);
                        let keys = b.mul(q, scale);
                        channel_bounds(b, at, 4 * i64::from(i), keys);
                    }
                });
            }
        }
        let unsound = b.sum_lanes(unsound.now());
        let unsound = b.splat(unsound);
        for group in 0..self.dims.summary_groups() {
            let quarters = |b: &mut Build, first: i64| -> [Vf; 4] {
                [0, 1, 2, 3].map(|j| b.load(Mem::F32, bounds.fixed(first + 4 * Summary::LINE * group + 64 * j)))
            };
            let (high, low) = (quarters(b, 0), quarters(b, half));
            let mut most = none;
            for x in high.into_iter().chain(low) {
                let size = b.abs(x);
                most = b.max(most, size);
            }
            // f16 keeps 11 bits, or steps of 2⁻²⁴: what rounding to it takes away is added before.
            let (step, least) = (b.vf((1.0 + 1.0 / 1024.0) / TOP_BOUND), b.vf(1.0 / 16_777_216.0));
            let scale = b.fma(most, step, least);
            let scales = summary.at(to.scales, Summary::SCALES * group);
            b.store(Mem::F16, scales, scale);
            let scale = b.load(Mem::F16, scales);
            let one = b.vf(1.0);
            let inverse = b.div(one, scale);
            for (line, bounds) in [high, low].into_iter().enumerate() {
                let bytes = bounds.map(|x| {
                    let x = b.mul(x, inverse);
                    // Up, and beyond what the product above may have lost; the largest quotient is just below 127.
                    let up = b.vf(0.5 + 1.0 / 1024.0);
                    let x = b.add(x, up);
                    b.round(x)
                });
                let bytes = b.pack_bytes(bytes);
                let at = Summary::LINES * group + Summary::LINE * line as i64;
                b.store_ints(Mem::I32, summary.at(to.lines, at), bytes);
            }
            let scale = b.add(scale, unsound);
            b.store(Mem::F16, scales, scale);
        }
    }
}
