//! From the chosen point of the e-graph to the plan: site plans, operators with their costs, decisions with runners-up.
//!
//! Takes the priced world and the point; computes no new alternative beyond the ones that the e-graph held, so that no
//! runner-up it records is cheaper than the choice. Alternatives that do not fit into memory are left out.

use crate::extract::{Point, Prices as _};
use crate::facts::{Check, Kind, Site, What};
use crate::language::Term;
use crate::prices::World;
use crate::roofline::Time;
use crate::{rules, tree};
use egg::{EGraph, Id};
use ir::plan::{Cost, Decision, OperatorCost, Plan, PrefixMode, ScoreMode, SitePlan};
use std::collections::BTreeSet;

/// Runners-up recorded at most.
const OTHERS: usize = 3;

/// What a site became: its plan, its rows (consumer first) and its decisions.
struct Planned {
    plan: SitePlan,
    rows: Vec<OperatorCost>,
    decisions: Vec<Decision>,
}

impl World<'_> {
    /// The plan of a point; `points` are all points of the root, cheapest first.
    pub(crate) fn plan(mut self, egraph: &EGraph<Term, ()>, best: &Point, points: &[Point]) -> Plan {
        let mut sites = vec![SitePlan::Unused; self.strategy.sites as usize];
        let mut decisions = std::mem::take(&mut self.decisions);
        let mut rows = Vec::new();
        let mut paid = BTreeSet::new();
        let mut chosen = Vec::new();
        flatten(best, &mut chosen);
        for (index, point) in chosen.into_iter().enumerate() {
            let planned = self.site(egraph, index, point, &mut paid);
            if let Some(slot) = sites.get_mut(self.facts.sites[index].id as usize) {
                *slot = planned.plan;
            }
            // As written: nothing was chosen.
            if !self.options.naive {
                decisions.extend(planned.decisions);
            }
            rows.push(planned.rows);
        }
        decisions.extend(self.whole(egraph, points));
        let operators = self.operators(&rows);
        Plan {
            strategy: self.strategy.clone(),
            cost: total(&operators),
            models: std::mem::take(&mut self.plans),
            sites,
            decisions,
            operators,
            target: self.target.name.clone(),
            target_hash: self.target.hash(),
            assumptions: self.options.assumptions,
        }
    }

    /// The choice among the points of the whole plan, where there was one.
    fn whole(&self, egraph: &EGraph<Term, ()>, points: &[Point]) -> Option<Decision> {
        let (best, others) = points.split_first().filter(|(_, others)| !others.is_empty())?;
        let seconds = |p: &Point| p.total(egraph, self) - self.saved(egraph, p);
        let cost = |p: &Point| Cost { seconds: seconds(p), kv_bytes: p.memory, ..Cost::default() };
        let name = |p: &Point| format!("{}, KV up to {:.1} MB", self.describe(egraph, p), p.memory / 1e6);
        Some(Decision {
            topic: "whole plan".to_owned(),
            site: None,
            chosen: name(best),
            cost: cost(best),
            runners_up: others.iter().take(OTHERS).map(|p| (name(p), cost(p))).collect(),
            reason: "the fastest of the plans that are best in time or in memory".to_owned(),
        })
    }

    /// Seconds that calls of programs save over one call per check: extraction orders checks and does not know of calls.
    fn saved(&self, egraph: &EGraph<Term, ()>, point: &Point) -> f64 {
        let mut sites = Vec::new();
        flatten(point, &mut sites);
        let saved = |(site, point): (&Site, &Point)| match (&point.node, &point.children[..]) {
            (Term::Verify(_), [_, chain]) => {
                let order = order(egraph, chain);
                let (batch, at_once, _) = self.calls_decision(site, &order);
                self.checks(site, &order) - self.calls(site, &order, batch, at_once)
            }
            _ => 0.0,
        };
        self.facts.sites.iter().zip(sites).map(saved).sum()
    }

    /// What tells plans apart, in words.
    fn describe(&self, egraph: &EGraph<Term, ()>, point: &Point) -> String {
        let mut sites = Vec::new();
        flatten(point, &mut sites);
        let mut words = Vec::new();
        for (site, point) in self.facts.sites.iter().zip(sites) {
            let extended = |how: Option<&std::rc::Rc<Point>>| match how.map(|h| &h.node) {
                Some(Term::Extend(_)) => Some("appended"),
                Some(Term::Fresh(_)) => Some("prefilled again"),
                _ => None,
            };
            match &point.node {
                Term::Gen(_) => {
                    if let Kind::Generate { n: 2.., .. } = site.kind {
                        words.push(wave_words(&waves(egraph, &point.children[1])));
                    }
                    words.extend(extended(point.children.first()).map(str::to_owned));
                }
                Term::Score(_) => words.extend(extended(point.children.get(1)).map(|w| format!("scores {w}"))),
                _ => {}
            }
        }
        words.dedup();
        if words.is_empty() { "as written".to_owned() } else { words.join(", ") }
    }

    /// All rows, consumers above what they consume.
    fn operators(&self, rows: &[Vec<OperatorCost>]) -> Vec<OperatorCost> {
        let mut out = Vec::new();
        for (node, depth) in tree::order(&self.facts.nodes) {
            match &self.facts.nodes[node].what {
                What::Site(index) => out.extend(rows.get(*index).into_iter().flatten().map(|row| {
                    let mut row = row.clone();
                    row.depth += depth;
                    row
                })),
                What::Select(name, of, times) => {
                    let name = format!("{name} of {of:.0}{}", runs(*times));
                    let bound_by = "host".to_owned();
                    out.push(OperatorCost { name, depth, site: None, cost: Cost::default(), bound_by });
                }
            }
        }
        out
    }

    fn site(&self, egraph: &EGraph<Term, ()>, index: usize, point: &Point, paid: &mut BTreeSet<Id>) -> Planned {
        match (&point.node, &point.children[..]) {
            (Term::Gen(_), [how, draws]) => self.generation(index, how, &waves(egraph, draws), paid),
            (Term::Verify(_), [_, chain]) => self.verification(index, order(egraph, chain)),
            (_, [_, how]) => self.score(index, how, paid),
            _ => Planned { plan: SitePlan::Unused, rows: Vec::new(), decisions: Vec::new() },
        }
    }

    fn role(&self, site: &Site) -> &str {
        site.role.and_then(|r| self.strategy.roles.get(r as usize)).map_or("verifier", |r| r.name.as_str())
    }

    /// Price of a site's waves with a placement of the prompt; `None` when it cannot be, or not in this memory.
    fn price(&self, index: usize, waves: &[u32], mode: PrefixMode) -> Option<(Cost, String)> {
        let mut lo = 0;
        let (mut time, mut tokens, mut memory) = (Time::default(), 0.0, 0.0_f64);
        for wave in waves {
            let (seconds, sampled, bytes) = self.wave(index, lo, lo + wave, mode)?;
            time = time.then(seconds);
            tokens += sampled;
            memory = memory.max(bytes);
            lo += wave;
        }
        (memory <= self.memory()).then(|| (time.cost(tokens, memory, self.target), time.bound_by()))
    }

    fn generation(&self, index: usize, how: &Point, waves: &[u32], paid: &mut BTreeSet<Id>) -> Planned {
        let site = &self.facts.sites[index];
        let (mode, role) = (self.modes[index], self.role(site));
        let Kind::Generate { n, live, branches, .. } = site.kind else {
            return Planned { plan: SitePlan::Unused, rows: Vec::new(), decisions: Vec::new() };
        };
        let (cost, bound_by) = self.price(index, waves, mode).unwrap_or_default();
        #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "live sequences are few")]
        let width = if branches { live as u32 } else { waves.iter().copied().max().unwrap_or(n) }.max(1);
        let shape = match (waves, branches) {
            (_, true) => format!("≤{width}"),
            ([_], false) => format!("×{width}"),
            ([_, _] | [_, _, _], false) => waves.iter().map(u32::to_string).collect::<Vec<_>>().join("+"),
            _ => format!("×{n} in {} waves", waves.len()),
        };
        let decode = OperatorCost {
            name: format!("decode {role} {shape}{}", runs(site.times)),
            depth: 0,
            site: Some(site.id),
            cost,
            bound_by,
        };
        let prefill = self.context_row(index, how, paid);
        let mut decisions: Vec<Decision> = self.wave_decision(index, waves).into_iter().collect();
        decisions.extend(self.prefix_decision(index, waves));
        decisions.extend(self.context_decision(index, how));
        let plan = SitePlan::Generate {
            waves: if waves.len() > 1 { waves.to_vec() } else { Vec::new() },
            prefix: mode,
            bucket: width,
            prefill_chunk: self.chunk(site).unwrap_or(1),
        };
        Planned { plan, rows: std::iter::once(decode).chain(prefill).collect(), decisions }
    }

    /// The row of a site's context: computed, appended, or already there.
    fn context_row(&self, index: usize, how: &Point, paid: &mut BTreeSet<Id>) -> Option<OperatorCost> {
        let site = &self.facts.sites[index];
        let role = self.role(site);
        let (name, time) = match &how.node {
            Term::Extend(_) => {
                (format!("extend {role}{}", runs(site.times)), self.prefill(index, true)?.times(site.times))
            }
            Term::Fresh(_) => {
                (format!("prefill {role}{}", runs(site.times)), self.prefill(index, false)?.times(site.times))
            }
            _ if how.prefills.iter().all(|p| paid.insert(*p)) => {
                (format!("prefill {role}"), self.shared_prefill(index)?)
            }
            _ => (format!("reuse {role}"), Time::default()),
        };
        let bound_by = if time == Time::default() { "computed for another site".to_owned() } else { time.bound_by() };
        let cost = time.cost(0.0, self.kv(site, self.context(index)), self.target);
        Some(OperatorCost { name, depth: 1, site: Some(site.id), cost, bound_by })
    }

    fn wave_decision(&self, index: usize, waves: &[u32]) -> Option<Decision> {
        let site = &self.facts.sites[index];
        let Kind::Generate { n, stops, branches: false, .. } = site.kind else { return None };
        if n < 2 || !(stops || waves.len() > 1) {
            return None;
        }
        let mode = self.modes[index];
        let cost = |w: &[u32]| self.price(index, w, mode).map(|p| p.0);
        // Only what the rules can reach: sizes they try, at most one wave more than rounds.
        let sizes = rules::wave_sizes(n, stops);
        let even = |size: u32| {
            let full = n.saturating_sub(1) / size;
            let mut waves = vec![size; full as usize];
            waves.push(n - full * size);
            waves
        };
        let mut others: Vec<(Vec<u32>, Cost)> = sizes
            .into_iter()
            .filter(|s| n.div_ceil(*s) as usize <= rules::ROUNDS)
            .map(even)
            .chain(std::iter::once(vec![n]))
            .filter(|w| w != waves)
            .filter_map(|w| cost(&w).map(|c| (w, c)))
            .collect();
        others.sort_by(|a, b| a.1.seconds.total_cmp(&b.1.seconds).then_with(|| a.0.cmp(&b.0)));
        others.dedup_by(|a, b| a.0 == b.0);
        let reason = if stops {
            "a later wave runs only if no rule has stopped the site; larger waves read the weights less often"
        } else {
            "all sequences at once need more KV than there is"
        };
        Some(Decision {
            topic: "waves".to_owned(),
            site: Some(site.id),
            chosen: wave_words(waves),
            cost: cost(waves)?,
            runners_up: others.into_iter().take(OTHERS).map(|(w, c)| (wave_words(&w), c)).collect(),
            reason: reason.to_owned(),
        })
    }

    fn prefix_decision(&self, index: usize, waves: &[u32]) -> Option<Decision> {
        let site = &self.facts.sites[index];
        let Kind::Generate { n, branches, .. } = site.kind else { return None };
        if n < 2 && !branches {
            return None;
        }
        let words = |mode| match mode {
            PrefixMode::Shared => "one copy of the prompt's keys, attended branch by branch",
            PrefixMode::Copied => "a copy of the prompt's keys for every branch",
            PrefixMode::Cascade => "one copy of the prompt's keys, attended by the branches together",
        };
        let cost = |mode| self.price(index, waves, mode).map(|p| p.0);
        let chosen = self.modes[index];
        let others = [PrefixMode::Shared, PrefixMode::Cascade, PrefixMode::Copied].into_iter().filter(|m| *m != chosen);
        let mut others: Vec<_> = others.filter_map(|m| Some((words(m).to_owned(), cost(m)?))).collect();
        others.sort_by(|a, b| a.1.seconds.total_cmp(&b.1.seconds));
        Some(Decision {
            topic: "prefix".to_owned(),
            site: Some(site.id),
            chosen: words(chosen).to_owned(),
            cost: cost(chosen)?,
            runners_up: others,
            reason: format!("the same bits either way: the fastest for a prompt of {:.0} tokens", self.context(index)),
        })
    }

    /// How a context that extends a sequence is computed.
    fn context_decision(&self, index: usize, how: &Point) -> Option<Decision> {
        let site = &self.facts.sites[index];
        let extended = match how.node {
            Term::Extend(_) => true,
            Term::Fresh(_) => false,
            _ => return None,
        };
        let base = site.extends.and_then(|b| self.facts.sites.iter().find(|s| s.id == b))?;
        let cost = |extended| {
            let time = self.prefill(index, extended)?.times(site.times);
            Some(time.cost(0.0, self.context_memory(index, extended), self.target))
        };
        let (append, again) = ("appended to the generating sequence's keys", "prefilled again");
        let fits = self.context_memory(index, true) <= self.memory();
        // Where keys would have been cheaper but cannot be had, there was nothing to choose.
        let other = cost(!extended).filter(|_| extended);
        let reason = match (extended, base.role == site.role, fits) {
            (true, ..) => "the same bits either way: the cheaper one",
            (false, false, _) => {
                "another model wrote the sequence: its keys do not help; what prompts begin with is kept"
            }
            (false, true, false) => "the keys of all sequences do not fit until they are scored",
            (false, true, true) => "the cheaper one within the memory of the whole plan",
        };
        Some(Decision {
            topic: "scoring".to_owned(),
            site: Some(site.id),
            chosen: if extended { append } else { again }.to_owned(),
            cost: cost(extended)?,
            runners_up: other.map(|c| (if extended { again } else { append }.to_owned(), c)).into_iter().collect(),
            reason: reason.to_owned(),
        })
    }

    fn verification(&self, index: usize, order: Vec<u32>) -> Planned {
        let site = &self.facts.sites[index];
        let checks: &[_] = if let Kind::Verify(checks) = &site.kind { checks } else { &[] };
        let cost = |o: &[u32]| Cost { seconds: self.checks(site, o), ..Cost::default() };
        let word = |i: &u32| checks.get(*i as usize).map_or_else(String::new, |c| format!("{c:?}").to_lowercase());
        let names = |o: &[u32]| o.iter().map(word).collect::<Vec<_>>().join(", then ");
        let mut decisions = Vec::new();
        let chosen = names(&order);
        if checks.len() > 1 {
            let mut written = order.clone();
            written.sort_unstable();
            let reversed: Vec<u32> = order.iter().rev().copied().collect();
            let others = [written, reversed].map(|o| (names(&o), cost(&o)));
            let mut others: Vec<_> = others.into_iter().filter(|o| o.0 != chosen).collect();
            others.sort_by(|a, b| a.1.seconds.total_cmp(&b.1.seconds));
            others.dedup_by(|a, b| a.0 == b.0);
            decisions.push(Decision {
                topic: "verify order".to_owned(),
                site: Some(site.id),
                chosen,
                cost: cost(&order),
                runners_up: others,
                reason: "cheap checks that decide often come first; the rest runs only when they pass".to_owned(),
            });
        }
        let (batch, at_once, decision) = self.calls_decision(site, &order);
        decisions.extend(decision);
        let cost = Cost { seconds: self.calls(site, &order, batch, at_once), ..Cost::default() };
        let what = if checks.len() > 3 {
            format!("{} checks", checks.len())
        } else {
            order.iter().map(word).collect::<Vec<_>>().join("+")
        };
        let name = format!("score {what}{}", runs(site.times));
        let bound_by = "host".to_owned();
        let row = OperatorCost { name, depth: 0, site: Some(site.id), cost, bound_by };
        Planned { plan: SitePlan::Verify { order, batch, at_once }, rows: vec![row], decisions }
    }

    /// Candidates per call of a program and programs at once: the cheapest for as many candidates as are judged together.
    #[allow(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "lists of candidates are bounded by the checker"
    )]
    fn calls_decision(&self, site: &Site, order: &[u32]) -> (u32, u32, Option<Decision>) {
        let checks: &[_] = if let Kind::Verify(checks) = &site.kind { checks } else { &[] };
        let candidates = site.together.ceil().clamp(1.0, 65_536.0) as u32;
        let lines = checks.contains(&Check::Lines);
        if candidates < 2 || self.options.naive || !(lines || checks.contains(&Check::Command)) {
            return (1, 1, None);
        }
        let most = self.options.threads.max(1).min(candidates);
        let mut side_by_side: Vec<u32> = (0..).map(|k| 1 << k).take_while(|s| *s < most).collect();
        side_by_side.push(most);
        let mut all: Vec<(u32, u32, f64)> = Vec::new();
        for at_once in side_by_side {
            let mut sizes = vec![1];
            if lines {
                sizes.extend([candidates.div_ceil(at_once), candidates]);
                sizes.dedup();
            }
            all.extend(sizes.into_iter().map(|batch| (batch, at_once, self.calls(site, order, batch, at_once))));
        }
        // Of equals the one with fewer programs.
        all.sort_by(|a, b| a.2.total_cmp(&b.2).then(a.1.cmp(&b.1)).then(b.0.cmp(&a.0)));
        let words = |(batch, at_once, _): &(u32, u32, f64)| {
            let each = if *batch == 1 { "one candidate".to_owned() } else { format!("{batch} candidates") };
            format!("{each} a call, {} at a time", if *at_once == 1 { "one".to_owned() } else { at_once.to_string() })
        };
        let cost = |way: &(u32, u32, f64)| Cost { seconds: way.2, ..Cost::default() };
        let (best, others) = (&all[0], &all[1..]);
        let reason = if lines {
            format!("the program's start is paid once a call; {candidates} candidates are judged together")
        } else {
            format!("a call of this program judges one candidate; {candidates} are judged together")
        };
        let decision = Decision {
            topic: "verify batch".to_owned(),
            site: Some(site.id),
            chosen: words(best),
            cost: cost(best),
            runners_up: others.iter().take(OTHERS).map(|way| (words(way), cost(way))).collect(),
            reason,
        };
        (best.0, best.1, (!others.is_empty()).then_some(decision))
    }

    fn score(&self, index: usize, how: &Point, paid: &mut BTreeSet<Id>) -> Planned {
        let site = &self.facts.sites[index];
        let role = self.role(site);
        let name = match site.kind {
            Kind::Choose(n) => format!("choose {role} of {n:.0}"),
            Kind::Expect => format!("expect {role}"),
            _ => format!("logprob {role}"),
        };
        let time = self.scoring(index).unwrap_or_default();
        let row = OperatorCost {
            name: format!("{name}{}", runs(site.times)),
            depth: 0,
            site: Some(site.id),
            cost: time.cost(0.0, 0.0, self.target),
            bound_by: time.bound_by(),
        };
        let rows = std::iter::once(row).chain(self.context_row(index, how, paid)).collect();
        let base = site.extends.and_then(|b| self.facts.sites.iter().find(|s| s.id == b));
        let mode = match how.node {
            Term::Extend(_) => ScoreMode::Fused,
            // Its own model's keys could have been extended: the plan chose not to.
            Term::Fresh(_) if base.is_none_or(|b| b.role == site.role) => ScoreMode::Fresh,
            _ => ScoreMode::Shared,
        };
        let decisions = self.context_decision(index, how).into_iter().collect();
        Planned { plan: SitePlan::Score { mode, bucket: 1 }, rows, decisions }
    }
}

