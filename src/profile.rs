//! Measures this machine in a few seconds: read bandwidth by working set, rates of the real emitted kernels, barriers.
//!
//! Kernels are measured on synthetic models, two per common weight format (one that caches hold and one that they do
//! not), in whole decode steps: a step without keys is linear layers and barriers, logits are the head's, what a key adds
//! is attention. The median of several runs counts: that is what a run will see. Buffers are random: constant pages are
//! read faster.

use crate::cache::Cache;
use crate::machine::{Machine, host_name};
use crate::measure;
use crate::synthetic::{Random, Shape, gguf};
use anyhow::Result;
use codegen::Backend;
use ir::plan::PrefixMode;
use ir::schedule::Numerics;
use ir::target::{Bandwidth, KernelRate, Target};
use ir::tensor::{DType, tile_bytes};
use optimizer::lossy::Forced;
use optimizer::roofline::Roofline;
use runtime::device::cpu::{Function, Launch, Team};
use runtime::device::probe;
use runtime::forward::LocalModel;
use runtime::gguf::Gguf;
use runtime::model::{Append, LanguageModel, SeqId, Wanted};
use std::hint::black_box;
use std::path::Path;
use std::sync::Arc;
use std::time::Instant;

/// Weight formats that are measured; others are priced like the nearest of their size.
const FORMATS: &[DType] = &[DType::Q4_1, DType::Q8_0, DType::Q4_K, DType::Q5_0, DType::Q6_K, DType::F16];
/// Rows per step at which linear rates are measured.
const ROWS: &[u32] = &[1, 2, 4, 8, 12, 16, 32, 128];
/// Weights of the model that caches do not hold, bytes.
const STREAMED: usize = 96 << 20;
/// Copies of a context that caches do not hold together.
const COPIES: usize = 48;
/// Working sets at which bandwidth is measured, bytes.
const SETS: &[usize] = &[1 << 20, 8 << 20, 32 << 20, 96 << 20, 384 << 20];

/// Measures; `say` gets a line per step.
///
/// # Errors
/// When memory or threads are refused, or the kernels cannot be compiled.
pub fn measure(threads: u32, backend: Backend, cache: Option<Cache>, say: &mut dyn FnMut(&str)) -> Result<Target> {
    let host = probe::probe();
    let mut target = ir::target::builtin(if host.isa.avx512 { "cpu-avx512" } else { "cpu-avx2" })
        .unwrap_or_else(|| unreachable!("both CPU classes are built in"));
    target.name = host_name(&host);
    target.isa = host.isa;
    target.threads = threads;
    #[allow(clippy::cast_precision_loss, reason = "memory sizes are far below 2^53")]
    let memory = host.total_memory as f64;
    target.memory = memory;
    target.measured = true;
    say("barriers");
    target.launch = barrier(threads)?;
    say("read bandwidth");
    target.read = bandwidth(threads as usize);
    if let Some(last) = target.read.last() {
        target.bandwidth = last.all_threads;
    }
    let (numerics, forced, warnings) = (Numerics::Int8, Forced::default(), Vec::new());
    let mut machine = Machine { target, threads, backend, cache, numerics, forced, warnings };
    for dtype in FORMATS {
        say(&format!("kernels over {} weights", dtype.name()));
        linear(&mut machine, *dtype)?;
    }
    say("attention");
    attention(&mut machine)?;
    let mut target = machine.target;
    let linear = target.kernels.iter().filter(|k| k.class.starts_with("linear"));
    if let Some(best) = linear.map(|k| k.all_threads).reduce(f64::max) {
        target.flops = 2.0 * best;
    }
    Ok(target)
}

/// Bytes per second of summing random words, by working set and threads.
fn bandwidth(threads: usize) -> Vec<Bandwidth> {
    let largest = SETS.iter().copied().max().unwrap_or(0);
    let mut random = Random(0x9E37_79B9_7F4A_7C15);
    let words: Vec<u64> = (0..largest / 8).map(|_| random.next()).collect();
    SETS.iter()
        .map(|set| {
            let words = &words[..set / 8];
            let one = rate(words, 1);
            let all = if threads > 1 { rate(words, threads) } else { one };
            #[allow(clippy::cast_precision_loss, reason = "sizes of a few hundred megabytes")]
            Bandwidth { bytes: *set as f64, one_thread: one, all_threads: all }
        })
        .collect()
}

#[allow(clippy::cast_precision_loss, reason = "sizes of a few hundred megabytes")]
fn rate(words: &[u64], threads: usize) -> f64 {
    let bytes = (words.len() * 8) as f64;
    let repeats = ((256 << 20) / (words.len() * 8)).clamp(2, 256);
    let share = words.len().div_ceil(threads);
    let sum = |part: &[u64]| {
        let mut lanes = [0_u64; 32];
        for chunk in part.chunks_exact(32) {
            for (lane, word) in lanes.iter_mut().zip(chunk) {
                *lane = lane.wrapping_add(*word);
            }
        }
        black_box(lanes.iter().fold(0_u64, |a, b| a.wrapping_add(*b)))
    };
    let mut best = 0.0_f64;
    for _ in 0..3 {
        let start = Instant::now();
        std::thread::scope(|scope| {
            for part in words.chunks(share) {
                scope.spawn(move || {
                    for _ in 0..repeats {
                        sum(part);
                    }
                });
            }
        });
        best = best.max(bytes * repeats as f64 / start.elapsed().as_secs_f64());
    }
    best
}

