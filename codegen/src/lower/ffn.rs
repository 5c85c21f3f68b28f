//! K4: norm, gate and up projections, SiLU, product, and the record that the down projection reads.
//!
//! Takes the residual stream, leaves one activation record per row.

use super::build::{Build, Built, Int, Place, Role, Slot, Vf};
use super::linear::{Matrix, RESULT_BYTES, Resident, Results, Rows, row_blocks, tiles_by_bands};
use super::math::silu;
use super::prologue::{Norm, rows};
use super::record::Record;
use super::{Dims, step_words};
use ir::kernel::Mem;
use ir::program::Buf;

/// The record that gate and up read.
pub(super) fn record(dims: &Dims, gate: Resident, up: Resident) -> Record {
    Record::new(dims.hidden, &[gate, up], dims.blocking.numerics)
}

/// Where gate and up tiles are.
enum Tiles {
    /// One weight, gate and up in turn.
    Interleaved(Matrix),
    /// Two weights.
    Apart(Matrix, Matrix),
}

/// The kernel. A unit is one block of the record `out`.
pub(super) fn kernel(name: &str, dims: &Dims, gate: Resident, up: Resident, interleaved: bool, out: &Record) -> Built {
    let mut b = Build::new(name);
    let step = step_words::rows(&mut b);
    let record = record(dims, gate, up);
    let rows = rows(&mut b, dims, &record, step.rows, |b| Norm::declare(b, false));
    let act = b.write_buf("act", Buf::Act);
    let tiles = if interleaved {
        Tiles::Interleaved(Matrix { place: b.read("gate_up", Slot::Weight(Role::Matrix)), resident: gate })
    } else {
        let gate = Matrix { place: b.read("gate", Slot::Weight(Role::Gate)), resident: gate };
        Tiles::Apart(gate, Matrix { place: b.read("up", Slot::Weight(Role::Up)), resident: up })
    };
    let at_once = dims.blocking.at_once(&record);
    let block = at_once * RESULT_BYTES;
    let tiles_per_unit = out.block_features() / 16;
    let results = b.local("results", 2 * tiles_per_unit * block);
    tiles_by_bands(&mut b, step, out.blocks(), |b, unit, band| {
        row_blocks(b, band, at_once, |b, first, count| {
            products(b, dims, &tiles, rows, (unit, tiles_per_unit), (first, count), results);
            let zero = b.int(0);
            b.for_(zero, count, 1, |b, r| {
                let at = b.mul_const(r, RESULT_BYTES);
                // In the local: gate 0, up 0, gate 1, up 1, ….
                let products: Vec<Vf> = (0..tiles_per_unit)
                    .map(|i| {
                        let gate = b.load(Mem::F32, results.at(at, 2 * i * block));
                        let up = b.load(Mem::F32, results.at(at, (2 * i + 1) * block));
                        let gate = silu(b, gate);
                        b.mul(gate, up)
                    })
                    .collect();
                let row = b.add(first, r);
                let to = b.mul_const(row, out.stride());
                out.store_block(b, act, to, unit, &products);
            });
        });
    });
    b.finish()
}

fn products(
    b: &mut Build,
    dims: &Dims,
    tiles: &Tiles,
    rows: Rows<'_>,
    (unit, tiles_per_unit): (Int, i64),
    (first, count): (Int, Int),
    results: Place,
) {
    let block = dims.blocking.at_once(rows.record) * RESULT_BYTES;
    let some = |b: &mut Build, m: &Matrix, matrices: i64, start: i64| {
        b.for_to(matrices * tiles_per_unit, 1, |b, c| {
            let tile = b.scale_add(unit, matrices * tiles_per_unit, c);
            let tile = b.mul_const(tile, m.tile_bytes(dims.hidden));
            let offset = b.mul_const(c, 2 / matrices * block);
            let offset = b.add_const(offset, start);
            m.times(b, dims.blocking, tile, rows, first, count, Results { place: results, offset });
        });
    };
    match tiles {
        Tiles::Interleaved(m) => some(b, m, 2, 0),
        Tiles::Apart(gate, up) => {
            some(b, gate, 1, 0);
            some(b, up, 1, block);
        }
    }
}
