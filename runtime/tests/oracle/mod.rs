//! Sampling by its definition: a full sort and sums in f64. Slow and obvious; models of tests choose with it, kernels are
//! compared with it.

#![allow(dead_code, reason = "each test binary uses a part of it")]

use inferc_runtime::model::Row;
use inferc_runtime::sample::{Choice, Draw};

/// The row of these logits.
pub(crate) fn measure(logits: &[f32]) -> Row<'_> {
    let max = logits.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    let below = |x: &f32| f64::from(*x) - f64::from(max);
    let z: f64 = logits.iter().map(|x| below(x).exp()).sum();
    let weighted: f64 = logits.iter().map(below).filter(|d| *d > -700.0).map(|d| d * d.exp()).sum();
    let log_z = (f64::from(max) + z.ln()) as f32;
    let argmax = logits.iter().position(|x| *x == max).unwrap_or(0) as u32;
    Row { logits, max, log_z, entropy: (z.ln() - weighted / z).max(0.0) as f32, argmax }
}

/// Weight of every token after mask, temperature and filters; 0 for those that are not kept. `nudge` moves the borders of
/// top-p and min-p: what lies within rounding of a border may fall to either side.
pub(crate) fn weights(logits: &[f32], draw: &Draw, nudge: f64) -> Vec<f64> {
    let how = &draw.how;
    let mut order: Vec<usize> =
        (0..logits.len()).filter(|i| logits[*i] > f32::NEG_INFINITY && draw.allows(*i)).collect();
    order.sort_by(|a, b| logits[*b].partial_cmp(&logits[*a]).expect("numbers").then(a.cmp(b)));
    let mut weights = vec![0.0; logits.len()];
    let Some(first) = order.first().copied() else { return weights };
    if draw.scale() == 0.0 {
        weights[first] = 1.0;
        return weights;
    }
    let weight = |i: usize| ((f64::from(logits[i]) - f64::from(logits[first])) / f64::from(how.temperature)).exp();
    if how.top_k > 0 {
        order.truncate(how.top_k as usize);
    }
    if how.top_p < 1.0 {
        let target = (f64::from(how.top_p) + nudge) * order.iter().map(|i| weight(*i)).sum::<f64>();
        let mut mass = 0.0;
        let reached = order.iter().position(|i| {
            mass += weight(*i);
            mass >= target
        });
        order.truncate(reached.map_or(order.len(), |n| n + 1));
    }
    order.retain(|i| weight(*i) >= f64::from(how.min_p) * (1.0 + nudge));
    order.into_iter().for_each(|i| weights[i] = weight(i));
    weights
}

/// Chooses a token.
pub(crate) fn choose(row: &Row<'_>, draw: &Draw) -> Option<Choice> {
    if !row.is_sound() {
        return None;
    }
    let weights = weights(row.logits, draw, 0.0);
    let mut rest = draw.uniform * weights.iter().sum::<f64>();
    let last = weights.iter().rposition(|w| *w > 0.0)?;
    let token = weights.iter().position(|w| {
        rest -= w;
        rest < 0.0 && *w > 0.0
    });
    let token = token.unwrap_or(last) as u32;
    Some(Choice { token, logprob: row.logits[token as usize] - row.log_z })
}

/// Chooses for every draw.
pub(crate) fn choose_all(rows: &[Row<'_>], draws: &[(usize, Draw)]) -> Vec<Option<Choice>> {
    draws.iter().map(|(row, draw)| choose(&rows[*row], draw)).collect()
}

/// Whether a choice stands where the draw falls, up to the rounding of f32.
pub(crate) fn fits(logits: &[f32], draw: &Draw, token: u32) -> bool {
    let token = token as usize;
    [0.0, 2e-6, -2e-6].into_iter().any(|nudge| {
        let weights = weights(logits, draw, nudge);
        let total: f64 = weights.iter().sum();
        let before = weights[..token].iter().sum::<f64>() / total;
        let after = before + weights[token] / total;
        weights[token] > 0.0 && (before - 3e-6..=after + 3e-6).contains(&draw.uniform)
    })
}
