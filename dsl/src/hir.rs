//! The program after checking: every name resolved, every expression typed, sugar gone.
//!
//! Written by [`mod@crate::check`], read by [`mod@crate::bounds`] and [`mod@crate::lower`]. Functions are not inlined here: a call
//! names its function. It holds the whole language, constructs that do not run yet included ([`ExprKind::Later`]).
//! Expressions keep no types of the parser and know nothing of models' weights or hardware.

use ir::diagnostic::Span;
pub use ir::strategy::{Allow, Capability, Const, DistField, Level, Limits, Prim, RoleKind, Speaker, Ty, Window};

/// A local variable; unique in the whole program.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Local(pub u32);

/// A source text that took part.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Source {
    /// Path as shown in messages: as given for the main file, relative to it for others, `std::…` for the library.
    pub path: String,
    /// Text.
    pub text: String,
}

/// A checked program.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Program {
    /// Sources by file number of spans; 0 is the main file.
    pub sources: Vec<Source>,
    /// Model roles of all files, one per name.
    pub roles: Vec<Role>,
    /// Tunables of all files.
    pub tunables: Vec<Tunable>,
    /// Constants of all files.
    pub consts: Vec<Expr>,
    /// Prompts, functions, strategies, precomputes and tools of all files.
    pub functions: Vec<Function>,
    /// Tests of the main file.
    pub tests: Vec<Test>,
}

impl Program {
    /// The strategies of the main file, in order.
    pub fn strategies(&self) -> impl Iterator<Item = &Function> {
        self.functions.iter().filter(|f| f.kind == FunctionKind::Strategy && f.name_span.file == 0)
    }

    /// The strategy of that name in the main file.
    #[must_use]
    pub fn strategy(&self, name: &str) -> Option<&Function> {
        self.strategies().find(|f| f.name == name)
    }
}

/// A model role.
#[derive(Clone, Debug, PartialEq)]
pub struct Role {
    /// Name.
    pub name: String,
    /// Kind.
    pub kind: RoleKind,
    /// Capabilities asked for, in order of the first mention.
    pub needs: Vec<Capability>,
    /// Inline binding.
    pub binding: Option<RoleBinding>,
    /// Its name in the source.
    pub span: Span,
    /// Where capabilities could be added: the end of the kind or of the last capability.
    pub needs_end: Span,
}

/// What a role is bound to in the source.
#[derive(Clone, Debug, PartialEq)]
pub enum RoleBinding {
    /// Something that runs.
    Ready(ir::strategy::Binding),
    /// A served endpoint: checked, not executable.
    Endpoint(Span),
}

/// A tunable.
#[derive(Clone, Debug, PartialEq)]
pub struct Tunable {
    /// Name, type, default and range.
    pub item: ir::strategy::Tunable,
    /// Its name in the source.
    pub span: Span,
}

/// What a function is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FunctionKind {
    /// `prompt`
    Prompt,
    /// `fn`
    Fn,
    /// `strategy`
    Strategy,
    /// `precompute`
    Precompute,
    /// `tool`
    Tool,
}

/// A callable item.
#[derive(Clone, Debug, PartialEq)]
pub struct Function {
    /// Name.
    pub name: String,
    /// What it is.
    pub kind: FunctionKind,
    /// Documentation, lines joined.
    pub doc: String,
    /// Parameters.
    pub params: Vec<Param>,
    /// Type of the result as declared (calls of tools and precomputes give its optional).
    pub result: Ty,
    /// Declared limits.
    pub within: Limits,
    /// Place of the declared limits; of the name if there are none.
    pub within_span: Span,
    /// Allowed approximations.
    pub allow: Vec<Allow>,
    /// Roles whose KV a precompute materialises.
    pub warm: Vec<usize>,
    /// Body; `None` for tools and after errors.
    pub body: Option<Expr>,
    /// Its name in the source.
    pub name_span: Span,
}

/// A parameter.
#[derive(Clone, Debug, PartialEq)]
pub struct Param {
    /// Its variable.
    pub local: Local,
    /// Name.
    pub name: String,
    /// Type.
    pub ty: Ty,
    /// Default.
    pub default: Option<Const>,
    /// Inclusive range.
    pub range: Option<(f64, f64)>,
    /// Its name in the source.
    pub span: Span,
}

