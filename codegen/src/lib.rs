//! From models to kernels to machine code.
//!
//! Takes an [`ir::model::Model`] and its schedule, returns a forward program of [`ir::kernel::Kernel`]s ([`lower`]); takes
//! kernels and an instruction set, returns [`ir::code::Code`] ([`emit`]). Deterministic and without I/O: it reads no
//! weights, maps no memory, runs nothing but the interpreter, and makes no choices that a schedule has not made.

#![warn(clippy::disallowed_methods)]

pub mod back;

pub use back::{Backend, Error, assembly, emit, llvm_ir};
pub mod lower;
pub mod rules;

/// Hash of this crate's sources: names what made a piece of machine code, for caches of it.
pub const SOURCES: &str = env!("CODEGEN_SOURCES");
