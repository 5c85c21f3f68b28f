//! Strategy IR: what to compute. A region skeleton of effects (generate, score, choose, branch, loop, parallel, guard)
//! with pure operations between them, in A-normal form: every operand is a [`Var`].
//!
//! **Evaluation.** The binds of a region run in order; the region's value is `result`. [`Op::Return`], [`Op::Break`] and
//! [`Op::Fail`] leave it early: to the strategy, the nearest loop, the caller. Nested regions see the variables of the
//! regions around them. **Randomness** is an operand: every [`Generate`] carries a stream number, so two equal-looking
//! draws are different terms. **Bounds**: every loop, list and site carries its static maximum. What is absent on
//! purpose: mutation, recursion, unbounded loops, anything of models' weights or of hardware.

use crate::diagnostic::Span;
use serde::{Deserialize, Serialize};

crate::nested::counted!(Ty, Region);

/// The most checks of one verifier, those of the verifiers inside it included.
pub const MOST_CHECKS: u64 = 64;

/// What is said of a verifier with more checks, and what helps.
#[must_use]
pub fn too_many_checks(checks: u64) -> (String, &'static str) {
    let cause = format!("`both` of {checks} checks: at most {MOST_CHECKS} are tried");
    (cause, "let one `command` or `lines` program make several checks")
}

/// A variable, assigned exactly once.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Var(pub u32);

/// A type, resolved.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(remote = "Self")]
pub enum Ty {
    /// No value.
    Unit,
    /// Truth value.
    Bool,
    /// 64-bit integer.
    Int,
    /// 64-bit float.
    Float,
    /// UTF-8 text.
    Text,
    /// A number of tokens.
    Tokens,
    /// Seconds.
    Time,
    /// US dollars.
    Usd,
    /// Bytes.
    Bytes,
    /// Calibrated probability.
    Prob,
    /// Uncalibrated, ordered only.
    Score,
    /// Prompt context.
    Ctx,
    /// A generated sequence and the type of its `.value`.
    Sample(Box<Ty>),
    /// At most `n` elements.
    List(Box<Ty>, Option<u64>),
    /// Result of a vote.
    Vote(Box<Ty>),
    /// Labels with probabilities.
    Choice,
    /// Next-token distribution (token rules only).
    Dist,
    /// Tokens, calls, time, money used.
    Usage,
    /// Limits.
    Budget,
    /// `T?`
    Optional(Box<Ty>),
    /// Record with named fields.
    Record(String, Vec<(String, Ty)>),
    /// Enumeration with labels.
    Enum(String, Vec<String>),
    /// Tuple.
    Tuple(Vec<Ty>),
    /// A model role of a kind.
    Model(RoleKind),
    /// A function (arguments only).
    Fn(Vec<Ty>, Box<Ty>),
    /// The type of `fail`, `break`, `return`.
    Never,
}

/// What a model role can do.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum RoleKind {
    /// Text from context.
    Generator,
    /// Score of a sample.
    Scorer,
    /// Score of each step.
    StepScorer,
    /// Calibrated probability that a sample is right.
    Verifier,
    /// The same for each step.
    StepVerifier,
    /// Vectors of text.
    Embedder,
    /// Labels of text.
    Classifier,
}

/// Capabilities a role may ask for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum Capability {
    /// Full next-token distributions.
    Logits,
    /// Log-probabilities of given text.
    Logprobs,
    /// Hidden states.
    Hidden,
}

/// A model role of the strategy.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Role {
    /// Name.
    pub name: String,
    /// Kind.
    pub kind: RoleKind,
    /// Capabilities asked for in the source.
    pub needs: Vec<Capability>,
    /// Inline binding of the source, if any.
    pub binding: Option<Binding>,
}

/// What a role is bound to, inline or by the manifest.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub enum Binding {
    /// A GGUF file.
    Gguf(String),
    /// Answer equals the text, after trimming.
    Exact(String),
    /// Answer is the number within a tolerance.
    Numeric(f64, f64),
    /// Answer matches the pattern somewhere.
    Regex(String),
    /// A host program: words of the command line.
    Command(Vec<String>),
    /// A host program that answers each line of its input with a line: words of the command line.
    Lines(Vec<String>),
}

/// A parameter of a strategy.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Param {
    /// Name.
    pub name: String,
    /// Type.
    pub ty: Ty,
    /// Default.
    pub default: Option<Const>,
    /// Inclusive range of an `Int` or `Float` parameter.
    pub range: Option<(f64, f64)>,
}

/// A tunable of the file.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Tunable {
    /// Name.
    pub name: String,
    /// Type.
    pub ty: Ty,
    /// Default.
    pub value: Const,
    /// Range, inclusive.
    pub range: (f64, f64),
}

