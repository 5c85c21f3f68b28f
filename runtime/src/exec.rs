//! The interpreter of plans: walks the strategy's skeleton and carries out its effects on language models.
//!
//! Takes a plan, the models and codecs of its roles, arguments and a seed (`session` puts them together); returns the
//! strategy's value or a [`Failure`] that names cause and place. Blocking and deterministic: tokens depend on the seed,
//! the site, the sequence and the position, never on batching, waves, reuse of prefixes or time.
//! Deliberately absent: choices of schedule (they are in the plan), files, printing.
//!
//! Rooms: `interp` (regions and operations), `prims`, `builtins`, `select` (pure operations), `site`, `generate`, `decide`, `sequence`,
//! `rules`, `format` (sampling sites), `scoring` (choices, expectations, log-probabilities), `judge` (verdicts, of one
//! candidate or of a list at once), `host` (a model and its cached
//! sequences), `guard` (budgets),
//! `meeting` (arms of `par` that decode together).

mod builtins;
mod decide;
mod format;
mod generate;
mod guard;
mod host;
mod interp;
mod judge;
mod meeting;
mod prims;
mod rules;
mod scoring;
mod select;
mod sequence;
mod site;

pub(crate) use crate::exec::guard::Guard;
pub(crate) use crate::exec::host::{Host, RoleState};
pub(crate) use crate::exec::interp::{Flow, Interp, Run, functions};
pub use crate::exec::rules::{Fired, TokenRules, evaluate as evaluate_token_region};

use crate::value::{EndReason, ValueError};
use crate::verify::{CommandLimits, VerifyError};
use ir::strategy::Speaker;
use std::borrow::Cow;
use std::sync::atomic::AtomicBool;

/// A message for a chat template.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ChatMessage<'a> {
    /// Who speaks.
    pub speaker: Speaker,
    /// What is said.
    pub text: &'a str,
}

