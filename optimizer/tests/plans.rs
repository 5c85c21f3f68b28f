//! Plans of real strategies: the laws that every plan keeps, and decisions that go one way here and the other there.

mod plan_setup;

use inferc_optimizer as optimizer;

use ir::plan::{Plan, PrefixMode, ScoreMode, SitePlan};
use ir::schedule::{Attention, Numerics};
use ir::target::Target;
use optimizer::lossy::Forced;
use optimizer::{ASSUMPTIONS, Options, PlanError};
use plan_setup::{lawful, models, options, plan, reference, strategies, strategy};
use proptest::prelude::*;
use std::collections::BTreeMap;
use std::path::Path;

const VERIFIED: &str = r#"
model small : Generator;
prompt ask(q: Text) { user "${q}" }
strategy best_of_n(q: Text, expected: Text, n: Int = 8 in 1..=32) -> Sample<Text> within { tokens: 8ktok } {
    let check = both(command("judge"), regex("[0-9]+"), exact(expected));
    let tries = sample(small, ask(q), n: n, max: 250tok, temp: 0.8);
    best(tries, by: |s| score(check, s)) ?? fail "nothing"
}"#;

const EARLY: &str = r#"
model small : Generator;
prompt ask(q: Text) { user "${q}" }
strategy consistent(q: Text) -> Vote<Text> within { tokens: 20ktok } {
    let tries = sample(small, ask(q), n: 16, max: 1000tok, temp: 0.7, out: boxed) on {
        set(s) when agree(s) > 0.9 => stop;
    };
    vote(tries, by: |s| s.value)
}"#;

const MANY: &str = r#"
model small : Generator;
prompt ask(q: Text) { user "${q}" }
strategy many(q: Text) -> Vote<Text> within { tokens: 60ktok } {
    let tries = sample(small, ask(q), n: 64, max: 800tok, temp: 0.7);
    vote(tries, by: |s| s.text)
}"#;

const CHAINED: &str = r#"
model small : Generator;
prompt ask(q: Text) { user "${q}" }
strategy doubted(q: Text) -> Choice within { tokens: 1ktok } {
    let c = ask(q);
    let s = gen(small, c, max: 400tok, temp: 0.0);
    choose(small, c.add(s).add("Is that right?"), ["yes", "no"])
}"#;

const TWO: &str = r#"
model small : Generator;
model large : Generator;
prompt ask(q: Text) { user "${q}" }
strategy cascade(q: Text) -> Text within { tokens: 4ktok } {
    let cheap = sample(small, ask(q), n: 4, max: 512tok, temp: 0.7);
    if agree(cheap, by: |s| s.text) >= 0.6 { vote(cheap, by: |s| s.text).value ?? "" }
    else { gen(large, ask(q), max: 512tok, temp: 0.0).text }
}"#;

fn operator<'p>(plan: &'p Plan, start: &str) -> &'p ir::plan::OperatorCost {
    let found = plan.operators.iter().find(|o| o.name.starts_with(start));
    found.unwrap_or_else(|| panic!("no `{start}` in {:?}", plan.operators.iter().map(|o| &o.name).collect::<Vec<_>>()))
}

fn shape(plan: &Plan) -> Vec<String> {
    plan.operators.iter().map(|o| format!("{}{}", "  ".repeat(o.depth as usize), o.name)).collect()
}

#[test]
fn every_example_keeps_the_laws_on_every_machine() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../examples");
    let mut paths: Vec<_> =
        std::fs::read_dir(&folder).expect("examples").map(|e| e.expect("an entry").path()).collect();
    paths.retain(|p| p.extension().is_some_and(|e| e == "infer"));
    paths.sort();
    assert!(paths.len() > 15);
    for path in paths {
        let source = std::fs::read_to_string(&path).expect("readable");
        for strategy in strategies(&source, &|name| std::fs::read_to_string(folder.join(name)).ok()) {
            for target in ["reference", "cpu-avx2", "h200", "l4"] {
                let target = ir::target::builtin(target).expect("a built-in profile");
                lawful(&strategy, &target, &options());
            }
        }
    }
}

#[test]
fn cheap_checks_that_decide_often_come_first() {
    let plan = lawful(&strategy(VERIFIED), &reference(), &options());
    let Some(SitePlan::Verify { order, .. }) = plan.sites.iter().find(|s| matches!(s, SitePlan::Verify { .. })) else {
        panic!("no verification in {:?}", plan.sites)
    };
    assert_eq!(order, &[2, 1, 0], "exact, regex, then the program");
    let decision = plan.decisions.iter().find(|d| d.topic == "verify order").expect("it is recorded");
    assert_eq!(decision.runners_up[0].0, "command, then regex, then exact");
}

