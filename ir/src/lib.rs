//! The nouns of inferc: values that the stages hand to each other. Everything depends on this crate, it depends on
//! nothing of ours, and apart from well-formedness, printing and byte arithmetic it has no behaviour.
//!
//! Reading order: [`strategy`] (what to compute), [`plan`] (how), [`program`] and [`kernel`] (with which code),
//! [`artifact`] (the whole as bytes); [`model`], [`target`], [`tensor`] enter from the side. A type moves here only
//! when two spokes name it.

#![warn(clippy::disallowed_methods)]

pub mod artifact;
pub mod code;
pub mod diagnostic;
pub mod kernel;
pub mod kernel_check;
pub mod kernel_text;
pub mod model;
pub mod nested;
pub mod plan;
pub mod plan_check;
pub mod plan_text;
pub mod program;
pub mod rule;
pub mod schedule;
pub mod strategy;
pub mod strategy_check;
pub mod strategy_text;
pub mod target;
pub mod tensor;
