//! Kernels of tiles: every kind of bytes, block edges, the machine code itself, threads.

use crate::amx::{self, Tiles};
use crate::native::Mapped;
use crate::{Elem, agree, tiers};
use codegen::Backend;
use codegen::back::interp::{self, Value};
use ir::kernel::*;
use proptest::prelude::*;

const KINDS: [Bytes; 2] = [Bytes::Unsigned, Bytes::Signed];

fn bytes(seed: u32, len: usize) -> Value {
    let mut state = seed | 1;
    let mut next = || {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        // Many extremes: the largest sums are where a step of 16 bits would saturate.
        if state >> 30 == 0 { [0, 255, 128, 127][(state >> 20) as usize % 4] } else { (state >> 16) as u8 }
    };
    Value::Buffer((0..len).map(|_| next()).collect())
}

/// `y[rows × columns] = x[rows × features] · w`, all multiples of a tile: two by two blocks of tiles, what is left over by
/// single ones. `w` is in runs of 16 columns, each 1024 bytes per 64 features. One iteration of the team per run or two.
fn product(rows: i64, columns: i64, features: i64, kinds: (Bytes, Bytes)) -> Kernel {
    let (zero, steps, pairs, pair, step) = (Reg(0), Reg(1), Reg(2), Reg(3), Reg(4));
    let (run, x_at, w_at, y_at) = (Reg(5), Reg(6), Reg(7), Reg(8));
    let at = |param, index, offset| Addr { base: Base::Param(param), index: Some(index), offset };
    let run_bytes = features * 16;
    let mut body = vec![
        Stmt::Let(zero, Op::Int(0)),
        Stmt::Let(steps, Op::Int(features / 64)),
        Stmt::Let(pairs, Op::Int((columns / 16 + 1) / 2)),
    ];
    let block = |first_row: i64, tall: i64, wide: i64| {
        let mut out: Vec<Stmt> = (0..tall * wide).map(|i| Stmt::TileZero(Tile(i as u8))).collect();
        let mut inner = vec![
            Stmt::Let(x_at, Op::Shift(Shift::Left, step, 6)),
            Stmt::Let(w_at, Op::Shift(Shift::Left, step, 10)),
            Stmt::Let(w_at, Op::Bin(Bin::Add, w_at, run)),
        ];
        for i in 0..tall {
            let addr = at(0, x_at, (first_row + 16 * i) * features);
            inner.push(Stmt::TileLoad(Tile(4 + i as u8), addr, features));
        }
        for j in 0..wide {
            inner.push(Stmt::TileLoad(Tile(6 + j as u8), at(1, w_at, j * run_bytes), 64));
        }
        for (i, j) in (0..tall).flat_map(|i| (0..wide).map(move |j| (i, j))) {
            let (acc, a, b) = (Tile((i * wide + j) as u8), Tile(4 + i as u8), Tile(6 + j as u8));
            inner.push(Stmt::TileDot { acc, a: (a, kinds.0), b: (b, kinds.1) });
        }
        out.push(Stmt::For { var: step, lo: zero, hi: steps, step: 1, body: inner });
        for (i, j) in (0..tall).flat_map(|i| (0..wide).map(move |j| (i, j))) {
            let addr = at(2, y_at, (first_row + 16 * i) * columns * 4 + 64 * j);
            out.push(Stmt::TileStore(addr, 4 * columns, Tile((i * wide + j) as u8)));
        }
        out
    };
    let all = |wide| -> Vec<Stmt> {
        (0..rows / 16).step_by(2).flat_map(|i| block(16 * i, (rows / 16 - i).min(2), wide)).collect()
    };
    let (last, is_last) = (Reg(9), Reg(10));
    let inner = vec![
        Stmt::Let(run, Op::Int(2 * run_bytes)),
        Stmt::Let(run, Op::Bin(Bin::Mul, run, pair)),
        Stmt::Let(y_at, Op::Shift(Shift::Left, pair, 7)),
        Stmt::Let(last, Op::Int(columns / 32)),
        Stmt::Let(is_last, Op::Bin(Bin::Eq, last, pair)),
        Stmt::If { cond: is_last, then: all(1), otherwise: all(2) },
    ];
    body.push(Stmt::ParFor { var: pair, n: pairs, split: Split::Blocked, body: inner });
    let param = |name: &str, kind| Param { name: name.into(), kind };
    Kernel {
        name: "tile_product".into(),
        params: vec![param("x", ParamKind::Read), param("w", ParamKind::Read), param("y", ParamKind::Write)],
        locals: vec![],
        regs: vec![Ty::I64; 11],
        body,
    }
}

fn arguments(seed: u32, rows: i64, columns: i64, features: i64) -> Vec<Value> {
    let len = |n: i64| usize::try_from(n).expect("sizes are positive");
    vec![
        bytes(seed, len(rows * features)),
        bytes(seed ^ 0x5555, len(columns * features)),
        Value::Buffer(vec![7; len(4 * rows * columns)]),
    ]
}

