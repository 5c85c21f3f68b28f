//! Sampling sites and rules on a model that is a table: counts, determinism, budgets, failures.

mod exec_setup;

use exec_setup::*;
use inferc_runtime as runtime;
use ir::plan::{PrefixMode, SitePlan};
use ir::strategy::*;
use runtime::exec::{Fired, TokenRules};
use runtime::value::{EndReason, Value};
use std::sync::Arc;

fn plain(n: i64, max: u64, plan: &[u32], seed: u64) -> Ran {
    let mut b = Build::new();
    let list = b.sample(Some(n), max, |_, _| {});
    run(b.plan(list, vec![waves(plan)]), TableModel::new(mixed), seed)
}

#[test]
fn one_seed_gives_one_result_whatever_the_waves() {
    let all = plain(6, 12, &[], 7);
    for split in [&[6][..], &[1, 1, 1, 1, 1, 1], &[2, 4], &[3]] {
        assert_eq!(plain(6, 12, split, 7).texts(), all.texts());
    }
    assert_ne!(plain(6, 12, &[], 8).texts(), all.texts());
    let distinct: std::collections::BTreeSet<String> = all.texts().into_iter().collect();
    assert!(distinct.len() > 3, "sequences draw for themselves: {distinct:?}");
}

#[test]
fn each_site_places_its_prompt_as_planned() {
    let mut b = Build::new();
    b.sample(Some(3), 4, |_, _| {});
    let list = b.sample(Some(2), 4, |_, _| {});
    let plan = |prefix| SitePlan::Generate { waves: Vec::new(), prefix, bucket: 8, prefill_chunk: 2 };
    let ran = run(b.plan(list, vec![plan(PrefixMode::Cascade), plan(PrefixMode::Copied)]), TableModel::new(mixed), 1);
    ran.result.as_ref().expect("runs");
    let placed = ran.log.placed.lock().expect("no panic before");
    let count = |mode| placed.iter().filter(|p| **p == mode).count();
    assert!(count(PrefixMode::Cascade) >= 2 && count(PrefixMode::Copied) >= 1, "{placed:?}");
    assert_eq!(count(PrefixMode::Shared), 0);
}

#[test]
fn counts_are_exact() {
    let ran = plain(5, 9, &[2, 3], 3);
    let outcome = ran.result.as_ref().expect("runs");
    let Value::List(samples) = &outcome.value else { panic!("a list") };
    let mut tokens = 0;
    for sample in samples.iter() {
        let Value::Sample(s) = sample else { panic!("a sample") };
        tokens += s.tokens.len() as u64;
        assert!(s.tokens.len() <= 9);
        assert_eq!(s.tokens.len(), s.logprobs.len());
        assert_eq!(s.reason == EndReason::End, s.tokens.last() == Some(&END));
        assert_eq!(s.reason == EndReason::Max, s.tokens.len() == 9 && s.tokens.last() != Some(&END));
        for (token, logprob) in s.tokens.iter().zip(s.logprobs.iter()) {
            assert!((logprob - mixed(&[])[*token as usize].ln()).abs() < 1e-5);
        }
        let entropy: f32 = mixed(&[]).iter().filter(|p| **p > 0.0).map(|p| -p * p.ln()).sum();
        assert!((s.entropy - f64::from(entropy)).abs() < 1e-5);
    }
    assert_eq!(outcome.usage.tokens, tokens);
    assert_eq!(ran.count("Token"), tokens as usize);
    assert_eq!((outcome.usage.calls, outcome.usage.samples, outcome.usage.cancelled), (5, 5, 0));
    assert_eq!(ran.count("WaveStarted"), 2);
    assert_eq!(ran.count("SequenceEnded"), 5);
    // The prompt "a" is a, end of turn, opening: computed once.
    assert_eq!((outcome.usage.prompt_tokens, *ran.log.prefilled.lock().expect("no panic before")), (3, 2));
    let metrics = outcome.metrics.sites[0];
    assert_eq!(metrics.rows + 5, tokens, "each sequence's first token comes with the prompt");
    assert_eq!(metrics.steps as usize, ran.log.steps.lock().expect("no panic before").len() - 1);
}

