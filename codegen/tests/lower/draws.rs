//! Drawing tokens and editing pages: kernels against a full sort in f64, and the promise of equal bits.

use crate::machine::{Engine, Machine, PAGES, Tiny, schedule};
use crate::weights::Random;
use ir::model::Family;
use ir::program::{Buf, EDIT_WORDS, GROUP, PAGE, Program, STAT_BLOCK, mask_bytes};
use ir::schedule::ModelSchedule;
use ir::tensor::DType;

/// How to draw one token.
#[derive(Clone, Debug)]
pub(crate) struct Draw {
    pub(crate) row: usize,
    pub(crate) allowed: Option<Vec<bool>>,
    pub(crate) top_k: usize,
    pub(crate) temperature: f32,
    pub(crate) top_p: f32,
    pub(crate) min_p: f32,
    pub(crate) uniform: f64,
}

pub(crate) fn plain(row: usize, uniform: f64) -> Draw {
    Draw { row, allowed: None, top_k: 0, temperature: 1.0, top_p: 1.0, min_p: 0.0, uniform }
}

/// A model of one layer whose vocabulary is what matters.
pub(crate) fn machine(vocab: u32, team: i64) -> Machine {
    let tiny = Tiny::new(Family::Llama, 1, [32, 1, 1, 32, 32, vocab], [DType::F16; 8]);
    let mut m = Machine::new(&tiny, &ModelSchedule { max_rows: 16, max_head_rows: 16, ..schedule() }, team);
    keep_kernels(&mut m.program);
    m
}

/// Leaves the kernels that these tests run.
fn keep_kernels(program: &mut Program) {
    program.kernels.retain(|k| ["finalise", "weigh", "draw", "fork"].contains(&k.name.as_str()));
    let index = |name: &str| program.kernels.iter().position(|k| k.name == name).expect("the kernel is there") as u32;
    let (finalise, weigh, draw, fork) = (index("finalise"), index("weigh"), index("draw"), index("fork"));
    let last = program.head.pop().expect("the head ends with a summary");
    program.head = vec![ir::program::Launch { kernel: finalise, ..last }];
    program.sample[0].kernel = weigh;
    program.sample[1].kernel = draw;
    program.fork.iter_mut().for_each(|l| l.kernel = fork);
}

fn words(buffer: &mut [u8], at: usize, values: &[u32]) {
    for (i, v) in values.iter().enumerate() {
        buffer[at + 4 * i..at + 4 * i + 4].copy_from_slice(&v.to_le_bytes());
    }
}

/// Puts rows of logits and their statistics where `head` leaves them.
fn put_rows(m: &mut Machine, rows: &[Vec<f32>]) {
    let padded = rows[0].len().next_multiple_of(16);
    let blocks = padded.div_ceil(STAT_BLOCK);
    for (r, row) in rows.iter().enumerate() {
        let mut bits: Vec<u32> = row.iter().map(|x| x.to_bits()).collect();
        bits.resize(padded, f32::NEG_INFINITY.to_bits());
        words(m.buffers.get_mut(&Buf::Logits).expect("logits"), 4 * r * padded, &bits);
        for (block, x) in row.chunks(STAT_BLOCK).enumerate() {
            let most = x.iter().copied().fold(f32::NEG_INFINITY, f32::max);
            let first = x.iter().position(|v| *v == most).unwrap_or(0) + block * STAT_BLOCK;
            let (mut sum, mut weighted) = (0.0, 0.0);
            for v in x.iter().filter(|v| **v != f32::NEG_INFINITY) {
                let d = f64::from(*v) - f64::from(most);
                sum += d.exp();
                weighted += if d > -700.0 { d * d.exp() } else { 0.0 };
            }
            let stats = [most.to_bits(), (sum as f32).to_bits(), (weighted as f32).to_bits(), first as u32];
            words(m.buffers.get_mut(&Buf::Stats).expect("statistics"), 16 * (r * blocks + block), &stats);
        }
    }
}

