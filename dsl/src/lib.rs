//! The `.infer` language: text to checked program.
//!
//! [`parse()`] reads a file into the syntax tree of [`ast`] and reports what is wrong with its form; [`format()`] prints
//! the canonical layout; [`library`] holds the standard library's sources. Nothing here reads files, prints or looks at the clock: sources come in as text, messages go
//! out as [`ir::diagnostic::Diagnostic`] values.

#![warn(clippy::disallowed_methods)]

pub mod ast;
pub mod bounds;
mod builtin_docs;
pub mod builtins;
pub mod check;
pub mod codes;
pub mod format;
pub mod hir;
pub mod library;
pub mod lower;
pub mod parse;

pub use bounds::{BoundsRow, bounds};
pub use check::{check, messages};
pub use format::format;
pub use library::{std_files, std_source};
pub use lower::{lower, tests};
pub use parse::parse;
