//! Plans beside the chosen one: what the planner considered and did not take, as plans that run.
//!
//! Takes a plan, returns plans that differ from it in one decision, then in two, each named by what differs. They give
//! the same tokens at other speeds, so that running them shows what the choice was worth. One kind may give others: where
//! a rule over the finished samples stops a site or lets it grow, other waves finish them in another order. Prices nothing.

use crate::facts::{self, Facts, Kind};
use ir::plan::{Plan, PrefixMode, ScoreMode, SitePlan};
use ir::schedule::Prologue;
use std::collections::BTreeMap;

/// A plan beside the chosen one.
#[derive(Clone, Debug)]
pub struct Neighbour {
    /// What differs.
    pub name: String,
    /// The plan.
    pub plan: Plan,
    /// It ends exactly as the chosen one does. False where a rule over the finished samples watches a site that is cut into
    /// other waves: which samples are there when it fires depends on the waves.
    pub ends_alike: bool,
}

/// One decision, made otherwise.
#[derive(Clone, Debug)]
struct Change {
    /// What is decided: changes of one subject exclude each other.
    subject: (u8, usize),
    name: String,
    apply: Apply,
}

#[derive(Clone, Debug)]
enum Apply {
    Threads(u32),
    RowBlock(usize, u32),
    Prologue(usize, Prologue),
    Apart(usize),
    Site(usize, SitePlan),
}

impl Apply {
    fn on(&self, plan: &mut Plan) {
        let mut schedule = |model: usize, f: &dyn Fn(&mut ir::schedule::ModelSchedule)| {
            if let Some(model) = plan.models.get_mut(model).and_then(Option::as_mut) {
                f(&mut model.schedule);
            }
        };
        match self {
            Self::Threads(threads) => {
                for model in plan.models.iter_mut().flatten() {
                    model.schedule.threads = *threads;
                }
            }
            Self::RowBlock(model, rows) => schedule(*model, &|s| s.row_block = *rows),
            Self::Prologue(model, prologue) => schedule(*model, &|s| s.prologue = *prologue),
            Self::Apart(model) => schedule(*model, &|s| s.interleave = false),
            Self::Site(site, how) => plan.sites[*site] = how.clone(),
        }
    }
}

/// At most `most` plans beside `plan`, those of one changed decision first. `values` are those the plan was made with,
/// `threads` the most there may be.
#[must_use]
pub fn neighbours(plan: &Plan, values: &BTreeMap<String, f64>, threads: u32, most: usize) -> Vec<Neighbour> {
    let facts = facts::of(&plan.strategy, values);
    let changes = changes(plan, &facts, threads);
    let by_rules = |site: &&facts::Site| matches!(site.kind, Kind::Generate { watched: true, .. });
    let watched: Vec<usize> = facts.sites.iter().filter(by_rules).map(|site| site.id as usize).collect();
    let cut = |plan: &Plan, site: usize| plan.sites.get(site).map(|s| waves(s).to_vec());
    let single = changes.iter().map(|c| vec![c]);
    let pairs = changes
        .iter()
        .enumerate()
        .flat_map(|(i, a)| changes[i + 1..].iter().filter(|b| b.subject != a.subject).map(move |b| vec![a, b]));
    single
        .chain(pairs)
        .take(most)
        .map(|set| {
            let mut other = plan.clone();
            for change in &set {
                change.apply.on(&mut other);
            }
            let names: Vec<&str> = set.iter().map(|c| c.name.as_str()).collect();
            let ends_alike = watched.iter().all(|site| cut(plan, *site) == cut(&other, *site));
            Neighbour { name: names.join(" and "), plan: other, ends_alike }
        })
        .collect()
}

