#!/usr/bin/env python3
"""Writes quant_vectors.bin: random blocks of every type and what the reference library makes of them.

Needs the packages `gguf` and `numpy`. Deterministic. Records, little endian: u32 type number, u32 elements, u32 bytes,
the bytes, the elements as f32. Scales are finite: what 0 * inf gives differs between machines, not between readers.
"""
import pathlib
import struct

import numpy as np
from gguf import GGML_QUANT_SIZES, GGMLQuantizationType as T
from gguf.quants import dequantize

TYPES = [T.F32, T.F16, T.BF16, T.Q8_0, T.Q4_0, T.Q4_1, T.Q5_0, T.Q5_1, T.Q4_K, T.Q5_K, T.Q6_K]
HALVES = {T.F16: None, T.BF16: None, T.Q8_0: [0], T.Q4_0: [0], T.Q4_1: [0, 2], T.Q5_0: [0], T.Q5_1: [0, 2],
          T.Q4_K: [0, 2], T.Q5_K: [0, 2], T.Q6_K: [208]}
ELEMENTS = 1024
rng = np.random.default_rng(20240607)
out = bytearray()
for t in TYPES:
    block, size = GGML_QUANT_SIZES[t]
    blocks = rng.integers(0, 256, (ELEMENTS // block, size), dtype=np.uint8)
    if t == T.F32:
        blocks = rng.standard_normal(ELEMENTS).astype(np.float32).view(np.uint8).reshape(-1, size)
    elif t in (T.F16, T.BF16):
        # Any exponent but the highest (infinities and NaN).
        words = blocks.view(np.uint16)
        bad = 0x7C00 if t == T.F16 else 0x7F80
        words[(words & bad) == bad] = 0x0001
    else:
        for at in HALVES[t]:
            words = np.ascontiguousarray(blocks[:, at:at + 2]).view(np.uint16)
            words[(words & 0x7C00) == 0x7C00] = 0x8001
            blocks[:, at:at + 2] = words.view(np.uint8)
    data = blocks.reshape(-1)
    floats = dequantize(data, t).astype(np.float32).reshape(-1) if t != T.F16 else data.view(np.float16).astype(np.float32)
    if t == T.F32:
        floats = data.view(np.float32)
    assert len(floats) == ELEMENTS, (t, len(floats))
    out += struct.pack("<III", t.value, ELEMENTS, len(data)) + data.tobytes() + floats.astype("<f4").tobytes()
path = pathlib.Path(__file__).with_name("quant_vectors.bin")
path.write_bytes(out)
print(path, len(out), "bytes")
