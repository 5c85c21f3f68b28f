//! The planner: strategy, models, target and assumptions in, plan out. The pipeline is [`optimize`], top to bottom.

use crate::classes;
use crate::extract::{self, Point};
use crate::facts::{self, Facts, Kind};
use crate::language::{self, Term};
use crate::lossy::Forced;
use crate::prices::World;
use crate::rules;
use egg::{EGraph, Id, Runner, SimpleScheduler};
use ir::model::Model;
use ir::plan::{Assumptions, Plan, PrefixMode};
use ir::schedule::Numerics;
use ir::strategy::Strategy;
use ir::target::Target;
use std::collections::BTreeMap;
use std::time::Duration;

/// A local model of a role: the path as given, and its shape.
#[derive(Clone, Debug)]
pub struct RoleModel {
    /// Path as given.
    pub path: String,
    /// Shape.
    pub model: Model,
}

/// What the caller decides.
#[derive(Clone, Debug)]
pub struct Options {
    /// What the estimate assumes.
    pub assumptions: Assumptions,
    /// Values of parameters and tunables by name, where they differ from the defaults.
    pub values: BTreeMap<String, f64>,
    /// Threads of the team.
    pub threads: u32,
    /// Arithmetic class of all models; `None`: as stored, or what the strategy allows where that is cheaper.
    pub numerics: Option<Numerics>,
    /// Keep the seed plan: no rewrites, every site as written. For comparing.
    pub naive: bool,
    /// Lossy choices to take instead of the planner's own, where the strategy allows them.
    pub forced: Forced,
}

/// Assumptions when nothing better is known: prompts of 200 tokens, sequences half as long as allowed, an even chance
/// that an early stop fires half way.
pub const ASSUMPTIONS: Assumptions = Assumptions { prompt_tokens: 200, length_share: 0.5, stop_chance: 0.5 };

/// Why there is no plan.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum PlanError {
    /// Weights and the least KV do not fit: role or model, bytes needed, bytes there.
    Memory(String, u64, u64),
    /// A generator role has no model.
    Unbound(String),
    /// A lossy choice was asked for that the strategy does not allow; the whole message.
    Forbidden(String),
}

impl std::fmt::Display for PlanError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        #[allow(clippy::cast_precision_loss, reason = "gigabytes for people")]
        let gb = |b: &u64| *b as f64 / 1e9;
        match self {
            Self::Memory(what, need, have) => write!(
                f,
                "{what} needs {:.2} GB, the target has {:.2} GB: take a smaller model, fewer live sequences, a smaller \
                 max, or a larger target",
                gb(need),
                gb(have)
            ),
            Self::Forbidden(why) => f.write_str(why),
            Self::Unbound(role) => write!(f, "role `{role}` generates text but is bound to no model"),
        }
    }
}

impl std::error::Error for PlanError {}

/// Plans a strategy. `models[i]` belongs to role `i`; verifier roles have none.
///
/// # Errors
/// When a generator role has no model, memory is too small, or what is forced is not allowed.
pub fn optimize(
    strategy: &Strategy,
    models: &[Option<RoleModel>],
    target: &Target,
    options: &Options,
) -> Result<Plan, PlanError> {
    let facts = facts::of(strategy, &options.values);
    let seed = language::encode(&facts);
    let (egraph, root) = saturate(&seed, &facts, options.naive);
    let in_classes = |classes: &[Numerics]| {
        let mut world = World::new(strategy, &facts, models, target, options, classes)?;
        let points = choose(&egraph, root, &facts, &mut world, options.naive);
        match points.first() {
            Some(best) => Ok(world.plan(&egraph, best, &points)),
            None => Err(world.too_large(&egraph, root)),
        }
    };
    classes::choose(strategy, models, target, options, &in_classes)
}

/// The points of the best plan, cheapest first, with the placement of each site's shared prompt chosen in `world`:
/// placements are enumerated around extraction, site by site, for sites share nothing but prompts and memory.
fn choose(egraph: &EGraph<Term, ()>, root: Id, facts: &Facts, world: &mut World<'_>, naive: bool) -> Vec<Point> {
    let mut best = extract::pareto(egraph, root, world);
    let several = |kind: &Kind| matches!(kind, Kind::Generate { n, branches, .. } if *n > 1 || *branches);
    for (index, _) in facts.sites.iter().enumerate().filter(|(_, s)| !naive && several(&s.kind)) {
        for mode in [PrefixMode::Cascade, PrefixMode::Copied] {
            let before = world.place(index, mode);
            let points = extract::pareto(egraph, root, world);
            let total = |points: &[Point]| points.first().map_or(f64::INFINITY, |p| p.total(egraph, world));
            if total(&points) < total(&best) {
                best = points;
            } else {
                world.place(index, before);
            }
        }
    }
    best
}

/// The e-graph of plan alternatives. Bounded by rounds and nodes, never by time, so that the same input gives the same
/// plan everywhere; the seed is always in it.
pub(crate) fn saturate(seed: &egg::RecExpr<Term>, facts: &Facts, naive: bool) -> (EGraph<Term, ()>, Id) {
    let rules = if naive { Vec::new() } else { rules::rewrites(facts) };
    let runner = Runner::default()
        .with_expr(seed)
        .with_iter_limit(rules::ROUNDS)
        .with_node_limit(rules::NODES)
        .with_time_limit(Duration::MAX)
        .with_scheduler(SimpleScheduler)
        .run(&rules);
    let root = runner.egraph.find(runner.roots[0]);
    (runner.egraph, root)
}
