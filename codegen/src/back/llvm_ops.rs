//! LLVM IR of single operations: takes an [`Op`], emits instructions into a [`Function`], returns the operand.
//!
//! `max` and `min` are a comparison and a select, as the contract of NaN says; `ToInt` is the x86 conversion; `Dot4` is
//! the VNNI instruction where there is one and otherwise an exact sum of 16-bit products.

use super::llvm_text::{Function, ty};
use ir::kernel::{Bin, Cmp, Mem, Op, Reg, ScalarMem, Shift, Ty, Un};

/// Emits one operation; `Param` and `Tid` are the caller's.
pub(super) fn op(f: &mut Function<'_>, op: &Op) -> String {
    match op {
        Op::Int(v) => v.to_string(),
        Op::Float(bits) => float(*bits),
        Op::Param(_) | Op::Tid => unreachable!("operands that are parameters are named by the caller"),
        Op::Iota => {
            let lanes: Vec<String> = (0..16).map(|lane| format!("i32 {lane}")).collect();
            format!("<{}>", lanes.join(", "))
        }
        Op::Copy(a) => f.get(*a),
        Op::Bin(bin, a, b) => bin_op(f, *bin, *a, *b),
        Op::Un(un, a) => un_op(f, *un, *a),
        Op::Shift(shift, a, bits) => {
            let name = match shift {
                Shift::Left => "shl",
                Shift::RightLogical => "lshr",
                Shift::RightArith => "ashr",
            };
            let (t, value) = (f.ty(*a), f.get(*a));
            let bits = match t {
                Ty::B64 => format!("splat (i8 {bits})"),
                Ty::VI32 => format!("splat (i32 {bits})"),
                _ => bits.to_string(),
            };
            f.value(&format!("{name} {} {value}, {bits}", ty(t)))
        }
        Op::Fma(a, b, c) => {
            let t = ty(f.ty(*a));
            let (a, b, c) = (f.get(*a), f.get(*b), f.get(*c));
            f.call(t, &intrinsic("fma", t), &[(t, &a), (t, &b), (t, &c)])
        }
        Op::Select(cmp, a, b, t, e) => select(f, *cmp, [*a, *b, *t, *e]),
        Op::Dot4(acc, u, s) => dot4(f, *acc, *u, *s),
        Op::SplatByte(b) => format!("splat (i8 {b})"),
        Op::Load(mem, addr) => match mem {
            Mem::F32 => f.load("<16 x float>", *addr),
            Mem::I32 => f.load("<16 x i32>", *addr),
            Mem::F16 => {
                let half = f.load("<16 x half>", *addr);
                f.value(&format!("fpext <16 x half> {half} to <16 x float>"))
            }
            Mem::BF16 => {
                let bits = f.load("<16 x i16>", *addr);
                let bits = f.value(&format!("zext <16 x i16> {bits} to <16 x i32>"));
                let bits = f.value(&format!("shl <16 x i32> {bits}, splat (i32 16)"));
                f.value(&format!("bitcast <16 x i32> {bits} to <16 x float>"))
            }
            Mem::U8 | Mem::I8 => {
                let bytes = f.load("<16 x i8>", *addr);
                let extend = if *mem == Mem::U8 { "zext" } else { "sext" };
                f.value(&format!("{extend} <16 x i8> {bytes} to <16 x i32>"))
            }
        },
        Op::LoadBytes(addr) => f.load("<64 x i8>", *addr),
        Op::LoadBytes4(addr) => {
            let word = f.load("i32", *addr);
            let words = splat(f, "i32", &word);
            f.value(&format!("bitcast <16 x i32> {words} to <64 x i8>"))
        }
        Op::LoadSplat(addr) => {
            let value = f.load("float", *addr);
            splat(f, "float", &value)
        }
        Op::LoadScalar(mem, addr) => match mem {
            ScalarMem::F32 => f.load("float", *addr),
            ScalarMem::F64 => f.load("double", *addr),
            ScalarMem::F16 => {
                let half = f.load("half", *addr);
                f.value(&format!("fpext half {half} to float"))
            }
            ScalarMem::I32 => {
                let word = f.load("i32", *addr);
                f.value(&format!("sext i32 {word} to i64"))
            }
            ScalarMem::I64 => f.load("i64", *addr),
            ScalarMem::U8 => {
                let byte = f.load("i8", *addr);
                f.value(&format!("zext i8 {byte} to i64"))
            }
        },
        Op::Lane(a, lane) => {
            let value = f.get(*a);
            f.value(&format!("extractelement <16 x float> {value}, i64 {lane}"))
        }
    }
}

