//! Keys and values in int8, and attention to chosen pages: the same arithmetic and the same promises of equal bits, and
//! what is special to them: bounds hold, lists are the right ones, a budget that covers everything changes nothing.

use crate::machine::{Engine, Machine, PAGES, Row, Tiny, Widths, element, page_of, schedule};
use crate::{check_step, row};
use half::f16;
use ir::model::{Family, Model};
use ir::program::{Buf, PAGE, SUMMARY_CHANNELS, SUMMARY_SCALES};
use ir::schedule::{Attention, KvFormat, ModelSchedule};
use ir::tensor::DType;

/// Hidden 96, three query heads per KV head, dimensions of 64.
const WIDTHS: Widths = [96, 6, 2, 64, 96, 40];

fn tiny() -> Tiny {
    tiny_of(64)
}

/// The same with heads of so many dimensions.
fn tiny_of(head_dim: u32) -> Tiny {
    let mut widths = WIDTHS;
    widths[3] = head_dim;
    Tiny::new(Family::Llama, 2, widths, [DType::Q8_0; 8])
}

/// Schedules that choose pages, and head dimensions: less than a line of bounds has, as many, and more.
fn choosing() -> Vec<(ModelSchedule, u32)> {
    let make = |kv, head_dim| (ModelSchedule { kv, attention: SPARSE, ..schedule() }, head_dim);
    let all = schedules().into_iter().filter(|s| s.attention.chooses());
    let others = [make(KvFormat::F16, 32), make(KvFormat::Int8, 96), make(KvFormat::F16, 128)];
    all.map(|s| (s, 64)).chain(others).collect()
}

/// A dense layer, then one that chooses 7 pages.
const SPARSE: Attention = Attention::Sparse { pages: 7, sinks: 1, window: 2, dense_layers: 1, top_p: 1000 };

fn schedules() -> Vec<ModelSchedule> {
    let make = |kv, attention| ModelSchedule { kv, attention, ..schedule() };
    vec![
        make(KvFormat::Int8, Attention::Dense),
        make(KvFormat::F16, SPARSE),
        make(KvFormat::Int8, SPARSE),
        make(KvFormat::F16, SPARSE.trimmed(600)),
        make(KvFormat::Int8, SPARSE.trimmed(300)),
    ]
}

/// Sequences that go on by one token, long and short, at a page's start, middle and end; and a prompt across pages.
fn rows() -> Vec<Row> {
    let mut rows = vec![row(0, 527), row(1, 400)];
    rows.extend((40..53).map(|p| row(2, p)));
    rows.push(row(3, 37));
    rows
}

#[test]
fn every_launch_leaves_what_it_should() {
    for s in schedules() {
        check_step(&tiny(), &s, &rows(), false);
        check_step(&tiny(), &s, &rows()[..1], true);
        check_step(&tiny(), &s, &[row(0, 0)], true);
    }
}

fn outcomes(s: &ModelSchedule, team: i64, cut: bool, engine: &Engine, rows: &[Row]) -> Vec<Vec<u32>> {
    let tiny = tiny();
    let mut m = Machine::new(&tiny, s, team);
    m.cut = cut;
    m.run(engine, rows);
    (0..rows.len()).map(|i| m.outcome(&tiny.model, i, rows.len())).collect()
}

#[test]
fn back_ends_teams_and_cuts_give_the_same_bits() {
    for s in schedules() {
        let rows = &rows()[..];
        let program = Machine::new(&tiny(), &s, 1).program;
        let expected = outcomes(&s, 1, false, &Engine::Interp, rows);
        for (name, engine) in Engine::all(&program) {
            for (team, cut) in [(1, false), (2, true), (3, false)] {
                assert_eq!(expected, outcomes(&s, team, cut, &engine, rows), "{name}, team {team}, {s:?}");
            }
        }
    }
}

/// Sequences that end at the edges of pages and chunks.
fn edges() -> Vec<Row> {
    vec![row(0, 0), row(1, 14), row(1, 15), row(1, 16), row(2, 254), row(2, 255), row(2, 256), row(3, 527)]
}

