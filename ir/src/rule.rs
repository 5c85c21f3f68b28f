//! Compiled conditions of token rules: which kernel decides which rule, and what it reads.
//!
//! `codegen::rules` writes the kernels, the runtime calls one per live sequence and token. Parameters of such a kernel:
//! `stats` (f32, one per entry of [`TokenRule::stats`]), `captures` (f32, one per entry of [`TokenRule::captures`]),
//! `out` (f32 × 2: 1.0 when the rule fires, else 0.0; the temperature to use, if the rule sets one).
//! Conditions are evaluated in f32.

use crate::strategy::{DistField, Var, Window};
use serde::{Deserialize, Serialize};

/// One compiled token rule.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct TokenRule {
    /// The site.
    pub site: u32,
    /// Index of the rule among the site's rules.
    pub rule: u32,
    /// Statistics it reads, in order.
    pub stats: Vec<(DistField, Window)>,
    /// Outer numbers it reads, in order.
    pub captures: Vec<Capture>,
    /// Name of the kernel.
    pub kernel: String,
}

/// A number from outside the rule.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Capture {
    /// A variable of an enclosing region (a number or a truth value as 0 or 1).
    Var(Var),
    /// Tunable `i` of the strategy.
    Tunable(u32),
}
