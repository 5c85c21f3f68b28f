//! What the terms of a plan cost: seconds and KV bytes of waves, prefills, scores and checks on the models of a
//! strategy's roles.
//!
//! Takes the facts, the models and their schedules, the target and the assumptions; answers the questions of
//! [`crate::extract`]. It chooses nothing: alternatives are terms, or enumerated by the planner.

use crate::extract::{self, Prices};
use crate::facts::{Check, Facts, Kind, Site};
use crate::language::{JUDGE, Term, check_of, check_prior, start};
use crate::lossy::Allowed;
use crate::physical::{self, Demand};
use crate::planner::{Options, PlanError, RoleModel};
use crate::roofline::{Roofline, Time};
use crate::rules;
use egg::{EGraph, Id};
use ir::plan::{Decision, ModelPlan, PrefixMode};
use ir::program::{CHUNK, PAGE};
use ir::schedule::Numerics;
use ir::strategy::{RoleKind, Strategy};
use ir::target::Target;
use std::cell::RefCell;
use std::collections::BTreeMap;
use std::rc::Rc;

/// Tokens of a further turn: its markers and a short instruction.
const TURN: f64 = 16.0;
/// Tokens of a text whose log-probability is asked for.
const TEXT: f64 = 32.0;
/// Seconds to start a wave: forks, sampling state, the first look at the rules.
const WAVE_SECONDS: f64 = 20e-6;
/// Stretches of a wave after its first end that are priced one by one.
const STRETCHES: u32 = 16;
/// Lengths of the samples of one prompt are taken as even between `mean × (1 - SPREAD)` and `mean × (1 + SPREAD)`, less
/// where `max` leaves less room. Even lengths have a standard deviation of `SPREAD / √3` means: 0.36, the median of what was
/// measured ("What an estimate assumes" in docs/COST_MODEL.md).
const SPREAD: f64 = 0.62;
/// Share of the memory left by the weights that KV may take; the rest is workspace.
const KV_SHARE: f64 = 0.9;

/// A wave that no rule stops.
#[derive(Clone, Debug)]
struct Wave {
    /// Time before the first step.
    start: Time,
    /// Stretches in order.
    stretches: Vec<Stretch>,
    /// Peak bytes of KV.
    memory: f64,
}

/// A stretch of a wave.
#[derive(Clone, Copy, Debug)]
struct Stretch {
    /// Its time.
    time: Time,
    /// Its tokens.
    tokens: f64,
    /// Sequences that have ended before it.
    ended: f64,
}

/// Waves by site, width and placement.
type Waves = BTreeMap<(usize, u32, u8), Option<Rc<Wave>>>;

/// Everything prices depend on.
pub(crate) struct World<'a> {
    pub(crate) strategy: &'a Strategy,
    pub(crate) facts: &'a Facts,
    pub(crate) target: &'a Target,
    pub(crate) options: &'a Options,
    /// Models by role.
    pub(crate) plans: Vec<Option<ModelPlan>>,
    /// Decisions about models.
    pub(crate) decisions: Vec<Decision>,
    /// Placement of the shared prompt by site.
    pub(crate) modes: Vec<PrefixMode>,
    rooflines: Vec<Option<Roofline<'a>>>,
    /// Tokens of the context by site.
    contexts: Vec<f64>,
    /// Bytes left for KV.
    memory: f64,
    waves: RefCell<Waves>,
}