/// A float constant in LLVM's spelling: the bits of the double of the same value.
fn float(bits: u32) -> String {
    let (sign, exponent, mantissa) = (u64::from(bits >> 31) << 63, bits >> 23 & 0xFF, u64::from(bits & 0x7F_FFFF));
    let double = match exponent {
        // Spelt out: a conversion would quieten a signalling NaN.
        0xFF => sign | 0x7FF << 52 | mantissa << 29,
        _ => f64::from(f32::from_bits(bits)).to_bits(),
    };
    format!("0x{double:016X}")
}

/// Name of a generic intrinsic for a type (`float` or `<16 x float>`).
fn intrinsic(name: &str, ty: &str) -> String {
    format!("llvm.{name}.{}", if ty == "float" { "f32" } else { "v16f32" })
}

fn splat(f: &mut Function<'_>, item: &str, value: &str) -> String {
    let one = f.value(&format!("insertelement <16 x {item}> poison, {item} {value}, i64 0"));
    f.value(&format!("shufflevector <16 x {item}> {one}, <16 x {item}> poison, <16 x i32> zeroinitializer"))
}

fn compare(f: &mut Function<'_>, cmp: Cmp, t: Ty, a: &str, b: &str) -> String {
    let float = matches!(t, Ty::F32 | Ty::F64 | Ty::VF32);
    let name = match (cmp, float) {
        (Cmp::Lt, true) => "fcmp olt",
        (Cmp::Le, true) => "fcmp ole",
        (Cmp::Eq, true) => "fcmp oeq",
        (Cmp::Lt, false) => "icmp slt",
        (Cmp::Le, false) => "icmp sle",
        (Cmp::Eq, false) => "icmp eq",
    };
    f.value(&format!("{name} {} {a}, {b}", ty(t)))
}

fn select(f: &mut Function<'_>, cmp: Cmp, [a, b, t, e]: [Reg; 4]) -> String {
    let (of, to) = (f.ty(a), f.ty(t));
    let (a, b, t, e) = (f.get(a), f.get(b), f.get(t), f.get(e));
    let mask = compare(f, cmp, of, &a, &b);
    let bits = if matches!(of, Ty::VF32 | Ty::VI32) { "<16 x i1>" } else { "i1" };
    f.value(&format!("select {bits} {mask}, {0} {t}, {0} {e}", ty(to)))
}

fn bin_op(f: &mut Function<'_>, bin: Bin, a: Reg, b: Reg) -> String {
    let t = f.ty(a);
    let (a, b) = (f.get(a), f.get(b));
    let float = matches!(t, Ty::F32 | Ty::F64 | Ty::VF32);
    let name = match bin {
        Bin::Add => ["add", "fadd"],
        Bin::Sub => ["sub", "fsub"],
        Bin::Mul => ["mul", "fmul"],
        Bin::Div => ["sdiv", "fdiv"],
        Bin::Rem => ["srem", "frem"],
        Bin::And => ["and", "and"],
        Bin::Or => ["or", "or"],
        Bin::Min => return extreme(f, "lt", t, &a, &b),
        Bin::Max => return extreme(f, "gt", t, &a, &b),
        Bin::Lt | Bin::Le | Bin::Eq => {
            let cmp = match bin {
                Bin::Lt => Cmp::Lt,
                Bin::Le => Cmp::Le,
                _ => Cmp::Eq,
            };
            let truth = compare(f, cmp, t, &a, &b);
            return f.value(&format!("zext i1 {truth} to i64"));
        }
    };
    f.value(&format!("{} {} {a}, {b}", name[usize::from(float)], ty(t)))
}

/// `a < b ? a : b` (`lt`) or `a > b ? a : b` (`gt`).
fn extreme(f: &mut Function<'_>, order: &str, t: Ty, a: &str, b: &str) -> String {
    let compare = if t == Ty::I64 { format!("icmp s{order}") } else { format!("fcmp o{order}") };
    let name = ty(t);
    extreme_of(f, &compare, name, if t == Ty::VF32 { "<16 x i1>" } else { "i1" }, a, b)
}

