//! From logits to a token: temperature, top-k, top-p, min-p; counter-based random streams; statistics of a row.
//!
//! The order is: temperature, then top-k, then top-p over what top-k left, then min-p against the most probable token.
//! Draws are exact for the resulting distribution up to the rounding of f32 exponentials. Randomness is a pure function
//! of a [`Key`], so a token does not depend on what else is in the batch. Log-probabilities are those of the model's own
//! distribution: before temperature and filters. Nothing here knows sequences, prompts or stopping.

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

/// Elements whose weights are summed together.
const BLOCK: usize = 512;

/// Chooses tokens; keeps its memory between calls.
#[derive(Clone, Debug, Default)]
pub struct Sampler {
    weights: Vec<f32>,
    blocks: Vec<f64>,
    candidates: Vec<(f32, u32)>,
}

impl Sampler {
    /// Chooses a token of a row; `None` when the row is not sound.
    pub fn sample(&mut self, row: &Row<'_>, how: &Sampling, key: Key) -> Option<Choice> {
        if !row.is_sound() || row.logits.is_empty() {
            return None;
        }
        let token =
            if how.temperature > 0.0 && how.top_k != 1 { self.draw(row, how, key.uniform()) } else { row.argmax };
        Some(Choice { token, logprob: logprob(row, token) })
    }

    fn draw(&mut self, row: &Row<'_>, how: &Sampling, u: f64) -> u32 {
        let scale = 1.0 / how.temperature;
        if !scale.is_finite() {
            return row.argmax;
        }
        let k = if how.top_k == 0 { row.logits.len() } else { how.top_k as usize };
        let filtered = k < row.logits.len() || how.top_p < 1.0 || how.min_p > 0.0;
        if filtered {
            self.keep(row, how, scale, k);
            pick_candidate(&self.candidates, row.max, scale, u).unwrap_or(row.argmax)
        } else {
            let total = self.weigh(row, scale);
            self.pick_weight(u * total).unwrap_or(row.argmax)
        }
    }

    /// `exp((x − max)·scale)` of all logits, with sums per block; returns the sum of all.
    fn weigh(&mut self, row: &Row<'_>, scale: f32) -> f64 {
        self.weights.clear();
        self.weights.resize(row.logits.len(), 0.0);
        self.blocks.clear();
        let (all, blocks) = (&mut self.weights, &mut self.blocks);
        widest(
            #[inline(always)]
            || {
                for (weights, logits) in all.chunks_mut(BLOCK).zip(row.logits.chunks(BLOCK)) {
                    for (w, x) in weights.iter_mut().zip(logits) {
                        *w = exp((*x - row.max) * scale);
                    }
                    blocks.push(sums(weights, |w| [w, 0.0])[0]);
                }
            },
        );
        self.blocks.iter().sum()
    }

    /// The token under which `target` falls in the running sum of the weights.
    fn pick_weight(&self, mut target: f64) -> Option<u32> {
        let mut last = None;
        for (b, block) in self.blocks.iter().enumerate() {
            if *block <= 0.0 {
                continue;
            }
            let weights = &self.weights[b * BLOCK..(b * BLOCK + BLOCK).min(self.weights.len())];
            if target < *block {
                let mut rest = target;
                for (i, w) in weights.iter().enumerate().filter(|(_, w)| **w > 0.0) {
                    last = Some((b * BLOCK + i) as u32);
                    rest -= f64::from(*w);
                    if rest < 0.0 {
                        break;
                    }
                }
                return last;
            }
            target -= block;
            last = weights.iter().rposition(|w| *w > 0.0).map(|i| (b * BLOCK + i) as u32);
        }
        last
    }

