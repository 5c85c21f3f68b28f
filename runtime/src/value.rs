//! Values of a running strategy: one [`Value`] for every type of the language, with total conversions.
//!
//! Takes: the checker's types (`ir::strategy::Ty`), JSON and command-line words. Returns: values, JSON, text, or a
//! [`ValueError`] that names the place. Values are immutable and cheap to copy (`Arc` inside).
//! `Float`, `Prob` and `Score` share [`Value::Float`]: the checker keeps them apart, at run time they are numbers.
//! An optional holds either [`Value::None`] or the value itself. Deliberately absent: operations (`exec::prims`).

use ir::strategy::{Const, Speaker, Ty};
use serde_json::{Value as Json, json};
use std::fmt::Write as _;
use std::sync::Arc;

/// A value.
#[derive(Clone, Debug, PartialEq)]
pub enum Value {
    /// No value.
    Unit,
    /// Absent optional.
    None,
    /// Truth value.
    Bool(bool),
    /// Integer.
    Int(i64),
    /// Float, probability or score.
    Float(f64),
    /// Text.
    Text(Arc<str>),
    /// A number of tokens.
    Tokens(u64),
    /// Seconds.
    Time(f64),
    /// US dollars.
    Usd(f64),
    /// Bytes.
    Bytes(u64),
    /// Label of an enumeration.
    Label(Arc<str>),
    /// Prompt context.
    Ctx(Arc<Context>),
    /// A generated sequence.
    Sample(Arc<Sample>),
    /// List.
    List(Arc<[Value]>),
    /// Tuple.
    Tuple(Arc<[Value]>),
    /// Record: type name and fields in order.
    Record(Arc<Record>),
    /// Result of a vote.
    Vote(Arc<Vote>),
    /// Labels with probabilities.
    Choice(Arc<Choice>),
    /// What was used.
    Usage(Usage),
    /// Limits.
    Budget(Budget),
    /// Model role by index.
    Model(u32),
    /// A verifier built in place.
    Verifier(Arc<Verifier>),
    /// A function: the variable its lambda is bound to.
    Function(ir::strategy::Var),
    /// The next-token distribution a token rule looks at (only its statistics can be read).
    Dist,
}

/// A record.
#[derive(Clone, Debug, PartialEq)]
pub struct Record {
    /// Type name; empty for the record of a `par { … }`.
    pub name: String,
    /// Fields in declared order.
    pub fields: Vec<(String, Value)>,
}

/// A prompt context: the turns of a conversation. The next generation answers it; when the last turn is the
/// assistant's, it continues that turn.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Context {
    /// Turns in order.
    pub turns: Vec<Turn>,
}

/// A turn of a conversation.
#[derive(Clone, Debug, PartialEq)]
pub struct Turn {
    /// Who speaks.
    pub speaker: Speaker,
    /// What is said.
    pub text: Arc<str>,
    /// Role and token ids, when a model of this run wrote it: continuing the turn continues exactly these tokens.
    pub tokens: Option<(u32, Arc<[u32]>)>,
}

/// Why a sequence ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum EndReason {
    /// The model ended its turn.
    End,
    /// A stop text appeared.
    StopText,
    /// The enforced format is complete.
    Format,
    /// A rule stopped it.
    Rule,
    /// The limit of new tokens.
    Max,
    /// The model's context is full.
    Context,
    /// Cancelled while running: by a set rule, a budget or the caller.
    Cancelled,
    /// The model failed on it.
    Error,
}

impl EndReason {
    /// Whether the text is complete, as against cut off.
    #[must_use]
    pub fn is_complete(self) -> bool {
        matches!(self, Self::End | Self::StopText | Self::Format | Self::Rule)
    }

    /// The word of reports.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::End => "end",
            Self::StopText => "stop",
            Self::Format => "format",
            Self::Rule => "rule",
            Self::Max => "max",
            Self::Context => "context",
            Self::Cancelled => "cancelled",
            Self::Error => "error",
        }
    }
}

