//! Measurements of the compiled kernels themselves: decode, branches over a shared prompt, prefill, scoring of given texts.
//!
//! Used by `bench --kernels` and by `profile-device`. Weights are the model's own and prompts are pseudo-random tokens;
//! nothing is measured on zeros. Decode and branches sample every token from its row and feed it back, as a run does, and
//! scoring takes the log-probability of every given token. What is not in it: text, rules, and the strategy's bookkeeping.

use crate::machine::Machine;
use crate::synthetic::Random;
use anyhow::{Context as _, Result, bail};
use ir::model::Model;
use ir::plan::{ModelPlan, PrefixMode};
use ir::strategy::Allow;
use runtime::forward::{KernelTime, Loaded, LocalModel, Options};
use runtime::gguf::Gguf;
use runtime::model::{Append, LanguageModel, Row, SeqId, Wanted};
use runtime::sample::{Draw, Key, Sampling, logprob};
use std::path::{Path, PathBuf};
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
    /// Log-probabilities of `n` given texts of `length` tokens each after one prompt.
    Score {
        /// Texts.
        n: usize,
        /// Prompt tokens.
        prompt: usize,
        /// Tokens per text.
        length: usize,
    },
}

impl Case {
    /// Reads `decode:depth=2048`, `branches:n=8,prompt=512,gen=64`, `prefill:n=512`, `score:n=16,prompt=512,len=128`.
    ///
    /// # Errors
    /// When the text is none of these; the message shows the forms.
    pub fn parse(text: &str) -> Result<Self> {
        let usage = "a case is decode:depth=N, branches:n=N,prompt=N,gen=N, prefill:n=N or score:n=N,prompt=N,len=N";
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
            "score" => Self::Score {
                n: take("n", 16).max(1),
                prompt: take("prompt", 512).max(1),
                length: take("len", 128).max(1),
            },
            _ => bail!("`{text}`: {usage}"),
        };
        if let Some(name) = numbers.keys().next() {
            bail!("`{text}`: unknown number `{name}`; {usage}");
        }
        Ok(case)
    }

    /// Whether several sequences share a prompt, so that there are several ways of reading it.
    #[must_use]
    pub fn shares_prompt(self) -> bool {
        matches!(self, Self::Branches { .. } | Self::Score { .. })
    }

    /// Tokens cached before the clock starts.
    fn cached(self) -> usize {
        match self {
            Self::Decode { depth } => depth,
            Self::Branches { prompt, .. } | Self::Score { prompt, .. } => prompt,
            Self::Prefill { .. } => 0,
        }
    }

    /// What is timed; the planner makes its choices for this and not for what is cached before.
    fn work(self) -> Work {
        let decode = |branches, generated| Work { branches, prompt: 1, generated };
        let read = |prompt| Work { branches: 1, prompt, generated: 1 };
        match self {
            Self::Decode { .. } => decode(1, DECODE_STEPS),
            Self::Branches { n, generated, .. } => decode(n, generated),
            Self::Prefill { n } => read(n),
            Self::Score { n, length, .. } => read(n * length),
        }
    }

    /// Tokens of the longest sequence.
    fn longest(self, context: usize) -> usize {
        match self {
            Self::Decode { depth } => depth + DECODE_STEPS.min(context.saturating_sub(depth)).max(1),
            Self::Branches { prompt, generated, .. } => prompt + generated,
            Self::Score { prompt, length, .. } => prompt + length,
            Self::Prefill { n } => n,
        }
    }
}

/// Tokens of a decode, unless the context ends before.
const DECODE_STEPS: usize = 64;
/// Pages of KV that a model has at least.
const KV_PAGES: u64 = 4096;
/// How tokens are chosen: every token of the vocabulary is weighed.
const HOW: Sampling = Sampling { temperature: 0.8, top_k: 0, top_p: 1.0, min_p: 0.0 };

/// One measurement.
#[derive(Clone, Copy, Debug)]
pub struct Measured {
    /// Tokens processed.
    pub tokens: usize,
    /// Seconds they took.
    pub seconds: f64,
    /// Steps.
    pub steps: usize,
    /// [`LocalModel::round_trip`] before and after; none on one thread.
    pub round_trips: Option<[f64; 2]>,
}

