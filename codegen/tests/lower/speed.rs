//! How fast the kernels are, one thread, at SmolLM2-135M's widths. Run by hand:
//! `cargo test --release -p inferc-codegen --features llvm22 --test lower -- --ignored --nocapture`.

#![expect(unsafe_code, reason = "running generated code means mapping memory and calling an address")]

use crate::machine::{Machine, Row, Tiny, Widths, schedule};
use codegen::Backend;
use ir::model::Family;
use ir::program::{Arg, Buf, Launch};
use ir::schedule::{ModelSchedule, Prologue};
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
            Arg::Int(v) => v as u64,
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
    let prefetch = std::env::var("INFERC_SPEED_PREFETCH").ok().and_then(|v| v.parse().ok()).unwrap_or(8192);
    for (rows, position, prologue) in
        [(1, 0, Prologue::Fused), (1, 600, Prologue::Fused), (8, 0, Prologue::Fused), (256, 0, Prologue::Split)]
    {
        let s = ModelSchedule { max_rows: 256, max_head_rows: 256, prologue, prefetch, attend_rows: 4, ..schedule() };
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
        // SAFETY: code of this machine's features in an executable mapping, buffers as its own program sizes them.
        unsafe {
            let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS;
            let all = libc::PROT_READ | libc::PROT_WRITE | libc::PROT_EXEC;
            let base = libc::mmap(std::ptr::null_mut(), code.bytes.len(), all, flags, -1, 0);
            assert_ne!(base, libc::MAP_FAILED);
            std::ptr::copy_nonoverlapping(code.bytes.as_ptr(), base.cast(), code.bytes.len());
            let launches: Vec<Launch> = m.program.forward.iter().chain(&m.program.head).cloned().collect();
            let mut best = vec![Duration::MAX; launches.len()];
            for _ in 0..if rows > 8 { 8 } else { 60 } {
                for (launch, best) in launches.iter().zip(&mut best) {
                    let name = &m.program.kernels[launch.kernel as usize].name;
                    let offset = code.offset(name).expect("compiled") as usize;
                    let entry: extern "C" fn(*const u64, i64, i64) = std::mem::transmute(base.cast::<u8>().add(offset));
                    let words = words(&mut m, launch);
                    let start = cpu_time();
                    entry(words.as_ptr(), 0, 1);
                    *best = (*best).min(cpu_time() - start);
                }
                let h = m.buffers.get_mut(&Buf::Hidden).expect("a residual stream");
                h.fill(0x3C);
            }
            libc::munmap(base, code.bytes.len());
            report(&m, widths, &launches, &best, (rows, position), dtype);
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
        let mean = times.iter().sum::<Duration>() / times.len() as u32;
        total += mean;
        let stem = kernel.name.split('.').next().expect("a stem");
        let n = weights(widths, stem);
        let bytes = n / 16 / 256 * tile_bytes(dtype, 256);
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
