//! The cost model applied to what a run really did: predicted seconds for the measured numbers of tokens and rows.
//!
//! A plan's prediction also guesses lengths and stops; this separates the error of the cost model from those guesses.

use crate::roofline::{Part, Roofline, Time};
use ir::model::Model;
use ir::schedule::ModelSchedule;
use ir::target::Target;

/// What a site did, summed over its runs.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Counts {
    /// Prompts computed.
    pub runs: u64,
    /// Prompt tokens computed.
    pub prompt_tokens: u64,
    /// Prompt tokens that were cached.
    pub reused_tokens: u64,
    /// Decode steps.
    pub steps: u64,
    /// Rows of all decode steps.
    pub rows: u64,
}

/// Predicted time of a site's prompts and of its decode steps.
#[must_use]
#[allow(clippy::cast_precision_loss, reason = "token counts are far below 2^53")]
pub fn site(model: &Model, target: &Target, schedule: &ModelSchedule, counts: Counts) -> (Time, Time) {
    let roofline = Roofline::new(model, target).with_numerics(schedule.numerics).with_threads(schedule.threads);
    let roofline = roofline.with_cache(schedule.kv, schedule.attention).with_prologue(schedule.prologue);
    let runs = counts.runs.max(1) as f64;
    let (fresh, reused) = (counts.prompt_tokens as f64 / runs, counts.reused_tokens as f64 / runs);
    let prefill = roofline.prefill(fresh, reused, 512.0).times(counts.runs as f64);
    if counts.steps == 0 {
        return (prefill, Time::default());
    }
    let branches = (counts.rows as f64 / counts.steps as f64).max(1.0);
    // Sequences grow evenly: on average half of a run's steps are behind a row.
    let keys = counts.steps as f64 / runs / 2.0;
    let part = Part { count: branches, rows: 1.0, keys, shared: fresh + reused, together: false };
    (prefill, roofline.step(&[part], branches).times(counts.steps as f64))
}
