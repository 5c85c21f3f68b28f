//! How a token is chosen: the request, its random number, and what the distribution of a row says.
//!
//! Choosing itself is done by the model (`model::LanguageModel::choose`), by compiled kernels where there are weights. The
//! order is: mask, temperature, then top-k, then top-p over what top-k left, then min-p against the most probable token;
//! of equal logits the lower token counts as the more probable one. Draws are exact for the resulting distribution up to
//! the rounding of f32 exponentials. Randomness is a pure function of a [`Key`], so a token does not depend on what else
//! is in the batch. Log-probabilities are those of the model's own distribution: before mask, temperature and filters.
//! Nothing here knows sequences, prompts or stopping.

use crate::device::cpu::widest;
use crate::model::Row;
use std::cmp::Ordering;

/// How to choose a token.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Sampling {
    /// Temperature; 0 (or below) takes the most probable token, the lowest of equals.
    pub temperature: f32,
    /// Keep the `k` most probable tokens; 0: all.
    pub top_k: u32,
    /// Keep the fewest most probable tokens that hold this much probability; 1 (or above): all.
    pub top_p: f32,
    /// Keep tokens with at least this share of the highest probability; 0: all.
    pub min_p: f32,
}

impl Default for Sampling {
    /// The model's distribution as it is.
    fn default() -> Self {
        Self { temperature: 1.0, top_k: 0, top_p: 1.0, min_p: 0.0 }
    }
}

/// Where in a run a random number is drawn. Equal keys give equal numbers, different keys independent ones.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Key {
    /// The run's seed.
    pub seed: u64,
    /// The site's stream.
    pub stream: u32,
    /// Index of the sequence in its site.
    pub sequence: u32,
    /// Position of the token in its sequence.
    pub position: u32,
    /// Which draw at this position, from 0.
    pub draw: u32,
}

impl Key {
    /// A number in `[0, 1)` with 53 bits.
    #[must_use]
    pub fn uniform(self) -> f64 {
        let seed = [self.seed as u32, (self.seed >> 32) as u32];
        let words = philox([self.position, self.sequence, self.stream, self.draw], seed);
        let bits = (u64::from(words[0]) << 32 | u64::from(words[1])) >> 11;
        bits as f64 * (1.0 / (1_u64 << 53) as f64)
    }
}

/// Philox4x32-10 (Salmon, Moraes, Dror, Shaw: Parallel random numbers: as easy as 1, 2, 3; SC 2011).
#[must_use]
pub fn philox(counter: [u32; 4], key: [u32; 2]) -> [u32; 4] {
    let wide = |m: u32, x: u32| {
        let product = u64::from(m) * u64::from(x);
        ((product >> 32) as u32, product as u32)
    };
    let (mut c, mut k) = (counter, key);
    for _ in 0..10 {
        let (high0, low0) = wide(0xD251_1F53, c[0]);
        let (high1, low1) = wide(0xCD9E_8D57, c[2]);
        c = [high1 ^ c[1] ^ k[0], low1, high0 ^ c[3] ^ k[1], low0];
        k = [k[0].wrapping_add(0x9E37_79B9), k[1].wrapping_add(0xBB67_AE85)];
    }
    c
}

/// A chosen token.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Choice {
    /// The token.
    pub token: u32,
    /// Its log-probability under the model (temperature 1, no filters), nats.
    pub logprob: f32,
}

/// What a choice needs besides the row.
#[derive(Clone, Debug, PartialEq)]
pub struct Draw {
    /// How to choose.
    pub how: Sampling,
    /// A random number in `[0, 1)`; see [`Key::uniform`].
    pub uniform: f64,
    /// Tokens that may be chosen, one bit each, the lowest first; tokens beyond the words may not. `None`: all.
    pub allowed: Option<Box<[u32]>>,
}

