//! Quantised rows against the reference library's vectors, and resident tiles against plain rows.

#![expect(clippy::unwrap_used, reason = "a failed set-up should end the test where it stands")]

use inferc_runtime::gguf::Gguf;
use inferc_runtime::quant::dequantize_row;
use inferc_runtime::weights;
use ir::program::{RowOrder, Source, Weight};
use ir::tensor::{DType, Scales, TILE_K, TILE_ROWS, channel_tile_bytes, channel_weight_bytes, tile_bytes};
use proptest::prelude::*;

mod files_writer;
use files_writer::{Writer, ggml_code};

#[test]
fn rows_are_bit_exact_with_the_reference_library() {
    let data = include_bytes!("data/quant_vectors.bin");
    let word = |at: usize| u32::from_le_bytes(data[at..at + 4].try_into().unwrap());
    let (mut at, mut seen) = (0, Vec::new());
    while at < data.len() {
        let dtype = DType::from_ggml(word(at)).unwrap();
        let (elements, bytes) = (word(at + 4) as usize, word(at + 8) as usize);
        let blocks = &data[at + 12..at + 12 + bytes];
        let expected = &data[at + 12 + bytes..at + 12 + bytes + 4 * elements];
        let mut out = vec![0.0; elements];
        dequantize_row(dtype, blocks, &mut out).unwrap();
        for (i, (o, e)) in out.iter().zip(expected.chunks_exact(4)).enumerate() {
            assert_eq!(o.to_le_bytes(), e, "{} element {i}", dtype.name());
        }
        seen.push(dtype);
        at += 12 + bytes + 4 * elements;
    }
    seen.sort();
    assert_eq!(seen, DType::ALL);
}

#[test]
fn wrong_lengths_are_errors() {
    for dtype in DType::ALL {
        let mut out = vec![0.0; dtype.block()];
        for bytes in [0, dtype.block_bytes() - 1, dtype.block_bytes() + 1, 2 * dtype.block_bytes()] {
            let e = dequantize_row(dtype, &vec![0; bytes], &mut out).unwrap_err();
            assert!(e.to_string().contains(dtype.name()), "{e}");
        }
    }
    assert!(dequantize_row(DType::Q4_0, &[0; 18], &mut [0.0; 31]).is_err());
}

/// The layout's description, read literally: weight of row `row`, feature `k` of a tile.
fn tile_weight(dtype: DType, tile: &[u8], row: usize, k: usize) -> f32 {
    let half = |at: usize| half::f16::from_le_bytes([tile[at], tile[at + 1]]).to_f32();
    let Some(f) = dtype.tile() else {
        let size = dtype.block_bytes();
        let mut out = [0.0];
        dequantize_row(dtype, &tile[(k * TILE_ROWS + row) * size..][..size], &mut out).unwrap();
        return out[0];
    };
    let (b, i) = (k / TILE_K, k % TILE_K);
    let (g, byte) = (i / 4, 4 * row + i % 4);
    let at = f.block_offset(b);
    let q = if f.bits == 8 {
        tile[at + 64 * g + byte]
    } else {
        let low = tile[at + 64 * (g / 2) + byte] >> (4 * (g % 2)) & 15;
        let high = match f.bits {
            5 => tile[at + 256 + byte] >> g & 1,
            6 => tile[at + 256 + 64 * (g / 4) + byte] >> (2 * (g % 4)) & 3,
            _ => 0,
        };
        low | high << 4
    };
    let q = f32::from(i16::from(q) - i16::try_from(f.zero_point).unwrap());
    let s = at + f.plane_bytes();
    let head = f.block_offset(b / 8 * 8) - f.header_bytes();
    match f.scales {
        Scales::F16 => half(s + 2 * row) * q,
        Scales::F16Min => half(s + 2 * row) * q + half(s + 32 + 2 * row),
        Scales::SuperMin => {
            let (sc, mn) = (f32::from(tile[s + row]), f32::from(tile[s + 16 + row]));
            half(head + 2 * row) * sc * q - half(head + 32 + 2 * row) * mn
        }
        Scales::Super16 => half(head + 2 * row) * f32::from(tile[s + 16 * (i / 16) + row].cast_signed()) * q,
    }
}

/// Memory aligned to 64 bytes.
fn aligned(bytes: usize) -> (Vec<u8>, usize) {
    let v = vec![0xaa; bytes + 64];
    let skip = v.as_ptr().align_offset(64);
    (v, skip)
}

