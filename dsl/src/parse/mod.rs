//! Text to syntax tree: total, linear, recovering.
//!
//! [`parse`] takes the text of one file and returns its tree and everything that is wrong with its form, in the order
//! of the text. Where something could not be read the tree holds an `Error` node and reading goes on after the next
//! `;`, `,`, closing bracket or item. Resolves no names, checks no types, opens no files.

mod codes;
mod expr;
mod item;
mod lex;
mod spell;
mod stmt;
mod text;

use ir::diagnostic::{Code, Diagnostic, Fix, Span};

pub use codes::SYNTAX_CODES;
pub(crate) use lex::{is_bidi, is_noncharacter};

use crate::ast::{Comment, Expr, ExprKind, File, Name};
use lex::{Tok, Token};

/// Longest source, in bytes.
pub const MAX_SOURCE: usize = 1 << 20;
/// Deepest nesting of expressions, types and blocks; also the longest chain of operators.
pub const MAX_DEPTH: u32 = 256;
/// Errors after which reading stops.
pub const MAX_DIAGNOSTICS: usize = 100;

/// Words that cannot be names.
const RESERVED: &[&str] = &[
    "and",
    "assert",
    "break",
    "const",
    "else",
    "enum",
    "fail",
    "false",
    "fn",
    "for",
    "if",
    "in",
    "let",
    "match",
    "mock",
    "model",
    "none",
    "not",
    "on",
    "or",
    "par",
    "precompute",
    "prompt",
    "race",
    "return",
    "route",
    "strategy",
    "test",
    "tool",
    "true",
    "tunable",
    "type",
    "use",
    "when",
    "within",
];

/// Words that start an item.
const ITEM_WORDS: &[&str] =
    &["use", "model", "tool", "type", "enum", "prompt", "const", "tunable", "fn", "strategy", "precompute", "test"];

/// Reads one file. `file` is the number that all spans carry.
///
/// A leading byte order mark is skipped, CRLF is a line break. Never panics, never recurses deeper than [`MAX_DEPTH`];
/// at most [`MAX_DIAGNOSTICS`] errors and a last one that says so are returned.
#[must_use]
pub fn parse(source: &str, file: u32) -> (File, Vec<Diagnostic>) {
    if source.len() > MAX_SOURCE {
        let span = Span { file, start: 0, end: 0 };
        let message = format!("a source file of {} bytes is too large", source.len());
        let error = Diagnostic::error(codes::SIZE, span, message, format!("at most {MAX_SOURCE} bytes"))
            .help("pass documents as parameters of type `Text` instead of writing them into the program");
        return (File::default(), vec![error]);
    }
    let lexed = lex::lex(source, file);
    let mut parser = Parser {
        source,
        file,
        tokens: lexed.tokens,
        comments: lexed.comments,
        diagnostics: lexed.diagnostics,
        pos: 0,
        depth: 0,
        height: 0,
        halted: false,
    };
    let items = parser.items();
    let Parser { comments, mut diagnostics, .. } = parser;
    diagnostics.sort_by_key(|d| (d.span.start, d.span.end));
    if diagnostics.len() > MAX_DIAGNOSTICS {
        diagnostics.truncate(MAX_DIAGNOSTICS);
        let end = u32::try_from(source.len()).unwrap_or(u32::MAX);
        let span = Span { file, start: end, end };
        diagnostics.push(
            Diagnostic::error(codes::MANY, span, "too many errors", "reading stopped before the end")
                .help("mend the first errors and run again"),
        );
    }
    (File { items, comments }, diagnostics)
}

/// Something could not be read; it is reported already.
struct Bail;

type Parsed<T> = Result<T, Bail>;

/// What ends the skipping after an error.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Resume {
    /// A `;` (consumed), or a `}` or an item.
    Statement,
    /// A `,` or the closing bracket of the list.
    Element,
}

struct Parser<'s> {
    source: &'s str,
    file: u32,
    tokens: Vec<Token>,
    comments: Vec<Comment>,
    diagnostics: Vec<Diagnostic>,
    pos: usize,
    /// Levels entered on the way here.
    depth: u32,
    /// Height of the tallest expression read since the enclosing level was entered.
    height: u32,
    /// Reading stopped: nothing more is reported.
    halted: bool,
}

impl<'s> Parser<'s> {
    // --- looking ---