/// Over int8, what a launch leaves and the same bits for rows alone and together, by twos, fours and more, whatever the
/// query heads of a KV head and their dimensions; one step of it against the interpreter.
#[test]
fn edges_of_pages_and_chunks_over_bytes() {
    for (heads, kv_heads, dim) in [(1, 1, 128), (4, 2, 96), (3, 1, 64), (8, 2, 64), (5, 1, 32), (7, 1, 64), (8, 1, 256)]
    {
        let tiny = Tiny::new(Family::Llama, 1, [96, heads, kv_heads, dim, 96, 40], [DType::Q8_0; 8]);
        let make = |attend_rows| ModelSchedule { kv: KvFormat::Int8, attend_rows, ..schedule() };
        check_step(&tiny, &make(8), &edges(), true);
        let run = |attend_rows, team, rows: &[Row], pick: &dyn Fn(&Machine) -> Engine| {
            let mut m = Machine::new(&tiny, &make(attend_rows), team);
            let engine = pick(&m);
            m.run(&engine, rows);
            (0..rows.len()).map(|i| m.outcome(&tiny.model, i, rows.len())).collect::<Vec<_>>()
        };
        let best = |m: &Machine| Engine::best(&m.program);
        let expected = run(8, 2, &edges(), &best);
        for (attend_rows, team) in [(1, 1), (2, 3), (64, 2)] {
            assert!(expected == run(attend_rows, team, &edges(), &best), "{heads} heads of {dim}, {attend_rows} rows");
        }
        if dim == 96 {
            let few = &edges()[..7];
            assert!(expected[..7] == run(8, 2, few, &|_| Engine::Interp), "{heads} heads of {dim}, interpreted");
        }
    }
}

#[test]
fn a_query_that_is_not_finite_spoils_its_row_alone() {
    let s = ModelSchedule { kv: KvFormat::Int8, ..schedule() };
    let (tiny, rows) = (tiny(), edges());
    let run = |spoilt: Option<(usize, f32)>| {
        let mut m = Machine::new(&tiny, &s, 2);
        m.step(&rows);
        let engine = Engine::best(&m.program);
        for launch in m.program.forward.clone() {
            if m.program.kernels[launch.kernel as usize].name.starts_with("attend")
                && let Some((row, x)) = spoilt
            {
                // One dimension of one head.
                let at = 4 * (row * 6 * 64 + 2 * 64 + 17);
                m.buffers.get_mut(&Buf::Query).expect("queries")[at..at + 4].copy_from_slice(&x.to_le_bytes());
            }
            m.launch(&engine, &launch);
        }
        let hidden = tiny.model.hidden as usize;
        (0..rows.len()).map(|i| m.floats(Buf::Hidden, i * hidden, hidden)).collect::<Vec<_>>()
    };
    let bits = |x: &[f32]| x.iter().map(|x| x.to_bits()).collect::<Vec<_>>();
    let plain = run(None);
    for (row, x) in [(0, f32::NAN), (3, f32::INFINITY), (6, f32::NEG_INFINITY), (7, f32::NAN)] {
        for (i, (got, want)) in run(Some((row, x))).iter().zip(&plain).enumerate() {
            if i == row {
                assert!(got.iter().any(|x| !x.is_finite()), "row {row} with {x}");
            } else {
                assert_eq!(bits(got), bits(want), "row {i} beside row {row} with {x}");
            }
        }
    }
}

