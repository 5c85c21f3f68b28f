//! Control flow: regions of `if match route for par within`, and the ways out of them.

use super::{Leave, Lower, NOWHERE, Value};
use crate::codes;
use crate::hir::{Expr, ExprKind, For, Local, Part, Pattern, Stmt, Ty, WithinBudget};
use ir::strategy::{Op, Pat, Region, Var};

impl<'p> Lower<'p> {
    /// `tail`: the value is the value of the function being written.
    pub(super) fn control(&mut self, e: &'p Expr, tail: bool) -> Option<Var> {
        let op = match &e.kind {
            ExprKind::If(condition, then, otherwise) => {
                let condition = self.operand(condition);
                let then = self.arm(then, &e.ty, tail);
                let otherwise = match otherwise {
                    Some(o) => self.arm(o, &e.ty, tail),
                    None => self.region(Vec::new(), |_| None),
                };
                Op::If(condition, then, otherwise)
            }
            ExprKind::Match(subject, arms) => {
                let subject = self.operand(subject);
                let arms = arms
                    .iter()
                    .map(|(pattern, value)| {
                        let env = std::rc::Rc::clone(&self.env);
                        let pattern = self.pattern(pattern);
                        let region = self.arm(value, &e.ty, tail);
                        self.env = env;
                        (pattern, region)
                    })
                    .collect();
                Op::Match(subject, arms)
            }
            ExprKind::Route(route) => {
                let choice = self.operand(&route.choice);
                let min = route.min.as_ref().map(|m| self.operand(m));
                let arms = route.arms.iter().map(|(label, v)| (label.clone(), self.arm(v, &e.ty, tail))).collect();
                let otherwise = self.arm(&route.otherwise, &e.ty, tail);
                Op::Route(choice, min, arms, otherwise)
            }
            ExprKind::Coalesce(a, b) => {
                let a = self.operand(a);
                let otherwise = self.region(Vec::new(), |l| l.value(b));
                Op::Coalesce(a, otherwise)
            }
            ExprKind::For(f) => self.for_loop(e, f),
            ExprKind::Par(pattern, iter, body) => {
                let iter = self.operand(iter);
                let rounds = self.fact(e).rounds;
                let env = std::rc::Rc::clone(&self.env);
                let (pattern, item) = self.item(pattern);
                let leave = self.deeper();
                let region = self.region(vec![item], |l| Some(l.operand(body)));
                self.leave = leave;
                self.env = env;
                Op::Par(iter, pattern, region, rounds)
            }
            ExprKind::ParRecord(entries) => {
                let leave = self.deeper();
                let entries = entries
                    .iter()
                    .map(|(name, v)| (name.clone(), self.region(Vec::new(), |l| Some(l.operand(v)))))
                    .collect();
                self.leave = leave;
                Op::ParRecord(entries)
            }
            ExprKind::Within(budget, body, otherwise) => self.within(budget, body, otherwise.as_deref(), &e.ty),
            ExprKind::Race(_) => {
                self.refuse(codes::E0902, e.span, "`race`", "run one of the branches, or all of them with `par`");
                return Some(NOWHERE);
            }
            _ => return self.jump(e),
        };
        if self.closed() {
            return None;
        }
        let var = self.emit(op);
        if e.ty == Ty::Never {
            // Every way through it leaves: nothing after it is written.
            if let Some(region) = self.regions.last_mut() {
                region.closed = true;
            }
        }
        Some(var)
    }

    fn jump(&mut self, e: &'p Expr) -> Option<Var> {
        match &e.kind {
            ExprKind::Return(v) => {
                let value = v.as_ref().map(|v| self.operand(v));
                match self.leave {
                    Leave::Strategy => self.emit(Op::Return(value)),
                    Leave::Call { depth: 0 } => self.emit(Op::Break(value)),
                    Leave::Call { .. } => {
                        self.refuse(
                            codes::E0904,
                            e.span,
                            "`return` out of a loop or parallel block of a called function",
                            "use `break` with a carried value: `for x in xs carry r = none { … break x … }`",
                        );
                        NOWHERE
                    }
                };
            }
            ExprKind::Break(v) => {
                let value = v.as_ref().map(|v| self.operand(v));
                self.emit(Op::Break(value));
            }
            ExprKind::Fail(v) => {
                let value = v.as_ref().map(|v| self.operand(v));
                self.emit(Op::Fail(value));
            }
            _ => return Some(NOWHERE),
        }
        None
    }

    /// The region of a branch; without a value where none is wanted.
    fn arm(&mut self, e: &'p Expr, ty: &Ty, tail: bool) -> Region {
        let wanted = *ty != Ty::Unit;
        self.region(Vec::new(), |l| {
            let value = if tail { l.tail(e) } else { l.value(e) };
            match value {
                Some(v) if wanted => Some(v),
                None if wanted && !l.closed() => Some(l.constant(crate::hir::Const::Unit)),
                _ => None,
            }
        })
    }

