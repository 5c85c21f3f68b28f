//! Items as documents, and the empty lines between them.

use ir::diagnostic::Span;

use super::Printer;
use super::comments::{BRACES, PARENS};
use super::doc::Doc;
use super::expr::{Layout, joined};
use super::strings::quoted;
use crate::ast::{Expr, Item, ItemKind, Limits, Name, Param, Role, Template, Type, UseTree};

impl Printer<'_> {
    /// All items and the comments after the last one.
    pub(super) fn items(&mut self, items: &[Item]) -> Doc {
        let mut parts = Vec::new();
        let widths = self.aligned_models(items);
        for (index, item) in items.iter().enumerate() {
            let start = item.span.start;
            if index > 0 {
                let apart = is_tall(&items[index - 1]) || is_tall(item) || self.blank_before(self.first_place(start));
                parts.push(if apart { Doc::blank() } else { Doc::hard() });
            }
            parts.push(self.leading(start));
            parts.push(self.item(item, widths[index]));
            parts.push(self.stragglers(item.span.end));
            parts.push(self.trailing(item.span.end));
        }
        let end = u32::try_from(self.source.len()).unwrap_or(u32::MAX);
        parts.push(self.dangling(end, items.is_empty()));
        Doc::concat(parts)
    }

    /// For each item the width to which the name of a model is padded: models on adjacent lines share their colon.
    fn aligned_models(&self, items: &[Item]) -> Vec<usize> {
        let name = |item: &Item| match &item.kind {
            ItemKind::Model { name, .. } => name.text.len(),
            _ => 0,
        };
        let adjacent = |a: &Item, b: &Item| {
            let gap = &self.source[a.span.end as usize..b.span.start as usize];
            name(a) > 0 && name(b) > 0 && gap.bytes().filter(|byte| *byte == b'\n').count() <= 1
        };
        let mut widths = vec![0; items.len()];
        let mut start = 0;
        while start < items.len() {
            let mut end = start + 1;
            while end < items.len() && adjacent(&items[end - 1], &items[end]) {
                end += 1;
            }
            let width = items[start..end].iter().map(name).max().unwrap_or(0);
            widths[start..end].fill(width);
            start = end;
        }
        widths
    }

    fn item(&mut self, item: &Item, width: usize) -> Doc {
        let close = item.span.end.saturating_sub(1);
        match &item.kind {
            ItemKind::Use(tree) => {
                let tree = self.use_tree(tree, close);
                Doc::concat(vec![Doc::text("use "), tree, Doc::text(";")])
            }
            ItemKind::Model { name, kind, needs, binding } => {
                let mut text = format!("model {:width$} : {}", name.text, kind.text);
                if !needs.is_empty() {
                    text.push_str(&format!(" needs {}", joined(needs)));
                }
                self.bound(text, binding.as_ref())
            }
            ItemKind::Tool { name, params, result, timeout, cost } => {
                let mut parts = vec![self.signature("tool", name, params, result)];
                let mut clauses = Vec::new();
                for (word, value) in [("timeout", timeout), ("cost", cost)] {
                    if let Some(value) = value {
                        clauses.push(Doc::line());
                        clauses.push(Doc::text(format!("{word} ")));
                        clauses.push(self.expr(value));
                    }
                }
                parts.push(Doc::group(Doc::nest(Doc::concat(clauses))));
                parts.push(Doc::text(";"));
                Doc::concat(parts)
            }
            ItemKind::Record { name, fields } => {
                let place = |(name, ty): &(Name, Type)| Span { end: ty.span.end, ..name.span };
                let fields = self.list(BRACES, fields, close, place, |p, (name, ty)| {
                    let ty = p.ty(ty);
                    Doc::text(format!("{}: {ty}", name.text))
                });
                Doc::concat(vec![Doc::text(format!("type {} ", name.text)), fields])
            }
            ItemKind::Enum { name, labels } => {
                let labels = self.list(BRACES, labels, close, |label| label.span, |_, label| Doc::text(&label.text));
                Doc::concat(vec![Doc::text(format!("enum {} ", name.text)), labels])
            }
            ItemKind::Prompt { name, params, messages } => self.prompt(name, params, messages, close),
            ItemKind::Const { name, ty, value } => {
                let head = format!("const {}: {}", name.text, self.ty(ty));
                self.bound(head, Some(value))
            }
            ItemKind::Tunable { name, ty, value, range } => {
                let head = format!("tunable {}: {} = ", name.text, self.ty(ty));
                let value = self.expr(value);
                let range = self.expr(range);
                Doc::concat(vec![Doc::text(head), value, Doc::text(" in "), range, Doc::text(";")])
            }
            ItemKind::Error => Doc::nil(),
            _ => self.block_item(item),
        }
    }

    fn block_item(&mut self, item: &Item) -> Doc {
        let (mut parts, clauses, body) = match &item.kind {
            ItemKind::Fn { name, params, result, body } => {
                (vec![self.signature("fn", name, params, result)], Vec::new(), body)
            }
            ItemKind::Strategy { name, params, result, within, allow, body } => {
                let head = self.signature("strategy", name, params, result);
                let mut clauses = Vec::new();
                self.limits_clause(&mut clauses, "within", within.as_ref());
                self.limits_clause(&mut clauses, "allow", allow.as_ref());
                (vec![head], clauses, body)
            }
            ItemKind::Precompute { name, params, result, within, warm, ttl, body } => {
                let head = self.signature("precompute", name, params, result);
                let mut clauses = Vec::new();
                self.limits_clause(&mut clauses, "within", within.as_ref());
                if let Some(last) = warm.last() {
                    clauses.push(Doc::text(format!("warm {}", joined(warm))));
                    clauses.push(self.clause_end(last.span.end));
                }
                if let Some(ttl) = ttl {
                    let value = self.expr(ttl);
                    clauses.push(Doc::concat(vec![Doc::text("ttl "), value]));
                    clauses.push(self.clause_end(ttl.span.end));
                }
                (vec![head], clauses, body)
            }
            ItemKind::Test { title, body } => (vec![Doc::text(format!("test {}", quoted(title)))], Vec::new(), body),
            _ => return Doc::nil(),
        };
        if clauses.is_empty() {
            parts.push(Doc::text(" "));
        } else {
            parts.push(Doc::hard());
            parts.extend(clauses);
        }
        parts.push(self.block(body, Layout::Lines));
        Doc::concat(parts)
    }

    fn limits_clause(&mut self, clauses: &mut Vec<Doc>, word: &str, limits: Option<&Limits>) {
        if let Some(limits) = limits {
            let listed = self.limits(limits);
            clauses.push(Doc::group(Doc::concat(vec![Doc::text(format!("{word} ")), listed])));
            clauses.push(self.clause_end(limits.span.end));
        }
    }

    /// The comment behind a clause and the end of its line.
    fn clause_end(&mut self, end: u32) -> Doc {
        let comment = self.trailing(end);
        Doc::concat(vec![comment, Doc::hard()])
    }

    fn use_tree(&mut self, tree: &UseTree, close: u32) -> Doc {
        match tree {
            UseTree::Name(name, None) => Doc::text(&name.text),
            UseTree::Name(name, Some(other)) => Doc::text(format!("{} as {}", name.text, other.text)),
            UseTree::Path(first, rest) => {
                let rest = self.use_tree(rest, close);
                Doc::concat(vec![Doc::text(format!("{}::", first.text)), rest])
            }
            UseTree::Group(names) => {
                let braces = super::comments::Brackets { spaced: false, ..BRACES };
                self.list(braces, names, close, |name| name.span, |_, name| Doc::text(&name.text))
            }
        }
    }

    /// `head = value;` or `head;`
    fn bound(&mut self, head: String, value: Option<&Expr>) -> Doc {
        let mut parts = vec![Doc::text(head)];
        if let Some(value) = value {
            parts.push(Doc::text(" = "));
            parts.push(self.expr(value));
        }
        parts.push(Doc::text(";"));
        Doc::concat(parts)
    }

    fn signature(&mut self, word: &str, name: &Name, params: &[Param], result: &Type) -> Doc {
        let params = self.params(params, result.span.start);
        let result = self.ty(result);
        Doc::concat(vec![Doc::text(format!("{word} {}", name.text)), params, Doc::text(format!(" -> {result}"))])
    }

    fn params(&mut self, params: &[Param], close: u32) -> Doc {
        let place = |param: &Param| {
            let last = param.range.as_ref().or(param.default.as_ref()).map_or(param.ty.span.end, |e| e.span.end);
            Span { end: last, ..param.name.span }
        };
        self.list(PARENS, params, close, place, |p, param| {
            let mut parts = vec![Doc::text(format!("{}: {}", param.name.text, p.ty(&param.ty)))];
            for (word, value) in [(" = ", &param.default), (" in ", &param.range)] {
                if let Some(value) = value {
                    parts.push(Doc::text(word));
                    parts.push(p.expr(value));
                }
            }
            Doc::concat(parts)
        })
    }

    /// Messages one below the other, their strings aligned.
    fn prompt(&mut self, name: &Name, params: &[Param], messages: &[(Role, Template)], close: u32) -> Doc {
        let end = params.last().map_or(name.span.end, |param| param.ty.span.end);
        let params = self.params(params, end);
        let behind = Doc::concat(vec![params, Doc::text(" {")]);
        let single = |template: &Template| self.source[range(template.span)].lines().count() <= 1;
        let width = messages.iter().filter(|(_, t)| single(t)).map(|(r, _)| word(*r).len()).max().unwrap_or(0);
        let padded: Vec<usize> = messages.iter().map(|(_, t)| if single(t) { width } else { 0 }).collect();
        let mut inner = Vec::new();
        for (index, ((role, template), width)) in messages.iter().zip(padded).enumerate() {
            let start = template.span.start;
            let place = self.first_place(self.word_start(start));
            inner.push(if index > 0 && self.blank_before(place) { Doc::blank() } else { Doc::hard() });
            inner.push(self.leading(start));
            inner.push(Doc::text(format!("{:width$} ", word(*role))));
            inner.push(self.template(template));
            inner.push(self.trailing(template.span.end));
        }
        inner.push(self.dangling(close, false));
        Doc::concat(vec![
            Doc::text(format!("prompt {}", name.text)),
            behind,
            Doc::nest(Doc::concat(inner)),
            Doc::hard(),
            Doc::text("}"),
        ])
    }

    /// Where the word before this place starts.
    fn word_start(&self, place: u32) -> u32 {
        let before = self.source[..place as usize].trim_end();
        let start = before.trim_end_matches(|c: char| c.is_ascii_alphabetic()).len();
        u32::try_from(start).unwrap_or(place)
    }
}

fn range(span: Span) -> std::ops::Range<usize> {
    span.start as usize..span.end as usize
}

fn word(role: Role) -> &'static str {
    match role {
        Role::System => "system",
        Role::User => "user",
        Role::Assistant => "assistant",
    }
}

/// Items that span lines stand apart from their neighbours.
fn is_tall(item: &Item) -> bool {
    matches!(
        item.kind,
        ItemKind::Prompt { .. }
            | ItemKind::Fn { .. }
            | ItemKind::Strategy { .. }
            | ItemKind::Precompute { .. }
            | ItemKind::Test { .. }
    )
}
