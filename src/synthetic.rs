//! A small model of random weights as a GGUF image in memory: what `profile-device` measures kernels on, and tests run on
//! without any download. Weights are random bits with sane scales; the text it writes means nothing. It has a byte-level
//! tokenizer, so that whole strategies run on it.

use ir::tensor::DType;

/// Shape of a synthetic model: llama, rope on pairs, tied embedding.
#[derive(Clone, Copy, Debug)]
pub struct Shape {
    /// Layers.
    pub layers: u32,
    /// Width; a multiple of 256.
    pub hidden: u32,
    /// Query heads of 64.
    pub heads: u32,
    /// KV heads.
    pub kv_heads: u32,
    /// Feed-forward width; a multiple of 256.
    pub ffn: u32,
    /// Vocabulary; with at least [`SPELLED`] tokens the file has a tokenizer.
    pub vocab: u32,
    /// Context.
    pub context: u32,
    /// Type of all matrices.
    pub dtype: DType,
}

/// Tokens that a tokenizer for any text needs: 256 bytes and [`CONTROLS`].
pub const SPELLED: u32 = 256 + CONTROLS.len() as u32;

/// Control tokens, behind the bytes: end of text, and the two of the ChatML template.
pub const CONTROLS: [&str; 3] = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"];

/// Texts that get a token and a merge rule each, behind the control tokens.
const MERGED: [&str; 8] = ["th", "he", "in", "er", "an", "re", "on", "at"];

/// The bytes of a GGUF file.
#[must_use]
pub fn gguf(shape: Shape) -> Vec<u8> {
    let head_dim = 64;
    let mut meta = Writer::default();
    let text = |w: &mut Writer, key: &str, value: &str| {
        w.string(key);
        w.u32(8);
        w.string(value);
        w.count += 1;
    };
    let int = |w: &mut Writer, key: &str, value: u32| {
        w.string(key);
        w.u32(4);
        w.u32(value);
        w.count += 1;
    };
    text(&mut meta, "general.architecture", "llama");
    text(&mut meta, "general.name", "synthetic");
    for (key, value) in [
        ("llama.block_count", shape.layers),
        ("llama.embedding_length", shape.hidden),
        ("llama.attention.head_count", shape.heads),
        ("llama.attention.head_count_kv", shape.kv_heads),
        ("llama.attention.key_length", head_dim),
        ("llama.feed_forward_length", shape.ffn),
        ("llama.context_length", shape.context),
        ("llama.vocab_size", shape.vocab),
    ] {
        int(&mut meta, key, value);
    }
    meta.string("llama.attention.layer_norm_rms_epsilon");
    meta.u32(6);
    meta.bytes.extend_from_slice(&1e-5_f32.to_le_bytes());
    meta.count += 1;
    if shape.vocab >= SPELLED {
        tokenizer(&mut meta, shape.vocab);
    }

    let mut tensors: Vec<(String, DType, Vec<u64>)> = vec![
        ("token_embd.weight".to_owned(), shape.dtype, vec![shape.hidden.into(), shape.vocab.into()]),
        ("output_norm.weight".to_owned(), DType::F32, vec![shape.hidden.into()]),
    ];
    let (q, kv) = (u64::from(shape.heads * head_dim), u64::from(shape.kv_heads * head_dim));
    let (h, f) = (u64::from(shape.hidden), u64::from(shape.ffn));
    for layer in 0..shape.layers {
        let name = |part: &str| format!("blk.{layer}.{part}.weight");
        for part in ["attn_norm", "ffn_norm"] {
            tensors.push((name(part), DType::F32, vec![h]));
        }
        for (part, dims) in [
            ("attn_q", [h, q]),
            ("attn_k", [h, kv]),
            ("attn_v", [h, kv]),
            ("attn_output", [q, h]),
            ("ffn_gate", [h, f]),
            ("ffn_up", [h, f]),
            ("ffn_down", [f, h]),
        ] {
            tensors.push((name(part), shape.dtype, dims.to_vec()));
        }
    }
    let mut table = Writer::default();
    let mut data = Vec::new();
    let mut random = Random(0x2545_F491_4F6C_DD1D);
    for (name, dtype, dims) in &tensors {
        table.string(name);
        table.u32(u32::try_from(dims.len()).unwrap_or(0));
        for d in dims {
            table.u64(*d);
        }
        table.u32(code(*dtype));
        table.u64(data.len() as u64);
        fill(&mut data, *dtype, dims.iter().product(), &mut random);
        data.resize(data.len().next_multiple_of(32), 0);
    }
    let mut out = Writer::default();
    out.bytes.extend_from_slice(b"GGUF");
    out.u32(3);
    out.u64(tensors.len() as u64);
    out.u64(meta.count);
    out.bytes.extend_from_slice(&meta.bytes);
    out.bytes.extend_from_slice(&table.bytes);
    out.bytes.resize(out.bytes.len().next_multiple_of(32), 0);
    out.bytes.extend_from_slice(&data);
    out.bytes
}

