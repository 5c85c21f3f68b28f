//! From plans to kernels to machine code.

pub mod back;
