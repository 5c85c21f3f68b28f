//! Diagnostics for people and for programs: source excerpts on a terminal, JSON for editors and CI.

use ariadne::{Color, Config, IndexType, Label, Report, ReportKind};
use ir::diagnostic::{Diagnostic, Severity, Span};
use serde_json::{Value, json};
use std::fmt::Write as _;

/// The sources a diagnostic may point into; index = `Span::file`.
#[derive(Clone, Debug, Default)]
pub struct Sources(pub Vec<(String, String)>);

impl Sources {
    fn name(&self, file: u32) -> &str {
        self.0.get(file as usize).map_or("<unknown>", |(name, _)| name)
    }

    fn text(&self, file: u32) -> &str {
        self.0.get(file as usize).map_or("", |(_, text)| text)
    }

    /// 1-based line and column (in characters) of a byte.
    #[must_use]
    pub fn position(&self, file: u32, byte: u32) -> (usize, usize) {
        let text = self.text(file);
        let mut at = (byte as usize).min(text.len());
        while !text.is_char_boundary(at) {
            at -= 1;
        }
        let before = &text[..at];
        let line = before.matches('\n').count() + 1;
        let start = before.rfind('\n').map_or(0, |i| i + 1);
        (line, before[start..].chars().count() + 1)
    }

    /// One of the lines that a place begins or ends on is too long to be shown.
    fn is_long(&self, span: Span) -> bool {
        const SHOWN: usize = 1000;
        let text = self.text(span.file).as_bytes();
        [span.start, span.end].into_iter().any(|at| {
            let (before, after) = text.split_at((at as usize).min(text.len()));
            let ahead = after.iter().take(SHOWN + 1).take_while(|b| **b != b'\n').count();
            let behind = before.iter().rev().take(SHOWN + 1).take_while(|b| **b != b'\n').count();
            ahead + behind > SHOWN
        })
    }

    fn range(&self, span: Span) -> (String, std::ops::Range<usize>) {
        let len = self.text(span.file).len();
        let start = (span.start as usize).min(len);
        (tame(self.name(span.file)), start..(span.end as usize).clamp(start, len))
    }
}

/// The text with what a terminal would obey put out of action: control characters and those that change the direction of
/// text become stand-ins of as many bytes, so that places stay right.
fn tame(text: &str) -> String {
    let stand_in = |c: char| match (c, c.len_utf8()) {
        ('\n' | '\t', _) => c,
        ('\r', _) => ' ',
        (c, 1) if c.is_control() => '?',
        (c, 2) if c.is_control() || c == '\u{61c}' => '\u{bf}',
        ('\u{200e}' | '\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}', _) => char::REPLACEMENT_CHARACTER,
        _ => c,
    };
    text.chars().map(stand_in).collect()
}

/// A diagnostic about a line that is too long to be shown.
fn without_excerpt(headline: &str, d: &Diagnostic, sources: &Sources) -> String {
    let place = |span: Span| {
        let (line, column) = sources.position(span.file, span.start);
        format!("{}:{line}:{column}", tame(sources.name(span.file)))
    };
    let mut out = format!("{headline}: {}\n  at {}: {}\n", tame(&d.message), place(d.span), tame(&d.label));
    for (span, text) in &d.related {
        let _ = writeln!(out, "  at {}: {}", place(*span), tame(text));
    }
    for text in d.help.iter().chain(&d.notes) {
        let _ = writeln!(out, "  {}", tame(text));
    }
    out
}

