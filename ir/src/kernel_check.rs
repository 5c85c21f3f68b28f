//! Well-formedness of Kernel IR: takes a [`Kernel`], returns everything wrong with it.
//!
//! A kernel that passes has a meaning that does not depend on the back end, the team's size or leftovers: all types
//! agree, every register and tile is assigned on every path before it is read, and a [`Stmt::ParFor`] carries nothing from one
//! iteration to the next or to what follows. What this does not check: that computed addresses stay inside their
//! buffers (the interpreter does) and that divisors are not 0.

use crate::kernel::{Addr, Base, Bin, Kernel, Op, ParamKind, Reg, ScalarMem, Shift, Stmt, TILES, Tile, Ty, Un};

/// Most bytes of locals of one kernel: they live on a thread's stack.
pub const LOCAL_BYTES: u64 = 260 * 1024;
/// Deepest nesting of statements, so that recursive walks are safe on kernels from files.
pub const MAX_DEPTH: usize = 64;

/// Checks a kernel.
///
/// # Errors
/// Sentences, one per fault, in the order of the kernel's text (at most 50).
pub fn kernel(kernel: &Kernel) -> Result<(), Vec<String>> {
    let mut check = Check { kernel, faults: Vec::new() };
    check.header();
    // Registers, then tiles.
    let mut assigned = vec![false; kernel.regs.len() + TILES];
    check.block(&kernel.body, &mut assigned, 0);
    if check.faults.is_empty() { Ok(()) } else { Err(check.faults) }
}

struct Check<'a> {
    kernel: &'a Kernel,
    faults: Vec<String>,
}

type Assigned = Vec<bool>;

