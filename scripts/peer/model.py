"""Reads from a GGUF header what roofs need: bytes of weights that one decode step reads, bytes of keys and values per
position, and the products of matrices, by how their weights are stored, and of attention. Takes a path; returns a ModelBytes;
does not read the weights.
"""

import math
import struct
from dataclasses import dataclass

_SCALARS = {0: "B", 1: "b", 2: "H", 3: "h", 4: "I", 5: "i", 6: "f", 7: "B", 10: "Q", 11: "q", 12: "d"}
_STRING, _ARRAY = 8, 9
_MAX_ITEMS = 1 << 24

# Types of tensors in the file: floats; quantised in blocks with a scale and a minimum. All others have scales alone.
_FLOATS = (0, 1, 30)  # F32, F16, BF16
_MINIMA = (3, 7, 12, 13)  # Q4_1, Q5_1, Q4_K, Q5_K


class ModelError(Exception):
    """A file that is not a readable GGUF; the text names the file and the place."""


@dataclass(frozen=True)
class Macs:
    """Products (multiply-adds) of matrices, by how their weights are stored: bytes in blocks with `scaled` weights, with scales
    and `minima`, or `floats`."""

    scaled: int = 0
    minima: int = 0
    floats: int = 0

    @property
    def total(self):
        """Products of all kinds, which is also the number of weights."""
        return self.scaled + self.minima + self.floats


@dataclass(frozen=True)
class ModelBytes:
    """`weights`: bytes that a decode step reads (the embedding table counts only where it is also the output matrix), of them
    `layer_weights` of the layers' matrices. `kv_per_position`: bytes of keys and values per position with 16-bit elements,
    `kv_vectors`: of how many vectors, in all `layers`; `key_length`: elements of one head's key. Products (multiply-adds):
    `layer_macs` of all layers' matrices per token, `head_macs` of the output matrix per token whose logits are wanted,
    `attention_macs` of one token with one cached position."""

    architecture: str
    weights: int
    layer_weights: int
    kv_per_position: int
    layer_macs: Macs
    head_macs: Macs
    attention_macs: int
    layers: int
    kv_vectors: int
    key_length: int

    @property
    def queries(self):
        """Query heads of a KV head; of layers that differ, the average."""
        return max(1, round(2 * self.attention_macs / self.kv_per_position)) if self.kv_per_position else 1

    def kv_bytes(self, rounded):
        """Bytes of keys and values per position: with 16-bit elements, or rounded to int8 with a 32-bit scale per vector."""
        return self.kv_per_position / 2 + 4 * self.kv_vectors if rounded else self.kv_per_position


class _Reader:
    def __init__(self, path, file):
        self.path, self.file = path, file

    def take(self, count):
        if not 0 <= count <= 1 << 27:
            raise ModelError(f"{self.path}: a length of {count} at byte {self.file.tell()} is not credible")
        data = self.file.read(count)
        if len(data) != count:
            raise ModelError(f"{self.path}: ends inside the header")
        return data

    def number(self, code):
        return struct.unpack("<" + code, self.take(struct.calcsize(code)))[0]

    def text(self):
        return self.take(self.number("Q")).decode("utf-8", "replace")

    def value(self, kind, depth=0):
        if kind == _STRING:
            return self.text()
        if kind == _ARRAY and depth < 4:
            inner, count = self.number("I"), self.number("Q")
            if count > _MAX_ITEMS:
                raise ModelError(f"{self.path}: an array of {count} items is not credible")
            if inner in _SCALARS:
                size = struct.calcsize("<" + _SCALARS[inner])
                return struct.unpack(f"<{count}{_SCALARS[inner]}", self.take(count * size))
            return [self.value(inner, depth + 1) for _ in range(count)]
        if kind not in _SCALARS:
            raise ModelError(f"{self.path}: unknown metadata type {kind} before byte {self.file.tell()}")
        return self.number(_SCALARS[kind])