impl Draw {
    /// The factor of logits before weights are taken, 1 / temperature; 0 where the most probable token is to be taken.
    #[must_use]
    pub fn scale(&self) -> f32 {
        let scale = 1.0 / self.how.temperature;
        if self.how.temperature > 0.0 && self.how.top_k != 1 && scale.is_finite() { scale } else { 0.0 }
    }

    /// Whether a token may be chosen.
    #[must_use]
    pub fn allows(&self, token: usize) -> bool {
        let bit = |words: &[u32]| words.get(token / 32).is_some_and(|w| w >> (token % 32) & 1 == 1);
        self.allowed.as_ref().is_none_or(|words| bit(words))
    }
}

/// Elements whose weights are summed together.
const BLOCK: usize = 512;

/// Higher logits first, lower tokens first among equals.
fn descending(a: &(f32, u32), b: &(f32, u32)) -> Ordering {
    b.0.total_cmp(&a.0).then(a.1.cmp(&b.1))
}

/// Log-probability of a token under the model, nats.
#[must_use]
pub fn logprob(row: &Row<'_>, token: u32) -> f32 {
    row.logits.get(token as usize).map_or(f32::NEG_INFINITY, |x| x - row.log_z)
}

/// The `k` most probable tokens that `allows` does not refuse, with their log-probabilities, best first, lower tokens
/// first among equals.
#[must_use]
pub fn top_tokens(row: &Row<'_>, k: usize, allows: impl Fn(usize) -> bool) -> Vec<(u32, f32)> {
    let mut best: Vec<(f32, u32)> = Vec::with_capacity(2 * k + BLOCK);
    let mut floor = f32::NEG_INFINITY;
    for (i, x) in row.logits.iter().enumerate() {
        // A NaN is no candidate.
        if (*x > floor || (best.len() < k && !x.is_nan())) && allows(i) {
            best.push((*x, i as u32));
            if best.len() >= 2 * k + BLOCK && k > 0 {
                best.select_nth_unstable_by(k - 1, descending);
                best.truncate(k);
                floor = best[k - 1].0;
            }
        }
    }
    best.sort_unstable_by(descending);
    best.truncate(k);
    best.into_iter().map(|(x, token)| (token, x - row.log_z)).collect()
}

/// Probability of the most probable token.
#[must_use]
pub fn top1(row: &Row<'_>) -> f32 {
    (row.max - row.log_z).exp()
}

/// Probability of the first minus the second token.
#[must_use]
pub fn margin(row: &Row<'_>) -> f32 {
    let (before, rest) = row.logits.split_at((row.argmax as usize).min(row.logits.len()));
    let second = widest(
        #[inline(always)]
        || highest(before).max(highest(rest.get(1..).unwrap_or(&[]))),
    );
    top1(row) - (second - row.log_z).exp()
}

/// Variance of the surprise, nats².
#[must_use]
pub fn varentropy(row: &Row<'_>) -> f32 {
    let [first, second] = widest(
        #[inline(always)]
        || {
            sums(row.logits, |x| {
                // Tokens of probability 0 count nothing, however large their surprise.
                let log_p = if x - row.log_z > -100.0 { x - row.log_z } else { -100.0 };
                // Around the entropy, so that the difference of the two sums below loses nothing.
                let surprise = -log_p - row.entropy;
                let t = exp(log_p) * surprise;
                [t, t * surprise]
            })
        },
    );
    (second - first * first).max(0.0) as f32
}

/// Sums of two terms per value: sixteen lanes within a block, so that it is a vector loop, f64 from block to block.
#[inline(always)]
fn sums(values: &[f32], terms: impl Fn(f32) -> [f32; 2]) -> [f64; 2] {
    let mut total = [0.0_f64; 2];
    for block in values.chunks(BLOCK) {
        let (mut a, mut b) = ([0.0_f32; 16], [0.0_f32; 16]);
        let (lanes, rest) = block.as_chunks::<16>();
        for chunk in lanes {
            for lane in 0..16 {
                let [x, y] = terms(chunk[lane]);
                a[lane] += x;
                b[lane] += y;
            }
        }
        for x in rest {
            let [x, y] = terms(*x);
            a[0] += x;
            b[0] += y;
        }
        total[0] += a.iter().map(|x| f64::from(*x)).sum::<f64>();
        total[1] += b.iter().map(|x| f64::from(*x)).sum::<f64>();
    }
    total
}

