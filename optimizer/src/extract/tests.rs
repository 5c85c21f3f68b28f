//! Extraction against all terms of small e-graphs, and the limits of saturation.

use super::*;
use crate::facts::{Check, Facts, Kind, Site};
use crate::language::encode;
use crate::planner::saturate;
use crate::rules::{self, NODES};
use proptest::prelude::*;

/// Prices made of hashes of nodes: any mixture of cheap and dear, small and large.
struct Made {
    salt: u64,
    memory: f64,
}

impl Made {
    fn hash(&self, egraph: &EGraph<Term, ()>, node: &Term, what: u64) -> f64 {
        let numbers = node.children().iter().filter_map(|c| rules::num(egraph, *c));
        let mut x = self.salt ^ what ^ (format!("{:?}", std::mem::discriminant(node)).len() as u64);
        for byte in node.to_string().bytes().map(u64::from).chain(numbers.map(u64::from)) {
            x = (x ^ byte).wrapping_mul(0x9E37_79B9_7F4A_7C15).rotate_left(23);
        }
        #[allow(clippy::cast_precision_loss, reason = "a small number")]
        let small = (x % 16) as f64;
        small
    }
}

impl Prices for Made {
    fn node(&self, egraph: &EGraph<Term, ()>, node: &Term) -> Option<(f64, f64)> {
        if matches!(node, Term::Num(_) | Term::End | Term::Pass | Term::Seq(_)) {
            return Some((0.0, 0.0));
        }
        Some((self.hash(egraph, node, 1), self.hash(egraph, node, 2)))
    }

    fn weight(&self, egraph: &EGraph<Term, ()>, node: &Term, child: usize) -> f64 {
        if matches!((node, child), (Term::All(_), 1)) { self.hash(egraph, node, 3) / 16.0 } else { 1.0 }
    }

    fn shared(&self, egraph: &EGraph<Term, ()>, prefill: Id) -> f64 {
        10.0 + self.hash(egraph, &egraph[prefill].nodes[0], 4)
    }

    fn memory(&self) -> f64 {
        self.memory
    }
}

/// Every term of a class: seconds without prefills, peak memory, prefills.
fn terms(egraph: &EGraph<Term, ()>, id: Id, prices: &Made) -> Vec<(f64, f64, BTreeSet<Id>)> {
    let id = egraph.find(id);
    let mut all = Vec::new();
    for node in &egraph[id].nodes {
        let (seconds, memory) = prices.node(egraph, node).expect("every node has a price");
        let own = if matches!(node, Term::Prefill(_)) { BTreeSet::from([id]) } else { BTreeSet::new() };
        let mut partial = vec![(seconds, memory, own)];
        for (i, child) in node.children().iter().enumerate() {
            let weight = prices.weight(egraph, node, i);
            let below = terms(egraph, *child, prices);
            partial = partial
                .iter()
                .flat_map(|p| {
                    below.iter().map(move |b| (p.0 + weight * b.0, p.1.max(b.1), p.2.union(&b.2).copied().collect()))
                })
                .collect();
        }
        all.extend(partial);
    }
    all
}

fn generate(id: u32, n: u32, stops: bool, context: u32, extends: Option<u32>) -> Site {
    let kind = Kind::Generate { n, live: f64::from(n), max: 10.0, stops, watched: stops, branches: false };
    Site { id, kind, role: Some(0), times: 1.0, context, made: 1.0, extends, together: 1.0 }
}

