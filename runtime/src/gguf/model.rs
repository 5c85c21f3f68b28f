//! From a GGUF file to the compiler's [`Model`]: takes metadata and tensor table, returns the shape, or says which of
//! them lies. Never looks at weights, apart from the samples that make the identity.

use super::{Fault, Gguf, GgufError, Value, printable};
use ir::model::{Family, Model};
use std::collections::HashSet;

/// Sanity limits: anything above is damage or an attack, not a model.
const MAX_LAYERS: u32 = 1024;
const MAX_HEADS: u32 = 1024;
const MAX_WIDTH: u32 = 1 << 20;
const MAX_HEAD_DIM: u32 = 1024;
const MAX_VOCAB: u32 = 1 << 22;
const MAX_CONTEXT: u32 = 1 << 24;

/// Bytes sampled at either end of every tensor for the identity.
const SAMPLE: usize = 256;

impl Gguf {
    /// The model in the file: families `llama` and `qwen2`.
    ///
    /// Every number is checked against the tensors: their names must be exactly the family's and their shapes what the
    /// metadata say. `parameters` counts the elements of all tensors a token is multiplied with: all of them, except
    /// the embedding when the file has an output matrix of its own (a token reads one row of it).
    ///
    /// # Errors
    /// [`GgufError`] naming the key or tensor.
    pub fn model(&self) -> Result<Model, GgufError> {
        let arch = self.required("general.architecture", self.str("general.architecture")?)?;
        let Some(family) = Family::from_name(arch) else {
            return Err(self.key_error("general.architecture", Fault::Architecture(printable(arch))));
        };
        self.refuse_variants(arch)?;
        let layers = self.bounded(arch, "block_count", MAX_LAYERS)?;
        let hidden = self.bounded(arch, "embedding_length", MAX_WIDTH)?;
        let heads = self.bounded(arch, "attention.head_count", MAX_HEADS)?;
        let ffn = self.bounded(arch, "feed_forward_length", MAX_WIDTH)?;
        let context = self.bounded(arch, "context_length", MAX_CONTEXT)?;
        let kv_heads = match self.u32(&format!("{arch}.attention.head_count_kv"))? {
            None => heads,
            Some(_) => self.bounded(arch, "attention.head_count_kv", MAX_HEADS)?,
        };
        if !heads.is_multiple_of(kv_heads) {
            let what = format!("{kv_heads} KV heads do not divide {heads} heads");
            return Err(self.key_error(&format!("{arch}.attention.head_count_kv"), Fault::Sanity(what)));
        }
        let head_dim = self.head_dim(arch, hidden, heads)?;
        let rope_base = self.positive(arch, "rope.freq_base")?.unwrap_or(10_000.0);
        let rms_eps = self.positive(arch, "attention.layer_norm_rms_epsilon")?;
        let rms_eps = self.required(&format!("{arch}.attention.layer_norm_rms_epsilon"), rms_eps)?;
        let vocab = self.vocab(arch)?;
        let tied = self.tensor("output.weight").is_none();
        let name = match self.str("general.name")? {
            Some(n) if !n.is_empty() => printable(n),
            _ => self.path().file_stem().map_or_else(|| arch.to_owned(), |s| printable(&s.to_string_lossy())),
        };
        let mut model = Model {
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
            rope_base,
            rms_eps,
            tied,
            parameters: 0,
            tensors: self.tensors().to_vec(),
            identity: String::new(),
        };
        self.check_tensors(&model)?;
        // The table's sizes were checked: sums of what fits one file do not overflow.
        model.parameters = self
            .tensors()
            .iter()
            .filter(|t| tied || t.name != "token_embd.weight")
            .map(|t| t.shape.iter().product::<u64>())
            .sum();
        model.identity = self.identity();
        Ok(model)
    }