#[test]
fn the_report_is_a_tree_with_the_consumer_on_top() {
    let plan = lawful(&strategy(VERIFIED), &reference(), &options());
    assert_eq!(
        shape(&plan),
        ["best of 8", "  score exact+regex+command ×8", "    decode small ×8", "      prefill small"],
    );
    assert_eq!(plan.operators[0].cost, ir::plan::Cost::default(), "choosing costs nothing");
    let plan = lawful(&strategy(TWO), &reference(), &options());
    let rows = shape(&plan);
    // Both outcomes depend on the agreement, and that on the small model's samples.
    let at = |name: &str| rows.iter().position(|r| r.contains(name)).unwrap_or_else(|| panic!("{name} in {rows:#?}"));
    assert!(at("decode large") < at("agree of 4"), "{rows:#?}");
    assert!(at("agree of 4") < at("decode small"), "{rows:#?}");
}

#[test]
fn rows_add_up_to_the_whole() {
    let lines = VERIFIED.replace("command(", "lines(");
    for source in [VERIFIED, EARLY, MANY, CHAINED, TWO, &lines] {
        let plan = lawful(&strategy(source), &reference(), &options());
        let sum: f64 = plan.operators.iter().map(|o| o.cost.seconds).sum();
        assert!((sum - plan.cost.seconds).abs() < 1e-9 * sum);
        if let Some(whole) = plan.decisions.iter().find(|d| d.topic == "whole plan") {
            assert!((whole.cost.seconds - sum).abs() < 1e-9 * sum, "extraction and report price alike");
        }
    }
}

#[test]
fn waves_follow_the_chance_of_an_early_stop() {
    let waves = |stop_chance, flops| {
        let options = Options { assumptions: ir::plan::Assumptions { stop_chance, ..ASSUMPTIONS }, ..options() };
        let mut target = reference();
        target.flops = flops;
        let plan = lawful(&strategy(EARLY), &target, &options);
        let Some(SitePlan::Generate { waves, .. }) = plan.sites.first() else { panic!("a generation") };
        waves.clone()
    };
    assert!(waves(0.0, 10e9).is_empty(), "without a chance to stop all run at once");
    assert!(waves(0.95, 10e9).len() > 1, "where arithmetic is dear and the first samples settle it, the rest waits");
    assert!(waves(0.95, 200e12).is_empty(), "where rows are free the shortest of all samples settle it soonest");
}

#[test]
fn where_all_samples_end_together_only_waves_are_saved() {
    // Lengths hardly differ, so that a stop of one wave comes when nothing is left to cancel.
    let waves = |flops| {
        let options = Options { assumptions: ir::plan::Assumptions { length_share: 0.99, ..ASSUMPTIONS }, ..options() };
        let plan = lawful(&strategy(EARLY), &Target { flops, ..reference() }, &options);
        let Some(SitePlan::Generate { waves, .. }) = plan.sites.first() else { panic!("a generation") };
        waves.clone()
    };
    assert!(waves(10e9).len() > 1, "half the rows take little more than half the time");
    assert!(waves(200e12).is_empty(), "a step takes the same time whatever its rows");
}

#[test]
fn samples_have_their_mean_length_where_nothing_stops() {
    for n in [1, 2, 7, 16, 17, 18, 40, 64] {
        let source = EARLY.replace("n: 16", &format!("n: {n}")).replace("max: 1000tok", "max: 100tok");
        for length_share in [0.05, 0.5, 0.8, 1.0] {
            let assumptions = ir::plan::Assumptions { length_share, stop_chance: 0.0, ..ASSUMPTIONS };
            let plan = lawful(&strategy(&source), &reference(), &Options { assumptions, ..options() });
            let (tokens, mean) = (operator(&plan, "decode").cost.tokens, 100.0 * length_share);
            assert!((tokens - f64::from(n) * mean).abs() < 1e-6 * tokens, "{n} of {mean}: {tokens}");
        }
    }
}