#[test]
fn greedy_takes_the_most_probable() {
    let mut b = Build::new();
    let zero = b.float(0.0);
    let one = b.sample(None, 4, |_, g| g.temp = Some(zero));
    let ran = run(b.plan(one, vec![]), TableModel::new(mixed), 1);
    let outcome = ran.result.expect("runs");
    assert_eq!((outcome.text.as_str(), outcome.stop), ("aaaa", Some(EndReason::Max)));
    assert_eq!(outcome.tokens, [A, A, A, A]);
}

#[test]
fn stop_texts_end_and_are_cut_off() {
    let mut b = Build::new();
    let stop = b.text("c1");
    let list = b.prim(Prim::List, &[stop]);
    let one = b.sample(None, 9, |_, g| g.stop = Some(list));
    let ran = run(b.plan(one, vec![]), TableModel::new(saying(&[B, C, C, ONE, B])), 1);
    let outcome = ran.result.expect("runs");
    assert_eq!((outcome.text.as_str(), outcome.stop), ("bc", Some(EndReason::StopText)));
    assert_eq!(outcome.tokens, [B, C, C, ONE]);
}

#[test]
fn the_context_ends_sequences_and_refuses_prompts() {
    let mut b = Build::new();
    let ctx = b.prompt(&"a".repeat(60));
    let one = b.sample_on(ctx, None, 9, |_, _| {});
    let ran = run(b.plan(one, vec![]), TableModel::new(saying(&[B; 9])), 1);
    let outcome = ran.result.expect("runs");
    assert_eq!((outcome.tokens.len(), outcome.stop), (2, Some(EndReason::Context)));
    let mut b = Build::new();
    let ctx = b.prompt(&"a".repeat(64));
    let one = b.sample_on(ctx, None, 9, |_, _| {});
    let error = run(b.plan(one, vec![]), TableModel::new(mixed), 1).error();
    assert!(error.contains("66 tokens") && error.contains("64"), "{error}");
}

/// `when entropy > at => action`, over one sequence of four that may become eight.
fn entropy_rule(b: &mut Build, g: &mut Generate, above: f64, action: Action) {
    let region = b.region(1, |b, p| {
        let entropy = b.op(Op::Dist(DistField::Entropy, Window::Now, p[0]));
        let limit = b.float(above);
        Some(b.prim(Prim::Gt, &[entropy, limit]))
    });
    g.rules.push(Build::rule(Level::Token, Some(region), vec![action]));
}

/// Uncertain between a and b after the opening and after `c`; else `c`, and the end after three.
fn fork(tokens: &[u32]) -> [f32; 8] {
    let at = tokens.iter().rev().take_while(|t| **t != ANSWER).count();
    let mut p = [0.0; 8];
    match at {
        0 | 2 => (p[A as usize], p[B as usize]) = (0.6, 0.4),
        1 => p[C as usize] = 1.0,
        _ => p[END as usize] = 1.0,
    }
    p
}

#[test]
fn branches_take_the_most_probable_tokens_and_share_the_rest() {
    let go = |live: u64| {
        let mut b = Build::new();
        let list = b.sample(Some(1), 9, |b, g| {
            b.live(g, live);
            entropy_rule(b, g, 0.5, Action::Branch(2));
        });
        run(b.plan(list, vec![]), TableModel::new(fork), 5)
    };
    let ran = go(8);
    // Index order: the first, its child at 0, the children of both at 2.
    assert_eq!(ran.texts(), ["aca", "bca", "acb", "bcb"]);
    let outcome = ran.result.as_ref().expect("runs");
    // Tokens: 2 at the first position, 2 for c, 4 and 4 ends.
    assert_eq!((outcome.usage.tokens, outcome.usage.calls, outcome.usage.samples), (12, 4, 4));
    assert_eq!(ran.count("Branched"), 3);
    let Value::List(samples) = ran.value() else { panic!("a list") };
    let own: u64 = samples.iter().map(|s| if let Value::Sample(s) = s { s.usage.tokens } else { 0 }).sum();
    assert_eq!(own, 12, "each token is somebody's own");
    // The bound holds: with three only one of the two may fork the second time.
    let bounded = go(3);
    assert_eq!(bounded.texts().len(), 3);
    assert_eq!(go(1).texts().len(), 1);
    assert_eq!(go(1).count("Branched"), 0);
}

