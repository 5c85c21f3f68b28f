//! Token rules as kernels: the condition (and temperature) of every token rule of a strategy, in Kernel IR.
//!
//! Takes a checked strategy, returns kernels and the table that says what each reads. A rule whose condition uses more
//! than numbers, comparisons and logic is left out: the runtime then evaluates the region itself, with the same result.

use ir::kernel::{Addr, Base, Bin, Cmp, Kernel, Op as K, Param, ParamKind, Reg, ScalarMem, Stmt, Ty, Un};
use ir::rule::{Capture, TokenRule};
use ir::strategy::{Action, Const, DistField, Generate, Level, Op, Prim, Region, Rule, Strategy, Var, Window};
use std::collections::BTreeMap;

/// Every compilable token rule of a strategy, with its kernel.
#[must_use]
pub fn lower(strategy: &Strategy) -> Vec<(TokenRule, Kernel)> {
    let mut out = Vec::new();
    each_site(&strategy.body, &mut |g| {
        for (i, rule) in g.rules.iter().enumerate().filter(|(_, r)| r.level == Level::Token) {
            if let Some(pair) = RuleBuilder::default().rule(g.site, i, rule) {
                out.push(pair);
            }
        }
    });
    out
}

/// Calls `f` for every generation of a region, nested ones included, in order.
fn each_site(region: &Region, f: &mut impl FnMut(&Generate)) {
    for bind in &region.binds {
        match &bind.op {
            Op::Generate(g) => f(g),
            Op::If(_, a, b) => {
                each_site(a, f);
                each_site(b, f);
            }
            Op::Match(_, arms) => arms.iter().for_each(|(_, r)| each_site(r, f)),
            Op::Route(_, _, arms, otherwise) => {
                arms.iter().for_each(|(_, r)| each_site(r, f));
                each_site(otherwise, f);
            }
            Op::Coalesce(_, r) | Op::Lambda(r) | Op::For(_, _, _, r, _) | Op::Par(_, _, r, _) => each_site(r, f),
            Op::ParRecord(fields) => fields.iter().for_each(|(_, r)| each_site(r, f)),
            Op::Within(_, _, body, otherwise) => {
                each_site(body, f);
                if let Some(r) = otherwise {
                    each_site(r, f);
                }
            }
            _ => {}
        }
    }
}

const STATS: u32 = 0;
const CAPTURES: u32 = 1;
const OUT: u32 = 2;

/// Builds one kernel; every value is an `F32` register, truth values are 0 and 1.
#[derive(Default)]
struct RuleBuilder {
    regs: Vec<Ty>,
    body: Vec<Stmt>,
    vars: BTreeMap<Var, Reg>,
    stats: Vec<(DistField, Window)>,
    captures: Vec<Capture>,
}

impl RuleBuilder {
    fn rule(mut self, site: u32, index: usize, rule: &Rule) -> Option<(TokenRule, Kernel)> {
        let fired = match &rule.when {
            Some(region) => self.region(region)?,
            None => self.float(1.0),
        };
        self.store(fired, 0);
        for action in &rule.actions {
            if let Action::Temperature(region) = action {
                let t = self.region(region)?;
                self.store(t, 4);
            }
        }
        let index = u32::try_from(index).ok()?;
        let kernel = format!("rule.s{site}.r{index}");
        let buffer = |name: &str, kind| Param { name: name.to_owned(), kind };
        let rule = TokenRule { site, rule: index, stats: self.stats, captures: self.captures, kernel: kernel.clone() };
        let kernel = Kernel {
            name: kernel,
            params: vec![
                buffer("stats", ParamKind::Read),
                buffer("captures", ParamKind::Read),
                buffer("out", ParamKind::Write),
            ],
            locals: Vec::new(),
            regs: self.regs,
            body: self.body,
        };
        Some((rule, kernel))
    }

    /// The value of a pure region, or `None` when it does something a kernel cannot.
    fn region(&mut self, region: &Region) -> Option<Reg> {
        for bind in &region.binds {
            let reg = self.op(&bind.op)?;
            if let Some(reg) = reg {
                self.vars.insert(bind.var, reg);
            }
        }
        self.var(region.result?)
    }

    /// The register of an operation; `Some(None)` for one that yields no number of its own.
    fn op(&mut self, op: &Op) -> Option<Option<Reg>> {
        Some(Some(match op {
            Op::Const(Const::Bool(b)) => self.float(f64::from(u8::from(*b))),
            #[allow(clippy::cast_precision_loss, reason = "conditions are evaluated in f32 by definition")]
            Op::Const(Const::Int(i)) => self.float(*i as f64),
            Op::Const(Const::Float(x)) => self.float(*x),
            Op::Const(Const::Unit) => return Some(None),
            Op::Tunable(i) => self.capture(Capture::Tunable(*i)),
            Op::Dist(field, window, _) => self.stat(*field, *window),
            Op::If(cond, a, b) => {
                let cond = self.var(*cond)?;
                let (a, b) = (self.region(a)?, self.region(b)?);
                let zero = self.float(0.0);
                self.select(Cmp::Eq, cond, zero, b, a)
            }
            Op::Prim(prim, args) => {
                let regs = args.iter().map(|v| self.var(*v)).collect::<Option<Vec<_>>>()?;
                self.prim(prim, &regs)?
            }
            _ => return None,
        }))
    }

