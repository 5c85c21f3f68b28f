//! The forward pass on tiny models that the tests write themselves: random histories of forks, appends and truncations
//! give the bits of every sequence computed alone, also beside a sequence of NaNs; sampled generations are the same
//! tokens for any threads, neighbours and back ends. Needs a compiled back end, no files.

mod files_writer;
mod forward_setup;
mod oracle;

use codegen::Backend;
use files_writer::{Writer, ggml_code};
use forward_setup::{Kept, backend, compile, kept, model, rows, schedule, step, step_placed};
use inferc_runtime::error::Error;
use inferc_runtime::forward::{Loaded, LocalModel};
use inferc_runtime::gguf::Gguf;
use inferc_runtime::model::{Append, LanguageModel, OwnedRow, Row, SeqId, Wanted};
use inferc_runtime::sample::{Choice, Draw, Key, Sampling, philox};
use ir::plan::PrefixMode;
use ir::schedule::{Attention, KvFormat, ModelSchedule};
use ir::tensor::DType;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

const VOCAB: u32 = 96;
/// Its embedding is NaN.
const POISON: u32 = 7;

/// Random numbers from a counter.
struct Random(u32);

impl Random {
    fn next(&mut self) -> u32 {
        self.0 += 1;
        philox([self.0, 0, 0, 0], [5, 17])[0]
    }

    fn below(&mut self, n: usize) -> usize {
        self.next() as usize % n
    }

    fn tokens(&mut self, n: usize) -> Vec<u32> {
        (0..n).map(|_| 10 + self.next() % (VOCAB - 10)).collect()
    }
}

/// A model file of two layers; `arch` is `llama` or `qwen2`.
fn tiny(arch: &str) -> Gguf {
    let (hidden, heads, kv_heads, dim, ffn) = (128_u64, 4_u64, 2_u64, 32_u64, 192_u64);
    let mut random = Random(0);
    let mut values = |n: u64, scale: f32| -> Vec<f32> {
        (0..n).map(|_| (random.next() as f32 / u32::MAX as f32 - 0.5) * 2.0 * scale).collect()
    };
    let f32s = |v: &[f32]| v.iter().flat_map(|x| x.to_le_bytes()).collect::<Vec<_>>();
    let key = |k: &str| format!("{arch}.{k}");
    let names: Vec<String> = (0..VOCAB).map(|i| format!("t{i}")).collect();
    let mut w = Writer::new()
        .str("general.architecture", arch)
        .strings("tokenizer.ggml.tokens", &names.iter().map(String::as_str).collect::<Vec<_>>())
        .u32(&key("block_count"), 2)
        .u32(&key("embedding_length"), hidden as u32)
        .u32(&key("attention.head_count"), heads as u32)
        .u32(&key("attention.head_count_kv"), kv_heads as u32)
        .u32(&key("feed_forward_length"), ffn as u32)
        .u32(&key("context_length"), 4096)
        .f32(&key("attention.layer_norm_rms_epsilon"), 1e-5)
        .f32(&key("rope.freq_base"), 10_000.0);
    let mut embedding = values(u64::from(VOCAB) * hidden, 1.0);
    embedding[POISON as usize * hidden as usize..][..hidden as usize].fill(f32::NAN);
    w = w.tensor("token_embd.weight", &[hidden, u64::from(VOCAB)], ggml_code(DType::F32), &f32s(&embedding));
    // Q8_0 blocks: an f16 scale, then 32 signed bytes.
    let mut matrix = |w: Writer, name: &str, k: u64, n: u64| {
        let bytes: Vec<u8> = values(k * n, 127.0)
            .chunks(32)
            .flat_map(|b| {
                let scale = half::f16::from_f32(0.0012).to_le_bytes();
                scale.into_iter().chain(b.iter().map(|x| (*x as i8) as u8)).collect::<Vec<_>>()
            })
            .collect();
        w.tensor(name, &[k, n], ggml_code(DType::Q8_0), &bytes)
    };
    w = matrix(w, "output.weight", hidden, u64::from(VOCAB));
    let ones = f32s(&vec![1.0; hidden as usize]);
    w = w.tensor("output_norm.weight", &[hidden], ggml_code(DType::F32), &ones);
    for layer in 0..2 {
        let at = |name: &str| format!("blk.{layer}.{name}");
        for norm in ["attn_norm.weight", "ffn_norm.weight"] {
            w = w.tensor(&at(norm), &[hidden], ggml_code(DType::F32), &ones);
        }
        for (name, k, n) in [
            ("attn_q.weight", hidden, heads * dim),
            ("attn_k.weight", hidden, kv_heads * dim),
            ("attn_v.weight", hidden, kv_heads * dim),
            ("attn_output.weight", heads * dim, hidden),
            ("ffn_gate.weight", hidden, ffn),
            ("ffn_up.weight", hidden, ffn),
            ("ffn_down.weight", ffn, hidden),
        ] {
            w = matrix(w, &at(name), k, n);
        }
        if arch == "qwen2" {
            for (name, n) in
                [("attn_q.bias", heads * dim), ("attn_k.bias", kv_heads * dim), ("attn_v.bias", kv_heads * dim)]
            {
                let bias: Vec<f32> = (0..n).map(|i| (i as f32 * 0.37).sin() * 0.5).collect();
                w = w.tensor(&at(name), &[n], ggml_code(DType::F32), &f32s(&bias));
            }
        }
    }
    Gguf::from_bytes("tiny", w.build()).expect("a model file")
}

