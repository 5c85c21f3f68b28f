//! Is an answer right? The verifiers of benchmark data, by the kind a task names.
//!
//! Kinds: `int`, `number` (last number of the answer), `text`, `word` (equal but for case and punctuation), `contains`,
//! `intlist` (the integers of the answer, in order), `countdown` (an arithmetic expression over the task's numbers that
//! gives the target). Pure functions; nothing is run.

use anyhow::{Result, bail};
use runtime::verify::last_number;
use serde_json::Value;

/// Whether `answer` solves `task` (a JSON object with `verifier`, `answer`, and for `countdown` `numbers`).
///
/// # Errors
/// When the task names no known verifier or lacks what it needs.
pub fn grade(task: &Value, answer: &str) -> Result<bool> {
    let kind = task.get("verifier").and_then(Value::as_str).unwrap_or("text");
    let expected = match task.get("answer") {
        Some(Value::String(s)) => s.clone(),
        Some(other) => other.to_string(),
        None => bail!("the task has no `answer`"),
    };
    Ok(match kind {
        "int" | "number" => match (last_number(answer), last_number(&expected)) {
            (Some(a), Some(b)) => (a - b).abs() <= 1e-6 * b.abs().max(1.0),
            _ => false,
        },
        "text" | "word" => normal(answer) == normal(&expected),
        "contains" => normal(answer).contains(&normal(&expected)),
        "intlist" => integers(answer) == integers(&expected),
        "countdown" => {
            let numbers: Vec<i64> = match task.get("numbers").and_then(Value::as_array) {
                Some(list) => list.iter().filter_map(Value::as_i64).collect(),
                None => bail!("a countdown task needs `numbers`"),
            };
            let Some(target) = last_number(&expected) else { bail!("a countdown task needs a number as `answer`") };
            countdown(answer, &numbers, target)
        }
        other => bail!("unknown verifier `{other}`: known are int, number, text, word, contains, intlist, countdown"),
    })
}

fn normal(text: &str) -> String {
    let keep = |c: char| if c.is_alphanumeric() { Some(c.to_lowercase()) } else { None };
    text.chars().filter_map(keep).flatten().collect()
}

fn integers(text: &str) -> Vec<i64> {
    let mut out = Vec::new();
    let mut digits = String::new();
    for c in text.chars().chain(std::iter::once(' ')) {
        match c {
            '0'..='9' => digits.push(c),
            '-' if digits.is_empty() => digits.push(c),
            _ => {
                out.extend(digits.parse::<i64>());
                digits.clear();
                if c == '-' {
                    digits.push(c);
                }
            }
        }
    }
    out
}

/// The last line or equation of the answer whose left side uses only the given numbers, each at most once, and whose
/// value is the target.
fn countdown(answer: &str, numbers: &[i64], target: f64) -> bool {
    answer.lines().any(|line| {
        line.split('=').any(|part| {
            let text: String = part
                .chars()
                .map(|c| {
                    if c == '×' {
                        '*'
                    } else if c == '÷' {
                        '/'
                    } else {
                        c
                    }
                })
                .collect();
            let start = text.find(|c: char| c.is_ascii_digit() || c == '(').unwrap_or(text.len());
            let mut parser = Expression { rest: text[start..].trim(), used: Vec::new(), depth: 0 };
            let Some(value) = parser.sum() else { return false };
            let mut pool = numbers.to_vec();
            let fits =
                parser.used.iter().all(|n| pool.iter().position(|p| p == n).map(|i| pool.swap_remove(i)).is_some());
            fits && parser.used.len() > 1 && (value - target).abs() < 1e-9
        })
    })
}

/// `+ - * / ( )` over integers; stops at what it does not know.
struct Expression<'a> {
    rest: &'a str,
    used: Vec<i64>,
    depth: u32,
}

