//! A role at run time: its model with the sequences that are kept for reuse, its codec, its written answers.
//!
//! A finished prompt or answer stays cached; the next prompt starts from the longest cached prefix. The cache is small,
//! gives way when pages run out, and never changes a token: a fork holds the very keys that computing anew would give. So of
//! an answer only the tokens are kept that attended to everything, as those of a prompt do.

use super::{RunError, TextCodec};
use crate::error::Error;
use crate::grammar::Grammars;
use crate::model::{Append, LanguageModel, Row, SeqId, Wanted};
use crate::sample::{Choice, Draw};
use crate::script::Script;
use ir::plan::PrefixMode;
use ir::strategy::Binding;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// Sequences kept for reuse.
const KEPT: usize = 8;

/// A role of the strategy at run time.
pub(crate) struct RoleState {
    /// Name.
    pub(crate) name: String,
    /// Verifier it is bound to, if any.
    pub(crate) binding: Option<Binding>,
    /// Model, if it has one.
    pub(crate) model: Option<Mutex<Host>>,
    /// Codec of the model.
    pub(crate) codec: Option<Arc<dyn TextCodec>>,
    /// Enforceable formats over the codec's vocabulary.
    pub(crate) grammars: Option<Arc<Grammars>>,
    /// Written answers, when the role is mocked.
    pub(crate) script: Option<Arc<Script>>,
}

impl RoleState {
    /// The model.
    pub(crate) fn host(&self) -> Result<MutexGuard<'_, Host>, RunError> {
        let missing = || self.lacks("has no model; bind it to a GGUF file");
        Ok(self.model.as_ref().ok_or_else(missing)?.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// The codec.
    pub(crate) fn codec(&self) -> Result<&Arc<dyn TextCodec>, RunError> {
        self.codec.as_ref().ok_or_else(|| self.lacks("has no tokenizer; bind it to a GGUF file"))
    }

    /// An error about what the role lacks.
    pub(crate) fn lacks(&self, cause: &str) -> RunError {
        RunError::Role { role: self.name.clone(), cause: cause.to_owned() }
    }

    /// An error of its model.
    pub(crate) fn failed(&self, source: Error) -> RunError {
        match source {
            Error::Cancelled => RunError::Cancelled,
            source => RunError::Model { role: self.name.clone(), source },
        }
    }
}

/// A model and its kept sequences.
pub(crate) struct Host {
    model: Box<dyn LanguageModel>,
    kept: Vec<Kept>,
    clock: u64,
}

struct Kept {
    tokens: Vec<u32>,
    seq: SeqId,
    used: u64,
}

impl Host {
    /// A model without kept sequences.
    pub(crate) fn new(model: Box<dyn LanguageModel>) -> Self {
        Self { model, kept: Vec::new(), clock: 0 }
    }

    /// The model.
    pub(crate) fn model(&self) -> &dyn LanguageModel {
        &*self.model
    }

    /// How the keys of shared prompts are treated from now on.
    pub(crate) fn place_prompts(&mut self, mode: PrefixMode) {
        self.model.place_prompts(mode);
    }

    /// A new sequence that holds the longest kept prefix of the prompt, and that prefix's length; at least one token of
    /// the prompt is left to compute.
    pub(crate) fn begin(&mut self, prompt: &[u32]) -> Result<(SeqId, usize), Error> {
        let most = prompt.len().saturating_sub(1);
        let shared = |kept: &Kept| kept.tokens.iter().zip(&prompt[..most]).take_while(|(a, b)| a == b).count();
        let best = self.kept.iter_mut().map(|k| (shared(k), k)).max_by_key(|(n, k)| (*n, k.used));
        if let Some((n @ 1.., kept)) = best {
            self.clock += 1;
            kept.used = self.clock;
            let from = kept.seq;
            let seq = self.fork(from)?;
            if self.model.len(seq) > n
                && let Err(e) = self.model.truncate(seq, n)
            {
                self.model.free(seq);
                return Err(e);
            }
            return Ok((seq, n));
        }
        Ok((self.create()?, 0))
    }

    /// A new sequence that holds nothing; kept sequences give way.
    pub(crate) fn create(&mut self) -> Result<SeqId, Error> {
        match self.model.create() {
            Err(_) if !self.kept.is_empty() => {
                self.forget();
                self.model.create()
            }
            other => other,
        }
    }

