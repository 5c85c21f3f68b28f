//! Kernel IR: small functions over explicit 16-lane vectors, with structured control flow.
//!
//! Its meaning is `codegen::back::interp`; every other back end must give the same bits. A kernel says everything
//! about its schedule (tiling, unrolling, which accumulators exist), so back ends translate and choose nothing.
//!
//! **Values.** A register has one [`Ty`] and may be assigned several times (loops carry values in registers). Vectors
//! have 16 lanes of 32 bits, [`Ty::B64`] is 64 bytes (lane `l` owns bytes `4l..4l+4`).
//! **Memory.** Parameters are buffers addressed by byte offsets (any alignment) or scalars. A kernel touches nothing
//! else, allocates nothing, cannot fail. Locals are private to one thread and uninitialised on entry.
//! **Threads.** `team` threads call the same kernel with their own `tid`; only [`Stmt::ParFor`] divides work, with a
//! partition that depends on the team's size alone, so results never depend on it.
//! **Tiles.** A kernel has [`TILES`] tiles of [`TILE_ROWS`] rows of 64 bytes, private to one thread, for products of
//! bytes summed in 32-bit integers. They hold bytes; [`Stmt::TileDot`] says how it reads them.
//! **Arithmetic.** f32 and f64 operations are IEEE, round to nearest even, never reassociated; `Fma` is fused. Integer
//! operations wrap. What is absent on purpose: calls, recursion, dynamic allocation, unordered reductions.

use serde::{Deserialize, Serialize};

/// Lanes of every vector.
pub const LANES: usize = 16;

/// Tiles of every kernel.
pub const TILES: usize = 8;

/// Rows of every tile. A row is 64 bytes, that is 16 × i32 or four bytes for each of 16 lanes.
pub const TILE_ROWS: usize = 16;

/// A tile of a kernel, below [`TILES`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Tile(pub u8);

/// How the bytes of a tile are read by [`Stmt::TileDot`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum Bytes {
    /// 0 to 255.
    Unsigned,
    /// -128 to 127.
    Signed,
}

/// Type of a register.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum Ty {
    /// Index, byte offset, or truth value (0 or 1).
    I64,
    /// Scalar float.
    F32,
    /// Scalar float of 64 bits, for sums that must lose nothing.
    F64,
    /// 16 × f32.
    VF32,
    /// 16 × i32.
    VI32,
    /// 64 bytes, 4 per lane.
    B64,
}

/// A register of a kernel; its type is `kernel.regs[reg.0]`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Reg(pub u32);

/// A place in memory a kernel may address.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum Base {
    /// Parameter `i`, which must be a buffer.
    Param(u32),
    /// Local `i`.
    Local(u32),
}

/// An address: a base, a register of bytes (or none) and a constant number of bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Addr {
    /// Buffer or local.
    pub base: Base,
    /// Byte offset held in an [`Ty::I64`] register.
    pub index: Option<Reg>,
    /// Constant byte offset, added.
    pub offset: i64,
}

/// How 16 lanes lie in memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum Mem {
    /// 16 × f32.
    F32,
    /// 16 × f16, widened on load, rounded to nearest even on store.
    F16,
    /// 16 × bf16, widened on load, rounded to nearest even on store (NaN stays NaN).
    BF16,
    /// 16 × i32.
    I32,
    /// 16 × u8, zero-extended to `VI32`; stores keep the low byte.
    U8,
    /// 16 × i8, sign-extended to `VI32`; stores keep the low byte.
    I8,
}

impl Mem {
    /// Bytes of one lane.
    #[must_use]
    pub fn bytes(self) -> i64 {
        match self {
            Self::F32 | Self::I32 => 4,
            Self::F16 | Self::BF16 => 2,
            Self::U8 | Self::I8 => 1,
        }
    }

    /// Type of the register loaded or stored.
    #[must_use]
    pub fn ty(self) -> Ty {
        match self {
            Self::F32 | Self::F16 | Self::BF16 => Ty::VF32,
            Self::I32 | Self::U8 | Self::I8 => Ty::VI32,
        }
    }
}

/// Scalars in memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum ScalarMem {
    /// To or from an [`Ty::F32`] register.
    F32,
    /// f16 widened to an [`Ty::F32`] register; rounded to nearest even on store.
    F16,
    /// To or from an [`Ty::F64`] register.
    F64,
    /// Sign-extended to [`Ty::I64`]; stores keep the low 32 bits.
    I32,
    /// 64 bits.
    I64,
    /// Zero-extended to [`Ty::I64`]; stores keep the low byte.
    U8,
}

