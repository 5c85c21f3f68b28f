//! Regions and operations: the skeleton of a strategy, walked.

use super::guard::{Guard, remaining};
use super::host::RoleState;
use super::meeting::{ArmBody, Seat};
use super::{Event, Failure, Options, RunError, TokenRules, Watch, prims};
use crate::metrics::Metrics;
use crate::value::{Budget, Context, Turn, Usage, Value, Verifier};
use ir::plan::SitePlan;
use ir::strategy::{Bind, Const, MOST_CHECKS, Op, Part, Pat, Prim, Region, Speaker, Var, VerifierOp, too_many_checks};
use std::collections::BTreeMap;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// Why a region did not end with its value.
#[derive(Debug)]
pub(crate) enum Flow {
    /// `return`.
    Return(Value),
    /// `break`.
    Break(Value),
    /// A budget ran out: the number of its guard, and the error if nobody catches it.
    Tripped(usize, &'static str, Box<Failure>),
    /// An error.
    Failed(Box<Failure>),
}

impl From<RunError> for Flow {
    fn from(cause: RunError) -> Self {
        Self::Failed(Box::new(Failure::from(cause)))
    }
}

impl Flow {
    /// Notes the place, if none is known yet.
    pub(super) fn at(mut self, at: (u32, u32)) -> Self {
        if let Self::Failed(failure) | Self::Tripped(_, _, failure) = &mut self
            && failure.at == (0, 0)
        {
            failure.at = at;
        }
        self
    }
}

/// What all parts of a run share.
pub(crate) struct Run<'a> {
    /// Schedules of the sites.
    pub(crate) sites: &'a [SitePlan],
    /// Values of the tunables.
    pub(crate) tunables: &'a [Value],
    /// Roles.
    pub(crate) roles: &'a [RoleState],
    /// Compiled token rules.
    pub(crate) rules: Option<&'a dyn TokenRules>,
    /// Options.
    pub(crate) options: &'a Options,
    /// Seed.
    pub(crate) seed: u64,
    /// Where events go and cancellation comes from.
    pub(crate) watch: Watch<'a>,
    /// Measurements.
    pub(crate) metrics: Mutex<Metrics>,
    /// Functions by the variable they are bound to.
    pub(crate) functions: BTreeMap<Var, &'a Region>,
}

impl<'a> Run<'a> {
    /// The schedule of a site.
    pub(crate) fn site_plan(&self, site: u32) -> Option<&'a SitePlan> {
        self.sites.get(site as usize)
    }

    /// The measurements.
    pub(crate) fn metrics(&self) -> MutexGuard<'_, Metrics> {
        self.metrics.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Collects the functions of a region and of all regions inside it.
pub(crate) fn functions<'a>(binds: &'a [Bind], found: &mut BTreeMap<Var, &'a Region>) {
    for bind in binds {
        if let Op::Lambda(region) = &bind.op {
            found.insert(bind.var, region);
        }
        for region in inner_regions(&bind.op) {
            functions(&region.binds, found);
        }
    }
}

/// Whether a region has a sampling site in it.
fn samples(region: &Region) -> bool {
    let inside = |op: &Op| matches!(op, Op::Generate(_)) || inner_regions(op).into_iter().any(samples);
    region.binds.iter().any(|bind| inside(&bind.op))
}

fn inner_regions(op: &Op) -> Vec<&Region> {
    match op {
        Op::Lambda(region) | Op::Coalesce(_, region) | Op::For(_, _, _, region, _) | Op::Par(_, _, region, _) => {
            vec![region]
        }
        Op::If(_, then, otherwise) => vec![then, otherwise],
        Op::Match(_, arms) => arms.iter().map(|(_, r)| r).collect(),
        Op::Route(_, _, arms, otherwise) => arms.iter().map(|(_, r)| r).chain([otherwise]).collect(),
        Op::ParRecord(parts) => parts.iter().map(|(_, r)| r).collect(),
        Op::Within(_, _, body, otherwise) => std::iter::once(body).chain(otherwise).collect(),
        Op::Generate(generate) => generate.rules.iter().filter_map(|r| r.when.as_ref()).collect(),
        _ => Vec::new(),
    }
}

