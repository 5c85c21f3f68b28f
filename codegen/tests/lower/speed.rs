//! How fast the kernels are, one thread, at SmolLM2-135M's widths. Run by hand:
//! `cargo test --release -p inferc-codegen --features llvm22 --test lower -- --ignored --nocapture`.

#![expect(unsafe_code, reason = "running generated code means mapping memory and calling an address")]

use crate::draws;
use crate::machine::{Machine, Row, Tiny, Widths, schedule};
use crate::weights::Random;
use codegen::Backend;
use ir::code::Code;
use ir::model::Family;
use ir::program::{Arg, Buf, Launch};
use ir::schedule::{ModelSchedule, Numerics, Prologue};
use ir::tensor::{DType, tile_bytes};
use std::time::Duration;

const WIDTHS: Widths = [576, 9, 3, 64, 1536, 8192];
/// For types of 256 weights a block.
const SUPER_WIDTHS: Widths = [768, 12, 4, 64, 2048, 8192];
const LAYERS: u32 = 6;

fn words(m: &mut Machine, launch: &Launch) -> Vec<u64> {
    launch
        .args
        .iter()
        .map(|arg| match *arg {
            Arg::Buf(buf) => m.buffers.get_mut(&buf).expect("a buffer").as_mut_ptr() as u64,
            Arg::Weight(i, at) => m.weights[i as usize].as_ptr() as u64 + at,
            Arg::Kv(layer, values) => m.kv[layer as usize][usize::from(values)].as_mut_ptr() as u64,
            Arg::Summary(layer) => m.summaries[layer as usize].as_mut_ptr() as u64,
            Arg::ScratchStride => 0,
        })
        .collect()
}

/// Time of this thread on a core: what else runs here does not count.
fn cpu_time() -> Duration {
    let mut t = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: the clock exists on Linux and the structure is ours.
    let failed = unsafe { libc::clock_gettime(libc::CLOCK_THREAD_CPUTIME_ID, &mut t) };
    assert_eq!(failed, 0);
    Duration::new(t.tv_sec as u64, t.tv_nsec as u32)
}

/// Code in memory that may be run.
fn map(code: &Code) -> *mut u8 {
    // SAFETY: a fresh mapping, as large as what is copied to it.
    unsafe {
        let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS;
        let all = libc::PROT_READ | libc::PROT_WRITE | libc::PROT_EXEC;
        let base = libc::mmap(std::ptr::null_mut(), code.bytes.len(), all, flags, -1, 0);
        assert_ne!(base, libc::MAP_FAILED);
        std::ptr::copy_nonoverlapping(code.bytes.as_ptr(), base.cast(), code.bytes.len());
        base.cast()
    }
}

