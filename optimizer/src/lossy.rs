//! Lossy alternatives of a model's cache and attention: which of them a strategy allows, and which of those is cheapest.
//!
//! Takes a strategy's allowances, the model on its target and a typical step; returns how keys and values are kept and
//! which pages are attended to, with the decisions; [`crate::classes`] decides on the arithmetic by whole plans. Nothing
//! lossy is ever chosen without an allowance, whatever it saves; among what is allowed only the price decides, and of equal
//! prices the exact alternative wins.

use crate::physical::Demand;
use crate::roofline::{Roofline, Time};
use ir::plan::{Cost, Decision};
use ir::program::{MOST_PAGES, PAGE};
use ir::schedule::{Attention, KvFormat};
use ir::strategy::{Allow, Strategy};
use ir::target::TargetKind;

/// Choices that the caller insists on, for measuring; each must be allowed by the strategy.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Forced {
    /// How keys and values are kept.
    pub kv: Option<KvFormat>,
    /// Which pages are attended to.
    pub attention: Option<Attention>,
}

/// What attention to a part of the context loses: tokens of context, pages attended to, mean Kullback-Leibler divergence
/// (nats) of next-token distributions from those of dense attention. So much less probable, as a share, does a token become
/// on average that the model would write by itself. Measured on SmolLM2-135M by `scripts/sparse-quality`, on five texts that
/// differ by up to a factor of eleven: of each context and budget the largest loss counts; docs/sparse-attention.md has the
/// latest of them. Between rows the longer context counts; contexts beyond the last row keep its share of pages.
const MEASURED: &[(f64, u32, f64)] = &[
    (2048.0, 16, 0.2001),
    (2048.0, 32, 0.0760),
    (2048.0, 64, 0.0201),
    (4096.0, 16, 0.4032),
    (4096.0, 32, 0.2094),
    (4096.0, 64, 0.0973),
    (4096.0, 128, 0.0273),
    (8000.0, 32, 0.3629),
    (8000.0, 64, 0.1593),
    (8000.0, 128, 0.0844),
    (8000.0, 256, 0.0176),
];

/// What a strategy allows.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(crate) struct Allowed {
    /// Keys and values may be rounded to int8.
    int8: bool,
    /// Loss that attention to a part of the context may cause, as [`MEASURED`] has it.
    sparse: Option<f64>,
    /// The layers' weights may be rounded to int8 with one scale per output channel.
    pub(crate) weights: bool,
}

impl Allowed {
    /// The allowances of a strategy. Fewer bits than 8 allow 8.
    pub(crate) fn of(allow: &[Allow]) -> Self {
        let find = |name: &str| allow.iter().find(|a| a.name == name).map(|a| a.value.as_str());
        let sparse = find("sparse_attention").and_then(|v| v.parse().ok()).filter(|x: &f64| *x > 0.0);
        Self { int8: find("kv_quant").is_some(), sparse, weights: find("weight_quant").is_some() }
    }

    /// What the caller insists on, when the strategy allows it.
    ///
    /// # Errors
    /// Names the choice and the allowance that is missing.
    pub(crate) fn check(self, forced: &Forced, strategy: &Strategy) -> Result<(), String> {
        let refuse = |what: String, allowance: &str| {
            Err(format!("{what} is lossy and `{}` does not allow it: write `allow {{ {allowance} }}`", strategy.name))
        };
        if forced.kv == Some(KvFormat::Int8) && !self.int8 {
            return refuse("a KV cache of int8".to_owned(), "kv_quant: int8");
        }
        match forced.attention {
            Some(attention) if attention != Attention::Dense && self.sparse.is_none() => {
                refuse(format!("attention `{attention}`"), "sparse_attention: 1%")
            }
            _ => Ok(()),
        }
    }
}

