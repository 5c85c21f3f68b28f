//! The small real model through the whole pipeline, against reference outputs: prompt ids, greedy tokens, logits,
//! perplexity; and what a seed promises. Kernels and the forward pass alone are tested where they live.
//!
//! The model is brought by `scripts/fetch-models`; the reference outputs are named by `INFERC_REFERENCE`. Where one is
//! absent, a test says so and passes.

use crate::program::inferc;
use crate::project::{artifact, backends, machine, ready, root, run};
use ::inferc::engine::{Codec, Ready};
use ::inferc::machine::Machine;
use ir::schedule::Numerics;
use ir::strategy::Speaker;
use runtime::exec::{ChatMessage, TextCodec as _};
use runtime::forward::LocalModel;
use runtime::gguf::Gguf;
use runtime::model::{Append, LanguageModel, SeqId, Wanted};
use runtime::value::{Sample, Value as RunValue};
use serde_json::{Value, json};
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// Greedy decoding of a question under the model's own system prompt.
const GREEDY: &str = r#"model base : Generator;

prompt ask(q: Text) {
    user "${q}"
}

strategy greedy(q: Text) -> Sample<Text>
within { tokens: 64tok }
{
    gen(base, ask(q), max: 64tok, temp: 0.0)
}
"#;

/// All samples of one site.
const SAMPLES: &str = r#"model base : Generator;

prompt ask(q: Text) {
    user "${q}"
}

strategy samples(q: Text, n: Int in 1..=6) -> [Sample<Text>; 6]
within { tokens: 1ktok }
{
    sample(base, ask(q), n: n, max: 24tok, temp: 0.8, top_p: 0.95)
}
"#;

/// A tree of samples.
const TREE: &str = r#"model base : Generator needs logits;

prompt ask(q: Text) {
    user "${q}"
}

strategy tree(q: Text) -> [Sample<Text>; 6]
within { tokens: 1ktok }
{
    sample(base, ask(q), n: 1, live: 6, max: 40tok) on {
        token(d) when d.entropy > 1.5 => branch(2);
    }
}
"#;

const QUESTION: &str = "Write a haiku about the sea.";

/// Two teams of threads on the same cores would wait for each other: one model at a time.
fn alone() -> MutexGuard<'static, ()> {
    static ONE: Mutex<()> = Mutex::new(());
    ONE.lock().unwrap_or_else(PoisonError::into_inner)
}

fn model() -> Option<PathBuf> {
    let folder = std::env::var_os("INFERC_MODELS").map_or_else(|| root("models"), PathBuf::from);
    let path = folder.join("smollm2-135m-instruct-q4_1.gguf");
    if !path.is_file() {
        eprintln!("skipped: no {}; run scripts/fetch-models models smollm2", path.display());
        return None;
    }
    Some(path)
}

fn reference(name: &str) -> Option<String> {
    let folder = std::env::var_os("INFERC_REFERENCE").map_or_else(|| root("../shared/reference"), PathBuf::from);
    let path = folder.join(name);
    let text = std::fs::read_to_string(&path).ok();
    if text.is_none() {
        eprintln!("skipped: no {}; point INFERC_REFERENCE at the reference outputs", path.display());
    }
    text
}

fn prompts(name: &str) -> Option<Vec<Value>> {
    let document: Value = serde_json::from_str(&reference(name)?).expect("the reference is JSON");
    Some(document["prompts"].as_array().expect("prompts").clone())
}

fn ids(list: &Value) -> Vec<u32> {
    list.as_array().expect("tokens").iter().map(|t| u32::try_from(t.as_u64().expect("a token")).expect("u32")).collect()
}

fn here(numerics: Numerics, threads: u32) -> Machine {
    machine(backends()[0], None, threads, numerics)
}

fn engine(source: &str, path: &std::path::Path, machine: &Machine) -> Ready {
    ready(artifact(source, path, machine))
}

fn samples(value: &RunValue) -> Vec<Arc<Sample>> {
    let RunValue::List(items) = value else { panic!("not a list: {value:?}") };
    let mut samples: Vec<Arc<Sample>> = items
        .iter()
        .map(|v| if let RunValue::Sample(s) = v { s.clone() } else { panic!("no sample: {v:?}") })
        .collect();
    samples.sort_by_key(|s| s.index);
    samples
}

