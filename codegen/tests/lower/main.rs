//! The forward program on tiny models: every kernel against arithmetic in f64, and the promises of equal bits.

extern crate inferc_codegen as codegen;

#[path = "../backends/amx.rs"]
mod amx;
mod draws;
mod machine;
#[path = "../backends/native.rs"]
mod native;
mod part;
mod reference;
mod refusals;
mod speed;
mod weights;

use ir::model::Family;
use ir::program::Buf;
use ir::schedule::{ModelSchedule, Numerics, Prologue};
use ir::tensor::DType;
use machine::{Engine, Machine, Row, Tiny, Types, Widths, schedule};
use reference::Checker;

/// Hidden 256, two query heads per KV head, dimensions of 64.
const SQUARE: Widths = [256, 4, 2, 64, 256, 96];
/// Nothing is a power of two; the vocabulary ends inside a tile and inside a second block of statistics.
const ODD: Widths = [96, 3, 1, 32, 160, 2100];

/// Blocks of 128 and 64 features, nine of them in the feed-forward layer: more than wait for their scales together.
const TILED: Widths = [128, 2, 1, 64, 576, 50];

/// A team with more members than a kernel of these models has work for.
pub(crate) const MANY: i64 = 64;

const MIXED: Types =
    [DType::Q4_K, DType::Q6_K, DType::F16, DType::Q5_0, DType::Q4_0, DType::Q8_0, DType::Q5_1, DType::BF16];

fn row(sequence: usize, position: usize) -> Row {
    Row { sequence, position }
}

/// Rows of three sequences: short, across a chunk's edge, and long.
fn rows() -> Vec<Row> {
    vec![
        row(0, 0),
        row(1, 254),
        row(1, 255),
        row(1, 256),
        row(1, 257),
        row(1, 258),
        row(2, 530),
        row(2, 531),
        row(3, 37),
    ]
}

pub(crate) fn check_step(tiny: &Tiny, s: &ModelSchedule, rows: &[Row], cut: bool) {
    let mut m = Machine::new(tiny, s, 1);
    m.cut = cut;
    m.step(rows);
    let checker = Checker { tiny, numerics: s.numerics, rows };
    let engine = Engine::best(&m.program);
    for launch in m.program.forward.clone().iter().chain(&m.program.head.clone()) {
        let before = m.clone();
        m.launch(&engine, launch);
        checker.check(launch, &before, &m);
    }
}

#[test]
fn every_type_computes_what_it_stands_for() {
    for dtype in DType::ALL {
        for numerics in Numerics::ALL {
            let tiny = Tiny::new(Family::Llama, 1, SQUARE, [dtype; 8]);
            // Exact arithmetic unrolls far: few rows at a time keep its compilation short.
            let row_block = if numerics == Numerics::F32 { 2 } else { 8 };
            check_step(&tiny, &ModelSchedule { numerics, row_block, ..schedule() }, &rows(), false);
        }
    }
}

#[test]
fn mixed_types_biases_and_odd_widths() {
    let tiny = Tiny::new(Family::Qwen2, 2, SQUARE, MIXED);
    check_step(&tiny, &schedule(), &rows(), true);
    check_step(&tiny, &ModelSchedule { interleave: false, prefetch: 4096, ..schedule() }, &rows()[..1], false);
    let exact = ModelSchedule { numerics: Numerics::F32, row_block: 4, ..schedule() };
    check_step(&tiny, &exact, &rows(), false);
    let tiny = Tiny::new(Family::Qwen2, 2, ODD, [DType::Q4_1; 8]);
    check_step(&tiny, &schedule(), &rows(), true);
    let split = ModelSchedule { prologue: Prologue::Split, row_block: 4, attend_rows: 1, ..schedule() };
    check_step(&tiny, &split, &rows(), false);
}

/// Shapes whose blocks differ: 128 and 64 (heads), 32 everywhere, with a last block of a tile that is half empty.
#[test]
fn channels_of_odd_widths() {
    for (widths, family) in [(ODD, Family::Qwen2), ([192, 3, 3, 64, 416, 50], Family::Llama)] {
        let tiny = Tiny::new(family, 2, widths, [DType::Q4_1; 8]);
        let s = ModelSchedule { numerics: Numerics::Int8Channel, ..schedule() };
        check_step(&tiny, &s, &rows(), true);
        check_step(&tiny, &ModelSchedule { interleave: false, prefetch: 4096, ..s }, &rows()[..1], false);
        check_step(&tiny, &ModelSchedule { prologue: Prologue::Split, row_block: 4, ..s }, &rows(), false);
    }
}

/// The same bits for any rows, schedules and teams, and from the interpreter.
#[test]
fn channels_give_the_same_bits_however_they_are_taken() {
    let tiny = Tiny::new(Family::Qwen2, 1, ODD, [DType::Q4_0; 8]);
    let channel = ModelSchedule { numerics: Numerics::Int8Channel, ..schedule() };
    let expected = outcomes(&tiny, &channel, 1, false, Some(&Engine::Interp), &rows());
    for prologue in [Prologue::Fused, Prologue::Split] {
        for (row_block, team) in [(8, 3), (4, 1), (2, 2), (1, 3), (8, MANY)] {
            let s = ModelSchedule { row_block, prologue, interleave: team == 1, prefetch: 512, ..channel };
            assert_eq!(expected, outcomes(&tiny, &s, team, false, None, &rows()), "{s:?}, team {team}");
        }
    }
    assert_eq!(expected[0], outcomes(&tiny, &channel, 2, false, None, &rows()[..1])[0]);
}

