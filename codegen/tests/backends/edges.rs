//! Hand-picked values, small kernels: every f16, ties of rounding, extreme byte products, NaN in comparisons, errors.

use crate::{Elem, agree, generate::EDGES, tiers};
use codegen::back::interp::{self, Fault, Value};
use codegen::{Backend, Error};
use ir::kernel::*;
use ir::target::Isa;

/// A kernel that runs `body` for `i` in `0..n`, with byte offsets of 64-byte and 32-byte elements in %1 and %2.
fn each(params: &[ParamKind], regs: &[Ty], body: &[Stmt]) -> Kernel {
    let mut all = vec![
        Stmt::Let(Reg(1), Op::Shift(Shift::Left, Reg(0), 6)),
        Stmt::Let(Reg(2), Op::Shift(Shift::Left, Reg(0), 5)),
    ];
    all.extend_from_slice(body);
    let mut kinds = params.to_vec();
    kinds.push(ParamKind::I64);
    Kernel {
        name: "each".into(),
        params: kinds.iter().enumerate().map(|(i, kind)| Param { name: format!("p{i}"), kind: *kind }).collect(),
        locals: vec![],
        regs: [&[Ty::I64; 4], regs].concat(),
        body: vec![
            Stmt::Let(Reg(3), Op::Param(params.len() as u32)),
            Stmt::ParFor { var: Reg(0), n: Reg(3), split: Split::Blocked, body: all },
        ],
    }
}

/// Element `i` of buffer `param`, elements of 64 bytes (%1) or 32 bytes (%2).
fn at(param: u32, index: u32) -> Addr {
    Addr { base: Base::Param(param), index: Some(Reg(index)), offset: 0 }
}

fn words(values: impl IntoIterator<Item = u32>) -> Value {
    let mut bytes: Vec<u8> = values.into_iter().flat_map(u32::to_le_bytes).collect();
    bytes.resize(bytes.len().next_multiple_of(64), 0);
    Value::Buffer(bytes)
}

fn len(value: &Value) -> usize {
    if let Value::Buffer(bytes) = value { bytes.len() } else { 0 }
}

#[test]
fn every_half_widens() {
    let bits = Value::Buffer((0..=u16::MAX).flat_map(u16::to_le_bytes).collect());
    for mem in [Mem::F16, Mem::BF16] {
        let kernel = each(
            &[ParamKind::Read, ParamKind::Write],
            &[Ty::VF32],
            &[Stmt::Let(Reg(4), Op::Load(mem, at(0, 2))), Stmt::Store(Mem::F32, at(1, 1), Reg(4))],
        );
        let args = [bits.clone(), Value::Buffer(vec![0; 4 << 16]), Value::I64(4096)];
        agree(&kernel, &args, &[Elem::Bytes, Elem::F32, Elem::Bytes], 0).expect("back ends agree");
    }
}

#[test]
fn halves_round_to_even() {
    // Around every half: itself, the ties to its neighbours, and one f32 to either side of those.
    let mut inputs: Vec<u32> = EDGES.map(f32::to_bits).into();
    for half in (0..=0x7FFFu16).step_by(7).chain(0..0x420).chain(0x7BF0..0x7C02) {
        let (low, high) = (half::f16::from_bits(half).to_f32(), half::f16::from_bits(half + 1).to_f32());
        let tie = ((f64::from(low) + f64::from(high)) / 2.0) as f32;
        for value in [low, tie] {
            let bits = value.to_bits();
            inputs.extend([bits.wrapping_sub(1), bits, bits + 1, bits | 1 << 31]);
        }
    }
    for high in (0..=u16::MAX).step_by(13) {
        inputs.extend([0x7FFF, 0x8000, 0x8001].map(|low| u32::from(high) << 16 | low));
    }
    let n = inputs.len().next_multiple_of(16);
    for (mem, elem) in [(Mem::F16, Elem::F16), (Mem::BF16, Elem::BF16)] {
        let kernel = each(
            &[ParamKind::Read, ParamKind::Write],
            &[Ty::VF32],
            &[Stmt::Let(Reg(4), Op::Load(Mem::F32, at(0, 1))), Stmt::Store(mem, at(1, 2), Reg(4))],
        );
        let args = [words(inputs.iter().copied()), Value::Buffer(vec![0; 2 * n]), Value::I64(n as i64 / 16)];
        agree(&kernel, &args, &[Elem::Bytes, elem, Elem::Bytes], 5).expect("back ends agree");
    }
}

