//! Machine code as bytes: what back ends hand over and a loader maps.
//!
//! There is one form. [`Code::bytes`] is position-independent and self-contained: machine code and the constants it
//! reads, no relocations left, no outside symbols, nothing written. A loader copies it to memory aligned to
//! [`Code::ALIGN`], makes that readable and executable, and calls `base + offset` of a symbol with the floating-point
//! environment a thread starts with (nearest even, denormals kept). Symbols are the names of [`crate::kernel::Kernel`]s.
//! What this type does not do: map, run, or say which instruction set the code needs.

use serde::{Deserialize, Serialize};

/// A blob of machine code. Each symbol is `extern "C" fn(args: *const u64, tid: i64, team: i64)` (System V).
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Code {
    /// Names of kernels and their offsets in `bytes`, in rising order of offset.
    pub symbols: Vec<(String, u64)>,
    /// Code and constants.
    pub bytes: Vec<u8>,
}

impl Code {
    /// Alignment that the first byte needs in memory.
    pub const ALIGN: usize = 64;

    /// Offset of a kernel, if it is here.
    #[must_use]
    pub fn offset(&self, name: &str) -> Option<u64> {
        self.symbols.iter().find(|(symbol, _)| symbol == name).map(|(_, offset)| *offset)
    }

    /// Puts another blob behind this one, at the next multiple of [`Code::ALIGN`].
    pub fn append(&mut self, other: Self) {
        self.bytes.resize(self.bytes.len().next_multiple_of(Self::ALIGN), 0xCC);
        let base = self.bytes.len() as u64;
        self.symbols.extend(other.symbols.into_iter().map(|(name, offset)| (name, base + offset)));
        self.bytes.extend_from_slice(&other.bytes);
    }

    /// Well-formedness of a blob from outside: every symbol starts inside the bytes and names are unique.
    ///
    /// # Errors
    /// A sentence that names the first offending symbol.
    pub fn check(&self) -> Result<(), String> {
        for (i, (name, offset)) in self.symbols.iter().enumerate() {
            if *offset >= self.bytes.len() as u64 {
                return Err(format!("kernel `{name}` starts at {offset}, outside {} bytes of code", self.bytes.len()));
            }
            if self.symbols[..i].iter().any(|(other, _)| other == name) {
                return Err(format!("kernel `{name}` is there twice"));
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn append_aligns_and_shifts() {
        let mut a = Code { symbols: vec![("a".into(), 0)], bytes: vec![1; 70] };
        a.append(Code { symbols: vec![("b".into(), 4)], bytes: vec![2; 8] });
        assert_eq!((a.offset("a"), a.offset("b"), a.offset("c")), (Some(0), Some(132), None));
        assert_eq!(a.bytes.len(), 136);
        assert_eq!(a.bytes[128], 2);
        assert_eq!(a.check(), Ok(()));
    }

    #[test]
    fn check_rejects_wild_symbols() {
        let wild = Code { symbols: vec![("k".into(), 9)], bytes: vec![0; 9] };
        assert!(wild.check().is_err_and(|e| e.contains("`k`")));
        let twice = Code { symbols: vec![("k".into(), 0), ("k".into(), 1)], bytes: vec![0; 9] };
        assert!(twice.check().is_err());
    }
}
