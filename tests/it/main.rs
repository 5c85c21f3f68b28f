//! All tests of the whole program in one binary: the command line, plan files, a real model against reference outputs,
//! the back ends against each other, and the rules of the house.

mod artifact;
mod backends;
mod cli;
mod hostile;
mod model;
mod program;
mod project;
mod run;
mod tidy;
