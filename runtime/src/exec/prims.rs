//! Pure operations on values that take no function: arithmetic, comparison, fields, lists, texts.
//!
//! Takes operand values (already typed by the checker); returns a value or the cause of a failure as a sentence.
//! Integers are checked, never wrap; quantities stop at zero when subtracted; the functions of `Prim::Call` are in
//! [`super::builtins`], those that take functions in [`super::select`].

use crate::chat::MAX_MESSAGES;
use crate::value::{Context, EndReason, Record, Turn, Value};
use ir::strategy::{Prim, Speaker};
use std::cmp::Ordering;
use std::sync::Arc;

/// Longest list that a range or a concatenation may make.
const MAX_LIST: i64 = 1 << 20;

/// Most parts (elements, fields, at all depths) of one value: shared parts count each time they appear, because whoever
/// compares or prints the value meets them each time.
const MAX_PARTS: usize = 1 << 20;
/// Longest text, bytes.
const MAX_TEXT: usize = 16 << 20;

/// Carries out a pure operation and refuses values that have grown beyond all use.
///
/// # Errors
/// As [`plain`], and when the value has too many parts or its text is too long.
pub(super) fn pure(prim: &Prim, args: &[Value]) -> Result<Value, String> {
    let value = plain(prim, args)?;
    match &value {
        Value::Text(text) if text.len() > MAX_TEXT => Err(format!("a text of more than {MAX_TEXT} bytes")),
        Value::List(_) | Value::Tuple(_) | Value::Record(_) if !value.fits(&mut { MAX_PARTS }) => {
            Err(format!("a value of more than {MAX_PARTS} parts"))
        }
        _ => Ok(value),
    }
}

/// Carries out a pure operation.
///
/// # Errors
/// The cause, as a sentence: a division by zero, an index out of range, an overflow, an operand of a wrong type.
fn plain(prim: &Prim, args: &[Value]) -> Result<Value, String> {
    match (prim, args) {
        (Prim::Add | Prim::Sub | Prim::Mul | Prim::Div, [a, b]) => arithmetic(prim, a, b),
        (Prim::Neg, [Value::Int(i)]) => i.checked_neg().map(Value::Int).ok_or_else(overflow),
        (Prim::Neg, [Value::Float(x)]) => Ok(Value::Float(-x)),
        (Prim::Not, [Value::Bool(b)]) => Ok(Value::Bool(!b)),
        (Prim::Eq, [a, b]) => Ok(Value::Bool(equal(a, b))),
        (Prim::Ne, [a, b]) => Ok(Value::Bool(!equal(a, b))),
        (Prim::Lt | Prim::Le | Prim::Gt | Prim::Ge, [a, b]) => compare(prim, a, b),
        (Prim::List, items) => Ok(Value::List(Arc::from(items))),
        (Prim::Tuple, items) => Ok(Value::Tuple(Arc::from(items))),
        (Prim::TupleField(i), [Value::Tuple(items)]) => {
            items.get(*i as usize).cloned().ok_or_else(|| format!("the tuple has {} parts, no part {i}", items.len()))
        }
        (Prim::Record(name, fields), values) if fields.len() == values.len() => {
            let fields = fields.iter().cloned().zip(values.iter().cloned()).collect();
            Ok(Value::Record(Arc::new(Record { name: name.clone(), fields })))
        }
        (Prim::Field(name), [value]) => field(value, name),
        (Prim::Index, [Value::List(items), Value::Int(i)]) => usize::try_from(*i)
            .ok()
            .and_then(|i| items.get(i))
            .cloned()
            .ok_or_else(|| format!("index {i} is outside a list of {}", items.len())),
        (Prim::Range, [Value::Int(lo), Value::Int(hi)]) => range(*lo, *hi),
        (Prim::RangeInclusive, [Value::Int(lo), Value::Int(hi)]) => range(*lo, hi.checked_add(1).ok_or_else(overflow)?),
        (Prim::Template(parts), values) => template(parts, values),
        (Prim::Enumerate, [Value::List(items)]) => Ok(Value::List(
            (0i64..).zip(items.iter()).map(|(i, v)| Value::Tuple(Arc::from([Value::Int(i), v.clone()]))).collect(),
        )),
        (Prim::CtxAdd, [Value::Ctx(context), more]) => context_add(context, more),
        (Prim::VoteTop, [Value::Vote(vote), Value::Int(k)]) => {
            let k = usize::try_from(*k).unwrap_or(0);
            Ok(Value::List(vote.classes.iter().take(k).flat_map(|(_, _, members)| members.iter().cloned()).collect()))
        }
        (Prim::IsNone, [value]) => Ok(Value::Bool(*value == Value::None)),
        (Prim::First, [Value::List(items)]) => Ok(items.first().cloned().unwrap_or(Value::None)),
        (Prim::Call(name), args) => super::builtins::call(name, args),
        _ => Err(format!(
            "the operation {prim:?} does not take {}",
            if args.is_empty() {
                "nothing".to_owned()
            } else {
                args.iter().map(Value::kind).collect::<Vec<_>>().join(", ")
            }
        )),
    }
}