const MODES: [PrefixMode; 3] = [PrefixMode::Cascade, PrefixMode::Shared, PrefixMode::Copied];

fn load(arch: &str, backend: Backend) -> Arc<Loaded> {
    let schedule = ModelSchedule { max_rows: 48, max_head_rows: 5, attend_rows: 4, row_block: 4, ..schedule() };
    compile(tiny(arch), &schedule, backend)
}

fn bits(row: &Kept) -> Vec<u32> {
    row.logits.iter().chain(&row.stats).map(|x| x.to_bits()).collect()
}

/// Tokens of which the row after the last one is wanted.
fn one(seq: SeqId, tokens: &[u32], decoded: bool) -> Append<'_> {
    Append { seq, tokens, wanted: Wanted::Last, decoded }
}

/// The last row of a history computed alone, in one append.
fn alone(plain: &mut LocalModel, tokens: &[u32]) -> Kept {
    let seq = plain.create().expect("a sequence");
    let row = step(plain, &[(seq, tokens, Wanted::Last)]).remove(0);
    plain.free(seq);
    row
}

fn random_histories(arch: &str, rounds: usize, seed: u32) {
    let Some(backend) = backend() else { return };
    let loaded = load(arch, backend);
    let mut plain = model(&loaded, 1, 400);
    let mut busy = model(&loaded, 3, 400);
    let mut random = Random(seed);
    let mut held: Vec<(SeqId, Vec<u32>)> = Vec::new();
    let prefix = random.tokens(530);
    for round in 0..rounds {
        busy.set_prefix_mode(MODES[random.below(3)]);
        // A poisoned sequence comes, takes part in the step below and leaves dirty pages behind.
        let poisoned = (round % 2 == 0).then(|| busy.create().expect("a sequence"));
        if held.len() < 6 {
            let (seq, tokens) = match random.below(held.len() + 1) {
                0 => (busy.create().expect("a sequence"), Vec::new()),
                i => (busy.fork(held[i - 1].0).expect("a fork"), held[i - 1].1.clone()),
            };
            held.push((seq, tokens));
        }
        if random.below(3) == 0 {
            let i = random.below(held.len());
            let len = random.below(held[i].1.len() + 1);
            busy.truncate(held[i].0, len).expect("it exists");
            held[i].1.truncate(len);
        }
        let mut new: Vec<Vec<u32>> = Vec::new();
        for (_, tokens) in &held {
            // Long common starts now and then, so that whole chunks are shared.
            let n = 1 + random.below(20);
            new.push(if tokens.is_empty() && random.below(2) == 0 { prefix.clone() } else { random.tokens(n) });
        }
        let poison = [11, POISON, 12, POISON];
        let mut appends: Vec<(SeqId, &[u32], Wanted)> =
            held.iter().zip(&new).map(|((seq, _), t)| (*seq, &t[..], Wanted::Last)).collect();
        let place = random.below(appends.len() + 1);
        if let Some(seq) = poisoned {
            appends.insert(place, (seq, &poison, Wanted::Last));
        }
        // Now and then every append has a mode of its own, as arms that meet have.
        let own = random.below(2) * appends.len();
        let modes: Vec<PrefixMode> = (0..own).map(|_| MODES[random.below(3)]).collect();
        let mut rows = step_placed(&mut busy, &appends, &modes);
        if let Some(seq) = poisoned {
            let row = rows.remove(place);
            assert!(!row.stats[1].is_finite(), "the poisoned row is recognised: {:?}", row.stats);
            busy.free(seq);
        }
        for (((_, tokens), new), row) in held.iter_mut().zip(new).zip(&rows) {
            tokens.extend(new);
            assert!(bits(row) == bits(&alone(&mut plain, tokens)), "{arch}, round {round}: {} tokens", tokens.len());
        }
        if held.len() == 6 || held.iter().map(|h| h.1.len()).sum::<usize>() > 2500 {
            let (seq, _) = held.swap_remove(random.below(held.len()));
            busy.free(seq);
        }
    }
    held.into_iter().for_each(|(seq, _)| busy.free(seq));
    assert_eq!((busy.kv_bytes(), plain.kv_bytes()), (0, 0));
}