/// A generated sequence.
#[derive(Clone, Debug, PartialEq)]
pub struct Sample {
    /// Index in its site: children of a branch come after the sequences that were asked for.
    pub index: u32,
    /// Role that wrote it.
    pub role: u32,
    /// Text, without the end token and without the stop text.
    pub text: Arc<str>,
    /// Value of its format, or [`Value::None`].
    pub value: Value,
    /// Sampled token ids, the end token included when the model sampled one.
    pub tokens: Arc<[u32]>,
    /// Natural logarithm of the model's probability of each token (before temperature and filters).
    pub logprobs: Arc<[f32]>,
    /// Mean entropy of the distributions the tokens were drawn from, nats.
    pub entropy: f64,
    /// Why it ended.
    pub reason: EndReason,
    /// What went wrong, if [`EndReason::Error`].
    pub error: Option<Arc<str>>,
    /// Context it answers.
    pub context: Arc<Context>,
    /// Token ids of the prompt.
    pub prompt: Arc<[u32]>,
    /// What it used: its own tokens, one call, one sample, seconds from start to end.
    pub usage: Usage,
}

impl Sample {
    /// Mean log-probability of its tokens, nats; 0 without tokens.
    #[must_use]
    pub fn logprob(&self) -> f64 {
        self.logprobs.iter().map(|&p| f64::from(p)).sum::<f64>() / self.logprobs.len().max(1) as f64
    }

    /// The last paragraph of the text.
    #[must_use]
    pub fn last_step(&self) -> &str {
        self.text.trim_end().rsplit("\n\n").next().unwrap_or("")
    }
}

/// Result of a vote.
#[derive(Clone, Debug, PartialEq)]
pub struct Vote {
    /// Key of the largest class, or [`Value::None`].
    pub value: Value,
    /// Its share of the weight.
    pub share: f64,
    /// Its share minus the share of the second.
    pub margin: f64,
    /// Classes, largest first: key, weight, members in their old order.
    pub classes: Vec<(Value, f64, Vec<Value>)>,
    /// What the run used until the vote.
    pub usage: Usage,
}

/// Labels with probabilities.
#[derive(Clone, Debug, PartialEq)]
pub struct Choice {
    /// Labels in the order given.
    pub labels: Vec<Arc<str>>,
    /// Probabilities, summing to 1.
    pub probabilities: Vec<f64>,
}

impl Choice {
    /// Index of the most probable label, the first of equals; `None` without labels.
    #[must_use]
    pub fn top(&self) -> Option<usize> {
        (0..self.probabilities.len()).reduce(|a, b| if self.probabilities[b] > self.probabilities[a] { b } else { a })
    }

    /// Probability of the first minus the second.
    #[must_use]
    pub fn margin(&self) -> f64 {
        let mut sorted = self.probabilities.clone();
        sorted.sort_by(|a, b| b.total_cmp(a));
        sorted.first().copied().unwrap_or(0.0) - sorted.get(1).copied().unwrap_or(0.0)
    }
}

/// What was used.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Usage {
    /// Sampled tokens, those of cancelled sequences included.
    pub tokens: u64,
    /// Prompt tokens computed (a reused prefix is not counted).
    pub prompt_tokens: u64,
    /// Model and verifier calls: sequences, scores, choices, expectations, log-probabilities.
    pub calls: u64,
    /// Sequences that ended by themselves.
    pub samples: u64,
    /// Sequences cancelled while running.
    pub cancelled: u64,
    /// Verifications without a verdict.
    pub inconclusive: u64,
    /// Seconds.
    pub seconds: f64,
    /// US dollars.
    pub usd: f64,
}

impl Usage {
    /// Adds another usage.
    pub fn add(&mut self, other: &Self) {
        self.tokens += other.tokens;
        self.prompt_tokens += other.prompt_tokens;
        self.calls += other.calls;
        self.samples += other.samples;
        self.cancelled += other.cancelled;
        self.inconclusive += other.inconclusive;
        self.seconds += other.seconds;
        self.usd += other.usd;
    }
}

/// Limits; `None`: unlimited.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Budget {
    /// Sampled tokens.
    pub tokens: Option<u64>,
    /// Calls.
    pub calls: Option<u64>,
    /// Bytes of KV.
    pub kv: Option<u64>,
    /// Seconds.
    pub time: Option<f64>,
    /// US dollars.
    pub usd: Option<f64>,
}

