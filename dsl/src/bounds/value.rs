//! What is known of a value before the program runs: ranges of numbers, lengths of lists, shares of budgets.
//!
//! A lattice: [`Value::Nothing`] is below everything, [`Value::Any`] above. [`join`] is the least upper bound.

use crate::hir::{Const, Expr, Local, Prim, Ty};
use std::collections::BTreeMap;
use std::rc::Rc;

/// Names of a scope.
pub(crate) type Env<'p> = Rc<BTreeMap<Local, Value<'p>>>;

/// Marks an integer that is different in every item of its list.
pub(crate) const POSITION: u32 = u32::MAX;

/// An abstract value.
#[derive(Clone, Debug)]
pub(crate) enum Value<'p> {
    /// No value: what never returns, `none`, items of `[]`.
    Nothing,
    /// Anything.
    Any,
    /// An integer or count.
    Number(Number),
    /// A list.
    List(Option<u64>, Box<Value<'p>>),
    /// A tuple.
    Tuple(Vec<Value<'p>>),
    /// A function.
    Function(Rc<Closure<'p>>),
    /// A budget.
    Budget(Budget),
    /// A verifier of so many checks.
    Checks(u64),
}

/// An interval of integers; `None` is open.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Number {
    pub(crate) lo: Option<i128>,
    pub(crate) hi: Option<i128>,
    /// The loop whose rounds all have a different one.
    pub(crate) index: Option<u32>,
}

/// Limits of tokens and calls; `None`: not limited.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub(crate) struct Budget {
    pub(crate) tokens: Option<u64>,
    pub(crate) calls: Option<u64>,
    /// It is one of the shares of a pool of `tokens`.
    pub(crate) share: bool,
    /// The loop in which every round has another share of the pool.
    pub(crate) index: Option<u32>,
}

/// A function with what it sees.
#[derive(Debug)]
pub(crate) struct Closure<'p> {
    pub(crate) params: &'p [Local],
    pub(crate) body: &'p Expr,
    pub(crate) env: Env<'p>,
}

impl Number {
    /// One integer.
    pub(crate) fn one(n: i128) -> Self {
        Self { lo: Some(n), hi: Some(n), index: None }
    }

    /// An interval.
    pub(crate) fn between(lo: Option<i128>, hi: Option<i128>) -> Self {
        Self { lo, hi, index: None }
    }
}

impl<'p> Value<'p> {
    /// The largest count that the value may be; negative ones count as none.
    pub(crate) fn upper(&self) -> Option<u64> {
        match self {
            Value::Number(n) => n.hi.map(|h| u64::try_from(h.max(0)).unwrap_or(u64::MAX)),
            Value::Nothing => Some(0),
            _ => None,
        }
    }

    /// The length and items of a list.
    pub(crate) fn list(self) -> (Option<u64>, Value<'p>) {
        match self {
            Value::List(n, item) => (n, *item),
            Value::Nothing => (Some(0), Value::Nothing),
            _ => (None, Value::Any),
        }
    }

    /// What the type alone says.
    pub(crate) fn of_type(ty: &Ty) -> Self {
        match ty {
            Ty::Never => Value::Nothing,
            Ty::List(item, n) => Value::List(*n, Box::new(Self::of_type(item))),
            Ty::Tuple(items) => Value::Tuple(items.iter().map(Self::of_type).collect()),
            Ty::Optional(inner) => Self::of_type(inner),
            _ => Value::Any,
        }
    }

    /// A constant.
    pub(crate) fn of_const(value: &Const) -> Self {
        match value {
            Const::Int(n) => Value::Number(Number::one(i128::from(*n))),
            Const::Tokens(n) | Const::Bytes(n) => Value::Number(Number::one(i128::from(*n))),
            Const::None => Value::Nothing,
            _ => Value::Any,
        }
    }

    /// Items of a list become the items of the rounds of a loop.
    pub(crate) fn in_loop(self, id: u32) -> Self {
        match self {
            Value::Number(n) if n.index == Some(POSITION) => Value::Number(Number { index: Some(id), ..n }),
            Value::Tuple(items) => Value::Tuple(items.into_iter().map(|v| v.in_loop(id)).collect()),
            other => other,
        }
    }
}

