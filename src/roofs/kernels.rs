//! The kernels that `inferc bench --roofs` times, as Kernel IR: loops that read memory, loops of products, and loops that read
//! and multiply as attention does.
//!
//! Takes shapes; returns kernels over `input` and `out`, with a `count` of iterations for the team; those that read have a
//! `table` of pieces and `factors`, too. Every kernel sums what it computes into its thread's line of `out`, so that no compiler
//! leaves anything out. Runs nothing.

use ir::kernel::{
    Addr, Base, Bin, Cache, Kernel, Mem, Op, Param, ParamKind, Reg, ScalarMem, Shift, Split, Stmt, Ty, Un,
};
use ir::schedule::KvFormat;

/// Bytes of an iteration of the reading kernels that one thread takes at a time.
pub(super) const PIECE: i64 = 64 << 10;
/// Bytes that a step of the reading kernels loads at most.
const STRIDE: i64 = 512;
/// The same of the kernels that read scattered pieces, where their factors have room: pieces of up to so many bytes are read
/// without a loop around their lines, which some CPUs do a fifth faster.
const PIECE_STRIDE: i64 = 1024;
/// How many bytes ahead of their loads the reading kernels ask for lines; 0: leaves it to the CPU.
pub(super) const AHEAD: [i64; 3] = [0, 4 << 10, 16 << 10];
/// The same into the first cache, and where those loops ask once more.
const AHEAD_OF_FIRST: [i64; 2] = [8 << 10, 3 << 10];
/// Shapes of the plain loops: operands read per step and operands kept, so that their product is the accumulators.
const SHAPES: [(usize, usize); 4] = [(1, 3), (2, 3), (2, 6), (3, 4)];
/// Shapes of the loops with scales: rows read, and kept the eight groups of four features that a block of weights has.
const SCALED_SHAPES: [(usize, usize); 2] = [(4, 8), (8, 8)];
/// Steps of an arithmetic loop in one call, and how many of a plain one are written out.
pub(super) const STEPS: i64 = 8192;
const WRITTEN_OUT: i64 = 4;
/// Lines that the arithmetic loops walk over; as many follow, for operands kept and for a step's later operands.
const LINES: i64 = 32;
/// Lines of bytes, and of floats behind them: together they stay in the first cache.
pub(super) const BYTE_LINES: i64 = 2 * LINES;
/// The farthest that a step's factors begin behind those of another one, bytes.
const FARTHEST_TURN: i64 = 15 * 64;
/// Parameters of the kernels that read: the table of pieces, and factors as the arithmetic loops have operands.
const TABLE: u32 = 3;
const FACTORS: u32 = 4;
/// The most queries of a loop that attends: their sums fit the registers, and the factors of a step lie inside the operands.
pub(super) const MOST_QUERIES: i64 = 28;

/// A loop of products.
#[derive(Clone, Copy, Debug)]
pub(super) enum Arithmetic {
    /// Products and sums, nothing beside them.
    Plain(Factors),
    /// Products of bytes as matrices in blocks of 32 features need them: every row's sum over a block becomes a float, times
    /// the row's scale, times the weights' scales; `minima`: and the weights' minima times the row's sum are added.
    Scaled {
        /// Whether blocks have minima.
        minima: bool,
    },
}

/// What is multiplied.
#[derive(Clone, Copy, Debug)]
pub(super) enum Factors {
    /// Unsigned by signed bytes.
    Int8,
    /// Floats of 32 bits, fused.
    F32,
}

impl Arithmetic {
    /// Every loop.
    pub(super) const ALL: [Self; 4] = [
        Self::Plain(Factors::Int8),
        Self::Plain(Factors::F32),
        Self::Scaled { minima: false },
        Self::Scaled { minima: true },
    ];

