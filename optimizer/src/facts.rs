//! What the planner needs to know of a strategy: its sites in order of execution, how often each is expected to run, on
//! which model, over which context, with what the parameters' defaults (or the given values) say.
//!
//! The walk over the region skeleton is in `walk`. Nothing is priced here.

mod prims;
mod walk;

use ir::strategy::Strategy;
use std::collections::{BTreeMap, BTreeSet};

/// A site as the planner sees it.
#[derive(Clone, Debug, PartialEq)]
pub struct Site {
    /// Number.
    pub id: u32,
    /// What it does.
    pub kind: Kind,
    /// Index of the role, if it runs on one.
    pub role: Option<u32>,
    /// Expected executions per run.
    pub times: f64,
    /// Context it starts from: equal numbers mean the same tokens.
    pub context: u32,
    /// How often that context is made per run; a site in a loop may use one context many times.
    pub made: f64,
    /// The context extends a sequence that this site generated.
    pub extends: Option<u32>,
    /// Executions that may be taken together: the elements of a list that a verifier judges side by side; else 1.
    pub together: f64,
}

/// What a site does.
#[derive(Clone, Debug, PartialEq)]
pub enum Kind {
    /// `gen`, `sample`.
    Generate {
        /// Sequences asked for.
        n: u32,
        /// Sequences alive at most.
        live: f64,
        /// New tokens per sequence at most.
        max: f64,
        /// A set rule may stop it early.
        stops: bool,
        /// A set rule looks at the finished samples: which of them are there when it acts hangs on the waves.
        watched: bool,
        /// A token rule may branch.
        branches: bool,
    },
    /// Built-in verifiers, as written.
    Verify(Vec<Check>),
    /// `choose` over this many labels.
    Choose(f64),
    /// `expect`.
    Expect,
    /// `logprob`.
    LogProb,
}

/// A built-in verifier.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Check {
    /// A pattern.
    Regex,
    /// Equal text.
    Exact,
    /// Equal number.
    Numeric,
    /// A host program.
    Command,
    /// A host program that answers line by line.
    Lines,
}

/// The facts of a strategy.
#[derive(Clone, Debug, Default)]
pub struct Facts {
    /// Sites in order of execution.
    pub sites: Vec<Site>,
    /// Sites and selections in order of execution, with what each needs.
    pub nodes: Vec<Node>,
}

/// A place of the strategy that a report shows.
#[derive(Clone, Debug, PartialEq)]
pub struct Node {
    /// What happens there.
    pub what: What,
    /// Earlier nodes whose values it reads or on whose values it depends, as indices.
    pub reads: BTreeSet<usize>,
}

/// What happens at a [`Node`].
#[derive(Clone, Debug, PartialEq)]
pub enum What {
    /// The site of this index.
    Site(usize),
    /// A selection: its name, elements of its list, executions per run.
    Select(&'static str, f64, f64),
}

/// Walks a strategy. `given` overrides parameters and tunables by name.
#[must_use]
pub fn of(strategy: &Strategy, given: &BTreeMap<String, f64>) -> Facts {
    walk::facts(strategy, given)
}