fn random_tensor(dtype: DType, elements: usize, seed: u64) -> Vec<u8> {
    let mut state = seed | 1;
    let mut bytes: Vec<u8> = (0..dtype.bytes(elements as u64).unwrap())
        .map(|_| {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            (state >> 56) as u8
        })
        .collect();
    // Keep every half-precision field finite: clear one exponent bit wherever one may be.
    let fields: &[usize] = match dtype {
        DType::F32 => &[2],
        DType::F16 | DType::BF16 | DType::Q8_0 | DType::Q4_0 | DType::Q5_0 => &[0],
        DType::Q4_1 | DType::Q5_1 | DType::Q4_K | DType::Q5_K => &[0, 2],
        DType::Q6_K => &[208],
    };
    for block in bytes.chunks_exact_mut(dtype.block_bytes()) {
        for f in fields {
            block[f + 1] &= 0xbf;
        }
    }
    bytes
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 96, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn tiles_hold_the_rows_of_the_file(
        which in 0usize..11, heads in 1usize..5, half_head in 1usize..12, pairs: bool, blocks in 1usize..4,
        count in 1usize..4, threads in 1usize..4, seed: u64,
    ) {
        let dtype = DType::ALL[which];
        let k = blocks * dtype.block().max(TILE_K);
        let n = if pairs { heads * half_head * 2 } else { heads * half_head * 2 - 1 };
        let order = if pairs { RowOrder::PairsToHalves(2 * half_head as u32) } else { RowOrder::File };
        let mut w = Writer::new();
        let names: Vec<String> = (0..count).map(|i| format!("t{i}")).collect();
        for (i, name) in names.iter().enumerate() {
            let data = random_tensor(dtype, n * k, seed.wrapping_add(i as u64));
            w = w.tensor(name, &[k as u64, n as u64], ggml_code(dtype), &data);
        }
        let gguf = Gguf::from_bytes("test", w.build()).unwrap();
        let weight = Weight {
            name: "w".into(),
            source: Source::Tiles { tensors: names.clone(), dtype, n: n as u64, k: k as u64, rows: order },
        };
        let size = weights::bytes(&weight).unwrap();
        let (mut memory, skip) = aligned(size);
        weights::load(&gguf, &weight, &mut memory[skip..skip + size], threads).unwrap();
        let resident = &memory[skip..skip + size];
        let tile = tile_bytes(dtype, k);
        prop_assert_eq!(n.div_ceil(TILE_ROWS) * count * tile, size / tile * tile);
        prop_assert!(resident[n.div_ceil(TILE_ROWS) * count * tile..].iter().all(|b| *b == 0));
        let mut expected = vec![0.0; k];
        for r in 0..n.div_ceil(TILE_ROWS) * TILE_ROWS {
            for (i, name) in names.iter().enumerate() {
                let t = &resident[(r / TILE_ROWS * count + i) * tile..][..tile];
                expected.fill(0.0);
                if r < n {
                    let d = 2 * half_head;
                    let (head, j) = (r / d, r % d);
                    let source = match (pairs, j < half_head) {
                        (false, _) => r,
                        (true, true) => head * d + 2 * j,
                        (true, false) => head * d + 2 * (j - half_head) + 1,
                    };
                    let row = k / dtype.block() * dtype.block_bytes();
                    dequantize_row(dtype, &gguf.tensor_data(name).unwrap()[source * row..][..row], &mut expected).unwrap();
                }
                for (f, e) in expected.iter().enumerate() {
                    let found = tile_weight(dtype, t, r % TILE_ROWS, f);
                    prop_assert!(found == *e, "{} row {r} feature {f}: {found} for {e}", dtype.name());
                }
            }
        }
    }
}

