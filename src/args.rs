//! Every argument of every command, with its help text.

use clap::{Args, Parser, Subcommand, ValueEnum};
use ir::schedule::{Attention, KvFormat};
use std::path::PathBuf;

/// A compiler for inference strategies: .infer files to plans, kernels and tokens.
#[derive(Debug, Parser)]
#[command(name = "inferc", version, about, max_term_width = 110)]
#[command(after_help = "Exit codes: 0 success, 1 the program or its run failed, 2 wrong usage or unreadable input, \
                        3 only warnings with --deny-warnings.")]
pub(crate) struct Cli {
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
}

/// The commands.
#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Parse, resolve, type-check, prove bounds.
    Check(CheckArgs),
    /// Rewrite files in the canonical layout.
    Fmt(FmtArgs),
    /// Explain an error code, or the plan and predicted cost of a strategy.
    Explain(ExplainArgs),
    /// Compile a strategy to a plan file, or print a stage of the compilation.
    Compile(CompileArgs),
    /// Run a strategy or a compiled plan on a model.
    Run(RunArgs),
    /// Run the test blocks of files, with mocked models.
    Test(TestArgs),
    /// Measure a strategy on data, or the kernels of a model.
    Bench(BenchArgs),
    /// Measure what int8 KV and attention to a part of the context do to a model's answers.
    Fidelity(FidelityArgs),
    /// Price a workload with the Kinetics or the roofline cost model.
    Cost(CostArgs),
    /// Measure this machine and write its profile.
    ProfileDevice(ProfileArgs),
    /// Show what is in a compiled plan; executes nothing.
    Inspect(InspectArgs),
    /// Check the environment: CPU features, back ends, cache, models.
    Doctor(DoctorArgs),
    /// Print the documentation of the language or the source of a standard module.
    Doc(DocArgs),
    /// Start a project: a strategy, a test, a manifest.
    New(NewArgs),
    /// Print a completion script for a shell.
    Completions(CompletionArgs),
}

/// How results are printed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub(crate) enum Format {
    /// For people.
    #[default]
    Text,
    /// One JSON document with `format_version`.
    Json,
}

/// Options that bind roles, targets and numbers.
#[derive(Clone, Debug, Default, Args)]
pub(crate) struct Binding {
    /// Manifest with models and targets (default: infer.toml next to the file).
    #[arg(long, value_name = "FILE")]
    pub manifest: Option<PathBuf>,
    /// Bind a role to a GGUF file; may be repeated.
    #[arg(long = "model", value_name = "ROLE=FILE")]
    pub models: Vec<String>,
    /// Target: a built-in profile, a name of the manifest, or a profile file (default: this machine).
    #[arg(long, value_name = "NAME|FILE")]
    pub target: Vec<String>,
    /// Value of a parameter (for estimates) or tunable; may be repeated.
    #[arg(long = "set", value_name = "NAME=VALUE")]
    pub set: Vec<String>,
    /// Threads of the team (default: all cores this process may use).
    #[arg(long, value_name = "N")]
    pub threads: Option<u32>,
    /// Arithmetic of the matrices, one class for all models (default: int8, or int8-channel for the models that it makes
    /// the strategy cheaper for, where the strategy allows it); never mixed within a sequence.
    #[arg(long, value_enum)]
    pub numerics: Option<NumericsArg>,
    /// How keys and values are kept, where the strategy allows it: f16 | int8 (default: the planner decides).
    #[arg(long, value_name = "FORMAT", value_parser = kv_format)]
    pub kv: Option<KvFormat>,
    /// Which pages of 16 tokens decoded tokens attend to, where the strategy allows it: dense | sparse:PAGES[:SHARE] |
    /// window:PAGES (default: the planner decides). SHARE of the estimated weight is enough, 0.95 for example.
    #[arg(long, value_name = "KIND", value_parser = attention)]
    pub attention: Option<Attention>,
    /// Prompt tokens the plan is made for [default: 200].
    #[arg(long, value_name = "TOKENS")]
    pub prompt: Option<u64>,
    /// Share of `max` that sequences are assumed to use, from 0.001 to 1 [default: 0.5].
    #[arg(long, value_name = "SHARE", value_parser = share)]
    pub length_share: Option<f64>,
    /// Chance that a rule which stops a site has done so when half of its samples have ended, from 0 to 0.99 [default: 0.5].
    #[arg(long, value_name = "CHANCE", value_parser = chance)]
    pub stop_chance: Option<f64>,
    /// Code generator (default: llvm where built in, else cranelift).
    #[arg(long, value_enum)]
    pub backend: Option<BackendArg>,
    /// Use no more CPU features than this.
    #[arg(long, value_enum)]
    pub isa: Option<IsaArg>,
}

