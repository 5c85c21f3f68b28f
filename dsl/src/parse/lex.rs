//! Characters to tokens, with nom.
//!
//! Takes the source, returns tokens (kind and place, no text), comments and diagnostics. Strings come out as
//! `TextOpen Text HoleOpen … HoleClose Text TextClose`, so that a hole is ordinary tokens and nests without recursion.
//! Linear in the source. Deliberately does not resolve escapes, dedent, or know keywords.

use ir::diagnostic::{Diagnostic, Span};
use nom::branch::alt;
use nom::bytes::complete::{is_not, tag, take_until, take_while, take_while1};
use nom::character::complete::{anychar, char, digit1, satisfy};
use nom::combinator::{map_opt, not, opt, recognize, value};
use nom::multi::many0_count;
use nom::sequence::{pair, preceded, terminated};
use nom::{IResult, Parser};

use super::codes;
use crate::ast::Comment;

/// Longest name, in bytes.
const MAX_NAME: usize = 255;
/// Longest number, in bytes, unit aside.
const MAX_NUMBER: usize = 40;
/// Longest unit, in bytes.
const MAX_UNIT: usize = 16;

/// How far the other end of a foreign string is looked for, in bytes.
const MAX_QUOTED: usize = 1024;

/// The kinds of tokens.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Tok {
    /// A name or a keyword.
    Word,
    /// `12`, `0.5`, `4ktok`, `1%`.
    Quantity,
    /// `"`
    TextOpen,
    /// `"""`
    RawOpen,
    /// The text between quotes and holes.
    Text,
    /// `${`
    HoleOpen,
    /// The `}` of a hole.
    HoleClose,
    /// The closing quotes of either form.
    TextClose,
    /// `(`
    ParenOpen,
    /// `)`
    ParenClose,
    /// `{`
    BraceOpen,
    /// `}`
    BraceClose,
    /// `[`
    BracketOpen,
    /// `]`
    BracketClose,
    /// `,`
    Comma,
    /// `;`
    Semi,
    /// `:`
    Colon,
    /// `::`
    PathSep,
    /// `.`
    Dot,
    /// `..`
    Range,
    /// `..=`
    RangeInclusive,
    /// `=`
    Assign,
    /// `==`
    Eq,
    /// `!=`
    Ne,
    /// `<`
    Lt,
    /// `<=`
    Le,
    /// `>`
    Gt,
    /// `>=`
    Ge,
    /// `+`
    Plus,
    /// `-`
    Minus,
    /// `*`
    Star,
    /// `/`
    Slash,
    /// `??`
    Coalesce,
    /// `?`
    Question,
    /// `=>`
    FatArrow,
    /// `->`
    Arrow,
    /// `|`
    Bar,
    /// `&&`: reported here, read as `and`.
    AndAnd,
    /// `||`: reported here, read as `or`.
    OrOr,
    /// `!`: reported here, read as `not`.
    Bang,
    /// After the last token.
    End,
}

/// A token: its text is the source between `start` and `end`.
#[derive(Clone, Copy, Debug)]
pub(super) struct Token {
    /// What it is.
    pub(super) kind: Tok,
    /// First byte.
    pub(super) start: u32,
    /// Byte after the last.
    pub(super) end: u32,
}

/// What the lexer found.
pub(super) struct Lexed {
    /// Tokens; the last is [`Tok::End`].
    pub(super) tokens: Vec<Token>,
    /// Comments in order.
    pub(super) comments: Vec<Comment>,
    /// What was wrong.
    pub(super) diagnostics: Vec<Diagnostic>,
}

/// Where the lexer stands inside strings.
enum Mode {
    /// Inside `"…"`, opened at this byte.
    Plain(usize),
    /// Inside `"""…"""`.
    Raw(usize),
    /// Inside `${…}`, with the number of open braces.
    Hole { open: usize, braces: usize, raw: bool },
}

/// Reads the whole source; it must be shorter than 4 GiB.
pub(super) fn lex(source: &str, file: u32) -> Lexed {
    let at = if source.starts_with('\u{feff}') { 3 } else { 0 };
    let out = Lexed { tokens: Vec::with_capacity(source.len() / 4), comments: Vec::new(), diagnostics: Vec::new() };
    let mut lexer = Lexer { source, file, at, modes: Vec::new(), out };
    lexer.reject_characters();
    while lexer.at < source.len() {
        match lexer.modes.last() {
            None | Some(Mode::Hole { .. }) => lexer.code(),
            Some(Mode::Plain(_)) => lexer.plain(),
            Some(Mode::Raw(_)) => lexer.raw(),
        }
    }
    lexer.close_modes();
    lexer.push(Tok::End, source.len());
    lexer.out
}

