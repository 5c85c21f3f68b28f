//! The product of the class int8 per channel through tiles: 16 or 32 rows at a time.
//!
//! Takes what [`super::channel`] takes and leaves the same bits: the sums of a block are whole numbers, in whatever order they
//! are made, and what follows them is done in the same order. 64 features are one row of a tile of activations (16 rows of a
//! record) and one tile of weights (16 groups of four features of 16 outputs). Whole tiles of rows are taken: rows past the
//! last are read and their results are not, so records lie in buffers with [`SPARE_ROWS`] more.

use super::build::{Build, Int, Matmul, Place};
use super::linear::{Product, RESULT_BYTES, Results};
use ir::kernel::{Mem, Tile};
use ir::tensor::CHANNEL_K;

/// Rows of a tile of activations.
pub(super) const TILE_ROWS: i64 = ir::kernel::TILE_ROWS as i64;
/// Most rows at a time: two tiles that share a tile of weights.
pub(super) const MOST_ROWS: i64 = 2 * TILE_ROWS;
/// Rows behind the last one that are read.
pub(super) const SPARE_ROWS: i64 = TILE_ROWS - 1;
/// Outputs of a tile of weights.
const OUTPUTS: i64 = 16;
/// Bytes of a tile.
const TILE_BYTES: i64 = 1024;
/// Blocks whose sums wait in memory for their scales: few enough for the first cache.
const CHUNK: i64 = 8;
/// Tiles: sums from 0, activations from 2, weights.
const ACTIVATIONS: u8 = 2;
const WEIGHTS: Tile = Tile(4);

/// Memory for the sums of the blocks of a chunk.
pub(super) fn declare(b: &mut Build) -> Place {
    b.shared_local("tile_sums", CHUNK * 2 * TILE_BYTES)
}

impl Product<'_> {
    /// The results of `self.r` rows, 16 or 32, the first at byte `start`; `sums` is what [`declare`] made.
    pub(super) fn through_tiles(&self, b: &mut Build, start: Int, sums: Place, to: Results) {
        let record = self.rows.record;
        let zero = b.vf(0.0);
        for r in 0..self.r {
            b.store(Mem::F32, to.place.at(to.offset, r * RESULT_BYTES), zero);
        }
        let blocks = b.int(record.blocks());
        let none = b.int(0);
        b.for_(none, blocks, CHUNK, |b, first| {
            let left = b.sub(blocks, first);
            let most = b.int(CHUNK);
            let count = b.min(left, most);
            b.for_(none, count, 1, |b, i| {
                let block = b.add(first, i);
                self.block_sums(b, start, block, i, sums);
            });
            self.add_blocks(b, start, (first, count), sums, to);
        });
        let scale = self.output_scales(b);
        for r in 0..self.r {
            let at = to.place.at(to.offset, r * RESULT_BYTES);
            let sum = b.load(Mem::F32, at);
            let sum = b.mul(sum, scale);
            b.store(Mem::F32, at, sum);
        }
    }

    /// `Σ w·q` of one block for all rows, to place `i` of the chunk.
    fn block_sums(&self, b: &mut Build, start: Int, block: Int, i: Int, sums: Place) {
        let (stride, features) = (self.rows.record.stride(), self.rows.record.block_features());
        let tiles = 0..self.r / TILE_ROWS;
        let w = b.scale_add(block, features * OUTPUTS, self.tile);
        let q = b.scale_add(block, features, start);
        for t in tiles.clone() {
            b.tile_zero(Tile(t as u8));
        }
        for first in (0..features).step_by(CHANNEL_K) {
            let from = first * OUTPUTS;
            for line in (from..from + TILE_BYTES).step_by(64) {
                self.ask(b, w, line);
            }
            b.tile_load(WEIGHTS, self.weights.at(w, from), 64);
            for t in tiles.clone() {
                let (sum, activations) = (Tile(t as u8), Tile(ACTIVATIONS + t as u8));
                b.tile_load(activations, self.rows.place.at(q, t * TILE_ROWS * stride + first), stride);
                b.tile_dot(Matmul { sum, signed: activations, unsigned: WEIGHTS });
            }
        }
        let out = b.mul_const(i, 2 * TILE_BYTES);
        for t in tiles {
            b.tile_store(sums.at(out, t * TILE_BYTES), 64, Tile(t as u8));
        }
    }

    /// `result += d·(Σ w·q − 128·Σq)` of the blocks of a chunk, in order, for every row.
    fn add_blocks(&self, b: &mut Build, start: Int, (first, count): (Int, Int), sums: Place, to: Results) {
        let record = self.rows.record;
        let (first_scale, each) = record.channel_scales();
        let none = b.int(0);
        b.for_to(self.r, 1, |b, r| {
            let row = b.scale_add(r, record.stride(), start);
            let scales = b.scale_add(first, each, row);
            let ints = b.mul_const(r, RESULT_BYTES);
            let result = b.add(ints, to.offset);
            let sum = b.load(Mem::F32, to.place.at(result, 0));
            let sum = b.var(sum);
            b.for_(none, count, 1, |b, i| {
                let scale = b.scale_add(i, each, scales);
                let at = b.scale_add(i, 2 * TILE_BYTES, ints);
                let dot = b.load_ints(Mem::I32, sums.at(at, 0));
                let from = b.load_splat(self.rows.place.at(scale, first_scale + 4));
                let from = b.bits(from);
                let dot = b.add(dot, from);
                let dot = b.float(dot);
                let d = b.load_splat(self.rows.place.at(scale, first_scale));
                let next = b.fma(dot, d, sum.now());
                b.set(sum, next);
            });
            b.store(Mem::F32, to.place.at(result, 0), sum.now());
        });
    }
}
