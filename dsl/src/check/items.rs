//! Items: roles, tunables, constants, functions and their bodies, in the order of the files.
//!
//! Headers of all files come first, so that bodies may call what stands below them or in another file.

use super::{Checker, Def, kind_name, types};
use crate::ast::{self, ExprKind as A, ItemKind, Name};
use crate::builtins::{self, Kind};
use crate::codes;
use crate::hir::{
    Capability, Const, Expr, ExprKind, Function, FunctionKind, Limits, Local, Part, Prim, Role, RoleBinding, RoleKind,
    Speaker, Tunable, Ty,
};
use ir::diagnostic::{Diagnostic, Span};
use ir::strategy::Binding;
use std::rc::Rc;

impl Checker<'_> {
    /// A role has one number per name, whatever the file.
    pub(super) fn declare_role(&mut self, name: &Name) -> Def {
        if let Some(known) = self.program.roles.iter().position(|r| r.name == name.text) {
            return Def::Role(known);
        }
        self.program.roles.push(Role {
            name: name.text.clone(),
            kind: RoleKind::Generator,
            needs: Vec::new(),
            binding: None,
            span: Span { file: u32::MAX, ..name.span },
            needs_end: name.span,
        });
        Def::Role(self.program.roles.len() - 1)
    }

    pub(super) fn declare_tunable(&mut self, module: usize, _item: usize, name: &Name) -> Def {
        let taken = self.program.tunables.iter().any(|t| t.item.name == name.text);
        let path = &self.modules[module].path;
        // Two files may use the same name for different things; the second one is known by its file.
        let full = if taken { format!("{path}::{}", name.text) } else { name.text.clone() };
        self.program.tunables.push(Tunable {
            item: ir::strategy::Tunable { name: full, ty: Ty::Never, value: Const::None, range: (0.0, 0.0) },
            span: name.span,
        });
        Def::Tunable(self.program.tunables.len() - 1)
    }

    pub(super) fn declare_function(&mut self, module: usize, item: usize, name: &Name) -> Def {
        let item = &self.modules[module].file.items[item];
        let kind = match &item.kind {
            ItemKind::Prompt { .. } => FunctionKind::Prompt,
            ItemKind::Strategy { .. } => FunctionKind::Strategy,
            ItemKind::Precompute { .. } => FunctionKind::Precompute,
            ItemKind::Tool { .. } => FunctionKind::Tool,
            _ => FunctionKind::Fn,
        };
        let doc = item.doc.join("\n");
        self.program.functions.push(Function {
            name: name.text.clone(),
            kind,
            doc,
            params: Vec::new(),
            result: Ty::Never,
            within: Limits::default(),
            within_span: name.span,
            allow: Vec::new(),
            warm: Vec::new(),
            body: None,
            name_span: name.span,
        });
        Def::Function(self.program.functions.len() - 1)
    }

    /// Checks all items of all files.
    pub(super) fn items(&mut self) {
        let order: Vec<(usize, usize, Option<Def>)> = (0..self.modules.len())
            .flat_map(|m| (0..self.modules[m].file.items.len()).map(move |i| (m, i)))
            .map(|(m, i)| (m, i, self.def_of(m, i)))
            .collect();
        for (module, item, def) in &order {
            let file = Rc::clone(&self.modules[*module].file);
            self.inside(*module, |c| c.header(&file.items[*item], def.as_ref()));
        }
        for i in 0..self.consts.len() {
            let value = self.const_item(i);
            self.program.consts.push(value);
        }
        for (module, item, def) in &order {
            let file = Rc::clone(&self.modules[*module].file);
            self.inside(*module, |c| c.body(&file.items[*item], def.as_ref()));
        }
    }

    /// The number an item was given: names may be defined twice, so the place decides.
    fn def_of(&self, module: usize, item: usize) -> Option<Def> {
        let name = match &self.modules[module].file.items[item].kind {
            ItemKind::Model { name, .. }
            | ItemKind::Tunable { name, .. }
            | ItemKind::Record { name, .. }
            | ItemKind::Enum { name, .. }
            | ItemKind::Const { name, .. }
            | ItemKind::Prompt { name, .. }
            | ItemKind::Fn { name, .. }
            | ItemKind::Strategy { name, .. }
            | ItemKind::Precompute { name, .. }
            | ItemKind::Tool { name, .. } => name,
            ItemKind::Use(_) | ItemKind::Test { .. } | ItemKind::Error => return None,
        };
        if let Some(i) = self.program.functions.iter().position(|f| f.name_span == name.span) {
            return Some(Def::Function(i));
        }
        if let Some(i) = self.program.tunables.iter().position(|t| t.span == name.span) {
            return Some(Def::Tunable(i));
        }
        self.modules[module].names.get(&name.text).map(|(def, _)| def.clone())
    }

    fn header(&mut self, item: &ast::Item, def: Option<&Def>) {
        match (&item.kind, def) {
            (ItemKind::Model { name, kind, needs, binding }, Some(Def::Role(i))) => {
                self.role(*i, name, kind, needs, binding.as_ref());
            }
            (ItemKind::Tunable { name, ty, value, range }, Some(Def::Tunable(i))) => {
                let ty = self.ty(ty);
                let default = self.constant(value, Some(&ty));
                let bounds = self.range_of(range, &ty);
                self.in_range(default.as_ref(), bounds, value.span, &name.text);
                let tunable = &mut self.program.tunables[*i].item;
                tunable.ty = ty;
                tunable.value = default.unwrap_or(Const::None);
                tunable.range = bounds.unwrap_or((0.0, 0.0));
            }
            (ItemKind::Record { .. } | ItemKind::Enum { .. }, Some(Def::Type(i))) => {
                self.type_item(*i);
            }
            (_, Some(Def::Function(i))) => self.function_header(*i, &item.kind),
            _ => {}
        }
    }

    fn function_header(&mut self, index: usize, kind: &ItemKind) {
        let (params, result, within, allow): (_, _, Option<&ast::Limits>, Option<&ast::Limits>) = match kind {
            ItemKind::Prompt { params, .. } => (params, None, None, None),
            ItemKind::Fn { params, result, .. } => (params, Some(result), None, None),
            ItemKind::Strategy { params, result, within, allow, .. } => {
                (params, Some(result), within.as_ref(), allow.as_ref())
            }
            ItemKind::Precompute { params, result, within, warm, ttl, .. } => {
                self.warm(index, warm);
                if let Some(ttl) = ttl {
                    self.constant(ttl, Some(&Ty::Time));
                }
                (params, Some(result), within.as_ref(), None)
            }
            ItemKind::Tool { params, result, timeout, cost, .. } => {
                for (value, ty) in [(timeout, Ty::Time), (cost, Ty::Usd)] {
                    if let Some(value) = value {
                        self.constant(value, Some(&ty));
                    }
                }
                (params, Some(result), None, None)
            }
            _ => return,
        };
        let entry = matches!(kind, ItemKind::Strategy { .. } | ItemKind::Precompute { .. });
        let checked = self.params(params);
        for (param, p) in checked.iter().zip(params) {
            if entry && !enters(&param.ty) {
                let message = format!("a `{}` cannot be given from outside", types::show(&param.ty));
                self.report(
                    Diagnostic::error(codes::E0217, p.ty.span, message, "not a value of a request")
                        .help("strategies take texts, numbers, quantities, enums, and lists or records of these"),
                );
            }
        }
        let result_ty = result.map_or(Ty::Ctx, |t| self.ty(t));
        if let (Ty::Fn(..) | Ty::Model(_) | Ty::Dist, Some(t)) = (&result_ty, result)
            && matches!(result_ty, Ty::Fn(..) | Ty::Dist)
        {
            let message = format!("a `{}` cannot be returned", types::show(&result_ty));
            self.error(codes::E0211, t.span, message, "functions are values only as arguments");
        }
        let limits = within.map(|w| self.declared(w));
        let allowed = allow.map(|a| self.allowed(a));
        let function = &mut self.program.functions[index];
        function.params = checked;
        function.result = result_ty;
        function.within = limits.unwrap_or_default();
        function.within_span = within.map_or(function.name_span, |w| w.span);
        function.allow = allowed.unwrap_or_default();
    }

    fn warm(&mut self, index: usize, names: &[Name]) {
        for name in names {
            match self.lookup(&name.text) {
                Some(Def::Role(role)) => self.program.functions[index].warm.push(role),
                Some(Def::Broken) => {}
                Some(_) => self.error(
                    codes::E0204,
                    name.span,
                    format!("`{}` is not a model", name.text),
                    "`warm` takes model roles",
                ),
                None => self.unknown_name(name),
            }
        }
    }

    fn role(&mut self, index: usize, name: &Name, kind: &Name, needs: &[Name], binding: Option<&ast::Expr>) {
        let kind_value = match types::role_kind(&kind.text) {
            Some(k) => k,
            None => {
                self.unknown_entry(kind, Kind::Role, "model role");
                RoleKind::Generator
            }
        };
        let mut capabilities = Vec::new();
        for need in needs {
            match need.text.as_str() {
                "logits" => capabilities.push(Capability::Logits),
                "logprobs" => capabilities.push(Capability::Logprobs),
                "hidden" => capabilities.push(Capability::Hidden),
                _ => self.unknown_entry(need, Kind::Capability, "capability"),
            }
        }
        let bound = binding.and_then(|b| self.binding(b, kind_value));
        let role = &mut self.program.roles[index];
        let first = role.span.file == u32::MAX;
        if first {
            role.kind = kind_value;
            role.span = name.span;
            role.needs_end = needs.last().map_or(kind.span, |n| n.span);
        }
        for capability in capabilities {
            if !role.needs.contains(&capability) {
                role.needs.push(capability);
            }
        }
        if role.binding.is_none() {
            role.binding = bound;
        }
        if role.kind != kind_value {
            let (span, other) = (role.span, kind_name(role.kind));
            self.report(
                Diagnostic::error(
                    codes::E0208,
                    kind.span,
                    format!("model `{}` is declared with two kinds", name.text),
                    "another kind than before",
                )
                .related(span, format!("`{other}` here"))
                .help("roles of one name are one role in all files: rename one of them"),
            );
        }
    }

    /// An inline binding.
    fn binding(&mut self, e: &ast::Expr, kind: RoleKind) -> Option<RoleBinding> {
        let A::Call(callee, args) = &e.kind else {
            self.not_a_binding(e.span);
            return None;
        };
        let A::Path(path) = &callee.kind else {
            self.not_a_binding(e.span);
            return None;
        };
        let [name] = path.as_slice() else {
            self.not_a_binding(e.span);
            return None;
        };
        let Some(builtin) = builtins::find(Kind::Binding, &name.text) else {
            self.unknown_entry(name, Kind::Binding, "binding");
            return None;
        };
        let verifier = !matches!(name.text.as_str(), "gguf" | "endpoint");
        if verifier && !matches!(kind, RoleKind::Verifier | RoleKind::Scorer) {
            let message = format!("`{}` cannot be a {}", name.text, kind_name(kind));
            self.error(codes::E0204, e.span, message, "binds verifiers and scorers only");
            return None;
        }
        let bound = self.arguments(builtin.name, &builtin.params(), args, e.span)?;
        let text = |c: &mut Self, e: &ast::Expr| match c.constant(e, Some(&Ty::Text)) {
            Some(Const::Text(t)) => Some(t),
            _ => None,
        };
        let float = |c: &mut Self, e: &ast::Expr| match c.constant(e, Some(&Ty::Float)) {
            Some(Const::Float(x)) => Some(x),
            _ => None,
        };
        let first = bound.one(0)?;
        Some(match builtin.name {
            "gguf" => RoleBinding::Ready(Binding::Gguf(text(self, first)?)),
            "exact" => RoleBinding::Ready(Binding::Exact(text(self, first)?)),
            "numeric" => {
                let tolerance = match bound.one(1) {
                    Some(e) => float(self, e)?,
                    None => DEFAULT_TOLERANCE,
                };
                RoleBinding::Ready(Binding::Numeric(float(self, first)?, tolerance))
            }
            "regex" => {
                let pattern = text(self, first)?;
                self.pattern(&pattern, first.span);
                RoleBinding::Ready(Binding::Regex(pattern))
            }
            "command" | "lines" => {
                let mut words: Vec<String> = text(self, first)?.split_whitespace().map(str::to_owned).collect();
                for e in bound.rest() {
                    words.push(text(self, e)?);
                }
                let lines = builtin.name == "lines";
                RoleBinding::Ready(if lines { Binding::Lines(words) } else { Binding::Command(words) })
            }
            _ => {
                text(self, first)?;
                RoleBinding::Endpoint(e.span)
            }
        })
    }

    fn not_a_binding(&mut self, span: Span) {
        self.report(
            Diagnostic::error(codes::E0204, span, "a model is bound by a call", "not a binding")
                .help("write gguf(\"models/x.gguf\"), or leave it to the manifest"),
        );
    }

    fn body(&mut self, item: &ast::Item, def: Option<&Def>) {
        match (&item.kind, def) {
            (ItemKind::Test { title, body }, _) if item.span.file == 0 => self.test(title, body, item.span),
            (ItemKind::Prompt { messages, .. }, Some(Def::Function(i))) => self.prompt_body(*i, messages, item.span),
            (
                ItemKind::Fn { body, .. } | ItemKind::Strategy { body, .. } | ItemKind::Precompute { body, .. },
                Some(Def::Function(i)),
            ) => self.function_body(*i, body),
            _ => {}
        }
    }

    fn enter(&mut self, index: usize) {
        let function = &self.program.functions[index];
        self.place.function = Some(index);
        self.place.result = Some(function.result.clone());
        for p in function.params.clone() {
            self.scope.push(super::Binding {
                name: p.name,
                local: p.local,
                ty: p.ty,
                span: p.span,
                used: false,
                labels: None,
                precompute: None,
            });
        }
    }

    fn prompt_body(&mut self, index: usize, messages: &[(ast::Role, ast::Template)], span: Span) {
        self.enter(index);
        let messages = messages
            .iter()
            .map(|(role, template)| {
                let speaker = match role {
                    ast::Role::System => Speaker::System,
                    ast::Role::User => Speaker::User,
                    ast::Role::Assistant => Speaker::Assistant,
                };
                (speaker, self.template(template))
            })
            .collect();
        self.leave(0);
        let body = self.expr(ExprKind::Prompt(messages), Ty::Ctx, span);
        self.program.functions[index].body = Some(body);
    }

    fn function_body(&mut self, index: usize, body: &ast::Block) {
        self.enter(index);
        let result = self.program.functions[index].result.clone();
        let value = self.block(body, Some(&result));
        let place = body.value.as_ref().map_or(Span { start: body.span.end.max(1) - 1, ..body.span }, |v| v.span);
        let value = self.coerce(value, &result, place);
        self.leave(0);
        self.program.functions[index].body = Some(value);
    }

    /// The parts of a text with holes.
    pub(super) fn template(&mut self, template: &ast::Template) -> Vec<Part> {
        template
            .parts
            .iter()
            .map(|part| match part {
                ast::TemplatePart::Text(text) => Part::Text(text.clone()),
                ast::TemplatePart::Hole(e) => {
                    let value = self.check(e, None);
                    if !types::printable(&value.ty) {
                        let message = format!("a `{}` has no text form", types::show(&value.ty));
                        self.error(codes::E0204, e.span, message, "cannot be put into text");
                    }
                    Part::Hole(value)
                }
            })
            .collect()
    }

    /// Refuses functions that call themselves, directly or in a circle.
    pub(super) fn recursion(&mut self) {
        let count = self.program.functions.len();
        let mut callees: Vec<Vec<(usize, Span)>> = vec![Vec::new(); count];
        for (caller, callee, span) in std::mem::take(&mut self.calls) {
            callees[caller].push((callee, span));
        }
        let mut state = vec![0u8; count];
        for start in 0..count {
            let mut stack = vec![(start, 0usize)];
            while let Some((node, next)) = stack.pop() {
                if next == 0 {
                    if state[node] == 2 {
                        continue;
                    }
                    state[node] = 1;
                }
                let Some((callee, span)) = callees[node].get(next).copied() else {
                    state[node] = 2;
                    continue;
                };
                stack.push((node, next + 1));
                match state[callee] {
                    0 => stack.push((callee, 0)),
                    1 => {
                        let from = stack.iter().position(|(n, _)| *n == callee).unwrap_or(0);
                        let mut chain: Vec<&str> =
                            stack[from..].iter().map(|(n, _)| self.program.functions[*n].name.as_str()).collect();
                        chain.push(&self.program.functions[callee].name);
                        let message = format!("functions call each other in a circle: {}", chain.join(" → "));
                        self.report(
                            Diagnostic::error(codes::E0209, span, message, "closes the circle")
                                .help("write the repetition as `for … in 0..n carry …`, which has a bound"),
                        );
                    }
                    _ => {}
                }
            }
        }
    }

    /// A constant item as an expression.
    pub(super) fn const_ref(&mut self, index: usize, span: Span) -> Expr {
        let value = self.const_item(index);
        self.expr(ExprKind::ConstItem(index), value.ty, span)
    }

    /// The key function `.value` of samples: what `agree` uses when nothing is said.
    pub(super) fn value_key(&mut self, item: &Ty, span: Span) -> Expr {
        let local: Local = self.fresh();
        let (key, body) = match item {
            Ty::Sample(value) => {
                let s = self.expr(ExprKind::Local(local), item.clone(), span);
                let key = types::optional((**value).clone());
                (key.clone(), self.expr(ExprKind::Prim(Prim::Field("value".to_owned()), vec![s]), key, span))
            }
            other => (other.clone(), self.expr(ExprKind::Local(local), other.clone(), span)),
        };
        let ty = Ty::Fn(vec![item.clone()], Box::new(key));
        self.expr(ExprKind::Lambda(vec![local], Box::new(body)), ty, span)
    }
}

/// Tolerance of `numeric` when none is given.
pub(super) const DEFAULT_TOLERANCE: f64 = 1e-6;

/// Values of the type can come with a request.
fn enters(ty: &Ty) -> bool {
    match ty {
        Ty::Bool | Ty::Int | Ty::Float | Ty::Text | Ty::Tokens | Ty::Time | Ty::Usd | Ty::Bytes => true,
        Ty::Prob | Ty::Enum(..) | Ty::Never => true,
        Ty::List(t, _) | Ty::Optional(t) => enters(t),
        Ty::Tuple(items) => items.iter().all(enters),
        Ty::Record(_, fields) => fields.iter().all(|(_, t)| enters(t)),
        _ => false,
    }
}