/// A verifier with its arguments.
#[derive(Clone, Debug, PartialEq)]
pub enum Verifier {
    /// The answer equals the text.
    Exact(Arc<str>),
    /// The answer is the number, within a tolerance.
    Numeric(f64, f64),
    /// The answer matches the pattern somewhere.
    Regex(Arc<str>),
    /// A host program: words of its command line, and further arguments it gets as JSON.
    Command(Vec<String>, Vec<Value>),
    /// All must pass.
    All(Vec<Value>),
    /// A host program that answers line by line: words of its command line, and further arguments it gets as JSON.
    Lines(Vec<String>, Vec<Value>),
}

impl Verifier {
    /// How many checks it makes at most, those of verifiers inside it included.
    #[must_use]
    pub fn checks(&self) -> u64 {
        let of = |part: &Value| if let Value::Verifier(inner) = part { inner.checks() } else { 1 };
        if let Self::All(parts) = self { parts.iter().map(of).sum() } else { 1 }
    }
}

/// A value that cannot be had from its input.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{place}: expected {expected}, found {found}")]
pub struct ValueError {
    /// Where: name of a parameter, and the path inside it.
    pub place: String,
    /// What was expected.
    pub expected: String,
    /// What was there.
    pub found: String,
}

/// Deepest nesting of JSON input that is accepted.
const MAX_DEPTH: usize = 64;

impl Value {
    /// Text value.
    #[must_use]
    pub fn text(text: &str) -> Self {
        Self::Text(Arc::from(text))
    }

    /// List value.
    #[must_use]
    pub fn list(items: Vec<Self>) -> Self {
        Self::List(Arc::from(items))
    }

    /// Whether it has no more parts than `left`, which is reduced by them.
    #[must_use]
    pub fn fits(&self, left: &mut usize) -> bool {
        let Some(rest) = left.checked_sub(1) else { return false };
        *left = rest;
        match self {
            Self::List(items) | Self::Tuple(items) => items.iter().all(|v| v.fits(left)),
            Self::Record(record) => record.fields.iter().all(|(_, v)| v.fits(left)),
            Self::Sample(sample) => sample.value.fits(left),
            Self::Vote(vote) => vote.classes.iter().all(|(key, _, members)| key.fits(left) && members.len() <= *left),
            _ => true,
        }
    }

    /// The number in it: integers, floats and quantities.
    #[must_use]
    pub fn number(&self) -> Option<f64> {
        Some(match self {
            Self::Int(i) => *i as f64,
            Self::Float(x) | Self::Time(x) | Self::Usd(x) => *x,
            Self::Tokens(n) | Self::Bytes(n) => *n as f64,
            _ => return None,
        })
    }

    /// The value of a constant.
    #[must_use]
    pub fn from_const(constant: &Const) -> Self {
        match constant {
            Const::Unit => Self::Unit,
            Const::Bool(b) => Self::Bool(*b),
            Const::Int(i) => Self::Int(*i),
            Const::Float(x) => Self::Float(*x),
            Const::Text(t) => Self::text(t),
            Const::Tokens(n) => Self::Tokens(*n),
            Const::Time(x) => Self::Time(*x),
            Const::Usd(x) => Self::Usd(*x),
            Const::Bytes(n) => Self::Bytes(*n),
            Const::None => Self::None,
            Const::Label(l) => Self::Label(Arc::from(l.as_str())),
        }
    }