impl Expression<'_> {
    fn sum(&mut self) -> Option<f64> {
        let mut value = self.product()?;
        loop {
            self.rest = self.rest.trim_start();
            match self.rest.as_bytes().first() {
                Some(b'+') => value += self.after_operator(Self::product)?,
                Some(b'-') => value -= self.after_operator(Self::product)?,
                _ => return Some(value),
            }
        }
    }

    fn product(&mut self) -> Option<f64> {
        let mut value = self.atom()?;
        loop {
            self.rest = self.rest.trim_start();
            match self.rest.as_bytes().first() {
                Some(b'*') => value *= self.after_operator(Self::atom)?,
                Some(b'/') => {
                    let divisor = self.after_operator(Self::atom)?;
                    if divisor == 0.0 {
                        return None;
                    }
                    value /= divisor;
                }
                _ => return Some(value),
            }
        }
    }

    fn after_operator(&mut self, next: fn(&mut Self) -> Option<f64>) -> Option<f64> {
        self.rest = &self.rest[1..];
        next(self)
    }

    fn atom(&mut self) -> Option<f64> {
        self.rest = self.rest.trim_start();
        if let Some(inner) = self.rest.strip_prefix('(') {
            self.depth += 1;
            if self.depth > 32 {
                return None;
            }
            self.rest = inner;
            let value = self.sum()?;
            self.rest = self.rest.trim_start().strip_prefix(')')?;
            self.depth -= 1;
            return Some(value);
        }
        let end = self.rest.find(|c: char| !c.is_ascii_digit()).unwrap_or(self.rest.len());
        let number: i64 = self.rest[..end].parse().ok()?;
        self.rest = &self.rest[end..];
        self.used.push(number);
        #[allow(clippy::cast_precision_loss, reason = "puzzle numbers are small")]
        Some(number as f64)
    }
}

/// Wilson interval of a share at 95 %.
#[must_use]
#[allow(clippy::cast_precision_loss, reason = "counts of tasks")]
pub fn wilson(right: usize, n: usize) -> (f64, f64) {
    if n == 0 {
        return (0.0, 1.0);
    }
    const Z: f64 = 1.959_964;
    let (n, p) = (n as f64, right as f64 / n as f64);
    let centre = p + Z * Z / (2.0 * n);
    let spread = Z * (p * (1.0 - p) / n + Z * Z / (4.0 * n * n)).sqrt();
    let scale = 1.0 + Z * Z / n;
    (((centre - spread) / scale).max(0.0), ((centre + spread) / scale).min(1.0))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn each_kind_accepts_the_right_and_refuses_the_wrong() {
        for (task, answer, right) in [
            (json!({"verifier": "int", "answer": "11"}), "The sum is 11.", true),
            (json!({"verifier": "int", "answer": "11"}), "12", false),
            (json!({"verifier": "text", "answer": "Paris"}), "paris.", true),
            (json!({"verifier": "contains", "answer": "Paris"}), "It is Paris, of course", true),
            (json!({"verifier": "intlist", "answer": "1, 2, 10"}), "[1, 2, 10]", true),
            (json!({"verifier": "intlist", "answer": "1, 2, 10"}), "2, 1, 10", false),
            (json!({"verifier": "countdown", "answer": "24", "numbers": [4, 6, 3]}), "4 * 6 = 24", true),
            (json!({"verifier": "countdown", "answer": "24", "numbers": [4, 6, 3]}), "(4 + 4) * 3 = 24", false),
            (json!({"verifier": "countdown", "answer": "24", "numbers": [4, 6, 3]}), "24", false),
            (json!({"verifier": "countdown", "answer": "6", "numbers": [4, 6, 3, 8]}), "x = (8 - 6) * 3", true),
        ] {
            assert_eq!(grade(&task, answer).unwrap(), right, "{task} {answer}");
        }
        assert!(grade(&json!({"verifier": "magic", "answer": "1"}), "1").is_err());
    }

    #[test]
    fn the_interval_holds_the_share() {
        let (lo, hi) = wilson(8, 10);
        assert!(lo > 0.4 && lo < 0.8 && hi > 0.8 && hi < 1.0);
        assert_eq!(wilson(0, 0), (0.0, 1.0));
    }
}
