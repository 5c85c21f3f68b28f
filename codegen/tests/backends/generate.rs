//! Random well-formed kernels that stay inside their buffers: takes a list of choices, returns a kernel and arguments.
//!
//! Memory is typed: floats of each width have buffers of their own, reached at multiples of their size, so that
//! results can be compared as numbers where NaN payloads may differ; integers and bytes overlap freely. A value that
//! may be NaN is never looked at as bits. Choices that run out are 0, so a shorter list is a smaller kernel.

use crate::Elem;
use codegen::back::interp::Value;
use ir::kernel::*;

/// Bytes of every buffer and local; addresses stay below.
const BYTES: usize = 4096;

/// A kernel with arguments and how the buffers compare.
#[derive(Clone, Debug)]
pub(crate) struct Case {
    pub(crate) kernel: Kernel,
    pub(crate) args: Vec<Value>,
    pub(crate) elems: Vec<Elem>,
}

/// Floats at the edges of everything kernels do with floats.
pub(crate) const EDGES: [f32; 34] = [
    0.0,
    -0.0,
    1.0,
    -1.0,
    0.5,
    1.5,
    2.5,
    -2.5,
    3.3,
    1e-40,
    -1e-45,
    f32::MIN_POSITIVE,
    f32::MAX,
    f32::MIN,
    f32::INFINITY,
    f32::NEG_INFINITY,
    f32::NAN,
    2_147_483_648.0,
    -2_147_483_648.0,
    2_147_483_520.0,
    -2_147_483_904.0,
    65504.0,
    65519.996,
    65520.0,
    -65536.0,
    6.0e-8,
    2.98e-8,
    2.980_232_2e-8,
    2.980_232_6e-8,
    6.1e-5,
    6.103_515e-5,
    0.333_333_34,
    16_777_217.0,
    1.003_906_2,
];

const PARAMS: [(&str, ParamKind, Elem); 13] = [
    ("rf32", ParamKind::Read, Elem::F32),
    ("r16", ParamKind::Read, Elem::Bytes),
    ("rbytes", ParamKind::Read, Elem::Bytes),
    ("wf32", ParamKind::Write, Elem::F32),
    ("wf16", ParamKind::Write, Elem::F16),
    ("wbf16", ParamKind::Write, Elem::BF16),
    ("wbytes", ParamKind::Write, Elem::Bytes),
    ("rf64", ParamKind::Read, Elem::F64),
    ("wf64", ParamKind::Write, Elem::F64),
    ("n", ParamKind::I64, Elem::Bytes),
    ("k", ParamKind::I64, Elem::Bytes),
    ("a", ParamKind::F32, Elem::Bytes),
    ("b", ParamKind::F32, Elem::Bytes),
];

/// Makes the case that the choices spell.
pub(crate) fn case(choices: &[u32]) -> Case {
    let mut make = Make { choices, at: 0, regs: Vec::new(), scope: Vec::new(), tiles: [false; TILES], depth: 0 };
    let mut body = make.prologue();
    let statements = 2 + choices.len() / 24;
    for _ in 0..statements {
        make.statement(&mut body);
    }
    make.epilogue(&mut body);
    let mut args = Vec::new();
    for (i, (_, kind, elem)) in PARAMS.iter().enumerate() {
        args.push(match kind {
            ParamKind::I64 => Value::I64([5, -7, 0, 1 << 40][make.pick(4)]),
            ParamKind::F32 => Value::F32(EDGES[make.pick(EDGES.len())]),
            ParamKind::Read | ParamKind::Write => Value::Buffer(content(i as u64, *elem, make.next())),
        });
    }
    let kernel = Kernel {
        name: "random".into(),
        params: PARAMS.iter().map(|(name, kind, _)| Param { name: (*name).into(), kind: *kind }).collect(),
        locals: ["lf32", "lbytes"].map(|name| Local { name: name.into(), bytes: BYTES as u64 }).into(),
        regs: make.regs,
        body,
    };
    Case { kernel, args, elems: PARAMS.iter().map(|p| p.2).collect() }
}

