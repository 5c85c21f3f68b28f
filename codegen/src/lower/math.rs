//! Functions of vectors that kernels share: `exp` and SiLU.
//!
//! Take and return registers of 16 lanes. Every kernel that needs one of them uses these, so a value is computed by the
//! same operations wherever it is computed. They do not aim at range beyond what softmax, SiLU and statistics need.

use super::build::{Build, Vf};
use ir::kernel::Cmp;

/// Inputs below this give exactly 0: e⁻⁸⁰ is 10⁻³⁵, far below what a sum that contains 1 can hold, and products with
/// f16 values stay normal, so no −0 appears by underflow.
pub(super) const EXP_ZERO_BELOW: f32 = -80.0;

/// e^x for x ≤ 88 (larger values are taken as 88), within 2 ulp; exactly 0 below [`EXP_ZERO_BELOW`] and at −∞, exactly
/// 1 at 0; NaN stays NaN. Range reduction by ln 2 in two parts, then the polynomial of Cephes' `expf`.
pub(super) fn exp(b: &mut Build, x: Vf) -> Vf {
    let top = b.vf(88.0);
    let x = b.min(top, x);
    let log2e = b.vf(std::f32::consts::LOG2_E);
    let scaled = b.mul(x, log2e);
    let n = b.to_int(scaled);
    let nf = b.to_float(n);
    let (hi, lo) = (b.vf(-0.693_359_4), b.vf(2.121_944_4e-4));
    let r = b.fma(nf, hi, x);
    let r = b.fma(nf, lo, r);
    let mut p = b.vf(1.987_569_1e-4);
    for c in [1.398_199_9e-3, 8.333_452e-3, 4.166_579_6e-2, 1.666_666_5e-1, 5.000_000_1e-1] {
        let c = b.vf(c);
        p = b.fma(p, r, c);
    }
    let square = b.mul(r, r);
    let y = b.fma(p, square, r);
    let one = b.vf(1.0);
    let y = b.add(y, one);
    // 2^n by adding n to the exponent: |n| ≤ 127 and y is near 1, so the sum stays a normal number.
    let (bits, shift) = (b.bits(y), b.shl(n, 23));
    let bits = b.add(bits, shift);
    let y = b.from_bits(bits);
    let (bottom, zero) = (b.vf(EXP_ZERO_BELOW), b.vf(0.0));
    b.select(Cmp::Lt, x, bottom, zero, y)
}

/// x / (1 + e⁻ˣ).
pub(super) fn silu(b: &mut Build, x: Vf) -> Vf {
    let zero = b.vf(0.0);
    let minus = b.sub(zero, x);
    let e = exp(b, minus);
    let one = b.vf(1.0);
    let below = b.add(e, one);
    b.div(x, below)
}
