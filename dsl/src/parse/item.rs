//! Items, their parameters and types.
//!
//! A misspelled keyword is reported and the item read as if it were right, so that one letter costs one error.

use ir::diagnostic::{Diagnostic, Span};

use super::lex::Tok;
use super::{Bail, ITEM_WORDS, Parsed, Parser, Resume, codes, text};
use crate::ast::{
    Expr, ExprKind, Item, ItemKind, Limits, Literal, Name, Param, Role, Template, Type, TypeKind, UseTree,
};

/// The clauses between the result and the body of a strategy or precompute.
#[derive(Default)]
struct Clauses {
    within: Option<Limits>,
    allow: Option<Limits>,
    warm: Option<Vec<Name>>,
    ttl: Option<Expr>,
}

impl Parser<'_> {
    /// All items to the end of the file.
    pub(super) fn items(&mut self) -> Vec<Item> {
        let mut items = Vec::new();
        while !self.at(Tok::End) {
            let (before, start) = (self.pos, self.token().start);
            let doc = self.docs();
            let kind = self.item().unwrap_or_else(|Bail| {
                self.skip_item(before);
                ItemKind::Error
            });
            items.push(Item { kind, span: self.since(start), doc });
        }
        items
    }

    /// The `///` lines between the last token and this one.
    fn docs(&self) -> Vec<String> {
        let (from, to) = (self.previous_end(), self.token().start);
        let first = self.comments.partition_point(|comment| comment.span.start < from);
        self.comments[first..]
            .iter()
            .take_while(|comment| comment.span.start < to)
            .filter(|comment| comment.doc && comment.own_line)
            .map(|comment| {
                let text = comment.text.trim_start_matches('/');
                text.strip_prefix(' ').unwrap_or(text).to_owned()
            })
            .collect()
    }

    /// After an error: to the next item, or behind the statement or block that was broken.
    fn skip_item(&mut self, before: usize) {
        loop {
            let here = self.pos;
            self.skip(Resume::Statement);
            if self.pos == here && !(self.at_item() && here > before) {
                self.bump();
            }
            let ended = self.pos.checked_sub(1).map(|at| self.tokens[at].kind);
            let fresh = self.starts_line() && matches!(ended, Some(Tok::Semi | Tok::BraceClose));
            if self.at(Tok::End) || self.at_item() || fresh && self.could_start_item() {
                return;
            }
        }
    }

    fn could_start_item(&self) -> bool {
        ITEM_WORDS.contains(&self.word()) || self.meant_item().is_some()
    }

    /// The keyword that a misspelled one stands for.
    fn meant_item(&self) -> Option<&'static str> {
        let word = self.word();
        let shape = matches!(self.token_at(1).kind, Tok::Word | Tok::TextOpen);
        let foreign = match word {
            "def" | "function" | "func" | "fun" => Some("fn"),
            "struct" | "record" | "class" => Some("type"),
            "import" | "from" | "include" => Some("use"),
            _ => None,
        };
        if !shape {
            return None;
        }
        foreign.or_else(|| text::did_you_mean(word, ITEM_WORDS).map(|(found, _)| found))
    }

    fn item(&mut self) -> Parsed<ItemKind> {
        if matches!(self.kind(), Tok::BraceClose | Tok::ParenClose | Tok::BracketClose) {
            self.stray_close();
            return Ok(ItemKind::Error);
        }
        let word = self.word();
        let known = ITEM_WORDS.iter().copied().find(|w| *w == word);
        let keyword = match known {
            Some(keyword) => keyword,
            None => self.misspelled_item()?,
        };
        self.bump();
        match keyword {
            "use" => self.use_rest(),
            "model" => self.model_rest(),
            "tool" => self.tool_rest(),
            "type" => self.record_rest(),
            "enum" => self.enum_rest(),
            "prompt" => self.prompt_rest(),
            "const" => self.const_rest(),
            "tunable" => self.tunable_rest(),
            "fn" => self.fn_rest(),
            "strategy" => self.strategy_rest(),
            "precompute" => self.precompute_rest(),
            _ => {
                let title = self.plain_string("the title of the test")?;
                Ok(ItemKind::Test { title, body: self.block("a block with the test")? })
            }
        }
    }

    fn stray_close(&mut self) {
        let (span, shown) = (self.here(), self.describe());
        let help = "remove it, or look above for a block that was closed too early";
        self.error_at(codes::STRAY, span, &format!("{shown} closes nothing"), "no partner", help);
        self.bump();
    }

    /// Reports what is not an item; gives the keyword that was meant, if that is clear.
    fn misspelled_item(&mut self) -> Parsed<&'static str> {
        let span = self.here();
        let message = format!("expected an item, found {}", self.describe());
        let error = Diagnostic::error(codes::KEYWORD, span, message, "not the start of an item");
        if let Some(meant) = self.meant_item() {
            self.report(error.help(format!("did you mean `{meant}`?")).fix(format!("write `{meant}`"), span, meant));
            return Ok(meant);
        }
        let statement = self.at_blocklike() || matches!(self.word(), "let" | "assert" | "mock" | "return");
        self.report(error.help(if statement {
            "statements stand inside `strategy`, `fn`, `precompute` or `test`".to_owned()
        } else {
            format!("items start with one of: {}", ITEM_WORDS.join(", "))
        }));
        Err(Bail)
    }

    /// The `;` of an item.
    fn end_item<T>(&mut self, what: &str, value: T) -> Parsed<T> {
        if self.eat(Tok::Semi) {
            return Ok(value);
        }
        if self.starts_line() || self.at(Tok::End) {
            self.missing(";", what);
            return Ok(value);
        }
        Err(self.unexpected("`;`"))
    }

    fn use_rest(&mut self) -> Parsed<ItemKind> {
        let tree = self.nested(Self::use_tree)?;
        self.end_item("`use`", ItemKind::Use(tree))
    }

    fn use_tree(&mut self) -> Parsed<UseTree> {
        if self.at(Tok::BraceOpen) {
            let open = self.bump();
            let names = self.names(open, "the name of what is used")?;
            return Ok(UseTree::Group(names));
        }
        if matches!(self.kind(), Tok::TextOpen | Tok::RawOpen) {
            let span = self.here();
            let help = "write the name of the file without its ending: `use strategies::self_consistency;`";
            self.error_at(codes::UNEXPECTED, span, "a path is not a string", "expected a name", help);
            return Err(Bail);
        }
        let name = self.name("part of a path")?;
        if self.eat(Tok::PathSep) {
            let rest = self.nested(Self::use_tree)?;
            return Ok(UseTree::Path(name, Box::new(rest)));
        }
        let other = if self.eat_word("as") { Some(self.name("the new name")?) } else { None };
        Ok(UseTree::Name(name, other))
    }

    /// Names between braces, at least one.
    fn names(&mut self, open: super::Token, wanted: &str) -> Parsed<Vec<Name>> {
        let names = self.list(open, (Tok::BraceClose, "}"), |p| p.name(wanted), |_| None)?;
        self.some(names.len(), open, wanted);
        Ok(names)
    }

    fn some(&mut self, count: usize, open: super::Token, wanted: &str) {
        if count == 0 && !self.halted {
            let span = self.since(open.start);
            self.error_at(codes::UNEXPECTED, span, &format!("expected {wanted}"), "empty", "write at least one");
        }
    }

    fn model_rest(&mut self) -> Parsed<ItemKind> {
        let name = self.name("the name of a model")?;
        self.expect(Tok::Colon, "`:` and the kind of the model, such as `Generator`")?;
        let kind = self.name("the kind of a model")?;
        let mut needs = Vec::new();
        if self.eat_word("needs") {
            needs = self.comma_names("a capability")?;
        }
        let binding = if self.eat(Tok::Assign) { Some(*self.expr()?) } else { None };
        self.end_item("`model`", ItemKind::Model { name, kind, needs, binding })
    }

    fn comma_names(&mut self, wanted: &str) -> Parsed<Vec<Name>> {
        let mut names = vec![self.name(wanted)?];
        while self.eat(Tok::Comma) {
            names.push(self.name(wanted)?);
        }
        Ok(names)
    }

    fn tool_rest(&mut self) -> Parsed<ItemKind> {
        let (name, params, result) = self.signature("a tool")?;
        let (mut timeout, mut cost) = (None, None);
        loop {
            let (span, word) = (self.here(), self.word());
            let slot = match word {
                "timeout" => &mut timeout,
                "cost" => &mut cost,
                _ => break,
            };
            let repeated = slot.is_some();
            self.bump();
            let value = self.quantity_expr()?;
            if repeated {
                self.repeated(span, word);
            }
            *(if word == "timeout" { &mut timeout } else { &mut cost }) = Some(value);
        }
        self.end_item("`tool`", ItemKind::Tool { name, params, result, timeout, cost })
    }

    fn quantity_expr(&mut self) -> Parsed<Expr> {
        if !self.at(Tok::Quantity) {
            return Err(self.unexpected("a quantity, such as `2s`"));
        }
        let span = self.here();
        let quantity = self.quantity();
        Ok(Expr { kind: ExprKind::Literal(Literal::Quantity(quantity)), span })
    }

    fn record_rest(&mut self) -> Parsed<ItemKind> {
        let name = self.name("the name of a type")?;
        let open = self.expect(Tok::BraceOpen, "`{` with fields")?;
        let field = |p: &mut Self| {
            let name = p.any_word("the name of a field")?;
            p.expect(Tok::Colon, "`:` and the type of the field")?;
            Ok((name, p.ty()?))
        };
        let fields = self.list(open, (Tok::BraceClose, "}"), field, |_| None)?;
        self.some(fields.len(), open, "a field");
        Ok(ItemKind::Record { name, fields })
    }

    fn enum_rest(&mut self) -> Parsed<ItemKind> {
        let name = self.name("the name of an enum")?;
        let open = self.expect(Tok::BraceOpen, "`{` with labels")?;
        let labels = self.names(open, "a label")?;
        Ok(ItemKind::Enum { name, labels })
    }

    fn prompt_rest(&mut self) -> Parsed<ItemKind> {
        let name = self.name("the name of a prompt")?;
        let params = self.params()?;
        let open = self.expect(Tok::BraceOpen, "`{` with messages")?;
        let mut messages = Vec::new();
        while !self.eat(Tok::BraceClose) {
            if self.at(Tok::End) || self.at_item() {
                return Err(self.unclosed(open, "}"));
            }
            match self.message() {
                Ok(message) => messages.push(message),
                Err(Bail) => self.skip_message(),
            }
        }
        if messages.is_empty() {
            let span = self.since(open.start);
            self.error_at(codes::UNEXPECTED, span, "a prompt has messages", "none here", "write `user \"${q}\"`");
        }
        Ok(ItemKind::Prompt { name, params, messages })
    }

    fn message(&mut self) -> Parsed<(Role, Template)> {
        let role = match self.word() {
            "system" => Role::System,
            "user" => Role::User,
            "assistant" => Role::Assistant,
            word => {
                let message = format!("expected a role, found {}", self.describe());
                let guess = text::did_you_mean(word, &["system", "user", "assistant"]);
                let help = guess.map_or_else(
                    || "a message is `system`, `user` or `assistant` and a string, without separators".to_owned(),
                    |(_, help)| help,
                );
                let span = self.here();
                self.report(Diagnostic::error(codes::UNEXPECTED, span, message, "not a role").help(help));
                return Err(Bail);
            }
        };
        self.bump();
        if !matches!(self.kind(), Tok::TextOpen | Tok::RawOpen) {
            return Err(self.unexpected("the text of the message"));
        }
        Ok((role, self.template()?))
    }

    /// To the next role, over whole strings.
    fn skip_message(&mut self) {
        let mut strings = 0usize;
        loop {
            match self.kind() {
                Tok::TextOpen | Tok::RawOpen => strings += 1,
                Tok::TextClose => strings = strings.saturating_sub(1),
                Tok::End => return,
                Tok::BraceClose if strings == 0 => return,
                Tok::Word if strings == 0 && self.at_item() => return,
                Tok::Word if strings == 0 && matches!(self.word(), "system" | "user" | "assistant") => return,
                _ => {}
            }
            self.bump();
        }
    }

    fn const_rest(&mut self) -> Parsed<ItemKind> {
        let name = self.name("the name of a constant")?;
        self.expect(Tok::Colon, "`:` and a type")?;
        let ty = self.ty()?;
        self.expect(Tok::Assign, "`=` and a value")?;
        let value = *self.expr()?;
        self.end_item("`const`", ItemKind::Const { name, ty, value })
    }

    fn tunable_rest(&mut self) -> Parsed<ItemKind> {
        let name = self.name("the name of a tunable")?;
        self.expect(Tok::Colon, "`:` and a type")?;
        let ty = self.ty()?;
        self.expect(Tok::Assign, "`=` and a value")?;
        let value = *self.expr()?;
        if !self.at_word("in") {
            return Err(self.unexpected("`in` and the range that may be searched"));
        }
        self.bump();
        let range = *self.expr()?;
        self.end_item("`tunable`", ItemKind::Tunable { name, ty, value, range })
    }

    fn fn_rest(&mut self) -> Parsed<ItemKind> {
        let (name, params, result) = self.signature("a function")?;
        let body = self.block("a block as the body of the function")?;
        Ok(ItemKind::Fn { name, params, result, body })
    }

    fn strategy_rest(&mut self) -> Parsed<ItemKind> {
        let (name, params, result) = self.signature("a strategy")?;
        let clauses = self.clauses("strategy", &["within", "allow"])?;
        let body = self.block("a block as the body of the strategy")?;
        Ok(ItemKind::Strategy { name, params, result, within: clauses.within, allow: clauses.allow, body })
    }

    fn precompute_rest(&mut self) -> Parsed<ItemKind> {
        let (name, params, result) = self.signature("a precompute")?;
        let Clauses { within, warm, ttl, .. } = self.clauses("precompute", &["within", "warm", "ttl"])?;
        let warm = warm.unwrap_or_default();
        let body = self.block("a block as the body of the precompute")?;
        Ok(ItemKind::Precompute { name, params, result, within, warm, ttl, body })
    }

    fn clauses(&mut self, item: &str, allowed: &[&str]) -> Parsed<Clauses> {
        let mut clauses = Clauses::default();
        let mut seen: Vec<&str> = Vec::new();
        while let word @ ("within" | "allow" | "warm" | "ttl") = self.word() {
            let span = self.here();
            if seen.contains(&word) {
                self.repeated(span, word);
            } else if !allowed.contains(&word) {
                let help = format!("a {item} may have: {}", allowed.join(", "));
                self.error_at(codes::CLAUSE, span, &format!("a {item} has no `{word}`"), "not here", &help);
            }
            seen.push(word);
            self.bump();
            match word {
                "within" => clauses.within = Some(self.limits("with limits")?),
                "allow" => clauses.allow = Some(self.limits("with approximations")?),
                "warm" => clauses.warm = Some(self.comma_names("the name of a model")?),
                _ => clauses.ttl = Some(self.quantity_expr()?),
            }
        }
        Ok(clauses)
    }

    fn repeated(&mut self, span: Span, word: &str) {
        let message = format!("`{word}` is given twice");
        self.error_at(codes::CLAUSE, span, &message, "second time", "keep one of them");
    }

    fn signature(&mut self, what: &str) -> Parsed<(Name, Vec<Param>, Type)> {
        let name = self.name(&format!("the name of {what}"))?;
        let params = self.params()?;
        self.expect(Tok::Arrow, "`->` and the type of the result")?;
        Ok((name, params, self.ty()?))
    }

    fn params(&mut self) -> Parsed<Vec<Param>> {
        let open = self.expect(Tok::ParenOpen, "`(` with parameters")?;
        self.list(open, (Tok::ParenClose, ")"), Self::param, |_| None)
    }

    fn param(&mut self) -> Parsed<Param> {
        let name = self.name("the name of a parameter")?;
        self.expect(Tok::Colon, "`:` and the type of the parameter")?;
        let ty = self.ty()?;
        let default = if self.eat(Tok::Assign) { Some(*self.expr()?) } else { None };
        let range = if self.eat_word("in") { Some(*self.expr()?) } else { None };
        Ok(Param { name, ty, default, range })
    }

    // --- types ---

    pub(super) fn ty(&mut self) -> Parsed<Type> {
        self.nested(Self::ty_here)
    }

    fn ty_here(&mut self) -> Parsed<Type> {
        let start = self.token().start;
        if self.eat_word("fn") {
            let open = self.expect(Tok::ParenOpen, "`(` with the types of the parameters")?;
            let params = self.list(open, (Tok::ParenClose, ")"), Self::ty, |_| None)?;
            self.expect(Tok::Arrow, "`->` and the type of the result")?;
            let result = Box::new(self.ty()?);
            return Ok(Type { kind: TypeKind::Fn(params, result), span: self.since(start) });
        }
        let core = self.ty_core()?;
        if self.at(Tok::Coalesce) {
            let span = self.here();
            self.error_at(codes::UNEXPECTED, span, "a type is optional once", "second `?`", "write one `?`");
            self.bump();
        } else if !self.eat(Tok::Question) {
            return Ok(core);
        }
        Ok(Type { kind: TypeKind::Optional(Box::new(core)), span: self.since(start) })
    }

    fn ty_core(&mut self) -> Parsed<Type> {
        let token = self.token();
        let kind = match token.kind {
            Tok::BracketOpen => {
                let open = self.bump();
                let element = Box::new(self.ty()?);
                let bound = if self.eat(Tok::Semi) { Some(self.expr()?) } else { None };
                if !self.eat(Tok::BracketClose) {
                    return Err(self.unclosed(open, "]"));
                }
                TypeKind::List(element, bound)
            }
            Tok::ParenOpen => {
                let open = self.bump();
                let parts = self.list(open, (Tok::ParenClose, ")"), Self::ty, |_| None)?;
                if parts.len() < 2 {
                    let span = self.since(open.start);
                    let help = "remove the parentheses, or add a second type";
                    self.error_at(codes::UNEXPECTED, span, "a tuple has two or more parts", "too few", help);
                }
                TypeKind::Tuple(parts)
            }
            _ => {
                let name = self.name("a type")?;
                let mut args = Vec::new();
                if self.eat(Tok::Lt) {
                    args.push(self.ty()?);
                    while self.eat(Tok::Comma) {
                        args.push(self.ty()?);
                    }
                    self.close_angle()?;
                }
                TypeKind::Named(name, args)
            }
        };
        Ok(Type { kind, span: self.since(token.start) })
    }

    /// `>`, also as the first half of `>=`.
    fn close_angle(&mut self) -> Parsed<()> {
        if self.at(Tok::Ge) {
            let at = self.pos;
            self.tokens[at].kind = Tok::Assign;
            self.tokens[at].start += 1;
            return Ok(());
        }
        self.expect(Tok::Gt, "`>`").map(drop)
    }
}