#[test]
fn prompt_ids_are_those_of_the_reference() {
    let Some(path) = model() else { return };
    let codec = Codec::from_gguf(&Gguf::open(&path).expect("a model")).expect("a tokenizer");
    let mut count = 0;
    for file in ["smollm2-135m.json", "smollm2-135m.f32.json"] {
        for prompt in prompts(file).unwrap_or_default() {
            let user = prompt["user"].as_str().expect("a question");
            let message = ChatMessage { speaker: Speaker::User, text: user };
            let ours = codec.encode_chat(&[message], true).expect("encodes");
            assert_eq!(ours, ids(&prompt["prompt_tokens"]), "{user}");
            count += 1;
        }
    }
    eprintln!("{count} prompts");
}

/// Greedy tokens equal the reference until its margin between the first two tokens is at most `margin`.
fn follows(prompts: &[Value], ready: &mut Ready, key: [&str; 2], margin: f64) {
    let (mut reached, mut all) = (0, 0);
    for prompt in prompts {
        let (expected, margins) = (ids(&prompt[key[0]]), prompt[key[1]].as_array().expect("margins"));
        let outcome = run(ready, &json!({ "q": prompt["user"] }), 0);
        all += expected.len();
        for (i, token) in expected.iter().enumerate() {
            let gap = margins[i].as_f64().expect("a number");
            if outcome.tokens.get(i) != Some(token) {
                let ours = outcome.tokens.get(i);
                assert!(gap <= margin, "{}: token {i} is {ours:?} for {token}, margin {gap}", prompt["user"]);
                break;
            }
            reached += 1;
        }
    }
    eprintln!("{reached} of {all} tokens before the first near-tie");
    assert!(reached > 0);
}

#[test]
fn greedy_tokens_follow_the_reference() {
    let (Some(path), Some(f32_prompts)) = (model(), prompts("smollm2-135m.f32.json")) else { return };
    let _alone = alone();
    let mut ready = engine(GREEDY, &path, &here(Numerics::Int8, 2));
    follows(&f32_prompts, &mut ready, ["f32_greedy_tokens", "f32_margins"], 0.5);
    // Greedy decoding ignores the seed.
    let question = json!({ "q": QUESTION });
    let first = run(&mut ready, &question, 1).tokens;
    assert_eq!(run(&mut ready, &question, 2).tokens, first);
}

#[test]
fn greedy_tokens_in_f32_follow_the_reference() {
    let (Some(path), Some(prompts)) = (model(), prompts("smollm2-135m.f32.json")) else { return };
    let _alone = alone();
    let mut ready = engine(GREEDY, &path, &here(Numerics::F32, 2));
    follows(&prompts[..2], &mut ready, ["f32_greedy_tokens", "f32_margins"], 0.15);
}

/// A model without a strategy.
fn local(path: &std::path::Path, numerics: Numerics) -> LocalModel {
    ::inferc::measure::load(path, &here(numerics, 2), 2).expect("it loads").0
}

/// Log-probability of each next token of a text after the first `from`, token by token as a decoder would where
/// `single`, else in one step.
fn logprobs(model: &mut LocalModel, tokens: &[u32], from: usize) -> Vec<f32> {
    let seq: SeqId = model.create().expect("a sequence");
    let mut out = Vec::new();
    if from > 0 {
        let head = Append { seq, tokens: &tokens[..from], wanted: Wanted::None, decoded: false };
        model.step(&[head], &mut |_, _, _| {}).expect("a step");
    }
    let rest = &tokens[from..tokens.len() - 1];
    model
        .step(&[Append { seq, tokens: rest, wanted: Wanted::All, decoded: false }], &mut |_, at, row| {
            out.push(row.logits[tokens[from + at + 1] as usize] - row.log_z);
        })
        .expect("a step");
    model.free(seq);
    out
}

