//! A typed builder over Kernel IR, so that kernels read like the arithmetic they do.
//!
//! Takes calls in program order and returns an [`ir::kernel::Kernel`] with one [`Slot`] per parameter. Values carry
//! their register's type in Rust's type system, so an ill-typed kernel does not compile. It does not optimise: what is
//! asked for is what is emitted.

use ir::kernel::{
    Addr, Base, Bin, Bytes as Signs, Cache, Cmp, Kernel, Local, Mem, Op, Param, ParamKind, Reg, ScalarMem, Shift,
    Split, Stmt, Tile, Ty, Un,
};
use ir::program::{Arg, Buf};

/// A register whose type Rust knows.
pub(super) trait Val: Copy {
    /// Type of the register.
    const TY: Ty;
    /// Wraps a register of type [`Self::TY`].
    fn of(reg: Reg) -> Self;
    /// The register.
    fn reg(self) -> Reg;
}

macro_rules! values {
    ($($(#[$doc:meta])* $name:ident: $ty:ident),*) => {$(
        $(#[$doc])*
        #[derive(Clone, Copy)]
        pub(super) struct $name(Reg);
        impl Val for $name {
            const TY: Ty = Ty::$ty;
            fn of(reg: Reg) -> Self {
                Self(reg)
            }
            fn reg(self) -> Reg {
                self.0
            }
        }
    )*};
}

values! {
    /// Index, byte offset or truth value.
    Int: I64,
    /// Scalar float.
    Flt: F32,
    /// Scalar float of 64 bits.
    Dbl: F64,
    /// 16 floats.
    Vf: VF32,
    /// 16 integers.
    Vi: VI32,
    /// 64 bytes.
    Bytes: B64
}

/// A register that is assigned more than once.
#[derive(Clone, Copy)]
pub(super) struct Var<T>(T);

impl<T: Val> Var<T> {
    /// The register: whoever reads it sees the value it has when the reading statement runs.
    pub(super) fn now(self) -> T {
        self.0
    }
}

/// A parameter that is a buffer, or a local.
#[derive(Clone, Copy)]
pub(super) struct Place(Base);

impl Place {
    /// Byte `index + offset` of the place.
    pub(super) fn at(self, index: Int, offset: i64) -> Addr {
        Addr { base: self.0, index: Some(index.0), offset }
    }

    /// Byte `offset` of the place.
    pub(super) fn fixed(self, offset: i64) -> Addr {
        Addr { base: self.0, index: None, offset }
    }
}

/// What a weight is to a kernel.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Role {
    /// Gains of a norm.
    Gain,
    /// The matrix of a kernel that has one; gate and up tiles in turn.
    Matrix,
    /// Query projection.
    Query,
    /// Key projection.
    Key,
    /// Value projection.
    Value,
    /// Bias of the query projection.
    QueryBias,
    /// Bias of the key projection.
    KeyBias,
    /// Bias of the value projection.
    ValueBias,
    /// Gate projection.
    Gate,
    /// Up projection.
    Up,
}

/// What a launch passes for a parameter.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Slot {
    /// The same in every layer.
    Always(Arg),
    /// A weight that the launch names.
    Weight(Role),
    /// Keys of the launch's layer.
    Keys,
    /// Values of the launch's layer.
    Values,
    /// Summaries of the pages of the launch's layer.
    Summary,
}

/// A product of tiles: rows of signed bytes times columns of unsigned bytes, added to `sum`.
#[derive(Clone, Copy)]
pub(super) struct Matmul {
    /// 16 × 16 sums.
    pub(super) sum: Tile,
    /// 16 rows of 64 features.
    pub(super) signed: Tile,
    /// 16 groups of four features of 16 columns.
    pub(super) unsigned: Tile,
}

/// A finished kernel and what its parameters stand for.
pub(super) struct Built {
    /// The kernel.
    pub(super) kernel: Kernel,
    /// One entry per parameter.
    pub(super) slots: Vec<Slot>,
}

/// A kernel under construction.
pub(super) struct Build {
    kernel: Kernel,
    slots: Vec<Slot>,
    open: Vec<Vec<Stmt>>,
}

impl Build {
    /// An empty kernel.
    pub(super) fn new(name: &str) -> Self {
        let kernel = Kernel {
            name: name.to_owned(),
            params: Vec::new(),
            locals: Vec::new(),
            regs: Vec::new(),
            body: Vec::new(),
        };
        Self { kernel, slots: Vec::new(), open: vec![Vec::new()] }
    }

