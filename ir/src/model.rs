//! What the compiler knows of a model: its shape, its family and its tensors. Never its weights.
//!
//! `runtime::gguf` and `config.json` readers make a [`Model`]; [`SHAPES`] is the table of well-known shapes for costs.
//! Sources of the table: the models' public configurations; parameter counts as in the Kinetics scripts where given.

use crate::tensor::DType;
use serde::{Deserialize, Serialize};

/// Architecture families, as data: a family is a row of mechanisms.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum Family {
    /// RMSNorm, no biases, rope on neighbouring pairs in GGUF.
    Llama,
    /// RMSNorm, biases on q, k, v, rope on halves.
    Qwen2,
}

/// The mechanisms of a family that kernels depend on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Mechanisms {
    /// Biases on q, k, v.
    pub qkv_bias: bool,
    /// Rope turns neighbouring pairs of rows in the GGUF file (else halves of a head).
    pub rope_pairs: bool,
}

impl Family {
    /// The family of a GGUF `general.architecture`.
    #[must_use]
    pub fn from_name(name: &str) -> Option<Self> {
        match name {
            "llama" => Some(Self::Llama),
            "qwen2" => Some(Self::Qwen2),
            _ => None,
        }
    }

    /// GGUF's name.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Llama => "llama",
            Self::Qwen2 => "qwen2",
        }
    }

    /// Its mechanisms.
    #[must_use]
    pub fn mechanisms(self) -> Mechanisms {
        match self {
            Self::Llama => Mechanisms { qkv_bias: false, rope_pairs: true },
            Self::Qwen2 => Mechanisms { qkv_bias: true, rope_pairs: false },
        }
    }
}

/// A tensor of the file.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Tensor {
    /// GGUF name: `blk.0.attn_q.weight`, ….
    pub name: String,
    /// Element type.
    pub dtype: DType,
    /// GGUF order: `shape[0]` input features, `shape[1]` output rows.
    pub shape: Vec<u64>,
}

/// A model as the compiler sees it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Model {
    /// Human name.
    pub name: String,
    /// Family.
    pub family: Family,
    /// Transformer layers.
    pub layers: u32,
    /// Width of the residual stream.
    pub hidden: u32,
    /// Query heads.
    pub heads: u32,
    /// KV heads.
    pub kv_heads: u32,
    /// Dimension of a head.
    pub head_dim: u32,
    /// Width of the feed-forward layer.
    pub ffn: u32,
    /// Vocabulary size.
    pub vocab: u32,
    /// Trained context, in tokens.
    pub context: u32,
    /// Rope base frequency.
    pub rope_base: f32,
    /// RMSNorm epsilon.
    pub rms_eps: f32,
    /// The output matrix is the embedding.
    pub tied: bool,
    /// Parameters that a token meets (active parameters of a mixture of experts).
    pub parameters: u64,
    /// Tensors; empty for a shape out of the table.
    pub tensors: Vec<Tensor>,
    /// Hash of the file's header and tensor table and of samples of its data (hex); empty for a shape of the table.
    pub identity: String,
}

impl Model {
    /// A tensor by name.
    #[must_use]
    pub fn tensor(&self, name: &str) -> Option<&Tensor> {
        self.tensors.iter().find(|t| t.name == name)
    }

    /// Bytes of KV per token with 16-bit keys and values.
    #[must_use]
    pub fn kv_bytes_per_token(&self) -> u64 {
        2 * 2 * u64::from(self.kv_heads) * u64::from(self.head_dim) * u64::from(self.layers)
    }

    /// Elements of KV per token (`D` of the Kinetics paper).
    #[must_use]
    pub fn kv_elements_per_token(&self) -> u64 {
        self.kv_bytes_per_token() / 2
    }
}

