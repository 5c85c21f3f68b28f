//! `gen`, `sample`, `advance`: settings, formats, boundaries, and the capabilities that rules ask of models.

use super::calls::Bound;
use super::{Checker, Def, types};
use crate::ast::{self, ExprKind as A, Rule};
use crate::builtins::{self, Kind};
use crate::codes;
use crate::hir::{
    Capability, Const, Expr, ExprKind, Format, FunctionKind, Generate, GenerateKind, Level, Prim, RoleKind, Ty,
};
use ir::diagnostic::{Diagnostic, Span};
use ir::strategy::Format as Ready;

impl Checker<'_> {
    /// Checks `e on { rules }`: the rules belong to the call.
    pub(super) fn on(&mut self, inner: &ast::Expr, rules: &[Rule], span: Span) -> Expr {
        let call = self.check(inner, None);
        let (id, ty) = (call.id, call.ty.clone());
        match call.kind {
            ExprKind::Generate(mut generate) => {
                let mut call_expr = inner;
                while let A::Paren(e) = &call_expr.kind {
                    call_expr = e;
                }
                generate.rules = self.rules(&generate, call_expr, rules);
                if generate.rules.iter().any(|r| r.level == Level::Token && self.looks(r)) {
                    let at = rules.iter().find(|r| r.level == ast::RuleLevel::Token).map_or(span, |r| r.level_span);
                    let model = generate.model.clone();
                    self.needs_logits(&model, at, "this rule");
                }
                Expr { id, kind: ExprKind::Generate(generate), ty, span }
            }
            ExprKind::Error => {
                // The rules are still worth a look, against a site that says nothing.
                let model = self.broken(span);
                let input = self.broken(span);
                let stand_in = Generate {
                    kind: GenerateKind::Many,
                    model,
                    input: input.clone(),
                    settings: vec![("live", input)],
                    step: Some(span),
                    format: Format::Ready(Ready::Text),
                    rules: Vec::new(),
                };
                self.rules(&stand_in, inner, rules);
                self.broken(span)
            }
            _ => {
                self.misplaced("on", "after `gen(…)`, `sample(…)` or `advance(…)`", inner.span);
                self.broken(span)
            }
        }
    }

    /// The role that must show token distributions, or a message with the mended declaration.
    pub(super) fn needs_logits(&mut self, model: &Expr, at: Span, what: &str) {
        let ExprKind::Role(i) = &model.kind else { return };
        let role = &self.program.roles[*i];
        if role.needs.contains(&Capability::Logits) {
            return;
        }
        let text = if role.needs.is_empty() { " needs logits" } else { ", logits" };
        let insert = Span { start: role.needs_end.end, ..role.needs_end };
        let d = Diagnostic::error(
            codes::E0207,
            at,
            format!("`{}` does not promise token distributions", role.name),
            format!("{what} needs the capability `logits`"),
        )
        .related(role.span, "declared here")
        .help("ask for it in the declaration, or use an answer-level rule: `set(d) when agree(d) < 0.5 => grow(4)`")
        .fix("ask for the capability", insert, text);
        self.report(d);
    }

    pub(super) fn generate(&mut self, name: &str, bound: &Bound<'_>, span: Span) -> Expr {
        let kind = match name {
            "gen" => GenerateKind::One,
            "sample" => GenerateKind::Many,
            _ => GenerateKind::Step,
        };
        let model = match bound.one(0) {
            Some(e) => self.model(e, &[RoleKind::Generator]),
            None => self.broken(span),
        };
        let input = match (bound.one(1), kind) {
            (Some(e), GenerateKind::Step) => {
                let value = self.check(e, None);
                if !matches!(value.ty, Ty::Sample(_) | Ty::Never) {
                    let message = format!("a `Sample` is needed, this is a `{}`", types::show(&value.ty));
                    self.error(codes::E0204, e.span, message, "`advance` goes on with a sample");
                }
                value
            }
            (Some(e), _) => self.check_as(e, &Ty::Ctx),
            (None, _) => self.broken(span),
        };
        self.kv_lint(&model, &input);
        let Some(builtin) = builtins::find(Kind::Effect, name) else { return self.broken(span) };
        let mut settings = Vec::new();
        let mut step = None;
        let mut format = (Format::Ready(Ready::Text), Ty::Text);
        for (i, param) in builtin.params().iter().enumerate().skip(2) {
            let Some(e) = bound.one(i) else { continue };
            match param.name {
                "out" => format = self.format(e),
                "step" => {
                    self.boundary(e);
                    step = Some(e.span);
                }
                name => settings.push((name, self.setting(name, e))),
            }
        }
        self.live(&settings);
        let sample = Ty::Sample(Box::new(format.1));
        let ty = match kind {
            GenerateKind::Many => {
                let n = settings.iter().find(|s| s.0 == "live").or(settings.iter().find(|s| s.0 == "n"));
                let length = match n.map(|s| self.value_of(&s.1)) {
                    Some(Ok(Const::Int(n))) => u64::try_from(n).ok(),
                    _ => None,
                };
                Ty::List(Box::new(sample), length)
            }
            _ => sample,
        };
        let node = Generate { kind, model, input, settings, step, format: format.0, rules: Vec::new() };
        self.expr(ExprKind::Generate(Box::new(node)), ty, span)
    }

    fn setting(&mut self, name: &'static str, e: &ast::Expr) -> Expr {
        let ty = match name {
            "n" | "live" | "top_k" | "seed" => Ty::Int,
            "max" => Ty::Tokens,
            "stop" => Ty::List(Box::new(Ty::Text), None),
            _ => Ty::Float,
        };
        let value = self.check_as(e, &ty);
        let known = self.value_of(&value).ok();
        let wrong = match (name, &known) {
            ("n" | "live" | "top_k", Some(Const::Int(n))) if *n < 1 => Some("must be at least 1"),
            ("seed", Some(Const::Int(n))) if *n < 0 => Some("must not be negative"),
            ("max", Some(Const::Tokens(0))) => Some("must be at least 1 token"),
            ("temp", Some(Const::Float(x))) if *x < 0.0 => Some("must not be negative"),
            ("top_p", Some(Const::Float(x))) if !(*x > 0.0 && *x <= 1.0) => Some("must be above 0 and at most 1"),
            ("min_p", Some(Const::Float(x))) if !(0.0..=1.0).contains(x) => Some("must be in 0..=1"),
            _ => None,
        };
        if let Some(wrong) = wrong {
            self.error(codes::E0215, e.span, format!("`{name}` {wrong}"), "outside");
        }
        if let (ExprKind::Prim(Prim::List, items), "stop") = (&value.kind, name)
            && items.iter().any(|i| matches!(&i.kind, ExprKind::Const(Const::Text(t)) if t.is_empty()))
        {
            self.error(codes::E0215, e.span, "a stop text must not be empty", "would stop at once");
        }
        value
    }

    /// `live` is not smaller than `n`, where both are known.
    fn live(&mut self, settings: &[(&'static str, Expr)]) {
        let known = |name: &str| settings.iter().find(|s| s.0 == name).map(|s| (self.value_of(&s.1), s.1.span));
        if let (Some((Ok(Const::Int(n)), _)), Some((Ok(Const::Int(live)), span))) = (known("n"), known("live"))
            && live < n
        {
            self.report(
                Diagnostic::error(
                    codes::E0303,
                    span,
                    format!("`live: {live}` is smaller than `n: {n}`"),
                    "the first sequences are more already",
                )
                .help("raise `live`, or leave it out when nothing branches or grows"),
            );
        }
    }

    /// `out:`: the format and the type of `.value`.
    fn format(&mut self, e: &ast::Expr) -> (Format, Ty) {
        let fallback = (Format::Ready(Ready::Text), Ty::Never);
        let (path, args) = match &e.kind {
            A::Path(path) => (path, None),
            A::Call(callee, args) => match &callee.kind {
                A::Path(path) => (path, Some(args)),
                _ => return self.not_a_format(e, fallback),
            },
            A::Paren(inner) => return self.format(inner),
            _ => return self.not_a_format(e, fallback),
        };
        let name = match self.resolve(path) {
            Some(Def::Builtin(name)) => name,
            Some(Def::Broken) => return fallback,
            _ => match path.last() {
                Some(last) if path.len() == 1 => match builtins::find(Kind::Format, &last.text) {
                    Some(builtin) => builtin.name,
                    None => {
                        self.unknown_entry(last, Kind::Format, "format");
                        return fallback;
                    }
                },
                _ => return self.not_a_format(e, fallback),
            },
        };
        let argument = match args.map(Vec::as_slice) {
            None => None,
            Some([one]) => Some(&one.value),
            Some(_) => {
                self.error(codes::E0205, e.span, format!("`{name}` takes one argument"), "does not fit");
                return fallback;
            }
        };
        match (name, argument) {
            ("text", None) => (Format::Ready(Ready::Text), Ty::Text),
            ("boxed", None) => (Format::Ready(Ready::Boxed), Ty::Text),
            ("regex", Some(pattern)) => match self.constant(pattern, Some(&Ty::Text)) {
                Some(Const::Text(text)) => {
                    self.pattern(&text, pattern.span);
                    (Format::Ready(Ready::Regex(text)), Ty::Text)
                }
                _ => (Format::Ready(Ready::Text), Ty::Text),
            },
            ("json", Some(ty)) => self.json(ty),
            ("grammar", Some(file)) => {
                self.constant(file, Some(&Ty::Text));
                (Format::Grammar(e.span), Ty::Text)
            }
            (_, given) => {
                let message =
                    format!("`{name}` {}", if given.is_some() { "takes no argument" } else { "takes one argument" });
                self.error(codes::E0501, e.span, message, "written wrong");
                fallback
            }
        }
    }

    fn not_a_format(&mut self, e: &ast::Expr, fallback: (Format, Ty)) -> (Format, Ty) {
        let known: Vec<&str> = builtins::names(Kind::Format).collect();
        self.report(
            Diagnostic::error(codes::E0501, e.span, "an output format is needed", "not a format")
                .help(format!("formats are {}", known.join(", "))),
        );
        fallback
    }

    fn json(&mut self, e: &ast::Expr) -> (Format, Ty) {
        let written = match &e.kind {
            A::Path(path) if path.len() == 1 => ast::TypeKind::Named(path[0].clone(), Vec::new()),
            A::List(items) if items.len() == 1 => match &items[0].kind {
                A::Path(path) if path.len() == 1 => {
                    let item = ast::TypeKind::Named(path[0].clone(), Vec::new());
                    ast::TypeKind::List(Box::new(ast::Type { kind: item, span: items[0].span }), None)
                }
                _ => ast::TypeKind::Error,
            },
            _ => ast::TypeKind::Error,
        };
        if written == ast::TypeKind::Error {
            self.error(codes::E0503, e.span, "`json` takes the name of a type", "not a type");
            return (Format::Ready(Ready::Text), Ty::Never);
        }
        let ty = self.ty(&ast::Type { kind: written, span: e.span });
        if !types::has_json(&ty) {
            let message = format!("`{}` has no JSON form", types::show(&ty));
            self.report(
                Diagnostic::error(codes::E0503, e.span, message, "cannot be written as JSON")
                    .help("use records, enums, lists, texts, numbers and truth values"),
            );
            return (Format::Ready(Ready::Text), Ty::Never);
        }
        (Format::Ready(Ready::Json(ty.clone())), ty)
    }

    fn boundary(&mut self, e: &ast::Expr) {
        match &e.kind {
            A::Paren(inner) => self.boundary(inner),
            A::Path(path) => match self.resolve(path) {
                Some(Def::Builtin(name)) if builtins::find(Kind::Boundary, name).is_some() => {}
                Some(Def::Broken) => {}
                _ => {
                    let known: Vec<&str> = builtins::names(Kind::Boundary).collect();
                    self.report(
                        Diagnostic::error(codes::E0204, e.span, "a boundary is needed", "not a boundary")
                            .help(format!("write a text like \"\\n\\n\", or one of {}", known.join(", "))),
                    );
                }
            },
            A::Call(callee, args)
                if matches!(&callee.kind, A::Path(p) if p.len() == 1 && p[0].text == "re") && args.len() == 1 =>
            {
                if let Some(Const::Text(text)) = self.constant(&args[0].value, Some(&Ty::Text)) {
                    self.pattern(&text, args[0].value.span);
                }
            }
            _ => {
                if let Some(Const::Text(text)) = self.constant(e, Some(&Ty::Text))
                    && text.is_empty()
                {
                    self.error(codes::E0215, e.span, "a boundary must not be empty", "matches everywhere");
                }
            }
        }
    }

    /// A regular expression that is certainly malformed; the engine has the last word.
    pub(super) fn pattern(&mut self, text: &str, span: Span) {
        if let Some(wrong) = malformed(text) {
            self.report(
                Diagnostic::error(codes::E0502, span, "the pattern cannot be read", wrong)
                    .help("a literal bracket or sign is written with a backslash: `\\(`"),
            );
        }
    }

    /// Warns when a context made by a precompute is read by a model that it was not warmed for.
    fn kv_lint(&mut self, model: &Expr, input: &Expr) {
        let ExprKind::Role(role) = &model.kind else { return };
        let Some(source) = self.precompute_of(input) else { return };
        let function = &self.program.functions[source];
        if function.warm.contains(role) {
            return;
        }
        let Some(maker) = function.body.as_ref().and_then(first_model) else { return };
        if maker == *role {
            return;
        }
        let (maker, reader) = (self.program.roles[maker].name.clone(), self.program.roles[*role].name.clone());
        let (name, place) = (function.name.clone(), function.name_span);
        self.report(
            Diagnostic::warning(
                codes::W0421,
                input.span,
                format!("KV computed by `{maker}` is useless to `{reader}`"),
                "would be prefilled again when the request arrives",
            )
            .related(place, "computed here")
            .help(format!("add `warm {reader}` to `precompute {name}`")),
        );
    }

    /// The precompute that made a context.
    pub(super) fn precompute_of(&self, e: &Expr) -> Option<usize> {
        match &e.kind {
            ExprKind::Call(i, _) if self.program.functions[*i].kind == FunctionKind::Precompute => Some(*i),
            ExprKind::Coalesce(a, _) => self.precompute_of(a),
            ExprKind::Prim(Prim::CtxAdd, operands) => self.precompute_of(operands.first()?),
            ExprKind::Local(local) => self.scope.of(*local)?.precompute,
            _ => None,
        }
    }
}

/// The model that a body generates with first.
fn first_model(e: &Expr) -> Option<usize> {
    match &e.kind {
        ExprKind::Generate(g) => match &g.model.kind {
            ExprKind::Role(i) => Some(*i),
            _ => None,
        },
        ExprKind::Block(stmts, value) => stmts
            .iter()
            .find_map(|s| match s {
                crate::hir::Stmt::Let(_, e) | crate::hir::Stmt::Expr(e) => first_model(e),
            })
            .or_else(|| value.as_ref().and_then(|v| first_model(v))),
        ExprKind::Coalesce(a, b) => first_model(a).or_else(|| first_model(b)),
        ExprKind::Prim(_, operands) => operands.iter().find_map(first_model),
        _ => None,
    }
}

/// Why a regular expression is certainly malformed: open brackets, nothing to repeat, a lone backslash.
fn malformed(text: &str) -> Option<&'static str> {
    let mut depth = 0usize;
    let mut repeatable = false;
    let mut chars = text.chars().peekable();
    while let Some(c) = chars.next() {
        match c {
            '\\' => {
                if chars.next().is_none() {
                    return Some("ends with a lone backslash");
                }
                repeatable = true;
            }
            '[' => {
                if chars.peek() == Some(&'^') {
                    chars.next();
                }
                let mut first = true;
                let mut nested = 1;
                loop {
                    match chars.next() {
                        None => return Some("a `[` is never closed"),
                        Some('\\') => {
                            chars.next();
                        }
                        Some('[') => nested += 1,
                        Some(']') if !first => {
                            nested -= 1;
                            if nested == 0 {
                                break;
                            }
                        }
                        Some(_) => {}
                    }
                    first = false;
                }
                repeatable = true;
            }
            '(' => {
                depth += 1;
                repeatable = false;
                if chars.peek() == Some(&'?') {
                    chars.next();
                }
            }
            ')' => {
                if depth == 0 {
                    return Some("a `)` has no `(`");
                }
                depth -= 1;
                repeatable = true;
            }
            '*' | '+' | '?' if !repeatable => return Some("there is nothing to repeat"),
            '|' => repeatable = false,
            _ => repeatable = true,
        }
    }
    (depth > 0).then_some("a `(` is never closed")
}

#[cfg(test)]
mod tests {
    use super::malformed;

    #[test]
    fn malformed_patterns() {
        for fine in ["[0-9]+", r"\(a\)", "(?:a|b)*", "[]a]", r"a{2,3}", "a|b", "", "[^]]", "a+?"] {
            assert_eq!(malformed(fine), None, "{fine}");
        }
        for bad in ["[0-9", "(a", "a)", "*a", "a|*", "a\\"] {
            assert!(malformed(bad).is_some(), "{bad}");
        }
    }
}
