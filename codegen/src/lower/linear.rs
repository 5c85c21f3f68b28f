//! The linear core: one weight tile times a block of rows, for every tile format.
//!
//! Takes a resident matrix, the records of the rows and a place for results; emits the loops that leave 16 outputs per
//! row in that place. The order of every reduction depends on the format alone, never on how many rows or tiles are
//! taken together, so a row's outputs are the same bits in any batch.
//!
//! Int8: per 32 features one chain of eight `Dot4` from `−zero_point·Σq`, which makes the integer exact (two of four
//! where a format has two scales); then one conversion, times the row's `d`, fused into the output with the weight's
//! scale. F32: two accumulators, even and odd features, added at the end. Int8 per channel: [`super::channel`].
//!
//! What limits int8 on cores that give byte products and float multiplications the same units (measured on Zen 4 and
//! 5): a block of a format with minima takes 8 + 3 of them per row, one without 8 + 2, so these loops end at 73 and 80
//! % of the rate of byte products alone. Loads, conversions, additions and unpacking fit beside them.

use super::build::{Build, Bytes, Int, Place, Var, Vf, Vi};
use super::channel_tiles::{self, MOST_ROWS, TILE_ROWS};
use super::record::Record;
use super::step_words::RowsOfStep;
use ir::kernel::{Cache, Cmp, Mem, Split};
use ir::schedule::Numerics;
use ir::tensor::{DType, SUPER_K, Scales, TILE_K, TileFormat, channel_tile_bytes, tile_bytes};

/// Bytes of 16 f32 results.
pub(super) const RESULT_BYTES: i64 = 64;

/// How rows are taken, the same for all matrices of a program.
#[derive(Clone, Copy, Debug)]
pub(super) struct Blocking {
    /// Rows at a time: 1, 2, 4 or 8; what remains is taken by smaller powers of two.
    pub(super) rows: i64,
    /// Prefetch distance in bytes, 0 for none.
    pub(super) prefetch: i64,
    /// Several threads read at once.
    pub(super) threads: bool,
    /// Arithmetic.
    pub(super) numerics: Numerics,
    /// Rows from which a product of the class int8 per channel goes through tiles, 1 to 16; 0: never.
    pub(super) tile_from: i64,
}

impl Blocking {
    /// Rows that a kernel takes at a time from such records.
    pub(super) fn at_once(self, record: &Record) -> i64 {
        if self.tiles(record) { MOST_ROWS } else { self.rows }
    }

    fn tiles(self, record: &Record) -> bool {
        self.tile_from > 0 && record.fits_tiles()
    }
}

/// What a resident tile holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Resident {
    /// Weights as the file stores them.
    Stored(DType),
    /// Int8 with one scale per output channel, for rows whose blocks of so many features are mixed and share a scale.
    Int8Channel(i64),
}

impl Resident {
    /// The part of a kernel's name that says so.
    pub(super) fn tag(self) -> String {
        match self {
            Self::Stored(dtype) => dtype.name().to_lowercase(),
            Self::Int8Channel(block) => format!("int8_channel{block}"),
        }
    }
}

/// A resident matrix of tiles.
#[derive(Clone, Copy)]
pub(super) struct Matrix {
    /// Where its tiles are.
    pub(super) place: Place,
    /// What they hold.
    pub(super) resident: Resident,
}

/// Rows of activations.
#[derive(Clone, Copy)]
pub(super) struct Rows<'a> {
    /// Where the records are.
    pub(super) place: Place,
    /// Byte offset of row 0.
    pub(super) base: Int,
    /// Layout of a row.
    pub(super) record: &'a Record,
}

/// Where results go: row `r` of the block at `offset + r · RESULT_BYTES`.
#[derive(Clone, Copy)]
pub(super) struct Results {
    /// Local of at least `rows · RESULT_BYTES` bytes past any offset used.
    pub(super) place: Place,
    /// Byte offset of row 0.
    pub(super) offset: Int,
}

/// Rows of a band, a multiple of every block of rows: their records, and what a layer reads and writes beside them, stay
/// in the second cache while all of a thread's tiles pass.
const BAND: i64 = 128;

