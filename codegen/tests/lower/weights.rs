//! Random tensors in every element type: their logical weights, and the resident tiles by the obvious reading of the
//! layout's description.

use half::{bf16, f16};
use ir::program::RowOrder;
use ir::tensor::{DType, SUPER_K, Scales, TILE_K, TILE_ROWS, channel_tile_bytes, tile_bytes};

/// A small generator of numbers; the same seed gives the same tensors.
pub(crate) struct Random(pub(crate) u64);

impl Random {
    pub(crate) fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        z ^ (z >> 31)
    }

    pub(crate) fn below(&mut self, n: u64) -> u64 {
        self.next() % n
    }

    /// In −1..1.
    pub(crate) fn unit(&mut self) -> f64 {
        (self.next() >> 11) as f64 / (1u64 << 52) as f64 - 1.0
    }
}

/// A matrix of `n` rows of `k` features.
pub(crate) struct Matrix {
    pub(crate) dtype: DType,
    pub(crate) n: usize,
    pub(crate) k: usize,
    /// Weights, row by row.
    pub(crate) w: Vec<f64>,
    q: Vec<u8>,
    d: Vec<f16>,
    m: Vec<f16>,
    sc: Vec<i32>,
    mn: Vec<i32>,
}

impl Matrix {
    pub(crate) fn random(r: &mut Random, dtype: DType, n: usize, k: usize) -> Self {
        let mut x = Self { dtype, n, k, w: vec![], q: vec![], d: vec![], m: vec![], sc: vec![], mn: vec![] };
        let size = 1.0 / (k as f64).sqrt();
        let Some(f) = dtype.tile() else {
            x.w = (0..n * k)
                .map(|_| {
                    let v = r.unit() * 1.7 * size;
                    match dtype {
                        DType::F16 => f16::from_f64(v).to_f64(),
                        DType::BF16 => bf16::from_f64(v).to_f64(),
                        _ => f64::from(v as f32),
                    }
                })
                .collect();
            return x;
        };
        let levels = 1u64 << f.bits;
        x.q = (0..n * k).map(|_| r.below(levels) as u8).collect();
        let supers = matches!(f.scales, Scales::SuperMin | Scales::Super16);
        let per = if supers { SUPER_K } else { TILE_K };
        let step = 2.0 * size / levels as f64;
        for _ in 0..n * k / per {
            let jitter = 0.6 + 0.4 * r.unit();
            let d = if supers { step / 30.0 } else { step };
            x.d.push(f16::from_f64(d * jitter));
            x.m.push(f16::from_f64(match f.scales {
                Scales::F16Min => -size * jitter,
                Scales::SuperMin => size / 30.0 * jitter,
                _ => 0.0,
            }));
        }
        let (sc_per, mn_per) = (if f.scales == Scales::Super16 { 16 } else { 32 }, 32);
        if supers {
            x.sc = (0..n * k / sc_per)
                .map(|_| if f.scales == Scales::Super16 { r.below(256) as i32 - 128 } else { r.below(64) as i32 })
                .collect();
            x.mn = (0..n * k / mn_per).map(|_| r.below(64) as i32).collect();
        }
        x.w = (0..n * k)
            .map(|i| {
                let q = f64::from(i32::from(x.q[i]) - f.zero_point);
                let (d, m) = (x.d[i / per].to_f64(), x.m[i / per].to_f64());
                match f.scales {
                    Scales::F16 => d * q,
                    Scales::F16Min => d * q + m,
                    Scales::SuperMin => d * f64::from(x.sc[i / 32]) * q - m * f64::from(x.mn[i / 32]),
                    Scales::Super16 => d * f64::from(x.sc[i / 16]) * q,
                }
            })
            .collect();
        x
    }

    /// The matrix in int8 per channel for blocks of so many features: its rows mixed, what they were rounded to, and the tile
    /// bytes by the obvious reading of the layout's description.
    pub(crate) fn channel(&self, block: usize) -> Channel {
        let mut out = Channel { w: Vec::new(), q: Vec::new(), scale: Vec::new() };
        for r in 0..self.n {
            let row = mixed(self.row(r), block);
            let most = row.iter().fold(0.0f64, |m, x| m.max(x.abs()));
            let step = most / 127.0;
            let scale = (step / (block / 16) as f64) as f32;
            let q: Vec<i32> = row.iter().map(|x| (x / step).round_ties_even() as i32).collect();
            out.w.push(q.iter().map(|q| f64::from(*q) * f64::from(scale)).collect());
            out.q.push(q);
            out.scale.push(scale);
        }
        out
    }

    pub(crate) fn row(&self, i: usize) -> &[f64] {
        &self.w[i * self.k..(i + 1) * self.k]
    }