    /// The name of what it is, for messages.
    #[must_use]
    pub fn kind(&self) -> &'static str {
        match self {
            Self::Unit => "()",
            Self::None => "none",
            Self::Bool(_) => "a truth value",
            Self::Int(_) => "an integer",
            Self::Float(_) => "a number",
            Self::Text(_) => "text",
            Self::Tokens(_) => "tokens",
            Self::Time(_) => "a time",
            Self::Usd(_) => "an amount of money",
            Self::Bytes(_) => "bytes",
            Self::Label(_) => "a label",
            Self::Ctx(_) => "a context",
            Self::Sample(_) => "a sample",
            Self::List(_) => "a list",
            Self::Tuple(_) => "a tuple",
            Self::Record(_) => "a record",
            Self::Vote(_) => "a vote",
            Self::Choice(_) => "a choice",
            Self::Usage(_) => "a usage",
            Self::Budget(_) => "a budget",
            Self::Model(_) => "a model",
            Self::Verifier(_) => "a verifier",
            Self::Function(_) => "a function",
            Self::Dist => "a distribution",
        }
    }

    /// Text of a value inside a prompt: texts and labels as they are, samples by their text, votes by their value,
    /// `none` as nothing, numbers shortest, everything composed as JSON.
    #[must_use]
    pub fn to_text(&self) -> String {
        match self {
            Self::Unit | Self::None => String::new(),
            Self::Bool(b) => b.to_string(),
            Self::Int(i) => i.to_string(),
            Self::Float(x) | Self::Time(x) | Self::Usd(x) => x.to_string(),
            Self::Tokens(n) | Self::Bytes(n) => n.to_string(),
            Self::Text(t) | Self::Label(t) => t.to_string(),
            Self::Sample(s) => s.text.to_string(),
            Self::Vote(v) => v.value.to_text(),
            Self::Choice(c) => c.top().map_or(String::new(), |i| c.labels[i].to_string()),
            Self::Ctx(c) => c.turns.iter().fold(String::new(), |mut all, turn| {
                let _ = write!(all, "{}{}", if all.is_empty() { "" } else { "\n\n" }, turn.text);
                all
            }),
            other => other.to_json().to_string(),
        }
    }

    /// JSON of a value. Numbers that JSON cannot hold (NaN, infinities) become `null`.
    #[must_use]
    pub fn to_json(&self) -> Json {
        let all = |items: &[Self]| Json::Array(items.iter().map(Self::to_json).collect());
        match self {
            Self::Unit | Self::None | Self::Dist => Json::Null,
            Self::Bool(b) => json!(b),
            Self::Int(i) => json!(i),
            Self::Float(x) | Self::Time(x) | Self::Usd(x) => json!(x),
            Self::Tokens(n) | Self::Bytes(n) => json!(n),
            Self::Text(t) | Self::Label(t) => json!(**t),
            Self::Ctx(c) => Json::Array(
                c.turns.iter().map(|t| json!({"role": speaker_name(t.speaker), "content": *t.text})).collect(),
            ),
            Self::Sample(s) => json!({
                "text": *s.text, "value": s.value.to_json(), "ended": s.reason.is_complete(), "stop": s.reason.name(),
                "logprob": s.logprob(), "tokens": s.tokens.len(), "entropy": s.entropy, "error": s.error.as_deref(),
            }),
            Self::List(items) | Self::Tuple(items) => all(items),
            Self::Record(r) => Json::Object(r.fields.iter().map(|(n, v)| (n.clone(), v.to_json())).collect()),
            Self::Vote(v) => json!({
                "value": v.value.to_json(), "share": v.share, "margin": v.margin,
                "classes": v.classes.iter()
                    .map(|(key, weight, members)| json!({"value": key.to_json(), "weight": weight, "members": members.len()}))
                    .collect::<Vec<_>>(),
            }),
            Self::Choice(c) => json!({
                "text": c.top().map(|i| &*c.labels[i]),
                "prob": c.top().map(|i| c.probabilities[i]),
                "probabilities": c.labels.iter().zip(&c.probabilities).map(|(l, p)| json!([**l, p])).collect::<Vec<_>>(),
            }),
            Self::Usage(u) => usage_json(u),
            Self::Budget(b) => {
                json!({"tokens": b.tokens, "calls": b.calls, "kv": b.kv, "time": b.time, "usd": b.usd})
            }
            Self::Model(role) => json!({"model": role}),
            Self::Verifier(_) => json!("verifier"),
            Self::Function(_) => json!("function"),
        }
    }

    /// The value of a type from JSON, at a named place.
    ///
    /// # Errors
    /// When the JSON does not have the type; the error names the path.
    pub fn from_json(ty: &Ty, json: &Json, place: &str) -> Result<Self, ValueError> {
        from_json(ty, json, place, 0)
    }

    /// The value of a type from a word of the command line: texts and labels as they are, quantities with their units
    /// (`4ktok`, `900ms`, `0.02usd`, `12GiB`) or bare, everything composed as JSON.
    ///
    /// # Errors
    /// When the word does not have the type.
    pub fn from_word(ty: &Ty, word: &str, place: &str) -> Result<Self, ValueError> {
        match ty {
            Ty::Text => Ok(Self::text(word)),
            Ty::Enum(..) => from_json(ty, &json!(word), place, 0),
            Ty::Optional(_) if matches!(word, "none" | "null") => Ok(Self::None),
            Ty::Optional(inner) => Self::from_word(inner, word, place),
            Ty::Bool | Ty::Int | Ty::Float | Ty::Prob | Ty::Score => {
                let json: Json = serde_json::from_str(word).map_err(|_| mismatch(ty, place, &quoted(word)))?;
                from_json(ty, &json, place, 0)
            }
            Ty::Tokens | Ty::Time | Ty::Usd | Ty::Bytes => quantity(ty, word, place),
            _ => {
                let json: Json = serde_json::from_str(word)
                    .map_err(|e| mismatch(ty, place, &format!("{} (not JSON: {e})", quoted(word))))?;
                from_json(ty, &json, place, 0)
            }
        }
    }
}