/// Declared limits; `None`: not declared.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Limits {
    /// Sampled tokens.
    pub tokens: Option<u64>,
    /// Model calls.
    pub calls: Option<u64>,
    /// Bytes of KV.
    pub kv: Option<u64>,
    /// Seconds.
    pub time: Option<f64>,
    /// US dollars.
    pub usd: Option<f64>,
}

/// Statically proved maxima.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Bounds {
    /// Sampled tokens.
    pub tokens: u64,
    /// Model calls: sampled sequences, scores, choices, expectations, log-probabilities.
    pub calls: u64,
    /// Sequences alive at once.
    pub live: u64,
    /// Tokens of KV alive at once, prompts not counted.
    pub kv_tokens: u64,
}

/// Approximations the author allows.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Allow {
    /// `sparse_attention`, `kv_quant`, ….
    pub name: String,
    /// Value as written, canonical.
    pub value: String,
}

/// A checked strategy.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Strategy {
    /// Name.
    pub name: String,
    /// Documentation.
    pub doc: String,
    /// Parameters in order.
    pub params: Vec<Param>,
    /// Type of the result.
    pub result: Ty,
    /// Declared limits.
    pub within: Limits,
    /// Allowed approximations.
    pub allow: Vec<Allow>,
    /// Roles it uses, in order of first use.
    pub roles: Vec<Role>,
    /// Tunables it uses.
    pub tunables: Vec<Tunable>,
    /// Proved maxima.
    pub bounds: Bounds,
    /// Number of sites (every [`Generate`], score, choice… has one, `0..sites`).
    pub sites: u32,
    /// Number of variables.
    pub vars: u32,
    /// Body; its parameters are the strategy's.
    pub body: Region,
}

/// A sequence of binds.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(remote = "Self")]
pub struct Region {
    /// Variables bound on entry.
    pub params: Vec<Var>,
    /// Binds in order.
    pub binds: Vec<Bind>,
    /// Value; `None` after a bind that never returns, or for `Unit`.
    pub result: Option<Var>,
}

impl Region {
    /// Place of the only score among the binds, when everything else in the region is pure and calls no functions. Such
    /// a region may be run for many elements with all their scores taken together, with the same values.
    #[must_use]
    pub fn lone_score(&self) -> Option<usize> {
        let mut found = None;
        for (place, bind) in self.binds.iter().enumerate() {
            match &bind.op {
                Op::Score(..) if found.is_none() => found = Some(place),
                Op::Prim(prim, _) if !prim.calls() => {}
                Op::Const(_) | Op::Tunable(_) | Op::Model(_) | Op::Prompt(_) | Op::Verifier(_) => {}
                _ => return None,
            }
        }
        found
    }
}

/// One bind.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Bind {
    /// Assigned variable.
    pub var: Var,
    /// Operation.
    pub op: Op,
    /// Where it came from: byte range in the main file, for messages and reports.
    pub at: (u32, u32),
}

impl Bind {
    /// The place as a span of file 0.
    #[must_use]
    pub fn span(&self) -> Span {
        Span { file: 0, start: self.at.0, end: self.at.1 }
    }
}

/// A constant.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub enum Const {
    /// `()`
    Unit,
    /// `true`, `false`
    Bool(bool),
    /// Integer.
    Int(i64),
    /// Float, probability or score.
    Float(f64),
    /// Text.
    Text(String),
    /// Tokens.
    Tokens(u64),
    /// Seconds.
    Time(f64),
    /// US dollars.
    Usd(f64),
    /// Bytes.
    Bytes(u64),
    /// `none`
    None,
    /// Label of an enumeration.
    Label(String),
}

/// Who speaks in a prompt.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Speaker {
    /// `system`
    System,
    /// `user`
    User,
    /// `assistant`
    Assistant,
}

/// A part of a prompt message or text template.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub enum Part {
    /// Literal text.
    Text(String),
    /// Value of a variable, as text.
    Var(Var),
}

