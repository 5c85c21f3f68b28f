//! Strategy to plan: cost models, the e-graph of plan alternatives, and the planner. No I/O, no clocks: the same values
//! in give the same plan out.
//!
//! Reading order: [`kinetics`] (published formulas, for comparing), [`roofline`] (what decisions are priced with),
//! [`facts`] (what of a strategy matters), the crate-private `language`, `rules`, `extract` (the e-graph), `physical`
//! (properties chosen by enumeration), [`lossy`] (what only an allowance permits), `prices` (what a term costs),
//! `decisions` and `tree` (the chosen term as a plan and as a report), `classes` (arithmetic, chosen by whole plans), and
//! [`planner`], whose `optimize` is the pipeline. [`replay`] prices what a run really did, [`crossovers`] says from where
//! on one way of doing the same is faster than another.

#![warn(clippy::disallowed_methods)]

mod classes;
pub mod crossovers;
mod decisions;
mod extract;
pub mod facts;
pub mod kinetics;
mod language;
pub mod lossy;
mod neighbours;
mod physical;
pub mod planner;
mod prices;
pub mod replay;
pub mod roofline;
pub mod rules;
mod tree;

pub use neighbours::{Neighbour, neighbours};
pub use physical::prefix_step;
pub use planner::{ASSUMPTIONS, Options, PlanError, RoleModel, optimize};