    /// The finished kernel.
    pub(super) fn finish(mut self) -> Built {
        self.kernel.body = self.open.pop().unwrap_or_default();
        debug_assert!(self.open.is_empty(), "every block that was opened is closed");
        Built { kernel: self.kernel, slots: self.slots }
    }

    fn param(&mut self, name: &str, kind: ParamKind, slot: Slot) -> u32 {
        self.kernel.params.push(Param { name: name.to_owned(), kind });
        self.slots.push(slot);
        self.kernel.params.len() as u32 - 1
    }

    /// A buffer that is only read.
    pub(super) fn read(&mut self, name: &str, slot: Slot) -> Place {
        Place(Base::Param(self.param(name, ParamKind::Read, slot)))
    }

    /// A buffer that is written.
    pub(super) fn write(&mut self, name: &str, slot: Slot) -> Place {
        Place(Base::Param(self.param(name, ParamKind::Write, slot)))
    }

    /// A buffer of the program that is only read.
    pub(super) fn read_buf(&mut self, name: &str, buf: Buf) -> Place {
        self.read(name, Slot::Always(Arg::Buf(buf)))
    }

    /// A buffer of the program that is written.
    pub(super) fn write_buf(&mut self, name: &str, buf: Buf) -> Place {
        self.write(name, Slot::Always(Arg::Buf(buf)))
    }

    /// An integer parameter.
    pub(super) fn int_param(&mut self, name: &str, arg: Arg) -> Int {
        let i = self.param(name, ParamKind::I64, Slot::Always(arg));
        self.let_(Op::Param(i))
    }

    /// Memory private to a thread.
    pub(super) fn local(&mut self, name: &str, bytes: i64) -> Place {
        self.kernel.locals.push(Local { name: name.to_owned(), bytes: bytes.unsigned_abs() });
        Place(Base::Local(self.kernel.locals.len() as u32 - 1))
    }

    /// Memory private to a thread that parts of a kernel use one after the other: one local for all that ask by a name.
    pub(super) fn shared_local(&mut self, name: &str, bytes: i64) -> Place {
        match self.kernel.locals.iter_mut().enumerate().find(|(_, local)| local.name == name) {
            Some((i, local)) => {
                local.bytes = local.bytes.max(bytes.unsigned_abs());
                Place(Base::Local(i as u32))
            }
            None => self.local(name, bytes),
        }
    }

    fn fresh<T: Val>(&mut self) -> T {
        self.kernel.regs.push(T::TY);
        T::of(Reg(self.kernel.regs.len() as u32 - 1))
    }

    fn push(&mut self, stmt: Stmt) {
        self.open.last_mut().expect("a block is open until finish").push(stmt);
    }

    fn let_<T: Val>(&mut self, op: Op) -> T {
        let r = self.fresh::<T>();
        self.push(Stmt::Let(r.reg(), op));
        r
    }

    /// A register to be reassigned, with its first value.
    pub(super) fn var<T: Val>(&mut self, first: T) -> Var<T> {
        Var(self.let_(Op::Copy(first.reg())))
    }

    /// Reassigns a register.
    pub(super) fn set<T: Val>(&mut self, var: Var<T>, value: T) {
        self.push(Stmt::Let(var.0.reg(), Op::Copy(value.reg())));
    }

    /// Integer constant.
    pub(super) fn int(&mut self, v: i64) -> Int {
        self.let_(Op::Int(v))
    }

    /// Float constant.
    pub(super) fn flt(&mut self, v: f32) -> Flt {
        self.let_(Op::Float(v.to_bits()))
    }

    /// Float constant in all lanes.
    pub(super) fn vf(&mut self, v: f32) -> Vf {
        let s = self.flt(v);
        self.splat(s)
    }

    /// Integer constant in all lanes.
    pub(super) fn vi(&mut self, v: i64) -> Vi {
        let s = self.int(v);
        self.splat_int(s)
    }

    /// This thread's number.
    pub(super) fn tid(&mut self) -> Int {
        self.let_(Op::Tid)
    }

    /// 0, 1, …, 15.
    pub(super) fn iota(&mut self) -> Vi {
        self.let_(Op::Iota)
    }

    fn bin<T: Val>(&mut self, op: Bin, a: T, b: T) -> T {
        self.let_(Op::Bin(op, a.reg(), b.reg()))
    }

    /// `a + b`
    pub(super) fn add<T: Val>(&mut self, a: T, b: T) -> T {
        self.bin(Bin::Add, a, b)
    }

