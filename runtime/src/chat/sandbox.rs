//! The Jinja environment of chat templates: takes nothing, returns one with the few filters, tests, functions and Python
//! methods that templates of models use. None of them makes a value much larger than what it is given; there is no
//! `format`, `indent`, `center`, `replace` or `join`.

use minijinja::value::{Kwargs, Value, ValueKind};
use minijinja::{Environment, Error, ErrorKind, State, UndefinedBehavior, filters, functions, tests as checks};
use std::time::{SystemTime, UNIX_EPOCH};

/// Marks the errors that templates raise themselves.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
struct Raised(String);

/// The message of `raise_exception`, if that is what ended a template.
pub(super) fn raised(e: &Error) -> Option<String> {
    let mut source = std::error::Error::source(e);
    while let Some(s) = source {
        if let Some(r) = s.downcast_ref::<Raised>() {
            return Some(r.0.clone());
        }
        source = s.source();
    }
    None
}

/// The environment, without templates and fuel.
pub(super) fn environment() -> Environment<'static> {
    let mut env = Environment::empty();
    // As the library that models' templates are written for.
    env.set_trim_blocks(true);
    env.set_lstrip_blocks(true);
    env.set_undefined_behavior(UndefinedBehavior::Lenient);
    env.set_recursion_limit(64);
    env.set_auto_escape_callback(|_| minijinja::AutoEscape::None);
    env.add_filter("trim", filters::trim);
    env.add_filter("upper", filters::upper);
    env.add_filter("lower", filters::lower);
    env.add_filter("capitalize", filters::capitalize);
    env.add_filter("length", filters::length);
    env.add_filter("count", filters::length);
    env.add_filter("default", filters::default);
    env.add_filter("d", filters::default);
    env.add_filter("first", filters::first);
    env.add_filter("last", filters::last);
    env.add_filter("reverse", filters::reverse);
    env.add_filter("int", filters::int);
    env.add_filter("abs", filters::abs);
    env.add_filter("items", filters::items);
    env.add_filter("string", |v: Value| v.to_string());
    env.add_filter("safe", |v: Value| v);
    env.add_filter("tojson", tojson);
    env.add_filter("selectattr", filters::selectattr);
    env.add_filter("rejectattr", filters::rejectattr);
    env.add_filter("list", filters::list);
    env.add_test("defined", checks::is_defined);
    env.add_test("undefined", checks::is_undefined);
    env.add_test("none", checks::is_none);
    env.add_test("string", checks::is_string);
    env.add_test("number", checks::is_number);
    env.add_test("integer", checks::is_integer);
    env.add_test("boolean", checks::is_boolean);
    env.add_test("true", checks::is_true);
    env.add_test("false", checks::is_false);
    env.add_test("mapping", checks::is_mapping);
    env.add_test("sequence", checks::is_sequence);
    env.add_test("iterable", checks::is_iterable);
    env.add_test("odd", checks::is_odd);
    env.add_test("even", checks::is_even);
    env.add_test("eq", checks::is_eq);
    env.add_test("equalto", checks::is_eq);
    env.add_test("==", checks::is_eq);
    env.add_test("ne", checks::is_ne);
    env.add_test("!=", checks::is_ne);
    env.add_test("in", checks::is_in);
    env.add_function("range", functions::range);
    env.add_function("namespace", functions::namespace);
    env.add_function("raise_exception", |message: String| -> Result<Value, Error> {
        Err(Error::new(ErrorKind::InvalidOperation, "raise_exception").with_source(Raised(message)))
    });
    env.add_function("strftime_now", |format: String| strftime(&format, SystemTime::now()));
    env.set_unknown_method_callback(method);
    env
}

/// JSON; indentation is accepted and ignored.
fn tojson(value: Value, _options: Kwargs) -> Result<String, Error> {
    serde_json::to_string(&value).map_err(|e| Error::new(ErrorKind::BadSerialization, e.to_string()))
}

