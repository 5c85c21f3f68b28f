//! What the strategy interpreter asks of a language model: sequences that share a prefix, and steps over many of them.
//!
//! Two implementations: `forward::LocalModel` (compiled kernels over a paged KV cache) and `script::ScriptedModel`
//! (written answers, for `test` blocks and for tests without a model).

use crate::error::Error;

/// A sequence of a model: tokens whose keys and values are cached.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SeqId(pub u32);

/// Which logits an append wants.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Wanted {
    /// None.
    None,
    /// After the last token.
    Last,
    /// After every token.
    All,
}

/// Tokens to append to a sequence in a step.
#[derive(Clone, Copy, Debug)]
pub struct Append<'a> {
    /// The sequence; at most one append of a step names it.
    pub seq: SeqId,
    /// Tokens, at least one.
    pub tokens: &'a [u32],
    /// Logits to deliver.
    pub wanted: Wanted,
}

/// Logits after one token.
#[derive(Clone, Copy, Debug)]
pub struct Row<'a> {
    /// One per vocabulary entry.
    pub logits: &'a [f32],
    /// Largest logit.
    pub max: f32,
    /// ln Σ exp(logit).
    pub log_z: f32,
    /// Shannon entropy of the distribution, nats.
    pub entropy: f32,
    /// Index of the largest logit (the lowest of equals).
    pub argmax: u32,
}

impl Row<'_> {
    /// False when the model produced NaN or infinite logits: an error of this sequence alone.
    #[must_use]
    pub fn is_sound(&self) -> bool {
        self.max.is_finite() && self.log_z.is_finite()
    }
}

/// Sizes a caller needs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ModelInfo {
    /// Vocabulary size.
    pub vocab: usize,
    /// Longest sequence, in tokens.
    pub context: usize,
    /// Bytes of KV per token.
    pub kv_bytes_per_token: u64,
    /// Tokens per KV page.
    pub page: usize,
    /// Tokens of one step at most; longer appends are cut into steps by the implementation.
    pub max_rows: usize,
}

/// A language model with sequences.
pub trait LanguageModel: Send {
    /// Its sizes.
    fn info(&self) -> &ModelInfo;

    /// An empty sequence.
    ///
    /// # Errors
    /// When no more sequences can be held.
    fn create(&mut self) -> Result<SeqId, Error>;

    /// A copy of a sequence that shares its pages until either is extended.
    ///
    /// # Errors
    /// When the sequence is unknown or no page is left for the copied tail.
    fn fork(&mut self, seq: SeqId) -> Result<SeqId, Error>;

    /// Number of tokens of a sequence.
    fn len(&self, seq: SeqId) -> usize;

    /// Drops the tokens from `len` on.
    ///
    /// # Errors
    /// When the sequence is unknown.
    fn truncate(&mut self, seq: SeqId, len: usize) -> Result<(), Error>;

    /// Gives a sequence and its pages back.
    fn free(&mut self, seq: SeqId);

    /// Appends tokens to several sequences together and delivers the wanted logits: `sink(append, token, row)`, in the
    /// order of appends and tokens. A row's bits do not depend on what else is in the step.
    ///
    /// # Errors
    /// When pages run out, a context is exceeded, or the step was cancelled. No sequence is changed then.
    fn step(&mut self, appends: &[Append<'_>], sink: &mut dyn FnMut(usize, usize, Row<'_>)) -> Result<(), Error>;

    /// Bytes of KV in use now.
    fn kv_bytes(&self) -> u64;

    /// True when sequences with equal tokens may be continued differently, as written answers are: no two sequences may
    /// share the row after their prompt then, and none is kept for reuse.
    fn answers_differ(&self) -> bool {
        false
    }
}
