//! K8: copies and clears pages of one layer, keys, values and summaries, for all forks of a step together.
//!
//! Takes a list of edits (page to read, page to write, slots to copy); the slots behind are made 0, so that nothing a
//! sequence left behind reaches another one. Moves bits, whatever they stand for.

use super::attend_int8::KEYS_IN_LANE;
use super::build::{Build, Built, Int, Place, Slot};
use super::{Dims, Summary, step_words};
use ir::kernel::{Cmp, Mem, Split};
use ir::program::{Buf, EDIT_WORDS, PAGE};
use ir::schedule::KvFormat;

/// Bytes of an edit.
const EDIT_BYTES: i64 = 8 * EDIT_WORDS as i64;

/// The kernel. A unit is a head of a page.
pub(super) fn kernel(name: &str, dims: &Dims) -> Built {
    let mut b = Build::new(name);
    let n = step_words::load(&mut b, step_words::EDITS);
    let edits = b.read_buf("edits", Buf::Edits);
    let keys = b.write("keys", Slot::Keys);
    let values = b.write("values", Slot::Values);
    let summary = dims.summaries.then(|| b.write("summary", Slot::Summary));
    let units = b.mul_const(n, dims.kv_heads);
    b.par_for(units, Split::Blocked, |b, unit| {
        let (edit, head) = b.div_rem(unit, dims.kv_heads);
        let at = b.mul_const(edit, EDIT_BYTES);
        let [from, to, slots] = [0, 8, 16].map(|word| b.load_i64(edits.at(at, word)));
        let blocks = [from, to].map(|page| {
            let page = b.mul_const(page, dims.block_bytes());
            b.scale_add(head, dims.head_stride(), page)
        });
        let blocks = (blocks[0], blocks[1]);
        key_head(b, dims, keys, blocks, slots);
        value_head(b, dims, values, blocks, slots);
        for place in [keys, values] {
            scales(b, dims, place, blocks, slots);
        }
        // Only full pages have a summary; that of another one is made anew when the page is filled.
        if let Some(summary) = summary {
            let [from, to] = [from, to].map(|page| dims.summary_at(b, page, head));
            for offset in (0..dims.summary_groups() * Summary::LINES).step_by(64) {
                let words = b.load_ints(Mem::I32, summary.at(from.lines, offset));
                b.store_ints(Mem::I32, summary.at(to.lines, offset), words);
            }
            for offset in (0..dims.summary_groups() * Summary::SCALES).step_by(4) {
                let pair = b.load_i32(summary.at(from.scales, offset));
                b.store_i32(summary.at(to.scales, offset), pair);
            }
        }
    });
    b.finish()
}

/// f16: `[dimension][PAGE]` elements, a lane holds two neighbouring slots of one dimension. Int8: a lane holds four
/// dimensions of one slot.
fn key_head(b: &mut Build, dims: &Dims, keys: Place, (from, to): (Int, Int), slots: Int) {
    let (lanes, slots, none) = (b.iota(), b.splat_int(slots), b.vi(0));
    let keep = match dims.kv {
        KvFormat::F16 => {
            let in_row = b.vi(PAGE as i64 / 2 - 1);
            let first = b.and(lanes, in_row);
            let first = b.shl(first, 1);
            let mut keep = none;
            for i in 0..2 {
                let (i_lanes, mask) = (b.vi(i), b.vi(0xFFFF << (16 * i)));
                let slot = b.add(first, i_lanes);
                let mask = b.select(Cmp::Lt, slot, slots, mask, none);
                keep = b.or(keep, mask);
            }
            keep
        }
        KvFormat::Int8 => {
            let all = b.vi(-1);
            b.select(Cmp::Lt, lanes, slots, all, none)
        }
    };
    b.for_to(dims.scales(), 64, |b, at| {
        let (source, target) = (b.add(from, at), b.add(to, at));
        let words = b.load_ints(Mem::I32, keys.at(source, 0));
        let words = b.and(words, keep);
        b.store_ints(Mem::I32, keys.at(target, 0), words);
    });
}

/// f16: `[PAGE][dimension]` elements. Int8: a lane holds four neighbouring slots of one dimension.
fn value_head(b: &mut Build, dims: &Dims, values: Place, (from, to): (Int, Int), slots: Int) {
    if dims.kv == KvFormat::Int8 {
        let (slots, none) = (b.splat_int(slots), b.vi(0));
        for group in 0..PAGE as i64 / KEYS_IN_LANE {
            let mut keep = none;
            for i in 0..KEYS_IN_LANE {
                let (slot, mask) = (b.vi(KEYS_IN_LANE * group + i), b.vi(0xFF << (8 * i)));
                let mask = b.select(Cmp::Lt, slot, slots, mask, none);
                keep = b.or(keep, mask);
            }
            let bytes = KEYS_IN_LANE * dims.head_dim;
            b.for_to(bytes, 64, |b, at| {
                let (source, target) = (b.add(from, at), b.add(to, at));
                let words = b.load_ints(Mem::I32, values.at(source, group * bytes));
                let words = b.and(words, keep);
                b.store_ints(Mem::I32, values.at(target, group * bytes), words);
            });
        }
        return;
    }
    let slot = dims.kv_bytes() * dims.head_dim;
    let (zero, end, none) = (b.int(0), b.int(PAGE as i64 * slot), b.vi(0));
    let kept = b.mul_const(slots, slot);
    b.for_(zero, kept, 64, |b, at| {
        let (source, target) = (b.add(from, at), b.add(to, at));
        let words = b.load_ints(Mem::I32, values.at(source, 0));
        b.store_ints(Mem::I32, values.at(target, 0), words);
    });
    b.for_(kept, end, 64, |b, at| {
        let target = b.add(to, at);
        b.store_ints(Mem::I32, values.at(target, 0), none);
    });
}

/// One scale per slot, where there are any.
fn scales(b: &mut Build, dims: &Dims, place: Place, (from, to): (Int, Int), slots: Int) {
    if dims.kv == KvFormat::Int8 {
        let (lanes, slots, none) = (b.iota(), b.splat_int(slots), b.vi(0));
        let words = b.load_ints(Mem::I32, place.at(from, dims.scales()));
        let words = b.select(Cmp::Lt, lanes, slots, words, none);
        b.store_ints(Mem::I32, place.at(to, dims.scales()), words);
    }
}
