//! K1: norm, query, key and value projections, biases, rope, and the append to the KV cache.
//!
//! Takes the residual stream, leaves scaled queries and the new keys and values at their final places; for a cache of int8
//! it leaves them in f32, because a scale needs a whole head, and [`super::append`] rounds them.

use super::build::{Build, Built, Int, Place, Role, Slot, Vf};
use super::linear::{Matrix, RESULT_BYTES, Resident, Results, Rows, row_blocks, tiles_by_bands};
use super::prologue::{Norm, rows};
use super::record::Record;
use super::rounding::F16_MAX;
use super::{Dims, row_words, step_words};
use ir::kernel::{Cache, Mem};
use ir::program::{Buf, PAGE};
use ir::schedule::KvFormat;

/// Bytes of a KV element (f16).
const KV_BYTES: i64 = 2;
/// Bytes from one dimension of a key to the next.
const KEY_STRIDE: i64 = PAGE as i64 * KV_BYTES;

/// Where a projection's outputs go.
#[derive(Clone, Copy)]
enum Target {
    Query(Place),
    Key(Place),
    Value(Place),
    /// Keys in f32.
    FreshKey(Place),
    /// Values in f32.
    FreshValue(Place),
}

/// One of the three projections.
struct Projection {
    matrix: Matrix,
    bias: Option<Place>,
    target: Target,
}

/// What the units of all projections share.
struct Shared<'a> {
    dims: &'a Dims,
    rows: Rows<'a>,
    table: Place,
    rope: Place,
    results: Place,
}

/// The record that projections of these kinds read.
pub(super) fn record(dims: &Dims, kinds: &[Resident; 3]) -> Record {
    Record::new(dims.hidden, kinds, dims.blocking.numerics)
}

/// The kernel. A unit is two tiles, 32 outputs of one head; where rope turns them, in pairs, so that it stays in registers.
pub(super) fn kernel(name: &str, dims: &Dims, kinds: &[Resident; 3], biased: bool) -> Built {
    let mut b = Build::new(name);
    let step = step_words::rows(&mut b);
    let record = record(dims, kinds);
    let rows = rows(&mut b, dims, &record, step.rows, |b| Norm::declare(b, false));
    let table = b.read_buf("rows", Buf::Rows);
    let rope = b.read_buf("rope", Buf::Rope);
    let query = Target::Query(b.write_buf("query", Buf::Query));
    let targets = match dims.kv {
        KvFormat::F16 => {
            [query, Target::Key(b.write("keys", Slot::Keys)), Target::Value(b.write("values", Slot::Values))]
        }
        KvFormat::Int8 => {
            let fresh = b.write_buf("fresh", Buf::Fresh);
            [query, Target::FreshKey(fresh), Target::FreshValue(fresh)]
        }
    };
    let roles = [
        ("q", Role::Query, "q_bias", Role::QueryBias),
        ("k", Role::Key, "k_bias", Role::KeyBias),
        ("v", Role::Value, "v_bias", Role::ValueBias),
    ];
    let mut projections = Vec::with_capacity(3);
    for ((target, (name, role, bias_name, bias_role)), &resident) in targets.into_iter().zip(roles).zip(kinds) {
        let matrix = Matrix { place: b.read(name, Slot::Weight(role)), resident };
        let bias = biased.then(|| b.read(bias_name, Slot::Weight(bias_role)));
        projections.push(Projection { matrix, bias, target });
    }
    let results = b.local("results", 2 * dims.blocking.at_once(&record) * RESULT_BYTES);
    let shared = Shared { dims, rows, table, rope, results };
    let (queries, kvs) = (dims.heads * dims.pairs(), dims.kv_heads * dims.pairs());
    tiles_by_bands(&mut b, step, queries + 2 * kvs, |b, unit, band| {
        let end = b.int(queries);
        let is_query = b.lt(unit, end);
        b.if_else(
            is_query,
            |b| shared.unit(b, &projections[0], unit, band),
            |b| {
                let unit = b.add_const(unit, -queries);
                let end = b.int(kvs);
                let is_key = b.lt(unit, end);
                b.if_else(
                    is_key,
                    |b| shared.unit(b, &projections[1], unit, band),
                    |b| {
                        let unit = b.add_const(unit, -kvs);
                        shared.unit(b, &projections[2], unit, band);
                    },
                );
            },
        );
    });
    b.finish()
}