/// Through tiles and by rows, the same bits: one tile, one and a row, two; and nothing outside the buffers is read behind a
/// tile's last row. Emulated where there is no AMX, so few rows and a small model.
#[test]
fn channels_through_tiles_give_the_same_bits() {
    let rows: Vec<Row> = (0..4).flat_map(|s| (0..8).map(move |p| row(s, 252 + p))).collect();
    let tiny = Tiny::new(Family::Qwen2, 1, TILED, [DType::Q4_0; 8]);
    let numerics = Numerics::Int8Channel;
    let base = ModelSchedule { numerics, row_block: 2, max_rows: 32, max_head_rows: 32, prefetch: 512, ..schedule() };
    let by_rows = outcomes(&tiny, &base, 2, false, None, &rows);
    let tiled = ModelSchedule { tile_from: 10, prologue: Prologue::Split, ..base };
    let program = Machine::new(&tiny, &tiled, 1).program;
    // Projections, feed-forward layer and nothing else.
    assert_eq!(program.kernels.iter().filter(|k| ir::kernel::uses_tiles(&k.body)).count(), 4);
    for (name, engine) in Engine::all(&program) {
        let before = amx::count().0;
        for n in [16, 17, 32] {
            assert_eq!(by_rows[..n], outcomes(&tiny, &tiled, 2, false, Some(&engine), &rows[..n]), "{name}: {n} rows");
        }
        let emulated = name.contains("amx_int8: true") && amx::enable() == amx::Tiles::Emulated;
        assert_eq!(amx::count().0 != before, emulated, "{name}");
    }
    // Tiles with one row, behind which as many rows are read as ever: the interpreter checks addresses.
    let eager = ModelSchedule { tile_from: 1, max_rows: 17, max_head_rows: 17, ..base };
    let mut m = Machine::new(&tiny, &eager, 1);
    m.take_cache(&Machine::new(&tiny, &base, 1));
    m.run(&Engine::Interp, &rows[..17]);
    for (i, expected) in by_rows[..17].iter().enumerate() {
        assert_eq!(*expected, m.outcome(&tiny.model, i, 17), "row {i}");
    }
    // Blocks of 32 features fill no row of a tile.
    let odd = Tiny::new(Family::Qwen2, 1, ODD, [DType::Q4_0; 8]);
    let program = Machine::new(&odd, &tiled, 1).program;
    assert!(!program.kernels.iter().any(|k| ir::kernel::uses_tiles(&k.body)));
}

/// Outcomes of the rows of one step.
fn outcomes(
    tiny: &Tiny,
    s: &ModelSchedule,
    team: i64,
    cut: bool,
    engine: Option<&Engine>,
    rows: &[Row],
) -> Vec<Vec<u32>> {
    let mut m = Machine::new(tiny, s, team);
    m.cut = cut;
    match engine {
        Some(e) => m.run(e, rows),
        None => m.run(&Engine::best(&m.program.clone()), rows),
    }
    (0..rows.len()).map(|i| m.outcome(&tiny.model, i, rows.len())).collect()
}

#[test]
fn schedules_teams_and_cuts_give_the_same_bits() {
    for (widths, types) in [(SQUARE, MIXED), (ODD, [DType::Q4_1; 8])] {
        let tiny = Tiny::new(Family::Qwen2, 2, widths, types);
        let expected = outcomes(&tiny, &schedule(), 1, false, None, &rows());
        for prologue in [Prologue::Fused, Prologue::Split] {
            for (row_block, attend_rows, team, cut) in [
                (8, 4, 3, true),
                (2, 4, 1, true),
                (4, 8, 1, false),
                (2, 1, 2, true),
                (1, 2, 3, false),
                (8, 4, 2, false),
                (8, 4, MANY, true),
            ] {
                // The threads a schedule is made for say what is asked for, not what runs it.
                let threads = if row_block == 2 { 1 } else { 2 };
                let of_rows = ModelSchedule { row_block, attend_rows, ..schedule() };
                let s = ModelSchedule { threads, prologue, interleave: cut, prefetch: 512, ..of_rows };
                let got = outcomes(&tiny, &s, team, cut, None, &rows());
                assert_eq!(expected, got, "{s:?}, team {team}, cut {cut}");
            }
        }
    }
}

