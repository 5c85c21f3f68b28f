//! Static bounds: the most tokens, calls, live sequences and KV that a strategy can use, by structural recursion.
//!
//! Sequence = sum, `par` = sum, `if` and `match` = max, `for` = count × body, `sample` = live × max, `redo` = ×2,
//! `within … else` = sum, `split` = its pool, `route` = choice + max including `else`. Parameters count with the upper
//! end of their range. Calls of functions are followed with what is known of their arguments ([`walk`]), so a bound of
//! a function depends on its caller. A strategy that may use more tokens or calls than it declares is an error; `time`
//! and `usd` are estimated and guarded elsewhere, KV bytes once the model is known.

pub(crate) mod cost;
pub(crate) mod value;
pub(crate) mod walk;

use crate::codes;
use crate::hir::{Const, Function, FunctionKind, Program, Ty};
use cost::{spaced, tokens_text};
use ir::diagnostic::{Diagnostic, Span};
use ir::strategy::{Bounds, Limits};
use walk::Walk;

/// Sequences alive at once that no plan can hold.
pub(crate) const MAX_LIVE: u64 = 65_536;

/// The bounds of one strategy or precompute.
#[derive(Clone, Debug, PartialEq)]
pub struct BoundsRow {
    /// Name.
    pub strategy: String,
    /// Proved maxima.
    pub bounds: Bounds,
    /// What `within` declares.
    pub declared: Limits,
    /// How the tokens come about: one product a line.
    pub derivation: Vec<String>,
}

/// The bounds of the strategies and precomputes of the main file, in its order. Those without a bound have no row; the
/// messages about them come from [`crate::check`].
#[must_use]
pub fn bounds(program: &Program) -> Vec<BoundsRow> {
    analyse(program).0
}

/// Rows, and what is wrong: missing maxima, lists longer than declared, more than declared.
pub(crate) fn analyse(program: &Program) -> (Vec<BoundsRow>, Vec<Diagnostic>) {
    let mut rows = Vec::new();
    let mut messages = Vec::new();
    for (index, function) in program.functions.iter().enumerate() {
        let entry = matches!(function.kind, FunctionKind::Strategy | FunctionKind::Precompute);
        if !entry || function.name_span.file != 0 || function.body.is_none() {
            continue;
        }
        let walked = Walk::function(program, index, None);
        let finite = walked.messages.is_empty();
        messages.extend(walked.messages);
        if !finite {
            continue;
        }
        let mut bounds = walked.cost.bounds;
        bounds.tokens = walked.cost.tokens();
        let derivation = walked.cost.derivation();
        messages.extend(over(program, index, &bounds, &derivation));
        rows.push(BoundsRow { strategy: function.name.clone(), bounds, declared: function.within, derivation });
    }
    (rows, messages)
}

/// Messages about bounds above what is declared.
fn over(program: &Program, index: usize, bounds: &Bounds, derivation: &[String]) -> Vec<Diagnostic> {
    let function = &program.functions[index];
    let mut messages = Vec::new();
    let name = &function.name;
    if let Some(limit) = function.within.tokens.filter(|limit| bounds.tokens > *limit) {
        let message =
            format!("`{name}` may sample {} tokens, but declares at most {}", spaced(bounds.tokens), spaced(limit));
        let mut d = Diagnostic::error(codes::E0401, function.within_span, message, "declares less than it may use");
        for line in derivation {
            d = d.note(line.clone());
        }
        let mut ways = smaller_params(program, index, |b| b.tokens <= limit);
        ways.push(format!("tokens: {}", tokens_text(round_up(bounds.tokens))));
        messages.push(d.help(ways.join(", or ")));
    }
    if let Some(limit) = function.within.calls.filter(|limit| bounds.calls > *limit) {
        let message =
            format!("`{name}` may call models {} times, but declares at most {}", spaced(bounds.calls), spaced(limit));
        let d = Diagnostic::error(codes::E0401, function.within_span, message, "declares less than it may use");
        let mut ways = smaller_params(program, index, |b| b.calls <= limit);
        ways.push(format!("calls: {}", bounds.calls));
        messages.push(d.help(ways.join(", or ")));
    }
    if bounds.tokens == u64::MAX || bounds.calls == u64::MAX {
        let message = format!("`{name}` may use more than can be counted");
        messages.push(
            Diagnostic::error(codes::E0304, function.name_span, message, "its maximum does not fit 64 bits")
                .help("lower the counts of its loops and samples"),
        );
    } else if bounds.live > MAX_LIVE {
        let message = format!(
            "`{name}` may hold {} sequences at once and sample {} tokens",
            spaced(bounds.live),
            spaced(bounds.tokens)
        );
        messages.push(
            Diagnostic::error(codes::E0304, function.name_span, message, "more than any plan can hold")
                .help(format!("at most {} sequences may be alive", spaced(MAX_LIVE))),
        );
    }
    messages
}

/// For each parameter with a range: the largest range under which the strategy fits.
fn smaller_params(program: &Program, index: usize, fits: impl Fn(&Bounds) -> bool) -> Vec<String> {
    let function = &program.functions[index];
    let mut ways = Vec::new();
    for (i, param) in function.params.iter().enumerate() {
        let (Some((lo, hi)), Ty::Int | Ty::Tokens) = (param.range, &param.ty) else { continue };
        let (lo, hi) = (lo as i128, hi as i128);
        let fits_at = |value: i128| {
            let walked = Walk::function(program, index, Some((i, value)));
            let bounds = Bounds { tokens: walked.cost.tokens(), ..walked.cost.bounds };
            walked.messages.is_empty() && fits(&bounds)
        };
        if !fits_at(lo) {
            continue;
        }
        let (mut good, mut bad) = (lo, hi);
        while bad - good > 1 {
            let middle = good + (bad - good) / 2;
            if fits_at(middle) {
                good = middle;
            } else {
                bad = middle;
            }
        }
        ways.push(match param.ty {
            Ty::Tokens => format!("{} in {}..={}", param.name, shown(lo), shown(good)),
            _ => format!("{} in {lo}..={good}", param.name),
        });
    }
    ways
}

fn shown(tokens: i128) -> String {
    tokens_text(u64::try_from(tokens).unwrap_or(0))
}

/// Up to a whole number of thousands.
fn round_up(tokens: u64) -> u64 {
    if tokens < 1000 { tokens } else { tokens.div_ceil(1000).saturating_mul(1000) }
}

/// What is known of a parameter: its range.
pub(crate) fn of_param(function: &Function, i: usize, forced: Option<(usize, i128)>) -> value::Value<'static> {
    let param = &function.params[i];
    match (&param.ty, param.range) {
        (Ty::Int | Ty::Tokens | Ty::Bytes, Some((lo, hi))) => {
            let hi = match forced {
                Some((which, value)) if which == i => value,
                _ => hi as i128,
            };
            value::Value::Number(value::Number::between(Some(lo as i128), Some(hi)))
        }
        (Ty::Int, None) => value::Value::Number(value::Number::between(None, None)),
        _ => {
            let known = value::Value::of_type(&param.ty);
            match (&param.default, &param.ty) {
                (Some(Const::None), _) | (_, Ty::Optional(_)) => value::join(known, value::Value::Nothing),
                _ => known,
            }
        }
    }
}

/// A message about something without a static maximum.
pub(crate) fn unbounded(span: Span, what: &str, help: &str) -> Diagnostic {
    Diagnostic::error(codes::E0301, span, format!("{what} has no static maximum"), "could be any number")
        .help(help.to_owned())
}