/// Pure operations on values.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub enum Prim {
    /// `a + b`: numbers, quantities, texts, lists.
    Add,
    /// `a - b`
    Sub,
    /// `a * b`
    Mul,
    /// `a / b` (`Int`: an error of the run when `b` is 0).
    Div,
    /// `-a`
    Neg,
    /// `not a`
    Not,
    /// `a == b`
    Eq,
    /// `a != b`
    Ne,
    /// `a < b`
    Lt,
    /// `a <= b`
    Le,
    /// `a > b`
    Gt,
    /// `a >= b`
    Ge,
    /// `[a, b, …]`
    List,
    /// `(a, b, …)`
    Tuple,
    /// `a.i` of a tuple.
    TupleField(u32),
    /// `Name { field: a, … }` with the field names.
    Record(String, Vec<String>),
    /// `.name`: fields of samples, votes, choices, budgets, usage, records; `.len` of lists and texts.
    Field(String),
    /// `xs[i]` (an error of the run when out of range).
    Index,
    /// `lo..hi` as a list of `Int`.
    Range,
    /// `lo..=hi` as a list of `Int`.
    RangeInclusive,
    /// Text with holes: operands fill the holes in order; parts with `None` are holes.
    Template(Vec<Option<String>>),
    /// `enumerate(xs)`: list of `(i, x)`.
    Enumerate,
    /// `c.add(x)`: context extended by a text (user turn), a sample (assistant turn) or a context.
    CtxAdd,
    /// `best(xs, by)`: operands list, function; `T?`.
    Best,
    /// `top(xs, k, by)`: operands list, count, function.
    Top,
    /// `prune(xs, keep, by)`: the `keep` best in their old order.
    Prune,
    /// `vote(xs, by, weight)`: operands list, key function, and optionally weight function.
    Vote,
    /// `vote.top(k)`: the members of the `k` largest classes.
    VoteTop,
    /// `agree(xs, by)`: share of the largest class; operands list and key function.
    Agree,
    /// `semantic_entropy(xs, same)`: operands list and equivalence.
    SemanticEntropy,
    /// `all(xs, f)`
    All,
    /// `any(xs, f)`
    Any,
    /// `map(xs, f)`
    Map,
    /// `filter(xs, f)`
    Filter,
    /// Functions of numbers and texts by name: `exp log sqrt abs min max floor ceil round softmax logit mean sum
    /// trim lower upper contains starts_with split_lines number …` (table in `dsl::builtins`).
    Call(String),
    /// `is none`
    IsNone,
    /// `xs.first` as `T?`
    First,
}

impl Prim {
    /// Whether it calls a function for elements of a list.
    fn calls(&self) -> bool {
        use Prim::{Agree, All, Any, Best, Filter, Map, Prune, SemanticEntropy, Top, Vote};
        matches!(self, Best | Top | Prune | Vote | Agree | SemanticEntropy | All | Any | Map | Filter)
    }
}

/// A statistic of the next-token distribution.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum DistField {
    /// Shannon entropy, nats.
    Entropy,
    /// Variance of the surprise, nats².
    Varentropy,
    /// Probability of the first minus the second token.
    Margin,
    /// Probability of the first token.
    Top1,
}

/// Smoothing of a statistic over the last tokens of the sequence.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub enum Window {
    /// This token's.
    Now,
    /// Mean of the last `k` (fewer at the start).
    Mean(u32),
    /// Exponential moving average with weight `a` on the past.
    Ema(f64),
}

/// Enforced or extracted output formats.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub enum Format {
    /// Free text; `.value` is the text.
    Text,
    /// `\boxed{…}` extracted from free text.
    Boxed,
    /// The whole output matches a regular expression; enforced while decoding.
    Regex(String),
    /// JSON of a type; enforced while decoding.
    Json(Ty),
}

/// A verifier built in place.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub enum VerifierOp {
    /// `exact(expected)`
    Exact(Var),
    /// `numeric(expected, tol)`
    Numeric(Var, Var),
    /// `regex(pattern)`
    Regex(Var),
    /// `command("program arg", extra…)`
    Command(Vec<Var>),
    /// `both(a, b, …)`: all must pass; the planner may reorder.
    All(Vec<Var>),
    /// `lines("program arg", extra…)`: a program that judges many candidates in one call, a line each.
    Lines(Vec<Var>),
}

/// A sampling site.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Generate {
    /// Site number.
    pub site: u32,
    /// Random stream: distinct for every site.
    pub stream: u32,
    /// The model.
    pub model: Var,
    /// Context.
    pub ctx: Var,
    /// `None` for `gen`, the number of samples for `sample`.
    pub n: Option<Var>,
    /// Sequences alive at most, as written; `None`: `n`.
    pub live: Option<Var>,
    /// Static maximum of live sequences.
    pub live_max: u64,
    /// New tokens per sequence.
    pub max: Var,
    /// Static maximum of `max`.
    pub max_bound: u64,
    /// Temperature.
    pub temp: Option<Var>,
    /// Nucleus.
    pub top_p: Option<Var>,
    /// Top-k.
    pub top_k: Option<Var>,
    /// Min-p.
    pub min_p: Option<Var>,
    /// Stop texts (a list).
    pub stop: Option<Var>,
    /// Seed given in the source.
    pub seed: Option<Var>,
    /// Format.
    pub format: Format,
    /// Rules.
    pub rules: Vec<Rule>,
}

