//! Selection, votes, routes, scores, formats and written answers.

mod exec_setup;

use exec_setup::*;
use inferc_runtime as runtime;
use ir::strategy::*;
use runtime::error::Error;
use runtime::exec::{ChatMessage, Options, TextCodec, Watch};
use runtime::model::{Append, LanguageModel, ModelInfo, Row, SeqId, Wanted};
use runtime::sample::{Choice, Draw};
use runtime::script::run_test;
use runtime::session::{Engine, RoleModel, Session};
use runtime::value::{EndReason, Value};
use std::borrow::Cow;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

fn field(b: &mut Build, name: &str, of: Var) -> Var {
    b.prim(Prim::Field(name.into()), &[of])
}

/// A test block over one strategy.
fn test_of(
    strategy: Strategy,
    mocks: &[(&str, &[&str])],
    checks: impl FnOnce(&mut Build, Var) -> Vec<(Var, &'static str)>,
) -> Test {
    let mut b = Build::new();
    let result = b.var();
    let checks = checks(&mut b, result);
    let outputs = |texts: &[&str]| texts.iter().map(|t| MockOutput::Text((*t).into())).collect();
    let mut steps = vec![TestStep::Run(result, 0, vec![]), TestStep::Eval(b.binds)];
    steps.extend(checks.into_iter().map(|(var, source)| TestStep::Assert(var, source.into())));
    Test {
        title: "t".into(),
        mocks: mocks.iter().map(|(role, texts)| ((*role).into(), outputs(texts))).collect(),
        steps,
        strategies: vec![strategy],
        vars: b.vars,
    }
}

fn self_consistency() -> Strategy {
    let mut b = Build::new();
    let done = b.sample(Some(16), 2000, |b, g| {
        g.format = Format::Boxed;
        let region = b.region(1, |b, p| {
            let len = field(b, "len", p[0]);
            let four = b.int(4);
            let enough = b.prim(Prim::Ge, &[len, four]);
            let then = b.region(0, |b, _| {
                let key = b.lambda(|b, s| field(b, "value", s));
                let agree = b.prim(Prim::Agree, &[p[0], key]);
                let settled = b.float(0.75);
                Some(b.prim(Prim::Ge, &[agree, settled]))
            });
            let otherwise = b.region(0, |b, _| Some(b.op(Op::Const(Const::Bool(false)))));
            Some(b.op(Op::If(enough, then, otherwise)))
        });
        g.rules.push(Build::rule(Level::Set, Some(region), vec![Action::Stop]));
    });
    let key = b.lambda(|b, s| field(b, "value", s));
    let vote = b.prim(Prim::Vote, &[done, key]);
    b.strategy(vote)
}

#[test]
fn the_vote_stops_early() {
    let answers = ["The answer is \\boxed{4}", "\\boxed{4}", "\\boxed{4}", "\\boxed{4}"];
    let test = test_of(self_consistency(), &[("m", &answers)], |b, vote| {
        let value = field(b, "value", vote);
        let four = b.text("4");
        let usage = field(b, "usage", vote);
        let samples = field(b, "samples", usage);
        let count = b.int(4);
        vec![
            (b.prim(Prim::Eq, &[value, four]), "v.value == \"4\""),
            (b.prim(Prim::Eq, &[samples, count]), "v.usage.samples == 4"),
            (b.prim(Prim::Ne, &[value, four]), "v.value != \"4\""),
        ]
    });
    let report = run_test(&test);
    assert_eq!(report.passed, 2, "{report:?}");
    assert_eq!(report.failures, ["assertion does not hold: v.value != \"4\""]);
    assert_eq!((report.usage.samples, report.usage.cancelled), (4, 12));
}

#[test]
fn an_unsettled_vote_hears_everyone() {
    let answers: Vec<String> = (0..16).map(|i| format!("\\boxed{{{}}}", if i % 3 == 0 { 100 } else { i })).collect();
    let answers: Vec<&str> = answers.iter().map(String::as_str).collect();
    let test = test_of(self_consistency(), &[("m", &answers)], |b, vote| {
        let value = field(b, "value", vote);
        let hundred = b.text("100");
        let members = field(b, "members", vote);
        let len = field(b, "len", members);
        let six = b.int(6);
        vec![(b.prim(Prim::Eq, &[value, hundred]), "value"), (b.prim(Prim::Eq, &[len, six]), "members")]
    });
    let report = run_test(&test);
    assert_eq!((report.passed, report.usage.samples), (2, 16), "{report:?}");
}

#[test]
fn tests_without_a_mock_say_what_is_missing() {
    let report = run_test(&test_of(self_consistency(), &[], |_, _| vec![]));
    assert!(report.failures[0].contains("`m`"), "{report:?}");
}

#[test]
fn best_takes_the_highest_score_of_the_mocked_verifier() {
    let mut b = Build::new();
    b.roles.push(Role { name: "v".into(), kind: RoleKind::Scorer, needs: vec![], binding: None });
    let tries = b.sample(Some(4), 50, |_, _| {});
    let verifier = b.op(Op::Model(1));
    let by = b.lambda(|b, s| b.op(Op::Score(1, verifier, s, false)));
    let best = b.prim(Prim::Best, &[tries, by]);
    b.sites += 1;
    let mut test = test_of(b.strategy(best), &[("m", &["one", "two", "three", "four"])], |b, best| {
        let text = field(b, "text", best);
        let three = b.text("two");
        vec![(b.prim(Prim::Eq, &[text, three]), "ties go to the first")]
    });
    test.mocks.push(("v".into(), [0.1, 0.9, 0.9, 0.2].map(MockOutput::Number).to_vec()));
    let report = run_test(&test);
    assert_eq!((report.passed, report.usage.calls), (1, 8), "{report:?}");
}

fn scored(b: &mut Build, verifier: VerifierOp, answer: &str) -> Var {
    let verifier = b.op(Op::Verifier(verifier));
    let sample = b.text(answer);
    b.op(Op::Score(0, verifier, sample, true))
}

#[test]
fn built_in_verifiers_score() {
    let mut b = Build::new();
    let (four, zero) = (b.float(4.0), b.float(0.0));
    let exact = b.text("4");
    let pattern = b.text("^[0-9]+$");
    let program = b.text("grep -q '\"text\":\"4\"'");
    let endless = b.text("false");
    let values = vec![
        scored(&mut b, VerifierOp::Exact(exact), " 4 "),
        scored(&mut b, VerifierOp::Numeric(four, zero), "it is 4.0"),
        scored(&mut b, VerifierOp::Regex(pattern), "x"),
        scored(&mut b, VerifierOp::Command(vec![program]), "4"),
        scored(&mut b, VerifierOp::Command(vec![endless]), "4"),
    ];
    let (a, c) = (b.op(Op::Verifier(VerifierOp::Exact(exact))), b.op(Op::Verifier(VerifierOp::Regex(pattern))));
    let both = b.op(Op::Verifier(VerifierOp::All(vec![a, c])));
    let sample = b.text("4");
    let all = b.op(Op::Score(0, both, sample, true));
    let list = b.prim(Prim::List, &[values, vec![all]].concat());
    let ran = run(b.plan(list, vec![]), TableModel::new(mixed), 1);
    assert_eq!(ran.value(), &Value::list([1.0, 1.0, 0.0, 1.0, 0.0, 1.0].map(Value::Float).to_vec()));
    assert_eq!(ran.result.expect("runs").usage.calls, 6);
}

#[test]
fn a_program_that_does_not_exist_fails_the_run() {
    let mut b = Build::new();
    let program = b.text("/nowhere/verifier");
    let score = scored(&mut b, VerifierOp::Command(vec![program]), "4");
    let error = run(b.plan(score, vec![]), TableModel::new(mixed), 1).error();
    assert!(error.contains("/nowhere/verifier") && error.contains("does not start"), "{error}");
}

/// After the opening: a 0.5, b 0.3, c 0.2; after `b`, 1 0.25 and 0.75 for a.
fn labelled(tokens: &[u32]) -> [f32; 8] {
    match tokens.last() {
        Some(&B) => [0.75, 0.0, 0.0, 0.25, 0.0, 0.0, 0.0, 0.0],
        _ => [0.5, 0.3, 0.2, 0.0, 0.0, 0.0, 0.0, 0.0],
    }
}

fn chosen(b: &mut Build, labels: &[&str]) -> Var {
    let (model, ctx) = (b.model(), b.prompt("a"));
    let labels: Vec<Var> = labels.iter().map(|l| b.text(l)).collect();
    let labels = b.prim(Prim::List, &labels);
    b.op(Op::Choose(0, model, ctx, labels))
}

#[test]
fn choices_have_the_labels_probabilities() {
    let mut b = Build::new();
    let choice = chosen(&mut b, &["c", "b1", "ba"]);
    let (model, ctx, text) = (b.model(), b.prompt("a"), b.text("b1"));
    let logprob = b.op(Op::LogProb(1, model, ctx, text));
    let both = b.prim(Prim::Tuple, &[choice, logprob]);
    let ran = run(b.plan(both, vec![]), TableModel::new(labelled), 1);
    let Value::Tuple(parts) = ran.value() else { panic!("a tuple") };
    let (Value::Choice(choice), Value::Float(logprob)) = (&parts[0], &parts[1]) else { panic!("{parts:?}") };
    // 0.2, 0.3 × 0.25, 0.3 × 0.75 over their sum 0.5.
    for (p, expected) in choice.probabilities.iter().zip([0.4, 0.15, 0.45]) {
        assert!((p - expected).abs() < 1e-6, "{choice:?}");
    }
    assert_eq!(choice.top(), Some(2));
    assert!((logprob - (0.3f64 * 0.25).ln()).abs() < 1e-6);
    assert_eq!(ran.result.expect("runs").usage.tokens, 0);
}

#[test]
fn routes_take_the_sure_arm_or_else() {
    for (least, expected) in [(0.4, "arm"), (0.6, "else")] {
        let mut b = Build::new();
        let choice = chosen(&mut b, &["a", "b", "c"]);
        let min = b.float(least);
        let arm = b.region(0, |b, _| Some(b.text("arm")));
        let otherwise = b.region(0, |b, _| Some(b.text("else")));
        let value = b.op(Op::Route(choice, Some(min), vec![("a".into(), arm)], otherwise));
        let ran = run(b.plan(value, vec![]), TableModel::new(labelled), 1);
        assert_eq!(ran.value().to_text(), expected);
        assert_eq!(ran.count("Routed"), 1);
    }
}

#[test]
fn loops_carry_break_and_skip() {
    let mut b = Build::new();
    let (lo, hi, zero, limit) = (b.int(0), b.int(10), b.int(0), b.int(10));
    let list = b.prim(Prim::Range, &[lo, hi]);
    let body = b.region(2, |b, p| {
        let next = b.prim(Prim::Add, &[p[0], p[1]]);
        let over = b.prim(Prim::Gt, &[next, limit]);
        let out = b.region(0, |b, _| {
            b.op(Op::Break(Some(next)));
            None
        });
        let go = b.region(0, |_, _| Some(next));
        Some(b.op(Op::If(over, out, go)))
    });
    let value = b.op(Op::For(list, Pat::Any, Some(zero), body, 10));
    assert_eq!(run(b.plan(value, vec![]), TableModel::new(mixed), 1).value(), &Value::Int(15));
    let mut b = Build::new();
    let (one, zero) = (b.int(1), b.int(0));
    let value = b.prim(Prim::Div, &[one, zero]);
    let failure = run(b.plan(value, vec![]), TableModel::new(mixed), 1).result.expect_err("fails");
    assert_eq!((failure.to_string().as_str(), failure.at), ("division by zero", (1, 2)));
}

#[test]
fn patterns_are_enforced_while_decoding() {
    let mut b = Build::new();
    let list = b.sample(Some(6), 30, |_, g| g.format = Format::Regex("[ab]{3}1\\n?".into()));
    let ran = run(b.plan(list, vec![]), TableModel::new(mixed_all), 2);
    let shape = regex::Regex::new("^[ab]{3}1\n?$").expect("a pattern");
    let Value::List(samples) = ran.value() else { panic!("a list") };
    for sample in samples.iter() {
        let Value::Sample(s) = sample else { panic!("a sample") };
        assert!(shape.is_match(&s.text), "{:?}", s.text);
        assert_eq!(s.value, Value::Text(s.text.clone()));
        assert!(matches!(s.reason, EndReason::End | EndReason::Format), "{:?}", s.reason);
    }
    let distinct: std::collections::BTreeSet<String> = ran.texts().into_iter().collect();
    assert!(distinct.len() > 2);
}

fn mixed_all(_: &[u32]) -> [f32; 8] {
    [0.2, 0.2, 0.2, 0.1, 0.1, 0.1, 0.1, 0.0]
}

/// A model over bytes that says anything, with the end token as 256.
struct Noise {
    info: ModelInfo,
    sequences: std::collections::BTreeMap<u32, usize>,
    next: u32,
}

struct Bytes;

impl TextCodec for Bytes {
    fn encode_chat(&self, messages: &[ChatMessage<'_>], _: bool) -> Result<Vec<u32>, String> {
        Ok(messages.iter().flat_map(|m| m.text.bytes().map(u32::from)).chain([256]).collect())
    }

    fn encode(&self, text: &str) -> Result<Vec<u32>, String> {
        Ok(text.bytes().map(u32::from).collect())
    }

    fn token_bytes(&self, id: u32) -> Cow<'_, [u8]> {
        Cow::Owned(u8::try_from(id).map_or(Vec::new(), |b| vec![b]))
    }

    fn end_tokens(&self) -> &[u32] {
        &[256]
    }

    fn vocabulary(&self) -> usize {
        257
    }
}

impl LanguageModel for Noise {
    fn info(&self) -> &ModelInfo {
        &self.info
    }

    fn create(&mut self) -> Result<SeqId, Error> {
        self.next += 1;
        self.sequences.insert(self.next, 0);
        Ok(SeqId(self.next))
    }

    fn fork(&mut self, seq: SeqId) -> Result<SeqId, Error> {
        self.next += 1;
        self.sequences.insert(self.next, self.sequences[&seq.0]);
        Ok(SeqId(self.next))
    }

    fn len(&self, seq: SeqId) -> usize {
        self.sequences[&seq.0]
    }

    fn truncate(&mut self, seq: SeqId, len: usize) -> Result<(), Error> {
        self.sequences.insert(seq.0, len);
        Ok(())
    }

    fn free(&mut self, seq: SeqId) {
        self.sequences.remove(&seq.0);
    }

    fn step(&mut self, appends: &[Append<'_>], sink: &mut dyn FnMut(usize, usize, Row<'_>)) -> Result<(), Error> {
        for (i, append) in appends.iter().enumerate() {
            *self.sequences.get_mut(&append.seq.0).expect("known") += append.tokens.len();
            if append.wanted != Wanted::None {
                // Closing characters are likelier, so that strings and lists end.
                let mut logits = vec![0.0f32; 257];
                for byte in *b"\"]}, " {
                    logits[byte as usize] = 3.0;
                }
                sink(i, append.tokens.len() - 1, oracle::measure(&logits));
            }
        }
        Ok(())
    }

    fn choose(&mut self, rows: &[Row<'_>], draws: &[(usize, Draw)]) -> Result<Vec<Option<Choice>>, Error> {
        Ok(oracle::choose_all(rows, draws))
    }

    fn kv_bytes(&self) -> u64 {
        0
    }
}

#[test]
fn json_is_enforced_and_typed() {
    let ty = Ty::Record(
        "Plan".into(),
        vec![
            ("level".into(), Ty::Enum("Level".into(), vec!["easy".into(), "hard".into()])),
            ("steps".into(), Ty::List(Box::new(Ty::Text), Some(3))),
            ("sure".into(), Ty::Bool),
        ],
    );
    let mut b = Build::new();
    let list = b.sample(Some(4), 400, |_, g| g.format = Format::Json(ty));
    let engine = Engine::new(b.plan(list, vec![]), &[], None).expect("a sound plan");
    let info = ModelInfo { vocab: 257, context: 4096, kv_bytes_per_token: 0, page: 16, max_rows: 64 };
    let model = Noise { info, sequences: std::collections::BTreeMap::new(), next: 0 };
    let role = RoleModel { role: "m".into(), model: Box::new(model), codec: Arc::new(Bytes) };
    let mut session = Session::new(Arc::new(engine), vec![role], &[]);
    let watch = Watch { events: &|_| {}, cancel: &AtomicBool::new(false) };
    let outcome = session.run(vec![], 5, &Options::default(), watch).expect("runs");
    let Value::List(samples) = &outcome.value else { panic!("a list") };
    for sample in samples.iter() {
        let Value::Sample(s) = sample else { panic!("a sample") };
        assert!(s.reason.is_complete(), "{s:?}");
        let Value::Record(record) = &s.value else { panic!("{:?}", s.text) };
        let (Value::Label(_), Value::List(steps)) = (&record.fields[0].1, &record.fields[1].1) else {
            panic!("{record:?}");
        };
        assert!(steps.len() <= 3);
    }
}

#[test]
fn arguments_are_checked() {
    let mut b = Build::new();
    let var = b.var();
    b.arguments.push(var);
    b.params.push(Param { name: "n".into(), ty: Ty::Int, default: Some(Const::Int(8)), range: Some((1.0, 32.0)) });
    let range = (0.0, 1.0);
    b.tunables.push(Tunable { name: "t".into(), ty: Ty::Float, value: Const::Float(0.5), range });
    let plan = b.plan(var, vec![]);
    let engine = Engine::new(plan.clone(), &[], None).expect("sound");
    let word = |name: &str, word: &str| engine.arguments(&[(name.to_owned(), word.to_owned())]);
    assert_eq!(word("n", "4").expect("in range"), [Value::Int(4)]);
    assert_eq!(engine.arguments(&[]).expect("default"), [Value::Int(8)]);
    for (name, bad, part) in [("n", "33", "from 1 to 32"), ("n", "x", "expected Int"), ("k", "1", "one of n")] {
        let error = word(name, bad).expect_err("refused").to_string();
        assert!(error.contains(part), "{error}");
    }
    assert!(Engine::new(plan.clone(), &[("t".into(), "2".into())], None).is_err());
    assert!(Engine::new(plan, &[("u".into(), "0.1".into())], None).is_err());
}

#[test]
fn a_verifier_does_not_outlive_the_deadline() {
    let mut b = Build::new();
    b.within.time = Some(0.3);
    let program = b.text("sleep 100");
    let score = scored(&mut b, VerifierOp::Command(vec![program]), "4");
    let started = std::time::Instant::now();
    let error = run(b.plan(score, vec![]), TableModel::new(mixed), 1).error();
    assert!(error.contains("budget of time"), "{error}");
    assert!(started.elapsed().as_secs_f64() < 5.0);
}

#[test]
fn engines_are_shared_and_sessions_move() {
    fn shared<T: Send + Sync>() {}
    fn moved<T: Send>() {}
    shared::<Engine>();
    moved::<Session>();
}