/// Least upper bound.
pub(crate) fn join<'p>(a: Value<'p>, b: Value<'p>) -> Value<'p> {
    match (a, b) {
        (Value::Nothing, v) | (v, Value::Nothing) => v,
        (Value::Number(a), Value::Number(b)) => Value::Number(Number {
            lo: a.lo.zip(b.lo).map(|(a, b)| a.min(b)),
            hi: a.hi.zip(b.hi).map(|(a, b)| a.max(b)),
            index: a.index.filter(|_| a.index == b.index),
        }),
        (Value::List(n, a), Value::List(m, b)) => Value::List(n.zip(m).map(|(n, m)| n.max(m)), Box::new(join(*a, *b))),
        (Value::Tuple(a), Value::Tuple(b)) if a.len() == b.len() => {
            Value::Tuple(a.into_iter().zip(b).map(|(a, b)| join(a, b)).collect())
        }
        (Value::Budget(a), Value::Budget(b)) => Value::Budget(Budget {
            tokens: a.tokens.zip(b.tokens).map(|(a, b)| a.max(b)),
            calls: a.calls.zip(b.calls).map(|(a, b)| a.max(b)),
            share: false,
            index: None,
        }),
        (Value::Function(a), Value::Function(b)) if Rc::ptr_eq(&a, &b) => Value::Function(a),
        (Value::Checks(a), Value::Checks(b)) => Value::Checks(a.max(b)),
        _ => Value::Any,
    }
}

/// Nothing new: `b` is below `a`.
pub(crate) fn covers(a: &Value<'_>, b: &Value<'_>) -> bool {
    match (a, b) {
        (_, Value::Nothing) | (Value::Any, _) => true,
        (Value::Number(a), Value::Number(b)) => {
            let lower = a.lo.is_none_or(|a| b.lo.is_some_and(|b| a <= b));
            let upper = a.hi.is_none_or(|a| b.hi.is_some_and(|b| a >= b));
            lower && upper && (a.index.is_none() || a.index == b.index)
        }
        (Value::List(n, a), Value::List(m, b)) => n.is_none_or(|n| m.is_some_and(|m| n >= m)) && covers(a, b),
        (Value::Tuple(a), Value::Tuple(b)) => a.len() == b.len() && a.iter().zip(b).all(|(a, b)| covers(a, b)),
        (Value::Budget(a), Value::Budget(b)) => a == b,
        (Value::Function(a), Value::Function(b)) => Rc::ptr_eq(a, b),
        (Value::Checks(a), Value::Checks(b)) => a >= b,
        _ => false,
    }
}

/// What still grows from `a` to `b` is given up.
pub(crate) fn widen<'p>(a: &Value<'p>, b: Value<'p>) -> Value<'p> {
    match (a, b) {
        (Value::Number(a), Value::Number(b)) => Value::Number(Number {
            lo: b.lo.filter(|_| a.lo == b.lo),
            hi: b.hi.filter(|_| a.hi == b.hi),
            index: b.index,
        }),
        (Value::List(n, a), Value::List(m, b)) => {
            let length = m.filter(|_| *n == m);
            Value::List(length, Box::new(widen(a, *b)))
        }
        (Value::Tuple(a), Value::Tuple(b)) if a.len() == b.len() => {
            Value::Tuple(a.iter().zip(b).map(|(a, b)| widen(a, b)).collect())
        }
        (_, b) => b,
    }
}

/// Arithmetic on intervals.
pub(crate) fn arithmetic(prim: &Prim, a: Number, b: Number) -> Number {
    let both =
        |f: fn(i128, i128) -> Option<i128>, x: Option<i128>, y: Option<i128>| x.zip(y).and_then(|(x, y)| f(x, y));
    match prim {
        Prim::Add => Number::between(both(i128::checked_add, a.lo, b.lo), both(i128::checked_add, a.hi, b.hi)),
        Prim::Sub => Number::between(both(i128::checked_sub, a.lo, b.hi), both(i128::checked_sub, a.hi, b.lo)),
        Prim::Mul => corners(a, b, i128::checked_mul),
        Prim::Div if b.lo.is_some_and(|lo| lo > 0) => corners(a, b, i128::checked_div),
        _ => Number::between(None, None),
    }
}

/// The extremes of a monotone operation are at the corners of the intervals.
fn corners(a: Number, b: Number, f: fn(i128, i128) -> Option<i128>) -> Number {
    let (Some(al), Some(ah), Some(bl), Some(bh)) = (a.lo, a.hi, b.lo, b.hi) else {
        return Number::between(None, None);
    };
    let all: Option<Vec<i128>> = [(al, bl), (al, bh), (ah, bl), (ah, bh)].into_iter().map(|(x, y)| f(x, y)).collect();
    match all {
        Some(all) => Number::between(all.iter().min().copied(), all.iter().max().copied()),
        None => Number::between(None, None),
    }
}
