//! From GGUF blocks to single precision: takes a type and bytes of whole blocks, returns the weights they stand for.
//!
//! The arithmetic and its order are those of the reference library (`gguf` for Python), so results are the same bits.
//! Plain code for embeddings and tests; matrices are read as tiles by generated kernels and never pass here.

use half::{bf16, f16};
use ir::tensor::DType;

/// Bytes and elements that do not belong together.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{bytes} bytes of {} cannot hold {elements} elements; blocks have {} elements in {} bytes", dtype.name(), dtype.block(), dtype.block_bytes())]
pub struct QuantError {
    /// The type.
    pub dtype: DType,
    /// Bytes given.
    pub bytes: usize,
    /// Elements asked for.
    pub elements: usize,
}

/// Turns `out.len()` elements in blocks of `dtype` into floats.
///
/// # Errors
/// When `bytes` are not exactly the blocks of `out.len()` elements.
pub fn dequantize_row(dtype: DType, bytes: &[u8], out: &mut [f32]) -> Result<(), QuantError> {
    if dtype.bytes(out.len() as u64) != Some(bytes.len() as u64) {
        return Err(QuantError { dtype, bytes: bytes.len(), elements: out.len() });
    }
    let block: fn(&[u8], &mut [f32]) = match dtype {
        DType::F32 => |b, o| o[0] = f32::from_le_bytes([b[0], b[1], b[2], b[3]]),
        DType::F16 => |b, o| o[0] = half(b, 0),
        DType::BF16 => |b, o| o[0] = bf16::from_le_bytes([b[0], b[1]]).to_f32(),
        DType::Q8_0 => q8_0,
        DType::Q4_0 => |b, o| {
            let d = half(b, 0);
            nibbles(&b[2..18], o, |q, _| d * f32::from(i16::from(q) - 8));
        },
        DType::Q4_1 => |b, o| {
            let (d, m) = (half(b, 0), half(b, 2));
            nibbles(&b[4..20], o, |q, _| d * f32::from(q) + m);
        },
        DType::Q5_0 => |b, o| {
            let (d, high) = (half(b, 0), u32::from_le_bytes([b[2], b[3], b[4], b[5]]));
            nibbles(&b[6..22], o, |q, i| d * f32::from(i16::from(q | fifth(high, i)) - 16));
        },
        DType::Q5_1 => |b, o| {
            let (d, m, high) = (half(b, 0), half(b, 2), u32::from_le_bytes([b[4], b[5], b[6], b[7]]));
            nibbles(&b[8..24], o, |q, i| d * f32::from(q | fifth(high, i)) + m);
        },
        DType::Q4_K => q4_k,
        DType::Q5_K => q5_k,
        DType::Q6_K => q6_k,
    };
    for (b, o) in bytes.chunks_exact(dtype.block_bytes()).zip(out.chunks_exact_mut(dtype.block())) {
        block(b, o);
    }
    Ok(())
}

/// The half-precision number at byte `at`.
fn half(b: &[u8], at: usize) -> f32 {
    f16::from_le_bytes([b[at], b[at + 1]]).to_f32()
}

/// Bit `i` of `high` as the fifth bit of a weight.
fn fifth(high: u32, i: usize) -> u8 {
    if high >> i & 1 == 1 { 16 } else { 0 }
}

/// 32 weights in 16 bytes: the low nibbles are the first half.
fn nibbles(qs: &[u8], out: &mut [f32], weight: impl Fn(u8, usize) -> f32) {
    for (i, q) in qs.iter().enumerate() {
        out[i] = weight(q & 15, i);
        out[i + 16] = weight(q >> 4, i + 16);
    }
}

fn q8_0(b: &[u8], out: &mut [f32]) {
    let d = half(b, 0);
    for (o, q) in out.iter_mut().zip(&b[2..]) {
        *o = f32::from(q.cast_signed()) * d;
    }
}

/// Scale and minimum (6 bits each) of sub-block `j` of the 12 packed bytes of `Q4_K` and `Q5_K`.
#[must_use]
pub(crate) fn k_scale_min(s: &[u8], j: usize) -> (u8, u8) {
    if j < 4 {
        (s[j] & 63, s[j + 4] & 63)
    } else {
        (s[j + 4] & 15 | s[j - 4] >> 6 << 4, s[j + 4] >> 4 | s[j] >> 6 << 4)
    }
}

/// Eight sub-blocks of 32; `weight(j, i)` is the integer weight `i` of sub-block `j`.
fn k_blocks(b: &[u8], out: &mut [f32], weight: impl Fn(usize, usize) -> u8) {
    let (d, dmin) = (half(b, 0), half(b, 2));
    for (j, o) in out.chunks_exact_mut(32).enumerate() {
        let (sc, mn) = k_scale_min(&b[4..16], j);
        let (scale, min) = (d * f32::from(sc), dmin * f32::from(mn));
        for (i, o) in o.iter_mut().enumerate() {
            *o = scale * f32::from(weight(j, i)) - min;
        }
    }
}

fn q4_k(b: &[u8], out: &mut [f32]) {
    let qs = &b[16..144];
    k_blocks(b, out, |j, i| qs[j / 2 * 32 + i] >> (4 * (j % 2)) & 15);
}

fn q5_k(b: &[u8], out: &mut [f32]) {
    let (high, qs) = (&b[16..48], &b[48..176]);
    k_blocks(b, out, |j, i| qs[j / 2 * 32 + i] >> (4 * (j % 2)) & 15 | (high[i] >> j & 1) << 4);
}

fn q6_k(b: &[u8], out: &mut [f32]) {
    let (low, high, scales, d) = (&b[..128], &b[128..192], &b[192..208], half(b, 208));
    for (j, o) in out.chunks_exact_mut(32).enumerate() {
        let (n, part) = (j / 4, j % 4);
        for (i, o) in o.iter_mut().enumerate() {
            let q =
                low[n * 64 + part % 2 * 32 + i] >> (4 * (part / 2)) & 15 | (high[n * 32 + i] >> (2 * part) & 3) << 4;
            let scale = d * f32::from(scales[2 * j + i / 16].cast_signed());
            *o = scale * f32::from(i16::from(q) - 32);
        }
    }
}
