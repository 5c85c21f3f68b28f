//! inferc: a compiler for inference strategies.
//!
//! A strategy (`.infer`) says what to sample, verify, branch on and route; the compiler decides how, prices it,
//! generates kernels for this machine and this model, and runs it. From strategy to artifact it is [`compile`], read
//! from top to bottom, before it `prepare` and behind it `engine`; each stage lives in a crate of its own and hands the
//! next one a value of [`ir`]:
//!
//! | stage | crate | takes → gives |
//! |---|---|---|
//! | parse, check, lower | `dsl` | text → `ir::strategy::Strategy` |
//! | optimise | `optimizer` | strategy, model, target → `ir::plan::Plan` |
//! | lower, emit | `codegen` | plan → `ir::program::Program` → `ir::code::Code` |
//! | run | `runtime` | `ir::artifact::Artifact`, weights → tokens |
//!
//! This package adds what only a program needs: arguments, files, reports ([`inputs`], [`manifest`], [`machine`],
//! [`cache`], [`artifact`], [`engine`], [`measure`], [`render`]).

pub mod artifact;
pub mod cache;
pub mod engine;
pub mod fidelity;
pub mod grade;
pub mod inputs;
pub mod machine;
pub mod manifest;
pub mod measure;
pub mod prepare;
pub mod profile;
pub mod render;
pub mod report;
pub mod roofs;
pub mod synthetic;
pub mod validate;

use anyhow::{Context as _, Result};
use cache::Cache;
use codegen::Backend;
use ir::artifact::{Artifact, Manifest};
use ir::code::Code;
use ir::kernel::Kernel;
use ir::plan::{ModelPlan, Plan};
use ir::program::Program;
use ir::strategy::Strategy;
use ir::target::{Isa, Target};
use optimizer::RoleModel;
use rayon::prelude::*;

/// How to compile.
#[derive(Clone, Debug)]
pub struct Options {
    /// What the planner may assume and use.
    pub planner: optimizer::Options,
    /// Who generates machine code.
    pub backend: Backend,
    /// Where machine code is kept between runs; `None`: nowhere.
    pub cache: Option<Cache>,
    /// Hash of the source text, for the manifest.
    pub source_hash: String,
}

/// The best back end of this build.
#[must_use]
pub fn default_backend() -> Backend {
    if Backend::Llvm.available() { Backend::Llvm } else { Backend::Cranelift }
}

/// Strategy to artifact: plan, forward programs, token rules, machine code. `models[i]` is the local model of role `i`.
///
/// # Errors
/// When the planner finds no plan, a model is not supported by the kernels, or the target lacks what compiled code needs.
pub fn compile(
    strategy: &Strategy,
    models: &[Option<RoleModel>],
    target: &Target,
    options: &Options,
) -> Result<Artifact> {
    let plan = optimizer::optimize(strategy, models, target, &options.planner)?;
    debug_assert_eq!(ir::plan_check::plan(&plan), Ok(()));
    generate(plan, target, options)
}

/// The second half of [`compile`], for a plan that is there: programs, token rules, machine code.
///
/// # Errors
/// As [`compile`].
pub fn generate(plan: Plan, target: &Target, options: &Options) -> Result<Artifact> {
    let mut programs = Vec::new();
    let mut code = Vec::new();
    for model in &plan.models {
        let program = model.as_ref().map(program).transpose()?;
        let kernels = program.as_ref().map_or(&[][..], |p| &p.kernels);
        code.push(machine_code(kernels, target.isa, options.backend, options.cache.as_ref())?);
        programs.push(program);
    }
    let (rules, kernels): (Vec<_>, Vec<_>) = codegen::rules::lower(&plan.strategy).into_iter().unzip();
    let rule_code = machine_code(&kernels, target.isa, options.backend, options.cache.as_ref())?;
    let manifest = Manifest {
        compiler: env!("CARGO_PKG_VERSION").to_owned(),
        backend: options.backend.version().to_owned(),
        isa: target.isa,
        threads: plan.models.iter().flatten().map(|m| m.schedule.threads).max().unwrap_or(1),
        strategy: plan.strategy.name.clone(),
        source_hash: options.source_hash.clone(),
        models: plan
            .models
            .iter()
            .flatten()
            .map(|m| (m.role.clone(), m.path.clone(), m.model.identity.clone()))
            .collect(),
    };
    Ok(Artifact { manifest, plan, programs, rules, code, rule_code })
}

/// The forward program of a model of a plan.
///
/// # Errors
/// When the kernels do not serve the model.
pub fn program(model: &ModelPlan) -> Result<Program> {
    codegen::lower::program(&model.model, &model.schedule)
        .with_context(|| format!("model {} ({})", model.role, model.path))
}

/// Machine code of kernels: out of the cache, or generated on all cores and put there.
///
/// # Errors
/// When this build lacks the back end or the instruction set is below what it asks for.
pub fn machine_code(kernels: &[Kernel], isa: Isa, backend: Backend, cache: Option<&Cache>) -> Result<Code> {
    if kernels.is_empty() {
        return Ok(Code::default());
    }
    let content = postcard::to_stdvec(&(kernels, isa, backend.version(), codegen::SOURCES))?;
    let key = blake3::hash(&content).to_hex().to_string();
    if let Some(code) = cache.and_then(|c| c.get(&key)) {
        return Ok(code);
    }
    let parts: Vec<Code> =
        kernels.par_iter().map(|k| codegen::emit(std::slice::from_ref(k), isa, backend)).collect::<Result<_, _>>()?;
    let mut code = Code::default();
    for part in parts {
        code.append(part);
    }
    if let Some(cache) = cache {
        // A full or read-only disk costs the next start some time and nothing else.
        let _ = cache.put(&key, &code);
    }
    Ok(code)
}
