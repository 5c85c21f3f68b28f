//! The meaning of Kernel IR: runs a [`Kernel`] over owned buffers, slowly and obviously.
//!
//! Takes a kernel, one [`Value`] per parameter and the team's size; runs all threads one after the other and leaves the
//! written buffers in the arguments. Every other back end must give the same bits (of a NaN: its being one). Memory is
//! checked: an access outside a buffer is an error that names buffer and offset. What this does not do: threads, speed.

use half::f16;
use ir::kernel::{Addr, Base, Bin, Bytes, Cmp, Kernel, LANES, Mem, Op, ParamKind, Reg, ScalarMem, Shift, Split, Stmt};
use ir::kernel::{TILE_ROWS, TILES, Tile, Un};
use ir::kernel_check;
use std::fmt::{self, Display, Formatter};

/// An argument.
#[derive(Clone, Debug, PartialEq)]
pub enum Value {
    /// Memory of a `Read` or `Write` parameter.
    Buffer(Vec<u8>),
    /// An `I64` parameter.
    I64(i64),
    /// An `F32` parameter.
    F32(f32),
}

/// Why a kernel could not be run to its end.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Fault {
    /// The kernel is not well-formed; see [`ir::kernel_check`].
    Invalid(Vec<String>),
    /// The arguments do not fit the parameters.
    Arguments(String),
    /// An access outside a buffer.
    OutOfBounds {
        /// Name of the parameter or local.
        buffer: String,
        /// First byte touched.
        offset: i64,
        /// Bytes touched.
        bytes: usize,
        /// Size of the buffer.
        len: usize,
    },
    /// A division by 0 or out of range, or an overflowing counter or address.
    Arithmetic(String),
}

impl Display for Fault {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        match self {
            Self::Invalid(faults) => write!(f, "the kernel is not well-formed: {}", faults.join("; ")),
            Self::Arguments(text) | Self::Arithmetic(text) => f.write_str(text),
            Self::OutOfBounds { buffer, offset, bytes, len } => {
                write!(f, "{bytes} bytes at offset {offset} of `{buffer}`, which has {len} bytes")
            }
        }
    }
}

impl std::error::Error for Fault {}

/// Runs all threads `0..team`, in order.
///
/// # Errors
/// A [`Fault`]; buffers then hold what was written until it happened.
pub fn run(kernel: &Kernel, args: &mut [Value], team: i64) -> Result<(), Fault> {
    kernel_check::kernel(kernel).map_err(Fault::Invalid)?;
    check_args(kernel, args)?;
    if team < 1 {
        return Err(Fault::Arguments(format!("a team of {team} threads")));
    }
    for tid in 0..team {
        // Locals start as 0xFF bytes: a kernel that reads what it never wrote sees NaN and -1.
        let locals = kernel.locals.iter().map(|l| vec![0xFF; l.bytes as usize]).collect();
        let (regs, tiles) = (vec![Val::I64(0); kernel.regs.len()], vec![[[0; 64]; TILE_ROWS]; TILES]);
        let mut thread = Thread { kernel, args, locals, regs, tiles, tid, team };
        thread.block(&kernel.body)?;
    }
    Ok(())
}

fn check_args(kernel: &Kernel, args: &[Value]) -> Result<(), Fault> {
    if args.len() != kernel.params.len() {
        return Err(Fault::Arguments(format!("{} arguments for {} parameters", args.len(), kernel.params.len())));
    }
    for (param, arg) in kernel.params.iter().zip(args) {
        let fits = match param.kind {
            ParamKind::Read | ParamKind::Write => matches!(arg, Value::Buffer(_)),
            ParamKind::I64 => matches!(arg, Value::I64(_)),
            ParamKind::F32 => matches!(arg, Value::F32(_)),
        };
        if !fits {
            return Err(Fault::Arguments(format!("parameter `{}` is {:?}", param.name, param.kind)));
        }
    }
    Ok(())
}

/// Content of a register.
#[derive(Clone, Copy, Debug)]
enum Val {
    I64(i64),
    F32(f32),
    F64(f64),
    VF32([f32; LANES]),
    VI32([i32; LANES]),
    B64([u8; 4 * LANES]),
}

struct Thread<'a> {
    kernel: &'a Kernel,
    args: &'a mut [Value],
    locals: Vec<Vec<u8>>,
    regs: Vec<Val>,
    tiles: Vec<[[u8; 64]; TILE_ROWS]>,
    tid: i64,
    team: i64,
}