#[test]
fn llama_histories() {
    random_histories("llama", 60, 1000);
}

#[test]
fn qwen2_histories() {
    random_histories("qwen2", 60, 5000);
}

#[test]
fn poison_in_a_shared_page_stays_with_its_owner() {
    let Some(backend) = backend() else { return };
    let loaded = load("llama", backend);
    let mut plain = model(&loaded, 1, 50);
    let mut model = model(&loaded, 2, 50);
    let tokens = Random(9).tokens(21);
    let parent = model.create().expect("a sequence");
    step(&mut model, &[(parent, &tokens[..20], Wanted::None)]);
    // The parent writes NaNs behind the fork's end, the fork shares the page, then both go back and on.
    step(&mut model, &[(parent, &[POISON, POISON], Wanted::None)]);
    let child = model.fork(parent).expect("a fork");
    model.truncate(child, 20).expect("it exists");
    let mut row = step(&mut model, &[(child, &tokens[20..], Wanted::Last)]).remove(0);
    assert!(bits(&row) == bits(&alone(&mut plain, &tokens)), "the fork");
    model.truncate(parent, 20).expect("it exists");
    row = step(&mut model, &[(parent, &tokens[20..], Wanted::Last)]).remove(0);
    assert!(bits(&row) == bits(&alone(&mut plain, &tokens)), "the parent");
}

/// How the sequences of the sampled generations choose: every filter, masks, greedy.
fn draw(sequence: u32, position: u32) -> Draw {
    let d = Sampling::default();
    let how = [
        Sampling { temperature: 1.0, ..d },
        Sampling { temperature: 0.7, ..d },
        Sampling { temperature: 1.4, top_p: 0.9, ..d },
        Sampling { top_k: 12, ..d },
        Sampling { temperature: 0.8, top_k: 30, top_p: 0.8, min_p: 0.02 },
        Sampling { min_p: 0.1, ..d },
        Sampling { temperature: 0.0, ..d },
    ][sequence as usize % 7];
    let uniform = Key { seed: 11, stream: 0, sequence, position, draw: 0 }.uniform();
    let some = (sequence / 7 + position).is_multiple_of(3);
    let allowed = some.then(|| Box::from([0xFFF0_0F00 | 1 << (position % 32), 0x0F0F_FF00, 0x8000_00F1]));
    Draw { how, uniform, allowed }
}