    /// `a − b`
    pub(super) fn sub<T: Val>(&mut self, a: T, b: T) -> T {
        self.bin(Bin::Sub, a, b)
    }

    /// `a · b`
    pub(super) fn mul<T: Val>(&mut self, a: T, b: T) -> T {
        self.bin(Bin::Mul, a, b)
    }

    /// `a / b`
    pub(super) fn div<T: Val>(&mut self, a: T, b: T) -> T {
        self.bin(Bin::Div, a, b)
    }

    /// `a < b ? a : b`
    pub(super) fn min<T: Val>(&mut self, a: T, b: T) -> T {
        self.bin(Bin::Min, a, b)
    }

    /// `a > b ? a : b`
    pub(super) fn max<T: Val>(&mut self, a: T, b: T) -> T {
        self.bin(Bin::Max, a, b)
    }

    /// Bitwise and.
    pub(super) fn and<T: Val>(&mut self, a: T, b: T) -> T {
        self.bin(Bin::And, a, b)
    }

    /// Bitwise or.
    pub(super) fn or<T: Val>(&mut self, a: T, b: T) -> T {
        self.bin(Bin::Or, a, b)
    }

    /// `a < b`
    pub(super) fn lt<T: Val>(&mut self, a: T, b: T) -> Int {
        self.let_(Op::Bin(Bin::Lt, a.reg(), b.reg()))
    }

    /// `a <= b`
    pub(super) fn le<T: Val>(&mut self, a: T, b: T) -> Int {
        self.let_(Op::Bin(Bin::Le, a.reg(), b.reg()))
    }

    /// `a == b`
    pub(super) fn eq<T: Val>(&mut self, a: T, b: T) -> Int {
        self.let_(Op::Bin(Bin::Eq, a.reg(), b.reg()))
    }

    /// `a + c`
    pub(super) fn add_const(&mut self, a: Int, c: i64) -> Int {
        let c = self.int(c);
        self.add(a, c)
    }

    /// `a · c`
    pub(super) fn mul_const(&mut self, a: Int, c: i64) -> Int {
        let c = self.int(c);
        self.mul(a, c)
    }

    /// `a · c + d`
    pub(super) fn scale_add(&mut self, a: Int, c: i64, d: Int) -> Int {
        let p = self.mul_const(a, c);
        self.add(p, d)
    }

    /// `a / c` and `a % c`
    pub(super) fn div_rem(&mut self, a: Int, c: i64) -> (Int, Int) {
        let c = self.int(c);
        (self.div(a, c), self.bin(Bin::Rem, a, c))
    }

    fn un<T: Val, U: Val>(&mut self, op: Un, a: T) -> U {
        self.let_(Op::Un(op, a.reg()))
    }

    /// Scalar into all lanes.
    pub(super) fn splat(&mut self, a: Flt) -> Vf {
        self.un(Un::SplatF, a)
    }

    /// Low 32 bits into all lanes.
    pub(super) fn splat_int(&mut self, a: Int) -> Vi {
        self.un(Un::SplatI, a)
    }

    /// Square root.
    pub(super) fn sqrt(&mut self, a: Flt) -> Flt {
        self.un(Un::Sqrt, a)
    }

    /// Magnitude.
    pub(super) fn abs(&mut self, a: Vf) -> Vf {
        self.un(Un::Abs, a)
    }

    /// Integers as floats.
    pub(super) fn float(&mut self, a: Vi) -> Vf {
        self.un(Un::ToFloat, a)
    }

    /// Floats rounded to integers.
    pub(super) fn round(&mut self, a: Vf) -> Vi {
        self.un(Un::ToInt, a)
    }

    /// Four integers of a lane as its four bytes, each the lowest 8 bits.
    pub(super) fn pack_bytes(&mut self, parts: [Vi; 4]) -> Vi {
        let byte = self.vi(0xFF);
        let mut all = self.vi(0);
        for (i, part) in (0..).zip(parts) {
            let part = self.and(part, byte);
            let part = self.shl(part, 8 * i);
            all = self.or(all, part);
        }
        all
    }

    /// Bits of floats.
    pub(super) fn bits(&mut self, a: Vf) -> Vi {
        self.un(Un::BitsI, a)
    }

    /// Floats of bits.
    pub(super) fn unbits(&mut self, a: Vi) -> Vf {
        self.un(Un::BitsF, a)
    }

    /// An integer as a float.
    pub(super) fn float_of(&mut self, a: Int) -> Flt {
        self.un(Un::IntToF32, a)
    }

