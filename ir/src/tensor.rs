//! Element types of tensors, the block formats of GGUF, and the resident tile layout of weights.
//!
//! Takes nothing, returns byte arithmetic. It does not read files and does not convert data: `runtime` repacks,
//! `codegen` emits the kernels that read what was repacked, and both use the layout described here.

use serde::{Deserialize, Serialize};

/// An element or block format as GGUF stores it. Rows run along the first GGUF dimension (input features).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[allow(non_camel_case_types, reason = "the field's own names for block formats")]
pub enum DType {
    /// IEEE single precision.
    F32,
    /// IEEE half precision.
    F16,
    /// bfloat16.
    BF16,
    /// 32 weights: f16 `d`, 32 × i8. `w = d·q`.
    Q8_0,
    /// 32 weights: f16 `d`, 16 bytes of nibbles. `w = d·(q − 8)`.
    Q4_0,
    /// 32 weights: f16 `d`, f16 `m`, nibbles. `w = d·q + m`.
    Q4_1,
    /// 32 weights: f16 `d`, 4 bytes of fifth bits, nibbles. `w = d·(q − 16)`.
    Q5_0,
    /// 32 weights: f16 `d`, f16 `m`, fifth bits, nibbles. `w = d·q + m`.
    Q5_1,
    /// 256 weights: f16 `d`, f16 `dmin`, 8 × (6-bit scale, 6-bit min), nibbles. `w = d·sc·q − dmin·mn`.
    Q4_K,
    /// As `Q4_K` with five bits.
    Q5_K,
    /// 256 weights: six bits, 16 × i8 scales (one per 16 weights), f16 `d`. `w = d·sc·(q − 32)`.
    Q6_K,
}

impl DType {
    /// Every supported type, in the order of the enum.
    pub const ALL: [Self; 11] = [
        Self::F32,
        Self::F16,
        Self::BF16,
        Self::Q8_0,
        Self::Q4_0,
        Self::Q4_1,
        Self::Q5_0,
        Self::Q5_1,
        Self::Q4_K,
        Self::Q5_K,
        Self::Q6_K,
    ];

    /// The field's name: `Q4_1`, `BF16`, ….
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::F32 => "F32",
            Self::F16 => "F16",
            Self::BF16 => "BF16",
            Self::Q8_0 => "Q8_0",
            Self::Q4_0 => "Q4_0",
            Self::Q4_1 => "Q4_1",
            Self::Q5_0 => "Q5_0",
            Self::Q5_1 => "Q5_1",
            Self::Q4_K => "Q4_K",
            Self::Q5_K => "Q5_K",
            Self::Q6_K => "Q6_K",
        }
    }

    /// The number GGUF gives this type, or the type of a number.
    #[must_use]
    pub fn from_ggml(code: u32) -> Option<Self> {
        Some(match code {
            0 => Self::F32,
            1 => Self::F16,
            2 => Self::Q4_0,
            3 => Self::Q4_1,
            6 => Self::Q5_0,
            7 => Self::Q5_1,
            8 => Self::Q8_0,
            12 => Self::Q4_K,
            13 => Self::Q5_K,
            14 => Self::Q6_K,
            30 => Self::BF16,
            _ => return None,
        })
    }

    /// Weights per block: 1, 32 or 256.
    #[must_use]
    pub fn block(self) -> usize {
        match self {
            Self::F32 | Self::F16 | Self::BF16 => 1,
            Self::Q8_0 | Self::Q4_0 | Self::Q4_1 | Self::Q5_0 | Self::Q5_1 => 32,
            Self::Q4_K | Self::Q5_K | Self::Q6_K => 256,
        }
    }

    /// Bytes per block in the file.
    #[must_use]
    pub fn block_bytes(self) -> usize {
        match self {
            Self::F32 => 4,
            Self::F16 | Self::BF16 => 2,
            Self::Q8_0 => 34,
            Self::Q4_0 => 18,
            Self::Q4_1 => 20,
            Self::Q5_0 => 22,
            Self::Q5_1 => 24,
            Self::Q4_K => 144,
            Self::Q5_K => 176,
            Self::Q6_K => 210,
        }
    }

    /// Bytes of `elements` weights in the file; `None` when they are no whole number of blocks or overflow.
    #[must_use]
    pub fn bytes(self, elements: u64) -> Option<u64> {
        let block = self.block() as u64;
        if !elements.is_multiple_of(block) {
            return None;
        }
        (elements / block).checked_mul(self.block_bytes() as u64)
    }

    /// How the resident tile of this type is built, `None` for the float types (plain `[k][16]` elements).
    #[must_use]
    pub fn tile(self) -> Option<TileFormat> {
        let f = |bits, zero_point, scales| Some(TileFormat { bits, zero_point, scales });
        match self {
            Self::F32 | Self::F16 | Self::BF16 => None,
            Self::Q8_0 => f(8, 128, Scales::F16),
            Self::Q4_0 => f(4, 8, Scales::F16),
            Self::Q4_1 => f(4, 0, Scales::F16Min),
            Self::Q5_0 => f(5, 16, Scales::F16),
            Self::Q5_1 => f(5, 0, Scales::F16Min),
            Self::Q4_K => f(4, 0, Scales::SuperMin),
            Self::Q5_K => f(5, 0, Scales::SuperMin),
            Self::Q6_K => f(6, 32, Scales::Super16),
        }
    }
}

/// Output rows of one weight tile: the lanes of one 512-bit register of 32-bit values.
pub const TILE_ROWS: usize = 16;
/// Input features of one block of a tile.
pub const TILE_K: usize = 32;
/// Weights of a superblock (K-quants).
pub const SUPER_K: usize = 256;