struct Lexer<'s> {
    source: &'s str,
    file: u32,
    at: usize,
    modes: Vec<Mode>,
    out: Lexed,
}

impl Lexer<'_> {
    /// A pass over all characters, strings and comments included: what no reader can see has no place in a source.
    fn reject_characters(&mut self) {
        let mut chars = self.source[self.at..].char_indices().peekable();
        let base = self.at;
        let mut last_end = usize::MAX;
        while let Some((offset, c)) = chars.next() {
            let next_is_newline = chars.peek().is_some_and(|(_, n)| *n == '\n');
            let (start, end) = (base + offset, base + offset + c.len_utf8());
            let bidi = is_bidi(c);
            let control = (c.is_control() && !matches!(c, '\n' | '\t') && !(c == '\r' && next_is_newline))
                || c == '\u{feff}'
                || is_noncharacter(c);
            if !bidi && !control {
                continue;
            }
            // A run of bad characters is one mistake.
            if last_end != start {
                let shown = format!("U+{:04X}", u32::from(c));
                let diagnostic = if bidi {
                    Diagnostic::error(
                        codes::BIDI,
                        self.span(start, end),
                        format!("the invisible character {shown} changes the direction of text"),
                        "what is shown here is not what is compiled",
                    )
                    .help(format!("remove it; inside a string write `\\u{{{:x}}}`", u32::from(c)))
                } else {
                    Diagnostic::error(
                        codes::CHARACTER,
                        self.span(start, end),
                        format!("the control character {shown} cannot stand in a source file"),
                        "not text",
                    )
                    .help(format!("remove it; inside a string write `\\u{{{:x}}}`", u32::from(c)))
                };
                self.report(diagnostic);
            }
            last_end = end;
        }
    }

    /// One lexeme of ordinary code.
    fn code(&mut self) {
        let source = self.source;
        let rest = &source[self.at..];
        match rest.as_bytes().first() {
            Some(b' ' | b'\t' | b'\n' | b'\r') => self.space(rest),
            Some(b'"') => self.open_text(rest.starts_with("\"\"\"")),
            Some(b'/') if rest.starts_with("//") => {
                let left = line_comment(rest).map_or("", |(left, _)| left);
                self.comment(source.len() - left.len());
            }
            _ => {
                if let Ok((left, text)) = word(rest) {
                    self.word(text, source.len() - left.len());
                } else if let Ok((left, (digits, unit))) = quantity(rest) {
                    self.quantity(digits, unit, source.len() - left.len());
                } else if let Ok((left, kind)) = punctuation(rest) {
                    self.punctuation(kind, source.len() - left.len());
                } else {
                    self.foreign(rest);
                }
            }
        }
    }

    fn space(&mut self, rest: &str) {
        let (left, space) = blank(rest).unwrap_or(("", rest));
        if space.contains('\n') && matches!(self.modes.last(), Some(Mode::Hole { raw: false, .. })) {
            self.abandon_line();
        } else {
            self.at = self.source.len() - left.len();
        }
    }

    fn comment(&mut self, end: usize) {
        let start = self.at;
        let text = self.source[start..end].trim_end_matches('\r');
        let end = start + text.len();
        if let Some(Mode::Hole { .. }) = self.modes.last() {
            let span = self.span(start, end);
            self.report(
                Diagnostic::error(codes::HOLE, span, "a comment cannot stand inside `${…}`", "inside a hole")
                    .help("put the comment above the string"),
            );
        } else {
            let own_line =
                self.source[..start].bytes().rev().find(|b| !matches!(b, b' ' | b'\t')).is_none_or(|b| b == b'\n');
            let own_line = own_line || self.out.tokens.is_empty() && self.out.comments.is_empty();
            let doc = text.starts_with("///") && !text.starts_with("////");
            let span = self.span(start, end);
            self.out.comments.push(Comment { text: text.trim_end().to_owned(), span, doc, own_line });
        }
        self.at = end;
    }

    fn word(&mut self, text: &str, end: usize) {
        if text.len() > MAX_NAME {
            let span = self.span(self.at, end);
            self.report(
                Diagnostic::error(
                    codes::NAME,
                    span,
                    format!("a name of {} bytes is too long", text.len()),
                    format!("at most {MAX_NAME} bytes"),
                )
                .help("choose a shorter name"),
            );
        }
        self.push(Tok::Word, end);
    }

    fn quantity(&mut self, digits: &str, unit: &str, mut end: usize) {
        let tail: usize =
            if unit == "%" { 0 } else { self.source[end..].bytes().take_while(|b| is_word_byte(*b)).count() };
        end += tail;
        let span = self.span(self.at, end);
        if tail > 0 || unit.len() > MAX_UNIT {
            let exponent = matches!(unit, "e" | "E");
            let help = if exponent {
                "numbers have no exponent: write the digits out, `_` may group them"
            } else if unit.eq_ignore_ascii_case("x") || unit.eq_ignore_ascii_case("b") {
                "numbers are decimal"
            } else {
                "a number is digits and, glued to them, one unit such as `ktok`, `ms`, `GiB`, `%`"
            };
            self.report(
                Diagnostic::error(codes::NUMBER, span, "this is neither a number nor a quantity", "cannot be read")
                    .help(help),
            );
        } else if digits.len() > MAX_NUMBER {
            self.report(
                Diagnostic::error(
                    codes::NUMBER,
                    span,
                    format!("a number of {} digits is too long", digits.len()),
                    format!("at most {MAX_NUMBER} characters"),
                )
                .help("use a larger unit: `4ktok`, `12GiB`, `24h`"),
            );
        }
        self.push(Tok::Quantity, end);
    }

    fn open_text(&mut self, raw: bool) {
        let in_hole = matches!(self.modes.last(), Some(Mode::Hole { .. }));
        let in_raw_hole = matches!(self.modes.last(), Some(Mode::Hole { raw: true, .. }));
        let start = self.at;
        if raw && in_raw_hole {
            // Inside a raw string three quotes can only be meant to close it: the hole was forgotten.
            self.pop_hole();
            return;
        }
        if raw && in_hole {
            let span = self.span(start, start + 3);
            self.report(
                Diagnostic::error(codes::HOLE, span, "a raw string cannot stand inside `${…}`", "inside a hole")
                    .help("bind it with `let` before, or use a plain string"),
            );
        }
        if raw {
            self.push(Tok::RawOpen, start + 3);
            self.modes.push(Mode::Raw(start));
        } else {
            self.push(Tok::TextOpen, start + 1);
            self.modes.push(Mode::Plain(start));
        }
    }

    fn punctuation(&mut self, kind: Tok, end: usize) {
        if let Some(Mode::Hole { braces, .. }) = self.modes.last_mut() {
            match kind {
                Tok::BraceOpen => *braces += 1,
                Tok::BraceClose if *braces > 0 => *braces -= 1,
                Tok::BraceClose => {
                    self.modes.pop();
                    self.push(Tok::HoleClose, end);
                    return;
                }
                _ => {}
            }
        }
        let meant = match kind {
            Tok::AndAnd => Some("and"),
            Tok::OrOr => Some("or"),
            Tok::Bang => Some("not"),
            _ => None,
        };
        if let Some(meant) = meant {
            let span = self.span(self.at, end);
            let shown = &self.source[self.at..end];
            let text = if kind == Tok::Bang { "not " } else { meant };
            self.report(
                Diagnostic::error(
                    codes::FOREIGN,
                    span,
                    format!("`{shown}` is not an operator"),
                    format!("written `{meant}` here"),
                )
                .help(format!("write `{meant}`"))
                .fix(format!("write `{meant}`"), span, text),
            );
        }
        self.push(kind, end);
    }

    /// Something that is no lexeme: what other languages write, or a stray character.
    fn foreign(&mut self, rest: &str) {
        let start = self.at;
        let first = rest.chars().next().expect("the caller checked that something is left");
        if rest.starts_with("/*") {
            // One that is not closed reaches to the end of the file, so each byte is looked at once.
            let left = block_comment(rest).map_or("", |(left, _)| left);
            self.foreign_comment(start, self.source.len() - left.len());
        } else if first == '#' {
            self.foreign_comment(start, rest.find('\n').map_or(self.source.len(), |n| start + n));
        } else if matches!(first, '\'' | '`' | '\u{201c}' | '\u{2018}') {
            self.foreign_quotes(first, rest);
        } else if first == '%' {
            let span = self.span(start, start + 1);
            self.report(
                Diagnostic::error(codes::FOREIGN, span, "`%` is not an operator", "only a unit: `1%`")
                    .help("there is no remainder; glue `%` to a number to write a share"),
            );
            self.push(Tok::Slash, start + 1);
        } else {
            self.stray(rest);
        }
    }

    fn foreign_comment(&mut self, start: usize, end: usize) {
        let span = self.span(start, end);
        self.report(
            Diagnostic::error(codes::FOREIGN, span, "comments are written with `//`", "not a comment here")
                .help("start each line of the comment with `//`"),
        );
        self.at = end;
    }

    /// `'text'`: read as a string, so that one mistake is reported once.
    fn foreign_quotes(&mut self, open: char, rest: &str) {
        // Only the beginning is searched, which keeps a line of many quotes linear.
        let mut reach = rest.len().min(MAX_QUOTED);
        while !rest.is_char_boundary(reach) {
            reach -= 1;
        }
        let line = rest[..reach].split('\n').next().unwrap_or(rest);
        let close = match open {
            '\u{201c}' => '\u{201d}',
            '\u{2018}' => '\u{2019}',
            other => other,
        };
        let start = self.at;
        let inner = start + open.len_utf8();
        let length = line[open.len_utf8()..].find(close);
        let end = length.map_or(start + line.trim_end().len(), |n| inner + n + close.len_utf8());
        let span = self.span(start, end);
        self.report(
            Diagnostic::error(codes::FOREIGN, span, "text is written in double quotes", "not a string here")
                .help("use `\"…\"`, or `\"\"\"…\"\"\"` for several lines"),
        );
        self.push(Tok::TextOpen, inner);
        let text_end = length.map_or(end, |n| inner + n);
        if text_end > inner {
            self.push(Tok::Text, text_end);
        }
        self.push(Tok::TextClose, end);
    }

    fn stray(&mut self, rest: &str) {
        let start = self.at;
        let run: usize = rest
            .chars()
            .take_while(|c| !c.is_ascii() || matches!(c, '@' | '^' | '~' | '\\' | '$' | '&') || c.is_ascii_control())
            .take_while(|c| !matches!(c, '\n' | '\u{201c}' | '\u{2018}'))
            .map(char::len_utf8)
            .sum();
        let first = rest.chars().next().expect("the caller checked that something is left");
        let end = start + run.max(first.len_utf8());
        // Control and direction characters were reported by the first pass.
        let reported = rest[..end - start].chars().all(|c| c.is_control() || is_bidi(c) || c == '\u{feff}');
        if !reported {
            let span = self.span(start, end);
            let (message, help) = if first.is_alphabetic() {
                ("names are written in ASCII letters", "use a to z, digits and `_`; other letters belong in strings")
            } else {
                ("this character has no meaning here", "remove it")
            };
            self.report(Diagnostic::error(codes::CHARACTER, span, message, "cannot be read").help(help));
        }
        self.at = end;
    }

    /// The text of `"…"` up to a hole, the closing quote or the end of the line.
    fn plain(&mut self) {
        let source = self.source;
        let rest = &source[self.at..];
        let (left, text) = plain_text(rest).unwrap_or((rest, ""));
        if !text.is_empty() {
            self.push(Tok::Text, source.len() - left.len());
        }
        if left.starts_with('"') {
            self.modes.pop();
            self.push(Tok::TextClose, self.at + 1);
        } else if left.starts_with("${") {
            self.open_hole(false);
        } else {
            self.abandon_line();
        }
    }

    /// The line ends inside a plain string or one of its holes: the outermost of them is the mistake. What was read
    /// since is dropped, so that it is reported once; a `;` or `,` at the end of the line is left outside.
    fn abandon_line(&mut self) {
        let bound = |mode: &Mode| matches!(mode, Mode::Plain(_) | Mode::Hole { raw: false, .. });
        let base = self.modes.iter().rposition(|mode| !bound(mode)).map_or(0, |at| at + 1);
        let Some(Mode::Plain(string)) = self.modes.get(base) else { return };
        let string = *string;
        let hole = match self.modes.get(base + 1) {
            Some(Mode::Hole { open, .. }) => Some(*open),
            _ => None,
        };
        let inner = hole.map_or(string + 1, |open| open + 2);
        let line = self.source[inner..].split('\n').next().unwrap_or("").trim_end();
        let line_end = inner + line.len();
        let place = if line.ends_with([';', ',']) { line_end - 1 } else { line_end };
        self.modes.truncate(base);
        if let Some(open) = hole {
            self.out.tokens.truncate(self.out.tokens.partition_point(|token| (token.start as usize) < open));
            let span = self.span(open, open + 2);
            self.report(
                Diagnostic::error(codes::HOLE, span, "this `${` is not closed", "the line ends before its `}`")
                    .help("close it with `}`, or write `\\${` for the characters themselves"),
            );
        } else {
            let span = self.span(string, place);
            self.report(
                Diagnostic::error(codes::STRING, span, "this string is not closed", "runs to the end of the line")
                    .help("close it with `\"`; text of several lines is written `\"\"\"…\"\"\"`"),
            );
            let end = self.span(place, place).end;
            match self.out.tokens.last_mut() {
                Some(token) if token.kind == Tok::Text && token.start < end => token.end = token.end.min(end),
                Some(token) if token.kind == Tok::Text => drop(self.out.tokens.pop()),
                _ => {}
            }
        }
        self.at = place;
        self.push(Tok::TextClose, place);
    }

    /// The text of `"""…"""` up to a hole or the closing quotes.
    fn raw(&mut self) {
        let source = self.source;
        let rest = &source[self.at..];
        let (left, text) = raw_text(rest).unwrap_or((rest, ""));
        if !text.is_empty() {
            self.push(Tok::Text, source.len() - left.len());
        }
        if left.starts_with("\"\"\"") {
            self.modes.pop();
            self.push(Tok::TextClose, self.at + 3);
        } else if left.starts_with("${") {
            self.open_hole(true);
        }
    }

    fn open_hole(&mut self, raw: bool) {
        self.modes.push(Mode::Hole { open: self.at, braces: 0, raw });
        self.push(Tok::HoleOpen, self.at + 2);
    }

    /// The string around a raw hole ends before the hole does.
    fn pop_hole(&mut self) {
        if let Some(Mode::Hole { open, .. }) = self.modes.pop() {
            let span = self.span(open, open + 2);
            self.report(
                Diagnostic::error(codes::HOLE, span, "this `${` is not closed", "the string ends before its `}`")
                    .help("close it with `}`; the characters themselves are written `${\"\\${\"}`"),
            );
        }
        self.push(Tok::HoleClose, self.at);
    }

    /// At the end of the file everything open is closed; the outermost string is the one mistake.
    fn close_modes(&mut self) {
        if matches!(self.modes.last(), Some(Mode::Plain(_) | Mode::Hole { raw: false, .. })) {
            self.abandon_line();
            // What follows the abandoned string is a `;` or `,` at most.
            while self.at < self.source.len() && matches!(self.modes.last(), None | Some(Mode::Hole { .. })) {
                self.code();
            }
        }
        let outermost = self.modes.first().map(|mode| match mode {
            Mode::Plain(open) | Mode::Raw(open) | Mode::Hole { open, .. } => *open,
        });
        if let Some(open) = outermost {
            let width = if self.source[open..].starts_with("\"\"\"") { 3 } else { 1 };
            let span = self.span(open, open + width);
            self.report(
                Diagnostic::error(codes::STRING, span, "this string is not closed", "runs to the end of the file")
                    .help("close it with the same quotes"),
            );
        }
        while let Some(mode) = self.modes.pop() {
            let kind = if matches!(mode, Mode::Hole { .. }) { Tok::HoleClose } else { Tok::TextClose };
            self.push(kind, self.at);
        }
    }

    /// Adds a token from the present place to `end` and goes there.
    fn push(&mut self, kind: Tok, end: usize) {
        let span = self.span(self.at, end);
        self.out.tokens.push(Token { kind, start: span.start, end: span.end });
        self.at = end;
    }

    fn span(&self, start: usize, end: usize) -> Span {
        let narrow = |n: usize| u32::try_from(n).unwrap_or(u32::MAX);
        Span { file: self.file, start: narrow(start), end: narrow(end) }
    }

    fn report(&mut self, diagnostic: Diagnostic) {
        if self.out.diagnostics.len() <= super::MAX_DIAGNOSTICS {
            self.out.diagnostics.push(diagnostic);
        }
    }
}