impl Check<'_> {
    fn fault(&mut self, text: String) {
        if self.faults.len() < 50 {
            self.faults.push(text);
        }
    }

    fn header(&mut self) {
        let name = &self.kernel.name;
        if name.is_empty() || !name.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_' || b == b'.') {
            self.fault(format!("kernel name {name:?} is not made of letters, digits, `_` and `.`"));
        }
        let total = self.kernel.locals.iter().fold(0u64, |sum, local| sum.saturating_add(local.bytes));
        if total > LOCAL_BYTES {
            self.fault(format!("{total} bytes of locals, at most {LOCAL_BYTES} are allowed"));
        }
    }

    /// Type of a register, with a fault when there is no such register.
    fn ty(&mut self, reg: Reg) -> Option<Ty> {
        let ty = self.kernel.regs.get(reg.0 as usize).copied();
        if ty.is_none() {
            self.fault(format!("%{} does not exist, there are {} registers", reg.0, self.kernel.regs.len()));
        }
        ty
    }

    /// Type of a register that is read.
    fn read(&mut self, reg: Reg, assigned: &Assigned) -> Option<Ty> {
        let ty = self.ty(reg)?;
        if !assigned[reg.0 as usize] {
            self.fault(format!("%{} is read before it is assigned on every path", reg.0));
        }
        Some(ty)
    }

    fn expect(&mut self, reg: Reg, want: &[Ty], what: &str, assigned: &Assigned) -> Option<Ty> {
        let ty = self.read(reg, assigned)?;
        if !want.contains(&ty) {
            self.fault(format!("{what}: %{} is {ty:?}, expected one of {want:?}", reg.0));
            return None;
        }
        Some(ty)
    }

    fn addr(&mut self, addr: Addr, write: bool, assigned: &Assigned) {
        match addr.base {
            Base::Param(i) => match self.kernel.params.get(i as usize).map(|p| p.kind) {
                None => self.fault(format!("parameter {i} does not exist")),
                Some(ParamKind::Write) => {}
                Some(ParamKind::Read) if !write => {}
                Some(ParamKind::Read) => self.fault(format!("parameter {i} is written but declared Read")),
                Some(kind) => self.fault(format!("parameter {i} is addressed but is {kind:?}")),
            },
            Base::Local(i) => match self.kernel.locals.get(i as usize) {
                None => self.fault(format!("local {i} does not exist")),
                Some(local) if addr.index.is_none() && !(0..local.bytes as i64).contains(&addr.offset) => {
                    self.fault(format!("offset {} is outside local `{}`", addr.offset, local.name));
                }
                Some(_) => {}
            },
        }
        if let Some(index) = addr.index {
            self.expect(index, &[Ty::I64], "address", assigned);
        }
    }

    fn block(&mut self, body: &[Stmt], assigned: &mut Assigned, depth: usize) {
        if depth > MAX_DEPTH {
            self.fault(format!("statements nest deeper than {MAX_DEPTH}"));
            return;
        }
        for stmt in body {
            self.stmt(stmt, assigned, depth);
        }
    }

    fn stmt(&mut self, stmt: &Stmt, assigned: &mut Assigned, depth: usize) {
        match stmt {
            Stmt::Let(reg, op) => {
                let result = self.op(op, *reg, assigned);
                if let (Some(result), Some(ty)) = (result, self.ty(*reg))
                    && result != ty
                {
                    self.fault(format!("%{} is {ty:?} but is assigned {result:?} by {op:?}", reg.0));
                }
                set(assigned, *reg);
            }
            Stmt::Store(mem, addr, reg) => {
                self.addr(*addr, true, assigned);
                self.expect(*reg, &[mem.ty()], "store", assigned);
            }
            Stmt::StoreStrided(mem, addr, _, reg) => {
                self.addr(*addr, true, assigned);
                self.expect(*reg, &[mem.ty()], "strided store", assigned);
            }
            Stmt::StoreScalar(mem, addr, reg) => {
                self.addr(*addr, true, assigned);
                self.expect(*reg, &[scalar_ty(*mem)], "scalar store", assigned);
            }
            Stmt::Prefetch(addr, _) => self.addr(*addr, false, assigned),
            Stmt::TileZero(tile) => self.tile_set(*tile, assigned),
            Stmt::TileLoad(tile, addr, _) => {
                self.addr(*addr, false, assigned);
                self.tile_set(*tile, assigned);
            }
            Stmt::TileStore(addr, _, tile) => {
                self.addr(*addr, true, assigned);
                self.tile_read(*tile, assigned);
            }
            Stmt::TileDot { acc, a, b } => {
                for tile in [*acc, a.0, b.0] {
                    self.tile_read(tile, assigned);
                }
                if *acc == a.0 || *acc == b.0 || a.0 == b.0 {
                    self.fault(format!("tile_dot {acc}, {}, {}: the tiles are not three", a.0, b.0));
                }
            }
            Stmt::For { var, lo, hi, step, body } => {
                if *step <= 0 {
                    self.fault(format!("for %{}: step {step} is not positive", var.0));
                }
                self.expect(*lo, &[Ty::I64], "first value of a loop", assigned);
                self.expect(*hi, &[Ty::I64], "bound of a loop", assigned);
                let mut inner = self.enter(*var, body, assigned);
                self.block(body, &mut inner, depth + 1);
                unset(assigned, *var);
            }
            Stmt::ParFor { var, n, body, .. } => {
                if depth > 0 {
                    self.fault(format!("parfor %{} is not at the top level", var.0));
                }
                self.expect(*n, &[Ty::I64], "iterations of a parfor", assigned);
                assigned_in(body, &mut |reg| unset(assigned, reg));
                assigned[self.kernel.regs.len()..].fill(false);
                let mut inner = self.enter(*var, body, assigned);
                self.block(body, &mut inner, depth + 1);
                unset(assigned, *var);
            }
            Stmt::If { cond, then, otherwise } => {
                self.expect(*cond, &[Ty::I64], "condition", assigned);
                let mut other = assigned.clone();
                self.block(then, assigned, depth + 1);
                self.block(otherwise, &mut other, depth + 1);
                assigned.iter_mut().zip(other).for_each(|(a, b)| *a &= b);
            }
        }
    }

    /// Where `assigned` says that a tile is; `None` (and a fault) when there is no such tile.
    fn tile(&mut self, tile: Tile) -> Option<usize> {
        let exists = usize::from(tile.0) < TILES;
        if !exists {
            self.fault(format!("tile {} does not exist, there are {TILES}", tile.0));
        }
        exists.then(|| self.kernel.regs.len() + usize::from(tile.0))
    }

    fn tile_set(&mut self, tile: Tile, assigned: &mut Assigned) {
        if let Some(slot) = self.tile(tile) {
            assigned[slot] = true;
        }
    }

    fn tile_read(&mut self, tile: Tile, assigned: &Assigned) {
        if self.tile(tile).is_some_and(|slot| !assigned[slot]) {
            self.fault(format!("tile {} is read before it is assigned on every path", tile.0));
        }
    }

    /// Registers assigned at the start of a loop's body.
    fn enter(&mut self, var: Reg, body: &[Stmt], assigned: &Assigned) -> Assigned {
        if self.ty(var).is_some_and(|ty| ty != Ty::I64) {
            self.fault(format!("loop counter %{} is not I64", var.0));
        }
        let mut clash = false;
        assigned_in(body, &mut |reg| clash |= reg == var);
        if clash {
            self.fault(format!("loop counter %{} is assigned inside the loop", var.0));
        }
        let mut inner = assigned.clone();
        set(&mut inner, var);
        inner
    }

    /// Result type of an operation; `None` when a fault was recorded.
    fn op(&mut self, op: &Op, dest: Reg, assigned: &Assigned) -> Option<Ty> {
        match op {
            Op::Int(_) | Op::Tid => Some(Ty::I64),
            Op::Float(_) => Some(Ty::F32),
            Op::Iota => Some(Ty::VI32),
            Op::SplatByte(_) => Some(Ty::B64),
            Op::Param(i) => match self.kernel.params.get(*i as usize).map(|p| p.kind) {
                Some(ParamKind::I64) => Some(Ty::I64),
                Some(ParamKind::F32) => Some(Ty::F32),
                _ => {
                    self.fault(format!("parameter {i} is not a scalar (read into %{})", dest.0));
                    None
                }
            },
            Op::Copy(a) => self.read(*a, assigned),
            Op::Bin(bin, a, b) => self.bin(*bin, *a, *b, assigned),
            Op::Un(un, a) => self.un(*un, *a, assigned),
            Op::Shift(shift, a, bits) => self.shift(*shift, *a, *bits, assigned),
            Op::Fma(a, b, c) => {
                let ty = self.expect(*a, &[Ty::F32, Ty::VF32], "fma", assigned)?;
                self.expect(*b, &[ty], "fma", assigned)?;
                self.expect(*c, &[ty], "fma", assigned)
            }
            Op::Select(_, a, b, t, f) => {
                let ty = self.expect(*a, &[Ty::F32, Ty::F64, Ty::I64, Ty::VF32, Ty::VI32], "select", assigned)?;
                self.expect(*b, &[ty], "select", assigned)?;
                let scalar = matches!(ty, Ty::F32 | Ty::F64 | Ty::I64);
                let allowed: &[Ty] = if scalar { &[Ty::F32, Ty::F64, Ty::I64] } else { &[Ty::VF32, Ty::VI32] };
                let result = self.expect(*t, allowed, "select", assigned)?;
                self.expect(*f, &[result], "select", assigned)
            }
            Op::Dot4(acc, u, s) => {
                self.expect(*u, &[Ty::B64], "dot4", assigned)?;
                self.expect(*s, &[Ty::B64], "dot4", assigned)?;
                self.expect(*acc, &[Ty::VI32], "dot4", assigned)
            }
            Op::Load(mem, addr) => {
                self.addr(*addr, false, assigned);
                Some(mem.ty())
            }
            Op::LoadBytes(addr) | Op::LoadBytes4(addr) => {
                self.addr(*addr, false, assigned);
                Some(Ty::B64)
            }
            Op::LoadSplat(addr) => {
                self.addr(*addr, false, assigned);
                Some(Ty::VF32)
            }
            Op::LoadScalar(mem, addr) => {
                self.addr(*addr, false, assigned);
                Some(scalar_ty(*mem))
            }
            Op::Lane(a, lane) => {
                if *lane >= 16 {
                    self.fault(format!("lane {lane} of %{}: there are 16", a.0));
                }
                self.expect(*a, &[Ty::VF32], "lane", assigned)?;
                Some(Ty::F32)
            }
        }
    }

    fn bin(&mut self, bin: Bin, a: Reg, b: Reg, assigned: &Assigned) -> Option<Ty> {
        let allowed: &[Ty] = match bin {
            Bin::Add | Bin::Sub | Bin::Mul => &[Ty::I64, Ty::F32, Ty::F64, Ty::VF32, Ty::VI32],
            Bin::Div => &[Ty::I64, Ty::F32, Ty::F64, Ty::VF32],
            Bin::Min | Bin::Max => &[Ty::I64, Ty::F32, Ty::VF32],
            Bin::Rem => &[Ty::I64],
            Bin::And | Bin::Or => &[Ty::I64, Ty::VI32, Ty::B64],
            Bin::Lt | Bin::Le | Bin::Eq => &[Ty::I64, Ty::F32, Ty::F64],
        };
        let ty = self.expect(a, allowed, "operation", assigned)?;
        self.expect(b, &[ty], "operation", assigned)?;
        Some(if matches!(bin, Bin::Lt | Bin::Le | Bin::Eq) { Ty::I64 } else { ty })
    }

    fn un(&mut self, un: Un, a: Reg, assigned: &Assigned) -> Option<Ty> {
        let (from, to): (&[Ty], Option<Ty>) = match un {
            Un::SplatF => (&[Ty::F32], Some(Ty::VF32)),
            Un::SplatI => (&[Ty::I64], Some(Ty::VI32)),
            Un::Sqrt | Un::Abs => (&[Ty::F32, Ty::VF32], None),
            Un::ToFloat | Un::BitsF => (&[Ty::VI32], Some(Ty::VF32)),
            Un::ToInt | Un::BitsI => (&[Ty::VF32], Some(Ty::VI32)),
            Un::IntToF32 => (&[Ty::I64], Some(Ty::F32)),
            Un::Widen => (&[Ty::F32], Some(Ty::F64)),
            Un::Narrow => (&[Ty::F64], Some(Ty::F32)),
            Un::SumLanes | Un::MaxLanes => (&[Ty::VF32], Some(Ty::F32)),
        };
        let ty = self.expect(a, from, "operation", assigned)?;
        Some(to.unwrap_or(ty))
    }

    fn shift(&mut self, shift: Shift, a: Reg, bits: u32, assigned: &Assigned) -> Option<Ty> {
        let all = [Ty::I64, Ty::VI32, Ty::B64];
        let allowed = if shift == Shift::RightArith { &all[..2] } else { &all[..] };
        let ty = self.expect(a, allowed, "shift", assigned)?;
        let width = match ty {
            Ty::I64 => 64,
            Ty::B64 => 8,
            _ => 32,
        };
        if bits >= width {
            self.fault(format!("shift of %{} by {bits}: elements have {width} bits", a.0));
        }
        Some(ty)
    }
}

