//! The walk that proves bounds: evaluates a body on what is known ([`super::value`]) and adds up its cost.
//!
//! Functions are followed at every call, lambdas where they are applied. For each site and loop the maxima are kept by
//! the calls that lead there ([`Facts`]), for `lower` to write them into the program. The walk is capped in steps and
//! depth, so doubling programs end at once with a message.

use super::cost::{Cost, Term};
use super::value::{self, Budget, Closure, Env, Number, POSITION, Value};
use super::{of_param, unbounded};
use crate::codes;
use crate::hir::{
    Const, Expr, ExprKind, For, Function, FunctionKind, Local, Part, Pattern, Prim, Program, Stmt, Ty, VerifierKind,
    WithinBudget,
};
use ir::diagnostic::{Diagnostic, Span};
use ir::strategy::{MOST_CHECKS, too_many_checks};
use std::collections::BTreeMap;
use std::rc::Rc;

/// Steps of one walk.
pub(crate) const MAX_STEPS: u32 = 40_000;
const MAX_DEPTH: u32 = 280;
/// Rounds of a loop that are followed one by one while its carried value still grows.
const MAX_ROUNDS: u64 = 256;
/// Items of a list that a run may hold.
pub(crate) const MAX_ITEMS: u64 = 1_000_000;

/// What the walk found out about a site or loop.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Fact {
    /// Rounds of a loop.
    pub(crate) rounds: u64,
    /// Live sequences of a site.
    pub(crate) live: u64,
    /// New tokens per sequence of a site.
    pub(crate) max: u64,
}

/// A smaller program than the one written, to find out what would fit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Forced {
    /// The upper end of a parameter's range.
    Param(usize, i128),
    /// The rounds of a loop, by the number of its expression.
    Rounds(u32, u64),
}

/// Facts by the calls that lead to an expression, and its number.
pub(crate) type Facts = BTreeMap<(Vec<u32>, u32), Fact>;

/// The walk.
pub(crate) struct Walk<'p> {
    program: &'p Program,
    pub(crate) cost: Cost,
    pub(crate) facts: Facts,
    pub(crate) messages: Vec<Diagnostic>,
    pub(super) env: Env<'p>,
    calls: Vec<u32>,
    breaks: Vec<Value<'p>>,
    returns: Vec<Value<'p>>,
    /// Tokens of the innermost budget, and what is spent of it for certain bookkeeping.
    limit: Option<u64>,
    pub(super) spent: u64,
    pub(crate) steps: u32,
    most: u32,
    forced: Option<Forced>,
    depth: u32,
    pub(super) next_loop: u32,
    pub(crate) stopped: bool,
}

impl<'p> Walk<'p> {
    /// Walks a function as an entry: its parameters are at the ends of their ranges, one of them possibly forced.
    /// It takes at most `most` steps.
    pub(crate) fn function(program: &'p Program, index: usize, forced: Option<Forced>, most: u32) -> Self {
        let function = &program.functions[index];
        let mut env = BTreeMap::new();
        for (i, param) in function.params.iter().enumerate() {
            env.insert(param.local, of_param(function, i, forced));
        }
        let mut walk = Self::start(program, env, function.within.tokens);
        walk.most = most;
        walk.forced = forced;
        if let Some(body) = &function.body {
            let value = walk.eval(body);
            let value = value::join(value, walk.returns.pop().unwrap_or(Value::Nothing));
            walk.demand_length(&value, &function.result, function.name_span);
        }
        walk
    }

    fn start(program: &'p Program, env: BTreeMap<Local, Value<'p>>, limit: Option<u64>) -> Self {
        Self {
            program,
            cost: Cost::default(),
            facts: Facts::new(),
            messages: Vec::new(),
            env: Rc::new(env),
            calls: Vec::new(),
            breaks: Vec::new(),
            returns: vec![Value::Nothing],
            limit,
            spent: 0,
            steps: 0,
            most: MAX_STEPS,
            forced: None,
            depth: 0,
            next_loop: 0,
            stopped: false,
        }
    }

