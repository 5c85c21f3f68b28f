//! K1: norm, query, key and value projections, biases, rope, and the append to the KV cache.
//!
//! Takes the residual stream, leaves scaled queries and the new keys and values at their final places.

use super::build::{Build, Built, Int, Place, Role, Slot, Vf};
use super::linear::{Matrix, RESULT_BYTES, Results, Rows, row_blocks};
use super::prologue::{Norm, rows};
use super::record::Record;
use super::{Dims, row_words, step_words};
use ir::kernel::{Mem, Split};
use ir::program::{Buf, PAGE};
use ir::tensor::DType;

/// Bytes of a KV element (f16).
const KV_BYTES: i64 = 2;

/// Largest f16. Values are kept finite because a masked key weighs them with 0, and 0 · ∞ would reach a neighbour.
const F16_MAX: f32 = 65504.0;

/// Where a projection's outputs go.
#[derive(Clone, Copy)]
enum Target {
    Query(Place),
    Key(Place),
    Value(Place),
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
    n: Int,
    table: Place,
    rope: Place,
    results: Place,
}

/// The record that the projections of these types read.
pub(super) fn record(dims: &Dims, types: &[DType; 3]) -> Record {
    Record::new(dims.hidden, types, dims.blocking.numerics)
}

/// The kernel. A unit is 32 outputs of one head, dimensions `16t..` of both halves, so that rope stays in registers.
pub(super) fn kernel(name: &str, dims: &Dims, types: &[DType; 3], biased: bool) -> Built {
    let mut b = Build::new(name);
    let n = step_words::load(&mut b, step_words::ROWS);
    let record = record(dims, types);
    let rows = rows(&mut b, dims, &record, n, |b| Norm::declare(b, false));
    let table = b.read_buf("rows", Buf::Rows);
    let rope = b.read_buf("rope", Buf::Rope);
    let targets = [
        Target::Query(b.write_buf("query", Buf::Query)),
        Target::Key(b.write("keys", Slot::Keys)),
        Target::Value(b.write("values", Slot::Values)),
    ];
    let roles = [
        ("q", Role::Query, "q_bias", Role::QueryBias),
        ("k", Role::Key, "k_bias", Role::KeyBias),
        ("v", Role::Value, "v_bias", Role::ValueBias),
    ];
    let mut projections = Vec::with_capacity(3);
    for ((target, (name, role, bias_name, bias_role)), &dtype) in targets.into_iter().zip(roles).zip(types) {
        let matrix = Matrix { place: b.read(name, Slot::Weight(role)), dtype };
        let bias = biased.then(|| b.read(bias_name, Slot::Weight(bias_role)));
        projections.push(Projection { matrix, bias, target });
    }
    let results = b.local("results", 2 * dims.blocking.rows * RESULT_BYTES);
    let shared = Shared { dims, rows, n, table, rope, results };
    let (queries, kvs) = (dims.heads * dims.pairs(), dims.kv_heads * dims.pairs());
    let units = b.int(queries + 2 * kvs);
    b.par_for(units, Split::Blocked, |b, unit| {
        let end = b.int(queries);
        let is_query = b.lt(unit, end);
        b.if_else(
            is_query,
            |b| shared.unit(b, &projections[0], unit),
            |b| {
                let unit = b.add_const(unit, -queries);
                let end = b.int(kvs);
                let is_key = b.lt(unit, end);
                b.if_else(
                    is_key,
                    |b| shared.unit(b, &projections[1], unit),
                    |b| {
                        let unit = b.add_const(unit, -kvs);
                        shared.unit(b, &projections[2], unit);
                    },
                );
            },
        );
    });
    b.finish()
}

impl Shared<'_> {
    /// Outputs `16t..16t + 16` and `d/2 + 16t..` of a head, for all rows.
    fn unit(&self, b: &mut Build, p: &Projection, unit: Int) {
        let dims = self.dims;
        let pairs = dims.pairs();
        let half = dims.blocking.rows * RESULT_BYTES;
        let (head, t) = b.div_rem(unit, pairs);
        let first_tile = b.scale_add(head, 2 * pairs, t);
        row_blocks(b, self.n, dims.blocking.rows, |b, first, count| {
            b.for_to(2, 1, |b, c| {
                let tile = b.scale_add(c, pairs, first_tile);
                let tile = b.mul_const(tile, p.matrix.tile_bytes(dims.hidden));
                let offset = b.mul_const(c, half);
                let to = Results { place: self.results, offset };
                p.matrix.times(b, dims.blocking, tile, self.rows, first, count, to);
            });
            let zero = b.int(0);
            b.for_(zero, count, 1, |b, r| {
                let at = b.mul_const(r, RESULT_BYTES);
                let mut lo = b.load(Mem::F32, self.results.at(at, 0));
                let mut hi = b.load(Mem::F32, self.results.at(at, half));
                if let Some(bias) = p.bias {
                    let at = b.mul_const(first_tile, 64);
                    let (blo, bhi) = (b.load(Mem::F32, bias.at(at, 0)), b.load(Mem::F32, bias.at(at, 64 * pairs)));
                    lo = b.add(lo, blo);
                    hi = b.add(hi, bhi);
                }
                let row = b.add(first, r);
                self.finish(b, p.target, row, (head, t), [lo, hi]);
            });
        });
    }

    /// Rope for queries and keys, then the store.
    fn finish(&self, b: &mut Build, target: Target, row: Int, (head, t): (Int, Int), halves: [Vf; 2]) {
        let dims = self.dims;
        let d = dims.head_dim;
        let entry = b.mul_const(row, row_words::BYTES);
        let slot = b.load_i64(self.table.at(entry, row_words::SLOT));
        let page = b.sar(slot, PAGE.trailing_zeros());
        let in_page = b.int(PAGE as i64 - 1);
        let in_page = b.and(slot, in_page);
        let kv = b.mul_const(page, dims.block_bytes());
        let kv = b.scale_add(head, dims.head_stride(), kv);
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
                let stride = PAGE as i64 * KV_BYTES;
                let at = b.scale_add(t, 16 * stride, kv);
                let at = b.scale_add(in_page, KV_BYTES, at);
                b.store_strided(Mem::F16, keys.at(at, 0), stride, lo);
                b.store_strided(Mem::F16, keys.at(at, d / 2 * stride), stride, hi);
            }
            Target::Value(values) => {
                let at = b.scale_add(in_page, d * KV_BYTES, kv);
                let at = b.scale_add(t, 16 * KV_BYTES, at);
                for (x, offset) in halves.into_iter().zip([0, d / 2 * KV_BYTES]) {
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