/// Text to tokens and back, for one model.
pub trait TextCodec: Send + Sync {
    /// Token ids of a conversation, with the opening of the assistant's answer when asked for.
    ///
    /// # Errors
    /// The cause, as a sentence: a template that fails, text that has no tokens.
    fn encode_chat(&self, messages: &[ChatMessage<'_>], add_generation_prompt: bool) -> Result<Vec<u32>, String>;

    /// Token ids of plain text: no begin or end tokens, and control tokens are not recognised in it.
    ///
    /// # Errors
    /// The cause, as a sentence.
    fn encode(&self, text: &str) -> Result<Vec<u32>, String>;

    /// The bytes a token stands for in text; empty for control tokens and ids outside the vocabulary.
    fn token_bytes(&self, id: u32) -> Cow<'_, [u8]>;

    /// Tokens that end the assistant's turn, at least one.
    fn end_tokens(&self) -> &[u32];

    /// Number of token ids.
    fn vocabulary(&self) -> usize;
}

/// How to run, besides the plan.
#[derive(Clone, Debug, Default)]
pub struct Options {
    /// Price of the machine, US dollars per second: what `usd` budgets are measured by.
    pub usd_per_second: f64,
    /// Limits of a host program, for each candidate that it judges.
    pub command: CommandLimits,
    /// Further limit on the wall time of the run, seconds.
    pub timeout: Option<f64>,
}

/// What happens during a run, in order.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub enum Event<'a> {
    /// The run starts.
    Started {
        /// Strategy.
        strategy: &'a str,
        /// Seed.
        seed: u64,
    },
    /// A prompt is in the model's cache.
    Prefilled {
        /// Site.
        site: u32,
        /// Role.
        role: &'a str,
        /// Tokens of the prompt.
        tokens: usize,
        /// Tokens that were cached already.
        reused: usize,
        /// Seconds.
        seconds: f64,
    },
    /// Sequences start.
    WaveStarted {
        /// Site.
        site: u32,
        /// Number of the wave, from 0.
        wave: u32,
        /// Sequences.
        sequences: u32,
    },
    /// A token was chosen.
    Token {
        /// Site.
        site: u32,
        /// Sequence.
        seq: u32,
        /// Token id.
        token: u32,
        /// Its log-probability.
        logprob: f32,
        /// Text it completes.
        text: &'a str,
        /// Sequences alive at the site.
        live: u32,
    },
    /// A sequence forked.
    Branched {
        /// Site.
        site: u32,
        /// The forking sequence.
        parent: u32,
        /// The new one.
        child: u32,
        /// Tokens they share.
        position: u32,
    },
    /// A rule fired.
    RuleFired {
        /// Site.
        site: u32,
        /// Rule, by its place.
        rule: u32,
        /// Sequence, or `None` for rules over the set.
        seq: Option<u32>,
        /// Tokens of that sequence so far.
        position: u32,
    },
    /// A sequence ended.
    SequenceEnded {
        /// Site.
        site: u32,
        /// Sequence.
        seq: u32,
        /// Why.
        reason: EndReason,
        /// Its tokens.
        tokens: u32,
    },
    /// A score, choice, expectation or log-probability was taken.
    Scored {
        /// Site.
        site: u32,
        /// Result.
        score: f64,
        /// Why there was no verdict, if there was none.
        inconclusive: Option<&'a str>,
        /// Seconds.
        seconds: f64,
    },
    /// A route was decided.
    Routed {
        /// The label of the arm that runs, or `None` for `else`.
        arm: Option<&'a str>,
        /// Probability of the most probable label.
        probability: f64,
    },
    /// A budget ran out and the alternative runs.
    BudgetTripped {
        /// Which limit: `tokens`, `calls`, `time`, `usd`, `kv`.
        limit: &'static str,
    },
    /// The run is over.
    Done {
        /// Seconds.
        seconds: f64,
        /// Sampled tokens.
        tokens: u64,
    },
}

/// What can go wrong in a run.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum RunError {
    /// `fail` of the strategy.
    #[error("the strategy failed: {0}")]
    Failed(String),
    /// A declared limit is used up and no `else` is there.
    #[error(
        "the budget of {limit} ran out ({spent} of {most}); raise the limit in `within` or give the guard an `else`"
    )]
    Budget {
        /// Which limit.
        limit: &'static str,
        /// What was used.
        spent: String,
        /// The limit.
        most: String,
    },
    /// A model.
    #[error("model `{role}`: {source}")]
    Model {
        /// Role.
        role: String,
        /// Cause.
        source: crate::error::Error,
    },
    /// Text that a model's tokenizer or template refuses.
    #[error("prompt for model `{role}`: {cause}")]
    Codec {
        /// Role.
        role: String,
        /// Cause.
        cause: String,
    },
    /// A prompt longer than the model's context.
    #[error(
        "the prompt has {tokens} tokens and model `{role}` holds {context}; shorten the prompt or use a model with a longer context"
    )]
    PromptTooLong {
        /// Role.
        role: String,
        /// Tokens of the prompt.
        tokens: usize,
        /// Tokens the model holds.
        context: usize,
    },
    /// Every sequence of a site failed.
    #[error("all {sequences} sequences of model `{role}` failed: {cause}")]
    AllFailed {
        /// Role.
        role: String,
        /// Number of sequences.
        sequences: usize,
        /// Cause of the first.
        cause: String,
    },
    /// A pure operation.
    #[error("{0}")]
    Operation(String),
    /// A verifier.
    #[error(transparent)]
    Verifier(#[from] VerifyError),
    /// An output format that cannot be enforced.
    #[error("output format: {0}; simplify the pattern or the type")]
    Format(String),
    /// An argument of the run.
    #[error("argument {0}")]
    Argument(#[from] ValueError),
    /// A role without what a site needs of it.
    #[error("model `{role}` {cause}")]
    Role {
        /// Role.
        role: String,
        /// What is missing and what to do.
        cause: String,
    },
    /// A plan that contradicts itself.
    #[error("the plan is damaged: {0}; compile it again")]
    Plan(String),
    /// The caller asked to stop.
    #[error("cancelled")]
    Cancelled,
}

/// A failed run: the cause, and the bytes of the main file it came from.
#[derive(Debug, thiserror::Error)]
#[error("{cause}")]
pub struct Failure {
    /// Cause.
    #[source]
    pub cause: RunError,
    /// Byte range in the main source file; `(0, 0)` when no place is known.
    pub at: (u32, u32),
}

impl From<RunError> for Failure {
    fn from(cause: RunError) -> Self {
        Self { cause, at: (0, 0) }
    }
}

/// What the caller of a run hands in to watch and stop it.
#[derive(Clone, Copy)]
pub struct Watch<'a> {
    /// Gets every event.
    pub events: &'a (dyn Fn(&Event<'_>) + Sync),
    /// Set to stop the run at the next step.
    pub cancel: &'a AtomicBool,
}
