//! The abstract walk over a strategy's regions that finds its [`Facts`].
//!
//! Values are known as far as the planner cares: numbers, roles, contexts, samples, lists and their lengths. Unknown
//! numbers become their static bounds, unknown arms are equally likely. Along the way it notes which sites and selections
//! every value comes from.

use super::{Check, Facts, Kind, Node, Site, What};
use ir::strategy::{
    Action, Binding, Const, Generate, Level, MOST_CHECKS, Op, Part, Pat, Region, Rule, Speaker, Strategy, Var,
    VerifierOp,
};
use std::collections::{BTreeMap, BTreeSet};

/// Walks a strategy. `given` overrides parameters and tunables by name.
pub(super) fn facts(strategy: &Strategy, given: &BTreeMap<String, f64>) -> Facts {
    let mut walk = Walk {
        strategy,
        given,
        env: BTreeMap::new(),
        facts: Facts::default(),
        contexts: Vec::new(),
        prompts: Vec::new(),
        from: BTreeMap::new(),
        reads: BTreeSet::new(),
        control: BTreeSet::new(),
        node: None,
        left: None,
        times: 1.0,
        together: 1.0,
        born: BTreeMap::new(),
    };
    for (param, var) in strategy.params.iter().zip(&strategy.body.params) {
        let default = param.default.as_ref().and_then(number);
        let value = given.get(&param.name).copied().or(default).or(param.range.map(|r| r.1));
        walk.env.insert(*var, value.map_or(Known::Other, Known::Number));
    }
    walk.region(&strategy.body, 1.0);
    walk.facts
}

/// The value of a variable, as far as it matters.
#[derive(Clone, Debug)]
pub(super) enum Known {
    Number(f64),
    Role(u32),
    Context(u32, Option<u32>),
    Sample(u32),
    List(Box<Known>, f64),
    Lambda(Region),
    Checks(Vec<Check>),
    Tuple(Vec<Known>),
    Other,
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

/// The messages of a prompt.
type Messages = Vec<(Speaker, Vec<Part>)>;

pub(super) struct Walk<'a> {
    strategy: &'a Strategy,
    given: &'a BTreeMap<String, f64>,
    env: BTreeMap<Var, Known>,
    facts: Facts,
    /// How often each context is made per run.
    contexts: Vec<f64>,
    /// Prompts seen: equal messages over equal variables are one context.
    prompts: Vec<(Messages, u32)>,
    /// Nodes that a variable's value comes from.
    from: BTreeMap<Var, BTreeSet<usize>>,
    /// Nodes that the bind in hand has read so far.
    reads: BTreeSet<usize>,
    /// Nodes that decide whether, or over what, the region in hand runs.
    control: BTreeSet<usize>,
    /// The node that the bind in hand has made.
    node: Option<usize>,
    /// What `break` or `return` carried out of the regions in hand.
    left: Option<(Known, BTreeSet<usize>)>,
    /// How often what is being bound is bound per run.
    pub(super) times: f64,
    /// Elements for which the region in hand runs with its scores taken together.
    pub(super) together: f64,
    /// How often each variable is bound per run.
    born: BTreeMap<Var, f64>,
}

/// Expected share of a loop's rounds that run: loops usually leave early.
const ROUNDS: f64 = 0.5;

