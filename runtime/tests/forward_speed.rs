//! How fast the forward pass is on this machine. Measures, asserts little; run it alone:
//! `cargo test --release -p inferc-runtime --features llvm22 --test forward_speed -- --ignored --nocapture`.
//! `SPEED_MODEL` names another model file.

mod forward_setup;

use forward_setup::{SMOLLM2, load, model, schedule};
use inferc_runtime::forward::LocalModel;
use inferc_runtime::model::{Append, LanguageModel, OwnedRow, Row, SeqId, Wanted};
use inferc_runtime::sample::{Draw, Key, Sampling, margin, top_tokens, varentropy};
use ir::plan::PrefixMode;
use ir::schedule::{Attention, KvFormat, ModelSchedule, Prologue};
use std::time::Instant;

fn run(model: &mut LocalModel, appends: &[(SeqId, &[u32])]) {
    let appends: Vec<Append<'_>> = appends
        .iter()
        .map(|(seq, tokens)| Append { seq: *seq, tokens, wanted: Wanted::Last, decoded: tokens.len() == 1 })
        .collect();
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

/// Runs `n` times with every launch timed by itself and prints the least and the median time per kernel.
fn print_profile(model: &mut LocalModel, n: usize, mut f: impl FnMut(&mut LocalModel)) {
    let mut all: Vec<(String, Vec<f64>)> = Vec::new();
    for _ in 0..n {
        model.start_profile();
        f(model);
        for (i, kernel) in model.profile().iter().enumerate() {
            if all.len() == i {
                all.push((kernel.name.clone(), Vec::new()));
            }
            all[i].1.push(kernel.seconds * 1e6);
        }
    }
    model.stop_profile();
    for (name, mut t) in all {
        t.sort_by(f64::total_cmp);
        eprintln!("    {name}: {:.0} µs, median {:.0}", t[0], t[n / 2]);
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
        kv: if number("SPEED_INT8", 0) > 0 { KvFormat::Int8 } else { KvFormat::F16 },
        attention: match number("SPEED_PAGES", 0) {
            0 => Attention::Dense,
            pages => Attention::sparse(pages),
        },
        prologue: if number("SPEED_FUSED", 0) > 0 { Prologue::Fused } else { Prologue::Split },
        ..schedule()
    };
    let Some(loaded) = load(&file, &schedule) else { return };
    let mut model = model(&loaded, number("SPEED_THREADS", 2) as usize, 2500);
    let tokens: Vec<u32> = (0..8000).map(|i| 100 + i * 37 % 9000).collect();
    // The first steps touch fresh memory; they are measured by themselves.
    let first = model.create().expect("a sequence");
    let t: Vec<f64> = (0..3).map(|_| times(1, || run(&mut model, &[(first, &tokens[..1])]))[0]).collect();
    eprintln!("first three tokens: {:.2}, {:.2}, {:.2} ms", t[0] * 1e3, t[1] * 1e3, t[2] * 1e3);
    model.free(first);
    let profile = number("SPEED_PROFILE", 0) > 0;
    let list = |name: &str, default: &str| -> Vec<usize> {
        let text = std::env::var(name).unwrap_or_else(|_| default.to_owned());
        text.split(',').filter_map(|n| n.parse().ok()).collect()
    };
    for depth in list("SPEED_DEPTHS", "0,512,2048,7900") {
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
        if profile {
            print_profile(&mut model, 64, |model| run(model, &[(seq, &tokens[..1])]));
        }
        model.free(seq);
    }
    for n in list("SPEED_PROMPTS", "512") {
        let prefill = |model: &mut LocalModel| {
            let seq = model.create().expect("a sequence");
            run(model, &[(seq, &tokens[..n])]);
            model.free(seq);
        };
        let t = times(6, || prefill(&mut model));
        report(&format!("prefill of {n}"), n, &t);
        if profile {
            print_profile(&mut model, 6, prefill);
        }
    }
    for mode in [PrefixMode::Shared, PrefixMode::Cascade] {
        for n in list("SPEED_BRANCHES", "8,16,32") {
            model.set_prefix_mode(mode);
            let root = model.create().expect("a sequence");
            run(&mut model, &[(root, &tokens[..512])]);
            let branches: Vec<SeqId> = (0..n).map(|_| model.fork(root).expect("a fork")).collect();
            let mut i = 0;
            let mut step = |model: &mut LocalModel| {
                i += 1;
                let next: Vec<[u32; 1]> = (0..n).map(|b| [200 + 13 * b as u32 + i]).collect();
                let appends: Vec<_> = branches.iter().zip(&next).map(|(s, t)| (*s, &t[..])).collect();
                run(model, &appends);
            };
            let t = times(24, || step(&mut model));
            report(&format!("{n} branches over 512, {mode:?}"), n, &t);
            if profile {
                print_profile(&mut model, 24, step);
            }
            branches.into_iter().chain([root]).for_each(|s| model.free(s));
        }
    }
}

#[test]
#[ignore = "a measurement, meaningful in release on a quiet machine"]
fn sampling() {
    let file = std::env::var("SPEED_MODEL").unwrap_or_else(|_| SMOLLM2.to_owned());
    let Some(loaded) = load(&file, &schedule()) else { return };
    let mut model = model(&loaded, 2, 300);
    let tokens: Vec<u32> = (0..32).map(|i| 100 + i * 37 % 9000).collect();
    let seqs: Vec<SeqId> = tokens.iter().map(|_| model.create().expect("a sequence")).collect();
    let vocab = model.info().vocab;
    let plain = Sampling::default();
    for (name, how) in [
        ("greedy", Sampling { temperature: 0.0, ..plain }),
        ("temperature 1", plain),
        ("temperature 0.8", Sampling { temperature: 0.8, ..plain }),
        ("top-p 0.95", Sampling { top_p: 0.95, ..plain }),
        ("top-p 0.95 at 0.8", Sampling { top_p: 0.95, temperature: 0.8, ..plain }),
        ("top-k 40", Sampling { top_k: 40, ..plain }),
        ("min-p 0.05", Sampling { min_p: 0.05, ..plain }),
    ] {
        for n in [1, 8, 32] {
            let appends: Vec<Append<'_>> = seqs[..n]
                .iter()
                .zip(tokens.chunks(1))
                .map(|(seq, tokens)| Append { seq: *seq, tokens, wanted: Wanted::Last, decoded: true })
                .collect();
            let mut position = 0;
            let t = (0..20).map(|_| {
                position += 1;
                let before = model.metrics().sample_seconds;
                let mut look = |i: usize, _: Row<'_>| {
                    let key = Key { seed: 1, stream: 0, sequence: i as u32, position, draw: 0 };
                    Some(Draw { how, uniform: key.uniform(), allowed: None })
                };
                let choices = model.step_and_choose(&appends, &mut look).expect("steps");
                assert!(choices.iter().all(Option::is_some));
                model.metrics().sample_seconds - before
            });
            let mut t: Vec<f64> = t.collect();
            t.sort_by(f64::total_cmp);
            eprintln!("{vocab} tokens, {n} rows, {name}: {:.2} µs per row", t[t.len() / 2] * 1e6 / n as f64);
        }
    }
    let mut rows = Vec::new();
    let append = [Append { seq: seqs[0], tokens: &tokens[..1], wanted: Wanted::Last, decoded: true }];
    model.step(&append, &mut |_, _, row| rows.push(OwnedRow::of(&row))).expect("steps");
    let row = rows[0].row();
    for (name, f) in [("varentropy", varentropy as fn(&Row<'_>) -> f32), ("margin", margin)] {
        let t = times(200, || assert!(f(&row).is_finite()));
        eprintln!("{vocab} tokens, {name}: {:.1} µs", t[t.len() / 2] * 1e6);
    }
    let t = times(200, || assert_eq!(top_tokens(&row, 8, |_| true).len(), 8));
    eprintln!("{vocab} tokens, top 8: {:.1} µs", t[t.len() / 2] * 1e6);
}