/// Type of the register a scalar is loaded to or stored from.
#[must_use]
pub fn scalar_ty(mem: ScalarMem) -> Ty {
    match mem {
        ScalarMem::F32 | ScalarMem::F16 => Ty::F32,
        ScalarMem::F64 => Ty::F64,
        ScalarMem::I32 | ScalarMem::I64 | ScalarMem::U8 => Ty::I64,
    }
}

/// Calls `f` with every register that statements assign, loop counters included, once per assignment.
pub fn assigned_in(body: &[Stmt], f: &mut impl FnMut(Reg)) {
    // An explicit stack: this walk runs before the depth of a kernel is known to be sane.
    let mut blocks = vec![body];
    while let Some(block) = blocks.pop() {
        for stmt in block {
            match stmt {
                Stmt::Let(reg, _) => f(*reg),
                Stmt::For { var, body, .. } | Stmt::ParFor { var, body, .. } => {
                    f(*var);
                    blocks.push(body);
                }
                Stmt::If { then, otherwise, .. } => blocks.extend([then.as_slice(), otherwise.as_slice()]),
                Stmt::Store(..) | Stmt::StoreStrided(..) | Stmt::StoreScalar(..) | Stmt::Prefetch(..) => {}
                Stmt::TileZero(_) | Stmt::TileLoad(..) | Stmt::TileStore(..) | Stmt::TileDot { .. } => {}
            }
        }
    }
}