impl Walk<'_> {
    /// The value of a variable; the bind in hand depends on it from now on.
    pub(super) fn get(&mut self, var: Var) -> Known {
        if let Some(from) = self.from.get(&var) {
            self.reads.extend(from);
        }
        self.env.get(&var).cloned().unwrap_or(Known::Other)
    }

    fn number(&mut self, var: Var) -> Option<f64> {
        match self.get(var) {
            Known::Number(x) => Some(x),
            _ => None,
        }
    }

    pub(super) fn set(&mut self, var: Var, known: Known) {
        self.from.insert(var, self.reads.clone());
        self.born.insert(var, self.times);
        self.env.insert(var, known);
    }

    pub(super) fn fresh(&mut self, times: f64) -> u32 {
        self.contexts.push(times);
        u32::try_from(self.contexts.len() - 1).expect("contexts are numbered with 32 bits")
    }

    pub(super) fn node(&mut self, what: What) {
        let reads = self.reads.union(&self.control).copied().collect();
        self.facts.nodes.push(Node { what, reads });
        self.node = Some(self.facts.nodes.len() - 1);
    }

    fn push(&mut self, site: Site) {
        self.facts.sites.push(site);
        self.node(What::Site(self.facts.sites.len() - 1));
    }

    pub(super) fn region(&mut self, region: &Region, times: f64) -> Known {
        let mut outer = std::mem::take(&mut self.reads);
        let control = self.control.clone();
        self.control.extend(&outer);
        for bind in &region.binds {
            self.reads.clear();
            let known = self.op(&bind.op, bind.var, times);
            if let Some(node) = self.node.take() {
                self.reads = BTreeSet::from([node]);
            }
            self.times = times;
            self.set(bind.var, known);
        }
        self.reads.clear();
        let known = region.result.map_or(Known::Other, |v| self.get(v));
        outer.append(&mut self.reads);
        self.reads = outer;
        self.control = control;
        known
    }

    /// Binds the variables of a loop's pattern and its first parameter to an item.
    fn item(&mut self, param: Option<&Var>, pattern: &Pat, item: Known) {
        if let Some(param) = param {
            self.set(*param, item.clone());
        }
        self.pattern(pattern, item);
    }

    fn pattern(&mut self, pattern: &Pat, known: Known) {
        match pattern {
            Pat::Bind(var) => self.set(*var, known),
            Pat::Tuple(parts) => {
                let mut items = if let Known::Tuple(items) = known { items } else { Vec::new() }.into_iter();
                for part in parts {
                    self.pattern(part, items.next().unwrap_or(Known::Other));
                }
            }
            Pat::Any | Pat::Const(_) => {}
        }
    }

    /// A prompt; equal messages are one context, made as often as the innermost of the values it quotes.
    fn prompt(&mut self, messages: &Messages) -> Known {
        let mut made = 1.0_f64;
        for part in messages.iter().flat_map(|m| &m.1) {
            if let Part::Var(v) = part {
                self.get(*v);
                made = made.max(self.born.get(v).copied().unwrap_or(1.0));
            }
        }
        if let Some((_, id)) = self.prompts.iter().find(|p| p.0 == *messages) {
            return Known::Context(*id, None);
        }
        let id = self.fresh(made);
        self.prompts.push((messages.clone(), id));
        Known::Context(id, None)
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
            Op::Prompt(messages) => self.prompt(messages),
            Op::Lambda(region) => Known::Lambda(region.clone()),
            Op::Verifier(v) => self.verifier(v),
            Op::Prim(prim, args) => self.prim(prim, args, times),
            Op::Generate(g) => self.generate(g, times),
            Op::Score(site, v, sample, _) => {
                let (checks, role) = match self.get(*v) {
                    Known::Checks(checks) => (checks, None),
                    Known::Role(r) => (vec![self.bound(r)], Some(r)),
                    _ => (vec![Check::Command], None),
                };
                let extends = if let Known::Sample(s) = self.get(*sample) { Some(s) } else { None };
                let (kind, together) = (Kind::Verify(checks), self.together);
                self.push(Site { id: *site, kind, role, times, context: 0, made: 0.0, extends, together });
                Known::Other
            }
            Op::Choose(site, m, c, labels) => {
                let count = if let Known::List(_, n) = self.get(*labels) { n } else { 4.0 };
                self.scored(*site, Kind::Choose(count), *m, *c, times)
            }
            Op::Expect(site, m, c, ..) => self.scored(*site, Kind::Expect, *m, *c, times),
            Op::LogProb(site, m, c, text) => {
                self.get(*text);
                self.scored(*site, Kind::LogProb, *m, *c, times)
            }
            Op::If(cond, a, b) => {
                self.get(*cond);
                self.arms([a, b].into_iter(), 2, times)
            }
            Op::Match(value, arms) => {
                self.get(*value);
                self.arms(arms.iter().map(|(_, r)| r), arms.len(), times)
            }
            Op::Route(choice, threshold, arms, otherwise) => {
                self.get(*choice);
                threshold.map(|t| self.get(t));
                let regions = arms.iter().map(|(_, r)| r).chain(std::iter::once(otherwise));
                self.arms(regions, arms.len() + 1, times)
            }
            Op::Coalesce(value, otherwise) => {
                let known = self.get(*value);
                self.region(otherwise, times * 0.5);
                known
            }
            Op::For(..) | Op::Par(..) | Op::ParRecord(_) => self.rounds(op, times),
            Op::Within(_, _, body, otherwise) => {
                let known = self.region(body, times);
                if let Some(region) = otherwise {
                    self.region(region, times * 0.1);
                }
                known
            }
            Op::Return(Some(value)) | Op::Break(Some(value)) => {
                let known = self.get(*value);
                self.left = Some((known, self.reads.clone()));
                Known::Other
            }
            Op::Dist(..) | Op::Remaining | Op::Spent | Op::Return(None) | Op::Break(None) | Op::Fail(_) => {
                self.env.get(&var).cloned().unwrap_or(Known::Other)
            }
        }
    }

    /// Loops, in order or side by side.
    fn rounds(&mut self, op: &Op, times: f64) -> Known {
        match op {
            Op::For(list, pattern, carry, body, most) => {
                let (item, rounds) = self.list(*list, *most);
                let times = times * (1.0 + (rounds - 1.0).max(0.0) * ROUNDS);
                self.times = times;
                self.item(body.params.first(), pattern, item);
                if let (Some(first), Some(param)) = (carry, body.params.last()) {
                    let known = self.get(*first);
                    self.set(*param, known);
                }
                let before = self.left.take();
                let known = self.region(body, times);
                match std::mem::replace(&mut self.left, before) {
                    Some((left, from)) => {
                        self.reads.extend(from);
                        left
                    }
                    None => known,
                }
            }
            Op::Par(list, pattern, body, most) => {
                let (item, rounds) = self.list(*list, *most);
                self.times = times * rounds;
                self.item(body.params.first(), pattern, item);
                Known::List(Box::new(self.elements(body, times * rounds, rounds)), rounds)
            }
            Op::ParRecord(fields) => {
                // Regions side by side do not depend on each other.
                let before = self.reads.clone();
                let mut after = before.clone();
                for (_, region) in fields {
                    self.reads.clone_from(&before);
                    self.region(region, times);
                    after.append(&mut self.reads);
                }
                self.reads = after;
                Known::Other
            }
            _ => Known::Other,
        }
    }

    /// Arms of which one runs, equally likely.
    fn arms<'r>(&mut self, regions: impl Iterator<Item = &'r Region>, count: usize, times: f64) -> Known {
        #[allow(clippy::cast_precision_loss, reason = "a handful of arms")]
        let share = times / count.max(1) as f64;
        let before = self.reads.clone();
        let mut after = before.clone();
        let mut known = Known::Other;
        for region in regions {
            // An arm does not depend on the others.
            self.reads.clone_from(&before);
            let arm = self.region(region, share);
            after.append(&mut self.reads);
            if matches!(known, Known::Other) {
                known = arm;
            }
        }
        self.reads = after;
        known
    }

    /// The elements of a list and how many there are.
    #[allow(clippy::cast_precision_loss, reason = "loop bounds are small")]
    fn list(&mut self, list: Var, most: u64) -> (Known, f64) {
        match self.get(list) {
            Known::List(item, n) => (*item, n.min(most as f64)),
            _ => (Known::Other, most as f64),
        }
    }

    fn verifier(&mut self, v: &VerifierOp) -> Known {
        Known::Checks(match v {
            VerifierOp::Exact(_) => vec![Check::Exact],
            VerifierOp::Numeric(..) => vec![Check::Numeric],
            VerifierOp::Regex(_) => vec![Check::Regex],
            VerifierOp::Command(_) => vec![Check::Command],
            VerifierOp::Lines(_) => vec![Check::Lines],
            VerifierOp::All(parts) => parts
                .iter()
                .flat_map(|p| match self.get(*p) {
                    Known::Checks(checks) => checks,
                    Known::Role(r) => vec![self.bound(r)],
                    _ => vec![Check::Command],
                })
                .take(MOST_CHECKS as usize)
                .collect(),
        })
    }

    /// The check that a verifier role is bound to; a program when it is not bound yet.
    fn bound(&self, role: u32) -> Check {
        match self.strategy.roles.get(role as usize).and_then(|r| r.binding.as_ref()) {
            Some(Binding::Exact(_)) => Check::Exact,
            Some(Binding::Numeric(..)) => Check::Numeric,
            Some(Binding::Regex(_)) => Check::Regex,
            Some(Binding::Lines(_)) => Check::Lines,
            Some(Binding::Command(_) | Binding::Gguf(_)) | None => Check::Command,
        }
    }

    /// A region that runs for `count` elements of a list, `times` in all.
    pub(super) fn elements(&mut self, region: &Region, times: f64, count: f64) -> Known {
        let together = if region.lone_score().is_some() { count.max(1.0) } else { 1.0 };
        let outside = std::mem::replace(&mut self.together, together);
        let known = self.region(region, times);
        self.together = outside;
        known
    }

    fn role(&mut self, model: Var) -> Option<u32> {
        match self.get(model) {
            Known::Role(r) => Some(r),
            Known::List(item, _) => {
                if let Known::Role(r) = *item {
                    Some(r)
                } else {
                    None
                }
            }
            // A loop over models: its variable is not tracked; the first generator stands for all.
            _ => self
                .strategy
                .roles
                .iter()
                .position(|r| r.kind == ir::strategy::RoleKind::Generator)
                .and_then(|i| u32::try_from(i).ok()),
        }
    }

    fn context(&mut self, ctx: Var, times: f64) -> (u32, Option<u32>) {
        match self.get(ctx) {
            Known::Context(id, extends) => (id, extends),
            _ => {
                let id = self.fresh(times);
                self.env.insert(ctx, Known::Context(id, None));
                (id, None)
            }
        }
    }

    fn scored(&mut self, id: u32, kind: Kind, model: Var, ctx: Var, times: f64) -> Known {
        let (context, extends) = self.context(ctx, times);
        let role = self.role(model);
        let made = self.contexts[context as usize];
        self.push(Site { id, kind, role, times, context, made, extends, together: 1.0 });
        Known::Other
    }

    #[allow(
        clippy::cast_precision_loss,
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "counts of sequences and tokens are bounded by the checker"
    )]
    fn generate(&mut self, g: &Generate, times: f64) -> Known {
        let (context, extends) = self.context(g.ctx, times);
        let n = g.n.map_or(1.0, |n| self.number(n).unwrap_or(g.live_max as f64)).clamp(1.0, 65_536.0);
        let max = self.number(g.max).unwrap_or(g.max_bound as f64);
        let does = |level: Level, f: fn(&Action) -> bool| {
            g.rules.iter().any(|r: &Rule| r.level == level && r.actions.iter().any(f))
        };
        let branches = does(Level::Token, |a| matches!(a, Action::Branch(_)));
        let most = g.live_max.clamp(1, 65_536) as f64;
        let live =
            if branches { g.live.and_then(|v| self.number(v)).unwrap_or(most).clamp(1.0, most) } else { n.min(most) };
        let kind = Kind::Generate {
            n: n.min(most) as u32,
            live,
            max,
            stops: does(Level::Set, |a| matches!(a, Action::Stop)),
            watched: does(Level::Set, |_| true),
            branches,
        };
        let role = self.role(g.model);
        let made = self.contexts[context as usize];
        self.push(Site { id: g.site, kind, role, times, context, made, extends, together: 1.0 });
        let sample = Known::Sample(g.site);
        if g.n.is_some() { Known::List(Box::new(sample), live) } else { sample }
    }
}
