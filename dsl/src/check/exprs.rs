//! Expressions: literals, names, operators, fields, lists, blocks.
//!
//! [`Checker::check`] infers; the expected type only gives literals their type. [`Checker::check_as`] also demands it.

use super::{Checker, Def, spelling, types};
use crate::ast::{self, BinOp, ExprKind as A, Literal, Name, PatternKind, StmtKind, UnOp};
use crate::builtins::{self, FIELDS, FieldTy, Kind};
use crate::codes;
use crate::hir::{Const, Expr, ExprKind, Part, Pattern, Prim, Stmt, Ty, Window};
use ir::diagnostic::{Diagnostic, Span};
use ir::strategy::DistField;

impl Checker<'_> {
    /// Checks and demands a type.
    pub(super) fn check_as(&mut self, e: &ast::Expr, expected: &Ty) -> Expr {
        let checked = self.check(e, Some(expected));
        self.coerce(checked, expected, e.span)
    }

    /// Demands that a checked expression fits a type.
    pub(super) fn coerce(&mut self, e: Expr, expected: &Ty, span: Span) -> Expr {
        if types::fits(&e.ty, expected) {
            return e;
        }
        self.mismatch(&e.ty, expected, span);
        self.broken(span)
    }

    fn mismatch(&mut self, found: &Ty, expected: &Ty, span: Span) {
        if let (Ty::List(f, Some(n)), Ty::List(t, Some(m))) = (found, expected)
            && types::fits(f, t)
        {
            self.report(
                Diagnostic::error(
                    codes::E0302,
                    span,
                    format!("a list of up to {n} items does not fit `{}`", types::show(expected)),
                    format!("may have {n} items, {m} are allowed"),
                )
                .help(format!("declare `[…; {n}]`, or take fewer: `top(xs, k: {m}, by: …)`")),
            );
            return;
        }
        let (f, t) = (types::show(found), types::show(expected));
        let code =
            if *found == Ty::Score && matches!(expected, Ty::Prob | Ty::Float) { codes::E0206 } else { codes::E0204 };
        let mut d = Diagnostic::error(code, span, format!("`{t}` needed, `{f}` found"), format!("is a `{f}`"));
        d = match (found, expected) {
            (Ty::Optional(inner), t) if types::fits(inner, t) => {
                d.help("say what happens when there is none: `?? fail \"…\"`, or `?? other`")
            }
            (Ty::Score, Ty::Prob | Ty::Float) => {
                d.help("a score has no scale; use `verify` with a `Verifier` to get a probability")
            }
            (Ty::Text, Ty::List(item, _)) if **item == Ty::Text => {
                d.help("write a list of texts").fix("make it a list", span, format!("[{}]", self.text(span)))
            }
            (Ty::Sample(_), Ty::Text) => d.help("take its `.text` (or its `.value`)").fix(
                "take the text",
                Span { start: span.end, ..span },
                ".text",
            ),
            (Ty::Int, Ty::Float) => d.help("write `float(x)`; literals may be written as `1.0`"),
            (Ty::Unit, _) => d.help("the block ends with `;` or has no value: end it with an expression"),
            (Ty::Text, Ty::Ctx) => d.help("a context comes from a `prompt`: declare one and call it with the text"),
            _ => d,
        };
        self.report(d);
    }

    /// Infers the type of an expression.
    pub(super) fn check(&mut self, e: &ast::Expr, expected: Option<&Ty>) -> Expr {
        if self.too_large {
            return self.broken(e.span);
        }
        if self.depth >= super::MAX_DEPTH {
            return self.too_deep(e.span);
        }
        self.depth += 1;
        let checked = self.check_kind(e, expected);
        self.depth -= 1;
        checked
    }

    fn too_deep(&mut self, span: Span) -> Expr {
        self.too_large = true;
        let message = format!("nested too deeply: more than {} levels", super::MAX_DEPTH);
        self.report(
            Diagnostic::error(codes::E0305, span, message, "the cap is reached here")
                .help("give a part of it a name with `let`; a chain of operators counts one level a link"),
        );
        self.broken(span)
    }

    fn check_kind(&mut self, e: &ast::Expr, expected: Option<&Ty>) -> Expr {
        let span = e.span;
        match &e.kind {
            A::Literal(literal) => self.literal(literal, expected, span),
            A::Template(template) => self.text_with_holes(template, span),
            A::Path(path) => self.path(path, expected, span),
            A::List(items) => self.list(items, expected, span),
            A::Tuple(items) => self.tuple(items, expected, span),
            A::Paren(inner) => self.check(inner, expected),
            A::Call(callee, args) => self.call(callee, args, span),
            A::Index(list, index) => self.index(list, index, span),
            A::Field(base, name) => self.field(base, name, span),
            A::On(inner, rules) => self.on(inner, rules, span),
            A::Binary(op, a, b) => self.binary(*op, a, b, expected, span),
            A::Unary(op, a) => self.unary(*op, a, expected, span),
            A::Lambda(..) => {
                self.error(codes::E0211, span, "a function stands alone", "functions are arguments of calls");
                self.broken(span)
            }
            A::Block(block) => {
                let value = self.block(block, expected);
                Expr { span, ..value }
            }
            A::Error => self.broken(span),
            _ => self.control(e, expected),
        }
    }

    fn text_with_holes(&mut self, template: &ast::Template, span: Span) -> Expr {
        let parts = self.template(template);
        let constant = parts.iter().all(|p| matches!(p, Part::Text(_)));
        let kind = if constant {
            let text = parts.iter().map(|p| if let Part::Text(t) = p { t.as_str() } else { "" }).collect();
            ExprKind::Const(Const::Text(text))
        } else {
            ExprKind::Template(parts)
        };
        self.expr(kind, Ty::Text, span)
    }

    /// A block; its names end with it.
    pub(super) fn block(&mut self, block: &ast::Block, expected: Option<&Ty>) -> Expr {
        let mark = self.scope.len();
        let mut stmts = Vec::new();
        let mut diverges = false;
        for stmt in &block.stmts {
            let stmt = self.stmt(stmt);
            diverges |= matches!(&stmt, Some(Stmt::Expr(e) | Stmt::Let(_, e)) if e.ty == Ty::Never);
            stmts.extend(stmt);
        }
        let value = block.value.as_ref().map(|v| Box::new(self.check(v, expected)));
        self.leave(mark);
        let ty = match &value {
            Some(v) if !diverges || v.ty == Ty::Never => v.ty.clone(),
            _ if diverges => Ty::Never,
            _ => Ty::Unit,
        };
        self.expr(ExprKind::Block(stmts, value), ty, block.span)
    }

    pub(super) fn stmt(&mut self, stmt: &ast::Stmt) -> Option<Stmt> {
        match &stmt.kind {
            StmtKind::Let(pattern, ty, value) => {
                let value = match ty {
                    Some(ty) => {
                        let ty = self.ty(ty);
                        let value = self.check_as(value, &ty);
                        Expr { ty: if value.ty == Ty::Never { Ty::Never } else { declared(&ty, &value.ty) }, ..value }
                    }
                    None => self.check(value, None),
                };
                if let Ty::Fn(..) | Ty::Dist = value.ty {
                    self.error(codes::E0211, value.span, "a function cannot be kept in a variable", "not a value");
                }
                let start = self.scope.len();
                let pattern = self.pattern_of(pattern, &value.ty, false);
                let (labels, precompute) = (self.labels_of(&value), self.precompute_of(&value));
                if let (Some(binding), Pattern::Bind(_)) = (self.scope.nth(start), &pattern) {
                    binding.labels = labels;
                    binding.precompute = precompute;
                }
                Some(Stmt::Let(pattern, value))
            }
            StmtKind::Expr(e) => Some(Stmt::Expr(self.check(e, None))),
            StmtKind::Assert(e) => {
                self.misplaced("assert", "in a `test`", stmt.span);
                self.check_as(e, &Ty::Bool);
                None
            }
            StmtKind::Mock(_, e) => {
                self.misplaced("mock", "at the top of a `test`", stmt.span);
                self.check(e, None);
                None
            }
        }
    }

    pub(super) fn misplaced(&mut self, what: &str, place: &str, span: Span) {
        self.report(
            Diagnostic::error(codes::E0211, span, format!("`{what}` means nothing here"), "misplaced")
                .help(format!("it belongs {place}")),
        );
    }

    /// A pattern against the type it takes apart; binds names. `refutable`: in a `match`.
    pub(super) fn pattern_of(&mut self, pattern: &ast::Pattern, ty: &Ty, refutable: bool) -> Pattern {
        match &pattern.kind {
            PatternKind::Name(name) if name.text == "_" => Pattern::Any,
            PatternKind::Name(name) => {
                if let (Ty::Enum(_, labels), true) = (types::present(ty), refutable) {
                    if labels.contains(&name.text) {
                        return Pattern::Const(Const::Label(name.text.clone()));
                    }
                    if let Some(near) = spelling::nearest(&name.text, labels.iter().map(String::as_str)) {
                        let d = Diagnostic::error(
                            codes::E0212,
                            name.span,
                            format!("`{}` is not a label of `{}`", name.text, types::show(ty)),
                            "no such label",
                        )
                        .help(format!("did you mean `{near}`?"))
                        .fix(format!("write `{near}`"), name.span, near);
                        self.report(d);
                        return Pattern::Any;
                    }
                }
                Pattern::Bind(self.bind(name, ty.clone()))
            }
            PatternKind::Literal(literal) => {
                if !refutable {
                    self.error(codes::E0212, pattern.span, "a `let` or loop cannot be refused", "use `match`");
                }
                let value = self.literal(literal, Some(types::present(ty)), pattern.span);
                let none = matches!(value.kind, ExprKind::Const(Const::None));
                if !types::fits(&value.ty, ty) || !(none || types::comparable(ty)) {
                    let message = format!("`{}` is matched against a `{}`", types::show(&value.ty), types::show(ty));
                    self.error(codes::E0212, pattern.span, message, "can never be equal");
                }
                match value.kind {
                    ExprKind::Const(value) => Pattern::Const(value),
                    _ => Pattern::Any,
                }
            }
            PatternKind::Tuple(patterns) => {
                let items = match ty {
                    Ty::Tuple(items) if items.len() == patterns.len() => items.clone(),
                    Ty::Never => vec![Ty::Never; patterns.len()],
                    _ => {
                        let message = format!("a `{}` has no {} parts", types::show(ty), patterns.len());
                        self.error(codes::E0212, pattern.span, message, "does not fit");
                        vec![Ty::Never; patterns.len()]
                    }
                };
                Pattern::Tuple(patterns.iter().zip(&items).map(|(p, t)| self.pattern_of(p, t, refutable)).collect())
            }
        }
    }

    fn path(&mut self, path: &[Name], expected: Option<&Ty>, span: Span) -> Expr {
        if let [name] = path {
            if let Some(binding) = self.scope.read(&name.text) {
                let (local, ty) = (binding.local, binding.ty.clone());
                return self.expr(ExprKind::Local(local), ty, span);
            }
            // A label, where an enum is needed and nothing else has the name.
            if let Some(Ty::Enum(_, labels)) = expected.map(types::present)
                && labels.contains(&name.text)
                && !self.modules[self.module].names.contains_key(&name.text)
            {
                let ty = expected.map_or(Ty::Never, |t| types::present(t).clone());
                return self.expr(ExprKind::Const(Const::Label(name.text.clone())), ty, span);
            }
        }
        if let Some(label) = self.label(path, span) {
            return label;
        }
        match self.resolve(path) {
            Some(Def::Role(i)) => {
                let kind = self.program.roles[i].kind;
                self.expr(ExprKind::Role(i), Ty::Model(kind), span)
            }
            Some(Def::Tunable(i)) => {
                let ty = self.program.tunables[i].item.ty.clone();
                self.expr(ExprKind::Tunable(i), ty, span)
            }
            Some(Def::Const(i)) => self.const_ref(i, span),
            Some(Def::Function(i)) => {
                let name = self.program.functions[i].name.clone();
                self.report(
                    Diagnostic::error(codes::E0211, span, format!("`{name}` is a function"), "stands without a call")
                        .help(format!("call it: `{name}(…)`")),
                );
                self.broken(span)
            }
            Some(Def::Type(_) | Def::Module(_) | Def::Builtin(_)) => {
                let message = format!("`{}` is not a value", self.text(span));
                self.error(codes::E0211, span, message, "names a type, a file, a format or a boundary");
                self.broken(span)
            }
            Some(Def::Broken) => self.broken(span),
            None => {
                if let Some(name) = path.first() {
                    self.unknown_name(name);
                }
                self.broken(span)
            }
        }
    }

    /// `Enum::label`
    fn label(&mut self, path: &[Name], span: Span) -> Option<Expr> {
        let (label, head) = path.split_last()?;
        let def = match head {
            [] => return None,
            [one] => self.lookup(&one.text)?,
            more => self.resolve(more)?,
        };
        let Def::Type(i) = def else { return None };
        let ty = self.type_item(i);
        let Ty::Enum(name, labels) = &ty else { return None };
        if labels.contains(&label.text) {
            return Some(self.expr(ExprKind::Const(Const::Label(label.text.clone())), ty, span));
        }
        let d = Diagnostic::error(
            codes::E0201,
            label.span,
            format!("`{name}` has no label `{}`", label.text),
            "not a label",
        );
        let d = match spelling::nearest(&label.text, labels.iter().map(String::as_str)) {
            Some(near) => d.help(format!("did you mean `{near}`?")).fix(format!("write `{near}`"), label.span, near),
            None => d.help(format!("its labels are {}", labels.join(", "))),
        };
        self.report(d);
        Some(self.broken(span))
    }

    pub(super) fn unknown_name(&mut self, name: &Name) {
        let d = Diagnostic::error(codes::E0201, name.span, format!("`{}` is not defined", name.text), "unknown name");
        let callables: Vec<&str> =
            [Kind::Effect, Kind::Function, Kind::Verifier].into_iter().flat_map(builtins::names).collect();
        let near = spelling::nearest(&name.text, self.visible_names())
            .or_else(|| spelling::nearest(&name.text, callables))
            .map(str::to_owned);
        let library = crate::std_files()
            .iter()
            .find(|(_, text)| {
                text.contains(&format!("prompt {}(", name.text)) || text.contains(&format!("fn {}(", name.text))
            })
            .map(|(path, _)| *path);
        let d = match (library, near) {
            (Some(path), _) => d.help(format!("bring it in: `use {path}::{};`", name.text)),
            (None, Some(near)) => {
                d.help(format!("did you mean `{near}`?")).fix(format!("write `{near}`"), name.span, near.clone())
            }
            (None, None) => d.help("declare it, or bring it in with `use`"),
        };
        self.report(d);
    }

    fn list(&mut self, items: &[ast::Expr], expected: Option<&Ty>, span: Span) -> Expr {
        let wanted = match expected.map(types::present) {
            Some(Ty::List(item, _)) => Some((**item).clone()),
            _ => None,
        };
        let mut ty = Ty::Never;
        let mut checked = Vec::new();
        for item in items {
            let hint = wanted.clone().or_else(|| (ty != Ty::Never).then(|| ty.clone()));
            let value = self.check(item, hint.as_ref());
            match types::join(&ty, &value.ty) {
                Some(joined) => ty = joined,
                None => {
                    let message = format!("`{}` and `{}` are in one list", types::show(&ty), types::show(&value.ty));
                    self.error(codes::E0204, item.span, message, "another type than the items before");
                }
            }
            checked.push(value);
        }
        if let Ty::Fn(..) | Ty::Dist = ty {
            self.error(codes::E0211, span, "functions cannot be kept in lists", "not a value");
        }
        let length = u64::try_from(items.len()).ok();
        self.expr(ExprKind::Prim(Prim::List, checked), Ty::List(Box::new(ty), length), span)
    }

    fn tuple(&mut self, items: &[ast::Expr], expected: Option<&Ty>, span: Span) -> Expr {
        let wanted = match expected {
            Some(Ty::Tuple(types)) if types.len() == items.len() => Some(types.clone()),
            _ => None,
        };
        let checked: Vec<Expr> =
            items.iter().enumerate().map(|(i, e)| self.check(e, wanted.as_ref().and_then(|w| w.get(i)))).collect();
        let ty = Ty::Tuple(checked.iter().map(|e| e.ty.clone()).collect());
        self.expr(ExprKind::Prim(Prim::Tuple, checked), ty, span)
    }

    fn index(&mut self, list: &ast::Expr, index: &ast::Expr, span: Span) -> Expr {
        let list = self.check(list, None);
        let index = self.check_as(index, &Ty::Int);
        let item = match &list.ty {
            Ty::List(item, _) => (**item).clone(),
            Ty::Never => Ty::Never,
            other => {
                let message = format!("a `{}` has no items", types::show(other));
                self.error(codes::E0204, list.span, message, "cannot be indexed");
                Ty::Never
            }
        };
        self.expr(ExprKind::Prim(Prim::Index, vec![list, index]), item, span)
    }

    fn field(&mut self, base: &ast::Expr, name: &Name, span: Span) -> Expr {
        let base = self.check(base, None);
        let prim = |name: &Name| Prim::Field(name.text.clone());
        let ty = match (&base.ty, name.text.as_str()) {
            (Ty::Never, _) => Ty::Never,
            (Ty::List(..) | Ty::Text, "len") => Ty::Int,
            (Ty::List(item, _), "first") => {
                let ty = types::optional((**item).clone());
                return self.expr(ExprKind::Prim(Prim::First, vec![base]), ty, span);
            }
            (Ty::Dist, stat) if dist_field(stat).is_some() => {
                let Some(stat) = dist_field(stat) else { return self.broken(span) };
                return self.expr(ExprKind::Dist(stat, Window::Now, Box::new(base)), Ty::Float, span);
            }
            (Ty::Record(_, fields), wanted) => match fields.iter().find(|(n, _)| n == wanted) {
                Some((_, ty)) => ty.clone(),
                None => return self.no_field(&base.ty, name, span),
            },
            (ty, wanted) => match builtin_field(ty, wanted) {
                Some(ty) => ty,
                None => return self.no_field(&base.ty, name, span),
            },
        };
        self.expr(ExprKind::Prim(prim(name), vec![base]), ty, span)
    }

    pub(super) fn no_field(&mut self, ty: &Ty, name: &Name, span: Span) -> Expr {
        let inner = types::present(ty);
        let names: Vec<&str> = match inner {
            Ty::Record(_, fields) => fields.iter().map(|(n, _)| n.as_str()).collect(),
            Ty::List(..) => vec!["len", "first"],
            Ty::Text => vec!["len"],
            other => FIELDS.iter().filter(|f| Some(f.0) == owner(other)).map(|f| f.1).collect(),
        };
        let d = Diagnostic::error(
            codes::E0202,
            name.span,
            format!("a `{}` has no `{}`", types::show(ty), name.text),
            "no such field",
        );
        let d = if matches!(ty, Ty::Optional(_)) && names.contains(&name.text.as_str()) {
            d.help("there may be none: say what happens then with `??`, for example `(x ?? fail \"none\")`")
        } else if let Some(near) = spelling::nearest(&name.text, names.iter().copied()) {
            d.help(format!("did you mean `{near}`?")).fix(format!("write `{near}`"), name.span, near)
        } else if names.is_empty() {
            d.help("it has no fields")
        } else {
            d.help(format!("it has {}", names.join(", ")))
        };
        self.report(d);
        self.broken(span)
    }

    fn unary(&mut self, op: UnOp, a: &ast::Expr, expected: Option<&Ty>, span: Span) -> Expr {
        match op {
            UnOp::Not => {
                let a = self.check_as(a, &Ty::Bool);
                self.expr(ExprKind::Prim(Prim::Not, vec![a]), Ty::Bool, span)
            }
            UnOp::Neg => {
                let hint = expected.filter(|t| matches!(t, Ty::Int | Ty::Float));
                let a = self.check(a, hint);
                // A negative literal is one constant.
                match &a.kind {
                    ExprKind::Const(Const::Int(n)) => {
                        let negated = n.checked_neg().unwrap_or(*n);
                        return self.expr(ExprKind::Const(Const::Int(negated)), a.ty, span);
                    }
                    ExprKind::Const(Const::Float(x)) if a.ty == Ty::Float => {
                        return self.expr(ExprKind::Const(Const::Float(-x)), a.ty, span);
                    }
                    _ => {}
                }
                if !matches!(a.ty, Ty::Int | Ty::Float | Ty::Never) {
                    let message = format!("a `{}` cannot be negated", types::show(&a.ty));
                    self.error(codes::E0216, span, message, "has no minus");
                    return self.broken(span);
                }
                let ty = a.ty.clone();
                self.expr(ExprKind::Prim(Prim::Neg, vec![a]), ty, span)
            }
        }
    }

    fn binary(&mut self, op: BinOp, a: &ast::Expr, b: &ast::Expr, expected: Option<&Ty>, span: Span) -> Expr {
        match op {
            BinOp::And | BinOp::Or => {
                let a = Box::new(self.check_as(a, &Ty::Bool));
                let b = Box::new(self.check_as(b, &Ty::Bool));
                let kind = if op == BinOp::And { ExprKind::And(a, b) } else { ExprKind::Or(a, b) };
                self.expr(kind, Ty::Bool, span)
            }
            BinOp::Coalesce => self.coalesce(a, b, expected, span),
            BinOp::Range | BinOp::RangeInclusive => self.range(op, a, b, span),
            _ => {
                let arithmetic = matches!(op, BinOp::Add | BinOp::Sub | BinOp::Mul | BinOp::Div);
                let hint = expected.filter(|_| arithmetic && matches!(op, BinOp::Add | BinOp::Sub));
                let (a, b) = self.operands(a, b, hint, op);
                if arithmetic { self.arithmetic(op, a, b, span) } else { self.comparison(op, a, b, span) }
            }
        }
    }

    /// Two operands; a literal takes its type from the other side.
    fn operands(&mut self, a: &ast::Expr, b: &ast::Expr, hint: Option<&Ty>, op: BinOp) -> (Expr, Expr) {
        let scales = matches!(op, BinOp::Mul | BinOp::Div);
        let usable = |t: &Ty| !(scales && types::quantity(t) || *t == Ty::Never);
        if bare(a) && !bare(b) {
            let b = self.check(b, hint);
            let other = types::present(&b.ty).clone();
            let a = self.check(a, Some(&other).filter(|t| usable(t)));
            return (a, b);
        }
        let a = self.check(a, hint);
        let other = types::present(&a.ty).clone();
        let b = self.check(b, Some(&other).filter(|t| usable(t)));
        (a, b)
    }

    fn range(&mut self, op: BinOp, a: &ast::Expr, b: &ast::Expr, span: Span) -> Expr {
        let a = self.check_as(a, &Ty::Int);
        let b = self.check_as(b, &Ty::Int);
        let inclusive = op == BinOp::RangeInclusive;
        let length = match (self.value_of(&a), self.value_of(&b)) {
            (Ok(Const::Int(lo)), Ok(Const::Int(hi))) => {
                let n = i128::from(hi) - i128::from(lo) + i128::from(inclusive);
                u64::try_from(n.max(0)).ok()
            }
            _ => None,
        };
        let prim = if inclusive { Prim::RangeInclusive } else { Prim::Range };
        self.expr(ExprKind::Prim(prim, vec![a, b]), Ty::List(Box::new(Ty::Int), length), span)
    }

    fn arithmetic(&mut self, op: BinOp, a: Expr, b: Expr, span: Span) -> Expr {
        let prim = match op {
            BinOp::Add => Prim::Add,
            BinOp::Sub => Prim::Sub,
            BinOp::Mul => Prim::Mul,
            _ => Prim::Div,
        };
        let ty = match (op, &a.ty, &b.ty) {
            (_, Ty::Never, _) | (_, _, Ty::Never) => Ty::Never,
            (_, Ty::Int, Ty::Int) => Ty::Int,
            (_, Ty::Float | Ty::Prob, Ty::Float | Ty::Prob) => Ty::Float,
            (BinOp::Add | BinOp::Sub, x, y) if x == y && types::quantity(x) => x.clone(),
            (BinOp::Div, x, y) if x == y && types::quantity(x) => Ty::Float,
            (BinOp::Mul | BinOp::Div, x, Ty::Int) if types::quantity(x) => x.clone(),
            (BinOp::Mul, Ty::Int, x) if types::quantity(x) => x.clone(),
            (BinOp::Mul | BinOp::Div, x @ (Ty::Time | Ty::Usd), Ty::Float | Ty::Prob) => x.clone(),
            (BinOp::Mul, Ty::Float | Ty::Prob, x @ (Ty::Time | Ty::Usd)) => x.clone(),
            (BinOp::Mul, x @ (Ty::Tokens | Ty::Bytes), Ty::Float | Ty::Prob) => x.clone(),
            (BinOp::Add, Ty::Text, Ty::Text) => Ty::Text,
            (BinOp::Add, Ty::List(x, n), Ty::List(y, m)) => match types::join(x, y) {
                Some(item) => Ty::List(Box::new(item), n.zip(*m).and_then(|(n, m)| n.checked_add(m))),
                None => return self.no_operator(op, &a.ty, &b.ty, span),
            },
            _ => return self.no_operator(op, &a.ty, &b.ty, span),
        };
        self.expr(ExprKind::Prim(prim, vec![a, b]), ty, span)
    }

    fn comparison(&mut self, op: BinOp, a: Expr, b: Expr, span: Span) -> Expr {
        let prim = match op {
            BinOp::Eq => Prim::Eq,
            BinOp::Ne => Prim::Ne,
            BinOp::Lt => Prim::Lt,
            BinOp::Le => Prim::Le,
            BinOp::Gt => Prim::Gt,
            _ => Prim::Ge,
        };
        let equality = matches!(op, BinOp::Eq | BinOp::Ne);
        let none = |e: &Expr| matches!(e.kind, ExprKind::Const(Const::None));
        if equality && (none(&a) || none(&b)) {
            let value = if none(&a) { b } else { a };
            if !matches!(value.ty, Ty::Optional(_) | Ty::Never) {
                return self.no_operator(op, &value.ty, &types::optional(Ty::Never), span);
            }
            let is_none = self.expr(ExprKind::Prim(Prim::IsNone, vec![value]), Ty::Bool, span);
            return match op {
                BinOp::Eq => is_none,
                _ => self.expr(ExprKind::Prim(Prim::Not, vec![is_none]), Ty::Bool, span),
            };
        }
        let scores = usize::from(a.ty == Ty::Score) + usize::from(b.ty == Ty::Score);
        if scores == 1 && a.ty != Ty::Never && b.ty != Ty::Never {
            self.report(
                Diagnostic::error(
                    codes::E0206,
                    span,
                    "a score is compared with something that is no score",
                    "a score has an order but no scale",
                )
                .help("use `verify` with a calibrated `Verifier`, which gives a `Prob`, or compare two scores")
                .note("`inferc explain E0206`"),
            );
            return self.broken(span);
        }
        let mixes = |x: &Ty, y: &Ty| matches!((x, y), (Ty::Prob, Ty::Float) | (Ty::Float, Ty::Prob));
        let fine = match types::join(&a.ty, &b.ty) {
            Some(ty) if equality => types::comparable(&ty),
            Some(ty) => types::ordered(&ty),
            None => mixes(&a.ty, &b.ty),
        };
        if !fine {
            return self.no_operator(op, &a.ty, &b.ty, span);
        }
        self.expr(ExprKind::Prim(prim, vec![a, b]), Ty::Bool, span)
    }

    fn no_operator(&mut self, op: BinOp, a: &Ty, b: &Ty, span: Span) -> Expr {
        let sign = match op {
            BinOp::Add => "+",
            BinOp::Sub => "-",
            BinOp::Mul => "*",
            BinOp::Div => "/",
            BinOp::Eq => "==",
            BinOp::Ne => "!=",
            BinOp::Lt => "<",
            BinOp::Le => "<=",
            BinOp::Gt => ">",
            _ => ">=",
        };
        let message = format!("`{}` {sign} `{}` is not defined", types::show(a), types::show(b));
        let d = Diagnostic::error(codes::E0216, span, message, "operands do not go together");
        let d = match (a, b) {
            (Ty::Optional(_), _) | (_, Ty::Optional(_)) => d.help("one side may be `none`: give it a value with `??`"),
            (Ty::Int, Ty::Float) | (Ty::Float, Ty::Int) => d.help("make both floats with `float(x)`"),
            _ if types::quantity(a) || types::quantity(b) => d.help("quantities go with their own kind"),
            _ => d,
        };
        self.report(d);
        self.broken(span)
    }

    fn coalesce(&mut self, a: &ast::Expr, b: &ast::Expr, expected: Option<&Ty>, span: Span) -> Expr {
        let a = self.check(a, expected);
        let inner = types::present(&a.ty).clone();
        if !matches!(a.ty, Ty::Optional(_) | Ty::Never) {
            let message = format!("a `{}` is never `none`", types::show(&a.ty));
            self.report(Diagnostic::error(codes::E0204, a.span, message, "always has a value").help("leave `??` out"));
        }
        let b = self.check(b, Some(&inner).filter(|t| **t != Ty::Never).or(expected));
        let ty = match types::join(&inner, &b.ty) {
            Some(ty) => ty,
            None => {
                let message = format!("`{}` needed, `{}` found", types::show(&inner), types::show(&b.ty));
                self.error(codes::E0204, b.span, message, "stands in for a value of another type");
                Ty::Never
            }
        };
        self.expr(ExprKind::Coalesce(Box::new(a), Box::new(b)), ty, span)
    }
}

