//! Strategy to plan: cost models, the e-graph of plan alternatives, and the planner. No I/O, no clocks: the same values
//! in give the same plan out.
//!
//! Reading order: [`kinetics`] (published formulas, for comparing), [`roofline`] (what decisions are priced with),
//! [`facts`] (what of a strategy matters), the crate-private `language`, `rules`, `extract` (the e-graph), `physical`
//! (properties chosen by enumeration), and [`planner`], whose `optimize` is the pipeline.

mod extract;
pub mod facts;
pub mod kinetics;
mod language;
mod physical;
pub mod planner;
pub mod replay;
pub mod roofline;
pub mod rules;

pub use planner::{ASSUMPTIONS, Options, PlanError, RoleModel, optimize};