/// The methods of Python's strings and dictionaries that templates call.
fn method(_: &State, value: &Value, name: &str, args: &[Value]) -> Result<Value, Error> {
    let unknown = || Error::new(ErrorKind::UnknownMethod, format!("no method `{name}` here"));
    if value.kind() == ValueKind::Map {
        return match (name, args) {
            ("items", []) => filters::items(value),
            ("keys", []) => Ok(Value::from_iter(value.try_iter()?)),
            ("values", []) => {
                value.try_iter()?.map(|k| value.get_item(&k)).collect::<Result<Vec<_>, _>>().map(Value::from)
            }
            ("get", [key]) => value.get_item(key).map(|v| if v.is_undefined() { Value::from(()) } else { v }),
            ("get", [key, other]) => value.get_item(key).map(|v| if v.is_undefined() { other.clone() } else { v }),
            _ => Err(unknown()),
        };
    }
    let Some(s) = value.as_str() else { return Err(unknown()) };
    let arg = |i: usize| args.get(i).and_then(Value::as_str);
    let strips = |c: char| arg(0).map_or(c.is_whitespace(), |set| set.contains(c));
    Ok(match (name, args.len()) {
        ("strip", 0 | 1) => Value::from(s.trim_matches(strips)),
        ("lstrip", 0 | 1) => Value::from(s.trim_start_matches(strips)),
        ("rstrip", 0 | 1) => Value::from(s.trim_end_matches(strips)),
        ("upper", 0) => Value::from(s.to_uppercase()),
        ("lower", 0) => Value::from(s.to_lowercase()),
        ("startswith", 1) => Value::from(arg(0).is_some_and(|p| s.starts_with(p))),
        ("endswith", 1) => Value::from(arg(0).is_some_and(|p| s.ends_with(p))),
        ("split", 0) => s.split_whitespace().collect(),
        ("split", 1) => match arg(0) {
            Some(sep) if !sep.is_empty() => s.split(sep).collect(),
            _ => return Err(Error::new(ErrorKind::InvalidOperation, "split needs a separator")),
        },
        _ => return Err(unknown()),
    })
}

/// The date and time (UTC) in the common directives of `strftime`; others are errors.
fn strftime(format: &str, now: SystemTime) -> Result<String, Error> {
    const MONTHS: [&str; 12] = [
        "January",
        "February",
        "March",
        "April",
        "May",
        "June",
        "July",
        "August",
        "September",
        "October",
        "November",
        "December",
    ];
    const DAYS: [&str; 7] = ["Thursday", "Friday", "Saturday", "Sunday", "Monday", "Tuesday", "Wednesday"];
    let bad = |what: &str| Error::new(ErrorKind::InvalidOperation, format!("strftime_now: {what}"));
    if format.len() > 256 {
        return Err(bad("the format is too long"));
    }
    let seconds = now.duration_since(UNIX_EPOCH).map_err(|_| bad("the clock is before 1970"))?.as_secs();
    let (mut year, mut day) = (1970u64, seconds / 86_400);
    let weekday = DAYS[(day % 7) as usize];
    let length =
        |y: u64| if y.is_multiple_of(4) && (!y.is_multiple_of(100) || y.is_multiple_of(400)) { 366 } else { 365 };
    while day >= length(year) {
        day -= length(year);
        year += 1;
    }
    let of_year = day + 1;
    let mut month = 0;
    let days = [31, length(year) - 337, 31, 30, 31, 30, 31, 31, 30, 31, 30, 31];
    while day >= days[month] {
        day -= days[month];
        month += 1;
    }
    let (h, m, s) = (seconds / 3600 % 24, seconds / 60 % 60, seconds % 60);
    let mut out = String::new();
    let mut chars = format.chars();
    while let Some(c) = chars.next() {
        if c != '%' {
            out.push(c);
            continue;
        }
        match chars.next() {
            Some('Y') => out.push_str(&year.to_string()),
            Some('y') => out.push_str(&format!("{:02}", year % 100)),
            Some('m') => out.push_str(&format!("{:02}", month + 1)),
            Some('d') => out.push_str(&format!("{:02}", day + 1)),
            Some('H') => out.push_str(&format!("{h:02}")),
            Some('M') => out.push_str(&format!("{m:02}")),
            Some('S') => out.push_str(&format!("{s:02}")),
            Some('j') => out.push_str(&format!("{of_year:03}")),
            Some('B') => out.push_str(MONTHS[month]),
            Some('b') => out.push_str(&MONTHS[month][..3]),
            Some('A') => out.push_str(weekday),
            Some('a') => out.push_str(&weekday[..3]),
            Some('%') => out.push('%'),
            _ => return Err(bad("unknown directive")),
        }
    }
    Ok(out)
}

#[cfg(test)]
mod tests {
    use super::strftime;
    use std::time::{Duration, UNIX_EPOCH};

    #[test]
    fn dates_are_those_of_the_calendar() {
        let at = |s, f| strftime(f, UNIX_EPOCH + Duration::from_secs(s)).unwrap();
        assert_eq!(at(0, "%A %d %B %Y %H:%M:%S %j"), "Thursday 01 January 1970 00:00:00 001");
        assert_eq!(at(951_782_399, "%a %d %b %y"), "Mon 28 Feb 00");
        assert_eq!(at(951_782_400, "%Y-%m-%d"), "2000-02-29");
        assert_eq!(at(1_704_067_199, "%d %b %Y %j%%"), "31 Dec 2023 365%");
        assert!(strftime("%Q", UNIX_EPOCH).is_err() && strftime("%", UNIX_EPOCH).is_err());
    }
}