pub(super) fn overflow() -> String {
    "the result does not fit a 64-bit integer".to_owned()
}

/// Equality: numbers of one kind by value, everything else by structure.
pub(super) fn equal(a: &Value, b: &Value) -> bool {
    match (a, b) {
        (Value::Int(i), Value::Float(x)) | (Value::Float(x), Value::Int(i)) => *i as f64 == *x,
        (Value::Label(a), Value::Text(b)) | (Value::Text(a), Value::Label(b)) => a == b,
        _ => a == b,
    }
}

fn compare(prim: &Prim, a: &Value, b: &Value) -> Result<Value, String> {
    let order = match (a, b) {
        (Value::Int(a), Value::Int(b)) => Some(a.cmp(b)),
        (Value::Tokens(a), Value::Tokens(b)) | (Value::Bytes(a), Value::Bytes(b)) => Some(a.cmp(b)),
        (Value::Text(a), Value::Text(b)) => Some(a.cmp(b)),
        _ => match (a.number(), b.number()) {
            (Some(a), Some(b)) => a.partial_cmp(&b),
            _ => return Err(format!("{} and {} have no order", a.kind(), b.kind())),
        },
    };
    // A NaN is neither less, equal nor greater.
    let Some(order) = order else { return Ok(Value::Bool(false)) };
    Ok(Value::Bool(match prim {
        Prim::Lt => order == Ordering::Less,
        Prim::Le => order != Ordering::Greater,
        Prim::Gt => order == Ordering::Greater,
        _ => order != Ordering::Less,
    }))
}

fn arithmetic(prim: &Prim, a: &Value, b: &Value) -> Result<Value, String> {
    use Value::{Bytes, Float, Int, List, Text, Time, Tokens, Usd};
    let float = |a: f64, b: f64| match prim {
        Prim::Add => a + b,
        Prim::Sub => a - b,
        Prim::Mul => a * b,
        _ => a / b,
    };
    let whole = |a: u64, b: u64| match prim {
        Prim::Add => a.saturating_add(b),
        _ => a.saturating_sub(b),
    };
    let additive = matches!(prim, Prim::Add | Prim::Sub);
    Ok(match (a, b) {
        (Int(_), Int(0)) if *prim == Prim::Div => return Err("division by zero".to_owned()),
        (Int(a), Int(b)) => Int(match prim {
            Prim::Add => a.checked_add(*b),
            Prim::Sub => a.checked_sub(*b),
            Prim::Mul => a.checked_mul(*b),
            _ => a.checked_div(*b),
        }
        .ok_or_else(overflow)?),
        (Tokens(a), Tokens(b)) if additive => Tokens(whole(*a, *b)),
        (Bytes(a), Bytes(b)) if additive => Bytes(whole(*a, *b)),
        (Time(a), Time(b)) if additive => Time(float(*a, *b).max(0.0)),
        (Usd(a), Usd(b)) if additive => Usd(float(*a, *b).max(0.0)),
        (Tokens(_), Tokens(_)) | (Bytes(_), Bytes(_)) | (Time(_), Time(_)) | (Usd(_), Usd(_)) if *prim == Prim::Div => {
            Float(float(a.number().unwrap_or(0.0), b.number().unwrap_or(0.0)))
        }
        (Tokens(n), Int(_) | Float(_)) if !additive => Tokens(scaled(*n, float, b)?),
        (Bytes(n), Int(_) | Float(_)) if !additive => Bytes(scaled(*n, float, b)?),
        (Int(_) | Float(_), Tokens(n)) if *prim == Prim::Mul => Tokens(scaled(*n, float, a)?),
        (Int(_) | Float(_), Bytes(n)) if *prim == Prim::Mul => Bytes(scaled(*n, float, a)?),
        (Time(x), Int(_) | Float(_)) if !additive => Time(positive(float(*x, b.number().unwrap_or(0.0)))?),
        (Usd(x), Int(_) | Float(_)) if !additive => Usd(positive(float(*x, b.number().unwrap_or(0.0)))?),
        (Int(_) | Float(_), Time(x)) if *prim == Prim::Mul => Time(positive(x * a.number().unwrap_or(0.0))?),
        (Int(_) | Float(_), Usd(x)) if *prim == Prim::Mul => Usd(positive(x * a.number().unwrap_or(0.0))?),
        (Int(_) | Float(_), Int(_) | Float(_)) => Float(float(a.number().unwrap_or(0.0), b.number().unwrap_or(0.0))),
        (Text(a), Text(b)) if *prim == Prim::Add => Value::text(&format!("{a}{b}")),
        (List(a), List(b)) if *prim == Prim::Add => {
            if (a.len() + b.len()) as i64 > MAX_LIST {
                return Err(format!("a list of more than {MAX_LIST} elements"));
            }
            List(a.iter().chain(b.iter()).cloned().collect())
        }
        _ => return Err(format!("{prim:?} does not take {} and {}", a.kind(), b.kind())),
    })
}