/// JSON of a usage.
#[must_use]
pub fn usage_json(usage: &Usage) -> Json {
    json!({
        "tokens": usage.tokens, "prompt_tokens": usage.prompt_tokens, "calls": usage.calls, "samples": usage.samples,
        "cancelled": usage.cancelled, "inconclusive": usage.inconclusive, "seconds": usage.seconds, "usd": usage.usd,
    })
}

/// The name of a speaker in chat templates.
#[must_use]
pub fn speaker_name(speaker: Speaker) -> &'static str {
    match speaker {
        Speaker::System => "system",
        Speaker::User => "user",
        Speaker::Assistant => "assistant",
    }
}

fn mismatch(ty: &Ty, place: &str, found: &str) -> ValueError {
    ValueError { place: place.to_owned(), expected: type_name(ty), found: found.to_owned() }
}

fn quoted(text: &str) -> String {
    let short: String = text.chars().take(40).collect();
    format!("{short:?}{}", if short.len() < text.len() { "…" } else { "" })
}

fn found(json: &Json) -> String {
    match json {
        Json::Null => "null".to_owned(),
        Json::Bool(b) => b.to_string(),
        Json::Number(n) => n.to_string(),
        Json::String(s) => quoted(s),
        Json::Array(a) => format!("a list of {}", a.len()),
        Json::Object(o) => format!("an object of {} fields", o.len()),
    }
}

/// The name of a type as the author writes it.
#[must_use]
pub fn type_name(ty: &Ty) -> String {
    match ty {
        Ty::Unit => "()".to_owned(),
        Ty::Sample(t) => format!("Sample<{}>", type_name(t)),
        Ty::List(t, Some(n)) => format!("[{}; {n}]", type_name(t)),
        Ty::List(t, None) => format!("[{}]", type_name(t)),
        Ty::Vote(t) => format!("Vote<{}>", type_name(t)),
        Ty::Optional(t) => format!("{}?", type_name(t)),
        Ty::Record(name, _) => name.clone(),
        Ty::Enum(name, labels) => format!("{name} (one of {})", labels.join(", ")),
        Ty::Tuple(items) => format!("({})", items.iter().map(type_name).collect::<Vec<_>>().join(", ")),
        Ty::Model(kind) => format!("{kind:?}"),
        Ty::Fn(..) => "a function".to_owned(),
        other => format!("{other:?}"),
    }
}

