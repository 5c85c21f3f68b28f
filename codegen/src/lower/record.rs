//! Activation records: how a row of activations lies in memory between the kernel that makes it and linear layers.
//!
//! Takes what the matrices that will read a row hold, returns offsets and the code that writes a block of features. It does
//! not decide where records live.

use super::build::{Build, Flt, Int, Place, Vf};
use super::linear::Resident;
use super::rounding::{none_if_unsound, step};
use ir::kernel::Mem;
use ir::schedule::Numerics;
use ir::tensor::{CHANNEL_K, CHANNEL_ZERO, Scales, TILE_K};

/// Bytes of the int8 values of a block.
const Q_BYTES: i64 = TILE_K as i64;

/// The record of one row of `k` features.
///
/// First, when a quantised matrix reads it in int8: per 32 features `q` (32 × i8, value `q·d`), `d` (f32), then the
/// fields that its readers need: `d·Σq` (f32) for formats with minima; `−zero_point·Σq` (i32) per distinct zero point;
/// `−32·Σq` (2 × i32) of both halves for `Q6_K`. Everything a reader wants of a block lies in one or two cache lines.
/// Then, when a matrix reads f32: `k` × f32.
///
/// For matrices of the class int8 per channel, which share a row with no other kind: `k` × i8, `q`, up to a multiple of 64
/// bytes; then per block of features that share a scale `d` (f32, value `q·d`) and `−128·Σq` (i32). Before it is rounded a
/// block is mixed as [`ir::tensor::CHANNEL_BLOCKS`] says: a few features of a residual stream are tens of times larger than
/// the rest, and mixing spreads what they take from the others' precision.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Record {
    k: i64,
    channel: Option<i64>,
    int8: bool,
    float: bool,
    sum: bool,
    zeros: Vec<i32>,
    halves: bool,
}

impl Record {
    /// The record of `k` features (a multiple of 32) for readers of these kinds.
    pub(super) fn new(k: i64, readers: &[Resident], numerics: Numerics) -> Self {
        let mut r = Self { k, channel: None, int8: false, float: false, sum: false, zeros: Vec::new(), halves: false };
        for reader in readers {
            let dtype = match reader {
                Resident::Stored(dtype) => dtype,
                Resident::Int8Channel(block) => {
                    debug_assert!(readers.iter().all(|x| x == reader), "the class has all readers of a row");
                    r.channel = Some(*block);
                    return r;
                }
            };
            let Some(f) = dtype.tile().filter(|_| numerics != Numerics::F32) else {
                r.float = true;
                continue;
            };
            r.int8 = true;
            match f.scales {
                Scales::F16Min | Scales::SuperMin => r.sum = true,
                Scales::Super16 => r.halves = true,
                Scales::F16 if !r.zeros.contains(&f.zero_point) => r.zeros.push(f.zero_point),
                Scales::F16 => (),
            }
        }
        r.zeros.sort_unstable();
        r
    }

    /// A name that is equal for equal records of the same `k`.
    pub(super) fn tag(&self) -> String {
        let mut s = String::new();
        if let Some(block) = self.channel {
            s.push_str(&format!("c{block}"));
        }
        if self.int8 {
            s.push_str("q8");
        }
        if self.sum {
            s.push('s');
        }
        for z in &self.zeros {
            s.push_str(&format!("z{z}"));
        }
        if self.halves {
            s.push('h');
        }
        if self.float {
            s.push_str("f32");
        }
        s
    }

    /// Features.
    pub(super) fn k(&self) -> i64 {
        self.k
    }

    /// True if the blocks are those of tiles, which only the class int8 per channel has.
    pub(super) fn fits_tiles(&self) -> bool {
        self.channel.is_some_and(|block| block % CHANNEL_K as i64 == 0)
    }

    /// Features of a block, what [`Record::store_block`] takes at once: 32, or what shares a scale.
    pub(super) fn block_features(&self) -> i64 {
        self.channel.unwrap_or(TILE_K as i64)
    }

    /// Blocks.
    pub(super) fn blocks(&self) -> i64 {
        self.k / self.block_features()
    }

    /// Offset in a row of the scale of block 0 of the class int8 per channel, and the distance of scales; `−128·Σq` lies 4
    /// bytes behind a scale.
    pub(super) fn channel_scales(&self) -> (i64, i64) {
        debug_assert!(self.channel.is_some());
        ((self.k + CHANNEL_K as i64 - 1) / CHANNEL_K as i64 * CHANNEL_K as i64, 8)
    }

    /// Bytes from one block to the next.
    pub(super) fn block_bytes(&self) -> i64 {
        let fields = 1 + i64::from(self.sum) + self.zeros.len() as i64 + 2 * i64::from(self.halves);
        Q_BYTES + 4 * fields
    }

    /// Offset of `d` in a block.
    pub(super) fn d(&self) -> i64 {
        Q_BYTES
    }

    /// Offset of `d·Σq` in a block.
    pub(super) fn sum(&self) -> i64 {
        debug_assert!(self.sum);
        Q_BYTES + 4
    }