/// A row of the table of known shapes.
#[derive(Clone, Copy, Debug)]
pub struct Shape {
    /// Name on the command line: `qwen3-8b`.
    pub name: &'static str,
    /// Parameters as the Kinetics scripts count them.
    pub parameters: f64,
    /// Width, layers, query heads, KV heads, head dimension, feed-forward width, vocabulary.
    pub dims: (u32, u32, u32, u32, u32, u32, u32),
    /// Embedding shared with the output.
    pub tied: bool,
}

/// Known shapes. Parameters of `qwen3-0.6b` and `qwen3-1.7b` count the tied embedding twice, as the published scripts do.
pub const SHAPES: &[Shape] = &[
    Shape { name: "qwen3-0.6b", parameters: 0.752e9, dims: (1024, 28, 16, 8, 128, 3072, 151_936), tied: true },
    Shape { name: "qwen3-1.7b", parameters: 2.03e9, dims: (2048, 28, 16, 8, 128, 6144, 151_936), tied: true },
    Shape { name: "qwen3-4b", parameters: 4.02e9, dims: (2560, 36, 32, 8, 128, 9728, 151_936), tied: true },
    Shape { name: "qwen3-8b", parameters: 8.19e9, dims: (4096, 36, 32, 8, 128, 12_288, 151_936), tied: false },
    Shape { name: "qwen3-14b", parameters: 14.77e9, dims: (5120, 40, 40, 8, 128, 17_408, 151_936), tied: false },
    Shape { name: "qwen3-32b", parameters: 32.76e9, dims: (5120, 64, 64, 8, 128, 25_600, 151_936), tied: false },
    Shape { name: "qwen3-30b-a3b", parameters: 3.3e9, dims: (2048, 48, 32, 4, 128, 768 * 8, 151_936), tied: false },
    Shape {
        name: "ds-r1-distill-qwen-1.5b",
        parameters: 1.78e9,
        dims: (1536, 28, 12, 2, 128, 8960, 151_936),
        tied: false,
    },
    Shape {
        name: "ds-r1-distill-qwen-7b",
        parameters: 7.62e9,
        dims: (3584, 28, 28, 4, 128, 18_944, 152_064),
        tied: false,
    },
    Shape {
        name: "ds-r1-distill-qwen-14b",
        parameters: 14.77e9,
        dims: (5120, 48, 40, 8, 128, 13_824, 152_064),
        tied: false,
    },
    Shape {
        name: "ds-r1-distill-qwen-32b",
        parameters: 32.76e9,
        dims: (5120, 64, 40, 8, 128, 27_648, 152_064),
        tied: false,
    },
    Shape { name: "llama-3-8b", parameters: 8.03e9, dims: (4096, 32, 32, 8, 128, 14_336, 128_256), tied: false },
    Shape { name: "smollm2-135m", parameters: 134.515e6, dims: (576, 30, 9, 3, 64, 1536, 49_152), tied: true },
    Shape { name: "qwen2.5-0.5b", parameters: 0.494e9, dims: (896, 24, 14, 2, 64, 4864, 151_936), tied: true },
    Shape { name: "qwen2.5-1.5b", parameters: 1.544e9, dims: (1536, 28, 12, 2, 128, 8960, 151_936), tied: true },
];

/// The model of a table row, without tensors.
#[must_use]
pub fn known(name: &str) -> Option<Model> {
    let s = SHAPES.iter().find(|s| s.name.eq_ignore_ascii_case(name))?;
    let (hidden, layers, heads, kv_heads, head_dim, ffn, vocab) = s.dims;
    Some(Model {
        name: s.name.to_owned(),
        family: Family::Qwen2,
        layers,
        hidden,
        heads,
        kv_heads,
        head_dim,
        ffn,
        vocab,
        context: 32_768,
        rope_base: 1e6,
        rms_eps: 1e-6,
        tied: s.tied,
        #[allow(
            clippy::cast_possible_truncation,
            clippy::cast_sign_loss,
            reason = "the table holds positive counts below 2^53"
        )]
        parameters: s.parameters as u64,
        tensors: Vec::new(),
        identity: String::new(),
    })
}