/// The fewest pages whose measured loss at a context of `tokens` is within `tolerance`; `None` when none measured is.
pub(crate) fn budget(tokens: f64, tolerance: f64) -> Option<u32> {
    let longest = MEASURED.iter().map(|m| m.0).fold(0.0, f64::max);
    let row = MEASURED.iter().map(|m| m.0).filter(|t| *t >= tokens).fold(f64::INFINITY, f64::min).min(longest);
    // Texts differ: a loss that was larger at a shorter context counts for the longer one, too.
    let loss = |pages: u32| MEASURED.iter().filter(|m| m.1 == pages && m.0 <= row).map(|m| m.2).fold(0.0, f64::max);
    let pages = MEASURED.iter().filter(|m| m.0 == row && loss(m.1) <= tolerance).map(|m| m.1).min()?;
    let scale = (tokens / row).max(1.0);
    #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "pages of a context are far below 2^32")]
    let pages = (f64::from(pages) * scale).ceil() as u32;
    Some(pages)
}

/// Seconds of the decode steps of a demand.
fn decode(roofline: &Roofline<'_>, demand: Demand) -> Time {
    roofline.decode(demand.branches, demand.prompt, demand.tokens, false)
}

/// Chooses a model's cache and attention and says why; no decision where nothing is allowed.
pub(crate) fn choose(
    roofline: &Roofline<'_>,
    allowed: Allowed,
    forced: &Forced,
    demand: Demand,
) -> (KvFormat, Attention, Vec<Decision>) {
    let target = roofline.target();
    // Kernels for a part of the pages exist for CPUs.
    let here = target.kind == TargetKind::Cpu;
    let formats: Vec<KvFormat> = match forced.kv {
        Some(kv) => vec![kv],
        None if allowed.int8 && here => vec![KvFormat::F16, KvFormat::Int8],
        None => vec![KvFormat::F16],
    };
    let context = demand.prompt + demand.tokens;
    let chosen_from = roofline.model().context.div_ceil(PAGE as u32) as usize;
    let sparse = allowed.sparse.filter(|_| chosen_from <= MOST_PAGES);
    let budget = sparse.and_then(|tolerance| budget(context, tolerance));
    let attentions: Vec<Attention> = match (forced.attention, budget) {
        (Some(attention), _) => vec![attention],
        (None, Some(pages)) if here => vec![Attention::Dense, Attention::sparse(pages)],
        _ => vec![Attention::Dense],
    };
    let mut options: Vec<(KvFormat, Attention, Time)> = Vec::new();
    for kv in &formats {
        for attention in &attentions {
            options.push((*kv, *attention, decode(&roofline.with_cache(*kv, *attention), demand)));
        }
    }
    options.sort_by(|a, b| a.2.seconds().total_cmp(&b.2.seconds()));
    let (kv, attention, best) = options[0];
    let cost = |time: &Time, kv: KvFormat| {
        let keys = demand.prompt + demand.branches * demand.tokens;
        let bytes = keys * roofline.with_cache(kv, Attention::Dense).kv_bytes_per_token();
        time.cost(demand.branches * demand.tokens, bytes, target)
    };
    let mut decisions = Vec::new();
    let mut decide = |topic: &str, chosen: String, others: Vec<(String, Cost)>, reason: String| {
        let cost = cost(&best, kv);
        decisions.push(Decision { topic: topic.to_owned(), site: None, chosen, cost, runners_up: others, reason });
    };
    if allowed.int8 || forced.kv.is_some() {
        let others = options.iter().filter(|o| o.0 != kv && o.1 == attention);
        let others = others.map(|o| (o.0.name().to_owned(), cost(&o.2, o.0))).collect();
        let reason = match (forced.kv, kv) {
            (Some(_), _) => "asked for".to_owned(),
            (None, KvFormat::Int8) => format!("allowed, and half the bytes of {context:.0} keys"),
            (None, KvFormat::F16) => format!("at {context:.0} keys rounding costs more than it saves"),
        };
        decide("KV format", kv.name().to_owned(), others, reason);
    }
    if allowed.sparse.is_some() || forced.attention.is_some() {
        let others = options.iter().filter(|o| o.1 != attention && o.0 == kv);
        let others = others.map(|o| (o.1.to_string(), cost(&o.2, o.0))).collect();
        let reason = match (forced.attention, attention, budget) {
            (Some(_), ..) => "asked for".to_owned(),
            (None, Attention::Dense, None) => {
                format!("no measured budget is within the allowed loss at {context:.0} keys of context")
            }
            (None, Attention::Dense, Some(pages)) => {
                let keys = pages as usize * PAGE;
                format!("{context:.0} keys of context, {keys} would be within the allowed loss: nothing to save")
            }
            (None, _, _) => format!("the fewest keys within the allowed loss at {context:.0} keys of context"),
        };
        decide("attention", attention.to_string(), others, reason);
    }
    (kv, attention, decisions)
}