fn extreme_of(f: &mut Function<'_>, compare: &str, t: &str, bits: &str, a: &str, b: &str) -> String {
    let mask = f.value(&format!("{compare} {t} {a}, {b}"));
    f.value(&format!("select {bits} {mask}, {t} {a}, {t} {b}"))
}

fn un_op(f: &mut Function<'_>, un: Un, a: Reg) -> String {
    let t = ty(f.ty(a));
    let a = f.get(a);
    match un {
        Un::SplatF => splat(f, "float", &a),
        Un::SplatI => {
            let word = f.value(&format!("trunc i64 {a} to i32"));
            splat(f, "i32", &word)
        }
        Un::Sqrt => f.call(t, &intrinsic("sqrt", t), &[(t, &a)]),
        Un::Abs => f.call(t, &intrinsic("fabs", t), &[(t, &a)]),
        Un::ToFloat => f.value(&format!("sitofp <16 x i32> {a} to <16 x float>")),
        Un::ToInt => to_int(f, &a),
        Un::BitsI => f.value(&format!("bitcast <16 x float> {a} to <16 x i32>")),
        Un::BitsF => f.value(&format!("bitcast <16 x i32> {a} to <16 x float>")),
        Un::IntToF32 => f.value(&format!("sitofp i64 {a} to float")),
        Un::Widen => f.value(&format!("fpext float {a} to double")),
        Un::Narrow => f.value(&format!("fptrunc double {a} to float")),
        Un::SumLanes => fold_lanes(f, a, |f, t, _, a, b| f.value(&format!("fadd {t} {a}, {b}"))),
        Un::MaxLanes => fold_lanes(f, a, |f, t, bits, a, b| extreme_of(f, "fcmp ogt", t, bits, a, b)),
    }
}