/// One to four sites of every kind with shared and extended contexts.
fn world() -> impl Strategy<Value = Facts> {
    let site = (0u32..4, 1u32..5, any::<bool>(), 0u32..2, any::<bool>());
    proptest::collection::vec(site, 1..4).prop_map(|parts| {
        let mut sites: Vec<Site> = Vec::new();
        for (id, (kind, n, stops, context, extend)) in (0..).zip(parts) {
            let before = sites.iter().find(|s| matches!(s.kind, Kind::Generate { .. })).map(|s| s.id);
            let extends = before.filter(|_| extend);
            let mut site = generate(id, n, stops, if extends.is_some() { 10 + id } else { context }, extends);
            match kind {
                0 | 1 => {}
                2 => {
                    let checks = [Check::Command, Check::Regex, Check::Exact, Check::Numeric];
                    site.kind = Kind::Verify(checks[..n as usize].to_vec());
                }
                _ => site.kind = Kind::Choose(2.0),
            }
            sites.push(site);
        }
        Facts { sites, nodes: Vec::new() }
    })
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 200, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn the_best_of_all_terms_is_found(facts in world(), salt in any::<u64>(), memory in 8.0f64..16.0) {
        let (egraph, root) = saturate(&encode(&facts), &facts, false);
        let prices = Made { salt, memory };
        let total = |t: &(f64, f64, BTreeSet<Id>)| t.0 + t.2.iter().map(|p| prices.shared(&egraph, *p)).sum::<f64>();
        let mut all = terms(&egraph, root, &prices);
        all.retain(|t| t.1 <= memory);
        let points = pareto(&egraph, root, &prices);
        prop_assert_eq!(points.is_empty(), all.is_empty());
        let Some(best) = all.iter().map(total).min_by(f64::total_cmp) else { return Ok(()) };
        prop_assert!((points[0].total(&egraph, &prices) - best).abs() < 1e-9, "{} is not {best}", points[0].total(&egraph, &prices));
        // The front is a set of terms, none of them beaten by any term, and every term is beaten by one of the front
        // or is on it (fronts here are shorter than their bound).
        let beats = |a: (f64, f64, &BTreeSet<Id>), b: (f64, f64, &BTreeSet<Id>), slack: f64| {
            a.0 <= b.0 + slack && a.1 <= b.1 && a.2.is_subset(b.2)
        };
        for p in &points {
            prop_assert!(all.iter().any(|t| (t.0 - p.seconds).abs() < 1e-9 && t.1 == p.memory && t.2 == p.prefills));
        }
        if points.len() < FRONT {
            for t in &all {
                prop_assert!(points.iter().any(|p| beats((p.seconds, p.memory, &p.prefills), (t.0, t.1, &t.2), 1e-9)));
            }
        }
    }
}

#[test]
fn a_shared_prefill_is_paid_once() {
    let facts =
        Facts { sites: vec![generate(0, 1, false, 0, None), generate(1, 1, false, 0, None)], nodes: Vec::new() };
    let (egraph, root) = saturate(&encode(&facts), &facts, false);
    let points = pareto(&egraph, root, &Made { salt: 1, memory: f64::INFINITY });
    assert_eq!(points[0].prefills.len(), 1);
}

#[test]
fn limits_hold_and_the_seed_stays() {
    let checks: Vec<Check> =
        (0..40).map(|i| [Check::Command, Check::Numeric, Check::Regex, Check::Exact][i % 4]).collect();
    let verify = Site { kind: Kind::Verify(checks), ..generate(1, 1, false, 0, Some(0)) };
    let mut sites = vec![generate(0, 65_536, true, 0, None), verify];
    sites.extend((2..40).map(|id| generate(id, 1000 + id, true, id, None)));
    let facts = Facts { sites, nodes: Vec::new() };
    let seed = encode(&facts);
    let (egraph, root) = saturate(&seed, &facts, false);
    let nodes = egraph.total_number_of_nodes();
    assert!(nodes * 10 <= NODES * 11, "{nodes} nodes");
    assert_eq!(egraph.lookup_expr(&seed).map(|id| egraph.find(id)), Some(root), "the seed is still there");
    let again = saturate(&seed, &facts, false);
    assert_eq!(again.0.total_number_of_nodes(), nodes);
    let prices = Made { salt: 3, memory: f64::INFINITY };
    let (a, b) = (pareto(&egraph, root, &prices), pareto(&again.0, again.1, &prices));
    assert_eq!(a[0].total(&egraph, &prices).to_bits(), b[0].total(&again.0, &prices).to_bits());
}
