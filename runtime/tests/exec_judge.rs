//! Verdicts of lists taken together, and contexts computed again: the same values as one by one, at another cost.

mod exec_setup;

use exec_setup::*;
use inferc_runtime as runtime;
use ir::plan::{ScoreMode, SitePlan};
use ir::strategy::*;
use runtime::value::Value;

fn field(b: &mut Build, name: &str, of: Var) -> Var {
    b.prim(Prim::Field(name.into()), &[of])
}

/// `best`, `top`, `map`, `filter` and `vote` over programs' verdicts on twelve samples, under a schedule of the calls.
fn judged(site: Option<SitePlan>, verifier: impl Fn(&mut Build, Var) -> Var, limit: Option<u64>) -> Ran {
    let mut b = Build::new();
    b.within.calls = limit;
    let tries = b.sample(Some(12), 6, |b, g| g.temp = Some(b.float(1.0)));
    let marks = b.lambda(|b, s| {
        let text = field(b, "text", s);
        let verifier = verifier(b, text);
        let score = b.op(Op::Score(1, verifier, s, false));
        let (two, len) = (b.float(2.0), field(b, "len", text));
        let twice = b.prim(Prim::Mul, &[score, two]);
        b.prim(Prim::Tuple, &[twice, len])
    });
    let by = b.lambda(|b, s| {
        let text = field(b, "text", s);
        let verifier = verifier(b, text);
        b.op(Op::Score(1, verifier, s, false))
    });
    let keep = b.lambda(|b, s| {
        let text = field(b, "text", s);
        let verifier = verifier(b, text);
        let (score, half) = (b.op(Op::Score(1, verifier, s, true)), b.float(0.5));
        b.prim(Prim::Ge, &[score, half])
    });
    let three = b.int(3);
    let parts = vec![
        b.prim(Prim::Map, &[tries, marks]),
        b.prim(Prim::Best, &[tries, by]),
        b.prim(Prim::Top, &[tries, three, by]),
        b.prim(Prim::Filter, &[tries, keep]),
        b.prim(Prim::Agree, &[tries, by]),
    ];
    let all = b.prim(Prim::Tuple, &parts);
    b.sites += 1;
    let sites = site.map_or_else(Vec::new, |site| vec![SitePlan::Unused, site]);
    run(b.plan(all, sites), TableModel::new(mixed), 7)
}

/// A value without the times that are in samples.
fn plain(value: &Value) -> String {
    match value {
        Value::Sample(s) => format!("{:?}", s.text),
        Value::List(items) => items.iter().map(plain).collect::<Vec<_>>().join(", "),
        Value::Tuple(items) => items.iter().map(plain).collect::<Vec<_>>().join("; "),
        other => format!("{other:?}"),
    }
}

/// A check that is cheap, then a program with the element's own argument.
fn both_of(b: &mut Build, text: Var, lines: Option<bool>) -> Var {
    let pattern = b.text("^[abc1{\n]*$");
    let cheap = b.op(Op::Verifier(VerifierOp::Regex(pattern)));
    let dear = match lines {
        // A score by the bytes of the request, so that every answer gets its own.
        Some(true) => {
            let program = b.text("awk '{ print length($0) % 7 / 8; fflush() }'");
            b.op(Op::Verifier(VerifierOp::Lines(vec![program, text])))
        }
        Some(false) => {
            let program = b.text("awk '{ print length($0) % 7 / 8 }'");
            b.op(Op::Verifier(VerifierOp::Command(vec![program, text])))
        }
        None => {
            let program = b.text("awk '/aa/ { exit 3 } { print length($0) % 7 / 8; fflush() }'");
            b.op(Op::Verifier(VerifierOp::Lines(vec![program, text])))
        }
    };
    b.op(Op::Verifier(VerifierOp::All(vec![dear, cheap])))
}

#[test]
fn verdicts_do_not_depend_on_calls() {
    let plan = |batch, at_once| Some(SitePlan::Verify { order: vec![1, 0], batch, at_once });
    let mut seen = Vec::new();
    for lines in [Some(false), Some(true), None] {
        let verifier = |b: &mut Build, text| both_of(b, text, lines);
        let one = judged(None, verifier, None);
        let scores = |ran: &Ran| {
            let scored = |e: &&String| e.starts_with("Scored");
            let strip = |e: &String| e.split(", seconds").next().unwrap_or("").to_owned();
            ran.events.iter().filter(scored).map(strip).collect::<Vec<_>>()
        };
        for (batch, at_once) in [(1, 1), (1, 4), (5, 1), (12, 1), (4, 3), (64, 64)] {
            let ran = judged(plan(batch, at_once), verifier, None);
            assert_eq!(plain(ran.value()), plain(one.value()), "{lines:?}, {batch} a call, {at_once} at once");
            if lines.is_some() {
                assert_eq!(scores(&ran), scores(&one), "{lines:?}, {batch} a call, {at_once} at once");
            }
            let (a, b) = (&ran.result.as_ref().expect("runs").usage, &one.result.as_ref().expect("runs").usage);
            assert_eq!((a.calls, a.inconclusive), (b.calls, b.inconclusive));
        }
        seen.push(plain(one.value()));
    }
    assert_eq!(seen[0], seen[1], "a line is judged as a call is");
}