/// Reads `f16` or `int8`.
fn kv_format(text: &str) -> Result<KvFormat, String> {
    let known = [KvFormat::F16, KvFormat::Int8];
    known.into_iter().find(|f| f.name() == text).ok_or_else(|| "known are f16 and int8".to_owned())
}

/// Reads a share above 0.
fn share(text: &str) -> Result<f64, String> {
    let share = text.parse().ok().filter(|share: &f64| (0.001..=1.0).contains(share));
    share.ok_or_else(|| "expected a share from 0.001 to 1".to_owned())
}

/// Reads a chance below 1: what is certain would leave later samples without a price.
fn chance(text: &str) -> Result<f64, String> {
    let chance = text.parse().ok().filter(|chance: &f64| (0.0..=0.99).contains(chance));
    chance.ok_or_else(|| "expected a chance from 0 to 0.99".to_owned())
}

/// Reads `dense`, `sparse:PAGES`, `sparse:PAGES:SHARE` or `window:PAGES`.
fn attention(text: &str) -> Result<Attention, String> {
    const MOST: u32 = 1 << 20;
    let usage = || {
        format!(
            "expected dense, sparse:PAGES[:SHARE] or window:PAGES with 4 to {MOST} pages of 16 tokens and a share from \
             0.001 to 1"
        )
    };
    if text == "dense" {
        return Ok(Attention::Dense);
    }
    let (kind, pages) = text.split_once(':').ok_or_else(usage)?;
    let (pages, share) = pages.split_once(':').map_or((pages, None), |(pages, share)| (pages, Some(share)));
    let pages = pages.parse().ok().filter(|n| (4..=MOST).contains(n)).ok_or_else(usage)?;
    match (kind, share) {
        ("sparse", None) => Ok(Attention::sparse(pages)),
        ("sparse", Some(share)) => {
            let share = share.parse().ok().filter(|p: &f64| (0.001..=1.0).contains(p)).ok_or_else(usage)?;
            #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "1 to 1000")]
            let thousandths = (share * 1000.0).round() as u32;
            Ok(Attention::sparse(pages).trimmed(thousandths))
        }
        ("window", None) => Ok(Attention::window(pages)),
        _ => Err(usage()),
    }
}

/// Arithmetic classes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum NumericsArg {
    /// Weights as stored, activations rounded to int8 per 32 features.
    Int8,
    /// Weights as stored, activations in f32: slow, the arbiter.
    F32,
    /// The layers' matrices rounded once more, to int8 with one scale per output channel.
    Int8Channel,
}

/// Code generators.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum BackendArg {
    /// LLVM.
    Llvm,
    /// Cranelift, the portable tier.
    Cranelift,
}

/// CPU feature levels.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum IsaArg {
    /// AVX2, FMA, F16C.
    Avx2,
    /// AVX-512 without VNNI.
    Avx512,
    /// AVX-512 with VNNI.
    Avx512Vnni,
    /// AVX-512 with VNNI, and AMX tiles of bytes.
    AmxInt8,
}

/// `inferc check`
#[derive(Debug, Args)]
pub(crate) struct CheckArgs {
    /// Source files.
    #[arg(required = true, value_name = "FILE")]
    pub files: Vec<PathBuf>,
    /// Print the proved bounds of every strategy.
    #[arg(long)]
    pub bounds: bool,
    /// Exit with 3 when there are warnings.
    #[arg(long)]
    pub deny_warnings: bool,
    /// Apply the mechanical fixes to the files.
    #[arg(long)]
    pub fix: bool,
    /// Manifest, for KV bounds in bytes.
    #[arg(long, value_name = "FILE")]
    pub manifest: Option<PathBuf>,
    /// Output.
    #[arg(long, value_enum, default_value_t)]
    pub format: Format,
}

/// `inferc fmt`
#[derive(Debug, Args)]
pub(crate) struct FmtArgs {
    /// Source files; `-` reads standard input and prints.
    #[arg(required = true, value_name = "FILE")]
    pub files: Vec<PathBuf>,
    /// Change nothing, exit with 1 when a file is not in the canonical layout.
    #[arg(long)]
    pub check: bool,
}

