//! From plans to kernels to machine code.

pub mod back;

pub use back::{Backend, Error, assembly, emit, llvm_ir};
pub mod lower;