impl Shared<'_> {
    /// A pair of neighbouring tiles for a band of rows: of queries and keys, outputs `16t..16t + 16` and `d/2 + 16t..` of a
    /// head; of values `32t..32t + 32`. Units in order read the matrix in order: weights are one stream.
    fn unit(&self, b: &mut Build, p: &Projection, unit: Int, band: (Int, Int)) {
        let dims = self.dims;
        let half = dims.blocking.at_once(self.rows.record) * RESULT_BYTES;
        let (head, t) = b.div_rem(unit, dims.pairs());
        row_blocks(b, band, dims.blocking.at_once(self.rows.record), |b, first, count| {
            let zero = b.int(0);
            b.for_(zero, count, 1, |b, r| {
                let row = b.add(first, r);
                self.ask(b, p.target, row, (head, t));
            });
            b.for_to(2, 1, |b, c| {
                let tile = b.scale_add(unit, 2, c);
                let tile = b.mul_const(tile, p.matrix.tile_bytes(dims.hidden));
                let offset = b.mul_const(c, half);
                let to = Results { place: self.results, offset };
                p.matrix.times(b, dims.blocking, tile, self.rows, first, count, to);
            });
            b.for_(zero, count, 1, |b, r| {
                let at = b.mul_const(r, RESULT_BYTES);
                let mut lo = b.load(Mem::F32, self.results.at(at, 0));
                let mut hi = b.load(Mem::F32, self.results.at(at, half));
                if let Some(bias) = p.bias {
                    let at = b.mul_const(unit, 128);
                    let (blo, bhi) = (b.load(Mem::F32, bias.at(at, 0)), b.load(Mem::F32, bias.at(at, 64)));
                    lo = b.add(lo, blo);
                    hi = b.add(hi, bhi);
                }
                let row = b.add(first, r);
                self.finish(b, p.target, row, (head, t), [lo, hi]);
            });
        });
    }

    /// Byte offset in the cache: `first` bytes into a head's block, and `slot` bytes per slot of the row's page.
    fn place(&self, b: &mut Build, row: Int, head: Int, slot: i64, first: Int) -> Int {
        let dims = self.dims;
        let entry = b.mul_const(row, row_words::BYTES);
        let number = b.load_i64(self.table.at(entry, row_words::SLOT));
        let page = b.sar(number, PAGE.trailing_zeros());
        let in_page = b.int(PAGE as i64 - 1);
        let in_page = b.and(number, in_page);
        let at = b.mul_const(page, dims.block_bytes());
        let at = b.scale_add(head, dims.head_stride(), at);
        let at = b.scale_add(in_page, slot, at);
        b.add(at, first)
    }

    /// Where a unit's key goes: dimension `16t`, and `d/2` further on.
    fn key_place(&self, b: &mut Build, row: Int, (head, t): (Int, Int)) -> Int {
        let first = b.mul_const(t, 16 * KEY_STRIDE);
        self.place(b, row, head, KV_BYTES, first)
    }

    /// Where a unit's value goes: dimensions `32t..32t + 32`.
    fn value_place(&self, b: &mut Build, row: Int, (head, t): (Int, Int)) -> Int {
        let first = b.mul_const(t, 32 * KV_BYTES);
        self.place(b, row, head, self.dims.head_dim * KV_BYTES, first)
    }

    /// Asks early for the lines that a unit will write: a key is scattered over many, and stores that miss block.
    fn ask(&self, b: &mut Build, target: Target, row: Int, unit: (Int, Int)) {
        match target {
            Target::Query(_) | Target::FreshKey(_) | Target::FreshValue(_) => (),
            Target::Key(keys) => {
                let at = self.key_place(b, row, unit);
                let half = self.dims.head_dim / 2 * KEY_STRIDE;
                for line in (0..16 * KEY_STRIDE).step_by(64).flat_map(|line| [line, half + line]) {
                    b.prefetch(keys.at(at, line), Cache::Second);
                }
            }
            Target::Value(values) => {
                let at = self.value_place(b, row, unit);
                b.prefetch(values.at(at, 0), Cache::Second);
            }
        }
    }

    /// Rope for queries and keys, then the store.
    fn finish(&self, b: &mut Build, target: Target, row: Int, (head, t): (Int, Int), halves: [Vf; 2]) {
        let dims = self.dims;
        let d = dims.head_dim;
        let entry = b.mul_const(row, row_words::BYTES);
        match target {
            Target::Query(query) => {
                let [lo, hi] = self.turn(b, entry, t, halves);
                let scale = b.vf(dims.query_scale());
                let (lo, hi) = (b.mul(lo, scale), b.mul(hi, scale));
                let at = b.mul_const(row, dims.query_bytes());
                let at = b.scale_add(head, 4 * d, at);
                let at = b.scale_add(t, 64, at);
                b.store(Mem::F32, query.at(at, 0), lo);
                b.store(Mem::F32, query.at(at, 2 * d), hi);
            }
            Target::Key(keys) => {
                let [lo, hi] = self.turn(b, entry, t, halves);
                let at = self.key_place(b, row, (head, t));
                b.store_strided(Mem::F16, keys.at(at, 0), KEY_STRIDE, lo);
                b.store_strided(Mem::F16, keys.at(at, d / 2 * KEY_STRIDE), KEY_STRIDE, hi);
            }
            Target::FreshKey(fresh) => {
                let [lo, hi] = self.turn(b, entry, t, halves);
                let at = b.mul_const(row, dims.fresh_bytes());
                let at = b.scale_add(head, 4 * d, at);
                let at = b.scale_add(t, 64, at);
                b.store(Mem::F32, fresh.at(at, 0), lo);
                b.store(Mem::F32, fresh.at(at, 2 * d), hi);
            }
            Target::FreshValue(fresh) => {
                let at = b.mul_const(row, dims.fresh_bytes());
                let at = b.scale_add(head, 4 * d, at);
                let at = b.scale_add(t, 128, at);
                let [lo, hi] = halves;
                b.store(Mem::F32, fresh.at(at, dims.fresh_bytes() / 2), lo);
                b.store(Mem::F32, fresh.at(at, dims.fresh_bytes() / 2 + 64), hi);
            }
            Target::Value(values) => {
                let at = self.value_place(b, row, (head, t));
                for (x, offset) in halves.into_iter().zip([0, 16 * KV_BYTES]) {
                    // A masked key weighs its values with 0, and 0 · ∞ would reach a neighbour.
                    let (least, most) = (b.vf(-F16_MAX), b.vf(F16_MAX));
                    let x = b.max(x, least);
                    let x = b.min(x, most);
                    b.store(Mem::F16, values.at(at, offset), x);
                }
            }
        }
    }

    /// `(lo·cos − hi·sin, hi·cos + lo·sin)` at the row's position.
    fn turn(&self, b: &mut Build, entry: Int, t: Int, [lo, hi]: [Vf; 2]) -> [Vf; 2] {
        let d = self.dims.head_dim;
        let position = b.load_i64(self.table.at(entry, row_words::POSITION));
        let at = b.mul_const(position, 4 * d);
        let at = b.scale_add(t, 64, at);
        let (cos, sin) = (b.load(Mem::F32, self.rope.at(at, 0)), b.load(Mem::F32, self.rope.at(at, 2 * d)));
        let (lo_cos, lo_sin) = (b.mul(lo, cos), b.mul(lo, sin));
        let zero = b.vf(0.0);
        let minus = b.sub(zero, hi);
        [b.fma(minus, sin, lo_cos), b.fma(hi, cos, lo_sin)]
    }
}
