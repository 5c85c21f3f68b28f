//! LLVM IR as text: takes well-formed kernels and an instruction set, returns a module LLVM 19 and newer read.
//!
//! Each kernel is two functions: the exported one loads its arguments, the internal one has the body, so that buffers
//! are `noalias` parameters. Registers assigned once are SSA values, the others stack slots that LLVM promotes. Nothing
//! is reassociated or contracted (no fast-math flags; `llvm.fma`, never `fmuladd`), and loops carry metadata that keeps
//! LLVM from unrolling or vectorising what a kernel has laid out. Tiles are those of AMX by their numbers, configured
//! where a kernel that uses them begins and released where it ends; without AMX they are memory ([`super::tiles`]). The
//! text names no host and needs no LLVM to make. What it does not do: check kernels, or ask whether the machine has the
//! instruction set.

use super::byte_bounds;
use super::llvm_ops;
use super::tiles;
use ir::kernel::uses_tiles;
use ir::kernel::{Addr, Base, Bytes, Cache, Kernel, LANES, Mem, Op, ParamKind, Reg, ScalarMem, Split, Stmt, Tile, Ty};
use ir::target::Isa;
use std::collections::BTreeSet;
use std::fmt::Write as _;

/// Target triple of every module.
pub const TRIPLE: &str = "x86_64-unknown-linux-gnu";

/// CPU name and feature string for an instruction set; `Isa::avx2` is taken for granted.
#[must_use]
pub fn cpu(isa: Isa) -> (&'static str, &'static str) {
    match (isa.avx512, isa.vnni, isa.amx_int8) {
        (false, ..) => ("x86-64-v3", ""),
        (true, false, _) => ("x86-64-v4", ""),
        (true, true, false) => ("x86-64-v4", "+avx512vnni"),
        (true, true, true) => ("x86-64-v4", "+avx512vnni,+amx-tile,+amx-int8"),
    }
}

/// The module for some kernels, which must be well-formed and have different names.
#[must_use]
pub fn emit_text(kernels: &[Kernel], isa: Isa) -> String {
    let mut module = Module { text: String::new(), declarations: BTreeSet::new(), loops: 0 };
    let _ = writeln!(module.text, "target triple = \"{TRIPLE}\"\n");
    if isa.amx_int8 && kernels.iter().any(|kernel| uses_tiles(&kernel.body)) {
        let shape: String = tiles::configuration().iter().map(|byte| format!("\\{byte:02X}")).collect();
        let _ = writeln!(module.text, "@tiles = private unnamed_addr constant [64 x i8] c\"{shape}\", align 64\n");
    }
    for kernel in kernels {
        let expanded = if isa.amx_int8 { None } else { tiles::expand(kernel) };
        Function::new(expanded.as_ref().unwrap_or(kernel), isa, &mut module).emit();
    }
    module.finish(isa)
}

/// What functions of one module share.
struct Module {
    text: String,
    declarations: BTreeSet<String>,
    loops: usize,
}

impl Module {
    fn finish(mut self, isa: Isa) -> String {
        for declaration in &self.declarations {
            let _ = writeln!(self.text, "declare {declaration}");
        }
        let (name, features) = cpu(isa);
        let width = if isa.avx512 { 512 } else { 256 };
        let target = format!(
            "\"target-cpu\"=\"{name}\" \"target-features\"=\"{features}\" \"prefer-vector-width\"=\"{width}\" \
             \"min-legal-vector-width\"=\"{width}\" \"no-builtins\""
        );
        let _ = writeln!(self.text, "\nattributes #0 = {{ nounwind {target} }}");
        let _ = writeln!(self.text, "attributes #1 = {{ noinline nounwind {target} }}\n");
        self.text.push_str("!0 = !{!\"llvm.loop.unroll.disable\"}\n");
        self.text.push_str("!1 = !{!\"llvm.loop.vectorize.enable\", i1 false}\n");
        for i in 0..self.loops {
            let _ = writeln!(self.text, "!{0} = distinct !{{!{0}, !0, !1}}", i + 2);
        }
        self.text
    }
}

/// One kernel on its way to text.
pub(super) struct Function<'a> {
    kernel: &'a Kernel,
    pub(super) isa: Isa,
    module: &'a mut Module,
    /// Bounds of the bytes of registers.
    bounds: Vec<u8>,
    /// Assignments of every register.
    assignments: Vec<u32>,
    /// Operands of registers that are assigned once and of which the assignment was met.
    values: Vec<String>,
    temporaries: usize,
    labels: usize,
}