/// `kernel_check` proved the types of all registers and parameters.
fn ill_typed() -> ! {
    unreachable!("kernel_check::kernel accepted an ill-typed kernel")
}

impl Thread<'_> {
    fn get(&self, reg: Reg) -> Val {
        self.regs[reg.0 as usize]
    }

    fn i64(&self, reg: Reg) -> i64 {
        let Val::I64(v) = self.get(reg) else { ill_typed() };
        v
    }

    fn f32(&self, reg: Reg) -> f32 {
        let Val::F32(v) = self.get(reg) else { ill_typed() };
        v
    }

    fn f64(&self, reg: Reg) -> f64 {
        let Val::F64(v) = self.get(reg) else { ill_typed() };
        v
    }

    fn vf32(&self, reg: Reg) -> [f32; LANES] {
        let Val::VF32(v) = self.get(reg) else { ill_typed() };
        v
    }

    fn vi32(&self, reg: Reg) -> [i32; LANES] {
        let Val::VI32(v) = self.get(reg) else { ill_typed() };
        v
    }

    fn b64(&self, reg: Reg) -> [u8; 4 * LANES] {
        let Val::B64(v) = self.get(reg) else { ill_typed() };
        v
    }

    /// The `n` bytes at an address, `extra` bytes further on.
    fn memory(&mut self, addr: Addr, extra: i64, n: usize) -> Result<&mut [u8], Fault> {
        let index = addr.index.map_or(0, |reg| self.i64(reg));
        let offset = index.checked_add(addr.offset).and_then(|o| o.checked_add(extra));
        let offset = offset.ok_or_else(|| Fault::Arithmetic(format!("address {index} + {} + {extra}", addr.offset)))?;
        let (name, buffer) = match addr.base {
            Base::Param(i) => {
                let Value::Buffer(bytes) = &mut self.args[i as usize] else { ill_typed() };
                (&self.kernel.params[i as usize].name, bytes)
            }
            Base::Local(i) => (&self.kernel.locals[i as usize].name, &mut self.locals[i as usize]),
        };
        match usize::try_from(offset).ok().and_then(|start| Some(start..start.checked_add(n)?)) {
            Some(range) if range.end <= buffer.len() => Ok(&mut buffer[range]),
            _ => Err(Fault::OutOfBounds { buffer: name.clone(), offset, bytes: n, len: buffer.len() }),
        }
    }

    fn read<const N: usize>(&mut self, addr: Addr) -> Result<[u8; N], Fault> {
        let bytes = self.memory(addr, 0, N)?;
        Ok(bytes.try_into().expect("memory() returns as many bytes as asked"))
    }

    fn block(&mut self, body: &[Stmt]) -> Result<(), Fault> {
        body.iter().try_for_each(|stmt| self.statement(stmt))
    }

    fn statement(&mut self, stmt: &Stmt) -> Result<(), Fault> {
        match stmt {
            Stmt::Let(reg, op) => self.regs[reg.0 as usize] = self.op(op)?,
            Stmt::Store(mem, addr, reg) => self.store(*mem, *addr, mem.bytes(), *reg)?,
            Stmt::StoreStrided(mem, addr, stride, reg) => self.store(*mem, *addr, *stride, *reg)?,
            Stmt::StoreScalar(mem, addr, reg) => {
                let value = self.get(*reg);
                let n = kernel_check::scalar_bytes(*mem);
                self.memory(*addr, 0, n)?.copy_from_slice(&scalar_bytes(*mem, value)[..n]);
            }
            Stmt::Prefetch(..) => {}
            Stmt::TileZero(tile) => self.tiles[usize::from(tile.0)] = [[0; 64]; TILE_ROWS],
            Stmt::TileLoad(tile, addr, stride) => {
                for row in 0..TILE_ROWS {
                    let bytes = self.memory(*addr, row_offset(*stride, row)?, 64)?;
                    let bytes = (&*bytes).try_into().expect("memory() returns as many bytes as asked");
                    self.tiles[usize::from(tile.0)][row] = bytes;
                }
            }
            Stmt::TileStore(addr, stride, tile) => {
                for row in 0..TILE_ROWS {
                    let bytes = self.tiles[usize::from(tile.0)][row];
                    self.memory(*addr, row_offset(*stride, row)?, 64)?.copy_from_slice(&bytes);
                }
            }
            Stmt::TileDot { acc, a, b } => self.tile_dot(*acc, *a, *b),
            Stmt::For { var, lo, hi, step, body } => self.range(*var, self.i64(*lo), self.i64(*hi), *step, body)?,
            Stmt::ParFor { var, n, split, body } => {
                let n = self.i64(*n);
                match split {
                    Split::Cyclic => self.range(*var, self.tid, n, self.team, body)?,
                    Split::Blocked => {
                        let cut = |t: i64| n.checked_mul(t).map(|product| product / self.team);
                        let (Some(lo), Some(hi)) = (cut(self.tid), cut(self.tid + 1)) else {
                            return Err(Fault::Arithmetic(format!("{n} iterations over {} threads", self.team)));
                        };
                        self.range(*var, lo, hi, 1, body)?;
                    }
                }
            }
            Stmt::If { cond, then, otherwise } => {
                self.block(if self.i64(*cond) != 0 { then } else { otherwise })?;
            }
        }
        Ok(())
    }

    fn tile_dot(&mut self, acc: Tile, a: (Tile, Bytes), b: (Tile, Bytes)) {
        let value = |byte: u8, how| if how == Bytes::Signed { i32::from(byte as i8) } else { i32::from(byte) };
        let [left, right] = [a.0, b.0].map(|tile| self.tiles[usize::from(tile.0)]);
        for (m, sums) in self.tiles[usize::from(acc.0)].iter_mut().enumerate() {
            for (n, sum) in sums.as_chunks_mut::<4>().0.iter_mut().enumerate() {
                let products = (0..64).map(|f| value(left[m][f], a.1) * value(right[f / 4][4 * n + f % 4], b.1));
                // At most 64 products below 2¹⁶: their own sum does not wrap.
                *sum = i32::from_le_bytes(*sum).wrapping_add(products.sum()).to_le_bytes();
            }
        }
    }

    fn range(&mut self, var: Reg, lo: i64, hi: i64, step: i64, body: &[Stmt]) -> Result<(), Fault> {
        let mut i = lo;
        while i < hi {
            self.regs[var.0 as usize] = Val::I64(i);
            self.block(body)?;
            i = i.checked_add(step).ok_or_else(|| Fault::Arithmetic(format!("loop counter {i} + {step}")))?;
        }
        Ok(())
    }

    fn store(&mut self, mem: Mem, addr: Addr, stride: i64, reg: Reg) -> Result<(), Fault> {
        let value = self.get(reg);
        let n = mem.bytes() as usize;
        for lane in 0..LANES {
            let bytes = match (mem, value) {
                (Mem::F32, Val::VF32(v)) => v[lane].to_le_bytes(),
                (Mem::F16, Val::VF32(v)) => wide(f16::from_f32(v[lane]).to_bits()),
                (Mem::BF16, Val::VF32(v)) => wide(bf16_bits(v[lane])),
                (Mem::I32 | Mem::U8 | Mem::I8, Val::VI32(v)) => v[lane].to_le_bytes(),
                _ => ill_typed(),
            };
            self.memory(addr, row_offset(stride, lane)?, n)?.copy_from_slice(&bytes[..n]);
        }
        Ok(())
    }

    fn load(&mut self, mem: Mem, addr: Addr) -> Result<Val, Fault> {
        Ok(match mem {
            Mem::F32 => Val::VF32(self.read::<64>(addr)?.as_chunks().0.map_lanes(f32::from_le_bytes)),
            Mem::I32 => Val::VI32(self.read::<64>(addr)?.as_chunks().0.map_lanes(i32::from_le_bytes)),
            Mem::F16 => Val::VF32(self.read::<32>(addr)?.as_chunks().0.map_lanes(|b| f16::from_le_bytes(b).to_f32())),
            Mem::BF16 => Val::VF32(
                self.read::<32>(addr)?
                    .as_chunks()
                    .0
                    .map_lanes(|b| f32::from_bits(u32::from(u16::from_le_bytes(b)) << 16)),
            ),
            Mem::U8 => Val::VI32(self.read::<16>(addr)?.map(i32::from)),
            Mem::I8 => Val::VI32(self.read::<16>(addr)?.map(|b| i32::from(b as i8))),
        })
    }

    fn op(&mut self, op: &Op) -> Result<Val, Fault> {
        Ok(match op {
            Op::Int(v) => Val::I64(*v),
            Op::Float(bits) => Val::F32(f32::from_bits(*bits)),
            Op::Param(i) => match self.args[*i as usize] {
                Value::I64(v) => Val::I64(v),
                Value::F32(v) => Val::F32(v),
                Value::Buffer(_) => ill_typed(),
            },
            Op::Tid => Val::I64(self.tid),
            Op::Iota => Val::VI32(std::array::from_fn(|lane| lane as i32)),
            Op::Copy(a) => self.get(*a),
            Op::Bin(bin, a, b) => bin_op(*bin, self.get(*a), self.get(*b))?,
            Op::Un(un, a) => un_op(*un, self.get(*a)),
            Op::Shift(shift, a, bits) => shift_op(*shift, self.get(*a), *bits),
            Op::Fma(a, b, c) => match (self.get(*a), self.get(*b), self.get(*c)) {
                (Val::F32(a), Val::F32(b), Val::F32(c)) => Val::F32(a.mul_add(b, c)),
                (Val::VF32(a), Val::VF32(b), Val::VF32(c)) => {
                    Val::VF32(std::array::from_fn(|l| a[l].mul_add(b[l], c[l])))
                }
                _ => ill_typed(),
            },
            Op::Select(cmp, a, b, t, f) => self.select(*cmp, [*a, *b, *t, *f]),
            Op::Dot4(acc, u, s) => {
                let (acc, u, s) = (self.vi32(*acc), self.b64(*u), self.b64(*s));
                let dot = |l: usize| (4 * l..4 * l + 4).map(|i| i32::from(u[i]) * i32::from(s[i] as i8)).sum::<i32>();
                Val::VI32(std::array::from_fn(|l| acc[l].wrapping_add(dot(l))))
            }
            Op::SplatByte(b) => Val::B64([*b; 4 * LANES]),
            Op::Load(mem, addr) => self.load(*mem, *addr)?,
            Op::LoadBytes(addr) => Val::B64(self.read(*addr)?),
            Op::LoadBytes4(addr) => {
                let four: [u8; 4] = self.read(*addr)?;
                Val::B64(std::array::from_fn(|i| four[i % 4]))
            }
            Op::LoadSplat(addr) => Val::VF32([f32::from_le_bytes(self.read(*addr)?); LANES]),
            Op::LoadScalar(mem, addr) => match mem {
                ScalarMem::F32 => Val::F32(f32::from_le_bytes(self.read(*addr)?)),
                ScalarMem::F16 => Val::F32(f16::from_le_bytes(self.read(*addr)?).to_f32()),
                ScalarMem::F64 => Val::F64(f64::from_le_bytes(self.read(*addr)?)),
                ScalarMem::I32 => Val::I64(i32::from_le_bytes(self.read(*addr)?).into()),
                ScalarMem::I64 => Val::I64(i64::from_le_bytes(self.read(*addr)?)),
                ScalarMem::U8 => Val::I64(u8::from_le_bytes(self.read(*addr)?).into()),
            },
            Op::Lane(a, lane) => Val::F32(self.vf32(*a)[*lane as usize]),
        })
    }

    fn select(&self, cmp: Cmp, [a, b, t, f]: [Reg; 4]) -> Val {
        let mut mask = [false; LANES];
        match (self.get(a), self.get(b)) {
            (Val::I64(a), Val::I64(b)) => mask[0] = compare(cmp, a, b),
            (Val::F32(a), Val::F32(b)) => mask[0] = compare(cmp, a, b),
            (Val::F64(a), Val::F64(b)) => mask[0] = compare(cmp, a, b),
            (Val::VF32(a), Val::VF32(b)) => mask = std::array::from_fn(|l| compare(cmp, a[l], b[l])),
            (Val::VI32(a), Val::VI32(b)) => mask = std::array::from_fn(|l| compare(cmp, a[l], b[l])),
            _ => ill_typed(),
        }
        match self.get(t) {
            Val::I64(t) => Val::I64(if mask[0] { t } else { self.i64(f) }),
            Val::F32(t) => Val::F32(if mask[0] { t } else { self.f32(f) }),
            Val::F64(t) => Val::F64(if mask[0] { t } else { self.f64(f) }),
            Val::VF32(t) => {
                let f = self.vf32(f);
                Val::VF32(std::array::from_fn(|l| if mask[l] { t[l] } else { f[l] }))
            }
            Val::VI32(t) => {
                let f = self.vi32(f);
                Val::VI32(std::array::from_fn(|l| if mask[l] { t[l] } else { f[l] }))
            }
            Val::B64(_) => ill_typed(),
        }
    }
}

