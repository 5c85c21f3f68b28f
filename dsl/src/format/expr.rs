//! Expressions, blocks, statements, patterns and types as documents.

use super::Printer;
use super::comments::{BRACES, PARENS, SQUARE};
use super::doc::Doc;
use super::strings::quoted;
use ir::diagnostic::Span;

use crate::ast::{
    Arg, BinOp, Block, Expr, ExprKind, Limits, Literal, Name, Pattern, PatternKind, Rule, RuleLevel, Stmt, StmtKind,
    Type, TypeKind, UnOp, WithinBudget,
};

/// May a block with nothing but a value stand on one line?
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Layout {
    /// If the enclosing group fits.
    Inline,
    /// Never.
    Lines,
}

/// An arm of a match or route.
struct Arm<'e> {
    head: String,
    start: u32,
    value: &'e Expr,
}

impl Printer<'_> {
    pub(super) fn expr(&mut self, expr: &Expr) -> Doc {
        let stray = self.stragglers(expr.span.start);
        let doc = self.bare(expr);
        Doc::concat(vec![stray, doc])
    }

    /// An expression without any break. Comments inside are left for the next line that can hold them.
    pub(super) fn on_one_line(&mut self, expr: &Expr) -> String {
        let next = std::mem::replace(&mut self.next, self.comments.len());
        let text = self.expr(expr).flat_text();
        self.next = next;
        text
    }

    fn bare(&mut self, expr: &Expr) -> Doc {
        let close = expr.span.end.saturating_sub(1);
        match &expr.kind {
            ExprKind::Literal(Literal::Text(text)) => self.literal_text(text, expr.span.start, expr.span.end),
            ExprKind::Literal(literal) => Doc::text(literal_text(literal)),
            ExprKind::Template(template) => self.template(template),
            ExprKind::Path(names) => Doc::text(path(names)),
            ExprKind::List(items) => self.list(SQUARE, items, close, |e| e.span, Self::expr),
            ExprKind::Tuple(items) => self.list(PARENS, items, close, |e| e.span, Self::expr),
            ExprKind::Paren(inner) => self.paren(inner, close),
            ExprKind::Call(callee, args) => self.call(callee, args, close),
            ExprKind::Index(list, index) => {
                let list = self.expr(list);
                let index = self.expr(index);
                Doc::concat(vec![list, Doc::text("["), index, Doc::text("]")])
            }
            ExprKind::Field(record, name) => {
                let record = self.expr(record);
                Doc::concat(vec![record, Doc::text(format!(".{}", name.text))])
            }
            ExprKind::On(sampled, rules) => self.on(sampled, rules, close),
            ExprKind::Binary(op, left, right) => self.binary(*op, left, right),
            ExprKind::Unary(op, operand) => {
                let operand = self.expr(operand);
                Doc::concat(vec![Doc::text(if *op == UnOp::Not { "not " } else { "-" }), operand])
            }
            ExprKind::Lambda(names, body) => {
                let head = format!("|{}| ", joined(names));
                let body = self.body(body);
                Doc::concat(vec![Doc::text(head), body])
            }
            ExprKind::Return(value) => self.jump("return", value.as_deref()),
            ExprKind::Break(value) => self.jump("break", value.as_deref()),
            ExprKind::Fail(value) => self.jump("fail", value.as_deref()),
            ExprKind::Error => Doc::nil(),
            _ => self.blocklike(expr),
        }
    }

    fn jump(&mut self, word: &str, value: Option<&Expr>) -> Doc {
        match value {
            Some(value) => {
                let value = self.expr(value);
                Doc::concat(vec![Doc::text(format!("{word} ")), value])
            }
            None => Doc::text(word),
        }
    }

    fn paren(&mut self, inner: &Expr, close: u32) -> Doc {
        let lead = self.leading(inner.span.start);
        let inner = self.expr(inner);
        let rest = self.stragglers(close);
        let inside = Doc::nest(Doc::concat(vec![Doc::soft(), lead, inner, rest]));
        Doc::group(Doc::concat(vec![Doc::text("("), inside, Doc::soft(), Doc::text(")")]))
    }

    fn call(&mut self, callee: &Expr, args: &[Arg], close: u32) -> Doc {
        let callee = self.expr(callee);
        // A lambda with statements, or rules, as the last argument hugs the parentheses.
        let hugging = args.last().is_some_and(|arg| match &arg.value.kind {
            ExprKind::Lambda(_, body) => matches!(&body.kind, ExprKind::Block(block) if !block.stmts.is_empty()),
            ExprKind::On(..) => args.len() == 1,
            _ => false,
        });
        let pending = self.comments[self.next..].iter().take_while(|comment| comment.span.start < close);
        if !hugging || pending.into_iter().any(|comment| !inside(comment.span, args)) {
            let listed = self.list(PARENS, args, close, arg_span, Self::arg);
            return Doc::concat(vec![callee, listed]);
        }
        let mut parts = vec![callee, Doc::text("(")];
        for (index, arg) in args.iter().enumerate() {
            if index > 0 {
                parts.push(Doc::text(", "));
            }
            parts.push(self.arg(arg));
        }
        parts.push(Doc::text(")"));
        Doc::concat(parts)
    }

    fn arg(&mut self, arg: &Arg) -> Doc {
        let value = self.expr(&arg.value);
        match &arg.name {
            Some(name) => Doc::concat(vec![Doc::text(format!("{}: ", name.text)), value]),
            None => value,
        }
    }

    fn on(&mut self, sampled: &Expr, rules: &[Rule], close: u32) -> Doc {
        let sampled = self.expr(sampled);
        let mut inner = Vec::new();
        for (index, rule) in rules.iter().enumerate() {
            let place = self.first_place(rule.span.start);
            inner.push(if index > 0 && self.blank_before(place) { Doc::blank() } else { Doc::hard() });
            inner.push(self.leading(rule.span.start));
            inner.push(self.rule(rule));
            inner.push(self.trailing(rule.span.end));
        }
        inner.push(self.dangling(close, false));
        Doc::concat(vec![sampled, Doc::text(" on {"), Doc::nest(Doc::concat(inner)), Doc::hard(), Doc::text("}")])
    }

    fn rule(&mut self, rule: &Rule) -> Doc {
        let level = match rule.level {
            RuleLevel::Token => "token",
            RuleLevel::Step => "step",
            RuleLevel::End => "end",
            RuleLevel::Set => "set",
        };
        let mut parts = vec![Doc::text(format!("{level}({})", joined(&rule.vars)))];
        if let Some(when) = &rule.when {
            let when = self.expr(when);
            parts.push(Doc::concat(vec![Doc::text(" when "), when]));
        }
        let mut actions = vec![Doc::text(" =>")];
        for (index, action) in rule.actions.iter().enumerate() {
            if index > 0 {
                actions.push(Doc::text(","));
            }
            actions.push(Doc::line());
            actions.push(self.expr(action));
        }
        parts.push(Doc::group(Doc::nest(Doc::concat(actions))));
        parts.push(self.stragglers(rule.span.end));
        parts.push(Doc::text(";"));
        Doc::concat(parts)
    }

    /// A chain of operators of one level breaks before each operator, or nowhere.
    fn binary(&mut self, op: BinOp, left: &Expr, right: &Expr) -> Doc {
        if matches!(op, BinOp::Range | BinOp::RangeInclusive) {
            let left = self.expr(left);
            let right = self.expr(right);
            return Doc::concat(vec![left, Doc::text(sign(op)), right]);
        }
        let mut tail = vec![(op, right)];
        let mut first = left;
        while let ExprKind::Binary(inner, l, r) = &first.kind {
            if level(*inner) != level(op) || op == BinOp::Coalesce {
                break;
            }
            tail.push((*inner, r));
            first = l;
        }
        let first = self.expr(first);
        let mut rest = Vec::new();
        // After an operand of several lines the operator stays on its last line.
        let after_block = first.is_forced();
        for (op, operand) in tail.into_iter().rev() {
            let link = vec![Doc::text(format!("{} ", sign(op))), self.expr(operand)];
            if after_block {
                rest.push(Doc::text(" "));
            } else {
                rest.push(Doc::line());
            }
            rest.extend(link);
        }
        Doc::group(Doc::concat(vec![first, Doc::nest(Doc::concat(rest))]))
    }

    // --- forms that end with a block ---

    fn blocklike(&mut self, expr: &Expr) -> Doc {
        let close = expr.span.end.saturating_sub(1);
        match &expr.kind {
            ExprKind::Block(block) => Doc::group(self.block(block, Layout::Inline)),
            ExprKind::If(condition, then, otherwise) => {
                let layout = if chained(otherwise.as_deref()) { Layout::Lines } else { Layout::Inline };
                let doc = self.if_chain(condition, then, otherwise.as_deref(), layout);
                Doc::group(doc)
            }
            ExprKind::Match(subject, arms) => {
                let head = vec![Doc::text("match "), self.expr(subject)];
                let arms = arms
                    .iter()
                    .map(|(pattern, value)| Arm { head: self.pattern(pattern), start: pattern.span.start, value })
                    .collect();
                self.arms(head, arms, close)
            }
            ExprKind::Route { choice, min, arms, otherwise } => {
                let mut head = vec![Doc::text("route "), self.expr(choice)];
                if let Some(min) = min {
                    head.push(Doc::text(" min "));
                    head.push(self.expr(min));
                }
                let arm = |label: &Name, value| Arm { head: label.text.clone(), start: label.span.start, value };
                let mut arms: Vec<Arm> = arms.iter().map(|a| arm(&a.label, &a.value)).collect();
                if let Some(value) = otherwise {
                    arms.push(Arm { head: "else".to_owned(), start: value.span.start, value });
                }
                self.arms(head, arms, close)
            }
            ExprKind::For { pattern, iter, carry, body } => {
                let mut head = vec![Doc::text(format!("for {} in ", self.pattern(pattern))), self.expr(iter)];
                if let Some((name, init)) = carry {
                    head.push(Doc::text(format!(" carry {} = ", name.text)));
                    head.push(self.expr(init));
                }
                head.push(Doc::text(" "));
                head.push(self.block(body, Layout::Lines));
                Doc::concat(head)
            }
            ExprKind::Par { pattern, iter, body } => {
                let head = vec![
                    Doc::text(format!("par {} in ", self.pattern(pattern))),
                    self.expr(iter),
                    Doc::text(" "),
                    self.block(body, Layout::Inline),
                ];
                Doc::group(Doc::concat(head))
            }
            ExprKind::ParRecord(limits) => {
                let limits = self.limits(limits);
                Doc::concat(vec![Doc::text("par "), limits])
            }
            ExprKind::Race(racers) => {
                let racers = self.list(BRACES, racers, close, |e| e.span, Self::expr);
                Doc::concat(vec![Doc::text("race "), racers])
            }
            ExprKind::Within { budget, body, otherwise } => self.within(budget, body, otherwise.as_ref()),
            _ => Doc::nil(),
        }
    }

    /// `head { pattern => value, … }`, one arm a line.
    fn arms(&mut self, mut head: Vec<Doc>, arms: Vec<Arm>, close: u32) -> Doc {
        head.push(Doc::text(" {"));
        let mut inner = Vec::new();
        for (index, arm) in arms.iter().enumerate() {
            self.separate(&mut inner, index == 0, arm.start);
            inner.push(Doc::text(format!("{} => ", arm.head)));
            inner.push(self.body(arm.value));
            inner.push(Doc::text(if index + 1 < arms.len() { "," } else { "" }));
            if index + 1 == arms.len() {
                inner.push(Doc::if_broken(","));
            }
            inner.push(self.trailing(arm.value.span.end));
        }
        inner.push(self.dangling(close, false));
        head.extend([Doc::nest(Doc::concat(inner)), Doc::hard(), Doc::text("}")]);
        Doc::concat(head)
    }

    fn if_chain(&mut self, condition: &Expr, then: &Block, otherwise: Option<&Expr>, layout: Layout) -> Doc {
        let mut parts = vec![Doc::text("if "), self.expr(condition), Doc::text(" "), self.block(then, layout)];
        if let Some(otherwise) = otherwise {
            parts.push(Doc::text(" else "));
            parts.push(self.stragglers(otherwise.span.start));
            parts.push(match &otherwise.kind {
                ExprKind::Block(block) => self.block(block, layout),
                ExprKind::If(condition, then, otherwise) => {
                    self.if_chain(condition, then, otherwise.as_deref(), layout)
                }
                _ => self.expr(otherwise),
            });
        }
        Doc::concat(parts)
    }

    fn within(&mut self, budget: &WithinBudget, body: &Block, otherwise: Option<&Block>) -> Doc {
        let budget = match budget {
            WithinBudget::Limits(limits) => self.limits(limits),
            WithinBudget::Expr(expr) => self.expr(expr),
        };
        let mut parts = vec![Doc::text("within "), budget, Doc::text(" "), self.block(body, Layout::Lines)];
        if let Some(otherwise) = otherwise {
            parts.push(Doc::text(" else "));
            parts.push(self.block(otherwise, Layout::Lines));
        }
        Doc::concat(parts)
    }

    /// The body of a lambda or of an arm.
    fn body(&mut self, body: &Expr) -> Doc {
        match &body.kind {
            ExprKind::Block(block) => {
                let stray = self.stragglers(body.span.start);
                let block = self.block(block, Layout::Inline);
                Doc::concat(vec![stray, Doc::group(block)])
            }
            _ => self.expr(body),
        }
    }

    pub(super) fn limits(&mut self, limits: &Limits) -> Doc {
        let stray = self.stragglers(limits.span.start);
        let close = limits.span.end.saturating_sub(1);
        let place = |(name, value): &(Name, Expr)| Span { end: value.span.end, ..name.span };
        let listed = self.list(BRACES, &limits.entries, close, place, |p, (name, value)| {
            let value = p.expr(value);
            Doc::concat(vec![Doc::text(format!("{}: ", name.text)), value])
        });
        Doc::concat(vec![stray, listed])
    }

    // --- blocks and statements ---

    /// A block without its group: the caller decides what stands on one line together with it.
    pub(super) fn block(&mut self, block: &Block, layout: Layout) -> Doc {
        let stray = self.stragglers(block.span.start);
        let close = block.span.end.saturating_sub(1);
        let bare = block.stmts.is_empty() && !self.has_comment_before(close);
        if bare && layout == Layout::Inline {
            let Some(value) = &block.value else { return Doc::concat(vec![stray, Doc::text("{}")]) };
            let value = self.expr(value);
            let inside = Doc::nest(Doc::concat(vec![Doc::line(), value]));
            return Doc::concat(vec![stray, Doc::text("{"), inside, Doc::line(), Doc::text("}")]);
        }
        if bare && block.value.is_none() {
            return Doc::concat(vec![stray, Doc::text("{}")]);
        }
        let behind = self.trailing(block.span.start + 1);
        let inner = self.statements(block, close);
        Doc::concat(vec![stray, Doc::text("{"), behind, Doc::nest(inner), Doc::hard(), Doc::text("}")])
    }

    fn statements(&mut self, block: &Block, close: u32) -> Doc {
        let mut parts = Vec::new();
        let count = block.stmts.len();
        for (index, stmt) in block.stmts.iter().enumerate() {
            self.separate(&mut parts, index == 0, stmt.span.start);
            let last = index + 1 == count && block.value.is_none();
            parts.push(self.stmt(stmt, last));
            parts.push(self.stragglers(stmt.span.end));
            parts.push(self.trailing(stmt.span.end));
        }
        if let Some(value) = &block.value {
            self.separate(&mut parts, count == 0, value.span.start);
            parts.push(self.expr(value));
            parts.push(self.trailing(value.span.end));
        }
        if self.has_comment_before(close) {
            let first = parts.is_empty();
            if first {
                parts.push(Doc::hard());
            }
            parts.push(self.dangling(close, first));
        }
        Doc::concat(parts)
    }

    /// The break before a statement, the comments above it, and one empty line if there was one.
    fn separate(&mut self, parts: &mut Vec<Doc>, first: bool, start: u32) {
        let blank = !first && self.blank_before(self.first_place(start));
        parts.push(if blank { Doc::blank() } else { Doc::hard() });
        parts.push(self.leading(start));
    }

    fn stmt(&mut self, stmt: &Stmt, last: bool) -> Doc {
        match &stmt.kind {
            StmtKind::Let(pattern, ty, value) => {
                let mut head = format!("let {}", self.pattern(pattern));
                if let Some(ty) = ty {
                    head.push_str(&format!(": {}", self.ty(ty)));
                }
                let value = self.expr(value);
                Doc::concat(vec![Doc::text(head + " = "), value, Doc::text(";")])
            }
            StmtKind::Assert(condition) => {
                let condition = self.expr(condition);
                Doc::concat(vec![Doc::text("assert "), condition, Doc::text(";")])
            }
            StmtKind::Mock(name, answers) => {
                let answers = self.expr(answers);
                Doc::concat(vec![Doc::text(format!("mock {} = ", name.text)), answers, Doc::text(";")])
            }
            StmtKind::Expr(expr) => {
                let semicolon = if is_blocklike(expr) && !last { "" } else { ";" };
                let expr = self.expr(expr);
                Doc::concat(vec![expr, Doc::text(semicolon)])
            }
        }
    }

    // --- patterns and types: always on one line ---

    pub(super) fn pattern(&mut self, pattern: &Pattern) -> String {
        match &pattern.kind {
            PatternKind::Name(name) => name.text.clone(),
            PatternKind::Literal(literal) => literal_text(literal),
            PatternKind::Tuple(parts) => {
                let parts: Vec<_> = parts.iter().map(|part| self.pattern(part)).collect();
                format!("({})", parts.join(", "))
            }
        }
    }

    pub(super) fn ty(&mut self, ty: &Type) -> String {
        match &ty.kind {
            TypeKind::Named(name, args) if args.is_empty() => name.text.clone(),
            TypeKind::Named(name, args) => format!("{}<{}>", name.text, self.types(args)),
            TypeKind::List(element, None) => format!("[{}]", self.ty(element)),
            TypeKind::List(element, Some(bound)) => {
                let element = self.ty(element);
                format!("[{element}; {}]", self.on_one_line(bound))
            }
            TypeKind::Tuple(parts) => format!("({})", self.types(parts)),
            TypeKind::Optional(inner) => format!("{}?", self.ty(inner)),
            TypeKind::Fn(params, result) => {
                let params = self.types(params);
                format!("fn({params}) -> {}", self.ty(result))
            }
            TypeKind::Error => String::new(),
        }
    }

    fn types(&mut self, types: &[Type]) -> String {
        types.iter().map(|ty| self.ty(ty)).collect::<Vec<_>>().join(", ")
    }
}

