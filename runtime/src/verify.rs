//! Verifiers that need no model: exact text, number, pattern, host program.
//!
//! Takes an answer (text and value) and returns a [`Verdict`]: a number (1 pass, 0 fail, or the program's own score), or
//! `Inconclusive` with the reason, which never counts as a pass. Patterns run in linear time under size caps. Host programs
//! are run by `program`.

use crate::value::Value;

mod program;

pub use program::{Bounds, CommandLimits, Request, command, command_words, lines, side_by_side};

/// Longest pattern, bytes.
pub const MAX_PATTERN: usize = 8 * 1024;
/// Largest compiled pattern, bytes.
const MAX_COMPILED: usize = 2 * 1024 * 1024;
/// Longest text a pattern is tried on, bytes.
pub const MAX_HAYSTACK: usize = 1024 * 1024;

/// What a verifier looks at.
#[derive(Clone, Copy, Debug)]
pub struct Answer<'a> {
    /// Whole text.
    pub text: &'a str,
    /// Value of its format; [`Value::None`] when there is none.
    pub value: &'a Value,
}

impl Answer<'_> {
    /// The extracted value as text when the format gave one, else the whole text.
    #[must_use]
    pub fn essence(&self) -> String {
        if *self.value == Value::None { self.text.to_owned() } else { self.value.to_text() }
    }
}

/// The outcome of a verification.
#[derive(Clone, Debug, PartialEq)]
pub enum Verdict {
    /// Pass (1), fail (0), or the score of a program.
    Score(f64),
    /// No verdict, and why.
    Inconclusive(String),
}

impl Verdict {
    fn of(pass: bool) -> Self {
        Self::Score(f64::from(u8::from(pass)))
    }

    /// Whether it is a pass: a score of at least one half. No verdict is no pass.
    #[must_use]
    pub fn passes(&self) -> bool {
        matches!(self, Self::Score(x) if *x >= 0.5)
    }

    /// The number that a strategy sees; no verdict counts as 0.
    #[must_use]
    pub fn score(&self) -> f64 {
        match self {
            Self::Score(x) => *x,
            Self::Inconclusive(_) => 0.0,
        }
    }
}

/// A verifier that cannot be used at all.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum VerifyError {
    /// The pattern.
    #[error("verifier pattern {pattern:?}: {cause}; write a shorter or simpler pattern")]
    Pattern {
        /// The pattern, shortened.
        pattern: String,
        /// What is wrong.
        cause: String,
    },
    /// The host program does not start.
    #[error(
        "verifier program {program:?} does not start: {cause}; check that it exists, is executable and is for this machine"
    )]
    Start {
        /// Program name.
        program: String,
        /// What the system said.
        cause: std::io::Error,
    },
    /// An empty command line or broken quotes.
    #[error("verifier command {line:?}: {cause}; write the program and its arguments, quoted where they hold spaces")]
    CommandLine {
        /// The line.
        line: String,
        /// What is wrong.
        cause: &'static str,
    },
}

/// Equality of the answer with a text. White space around both is ignored, runs of white space inside count as one
/// space; upper and lower case differ.
#[must_use]
pub fn exact(expected: &str, answer: Answer<'_>) -> Verdict {
    let squeeze = |text: &str| text.split_whitespace().collect::<Vec<_>>().join(" ");
    Verdict::of(squeeze(&answer.essence()) == squeeze(expected))
}

/// Equality of the answer's number with a number, within an absolute tolerance. The number is the value itself when the
/// format gave a number, else the last number in the text ([`last_number`]); no number is a fail.
#[must_use]
pub fn numeric(expected: f64, tolerance: f64, answer: Answer<'_>) -> Verdict {
    let found = answer.value.number().or_else(|| last_number(&answer.essence()));
    Verdict::of(found.is_some_and(|x| (x - expected).abs() <= tolerance.max(0.0)))
}

/// Whether the pattern matches somewhere in the answer.
///
/// # Errors
/// When the pattern is too long, malformed or compiles to too much.
pub fn pattern(pattern: &str, answer: Answer<'_>) -> Result<Verdict, VerifyError> {
    let refuse = |cause: String| VerifyError::Pattern { pattern: pattern.chars().take(60).collect(), cause };
    if pattern.len() > MAX_PATTERN {
        return Err(refuse(format!("it has {} bytes, at most {MAX_PATTERN} are accepted", pattern.len())));
    }
    let compiled = regex::RegexBuilder::new(pattern)
        .size_limit(MAX_COMPILED)
        .dfa_size_limit(MAX_COMPILED)
        .build()
        .map_err(|e| refuse(e.to_string()))?;
    let essence = answer.essence();
    if essence.len() > MAX_HAYSTACK {
        return Ok(Verdict::Inconclusive(format!("the answer has {} bytes, more than {MAX_HAYSTACK}", essence.len())));
    }
    Ok(Verdict::of(compiled.is_match(&essence)))
}

