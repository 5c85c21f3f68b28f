//! A look at a template before it runs: takes its source, refuses tags and assignments whose cost fuel cannot bound.
//!
//! Fuel counts instructions, and an instruction may double a string: thirty of them make gigabytes. Values grow from one
//! instruction to the next only through assignments, so those are limited: one that builds (concatenates or makes a
//! list) may mention built values once, which leaves growth linear in the number of instructions. Macros, captures and
//! recursive loops would be ways around and are refused with every other tag that chat templates do without.

use std::collections::BTreeSet;

/// A piece of an expression.
#[derive(Clone, Debug, PartialEq)]
enum Token<'a> {
    Name(&'a str),
    Attribute,
    Literal,
    Punct(char),
}

/// An assignment: `set` or a loop's variables.
struct Assignment<'a> {
    line: usize,
    targets: Vec<&'a str>,
    value: Vec<Token<'a>>,
    looping: bool,
}

/// Checks a template.
///
/// # Errors
/// The line and what is not allowed there.
pub(super) fn check(source: &str) -> Result<(), (usize, String)> {
    let mut assignments = Vec::new();
    for (line, tokens) in tags(source)? {
        let Some(Token::Name(tag)) = tokens.first() else { return Err((line, "a tag without a name".to_owned())) };
        match *tag {
            "if" | "elif" | "else" | "endif" | "endfor" => {}
            "set" | "for" => assignments.push(assignment(line, tag, &tokens[1..])?),
            other => {
                let name: String = other.chars().take(40).collect();
                return Err((line, format!("the tag `{name}` is not allowed in chat templates")));
            }
        }
    }
    let assigned: BTreeSet<&str> = assignments.iter().filter(|a| !a.looping).flat_map(|a| a.targets.clone()).collect();
    let mut built: BTreeSet<&str> = BTreeSet::new();
    loop {
        let before = built.len();
        for a in &assignments {
            if (!a.looping && builds(&a.value)) || has_collection(&a.value) || mentions(&a.value, &built) > 0 {
                built.extend(&a.targets);
            }
        }
        if built.len() == before {
            break;
        }
    }
    for a in assignments.iter().filter(|a| !a.looping) {
        let nests = has_collection(&a.value) && mentions(&a.value, &assigned) > 0;
        if nests || (builds(&a.value) && mentions(&a.value, &built) > 1) {
            return Err((a.line, format!("the assignment to `{}` could grow without bound", a.targets.join(", "))));
        }
    }
    Ok(())
}

fn assignment<'a>(line: usize, tag: &str, tokens: &[Token<'a>]) -> Result<Assignment<'a>, (usize, String)> {
    let looping = tag == "for";
    let splits = |t: &Token<'_>| if looping { *t == Token::Name("in") } else { *t == Token::Punct('=') };
    let Some(cut) = tokens.iter().position(splits) else {
        return Err((line, format!("`{tag}` without a value is not allowed in chat templates")));
    };
    if looping && tokens.contains(&Token::Name("recursive")) {
        return Err((line, "recursive loops are not allowed in chat templates".to_owned()));
    }
    let targets = tokens[..cut].iter().filter_map(|t| if let Token::Name(n) = t { Some(*n) } else { None }).collect();
    Ok(Assignment { line, targets, value: tokens[cut + 1..].to_vec(), looping })
}

