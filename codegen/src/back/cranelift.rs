//! Machine code through Cranelift: takes well-formed kernels and an instruction set, returns flat code.
//!
//! The tier that needs nothing installed. Cranelift has 128-bit vectors only, so that a register of 16 lanes is four
//! values, quarter by quarter ([`super::cranelift_ops`]). Its code keeps constants beside itself and calls nothing, which
//! is asserted: a function with a relocation is an error. Prefetches are left out, there is no instruction for them.
//! Tiles are memory ([`super::tiles`]).
//! The same kernels give the same bytes on any machine. AVX-512 is not used, whatever the instruction set says.

use super::{Backend, Error, byte_bounds, cranelift_ops, tiles};
use cranelift_codegen::Context;
use cranelift_codegen::control::ControlPlane;
use cranelift_codegen::ir::condcodes::IntCC;
use cranelift_codegen::ir::{
    AbiParam, Function, InstBuilder, MemFlagsData, Signature, StackSlot, StackSlotData, StackSlotKind, Type,
    UserFuncName, Value, types,
};
use cranelift_codegen::isa::{self, CallConv, OwnedTargetIsa};
use cranelift_codegen::settings::{self, Configurable};
use cranelift_frontend::{FunctionBuilder, FunctionBuilderContext, Variable};
use ir::code::Code;
use ir::kernel::{Addr, Base, Kernel, Op, ParamKind, Reg, Split, Stmt, Ty};
use ir::target::Isa;

/// Features of x86-64-v3 that Cranelift knows.
const FEATURES: [&str; 11] = [
    "has_sse3",
    "has_ssse3",
    "has_sse41",
    "has_sse42",
    "has_popcnt",
    "has_avx",
    "has_avx2",
    "has_fma",
    "has_bmi1",
    "has_bmi2",
    "has_lzcnt",
];

/// Compiles kernels one behind the other.
pub(super) fn compile(kernels: &[Kernel], _isa: Isa) -> Result<Code, Error> {
    let target = target()?;
    let mut frontend = FunctionBuilderContext::new();
    let mut code = Code::default();
    for kernel in kernels {
        let context = function(kernel, &target, &mut frontend, false)?;
        let compiled = context.compiled_code().expect("function() compiles");
        if let Some(relocation) = compiled.buffer.relocs().first() {
            return Err(error(kernel, &format!("the code has a relocation: {relocation:?}")));
        }
        let symbols = vec![(kernel.name.clone(), 0)];
        code.append(Code { symbols, bytes: compiled.code_buffer().to_vec() });
    }
    Ok(code)
}

/// Listing of the instructions, block by block.
pub(super) fn assembly(kernels: &[Kernel], _isa: Isa) -> Result<String, Error> {
    let target = target()?;
    let mut frontend = FunctionBuilderContext::new();
    let mut text = String::new();
    for kernel in kernels {
        let context = function(kernel, &target, &mut frontend, true)?;
        let compiled = context.compiled_code().expect("function() compiles");
        text += &format!("{}:\n{}\n", kernel.name, compiled.vcode.as_deref().unwrap_or_default());
    }
    Ok(text)
}

fn error(kernel: &Kernel, message: &str) -> Error {
    Error::Compiler { backend: Backend::Cranelift, message: format!("kernel `{}`: {message}", kernel.name) }
}

/// Cranelift for x86-64-v3, whatever the machine at hand.
fn target() -> Result<OwnedTargetIsa, Error> {
    let error = |message: String| Error::Compiler { backend: Backend::Cranelift, message };
    let mut shared = settings::builder();
    let verify = if cfg!(debug_assertions) { "true" } else { "false" };
    for (name, value) in [("opt_level", "speed"), ("enable_verifier", verify), ("unwind_info", "false")] {
        shared.set(name, value).map_err(|e| error(e.to_string()))?;
    }
    let mut builder = isa::lookup_by_name("x86_64-unknown-linux-gnu").map_err(|e| error(e.to_string()))?;
    for feature in FEATURES {
        builder.enable(feature).map_err(|e| error(e.to_string()))?;
    }
    builder.finish(settings::Flags::new(shared)).map_err(|e| error(e.to_string()))
}

