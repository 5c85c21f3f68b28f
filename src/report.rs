//! Predicted beside measured: the tables and JSON that `run`, `explain` and `bench` print. Every number is a field of a
//! plan, of a run's metrics, the cost model applied to the run's counts, or a sum or ratio of these.

use ir::plan::{Cost, Plan};
use ir::plan_text::{bytes, seconds, three};
use ir::target::Target;
use optimizer::replay::{self, Counts};
use runtime::metrics::{Metrics, SiteMetrics};
use runtime::session::Outcome;
use runtime::value::usage_json;
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::fmt::Write as _;

/// A row of predicted beside measured.
#[derive(Clone, Debug)]
pub struct Row {
    /// `prefill base`, `decode base ×6.2`, ….
    pub name: String,
    /// Site.
    pub site: u32,
    /// Tokens (prompt tokens, or rows decided).
    pub tokens: u64,
    /// Seconds that the cost model gives for these tokens.
    pub predicted: f64,
    /// Seconds measured.
    pub measured: f64,
}

impl Row {
    /// Off by more than a factor of two, where it matters (more than a millisecond).
    #[must_use]
    pub fn is_off(&self) -> bool {
        let ratio = self.measured / self.predicted;
        self.measured.max(self.predicted) > 1e-3 && !(0.5..=2.0).contains(&ratio)
    }
}

/// Rows of a run, by site: prompts, decode steps, scores.
#[must_use]
pub fn rows(plan: &Plan, target: &Target, metrics: &Metrics) -> Vec<Row> {
    let facts = site_facts(plan);
    let mut out = Vec::new();
    for (site, m) in metrics.sites.iter().enumerate() {
        let site = u32::try_from(site).unwrap_or(u32::MAX);
        let (role, times) = facts.get(site as usize).copied().unwrap_or((None, 1.0));
        let Some(model) = role.and_then(|r| plan.models.get(r)).and_then(Option::as_ref) else {
            if m.scores > 0 {
                // Of a run as planned; here for as many verdicts as there were.
                let planned = plan.operators.iter().filter(|o| o.site == Some(site)).map(|o| o.cost.seconds);
                #[allow(clippy::cast_precision_loss, reason = "counts of verdicts")]
                let predicted = planned.sum::<f64>() * m.scores as f64 / times.max(f64::MIN_POSITIVE);
                out.push(Row {
                    name: format!("verify ×{}", m.scores),
                    site,
                    tokens: 0,
                    predicted,
                    measured: m.score_seconds,
                });
            }
            continue;
        };
        let counts = Counts {
            runs: m.runs,
            prompt_tokens: m.prompt_tokens,
            reused_tokens: m.reused_tokens,
            steps: m.steps,
            rows: m.rows,
        };
        let (prefill, decode) = replay::site(&model.model, target, &model.schedule, counts);
        if m.prompt_tokens > 0 {
            let name = format!("prefill {}", model.role);
            out.push(Row {
                name,
                site,
                tokens: m.prompt_tokens,
                predicted: prefill.seconds(),
                measured: m.prefill_seconds,
            });
        }
        if m.steps > 0 {
            #[allow(clippy::cast_precision_loss, reason = "token counts are far below 2^53")]
            let width = m.rows as f64 / m.steps as f64;
            let name = format!("decode {} ×{}", model.role, three(width));
            out.push(Row { name, site, tokens: m.rows, predicted: decode.seconds(), measured: m.decode_seconds });
        }
    }
    out
}

/// Role of each site and how often the plan expects it to run.
fn site_facts(plan: &Plan) -> Vec<(Option<usize>, f64)> {
    let facts = optimizer::facts::of(&plan.strategy, &BTreeMap::new());
    let mut known = vec![(None, 1.0); plan.strategy.sites as usize];
    for site in &facts.sites {
        if let Some(slot) = known.get_mut(site.id as usize) {
            *slot = (site.role.map(|r| r as usize), site.times);
        }
    }
    known
}

/// Totals of a run.
fn totals(rows: &[Row]) -> (f64, f64) {
    rows.iter().fold((0.0, 0.0), |(p, m), r| (p + r.predicted, m + r.measured))
}

