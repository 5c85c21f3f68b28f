//! Resident weights: takes a GGUF file and the program's list of [`Weight`]s, writes tiles and vectors into memory that
//! the caller gives.
//!
//! The layout of tiles is the contract of `ir::tensor::TileFormat`, for the class int8 per channel of
//! `ir::tensor::channel_weight_bytes`. Everything is validated before the first byte is
//! written, then the tiles of all weights are shared between threads; the bytes written do not depend on how many.
//! It allocates no destination and keeps nothing: repacking costs about as much as reading the file.

use crate::gguf::{Gguf, printable};
use crate::quant::{dequantize_row, k_scale_min};
use ir::model::Tensor;
use ir::program::{RowOrder, Source, Weight};
use ir::tensor::{
    CHANNEL_BLOCKS, CHANNEL_ZERO, DType, TILE_K, TILE_ROWS, channel_tile_bytes, channel_weight_bytes, tile_bytes,
};
use std::path::PathBuf;
use std::sync::Mutex;

/// A weight that cannot be made from the file, or a destination that does not fit it.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{}: weight `{weight}`, tensor `{tensor}`: expected {expected}, found {found}; compile the plan again for this model file", file.display())]
pub struct WeightError {
    /// The model file.
    pub file: PathBuf,
    /// Name of the resident weight.
    pub weight: String,
    /// Name of the tensor.
    pub tensor: String,
    /// What the program asks for.
    pub expected: String,
    /// What there is.
    pub found: String,
}

/// Bytes that a resident weight takes, a multiple of 64; `None` when the description overflows or makes no sense.
///
/// Vectors take 4 bytes per element; the padding up to 64 bytes is zero.
#[must_use]
pub fn bytes(weight: &Weight) -> Option<usize> {
    let size = match &weight.source {
        Source::Vector { len, .. } => usize::try_from(*len).ok()?.checked_mul(4)?,
        Source::Tiles { .. } | Source::Int8Channel { .. } => {
            let (tiles, bytes) = tiles(weight)?;
            usize::try_from(tiles).ok()?.checked_mul(usize::try_from(bytes).ok()?)?
        }
    };
    size.checked_next_multiple_of(64)
}

/// Tiles of a resident matrix and bytes of each; tiles that are interleaved count as one. `None` for vectors, and as [`bytes`].
#[must_use]
pub fn tiles(weight: &Weight) -> Option<(u64, u64)> {
    let (tensors, dtype, n, k, channel) = match &weight.source {
        Source::Vector { .. } => return None,
        Source::Tiles { tensors, dtype, n, k, .. } => (tensors, dtype, n, k, false),
        Source::Int8Channel { tensors, dtype, n, k, block, .. } => {
            let known = CHANNEL_BLOCKS.iter().any(|b| *b as u64 == *block);
            if !known || !k.is_multiple_of(*block) {
                return None;
            }
            (tensors, dtype, n, k, true)
        }
    };
    dtype.bytes(*k)?;
    let k = usize::try_from(*k).ok().filter(|k| *k < 1 << 32)?;
    let bytes = tensors.len().checked_mul(size_of_tile(channel, *dtype, k))?;
    Some((n.div_ceil(TILE_ROWS as u64), bytes as u64))
}

/// Makes one weight. `dest` has [`bytes`]`(weight)` bytes, aligned to 64.
///
/// # Errors
/// As [`load_all`].
pub fn load(gguf: &Gguf, weight: &Weight, dest: &mut [u8], threads: usize) -> Result<(), WeightError> {
    load_all(gguf, std::slice::from_ref(weight), vec![dest], threads)
}

