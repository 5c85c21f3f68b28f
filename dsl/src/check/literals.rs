//! Literals and constants: numbers with units, and the values of constant expressions.
//!
//! A literal takes its type from its place (`1` where a `Float` is needed); a bare number never becomes a quantity.
//! Arithmetic on constants is checked: an overflow is an error, not a wrap.

use super::{Checker, State, spelling, types};
use crate::ast::{self, Literal, Quantity};
use crate::builtins::UNITS;
use crate::codes;
use crate::hir::{Const, Expr, ExprKind, Prim, Ty};
use ir::diagnostic::{Diagnostic, Span};
use std::rc::Rc;

impl Checker<'_> {
    pub(super) fn literal(&mut self, literal: &Literal, expected: Option<&Ty>, span: Span) -> Expr {
        let (value, ty) = match literal {
            Literal::Text(text) => (Const::Text(text.clone()), Ty::Text),
            Literal::Bool(b) => (Const::Bool(*b), Ty::Bool),
            Literal::None => (Const::None, types::optional(Ty::Never)),
            Literal::Quantity(q) => match self.quantity(q, expected.map(types::present), span) {
                Some(known) => known,
                None => return self.broken(span),
            },
        };
        self.expr(ExprKind::Const(value), ty, span)
    }

    fn quantity(&mut self, q: &Quantity, expected: Option<&Ty>, span: Span) -> Option<(Const, Ty)> {
        let digits: String = q.digits.chars().filter(|c| *c != '_').collect();
        let Some(number) = digits.parse::<f64>().ok().filter(|x| x.is_finite()) else {
            self.error(codes::E0215, span, "the number is too large", "does not fit");
            return None;
        };
        if q.unit.is_empty() {
            return self.plain_number(&digits, number, expected, span);
        }
        let Some((_, ty, factor)) = UNITS.iter().find(|(name, _, _)| *name == q.unit) else {
            self.unknown_unit(q, span);
            return None;
        };
        let value = number * factor;
        if *ty == "Tokens" || *ty == "Bytes" {
            // Counts are exact: 1.0005ktok would silently lose half a token.
            if value.fract() != 0.0 || value >= 9.0e18 {
                let message = format!("`{}{}` is not a whole number of {}", q.digits, q.unit, ty.to_lowercase());
                self.error(codes::E0215, span, message, "cannot be counted");
                return None;
            }
            let count = value as u64;
            return Some(if *ty == "Tokens" {
                (Const::Tokens(count), Ty::Tokens)
            } else {
                (Const::Bytes(count), Ty::Bytes)
            });
        }
        match *ty {
            "Time" => Some((Const::Time(value), Ty::Time)),
            "Usd" => Some((Const::Usd(value), Ty::Usd)),
            _ => match expected {
                Some(Ty::Float) => Some((Const::Float(value), Ty::Float)),
                _ => self.probability(value, span).map(|c| (c, Ty::Prob)),
            },
        }
    }

    fn plain_number(&mut self, digits: &str, number: f64, expected: Option<&Ty>, span: Span) -> Option<(Const, Ty)> {
        match expected {
            Some(Ty::Prob) => return self.probability(number, span).map(|c| (c, Ty::Prob)),
            Some(Ty::Float) => return Some((Const::Float(number), Ty::Float)),
            Some(ty) if types::quantity(ty) => {
                let unit = match ty {
                    Ty::Tokens => "tok",
                    Ty::Time => "s",
                    Ty::Usd => "usd",
                    _ => "B",
                };
                self.report(
                    Diagnostic::error(
                        codes::E0203,
                        span,
                        format!("a bare number is not {}", quantity_name(ty)),
                        "has no unit",
                    )
                    .help(format!("write `{digits}{unit}`"))
                    .fix("add the unit", Span { start: span.end, ..span }, unit),
                );
                return None;
            }
            _ => {}
        }
        if digits.contains(['.', 'e', 'E']) {
            return Some((Const::Float(number), Ty::Float));
        }
        match digits.parse::<i64>() {
            Ok(n) => Some((Const::Int(n), Ty::Int)),
            Err(_) => {
                self.error(codes::E0215, span, "the number is too large", "does not fit 64 bits");
                None
            }
        }
    }

    fn probability(&mut self, value: f64, span: Span) -> Option<Const> {
        if (0.0..=1.0).contains(&value) {
            return Some(Const::Float(value));
        }
        self.error(codes::E0215, span, format!("{value} is not a probability"), "outside 0..=1");
        None
    }

    fn unknown_unit(&mut self, q: &Quantity, span: Span) {
        let names: Vec<&str> = UNITS.iter().map(|(n, _, _)| *n).collect();
        let d = Diagnostic::error(codes::E0203, span, format!("there is no unit `{}`", q.unit), "not known");
        let d = match spelling::nearest(&q.unit, names.iter().copied()) {
            Some(near) => d.help(format!("did you mean `{}{near}`?", q.digits)).fix(
                format!("use `{near}`"),
                span,
                format!("{}{near}", q.digits),
            ),
            None => d.help(format!("units are {}", names.join(" "))),
        };
        self.report(d);
    }

    /// Checks an expression of the expected type that must be a single constant, and evaluates it.
    pub(super) fn constant(&mut self, e: &ast::Expr, expected: Option<&Ty>) -> Option<Const> {
        let checked = match expected {
            Some(ty) => self.check_as(e, ty),
            None => self.check(e, None),
        };
        if checked.ty == Ty::Never {
            return None;
        }
        match self.value_of(&checked) {
            Ok(value) => Some(value),
            Err(reason) => {
                self.report(
                    Diagnostic::error(codes::E0218, e.span, "a constant was expected", reason)
                        .help("write a literal or the name of a `const`"),
                );
                None
            }
        }
    }

    /// The value of a constant expression, or why it has none.
    pub(super) fn value_of(&self, e: &Expr) -> Result<Const, &'static str> {
        const VARIES: &str = "is known only when the program runs";
        match &e.kind {
            ExprKind::Const(value) => Ok(value.clone()),
            ExprKind::ConstItem(i) => match &self.consts[*i].state {
                State::Done(inner) => self.value_of(inner),
                _ => Err(VARIES),
            },
            ExprKind::Block(stmts, Some(value)) if stmts.is_empty() => self.value_of(value),
            ExprKind::Prim(prim, operands) => {
                let values = operands.iter().map(|o| self.value_of(o)).collect::<Result<Vec<_>, _>>()?;
                fold(prim, &values)
            }
            _ => Err(VARIES),
        }
    }

    /// The expression has no effects and depends on nothing outside: it may be a constant item.
    pub(super) fn is_constant(&self, e: &Expr) -> bool {
        match &e.kind {
            ExprKind::Const(_) | ExprKind::ConstItem(_) | ExprKind::Error => true,
            ExprKind::Prim(prim, operands) => {
                let folds = matches!(
                    prim,
                    Prim::Add | Prim::Sub | Prim::Mul | Prim::Div | Prim::Neg | Prim::List | Prim::Tuple
                );
                folds && operands.iter().all(|o| self.is_constant(o))
            }
            _ => false,
        }
    }

    /// A constant item, checked on first use.
    pub(super) fn const_item(&mut self, index: usize) -> Expr {
        let (module, item) = (self.consts[index].module, self.consts[index].item);
        let file = Rc::clone(&self.modules[module].file);
        let ast::ItemKind::Const { name, ty, value } = &file.items[item].kind else {
            return self.broken(Span::default());
        };
        match &self.consts[index].state {
            State::Done(e) => return e.clone(),
            State::Doing => {
                self.error(
                    codes::E0209,
                    name.span,
                    format!("constant `{}` refers to itself", name.text),
                    "has no value",
                );
                return self.broken(name.span);
            }
            State::Todo => {}
        }
        if self.consts.iter().filter(|c| matches!(c.state, State::Doing)).count() > 64 {
            let message = "constants refer to each other more than 64 deep";
            self.error(codes::E0305, name.span, message, "the chain is too long");
            return self.broken(name.span);
        }
        self.consts[index].state = State::Doing;
        let checked = self.inside(module, |c| {
            let ty = c.ty(ty);
            let checked = c.check_as(value, &ty);
            if !c.is_constant(&checked) {
                c.report(
                    Diagnostic::error(codes::E0218, value.span, "a constant was expected", "is not constant")
                        .help("constants are literals, lists, and arithmetic on them; use a `fn` for the rest"),
                );
                return c.broken(value.span);
            }
            Expr { ty: if checked.ty == Ty::Never { Ty::Never } else { join_or(&ty, &checked.ty) }, ..checked }
        });
        self.consts[index].state = State::Done(checked.clone());
        checked
    }
}

