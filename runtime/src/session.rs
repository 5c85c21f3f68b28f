//! Plans made ready to run: the immutable [`Engine`] (plan, tunables, compiled rules) and the [`Session`] that owns the
//! models of one caller and runs requests on them, one after another.
//!
//! Takes a plan, models with their codecs, arguments and a seed; returns an [`Outcome`] or a `Failure` with its place.
//! Deliberately absent: reading files and choosing models (the caller does), printing.

use crate::exec::{
    Event, Failure, Flow, Guard, Host, Interp, Options, RoleState, Run, RunError, TextCodec, TokenRules, Watch,
};
use crate::grammar::Grammars;
use crate::metrics::Metrics;
use crate::model::LanguageModel;
use crate::value::{Budget, EndReason, Sample, Usage, Value, ValueError, type_name};
use ir::plan::{Plan, SitePlan};
use ir::strategy::{Binding, Param, Strategy, Tunable};
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};

/// A plan made ready: immutable, shared by sessions.
pub struct Engine {
    plan: Plan,
    tunables: Vec<Value>,
    rules: Option<Arc<dyn TokenRules>>,
}

impl Engine {
    /// Makes a plan ready. `tuned` gives tunables other values than their defaults.
    ///
    /// # Errors
    /// When a tunable does not exist or its value is out of range.
    pub fn new(plan: Plan, tuned: &[(String, String)], rules: Option<Arc<dyn TokenRules>>) -> Result<Self, RunError> {
        let mut tunables: Vec<Value> = plan.strategy.tunables.iter().map(|t| Value::from_const(&t.value)).collect();
        for (name, word) in tuned {
            let Some(at) = plan.strategy.tunables.iter().position(|t| t.name == *name) else {
                let known = plan.strategy.tunables.iter().map(|t| t.name.as_str()).collect::<Vec<_>>().join(", ");
                return Err(unknown("tunable", name, &known));
            };
            tunables[at] = tuned_value(&plan.strategy.tunables[at], word)?;
        }
        Ok(Self { plan, tunables, rules })
    }

    /// The plan.
    #[must_use]
    pub fn plan(&self) -> &Plan {
        &self.plan
    }

    /// Arguments from words of the command line: names and values in any order; defaults fill the rest.
    ///
    /// # Errors
    /// When a name is unknown or given twice, a value has the wrong type or is out of range, or one is missing.
    pub fn arguments(&self, words: &[(String, String)]) -> Result<Vec<Value>, RunError> {
        let params = &self.plan.strategy.params;
        let mut args: Vec<Option<Value>> = vec![None; params.len()];
        for (name, word) in words {
            let Some(at) = params.iter().position(|p| p.name == *name) else {
                let known = params.iter().map(|p| p.name.as_str()).collect::<Vec<_>>().join(", ");
                return Err(unknown("parameter", name, &known));
            };
            let value = Value::from_word(&params[at].ty, word, name)?;
            if args[at].replace(value).is_some() {
                let found = "a second one".to_owned();
                return Err(ValueError { place: name.clone(), expected: "one value".to_owned(), found }.into());
            }
        }
        complete(&self.plan.strategy, args)
    }

    /// Arguments from a JSON object of the parameters' names.
    ///
    /// # Errors
    /// As [`Engine::arguments`].
    pub fn arguments_json(&self, object: &serde_json::Map<String, serde_json::Value>) -> Result<Vec<Value>, RunError> {
        let params = &self.plan.strategy.params;
        if let Some(name) = object.keys().find(|name| params.iter().all(|p| p.name != **name)) {
            let known = params.iter().map(|p| p.name.as_str()).collect::<Vec<_>>().join(", ");
            return Err(unknown("parameter", name, &known));
        }
        let given = |p: &Param| object.get(&p.name).map(|json| Value::from_json(&p.ty, json, &p.name)).transpose();
        complete(&self.plan.strategy, params.iter().map(given).collect::<Result<_, _>>()?)
    }
}

fn unknown(what: &str, name: &str, known: &str) -> RunError {
    let known = if known.is_empty() { "nothing".to_owned() } else { format!("one of {known}") };
    RunError::Argument(ValueError { place: name.to_owned(), expected: known, found: format!("an unknown {what}") })
}