/// Probabilities that depend on every token so far.
fn history(tokens: &[u32]) -> [f32; 8] {
    let mut hash = tokens.iter().fold(17u64, |h, t| (h ^ u64::from(*t)).wrapping_mul(0x0000_0100_0000_01B3));
    let mut p = [0.0; 8];
    for x in &mut p[..3] {
        hash = hash.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
        *x = 0.1 + (hash >> 40) as f32 / (1u64 << 24) as f32;
    }
    p
}

#[test]
fn a_branch_equals_the_same_tokens_alone() {
    let mut b = Build::new();
    let zero = b.float(0.0);
    let list = b.sample(Some(1), 8, |b, g| {
        b.live(g, 3);
        g.temp = Some(zero);
        entropy_rule(b, g, 0.0, Action::Branch(3));
    });
    let ran = run(b.plan(list, vec![]), TableModel::new(history), 5);
    let Value::List(samples) = ran.value() else { panic!("a list") };
    assert_eq!(samples.len(), 3);
    for sample in samples.iter() {
        let Value::Sample(s) = sample else { panic!("a sample") };
        // The same first token as the beginning of the answer.
        let mut b = Build::new();
        let zero = b.float(0.0);
        let first = Part::Text(WORDS[s.tokens[0] as usize].into());
        let user = (Speaker::User, vec![Part::Text("a".into())]);
        let ctx = b.op(Op::Prompt(vec![user, (Speaker::Assistant, vec![first])]));
        let one = b.sample_on(ctx, None, 7, |_, g| g.temp = Some(zero));
        let alone = run(b.plan(one, vec![]), TableModel::new(history), 5).result.expect("runs");
        assert_eq!(alone.tokens, s.tokens[1..]);
        assert_eq!(alone.logprobs, s.logprobs[1..]);
    }
}

#[test]
fn token_rules_stop_drop_and_set_the_temperature() {
    let mut b = Build::new();
    let list = b.sample(Some(2), 9, |b, g| entropy_rule(b, g, 0.5, Action::Stop));
    let ran = run(
        b.plan(list, vec![]),
        TableModel::new(|t: &[u32]| if t.last() == Some(&C) { mixed(t) } else { saying(&[C])(t) }),
        1,
    );
    assert_eq!(ran.texts(), ["c", "c"]);
    assert_eq!(ran.count("RuleFired"), 2);
    let mut b = Build::new();
    let list = b.sample(Some(3), 9, |b, g| entropy_rule(b, g, 0.5, Action::Drop));
    assert!(run(b.plan(list, vec![]), TableModel::new(mixed), 1).texts().is_empty());
    let mut b = Build::new();
    let list = b.sample(Some(3), 5, |b, g| {
        let cold = b.region(1, |b, _| Some(b.float(0.0)));
        entropy_rule(b, g, 0.5, Action::Temperature(cold));
    });
    assert_eq!(run(b.plan(list, vec![]), TableModel::new(mixed), 1).texts(), ["aaaaa"; 3]);
    // A rule that is never true changes nothing.
    let mut b = Build::new();
    let list = b.sample(Some(6), 12, |b, g| entropy_rule(b, g, 99.0, Action::Stop));
    assert_eq!(run(b.plan(list, vec![]), TableModel::new(mixed), 7).texts(), plain(6, 12, &[], 7).texts());
}

/// A compiled rule: the first statistic above the first capture.
struct Above(ir::rule::TokenRule);

impl TokenRules for Above {
    fn rule(&self, site: u32, rule: u32) -> Option<&ir::rule::TokenRule> {
        (site == 0 && rule == 0).then_some(&self.0)
    }

    fn fire(&self, _: &ir::rule::TokenRule, stats: &[f32], captures: &[f32]) -> Fired {
        Fired { fires: stats[0] > captures[0], temperature: 0.0 }
    }
}

