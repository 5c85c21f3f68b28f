"""How fast a case could be at most on this machine, from the rates that `inferc bench --roofs` measured and the bytes and
products that the case needs. Takes a model's sizes, a case and rates; returns plain data; runs nothing.

A step takes at least the time of reading its bytes once (the file's weights, and keys and values of 16 bits, a shared prompt
once for all sequences), and at least the time of its products: matrices in int8, attention in f32. The longer of the two
binds. Sampling, norms, exponentials and barriers are not counted, so that the bound is a little lower than what can be had.

A case that allows losses reads what its choice leaves: keys and values of 8 bits with their scales, attended to in int8; a
part of the pages in all layers but the first, and of the others the summaries that choose them.
"""

import math

# What our plans do: tokens of a page, and layers that attend to everything whatever is allowed.
PAGE, DENSE_LAYERS = 16, 2


def decode_needs(model, case, own):
    """Bytes, int8 products and f32 products of one decoded token over `own` cached positions."""
    lossy = dict(case.lossy)
    rounded = lossy.get("kv") == "int8"
    kind, _, rest = lossy.get("attention", "").partition(":")
    # Of the layers, the share that attends to a part; the positions that an average layer attends to; pages weighed there.
    partly = max(model.layers - DENSE_LAYERS, 0) / model.layers if kind else 0
    part = min(own, PAGE * int(rest.split(":")[0])) if kind else own
    attended = (1 - partly) * own + partly * part
    weighed = partly * own / PAGE if kind == "sparse" else 0
    # A summary is two vectors of 16-bit elements for a head's keys: as much as a position's key and value. Weighing it is a
    # product per element of a query: half of attending to a position.
    size = model.weights + attended * model.kv_bytes(rounded) + weighed * model.kv_per_position
    attention, weighing = attended * model.attention_macs, weighed * model.attention_macs / 2
    matrices = model.layer_macs + model.head_macs
    return size, matrices + (attention if rounded else 0), weighing + (0 if rounded else attention)


def needs(model, case, gen):
    """What one step of a case needs: rows (tokens), bytes and products. Prefill and scoring count as one step."""
    if case.kind == "decode":
        size, int8, f32 = decode_needs(model, case, case["depth"] + gen / 2)
        return {"rows": 1, "bytes": size, "int8_macs": int8, "f32_macs": f32}
    if case.kind == "branches":
        rows = heads = case["n"]
        own = case["prompt"] + case["gen"] / 2
        positions = case["prompt"] + case["n"] * case["gen"] / 2
    elif case.kind == "prefill":
        rows, heads, own, positions = case["n"], 1, (case["n"] + 1) / 2, case["n"]
    else:
        rows = heads = case["n"] * case["len"]
        own = case["prompt"] + (case["len"] + 1) / 2
        positions = case["prompt"] + rows
    return {
        "rows": rows,
        "bytes": model.weights + model.kv_per_position * positions,
        "int8_macs": rows * model.layer_macs + heads * model.head_macs,
        "f32_macs": rows * own * model.attention_macs,
    }


def working_sets(model, cases, gen):
    """Bytes for which the read bandwidth must be known, in rising order."""
    return sorted({int(needs(model, case, gen)["bytes"]) for case in cases})


def bandwidth(rates, size):
    """Bytes per second for a working set: interpolated over the logarithm of the size between measured ones; None when none
    was measured."""
    points = sorted((p["bytes"], p["bytes_per_second"]) for p in rates.get("read") or [])
    if not points:
        return None
    if size <= points[0][0]:
        return points[0][1]
    for low, high in zip(points, points[1:]):
        if size <= high[0]:
            part = math.log(size / low[0]) / math.log(high[0] / low[0])
            return low[1] + (high[1] - low[1]) * part
    return points[-1][1]


def roof_of(model, case, rates, gen):
    """The bound of a case in tokens per second with what it is made of; None when the rates are incomplete."""
    need = needs(model, case, gen)
    reads = bandwidth(rates, need["bytes"]) if rates else None
    if not reads or not rates.get("int8_macs_per_second") or not rates.get("f32_macs_per_second"):
        return None
    reading = need["bytes"] / reads
    computing = need["int8_macs"] / rates["int8_macs_per_second"] + need["f32_macs"] / rates["f32_macs_per_second"]
    return {
        "tokens_per_second": need["rows"] / max(reading, computing),
        "bound": "reading" if reading >= computing else "arithmetic",
        "reading_seconds_per_step": reading,
        "arithmetic_seconds_per_step": computing,
        "rows_per_step": need["rows"],
        "bytes_per_step": need["bytes"],
        "int8_macs_per_step": need["int8_macs"],
        "f32_macs_per_step": need["f32_macs"],
        "bytes_per_second": reads,
        "int8_macs_per_second": rates["int8_macs_per_second"],
        "f32_macs_per_second": rates["f32_macs_per_second"],
    }
