//! Attention of decoded tokens to a part of the context, through the interpreter: what is decoded and what is kept, and that
//! neither what is cached nor how a prompt was cut changes a token. The model is a table that sees which tokens attended to
//! a part.

mod exec_setup;

use exec_setup::*;
use inferc_runtime as runtime;
use ir::plan::{PrefixMode, ScoreMode, SitePlan};
use ir::strategy::*;
use runtime::metrics::SiteMetrics;
use runtime::value::Value;

/// Another distribution after every other history.
fn told(tokens: &[u32]) -> [f32; 8] {
    let hash = tokens.iter().fold(7_u32, |h, t| (h ^ t).wrapping_mul(0x9E37_79B1).rotate_left(7));
    std::array::from_fn(|i| if i < 4 { 1.0 + (hash >> (8 * i) & 0xFF) as f32 } else { 0.0 })
}

/// A model of which `dense` tokens attend to everything.
fn partly(dense: usize) -> TableModel {
    let mut model = TableModel::new(told);
    model.dense = dense;
    model
}

/// A generation after "aabb1", 7 tokens with what the codec adds.
fn generated(b: &mut Build, max: u64) -> (Var, Var) {
    let ctx = b.prompt("aabb1");
    (ctx, greedy(b, ctx, max))
}

fn greedy(b: &mut Build, ctx: Var, max: u64) -> Var {
    b.sample_on(ctx, None, max, |b, g| g.temp = Some(b.float(0.0)))
}

/// Texts and bits of log-probabilities.
fn exact(value: &Value) -> Vec<(String, Vec<u32>)> {
    let of = |v: &Value| {
        let Value::Sample(s) = v else { panic!("a sample: {v:?}") };
        (s.text.to_string(), s.logprobs.iter().map(|x| x.to_bits()).collect())
    };
    if let Value::List(items) = value { items.iter().map(of).collect() } else { vec![of(value)] }
}

fn site(ran: &Ran, index: usize) -> SiteMetrics {
    ran.result.as_ref().expect("runs").metrics.sites[index]
}

#[test]
fn a_repeated_prompt_gives_what_it_gave_first() {
    for dense in [0, 7, 10] {
        let mut b = Build::new();
        let samples: Vec<Var> = (0..3).map(|_| generated(&mut b, 6).1).collect();
        let list = b.prim(Prim::List, &samples);
        let ran = run(b.plan(list, vec![]), partly(dense), 1);
        assert_eq!(site(&ran, 2).reused_tokens, 6, "one token of the prompt is left to compute");
        let all = exact(ran.value());
        assert!(all.iter().all(|one| *one == all[0]), "{all:?}");
    }
}

#[test]
fn how_a_prompt_is_cut_changes_nothing() {
    let cut = |chunk| {
        let mut b = Build::new();
        let (_, sample) = generated(&mut b, 6);
        let site = SitePlan::Generate { waves: vec![], prefix: PrefixMode::Shared, bucket: 1, prefill_chunk: chunk };
        exact(run(b.plan(sample, vec![site]), partly(0), 1).value())
    };
    let whole = cut(512);
    for chunk in 1..8 {
        assert_eq!(cut(chunk), whole, "{chunk} tokens at a time");
    }
}

#[test]
fn scored_texts_attend_to_everything_whatever_their_length() {
    for text in ["b", "b1", "b1a", "b1ac"] {
        let scored = |dense| {
            let mut b = Build::new();
            let (model, ctx, text) = (b.model(), b.prompt("aabb1"), b.text(text));
            // The second time, all of the prompt but one token is kept.
            let both = [0, 1].map(|site| b.op(Op::LogProb(site, model, ctx, text)));
            b.sites = 2;
            let both = b.prim(Prim::Tuple, &both);
            run(b.plan(both, vec![]), partly(dense), 1).value().clone()
        };
        let Value::Tuple(of_dense) = scored(usize::MAX) else { panic!("a tuple") };
        assert_eq!(of_dense[0], of_dense[1]);
        assert_eq!(scored(0), Value::Tuple(of_dense), "{text}");
    }
}

/// A continued answer: its keys were computed from a part of the context, but a prompt's are not.
#[test]
fn what_is_cached_changes_nothing() {
    // Other prompts push what was kept out.
    let ran = |dense, others: &[&str]| {
        let mut b = Build::new();
        let (ctx, first) = generated(&mut b, 6);
        for other in others {
            let ctx = b.prompt(other);
            greedy(&mut b, ctx, 2);
        }
        let longer = b.prim(Prim::CtxAdd, &[ctx, first]);
        let second = greedy(&mut b, longer, 6);
        let both = b.prim(Prim::List, &[first, second]);
        let last = b.sites as usize - 1;
        let ran = run(b.plan(both, vec![]), partly(dense), 1);
        (exact(ran.value()), site(&ran, last).reused_tokens)
    };
    // 7 tokens of the prompt and 6 of the answer, of which the last is not computed before it is continued.
    for (dense, reused) in [(0, 7), (5, 7), (9, 9), (12, 12), (usize::MAX, 12)] {
        let (kept, from) = ran(dense, &[]);
        assert_eq!(from, reused, "{dense} tokens attend to everything");
        let (forgotten, from) = ran(dense, &["b", "c", "1", "ba", "bb", "bc", "b1", "ca"]);
        assert_eq!((from, forgotten), (0, kept), "{dense} tokens attend to everything");
    }
}

#[test]
fn arms_that_meet_decode_as_they_would_alone() {
    let mut b = Build::new();
    let arms = [0, 1].map(|_| b.region(0, |b, _| Some(generated(b, 6).1)));
    let [x, y] = arms;
    let both = b.op(Op::ParRecord(vec![("x".into(), x), ("y".into(), y)]));
    let fields = ["x", "y"].map(|f| b.prim(Prim::Field(f.into()), &[both]));
    let list = b.prim(Prim::List, &fields);
    let together = exact(run(b.plan(list, vec![]), partly(0), 1).value());
    let mut b = Build::new();
    let (_, sample) = generated(&mut b, 6);
    let alone = exact(run(b.plan(sample, vec![]), partly(0), 1).value());
    assert_eq!(together, [alone[0].clone(), alone[0].clone()]);
}

#[test]
fn a_score_behind_kept_keys_is_that_of_none() {
    let ran = |mode| {
        let mut b = Build::new();
        let (ctx, first) = generated(&mut b, 6);
        let longer = b.prim(Prim::CtxAdd, &[ctx, first]);
        let (model, text) = (b.model(), b.text("b1"));
        let score = b.op(Op::LogProb(1, model, longer, text));
        b.sites = 2;
        let generate = SitePlan::Generate { waves: vec![], prefix: PrefixMode::Shared, bucket: 1, prefill_chunk: 512 };
        let ran = run(b.plan(score, vec![generate, SitePlan::Score { mode, bucket: 1 }]), partly(9), 1);
        (ran.value().clone(), site(&ran, 1).reused_tokens)
    };
    let (fused, reused) = ran(ScoreMode::Fused);
    assert_eq!((ran(ScoreMode::Fresh), reused), ((fused, 0), 9));
}