/// The last number in a text: an optional sign, digits with separators of thousands (`1,234` or `1_234`), a fraction,
/// an exponent; `3/4` is a quotient, `50%` is 50.
#[must_use]
pub fn last_number(text: &str) -> Option<f64> {
    let bytes = text.as_bytes();
    let mut at = 0;
    let mut last = None;
    while at < bytes.len() {
        if !(digit(bytes, at) || bytes[at] == b'.' && digit(bytes, at + 1)) {
            at += 1;
            continue;
        }
        let end = number_end(bytes, at);
        let signed = at > 0 && bytes[at - 1] == b'-' && !(at > 1 && (bytes[at - 2].is_ascii_alphanumeric()));
        let digits: String = text[at..end].chars().filter(|c| !matches!(c, ',' | '_')).collect();
        if let Ok(x) = digits.parse::<f64>() {
            last = Some(if signed { -x } else { x });
        }
        at = end;
        // A quotient of two whole numbers.
        if at + 1 < bytes.len() && bytes[at] == b'/' && digit(bytes, at + 1) {
            let end = number_end(bytes, at + 1);
            if let (Some(x), Ok(y)) = (last, text[at + 1..end].replace([',', '_'], "").parse::<f64>())
                && y != 0.0
            {
                last = Some(x / y);
            }
            at = end;
        }
    }
    last.filter(|x| x.is_finite())
}

/// The number that a text is as a whole, sign included, in the notations of [`last_number`].
#[must_use]
pub fn whole_number(text: &str) -> Option<f64> {
    let (sign, digits) = match text.strip_prefix(['-', '+']) {
        Some(rest) if text.starts_with('-') => (-1.0, rest),
        Some(rest) => (1.0, rest),
        None => (1.0, text),
    };
    let bytes = digits.as_bytes();
    let starts = digit(bytes, 0) || (bytes.first() == Some(&b'.') && digit(bytes, 1));
    let mut end = if starts { number_end(bytes, 0) } else { return None };
    if bytes.get(end) == Some(&b'/') && digit(bytes, end + 1) {
        end = number_end(bytes, end + 1);
    }
    if end == bytes.len() { last_number(digits).map(|x| sign * x) } else { None }
}

fn digit(bytes: &[u8], at: usize) -> bool {
    bytes.get(at).is_some_and(u8::is_ascii_digit)
}

/// End of the number that starts at `at`.
fn number_end(bytes: &[u8], mut at: usize) -> usize {
    while digit(bytes, at) {
        at += 1;
        // A separator only between a digit and exactly three digits, or any digits after an underscore.
        let group = bytes.get(at) == Some(&b',') && (1..=3).all(|i| digit(bytes, at + i)) && !digit(bytes, at + 4);
        if group || (bytes.get(at) == Some(&b'_') && digit(bytes, at + 1)) {
            at += 1;
        }
    }
    if bytes.get(at) == Some(&b'.') && digit(bytes, at + 1) {
        at += 1;
        while digit(bytes, at) {
            at += 1;
        }
    }
    if matches!(bytes.get(at), Some(b'e' | b'E')) {
        let sign = usize::from(matches!(bytes.get(at + 1), Some(b'+' | b'-')));
        if digit(bytes, at + 1 + sign) {
            at += 1 + sign;
            while digit(bytes, at) {
                at += 1;
            }
        }
    }
    at
}

#[cfg(test)]
mod tests {
    use super::*;

    fn answer(text: &str) -> Answer<'_> {
        Answer { text, value: &Value::None }
    }

    #[test]
    fn numbers_are_found() {
        for (text, number) in [
            ("so 1,234.5 it is", Some(1234.5)),
            ("x = -7.", Some(-7.0)),
            ("10-7", Some(7.0)),
            ("3/4", Some(0.75)),
            ("1e3 apples", Some(1000.0)),
            ("1, 2, 3", Some(3.0)),
            ("$12,50", Some(50.0)),
            ("none here", None),
            ("1/0", Some(1.0)),
            ("50%", Some(50.0)),
            (".5", Some(0.5)),
        ] {
            assert_eq!(last_number(text), number, "{text}");
        }
        assert_eq!(last_number(&"9".repeat(400)), None);
    }

    #[test]
    fn values_come_before_texts() {
        let value = Value::text("12");
        let answer = Answer { text: "first 11, then \\boxed{12}, not 13", value: &value };
        assert!(exact(" 12 ", answer).passes());
        assert!(numeric(12.0, 0.0, answer).passes());
        assert!(!numeric(13.0, 0.0, answer).passes());
        assert!(!exact("A", Answer { text: "a", value: &Value::None }).passes());
    }

    #[test]
    fn patterns_have_caps() {
        assert!(pattern("^4.$", answer("42")).expect("legal").passes());
        assert!(pattern("(a+)+b", answer(&"a".repeat(100_000))).is_ok_and(|v| !v.passes()));
        assert!(pattern(&"a".repeat(MAX_PATTERN + 1), answer("")).is_err());
        assert!(pattern("((((a{100}){100}){100}){100})", answer("")).is_err());
        assert!(pattern("(", answer("")).is_err());
        let long = "a".repeat(MAX_HAYSTACK + 1);
        assert!(matches!(pattern("a", answer(&long)), Ok(Verdict::Inconclusive(_))));
    }
}