    /// Operands read and kept, as pairs; a step multiplies each with each.
    pub(super) fn shapes(self) -> &'static [(usize, usize)] {
        match self {
            Self::Plain(_) => &SHAPES,
            Self::Scaled { .. } => &SCALED_SHAPES,
        }
    }

    /// Name of the kernel of a shape.
    pub(super) fn name(self, (read, kept): (usize, usize)) -> String {
        let kind = match self {
            Self::Plain(Factors::Int8) => "dot",
            Self::Plain(Factors::F32) => "fma",
            Self::Scaled { minima: false } => "scaled",
            Self::Scaled { minima: true } => "scaled_min",
        };
        format!("roof_{kind}_{read}_{kept}")
    }

    /// Products of one operation.
    pub(super) fn macs(self) -> i64 {
        match self {
            Self::Plain(Factors::F32) => 16,
            Self::Plain(Factors::Int8) | Self::Scaled { .. } => 64,
        }
    }

    /// On each of `count` threads: `STEPS` steps of `read × kept` operations. The operands read come from memory at every
    /// step, as in a real kernel, and so that no compiler can take a product out of the loop.
    pub(super) fn kernel(self, shape: (usize, usize)) -> Kernel {
        match self {
            Self::Plain(factors) => plain(self.name(shape), factors, shape),
            Self::Scaled { minima } => scaled(self.name(shape), minima, shape),
        }
    }
}

impl Factors {
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

    /// Loads operand `line` of this kind.
    fn load(self, index: Option<Reg>, line: i64) -> Op {
        match self {
            Self::Int8 => Op::LoadBytes(operand(index, line, 0)),
            Self::F32 => Op::Load(Mem::F32, operand(index, BYTE_LINES + line, 0)),
        }
    }

    fn product(self, acc: Reg, read: Reg, kept: Reg) -> Op {
        match self {
            Self::Int8 => Op::Dot4(acc, read, kept),
            Self::F32 => Op::Fma(read, kept, acc),
        }
    }
}

/// Byte `byte` of a line of the operands.
fn operand(index: Option<Reg>, line: i64, byte: i64) -> Addr {
    Addr { base: Base::Param(0), index, offset: line * 64 + byte }
}

/// What is done with what is read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Work {
    /// Words are summed: as little as can be done.
    Sum,
    /// What attention of one sequence does with keys and values, and nothing beside it: each vector is multiplied with a factor
    /// of each of `queries` queries and added to a sum of that query. `vectors` neighbours have factors in common, as the pages
    /// of a key's dimension have, and the dimensions of a token's value.
    Attend {
        /// Format of what is read.
        kv: KvFormat,
        /// Query heads of a KV head.
        queries: i64,
        /// Vectors taken together.
        vectors: i64,
        /// Whether each vector's factors stand at an address of their own, so that a product takes its own from memory.
        copies: bool,
    },
}

impl Work {
    /// The loops that attend for so many queries, from 1 to [`MOST_QUERIES`], to pieces of `piece` bytes, of which the fastest
    /// counts.
    pub(super) fn attending(kv: KvFormat, queries: i64, piece: i64) -> Vec<Self> {
        /// Sums that keep two units busy, or nearly, and fit the registers.
        const SUMS: std::ops::RangeInclusive<i64> = 6..=MOST_QUERIES;
        let most = (piece.min(STRIDE) / vector_bytes(kv)).min(8);
        let fits = |vectors: &i64| *vectors <= most && SUMS.contains(&(vectors * queries));
        let mut vectors: Vec<i64> = [1, 2, 4, 8].into_iter().filter(fits).collect();
        if vectors.is_empty() {
            // A short piece and few queries: as many sums as there can be.
            vectors.push(most);
        }
        let shapes = vectors.into_iter().flat_map(|vectors| [false, true].map(|copies| (vectors, copies)));
        shapes
            .filter(|(vectors, copies)| *vectors > 1 || !copies)
            .map(|(vectors, copies)| Self::Attend { kv, queries, vectors, copies })
            .collect()
    }

    /// Bytes of a step over scattered pieces at most: with [`PIECE_STRIDE`] the factors of many queries would end behind theirs.
    fn stride(self) -> i64 {
        match self {
            Self::Sum => PIECE_STRIDE,
            Self::Attend { kv, queries, vectors, copies } => {
                let read = PIECE_STRIDE / vector_bytes(kv);
                let factors = if copies { read } else { read / vectors } * queries;
                if FARTHEST_TURN + 4 * factors <= 64 * BYTE_LINES { PIECE_STRIDE } else { STRIDE }
            }
        }
    }

    fn name(self) -> String {
        match self {
            Self::Sum => "read".to_owned(),
            Self::Attend { kv, queries, vectors, copies } => {
                format!("attend_{kv:?}_{queries}_{vectors}{}", if copies { "_copies" } else { "" }).to_lowercase()
            }
        }
    }

    /// Sums, all zero, for steps over `lines` lines.
    fn sums(self, k: &mut Draft, body: &mut Vec<Stmt>, lines: i64) -> Vec<Reg> {
        let (count, ty) = match self {
            Self::Sum => (lines, Ty::VI32),
            Self::Attend { queries, vectors, .. } => (vectors * queries, self.ty()),
        };
        (0..count).map(|_| k.zero(body, ty)).collect()
    }

