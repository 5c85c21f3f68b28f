//! The one table of what is built in: functions, fields, methods, formats, verifiers, actions, limits, allowances,
//! boundaries, capabilities, units and types, with signature, documentation and whether it runs already.
//!
//! It feeds the checker (argument binding, fields, suggestions) and [`reference`], the text of `dsl/REFERENCE.md`.
//! What a call *means* is written in `check::calls` (types), `bounds` (cost) and `lower` (operations).

use crate::builtin_docs::DOCS;
use std::fmt::Write as _;

/// The chapters of the reference.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Kind {
    /// Functions that call models.
    Effect,
    /// Pure functions.
    Function,
    /// Verifiers built in place.
    Verifier,
    /// Output formats (`out:`).
    Format,
    /// Actions of rules.
    Action,
    /// Inline model bindings.
    Binding,
    /// Step boundaries.
    Boundary,
    /// Limits of `within`.
    Limit,
    /// Entries of `allow`.
    Allowance,
    /// Capabilities of `needs`.
    Capability,
    /// Model roles.
    Role,
    /// Types.
    Type,
}

impl Kind {
    const ALL: [(Self, &'static str); 12] = [
        (Self::Effect, "Operations on models"),
        (Self::Function, "Functions"),
        (Self::Verifier, "Verifiers"),
        (Self::Format, "Output formats"),
        (Self::Action, "Actions of rules"),
        (Self::Binding, "Inline bindings"),
        (Self::Boundary, "Step boundaries"),
        (Self::Limit, "Limits (`within`)"),
        (Self::Allowance, "Allowances (`allow`)"),
        (Self::Capability, "Capabilities (`needs`)"),
        (Self::Role, "Model roles"),
        (Self::Type, "Types"),
    ];
}

/// A built-in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Builtin {
    /// Name as written; boundaries with their path.
    pub name: &'static str,
    /// Chapter.
    pub kind: Kind,
    /// Parameters: see [`Builtin::params`].
    pub params: &'static str,
    /// Result, as text.
    pub result: &'static str,
    /// One or two sentences.
    pub doc: &'static str,
    /// It can be executed.
    pub runs: bool,
}

/// A parameter of a built-in function.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Param {
    /// Name.
    pub name: &'static str,
    /// Type, as text.
    pub ty: &'static str,
    /// Given by name only.
    pub named: bool,
    /// May be left out.
    pub optional: bool,
    /// Takes all further positional arguments.
    pub rest: bool,
}

impl Builtin {
    /// The parameters, read from `"m: Generator, c: Ctx; max: Tokens, temp?: Float"`: `;` begins the named ones, `?`
    /// marks optional ones, a leading `..` takes all further arguments.
    #[must_use]
    pub fn params(&self) -> Vec<Param> {
        let mut params = Vec::new();
        let (mut depth, mut start, mut named) = (0i32, 0, false);
        for (i, c) in self.params.char_indices().chain([(self.params.len(), ',')]) {
            match c {
                '(' | '[' | '<' => depth += 1,
                ')' | ']' => depth -= 1,
                '>' if !self.params[..i].ends_with('-') => depth -= 1,
                ',' | ';' if depth == 0 => {
                    params.extend(param(self.params[start..i].trim(), named));
                    named |= c == ';';
                    start = i + 1;
                }
                _ => {}
            }
        }
        params
    }

    /// The signature as shown to people.
    #[must_use]
    pub fn signature(&self) -> String {
        let callable = matches!(self.kind, Kind::Effect | Kind::Function | Kind::Verifier | Kind::Binding)
            || !self.params.is_empty();
        let mut text = self.name.to_owned();
        if callable {
            let _ = write!(text, "({})", self.params);
        }
        if !self.result.is_empty() {
            let _ = write!(text, " -> {}", self.result);
        }
        text
    }
}

fn param(text: &'static str, named: bool) -> Option<Param> {
    if text.is_empty() {
        return None;
    }
    let (name, ty) = text.split_once(": ").unwrap_or((text, ""));
    let (rest, name) = name.strip_prefix("..").map_or((false, name), |n| (true, n));
    let (optional, name) = name.strip_suffix('?').map_or((rest, name), |n| (true, n));
    Some(Param { name, ty, named, optional, rest })
}

/// Looks a built-in up.
#[must_use]
pub fn find(kind: Kind, name: &str) -> Option<&'static Builtin> {
    DOCS.iter().find(|b| b.kind == kind && b.name == name)
}

