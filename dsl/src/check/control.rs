//! Control flow: `if match route for par race within return break fail`.
//!
//! A loop's carried type is the join of the first value, the body's value and every `break`; the body is checked again
//! when the first value alone was too narrow (`carry last = none`).

use super::{Checker, Loop, spelling, types};
use crate::ast::{self, ExprKind as A, RouteArm};
use crate::codes;
use crate::hir::{self, Const, Expr, ExprKind, Pattern, Prim, Route, Ty, WithinBudget};
use ir::diagnostic::{Diagnostic, Span};
use std::collections::BTreeSet;

impl Checker<'_> {
    pub(super) fn control(&mut self, e: &ast::Expr, expected: Option<&Ty>) -> Expr {
        let span = e.span;
        match &e.kind {
            A::If(condition, then, otherwise) => self.if_(condition, then, otherwise.as_deref(), expected, span),
            A::Match(subject, arms) => self.match_(subject, arms, expected, span),
            A::Route { choice, min, arms, otherwise } => {
                self.route(choice, min.as_deref(), arms, otherwise.as_deref(), expected, span)
            }
            A::For { pattern, iter, carry, body } => self.for_(pattern, iter, carry.as_ref(), body, span),
            A::Par { pattern, iter, body } => self.par(pattern, iter, body, span),
            A::ParRecord(limits) => self.par_record(limits, span),
            A::Race(branches) => self.race(branches, span),
            A::Within { budget, body, otherwise } => self.within(budget, body, otherwise.as_ref(), expected, span),
            A::Return(value) => self.return_(value.as_deref(), span),
            A::Break(value) => self.break_(value.as_deref(), span),
            A::Fail(message) => {
                let message = message.as_ref().map(|m| Box::new(self.check_as(m, &Ty::Text)));
                self.expr(ExprKind::Fail(message), Ty::Never, span)
            }
            _ => self.broken(span),
        }
    }

    /// The common type of branches, or a message at the one that differs.
    fn joined(&mut self, ty: &mut Ty, branch: &Expr, span: Span) {
        match types::join(ty, &branch.ty) {
            Some(joined) => *ty = joined,
            None => {
                let message = format!("branches differ: `{}` and `{}`", types::show(ty), types::show(&branch.ty));
                self.report(
                    Diagnostic::error(codes::E0204, span, message, "another type than the branches before")
                        .help("every branch gives a value of one type"),
                );
            }
        }
    }

    fn if_(
        &mut self,
        condition: &ast::Expr,
        then: &ast::Block,
        otherwise: Option<&ast::Expr>,
        expected: Option<&Ty>,
        span: Span,
    ) -> Expr {
        let condition = self.check_as(condition, &Ty::Bool);
        let then_value = self.block(then, expected);
        let (otherwise, ty) = match otherwise {
            Some(e) => {
                let value = self.check(e, expected);
                let mut ty = then_value.ty.clone();
                self.joined(&mut ty, &value, e.span);
                (Some(Box::new(value)), ty)
            }
            None => (None, Ty::Unit),
        };
        self.expr(ExprKind::If(Box::new(condition), Box::new(then_value), otherwise), ty, span)
    }

    fn match_(
        &mut self,
        subject: &ast::Expr,
        arms: &[(ast::Pattern, ast::Expr)],
        expected: Option<&Ty>,
        span: Span,
    ) -> Expr {
        let subject = self.check(subject, None);
        let mut ty = Ty::Never;
        let mut covered = Coverage::default();
        let mut checked = Vec::new();
        for (pattern, value) in arms {
            let mark = self.scope.len();
            // After an arm for `none` there is a value.
            let taken =
                if covered.constants.contains(&Const::None) { types::present(&subject.ty) } else { &subject.ty };
            let p = self.pattern_of(pattern, &taken.clone(), true);
            if covered.covers(&p, &subject.ty) {
                self.report(
                    Diagnostic::warning(codes::W0403, pattern.span, "this arm can never be taken", "covered above")
                        .help("remove it, or move it up"),
                );
            }
            covered.add(&p);
            let value_checked = self.check(value, expected);
            self.leave(mark);
            self.joined(&mut ty, &value_checked, value.span);
            checked.push((p, value_checked));
        }
        let missing = covered.missing(&subject.ty);
        if !missing.is_empty() {
            self.report(
                Diagnostic::error(
                    codes::E0212,
                    span,
                    format!("`match` does not cover {}", missing.join(", ")),
                    "no arm for these values",
                )
                .help("add the arms, or a last arm `_ => …`"),
            );
        }
        self.expr(ExprKind::Match(Box::new(subject), checked), ty, span)
    }

    fn route(
        &mut self,
        choice: &ast::Expr,
        min: Option<&ast::Expr>,
        arms: &[RouteArm],
        otherwise: Option<&ast::Expr>,
        expected: Option<&Ty>,
        span: Span,
    ) -> Expr {
        let choice = self.check_as(choice, &Ty::Choice);
        let min = min.map(|m| {
            let value = self.check(m, Some(&Ty::Prob));
            if !matches!(value.ty, Ty::Prob | Ty::Float | Ty::Never) {
                self.coerce(value, &Ty::Prob, m.span)
            } else {
                value
            }
        });
        self.distinct(arms.iter().map(|a| &a.label), "label");
        let labels = self.labels_of(&choice);
        if let Some(labels) = &labels {
            self.route_labels(labels, arms, span);
        }
        let mut ty = Ty::Never;
        let mut checked = Vec::new();
        for arm in arms {
            let value = self.check(&arm.value, expected);
            self.joined(&mut ty, &value, arm.value.span);
            checked.push((arm.label.text.clone(), value));
        }
        let otherwise = match otherwise {
            Some(e) => {
                let value = self.check(e, expected);
                self.joined(&mut ty, &value, e.span);
                value
            }
            None => self.broken(span),
        };
        let route = Route { choice, min, arms: checked, otherwise };
        self.expr(ExprKind::Route(Box::new(route)), ty, span)
    }

    fn route_labels(&mut self, labels: &[String], arms: &[RouteArm], span: Span) {
        let taken: BTreeSet<&str> = arms.iter().map(|a| a.label.text.as_str()).collect();
        let missing: Vec<String> =
            labels.iter().filter(|l| !taken.contains(l.as_str())).map(|l| format!("`{l}`")).collect();
        if !missing.is_empty() {
            let keyword = Span { end: span.start + 5, ..span };
            self.report(
                Diagnostic::warning(
                    codes::W0404,
                    keyword,
                    format!("no arm for {}", missing.join(", ")),
                    "goes to `else`",
                )
                .help("give each label an arm, if that is not meant"),
            );
        }
        for arm in arms {
            if labels.contains(&arm.label.text) {
                continue;
            }
            let d = Diagnostic::warning(
                codes::W0403,
                arm.label.span,
                format!("`{}` is not a label of the choice", arm.label.text),
                "can never be taken",
            );
            let d = match spelling::nearest(&arm.label.text, labels.iter().map(String::as_str)) {
                Some(near) => {
                    d.help(format!("did you mean `{near}`?")).fix(format!("write `{near}`"), arm.label.span, near)
                }
                None => d.help(format!("the labels are {}", labels.join(", "))),
            };
            self.report(d);
        }
    }

    /// The labels of a choice, where the program spells them out.
    pub(super) fn labels_of(&self, e: &Expr) -> Option<Vec<String>> {
        match &e.kind {
            ExprKind::Choose(_, _, labels) => self.texts_of(labels),
            ExprKind::Local(local) => self.scope.of(*local)?.labels.clone(),
            _ => None,
        }
    }

    fn texts_of(&self, e: &Expr) -> Option<Vec<String>> {
        match &e.kind {
            ExprKind::Prim(Prim::List, items) => items
                .iter()
                .map(|i| match self.value_of(i) {
                    Ok(Const::Text(t)) => Some(t),
                    _ => None,
                })
                .collect(),
            ExprKind::ConstItem(i) => match &self.consts[*i].state {
                super::State::Done(inner) => self.texts_of(inner),
                _ => None,
            },
            _ => None,
        }
    }

    /// The items of what a loop walks.
    fn item_of_list(&mut self, list: &Expr) -> (Ty, Option<u64>) {
        match &list.ty {
            Ty::List(item, n) => ((**item).clone(), *n),
            Ty::Never => (Ty::Never, None),
            other => {
                let message = format!("a `{}` cannot be walked", types::show(other));
                let d = Diagnostic::error(codes::E0204, list.span, message, "not a list");
                let d = match other {
                    Ty::Int => d.help("write a range: `0..n`"),
                    Ty::Text => d.help("take its lines: `split_lines(t)`"),
                    _ => d.help("`for` and `par` walk lists and ranges"),
                };
                self.report(d);
                (Ty::Never, None)
            }
        }
    }

    fn for_(
        &mut self,
        pattern: &ast::Pattern,
        iter: &ast::Expr,
        carry: Option<&(ast::Name, Box<ast::Expr>)>,
        body: &ast::Block,
        span: Span,
    ) -> Expr {
        let iter = self.check(iter, None);
        let (item, _) = self.item_of_list(&iter);
        let first = carry.map(|(name, e)| (name, self.check(e, None)));
        let mut carried = first.as_ref().map_or(Ty::Unit, |(_, e)| e.ty.clone());
        let mut rounds = 0;
        loop {
            rounds += 1;
            let messages = self.diagnostics.len();
            let calls = self.calls.len();
            let mark = self.scope.len();
            let used = self.scope.uses();
            let p = self.pattern_of(pattern, &item, false);
            let local = first.as_ref().map(|(name, _)| self.bind(name, carried.clone()));
            self.place.loops.push(Loop { carries: first.is_some(), broken: Ty::Never });
            let value = self.block(body, first.as_ref().map(|_| &carried));
            let broken = self.place.loops.pop().map_or(Ty::Never, |l| l.broken);
            let whole = types::join(&carried, &value.ty).and_then(|t| types::join(&t, &broken));
            let wider = match (&first, &whole) {
                (Some(_), Some(t)) if *t != carried => Some(types::without_lengths(t)),
                _ => None,
            };
            if let Some(wider) = wider.filter(|w| rounds < 3 && *w != carried) {
                self.scope.cut(mark);
                self.scope.restore_uses(&used);
                self.diagnostics.truncate(messages);
                self.calls.truncate(calls);
                carried = wider;
                continue;
            }
            // Rounds may be counted without a look at the item or the carried value.
            self.leave_silently(mark);
            let ty = match (&first, whole) {
                (None, _) => Ty::Unit,
                (Some(_), Some(ty)) => ty,
                (Some(_), None) => {
                    let message = format!(
                        "the loop carries a `{}`, its body gives a `{}`",
                        types::show(&carried),
                        types::show(&value.ty)
                    );
                    let place = body.value.as_ref().map_or(body.span, |v| v.span);
                    self.report(
                        Diagnostic::error(codes::E0204, place, message, "becomes the next carried value")
                            .help("the value of the block is the next value of the carried name"),
                    );
                    carried.clone()
                }
            };
            let carry = first.and_then(|(_, e)| local.map(|l| (l, e)));
            let node = hir::For { pattern: p, iter, carry, body: value };
            return self.expr(ExprKind::For(Box::new(node)), ty, span);
        }
    }

    fn par(&mut self, pattern: &ast::Pattern, iter: &ast::Expr, body: &ast::Block, span: Span) -> Expr {
        let iter = self.check(iter, None);
        let (item, length) = self.item_of_list(&iter);
        let mark = self.scope.len();
        let p = self.pattern_of(pattern, &item, false);
        let outer = std::mem::take(&mut self.place.loops);
        let value = self.block(body, None);
        self.place.loops = outer;
        self.leave_silently(mark);
        let ty = Ty::List(Box::new(value.ty.clone()), length);
        self.expr(ExprKind::Par(p, Box::new(iter), Box::new(value)), ty, span)
    }

    fn par_record(&mut self, limits: &ast::Limits, span: Span) -> Expr {
        self.distinct(limits.entries.iter().map(|(n, _)| n), "name");
        let outer = std::mem::take(&mut self.place.loops);
        let entries: Vec<(String, Expr)> =
            limits.entries.iter().map(|(name, e)| (name.text.clone(), self.check(e, None))).collect();
        self.place.loops = outer;
        let fields = entries.iter().map(|(n, e)| (n.clone(), e.ty.clone())).collect();
        self.expr(ExprKind::ParRecord(entries), Ty::Record("par".to_owned(), fields), span)
    }

    fn race(&mut self, branches: &[ast::Expr], span: Span) -> Expr {
        let mut ty = Ty::Never;
        let outer = std::mem::take(&mut self.place.loops);
        let mut checked = Vec::new();
        for branch in branches {
            let value = self.check(branch, None);
            self.joined(&mut ty, &value, branch.span);
            checked.push(value);
        }
        self.place.loops = outer;
        self.expr(ExprKind::Race(checked), ty, span)
    }

    fn within(
        &mut self,
        budget: &ast::WithinBudget,
        body: &ast::Block,
        otherwise: Option<&ast::Block>,
        expected: Option<&Ty>,
        span: Span,
    ) -> Expr {
        let budget = match budget {
            ast::WithinBudget::Limits(limits) => {
                self.distinct(limits.entries.iter().map(|(n, _)| n), "limit");
                let mut entries = Vec::new();
                for (name, value) in &limits.entries {
                    if let Some(ty) = self.limit_type(name) {
                        entries.push((name.text.clone(), self.check_as(value, &ty)));
                    }
                }
                WithinBudget::Limits(entries)
            }
            ast::WithinBudget::Expr(e) => WithinBudget::Value(Box::new(self.check_as(e, &Ty::Budget))),
        };
        let value = self.block(body, expected);
        let mut ty = value.ty.clone();
        let otherwise = otherwise.map(|b| {
            let value = self.block(b, expected);
            self.joined(&mut ty, &value, b.span);
            Box::new(value)
        });
        self.expr(ExprKind::Within(budget, Box::new(value), otherwise), ty, span)
    }

    fn return_(&mut self, value: Option<&ast::Expr>, span: Span) -> Expr {
        let Some(result) = self.place.result.clone() else {
            self.misplaced("return", "in a function or strategy", span);
            return self.broken(span);
        };
        let value = match value {
            Some(v) => Some(Box::new(self.check_as(v, &result))),
            None => {
                if !types::fits(&Ty::Unit, &result) {
                    let message = format!("`return` needs a `{}`", types::show(&result));
                    self.error(codes::E0204, span, message, "gives nothing");
                }
                None
            }
        };
        self.expr(ExprKind::Return(value), Ty::Never, span)
    }

    fn break_(&mut self, value: Option<&ast::Expr>, span: Span) -> Expr {
        let Some(innermost) = self.place.loops.last().cloned() else {
            self.misplaced("break", "in the body of a `for`, not inside a `par` or a function within it", span);
            return self.broken(span);
        };
        let value = value.map(|v| self.check(v, None));
        match &value {
            Some(v) if !innermost.carries => {
                self.report(
                    Diagnostic::error(codes::E0211, v.span, "the loop has no value to break with", "nothing takes it")
                        .help("give the loop a carried value: `for x in xs carry result = none { … }`"),
                );
            }
            Some(v) => match types::join(&innermost.broken, &v.ty) {
                Some(ty) => {
                    if let Some(l) = self.place.loops.last_mut() {
                        l.broken = ty;
                    }
                }
                None => {
                    let message =
                        format!("`break` gives a `{}` and a `{}`", types::show(&innermost.broken), types::show(&v.ty));
                    self.error(codes::E0204, v.span, message, "another type than the `break` before");
                }
            },
            None => {}
        }
        self.expr(ExprKind::Break(value.map(Box::new)), Ty::Never, span)
    }
}

