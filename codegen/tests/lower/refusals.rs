//! What lowering refuses, and that the reason names the culprit.

use crate::machine::{Tiny, Widths, schedule};
use codegen::lower::{Error, program};
use ir::model::{Family, Model, Tensor};
use ir::program::{MOST_PAGES, PAGE};
use ir::schedule::{Attention, KvFormat, ModelSchedule};
use ir::tensor::DType;

const WIDTHS: Widths = [64, 2, 1, 32, 64, 48];

fn model(family: Family) -> Model {
    Tiny::new(family, 1, WIDTHS, [DType::Q8_0; 8]).model
}

fn refused(m: &Model) -> Error {
    program(m, &schedule()).expect_err("the model is refused")
}

fn edit(m: &mut Model, name: &str, f: impl FnOnce(&mut Tensor)) {
    f(m.tensors.iter_mut().find(|t| t.name == name).expect("the tensor is there"));
}

#[test]
fn tensors_are_checked_one_by_one() {
    let whole = model(Family::Qwen2);
    program(&whole, &schedule()).expect("the model lowers");
    for i in 0..whole.tensors.len() {
        let mut m = whole.clone();
        let tensor = m.tensors.remove(i).name;
        assert_eq!(refused(&m), Error::Missing { tensor: tensor.clone() });
        let mut m = whole.clone();
        m.tensors[i].shape[0] += 1;
        assert!(matches!(refused(&m), Error::Shape { tensor: t, .. } if t == tensor));
    }
}

#[test]
fn types_that_do_not_fit_are_named() {
    let mut m = model(Family::Llama);
    edit(&mut m, "blk.0.attn_v.weight", |t| t.dtype = DType::Q6_K);
    let text = refused(&m).to_string();
    assert!(text.contains("blk.0.attn_v.weight") && text.contains("Q6_K") && text.contains("256"), "{text}");
    let mut m = model(Family::Llama);
    edit(&mut m, "output_norm.weight", |t| t.dtype = DType::Q8_0);
    assert!(matches!(refused(&m), Error::Type { tensor, .. } if tensor == "output_norm.weight"));
}

#[test]
fn meanings_that_would_be_lost_are_refused() {
    for name in ["blk.0.attn_q.bias", "blk.0.attn_q_norm.weight", "blk.0.attn_output.bias", "blk.0.ffn_down.bias"] {
        let mut m = model(Family::Llama);
        m.tensors.push(Tensor { name: name.into(), dtype: DType::F32, shape: vec![64] });
        assert!(matches!(refused(&m), Error::Unsupported { tensor, .. } if tensor == name));
    }
}

/// The longest context that pages may be chosen from, with all that a choice can need.
#[test]
fn the_longest_admitted_context_lowers() {
    let attention = Attention::Sparse { pages: 64, sinks: 1, window: 8, dense_layers: 0, top_p: 950 };
    for (context, fits) in [(MOST_PAGES * PAGE, true), (MOST_PAGES * PAGE + 1, false)] {
        let mut m = model(Family::Llama);
        m.context = context as u32;
        let lowered = program(&m, &ModelSchedule { kv: KvFormat::Int8, attention, ..schedule() });
        match lowered {
            Ok(program) => {
                assert!(fits);
                for kernel in &program.kernels {
                    ir::kernel_check::kernel(kernel).expect("well-formed");
                }
            }
            Err(error) => assert!(!fits && matches!(error, Error::Model { field: "context", .. }), "{error}"),
        }
    }
}

#[test]
fn numbers_outside_the_kernels_are_refused() {
    type Edit = fn(&mut Model);
    let edits: [(Edit, &str); 12] = [
        (|m| m.hidden = 0, "hidden width"),
        (|m| m.hidden = 48, "hidden width"),
        (|m| m.ffn = u32::MAX, "feed-forward width"),
        (|m| m.heads = 0, "number of heads"),
        (|m| m.heads = u32::MAX, "number of heads"),
        (|m| m.kv_heads = 0, "number of KV heads"),
        (|m| m.kv_heads = 3, "number of KV heads"),
        (|m| m.head_dim = 48, "head dimension"),
        (|m| m.vocab = u32::MAX, "vocabulary"),
        (|m| m.layers = u32::MAX, "number of layers"),
        (|m| m.context = 0, "context"),
        (|m| m.rms_eps = f32::NAN, "norm epsilon (bits)"),
    ];
    for (edit, name) in edits {
        let mut m = model(Family::Llama);
        edit(&mut m);
        assert!(matches!(refused(&m), Error::Model { field, .. } if field == name), "{name}");
    }
    let m = model(Family::Llama);
    for s in [
        ModelSchedule { row_block: 3, ..schedule() },
        ModelSchedule { attend_rows: 0, ..schedule() },
        ModelSchedule { max_rows: 0, ..schedule() },
        ModelSchedule { max_head_rows: u32::MAX, ..schedule() },
        ModelSchedule { threads: 0, ..schedule() },
        ModelSchedule { prefetch: u32::MAX, ..schedule() },
        ModelSchedule { tile_from: 17, ..schedule() },
    ] {
        assert!(matches!(program(&m, &s), Err(Error::Schedule { .. })), "{s:?}");
    }
}

#[test]
fn layers_of_equal_types_share_kernels() {
    let m = Tiny::new(Family::Llama, 3, WIDTHS, [DType::Q8_0; 8]).model;
    let p = program(&m, &schedule()).expect("the model lowers");
    let names: Vec<&str> = p.kernels.iter().map(|k| k.name.as_str()).collect();
    assert_eq!(names.len(), 10, "{names:?}");
    assert_eq!((p.forward.len(), p.head.len(), p.sample.len(), p.fork.len()), (15, 2, 2, 3));
    assert_eq!(p, program(&m, &schedule()).expect("again"));
}
