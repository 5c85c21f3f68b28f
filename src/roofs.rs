//! What this machine can do at most: bytes read per second, int8 products and f32 products per second, on the threads given.
//!
//! Takes threads, an ISA and working sets in bytes; returns rates for shares of a roof. The loops are kernels of the Kernel
//! IR through a real back end, so a roof is what generated code could reach, not what another compiler's loop does. Several
//! shapes of each loop are tried and the fastest run of the fastest shape counts: a roof is a bound, and neighbours on a
//! shared machine only ever lower it. Buffers are random (identical pages are read from one copy), accumulators distinct.
//! Matrix extensions (AMX, the tiles of the Kernel IR) are not measured.

use crate::cache::Cache;
use crate::synthetic::Random;
use anyhow::{Result, bail};
use codegen::Backend;
use ir::kernel::{Addr, Base, Bin, Kernel, Mem, Op, Param, ParamKind, Reg, Shift, Split, Stmt, Ty, Un};
use ir::target::Isa;
use runtime::device::cpu::{Function, Image, Launch, Region, Team};
use runtime::device::probe;
use std::time::Instant;

/// Bytes of an iteration of the reading kernel that one thread takes at a time.
const PIECE: i64 = 64 << 10;
/// Bytes that a step of the reading kernel loads.
const STRIDE: i64 = 512;
/// How far ahead of its loads the reading kernel asks for lines; 0: leaves it to the CPU.
const AHEAD: [i64; 3] = [0, 4 << 10, 16 << 10];
/// Shapes of the arithmetic loops: operands read per step and operands kept, so that their product is the accumulators.
const SHAPES: [(usize, usize); 4] = [(1, 3), (2, 3), (2, 6), (3, 4)];
/// Steps of an arithmetic loop in one call, and how many are written out.
const STEPS: i64 = 8192;
const WRITTEN_OUT: i64 = 4;
/// Lines of the operands that the arithmetic loops walk over: they stay in the first cache.
const LINES: i64 = 32;
/// Seconds that a working set is read by each kernel.
const READING: f64 = 0.33;
/// Smallest working set.
const LEAST: u64 = 1 << 20;

/// Rate of reading one working set.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Read {
    /// Size of the working set, bytes.
    pub bytes: u64,
    /// Bytes per second of the fastest pass.
    pub best: f64,
    /// Bytes per second of the median pass.
    pub median: f64,
}

/// Rates of all threads together.
#[derive(Clone, Debug, PartialEq)]
pub struct Roofs {
    /// Reading, by working set in rising order.
    pub read: Vec<Read>,
    /// Products of unsigned and signed bytes, summed, per second.
    pub int8_macs: f64,
    /// Fused multiply-adds of f32 per second.
    pub f32_macs: f64,
}

/// Measures. Working sets are rounded up to whole pieces of 64 KiB.
///
/// # Errors
/// When a working set is below 1 MiB or above half of the memory, the kernels cannot be compiled, or threads are refused.
pub fn measure(threads: u32, isa: Isa, backend: Backend, cache: Option<&Cache>, sets: &[u64]) -> Result<Roofs> {
    let most = probe::probe().total_memory / 2;
    if let Some(bad) = sets.iter().find(|s| !(LEAST..=most).contains(*s)) {
        bail!("--bytes {bad}: a working set has {LEAST} to {most} bytes here");
    }
    let mut kernels: Vec<Kernel> = Vec::new();
    for (read, kept) in SHAPES {
        kernels.push(arithmetic(Arithmetic::Int8, read, kept));
        kernels.push(arithmetic(Arithmetic::F32, read, kept));
    }
    let image = Image::load(&crate::machine_code(&kernels, isa, backend, cache)?)?;
    let mut team = Team::new(threads as usize)?;
    let mut out = Region::new(64 * threads as usize)?;
    let mut best = |what: Arithmetic| -> Result<f64> {
        let operands = operands(what)?;
        let mut rate = 0.0_f64;
        for (read, kept) in SHAPES {
            let function = image.function(&what.name(read, kept))?;
            let seconds = products(&mut team, &function, &operands, &mut out, threads)?;
            #[allow(clippy::cast_precision_loss, reason = "small counts")]
            let macs = (read * kept) as f64 * (STEPS * what.macs()) as f64 * f64::from(threads);
            rate = rate.max(macs / seconds);
        }
        Ok(rate)
    };
    let (int8_macs, f32_macs) = (best(Arithmetic::Int8)?, best(Arithmetic::F32)?);
    let mut sizes: Vec<u64> = sets.iter().map(|s| s.next_multiple_of(PIECE.unsigned_abs())).collect();
    sizes.sort_unstable();
    sizes.dedup();
    let mut read = Vec::new();
    if let Some(largest) = sizes.last() {
        let mut reader = Reader::new(*largest, threads, isa, backend, cache)?;
        for bytes in &sizes {
            read.push(reader.read(&mut team, *bytes, READING)?);
        }
    }
    Ok(Roofs { read, int8_macs, f32_macs })
}