/// Generates `steps` tokens for `sequences` after a prompt; with `check`, every choice is compared with the definition.
fn sampled(model: &mut LocalModel, prompt: &[u32], sequences: &[u32], steps: u32, check: bool) -> Vec<Vec<(u32, u32)>> {
    let root = model.create().expect("a sequence");
    let mut first = None;
    model
        .step(&[Append { seq: root, tokens: prompt, wanted: Wanted::Last, decoded: false }], &mut |_, _, r| {
            first = Some(OwnedRow::of(&r))
        })
        .expect("steps");
    let first = first.expect("a row");
    let seqs: Vec<SeqId> = sequences.iter().map(|_| model.fork(root).expect("a fork")).collect();
    let draws: Vec<(usize, Draw)> = sequences.iter().map(|s| (0, draw(*s, 0))).collect();
    let choices = model.choose(&[first.row()], &draws).expect("chooses");
    let bits = |c: Option<Choice>| c.map(|c| (c.token, c.logprob.to_bits())).expect("a sound row");
    let mut all: Vec<Vec<(u32, u32)>> = choices.into_iter().map(|c| vec![bits(c)]).collect();
    for position in 1..steps {
        // What would poison a sequence is replaced by its neighbour.
        let safe = |token: u32| if token == POISON { POISON + 1 } else { token };
        let last: Vec<[u32; 1]> = all.iter().map(|t| [safe(t.last().expect("not empty").0)]).collect();
        let appends: Vec<Append<'_>> = seqs.iter().zip(&last).map(|(seq, t)| one(*seq, t, true)).collect();
        let mut rows = Vec::new();
        let mut look = |i: usize, row: Row<'_>| {
            rows.push(OwnedRow::of(&row));
            Some(draw(sequences[i], position))
        };
        let choices = model.step_and_choose(&appends, &mut look).expect("steps");
        if check {
            let draws: Vec<(usize, Draw)> = (0..).zip(sequences).map(|(i, s)| (i, draw(*s, position))).collect();
            let views: Vec<Row<'_>> = rows.iter().map(OwnedRow::row).collect();
            for ((choice, (i, draw)), row) in choices.iter().zip(&draws).zip(&views) {
                let token = choice.expect("a sound row").token;
                assert!(oracle::fits(row.logits, draw, token), "token {token} of sequence {i}: {draw:?}");
            }
            assert_eq!(choices, model.choose(&views, &draws).expect("chooses"), "rows of an earlier step");
        }
        all.iter_mut().zip(choices).for_each(|(t, c)| t.push(bits(c)));
    }
    seqs.into_iter().chain([root]).for_each(|s| model.free(s));
    all
}

#[test]
fn sampled_generations_are_the_same_tokens_everywhere() {
    let prompt = Random(77).tokens(300);
    let sequences: Vec<u32> = (0..14).collect();
    let mut expected: Option<Vec<Vec<(u32, u32)>>> = None;
    for backend in Backend::ALL.into_iter().filter(|b| b.available() && *b != Backend::Interp) {
        let loaded = load("llama", backend);
        for threads in [1, 2, 3] {
            let mut model = model(&loaded, threads, 400);
            model.set_prefix_mode(MODES[threads % 3]);
            let got = sampled(&mut model, &prompt, &sequences, 24, threads == 2);
            let expected = expected.get_or_insert_with(|| got.clone());
            assert_eq!(&got, expected, "{backend:?}, {threads} threads");
            // Alone, and beside other neighbours.
            for some in [&sequences[4..5], &sequences[9..12]] {
                let got = sampled(&mut model, &prompt, some, 24, false);
                let range = some[0] as usize..=some[some.len() - 1] as usize;
                assert_eq!(got, expected[range], "{backend:?}, {threads} threads, sequences {some:?}");
            }
            assert_eq!(model.kv_bytes(), 0);
        }
    }
}

#[test]
fn draws_of_unsound_rows_and_wrong_rows_are_refused() {
    let Some(backend) = backend() else { return };
    let loaded = load("llama", backend);
    let mut model = model(&loaded, 2, 50);
    let seqs: Vec<SeqId> = (0..3).map(|_| model.create().expect("a sequence")).collect();
    let tokens = [[12_u32], [POISON], [13]];
    let appends: Vec<Append<'_>> = seqs.iter().zip(&tokens).map(|(seq, t)| one(*seq, t, true)).collect();
    let choices = model.step_and_choose(&appends, &mut |i, _| (i < 2).then(|| draw(0, 1))).expect("steps");
    assert_eq!(choices.iter().map(Option::is_some).collect::<Vec<_>>(), [true, false, false]);
    let mut rows = Vec::new();
    model.step(&appends, &mut |_, _, row| rows.push(OwnedRow::of(&row))).expect("steps");
    let views: Vec<Row<'_>> = rows.iter().map(OwnedRow::row).collect();
    let nothing = Draw { allowed: Some(Box::from([0, 0, 0])), ..draw(0, 1) };
    let short = Draw { allowed: Some(Box::from([1 << 5])), ..draw(0, 1) };
    let choices = model.choose(&views, &[(0, nothing), (1, draw(0, 1)), (2, short)]).expect("chooses");
    assert_eq!(choices.iter().map(|c| c.map(|c| c.token)).collect::<Vec<_>>(), [None, None, Some(5)]);
    assert!(model.choose(&views, &[(3, draw(0, 1))]).is_err());
    let other = [0.0_f32; 5];
    let foreign = Row { logits: &other, ..views[0] };
    assert!(model.choose(&[foreign], &[(0, draw(0, 1))]).is_err());
}

