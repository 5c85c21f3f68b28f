//! Values: constants, names, operators, texts, calls.
//!
//! [`Lower::operand`] gives the variable that holds an expression's value; what has no value gives `()`.

use super::{Closure, Leave, Lower, NOWHERE, Value, later};
use crate::codes;
use crate::hir::{
    Const, Expr, ExprKind, Function, FunctionKind, Limits, Part, Pattern, Prim, RoleBinding, Stmt, Ty, VerifierKind,
};
use ir::strategy::{self as ir_strategy, Op, Region, Var, VerifierOp};
use std::rc::Rc;

impl<'p> Lower<'p> {
    /// The variable of an expression's value.
    pub(super) fn operand(&mut self, e: &'p Expr) -> Var {
        match self.value(e) {
            Some(var) => var,
            None if self.closed() => NOWHERE,
            None => self.constant(Const::Unit),
        }
    }

    /// Lowers an expression; `None` when it has no value (or never returns).
    pub(super) fn value(&mut self, e: &'p Expr) -> Option<Var> {
        if self.closed() {
            return None;
        }
        let outer = self.at;
        if e.span.file == 0 {
            self.at = (e.span.start, e.span.end);
        }
        let value = self.value_of(e);
        self.at = outer;
        value
    }

    fn value_of(&mut self, e: &'p Expr) -> Option<Var> {
        Some(match &e.kind {
            ExprKind::Const(value) => self.constant(value.clone()),
            ExprKind::ConstItem(i) => self.operand(&self.program.consts[*i]),
            ExprKind::Local(local) => match self.env.get(local) {
                Some(Value::Var(var)) => *var,
                _ => NOWHERE,
            },
            ExprKind::Tunable(i) => {
                let number = number_of(&mut self.tunables, *i);
                self.emit(Op::Tunable(number))
            }
            ExprKind::Role(i) => self.role(*i, e),
            ExprKind::Template(parts) => {
                let (texts, vars) = self.parts(parts);
                let parts = texts.into_iter().map(|t| if let Piece::Text(t) = t { Some(t) } else { None }).collect();
                self.prim(Prim::Template(parts), vars)
            }
            ExprKind::Prompt(messages) => {
                let mut lowered = Vec::new();
                for (speaker, parts) in messages {
                    let (pieces, vars) = self.parts(parts);
                    let mut vars = vars.into_iter();
                    let parts = pieces
                        .into_iter()
                        .map(|p| match p {
                            Piece::Text(t) => ir_strategy::Part::Text(t),
                            Piece::Hole => ir_strategy::Part::Var(vars.next().unwrap_or(NOWHERE)),
                        })
                        .collect();
                    lowered.push((*speaker, parts));
                }
                self.emit(Op::Prompt(lowered))
            }
            ExprKind::Prim(prim, operands) => return self.primitive(e, prim, operands),
            ExprKind::And(a, b) => return self.short_circuit(a, b, true),
            ExprKind::Or(a, b) => return self.short_circuit(a, b, false),
            ExprKind::Call(index, args) => return self.call(e, *index, args),
            ExprKind::Apply(local, args) => return self.apply(e, *local, args),
            ExprKind::Verifier(kind, operands) => self.verifier(*kind, operands),
            ExprKind::Dist(field, window, d) => {
                let d = self.operand(d);
                self.emit(Op::Dist(*field, *window, d))
            }
            ExprKind::Remaining => self.emit(Op::Remaining),
            ExprKind::Spent => self.emit(Op::Spent),
            ExprKind::Block(stmts, value) => return self.block(stmts, value.as_deref(), false),
            ExprKind::Generate(_)
            | ExprKind::Score(..)
            | ExprKind::LogProb(..)
            | ExprKind::Choose(..)
            | ExprKind::Expect(..) => return self.site_of(e),
            ExprKind::Later(name, _) => {
                let (what, help) = later::words(name);
                self.refuse(codes::E0902, e.span, what, help);
                NOWHERE
            }
            ExprKind::Lambda(..) => NOWHERE,
            ExprKind::Error => {
                let message = "the program has errors and was lowered all the same";
                let d = ir::diagnostic::Diagnostic::error(codes::E0204, e.span, message, "did not check");
                self.errors.push(d.help("check the program first and mend what is reported"));
                NOWHERE
            }
            _ => return self.control(e, false),
        })
    }