/// Diagnostics as text, in order, with excerpts, causes and remedies.
#[must_use]
pub fn text(diagnostics: &[Diagnostic], sources: &Sources, color: bool) -> String {
    let mut out = String::new();
    let shown: Vec<(String, String)> = sources.0.iter().map(|(name, text)| (tame(name), tame(text))).collect();
    for d in diagnostics {
        let word = if d.severity == Severity::Error { "error" } else { "warning" };
        let headline = format!("{word}[{}]", d.code.0);
        if std::iter::once(d.span).chain(d.related.iter().map(|r| r.0)).any(|span| sources.is_long(span)) {
            out.push_str(&without_excerpt(&headline, d, sources));
            continue;
        }
        let at = sources.range(d.span);
        let paint = if d.severity == Severity::Error { Color::Red } else { Color::Yellow };
        let config = Config::default().with_color(color).with_index_type(IndexType::Byte);
        let mut report = Report::build(ReportKind::Custom(&headline, paint), at.clone())
            .with_config(config)
            .with_message(tame(&d.message))
            .with_label(Label::new(at).with_message(tame(&d.label)).with_color(paint).with_order(0));
        for (span, text) in &d.related {
            report = report.with_label(
                Label::new(sources.range(*span)).with_message(tame(text)).with_color(Color::Blue).with_order(1),
            );
        }
        if let Some(fix) = &d.fix {
            report = report.with_help(tame(&format!("{}: `{}`", fix.title, fix.text.trim())));
        }
        if let Some(help) = d.help.as_ref().filter(|h| d.fix.as_ref().is_none_or(|f| f.title != **h)) {
            report = report.with_help(tame(help));
        }
        for note in &d.notes {
            report = report.with_note(tame(note));
        }
        let mut bytes = Vec::new();
        let cache = ariadne::sources(shown.clone());
        if report.finish().write(cache, &mut bytes).is_ok() {
            let drawn = String::from_utf8_lossy(&bytes);
            // The headline's colour does not heed the setting.
            out.push_str(&if color { drawn.into_owned() } else { plain(&drawn) });
        }
    }
    let errors = diagnostics.iter().filter(|d| d.severity == Severity::Error).count();
    let warnings = diagnostics.len() - errors;
    let plural = |n: usize, word: &str| format!("{n} {word}{}", if n == 1 { "" } else { "s" });
    match (errors, warnings) {
        (0, 0) => {}
        (e, w) => {
            let _ = writeln!(out, "{}, {}", plural(e, "error"), plural(w, "warning"));
        }
    }
    out
}

/// Text without terminal colours.
fn plain(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    let mut rest = text;
    while let Some((before, after)) = rest.split_once("\x1b[") {
        out.push_str(before);
        rest = after.split_once('m').map_or("", |(_, tail)| tail);
    }
    out.push_str(rest);
    out
}

/// Diagnostics as JSON values with line and column.
#[must_use]
pub fn json(diagnostics: &[Diagnostic], sources: &Sources) -> Value {
    let place = |span: Span| {
        let (line, column) = sources.position(span.file, span.start);
        let (end_line, end_column) = sources.position(span.file, span.end);
        json!({ "file": sources.name(span.file), "start": span.start, "end": span.end, "line": line, "column": column,
                "end_line": end_line, "end_column": end_column })
    };
    Value::Array(
        diagnostics
            .iter()
            .map(|d| {
                json!({
                    "severity": if d.severity == Severity::Error { "error" } else { "warning" },
                    "code": d.code.0,
                    "message": d.message,
                    "at": place(d.span),
                    "label": d.label,
                    "related": d.related.iter().map(|(s, t)| json!({ "at": place(*s), "text": t })).collect::<Vec<_>>(),
                    "help": d.help,
                    "fix": d.fix.as_ref().map(|f| json!({ "title": f.title, "at": place(f.span), "text": f.text })),
                    "notes": d.notes,
                })
            })
            .collect(),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_terminal_obeys_is_replaced_byte_for_byte() {
        let hostile = "a\0\u{1b}[31m\u{9b}b\u{61c}\u{202e}c\u{2066}\t\n\r\u{e9}\u{1f642}";
        let tamed = tame(hostile);
        assert_eq!(tamed, "a??[31m\u{bf}b\u{bf}\u{fffd}c\u{fffd}\t\n \u{e9}\u{1f642}");
        assert_eq!(tamed.len(), hostile.len());
    }
}
