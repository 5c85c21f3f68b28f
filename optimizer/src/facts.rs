//! What the planner needs to know of a strategy: its sites in order of execution, how often each is expected to run, on
//! which model, over which context, with what the parameters' defaults (or the given values) say.
//!
//! An abstract walk over the region skeleton; unknown numbers become their static bounds. It prices nothing.

use ir::strategy::{Action, Const, Generate, Level, Op, Prim, Region, Rule, Strategy, Var, VerifierOp};
use std::collections::BTreeMap;

/// A site as the planner sees it.
#[derive(Clone, Debug, PartialEq)]
pub struct Site {
    /// Number.
    pub id: u32,
    /// What it does.
    pub kind: Kind,
    /// Index of the role, if it runs on one.
    pub role: Option<u32>,
    /// Expected executions per run.
    pub times: f64,
    /// Context it starts from: equal numbers mean the same tokens.
    pub context: u32,
    /// The context extends a sequence that this site generated.
    pub extends: Option<u32>,
}

/// What a site does.
#[derive(Clone, Debug, PartialEq)]
pub enum Kind {
    /// `gen`, `sample`.
    Generate {
        /// Sequences asked for.
        n: u32,
        /// Sequences alive at most.
        live: f64,
        /// New tokens per sequence at most.
        max: f64,
        /// A set rule may stop it early.
        stops: bool,
        /// A token rule may branch.
        branches: bool,
    },
    /// Built-in verifiers, as written.
    Verify(Vec<Check>),
    /// `choose` over this many labels.
    Choose(f64),
    /// `expect`.
    Expect,
    /// `logprob`.
    LogProb,
}

/// A built-in verifier.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Check {
    /// A pattern.
    Regex,
    /// Equal text.
    Exact,
    /// Equal number.
    Numeric,
    /// A host program.
    Command,
}

/// The value of a variable, as far as it matters.
#[derive(Clone, Debug)]
enum Known {
    Number(f64),
    Role(u32),
    Context(u32, Option<u32>),
    Sample(u32),
    List(Box<Known>, f64),
    Lambda(Region),
    Checks(Vec<Check>),
    Other,
}

/// The facts of a strategy.
#[derive(Clone, Debug, Default)]
pub struct Facts {
    /// Sites in order of execution.
    pub sites: Vec<Site>,
}

/// Walks a strategy. `given` overrides parameters and tunables by name.
#[must_use]
pub fn of(strategy: &Strategy, given: &BTreeMap<String, f64>) -> Facts {
    let mut walk = Walk { strategy, given, env: BTreeMap::new(), facts: Facts::default(), contexts: 0 };
    for (param, var) in strategy.params.iter().zip(&strategy.body.params) {
        let default = param.default.as_ref().and_then(number);
        let value = given.get(&param.name).copied().or(default).or(param.range.map(|r| r.1));
        walk.env.insert(*var, value.map_or(Known::Other, Known::Number));
    }
    walk.region(&strategy.body, 1.0);
    walk.facts
}

#[allow(clippy::cast_precision_loss, reason = "parameters of strategies are small")]
fn number(c: &Const) -> Option<f64> {
    match c {
        Const::Int(i) => Some(*i as f64),
        Const::Float(x) | Const::Time(x) | Const::Usd(x) => Some(*x),
        Const::Tokens(t) | Const::Bytes(t) => Some(*t as f64),
        Const::Unit | Const::Bool(_) | Const::Text(_) | Const::None | Const::Label(_) => None,
    }
}

struct Walk<'a> {
    strategy: &'a Strategy,
    given: &'a BTreeMap<String, f64>,
    env: BTreeMap<Var, Known>,
    facts: Facts,
    contexts: u32,
}

/// Expected share of a loop's rounds that run: loops usually leave early.
const ROUNDS: f64 = 0.5;