    fn token(&self) -> Token {
        self.token_at(0)
    }

    fn token_at(&self, ahead: usize) -> Token {
        let last = self.tokens.len() - 1;
        self.tokens[(self.pos + ahead).min(last)]
    }

    fn kind(&self) -> Tok {
        self.token().kind
    }

    fn at(&self, kind: Tok) -> bool {
        self.kind() == kind
    }

    fn slice(&self, token: Token) -> &'s str {
        &self.source[token.start as usize..token.end as usize]
    }

    /// The present word, or an empty text.
    fn word(&self) -> &'s str {
        self.word_at(0)
    }

    fn word_at(&self, ahead: usize) -> &'s str {
        let token = self.token_at(ahead);
        if token.kind == Tok::Word { self.slice(token) } else { "" }
    }

    fn at_word(&self, word: &str) -> bool {
        self.word() == word
    }

    /// An item starts here: its keyword and what must follow it, or its keyword at the start of a line.
    fn at_item(&self) -> bool {
        let word = self.word();
        if !ITEM_WORDS.contains(&word) {
            return false;
        }
        let next = self.token_at(1).kind;
        let after = self.token_at(2).kind;
        match word {
            "test" => next == Tok::TextOpen,
            "use" => matches!(next, Tok::Word | Tok::BraceOpen),
            "model" | "const" | "tunable" => next == Tok::Word && after == Tok::Colon,
            "type" | "enum" => next == Tok::Word && after == Tok::BraceOpen,
            _ => next == Tok::Word && after == Tok::ParenOpen,
        }
    }

    fn starts_line(&self) -> bool {
        let Some(previous) = self.pos.checked_sub(1) else { return true };
        let gap = self.tokens[previous].end as usize..self.token().start as usize;
        self.source[gap].contains('\n')
    }

    fn previous_end(&self) -> u32 {
        self.pos.checked_sub(1).map_or(0, |at| self.tokens[at].end)
    }

    fn span_of(&self, token: Token) -> Span {
        Span { file: self.file, start: token.start, end: token.end }
    }

    fn here(&self) -> Span {
        self.span_of(self.token())
    }

    /// From `start` to the end of the last token read.
    fn since(&self, start: u32) -> Span {
        Span { file: self.file, start, end: self.previous_end().max(start) }
    }

    // --- moving ---

    fn bump(&mut self) -> Token {
        let token = self.token();
        if token.kind != Tok::End {
            self.pos += 1;
        }
        token
    }

    fn eat(&mut self, kind: Tok) -> bool {
        let found = self.at(kind);
        if found {
            self.bump();
        }
        found
    }

    fn eat_word(&mut self, word: &str) -> bool {
        let found = self.at_word(word);
        if found {
            self.bump();
        }
        found
    }

    fn expect(&mut self, kind: Tok, wanted: &str) -> Parsed<Token> {
        if self.at(kind) { Ok(self.bump()) } else { Err(self.unexpected(wanted)) }
    }

    fn expect_word(&mut self, word: &str) -> Parsed<()> {
        if self.eat_word(word) { Ok(()) } else { Err(self.unexpected(&format!("`{word}`"))) }
    }

    /// A name that is not a keyword.
    fn name(&mut self, wanted: &str) -> Parsed<Name> {
        let word = self.word();
        if RESERVED.contains(&word) {
            let span = self.here();
            self.report(
                Diagnostic::error(codes::RESERVED, span, format!("`{word}` cannot be {wanted}"), "a keyword")
                    .help(format!("choose another name, such as `{word}_`")),
            );
            // As a name it reads on; where an item starts, the list ended without its bracket.
            if self.at_item() {
                return Err(Bail);
            }
        }
        self.any_word(wanted)
    }

    /// A name; keywords are allowed, because nothing else can stand here.
    fn any_word(&mut self, wanted: &str) -> Parsed<Name> {
        let token = self.expect(Tok::Word, wanted)?;
        Ok(Name { text: self.slice(token).to_owned(), span: self.span_of(token) })
    }

    /// Skips to where reading can go on. Brackets that open on the way are skipped whole.
    fn skip(&mut self, resume: Resume) {
        let mut open = 0usize;
        loop {
            match self.kind() {
                Tok::End => return,
                Tok::ParenOpen | Tok::BracketOpen | Tok::BraceOpen | Tok::TextOpen | Tok::RawOpen | Tok::HoleOpen => {
                    open += 1;
                }
                Tok::ParenClose | Tok::BracketClose | Tok::BraceClose | Tok::HoleClose | Tok::TextClose if open > 0 => {
                    open -= 1;
                }
                Tok::BraceClose | Tok::HoleClose | Tok::TextClose => return,
                Tok::ParenClose | Tok::BracketClose if resume == Resume::Element => return,
                Tok::Comma if open == 0 && resume == Resume::Element => return,
                Tok::Semi if open == 0 => {
                    if resume == Resume::Statement {
                        self.bump();
                    }
                    return;
                }
                Tok::Word if self.starts_line() && self.at_item() => return,
                // A statement on a new line at the same level.
                Tok::Word if open == 0 && self.starts_line() && matches!(self.word(), "let" | "assert" | "mock") => {
                    return;
                }
                _ => {}
            }
            self.bump();
        }
    }

    // --- reporting ---

    fn report(&mut self, diagnostic: Diagnostic) {
        if self.halted {
            return;
        }
        self.diagnostics.push(diagnostic);
        if self.diagnostics.len() > MAX_DIAGNOSTICS {
            self.halt();
        }
    }

    /// Stops reading: everything after this place is the end of the file.
    fn halt(&mut self) {
        self.halted = true;
        self.pos = self.tokens.len() - 1;
    }

    fn unexpected(&mut self, wanted: &str) -> Bail {
        let found = self.describe();
        let span = self.here();
        let label = format!("expected {wanted}");
        let mut error = Diagnostic::error(codes::UNEXPECTED, span, format!("expected {wanted}, found {found}"), label);
        error.help = Some(self.advice().unwrap_or_else(|| format!("put {wanted} here, or remove {found}")));
        self.report(error);
        Bail
    }

    /// What a reader of other languages probably wanted.
    fn advice(&self) -> Option<String> {
        let text = match self.kind() {
            Tok::End => "the file ends too early; is a bracket or a `;` missing?",
            Tok::Assign => "`=` follows `let NAME`, `carry NAME` and the head of an item; to compare write `==`",
            Tok::Word => match self.word() {
                "while" | "loop" | "until" => "loops have a constant bound: `for i in 0..8 carry acc = init { … }`",
                "mut" | "var" => "values do not change; `for … carry acc = init { … }` computes step by step",
                "null" | "None" | "nil" => "the missing value is written `none`",
                "elif" | "elsif" => "write `else if`",
                "def" | "function" | "func" => "write `fn` for a function, `strategy` for an entry point",
                _ => return None,
            },
            _ => return None,
        };
        Some(text.to_owned())
    }

    fn describe(&self) -> String {
        let token = self.token();
        match token.kind {
            Tok::End => "the end of the file".to_owned(),
            Tok::TextOpen | Tok::RawOpen | Tok::Text => "a string".to_owned(),
            Tok::TextClose => "the end of the string".to_owned(),
            Tok::HoleClose => "the end of the hole".to_owned(),
            Tok::Word if RESERVED.contains(&self.word()) => format!("the keyword `{}`", self.word()),
            _ => {
                let text = self.slice(token);
                let short: String = text.chars().take(32).collect();
                if short.len() < text.len() { format!("`{short}…`") } else { format!("`{text}`") }
            }
        }
    }

    /// A separator is missing where a new line starts: reported at the end of the line before, read on.
    fn missing(&mut self, separator: &str, after: &str) {
        let end = self.previous_end();
        let span = Span { file: self.file, start: end, end };
        self.report(Diagnostic {
            fix: Some(Fix { title: format!("add `{separator}`"), span, text: separator.to_owned() }),
            ..Diagnostic::error(
                codes::SEPARATOR,
                span,
                format!("`{separator}` is missing after {after}"),
                format!("add `{separator}`"),
            )
            .help(format!("write `{separator}` here"))
        });
    }

    fn unclosed(&mut self, open: Token, close: &str) -> Bail {
        let opened = self.slice(open);
        let message = format!("`{opened}` is not closed before {}", self.describe());
        let (here, opening) = (self.here(), self.span_of(open));
        self.report(
            Diagnostic::error(codes::UNCLOSED, here, message, format!("expected `{close}`"))
                .related(opening, "opened here".to_owned())
                .help(format!("add `{close}`")),
        );
        Bail
    }

    fn error_at(&mut self, code: Code, span: Span, message: &str, label: &str, help: &str) {
        self.report(Diagnostic::error(code, span, message, label).help(help));
    }

    // --- depth ---

    /// Runs `read` one level deeper; refuses at [`MAX_DEPTH`].
    fn nested<T>(&mut self, read: impl FnOnce(&mut Self) -> Parsed<T>) -> Parsed<T> {
        if self.depth >= MAX_DEPTH {
            return Err(self.too_deep());
        }
        self.depth += 1;
        let outer = std::mem::replace(&mut self.height, 0);
        let result = read(self);
        self.depth -= 1;
        self.height = outer.max(self.height + 1);
        if self.height + self.depth > MAX_DEPTH + 1 && !self.halted {
            return Err(self.too_deep());
        }
        result
    }

    /// One more link of a chain that hangs on everything read at this level.
    fn link(&mut self) -> Parsed<()> {
        self.height += 1;
        if self.height + self.depth > MAX_DEPTH { Err(self.too_deep()) } else { Ok(()) }
    }

    fn too_deep(&mut self) -> Bail {
        let span = self.here();
        self.error_at(
            codes::DEPTH,
            span,
            "the program is nested too deeply",
            &format!("more than {MAX_DEPTH} levels"),
            "split the expression with `let`",
        );
        self.halt();
        Bail
    }

    // --- lists ---

    /// Elements separated by commas up to `close`, which is consumed. A broken element becomes `broken`, if there is
    /// such a thing, and reading goes on with the next.
    fn list<T>(
        &mut self,
        open: Token,
        close: (Tok, &str),
        element: impl Fn(&mut Self) -> Parsed<T>,
        broken: impl Fn(Span) -> Option<T>,
    ) -> Parsed<Vec<T>> {
        let mut elements = Vec::new();
        self.separated(open, close, &mut |p, bad| {
            match bad {
                Some(span) => elements.extend(broken(span)),
                None => elements.push(element(p)?),
            }
            Ok(())
        })?;
        Ok(elements)
    }

    /// Expressions separated by commas up to `close`.
    fn exprs(&mut self, open: Token, close: (Tok, &str)) -> Parsed<Vec<Expr>> {
        self.list(open, close, |p| p.expr().map(|expr| *expr), |span| Some(broken_expr(span)))
    }

    /// The commas and brackets of [`Self::list`]: `element` reads one element, or takes the place of a broken one.
    fn separated(
        &mut self,
        open: Token,
        close: (Tok, &str),
        element: &mut dyn FnMut(&mut Self, Option<Span>) -> Parsed<()>,
    ) -> Parsed<()> {
        loop {
            if self.eat(close.0) {
                return Ok(());
            }
            if self.ends_list() {
                return Err(self.unclosed(open, close.1));
            }
            let start = self.token().start;
            if element(self, None).is_err() {
                self.skip(Resume::Element);
                let _ = element(self, Some(self.since(start)));
                // Another bracket, a `;` or an item: whoever opened it reads on.
                if !self.at(close.0) && !self.at(Tok::Comma) {
                    return Err(Bail);
                }
            }
            if self.eat(Tok::Comma) || self.at(close.0) || self.ends_list() {
                continue;
            }
            if self.starts_line() && !self.closes() {
                self.missing(",", "this element");
            } else {
                let _ = self.unexpected(&format!("`,` or `{}`", close.1));
                self.skip(Resume::Element);
                if !self.eat(Tok::Comma) && !self.at(close.0) {
                    return Err(Bail);
                }
            }
        }
    }

    /// Nothing more of a list can follow: its bracket is missing.
    fn ends_list(&self) -> bool {
        matches!(self.kind(), Tok::End | Tok::Semi) || self.at_item()
    }

    fn closes(&self) -> bool {
        matches!(
            self.kind(),
            Tok::ParenClose | Tok::BracketClose | Tok::BraceClose | Tok::HoleClose | Tok::TextClose | Tok::End
        )
    }
}

/// A finished expression. On its own so that the frames of the recursion hold no whole expressions.
#[inline(never)]
fn make(kind: ExprKind, span: Span) -> Box<Expr> {
    Box::new(Expr { kind, span })
}

/// The stand-in for an expression that could not be read.
fn broken_expr(span: Span) -> Expr {
    Expr { kind: ExprKind::Error, span }
}