#[allow(
    clippy::cast_precision_loss,
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "counts of tokens, pages and bytes are far below 2^53"
)]
impl<'a> World<'a> {
    /// The world in which the model of role `i` computes in class `classes[i]`.
    pub(crate) fn new(
        strategy: &'a Strategy,
        facts: &'a Facts,
        models: &'a [Option<RoleModel>],
        target: &'a Target,
        options: &'a Options,
        classes: &[Numerics],
    ) -> Result<Self, PlanError> {
        let mut world = Self {
            strategy,
            facts,
            target,
            options,
            plans: Vec::new(),
            decisions: Vec::new(),
            modes: vec![PrefixMode::Shared; facts.sites.len()],
            rooflines: Vec::new(),
            contexts: Vec::new(),
            memory: target.memory,
            waves: RefCell::default(),
        };
        let allowed = Allowed::of(&strategy.allow);
        allowed.check(&options.forced, strategy).map_err(PlanError::Forbidden)?;
        world.contexts();
        for (i, role) in strategy.roles.iter().enumerate() {
            let Some(bound) = models.get(i).and_then(Option::as_ref) else {
                if role.kind == RoleKind::Generator {
                    return Err(PlanError::Unbound(role.name.clone()));
                }
                world.plans.push(None);
                world.rooflines.push(None);
                continue;
            };
            let class = classes.get(i).copied().unwrap_or(Numerics::Int8);
            let roofline = Roofline::new(&bound.model, target).with_numerics(class);
            let demand = world.demand(i as u32);
            let lossy = (allowed, &options.forced);
            let (schedule, decisions) =
                physical::schedule(&role.name, &roofline, options.threads.max(1), class, demand, lossy);
            world.decisions.extend(decisions);
            let weight_bytes = roofline.weight_bytes() as u64;
            // Roles of one file and class share its weights.
            let shared = world.plans.iter().flatten().any(|p| p.path == bound.path && p.schedule.numerics == class);
            if !shared {
                world.memory -= weight_bytes as f64;
            }
            let roofline = roofline.with_threads(schedule.threads).with_cache(schedule.kv, schedule.attention);
            let roofline = roofline.with_prologue(schedule.prologue);
            world.rooflines.push(Some(roofline));
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
        world.memory *= KV_SHARE;
        Ok(world)
    }

    /// Tokens of every site's context: the assumed prompt, or what the extended sequence had and wrote, and a turn.
    fn contexts(&mut self) {
        for (index, site) in self.facts.sites.iter().enumerate() {
            let base = self.base(site).filter(|b| *b < index);
            let tokens = match base.map(|b| (&self.facts.sites[b].kind, self.contexts[b])) {
                Some((Kind::Generate { max, .. }, before)) => before + self.mean_tokens(*max) + TURN,
                _ => self.options.assumptions.prompt_tokens as f64,
            };
            self.contexts.push(tokens);
        }
    }

    /// The site whose sequences a site's context extends.
    fn base(&self, site: &Site) -> Option<usize> {
        let base = site.extends?;
        self.facts.sites.iter().position(|s| s.id == base)
    }

    /// Pages every model may use: what the bounds can need, capped by an even share of the memory left.
    fn kv_pages(&mut self) -> Result<(), PlanError> {
        let local = self.plans.iter().flatten().count().max(1) as f64;
        let share = self.memory.max(0.0) * KV_SHARE / local;
        let bounds = self.strategy.bounds;
        for plan in self.plans.iter_mut().flatten() {
            let page = crate::roofline::page_bytes(&plan.model, plan.schedule.kv, plan.schedule.attention).max(1);
            let context = u64::from(plan.model.context);
            // Live tokens, a prompt for every live sequence's context chain, and a tail page each.
            let tails = bounds.live.saturating_mul(2 * PAGE as u64);
            let tokens = bounds.kv_tokens.saturating_add(4 * context).saturating_add(tails);
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

    /// No plan fits: how much the smallest would need.
    pub(crate) fn too_large(mut self, egraph: &EGraph<Term, ()>, root: Id) -> PlanError {
        let weights = self.target.memory - self.memory / KV_SHARE;
        self.memory = f64::INFINITY;
        let least = extract::pareto(egraph, root, &self).iter().map(|p| p.memory).fold(f64::INFINITY, f64::min);
        let need = weights + least / KV_SHARE;
        PlanError::Memory(
            "the strategy with its weights and live KV".to_owned(),
            need as u64,
            self.target.memory as u64,
        )
    }

    /// The heaviest generation of a role decides how its kernels are generated.
    fn demand(&self, role: u32) -> Demand {
        let prompt = self.options.assumptions.prompt_tokens as f64;
        let mut heaviest = Demand { branches: 1.0, prompt, tokens: 1.0 };
        for (index, site) in self.facts.sites.iter().enumerate().filter(|(_, s)| s.role == Some(role)) {
            if let Kind::Generate { live, max, .. } = site.kind {
                let (steps, alive) = self.wave_shape(live, max);
                if alive * steps > heaviest.branches * heaviest.tokens {
                    heaviest = Demand { branches: alive, prompt: self.contexts[index], tokens: steps };
                }
            }
        }
        heaviest
    }

    /// Places the shared prompt of a site; returns where it was.
    pub(crate) fn place(&mut self, index: usize, mode: PrefixMode) -> PrefixMode {
        std::mem::replace(&mut self.modes[index], mode)
    }

    pub(crate) fn roofline(&self, site: &Site) -> Option<&Roofline<'a>> {
        self.rooflines.get(site.role? as usize)?.as_ref()
    }

    /// Prompt rows per step of a site's model.
    pub(crate) fn chunk(&self, site: &Site) -> Option<u32> {
        Some(self.plans.get(site.role? as usize)?.as_ref()?.schedule.max_rows)
    }

    /// KV bytes of a number of tokens on a site's model.
    pub(crate) fn kv(&self, site: &Site, tokens: f64) -> f64 {
        self.roofline(site).map_or(0.0, |r| tokens * r.kv_bytes_per_token())
    }

    /// Tokens of a site's context.
    pub(crate) fn context(&self, index: usize) -> f64 {
        self.contexts[index]
    }

    /// Mean tokens of a sequence that may have `max`.
    fn mean_tokens(&self, max: f64) -> f64 {
        (max * self.options.assumptions.length_share).max(1.0)
    }

    /// Half the width of the lengths of a site's sequences around their mean, as a share of it: [`SPREAD`], or less where
    /// `max` leaves less room.
    fn spread(&self, max: f64) -> f64 {
        SPREAD.min(max / self.mean_tokens(max) - 1.0).max(0.0)
    }

    /// Steps that `width` sequences take together, to the end of the longest, and how many of them are alive on average.
    fn wave_shape(&self, width: f64, max: f64) -> (f64, f64) {
        let width = width.max(1.0);
        let share = 1.0 + self.spread(max) * (width - 1.0) / (width + 1.0);
        (self.mean_tokens(max) * share, width / share)
    }

    /// Chance that no rule has stopped a site after `k` of `n` sequences: geometric, `stop_chance` by half of them.
    fn survival(&self, k: f64, n: f64) -> f64 {
        (1.0 - self.options.assumptions.stop_chance.clamp(0.0, 0.99)).powf(2.0 * k / n.max(1.0))
    }

    /// A wave of sequences `lo..hi` with a placement of the prompt: expected time and tokens of all its runs and peak
    /// bytes of KV. A rule looks when a sequence ends; a stop cancels what still runs.
    pub(crate) fn wave(&self, index: usize, lo: u32, hi: u32, mode: PrefixMode) -> Option<(Time, f64, f64)> {
        let site = self.facts.sites.get(index)?;
        let Kind::Generate { n, stops, .. } = site.kind else { return None };
        let key = (index, hi.checked_sub(lo)?, mode as u8);
        let known = self.waves.borrow().get(&key).cloned();
        let wave = match known {
            Some(known) => known?,
            None => {
                let whole = self.whole_wave(index, hi - lo, mode).map(Rc::new);
                self.waves.borrow_mut().insert(key, whole.clone());
                whole?
            }
        };
        let runs = |ended: f64| if stops { self.survival(f64::from(lo) + ended, f64::from(n)) } else { 1.0 };
        let (mut time, mut tokens) = (wave.start.times(runs(0.0)), 0.0);
        for stretch in &wave.stretches {
            let runs = runs(stretch.ended);
            time = time.then(stretch.time.times(runs));
            tokens += stretch.tokens * runs;
        }
        Some((time.times(site.times), tokens * site.times, wave.memory))
    }

    /// A wave that no rule stops: all its sequences run until the shortest ends, then they end one after the other at equal
    /// distances; a row has the mean number of keys behind it, whatever the wave.
    fn whole_wave(&self, index: usize, width: u32, mode: PrefixMode) -> Option<Wave> {
        let site = &self.facts.sites[index];
        let roofline = self.roofline(site)?;
        let Kind::Generate { live, max, branches, .. } = site.kind else { return None };
        let width = if branches { live.round() } else { f64::from(width) }.max(1.0);
        let (mean, spread, prompt) = (self.mean_tokens(max), self.spread(max), self.contexts[index]);
        let keys = mean * (1.0 + spread * spread / 3.0) / 2.0;
        let stretch = |steps: f64, ended: f64| {
            let alive = width - ended;
            let step = physical::prefix_step(roofline, alive, prompt, keys, mode)?;
            Some(Stretch { time: step.times(steps), tokens: alive * steps, ended })
        };
        let gap = 2.0 * spread * mean / (width + 1.0);
        let shortest = mean * (1.0 - spread) + gap;
        let mut stretches = vec![stretch(shortest, 0.0)?];
        // Gaps between two ends, as many in each part.
        let gaps = width - 1.0;
        let parts = gaps.min(f64::from(STRETCHES));
        for i in 0..parts as u32 {
            let ended = (f64::from(i) + 0.5) * gaps / parts + 0.5;
            stretches.push(stretch(gap * gaps / parts, ended)?);
        }
        let (prompts, mut start) = match mode {
            PrefixMode::Copied => (width, physical::copies(roofline, width, prompt)),
            PrefixMode::Shared | PrefixMode::Cascade => (1.0, Time::default()),
        };
        start.launch += WAVE_SECONDS;
        Some(Wave { start, stretches, memory: self.kv(site, prompts * prompt + width * max) })
    }

    /// Tokens of a site's context whose keys the sequence that it extends leaves behind: all but the new turn; where decoded
    /// tokens attend to a part of the pages, only the sequence's own prompt, or as many tokens as the budget of pages holds.
    fn left_behind(&self, index: usize) -> f64 {
        let site = &self.facts.sites[index];
        let old = (self.contexts[index] - TURN).max(0.0);
        let model = site.role.and_then(|r| self.plans.get(r as usize)?.as_ref());
        match model.and_then(|m| m.schedule.attention.pages()) {
            Some(pages) => {
                let prompt = self.base(site).map_or(0.0, |base| self.contexts[base]);
                old.min(prompt.max(f64::from(pages) * PAGE as f64))
            }
            None => old,
        }
    }

    /// One computation of a site's context: whole, or only what the sequence it extends left no keys of.
    pub(crate) fn prefill(&self, index: usize, extended: bool) -> Option<Time> {
        let site = self.facts.sites.get(index)?;
        let (chunk, tokens) = (f64::from(self.chunk(site)?), self.contexts[index]);
        let old = if extended { self.left_behind(index) } else { 0.0 };
        Some(self.roofline(site)?.prefill(tokens - old, old, chunk))
    }

    /// The rows of a score, choice or expectation behind its context, for all its runs.
    pub(crate) fn scoring(&self, index: usize) -> Option<Time> {
        let site = self.facts.sites.get(index)?;
        let rows = match site.kind {
            Kind::Choose(labels) => labels,
            Kind::Expect => 1.0,
            _ => TEXT,
        };
        let chunk = f64::from(self.chunk(site)?);
        Some(self.roofline(site)?.prefill(rows, self.contexts[index], chunk).times(site.times))
    }

    /// KV bytes that a site's context needs: its own keys, or those of all sequences it may extend, kept until then (at most:
    /// attention to a part keeps fewer).
    pub(crate) fn context_memory(&self, index: usize, extended: bool) -> f64 {
        let site = &self.facts.sites[index];
        let kept = match self.base(site).map(|b| (&self.facts.sites[b].kind, b)) {
            Some((Kind::Generate { live, max, .. }, base)) if extended => self.contexts[base] + live * max + TURN,
            _ => self.contexts[index],
        };
        self.kv(site, kept)
    }

    /// Chance that a check passes and its seconds per candidate on this machine.
    fn check_prior(&self, check: Check) -> (f64, f64) {
        check_prior(check, start(self.target.start))
    }

    /// Expected seconds of a chain of checks in an order, for all runs of its site.
    pub(crate) fn checks(&self, site: &Site, order: &[u32]) -> f64 {
        let Kind::Verify(checks) = &site.kind else { return 0.0 };
        let priors = order.iter().filter_map(|i| checks.get(*i as usize)).map(|c| self.check_prior(*c));
        priors.fold((0.0, 1.0), |(sum, reach), (pass, cost)| (sum + reach * cost, reach * pass)).0 * site.times
    }

    /// The same where `together` candidates at a time are judged with `batch` of them in a call of a program that answers
    /// line by line and `at_once` programs side by side.
    pub(crate) fn calls(&self, site: &Site, order: &[u32], batch: u32, at_once: u32) -> f64 {
        let Kind::Verify(checks) = &site.kind else { return 0.0 };
        // A share of a call is a call that runs less often than once.
        let rounds = |of: f64, size: u32| (of / f64::from(size.max(1))).max(of.min(1.0));
        let (mut sum, mut candidates) = (0.0, site.together);
        for check in order.iter().filter_map(|i| checks.get(*i as usize)) {
            let (pass, cost) = self.check_prior(*check);
            sum += match check {
                Check::Regex | Check::Exact | Check::Numeric => candidates * cost,
                Check::Command => rounds(candidates, at_once) * cost,
                Check::Lines => {
                    let calls = rounds(candidates, batch);
                    rounds(calls, at_once)
                        * (start(self.target.start) + candidates / calls.max(f64::MIN_POSITIVE) * JUDGE)
                }
            };
            candidates *= pass;
        }
        sum * site.times / site.together
    }
}

impl World<'_> {
    fn index(egraph: &EGraph<Term, ()>, site: Id) -> Option<usize> {
        rules::num(egraph, site).map(|i| i as usize)
    }

    fn site_of(&self, egraph: &EGraph<Term, ()>, site: Id) -> Option<&Site> {
        self.facts.sites.get(Self::index(egraph, site)?)
    }
}

impl Prices for World<'_> {
    fn node(&self, egraph: &EGraph<Term, ()>, node: &Term) -> Option<(f64, f64)> {
        match node {
            Term::Draw([s, lo, hi]) | Term::Wave([s, lo, hi]) => {
                let index = Self::index(egraph, *s)?;
                let (lo, hi) = (rules::num(egraph, *lo)?, rules::num(egraph, *hi)?);
                let (time, _, memory) = self.wave(index, lo, hi, *self.modes.get(index)?)?;
                Some((time.seconds(), memory))
            }
            Term::Fresh([s, _]) | Term::Extend([s, ..]) => {
                let index = Self::index(egraph, *s)?;
                let extended = matches!(node, Term::Extend(_));
                let time = self.prefill(index, extended)?.times(self.facts.sites[index].times);
                Some((time.seconds(), self.context_memory(index, extended)))
            }
            Term::Prefill([s, ..]) => Some((0.0, self.context_memory(Self::index(egraph, *s)?, false))),
            Term::Score([s, _]) => Some((self.scoring(Self::index(egraph, *s)?)?.seconds(), 0.0)),
            Term::CheckOf([_, kind]) => Some((self.check_prior(check_of(rules::num(egraph, *kind)?)).1, 0.0)),
            Term::Verify(_) | Term::All(_) | Term::Seq(_) | Term::Gen(_) | Term::Then(_) => Some((0.0, 0.0)),
            Term::Num(_) | Term::End | Term::Pass => Some((0.0, 0.0)),
        }
    }