fn from_json(ty: &Ty, json: &Json, place: &str, depth: usize) -> Result<Value, ValueError> {
    let wrong = || mismatch(ty, place, &found(json));
    if depth > MAX_DEPTH {
        return Err(ValueError {
            place: place.to_owned(),
            expected: format!("at most {MAX_DEPTH} levels of nesting"),
            found: "more".to_owned(),
        });
    }
    let float = || json.as_f64().filter(|x| x.is_finite()).ok_or_else(wrong);
    let not_negative = || float().and_then(|x| if x >= 0.0 { Ok(x) } else { Err(wrong()) });
    Ok(match ty {
        Ty::Unit => json.is_null().then_some(Value::Unit).ok_or_else(wrong)?,
        Ty::Bool => Value::Bool(json.as_bool().ok_or_else(wrong)?),
        Ty::Int => Value::Int(integer(json).ok_or_else(wrong)?),
        Ty::Float | Ty::Score => Value::Float(float()?),
        Ty::Prob => match float()? {
            p if (0.0..=1.0).contains(&p) => Value::Float(p),
            _ => return Err(wrong()),
        },
        Ty::Text => Value::text(json.as_str().ok_or_else(wrong)?),
        Ty::Tokens => Value::Tokens(integer(json).and_then(|i| u64::try_from(i).ok()).ok_or_else(wrong)?),
        Ty::Bytes => Value::Bytes(integer(json).and_then(|i| u64::try_from(i).ok()).ok_or_else(wrong)?),
        Ty::Time => Value::Time(not_negative()?),
        Ty::Usd => Value::Usd(not_negative()?),
        Ty::Optional(_) if json.is_null() => Value::None,
        Ty::Optional(inner) => from_json(inner, json, place, depth + 1)?,
        Ty::List(item, most) => {
            let items = json.as_array().ok_or_else(wrong)?;
            if most.is_some_and(|most| items.len() as u64 > most) {
                return Err(wrong());
            }
            let each = |(i, v)| from_json(item, v, &format!("{place}[{i}]"), depth + 1);
            Value::List(items.iter().enumerate().map(each).collect::<Result<Vec<_>, _>>()?.into())
        }
        Ty::Tuple(types) => {
            let items = json.as_array().filter(|a| a.len() == types.len()).ok_or_else(wrong)?;
            let each = |(i, (t, v)): (usize, (&Ty, &Json))| from_json(t, v, &format!("{place}.{i}"), depth + 1);
            Value::Tuple(types.iter().zip(items).enumerate().map(each).collect::<Result<Vec<_>, _>>()?.into())
        }
        Ty::Record(name, fields) => {
            let object = json.as_object().ok_or_else(wrong)?;
            if let Some(stranger) = object.keys().find(|k| fields.iter().all(|(f, _)| f != *k)) {
                return Err(mismatch(ty, place, &format!("an unknown field {}", quoted(stranger))));
            }
            let each = |(field, t): &(String, Ty)| {
                let inner = object.get(field).unwrap_or(&Json::Null);
                Ok((field.clone(), from_json(t, inner, &format!("{place}.{field}"), depth + 1)?))
            };
            let fields = fields.iter().map(each).collect::<Result<Vec<_>, ValueError>>()?;
            Value::Record(Arc::new(Record { name: name.clone(), fields }))
        }
        Ty::Enum(_, labels) => {
            let label = json.as_str().filter(|s| labels.iter().any(|l| l == s)).ok_or_else(wrong)?;
            Value::Label(Arc::from(label))
        }
        Ty::Ctx => context(json).ok_or_else(wrong)?,
        _ => return Err(wrong()),
    })
}

/// Integers, also when written as `3.0`.
fn integer(json: &Json) -> Option<i64> {
    json.as_i64().or_else(|| {
        let x = json.as_f64()?;
        (x.fract() == 0.0 && x.abs() < 9.0e15).then_some(x as i64)
    })
}

fn context(json: &Json) -> Option<Value> {
    let turn = |json: &Json| {
        let speaker = match json.get("role")?.as_str()? {
            "system" => Speaker::System,
            "user" => Speaker::User,
            "assistant" => Speaker::Assistant,
            _ => return None,
        };
        Some(Turn { speaker, text: Arc::from(json.get("content")?.as_str()?), tokens: None })
    };
    if let Some(text) = json.as_str() {
        let turn = Turn { speaker: Speaker::User, text: Arc::from(text), tokens: None };
        return Some(Value::Ctx(Arc::new(Context { turns: vec![turn] })));
    }
    let turns = json.as_array()?.iter().map(turn).collect::<Option<Vec<_>>>()?;
    Some(Value::Ctx(Arc::new(Context { turns })))
}