    /// Appends tile `t`, whose row `i` is row `order(16t + i)` of the matrix; rows past the end are zero bytes.
    fn tile(&self, t: usize, order: &dyn Fn(usize) -> usize, out: &mut Vec<u8>) {
        let start = out.len();
        let rows: Vec<Option<usize>> =
            (0..TILE_ROWS).map(|i| t * TILE_ROWS + i).map(|i| (i < self.n).then(|| order(i))).collect();
        let Some(f) = self.dtype.tile() else {
            for k in 0..self.k {
                for row in &rows {
                    let v = row.map_or(0.0, |r| self.w[r * self.k + k]);
                    match self.dtype {
                        DType::F16 => out.extend(f16::from_f64(v).to_le_bytes()),
                        DType::BF16 => out.extend(bf16::from_f64(v).to_le_bytes()),
                        _ => out.extend((v as f32).to_le_bytes()),
                    }
                }
            }
            return;
        };
        let halves = |out: &mut Vec<u8>, from: &[f16], per: usize, k: usize| {
            for row in &rows {
                out.extend(row.map_or(f16::ZERO, |r| from[(r * self.k + k) / per]).to_le_bytes());
            }
        };
        let bytes = |out: &mut Vec<u8>, from: &[i32], per: usize, k: usize| {
            for row in &rows {
                out.push(row.map_or(0, |r| from[(r * self.k + k) / per]) as u8);
            }
        };
        for b in 0..self.k / TILE_K {
            let k = b * TILE_K;
            if f.header_bytes() > 0 && k.is_multiple_of(SUPER_K) {
                halves(out, &self.d, SUPER_K, k);
                if f.scales == Scales::SuperMin {
                    halves(out, &self.m, SUPER_K, k);
                }
            }
            assert_eq!(out.len() - start, f.block_offset(b));
            let mut groups = [[0u8; 64]; 8];
            for (i, row) in rows.iter().enumerate() {
                for j in 0..TILE_K {
                    groups[j / 4][4 * i + j % 4] = row.map_or(0, |r| self.q[r * self.k + k + j]);
                }
            }
            if f.bits == 8 {
                groups.iter().for_each(|g| out.extend(g));
            } else {
                for p in 0..4 {
                    out.extend((0..64).map(|i| groups[2 * p][i] & 15 | groups[2 * p + 1][i] << 4));
                }
                if f.bits == 5 {
                    out.extend((0..64).map(|i| (0..8).fold(0, |v, g| v | (groups[g][i] >> 4) << g)));
                }
                if f.bits == 6 {
                    for half in 0..2 {
                        out.extend(
                            (0..64).map(|i| (0..4).fold(0, |v, g| v | (groups[4 * half + g][i] >> 4) << (2 * g))),
                        );
                    }
                }
            }
            match f.scales {
                Scales::F16 => halves(out, &self.d, TILE_K, k),
                Scales::F16Min => {
                    halves(out, &self.d, TILE_K, k);
                    halves(out, &self.m, TILE_K, k);
                }
                Scales::SuperMin => {
                    bytes(out, &self.sc, 32, k);
                    bytes(out, &self.mn, 32, k);
                }
                Scales::Super16 => {
                    bytes(out, &self.sc, 16, k);
                    bytes(out, &self.sc, 16, k + 16);
                }
            }
        }
    }
}

/// Row of the file at place `i` of a resident tensor.
pub(crate) fn file_row(order: RowOrder, i: usize) -> usize {
    match order {
        RowOrder::File => i,
        RowOrder::PairsToHalves(d) => {
            let d = d as usize;
            let (head, i) = (i / d, i % d);
            head * d + if i < d / 2 { 2 * i } else { 2 * (i - d / 2) + 1 }
        }
        RowOrder::HalvesTogether(d) => {
            let d = d as usize;
            let (head, i) = (i / d, i % d);
            let (pair, half, lane) = (i / 32, i % 32 / 16, i % 16);
            head * d + half * d / 2 + 16 * pair + lane
        }
    }
}

/// Tiles of matrices of one shape and type, interleaved.
pub(crate) fn tiles(matrices: &[&Matrix], order: RowOrder) -> Vec<u8> {
    let mut out = Vec::new();
    for t in 0..matrices[0].n.div_ceil(TILE_ROWS) {
        for m in matrices {
            let before = out.len();
            m.tile(t, &|i| file_row(order, i), &mut out);
            assert_eq!(out.len() - before, tile_bytes(m.dtype, m.k));
        }
    }
    out
}

/// A matrix in int8 per channel.
pub(crate) struct Channel {
    /// Rows of weights, mixed and rounded, such that their products with mixed activations are products.
    pub(crate) w: Vec<Vec<f64>>,
    q: Vec<Vec<i32>>,
    scale: Vec<f32>,
}

/// Every vector of 16 features of a block becomes a signed sum of all of them: minus where two numbers share an odd number
/// of bits.
pub(crate) fn mixed(x: &[f64], block: usize) -> Vec<f64> {
    (0..x.len())
        .map(|at| {
            let (first, i, lane) = (at / block * block, at % block / 16, at % 16);
            let sign = |j: usize| if (i & j).count_ones().is_multiple_of(2) { 1.0 } else { -1.0 };
            (0..block / 16).map(|j| sign(j) * x[first + 16 * j + lane]).sum()
        })
        .collect()
}

/// Tiles of matrices of one shape in int8 per channel, interleaved.
pub(crate) fn channel_tiles(matrices: &[&Matrix], order: RowOrder, block: usize) -> Vec<u8> {
    let channels: Vec<(&Matrix, Channel)> = matrices.iter().map(|m| (*m, m.channel(block))).collect();
    let mut out = Vec::new();
    for t in 0..matrices[0].n.div_ceil(TILE_ROWS) {
        for (m, c) in &channels {
            let before = out.len();
            let rows: Vec<Option<usize>> =
                (0..TILE_ROWS).map(|i| t * TILE_ROWS + i).map(|i| (i < m.n).then(|| file_row(order, i))).collect();
            for k in (0..m.k.next_multiple_of(64)).step_by(4) {
                for row in &rows {
                    out.extend((k..k + 4).map(|k| match row {
                        Some(r) if k < m.k => (c.q[*r][k] + 128) as u8,
                        _ => 0,
                    }));
                }
            }
            for row in &rows {
                out.extend(row.map_or(0.0, |r| c.scale[r]).to_le_bytes());
            }
            assert_eq!(out.len() - before, channel_tile_bytes(m.k));
        }
    }
    out
}