#[test]
fn too_little_memory_is_refused_and_a_little_more_takes_waves() {
    let strategy = strategy(MANY);
    let mut target = reference();
    let roomy = lawful(&strategy, &target, &options());
    assert!(matches!(&roomy.sites[0], SitePlan::Generate { waves, .. } if waves.is_empty()));
    // 135M parameters in 16 bits take 0.27 GB; all sequences at once take 64 · 800 tokens of 23 kB.
    target.memory = 0.28e9;
    let Err(PlanError::Memory(_, need, have)) = plan(&strategy, &target, &options()) else { panic!("it cannot fit") };
    assert!(need > have, "{need} is more than {have}");
    target.memory = 1.0e9;
    let small = lawful(&strategy, &target, &options());
    let SitePlan::Generate { waves, .. } = &small.sites[0] else { panic!("a generation") };
    assert!(waves.len() > 1, "smaller waves keep fewer keys");
    assert!(small.cost.kv_bytes < roomy.cost.kv_bytes && small.cost.seconds > roomy.cost.seconds);
    let naive = Options { naive: true, ..options() };
    assert!(matches!(plan(&strategy, &target, &naive), Err(PlanError::Memory(..))), "as written it does not fit");
}

/// Weights of a file are loaded once for all roles that are bound to it.
#[test]
fn roles_of_one_file_share_its_weights() {
    let source = CHAINED.replace("model small : Generator;", "model small : Generator;\nmodel critic : Generator;");
    let strategy = strategy(&source.replace("choose(small", "choose(critic"));
    let mut target = reference();
    // 135M parameters in 16 bits take 0.27 GB.
    target.memory = 0.5e9;
    let plan = lawful(&strategy, &target, &options());
    let paths: Vec<&str> = plan.models.iter().flatten().map(|m| m.path.as_str()).collect();
    assert!(paths.len() == 2 && paths[0] == paths[1], "{paths:?}");
}

/// What kernels refuse is not chosen.
#[test]
fn pages_are_not_chosen_from_longer_contexts_than_kernels_hold() {
    let allowed =
        CHAINED.replace("within { tokens: 1ktok }", "within { tokens: 1ktok } allow { sparse_attention: 20% }");
    let strategy = strategy(&allowed);
    let assumptions = ir::plan::Assumptions { prompt_tokens: 8000, ..ASSUMPTIONS };
    let options = Options { assumptions, ..options() };
    let attention = |context| {
        let mut models = models(&strategy);
        models.iter_mut().flatten().for_each(|m| m.model.context = context);
        let plan = optimizer::optimize(&strategy, &models, &reference(), &options).expect("it fits");
        plan.models.iter().flatten().map(|m| m.schedule.attention).collect::<Vec<_>>()
    };
    assert!(attention(1 << 19).iter().any(|a| a.chooses()), "worth it at this length");
    assert!(attention(1 << 20).iter().all(|a| *a == Attention::Dense));
}

#[test]
fn the_need_that_a_refusal_names_is_enough() {
    let strategy = strategy(MANY);
    let mut target = reference();
    target.memory = 0.42e9;
    let Err(PlanError::Memory(_, need, _)) = plan(&strategy, &target, &options()) else { panic!("it cannot fit") };
    #[allow(clippy::cast_precision_loss, reason = "bytes of a small machine")]
    {
        target.memory = need as f64 * 1.001;
    }
    assert!(plan(&strategy, &target, &options()).is_ok());
}

#[test]
fn a_score_is_appended_to_the_keys_that_generation_left() {
    let plan = lawful(&strategy(CHAINED), &reference(), &options());
    assert!(plan.sites.iter().any(|s| matches!(s, SitePlan::Score { mode: ScoreMode::Fused, .. })));
    let naive = self::plan(&strategy(CHAINED), &reference(), &Options { naive: true, ..options() }).expect("it fits");
    assert!(naive.sites.iter().any(|s| matches!(s, SitePlan::Score { mode: ScoreMode::Fresh, .. })));
    assert!(naive.cost.seconds > plan.cost.seconds);
}

/// Where decoded tokens attend to a part, an answer's keys behind the budget are not kept: the plan prices them again.
#[test]
fn keys_behind_a_budget_are_priced_as_computed_again() {
    let allowed =
        CHAINED.replace("within { tokens: 1ktok }", "within { tokens: 1ktok } allow { sparse_attention: 50% }");
    let cost = |attention| {
        let forced = Forced { kv: None, attention: Some(attention) };
        let plan = lawful(&strategy(&allowed), &reference(), &Options { forced, ..options() });
        assert!(plan.sites.iter().any(|s| matches!(s, SitePlan::Score { mode: ScoreMode::Fused, .. })));
        operator(&plan, "extend").cost.seconds
    };
    let (few, many) = (cost(Attention::sparse(4)), cost(Attention::sparse(1000)));
    let dense = cost(Attention::Dense);
    assert!(few > 2.0 * many && many < 1.1 * dense, "{few} s, with a budget for all {many} s, dense {dense} s");
}

