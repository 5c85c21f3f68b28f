//! Loads the models that the forward tests run, through lowering and a compiled back end; `None`, with a line on stderr
//! that says why, when a file or a back end is absent.

#![allow(dead_code, reason = "each test binary uses a part of it")]

use codegen::Backend;
use inferc_runtime::device::probe::isa;
use inferc_runtime::forward::{Loaded, LocalModel, Options};
use inferc_runtime::gguf::Gguf;
use inferc_runtime::model::{Append, LanguageModel, Row, SeqId, Wanted};
use ir::plan::PrefixMode;
use ir::schedule::{Attention, KvFormat, ModelSchedule, Numerics, Prologue};
use std::path::PathBuf;
use std::sync::Arc;

/// The small model of the tests.
pub(crate) const SMOLLM2: &str = "smollm2-135m-instruct-q4_1.gguf";

/// A schedule for this machine.
pub(crate) fn schedule() -> ModelSchedule {
    ModelSchedule {
        isa: isa(),
        threads: 2,
        row_block: 8,
        tile_from: 0,
        attend_rows: 8,
        max_rows: 256,
        max_head_rows: 32,
        prologue: Prologue::Split,
        interleave: true,
        numerics: Numerics::Int8,
        prefetch: 4096,
        kv: KvFormat::F16,
        attention: Attention::Dense,
    }
}

fn beside(variable: &str, default: &str) -> PathBuf {
    let root = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("..");
    std::env::var_os(variable).map_or_else(|| root.join(default), PathBuf::from)
}

/// A reference file as text.
pub(crate) fn reference_text(name: &str) -> Option<String> {
    let path = beside("INFERC_REFERENCE", "../shared/reference").join(name);
    let text = std::fs::read_to_string(&path).ok();
    if text.is_none() {
        eprintln!("skipped: no {}; point INFERC_REFERENCE at the reference outputs", path.display());
    }
    text
}

/// A reference file as JSON.
pub(crate) fn reference(name: &str) -> Option<serde_json::Value> {
    serde_json::from_str(&reference_text(name)?).ok()
}

/// The back end to test with: the fastest that this build has.
pub(crate) fn backend() -> Option<Backend> {
    let found = Backend::ALL.into_iter().find(|b| b.available() && *b != Backend::Interp);
    if found.is_none() {
        eprintln!("skipped: this build has no compiled back end; add a feature (llvm22, llvm19 or portable)");
    }
    found
}

/// A model file, compiled and loaded.
pub(crate) fn load(file: &str, schedule: &ModelSchedule) -> Option<Arc<Loaded>> {
    let path = beside("INFERC_MODELS", "models").join(file);
    let backend = backend()?;
    if !path.exists() {
        eprintln!("skipped: no {}; run scripts/demo or point INFERC_MODELS at the models", path.display());
        return None;
    }
    let gguf = Gguf::open(&path).expect("a model file");
    let loaded = compile(gguf, schedule, backend);
    eprintln!("{file}: {:.1} MB of weights in {:.3} s", loaded.weight_bytes() as f64 / 1e6, loaded.repack_seconds);
    Some(loaded)
}

/// A model compiled and loaded.
pub(crate) fn compile(gguf: Gguf, schedule: &ModelSchedule, backend: Backend) -> Arc<Loaded> {
    let model = gguf.model().expect("a supported model");
    let program = codegen::lower::program(&model, schedule).expect("lowers");
    let start = std::time::Instant::now();
    let code = codegen::emit(&program.kernels, schedule.isa, backend).expect("compiles");
    let compiled = start.elapsed().as_secs_f64();
    eprintln!("{} kernels, {} bytes of code in {compiled:.2} s", program.kernels.len(), code.bytes.len());
    Loaded::load(Arc::new(gguf), &model, &program, &code, 2).expect("loads")
}

/// A user of a loaded model.
pub(crate) fn model(loaded: &Arc<Loaded>, threads: usize, kv_pages: u32) -> LocalModel {
    let mut model = LocalModel::new(Arc::clone(loaded), &Options { threads, kv_pages }).expect("memory");
    model.set_prefix_mode(PrefixMode::Cascade);
    model
}

/// What a test keeps of a row.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Kept {
    pub(crate) logits: Vec<f32>,
    pub(crate) stats: [f32; 3],
    pub(crate) argmax: u32,
}

/// One step of given tokens; the rows in order.
pub(crate) fn step(model: &mut LocalModel, appends: &[(SeqId, &[u32], Wanted)]) -> Vec<Kept> {
    step_placed(model, appends, &[])
}

/// One step of given tokens with a placement of prompts for each of the first appends; the rows in order.
pub(crate) fn step_placed(
    model: &mut LocalModel,
    appends: &[(SeqId, &[u32], Wanted)],
    modes: &[PrefixMode],
) -> Vec<Kept> {
    let appends: Vec<Append<'_>> = appends
        .iter()
        .map(|(seq, tokens, wanted)| Append { seq: *seq, tokens, wanted: *wanted, decoded: false })
        .collect();
    rows(model, &appends, modes)
}

/// The rows of one step, in order.
pub(crate) fn rows(model: &mut LocalModel, appends: &[Append<'_>], modes: &[PrefixMode]) -> Vec<Kept> {
    let mut rows = Vec::new();
    model.step_placed(appends, modes, &mut |_, _, row| rows.push(kept(&row))).expect("steps");
    rows
}

/// What a test keeps of this row.
pub(crate) fn kept(row: &Row<'_>) -> Kept {
    let stats = [row.max, row.log_z, row.entropy];
    Kept { logits: row.logits.to_vec(), stats, argmax: row.argmax }
}