/// Whether an expression concatenates, repeats or makes a collection.
fn builds(value: &[Token<'_>]) -> bool {
    value.iter().any(|t| matches!(t, Token::Punct('+' | '~' | '*' | '%'))) || has_collection(value)
}

/// Whether it has a list or dictionary in it: a bracket that indexes nothing.
fn has_collection(value: &[Token<'_>]) -> bool {
    value.iter().enumerate().any(|(i, t)| match t {
        Token::Punct('{') => true,
        Token::Punct('[') => !matches!(
            i.checked_sub(1).map(|p| &value[p]),
            Some(Token::Name(_) | Token::Attribute | Token::Literal | Token::Punct(')' | ']'))
        ),
        _ => false,
    })
}

fn mentions(value: &[Token<'_>], names: &BTreeSet<&str>) -> usize {
    value.iter().filter(|t| matches!(t, Token::Name(n) if names.contains(n))).count()
}

type Tag<'a> = (usize, Vec<Token<'a>>);

/// The `{% … %}` tags of a template with their lines.
fn tags(source: &str) -> Result<Vec<Tag<'_>>, (usize, String)> {
    let mut found = Vec::new();
    let mut at = 0;
    while let Some(open) = source[at..].find('{').map(|i| at + i) {
        let line = 1 + source[..open].matches('\n').count();
        let unclosed = || (line, "an unclosed tag".to_owned());
        match source.as_bytes().get(open + 1) {
            Some(b'#') => at = open + 2 + source[open + 2..].find("#}").ok_or_else(unclosed)? + 2,
            Some(b'%') => {
                let (tokens, end) = lex(source, open + 2, "%}").ok_or_else(unclosed)?;
                found.push((line, tokens));
                at = end;
            }
            Some(b'{') => at = lex(source, open + 2, "}}").ok_or_else(unclosed)?.1,
            _ => at = open + 1,
        }
    }
    Ok(found)
}

/// Reads tokens up to `close`; returns them and where the text goes on.
fn lex<'a>(source: &'a str, mut at: usize, close: &str) -> Option<(Vec<Token<'a>>, usize)> {
    let mut tokens = Vec::new();
    let mut depth = 0usize;
    loop {
        let rest = &source[at..];
        let c = rest.chars().next()?;
        // Closing braces of a dictionary are not the end of an expression.
        if depth == 0 || close == "%}" {
            let end = rest.strip_prefix(['-', '+']).unwrap_or(rest);
            if end.starts_with(close) {
                return Some((tokens, at + (rest.len() - end.len()) + close.len()));
            }
        }
        if c == '\'' || c == '"' {
            let mut escaped = false;
            let end = rest[1..].find(|x: char| {
                let ends = x == c && !escaped;
                escaped = x == '\\' && !escaped;
                ends
            })?;
            tokens.push(Token::Literal);
            at += end + 2;
        } else if c.is_alphanumeric() || c == '_' {
            let end = rest.find(|x: char| !(x.is_alphanumeric() || x == '_')).unwrap_or(rest.len());
            let attribute = tokens.last() == Some(&Token::Punct('.'));
            tokens.push(match (attribute, c.is_ascii_digit()) {
                (true, _) => Token::Attribute,
                (_, true) => Token::Literal,
                _ => Token::Name(&rest[..end]),
            });
            at += end;
        } else {
            match c {
                '{' => depth += 1,
                '}' => depth = depth.saturating_sub(1),
                _ => {}
            }
            // The mark that trims whitespace at a tag's beginning is no operator.
            let trims = tokens.is_empty() && matches!(c, '-' | '+');
            if !c.is_whitespace() && !trims {
                tokens.push(Token::Punct(c));
            }
            at += c.len_utf8();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::check;

    #[test]
    fn what_doubles_is_refused() {
        for source in [
            "{% set x = x ~ x %}",
            "{% set a = 'a' %}{% set b = a + 'b' %}{% set c = b + b %}",
            "{% set ns = namespace(x='a') %}{% for i in range(30) %}{% set ns.x = ns.x + ns.x %}{% endfor %}",
            "{%- set x = [x] -%}",
            "{% set x = {'a': x} %}",
            "{% set x %}{{ x }}{{ x }}{% endset %}",
            "{% macro f(x) %}{{ x }}{{ x }}{% endmacro %}",
            "{% include 'x' %}",
            "{% for x in y recursive %}{% endfor %}",
            "{% set a = 'a' + 'b' %}{% for y in [a] %}{% set a = y ~ a %}{% endfor %}",
            "{# {% #}{% block x %}",
            "{% set x = '%}' ~ x ~ x %}",
            "{% if",
        ] {
            assert!(check(source).is_err(), "{source}");
        }
    }

    #[test]
    fn what_templates_do_is_allowed() {
        for source in [
            "{% for m in messages %}{% set content = '<s>' + m['role'] + m['content'] | trim %}{% if loop.index0 == 0 %}{% set content = bos_token + content %}{% endif %}{{ content }}{% endfor %}",
            "{%- set ns = namespace(multi=true, last=messages|length - 1) -%}{% for m in messages[::-1] %}{%- set index = (messages|length - 1) - loop.index0 %}{% set ns.last = index %}{% endfor %}",
            "{% set loop_messages = messages[1:] %}{% for m in loop_messages %}{% set c = '[INST] ' + m.content + m.role %}{{ c }}{% endfor %}",
            "{% set x = content.split('</think>')[-1].lstrip('\\n') %}{{ {'a': 1} | tojson }}{# free {% text #}",
        ] {
            assert_eq!(check(source), Ok(()), "{source}");
        }
    }
}