    /// Fills `candidates` with what the filters leave.
    fn keep(&mut self, row: &Row<'_>, how: &Sampling, scale: f32, k: usize) {
        // Probabilities relative to the highest: a floor for min-p, and a first guess for the others.
        let floor = if how.min_p > 0.0 { how.min_p.min(1.0).ln() } else { f32::NEG_INFINITY };
        let filters_first = k < row.logits.len() || how.top_p < 1.0;
        if !filters_first {
            self.gather(row, scale, floor);
            return;
        }
        // The mass that top-p counts: of all tokens, or of those that top-k leaves.
        let all = if k < row.logits.len() {
            None
        } else if scale == 1.0 {
            Some(f64::from(row.log_z - row.max).exp())
        } else {
            Some(self.weigh(row, scale))
        };
        let mut depth = 6.0_f32;
        loop {
            // −inf logits never come back: the first gathering without a floor takes all that can be chosen.
            let threshold = if depth > 200.0 { f32::NEG_INFINITY } else { -depth };
            self.gather(row, scale, threshold);
            let complete = threshold == f32::NEG_INFINITY;
            if all.is_none() && self.candidates.len() < k && !complete {
                depth *= 2.0;
                continue;
            }
            if self.candidates.len() > k {
                self.candidates.select_nth_unstable_by(k, descending);
                self.candidates.truncate(k);
            }
            let weight = |c: &(f32, u32)| f64::from(exp((c.0 - row.max) * scale));
            if how.top_p < 1.0 {
                let have: f64 = self.candidates.iter().map(weight).sum();
                let target = all.unwrap_or(have) * f64::from(how.top_p.max(0.0));
                if have < target && !complete {
                    depth *= 2.0;
                    continue;
                }
                let n = nucleus(&mut self.candidates, target, weight);
                self.candidates.truncate(n);
            }
            break;
        }
        self.candidates.retain(|c| (c.0 - row.max) * scale >= floor);
    }

    /// All tokens with `(x − max)·scale ≥ threshold`.
    fn gather(&mut self, row: &Row<'_>, scale: f32, threshold: f32) {
        self.candidates.clear();
        for (block, logits) in row.logits.chunks(BLOCK).enumerate() {
            // Most blocks have none: this test is a vector loop.
            let best = widest(
                #[inline(always)]
                || highest(logits),
            );
            if (best - row.max) * scale < threshold || best == f32::NEG_INFINITY {
                continue;
            }
            for (i, x) in logits.iter().enumerate() {
                if (*x - row.max) * scale >= threshold && *x > f32::NEG_INFINITY {
                    self.candidates.push((*x, (block * BLOCK + i) as u32));
                }
            }
        }
    }
}

/// Higher logits first, lower tokens first among equals.
fn descending(a: &(f32, u32), b: &(f32, u32)) -> Ordering {
    b.0.total_cmp(&a.0).then(a.1.cmp(&b.1))
}

/// Moves the fewest highest candidates whose weights reach `target` to the front; returns how many (at least one).
fn nucleus(all: &mut [(f32, u32)], target: f64, weight: impl Fn(&(f32, u32)) -> f64) -> usize {
    let (mut low, mut high, mut mass) = (0, all.len(), 0.0);
    while high - low > 32 {
        let half = (high - low) / 2;
        all[low..high].select_nth_unstable_by(half, descending);
        let upper: f64 = all[low..low + half].iter().map(&weight).sum();
        if mass + upper >= target {
            high = low + half;
        } else {
            mass += upper;
            low += half;
        }
    }
    all[low..high].sort_unstable_by(descending);
    for (i, c) in all[low..high].iter().enumerate() {
        mass += weight(c);
        if mass >= target {
            return low + i + 1;
        }
    }
    high.max(1).min(all.len())
}

/// Draws from candidates; summed in the order of tokens so that the draw does not depend on how they were selected.
fn pick_candidate(candidates: &[(f32, u32)], max: f32, scale: f32, u: f64) -> Option<u32> {
    let mut order: Vec<(u32, f64)> =
        candidates.iter().map(|c| (c.1, f64::from(exp((c.0 - max) * scale)))).filter(|c| c.1 > 0.0).collect();
    order.sort_unstable_by_key(|c| c.0);
    let mut rest = u * order.iter().map(|c| c.1).sum::<f64>();
    for (token, weight) in &order {
        rest -= weight;
        if rest < 0.0 {
            return Some(*token);
        }
    }
    order.last().map(|c| c.0)
}

/// Log-probability of a token under the model, nats.
#[must_use]
pub fn logprob(row: &Row<'_>, token: u32) -> f32 {
    row.logits.get(token as usize).map_or(f32::NEG_INFINITY, |x| x - row.log_z)
}