#[test]
fn compiled_rules_agree_with_the_evaluator() {
    for limit in [0.2, 0.67, 0.68, 1.2] {
        let build = || {
            let mut b = Build::new();
            let limit = b.float(limit);
            let list = b.sample(Some(3), 9, |b, g| {
                b.live(g, 8);
                let region = b.region(1, |b, p| {
                    let entropy = b.op(Op::Dist(DistField::Entropy, Window::Mean(2), p[0]));
                    Some(b.prim(Prim::Gt, &[entropy, limit]))
                });
                g.rules.push(Build::rule(Level::Token, Some(region), vec![Action::Branch(2)]));
            });
            (b.plan(list, vec![]), limit)
        };
        let (plan, _) = build();
        let (again, var) = build();
        let rule = ir::rule::TokenRule {
            site: 0,
            rule: 0,
            stats: vec![(DistField::Entropy, Window::Mean(2))],
            captures: vec![ir::rule::Capture::Var(var)],
            kernel: "k".into(),
        };
        let slow = run(plan, TableModel::new(fork), 9);
        let fast = run_with(again, TableModel::new(fork), 9, Some(Arc::new(Above(rule))), None);
        assert_eq!(slow.texts(), fast.texts(), "limit {limit}");
        assert_eq!(slow.count("Branched"), fast.count("Branched"));
    }
}

/// `set(d) when d.len >= k => action`.
fn set_rule(b: &mut Build, g: &mut Generate, k: i64, action: Action) {
    let region = b.region(1, |b, p| {
        let len = b.prim(Prim::Field("len".into()), &[p[0]]);
        let k = b.int(k);
        Some(b.prim(Prim::Ge, &[len, k]))
    });
    g.rules.push(Build::rule(Level::Set, Some(region), vec![action]));
}

#[test]
fn an_early_stop_cancels_the_rest() {
    for plan in [&[][..], &[2, 2, 4], &[8], &[4, 4]] {
        let mut b = Build::new();
        let list = b.sample(Some(8), 9, |b, g| set_rule(b, g, 3, Action::Stop));
        let ran = run(b.plan(list, vec![waves(plan)]), TableModel::new(saying(&[B])), 1);
        assert_eq!(ran.texts().len(), 3, "waves {plan:?}");
        let usage = ran.result.as_ref().expect("runs").usage;
        assert_eq!(usage.samples, 3);
        let started = ran.count("SequenceEnded") as u64;
        assert_eq!(usage.calls, usage.samples + usage.cancelled, "{started} ended");
    }
}

#[test]
fn growing_is_bounded() {
    let mut b = Build::new();
    let list = b.sample(Some(2), 9, |b, g| {
        b.live(g, 7);
        set_rule(b, g, 1, Action::Grow(2));
    });
    let ran = run(b.plan(list, vec![]), TableModel::new(saying(&[B])), 1);
    assert_eq!(ran.texts().len(), 7);
    assert_eq!(ran.result.expect("runs").usage.calls, 7);
}

#[test]
fn end_rules_drop_from_the_result() {
    let mut b = Build::new();
    let list = b.sample(Some(12), 9, |b, g| {
        let region = b.region(1, |b, p| {
            let ended = b.prim(Prim::Field("ended".into()), &[p[0]]);
            Some(b.prim(Prim::Not, &[ended]))
        });
        g.rules.push(Build::rule(Level::End, Some(region), vec![Action::Drop]));
    });
    let ran = run(b.plan(list, vec![]), TableModel::new(mixed), 2);
    let Value::List(samples) = ran.value() else { panic!("a list") };
    assert!((1..12).contains(&samples.len()));
    assert!(samples.iter().all(|s| matches!(s, Value::Sample(s) if s.reason == EndReason::End)));
    assert_eq!(ran.count("RuleFired") + samples.len(), 12);
}