#[test]
fn a_row_alone_equals_the_row_in_a_batch() {
    for s in schedules() {
        let (tiny, rows) = (tiny(), [row(0, 527), row(1, 400), row(2, 111), row(3, 37)]);
        let mut batch = Machine::new(&tiny, &s, 2);
        let engine = Engine::best(&batch.program);
        let start = batch.buffers[&Buf::Hidden].clone();
        batch.run(&engine, &rows);
        let mut alone = Machine::new(&tiny, &s, 1);
        let hidden = tiny.model.hidden as usize * 4;
        for (i, row) in rows.iter().enumerate() {
            let h = alone.buffers.get_mut(&Buf::Hidden).expect("a residual stream");
            h[..hidden].copy_from_slice(&start[i * hidden..(i + 1) * hidden]);
            alone.run(&engine, std::slice::from_ref(row));
            assert_eq!(batch.outcome(&tiny.model, i, rows.len()), alone.outcome(&tiny.model, 0, 1), "{s:?}, row {i}");
        }
        assert!(batch.kv == alone.kv && batch.summaries == alone.summaries, "{s:?}: caches differ");
    }
}

#[test]
fn a_budget_for_all_pages_is_dense_to_the_bit() {
    for kv in [KvFormat::F16, KvFormat::Int8] {
        let rows = &[row(0, 527), row(1, 400), row(2, 15), row(3, 16)];
        let dense = ModelSchedule { kv, ..schedule() };
        let start = Machine::new(&tiny(), &dense, 1);
        let expected = outcomes(&dense, 1, false, &Engine::best(&start.program), rows);
        for (pages, window) in [(33, 2), (64, 1), (40, 39)] {
            let tiny = tiny();
            let attention = Attention::Sparse { pages, sinks: 1, window, dense_layers: 0, top_p: 1000 };
            let mut m = Machine::new(&tiny, &ModelSchedule { attention, ..dense }, 2);
            m.list_all = true;
            m.take_cache(&start);
            let engine = Engine::best(&m.program);
            m.run(&engine, rows);
            for (i, row) in rows.iter().enumerate() {
                let all: Vec<usize> = (0..=row.position / PAGE).map(|p| page_of(row.sequence, p)).collect();
                assert_eq!(m.pages_of(1, i, row, 1), all, "all pages in order");
                assert_eq!(m.outcome(&tiny.model, i, rows.len()), expected[i], "{attention}, row {i}");
            }
        }
    }
}

/// The bound of a page for a KV head by its summary, and the largest sum of scores of its keys, of a row's queries.
fn bound_and_truth(m: &Machine, model: &Model, layer: usize, row: usize, page: usize, head: usize) -> (f64, f64) {
    let (d, heads) = (model.head_dim as usize, model.heads as usize);
    let group = heads / model.kv_heads as usize;
    let query = m.floats(Buf::Query, (row * heads + head * group) * d, group * d);
    let mut scores = [0.0; PAGE];
    for (i, q) in query.iter().enumerate() {
        for (slot, score) in scores.iter_mut().enumerate() {
            *score += f64::from(*q) * element(m, layer, false, [page, head, i % d, slot]);
        }
    }
    // Four channels share the scale of their bounds and, rounded to bytes, that of their queries.
    let mut bound = 0.0;
    for lane in (0..d).filter(|c| c % SUMMARY_CHANNELS < SUMMARY_SCALES) {
        let four = (lane..d.min(lane + SUMMARY_CHANNELS)).step_by(SUMMARY_SCALES);
        let signs = four.map(|c| {
            let q = query[c..].iter().step_by(d);
            (c, [q.clone().fold(0.0, |sum, q| sum + q.max(0.0)), q.fold(0.0, |sum: f32, q| sum - q.min(0.0))])
        });
        let signs: Vec<(usize, [f32; 2])> = signs.collect();
        let most = signs.iter().flat_map(|(_, x)| x).fold(0.0, |most: f32, x| most.max(*x));
        // Half a step of every factor, times the most that a byte of a bound is.
        let mut dots = 8.0 * 0.5 * 128.0;
        let mut scale = 0.0;
        for (c, signs) in signs {
            for (low, q) in [false, true].into_iter().zip(signs) {
                let (byte, step) = m.layout.bound_of(&m.summaries[layer], [page, head], c, low);
                let rounded = if most < 1e-30 { 0.0 } else { (q * (255.0 / most)).round_ties_even() };
                dots += f64::from(rounded) * f64::from(byte);
                scale = f64::from(step);
            }
        }
        bound += dots * scale * f64::from(most) / 255.0;
    }
    (bound, scores.into_iter().fold(f64::MIN, f64::max))
}

