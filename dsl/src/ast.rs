//! What was written: the syntax tree of a `.infer` file, with spans. Nothing is resolved here.
//!
//! The parser is total: where it could not read something it leaves [`ExprKind::Error`] (or drops the item) and
//! reports a diagnostic. Sugar is kept as written so that `format` can print it back.

use ir::diagnostic::Span;

/// A name and where it stands.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Name {
    /// Text.
    pub text: String,
    /// Place.
    pub span: Span,
}

/// A file.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct File {
    /// Items in order.
    pub items: Vec<Item>,
    /// All comments (`//`, `///`), in order, with their places.
    pub comments: Vec<Comment>,
}

/// A comment.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Comment {
    /// Text from the slashes to the end of the line, without the line break.
    pub text: String,
    /// Place.
    pub span: Span,
    /// It is documentation (`///`).
    pub doc: bool,
    /// It stands alone on its line.
    pub own_line: bool,
}

/// An item.
#[derive(Clone, Debug, PartialEq)]
pub struct Item {
    /// What it is.
    pub kind: ItemKind,
    /// Whole extent.
    pub span: Span,
    /// Documentation lines above it, without slashes.
    pub doc: Vec<String>,
}

/// The kinds of items.
#[derive(Clone, Debug, PartialEq)]
pub enum ItemKind {
    /// `use a::b::{c, d as e};`
    Use(UseTree),
    /// `model NAME : KIND needs a, b = expr;`
    Model {
        /// Role name.
        name: Name,
        /// `Generator`, `Scorer`, ….
        kind: Name,
        /// Capabilities.
        needs: Vec<Name>,
        /// Inline binding.
        binding: Option<Expr>,
    },
    /// `tool NAME(params) -> T timeout Q cost Q;`
    Tool {
        /// Name.
        name: Name,
        /// Parameters.
        params: Vec<Param>,
        /// Result.
        result: Type,
        /// Time limit.
        timeout: Option<Expr>,
        /// Price of a call.
        cost: Option<Expr>,
    },
    /// `type NAME { field: T, … }`
    Record {
        /// Name.
        name: Name,
        /// Fields.
        fields: Vec<(Name, Type)>,
    },
    /// `enum NAME { A, B }`
    Enum {
        /// Name.
        name: Name,
        /// Labels.
        labels: Vec<Name>,
    },
    /// `prompt NAME(params) { role STRING … }`
    Prompt {
        /// Name.
        name: Name,
        /// Parameters.
        params: Vec<Param>,
        /// Messages in order.
        messages: Vec<(Role, Template)>,
    },
    /// `const NAME: T = expr;`
    Const {
        /// Name.
        name: Name,
        /// Type.
        ty: Type,
        /// Value.
        value: Expr,
    },
    /// `tunable NAME: T = expr in range;`
    Tunable {
        /// Name.
        name: Name,
        /// Type.
        ty: Type,
        /// Default.
        value: Expr,
        /// Range.
        range: Expr,
    },
    /// `fn NAME(params) -> T { … }`
    Fn {
        /// Name.
        name: Name,
        /// Parameters.
        params: Vec<Param>,
        /// Result.
        result: Type,
        /// Body.
        body: Block,
    },
    /// `strategy NAME(params) -> T within {…} allow {…} { … }`
    Strategy {
        /// Name.
        name: Name,
        /// Parameters.
        params: Vec<Param>,
        /// Result.
        result: Type,
        /// Declared limits.
        within: Option<Limits>,
        /// Allowed approximations.
        allow: Option<Limits>,
        /// Body.
        body: Block,
    },
    /// `precompute NAME(params) -> T within {…} warm m ttl Q { … }`
    Precompute {
        /// Name.
        name: Name,
        /// Parameters.
        params: Vec<Param>,
        /// Result.
        result: Type,
        /// Declared limits.
        within: Option<Limits>,
        /// Roles whose KV is materialised.
        warm: Vec<Name>,
        /// Life time.
        ttl: Option<Expr>,
        /// Body.
        body: Block,
    },
    /// `test STRING { … }`
    Test {
        /// Title.
        title: String,
        /// Body; `mock` and `assert` are statements of it.
        body: Block,
    },
    /// Something that could not be read (already reported).
    Error,
}

/// What a `use` brings in.
#[derive(Clone, Debug, PartialEq)]
pub enum UseTree {
    /// `name` or `name as other`
    Name(Name, Option<Name>),
    /// `first::rest`
    Path(Name, Box<UseTree>),
    /// `{a, b}`
    Group(Vec<Name>),
}

