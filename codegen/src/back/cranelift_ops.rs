//! Cranelift's IR of single operations, loads and stores, on four quarters of 16 lanes.
//!
//! What 128-bit x86 lacks is spelt out in integers and is exact: f16 and bf16 in both directions (denormals, infinities,
//! NaN, ties to even), and `Dot4` as 16-bit products. `max` and `min` are a comparison and a selection.

use super::cranelift::{ACCESS, Parts, Translate, part_type};
use cranelift_codegen::ir::condcodes::{FloatCC, IntCC};
use cranelift_codegen::ir::{ConstantData, Endianness, InstBuilder, MemFlagsData, Type, Value, types};
use ir::kernel::{Addr, Bin, Cmp, Mem, Op, Reg, ScalarMem, Shift, Ty, Un};

const LANES_IN_ORDER: MemFlagsData = MemFlagsData::new().with_endianness(Endianness::Little);

/// Emits one operation; `Param` and `Tid` are the caller's.
pub(super) fn op(t: &mut Translate<'_>, op: &Op) -> Parts {
    match op {
        Op::Int(v) => vec![t.builder.ins().iconst(types::I64, *v)],
        Op::Float(bits) => vec![float(t, *bits)],
        Op::Param(_) | Op::Tid => unreachable!("operands that are parameters are named by the caller"),
        Op::Iota => (0..4).map(|q| lanes(t, [4 * q, 4 * q + 1, 4 * q + 2, 4 * q + 3])).collect(),
        Op::Copy(a) => t.get(*a),
        Op::Bin(bin, a, b) => {
            let ty = t.ty(*a);
            let (a, b) = (t.get(*a), t.get(*b));
            a.into_iter().zip(b).map(|(a, b)| bin_op(t, *bin, ty, a, b)).collect()
        }
        Op::Un(un, a) => un_op(t, *un, *a),
        Op::Shift(shift, a, bits) => {
            let ty = t.ty(*a);
            t.get(*a).into_iter().map(|v| shift_op(t, *shift, ty, v, *bits)).collect()
        }
        Op::Fma(a, b, c) => {
            let (a, b, c) = (t.get(*a), t.get(*b), t.get(*c));
            (0..a.len()).map(|q| t.builder.ins().fma(a[q], b[q], c[q])).collect()
        }
        Op::Select(cmp, a, b, yes, no) => select(t, *cmp, [*a, *b, *yes, *no]),
        Op::Dot4(acc, u, s) => {
            let narrow = t.bound(*u) < 128;
            let (acc, u, s) = (t.get(*acc), t.get(*u), t.get(*s));
            (0..4).map(|q| dot4(t, acc[q], u[q], s[q], narrow)).collect()
        }
        Op::SplatByte(b) => vec![constant(t, types::I8X16, [*b; 16]); 4],
        Op::Load(mem, addr) => load(t, *mem, *addr),
        Op::LoadBytes(addr) => quarters(t, types::I8X16, *addr),
        Op::LoadBytes4(addr) => {
            let (at, offset) = t.addr(*addr, 4);
            let word = t.builder.ins().load(types::I32, ACCESS, at, offset);
            let words = t.builder.ins().splat(types::I32X4, word);
            vec![t.builder.ins().bitcast(types::I8X16, LANES_IN_ORDER, words); 4]
        }
        Op::LoadSplat(addr) => {
            let (at, offset) = t.addr(*addr, 4);
            let value = t.builder.ins().load(types::F32, ACCESS, at, offset);
            vec![t.builder.ins().splat(types::F32X4, value); 4]
        }
        Op::LoadScalar(mem, addr) => {
            let (at, offset) = t.addr(*addr, 8);
            let ins = t.builder.ins();
            vec![match mem {
                ScalarMem::F32 => ins.load(types::F32, ACCESS, at, offset),
                ScalarMem::F64 => ins.load(types::F64, ACCESS, at, offset),
                ScalarMem::I64 => ins.load(types::I64, ACCESS, at, offset),
                ScalarMem::I32 => ins.sload32(ACCESS, at, offset),
                ScalarMem::U8 => ins.uload8(types::I64, ACCESS, at, offset),
                ScalarMem::F16 => {
                    let half = ins.uload16(types::I32, ACCESS, at, offset);
                    let half = t.builder.ins().scalar_to_vector(types::I32X4, half);
                    let value = widen_f16(t, half);
                    t.builder.ins().extractlane(value, 0)
                }
            }]
        }
        Op::Lane(a, lane) => {
            let quarter = t.get(*a)[(lane / 4) as usize];
            vec![t.builder.ins().extractlane(quarter, (lane % 4) as u8)]
        }
    }
}