    /// Walks the statements of a test, for the maxima of its loops.
    pub(crate) fn test(program: &'p Program, test: &'p crate::hir::Test) -> Self {
        let mut walk = Self::start(program, BTreeMap::new(), None);
        for step in &test.steps {
            match step {
                crate::hir::TestStep::Stmt(Stmt::Let(pattern, e)) => {
                    let value = walk.eval(e);
                    walk.bind(pattern, &value);
                }
                crate::hir::TestStep::Stmt(Stmt::Expr(e)) | crate::hir::TestStep::Assert(e, _) => {
                    walk.eval(e);
                }
            }
        }
        walk
    }

    pub(super) fn report(&mut self, d: Diagnostic) {
        if self.messages.len() < 50 && !self.messages.iter().any(|m| m.span == d.span && m.code == d.code) {
            self.messages.push(d);
        }
    }

    /// Adds to the cost of the current sequence.
    pub(super) fn spend(&mut self, cost: Cost) {
        self.spent = self.spent.saturating_add(cost.tokens());
        self.cost.then(cost);
    }

    /// Runs `f` on a cost of its own.
    pub(super) fn apart<R>(&mut self, f: impl FnOnce(&mut Self) -> R) -> (R, Cost) {
        let (outer, spent) = (std::mem::take(&mut self.cost), self.spent);
        let result = f(self);
        let cost = std::mem::replace(&mut self.cost, outer);
        self.spent = spent;
        (result, cost)
    }

    pub(super) fn fact(&mut self, e: &Expr, fact: Fact) {
        let known = self.facts.entry((self.calls.clone(), e.id)).or_default();
        known.rounds = known.rounds.max(fact.rounds);
        known.live = known.live.max(fact.live);
        known.max = known.max.max(fact.max);
    }

    fn source(&self, span: Span) -> String {
        let text = self.program.sources.get(span.file as usize).map_or("", |s| s.text.as_str());
        let text = text.get(span.start as usize..span.end as usize).unwrap_or("");
        let short: String = text.split_whitespace().collect::<Vec<_>>().join(" ").chars().take(32).collect();
        if short.len() < text.trim().len() && short.chars().count() == 32 { format!("{short}…") } else { short }
    }