fn arg_span(arg: &Arg) -> Span {
    Span { start: arg.name.as_ref().map_or(arg.value.span.start, |name| name.span.start), ..arg.value.span }
}

/// The place lies inside of one of the values.
fn inside(place: Span, args: &[Arg]) -> bool {
    args.iter().any(|arg| arg.value.span.start <= place.start && place.end <= arg.value.span.end)
}

/// `else if`: such a chain is never on one line.
fn chained(otherwise: Option<&Expr>) -> bool {
    otherwise.is_some_and(|expr| matches!(expr.kind, ExprKind::If(..)))
}

fn is_blocklike(expr: &Expr) -> bool {
    matches!(
        expr.kind,
        ExprKind::If(..)
            | ExprKind::Match(..)
            | ExprKind::Route { .. }
            | ExprKind::For { .. }
            | ExprKind::Par { .. }
            | ExprKind::ParRecord(_)
            | ExprKind::Race(_)
            | ExprKind::Within { .. }
    )
}

pub(super) fn joined(names: &[Name]) -> String {
    names.iter().map(|name| name.text.as_str()).collect::<Vec<_>>().join(", ")
}

fn path(names: &[Name]) -> String {
    names.iter().map(|name| name.text.as_str()).collect::<Vec<_>>().join("::")
}