/// A quantity with its unit, or bare.
fn quantity(ty: &Ty, word: &str, place: &str) -> Result<Value, ValueError> {
    let wrong = || mismatch(ty, place, &quoted(word));
    let split = word.find(|c: char| c.is_ascii_alphabetic()).unwrap_or(word.len());
    let (digits, unit) = word.split_at(split);
    let number: f64 = digits.trim().replace('_', "").parse().map_err(|_| wrong())?;
    let factor = match (ty, unit) {
        (_, "") | (Ty::Tokens, "tok") | (Ty::Time, "s") | (Ty::Usd, "usd") | (Ty::Bytes, "B") => 1.0,
        (Ty::Tokens, "ktok") => 1e3,
        (Ty::Tokens, "Mtok") => 1e6,
        (Ty::Time, "ms") => 1e-3,
        (Ty::Time, "min") => 60.0,
        (Ty::Time, "h") => 3600.0,
        (Ty::Bytes, "KiB") => 1024.0,
        (Ty::Bytes, "MiB") => 1024.0 * 1024.0,
        (Ty::Bytes, "GiB") => 1024.0 * 1024.0 * 1024.0,
        _ => return Err(wrong()),
    };
    let amount = number * factor;
    if !amount.is_finite() || amount < 0.0 {
        return Err(wrong());
    }
    let whole = || if amount.fract() == 0.0 && amount < 9.0e15 { Ok(amount as u64) } else { Err(wrong()) };
    Ok(match ty {
        Ty::Tokens => Value::Tokens(whole()?),
        Ty::Bytes => Value::Bytes(whole()?),
        Ty::Time => Value::Time(amount),
        _ => Value::Usd(amount),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_become_values_of_their_type() {
        let word = |ty: &Ty, w: &str| Value::from_word(ty, w, "p");
        assert_eq!(word(&Ty::Tokens, "4ktok"), Ok(Value::Tokens(4000)));
        assert_eq!(word(&Ty::Time, "900ms"), Ok(Value::Time(0.9)));
        assert_eq!(word(&Ty::Bytes, "12GiB"), Ok(Value::Bytes(12 << 30)));
        assert_eq!(word(&Ty::Text, "[1]"), Ok(Value::text("[1]")));
        assert_eq!(word(&Ty::Int, "3.0"), Ok(Value::Int(3)));
        assert_eq!(word(&Ty::Optional(Box::new(Ty::Int)), "none"), Ok(Value::None));
        let list = Ty::List(Box::new(Ty::Int), Some(2));
        assert_eq!(word(&list, "[1,2]"), Ok(Value::list(vec![Value::Int(1), Value::Int(2)])));
        for (ty, bad) in
            [(&Ty::Int, "x"), (&Ty::Int, "1.5"), (&Ty::Prob, "1.5"), (&Ty::Tokens, "-4"), (&list, "[1,2,3]")]
        {
            let error = word(ty, bad).expect_err("refused");
            assert!(error.to_string().starts_with("p: expected"), "{error}");
        }
    }

    #[test]
    fn json_errors_name_the_path() {
        let ty = Ty::Record("Plan".into(), vec![("steps".into(), Ty::List(Box::new(Ty::Text), Some(6)))]);
        let error = Value::from_json(&ty, &json!({"steps": ["a", 2]}), "plan").expect_err("refused");
        assert_eq!(error.place, "plan.steps[1]");
        let error = Value::from_json(&ty, &json!({"steps": [], "more": 1}), "plan").expect_err("refused");
        assert!(error.to_string().contains("unknown field"));
        let deep = (0..200).fold(Ty::Int, |t, _| Ty::List(Box::new(t), None));
        let json = (0..200).fold(json!(1), |j, _| json!([j]));
        assert!(Value::from_json(&deep, &json, "p").is_err());
    }

    #[test]
    fn values_go_to_json_and_back() {
        let ty =
            Ty::Record("R".into(), vec![("a".into(), Ty::Float), ("b".into(), Ty::Enum("E".into(), vec!["x".into()]))]);
        let json = json!({"a": 1.5, "b": "x"});
        let value = Value::from_json(&ty, &json, "r").expect("well typed");
        assert_eq!(value.to_json(), json);
        assert_eq!(Value::Float(f64::NAN).to_json(), Json::Null);
    }
}