/// Resident layout of a quantised tile of 16 rows × K: what generated kernels read and what `runtime` writes at load.
///
/// A tile is contiguous. It is a sequence of 32-feature blocks, for K-quants with a header every 256 features:
///
/// * **planes** of a block, `q` unsigned (`Q8_0` stores `q + 128`). Feature `k` of the block (0..32) belongs to group
///   `g = k / 4`. A 64-byte *group vector* holds byte `4·row + k % 4`.
///   * 4-, 5-, 6-bit: four 64-byte vectors; vector `p` holds the low nibbles of group `2p` in its low nibbles and of
///     group `2p + 1` in its high nibbles. Then, for 5 bits, one 64-byte vector whose byte `j` has the fifth bit of
///     group `g` at bit `g`; for 6 bits, two 64-byte vectors, vector `g / 4` holding the two high bits of group `g`
///     at bits `2·(g % 4)` and above.
///   * 8-bit: eight 64-byte group vectors.
/// * **scales** after the planes, one value per row (16 lanes), as [`Scales`] says; superblock headers come before
///   the planes of the first block of every 256 features.
///
/// Tiles follow each other for rows 0..16, 16..32, …; rows past the tensor's end are zero.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct TileFormat {
    /// Stored bits per weight: 4, 5, 6 or 8.
    pub bits: u32,
    /// `w = scale·(q − zero_point) + min`.
    pub zero_point: i32,
    /// Where scales and minima are.
    pub scales: Scales,
}

/// The scales of a tile.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum Scales {
    /// After each block: 16 × f16 `d`.
    F16,
    /// After each block: 16 × f16 `d`, 16 × f16 `m` (added).
    F16Min,
    /// Header per 256: 16 × f16 `d`, 16 × f16 `dmin`. After each block: 16 × u8 `sc`, 16 × u8 `mn`;
    /// scale = `d·sc`, min = `−dmin·mn`.
    SuperMin,
    /// Header per 256: 16 × f16 `d`. After each block: 16 × i8 `sc` of features 0..16, 16 × i8 of 16..32.
    Super16,
}

impl TileFormat {
    /// Bytes of the planes of one 16 × 32 block.
    #[must_use]
    pub fn plane_bytes(self) -> usize {
        match self.bits {
            4 => 256,
            5 => 320,
            6 => 384,
            _ => 512,
        }
    }

    /// Bytes of one block: planes and per-block scales.
    #[must_use]
    pub fn block_bytes(self) -> usize {
        self.plane_bytes()
            + match self.scales {
                Scales::F16 | Scales::SuperMin | Scales::Super16 => 32,
                Scales::F16Min => 64,
            }
    }

    /// Bytes of the header in front of every 256 features (0 for the formats without one).
    #[must_use]
    pub fn header_bytes(self) -> usize {
        match self.scales {
            Scales::F16 | Scales::F16Min => 0,
            Scales::SuperMin => 64,
            Scales::Super16 => 32,
        }
    }

    /// Byte offset of block `b` (32 features each) from the start of a tile: the position of its planes.
    #[must_use]
    pub fn block_offset(self, b: usize) -> usize {
        let supers = if self.header_bytes() == 0 { 0 } else { b / 8 + 1 };
        b * self.block_bytes() + supers * self.header_bytes()
    }
}

/// Bytes of one resident tile (16 rows × `k` features) of type `dtype`. `k` is a multiple of the block.
#[must_use]
pub fn tile_bytes(dtype: DType, k: usize) -> usize {
    match dtype.tile() {
        None => k * TILE_ROWS * dtype.block_bytes(),
        Some(f) => {
            let headers = if f.header_bytes() == 0 { 0 } else { k / SUPER_K };
            k / TILE_K * f.block_bytes() + headers * f.header_bytes()
        }
    }
}

/// Input features that a tile of the class int8 per channel is padded to a multiple of: what one row of a matrix register of
/// 64 bytes holds.
pub const CHANNEL_K: usize = 64;
/// Features of a block of activations in the class int8 per channel: the first of these that divides a row (and, where heads
/// follow each other, a head). Wider blocks cost less and round more coarsely.
///
/// A block is `block / 16` vectors of 16 features. Before a row is rounded its blocks are *mixed*: vector `i` becomes
/// `Σ_j ±vector_j`, negative where `i` and `j` share an odd number of bits (a Hadamard transform over vectors; lanes stay
/// apart). Rows of weights are mixed in the same way and divided by the number of vectors, so products are what they were.
pub const CHANNEL_BLOCKS: [usize; 3] = [128, 64, 32];

/// The block of activations of which `run` features are written together; `None` when `run` is no multiple of 32.
#[must_use]
pub fn channel_block(run: usize) -> Option<usize> {
    CHANNEL_BLOCKS.into_iter().find(|b| run > 0 && run.is_multiple_of(*b))
}

/// What is added to a weight of the class int8 per channel to make its byte.
pub const CHANNEL_ZERO: i32 = 128;

/// Bytes of the weights of one tile of 16 rows × `k` features in the class int8 per channel.
///
/// A tile is contiguous: per 4 features a 64-byte group vector as in [`TileFormat`], byte `4·row + k % 4`, holding
/// `q + 128`, `−127 ≤ q ≤ 127`; so 64 features are 1024 bytes, with nothing between them. Past `k`, up to a multiple of
/// [`CHANNEL_K`], bytes are 0. Then 16 × f32, the rows' scales: `w = scale·q`. Rows past the tensor's end have scale 0.
#[must_use]
pub fn channel_weight_bytes(k: usize) -> usize {
    k.next_multiple_of(CHANNEL_K) * TILE_ROWS
}

/// Bytes of one tile in the class int8 per channel: weights, then scales.
#[must_use]
pub fn channel_tile_bytes(k: usize) -> usize {
    channel_weight_bytes(k) + 4 * TILE_ROWS
}