/// A test.
#[derive(Clone, Debug, PartialEq)]
pub struct Test {
    /// Title.
    pub title: String,
    /// Mocked roles with their outputs.
    pub mocks: Vec<(String, Vec<ir::strategy::MockOutput>)>,
    /// Body without the mocks.
    pub steps: Vec<TestStep>,
    /// Place.
    pub span: Span,
}

/// A step of a test.
#[derive(Clone, Debug, PartialEq)]
pub enum TestStep {
    /// A statement.
    Stmt(Stmt),
    /// `assert`: condition and its source text.
    Assert(Expr, String),
}

/// An expression.
#[derive(Clone, Debug, PartialEq)]
pub struct Expr {
    /// Number, unique in the program.
    pub id: u32,
    /// What it is.
    pub kind: ExprKind,
    /// Type.
    pub ty: Ty,
    /// Place.
    pub span: Span,
}

/// A part of a text with holes.
#[derive(Clone, Debug, PartialEq)]
pub enum Part {
    /// Literal text.
    Text(String),
    /// A value shown as text.
    Hole(Expr),
}

/// A statement.
#[derive(Clone, Debug, PartialEq)]
pub enum Stmt {
    /// `let pattern = expr;`
    Let(Pattern, Expr),
    /// `expr;`
    Expr(Expr),
}

/// A pattern.
#[derive(Clone, Debug, PartialEq)]
pub enum Pattern {
    /// `_`
    Any,
    /// A name.
    Bind(Local),
    /// A literal or label.
    Const(Const),
    /// A tuple.
    Tuple(Vec<Pattern>),
}

/// Formats.
#[derive(Clone, Debug, PartialEq)]
pub enum Format {
    /// One that runs.
    Ready(ir::strategy::Format),
    /// `grammar("…")`: checked, not executable.
    Grammar(Span),
}

/// What kind of sampling site.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum GenerateKind {
    /// `gen`
    One,
    /// `sample`
    Many,
    /// `advance`
    Step,
}

