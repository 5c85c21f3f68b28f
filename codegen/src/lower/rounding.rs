//! What turns floats into signed bytes with a common step, and what keeps numbers that are none from getting lost in it.
//!
//! Takes registers of 16 lanes that share a step. Activations, queries, keys and values are all rounded by these, so a value
//! is rounded by the same operations wherever it is.

use super::build::{Build, Flt, Vf};
use ir::kernel::Cmp;

/// Largest f16: what is kept finite is kept within it, so that it stays finite when it is stored.
pub(super) const F16_MAX: f32 = 65504.0;
/// Values whose largest magnitude is below this are taken as 0, before the inverse of their step overflows.
pub(super) const ZERO_BELOW: f32 = 1e-30;

/// The step `max|x| / 127`, and `127 / max|x|` in all lanes: 0 when all are nearly 0. Either may miss an `x` that is no
/// number; see [`none_if_unsound`].
pub(super) fn step(b: &mut Build, x: &[Vf]) -> (Flt, Vf) {
    let mut most = b.abs(x[0]);
    for &x in &x[1..] {
        let x = b.abs(x);
        most = b.max(most, x);
    }
    let most = b.max_lanes(most);
    let (zero, top, least) = (b.flt(0.0), b.flt(127.0), b.flt(ZERO_BELOW));
    let step = b.div(most, top);
    let inverse = b.div(top, most);
    let inverse = b.select(Cmp::Lt, most, least, zero, inverse);
    (step, b.splat(inverse))
}

/// `step`, or no number where one of the values is none or not finite (`0 · Σx`), so that no product with it is one: a
/// maximum would lose it, and an integer has no place for it.
pub(super) fn none_if_unsound(b: &mut Build, step: Flt, x: &[Vf]) -> Flt {
    let (zero, mut sum) = (b.flt(0.0), x[0]);
    for &x in &x[1..] {
        sum = b.add(sum, x);
    }
    let sum = b.sum_lanes(sum);
    let nothing = b.mul(sum, zero);
    b.add(step, nothing)
}