#[test]
fn lists_hold_the_pages_with_the_largest_bounds() {
    for (s, head_dim) in choosing().into_iter().filter(|(s, _)| !s.attention.trims()) {
        let tiny = tiny_of(head_dim);
        let rows = [row(0, 527), row(1, 400), row(3, 111)];
        let mut m = Machine::new(&tiny, &s, 2);
        let engine = Engine::best(&m.program);
        m.run(&engine, &rows);
        for (i, row) in rows.iter().enumerate() {
            for head in 0..2 {
                let all: Vec<usize> = (0..=row.position / PAGE).map(|p| page_of(row.sequence, p)).collect();
                let list = m.pages_of(1, i, row, head);
                let places: Vec<usize> =
                    list.iter().map(|p| all.iter().position(|a| a == p).expect("its own page")).collect();
                let last = all.len();
                assert!(places.windows(2).all(|w| w[0] < w[1]), "in order, none twice: {places:?}");
                assert!(places[0] == 0 && places[5..] == [last - 2, last - 1], "{places:?}");
                let bound = |p: usize| bound_and_truth(&m, &tiny.model, 1, i, all[p], head).0;
                let least = places[1..5].iter().map(|p| bound(*p)).fold(f64::MAX, f64::min);
                for out in (1..last - 2).filter(|p| !places.contains(p)) {
                    assert!(bound(out) <= least + 1e-4 * least.abs(), "page {out} is left out of {places:?}");
                }
            }
        }
        assert_ne!(m.pages_of(1, 0, &rows[0], 0), m.pages_of(1, 0, &rows[0], 1), "KV heads choose for themselves");
    }
}

#[test]
fn trimmed_lists_hold_the_share_and_no_page_more() {
    let mut shorter = 0;
    for (kv, top_p) in [(KvFormat::F16, 900), (KvFormat::F16, 500), (KvFormat::Int8, 700), (KvFormat::F16, 1)] {
        let attention = Attention::Sparse { pages: 14, sinks: 1, window: 2, dense_layers: 1, top_p };
        let tiny = tiny();
        let rows = [row(0, 527), row(1, 400), row(3, 239)];
        let mut m = Machine::new(&tiny, &ModelSchedule { kv, attention, ..schedule() }, 2);
        let engine = Engine::best(&m.program);
        m.run(&engine, &rows);
        for (i, row) in rows.iter().enumerate() {
            let all: Vec<usize> = (0..=row.position / PAGE).map(|p| page_of(row.sequence, p)).collect();
            let lists = [0, 1].map(|head| m.pages_of(1, i, row, head));
            for (head, list) in lists.iter().enumerate() {
                let places: Vec<usize> =
                    list.iter().map(|p| all.iter().position(|a| a == p).expect("its own page")).collect();
                assert!(places.windows(2).all(|w| w[0] < w[1]), "in order, none twice: {places:?}");
                let (last, n) = (all.len(), places.len());
                assert!(n <= 14 && places[0] == 0 && places[n - 2..] == [last - 2, last - 1], "{places:?}");
                let kept = &places[1..n - 2];
                assert!(!kept.is_empty());
                let bounds: Vec<f64> =
                    (1..last - 2).map(|p| bound_and_truth(&m, &tiny.model, 1, i, all[p], head).0).collect();
                let most = bounds.iter().copied().fold(f64::MIN, f64::max);
                // Three query heads share a KV head.
                let weight = |p: usize| ((bounds[p - 1] - most) / 3.0).exp();
                let total: f64 = (1..last - 2).map(weight).sum();
                let (held, wanted) = (kept.iter().map(|p| weight(*p)).sum::<f64>(), f64::from(top_p) / 1000.0 * total);
                let least = kept.iter().map(|p| weight(*p)).fold(f64::MAX, f64::min);
                let out = (1..last - 2).filter(|p| !kept.contains(p)).map(weight).fold(0.0, f64::max);
                let slack = 1e-4 * total;
                assert!(out <= least + slack, "{places:?}: a page of {out} is out, one of {least} is in");
                assert!(held >= wanted - slack || kept.len() == 11, "{held} of {wanted} with {places:?}");
                assert!(held - least <= wanted + slack, "{places:?} has a page too many");
                shorter += usize::from(kept.len() < 11);
            }
        }
    }
    assert!(shorter > 6, "{shorter} lists are trimmed");
}

