//! Expressions: operators by precedence, postfix forms, literals, strings and lambdas.
//!
//! From loose to tight: `??`, `or`, `and`, `not`, comparison, range, `+ -`, `* /`, unary `-`, postfix. Comparisons and
//! ranges do not chain. The block-like forms are in `stmt`.

use ir::diagnostic::{Diagnostic, Span};

use super::lex::Tok;
use super::{Bail, Parsed, Parser, Resume, Token, broken_expr, codes, make, text};
use crate::ast::{Arg, BinOp, Expr, ExprKind, Literal, Name, Quantity, Rule, RuleLevel, Template, TemplatePart, UnOp};

const LEVEL_OR: u8 = 1;
const LEVEL_NOT: u8 = 3;
const LEVEL_CMP: u8 = 4;
const LEVEL_RANGE: u8 = 5;
const LEVEL_SUM: u8 = 6;
const LEVEL_PROD: u8 = 7;

impl Parser<'_> {
    /// `expr = simple | blocklike`
    pub(super) fn expr(&mut self) -> Parsed<Box<Expr>> {
        if self.at_blocklike() {
            let expr = self.blocklike()?;
            self.no_operator_after_block();
            return Ok(expr);
        }
        self.simple()
    }

    /// `simple = lambda | jump | coalesce`
    pub(super) fn simple(&mut self) -> Parsed<Box<Expr>> {
        match self.kind() {
            Tok::Bar => self.nested(Self::lambda),
            Tok::Word if matches!(self.word(), "return" | "break" | "fail") => self.nested(Self::jump),
            _ => self.coalesce(),
        }
    }

    /// An expression, or a block: the body of a lambda or of an arm.
    pub(super) fn expr_or_block(&mut self) -> Parsed<Box<Expr>> {
        if !self.at(Tok::BraceOpen) {
            return self.expr();
        }
        let start = self.token().start;
        let block = self.block("a block here")?;
        Ok(make(ExprKind::Block(block), self.since(start)))
    }

    fn lambda(&mut self) -> Parsed<Box<Expr>> {
        let start = self.bump().start;
        let mut names = vec![self.name("the name of a lambda's parameter")?];
        while self.eat(Tok::Comma) {
            names.push(self.name("the name of a lambda's parameter")?);
        }
        self.expect(Tok::Bar, "`|`")?;
        let body = self.expr_or_block()?;
        Ok(make(ExprKind::Lambda(names, body), self.since(start)))
    }

    fn jump(&mut self) -> Parsed<Box<Expr>> {
        let start = self.token().start;
        let word = self.word();
        self.bump();
        let value = if self.ends_expr() { None } else { Some(self.expr()?) };
        let kind = match word {
            "return" => ExprKind::Return(value),
            "break" => ExprKind::Break(value),
            _ => ExprKind::Fail(value),
        };
        Ok(make(kind, self.since(start)))
    }

    fn ends_expr(&self) -> bool {
        self.closes() || matches!(self.kind(), Tok::Semi | Tok::Comma | Tok::FatArrow) || self.at_word("else")
    }

    /// `or [ "??" ( or | "fail" or ) ]`; a chain of `??` groups to the right.
    fn coalesce(&mut self) -> Parsed<Box<Expr>> {
        let left = self.binary(LEVEL_OR)?;
        if !self.eat(Tok::Coalesce) {
            return Ok(left);
        }
        let start = self.token().start;
        let right = if self.eat_word("fail") {
            let value = if self.ends_expr() { None } else { Some(self.nested(|p| p.binary(LEVEL_OR))?) };
            make(ExprKind::Fail(value), self.since(start))
        } else if matches!(self.word(), "return" | "break") {
            let (span, word) = (self.here(), self.word());
            let message = format!("`{word}` cannot follow `??`");
            self.error_at(codes::OPERAND, span, &message, "not a value", "only a value or `fail …` may follow `??`");
            return Err(Bail);
        } else {
            self.nested(Self::coalesce)?
        };
        self.link()?;
        Ok(binary_node(BinOp::Coalesce, left, right))
    }

    /// Operators that bind at least as tightly as `level`.
    fn binary(&mut self, level: u8) -> Parsed<Box<Expr>> {
        let outer = std::mem::replace(&mut self.height, 0);
        let result = self.binary_chain(level);
        self.height = self.height.max(outer);
        result
    }

    fn binary_chain(&mut self, level: u8) -> Parsed<Box<Expr>> {
        let mut left = self.prefix(level)?;
        let mut last = None;
        while let Some((op, op_level)) = self.operator().filter(|(_, l)| *l >= level) {
            if last == Some(op_level) && matches!(op_level, LEVEL_CMP | LEVEL_RANGE) {
                self.refuse_chain(op_level);
                return Err(Bail);
            }
            self.bump();
            let right = self.nested(|p| p.binary(op_level + 1))?;
            self.link()?;
            last = Some(op_level);
            left = binary_node(op, left, right);
        }
        Ok(left)
    }

    fn refuse_chain(&mut self, level: u8) {
        let span = self.here();
        if level == LEVEL_CMP {
            let help = "join two comparisons: `a < b and b < c`";
            self.error_at(codes::CHAIN, span, "comparisons do not chain", "second comparison", help);
        } else {
            self.error_at(codes::CHAIN, span, "a range has two ends", "a third end", "remove it");
        }
    }

    fn operator(&self) -> Option<(BinOp, u8)> {
        Some(match self.kind() {
            Tok::Word => match self.word() {
                "or" => (BinOp::Or, LEVEL_OR),
                "and" => (BinOp::And, LEVEL_OR + 1),
                _ => return None,
            },
            Tok::OrOr => (BinOp::Or, LEVEL_OR),
            Tok::AndAnd => (BinOp::And, LEVEL_OR + 1),
            Tok::Eq => (BinOp::Eq, LEVEL_CMP),
            Tok::Ne => (BinOp::Ne, LEVEL_CMP),
            Tok::Lt => (BinOp::Lt, LEVEL_CMP),
            Tok::Le => (BinOp::Le, LEVEL_CMP),
            Tok::Gt => (BinOp::Gt, LEVEL_CMP),
            Tok::Ge => (BinOp::Ge, LEVEL_CMP),
            Tok::Range => (BinOp::Range, LEVEL_RANGE),
            Tok::RangeInclusive => (BinOp::RangeInclusive, LEVEL_RANGE),
            Tok::Plus => (BinOp::Add, LEVEL_SUM),
            Tok::Minus => (BinOp::Sub, LEVEL_SUM),
            Tok::Star => (BinOp::Mul, LEVEL_PROD),
            Tok::Slash => (BinOp::Div, LEVEL_PROD),
            _ => return None,
        })
    }

    fn prefix(&mut self, level: u8) -> Parsed<Box<Expr>> {
        let start = self.token().start;
        if self.at(Tok::Bang) || self.at_word("not") {
            if level > LEVEL_NOT && !self.at(Tok::Bang) {
                let span = self.here();
                let help = "put it in parentheses: `(not a)`";
                self.error_at(codes::OPERAND, span, "`not` binds less tightly than this", "needs parentheses", help);
            }
            self.bump();
            let value = self.nested(|p| p.binary(LEVEL_NOT))?;
            return Ok(unary_node(UnOp::Not, value, self.since(start)));
        }
        if self.eat(Tok::Minus) {
            let value = self.nested(|p| p.prefix(u8::MAX))?;
            return Ok(unary_node(UnOp::Neg, value, self.since(start)));
        }
        self.postfix()
    }

    /// `primary { "(" args ")" | "[" expr "]" | "." NAME | "on" "{" rule { rule } "}" }`
    pub(super) fn postfix(&mut self) -> Parsed<Box<Expr>> {
        let outer = std::mem::replace(&mut self.height, 0);
        let result = self.postfix_chain();
        self.height = self.height.max(outer);
        result
    }

    fn postfix_chain(&mut self) -> Parsed<Box<Expr>> {
        let mut expr = self.primary()?;
        loop {
            expr = match self.kind() {
                Tok::ParenOpen => self.call(expr)?,
                Tok::BracketOpen => self.index(expr)?,
                Tok::Dot => self.field(expr)?,
                Tok::Word if self.at_word("on") => self.on(expr)?,
                _ => return Ok(expr),
            };
            self.link()?;
        }
    }

    fn call(&mut self, callee: Box<Expr>) -> Parsed<Box<Expr>> {
        let start = callee.span.start;
        let args = self.args()?;
        Ok(make(ExprKind::Call(callee, args), self.since(start)))
    }

    fn index(&mut self, list: Box<Expr>) -> Parsed<Box<Expr>> {
        let start = list.span.start;
        let open = self.bump();
        let index = self.nested(Self::expr)?;
        if !self.eat(Tok::BracketClose) {
            return Err(self.unclosed(open, "]"));
        }
        Ok(make(ExprKind::Index(list, index), self.since(start)))
    }

    fn field(&mut self, record: Box<Expr>) -> Parsed<Box<Expr>> {
        let start = record.span.start;
        self.bump();
        let name = self.any_word("the name of a field")?;
        Ok(make(ExprKind::Field(record, name), self.since(start)))
    }

    fn on(&mut self, sampled: Box<Expr>) -> Parsed<Box<Expr>> {
        let start = sampled.span.start;
        let rules = self.rules()?;
        Ok(make(ExprKind::On(sampled, rules), self.since(start)))
    }

    fn args(&mut self) -> Parsed<Vec<Arg>> {
        let open = self.bump();
        self.nested(|p| {
            let broken = |span| Some(Arg { name: None, value: broken_expr(span) });
            p.list(open, (Tok::ParenClose, ")"), Self::arg, broken)
        })
    }

    fn arg(&mut self) -> Parsed<Arg> {
        let named = self.at(Tok::Word) && self.token_at(1).kind == Tok::Colon;
        let name = if named {
            let name = self.any_word("the name of an argument")?;
            self.bump();
            Some(name)
        } else {
            None
        };
        Ok(Arg { name, value: *self.expr()? })
    }

    fn primary(&mut self) -> Parsed<Box<Expr>> {
        let token = self.token();
        let span = self.span_of(token);
        match token.kind {
            Tok::Quantity => {
                let quantity = self.quantity();
                Ok(make(ExprKind::Literal(Literal::Quantity(quantity)), span))
            }
            Tok::TextOpen | Tok::RawOpen => self.string(),
            Tok::BracketOpen => self.nested(Self::brackets),
            Tok::ParenOpen => self.nested(Self::parens),
            Tok::BraceOpen => Err(self.refuse_brace()),
            Tok::Word => self.word_expr(),
            _ => Err(self.unexpected("an expression")),
        }
    }

    fn word_expr(&mut self) -> Parsed<Box<Expr>> {
        let token = self.token();
        let span = self.span_of(token);
        let literal = match self.word() {
            "true" => Some(Literal::Bool(true)),
            "false" => Some(Literal::Bool(false)),
            "none" => Some(Literal::None),
            _ => None,
        };
        if let Some(literal) = literal {
            self.bump();
            return Ok(make(ExprKind::Literal(literal), span));
        }
        if self.at_blocklike() {
            let word = self.word();
            let help = format!("put it in parentheses: `({word} …)`, or bind it with `let`");
            self.error_at(codes::OPERAND, span, &format!("`{word}` cannot be an operand"), "ends with a block", &help);
            return Err(Bail);
        }
        if super::RESERVED.contains(&self.word()) {
            return Err(self.unexpected("an expression"));
        }
        let mut path = vec![self.any_word("a name")?];
        while self.eat(Tok::PathSep) {
            path.push(self.name("part of a path")?);
        }
        Ok(make(ExprKind::Path(path), self.since(token.start)))
    }

    fn brackets(&mut self) -> Parsed<Box<Expr>> {
        let open = self.bump();
        let items = self.exprs(open, (Tok::BracketClose, "]"))?;
        Ok(make(ExprKind::List(items), self.since(open.start)))
    }

    fn parens(&mut self) -> Parsed<Box<Expr>> {
        let open = self.bump();
        if self.at(Tok::ParenClose) {
            return Err(self.unexpected("an expression"));
        }
        let items = self.exprs(open, (Tok::ParenClose, ")"))?;
        Ok(self.paren_node(items, open))
    }

    fn paren_node(&self, mut items: Vec<Expr>, open: Token) -> Box<Expr> {
        let single = if items.len() == 1 { items.pop() } else { None };
        let kind = match single {
            Some(inner) => ExprKind::Paren(Box::new(inner)),
            None => ExprKind::Tuple(items),
        };
        make(kind, self.since(open.start))
    }

    /// `{` where an expression should start.
    fn refuse_brace(&mut self) -> Bail {
        let span = self.here();
        let named = self.token_at(1).kind == Tok::Word && self.token_at(2).kind == Tok::Colon;
        let quoted = self.token_at(1).kind == Tok::TextOpen;
        if named || quoted {
            let help =
                "a record comes out of a model: `out: json(T)`; names with values stand after `within`, `allow`, `par`";
            self.error_at(codes::RECORD, span, "a record cannot be written out", "record literal", help);
        } else {
            let help = "a bare block is the body of a lambda or of an arm; remove the braces";
            self.error_at(codes::OPERAND, span, "a block cannot stand here", "expected an expression", help);
        }
        Bail
    }

    pub(super) fn quantity(&mut self) -> Quantity {
        let token = self.bump();
        let text = self.slice(token);
        let split = text.find(|c: char| c == '%' || c.is_ascii_alphabetic()).unwrap_or(text.len());
        Quantity { digits: text[..split].to_owned(), unit: text[split..].to_owned() }
    }

    // --- strings ---

    /// A string as an expression: a literal if it has no holes.
    fn string(&mut self) -> Parsed<Box<Expr>> {
        let template = self.template()?;
        let span = template.span;
        let kind = match plain_text(&template) {
            Some(text) => ExprKind::Literal(Literal::Text(text)),
            None => ExprKind::Template(template),
        };
        Ok(make(kind, span))
    }

    /// A string without holes.
    pub(super) fn plain_string(&mut self, wanted: &str) -> Parsed<String> {
        if !matches!(self.kind(), Tok::TextOpen | Tok::RawOpen) {
            return Err(self.unexpected(wanted));
        }
        let template = self.template()?;
        if let Some(text) = plain_text(&template) {
            return Ok(text);
        }
        let help = "write the text out; `\\${` stands for the characters";
        self.error_at(codes::HOLE, template.span, "there is nothing to interpolate here", "has a hole", help);
        Ok(String::new())
    }

    /// `"…"` or `"""…"""`; the caller saw the opening quotes.
    pub(super) fn template(&mut self) -> Parsed<Template> {
        let open = self.bump();
        let raw = open.kind == Tok::RawOpen;
        let mut parts = Vec::new();
        loop {
            match self.kind() {
                Tok::Text => {
                    let token = self.bump();
                    let slice = self.slice(token);
                    parts.push(TemplatePart::Text(if raw {
                        slice.to_owned()
                    } else {
                        text::unescape(slice, self.file, token.start, &mut self.diagnostics)
                    }));
                }
                Tok::HoleOpen => {
                    let start = self.bump().end;
                    let expr = self.nested(Self::hole).unwrap_or_else(|Bail| Box::new(broken_expr(self.since(start))));
                    parts.push(TemplatePart::Hole(*expr));
                }
                _ => break,
            }
        }
        if !self.eat(Tok::TextClose) {
            // Only after reading stopped: the lexer closes every string.
            return Err(Bail);
        }
        if raw {
            parts = text::dedent(parts);
        }
        Ok(Template { parts, raw, span: self.since(open.start) })
    }

    /// The expression of a hole and its closing brace.
    fn hole(&mut self) -> Parsed<Box<Expr>> {
        if self.at(Tok::HoleClose) {
            let span = self.here();
            // A hole that was not closed ends with a token of no width, and is reported already.
            if span.start == span.end {
                self.bump();
                return Err(Bail);
            }
            self.error_at(codes::HOLE, span, "this hole is empty", "expected an expression", "name a value: `${q}`");
            self.bump();
            return Err(Bail);
        }
        let result = self.expr();
        if result.is_ok() && !self.at(Tok::HoleClose) {
            let _ = self.unexpected("`}` at the end of the hole");
        }
        self.skip_hole();
        result
    }

    /// Goes behind the `}` of the present hole, over nested strings, in one pass.
    fn skip_hole(&mut self) {
        let mut strings = 0usize;
        while !self.at(Tok::End) {
            match self.kind() {
                Tok::TextOpen | Tok::RawOpen => strings += 1,
                Tok::TextClose => strings = strings.saturating_sub(1),
                Tok::HoleClose if strings == 0 => {
                    self.bump();
                    return;
                }
                _ => {}
            }
            self.bump();
        }
    }

    // --- rules ---

    fn rules(&mut self) -> Parsed<Vec<Rule>> {
        self.bump();
        let open = self.expect(Tok::BraceOpen, "`{` with rules after `on`")?;
        self.nested(|p| {
            let mut rules = Vec::new();
            let mut broken = false;
            while !p.eat(Tok::BraceClose) {
                if p.at(Tok::End) || p.at_item() {
                    return Err(p.unclosed(open, "}"));
                }
                let before = p.pos;
                match p.rule() {
                    Ok(rule) => rules.push(rule),
                    Err(Bail) => {
                        broken = true;
                        p.skip(Resume::Statement);
                        if p.pos == before {
                            return Err(Bail);
                        }
                    }
                }
            }
            if rules.is_empty() && !broken {
                let span = p.since(open.start);
                let help = "write a rule: `token(d) when d.entropy > 2.0 => branch(2);`";
                p.error_at(codes::UNEXPECTED, span, "an `on` block needs a rule", "no rules", help);
            }
            Ok(rules)
        })
    }

    fn rule(&mut self) -> Parsed<Rule> {
        let start = self.token().start;
        let level_span = self.here();
        let level = match self.word() {
            "token" => RuleLevel::Token,
            "step" => RuleLevel::Step,
            "end" => RuleLevel::End,
            "set" => RuleLevel::Set,
            word => {
                let found = self.describe();
                let message = format!("expected a rule, found {found}");
                let guess = text::did_you_mean(word, &["token", "step", "end", "set"]);
                let help =
                    guess.map_or_else(|| "a rule starts with `token`, `step`, `end` or `set`".into(), |(_, h)| h);
                self.report(Diagnostic::error(codes::UNEXPECTED, level_span, message, "not a rule").help(help));
                return Err(Bail);
            }
        };
        self.bump();
        let open = self.expect(Tok::ParenOpen, "`(` with the name that the rule binds")?;
        let name = |p: &mut Self| p.name("the name that a rule binds");
        let vars: Vec<Name> = self.list(open, (Tok::ParenClose, ")"), name, |_| None)?;
        if vars.is_empty() {
            let span = self.since(open.start);
            self.error_at(codes::UNEXPECTED, span, "a rule binds a name", "no name", "write `(d)` after the level");
        }
        let when = if self.eat_word("when") { Some(*self.expr()?) } else { None };
        self.expect(Tok::FatArrow, "`=>` and an action")?;
        let mut actions = vec![*self.nested(Self::postfix)?];
        while self.eat(Tok::Comma) {
            actions.push(*self.nested(Self::postfix)?);
        }
        if !self.eat(Tok::Semi) {
            if self.starts_line() || self.at(Tok::BraceClose) {
                self.missing(";", "a rule");
            } else {
                return Err(self.unexpected("`;`"));
            }
        }
        Ok(Rule { level, level_span, vars, when, actions, span: self.since(start) })
    }
}

fn binary_node(op: BinOp, left: Box<Expr>, right: Box<Expr>) -> Box<Expr> {
    let span = Span { end: right.span.end, ..left.span };
    make(ExprKind::Binary(op, left, right), span)
}

fn unary_node(op: UnOp, operand: Box<Expr>, span: Span) -> Box<Expr> {
    make(ExprKind::Unary(op, operand), span)
}

/// The text of a template without holes.
fn plain_text(template: &Template) -> Option<String> {
    let mut out = String::new();
    for part in &template.parts {
        match part {
            TemplatePart::Text(text) => out.push_str(text),
            TemplatePart::Hole(_) => return None,
        }
    }
    Some(out)
}