/// The largest value, −∞ of none; NaN counts nothing.
#[inline(always)]
fn highest(values: &[f32]) -> f32 {
    let mut best = [f32::NEG_INFINITY; 16];
    let (lanes, rest) = values.as_chunks::<16>();
    for chunk in lanes {
        for lane in 0..16 {
            best[lane] = if chunk[lane] > best[lane] { chunk[lane] } else { best[lane] };
        }
    }
    best.iter().chain(rest).fold(f32::NEG_INFINITY, |m, x| if *x > m { *x } else { m })
}

/// `e^x` for `x ≤ 0` to about 2 ulp, 0 below −87; plain arithmetic that compilers turn into vector code.
#[inline(always)]
fn exp(x: f32) -> f32 {
    const ROUND: f32 = 12_582_912.0; // 1.5 · 2²³: adding and subtracting it rounds to an integer
    let clamped = if x > -87.0 { x } else { -87.0 };
    let shifted = clamped * std::f32::consts::LOG2_E + ROUND;
    let n = shifted - ROUND;
    // ln 2 in two parts, so that the remainder is exact.
    let r = (clamped - n * 0.693_359_4) + n * 2.121_944_4e-4;
    // Coefficients of Cephes' expf.
    let p = ((((1.987_569_1e-4 * r + 1.398_199_9e-3) * r + 8.333_452e-3) * r + 4.166_579_6e-2) * r + 1.666_666_5e-1)
        * r
        + 0.5;
    let y = p * r * r + r + 1.0;
    // `n` as an integer sits in the low bits of `shifted`; add it to the exponent of `y`.
    let power = f32::from_bits(((shifted.to_bits() << 23) as i32).wrapping_add(0x3f80_0000) as u32);
    if x > -87.0 { y * power } else { 0.0 }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn philox_known_answers() {
        // From the known-answer file of the authors' library (Random123), philox4x32-10.
        assert_eq!(philox([0; 4], [0; 2]), [0x6627_e8d5, 0xe169_c58d, 0xbc57_ac4c, 0x9b00_dbd8]);
        assert_eq!(philox([u32::MAX; 4], [u32::MAX; 2]), [0x408f_276d, 0x41c8_3b0e, 0xa20b_c7c6, 0x6d54_51fd]);
        let pi = philox([0x243f_6a88, 0x85a3_08d3, 0x1319_8a2e, 0x0370_7344], [0xa409_3822, 0x299f_31d0]);
        assert_eq!(pi, [0xd16c_fe09, 0x94fd_cceb, 0x5001_e420, 0x2412_6ea1]);
    }

    #[test]
    fn exp_is_accurate() {
        for i in 0..100_000 {
            let x = -(i as f32) * 1e-3;
            let exact = f64::from(x).exp();
            let error = (f64::from(exp(x)) - exact).abs();
            assert!(error <= exact * 3e-7 || x <= -87.0 && error < 1e-37, "{x}: {error:e}");
        }
        assert_eq!((exp(f32::NEG_INFINITY), exp(-1e30), exp(0.0)), (0.0, 0.0, 1.0));
    }

    #[test]
    fn keys_name_draws() {
        let base = Key { seed: 42, stream: 3, sequence: 1, position: 7, draw: 0 };
        let others = [
            Key { seed: 43, ..base },
            Key { seed: 42 + (1 << 32), ..base },
            Key { stream: 4, ..base },
            Key { sequence: 2, ..base },
            Key { position: 8, ..base },
            Key { draw: 1, ..base },
        ];
        assert!(
            others.iter().all(|k| (k.uniform() - base.uniform()).abs() > 1e-9 && (0.0..1.0).contains(&k.uniform()))
        );
        assert_eq!(base.uniform(), base.uniform());
        let mean = (0..20_000).map(|position| Key { position, ..base }.uniform()).sum::<f64>() / 20_000.0;
        assert!((mean - 0.5).abs() < 0.01);
    }

    #[test]
    fn degenerate_temperatures_and_masks() {
        let draw = |temperature, top_k| Draw {
            how: Sampling { temperature, top_k, ..Sampling::default() },
            uniform: 0.5,
            allowed: Some([0b100, 1].into()),
        };
        assert_eq!(
            [draw(0.0, 0), draw(-1.0, 0), draw(f32::NAN, 0), draw(1e-42, 0), draw(2.0, 1)].map(|d| d.scale()),
            [0.0; 5]
        );
        assert_eq!((draw(2.0, 0).scale(), draw(2.0, 7).scale()), (0.5, 0.5));
        let allowed: Vec<usize> = (0..100).filter(|t| draw(1.0, 0).allows(*t)).collect();
        assert_eq!(allowed, [2, 32]);
    }

    /// The row of these logits, by definition.
    fn measure(logits: &[f32]) -> Row<'_> {
        let max = logits.iter().copied().fold(f32::NEG_INFINITY, f32::max);
        let z: f64 = logits.iter().map(|x| f64::from(*x).exp()).sum();
        let p = logits.iter().map(|x| f64::from(*x) - z.ln()).filter(|l| *l > f64::NEG_INFINITY);
        let entropy = p.map(|l| -l * l.exp()).sum::<f64>();
        let argmax = logits.iter().position(|x| *x == max).unwrap_or(0) as u32;
        Row { logits, max, log_z: z.ln() as f32, entropy: entropy.max(0.0) as f32, argmax }
    }

    #[test]
    fn statistics_equal_their_definitions() {
        let logits: Vec<f32> = (0..1500_u32).map(|i| philox([i, 1, 0, 0], [1, 2])[0] as f32 / 5e8).collect();
        let row = measure(&logits);
        let p: Vec<f64> = logits.iter().map(|x| (f64::from(*x) - f64::from(row.log_z)).exp()).collect();
        let entropy: f64 = p.iter().map(|p| -p * p.ln()).sum();
        let variance: f64 = p.iter().map(|p| p * (-p.ln() - entropy).powi(2)).sum();
        assert!((f64::from(row.entropy) - entropy).abs() < 1e-5);
        assert!((f64::from(varentropy(&row)) - variance).abs() < 1e-3 * variance, "{} {variance}", varentropy(&row));
        let top = top_tokens(&row, 700, |_| true);
        assert!(top.len() == 700 && top.is_sorted_by(|a, b| a.1 > b.1 || a.1 == b.1 && a.0 < b.0));
        assert_eq!(top[0].0, row.argmax);
        let (first, second) = (f64::from(top[0].1).exp(), f64::from(top[1].1).exp());
        assert!((f64::from(top1(&row)) - first).abs() < 1e-6);
        assert!((f64::from(margin(&row)) - (first - second)).abs() < 1e-6);
        assert_eq!(top_tokens(&row, 0, |_| true), vec![]);
        assert_eq!(top_tokens(&row, 5000, |_| true).len(), 1500);
        let odd = top_tokens(&row, 5000, |t| t % 2 == 1);
        assert!(odd.len() == 750 && odd.iter().all(|t| t.0 % 2 == 1));
        let masked = measure(&[f32::NEG_INFINITY, 1.0, f32::NEG_INFINITY]);
        assert_eq!((masked.entropy, masked.argmax, varentropy(&masked)), (0.0, 1, 0.0));
    }
}