    /// The same number in 64 bits.
    pub(super) fn widen(&mut self, a: Flt) -> Dbl {
        self.un(Un::Widen, a)
    }

    /// Rounded to 32 bits.
    pub(super) fn narrow(&mut self, a: Dbl) -> Flt {
        self.un(Un::Narrow, a)
    }

    /// Sum of the lanes.
    pub(super) fn sum_lanes(&mut self, a: Vf) -> Flt {
        self.un(Un::SumLanes, a)
    }

    /// Largest lane.
    pub(super) fn max_lanes(&mut self, a: Vf) -> Flt {
        self.un(Un::MaxLanes, a)
    }

    /// Lane `i`.
    pub(super) fn lane(&mut self, a: Vf, i: u32) -> Flt {
        self.let_(Op::Lane(a.reg(), i))
    }

    /// Shift left.
    pub(super) fn shl<T: Val>(&mut self, a: T, by: u32) -> T {
        self.let_(Op::Shift(Shift::Left, a.reg(), by))
    }

    /// Shift right, zeros in.
    pub(super) fn shr<T: Val>(&mut self, a: T, by: u32) -> T {
        self.let_(Op::Shift(Shift::RightLogical, a.reg(), by))
    }

    /// Shift right, sign in.
    pub(super) fn sar<T: Val>(&mut self, a: T, by: u32) -> T {
        self.let_(Op::Shift(Shift::RightArith, a.reg(), by))
    }

    /// `a · b + c`, rounded once.
    pub(super) fn fma<T: Val>(&mut self, a: T, b: T, c: T) -> T {
        self.let_(Op::Fma(a.reg(), b.reg(), c.reg()))
    }

    /// `cmp(a, b) ? t : f`, per lane for vectors.
    pub(super) fn select<A: Val, T: Val>(&mut self, cmp: Cmp, a: A, b: A, t: T, f: T) -> T {
        self.let_(Op::Select(cmp, a.reg(), b.reg(), t.reg(), f.reg()))
    }

    /// Four unsigned by four signed bytes per lane, added to `acc`.
    pub(super) fn dot4(&mut self, acc: Vi, u: Bytes, s: Bytes) -> Vi {
        self.let_(Op::Dot4(acc.reg(), u.reg(), s.reg()))
    }

    /// One byte in all 64.
    pub(super) fn splat_byte(&mut self, v: u8) -> Bytes {
        self.let_(Op::SplatByte(v))
    }

    /// 16 floats; `mem` is a float format.
    pub(super) fn load(&mut self, mem: Mem, addr: Addr) -> Vf {
        debug_assert_eq!(mem.ty(), Ty::VF32);
        self.let_(Op::Load(mem, addr))
    }

    /// 16 integers; `mem` is an integer format.
    pub(super) fn load_ints(&mut self, mem: Mem, addr: Addr) -> Vi {
        debug_assert_eq!(mem.ty(), Ty::VI32);
        self.let_(Op::Load(mem, addr))
    }

    /// 64 bytes.
    pub(super) fn load_bytes(&mut self, addr: Addr) -> Bytes {
        self.let_(Op::LoadBytes(addr))
    }

    /// Four bytes, 16 times.
    pub(super) fn load_bytes4(&mut self, addr: Addr) -> Bytes {
        self.let_(Op::LoadBytes4(addr))
    }

    /// One f32 in all lanes.
    pub(super) fn load_splat(&mut self, addr: Addr) -> Vf {
        self.let_(Op::LoadSplat(addr))
    }

    /// One f32.
    pub(super) fn load_f32(&mut self, addr: Addr) -> Flt {
        self.let_(Op::LoadScalar(ScalarMem::F32, addr))
    }

    /// One i64.
    pub(super) fn load_i64(&mut self, addr: Addr) -> Int {
        self.let_(Op::LoadScalar(ScalarMem::I64, addr))
    }

    /// One i32.
    pub(super) fn load_i32(&mut self, addr: Addr) -> Int {
        self.let_(Op::LoadScalar(ScalarMem::I32, addr))
    }

    /// One f64.
    pub(super) fn load_f64(&mut self, addr: Addr) -> Dbl {
        self.let_(Op::LoadScalar(ScalarMem::F64, addr))
    }

    /// Stores 16 floats.
    pub(super) fn store(&mut self, mem: Mem, addr: Addr, v: Vf) {
        debug_assert_eq!(mem.ty(), Ty::VF32);
        self.push(Stmt::Store(mem, addr, v.reg()));
    }

