//! Functions of vectors that kernels share: `exp`, `ln` and SiLU.
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
    let n = b.round(scaled);
    let nf = b.float(n);
    let (hi, lo) = (b.vf(-0.693_359_4), b.vf(2.121_944_4e-4));
    let r = b.fma(nf, hi, x);
    let r = b.fma(nf, lo, r);
    let mut p = b.vf(1.987_569_1e-4);
    for c in [1.398_199_9e-3, 8.333_452e-3, 4.166_579_6e-2, 1.666_666_5e-1, 0.5] {
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
    let y = b.unbits(bits);
    let (bottom, zero) = (b.vf(EXP_ZERO_BELOW), b.vf(0.0));
    b.select(Cmp::Lt, x, bottom, zero, y)
}

/// ln x for normal x > 0, within 2 ulp, exactly 0 at 1; +∞ and NaN stay what they are. Cephes' `logf`.
pub(super) fn ln(b: &mut Build, x: Vf) -> Vf {
    let bits = b.bits(x);
    // x = m · 2^e with m from 1/√2 to √2.
    let e = b.shr(bits, 23);
    let bias = b.vi(126);
    let e = b.sub(e, bias);
    let (fraction, half) = (b.vi(0x7F_FFFF), b.vi(0x3F00_0000));
    let m = b.and(bits, fraction);
    let m = b.or(m, half);
    let m = b.unbits(m);
    let (root, none, one) = (b.vf(std::f32::consts::FRAC_1_SQRT_2), b.vf(0.0), b.vf(1.0));
    let twice = b.select(Cmp::Lt, m, root, m, none);
    let below = b.select(Cmp::Lt, m, root, one, none);
    let e = b.float(e);
    let e = b.sub(e, below);
    let r = b.sub(m, one);
    let r = b.add(r, twice);
    let square = b.mul(r, r);
    let mut p = b.vf(7.037_683_6e-2);
    for c in [
        -1.151_461e-1,
        1.167_699_9e-1,
        -1.242_014_1e-1,
        1.424_932_3e-1,
        -1.666_805_8e-1,
        2.000_071_5e-1,
        -2.499_999_4e-1,
        3.333_333e-1,
    ] {
        let c = b.vf(c);
        p = b.fma(p, r, c);
    }
    let cube = b.mul(square, r);
    let y = b.mul(p, cube);
    let (low, high, minus_half) = (b.vf(-2.121_944_4e-4), b.vf(0.693_359_4), b.vf(-0.5));
    let y = b.fma(e, low, y);
    let y = b.fma(square, minus_half, y);
    let y = b.add(r, y);
    let y = b.fma(e, high, y);
    let most = b.vf(f32::INFINITY);
    b.select(Cmp::Lt, x, most, y, x)
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::back::interp::{self, Value};
    use crate::lower::build::{Build, Slot};
    use ir::kernel::Mem;
    use ir::program::{Arg, Buf};

    /// Applies a function of 16 lanes to numbers.
    fn apply(f: fn(&mut Build, Vf) -> Vf, x: &[f32]) -> Vec<f32> {
        let mut b = Build::new("function");
        let from = b.read("x", Slot::Always(Arg::Buf(Buf::Hidden)));
        let to = b.write_buf("y", Buf::Act);
        let padded = x.len().next_multiple_of(16);
        b.for_to(4 * padded as i64, 64, |b, at| {
            let v = b.load(Mem::F32, from.at(at, 0));
            let y = f(b, v);
            b.store(Mem::F32, to.at(at, 0), y);
        });
        let mut bytes: Vec<u8> = x.iter().flat_map(|v| v.to_le_bytes()).collect();
        bytes.resize(4 * padded, 0);
        let mut args = [Value::Buffer(bytes.clone()), Value::Buffer(bytes)];
        interp::run(&b.finish().kernel, &mut args, 1).expect("the kernel runs");
        let Value::Buffer(out) = &args[1] else { panic!("a buffer went in") };
        out.chunks_exact(4).take(x.len()).map(|c| f32::from_le_bytes([c[0], c[1], c[2], c[3]])).collect()
    }

    #[test]
    fn exp_is_within_two_ulp() {
        let x: Vec<f32> = (0..40_000).map(|i| EXP_ZERO_BELOW + i as f32 * 0.0042).filter(|x| *x <= 88.0).collect();
        for (x, y) in x.iter().zip(apply(exp, &x)) {
            let want = f64::from(*x).exp();
            let ulp = f64::from(f32::EPSILON) * 2f64.powf(want.log2().floor());
            assert!((f64::from(y) - want).abs() <= 2.0 * ulp, "exp({x}) = {y}, not {want}");
        }
    }

    #[test]
    fn exp_at_the_edges() {
        let inf = f32::INFINITY;
        let y = apply(exp, &[0.0, -0.0, -inf, -80.1, -1e30, f32::MIN, 1e-40, f32::NAN, 1e30, inf]);
        assert_eq!(&y[..7], &[1.0, 1.0, 0.0, 0.0, 0.0, 0.0, 1.0]);
        assert!(y[7].is_nan() && y[8].is_finite() && y[9].is_finite());
    }

    #[test]
    fn ln_is_within_two_ulp() {
        let x: Vec<f32> = (0..60_000).map(|i| (i as f32 * 0.0028 - 80.0).exp()).collect();
        for (x, y) in x.iter().zip(apply(ln, &x)) {
            let want = f64::from(*x).ln();
            let ulp = f64::from(f32::EPSILON) * 2f64.powf(want.abs().max(1e-30).log2().floor());
            assert!((f64::from(y) - want).abs() <= 2.0 * ulp + 1e-12, "ln({x}) = {y}, not {want}");
        }
        let y = apply(ln, &[1.0, f32::INFINITY, f32::NAN]);
        assert_eq!(&y[..2], &[0.0, f32::INFINITY]);
        assert!(y[2].is_nan());
    }

    #[test]
    fn silu_is_accurate_and_finite() {
        let x: Vec<f32> = (-3000..3000).map(|i| i as f32 * 0.05).collect();
        for (x, y) in x.iter().zip(apply(silu, &x)) {
            let want = f64::from(*x) / (1.0 + (-f64::from(*x)).exp());
            assert!((f64::from(y) - want).abs() <= 1e-6 * want.abs() + 1e-30, "silu({x}) = {y}, not {want}");
        }
    }
}