/// Time of one draw on one thread, at logits like a model's: most tokens far below a few good ones.
#[test]
#[ignore = "a measurement, not a check"]
fn draw_times() {
    for vocab in [49_152u32, 151_936] {
        let mut m = draws::machine(vocab, 1);
        let code = codegen::emit(&m.program.kernels, schedule().isa, Backend::Llvm).expect("kernels compile");
        let base = map(&code);
        let mut r = Random(3);
        let mut unit = || (r.unit() * 0.5 + 0.5) as f32;
        let row: Vec<f32> = (0..vocab).map(|_| 8.0 * unit() + 14.0 * unit().powi(40)).collect();
        let d = draws::plain(0, 0.6);
        for (name, d) in [
            ("greedy", draws::Draw { temperature: 0.0, ..d.clone() }),
            ("temperature 1", d.clone()),
            ("temperature 0.8", draws::Draw { temperature: 0.8, ..d.clone() }),
            ("top-p 0.95", draws::Draw { top_p: 0.95, ..d.clone() }),
            ("top-p 0.95 at 0.8", draws::Draw { top_p: 0.95, temperature: 0.8, ..d.clone() }),
            ("top-k 40", draws::Draw { top_k: 40, ..d.clone() }),
            ("min-p 0.05", draws::Draw { min_p: 0.05, ..d.clone() }),
            ("mask", draws::Draw { allowed: Some(vec![true; vocab as usize]), ..d }),
        ] {
            draws::put(&mut m, std::slice::from_ref(&row), std::slice::from_ref(&d));
            let launches: Vec<Launch> = m.program.head.iter().chain(&m.program.sample).cloned().collect();
            let mut best = vec![f64::MAX; launches.len()];
            for _ in 0..300 {
                for (launch, best) in launches.iter().zip(&mut best) {
                    let offset = code.offset(&m.program.kernels[launch.kernel as usize].name).expect("compiled");
                    let words = words(&mut m, launch);
                    let start = std::time::Instant::now();
                    // SAFETY: as in `speed`.
                    unsafe {
                        let entry: extern "C" fn(*const u64, i64, i64) = std::mem::transmute(base.add(offset as usize));
                        entry(words.as_ptr(), 0, 1);
                    }
                    *best = best.min(start.elapsed().as_secs_f64());
                }
            }
            let [finalise, weigh, draw] = [0, 1, 2].map(|i| best[i] * 1e6);
            println!("{vocab} tokens, {name}: finalise {finalise:.2}, weigh {weigh:.2}, draw {draw:.2} us");
        }
    }
}

/// Weights of a layer's kernel, or of the head.
fn weights(widths: Widths, stem: &str) -> usize {
    let [hidden, heads, kv, d, ffn, vocab] = widths.map(|v| v as usize);
    match stem {
        "qkv" => hidden * d * (heads + 2 * kv),
        "out" => hidden * d * heads,
        "gate_up" => 2 * hidden * ffn,
        "down" => hidden * ffn,
        "head" => hidden * vocab,
        _ => 0,
    }
}

#[test]
#[ignore = "a measurement, not a check"]
fn speed() {
    let named = std::env::var("INFERC_SPEED_TYPE").unwrap_or_else(|_| "Q4_1".into());
    let dtype = DType::ALL.into_iter().find(|t| t.name() == named).expect("a type's name");
    let widths = if dtype.block() == 256 { SUPER_WIDTHS } else { WIDTHS };
    let tiny = Tiny::new(Family::Llama, LAYERS, widths, [dtype; 8]);
    let class = std::env::var("INFERC_SPEED_NUMERICS").unwrap_or_else(|_| Numerics::Int8.name().into());
    let numerics = Numerics::ALL.into_iter().find(|n| n.name() == class).expect("a class's name");
    let prefetch = std::env::var("INFERC_SPEED_PREFETCH").ok().and_then(|v| v.parse().ok()).unwrap_or(8192);
    for (rows, position, prologue) in [1, 8, 32]
        .map(|n| (n, 0, Prologue::Fused))
        .into_iter()
        .chain([(1, 600, Prologue::Fused), (256, 0, Prologue::Split)])
    {
        let s = ModelSchedule { max_rows: 256, max_head_rows: 256, prologue, prefetch, attend_rows: 4, ..schedule() };
        let s = ModelSchedule { numerics, ..s };
        let mut m = Machine::new(&tiny, &s, 1);
        let start = cpu_time();
        let code = codegen::emit(&m.program.kernels, s.isa, Backend::Llvm).expect("kernels compile");
        println!(
            "compiled {} kernels in {:?}, {} bytes",
            m.program.kernels.len(),
            (cpu_time() - start),
            code.bytes.len()
        );
        // One sequence for a prompt, one per row else.
        let list: Vec<Row> = (0..rows)
            .map(|i| match rows {
                256 => Row { sequence: 0, position: i },
                _ => Row { sequence: i % 4, position: position + i / 4 },
            })
            .collect();
        m.step(&list);
        let base = map(&code);
        // SAFETY: code of this machine's features in an executable mapping, buffers as its own program sizes them.
        unsafe {
            let launches: Vec<Launch> = m.program.forward.iter().chain(&m.program.head).cloned().collect();
            let mut best = vec![Duration::MAX; launches.len()];
            for _ in 0..if rows > 8 { 8 } else { 60 } {
                for (launch, best) in launches.iter().zip(&mut best) {
                    let name = &m.program.kernels[launch.kernel as usize].name;
                    let offset = code.offset(name).expect("compiled") as usize;
                    let entry: extern "C" fn(*const u64, i64, i64) = std::mem::transmute(base.add(offset));
                    let words = words(&mut m, launch);
                    let start = cpu_time();
                    entry(words.as_ptr(), 0, 1);
                    *best = (*best).min(cpu_time() - start);
                }
                let h = m.buffers.get_mut(&Buf::Hidden).expect("a residual stream");
                h.fill(0x3C);
            }
            libc::munmap(base.cast(), code.bytes.len());
            report(&m, widths, &launches, &best, (rows, position), dtype);
        }
    }
}

