//! Functions of numbers, texts and lists by name: the meaning of `Prim::Call`.
//!
//! Takes the name and the operands; returns the value or the cause of a failure. The checker's table of built-ins says
//! which exist and types them; a name unknown here is an error of the run, never ignored.

use super::prims::overflow;
use crate::value::Value;
use std::sync::Arc;

/// Calls a function by name.
///
/// # Errors
/// The cause: an unknown name, an operand of a wrong type, a value outside the function's domain.
pub(super) fn call(name: &str, args: &[Value]) -> Result<Value, String> {
    if let Some(value) = of_number(name, args) {
        return value;
    }
    if let Some(value) = of_text(name, args) {
        return value;
    }
    if let Some(value) = of_list(name, args) {
        return value;
    }
    let kinds = args.iter().map(Value::kind).collect::<Vec<_>>().join(", ");
    Err(format!("no function `{name}` takes ({kinds})"))
}

/// Keeps the kind of quantity of `like`.
fn same_kind(like: &Value, x: f64) -> Value {
    match like {
        Value::Int(_) => Value::Int(x as i64),
        Value::Tokens(_) => Value::Tokens(x.max(0.0) as u64),
        Value::Bytes(_) => Value::Bytes(x.max(0.0) as u64),
        Value::Time(_) => Value::Time(x),
        Value::Usd(_) => Value::Usd(x),
        _ => Value::Float(x),
    }
}

fn of_number(name: &str, args: &[Value]) -> Option<Result<Value, String>> {
    let number = |i: usize| args.get(i).and_then(Value::number);
    let value = match (name, args.len(), number(0)?) {
        ("exp", 1, x) => Value::Float(x.exp()),
        ("log", 1, x) => Value::Float(x.ln()),
        ("sqrt", 1, x) => Value::Float(x.sqrt()),
        // Clipped so that a certain verdict stays a finite weight.
        ("logit", 1, p) => {
            let p = p.clamp(1e-9, 1.0 - 1e-9);
            Value::Float((p / (1.0 - p)).ln())
        }
        ("abs", 1, x) => match args[0] {
            Value::Int(i) => {
                return Some(i.checked_abs().map(Value::Int).ok_or_else(|| "the result does not fit".into()));
            }
            _ => same_kind(&args[0], x.abs()),
        },
        ("min" | "max", 2, x) => {
            let y = number(1)?;
            let first = if name == "min" { x <= y } else { x >= y };
            args[usize::from(!first)].clone()
        }
        ("floor" | "ceil" | "round", 1, x) => {
            let whole = match name {
                "floor" => x.floor(),
                "ceil" => x.ceil(),
                _ => x.round(),
            };
            if !whole.is_finite() || whole.abs() >= 9.2e18 {
                return Some(Err(format!("{x} has no integer near it")));
            }
            Value::Int(whole as i64)
        }
        ("float", 1, x) => Value::Float(x),
        _ => return None,
    };
    Some(Ok(value))
}

fn of_text(name: &str, args: &[Value]) -> Option<Result<Value, String>> {
    let text = |i: usize| match args.get(i) {
        Some(Value::Text(t) | Value::Label(t)) => Some(&**t),
        Some(Value::Sample(s)) => Some(&*s.text),
        _ => None,
    };
    let pieces = |parts: &mut dyn Iterator<Item = &str>| Value::List(parts.map(Value::text).collect());
    let first = text(0)?;
    Some(Ok(match (name, args.len()) {
        ("trim", 1) => Value::text(first.trim()),
        ("lower", 1) => Value::text(&first.to_lowercase()),
        ("upper", 1) => Value::text(&first.to_uppercase()),
        ("number", 1) => crate::verify::whole_number(first.trim()).map_or(Value::None, Value::Float),
        ("split_lines", 1) => pieces(&mut first.lines()),
        ("contains", 2) => Value::Bool(first.contains(text(1)?)),
        ("starts_with", 2) => Value::Bool(first.starts_with(text(1)?)),
        ("ends_with", 2) => Value::Bool(first.ends_with(text(1)?)),
        _ => return None,
    }))
}

