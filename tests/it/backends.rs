//! The compiled tiers agree through the whole pipeline: same source, model and seed, same tokens with the same bits of their
//! log-probabilities. With lossy caches no token depends on what is cached or on the threads. The synthetic model's
//! distributions are flat enough for many different tokens.

use crate::program::inferc;
use crate::project::{ONE, SHAPE, VOTES, artifact, backends, machine, project, ready, run};
use ::inferc::engine::Ready;
use ::inferc::synthetic::{Shape, gguf};
use codegen::Backend;
use ir::artifact::Artifact;
use ir::plan::{ScoreMode, SitePlan};
use ir::schedule::{Attention, KvFormat, Numerics};
use ir::target::Isa;
use optimizer::lossy::Forced;
use runtime::value::Value as RunValue;
use serde_json::{Value, json};

const AVX2: Isa = Isa { avx2: true, avx512: false, vnni: false, amx_int8: false };
const AVX512: Isa = Isa { avx512: true, ..AVX2 };

fn tokens(source: &str, backend: Backend, isa: Option<Isa>, numerics: Numerics) -> Vec<Value> {
    let dir = project();
    let machine = machine(backend, isa, 2, numerics);
    let mut ready = ready(artifact(source, &dir.path().join("model.gguf"), &machine));
    let question = json!({ "q": "Which way is the wind blowing?" });
    (0..4)
        .map(|seed| {
            let outcome = run(&mut ready, &question, seed);
            assert!(!outcome.tokens.is_empty());
            let bits: Vec<u32> = outcome.logprobs.iter().map(|p| p.to_bits()).collect();
            json!([outcome.tokens, bits, outcome.text, outcome.stop.map(|s| s.name()), outcome.usage.tokens])
        })
        .collect()
}

#[test]
fn tiers_and_instruction_sets_give_the_same_tokens() {
    let backends = backends();
    if backends.len() < 2 {
        eprintln!("skipped half: this build has {} only; add the feature portable", backends[0].name());
    }
    let forced = if runtime::device::probe::isa().avx512 { vec![AVX2, AVX512] } else { vec![AVX2] };
    let isas: Vec<Option<Isa>> = std::iter::once(None).chain(forced.into_iter().map(Some)).collect();
    let classes = [(ONE, Numerics::Int8), (ONE, Numerics::F32), (ONE, Numerics::Int8Channel), (VOTES, Numerics::Int8)];
    for (source, numerics) in classes {
        let expected = tokens(source, backends[0], None, numerics);
        assert!(expected.windows(2).any(|w| w[0] != w[1]), "the seed has no effect");
        for (backend, isa) in backends.iter().flat_map(|b| isas.iter().map(|isa| (*b, *isa))).skip(1) {
            assert_eq!(tokens(source, backend, isa, numerics), expected, "{} {isa:?} {numerics:?}", backend.name());
        }
    }
}

#[test]
fn options_choose_tier_and_instruction_set() {
    let dir = project();
    let run = |more: &[&str]| {
        let args = [&["run", "one.infer", "--seed", "5", "--format", "json"], more, &["--", "--q", "Hello"]].concat();
        inferc(dir.path(), &args).code(0).json()["tokens"].clone()
    };
    let expected = run(&[]);
    assert_eq!(run(&["--isa", "avx2"]), expected);
    if runtime::device::probe::isa().amx_int8 {
        assert_eq!(run(&["--isa", "amx-int8"]), expected);
    } else {
        let args = ["run", "one.infer", "--isa", "amx-int8", "--", "--q", "Hello"];
        inferc(dir.path(), &args).code(2).says(&["--isa asks for CPU features that this CPU lacks", "amx_int8: false"]);
    }
    for backend in [Backend::Llvm, Backend::Cranelift] {
        if backend.available() {
            assert_eq!(run(&["--backend", backend.name(), "--no-cache"]), expected);
        } else {
            let args = ["run", "one.infer", "--backend", backend.name(), "--", "--q", "Hello"];
            inferc(dir.path(), &args).code(2).says(&["this build has no", "feature"]);
        }
    }
}

/// A generation, the same again, and one that continues it.
const EXTENDED: &str = r#"model base : Generator needs logits;

prompt ask(q: Text) {
    user "${q}"
}

strategy extended(q: Text) -> [Sample<Text>; 3]
within { tokens: 1ktok }
allow { sparse_attention: 50%, kv_quant: int8 }
{
    let c = ask(q);
    let first = gen(base, c, max: 24tok, temp: 0.0);
    let again = gen(base, c, max: 24tok, temp: 0.0);
    let more = gen(base, c.add(first), max: 12tok, temp: 0.0);
    [first, again, more]
}
"#;

/// Texts of one, two and three tokens.
const SCORED: &str = r#"model base : Generator needs logits;

prompt ask(q: Text) {
    user "${q}"
}

strategy scored(q: Text) -> [Float; 3]
within { tokens: 1ktok }
allow { sparse_attention: 50%, kv_quant: int8 }
{
    let c = ask(q);
    [logprob(base, c, "x"), logprob(base, c, "xy"), logprob(base, c, "xyz")]
}
"#;

