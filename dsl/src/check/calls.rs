//! Calls: which function, which argument is which parameter, methods, calls of the program's own functions.
//!
//! Argument binding is one routine for built-ins (from the table) and own functions.

use super::{Checker, Def, exprs, spelling, types};
use crate::ast::{self, Arg, ExprKind as A, Name};
use crate::builtins::{self, Kind, Param};
use crate::codes;
use crate::hir::{Const, Expr, ExprKind, FunctionKind, Prim, Ty, Window};
use ir::diagnostic::{Diagnostic, Span};

/// Arguments in the order of the parameters.
pub(super) struct Bound<'e> {
    slots: Vec<Vec<&'e ast::Expr>>,
    rest: Option<usize>,
}

impl<'e> Bound<'e> {
    /// The argument of parameter `i`, if given.
    pub(super) fn one(&self, i: usize) -> Option<&'e ast::Expr> {
        self.slots.get(i)?.first().copied()
    }

    /// The arguments of the parameter that takes all further ones.
    pub(super) fn rest(&self) -> Vec<&'e ast::Expr> {
        self.rest.and_then(|i| self.slots.get(i)).cloned().unwrap_or_default()
    }
}

impl Checker<'_> {
    /// Puts arguments into parameters. Unknown, doubled and missing ones are reported; `None` if one is missing.
    pub(super) fn arguments<'e>(
        &mut self,
        function: &str,
        params: &[Param],
        args: &'e [Arg],
        span: Span,
    ) -> Option<Bound<'e>> {
        let rest = params.iter().position(|p| p.rest);
        let mut bound = Bound { slots: vec![Vec::new(); params.len()], rest };
        let positional: Vec<usize> = (0..params.len()).filter(|i| !params[*i].named && !params[*i].rest).collect();
        let mut next = 0;
        for arg in args {
            let slot = match &arg.name {
                Some(name) => match params.iter().position(|p| p.name == name.text && !p.rest) {
                    Some(i) => i,
                    None => {
                        self.unknown_argument(function, name, params);
                        continue;
                    }
                },
                None => match positional.get(next).copied().or(rest) {
                    Some(i) => {
                        next += 1;
                        i
                    }
                    None => {
                        self.surplus(function, params, positional.len(), arg);
                        continue;
                    }
                },
            };
            if !bound.slots[slot].is_empty() && rest != Some(slot) {
                let message = format!("`{}` is given twice", params[slot].name);
                self.error(codes::E0205, arg.value.span, message, "the second one");
                continue;
            }
            bound.slots[slot].push(&arg.value);
        }
        let missing: Vec<&Param> = (0..params.len())
            .filter(|i| bound.slots[*i].is_empty() && !params[*i].optional)
            .map(|i| &params[i])
            .collect();
        let Some(first) = missing.first() else { return Some(bound) };
        if missing.len() == 1 && first.name == "max" && first.ty == "Tokens" {
            self.missing_max(function, !args.is_empty(), span);
        } else {
            let names: Vec<String> = missing
                .iter()
                .map(|p| if p.named { format!("`{}:`", p.name) } else { format!("`{}`", p.name) })
                .collect();
            let d = Diagnostic::error(
                codes::E0205,
                span,
                format!("`{function}` needs {}", names.join(", ")),
                "not given here",
            );
            self.report(d.help(format!("`{}` is a {}", first.name, first.ty)));
        }
        // What was given is still worth checking.
        for e in bound.slots.iter().flatten() {
            if !matches!(e.kind, A::Lambda(..)) && first.name == "max" {
                let mark = self.diagnostics.len();
                self.check(e, None);
                self.diagnostics.truncate(mark);
            }
        }
        None
    }

    fn missing_max(&mut self, function: &str, comma: bool, span: Span) {
        let at = span.end.max(1) - 1;
        self.report(
            Diagnostic::error(
                codes::E0214,
                span,
                format!("`{function}` does not say how long a sequence may become"),
                "`max:` is missing",
            )
            .help("say how many tokens a sequence may have at most")
            .fix(
                "give a maximum",
                Span { start: at, end: at, ..span },
                if comma { ", max: 1ktok" } else { "max: 1ktok" },
            ),
        );
    }

    fn unknown_argument(&mut self, function: &str, name: &Name, params: &[Param]) {
        let names: Vec<&str> = params.iter().filter(|p| !p.rest).map(|p| p.name).collect();
        let d = Diagnostic::error(
            codes::E0205,
            name.span,
            format!("`{function}` has no parameter `{}`", name.text),
            "not known",
        );
        let d = match spelling::nearest(&name.text, names.iter().copied()) {
            Some(near) => d.help(format!("did you mean `{near}:`?")).fix(format!("write `{near}`"), name.span, near),
            None if names.is_empty() => d.help("it takes no named arguments"),
            None => d.help(format!("it takes {}", names.join(", "))),
        };
        self.report(d);
    }

    fn surplus(&mut self, function: &str, params: &[Param], positional: usize, arg: &Arg) {
        let named: Vec<String> = params.iter().filter(|p| p.named).map(|p| format!("`{}:`", p.name)).collect();
        let d = Diagnostic::error(
            codes::E0205,
            arg.value.span,
            format!("`{function}` takes {positional} positional argument{}", if positional == 1 { "" } else { "s" }),
            "one too many",
        );
        self.report(if named.is_empty() {
            d.help("remove it")
        } else {
            d.help(format!("by name it takes {}", named.join(" ")))
        });
    }

    pub(super) fn call(&mut self, callee: &ast::Expr, args: &[Arg], span: Span) -> Expr {
        match &callee.kind {
            A::Path(path) => self.call_path(path, args, span),
            A::Field(base, name) => self.method(base, name, args, span),
            A::Paren(inner) => self.call(inner, args, span),
            A::Error => self.broken(span),
            _ => {
                self.error(codes::E0204, callee.span, "this is not a function", "cannot be called");
                self.broken(span)
            }
        }
    }

    fn call_path(&mut self, path: &[Name], args: &[Arg], span: Span) -> Expr {
        if let [name] = path
            && let Some(binding) = self.scope.read(&name.text)
        {
            let (local, ty) = (binding.local, binding.ty.clone());
            return self.apply(local, &ty, name, args, span);
        }
        match self.resolve(path) {
            Some(Def::Function(i)) => return self.own_call(i, args, span),
            Some(Def::Broken) => return self.broken(span),
            Some(_) => {
                let message = format!("`{}` is not a function", path.last().map_or("", |n| &n.text));
                self.error(codes::E0204, span, message, "cannot be called");
                return self.broken(span);
            }
            None => {}
        }
        let [name] = path else {
            if let Some(first) = path.first() {
                self.unknown_name(first);
            }
            return self.broken(span);
        };
        if let Some(builtin) = builtins::callable(&name.text) {
            return self.builtin_call(builtin, args, span);
        }
        if builtins::find(Kind::Action, &name.text).is_some() {
            self.misplaced(&name.text, "after `=>` in a rule", span);
        } else if builtins::find(Kind::Format, &name.text).is_some() {
            self.misplaced(&name.text, "after `out:`", span);
        } else if builtins::find(Kind::Binding, &name.text).is_some() {
            self.misplaced(&name.text, "after `model … : … =`", span);
        } else {
            self.unknown_name(name);
        }
        self.broken(span)
    }

    /// Call of a parameter of function type.
    fn apply(&mut self, local: crate::hir::Local, ty: &Ty, name: &Name, args: &[Arg], span: Span) -> Expr {
        let Ty::Fn(params, result) = ty else {
            if *ty != Ty::Never {
                let message = format!("`{}` is a `{}`, not a function", name.text, types::show(ty));
                self.error(codes::E0204, span, message, "cannot be called");
            }
            return self.broken(span);
        };
        if args.len() != params.len() || args.iter().any(|a| a.name.is_some()) {
            let message = format!("`{}` takes {} arguments by position", name.text, params.len());
            self.error(codes::E0205, span, message, format!("{} given", args.len()));
            return self.broken(span);
        }
        let args = args.iter().zip(params).map(|(a, t)| self.check_as(&a.value, t)).collect();
        self.expr(ExprKind::Apply(local, args), (**result).clone(), span)
    }

    /// Call of a function of the program.
    fn own_call(&mut self, index: usize, args: &[Arg], span: Span) -> Expr {
        let function = &self.program.functions[index];
        let (name, kind) = (function.name.clone(), function.kind);
        let (params, result) = (function.params.clone(), function.result.clone());
        if let Some(caller) = self.place.function {
            self.calls.push((caller, index, span));
        }
        if self.place.level == Some(ir::strategy::Level::Token) {
            self.error(codes::E0213, span, "a token rule cannot call functions", "not arithmetic");
        }
        let mut slots: Vec<Option<&ast::Expr>> = vec![None; params.len()];
        let mut next = 0;
        for arg in args {
            let slot = match &arg.name {
                Some(n) => params.iter().position(|p| p.name == n.text),
                None => {
                    next += 1;
                    (next <= params.len()).then_some(next - 1)
                }
            };
            match slot {
                Some(i) if slots[i].is_some() => {
                    let message = format!("`{}` is given twice", params[i].name);
                    self.error(codes::E0205, arg.value.span, message, "the second one");
                }
                Some(i) => slots[i] = Some(&arg.value),
                None => {
                    let names: Vec<&str> = params.iter().map(|p| p.name.as_str()).collect();
                    let (place, what) = match &arg.name {
                        Some(n) => (n.span, format!("`{name}` has no parameter `{}`", n.text)),
                        None => (arg.value.span, format!("`{name}` takes {} arguments", params.len())),
                    };
                    let d = Diagnostic::error(codes::E0205, place, what, "does not fit");
                    let near = arg.name.as_ref().and_then(|n| spelling::did_you_mean(&n.text, names.iter().copied()));
                    self.report(match near {
                        Some(help) => d.help(help),
                        None => d.help(format!("it takes ({})", names.join(", "))),
                    });
                }
            }
        }
        let mut operands = Vec::new();
        for (param, slot) in params.iter().zip(slots) {
            operands.push(match slot {
                Some(e) => Some(self.argument(e, param, &name)),
                None if param.default.is_some() => None,
                None => {
                    let message = format!("`{name}` needs `{}`", param.name);
                    self.report(
                        Diagnostic::error(codes::E0205, span, message, "not given here")
                            .help(format!("it is a `{}`", types::show(&param.ty))),
                    );
                    Some(self.broken(span))
                }
            });
        }
        let ty = match kind {
            FunctionKind::Tool | FunctionKind::Precompute => types::optional(result),
            _ => result,
        };
        self.expr(ExprKind::Call(index, operands), ty, span)
    }

    fn argument(&mut self, e: &ast::Expr, param: &crate::hir::Param, function: &str) -> Expr {
        if let Ty::Fn(args, result) = &param.ty {
            let value = self.function_argument(e, args);
            if let Ty::Fn(_, found) = &value.ty
                && !types::fits(found, result)
            {
                let message = format!("`{}` needed, `{}` found", types::show(result), types::show(found));
                self.error(codes::E0204, e.span, message, "gives another type");
            }
            return value;
        }
        let value = self.check_as(e, &param.ty);
        if let (Some((lo, hi)), Ok(known)) = (param.range, self.value_of(&value))
            && super::signatures::number(&known).is_some_and(|x| x < lo || x > hi)
        {
            let message = format!("`{}` of `{function}` is outside its range", param.name);
            self.report(
                Diagnostic::error(codes::E0215, e.span, message, format!("not in {lo}..={hi}"))
                    .related(param.span, "declared here"),
            );
        }
        value
    }

    /// An argument of function type: a lambda, a parameter of function type, or the name of a function.
    pub(super) fn function_argument(&mut self, e: &ast::Expr, args: &[Ty]) -> Expr {
        match &e.kind {
            A::Paren(inner) => self.function_argument(inner, args),
            A::Lambda(names, body) => {
                if names.len() != args.len() {
                    let message = format!("a function of {} is needed, this one takes {}", args.len(), names.len());
                    self.error(codes::E0205, e.span, message, "takes another number of arguments");
                    return self.broken(e.span);
                }
                self.distinct(names.iter(), "parameter");
                let mark = self.scope.len();
                let locals = names.iter().zip(args).map(|(n, t)| self.bind(n, t.clone())).collect();
                let loops = std::mem::take(&mut self.place.loops);
                let result = self.place.result.take();
                let body = self.check(body, None);
                (self.place.loops, self.place.result) = (loops, result);
                self.leave_silently(mark);
                let ty = Ty::Fn(args.to_vec(), Box::new(body.ty.clone()));
                self.expr(ExprKind::Lambda(locals, Box::new(body)), ty, e.span)
            }
            A::Path(path) => self.named_function(path, args, e.span),
            _ => {
                let names = ["x", "y", "z"];
                let shown: Vec<&str> = names.iter().take(args.len()).copied().collect();
                self.report(
                    Diagnostic::error(codes::E0204, e.span, "a function is needed here", "is a value")
                        .help(format!("write a function: `|{}| …`", shown.join(", "))),
                );
                self.broken(e.span)
            }
        }
    }

    fn named_function(&mut self, path: &[Name], args: &[Ty], span: Span) -> Expr {
        if let [name] = path
            && let Some(binding) = self.scope.read(&name.text)
        {
            let (local, ty) = (binding.local, binding.ty.clone());
            let fine = matches!(&ty, Ty::Fn(params, _)
                if params.len() == args.len() && args.iter().zip(params).all(|(a, p)| types::fits(a, p)));
            if !fine && ty != Ty::Never {
                let message = format!("`{}` is not a function of these arguments", name.text);
                self.error(codes::E0204, span, message, format!("is a `{}`", types::show(&ty)));
                return self.broken(span);
            }
            return self.expr(ExprKind::Local(local), ty, span);
        }
        match self.resolve(path) {
            Some(Def::Function(i)) => {
                let locals: Vec<_> = args.iter().map(|_| self.fresh()).collect();
                let function = &self.program.functions[i];
                let (count, params, result) = (function.params.len(), function.params.clone(), function.result.clone());
                let fine = count == args.len() && params.iter().zip(args).all(|(p, a)| types::fits(a, &p.ty));
                if !fine {
                    self.error(codes::E0204, span, "the function takes other arguments", "does not fit");
                    return self.broken(span);
                }
                if let Some(caller) = self.place.function {
                    self.calls.push((caller, i, span));
                }
                let operands = locals
                    .iter()
                    .zip(args)
                    .map(|(l, t)| Some(self.expr(ExprKind::Local(*l), t.clone(), span)))
                    .collect();
                let body = self.expr(ExprKind::Call(i, operands), result.clone(), span);
                let ty = Ty::Fn(args.to_vec(), Box::new(result));
                self.expr(ExprKind::Lambda(locals, Box::new(body)), ty, span)
            }
            Some(Def::Broken) => self.broken(span),
            Some(_) => {
                self.error(codes::E0204, span, "a function is needed here", "is not a function");
                self.broken(span)
            }
            None => {
                if let Some(name) = path.first() {
                    self.unknown_name(name);
                }
                self.broken(span)
            }
        }
    }

    /// `base.name(args)`
    fn method(&mut self, base: &ast::Expr, name: &Name, args: &[Arg], span: Span) -> Expr {
        if let (A::Field(inner, stat), "mean" | "ema") = (&base.kind, name.text.as_str()) {
            return self.window(inner, stat, name, args, span);
        }
        let base = self.check(base, None);
        let only = |args: &[Arg]| args.len() == 1;
        match (&base.ty, name.text.as_str()) {
            (Ty::Never, _) => {
                for arg in args {
                    if !matches!(arg.value.kind, A::Lambda(..)) {
                        self.check(&arg.value, None);
                    }
                }
                self.broken(span)
            }
            (Ty::Ctx, "add") if only(args) => {
                let x = self.check(&args[0].value, None);
                if !matches!(x.ty, Ty::Text | Ty::Sample(_) | Ty::Ctx | Ty::Never) {
                    let message = format!("a `{}` cannot be added to a context", types::show(&x.ty));
                    self.report(
                        Diagnostic::error(codes::E0204, args[0].value.span, message, "not a turn")
                            .help("add a text, a sample or a context"),
                    );
                }
                self.expr(ExprKind::Prim(Prim::CtxAdd, vec![base, x]), Ty::Ctx, span)
            }
            (Ty::Vote(inner), "top") if only(args) => {
                let item = types::vote_parts(inner).1;
                let k = self.check_as(&args[0].value, &Ty::Int);
                self.at_least_one(&k, "k");
                self.expr(ExprKind::Prim(Prim::VoteTop, vec![base, k]), Ty::List(Box::new(item), None), span)
            }
            (Ty::Dist, "p") if only(args) => {
                let text = self.check_as(&args[0].value, &Ty::Text);
                self.expr(ExprKind::Later("p", vec![("d", base), ("text", text)]), Ty::Float, span)
            }
            (Ty::Ctx, "add") | (Ty::Vote(_), "top") | (Ty::Dist, "p") => {
                let message = format!("`{}` takes one argument", name.text);
                self.error(codes::E0205, span, message, format!("{} given", args.len()));
                self.broken(span)
            }
            (ty, _) => {
                let ty = ty.clone();
                let methods: Vec<&str> = builtins::METHODS
                    .iter()
                    .filter(|m| Some(m.0) == exprs::owner(&ty) || (m.0 == "Ctx" && ty == Ty::Ctx))
                    .filter_map(|m| m.1.split('(').next())
                    .collect();
                let d = Diagnostic::error(
                    codes::E0202,
                    name.span,
                    format!("a `{}` has no method `{}`", types::show(&ty), name.text),
                    "no such method",
                );
                let d = match spelling::nearest(&name.text, methods.iter().copied()) {
                    Some(near) => {
                        d.help(format!("did you mean `{near}`?")).fix(format!("write `{near}`"), name.span, near)
                    }
                    None if builtins::callable(&name.text).is_some() => {
                        d.help(format!("`{}` is a function: write it in front, `{0}(x)`", name.text))
                    }
                    None if methods.is_empty() => d.help("it has no methods"),
                    None => d.help(format!("it has {}", methods.join(", "))),
                };
                self.report(d);
                self.broken(span)
            }
        }
    }

    /// `d.entropy.mean(16)`, `d.entropy.ema(0.9)`
    fn window(&mut self, base: &ast::Expr, stat: &Name, name: &Name, args: &[Arg], span: Span) -> Expr {
        let base = self.check(base, None);
        let argument = match args {
            [one] if one.name.is_none() => &one.value,
            _ => {
                let message = format!("`{}` takes one argument", name.text);
                self.error(codes::E0205, span, message, format!("{} given", args.len()));
                return self.broken(span);
            }
        };
        let window = if name.text == "mean" {
            match self.constant(argument, Some(&Ty::Int)) {
                Some(Const::Int(k)) if (1..=4096).contains(&k) => u32::try_from(k).ok().map(Window::Mean),
                Some(_) => {
                    self.error(codes::E0215, argument.span, "the window is not in 1..=4096", "outside");
                    None
                }
                None => None,
            }
        } else {
            match self.constant(argument, Some(&Ty::Float)) {
                Some(Const::Float(a)) if (0.0..1.0).contains(&a) => Some(Window::Ema(a)),
                Some(_) => {
                    self.error(codes::E0215, argument.span, "the weight of the past is not in 0..1", "outside");
                    None
                }
                None => None,
            }
        };
        match &base.ty {
            Ty::Dist => match (exprs::dist_field(&stat.text), window) {
                (Some(field), Some(window)) => {
                    self.expr(ExprKind::Dist(field, window, Box::new(base)), Ty::Float, span)
                }
                (None, _) => self.no_field(&Ty::Dist, stat, span),
                _ => self.broken(span),
            },
            Ty::Sample(_) if matches!(stat.text.as_str(), "entropy" | "logprob") => {
                self.expr(ExprKind::Later("windows of a sample", vec![("s", base)]), Ty::Float, span)
            }
            Ty::Never => self.broken(span),
            other => {
                let other = other.clone();
                self.no_field(&other, stat, span)
            }
        }
    }

    /// A count that is known must be at least 1.
    pub(super) fn at_least_one(&mut self, e: &Expr, what: &str) {
        if let Ok(Const::Int(n)) = self.value_of(e)
            && n < 1
        {
            self.error(codes::E0215, e.span, format!("`{what}` must be at least 1"), format!("is {n}"));
        }
    }
}