/// A synthetic model on a team of so many threads; forks get copies of their keys.
fn load(image: &Arc<Gguf>, machine: &Machine, team: u32) -> Result<LocalModel> {
    let pages = 64 + 3 * u64::from(image.model()?.context);
    let (mut model, _) = measure::start(image.clone(), Path::new("synthetic"), machine, team, pages)?;
    model.set_prefix_mode(PrefixMode::Copied);
    Ok(model)
}

/// Rates being measured, team by team.
#[derive(Default)]
struct Rates(Vec<KernelRate>);

impl Rates {
    /// Notes a rate: of one thread at first, of all where one thread's is there.
    fn note(&mut self, class: &str, rows: u32, bytes: f64, rate: f64) {
        match self.0.iter_mut().find(|k| k.class == class && k.rows == rows && k.bytes == bytes) {
            Some(known) => known.all_threads = rate,
            None => {
                self.0.push(KernelRate { class: class.to_owned(), rows, bytes, one_thread: rate, all_threads: rate })
            }
        }
    }
}

/// One thread and all of them.
fn teams(threads: u32) -> Vec<u32> {
    if threads > 1 { vec![1, threads] } else { vec![1] }
}

/// Adds the rates of one format's matrices.
fn linear(machine: &mut Machine, dtype: DType) -> Result<()> {
    let small = Shape { layers: 4, hidden: 512, heads: 8, kv_heads: 2, ffn: 1536, vocab: 2048, context: 256, dtype };
    let layer = tile_bytes(dtype, 1024) * (2 * 1024 + 512 + 3 * 3072) / 16;
    let layers = u32::try_from(STREAMED / layer).unwrap_or(1).max(2);
    let large = Shape { layers, hidden: 1024, heads: 16, kv_heads: 4, ffn: 3072, vocab: 16384, context: 256, dtype };
    for (shape, rows) in [(small, ROWS), (large, &ROWS[..ROWS.len() - 1])] {
        let image = Arc::new(Gguf::from_bytes("synthetic", gguf(shape))?);
        let model = image.model()?;
        let roofline = Roofline::new(&model, &machine.target);
        let (macs, bytes) = (roofline.layer_macs(), roofline.weight_bytes());
        let head_macs = f64::from(model.hidden) * f64::from(model.vocab);
        let class = |kind: &str| format!("{kind}.{}", dtype.name().to_lowercase());
        let mut rates = Rates::default();
        for team in teams(machine.threads) {
            let mut local = load(&image, machine, team)?;
            let overhead = f64::from(5 * model.layers) * if team > 1 { machine.target.launch } else { 0.0 };
            for &rows in rows {
                // Output matrices are large: the small model says nothing about them.
                let streamed = shape.vocab == large.vocab;
                let wanted = if streamed { Wanted::Last } else { Wanted::None };
                let (layers, head) = step_seconds(&mut local, rows, wanted)?;
                rates.note(&class("linear"), rows, bytes, f64::from(rows) * macs / (layers - overhead).max(1e-9));
                if streamed {
                    rates.note(&class("head"), rows, bytes, f64::from(rows) * head_macs / head.max(1e-9));
                }
            }
        }
        machine.target.kernels.extend(rates.0);
    }
    Ok(())
}

/// Adds the rates of attention: query heads of a group alone and rows together, keys in caches and beyond them.
fn attention(machine: &mut Machine) -> Result<()> {
    const DEPTH: usize = 1024;
    let mut rates = Rates::default();
    for (group, most) in [(1, 8), (3, 4), (7, 1)] {
        let shape = Shape {
            layers: 4,
            hidden: 256,
            heads: 2 * group,
            kv_heads: 2,
            ffn: 256,
            vocab: 2048,
            context: 2048,
            dtype: DType::Q8_0,
        };
        let image = Arc::new(Gguf::from_bytes("synthetic", gguf(shape))?);
        let model = image.model()?;
        #[allow(clippy::cast_precision_loss, reason = "a few megabytes")]
        let copy_bytes = DEPTH as f64 * model.kv_bytes_per_token() as f64;
        for team in teams(machine.threads) {
            let mut local = load(&image, machine, team)?;
            let ids = measure::tokens(DEPTH + 64, model.vocab as usize);
            let first = local.create()?;
            for chunk in ids[..DEPTH].chunks(256) {
                local.step(&[Append { seq: first, tokens: chunk, wanted: Wanted::None }], &mut |_, _, _| {})?;
            }
            for copies in [1, COPIES] {
                let mut seqs = vec![first];
                for _ in 1..copies {
                    seqs.push(local.fork(first)?);
                }
                for rows in (0..4).map(|i| 1_u32 << i).take_while(|r| *r <= most) {
                    let deep = cycle(&mut local, &seqs, &ids[DEPTH..DEPTH + rows as usize], DEPTH)?;
                    let (bare, _) = step_of(&mut local, &[&ids[..rows as usize]], Wanted::None)?;
                    #[allow(clippy::cast_precision_loss, reason = "a few thousand keys")]
                    let pairs = f64::from(rows) * DEPTH as f64 * f64::from(model.heads * model.layers);
                    let rate = pairs / (deep - bare).max(1e-9);
                    #[allow(clippy::cast_precision_loss, reason = "a few copies")]
                    let (together, bytes) = (rows * group, copy_bytes * copies as f64);
                    rates.note("attend", together, bytes, rate);
                }
                for seq in &seqs[1..] {
                    local.free(*seq);
                }
            }
        }
    }
    machine.target.kernels.extend(rates.0);
    Ok(())
}