/// Seconds of one core that a cold compilation takes, in all and of the slowest kernels.
#[test]
#[ignore = "a measurement, not a check"]
fn compile_times() {
    for (dtype, widths) in
        [(DType::Q4_1, WIDTHS), (DType::Q8_0, WIDTHS), (DType::Q4_K, SUPER_WIDTHS), (DType::Q6_K, SUPER_WIDTHS)]
    {
        let tiny = Tiny::new(Family::Llama, 1, widths, [dtype; 8]);
        for numerics in [Numerics::Int8, Numerics::F32] {
            for row_block in [1, 2, 4, 8] {
                let s = ModelSchedule { numerics, row_block, attend_rows: 8, prologue: Prologue::Split, ..schedule() };
                let program = codegen::lower::program(&tiny.model, &s).expect("the model lowers");
                let mut times: Vec<(Duration, String)> = program
                    .kernels
                    .iter()
                    .map(|k| {
                        let start = cpu_time();
                        codegen::emit(std::slice::from_ref(k), s.isa, Backend::Llvm).expect("compiles");
                        (cpu_time() - start, k.name.clone())
                    })
                    .collect();
                times.sort();
                let total: Duration = times.iter().map(|t| t.0).sum();
                let slow: Vec<String> =
                    times.iter().rev().take(4).map(|(t, name)| format!("{name} {:.2}", t.as_secs_f64())).collect();
                let what = format!("{} {numerics:?}, row block {row_block}", dtype.name());
                println!("{what}: {:.2} s; {}", total.as_secs_f64(), slow.join(", "));
            }
        }
    }
}

fn report(
    m: &Machine,
    widths: Widths,
    launches: &[Launch],
    best: &[Duration],
    (rows, position): (usize, usize),
    dtype: DType,
) {
    let mut total = Duration::ZERO;
    for (k, kernel) in m.program.kernels.iter().enumerate() {
        let times: Vec<Duration> =
            launches.iter().zip(best).filter(|(l, _)| l.kernel as usize == k).map(|(_, t)| *t).collect();
        if times.is_empty() {
            continue;
        }
        let mean = times.iter().sum::<Duration>() / times.len() as u32;
        total += mean;
        let stem = kernel.name.split('.').next().expect("a stem");
        let n = weights(widths, stem);
        let channel = kernel.name.contains("int8_channel");
        let bytes = if channel { n } else { n / 16 / 256 * tile_bytes(dtype, 256) };
        let seconds = mean.as_secs_f64();
        println!(
            "rows {rows:3} at {position:4}  {:24} {:9.2} us  {:6.1} GB/s  {:6.1} GMAC/s",
            kernel.name,
            seconds * 1e6,
            bytes as f64 / seconds / 1e9,
            (n * rows) as f64 / seconds / 1e9
        );
    }
    println!("rows {rows} at {position}: one layer and head {:.1} us", total.as_secs_f64() * 1e6);
}