/// An interpreter: variables, guards around the current place, and the path of rounds that led here.
#[derive(Clone)]
pub(crate) struct Interp<'a> {
    /// What the run shares.
    pub(crate) run: &'a Run<'a>,
    variables: Vec<Option<Value>>,
    guards: Vec<Arc<Guard>>,
    /// Hash of the rounds of the loops around the current place; 0 outside of loops. Draws in different rounds differ.
    pub(super) path: u32,
    /// Its place among arms that decode together.
    pub(super) seat: Option<Seat<'a>>,
}

impl<'a> Interp<'a> {
    /// An interpreter of a strategy with `variables` variables under a guard.
    pub(crate) fn new(run: &'a Run<'a>, variables: u32, guard: Arc<Guard>) -> Self {
        Self { run, variables: vec![None; variables as usize], guards: vec![guard], path: 0, seat: None }
    }

    /// Sets a variable.
    pub(crate) fn set(&mut self, var: Var, value: Value) {
        let at = var.0 as usize;
        if at >= self.variables.len() {
            self.variables.resize(at + 1, None);
        }
        self.variables[at] = Some(value);
    }

    /// The value of a variable, if it has one.
    pub(crate) fn peek(&self, var: Var) -> Option<&Value> {
        self.variables.get(var.0 as usize).and_then(Option::as_ref)
    }

    /// The value of a variable.
    pub(super) fn value(&self, var: Var) -> Result<Value, Flow> {
        let unbound = || RunError::Plan(format!("variable {} is read before it is set", var.0));
        Ok(self.peek(var).cloned().ok_or_else(unbound)?)
    }

    /// The guards around the current place, the outermost first.
    pub(super) fn guards(&self) -> impl Iterator<Item = &Guard> {
        self.guards.iter().map(|g| &**g)
    }

    /// Adds a use to all guards.
    pub(super) fn charge(&self, usage: &Usage) {
        for guard in &self.guards {
            guard.charge(usage);
        }
    }

    /// Takes tokens back that were charged and not used.
    pub(super) fn refund(&self, tokens: u64) {
        for guard in &self.guards {
            guard.refund(tokens);
        }
    }

    /// Asks whether work may be done: the caller has not cancelled and every guard has room, the outermost first.
    pub(super) fn admit(&self, tokens: u64, calls: u64, kv: u64) -> Result<(), Flow> {
        if self.run.watch.cancel.load(Ordering::Relaxed) {
            return Err(Flow::from(RunError::Cancelled));
        }
        for (number, guard) in self.guards.iter().enumerate() {
            guard.admits(tokens, calls, kv).map_err(|trip| {
                let cause = RunError::Budget { limit: trip.limit, spent: trip.spent, most: trip.most };
                Flow::Tripped(number, trip.limit, Box::new(Failure::from(cause)))
            })?;
        }
        Ok(())
    }

    /// Bytes of KV in use by all models. When a guard limits them and they are more, keys that are only kept for reuse
    /// are given back first.
    pub(super) fn kv(&self) -> u64 {
        let Some(most) = remaining(self.guards()).kv else { return 0 };
        let hosts = || self.run.roles.iter().filter_map(|role| role.host().ok());
        let used = |sum: u64, bytes: u64| sum.saturating_add(bytes);
        let kv = hosts().map(|host| host.model().kv_bytes()).fold(0, used);
        if kv <= most {
            return kv;
        }
        hosts().for_each(|mut host| host.forget());
        hosts().map(|host| host.model().kv_bytes()).fold(0, used)
    }

    /// Tells the caller.
    pub(super) fn emit(&self, event: &Event<'_>) {
        (self.run.watch.events)(event);
    }

    /// A role operand.
    pub(super) fn role(&self, var: Var) -> Result<(u32, &'a RoleState), Flow> {
        match self.value(var)? {
            Value::Model(index) => {
                let unknown = || RunError::Plan(format!("there is no role {index}"));
                Ok((index, self.run.roles.get(index as usize).ok_or_else(unknown)?))
            }
            other => Err(Flow::from(RunError::Plan(format!("a model operand is {}", other.kind())))),
        }
    }

