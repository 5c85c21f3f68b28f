//! The planner: strategy, models, target and assumptions in, plan out. The pipeline is [`optimize`], top to bottom.

use crate::extract::{self, Point, Prices};
use crate::facts::{self, Facts, Kind, Site};
use crate::language::{self, Term, check_of, check_prior};
use crate::physical::{self, Demand};
use crate::roofline::{Roofline, Time};
use crate::rules;
use egg::{EGraph, Id, Runner, SimpleScheduler};
use ir::model::Model;
use ir::plan::{Assumptions, Cost, Decision, ModelPlan, OperatorCost, Plan, PrefixMode, ScoreMode, SitePlan};
use ir::program::{CHUNK, PAGE};
use ir::schedule::Numerics;
use ir::strategy::Strategy;
use ir::target::Target;
use std::collections::BTreeMap;
use std::time::Duration;

/// Rounds of rewriting at most.
const ITERATIONS: usize = 12;
/// Nodes of the e-graph at most (checked between rounds; a round adds at most as many again).
const NODES: usize = 10_000;

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
    /// Arithmetic class.
    pub numerics: Numerics,
    /// Keep the seed plan: no rewrites, every site as written. For comparing.
    pub naive: bool,
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
            Self::Unbound(role) => write!(f, "role `{role}` generates text but is bound to no model"),
        }
    }
}

impl std::error::Error for PlanError {}

/// Plans a strategy. `models[i]` belongs to role `i`; verifier roles have none.
///
/// # Errors
/// When a generator role has no model or memory is too small.
pub fn optimize(
    strategy: &Strategy,
    models: &[Option<RoleModel>],
    target: &Target,
    options: &Options,
) -> Result<Plan, PlanError> {
    let facts = facts::of(strategy, &options.values);
    let world = World::new(strategy, &facts, models, target, options)?;
    let seed = language::encode(&facts);
    let (egraph, root) = saturate(&seed, &facts, options.naive);
    let points = extract::pareto(&egraph, root, &world);
    let best = points.first().ok_or_else(|| world.too_large())?;
    Ok(world.plan(&egraph, best, &points))
}

/// The e-graph of plan alternatives. Bounded by rounds and nodes, never by time, so that the same input gives the same
/// plan everywhere; the seed is always in it.
fn saturate(seed: &egg::RecExpr<Term>, facts: &Facts, naive: bool) -> (EGraph<Term, ()>, Id) {
    let rules = if naive { Vec::new() } else { rules::rewrites(facts) };
    let runner = Runner::default()
        .with_expr(seed)
        .with_iter_limit(ITERATIONS)
        .with_node_limit(NODES)
        .with_time_limit(Duration::MAX)
        .with_scheduler(SimpleScheduler)
        .run(&rules);
    let root = runner.egraph.find(runner.roots[0]);
    (runner.egraph, root)
}

/// Everything prices depend on.
struct World<'a> {
    strategy: &'a Strategy,
    facts: &'a Facts,
    models: &'a [Option<RoleModel>],
    target: &'a Target,
    options: &'a Options,
    plans: Vec<Option<ModelPlan>>,
    decisions: Vec<Decision>,
    memory: f64,
}