/// How what was generated goes on.
const CONTINUED: &str = r#"model base : Generator needs logits;

prompt ask(q: Text) {
    user "${q}"
}

strategy continued(q: Text) -> Choice
within { tokens: 1ktok }
allow { sparse_attention: 50%, kv_quant: int8 }
{
    let c = ask(q);
    let s = gen(base, c, max: 40tok, temp: 0.0);
    choose(base, c.add(s), ["x", "xy", "xyz"])
}
"#;

/// The synthetic model with two layers that attend to a part of the context, in f32: rounded activations would hide how little
/// its keys differ.
struct Lossy {
    dir: tempfile::TempDir,
}

impl Lossy {
    fn new() -> Self {
        let dir = tempfile::tempdir().expect("a temporary folder");
        std::fs::write(dir.path().join("model.gguf"), gguf(Shape { layers: 4, ..SHAPE })).expect("written");
        Self { dir }
    }

    fn artifact(&self, source: &str, threads: u32, (kv, attention): (KvFormat, Attention)) -> Artifact {
        let mut machine = machine(backends()[0], None, threads, Numerics::F32);
        machine.forced = Forced { kv: Some(kv), attention: Some(attention) };
        artifact(source, &self.dir.path().join("model.gguf"), &machine)
    }

    fn ready(&self, source: &str, threads: u32, way: (KvFormat, Attention)) -> Ready {
        ready(self.artifact(source, threads, way))
    }
}

/// Attention to a part over both kinds of keys.
const WAYS: [(KvFormat, fn() -> Attention); 2] =
    [(KvFormat::Int8, || Attention::sparse(4)), (KvFormat::F16, || Attention::window(4))];

/// A question of more tokens than any budget of these tests; a token is a byte at least.
fn question(kind: &str) -> Value {
    json!({ "q": format!("Which {kind} is blowing, and why? ").repeat(12) })
}

/// Tokens and bits of log-probabilities of a list of samples.
fn exact(value: &RunValue) -> Vec<(Vec<u32>, Vec<u32>)> {
    let RunValue::List(items) = value else { panic!("a list: {value:?}") };
    let of = |v: &RunValue| {
        let RunValue::Sample(s) = v else { panic!("a sample: {v:?}") };
        (s.tokens.to_vec(), s.logprobs.iter().map(|x| x.to_bits()).collect())
    };
    items.iter().map(of).collect()
}

#[test]
fn lossy_caches_give_the_same_tokens_whatever_ran_before() {
    let lossy = Lossy::new();
    for (kv, attention) in WAYS {
        let way = (kv, attention());
        let dense = exact(&run(&mut lossy.ready(EXTENDED, 2, (kv, Attention::Dense)), &question("wind"), 1).value);
        let mut ready = lossy.ready(EXTENDED, 2, way);
        let first = exact(&run(&mut ready, &question("wind"), 1).value);
        assert_eq!(first[0], first[1], "{way:?}: the same prompt again");
        assert_ne!(first, dense, "{way:?}: nothing was left out");
        assert_eq!(first[0].1[0], dense[0].1[0], "{way:?}: prompts attend to everything");
        let other = exact(&run(&mut ready, &question("storm"), 1).value);
        assert_eq!(exact(&run(&mut ready, &question("wind"), 1).value), first, "{way:?}: after others");
        ready.session.forget();
        assert_eq!(exact(&run(&mut ready, &question("storm"), 1).value), other, "{way:?}: before others");
        let mut alone = lossy.ready(EXTENDED, 1, way);
        assert_eq!(exact(&run(&mut alone, &question("storm"), 1).value), other, "{way:?}: one thread");
    }
}

#[test]
fn scored_texts_attend_to_everything_whatever_is_cached() {
    let lossy = Lossy::new();
    for (kv, attention) in WAYS {
        let way = (kv, attention());
        let scores = |attention| run(&mut lossy.ready(SCORED, 2, (kv, attention)), &question("wind"), 1).value;
        assert_eq!(scores(way.1), scores(Attention::Dense), "{way:?}");
        let verdict = |mode: ScoreMode| {
            let mut artifact = lossy.artifact(CONTINUED, 2, way);
            for site in &mut artifact.plan.sites {
                if let SitePlan::Score { mode: planned, .. } = site {
                    *planned = mode;
                }
            }
            let outcome = run(&mut ready(artifact), &question("wind"), 1);
            let RunValue::Choice(choice) = &outcome.value else { panic!("a choice: {:?}", outcome.value) };
            let reused: Vec<u64> = outcome.metrics.sites.iter().map(|s| s.reused_tokens).collect();
            (choice.probabilities.iter().map(|p| p.to_bits()).collect::<Vec<_>>(), reused)
        };
        let (fresh, none) = verdict(ScoreMode::Fresh);
        let (fused, some) = verdict(ScoreMode::Fused);
        assert_eq!(fused, fresh, "{way:?}");
        assert!(none[1] == 0 && some[1] > 64, "{way:?}: {none:?}, {some:?}");
    }
}
