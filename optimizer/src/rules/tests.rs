//! Every rule against a small world: a model of four tokens with a table, an interpreter of plan terms, and all values of
//! the random streams. Both sides of a rule are run on every value; what its relation promises must hold.

use super::*;
use crate::facts::{Check, Site};
use crate::language::encode;
use egg::{Language as _, Runner, SimpleScheduler};
use std::collections::BTreeMap;
use std::rc::Rc;

/// The token that ends a sequence.
const END: u8 = 3;
/// The last token that makes the set rule of a site stop it.
const GOOD: u8 = 2;
/// Tokens of a sequence at most.
const DEPTH: usize = 2;
/// Plans looked at per e-graph.
const PLANS: usize = 60;

/// A term as a tree.
struct Tree {
    node: Term,
    below: Vec<Rc<Tree>>,
}

/// All trees of a class, up to [`PLANS`] for every choice of a node.
fn trees(egraph: &EGraph<Term, ()>, id: Id) -> Vec<Rc<Tree>> {
    let mut all = Vec::new();
    for node in &egraph[id].nodes {
        let mut partial: Vec<Vec<Rc<Tree>>> = vec![Vec::new()];
        for child in node.children() {
            let below = trees(egraph, *child);
            let longer = |p: &Vec<Rc<Tree>>, b: &Rc<Tree>| p.iter().cloned().chain([Rc::clone(b)]).collect();
            partial = partial.iter().flat_map(|p| below.iter().map(move |b| longer(p, b))).take(PLANS).collect();
        }
        all.extend(partial.into_iter().map(|below| Rc::new(Tree { node: node.clone(), below })));
    }
    all
}

/// Keys as a role's model computed them.
type Keys = (Option<u32>, Vec<u8>);
/// A site and the index of a sequence.
type Sample = (u32, u32);

/// What a run leaves.
#[derive(Clone, Debug, Default, PartialEq)]
struct Outcome {
    /// Sequences that started, with the tokens that their streams give them.
    started: BTreeMap<Sample, Vec<u8>>,
    /// Sequences that ended before a rule stopped their site.
    finished: BTreeMap<Sample, Vec<u8>>,
    /// Sites that a rule has stopped.
    stopped: BTreeSet<u32>,
    verdicts: BTreeMap<u32, bool>,
    /// Contexts that scores and generations saw.
    contexts: BTreeMap<u32, Keys>,
}

/// The world with one value of the streams.
struct Run<'a> {
    facts: &'a Facts,
    /// Next token by role, last token and stream value.
    table: &'a [[[u8; 4]; 4]; 2],
    /// Two bits per draw of a sequence, sequences by site and index.
    streams: &'a BTreeMap<Sample, u32>,
    value: u32,
    out: Outcome,
}

fn number(tree: &Tree) -> u32 {
    if let Term::Num(x) = tree.node { x } else { panic!("{:?} is no number", tree.node) }
}

impl Run<'_> {
    fn plan(&mut self, tree: &Tree) {
        match tree.node {
            Term::Seq(_) => tree.below.iter().for_each(|t| self.plan(t)),
            Term::End => {}
            Term::Gen(_) => {
                let site = number(&first_wave(&tree.below[1]).below[0]);
                let keys = self.keys(&tree.below[0]);
                self.out.contexts.insert(site, keys.clone());
                self.draws(&tree.below[1], &keys, &mut false);
            }
            Term::Verify(_) => {
                let site = number(&tree.below[0]);
                let tokens = self.sequence(self.facts.sites[site as usize].extends.expect("a verdict is on a sample"));
                let verdict = chain(&tree.below[1], &tokens);
                self.out.verdicts.insert(site, verdict);
            }
            Term::Score(_) => {
                let keys = self.keys(&tree.below[1]);
                self.out.contexts.insert(number(&tree.below[0]), keys);
            }
            _ => panic!("{:?} is no site", tree.node),
        }
    }

    /// The first sequence of a site.
    fn sequence(&self, site: u32) -> Vec<u8> {
        self.out.started.get(&(site, 0)).cloned().unwrap_or_default()
    }

    fn keys(&self, how: &Tree) -> Keys {
        let role = |site: u32| self.facts.sites[site as usize].role;
        let site = number(&how.below[0]);
        let appended = |base: u32| {
            let before = self.out.contexts.get(&base).map_or_else(Vec::new, |k| k.1.clone());
            [before, self.sequence(base), vec![1]].concat()
        };
        match how.node {
            #[allow(clippy::cast_possible_truncation, reason = "contexts of tests are small")]
            Term::Prefill(_) => (role(site), vec![number(&how.below[1]) as u8 % 3]),
            Term::Fresh(_) => (role(site), appended(self.facts.sites[site as usize].extends.expect("fresh extends"))),
            // The keys are the ones that the base's model computed.
            Term::Extend(_) => (role(number(&how.below[2])), appended(number(&how.below[2]))),
            _ => panic!("{:?} is no context", how.node),
        }
    }

    fn draws(&mut self, tree: &Tree, keys: &Keys, stopped: &mut bool) {
        if *stopped {
            return;
        }
        if let Term::Then(_) = tree.node {
            tree.below.iter().for_each(|t| self.draws(t, keys, stopped));
            return;
        }
        let [site, lo, hi] = [0, 1, 2].map(|i| number(&tree.below[i]));
        let Kind::Generate { stops, .. } = self.facts.sites[site as usize].kind else { panic!("site {site} draws") };
        let mut wave: Vec<(usize, u32, Vec<u8>)> = (lo..hi)
            .map(|index| {
                let tokens = self.tokens((site, index), keys);
                self.out.started.insert((site, index), tokens.clone());
                (tokens.len(), index, tokens)
            })
            .collect();
        // Shorter sequences end first; the rule looks after every end.
        wave.sort();
        for (_, index, tokens) in wave {
            if !*stopped {
                *stopped = stops && tokens.last() == Some(&GOOD);
                if *stopped {
                    self.out.stopped.insert(site);
                }
                self.out.finished.insert((site, index), tokens);
            }
        }
    }

    fn tokens(&self, sample: Sample, keys: &Keys) -> Vec<u8> {
        let draws = self.streams.get(&sample).map_or(0, |at| self.value >> (2 * DEPTH as u32 * at));
        let mut tokens = Vec::new();
        let mut last = keys.1.iter().fold(0u8, |sum, k| (sum + k) % 4);
        for i in 0..DEPTH {
            last = self.table[keys.0.unwrap_or(0) as usize % 2][last as usize][(draws >> (2 * i) & 3) as usize];
            tokens.push(last);
            if last == END {
                break;
            }
        }
        tokens
    }
}