#[allow(
    clippy::cast_precision_loss,
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "counts of tokens, pages and bytes are far below 2^53"
)]
impl<'a> World<'a> {
    fn new(
        strategy: &'a Strategy,
        facts: &'a Facts,
        models: &'a [Option<RoleModel>],
        target: &'a Target,
        options: &'a Options,
    ) -> Result<Self, PlanError> {
        let mut world = Self {
            strategy,
            facts,
            models,
            target,
            options,
            plans: Vec::new(),
            decisions: Vec::new(),
            memory: target.memory,
        };
        for (i, role) in strategy.roles.iter().enumerate() {
            let Some(bound) = models.get(i).and_then(Option::as_ref) else {
                if role.kind == ir::strategy::RoleKind::Generator {
                    return Err(PlanError::Unbound(role.name.clone()));
                }
                world.plans.push(None);
                continue;
            };
            let demand = world.demand(i as u32);
            let threads = options.threads.clamp(1, target.threads.max(options.threads));
            let (schedule, decisions) =
                physical::schedule(&role.name, &bound.model, target, threads, options.numerics, demand);
            world.decisions.extend(decisions);
            let weight_bytes = Roofline::new(&bound.model, target).weight_bytes() as u64;
            world.memory -= weight_bytes as f64;
            world.plans.push(Some(ModelPlan {
                role: role.name.clone(),
                path: bound.path.clone(),
                model: bound.model.clone(),
                schedule,
                weight_bytes,
                kv_pages: 0,
            }));
        }
        world.kv_pages()?;
        Ok(world)
    }

    /// Pages every model may use: what the bounds can need, capped by an even share of the memory left.
    fn kv_pages(&mut self) -> Result<(), PlanError> {
        let local = self.plans.iter().flatten().count().max(1) as f64;
        let share = self.memory.max(0.0) * 0.9 / local;
        let bounds = self.strategy.bounds;
        for plan in self.plans.iter_mut().flatten() {
            let page = plan.model.kv_bytes_per_token().saturating_mul(PAGE as u64).max(1);
            let context = u64::from(plan.model.context);
            // Live tokens, a prompt for every live sequence's context chain, and a tail page each.
            let tokens = bounds.kv_tokens.saturating_add(4 * context).saturating_add(bounds.live * 2 * PAGE as u64);
            let pages = tokens.div_ceil(PAGE as u64).max(context.div_ceil(PAGE as u64));
            let most = (share / page as f64) as u64;
            let least = (CHUNK as u64 / PAGE as u64) * 2;
            if most < least {
                let need = plan.weight_bytes + least * page;
                return Err(PlanError::Memory(format!("role `{}`", plan.role), need, self.target.memory as u64));
            }
            plan.kv_pages = pages.clamp(least, most);
        }
        Ok(())
    }

    fn too_large(&self) -> PlanError {
        let tokens = self.strategy.bounds.kv_tokens + self.options.assumptions.prompt_tokens;
        let per_token = self.plans.iter().flatten().map(|p| p.model.kv_bytes_per_token()).max().unwrap_or(0);
        PlanError::Memory("the KV of the live sequences".to_owned(), tokens * per_token, self.memory.max(0.0) as u64)
    }

    /// The heaviest generation of a role decides how its kernels are generated.
    fn demand(&self, role: u32) -> Demand {
        let prompt = self.options.assumptions.prompt_tokens as f64;
        let mut heaviest = Demand { branches: 1.0, prompt, tokens: 1.0 };
        for site in self.facts.sites.iter().filter(|s| s.role == Some(role)) {
            if let Kind::Generate { live, max, .. } = site.kind {
                let tokens = (max * self.options.assumptions.length_share).max(1.0);
                if live * tokens > heaviest.branches * heaviest.tokens {
                    heaviest = Demand { branches: live, prompt, tokens };
                }
            }
        }
        heaviest
    }