/// `inferc explain`
#[derive(Debug, Args)]
pub(crate) struct ExplainArgs {
    /// An error code such as E0310, or FILE[::STRATEGY].
    #[arg(value_name = "CODE|FILE[::STRATEGY]")]
    pub what: String,
    /// Bindings.
    #[command(flatten)]
    pub binding: Binding,
    /// Output.
    #[arg(long, value_enum, default_value_t)]
    pub format: Format,
}

/// Stages that can be printed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Emit {
    /// The syntax tree.
    Ast,
    /// Names and types resolved.
    Hir,
    /// Strategy IR.
    Ir,
    /// The plan.
    Plan,
    /// Kernel IR.
    Kernels,
    /// LLVM IR.
    Llvm,
    /// Assembly.
    Asm,
}

/// `inferc compile`
#[derive(Debug, Args)]
pub(crate) struct CompileArgs {
    /// FILE[::STRATEGY]
    #[arg(value_name = "FILE[::STRATEGY]")]
    pub source: String,
    /// Plan file to write.
    #[arg(short, long, value_name = "PLAN", conflicts_with = "emit")]
    pub output: Option<PathBuf>,
    /// Print a stage instead.
    #[arg(long, value_enum)]
    pub emit: Option<Emit>,
    /// Bindings.
    #[command(flatten)]
    pub binding: Binding,
    /// Do not read or write the kernel cache.
    #[arg(long)]
    pub no_cache: bool,
    /// Output of the summary.
    #[arg(long, value_enum, default_value_t)]
    pub format: Format,
}

/// `inferc run`
#[derive(Debug, Args)]
pub(crate) struct RunArgs {
    /// FILE[::STRATEGY] or a plan file.
    #[arg(value_name = "FILE[::STRATEGY]|PLAN")]
    pub source: String,
    /// Bindings.
    #[command(flatten)]
    pub binding: Binding,
    /// Seed of all random streams.
    #[arg(long, default_value_t = 0)]
    pub seed: u64,
    /// Write every event of the run to a JSON-lines file.
    #[arg(long, value_name = "FILE")]
    pub trace: Option<PathBuf>,
    /// Do not read or write the kernel cache.
    #[arg(long)]
    pub no_cache: bool,
    /// Output.
    #[arg(long, value_enum, default_value_t)]
    pub format: Format,
    /// The strategy's parameters, after `--`: --q "text" --n 8
    #[arg(last = true, allow_hyphen_values = true, value_name = "PARAMETERS")]
    pub parameters: Vec<String>,
}

/// `inferc test`
#[derive(Debug, Args)]
pub(crate) struct TestArgs {
    /// Source files.
    #[arg(required = true, value_name = "FILE")]
    pub files: Vec<PathBuf>,
    /// Output.
    #[arg(long, value_enum, default_value_t)]
    pub format: Format,
}