    /// Stores 16 integers.
    pub(super) fn store_ints(&mut self, mem: Mem, addr: Addr, v: Vi) {
        debug_assert_eq!(mem.ty(), Ty::VI32);
        self.push(Stmt::Store(mem, addr, v.reg()));
    }

    /// Stores lane `l` at `addr + l · stride`.
    pub(super) fn store_strided(&mut self, mem: Mem, addr: Addr, stride: i64, v: Vf) {
        self.push(Stmt::StoreStrided(mem, addr, stride, v.reg()));
    }

    /// Stores the low byte of lane `l` at `addr + l · stride`.
    pub(super) fn store_bytes_strided(&mut self, addr: Addr, stride: i64, v: Vi) {
        self.push(Stmt::StoreStrided(Mem::I8, addr, stride, v.reg()));
    }

    /// Stores one f32.
    pub(super) fn store_f32(&mut self, addr: Addr, v: Flt) {
        self.push(Stmt::StoreScalar(ScalarMem::F32, addr, v.reg()));
    }

    /// Stores one f64.
    pub(super) fn store_f64(&mut self, addr: Addr, v: Dbl) {
        self.push(Stmt::StoreScalar(ScalarMem::F64, addr, v.reg()));
    }

    /// Stores one i64.
    pub(super) fn store_i64(&mut self, addr: Addr, v: Int) {
        self.push(Stmt::StoreScalar(ScalarMem::I64, addr, v.reg()));
    }

    /// Stores the low 32 bits.
    pub(super) fn store_i32(&mut self, addr: Addr, v: Int) {
        self.push(Stmt::StoreScalar(ScalarMem::I32, addr, v.reg()));
    }

    /// Asks for a line early.
    pub(super) fn prefetch(&mut self, addr: Addr, into: Cache) {
        self.push(Stmt::Prefetch(addr, into));
    }

    /// All bytes of a tile 0.
    pub(super) fn tile_zero(&mut self, tile: Tile) {
        self.push(Stmt::TileZero(tile));
    }

    /// 16 rows of 64 bytes, `stride` bytes apart.
    pub(super) fn tile_load(&mut self, tile: Tile, addr: Addr, stride: i64) {
        self.push(Stmt::TileLoad(tile, addr, stride));
    }

    /// 16 rows of 64 bytes, `stride` bytes apart.
    pub(super) fn tile_store(&mut self, addr: Addr, stride: i64, tile: Tile) {
        self.push(Stmt::TileStore(addr, stride, tile));
    }

    /// `sum += signed · unsigned`
    pub(super) fn tile_dot(&mut self, m: Matmul) {
        let (a, b) = ((m.signed, Signs::Signed), (m.unsigned, Signs::Unsigned));
        self.push(Stmt::TileDot { acc: m.sum, a, b });
    }

    fn block(&mut self, f: impl FnOnce(&mut Self)) -> Vec<Stmt> {
        self.open.push(Vec::new());
        f(self);
        self.open.pop().expect("the block opened above")
    }

    /// `for i in (lo..hi).step_by(step)`
    pub(super) fn for_(&mut self, lo: Int, hi: Int, step: i64, f: impl FnOnce(&mut Self, Int)) {
        let var = self.fresh::<Int>();
        let body = self.block(|b| f(b, var));
        self.push(Stmt::For { var: var.0, lo: lo.0, hi: hi.0, step, body });
    }

    /// `for i in (0..hi).step_by(step)` with a constant bound.
    pub(super) fn for_to(&mut self, hi: i64, step: i64, f: impl FnOnce(&mut Self, Int)) {
        let (lo, hi) = (self.int(0), self.int(hi));
        self.for_(lo, hi, step, f);
    }

    /// `0..n` divided over the team.
    pub(super) fn par_for(&mut self, n: Int, split: Split, f: impl FnOnce(&mut Self, Int)) {
        let var = self.fresh::<Int>();
        let body = self.block(|b| f(b, var));
        self.push(Stmt::ParFor { var: var.0, n: n.0, split, body });
    }

    /// `if cond != 0`
    pub(super) fn if_(&mut self, cond: Int, then: impl FnOnce(&mut Self)) {
        self.if_else(cond, then, |_| ());
    }

    /// `if cond != 0 … else …`
    pub(super) fn if_else(&mut self, cond: Int, then: impl FnOnce(&mut Self), otherwise: impl FnOnce(&mut Self)) {
        let then = self.block(then);
        let otherwise = self.block(otherwise);
        self.push(Stmt::If { cond: cond.0, then, otherwise });
    }
}