/// A function, effect, verifier or binding of that name.
#[must_use]
pub fn callable(name: &str) -> Option<&'static Builtin> {
    [Kind::Effect, Kind::Function, Kind::Verifier].into_iter().find_map(|kind| find(kind, name))
}

/// All names of a chapter.
pub fn names(kind: Kind) -> impl Iterator<Item = &'static str> {
    DOCS.iter().filter(move |b| b.kind == kind).map(|b| b.name)
}

/// The type of a field, relative to the `T` of its owner.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FieldTy {
    /// `Text`
    Text,
    /// `Int`
    Int,
    /// `Float`
    Float,
    /// `Prob`
    Prob,
    /// `Bool`
    Bool,
    /// `Tokens`
    Tokens,
    /// `Time`
    Time,
    /// `Usd`
    Usd,
    /// `Bytes`
    Bytes,
    /// `Usage`
    Usage,
    /// `T?`
    InnerOptional,
    /// The list of what was voted on.
    Members,
}

/// A field: owner, name, type, words.
pub type Field = (&'static str, &'static str, FieldTy, &'static str);

/// The fields of built-in types. Lists have `.len` and `.first`, records their own fields.
pub const FIELDS: &[Field] = &[
    ("Sample", "text", FieldTy::Text, "all generated text"),
    (
        "Sample",
        "value",
        FieldTy::InnerOptional,
        "the text read by the format of `out:`; `none` if it could not be read",
    ),
    ("Sample", "ended", FieldTy::Bool, "it ended by itself: end of sequence or a stop text, not `max`"),
    (
        "Sample",
        "logprob",
        FieldTy::Float,
        "mean log-probability of its tokens (nats per token), under the model that made it, before temperature",
    ),
    ("Sample", "tokens", FieldTy::Tokens, "number of generated tokens"),
    ("Sample", "entropy", FieldTy::Float, "mean entropy of the next-token distributions, nats"),
    ("Sample", "last", FieldTy::Text, "text of the last step (everything, if there are no steps)"),
    ("Sample", "usage", FieldTy::Usage, "what making it used"),
    ("Vote", "value", FieldTy::InnerOptional, "the key with the largest weight; `none` if nothing had a key"),
    ("Vote", "share", FieldTy::Float, "weight of the winner over the weight of all items, with a key or without"),
    ("Vote", "margin", FieldTy::Float, "share of the winner minus share of the second"),
    ("Vote", "members", FieldTy::Members, "what voted for the winner, in order"),
    ("Vote", "usage", FieldTy::Usage, "what the run used until the vote"),
    ("Usage", "tokens", FieldTy::Tokens, "sampled tokens"),
    ("Usage", "calls", FieldTy::Int, "calls of models"),
    ("Usage", "samples", FieldTy::Int, "finished sequences"),
    ("Usage", "seconds", FieldTy::Time, "time"),
    ("Choice", "text", FieldTy::Text, "the most probable label"),
    ("Choice", "prob", FieldTy::Prob, "its probability among the labels"),
    ("Choice", "margin", FieldTy::Float, "its probability minus that of the second"),
    ("Budget", "tokens", FieldTy::Tokens, "tokens left"),
    ("Budget", "calls", FieldTy::Int, "calls left"),
    ("Budget", "time", FieldTy::Time, "time left"),
    ("Budget", "usd", FieldTy::Usd, "money left"),
    ("Budget", "kv", FieldTy::Bytes, "bytes of KV left"),
    ("Dist", "entropy", FieldTy::Float, "Shannon entropy of the next token, nats; also `.mean(k)` and `.ema(a)`"),
    ("Dist", "varentropy", FieldTy::Float, "variance of the surprise, nats²; also `.mean(k)` and `.ema(a)`"),
    (
        "Dist",
        "margin",
        FieldTy::Float,
        "probability of the first minus the second token; also `.mean(k)` and `.ema(a)`",
    ),
    ("Dist", "top1", FieldTy::Float, "probability of the first token; also `.mean(k)` and `.ema(a)`"),
];

/// Methods: owner, signature, words, whether it runs.
pub const METHODS: &[(&str, &str, &str, bool)] = &[
    (
        "Ctx",
        "add(x: Text | Sample | Ctx) -> Ctx",
        "the context and one more turn: a text speaks as user, a sample as assistant",
        true,
    ),
    ("Vote", "top(k: Int) -> [T]", "the members of the k largest classes", true),
    ("Dist", "p(text: Text) -> Float", "probability that the next token is the first one of the text", false),
];

/// Units: name, type, how many base units (tokens, seconds, dollars, bytes, 1).
pub const UNITS: &[(&str, &str, f64)] = &[
    ("tok", "Tokens", 1.0),
    ("ktok", "Tokens", 1e3),
    ("Mtok", "Tokens", 1e6),
    ("us", "Time", 1e-6),
    ("ms", "Time", 1e-3),
    ("s", "Time", 1.0),
    ("min", "Time", 60.0),
    ("h", "Time", 3600.0),
    ("d", "Time", 86400.0),
    ("usd", "Usd", 1.0),
    ("B", "Bytes", 1.0),
    ("kB", "Bytes", 1e3),
    ("MB", "Bytes", 1e6),
    ("GB", "Bytes", 1e9),
    ("TB", "Bytes", 1e12),
    ("KiB", "Bytes", 1024.0),
    ("MiB", "Bytes", 1048576.0),
    ("GiB", "Bytes", 1073741824.0),
    ("TiB", "Bytes", 1099511627776.0),
    ("%", "Prob", 0.01),
];

/// The text of `dsl/REFERENCE.md`.
#[must_use]
pub fn reference() -> String {
    let mut out = String::from(
        "# Language reference\n\nGenerated from the table of built-ins; a test fails when it is stale. In signatures `;` \
         begins the arguments\nthat are given by name, `?` marks those that may be left out.\n",
    );
    for (kind, title) in Kind::ALL {
        let _ = write!(out, "\n## {title}\n\n");
        for b in DOCS.iter().filter(|b| b.kind == kind) {
            let later = if b.runs { "" } else { " *Checked, not executable in version 0.1.*" };
            let _ = writeln!(out, "- `{}`: {}{later}", b.signature(), b.doc);
        }
    }
    out.push_str("\n## Fields and methods\n\n- `[T; N].len -> Int`: number of items; also of texts (bytes)\n");
    out.push_str(
        "- `[T; N].first -> T?`: the first item\n- `xs[i] -> T`: an item; an index outside is an error of the run\n",
    );
    for (owner, name, ty, doc) in FIELDS {
        let ty = match ty {
            FieldTy::InnerOptional => "T?".to_owned(),
            FieldTy::Members => "[T]".to_owned(),
            other => format!("{other:?}"),
        };
        let _ = writeln!(out, "- `{owner}.{name} -> {ty}`: {doc}");
    }
    for (owner, signature, doc, runs) in METHODS {
        let later = if *runs { "" } else { ". *Checked, not executable in version 0.1.*" };
        let _ = writeln!(out, "- `{owner}.{signature}`: {doc}{later}");
    }
    out.push_str("\n## Units\n\n");
    for (name, ty, factor) in UNITS {
        let base = match *ty {
            "Tokens" => " tokens",
            "Time" => " seconds",
            "Usd" => " US dollars",
            "Bytes" => " bytes",
            _ => "",
        };
        let _ = writeln!(out, "- `1{name}`: {factor}{base} (`{ty}`)");
    }
    out.push_str(DECISIONS);
    out
}

const DECISIONS: &str = "
## Decisions

- A literal takes its type from its place: `1` may stand for `Float`, `0.5` for `Float` or `Prob`. Values never convert.
- `T` may stand where `T?` is needed. `T??` is `T?`.
- `Prob` may be compared with `Float`; `Score` with `Score` only.
- Arithmetic on `Prob` gives `Float`.
- `lo..hi` in a `param` or `tunable` range includes both ends; as a list it leaves out `hi`.
- `sample` returns at most `live` sequences, `n` of them started at once unless the plan says otherwise.
- In `vote` and `agree` an item whose key is `none` belongs to no class but counts in the whole: three equal answers and one
  without a value are a share of 0.75. Ties go to the class that appeared first.
- `best` prefers the earlier of equal items; items whose key is not a number (NaN) come last.
- A called strategy is expanded in place and its `within` guards its part.
- A file's roles are shared by name with the files that it uses; `needs` add up.
- Unknown stop texts, zero counts and negative temperatures are errors of the compiler where it can see them, of the run
  otherwise.

## Annotations of the suite

A case is a heading `--- name stages ---` and the program under it; `=== path` begins a further file of the case.
`# error[E0310] 14-19: message` stands above the line it speaks of, with the columns of the first and after the last
character in that line (from 1). Every diagnostic must be annotated and every annotation met.
";