/// `inferc bench`. What is required is not missed where something given rules it out, so options name what they conflict
/// with, too.
#[derive(Debug, Args)]
#[command(group(clap::ArgGroup::new("rounds").args(["kernels", "plans"])))]
pub(crate) struct BenchArgs {
    /// FILE[::STRATEGY] to measure on data.
    #[arg(value_name = "FILE[::STRATEGY]", required_unless_present_any = ["kernels", "roofs"])]
    pub source: Option<String>,
    /// JSON lines: one object per task with the strategy's parameters, and optionally `id`, `answer`, `verifier`.
    #[arg(long, value_name = "FILE", required_unless_present_any = ["kernels", "roofs", "plans"])]
    pub data: Option<PathBuf>,
    /// With --data: tasks to run at most.
    #[arg(long, value_name = "N", requires = "data", conflicts_with_all = ["kernels", "roofs", "parameters"])]
    pub limit: Option<usize>,
    /// With --data: predicted beside measured per operator; rows off by more than 2× are flagged.
    #[arg(long, conflicts_with_all = ["kernels", "roofs", "plans"])]
    pub analyze: bool,
    /// Seed of all random streams of a strategy.
    #[arg(long, default_value_t = 0, conflicts_with_all = ["kernels", "roofs"])]
    pub seed: u64,
    /// Measure the kernels of a model (--model FILE) instead of a strategy.
    #[arg(long, conflicts_with_all = ["source", "data"])]
    pub kernels: bool,
    /// Measure what this machine can do at most: bytes read, int8 products (alone, in blocks with scales, and with minima), f32
    /// and bf16 products per second.
    #[arg(long, conflicts_with_all = ["source", "data", "kernels", "plans"])]
    pub roofs: bool,
    /// Working set of --roofs, in bytes; may be repeated.
    #[arg(long = "bytes", value_name = "N", requires = "roofs", conflicts_with_all = ["source", "kernels"])]
    pub bytes: Vec<u64>,
    /// With --roofs and --bytes: also read the working sets in scattered pieces of N bytes, a power of two from 64 to 65536;
    /// may be repeated.
    #[arg(long = "pieces", value_name = "N", requires_all = ["roofs", "bytes"], conflicts_with_all = ["source", "kernels"])]
    pub pieces: Vec<u64>,
    /// With --roofs and --bytes: also read the working sets, in order and by --pieces, as keys and values of 16 and of 8 bits,
    /// with the products that N query heads of a KV head need (1 to 28); may be repeated.
    #[arg(long = "queries", value_name = "N", requires_all = ["roofs", "bytes"], conflicts_with_all = ["source", "kernels"])]
    pub queries: Vec<u32>,
    /// Case, with --kernels: decode:depth=2048 | branches:n=8,prompt=512,gen=64 | prefill:n=512 |
    /// score:n=16,prompt=512,len=128; may be repeated.
    #[arg(long = "case", value_name = "CASE", requires = "kernels", conflicts_with_all = ["source", "roofs"])]
    pub cases: Vec<String>,
    /// With --kernels: also time every kernel by itself, in as many further runs of each case.
    #[arg(long, requires = "kernels", conflicts_with_all = ["source", "roofs"])]
    pub profile: bool,
    /// Repetitions of a case, or rounds of plans.
    #[arg(long, default_value_t = 3, requires = "rounds", conflicts_with = "roofs")]
    pub repeat: u32,
    /// Run the chosen plan and up to N plans beside it on the parameters after `--`, or on the tasks of --data: what the choice
    /// is worth.
    #[arg(long, value_name = "N", conflicts_with = "kernels")]
    pub plans: Option<usize>,
    /// Bindings.
    #[command(flatten)]
    pub binding: Binding,
    /// Output.
    #[arg(long, value_enum, default_value_t)]
    pub format: Format,
    /// With --plans: the strategy's parameters, after `--`.
    #[arg(last = true, allow_hyphen_values = true, value_name = "PARAMETERS", requires = "plans",
        conflicts_with_all = ["data", "kernels", "roofs"])]
    pub parameters: Vec<String>,
}

/// `inferc fidelity`
#[derive(Debug, Args)]
pub(crate) struct FidelityArgs {
    /// GGUF file.
    #[arg(long, value_name = "FILE")]
    pub model: PathBuf,
    /// Text to predict; several files are read one after the other.
    #[arg(long = "text", value_name = "FILE", required = true)]
    pub texts: Vec<PathBuf>,
    /// Tokens of context; may be repeated (default: 2048, 4096 and 8000 where the model has them).
    #[arg(long = "context", value_name = "TOKENS")]
    pub contexts: Vec<usize>,
    /// What to compare with dense attention over f16: KV,ATTENTION as in `int8,dense` or `f16,sparse:64`; may be
    /// repeated.
    #[arg(long = "with", value_name = "KV,ATTENTION", value_parser = cache, required = true)]
    pub with: Vec<(KvFormat, Attention)>,
    /// Last tokens of a context that are predicted and compared.
    #[arg(long, default_value_t = 256, value_parser = clap::builder::RangedU64ValueParser::<usize>::new().range(1..))]
    pub predict: usize,
    /// Pass keys hidden in a context, at evenly spread depths; 0: none.
    #[arg(long, default_value_t = 10)]
    pub needles: usize,
    /// Threads of the team (default: all cores this process may use).
    #[arg(long, value_name = "N")]
    pub threads: Option<u32>,
    /// Output; JSON is one line per measurement.
    #[arg(long, value_enum, default_value_t)]
    pub format: Format,
}

/// Reads `KV,ATTENTION`.
fn cache(text: &str) -> Result<(KvFormat, Attention), String> {
    let (kv, pages) = text.split_once(',').ok_or("expected KV,ATTENTION, as in int8,dense")?;
    Ok((kv_format(kv)?, attention(pages)?))
}

