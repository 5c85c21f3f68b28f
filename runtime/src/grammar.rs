//! Enforced output formats: which tokens may come next, by `llguidance`.
//!
//! Takes a format (a regular expression, or a type whose JSON is wanted) and a codec's vocabulary; returns a [`Matcher`]
//! that masks logits and follows the chosen tokens. Tables over the vocabulary are built once, on first use. Limits of
//! size and work are the engine's; a format beyond them is an error, a text can never leave its format.

use crate::exec::TextCodec;
use ir::strategy::{Format, Ty};
use llguidance::api::TopLevelGrammar;
use llguidance::toktrie::{ApproximateTokEnv, TokEnv, TokRxInfo, TokTrie};
use llguidance::{ParserFactory, earley::SlicedBiasComputer, toktrie::InferenceCapabilities};
use serde_json::{Value as Json, json};
use std::sync::{Arc, OnceLock};

/// Most elements that a list without a bound of its own may have in enforced JSON.
const OPEN_LIST: u64 = 1024;

/// Formats over one vocabulary.
pub struct Grammars {
    codec: Arc<dyn TextCodec>,
    factory: OnceLock<Result<ParserFactory, String>>,
}

impl Grammars {
    /// Formats over a codec's vocabulary; nothing is built yet.
    #[must_use]
    pub fn new(codec: Arc<dyn TextCodec>) -> Self {
        Self { codec, factory: OnceLock::new() }
    }

    /// A matcher at the start of a format; `None` for formats that are not enforced.
    ///
    /// # Errors
    /// The cause: a pattern or type that the engine refuses.
    pub fn matcher(&self, format: &Format) -> Result<Option<Matcher>, String> {
        let grammar = match format {
            Format::Text | Format::Boxed => return Ok(None),
            Format::Regex(pattern) => TopLevelGrammar::from_regex(pattern),
            Format::Json(ty) => TopLevelGrammar::from_json_schema(document(ty)?),
        };
        let factory = self.factory.get_or_init(|| factory(&*self.codec)).as_ref().map_err(Clone::clone)?;
        let inner = llguidance::Matcher::new(factory.create_parser(grammar));
        match inner.get_error() {
            Some(error) => Err(first_line(&error)),
            None => {
                let complete = inner.is_stopped();
                Ok(Some(Matcher { inner: Box::new(inner), complete }))
            }
        }
    }
}

fn factory(codec: &dyn TextCodec) -> Result<ParserFactory, String> {
    let ends = codec.end_tokens();
    // An end token has no text: it may come only where the format is complete.
    let word = |id: usize| match u32::try_from(id) {
        Ok(id) if !ends.contains(&id) => codec.token_bytes(id).into_owned(),
        _ => Vec::new(),
    };
    let words: Vec<Vec<u8>> = (0..codec.vocabulary()).map(word).collect();
    let first = *ends.first().ok_or("the tokenizer has no end token")?;
    let size = u32::try_from(words.len()).map_err(|_| "the vocabulary is too large")?;
    let trie = TokTrie::from(&TokRxInfo::new(size, first), &words).with_eos_tokens(ends);
    let env: TokEnv = Arc::new(ApproximateTokEnv::new(trie));
    let mut factory = ParserFactory::new(&env, InferenceCapabilities::default(), &SlicedBiasComputer::general_slices())
        .map_err(|e| first_line(&e.to_string()))?;
    // Nothing is printed from here; errors come back as values and are shown by the caller.
    factory.quiet();
    factory.limits_mut().verbose_errors = false;
    Ok(factory)
}

fn first_line(text: &str) -> String {
    text.lines().next().unwrap_or("unknown error").to_owned()
}

/// Where a text stands in its format.
pub struct Matcher {
    inner: Box<llguidance::Matcher>,
    complete: bool,
}

impl Clone for Matcher {
    fn clone(&self) -> Self {
        Self { inner: Box::new(self.inner.deep_clone()), complete: self.complete }
    }
}

impl Matcher {
    /// The tokens that may come next, one bit each, the lowest first.
    ///
    /// # Errors
    /// When a limit of the engine is met.
    pub fn allowed(&mut self) -> Result<Box<[u32]>, String> {
        let allowed = self.inner.compute_mask_or_eos().map_err(|e| first_line(&e.to_string()))?;
        Ok(allowed.as_slice().into())
    }

    /// Follows a chosen token.
    ///
    /// # Errors
    /// When the token is not possible here.
    pub fn accept(&mut self, token: u32) -> Result<(), String> {
        self.inner.consume_token(token).map_err(|e| first_line(&e.to_string()))?;
        self.complete = self.inner.is_stopped();
        Ok(())
    }

    /// Whether the text is complete and nothing can follow.
    #[must_use]
    pub fn is_complete(&self) -> bool {
        self.complete
    }
}

/// The JSON schema of a type, with the separators of compact, readable JSON and no other white space: small models
/// otherwise pad forever.
fn document(ty: &Ty) -> Result<Json, String> {
    let mut schema = schema(ty, 0)?;
    let options = json!({"whitespace_flexible": false, "item_separator": ", ", "key_separator": ": "});
    if let Some(object) = schema.as_object_mut() {
        object.insert("x-guidance".to_owned(), options);
    }
    Ok(schema)
}

fn schema(ty: &Ty, depth: usize) -> Result<Json, String> {
    if depth > 32 {
        return Err("the type is nested more than 32 levels deep".to_owned());
    }
    let inner = |ty: &Ty| schema(ty, depth + 1);
    Ok(match ty {
        Ty::Unit => json!({"type": "null"}),
        Ty::Bool => json!({"type": "boolean"}),
        Ty::Int => json!({"type": "integer"}),
        Ty::Tokens | Ty::Bytes => json!({"type": "integer", "minimum": 0}),
        Ty::Float | Ty::Score => json!({"type": "number"}),
        Ty::Prob => json!({"type": "number", "minimum": 0, "maximum": 1}),
        Ty::Time | Ty::Usd => json!({"type": "number", "minimum": 0}),
        Ty::Text => json!({"type": "string"}),
        Ty::Enum(_, labels) => json!({"type": "string", "enum": labels}),
        Ty::Optional(ty) => json!({"anyOf": [inner(ty)?, {"type": "null"}]}),
        Ty::List(ty, most) => json!({"type": "array", "items": inner(ty)?, "maxItems": most.unwrap_or(OPEN_LIST)}),
        Ty::Tuple(types) => {
            let items = types.iter().map(inner).collect::<Result<Vec<_>, _>>()?;
            json!({"type": "array", "prefixItems": items, "items": false, "minItems": types.len(), "maxItems": types.len()})
        }
        Ty::Record(_, fields) => {
            let properties = fields
                .iter()
                .map(|(name, ty)| Ok((name.clone(), inner(ty)?)))
                .collect::<Result<serde_json::Map<_, _>, String>>()?;
            let required: Vec<&str> = fields.iter().map(|(name, _)| name.as_str()).collect();
            json!({"type": "object", "properties": properties, "required": required, "additionalProperties": false})
        }
        other => return Err(format!("{} has no JSON", crate::value::type_name(other))),
    })
}
