//! From a checked file to a plan or an artifact: which strategy, which models, which values.

use crate::inputs::{self, Checked};
use crate::machine::{self, Machine};
use crate::manifest::Manifest;
use anyhow::{Context as _, Result, bail};
use ir::artifact::Artifact;
use ir::diagnostic::Diagnostic;
use ir::plan::{Assumptions, Plan};
use ir::strategy::{Binding, Const, Strategy, Tunable};
use optimizer::RoleModel;
use runtime::exec::RunError;
use runtime::gguf::Gguf;
use std::collections::BTreeMap;
use std::path::Path;

/// The strategy of a clean program: the named one, or the only one.
///
/// # Errors
/// The outer error when there is no such strategy; the inner one with diagnostics when it cannot be executed.
pub fn strategy(checked: &Checked, name: Option<&str>) -> Result<Result<Strategy, Vec<Diagnostic>>> {
    let names: Vec<&str> = checked.program.strategies().map(|f| f.name.as_str()).collect();
    let name = match (name, &names[..]) {
        (Some(name), _) if names.contains(&name) => name,
        (Some(name), _) => bail!("no strategy `{name}`: the file has {}", names.join(", ")),
        (None, [only]) => only,
        (None, []) => bail!("the file has no strategy"),
        (None, _) => {
            bail!("the file has several strategies: choose one with FILE::NAME; there are {}", names.join(", "))
        }
    };
    Ok(dsl::lower::lower(&checked.program, name))
}

/// A strategy with its models and values; its tunables are those of the manifest, then of the command line.
#[derive(Debug)]
pub struct Prepared {
    /// The strategy.
    pub strategy: Strategy,
    /// Local model of each role.
    pub models: Vec<Option<RoleModel>>,
    /// Verifier roles and what they are bound to.
    pub verifiers: Vec<(String, Binding)>,
    /// Parameters and tunables by name, for estimates.
    pub values: BTreeMap<String, f64>,
}

impl Prepared {
    /// Binds roles and reads the shapes of the models; weights are not read.
    ///
    /// # Errors
    /// When a role is unbound or bound to the wrong kind, a model file is unreadable, or a setting names nothing.
    pub fn new(mut strategy: Strategy, manifest: &Manifest, models: &[String], settings: &[String]) -> Result<Self> {
        let bindings = inputs::bind(&strategy.roles, manifest, models)?;
        let mut shapes = Vec::new();
        let mut verifiers = Vec::new();
        for (role, binding) in strategy.roles.iter().zip(&bindings) {
            shapes.push(match binding {
                Binding::Gguf(path) => {
                    let model = Gguf::open(Path::new(path))
                        .and_then(|g| g.model())
                        .with_context(|| format!("role `{}` is bound to {path}", role.name))?;
                    Some(RoleModel { path: path.clone(), model })
                }
                other => {
                    verifiers.push((role.name.clone(), other.clone()));
                    None
                }
            });
        }
        // The planner sees what verifiers are, wherever that was said.
        for (role, binding) in strategy.roles.iter_mut().zip(bindings) {
            if !matches!(binding, Binding::Gguf(_)) {
                role.binding = Some(binding);
            }
        }
        let mut values = BTreeMap::new();
        for (name, value) in &manifest.tunables {
            if let Some(tunable) = strategy.tunables.iter_mut().find(|t| t.name == *name) {
                tune(tunable, &value.to_string())?;
                values.insert(name.clone(), *value);
            }
        }
        for (name, value) in inputs::settings(settings)? {
            let number = machine::number(&name, &value)?;
            if let Some(tunable) = strategy.tunables.iter_mut().find(|t| t.name == name) {
                tune(tunable, &value)?;
            } else if let Some(param) = strategy.params.iter().find(|p| p.name == name) {
                if let Some((lo, hi)) = param.range
                    && !(lo..=hi).contains(&number)
                {
                    bail!("--set {name}={value}: the parameter's range is {lo} to {hi}");
                }
            } else {
                let known: Vec<_> =
                    strategy.params.iter().map(|p| &p.name).chain(strategy.tunables.iter().map(|t| &t.name)).collect();
                bail!("--set {name}={value}: no parameter or tunable of that name; there are {known:?}");
            }
            values.insert(name, number);
        }
        Ok(Self { strategy, models: shapes, verifiers, values })
    }

    /// The plan on a machine.
    ///
    /// # Errors
    /// When the planner finds none.
    pub fn plan(&self, machine: &Machine, assumptions: Assumptions) -> Result<Plan> {
        let options = machine.planner(assumptions, self.values.clone());
        Ok(optimizer::optimize(&self.strategy, &self.models, &machine.target, &options)?)
    }

    /// The artifact for a machine.
    ///
    /// # Errors
    /// As [`crate::compile`].
    pub fn artifact(&self, machine: &Machine, assumptions: Assumptions, checked: &Checked) -> Result<Artifact> {
        crate::compile(&self.strategy, &self.models, &machine.target, &self.options(machine, assumptions, checked))
    }

    /// The artifact of a plan that is there.
    ///
    /// # Errors
    /// As [`crate::generate`].
    pub fn generate(&self, plan: Plan, machine: &Machine, checked: &Checked) -> Result<Artifact> {
        let options = self.options(machine, plan.assumptions, checked);
        crate::generate(plan, &machine.target, &options)
    }

    fn options(&self, machine: &Machine, assumptions: Assumptions, checked: &Checked) -> crate::Options {
        let mut hasher = blake3::Hasher::new();
        for (_, text) in &checked.sources.0 {
            hasher.update(text.as_bytes());
            hasher.update(&[0]);
        }
        crate::Options {
            planner: machine.planner(assumptions, self.values.clone()),
            backend: machine.backend,
            cache: machine.cache.clone(),
            source_hash: hasher.finalize().to_hex().to_string(),
        }
    }
}

/// Gives a tunable another default: a plan that is kept runs with what it was compiled with.
fn tune(tunable: &mut Tunable, word: &str) -> Result<()> {
    let value = runtime::session::tuned_value(tunable, word).map_err(RunError::Argument)?;
    let number = value.number();
    match (&mut tunable.value, number) {
        (Const::Int(old), Some(x)) => *old = x as i64,
        (Const::Tokens(old), Some(x)) => *old = x as u64,
        (Const::Float(old) | Const::Time(old), Some(x)) => *old = x,
        _ => bail!("tunable {} is no number", tunable.name),
    }
    Ok(())
}