    fn role(&mut self, index: usize, e: &Expr) -> Var {
        let role = &self.program.roles[index];
        if let Some(RoleBinding::Endpoint(span)) = &role.binding {
            let span = *span;
            self.refuse(
                codes::E0903,
                span,
                "a model behind an endpoint",
                "bind it to a file: `gguf(\"models/x.gguf\")`",
            );
        }
        if let Ty::Model(kind) = e.ty {
            use crate::hir::RoleKind::{Classifier, Embedder, StepScorer, StepVerifier};
            if matches!(kind, StepScorer | StepVerifier | Embedder | Classifier) {
                let what = format!("a model of kind {kind}");
                self.refuse(codes::E0902, e.span, &what, "use a `Generator`, `Scorer` or `Verifier`");
            }
        }
        let number = number_of(&mut self.roles, index);
        let var = self.emit(Op::Model(number));
        self.models.insert(var, index);
        var
    }

    /// Texts and holes; constant holes become text.
    fn parts(&mut self, parts: &'p [Part]) -> (Vec<Piece>, Vec<Var>) {
        let mut pieces: Vec<Piece> = Vec::new();
        let mut vars = Vec::new();
        for part in parts {
            let text = match part {
                Part::Text(text) => Some(text.clone()),
                Part::Hole(Expr { kind: ExprKind::Const(Const::Text(text)), .. }) => Some(text.clone()),
                Part::Hole(e) => {
                    vars.push(self.operand(e));
                    None
                }
            };
            match (text, pieces.last_mut()) {
                (Some(text), Some(Piece::Text(last))) => last.push_str(&text),
                (Some(text), _) => pieces.push(Piece::Text(text)),
                (None, _) => pieces.push(Piece::Hole),
            }
        }
        (pieces, vars)
    }

    fn primitive(&mut self, e: &'p Expr, prim: &Prim, operands: &'p [Expr]) -> Option<Var> {
        let mut vars = Vec::new();
        for operand in operands {
            vars.push(match operand.ty {
                Ty::Fn(..) => self.function_operand(operand, e.id),
                _ => self.operand(operand),
            });
        }
        if self.closed() {
            return None;
        }
        let var = self.prim(prim.clone(), vars.clone());
        if let Prim::Record(name, fields) = prim
            && name == "Budget"
        {
            self.budgets.insert(var, fields.iter().cloned().zip(vars).collect());
        }
        Some(var)
    }

    /// A function operand of a built-in: a function value.
    fn function_operand(&mut self, e: &'p Expr, site: u32) -> Var {
        let Some(closure) = self.closure(e) else { return NOWHERE };
        let params: Vec<Var> = closure.params.iter().map(|_| self.fresh()).collect();
        let outer = std::mem::replace(&mut self.env, Rc::clone(&closure.env));
        for (local, var) in closure.params.iter().zip(&params) {
            self.set(*local, Value::Var(*var));
        }
        self.calls.push(site);
        let leave = self.deeper();
        let region = self.region(params, |l| Some(l.operand(closure.body)));
        self.leave = leave;
        self.calls.pop();
        self.env = outer;
        self.emit(Op::Lambda(region))
    }