/// How often something runs, where that is not once.
fn runs(times: f64) -> String {
    if (times - 1.0).abs() < 1e-9 {
        String::new()
    } else if times.fract().abs() < 1e-9 {
        format!(" ×{times:.0}")
    } else {
        format!(" ×{times:.1}")
    }
}

/// Waves in words: `one wave of 8`, `4 waves of 2`, `waves of 1, 2, 5`.
fn wave_words(waves: &[u32]) -> String {
    match waves {
        [] => "no wave".to_owned(),
        [one] => format!("one wave of {one}"),
        [first, ..] if waves.iter().all(|w| w == first) => format!("{} waves of {first}", waves.len()),
        _ => format!("waves of {}", waves.iter().map(u32::to_string).collect::<Vec<_>>().join(", ")),
    }
}

/// The sum of rows; KV is the largest.
fn total(rows: &[OperatorCost]) -> Cost {
    rows.iter().fold(Cost::default(), |sum, row| Cost {
        seconds: sum.seconds + row.cost.seconds,
        flops: sum.flops + row.cost.flops,
        bytes: sum.bytes + row.cost.bytes,
        tokens: sum.tokens + row.cost.tokens,
        kv_bytes: sum.kv_bytes.max(row.cost.kv_bytes),
        usd: sum.usd + row.cost.usd,
    })
}

/// Points of the sites, in order.
fn flatten<'p>(point: &'p Point, out: &mut Vec<&'p Point>) {
    match point.node {
        Term::Seq(_) => point.children.iter().for_each(|c| flatten(c, out)),
        Term::End => {}
        _ => out.push(point),
    }
}

/// Sizes of the waves of a chosen draw term.
pub(crate) fn waves(egraph: &EGraph<Term, ()>, point: &Point) -> Vec<u32> {
    match &point.node {
        Term::Then(_) => point.children.iter().flat_map(|c| waves(egraph, c)).collect(),
        Term::Draw([_, lo, hi]) | Term::Wave([_, lo, hi]) => {
            let n = |id: &Id| rules::num(egraph, *id).unwrap_or(0);
            vec![n(hi) - n(lo)]
        }
        _ => Vec::new(),
    }
}

/// Positions of the checks of a chosen chain.
pub(crate) fn order(egraph: &EGraph<Term, ()>, point: &Point) -> Vec<u32> {
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