/// Metadata of a byte-level tokenizer: bytes, control tokens, merged pairs, then words that no text becomes.
fn tokenizer(meta: &mut Writer, vocab: u32) {
    const CONTROL: u32 = 3;
    let mut tokens: Vec<String> = (0..=255).map(|b| spelled(b).to_string()).collect();
    tokens.extend(CONTROLS.map(str::to_owned));
    tokens.extend(MERGED.iter().map(|t| (*t).to_owned()).take((vocab - SPELLED) as usize));
    let merges = tokens.len() - SPELLED as usize;
    tokens.extend((tokens.len()..vocab as usize).map(|id| format!("{}w{id}", spelled(b' '))));
    for (key, value) in [("tokenizer.ggml.model", "gpt2"), ("tokenizer.ggml.pre", "gpt-2")] {
        meta.string(key);
        meta.u32(8);
        meta.string(value);
        meta.count += 1;
    }
    meta.array("tokenizer.ggml.tokens", 8, tokens.len());
    for token in &tokens {
        meta.string(token);
    }
    meta.array("tokenizer.ggml.token_type", 5, tokens.len());
    for id in 0..vocab {
        meta.u32(if (256..SPELLED).contains(&id) { CONTROL } else { 1 });
    }
    meta.array("tokenizer.ggml.merges", 8, merges);
    for pair in &MERGED[..merges] {
        let (a, b) = pair.split_at(1);
        meta.string(&format!("{a} {b}"));
    }
    meta.string("tokenizer.ggml.eos_token_id");
    meta.u32(4);
    meta.u32(SPELLED - 1);
    meta.count += 1;
}

/// The character that stands for a byte in byte-level vocabularies: printable bytes are themselves, the others follow
/// at U+0100.
fn spelled(byte: u8) -> char {
    let printable = |b: u8| matches!(b, b'!'..=b'~' | 0xA1..=0xAC | 0xAE..=0xFF);
    if printable(byte) {
        return char::from(byte);
    }
    let rank = (0..byte).filter(|b| !printable(*b)).count();
    u32::try_from(rank).ok().and_then(|r| char::from_u32(0x100 + r)).unwrap_or(char::REPLACEMENT_CHARACTER)
}

fn code(dtype: DType) -> u32 {
    (0..64).find(|c| DType::from_ggml(*c) == Some(dtype)).unwrap_or(0)
}

/// Random blocks whose scales make weights of about ±0.05.
fn fill(out: &mut Vec<u8>, dtype: DType, elements: u64, random: &mut Random) {
    const SCALE: [u8; 2] = 0x1000_u16.to_le_bytes(); // 2^-11
    let blocks = elements / dtype.block() as u64;
    for _ in 0..blocks {
        let start = out.len();
        match dtype {
            DType::F32 => out.extend_from_slice(&(1.0 + random.small()).to_le_bytes()),
            DType::F16 => out.extend_from_slice(&(0x2000_u16 | (random.next() as u16 & 0x83FF)).to_le_bytes()),
            DType::BF16 => out.extend_from_slice(&(0x3C00_u16 | (random.next() as u16 & 0x807F)).to_le_bytes()),
            _ => {
                while out.len() - start < dtype.block_bytes() {
                    out.extend_from_slice(&random.next().to_le_bytes());
                }
                out.truncate(start + dtype.block_bytes());
                let scales: &[usize] = match dtype {
                    DType::Q4_1 | DType::Q5_1 | DType::Q4_K | DType::Q5_K => &[0, 2],
                    DType::Q6_K => &[208],
                    _ => &[0],
                };
                for at in scales {
                    out[start + at..start + at + 2].copy_from_slice(&SCALE);
                }
            }
        }
    }
}

/// xorshift: reproducible bits. The seed must not be 0.
pub(crate) struct Random(pub(crate) u64);

impl Random {
    pub(crate) fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0
    }

    /// About ±0.1.
    pub(crate) fn small(&mut self) -> f32 {
        (self.next() % 2001) as f32 / 10_000.0 - 0.1
    }
}

#[derive(Default)]
struct Writer {
    bytes: Vec<u8>,
    count: u64,
}

impl Writer {
    fn u32(&mut self, x: u32) {
        self.bytes.extend_from_slice(&x.to_le_bytes());
    }

    fn u64(&mut self, x: u64) {
        self.bytes.extend_from_slice(&x.to_le_bytes());
    }

    /// Key and head of a metadata array; the elements follow.
    fn array(&mut self, key: &str, element: u32, len: usize) {
        self.string(key);
        self.u32(9);
        self.u32(element);
        self.u64(len as u64);
        self.count += 1;
    }

    fn string(&mut self, s: &str) {
        self.u64(s.len() as u64);
        self.bytes.extend_from_slice(s.as_bytes());
    }
}