/// A whole quantity times or divided by a number, rounded down.
fn scaled(n: u64, float: impl Fn(f64, f64) -> f64, by: &Value) -> Result<u64, String> {
    let amount = positive(float(n as f64, by.number().unwrap_or(0.0)))?;
    if amount < 1.8e19 { Ok(amount as u64) } else { Err("the quantity is too large".to_owned()) }
}

fn positive(amount: f64) -> Result<f64, String> {
    if amount.is_finite() && amount >= 0.0 { Ok(amount) } else { Err(format!("{amount} is no quantity")) }
}

fn range(lo: i64, hi: i64) -> Result<Value, String> {
    if hi.saturating_sub(lo) > MAX_LIST {
        return Err(format!("a range of more than {MAX_LIST} elements"));
    }
    Ok(Value::List((lo..hi).map(Value::Int).collect()))
}

fn template(parts: &[Option<String>], values: &[Value]) -> Result<Value, String> {
    let mut holes = values.iter();
    let mut text = String::new();
    for part in parts {
        match part {
            Some(literal) => text.push_str(literal),
            None => text.push_str(&holes.next().ok_or("a template has more holes than operands")?.to_text()),
        }
    }
    Ok(Value::text(&text))
}

fn context_add(context: &Context, more: &Value) -> Result<Value, String> {
    let mut turns = context.turns.clone();
    match more {
        Value::Ctx(other) => {
            if turns.len() + other.turns.len() > MAX_MESSAGES {
                return Err(format!("a conversation of more than {MAX_MESSAGES} turns"));
            }
            turns.extend(other.turns.iter().cloned());
        }
        Value::Sample(sample) => {
            let continued =
                turns.last().is_some_and(|t| t.speaker == Speaker::Assistant && *sample.context == *context);
            if continued {
                let before = turns.pop().map_or(String::new(), |t| t.text.to_string());
                let text = Arc::from(format!("{before}{}", sample.text));
                turns.push(Turn { speaker: Speaker::Assistant, text, tokens: None });
            } else {
                // A stop text was cut off the text, not off the tokens: the text is what continues then.
                let whole = sample.reason != EndReason::StopText;
                let tokens = whole.then(|| (sample.role, sample.tokens.clone()));
                turns.push(Turn { speaker: Speaker::Assistant, text: sample.text.clone(), tokens });
            }
        }
        Value::Text(text) => turns.push(Turn { speaker: Speaker::User, text: text.clone(), tokens: None }),
        other => return Err(format!("a context is extended by text, a sample or a context, not by {}", other.kind())),
    }
    Ok(Value::Ctx(Arc::new(Context { turns })))
}

