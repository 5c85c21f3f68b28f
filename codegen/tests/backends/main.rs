//! Every back end against the interpreter, bit for bit (of a NaN: its being one), for each instruction set it has.

extern crate inferc_codegen as codegen;

mod amx;
mod edges;
mod generate;
mod native;
mod tiles;

use codegen::Backend;
use codegen::back::interp::{self, Value};
use ir::kernel::*;
use ir::target::Isa;
use native::Mapped;
use proptest::prelude::*;

/// How the bytes of an argument are compared.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Elem {
    Bytes,
    F32,
    F64,
    F16,
    BF16,
}

/// Instruction sets that this machine has (tiles: or emulates), each with the back ends that tell it from the others.
fn tiers() -> Vec<(Backend, Isa)> {
    let v3 = is_x86_feature_detected!("bmi2")
        && is_x86_feature_detected!("avx2")
        && is_x86_feature_detected!("fma")
        && is_x86_feature_detected!("f16c");
    let v4 = v3
        && is_x86_feature_detected!("avx512f")
        && is_x86_feature_detected!("avx512bw")
        && is_x86_feature_detected!("avx512dq")
        && is_x86_feature_detected!("avx512vl");
    let vnni = v4 && is_x86_feature_detected!("avx512vnni");
    let isa = |avx512, vnni| Isa { avx2: true, avx512, vnni, amx_int8: false };
    amx::enable();
    let all = [
        (Backend::Llvm, isa(false, false), v3),
        (Backend::Llvm, isa(true, false), v4),
        (Backend::Llvm, isa(true, true), vnni),
        (Backend::Llvm, Isa { amx_int8: true, ..isa(true, true) }, vnni),
        (Backend::Cranelift, isa(false, false), v3),
    ];
    all.into_iter().filter(|(b, _, here)| *here && b.available()).map(|(b, isa, _)| (b, isa)).collect()
}

#[test]
fn smoke() {
    let at = |base, index, offset| Addr { base: Base::Param(base), index, offset };
    let kernel = Kernel {
        name: "axpy.1".into(),
        params: vec![
            Param { name: "x".into(), kind: ParamKind::Read },
            Param { name: "y".into(), kind: ParamKind::Write },
            Param { name: "n".into(), kind: ParamKind::I64 },
            Param { name: "a".into(), kind: ParamKind::F32 },
        ],
        locals: vec![],
        regs: vec![Ty::I64, Ty::I64, Ty::I64, Ty::VF32, Ty::VF32, Ty::VF32, Ty::F32],
        body: vec![
            Stmt::Let(Reg(0), Op::Param(2)),
            Stmt::Let(Reg(6), Op::Param(3)),
            Stmt::Let(Reg(3), Op::Un(Un::SplatF, Reg(6))),
            Stmt::ParFor {
                var: Reg(1),
                n: Reg(0),
                split: Split::Blocked,
                body: vec![
                    Stmt::Let(Reg(2), Op::Shift(Shift::Left, Reg(1), 6)),
                    Stmt::Let(Reg(4), Op::Load(Mem::F32, at(0, Some(Reg(2)), 0))),
                    Stmt::Let(Reg(5), Op::Load(Mem::F32, at(1, Some(Reg(2)), 0))),
                    Stmt::Let(Reg(5), Op::Fma(Reg(3), Reg(4), Reg(5))),
                    Stmt::Store(Mem::F32, at(1, Some(Reg(2)), 0), Reg(5)),
                ],
            },
        ],
    };
    let floats = |f: fn(usize) -> f32| Value::Buffer((0..80).flat_map(|i| f(i).to_le_bytes()).collect());
    let args = vec![floats(|i| i as f32 * 0.37), floats(|i| 1.0 / (i + 1) as f32), Value::I64(5), Value::F32(1.1)];
    for (backend, isa) in tiers() {
        let mapped = Mapped::new(codegen::emit(std::slice::from_ref(&kernel), isa, backend).expect("compiles"));
        for team in 1..=3 {
            let (mut expected, mut got) = (args.clone(), args.clone());
            interp::run(&kernel, &mut expected, team).expect("runs");
            mapped.run(&kernel, &mut got, team, 3);
            assert_eq!(expected, got, "{backend:?} {isa:?} team {team}");
        }
    }
}