fn first_wave(tree: &Tree) -> &Tree {
    if let Term::Then(_) = tree.node { first_wave(&tree.below[0]) } else { tree }
}

/// A conjunction, tried in order; a check is known by its position in the source.
fn chain(tree: &Tree, tokens: &[u8]) -> bool {
    let Term::All(_) = tree.node else { return true };
    let position = number(&tree.below[0].below[0]);
    let sum: u32 = tokens.iter().map(|t| u32::from(*t)).sum();
    !(sum + position).is_multiple_of(3) && chain(&tree.below[1], tokens)
}

/// What the relation promises, on the outcomes of all values of the streams.
fn related(relation: Relation, left: &[Outcome], right: &[Outcome]) -> Result<(), String> {
    match relation {
        Relation::Exact => match left.iter().zip(right).position(|(l, r)| l != r) {
            Some(i) => Err(format!("{:?} is not {:?}", left[i], right[i])),
            None => Ok(()),
        },
        Relation::SameDistribution => {
            // Where no rule has stopped a site, all of its samples are there.
            let whole =
                |o: &Outcome| o.started.keys().filter(|k| !o.stopped.contains(&k.0)).copied().collect::<Vec<_>>();
            let missing = |(l, r): (&Outcome, &Outcome)| l.stopped == r.stopped && whole(l) != whole(r);
            if let Some(i) = left.iter().zip(right).position(missing) {
                return Err(format!("samples {:?} are not {:?}", whole(&left[i]), whole(&right[i])));
            }
            // Which samples start depends on the others; what one draws when it starts does not.
            let counts = |side: &[Outcome]| {
                let mut counts: BTreeMap<Sample, BTreeMap<Vec<u8>, u64>> = BTreeMap::new();
                for (sample, tokens) in side.iter().flat_map(|o| &o.started) {
                    *counts.entry(*sample).or_default().entry(tokens.clone()).or_default() += 1;
                }
                counts
            };
            let (left, right) = (counts(left), counts(right));
            for (sample, l) in &left {
                let Some(r) = right.get(sample) else { continue };
                let (all_l, all_r): (u64, u64) = (l.values().sum(), r.values().sum());
                if !l.keys().eq(r.keys()) || !l.values().zip(r.values()).all(|(a, b)| a * all_r == b * all_l) {
                    return Err(format!("sample {sample:?}: {l:?} is not {r:?}"));
                }
            }
            Ok(())
        }
        Relation::Approximate => Err("no rule states a bound".to_owned()),
    }
}

/// Numbers for random small strategies.
struct Dice(u64);

impl Dice {
    fn below(&mut self, n: u32) -> u32 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        ((self.0 >> 33) % u64::from(n)) as u32
    }
}

/// A generation of up to four sequences, then perhaps a verdict, a score and a further generation on its first sequence,
/// by the same model or another.
fn strategy(dice: &mut Dice) -> Facts {
    let site = |id, kind, role, context, extends| {
        let (times, made, together) = (1.0, 1.0, 1.0);
        Site { id, kind, role, times, context, made, extends, together }
    };
    let generate =
        |n, stops| Kind::Generate { n, live: f64::from(n), max: DEPTH as f64, stops, watched: stops, branches: false };
    let n = 1 + dice.below(4);
    let mut sites = vec![site(0, generate(n, dice.below(2) == 0), Some(dice.below(2)), dice.below(3), None)];
    for id in 1..=dice.below(3) {
        let role = Some(dice.below(2));
        sites.push(match dice.below(3) {
            0 => {
                let all = [Check::Command, Check::Regex, Check::Exact, Check::Numeric];
                let checks = (0..=dice.below(4)).map(|_| all[dice.below(4) as usize]).collect();
                site(id, Kind::Verify(checks), None, 0, Some(0))
            }
            1 => site(id, Kind::Choose(2.0), role, 10 + id, Some(0)),
            _ => site(id, generate(1, false), role, 10 + id, Some(0)),
        });
    }
    Facts { sites, nodes: Vec::new() }
}