    fn ty(self) -> Ty {
        match self {
            Self::Attend { kv: KvFormat::F16, .. } => Ty::VF32,
            Self::Sum | Self::Attend { kv: KvFormat::Int8, .. } => Ty::VI32,
        }
    }

    /// Takes `lines` lines from byte `from` of the input on.
    fn step(self, k: &mut Draft, body: &mut Vec<Stmt>, from: Reg, lines: i64, sums: &[Reg]) {
        let input = |offset| Addr { base: Base::Param(0), index: Some(from), offset };
        let Self::Attend { kv, queries, vectors, copies } = self else {
            for (line, sum) in (0..lines).zip(sums) {
                let words = k.put(body, Ty::VI32, Op::Load(Mem::I32, input(line * 64)));
                body.push(Stmt::Let(*sum, Op::Bin(Bin::Add, *sum, words)));
            }
            return;
        };
        // Other factors from step to step, of some lines that stay in the first cache.
        let turn = k.put(body, Ty::I64, Op::Shift(Shift::RightLogical, from, 3));
        let mask = k.int(body, FARTHEST_TURN);
        let turn = k.put(body, Ty::I64, Op::Bin(Bin::And, turn, mask));
        let size = vector_bytes(kv);
        let mut factors: Vec<Reg> = Vec::new();
        for vector in 0..lines * 64 / size {
            let (group, place) = (vector / vectors, vector % vectors);
            let at = input(vector * size);
            let read = match kv {
                KvFormat::F16 => k.put(body, Ty::VF32, Op::Load(Mem::F16, at)),
                KvFormat::Int8 => k.put(body, Ty::B64, Op::LoadBytes(at)),
            };
            if copies || place == 0 {
                let first = if copies { vector } else { group } * queries;
                factors = (first..first + queries)
                    .map(|factor| {
                        let at = |line: i64| Addr {
                            base: Base::Param(FACTORS),
                            index: Some(turn),
                            offset: line * 64 + factor * 4,
                        };
                        match kv {
                            KvFormat::F16 => k.put(body, Ty::VF32, Op::LoadSplat(at(BYTE_LINES))),
                            KvFormat::Int8 => k.put(body, Ty::B64, Op::LoadBytes4(at(0))),
                        }
                    })
                    .collect();
            }
            for (query, factor) in (0..).zip(&factors) {
                let sum = sums[usize::try_from(place * queries).unwrap_or(0) + query];
                body.push(Stmt::Let(
                    sum,
                    match kv {
                        KvFormat::F16 => Op::Fma(*factor, read, sum),
                        KvFormat::Int8 => Op::Dot4(sum, read, *factor),
                    },
                ));
            }
        }
    }
}

/// Bytes of the keys or values that one operation multiplies.
fn vector_bytes(kv: KvFormat) -> i64 {
    match kv {
        KvFormat::F16 => 32,
        KvFormat::Int8 => 64,
    }
}

/// Reads `count` pieces in the order of addresses, eight lines a step.
pub(super) fn reading(work: Work, ahead: i64) -> Kernel {
    let mut k = Draft::default();
    let mut body = Vec::new();
    let count = k.put(&mut body, Ty::I64, Op::Param(2));
    let piece = k.reg(Ty::I64);
    let mut inner = Vec::new();
    let sums = work.sums(&mut k, &mut inner, STRIDE / 64);
    let size = k.int(&mut inner, PIECE);
    let lo = k.put(&mut inner, Ty::I64, Op::Bin(Bin::Mul, piece, size));
    let hi = k.put(&mut inner, Ty::I64, Op::Bin(Bin::Add, lo, size));
    let var = k.reg(Ty::I64);
    let mut step = Vec::new();
    if ahead > 0 {
        ask(&mut step, var, ahead, STRIDE, Cache::Second);
    }
    work.step(&mut k, &mut step, var, STRIDE / 64, &sums);
    inner.push(Stmt::For { var, lo, hi, step: STRIDE, body: step });
    k.deliver(&mut inner, &sums, work.ty());
    body.push(Stmt::ParFor { var: piece, n: count, split: Split::Blocked, body: inner });
    k.finish_reading(format!("roof_{}_{ahead}", work.name()), body)
}