/// Bands of rows and wide attention items: a prompt in one large step gives the bits of the same prompt in small ones, for
/// teams that divide the tiles and for one that does not.
#[test]
fn large_steps_give_the_bits_of_small_ones() {
    let Some(backend) = backend() else { return };
    for arch in ["llama", "qwen2"] {
        let large = ModelSchedule { max_rows: 512, max_head_rows: 5, attend_rows: 8, row_block: 8, ..schedule() };
        let large = compile(tiny(arch), &large, backend);
        let mut random = Random(5);
        for n in [128, 129, 300, 417] {
            let tokens = random.tokens(n);
            let want = bits(&alone(&mut model(&load(arch, backend), 1, 60), &tokens));
            for threads in 1..=5 {
                let got = bits(&alone(&mut model(&large, threads, 60), &tokens));
                assert!(got == want, "{arch}: {n} tokens on {threads} threads");
            }
        }
    }
}

/// The same model with another cache and attention.
fn load_part(kv: KvFormat, attention: Attention) -> Option<Arc<Loaded>> {
    let base = ModelSchedule { max_rows: 48, max_head_rows: 5, attend_rows: 4, row_block: 4, ..schedule() };
    Some(compile(tiny("llama"), &ModelSchedule { kv, attention, ..base }, backend()?))
}

/// Tokens of a sequence, each with whether it was decoded.
type History = Vec<(u32, bool)>;

/// The last row of a history alone: what lies between decoded tokens is given in one append, and so is the whole start that
/// attends to everything.
fn replay(plain: &mut LocalModel, history: &History) -> Kept {
    let (seq, dense) = (plain.create().expect("a sequence"), plain.dense_tokens());
    let decoded = |(i, (token, decoded)): (usize, &(u32, bool))| (*token, *decoded && i >= dense);
    let history: History = history.iter().enumerate().map(decoded).collect();
    let mut last = None;
    for part in history.chunk_by(|a, b| !a.1 && !b.1) {
        let tokens: Vec<u32> = part.iter().map(|t| t.0).collect();
        last = rows(plain, &[one(seq, &tokens, part[0].1)], &[]).pop();
    }
    plain.free(seq);
    last.expect("a history has tokens")
}

/// Decoded tokens among given ones, forks, truncations and a poisoned neighbour give the bits of the same history alone,
/// however its given tokens were appended.
fn random_decodes(kv: KvFormat, attention: Attention, rounds: usize, seed: u32) {
    let Some(loaded) = load_part(kv, attention) else { return };
    let (mut plain, mut busy) = (model(&loaded, 1, 400), model(&loaded, 3, 400));
    let mut random = Random(seed);
    let prefix = random.tokens(300);
    let mut held: Vec<(SeqId, History)> = Vec::new();
    for round in 0..rounds {
        busy.set_prefix_mode(MODES[random.below(3)]);
        let poisoned = (round % 3 == 0).then(|| busy.create().expect("a sequence"));
        if held.len() < 5 {
            held.push(match random.below(held.len() + 1) {
                0 => (busy.create().expect("a sequence"), Vec::new()),
                i => (busy.fork(held[i - 1].0).expect("a fork"), held[i - 1].1.clone()),
            });
        }
        if random.below(3) == 0 {
            let i = random.below(held.len());
            let len = held[i].1.len() - random.below(held[i].1.len().min(40) + 1);
            busy.truncate(held[i].0, len).expect("it exists");
            held[i].1.truncate(len);
        }
        for _ in 0..1 + random.below(6) {
            let new: Vec<(Vec<u32>, bool)> = held
                .iter()
                .map(|(_, history)| match random.below(8) {
                    n if history.is_empty() => (prefix[..if n < 3 { 60 } else { 300 }].to_vec(), false),
                    0 => (random.tokens(30), false),
                    n => (random.tokens(1), n > 2),
                })
                .collect();
            let poison = [11, POISON, 12];
            let mut appends: Vec<Append<'_>> =
                held.iter().zip(&new).map(|((seq, _), (t, decoded))| one(*seq, t, *decoded)).collect();
            appends.extend(poisoned.map(|seq| one(seq, &poison, false)));
            let rows = rows(&mut busy, &appends, &[]);
            for (((_, history), (new, decoded)), row) in held.iter_mut().zip(&new).zip(&rows) {
                history.extend(new.iter().map(|t| (*t, *decoded)));
                assert!(bits(row) == bits(&replay(&mut plain, history)), "{kv:?}, {attention}, round {round}");
            }
        }
        poisoned.into_iter().for_each(|seq| busy.free(seq));
        if held.len() == 5 {
            let (seq, _) = held.swap_remove(random.below(5));
            busy.free(seq);
        }
    }
    held.into_iter().for_each(|(seq, _)| busy.free(seq));
    assert_eq!((busy.kv_bytes(), plain.kv_bytes()), (0, 0));
}

