//! Which arithmetic class a model gets: what the strategy allows, what the caller says, what the rates of a machine make
//! cheaper for the whole strategy, and from how many rows on tiles are taken.

mod plan_setup;

use inferc_optimizer as optimizer;

use ir::model::{Model, Tensor};
use ir::plan::Plan;
use ir::schedule::Numerics;
use ir::target::{KernelRate, Target};
use ir::tensor::DType;
use optimizer::roofline::Roofline;
use optimizer::{Options, PlanError, RoleModel};
use plan_setup::{lawful, models, options, reference, strategy};

const VOTES: &str = r#"
model small : Generator;
prompt ask(q: Text) { user "${q}" }
strategy votes(q: Text) -> Vote<Text> within { tokens: 20ktok } allow { weight_quant: int8 } {
    let tries = sample(small, ask(q), n: 32, max: 400tok, temp: 0.7);
    vote(tries, by: |s| s.text)
}"#;

const TWO: &str = r#"
model small : Generator;
model large : Generator;
prompt ask(q: Text) { user "${q}" }
strategy both(q: Text) -> Text within { tokens: 4ktok } allow { weight_quant: int8 } {
    let cheap = sample(small, ask(q), n: 4, max: 512tok, temp: 0.7);
    if agree(cheap, by: |s| s.text) >= 0.6 { vote(cheap, by: |s| s.text).value ?? "" }
    else { gen(large, ask(q), max: 512tok, temp: 0.0).text }
}"#;

/// Rates of a class at one row and at 32, billions of multiply-adds per second; more rows as 32, two threads twice as fast.
fn rates(class: &str, one: f64, many: f64) -> [KernelRate; 2] {
    [(1, one), (32, many)].map(|(rows, rate)| KernelRate {
        class: class.to_owned(),
        rows,
        bytes: 1e8,
        one_thread: rate * 1e9,
        all_threads: 2.0 * rate * 1e9,
        spread: 0.0,
    })
}

/// A machine on which weights as stored and int8 per channel have these rates.
fn machine(stored: (f64, f64), channel: (f64, f64)) -> Target {
    let mut target = reference();
    for class in ["linear.q4_1", "linear.f16"] {
        target.kernels.extend(rates(class, stored.0, stored.1));
    }
    target.kernels.extend(rates("linear.int8_channel", channel.0, channel.1));
    target
}

/// The shape of a role's model with matrices of a type.
fn stored(model: &Model, dtype: DType) -> Model {
    let (h, ffn) = (u64::from(model.hidden), u64::from(model.ffn));
    let (q, kv) = (u64::from(model.heads * model.head_dim), u64::from(model.kv_heads * model.head_dim));
    let part = |l: u32, name: &str, k: u64, n: u64| Tensor {
        name: format!("blk.{l}.{name}.weight"),
        dtype,
        shape: vec![k, n],
    };
    let layer = |l: u32| {
        [
            part(l, "attn_q", h, q),
            part(l, "attn_k", h, kv),
            part(l, "attn_v", h, kv),
            part(l, "attn_output", q, h),
            part(l, "ffn_gate", h, ffn),
            part(l, "ffn_up", h, ffn),
            part(l, "ffn_down", ffn, h),
        ]
    };
    let embedding = Tensor { name: "token_embd.weight".to_owned(), dtype, shape: vec![h, u64::from(model.vocab)] };
    let tensors = (0..model.layers).flat_map(layer).chain([embedding]).collect();
    Model { tensors, ..model.clone() }
}

fn plan_of(source: &str, dtypes: &[DType], target: &Target, options: &Options) -> Result<Plan, PlanError> {
    let strategy = strategy(source);
    let mut models: Vec<Option<RoleModel>> = models(&strategy);
    for (bound, dtype) in models.iter_mut().flatten().zip(dtypes) {
        bound.model = stored(&bound.model, *dtype);
    }
    let plan = optimizer::optimize(&strategy, &models, target, options)?;
    ir::plan_check::plan(&plan).expect("a plan keeps its promises");
    Ok(plan)
}

fn classes(plan: &Plan) -> Vec<Numerics> {
    plan.models.iter().flatten().map(|m| m.schedule.numerics).collect()
}

fn said(numerics: Numerics) -> Options {
    Options { numerics: Some(numerics), ..options() }
}

