//! K8: copies and clears pages of one layer, keys and values, for all forks of a step together.
//!
//! Takes a list of edits (page to read, page to write, slots to copy); the slots behind are made 0, so that nothing a
//! sequence left behind reaches another one. Moves bits, whatever they stand for.

use super::build::{Build, Built, Int, Place, Slot};
use super::{Dims, step_words};
use ir::kernel::{Cmp, Mem, Split};
use ir::program::{Buf, EDIT_WORDS, PAGE};

/// Bytes of an edit.
const EDIT_BYTES: i64 = 8 * EDIT_WORDS as i64;

/// The kernel. A unit is a head of a page.
pub(super) fn kernel(name: &str, dims: &Dims) -> Built {
    let mut b = Build::new(name);
    let n = step_words::load(&mut b, step_words::EDITS);
    let edits = b.read_buf("edits", Buf::Edits);
    let keys = b.write("keys", Slot::Keys);
    let values = b.write("values", Slot::Values);
    let units = b.mul_const(n, dims.kv_heads);
    b.par_for(units, Split::Blocked, |b, unit| {
        let (edit, head) = b.div_rem(unit, dims.kv_heads);
        let at = b.mul_const(edit, EDIT_BYTES);
        let [from, to, slots] = [0, 8, 16].map(|word| b.load_i64(edits.at(at, word)));
        let block = dims.block_bytes();
        let [from, to] = [from, to].map(|page| {
            let page = b.mul_const(page, block);
            b.scale_add(head, dims.head_stride(), page)
        });
        key_head(b, block, keys, (from, to), slots);
        value_head(b, dims, values, (from, to), slots);
    });
    b.finish()
}

/// `[dimension][PAGE]` of 16 bits: a register holds the slots of two dimensions.
fn key_head(b: &mut Build, block: i64, keys: Place, (from, to): (Int, Int), slots: Int) {
    // Lane `l` holds the slots 2·(l mod 8) and 2·(l mod 8) + 1.
    let (lanes, seven, one, none) = (b.iota(), b.vi(7), b.vi(1), b.vi(0));
    let even = b.and(lanes, seven);
    let even = b.shl(even, 1);
    let odd = b.add(even, one);
    let slots = b.splat_int(slots);
    let (low, high) = (b.vi(0xFFFF), b.vi(0xFFFF_0000));
    let low = b.select(Cmp::Lt, even, slots, low, none);
    let high = b.select(Cmp::Lt, odd, slots, high, none);
    let keep = b.or(low, high);
    b.for_to(block, 64, |b, at| {
        let (source, target) = (b.add(from, at), b.add(to, at));
        let words = b.load_ints(Mem::I32, keys.at(source, 0));
        let words = b.and(words, keep);
        b.store_ints(Mem::I32, keys.at(target, 0), words);
    });
}

/// `[PAGE][dimension]` of 16 bits.
fn value_head(b: &mut Build, dims: &Dims, values: Place, (from, to): (Int, Int), slots: Int) {
    let slot = 2 * dims.head_dim;
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
