//! Back ends: from kernels to what runs. [`interp`] is the meaning, the others must agree with it.

pub mod interp;
