//! Measurements of the compiled kernels themselves: decode, shared prompts, prefill, and the machine's read bandwidth.
//!
//! Used by `bench --kernels` and by `profile-device`. Token ids are pseudo-random, weights are the model's own; nothing is
//! measured on zeros.

use anyhow::{Context as _, Result, bail};
use codegen::Backend;
use ir::model::Model;
use ir::plan::{ModelPlan, PrefixMode};
use ir::schedule::Numerics;
use ir::target::Target;
use runtime::forward::{Loaded, LocalModel, Options};
use runtime::gguf::Gguf;
use runtime::model::{Append, LanguageModel, SeqId, Wanted};
use std::path::Path;
use std::sync::Arc;
use std::time::Instant;

/// What to measure.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Case {
    /// Single-stream decode after `depth` cached tokens.
    Decode {
        /// Tokens in the cache.
        depth: usize,
    },
    /// `n` branches over one prompt, `gen` tokens each.
    Branches {
        /// Branches.
        n: usize,
        /// Prompt tokens.
        prompt: usize,
        /// Tokens per branch.
        generated: usize,
    },
    /// Prefill of `n` tokens.
    Prefill {
        /// Tokens.
        n: usize,
    },
}

impl Case {
    /// Reads `decode:depth=2048`, `branches:n=8,prompt=512,gen=64`, `prefill:n=512`.
    ///
    /// # Errors
    /// When the text is none of these; the message shows the forms.
    pub fn parse(text: &str) -> Result<Self> {
        let usage = "a case is decode:depth=N, branches:n=N,prompt=N,gen=N or prefill:n=N";
        let (kind, rest) = text.split_once(':').unwrap_or((text, ""));
        let mut numbers = std::collections::BTreeMap::new();
        for entry in rest.split(',').filter(|e| !e.is_empty()) {
            let (name, value) = entry.split_once('=').with_context(|| format!("`{text}`: {usage}"))?;
            let value: usize =
                value.parse().ok().filter(|v| *v <= 1 << 20).with_context(|| format!("`{text}`: {usage}"))?;
            numbers.insert(name, value);
        }
        let mut take = |name: &str, default: usize| numbers.remove(name).unwrap_or(default);
        let case = match kind {
            "decode" => Self::Decode { depth: take("depth", 0) },
            "branches" => Self::Branches {
                n: take("n", 8).max(1),
                prompt: take("prompt", 512).max(1),
                generated: take("gen", 64).max(1),
            },
            "prefill" => Self::Prefill { n: take("n", 512).max(1) },
            _ => bail!("`{text}`: {usage}"),
        };
        if let Some(name) = numbers.keys().next() {
            bail!("`{text}`: unknown number `{name}`; {usage}");
        }
        Ok(case)
    }
}

/// One measurement.
#[derive(Clone, Copy, Debug)]
pub struct Measured {
    /// Tokens processed.
    pub tokens: usize,
    /// Seconds they took.
    pub seconds: f64,
    /// Steps.
    pub steps: usize,
}

/// A plan for a model that no strategy asked for: the planner's schedule for a decode of `branches` rows.
///
/// # Errors
/// When the planner finds none.
pub fn plan(path: &Path, model: &Model, target: &Target, threads: u32, numerics: Numerics) -> Result<ModelPlan> {
    let strategy = workload_strategy();
    let options = optimizer::Options {
        assumptions: optimizer::ASSUMPTIONS,
        values: std::collections::BTreeMap::new(),
        threads,
        numerics,
        naive: false,
    };
    let bound = optimizer::RoleModel { path: path.display().to_string(), model: model.clone() };
    let plan = optimizer::optimize(&strategy, &[Some(bound)], target, &options)?;
    plan.models.into_iter().flatten().next().context("the planner made no plan for the model")
}

/// A strategy of one generation: the least a planner can be asked about.
fn workload_strategy() -> ir::strategy::Strategy {
    use ir::strategy::{Bind, Bounds, Const, Format, Generate, Limits, Op, Region, Role, RoleKind, Strategy, Ty, Var};
    let generate = Generate {
        site: 0,
        stream: 0,
        model: Var(0),
        ctx: Var(1),
        n: None,
        live: None,
        live_max: 1,
        max: Var(2),
        max_bound: 256,
        temp: None,
        top_p: None,
        top_k: None,
        min_p: None,
        stop: None,
        seed: None,
        format: Format::Text,
        rules: Vec::new(),
    };
    let bind = |var, op| Bind { var: Var(var), op, at: (0, 0) };
    Strategy {
        name: "measure".to_owned(),
        doc: String::new(),
        params: Vec::new(),
        result: Ty::Sample(Box::new(Ty::Text)),
        within: Limits::default(),
        allow: Vec::new(),
        roles: vec![Role { name: "base".to_owned(), kind: RoleKind::Generator, needs: Vec::new(), binding: None }],
        tunables: Vec::new(),
        bounds: Bounds { tokens: 256, calls: 1, live: 1, kv_tokens: 256 },
        sites: 1,
        vars: 4,
        body: Region {
            params: Vec::new(),
            binds: vec![
                bind(0, Op::Model(0)),
                bind(1, Op::Prompt(Vec::new())),
                bind(2, Op::Const(Const::Tokens(256))),
                bind(3, Op::Generate(Box::new(generate))),
            ],
            result: Some(Var(3)),
        },
    }
}

