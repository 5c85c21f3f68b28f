//! What the strategy interpreter asks of a language model: sequences that share a prefix, and steps over many of them.
//!
//! Two implementations: `forward::LocalModel` (compiled kernels over a paged KV cache) and `script::ScriptedModel`
//! (written answers, for `test` blocks and for tests without a model).

use crate::error::Error;
use crate::sample::{Choice, Draw};
use ir::plan::PrefixMode;

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
    /// Whether the token (there is only one then) was drawn and continues its sequence: such a one may attend to a part of
    /// what is before it, where the model does so. False for prompts and given texts, however few tokens are left of them:
    /// these always attend to everything. A caller says it because no length could: the last token of a prompt whose rest
    /// is cached is alone, too.
    pub decoded: bool,
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

/// A row that outlives its step.
#[derive(Clone, Debug, Default)]
pub struct OwnedRow {
    logits: Vec<f32>,
    max: f32,
    log_z: f32,
    entropy: f32,
    argmax: u32,
}

impl OwnedRow {
    /// A copy of a row.
    #[must_use]
    pub fn of(row: &Row<'_>) -> Self {
        let Row { logits, max, log_z, entropy, argmax } = *row;
        Self { logits: logits.to_vec(), max, log_z, entropy, argmax }
    }

    /// The row.
    #[must_use]
    pub fn row(&self) -> Row<'_> {
        let Self { logits, max, log_z, entropy, argmax } = self;
        Row { logits, max: *max, log_z: *log_z, entropy: *entropy, argmax: *argmax }
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
    /// order of appends and tokens. A row's bits depend on its sequence alone: on the tokens, and on which of those from
    /// [`LanguageModel::dense_tokens`] on were decoded; not on how they were appended or on what else is in the step.
    ///
    /// # Errors
    /// When pages run out, a context is exceeded, a decoded append has several tokens, or the step was cancelled. No
    /// sequence is changed then.
    fn step(&mut self, appends: &[Append<'_>], sink: &mut dyn FnMut(usize, usize, Row<'_>)) -> Result<(), Error>;

    /// As [`LanguageModel::step`], for appends of callers that meet: `modes[i]` is how append `i` treats the keys of a shared
    /// prompt, whatever mode is set. For speed only, the results are the same bits.
    ///
    /// # Errors
    /// As [`LanguageModel::step`].
    fn step_placed(
        &mut self,
        appends: &[Append<'_>],
        _modes: &[PrefixMode],
        sink: &mut dyn FnMut(usize, usize, Row<'_>),
    ) -> Result<(), Error> {
        self.step(appends, sink)
    }

    /// Chooses tokens from rows that outlived their step: one per draw, which names its row. `None` when the row is not
    /// sound or no allowed token is possible. The bits of a choice do not depend on what else is chosen.
    ///
    /// # Errors
    /// When the step was cancelled or a draw names no row.
    fn choose(&mut self, rows: &[Row<'_>], draws: &[(usize, Draw)]) -> Result<Vec<Option<Choice>>, Error>;

    /// A step that also chooses tokens: `look(append, row)` sees the row after the last token of each append that wants
    /// one, in order, and says how to choose from it, if at all. One answer per append.
    ///
    /// # Errors
    /// As [`LanguageModel::step`] and [`LanguageModel::choose`].
    fn step_and_choose(
        &mut self,
        appends: &[Append<'_>],
        look: &mut dyn FnMut(usize, Row<'_>) -> Option<Draw>,
    ) -> Result<Vec<Option<Choice>>, Error> {
        let (mut rows, mut draws, mut owners) = (Vec::new(), Vec::new(), Vec::new());
        self.step(appends, &mut |append, token, row| {
            if token + 1 == appends[append].tokens.len()
                && let Some(draw) = look(append, row)
            {
                draws.push((rows.len(), draw));
                rows.push(OwnedRow::of(&row));
                owners.push(append);
            }
        })?;
        let rows: Vec<Row<'_>> = rows.iter().map(OwnedRow::row).collect();
        let mut choices = vec![None; appends.len()];
        for (owner, choice) in owners.into_iter().zip(self.choose(&rows, &draws)?) {
            choices[owner] = choice;
        }
        Ok(choices)
    }

    /// How forks and steps treat the keys of shared prompts from now on; for speed only, the results are the same bits.
    fn place_prompts(&mut self, _mode: PrefixMode) {}

    /// Bytes of KV in use now.
    fn kv_bytes(&self) -> u64;

    /// Tokens at the start of a sequence that attend to everything before them even when they are decoded: their keys are
    /// the same as a prompt's. Decoded ones behind them may attend to a part, so that the keys of a prompt of the same
    /// tokens would be others.
    fn dense_tokens(&self) -> usize {
        usize::MAX
    }

    /// True when sequences with equal tokens may be continued differently, as written answers are: no two sequences may
    /// share the row after their prompt then, and none is kept for reuse.
    fn answers_differ(&self) -> bool {
        false
    }
}
