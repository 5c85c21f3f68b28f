//! Strategies from source text, models from the table of shapes, and the laws that every plan keeps.

use inferc_optimizer as optimizer;

use ir::diagnostic::Severity;
use ir::plan::{Plan, SitePlan};
use ir::strategy::{RoleKind, Strategy};
use ir::target::{Target, builtin};
use optimizer::facts::Kind;
use optimizer::lossy::Forced;
use optimizer::{ASSUMPTIONS, Options, PlanError, RoleModel};
use std::collections::BTreeMap;

/// The strategies of a source text, in order.
pub(crate) fn strategies(source: &str, load: &dyn Fn(&str) -> Option<String>) -> Vec<Strategy> {
    let (file, mut messages) = dsl::parse(source, 0);
    let (program, more) = dsl::check("main.infer", source, &file, load);
    messages.extend(more);
    messages.retain(|d| d.severity == Severity::Error);
    assert!(messages.is_empty(), "{messages:#?}");
    let names: Vec<String> = program.strategies().map(|s| s.name.clone()).collect();
    names.iter().map(|n| dsl::lower(&program, n).expect("it lowers")).collect()
}

/// The only strategy of a source text.
pub(crate) fn strategy(source: &str) -> Strategy {
    strategies(source, &|_| None).remove(0)
}

/// The target of round numbers.
pub(crate) fn reference() -> Target {
    builtin("reference").expect("a built-in profile")
}

/// Options with two threads and the usual assumptions.
pub(crate) fn options() -> Options {
    Options {
        assumptions: ASSUMPTIONS,
        values: BTreeMap::new(),
        threads: 2,
        numerics: None,
        naive: false,
        forced: Forced::default(),
    }
}

/// Generators bound to shapes of the table: `large` to a larger one.
pub(crate) fn models(strategy: &Strategy) -> Vec<Option<RoleModel>> {
    let shape = |name: &str| ir::model::known(if name == "large" { "qwen2.5-1.5b" } else { "smollm2-135m" });
    let bound = |r: &ir::strategy::Role| {
        let model = shape(&r.name).expect("a row of the table");
        (r.kind == RoleKind::Generator).then(|| RoleModel { path: format!("{}.gguf", model.name), model })
    };
    strategy.roles.iter().map(bound).collect()
}

/// A plan with the usual models.
pub(crate) fn plan(strategy: &Strategy, target: &Target, options: &Options) -> Result<Plan, PlanError> {
    optimizer::optimize(strategy, &models(strategy), target, options)
}

/// Checks what holds of every plan.
pub(crate) fn lawful(strategy: &Strategy, target: &Target, options: &Options) -> Plan {
    let plan = self::plan(strategy, target, options).expect("it fits");
    let name = &strategy.name;
    ir::plan_check::plan(&plan).expect(name);
    let bytes = |p: &Plan| postcard::to_stdvec(p).expect("plain data");
    assert_eq!(
        bytes(&plan),
        bytes(&self::plan(strategy, target, options).expect("again")),
        "{name} is planned twice alike"
    );
    for d in &plan.decisions {
        for (other, cost) in &d.runners_up {
            let slack = 1e-12 * d.cost.seconds;
            assert!(
                cost.seconds + slack >= d.cost.seconds,
                "{name}: {} `{}` is dearer than `{other}`",
                d.topic,
                d.chosen
            );
            assert_ne!(*other, d.chosen, "{name}: {} is not its own runner-up", d.topic);
        }
    }
    let facts = optimizer::facts::of(strategy, &options.values);
    for site in &facts.sites {
        match (&site.kind, &plan.sites[site.id as usize]) {
            (Kind::Generate { n, .. }, SitePlan::Generate { waves, .. }) => {
                assert!(waves.is_empty() || waves.iter().sum::<u32>() == *n, "{name}: {waves:?} are not {n} sequences");
            }
            (Kind::Verify(checks), SitePlan::Verify { order, .. }) => assert_eq!(order.len(), checks.len()),
            (Kind::Choose(_) | Kind::Expect | Kind::LogProb, SitePlan::Score { .. }) => {}
            (kind, plan) => panic!("{name}: {kind:?} became {plan:?}"),
        }
    }
    let mut depth = 0;
    for o in &plan.operators {
        assert!(o.depth <= depth + 1, "{name}: {} hangs in the air", o.name);
        assert!(o.cost.seconds.is_finite() && o.cost.seconds >= 0.0, "{name}: {o:?}");
        depth = o.depth;
    }
    assert_eq!(plan.operators.first().map(|o| o.depth), Some(0), "{name} starts with a root");
    let naive = self::plan(strategy, target, &Options { naive: true, ..options.clone() });
    if let Ok(naive) = naive {
        assert!(naive.cost.seconds >= plan.cost.seconds * (1.0 - 1e-12), "{name}: as written is cheaper");
        ir::plan_check::plan(&naive).expect(name);
    }
    plan
}
