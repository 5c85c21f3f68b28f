//! The rewrite rules, one table. **The law for adding one:** a rule is directed, has no inverse in the table, names its
//! relation, touches no effect's order, and keeps random streams (site and sequence index) as they are. Each has a test
//! that evaluates both sides (`tests/rules.rs` of this crate reads this table).

use crate::facts::Facts;
use crate::language::Term;
use egg::{Analysis, Applier, EGraph, Id, PatternAst, Rewrite, Subst, Symbol, Var};

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
        doc: "draw-until lo..hi becomes a wave lo..lo+w, then the rest if no rule has stopped the site; w is 1, 2, 4, 8, \
              16 or 32. Only where a set rule may stop.",
    },
    Rule {
        name: "swap-checks",
        relation: Relation::Exact,
        doc: "Neighbouring checks of a conjunction change places: checks are pure, so the verdict is the same.",
    },
    Rule {
        name: "extend-context",
        relation: Relation::Exact,
        doc: "A context that extends a generated sequence of the same model is appended to its keys instead of being \
              prefilled again: a row's bits do not depend on how its prefix was computed.",
    },
];

/// The smallest waves worth considering.
const WAVES: [u32; 6] = [1, 2, 4, 8, 16, 32];

/// The rules as egg sees them, in the order of [`RULES`].
pub(crate) fn rewrites(facts: &Facts) -> Vec<Rewrite<Term, ()>> {
    let var = |name: &str| name.parse::<Var>().expect("a pattern variable");
    let split = SplitWave { site: var("?s"), lo: var("?lo"), hi: var("?hi") };
    let extend = ExtendContext { site: var("?s"), context: var("?c"), facts: facts.clone() };
    let parsed = |text: &str| text.parse::<egg::Pattern<Term>>().expect("a pattern of the language");
    vec![
        Rewrite::new("split-wave", parsed("(draw-until ?s ?lo ?hi)"), split).expect("bound variables"),
        Rewrite::new("swap-checks", parsed("(all ?a (all ?b ?rest))"), parsed("(all ?b (all ?a ?rest))"))
            .expect("bound variables"),
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
        let site = subst[self.site];
        let (Some(lo), Some(hi)) = (num(egraph, subst[self.lo]), num(egraph, subst[self.hi])) else { return Vec::new() };
        let mut changed = Vec::new();
        for wave in WAVES.into_iter().filter(|w| lo + w < hi) {
            let mid = egraph.add(Term::Num(lo + wave));
            let first = egraph.add(Term::DrawUntil([site, subst[self.lo], mid]));
            let rest = egraph.add(Term::DrawUntil([site, mid, subst[self.hi]]));
            let both = egraph.add(Term::Then([first, rest]));
            if egraph.union(class, both) {
                changed.push(both);
            }
        }
        changed
    }
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
        let site = &self.facts.sites[index as usize];
        let base = self.facts.sites.iter().position(|s| Some(s.id) == site.extends && s.role == site.role);
        let Some(base) = base.and_then(|b| u32::try_from(b).ok()) else { return Vec::new() };
        let base = egraph.add(Term::Num(base));
        let extended = egraph.add(Term::Extend([subst[self.site], subst[self.context], base]));
        if egraph.union(class, extended) { vec![extended] } else { Vec::new() }
    }
}
