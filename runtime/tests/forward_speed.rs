//! How fast the forward pass is on this machine. Measures, asserts little; run it alone:
//! `cargo test --release -p inferc-runtime --features llvm22 --test forward_speed -- --ignored --nocapture`.
//! `SPEED_MODEL` names another model file.

mod forward_setup;

use forward_setup::{SMOLLM2, load, model, schedule};
use inferc_runtime::forward::LocalModel;
use inferc_runtime::model::{Append, LanguageModel, Row, SeqId, Wanted};
use inferc_runtime::sample::{Key, Sampler, Sampling, margin, measure, philox, top_tokens, varentropy};
use ir::plan::PrefixMode;
use ir::schedule::{ModelSchedule, Prologue};
use std::time::Instant;

fn run(model: &mut LocalModel, appends: &[(SeqId, &[u32])]) {
    let appends: Vec<Append<'_>> =
        appends.iter().map(|(seq, tokens)| Append { seq: *seq, tokens, wanted: Wanted::Last }).collect();
    model.step(&appends, &mut |_, _, row| assert!(row.is_sound())).expect("steps");
}

/// Seconds of each of `n` runs, sorted.
fn times(n: usize, mut f: impl FnMut()) -> Vec<f64> {
    let mut all: Vec<f64> = (0..n)
        .map(|_| {
            let start = Instant::now();
            f();
            start.elapsed().as_secs_f64()
        })
        .collect();
    all.sort_by(f64::total_cmp);
    all
}

fn report(what: &str, tokens: usize, t: &[f64]) {
    let per = |i: usize| tokens as f64 / t[i];
    eprintln!("{what}: best {:.1}, median {:.1} tokens/s ({:.3} ms)", per(0), per(t.len() / 2), t[t.len() / 2] * 1e3);
}

/// Prints the time per kernel and starts over.
fn print_profile(model: &mut LocalModel, runs: u32) {
    for (name, seconds) in model.profile() {
        eprintln!("    {name}: {:.0} µs", seconds * 1e6 / f64::from(runs));
    }
    if !model.profile().is_empty() {
        model.start_profile();
    }
}