/// Element-wise conversion of the chunks of 16 lanes' bytes.
trait MapLanes<const N: usize> {
    fn map_lanes<T>(&self, f: impl Fn([u8; N]) -> T) -> [T; LANES];
}

impl<const N: usize> MapLanes<N> for [[u8; N]] {
    fn map_lanes<T>(&self, f: impl Fn([u8; N]) -> T) -> [T; LANES] {
        std::array::from_fn(|lane| f(self[lane]))
    }
}

/// Distance of a lane or row from the first.
fn row_offset(stride: i64, row: usize) -> Result<i64, Fault> {
    stride.checked_mul(row as i64).ok_or_else(|| Fault::Arithmetic(format!("stride {stride}, {row} times")))
}

fn compare<T: PartialOrd>(cmp: Cmp, a: T, b: T) -> bool {
    match cmp {
        Cmp::Lt => a < b,
        Cmp::Le => a <= b,
        Cmp::Eq => a == b,
    }
}

fn min<T: PartialOrd>(a: T, b: T) -> T {
    if a < b { a } else { b }
}

fn max<T: PartialOrd>(a: T, b: T) -> T {
    if a > b { a } else { b }
}

fn bin_op(bin: Bin, a: Val, b: Val) -> Result<Val, Fault> {
    Ok(match (a, b) {
        (Val::I64(a), Val::I64(b)) => Val::I64(match bin {
            Bin::Add => a.wrapping_add(b),
            Bin::Sub => a.wrapping_sub(b),
            Bin::Mul => a.wrapping_mul(b),
            Bin::Div => a.checked_div(b).ok_or_else(|| Fault::Arithmetic(format!("{a} / {b}")))?,
            Bin::Rem => a.checked_rem(b).ok_or_else(|| Fault::Arithmetic(format!("{a} % {b}")))?,
            Bin::Min => min(a, b),
            Bin::Max => max(a, b),
            Bin::And => a & b,
            Bin::Or => a | b,
            Bin::Lt => (a < b).into(),
            Bin::Le => (a <= b).into(),
            Bin::Eq => (a == b).into(),
        }),
        (Val::F32(a), Val::F32(b)) => match bin {
            Bin::Lt => Val::I64((a < b).into()),
            Bin::Le => Val::I64((a <= b).into()),
            Bin::Eq => Val::I64((a == b).into()),
            _ => Val::F32(float_op(bin, a, b)),
        },
        (Val::F64(a), Val::F64(b)) => match bin {
            Bin::Lt => Val::I64((a < b).into()),
            Bin::Le => Val::I64((a <= b).into()),
            Bin::Eq => Val::I64((a == b).into()),
            Bin::Add => Val::F64(a + b),
            Bin::Sub => Val::F64(a - b),
            Bin::Mul => Val::F64(a * b),
            Bin::Div => Val::F64(a / b),
            _ => ill_typed(),
        },
        (Val::VF32(a), Val::VF32(b)) => Val::VF32(std::array::from_fn(|l| float_op(bin, a[l], b[l]))),
        (Val::VI32(a), Val::VI32(b)) => Val::VI32(std::array::from_fn(|l| match bin {
            Bin::Add => a[l].wrapping_add(b[l]),
            Bin::Sub => a[l].wrapping_sub(b[l]),
            Bin::Mul => a[l].wrapping_mul(b[l]),
            Bin::And => a[l] & b[l],
            Bin::Or => a[l] | b[l],
            _ => ill_typed(),
        })),
        (Val::B64(a), Val::B64(b)) => Val::B64(std::array::from_fn(|i| match bin {
            Bin::And => a[i] & b[i],
            Bin::Or => a[i] | b[i],
            _ => ill_typed(),
        })),
        _ => ill_typed(),
    })
}

