"""Reads from a GGUF header what roofs need: bytes of weights that one decode step reads, bytes of keys and values per
position, and the products of matrices and of attention. Takes a path; returns a ModelBytes; does not read the weights.
"""

import math
import struct
from dataclasses import dataclass

_SCALARS = {0: "B", 1: "b", 2: "H", 3: "h", 4: "I", 5: "i", 6: "f", 7: "B", 10: "Q", 11: "q", 12: "d"}
_STRING, _ARRAY = 8, 9
_MAX_ITEMS = 1 << 24


class ModelError(Exception):
    """A file that is not a readable GGUF; the text names the file and the place."""


@dataclass(frozen=True)
class ModelBytes:
    """`weights`: bytes that a decode step reads (the embedding table counts only where it is also the output matrix).
    `kv_per_position`: bytes of keys and values per position with 16-bit elements, `kv_vectors`: of how many vectors, in all
    `layers`. Products (multiply-adds): `layer_macs` of all layers' matrices per token, `head_macs` of the output matrix per
    token whose logits are wanted, `attention_macs` of one token with one cached position."""

    architecture: str
    weights: int
    kv_per_position: int
    layer_macs: int
    head_macs: int
    attention_macs: int
    layers: int
    kv_vectors: int

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
        offsets, shapes = {}, {}
        for _ in range(tensors):
            name = reader.text()
            dims = reader.number("I")
            if dims > 8:
                raise ModelError(f"{path}: a tensor of {dims} dimensions is not credible")
            shapes[name] = [reader.number("Q") for _ in range(dims)]
            reader.number("I")
            offsets[name] = reader.number("Q")
        align = meta.get("general.alignment", 32) or 32
        data = -(-file.tell() // align) * align
        file.seek(0, 2)
        total = file.tell() - data
    kv, attention, blocks, vectors = _attention(path, meta)
    layers, head = _macs(shapes)
    architecture = meta.get("general.architecture", "unknown")
    return ModelBytes(architecture, _weights(path, offsets, total), kv, layers, head, attention, blocks, vectors)


def _macs(shapes):
    sizes = {name: math.prod(shape) for name, shape in shapes.items() if len(shape) == 2}
    head = sizes.get("output.weight") or sizes.get("token_embd.weight") or 0
    return sum(size for name, size in sizes.items() if name not in ("output.weight", "token_embd.weight")), head


def _weights(path, offsets, total):
    if total <= 0 or not offsets or max(offsets.values()) >= total:
        raise ModelError(f"{path}: the tensor data is cut off")
    if "output.weight" not in offsets or "token_embd.weight" not in offsets:
        return total
    # A separate output matrix: of the embedding table a step reads one row. A tensor ends where the next one begins.
    start = offsets["token_embd.weight"]
    end = min((o for o in offsets.values() if o > start), default=total)
    return total - (end - start)


def _attention(path, meta):
    """Bytes of keys and values per position, products of a token with it, layers, vectors per position."""
    arch = meta.get("general.architecture", "")
    try:
        layers = meta[f"{arch}.block_count"]
        heads = meta[f"{arch}.attention.head_count"]
        kv_heads = meta.get(f"{arch}.attention.head_count_kv", heads)
        first = heads[0] if isinstance(heads, tuple) else heads
        head = meta[f"{arch}.embedding_length"] // first
        width = meta.get(f"{arch}.attention.key_length", head) + meta.get(f"{arch}.attention.value_length", head)
        kept = sum(kv_heads) if isinstance(kv_heads, tuple) else layers * kv_heads
        asked = sum(heads) if isinstance(heads, tuple) else layers * heads
        return kept * width * 2, asked * width, layers, 2 * kept
    except (KeyError, TypeError, ZeroDivisionError, IndexError) as error:
        raise ModelError(f"{path}: the metadata lack the attention shape ({error})") from error
