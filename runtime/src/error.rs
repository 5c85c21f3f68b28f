//! What can go wrong at run time: one enum. Every message names the place, the cause and what to do about it.
//!
//! Modules that read files have error types of their own; they are wrapped here unchanged.

use crate::gguf::GgufError;
use crate::weights::WeightError;

/// A failure of the runtime.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The model file.
    #[error(transparent)]
    Gguf(#[from] GgufError),
    /// A weight that the program wants and the file does not give.
    #[error(transparent)]
    Weights(#[from] WeightError),
    /// The operating system gave no memory, no threads or no right to use them.
    #[error(
        "{what} ({bytes} bytes): {cause}; free memory or lower the number of live sequences, the context or the threads"
    )]
    System {
        /// What was wanted.
        what: &'static str,
        /// How much of it (0 where a size makes no sense).
        bytes: u64,
        /// What the system said.
        cause: std::io::Error,
    },
    /// Machine code that cannot be used.
    #[error("machine code, {place}: {cause}; compile the plan again with this version")]
    Code {
        /// Kernel or section.
        place: String,
        /// What is wrong.
        cause: String,
    },
    /// A forward program that contradicts itself or the model.
    #[error("forward program, {place}: {cause}; compile the plan again with this version for this model")]
    Program {
        /// Launch, buffer or weight.
        place: String,
        /// What is wrong.
        cause: String,
    },
    /// A thread of the team panicked; the step is lost, the next one gets a new team.
    #[error("thread {member} of the team stopped while running a kernel: {cause}; run the request again")]
    Team {
        /// Number of the thread in its team.
        member: usize,
        /// Its last words.
        cause: String,
    },
    /// A request about a sequence that cannot be met.
    #[error("sequence {seq}: {cause}")]
    Sequence {
        /// The sequence's number.
        seq: u32,
        /// What is wrong and what to do.
        cause: String,
    },
    /// No free pages for keys and values.
    #[error(
        "{needed} more pages of keys and values are needed and {free} of {total} are free; free sequences, shorten them or plan with a larger KV budget"
    )]
    OutOfPages {
        /// Pages the request needs.
        needed: usize,
        /// Pages that are free.
        free: usize,
        /// Pages of the pool.
        total: usize,
    },
    /// The caller asked to stop.
    #[error("cancelled; nothing was changed")]
    Cancelled,
}

/// Results of the runtime.
pub type Result<T> = std::result::Result<T, Error>;
