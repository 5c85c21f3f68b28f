//! Back ends: take well-formed kernels and an instruction set, return machine code or a listing.
//!
//! [`interp`] is the meaning of Kernel IR, the others must agree with it bit for bit. All are deterministic, do no I/O
//! and may be called on several threads at once. Whether the machine at hand has the instruction set is not known here.

mod byte_bounds;
#[cfg(feature = "cranelift")]
mod cranelift;
#[cfg(feature = "cranelift")]
mod cranelift_ops;
pub mod interp;
#[cfg(any(feature = "llvm22", feature = "llvm19"))]
mod link;
#[cfg(any(feature = "llvm22", feature = "llvm19"))]
mod llvm;
mod llvm_ops;
pub mod llvm_text;
mod tiles;

use ir::code::Code;
use ir::kernel::Kernel;
use ir::kernel_check;
use ir::target::Isa;
use std::fmt::{self, Display, Formatter};

/// What turns kernels into something that runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Backend {
    /// LLVM: the fast tier, 256- or 512-bit vectors.
    Llvm,
    /// Cranelift: the tier that needs nothing installed, 128-bit vectors.
    Cranelift,
    /// The interpreter: no machine code, see [`interp::run`].
    Interp,
}

impl Backend {
    /// All back ends, the fastest first.
    pub const ALL: [Self; 3] = [Self::Llvm, Self::Cranelift, Self::Interp];

    /// Name, as people write it.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Llvm => "llvm",
            Self::Cranelift => "cranelift",
            Self::Interp => "interp",
        }
    }

    /// True if this build has it.
    #[must_use]
    pub fn available(self) -> bool {
        match self {
            Self::Llvm => cfg!(any(feature = "llvm22", feature = "llvm19")),
            Self::Cranelift => cfg!(feature = "cranelift"),
            Self::Interp => true,
        }
    }

    /// What makes the code different from another build's: the back end and its version. Part of cache keys.
    #[must_use]
    pub fn version(self) -> &'static str {
        match self {
            Self::Llvm if cfg!(feature = "llvm22") => "llvm-22",
            Self::Llvm => "llvm-19",
            Self::Cranelift => "cranelift-0.135",
            Self::Interp => "interp",
        }
    }
}

/// Why there is no code.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Error {
    /// This build lacks the back end.
    Unavailable(Backend),
    /// The interpreter has no machine code.
    NoCode,
    /// The instruction set is below what compiled tiers ask for (AVX2 with FMA and F16C), or contradicts itself.
    Isa(Isa),
    /// A kernel is not well-formed.
    Invalid {
        /// Name of the kernel.
        kernel: String,
        /// What is wrong with it.
        faults: Vec<String>,
    },
    /// Two kernels have the same name.
    Duplicate(String),
    /// The compiler refused what it should take.
    Compiler {
        /// The back end.
        backend: Backend,
        /// What it said.
        message: String,
    },
}

impl Display for Error {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unavailable(backend) => {
                write!(f, "this build has no `{}` back end; build with the feature of that name", backend.name())
            }
            Self::NoCode => f.write_str("the interpreter has no machine code"),
            Self::Isa(isa) if isa.avx2 => {
                write!(f, "{isa:?} is no instruction set: VNNI builds on AVX-512, AMX on VNNI")
            }
            Self::Isa(_) => f.write_str("compiled kernels need AVX2, FMA and F16C (x86-64-v3), which the target lacks"),
            Self::Invalid { kernel, faults } => {
                write!(f, "kernel `{kernel}` is not well-formed: {}", faults.join("; "))
            }
            Self::Duplicate(name) => write!(f, "two kernels are named `{name}`"),
            Self::Compiler { backend, message } => write!(f, "{}: {message}", backend.name()),
        }
    }
}

impl std::error::Error for Error {}

/// Compiles kernels to one blob. Groups of kernels may be compiled on different threads and joined by [`Code::append`].
///
/// # Errors
/// An [`Error`]; kernels from [`crate::lower`](crate) only meet `Unavailable`, `NoCode` and `Isa`.
pub fn emit(kernels: &[Kernel], isa: Isa, backend: Backend) -> Result<Code, Error> {
    check(kernels, isa)?;
    match backend {
        #[cfg(any(feature = "llvm22", feature = "llvm19"))]
        Backend::Llvm => llvm::compile(kernels, isa),
        #[cfg(feature = "cranelift")]
        Backend::Cranelift => cranelift::compile(kernels, isa),
        Backend::Interp => Err(Error::NoCode),
        #[cfg(not(any(feature = "llvm22", feature = "llvm19")))]
        Backend::Llvm => Err(Error::Unavailable(backend)),
        #[cfg(not(feature = "cranelift"))]
        Backend::Cranelift => Err(Error::Unavailable(backend)),
    }
}

/// LLVM IR of kernels, before optimisation; every build has it.
///
/// # Errors
/// As [`emit`].
pub fn llvm_ir(kernels: &[Kernel], isa: Isa) -> Result<String, Error> {
    check(kernels, isa)?;
    Ok(llvm_text::emit_text(kernels, isa))
}

/// A listing of what [`emit`] makes: assembly of LLVM, annotated instructions of Cranelift.
///
/// # Errors
/// As [`emit`].
pub fn assembly(kernels: &[Kernel], isa: Isa, backend: Backend) -> Result<String, Error> {
    check(kernels, isa)?;
    match backend {
        #[cfg(any(feature = "llvm22", feature = "llvm19"))]
        Backend::Llvm => llvm::assembly(kernels, isa),
        #[cfg(feature = "cranelift")]
        Backend::Cranelift => cranelift::assembly(kernels, isa),
        Backend::Interp => Err(Error::NoCode),
        #[cfg(not(any(feature = "llvm22", feature = "llvm19")))]
        Backend::Llvm => Err(Error::Unavailable(backend)),
        #[cfg(not(feature = "cranelift"))]
        Backend::Cranelift => Err(Error::Unavailable(backend)),
    }
}

/// Compilers end the process on what they cannot select, so everything is refused here.
fn check(kernels: &[Kernel], isa: Isa) -> Result<(), Error> {
    if !isa.avx2 || (isa.vnni && !isa.avx512) || (isa.amx_int8 && !isa.vnni) {
        return Err(Error::Isa(isa));
    }
    for (i, kernel) in kernels.iter().enumerate() {
        kernel_check::kernel(kernel).map_err(|faults| Error::Invalid { kernel: kernel.name.clone(), faults })?;
        if kernels[..i].iter().any(|other| other.name == kernel.name) {
            return Err(Error::Duplicate(kernel.name.clone()));
        }
    }
    Ok(())
}
