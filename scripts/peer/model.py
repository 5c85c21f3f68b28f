"""Reads from a GGUF header what the bandwidth roof needs: bytes of weights that one decode step reads, and bytes of keys
and values per position. Takes a path; returns a ModelBytes; does not read the weights, and prices no arithmetic.
"""

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
    `kv_per_position`: bytes of keys and values per position with 16-bit elements."""

    architecture: str
    weights: int
    kv_per_position: int

    def per_step(self, positions):
        """Bytes of one decode step over `positions` cached positions, each byte read once."""
        return self.weights + self.kv_per_position * positions


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
        offsets = {}
        for _ in range(tensors):
            name = reader.text()
            for _ in range(reader.number("I")):
                reader.number("Q")
            reader.number("I")
            offsets[name] = reader.number("Q")
        align = meta.get("general.alignment", 32) or 32
        data = -(-file.tell() // align) * align
        file.seek(0, 2)
        total = file.tell() - data
    return ModelBytes(meta.get("general.architecture", "unknown"), _weights(path, offsets, total), _kv_per_position(path, meta))


def _weights(path, offsets, total):
    if total <= 0 or not offsets or max(offsets.values()) >= total:
        raise ModelError(f"{path}: the tensor data is cut off")
    if "output.weight" not in offsets or "token_embd.weight" not in offsets:
        return total
    # A separate output matrix: of the embedding table a step reads one row. A tensor ends where the next one begins.
    start = offsets["token_embd.weight"]
    end = min((o for o in offsets.values() if o > start), default=total)
    return total - (end - start)


def _kv_per_position(path, meta):
    arch = meta.get("general.architecture", "")
    try:
        layers = meta[f"{arch}.block_count"]
        heads = meta[f"{arch}.attention.head_count"]
        kv_heads = meta.get(f"{arch}.attention.head_count_kv", heads)
        first = heads[0] if isinstance(heads, tuple) else heads
        head = meta[f"{arch}.embedding_length"] // first
        width = meta.get(f"{arch}.attention.key_length", head) + meta.get(f"{arch}.attention.value_length", head)
        per_layer = sum(kv_heads) if isinstance(kv_heads, tuple) else layers * kv_heads
        return per_layer * width * 2
    except (KeyError, TypeError, ZeroDivisionError, IndexError) as error:
        raise ModelError(f"{path}: the metadata lack the attention shape ({error})") from error