/// Every type in int8 per channel: undoing the mixing gives the file's weights back, each within the rounding of 16 · block
/// mixed ones, and a row's scale is that of its largest mixed weight.
#[test]
fn channels_hold_the_rows_of_the_file_rounded() {
    let (n, order) = (20, RowOrder::PairsToHalves(4));
    for (dtype, block) in DType::ALL.into_iter().flat_map(|d| [32usize, 64, 128].map(|b| (d, b))) {
        let k = if dtype.block() == 256 { 256 } else { 3 * block };
        let data = random_tensor(dtype, n * k, 7 + block as u64);
        let gguf =
            Gguf::from_bytes("test", Writer::new().tensor("t", &[k as u64, n as u64], ggml_code(dtype), &data).build())
                .unwrap();
        let (tensors, n64, k64) = (vec!["t".to_owned()], n as u64, k as u64);
        let source = Source::Int8Channel { tensors, dtype, n: n64, k: k64, rows: order, block: block as u64 };
        let weight = Weight { name: "w".into(), source };
        let size = weights::bytes(&weight).unwrap();
        let make = |threads| {
            let (mut memory, skip) = aligned(size);
            weights::load(&gguf, &weight, &mut memory[skip..skip + size], threads).unwrap();
            memory[skip..skip + size].to_vec()
        };
        let resident = make(2);
        assert_eq!(resident, make(1));
        let tile = channel_tile_bytes(k);
        assert_eq!(size, n.div_ceil(TILE_ROWS) * tile);
        for r in 0..n.div_ceil(TILE_ROWS) * TILE_ROWS {
            let (t, lane) = (&resident[r / TILE_ROWS * tile..][..tile], r % TILE_ROWS);
            let at = channel_weight_bytes(k) + 4 * lane;
            let scale = f64::from(f32::from_le_bytes(t[at..at + 4].try_into().unwrap()));
            let q = |f: usize| f64::from(t[f / 4 * 64 + 4 * lane + f % 4]) - 128.0;
            if r >= n {
                assert_eq!(scale, 0.0);
                continue;
            }
            let source = r / 4 * 4 + [0, 2, 1, 3][r % 4];
            let row = k / dtype.block() * dtype.block_bytes();
            let mut expected = vec![0.0; k];
            dequantize_row(dtype, &data[source * row..][..row], &mut expected).unwrap();
            assert!((0..k).any(|f| q(f).abs() == 127.0) && (0..k).all(|f| q(f).abs() <= 127.0));
            for (f, e) in expected.iter().enumerate() {
                let (first, i, lane) = (f / block * block, f % block / 16, f % 16);
                let sign = |j: usize| if (i & j).count_ones().is_multiple_of(2) { 1.0 } else { -1.0 };
                let found: f64 = (0..block / 16).map(|j| sign(j) * scale * q(first + 16 * j + lane)).sum();
                let slack = scale * (block / 16) as f64 * 0.51;
                let e = f64::from(*e);
                assert!((found - e).abs() <= slack, "{} {block}, row {r}, {f}: {found} for {e}", dtype.name());
            }
        }
    }
}

#[test]
fn vectors_become_f32_in_the_order_asked_for() {
    let values: Vec<f32> = (0..24).map(|i| i as f32 * 0.5).collect();
    let bytes: Vec<u8> = values.iter().flat_map(|v| v.to_le_bytes()).collect();
    let halves: Vec<u8> = values.iter().flat_map(|v| half::f16::from_f32(*v).to_le_bytes()).collect();
    let w = Writer::new().tensor("a", &[24], 0, &bytes).tensor("b", &[24], 1, &halves);
    let gguf = Gguf::from_bytes("test", w.build()).unwrap();
    for tensor in ["a", "b"] {
        let rows = RowOrder::PairsToHalves(8);
        let weight = Weight { name: "v".into(), source: Source::Vector { tensor: tensor.into(), len: 24, rows } };
        assert_eq!(weights::bytes(&weight), Some(128));
        let (mut memory, skip) = aligned(128);
        weights::load(&gguf, &weight, &mut memory[skip..skip + 128], 2).unwrap();
        let out: Vec<f32> =
            memory[skip..skip + 128].chunks_exact(4).map(|c| f32::from_le_bytes(c.try_into().unwrap())).collect();
        assert_eq!(out[..8], [0.0, 1.0, 2.0, 3.0, 0.5, 1.5, 2.5, 3.5]);
        assert_eq!(out[16..24], [8.0, 9.0, 10.0, 11.0, 8.5, 9.5, 10.5, 11.5]);
        assert_eq!(out[24..], [0.0; 8]);
    }
}

#[test]
fn halves_lie_together() {
    let values: Vec<u8> = (0..128).flat_map(|i| (i as f32).to_le_bytes()).collect();
    let gguf = Gguf::from_bytes("test", Writer::new().tensor("a", &[128], 0, &values).build()).unwrap();
    let rows = RowOrder::HalvesTogether(64);
    let weight = Weight { name: "v".into(), source: Source::Vector { tensor: "a".into(), len: 128, rows } };
    let (mut memory, skip) = aligned(512);
    weights::load(&gguf, &weight, &mut memory[skip..skip + 512], 1).unwrap();
    let out: Vec<f32> =
        memory[skip..skip + 512].chunks_exact(4).map(|c| f32::from_le_bytes(c.try_into().unwrap())).collect();
    let firsts: Vec<f32> = out.iter().step_by(16).copied().collect();
    assert_eq!(firsts, [0.0, 32.0, 16.0, 48.0, 64.0, 96.0, 80.0, 112.0]);
    assert!(out.chunks(16).all(|run| run.windows(2).all(|w| w[1] == w[0] + 1.0)));
}