/// A loaded model ready to be measured, and its plan.
///
/// # Errors
/// When the file cannot be read, is not supported, or memory is short.
pub fn load(
    path: &Path,
    target: &Target,
    threads: u32,
    numerics: Numerics,
    backend: Backend,
    cache: Option<&crate::cache::Cache>,
) -> Result<(LocalModel, ModelPlan)> {
    let gguf = Arc::new(Gguf::open(path)?);
    let model = gguf.model()?;
    let mut plan = plan(path, &model, target, threads, numerics)?;
    plan.schedule.threads = threads;
    let program = crate::program(&plan)?;
    let code = crate::machine_code(&program.kernels, target.isa, backend, cache)?;
    let loaded = Loaded::load(gguf, &model, &program, &code, threads as usize)?;
    let pages = u32::try_from(plan.kv_pages.max(4096)).unwrap_or(u32::MAX);
    let options = Options { threads: threads as usize, kv_pages: pages, prefix: PrefixMode::Shared };
    Ok((LocalModel::new(loaded, &options)?, plan))
}

/// Token ids that look like nothing in particular.
fn tokens(n: usize, vocab: usize) -> Vec<u32> {
    let mut state = 0x9E37_79B9_7F4A_7C15_u64;
    (0..n)
        .map(|_| {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            u32::try_from(state % vocab as u64).unwrap_or(0)
        })
        .collect()
}

/// Runs a case once. The context of the case is set up outside the clock; sequences are given back afterwards.
///
/// # Errors
/// When the model's context or the pool is too small for the case.
pub fn run(model: &mut LocalModel, case: Case, prefix: PrefixMode) -> Result<Measured> {
    const DECODE_STEPS: usize = 64;
    let vocab = model.info().vocab;
    let context = model.info().context;
    let need = match case {
        Case::Decode { depth } => depth + 1,
        Case::Branches { prompt, generated, .. } => prompt + generated,
        Case::Prefill { n } => n,
    };
    if need > context {
        bail!("the case needs {need} tokens of context, the model was trained for {context}");
    }
    model.set_prefix_mode(prefix);
    let first = model.create()?;
    let outcome = match case {
        Case::Prefill { n } => {
            let ids = tokens(n, vocab);
            let start = Instant::now();
            step(model, &[(first, &ids)], Wanted::Last)?;
            Ok(Measured { tokens: n, seconds: start.elapsed().as_secs_f64(), steps: 1 })
        }
        Case::Decode { depth } => {
            let steps = DECODE_STEPS.min(context - depth);
            let ids = tokens(depth.max(1) + steps, vocab);
            if depth > 0 {
                step(model, &[(first, &ids[..depth])], Wanted::None)?;
            }
            let start = Instant::now();
            for i in 0..steps {
                step(model, &[(first, &ids[depth + i..=depth + i])], Wanted::Last)?;
            }
            Ok(Measured { tokens: steps, seconds: start.elapsed().as_secs_f64(), steps })
        }
        Case::Branches { n, prompt, generated } => branches(model, first, n, prompt, generated, vocab),
    };
    model.free(first);
    outcome
}

fn branches(
    model: &mut LocalModel,
    first: SeqId,
    n: usize,
    prompt: usize,
    generated: usize,
    vocab: usize,
) -> Result<Measured> {
    let ids = tokens(prompt + n * generated, vocab);
    step(model, &[(first, &ids[..prompt])], Wanted::None)?;
    let seqs: Vec<SeqId> = (0..n).map(|_| model.fork(first)).collect::<Result<_, _>>()?;
    let start = Instant::now();
    for i in 0..generated {
        let at = |k: usize| prompt + k * generated + i;
        let rows: Vec<(SeqId, &[u32])> = seqs.iter().enumerate().map(|(k, s)| (*s, &ids[at(k)..=at(k)])).collect();
        step(model, &rows, Wanted::Last)?;
    }
    let seconds = start.elapsed().as_secs_f64();
    for seq in seqs {
        model.free(seq);
    }
    Ok(Measured { tokens: n * generated, seconds, steps: generated })
}

fn step(model: &mut LocalModel, rows: &[(SeqId, &[u32])], wanted: Wanted) -> Result<()> {
    let appends: Vec<Append<'_>> = rows.iter().map(|(seq, tokens)| Append { seq: *seq, tokens, wanted }).collect();
    let mut sound = true;
    model.step(&appends, &mut |_, _, row| sound &= row.is_sound())?;
    if !sound {
        bail!("the model gave logits that are not numbers");
    }
    Ok(())
}