/// Divides `0..tiles` over the team and walks the rows in bands: the closure gets a tile and its rows' range. A thread
/// takes neighbouring tiles for the first rows, then the same tiles for the next rows. With threads that do not divide the
/// tiles all rows are one band. Results do not depend on the order.
pub(super) fn tiles_by_bands(b: &mut Build, step: RowsOfStep, tiles: i64, f: impl FnOnce(&mut Build, Int, (Int, Int))) {
    let RowsOfStep { rows, team } = step;
    let (all, one) = (b.int(tiles), b.int(1));
    let team = b.max(team, one);
    let mine = b.div(all, team);
    let back = b.mul(mine, team);
    let up = b.add_const(rows, BAND - 1);
    let (bands, _) = b.div_rem(up, BAND);
    let bands = b.select(Cmp::Eq, back, all, bands, one);
    let height = b.int(BAND);
    let height = b.select(Cmp::Eq, back, all, height, rows);
    // One thread's tiles; of all threads where they do not divide evenly.
    let mine = b.select(Cmp::Eq, back, all, mine, all);
    let units = b.mul_const(bands, tiles);
    let per_thread = b.mul(bands, mine);
    b.par_for(units, Split::Blocked, |b, unit| {
        let thread = b.div(unit, per_thread);
        let before = b.mul(thread, per_thread);
        let unit = b.sub(unit, before);
        let band = b.div(unit, mine);
        let before = b.mul(band, mine);
        let tile = b.sub(unit, before);
        let tiles_before = b.mul(thread, mine);
        let tile = b.add(tile, tiles_before);
        let first = b.mul(band, height);
        let end = b.add(first, height);
        let end = b.min(end, rows);
        f(b, tile, (first, end));
    });
}

/// Walks rows `lo..hi` in blocks of `step`: the closure gets the first row and how many there are (1..=step).
pub(super) fn row_blocks(b: &mut Build, (lo, hi): (Int, Int), step: i64, f: impl FnOnce(&mut Build, Int, Int)) {
    b.for_(lo, hi, step, |b, first| {
        let left = b.sub(hi, first);
        let most = b.int(step);
        let count = b.min(left, most);
        f(b, first, count);
    });
}

impl Matrix {
    /// Bytes of one tile of `k` features.
    pub(super) fn tile_bytes(&self, k: i64) -> i64 {
        let k = k.unsigned_abs() as usize;
        let bytes = match self.resident {
            Resident::Stored(dtype) => tile_bytes(dtype, k),
            Resident::Int8Channel(_) => channel_tile_bytes(k),
        };
        bytes as i64
    }

    /// Tile at byte `tile` times rows `first..first + count`, `1 ≤ count ≤ how.at_once(rows.record)`.
    #[allow(clippy::too_many_arguments, reason = "the operands of one product")]
    pub(super) fn times(
        &self,
        b: &mut Build,
        how: Blocking,
        tile: Int,
        rows: Rows<'_>,
        first: Int,
        count: Int,
        to: Results,
    ) {
        let start = b.scale_add(first, rows.record.stride(), rows.base);
        if how.tiles(rows.record) {
            self.tiles_then_rows(b, how, tile, rows, start, count, to);
        } else {
            self.by_rows(b, how, tile, rows, start, count, to);
        }
    }

    /// At most [`MOST_ROWS`] rows: through tiles what fills enough of them, the rest by rows.
    #[allow(clippy::too_many_arguments, reason = "the operands of one product")]
    fn tiles_then_rows(
        &self,
        b: &mut Build,
        how: Blocking,
        tile: Int,
        rows: Rows<'_>,
        start: Int,
        count: Int,
        to: Results,
    ) {
        let sums = channel_tiles::declare(b);
        let product = |r| Product { weights: self.place, tile, rows, r, how };
        let none = b.int(0);
        let taken = b.var(none);
        let [one, two] = [how.tile_from, TILE_ROWS + how.tile_from].map(|least| b.int(least));
        let (any, both) = (b.le(one, count), b.le(two, count));
        b.if_(any, |b| {
            let take = |b: &mut Build, r: i64| {
                product(r).through_tiles(b, start, sums, to);
                let all = b.int(r);
                b.set(taken, all);
            };
            b.if_else(both, |b| take(b, MOST_ROWS), |b| take(b, TILE_ROWS));
        });
        let left = b.sub(count, taken.now());
        row_blocks(b, (none, left), how.rows, |b, first, count| {
            let row = b.add(taken.now(), first);
            let start = b.scale_add(row, rows.record.stride(), start);
            let offset = b.scale_add(row, RESULT_BYTES, to.offset);
            self.by_rows(b, how, tile, rows, start, count, Results { place: to.place, offset });
        });
    }

