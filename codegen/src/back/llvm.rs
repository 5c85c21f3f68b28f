//! Machine code through LLVM: takes well-formed kernels and an instruction set, returns linked code or assembly text.
//!
//! The module of [`super::llvm_text`] is parsed, optimised by LLVM's `default<O3>` without its vectorisers and
//! unrollers (kernels are vectors already and say what is unrolled), compiled, and linked by [`super::link`]. The same
//! kernels give the same bytes on any machine. Calls are independent: give groups of kernels to as many threads as you
//! like. LLVM ends the process on code it cannot select, so the caller refuses unsupported instruction sets before.

use super::{Error, link, llvm_text};
use inkwell::OptimizationLevel;
use inkwell::context::Context;
use inkwell::memory_buffer::MemoryBuffer;
use inkwell::passes::PassBuilderOptions;
use inkwell::targets::{CodeModel, FileType, InitializationConfig, RelocMode, Target, TargetMachine, TargetTriple};
use ir::code::Code;
use ir::kernel::Kernel;
use ir::target::Isa;

/// Compiles and links kernels.
pub(super) fn compile(kernels: &[Kernel], isa: Isa) -> Result<Code, Error> {
    let object = lower(kernels, isa, FileType::Object)?;
    link::link(&object).map_err(|e| Error::Compiler { backend: super::Backend::Llvm, message: e })
}

/// Assembly text of kernels, as LLVM prints it.
pub(super) fn assembly(kernels: &[Kernel], isa: Isa) -> Result<String, Error> {
    Ok(String::from_utf8_lossy(&lower(kernels, isa, FileType::Assembly)?).into_owned())
}

fn lower(kernels: &[Kernel], isa: Isa, form: FileType) -> Result<Vec<u8>, Error> {
    let error = |message: String| Error::Compiler { backend: super::Backend::Llvm, message };
    Target::initialize_x86(&InitializationConfig::default());
    let triple = TargetTriple::create(llvm_text::TRIPLE);
    let (cpu, features) = llvm_text::cpu(isa);
    let target = Target::from_triple(&triple).map_err(|e| error(e.to_string()))?;
    let machine: TargetMachine = target
        .create_target_machine(&triple, cpu, features, OptimizationLevel::Aggressive, RelocMode::PIC, CodeModel::Small)
        .ok_or_else(|| error(format!("LLVM has no machine for {cpu}")))?;

    let context = Context::create();
    let mut text = llvm_text::emit_text(kernels, isa).into_bytes();
    text.push(0); // LLVM's text buffers end in NUL
    let buffer = MemoryBuffer::create_from_memory_range_copy(&text, "kernels");
    let module = context.create_module_from_ir(buffer).map_err(|e| error(e.to_string()))?;
    module.set_data_layout(&machine.get_target_data().get_data_layout());
    module.verify().map_err(|e| error(e.to_string()))?;

    let options = PassBuilderOptions::create();
    options.set_loop_vectorization(false);
    options.set_loop_slp_vectorization(false);
    options.set_loop_interleaving(false);
    options.set_loop_unrolling(false);
    module.run_passes("default<O3>", &machine, options).map_err(|e| error(e.to_string()))?;
    let bytes = machine.write_to_memory_buffer(&module, form).map_err(|e| error(e.to_string()))?;
    Ok(bytes.as_slice().to_vec())
}