    fn for_loop(&mut self, e: &'p Expr, f: &'p For) -> Op {
        let iter = self.operand(&f.iter);
        let first = f.carry.as_ref().map(|(local, init)| (*local, self.operand(init)));
        let rounds = self.fact(e).rounds;
        let env = std::rc::Rc::clone(&self.env);
        let (pattern, item) = self.item(&f.pattern);
        let mut params = vec![item];
        if let Some((local, _)) = first {
            let var = self.fresh();
            self.set(local, Value::Var(var));
            params.push(var);
        }
        let leave = self.deeper();
        let region = self.region(params, |l| match first {
            Some(_) => Some(l.operand(&f.body)),
            None => {
                l.value(&f.body);
                None
            }
        });
        self.leave = leave;
        self.env = env;
        Op::For(iter, pattern, first.map(|(_, v)| v), region, rounds)
    }

    /// The pattern of a loop and the parameter that takes the item.
    fn item(&mut self, pattern: &'p Pattern) -> (Pat, Var) {
        let item = self.fresh();
        match pattern {
            Pattern::Bind(local) => {
                self.set(*local, Value::Var(item));
                (Pat::Any, item)
            }
            other => (self.pattern(other), item),
        }
    }

    fn pattern(&mut self, pattern: &'p Pattern) -> Pat {
        match pattern {
            Pattern::Any => Pat::Any,
            Pattern::Bind(local) => {
                let var = self.fresh();
                self.set(*local, Value::Var(var));
                Pat::Bind(var)
            }
            Pattern::Const(value) => Pat::Const(value.clone()),
            Pattern::Tuple(items) => Pat::Tuple(items.iter().map(|p| self.pattern(p)).collect()),
        }
    }

    fn within(&mut self, budget: &'p WithinBudget, body: &'p Expr, otherwise: Option<&'p Expr>, ty: &Ty) -> Op {
        let (limits, value) = match budget {
            WithinBudget::Limits(entries) => {
                (entries.iter().map(|(name, v)| (name.clone(), self.operand(v))).collect(), None)
            }
            WithinBudget::Value(v) => {
                let var = self.operand(v);
                match self.budgets.get(&var) {
                    Some(parts) => (parts.clone(), None),
                    None => (Vec::new(), Some(var)),
                }
            }
        };
        let body = self.arm(body, ty, false);
        let otherwise = otherwise.map(|o| self.arm(o, ty, false));
        Op::Within(limits, value, body, otherwise)
    }

    /// Binds a rule's variable.
    pub(super) fn rule_var(&mut self, local: Local) -> Var {
        let var = self.fresh();
        self.set(local, Value::Var(var));
        var
    }
}

/// A `return` stands somewhere inside.
pub(super) fn returns(e: &Expr) -> bool {
    let any = |items: &[Expr]| items.iter().any(returns);
    match &e.kind {
        ExprKind::Return(_) => true,
        ExprKind::Template(parts) => parts.iter().any(|p| matches!(p, Part::Hole(e) if returns(e))),
        ExprKind::Prim(_, items) | ExprKind::Apply(_, items) | ExprKind::Verifier(_, items) => any(items),
        ExprKind::Race(items) => any(items),
        ExprKind::And(a, b) | ExprKind::Or(a, b) | ExprKind::Coalesce(a, b) | ExprKind::Score(a, b, _) => {
            returns(a) || returns(b)
        }
        ExprKind::Expect(a, b, _, _) => returns(a) || returns(b),
        ExprKind::LogProb(a, b, c) | ExprKind::Choose(a, b, c) => returns(a) || returns(b) || returns(c),
        ExprKind::Call(_, args) => args.iter().flatten().any(returns),
        ExprKind::Generate(g) => returns(&g.model) || returns(&g.input) || g.settings.iter().any(|(_, e)| returns(e)),
        ExprKind::Dist(_, _, a) => returns(a),
        ExprKind::Block(stmts, value) => {
            stmts.iter().any(|s| match s {
                Stmt::Let(_, e) | Stmt::Expr(e) => returns(e),
            }) || value.as_ref().is_some_and(|v| returns(v))
        }
        ExprKind::If(c, a, b) => returns(c) || returns(a) || b.as_ref().is_some_and(|b| returns(b)),
        ExprKind::Match(s, arms) => returns(s) || arms.iter().any(|(_, e)| returns(e)),
        ExprKind::Route(r) => returns(&r.choice) || returns(&r.otherwise) || r.arms.iter().any(|(_, e)| returns(e)),
        ExprKind::For(f) => returns(&f.iter) || returns(&f.body) || f.carry.as_ref().is_some_and(|(_, e)| returns(e)),
        ExprKind::Par(_, iter, body) => returns(iter) || returns(body),
        ExprKind::ParRecord(entries) => entries.iter().any(|(_, e)| returns(e)),
        ExprKind::Within(_, a, b) => returns(a) || b.as_ref().is_some_and(|b| returns(b)),
        ExprKind::Break(v) | ExprKind::Fail(v) => v.as_ref().is_some_and(|v| returns(v)),
        _ => false,
    }
}