/// Keys that are hard on summaries: huge, tiny, equal, with one channel that is far off, alternating in sign.
fn adversary(kind: usize, i: usize, slot: usize) -> f32 {
    match kind {
        0 => 60_000.0 * if (i + slot).is_multiple_of(2) { 1.0 } else { -1.0 },
        1 => 1e-7 * (slot as f32 - 8.0) * (i as f32 + 1.0),
        2 => 0.3,
        3 if i % 64 == 5 => 300.0 + slot as f32,
        3 => 0.01 * slot as f32,
        4 => -((i * 31 + slot * 17) as f32 % 7.0) / 3.0,
        _ => ((i * 131 + slot * 71) as f32).sin() * 10f32.powi(slot as i32 % 5 - 2),
    }
}

#[test]
fn no_key_scores_above_the_bound_of_its_page() {
    for (s, head_dim) in choosing() {
        for kind in 0..6 {
            let tiny = tiny_of(head_dim);
            let mut m = Machine::new(&tiny, &s, 2);
            let engine = Engine::best(&m.program);
            // A prompt fills two pages; what `qkv` would have left is replaced before the append.
            let rows: Vec<Row> = (0..16).map(|p| row(0, p)).collect();
            m.step(&rows);
            let name = |m: &Machine, l: &ir::program::Launch| m.program.kernels[l.kernel as usize].name.clone();
            let append = m.program.forward.iter().position(|l| name(&m, l) == "append.choose").expect("an append");
            for i in 0..append {
                let launch = m.program.forward[i].clone();
                m.launch(&engine, &launch);
            }
            let (d, kv) = (head_dim as usize, 2);
            for p in 0..16 {
                for i in 0..kv * d {
                    let x = adversary(kind, i, p);
                    match s.kv {
                        KvFormat::Int8 => {
                            let at = 4 * (2 * p * kv * d + i);
                            let fresh = m.buffers.get_mut(&Buf::Fresh).expect("fresh keys");
                            fresh[at..at + 4].copy_from_slice(&x.to_le_bytes());
                        }
                        KvFormat::F16 => {
                            let at = m.layout.place(false, [page_of(0, 0), i / d, i % d, p]);
                            m.kv[1][0][at..at + 2].copy_from_slice(&f16::from_f32(x).to_le_bytes());
                        }
                    }
                }
            }
            let launch = m.program.forward[append].clone();
            m.launch(&engine, &launch);
            for (r, head) in (0..16).flat_map(|r| [(r, 0), (r, 1)]) {
                let (bound, truth) = bound_and_truth(&m, &tiny.model, 1, r, page_of(0, 0), head);
                assert!(truth <= bound + 1e-9 * truth.abs(), "{:?}, kind {kind}: {truth} is above {bound}", s.kv);
            }
        }
    }
}

#[test]
fn a_page_with_a_key_that_is_not_finite_has_no_bound() {
    for x in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
        let tiny = tiny();
        let mut m = Machine::new(&tiny, &ModelSchedule { attention: SPARSE, ..schedule() }, 1);
        let engine = Engine::best(&m.program);
        let rows: Vec<Row> = (0..16).map(|p| row(0, p)).collect();
        m.step(&rows);
        let at = m.layout.place(false, [page_of(0, 0), 1, 7, 3]);
        m.kv[1][0][at..at + 2].copy_from_slice(&f16::from_f32(x).to_le_bytes());
        let choose = |l: &&ir::program::Launch| m.program.kernels[l.kernel as usize].name == "append.choose";
        let launch = m.program.forward.iter().find(choose).expect("an append").clone();
        m.launch(&engine, &launch);
        for (head, channel) in (0..2).flat_map(|head| (0..64).map(move |c| (head, c))) {
            let (_, scale) = m.layout.bound_of(&m.summaries[1], [page_of(0, 0), head], channel, false);
            assert_eq!(scale.is_nan(), head == 1, "{x}: head {head}, channel {channel}: {scale}");
        }
    }
}