#[test]
fn products_of_matrices_are_the_sums_they_should_be() {
    let (rows, columns, features) = (48, 48, 192);
    for kinds in KINDS.iter().flat_map(|a| KINDS.map(|b| (*a, b))) {
        let mut args = arguments(3, rows, columns, features);
        interp::run(&product(rows, columns, features, kinds), &mut args, 2).expect("runs");
        let [Value::Buffer(x), Value::Buffer(w), Value::Buffer(y)] = &args[..] else { unreachable!() };
        let value = |byte: u8, how| if how == Bytes::Signed { i32::from(byte as i8) } else { i32::from(byte) };
        for (row, column) in (0..rows).flat_map(|r| (0..columns).map(move |c| (r, c))) {
            let sum: i32 = (0..features)
                .map(|f| {
                    let weight = column / 16 * features * 16 + f / 4 * 64 + column % 16 * 4 + f % 4;
                    value(x[(row * features + f) as usize], kinds.0) * value(w[weight as usize], kinds.1)
                })
                .sum();
            let at = 4 * (row * columns + column) as usize;
            assert_eq!(y[at..at + 4], sum.to_le_bytes(), "{kinds:?} row {row} column {column}");
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, cases: crate::cases() / 4, ..ProptestConfig::default() })]

    #[test]
    fn products_agree_at_block_edges(
        rows in 1i64..5, columns in 1i64..6, steps in 1i64..6, kinds in 0usize..4, seed: u32, misalign in 0usize..64,
    ) {
        let kernel = product(16 * rows, 16 * columns, 64 * steps, (KINDS[kinds / 2], KINDS[kinds % 2]));
        let args = arguments(seed, 16 * rows, 16 * columns, 64 * steps);
        agree(&kernel, &args, &[Elem::Bytes; 3], misalign).map_err(TestCaseError::fail)?;
    }
}

/// Occurrences of a VEX instruction of the tile map by its opcode, with any registers.
fn opcodes(code: &[u8], opcode: u8) -> usize {
    code.windows(4).filter(|w| w[0] == 0xC4 && w[1] & 0x1F == 2 && w[2] & 0x84 == 0 && w[3] == opcode).count()
}

#[test]
fn amx_code_is_tile_instructions_and_other_code_has_none() {
    let kernel = product(32, 32, 128, (Bytes::Signed, Bytes::Unsigned));
    for (backend, isa) in tiers() {
        let code = codegen::emit(std::slice::from_ref(&kernel), isa, backend).expect("compiles");
        let found = [0x49, 0x4B, 0x5E].map(|opcode| opcodes(&code.bytes, opcode));
        if !isa.amx_int8 {
            assert_eq!(found, [0; 3], "{backend:?} {isa:?}");
            continue;
        }
        // Configuring, four sums made zero and the release; four loads and four stores; four products.
        assert!(found.iter().zip([6, 8, 4]).all(|(found, least)| *found >= least), "{isa:?}: {found:?}");
        let text = codegen::assembly(std::slice::from_ref(&kernel), isa, backend).expect("compiles");
        for word in ["ldtilecfg", "tilezero", "tileloadd", "tdpbsud", "tilestored", "tilerelease"] {
            assert!(text.contains(word), "{word} is not in {text}");
        }
        let (before, _) = amx::count();
        Mapped::new(code).run(&kernel, &mut arguments(1, 32, 32, 128), 1, 0);
        let (after, configured) = amx::count();
        assert!(!configured, "a kernel leaves tiles configured");
        if amx::enable() == Tiles::Emulated {
            assert_eq!(after.products - before.products, 2 * 4);
            assert_eq!((after.configured - before.configured, after.released - before.released), (1, 1));
            assert_eq!((after.loaded - before.loaded, after.stored - before.stored), (2 * 4, 4));
            assert_eq!(after.zeroed - before.zeroed, 4);
        }
    }
}

#[test]
fn threads_have_tiles_of_their_own() {
    let kernel = product(32, 64, 256, (Bytes::Signed, Bytes::Unsigned));
    let args = arguments(9, 32, 64, 256);
    let mut expected = args.clone();
    interp::run(&kernel, &mut expected, 1).expect("runs");
    for (backend, isa) in tiers().into_iter().filter(|(backend, isa)| isa.amx_int8 && *backend == Backend::Llvm) {
        let code = codegen::emit(std::slice::from_ref(&kernel), isa, backend).expect("compiles");
        std::thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| {
                    let mapped = Mapped::new(code.clone());
                    for _ in 0..20 {
                        let mut got = args.clone();
                        mapped.run(&kernel, &mut got, 1, 0);
                        assert_eq!(expected, got);
                    }
                });
            }
        });
    }
}

#[test]
fn a_row_outside_a_buffer_is_named() {
    let at = |offset| Addr { base: Base::Param(0), index: None, offset };
    let kernel = Kernel {
        name: "edge".into(),
        params: vec![Param { name: "x".into(), kind: ParamKind::Read }],
        locals: vec![],
        regs: vec![],
        body: vec![Stmt::TileLoad(Tile(0), at(0), 100), Stmt::TileLoad(Tile(1), at(1), 100)],
    };
    let fault = interp::run(&kernel, &mut [Value::Buffer(vec![0; 1564])], 1).expect_err("row 15 of t1 ends outside");
    assert_eq!(fault.to_string(), "64 bytes at offset 1501 of `x`, which has 1564 bytes");
}