/// Makes all `weights`, each into its destination, with `threads` threads (at least one).
///
/// # Errors
/// [`WeightError`] when a tensor is missing, has another type or shape than the program says, or a destination has the
/// wrong size or alignment. Nothing is written then.
pub fn load_all(gguf: &Gguf, weights: &[Weight], dests: Vec<&mut [u8]>, threads: usize) -> Result<(), WeightError> {
    let fail = |w: &Weight, expected: String, found: String| {
        Err(WeightError {
            file: gguf.path().to_path_buf(),
            weight: w.name.clone(),
            tensor: String::new(),
            expected,
            found,
        })
    };
    if let Some(w) = weights.get(dests.len()) {
        return fail(w, format!("{} destinations", weights.len()), dests.len().to_string());
    }
    let mut jobs = Vec::new();
    for (w, dest) in weights.iter().zip(dests) {
        let size = bytes(w);
        if size != Some(dest.len()) || dest.as_ptr().addr() % 64 != 0 {
            let expected = size.map_or("a size below 2^64".to_owned(), |s| format!("{s} bytes aligned to 64"));
            return fail(
                w,
                expected,
                format!("{} bytes at an address {} past it", dest.len(), dest.as_ptr().addr() % 64),
            );
        }
        plan(gguf, w, dest, &mut jobs)?;
    }
    let queue = Mutex::new(jobs.into_iter());
    let work = || {
        loop {
            // A poisoned lock still holds a whole iterator: only `next` runs under it.
            let job = queue.lock().unwrap_or_else(std::sync::PoisonError::into_inner).next();
            let Some(job) = job else { return };
            job.run();
        }
    };
    std::thread::scope(|s| {
        for _ in 1..threads {
            // Where the system gives no thread, the others do its part.
            let _ = std::thread::Builder::new().spawn_scoped(s, work);
        }
        work();
    });
    Ok(())
}

/// A piece of work: some bytes to write.
enum Job<'a> {
    Vector {
        source: &'a [u8],
        dtype: DType,
        rows: RowOrder,
        len: usize,
        dest: &'a mut [u8],
    },
    Tiles {
        sources: Vec<&'a [u8]>,
        dtype: DType,
        rows: RowOrder,
        n: usize,
        k: usize,
        /// Features mixed together, for the class int8 per channel; as stored without.
        channel: Option<usize>,
        first: usize,
        dest: &'a mut [u8],
    },
}

/// Bytes of a tile of `k` features.
fn size_of_tile(channel: bool, dtype: DType, k: usize) -> usize {
    if channel { channel_tile_bytes(k) } else { tile_bytes(dtype, k) }
}

/// Tiles of one piece of work (about a megabyte at usual widths).
const PIECE: usize = 64;

/// Validates a weight and cuts it into pieces.
fn plan<'a>(gguf: &'a Gguf, w: &Weight, dest: &'a mut [u8], jobs: &mut Vec<Job<'a>>) -> Result<(), WeightError> {
    let fail = |tensor: &str, expected: String, found: String| WeightError {
        file: gguf.path().to_path_buf(),
        weight: w.name.clone(),
        tensor: printable(tensor),
        expected,
        found,
    };
    let fetch = |name: &str| -> Result<(&'a Tensor, &'a [u8]), WeightError> {
        gguf.tensor(name)
            .zip(gguf.tensor_data(name))
            .ok_or_else(|| fail(name, "the tensor".to_owned(), "none".to_owned()))
    };
    let order_fits = |name: &str, rows: RowOrder, n: u64| match rows {
        RowOrder::PairsToHalves(d) if d == 0 || d % 2 != 0 || !n.is_multiple_of(u64::from(d)) => {
            Err(fail(name, format!("{n} rows in heads of an even number of rows"), format!("heads of {d} rows")))
        }
        RowOrder::HalvesTogether(d) if d == 0 || d % 32 != 0 || !n.is_multiple_of(u64::from(d)) => {
            Err(fail(name, format!("{n} rows in heads of a multiple of 32 rows"), format!("heads of {d} rows")))
        }
        _ => Ok(()),
    };
    match &w.source {
        Source::Vector { tensor, len, rows } => {
            let (t, source) = fetch(tensor)?;
            if t.shape != [*len] {
                return Err(fail(tensor, format!("shape [{len}]"), format!("{:?}", t.shape)));
            }
            order_fits(tensor, *rows, *len)?;
            let len = usize::try_from(*len).expect("the destination's size was computed from it");
            jobs.push(Job::Vector { source, dtype: t.dtype, rows: *rows, len, dest });
        }
        Source::Tiles { tensors, dtype, n, k, rows } | Source::Int8Channel { tensors, dtype, n, k, rows, .. } => {
            let mut sources = Vec::with_capacity(tensors.len());
            for name in tensors {
                let (t, source) = fetch(name)?;
                if t.shape != [*k, *n] || t.dtype != *dtype {
                    let expected = format!("{} of shape [{k}, {n}]", dtype.name());
                    return Err(fail(name, expected, format!("{} of shape {:?}", t.dtype.name(), t.shape)));
                }
                order_fits(name, *rows, *n)?;
                sources.push(source);
            }
            let fits = "the destination's size was computed from it";
            let (n, k) = (usize::try_from(*n).expect(fits), usize::try_from(*k).expect(fits));
            let channel = match &w.source {
                Source::Int8Channel { block, .. } => Some(usize::try_from(*block).expect(fits)),
                _ => None,
            };
            let piece =
                size_of_tile(channel.is_some(), *dtype, k) * sources.len() * PIECE.div_ceil(sources.len().max(1));
            if piece == 0 {
                dest.fill(0);
                return Ok(());
            }
            for (i, dest) in dest.chunks_mut(piece).enumerate() {
                let first = i * PIECE.div_ceil(sources.len());
                let sources = sources.clone();
                jobs.push(Job::Tiles { sources, dtype: *dtype, rows: *rows, n, k, channel, first, dest });
            }
        }
    }
    Ok(())
}