#[test]
fn byte_products_do_not_saturate() {
    let (us, ss) = ([0u8, 1, 127, 128, 200, 255], [-128i8, -127, -1, 0, 1, 127]);
    let mut pairs: Vec<(u8, i8)> = us.iter().flat_map(|u| ss.iter().map(|s| (*u, *s))).collect();
    pairs.extend([(255, -128); 64]);
    pairs.extend([(127, -128); 64]);
    let repeat = |i: usize| pairs[(i / 4 + i % 4 * 5) % pairs.len()];
    let bytes = 64 * 24;
    let u = Value::Buffer((0..bytes).map(|i| repeat(i).0).collect());
    let s = Value::Buffer((0..bytes).map(|i| repeat(i).1 as u8).collect());
    let acc = words((0..bytes as u32 / 4).map(|i| i.wrapping_mul(0x1234_5678) | 0x7000_0000));
    for mask in [0xFF, 0x7F, 0x0F, 0x80] {
        let kernel = each(
            &[ParamKind::Read, ParamKind::Read, ParamKind::Write],
            &[Ty::B64, Ty::B64, Ty::B64, Ty::B64, Ty::VI32],
            &[
                Stmt::Let(Reg(4), Op::LoadBytes(at(0, 1))),
                Stmt::Let(Reg(5), Op::SplatByte(mask)),
                Stmt::Let(Reg(6), Op::Bin(Bin::And, Reg(4), Reg(5))),
                Stmt::Let(Reg(7), Op::LoadBytes(at(1, 1))),
                Stmt::Let(Reg(8), Op::Load(Mem::I32, at(2, 1))),
                Stmt::Let(Reg(8), Op::Dot4(Reg(8), Reg(6), Reg(7))),
                Stmt::Store(Mem::I32, at(2, 1), Reg(8)),
            ],
        );
        let args = [u.clone(), s.clone(), acc.clone(), Value::I64(24)];
        agree(&kernel, &args, &[Elem::Bytes; 4], 1).expect("back ends agree");
    }
}

#[test]
fn edges_meet_edges() {
    // All pairs of edge values through every float operation of two operands and of one.
    let pairs = || EDGES.iter().flat_map(|a| EDGES.iter().map(|b| (a.to_bits(), b.to_bits())));
    let (a, b) = (words(pairs().map(|p| p.0)), words(pairs().map(|p| p.1)));
    let n = len(&a) / 64;
    let bins = [Bin::Add, Bin::Sub, Bin::Mul, Bin::Div, Bin::Min, Bin::Max].map(|bin| Op::Bin(bin, Reg(4), Reg(5)));
    let uns = [Un::Sqrt, Un::Abs].map(|un| Op::Un(un, Reg(4)));
    let selects = [Cmp::Lt, Cmp::Le, Cmp::Eq].map(|cmp| Op::Select(cmp, Reg(4), Reg(5), Reg(5), Reg(4)));
    for op in bins.into_iter().chain(uns).chain(selects).chain([Op::Fma(Reg(4), Reg(5), Reg(4))]) {
        let kernel = each(
            &[ParamKind::Read, ParamKind::Read, ParamKind::Write],
            &[Ty::VF32, Ty::VF32, Ty::VF32],
            &[
                Stmt::Let(Reg(4), Op::Load(Mem::F32, at(0, 1))),
                Stmt::Let(Reg(5), Op::Load(Mem::F32, at(1, 1))),
                Stmt::Let(Reg(6), op),
                Stmt::Store(Mem::F32, at(2, 1), Reg(6)),
            ],
        );
        let args = [a.clone(), b.clone(), Value::Buffer(vec![0; 64 * n]), Value::I64(n as i64)];
        agree(&kernel, &args, &[Elem::F32, Elem::F32, Elem::F32, Elem::Bytes], 0).expect("back ends agree");
    }
    let kernel = each(
        &[ParamKind::Read, ParamKind::Write],
        &[Ty::VF32, Ty::VI32],
        &[
            Stmt::Let(Reg(4), Op::Load(Mem::F32, at(0, 1))),
            Stmt::Let(Reg(5), Op::Un(Un::ToInt, Reg(4))),
            Stmt::Store(Mem::I32, at(1, 1), Reg(5)),
        ],
    );
    let args = [a, Value::Buffer(vec![0; 64 * n]), Value::I64(n as i64)];
    agree(&kernel, &args, &[Elem::F32, Elem::Bytes, Elem::Bytes], 0).expect("back ends agree");
}