/// What a plan is made for that no strategy asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Work {
    /// Sequences that decode together.
    branches: usize,
    /// Tokens of the prompt that they share.
    prompt: usize,
    /// Tokens of each sequence.
    generated: usize,
}

impl Default for Work {
    /// An answer of usual length to a prompt of usual length.
    fn default() -> Self {
        Self { branches: 1, prompt: optimizer::ASSUMPTIONS.prompt_tokens as usize, generated: 128 }
    }
}

/// A plan for a model: the planner's choices for such work on so many threads.
///
/// # Errors
/// When the planner finds none.
fn plan(path: &Path, model: &Model, machine: &Machine, threads: u32, work: Work) -> Result<ModelPlan> {
    let forced = machine.forced;
    let mut strategy = workload_strategy(work);
    // Nobody's answer depends on a measurement: what is forced is allowed, and nothing else.
    let allow = |name: &str, value: &str| Allow { name: name.to_owned(), value: value.to_owned() };
    strategy.allow.extend(forced.kv.map(|_| allow("kv_quant", "int8")));
    strategy.allow.extend(forced.attention.map(|_| allow("sparse_attention", "1")));
    let options = optimizer::Options {
        assumptions: ir::plan::Assumptions {
            prompt_tokens: work.prompt as u64,
            length_share: 1.0,
            ..optimizer::ASSUMPTIONS
        },
        values: std::collections::BTreeMap::new(),
        threads,
        numerics: machine.numerics,
        naive: false,
        forced,
    };
    let bound = optimizer::RoleModel { path: path.display().to_string(), model: model.clone() };
    let plan = optimizer::optimize(&strategy, &[Some(bound)], &machine.target, &options)?;
    let mut plan = plan.models.into_iter().flatten().next().context("the planner made no plan for the model")?;
    plan.schedule.threads = threads;
    Ok(plan)
}

/// A strategy of one site: the least a planner can be asked about.
fn workload_strategy(work: Work) -> ir::strategy::Strategy {
    use ir::strategy::{Bind, Bounds, Const, Format, Generate, Limits, Op, Region, Role, RoleKind, Strategy, Ty, Var};
    let (branches, generated) = (work.branches as u64, work.generated as u64);
    let generate = Generate {
        site: 0,
        stream: 0,
        model: Var(0),
        ctx: Var(1),
        n: Some(Var(3)),
        live: None,
        live_max: branches,
        max: Var(2),
        max_bound: generated,
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
        result: Ty::List(Box::new(Ty::Sample(Box::new(Ty::Text))), Some(branches)),
        within: Limits::default(),
        allow: Vec::new(),
        roles: vec![Role { name: "base".to_owned(), kind: RoleKind::Generator, needs: Vec::new(), binding: None }],
        tunables: Vec::new(),
        bounds: Bounds {
            tokens: branches * generated,
            calls: branches,
            live: branches,
            kv_tokens: branches * generated,
        },
        sites: 1,
        vars: 5,
        body: Region {
            params: Vec::new(),
            binds: vec![
                bind(0, Op::Model(0)),
                bind(1, Op::Prompt(Vec::new())),
                bind(2, Op::Const(Const::Tokens(generated))),
                bind(3, Op::Const(Const::Int(work.branches as i64))),
                bind(4, Op::Generate(Box::new(generate))),
            ],
            result: Some(Var(4)),
        },
    }
}

/// A model loaded to be measured on so many threads of a machine, planned for [`Work::default`], and its plan.
///
/// # Errors
/// When the file cannot be read, is not supported, or memory is short.
pub fn load(path: &Path, machine: &Machine, threads: u32) -> Result<(LocalModel, ModelPlan)> {
    start(Arc::new(Gguf::open(path)?), path, machine, threads, KV_PAGES)
}