/// A list type that was declared without a length has the length of its value.
fn declared(ty: &Ty, found: &Ty) -> Ty {
    match (ty, found) {
        (Ty::List(item, None), Ty::List(_, n)) => Ty::List(item.clone(), *n),
        _ => ty.clone(),
    }
}

/// A literal without a type of its own.
fn bare(e: &ast::Expr) -> bool {
    match &e.kind {
        A::Literal(Literal::Quantity(q)) => q.unit.is_empty() || q.unit == "%",
        A::Paren(inner) | A::Unary(UnOp::Neg, inner) => bare(inner),
        _ => false,
    }
}

/// The statistic of that name.
pub(super) fn dist_field(name: &str) -> Option<DistField> {
    Some(match name {
        "entropy" => DistField::Entropy,
        "varentropy" => DistField::Varentropy,
        "margin" => DistField::Margin,
        "top1" => DistField::Top1,
        _ => return None,
    })
}

/// The name under which the table lists the fields of a type.
pub(super) fn owner(ty: &Ty) -> Option<&'static str> {
    Some(match ty {
        Ty::Sample(_) => "Sample",
        Ty::Vote(_) => "Vote",
        Ty::Usage => "Usage",
        Ty::Choice => "Choice",
        Ty::Budget => "Budget",
        Ty::Dist => "Dist",
        _ => return None,
    })
}

fn builtin_field(ty: &Ty, name: &str) -> Option<Ty> {
    let owner = owner(ty)?;
    let field = FIELDS.iter().find(|f| f.0 == owner && f.1 == name)?;
    Some(match field.2 {
        FieldTy::Text => Ty::Text,
        FieldTy::Int => Ty::Int,
        FieldTy::Float => Ty::Float,
        FieldTy::Prob => Ty::Prob,
        FieldTy::Bool => Ty::Bool,
        FieldTy::Tokens => Ty::Tokens,
        FieldTy::Time => Ty::Time,
        FieldTy::Usd => Ty::Usd,
        FieldTy::Bytes => Ty::Bytes,
        FieldTy::Usage => Ty::Usage,
        FieldTy::InnerOptional => match ty {
            Ty::Sample(inner) => types::optional((**inner).clone()),
            Ty::Vote(inner) => types::optional(types::vote_parts(inner).0),
            _ => return None,
        },
        FieldTy::Members => match ty {
            Ty::Vote(inner) => Ty::List(Box::new(types::vote_parts(inner).1), None),
            _ => return None,
        },
    })
}