#[test]
fn meaning_of_single_operations() {
    // The interpreter itself, against numbers worked out by hand.
    let kernel = each(
        &[ParamKind::Write],
        &[Ty::VF32, Ty::VI32, Ty::F32, Ty::F32, Ty::F32],
        &[
            Stmt::Let(Reg(4), Op::Load(Mem::F32, at(0, 1))),
            Stmt::Let(Reg(5), Op::Un(Un::ToInt, Reg(4))),
            Stmt::Let(Reg(6), Op::Un(Un::MaxLanes, Reg(4))),
            Stmt::Let(Reg(7), Op::Lane(Reg(4), 3)),
            Stmt::Let(Reg(8), Op::Bin(Bin::Max, Reg(7), Reg(6))),
            Stmt::Store(Mem::I32, at(0, 1), Reg(5)),
            Stmt::StoreScalar(ScalarMem::F16, at(0, 1), Reg(8)),
        ],
    );
    let lanes =
        [2.5, 3.5, -2.5, f32::NAN, 3e9, -3e9, 0.49, -0.5, 2_147_483_500.0, 1.0, 1.0, 1.0, 1.0, 1.0, 1.0, 65519.0];
    let mut args = [words(lanes.map(f32::to_bits)), Value::I64(1)];
    interp::run(&kernel, &mut args, 1).expect("runs");
    let Value::Buffer(bytes) = &args[0] else { unreachable!() };
    let ints: Vec<i32> = bytes.chunks(4).map(|b| i32::from_le_bytes(b.try_into().expect("four bytes"))).collect();
    // Lane 0 was overwritten by f16(max(NaN, max)): the maximum of the lanes is 3e9, too large for f16.
    assert_eq!(ints[0] as u32 & 0xFFFF, 0x7C00);
    assert_eq!(ints[1..9], [4, -2, i32::MIN, i32::MIN, i32::MIN, 0, 0, 2_147_483_520]);
}

#[test]
fn out_of_bounds_names_the_buffer() {
    let body = [Stmt::Let(Reg(4), Op::Load(Mem::F32, at(0, 1)))];
    let kernel = each(&[ParamKind::Read], &[Ty::VF32], &body);
    let fault = interp::run(&kernel, &mut [Value::Buffer(vec![0; 127]), Value::I64(2)], 1)
        .expect_err("the last load leaves the buffer");
    assert_eq!(fault, Fault::OutOfBounds { buffer: "p0".into(), offset: 64, bytes: 64, len: 127 });
    assert_eq!(fault.to_string(), "64 bytes at offset 64 of `p0`, which has 127 bytes");
    assert!(matches!(interp::run(&kernel, &mut [Value::I64(2)], 1), Err(Fault::Arguments(_))));
}

#[test]
fn refuses_what_would_abort() {
    let kernel = each(&[ParamKind::Read], &[Ty::VF32], &[Stmt::Let(Reg(4), Op::Load(Mem::F32, at(0, 1)))]);
    let one = std::slice::from_ref(&kernel);
    let good = Isa { avx2: true, avx512: false, vnni: false, amx_int8: false };
    for isa in [Isa::default(), Isa { vnni: true, ..good }, Isa { avx512: true, amx_int8: true, ..good }] {
        assert_eq!(codegen::emit(one, isa, Backend::Llvm), Err(Error::Isa(isa)));
    }
    assert_eq!(codegen::emit(one, good, Backend::Interp), Err(Error::NoCode));
    let twice = [kernel.clone(), kernel.clone()];
    assert_eq!(codegen::llvm_ir(&twice, good), Err(Error::Duplicate("each".into())));
    let wrong = Kernel { regs: vec![], ..kernel };
    assert!(matches!(codegen::emit(&[wrong], good, Backend::Llvm), Err(Error::Invalid { .. })));
}