/// The same of a file that is open, with at least so many pages of KV.
pub(crate) fn start(
    gguf: Arc<Gguf>,
    path: &Path,
    machine: &Machine,
    threads: u32,
    pages: u64,
) -> Result<(LocalModel, ModelPlan)> {
    let model = gguf.model()?;
    let plan = plan(path, &model, machine, threads, Work::default())?;
    Ok((started(gguf, &model, &plan, machine, pages)?, plan))
}

fn started(gguf: Arc<Gguf>, model: &Model, plan: &ModelPlan, machine: &Machine, pages: u64) -> Result<LocalModel> {
    let threads = plan.schedule.threads;
    let program = crate::program(plan)?;
    let code = crate::machine_code(&program.kernels, machine.target.isa, machine.backend, machine.cache.as_ref())?;
    let loaded = Loaded::load(gguf, model, &program, &code, threads as usize)?;
    let kv_pages = u32::try_from(plan.kv_pages.max(pages)).unwrap_or(u32::MAX);
    let options = Options { threads: threads as usize, kv_pages };
    Ok(LocalModel::new(loaded, &options)?)
}

/// A model that is measured on one case after another, each with the plan that the planner makes for its work.
#[derive(Debug)]
pub struct Bench {
    gguf: Arc<Gguf>,
    model: Model,
    path: PathBuf,
    machine: Machine,
    loaded: Option<(LocalModel, ModelPlan)>,
}

impl Bench {
    /// Opens a model's file.
    ///
    /// # Errors
    /// When it cannot be read or is not supported.
    pub fn open(path: &Path, machine: Machine) -> Result<Self> {
        let gguf = Arc::new(Gguf::open(path)?);
        let model = gguf.model()?;
        Ok(Self { gguf, model, path: path.to_owned(), machine, loaded: None })
    }

    /// The model with the kernels planned for a case; what is loaded is kept when the next case has the same schedule.
    ///
    /// # Errors
    /// When there is no plan, or memory is short.
    pub fn planned(&mut self, case: Case) -> Result<(&mut LocalModel, &ModelPlan)> {
        let plan = plan(&self.path, &self.model, &self.machine, self.machine.threads, case.work())?;
        let loaded =
            self.loaded.take().filter(|(_, had)| had.schedule == plan.schedule && had.kv_pages >= plan.kv_pages);
        let loaded = match loaded {
            Some(loaded) => loaded,
            None => (started(self.gguf.clone(), &self.model, &plan, &self.machine, KV_PAGES)?, plan),
        };
        let (model, plan) = self.loaded.insert(loaded);
        Ok((model, plan))
    }
}

/// Token ids that look like nothing in particular.
pub(crate) fn tokens(n: usize, vocab: usize) -> Vec<u32> {
    let mut random = Random(0x9E37_79B9_7F4A_7C15);
    (0..n).map(|_| u32::try_from(random.next() % vocab as u64).unwrap_or(0)).collect()
}

/// A case whose prompt is cached: it can be run any number of times.
#[derive(Debug)]
pub struct Ready {
    case: Case,
    root: SeqId,
    ids: Vec<u32>,
    runs: u64,
}

/// Caches the prompt of a case.
///
/// # Errors
/// When the model's context or the pool is too small for the case.
pub fn prepare(model: &mut LocalModel, case: Case, prefix: PrefixMode) -> Result<Ready> {
    let (vocab, context) = (model.info().vocab, model.info().context);
    let need = case.longest(context);
    if need > context {
        bail!("the case needs {need} tokens of context, the model was trained for {context}");
    }
    model.set_prefix_mode(prefix);
    let cached = case.cached();
    let fresh = match case {
        Case::Prefill { n } => n,
        Case::Score { n, length, .. } => n * length,
        Case::Branches { n, .. } => n,
        Case::Decode { .. } => 1,
    };
    let ids = tokens(cached + fresh, vocab);
    let root = model.create()?;
    if cached > 0
        && let Err(error) = step(model, &[(root, &ids[..cached])], Wanted::None, &mut |_, _, _| {})
    {
        model.free(root);
        return Err(error);
    }
    Ok(Ready { case, root, ids, runs: 0 })
}

