//! Predicted beside measured: steps of real models against the cost model that a profile feeds.
//!
//! Takes a loaded model and its roofline, runs prefill and decode steps of many shapes, returns both numbers for each. A
//! profile is measured on synthetic models of other shapes, so every configuration here is held out. Prints nothing.

use crate::measure;
use crate::profile::lower_quartile;
use anyhow::Result;
use ir::plan::PrefixMode;
use ir::schedule::{Attention, KvFormat};
use optimizer::lossy::Forced;
use optimizer::roofline::{Part, Roofline};
use runtime::forward::LocalModel;
use runtime::model::{Append, LanguageModel, SeqId, Wanted};
use std::time::Instant;

/// How keys are kept and attended to in a configuration.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// 16-bit keys, all of them.
    Dense,
    /// int8 keys, all of them.
    Int8,
    /// 16-bit keys of some pages.
    Sparse,
}

impl Kind {
    /// All kinds.
    pub const ALL: [Self; 3] = [Self::Dense, Self::Int8, Self::Sparse];

    /// Name in tables.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Dense => "dense",
            Self::Int8 => "int8",
            Self::Sparse => "sparse:64",
        }
    }

    /// What a plan is made to take.
    #[must_use]
    pub fn forced(self) -> Forced {
        let (kv, attention) = match self {
            Self::Dense => (KvFormat::F16, Attention::Dense),
            Self::Int8 => (KvFormat::Int8, Attention::Dense),
            Self::Sparse => (KvFormat::F16, Attention::sparse(64)),
        };
        Forced { kv: Some(kv), attention: Some(attention) }
    }

    /// Whether this kind is measured in a configuration: what says something about it beyond what the dense kind says.
    fn measures(self, config: Config) -> bool {
        match (self, config) {
            (Self::Dense, _) => true,
            (Self::Int8, Config::Prefill { rows, .. }) => rows == 256,
            (_, Config::Prefill { .. }) => false,
            (Self::Int8, Config::Decode { branches, depth, .. }) => depth >= 300 && matches!(branches, 1 | 4 | 12),
            (Self::Sparse, Config::Decode { branches, depth, prefix }) => {
                depth > 1024 && prefix == PrefixMode::Shared && matches!(branches, 1 | 2 | 8)
            }
        }
    }
}

/// One configuration of a model.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Config {
    /// `rows` prompt tokens after `depth` cached ones.
    Prefill {
        /// New tokens.
        rows: usize,
        /// Tokens in the cache.
        depth: usize,
    },
    /// One token for each of `branches` sequences after `depth` cached tokens.
    Decode {
        /// Sequences.
        branches: usize,
        /// Tokens each of them has cached.
        depth: usize,
        /// How the cached tokens are shared.
        prefix: PrefixMode,
    },
}

impl std::fmt::Display for Config {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Prefill { rows, depth } => write!(f, "prefill {rows} after {depth}"),
            Self::Decode { branches: 1, depth, .. } => write!(f, "decode 1 after {depth}"),
            Self::Decode { branches, depth, prefix } => {
                let how = match prefix {
                    PrefixMode::Shared => "shared",
                    PrefixMode::Copied => "copied",
                    PrefixMode::Cascade => "cascade",
                };
                write!(f, "decode {branches} after {depth} {how}")
            }
        }
    }
}

/// A configuration's two numbers.
#[derive(Clone, Copy, Debug)]
pub struct Pair {
    /// What ran.
    pub config: Config,
    /// Over which keys.
    pub kind: Kind,
    /// Seconds of a step by the cost model.
    pub predicted: f64,
    /// Measured seconds of a step: a quarter of the runs were faster.
    pub measured: f64,
}

impl Pair {
    /// Relative error of the prediction: positive when it was too high.
    #[must_use]
    pub fn error(&self) -> f64 {
        self.predicted / self.measured - 1.0
    }
}

/// The configurations that fit a context of `context` tokens, deepest first, so that one long sequence serves all.
#[must_use]
pub fn configs(context: usize) -> Vec<Config> {
    let mut all = Vec::new();
    for depth in [7000, 3000, 1100, 300, 40] {
        if depth + 512 > context {
            continue;
        }
        for (rows, at) in [(256, 3000), (128, 1100), (512, 40), (48, 300)] {
            if at == depth {
                all.push(Config::Prefill { rows, depth });
            }
        }
        for branches in [1, 2, 4, 8, 12, 32] {
            let prefix = PrefixMode::Shared;
            // Many branches at great depth take long and say what fewer say.
            if branches * depth <= 60_000 {
                all.push(Config::Decode { branches, depth, prefix });
            }
            if branches >= 8 && (300..=3000).contains(&depth) && branches * depth <= 60_000 {
                all.push(Config::Decode { branches, depth, prefix: PrefixMode::Cascade });
            }
        }
    }
    all
}