/// LLVM's name of a register's type.
pub(super) fn ty(ty: Ty) -> &'static str {
    match ty {
        Ty::I64 => "i64",
        Ty::F32 => "float",
        Ty::F64 => "double",
        Ty::VF32 => "<16 x float>",
        Ty::VI32 => "<16 x i32>",
        Ty::B64 => "<64 x i8>",
    }
}

impl<'a> Function<'a> {
    fn new(kernel: &'a Kernel, isa: Isa, module: &'a mut Module) -> Self {
        let assignments = byte_bounds::assignments(kernel);
        let bounds = byte_bounds::bounds(kernel, &assignments);
        let values = vec![String::new(); kernel.regs.len()];
        Self { kernel, isa, module, bounds, assignments, values, temporaries: 0, labels: 0 }
    }

    fn emit(mut self) {
        let name = &self.kernel.name;
        let (mut formal, mut actual, mut loads) = (String::new(), String::new(), String::new());
        for (i, param) in self.kernel.params.iter().enumerate() {
            let (in_memory, attributes) = match param.kind {
                ParamKind::Read => ("ptr", " noalias readonly"),
                ParamKind::Write => ("ptr", " noalias"),
                ParamKind::I64 => ("i64", ""),
                ParamKind::F32 => ("float", ""),
            };
            let _ = write!(formal, "{in_memory}{attributes} %p{i}, ");
            let _ = write!(actual, "{in_memory} %a{i}, ");
            let _ = writeln!(loads, "  %w{i} = getelementptr i8, ptr %args, i64 {}", 8 * i);
            let _ = writeln!(loads, "  %a{i} = load {in_memory}, ptr %w{i}, align 8");
        }
        let head = format!(
            "define void @\"{name}\"(ptr noalias readonly %args, i64 %tid, i64 %team) #0 {{\n{loads}  call void \
             @\"{name}.body\"({actual}i64 %tid, i64 %team)\n  ret void\n}}\n\n\
             define internal void @\"{name}.body\"({formal}i64 %tid, i64 %team) #1 {{\n"
        );
        self.module.text.push_str(&head);
        for (i, local) in self.kernel.locals.iter().enumerate() {
            self.line(&format!("%l{i} = alloca [{} x i8], align 64", local.bytes));
        }
        for i in 0..self.kernel.regs.len() {
            if self.assignments[i] > 1 {
                self.line(&format!("%m{i} = alloca {}, align 64", ty(self.kernel.regs[i])));
            }
        }
        let tiles = uses_tiles(&self.kernel.body);
        if tiles {
            self.tile("ldtilecfg", &[("ptr", "@tiles")]);
        }
        self.block(&self.kernel.body);
        if tiles {
            self.tile("tilerelease", &[]);
        }
        self.module.text.push_str("  ret void\n}\n\n");
    }

    fn line(&mut self, text: &str) {
        let _ = writeln!(self.module.text, "  {text}");
    }

    /// Emits an instruction with a result and returns the result's name.
    pub(super) fn value(&mut self, text: &str) -> String {
        self.temporaries += 1;
        let name = format!("%t{}", self.temporaries);
        self.line(&format!("{name} = {text}"));
        name
    }

    /// Emits a call of an intrinsic, `arguments` with their types.
    pub(super) fn call(&mut self, result: &str, name: &str, arguments: &[(&str, &str)]) -> String {
        let types: Vec<&str> = arguments.iter().map(|(ty, _)| *ty).collect();
        self.module.declarations.insert(format!("{result} @{name}({})", types.join(", ")));
        let arguments: Vec<String> = arguments.iter().map(|(ty, value)| format!("{ty} {value}")).collect();
        self.value(&format!("call {result} @{name}({})", arguments.join(", ")))
    }

    /// Emits an instruction on tiles, `arguments` with their types.
    fn tile(&mut self, name: &str, arguments: &[(&str, &str)]) {
        let types: Vec<&str> = arguments.iter().map(|(ty, _)| *ty).collect();
        self.module.declarations.insert(format!("void @llvm.x86.{name}({})", types.join(", ")));
        let arguments: Vec<String> = arguments.iter().map(|(ty, value)| format!("{ty} {value}")).collect();
        self.line(&format!("call void @llvm.x86.{name}({})", arguments.join(", ")));
    }