/// The integers of a list that has nothing else in it.
fn whole(items: &[Value]) -> Option<Vec<i64>> {
    let whole = |item: &Value| if let Value::Int(i) = item { Some(*i) } else { None };
    items.iter().map(whole).collect::<Option<Vec<i64>>>().filter(|numbers| !numbers.is_empty())
}

fn of_list(name: &str, args: &[Value]) -> Option<Result<Value, String>> {
    let Some(Value::List(items)) = args.first() else { return None };
    let numbers = || items.iter().map(Value::number).collect::<Option<Vec<f64>>>();
    let like = items.first().cloned().unwrap_or(Value::Float(0.0));
    Some(Ok(match (name, args.len()) {
        ("sum", 1) => match whole(items) {
            Some(numbers) => match numbers.into_iter().try_fold(0i64, i64::checked_add) {
                Some(sum) => Value::Int(sum),
                None => return Some(Err(overflow())),
            },
            None => same_kind(&like, numbers()?.iter().sum()),
        },
        ("mean", 1) => {
            let numbers = numbers()?;
            let mean = numbers.iter().sum::<f64>() / numbers.len().max(1) as f64;
            if let Value::Int(_) = like { Value::Float(mean) } else { same_kind(&like, mean) }
        }
        ("min" | "max", 1) => {
            let numbers = numbers()?;
            let better = |a: f64, b: f64| if name == "min" { a < b } else { a > b };
            let best = (0..numbers.len()).reduce(|a, b| if better(numbers[b], numbers[a]) { b } else { a });
            best.map_or(Value::None, |i| items[i].clone())
        }
        ("softmax", 1) => softmax(&numbers()?),
        _ => return None,
    }))
}

fn softmax(numbers: &[f64]) -> Value {
    let top = numbers.iter().copied().fold(f64::NEG_INFINITY, f64::max);
    let shifted: Vec<f64> = numbers.iter().map(|x| if top.is_finite() { (x - top).exp() } else { 1.0 }).collect();
    let sum: f64 = shifted.iter().sum();
    Value::List(shifted.into_iter().map(|x| Value::Float(x / sum)).collect::<Arc<[_]>>())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn functions_by_name() {
        let t = Value::text;
        assert_eq!(call("trim", &[t("  a ")]), Ok(t("a")));
        assert_eq!(call("max", &[Value::Int(2), Value::Int(3)]), Ok(Value::Int(3)));
        assert_eq!(call("max", &[Value::list(vec![Value::Tokens(2), Value::Tokens(3)])]), Ok(Value::Tokens(3)));
        assert_eq!(call("number", &[t(" 1,234.5 ")]), Ok(Value::Float(1234.5)));
        assert_eq!(call("number", &[t("so 1 it is")]), Ok(Value::None));
        assert_eq!(call("mean", &[Value::list(vec![Value::Int(1), Value::Int(2)])]), Ok(Value::Float(1.5)));
        assert_eq!(call("mean", &[Value::list(vec![])]), Ok(Value::Float(0.0)));
        let sum = |numbers: &[i64]| call("sum", &[Value::list(numbers.iter().map(|i| Value::Int(*i)).collect())]);
        assert_eq!(sum(&[(1 << 53) + 1, 0]), Ok(Value::Int((1 << 53) + 1)), "no detour by floats");
        assert!(sum(&[i64::MAX, 1]).is_err());
        assert_eq!(call("sum", &[Value::list(vec![])]), Ok(Value::Float(0.0)));
        assert!(call("nonsense", &[t("x")]).is_err());
        assert!(call("floor", &[Value::Float(f64::NAN)]).is_err());
        let Ok(Value::List(p)) = call("softmax", &[Value::list(vec![Value::Float(0.0), Value::Float(0.0)])]) else {
            panic!("softmax is a list");
        };
        assert_eq!(p[0], Value::Float(0.5));
    }
}