#[test]
#[ignore = "a measurement, meaningful in release on a quiet machine"]
fn speed() {
    let file = std::env::var("SPEED_MODEL").unwrap_or_else(|_| SMOLLM2.to_owned());
    let number = |name: &str, default: u32| std::env::var(name).ok().and_then(|t| t.parse().ok()).unwrap_or(default);
    let schedule = ModelSchedule {
        max_rows: 512,
        row_block: number("SPEED_ROW_BLOCK", 8),
        attend_rows: number("SPEED_ATTEND_ROWS", 8),
        prefetch: number("SPEED_PREFETCH", 4096),
        prologue: if number("SPEED_FUSED", 0) > 0 { Prologue::Fused } else { Prologue::Split },
        ..schedule()
    };
    let Some(loaded) = load(&file, &schedule) else { return };
    let mut model = model(&loaded, number("SPEED_THREADS", 2) as usize, 1500);
    let tokens: Vec<u32> = (0..2100).map(|i| 100 + i * 37 % 9000).collect();
    // The first steps touch fresh memory; they are measured by themselves.
    let first = model.create().expect("a sequence");
    let t: Vec<f64> = (0..3).map(|_| times(1, || run(&mut model, &[(first, &tokens[..1])]))[0]).collect();
    eprintln!("first three tokens: {:.2}, {:.2}, {:.2} ms", t[0] * 1e3, t[1] * 1e3, t[2] * 1e3);
    model.free(first);
    for depth in [0_usize, 512, 2048] {
        let seq = model.create().expect("a sequence");
        if depth > 0 {
            run(&mut model, &[(seq, &tokens[..depth])]);
        }
        let before = *model.metrics();
        let t = times(64, || run(&mut model, &[(seq, &tokens[..1])]));
        report(&format!("decode at {depth}"), 1, &t);
        let m = model.metrics();
        let each = |a: f64, b: f64| (a - b) * 1e6 / 64.0;
        eprintln!(
            "  prepare {:.0} µs, forward {:.0} µs, head {:.0} µs",
            each(m.prepare_seconds, before.prepare_seconds),
            each(m.forward_seconds, before.forward_seconds),
            each(m.head_seconds, before.head_seconds)
        );
        if number("SPEED_PROFILE", 0) > 0 {
            model.start_profile();
            times(64, || run(&mut model, &[(seq, &tokens[..1])]));
            print_profile(&mut model, 64);
        }
        model.free(seq);
    }
    let t = times(6, || {
        let seq = model.create().expect("a sequence");
        run(&mut model, &[(seq, &tokens[..512])]);
        model.free(seq);
    });
    report("prefill of 512", 512, &t);
    print_profile(&mut model, 6);
    for mode in [PrefixMode::Shared, PrefixMode::Cascade] {
        for n in [8_usize, 16, 32] {
            model.set_prefix_mode(mode);
            let root = model.create().expect("a sequence");
            run(&mut model, &[(root, &tokens[..512])]);
            let branches: Vec<SeqId> = (0..n).map(|_| model.fork(root).expect("a fork")).collect();
            let mut i = 0;
            let t = times(24, || {
                i += 1;
                let next: Vec<[u32; 1]> = (0..n).map(|b| [200 + 13 * b as u32 + i]).collect();
                let appends: Vec<_> = branches.iter().zip(&next).map(|(s, t)| (*s, &t[..])).collect();
                run(&mut model, &appends);
            });
            report(&format!("{n} branches over 512, {mode:?}"), n, &t);
            print_profile(&mut model, 24);
            branches.into_iter().chain([root]).for_each(|s| model.free(s));
        }
    }
}

#[test]
#[ignore = "a measurement, meaningful in release on a quiet machine"]
fn sampling() {
    for vocab in [49_152_u32, 151_936] {
        // Logits like a model's: most tokens far below a few good ones.
        let noise = |i: u32| philox([i, 0, 0, 0], [1, 2])[0] as f32 / u32::MAX as f32;
        let logits: Vec<f32> = (0..vocab).map(|i| 8.0 * noise(i) + 14.0 * noise(i + vocab).powi(40)).collect();
        let row = measure(&logits);
        let plain = Sampling::default();
        let mut sampler = Sampler::default();
        for (name, how) in [
            ("greedy", Sampling { temperature: 0.0, ..plain }),
            ("temperature 0.8", Sampling { temperature: 0.8, ..plain }),
            ("top-p 0.95", Sampling { top_p: 0.95, ..plain }),
            ("top-k 40", Sampling { top_k: 40, ..plain }),
            ("min-p 0.05", Sampling { min_p: 0.05, ..plain }),
        ] {
            let mut position = 0;
            let t = times(200, || {
                position += 1;
                let key = Key { seed: 1, stream: 0, sequence: 0, position, draw: 0 };
                assert!(sampler.sample(&row, &how, key).is_some());
            });
            eprintln!("{vocab} tokens, {name}: {:.1} µs", t[t.len() / 2] * 1e6);
        }
        for (name, f) in [("varentropy", varentropy as fn(&Row<'_>) -> f32), ("margin", margin)] {
            let t = times(200, || assert!(f(&row).is_finite()));
            eprintln!("{vocab} tokens, {name}: {:.1} µs", t[t.len() / 2] * 1e6);
        }
        let t = times(200, || assert_eq!(top_tokens(&row, 8).len(), 8));
        eprintln!("{vocab} tokens, top 8: {:.1} µs", t[t.len() / 2] * 1e6);
        let t = times(50, || assert!(measure(&logits).is_sound()));
        eprintln!("{vocab} tokens, measure: {:.1} µs", t[t.len() / 2] * 1e6);
    }
}