    /// A tile's rows from or to memory.
    fn tile_rows(&mut self, name: &str, tile: Tile, addr: Addr, stride: i64) {
        let at = self.addr(addr);
        self.tile(name, &[("i8", &tile.0.to_string()), ("ptr", &at), ("i64", &stride.to_string())]);
    }

    fn label(&mut self, label: &str) {
        let _ = writeln!(self.module.text, "{label}:");
    }

    fn fresh(&mut self) -> usize {
        self.labels += 1;
        self.labels
    }

    pub(super) fn ty(&self, reg: Reg) -> Ty {
        self.kernel.regs[reg.0 as usize]
    }

    /// A value no byte of the register exceeds.
    pub(super) fn bound(&self, reg: Reg) -> u8 {
        self.bounds[reg.0 as usize]
    }

    /// Operand that is the register's content.
    pub(super) fn get(&mut self, reg: Reg) -> String {
        let i = reg.0 as usize;
        if self.assignments[i] > 1 {
            return self.value(&format!("load {}, ptr %m{i}, align 64", ty(self.kernel.regs[i])));
        }
        self.values[i].clone()
    }

    fn set(&mut self, reg: Reg, value: String) {
        let i = reg.0 as usize;
        if self.assignments[i] > 1 {
            self.line(&format!("store {} {value}, ptr %m{i}, align 64", ty(self.kernel.regs[i])));
        } else {
            self.values[i] = value;
        }
    }

    fn addr(&mut self, addr: Addr) -> String {
        let mut at = match addr.base {
            Base::Param(i) => format!("%p{i}"),
            Base::Local(i) => format!("%l{i}"),
        };
        if let Some(index) = addr.index {
            let index = self.get(index);
            at = self.value(&format!("getelementptr i8, ptr {at}, i64 {index}"));
        }
        if addr.offset != 0 {
            at = self.value(&format!("getelementptr i8, ptr {at}, i64 {}", addr.offset));
        }
        at
    }

    pub(super) fn load(&mut self, ty: &str, addr: Addr) -> String {
        let at = self.addr(addr);
        self.value(&format!("load {ty}, ptr {at}, align 1"))
    }

    fn block(&mut self, body: &[Stmt]) {
        for stmt in body {
            self.statement(stmt);
        }
    }