#[test]
fn token_budgets_are_never_exceeded() {
    for most in 0..40 {
        let mut b = Build::new();
        b.within.tokens = Some(most);
        let list = b.sample(Some(4), 8, |b, g| {
            b.live(g, 8);
            entropy_rule(b, g, 0.5, Action::Branch(3));
        });
        let ran = run(b.plan(list, vec![]), TableModel::new(mixed), most);
        assert!(ran.count("Token") as u64 <= most, "{most}: {}", ran.count("Token"));
        if let Err(failure) = &ran.result {
            assert!(failure.to_string().contains("budget of tokens"), "{failure}");
            assert_eq!(failure.at, (1, 2));
        }
    }
}

#[test]
fn a_tripped_guard_runs_its_else() {
    let mut b = Build::new();
    let limit = b.tokens(6);
    let body = b.region(0, |b, _| Some(b.sample(Some(4), 9, |_, _| {})));
    let otherwise = b.region(0, |b, _| Some(b.sample(Some(2), 2, |_, _| {})));
    let list = b.op(Op::Within(vec![("tokens".into(), limit)], None, body, Some(otherwise)));
    let ran = run(b.plan(list, vec![]), TableModel::new(saying(&[B; 20])), 1);
    assert_eq!(ran.texts(), ["bb", "bb"]);
    let usage = ran.result.as_ref().expect("runs").usage;
    assert_eq!((usage.tokens, usage.cancelled), (4 + 4, 4));
    assert_eq!(ran.count("BudgetTripped"), 1);
}

#[test]
fn an_outer_guard_trips_before_an_inner_one() {
    let mut b = Build::new();
    b.within.calls = Some(1);
    let limit = b.int(1);
    let body = b.region(0, |b, _| Some(b.sample(Some(2), 2, |_, _| {})));
    let otherwise = b.region(0, |b, _| Some(b.int(0)));
    let value = b.op(Op::Within(vec![("calls".into(), limit)], None, body, Some(otherwise)));
    let error = run(b.plan(value, vec![]), TableModel::new(mixed), 1).error();
    assert!(error.contains("budget of calls"), "{error}");
}

#[test]
fn time_and_kv_budgets_trip() {
    let mut b = Build::new();
    b.within.time = Some(0.0);
    let one = b.sample(None, 9, |_, _| {});
    assert!(run(b.plan(one, vec![]), TableModel::new(mixed), 1).error().contains("budget of time"));
    let mut b = Build::new();
    b.within.kv = Some(100);
    let one = b.sample(Some(4), 9, |_, _| {});
    assert!(run(b.plan(one, vec![]), TableModel::new(mixed), 1).error().contains("budget of kv"));
}

/// `b` for ever; logits that are no numbers once a sequence holds `c` and then something.
fn poisoned(tokens: &[u32]) -> [f32; 8] {
    let answer: Vec<u32> = tokens.iter().rev().take_while(|t| **t != ANSWER).copied().collect();
    if answer.len() >= 2 && answer.last() == Some(&C) {
        return [f32::NAN; 8];
    }
    let mut p = [0.0; 8];
    match answer.len() {
        0 => (p[B as usize], p[C as usize]) = (0.5, 0.5),
        1..4 => p[B as usize] = 1.0,
        _ => p[END as usize] = 1.0,
    }
    p
}

#[test]
fn a_poisoned_sequence_fails_alone() {
    let go = |model: TableModel| {
        let mut b = Build::new();
        let list = b.sample(Some(8), 9, |_, _| {});
        run(b.plan(list, vec![]), model, 4)
    };
    let ran = go(TableModel::new(poisoned));
    let healthy = go(TableModel::new(|t: &[u32]| {
        let p = poisoned(t);
        if p[0].is_nan() { saying(&[C, B, B, B])(t) } else { p }
    }));
    let Value::List(samples) = ran.value() else { panic!("a list") };
    let Value::List(others) = healthy.value() else { panic!("a list") };
    let mut failed = 0;
    for (sample, other) in samples.iter().zip(others.iter()) {
        let (Value::Sample(s), Value::Sample(o)) = (sample, other) else { panic!("samples") };
        if s.tokens[0] == C {
            failed += 1;
            assert_eq!((s.reason, &s.value), (EndReason::Error, &Value::None));
            assert!(s.error.as_deref().expect("a cause").contains("no numbers"));
        } else {
            assert_eq!((&s.tokens, &s.logprobs), (&o.tokens, &o.logprobs));
        }
    }
    assert!((1..8).contains(&failed));
    let error = go(TableModel::new(|_: &[u32]| [f32::NAN; 8])).error();
    assert!(error.contains("all 8 sequences"), "{error}");
}

