//! Why a GGUF file was refused: the file, the place in it, the cause, and what to do about it.
//!
//! Takes nothing, returns text safe to print: whatever comes from the file is escaped and cut.

use std::path::PathBuf;

/// A refused GGUF file.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
#[error("{}: {place}: {fault}; {}", file.display(), fault.remedy())]
pub struct GgufError {
    /// The file as it was named.
    pub file: PathBuf,
    /// Where in it: a byte offset, a key or a tensor.
    pub place: String,
    /// What is wrong.
    pub fault: Fault,
}

/// What is wrong with a GGUF file.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
pub enum Fault {
    /// The operating system refused.
    #[error("cannot be read: {0}")]
    Io(String),
    /// A directory, device, pipe or socket.
    #[error("not a regular file")]
    NotRegular,
    /// Length or modification time differ from those at opening.
    #[error("the file changed while it was in use")]
    Changed,
    /// The first four bytes are not `GGUF`.
    #[error("no GGUF file: it begins with {0:02x?}")]
    Magic([u8; 4]),
    /// The version field is byte-swapped.
    #[error("big-endian GGUF (version {0})")]
    BigEndian(u32),
    /// A version other than 2 and 3.
    #[error("GGUF version {0} is not supported")]
    Version(u32),
    /// Fewer bytes left than a field or a count needs.
    #[error("truncated at byte {len}: {need} bytes needed, {left} left")]
    Truncated {
        /// Length of the file.
        len: u64,
        /// Bytes needed at the place (saturated).
        need: u64,
        /// Bytes left there.
        left: u64,
    },
    /// A count above a documented cap.
    #[error("{count} {what}, more than the limit of {cap}")]
    TooMany {
        /// What is counted.
        what: &'static str,
        /// The count in the file.
        count: u64,
        /// The limit.
        cap: u64,
    },
    /// A name or string that cannot be one.
    #[error("bad name: {0}")]
    Name(&'static str),
    /// The same name twice.
    #[error("duplicate")]
    Duplicate,
    /// An unknown metadata type number.
    #[error("unknown metadata value type {0}")]
    ValueType(u32),
    /// A boolean other than 0 and 1.
    #[error("a boolean holds {0}")]
    Bool(u8),
    /// A metadata value of another type, or out of range.
    #[error("expected {expected}, found {found}")]
    Type {
        /// What was asked for.
        expected: &'static str,
        /// What the file holds.
        found: String,
    },
    /// A key or tensor that must be there.
    #[error("missing")]
    Missing,
    /// A tensor type that this program does not read.
    #[error("tensor type {name} (number {code}) is not supported")]
    DType {
        /// Its name where known.
        name: &'static str,
        /// Its number.
        code: u32,
    },
    /// Rows that are no whole number of blocks, or a size beyond 64 bits.
    #[error("shape {dims:?} does not fit type {dtype} with blocks of {block}")]
    Size {
        /// The shape.
        dims: Vec<u64>,
        /// Type name.
        dtype: &'static str,
        /// Weights per block.
        block: usize,
    },
    /// A tensor's data does not begin where the one before it ends.
    #[error("data offset {found} where {expected} was expected")]
    Offset {
        /// End of the previous tensor, aligned.
        expected: u64,
        /// Offset in the file.
        found: u64,
    },
    /// Bytes after the last tensor.
    #[error("{0} bytes after the last tensor")]
    Trailing(u64),
    /// One part of a model that is split over files.
    #[error("one of {0} parts of a split model (split.count)")]
    Split(u64),
    /// An architecture that is not supported.
    #[error("architecture `{0}` is not supported (llama and qwen2 are)")]
    Architecture(String),
    /// Metadata and tensors that contradict each other or reason.
    #[error("{0}")]
    Sanity(String),
}

impl Fault {
    /// What a person can do about it.
    #[must_use]
    pub fn remedy(&self) -> &'static str {
        match self {
            Self::Io(_) => "check the path and its permissions",
            Self::NotRegular => "give the path of a GGUF file",
            Self::Changed => "do not write a model file while it is in use; load it again",
            Self::Magic(_) => "give a GGUF file; other formats are converted with `convert_hf_to_gguf.py`",
            Self::BigEndian(_) => "convert it with `gguf_convert_endian.py FILE little`",
            Self::Version(_) => "convert the model again with a current GGUF writer (version 3)",
            Self::Truncated { .. } => "download the file again and compare its checksum",
            Self::Split(_) => "merge the parts with `llama-gguf-split --merge`",
            Self::DType { .. } => "use a file in F32, F16, BF16, Q8_0, Q4_0, Q4_1, Q5_0, Q5_1, Q4_K, Q5_K or Q6_K",
            Self::Architecture(_) | Self::Sanity(_) => "use a model of a supported family",
            Self::TooMany { .. }
            | Self::Name(_)
            | Self::Duplicate
            | Self::ValueType(_)
            | Self::Bool(_)
            | Self::Type { .. }
            | Self::Missing
            | Self::Size { .. }
            | Self::Offset { .. }
            | Self::Trailing(_) => "the file is damaged or was written wrongly: get it again or convert it again",
        }
    }
}

/// A name out of a file, fit for a terminal: escaped, at most 80 characters.
#[must_use]
pub(crate) fn printable(name: &str) -> String {
    let mut out: String = name.chars().take(80).flat_map(char::escape_debug).collect();
    if name.chars().nth(80).is_some() {
        out.push('…');
    }
    out
}