impl Walk<'_> {
    fn get(&self, var: Var) -> Known {
        self.env.get(&var).cloned().unwrap_or(Known::Other)
    }

    fn number(&self, var: Var) -> Option<f64> {
        match self.get(var) {
            Known::Number(x) => Some(x),
            _ => None,
        }
    }

    fn fresh(&mut self) -> u32 {
        self.contexts += 1;
        self.contexts
    }

    fn region(&mut self, region: &Region, times: f64) -> Known {
        for bind in &region.binds {
            let known = self.op(&bind.op, bind.var, times);
            self.env.insert(bind.var, known);
        }
        region.result.map_or(Known::Other, |v| self.get(v))
    }

    fn op(&mut self, op: &Op, var: Var, times: f64) -> Known {
        match op {
            Op::Const(c) => number(c).map_or(Known::Other, Known::Number),
            Op::Tunable(i) => {
                let tunable = &self.strategy.tunables[*i as usize];
                let given = self.given.get(&tunable.name).copied();
                given.or_else(|| number(&tunable.value)).map_or(Known::Other, Known::Number)
            }
            Op::Model(i) => Known::Role(*i),
            Op::Prompt(_) => Known::Context(self.fresh(), None),
            Op::Lambda(region) => Known::Lambda(region.clone()),
            Op::Verifier(v) => self.verifier(v),
            Op::Prim(prim, args) => self.prim(prim, args, times),
            Op::Generate(g) => self.generate(g, times),
            Op::Score(site, v, sample, _) => {
                let (checks, role) = match self.get(*v) {
                    Known::Checks(checks) => (checks, None),
                    Known::Role(r) => (vec![Check::Command], Some(r)),
                    _ => (vec![Check::Command], None),
                };
                let extends = if let Known::Sample(s) = self.get(*sample) { Some(s) } else { None };
                let site = Site { id: *site, kind: Kind::Verify(checks), role, times, context: 0, extends };
                self.facts.sites.push(site);
                Known::Other
            }
            Op::Choose(site, m, c, labels) => {
                let count = if let Known::List(_, n) = self.get(*labels) { n } else { 4.0 };
                self.scored(*site, Kind::Choose(count), *m, *c, times)
            }
            Op::Expect(site, m, c, ..) => self.scored(*site, Kind::Expect, *m, *c, times),
            Op::LogProb(site, m, c, _) => self.scored(*site, Kind::LogProb, *m, *c, times),
            Op::If(_, a, b) => {
                let known = self.region(a, times * 0.5);
                self.region(b, times * 0.5);
                known
            }
            Op::Match(_, arms) => self.arms(arms.iter().map(|(_, r)| r), arms.len(), times),
            Op::Route(_, _, arms, otherwise) => {
                let regions = arms.iter().map(|(_, r)| r).chain(std::iter::once(otherwise));
                self.arms(regions, arms.len() + 1, times)
            }
            Op::Coalesce(value, otherwise) => {
                let known = self.get(*value);
                self.region(otherwise, times * 0.5);
                known
            }
            Op::For(list, _, carry, body, most) => {
                if let (Some(first), Some(param)) = (carry, body.params.last()) {
                    let known = self.get(*first);
                    self.env.insert(*param, known);
                }
                let rounds = self.length(*list, *most);
                self.region(body, times * (1.0 + (rounds - 1.0).max(0.0) * ROUNDS))
            }
            Op::Par(list, _, body, most) => {
                let rounds = self.length(*list, *most);
                if let (Known::List(item, _), Some(param)) = (self.get(*list), body.params.first()) {
                    self.env.insert(*param, *item);
                }
                Known::List(Box::new(self.region(body, times * rounds)), rounds)
            }
            Op::ParRecord(fields) => {
                for (_, region) in fields {
                    self.region(region, times);
                }
                Known::Other
            }
            Op::Within(_, _, body, otherwise) => {
                let known = self.region(body, times);
                if let Some(region) = otherwise {
                    self.region(region, times * 0.1);
                }
                known
            }
            Op::Dist(..) | Op::Remaining | Op::Spent | Op::Return(_) | Op::Break(_) | Op::Fail(_) => {
                self.env.get(&var).cloned().unwrap_or(Known::Other)
            }
        }
    }

    fn arms<'r>(&mut self, regions: impl Iterator<Item = &'r Region>, count: usize, times: f64) -> Known {
        #[allow(clippy::cast_precision_loss, reason = "a handful of arms")]
        let share = times / count.max(1) as f64;
        let mut known = Known::Other;
        for region in regions {
            known = self.region(region, share);
        }
        known
    }

    #[allow(clippy::cast_precision_loss, reason = "loop bounds are small")]
    fn length(&self, list: Var, most: u64) -> f64 {
        if let Known::List(_, n) = self.get(list) { n.min(most as f64) } else { most as f64 }
    }

    fn verifier(&self, v: &VerifierOp) -> Known {
        Known::Checks(match v {
            VerifierOp::Exact(_) => vec![Check::Exact],
            VerifierOp::Numeric(..) => vec![Check::Numeric],
            VerifierOp::Regex(_) => vec![Check::Regex],
            VerifierOp::Command(_) => vec![Check::Command],
            VerifierOp::All(parts) => parts
                .iter()
                .flat_map(|p| match self.get(*p) {
                    Known::Checks(checks) => checks,
                    _ => vec![Check::Command],
                })
                .collect(),
        })
    }

    #[allow(clippy::cast_precision_loss, reason = "lists of strategies are short")]
    fn prim(&mut self, prim: &Prim, args: &[Var], times: f64) -> Known {
        let item = |known: &Known| match known {
            Known::List(item, _) => (**item).clone(),
            _ => Known::Other,
        };
        let lists: Vec<Known> = args.iter().map(|v| self.get(*v)).collect();
        match prim {
            Prim::List => {
                let first = lists.first().cloned().unwrap_or(Known::Other);
                Known::List(Box::new(first), args.len() as f64)
            }
            Prim::Range | Prim::RangeInclusive => match (self.number(args[0]), self.number(args[1])) {
                (Some(a), Some(b)) => {
                    let len = b - a + f64::from(u8::from(*prim == Prim::RangeInclusive));
                    Known::List(Box::new(Known::Other), len.max(0.0))
                }
                _ => Known::Other,
            },
            Prim::Add => match (&lists[0], &lists[1]) {
                (Known::List(a, n), Known::List(_, m)) => Known::List(a.clone(), n + m),
                (Known::Number(a), Known::Number(b)) => Known::Number(a + b),
                _ => Known::Other,
            },
            Prim::Sub | Prim::Mul | Prim::Div => match (&lists[0], &lists[1]) {
                (Known::Number(a), Known::Number(b)) => Known::Number(match prim {
                    Prim::Sub => a - b,
                    Prim::Mul => a * b,
                    _ => a / b,
                }),
                _ => Known::Other,
            },
            Prim::CtxAdd => {
                let extends = if let Known::Sample(s) = lists[1] { Some(s) } else { None };
                Known::Context(self.fresh(), extends)
            }
            Prim::Index | Prim::First => item(&lists[0]),
            Prim::Best | Prim::Top | Prim::Prune | Prim::Vote | Prim::Agree | Prim::SemanticEntropy | Prim::All
            | Prim::Any | Prim::Map | Prim::Filter => {
                let len = if let Known::List(_, n) = &lists[0] { *n } else { 1.0 };
                let calls = if matches!(prim, Prim::SemanticEntropy) { len * (len - 1.0) / 2.0 } else { len };
                let mut mapped = Known::Other;
                for known in &lists[1..] {
                    if let Known::Lambda(region) = known {
                        for param in &region.params {
                            self.env.insert(*param, item(&lists[0]));
                        }
                        mapped = self.region(region, times * calls.max(0.0));
                    }
                }
                match prim {
                    Prim::Best => item(&lists[0]),
                    Prim::Top | Prim::Prune | Prim::Filter => lists[0].clone(),
                    Prim::Map => Known::List(Box::new(mapped), len),
                    _ => Known::Other,
                }
            }
            _ => Known::Other,
        }
    }

    fn role(&self, model: Var) -> Option<u32> {
        match self.get(model) {
            Known::Role(r) => Some(r),
            Known::List(item, _) => if let Known::Role(r) = *item { Some(r) } else { None },
            // A loop over models: its variable is not tracked; the first generator stands for all.
            _ => self
                .strategy
                .roles
                .iter()
                .position(|r| r.kind == ir::strategy::RoleKind::Generator)
                .and_then(|i| u32::try_from(i).ok()),
        }
    }

    fn context(&mut self, ctx: Var) -> (u32, Option<u32>) {
        match self.get(ctx) {
            Known::Context(id, extends) => (id, extends),
            _ => {
                let id = self.fresh();
                self.env.insert(ctx, Known::Context(id, None));
                (id, None)
            }
        }
    }

    fn scored(&mut self, id: u32, kind: Kind, model: Var, ctx: Var, times: f64) -> Known {
        let (context, extends) = self.context(ctx);
        let site = Site { id, kind, role: self.role(model), times, context, extends };
        self.facts.sites.push(site);
        Known::Other
    }

    #[allow(
        clippy::cast_precision_loss,
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "counts of sequences and tokens are bounded by the checker"
    )]
    fn generate(&mut self, g: &Generate, times: f64) -> Known {
        let (context, extends) = self.context(g.ctx);
        let n = g.n.map_or(1.0, |n| self.number(n).unwrap_or(g.live_max as f64)).clamp(1.0, 65_536.0);
        let max = self.number(g.max).unwrap_or(g.max_bound as f64);
        let does = |level: Level, f: fn(&Action) -> bool| {
            g.rules.iter().any(|r: &Rule| r.level == level && r.actions.iter().any(f))
        };
        let branches = does(Level::Token, |a| matches!(a, Action::Branch(_)));
        let live = if branches { g.live_max as f64 } else { n.min(g.live_max as f64).max(1.0) };
        let kind = Kind::Generate {
            n: n as u32,
            live,
            max,
            stops: does(Level::Set, |a| matches!(a, Action::Stop)),
            branches,
        };
        let site = Site { id: g.site, kind, role: self.role(g.model), times, context, extends };
        self.facts.sites.push(site);
        let sample = Known::Sample(g.site);
        if g.n.is_some() { Known::List(Box::new(sample), live) } else { sample }
    }
}