    /// A context operand.
    pub(super) fn context(&self, var: Var) -> Result<Arc<Context>, Flow> {
        match self.value(var)? {
            Value::Ctx(context) => Ok(context),
            Value::Text(text) => {
                let turn = Turn { speaker: Speaker::User, text, tokens: None };
                Ok(Arc::new(Context { turns: vec![turn] }))
            }
            other => Err(Flow::from(RunError::Plan(format!("a context operand is {}", other.kind())))),
        }
    }

    /// A finite number operand.
    pub(super) fn number(&self, var: Var, name: &str) -> Result<f64, Flow> {
        let value = self.value(var)?;
        let number = value.number().filter(|x| x.is_finite());
        let wrong =
            || RunError::Operation(format!("`{name}` is {} ({}), no finite number", value.kind(), value.to_text()));
        Ok(number.ok_or_else(wrong)?)
    }

    /// A count operand: not negative, whole.
    pub(super) fn count(&self, var: Var, name: &str) -> Result<u32, Flow> {
        let number = self.number(var, name)?;
        if number < 0.0 || number.fract() != 0.0 {
            let cause = format!("`{name}` is {number}, which is no count");
            return Err(Flow::from(RunError::Operation(cause)));
        }
        Ok(if number > f64::from(u32::MAX) { u32::MAX } else { number as u32 })
    }

    /// Runs a region.
    pub(crate) fn region(&mut self, region: &'a Region) -> Result<Value, Flow> {
        self.binds(&region.binds)?;
        region.result.map_or(Ok(Value::Unit), |var| self.value(var))
    }

    /// Runs binds in order.
    pub(crate) fn binds(&mut self, binds: &'a [Bind]) -> Result<(), Flow> {
        for bind in binds {
            let value = self.operation(bind).map_err(|flow| flow.at(bind.at))?;
            self.set(bind.var, value);
        }
        Ok(())
    }

    /// Runs a strategy's body with its arguments.
    pub(crate) fn start(&mut self, body: &'a Region, args: Vec<Value>) -> Result<Value, Flow> {
        self.call(body, args)
    }

    /// Runs a region with values for its parameters.
    pub(super) fn call(&mut self, region: &'a Region, args: Vec<Value>) -> Result<Value, Flow> {
        for (param, value) in region.params.iter().zip(args) {
            self.set(*param, value);
        }
        self.region(region)
    }

    /// Calls a function value; the `round` keeps draws of different calls apart.
    pub(super) fn apply_function(&mut self, function: &Value, round: usize, args: Vec<Value>) -> Result<Value, Flow> {
        let Value::Function(var) = function else {
            return Err(Flow::from(RunError::Plan(format!("a function operand is {}", function.kind()))));
        };
        let unknown = || RunError::Plan(format!("there is no function {}", var.0));
        let region = *self.run.functions.get(var).ok_or_else(unknown)?;
        self.round(round, |me| me.call(region, args))
    }