/// Runs a rule on random strategies: how many plans it made, and the first of them that breaks its promise.
fn run(relation: Relation, rule: impl Fn(&Facts) -> Rewrite<Term, ()>) -> (usize, Result<(), String>) {
    let mut dice = Dice(7);
    let mut plans = 0;
    for _ in 0..120 {
        let facts = strategy(&mut dice);
        let table: [[[u8; 4]; 4]; 2] =
            std::array::from_fn(|_| std::array::from_fn(|_| std::array::from_fn(|_| dice.below(4) as u8)));
        let drawn = facts.sites.iter().filter_map(|s| match s.kind {
            Kind::Generate { n, .. } => Some((0..n).map(|i| (s.id, i))),
            _ => None,
        });
        // Two sequences see every value of their draws, the others the first one.
        let streams: BTreeMap<Sample, u32> = drawn.flatten().take(2).zip(0..).collect();
        let values = 1u32 << (2 * DEPTH * streams.len());
        let outcomes = |tree: &Tree| -> Vec<Outcome> {
            let one = |value| {
                let mut run = Run { facts: &facts, table: &table, streams: &streams, value, out: Outcome::default() };
                run.plan(tree);
                run.out
            };
            (0..values).map(one).collect()
        };
        let seed = encode(&facts);
        let runner = Runner::default().with_expr(&seed).with_iter_limit(3).with_scheduler(SimpleScheduler);
        let before = trees(&runner.egraph, runner.roots[0]);
        let runner = runner.run(&[rule(&facts)]);
        let written = outcomes(&before[0]);
        let all = trees(&runner.egraph, runner.egraph.find(runner.roots[0]));
        plans += all.len() - 1;
        for tree in all.iter().take(PLANS) {
            if let Err(why) = related(relation, &written, &outcomes(tree)) {
                return (plans, Err(why));
            }
        }
    }
    (plans, Ok(()))
}

#[test]
fn every_rule_keeps_its_promise() {
    let names = |facts: &Facts| rewrites(facts).iter().map(|r| r.name.to_string()).collect::<Vec<_>>();
    let facts = Facts::default();
    assert_eq!(names(&facts), RULES.iter().map(|r| r.name).collect::<Vec<_>>(), "the table is what runs");
    for (i, rule) in RULES.iter().enumerate() {
        let (plans, outcome) = run(rule.relation, |facts| rewrites(facts).swap_remove(i));
        outcome.unwrap_or_else(|why| panic!("{}: {why}", rule.name));
        assert!(plans >= 15, "{} made {plans} plans: it is not tested", rule.name);
    }
}

#[test]
fn unsound_rules_are_caught() {
    let rule = |name: &str, left: &str, right: &str| {
        let parsed = |t: &str| t.parse::<egg::Pattern<Term>>().expect("a pattern");
        Rewrite::new(name, parsed(left), parsed(right)).expect("bound variables")
    };
    let planted = [
        (Relation::SameDistribution, "lose-the-rest", "(draw ?s 0 4)", "(then (wave ?s 0 2) (wave ?s 0 2))"),
        (Relation::SameDistribution, "one-stream-for-two", "(draw 0 0 2)", "(then (wave 0 0 1) (wave 0 0 1))"),
        (Relation::Exact, "skip-a-check", "(all ?a (all ?b ?rest))", "(all ?a ?rest)"),
        (Relation::Exact, "any-keys", "(fresh ?s ?c)", "(extend ?s ?c 0)"),
        (Relation::Exact, "waves-are-not-exact", "(draw 0 0 3)", "(then (wave 0 0 1) (draw 0 1 3))"),
    ];
    for (relation, name, left, right) in planted {
        let (plans, outcome) = run(relation, |_| rule(name, left, right));
        assert!(outcome.is_err(), "{name} made {plans} plans and went unnoticed");
    }
}

#[test]
fn exact_order_is_by_cost_over_chance_to_fail() {
    let checks = vec![Check::Command, Check::Regex, Check::Exact, Check::Numeric];
    let facts = Facts {
        sites: vec![Site {
            id: 0,
            kind: Kind::Verify(checks),
            role: None,
            times: 1.0,
            context: 0,
            made: 0.0,
            extends: Some(0),
            together: 1.0,
        }],
        nodes: Vec::new(),
    };
    let seed = encode(&facts);
    let runner = Runner::default().with_expr(&seed).run(&rewrites(&facts));
    let ordered = "(seq (verify 0 (all (check 2 1) (all (check 3 2) (all (check 1 0) (all (check 0 3) pass))))) end)";
    let ordered = ordered.parse::<egg::RecExpr<Term>>().expect("a term");
    assert!(runner.egraph.lookup_expr(&ordered).is_some());
}
