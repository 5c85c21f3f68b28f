//! The `.infer` language: text to checked program.
//!
//! [`parse()`] reads a file into the syntax tree of [`ast`] and reports what is wrong with its form; [`format()`] prints
//! the canonical layout. Nothing here reads files, prints or looks at the clock: sources come in as text, messages go
//! out as [`ir::diagnostic::Diagnostic`] values.

pub mod ast;
pub mod format;
pub mod parse;

pub use format::format;
pub use parse::parse;