    /// At most `how.rows` rows, the first at byte `start`.
    #[allow(clippy::too_many_arguments, reason = "the operands of one product")]
    fn by_rows(&self, b: &mut Build, how: Blocking, tile: Int, rows: Rows<'_>, start: Int, count: Int, to: Results) {
        if how.rows == 1 {
            self.body(b, how, 1, tile, rows, start, to);
            return;
        }
        let full = b.int(how.rows);
        let all = b.eq(count, full);
        b.if_else(
            all,
            |b| self.body(b, how, how.rows, tile, rows, start, to),
            |b| {
                let (at, out) = (b.var(start), b.var(to.offset));
                let mut r = how.rows / 2;
                while r > 0 {
                    let bit = b.int(r);
                    let take = b.and(count, bit);
                    b.if_(take, |b| {
                        self.body(b, how, r, tile, rows, at.now(), Results { place: to.place, offset: out.now() });
                        let next = b.add_const(at.now(), r * rows.record.stride());
                        b.set(at, next);
                        let next = b.add_const(out.now(), r * RESULT_BYTES);
                        b.set(out, next);
                    });
                    r /= 2;
                }
            },
        );
    }

    /// Exactly `r` rows, the first at byte `start`.
    #[allow(clippy::too_many_arguments, reason = "the operands of one product")]
    fn body(&self, b: &mut Build, how: Blocking, r: i64, tile: Int, rows: Rows<'_>, start: Int, to: Results) {
        let product = Product { weights: self.place, tile, rows, r, how };
        let sums = match self.resident {
            Resident::Int8Channel(_) => product.channel(b, start),
            Resident::Stored(dtype) => match (dtype.tile(), how.numerics) {
                (Some(f), Numerics::F32) => product.dequantised(b, f, start),
                (Some(f), Numerics::Int8 | Numerics::Int8Channel) => product.int8(b, f, start),
                (None, _) => product.float(b, dtype, start),
            },
        };
        for (i, sum) in sums.into_iter().enumerate() {
            b.store(Mem::F32, to.place.at(to.offset, i as i64 * RESULT_BYTES), sum);
        }
    }
}

/// One tile times `r` rows.
#[derive(Clone, Copy)]
pub(super) struct Product<'a> {
    pub(super) weights: Place,
    pub(super) tile: Int,
    pub(super) rows: Rows<'a>,
    pub(super) r: i64,
    pub(super) how: Blocking,
}

/// Scales that hold for a superblock.
#[derive(Clone, Copy)]
struct Header {
    d: Vf,
    min: Option<Vf>,
}