fn float(t: &mut Translate<'_>, bits: u32) -> Value {
    t.builder.ins().f32const(cranelift_codegen::ir::immediates::Ieee32::with_bits(bits))
}

fn constant(t: &mut Translate<'_>, ty: Type, bytes: [u8; 16]) -> Value {
    let constant = t.builder.func.dfg.constants.insert(ConstantData::from(&bytes[..]));
    t.builder.ins().vconst(ty, constant)
}

/// A vector constant of four words.
fn lanes(t: &mut Translate<'_>, words: [u32; 4]) -> Value {
    let mut bytes = [0; 16];
    for (to, word) in bytes.chunks_exact_mut(4).zip(words) {
        to.copy_from_slice(&word.to_le_bytes());
    }
    constant(t, types::I32X4, bytes)
}

/// The same word in four lanes.
fn word(t: &mut Translate<'_>, word: u32) -> Value {
    lanes(t, [word; 4])
}

fn cast(t: &mut Translate<'_>, ty: Type, value: Value) -> Value {
    t.builder.ins().bitcast(ty, LANES_IN_ORDER, value)
}

fn shift_words(t: &mut Translate<'_>, shift: Shift, value: Value, bits: u32) -> Value {
    let bits = t.builder.ins().iconst(types::I32, i64::from(bits));
    match shift {
        Shift::Left => t.builder.ins().ishl(value, bits),
        Shift::RightLogical => t.builder.ins().ushr(value, bits),
        Shift::RightArith => t.builder.ins().sshr(value, bits),
    }
}

fn shift_op(t: &mut Translate<'_>, shift: Shift, ty: Ty, value: Value, bits: u32) -> Value {
    if ty != Ty::B64 {
        return shift_words(t, shift, value, bits);
    }
    // No byte shifts on x86: shift words and clear what came from the neighbour.
    let mask = if shift == Shift::Left { 0xFFu8 << bits } else { 0xFF >> bits };
    let words = cast(t, types::I16X8, value);
    let shifted = shift_words(t, shift, words, bits);
    let shifted = cast(t, types::I8X16, shifted);
    let mask = constant(t, types::I8X16, [mask; 16]);
    t.builder.ins().band(shifted, mask)
}

/// Truth value (scalars) or mask (vectors) of a comparison.
fn compare(t: &mut Translate<'_>, cmp: Cmp, ty: Ty, a: Value, b: Value) -> Value {
    if matches!(ty, Ty::F32 | Ty::F64 | Ty::VF32) {
        let code = match cmp {
            Cmp::Lt => FloatCC::LessThan,
            Cmp::Le => FloatCC::LessThanOrEqual,
            Cmp::Eq => FloatCC::Equal,
        };
        return t.builder.ins().fcmp(code, a, b);
    }
    let code = match cmp {
        Cmp::Lt => IntCC::SignedLessThan,
        Cmp::Le => IntCC::SignedLessThanOrEqual,
        Cmp::Eq => IntCC::Equal,
    };
    t.builder.ins().icmp(code, a, b)
}

/// `yes` where the mask of words is set.
fn choose(t: &mut Translate<'_>, mask: Value, yes: Value, no: Value) -> Value {
    let ty = t.builder.func.dfg.value_type(yes);
    let mask = if ty == types::I32X4 { mask } else { cast(t, ty, mask) };
    t.builder.ins().bitselect(mask, yes, no)
}