/// Requests change no result, so they are counted: `[into the first cache, into the second]`.
#[test]
fn lines_are_asked_for_in_the_caches_that_the_schedule_means() {
    let tiny = Tiny::new(Family::Qwen2, 1, SQUARE, [DType::Q4_1; 8]);
    let counts = |s: &ModelSchedule, name: &str| {
        let program = Machine::new(&tiny, s, 1).program;
        let kernel = program.kernels.iter().find(|k| k.name.starts_with(name)).expect("the model has it");
        let text = kernel.to_string();
        ["prefetch.first", "prefetch.second"].map(|word| text.matches(word).count())
    };
    for name in ["out", "gate_up", "down", "head."] {
        let of = |threads, row_block, prefetch| {
            counts(&ModelSchedule { threads, row_block, prefetch, prologue: Prologue::Split, ..schedule() }, name)
        };
        let [first, second] = of(1, 2, 512);
        assert!(first > 0 && second == 0, "{name}, one thread: {first}, {second}");
        // Threads that share their way to the memory ask twice.
        assert_eq!(of(2, 2, 512), [first; 2], "{name}");
        // Blocks of more rows ask the second cache alone, whoever runs them.
        for threads in [1, 2] {
            let [few, more] = of(threads, 8, 512);
            assert!(few == first && more > second + if threads == 2 { first } else { 0 }, "{name}: {few}, {more}");
        }
        assert_eq!(of(2, 8, 0), [0; 2], "{name}: a schedule without requests");
    }
    // A row's keys and values come into the first cache, and from farther away into the second, in turn; several rows' into
    // the second.
    for threads in [1, 2] {
        let [first, second] = counts(&ModelSchedule { threads, attend_rows: 1, ..schedule() }, "attend");
        assert!(first > 0 && second == first, "{first}, {second}");
        let [few, more] = counts(&ModelSchedule { threads, attend_rows: 4, ..schedule() }, "attend");
        assert!(few == first && more > second, "{few}, {more}");
    }
}

#[test]
fn a_row_alone_equals_the_row_in_a_batch() {
    for (widths, types) in [(SQUARE, MIXED), (SQUARE, [DType::Q6_K; 8]), (ODD, [DType::Q4_1; 8])] {
        let tiny = Tiny::new(Family::Llama, 2, widths, types);
        let rows = rows();
        let batch = {
            let mut m = Machine::new(&tiny, &schedule(), 2);
            m.run(&Engine::best(&m.program.clone()), &rows);
            m
        };
        // Rows alone, in order, over one cache: each sees what the batch's rows before it wrote.
        let mut alone = Machine::new(&tiny, &schedule(), 2);
        let engine = Engine::best(&alone.program);
        let hidden = tiny.model.hidden as usize * 4;
        let start = alone.buffers[&ir::program::Buf::Hidden].clone();
        for (i, row) in rows.iter().enumerate() {
            let h = alone.buffers.get_mut(&ir::program::Buf::Hidden).expect("a residual stream");
            h[..hidden].copy_from_slice(&start[i * hidden..(i + 1) * hidden]);
            alone.run(&engine, std::slice::from_ref(row));
            assert_eq!(batch.outcome(&tiny.model, i, rows.len()), alone.outcome(&tiny.model, 0, 1), "row {i}");
        }
        assert!(batch.kv == alone.kv, "caches differ");
    }
}

/// A feature between gate·up and down that is no number: rounding to int8 has no place for it, so its block's step must say so.
#[test]
fn one_feature_that_is_no_number_spoils_all_that_reads_it() {
    let rows = [row(0, 0), row(1, 254)];
    for down in [DType::Q4_1, DType::Q4_0, DType::Q8_0, DType::Q6_K, DType::Q4_K, DType::F16] {
        for (numerics, feature) in [(Numerics::Int8, 3), (Numerics::Int8, 61), (Numerics::F32, 40)] {
            let f = DType::F16;
            let mut tiny = Tiny::new(Family::Llama, 1, SQUARE, [f, f, f, f, f, f, down, f]);
            let gate = tiny.matrices.get_mut("blk.0.ffn_gate.weight").expect("a gate");
            let at = feature * gate.k + 7;
            gate.w[at] = f64::NAN;
            let mut m = Machine::new(&tiny, &ModelSchedule { numerics, ..schedule() }, 2);
            let engine = Engine::best(&m.program);
            m.run(&engine, &rows);
            let hidden = tiny.model.hidden as usize;
            for x in m.floats(Buf::Hidden, 0, rows.len() * hidden) {
                assert!(!x.is_finite(), "{} in {numerics:?}, feature {feature}: {x}", down.name());
            }
        }
    }
}

#[test]
fn back_ends_give_the_same_bits() {
    let cases = [(MIXED, Numerics::Int8), ([DType::Q4_1; 8], Numerics::Int8), (MIXED, Numerics::Int8Channel)];
    for (types, numerics) in cases {
        let tiny = Tiny::new(Family::Qwen2, 1, SQUARE, types);
        let rows = rows();
        let s = ModelSchedule { numerics, ..schedule() };
        let program = Machine::new(&tiny, &s, 1).program;
        let expected = outcomes(&tiny, &s, 2, true, Some(&Engine::Interp), &rows);
        for (name, engine) in Engine::all(&program) {
            assert_eq!(expected, outcomes(&tiny, &s, 2, true, Some(&engine), &rows), "{numerics:?}, {name}");
        }
    }
}