    pub(crate) fn eval(&mut self, e: &'p Expr) -> Value<'p> {
        self.steps += 1;
        if self.stopped || self.steps > self.most || self.depth > MAX_DEPTH {
            if !self.stopped {
                self.stopped = true;
                let (what, limit) = if self.depth > MAX_DEPTH { ("deep", MAX_DEPTH) } else { ("large", self.most) };
                let message = format!("program too {what}: more than {limit} steps when written out in full");
                self.report(
                    Diagnostic::error(codes::E0305, e.span, message, "the cap is reached here")
                        .help("use loops instead of functions that call others many times over"),
                );
            }
            return Value::Nothing;
        }
        self.depth += 1;
        let value = self.eval_kind(e);
        self.depth -= 1;
        match value {
            Value::Any => Value::of_type(&e.ty),
            known => known,
        }
    }

    fn eval_kind(&mut self, e: &'p Expr) -> Value<'p> {
        match &e.kind {
            ExprKind::Const(value) => Value::of_const(value),
            ExprKind::Template(parts) => self.parts(parts),
            ExprKind::Prompt(messages) => {
                messages.iter().for_each(|(_, parts)| {
                    self.parts(parts);
                });
                Value::Any
            }
            ExprKind::Local(local) => self.env.get(local).cloned().unwrap_or_else(|| Value::of_type(&e.ty)),
            ExprKind::Tunable(i) => {
                let item = &self.program.tunables[*i].item;
                match item.ty {
                    Ty::Int | Ty::Tokens | Ty::Bytes => {
                        Value::Number(Number::between(Some(item.range.0 as i128), Some(item.range.1 as i128)))
                    }
                    _ => Value::Any,
                }
            }
            ExprKind::ConstItem(i) => self.eval(&self.program.consts[*i]),
            ExprKind::Prim(prim, operands) => self.prim(e, prim, operands),
            ExprKind::Call(index, args) => self.call(e, *index, args),
            ExprKind::Apply(local, args) => {
                let values: Vec<Value<'p>> = args.iter().map(|a| self.eval(a)).collect();
                match self.env.get(local).cloned() {
                    Some(Value::Function(f)) => self.apply(&f, values, e.id),
                    _ => Value::Any,
                }
            }
            ExprKind::Lambda(params, body) => {
                Value::Function(Rc::new(Closure { params, body, env: Rc::clone(&self.env) }))
            }
            ExprKind::Generate(g) => self.generate(e, g),
            ExprKind::Block(stmts, value) => self.block(stmts, value.as_deref()),
            ExprKind::If(c, then, otherwise) => {
                self.eval(c);
                let (a, first) = self.branch(then);
                let (b, second) = otherwise.as_ref().map_or((Value::Any, Cost::default()), |o| self.branch(o));
                self.spend(first.or(second));
                if otherwise.is_some() { value::join(a, b) } else { Value::Any }
            }
            ExprKind::Coalesce(a, b) => {
                let a = self.eval(a);
                let (b, cost) = self.branch(b);
                self.spend(cost);
                value::join(a, b)
            }
            ExprKind::And(a, b) | ExprKind::Or(a, b) => {
                self.eval(a);
                self.eval(b);
                Value::Any
            }
            ExprKind::Within(budget, body, otherwise) => self.within(budget, body, otherwise.as_deref()),
            ExprKind::For(f) => self.for_loop(e, f),
            ExprKind::Par(pattern, iter, body) => self.par(e, pattern, iter, body),
            _ => self.eval_rest(e),
        }
    }

    /// A verifier: as many checks as its parts have. A part that nothing is known of counts as one; runs count again.
    fn checks(&mut self, e: &Expr, operands: &[Value<'_>]) -> Value<'p> {
        let of = |v: &Value<'_>| if let Value::Checks(n) = v { *n } else { 1 };
        let checks = match e.kind {
            ExprKind::Verifier(VerifierKind::Both, _) => operands.iter().map(of).sum(),
            _ => 1,
        };
        if checks > MOST_CHECKS {
            let (message, remedy) = too_many_checks(checks);
            self.report(
                Diagnostic::error(codes::E0305, e.span, message, "counted with those of the verifiers inside")
                    .help(remedy),
            );
        }
        Value::Checks(checks.min(MOST_CHECKS))
    }

    fn eval_rest(&mut self, e: &'p Expr) -> Value<'p> {
        match &e.kind {
            ExprKind::Score(a, b, _) => self.asks(&[&**a, &**b]),
            ExprKind::LogProb(a, b, c) | ExprKind::Choose(a, b, c) => self.asks(&[&**a, &**b, &**c]),
            ExprKind::Expect(a, b, _, _) => self.asks(&[&**a, &**b]),
            ExprKind::Verifier(_, operands) => {
                let operands: Vec<_> = operands.iter().map(|o| self.eval(o)).collect();
                self.checks(e, &operands)
            }
            ExprKind::Match(subject, arms) => {
                let subject = self.eval(subject);
                let mut value = Value::Nothing;
                let mut cost = Cost::default();
                for (pattern, body) in arms {
                    let env = Rc::clone(&self.env);
                    self.bind(pattern, &subject);
                    let (v, c) = self.branch(body);
                    self.env = env;
                    value = value::join(value, v);
                    cost = cost.or(c);
                }
                self.spend(cost);
                value
            }
            ExprKind::Route(route) => {
                self.eval(&route.choice);
                if let Some(min) = &route.min {
                    self.eval(min);
                }
                let (mut value, mut cost) = self.branch(&route.otherwise);
                for (_, arm) in &route.arms {
                    let (v, c) = self.branch(arm);
                    value = value::join(value, v);
                    cost = cost.or(c);
                }
                self.spend(cost);
                value
            }
            ExprKind::ParRecord(entries) => {
                let mut all = Cost::default();
                for (_, entry) in entries {
                    let (_, cost) = self.branch(entry);
                    all.beside(cost);
                }
                self.spend(all);
                Value::Any
            }
            ExprKind::Race(branches) => {
                let mut all = Cost::default();
                let mut value = Value::Nothing;
                for branch in branches {
                    let (v, cost) = self.branch(branch);
                    value = value::join(value, v);
                    all.beside(cost);
                }
                self.spend(all);
                value
            }
            ExprKind::Remaining => Value::Budget(Budget { tokens: self.limit, calls: None, share: false, index: None }),
            ExprKind::Return(v) => {
                let value = v.as_ref().map_or(Value::Any, |v| self.eval(v));
                if let Some(last) = self.returns.last_mut() {
                    *last = value::join(last.clone(), value);
                }
                Value::Nothing
            }
            ExprKind::Break(v) => {
                let value = v.as_ref().map_or(Value::Nothing, |v| self.eval(v));
                if let Some(last) = self.breaks.last_mut() {
                    *last = value::join(last.clone(), value);
                }
                Value::Nothing
            }
            ExprKind::Fail(v) => {
                if let Some(v) = v {
                    self.eval(v);
                }
                Value::Nothing
            }
            ExprKind::Later(name, operands) => self.later(e, name, operands),
            _ => Value::Any,
        }
    }

    fn parts(&mut self, parts: &'p [Part]) -> Value<'p> {
        for part in parts {
            if let Part::Hole(e) = part {
                self.eval(e);
            }
        }
        Value::Any
    }

    /// A piece that may or may not run: its names end with it, its cost is the caller's to add.
    fn branch(&mut self, e: &'p Expr) -> (Value<'p>, Cost) {
        let env = Rc::clone(&self.env);
        let result = self.apart(|w| w.eval(e));
        self.env = env;
        result
    }

    /// A question to a model: one call.
    fn asks(&mut self, operands: &[&'p Expr]) -> Value<'p> {
        for o in operands {
            self.eval(o);
        }
        self.spend(Cost::calls(1));
        Value::Any
    }

    fn block(&mut self, stmts: &'p [Stmt], value: Option<&'p Expr>) -> Value<'p> {
        let env = Rc::clone(&self.env);
        for stmt in stmts {
            match stmt {
                Stmt::Let(pattern, e) => {
                    let value = self.eval(e);
                    self.demand_length(&value, &e.ty, e.span);
                    self.bind(pattern, &value);
                }
                Stmt::Expr(e) => {
                    self.eval(e);
                }
            }
        }
        let result = value.map_or(Value::Any, |v| self.eval(v));
        self.env = env;
        result
    }

    fn bind(&mut self, pattern: &Pattern, value: &Value<'p>) {
        match pattern {
            Pattern::Bind(local) => {
                Rc::make_mut(&mut self.env).insert(*local, value.clone());
            }
            Pattern::Tuple(patterns) => {
                for (i, p) in patterns.iter().enumerate() {
                    let part = match value {
                        Value::Tuple(items) => items.get(i).cloned().unwrap_or(Value::Any),
                        Value::Nothing => Value::Nothing,
                        _ => Value::Any,
                    };
                    self.bind(p, &part);
                }
            }
            Pattern::Any | Pattern::Const(_) => {}
        }
    }

    pub(super) fn set(&mut self, local: Local, value: Value<'p>) {
        Rc::make_mut(&mut self.env).insert(local, value);
    }

    /// A list must not be longer than its declared type says.
    fn demand_length(&mut self, value: &Value<'p>, ty: &Ty, span: Span) {
        let (Value::List(length, _), Ty::List(_, Some(most))) = (value, ty) else { return };
        if length.is_none_or(|n| n > *most) {
            let label = match length {
                Some(n) => format!("may have {n} items, {most} are allowed"),
                None => format!("may have any number of items, {most} are allowed"),
            };
            self.report(
                Diagnostic::error(codes::E0302, span, "a list may be longer than its type says", label)
                    .help(format!("declare a longer list, or take fewer: `top(xs, k: {most}, by: …)`")),
            );
        }
    }

    fn apply(&mut self, f: &Rc<Closure<'p>>, args: Vec<Value<'p>>, site: u32) -> Value<'p> {
        let outer = std::mem::replace(&mut self.env, Rc::clone(&f.env));
        for (local, value) in f.params.iter().zip(args) {
            self.set(*local, value);
        }
        self.calls.push(site);
        let value = self.eval(f.body);
        self.calls.pop();
        self.env = outer;
        value
    }

    fn call(&mut self, e: &'p Expr, index: usize, args: &'p [Option<Expr>]) -> Value<'p> {
        let function: &'p Function = &self.program.functions[index];
        let mut env = BTreeMap::new();
        for (param, arg) in function.params.iter().zip(args) {
            let value = match arg {
                Some(a) => {
                    let value = self.eval(a);
                    self.demand_length(&value, &param.ty, a.span);
                    value
                }
                None => Value::of_const(param.default.as_ref().unwrap_or(&Const::None)),
            };
            env.insert(param.local, value);
        }
        let Some(body) = &function.body else { return Value::Any };
        if function.kind == FunctionKind::Precompute {
            // Its cost is paid when it is computed, not when it is used.
            return Value::Any;
        }
        let outer = std::mem::replace(&mut self.env, Rc::new(env));
        let loops = std::mem::take(&mut self.breaks);
        self.returns.push(Value::Nothing);
        self.calls.push(e.id);
        let (limit, spent) = (self.limit, self.spent);
        if function.within.tokens.is_some() {
            (self.limit, self.spent) = (function.within.tokens, 0);
        }
        let (value, cost) = self.apart(|w| w.eval(body));
        (self.limit, self.spent) = (limit, spent);
        self.calls.pop();
        self.env = outer;
        self.breaks = loops;
        let value = value::join(value, self.returns.pop().unwrap_or(Value::Nothing));
        self.demand_length(&value, &function.result, e.span);
        self.spend(cost.capped(function.within.tokens, function.within.calls));
        value
    }

    fn within(&mut self, budget: &'p WithinBudget, body: &'p Expr, otherwise: Option<&'p Expr>) -> Value<'p> {
        let budget = match budget {
            WithinBudget::Limits(entries) => {
                let mut known = Budget::default();
                for (name, limit) in entries {
                    let value = self.eval(limit);
                    match name.as_str() {
                        "tokens" => known.tokens = value.upper(),
                        "calls" => known.calls = value.upper(),
                        _ => {}
                    }
                }
                known
            }
            WithinBudget::Value(v) => match self.eval(v) {
                Value::Budget(known) => known,
                _ => Budget::default(),
            },
        };
        let (limit, spent) = (self.limit, self.spent);
        if budget.tokens.is_some() {
            (self.limit, self.spent) = (budget.tokens, 0);
        }
        let (a, cost) = self.branch(body);
        (self.limit, self.spent) = (limit, spent);
        let mut cost = cost.capped(budget.tokens, budget.calls);
        if let (true, Some(id)) = (budget.share, budget.index) {
            // Every round has another share, so all rounds together have the pool.
            let pool = budget.tokens.unwrap_or(0);
            if cost.tokens() > 0 {
                cost.bounds.tokens = 0;
                cost.pooled = vec![(id, pool)];
                cost.terms = vec![Term::new(vec!["pool of the split budget".to_owned()], pool)];
            }
        }
        self.spend(cost);
        match otherwise {
            Some(o) => {
                let (b, cost) = self.branch(o);
                self.spend(cost);
                value::join(a, b)
            }
            None => a,
        }
    }

    /// The rounds of a loop over a list, or a message.
    fn rounds(&mut self, length: Option<u64>, iter: &Expr) -> u64 {
        match length {
            Some(n) if n <= MAX_ITEMS => n,
            Some(n) => {
                let message = format!("{} items are more than any plan can hold", super::cost::spaced(n));
                self.report(
                    Diagnostic::error(codes::E0304, iter.span, message, "too many")
                        .help(format!("at most {} are possible", super::cost::spaced(MAX_ITEMS))),
                );
                1
            }
            None => {
                self.report(unbounded(
                    iter.span,
                    "this list",
                    "walk a list whose type has a length, or a part of it: `top(xs, k: 8, by: …)`",
                ));
                1
            }
        }
    }

    fn par(&mut self, e: &'p Expr, pattern: &'p Pattern, iter: &'p Expr, body: &'p Expr) -> Value<'p> {
        let (length, item) = self.eval(iter).list();
        let rounds = self.rounds(length, iter);
        self.fact(e, Fact { rounds, ..Fact::default() });
        self.next_loop += 1;
        let id = self.next_loop;
        let env = Rc::clone(&self.env);
        self.bind(pattern, &item.in_loop(id));
        let breaks = std::mem::take(&mut self.breaks);
        let (value, cost) = self.branch(body);
        self.breaks = breaks;
        self.env = env;
        let what = format!("par {}", self.source(iter.span));
        self.spend(cost.parallel(rounds, id, &what));
        Value::List(Some(rounds), Box::new(value))
    }

    fn for_loop(&mut self, e: &'p Expr, f: &'p For) -> Value<'p> {
        let (length, item) = self.eval(&f.iter).list();
        let mut rounds = self.rounds(length, &f.iter);
        if let Some(Forced::Rounds(id, most)) = self.forced
            && id == e.id
        {
            rounds = rounds.min(most);
        }
        self.fact(e, Fact { rounds, ..Fact::default() });
        self.next_loop += 1;
        let id = self.next_loop;
        let item = item.in_loop(id);
        let first = f.carry.as_ref().map(|(local, init)| (*local, self.eval(init)));
        let mut carried = first.as_ref().map_or(Value::Any, |(_, v)| v.clone());
        let local = first.map(|(local, _)| local);
        let mut round = 0u64;
        let (cost, broken) = loop {
            round += 1;
            let env = Rc::clone(&self.env);
            self.bind(&f.pattern, &item);
            if let Some(local) = local {
                self.set(local, carried.clone());
            }
            self.breaks.push(Value::Nothing);
            let (value, cost) = self.branch(&f.body);
            let broken = self.breaks.pop().unwrap_or(Value::Nothing);
            self.env = env;
            let grown = value::join(carried.clone(), value);
            if local.is_none() || self.stopped || value::covers(&carried, &grown) {
                break (cost, broken);
            }
            let last = round >= rounds;
            carried = if round >= MAX_ROUNDS { value::widen(&carried, grown) } else { grown };
            if last {
                break (cost, broken);
            }
        };
        let what = format!("for {}", self.source(f.iter.span));
        self.spend(cost.repeated(rounds, id, &what));
        if local.is_some() { value::join(carried, broken) } else { Value::Any }
    }

    fn prim(&mut self, e: &'p Expr, prim: &'p Prim, operands: &'p [Expr]) -> Value<'p> {
        let mut values: Vec<Value<'p>> = operands.iter().map(|o| self.eval(o)).collect();
        let mut take = |i: usize| values.get_mut(i).map_or(Value::Any, |v| std::mem::replace(v, Value::Any));
        match prim {
            Prim::Add | Prim::Sub | Prim::Mul | Prim::Div => match (take(0), take(1)) {
                (Value::Number(a), Value::Number(b)) => Value::Number(value::arithmetic(prim, a, b)),
                (Value::List(n, a), Value::List(m, b)) => {
                    Value::List(n.zip(m).and_then(|(n, m)| n.checked_add(m)), Box::new(value::join(*a, *b)))
                }
                (Value::Nothing, v) | (v, Value::Nothing) if matches!(prim, Prim::Add) => v,
                _ => Value::Any,
            },
            Prim::Neg => match take(0) {
                Value::Number(n) => Value::Number(Number::between(n.hi.map(|x| -x), n.lo.map(|x| -x))),
                _ => Value::Any,
            },
            Prim::List => {
                let length = u64::try_from(values.len()).ok();
                Value::List(length, Box::new(values.into_iter().fold(Value::Nothing, value::join)))
            }
            Prim::Tuple => Value::Tuple(values),
            Prim::Range | Prim::RangeInclusive => {
                let value = range(prim, &take(0), &take(1));
                if let Value::List(Some(n), _) = &value
                    && *n > MAX_ITEMS
                {
                    self.rounds(Some(*n), e);
                }
                value
            }
            Prim::Record(name, fields) if name == "Budget" => {
                let mut budget = Budget::default();
                for (field, value) in fields.iter().zip(&values) {
                    match field.as_str() {
                        "tokens" => budget.tokens = value.upper(),
                        "calls" => budget.calls = value.upper(),
                        _ => {}
                    }
                }
                Value::Budget(budget)
            }
            Prim::Field(name) => field(name, take(0)),
            Prim::Index => {
                let index = take(1);
                match (take(0).list().1, index) {
                    (Value::Budget(b), Value::Number(i)) if b.share => {
                        Value::Budget(Budget { index: i.index.filter(|i| *i != POSITION), ..b })
                    }
                    (item, _) => item,
                }
            }
            Prim::First => take(0).list().1,
            Prim::Enumerate => {
                let (length, item) = take(0).list();
                let hi = length.map(|n| i128::from(n) - 1);
                let index = Value::Number(Number { lo: Some(0), hi, index: Some(POSITION) });
                Value::List(length, Box::new(Value::Tuple(vec![index, item])))
            }
            Prim::Call(name) => call(name, take(0), take(1)),
            Prim::VoteTop => take(0),
            _ => self.higher(e, prim, values),
        }
    }

    /// Operations that apply functions to the items of a list.
    fn higher(&mut self, e: &'p Expr, prim: &Prim, values: Vec<Value<'p>>) -> Value<'p> {
        let mut values = values.into_iter();
        let (length, item) = values.next().map_or((None, Value::Any), Value::list);
        let mut result = Value::Any;
        let mut count = None;
        for value in values {
            match value {
                Value::Function(f) => {
                    let args = vec![item.clone(); f.params.len()];
                    let (v, cost) = self.apart(|w| w.apply(&f, args, e.id));
                    result = v;
                    if !cost.is_free() {
                        self.next_loop += 1;
                        let n = self.rounds(length, e);
                        let times = if matches!(prim, Prim::SemanticEntropy) { n.saturating_mul(n) } else { n };
                        let what = format!("items of {}", self.source(e.span));
                        let id = self.next_loop;
                        self.spend(cost.repeated(times, id, &what));
                    }
                }
                other => count = other.upper(),
            }
        }
        match prim {
            Prim::Best => item,
            Prim::Filter => Value::List(length, Box::new(item)),
            Prim::Map => Value::List(length, Box::new(result)),
            Prim::Top | Prim::Prune => {
                let length = match (length, count) {
                    (Some(a), Some(b)) => Some(a.min(b)),
                    (a, b) => a.or(b),
                };
                Value::List(length, Box::new(item))
            }
            Prim::Vote => Value::List(length, Box::new(item)),
            _ => Value::Any,
        }
    }
}

fn range<'p>(prim: &Prim, a: &Value<'p>, b: &Value<'p>) -> Value<'p> {
    let (Value::Number(a), Value::Number(b)) = (a, b) else { return Value::Any };
    let extra = i128::from(matches!(prim, Prim::RangeInclusive));
    let length = b.hi.zip(a.lo).map(|(hi, lo)| (hi - lo + extra).max(0));
    let length = length.map(|n| u64::try_from(n).unwrap_or(u64::MAX));
    let item = Number { lo: a.lo, hi: b.hi.map(|h| h - 1 + extra), index: Some(POSITION) };
    Value::List(length, Box::new(Value::Number(item)))
}

fn field<'p>(name: &str, base: Value<'p>) -> Value<'p> {
    match (name, base) {
        ("len", Value::List(n, _)) => Value::Number(Number::between(Some(0), n.map(i128::from))),
        ("tokens", Value::Budget(b)) => Value::Number(Number::between(Some(0), b.tokens.map(i128::from))),
        ("calls", Value::Budget(b)) => Value::Number(Number::between(Some(0), b.calls.map(i128::from))),
        // A vote remembers what was voted on.
        ("members", Value::List(n, item)) => Value::List(n, item),
        _ => Value::Any,
    }
}

fn call<'p>(name: &str, a: Value<'p>, b: Value<'p>) -> Value<'p> {
    match (name, a, b) {
        ("min", Value::Number(a), Value::Number(b)) => {
            let hi = match (a.hi, b.hi) {
                (Some(a), Some(b)) => Some(a.min(b)),
                (a, b) => a.or(b),
            };
            Value::Number(Number::between(a.lo.zip(b.lo).map(|(a, b)| a.min(b)), hi))
        }
        // One bounded side is enough for the smaller of both.
        ("min", Value::Number(n), _) | ("min", _, Value::Number(n)) => Value::Number(Number::between(None, n.hi)),
        ("max", Value::Number(a), Value::Number(b)) => {
            Value::Number(Number::between(a.lo.zip(b.lo).map(|(a, b)| a.max(b)), a.hi.zip(b.hi).map(|(a, b)| a.max(b))))
        }
        ("softmax", Value::List(n, item), _) => Value::List(n, item),
        _ => Value::Any,
    }
}
