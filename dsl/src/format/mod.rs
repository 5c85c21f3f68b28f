//! The canonical layout of a source file: no options, 100 columns, four spaces.
//!
//! [`format`] takes a source that parses without errors and returns it in the one layout. Comments stay: on their own
//! line before what they stood before, at the end of the line after what they stood behind. One empty line between
//! statements or items is kept; items that span lines are always separated by one. The tree does not change.

mod comments;
mod doc;
mod expr;
mod item;
mod strings;

use ir::diagnostic::Diagnostic;

use crate::ast::{Comment, File};
use doc::Doc;

/// Comments in odd places can move once more when their new place is read; this many rounds settle them.
const MAX_ROUNDS: usize = 8;

/// Lays a source out.
///
/// # Errors
/// What the parser has to say, if the source does not parse: a broken file is never rewritten.
pub fn format(source: &str) -> Result<String, Vec<Diagnostic>> {
    let mut text = lay_out(source)?;
    for _ in 0..MAX_ROUNDS {
        let next = lay_out(&text)?;
        if next == text {
            break;
        }
        text = next;
    }
    Ok(text)
}

fn lay_out(source: &str) -> Result<String, Vec<Diagnostic>> {
    let (file, errors) = crate::parse::parse(source, 0);
    if !errors.is_empty() {
        return Err(errors);
    }
    Ok(Printer { source, comments: &file.comments, next: 0 }.file(&file).render())
}

/// Turns the tree into documents, and hands out each comment exactly once, in order.
struct Printer<'s> {
    source: &'s str,
    comments: &'s [Comment],
    /// The first comment that is not printed yet.
    next: usize,
}

impl Printer<'_> {
    fn file(&mut self, file: &File) -> Doc {
        self.items(&file.items)
    }
}