#[test]
fn another_models_keys_are_of_no_use() {
    let source = CHAINED.replace("model small : Generator;", "model small : Generator;\nmodel large : Generator;");
    let plan = lawful(&strategy(&source.replace("choose(small", "choose(large")), &reference(), &options());
    assert!(plan.sites.iter().any(|s| matches!(s, SitePlan::Score { mode: ScoreMode::Shared, .. })));
    let decision = plan.decisions.iter().find(|d| d.topic == "scoring").expect("it is recorded");
    assert!(decision.runners_up.is_empty(), "{decision:?}");
}

#[test]
fn a_prompt_of_two_sites_is_computed_once() {
    let twice = |second: &str| {
        format!(
            "model small : Generator;\nprompt ask(q: Text) {{ user \"${{q}}\" }}\nprompt other(q: Text) {{ user \"Say ${{q}}\" }}\n\
             strategy two(q: Text) -> Text within {{ tokens: 1ktok }} {{\n let a = gen(small, ask(q), max: 100tok, temp: 0.5);\n \
             let b = gen(small, {second}(q), max: 100tok, temp: 0.5);\n \"${{a.text}} ${{b.text}}\"\n}}"
        )
    };
    let shared = lawful(&strategy(&twice("ask")), &reference(), &options());
    let apart = lawful(&strategy(&twice("other")), &reference(), &options());
    assert_eq!(operator(&shared, "reuse small").cost.seconds, 0.0);
    let prefill = operator(&shared, "prefill small").cost.seconds;
    assert!(prefill > 0.0);
    assert!((apart.cost.seconds - shared.cost.seconds - prefill).abs() < 1e-9);
}

#[test]
fn long_shared_prompts_are_attended_together_and_short_ones_not() {
    let prefix = |prompt_tokens, target: &str| {
        let options = Options { assumptions: ir::plan::Assumptions { prompt_tokens, ..ASSUMPTIONS }, ..options() };
        let target = ir::target::builtin(target).expect("a built-in profile");
        let plan = lawful(&strategy(MANY), &target, &options);
        let Some(SitePlan::Generate { prefix, .. }) = plan.sites.first() else { panic!("a generation") };
        *prefix
    };
    assert_eq!(prefix(100, "h200"), PrefixMode::Shared, "less than a chunk of keys");
    assert_eq!(prefix(8000, "h200"), PrefixMode::Cascade, "eight thousand keys are read once, not 64 times");
}

#[test]
fn register_blocks_follow_the_instruction_set() {
    let block = |target: &str| {
        let target = ir::target::builtin(target).expect("a built-in profile");
        let plan = lawful(&strategy(EARLY), &target, &options());
        plan.models[0].as_ref().map(|m| m.schedule.row_block)
    };
    assert_eq!(block("cpu-avx512"), Some(8));
    assert_eq!(block("cpu-avx2"), Some(2));
}

#[test]
fn tiles_are_for_int8_per_channel_on_machines_that_have_them() {
    let plan_of = |amx_int8: bool, numerics: Numerics| {
        let mut target = ir::target::builtin("cpu-avx512").expect("a built-in profile");
        target.isa.amx_int8 = amx_int8;
        lawful(&strategy(EARLY), &target, &Options { numerics: Some(numerics), ..options() })
    };
    for (amx_int8, numerics) in [true, false].into_iter().flat_map(|a| Numerics::ALL.map(|n| (a, n))) {
        let plan = plan_of(amx_int8, numerics);
        let schedule = plan.models[0].as_ref().expect("a bound role").schedule;
        let tiles = amx_int8 && numerics == Numerics::Int8Channel;
        assert_eq!((schedule.tile_from > 0, schedule.numerics), (tiles, numerics), "{schedule:?}");
        let text = plan.to_string();
        assert!(text.contains(&format!(" numerics={} ", numerics.name())), "{text}");
    }
}

#[test]
fn one_thread_where_barriers_cost_more_than_the_work() {
    let threads = |launch| {
        let mut target = reference();
        target.launch = launch;
        lawful(&strategy(CHAINED), &target, &options()).models[0].as_ref().map(|m| m.schedule.threads)
    };
    assert_eq!(threads(1e-6), Some(2));
    assert_eq!(threads(1e-3), Some(1));
}