impl Ready {
    /// Runs the case once; the clock does not count its prompt. The prompt stays cached.
    ///
    /// # Errors
    /// When pages run out or the model gives logits that are no numbers.
    pub fn once(&mut self, model: &mut LocalModel) -> Result<Measured> {
        self.runs += 1;
        let before = model.round_trip()?;
        let measured = self.timed(model)?;
        let after = model.round_trip()?;
        Ok(Measured { round_trips: before.zip(after).map(<[f64; 2]>::from), ..measured })
    }

    fn timed(&mut self, model: &mut LocalModel) -> Result<Measured> {
        match self.case {
            Case::Prefill { n } => self.prefill(model, n),
            Case::Decode { depth } => {
                let steps = DECODE_STEPS.min(model.info().context - depth);
                let measured = self.generate(model, &[self.root], steps);
                model.truncate(self.root, depth)?;
                measured
            }
            Case::Branches { n, generated, .. } => {
                self.with_forks(model, n, |this, model, forks| this.generate(model, forks, generated))
            }
            Case::Score { n, length, .. } => {
                self.with_forks(model, n, |this, model, forks| this.score(model, forks, length))
            }
        }
    }

    /// Runs the case once with every launch timed by itself; what each kernel that ran took, in the program's order.
    ///
    /// # Errors
    /// As [`Ready::once`].
    pub fn profile(&mut self, model: &mut LocalModel) -> Result<(Measured, Vec<KernelTime>)> {
        model.start_profile();
        let measured = self.once(model);
        let kernels = model.profile().iter().filter(|k| k.launches > 0).cloned().collect();
        model.stop_profile();
        Ok((measured?, kernels))
    }

    /// Gives the prompt back.
    pub fn free(self, model: &mut LocalModel) {
        model.free(self.root);
    }

    fn with_forks(
        &mut self,
        model: &mut LocalModel,
        n: usize,
        run: impl FnOnce(&mut Self, &mut LocalModel, &[SeqId]) -> Result<Measured>,
    ) -> Result<Measured> {
        let mut forks = Vec::with_capacity(n);
        let mut outcome = Ok(());
        for _ in 0..n {
            match model.fork(self.root) {
                Ok(fork) => forks.push(fork),
                Err(error) => outcome = Err(error.into()),
            }
        }
        let outcome = outcome.and_then(|()| run(self, model, &forks));
        for fork in forks {
            model.free(fork);
        }
        outcome
    }

    /// Every sequence gets `steps` tokens: the first is given, the others are sampled from the row before.
    fn generate(&mut self, model: &mut LocalModel, seqs: &[SeqId], steps: usize) -> Result<Measured> {
        let cached = self.case.cached();
        let mut last: Vec<u32> = self.ids[cached..cached + seqs.len()].to_vec();
        let seed = self.runs;
        let start = Instant::now();
        for position in 0..u32::try_from(steps)? {
            let fed = last.clone();
            let appends: Vec<Append<'_>> = seqs
                .iter()
                .zip(fed.chunks(1))
                .map(|(seq, tokens)| Append { seq: *seq, tokens, wanted: Wanted::Last, decoded: true })
                .collect();
            let choices = model.step_and_choose(&appends, &mut |which, _| {
                let sequence = u32::try_from(which).unwrap_or(u32::MAX);
                let key = Key { seed, stream: 0, sequence, position, draw: 0 };
                Some(Draw { how: HOW, uniform: key.uniform(), allowed: None })
            })?;
            for (token, choice) in last.iter_mut().zip(choices) {
                *token = choice.context("the model gave logits that are not numbers")?.token;
            }
        }
        Ok(Measured { tokens: seqs.len() * steps, seconds: start.elapsed().as_secs_f64(), steps, round_trips: None })
    }

    fn prefill(&mut self, model: &mut LocalModel, n: usize) -> Result<Measured> {
        let seq = model.create()?;
        let start = Instant::now();
        let outcome = step(model, &[(seq, &self.ids[..n])], Wanted::Last, &mut |_, _, _| {});
        let seconds = start.elapsed().as_secs_f64();
        model.free(seq);
        outcome.map(|()| Measured { tokens: n, seconds, steps: 1, round_trips: None })
    }

