//! Why a tokenizer cannot be made or a text cannot be encoded: file, key, cause, remedy.

use crate::gguf::{Fault, GgufError, printable};
use std::path::PathBuf;

/// A refused tokenizer or text.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
#[error("{}: {place}: {fault}; {}", file.display(), fault.remedy())]
pub struct TokenizerError {
    /// The model file.
    pub file: PathBuf,
    /// Metadata key, or `text` when encoding.
    pub place: String,
    /// What is wrong.
    pub fault: TokenizerFault,
}

/// What is wrong with a tokenizer.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
pub enum TokenizerFault {
    /// A metadata value is absent, of another type or damaged.
    #[error("{0}")]
    Metadata(Fault),
    /// A kind of tokenizer that is not supported.
    #[error("tokenizer kind `{0}` is not supported (gpt2 and llama are)")]
    Model(String),
    /// A pre-tokenizer that is not known: guessing one gives wrong tokens silently.
    #[error("pre-tokenizer `{0}` is not supported")]
    Pre(String),
    /// Arrays that must be equally long are not.
    #[error("{found} entries for {expected} tokens")]
    Length {
        /// Tokens.
        expected: usize,
        /// Entries.
        found: usize,
    },
    /// More than a documented cap.
    #[error("{what} {found} is above the limit of {cap}")]
    TooLarge {
        /// What is counted.
        what: &'static str,
        /// The count.
        found: usize,
        /// The limit.
        cap: usize,
    },
    /// A token id outside the vocabulary.
    #[error("token id {id} is outside the vocabulary of {vocab}")]
    Id {
        /// The id.
        id: u32,
        /// Vocabulary size.
        vocab: usize,
    },
    /// A token type number that does not exist.
    #[error("token {0} has unknown type {1}")]
    Type(usize, i32),
    /// A merge rule that cannot be one.
    #[error("merge {index} `{rule}`: {what}")]
    Merge {
        /// Its place in the list.
        index: usize,
        /// The rule, escaped and cut.
        rule: String,
        /// What is wrong with it.
        what: &'static str,
    },
    /// The tokenizer library refused.
    #[error("{0}")]
    Library(String),
}

impl TokenizerFault {
    /// What a person can do about it.
    #[must_use]
    pub fn remedy(&self) -> &'static str {
        match self {
            Self::Model(_) | Self::Pre(_) => "use a model with a supported tokenizer",
            Self::Library(_) => "shorten the text or split it",
            Self::Metadata(_)
            | Self::Length { .. }
            | Self::TooLarge { .. }
            | Self::Id { .. }
            | Self::Type(..)
            | Self::Merge { .. } => "the file is damaged or was converted wrongly: get it again or convert it again",
        }
    }
}

impl From<GgufError> for TokenizerError {
    fn from(e: GgufError) -> Self {
        Self { file: e.file, place: e.place, fault: TokenizerFault::Metadata(e.fault) }
    }
}

/// A fault of merge rule `index`.
pub(super) fn merge_fault(index: usize, rule: &str, what: &'static str) -> TokenizerFault {
    TokenizerFault::Merge { index, rule: printable(rule), what }
}
