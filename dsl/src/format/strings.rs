//! Strings as they are written: escapes in plain ones, indentation in raw ones.

use super::Printer;
use super::doc::Doc;
use crate::ast::{Template, TemplatePart};
use crate::parse::{is_bidi, is_noncharacter};

/// `"text"` with the escapes that it needs.
pub(super) fn quoted(text: &str) -> String {
    format!("\"{}\"", escaped(text))
}

fn escaped(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    let mut chars = text.chars().peekable();
    while let Some(c) = chars.next() {
        match c {
            '\n' => out.push_str("\\n"),
            '\t' => out.push_str("\\t"),
            '\r' => out.push_str("\\r"),
            '\\' => out.push_str("\\\\"),
            '"' => out.push_str("\\\""),
            '$' if chars.peek() == Some(&'{') => out.push_str("\\$"),
            c if c.is_control() || is_bidi(c) || is_noncharacter(c) || c == '\u{feff}' => {
                out.push_str(&format!("\\u{{{:x}}}", u32::from(c)));
            }
            c => out.push(c),
        }
    }
    out
}

impl Printer<'_> {
    /// A string with holes, in the form in which it was written.
    pub(super) fn template(&mut self, template: &Template) -> Doc {
        let mut text = String::new();
        for part in &template.parts {
            match part {
                TemplatePart::Text(piece) if template.raw => text.push_str(piece),
                TemplatePart::Text(piece) => text.push_str(&escaped(piece)),
                TemplatePart::Hole(expr) => {
                    text.push_str("${");
                    text.push_str(&self.on_one_line(expr));
                    text.push('}');
                }
            }
        }
        if template.raw { raw(&text) } else { Doc::text(format!("\"{text}\"")) }
    }

    /// A string without holes at this place, with the quotes and escapes of its author.
    pub(super) fn literal_text(&self, text: &str, start: u32, end: u32) -> Doc {
        let written = &self.source[start as usize..end as usize];
        if written.starts_with("\"\"\"") { raw(text) } else { Doc::text(written) }
    }
}

/// A raw string: on one line if it is one, else between quotes on lines of their own, one level deeper.
fn raw(text: &str) -> Doc {
    // Three quotes directly after a quote would close too early.
    if !text.contains('\n') && !text.ends_with('"') {
        return Doc::text(format!("\"\"\"{text}\"\"\""));
    }
    let mut lines = Vec::new();
    for line in text.split('\n') {
        lines.push(Doc::string_line());
        lines.push(Doc::text(line));
    }
    lines.push(Doc::string_line());
    lines.push(Doc::text("\"\"\""));
    Doc::concat(vec![Doc::text("\"\"\""), Doc::nest(Doc::concat(lines))])
}