/// A buffer of random words and the kernels that read it.
pub(crate) struct Reader {
    kernels: Vec<Function>,
    buffer: Region,
    out: Region,
}

impl Reader {
    /// A buffer of `largest` bytes, rounded up to whole pieces, for teams of at most `threads`.
    ///
    /// # Errors
    /// When memory is refused or the kernels cannot be compiled.
    pub(crate) fn new(largest: u64, threads: u32, isa: Isa, backend: Backend, cache: Option<&Cache>) -> Result<Self> {
        let kernels: Vec<Kernel> = AHEAD.iter().map(|ahead| reading(*ahead)).collect();
        let image = Image::load(&crate::machine_code(&kernels, isa, backend, cache)?)?;
        let kernels = AHEAD.iter().map(|ahead| image.function(&name(*ahead))).collect::<Result<_, _>>()?;
        let mut buffer = Region::new(usize::try_from(largest.next_multiple_of(PIECE.unsigned_abs()))?)?;
        let mut random = Random(0x9E37_79B9_7F4A_7C15);
        for word in buffer.i64s_mut() {
            *word = random.next().cast_signed();
        }
        Ok(Self { kernels, buffer, out: Region::new(64 * threads as usize)? })
    }

    /// Reads the first `bytes`, which are whole pieces, with every kernel for so many seconds.
    ///
    /// # Errors
    /// When a thread of the team is lost.
    pub(crate) fn read(&mut self, team: &mut Team, bytes: u64, seconds: f64) -> Result<Read> {
        let mut passes = Vec::new();
        for kernel in &self.kernels {
            let args = vec![self.buffer.address(), self.out.address(), bytes / PIECE.unsigned_abs()];
            let list = [Launch::new(kernel.clone(), args)];
            team.run(&list)?;
            let begun = Instant::now();
            let mut of_kernel = Vec::new();
            while of_kernel.len() < 5 || begun.elapsed().as_secs_f64() < seconds {
                let start = Instant::now();
                team.run(&list)?;
                of_kernel.push(start.elapsed().as_secs_f64());
            }
            of_kernel.sort_by(f64::total_cmp);
            passes.push((of_kernel[0], of_kernel[of_kernel.len() / 2]));
        }
        let least = |times: &mut dyn Iterator<Item = f64>| times.fold(f64::MAX, f64::min);
        #[allow(clippy::cast_precision_loss, reason = "sizes of memory are far below 2^53")]
        let size = bytes as f64;
        Ok(Read {
            bytes,
            best: size / least(&mut passes.iter().map(|p| p.0)),
            median: size / least(&mut passes.iter().map(|p| p.1)),
        })
    }
}

/// Seconds of the fastest of many calls of an arithmetic loop, each on every thread.
fn products(team: &mut Team, function: &Function, operands: &Region, out: &mut Region, threads: u32) -> Result<f64> {
    let args = vec![operands.address(), out.address(), u64::from(threads)];
    let list = [Launch::new(function.clone(), args)];
    let begun = Instant::now();
    let mut best = f64::MAX;
    while begun.elapsed().as_secs_f64() < 0.06 {
        let start = Instant::now();
        team.run(&list)?;
        best = best.min(start.elapsed().as_secs_f64());
    }
    Ok(best)
}

/// Random operands of the arithmetic loops; floats of about ±0.1, far from denormal and from infinite sums.
fn operands(what: Arithmetic) -> Result<Region> {
    let mut region = Region::new(usize::try_from(2 * LINES * 64)?)?;
    let mut random = Random(0x2545_F491_4F6C_DD1D);
    match what {
        Arithmetic::Int8 => region.i64s_mut().iter_mut().for_each(|w| *w = random.next().cast_signed()),
        Arithmetic::F32 => region.f32s_mut().iter_mut().for_each(|x| *x = random.small()),
    }
    Ok(region)
}

#[derive(Clone, Copy)]
enum Arithmetic {
    Int8,
    F32,
}

impl Arithmetic {
    fn name(self, read: usize, kept: usize) -> String {
        let kind = match self {
            Self::Int8 => "dot",
            Self::F32 => "fma",
        };
        format!("roof_{kind}_{read}_{kept}")
    }

    /// Products of one operation.
    fn macs(self) -> i64 {
        match self {
            Self::Int8 => 64,
            Self::F32 => 16,
        }
    }

    fn operand(self) -> Ty {
        match self {
            Self::Int8 => Ty::B64,
            Self::F32 => Ty::VF32,
        }
    }