#[test]
fn cancelling_stops_at_the_next_step() {
    let mut b = Build::new();
    let list = b.sample(Some(4), 50, |_, _| {});
    let ran = run_with(b.plan(list, vec![]), TableModel::new(saying(&[B; 50])), 1, None, Some(10));
    assert_eq!(ran.error(), "cancelled");
    assert_eq!(ran.count("Token"), 12);
}

#[test]
fn prefixes_are_reused_and_change_nothing() {
    let mut b = Build::new();
    let first = b.sample(None, 4, |_, _| {});
    let ctx = b.prompt("a");
    let longer = b.prim(Prim::CtxAdd, &[ctx, first]);
    let question = b.text("b");
    let longer = b.prim(Prim::CtxAdd, &[longer, question]);
    let second = b.sample_on(longer, None, 4, |_, _| {});
    let both = b.prim(Prim::List, &[first, second]);
    let ran = run(b.plan(both, vec![]), TableModel::new(saying(&[C, ONE])), 1);
    assert_eq!(ran.texts(), ["c1", "c1"]);
    // "a", end, opening are 3; the second prompt is a end c 1 end b end opening, of which a and end are kept.
    let metrics = &ran.result.as_ref().expect("runs").metrics;
    assert_eq!((metrics.sites[1].prompt_tokens, metrics.sites[1].reused_tokens), (6, 2));
}

#[test]
fn kept_sequences_give_way_when_pages_run_out() {
    let mut b = Build::new();
    let mut last = b.int(0);
    for text in ["a", "b", "c", "1", "aa", "bb"] {
        let ctx = b.prompt(text);
        last = b.sample_on(ctx, Some(2), 6, |_, _| {});
    }
    let mut model = TableModel::new(saying(&[B, B, B]));
    model.room = 22;
    assert_eq!(run(b.plan(last, vec![]), model, 1).texts(), ["bbb", "bbb"]);
}

/// `par x in 0..k { inner }` and `map(0..k, |x| inner)`.
fn rounds(k: i64, together: bool, inner: impl FnOnce(&mut Build) -> Var) -> (Build, Var) {
    let mut b = Build::new();
    let (lo, hi) = (b.int(0), b.int(k));
    let list = b.prim(Prim::Range, &[lo, hi]);
    let item = b.var();
    let value = if together {
        let body = b.region(0, |b, _| Some(inner(b)));
        b.op(Op::Par(list, Pat::Bind(item), body, k as u64))
    } else {
        let f = b.lambda(|b, _| inner(b));
        b.prim(Prim::Map, &[list, f])
    };
    (b, value)
}

#[test]
fn arms_decode_together_and_get_what_they_would_get_alone() {
    let go = |together: bool| {
        let (b, value) = rounds(5, together, |b| b.sample(None, 12, |_, _| {}));
        run(b.plan(value, vec![]), TableModel::new(mixed), 3)
    };
    let (joint, alone) = (go(true), go(false));
    assert_eq!(joint.texts(), alone.texts());
    let distinct: std::collections::BTreeSet<String> = joint.texts().into_iter().collect();
    assert!(distinct.len() > 2, "rounds draw for themselves: {distinct:?}");
    let usage = |ran: &Ran| ran.result.as_ref().map(|o| (o.usage.tokens, o.usage.calls)).expect("runs");
    assert_eq!(usage(&joint), usage(&alone));
    let steps = |ran: &Ran| ran.log.steps.lock().expect("no panic before").clone();
    // A sequence may end with its first token, which comes with the prompt.
    assert!(steps(&joint).iter().max() >= Some(&4));
    assert!(steps(&joint).len() < steps(&alone).len());
}