    /// The region of a function value.
    pub(super) fn function(&self, function: &Value) -> Option<&'a Region> {
        let Value::Function(var) = function else { return None };
        self.run.functions.get(var).copied()
    }

    /// Runs a part as round `round` of a repetition.
    fn round<T>(&mut self, round: usize, part: impl FnOnce(&mut Self) -> Result<T, Flow>) -> Result<T, Flow> {
        let outside = self.path;
        self.path = round_path(outside, round);
        let result = part(self);
        self.path = outside;
        result
    }

    fn operation(&mut self, bind: &'a Bind) -> Result<Value, Flow> {
        match &bind.op {
            Op::Const(constant) => Ok(Value::from_const(constant)),
            Op::Tunable(i) => {
                let unknown = || RunError::Plan(format!("there is no tunable {i}"));
                Ok(self.run.tunables.get(*i as usize).cloned().ok_or_else(unknown)?)
            }
            Op::Model(i) => Ok(Value::Model(*i)),
            Op::Prim(prim, args) => self.primitive(prim, args),
            Op::Prompt(turns) => self.prompt(turns),
            Op::Dist(..) => Err(Flow::from(RunError::Plan("a distribution outside of a token rule".to_owned()))),
            Op::Lambda(_) => Ok(Value::Function(bind.var)),
            Op::Verifier(verifier) => self.verifier(verifier),
            Op::Generate(generate) => self.generate(generate),
            Op::Score(site, verifier, sample, calibrated) => self.score(*site, *verifier, *sample, *calibrated),
            Op::LogProb(site, model, context, text) => self.logprob(*site, *model, *context, *text),
            Op::Choose(site, model, context, labels) => self.choose(*site, *model, *context, *labels),
            Op::Expect(site, model, context, lo, hi) => self.expect(*site, *model, *context, *lo, *hi),
            Op::If(condition, then, otherwise) => match self.value(*condition)? {
                Value::Bool(true) => self.region(then),
                Value::Bool(false) => self.region(otherwise),
                other => Err(Flow::from(RunError::Plan(format!("a condition is {}", other.kind())))),
            },
            Op::Match(value, arms) => self.match_arms(*value, arms),
            Op::Route(choice, least, arms, otherwise) => self.route(*choice, *least, arms, otherwise),
            Op::Coalesce(value, otherwise) => match self.value(*value)? {
                Value::None => self.region(otherwise),
                value => Ok(value),
            },
            Op::For(list, pattern, carried, body, most) => self.for_loop(*list, pattern, *carried, body, *most),
            Op::Par(list, pattern, body, most) => self.par(*list, pattern, body, *most),
            Op::ParRecord(parts) => self.par_record(parts),
            Op::Within(limits, budget, body, otherwise) => self.within(limits, *budget, body, otherwise.as_ref()),
            Op::Remaining => Ok(Value::Budget(remaining(self.guards()))),
            Op::Spent => {
                let unguarded = || RunError::Plan("no guard is around".to_owned());
                Ok(Value::Usage(self.guards.first().ok_or_else(unguarded)?.spent()))
            }
            Op::Return(value) => Err(Flow::Return(self.optional(*value)?)),
            Op::Break(value) => Err(Flow::Break(self.optional(*value)?)),
            Op::Fail(message) => {
                let message = match message {
                    Some(var) => self.value(*var)?.to_text(),
                    None => "without a message".to_owned(),
                };
                Err(Flow::from(RunError::Failed(message)))
            }
        }
    }

    fn optional(&self, var: Option<Var>) -> Result<Value, Flow> {
        var.map_or(Ok(Value::Unit), |var| self.value(var))
    }

    fn primitive(&mut self, prim: &Prim, args: &[Var]) -> Result<Value, Flow> {
        let values = args.iter().map(|v| self.value(*v)).collect::<Result<Vec<_>, _>>()?;
        match self.select(prim, &values) {
            Some(result) => result,
            None => prims::pure(prim, &values).map_err(|cause| Flow::from(RunError::Operation(cause))),
        }
    }

    fn prompt(&self, turns: &[(Speaker, Vec<Part>)]) -> Result<Value, Flow> {
        let mut context = Context::default();
        for (speaker, parts) in turns {
            let mut text = String::new();
            for part in parts {
                match part {
                    Part::Text(literal) => text.push_str(literal),
                    Part::Var(var) => text.push_str(&self.value(*var)?.to_text()),
                }
            }
            context.turns.push(Turn { speaker: *speaker, text: Arc::from(text), tokens: None });
        }
        Ok(Value::Ctx(Arc::new(context)))
    }

    fn verifier(&self, op: &VerifierOp) -> Result<Value, Flow> {
        let text = |var: &Var| Ok::<Arc<str>, Flow>(Arc::from(self.value(*var)?.to_text()));
        let verifier = match op {
            VerifierOp::Exact(expected) => Verifier::Exact(text(expected)?),
            VerifierOp::Numeric(expected, tolerance) => {
                let expected = match self.value(*expected)? {
                    Value::Text(t) => crate::verify::last_number(&t)
                        .ok_or_else(|| RunError::Operation(format!("numeric(…): {t:?} holds no number")))?,
                    _ => self.number(*expected, "expected")?,
                };
                Verifier::Numeric(expected, self.number(*tolerance, "tol")?)
            }
            VerifierOp::Regex(pattern) => Verifier::Regex(text(pattern)?),
            VerifierOp::Command(vars) | VerifierOp::Lines(vars) => {
                let Some((line, extra)) = vars.split_first() else {
                    return Err(Flow::from(RunError::Plan("a command without words".to_owned())));
                };
                let words = crate::verify::command_words(&text(line)?).map_err(RunError::from)?;
                let extra = extra.iter().map(|v| self.value(*v)).collect::<Result<Vec<_>, _>>()?;
                match op {
                    VerifierOp::Lines(_) => Verifier::Lines(words, extra),
                    _ => Verifier::Command(words, extra),
                }
            }
            VerifierOp::All(parts) => {
                let all = Verifier::All(parts.iter().map(|v| self.value(*v)).collect::<Result<Vec<_>, _>>()?);
                if all.checks() > MOST_CHECKS {
                    let (cause, remedy) = too_many_checks(all.checks());
                    return Err(Flow::from(RunError::Operation(format!("{cause}; {remedy}"))));
                }
                all
            }
        };
        Ok(Value::Verifier(Arc::new(verifier)))
    }

    fn match_arms(&mut self, value: Var, arms: &'a [(Pat, Region)]) -> Result<Value, Flow> {
        let value = self.value(value)?;
        for (pattern, region) in arms {
            if self.matches(pattern, &value) {
                return self.region(region);
            }
        }
        Err(Flow::from(RunError::Operation(format!("no arm of the match takes {}", value.to_json()))))
    }

    /// Whether a pattern matches; binds its variables.
    fn matches(&mut self, pattern: &Pat, value: &Value) -> bool {
        match pattern {
            Pat::Any => true,
            Pat::Bind(var) => {
                self.set(*var, value.clone());
                true
            }
            Pat::Const(constant) => {
                // A label pattern also matches the label as text, as formats other than `json` give it.
                let same = matches!((constant, value), (Const::Label(l), Value::Text(t)) if **t == **l);
                same || prims::equal(&Value::from_const(constant), value)
            }
            Pat::Tuple(parts) => match value {
                Value::Tuple(items) if items.len() == parts.len() => {
                    parts.iter().zip(items.iter()).all(|(p, v)| self.matches(p, v))
                }
                _ => false,
            },
        }
    }

    fn route(
        &mut self,
        choice: Var,
        least: Option<Var>,
        arms: &'a [(String, Region)],
        otherwise: &'a Region,
    ) -> Result<Value, Flow> {
        let Value::Choice(choice) = self.value(choice)? else {
            return Err(Flow::from(RunError::Plan("a route without a choice".to_owned())));
        };
        let least = least.map_or(Ok(0.0), |var| self.number(var, "min"))?;
        let top = choice.top();
        let probability = top.map_or(0.0, |i| choice.probabilities[i]);
        let sure = top.filter(|_| probability >= least);
        let arm = sure.and_then(|i| arms.iter().find(|(label, _)| **label == *choice.labels[i]));
        self.emit(&Event::Routed { arm: arm.map(|(label, _)| label.as_str()), probability });
        self.region(arm.map_or(otherwise, |(_, region)| region))
    }

    fn items(&self, list: Var, most: u64) -> Result<Arc<[Value]>, Flow> {
        match self.value(list)? {
            Value::List(items) if items.len() as u64 <= most => Ok(items),
            Value::List(items) => Err(Flow::from(RunError::Operation(format!(
                "a loop over {} elements, at most {most} are proved",
                items.len()
            )))),
            other => Err(Flow::from(RunError::Plan(format!("a loop over {}", other.kind())))),
        }
    }

    /// Runs a loop's body for one element.
    fn body(&mut self, pattern: &Pat, body: &'a Region, item: &Value, carried: Option<Value>) -> Result<Value, Flow> {
        self.enter(pattern, body, item, carried)?;
        self.region(body)
    }

    /// Binds what a loop's body sees of an element.
    fn enter(&mut self, pattern: &Pat, body: &Region, item: &Value, carried: Option<Value>) -> Result<(), Flow> {
        if !self.matches(pattern, item) {
            return Err(Flow::from(RunError::Plan("a loop pattern does not match".to_owned())));
        }
        let params = &body.params;
        let own = params.len().saturating_sub(usize::from(carried.is_some()));
        if let Some(param) = params.first().filter(|_| own > 0) {
            self.set(*param, item.clone());
        }
        if let (Some(param), Some(carried)) = (params.last(), carried) {
            self.set(*param, carried);
        }
        Ok(())
    }

    fn for_loop(
        &mut self,
        list: Var,
        pattern: &'a Pat,
        carried: Option<Var>,
        body: &'a Region,
        most: u64,
    ) -> Result<Value, Flow> {
        let items = self.items(list, most)?;
        let mut carry = carried.map(|var| self.value(var)).transpose()?;
        for (i, item) in items.iter().enumerate() {
            let value = match self.round(i, |me| me.body(pattern, body, item, carry.clone())) {
                Err(Flow::Break(value)) => return Ok(value),
                other => other?,
            };
            if carry.is_some() {
                carry = Some(value);
            }
        }
        Ok(carry.unwrap_or(Value::Unit))
    }

    fn par(&mut self, list: Var, pattern: &'a Pat, body: &'a Region, most: u64) -> Result<Value, Flow> {
        let items = self.items(list, most)?;
        if let Some(place) = self.judged_together(body, items.len()) {
            let enter = |me: &mut Self, i: usize| me.enter(pattern, body, &items[i], None);
            return Ok(Value::list(self.all_judged(body, place, items.len(), &enter)?));
        }
        let arm = |me: &mut Self, i: usize| me.round(i, |me| me.body(pattern, body, &items[i], None));
        Ok(Value::list(self.arms(items.len(), samples(body), &arm)?))
    }

    fn par_record(&mut self, parts: &'a [(String, Region)]) -> Result<Value, Flow> {
        // Each part has sites of its own, so its draws need no round.
        let sampling = parts.iter().filter(|(_, region)| samples(region)).count() > 1;
        let values = self.arms(parts.len(), sampling, &|me: &mut Self, i: usize| me.region(&parts[i].1))?;
        let fields = parts.iter().map(|(name, _)| name.clone()).zip(values).collect();
        Ok(Value::Record(Arc::new(crate::value::Record { name: String::new(), fields })))
    }

    /// Runs the arms of a `par`: those that sample decode together, others run one after another.
    fn arms(&mut self, count: usize, sampling: bool, arm: ArmBody<'_, 'a>) -> Result<Vec<Value>, Flow> {
        if sampling && count > 1 { self.together(count, arm) } else { (0..count).map(|i| arm(self, i)).collect() }
    }

    fn within(
        &mut self,
        limits: &[(String, Var)],
        budget: Option<Var>,
        body: &'a Region,
        otherwise: Option<&'a Region>,
    ) -> Result<Value, Flow> {
        let mut most = match budget.map(|var| self.value(var)).transpose()? {
            Some(Value::Budget(budget)) => budget,
            None => Budget::default(),
            Some(other) => return Err(Flow::from(RunError::Plan(format!("a budget operand is {}", other.kind())))),
        };
        for (name, var) in limits {
            let amount = self.number(*var, name)?;
            let whole = if amount <= 0.0 { 0 } else { amount as u64 };
            match name.as_str() {
                "tokens" => most.tokens = Some(whole),
                "calls" => most.calls = Some(whole),
                "kv" => most.kv = Some(whole),
                "time" => most.time = Some(amount),
                "usd" => most.usd = Some(amount),
                other => return Err(Flow::from(RunError::Plan(format!("an unknown limit `{other}`")))),
            }
        }
        let number = self.guards.len();
        self.guards.push(Arc::new(Guard::new(most, self.run.options.usd_per_second)));
        let result = self.region(body);
        self.guards.truncate(number);
        match (result, otherwise) {
            (Err(Flow::Tripped(tripped, limit, _)), Some(otherwise)) if tripped == number => {
                self.emit(&Event::BudgetTripped { limit });
                self.region(otherwise)
            }
            (result, _) => result,
        }
    }
}

/// The path inside round `round` of the path outside; never 0.
fn round_path(outside: u32, round: usize) -> u32 {
    let mut hash = (u64::from(outside) << 32 | (round as u64 + 1)).wrapping_mul(0x9E37_79B9_7F4A_7C15);
    hash = (hash ^ (hash >> 31)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    ((hash >> 32) as u32).max(1)
}