fn select(t: &mut Translate<'_>, cmp: Cmp, [a, b, yes, no]: [Reg; 4]) -> Parts {
    let ty = t.ty(a);
    let (a, b, yes, no) = (t.get(a), t.get(b), t.get(yes), t.get(no));
    (0..a.len())
        .map(|q| {
            let truth = compare(t, cmp, ty, a[q], b[q]);
            match ty {
                Ty::I64 | Ty::F32 | Ty::F64 => t.builder.ins().select(truth, yes[q], no[q]),
                _ => choose(t, truth, yes[q], no[q]),
            }
        })
        .collect()
}

fn bin_op(t: &mut Translate<'_>, bin: Bin, ty: Ty, a: Value, b: Value) -> Value {
    let float = matches!(ty, Ty::F32 | Ty::F64 | Ty::VF32);
    match bin {
        Bin::Add if float => t.builder.ins().fadd(a, b),
        Bin::Sub if float => t.builder.ins().fsub(a, b),
        Bin::Mul if float => t.builder.ins().fmul(a, b),
        Bin::Div if float => t.builder.ins().fdiv(a, b),
        Bin::Add => t.builder.ins().iadd(a, b),
        Bin::Sub => t.builder.ins().isub(a, b),
        Bin::Mul => t.builder.ins().imul(a, b),
        Bin::Div => t.builder.ins().sdiv(a, b),
        Bin::Rem => t.builder.ins().srem(a, b),
        Bin::And => t.builder.ins().band(a, b),
        Bin::Or => t.builder.ins().bor(a, b),
        Bin::Min | Bin::Max => {
            // `a > b` is `b < a`.
            let (low, high) = if bin == Bin::Min { (a, b) } else { (b, a) };
            let truth = compare(t, Cmp::Lt, ty, low, high);
            if ty == Ty::VF32 { choose(t, truth, a, b) } else { t.builder.ins().select(truth, a, b) }
        }
        Bin::Lt | Bin::Le | Bin::Eq => {
            let cmp = match bin {
                Bin::Lt => Cmp::Lt,
                Bin::Le => Cmp::Le,
                _ => Cmp::Eq,
            };
            let truth = compare(t, cmp, ty, a, b);
            t.builder.ins().uextend(types::I64, truth)
        }
    }
}

