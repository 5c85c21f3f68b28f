//! Runs compiled kernels in tests: maps a blob executable and calls its symbols, one thread of the team after the other.

#![expect(unsafe_code, reason = "running generated code means mapping memory and calling an address")]

use codegen::back::interp::Value;
use ir::code::Code;
use ir::kernel::Kernel;

/// A blob in executable memory.
pub(crate) struct Mapped {
    base: *mut libc::c_void,
    bytes: usize,
    code: Code,
}

impl Mapped {
    pub(crate) fn new(code: Code) -> Self {
        code.check().expect("emitted code is well-formed");
        let bytes = code.bytes.len().max(1);
        // SAFETY: a fresh private mapping, filled before it becomes executable.
        let base = unsafe {
            let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS;
            let base = libc::mmap(std::ptr::null_mut(), bytes, libc::PROT_READ | libc::PROT_WRITE, flags, -1, 0);
            assert_ne!(base, libc::MAP_FAILED, "mmap of {bytes} bytes");
            std::ptr::copy_nonoverlapping(code.bytes.as_ptr(), base.cast(), code.bytes.len());
            assert_eq!(libc::mprotect(base, bytes, libc::PROT_READ | libc::PROT_EXEC), 0);
            base
        };
        Self { base, bytes, code }
    }

    /// Runs `kernel` for all threads in order. Buffers are given at an odd distance from any alignment.
    pub(crate) fn run(&self, kernel: &Kernel, args: &mut [Value], team: i64, misalign: usize) {
        let offset = self.code.offset(&kernel.name).expect("the kernel was compiled");
        let mut copies: Vec<Vec<u8>> = Vec::new();
        for arg in args.iter() {
            let Value::Buffer(bytes) = arg else { continue };
            let mut copy = vec![0xA5; misalign];
            copy.extend_from_slice(bytes);
            copy.extend_from_slice(&[0x5A; 64]);
            copies.push(copy);
        }
        let mut pointers = copies.iter_mut().map(|copy| copy[misalign..].as_mut_ptr() as u64);
        let words: Vec<u64> = args
            .iter()
            .map(|arg| match arg {
                Value::Buffer(_) => pointers.next().expect("one copy per buffer"),
                Value::I64(v) => *v as u64,
                Value::F32(v) => u64::from(v.to_bits()) | 0xDEAD_BEEF_0000_0000,
            })
            .collect();
        // SAFETY: the symbol is a kernel of this signature, compiled for features this machine was asked for, and the
        // interpreter has shown that it stays inside the buffers.
        unsafe {
            let entry: extern "C" fn(*const u64, i64, i64) =
                std::mem::transmute(self.base.cast::<u8>().add(offset as usize));
            for tid in 0..team {
                entry(words.as_ptr(), tid, team);
            }
        }
        let mut copies = copies.into_iter();
        for arg in args.iter_mut() {
            let Value::Buffer(bytes) = arg else { continue };
            let copy = copies.next().expect("one copy per buffer");
            let end = misalign + bytes.len();
            assert!(copy[..misalign].iter().all(|b| *b == 0xA5), "wrote before a buffer");
            assert!(copy[end..].iter().all(|b| *b == 0x5A), "wrote behind a buffer");
            bytes.copy_from_slice(&copy[misalign..end]);
        }
    }
}

impl Drop for Mapped {
    fn drop(&mut self) {
        // SAFETY: the mapping made in `new`.
        unsafe { libc::munmap(self.base, self.bytes) };
    }
}