/// Folds 16 lanes as a tree; `fold` gets the type and the type of its truth values.
fn fold_lanes(
    f: &mut Function<'_>,
    mut value: String,
    fold: impl Fn(&mut Function<'_>, &str, &str, &str, &str) -> String,
) -> String {
    for half in [8usize, 4, 2] {
        let [low, high] = [0, half].map(|first| part(f, "float", &value, 2 * half, first, half));
        value = fold(f, &format!("<{half} x float>"), &format!("<{half} x i1>"), &low, &high);
    }
    let [low, high] = [0, 1].map(|lane| f.value(&format!("extractelement <2 x float> {value}, i64 {lane}")));
    fold(f, "float", "i1", &low, &high)
}

/// Elements `first .. first + n` of a vector of `len`.
fn part(f: &mut Function<'_>, item: &str, value: &str, len: usize, first: usize, n: usize) -> String {
    let lanes: Vec<String> = (first..first + n).map(|lane| format!("i32 {lane}")).collect();
    let lanes = lanes.join(", ");
    f.value(&format!("shufflevector <{len} x {item}> {value}, <{len} x {item}> poison, <{n} x i32> <{lanes}>"))
}

/// Two halves of eight or sixteen elements joined.
fn join(f: &mut Function<'_>, item: &str, low: &str, high: &str, half: usize) -> String {
    let lanes: Vec<String> = (0..2 * half).map(|lane| format!("i32 {lane}")).collect();
    let lanes = lanes.join(", ");
    f.value(&format!(
        "shufflevector <{half} x {item}> {low}, <{half} x {item}> {high}, <{0} x i32> <{lanes}>",
        2 * half
    ))
}

/// The x86 conversion: rounds by the current mode (to nearest even), out of range gives `i32::MIN`.
fn to_int(f: &mut Function<'_>, a: &str) -> String {
    if f.isa.avx512 {
        return f.call(
            "<16 x i32>",
            "llvm.x86.avx512.mask.cvtps2dq.512",
            &[("<16 x float>", a), ("<16 x i32>", "zeroinitializer"), ("i16", "-1"), ("i32", "4")],
        );
    }
    let [low, high] = [0, 8].map(|first| {
        let half = part(f, "float", a, 16, first, 8);
        f.call("<8 x i32>", "llvm.x86.avx.cvt.ps2dq.256", &[("<8 x float>", &half)])
    });
    join(f, "i32", &low, &high, 8)
}

/// bf16 bits nearest to 16 floats, ties to even, NaN made quiet. Done on integers: the instruction flushes denormals.
pub(super) fn round_bf16(f: &mut Function<'_>, value: &str) -> String {
    let bits = f.value(&format!("bitcast <16 x float> {value} to <16 x i32>"));
    let high = f.value(&format!("lshr <16 x i32> {bits}, splat (i32 16)"));
    let odd = f.value(&format!("and <16 x i32> {high}, splat (i32 1)"));
    let bias = f.value(&format!("add <16 x i32> {odd}, splat (i32 32767)"));
    let sum = f.value(&format!("add <16 x i32> {bits}, {bias}"));
    let rounded = f.value(&format!("lshr <16 x i32> {sum}, splat (i32 16)"));
    let quiet = f.value(&format!("or <16 x i32> {high}, splat (i32 64)"));
    let nan = f.value(&format!("fcmp uno <16 x float> {value}, zeroinitializer"));
    let result = f.value(&format!("select <16 x i1> {nan}, <16 x i32> {quiet}, <16 x i32> {rounded}"));
    f.value(&format!("trunc <16 x i32> {result} to <16 x i16>"))
}

fn dot4(f: &mut Function<'_>, acc: Reg, u: Reg, s: Reg) -> String {
    let narrow = f.bound(u) < 128;
    let (acc, u, s) = (f.get(acc), f.get(u), f.get(s));
    if f.isa.vnni {
        // LLVM 19 declares this intrinsic with i32 lanes; later versions read that spelling too.
        let [u, s] = [u, s].map(|v| f.value(&format!("bitcast <64 x i8> {v} to <16 x i32>")));
        let lanes = "<16 x i32>";
        return f.call(lanes, "llvm.x86.avx512.vpdpbusd.512", &[(lanes, &acc), (lanes, &u), (lanes, &s)]);
    }
    let sum = if f.isa.avx512 {
        byte_products(f, &u, &s, 64, narrow)
    } else {
        let [low, high] = [0, 32].map(|first| {
            let [u, s] = [&u, &s].map(|v| part(f, "i8", v, 64, first, 32));
            byte_products(f, &u, &s, 32, narrow)
        });
        join(f, "i32", &low, &high, 8)
    };
    f.value(&format!("add <16 x i32> {acc}, {sum}"))
}

/// Sums of four products `u·s` of neighbouring bytes, of `bytes` (64 or 32) bytes. Exact: with `u < 128` (`narrow`) a
/// pair's sum fits 16 bits; otherwise even and odd bytes are widened and their products summed in 32 bits.
fn byte_products(f: &mut Function<'_>, u: &str, s: &str, bytes: usize, narrow: bool) -> String {
    let (bytes_ty, words, sums) =
        (format!("<{bytes} x i8>"), format!("<{} x i16>", bytes / 2), format!("<{} x i32>", bytes / 4));
    let (pairs, words_product) = match bytes {
        64 => ("llvm.x86.avx512.pmaddubs.w.512", "llvm.x86.avx512.pmaddw.d.512"),
        _ => ("llvm.x86.avx2.pmadd.ub.sw", "llvm.x86.avx2.pmadd.wd"),
    };
    if narrow {
        let pairs = f.call(&words, pairs, &[(&bytes_ty, u), (&bytes_ty, s)]);
        return f.call(&sums, words_product, &[(&words, &pairs), (&words, "splat (i16 1)")]);
    }
    let [u, s] = [u, s].map(|v| f.value(&format!("bitcast {bytes_ty} {v} to {words}")));
    let u_even = f.value(&format!("and {words} {u}, splat (i16 255)"));
    let u_odd = f.value(&format!("lshr {words} {u}, splat (i16 8)"));
    let s_up = f.value(&format!("shl {words} {s}, splat (i16 8)"));
    let s_even = f.value(&format!("ashr {words} {s_up}, splat (i16 8)"));
    let s_odd = f.value(&format!("ashr {words} {s}, splat (i16 8)"));
    let even = f.call(&sums, words_product, &[(&words, &u_even), (&words, &s_even)]);
    let odd = f.call(&sums, words_product, &[(&words, &u_odd), (&words, &s_odd)]);
    f.value(&format!("add {sums} {even}, {odd}"))
}