#[test]
fn decodes_over_int8() {
    random_decodes(KvFormat::Int8, Attention::Dense, 10, 9000);
}

#[test]
fn decodes_over_chosen_pages() {
    let attention = Attention::Sparse { pages: 6, sinks: 1, window: 2, dense_layers: 1, top_p: 1000 };
    random_decodes(KvFormat::F16, attention, 10, 7000);
}

#[test]
fn decodes_over_chosen_pages_of_int8() {
    let attention = Attention::Sparse { pages: 18, sinks: 1, window: 1, dense_layers: 0, top_p: 1000 };
    random_decodes(KvFormat::Int8, attention, 10, 8000);
}

#[test]
fn decodes_over_trimmed_choices() {
    let attention = Attention::Sparse { pages: 17, sinks: 1, window: 1, dense_layers: 0, top_p: 700 };
    random_decodes(KvFormat::F16, attention, 6, 7100);
    random_decodes(KvFormat::Int8, attention, 4, 8100);
}

#[test]
fn decodes_over_a_window() {
    random_decodes(KvFormat::F16, Attention::Window { sinks: 1, window: 3, dense_layers: 1 }, 10, 6000);
}

/// Attention to a part, over both kinds of keys.
fn parts() -> [(KvFormat, Attention); 3] {
    let sparse = Attention::Sparse { pages: 4, sinks: 1, window: 2, dense_layers: 1, top_p: 1000 };
    let window = Attention::Window { sinks: 1, window: 3, dense_layers: 1 };
    [(KvFormat::F16, sparse), (KvFormat::Int8, sparse), (KvFormat::F16, window)]
}

/// What makes a token attend to a part is that it was decoded, not that it is appended alone.
#[test]
fn one_given_token_attends_as_the_end_of_a_longer_append() {
    // One more than whole steps of the tiny models.
    let tokens = Random(31).tokens(337);
    for (kv, attention) in parts() {
        let Some(loaded) = load_part(kv, attention) else { return };
        let mut model = model(&loaded, 2, 100);
        let whole = alone(&mut model, &tokens);
        let mut last = |decoded| {
            let seq = model.create().expect("a sequence");
            rows(&mut model, &[one(seq, &tokens[..336], false)], &[]);
            let row = rows(&mut model, &[one(seq, &tokens[336..], decoded)], &[]).remove(0);
            model.free(seq);
            row
        };
        assert!(bits(&last(false)) == bits(&whole), "{kv:?}, {attention}");
        assert!(bits(&last(true)) != bits(&whole), "{kv:?}, {attention}: nothing was left out");
    }
}