/// The table that people see after a run.
#[must_use]
pub fn text(plan: &Plan, target: &Target, seed: u64, outcome: &Outcome) -> String {
    let rows = rows(plan, target, &outcome.metrics);
    let mut out = String::new();
    let stop = outcome.stop.map_or("", |s| s.name());
    let u = &outcome.usage;
    let _ = writeln!(
        out,
        "plan {} · seed {seed} · {} · {} tokens · {} samples · {} cancelled · {stop}",
        plan.strategy.name,
        seconds(u.seconds),
        u.tokens,
        u.samples,
        u.cancelled
    );
    let _ = writeln!(out, "{:<28} {:>8} {:>12} {:>12} {:>7}", "operator", "tokens", "predicted", "measured", "ratio");
    for row in &rows {
        let flag = if row.is_off() { "  off by more than 2×" } else { "" };
        let ratio = if row.predicted > 0.0 { row.measured / row.predicted } else { 0.0 };
        let _ = writeln!(
            out,
            "{:<28} {:>8} {:>12} {:>12} {:>7}{flag}",
            row.name,
            row.tokens,
            seconds(row.predicted),
            seconds(row.measured),
            three(ratio)
        );
    }
    let (predicted, measured) = totals(&rows);
    let _ = writeln!(out, "{:<28} {:>8} {:>12} {:>12}", "sum", "", seconds(predicted), seconds(measured));
    let c = &plan.cost;
    let _ = writeln!(
        out,
        "before the run: {} for {} tokens, KV peak {} (prompt {} tokens, lengths {} of max assumed)",
        seconds(c.seconds),
        three(c.tokens),
        bytes(c.kv_bytes),
        plan.assumptions.prompt_tokens,
        plan.assumptions.length_share
    );
    if let Some(classes) = arithmetic(plan) {
        let _ = writeln!(out, "arithmetic: {classes}");
    }
    out
}

/// Roles and the arithmetic class of their models.
#[must_use]
pub fn numerics(plan: &Plan) -> BTreeMap<&str, &'static str> {
    plan.models.iter().flatten().map(|m| (m.role.as_str(), m.schedule.numerics.name())).collect()
}

/// The same for people; nothing for plans without models.
#[must_use]
pub fn arithmetic(plan: &Plan) -> Option<String> {
    let classes: Vec<String> = numerics(plan).into_iter().map(|(role, class)| format!("{role} in {class}")).collect();
    (!classes.is_empty()).then(|| classes.join(", "))
}

/// The JSON of a run: `value text tokens logprobs usage stop predicted measured`.
#[must_use]
pub fn json(plan: &Plan, target: &Target, seed: u64, outcome: &Outcome) -> Value {
    let rows = rows(plan, target, &outcome.metrics);
    let (predicted, measured) = totals(&rows);
    let operators: Vec<Value> = rows
        .iter()
        .map(|r| {
            json!({ "name": r.name, "site": r.site, "tokens": r.tokens, "predicted_seconds": r.predicted,
                    "measured_seconds": r.measured, "off": r.is_off() })
        })
        .collect();
    let mut before = cost(&plan.cost);
    if let Value::Object(fields) = &mut before {
        fields.insert("for_these_tokens_seconds".to_owned(), predicted.into());
    }
    json!({
        "strategy": plan.strategy.name,
        "seed": seed,
        "target": plan.target,
        "value": outcome.value.to_json(),
        "text": outcome.text,
        "tokens": outcome.tokens,
        "logprobs": outcome.logprobs,
        "usage": usage_json(&outcome.usage),
        "stop": outcome.stop.map(|s| s.name()),
        "predicted": before,
        "measured": { "seconds": outcome.usage.seconds, "operators_seconds": measured, "tokens": outcome.usage.tokens },
        "operators": operators,
        "numerics": numerics(plan),
    })
}

/// A predicted cost.
#[must_use]
pub fn cost(c: &Cost) -> Value {
    json!({ "seconds": c.seconds, "flops": c.flops, "bytes": c.bytes, "tokens": c.tokens, "kv_bytes": c.kv_bytes, "usd": c.usd })
}

/// Sums metrics of several runs site by site.
#[must_use]
pub fn sum(all: &[Metrics]) -> Metrics {
    let mut total = Metrics::default();
    for metrics in all {
        for (i, m) in metrics.sites.iter().enumerate() {
            if total.sites.len() <= i {
                total.sites.resize(i + 1, SiteMetrics::default());
            }
            let t = &mut total.sites[i];
            t.runs += m.runs;
            t.prompt_tokens += m.prompt_tokens;
            t.reused_tokens += m.reused_tokens;
            t.prefill_seconds += m.prefill_seconds;
            t.steps += m.steps;
            t.rows += m.rows;
            t.decode_seconds += m.decode_seconds;
            t.sequences += m.sequences;
            t.scores += m.scores;
            t.score_seconds += m.score_seconds;
        }
    }
    total
}
