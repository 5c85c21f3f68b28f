//! Blocks, statements, patterns, and the expressions that end with a block.
//!
//! The last simple expression without `;`, or the last block-like statement without `;`, is the value of a block.

use super::lex::{Tok, Token};
use super::{Bail, Parsed, Parser, Resume, broken_expr, codes, make};
use crate::ast::{
    Block, Expr, ExprKind, Limits, Literal, Name, Pattern, PatternKind, RouteArm, Stmt, StmtKind, WithinBudget,
};

impl Parser<'_> {
    /// `{ … }`; `wanted` completes "expected …".
    pub(super) fn block(&mut self, wanted: &str) -> Parsed<Block> {
        let open = self.expect(Tok::BraceOpen, wanted)?;
        self.nested(|p| p.block_rest(open))
    }

    fn block_rest(&mut self, open: Token) -> Parsed<Block> {
        let mut stmts = Vec::new();
        let mut value = None;
        loop {
            if self.eat(Tok::BraceClose) {
                return Ok(Block { stmts, value, span: self.since(open.start) });
            }
            if self.at(Tok::End) || self.at_item() || matches!(self.kind(), Tok::HoleClose | Tok::TextClose) {
                // The block is kept as far as it was read: the next item reads on.
                let Bail = self.unclosed(open, "}");
                return Ok(Block { stmts, value, span: self.since(open.start) });
            }
            let (before, start) = (self.pos, self.token().start);
            match self.piece(&mut stmts) {
                Ok(found) => value = found,
                Err(Bail) => {
                    self.skip(Resume::Statement);
                    if self.pos == before && !self.at(Tok::BraceClose) {
                        self.bump();
                    }
                    self.push_broken(&mut stmts, start);
                }
            }
        }
    }

    #[inline(never)]
    fn push_broken(&self, stmts: &mut Vec<Stmt>, start: u32) {
        let span = self.since(start);
        stmts.push(Stmt { kind: StmtKind::Expr(broken_expr(span)), span });
    }

    #[expect(clippy::boxed_local, reason = "unboxed here, so that the frames of the recursion stay small")]
    #[inline(never)]
    fn push_expr(&self, stmts: &mut Vec<Stmt>, expr: Box<Expr>, start: u32) {
        stmts.push(Stmt { kind: StmtKind::Expr(*expr), span: self.since(start) });
    }

    /// One statement, added to `stmts`, or the value of the block.
    fn piece(&mut self, stmts: &mut Vec<Stmt>) -> Parsed<Option<Box<Expr>>> {
        if self.at_blocklike() {
            return self.blocklike_piece(stmts);
        }
        let start = self.token().start;
        match self.word() {
            "let" => self.let_stmt(stmts)?,
            "assert" => self.assert_stmt(stmts)?,
            "mock" => self.mock_stmt(stmts)?,
            _ if self.at(Tok::Semi) => {
                let span = self.here();
                self.bump();
                self.error_at(codes::UNEXPECTED, span, "an empty statement", "nothing before `;`", "remove the `;`");
                self.push_broken(stmts, start);
            }
            _ => return self.simple_piece(stmts),
        }
        Ok(None)
    }

    fn assert_stmt(&mut self, stmts: &mut Vec<Stmt>) -> Parsed<()> {
        let start = self.bump().start;
        let condition = self.expr()?;
        self.end_stmt("`assert`")?;
        stmts.push(Stmt { kind: StmtKind::Assert(*condition), span: self.since(start) });
        Ok(())
    }

    fn mock_stmt(&mut self, stmts: &mut Vec<Stmt>) -> Parsed<()> {
        let start = self.bump().start;
        let name = self.name("the name of what is mocked")?;
        self.expect(Tok::Assign, "`=` and the answers")?;
        let answers = self.expr()?;
        self.end_stmt("`mock`")?;
        stmts.push(Stmt { kind: StmtKind::Mock(name, *answers), span: self.since(start) });
        Ok(())
    }

    fn let_stmt(&mut self, stmts: &mut Vec<Stmt>) -> Parsed<()> {
        let start = self.bump().start;
        if self.at_word("mut") {
            let span = self.here();
            let help = "remove `mut`; `for … carry acc = init { … }` computes step by step";
            self.error_at(codes::FOREIGN, span, "values do not change", "no mutation", help);
            self.bump();
        }
        let pattern = self.pattern()?;
        let ty = if self.eat(Tok::Colon) { Some(self.ty()?) } else { None };
        self.expect(Tok::Assign, "`=` and a value")?;
        let value = self.expr()?;
        self.end_stmt("`let`")?;
        stmts.push(Stmt { kind: StmtKind::Let(pattern, ty, *value), span: self.since(start) });
        Ok(())
    }

    /// The `;` of a statement that cannot be a value.
    fn end_stmt(&mut self, what: &str) -> Parsed<()> {
        if self.eat(Tok::Semi) {
            return Ok(());
        }
        if self.starts_line() || self.closes() {
            self.missing(";", what);
            return Ok(());
        }
        Err(self.unexpected("`;`"))
    }

    fn blocklike_piece(&mut self, stmts: &mut Vec<Stmt>) -> Parsed<Option<Box<Expr>>> {
        let start = self.token().start;
        let expr = self.blocklike()?;
        if !self.eat(Tok::Semi) {
            if self.at(Tok::BraceClose) {
                return Ok(Some(expr));
            }
            self.no_operator_after_block();
        }
        self.push_expr(stmts, expr, start);
        Ok(None)
    }

    fn simple_piece(&mut self, stmts: &mut Vec<Stmt>) -> Parsed<Option<Box<Expr>>> {
        let start = self.token().start;
        let first = self.word();
        let expr = self.simple()?;
        match self.kind() {
            Tok::Semi => {
                self.bump();
            }
            Tok::BraceClose => return Ok(Some(expr)),
            Tok::Assign => {
                let span = self.here();
                let help = "bind a new name with `let`; in a loop use `carry`";
                self.error_at(codes::FOREIGN, span, "values do not change", "assignment", help);
                return Err(Bail);
            }
            Tok::Word if matches!(expr.kind, ExprKind::Path(_)) && !self.starts_line() => {
                return Err(self.misspelled_stmt(first, &expr));
            }
            _ if self.starts_line() && !self.closes() => self.missing(";", "this statement"),
            _ => return Err(self.unexpected("`;` or `}`")),
        }
        self.push_expr(stmts, expr, start);
        Ok(None)
    }

    /// Two words in a row: the first was meant to be a keyword.
    fn misspelled_stmt(&mut self, word: &str, expr: &Expr) -> Bail {
        const WORDS: &[&str] = &[
            "let", "assert", "mock", "if", "match", "route", "for", "par", "race", "within", "return", "break", "fail",
        ];
        let guess = super::text::did_you_mean(word, WORDS);
        let advice = match word {
            "while" | "loop" | "until" => Some("loops have a constant bound: `for i in 0..8 carry acc = init { … }`"),
            "var" | "const" | "val" | "auto" => Some("bind with `let`"),
            _ => None,
        };
        let message = format!("`{word}` does not start a statement");
        let mut error =
            ir::diagnostic::Diagnostic::error(codes::KEYWORD, expr.span, message, "not a keyword and not a value");
        error.help = Some(match (advice, &guess) {
            (Some(advice), _) => advice.to_owned(),
            (None, Some((_, help))) => help.clone(),
            (None, None) => "a `;` or an operator is missing between the two words".to_owned(),
        });
        if let (None, Some((meant, _))) = (advice, guess) {
            error = error.fix(format!("write `{meant}`"), expr.span, meant);
        }
        self.report(error);
        Bail
    }

    /// An operator behind a block: the block was meant as an operand.
    pub(super) fn no_operator_after_block(&mut self) {
        let operator = matches!(
            self.kind(),
            Tok::Coalesce
                | Tok::Dot
                | Tok::Plus
                | Tok::Star
                | Tok::Slash
                | Tok::Eq
                | Tok::Ne
                | Tok::Lt
                | Tok::Le
                | Tok::Gt
                | Tok::Ge
        ) || matches!(self.word(), "and" | "or" | "on");
        if operator {
            let (span, shown) = (self.here(), self.describe());
            let message = format!("{shown} cannot follow a block");
            let help = "put the whole block form in parentheses, or bind it with `let`";
            self.error_at(codes::OPERAND, span, &message, "the form before ends with its block", help);
            // The operator and its operand are dropped, so that the mistake is reported once.
            self.bump();
            while !self.ends_operand() {
                self.bump();
            }
        }
    }

    fn ends_operand(&self) -> bool {
        self.closes() || matches!(self.kind(), Tok::Semi | Tok::Comma | Tok::BraceOpen) || self.starts_line()
    }

    pub(super) fn pattern(&mut self) -> Parsed<Pattern> {
        self.nested(Self::pattern_here)
    }

    fn pattern_here(&mut self) -> Parsed<Pattern> {
        let token = self.token();
        let literal = match (token.kind, self.word()) {
            (Tok::Quantity, _) => Some(Literal::Quantity(self.quantity())),
            (Tok::TextOpen | Tok::RawOpen, _) => Some(Literal::Text(self.plain_string("a string")?)),
            (_, "true" | "false") => Some(Literal::Bool(self.slice(self.token()) == "true")),
            (_, "none") => Some(Literal::None),
            _ => None,
        };
        let kind = match literal {
            Some(literal) => {
                if token.kind == Tok::Word {
                    self.bump();
                }
                PatternKind::Literal(literal)
            }
            None if token.kind == Tok::ParenOpen => {
                let open = self.bump();
                let parts = self.list(open, (Tok::ParenClose, ")"), Self::pattern, |_| None)?;
                if parts.len() < 2 {
                    let span = self.since(open.start);
                    let help = "remove the parentheses, or add a second part";
                    self.error_at(codes::UNEXPECTED, span, "a tuple has two or more parts", "too few parts", help);
                }
                PatternKind::Tuple(parts)
            }
            None => {
                let name = self.name("a pattern")?;
                if self.at(Tok::PathSep) {
                    let span = self.here();
                    let help = "write the label alone: the type is known here";
                    self.error_at(codes::UNEXPECTED, span, "a pattern is not a path", "not needed", help);
                    return Err(Bail);
                }
                PatternKind::Name(name)
            }
        };
        Ok(Pattern { kind, span: self.since(token.start) })
    }

    // --- forms that end with a block ---

    pub(super) fn at_blocklike(&self) -> bool {
        matches!(self.word(), "if" | "match" | "route" | "for" | "par" | "race" | "within")
    }

    pub(super) fn blocklike(&mut self) -> Parsed<Box<Expr>> {
        self.nested(|p| {
            let start = p.token().start;
            let word = p.word();
            p.bump();
            match word {
                "if" => p.if_rest(start),
                "match" => p.match_rest(start),
                "route" => p.route_rest(start),
                "for" => p.for_rest(start),
                "par" => p.par_rest(start),
                "race" => p.race_rest(start),
                _ => p.within_rest(start),
            }
        })
    }

    fn if_rest(&mut self, start: u32) -> Parsed<Box<Expr>> {
        let condition = self.simple()?;
        let then = self.block("a block after the condition")?;
        let otherwise = if self.eat_word("else") {
            let start = self.token().start;
            Some(if self.at_word("if") {
                self.blocklike()?
            } else {
                let block = self.block("a block or `if` after `else`")?;
                make(ExprKind::Block(block), self.since(start))
            })
        } else {
            None
        };
        Ok(make(ExprKind::If(condition, then, otherwise), self.since(start)))
    }

    fn match_rest(&mut self, start: u32) -> Parsed<Box<Expr>> {
        let subject = self.simple()?;
        let open = self.expect(Tok::BraceOpen, "`{` with the arms of the match")?;
        let arm = |p: &mut Self| {
            let pattern = p.pattern()?;
            p.expect(Tok::FatArrow, "`=>` and a value")?;
            Ok((pattern, *p.expr_or_block()?))
        };
        let arms = self.list(open, (Tok::BraceClose, "}"), arm, |_| None)?;
        if arms.is_empty() {
            let span = self.since(open.start);
            self.error_at(codes::UNEXPECTED, span, "a match needs an arm", "no arms", "write `pattern => value`");
        }
        Ok(make(ExprKind::Match(subject, arms), self.since(start)))
    }

    fn route_rest(&mut self, start: u32) -> Parsed<Box<Expr>> {
        let choice = self.simple()?;
        let min = if self.eat_word("min") { Some(self.simple()?) } else { None };
        let open = self.expect(Tok::BraceOpen, "`{` with the arms of the route")?;
        let arm = |p: &mut Self| {
            let label = if p.at_word("else") { p.any_word("a label")? } else { p.name("a label")? };
            p.expect(Tok::FatArrow, "`=>` and a value")?;
            Ok(RouteArm { label, value: *p.expr_or_block()? })
        };
        let mut arms = self.list(open, (Tok::BraceClose, "}"), arm, |_| None)?;
        let otherwise = arms.pop_if(|arm| arm.label.text == "else").map(|arm| Box::new(arm.value));
        if otherwise.is_none() {
            let span = self.since(open.start);
            let help = "add `else => …` as the last arm";
            self.error_at(codes::ROUTE, span, "a route ends with an `else` arm", "no last `else`", help);
        } else if arms.is_empty() {
            let span = self.since(open.start);
            let help = "name a label of the choice: `easy => …`";
            self.error_at(codes::ROUTE, span, "a route needs an arm beside `else`", "nothing to choose", help);
        }
        let early: Vec<_> = arms.iter().filter(|arm| arm.label.text == "else").map(|arm| arm.label.span).collect();
        for span in early {
            self.error_at(codes::ROUTE, span, "`else` is the last arm", "not last", "move it to the end");
        }
        Ok(make(ExprKind::Route { choice, min, arms, otherwise }, self.since(start)))
    }

    fn for_rest(&mut self, start: u32) -> Parsed<Box<Expr>> {
        let pattern = self.pattern()?;
        self.expect_word("in")?;
        let iter = self.simple()?;
        let carry = if self.eat_word("carry") {
            let name = self.name("the name of the carried value")?;
            self.expect(Tok::Assign, "`=` and the first value")?;
            Some((name, self.simple()?))
        } else {
            None
        };
        let body = self.block("a block as the body of the loop")?;
        Ok(make(ExprKind::For { pattern, iter, carry, body }, self.since(start)))
    }

    fn par_rest(&mut self, start: u32) -> Parsed<Box<Expr>> {
        if self.at(Tok::BraceOpen) {
            let branches = self.limits("with named branches")?;
            return Ok(make(ExprKind::ParRecord(branches), self.since(start)));
        }
        let pattern = self.pattern()?;
        self.expect_word("in")?;
        let iter = self.simple()?;
        let body = self.block("a block as the body of the loop")?;
        Ok(make(ExprKind::Par { pattern, iter, body }, self.since(start)))
    }

    fn race_rest(&mut self, start: u32) -> Parsed<Box<Expr>> {
        let open = self.expect(Tok::BraceOpen, "`{` with the racing expressions")?;
        let racers = self.exprs(open, (Tok::BraceClose, "}"))?;
        if racers.len() < 2 {
            let span = self.since(open.start);
            let help = "separate two or more expressions with `,`";
            self.error_at(codes::UNEXPECTED, span, "a race needs two expressions", "too few", help);
        }
        Ok(make(ExprKind::Race(racers), self.since(start)))
    }

    fn within_rest(&mut self, start: u32) -> Parsed<Box<Expr>> {
        let budget = if self.at(Tok::BraceOpen) {
            WithinBudget::Limits(self.limits("with limits")?)
        } else {
            WithinBudget::Expr(*self.nested(Self::postfix)?)
        };
        let body = self.block("a block under the limits")?;
        let otherwise = if self.eat_word("else") { Some(self.block("a block after `else`")?) } else { None };
        Ok(make(ExprKind::Within { budget: Box::new(budget), body, otherwise }, self.since(start)))
    }

    /// `{ name: expr, … }`; `what` completes "expected `{` …".
    pub(super) fn limits(&mut self, what: &str) -> Parsed<Limits> {
        let open = self.expect(Tok::BraceOpen, &format!("`{{` {what}"))?;
        let entry = |p: &mut Self| -> Parsed<(Name, Expr)> {
            let name = p.any_word("a name")?;
            p.expect(Tok::Colon, "`:` and a value")?;
            Ok((name, *p.expr()?))
        };
        let entries = self.nested(|p| p.list(open, (Tok::BraceClose, "}"), entry, |_| None))?;
        let span = self.since(open.start);
        if entries.is_empty() && !self.halted {
            self.error_at(codes::UNEXPECTED, span, "nothing between the braces", "empty", "write `name: value`");
        }
        Ok(Limits { entries, span })
    }
}