/// The characters that reorder the text around them (Unicode UAX #9 controls).
pub(crate) fn is_bidi(c: char) -> bool {
    matches!(c, '\u{061c}' | '\u{200e}' | '\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
}

/// Code points that are never text.
pub(crate) fn is_noncharacter(c: char) -> bool {
    matches!(c, '\u{fdd0}'..='\u{fdef}') || u32::from(c) & 0xfffe == 0xfffe
}

fn is_word_byte(b: u8) -> bool {
    b.is_ascii_alphanumeric() || b == b'_'
}

fn blank(input: &str) -> IResult<&str, &str> {
    take_while1(|c: char| matches!(c, ' ' | '\t' | '\n' | '\r')).parse(input)
}

fn line_comment(input: &str) -> IResult<&str, &str> {
    preceded(tag("//"), take_while(|c: char| c != '\n')).parse(input)
}

fn block_comment(input: &str) -> IResult<&str, &str> {
    terminated(preceded(tag("/*"), take_until("*/")), tag("*/")).parse(input)
}

fn word(input: &str) -> IResult<&str, &str> {
    recognize(pair(
        satisfy(|c| c.is_ascii_alphabetic() || c == '_'),
        take_while(|c: char| c.is_ascii_alphanumeric() || c == '_'),
    ))
    .parse(input)
}

/// `digit { digit | "_" } [ "." digit { digit } ] [ "%" | letter { letter } ]`: digits, then unit.
fn quantity(input: &str) -> IResult<&str, (&str, &str)> {
    let whole = recognize(pair(satisfy(|c| c.is_ascii_digit()), take_while(|c: char| c.is_ascii_digit() || c == '_')));
    let number = recognize(pair(whole, opt(preceded(char('.'), digit1))));
    let unit = alt((tag("%"), take_while(|c: char| c.is_ascii_alphabetic())));
    pair(number, unit).parse(input)
}

/// Everything up to a quote, a hole or a line break; an escape is two characters, whatever the second.
fn plain_text(input: &str) -> IResult<&str, &str> {
    recognize(many0_count(alt((
        is_not("\"\\$\n"),
        recognize(pair(char('\\'), preceded(not(char('\n')), anychar))),
        terminated(tag("$"), not(char('{'))),
    ))))
    .parse(input)
}

/// Everything up to three quotes or a hole.
fn raw_text(input: &str) -> IResult<&str, &str> {
    recognize(many0_count(alt((
        is_not("\"$"),
        recognize(pair(not(tag("\"\"\"")), char('"'))),
        terminated(tag("$"), not(char('{'))),
    ))))
    .parse(input)
}

/// The longest punctuation that stands here.
fn punctuation(input: &str) -> IResult<&str, Tok> {
    let second = input.as_bytes().get(1);
    if matches!(second, Some(b'.' | b'=' | b':' | b'>' | b'?' | b'&' | b'|'))
        && let Ok(found) = long_punctuation(input)
    {
        return Ok(found);
    }
    map_opt(anychar, |c| single(c, second)).parse(input)
}

fn long_punctuation(input: &str) -> IResult<&str, Tok> {
    alt((
        value(Tok::RangeInclusive, tag("..=")),
        value(Tok::Range, tag("..")),
        value(Tok::PathSep, tag("::")),
        value(Tok::FatArrow, tag("=>")),
        value(Tok::Arrow, tag("->")),
        value(Tok::Eq, tag("==")),
        value(Tok::Ne, tag("!=")),
        value(Tok::Le, tag("<=")),
        value(Tok::Ge, tag(">=")),
        value(Tok::Coalesce, tag("??")),
        value(Tok::AndAnd, tag("&&")),
        value(Tok::OrOr, tag("||")),
    ))
    .parse(input)
}

fn single(c: char, second: Option<&u8>) -> Option<Tok> {
    Some(match c {
        '(' => Tok::ParenOpen,
        ')' => Tok::ParenClose,
        '{' => Tok::BraceOpen,
        '}' => Tok::BraceClose,
        '[' => Tok::BracketOpen,
        ']' => Tok::BracketClose,
        ',' => Tok::Comma,
        ';' => Tok::Semi,
        ':' => Tok::Colon,
        '.' => Tok::Dot,
        '=' => Tok::Assign,
        '<' => Tok::Lt,
        '>' => Tok::Gt,
        '+' => Tok::Plus,
        '-' => Tok::Minus,
        '*' => Tok::Star,
        // `/*` is a comment of other languages.
        '/' if second != Some(&b'*') => Tok::Slash,
        '?' => Tok::Question,
        '|' => Tok::Bar,
        '!' => Tok::Bang,
        _ => return None,
    })
}