fn content(seed: u64, elem: Elem, choice: u32) -> Vec<u8> {
    let mut state = seed << 32 | u64::from(choice) | 1 << 60;
    let mut random = move || {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (state >> 33) as u32
    };
    match elem {
        Elem::F32 => (0..BYTES / 4)
            .flat_map(|_| {
                let pick = random();
                let plain = (random() as f32 / 1e8 - 10.0).to_bits();
                let edge = EDGES[pick as usize / 4 % EDGES.len()].to_bits();
                (if pick.is_multiple_of(4) { edge } else { plain }).to_le_bytes()
            })
            .collect(),
        Elem::F64 => (0..BYTES / 8)
            .flat_map(|_| {
                let edge = EDGES[random() as usize % EDGES.len()];
                (f64::from(edge) * (1.0 + f64::from(random()) * 1e-12)).to_le_bytes()
            })
            .collect(),
        _ => (0..BYTES / 2).flat_map(|_| (random() as u16).to_le_bytes()).collect(),
    }
}

struct Make<'a> {
    choices: &'a [u32],
    at: usize,
    regs: Vec<Ty>,
    /// Registers assigned here; the flag says that they may be assigned again.
    scope: Vec<(Reg, bool)>,
    /// Tiles assigned here.
    tiles: [bool; TILES],
    depth: usize,
}