impl Product<'_> {
    /// Asks for the line of weights that the one at `offset` from byte `w` foretells, where lines are asked for at all. Rows
    /// of their own take up the first cache, one or two leave it free for what is read once. Threads that share their way to
    /// the memory wait longer for a line, and of more requests the first cache drops some: the second is asked, too.
    pub(super) fn ask(&self, b: &mut Build, w: Int, offset: i64) {
        if self.how.prefetch > 0 {
            let at = self.weights.at(w, self.how.prefetch + offset);
            let first = self.r <= 2;
            if first {
                b.prefetch(at, Cache::First);
            }
            if !first || self.how.threads {
                b.prefetch(at, Cache::Second);
            }
        }
    }

    fn zeros(&self, b: &mut Build, n: i64) -> Vec<Var<Vf>> {
        let zero = b.vf(0.0);
        (0..n).map(|_| b.var(zero)).collect()
    }

    /// Walks the tile's blocks: `f(header, weights, activations)`, with byte offsets of the block's planes and of
    /// something that starts at `start` and advances by `step` per block.
    fn walk(
        &self,
        b: &mut Build,
        f: TileFormat,
        start: Int,
        step: i64,
        mut each: impl FnMut(&mut Build, Option<Header>, Int, Int),
    ) {
        let blocks = self.rows.record.blocks();
        let w = b.var(self.tile);
        let end = b.add_const(start, blocks * step);
        let mut block = |b: &mut Build, header: Option<Header>, a: Int| {
            for line in (0..f.block_bytes() as i64).step_by(64) {
                self.ask(b, w.now(), line);
            }
            each(b, header, w.now(), a);
            let next = b.add_const(w.now(), f.block_bytes() as i64);
            b.set(w, next);
        };
        if f.header_bytes() == 0 {
            b.for_(start, end, step, |b, a| block(b, None, a));
            return;
        }
        let per_super = (SUPER_K / TILE_K) as i64;
        b.for_(start, end, per_super * step, |b, first| {
            let d = b.load(Mem::F16, self.weights.at(w.now(), 0));
            let min = (f.scales == Scales::SuperMin).then(|| {
                let m = b.load(Mem::F16, self.weights.at(w.now(), 32));
                let zero = b.vf(0.0);
                b.sub(zero, m)
            });
            let header = Header { d, min };
            let next = b.add_const(w.now(), f.header_bytes() as i64);
            b.set(w, next);
            let last = b.add_const(first, per_super * step);
            b.for_(first, last, step, |b, a| block(b, Some(header), a));
        });
    }

    fn int8(&self, b: &mut Build, f: TileFormat, start: Int) -> Vec<Vf> {
        let record = self.rows.record;
        let sums = self.zeros(b, self.r);
        self.walk(b, f, start, record.block_bytes(), |b, header, w, a| {
            let groups = unpack(b, f, self.weights, w);
            let scales = f.plane_bytes() as i64;
            let at = |offset: i64| self.weights.at(w, scales + offset);
            match (f.scales, header) {
                (Scales::Super16, Some(h)) => {
                    let halves = [b.load_ints(Mem::I8, at(0)), b.load_ints(Mem::I8, at(16))];
                    self.add_halves(b, &groups, h.d, halves, a, &sums);
                }
                (Scales::SuperMin, Some(Header { d, min: Some(dmin) })) => {
                    let (sc, mn) = (b.load_ints(Mem::U8, at(0)), b.load_ints(Mem::U8, at(16)));
                    let (sc, mn) = (b.float(sc), b.float(mn));
                    let (scale, min) = (b.mul(d, sc), b.mul(dmin, mn));
                    self.add_block(b, &groups, scale, Some(min), f.zero_point, a, &sums);
                }
                _ => {
                    let scale = b.load(Mem::F16, at(0));
                    let min = (f.scales == Scales::F16Min).then(|| b.load(Mem::F16, at(32)));
                    self.add_block(b, &groups, scale, min, f.zero_point, a, &sums);
                }
            }
        });
        sums.into_iter().map(Var::now).collect()
    }

    /// `sum += scale·(d·(Σ w·q − zero_point·Σq)) + min·(d·Σq)` for one block and every row.
    #[allow(clippy::too_many_arguments, reason = "the operands of one block")]
    fn add_block(
        &self,
        b: &mut Build,
        groups: &[Bytes],
        scale: Vf,
        min: Option<Vf>,
        zero_point: i32,
        a: Int,
        sums: &[Var<Vf>],
    ) {
        let record = self.rows.record;
        for (r, &sum) in sums.iter().enumerate() {
            let row = r as i64 * record.stride();
            let from = if zero_point == 0 {
                b.vi(0)
            } else {
                let from = b.load_splat(self.rows.place.at(a, row + record.zero(zero_point)));
                b.bits(from)
            };
            let dot = self.chain(b, from, groups, a, row);
            let dot = b.float(dot);
            let d = b.load_splat(self.rows.place.at(a, row + record.d()));
            let dot = b.mul(dot, d);
            let mut next = b.fma(scale, dot, sum.now());
            if let Some(min) = min {
                let s = b.load_splat(self.rows.place.at(a, row + record.sum()));
                next = b.fma(min, s, next);
            }
            b.set(sum, next);
        }
    }

    /// `sum += d_w·(d·(sc₀·Σ₀ + sc₁·Σ₁))`: the integers stay below 2^24, so their conversion is exact.
    fn add_halves(&self, b: &mut Build, groups: &[Bytes], scale: Vf, sc: [Vi; 2], a: Int, sums: &[Var<Vf>]) {
        let record = self.rows.record;
        for (r, &sum) in sums.iter().enumerate() {
            let row = r as i64 * record.stride();
            let mut parts = Vec::with_capacity(2);
            for (half, sc) in sc.into_iter().enumerate() {
                let from = b.load_splat(self.rows.place.at(a, row + record.halves() + 4 * half as i64));
                let from = b.bits(from);
                let dot = self.chain(b, from, &groups[4 * half..4 * half + 4], a, row + 16 * half as i64);
                parts.push(b.mul(dot, sc));
            }
            let dot = b.add(parts[0], parts[1]);
            let dot = b.float(dot);
            let d = b.load_splat(self.rows.place.at(a, row + record.d()));
            let dot = b.mul(dot, d);
            let next = b.fma(scale, dot, sum.now());
            b.set(sum, next);
        }
    }

    fn chain(&self, b: &mut Build, from: Vi, groups: &[Bytes], a: Int, offset: i64) -> Vi {
        let mut dot = from;
        for (g, &group) in groups.iter().enumerate() {
            let q = b.load_bytes4(self.rows.place.at(a, offset + 4 * g as i64));
            dot = b.dot4(dot, group, q);
        }
        dot
    }

    /// `sums[r] += w · x[r][feature]` with the accumulator of the feature's parity; `x` at byte `x` of row 0.
    fn add_feature(&self, b: &mut Build, w: Vf, x: Int, feature: usize, sums: &[Var<Vf>]) {
        for r in 0..self.r as usize {
            let at = r as i64 * self.rows.record.stride() + 4 * feature as i64;
            let v = b.load_splat(self.rows.place.at(x, at));
            let sum = sums[2 * r + feature % 2];
            let next = b.fma(w, v, sum.now());
            b.set(sum, next);
        }
    }

    fn fold_parities(b: &mut Build, sums: &[Var<Vf>]) -> Vec<Vf> {
        sums.chunks(2).map(|s| b.add(s[0].now(), s[1].now())).collect()
    }

    /// Quantised weights, each made into the f32 it stands for.
    fn dequantised(&self, b: &mut Build, f: TileFormat, start: Int) -> Vec<Vf> {
        let sums = self.zeros(b, 2 * self.r);
        let x = b.add_const(start, self.rows.record.floats());
        self.walk(b, f, x, 4 * TILE_K as i64, |b, header, w, x| {
            let planes = Planes { place: self.weights, at: w, f };
            let affine = Affine::load(b, f, header, self.weights, w);
            for feature in 0..TILE_K {
                let q = planes.feature(b, feature);
                let w = affine.apply(b, q, feature);
                self.add_feature(b, w, x, feature, &sums);
            }
        });
        Self::fold_parities(b, &sums)
    }

    /// Float weights.
    fn float(&self, b: &mut Build, dtype: DType, start: Int) -> Vec<Vf> {
        const UNROLL: usize = 8;
        let mem = match dtype {
            DType::F16 => Mem::F16,
            DType::BF16 => Mem::BF16,
            _ => Mem::F32,
        };
        let step = 16 * mem.bytes();
        let sums = self.zeros(b, 2 * self.r);
        let w = b.var(self.tile);
        let x = b.add_const(start, self.rows.record.floats());
        let end = b.add_const(x, 4 * self.rows.record.k());
        b.for_(x, end, 4 * UNROLL as i64, |b, x| {
            for line in (0..UNROLL as i64 * step).step_by(64) {
                self.ask(b, w.now(), line);
            }
            for feature in 0..UNROLL {
                let v = b.load(mem, self.weights.at(w.now(), feature as i64 * step));
                self.add_feature(b, v, x, feature, &sums);
            }
            let next = b.add_const(w.now(), UNROLL as i64 * step);
            b.set(w, next);
        });
        Self::fold_parities(b, &sums)
    }
}