/// Asks for the lines of `bytes` of the input, `ahead` bytes behind `from`.
fn ask(body: &mut Vec<Stmt>, from: Reg, ahead: i64, bytes: i64, into: Cache) {
    for offset in (ahead..ahead + bytes).step_by(64) {
        body.push(Stmt::Prefetch(Addr { base: Base::Param(0), index: Some(from), offset }, into));
    }
}

/// How a loop asks for the lines of scattered pieces.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Requests {
    /// So many pieces ahead of their reads; none: leaves it to the CPU.
    pub(super) ahead: Vec<i64>,
    /// Into this cache.
    into: Cache,
}

impl Requests {
    /// The ways that are tried for pieces of so many bytes: not at all; once, into the second cache and 8 KiB ahead into the first,
    /// at least the next piece (a single small one would hide little of what its first line waits); and twice, because the CPU
    /// drops requests while too many are under way.
    pub(super) fn of(piece: i64) -> Vec<Self> {
        let pieces = |bytes: i64| (bytes + piece - 1) / piece;
        let once = |bytes: i64, into| Self { ahead: vec![pieces(bytes)], into };
        let mut all = vec![Self { ahead: Vec::new(), into: Cache::Second }];
        all.extend(AHEAD.iter().filter(|bytes| **bytes > 0).map(|bytes| once(*bytes, Cache::Second)));
        let [far, near] = AHEAD_OF_FIRST;
        all.push(once(far, Cache::First));
        if pieces(far) > pieces(near) {
            all.push(Self { ahead: vec![pieces(far), pieces(near)], into: Cache::First });
        }
        all.dedup();
        all
    }
}

/// Reads `count · PIECE` bytes in pieces of `piece` bytes, a power of two. `table` has the pieces' numbers in the
/// order of reading, 32 bits each, and behind them numbers of any pieces, as many as `requests` look ahead.
pub(super) fn scattered(work: Work, piece: i64, requests: &Requests) -> Kernel {
    const NUMBER: i64 = 4;
    let mut k = Draft::default();
    let mut body = Vec::new();
    let count = k.put(&mut body, Ty::I64, Op::Param(2));
    let part = k.reg(Ty::I64);
    let mut inner = Vec::new();
    let stride = piece.min(work.stride());
    let sums = work.sums(&mut k, &mut inner, stride / 64);
    let size = k.int(&mut inner, PIECE / piece * NUMBER);
    let lo = k.put(&mut inner, Ty::I64, Op::Bin(Bin::Mul, part, size));
    let hi = k.put(&mut inner, Ty::I64, Op::Bin(Bin::Add, lo, size));
    let entry = k.reg(Ty::I64);
    let mut of_piece = Vec::new();
    let mut start_of = |k: &mut Draft, later: i64| {
        let at = Addr { base: Base::Param(TABLE), index: Some(entry), offset: later * NUMBER };
        let number = k.put(&mut of_piece, Ty::I64, Op::LoadScalar(ScalarMem::I32, at));
        k.put(&mut of_piece, Ty::I64, Op::Shift(Shift::Left, number, piece.trailing_zeros()))
    };
    let start = start_of(&mut k, 0);
    let later: Vec<Reg> = requests.ahead.iter().map(|ahead| start_of(&mut k, *ahead)).collect();
    let length = k.int(&mut of_piece, piece);
    let end = k.put(&mut of_piece, Ty::I64, Op::Bin(Bin::Add, start, length));
    let distances: Vec<Reg> =
        later.into_iter().map(|later| k.put(&mut of_piece, Ty::I64, Op::Bin(Bin::Sub, later, start))).collect();
    let var = k.reg(Ty::I64);
    let mut step = Vec::new();
    for distance in distances {
        let later = k.put(&mut step, Ty::I64, Op::Bin(Bin::Add, var, distance));
        ask(&mut step, later, 0, stride, requests.into);
    }
    work.step(&mut k, &mut step, var, stride / 64, &sums);
    of_piece.push(Stmt::For { var, lo: start, hi: end, step: stride, body: step });
    inner.push(Stmt::For { var: entry, lo, hi, step: NUMBER, body: of_piece });
    k.deliver(&mut inner, &sums, work.ty());
    body.push(Stmt::ParFor { var: part, n: count, split: Split::Blocked, body: inner });
    let ahead: String = requests.ahead.iter().map(|ahead| format!("_{ahead}")).collect();
    k.finish_reading(format!("roof_{}_scattered_{piece}{ahead}_{}", work.name(), requests.into.name()), body)
}