fn float_op(bin: Bin, a: f32, b: f32) -> f32 {
    match bin {
        Bin::Add => a + b,
        Bin::Sub => a - b,
        Bin::Mul => a * b,
        Bin::Div => a / b,
        Bin::Min => min(a, b),
        Bin::Max => max(a, b),
        _ => ill_typed(),
    }
}

fn un_op(un: Un, a: Val) -> Val {
    match (un, a) {
        (Un::SplatF, Val::F32(a)) => Val::VF32([a; LANES]),
        (Un::SplatI, Val::I64(a)) => Val::VI32([a as i32; LANES]),
        (Un::Sqrt, Val::F32(a)) => Val::F32(a.sqrt()),
        (Un::Sqrt, Val::VF32(a)) => Val::VF32(a.map(f32::sqrt)),
        (Un::Abs, Val::F32(a)) => Val::F32(a.abs()),
        (Un::Abs, Val::VF32(a)) => Val::VF32(a.map(f32::abs)),
        (Un::ToFloat, Val::VI32(a)) => Val::VF32(a.map(|v| v as f32)),
        (Un::ToInt, Val::VF32(a)) => Val::VI32(a.map(to_int)),
        (Un::BitsI, Val::VF32(a)) => Val::VI32(a.map(|v| v.to_bits() as i32)),
        (Un::BitsF, Val::VI32(a)) => Val::VF32(a.map(|v| f32::from_bits(v as u32))),
        (Un::IntToF32, Val::I64(a)) => Val::F32(a as f32),
        (Un::Widen, Val::F32(a)) => Val::F64(a.into()),
        (Un::Narrow, Val::F64(a)) => Val::F32(a as f32),
        (Un::SumLanes, Val::VF32(a)) => Val::F32(fold_lanes(a, |a, b| a + b)),
        (Un::MaxLanes, Val::VF32(a)) => Val::F32(fold_lanes(a, max)),
        _ => ill_typed(),
    }
}