    fn weight(&self, egraph: &EGraph<Term, ()>, node: &Term, child: usize) -> f64 {
        match (node, child) {
            // The rest of a chain runs when the check before it has passed.
            (Term::All([check, _]), 1) => self.check_prior(check_of(rules::check_kind(egraph, *check).unwrap_or(0))).0,
            (Term::Verify([site, _]), 1) => self.site_of(egraph, *site).map_or(1.0, |s| s.times),
            _ => 1.0,
        }
    }

    fn shared(&self, egraph: &EGraph<Term, ()>, prefill: Id) -> f64 {
        let first = |t: &Term| if let Term::Prefill([s, ..]) = t { Self::index(egraph, *s) } else { None };
        let first = egraph[prefill].nodes.iter().find_map(first);
        first.and_then(|i| self.shared_prefill(i)).map_or(0.0, |t| t.seconds())
    }

    fn memory(&self) -> f64 {
        self.memory
    }
}

impl World<'_> {
    /// A prompt that several sites share, for all runs: as often as it is made, or used if that is less.
    pub(crate) fn shared_prefill(&self, first: usize) -> Option<Time> {
        let site = self.facts.sites.get(first)?;
        let same = |s: &&Site| s.context == site.context && s.role == site.role && s.extends.is_none();
        let uses: f64 = self.facts.sites.iter().filter(same).map(|s| s.times).sum();
        Some(self.prefill(first, false)?.times(uses.min(site.made)))
    }
}