impl Make<'_> {
    fn next(&mut self) -> u32 {
        self.at += 1;
        self.choices.get(self.at - 1).copied().unwrap_or(0)
    }

    fn pick(&mut self, n: usize) -> usize {
        self.next() as usize % n
    }

    fn of<T: Copy>(&mut self, items: &[T]) -> T {
        items[self.pick(items.len())]
    }

    fn fresh(&mut self, ty: Ty) -> Reg {
        self.regs.push(ty);
        Reg(self.regs.len() as u32 - 1)
    }

    fn emit(&mut self, body: &mut Vec<Stmt>, ty: Ty, op: Op) -> Reg {
        let reg = self.fresh(ty);
        body.push(Stmt::Let(reg, op));
        self.scope.push((reg, true));
        reg
    }

    /// Some register of a type; the prologue made at least one of each.
    fn any(&mut self, ty: Ty) -> Reg {
        let all: Vec<Reg> = self.scope.iter().map(|(r, _)| *r).filter(|r| self.regs[r.0 as usize] == ty).collect();
        // The latest are the most interesting.
        let back = self.pick(all.len().min(6));
        all[all.len() - 1 - back]
    }

    fn prologue(&mut self) -> Vec<Stmt> {
        let mut body = Vec::new();
        let zero = self.emit(&mut body, Ty::I64, Op::Int(0));
        let end = self.emit(&mut body, Ty::I64, Op::Int(BYTES as i64));
        let f = self.emit(&mut body, Ty::F32, Op::Float(0.75f32.to_bits()));
        let vf = self.emit(&mut body, Ty::VF32, Op::Un(Un::SplatF, f));
        let vi = self.emit(&mut body, Ty::VI32, Op::Iota);
        self.emit(&mut body, Ty::F64, Op::Un(Un::Widen, f));
        self.emit(&mut body, Ty::B64, Op::SplatByte(0x9C));
        let i = self.fresh(Ty::I64);
        let at = |local| Addr { base: Base::Local(local), index: Some(i), offset: 0 };
        let fill = vec![Stmt::Store(Mem::F32, at(0), vf), Stmt::Store(Mem::I32, at(1), vi)];
        body.push(Stmt::For { var: i, lo: zero, hi: end, step: 64, body: fill });
        body
    }

    /// Makes the last values of every type visible.
    fn epilogue(&mut self, body: &mut Vec<Stmt>) {
        let at = |base, offset| Addr { base: Base::Param(base), index: None, offset };
        for tile in (0..TILES as u8).filter(|t| self.tiles[usize::from(*t)]) {
            body.push(Stmt::TileStore(at(6, 128 * i64::from(tile)), 64, Tile(tile)));
        }
        for k in 0..4 {
            let (f, i, vf, vi) = (self.any(Ty::F32), self.any(Ty::I64), self.any(Ty::VF32), self.any(Ty::VI32));
            body.push(Stmt::StoreScalar(ScalarMem::F32, at(3, 3000 + 4 * k), f));
            body.push(Stmt::StoreScalar(ScalarMem::I64, at(6, 3000 + 8 * k), i));
            let f64 = self.any(Ty::F64);
            body.push(Stmt::StoreScalar(ScalarMem::F64, at(8, 3000 + 8 * k), f64));
            body.push(Stmt::Store(Mem::F32, at(3, 3072 + 64 * k), vf));
            body.push(Stmt::Store(Mem::I32, at(6, 3072 + 64 * k), vi));
            let (zero, bytes, other) = (self.emit(body, Ty::I64, Op::Int(0)), self.any(Ty::B64), self.any(Ty::B64));
            let acc = self.emit(body, Ty::VI32, Op::Un(Un::SplatI, zero));
            let dot = self.emit(body, Ty::VI32, Op::Dot4(acc, bytes, other));
            body.push(Stmt::Store(Mem::I32, at(6, 3328 + 64 * k), dot));
        }
    }

    /// An address in one of the bases (params below 100, locals from 100), a multiple of `align`, followed by at least
    /// 1700 bytes.
    fn addr(&mut self, body: &mut Vec<Stmt>, bases: &[u32], align: i64) -> Addr {
        let base = match self.of(bases) {
            local @ 100.. => Base::Local(local - 100),
            param => Base::Param(param),
        };
        let offset = self.pick(1024) as i64 / align * align;
        if self.pick(3) == 0 {
            return Addr { base, index: None, offset };
        }
        let any = self.any(Ty::I64);
        let mask = self.emit(body, Ty::I64, Op::Int(1023 & !(align - 1)));
        let index = self.emit(body, Ty::I64, Op::Bin(Bin::And, any, mask));
        if self.pick(4) == 0 {
            let shift = self.emit(body, Ty::I64, Op::Int(128));
            let index = self.emit(body, Ty::I64, Op::Bin(Bin::Add, index, shift));
            return Addr { base, index: Some(index), offset: -128 };
        }
        Addr { base, index: Some(index), offset }
    }

    fn float_addr(&mut self, body: &mut Vec<Stmt>) -> Addr {
        self.addr(body, &[0, 3, 100], 4)
    }

    fn byte_addr(&mut self, body: &mut Vec<Stmt>) -> Addr {
        self.addr(body, &[2, 6, 101, 1], 1)
    }

    fn statement(&mut self, body: &mut Vec<Stmt>) {
        match self.pick(27) {
            0..=3 => self.store(body),
            24.. => self.tile(body),
            4 if self.depth < 3 => self.loops(body),
            5 if self.depth < 3 => self.branch(body),
            6 if self.depth == 0 => self.parallel(body),
            7 | 8 => self.again(body),
            _ => {
                let (ty, op) = self.op(body);
                self.emit(body, ty, op);
            }
        }
    }

    fn nested(&mut self, body: &mut Vec<Stmt>) {
        let (outer, tiles) = (self.scope.len(), self.tiles);
        self.depth += 1;
        for _ in 0..1 + self.pick(5) {
            self.statement(body);
        }
        self.depth -= 1;
        self.scope.truncate(outer);
        self.tiles = tiles;
    }

    fn loops(&mut self, body: &mut Vec<Stmt>) {
        let (first, last) = (self.pick(5) as i64 - 2, self.pick(9) as i64 - 2);
        let (lo, hi) = (self.emit(body, Ty::I64, Op::Int(first)), self.emit(body, Ty::I64, Op::Int(last)));
        let (var, step) = (self.fresh(Ty::I64), 1 + self.pick(3) as i64);
        let mut inner = Vec::new();
        self.scope.push((var, false));
        self.nested(&mut inner);
        self.scope.pop();
        body.push(Stmt::For { var, lo, hi, step, body: inner });
    }

    fn parallel(&mut self, body: &mut Vec<Stmt>) {
        let count = self.pick(8) as i64;
        let n = self.emit(body, Ty::I64, Op::Int(count));
        let (var, split) = (self.fresh(Ty::I64), self.of(&[Split::Blocked, Split::Cyclic]));
        // Nothing may be carried between iterations: what is outside can only be read.
        let before = self.scope.clone();
        self.tiles = [false; TILES];
        self.scope.iter_mut().for_each(|(_, assignable)| *assignable = false);
        self.scope.push((var, false));
        let mut inner = Vec::new();
        self.nested(&mut inner);
        self.scope = before;
        body.push(Stmt::ParFor { var, n, split, body: inner });
    }

    /// A statement on tiles: a product of three that are assigned, if there are, else one that assigns or stores.
    fn tile(&mut self, body: &mut Vec<Stmt>) {
        let tile = Tile(self.pick(TILES) as u8);
        let assigned: Vec<u8> = (0..TILES as u8).filter(|t| self.tiles[usize::from(*t)]).collect();
        let stride = [64, 0, 1, 63, 96, -1][self.pick(6)];
        let back = if stride < 0 { 128 } else { 0 };
        match self.pick(6) {
            0 => body.push(Stmt::TileZero(tile)),
            1 if !assigned.is_empty() => {
                let addr = self.addr(body, &[6, 101], 1);
                let tile = Tile(self.of(&assigned));
                return body.push(Stmt::TileStore(Addr { offset: addr.offset + back, ..addr }, stride, tile));
            }
            2.. if assigned.len() > 2 => {
                let first = self.pick(assigned.len());
                let [acc, a, b] = [0, 1, 2].map(|i| Tile(assigned[(first + i) % assigned.len()]));
                let mut kind = || self.of(&[Bytes::Unsigned, Bytes::Signed]);
                return body.push(Stmt::TileDot { acc, a: (a, kind()), b: (b, kind()) });
            }
            _ => {
                let addr = self.byte_addr(body);
                body.push(Stmt::TileLoad(tile, Addr { offset: addr.offset + back, ..addr }, stride));
            }
        }
        self.tiles[usize::from(tile.0)] = true;
    }

    fn branch(&mut self, body: &mut Vec<Stmt>) {
        let (a, b) = (self.any(Ty::I64), self.any(Ty::I64));
        let bin = self.of(&[Bin::Lt, Bin::Le, Bin::Eq]);
        let cond = self.emit(body, Ty::I64, Op::Bin(bin, a, b));
        let (mut then, mut otherwise) = (Vec::new(), Vec::new());
        self.nested(&mut then);
        if self.pick(2) == 1 {
            self.nested(&mut otherwise);
        }
        body.push(Stmt::If { cond, then, otherwise });
    }

    /// Assigns a register once more.
    fn again(&mut self, body: &mut Vec<Stmt>) {
        let (ty, op) = self.op(body);
        let all = self.scope.iter().filter(|(r, free)| *free && self.regs[r.0 as usize] == ty);
        let all: Vec<Reg> = all.map(|(r, _)| *r).collect();
        if all.is_empty() {
            self.emit(body, ty, op);
        } else {
            let reg = self.of(&all);
            body.push(Stmt::Let(reg, op));
        }
    }

    fn store(&mut self, body: &mut Vec<Stmt>) {
        let mem = self.of(&[Mem::F32, Mem::F16, Mem::BF16, Mem::I32, Mem::U8, Mem::I8]);
        let (bases, align): (&[u32], i64) = match mem {
            Mem::F32 => (&[3, 100], 4),
            Mem::F16 => (&[4], 2),
            Mem::BF16 => (&[5], 2),
            _ => (&[6, 101], 1),
        };
        let addr = self.addr(body, bases, align);
        match self.pick(8) {
            0 => body.push(Stmt::Prefetch(addr, self.of(&[Cache::First, Cache::Second]))),
            1 | 2 => {
                let reg = self.any(mem.ty());
                let stride = align * [0, 1, 3, 7, 25, -1][self.pick(6)];
                let addr = Addr { offset: addr.offset + if stride < 0 { 128 } else { 0 }, ..addr };
                body.push(Stmt::StoreStrided(mem, addr, stride, reg));
            }
            3 | 4 => {
                let scalar = match mem {
                    Mem::F32 => ScalarMem::F32,
                    Mem::F16 => ScalarMem::F16,
                    Mem::BF16 => return,
                    _ => self.of(&[ScalarMem::I32, ScalarMem::I64, ScalarMem::U8]),
                };
                let reg = self.any(ir::kernel_check::scalar_ty(scalar));
                body.push(Stmt::StoreScalar(scalar, addr, reg));
            }
            5 => {
                let (addr, reg) = (self.addr(body, &[8], 8), self.any(Ty::F64));
                body.push(Stmt::StoreScalar(ScalarMem::F64, addr, reg));
            }
            _ => {
                let reg = self.any(mem.ty());
                body.push(Stmt::Store(mem, addr, reg));
            }
        }
    }

    fn op(&mut self, body: &mut Vec<Stmt>) -> (Ty, Op) {
        match self.pick(7) {
            6 => (Ty::F64, self.double(body)),
            0 => (Ty::I64, self.int(body)),
            1 => (Ty::F32, self.float(body)),
            2 | 3 => (Ty::VF32, self.floats(body)),
            4 => (Ty::VI32, self.ints(body)),
            _ => (Ty::B64, self.bytes(body)),
        }
    }

    fn int(&mut self, body: &mut Vec<Stmt>) -> Op {
        match self.pick(9) {
            0 => Op::Int([3, -1, i64::MIN, i64::MAX, 0x1_0000_0001, -129][self.pick(6)]),
            1 => Op::Param(9 + self.pick(2) as u32),
            2 => Op::Tid,
            3 => {
                let (a, bin) = (self.any(Ty::I64), self.of(&[Bin::Div, Bin::Rem]));
                let divisor = self.of(&[1, 3, 8, -5, 1 << 33]);
                Op::Bin(bin, a, self.emit(body, Ty::I64, Op::Int(divisor)))
            }
            4 => {
                let bin = self.of(&[Bin::Lt, Bin::Le, Bin::Eq]);
                let ty = self.of(&[Ty::I64, Ty::F32, Ty::F64]);
                Op::Bin(bin, self.any(ty), self.any(ty))
            }
            5 => {
                let shift = self.of(&[Shift::Left, Shift::RightLogical, Shift::RightArith]);
                Op::Shift(shift, self.any(Ty::I64), self.of(&[0, 1, 5, 31, 32, 63]))
            }
            6 => {
                let (ty, cmp) = (self.of(&[Ty::I64, Ty::F32]), self.of(&[Cmp::Lt, Cmp::Le, Cmp::Eq]));
                Op::Select(cmp, self.any(ty), self.any(ty), self.any(Ty::I64), self.any(Ty::I64))
            }
            7 => {
                let mem = self.of(&[ScalarMem::I32, ScalarMem::I64, ScalarMem::U8]);
                Op::LoadScalar(mem, self.byte_addr(body))
            }
            _ => {
                let bins = [Bin::Add, Bin::Sub, Bin::Mul, Bin::Min, Bin::Max, Bin::And, Bin::Or];
                Op::Bin(self.of(&bins), self.any(Ty::I64), self.any(Ty::I64))
            }
        }
    }

    fn float(&mut self, body: &mut Vec<Stmt>) -> Op {
        match self.pick(11) {
            0 => Op::Float(self.of(&EDGES).to_bits()),
            1 => Op::Param(11 + self.pick(2) as u32),
            2 => Op::Un(self.of(&[Un::Sqrt, Un::Abs]), self.any(Ty::F32)),
            3 if self.pick(2) == 0 => Op::Un(Un::Narrow, self.any(Ty::F64)),
            3 => Op::Un(Un::IntToF32, self.any(Ty::I64)),
            4 => Op::Un(self.of(&[Un::SumLanes, Un::MaxLanes]), self.any(Ty::VF32)),
            5 => Op::Fma(self.any(Ty::F32), self.any(Ty::F32), self.any(Ty::F32)),
            6 => {
                let (ty, cmp) = (self.of(&[Ty::I64, Ty::F32]), self.of(&[Cmp::Lt, Cmp::Le, Cmp::Eq]));
                Op::Select(cmp, self.any(ty), self.any(ty), self.any(Ty::F32), self.any(Ty::F32))
            }
            7 => Op::LoadScalar(ScalarMem::F32, self.float_addr(body)),
            8 => Op::LoadScalar(ScalarMem::F16, self.addr(body, &[1, 4], 2)),
            9 => Op::Lane(self.any(Ty::VF32), self.pick(16) as u32),
            _ => {
                let bins = [Bin::Add, Bin::Sub, Bin::Mul, Bin::Div, Bin::Min, Bin::Max];
                Op::Bin(self.of(&bins), self.any(Ty::F32), self.any(Ty::F32))
            }
        }
    }

    fn double(&mut self, body: &mut Vec<Stmt>) -> Op {
        match self.pick(8) {
            0 | 1 => Op::Un(Un::Widen, self.any(Ty::F32)),
            2 => {
                let (ty, cmp) = (self.of(&[Ty::I64, Ty::F64]), self.of(&[Cmp::Lt, Cmp::Le, Cmp::Eq]));
                Op::Select(cmp, self.any(ty), self.any(ty), self.any(Ty::F64), self.any(Ty::F64))
            }
            3 => Op::LoadScalar(ScalarMem::F64, self.addr(body, &[7, 8], 8)),
            _ => {
                let bins = [Bin::Add, Bin::Sub, Bin::Mul, Bin::Div];
                Op::Bin(self.of(&bins), self.any(Ty::F64), self.any(Ty::F64))
            }
        }
    }

    fn floats(&mut self, body: &mut Vec<Stmt>) -> Op {
        match self.pick(11) {
            0 => Op::Un(Un::SplatF, self.any(Ty::F32)),
            1 => Op::Un(self.of(&[Un::Sqrt, Un::Abs]), self.any(Ty::VF32)),
            2 => Op::Un(self.of(&[Un::ToFloat, Un::BitsF]), self.any(Ty::VI32)),
            3 => Op::Fma(self.any(Ty::VF32), self.any(Ty::VF32), self.any(Ty::VF32)),
            4 => {
                let (ty, cmp) = (self.of(&[Ty::VI32, Ty::VF32]), self.of(&[Cmp::Lt, Cmp::Le, Cmp::Eq]));
                Op::Select(cmp, self.any(ty), self.any(ty), self.any(Ty::VF32), self.any(Ty::VF32))
            }
            5 => Op::Load(Mem::F32, self.float_addr(body)),
            6 => Op::Load(Mem::F16, self.addr(body, &[1, 4], 2)),
            7 => Op::Load(Mem::BF16, self.addr(body, &[1, 5], 2)),
            8 => Op::LoadSplat(self.float_addr(body)),
            9 => Op::Copy(self.any(Ty::VF32)),
            _ => {
                let bins = [Bin::Add, Bin::Sub, Bin::Mul, Bin::Div, Bin::Min, Bin::Max];
                Op::Bin(self.of(&bins), self.any(Ty::VF32), self.any(Ty::VF32))
            }
        }
    }

    fn ints(&mut self, body: &mut Vec<Stmt>) -> Op {
        match self.pick(9) {
            0 => Op::Un(Un::SplatI, self.any(Ty::I64)),
            1 => Op::Un(Un::ToInt, self.any(Ty::VF32)),
            2 => {
                let (one, x) = (self.emit(body, Ty::F32, Op::Float(1.0f32.to_bits())), self.any(Ty::VF32));
                let ones = self.emit(body, Ty::VF32, Op::Un(Un::SplatF, one));
                Op::Un(Un::BitsI, self.emit(body, Ty::VF32, Op::Select(Cmp::Eq, x, x, x, ones)))
            }
            3 => {
                let shift = self.of(&[Shift::Left, Shift::RightLogical, Shift::RightArith]);
                Op::Shift(shift, self.any(Ty::VI32), self.of(&[0, 1, 8, 23, 31]))
            }
            4 => {
                let (ty, cmp) = (self.of(&[Ty::VI32, Ty::VF32]), self.of(&[Cmp::Lt, Cmp::Le, Cmp::Eq]));
                Op::Select(cmp, self.any(ty), self.any(ty), self.any(Ty::VI32), self.any(Ty::VI32))
            }
            5 | 6 => Op::Dot4(self.any(Ty::VI32), self.any(Ty::B64), self.any(Ty::B64)),
            7 => Op::Load(self.of(&[Mem::I32, Mem::U8, Mem::I8]), self.byte_addr(body)),
            _ => {
                let bins = [Bin::Add, Bin::Sub, Bin::Mul, Bin::And, Bin::Or];
                Op::Bin(self.of(&bins), self.any(Ty::VI32), self.any(Ty::VI32))
            }
        }
    }

    fn bytes(&mut self, body: &mut Vec<Stmt>) -> Op {
        match self.pick(6) {
            0 => Op::SplatByte(self.of(&[0x0F, 0x30, 0x80, 0xFF, 1, 0x7F])),
            1 | 2 => Op::LoadBytes(self.byte_addr(body)),
            3 => Op::LoadBytes4(self.byte_addr(body)),
            4 => {
                let shift = self.of(&[Shift::Left, Shift::RightLogical]);
                Op::Shift(shift, self.any(Ty::B64), self.of(&[0, 1, 4, 7]))
            }
            _ => Op::Bin(self.of(&[Bin::And, Bin::Or]), self.any(Ty::B64), self.any(Ty::B64)),
        }
    }
}
