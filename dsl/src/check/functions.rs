//! Built-in functions: the types of their arguments and results.
//!
//! Names and parameters come from the table of built-ins; what cannot be said in a table (which types go together, what
//! a key may be) is here. One small function per family.

use super::calls::Bound;
use super::{Checker, kind_name, types};
use crate::ast::{self, Arg, BinOp, ExprKind as A};
use crate::builtins::{Builtin, Kind};
use crate::codes;
use crate::hir::{Const, Expr, ExprKind, Prim, RoleKind, Ty, VerifierKind};
use ir::diagnostic::{Diagnostic, Span};

impl Checker<'_> {
    pub(super) fn builtin_call(&mut self, builtin: &'static Builtin, args: &[Arg], span: Span) -> Expr {
        let Some(bound) = self.arguments(builtin.name, &builtin.params(), args, span) else {
            return self.broken(span);
        };
        if self.place.level == Some(ir::strategy::Level::Token) && builtin.kind == Kind::Effect {
            self.report(
                Diagnostic::error(
                    codes::E0213,
                    span,
                    format!("a token rule cannot call `{}`", builtin.name),
                    "calls a model",
                )
                .help("use an `end` or `set` rule, or decide after the generation"),
            );
            return self.broken(span);
        }
        match builtin.name {
            "gen" | "sample" | "advance" => self.generate(builtin.name, &bound, span),
            "begin" => self.begin(&bound, span),
            "logprob" | "choose" | "expect" => self.ask(builtin.name, &bound, span),
            "score" | "verify" => self.judge(builtin.name, &bound, span),
            "classify" | "nearest" => self.classify(builtin.name, &bound, span),
            "mix" => self.mix(&bound, span),
            "best" | "top" | "prune" => self.select(builtin.name, &bound, span),
            "vote" | "agree" | "semantic_entropy" => self.vote(builtin.name, &bound, span),
            "resample" => self.resample(&bound, span),
            "enumerate" | "all" | "any" | "map" | "filter" => self.walk(builtin.name, &bound, span),
            "remaining" => self.expr(ExprKind::Remaining, Ty::Budget, span),
            "spent" => self.expr(ExprKind::Spent, Ty::Usage, span),
            "split" => self.split(&bound, span),
            "Budget" => self.budget(builtin, &bound, span),
            _ if builtin.kind == Kind::Verifier => self.verifier(builtin.name, &bound, span),
            name => self.function(name, &bound, span),
        }
    }

    /// Checks argument `i` against a type; missing ones (optional) are broken silently.
    fn nth(&mut self, bound: &Bound<'_>, i: usize, ty: &Ty, span: Span) -> Expr {
        match bound.one(i) {
            Some(e) => self.check_as(e, ty),
            None => self.broken(span),
        }
    }

    /// A model operand of one of the kinds.
    pub(super) fn model(&mut self, e: &ast::Expr, kinds: &[RoleKind]) -> Expr {
        let value = self.check(e, None);
        match &value.ty {
            Ty::Never => value,
            Ty::Model(kind) if kinds.contains(kind) => value,
            other => {
                let wanted: Vec<String> = kinds.iter().map(|k| kind_name(*k)).collect();
                let message = format!("a `{}` is needed, this is a `{}`", wanted.join("` or `"), types::show(other));
                let d = Diagnostic::error(codes::E0204, e.span, message, "another kind of value");
                self.report(match other {
                    Ty::Model(RoleKind::Scorer | RoleKind::StepScorer) => {
                        d.help("a scorer has no calibration: use `score`, or declare the role as a `Verifier`")
                    }
                    _ => d.help(format!("declare one: `model name : {};`", wanted[0])),
                });
                self.broken(e.span)
            }
        }
    }

    /// A list operand and its item type.
    fn list_operand(&mut self, bound: &Bound<'_>, span: Span) -> (Expr, Ty, Option<u64>) {
        let Some(e) = bound.one(0) else { return (self.broken(span), Ty::Never, None) };
        let value = self.check(e, None);
        match &value.ty {
            Ty::List(item, n) => {
                let (item, n) = ((**item).clone(), *n);
                (value, item, n)
            }
            Ty::Never => (value, Ty::Never, None),
            other => {
                let message = format!("a list is needed, this is a `{}`", types::show(other));
                self.error(codes::E0204, e.span, message, "not a list");
                (self.broken(e.span), Ty::Never, None)
            }
        }
    }

    /// A function argument, with its result type.
    fn callback(&mut self, bound: &Bound<'_>, i: usize, args: &[Ty], span: Span) -> (Expr, Ty) {
        let Some(e) = bound.one(i) else { return (self.broken(span), Ty::Never) };
        let value = self.function_argument(e, args);
        let result = match &value.ty {
            Ty::Fn(_, result) => (**result).clone(),
            _ => Ty::Never,
        };
        (value, result)
    }

    fn predicate(&mut self, bound: &Bound<'_>, i: usize, args: &[Ty], span: Span) -> Expr {
        let (f, result) = self.callback(bound, i, args, span);
        if !types::fits(&result, &Ty::Bool) {
            let message = format!("a truth value is needed, this gives a `{}`", types::show(&result));
            self.error(codes::E0204, f.span, message, "does not answer yes or no");
        }
        f
    }

    fn begin(&mut self, bound: &Bound<'_>, span: Span) -> Expr {
        let ctx = self.nth(bound, 0, &Ty::Ctx, span);
        let n = self.nth(bound, 1, &Ty::Int, span);
        self.at_least_one(&n, "n");
        let ty = Ty::List(Box::new(Ty::Sample(Box::new(Ty::Never))), None);
        self.expr(ExprKind::Later("begin", vec![("c", ctx), ("n", n)]), ty, span)
    }

    fn ask(&mut self, name: &str, bound: &Bound<'_>, span: Span) -> Expr {
        let model = match bound.one(0) {
            Some(e) => self.model(e, &[RoleKind::Generator]),
            None => self.broken(span),
        };
        let ctx = self.nth(bound, 1, &Ty::Ctx, span);
        let (model, ctx) = (Box::new(model), Box::new(ctx));
        match name {
            "logprob" => {
                let text = Box::new(self.nth(bound, 2, &Ty::Text, span));
                self.expr(ExprKind::LogProb(model, ctx, text), Ty::Float, span)
            }
            "choose" => {
                let labels = self.nth(bound, 2, &Ty::List(Box::new(Ty::Text), None), span);
                if let ExprKind::Prim(Prim::List, items) = &labels.kind {
                    if items.is_empty() {
                        self.error(codes::E0215, labels.span, "there is nothing to choose from", "no labels");
                    }
                    let texts: Vec<Option<Const>> = items.iter().map(|i| self.value_of(i).ok()).collect();
                    for (i, text) in texts.iter().enumerate() {
                        if text.is_some() && texts[..i].contains(text) {
                            self.error(codes::E0208, items[i].span, "a label is given twice", "the second one");
                        }
                    }
                }
                self.expr(ExprKind::Choose(model, ctx, Box::new(labels)), Ty::Choice, span)
            }
            _ => self.expect(bound, model, ctx, span),
        }
    }

    fn expect(&mut self, bound: &Bound<'_>, model: Box<Expr>, ctx: Box<Expr>, span: Span) -> Expr {
        let Some(mut digits) = bound.one(2) else { return self.broken(span) };
        while let A::Paren(inner) = &digits.kind {
            digits = inner;
        }
        let A::Binary(op @ (BinOp::Range | BinOp::RangeInclusive), lo, hi) = &digits.kind else {
            self.report(
                Diagnostic::error(codes::E0204, digits.span, "a range of digits is needed", "not a range")
                    .help("write `0..=9`"),
            );
            return self.broken(span);
        };
        let lo = self.constant(lo, Some(&Ty::Int));
        let hi = self.constant(hi, Some(&Ty::Int));
        let (Some(Const::Int(lo)), Some(Const::Int(mut hi))) = (lo, hi) else { return self.broken(span) };
        if *op == BinOp::Range {
            hi = hi.saturating_sub(1);
        }
        if lo < 0 || hi > 9 || lo >= hi {
            self.report(
                Diagnostic::error(codes::E0215, digits.span, "the digits are not in 0..=9", "outside")
                    .help("`expect` reads one digit: write `0..=9` or a part of it"),
            );
            return self.broken(span);
        }
        self.expr(ExprKind::Expect(model, ctx, lo, hi), Ty::Float, span)
    }

    fn judge(&mut self, name: &'static str, bound: &Bound<'_>, span: Span) -> Expr {
        use RoleKind::{Scorer, StepScorer, StepVerifier, Verifier};
        let kinds: &[RoleKind] =
            if name == "score" { &[Scorer, Verifier, StepScorer, StepVerifier] } else { &[Verifier, StepVerifier] };
        let Some(e) = bound.one(0) else { return self.broken(span) };
        let verifier = match self.check(e, None) {
            v if name == "verify" && matches!(v.ty, Ty::Model(Scorer | StepScorer)) => {
                self.report(
                    Diagnostic::error(
                        codes::E0206,
                        e.span,
                        "a scorer gives scores, not probabilities",
                        "is not calibrated",
                    )
                    .help("use `score`, or declare the role as a `Verifier` and give it a calibration"),
                );
                self.broken(e.span)
            }
            v if matches!(&v.ty, Ty::Model(k) if kinds.contains(k)) || v.ty == Ty::Never => v,
            v => {
                let message = format!("a `{}` is needed, this is a `{}`", kind_name(kinds[0]), types::show(&v.ty));
                self.error(codes::E0204, e.span, message, "cannot judge a sample");
                self.broken(e.span)
            }
        };
        let sample = match bound.one(1) {
            Some(e) => {
                let value = self.check(e, None);
                if !matches!(value.ty, Ty::Sample(_) | Ty::Never) {
                    let message = format!("a `Sample` is needed, this is a `{}`", types::show(&value.ty));
                    let d = Diagnostic::error(codes::E0204, e.span, message, "not a sample");
                    self.report(match &value.ty {
                        Ty::Optional(_) => d.help("there may be none: say what happens then with `??`"),
                        _ => d.help("`score` and `verify` judge what `gen` and `sample` return"),
                    });
                }
                value
            }
            None => self.broken(span),
        };
        let ty = if name == "score" { Ty::Score } else { Ty::Prob };
        let steps = matches!(verifier.ty, Ty::Model(StepScorer | StepVerifier));
        if let Some(fold) = bound.one(2) {
            let known = matches!(&fold.kind, A::Path(p) if matches!(p.last().map(|n| n.text.as_str()), Some("last" | "min" | "prod" | "mean")));
            if !known || !steps {
                let message = if steps { "`fold` is last, min, prod or mean" } else { "`fold` belongs to step models" };
                self.error(codes::E0205, fold.span, message, "does not fit");
            }
        }
        if steps {
            return self.expr(ExprKind::Later("per-step scores", vec![("v", verifier), ("s", sample)]), ty, span);
        }
        self.expr(ExprKind::Score(Box::new(verifier), Box::new(sample), name == "verify"), ty, span)
    }

    fn classify(&mut self, name: &'static str, bound: &Bound<'_>, span: Span) -> Expr {
        let kind = if name == "classify" { RoleKind::Classifier } else { RoleKind::Embedder };
        let model = match bound.one(0) {
            Some(e) => self.model(e, &[kind]),
            None => self.broken(span),
        };
        let text = self.nth(bound, 1, &Ty::Text, span);
        if let Some(examples) = bound.one(2) {
            self.check(examples, None);
        }
        self.expr(ExprKind::Later(name, vec![("m", model), ("text", text)]), Ty::Choice, span)
    }

    fn mix(&mut self, bound: &Bound<'_>, span: Span) -> Expr {
        let mut operands = Vec::new();
        for (i, name) in ["m", "plus", "minus"].into_iter().enumerate() {
            if let Some(e) = bound.one(i) {
                let model = self.model(e, &[RoleKind::Generator]);
                self.needs_logits(&model, e.span, "mixing logits");
                operands.push((name, model));
            }
        }
        if let Some(e) = bound.one(3) {
            operands.push(("scale", self.check_as(e, &Ty::Float)));
        }
        self.expr(ExprKind::Later("mix", operands), Ty::Model(RoleKind::Generator), span)
    }

    fn key(&mut self, bound: &Bound<'_>, i: usize, item: &Ty, span: Span) -> Expr {
        let (f, key) = self.callback(bound, i, std::slice::from_ref(item), span);
        if !types::ordered(&key) {
            let message = format!("a `{}` has no order", types::show(&key));
            let d = Diagnostic::error(codes::E0204, f.span, message, "cannot be ranked by this");
            self.report(match &key {
                Ty::Optional(_) => d.help("there may be none: give it a value with `??`"),
                _ => d.help("rank by a number, a score or a probability"),
            });
        }
        f
    }

    fn select(&mut self, name: &str, bound: &Bound<'_>, span: Span) -> Expr {
        let (xs, item, n) = self.list_operand(bound, span);
        if name == "best" {
            let by = self.key(bound, 1, &item, span);
            return self.expr(ExprKind::Prim(Prim::Best, vec![xs, by]), types::optional(item), span);
        }
        let k = self.nth(bound, 1, &Ty::Int, span);
        self.at_least_one(&k, if name == "top" { "k" } else { "keep" });
        let by = self.key(bound, 2, &item, span);
        let known = match self.value_of(&k) {
            Ok(Const::Int(k)) => u64::try_from(k).ok().map(|k| n.map_or(k, |n| n.min(k))),
            _ => n,
        };
        let prim = if name == "top" { Prim::Top } else { Prim::Prune };
        self.expr(ExprKind::Prim(prim, vec![xs, k, by]), Ty::List(Box::new(item), known), span)
    }

    fn vote(&mut self, name: &str, bound: &Bound<'_>, span: Span) -> Expr {
        let (xs, item, _) = self.list_operand(bound, span);
        if name == "semantic_entropy" {
            let same = self.predicate(bound, 1, &[item.clone(), item], span);
            return self.expr(ExprKind::Prim(Prim::SemanticEntropy, vec![xs, same]), Ty::Float, span);
        }
        let (by, key) = match bound.one(1) {
            Some(_) => self.callback(bound, 1, std::slice::from_ref(&item), span),
            None => {
                let by = self.value_key(&item, span);
                let key = if let Ty::Fn(_, key) = &by.ty { (**key).clone() } else { Ty::Never };
                (by, key)
            }
        };
        if !types::comparable(&key) {
            let message = format!("a `{}` cannot be compared for equality", types::show(&key));
            let d = Diagnostic::error(codes::E0204, by.span, message, "votes cannot be counted by this");
            self.report(match &key {
                Ty::Sample(_) => d.help("vote by what was answered: `|s| s.value`"),
                _ => d.help("vote by a text, a number or a label"),
            });
        }
        if name == "agree" {
            return self.expr(ExprKind::Prim(Prim::Agree, vec![xs, by]), Ty::Float, span);
        }
        let mut operands = vec![xs, by];
        if bound.one(2).is_some() {
            let (weight, ty) = self.callback(bound, 2, std::slice::from_ref(&item), span);
            if ty == Ty::Score {
                self.report(
                    Diagnostic::error(codes::E0206, weight.span, "a score is not a weight", "has no scale")
                        .help("weigh by a probability (`verify`) or by `exp(s.logprob)`"),
                );
            } else if !matches!(ty, Ty::Int | Ty::Float | Ty::Prob | Ty::Never) {
                let message = format!("a weight is a number, this is a `{}`", types::show(&ty));
                self.error(codes::E0204, weight.span, message, "not a number");
            }
            operands.push(weight);
        }
        let ty = types::vote_of(types::present(&key).clone(), item);
        self.expr(ExprKind::Prim(Prim::Vote, operands), ty, span)
    }

    fn resample(&mut self, bound: &Bound<'_>, span: Span) -> Expr {
        let (xs, item, _) = self.list_operand(bound, span);
        let weights = self.nth(bound, 1, &Ty::List(Box::new(Ty::Float), None), span);
        let n = self.nth(bound, 2, &Ty::Int, span);
        self.at_least_one(&n, "n");
        if let Some(method) = bound.one(3)
            && !matches!(&method.kind, A::Path(p) if p.len() == 1 && matches!(p[0].text.as_str(), "systematic" | "multinomial"))
        {
            self.error(codes::E0205, method.span, "`method` is systematic or multinomial", "not known");
        }
        let operands = vec![("xs", xs), ("weights", weights), ("n", n)];
        self.expr(ExprKind::Later("resample", operands), Ty::List(Box::new(item), None), span)
    }

    fn walk(&mut self, name: &str, bound: &Bound<'_>, span: Span) -> Expr {
        let (xs, item, n) = self.list_operand(bound, span);
        let list = |t: Ty| Ty::List(Box::new(t), n);
        let args = std::slice::from_ref(&item);
        let (prim, operands, ty) = match name {
            "enumerate" => (Prim::Enumerate, vec![xs], list(Ty::Tuple(vec![Ty::Int, item]))),
            "map" => {
                let (f, result) = self.callback(bound, 1, args, span);
                (Prim::Map, vec![xs, f], list(result))
            }
            "filter" => {
                let f = self.predicate(bound, 1, args, span);
                (Prim::Filter, vec![xs, f], list(item))
            }
            _ => {
                let f = self.predicate(bound, 1, args, span);
                (if name == "all" { Prim::All } else { Prim::Any }, vec![xs, f], Ty::Bool)
            }
        };
        self.expr(ExprKind::Prim(prim, operands), ty, span)
    }

    fn split(&mut self, bound: &Bound<'_>, span: Span) -> Expr {
        let budget = self.nth(bound, 0, &Ty::Budget, span);
        let weights = self.nth(bound, 1, &Ty::List(Box::new(Ty::Float), None), span);
        let n = if let Ty::List(_, n) = &weights.ty { *n } else { None };
        let mut operands = vec![("b", budget), ("weights", weights)];
        if let Some(keep) = bound.one(2) {
            operands.push(("keep", self.check_as(keep, &Ty::Budget)));
        }
        self.expr(ExprKind::Later("split", operands), Ty::List(Box::new(Ty::Budget), n), span)
    }

    fn budget(&mut self, builtin: &Builtin, bound: &Bound<'_>, span: Span) -> Expr {
        let types = [Ty::Tokens, Ty::Int, Ty::Bytes, Ty::Time, Ty::Usd];
        let mut names = Vec::new();
        let mut values = Vec::new();
        for (i, (param, ty)) in builtin.params().iter().zip(types).enumerate() {
            if let Some(e) = bound.one(i) {
                names.push(param.name.to_owned());
                values.push(self.check_as(e, &ty));
            }
        }
        self.expr(ExprKind::Prim(Prim::Record("Budget".to_owned(), names), values), Ty::Budget, span)
    }

    fn verifier(&mut self, name: &str, bound: &Bound<'_>, span: Span) -> Expr {
        let verifier = Ty::Model(RoleKind::Verifier);
        let mut operands = Vec::new();
        let kind = match name {
            "exact" => {
                operands.push(self.nth(bound, 0, &Ty::Text, span));
                VerifierKind::Exact
            }
            "numeric" => {
                operands.push(self.nth(bound, 0, &Ty::Float, span));
                operands.push(match bound.one(1) {
                    Some(e) => self.check_as(e, &Ty::Float),
                    None => {
                        let default = Const::Float(super::items::DEFAULT_TOLERANCE);
                        self.expr(ExprKind::Const(default), Ty::Float, span)
                    }
                });
                VerifierKind::Numeric
            }
            "regex" => {
                let pattern = self.nth(bound, 0, &Ty::Text, span);
                if let Ok(Const::Text(text)) = self.value_of(&pattern) {
                    self.pattern(&text, pattern.span);
                }
                operands.push(pattern);
                VerifierKind::Regex
            }
            "command" | "lines" => {
                operands.push(self.nth(bound, 0, &Ty::Text, span));
                for e in bound.rest() {
                    operands.push(self.check_as(e, &Ty::Text));
                }
                if name == "lines" { VerifierKind::Lines } else { VerifierKind::Command }
            }
            _ => {
                for e in bound.one(0).into_iter().chain(bound.one(1)).chain(bound.rest()) {
                    operands.push(self.model(e, &[RoleKind::Verifier]));
                }
                VerifierKind::Both
            }
        };
        self.expr(ExprKind::Verifier(kind, operands), verifier, span)
    }

    /// Functions of numbers, texts and lists of numbers.
    fn function(&mut self, name: &str, bound: &Bound<'_>, span: Span) -> Expr {
        let floats = Ty::List(Box::new(Ty::Float), None);
        let (operands, ty) = match name {
            "exp" | "log" | "sqrt" => (vec![self.nth(bound, 0, &Ty::Float, span)], Ty::Float),
            "floor" | "ceil" | "round" => (vec![self.nth(bound, 0, &Ty::Float, span)], Ty::Int),
            "logit" => (vec![self.nth(bound, 0, &Ty::Prob, span)], Ty::Float),
            "trim" | "lower" | "upper" => (vec![self.nth(bound, 0, &Ty::Text, span)], Ty::Text),
            "contains" | "starts_with" | "ends_with" => {
                (vec![self.nth(bound, 0, &Ty::Text, span), self.nth(bound, 1, &Ty::Text, span)], Ty::Bool)
            }
            "split_lines" => (vec![self.nth(bound, 0, &Ty::Text, span)], Ty::List(Box::new(Ty::Text), None)),
            "number" => (vec![self.nth(bound, 0, &Ty::Text, span)], types::optional(Ty::Float)),
            "mean" => (vec![self.nth(bound, 0, &floats, span)], Ty::Float),
            "softmax" => {
                let xs = self.nth(bound, 0, &floats, span);
                let ty = if xs.ty == Ty::Never { floats } else { xs.ty.clone() };
                (vec![xs], ty)
            }
            "abs" | "float" => {
                let x = self.loose(bound, 0, span);
                let result = if name == "float" { Ty::Float } else { x.ty.clone() };
                let fine =
                    matches!((name, &x.ty), ("abs", Ty::Int | Ty::Float) | ("float", Ty::Int | Ty::Prob | Ty::Float));
                self.demand_number(fine, &x);
                (vec![x], result)
            }
            "sum" => {
                let (xs, item, _) = self.list_operand(bound, span);
                self.demand_number(matches!(item, Ty::Int | Ty::Float | Ty::Prob), &xs);
                (vec![xs], if item == Ty::Int { Ty::Int } else { Ty::Float })
            }
            _ => {
                let a = self.loose(bound, 0, span);
                let b = match bound.one(1) {
                    Some(e) => self.check_as(e, &a.ty),
                    None => self.broken(span),
                };
                let fine = matches!(a.ty, Ty::Int | Ty::Float) || types::quantity(&a.ty);
                self.demand_number(fine, &a);
                let ty = a.ty.clone();
                (vec![a, b], ty)
            }
        };
        self.expr(ExprKind::Prim(Prim::Call(name.to_owned()), operands), ty, span)
    }

    fn loose(&mut self, bound: &Bound<'_>, i: usize, span: Span) -> Expr {
        match bound.one(i) {
            Some(e) => self.check(e, None),
            None => self.broken(span),
        }
    }

    fn demand_number(&mut self, fine: bool, x: &Expr) {
        if !fine && x.ty != Ty::Never {
            let message = format!("a number is needed, this is a `{}`", types::show(&x.ty));
            self.error(codes::E0204, x.span, message, "not a number");
        }
    }
}
