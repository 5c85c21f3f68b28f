//! What a program must promise before it is bound to memory: a plan file may come from anywhere.
//!
//! Takes a model and a program, returns an error that names the first thing that does not fit. It does not look into kernels.

use super::{page_shape, program_error, stat_words};
use crate::error::Result;
use crate::weights;
use ir::model::Model;
use ir::program::{Arg, Buf, Program, summary_bytes};
use ir::schedule::Attention;

/// Everything the launches rely on.
pub(super) fn check(model: &Model, program: &Program) -> Result<()> {
    let fail = |place: &str, cause: String| Err(program_error(place, cause));
    if program.max_rows == 0 || program.max_head_rows == 0 || program.attend_rows == 0 {
        return fail("sizes", "rows of a step, of the head and of an attention item must be at least 1".to_owned());
    }
    let shape = page_shape(model, program, 0);
    if program.page_bytes != shape.page_bytes() as u64 {
        return fail("sizes", format!("pages of {} bytes, the model has {}", program.page_bytes, shape.page_bytes()));
    }
    let summary = if program.attention.chooses() {
        u64::from(model.kv_heads) * summary_bytes(u64::from(model.head_dim))
    } else {
        0
    };
    if program.summary_bytes != summary {
        return fail("sizes", format!("summaries of {} bytes, the model has {summary}", program.summary_bytes));
    }
    check_attention(model, program)?;
    let size = |buf: Buf| program.buffers.iter().find(|(b, _)| *b == buf).map(|(_, s)| *s).unwrap_or_default();
    for (buf, has, least) in [
        (Buf::Hidden, size(Buf::Hidden).per_row, u64::from(model.hidden) * 4),
        (Buf::Logits, size(Buf::Logits).per_head_row, u64::from(model.vocab).next_multiple_of(16) * 4),
        (Buf::Stats, size(Buf::Stats).per_head_row, stat_words(model) as u64 * 4),
        (Buf::Weighed, size(Buf::Weighed).per_head_row, stat_words(model) as u64 * 4),
    ] {
        if has < least {
            return fail(&format!("buffer {buf:?}"), format!("{has} bytes per row, the model has {least}"));
        }
    }
    if program.head.is_empty() || program.sample.is_empty() || program.fork.is_empty() {
        return fail("launches", "none make logits, none draw tokens, or none copy pages".to_owned());
    }
    let all = [&program.forward, &program.head, &program.sample, &program.fork];
    for (i, launch) in all.into_iter().flatten().enumerate() {
        let place = format!("launch {i}");
        let Some(kernel) = program.kernels.get(launch.kernel as usize) else {
            return fail(&place, format!("kernel {} of {}", launch.kernel, program.kernels.len()));
        };
        if kernel.params.len() != launch.args.len() {
            return fail(&place, format!("{} arguments for {} parameters", launch.args.len(), kernel.params.len()));
        }
        for arg in &launch.args {
            let known = match arg {
                Arg::Weight(w, offset) => {
                    let weight = program.weights.get(*w as usize).and_then(weights::bytes);
                    weight.is_some_and(|bytes| *offset < (bytes as u64).max(1))
                }
                Arg::Kv(layer, _) => *layer < model.layers,
                Arg::Summary(layer) => *layer < model.layers && program.summary_bytes > 0,
                Arg::Buf(buf) => *buf != Buf::Keys && *buf != Buf::Values,
                Arg::ScratchStride => true,
            };
            if !known {
                return fail(&place, format!("argument {arg:?} names nothing"));
            }
        }
    }
    Ok(())
}

/// The lists of pages that the tables will be made for have room for what is always in them.
fn check_attention(model: &Model, program: &Program) -> Result<()> {
    let (Attention::Sparse { sinks, window, .. } | Attention::Window { sinks, window, .. }) = program.attention else {
        return Ok(());
    };
    let pages = u64::from(program.attention.pages().unwrap_or(0));
    let lists = program.attention.list_words(u64::from(model.kv_heads));
    let fits = window > 0
        && !matches!(program.attention, Attention::Sparse { top_p, .. } if !(1..=1000).contains(&top_p))
        && u64::from(sinks) + u64::from(window) <= pages
        && lists.saturating_mul(u64::from(program.max_rows)) <= i32::MAX as u64;
    if fits { Ok(()) } else { Err(program_error("attention", format!("{} leaves no list", program.attention))) }
}