    fn roofline(&self, site: &Site) -> Option<Roofline<'_>> {
        let role = site.role? as usize;
        let plan = self.plans.get(role)?.as_ref()?;
        let model = &self.models[role].as_ref()?.model;
        Some(Roofline { model, target: self.target, threads: plan.schedule.threads })
    }

    /// Mean tokens of a sequence of a site.
    fn mean_tokens(&self, max: f64) -> f64 {
        (max * self.options.assumptions.length_share).max(1.0)
    }

    /// Chance that no stop has fired after `k` of `n` sequences: `stop_chance` by half of them, geometric.
    fn survival(&self, k: f64, n: f64) -> f64 {
        (1.0 - self.options.assumptions.stop_chance.clamp(0.0, 1.0)).powf(2.0 * k / n.max(1.0))
    }

    /// A wave of sequences `lo..hi`: the rows thin out as sequences end; lengths are taken as even between 0 and twice
    /// their mean, so a wave of `w` lasts `2w / (w + 1)` means and has half of its rows alive on average.
    fn wave(&self, site: &Site, lo: u32, hi: u32, until: bool) -> Option<(Time, f64, PrefixMode)> {
        let roofline = self.roofline(site)?;
        let Kind::Generate { n, live, max, branches, .. } = site.kind else { return None };
        let mean = self.mean_tokens(max);
        let width = if branches { live } else { f64::from(hi - lo) };
        let steps = (mean * 2.0 * width / (width + 1.0)).min(max);
        let alive = (width * mean / steps).max(1.0);
        let prompt = self.options.assumptions.prompt_tokens as f64;
        let best = physical::prefix(&roofline, Demand { branches: alive, prompt, tokens: steps }).swap_remove(0);
        // Within a wave a stop cancels what still runs: the wave runs for the mean survival over its sequences.
        let runs = if until {
            let (lo, hi, n) = (f64::from(lo), f64::from(hi), f64::from(n));
            let points = [0.125, 0.375, 0.625, 0.875].map(|t| self.survival(lo + (hi - lo) * t, n));
            points.iter().sum::<f64>() / 4.0
        } else {
            1.0
        };
        let memory = (prompt + width * max) * roofline.model.kv_bytes_per_token() as f64;
        Some((best.1.times(runs * site.times), memory, best.0))
    }

    fn scoring(&self, site: &Site, extended: bool) -> Option<Time> {
        let roofline = self.roofline(site)?;
        let prompt = self.options.assumptions.prompt_tokens as f64;
        let chunk = f64::from(self.plans[site.role? as usize].as_ref()?.schedule.max_rows);
        let context = if extended { 16.0 } else { prompt };
        let prefill = roofline.prefill(context, if extended { prompt } else { 0.0 }, chunk);
        let labels = match site.kind {
            Kind::Choose(n) => n,
            Kind::Expect => 1.0,
            _ => 32.0,
        };
        Some(prefill.then(roofline.prefill(labels, prompt, chunk)).times(site.times))
    }

    fn checks(&self, site: &Site, order: &[u32]) -> f64 {
        let Kind::Verify(checks) = &site.kind else { return 0.0 };
        let mut reach = 1.0;
        let mut seconds = 0.0;
        for i in order {
            let (pass, cost) = check_prior(checks[*i as usize]);
            seconds += reach * cost;
            reach *= pass;
        }
        seconds * site.times
    }
}