/// Two-operand operations. Both operands and the result have one type unless the line says otherwise.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum Bin {
    /// Sum (`I64 F32 F64 VF32 VI32`).
    Add,
    /// Difference (`I64 F32 F64 VF32 VI32`).
    Sub,
    /// Product (`I64 F32 F64 VF32 VI32`).
    Mul,
    /// Quotient (`I64` truncating, divisor never 0; `F32 F64 VF32`).
    Div,
    /// Remainder (`I64`, divisor never 0).
    Rem,
    /// `a < b ? a : b` (`I64 F32 VF32`); with a NaN the result is `b`.
    Min,
    /// `a > b ? a : b` (`I64 F32 VF32`); with a NaN the result is `b`.
    Max,
    /// Bitwise and (`I64 VI32 B64`).
    And,
    /// Bitwise or (`I64 VI32 B64`).
    Or,
    /// `a < b` as 0 or 1 (`I64`, `F32` or `F64` operands, `I64` result; false with a NaN).
    Lt,
    /// `a <= b` as 0 or 1 (same types as `Lt`).
    Le,
    /// `a == b` as 0 or 1 (same types as `Lt`).
    Eq,
}

/// One-operand operations.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum Un {
    /// `F32 → VF32`: all lanes.
    SplatF,
    /// `I64 → VI32`: low 32 bits in all lanes.
    SplatI,
    /// `F32 | VF32`: square root.
    Sqrt,
    /// `F32 | VF32`: magnitude.
    Abs,
    /// `VI32 → VF32`: exact value rounded to nearest even.
    ToFloat,
    /// `VF32 → VI32`: rounded to nearest even; out of range or NaN gives `i32::MIN`.
    ToInt,
    /// `VF32 → VI32`: same bits.
    BitsI,
    /// `VI32 → VF32`: same bits.
    BitsF,
    /// `I64 → F32`: rounded to nearest even.
    IntToF32,
    /// `F32 → F64`: exact.
    Widen,
    /// `F64 → F32`: rounded to nearest even.
    Narrow,
    /// `VF32 → F32`: sum, as a tree: lanes `l + (l+8)`, then `+4`, `+2`, `+1`.
    SumLanes,
    /// `VF32 → F32`: maximum by the same tree, `Max` semantics.
    MaxLanes,
}

/// Shifts by a constant number of bits, smaller than the element's width.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum Shift {
    /// Left (`I64 VI32 B64`; `B64` shifts each byte).
    Left,
    /// Right, zeros in (`I64 VI32 B64`; `B64` shifts each byte).
    RightLogical,
    /// Right, sign in (`I64 VI32`).
    RightArith,
}

/// Lane comparisons of [`Op::Select`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum Cmp {
    /// `a < b`
    Lt,
    /// `a <= b`
    Le,
    /// `a == b`
    Eq,
}

/// What computes a register.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub enum Op {
    /// Integer constant (`I64`).
    Int(i64),
    /// Float constant (`F32`), by bits so that printing and comparing are exact.
    Float(u32),
    /// Scalar parameter `i` (`I64` or `F32`).
    Param(u32),
    /// This thread's number (`I64`).
    Tid,
    /// 0, 1, …, 15 (`VI32`).
    Iota,
    /// Copy of a register of the same type.
    Copy(Reg),
    /// Two operands.
    Bin(Bin, Reg, Reg),
    /// One operand.
    Un(Un, Reg),
    /// Shift by a constant.
    Shift(Shift, Reg, u32),
    /// Fused `a·b + c`, rounded once (`F32 VF32`).
    Fma(Reg, Reg, Reg),
    /// Lane-wise `cmp(a, b) ? t : f`; `a, b` are both `VF32` or both `VI32`, `t, f` both `VF32` or both `VI32`;
    /// scalars: `a, b` of one type of `I64 F32 F64`, `t, f` of one type of them. False with a NaN.
    Select(Cmp, Reg, Reg, Reg, Reg),
    /// Per lane `acc + Σ_{i<4} u[4l+i]·s[4l+i]`, `u` unsigned bytes, `s` signed bytes, no saturation (`VI32`).
    /// Arguments: acc (`VI32`), u (`B64`), s (`B64`).
    Dot4(Reg, Reg, Reg),
    /// One byte constant in all 64 bytes (`B64`).
    SplatByte(u8),
    /// 16 lanes from memory.
    Load(Mem, Addr),
    /// 64 bytes from memory (`B64`).
    LoadBytes(Addr),
    /// Four bytes from memory, repeated 16 times (`B64`).
    LoadBytes4(Addr),
    /// One f32 from memory in all lanes (`VF32`).
    LoadSplat(Addr),
    /// One scalar from memory.
    LoadScalar(ScalarMem, Addr),
    /// Lane `i < 16` of a `VF32` (`F32`).
    Lane(Reg, u32),
}