/// The `k` most probable tokens with their log-probabilities, best first, lower tokens first among equals.
#[must_use]
pub fn top_tokens(row: &Row<'_>, k: usize) -> Vec<(u32, f32)> {
    let mut best: Vec<(f32, u32)> = Vec::with_capacity(2 * k + BLOCK);
    let mut floor = f32::NEG_INFINITY;
    for (i, x) in row.logits.iter().enumerate() {
        // A NaN is no candidate.
        if *x > floor || (best.len() < k && !x.is_nan()) {
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

/// Statistics of logits that were changed after the model (masks): the row that a model would have delivered. Logits of
/// −∞ count as impossible. A row without any possible token is not sound.
#[must_use]
pub fn measure(logits: &[f32]) -> Row<'_> {
    let (max, [z, weighted]) = widest(
        #[inline(always)]
        || {
            let max = highest(logits);
            // A distance of −100 has weight 0, and keeps −∞ from making 0 · ∞; NaN is kept.
            let below = |x: f32| if x - max < -100.0 { -100.0 } else { x - max };
            let terms = |x: f32| {
                let d = below(x);
                let w = if d.is_nan() { d } else { exp(d) };
                [w, w * d]
            };
            (max, sums(logits, terms))
        },
    );
    let argmax = logits.iter().position(|x| *x == max).unwrap_or(0) as u32;
    let log_z = f64::from(max) + z.ln();
    let entropy = (z.ln() - weighted / z).max(0.0);
    Row { logits, max, log_z: log_z as f32, entropy: entropy as f32, argmax }
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

    fn key(seed: u64, position: u32) -> Key {
        Key { seed, stream: 3, sequence: 1, position, draw: 0 }
    }

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

    /// The distribution by the definition of the filters, with a full sort.
    fn closed_form(logits: &[f32], how: &Sampling) -> Vec<f64> {
        let t = f64::from(how.temperature);
        let mut order: Vec<usize> = (0..logits.len()).filter(|i| logits[*i] > f32::NEG_INFINITY).collect();
        order.sort_by(|a, b| logits[*b].total_cmp(&logits[*a]).then(a.cmp(b)));
        if how.top_k > 0 {
            order.truncate(how.top_k as usize);
        }
        let max = f64::from(logits[order[0]]);
        let w = |i: usize| ((f64::from(logits[i]) - max) / t).exp();
        let total: f64 = order.iter().map(|i| w(*i)).sum();
        let mut mass = 0.0;
        let mut kept = 0;
        for i in &order {
            mass += w(*i) / total;
            kept += 1;
            if mass >= f64::from(how.top_p) {
                break;
            }
        }
        order.truncate(kept);
        order.retain(|i| w(*i) >= f64::from(how.min_p));
        let total: f64 = order.iter().map(|i| w(*i)).sum();
        let mut p = vec![0.0; logits.len()];
        order.iter().for_each(|i| p[*i] = w(*i) / total);
        p
    }

    fn check_distribution(logits: &[f32], how: &Sampling, seed: u64) {
        let row = measure(logits);
        let p = closed_form(logits, how);
        let n = if logits.len() > 100 { 3000 } else { 20_000 };
        let mut counts = vec![0_u32; logits.len()];
        let mut sampler = Sampler::default();
        for position in 0..n {
            let choice = sampler.sample(&row, how, key(seed, position)).expect("sound");
            counts[choice.token as usize] += 1;
            assert_eq!(choice.logprob, logits[choice.token as usize] - row.log_z);
        }
        let (mut chi, mut freedom) = (0.0, -1.0_f64);
        for (i, (count, p)) in counts.iter().zip(&p).enumerate() {
            let expected = p * f64::from(n);
            if *p == 0.0 {
                assert_eq!(*count, 0, "{how:?}: token {i} is filtered out");
            } else if expected > 5.0 {
                chi += (f64::from(*count) - expected).powi(2) / expected;
                freedom += 1.0;
            }
        }
        // Far in the tail of chi-square: mean + 6 standard deviations.
        assert!(chi < freedom.max(0.0) + 6.0 * (2.0 * freedom.max(1.0)).sqrt(), "{how:?}: chi² {chi} of {freedom}");
    }

    #[test]
    fn draws_follow_the_closed_form() {
        let small = [1.5_f32, -0.25, 3.0, f32::NEG_INFINITY, 2.75, 0.0, 3.0, -9.0];
        let d = Sampling::default();
        let cases = [
            d,
            Sampling { temperature: 0.5, ..d },
            Sampling { temperature: 2.5, ..d },
            Sampling { top_k: 3, ..d },
            Sampling { top_k: 2, ..d },
            Sampling { top_p: 0.7, ..d },
            Sampling { top_p: 0.0, ..d },
            Sampling { min_p: 0.3, ..d },
            Sampling { temperature: 1.7, top_k: 5, top_p: 0.9, min_p: 0.05 },
        ];
        for (seed, how) in cases.iter().enumerate() {
            check_distribution(&small, how, seed as u64);
        }
        // Wide rows: several blocks, thresholds lowered more than once, nucleus by partition.
        let wide: Vec<f32> = (0..3000_u32).map(|i| philox([i, 0, 0, 0], [7, 7])[0] as f32 / 4e8).collect();
        for how in [
            d,
            Sampling { temperature: 0.7, top_p: 0.95, ..d },
            Sampling { temperature: 3.0, top_p: 0.999, ..d },
            Sampling { top_k: 40, top_p: 0.8, ..d },
            Sampling { top_k: 2999, ..d },
        ] {
            check_distribution(&wide, &how, 11);
        }
    }

    #[test]
    fn greedy_and_degenerate_rows() {
        let mut sampler = Sampler::default();
        let logits = [1.0, 5.0, 5.0, 2.0];
        let row = measure(&logits);
        let greedy = Sampling { temperature: 0.0, ..Sampling::default() };
        assert_eq!(sampler.sample(&row, &greedy, key(0, 0)).map(|c| c.token), Some(1));
        let cold = Sampling { temperature: 1e-42, ..Sampling::default() };
        assert_eq!(sampler.sample(&row, &cold, key(0, 0)).map(|c| c.token), Some(1));
        for bad in [[1.0, f32::NAN], [f32::NEG_INFINITY; 2], [f32::INFINITY, 0.0]] {
            let row = measure(&bad);
            assert!(!row.is_sound() && sampler.sample(&row, &Sampling::default(), key(0, 0)).is_none());
        }
        let one = measure(&[f32::NEG_INFINITY, -3.0]).argmax;
        assert_eq!(one, 1);
    }

    #[test]
    fn keys_name_draws() {
        let logits: Vec<f32> = (0..1000).map(|i| (i % 17) as f32 * 0.1).collect();
        let row = measure(&logits);
        let mut sampler = Sampler::default();
        let mut draw = |k: Key| sampler.sample(&row, &Sampling::default(), k).expect("sound").token;
        let base = key(42, 7);
        let others = [
            Key { seed: 43, ..base },
            Key { seed: 42 + (1 << 32), ..base },
            Key { stream: 4, ..base },
            Key { sequence: 2, ..base },
            Key { position: 8, ..base },
            Key { draw: 1, ..base },
        ];
        let first = draw(base);
        assert!(others.iter().filter(|k| draw(**k) == first).count() <= 1);
        assert_eq!(draw(base), first);
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
        let top = top_tokens(&row, 700);
        assert!(top.len() == 700 && top.is_sorted_by(|a, b| a.1 > b.1 || a.1 == b.1 && a.0 < b.0));
        assert_eq!(top[0].0, row.argmax);
        let (first, second) = (f64::from(top[0].1).exp(), f64::from(top[1].1).exp());
        assert!((f64::from(top1(&row)) - first).abs() < 1e-6);
        assert!((f64::from(margin(&row)) - (first - second)).abs() < 1e-6);
        assert_eq!(top_tokens(&row, 0), vec![]);
        assert_eq!(top_tokens(&row, 5000).len(), 1500);
        let masked = measure(&[f32::NEG_INFINITY, 1.0, f32::NEG_INFINITY]);
        assert_eq!((masked.entropy, masked.argmax, varentropy(&masked)), (0.0, 1, 0.0));
    }
}