fn literal_text(literal: &Literal) -> String {
    match literal {
        Literal::Quantity(quantity) => format!("{}{}", quantity.digits, quantity.unit),
        Literal::Text(text) => quoted(text),
        Literal::Bool(value) => value.to_string(),
        Literal::None => "none".to_owned(),
    }
}

fn sign(op: BinOp) -> &'static str {
    match op {
        BinOp::Or => "or",
        BinOp::And => "and",
        BinOp::Eq => "==",
        BinOp::Ne => "!=",
        BinOp::Lt => "<",
        BinOp::Le => "<=",
        BinOp::Gt => ">",
        BinOp::Ge => ">=",
        BinOp::Add => "+",
        BinOp::Sub => "-",
        BinOp::Mul => "*",
        BinOp::Div => "/",
        BinOp::Coalesce => "??",
        BinOp::Range => "..",
        BinOp::RangeInclusive => "..=",
    }
}

/// Operators of one level stand in one chain.
fn level(op: BinOp) -> u8 {
    match op {
        BinOp::Coalesce => 0,
        BinOp::Or => 1,
        BinOp::And => 2,
        BinOp::Eq | BinOp::Ne | BinOp::Lt | BinOp::Le | BinOp::Gt | BinOp::Ge => 3,
        BinOp::Range | BinOp::RangeInclusive => 4,
        BinOp::Add | BinOp::Sub => 5,
        BinOp::Mul | BinOp::Div => 6,
    }
}