impl Prices for World<'_> {
    fn node(&self, egraph: &EGraph<Term, ()>, node: &Term) -> Option<(f64, f64)> {
        let n = |id: Id| rules::num(egraph, id);
        let site = |id: Id| n(id).and_then(|i| self.facts.sites.get(i as usize));
        match node {
            Term::Draw([s, lo, hi]) | Term::DrawUntil([s, lo, hi]) => {
                let until = matches!(node, Term::DrawUntil(_));
                let (time, memory, _) = self.wave(site(*s)?, n(*lo)?, n(*hi)?, until)?;
                Some((time.seconds(), memory))
            }
            Term::Fresh([s, _]) => {
                let site = site(*s)?;
                let seconds = match site.kind {
                    Kind::Generate { .. } => self.prefill(site, false)?.seconds() * site.times,
                    _ => self.scoring(site, false)?.seconds(),
                };
                Some((seconds, 0.0))
            }
            Term::Extend([s, ..]) => {
                let site = site(*s)?;
                let seconds = match site.kind {
                    Kind::Generate { .. } => self.prefill(site, true)?.seconds() * site.times,
                    _ => self.scoring(site, true)?.seconds(),
                };
                Some((seconds, 0.0))
            }
            // A verdict is priced at the first check; the rest of the chain is weighted by the chance to reach it.
            Term::Verify(_) | Term::Seq(_) | Term::Gen(_) | Term::Then(_) | Term::Prefill(_) | Term::Score(_) => {
                Some((0.0, 0.0))
            }
            Term::CheckOf([_, kind]) => Some((check_prior(check_of(n(*kind)?)).1, 0.0)),
            Term::All([check, rest]) => {
                // Joining adds the children's seconds; take back the share of the rest that a failed check saves.
                let kind = egraph[*check].nodes.iter().find_map(|t| if let Term::CheckOf([_, k]) = t { n(*k) } else { None });
                let saved = (1.0 - check_prior(check_of(kind?)).0) * chain_seconds(egraph, *rest);
                Some((-saved, 0.0))
            }
            Term::Num(_) | Term::End | Term::Pass => Some((0.0, 0.0)),
        }
    }

    fn shared(&self, egraph: &EGraph<Term, ()>, prefill: Id) -> f64 {
        let first = egraph[prefill].nodes.iter().find_map(|t| if let Term::Prefill([s, ..]) = t { rules::num(egraph, *s) } else { None });
        let site = first.and_then(|i| self.facts.sites.get(i as usize));
        site.and_then(|s| Some(self.prefill(s, false)?.seconds() * s.times)).unwrap_or(0.0)
    }

    fn memory(&self) -> f64 {
        self.memory
    }
}

/// Expected seconds of the cheapest order of a chain of checks.
fn chain_seconds(egraph: &EGraph<Term, ()>, chain: Id) -> f64 {
    let mut checks = Vec::new();
    let mut at = chain;
    while let Some((check, rest)) =
        egraph[at].nodes.iter().find_map(|t| if let Term::All([c, r]) = t { Some((*c, *r)) } else { None })
    {
        let kind = egraph[check].nodes.iter().find_map(|t| if let Term::CheckOf([_, k]) = t { rules::num(egraph, *k) } else { None });
        checks.push(check_prior(check_of(kind.unwrap_or(0))));
        at = rest;
    }
    checks.sort_by(|a, b| (a.1 / (1.0 - a.0)).total_cmp(&(b.1 / (1.0 - b.0))));
    checks.iter().fold((0.0, 1.0), |(sum, reach), (pass, cost)| (sum + reach * cost, reach * pass)).0
}