def read_model(path):
    """Reads the header of a GGUF; raises ModelError, or OSError when the file cannot be opened."""
    with open(path, "rb") as file:
        reader = _Reader(path, file)
        if reader.take(4) != b"GGUF":
            raise ModelError(f"{path}: is not a GGUF file")
        version = reader.number("I")
        if version not in (2, 3):
            raise ModelError(f"{path}: GGUF version {version} is not known")
        tensors, pairs = reader.number("Q"), reader.number("Q")
        if tensors > _MAX_ITEMS or pairs > _MAX_ITEMS:
            raise ModelError(f"{path}: {tensors} tensors and {pairs} metadata pairs are not credible")
        meta = {}
        for _ in range(pairs):
            key = reader.text()
            meta[key] = reader.value(reader.number("I"))
        offsets, shapes, types = {}, {}, {}
        for _ in range(tensors):
            name = reader.text()
            dims = reader.number("I")
            if dims > 8:
                raise ModelError(f"{path}: a tensor of {dims} dimensions is not credible")
            shapes[name] = [reader.number("Q") for _ in range(dims)]
            types[name] = reader.number("I")
            offsets[name] = reader.number("Q")
        align = meta.get("general.alignment", 32) or 32
        data = -(-file.tell() // align) * align
        file.seek(0, 2)
        total = file.tell() - data
    matrices = {name: math.prod(shape) for name, shape in shapes.items() if len(shape) == 2}
    head = "output.weight" if "output.weight" in matrices else "token_embd.weight"
    of_layers = [name for name in matrices if name not in ("output.weight", "token_embd.weight")]
    sizes = _sizes(path, offsets, total)
    # With a separate output matrix a step reads one row of the embedding table.
    unread = sizes.get("token_embd.weight", 0) if "output.weight" in offsets else 0
    kv, attention, blocks, vectors, key = _attention(path, meta)
    return ModelBytes(
        architecture=meta.get("general.architecture", "unknown"),
        weights=total - unread,
        layer_weights=sum(sizes[name] for name in of_layers),
        kv_per_position=kv,
        layer_macs=_macs(matrices, types, of_layers),
        head_macs=_macs(matrices, types, [head] if head in matrices else []),
        attention_macs=attention,
        layers=blocks,
        kv_vectors=vectors,
        key_length=key,
    )


def _macs(matrices, types, names):
    found = {"scaled": 0, "minima": 0, "floats": 0}
    for name in names:
        kind = "floats" if types[name] in _FLOATS else "minima" if types[name] in _MINIMA else "scaled"
        found[kind] += matrices[name]
    return Macs(**found)


def _sizes(path, offsets, total):
    """Bytes of every tensor: it ends where the next one begins."""
    if total <= 0 or not offsets or max(offsets.values()) >= total:
        raise ModelError(f"{path}: the tensor data is cut off")
    starts = sorted({*offsets.values(), total})
    ends = dict(zip(starts, starts[1:]))
    return {name: ends[start] - start for name, start in offsets.items()}


def _attention(path, meta):
    """Bytes of keys and values per position, products of a token with it, layers, vectors per position, elements of a key."""
    arch = meta.get("general.architecture", "")
    try:
        layers = meta[f"{arch}.block_count"]
        heads = meta[f"{arch}.attention.head_count"]
        kv_heads = meta.get(f"{arch}.attention.head_count_kv", heads)
        first = heads[0] if isinstance(heads, tuple) else heads
        head = meta[f"{arch}.embedding_length"] // first
        key = meta.get(f"{arch}.attention.key_length", head)
        width = key + meta.get(f"{arch}.attention.value_length", head)
        kept = sum(kv_heads) if isinstance(kv_heads, tuple) else layers * kv_heads
        asked = sum(heads) if isinstance(heads, tuple) else layers * heads
        return kept * width * 2, asked * width, layers, 2 * kept, key
    except (KeyError, TypeError, ZeroDivisionError, IndexError) as error:
        raise ModelError(f"{path}: the metadata lack the attention shape ({error})") from error
