//! How one model's forward program is to be generated: the planner writes it, `codegen::lower` reads it.

use crate::target::Isa;
use serde::{Deserialize, Serialize};

/// Arithmetic of linear layers over quantised weights. Named in reports; never mixed within one sequence.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Numerics {
    /// Weights as stored; activations rounded to int8 with one f32 scale per 32 features. The default class.
    Int8,
    /// Weights as stored, activations in f32: the arbiter, slow.
    F32,
}

/// Where norms and activation quantisation happen.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Prologue {
    /// Every thread prepares all rows in its own scratch at the head of the consuming kernel: no barrier.
    Fused,
    /// A kernel of its own prepares the rows, divided over the team: one more barrier, no repeated work.
    Split,
}

/// The schedule of one model on one target.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ModelSchedule {
    /// Features the kernels may use.
    pub isa: Isa,
    /// Threads of the team.
    pub threads: u32,
    /// Rows whose accumulators live in registers together: 1, 2, 4 or 8. Kernels accept any number of rows and take
    /// the rest in smaller blocks of 4, 2, 1.
    pub row_block: u32,
    /// Rows per attention item at most.
    pub attend_rows: u32,
    /// Rows of one step at most.
    pub max_rows: u32,
    /// Rows of one step that may want logits at most.
    pub max_head_rows: u32,
    /// Fused or split prologues.
    pub prologue: Prologue,
    /// Gate and up tiles interleaved in memory (needs equal types).
    pub interleave: bool,
    /// Arithmetic class.
    pub numerics: Numerics,
    /// Distance of software prefetch in weight streams of three rows and more, bytes; 0: none.
    pub prefetch: u32,
}