/// Leaves the second KV head's summary of a page in the second layer without a bound.
fn forget_bound(m: &mut Machine, page: usize) {
    let [_, scales] = m.layout.summary(page, 1);
    m.summaries[1][scales.start..scales.start + 2].copy_from_slice(&f16::NAN.to_le_bytes());
}

#[test]
fn a_page_without_a_bound_is_chosen() {
    let (tiny, row) = (tiny(), row(0, 527));
    let run = |without: Option<usize>| {
        let mut m = Machine::new(&tiny, &ModelSchedule { attention: SPARSE, ..schedule() }, 1);
        let engine = Engine::best(&m.program);
        if let Some(page) = without {
            forget_bound(&mut m, page);
        }
        m.run(&engine, std::slice::from_ref(&row));
        m.pages_of(1, 0, &row, 1)
    };
    let plain = run(None);
    let out: Vec<usize> = (0..33).map(|p| page_of(0, p)).filter(|page| !plain.contains(page)).collect();
    for page in [out[0], out[out.len() / 2], out[out.len() - 1]] {
        let with = run(Some(page));
        let others = with.iter().filter(|p| !plain.contains(p)).count();
        assert!(with.contains(&page) && others == 1 && with.len() == plain.len(), "page {page}: {with:?}, {plain:?}");
    }
}

#[test]
fn of_pages_with_equal_bounds_the_earlier_are_chosen() {
    let (tiny, row) = (tiny(), row(0, 527));
    let mut m = Machine::new(&tiny, &ModelSchedule { attention: SPARSE, ..schedule() }, 1);
    let engine = Engine::best(&m.program);
    // The head's pages get the summary of one of them, but for some that have no bound, which is the largest.
    let [lines, scales] = m.layout.summary(page_of(0, 9), 1).map(|at| m.summaries[1][at].to_vec());
    for (without, chosen) in [
        (&[][..], [1, 2, 3, 4]),
        (&[20, 21], [1, 2, 20, 21]),
        (&[1, 30], [1, 2, 3, 30]),
        (&[7, 12, 13, 30], [7, 12, 13, 30]),
        (&[3, 7, 12, 13, 29, 30], [3, 7, 12, 13]),
    ] {
        for place in 0..33 {
            let [to_lines, to_scales] = m.layout.summary(page_of(0, place), 1);
            m.summaries[1][to_lines].copy_from_slice(&lines);
            m.summaries[1][to_scales].copy_from_slice(&scales);
            if without.contains(&place) {
                forget_bound(&mut m, page_of(0, place));
            }
        }
        m.run(&engine, std::slice::from_ref(&row));
        let want: Vec<usize> = [0].into_iter().chain(chosen).chain([31, 32]).map(|place| page_of(0, place)).collect();
        assert_eq!(m.pages_of(1, 0, &row, 1), want, "without a bound: {without:?}");
    }
}

