//! The rewrite rules, one table. **The law for adding one:** a rule is directed, has no inverse in the table, names its
//! relation, touches no effect's order, and keeps random streams (site and sequence index) as they are, and stops at
//! [`NODES`]. Each has a test that evaluates both sides in a small world; a rule without one fails the tests.

use crate::facts::{Facts, Kind};
use crate::language::{Term, check_of, check_prior, start};
use egg::{Analysis, Applier, EGraph, Id, PatternAst, Rewrite, Subst, Symbol, Var};
use std::collections::BTreeSet;

/// Nodes of the e-graph at most: rules stop adding there, the seed is always in it.
pub(crate) const NODES: usize = 10_000;
/// Rounds of rewriting at most.
pub(crate) const ROUNDS: usize = 12;

/// How the two sides of a rule relate.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Relation {
    /// The same tokens, values and verdicts.
    Exact,
    /// Every sample keeps its tokens; which samples are finished when a set rule looks may differ, as the language
    /// leaves the order of sampling to the planner.
    SameDistribution,
    /// Within a stated bound; only under an `allow` of the source. No rule of this version is of this class.
    Approximate,
}

/// A rule, for people.
#[derive(Clone, Copy, Debug)]
pub struct Rule {
    /// Name.
    pub name: &'static str,
    /// Relation between its sides.
    pub relation: Relation,
    /// What it does and when it may.
    pub doc: &'static str,
}

/// Every rule.
pub const RULES: &[Rule] = &[
    Rule {
        name: "split-wave",
        relation: Relation::SameDistribution,
        doc: "A draw of lo..hi becomes a wave lo..mid, then a draw of mid..hi, if no rule has stopped the site. Where a \
              set rule may stop, waves of 1, 2, 4, … 32 and parts of n are tried, elsewhere n/2, n/4 and n/8, for their \
              smaller peak of memory. Never where sequences branch: branches share one bound.",
    },
    Rule {
        name: "order-checks",
        relation: Relation::Exact,
        doc: "The checks of a conjunction are tried in rising order of cost over chance to fail, the least in expectation \
              for independent checks: they are pure, so the verdict is the same. (The score of a conjunction that fails \
              is that of the first check that fails, which the language leaves open.)",
    },
    Rule {
        name: "extend-context",
        relation: Relation::Exact,
        doc: "A context that extends a generated sequence of the same model is appended to its keys instead of being \
              prefilled again. The bits are the same, because only keys are kept that a prompt of the same tokens has: all of \
              the sequence's where attention is dense, else those of its prompt and of as many tokens as the budget of pages \
              holds; what lies behind them is computed again, and priced so.",
    },
];

/// Sizes of a first wave worth trying for a site of `n` sequences, rising.
pub(crate) fn wave_sizes(n: u32, stops: bool) -> BTreeSet<u32> {
    let mut sizes = BTreeSet::from([n.div_ceil(2), n.div_ceil(4), n.div_ceil(8)]);
    if stops {
        sizes.extend([1, 2, 4, 8, 16, 32]);
    }
    sizes.retain(|s| *s < n);
    sizes
}

/// The rules as egg sees them, in the order of [`RULES`].
pub(crate) fn rewrites(facts: &Facts) -> Vec<Rewrite<Term, ()>> {
    let var = |name: &str| name.parse::<Var>().expect("a pattern variable");
    let split = SplitWave { site: var("?s"), lo: var("?lo"), hi: var("?hi"), facts: facts.clone() };
    let checks = OrderChecks { site: var("?s"), chain: var("?c") };
    let extend = ExtendContext { site: var("?s"), context: var("?c"), facts: facts.clone() };
    let parsed = |text: &str| text.parse::<egg::Pattern<Term>>().expect("a pattern of the language");
    vec![
        Rewrite::new("split-wave", parsed("(draw ?s ?lo ?hi)"), split).expect("bound variables"),
        Rewrite::new("order-checks", parsed("(verify ?s ?c)"), checks).expect("bound variables"),
        Rewrite::new("extend-context", parsed("(fresh ?s ?c)"), extend).expect("bound variables"),
    ]
}

/// The number of a class that holds one.
pub(crate) fn num<N: Analysis<Term>>(egraph: &EGraph<Term, N>, id: Id) -> Option<u32> {
    egraph[id].nodes.iter().find_map(|n| if let Term::Num(x) = n { Some(*x) } else { None })
}