/// A statement.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(remote = "Self")]
pub enum Stmt {
    /// Assign a register.
    Let(Reg, Op),
    /// Store 16 lanes.
    Store(Mem, Addr, Reg),
    /// Store lane `l` at `addr + l·stride` bytes.
    StoreStrided(Mem, Addr, i64, Reg),
    /// Store one scalar.
    StoreScalar(ScalarMem, Addr, Reg),
    /// Hint that the line at this address is read soon, and into which cache it should come; no effect on meaning, never
    /// faults.
    Prefetch(Addr, Cache),
    /// `for var in (lo..hi).step_by(step)`; `step > 0`; bounds are evaluated once; `var` must not be assigned inside.
    For {
        /// Counter (`I64`).
        var: Reg,
        /// First value.
        lo: Reg,
        /// Bound, excluded.
        hi: Reg,
        /// Distance, positive.
        step: i64,
        /// Body.
        body: Vec<Stmt>,
    },
    /// The iterations `0..n` divided over the team. Iterations are independent. Only at the top level of a kernel.
    ParFor {
        /// Counter (`I64`).
        var: Reg,
        /// Number of iterations.
        n: Reg,
        /// How they are divided.
        split: Split,
        /// Body.
        body: Vec<Stmt>,
    },
    /// `if cond != 0`.
    If {
        /// Condition (`I64`).
        cond: Reg,
        /// Taken when not 0.
        then: Vec<Stmt>,
        /// Taken when 0.
        otherwise: Vec<Stmt>,
    },
    /// All bytes of a tile become 0.
    TileZero(Tile),
    /// Row `r` of a tile from the 64 bytes at `addr + r·stride`.
    TileLoad(Tile, Addr, i64),
    /// Row `r` of a tile to the 64 bytes at `addr + r·stride`, rows in rising order.
    TileStore(Addr, i64, Tile),
    /// With `acc` as 16 × 16 i32: `acc[m][n] += Σ_{k<16} Σ_{i<4} a[m][4k+i] · b[k][4n+i]`, wrapping. So `a` has a
    /// row of 64 features per row of the result, and row `k` of `b` has four features for each of 16 columns.
    TileDot {
        /// Sums; another tile than `a` and `b`.
        acc: Tile,
        /// Left factor and how its bytes are read; another tile than `b`.
        a: (Tile, Bytes),
        /// Right factor and how its bytes are read.
        b: (Tile, Bytes),
    },
}

crate::nested::counted!(Stmt);

/// True if tiles occur anywhere in these statements.
#[must_use]
pub fn uses_tiles(body: &[Stmt]) -> bool {
    body.iter().any(|stmt| match stmt {
        Stmt::TileZero(_) | Stmt::TileLoad(..) | Stmt::TileStore(..) | Stmt::TileDot { .. } => true,
        Stmt::For { body, .. } | Stmt::ParFor { body, .. } => uses_tiles(body),
        Stmt::If { then, otherwise, .. } => uses_tiles(then) || uses_tiles(otherwise),
        Stmt::Let(..) | Stmt::Store(..) | Stmt::StoreStrided(..) | Stmt::StoreScalar(..) | Stmt::Prefetch(..) => false,
    })
}

/// How the iterations of a [`Stmt::ParFor`] are divided over `nt` threads.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum Split {
    /// Thread `t` takes `n·t/nt .. n·(t+1)/nt`: contiguous weights for each thread.
    Blocked,
    /// Thread `t` takes `t, t + nt, …`: even shares when later iterations are heavier.
    Cyclic,
}

/// Where a [`Stmt::Prefetch`] puts a line.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum Cache {
    /// Beside the units.
    First,
    /// Behind the first, where what is in use stays untouched.
    Second,
}

impl Cache {
    /// Its name in the text form.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::First => "first",
            Self::Second => "second",
        }
    }
}

/// A parameter of a kernel, passed as one 64-bit word.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Param {
    /// Name, for people.
    pub name: String,
    /// What the word is.
    pub kind: ParamKind,
}

/// What a parameter's word means.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum ParamKind {
    /// Address of memory that is only read.
    Read,
    /// Address of memory that is written (and maybe read). No two written buffers overlap.
    Write,
    /// A signed integer.
    I64,
    /// The low 32 bits are an f32.
    F32,
}

/// Memory private to one thread for the duration of one call; 64-byte aligned.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Local {
    /// Name, for people.
    pub name: String,
    /// Size in bytes.
    pub bytes: u64,
}

/// A kernel. Compiled form: `extern "C" fn(args: *const u64, tid: i64, team: i64)`, one word of `args` per parameter.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Kernel {
    /// Symbol name: letters, digits, `_`, `.`.
    pub name: String,
    /// Parameters in order.
    pub params: Vec<Param>,
    /// Private memory.
    pub locals: Vec<Local>,
    /// Types of the registers.
    pub regs: Vec<Ty>,
    /// Statements.
    pub body: Vec<Stmt>,
}