#[test]
fn an_allowed_class_is_taken_where_rates_make_the_strategy_cheaper() {
    let (fast, slow) = (machine((20.0, 50.0), (20.0, 80.0)), machine((20.0, 50.0), (15.0, 45.0)));
    let plan = plan_of(VOTES, &[DType::Q4_1], &fast, &options()).expect("it fits");
    assert_eq!(classes(&plan), [Numerics::Int8Channel]);
    let decision = plan.decisions.iter().find(|d| d.topic == "arithmetic of small").expect("it is recorded");
    assert_eq!((decision.chosen.as_str(), decision.cost), ("int8-channel", plan.cost));
    assert!(decision.runners_up[0].0 == "int8" && decision.runners_up[0].1.seconds > plan.cost.seconds, "{decision:?}");
    assert!(decision.reason.contains("0.0067"), "what is lost is said: {}", decision.reason);
    let text = plan.to_string();
    assert!(text.contains(" numerics=int8-channel ") && text.contains("decided arithmetic of small: int8-channel"));
    // The alternative's price is that of the plan with weights as stored.
    let int8 = plan_of(VOTES, &[DType::Q4_1], &fast, &said(Numerics::Int8)).expect("it fits");
    assert_eq!(decision.runners_up[0].1, int8.cost);

    let plan = plan_of(VOTES, &[DType::Q4_1], &slow, &options()).expect("it fits");
    assert_eq!(classes(&plan), [Numerics::Int8]);
    let decision = plan.decisions.iter().find(|d| d.topic == "arithmetic of small").expect("it is recorded");
    assert_eq!((decision.chosen.as_str(), decision.runners_up[0].0.as_str()), ("int8", "int8-channel"));
    // Equal prices: as stored.
    let equal = machine((20.0, 50.0), (20.0, 50.0));
    assert_eq!(classes(&plan_of(VOTES, &[DType::Q4_1], &equal, &options()).expect("it fits")), [Numerics::Int8]);
}

#[test]
fn the_whole_strategy_decides_and_not_its_largest_step() {
    // One row streams more bytes in the class, many rows compute less.
    let target = machine((20.0, 50.0), (13.0, 80.0));
    let with = |n: &str| {
        let source = VOTES.replace("n: 32", n);
        classes(&plan_of(&source, &[DType::Q4_1], &target, &options()).expect("it fits"))
    };
    assert_eq!(with("n: 32"), [Numerics::Int8Channel]);
    assert_eq!(with("n: 1"), [Numerics::Int8]);
}

#[test]
fn nobody_takes_a_class_that_is_neither_allowed_nor_asked_for() {
    let fast = machine((20.0, 50.0), (200.0, 500.0));
    let silent = VOTES.replace("allow { weight_quant: int8 }", "");
    let plan = plan_of(&silent, &[DType::Q4_1], &fast, &options()).expect("it fits");
    assert_eq!(classes(&plan), [Numerics::Int8]);
    assert!(plan.decisions.iter().all(|d| !d.topic.starts_with("arithmetic")), "there was nothing to decide");
    let other = VOTES.replace("weight_quant: int8", "kv_quant: int8");
    assert_eq!(classes(&plan_of(&other, &[DType::Q4_1], &fast, &options()).expect("it fits")), [Numerics::Int8]);
    // The caller forbids what is allowed, and insists on what is not.
    for (source, class) in [(VOTES, Numerics::Int8), (VOTES, Numerics::F32), (&silent, Numerics::Int8Channel)] {
        let plan = plan_of(source, &[DType::Q4_1], &fast, &said(class)).expect("it fits");
        assert_eq!(classes(&plan), [class]);
        let decision = plan.decisions.iter().find(|d| d.topic == "arithmetic of small").expect("it is recorded");
        assert!(decision.reason == "asked for" && decision.runners_up.is_empty(), "{decision:?}");
    }
    // Nothing runs on a GPU, in any class.
    let gpu = ir::target::builtin("h200").expect("a built-in profile");
    let two = Options { threads: 1, ..options() };
    assert_eq!(classes(&plan_of(VOTES, &[DType::F16], &gpu, &two).expect("it fits")), [Numerics::Int8]);
}

#[test]
fn every_model_has_a_class_of_its_own() {
    let mut target = machine((20.0, 50.0), (15.0, 45.0));
    target.kernels.retain(|k| k.class != "linear.f16");
    target.kernels.extend(rates("linear.f16", 7.0, 20.0));
    let plan = plan_of(TWO, &[DType::Q4_1, DType::F16], &target, &options()).expect("it fits");
    assert_eq!(classes(&plan), [Numerics::Int8, Numerics::Int8Channel]);
    let topics: Vec<&str> = plan.decisions.iter().map(|d| d.topic.as_str()).take(2).collect();
    assert_eq!(topics, ["arithmetic of small", "arithmetic of large"]);
    let plan = plan_of(TWO, &[DType::F16, DType::Q4_1], &target, &options()).expect("it fits");
    assert_eq!(classes(&plan), [Numerics::Int8Channel, Numerics::Int8]);
}