    /// Hash of header, tables, file length and the ends of every tensor: cheap, and different for any two files that
    /// differ in shape, quantisation or tokenizer, or come from different training.
    fn identity(&self) -> String {
        let mut hash = blake3::Hasher::new();
        hash.update(&(self.file_bytes() as u64).to_le_bytes());
        hash.update(self.header());
        for t in self.tensors() {
            let data = self.tensor_data(&t.name).unwrap_or_default();
            let n = data.len().min(SAMPLE);
            hash.update(&data[..n]);
            hash.update(&data[data.len() - n..]);
        }
        hash.finalize().to_hex().to_string()
    }

    fn required<T>(&self, key: &str, value: Option<T>) -> Result<T, GgufError> {
        value.ok_or_else(|| self.key_error(key, Fault::Missing))
    }

    /// An integer from 1 to `max` at `arch.key`.
    fn bounded(&self, arch: &str, key: &str, max: u32) -> Result<u32, GgufError> {
        let key = format!("{arch}.{key}");
        let v = self.required(&key, self.u32(&key)?)?;
        if v == 0 || v > max {
            return Err(self.key_error(&key, Fault::Sanity(format!("{v} is outside 1 to {max}"))));
        }
        Ok(v)
    }

    /// A finite float above zero at `arch.key`, if there.
    fn positive(&self, arch: &str, key: &str) -> Result<Option<f32>, GgufError> {
        let key = format!("{arch}.{key}");
        match self.f32(&key)? {
            Some(v) if !(v.is_finite() && v > 0.0) => {
                Err(self.key_error(&key, Fault::Sanity(format!("{v} is not a finite number above 0"))))
            }
            v => Ok(v),
        }
    }

    /// Variants of the families whose mathematics differs are refused rather than run wrongly.
    fn refuse_variants(&self, arch: &str) -> Result<(), GgufError> {
        let refuse = |key: &str, what: String| Err(self.key_error(key, Fault::Sanity(what)));
        let key = format!("{arch}.rope.scaling.type");
        match self.str(&key)? {
            None | Some("none") => {}
            Some(kind) => return refuse(&key, format!("rope scaling `{}` is not supported", printable(kind))),
        }
        let key = format!("{arch}.rope.scale_linear");
        match self.f32(&key)? {
            None | Some(1.0) => {}
            Some(v) => return refuse(&key, format!("linear rope scaling by {v} is not supported")),
        }
        for (key, what) in [("expert_count", "mixtures of experts"), ("attention.sliding_window", "sliding windows")] {
            let key = format!("{arch}.{key}");
            if self.u32(&key)?.is_some_and(|n| n != 0) {
                return refuse(&key, format!("{what} are not supported"));
            }
        }
        Ok(())
    }

    fn head_dim(&self, arch: &str, hidden: u32, heads: u32) -> Result<u32, GgufError> {
        let key = format!("{arch}.attention.key_length");
        let dim = match self.u32(&key)? {
            Some(d) => d,
            None if hidden.is_multiple_of(heads) => hidden / heads,
            None => {
                let what = format!("width {hidden} is no multiple of {heads} heads");
                return Err(self.key_error(&format!("{arch}.embedding_length"), Fault::Sanity(what)));
            }
        };
        if dim == 0 || dim > MAX_HEAD_DIM || !dim.is_multiple_of(2) {
            return Err(self
                .key_error(&key, Fault::Sanity(format!("head dimension {dim} is not even and 2 to {MAX_HEAD_DIM}"))));
        }
        for (key, what) in [("attention.value_length", "value"), ("rope.dimension_count", "rope")] {
            let key = format!("{arch}.{key}");
            if let Some(other) = self.u32(&key)?.filter(|v| *v != dim) {
                let what =
                    format!("{what} dimension {other} differs from head dimension {dim}, which is not supported");
                return Err(self.key_error(&key, Fault::Sanity(what)));
            }
        }
        Ok(dim)
    }