/// Measures and predicts the configurations of a kind no deeper than `deepest`, on a model and with a roofline of that kind;
/// `say` hears of each. The order is that of [`configs`].
///
/// # Errors
/// When a step fails or the pool is too small.
pub fn run(
    model: &mut LocalModel,
    roofline: &Roofline<'_>,
    kind: Kind,
    deepest: usize,
    say: &mut dyn FnMut(&Pair),
) -> Result<Vec<Pair>> {
    let info = model.info().clone();
    let all: Vec<Config> =
        configs(info.context).into_iter().filter(|c| depth(*c) <= deepest && kind.measures(*c)).collect();
    let ids = measure::tokens(all.iter().map(|c| depth(*c)).max().unwrap_or(0) + 512, info.vocab);
    model.set_prefix_mode(PrefixMode::Shared);
    let first = model.create()?;
    let fill = all.iter().map(|c| depth(*c)).max().unwrap_or(0);
    for chunk in ids[..fill].chunks(512) {
        model.step(&[Append { seq: first, tokens: chunk, wanted: Wanted::None, decoded: false }], &mut |_, _, _| {})?;
    }
    let mut pairs = Vec::new();
    for config in all {
        let at = depth(config);
        model.truncate(first, at)?;
        let measured = measure_one(model, first, config, &ids)?;
        let pair = Pair { config, kind, predicted: predict(roofline, config), measured };
        say(&pair);
        pairs.push(pair);
    }
    model.free(first);
    Ok(pairs)
}

fn depth(config: Config) -> usize {
    match config {
        Config::Prefill { depth, .. } | Config::Decode { depth, .. } => depth,
    }
}

/// Seconds of a step by the cost model.
#[allow(clippy::cast_precision_loss, reason = "token counts are small")]
fn predict(roofline: &Roofline<'_>, config: Config) -> f64 {
    match config {
        Config::Prefill { rows, depth } => {
            let part = Part { count: 1.0, rows: rows as f64, keys: depth as f64, shared: 0.0, together: false };
            roofline.step(&[part], 1.0).seconds()
        }
        Config::Decode { branches, depth, prefix } => {
            optimizer::prefix_step(roofline, branches as f64, depth as f64, 0.0, prefix)
                .map_or(f64::NAN, |step| step.seconds())
        }
    }
}

/// Seconds of a step, of which a quarter of the runs were faster, as rates are measured; the sequence is as before
/// afterwards.
fn measure_one(model: &mut LocalModel, first: SeqId, config: Config, ids: &[u32]) -> Result<f64> {
    const REPEATS: usize = 9;
    let depth = depth(config);
    let mut seconds = Vec::with_capacity(REPEATS);
    match config {
        Config::Prefill { rows, .. } => {
            for _ in 0..4 {
                let tokens = &ids[depth..depth + rows];
                let append = Append { seq: first, tokens, wanted: Wanted::Last, decoded: false };
                let start = Instant::now();
                model.step(&[append], &mut |_, _, _| {})?;
                seconds.push(start.elapsed().as_secs_f64());
                model.truncate(first, depth)?;
            }
        }
        Config::Decode { branches, prefix, .. } => {
            model.set_prefix_mode(prefix);
            let mut seqs = vec![first];
            for _ in 1..branches {
                seqs.push(model.fork(first)?);
            }
            // The first step makes each branch's own page; it is not counted.
            for i in 0..=REPEATS {
                let appends: Vec<Append<'_>> = seqs
                    .iter()
                    .enumerate()
                    .map(|(k, seq)| {
                        let at = (depth + 31 * k + i) % ids.len();
                        Append { seq: *seq, tokens: &ids[at..=at], wanted: Wanted::Last, decoded: true }
                    })
                    .collect();
                let start = Instant::now();
                model.step(&appends, &mut |_, _, _| {})?;
                if i > 0 {
                    seconds.push(start.elapsed().as_secs_f64());
                }
            }
            for seq in &seqs[1..] {
                model.free(*seq);
            }
            model.truncate(first, depth)?;
            model.set_prefix_mode(PrefixMode::Shared);
        }
    }
    Ok(lower_quartile(&mut seconds))
}

/// Median and 90th percentile of the absolute errors.
#[must_use]
pub fn quantiles(pairs: &[Pair]) -> (f64, f64) {
    let mut errors: Vec<f64> = pairs.iter().map(|p| p.error().abs()).collect();
    errors.sort_by(f64::total_cmp);
    let at = |share: f64| {
        #[allow(
            clippy::cast_possible_truncation,
            clippy::cast_sign_loss,
            clippy::cast_precision_loss,
            reason = "an index"
        )]
        let i = (share * errors.len() as f64).ceil() as usize;
        errors.get(i.saturating_sub(1)).copied().unwrap_or(f64::NAN)
    };
    (at(0.5), at(0.9))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn enough_configurations_and_in_order_of_depth() {
        let all = configs(8192);
        let of = |kind: Kind| all.iter().filter(|c| kind.measures(**c)).count();
        assert!(2 * of(Kind::Dense) >= 60, "{} configurations on one and all threads", all.len());
        assert!(of(Kind::Int8) >= 10 && of(Kind::Sparse) >= 5, "{} {}", of(Kind::Int8), of(Kind::Sparse));
        assert!(all.windows(2).all(|w| depth(w[0]) >= depth(w[1])));
        assert!(configs(1024).iter().all(|c| depth(*c) <= 512));
    }

    #[test]
    fn quantiles_of_known_errors() {
        let config = Config::Prefill { rows: 1, depth: 0 };
        let pairs: Vec<Pair> = (1..=10)
            .map(|i| Pair { config, kind: Kind::Dense, predicted: 1.0 + f64::from(i) / 100.0, measured: 1.0 })
            .collect();
        let (median, p90) = quantiles(&pairs);
        assert!((median - 0.05).abs() < 1e-9 && (p90 - 0.09).abs() < 1e-9);
    }
}