/// Cost models.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub(crate) enum CostModel {
    /// The published formulas: compute and memory in eFLOPs.
    #[default]
    Kinetics,
    /// Per-operator maximum of compute and memory on a target.
    Roofline,
}

/// Modes of the Kinetics model.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub(crate) enum KineticsMode {
    /// The authors' code as it is, known slips included.
    #[default]
    Compat,
    /// The corrected terms.
    Exact,
}

/// `inferc cost`
#[derive(Debug, Args)]
pub(crate) struct CostArgs {
    /// A known shape (see `inferc cost --list`), a GGUF file, or a config.json.
    #[arg(long, value_name = "NAME|FILE", required_unless_present = "list")]
    pub model: Option<String>,
    /// Print the known model shapes and targets.
    #[arg(long)]
    pub list: bool,
    /// Prompt tokens.
    #[arg(long, default_value_t = 128)]
    pub prompt: u64,
    /// Generated tokens per trial.
    #[arg(long, default_value_t = 1024)]
    pub r#gen: u64,
    /// Trials over one prompt.
    #[arg(long, default_value_t = 1)]
    pub n: u64,
    /// Sparse attention: block:SIZE,BLOCKS[,LOCAL] | topk:BUDGET | window:BUDGET.
    #[arg(long, value_name = "KIND")]
    pub sparse: Option<String>,
    /// Which cost model.
    #[arg(long, value_enum, default_value_t)]
    pub model_kind: CostModel,
    /// Mode of the Kinetics model.
    #[arg(long, value_enum, default_value_t)]
    pub mode: KineticsMode,
    /// Target of the roofline model: a built-in profile or a profile file.
    #[arg(long, value_name = "NAME|FILE", default_value = "h200-sxm")]
    pub target: String,
    /// Output.
    #[arg(long, value_enum, default_value_t)]
    pub format: Format,
}

/// `inferc profile-device`
#[derive(Debug, Args)]
pub(crate) struct ProfileArgs {
    /// Profile file to write (default: host.json in the cache folder, which later plans use).
    #[arg(short, long, value_name = "FILE")]
    pub output: Option<PathBuf>,
    /// Threads to measure with (default: all).
    #[arg(long, value_name = "N")]
    pub threads: Option<u32>,
    /// Measure nothing new: run steps of these models and print predicted beside measured (GGUF files).
    #[arg(long, value_name = "MODEL", num_args = 1.., conflicts_with = "output")]
    pub check: Vec<PathBuf>,
    /// Measure nothing new: print from where on int8 keys, chosen pages, prompts attended together, larger row blocks and
    /// int8 per channel are faster for these models (GGUF files).
    #[arg(long, value_name = "MODEL", num_args = 1.., conflicts_with_all = ["output", "check"])]
    pub crossovers: Vec<PathBuf>,
    /// With --check: most tokens in the cache of a configuration.
    #[arg(long, value_name = "N", default_value_t = 8192, requires = "check")]
    pub depth: usize,
    /// Output.
    #[arg(long, value_enum, default_value_t)]
    pub format: Format,
}

/// `inferc inspect`
#[derive(Debug, Args)]
pub(crate) struct InspectArgs {
    /// Plan file.
    #[arg(value_name = "PLAN")]
    pub plan: PathBuf,
    /// Output.
    #[arg(long, value_enum, default_value_t)]
    pub format: Format,
}

/// `inferc doctor`
#[derive(Debug, Args)]
pub(crate) struct DoctorArgs {
    /// Manifest whose models are looked at (default: infer.toml here).
    #[arg(long, value_name = "FILE")]
    pub manifest: Option<PathBuf>,
    /// Output.
    #[arg(long, value_enum, default_value_t)]
    pub format: Format,
}

/// `inferc doc`
#[derive(Debug, Args)]
pub(crate) struct DocArgs {
    /// `std`, a module such as std::prompts, or nothing for the language reference.
    #[arg(value_name = "MODULE")]
    pub module: Option<String>,
}

/// `inferc new`
#[derive(Debug, Args)]
pub(crate) struct NewArgs {
    /// Folder to make.
    #[arg(value_name = "NAME")]
    pub name: PathBuf,
}

/// `inferc completions`
#[derive(Debug, Args)]
pub(crate) struct CompletionArgs {
    /// Shell.
    #[arg(value_enum)]
    pub shell: clap_complete::Shell,
}