    /// Keeps a sequence whose tokens are these, the first `given` of them a prompt and the others decoded, or gives it back
    /// when it cannot be reused.
    pub(crate) fn keep(&mut self, seq: SeqId, mut tokens: Vec<u32>, given: usize) {
        let len = self.model.len(seq);
        tokens.truncate(len.min(given.max(self.model.dense_tokens())));
        let known = |k: &Kept| k.tokens.starts_with(&tokens);
        if self.model.answers_differ() || tokens.is_empty() || self.kept.iter().any(known) {
            self.model.free(seq);
            return;
        }
        if tokens.len() < len && self.model.truncate(seq, tokens.len()).is_err() {
            self.model.free(seq);
            return;
        }
        if self.kept.len() >= KEPT
            && let Some(oldest) = (0..self.kept.len()).min_by_key(|&i| self.kept[i].used)
        {
            let old = self.kept.swap_remove(oldest);
            self.model.free(old.seq);
        }
        self.clock += 1;
        self.kept.push(Kept { tokens, seq, used: self.clock });
    }

    /// Gives all kept sequences back.
    pub(crate) fn forget(&mut self) {
        for kept in self.kept.drain(..) {
            self.model.free(kept.seq);
        }
    }

    /// Gives a sequence back.
    pub(crate) fn free(&mut self, seq: SeqId) {
        self.model.free(seq);
    }

    /// Forks; kept sequences give way when nothing is free.
    pub(crate) fn fork(&mut self, seq: SeqId) -> Result<SeqId, Error> {
        match self.model.fork(seq) {
            Err(Error::OutOfPages { .. } | Error::Sequence { .. }) if self.can_forget(seq) => {
                self.forget_but(seq);
                self.model.fork(seq)
            }
            other => other,
        }
    }

    /// A step; kept sequences give way when no page is free.
    pub(crate) fn step(
        &mut self,
        appends: &[Append<'_>],
        sink: &mut dyn FnMut(usize, usize, Row<'_>),
    ) -> Result<(), Error> {
        self.giving_way(|model| model.step(appends, sink))
    }

    /// A step of callers that meet, each with its own placement of prompts; kept sequences give way when no page is free.
    pub(crate) fn step_placed(
        &mut self,
        appends: &[Append<'_>],
        modes: &[PrefixMode],
        sink: &mut dyn FnMut(usize, usize, Row<'_>),
    ) -> Result<(), Error> {
        self.giving_way(|model| model.step_placed(appends, modes, sink))
    }

    /// A step that chooses tokens; kept sequences give way when no page is free.
    pub(crate) fn step_and_choose(
        &mut self,
        appends: &[Append<'_>],
        look: &mut dyn FnMut(usize, Row<'_>) -> Option<Draw>,
    ) -> Result<Vec<Option<Choice>>, Error> {
        self.giving_way(|model| model.step_and_choose(appends, look))
    }

    /// Runs again without kept sequences when no page is free; what failed had changed nothing.
    fn giving_way<T>(&mut self, mut run: impl FnMut(&mut dyn LanguageModel) -> Result<T, Error>) -> Result<T, Error> {
        match run(&mut *self.model) {
            Err(Error::OutOfPages { .. }) if !self.kept.is_empty() => {
                self.forget();
                run(&mut *self.model)
            }
            other => other,
        }
    }

    /// Chooses tokens from rows of earlier steps.
    pub(crate) fn choose(&mut self, rows: &[Row<'_>], draws: &[(usize, Draw)]) -> Result<Vec<Option<Choice>>, Error> {
        self.model.choose(rows, draws)
    }

    /// Appends a prompt's rest to a sequence in pieces, asking `go_on` between them; the last token's row goes to `sink`
    /// when it is wanted.
    pub(crate) fn prefill(
        &mut self,
        seq: SeqId,
        tokens: &[u32],
        chunk: usize,
        wanted: Wanted,
        go_on: &mut dyn FnMut(u64) -> bool,
        sink: &mut dyn FnMut(Row<'_>),
    ) -> Result<(), Error> {
        let mut pieces = tokens.chunks(chunk.max(1)).peekable();
        while let Some(piece) = pieces.next() {
            if !go_on(self.model.kv_bytes()) {
                return Err(Error::Cancelled);
            }
            let wanted = if pieces.peek().is_none() { wanted } else { Wanted::None };
            self.step(&[Append { seq, tokens: piece, wanted, decoded: false }], &mut |_, _, row| sink(row))?;
        }
        Ok(())
    }

    fn can_forget(&self, but: SeqId) -> bool {
        self.kept.iter().any(|k| k.seq != but)
    }

    fn forget_but(&mut self, but: SeqId) {
        let (stay, go): (Vec<Kept>, Vec<Kept>) = self.kept.drain(..).partition(|k| k.seq == but);
        for kept in go {
            self.model.free(kept.seq);
        }
        self.kept = stay;
    }
}

impl Drop for Host {
    fn drop(&mut self) {
        self.forget();
    }
}