/// Puts rows and what to draw from them where the kernels look.
pub(crate) fn put(m: &mut Machine, rows: &[Vec<f32>], draws: &[Draw]) {
    let vocab = rows[0].len();
    put_rows(m, rows);
    let step = [0, 0, rows.len() as i64, PAGES as i64, draws.len() as i64, 0, 0, 0];
    let bytes: Vec<u8> = step.iter().flat_map(|w: &i64| w.to_le_bytes()).collect();
    m.buffers.get_mut(&Buf::Step).expect("a header")[..64].copy_from_slice(&bytes);
    let mask_row = mask_bytes(vocab as u64) as usize;
    for (i, d) in draws.iter().enumerate() {
        let mut words = [0u64; 8];
        words[0] = d.row as u64;
        words[1] = if d.allowed.is_some() { i as u64 } else { u64::MAX };
        words[2] = if d.top_k == 0 { vocab } else { d.top_k.min(vocab) } as u64;
        words[3] = u64::from(if d.temperature > 0.0 { 1.0 / d.temperature } else { 0.0 }.to_bits());
        words[4] = d.top_p.to_bits().into();
        words[5] = d.min_p.to_bits().into();
        words[6] = d.uniform.to_bits();
        let bytes: Vec<u8> = words.iter().flat_map(|w| w.to_le_bytes()).collect();
        m.buffers.get_mut(&Buf::Draws).expect("draws")[64 * i..64 * i + 64].copy_from_slice(&bytes);
        if let Some(allowed) = &d.allowed {
            let row = &mut m.buffers.get_mut(&Buf::Masks).expect("masks")[i * mask_row..][..mask_row];
            row.fill(0xA5);
            for (t, yes) in allowed.iter().enumerate() {
                let bit = 1 << (t % 8);
                row[t / 8] = if *yes { row[t / 8] | bit } else { row[t / 8] & !bit };
            }
        }
    }
}

/// Runs summaries and draws; returns the bits of both.
fn run(engine: &Engine, m: &mut Machine, rows: &[Vec<f32>], draws: &[Draw]) -> (Vec<[u32; 4]>, Vec<(i32, f32)>) {
    put(m, rows, draws);
    for launch in m.program.head.clone().iter().chain(&m.program.sample.clone()) {
        m.launch(engine, launch);
    }
    let word = |buf: Buf, i: usize| {
        let b = &m.buffers[&buf][4 * i..];
        u32::from_le_bytes([b[0], b[1], b[2], b[3]])
    };
    let facts = (0..rows.len()).map(|r| [0, 1, 2, 3].map(|i| word(Buf::Facts, 4 * r + i))).collect();
    let choices = (0..draws.len())
        .map(|d| (word(Buf::Choices, 2 * d) as i32, f32::from_bits(word(Buf::Choices, 2 * d + 1))))
        .collect();
    (facts, choices)
}

/// Weights of the tokens that the filters keep, in f64, by a full sort.
fn kept(logits: &[f32], d: &Draw, nudge: f64) -> Vec<f64> {
    let allowed = |i: &usize| logits[*i] > f32::NEG_INFINITY && d.allowed.as_ref().is_none_or(|a| a[*i]);
    let mut order: Vec<usize> = (0..logits.len()).filter(allowed).collect();
    order.sort_by(|a, b| logits[*b].partial_cmp(&logits[*a]).expect("numbers").then(a.cmp(b)));
    let most = f64::from(logits[order[0]]);
    let w = |i: usize| ((f64::from(logits[i]) - most) / f64::from(d.temperature)).exp();
    if d.top_k > 0 {
        order.truncate(d.top_k);
    }
    if d.top_p < 1.0 {
        let target = (f64::from(d.top_p) + nudge) * order.iter().map(|i| w(*i)).sum::<f64>();
        let mut mass = 0.0;
        let n = order.iter().position(|i| {
            mass += w(*i);
            mass >= target
        });
        order.truncate(n.map_or(order.len(), |n| n + 1));
    }
    order.retain(|i| w(*i) >= f64::from(d.min_p) * (1.0 + nudge));
    let mut weights = vec![0.0; logits.len()];
    order.iter().for_each(|i| weights[*i] = w(*i));
    weights
}

