//! Every back end against the interpreter, bit for bit (of a NaN: its being one), for each instruction set it has.

extern crate inferc_codegen as codegen;

mod native;

use codegen::Backend;
use codegen::back::interp::{self, Value};
use ir::kernel::*;
use ir::target::Isa;
use native::Mapped;

/// How the bytes of an argument are compared.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Elem {
    Bytes,
    F32,
    F16,
    BF16,
}

/// Instruction sets that this machine has, each with the back ends that tell it from the others.
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
    let isa = |avx512, vnni| Isa { avx2: true, avx512, vnni };
    let all = [
        (Backend::Llvm, isa(false, false), v3),
        (Backend::Llvm, isa(true, false), v4),
        (Backend::Llvm, isa(true, true), vnni),
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