/// Every operand read times every operand kept, each pair with an accumulator of its own.
fn plain(name: String, factors: Factors, (read, kept): (usize, usize)) -> Kernel {
    let mut k = Draft::default();
    let mut inner = Vec::new();
    let held: Vec<Reg> =
        (LINES..).take(kept).map(|line| k.put(&mut inner, factors.operand(), factors.load(None, line))).collect();
    let sums: Vec<Reg> = (0..read * kept).map(|_| k.zero(&mut inner, factors.sum())).collect();
    let mut step = Steps::new(&mut k, &mut inner);
    for turn in 0..WRITTEN_OUT {
        for i in 0..read {
            let line = turn + i64::try_from(i).unwrap_or(0) * WRITTEN_OUT;
            let fresh = k.put(&mut step.body, factors.operand(), factors.load(Some(step.offset), line));
            for (j, kept) in held.iter().enumerate() {
                let sum = sums[i * held.len() + j];
                step.body.push(Stmt::Let(sum, factors.product(sum, fresh, *kept)));
            }
        }
    }
    inner.push(step.by(WRITTEN_OUT));
    k.on_every_thread(name, inner, &sums, factors.sum())
}

/// A step is a block of weights times `rows` rows: `groups` products of bytes for each row, the rows in turn so that neighbours
/// belong to different chains, then what the scales need. A row has its bytes in a line of bytes, its scale and its sum in the
/// line of floats with the same number.
fn scaled(name: String, minima: bool, (rows, groups): (usize, usize)) -> Kernel {
    let mut k = Draft::default();
    let mut inner = Vec::new();
    let held: Vec<Reg> =
        (LINES..).take(groups).map(|line| k.put(&mut inner, Ty::B64, Factors::Int8.load(None, line))).collect();
    let scale = k.put(&mut inner, Ty::VF32, Factors::F32.load(None, LINES));
    let min = minima.then(|| k.put(&mut inner, Ty::VF32, Factors::F32.load(None, LINES + 1)));
    let sums: Vec<Reg> = (0..rows).map(|_| k.zero(&mut inner, Ty::VF32)).collect();
    let mut step = Steps::new(&mut k, &mut inner);
    let (body, offset) = (&mut step.body, Some(step.offset));
    let dots: Vec<Reg> = sums.iter().map(|_| k.zero(body, Ty::VI32)).collect();
    for (byte, group) in (0_i64..).step_by(4).zip(&held) {
        for (row, dot) in (0_i64..).zip(&dots) {
            let bytes = k.put(body, Ty::B64, Op::LoadBytes4(operand(offset, row, byte)));
            body.push(Stmt::Let(*dot, Op::Dot4(*dot, *group, bytes)));
        }
    }
    for (row, (dot, sum)) in (BYTE_LINES..).zip(dots.iter().zip(&sums)) {
        let dot = k.put(body, Ty::VF32, Op::Un(Un::ToFloat, *dot));
        let of_row = k.put(body, Ty::VF32, Op::LoadSplat(operand(offset, row, 0)));
        let dot = k.put(body, Ty::VF32, Op::Bin(Bin::Mul, dot, of_row));
        body.push(Stmt::Let(*sum, Op::Fma(scale, dot, *sum)));
        if let Some(min) = min {
            let of_row = k.put(body, Ty::VF32, Op::LoadSplat(operand(offset, row, 4)));
            body.push(Stmt::Let(*sum, Op::Fma(min, of_row, *sum)));
        }
    }
    inner.push(step.by(1));
    k.on_every_thread(name, inner, &sums, Ty::VF32)
}

/// The loop over `STEPS` steps, in the making.
struct Steps {
    lo: Reg,
    hi: Reg,
    var: Reg,
    /// Byte offset of the step's first line.
    offset: Reg,
    body: Vec<Stmt>,
}

impl Steps {
    fn new(k: &mut Draft, before: &mut Vec<Stmt>) -> Self {
        let (lo, hi) = (k.int(before, 0), k.int(before, STEPS));
        let mask = k.int(before, LINES - 1);
        let var = k.reg(Ty::I64);
        let mut body = Vec::new();
        let line = k.put(&mut body, Ty::I64, Op::Bin(Bin::And, var, mask));
        let offset = k.put(&mut body, Ty::I64, Op::Shift(Shift::Left, line, 6));
        Self { lo, hi, var, offset, body }
    }