/// The value that a word gives a tunable.
///
/// # Errors
/// When it is of another type or out of range.
pub fn tuned_value(tunable: &Tunable, word: &str) -> Result<Value, ValueError> {
    let value = Value::from_word(&tunable.ty, word, &tunable.name)?;
    in_range(&value, Some(tunable.range), &tunable.name)?;
    Ok(value)
}

fn in_range(value: &Value, range: Option<(f64, f64)>, place: &str) -> Result<(), ValueError> {
    match (range, value.number()) {
        (Some((lo, hi)), Some(x)) if !(lo..=hi).contains(&x) => Err(ValueError {
            place: place.to_owned(),
            expected: format!("a value from {lo} to {hi}"),
            found: x.to_string(),
        }),
        _ => Ok(()),
    }
}

/// Fills defaults and checks ranges: the arguments of a strategy in the order of its parameters.
pub(crate) fn complete(strategy: &Strategy, given: Vec<Option<Value>>) -> Result<Vec<Value>, RunError> {
    let mut args = Vec::new();
    let mut given = given.into_iter();
    for param in &strategy.params {
        let missing = || ValueError {
            place: param.name.clone(),
            expected: type_name(&param.ty),
            found: "no value and no default".to_owned(),
        };
        let value = match (given.next().flatten(), &param.default) {
            (Some(value), _) => value,
            (None, Some(default)) => Value::from_const(default),
            (None, None) => return Err(missing().into()),
        };
        in_range(&value, param.range, &param.name)?;
        args.push(value);
    }
    Ok(args)
}

/// A model for a role.
pub struct RoleModel {
    /// Name of the role.
    pub role: String,
    /// The model.
    pub model: Box<dyn LanguageModel>,
    /// Its codec.
    pub codec: Arc<dyn TextCodec>,
}

/// The result of a run.
#[derive(Clone, Debug, PartialEq)]
pub struct Outcome {
    /// The strategy's value.
    pub value: Value,
    /// Its text: of the returned sample, or of the value.
    pub text: String,
    /// Token ids of the returned sample (of a vote: of the first member of the largest class); else empty.
    pub tokens: Vec<u32>,
    /// Their log-probabilities.
    pub logprobs: Vec<f32>,
    /// Why that sample ended.
    pub stop: Option<EndReason>,
    /// What was used.
    pub usage: Usage,
    /// Measurements by site.
    pub metrics: Metrics,
}

/// Runs requests on models it owns.
pub struct Session {
    engine: Arc<Engine>,
    roles: Vec<RoleState>,
}

impl Session {
    /// A session: a model for each role that generates, and verifiers bound outside of the source (they replace those of
    /// the source). A role may stay unbound; a site that uses it fails then.
    #[must_use]
    pub fn new(engine: Arc<Engine>, models: Vec<RoleModel>, bindings: &[(String, Binding)]) -> Self {
        let mut models: BTreeMap<String, RoleModel> = models.into_iter().map(|m| (m.role.clone(), m)).collect();
        let roles = engine.plan.strategy.roles.iter().map(|role| {
            let outside = bindings.iter().find(|(name, _)| *name == role.name).map(|(_, b)| b.clone());
            let (model, codec) = match models.remove(&role.name) {
                Some(m) => (Some(Mutex::new(Host::new(m.model))), Some(m.codec)),
                None => (None, None),
            };
            RoleState {
                name: role.name.clone(),
                binding: outside.or_else(|| role.binding.clone()),
                grammars: codec.clone().map(|codec| Arc::new(Grammars::new(codec))),
                model,
                codec,
                script: None,
            }
        });
        let roles = roles.collect();
        Self { engine, roles }
    }