/// The row of the file that becomes row `r`.
fn source_row(rows: RowOrder, r: usize) -> usize {
    match rows {
        RowOrder::File => r,
        RowOrder::PairsToHalves(d) => {
            let d = d as usize;
            let (head, i) = (r / d, r % d);
            head * d + if i < d / 2 { 2 * i } else { 2 * (i - d / 2) + 1 }
        }
        RowOrder::HalvesTogether(d) => {
            let d = d as usize;
            let (head, tile, lane) = (r / d, r % d / TILE_ROWS, r % TILE_ROWS);
            head * d + tile % 2 * (d / 2) + tile / 2 * TILE_ROWS + lane
        }
    }
}

impl Job<'_> {
    fn run(self) {
        match self {
            Job::Vector { source, dtype, rows, len, dest } => {
                let mut values = vec![0.0; len];
                dequantize_row(dtype, source, &mut values).expect("shape and type were checked against the table");
                let (body, padding) = dest.split_at_mut(len * 4);
                for (r, out) in body.chunks_exact_mut(4).enumerate() {
                    out.copy_from_slice(&values[source_row(rows, r)].to_le_bytes());
                }
                padding.fill(0);
            }
            Job::Tiles { sources, dtype, rows, n, k, channel, first, dest } => {
                let size = size_of_tile(channel.is_some(), dtype, k);
                let row_bytes = k / dtype.block() * dtype.block_bytes();
                let mut tiles = dest.chunks_exact_mut(size);
                for (i, tile) in tiles.by_ref().enumerate() {
                    let (t, source) = (first + i / sources.len(), sources[i % sources.len()]);
                    let lanes: [&[u8]; TILE_ROWS] = std::array::from_fn(|lane| {
                        let r = t * TILE_ROWS + lane;
                        if r < n { &source[source_row(rows, r) * row_bytes..][..row_bytes] } else { &[] }
                    });
                    match channel {
                        Some(block) => channel_tile(dtype, k, block, &lanes, tile),
                        None => write_tile(dtype, k, &lanes, tile),
                    }
                }
                // What rounding the weight up to 64 bytes left over.
                tiles.into_remainder().fill(0);
            }
        }
    }
}