#[test]
fn an_unbound_generator_is_refused_by_name() {
    let strategy = strategy(EARLY);
    let error = optimizer::optimize(&strategy, &[None], &reference(), &options()).expect_err("no model");
    assert_eq!(error, PlanError::Unbound("small".to_owned()));
    assert!(optimizer::optimize(&strategy, &[], &reference(), &options()).is_err());
}

#[test]
fn huge_draws_and_long_conjunctions_are_planned_quickly() {
    let mut strategy = strategy(&EARLY.replace("1000tok", "100tok"));
    let ir::strategy::Op::Generate(g) =
        &mut strategy.body.binds.iter_mut().find(|b| matches!(b.op, ir::strategy::Op::Generate(_))).expect("one").op
    else {
        unreachable!()
    };
    g.live_max = 65_536;
    g.n = None;
    let n = strategy.vars;
    strategy.vars += 1;
    g.n = Some(ir::strategy::Var(n));
    let at = (0, 0);
    let op = ir::strategy::Op::Const(ir::strategy::Const::Int(65_536));
    strategy.body.binds.insert(0, ir::strategy::Bind { var: ir::strategy::Var(n), op, at });
    let target = ir::target::builtin("b200").expect("a built-in profile");
    let begun = std::time::Instant::now();
    let plan = plan(&strategy, &target, &options()).expect("it fits");
    let seconds = begun.elapsed().as_secs_f64();
    assert!(plan.operators.iter().any(|o| o.name.contains("65536")), "{:?}", shape(&plan));
    assert!(seconds < 20.0, "{seconds} s on a busy machine; 2 s on a free one");
    let checks = (0..40).map(|i| if i % 2 == 0 { "command(\"judge\")" } else { "exact(expected)" }).collect::<Vec<_>>();
    let source = VERIFIED.replace("command(\"judge\"), regex(\"[0-9]+\"), exact(expected)", &checks.join(", "));
    let plan = lawful(&self::strategy(&source), &reference(), &options());
    let Some(SitePlan::Verify { order, .. }) = plan.sites.iter().find(|s| matches!(s, SitePlan::Verify { .. })) else {
        panic!("a verification")
    };
    assert!(order[..20].iter().all(|i| i % 2 == 1), "the texts before the programs: {order:?}");
}

#[test]
fn models_that_do_not_fit_together_are_refused() {
    let strategy = strategy(TWO);
    let mut target = reference();
    target.memory = 3.3e9;
    assert!(matches!(plan(&strategy, &target, &options()), Err(PlanError::Memory(..))));
    assert_eq!(models(&strategy).len(), 2);
    target.memory = 6e9;
    lawful(&strategy, &target, &options());
}