fn changes(plan: &Plan, facts: &Facts, threads: u32) -> Vec<Change> {
    let mut all = Vec::new();
    let mut add = |subject: (u8, usize), name: String, apply: Apply| all.push(Change { subject, name, apply });
    let used = plan.models.iter().flatten().map(|m| m.schedule.threads).max().unwrap_or(1);
    for t in (0..31).map(|i| 1_u32 << i).take_while(|t| *t < threads).chain([threads]).filter(|t| *t != used) {
        add((0, 0), format!("{t} threads"), Apply::Threads(t));
    }
    for (index, site) in facts.sites.iter().enumerate() {
        let Some(now) = plan.sites.get(site.id as usize) else { continue };
        for (name, how) in site_changes(now, &site.kind) {
            add((1, index), format!("site {}: {name}", site.id), Apply::Site(site.id as usize, how));
        }
    }
    for (m, model) in plan.models.iter().enumerate() {
        let Some(model) = model else { continue };
        let (s, role) = (&model.schedule, &model.role);
        let other = if s.prologue == Prologue::Fused { Prologue::Split } else { Prologue::Fused };
        let name = format!("{role}: prologues {}", other.name());
        add((2, m), name, Apply::Prologue(m, other));
        if s.interleave {
            add((3, m), format!("{role}: gate and up apart"), Apply::Apart(m));
        }
        for rows in [8, 4, 2, 1].into_iter().filter(|r| *r != s.row_block) {
            add((4, m), format!("{role}: blocks of {rows} rows"), Apply::RowBlock(m, rows));
        }
    }
    all
}

/// How a site's samples are cut; one wave may be written or left out.
fn waves(site: &SitePlan) -> &[u32] {
    match site {
        SitePlan::Generate { waves, .. } if waves.len() > 1 => waves,
        _ => &[],
    }
}

/// Other schedules of a site.
fn site_changes(now: &SitePlan, kind: &Kind) -> Vec<(String, SitePlan)> {
    let mut all = Vec::new();
    match (now, kind) {
        (SitePlan::Generate { waves, prefix, bucket, prefill_chunk }, Kind::Generate { n, branches, .. }) => {
            let (bucket, prefill_chunk) = (*bucket, *prefill_chunk);
            let with = |waves: Vec<u32>, prefix, bucket| SitePlan::Generate { waves, prefix, bucket, prefill_chunk };
            if *n > 1 || *branches {
                for mode in [PrefixMode::Shared, PrefixMode::Cascade, PrefixMode::Copied] {
                    if mode != *prefix {
                        all.push((format!("prompt {mode}"), with(waves.clone(), mode, bucket)));
                    }
                }
            }
            if *n > 1 {
                let cut = |parts: u32| -> Vec<u32> {
                    (0..parts).map(|i| n * (i + 1) / parts - n * i / parts).filter(|w| *w > 0).collect()
                };
                let mut cuts = vec![Vec::new(), cut(2), cut(4)];
                // Two samples are the same waves in two parts and in four.
                cuts.dedup();
                for cut in cuts.into_iter().filter(|cut| cut != self::waves(now)) {
                    let name = if cut.is_empty() { "one wave".to_owned() } else { format!("waves of {cut:?}") };
                    let bucket = cut.iter().copied().max().unwrap_or(*n);
                    all.push((name, with(cut, *prefix, bucket)));
                }
            }
        }
        (SitePlan::Score { mode: ScoreMode::Fused, bucket }, _) => {
            all.push(("prefilled again".to_owned(), SitePlan::Score { mode: ScoreMode::Fresh, bucket: *bucket }));
        }
        (SitePlan::Verify { order, .. }, _) if order.len() > 1 => {
            let mut other = now.clone();
            if let SitePlan::Verify { order, .. } = &mut other {
                order.reverse();
            }
            all.push(("checks in reverse".to_owned(), other));
        }
        _ => {}
    }
    all
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waves_are_cut_otherwise_and_once() {
        let cuts = |n: u32, waves: &[u32]| -> Vec<Vec<u32>> {
            let prefix = PrefixMode::Shared;
            let now = SitePlan::Generate { waves: waves.to_vec(), prefix, bucket: n, prefill_chunk: 512 };
            let kind =
                Kind::Generate { n, live: f64::from(n), max: 64.0, stops: false, watched: false, branches: false };
            let of = |how| match how {
                SitePlan::Generate { waves, prefix: PrefixMode::Shared, .. } => Some(waves),
                _ => None,
            };
            site_changes(&now, &kind).into_iter().filter_map(|(_, how)| of(how)).collect()
        };
        let none: [Vec<u32>; 0] = [];
        assert_eq!(cuts(1, &[]), none);
        assert_eq!(cuts(2, &[]), [[1, 1]]);
        assert_eq!(cuts(2, &[1, 1]), [[]; 1]);
        assert_eq!(cuts(3, &[3]), [vec![1, 2], vec![1, 1, 1]]);
        assert_eq!(cuts(8, &[4, 4]), [vec![], vec![2, 2, 2, 2]]);
        assert_eq!(cuts(8, &[6, 2]), [vec![], vec![4, 4], vec![2, 2, 2, 2]]);
    }
}