/// Median seconds of the layers and of the head in a decode step of `rows` sequences without a past, or of one prompt of
/// so many rows where a step of that many sequences would not be one.
fn step_seconds(model: &mut LocalModel, rows: u32, wanted: Wanted) -> Result<(f64, f64)> {
    let ids = measure::tokens(rows as usize, model.info().vocab);
    if rows <= 32 {
        let parts: Vec<&[u32]> = ids.chunks(1).collect();
        step_of(model, &parts, wanted)
    } else {
        step_of(model, &[&ids], wanted)
    }
}

/// Median seconds, without the head and in the head, of a step that starts one sequence with each of `parts`.
fn step_of(model: &mut LocalModel, parts: &[&[u32]], wanted: Wanted) -> Result<(f64, f64)> {
    let seqs = parts.iter().map(|_| model.create()).collect::<Result<Vec<_>, _>>()?;
    let appends: Vec<Append<'_>> =
        seqs.iter().zip(parts).map(|(seq, tokens)| Append { seq: *seq, tokens, wanted }).collect();
    let mut heads = Vec::new();
    let layers = median(|| {
        let (start, before) = (Instant::now(), model.metrics().head_seconds);
        model.step(&appends, &mut |_, _, _| {})?;
        let (seconds, head) = (start.elapsed().as_secs_f64(), model.metrics().head_seconds - before);
        for seq in &seqs {
            model.truncate(*seq, 0)?;
        }
        heads.push(head);
        Ok(seconds - head)
    })?;
    for seq in seqs {
        model.free(seq);
    }
    heads.sort_by(f64::total_cmp);
    Ok((layers, heads[heads.len() / 2]))
}

/// Median seconds of a step that appends `tokens` to one of `seqs`, another each time, so that keys come from where that
/// many bytes are.
fn cycle(model: &mut LocalModel, seqs: &[SeqId], tokens: &[u32], depth: usize) -> Result<f64> {
    let mut next = 0;
    let mut once = || {
        let seq = seqs[next % seqs.len()];
        next += 1;
        let start = Instant::now();
        model.step(&[Append { seq, tokens, wanted: Wanted::None }], &mut |_, _, _| {})?;
        let seconds = start.elapsed().as_secs_f64();
        model.truncate(seq, depth)?;
        Ok(seconds)
    };
    // Once through all, so that no page is new and the caches hold what they will hold.
    for _ in seqs {
        once()?;
    }
    median(once)
}

/// Median of repeated runs: as many as fit a budget, at least three.
fn median(mut once: impl FnMut() -> Result<f64>) -> Result<f64> {
    const BUDGET: f64 = 0.03;
    once()?;
    let (mut seconds, mut spent) = (Vec::new(), 0.0);
    while seconds.len() < 3 || (spent < BUDGET && seconds.len() < 40) {
        let one = once()?;
        spent += one;
        seconds.push(one);
    }
    seconds.sort_by(f64::total_cmp);
    Ok(seconds[seconds.len() / 2])
}

/// Fastest seconds per launch of a list of launches that do nothing: what a barrier of the team costs.
fn barrier(threads: u32) -> Result<f64> {
    extern "C-unwind" fn nothing(_: *const u64, _: i64, _: i64) {}
    const LAUNCHES: usize = 200;
    let mut team = Team::new(threads as usize)?;
    let list: Vec<Launch> = (0..LAUNCHES).map(|_| Launch::new(Function::native(nothing), Vec::new())).collect();
    let mut best = f64::MAX;
    for _ in 0..50 {
        let start = Instant::now();
        team.run(&list)?;
        best = best.min(start.elapsed().as_secs_f64());
    }
    #[allow(clippy::cast_precision_loss, reason = "a small count")]
    Ok((best / LAUNCHES as f64).max(1e-8))
}