/// Writes one tile; `lanes` are its rows in the file, empty for rows past the end.
fn write_tile(dtype: DType, k: usize, lanes: &[&[u8]; TILE_ROWS], tile: &mut [u8]) {
    match dtype {
        DType::F32 => interleave::<4>(lanes, tile),
        DType::F16 | DType::BF16 => interleave::<2>(lanes, tile),
        DType::Q4_0 => simple::<4, 18, 2>(k, lanes, tile, |b| low_high(&b[2..])),
        DType::Q4_1 => simple::<4, 20, 4>(k, lanes, tile, |b| low_high(&b[4..])),
        DType::Q5_0 => simple::<5, 22, 2>(k, lanes, tile, |b| with_fifths(low_high(&b[6..]), word(b, 2))),
        DType::Q5_1 => simple::<5, 24, 4>(k, lanes, tile, |b| with_fifths(low_high(&b[8..]), word(b, 4))),
        DType::Q8_0 => {
            simple::<8, 34, 2>(k, lanes, tile, |b| std::array::from_fn(|g| word(b, 2 + 4 * g) ^ 0x8080_8080))
        }
        DType::Q4_K => super_min::<4, 144>(k, lanes, tile, |b, j| k_nibbles(&b[16..144], j)),
        DType::Q5_K => super_min::<5, 176>(k, lanes, tile, |b, j| {
            let low = k_nibbles(&b[48..176], j);
            std::array::from_fn(|g| low[g] | (word(b, 16 + 4 * g) >> j & 0x0101_0101) << 4)
        }),
        DType::Q6_K => super16(k, lanes, tile),
    }
}

/// Writes one tile of the class int8 per channel.
fn channel_tile(dtype: DType, k: usize, block: usize, lanes: &[&[u8]; TILE_ROWS], tile: &mut [u8]) {
    tile.fill(0);
    let mut row = vec![0.0; k];
    let (weights, scales) = tile.split_at_mut(channel_weight_bytes(k));
    for (lane, source) in lanes.iter().enumerate().filter(|(_, source)| !source.is_empty()) {
        dequantize_row(dtype, source, &mut row).expect("shape and type were checked against the table");
        mix(&mut row, block);
        let (step, inverse) = channel_steps(&row);
        for (group, x) in row.chunks_exact(4).enumerate() {
            let bytes: [u8; 4] = std::array::from_fn(|i| channel_byte(x[i] * inverse));
            weights[4 * (TILE_ROWS * group + lane)..][..4].copy_from_slice(&bytes);
        }
        #[allow(clippy::cast_precision_loss, reason = "a block is a few vectors")]
        let scale = step / (block / TILE_ROWS) as f32;
        scales[4 * lane..4 * lane + 4].copy_from_slice(&scale.to_le_bytes());
    }
}

/// Hadamard transforms over the vectors of 16 features of every block, as `ir::tensor::CHANNEL_BLOCKS` says.
fn mix(row: &mut [f32], block: usize) {
    for part in row.chunks_exact_mut(block) {
        let mut half = TILE_ROWS;
        while half < block {
            for both in part.chunks_exact_mut(2 * half) {
                let (low, high) = both.split_at_mut(half);
                for (low, high) in low.iter_mut().zip(high) {
                    (*low, *high) = (*low + *high, *low - *high);
                }
            }
            half *= 2;
        }
    }
}

/// `max|w| / 127`, a NaN when a weight is no finite number, and its inverse, 0 for rows of (nearly) nothing.
fn channel_steps(row: &[f32]) -> (f32, f32) {
    let (mut most, mut odd) = ([0.0f32; TILE_ROWS], [0.0f32; TILE_ROWS]);
    for x in row.chunks_exact(TILE_ROWS) {
        for (i, x) in x.iter().enumerate() {
            most[i] = if x.abs() > most[i] { x.abs() } else { most[i] };
            odd[i] += x * 0.0;
        }
    }
    let most = most.into_iter().fold(0.0, f32::max);
    let inverse = if most < 1e-30 { 0.0 } else { 127.0 / most };
    (most / 127.0 + odd.iter().sum::<f32>(), inverse)
}

/// The byte of a weight between −127 and 127, rounded to nearest even.
#[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "the byte is what is wanted")]
fn channel_byte(x: f32) -> u8 {
    // At 1.5 · 2^23 the unit in the last place is 1, so that the sum's last bits are the rounded number.
    const ROUND: f32 = 12_582_912.0;
    ((x + ROUND).to_bits().wrapping_add(CHANNEL_ZERO as u32) & 0xff) as u8
}

/// Eight words of four weights each: the weights of one row of a block, a byte each.
type Words = [u32; TILE_K / 4];