    /// Rows of the embedding, which the vocabulary size and the token list must agree with.
    fn vocab(&self, arch: &str) -> Result<u32, GgufError> {
        let embedding = self.tensor("token_embd.weight");
        let rows = embedding.and_then(|t| t.shape.get(1)).copied();
        let rows = rows.ok_or_else(|| self.tensor_error("token_embd.weight", Fault::Missing))?;
        let vocab = u32::try_from(rows).ok().filter(|v| (1..=MAX_VOCAB).contains(v)).ok_or_else(|| {
            self.tensor_error("token_embd.weight", Fault::Sanity(format!("{rows} rows are outside 1 to {MAX_VOCAB}")))
        })?;
        let key = format!("{arch}.vocab_size");
        if let Some(v) = self.u32(&key)?.filter(|v| *v != vocab) {
            return Err(self.key_error(&key, Fault::Sanity(format!("{v} entries, but the embedding has {vocab} rows"))));
        }
        let key = "tokenizer.ggml.tokens";
        match self.get(key)? {
            Some(Value::Array(a)) if a.len() != vocab as usize => {
                let what = format!("{} tokens, but the embedding has {vocab} rows", a.len());
                Err(self.key_error(key, Fault::Sanity(what)))
            }
            _ => Ok(vocab),
        }
    }

    fn tensor_error(&self, name: &str, fault: Fault) -> GgufError {
        GgufError { file: self.path().to_path_buf(), place: format!("tensor `{}`", printable(name)), fault }
    }

    /// Every tensor of the family is there with its shape, and no other tensor is.
    fn check_tensors(&self, m: &Model) -> Result<(), GgufError> {
        let expected = expected_tensors(m);
        for (name, shape) in &expected {
            let t = self.tensor(name).ok_or_else(|| self.tensor_error(name, Fault::Missing))?;
            if t.shape != *shape {
                let what = format!("shape {:?} where the metadata ask for {shape:?}", t.shape);
                return Err(self.tensor_error(name, Fault::Sanity(what)));
            }
        }
        let known: HashSet<&str> = expected.iter().map(|(n, _)| n.as_str()).collect();
        match self.tensors().iter().find(|t| !known.contains(t.name.as_str())) {
            None => Ok(()),
            Some(t) => {
                let what =
                    format!("not a tensor of the plain {} family; this variant is not supported", m.family.name());
                Err(self.tensor_error(&t.name, Fault::Sanity(what)))
            }
        }
    }
}

/// Names and GGUF shapes of a model's tensors.
fn expected_tensors(m: &Model) -> Vec<(String, Vec<u64>)> {
    let d = u64::from;
    let (hidden, ffn, vocab) = (d(m.hidden), d(m.ffn), d(m.vocab));
    let (q, kv) = (d(m.heads) * d(m.head_dim), d(m.kv_heads) * d(m.head_dim));
    let mut all =
        vec![("token_embd.weight".to_owned(), vec![hidden, vocab]), ("output_norm.weight".to_owned(), vec![hidden])];
    if !m.tied {
        all.push(("output.weight".to_owned(), vec![hidden, vocab]));
    }
    for layer in 0..m.layers {
        let mut add = |name: &str, shape: &[u64]| all.push((format!("blk.{layer}.{name}"), shape.to_vec()));
        add("attn_norm.weight", &[hidden]);
        add("attn_q.weight", &[hidden, q]);
        add("attn_k.weight", &[hidden, kv]);
        add("attn_v.weight", &[hidden, kv]);
        add("attn_output.weight", &[q, hidden]);
        add("ffn_norm.weight", &[hidden]);
        add("ffn_gate.weight", &[hidden, ffn]);
        add("ffn_up.weight", &[hidden, ffn]);
        add("ffn_down.weight", &[ffn, hidden]);
        if m.family.mechanisms().qkv_bias {
            add("attn_q.bias", &[q]);
            add("attn_k.bias", &[kv]);
            add("attn_v.bias", &[kv]);
        }
    }
    all
}