/// Bytes touched by a scalar access.
#[must_use]
pub fn scalar_bytes(mem: ScalarMem) -> usize {
    match mem {
        ScalarMem::F32 | ScalarMem::I32 => 4,
        ScalarMem::F16 => 2,
        ScalarMem::I64 | ScalarMem::F64 => 8,
        ScalarMem::U8 => 1,
    }
}

fn set(assigned: &mut Assigned, reg: Reg) {
    if let Some(slot) = assigned.get_mut(reg.0 as usize) {
        *slot = true;
    }
}

fn unset(assigned: &mut Assigned, reg: Reg) {
    if let Some(slot) = assigned.get_mut(reg.0 as usize) {
        *slot = false;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kernel::{Cache, Cmp, Local, Mem, Param, Split};

    const I: Reg = Reg(0);
    const J: Reg = Reg(1);
    const V: Reg = Reg(2);
    const W: Reg = Reg(3);
    const B: Reg = Reg(4);

    fn at(base: Base, index: Option<Reg>) -> Addr {
        Addr { base, index, offset: 0 }
    }

    /// What is said about a kernel with registers `I J` (I64), `V W` (VF32), `B` (B64), parameters 0 (Read), 1 (Write)
    /// and 2 (I64), and one local of 64 bytes.
    fn faults(body: Vec<Stmt>) -> String {
        let param = |kind| Param { name: "p".into(), kind };
        let kernel = Kernel {
            name: "k".into(),
            params: [ParamKind::Read, ParamKind::Write, ParamKind::I64].map(param).into(),
            locals: vec![Local { name: "l".into(), bytes: 64 }],
            regs: vec![Ty::I64, Ty::I64, Ty::VF32, Ty::VF32, Ty::B64],
            body,
        };
        super::kernel(&kernel).err().unwrap_or_default().join("; ")
    }

    fn int(reg: Reg) -> Stmt {
        Stmt::Let(reg, Op::Int(1))
    }

    fn load(reg: Reg) -> Stmt {
        Stmt::Let(reg, Op::Load(Mem::F32, at(Base::Param(0), None)))
    }

    #[test]
    fn types_and_memory() {
        let says = |body: Vec<Stmt>, word: &str| {
            let said = faults(body);
            assert!(said.contains(word), "{word:?} is not in {said:?}");
        };
        assert_eq!(faults(vec![int(I), load(V), Stmt::Store(Mem::F16, at(Base::Param(1), Some(I)), V)]), "");
        says(vec![Stmt::Let(Reg(9), Op::Int(0))], "%9 does not exist");
        says(vec![Stmt::Let(V, Op::Int(0))], "%2 is VF32 but is assigned I64");
        says(vec![int(I), load(V), Stmt::Let(V, Op::Bin(Bin::Add, V, I))], "%0 is I64");
        says(vec![load(V), Stmt::Let(V, Op::Bin(Bin::Rem, V, V))], "%2 is VF32");
        says(vec![load(V), Stmt::Store(Mem::F32, at(Base::Param(0), None), V)], "declared Read");
        says(vec![load(V), Stmt::Store(Mem::F32, at(Base::Param(2), None), V)], "addressed but is I64");
        says(vec![load(V), Stmt::Store(Mem::I32, at(Base::Param(1), None), V)], "store");
        says(vec![Stmt::Prefetch(at(Base::Param(7), None), Cache::First)], "parameter 7 does not exist");
        says(vec![Stmt::Prefetch(at(Base::Local(1), None), Cache::First)], "local 1 does not exist");
        says(vec![Stmt::Prefetch(Addr { offset: 64, ..at(Base::Local(0), None) }, Cache::First)], "outside local");
        says(vec![load(V), Stmt::Prefetch(at(Base::Param(0), Some(V)), Cache::Second)], "address");
        says(vec![Stmt::Let(I, Op::Param(0))], "not a scalar");
        says(vec![Stmt::Let(B, Op::SplatByte(1)), Stmt::Let(B, Op::Shift(Shift::Left, B, 8))], "8 bits");
        says(vec![Stmt::Let(B, Op::SplatByte(1)), Stmt::Let(B, Op::Shift(Shift::RightArith, B, 1))], "shift");
        says(vec![int(I), load(V), Stmt::Let(V, Op::Select(Cmp::Lt, I, I, V, V))], "select");
        says(vec![load(V), Stmt::Let(Reg(5), Op::Lane(V, 16))], "lane 16");
    }

    #[test]
    fn assignment_on_every_path() {
        let read_v = || Stmt::Let(W, Op::Copy(V));
        let once = |body| Stmt::For { var: J, lo: I, hi: I, step: 1, body };
        let unassigned = "read before it is assigned";
        assert!(faults(vec![read_v()]).contains(unassigned));
        assert!(faults(vec![int(I), once(vec![load(V)]), read_v()]).contains(unassigned));
        assert!(faults(vec![int(I), once(vec![read_v(), load(V)])]).contains(unassigned));
        assert!(faults(vec![int(I), once(vec![]), Stmt::Let(I, Op::Copy(J))]).contains(unassigned));
        assert_eq!(faults(vec![int(I), load(V), once(vec![read_v(), load(V)]), read_v()]), "");
        let branch = |otherwise| Stmt::If { cond: I, then: vec![load(V)], otherwise };
        assert!(faults(vec![int(I), branch(vec![]), read_v()]).contains(unassigned));
        assert_eq!(faults(vec![int(I), branch(vec![load(V)]), read_v()]), "");
    }

    #[test]
    fn loops_and_teams() {
        let parfor = |body| Stmt::ParFor { var: J, n: I, split: Split::Blocked, body };
        let once = |step, body| Stmt::For { var: J, lo: I, hi: I, step, body };
        assert!(faults(vec![int(I), once(0, vec![])]).contains("step 0"));
        assert!(faults(vec![int(I), once(1, vec![int(J)])]).contains("assigned inside"));
        assert!(faults(vec![int(I), once(1, vec![parfor(vec![])])]).contains("top level"));
        let sum = || Stmt::Let(V, Op::Bin(Bin::Add, V, V));
        assert!(
            faults(vec![int(I), load(V), parfor(vec![sum()])]).contains("read before"),
            "carried between iterations"
        );
        assert!(faults(vec![int(I), load(V), parfor(vec![load(V)]), sum()]).contains("read before"), "carried out");
        assert_eq!(faults(vec![int(I), load(V), parfor(vec![load(V), sum()])]), "");
    }

    #[test]
    fn tiles_are_assigned_distinct_and_not_carried_through_a_team() {
        use crate::kernel::Bytes::{Signed, Unsigned};
        let [x, y] = [0, 1].map(|i| at(Base::Param(i), None));
        let load = |tile| Stmt::TileLoad(Tile(tile), x, 64);
        let dot = |acc, a, b| Stmt::TileDot { acc: Tile(acc), a: (Tile(a), Signed), b: (Tile(b), Unsigned) };
        let store = |tile| Stmt::TileStore(y, 64, Tile(tile));
        assert_eq!(faults(vec![Stmt::TileZero(Tile(0)), load(1), load(7), dot(0, 1, 7), store(0)]), "");
        let says = |body: Vec<Stmt>, word: &str| {
            let said = faults(body);
            assert!(said.contains(word), "{word:?} is not in {said:?}");
        };
        says(vec![load(8)], "tile 8 does not exist");
        says(vec![load(255), store(9)], "tile 255 does not exist");
        says(vec![load(1), load(2), dot(0, 1, 2)], "tile 0 is read before");
        says(vec![store(3)], "tile 3 is read before");
        says(vec![load(0), load(1), dot(0, 1, 1)], "not three");
        says(vec![load(0), load(1), dot(0, 0, 1)], "not three");
        says(vec![load(0), load(1), dot(1, 0, 1)], "not three");
        says(vec![load(0), Stmt::TileStore(x, 64, Tile(0))], "declared Read");
        says(vec![Stmt::TileLoad(Tile(0), at(Base::Param(2), None), 64)], "addressed but is I64");
        let parfor = |body| Stmt::ParFor { var: J, n: I, split: Split::Blocked, body };
        says(vec![int(I), load(0), parfor(vec![store(0)])], "tile 0 is read before");
        says(vec![int(I), parfor(vec![load(0)]), store(0)], "tile 0 is read before");
        says(vec![int(I), load(0), parfor(vec![]), store(0)], "tile 0 is read before");
        assert_eq!(faults(vec![int(I), parfor(vec![load(0), store(0)])]), "");
        let once = |body| Stmt::For { var: J, lo: I, hi: I, step: 1, body };
        says(vec![int(I), once(vec![load(0)]), store(0)], "tile 0 is read before");
        assert_eq!(faults(vec![int(I), load(0), once(vec![store(0)]), store(0)]), "");
    }

    #[test]
    fn depth_is_bounded() {
        let mut body = vec![];
        for _ in 0..1000 {
            body = vec![Stmt::If { cond: I, then: body, otherwise: vec![] }];
        }
        body.insert(0, int(I));
        assert!(faults(body).contains("nest deeper"));
    }
}