#[test]
fn arms_nest() {
    let go = |together: bool| {
        let (b, value) = rounds(3, together, |b| {
            let (lo, hi) = (b.int(0), b.int(3));
            let list = b.prim(Prim::Range, &[lo, hi]);
            let item = b.var();
            let body = b.region(0, |b, _| Some(b.sample(None, 12, |_, _| {})));
            b.op(Op::Par(list, Pat::Bind(item), body, 3))
        });
        run(b.plan(value, vec![]), TableModel::new(mixed), 3)
    };
    let (joint, alone) = (go(true), go(false));
    // Samples carry seconds, so compare what they say.
    assert_eq!(joint.value().to_text(), alone.value().to_text());
    assert_eq!(joint.log.steps.lock().expect("no panic before").iter().max(), Some(&9));
}

#[test]
fn arms_keep_to_budgets_and_fail_as_one() {
    for most in 0..60 {
        let (mut b, value) = rounds(4, true, |b| {
            b.sample(Some(2), 8, |b, g| {
                b.live(g, 4);
                entropy_rule(b, g, 0.5, Action::Branch(2));
            })
        });
        b.within.tokens = Some(most);
        let plan = b.plan(value, vec![]);
        let ran = run(plan.clone(), TableModel::new(mixed), most);
        assert!(ran.count("Token") as u64 <= most);
        let again = run(plan, TableModel::new(mixed), most);
        assert_eq!(ran.result.is_ok(), again.result.is_ok());
        assert_eq!(ran.count("Token"), again.count("Token"), "the same, whatever the threads do");
    }
    // The second arm fails while the others are decoding.
    let mut b = Build::new();
    let one = b.int(1);
    let (lo, hi) = (b.int(0), b.int(3));
    let list = b.prim(Prim::Range, &[lo, hi]);
    let item = b.var();
    let body = b.region(0, |b, _| {
        let now = b.prim(Prim::Eq, &[item, one]);
        let fail = b.region(0, |b, _| {
            let message = b.text("arm one");
            b.op(Op::Fail(Some(message)));
            None
        });
        let go = b.region(0, |b, _| Some(b.sample(None, 20, |_, _| {})));
        Some(b.op(Op::If(now, fail, go)))
    });
    let value = b.op(Op::Par(list, Pat::Bind(item), body, 3));
    let ran = run(b.plan(value, vec![]), TableModel::new(saying(&[B; 20])), 1);
    assert!(ran.error().contains("arm one"), "{}", ran.error());
    assert!(ran.count("Token") < 5);
}

#[test]
fn parts_of_a_record_decode_together() {
    let mut b = Build::new();
    let first = b.region(0, |b, _| Some(b.sample(None, 3, |_, _| {})));
    let second = b.region(0, |b, _| Some(b.sample(None, 2, |_, _| {})));
    let both = b.op(Op::ParRecord(vec![("x".into(), first), ("y".into(), second)]));
    let y = b.prim(Prim::Field("y".into()), &[both]);
    let ran = run(b.plan(y, vec![]), TableModel::new(saying(&[B; 9])), 1);
    assert_eq!(ran.value().to_text(), "bb");
    assert!(ran.log.steps.lock().expect("no panic before").contains(&2));
}

/// Arms of one step keep their sites' placement of prompts, whichever arm came last.
#[test]
fn arms_that_meet_keep_their_placement() {
    let mut b = Build::new();
    let first = b.region(0, |b, _| Some(b.sample(Some(2), 3, |_, _| {})));
    let second = b.region(0, |b, _| Some(b.sample(None, 3, |_, _| {})));
    let both = b.op(Op::ParRecord(vec![("x".into(), first), ("y".into(), second)]));
    let y = b.prim(Prim::Field("y".into()), &[both]);
    let site = |prefix| SitePlan::Generate { waves: Vec::new(), prefix, bucket: 8, prefill_chunk: 8 };
    let plan = b.plan(y, vec![site(PrefixMode::Cascade), site(PrefixMode::Copied)]);
    let ran = run(plan, TableModel::new(saying(&[B; 9])), 1);
    assert_eq!(ran.value().to_text(), "bbb");
    let met = ran.log.met.lock().expect("no panic before").clone();
    let [cascade, copied] = [PrefixMode::Cascade, PrefixMode::Copied];
    assert_eq!(met, vec![vec![cascade, cascade, copied]; 2]);
}