fn un_op(t: &mut Translate<'_>, un: Un, a: Reg) -> Parts {
    let a = t.get(a);
    let mut each = |f: &mut dyn FnMut(&mut Translate<'_>, Value) -> Value| a.iter().map(|v| f(t, *v)).collect();
    match un {
        Un::SplatF => vec![t.builder.ins().splat(types::F32X4, a[0]); 4],
        Un::SplatI => {
            let word = t.builder.ins().ireduce(types::I32, a[0]);
            vec![t.builder.ins().splat(types::I32X4, word); 4]
        }
        Un::Sqrt => each(&mut |t, v| t.builder.ins().sqrt(v)),
        Un::Abs => each(&mut |t, v| t.builder.ins().fabs(v)),
        Un::ToFloat => each(&mut |t, v| t.builder.ins().fcvt_from_sint(types::F32X4, v)),
        Un::ToInt => each(&mut |t, v| {
            // The truncating conversion of a rounded number; both give `i32::MIN` out of range.
            let rounded = t.builder.ins().nearest(v);
            t.builder.ins().x86_cvtt2dq(types::I32X4, rounded)
        }),
        Un::BitsI => each(&mut |t, v| cast(t, types::I32X4, v)),
        Un::BitsF => each(&mut |t, v| cast(t, types::F32X4, v)),
        Un::IntToF32 => vec![t.builder.ins().fcvt_from_sint(types::F32, a[0])],
        Un::Widen => vec![t.builder.ins().fpromote(types::F64, a[0])],
        Un::Narrow => vec![t.builder.ins().fdemote(types::F32, a[0])],
        Un::SumLanes | Un::MaxLanes => {
            let bin = if un == Un::SumLanes { Bin::Add } else { Bin::Max };
            let low = bin_op(t, bin, Ty::VF32, a[0], a[2]);
            let high = bin_op(t, bin, Ty::VF32, a[1], a[3]);
            let four = bin_op(t, bin, Ty::VF32, low, high);
            let [l0, l1, l2, l3] = [0u8, 1, 2, 3].map(|lane| t.builder.ins().extractlane(four, lane));
            let low = bin_op(t, bin, Ty::F32, l0, l2);
            let high = bin_op(t, bin, Ty::F32, l1, l3);
            vec![bin_op(t, bin, Ty::F32, low, high)]
        }
    }
}

/// `acc` plus the sums of four byte products; exact: see the LLVM back end's twin.
fn dot4(t: &mut Translate<'_>, acc: Value, u: Value, s: Value, narrow: bool) -> Value {
    let sum = if narrow {
        let pairs = t.builder.ins().x86_pmaddubsw(s, u);
        let low = t.builder.ins().swiden_low(pairs);
        let high = t.builder.ins().swiden_high(pairs);
        t.builder.ins().iadd_pairwise(low, high)
    } else {
        let [u, s] = [u, s].map(|v| cast(t, types::I16X8, v));
        let low_bytes = constant(t, types::I16X8, std::array::from_fn(|i| if i % 2 == 0 { 0xFF } else { 0 }));
        let u_even = t.builder.ins().band(u, low_bytes);
        let u_odd = shift_words(t, Shift::RightLogical, u, 8);
        let s_up = shift_words(t, Shift::Left, s, 8);
        let s_even = shift_words(t, Shift::RightArith, s_up, 8);
        let s_odd = shift_words(t, Shift::RightArith, s, 8);
        let even = word_products(t, u_even, s_even);
        let odd = word_products(t, u_odd, s_odd);
        t.builder.ins().iadd(even, odd)
    };
    t.builder.ins().iadd(acc, sum)
}

/// Sums of two products of neighbouring signed 16-bit words: Cranelift knows this shape as one instruction.
fn word_products(t: &mut Translate<'_>, a: Value, b: Value) -> Value {
    let (a_low, b_low) = (t.builder.ins().swiden_low(a), t.builder.ins().swiden_low(b));
    let (a_high, b_high) = (t.builder.ins().swiden_high(a), t.builder.ins().swiden_high(b));
    let low = t.builder.ins().imul(a_low, b_low);
    let high = t.builder.ins().imul(a_high, b_high);
    t.builder.ins().iadd_pairwise(low, high)
}

/// Loads 64 bytes as four values.
fn quarters(t: &mut Translate<'_>, ty: Type, addr: Addr) -> Parts {
    let (at, offset) = t.addr(addr, 64);
    (0..4).map(|q| t.builder.ins().load(ty, ACCESS, at, offset + 16 * q)).collect()
}

fn load(t: &mut Translate<'_>, mem: Mem, addr: Addr) -> Parts {
    match mem {
        Mem::F32 | Mem::I32 => quarters(t, part_type(mem.ty()), addr),
        Mem::F16 | Mem::BF16 => {
            let (at, offset) = t.addr(addr, 32);
            let mut parts = Parts::new();
            for half in 0..2 {
                let words = t.builder.ins().load(types::I16X8, ACCESS, at, offset + 16 * half);
                let both = [t.builder.ins().uwiden_low(words), t.builder.ins().uwiden_high(words)];
                for bits in both {
                    parts.push(if mem == Mem::F16 {
                        widen_f16(t, bits)
                    } else {
                        let bits = shift_words(t, Shift::Left, bits, 16);
                        cast(t, types::F32X4, bits)
                    });
                }
            }
            parts
        }
        Mem::U8 | Mem::I8 => {
            let (at, offset) = t.addr(addr, 16);
            let bytes = t.builder.ins().load(types::I8X16, ACCESS, at, offset);
            let mut parts = Parts::new();
            if mem == Mem::U8 {
                for words in [t.builder.ins().uwiden_low(bytes), t.builder.ins().uwiden_high(bytes)] {
                    parts.extend([t.builder.ins().uwiden_low(words), t.builder.ins().uwiden_high(words)]);
                }
            } else {
                for words in [t.builder.ins().swiden_low(bytes), t.builder.ins().swiden_high(bytes)] {
                    parts.extend([t.builder.ins().swiden_low(words), t.builder.ins().swiden_high(words)]);
                }
            }
            parts
        }
    }
}

/// f32 of f16 bits in the low halves of words. The exponent is moved by a multiplication, which also makes denormals
/// right; infinities and NaN are given the top exponent.
fn widen_f16(t: &mut Translate<'_>, half: Value) -> Value {
    let magnitude_bits = word(t, 0x7FFF);
    let magnitude = t.builder.ins().band(half, magnitude_bits);
    let shifted = shift_words(t, Shift::Left, magnitude, 13);
    let scale = word(t, (127 + 112) << 23);
    let (small, scale) = (cast(t, types::F32X4, shifted), cast(t, types::F32X4, scale));
    let scaled = t.builder.ins().fmul(small, scale);
    let scaled = cast(t, types::I32X4, scaled);
    let largest = word(t, 0x7BFF);
    let special = t.builder.ins().icmp(IntCC::SignedGreaterThan, magnitude, largest);
    let exponent = word(t, 0x7F80_0000);
    let exponent = t.builder.ins().band(special, exponent);
    let finished = t.builder.ins().bor(scaled, exponent);
    let sign_bit = word(t, 0x8000);
    let sign = t.builder.ins().band(half, sign_bit);
    let sign = shift_words(t, Shift::Left, sign, 16);
    let bits = t.builder.ins().bor(finished, sign);
    cast(t, types::F32X4, bits)
}

/// f16 bits nearest to f32s, ties to even, in the low halves of words.
fn narrow_f16(t: &mut Translate<'_>, value: Value) -> Value {
    let bits = cast(t, types::I32X4, value);
    let sign_bit = word(t, 0x8000_0000);
    let sign = t.builder.ins().band(bits, sign_bit);
    let magnitude = t.builder.ins().bxor(bits, sign);

    // Too large, infinite or NaN.
    let infinity = word(t, 0x7F80_0000);
    let is_nan = t.builder.ins().icmp(IntCC::SignedGreaterThan, magnitude, infinity);
    let (half_infinity, half_nan) = (word(t, 0x7C00), word(t, 0x7E00));
    let huge = choose(t, is_nan, half_nan, half_infinity);
    let largest = word(t, ((127 + 16) << 23) - 1);
    let is_huge = t.builder.ins().icmp(IntCC::SignedGreaterThan, magnitude, largest);

    // Denormal as f16: adding 0.5 leaves the rounded number of 2⁻²⁴ in the low bits.
    let half = word(t, 126 << 23);
    let (small, half_value) = (cast(t, types::F32X4, magnitude), cast(t, types::F32X4, half));
    let sum = t.builder.ins().fadd(small, half_value);
    let sum = cast(t, types::I32X4, sum);
    let tiny = t.builder.ins().isub(sum, half);
    let smallest = word(t, 113 << 23);
    let is_tiny = t.builder.ins().icmp(IntCC::SignedLessThan, magnitude, smallest);

    // The rest: move the exponent, round by adding just under half a unit, plus one if the result would be odd.
    let one = word(t, 1);
    let last = shift_words(t, Shift::RightLogical, magnitude, 13);
    let odd = t.builder.ins().band(last, one);
    let bias = word(t, (15u32.wrapping_sub(127) << 23).wrapping_add(0xFFF));
    let rounded = t.builder.ins().iadd(magnitude, bias);
    let rounded = t.builder.ins().iadd(rounded, odd);
    let normal = shift_words(t, Shift::RightLogical, rounded, 13);

    let result = choose(t, is_tiny, tiny, normal);
    let result = choose(t, is_huge, huge, result);
    let sign = shift_words(t, Shift::RightLogical, sign, 16);
    t.builder.ins().bor(result, sign)
}

/// bf16 bits nearest to f32s, ties to even, NaN made quiet, in the low halves of words.
fn narrow_bf16(t: &mut Translate<'_>, value: Value) -> Value {
    let bits = cast(t, types::I32X4, value);
    let high = shift_words(t, Shift::RightLogical, bits, 16);
    let (one, bias, quiet) = (word(t, 1), word(t, 0x7FFF), word(t, 0x40));
    let odd = t.builder.ins().band(high, one);
    let sum = t.builder.ins().iadd(bits, bias);
    let sum = t.builder.ins().iadd(sum, odd);
    let rounded = shift_words(t, Shift::RightLogical, sum, 16);
    let quieted = t.builder.ins().bor(high, quiet);
    let is_nan = t.builder.ins().fcmp(FloatCC::Unordered, value, value);
    choose(t, is_nan, quieted, rounded)
}

/// Quarters of a register as memory holds them; narrower elements in the low bits of words.
fn narrowed(t: &mut Translate<'_>, mem: Mem, reg: Reg) -> Parts {
    let parts = t.get(reg);
    match mem {
        Mem::F32 | Mem::I32 => parts,
        Mem::F16 => parts.into_iter().map(|v| narrow_f16(t, v)).collect(),
        Mem::BF16 => parts.into_iter().map(|v| narrow_bf16(t, v)).collect(),
        Mem::U8 | Mem::I8 => {
            let low = word(t, 0xFF);
            parts.into_iter().map(|v| t.builder.ins().band(v, low)).collect()
        }
    }
}

/// Stores 16 lanes side by side.
pub(super) fn store(t: &mut Translate<'_>, mem: Mem, addr: Addr, reg: Reg) {
    let mut parts = narrowed(t, mem, reg);
    let mut width = 4;
    // Narrowing saturates, but the words already fit.
    while width > mem.bytes() {
        parts = parts.chunks_exact(2).map(|pair| t.builder.ins().unarrow(pair[0], pair[1])).collect();
        width /= 2;
    }
    let (at, offset) = t.addr(addr, 64);
    for (q, part) in parts.into_iter().enumerate() {
        t.builder.ins().store(ACCESS, part, at, offset + 16 * q as i32);
    }
}

/// Stores 16 lanes `stride` bytes apart.
pub(super) fn store_strided(t: &mut Translate<'_>, mem: Mem, addr: Addr, stride: i64, reg: Reg) {
    let parts = narrowed(t, mem, reg);
    for lane in 0..16u8 {
        let item = t.builder.ins().extractlane(parts[usize::from(lane / 4)], lane % 4);
        let offset = addr.offset.wrapping_add(stride.wrapping_mul(i64::from(lane)));
        let (at, offset) = t.addr(Addr { offset, ..addr }, 4);
        match mem.bytes() {
            4 => t.builder.ins().store(ACCESS, item, at, offset),
            2 => t.builder.ins().istore16(ACCESS, item, at, offset),
            _ => t.builder.ins().istore8(ACCESS, item, at, offset),
        };
    }
}

/// Stores one scalar.
pub(super) fn store_scalar(t: &mut Translate<'_>, mem: ScalarMem, addr: Addr, reg: Reg) {
    let value = t.scalar(reg);
    let (at, offset) = t.addr(addr, 8);
    match mem {
        ScalarMem::F32 | ScalarMem::F64 | ScalarMem::I64 => t.builder.ins().store(ACCESS, value, at, offset),
        ScalarMem::I32 => t.builder.ins().istore32(ACCESS, value, at, offset),
        ScalarMem::U8 => t.builder.ins().istore8(ACCESS, value, at, offset),
        ScalarMem::F16 => {
            let vector = t.builder.ins().scalar_to_vector(types::F32X4, value);
            let bits = narrow_f16(t, vector);
            let bits = t.builder.ins().extractlane(bits, 0);
            t.builder.ins().istore16(ACCESS, bits, at, offset)
        }
    };
}