/// A sampling site.
#[derive(Clone, Debug, PartialEq)]
pub struct Generate {
    /// `gen`, `sample`, `advance`.
    pub kind: GenerateKind,
    /// Model.
    pub model: Expr,
    /// Context; the sample to go on with for `advance`.
    pub input: Expr,
    /// Optional settings by name (`n live max temp top_p top_k min_p stop seed`), in the order of the table.
    pub settings: Vec<(&'static str, Expr)>,
    /// Place of `step:`, if given.
    pub step: Option<Span>,
    /// Format.
    pub format: Format,
    /// Rules.
    pub rules: Vec<Rule>,
}

impl Generate {
    /// A setting by name.
    #[must_use]
    pub fn setting(&self, name: &str) -> Option<&Expr> {
        self.settings.iter().find(|(n, _)| *n == name).map(|(_, e)| e)
    }
}

/// A rule.
#[derive(Clone, Debug, PartialEq)]
pub struct Rule {
    /// When it is looked at.
    pub level: Level,
    /// Bound variable.
    pub var: Local,
    /// Condition.
    pub when: Option<Expr>,
    /// Actions.
    pub actions: Vec<Action>,
    /// Place.
    pub span: Span,
}

/// An action of a rule.
#[derive(Clone, Debug, PartialEq)]
pub struct Action {
    /// What it does.
    pub kind: ActionKind,
    /// Place.
    pub span: Span,
}

/// What an action does.
#[derive(Clone, Debug, PartialEq)]
pub enum ActionKind {
    /// `branch(k)`
    Branch(u32),
    /// `grow(k)`
    Grow(u32),
    /// `stop`
    Stop,
    /// `drop`
    Drop,
    /// `temperature(x)`
    Temperature(Expr),
    /// `switch`, `redo`, `insert`, `force`: checked, not executable.
    Later(&'static str, Expr),
}

/// Verifiers built in place.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum VerifierKind {
    /// `exact(expected)`
    Exact,
    /// `numeric(expected, tol)`
    Numeric,
    /// `regex(pattern)`
    Regex,
    /// `command("program arg", …)`
    Command,
    /// `lines("program arg", …)`
    Lines,
    /// `both(a, b, …)`
    Both,
}

/// The arms of a `route`.
#[derive(Clone, Debug, PartialEq)]
pub struct Route {
    /// The choice.
    pub choice: Expr,
    /// Threshold.
    pub min: Option<Expr>,
    /// Arms.
    pub arms: Vec<(String, Expr)>,
    /// Otherwise.
    pub otherwise: Expr,
}

/// A `for`.
#[derive(Clone, Debug, PartialEq)]
pub struct For {
    /// Item.
    pub pattern: Pattern,
    /// List.
    pub iter: Expr,
    /// Carried variable and first value.
    pub carry: Option<(Local, Expr)>,
    /// Body.
    pub body: Expr,
}

/// The budget of a `within`.
#[derive(Clone, Debug, PartialEq)]
pub enum WithinBudget {
    /// Limits by name.
    Limits(Vec<(String, Expr)>),
    /// A `Budget`.
    Value(Box<Expr>),
}

/// What an expression is.
#[derive(Clone, Debug, PartialEq)]
pub enum ExprKind {
    /// Constant.
    Const(Const),
    /// Text with holes.
    Template(Vec<Part>),
    /// Local variable.
    Local(Local),
    /// Tunable `i`.
    Tunable(usize),
    /// Role `i`.
    Role(usize),
    /// Constant item `i`.
    ConstItem(usize),
    /// Chat messages: the body of a prompt.
    Prompt(Vec<(Speaker, Vec<Part>)>),
    /// A pure operation; function operands are [`ExprKind::Lambda`] or locals of function type.
    Prim(Prim, Vec<Expr>),
    /// `a and b`
    And(Box<Expr>, Box<Expr>),
    /// `a or b`
    Or(Box<Expr>, Box<Expr>),
    /// Call of function `i`; arguments by parameter, `None`: default.
    Call(usize, Vec<Option<Expr>>),
    /// Call of a function-typed parameter.
    Apply(Local, Vec<Expr>),
    /// `|a, b| e`
    Lambda(Vec<Local>, Box<Expr>),
    /// `gen`, `sample`, `advance`
    Generate(Box<Generate>),
    /// `score` (false) or `verify` (true): verifier, sample, fold.
    Score(Box<Expr>, Box<Expr>, bool),
    /// `logprob`: model, context, text.
    LogProb(Box<Expr>, Box<Expr>, Box<Expr>),
    /// `choose`: model, context, labels.
    Choose(Box<Expr>, Box<Expr>, Box<Expr>),
    /// `expect`: model, context, digits.
    Expect(Box<Expr>, Box<Expr>, i64, i64),
    /// Verifier built in place.
    Verifier(VerifierKind, Vec<Expr>),
    /// Statistic of a distribution.
    Dist(DistField, Window, Box<Expr>),
    /// `remaining()`
    Remaining,
    /// `spent()`
    Spent,
    /// Statements and a value.
    Block(Vec<Stmt>, Option<Box<Expr>>),
    /// `if`
    If(Box<Expr>, Box<Expr>, Option<Box<Expr>>),
    /// `match`
    Match(Box<Expr>, Vec<(Pattern, Expr)>),
    /// `route`
    Route(Box<Route>),
    /// `a ?? b`
    Coalesce(Box<Expr>, Box<Expr>),
    /// `for`
    For(Box<For>),
    /// `par x in xs`: item, list, body.
    Par(Pattern, Box<Expr>, Box<Expr>),
    /// `par { a: … }`
    ParRecord(Vec<(String, Expr)>),
    /// `race { … }`
    Race(Vec<Expr>),
    /// `within B { … } else { … }`
    Within(WithinBudget, Box<Expr>, Option<Box<Expr>>),
    /// `return`
    Return(Option<Box<Expr>>),
    /// `break`
    Break(Option<Box<Expr>>),
    /// `fail`
    Fail(Option<Box<Expr>>),
    /// A construct that is checked but does not run yet: its name and named operands.
    Later(&'static str, Vec<(&'static str, Expr)>),
    /// Could not be understood (already reported).
    Error,
}