/// `.name` of a value.
fn field(value: &Value, name: &str) -> Result<Value, String> {
    let missing = || format!("{} has no field `{name}`", value.kind());
    let optional = |x: Option<Value>| x.unwrap_or(Value::None);
    Ok(match (value, name) {
        (Value::Record(record), _) => {
            return record.fields.iter().find(|(n, _)| n == name).map(|(_, v)| v.clone()).ok_or_else(missing);
        }
        (Value::List(items), "len") => Value::Int(items.len() as i64),
        (Value::List(items), "first") => optional(items.first().cloned()),
        (Value::List(items), "last") => optional(items.last().cloned()),
        (Value::Text(text), "len") => Value::Int(text.len() as i64),
        (Value::Sample(s), _) => match name {
            "text" => Value::Text(s.text.clone()),
            "value" => s.value.clone(),
            "ended" => Value::Bool(s.reason.is_complete()),
            "logprob" => Value::Float(s.logprob()),
            "tokens" => Value::Tokens(s.tokens.len() as u64),
            "entropy" => Value::Float(s.entropy),
            "last" => Value::text(s.last_step()),
            "usage" => Value::Usage(s.usage),
            _ => return Err(missing()),
        },
        (Value::Vote(v), _) => match name {
            "value" => v.value.clone(),
            "share" => Value::Float(v.share),
            "margin" => Value::Float(v.margin),
            "members" => Value::list(v.classes.first().map_or(Vec::new(), |(_, _, members)| members.clone())),
            "usage" => Value::Usage(v.usage),
            _ => return Err(missing()),
        },
        (Value::Choice(c), _) => match name {
            "text" => optional(c.top().map(|i| Value::Text(c.labels[i].clone()))),
            "prob" => Value::Float(c.top().map_or(0.0, |i| c.probabilities[i])),
            "margin" => Value::Float(c.margin()),
            _ => return Err(missing()),
        },
        (Value::Usage(u), _) => match name {
            "tokens" => Value::Tokens(u.tokens),
            "prompt_tokens" => Value::Tokens(u.prompt_tokens),
            "calls" => Value::Int(u.calls as i64),
            "samples" => Value::Int(u.samples as i64),
            "cancelled" => Value::Int(u.cancelled as i64),
            "seconds" | "time" => Value::Time(u.seconds),
            "usd" => Value::Usd(u.usd),
            _ => return Err(missing()),
        },
        (Value::Budget(b), _) => match name {
            // What is not limited is as large as can be.
            "tokens" => Value::Tokens(b.tokens.unwrap_or(u64::MAX)),
            "calls" => Value::Int(b.calls.map_or(i64::MAX, |n| i64::try_from(n).unwrap_or(i64::MAX))),
            "kv" => Value::Bytes(b.kv.unwrap_or(u64::MAX)),
            "time" => Value::Time(b.time.unwrap_or(f64::INFINITY)),
            "usd" => Value::Usd(b.usd.unwrap_or(f64::INFINITY)),
            _ => return Err(missing()),
        },
        _ => return Err(missing()),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn arithmetic_is_checked() {
        let go = |prim: Prim, a: Value, b: Value| pure(&prim, &[a, b]);
        assert_eq!(go(Prim::Div, Value::Int(7), Value::Int(2)), Ok(Value::Int(3)));
        assert!(go(Prim::Div, Value::Int(7), Value::Int(0)).is_err());
        assert!(go(Prim::Mul, Value::Int(i64::MAX), Value::Int(2)).is_err());
        assert!(go(Prim::Div, Value::Int(i64::MIN), Value::Int(-1)).is_err());
        assert_eq!(go(Prim::Sub, Value::Tokens(1), Value::Tokens(2)), Ok(Value::Tokens(0)));
        assert_eq!(go(Prim::Mul, Value::Tokens(10), Value::Float(0.25)), Ok(Value::Tokens(2)));
        assert_eq!(go(Prim::Lt, Value::Float(f64::NAN), Value::Float(1.0)), Ok(Value::Bool(false)));
        assert!(go(Prim::Range, Value::Int(0), Value::Int(i64::MAX)).is_err());
        assert!(go(Prim::Index, Value::list(vec![]), Value::Int(0)).is_err());
    }

    #[test]
    fn values_cannot_grow_without_end() {
        let double = |prim: &Prim, start: Value| {
            let mut value = start;
            (0..64).find_map(|_| match pure(prim, &[value.clone(), value.clone()]) {
                Ok(next) => {
                    value = next;
                    None
                }
                Err(cause) => Some(cause),
            })
        };
        assert!(double(&Prim::List, Value::Int(1)).is_some());
        assert!(double(&Prim::Tuple, Value::Int(1)).is_some());
        assert!(double(&Prim::Add, Value::text("ab")).is_some());
        assert!(double(&Prim::Add, Value::list(vec![Value::Int(1)])).is_some());
        let turn = Turn { speaker: Speaker::User, text: Arc::from("a"), tokens: None };
        assert!(double(&Prim::CtxAdd, Value::Ctx(Arc::new(Context { turns: vec![turn] }))).is_some());
    }

    #[test]
    fn templates_fill_holes_in_order() {
        let parts = vec![Some("a".to_owned()), None, Some("b".to_owned()), None];
        let value = pure(&Prim::Template(parts), &[Value::Int(1), Value::Float(0.5)]);
        assert_eq!(value, Ok(Value::text("a1b0.5")));
    }
}