/// Translates and compiles one kernel.
fn function(
    kernel: &Kernel,
    target: &OwnedTargetIsa,
    frontend: &mut FunctionBuilderContext,
    listing: bool,
) -> Result<Context, Error> {
    let expanded = tiles::expand(kernel);
    let kernel = expanded.as_ref().unwrap_or(kernel);
    let mut signature = Signature::new(CallConv::SystemV);
    signature.params.extend([AbiParam::new(types::I64); 3]);
    let mut function = Function::with_name_signature(UserFuncName::user(0, 0), signature);
    let mut builder = FunctionBuilder::new(&mut function, frontend);
    let entry = builder.create_block();
    builder.append_block_params_for_function_params(entry);
    builder.switch_to_block(entry);
    let mut translate = Translate::new(kernel, builder, entry);
    translate.block(&kernel.body);
    translate.builder.ins().return_(&[]);
    translate.builder.seal_all_blocks();
    translate.builder.finalize(target.frontend_config());

    let mut context = Context::for_function(function);
    context.set_disasm(listing);
    let result = context.compile(&**target, &mut ControlPlane::default()).map(|_| ());
    result.map_err(|e| error(kernel, &format!("{:?}", e.inner)))?;
    Ok(context)
}

/// The values of one register: one for scalars, four quarters for 16 lanes.
pub(super) type Parts = Vec<Value>;

/// Cranelift's type of each part of a register.
pub(super) fn part_type(ty: Ty) -> Type {
    match ty {
        Ty::I64 => types::I64,
        Ty::F32 => types::F32,
        Ty::F64 => types::F64,
        Ty::VF32 => types::F32X4,
        Ty::VI32 => types::I32X4,
        Ty::B64 => types::I8X16,
    }
}

/// Memory accesses of kernels: never trap, any alignment.
pub(super) const ACCESS: MemFlagsData = MemFlagsData::new().with_notrap();

/// One kernel on its way to Cranelift's IR.
pub(super) struct Translate<'a> {
    kernel: &'a Kernel,
    pub(super) builder: FunctionBuilder<'a>,
    /// Bounds of the bytes of registers.
    bounds: Vec<u8>,
    variables: Vec<Vec<Variable>>,
    params: Vec<Value>,
    locals: Vec<StackSlot>,
    tid: Value,
    team: Value,
}

impl<'a> Translate<'a> {
    fn new(kernel: &'a Kernel, mut builder: FunctionBuilder<'a>, entry: cranelift_codegen::ir::Block) -> Self {
        let (args, tid, team) = match builder.block_params(entry) {
            [args, tid, team] => (*args, *tid, *team),
            _ => unreachable!("the signature has three parameters"),
        };
        let mut params = Vec::with_capacity(kernel.params.len());
        for (i, param) in kernel.params.iter().enumerate() {
            let ty = if param.kind == ParamKind::F32 { types::F32 } else { types::I64 };
            params.push(builder.ins().load(ty, MemFlagsData::trusted(), args, 8 * i as i32));
        }
        let mut variables = Vec::with_capacity(kernel.regs.len());
        for ty in &kernel.regs {
            let parts = if matches!(ty, Ty::I64 | Ty::F32 | Ty::F64) { 1 } else { 4 };
            variables.push((0..parts).map(|_| builder.declare_var(part_type(*ty))).collect());
        }
        let slot = |bytes: u64| {
            let bytes = u32::try_from(bytes).expect("kernel_check bounds the size of locals");
            StackSlotData::new(StackSlotKind::ExplicitSlot, bytes, 6)
        };
        let locals = kernel.locals.iter().map(|l| builder.create_sized_stack_slot(slot(l.bytes))).collect();
        let bounds = byte_bounds::bounds(kernel, &byte_bounds::assignments(kernel));
        Self { kernel, builder, bounds, variables, params, locals, tid, team }
    }

    pub(super) fn ty(&self, reg: Reg) -> Ty {
        self.kernel.regs[reg.0 as usize]
    }

    /// A value no byte of the register exceeds.
    pub(super) fn bound(&self, reg: Reg) -> u8 {
        self.bounds[reg.0 as usize]
    }

    /// Content of a register.
    pub(super) fn get(&mut self, reg: Reg) -> Parts {
        let Self { variables, builder, .. } = self;
        variables[reg.0 as usize].iter().map(|variable| builder.use_var(*variable)).collect()
    }

    /// Content of a scalar register.
    pub(super) fn scalar(&mut self, reg: Reg) -> Value {
        self.builder.use_var(self.variables[reg.0 as usize][0])
    }

