//! The compiled tiers agree through the whole pipeline: same source, model and seed, same tokens with the same bits of their
//! log-probabilities. The synthetic model's distributions are flat enough for many different tokens.

use crate::program::inferc;
use crate::project::{ONE, VOTES, artifact, backends, machine, project, ready, run};
use codegen::Backend;
use ir::schedule::Numerics;
use ir::target::Isa;
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
