//! K3 and K5: projections that add to the residual stream.
//!
//! K3 folds attention partials into records and multiplies by the output matrix, K5 multiplies the records that gate and
//! up left by the down matrix. A unit is one tile: 16 features of the residual stream.

use super::Dims;
use super::build::{Build, Built, Place, Role, Slot};
use super::linear::{Matrix, RESULT_BYTES, Resident, Results, Rows, row_blocks, tiles_by_bands};
use super::prologue::{Attended, rows};
use super::record::Record;
use super::step_words::{self, RowsOfStep};
use ir::kernel::Mem;
use ir::program::Buf;

/// The record that the output projection reads.
pub(super) fn record(dims: &Dims, resident: Resident) -> Record {
    Record::new(dims.heads * dims.head_dim, &[resident], dims.blocking.numerics)
}

/// The record that the down projection reads.
pub(super) fn down_record(dims: &Dims, resident: Resident) -> Record {
    Record::new(dims.ffn, &[resident], dims.blocking.numerics)
}

/// K3.
pub(super) fn out(name: &str, dims: &Dims, resident: Resident) -> Built {
    let mut b = Build::new(name);
    let step = step_words::rows(&mut b);
    let record = record(dims, resident);
    let rows = rows(&mut b, dims, &record, step.rows, Attended::declare);
    add_product(b, dims, resident, rows, step)
}

/// K5.
pub(super) fn down(name: &str, dims: &Dims, resident: Resident) -> Built {
    let mut b = Build::new(name);
    let step = step_words::rows(&mut b);
    let record = down_record(dims, resident);
    let place = b.read_buf("act", Buf::Act);
    let base = b.int(0);
    add_product(b, dims, resident, Rows { place, base, record: &record }, step)
}

fn add_product(mut b: Build, dims: &Dims, resident: Resident, rows: Rows<'_>, step: RowsOfStep) -> Built {
    let matrix = Matrix { place: b.read("weight", Slot::Weight(Role::Matrix)), resident };
    let hidden: Place = b.write_buf("hidden", Buf::Hidden);
    let results = b.local("results", dims.blocking.at_once(rows.record) * RESULT_BYTES);
    tiles_by_bands(&mut b, step, dims.hidden / 16, |b, unit, band| {
        let tile = b.mul_const(unit, matrix.tile_bytes(rows.record.k()));
        row_blocks(b, band, dims.blocking.at_once(rows.record), |b, first, count| {
            let zero = b.int(0);
            matrix.times(b, dims.blocking, tile, rows, first, count, Results { place: results, offset: zero });
            b.for_(zero, count, 1, |b, r| {
                let row = b.add(first, r);
                let at = b.mul_const(row, 4 * dims.hidden);
                let at = b.scale_add(unit, 64, at);
                let from = b.mul_const(r, RESULT_BYTES);
                let x = b.load(Mem::F32, results.at(from, 0));
                let h = b.load(Mem::F32, hidden.at(at, 0));
                let h = b.add(h, x);
                b.store(Mem::F32, hidden.at(at, 0), h);
            });
        });
    });
    b.finish()
}
