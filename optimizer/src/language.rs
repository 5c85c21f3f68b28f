//! Plan terms as an egg language: the only door between the planner and egg.
//!
//! A term describes how the sites of a strategy are carried out. Effects keep their order: a plan is a list of site
//! terms (`seq`), and rules rewrite inside a site only. Randomness is an operand: `draw` names the site (hence its random
//! stream) and the range of sequence indices, so that two draws are equal only when they are the same draw.

use crate::facts::{Check, Facts, Kind};
use egg::{Id, RecExpr, define_language};

define_language! {
    /// A plan term.
    pub(crate) enum Term {
        Num(u32),
        // (seq first then): site terms in order, as a balanced tree
        "seq" = Seq([Id; 2]),
        "end" = End,
        // (prefill site context role): keys of a context; equal contexts are computed once
        "prefill" = Prefill([Id; 3]),
        // (gen prefill draws)
        "gen" = Gen([Id; 2]),
        // (draw site lo hi): sequences lo..hi of a site, decoded together unless a rule cuts them into waves
        "draw" = Draw([Id; 3]),
        // (wave site lo hi): sequences lo..hi of a site decoded together, not to be cut again
        "wave" = Wave([Id; 3]),
        // (then a b): b starts when a has ended and no rule of the strategy has stopped the site
        "then" = Then([Id; 2]),
        // (verify site checks): a conjunction, tried left to right, stopping at the first that fails
        "verify" = Verify([Id; 2]),
        // (check position kind)
        "check" = CheckOf([Id; 2]),
        // (all check rest)
        "all" = All([Id; 2]),
        "pass" = Pass,
        // (fresh site context): the whole context is prefilled again
        "fresh" = Fresh([Id; 2]),
        // (extend site context base): appended to the keys that site `base` left behind
        "extend" = Extend([Id; 3]),
        // (score site how)
        "score" = Score([Id; 2]),
    }
}

/// The seed term: every site as written, all sequences at once, checks in source order, contexts computed afresh.
pub(crate) fn encode(facts: &Facts) -> RecExpr<Term> {
    let mut expr = RecExpr::default();
    let mut sites: Vec<Id> = Vec::new();
    for (index, site) in facts.sites.iter().enumerate() {
        let index = u32::try_from(index).expect("sites are numbered with 32 bits");
        let this = expr.add(Term::Num(index));
        let term = match &site.kind {
            Kind::Generate { n, .. } => {
                let how = context(&mut expr, facts, index);
                let (lo, hi) = (expr.add(Term::Num(0)), expr.add(Term::Num(*n)));
                let draw = expr.add(Term::Draw([this, lo, hi]));
                expr.add(Term::Gen([how, draw]))
            }
            Kind::Verify(checks) => {
                let mut chain = expr.add(Term::Pass);
                for (position, check) in checks.iter().enumerate().rev() {
                    let position = u32::try_from(position).expect("checks are numbered with 32 bits");
                    let check = [expr.add(Term::Num(position)), expr.add(Term::Num(*check as u32))];
                    let check = expr.add(Term::CheckOf(check));
                    chain = expr.add(Term::All([check, chain]));
                }
                expr.add(Term::Verify([this, chain]))
            }
            Kind::Choose(_) | Kind::Expect | Kind::LogProb => {
                let how = context(&mut expr, facts, index);
                expr.add(Term::Score([this, how]))
            }
        };
        sites.push(term);
    }
    sequence(&mut expr, &sites);
    expr
}

/// Site terms in order; balanced, so that the depth of a term stays small whatever the number of sites.
fn sequence(expr: &mut RecExpr<Term>, sites: &[Id]) -> Id {
    match sites {
        [] => expr.add(Term::End),
        // A list of one still ends with a node of its own, so that the root of the expression is its last node.
        [one] => {
            let end = expr.add(Term::End);
            expr.add(Term::Seq([*one, end]))
        }
        _ => {
            let (a, b) = sites.split_at(sites.len() / 2);
            let a = sequence(expr, a);
            let b = sequence(expr, b);
            expr.add(Term::Seq([a, b]))
        }
    }
}

fn context(expr: &mut RecExpr<Term>, facts: &Facts, index: u32) -> Id {
    let site = &facts.sites[index as usize];
    let context = expr.add(Term::Num(site.context));
    if site.extends.is_some() {
        let this = expr.add(Term::Num(index));
        expr.add(Term::Fresh([this, context]))
    } else {
        // Equal context and role give the equal term: the first site's number stands for all.
        let same = |s: &&crate::facts::Site| s.context == site.context && s.role == site.role && s.extends.is_none();
        let first = facts.sites.iter().position(|s| same(&s)).expect("the site itself is one");
        let first = expr.add(Term::Num(u32::try_from(first).expect("sites are numbered with 32 bits")));
        let role = expr.add(Term::Num(site.role.unwrap_or(u32::MAX)));
        expr.add(Term::Prefill([first, context, role]))
    }
}

/// Chance that a check passes and its seconds per candidate, where the start of a host program takes `start`: rough priors
/// that order and price them.
pub(crate) fn check_prior(check: Check, start: f64) -> (f64, f64) {
    match check {
        Check::Regex => (0.5, 3e-6),
        Check::Exact => (0.4, 0.2e-6),
        Check::Numeric => (0.4, 1e-6),
        Check::Command => (0.4, start + JUDGE),
        // Its start is paid once per call: it is priced where the size of calls is chosen.
        Check::Lines => (0.4, JUDGE),
    }
}

/// Seconds to start a process and to see its end, where that was not measured.
const PROCESS: f64 = 1e-3;
/// Seconds that a host program needs beyond that until it can answer: between a small native one and an interpreter.
const READY: f64 = 3.5e-3;

/// Seconds to start a host program and to see its end; `process` is what the machine takes for one that does nothing, 0
/// when that was not measured.
pub(crate) fn start(process: f64) -> f64 {
    READY + if process > 0.0 { process } else { PROCESS }
}

/// Seconds that a host program takes for an answer.
pub(crate) const JUDGE: f64 = 0.5e-3;

/// The check of a code written by [`encode`].
pub(crate) fn check_of(code: u32) -> Check {
    [Check::Regex, Check::Exact, Check::Numeric, Check::Command, Check::Lines][(code as usize).min(4)]
}
