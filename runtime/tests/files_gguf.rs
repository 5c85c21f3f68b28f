//! GGUF files that are cut, flipped, or lie: every one is a typed error or a model, never a panic, and costs little.

use inferc_runtime::gguf::{Fault, Gguf, MAX_TENSORS, Value};
use inferc_runtime::model_config::model_from_config;
use ir::model::Family;
use ir::tensor::DType;
use std::alloc::{GlobalAlloc, Layout, System};
use std::sync::atomic::{AtomicUsize, Ordering};

mod files_writer;
use files_writer::{Writer, ggml_code, string, strings};

/// Remembers the largest single request, to see that no count in a file is believed.
struct Largest;

static LARGEST: AtomicUsize = AtomicUsize::new(0);

#[allow(unsafe_code, reason = "an allocator is unsafe by signature; this one only counts and passes on")]
// SAFETY: every call is passed to the system's allocator unchanged.
unsafe impl GlobalAlloc for Largest {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        LARGEST.fetch_max(layout.size(), Ordering::Relaxed);
        // SAFETY: the caller's promises are passed on.
        unsafe { System.alloc(layout) }
    }
    unsafe fn dealloc(&self, p: *mut u8, layout: Layout) {
        // SAFETY: the caller's promises are passed on.
        unsafe { System.dealloc(p, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: Largest = Largest;

fn parse(bytes: Vec<u8>) -> Result<Gguf, Fault> {
    Gguf::from_bytes("t.gguf", bytes).map_err(|e| {
        let text = e.to_string();
        assert!(text.starts_with("t.gguf: ") && text.contains("; ") && !text.contains('\x1b'), "{text}");
        e.fault
    })
}

/// A whole model of two layers: 2 heads of 16 over 1 KV head, width 32, feed-forward 64, 40 tokens.
fn llama(arch: &str, change: impl Fn(&str) -> Option<Vec<u64>>) -> Writer {
    let words: Vec<String> = (0..40).map(|i| format!("t{i}")).collect();
    let words: Vec<&str> = words.iter().map(String::as_str).collect();
    let mut w = Writer::new()
        .str("general.architecture", arch)
        .str("general.name", "tiny")
        .strings("tokenizer.ggml.tokens", &words);
    let tensors: &[(&str, &[u64], DType)] = &[
        ("attn_norm.weight", &[32], DType::F32),
        ("attn_q.weight", &[32, 32], DType::Q4_0),
        ("attn_k.weight", &[32, 16], DType::Q4_1),
        ("attn_v.weight", &[32, 16], DType::Q5_0),
        ("attn_output.weight", &[32, 32], DType::Q5_1),
        ("ffn_norm.weight", &[32], DType::F32),
        ("ffn_gate.weight", &[32, 64], DType::Q8_0),
        ("ffn_up.weight", &[32, 64], DType::F16),
        ("ffn_down.weight", &[64, 32], DType::BF16),
    ];
    let biases: &[(&str, &[u64], DType)] =
        &[("attn_q.bias", &[32], DType::F32), ("attn_k.bias", &[16], DType::F32), ("attn_v.bias", &[16], DType::F32)];
    let mut add = |name: &str, dims: &[u64], dtype| {
        let dims = change(name).unwrap_or_else(|| dims.to_vec());
        if dims != [0] {
            let next = std::mem::replace(&mut w, Writer::new());
            w = next.zeros(name, &dims, dtype);
        }
    };
    add("token_embd.weight", &[32, 40], DType::Q8_0);
    add("output_norm.weight", &[32], DType::F32);
    for layer in 0..2 {
        for (name, dims, dtype) in tensors.iter().chain(if arch == "qwen2" { biases } else { &[] }) {
            add(&format!("blk.{layer}.{name}"), dims, *dtype);
        }
    }
    w
}

const KEYS: &[(&str, u32)] = &[
    ("block_count", 2),
    ("embedding_length", 32),
    ("attention.head_count", 2),
    ("attention.head_count_kv", 1),
    ("feed_forward_length", 64),
    ("context_length", 128),
];

fn with_keys(mut w: Writer, arch: &str, change: &[(&str, u32)]) -> Writer {
    for (key, value) in KEYS {
        let value = change.iter().find(|(k, _)| k == key).map_or(*value, |(_, v)| *v);
        w = w.u32(&format!("{arch}.{key}"), value);
    }
    w.f32(&format!("{arch}.attention.layer_norm_rms_epsilon"), 1e-5).f32(&format!("{arch}.rope.freq_base"), 1e4)
}

fn small() -> Writer {
    Writer::new()
        .str("general.architecture", "llama")
        .u32("general.alignment", 32)
        .strings("list", &["a", "", "ü"])
        .words("numbers", 5, [[1, 0, 0, 0], [255; 4]])
        .bool("flag", true)
        .tensor("a", &[32, 2], 2, &[7; 36])
        .tensor("b", &[3], 0, &[1; 12])
}

#[test]
fn a_valid_file_is_read_as_written() {
    let g = parse(small().build()).unwrap();
    assert_eq!((g.version(), g.tensors().len(), g.keys().count()), (3, 2, 5));
    assert_eq!(g.str("general.architecture"), Ok(Some("llama")));
    assert_eq!((g.bool("flag"), g.u32("absent")), (Ok(Some(true)), Ok(None)));
    let list = g.array("list").unwrap().unwrap();
    assert_eq!(list.strings().unwrap().collect::<Result<Vec<_>, _>>().unwrap(), ["a", "", "ü"]);
    assert!(list.i32s().is_err() && list.f32s().is_err());
    assert_eq!(g.array("numbers").unwrap().unwrap().i32s().unwrap(), [1, -1]);
    assert_eq!(g.tensor_data("a").unwrap(), [7; 36]);
    assert_eq!(g.tensor_data("b").unwrap(), [1; 12]);
    assert!(g.tensor_data("c").is_none());
    let e = g.u32("flag").unwrap_err();
    assert_eq!(
        e.to_string(),
        "t.gguf: key `flag`: expected an integer from 0 to 4294967295, found BOOL; the file is damaged or was written wrongly: get it again or convert it again"
    );
    let mut two = small();
    two.version = 2;
    assert_eq!(parse(two.build()).unwrap().version(), 2);
}

#[test]
fn every_cut_is_an_error_that_says_so() {
    let whole = small().build();
    for n in 0..whole.len() {
        let e = parse(whole[..n].to_vec()).unwrap_err();
        assert!(matches!(e, Fault::Truncated { len, .. } if len == n as u64), "{n}: {e:?}");
    }
    let mut more = whole.clone();
    more.resize(whole.len() + 500, 0);
    assert!(matches!(parse(more).unwrap_err(), Fault::Trailing(_)));
}

#[test]
fn no_flipped_bit_panics() {
    let whole = with_keys(llama("llama", |_| None), "llama", &[]).build();
    let header = Gguf::from_bytes("t", whole.clone()).unwrap();
    let data = header.tensors().iter().map(|t| t.dtype.bytes(t.shape.iter().product()).unwrap()).sum::<u64>();
    let end = (whole.len() as u64).saturating_sub(data) as usize;
    assert!(header.model().is_ok() && end > 500);
    let mut bytes = whole;
    for bit in 0..end.min(bytes.len()) * 8 {
        bytes[bit / 8] ^= 1 << (bit % 8);
        if let Ok(g) = Gguf::from_bytes("t", bytes.clone()) {
            // Whatever still parses must be safe to ask.
            let _ = g.model();
            for t in g.tensors() {
                assert!(g.tensor_data(&t.name).is_some());
            }
            for key in g.keys() {
                if let Ok(Some(Value::Array(a))) = g.get(key) {
                    let _ = (a.i32s(), a.f32s(), a.strings().map(Iterator::count));
                }
            }
        }
        bytes[bit / 8] ^= 1 << (bit % 8);
    }
    assert!(LARGEST.load(Ordering::Relaxed) < 64 << 20);
}

#[test]
fn counts_are_not_believed() {
    for n in [u64::MAX, 1 << 63, 500_000_000, 1 << 40] {
        assert!(matches!(parse(Writer::new().build_with(n, 0)).unwrap_err(), Fault::Truncated { .. }));
        assert!(matches!(parse(Writer::new().build_with(0, n)).unwrap_err(), Fault::Truncated { .. }));
    }
    // A count that the file could hold is stopped by the limit.
    let mut large = Writer::new().build_with(MAX_TENSORS + 1, 0);
    large.resize(4 << 20, 0);
    assert!(matches!(parse(large).unwrap_err(), Fault::TooMany { what: "tensors", .. }));
    // The limits themselves are reached quickly.
    let start = std::time::Instant::now();
    let mut many = Writer::new();
    for i in 0..60_000 {
        many = many.u32(&format!("k{i}"), i);
    }
    assert_eq!(parse(many.build()).unwrap().u32("k59999"), Ok(Some(59_999)));
    let mut many = Writer::new();
    for i in 0..60_000 {
        many = many.tensor(&format!("t{i}"), &[0], 0, &[]);
    }
    assert_eq!(parse(many.build()).unwrap().tensors().len(), 60_000);
    assert!(start.elapsed().as_secs() < 20);
}

#[test]
fn magic_and_version() {
    let with = |at: usize, v: [u8; 4]| {
        let mut b = small().build();
        b[at..at + 4].copy_from_slice(&v);
        parse(b).unwrap_err()
    };
    assert_eq!(with(0, *b"FUGG"), Fault::Magic(*b"FUGG"));
    assert_eq!(with(4, [0, 0, 0, 3]), Fault::BigEndian(3));
    for v in [0u32, 1, 4, 99] {
        assert_eq!(with(4, v.to_le_bytes()), Fault::Version(v));
    }
}

#[test]
fn keys_and_values_that_lie() {
    let key = |k: &[u8]| parse(Writer::new().raw(k, 4, &[0; 4]).build()).unwrap_err();
    assert_eq!(key(b""), Fault::Name("empty"));
    assert_eq!(key(b"a\0b"), Fault::Name("control characters"));
    assert_eq!(key(b"\x1b[2J"), Fault::Name("control characters"));
    assert_eq!(key(b"\xff\xfe"), Fault::Name("not UTF-8"));
    assert_eq!(key(&[b'k'; 65_536]), Fault::Name("too long"));
    assert_eq!(parse(Writer::new().u32("a", 1).u32("a", 1).build()).unwrap_err(), Fault::Duplicate);
    let value = |kind: u32, v: &[u8]| parse(Writer::new().raw(b"k", kind, v).build());
    for kind in [13, 14, u32::MAX] {
        assert_eq!(value(kind, &[0; 64]).unwrap_err(), Fault::ValueType(kind));
    }
    assert_eq!(value(7, &[2]).unwrap_err(), Fault::Bool(2));
    for len in [u64::MAX, 0xffff_ffff_ffff, 1 << 62] {
        assert!(matches!(value(8, &len.to_le_bytes()).unwrap_err(), Fault::Truncated { .. }));
        for element in 0..13u32 {
            let array = [&element.to_le_bytes()[..], &len.to_le_bytes()].concat();
            assert!(matches!(value(9, &array).unwrap_err(), Fault::Truncated { .. }));
        }
    }
    let nested = |depth: usize| {
        let mut v = Vec::new();
        for _ in 1..depth {
            v.extend([&9u32.to_le_bytes()[..], &1u64.to_le_bytes()].concat());
        }
        v.extend([&0u32.to_le_bytes()[..], &1u64.to_le_bytes(), &[7]].concat());
        value(9, &v)
    };
    assert!(nested(1).is_ok() && nested(4).is_ok());
    for depth in [5, 100_000] {
        assert!(matches!(nested(depth).unwrap_err(), Fault::TooMany { .. }));
    }
    // Text that is not UTF-8 is told when it is read.
    let g = value(8, &string(b"\xff")).unwrap();
    assert!(g.str("k").is_err() && g.get("k").is_err());
    let g = value(9, &[&strings(&["ok"])[..4], &1u64.to_le_bytes(), &string(b"\xff")].concat()).unwrap();
    assert!(g.array("k").unwrap().unwrap().strings().unwrap().any(|s| s.is_err()));
}

#[test]
fn alignments_that_lie() {
    for a in [0u32, 3, 4, 13, 0x8000_0000, u32::MAX] {
        let e = parse(Writer::new().u32("general.alignment", a).build()).unwrap_err();
        assert!(matches!(e, Fault::Type { .. }), "{a}: {e:?}");
    }
    let signed = Writer::new().raw(b"general.alignment", 5, &i32::MIN.to_le_bytes());
    assert!(matches!(parse(signed.build()).unwrap_err(), Fault::Type { .. }));
    assert!(matches!(parse(Writer::new().str("general.alignment", "32").build()).unwrap_err(), Fault::Type { .. }));
    let mut wide =
        Writer::new().u32("general.alignment", 4096).tensor("a", &[1], 0, &[1; 4]).tensor("b", &[1], 0, &[2; 4]);
    wide.alignment = 4096;
    assert_eq!(parse(wide.build()).unwrap().tensor_data("b").unwrap(), [2; 4]);
}

#[test]
fn shapes_and_types_that_lie() {
    let tensor = |dims: &[u64], code: u32, data: &[u8]| parse(Writer::new().tensor("t", dims, code, data).build());
    // No dimension is a scalar; a zero is an empty tensor.
    assert_eq!(tensor(&[], 0, &[1, 2, 3, 4]).unwrap().tensor_data("t").unwrap(), [1, 2, 3, 4]);
    assert!(tensor(&[0, 5], 0, &[]).unwrap().tensor_data("t").unwrap().is_empty());
    assert!(matches!(tensor(&[1; 5], 0, &[0; 4]).unwrap_err(), Fault::TooMany { count: 5, .. }));
    for dims in
        [&[1u64 << 62][..], &[4_611_686_018_427_387_903], &[(1 << 63) - 1, 2], &[1152, (1 << 42) + 1], &[u64::MAX; 4]]
    {
        let e = tensor(dims, 0, &[0; 64]).unwrap_err();
        assert!(matches!(e, Fault::Size { .. } | Fault::Truncated { .. }), "{dims:?}: {e:?}");
    }
    for code in [4, 5, 10, 24, 36, 39, 99, u32::MAX] {
        assert!(matches!(tensor(&[32], code, &[0; 64]).unwrap_err(), Fault::DType { code: c, .. } if c == code));
    }
    for (dtype, row) in [(DType::Q4_0, 31), (DType::Q4_K, 32), (DType::Q6_K, 255), (DType::Q8_0, 33)] {
        let e = tensor(&[row, dtype.block() as u64], ggml_code(dtype), &[0; 4096]).unwrap_err();
        let block = dtype.block();
        assert_eq!(e, Fault::Size { dims: vec![row, block as u64], dtype: dtype.name(), block });
    }
    // Q8_0 with the bytes of Q4_0.
    assert!(matches!(tensor(&[32, 2], 8, &[0; 36]).unwrap_err(), Fault::Truncated { .. }));
    let name = |n: &str| parse(Writer::new().tensor(n, &[1], 0, &[0; 4]).build());
    assert!(name(&"n".repeat(64)).is_ok() && name("../../x").is_ok());
    assert_eq!(name(&"n".repeat(65)).unwrap_err(), Fault::Name("too long"));
    assert_eq!(name("\x1b[2J").unwrap_err(), Fault::Name("control characters"));
    let twice = Writer::new().tensor("t", &[1], 0, &[0; 4]).tensor("t", &[1], 0, &[0; 4]);
    assert_eq!(parse(twice.build()).unwrap_err(), Fault::Duplicate);
}

#[test]
fn offsets_that_lie() {
    for offset in [0, 1, 16, 33, 64, 96, 1 << 40, u64::MAX - 31, u64::MAX] {
        let mut w = small();
        w.tensors[1].offset = Some(offset);
        let outcome = parse(w.build());
        if offset == 64 {
            assert!(outcome.is_ok());
        } else {
            assert_eq!(outcome.unwrap_err(), Fault::Offset { expected: 64, found: offset });
        }
    }
}

#[test]
fn split_models_are_named() {
    let split = |n: u32| parse(Writer::new().u32("split.count", n).build());
    assert_eq!(split(3).unwrap_err(), Fault::Split(3));
    assert!(split(1).is_ok());
    assert!(Fault::Split(3).to_string().contains("split.count"));
    assert!(parse(Writer::new().str("split.count", "../3").build()).is_err());
}

#[test]
fn only_regular_files_are_opened() {
    let dir = tempfile::tempdir().unwrap();
    let fault = |p: &std::path::Path| Gguf::open(p).unwrap_err().fault;
    assert_eq!(fault(dir.path()), Fault::NotRegular);
    for device in ["/dev/zero", "/dev/random", "/dev/null"] {
        assert_eq!(fault(device.as_ref()), Fault::NotRegular);
    }
    let pipe = dir.path().join("pipe");
    let made = std::process::Command::new("mkfifo").arg(&pipe).status();
    if made.is_ok_and(|s| s.success()) {
        assert_eq!(fault(&pipe), Fault::NotRegular);
    }
    assert!(matches!(fault(&dir.path().join("absent")), Fault::Io(_)));
    let file = dir.path().join("m.gguf");
    std::fs::write(&file, b"GGUF").unwrap();
    assert!(matches!(fault(&file), Fault::Truncated { len: 4, .. }));
    std::fs::File::create(&file).unwrap().set_len(1 << 40).unwrap();
    assert!(matches!(fault(&file), Fault::Magic([0, 0, 0, 0])));
    std::fs::write(&file, small().build()).unwrap();
    let link = dir.path().join("link");
    std::os::unix::fs::symlink(&file, &link).unwrap();
    let g = Gguf::open(&link).unwrap();
    assert_eq!(g.tensor_data("a").unwrap(), [7; 36]);
    g.read_ahead();
    g.release_pages();
    assert_eq!(g.tensor_data("a").unwrap(), [7; 36]);
    assert!(g.check_unchanged().is_ok());
    std::fs::OpenOptions::new().append(true).open(&file).unwrap().set_len(100_000).unwrap();
    assert_eq!(g.check_unchanged().unwrap_err().fault, Fault::Changed);
}

#[test]
fn models_are_what_metadata_and_tensors_agree_on() {
    for (arch, family) in [("llama", Family::Llama), ("qwen2", Family::Qwen2)] {
        let m = parse(with_keys(llama(arch, |_| None), arch, &[]).build()).unwrap().model().unwrap();
        assert_eq!((m.family, m.layers, m.hidden, m.heads, m.kv_heads, m.head_dim), (family, 2, 32, 2, 1, 16));
        assert_eq!((m.ffn, m.vocab, m.context, m.tied, m.name.as_str()), (64, 40, 128, true, "tiny"));
        let bias = if arch == "qwen2" { 64 } else { 0 };
        assert_eq!(m.parameters, 32 * 40 + 32 + 2 * (64 + 32 * (32 + 16 + 16 + 32) + 3 * 32 * 64 + bias));
        assert_eq!(m.identity.len(), 64);
        let own = llama(arch, |_| None).zeros("output.weight", &[32, 40], DType::F16);
        let other = parse(with_keys(own, arch, &[]).build()).unwrap().model().unwrap();
        assert_eq!((other.tied, other.parameters), (false, m.parameters));
        assert_ne!(other.identity, m.identity);
    }
}

#[test]
fn architectures_that_lie() {
    let refused = |w: Writer| {
        let e = parse(w.build()).unwrap().model().unwrap_err();
        assert!(
            matches!(e.fault, Fault::Sanity(_) | Fault::Type { .. } | Fault::Missing | Fault::Architecture(_)),
            "{e}"
        );
        e.to_string()
    };
    for (key, value) in [
        ("block_count", 0),
        ("block_count", 3),
        ("block_count", u32::MAX),
        ("attention.head_count", 0),
        ("attention.head_count", 3),
        ("attention.head_count", 1),
        ("attention.head_count_kv", 0),
        ("attention.head_count_kv", 4),
        ("embedding_length", 33),
        ("embedding_length", 64),
        ("feed_forward_length", 128),
        ("context_length", 0),
        ("context_length", u32::MAX),
    ] {
        let text = refused(with_keys(llama("llama", |_| None), "llama", &[(key, value)]));
        assert!(text.starts_with("t.gguf: key `llama.") || text.contains("tensor `"), "{text}");
    }
    let base = || with_keys(llama("llama", |_| None), "llama", &[]);
    assert!(refused(Writer::new()).contains("general.architecture"));
    assert!(refused(Writer::new().str("general.architecture", "gemma\u{1b}[2J")).contains("gemma\\u{1b}"));
    for w in [
        base().f32("llama.rope.scale_linear", 2.0),
        base().str("llama.rope.scaling.type", "yarn"),
        base().u32("llama.expert_count", 8),
        base().u32("llama.attention.key_length", 0),
        base().u32("llama.attention.key_length", 15),
        base().u32("llama.attention.value_length", 8),
        base().u32("llama.rope.dimension_count", 8),
        base().u32("llama.vocab_size", 41),
        base().zeros("blk.0.attn_q.bias", &[32], DType::F32),
        base().zeros("rope_freqs.weight", &[8], DType::F32),
    ] {
        refused(w);
    }
    for base_frequency in [f32::NAN, f32::INFINITY, 0.0, -1.0] {
        let mut w = llama("llama", |_| None);
        for (key, value) in KEYS {
            w = w.u32(&format!("llama.{key}"), *value);
        }
        let w = w.f32("llama.attention.layer_norm_rms_epsilon", 1e-5).f32("llama.rope.freq_base", base_frequency);
        assert!(refused(w).contains("rope.freq_base"));
    }
    let context = base().raw(b"llama.context_length2", 10, &(1u64 << 40).to_le_bytes());
    assert!(parse(context.build()).unwrap().u32("llama.context_length2").is_err());
    // A shape that differs, a tensor that is missing, fewer embeddings than tokens.
    for (name, dims) in [
        ("blk.1.ffn_up.weight", vec![32u64, 96]),
        ("blk.0.attn_k.weight", vec![0]),
        ("token_embd.weight", vec![32, 39]),
    ] {
        let w = llama("llama", |n| (n == name).then(|| dims.clone()));
        let text = refused(with_keys(w, "llama", &[]));
        assert!(text.contains(name) || text.contains("tokens"), "{text}");
    }
}

#[test]
fn configurations_give_shapes() {
    let smol = r#"{"model_type":"llama","num_hidden_layers":30,"hidden_size":576,"num_attention_heads":9,"num_key_value_heads":3,
        "intermediate_size":1536,"vocab_size":49152,"max_position_embeddings":8192,"rope_theta":100000,"rms_norm_eps":1e-05,
        "tie_word_embeddings":true,"architectures":["LlamaForCausalLM"]}"#;
    let m = model_from_config(smol).unwrap();
    assert_eq!((m.parameters, m.head_dim, m.context, m.tied), (134_515_008, 64, 8192, true));
    let qwen = r#"{"model_type":"qwen2","num_hidden_layers":24,"hidden_size":896,"num_attention_heads":14,"num_key_value_heads":2,
        "intermediate_size":4864,"vocab_size":151936,"tie_word_embeddings":true}"#;
    assert_eq!(model_from_config(qwen).unwrap().parameters, 494_032_768);
    let qwen3 = r#"{"model_type":"qwen3","num_hidden_layers":36,"hidden_size":4096,"num_attention_heads":32,"num_key_value_heads":8,
        "head_dim":128,"intermediate_size":12288,"vocab_size":151936,"tie_word_embeddings":false}"#;
    // 8,190,735,360 published parameters less the embedding that is only looked up.
    assert_eq!(model_from_config(qwen3).unwrap().parameters, 8_190_735_360 - 151_936 * 4096);
    let moe = r#"{"model_type":"qwen3_moe","num_hidden_layers":48,"hidden_size":2048,"num_attention_heads":32,"num_key_value_heads":4,
        "head_dim":128,"intermediate_size":6144,"moe_intermediate_size":768,"num_experts":128,"num_experts_per_tok":8,"vocab_size":151936}"#;
    let m = model_from_config(moe).unwrap();
    assert_eq!(m.ffn, 6144);
    assert!((2.9e9..3.4e9).contains(&(m.parameters as f64)), "{}", m.parameters);
    for bad in [
        "",
        "[]",
        "{}",
        &"[".repeat(100_000),
        &"x".repeat(2 << 20),
        &smol.replace("llama", "bert"),
        &smol.replace("576", "0"),
        &smol.replace("576", "-1"),
        &smol.replace("576", "18446744073709551615"),
        &smol.replace(":3,", ":2,"),
        &smol.replace("100000", "-1"),
        &smol.replace("100000", "1e999"),
        &smol.replace("\"vocab_size\":49152,", ""),
    ] {
        let e = model_from_config(bad).unwrap_err().to_string();
        assert!(e.starts_with("config.json: "), "{e}");
    }
}