    fn prim(&mut self, prim: &Prim, args: &[Reg]) -> Option<Reg> {
        let one = |b: &mut Self| b.float(1.0);
        let zero = |b: &mut Self| b.float(0.0);
        let compare = |b: &mut Self, cmp, x, y| {
            let (t, f) = (one(b), zero(b));
            b.select(cmp, x, y, t, f)
        };
        Some(match (prim, args) {
            (Prim::Add, &[x, y]) => self.emit(K::Bin(Bin::Add, x, y)),
            (Prim::Sub, &[x, y]) => self.emit(K::Bin(Bin::Sub, x, y)),
            (Prim::Mul, &[x, y]) => self.emit(K::Bin(Bin::Mul, x, y)),
            (Prim::Div, &[x, y]) => self.emit(K::Bin(Bin::Div, x, y)),
            (Prim::Neg, &[x]) => {
                let z = zero(self);
                self.emit(K::Bin(Bin::Sub, z, x))
            }
            (Prim::Not, &[x]) => {
                let z = zero(self);
                compare(self, Cmp::Eq, x, z)
            }
            (Prim::Lt, &[x, y]) => compare(self, Cmp::Lt, x, y),
            (Prim::Le, &[x, y]) => compare(self, Cmp::Le, x, y),
            (Prim::Gt, &[x, y]) => compare(self, Cmp::Lt, y, x),
            (Prim::Ge, &[x, y]) => compare(self, Cmp::Le, y, x),
            (Prim::Eq, &[x, y]) => compare(self, Cmp::Eq, x, y),
            (Prim::Ne, &[x, y]) => {
                let (t, f) = (zero(self), one(self));
                self.select(Cmp::Eq, x, y, t, f)
            }
            (Prim::Call(name), &[x]) if name == "abs" => self.emit(K::Un(Un::Abs, x)),
            (Prim::Call(name), &[x]) if name == "sqrt" => self.emit(K::Un(Un::Sqrt, x)),
            (Prim::Call(name), &[x, y]) if name == "min" => self.emit(K::Bin(Bin::Min, x, y)),
            (Prim::Call(name), &[x, y]) if name == "max" => self.emit(K::Bin(Bin::Max, x, y)),
            _ => return None,
        })
    }

    fn var(&mut self, var: Var) -> Option<Reg> {
        match self.vars.get(&var) {
            Some(reg) => Some(*reg),
            None => Some(self.capture(Capture::Var(var))),
        }
    }

    fn stat(&mut self, field: DistField, window: Window) -> Reg {
        let i = self.stats.iter().position(|s| *s == (field, window)).unwrap_or_else(|| {
            self.stats.push((field, window));
            self.stats.len() - 1
        });
        self.load(STATS, i)
    }

    fn capture(&mut self, capture: Capture) -> Reg {
        let i = self.captures.iter().position(|c| *c == capture).unwrap_or_else(|| {
            self.captures.push(capture);
            self.captures.len() - 1
        });
        let reg = self.load(CAPTURES, i);
        if let Capture::Var(var) = capture {
            self.vars.insert(var, reg);
        }
        reg
    }

    fn load(&mut self, param: u32, index: usize) -> Reg {
        #[allow(clippy::cast_possible_wrap, reason = "a rule reads a handful of numbers")]
        let offset = 4 * index as i64;
        self.emit(K::LoadScalar(ScalarMem::F32, Addr { base: Base::Param(param), index: None, offset }))
    }

    fn store(&mut self, reg: Reg, offset: i64) {
        let addr = Addr { base: Base::Param(OUT), index: None, offset };
        self.body.push(Stmt::StoreScalar(ScalarMem::F32, addr, reg));
    }

    fn select(&mut self, cmp: Cmp, a: Reg, b: Reg, t: Reg, f: Reg) -> Reg {
        self.emit(K::Select(cmp, a, b, t, f))
    }

    fn float(&mut self, x: f64) -> Reg {
        #[allow(clippy::cast_possible_truncation, reason = "conditions are evaluated in f32 by definition")]
        let bits = (x as f32).to_bits();
        self.emit(K::Float(bits))
    }

    fn emit(&mut self, op: K) -> Reg {
        let reg = Reg(u32::try_from(self.regs.len()).expect("a rule has few registers"));
        self.regs.push(Ty::F32);
        self.body.push(Stmt::Let(reg, op));
        reg
    }
}