    fn closure(&self, e: &'p Expr) -> Option<Rc<Closure<'p>>> {
        match &e.kind {
            ExprKind::Lambda(params, body) => Some(Rc::new(Closure { params, body, env: Rc::clone(&self.env) })),
            ExprKind::Local(local) => match self.env.get(local) {
                Some(Value::Function(f)) => Some(Rc::clone(f)),
                _ => None,
            },
            _ => None,
        }
    }

    /// Call of a function-typed parameter: its function is written out.
    fn apply(&mut self, e: &'p Expr, local: crate::hir::Local, args: &'p [Expr]) -> Option<Var> {
        let vars: Vec<Var> = args.iter().map(|a| self.operand(a)).collect();
        let Some(Value::Function(f)) = self.env.get(&local).cloned() else { return Some(NOWHERE) };
        let outer = std::mem::replace(&mut self.env, Rc::clone(&f.env));
        for (param, var) in f.params.iter().zip(vars) {
            self.set(*param, Value::Var(var));
        }
        self.calls.push(e.id);
        let value = self.value(f.body);
        self.calls.pop();
        self.env = outer;
        value
    }

    /// `and`, `or`: the second operand only if it matters.
    fn short_circuit(&mut self, a: &'p Expr, b: &'p Expr, and: bool) -> Option<Var> {
        let condition = self.operand(a);
        let second = self.region(Vec::new(), |l| Some(l.operand(b)));
        let known = self.region(Vec::new(), |l| Some(l.constant(Const::Bool(!and))));
        let (then, otherwise) = if and { (second, known) } else { (known, second) };
        if self.closed() {
            return None;
        }
        Some(self.emit(Op::If(condition, then, otherwise)))
    }

    fn verifier(&mut self, kind: VerifierKind, operands: &'p [Expr]) -> Var {
        let vars: Vec<Var> = operands.iter().map(|o| self.operand(o)).collect();
        let op = match (kind, vars.as_slice()) {
            (VerifierKind::Exact, [a]) => VerifierOp::Exact(*a),
            (VerifierKind::Numeric, [a, b]) => VerifierOp::Numeric(*a, *b),
            (VerifierKind::Regex, [a]) => VerifierOp::Regex(*a),
            (VerifierKind::Both, _) => VerifierOp::All(vars),
            (VerifierKind::Lines, _) => VerifierOp::Lines(vars),
            _ => VerifierOp::Command(vars),
        };
        self.emit(Op::Verifier(op))
    }

    /// Statements and a value. `tail`: its value is the value of the function.
    pub(super) fn block(&mut self, stmts: &'p [Stmt], value: Option<&'p Expr>, tail: bool) -> Option<Var> {
        let env = Rc::clone(&self.env);
        let mut result = None;
        for (i, stmt) in stmts.iter().enumerate() {
            match stmt {
                Stmt::Let(pattern, e) => self.bind_let(pattern, e),
                Stmt::Expr(e) if tail && value.is_none() && i + 1 == stmts.len() => result = self.tail(e),
                Stmt::Expr(e) => {
                    self.value(e);
                }
            }
        }
        if let Some(v) = value {
            result = if tail { self.tail(v) } else { self.value(v) };
        }
        self.env = env;
        result
    }

    pub(super) fn bind_let(&mut self, pattern: &'p Pattern, e: &'p Expr) {
        let var = self.operand(e);
        self.destructure(pattern, var);
    }

    /// Takes a value apart by fields: the patterns of `let` always match.
    fn destructure(&mut self, pattern: &'p Pattern, var: Var) {
        match pattern {
            Pattern::Bind(local) => self.set(*local, Value::Var(var)),
            Pattern::Tuple(items) => {
                for (i, item) in items.iter().enumerate() {
                    if !matches!(item, Pattern::Any) {
                        let field = u32::try_from(i).unwrap_or(u32::MAX);
                        let part = self.prim(Prim::TupleField(field), vec![var]);
                        self.destructure(item, part);
                    }
                }
            }
            Pattern::Any | Pattern::Const(_) => {}
        }
    }

    /// Call of a function of the program: written out in place.
    fn call(&mut self, e: &'p Expr, index: usize, args: &'p [Option<Expr>]) -> Option<Var> {
        let function: &'p Function = &self.program.functions[index];
        match function.kind {
            FunctionKind::Tool => {
                let what = format!("the tool `{}`", function.name);
                self.refuse(codes::E0903, e.span, &what, "use a host verifier: `command(\"program arg\")`");
                return Some(NOWHERE);
            }
            FunctionKind::Precompute => {
                let what = format!("the precompute `{}`", function.name);
                self.refuse(codes::E0903, e.span, &what, "compute it in the strategy: make it a `fn`");
                return Some(NOWHERE);
            }
            _ => {}
        }
        if self.test.is_some() && function.kind == FunctionKind::Strategy {
            return self.test_call(e, index, args);
        }
        let mut env = std::collections::BTreeMap::new();
        for (param, arg) in function.params.iter().zip(args) {
            let value = match arg {
                Some(a) if matches!(param.ty, Ty::Fn(..)) => match self.closure(a) {
                    Some(f) => Value::Function(f),
                    None => continue,
                },
                Some(a) => Value::Var(self.operand(a)),
                None => Value::Var(self.constant(param.default.clone().unwrap_or(Const::None))),
            };
            env.insert(param.local, value);
        }
        let body = function.body.as_ref()?;
        if self.closed() {
            return None;
        }
        let outer = std::mem::replace(&mut self.env, Rc::new(env));
        self.calls.push(e.id);
        let result = self.inlined(function, body);
        self.calls.pop();
        self.env = outer;
        result
    }

    /// The body of a called function, under the guard that it declares.
    fn inlined(&mut self, function: &'p Function, body: &'p Expr) -> Option<Var> {
        if function.kind != FunctionKind::Strategy || function.within == Limits::default() {
            return self.returning(body);
        }
        let limits = limit_constants(&function.within);
        let limits = limits.into_iter().map(|(n, c)| (n.to_owned(), self.constant(c))).collect();
        let region = self.region(Vec::new(), |l| l.returning(body));
        Some(self.emit(Op::Within(limits, None, region, None)))
    }

    /// A body whose `return` gives its value here.
    fn returning(&mut self, body: &'p Expr) -> Option<Var> {
        let outer = self.leave;
        if only_tail_returns(body) {
            // A tail `return` is just a value, so what it would leave does not matter.
            let value = self.tail(body);
            self.leave = outer;
            return value;
        }
        // One round of a loop: `return` becomes `break`.
        let (lo, hi) = (self.constant(Const::Int(0)), self.constant(Const::Int(1)));
        let once = self.prim(Prim::Range, vec![lo, hi]);
        let nothing = self.constant(Const::None);
        let params = vec![self.fresh(), self.fresh()];
        self.leave = Leave::Call { depth: 0 };
        let region: Region = self.region(params, |l| Some(l.operand(body)));
        self.leave = outer;
        Some(self.emit(Op::For(once, ir_strategy::Pat::Any, Some(nothing), region, 1)))
    }

    /// Inside a loop or function of its own, from where a called function cannot be left yet.
    pub(super) fn deeper(&mut self) -> Leave {
        let outer = self.leave;
        if let Leave::Call { depth } = outer {
            self.leave = Leave::Call { depth: depth + 1 };
        }
        outer
    }

    /// An expression whose value is the value of the function being written.
    pub(super) fn tail(&mut self, e: &'p Expr) -> Option<Var> {
        match &e.kind {
            ExprKind::Return(Some(value)) => self.tail(value),
            ExprKind::Return(None) => None,
            ExprKind::Block(stmts, value) => self.block(stmts, value.as_deref(), true),
            ExprKind::If(..) | ExprKind::Match(..) | ExprKind::Route(_) => {
                if self.closed() {
                    return None;
                }
                self.control(e, true)
            }
            _ => self.value(e),
        }
    }
}

enum Piece {
    Text(String),
    Hole,
}

/// The position of an item in a list of used items, appended on first use.
fn number_of(used: &mut Vec<usize>, item: usize) -> u32 {
    let position = used.iter().position(|u| *u == item).unwrap_or_else(|| {
        used.push(item);
        used.len() - 1
    });
    u32::try_from(position).unwrap_or(u32::MAX)
}

/// Declared limits as constants.
fn limit_constants(limits: &Limits) -> Vec<(&'static str, Const)> {
    let mut all = Vec::new();
    all.extend(limits.tokens.map(|n| ("tokens", Const::Tokens(n))));
    all.extend(limits.calls.map(|n| ("calls", Const::Int(i64::try_from(n).unwrap_or(i64::MAX)))));
    all.extend(limits.kv.map(|n| ("kv", Const::Bytes(n))));
    all.extend(limits.time.map(|t| ("time", Const::Time(t))));
    all.extend(limits.usd.map(|d| ("usd", Const::Usd(d))));
    all
}

/// Every `return` of a body stands where its value is the body's value anyway.
fn only_tail_returns(e: &Expr) -> bool {
    match &e.kind {
        ExprKind::Return(None) => true,
        ExprKind::Return(Some(v)) => !super::control::returns(v),
        ExprKind::Block(stmts, value) => {
            let last = stmts.len().saturating_sub(1);
            stmts.iter().enumerate().all(|(i, s)| match s {
                Stmt::Expr(e) if value.is_none() && i == last => only_tail_returns(e),
                Stmt::Let(_, e) | Stmt::Expr(e) => !super::control::returns(e),
            }) && value.as_ref().is_none_or(|v| only_tail_returns(v))
        }
        ExprKind::If(c, then, otherwise) => {
            !super::control::returns(c)
                && only_tail_returns(then)
                && otherwise.as_ref().is_none_or(|o| only_tail_returns(o))
        }
        ExprKind::Match(subject, arms) => {
            !super::control::returns(subject) && arms.iter().all(|(_, a)| only_tail_returns(a))
        }
        ExprKind::Route(r) => {
            !super::control::returns(&r.choice)
                && r.arms.iter().all(|(_, a)| only_tail_returns(a))
                && only_tail_returns(&r.otherwise)
        }
        _ => !super::control::returns(e),
    }
}
