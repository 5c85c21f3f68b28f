//! From a `config.json` (the `transformers` library's) to the compiler's [`Model`]: takes the file's text, returns the
//! shape for cost estimates. There are no tensors and no identity in it, so it cannot be run.
//!
//! Dense decoders of the llama, mistral, qwen2 and qwen3 kind, and qwen3's mixture of experts, which counts the experts
//! that a token meets. Configurations of anything else are refused, not guessed at.

use crate::gguf::printable;
use ir::model::{Family, Model};
use serde::Deserialize;

/// Bytes of a configuration; real ones are below a hundred kilobytes.
pub const MAX_CONFIG: usize = 1 << 20;

/// A configuration that is no model's.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("config.json: {place}: {cause}; {remedy}")]
pub struct ConfigError {
    /// Where in the JSON.
    pub place: String,
    /// What is wrong.
    pub cause: String,
    /// What to do about it.
    pub remedy: &'static str,
}

fn fail<T>(place: &str, cause: String) -> Result<T, ConfigError> {
    Err(ConfigError {
        place: place.to_owned(),
        cause,
        remedy: "give the config.json of a llama, mistral, qwen2 or qwen3 model",
    })
}

/// The fields that matter, under the names the library gives them.
#[derive(Deserialize)]
struct Config {
    model_type: String,
    #[serde(rename = "_name_or_path", default)]
    name: String,
    num_hidden_layers: u64,
    hidden_size: u64,
    num_attention_heads: u64,
    num_key_value_heads: Option<u64>,
    head_dim: Option<u64>,
    intermediate_size: u64,
    vocab_size: u64,
    max_position_embeddings: Option<u64>,
    rope_theta: Option<f64>,
    rms_norm_eps: Option<f64>,
    tie_word_embeddings: Option<bool>,
    attention_bias: Option<bool>,
    num_experts: Option<u64>,
    num_experts_per_tok: Option<u64>,
    moe_intermediate_size: Option<u64>,
}

/// The model that a `config.json` describes.
///
/// `parameters` counts as `Gguf::model` does: everything a token is multiplied with, so the embedding only where it
/// serves as output matrix too, and of experts those that are chosen. `ffn` of a mixture is the width of the chosen
/// experts together.
///
/// # Errors
/// [`ConfigError`] for text that is no such configuration, and for numbers no model has.
pub fn model_from_config(json: &str) -> Result<Model, ConfigError> {
    if json.len() > MAX_CONFIG {
        return fail("file", format!("{} bytes, more than the limit of {MAX_CONFIG}", json.len()));
    }
    let c: Config = match serde_json::from_str(json) {
        Ok(c) => c,
        Err(e) => return fail(&format!("line {} column {}", e.line(), e.column()), printable(&e.to_string())),
    };
    let (family, qk_norm, moe) = match c.model_type.as_str() {
        "llama" | "mistral" => (Family::Llama, false, false),
        "qwen2" => (Family::Qwen2, false, false),
        "qwen3" => (Family::Qwen2, true, false),
        "qwen3_moe" => (Family::Qwen2, true, true),
        other => return fail("model_type", format!("`{}` is not supported", printable(other))),
    };
    let within = |name: &str, v: u64, max: u32| match u32::try_from(v) {
        Ok(n) if (1..=max).contains(&n) => Ok(n),
        _ => fail(name, format!("{v} is outside 1 to {max}")),
    };
    let layers = within("num_hidden_layers", c.num_hidden_layers, 1024)?;
    let hidden = within("hidden_size", c.hidden_size, 1 << 20)?;
    let heads = within("num_attention_heads", c.num_attention_heads, 1024)?;
    let kv_heads = within("num_key_value_heads", c.num_key_value_heads.unwrap_or(c.num_attention_heads), 1024)?;
    if !heads.is_multiple_of(kv_heads) {
        return fail("num_key_value_heads", format!("{kv_heads} do not divide {heads} heads"));
    }
    let head_dim = within("head_dim", c.head_dim.unwrap_or(u64::from(hidden / heads)), 1024)?;
    let (ffn, experts) = if moe {
        let each = within("moe_intermediate_size", c.moe_intermediate_size.unwrap_or(0), 1 << 16)?;
        let chosen = within("num_experts_per_tok", c.num_experts_per_tok.unwrap_or(0), 256)?;
        (each * chosen, within("num_experts", c.num_experts.unwrap_or(0), 1 << 16)?)
    } else {
        (within("intermediate_size", c.intermediate_size, 1 << 20)?, 0)
    };
    let vocab = within("vocab_size", c.vocab_size, 1 << 22)?;
    let context = within("max_position_embeddings", c.max_position_embeddings.unwrap_or(32_768), 1 << 24)?;
    let positive = |name: &str, v: Option<f64>, usual: f32| {
        #[allow(clippy::cast_possible_truncation, reason = "single precision is what models compute with")]
        let f = v.map_or(usual, |v| v as f32);
        if f.is_finite() && f > 0.0 { Ok(f) } else { fail(name, format!("{f} is not a finite number above 0")) }
    };
    let tied = c.tie_word_embeddings.unwrap_or(false);
    // Products of the limits above stay below 2^56.
    let w = u64::from;
    let (q, kv) = (w(heads) * w(head_dim), w(kv_heads) * w(head_dim));
    let bias = match family {
        Family::Qwen2 => !qk_norm || c.attention_bias == Some(true),
        Family::Llama => false,
    };
    let attention =
        w(hidden) * (2 * q + 2 * kv) + if bias { q + 2 * kv } else { 0 } + if qk_norm { 2 * w(head_dim) } else { 0 };
    let layer = attention + 3 * w(hidden) * w(ffn) + w(experts) * w(hidden) + 2 * w(hidden);
    let name = if c.name.is_empty() { c.model_type.clone() } else { printable(&c.name) };
    Ok(Model {
        name,
        family,
        layers,
        hidden,
        heads,
        kv_heads,
        head_dim,
        ffn,
        vocab,
        context,
        rope_base: positive("rope_theta", c.rope_theta, 10_000.0)?,
        rms_eps: positive("rms_norm_eps", c.rms_norm_eps, 1e-6)?,
        tied,
        parameters: w(layers) * layer + w(vocab) * w(hidden) + w(hidden),
        tensors: Vec::new(),
        identity: String::new(),
    })
}
