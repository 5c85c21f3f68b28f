//! The text form of plans: models and their schedules, sites, predicted costs, decisions; costs with three significant
//! digits. Stable, for people and snapshots; nothing parses it.

use crate::plan::{Cost, Decision, Plan, PrefixMode, ScoreMode, SitePlan};
use std::fmt::{Display, Formatter, Result};

/// A number with three significant digits: `0`, `1.23`, `456`, `7.89e12`.
#[must_use]
pub fn three(x: f64) -> String {
    if x == 0.0 || !x.is_finite() {
        return format!("{x}");
    }
    // The exponent after rounding: 9.996 is 10.0, not 10.00.
    let scientific = format!("{x:.2e}");
    let exponent: i32 = scientific.split_once('e').and_then(|(_, e)| e.parse().ok()).unwrap_or(0);
    if (-3..=5).contains(&exponent) {
        let decimals = usize::try_from((2 - exponent).max(0)).unwrap_or(0);
        format!("{x:.decimals$}")
    } else {
        scientific
    }
}

/// Seconds with a unit: `3.54 s`, `12.0 ms`, `4.10 µs`.
#[must_use]
pub fn seconds(x: f64) -> String {
    match x {
        x if x >= 1.0 || x == 0.0 => format!("{} s", three(x)),
        x if x >= 1e-3 => format!("{} ms", three(x * 1e3)),
        x => format!("{} µs", three(x * 1e6)),
    }
}

/// Bytes with a unit: `1.21 GB`, `30.0 MB`.
#[must_use]
pub fn bytes(x: f64) -> String {
    match x {
        x if x >= 1e9 => format!("{} GB", three(x / 1e9)),
        x if x >= 1e6 => format!("{} MB", three(x / 1e6)),
        x if x >= 1e3 => format!("{} kB", three(x / 1e3)),
        x => format!("{} B", three(x)),
    }
}

impl Display for Cost {
    fn fmt(&self, f: &mut Formatter<'_>) -> Result {
        f.write_str(&seconds(self.seconds))?;
        if self.tokens > 0.0 {
            write!(f, ", {} tokens", three(self.tokens))?;
        }
        if self.bytes > 0.0 {
            write!(f, ", {} moved", bytes(self.bytes))?;
        }
        if self.kv_bytes > 0.0 {
            write!(f, ", KV {}", bytes(self.kv_bytes))?;
        }
        Ok(())
    }
}

impl Display for PrefixMode {
    fn fmt(&self, f: &mut Formatter<'_>) -> Result {
        f.write_str(match self {
            Self::Shared => "shared",
            Self::Copied => "copied",
            Self::Cascade => "cascade",
        })
    }
}

impl Display for SitePlan {
    fn fmt(&self, f: &mut Formatter<'_>) -> Result {
        match self {
            Self::Generate { waves, prefix, bucket, prefill_chunk } => {
                write!(f, "prefill chunk={prefill_chunk} prefix={prefix}; fork; decode bucket={bucket}")?;
                if waves.is_empty() { f.write_str(" waves=all") } else { write!(f, " waves={waves:?}") }
            }
            Self::Score { mode, bucket } => {
                let mode = match mode {
                    ScoreMode::Fused => "append",
                    ScoreMode::Fresh => "prefill",
                    ScoreMode::Shared => "share",
                };
                write!(f, "score {mode} bucket={bucket}")
            }
            Self::Verify { order, batch, at_once } => {
                write!(f, "verify order={order:?} batch={batch} at_once={at_once}")
            }
            Self::Unused => f.write_str("unused"),
        }
    }
}

impl Display for Decision {
    fn fmt(&self, f: &mut Formatter<'_>) -> Result {
        write!(f, "{}", self.topic)?;
        if let Some(site) = self.site {
            write!(f, " at site {site}")?;
        }
        writeln!(f, ": {} ({})", self.chosen, seconds(self.cost.seconds))?;
        writeln!(f, "  because {}", self.reason)?;
        for (name, cost) in &self.runners_up {
            writeln!(f, "  not {name} ({})", seconds(cost.seconds))?;
        }
        Ok(())
    }
}

impl Display for Plan {
    fn fmt(&self, f: &mut Formatter<'_>) -> Result {
        writeln!(f, "plan of {} for {} (profile {})", self.strategy.name, self.target, short(&self.target_hash))?;
        let a = &self.assumptions;
        writeln!(
            f,
            "assumes prompts of {} tokens, sequences of {} of their max, early stop with chance {}",
            a.prompt_tokens, a.length_share, a.stop_chance
        )?;
        for (i, model) in self.models.iter().enumerate() {
            let Some(m) = model else { continue };
            let s = &m.schedule;
            writeln!(
                f,
                "model {i} {}: {:?} {} layers, {} weights, {} KV pages\n  threads={} row_block={} tile_from={} \
                 attend_rows={} prologue={:?} interleave={} numerics={} kv={} attention={} rows≤{} heads≤{}",
                m.role,
                m.model.family,
                m.model.layers,
                bytes(u64_to_f64(m.weight_bytes)),
                m.kv_pages,
                s.threads,
                s.row_block,
                s.tile_from,
                s.attend_rows,
                s.prologue,
                s.interleave,
                s.numerics.name(),
                s.kv.name(),
                s.attention,
                s.max_rows,
                s.max_head_rows
            )?;
        }
        for (i, site) in self.sites.iter().enumerate() {
            writeln!(f, "site {i}: {site}")?;
        }
        writeln!(f, "predicted {}", self.cost)?;
        for o in &self.operators {
            writeln!(f, "{:indent$}{}: {} [{}]", "", o.name, o.cost, o.bound_by, indent = 2 + 2 * o.depth as usize)?;
        }
        for d in &self.decisions {
            write!(f, "decided {d}")?;
        }
        write!(f, "{}", self.strategy)
    }
}

#[allow(clippy::cast_precision_loss, reason = "sizes for people")]
fn u64_to_f64(x: u64) -> f64 {
    x as f64
}

fn short(hash: &str) -> &str {
    hash.get(..8).unwrap_or(hash)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn three_significant_digits() {
        for (x, want) in [
            (0.0, "0"),
            (1.234, "1.23"),
            (45.67, "45.7"),
            (99_950.0, "99950"),
            (7.891e12, "7.89e12"),
            (0.01234, "0.0123"),
            (9.996, "10.0"),
            (-0.9999, "-1.00"),
        ] {
            assert_eq!(three(x), want);
        }
        assert_eq!(seconds(0.0041), "4.10 ms");
        assert_eq!(bytes(1.21e9), "1.21 GB");
    }
}