    fn set(&mut self, reg: Reg, parts: &[Value]) {
        for (variable, part) in self.variables[reg.0 as usize].iter().zip(parts) {
            self.builder.def_var(*variable, *part);
        }
    }

    /// An address as a pointer and an offset that leaves room for `reach` bytes either way.
    pub(super) fn addr(&mut self, addr: Addr, reach: i64) -> (Value, i32) {
        let mut at = match addr.base {
            Base::Param(i) => self.params[i as usize],
            Base::Local(i) => self.builder.ins().stack_addr(types::I64, self.locals[i as usize], 0),
        };
        if let Some(index) = addr.index {
            let index = self.scalar(index);
            at = self.builder.ins().iadd(at, index);
        }
        let room = i64::from(i32::MAX).saturating_sub(reach);
        match i32::try_from(addr.offset) {
            Ok(offset) if addr.offset.saturating_abs() < room => (at, offset),
            _ => {
                let offset = self.builder.ins().iconst(types::I64, addr.offset);
                (self.builder.ins().iadd(at, offset), 0)
            }
        }
    }

    fn block(&mut self, body: &[Stmt]) {
        for stmt in body {
            self.statement(stmt);
        }
    }

    fn statement(&mut self, stmt: &Stmt) {
        match stmt {
            Stmt::Let(reg, op) => {
                let parts = match op {
                    Op::Param(i) => vec![self.params[*i as usize]],
                    Op::Tid => vec![self.tid],
                    _ => cranelift_ops::op(self, op),
                };
                self.set(*reg, &parts);
            }
            Stmt::Store(mem, addr, reg) => cranelift_ops::store(self, *mem, *addr, *reg),
            Stmt::StoreStrided(mem, addr, stride, reg) => {
                cranelift_ops::store_strided(self, *mem, *addr, *stride, *reg);
            }
            Stmt::StoreScalar(mem, addr, reg) => cranelift_ops::store_scalar(self, *mem, *addr, *reg),
            Stmt::Prefetch(..) => {}
            Stmt::TileZero(_) | Stmt::TileLoad(..) | Stmt::TileStore(..) | Stmt::TileDot { .. } => {
                unreachable!("tiles::expand replaced them")
            }
            Stmt::For { var, lo, hi, step, body } => {
                let (lo, hi) = (self.scalar(*lo), self.scalar(*hi));
                let step = self.builder.ins().iconst(types::I64, *step);
                self.range(*var, lo, hi, step, body);
            }
            Stmt::ParFor { var, n, split, body } => {
                let n = self.scalar(*n);
                let (tid, team) = (self.tid, self.team);
                let one = self.builder.ins().iconst(types::I64, 1);
                match split {
                    Split::Cyclic => self.range(*var, tid, n, team, body),
                    Split::Blocked => {
                        let next = self.builder.ins().iadd(tid, one);
                        let [lo, hi] = [tid, next].map(|t| {
                            let product = self.builder.ins().imul(n, t);
                            self.builder.ins().sdiv(product, team)
                        });
                        self.range(*var, lo, hi, one, body);
                    }
                }
            }
            Stmt::If { cond, then, otherwise } => {
                let cond = self.scalar(*cond);
                let [taken, other, join] = [(); 3].map(|()| self.builder.create_block());
                self.builder.ins().brif(cond, taken, [], other, []);
                for (block, body) in [(taken, then), (other, otherwise)] {
                    self.builder.switch_to_block(block);
                    self.block(body);
                    self.builder.ins().jump(join, []);
                }
                self.builder.switch_to_block(join);
            }
        }
    }

    /// A loop tested before the first iteration and at the end of each.
    fn range(&mut self, var: Reg, lo: Value, hi: Value, step: Value, body: &[Stmt]) {
        let [again, after] = [(); 2].map(|()| self.builder.create_block());
        self.set(var, &[lo]);
        let any = self.builder.ins().icmp(IntCC::SignedLessThan, lo, hi);
        self.builder.ins().brif(any, again, [], after, []);
        self.builder.switch_to_block(again);
        self.block(body);
        let i = self.scalar(var);
        let next = self.builder.ins().iadd(i, step);
        self.set(var, &[next]);
        let more = self.builder.ins().icmp(IntCC::SignedLessThan, next, hi);
        self.builder.ins().brif(more, again, [], after, []);
        self.builder.switch_to_block(after);
    }
}