#[inline(always)]
fn word(b: &[u8], at: usize) -> u32 {
    u32::from_le_bytes([b[at], b[at + 1], b[at + 2], b[at + 3]])
}

/// 16 bytes whose low nibbles are the first 16 weights.
#[inline(always)]
fn low_high(qs: &[u8]) -> Words {
    std::array::from_fn(|g| word(qs, g % 4 * 4) >> (g / 4 * 4) & 0x0f0f_0f0f)
}

/// Adds fifth bits: bit `i` of `high` belongs to weight `i`.
#[inline(always)]
fn with_fifths(low: Words, high: u32) -> Words {
    // The product copies four bits to the lowest bits of four bytes.
    std::array::from_fn(|g| low[g] | (((high >> (4 * g) & 15) * 0x0020_4081) & 0x0101_0101) << 4)
}

/// Sub-block `j` of the nibbles of `Q4_K` and `Q5_K`.
#[inline(always)]
fn k_nibbles(qs: &[u8], j: usize) -> Words {
    std::array::from_fn(|g| word(qs, j / 2 * 32 + 4 * g) >> (j % 2 * 4) & 0x0f0f_0f0f)
}

/// Plain elements of `E` bytes: `[k][16]`.
fn interleave<const E: usize>(lanes: &[&[u8]; TILE_ROWS], tile: &mut [u8]) {
    for (i, out) in tile.chunks_exact_mut(E * TILE_ROWS).enumerate() {
        for (lane, out) in lanes.iter().zip(out.chunks_exact_mut(E)) {
            match lane.get(i * E..(i + 1) * E) {
                Some(element) => out.copy_from_slice(element),
                None => out.fill(0),
            }
        }
    }
}

/// Writes the planes of one block: `q[row]` holds the weights of a row, `BITS` bits in each byte.
#[inline(always)]
fn planes<const BITS: usize>(q: &[Words; TILE_ROWS], out: &mut [u8]) {
    let mut vectors = out.chunks_exact_mut(4 * TILE_ROWS);
    let mut put = |f: &dyn Fn(&Words) -> u32| {
        if let Some(v) = vectors.next() {
            for (row, o) in q.iter().zip(v.chunks_exact_mut(4)) {
                o.copy_from_slice(&f(row).to_le_bytes());
            }
        }
    };
    if BITS == 8 {
        for g in 0..8 {
            put(&|w| w[g]);
        }
        return;
    }
    for p in 0..4 {
        put(&|w| w[2 * p] & 0x0f0f_0f0f | (w[2 * p + 1] & 0x0f0f_0f0f) << 4);
    }
    if BITS == 5 {
        put(&|w| (0..8).fold(0, |v, g| v | (w[g] >> 4 & 0x0101_0101) << g));
    }
    if BITS == 6 {
        for half in 0..2 {
            put(&|w| (0..4).fold(0, |v, g| v | (w[4 * half + g] >> 4 & 0x0303_0303) << (2 * g)));
        }
    }
}

/// Bytes of the planes of a block.
const fn plane_bytes(bits: usize) -> usize {
    TILE_ROWS * TILE_K * bits / 8
}

/// Formats of 32 weights with `SCALES` bytes of scales at the start of every block of `BLOCK` bytes.
fn simple<const BITS: usize, const BLOCK: usize, const SCALES: usize>(
    k: usize,
    lanes: &[&[u8]; TILE_ROWS],
    tile: &mut [u8],
    unpack: impl Fn(&[u8]) -> Words,
) {
    let size = plane_bytes(BITS) + TILE_ROWS * SCALES;
    debug_assert_eq!(tile.len(), k / TILE_K * size, "the tile's size is the contract's");
    for (b, out) in tile.chunks_exact_mut(size).enumerate() {
        let mut q = [[0; 8]; TILE_ROWS];
        let (plane, scales) = out.split_at_mut(plane_bytes(BITS));
        for (lane, row) in lanes.iter().enumerate() {
            let block = row.get(b * BLOCK..(b + 1) * BLOCK);
            if let Some(block) = block {
                q[lane] = unpack(block);
            }
            for (s, out) in scales.chunks_exact_mut(2 * TILE_ROWS).enumerate() {
                out[2 * lane..2 * lane + 2].copy_from_slice(block.map_or(&[0, 0], |b| &b[2 * s..2 * s + 2]));
            }
        }
        planes::<BITS>(&q, plane);
    }
}