#[test]
fn first_logits_in_f32_are_those_of_the_reference() {
    let (Some(path), Some(prompts)) = (model(), prompts("smollm2-135m.f32.json")) else { return };
    let _alone = alone();
    let mut model = local(&path, Numerics::F32);
    for prompt in &prompts[..2] {
        let tokens = ids(&prompt["prompt_tokens"]);
        let seq = model.create().expect("a sequence");
        let append = Append { seq, tokens: &tokens, wanted: Wanted::Last, decoded: false };
        model
            .step(&[append], &mut |_, _, row| {
                for top in prompt["f32_top5_first"].as_array().expect("five tokens") {
                    let id = usize::try_from(top["id"].as_u64().expect("a token")).expect("usize");
                    let off = (f64::from(row.logits[id]) - top["logit"].as_f64().expect("a number")).abs();
                    assert!(off <= 0.1, "{}: logit of {id} is off by {off}", prompt["user"]);
                }
            })
            .expect("a step");
        model.free(seq);
    }
}

/// Perplexity of the reference text, 512 tokens of context, the second half of each of 3 chunks scored.
fn perplexity_within_one_percent(numerics: Numerics) {
    const CONTEXT: usize = 512;
    const EXPECTED: f64 = 32.987;
    let (Some(path), Some(text)) = (model(), reference("perplexity.txt")) else { return };
    let _alone = alone();
    let codec = Codec::from_gguf(&Gguf::open(&path).expect("a model")).expect("a tokenizer");
    let tokens = codec.encode(&text).expect("encodes");
    assert!(tokens.len() >= 3 * CONTEXT, "{} tokens", tokens.len());
    let mut model = local(&path, numerics);
    let (mut sum, mut count) = (0.0, 0);
    for chunk in tokens.chunks_exact(CONTEXT).take(3) {
        let scored = logprobs(&mut model, chunk, CONTEXT / 2);
        sum -= scored.iter().map(|p| f64::from(*p)).sum::<f64>();
        count += scored.len();
    }
    let perplexity = (sum / f64::from(u32::try_from(count).expect("hundreds"))).exp();
    eprintln!("{numerics:?}: perplexity {perplexity:.3} over {count} tokens, reference {EXPECTED}");
    assert!((perplexity / EXPECTED - 1.0).abs() <= 0.01, "perplexity {perplexity}");
}

#[test]
fn perplexity_is_within_one_percent() {
    perplexity_within_one_percent(Numerics::Int8);
}

#[test]
fn perplexity_in_int8_per_channel_is_within_one_percent() {
    perplexity_within_one_percent(Numerics::Int8Channel);
}

#[test]
fn greedy_tokens_in_int8_per_channel_follow_the_reference() {
    let (Some(path), Some(prompts)) = (model(), prompts("smollm2-135m.f32.json")) else { return };
    let _alone = alone();
    let mut ready = engine(GREEDY, &path, &here(Numerics::Int8Channel, 2));
    follows(&prompts, &mut ready, ["f32_greedy_tokens", "f32_margins"], 0.5);
}

#[test]
fn a_seed_gives_the_same_tokens_whatever_runs_beside_them() {
    let Some(path) = model() else { return };
    let _alone = alone();
    let mut ready_two = engine(SAMPLES, &path, &here(Numerics::Int8, 2));
    let arguments = |n: u32| json!({ "q": QUESTION, "n": n });
    let six = samples(&run(&mut ready_two, &arguments(6), 11).value);
    assert_eq!(six.len(), 6);
    assert!(six.windows(2).any(|w| w[0].tokens != w[1].tokens), "all samples are equal");
    // Fewer neighbours, a prompt that is cached already, a fresh start: the same bits.
    for n in [1_u32, 3, 6] {
        for (ours, expected) in samples(&run(&mut ready_two, &arguments(n), 11).value).iter().zip(&six) {
            assert_eq!((&ours.tokens, bits(&ours.logprobs)), (&expected.tokens, bits(&expected.logprobs)), "n = {n}");
        }
    }
    assert!(samples(&run(&mut ready_two, &arguments(6), 12).value).iter().zip(&six).any(|(a, b)| a.tokens != b.tokens));
    drop(ready_two);
    let mut ready_one = engine(SAMPLES, &path, &here(Numerics::Int8, 1));
    for (ours, expected) in samples(&run(&mut ready_one, &arguments(6), 11).value).iter().zip(&six) {
        assert_eq!((&ours.tokens, bits(&ours.logprobs)), (&expected.tokens, bits(&expected.logprobs)), "one thread");
    }
}