    fn sum(self) -> Ty {
        match self {
            Self::Int8 => Ty::VI32,
            Self::F32 => Ty::VF32,
        }
    }

    fn load(self, at: Addr) -> Op {
        match self {
            Self::Int8 => Op::LoadBytes(at),
            Self::F32 => Op::Load(Mem::F32, at),
        }
    }

    fn product(self, acc: Reg, read: Reg, kept: Reg) -> Op {
        match self {
            Self::Int8 => Op::Dot4(acc, read, kept),
            Self::F32 => Op::Fma(read, kept, acc),
        }
    }
}

/// A kernel in the making: registers and statements.
#[derive(Default)]
struct Draft {
    regs: Vec<Ty>,
}

impl Draft {
    fn reg(&mut self, ty: Ty) -> Reg {
        self.regs.push(ty);
        Reg(u32::try_from(self.regs.len() - 1).unwrap_or(u32::MAX))
    }

    /// Assigns a fresh register.
    fn put(&mut self, body: &mut Vec<Stmt>, ty: Ty, op: Op) -> Reg {
        let reg = self.reg(ty);
        body.push(Stmt::Let(reg, op));
        reg
    }

    fn int(&mut self, body: &mut Vec<Stmt>, value: i64) -> Reg {
        self.put(body, Ty::I64, Op::Int(value))
    }

    /// A vector of zeros.
    fn zero(&mut self, body: &mut Vec<Stmt>, ty: Ty) -> Reg {
        if ty == Ty::VF32 {
            let zero = self.put(body, Ty::F32, Op::Float(0));
            return self.put(body, ty, Op::Un(Un::SplatF, zero));
        }
        let zero = self.int(body, 0);
        self.put(body, ty, Op::Un(Un::SplatI, zero))
    }

    /// Sums accumulators into this thread's line of the output, so that nothing computed is unused.
    fn deliver(&mut self, body: &mut Vec<Stmt>, sums: &[Reg], ty: Ty) {
        let mem = if ty == Ty::VF32 { Mem::F32 } else { Mem::I32 };
        let thread = self.put(body, Ty::I64, Op::Tid);
        let index = self.put(body, Ty::I64, Op::Shift(Shift::Left, thread, 6));
        let at = Addr { base: Base::Param(1), index: Some(index), offset: 0 };
        let mut total = self.put(body, ty, Op::Load(mem, at));
        for sum in sums {
            total = self.put(body, ty, Op::Bin(Bin::Add, total, *sum));
        }
        body.push(Stmt::Store(mem, at, total));
    }

    fn finish(self, name: String, body: Vec<Stmt>) -> Kernel {
        let param = |name: &str, kind| Param { name: name.to_owned(), kind };
        let params =
            vec![param("input", ParamKind::Read), param("out", ParamKind::Write), param("count", ParamKind::I64)];
        Kernel { name, params, locals: Vec::new(), regs: self.regs, body }
    }
}

fn name(ahead: i64) -> String {
    format!("roof_read_{ahead}")
}

/// Sums all words of `count` pieces, eight lines a step.
fn reading(ahead: i64) -> Kernel {
    let mut k = Draft::default();
    let mut body = Vec::new();
    let count = k.put(&mut body, Ty::I64, Op::Param(2));
    let piece = k.reg(Ty::I64);
    let mut inner = Vec::new();
    let sums: Vec<Reg> = (0..STRIDE / 64).map(|_| k.zero(&mut inner, Ty::VI32)).collect();
    let size = k.int(&mut inner, PIECE);
    let lo = k.put(&mut inner, Ty::I64, Op::Bin(Bin::Mul, piece, size));
    let hi = k.put(&mut inner, Ty::I64, Op::Bin(Bin::Add, lo, size));
    let var = k.reg(Ty::I64);
    let mut step = Vec::new();
    for (line, sum) in (0_i64..).zip(&sums) {
        let at = |offset| Addr { base: Base::Param(0), index: Some(var), offset };
        if ahead > 0 {
            step.push(Stmt::Prefetch(at(line * 64 + ahead)));
        }
        let words = k.put(&mut step, Ty::VI32, Op::Load(Mem::I32, at(line * 64)));
        step.push(Stmt::Let(*sum, Op::Bin(Bin::Add, *sum, words)));
    }
    inner.push(Stmt::For { var, lo, hi, step: STRIDE, body: step });
    k.deliver(&mut inner, &sums, Ty::VI32);
    body.push(Stmt::ParFor { var: piece, n: count, split: Split::Blocked, body: inner });
    k.finish(name(ahead), body)
}