#[cfg(test)]
mod tests {
    use super::*;
    use ir::{model::known, target::builtin};

    fn allow(name: &str, value: &str) -> Allow {
        Allow { name: name.to_owned(), value: value.to_owned() }
    }

    fn chosen(allow: &[Allow], prompt: f64) -> (KvFormat, Attention, Vec<Decision>) {
        let model = known("smollm2-135m").expect("a row of the table");
        let target = builtin("reference").expect("a built-in profile");
        let demand = Demand { branches: 1.0, prompt, tokens: 100.0 };
        choose(&Roofline::new(&model, &target), Allowed::of(allow), &Forced::default(), demand)
    }

    #[test]
    fn nothing_lossy_without_an_allowance() {
        for prompt in [100.0, 8000.0, 1e6] {
            let (kv, attention, decisions) = chosen(&[allow("kv_evict", "0.1")], prompt);
            assert_eq!((kv, attention, decisions), (KvFormat::F16, Attention::Dense, Vec::new()));
        }
    }

    #[test]
    fn the_context_decides_among_what_is_allowed() {
        let all = [allow("sparse_attention", "0.2"), allow("kv_quant", "int8")];
        let (_, attention, decisions) = chosen(&all, 100.0);
        assert_eq!((attention, decisions.len()), (Attention::Dense, 2));
        let (kv, attention, decisions) = chosen(&all, 7900.0);
        assert!(attention.chooses() && attention.pages() < Some(500), "{kv:?}, {attention}");
        assert!(decisions.iter().all(|d| d.runners_up.iter().all(|r| r.1.seconds >= d.cost.seconds)), "{decisions:?}");
        // A tolerance that no measured budget meets.
        let (_, attention, decisions) = chosen(&[allow("sparse_attention", "0.000001")], 7900.0);
        assert!(attention == Attention::Dense && decisions[0].reason.contains("no measured budget"), "{decisions:?}");
    }

    #[test]
    fn budgets_grow_with_contexts_and_demands() {
        let mut last = 0;
        for tokens in [1000.0, 2048.0, 3000.0, 8192.0, 16_384.0, 100_000.0] {
            let pages = budget(tokens, 0.2).expect("a large tolerance");
            assert!(pages >= last, "{tokens}");
            last = pages;
        }
        for tolerance in [0.5, 0.1, 0.05, 0.02] {
            let pages = budget(8000.0, tolerance).unwrap_or(u32::MAX);
            assert!(pages >= budget(8000.0, 2.0 * tolerance).unwrap_or(u32::MAX));
        }
    }

    #[test]
    fn what_is_forced_must_be_allowed() {
        let strategy = Strategy { name: "s".to_owned(), ..empty() };
        let int8 = Forced { kv: Some(KvFormat::Int8), attention: None };
        let window = Forced { kv: None, attention: Some(Attention::window(8)) };
        let refused = |allow: &[Allow], forced: &Forced| Allowed::of(allow).check(forced, &strategy);
        assert!(refused(&[], &int8).is_err_and(|e| e.contains("kv_quant: int8")));
        assert!(refused(&[allow("kv_quant", "int4")], &int8).is_ok());
        assert!(refused(&[allow("kv_quant", "int8")], &window).is_err_and(|e| e.contains("sparse_attention")));
        assert!(refused(&[allow("sparse_attention", "0.01")], &window).is_ok());
        assert!(refused(&[], &Forced { kv: Some(KvFormat::F16), attention: Some(Attention::Dense) }).is_ok());
    }

    fn empty() -> Strategy {
        use ir::strategy::{Bounds, Limits, Region, Ty};
        Strategy {
            name: String::new(),
            doc: String::new(),
            params: Vec::new(),
            result: Ty::Text,
            within: Limits::default(),
            allow: Vec::new(),
            roles: Vec::new(),
            tunables: Vec::new(),
            bounds: Bounds { tokens: 0, calls: 0, live: 0, kv_tokens: 0 },
            sites: 0,
            vars: 0,
            body: Region { params: Vec::new(), binds: Vec::new(), result: None },
        }
    }
}
