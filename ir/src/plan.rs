//! Plan: the strategy's skeleton with a schedule for every effect, the chosen model schedules, the predicted costs and
//! the decisions taken. Self-contained: the runtime and the code generator read nothing else.
//!
//! The planner writes it, nobody changes it afterwards. Reports print its fields and compute nothing.

use crate::model::Model;
use crate::schedule::ModelSchedule;
use crate::strategy::Strategy;
use serde::{Deserialize, Serialize};

/// A plan.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Plan {
    /// The strategy it carries out.
    pub strategy: Strategy,
    /// One entry per generator role that the strategy uses (index = role), `None` for roles that are no local model.
    pub models: Vec<Option<ModelPlan>>,
    /// One entry per site (index = site).
    pub sites: Vec<SitePlan>,
    /// What was decided, with what was rejected.
    pub decisions: Vec<Decision>,
    /// Predicted cost of one run with default parameters.
    pub cost: Cost,
    /// Predicted cost by operator: consumers first, what they consume below them and deeper.
    pub operators: Vec<OperatorCost>,
    /// Name of the target it was planned for.
    pub target: String,
    /// Hash of the target profile (hex).
    pub target_hash: String,
    /// Assumptions of the estimate.
    pub assumptions: Assumptions,
}

/// A model of the plan.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ModelPlan {
    /// Role name.
    pub role: String,
    /// File it is loaded from, as given.
    pub path: String,
    /// Shape and identity.
    pub model: Model,
    /// How its kernels are generated.
    pub schedule: ModelSchedule,
    /// Bytes of resident weights.
    pub weight_bytes: u64,
    /// KV pages the runtime must provide.
    pub kv_pages: u64,
}

/// Where the keys of a shared prompt are.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum PrefixMode {
    /// One copy of the pages; every branch attends over them by itself.
    Shared,
    /// Every branch has its own copy.
    Copied,
    /// One copy; the branches attend over it together, as one matrix product.
    Cascade,
}

/// Where the context of a score, choice or expectation is computed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum ScoreMode {
    /// Appended to what generation left behind of the KV that a prompt of the same tokens would have.
    Fused,
    /// Prefilled again, from its first token; its keys are given back at once.
    Fresh,
    /// Behind the longest beginning of it that the model still holds for another context.
    Shared,
}

/// The schedule of a site.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub enum SitePlan {
    /// A generation.
    Generate {
        /// Sequences started at once, wave after wave; a wave starts when the one before has ended. Empty: all at once.
        waves: Vec<u32>,
        /// Shared prompt.
        prefix: PrefixMode,
        /// Rows per decode step the kernels were chosen for.
        bucket: u32,
        /// Prompt rows per prefill step.
        prefill_chunk: u32,
    },
    /// A score, choice, expectation or log-probability by a model.
    Score {
        /// What its context starts from.
        mode: ScoreMode,
        /// Rows per step.
        bucket: u32,
    },
    /// A built-in or host verifier.
    Verify {
        /// Order in which the parts of `both(…)` are tried.
        order: Vec<u32>,
        /// Candidates per call of a host program that answers line by line.
        batch: u32,
        /// Host programs that run at once, over different candidates.
        at_once: u32,
    },
    /// The strategy has a site here that never runs.
    Unused,
}

/// A decision and what it was chosen over.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Decision {
    /// What was decided: `waves`, `prefix`, `verify order`, `verify batch`, `scoring`, `row block`, `threads`, `weights`, ….
    pub topic: String,
    /// Site, if about one.
    pub site: Option<u32>,
    /// The choice, in words.
    pub chosen: String,
    /// Its predicted cost.
    pub cost: Cost,
    /// The others, best first.
    pub runners_up: Vec<(String, Cost)>,
    /// Why, one sentence.
    pub reason: String,
}

/// A predicted cost.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Cost {
    /// Seconds.
    pub seconds: f64,
    /// Floating-point (or integer) operations, two per multiply-add.
    pub flops: f64,
    /// Bytes moved from memory.
    pub bytes: f64,
    /// Sampled tokens.
    pub tokens: f64,
    /// Peak bytes of KV.
    pub kv_bytes: f64,
    /// US dollars; 0 when the target has no price.
    pub usd: f64,
}

/// Predicted cost of an operator.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct OperatorCost {
    /// `prefill solve(q)`, `decode base ×8`, `score orm ×8`, ….
    pub name: String,
    /// Depth in the tree of `explain`.
    pub depth: u32,
    /// Site, if any.
    pub site: Option<u32>,
    /// Cost.
    pub cost: Cost,
    /// What bounds it: `memory: weights 96 %, KV 4 %`.
    pub bound_by: String,
}

/// What the estimate assumed.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Assumptions {
    /// Prompt tokens.
    pub prompt_tokens: u64,
    /// Share of `max` that a sequence uses on average.
    pub length_share: f64,
    /// Chance that a rule which stops a site has done so when half of its samples have ended.
    pub stop_chance: f64,
}