/// The eight group vectors of the block whose planes start at byte `w`, one unsigned byte per weight.
fn unpack(b: &mut Build, f: TileFormat, place: Place, w: Int) -> Vec<Bytes> {
    if f.bits == 8 {
        return (0..8).map(|g| b.load_bytes(place.at(w, 64 * g))).collect();
    }
    let low = b.splat_byte(0x0f);
    let mut groups = Vec::with_capacity(8);
    for p in 0..4 {
        let v = b.load_bytes(place.at(w, 64 * p));
        groups.push(b.and(v, low));
        groups.push(b.shr(v, 4));
    }
    // The bits above the nibbles lie at `have` in the plane and belong at 4.
    let (plane, width) = match f.bits {
        5 => (8, 1),
        6 => (4, 2),
        _ => return groups,
    };
    let mask = b.splat_byte(if width == 1 { 0x10 } else { 0x30 });
    for first in (0..8).step_by(plane) {
        let high = b.load_bytes(place.at(w, 256 + 64 * (first / plane) as i64));
        for (i, group) in groups[first..first + plane].iter_mut().enumerate() {
            let have = (width * i) as u32;
            let moved = if have < 4 {
                b.shl(high, 4 - have)
            } else if have > 4 {
                b.shr(high, have - 4)
            } else {
                high
            };
            let bits = b.and(moved, mask);
            *group = b.or(*group, bits);
        }
    }
    groups
}