/// Which values the arms so far take.
#[derive(Default)]
struct Coverage {
    all: bool,
    constants: Vec<Const>,
}

impl Coverage {
    fn add(&mut self, pattern: &Pattern) {
        match pattern {
            Pattern::Const(value) => self.constants.push(value.clone()),
            p if irrefutable(p) => self.all = true,
            _ => {}
        }
    }

    /// Nothing is left for the pattern.
    fn covers(&self, pattern: &Pattern, ty: &Ty) -> bool {
        self.all
            || matches!(pattern, Pattern::Const(value) if self.constants.contains(value))
            || (irrefutable(pattern) && *ty != Ty::Never && !self.constants.is_empty() && self.missing(ty).is_empty())
    }

    fn missing(&self, ty: &Ty) -> Vec<String> {
        if self.all || *ty == Ty::Never {
            return Vec::new();
        }
        let without = |wanted: Vec<Const>| -> Vec<String> {
            wanted.into_iter().filter(|c| !self.constants.contains(c)).map(|c| shown(&c)).collect()
        };
        match ty {
            Ty::Enum(_, labels) => without(labels.iter().map(|l| Const::Label(l.clone())).collect()),
            Ty::Bool => without(vec![Const::Bool(true), Const::Bool(false)]),
            Ty::Optional(inner) => {
                let mut missing = self.missing(inner);
                missing.extend(without(vec![Const::None]));
                missing
            }
            _ => vec!["other values".to_owned()],
        }
    }
}

fn irrefutable(pattern: &Pattern) -> bool {
    match pattern {
        Pattern::Any | Pattern::Bind(_) => true,
        Pattern::Const(_) => false,
        Pattern::Tuple(items) => items.iter().all(irrefutable),
    }
}

fn shown(value: &Const) -> String {
    match value {
        Const::Label(l) => format!("`{l}`"),
        Const::Bool(b) => format!("`{b}`"),
        Const::None => "`none`".to_owned(),
        other => format!("{other:?}"),
    }
}
