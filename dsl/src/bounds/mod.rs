//! Static bounds: the most tokens, calls, live sequences and KV that a strategy can use, by structural recursion.
//!
//! Sequence = sum, `par` = sum, `if` and `match` = max, `for` = count × body, `sample` = live × max, `redo` = ×2,
//! `within … else` = sum, `split` = its pool, `route` = choice + max including `else`. Parameters count with the upper
//! end of their range. Calls of functions are followed with what is known of their arguments ([`walk`]), so a bound of
//! a function depends on its caller. A strategy that may use more tokens or calls than it declares is an error; `time`
//! and `usd` are estimated and guarded elsewhere, KV bytes once the model is known.

pub(crate) mod cost;
mod sites;
pub(crate) mod value;
pub(crate) mod walk;

use crate::codes;
use crate::hir::{Const, Expr, ExprKind, Function, FunctionKind, Prim, Program, Stmt, Ty};
use cost::{spaced, tokens_text};
use ir::diagnostic::{Diagnostic, Span};
use ir::strategy::{Bounds, Limits};
use walk::{Forced, MAX_STEPS, Walk};

/// Steps of all walks over a program together.
const ALL_STEPS: u32 = 120_000;
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
    let mut left = ALL_STEPS;
    for (index, function) in program.functions.iter().enumerate() {
        let entry = matches!(function.kind, FunctionKind::Strategy | FunctionKind::Precompute);
        if !entry || function.name_span.file != 0 || function.body.is_none() {
            continue;
        }
        let walked = Walk::function(program, index, None, left.min(MAX_STEPS));
        left = left.saturating_sub(walked.steps);
        let finite = walked.messages.is_empty();
        messages.extend(walked.messages);
        if walked.stopped {
            // What calls it would be as large again.
            break;
        }
        if !finite {
            continue;
        }
        let mut bounds = walked.cost.bounds;
        bounds.tokens = walked.cost.tokens();
        let derivation = walked.cost.derivation();
        messages.extend(over(program, index, &bounds, &derivation, &mut left));
        rows.push(BoundsRow { strategy: function.name.clone(), bounds, declared: function.within, derivation });
    }
    (rows, messages)
}

/// Messages about bounds above what is declared.
fn over(program: &Program, index: usize, bounds: &Bounds, derivation: &[String], left: &mut u32) -> Vec<Diagnostic> {
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
        let mut ways = smaller(program, index, left, |b| b.tokens <= limit);
        ways.push(format!("tokens: {}", tokens_text(round_up(bounds.tokens))));
        messages.push(d.help(ways.join(", or ")));
    }
    if let Some(limit) = function.within.calls.filter(|limit| bounds.calls > *limit) {
        let message =
            format!("`{name}` may call models {} times, but declares at most {}", spaced(bounds.calls), spaced(limit));
        let d = Diagnostic::error(codes::E0401, function.within_span, message, "declares less than it may use");
        let mut ways = smaller(program, index, left, |b| b.calls <= limit);
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

/// What would make the strategy fit: for each parameter with a range its largest upper end, for each loop over a range
/// of literals its most rounds.
fn smaller(program: &Program, index: usize, left: &mut u32, fits: impl Fn(&Bounds) -> bool) -> Vec<String> {
    let function = &program.functions[index];
    let mut fits_at = |forced: Forced| {
        let walked = Walk::function(program, index, Some(forced), (*left).min(MAX_STEPS));
        *left = left.saturating_sub(walked.steps);
        let bounds = Bounds { tokens: walked.cost.tokens(), ..walked.cost.bounds };
        walked.messages.is_empty() && fits(&bounds)
    };
    let mut ways = Vec::new();
    for (i, param) in function.params.iter().enumerate() {
        let (Some((lo, hi)), Ty::Int | Ty::Tokens) = (param.range, &param.ty) else { continue };
        let lo = lo as i128;
        if let Some(most) = largest(lo, hi as i128, |value| fits_at(Forced::Param(i, value))) {
            ways.push(match param.ty {
                Ty::Tokens => format!("{} in {}..={}", param.name, shown(lo), shown(most)),
                _ => format!("{} in {lo}..={most}", param.name),
            });
        }
    }
    let mut loops = Vec::new();
    if let Some(body) = &function.body {
        literal_loops(body, &mut loops);
    }
    for (id, lo, hi) in loops {
        let rounds = |most: i128| Forced::Rounds(id, u64::try_from(most).unwrap_or(0));
        if let Some(most) = largest(1, hi - lo, |value| fits_at(rounds(value))) {
            ways.push(format!("{lo}..{}", lo + most));
        }
    }
    ways
}

/// The largest value of `lo..hi` that fits, if the smallest does; `hi` is known not to.
fn largest(lo: i128, hi: i128, mut fits: impl FnMut(i128) -> bool) -> Option<i128> {
    if lo >= hi || !fits(lo) {
        return None;
    }
    let (mut good, mut bad) = (lo, hi);
    while bad - good > 1 {
        let middle = good + (bad - good) / 2;
        if fits(middle) {
            good = middle;
        } else {
            bad = middle;
        }
    }
    Some(good)
}

/// Loops over `lo..hi` in the statements of a body: number, lo, hi.
fn literal_loops(e: &Expr, loops: &mut Vec<(u32, i128, i128)>) {
    match &e.kind {
        ExprKind::For(f) => {
            if let ExprKind::Prim(Prim::Range, ends) = &f.iter.kind
                && let [ExprKind::Const(Const::Int(lo)), ExprKind::Const(Const::Int(hi))] =
                    [&ends[0].kind, &ends[1].kind]
            {
                loops.push((e.id, i128::from(*lo), i128::from(*hi)));
            }
            literal_loops(&f.body, loops);
        }
        ExprKind::Block(stmts, value) => {
            for stmt in stmts {
                let (Stmt::Let(_, e) | Stmt::Expr(e)) = stmt;
                literal_loops(e, loops);
            }
            if let Some(value) = value {
                literal_loops(value, loops);
            }
        }
        ExprKind::Coalesce(a, _) => literal_loops(a, loops),
        _ => {}
    }
}

fn shown(tokens: i128) -> String {
    tokens_text(u64::try_from(tokens).unwrap_or(0))
}

/// Up to a whole number of thousands.
fn round_up(tokens: u64) -> u64 {
    if tokens < 1000 { tokens } else { tokens.div_ceil(1000).saturating_mul(1000) }
}

/// What is known of a parameter: its range.
pub(crate) fn of_param(function: &Function, i: usize, forced: Option<Forced>) -> value::Value<'static> {
    let param = &function.params[i];
    match (&param.ty, param.range) {
        (Ty::Int | Ty::Tokens | Ty::Bytes, Some((lo, hi))) => {
            let hi = match forced {
                Some(Forced::Param(which, value)) if which == i => value,
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
