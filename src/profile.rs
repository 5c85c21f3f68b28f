//! Measures this machine in a few seconds: read bandwidth by working set, rates of the real emitted kernels, barriers.
//!
//! Kernels are measured on small synthetic models, one per common weight format, in whole steps: a step without keys is
//! linear layers and barriers, what a key adds is attention. The fastest of several runs counts, because
//! neighbours on a shared machine only ever slow a run down. Buffers are random: constant pages are read faster.

use crate::cache::Cache;
use crate::machine::host_name;
use crate::measure;
use crate::synthetic::{Shape, gguf};
use anyhow::Result;
use codegen::Backend;
use ir::plan::PrefixMode;
use ir::schedule::Numerics;
use ir::target::{Bandwidth, KernelRate, Target};
use ir::tensor::DType;
use runtime::device::cpu::{Function, Launch, Team};
use runtime::device::probe;
use runtime::forward::{Loaded, LocalModel, Options};
use runtime::gguf::Gguf;
use runtime::model::{Append, LanguageModel, Wanted};
use std::hint::black_box;
use std::path::Path;
use std::sync::Arc;
use std::time::Instant;

/// Weight formats that are measured; others are priced like the nearest of their size.
const FORMATS: &[DType] = &[DType::Q4_1, DType::Q8_0, DType::Q4_K, DType::Q5_0, DType::Q6_K, DType::F16];
/// Rows per step at which linear rates are measured.
const ROWS: &[u32] = &[1, 2, 4, 8, 32, 128];
/// Working sets at which bandwidth is measured, bytes.
const SETS: &[usize] = &[1 << 20, 8 << 20, 32 << 20, 96 << 20, 384 << 20];

/// Measures; `say` gets a line per step.
///
/// # Errors
/// When memory or threads are refused, or the kernels cannot be compiled.
pub fn measure(threads: u32, backend: Backend, cache: Option<&Cache>, say: &mut dyn FnMut(&str)) -> Result<Target> {
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
    for (i, dtype) in FORMATS.iter().enumerate() {
        say(&format!("kernels over {} weights", dtype.name()));
        kernels(&mut target, *dtype, i == 0, threads, backend, cache)?;
    }
    if let Some(best) =
        target.kernels.iter().filter(|k| k.class.starts_with("linear")).map(|k| k.all_threads).reduce(f64::max)
    {
        target.flops = 2.0 * best;
    }
    Ok(target)
}

/// Bytes per second of summing random words, by working set and threads.
fn bandwidth(threads: usize) -> Vec<Bandwidth> {
    let largest = SETS.iter().copied().max().unwrap_or(0);
    let mut state = 0x9E37_79B9_7F4A_7C15_u64;
    let words: Vec<u64> = (0..largest / 8)
        .map(|_| {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            state
        })
        .collect();
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

/// Adds the rates of one format: linear by rows, and (once) attention and the barrier.
fn kernels(
    target: &mut Target,
    dtype: DType,
    attention: bool,
    threads: u32,
    backend: Backend,
    cache: Option<&Cache>,
) -> Result<()> {
    let shape = Shape { layers: 2, hidden: 512, heads: 8, kv_heads: 2, ffn: 1536, vocab: 2048, context: 4096, dtype };
    let gguf = Arc::new(Gguf::from_bytes("synthetic", gguf(shape))?);
    let model = gguf.model()?;
    let mut per_rows: Vec<(u32, f64, f64)> = Vec::new();
    let mut attend: Vec<(u32, f64, f64)> = Vec::new();
    let macs = optimizer::roofline::Roofline::new(&model, target).layer_macs();
    let counts: Vec<u32> = if threads > 1 { vec![1, threads] } else { vec![1] };
    for (slot, count) in counts.iter().enumerate() {
        let mut plan = measure::plan(Path::new("synthetic"), &model, target, *count, Numerics::Int8)?;
        plan.schedule.threads = *count;
        let program = crate::program(&plan)?;
        let code = crate::machine_code(&program.kernels, target.isa, backend, cache)?;
        let loaded = Loaded::load(gguf.clone(), &model, &program, &code, *count as usize)?;
        let options = Options { threads: *count as usize, kv_pages: 2048, prefix: PrefixMode::Shared };
        let mut local = LocalModel::new(loaded, &options)?;
        let overhead = f64::from(5 * model.layers) * if *count > 1 { target.launch } else { 0.0 };
        for (i, rows) in ROWS.iter().enumerate() {
            let seconds = step_seconds(&mut local, *rows, 0)?;
            let rate = f64::from(*rows) * macs / (seconds - overhead).max(1e-9);
            if slot == 0 { per_rows.push((*rows, rate, rate)) } else { per_rows[i].2 = rate }
        }
        if attention {
            for (i, rows) in [1_u32, 4].into_iter().enumerate() {
                const DEPTH: usize = 2048;
                let deep = step_seconds(&mut local, rows, DEPTH)? - step_seconds(&mut local, rows, 0)?;
                #[allow(clippy::cast_precision_loss, reason = "a few thousand keys")]
                let pairs = f64::from(rows) * DEPTH as f64 * f64::from(model.heads) * f64::from(model.layers);
                let rate = pairs / deep.max(1e-9);
                let together = rows * model.heads / model.kv_heads;
                if slot == 0 { attend.push((together, rate, rate)) } else { attend[i].2 = rate }
            }
        }
    }
    let class = format!("linear.{}", dtype.name().to_lowercase());
    target.kernels.extend(per_rows.into_iter().map(|(rows, one_thread, all_threads)| KernelRate {
        class: class.clone(),
        rows,
        one_thread,
        all_threads,
    }));
    target.kernels.extend(attend.into_iter().map(|(rows, one_thread, all_threads)| KernelRate {
        class: "attend".to_owned(),
        rows,
        one_thread,
        all_threads,
    }));
    Ok(())
}

/// Fastest seconds of a step of `rows` neighbouring rows of one sequence after `depth` tokens, logits not wanted.
fn step_seconds(model: &mut LocalModel, rows: u32, depth: usize) -> Result<f64> {
    let vocab = u32::try_from(model.info().vocab).unwrap_or(1);
    let ids: Vec<u32> =
        (0..depth + rows as usize).map(|i| u32::try_from(i * 7919 % vocab as usize).unwrap_or(0)).collect();
    let seq = model.create()?;
    if depth > 0 {
        model.step(&[Append { seq, tokens: &ids[..depth], wanted: Wanted::None }], &mut |_, _, _| {})?;
    }
    let repeats = if rows >= 32 || depth > 0 { 12 } else { 60 };
    let mut best = f64::MAX;
    for _ in 0..repeats {
        let start = Instant::now();
        model.step(&[Append { seq, tokens: &ids[depth..], wanted: Wanted::None }], &mut |_, _, _| {})?;
        best = best.min(start.elapsed().as_secs_f64());
        model.truncate(seq, depth)?;
    }
    model.free(seq);
    Ok(best)
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