    fn statement(&mut self, stmt: &Stmt) {
        match stmt {
            Stmt::Let(reg, op) => {
                let value = match op {
                    Op::Param(i) => format!("%p{i}"),
                    Op::Tid => "%tid".to_owned(),
                    _ => llvm_ops::op(self, op),
                };
                self.set(*reg, value);
            }
            Stmt::Store(mem, addr, reg) => {
                let (ty, value) = self.narrowed(*mem, *reg);
                let at = self.addr(*addr);
                self.line(&format!("store <16 x {ty}> {value}, ptr {at}, align 1"));
            }
            Stmt::StoreStrided(mem, addr, stride, reg) => {
                let (ty, value) = self.narrowed(*mem, *reg);
                for lane in 0..LANES {
                    let item = self.value(&format!("extractelement <16 x {ty}> {value}, i64 {lane}"));
                    let offset = addr.offset.wrapping_add(stride.wrapping_mul(lane as i64));
                    let at = self.addr(Addr { offset, ..*addr });
                    self.line(&format!("store {ty} {item}, ptr {at}, align 1"));
                }
            }
            Stmt::StoreScalar(mem, addr, reg) => {
                let value = self.get(*reg);
                let (ty, value) = match mem {
                    ScalarMem::F32 => ("float", value),
                    ScalarMem::F64 => ("double", value),
                    ScalarMem::F16 => ("half", self.value(&format!("fptrunc float {value} to half"))),
                    ScalarMem::I32 => ("i32", self.value(&format!("trunc i64 {value} to i32"))),
                    ScalarMem::I64 => ("i64", value),
                    ScalarMem::U8 => ("i8", self.value(&format!("trunc i64 {value} to i8"))),
                };
                let at = self.addr(*addr);
                self.line(&format!("store {ty} {value}, ptr {at}, align 1"));
            }
            Stmt::Prefetch(addr, cache) => {
                let at = self.addr(*addr);
                self.module.declarations.insert("void @llvm.prefetch.p0(ptr, i32, i32, i32)".to_owned());
                let locality = match cache {
                    Cache::First => 3,
                    Cache::Second => 2,
                };
                self.line(&format!("call void @llvm.prefetch.p0(ptr {at}, i32 0, i32 {locality}, i32 1)"));
            }
            Stmt::TileZero(tile) => self.tile("tilezero", &[("i8", &tile.0.to_string())]),
            Stmt::TileLoad(tile, addr, stride) => self.tile_rows("tileloadd64", *tile, *addr, *stride),
            Stmt::TileStore(addr, stride, tile) => self.tile_rows("tilestored64", *tile, *addr, *stride),
            Stmt::TileDot { acc, a, b } => {
                let name = match (a.1, b.1) {
                    (Bytes::Signed, Bytes::Signed) => "tdpbssd",
                    (Bytes::Signed, Bytes::Unsigned) => "tdpbsud",
                    (Bytes::Unsigned, Bytes::Signed) => "tdpbusd",
                    (Bytes::Unsigned, Bytes::Unsigned) => "tdpbuud",
                };
                let [acc, a, b] = [acc, &a.0, &b.0].map(|tile| tile.0.to_string());
                self.tile(name, &[("i8", &acc), ("i8", &a), ("i8", &b)]);
            }
            Stmt::For { var, lo, hi, step, body } => {
                let (lo, hi) = (self.get(*lo), self.get(*hi));
                self.range(*var, &lo, &hi, &step.to_string(), body);
            }
            Stmt::ParFor { var, n, split, body } => {
                let n = self.get(*n);
                match split {
                    Split::Cyclic => self.range(*var, "%tid", &n, "%team", body),
                    Split::Blocked => {
                        let next = self.value("add i64 %tid, 1");
                        let [lo, hi] = ["%tid", &next].map(|t| {
                            let product = self.value(&format!("mul i64 {n}, {t}"));
                            self.value(&format!("sdiv i64 {product}, %team"))
                        });
                        self.range(*var, &lo, &hi, "1", body);
                    }
                }
            }
            Stmt::If { cond, then, otherwise } => {
                let id = self.fresh();
                let cond = self.get(*cond);
                let taken = self.value(&format!("icmp ne i64 {cond}, 0"));
                self.line(&format!("br i1 {taken}, label %then{id}, label %else{id}"));
                self.label(&format!("then{id}"));
                self.block(then);
                self.line(&format!("br label %join{id}"));
                self.label(&format!("else{id}"));
                self.block(otherwise);
                self.line(&format!("br label %join{id}"));
                self.label(&format!("join{id}"));
            }
        }
    }

    /// Element type and operand of a register narrowed to what memory holds.
    fn narrowed(&mut self, mem: Mem, reg: Reg) -> (&'static str, String) {
        let value = self.get(reg);
        match mem {
            Mem::F32 => ("float", value),
            Mem::I32 => ("i32", value),
            Mem::F16 => ("half", self.value(&format!("fptrunc <16 x float> {value} to <16 x half>"))),
            Mem::BF16 => ("i16", llvm_ops::round_bf16(self, &value)),
            Mem::U8 | Mem::I8 => ("i8", self.value(&format!("trunc <16 x i32> {value} to <16 x i8>"))),
        }
    }

    /// A loop from `lo` to `hi` (operands) by `step` (positive).
    fn range(&mut self, var: Reg, lo: &str, hi: &str, step: &str, body: &[Stmt]) {
        let id = self.fresh();
        let metadata = self.module.loops + 2;
        self.module.loops += 1;
        self.line(&format!("br label %before{id}"));
        self.label(&format!("before{id}"));
        self.line(&format!("br label %head{id}"));
        self.label(&format!("head{id}"));
        self.line(&format!("%i{id} = phi i64 [ {lo}, %before{id} ], [ %next{id}, %latch{id} ]"));
        self.line(&format!("%more{id} = icmp slt i64 %i{id}, {hi}"));
        self.line(&format!("br i1 %more{id}, label %body{id}, label %after{id}"));
        self.label(&format!("body{id}"));
        self.set(var, format!("%i{id}"));
        self.block(body);
        self.line(&format!("br label %latch{id}"));
        self.label(&format!("latch{id}"));
        self.line(&format!("%next{id} = add i64 %i{id}, {step}"));
        self.line(&format!("br label %head{id}, !llvm.loop !{metadata}"));
        self.label(&format!("after{id}"));
    }
}
