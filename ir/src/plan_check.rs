//! Well-formedness of plans: what the planner promises and the runtime relies on.

use crate::plan::{Plan, SitePlan};
use crate::schedule::Numerics;

/// Checks a plan.
///
/// # Errors
/// Every promise that does not hold, as sentences.
pub fn plan(plan: &Plan) -> Result<(), Vec<String>> {
    let mut faults = Vec::new();
    if plan.models.len() != plan.strategy.roles.len() {
        faults.push(format!("{} models for {} roles", plan.models.len(), plan.strategy.roles.len()));
    }
    if plan.sites.len() != plan.strategy.sites as usize {
        faults.push(format!("{} site plans for {} sites", plan.sites.len(), plan.strategy.sites));
    }
    for (i, model) in plan.models.iter().enumerate() {
        let Some(m) = model else { continue };
        let s = &m.schedule;
        let fits = matches!(s.row_block, 1 | 2 | 4 | 8) && s.threads > 0 && s.attend_rows > 0 && s.max_rows > 0;
        if !fits || s.max_head_rows == 0 || m.kv_pages == 0 {
            faults.push(format!("model {i} has an impossible schedule: {s:?}, {} pages", m.kv_pages));
        }
        let tiles = s.isa.amx_int8 && s.numerics == Numerics::Int8Channel && s.tile_from <= 16;
        if s.tile_from > 0 && !tiles {
            faults.push(format!("model {i} takes tiles from {} rows where there are none: {s:?}", s.tile_from));
        }
    }
    for (i, site) in plan.sites.iter().enumerate() {
        match site {
            SitePlan::Generate { waves, bucket, prefill_chunk, .. } => {
                if waves.contains(&0) || *bucket == 0 || *prefill_chunk == 0 {
                    faults.push(format!("site {i} has an empty wave, bucket or chunk"));
                }
            }
            SitePlan::Verify { order, batch, at_once } => {
                let mut sorted = order.clone();
                sorted.sort_unstable();
                if *batch == 0 || *at_once == 0 {
                    faults.push(format!("site {i} verifies no candidates at a time"));
                }
                if sorted.iter().enumerate().any(|(k, p)| *p as usize != k) {
                    faults.push(format!("site {i} verifies in an order that is no permutation: {order:?}"));
                }
            }
            SitePlan::Score { bucket: 0, .. } => faults.push(format!("site {i} scores no rows")),
            SitePlan::Score { .. } | SitePlan::Unused => {}
        }
    }
    let sound = |x: f64| x.is_finite() && x >= 0.0;
    let c = &plan.cost;
    if ![c.seconds, c.flops, c.bytes, c.tokens, c.kv_bytes, c.usd].into_iter().all(sound) {
        faults.push(format!("the predicted cost is no cost: {c:?}"));
    }
    for d in &plan.decisions {
        if !sound(d.cost.seconds) || !d.runners_up.iter().all(|r| sound(r.1.seconds)) {
            faults.push(format!("decision `{}` has no price", d.topic));
        }
        // Prices are sums of floats: equal ones may differ in the last bits.
        if let Some((name, _)) = d.runners_up.iter().find(|r| r.1.seconds < d.cost.seconds * (1.0 - 1e-9)) {
            faults.push(format!("decision `{}` passed over `{name}`, which is cheaper", d.topic));
        }
    }
    let mut depth = None;
    for o in &plan.operators {
        if o.depth > depth.map_or(0, |d: u32| d + 1) || !sound(o.cost.seconds) {
            faults.push(format!("operator `{}` hangs in the air or has no price", o.name));
        }
        depth = Some(o.depth);
    }
    if faults.is_empty() { Ok(()) } else { Err(faults) }
}