#[test]
fn channels_of_senseless_blocks_have_no_size() {
    for (k, block) in [(64u64, 0u64), (64, 16), (64, 48), (64, 256), (96, 64), (64, u64::MAX), (1 << 40, 32)] {
        let (tensors, dtype, rows) = (vec!["t".to_owned()], DType::Q4_0, RowOrder::File);
        let source = Source::Int8Channel { tensors, dtype, n: 16, k, rows, block };
        assert_eq!(weights::bytes(&Weight { name: "w".into(), source }), None, "{k} {block}");
    }
}

#[test]
fn what_does_not_fit_is_refused_by_name_and_nothing_is_written() {
    let gguf = Gguf::from_bytes("m.gguf", Writer::new().tensor("t", &[32, 6], 2, &[0; 108]).build()).unwrap();
    let tiles = |tensor: &str, dtype, n, k, rows| Weight {
        name: "w".into(),
        source: Source::Tiles { tensors: vec![tensor.into()], dtype, n, k, rows },
    };
    let cases = [
        (tiles("absent", DType::Q4_0, 6, 32, RowOrder::File), "tensor `absent`: expected the tensor, found none"),
        (tiles("t", DType::Q4_1, 6, 32, RowOrder::File), "expected Q4_1 of shape [32, 6], found Q4_0 of shape [32, 6]"),
        (tiles("t", DType::Q4_0, 7, 32, RowOrder::File), "expected Q4_0 of shape [32, 7]"),
        (tiles("t", DType::Q4_0, 6, 64, RowOrder::File), "expected Q4_0 of shape [64, 6]"),
        (tiles("t", DType::Q4_0, 6, 32, RowOrder::PairsToHalves(0)), "heads of 0 rows"),
        (tiles("t", DType::Q4_0, 6, 32, RowOrder::PairsToHalves(3)), "heads of 3 rows"),
        (tiles("t", DType::Q4_0, 6, 32, RowOrder::PairsToHalves(4)), "heads of 4 rows"),
        (tiles("t", DType::Q4_0, 6, 32, RowOrder::HalvesTogether(6)), "heads of 6 rows"),
        (tiles("t", DType::Q4_0, 6, 32, RowOrder::HalvesTogether(0)), "heads of 0 rows"),
        (
            Weight { name: "w".into(), source: Source::Vector { tensor: "t".into(), len: 6, rows: RowOrder::File } },
            "expected shape [6], found [32, 6]",
        ),
    ];
    for (weight, text) in cases {
        let size = weights::bytes(&weight).unwrap();
        let (mut memory, skip) = aligned(size);
        let e = weights::load(&gguf, &weight, &mut memory[skip..skip + size], 1).unwrap_err().to_string();
        assert!(e.starts_with("m.gguf: weight `w`") && e.contains(text), "{e}");
        assert!(memory.iter().all(|b| *b == 0xaa));
    }
    let good = tiles("t", DType::Q4_0, 6, 32, RowOrder::File);
    let size = weights::bytes(&good).unwrap();
    let (mut memory, skip) = aligned(size);
    assert!(weights::load(&gguf, &good, &mut memory[skip + 1..skip + size], 1).is_err());
    for (n, k) in [(u64::MAX, 32), (6, 1 << 40), (6, 33)] {
        assert_eq!(weights::bytes(&tiles("t", DType::Q4_0, n, k, RowOrder::File)), None);
    }
}

#[test]
fn the_bytes_do_not_depend_on_the_number_of_threads() {
    let data = random_tensor(DType::Q5_0, 64 * 5000, 7);
    let gguf = Gguf::from_bytes("test", Writer::new().tensor("t", &[64, 5000], 6, &data).build()).unwrap();
    let weight = Weight {
        name: "w".into(),
        source: Source::Tiles { tensors: vec!["t".into()], dtype: DType::Q5_0, n: 5000, k: 64, rows: RowOrder::File },
    };
    let size = weights::bytes(&weight).unwrap();
    let run = |threads| {
        let (mut memory, skip) = aligned(size);
        weights::load(&gguf, &weight, &mut memory[skip..skip + size], threads).unwrap();
        memory[skip..skip + size].to_vec()
    };
    let one = run(1);
    assert!(run(0) == one && run(3) == one);
}
