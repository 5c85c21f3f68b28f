//! Extraction: the best term of a saturated e-graph under costs that share.
//!
//! egg's own extractor counts a prefill that two sites share twice. Here a term's cost is a point (seconds, bytes of KV)
//! plus the *set* of prefills it uses, each paid once; every class keeps the Pareto set of such points. Seconds add up,
//! weighted by how often a node runs its child; peak memory is the larger, sets unite. That is exact for the terms of
//! [`crate::language`], whose only shared nodes are prefills. Memory is a hard filter at every node.

use crate::language::Term;
use egg::{EGraph, Id, Language as _};
use std::collections::{BTreeMap, BTreeSet};
use std::rc::Rc;

/// Points a class keeps at most; the cheapest in seconds stay.
const FRONT: usize = 16;

/// Prices the nodes of the e-graph.
pub(crate) trait Prices {
    /// Seconds and peak KV bytes of a node by itself, its children not counted; `None`: not possible.
    fn node(&self, egraph: &EGraph<Term, ()>, node: &Term) -> Option<(f64, f64)>;
    /// How often a node runs its child of this position, per execution of the node.
    fn weight(&self, egraph: &EGraph<Term, ()>, node: &Term, child: usize) -> f64;
    /// Seconds of a shared prefill, by its e-class.
    fn shared(&self, egraph: &EGraph<Term, ()>, prefill: Id) -> f64;
    /// KV bytes there are.
    fn memory(&self) -> f64;
}

/// A choice for a class: its cost and the term.
#[derive(Clone, Debug)]
pub(crate) struct Point {
    /// Seconds, shared prefills not counted.
    pub(crate) seconds: f64,
    /// Peak bytes of KV.
    pub(crate) memory: f64,
    /// Classes of the shared prefills.
    pub(crate) prefills: BTreeSet<Id>,
    /// The node chosen and the points chosen for its children.
    pub(crate) node: Term,
    /// Children's points.
    pub(crate) children: Vec<Rc<Point>>,
}

impl Point {
    /// Seconds, every shared prefill counted once.
    pub(crate) fn total(&self, egraph: &EGraph<Term, ()>, prices: &impl Prices) -> f64 {
        self.seconds + self.prefills.iter().map(|p| prices.shared(egraph, *p)).sum::<f64>()
    }

    fn dominates(&self, other: &Self) -> bool {
        self.seconds <= other.seconds && self.memory <= other.memory && self.prefills.is_subset(&other.prefills)
    }
}

/// Points of the root's class, cheapest in total seconds first. Empty when nothing fits into memory.
pub(crate) fn pareto(egraph: &EGraph<Term, ()>, root: Id, prices: &impl Prices) -> Vec<Point> {
    let mut memo = BTreeMap::new();
    let mut open = BTreeSet::new();
    let points = class(egraph, egraph.find(root), prices, &mut memo, &mut open);
    let mut points: Vec<Point> = points.iter().map(|p| (**p).clone()).collect();
    points.sort_by(|a, b| a.total(egraph, prices).total_cmp(&b.total(egraph, prices)));
    points
}

fn class(
    egraph: &EGraph<Term, ()>,
    id: Id,
    prices: &impl Prices,
    memo: &mut BTreeMap<Id, Rc<[Rc<Point>]>>,
    open: &mut BTreeSet<Id>,
) -> Rc<[Rc<Point>]> {
    if let Some(points) = memo.get(&id) {
        return Rc::clone(points);
    }
    // A class inside itself would be an infinite term; the rules make none, an unsound one must not hang.
    if !open.insert(id) {
        return Rc::from([]);
    }
    let mut front: Vec<Point> = Vec::new();
    for node in &egraph[id].nodes {
        let Some((seconds, memory)) = prices.node(egraph, node) else { continue };
        let prefills = if matches!(node, Term::Prefill(_)) { BTreeSet::from([id]) } else { BTreeSet::new() };
        let mut partial = vec![Point { seconds, memory, prefills, node: node.clone(), children: Vec::new() }];
        for (position, child) in node.children().iter().enumerate() {
            let child = class(egraph, egraph.find(*child), prices, memo, open);
            let weight = prices.weight(egraph, node, position);
            partial = partial.iter().flat_map(|p| child.iter().map(move |c| join(p, c, weight))).collect();
            prune(&mut partial);
        }
        front.extend(partial.into_iter().filter(|p| p.memory <= prices.memory()));
        prune(&mut front);
    }
    open.remove(&id);
    let front: Rc<[Rc<Point>]> = front.into_iter().map(Rc::new).collect();
    memo.insert(id, Rc::clone(&front));
    front
}

fn join(parent: &Point, child: &Rc<Point>, weight: f64) -> Point {
    let mut point = parent.clone();
    point.seconds += weight * child.seconds;
    point.memory = point.memory.max(child.memory);
    point.prefills.extend(child.prefills.iter().copied());
    point.children.push(Rc::clone(child));
    point
}

fn prune(points: &mut Vec<Point>) {
    points.sort_by(|a, b| a.seconds.total_cmp(&b.seconds).then(a.memory.total_cmp(&b.memory)));
    let mut kept: Vec<Point> = Vec::new();
    for point in points.drain(..) {
        if !kept.iter().any(|k| k.dominates(&point)) {
            kept.push(point);
        }
    }
    kept.truncate(FRONT);
    *points = kept;
}

#[cfg(test)]
mod tests;