/// The planes of one block, read one feature at a time.
struct Planes {
    place: Place,
    at: Int,
    f: TileFormat,
}

impl Planes {
    /// The stored integers of a feature (0..32), one per output row.
    fn feature(&self, b: &mut Build, feature: usize) -> Vi {
        let (group, byte) = (feature / 4, 8 * (feature % 4) as u32);
        let field = |b: &mut Build, vector: usize, bit: u32, mask: i64| {
            let v = b.load_ints(Mem::I32, self.place.at(self.at, 64 * vector as i64));
            let v = if byte + bit == 0 { v } else { b.shr(v, byte + bit) };
            let mask = b.vi(mask);
            b.and(v, mask)
        };
        if self.f.bits == 8 {
            return field(b, group, 0, 0xff);
        }
        let low = field(b, group / 2, 4 * (group % 2) as u32, 0x0f);
        let high = match self.f.bits {
            5 => field(b, 4, group as u32, 1),
            6 => field(b, 4 + group / 4, 2 * (group % 4) as u32, 3),
            _ => return low,
        };
        let high = b.shl(high, 4);
        b.or(low, high)
    }
}

/// What turns stored integers of a block into weights, in the order of operations of the file format's definition.
struct Affine {
    /// Scale of features 0..16 and of 16..32.
    scale: [Vf; 2],
    min: Option<Vf>,
    zero_point: i32,
}

impl Affine {
    fn load(b: &mut Build, f: TileFormat, header: Option<Header>, place: Place, w: Int) -> Self {
        let at = |offset: i64| place.at(w, f.plane_bytes() as i64 + offset);
        let zero_point = f.zero_point;
        match (f.scales, header) {
            (Scales::Super16, Some(h)) => {
                let halves = [b.load_ints(Mem::I8, at(0)), b.load_ints(Mem::I8, at(16))];
                let scale = halves.map(|s| {
                    let s = b.float(s);
                    b.mul(h.d, s)
                });
                Self { scale, min: None, zero_point }
            }
            (Scales::SuperMin, Some(Header { d, min: Some(dmin) })) => {
                let (sc, mn) = (b.load_ints(Mem::U8, at(0)), b.load_ints(Mem::U8, at(16)));
                let (sc, mn) = (b.float(sc), b.float(mn));
                let (scale, min) = (b.mul(d, sc), b.mul(dmin, mn));
                Self { scale: [scale; 2], min: Some(min), zero_point }
            }
            _ => {
                let scale = b.load(Mem::F16, at(0));
                let min = (f.scales == Scales::F16Min).then(|| b.load(Mem::F16, at(32)));
                Self { scale: [scale; 2], min, zero_point }
            }
        }
    }

    fn apply(&self, b: &mut Build, q: Vi, feature: usize) -> Vf {
        let zero = b.vi(i64::from(self.zero_point));
        let q = b.sub(q, zero);
        let q = b.float(q);
        let w = b.mul(self.scale[feature / 16], q);
        match self.min {
            Some(m) => b.add(w, m),
            None => w,
        }
    }
}