    /// The log-probability of every token of every text but its first, whose row is the prompt's last.
    fn score(&mut self, model: &mut LocalModel, forks: &[SeqId], length: usize) -> Result<Measured> {
        let texts: Vec<&[u32]> = self.ids[self.case.cached()..].chunks(length).collect();
        let rows: Vec<(SeqId, &[u32])> = forks.iter().copied().zip(texts.iter().copied()).collect();
        let mut total = 0.0;
        let start = Instant::now();
        step(model, &rows, Wanted::All, &mut |which, at, row| {
            total += texts[which].get(at + 1).map_or(0.0, |token| f64::from(logprob(row, *token)));
        })?;
        let seconds = start.elapsed().as_secs_f64();
        if !total.is_finite() {
            bail!("the model gave log-probabilities that are not numbers");
        }
        Ok(Measured { tokens: texts.len() * length, seconds, steps: 1, round_trips: None })
    }
}

/// A step of given texts.
fn step(
    model: &mut LocalModel,
    rows: &[(SeqId, &[u32])],
    wanted: Wanted,
    sink: &mut dyn FnMut(usize, usize, &Row<'_>),
) -> Result<()> {
    let appends: Vec<Append<'_>> =
        rows.iter().map(|(seq, tokens)| Append { seq: *seq, tokens, wanted, decoded: false }).collect();
    let mut sound = true;
    model.step(&appends, &mut |append, token, row| {
        sound &= row.is_sound();
        sink(append, token, &row);
    })?;
    if !sound {
        bail!("the model gave logits that are not numbers");
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::synthetic::{Shape, gguf};
    use ir::schedule::{Attention, KvFormat, Numerics, Prologue};
    use ir::target::Target;
    use ir::tensor::DType;
    use optimizer::lossy::Forced;

    #[test]
    fn cases_have_one_text_form() {
        assert_eq!(Case::parse("score").ok(), Some(Case::Score { n: 16, prompt: 512, length: 128 }));
        assert_eq!(Case::parse("score:n=2,len=3").ok(), Some(Case::Score { n: 2, prompt: 512, length: 3 }));
        for bad in ["score:n=x", "score:gen=4", "decode:depth=-1", "", "prefill:n=9999999999"] {
            assert!(Case::parse(bad).is_err(), "{bad}");
        }
    }

    /// What prices and profiles count is what lowering makes.
    #[test]
    fn launches_are_those_of_the_program() {
        let (layers, dtype) = (3, DType::Q8_0);
        let shape = Shape { layers, hidden: 256, heads: 4, kv_heads: 2, ffn: 512, vocab: 512, context: 256, dtype };
        let model = Gguf::from_bytes("synthetic", gguf(shape)).expect("a file").model().expect("a model");
        let target = ir::target::builtin("reference").expect("built in");
        let (forced, backend) = (Forced::default(), crate::default_backend());
        let machine =
            Machine { target, threads: 2, backend, cache: None, numerics: None, forced, warnings: Vec::new() };
        let mut plan = plan(Path::new("synthetic"), &model, &machine, 2, Work::default()).expect("a plan");
        let attentions = [Attention::Dense, Attention::sparse(8), Attention::window(8)];
        for prologue in [Prologue::Fused, Prologue::Split] {
            for kv in [KvFormat::F16, KvFormat::Int8] {
                for attention in attentions {
                    let s = &mut plan.schedule;
                    (s.prologue, s.kv, s.attention) = (prologue, kv, attention);
                    let program = crate::program(&plan).expect("a program");
                    let counted = plan.schedule.launches(layers);
                    let made = (program.forward.len() as u64, program.head.len() as u64);
                    assert_eq!((counted.layers, counted.head), made, "{prologue:?}, {kv:?}, {attention}");
                }
            }
        }
    }

    /// Rows that threads could share are prepared once; a single row is not worth a barrier.
    #[test]
    fn every_case_has_its_plan() {
        let (layers, dtype) = (3, DType::Q8_0);
        let shape = Shape { layers, hidden: 512, heads: 8, kv_heads: 2, ffn: 1024, vocab: 512, context: 256, dtype };
        let model = Gguf::from_bytes("synthetic", gguf(shape)).expect("a file").model().expect("a model");
        let target = ir::target::builtin("reference").expect("built in");
        let (forced, backend) = (Forced::default(), crate::default_backend());
        let machine =
            Machine { target, threads: 2, backend, cache: None, numerics: None, forced, warnings: Vec::new() };
        let prologue = |case: Case, threads| {
            let plan = plan(Path::new("synthetic"), &model, &machine, threads, case.work()).expect("a plan");
            (plan.schedule.prologue, plan.schedule.threads)
        };
        let many = Case::Branches { n: 64, prompt: 20, generated: 8 };
        for case in [many, Case::Prefill { n: 512 }, Case::Score { n: 16, prompt: 20, length: 64 }] {
            assert_eq!(prologue(case, 2), (Prologue::Split, 2), "{case:?}");
            assert_eq!(prologue(case, 1), (Prologue::Fused, 1), "{case:?}");
        }
        // What is cached before is not what is timed.
        assert_eq!(prologue(Case::Decode { depth: 200 }, 2), (Prologue::Fused, 2));
    }

    /// Every case runs repeatedly on a small model, counts its work, and leaves the pool as it found it.
    #[test]
    fn cases_repeat_and_give_everything_back() {
        let shape = Shape {
            layers: 1,
            hidden: 256,
            heads: 4,
            kv_heads: 2,
            ffn: 256,
            vocab: 512,
            context: 256,
            dtype: DType::Q8_0,
        };
        let dir = tempfile::tempdir().expect("a folder");
        let path = dir.path().join("model.gguf");
        std::fs::write(&path, gguf(shape)).expect("written");
        let target = ir::target::builtin("reference").expect("built in");
        let target = Target { isa: runtime::device::probe::probe().isa, ..target };
        let (numerics, forced, backend) = (Some(Numerics::Int8), Forced::default(), crate::default_backend());
        let machine = Machine { target, threads: 1, backend, cache: None, numerics, forced, warnings: Vec::new() };
        let mut bench = Bench::open(&path, machine).expect("a model");
        for (case, tokens) in [
            (Case::Decode { depth: 0 }, 64),
            (Case::Decode { depth: 240 }, 16),
            (Case::Branches { n: 3, prompt: 33, generated: 5 }, 15),
            (Case::Prefill { n: 100 }, 100),
            (Case::Score { n: 4, prompt: 20, length: 17 }, 68),
        ] {
            for mode in [PrefixMode::Shared, PrefixMode::Cascade] {
                let (model, _) = bench.planned(case).expect("planned");
                let mut ready = prepare(model, case, mode).expect("prepared");
                let before = model.kv_bytes();
                for _ in 0..2 {
                    let measured = ready.once(model).expect("measured");
                    assert_eq!(measured.tokens, tokens, "{case:?}");
                    assert!(measured.seconds > 0.0);
                    assert_eq!(model.kv_bytes(), before, "{case:?}");
                }
                let (measured, kernels) = ready.profile(model).expect("profiled");
                let sum: f64 = kernels.iter().map(|k| k.seconds).sum();
                assert!(sum > 0.0 && sum < measured.seconds, "{case:?}: {sum} of {}", measured.seconds);
                let attend = kernels.iter().find(|k| k.name == "attend").expect("attention");
                assert_eq!((attend.launches % measured.steps as u64, attend.weight_bytes), (0, 0), "{case:?}");
                assert!(kernels.iter().any(|k| k.name.starts_with("down") && k.weight_bytes >= 256 * 256 * k.launches));
                assert!(model.profile().is_empty());
                ready.free(model);
                assert_eq!(model.kv_bytes(), 0, "{case:?}");
            }
        }
        let case = Case::Score { n: 1, prompt: 200, length: 100 };
        let long = prepare(bench.planned(case).expect("planned").0, case, PrefixMode::Shared);
        assert!(long.is_err_and(|e| e.to_string().contains("256")));
    }
}