fn bits(numbers: &[f32]) -> Vec<u32> {
    numbers.iter().map(|x| x.to_bits()).collect()
}

/// Every branch of a tree, decoded alone in a model of its own: the same log-probabilities to the last bit.
#[test]
fn a_branch_equals_its_tokens_alone() {
    let Some(path) = model() else { return };
    let _alone = alone();
    let outcome = run(&mut engine(TREE, &path, &here(Numerics::Int8, 2)), &json!({ "q": QUESTION }), 4);
    let branches = samples(&outcome.value);
    assert!(branches.len() > 2, "the tree has {} branches", branches.len());
    let mut model = local(&path, Numerics::Int8);
    for branch in &branches {
        let whole: Vec<u32> = branch.prompt.iter().chain(branch.tokens.iter()).copied().collect();
        let expected = logprobs(&mut model, &whole, branch.prompt.len() - 1);
        assert_eq!(bits(&branch.logprobs), bits(&expected), "branch {}", branch.index);
    }
    assert_eq!(model.kv_bytes(), 0);
}

/// A plan file gives what its source gives.
#[test]
fn a_plan_of_the_real_model_runs_like_its_source() {
    let Some(path) = model() else { return };
    let _alone = alone();
    let dir = tempfile::tempdir().expect("a temporary folder");
    std::fs::write(dir.path().join("greedy.infer"), GREEDY).expect("written");
    let bound = format!("base={}", path.display());
    inferc(dir.path(), &["compile", "greedy.infer", "--model", &bound, "-o", "x.plan"]).code(0);
    let question = ["--format", "json", "--seed", "7", "--", "--q", QUESTION];
    let from_plan = inferc(dir.path(), &[&["run", "x.plan"], &question[..]].concat()).code(0).json();
    let from_source =
        inferc(dir.path(), &[&["run", "greedy.infer", "--model", &bound], &question[..]].concat()).code(0).json();
    for key in ["tokens", "logprobs", "text", "value", "stop", "seed", "strategy"] {
        assert_eq!(from_plan[key], from_source[key], "{key}");
    }
    assert!(from_plan["measured"]["seconds"].as_f64().is_some_and(|s| s > 0.0));
    assert!(from_plan["predicted"]["seconds"].as_f64().is_some_and(|s| s > 0.0));
}

/// A pass key in the middle of 2048 tokens: found with all pages and with a few that bounds choose, lost with the last ones
/// alone. That the window must fail is what gives the question its power.
#[test]
fn a_pass_key_is_found_by_chosen_pages_and_not_by_a_window() {
    use ::inferc::fidelity::{EXACT, Extent, Fidelity, measure};
    use ir::schedule::{Attention, KvFormat};
    let Some(path) = model() else { return };
    let _alone = alone();
    let text = std::fs::read_to_string(root("ARCHITECTURE.md")).expect("a text of more than 2048 tokens");
    let (chosen, last) = ((KvFormat::F16, Attention::sparse(32)), (KvFormat::F16, Attention::window(32)));
    let extent = Extent { predict: 4, needles: 1 };
    let mut seen: Vec<Fidelity> = Vec::new();
    let mut keep = |f: &Fidelity| seen.push(f.clone());
    measure(&path, &here(Numerics::Int8, 2), &text, &[2048], &[chosen, last], extent, &mut keep).expect("measures");
    let of = |way| seen.iter().find(|f| f.way == way).expect("every way was measured");
    for way in [EXACT, chosen] {
        assert_eq!(of(way).found, 1, "{:?}, {} loses the key", way.0, way.1);
    }
    assert_eq!(of(last).found, 0, "a window of 512 tokens cannot see a key 1000 tokens back");
    assert!(of(chosen).kl.0 > 0.0, "pages were left out");
}