    /// The loop; its body has so many steps.
    fn by(self, step: i64) -> Stmt {
        Stmt::For { var: self.var, lo: self.lo, hi: self.hi, step, body: self.body }
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

    /// The kernel that does `inner` on each of `count` threads and delivers its sums.
    fn on_every_thread(mut self, name: String, mut inner: Vec<Stmt>, sums: &[Reg], ty: Ty) -> Kernel {
        let mut body = Vec::new();
        let count = self.put(&mut body, Ty::I64, Op::Param(2));
        let thread = self.reg(Ty::I64);
        self.deliver(&mut inner, sums, ty);
        body.push(Stmt::ParFor { var: thread, n: count, split: Split::Cyclic, body: inner });
        self.finish(name, body)
    }

    fn finish(self, name: String, body: Vec<Stmt>) -> Kernel {
        let params = [("input", ParamKind::Read), ("out", ParamKind::Write), ("count", ParamKind::I64)];
        let params = params.map(|(name, kind)| Param { name: name.to_owned(), kind }).into();
        Kernel { name, params, locals: Vec::new(), regs: self.regs, body }
    }

    /// A kernel that reads: it may look at a table of pieces and at factors.
    fn finish_reading(self, name: String, body: Vec<Stmt>) -> Kernel {
        let mut kernel = self.finish(name, body);
        let more = ["table", "factors"].map(|name| Param { name: name.to_owned(), kind: ParamKind::Read });
        kernel.params.extend(more);
        kernel
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Every address that factors are loaded from.
    fn each_factor(body: &[Stmt], seen: &mut dyn FnMut(Addr)) {
        for stmt in body {
            match stmt {
                Stmt::Let(_, Op::LoadSplat(at) | Op::LoadBytes4(at)) => seen(*at),
                Stmt::For { body, .. } | Stmt::ParFor { body, .. } => each_factor(body, seen),
                _ => (),
            }
        }
    }

    #[test]
    fn kernels_are_well_formed_and_touch_only_their_buffers() {
        let attending = |piece| {
            let formats = [KvFormat::F16, KvFormat::Int8].into_iter();
            let ways = formats.flat_map(|kv| (1..=MOST_QUERIES).map(move |queries| (kv, queries)));
            let all: Vec<_> = ways.map(|(kv, queries)| Work::attending(kv, queries, piece)).collect();
            assert!(all.iter().all(|loops| !loops.is_empty()), "{piece}");
            all.into_iter().flatten().chain([Work::Sum])
        };
        let mut names = std::collections::BTreeSet::new();
        let mut check = |kernel: Kernel| {
            assert_eq!(ir::kernel_check::kernel(&kernel), Ok(()));
            // Of a kernel's factors the farthest, with the turn that moves them, lie inside the operands.
            let mut most = 0;
            each_factor(&kernel.body, &mut |at| {
                if at.base == Base::Param(FACTORS) {
                    most = most.max(at.offset + FARTHEST_TURN + 4);
                }
            });
            assert!(most <= 2 * BYTE_LINES * 64, "{most}");
            assert!(names.insert(kernel.name.clone()), "{} twice", kernel.name);
        };
        for work in attending(PIECE) {
            for ahead in AHEAD {
                check(reading(work, ahead));
            }
        }
        for piece in [64, 256, 1024, PIECE] {
            for work in attending(piece) {
                for requests in Requests::of(piece) {
                    check(scattered(work, piece, &requests));
                }
            }
        }
        let ahead = |piece| Requests::of(piece).into_iter().map(|requests| requests.ahead).collect::<Vec<_>>();
        assert_eq!(ahead(64), [vec![], vec![64], vec![256], vec![128], vec![128, 48]]);
        assert_eq!(ahead(8 << 10), [vec![], vec![1], vec![2], vec![1]]);
        assert_eq!(ahead(PIECE), [vec![], vec![1], vec![1]]);
        for what in Arithmetic::ALL {
            for shape in what.shapes() {
                assert_eq!(ir::kernel_check::kernel(&what.kernel(*shape)), Ok(()));
                // Highest line that a step reads, and the lines kept, lie inside the operands.
                let (read, kept) = (i64::try_from(shape.0).expect("small"), i64::try_from(shape.1).expect("small"));
                assert!(LINES - 1 + WRITTEN_OUT * read < BYTE_LINES && LINES + kept <= BYTE_LINES);
            }
        }
    }
}
