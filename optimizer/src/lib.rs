//! Strategy to plan: cost models, the e-graph of plan alternatives, and the planner. No I/O, no clocks: the same values
//! in give the same plan out.

pub mod kinetics;
pub mod roofline;