/// Who speaks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// `system`
    System,
    /// `user`
    User,
    /// `assistant`
    Assistant,
}

/// A string with `${expr}` holes. Raw (`"""`) strings are dedented here.
#[derive(Clone, Debug, PartialEq)]
pub struct Template {
    /// Parts in order.
    pub parts: Vec<TemplatePart>,
    /// Written with `"""`.
    pub raw: bool,
    /// Place of the whole literal.
    pub span: Span,
}

/// A part of a [`Template`].
#[derive(Clone, Debug, PartialEq)]
pub enum TemplatePart {
    /// Literal text, escapes resolved.
    Text(String),
    /// `${expr}`
    Hole(Expr),
}

/// `{ name: expr, … }` of `within`, `allow`, `par`.
#[derive(Clone, Debug, PartialEq)]
pub struct Limits {
    /// Entries in order.
    pub entries: Vec<(Name, Expr)>,
    /// Place, braces included.
    pub span: Span,
}

/// A parameter.
#[derive(Clone, Debug, PartialEq)]
pub struct Param {
    /// Name.
    pub name: Name,
    /// Type.
    pub ty: Type,
    /// Default.
    pub default: Option<Expr>,
    /// Range.
    pub range: Option<Expr>,
}

/// A type as written.
#[derive(Clone, Debug, PartialEq)]
pub struct Type {
    /// What it is.
    pub kind: TypeKind,
    /// Place.
    pub span: Span,
}

/// The forms of a type.
#[derive(Clone, Debug, PartialEq)]
pub enum TypeKind {
    /// `Name<T, …>`
    Named(Name, Vec<Type>),
    /// `[T; N]` (`N` may be missing).
    List(Box<Type>, Option<Box<Expr>>),
    /// `(A, B, …)`
    Tuple(Vec<Type>),
    /// `T?`
    Optional(Box<Type>),
    /// `fn(A) -> B`
    Fn(Vec<Type>, Box<Type>),
    /// Could not be read.
    Error,
}

/// `{ statements; value }`
#[derive(Clone, Debug, PartialEq)]
pub struct Block {
    /// Statements before the value.
    pub stmts: Vec<Stmt>,
    /// The value: the last expression without a semicolon, a last block-like statement included.
    pub value: Option<Box<Expr>>,
    /// Place, braces included.
    pub span: Span,
}

/// A statement.
#[derive(Clone, Debug, PartialEq)]
pub struct Stmt {
    /// What it is.
    pub kind: StmtKind,
    /// Place.
    pub span: Span,
}

/// The kinds of statements.
#[derive(Clone, Debug, PartialEq)]
pub enum StmtKind {
    /// `let pattern: T = expr;`
    Let(Pattern, Option<Type>, Expr),
    /// `assert expr;`
    Assert(Expr),
    /// `mock NAME = expr;`
    Mock(Name, Expr),
    /// `expr;`
    Expr(Expr),
}

/// A pattern.
#[derive(Clone, Debug, PartialEq)]
pub struct Pattern {
    /// What it is.
    pub kind: PatternKind,
    /// Place.
    pub span: Span,
}

/// The forms of a pattern.
#[derive(Clone, Debug, PartialEq)]
pub enum PatternKind {
    /// A name: binds, or an enum label where one is expected; `_` binds nothing.
    Name(Name),
    /// A literal.
    Literal(Literal),
    /// `(a, b)`
    Tuple(Vec<Pattern>),
}

/// A number with an optional unit, as written.
#[derive(Clone, Debug, PartialEq)]
pub struct Quantity {
    /// Digits as written, underscores kept: `1_000.5`.
    pub digits: String,
    /// Unit as written: `ktok`, `ms`, `%`, or empty.
    pub unit: String,
}

/// A literal.
#[derive(Clone, Debug, PartialEq)]
pub enum Literal {
    /// `12`, `0.5`, `4ktok`, `1%`
    Quantity(Quantity),
    /// `"…"` without holes, escapes resolved.
    Text(String),
    /// `true`, `false`
    Bool(bool),
    /// `none`
    None,
}

/// An expression.
#[derive(Clone, Debug, PartialEq)]
pub struct Expr {
    /// What it is.
    pub kind: ExprKind,
    /// Place.
    pub span: Span,
}

/// Two-operand operators.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BinOp {
    /// `or`
    Or,
    /// `and`
    And,
    /// `==`
    Eq,
    /// `!=`
    Ne,
    /// `<`
    Lt,
    /// `<=`
    Le,
    /// `>`
    Gt,
    /// `>=`
    Ge,
    /// `+`
    Add,
    /// `-`
    Sub,
    /// `*`
    Mul,
    /// `/`
    Div,
    /// `a ?? b`
    Coalesce,
    /// `a..b`
    Range,
    /// `a..=b`
    RangeInclusive,
}

