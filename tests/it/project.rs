//! A folder with a small synthetic model, a manifest and sources; and the library's way from a source to a session.

use ::inferc::cache::Cache;
use ::inferc::engine::{Ready, Shelf};
use ::inferc::machine::{Machine, Wishes};
use ::inferc::prepare::{self, Prepared};
use ::inferc::synthetic::{Shape, gguf};
use ::inferc::{inputs, manifest::Manifest};
use codegen::Backend;
use ir::artifact::Artifact;
use ir::schedule::Numerics;
use ir::target::Isa;
use ir::tensor::DType;
use runtime::exec::{Options, Watch};
use runtime::session::Outcome;
use serde_json::Value;
use std::path::{Path, PathBuf};
use std::sync::atomic::AtomicBool;
use std::sync::{Arc, OnceLock};

/// Several samples and a vote, with everything a plan can hold: a parameter with a range, a tunable, token and set
/// rules, a top-up.
pub(crate) const VOTES: &str = r#"model base : Generator needs logits;
tunable calm: Float = 3.0 in 0.0..9.0;

prompt ask(q: Text) {
    user "${q}"
}

strategy votes(q: Text, n: Int = 4 in 1..=8) -> Vote<Text>
within { tokens: 1ktok }
{
    let tries = sample(base, ask(q), n: n, live: 8, max: 12tok, temp: 0.9) on {
        token(d) when d.entropy > calm => branch(2);
        set(d) when d.len >= 6 => stop;
    };
    let more = sample(base, ask(q), n: 2, max: 8tok, temp: 0.5);
    vote(tries + more, by: |s| s.text)
}
"#;

/// One generation.
pub(crate) const ONE: &str = r#"model base : Generator;

prompt ask(q: Text) {
    user "${q}"
}

strategy one(q: Text) -> Sample<Text>
within { tokens: 64tok }
{
    gen(base, ask(q), max: 16tok, temp: 0.8)
}
"#;

/// The shape of the synthetic model.
pub(crate) const SHAPE: Shape =
    Shape { layers: 2, hidden: 256, heads: 4, kv_heads: 2, ffn: 512, vocab: 512, context: 1024, dtype: DType::Q4_1 };

/// A new folder with `model.gguf`, `infer.toml`, `votes.infer` and `one.infer`.
pub(crate) fn project() -> tempfile::TempDir {
    static IMAGE: OnceLock<Vec<u8>> = OnceLock::new();
    let dir = tempfile::tempdir().expect("a temporary folder");
    let put =
        |name: &str, bytes: &[u8]| std::fs::write(dir.path().join(name), bytes).expect("the folder can be written");
    put("model.gguf", IMAGE.get_or_init(|| gguf(SHAPE)));
    put("infer.toml", b"edition = \"2026\"\n\n[models.base]\ngguf = \"model.gguf\"\n");
    put("votes.infer", VOTES.as_bytes());
    put("one.infer", ONE.as_bytes());
    dir
}

/// A file beside the project's manifest: models, examples, scripts.
pub(crate) fn root(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join(path)
}

/// The machine to compile for: this CPU by its built-in class, so that no stored profile has a say.
pub(crate) fn machine(backend: Backend, isa: Option<Isa>, threads: u32, numerics: Numerics) -> Machine {
    let host = runtime::device::probe::isa();
    let class = if host.avx512 { "cpu-avx512" } else { "cpu-avx2" };
    let wishes = Wishes {
        target: Some(class.to_owned()),
        threads: Some(threads),
        backend: Some(backend),
        isa: Some(isa.unwrap_or(host)),
        numerics: Some(numerics),
        forced: optimizer::lossy::Forced::default(),
        cache: false,
    };
    let mut machine = Machine::new(&wishes, None).expect("this machine");
    machine.cache = Some(Cache::at(crate::program::cache()).expect("the cache of the tests"));
    machine
}

/// The compiled back ends of this build.
pub(crate) fn backends() -> Vec<Backend> {
    let all: Vec<Backend> = [Backend::Llvm, Backend::Cranelift].into_iter().filter(|b| b.available()).collect();
    assert!(!all.is_empty(), "this build generates no machine code: add a feature (llvm22, llvm19 or portable)");
    all
}

/// Compiles the only strategy of a source with role `base` bound to a file.
pub(crate) fn artifact(source: &str, model: &Path, machine: &Machine) -> Artifact {
    let checked = inputs::check_text("test.infer", source.to_owned(), Path::new("."));
    assert!(checked.is_clean(), "{:?}", checked.diagnostics);
    let strategy = prepare::strategy(&checked, None).expect("one strategy").expect("it can be executed");
    let bound = [format!("base={}", model.display())];
    let prepared = Prepared::new(strategy, &Manifest::default(), &bound, &[]).expect("the model fits");
    prepared.artifact(machine, optimizer::ASSUMPTIONS, &checked).expect("it compiles")
}

/// Loads an artifact.
pub(crate) fn ready(artifact: Artifact) -> Ready {
    Shelf::default().load(artifact, &[], &[], &Arc::new(AtomicBool::new(false)), &mut |_| {}).expect("it loads")
}

/// Runs a request.
pub(crate) fn run(ready: &mut Ready, arguments: &Value, seed: u64) -> Outcome {
    let values = ready.engine.arguments_json(arguments.as_object().expect("an object")).expect("arguments that fit");
    let watch = Watch { events: &|_| {}, cancel: &AtomicBool::new(false) };
    ready.session.run(values, seed, &Options::default(), watch).expect("it runs")
}
