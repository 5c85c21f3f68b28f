//! The inside of strings: escapes of plain strings and the indentation of raw ones.
//!
//! Takes the text between quotes and holes, returns what it means. Reports bad escapes; does not look for holes.

use ir::diagnostic::{Diagnostic, Span};

use super::codes;
use super::spell;
use crate::ast::{Expr, TemplatePart};

/// Resolves the escapes of a piece of a plain string that starts at byte `start` of its file.
///
/// A bad escape is reported and left out.
pub(super) fn unescape(text: &str, file: u32, start: u32, diagnostics: &mut Vec<Diagnostic>) -> String {
    let mut out = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(at) = rest.find('\\') {
        out.push_str(&rest[..at]);
        let tail = &rest[at + 1..];
        let length = match escape(tail) {
            Ok((c, length)) => {
                out.push(c);
                length
            }
            Err((length, help)) => {
                let offset = text.len() - rest.len() + at;
                let place = |n: usize| start.saturating_add(u32::try_from(n).unwrap_or(u32::MAX));
                let span = Span { file, start: place(offset), end: place(offset + 1 + length) };
                let shown = &tail[..length];
                diagnostics.push(
                    Diagnostic::error(codes::ESCAPE, span, format!("`\\{shown}` is not an escape"), "unknown escape")
                        .help(help)
                        .note("the escapes are \\n \\t \\r \\\\ \\\" \\$ \\u{…}"),
                );
                length
            }
        };
        rest = &tail[length..];
    }
    out.push_str(rest);
    out
}

/// What stands after a backslash: the character and the bytes read, or the bytes to skip and a remedy.
fn escape(tail: &str) -> Result<(char, usize), (usize, String)> {
    let Some(first) = tail.chars().next() else {
        return Err((0, "write `\\\\` for a backslash".to_owned()));
    };
    let simple = match first {
        'n' => Some('\n'),
        't' => Some('\t'),
        'r' => Some('\r'),
        '\\' | '"' | '$' => Some(first),
        _ => None,
    };
    if let Some(c) = simple {
        return Ok((c, 1));
    }
    if first != 'u' {
        return Err((first.len_utf8(), format!("write `\\\\{first}` for a backslash followed by `{first}`")));
    }
    let digits = tail[1..].strip_prefix('{').and_then(|inner| inner.split_once('}')).map(|(digits, _)| digits);
    let Some(digits) = digits.filter(|d| d.len() <= 8) else {
        return Err((1, "write the code in hexadecimal between braces: `\\u{e9}`".to_owned()));
    };
    let length = digits.len() + 3;
    let plain = !digits.is_empty() && digits.len() <= 6 && digits.bytes().all(|b| b.is_ascii_hexdigit());
    let code = if plain { u32::from_str_radix(digits, 16).ok() } else { None };
    code.and_then(char::from_u32)
        .map(|c| (c, length))
        .ok_or((length, "the code is one to six hexadecimal digits and names a Unicode character".to_owned()))
}

/// Stands for a hole while lines are measured. NUL is refused in sources, so it cannot occur in text.
const HOLE: char = '\0';

/// Removes the common indentation of a raw string.
///
/// The line break after the opening quotes goes, the line that holds only the closing quotes goes but counts for the
/// indentation, blank lines become empty. Text on the opening line is left as it is.
pub(super) fn dedent(parts: Vec<TemplatePart>) -> Vec<TemplatePart> {
    let mut joined = String::new();
    let mut holes = Vec::new();
    for part in parts {
        match part {
            TemplatePart::Text(text) => joined.push_str(&text.replace(HOLE, "\u{fffd}").replace("\r\n", "\n")),
            TemplatePart::Hole(expr) => {
                joined.push(HOLE);
                holes.push(expr);
            }
        }
    }
    if joined.contains('\n') {
        joined = dedent_lines(&joined);
    }
    split_holes(&joined, holes)
}

fn dedent_lines(text: &str) -> String {
    let blank = |line: &str| line.trim_matches([' ', '\t']).is_empty();
    let mut lines: Vec<&str> = text.split('\n').collect();
    let head = if blank(lines[0]) { None } else { Some(lines[0]) };
    lines.remove(0);
    let closing = lines.pop_if(|line| blank(line));
    let measured = lines.iter().copied().filter(|line| !blank(line)).chain(closing);
    let indent = measured.map(leading).reduce(common).unwrap_or("").len();
    let kept = lines.iter().map(|line| if blank(line) { "" } else { &line[indent..] });
    head.into_iter().chain(kept).collect::<Vec<_>>().join("\n")
}

fn leading(line: &str) -> &str {
    &line[..line.len() - line.trim_start_matches([' ', '\t']).len()]
}

fn common<'t>(a: &'t str, b: &'t str) -> &'t str {
    let length = a.bytes().zip(b.bytes()).take_while(|(x, y)| x == y).count();
    &a[..length]
}

fn split_holes(text: &str, holes: Vec<Expr>) -> Vec<TemplatePart> {
    let mut parts = Vec::new();
    let mut holes = holes.into_iter();
    for (index, piece) in text.split(HOLE).enumerate() {
        if index > 0 {
            parts.extend(holes.next().map(TemplatePart::Hole));
        }
        if !piece.is_empty() {
            parts.push(TemplatePart::Text(piece.to_owned()));
        }
    }
    parts
}

/// The sentence "did you mean …" for a word, if one of the candidates is close.
pub(super) fn did_you_mean(word: &str, candidates: &[&'static str]) -> Option<(&'static str, String)> {
    spell::closest(word, candidates).map(|found| (found, format!("did you mean `{found}`?")))
}