    /// Runs the strategy. `args` are in the order of its parameters ([`Engine::arguments`]). The same arguments and seed
    /// give the same tokens.
    ///
    /// # Errors
    /// When the strategy fails, a budget runs out, a model or verifier fails, or the caller cancels.
    pub fn run(
        &mut self,
        args: Vec<Value>,
        seed: u64,
        options: &Options,
        watch: Watch<'_>,
    ) -> Result<Outcome, Failure> {
        let plan = &self.engine.plan;
        let execution = Execution {
            strategy: &plan.strategy,
            sites: &plan.sites,
            tunables: &self.engine.tunables,
            roles: &self.roles,
            rules: self.engine.rules.as_deref(),
            seed,
            options,
            watch,
        };
        let finished = execute(&execution, args)?;
        let sample = returned(&finished.value);
        Ok(Outcome {
            text: sample.as_ref().map_or_else(|| finished.value.to_text(), |s| s.text.to_string()),
            tokens: sample.as_ref().map_or_else(Vec::new, |s| s.tokens.to_vec()),
            logprobs: sample.as_ref().map_or_else(Vec::new, |s| s.logprobs.to_vec()),
            stop: sample.as_ref().map(|s| s.reason),
            value: finished.value,
            usage: finished.usage,
            metrics: finished.metrics,
        })
    }

    /// Gives back the keys that were kept for reuse by later runs.
    pub fn forget(&mut self) {
        for role in &self.roles {
            if let Ok(mut host) = role.host() {
                host.forget();
            }
        }
    }
}

/// The sample that a value stands for.
fn returned(value: &Value) -> Option<Arc<Sample>> {
    match value {
        Value::Sample(sample) => Some(sample.clone()),
        Value::Vote(vote) => returned(vote.classes.first()?.2.first()?),
        _ => None,
    }
}

/// All that a run of a strategy needs.
pub(crate) struct Execution<'a> {
    /// Strategy.
    pub(crate) strategy: &'a Strategy,
    /// Schedules of its sites; sites without one run at once.
    pub(crate) sites: &'a [SitePlan],
    /// Values of its tunables.
    pub(crate) tunables: &'a [Value],
    /// Its roles.
    pub(crate) roles: &'a [RoleState],
    /// Compiled token rules.
    pub(crate) rules: Option<&'a dyn TokenRules>,
    /// Seed.
    pub(crate) seed: u64,
    /// Options.
    pub(crate) options: &'a Options,
    /// Events and cancellation.
    pub(crate) watch: Watch<'a>,
}

/// What a run of a strategy came to.
pub(crate) struct Finished {
    pub(crate) value: Value,
    pub(crate) usage: Usage,
    pub(crate) metrics: Metrics,
}

/// Runs a strategy.
pub(crate) fn execute(execution: &Execution<'_>, args: Vec<Value>) -> Result<Finished, Failure> {
    let Execution { strategy, sites, tunables, roles, rules, seed, options, watch } = *execution;
    let mut functions = BTreeMap::new();
    crate::exec::functions(&strategy.body.binds, &mut functions);
    let run = Run {
        sites,
        tunables,
        roles,
        rules,
        options,
        seed,
        watch,
        metrics: Mutex::new(Metrics::new(strategy.sites as usize)),
        functions,
    };
    let within = &strategy.within;
    let limits = Budget {
        tokens: within.tokens,
        calls: within.calls,
        kv: within.kv,
        time: match (within.time, options.timeout) {
            (Some(a), Some(b)) => Some(a.min(b)),
            (a, b) => a.or(b),
        },
        usd: within.usd,
    };
    let guard = Arc::new(Guard::new(limits, options.usd_per_second));
    (watch.events)(&Event::Started { strategy: &strategy.name, seed });
    let mut interp = Interp::new(&run, strategy.vars, guard.clone());
    let value = match interp.start(&strategy.body, args) {
        Ok(value) | Err(Flow::Return(value)) => value,
        Err(Flow::Break(_)) => return Err(RunError::Plan("a break outside of a loop".to_owned()).into()),
        Err(Flow::Tripped(_, _, failure) | Flow::Failed(failure)) => return Err(*failure),
    };
    let usage = guard.spent();
    (watch.events)(&Event::Done { seconds: usage.seconds, tokens: usage.tokens });
    let metrics = run.metrics.into_inner().unwrap_or_else(PoisonError::into_inner);
    Ok(Finished { value, usage, metrics })
}
