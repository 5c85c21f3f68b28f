//! The product of the class int8 per channel: rows rounded block by block times a tile with one scale per output.
//!
//! Takes what [`super::linear`] takes; returns the sums. Per block of features that share an activation's scale, one
//! chain (or several, when rows are few) of `Dot4` per row from `−128·Σq`, which makes the integer exact, however it is
//! divided; then one conversion, fused into the output with the row's scale. The weights' scales come once, at the end.

use super::build::{Build, Int, Vf, Vi};
use super::linear::Product;
use ir::kernel::Mem;
use ir::tensor::channel_weight_bytes;

/// Integer dot products that must be under way at once, so that none waits for the one before it.
const UNDER_WAY: i64 = 4;
/// Bytes of the weights of 4 features.
const GROUP_BYTES: i64 = 64;

impl Product<'_> {
    /// `scale · Σ_blocks d·(Σ w·q − 128·Σq)` for every row, blocks in order.
    pub(super) fn channel(&self, b: &mut Build, start: Int) -> Vec<Vf> {
        let record = self.rows.record;
        let block = record.block_features();
        let (first_scale, each) = record.channel_scales();
        let zero = b.vf(0.0);
        let none = b.vi(0);
        let sums: Vec<_> = (0..self.r).map(|_| b.var(zero)).collect();
        let chains = (UNDER_WAY / self.r).max(1) as usize;
        let w = b.var(self.tile);
        let s = b.var(start);
        let end = b.add_const(start, record.k());
        b.for_(start, end, block, |b, a| {
            let (weights, scales) = (w.now(), s.now());
            let mut dots: Vec<Vec<Vi>> = Vec::with_capacity(sums.len());
            for r in 0..self.r {
                let at = r * record.stride() + first_scale;
                let from = b.load_splat(self.rows.place.at(scales, at + 4));
                let from = b.bits(from);
                dots.push((0..chains).map(|c| if c == 0 { from } else { none }).collect());
            }
            for group in 0..block / 4 {
                self.ask(b, weights, group * GROUP_BYTES);
                let u = b.load_bytes(self.weights.at(weights, group * GROUP_BYTES));
                for (r, dots) in dots.iter_mut().enumerate() {
                    let q = b.load_bytes4(self.rows.place.at(a, r as i64 * record.stride() + 4 * group));
                    let dot = &mut dots[group as usize % chains];
                    *dot = b.dot4(*dot, u, q);
                }
            }
            for (r, (dots, &sum)) in dots.into_iter().zip(&sums).enumerate() {
                let dot = dots.into_iter().reduce(|x, y| b.add(x, y)).expect("at least one chain");
                let dot = b.float(dot);
                let d = b.load_splat(self.rows.place.at(scales, r as i64 * record.stride() + first_scale));
                let next = b.fma(dot, d, sum.now());
                b.set(sum, next);
            }
            let next = b.add_const(weights, block * 16);
            b.set(w, next);
            let next = b.add_const(scales, each);
            b.set(s, next);
        });
        let scale = self.output_scales(b);
        sums.into_iter().map(|sum| b.mul(sum.now(), scale)).collect()
    }

    /// The scales of the tile's outputs, behind its weights.
    pub(super) fn output_scales(&self, b: &mut Build) -> Vf {
        let scales = channel_weight_bytes(self.rows.record.k().unsigned_abs() as usize) as i64;
        b.load(Mem::F32, self.weights.at(self.tile, scales))
    }
}