#[test]
fn code_is_deterministic_on_any_thread() {
    let mut choices: Vec<u32> = (0..600u32).map(|i| i.wrapping_mul(2_654_435_761) >> 7).collect();
    let mut kernels = vec![crate::generate::case(&choices).kernel];
    choices.reverse();
    kernels.push(Kernel { name: "other".into(), ..crate::generate::case(&choices).kernel });
    for (backend, isa) in tiers() {
        let emit = || codegen::emit(&kernels, isa, backend).expect("compiles");
        let (first, second) = std::thread::scope(|scope| {
            let threads = (scope.spawn(emit), scope.spawn(emit));
            (threads.0.join().expect("no panic"), threads.1.join().expect("no panic"))
        });
        assert_eq!(first, second, "{backend:?} {isa:?}");
        assert_eq!(first.symbols.iter().map(|s| s.0.as_str()).collect::<Vec<_>>(), ["random", "other"]);
    }
}

#[test]
fn doubles_keep_what_floats_lose() {
    // All pairs of edge values widened, combined, compared and narrowed; doubles at the ties between neighbouring floats.
    let pairs = || EDGES.iter().flat_map(|a| EDGES.iter().map(|b| (a.to_bits(), b.to_bits())));
    let (a, b) = (words(pairs().map(|p| p.0)), words(pairs().map(|p| p.1)));
    let n = len(&a) / 4;
    let load = |to, param| {
        let addr = Addr { base: Base::Param(param), index: Some(Reg(4)), offset: 0 };
        Stmt::Let(Reg(to), Op::LoadScalar(ScalarMem::F32, addr))
    };
    let to = |param, offset| Addr { base: Base::Param(param), index: Some(Reg(1)), offset };
    let mut body = vec![
        Stmt::Let(Reg(4), Op::Shift(Shift::Left, Reg(0), 2)),
        load(5, 0),
        load(6, 1),
        Stmt::Let(Reg(7), Op::Un(Un::Widen, Reg(5))),
        Stmt::Let(Reg(8), Op::Un(Un::Widen, Reg(6))),
    ];
    for (i, bin) in [Bin::Add, Bin::Sub, Bin::Mul, Bin::Div].into_iter().enumerate() {
        body.push(Stmt::Let(Reg(9), Op::Bin(bin, Reg(7), Reg(8))));
        body.push(Stmt::StoreScalar(ScalarMem::F64, to(2, 8 * i as i64), Reg(9)));
        body.push(Stmt::Let(Reg(10), Op::Un(Un::Narrow, Reg(9))));
        body.push(Stmt::StoreScalar(ScalarMem::F32, to(3, 4 * i as i64), Reg(10)));
    }
    for (i, cmp) in [Cmp::Lt, Cmp::Le, Cmp::Eq].into_iter().enumerate() {
        body.push(Stmt::Let(Reg(9), Op::Select(cmp, Reg(7), Reg(8), Reg(8), Reg(7))));
        body.push(Stmt::StoreScalar(ScalarMem::F64, to(2, 32 + 8 * i as i64), Reg(9)));
        let bin = [Bin::Lt, Bin::Le, Bin::Eq][i];
        body.push(Stmt::Let(Reg(11), Op::Bin(bin, Reg(7), Reg(8))));
        body.push(Stmt::StoreScalar(ScalarMem::I64, to(4, 8 * i as i64), Reg(11)));
    }
    // Halfway between 1 and the next float, and a little to either side: a float plus half a unit plus a far smaller one.
    let half = 2f32.powi(-24);
    body.extend([
        Stmt::Let(Reg(5), Op::Float(half.to_bits())),
        Stmt::Let(Reg(9), Op::Un(Un::Widen, Reg(5))),
        Stmt::Let(Reg(9), Op::Bin(Bin::Mul, Reg(9), Reg(7))),
        Stmt::Let(Reg(9), Op::Bin(Bin::Add, Reg(9), Reg(7))),
        Stmt::Let(Reg(10), Op::Un(Un::Narrow, Reg(9))),
        Stmt::StoreScalar(ScalarMem::F32, to(3, 16), Reg(10)),
    ]);
    let params = [ParamKind::Read, ParamKind::Read, ParamKind::Write, ParamKind::Write, ParamKind::Write];
    let regs = [Ty::I64, Ty::F32, Ty::F32, Ty::F64, Ty::F64, Ty::F64, Ty::F32, Ty::I64];
    let kernel = each(&params, &regs, &body);
    let zeros = Value::Buffer(vec![0; 64 * n]);
    let args = [a, b, zeros.clone(), zeros.clone(), zeros, Value::I64(n as i64)];
    let elems = [Elem::F32, Elem::F32, Elem::F64, Elem::F32, Elem::Bytes, Elem::Bytes];
    agree(&kernel, &args, &elems, 0).expect("back ends agree");
}