/// From the chosen point to the plan.
#[allow(
    clippy::cast_precision_loss,
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "counts of tokens, pages and bytes are far below 2^53"
)]
impl World<'_> {
    fn prefill(&self, site: &Site, extended: bool) -> Option<Time> {
        let roofline = self.roofline(site)?;
        let prompt = self.options.assumptions.prompt_tokens as f64;
        let chunk = f64::from(self.plans[site.role? as usize].as_ref()?.schedule.max_rows);
        Some(if extended { roofline.prefill(16.0, prompt, chunk) } else { roofline.prefill(prompt, 0.0, chunk) })
    }

    fn plan(mut self, egraph: &EGraph<Term, ()>, best: &Point, points: &[Point]) -> Plan {
        let mut sites = vec![SitePlan::Unused; self.strategy.sites as usize];
        let mut operators = Vec::new();
        let mut decisions = std::mem::take(&mut self.decisions);
        let mut paid = std::collections::BTreeSet::new();
        let mut total = Cost::default();
        let mut rest = best;
        let mut index = 0;
        while let (Term::Seq(_), [site_point, next]) = (&rest.node, &rest.children[..]) {
            let site = &self.facts.sites[index];
            let (plan, rows, decided) = self.site(egraph, site, site_point, &mut paid);
            if let Some(slot) = sites.get_mut(site.id as usize) {
                *slot = plan;
            }
            decisions.extend(decided);
            for row in &rows {
                total.seconds += row.cost.seconds;
                total.flops += row.cost.flops;
                total.bytes += row.cost.bytes;
                total.tokens += row.cost.tokens;
                total.usd += row.cost.usd;
                total.kv_bytes = total.kv_bytes.max(row.cost.kv_bytes);
            }
            operators.extend(rows);
            rest = next;
            index += 1;
        }
        let mut whole = total;
        whole.seconds = total.seconds;
        if points.len() > 1 {
            let others = points[1..].iter().take(3).map(|p| {
                let cost = Cost { seconds: p.total(egraph, &self), kv_bytes: p.memory, ..Cost::default() };
                (format!("a plan with a KV peak of {:.1} MB", p.memory / 1e6), cost)
            });
            let cost = Cost { seconds: best.total(egraph, &self), kv_bytes: best.memory, ..Cost::default() };
            decisions.push(Decision {
                topic: "whole plan".to_owned(),
                site: None,
                chosen: format!("KV peak of {:.1} MB", best.memory / 1e6),
                cost,
                runners_up: others.collect(),
                reason: "the fastest of the plans on the front of time and memory".to_owned(),
            });
        }
        Plan {
            strategy: self.strategy.clone(),
            models: std::mem::take(&mut self.plans),
            sites,
            decisions,
            cost: whole,
            operators,
            target: self.target.name.clone(),
            target_hash: self.target.hash(),
            assumptions: self.options.assumptions,
        }
    }

    fn site(
        &self,
        egraph: &EGraph<Term, ()>,
        site: &Site,
        point: &Point,
        paid: &mut std::collections::BTreeSet<Id>,
    ) -> (SitePlan, Vec<OperatorCost>, Vec<Decision>) {
        let role = site.role.and_then(|r| self.strategy.roles.get(r as usize)).map_or("verifier", |r| r.name.as_str());
        let row = |name: String, depth, cost, bound_by| OperatorCost { name, depth, site: Some(site.id), cost, bound_by };
        match (&site.kind, &point.node) {
            (Kind::Generate { n, live, max, stops, branches }, Term::Gen(_)) => {
                let (how, draws) = (&point.children[0], &point.children[1]);
                let waves = waves(egraph, draws);
                let mut rows = Vec::new();
                let mut time = Time::default();
                let mut memory: f64 = 0.0;
                let mut prefix = PrefixMode::Shared;
                let mut lo = 0;
                for (i, wave) in waves.iter().enumerate() {
                    if let Some((t, m, p)) = self.wave(site, lo, lo + wave, *stops) {
                        time = time.then(t);
                        memory = memory.max(m);
                        if i == 0 {
                            prefix = p;
                        }
                    }
                    lo += wave;
                }
                let tokens = self.expected_tokens(site, &waves, *stops, *max, *n);
                let width = waves.iter().copied().max().unwrap_or(*n);
                let width = if *branches { *live as u32 } else { width };
                let shape = if waves.len() > 1 { format!("{waves:?}") } else { format!("×{width}") };
                rows.push(row(format!("decode {role} {shape}"), 1, time.cost(tokens, memory, self.target), time.bound_by()));
                let extended = matches!(how.node, Term::Extend(_));
                let fresh_prefill = how.prefills.iter().all(|p| paid.insert(*p));
                if let Some(prefill) = self.prefill(site, extended) {
                    let prefill = if fresh_prefill { prefill.times(site.times) } else { Time::default() };
                    let kv = self.options.assumptions.prompt_tokens as f64
                        * self.models[site.role.unwrap_or(0) as usize].as_ref().map_or(0, |m| m.model.kv_bytes_per_token()) as f64;
                    let what = if extended { "extend" } else { "prefill" };
                    let shared = if fresh_prefill { format!("shared by {n}") } else { "shared with an earlier site".to_owned() };
                    rows.push(row(format!("{what} {role}"), 2, prefill.cost(0.0, kv, self.target), shared));
                }
                let decisions = self.generate_decisions(site, &waves, prefix);
                let chunk = self.plans[site.role.unwrap_or(0) as usize].as_ref().map_or(512, |p| p.schedule.max_rows);
                let plan = SitePlan::Generate {
                    waves: if waves.len() > 1 { waves } else { Vec::new() },
                    prefix,
                    bucket: width,
                    prefill_chunk: chunk,
                };
                (plan, rows, decisions)
            }
            (Kind::Verify(checks), Term::Verify(_)) => {
                let order = order(egraph, &point.children[1]);
                let cost = |o: &[u32]| Cost { seconds: self.checks(site, o), ..Cost::default() };
                let names = |o: &[u32]| {
                    let words: Vec<_> = o.iter().map(|i| format!("{:?}", checks[*i as usize]).to_lowercase()).collect();
                    words.join(", then ")
                };
                let mut decisions = Vec::new();
                if checks.len() > 1 {
                    let written: Vec<u32> = (0..checks.len() as u32).collect();
                    let reversed: Vec<u32> = order.iter().rev().copied().collect();
                    let mut others: Vec<_> = [written, reversed].into_iter().filter(|o| *o != order).map(|o| (names(&o), cost(&o))).collect();
                    others.dedup_by(|a, b| a.0 == b.0);
                    others.sort_by(|a, b| a.1.seconds.total_cmp(&b.1.seconds));
                    decisions.push(Decision {
                        topic: "verify order".to_owned(),
                        site: Some(site.id),
                        chosen: names(&order),
                        cost: cost(&order),
                        runners_up: others,
                        reason: "cheap checks that decide often come first; the rest runs only when they pass".to_owned(),
                    });
                }
                let rows = vec![row(format!("verify {} ×{:.0}", names(&order), site.times), 0, cost(&order), "host".to_owned())];
                (SitePlan::Verify { order, batch: 1 }, rows, decisions)
            }
            (kind, _) => {
                let how = point.children.get(1).map_or(&Term::Pass, |c| &c.node);
                let extended = matches!(how, Term::Extend(_));
                let name = match kind {
                    Kind::Choose(n) => format!("choose {role} of {n:.0}"),
                    Kind::Expect => format!("expect {role}"),
                    _ => format!("logprob {role}"),
                };
                let time = self.scoring(site, extended).unwrap_or_default();
                let rows = vec![row(format!("{name} ×{:.0}", site.times), 0, time.cost(0.0, 0.0, self.target), time.bound_by())];
                let mut decisions = Vec::new();
                if site.extends.is_some() {
                    let cost = |e| self.scoring(site, e).unwrap_or_default().cost(0.0, 0.0, self.target);
                    let (a, b) = ("appended to the generating sequence's keys", "prefilled again");
                    let (chosen, other) = if extended { (a, b) } else { (b, a) };
                    decisions.push(Decision {
                        topic: "scoring".to_owned(),
                        site: Some(site.id),
                        chosen: chosen.to_owned(),
                        cost: cost(extended),
                        runners_up: vec![(other.to_owned(), cost(!extended))],
                        reason: "the same bits either way: the cheaper one".to_owned(),
                    });
                }
                let mode = if extended { ScoreMode::Fused } else { ScoreMode::Fresh };
                (SitePlan::Score { mode, bucket: 1 }, rows, decisions)
            }
        }
    }

    fn expected_tokens(&self, site: &Site, waves: &[u32], stops: bool, max: f64, n: u32) -> f64 {
        let mean = self.mean_tokens(max);
        let mut lo = 0.0;
        let mut tokens = 0.0;
        for wave in waves {
            let hi = lo + f64::from(*wave);
            let runs = if stops { (self.survival(lo, f64::from(n)) + self.survival(hi, f64::from(n))) / 2.0 } else { 1.0 };
            tokens += (hi - lo) * mean * runs;
            lo = hi;
        }
        let branching = if let Kind::Generate { branches: true, live, .. } = site.kind { live / f64::from(n).max(1.0) } else { 1.0 };
        tokens * branching * site.times
    }

    fn generate_decisions(&self, site: &Site, waves: &[u32], prefix: PrefixMode) -> Vec<Decision> {
        let mut out = Vec::new();
        let Kind::Generate { n, live, max, stops, branches } = site.kind else { return out };
        let price = |waves: &[u32]| {
            let mut lo = 0;
            let mut time = Time::default();
            for wave in waves {
                time = time.then(self.wave(site, lo, lo + wave, stops).map_or(Time::default(), |w| w.0));
                lo += wave;
            }
            time.cost(self.expected_tokens(site, waves, stops, max, n), 0.0, self.target)
        };
        let name = |w: &[u32]| if w.len() == 1 { format!("one wave of {}", w[0]) } else { format!("waves of {w:?}") };
        if stops && n > 1 {
            let halves = vec![n.div_ceil(2), n / 2];
            let fours: Vec<u32> = (0..n.div_ceil(4)).map(|i| 4.min(n - 4 * i)).collect();
            let mut others: Vec<Vec<u32>> = vec![vec![n], halves, fours, vec![1; n as usize]];
            others.retain(|o| o != waves);
            others.sort_by(|a, b| price(a).seconds.total_cmp(&price(b).seconds));
            others.dedup();
            out.push(Decision {
                topic: "waves".to_owned(),
                site: Some(site.id),
                chosen: name(waves),
                cost: price(waves),
                runners_up: others.iter().take(3).map(|o| (name(o), price(o))).collect(),
                reason: "a later wave runs only if no rule has stopped the site; larger waves read the weights less often"
                    .to_owned(),
            });
        }
        if n > 1 || branches {
            let Some(roofline) = self.roofline(site) else { return out };
            let width = if branches { live } else { f64::from(waves.first().copied().unwrap_or(n)) };
            let prompt = self.options.assumptions.prompt_tokens as f64;
            let demand = Demand { branches: (width + 1.0) / 2.0, prompt, tokens: self.mean_tokens(max) };
            let name = |m: PrefixMode| match m {
                PrefixMode::Shared => "one copy of the prompt's keys, attended branch by branch",
                PrefixMode::Copied => "a copy of the prompt's keys for every branch",
                PrefixMode::Cascade => "one copy of the prompt's keys, attended by the branches together",
            };
            let cost = |o: &(PrefixMode, Time, f64)| o.1.cost(demand.branches * demand.tokens, o.2, self.target);
            let options = physical::prefix(&roofline, demand);
            if let Some(chosen) = options.iter().find(|o| o.0 == prefix) {
                out.push(Decision {
                    topic: "prefix".to_owned(),
                    site: Some(site.id),
                    chosen: name(prefix).to_owned(),
                    cost: cost(chosen),
                    runners_up: options.iter().filter(|o| o.0 != prefix).map(|o| (name(o.0).to_owned(), cost(o))).collect(),
                    reason: "the three give the same bits: the fastest at the assumed prompt length".to_owned(),
                });
            }
        }
        out
    }
}

/// Sizes of the waves of a chosen draw term.
fn waves(egraph: &EGraph<Term, ()>, point: &Point) -> Vec<u32> {
    match &point.node {
        Term::Then(_) => point.children.iter().flat_map(|c| waves(egraph, c)).collect(),
        Term::Draw([_, lo, hi]) | Term::DrawUntil([_, lo, hi]) => {
            let n = |id: &Id| rules::num(egraph, *id).unwrap_or(0);
            vec![n(hi) - n(lo)]
        }
        _ => Vec::new(),
    }
}

/// Positions of the checks of a chosen chain.
fn order(egraph: &EGraph<Term, ()>, point: &Point) -> Vec<u32> {
    let mut out = Vec::new();
    let mut at = point;
    while let (Term::All(_), [check, rest]) = (&at.node, &at.children[..]) {
        if let Term::CheckOf([position, _]) = &check.node {
            out.push(rules::num(egraph, *position).unwrap_or(0));
        }
        at = rest;
    }
    out
}