#[test]
fn broken_plans_are_noticed() {
    type Break = fn(&mut Plan);
    let breaks: [(&str, Break); 7] = [
        ("takes tiles", |p| p.models.iter_mut().flatten().for_each(|m| m.schedule.tile_from = 10)),
        ("operator", |p| p.operators[1].depth = 9),
        ("operator", |p| p.operators[1].cost.seconds = f64::NAN),
        ("which is cheaper", |p| p.decisions[0].cost.seconds *= 1000.0),
        ("no permutation", |p| {
            p.sites.iter_mut().for_each(|s| {
                if let SitePlan::Verify { order, .. } = s {
                    order[0] = order[1]
                }
            });
        }),
        ("empty wave", |p| {
            p.sites.iter_mut().for_each(|s| {
                if let SitePlan::Generate { waves, .. } = s {
                    waves.push(0)
                }
            });
        }),
        ("site plans", |p| p.sites.clear()),
    ];
    let plan = lawful(&strategy(VERIFIED), &reference(), &options());
    for (word, change) in breaks {
        let mut plan = plan.clone();
        change(&mut plan);
        let faults = ir::plan_check::plan(&plan).expect_err(word).join("; ");
        assert!(faults.contains(word), "{faults}");
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 24, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn more_bandwidth_is_never_slower(
        which in 0usize..5,
        prompt_tokens in 1u64..5000,
        length_share in 0.01f64..1.0,
        stop_chance in 0.0f64..1.0,
        faster in 1.0f64..20.0,
    ) {
        let strategy = strategy([VERIFIED, EARLY, MANY, CHAINED, TWO][which]);
        let assumptions = ir::plan::Assumptions { prompt_tokens, length_share, stop_chance };
        let options = Options { assumptions, ..options() };
        let mut target = reference();
        let slow = plan(&strategy, &target, &options).expect("it fits").cost.seconds;
        target.bandwidth *= faster;
        let fast = plan(&strategy, &target, &options).expect("it fits").cost.seconds;
        prop_assert!(fast <= slow * (1.0 + 1e-9), "{} to {}", slow, fast);
    }
}

fn calls(source: &str, threads: u32) -> (u32, u32, Option<ir::plan::Decision>) {
    let plan = lawful(&strategy(source), &reference(), &Options { threads, ..options() });
    let found = plan.sites.iter().find_map(|s| match s {
        SitePlan::Verify { batch, at_once, .. } => Some((*batch, *at_once)),
        _ => None,
    });
    let (batch, at_once) = found.expect("a verification");
    (batch, at_once, plan.decisions.into_iter().find(|d| d.topic == "verify batch"))
}

#[test]
fn programs_that_answer_line_by_line_get_many_candidates() {
    let source = VERIFIED.replace("command(\"judge\")", "lines(\"judge\")");
    let (batch, at_once, decision) = calls(&source, 1);
    assert_eq!((batch, at_once), (8, 1), "one start for all");
    let decision = decision.expect("it is recorded");
    assert_eq!(decision.chosen, "8 candidates a call, one at a time");
    let one = decision.runners_up.iter().find(|(name, _)| name == "one candidate a call, one at a time");
    assert!(one.expect("as written").1.seconds > 1.4 * decision.cost.seconds, "{decision:?}");
    // With more threads the calls run side by side.
    let alone = source.replace("both(lines(\"judge\"), regex(\"[0-9]+\"), exact(expected))", "lines(\"judge\")");
    let (batch, at_once, _) = calls(&alone, 2);
    assert_eq!((batch, at_once), (4, 2));
    // As written: one after the other.
    let naive = Options { naive: true, ..options() };
    let plan = plan(&strategy(&source), &reference(), &naive).expect("it fits");
    assert!(plan.sites.iter().any(|s| matches!(s, SitePlan::Verify { batch: 1, at_once: 1, .. })));
}

#[test]
fn programs_that_judge_one_candidate_run_side_by_side() {
    let source = VERIFIED.replace("both(command(\"judge\"), regex(\"[0-9]+\"), exact(expected))", "command(\"judge\")");
    assert_eq!(calls(&source, 4).0, 1);
    assert_eq!(calls(&source, 4).1, 4);
    let (batch, at_once, decision) = calls(&source, 1);
    assert!(batch == 1 && at_once == 1 && decision.is_none(), "nothing to choose");
}

#[test]
fn scores_that_are_not_taken_side_by_side_are_planned_one_by_one() {
    for by in
        ["|s| if s.text == \"\" { 0.0 } else { 1.0 * (verify(check, s)) }", "|s| verify(check, s) + verify(check, s)"]
    {
        let source = VERIFIED
            .replace("both(command(\"judge\"), regex(\"[0-9]+\"), exact(expected))", "lines(\"judge\")")
            .replace("|s| score(check, s)", by);
        let (batch, at_once, decision) = calls(&source, 4);
        assert!(batch == 1 && at_once == 1 && decision.is_none(), "{by}");
    }
    // Free checks need no program at all.
    let source = VERIFIED.replace("command(\"judge\"), ", "");
    assert!(calls(&source, 4).2.is_none());
}

#[test]
fn only_other_waves_of_a_site_that_a_rule_watches_may_end_otherwise() {
    let grows =
        EARLY.replace("agree(s) > 0.9 => stop", "agree(s) < 0.5 => grow(4)").replace("n: 16,", "n: 16, live: 32,");
    let grows = grows.replace("20ktok", "40ktok");
    assert!(grows.contains("grow(4)") && grows.contains("live: 32"));
    for (source, all_alike) in [(EARLY, false), (&grows, false), (MANY, true)] {
        let plan = plan(&strategy(source), &reference(), &options()).expect("it fits");
        let beside = optimizer::neighbours(&plan, &BTreeMap::new(), 2, 1000);
        for other in &beside {
            let recut = other.name.contains("wave");
            assert_eq!(other.ends_alike, all_alike || !recut, "{}", other.name);
        }
        assert!(beside.iter().any(|n| n.name.contains("wave")), "waves are among what is changed");
    }
}
