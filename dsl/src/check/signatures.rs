//! Written types and item headers: types, parameters with defaults and ranges, declared limits and allowances.
//!
//! Needs names of files only; bodies are checked elsewhere.

use super::{Checker, Def, State, spelling, types};
use crate::ast::{self, BinOp, ExprKind as A, ItemKind, Name, TypeKind};
use crate::builtins::{self, Kind};
use crate::codes;
use crate::hir::{Allow, Const, Limits, Param, Ty};
use ir::diagnostic::{Diagnostic, Span};
use std::rc::Rc;

impl Checker<'_> {
    /// Runs `f` as if in another file, outside of every body.
    pub(super) fn inside<R>(&mut self, module: usize, f: impl FnOnce(&mut Self) -> R) -> R {
        let outer = std::mem::replace(&mut self.module, module);
        let scope = std::mem::take(&mut self.scope);
        let place = std::mem::take(&mut self.place);
        let result = f(self);
        (self.module, self.scope, self.place) = (outer, scope, place);
        result
    }

    /// The type that was written.
    pub(super) fn ty(&mut self, written: &ast::Type) -> Ty {
        match &written.kind {
            TypeKind::Named(name, args) => self.named_type(name, args, written.span),
            TypeKind::List(item, length) => {
                let item = self.ty(item);
                let length = length.as_ref().and_then(|e| self.length(e));
                Ty::List(Box::new(item), length)
            }
            TypeKind::Tuple(items) => {
                let items: Vec<Ty> = items.iter().map(|t| self.ty(t)).collect();
                self.capped(Ty::Tuple(items), written.span)
            }
            TypeKind::Optional(inner) => {
                let inner = self.ty(inner);
                types::optional(inner)
            }
            TypeKind::Fn(args, result) => {
                let args = args.iter().map(|t| self.ty(t)).collect();
                Ty::Fn(args, Box::new(self.ty(result)))
            }
            TypeKind::Error => Ty::Never,
        }
    }

    /// The type, unless it has too many parts.
    fn capped(&mut self, ty: Ty, span: Span) -> Ty {
        if types::parts(&ty, types::MAX_TYPE_PARTS) <= types::MAX_TYPE_PARTS {
            return ty;
        }
        let message = format!("type too large: more than {} parts", types::MAX_TYPE_PARTS);
        self.error(codes::E0305, span, message, "grows beyond the cap here");
        Ty::Never
    }

    fn length(&mut self, e: &ast::Expr) -> Option<u64> {
        match self.constant(e, Some(&Ty::Int)) {
            Some(Const::Int(n)) => match u64::try_from(n) {
                Ok(n) => Some(n),
                Err(_) => {
                    self.error(codes::E0215, e.span, "a list cannot have fewer than no items", "negative");
                    None
                }
            },
            _ => None,
        }
    }

    fn named_type(&mut self, name: &Name, args: &[ast::Type], span: Span) -> Ty {
        let wanted = usize::from(matches!(name.text.as_str(), "Sample" | "Vote"));
        let user = self.lookup(&name.text);
        if args.len() > wanted {
            let message =
                format!("`{}` takes {}", name.text, if wanted == 0 { "no arguments" } else { "one argument" });
            self.report(Diagnostic::error(codes::E0217, span, message, format!("{} given", args.len())).help(
                if wanted == 0 { format!("write `{}`", name.text) } else { format!("write `{}<T>`", name.text) },
            ));
        }
        if let Some(def) = user {
            return match def {
                Def::Type(i) => self.type_item(i),
                Def::Broken => Ty::Never,
                _ => {
                    self.error(
                        codes::E0217,
                        name.span,
                        format!("`{}` is not a type", name.text),
                        "an item, not a type",
                    );
                    Ty::Never
                }
            };
        }
        let inner = |c: &mut Self| args.first().map_or(Ty::Text, |t| c.ty(t));
        match name.text.as_str() {
            "Bool" => Ty::Bool,
            "Int" => Ty::Int,
            "Float" => Ty::Float,
            "Text" => Ty::Text,
            "Tokens" => Ty::Tokens,
            "Time" => Ty::Time,
            "Usd" => Ty::Usd,
            "Bytes" => Ty::Bytes,
            "Prob" => Ty::Prob,
            "Score" => Ty::Score,
            "Ctx" => Ty::Ctx,
            "Dist" => Ty::Dist,
            "Choice" => Ty::Choice,
            "Usage" => Ty::Usage,
            "Budget" => Ty::Budget,
            "Sample" => Ty::Sample(Box::new(inner(self))),
            "Vote" => Ty::Vote(Box::new(inner(self))),
            other => match types::role_kind(other) {
                Some(kind) => Ty::Model(kind),
                None => {
                    self.unknown_type(name);
                    Ty::Never
                }
            },
        }
    }

    fn unknown_type(&mut self, name: &Name) {
        let known: Vec<String> = builtins::names(Kind::Type)
            .chain(builtins::names(Kind::Role))
            .map(str::to_owned)
            .chain(
                self.modules[self.module]
                    .names
                    .iter()
                    .filter(|(_, d)| matches!(d.0, Def::Type(_)))
                    .map(|(n, _)| n.clone()),
            )
            .collect();
        let d = Diagnostic::error(codes::E0201, name.span, format!("there is no type `{}`", name.text), "not defined");
        let d = match spelling::nearest(&name.text, known.iter().map(String::as_str)) {
            Some(near) => {
                d.help(format!("did you mean `{near}`?")).fix(format!("write `{near}`"), name.span, near.to_owned())
            }
            None => d.help("declare it with `type` or `enum`, or bring it in with `use`"),
        };
        self.report(d);
    }

    /// A record or enum, resolved on first use.
    pub(super) fn type_item(&mut self, index: usize) -> Ty {
        let TypeItem { module, item, state } = self.types[index].clone();
        if let State::Done(ty) = state {
            return ty;
        }
        let file = Rc::clone(&self.modules[module].file);
        let item = &file.items[item];
        if matches!(state, State::Doing) || self.type_depth() > 64 {
            let name = match &item.kind {
                ItemKind::Record { name, .. } | ItemKind::Enum { name, .. } => name,
                _ => return Ty::Never,
            };
            self.report(
                Diagnostic::error(
                    codes::E0209,
                    name.span,
                    format!("type `{}` contains itself", name.text),
                    "would have no end",
                )
                .help("use a list of plain records instead of nesting"),
            );
            return Ty::Never;
        }
        self.types[index].state = State::Doing;
        let ty = self.inside(module, |c| match &item.kind {
            ItemKind::Record { name, fields } => {
                c.distinct(fields.iter().map(|(n, _)| n), "field");
                let fields = fields.iter().map(|(n, t)| (n.text.clone(), c.ty(t))).collect();
                c.capped(Ty::Record(name.text.clone(), fields), name.span)
            }
            ItemKind::Enum { name, labels } => {
                c.distinct(labels.iter(), "label");
                Ty::Enum(name.text.clone(), labels.iter().map(|l| l.text.clone()).collect())
            }
            _ => Ty::Never,
        });
        self.types[index].state = State::Done(ty.clone());
        ty
    }

    fn type_depth(&self) -> usize {
        self.types.iter().filter(|t| matches!(t.state, State::Doing)).count()
    }

    /// Reports names that occur twice.
    pub(super) fn distinct<'n>(&mut self, names: impl Iterator<Item = &'n Name>, what: &str) {
        let mut seen: std::collections::BTreeMap<&str, Span> = std::collections::BTreeMap::new();
        for name in names {
            if let Some(first) = seen.insert(&name.text, name.span) {
                self.report(
                    Diagnostic::error(
                        codes::E0208,
                        name.span,
                        format!("{what} `{}` is given twice", name.text),
                        "the second one",
                    )
                    .related(first, "the first one"),
                );
            }
        }
    }

    /// Parameters, with their names brought into scope.
    pub(super) fn params(&mut self, params: &[ast::Param]) -> Vec<Param> {
        self.distinct(params.iter().map(|p| &p.name), "parameter");
        params.iter().map(|p| self.param(p)).collect()
    }

    fn param(&mut self, p: &ast::Param) -> Param {
        let ty = self.ty(&p.ty);
        let default = p.default.as_ref().and_then(|e| self.constant(e, Some(&ty)));
        let range = p.range.as_ref().and_then(|e| self.range_of(e, &ty));
        self.in_range(default.as_ref(), range, p.default.as_ref().map_or(p.name.span, |e| e.span), &p.name.text);
        let local = self.fresh();
        Param { local, name: p.name.text.clone(), ty, default, range, span: p.name.span }
    }

    /// A default must lie in its range.
    pub(super) fn in_range(&mut self, value: Option<&Const>, range: Option<(f64, f64)>, span: Span, name: &str) {
        let (Some(value), Some((lo, hi))) = (value.and_then(number), range) else { return };
        if value < lo || value > hi {
            self.report(
                Diagnostic::error(
                    codes::E0215,
                    span,
                    format!("the default of `{name}` is outside its range"),
                    format!("{value} is not in {lo}..={hi}"),
                )
                .help("widen the range or move the default"),
            );
        }
    }

    /// The two ends of a range of numbers, both included.
    pub(super) fn range_of(&mut self, e: &ast::Expr, ty: &Ty) -> Option<(f64, f64)> {
        let mut inner = e;
        while let A::Paren(e) = &inner.kind {
            inner = e;
        }
        let A::Binary(BinOp::Range | BinOp::RangeInclusive, lo, hi) = &inner.kind else {
            self.report(
                Diagnostic::error(codes::E0217, e.span, "a range was expected", "not a range")
                    .help("write it as `1..=32`"),
            );
            return None;
        };
        if !(types::ordered(ty) && *ty != Ty::Score) || *ty == Ty::Never {
            if *ty != Ty::Never {
                let message = format!("a `{}` has no range", types::show(ty));
                self.error(codes::E0217, e.span, message, "ranges belong to numbers and quantities");
            }
            return None;
        }
        let lo_value = self.constant(lo, Some(ty)).as_ref().and_then(number)?;
        let hi_value = self.constant(hi, Some(ty)).as_ref().and_then(number)?;
        if lo_value > hi_value || lo_value.is_nan() || hi_value.is_nan() {
            self.report(
                Diagnostic::error(codes::E0215, e.span, "the range is empty", "begins above its end")
                    .help("write the smaller end first"),
            );
            return None;
        }
        Some((lo_value, hi_value))
    }

    /// Declared limits of a strategy.
    pub(super) fn declared(&mut self, written: &ast::Limits) -> Limits {
        self.distinct(written.entries.iter().map(|(n, _)| n), "limit");
        let mut limits = Limits::default();
        for (name, value) in &written.entries {
            let Some(ty) = self.limit_type(name) else { continue };
            let Some(value) = self.constant(value, Some(&ty)) else { continue };
            match (name.text.as_str(), value) {
                ("tokens", Const::Tokens(n)) => limits.tokens = Some(n),
                ("calls", Const::Int(n)) => limits.calls = u64::try_from(n).ok(),
                ("kv", Const::Bytes(n)) => limits.kv = Some(n),
                ("time", Const::Time(t)) => limits.time = Some(t),
                ("usd", Const::Usd(d)) => limits.usd = Some(d),
                _ => {}
            }
        }
        limits
    }

    /// The type of a limit, or a message.
    pub(super) fn limit_type(&mut self, name: &Name) -> Option<Ty> {
        let ty = match name.text.as_str() {
            "tokens" => Ty::Tokens,
            "calls" => Ty::Int,
            "kv" => Ty::Bytes,
            "time" => Ty::Time,
            "usd" => Ty::Usd,
            _ => {
                self.unknown_entry(name, Kind::Limit, "limit");
                return None;
            }
        };
        Some(ty)
    }

    /// Reports a name that is not in a chapter of the table.
    pub(super) fn unknown_entry(&mut self, name: &Name, kind: Kind, what: &str) {
        let all: Vec<&str> = builtins::names(kind).collect();
        let code = match kind {
            Kind::Format => codes::E0501,
            Kind::Limit | Kind::Allowance => codes::E0402,
            _ => codes::E0201,
        };
        let d = Diagnostic::error(code, name.span, format!("there is no {what} `{}`", name.text), "not known");
        let d = match spelling::nearest(&name.text, all.iter().copied()) {
            Some(near) => d.help(format!("did you mean `{near}`?")).fix(format!("write `{near}`"), name.span, near),
            None => d.help(format!("known are {}", all.join(", "))),
        };
        self.report(d);
    }

    /// Allowances of a strategy.
    pub(super) fn allowed(&mut self, written: &ast::Limits) -> Vec<Allow> {
        self.distinct(written.entries.iter().map(|(n, _)| n), "allowance");
        let mut allow = Vec::new();
        for (name, value) in &written.entries {
            let Some(builtin) = builtins::find(Kind::Allowance, &name.text) else {
                self.unknown_entry(name, Kind::Allowance, "allowance");
                continue;
            };
            let text = self.allowance(name, value);
            if !builtin.runs {
                self.report(
                    Diagnostic::warning(
                        codes::W0405,
                        name.span,
                        format!("`{}` has no effect yet", name.text),
                        "the planner has no such alternative yet",
                    )
                    .help("nothing is approximated by it: the program costs as much as without it"),
                );
            }
            allow.extend(text.map(|value| Allow { name: name.text.clone(), value }));
        }
        allow
    }

    fn allowance(&mut self, name: &Name, value: &ast::Expr) -> Option<String> {
        match name.text.as_str() {
            "kv_quant" => self.precision(value, "KV", &["int8", "int4", "int2"]),
            "weight_quant" => self.precision(value, "weight", &["int8"]),
            "batch_prompting" => match self.constant(value, Some(&Ty::Int))? {
                Const::Int(n) if n >= 1 => Some(n.to_string()),
                _ => {
                    self.error(codes::E0215, value.span, "a count of at least 1 was expected", "too small");
                    None
                }
            },
            _ => match self.constant(value, Some(&Ty::Prob))? {
                Const::Float(x) => Some(x.to_string()),
                _ => None,
            },
        }
    }

    /// One of the `known` names of a precision.
    fn precision(&mut self, value: &ast::Expr, of: &str, known: &[&str]) -> Option<String> {
        match &value.kind {
            A::Path(path) if path.len() == 1 && known.contains(&path[0].text.as_str()) => Some(path[0].text.clone()),
            _ => {
                let verb = if known.len() == 1 { "is" } else { "are" };
                self.report(
                    Diagnostic::error(codes::E0215, value.span, format!("no such {of} precision"), "not known")
                        .help(format!("known {verb} {}", known.join(", "))),
                );
                None
            }
        }
    }
}

use super::TypeItem;

/// A constant as a number.
pub(super) fn number(value: &Const) -> Option<f64> {
    match value {
        Const::Int(n) => Some(*n as f64),
        Const::Float(x) | Const::Time(x) | Const::Usd(x) => Some(*x),
        Const::Tokens(n) | Const::Bytes(n) => Some(*n as f64),
        _ => None,
    }
}