/// Elements of a buffer with all NaNs made one.
fn canonical(elem: Elem, bytes: &[u8]) -> Vec<u32> {
    let halves = bytes.chunks_exact(2).map(|b| u16::from_le_bytes([b[0], b[1]]));
    let one_nan = |bits: u16, value: f32| if value.is_nan() { u32::MAX } else { u32::from(bits) };
    match elem {
        Elem::Bytes => bytes.iter().copied().map(u32::from).collect(),
        Elem::F32 => bytes
            .chunks_exact(4)
            .map(|b| f32::from_le_bytes([b[0], b[1], b[2], b[3]]))
            .map(|f| if f.is_nan() { u32::MAX } else { f.to_bits() })
            .collect(),
        Elem::F64 => bytes
            .chunks_exact(8)
            .map(|b| f64::from_le_bytes([b[0], b[1], b[2], b[3], b[4], b[5], b[6], b[7]]))
            .flat_map(|f| if f.is_nan() { [u32::MAX; 2] } else { [f.to_bits() as u32, (f.to_bits() >> 32) as u32] })
            .collect(),
        Elem::F16 => halves.map(|h| one_nan(h, half::f16::from_bits(h).to_f32())).collect(),
        Elem::BF16 => halves.map(|h| one_nan(h, half::bf16::from_bits(h).to_f32())).collect(),
    }
}

/// Compiles and runs a kernel everywhere; `Err` says where and what differs.
fn agree(kernel: &Kernel, args: &[Value], elems: &[Elem], misalign: usize) -> Result<(), String> {
    for (backend, isa) in tiers() {
        let code = codegen::emit(std::slice::from_ref(kernel), isa, backend).map_err(|e| format!("{e}\n{kernel}"))?;
        let mapped = Mapped::new(code);
        for team in 1..=3 {
            let (mut expected, mut got) = (args.to_vec(), args.to_vec());
            interp::run(kernel, &mut expected, team).map_err(|e| format!("interp: {e}\n{kernel}"))?;
            mapped.run(kernel, &mut got, team, misalign);
            for (i, (expected, got)) in expected.iter().zip(&got).enumerate() {
                let (Value::Buffer(expected), Value::Buffer(got)) = (expected, got) else { continue };
                let (expected, got) = (canonical(elems[i], expected), canonical(elems[i], got));
                if let Some(at) = (0..got.len()).find(|at| expected[*at] != got[*at]) {
                    return Err(format!(
                        "{backend:?} {isa:?} team {team}: element {at} of `{}` is {:#x}, the meaning is {:#x}\n{kernel}",
                        kernel.params[i].name, got[at], expected[at]
                    ));
                }
            }
        }
    }
    Ok(())
}

/// Kernels per run: few by default, since each is compiled for every tier; `PROPTEST_CASES` asks for more.
fn cases() -> u32 {
    std::env::var("PROPTEST_CASES").ok().and_then(|text| text.parse().ok()).unwrap_or(40)
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, cases: cases(), ..ProptestConfig::default() })]

    #[test]
    fn random_kernels_agree(choices in prop::collection::vec(any::<u32>(), 0..900), misalign in 0usize..64) {
        let case = generate::case(&choices);
        agree(&case.kernel, &case.args, &case.elems, misalign).map_err(TestCaseError::fail)?;
    }
}

#[test]
fn random_kernels_have_everything() {
    let mut text = String::new();
    for seed in 0..60u32 {
        let mut state = seed;
        let choices: Vec<u32> = (0..800)
            .map(|_| {
                state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
                state >> 8
            })
            .collect();
        let case = generate::case(&choices);
        ir::kernel_check::kernel(&case.kernel).expect("generated kernels are well-formed");
        text += &case.kernel.to_string();
    }
    let words = "add sub mul div rem min max and or lt le eq splat_f splat_i sqrt abs to_float to_int bits_i bits_f \
        int_to_f32 widen narrow sum_lanes max_lanes shift_left shift_right_logical shift_right_arith fma select dot4 splat_byte \
        load.f32 load.f16 load.bf16 load.i32 load.u8 load.i8 load_bytes load_bytes4 load_splat load_scalar.f32 \
        load_scalar.f16 load_scalar.f64 load_scalar.i32 load_scalar.i64 load_scalar.u8 lane iota tid store.f32 store.f16 store.bf16 \
        store.i32 store.u8 store.i8 store_strided.f32 store_strided.f16 store_strided.bf16 store_strided.i32 \
        store_strided.u8 store_strided.i8 store_scalar.f32 store_scalar.f16 store_scalar.f64 store_scalar.i32 store_scalar.i64 \
        store_scalar.u8 tile_zero tile_load tile_store tile_dot.uu tile_dot.us tile_dot.su tile_dot.ss \
        prefetch.first prefetch.second for parfor blocked cyclic if else";
    let seen: std::collections::BTreeSet<&str> = text.split([' ', '\n']).collect();
    let missing: Vec<&str> = words.split_whitespace().filter(|word| !seen.contains(word)).collect();
    assert!(missing.is_empty(), "never generated: {missing:?}");
}