/// A step of several parts that is cancelled between them changes nothing, wherever it stood.
#[test]
fn a_step_cancelled_between_its_parts_changes_nothing() {
    let tokens = Random(32).tokens(400);
    let (prompt, answer, more) = (&tokens[..210], &tokens[210..220], &tokens[220..]);
    for (kv, attention) in
        [(KvFormat::F16, Attention::Dense), (KvFormat::Int8, Attention::Dense)].into_iter().chain(parts())
    {
        let Some(loaded) = load_part(kv, attention) else { return };
        let history = |model: &mut LocalModel| {
            let seq = model.create().expect("a sequence");
            rows(model, &[one(seq, prompt, false)], &[]);
            answer.chunks(1).for_each(|t| drop(rows(model, &[one(seq, t, true)], &[])));
            // Two sequences on the same pages, the last of which is not full.
            [seq, model.fork(seq).expect("a fork")]
        };
        // All rows of a long append and the last of a short one behind it; then what is decoded after them.
        let appends = |[a, b]: [SeqId; 2]| {
            [Append { wanted: Wanted::All, ..one(a, &more[..100], false) }, one(b, &more[100..130], false)]
        };
        let after = |model: &mut LocalModel, [a, b]: [SeqId; 2]| {
            let mut all = rows(model, &appends([a, b]), &[]);
            for t in more[130..].chunks(1) {
                all.extend(rows(model, &[one(a, t, true), one(b, t, true)], &[]));
            }
            all.iter().map(bits).collect::<Vec<_>>()
        };
        let mut calm = model(&loaded, 2, 100);
        let seqs = history(&mut calm);
        let want = after(&mut calm, seqs);
        let mut busy = model(&loaded, 2, 100);
        let seqs = history(&mut busy);
        let flag = Arc::new(AtomicBool::new(false));
        busy.set_cancel(flag.clone());
        for parts in [1, 2] {
            let (before, mut seen) = (busy.metrics().steps, Vec::new());
            let outcome = busy.step(&appends(seqs), &mut |_, _, row| {
                seen.push(bits(&kept(&row)));
                flag.store(seen.len() > 48 * (parts - 1), Ordering::Relaxed);
            });
            assert!(matches!(outcome, Err(Error::Cancelled)), "{outcome:?}");
            assert_eq!((busy.metrics().steps - before, seen.len()), (parts as u64, 48 * parts), "parts of 48 rows");
            assert!(seen == want[..seen.len()], "{kv:?}, {attention}");
            assert_eq!(seqs.map(|seq| busy.len(seq)), [220, 220]);
            flag.store(false, Ordering::Relaxed);
        }
        assert!(after(&mut busy, seqs) == want, "{kv:?}, {attention}: once more");
    }
}

/// Logits of the decoded tokens of a text after a prompt.
fn decoded(loaded: &Arc<Loaded>, tokens: &[u32], prompt: usize) -> Vec<Vec<f32>> {
    let mut model = model(loaded, 2, 200);
    let seq = model.create().expect("a sequence");
    step(&mut model, &[(seq, &tokens[..prompt], Wanted::None)]);
    tokens[prompt..].chunks(1).map(|t| rows(&mut model, &[one(seq, t, true)], &[]).remove(0).logits).collect()
}

#[test]
fn a_wide_budget_is_dense_and_the_others_are_near() {
    let tokens = Random(77).tokens(340);
    let run = |kv, attention| load_part(kv, attention).map(|l| decoded(&l, &tokens, 300));
    let Some(dense) = run(KvFormat::F16, Attention::Dense) else { return };
    let wide = Attention::Sparse { pages: 30, sinks: 1, window: 2, dense_layers: 0, top_p: 1000 };
    assert!(run(KvFormat::F16, wide) == Some(dense.clone()), "a budget for all pages");
    let wide = Attention::Window { sinks: 1, window: 29, dense_layers: 0 };
    assert!(run(KvFormat::F16, wide) == Some(dense.clone()), "a window over all pages");
    let far = |kv, attention| {
        let other = run(kv, attention).expect("a back end");
        let apart = |(a, b): (&Vec<f32>, &Vec<f32>)| a.iter().zip(b).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
        let size = dense.iter().flatten().fold(0.0f32, |m, x| m.max(x.abs()));
        dense.iter().zip(&other).map(apart).fold(0.0, f32::max) / size
    };
    let int8 = far(KvFormat::Int8, Attention::Dense);
    assert!(int8 > 0.0 && int8 < 0.02, "int8 moves logits by {int8} of the largest");
    let few = Attention::Sparse { pages: 4, sinks: 1, window: 2, dense_layers: 1, top_p: 1000 };
    let (sparse, window) =
        (far(KvFormat::F16, few), far(KvFormat::F16, Attention::Window { sinks: 1, window: 3, dense_layers: 1 }));
    assert!(sparse > 0.0 && window > 0.0, "something was left out: {sparse}, {window}");
}