/// On each of `count` threads: `STEPS` steps of `read × kept` products. The operands read come from memory at every step,
/// as in a real kernel, and so that no compiler can take a product out of the loop.
fn arithmetic(what: Arithmetic, read: usize, kept: usize) -> Kernel {
    let mut k = Draft::default();
    let mut body = Vec::new();
    let count = k.put(&mut body, Ty::I64, Op::Param(2));
    let thread = k.reg(Ty::I64);
    let mut inner = Vec::new();
    let at = |index, line: i64| Addr { base: Base::Param(0), index, offset: line * 64 };
    let held: Vec<Reg> = (0_i64..)
        .take(kept)
        .map(|i| {
            let op = what.load(at(None, LINES + i));
            k.put(&mut inner, what.operand(), op)
        })
        .collect();
    let sums: Vec<Reg> = (0..read * kept).map(|_| k.zero(&mut inner, what.sum())).collect();
    let (lo, hi) = (k.int(&mut inner, 0), k.int(&mut inner, STEPS));
    let mask = k.int(&mut inner, LINES - 1);
    let var = k.reg(Ty::I64);
    let mut step = Vec::new();
    let line = k.put(&mut step, Ty::I64, Op::Bin(Bin::And, var, mask));
    let offset = k.put(&mut step, Ty::I64, Op::Shift(Shift::Left, line, 6));
    for turn in 0..WRITTEN_OUT {
        for i in 0..read {
            let line = turn + i64::try_from(i).unwrap_or(0) * WRITTEN_OUT;
            let fresh = k.put(&mut step, what.operand(), what.load(at(Some(offset), line)));
            for (j, kept) in held.iter().enumerate() {
                let sum = sums[i * held.len() + j];
                step.push(Stmt::Let(sum, what.product(sum, fresh, *kept)));
            }
        }
    }
    inner.push(Stmt::For { var, lo, hi, step: WRITTEN_OUT, body: step });
    k.deliver(&mut inner, &sums, what.sum());
    body.push(Stmt::ParFor { var: thread, n: count, split: Split::Cyclic, body: inner });
    k.finish(what.name(read, kept), body)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn kernels_are_well_formed_and_touch_only_their_buffers() {
        for ahead in AHEAD {
            assert_eq!(ir::kernel_check::kernel(&reading(ahead)), Ok(()));
        }
        for (read, kept) in SHAPES {
            for what in [Arithmetic::Int8, Arithmetic::F32] {
                assert_eq!(ir::kernel_check::kernel(&arithmetic(what, read, kept)), Ok(()));
                // Highest line that a step reads, and the lines kept, lie inside the operands.
                let highest = LINES - 1 + WRITTEN_OUT * i64::try_from(read).expect("small");
                assert!(highest < 2 * LINES && LINES + i64::try_from(kept).expect("small") <= 2 * LINES);
            }
        }
    }

    #[test]
    fn every_word_is_read_once() {
        let backend = crate::default_backend();
        let isa = probe::probe().isa;
        let kernels: Vec<Kernel> = AHEAD.iter().map(|a| reading(*a)).collect();
        let image = Image::load(&crate::machine_code(&kernels, isa, backend, None).expect("code")).expect("an image");
        let mut team = Team::new(2).expect("threads");
        let mut buffer = Region::new(3 * 65536).expect("memory");
        for (i, word) in (0_i64..).zip(buffer.i64s_mut()) {
            *word = i;
        }
        for ahead in AHEAD {
            let mut out = Region::new(128).expect("memory");
            let function = image.function(&name(ahead)).expect("compiled");
            team.run(&[Launch::new(function, vec![buffer.address(), out.address(), 3])]).expect("runs");
            let sum: i64 = out.i32s_mut().iter().map(|x| i64::from(*x)).sum();
            let words = 3 * 65536 / 8_i64;
            assert_eq!(sum, words * (words - 1) / 2);
        }
    }

    #[test]
    fn rates_are_credible_and_sizes_checked() {
        let (backend, isa) = (crate::default_backend(), probe::probe().isa);
        let roofs = measure(1, isa, backend, None, &[LEAST + 1, LEAST]).expect("measured");
        assert_eq!(roofs.read.iter().map(|r| r.bytes).collect::<Vec<_>>(), [LEAST, LEAST + 65536]);
        assert!(roofs.read.iter().all(|r| r.best >= r.median && r.median > 1e7), "{roofs:?}");
        // Not more than a CPU could do: 10 GHz, four operations of 64 products.
        assert!(roofs.int8_macs > 1e8 && roofs.int8_macs < 2.6e12, "{roofs:?}");
        assert!(roofs.f32_macs > 1e8 && roofs.f32_macs < 6.4e11, "{roofs:?}");
        assert!(measure(1, isa, backend, None, &[1]).is_err() && measure(1, isa, backend, None, &[u64::MAX]).is_err());
    }
}