/// The token stands where the draw falls, up to the rounding of f32.
fn check(logits: &[f32], d: &Draw, token: i32, logprob: f32) {
    let token = usize::try_from(token).unwrap_or_else(|_| panic!("no token: {d:?}"));
    if d.temperature <= 0.0 {
        let allowed = |i: &usize| d.allowed.as_ref().is_none_or(|a| a[*i]);
        let most = (0..logits.len()).filter(allowed).map(|i| logits[i]).fold(f32::NEG_INFINITY, f32::max);
        let first = (0..logits.len()).filter(allowed).find(|i| logits[*i] == most);
        assert_eq!(Some(token), first, "{d:?}");
    } else {
        let fits = |nudge: f64| {
            let weights = kept(logits, d, nudge);
            let total: f64 = weights.iter().sum();
            let before = weights[..token].iter().sum::<f64>() / total;
            let after = before + weights[token] / total;
            weights[token] > 0.0 && (before - 3e-6..=after + 3e-6).contains(&d.uniform)
        };
        assert!([0.0, 2e-6, -2e-6].into_iter().any(fits), "token {token} of {d:?}");
    }
    let log_z = logits.iter().map(|x| f64::from(*x).exp()).sum::<f64>().ln();
    let want = f64::from(logits[token]) - log_z;
    assert!((f64::from(logprob) - want).abs() < 2e-6 * want.abs().max(10.0), "{logprob}, not {want}: {d:?}");
}

/// Rows of all kinds: peaked, flat, tied, with −∞, wide.
fn rows(vocab: usize) -> Vec<Vec<f32>> {
    let mut r = Random(vocab as u64);
    let mut row = |f: &dyn Fn(usize, f32) -> f32| -> Vec<f32> { (0..vocab).map(|i| f(i, r.unit() as f32)).collect() };
    vec![
        row(&|_, x| x * x * x * 14.0),
        row(&|_, x| x),
        row(&|_, x| (x * 4.0).round() * 0.5 - 0.0),
        row(&|i, x| if i % 3 == 0 { x * 9.0 } else { f32::NEG_INFINITY }),
        row(&|i, x| if i % 97 == 5 { 30.0 } else { x * 40.0 }),
        row(&|_, x| x * 300.0),
        row(&|_, _| 2.5),
    ]
}

fn settings(vocab: usize, row: usize, r: &mut Random) -> Vec<Draw> {
    let mut u = || (r.unit() * 0.5 + 0.5).clamp(0.0, 0.999_999_999);
    let d = plain(row, 0.0);
    let third: Vec<bool> = (0..vocab).map(|i| i % 7 == 3 || i + 1 == vocab).collect();
    let mut all = vec![
        d.clone(),
        Draw { temperature: 0.0, ..d.clone() },
        Draw { temperature: 0.3, ..d.clone() },
        Draw { temperature: 4.0, ..d.clone() },
        Draw { top_k: 1, temperature: 0.7, ..d.clone() },
        Draw { top_k: 3, ..d.clone() },
        Draw { top_k: 40, top_p: 0.8, temperature: 1.3, ..d.clone() },
        Draw { top_k: vocab - 1, temperature: 2.0, ..d.clone() },
        Draw { top_p: 1e-9, ..d.clone() },
        Draw { top_p: 0.5, ..d.clone() },
        Draw { top_p: 0.95, temperature: 0.6, ..d.clone() },
        Draw { top_p: 0.9999, temperature: 3.0, ..d.clone() },
        Draw { min_p: 1.0, ..d.clone() },
        Draw { min_p: 0.05, temperature: 1.5, ..d.clone() },
        Draw { top_k: 17, top_p: 0.9, min_p: 0.02, ..d.clone() },
    ];
    all.iter_mut().for_each(|d| d.uniform = u());
    all[0].uniform = 0.0;
    all.push(Draw { uniform: 1.0 - f64::EPSILON / 2.0, ..d.clone() });
    for mut d in all.clone().into_iter().step_by(3) {
        d.allowed = Some(third.clone());
        d.uniform = u();
        all.push(d);
    }
    all
}