/// The declared type, with the length of a list that was not declared.
fn join_or(declared: &Ty, found: &Ty) -> Ty {
    match (declared, found) {
        (Ty::List(item, None), Ty::List(_, n)) => Ty::List(item.clone(), *n),
        _ => declared.clone(),
    }
}

fn quantity_name(ty: &Ty) -> &'static str {
    match ty {
        Ty::Tokens => "a number of tokens",
        Ty::Time => "a time",
        Ty::Usd => "an amount of money",
        _ => "a number of bytes",
    }
}

/// Arithmetic on constants.
fn fold(prim: &Prim, values: &[Const]) -> Result<Const, &'static str> {
    const OVERFLOW: &str = "does not fit 64 bits";
    const VARIES: &str = "is not arithmetic on constants";
    use Const as C;
    match (prim, values) {
        (Prim::Neg, [C::Int(a)]) => a.checked_neg().map(C::Int).ok_or(OVERFLOW),
        (Prim::Neg, [C::Float(a)]) => Ok(C::Float(-a)),
        (_, [C::Int(a), C::Int(b)]) => match prim {
            Prim::Add => a.checked_add(*b),
            Prim::Sub => a.checked_sub(*b),
            Prim::Mul => a.checked_mul(*b),
            Prim::Div if *b == 0 => return Err("divides by zero"),
            Prim::Div => a.checked_div(*b),
            _ => return Err(VARIES),
        }
        .map(C::Int)
        .ok_or(OVERFLOW),
        (_, [C::Float(a), C::Float(b)]) => float(prim, *a, *b).map(C::Float).ok_or(VARIES),
        (_, [C::Time(a), C::Time(b)]) if !matches!(prim, Prim::Mul) => {
            let value = float(prim, *a, *b).ok_or(VARIES)?;
            Ok(if matches!(prim, Prim::Div) { C::Float(value) } else { C::Time(value) })
        }
        (_, [C::Usd(a), C::Usd(b)]) if !matches!(prim, Prim::Mul) => {
            let value = float(prim, *a, *b).ok_or(VARIES)?;
            Ok(if matches!(prim, Prim::Div) { C::Float(value) } else { C::Usd(value) })
        }
        (Prim::Add | Prim::Sub, [C::Tokens(a), C::Tokens(b)]) => count(prim, *a, *b).map(C::Tokens).ok_or(OVERFLOW),
        (Prim::Add | Prim::Sub, [C::Bytes(a), C::Bytes(b)]) => count(prim, *a, *b).map(C::Bytes).ok_or(OVERFLOW),
        (Prim::Mul | Prim::Div, [C::Tokens(a), C::Int(b)]) => {
            u64::try_from(*b).ok().and_then(|b| count(prim, *a, b)).map(C::Tokens).ok_or(OVERFLOW)
        }
        (Prim::Mul, [C::Int(a), C::Tokens(b)]) => {
            u64::try_from(*a).ok().and_then(|a| a.checked_mul(*b)).map(C::Tokens).ok_or(OVERFLOW)
        }
        (Prim::Mul | Prim::Div, [C::Bytes(a), C::Int(b)]) => {
            u64::try_from(*b).ok().and_then(|b| count(prim, *a, b)).map(C::Bytes).ok_or(OVERFLOW)
        }
        (Prim::Mul | Prim::Div, [C::Time(a), C::Int(b)]) => float(prim, *a, *b as f64).map(C::Time).ok_or(VARIES),
        (Prim::Mul | Prim::Div, [C::Time(a), C::Float(b)]) => float(prim, *a, *b).map(C::Time).ok_or(VARIES),
        (Prim::Add, [C::Text(a), C::Text(b)]) => Ok(C::Text(format!("{a}{b}"))),
        _ => Err(VARIES),
    }
}

fn float(prim: &Prim, a: f64, b: f64) -> Option<f64> {
    Some(match prim {
        Prim::Add => a + b,
        Prim::Sub => a - b,
        Prim::Mul => a * b,
        Prim::Div => a / b,
        _ => return None,
    })
}

fn count(prim: &Prim, a: u64, b: u64) -> Option<u64> {
    match prim {
        Prim::Add => a.checked_add(b),
        Prim::Sub => a.checked_sub(b),
        Prim::Mul => a.checked_mul(b),
        Prim::Div => a.checked_div(b),
        _ => None,
    }
}