struct SplitWave {
    site: Var,
    lo: Var,
    hi: Var,
    facts: Facts,
}

impl Applier<Term, ()> for SplitWave {
    fn apply_one(
        &self,
        egraph: &mut EGraph<Term, ()>,
        class: Id,
        subst: &Subst,
        _: Option<&PatternAst<Term>>,
        _: Symbol,
    ) -> Vec<Id> {
        let (site, hi) = (subst[self.site], subst[self.hi]);
        let numbers = (num(egraph, site), num(egraph, subst[self.lo]), num(egraph, hi));
        let (Some(index), Some(lo), Some(end)) = numbers else { return Vec::new() };
        let Some(Kind::Generate { n, stops, branches: false, .. }) =
            self.facts.sites.get(index as usize).map(|s| &s.kind)
        else {
            return Vec::new();
        };
        let mut changed = Vec::new();
        for wave in wave_sizes(*n, *stops).into_iter().filter(|w| *w < end - lo) {
            if egraph.total_size() >= NODES {
                break;
            }
            let mid = egraph.add(Term::Num(lo + wave));
            let first = egraph.add(Term::Wave([site, subst[self.lo], mid]));
            let rest = egraph.add(Term::Draw([site, mid, hi]));
            let both = egraph.add(Term::Then([first, rest]));
            if egraph.union(class, both) {
                changed.push(both);
            }
        }
        changed
    }
}

struct OrderChecks {
    site: Var,
    chain: Var,
}

impl Applier<Term, ()> for OrderChecks {
    fn apply_one(
        &self,
        egraph: &mut EGraph<Term, ()>,
        class: Id,
        subst: &Subst,
        _: Option<&PatternAst<Term>>,
        _: Symbol,
    ) -> Vec<Id> {
        let mut checks = Vec::new();
        let mut at = subst[self.chain];
        let link = |t: &Term| if let Term::All(link) = t { Some(*link) } else { None };
        while let Some([check, rest]) = egraph[at].nodes.iter().find_map(link) {
            let kind = check_kind(egraph, check);
            let (pass, seconds) = check_prior(check_of(kind.unwrap_or(0)), start(0.0));
            checks.push((seconds / (1.0 - pass), check));
            at = rest;
        }
        if egraph.total_size() + checks.len() > NODES {
            return Vec::new();
        }
        // Stable: equals stay as written.
        checks.sort_by(|a, b| a.0.total_cmp(&b.0));
        let end = egraph.add(Term::Pass);
        let chain = checks.iter().rev().fold(end, |rest, (_, check)| egraph.add(Term::All([*check, rest])));
        let ordered = egraph.add(Term::Verify([subst[self.site], chain]));
        if egraph.union(class, ordered) { vec![ordered] } else { Vec::new() }
    }
}

/// The kind of a check's class.
pub(crate) fn check_kind(egraph: &EGraph<Term, ()>, check: Id) -> Option<u32> {
    egraph[check].nodes.iter().find_map(|t| if let Term::CheckOf([_, k]) = t { num(egraph, *k) } else { None })
}

struct ExtendContext {
    site: Var,
    context: Var,
    facts: Facts,
}

impl Applier<Term, ()> for ExtendContext {
    fn apply_one(
        &self,
        egraph: &mut EGraph<Term, ()>,
        class: Id,
        subst: &Subst,
        _: Option<&PatternAst<Term>>,
        _: Symbol,
    ) -> Vec<Id> {
        let Some(index) = num(egraph, subst[self.site]) else { return Vec::new() };
        let Some(site) = self.facts.sites.get(index as usize) else { return Vec::new() };
        let base = self.facts.sites.iter().position(|s| Some(s.id) == site.extends && s.role == site.role);
        let Some(base) = base.and_then(|b| u32::try_from(b).ok()) else { return Vec::new() };
        if egraph.total_size() >= NODES {
            return Vec::new();
        }
        let base = egraph.add(Term::Num(base));
        let extended = egraph.add(Term::Extend([subst[self.site], subst[self.context], base]));
        if egraph.union(class, extended) { vec![extended] } else { Vec::new() }
    }
}

#[cfg(test)]
mod tests;