/// Draws one row's settings, masked ones on copies of the row of their own.
fn check_row(engine: &Engine, m: &mut Machine, logits: &[f32], all: &[Draw]) -> Vec<(i32, u32)> {
    let mut results = Vec::new();
    for batch in all.chunks(15) {
        let mut rows = vec![logits.to_vec()];
        let batch: Vec<Draw> = batch
            .iter()
            .map(|d| {
                if d.allowed.is_some() {
                    rows.push(logits.to_vec());
                }
                Draw { row: if d.allowed.is_some() { rows.len() - 1 } else { 0 }, ..d.clone() }
            })
            .collect();
        let (_, choices) = run(engine, m, &rows, &batch);
        for (d, (token, logprob)) in batch.iter().zip(choices) {
            check(logits, d, token, logprob);
            results.push((token, logprob.to_bits()));
        }
    }
    results
}

#[test]
fn draws_stand_where_they_fall() {
    for vocab in [5u32, 16, 96, 2048, 2100, 6151] {
        let mut m = machine(vocab, 2);
        let engine = Engine::best(&m.program);
        let mut r = Random(9);
        for logits in rows(vocab as usize) {
            if logits.iter().all(|x| *x == f32::NEG_INFINITY) {
                continue;
            }
            let all = settings(vocab as usize, 0, &mut r);
            let all: Vec<Draw> = all
                .into_iter()
                .filter(|d| {
                    d.allowed.as_ref().is_none_or(|a| (0..a.len()).any(|i| a[i] && logits[i] > f32::NEG_INFINITY))
                })
                .collect();
            check_row(&engine, &mut m, &logits, &all);
        }
    }
}

#[test]
fn back_ends_and_teams_draw_the_same_bits() {
    let vocab = 2100;
    let mut r = Random(2);
    let table: Vec<(Vec<f32>, Vec<Draw>)> =
        rows(vocab).into_iter().take(4).map(|row| (row, settings(vocab, 0, &mut r))).collect();
    let results = |engine: &Engine, team: i64| -> Vec<Vec<(i32, u32)>> {
        let mut m = machine(vocab as u32, team);
        table.iter().map(|(row, all)| check_row(engine, &mut m, row, all)).collect()
    };
    let program = machine(vocab as u32, 1).program;
    let expected = results(&Engine::Interp, 1);
    for (name, engine) in Engine::all(&program) {
        for team in [1, 2, 3, 7] {
            assert_eq!(expected, results(&engine, team), "{name}, team {team}");
        }
    }
}

#[test]
fn summaries_equal_their_definitions() {
    for vocab in [96usize, 2100, 6151] {
        let rows = rows(vocab);
        let mut m = machine(vocab as u32, 2);
        let engine = Engine::best(&m.program);
        let (facts, _) = run(&engine, &mut m, &rows, &[]);
        for (row, got) in rows.iter().zip(facts) {
            let z: f64 = row.iter().map(|x| f64::from(*x).exp()).sum();
            let entropy: f64 =
                row.iter().map(|x| f64::from(*x) - z.ln()).filter(|l| *l > -700.0).map(|l| -l * l.exp()).sum();
            let most = row.iter().copied().fold(f32::NEG_INFINITY, f32::max);
            let [max, log_z, h] = [0, 1, 2].map(|i| f32::from_bits(got[i]));
            assert_eq!((max, Some(got[3] as usize)), (most, row.iter().position(|x| *x == most)));
            assert!((f64::from(log_z) - z.ln()).abs() < 3e-7 * z.ln().abs().max(4.0), "{log_z} {}", z.ln());
            assert!((f64::from(h) - entropy).abs() < 1e-6 + 3e-6 * entropy, "{h}, not {entropy}");
        }
    }
}