#[test]
fn a_summary_is_a_function_of_its_page() {
    let s = ModelSchedule { kv: KvFormat::Int8, attention: SPARSE, ..schedule() };
    let tiny = tiny();
    let rows: Vec<Row> = (16..32).map(|p| row(1, p)).collect();
    let mut together = Machine::new(&tiny, &s, 2);
    let engine = Engine::best(&together.program);
    let start = together.buffers[&Buf::Hidden].clone();
    // Whatever was there before: another owner's summary, a part of the page, a page taken back and written again.
    together.summaries[1].fill(0x55);
    let mut apart = together.clone();
    together.run(&engine, &rows);
    let hidden = tiny.model.hidden as usize * 4;
    for range in [0..7, 7..8, 8..16, 3..16] {
        let h = apart.buffers.get_mut(&Buf::Hidden).expect("a residual stream");
        h[..range.len() * hidden].copy_from_slice(&start[range.start * hidden..range.end * hidden]);
        apart.run(&engine, &rows[range]);
    }
    assert!(together.kv == apart.kv && together.summaries == apart.summaries);
    let untouched = (0..PAGES).filter(|p| *p != page_of(1, 1)).all(|p| {
        (0..2).all(|h| together.layout.summary(p, h).into_iter().flatten().all(|i| together.summaries[1][i] == 0x55))
    });
    assert!(untouched);
}

#[test]
fn edits_reach_scales_and_summaries() {
    for (s, dim) in schedules().into_iter().flat_map(|s| [(s, 64), (s, 32), (s, 128)]) {
        let tiny = Tiny::new(Family::Llama, 1, [96, 2, 2, dim, 96, 40], [DType::Q8_0; 8]);
        let attention = if s.attention.chooses() { Attention::sparse(8) } else { s.attention };
        let mut m = Machine::new(&tiny, &ModelSchedule { attention, ..s }, 2);
        let before = m.clone();
        let edits = [[3, 10, 16], [3, 11, 5], [4, 12, 0], [7, 7, 9], [20, 20, 0], [5, 29, 1]];
        let words = |n: usize| -> Vec<u8> {
            let of = |[from, to, slots]: [usize; 3]| [m.number(from), m.number(to), slots, 0];
            edits[..n].iter().flat_map(|e| of(*e)).flat_map(|w| (w as i64).to_le_bytes()).collect()
        };
        let words = words(edits.len());
        m.buffers.get_mut(&Buf::Edits).expect("edits")[..words.len()].copy_from_slice(&words);
        m.buffers.get_mut(&Buf::Step).expect("a header")[40..48].copy_from_slice(&6i64.to_le_bytes());
        let engine = Engine::best(&m.program);
        for launch in m.program.fork.clone() {
            m.launch(&engine, &launch);
        }
        for page in 0..PAGES {
            let edit = edits.iter().find(|e| e[1] == page);
            let (from, slots) = edit.map_or((page, PAGE), |e| (e[0], e[2]));
            for (head, slot) in (0..2).flat_map(|h| (0..PAGE).map(move |s| (h, s))) {
                for (channel, values) in (0..dim as usize).flat_map(|c| [(c, false), (c, true)]) {
                    let old = element(&before, 0, values, [from, head, channel, slot]);
                    let new = element(&m, 0, values, [page, head, channel, slot]);
                    let what = format!("{:?}, page {page}, head {head}, slot {slot}", s.kv);
                    assert!(new == if slot < slots { old } else { 0.0 }, "{what}: {new}");
                }
            }
            if s.attention.chooses() && slots == PAGE {
                let summary =
                    |m: &Machine, page: usize| m.layout.summary(page, 1).map(|at| m.summaries[0][at].to_vec());
                assert!(summary(&m, page) == summary(&before, from), "{:?}, page {page}", s.kv);
            }
        }
    }
}

#[test]
fn budgets_without_room_are_refused() {
    let tiny = tiny();
    for attention in [
        Attention::Sparse { pages: 4, sinks: 3, window: 2, dense_layers: 0, top_p: 1000 },
        Attention::Sparse { pages: 4, sinks: 4, window: 0, dense_layers: 0, top_p: 1000 },
        Attention::sparse(8).trimmed(0),
        Attention::sparse(8).trimmed(1001),
        Attention::Window { sinks: 1, window: 0, dense_layers: 0 },
        Attention::Window { sinks: 1, window: u32::MAX, dense_layers: 0 },
    ] {
        let refused = codegen::lower::program(&tiny.model, &ModelSchedule { attention, ..schedule() });
        assert!(matches!(refused, Err(codegen::lower::Error::Schedule { .. })), "{attention}: {refused:?}");
    }
}
