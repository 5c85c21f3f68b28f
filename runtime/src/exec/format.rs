//! Values of output formats: what a finished text is worth under `text`, `boxed`, `regex` and `json`.

use crate::value::Value;
use ir::strategy::Format;
use std::sync::Arc;

/// The value of a text under a format; [`Value::None`] when it has none. `whole` says that the text was not cut off.
pub(super) fn value(format: &Format, text: &Arc<str>, whole: bool) -> Value {
    match format {
        Format::Text => Value::Text(text.clone()),
        Format::Boxed => boxed(text).map_or(Value::None, Value::text),
        // Checked again: written answers are not held to the pattern while they are made.
        Format::Regex(pattern) => match regex::Regex::new(&format!("^(?:{pattern})$")) {
            Ok(compiled) if compiled.is_match(text) => Value::Text(text.clone()),
            Ok(_) => Value::None,
            // Syntax that only the enforcing engine knows: it has held the text to it.
            Err(_) if whole => Value::Text(text.clone()),
            Err(_) => Value::None,
        },
        Format::Json(ty) => serde_json::from_str(text.trim())
            .ok()
            .and_then(|json| Value::from_json(ty, &json, "value").ok())
            .unwrap_or(Value::None),
    }
}

/// The inside of the last `\boxed{…}` with balanced braces, trimmed; `\{` and `\}` do not count as braces.
fn boxed(text: &str) -> Option<&str> {
    const OPEN: &str = "\\boxed{";
    let mut end = text.len();
    while let Some(at) = text[..end].rfind(OPEN) {
        let inside = at + OPEN.len();
        let (mut depth, mut escaped) = (1usize, false);
        for (i, c) in text[inside..].char_indices() {
            match c {
                _ if escaped => escaped = false,
                '\\' => escaped = true,
                '{' => depth += 1,
                '}' => depth -= 1,
                _ => {}
            }
            if depth == 0 {
                return Some(text[inside..inside + i].trim());
            }
        }
        end = at;
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;
    use ir::strategy::Ty;

    #[test]
    fn boxes() {
        assert_eq!(boxed("a \\boxed{1} b \\boxed{ \\frac{1}{2} }."), Some("\\frac{1}{2}"));
        assert_eq!(boxed("\\boxed{1} and \\boxed{2"), Some("1"));
        assert_eq!(boxed("\\boxed{\\{1\\}}"), Some("\\{1\\}"));
        assert_eq!(boxed("no box"), None);
        assert_eq!(boxed(&"\\boxed{".repeat(3000)), None);
    }

    #[test]
    fn formats_give_typed_values() {
        let text = |t: &str| Arc::from(t);
        assert_eq!(value(&Format::Regex("[0-9]+".into()), &text("12"), true), Value::text("12"));
        assert_eq!(value(&Format::Regex("[0-9]+".into()), &text("12a"), true), Value::None);
        assert_eq!(value(&Format::Json(Ty::Int), &text(" 12 "), true), Value::Int(12));
        assert_eq!(value(&Format::Json(Ty::Int), &text("{"), true), Value::None);
    }
}