#[test]
fn unsound_rows_and_empty_masks_draw_nothing() {
    let vocab = 2100;
    let good: Vec<f32> = (0..vocab).map(|i| (i % 13) as f32).collect();
    let with = |at: usize, x: f32| {
        let mut row = good.clone();
        row[at] = x;
        row
    };
    let rows =
        vec![good.clone(), with(2050, f32::NAN), with(3, f32::INFINITY), vec![f32::NEG_INFINITY; vocab], good.clone()];
    let mut draws: Vec<Draw> = (0..4).map(|row| plain(row, 0.5)).collect();
    draws.extend((0..4).map(|row| Draw { temperature: 0.0, ..plain(row, 0.5) }));
    draws.extend((0..4).map(|row| Draw { top_p: 0.9, top_k: 30, ..plain(row, 0.5) }));
    draws.push(Draw { allowed: Some(vec![false; vocab]), ..plain(4, 0.5) });
    let mut m = machine(vocab as u32, 2);
    let engine = Engine::best(&m.program);
    put_rows(&mut m, &rows);
    let (facts, choices) = run(&engine, &mut m, &rows, &draws);
    for (d, (token, _)) in draws.iter().zip(&choices) {
        assert_eq!(*token >= 0, d.row == 0, "{d:?}");
    }
    let sound = |f: &[u32; 4]| f32::from_bits(f[0]).is_finite() && f32::from_bits(f[1]).is_finite();
    assert_eq!(facts.iter().map(sound).collect::<Vec<_>>(), [true, false, false, false, true]);
}

#[test]
fn pages_are_copied_and_cleared() {
    let tiny = Tiny::new(Family::Llama, 2, [64, 4, 2, 64, 64, 96], [DType::F16; 8]);
    for team in [1, 2, 3, 7] {
        let mut m = Machine::new(&tiny, &schedule(), team);
        keep_kernels(&mut m.program);
        let engine = if team == 7 { Engine::Interp } else { Engine::best(&m.program) };
        // Not numbers, infinities, denormals: all bits move as they are.
        let mut r = Random(team as u64);
        for plane in m.kv.iter_mut().flatten() {
            plane.iter_mut().for_each(|b| *b = (r.unit() * 1e6) as i64 as u8);
        }
        let edits = [[3, 10, 16], [3, 11, 5], [4, 12, 0], [7, 7, 9], [20, 20, 0], [5, 13, 1]];
        let words: Vec<i64> = edits
            .iter()
            .flat_map(|[from, to, slots]| [m.number(*from) as i64, m.number(*to) as i64, *slots as i64, 0])
            .collect();
        assert_eq!(words.len(), edits.len() * EDIT_WORDS);
        let put = |buffer: &mut Vec<u8>, words: &[i64]| {
            for (i, w) in words.iter().enumerate() {
                buffer[8 * i..8 * i + 8].copy_from_slice(&w.to_le_bytes());
            }
        };
        put(m.buffers.get_mut(&Buf::Step).expect("a header"), &[0, 0, 0, PAGES as i64, 0, edits.len() as i64, 0, 0]);
        put(m.buffers.get_mut(&Buf::Edits).expect("edits"), &words);
        let mut want = m.kv.clone();
        let block = m.program.page_bytes as usize / 2;
        for ([from, to, slots], head) in edits.into_iter().flat_map(|e| [(e, 0), (e, 1)]) {
            let [from, to] = [from, to].map(|page| (m.number(page) + 2 * GROUP * head) * block);
            for layer in &mut want {
                for (values, plane) in layer.iter_mut().enumerate() {
                    let source = plane[from..from + block].to_vec();
                    for (i, b) in source.into_iter().enumerate() {
                        let slot = if values == 0 { i / 2 % PAGE } else { i / 2 / 64 % PAGE };
                        plane[to + i] = if slot < slots { b } else { 0 };
                    }
                }
            }
        }
        for launch in m.program.fork.clone() {
            m.launch(&engine, &launch);
        }
        assert!(m.kv == want, "team {team}");
    }
}