fn fold_lanes(mut lanes: [f32; LANES], f: impl Fn(f32, f32) -> f32) -> f32 {
    for half in [8, 4, 2, 1] {
        for l in 0..half {
            lanes[l] = f(lanes[l], lanes[l + half]);
        }
    }
    lanes[0]
}

fn to_int(value: f32) -> i32 {
    let rounded = value.round_ties_even();
    // 2³¹ is an f32, and the largest f32 below it fits; a NaN is in no range.
    if (-2_147_483_648.0..2_147_483_648.0).contains(&rounded) { rounded as i32 } else { i32::MIN }
}

fn shift_op(shift: Shift, a: Val, bits: u32) -> Val {
    match (shift, a) {
        (Shift::Left, Val::I64(a)) => Val::I64(a << bits),
        (Shift::RightLogical, Val::I64(a)) => Val::I64((a as u64 >> bits) as i64),
        (Shift::RightArith, Val::I64(a)) => Val::I64(a >> bits),
        (Shift::Left, Val::VI32(a)) => Val::VI32(a.map(|v| v << bits)),
        (Shift::RightLogical, Val::VI32(a)) => Val::VI32(a.map(|v| (v as u32 >> bits) as i32)),
        (Shift::RightArith, Val::VI32(a)) => Val::VI32(a.map(|v| v >> bits)),
        (Shift::Left, Val::B64(a)) => Val::B64(a.map(|v| v << bits)),
        (Shift::RightLogical, Val::B64(a)) => Val::B64(a.map(|v| v >> bits)),
        _ => ill_typed(),
    }
}

/// bf16 nearest to `value`, ties to even; a NaN stays one.
fn bf16_bits(value: f32) -> u16 {
    let bits = value.to_bits();
    if value.is_nan() {
        return (bits >> 16) as u16 | 0x40;
    }
    (bits.wrapping_add(0x7FFF + (bits >> 16 & 1)) >> 16) as u16
}

fn wide(bits: u16) -> [u8; 4] {
    u32::from(bits).to_le_bytes()
}

fn scalar_bytes(mem: ScalarMem, value: Val) -> [u8; 8] {
    match (mem, value) {
        (ScalarMem::F32, Val::F32(v)) => u64::from(v.to_bits()).to_le_bytes(),
        (ScalarMem::F64, Val::F64(v)) => v.to_le_bytes(),
        (ScalarMem::F16, Val::F32(v)) => u64::from(f16::from_f32(v).to_bits()).to_le_bytes(),
        (ScalarMem::I32 | ScalarMem::I64 | ScalarMem::U8, Val::I64(v)) => v.to_le_bytes(),
        _ => ill_typed(),
    }
}