#[test]
fn what_does_not_fit_as_stored_may_fit_in_eight_bits() {
    // The class is slow here, and its weights need half the memory.
    let mut target = machine((20.0, 50.0), (10.0, 20.0));
    target.memory = 5e9;
    let roomy = plan_of(TWO, &[DType::F16; 2], &target, &options()).expect("it fits");
    assert_eq!(classes(&roomy), [Numerics::Int8; 2]);
    target.memory = 3.0e9;
    assert!(matches!(plan_of(TWO, &[DType::F16; 2], &target, &said(Numerics::Int8)), Err(PlanError::Memory(..))));
    let small = plan_of(TWO, &[DType::F16; 2], &target, &options()).expect("the larger model fits in 8 bits");
    assert_eq!(classes(&small)[1], Numerics::Int8Channel);
    let decision = small.decisions.iter().find(|d| d.topic == "arithmetic of large").expect("it is recorded");
    assert!(decision.runners_up.is_empty() && decision.reason.contains("do not fit"), "{decision:?}");
    target.memory = 0.1e9;
    assert!(matches!(plan_of(TWO, &[DType::F16; 2], &target, &options()), Err(PlanError::Memory(..))));
}

#[test]
fn an_unmeasured_machine_prices_the_class_by_priors() {
    for name in ["reference", "cpu-avx512", "cpu-avx2"] {
        let target = ir::target::builtin(name).expect("a built-in profile");
        let plan = lawful(&strategy(VOTES), &target, &options());
        assert!(plan.decisions.iter().any(|d| d.topic == "arithmetic of small" && d.runners_up.len() == 1), "{name}");
        let assumptions = ir::plan::Assumptions { prompt_tokens: 4000, ..optimizer::ASSUMPTIONS };
        let long = Options { assumptions, ..options() };
        let many = classes(&plan_of(VOTES, &[DType::Q4_1], &target, &long).expect("it fits"));
        let expected = if target.isa.vnni { Numerics::Int8Channel } else { Numerics::Int8 };
        assert_eq!(many, [expected], "{name}: byte products decide at many rows");
    }
}

#[test]
fn tiles_are_taken_from_where_blocks_are_slower() {
    let model = ir::model::known("smollm2-135m").expect("a row of the table");
    let with = |tile: Option<f64>| {
        let mut target = machine((20.0, 50.0), (10.0, 10.0));
        target.isa.amx_int8 = true;
        let one = |rows, rate: f64| KernelRate { rows, ..rates("linear.int8_channel_tiles", rate, rate)[0].clone() };
        target.kernels.extend(tile.into_iter().flat_map(|rate| [one(16, rate), one(128, rate)]));
        target
    };
    let from = |target: &Target, numerics| Roofline::new(&model, target).with_numerics(numerics).tile_from();
    // Blocks take 1.0 per row, a tile of 16 rows 16 / 2 = 8 or 16 / 1.25 = 12.8.
    assert_eq!(from(&with(Some(20.0)), Numerics::Int8Channel), 9);
    assert_eq!(from(&with(Some(12.5)), Numerics::Int8Channel), 13);
    assert_eq!(from(&with(Some(5.0)), Numerics::Int8Channel), 0, "never");
    assert_eq!(from(&with(None), Numerics::Int8Channel), 10, "an estimate where tiles were not measured");
    assert_eq!(from(&with(Some(20.0)), Numerics::Int8), 0);
    let mut bare = with(Some(20.0));
    bare.isa.amx_int8 = false;
    assert_eq!(from(&bare, Numerics::Int8Channel), 0);

    // Plans record it, and are priced with it.
    let plan = |target: &Target| plan_of(VOTES, &[DType::Q4_1], target, &said(Numerics::Int8Channel)).expect("it fits");
    let (tiles, blocks) = (plan(&with(Some(20.0))), plan(&bare));
    assert_eq!(tiles.models[0].as_ref().map(|m| m.schedule.tile_from), Some(9));
    assert_eq!(blocks.models[0].as_ref().map(|m| m.schedule.tile_from), Some(0));
    assert!(tiles.cost.seconds < 0.8 * blocks.cost.seconds, "{} {}", tiles.cost.seconds, blocks.cost.seconds);
    // A machine whose tiles are fast makes the class the cheaper one.
    let chosen = |target: &Target| classes(&plan_of(VOTES, &[DType::Q4_1], target, &options()).expect("it fits"));
    assert_eq!(chosen(&with(Some(100.0))), [Numerics::Int8Channel]);
    assert_eq!(chosen(&bare), [Numerics::Int8]);
}