/// One-operand operators.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum UnOp {
    /// `not`
    Not,
    /// `-`
    Neg,
}

/// An argument of a call.
#[derive(Clone, Debug, PartialEq)]
pub struct Arg {
    /// `name:`
    pub name: Option<Name>,
    /// Value.
    pub value: Expr,
}

/// A rule of an `on { … }` block.
#[derive(Clone, Debug, PartialEq)]
pub struct Rule {
    /// Level: `token`, `step`, `end`, `set`.
    pub level: RuleLevel,
    /// Place of the level's keyword.
    pub level_span: Span,
    /// Bound names.
    pub vars: Vec<Name>,
    /// Condition.
    pub when: Option<Expr>,
    /// Actions, in order.
    pub actions: Vec<Expr>,
    /// Place.
    pub span: Span,
}

/// When a rule is looked at.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RuleLevel {
    /// Before each token of each live sequence.
    Token,
    /// After each boundary.
    Step,
    /// When a sequence ends.
    End,
    /// After any change of the set of finished sequences.
    Set,
}

/// The arm of a `route`.
#[derive(Clone, Debug, PartialEq)]
pub struct RouteArm {
    /// Label.
    pub label: Name,
    /// Value.
    pub value: Expr,
}

/// The kinds of expressions.
#[derive(Clone, Debug, PartialEq)]
pub enum ExprKind {
    /// Literal.
    Literal(Literal),
    /// String with holes.
    Template(Template),
    /// `a::b::c` or `a`
    Path(Vec<Name>),
    /// `[a, b]`
    List(Vec<Expr>),
    /// `(a, b)`
    Tuple(Vec<Expr>),
    /// `(a)`: kept for printing.
    Paren(Box<Expr>),
    /// `f(args)`
    Call(Box<Expr>, Vec<Arg>),
    /// `a[i]`
    Index(Box<Expr>, Box<Expr>),
    /// `a.b`
    Field(Box<Expr>, Name),
    /// `e on { rules }`
    On(Box<Expr>, Vec<Rule>),
    /// Two operands.
    Binary(BinOp, Box<Expr>, Box<Expr>),
    /// One operand.
    Unary(UnOp, Box<Expr>),
    /// `|a, b| e`
    Lambda(Vec<Name>, Box<Expr>),
    /// `return e`
    Return(Option<Box<Expr>>),
    /// `break e`
    Break(Option<Box<Expr>>),
    /// `fail e`
    Fail(Option<Box<Expr>>),
    /// `{ … }` (body of a lambda, arm of a match)
    Block(Block),
    /// `if c { … } else …`
    If(Box<Expr>, Block, Option<Box<Expr>>),
    /// `match e { p => e, … }`
    Match(Box<Expr>, Vec<(Pattern, Expr)>),
    /// `route c min p { label => e, …, else => e }`
    Route {
        /// The choice.
        choice: Box<Expr>,
        /// Threshold.
        min: Option<Box<Expr>>,
        /// Arms.
        arms: Vec<RouteArm>,
        /// Otherwise; missing only after a reported error.
        otherwise: Option<Box<Expr>>,
    },
    /// `for p in xs carry a = init { … }`
    For {
        /// Bound pattern.
        pattern: Pattern,
        /// What is walked.
        iter: Box<Expr>,
        /// Carried name and first value.
        carry: Option<(Name, Box<Expr>)>,
        /// Body.
        body: Block,
    },
    /// `par p in xs { … }`
    Par {
        /// Bound pattern.
        pattern: Pattern,
        /// What is walked.
        iter: Box<Expr>,
        /// Body.
        body: Block,
    },
    /// `par { a: …, b: … }`
    ParRecord(Limits),
    /// `race { a, b }`
    Race(Vec<Expr>),
    /// `within { … } { … } else { … }` or `within e { … }`
    Within {
        /// The limits: written out, or an expression of type `Budget`.
        budget: Box<WithinBudget>,
        /// Guarded block.
        body: Block,
        /// Taken when the guard trips.
        otherwise: Option<Block>,
    },
    /// Could not be read (already reported).
    Error,
}

/// The budget of a `within` expression.
#[derive(Clone, Debug, PartialEq)]
pub enum WithinBudget {
    /// `{ tokens: 1ktok, … }`
    Limits(Limits),
    /// An expression of type `Budget`.
    Expr(Expr),
}