#[test]
fn budgets_of_calls_hold_for_lists_too() {
    let plan = |batch, at_once| Some(SitePlan::Verify { order: vec![1, 0], batch, at_once });
    let verifier = |b: &mut Build, text| both_of(b, text, Some(true));
    let scored = |ran: &Ran| ran.events.iter().filter(|e| e.starts_with("Scored")).count();
    // Twelve samples, twelve marks, and five verdicts of the next list.
    for site in [None, plan(12, 2)] {
        let ran = judged(site, verifier, Some(29));
        assert_eq!(scored(&ran), 17);
        let error = ran.error();
        assert!(error.contains("budget of calls"), "{error}");
    }
}

#[test]
fn a_program_that_is_missing_fails_a_list_as_it_fails_one() {
    let verifier = |b: &mut Build, _| {
        let program = b.text("/nowhere/judge");
        b.op(Op::Verifier(VerifierOp::Lines(vec![program])))
    };
    for site in [None, Some(SitePlan::Verify { order: vec![0], batch: 4, at_once: 2 })] {
        let error = judged(site, verifier, None).error();
        assert!(error.contains("/nowhere/judge") && error.contains("does not start"), "{error}");
    }
}

#[test]
fn arms_that_only_judge_are_judged_together() {
    let ran = |site: Option<SitePlan>| {
        let mut b = Build::new();
        let texts: Vec<Var> = ["a", "bb", "ccc", "dddd"].iter().map(|t| b.text(t)).collect();
        let list = b.prim(Prim::List, &texts);
        let program = b.text("awk '{ print length($0) - 30; fflush() }'");
        let verifier = b.op(Op::Verifier(VerifierOp::Lines(vec![program])));
        let body = b.region(1, |b, p| Some(b.op(Op::Score(0, verifier, p[0], false))));
        let scores = b.op(Op::Par(list, Pat::Any, body, 4));
        b.sites += 1;
        run(b.plan(scores, site.into_iter().collect()), TableModel::new(mixed), 1).value().clone()
    };
    let together = ran(Some(SitePlan::Verify { order: vec![0], batch: 4, at_once: 1 }));
    assert_eq!(together, ran(None));
    let Value::List(scores) = &together else { panic!("{together:?}") };
    assert!(scores.windows(2).all(|w| w[0] != w[1]), "{scores:?}");
}

#[test]
fn a_context_prefilled_again_has_the_same_bits_at_another_cost() {
    let ran = |mode| {
        let mut b = Build::new();
        let (model, ctx, text) = (b.model(), b.prompt("a"), b.text("b1"));
        let first = b.op(Op::LogProb(0, model, ctx, text));
        let second = b.op(Op::LogProb(1, model, ctx, text));
        let both = b.prim(Prim::Tuple, &[first, second]);
        b.sites = 2;
        let site = |mode| SitePlan::Score { mode, bucket: 1 };
        run(b.plan(both, vec![site(ScoreMode::Shared), site(mode)]), TableModel::new(mixed), 1)
    };
    let (shared, fresh) = (ran(ScoreMode::Shared), ran(ScoreMode::Fresh));
    assert_eq!(shared.value(), fresh.value());
    let second = |ran: &Ran| ran.result.as_ref().expect("runs").metrics.sites[1];
    let (shared_site, fresh_site) = (second(&shared), second(&fresh));
    assert!(shared_site.reused_tokens > 0 && fresh_site.reused_tokens == 0, "{shared_site:?} {fresh_site:?}");
    let all = |m: &runtime::metrics::SiteMetrics| m.prompt_tokens + m.reused_tokens;
    assert_eq!(all(&shared_site), all(&fresh_site));
    assert!(fresh.events.iter().any(|e| e.starts_with("Prefilled { site: 1") && e.contains("reused: 0")));
    let used = |ran: &Ran| ran.result.as_ref().expect("runs").usage.prompt_tokens;
    assert!(used(&fresh) > used(&shared));
}

/// `both` of itself, in a loop that no proof follows: the run ends with a cause where the checks become too many.
#[test]
fn checks_do_not_double_without_end() {
    for (times, taken) in [(6, true), (7, false), (40, false)] {
        let verifier = |b: &mut Build, text| {
            let mut all = b.op(Op::Verifier(VerifierOp::Exact(text)));
            for _ in 0..times {
                all = b.op(Op::Verifier(VerifierOp::All(vec![all, all])));
            }
            all
        };
        let ran = judged(None, verifier, None);
        match ran.result {
            Ok(_) => assert!(taken, "{times} doublings"),
            Err(e) => assert!(!taken && format!("{e:?}").contains("at most 64"), "{times} doublings: {e:?}"),
        }
    }
}
