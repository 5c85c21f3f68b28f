//! The arithmetic class of each model, chosen by the price of whole plans: as stored, or int8 per output channel.
//!
//! Takes a function that plans the strategy with a class for each role; returns the cheapest plan, with a decision for each
//! model that there was a choice for. A model computes in one class throughout, hence a sequence does. Without the allowance
//! `weight_quant` nothing but the caller's word chooses the class; among what is allowed only the price decides, and of equal
//! prices the weights as stored win.

use crate::lossy::Allowed;
use crate::planner::{Options, PlanError, RoleModel};
use ir::plan::{Cost, Decision, Plan};
use ir::schedule::Numerics;
use ir::strategy::Strategy;
use ir::target::{Target, TargetKind};

/// Mean Kullback-Leibler divergence (nats) of next-token distributions in int8 per channel from those in f32, by model, on the
/// reference texts of the tests: what the reason of a decision names.
const MEASURED: [(&str, f64); 2] = [("SmolLM2-135M", 0.0067), ("Qwen2.5-Coder-0.5B", 0.0019)];

type Planned = Result<Plan, PlanError>;

/// The cheapest plan over the classes that models may compute in.
///
/// # Errors
/// Those of the plan with weights as stored (or as the caller says), when no allowed class gives a plan.
pub(crate) fn choose(
    strategy: &Strategy,
    models: &[Option<RoleModel>],
    target: &Target,
    options: &Options,
    plan: &dyn Fn(&[Numerics]) -> Planned,
) -> Planned {
    let allowed = Allowed::of(&strategy.allow).weights;
    let mut classes = vec![options.numerics.unwrap_or(Numerics::Int8); strategy.roles.len()];
    let bound = (0..classes.len()).filter(|role| models.get(*role).is_some_and(Option::is_some));
    let mut best = plan(&classes);
    if let Some(class) = options.numerics {
        let told = allowed || class == Numerics::Int8Channel;
        return best.map(|p| {
            let asked = bound.filter(|_| told).map(|role| asked(strategy, role, class, p.cost)).collect();
            with(p, asked)
        });
    }
    // Kernels of the class exist for CPUs.
    let free: Vec<usize> = bound.filter(|_| allowed && target.kind == TargetKind::Cpu).collect();
    if matches!(best, Err(PlanError::Memory(..))) && !free.is_empty() {
        // What is stored in more than 8 bits may fit in 8: all models at once, then one by one.
        let mut smaller = classes.clone();
        free.iter().for_each(|role| smaller[*role] = Numerics::Int8Channel);
        if let Ok(found) = plan(&smaller) {
            (best, classes) = (Ok(found), smaller);
        }
    }
    // Sweeps over the models until none is cheaper in its other class: each change makes the plan strictly cheaper.
    let others = loop {
        let mut others = Vec::new();
        let mut changed = false;
        for role in &free {
            let before = classes[*role];
            classes[*role] = other(before);
            let found = plan(&classes);
            if seconds(&found) < seconds(&best) {
                best = found;
                changed = true;
            } else {
                classes[*role] = before;
                others.push((*role, found));
            }
        }
        if !changed {
            break others;
        }
    };
    let best = best?;
    let decisions = others.iter().map(|(role, found)| decided(strategy, *role, classes[*role], best.cost, found));
    let decisions = decisions.collect();
    Ok(with(best, decisions))
}

/// What a plan takes; no plan takes forever.
fn seconds(plan: &Planned) -> f64 {
    plan.as_ref().map_or(f64::INFINITY, |p| p.cost.seconds)
}

fn other(class: Numerics) -> Numerics {
    if class == Numerics::Int8Channel { Numerics::Int8 } else { Numerics::Int8Channel }
}

/// A plan with decisions before its own.
fn with(mut plan: Plan, mut decisions: Vec<Decision>) -> Plan {
    decisions.append(&mut plan.decisions);
    Plan { decisions, ..plan }
}

fn topic(strategy: &Strategy, role: usize) -> String {
    format!("arithmetic of {}", strategy.roles[role].name)
}

/// The decision of a caller: nothing was compared.
fn asked(strategy: &Strategy, role: usize, class: Numerics, cost: Cost) -> Decision {
    Decision {
        topic: topic(strategy, role),
        site: None,
        chosen: class.name().to_owned(),
        cost,
        runners_up: Vec::new(),
        reason: "asked for".to_owned(),
    }
}

/// The decision between the class of a role, whose whole plan costs `cost`, and the plan with its other class.
fn decided(strategy: &Strategy, role: usize, class: Numerics, cost: Cost, found: &Planned) -> Decision {
    let runner_up = found.as_ref().ok().map(|p| (other(class).name().to_owned(), p.cost));
    let loss = || MEASURED.map(|(model, nats)| format!("{nats} on {model}")).join(", ");
    let reason = match (class, runner_up.is_some()) {
        (Numerics::Int8Channel, fits) => format!(
            "allowed, and {}; mean divergence from f32, in nats: {}",
            if fits { "cheaper for the whole strategy" } else { "as stored the weights do not fit" },
            loss()
        ),
        (_, true) => "allowed, but rounding the weights once more does not make the whole strategy cheaper".to_owned(),
        (_, false) => "allowed, but in int8 per channel the weights do not fit".to_owned(),
    };
    Decision {
        topic: topic(strategy, role),
        site: None,
        chosen: class.name().to_owned(),
        cost,
        runners_up: runner_up.into_iter().collect(),
        reason,
    }
}