    /// Offset of `−zero_point·Σq` in a block.
    pub(super) fn zero(&self, zero_point: i32) -> i64 {
        let i = self.zeros.iter().position(|&z| z == zero_point).expect("the record was made for this reader");
        Q_BYTES + 4 + 4 * i64::from(self.sum) + 4 * i as i64
    }

    /// Offset of `−32·Σq` of the first half of a block; the second half's follows.
    pub(super) fn halves(&self) -> i64 {
        debug_assert!(self.halves);
        Q_BYTES + 4 + 4 * i64::from(self.sum) + 4 * self.zeros.len() as i64
    }

    /// Offset of the f32 features in a row.
    pub(super) fn floats(&self) -> i64 {
        if self.int8 { (self.blocks() * self.block_bytes() + 63) / 64 * 64 } else { 0 }
    }

    /// Bytes from one row to the next: an odd number of cache lines, so that rows do not fall in the same sets.
    pub(super) fn stride(&self) -> i64 {
        let bytes = match self.channel {
            Some(_) => {
                let (first, each) = self.channel_scales();
                first + each * self.blocks()
            }
            None => self.floats() + if self.float { 4 * self.k } else { 0 },
        };
        ((bytes + 63) / 64 * 64) | 64
    }

    /// Writes block `block` of the row at byte `row` of `to`: [`Record::block_features`] features, 16 in each of `x`.
    ///
    /// `d = max|x| / 127`, `q = round(x · 127 / max|x|)`, 0 when all are (nearly) 0. A feature that is no finite number
    /// makes `d` a NaN, and with it whatever reads the block.
    pub(super) fn store_block(&self, b: &mut Build, to: Place, row: Int, block: Int, x: &[Vf]) {
        if self.channel.is_some() {
            self.store_channel(b, to, row, block, x);
            return;
        }
        let (lo, hi) = (x[0], x[1]);
        if self.float {
            let at = b.scale_add(block, 4 * TILE_K as i64, row);
            b.store(Mem::F32, to.at(at, self.floats()), lo);
            b.store(Mem::F32, to.at(at, self.floats() + 64), hi);
        }
        if !self.int8 {
            return;
        }
        let at = b.scale_add(block, self.block_bytes(), row);
        let (d, inverse) = step(b, x);
        let d = none_if_unsound(b, d, x);
        let quantise = |b: &mut Build, x: Vf, offset: i64| {
            let x = b.mul(x, inverse);
            let q = b.round(x);
            b.store_ints(Mem::I8, to.at(at, offset), q);
            b.float(q)
        };
        let (qlo, qhi) = (quantise(b, lo, 0), quantise(b, hi, 16));
        b.store_f32(to.at(at, self.d()), d);
        if self.halves {
            let (slo, shi) = (b.sum_lanes(qlo), b.sum_lanes(qhi));
            store_times(b, to, at, self.halves(), slo, -32);
            store_times(b, to, at, self.halves() + 4, shi, -32);
        }
        if !self.sum && self.zeros.is_empty() {
            return;
        }
        // Whole numbers below 2^24: this sum is exact in any order.
        let both = b.add(qlo, qhi);
        let sum = b.sum_lanes(both);
        if self.sum {
            let s = b.mul(d, sum);
            b.store_f32(to.at(at, self.sum()), s);
        }
        for &z in &self.zeros {
            store_times(b, to, at, self.zero(z), sum, -z);
        }
    }

    /// The same for the class int8 per channel: mixed, then rounded.
    fn store_channel(&self, b: &mut Build, to: Place, row: Int, block: Int, x: &[Vf]) {
        let mut x = x.to_vec();
        let mut half = 1;
        while half < x.len() {
            for first in (0..x.len()).filter(|i| i & half == 0) {
                let (low, high) = (x[first], x[first + half]);
                (x[first], x[first + half]) = (b.add(low, high), b.sub(low, high));
            }
            half *= 2;
        }
        let (d, inverse) = step(b, &x);
        let d = none_if_unsound(b, d, &x);
        let at = b.scale_add(block, self.block_features(), row);
        let mut sum = b.vi(0);
        for (i, x) in x.into_iter().enumerate() {
            let x = b.mul(x, inverse);
            let q = b.round(x);
            b.store_ints(Mem::I8, to.at(at, 16 * i as i64), q);
            sum = b.add(sum, q);
        }
        let (first, each) = self.channel_scales();
        let at = b.scale_add(block, each, row);
        b.store_f32(to.at(at, first), d);
        // Whole numbers below 2^24: this sum is exact in any order.
        let sum = b.float(sum);
        let sum = b.sum_lanes(sum);
        store_times(b, to, at, first + 4, sum, -CHANNEL_ZERO);
    }
}

/// Stores the i32 `whole · factor` for a whole number held in a float.
fn store_times(b: &mut Build, to: Place, at: Int, offset: i64, whole: Flt, factor: i32) {
    let f = b.flt(factor as f32);
    let product = b.mul(whole, f);
    let lanes = b.splat(product);
    let ints = b.round(lanes);
    let bits = b.unbits(ints);
    let first = b.lane(bits, 0);
    b.store_f32(to.at(at, offset), first);
}