/// `Q4_K` and `Q5_K`: a header of `d` and `dmin` for 256 features, then eight blocks with their scales and minima.
fn super_min<const BITS: usize, const BLOCK: usize>(
    k: usize,
    lanes: &[&[u8]; TILE_ROWS],
    tile: &mut [u8],
    unpack: impl Fn(&[u8], usize) -> Words,
) {
    let block_size = plane_bytes(BITS) + 2 * TILE_ROWS;
    let size = 4 * TILE_ROWS + 8 * block_size;
    debug_assert_eq!(tile.len(), k / 256 * size, "the tile's size is the contract's");
    for (b, out) in tile.chunks_exact_mut(size).enumerate() {
        let blocks: [Option<&[u8]>; TILE_ROWS] = std::array::from_fn(|l| lanes[l].get(b * BLOCK..(b + 1) * BLOCK));
        let (header, body) = out.split_at_mut(4 * TILE_ROWS);
        for (lane, block) in blocks.iter().enumerate() {
            header[2 * lane..2 * lane + 2].copy_from_slice(block.map_or(&[0, 0], |b| &b[..2]));
            header[2 * (TILE_ROWS + lane)..][..2].copy_from_slice(block.map_or(&[0, 0], |b| &b[2..4]));
        }
        for (j, out) in body.chunks_exact_mut(block_size).enumerate() {
            let mut q = [[0; 8]; TILE_ROWS];
            let (plane, scales) = out.split_at_mut(plane_bytes(BITS));
            for (lane, block) in blocks.iter().enumerate() {
                let (sc, mn) = block.map_or((0, 0), |b| k_scale_min(&b[4..16], j));
                (scales[lane], scales[TILE_ROWS + lane]) = (sc, mn);
                if let Some(block) = block {
                    q[lane] = unpack(block, j);
                }
            }
            planes::<BITS>(&q, plane);
        }
    }
}

/// `Q6_K`: a header of `d` for 256 features, then eight blocks with two scales per row.
fn super16(k: usize, lanes: &[&[u8]; TILE_ROWS], tile: &mut [u8]) {
    const BLOCK: usize = 210;
    let block_size = plane_bytes(6) + 2 * TILE_ROWS;
    let size = 2 * TILE_ROWS + 8 * block_size;
    debug_assert_eq!(tile.len(), k / 256 * size, "the tile's size is the contract's");
    for (b, out) in tile.chunks_exact_mut(size).enumerate() {
        let blocks: [Option<&[u8]>; TILE_ROWS] = std::array::from_fn(|l| lanes[l].get(b * BLOCK..(b + 1) * BLOCK));
        let (header, body) = out.split_at_mut(2 * TILE_ROWS);
        for (lane, block) in blocks.iter().enumerate() {
            header[2 * lane..2 * lane + 2].copy_from_slice(block.map_or(&[0, 0], |b| &b[208..210]));
        }
        for (j, out) in body.chunks_exact_mut(block_size).enumerate() {
            let (n, part) = (j / 4, j % 4);
            let mut q = [[0; 8]; TILE_ROWS];
            let (plane, scales) = out.split_at_mut(plane_bytes(6));
            for (lane, block) in blocks.iter().enumerate() {
                scales[lane] = block.map_or(0, |b| b[192 + 2 * j]);
                scales[TILE_ROWS + lane] = block.map_or(0, |b| b[193 + 2 * j]);
                if let Some(block) = block {
                    let (low, high) = (&block[n * 64 + part % 2 * 32..][..32], &block[128 + n * 32..][..32]);
                    q[lane] = std::array::from_fn(|g| {
                        word(low, 4 * g) >> (4 * (part / 2)) & 0x0f0f_0f0f
                            | (word(high, 4 * g) >> (2 * part) & 0x0303_0303) << 4
                    });
                }
            }
            planes::<6>(&q, plane);
        }
    }
}