/// When a rule is looked at.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Level {
    /// Before each token of each live sequence.
    Token,
    /// After each boundary.
    Step,
    /// When a sequence ends.
    End,
    /// After any change of the finished set.
    Set,
}

/// A rule.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Rule {
    /// Level.
    pub level: Level,
    /// Condition: a region whose first parameter is the bound variable; `None`: always.
    pub when: Option<Region>,
    /// Actions in order.
    pub actions: Vec<Action>,
}

/// What a rule does.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub enum Action {
    /// Fork into `k` children that take the `k` most probable tokens; no more than the site's live bound.
    Branch(u32),
    /// End this sequence (token, step, end) or all that still run (set).
    Stop,
    /// Remove this sequence from the result.
    Drop,
    /// Temperature of the next token: a region over the bound variable.
    Temperature(Region),
    /// Start `k` more sequences (set rules), within the site's live bound.
    Grow(u32),
}

/// A pattern.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub enum Pat {
    /// Anything.
    Any,
    /// Anything, bound.
    Bind(Var),
    /// Equal to a constant.
    Const(Const),
    /// A tuple.
    Tuple(Vec<Pat>),
}

/// An operation.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub enum Op {
    /// Constant.
    Const(Const),
    /// Tunable `i`.
    Tunable(u32),
    /// Role `i`.
    Model(u32),
    /// Pure operation.
    Prim(Prim, Vec<Var>),
    /// Chat prompt.
    Prompt(Vec<(Speaker, Vec<Part>)>),
    /// Statistic of a distribution (token rules).
    Dist(DistField, Window, Var),
    /// Function value.
    Lambda(Region),
    /// Verifier built in place.
    Verifier(VerifierOp),
    /// `gen`, `sample`.
    Generate(Box<Generate>),
    /// `score(v, s)` (`Score`) or `verify(v, s)` (`Prob`): site, verifier, sample, calibrated.
    Score(u32, Var, Var, bool),
    /// `logprob(m, c, text)`: site, model, context, text.
    LogProb(u32, Var, Var, Var),
    /// `choose(m, c, labels)`: site, model, context, labels.
    Choose(u32, Var, Var, Var),
    /// `expect(m, c, lo..=hi)`: site, model, context, lo, hi (digits).
    Expect(u32, Var, Var, i64, i64),
    /// `if`.
    If(Var, Region, Region),
    /// `match`.
    Match(Var, Vec<(Pat, Region)>),
    /// `route`: choice, threshold, arms, otherwise.
    Route(Var, Option<Var>, Vec<(String, Region)>, Region),
    /// `a ?? b`.
    Coalesce(Var, Region),
    /// `for`: list, item pattern, carried first value, body (parameters: item, and carry if any), maximal rounds.
    For(Var, Pat, Option<Var>, Region, u64),
    /// `par x in xs`: list, item pattern, body (parameter: item), maximal rounds.
    Par(Var, Pat, Region, u64),
    /// `par { a: …, b: … }`: names and regions; the value is a record.
    ParRecord(Vec<(String, Region)>),
    /// `within`: limits by name, or one `Budget`, body, otherwise.
    Within(Vec<(String, Var)>, Option<Var>, Region, Option<Region>),
    /// `remaining()`
    Remaining,
    /// `spent()`
    Spent,
    /// Leave the strategy with a value.
    Return(Option<Var>),
    /// Leave the nearest loop with a value.
    Break(Option<Var>),
    /// Fail with a message.
    Fail(Option<Var>),
}

/// A `test` block, run with mocks.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Test {
    /// Title.
    pub title: String,
    /// Mocked roles: name and the scripted outputs, in order of use; the last one repeats.
    pub mocks: Vec<(String, Vec<MockOutput>)>,
    /// Steps, in order.
    pub steps: Vec<TestStep>,
    /// Strategies called, by name; calls in steps refer to them.
    pub strategies: Vec<Strategy>,
    /// Number of variables of the test's own regions.
    pub vars: u32,
}

/// What a mocked role answers.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub enum MockOutput {
    /// Text of a generation.
    Text(String),
    /// Score or probability.
    Number(f64),
}

/// A step of a test.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub enum TestStep {
    /// Pure binds.
    Eval(Vec<Bind>),
    /// `let v = strategy(args)`: variable, index of the strategy, arguments in the order of its parameters (`None`: default).
    Run(Var, u32, Vec<Option<Var>>),
    /// `assert cond`: condition, source text.
    Assert(Var, String),
}
