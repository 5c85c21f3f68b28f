"""How fast a case could be at most on this machine, from the rates that `inferc bench --roofs` measured and the bytes and
products that the case needs. Takes a model's sizes, a case and rates; returns plain data; runs nothing.

A step takes at least the time of reading its bytes once (the file's weights, and keys and values of 16 bits, a shared prompt
once for all sequences), and at least the time of its products. The longer of the two binds. Products of matrices have the rate
of the way their weights are stored: what a block's scales and minima need runs on the units that multiply bytes, so the rate
of byte products alone is out of reach. Attention is f32. Sampling, norms, exponentials and barriers are not counted, so that
the bound is a little lower than what can be had.

A case that allows losses reads what its choice leaves: keys and values of 8 bits with their scales, attended to in int8; a
part of the pages in all layers but the first, and of the others the summaries that choose them. Chosen pages lie scattered
and are read at the rate of such pieces. A second bound of a decode, never above the first, takes keys and values at the
rate of a loop that has attention's products beside its reads: what the first counts apart, and takes the longer of, one
core does together. Matrices of the class int8 per channel are read as a byte a weight, at the rate of byte products alone;
the output matrix stays as stored.
"""

import math

# What our plans do: tokens of a page, and layers that attend to everything whatever is allowed.
PAGE, DENSE_LAYERS = 16, 2

# Kinds of products, each with a rate of its own: of bytes alone, in blocks with scales, with scales and minima; of floats.
KINDS = ("int8", "int8_scaled", "int8_scaled_min", "f32")
# A rate beside them that bounds no case: no kernel computes in it.
BESIDE = "bf16"

# Sizes of pieces that can be measured, bytes; a power of two.
_LEAST_PIECE, _MOST_PIECE = 64, 65536
# The most queries of a loop with products.
_MOST_QUERIES = 28


def decode_needs(model, case, own):
    """Bytes, of them keys and values that are attended to in order, and in scattered pages; products of bytes and of floats: of
    one decoded token over `own` cached positions, without the products of matrices."""
    lossy = dict(case.lossy)
    rounded = _rounded(case)
    kind, _, rest = lossy.get("attention", "").partition(":")
    # Of the layers, the share that attends to a part; the positions that an average layer attends to; pages weighed there.
    partly = max(model.layers - DENSE_LAYERS, 0) / model.layers if kind else 0
    part = min(own, PAGE * int(rest.split(":")[0])) if kind else own
    attended = (1 - partly) * own + partly * part
    weighed = partly * own / PAGE if kind == "sparse" else 0
    # A window's pages, and all pages, lie in order.
    scattered = partly * part * model.kv_bytes(rounded) if kind == "sparse" and part < own else 0
    # A summary has two bytes for a channel of the keys and a 16-bit scale for four. Weighing it is a product for each byte.
    channels = model.kv_per_position / 4
    size = _weights(model, case) + attended * model.kv_bytes(rounded) + weighed * 2.5 * channels
    in_order = attended * model.kv_bytes(rounded) - scattered
    attention, weighing = attended * model.attention_macs, weighed * 2 * channels
    return size, in_order, scattered, weighing + (attention if rounded else 0), 0 if rounded else attention


def _rounded(case):
    """Whether keys and values are int8."""
    return dict(case.lossy).get("kv") == "int8"


def _per_channel(case):
    return dict(case.lossy).get("numerics") == "int8-channel"


def _weights(model, case):
    """Bytes of weights of a step."""
    return model.weights - model.layer_weights + model.layer_macs.total if _per_channel(case) else model.weights


def _matrices(model, case, rows, heads):
    """Products of matrices by kind, with `rows` tokens through the layers and the logits of `heads`."""
    channel = _per_channel(case)
    layers, head = model.layer_macs, model.head_macs

    def both(kind):
        return (0 if channel else rows * getattr(layers, kind)) + heads * getattr(head, kind)

    alone = rows * layers.total if channel else 0
    return {"int8": alone, "int8_scaled": both("scaled"), "int8_scaled_min": both("minima"), "f32": both("floats")}


def needs(model, case, gen):
    """What one step of a case needs: rows (tokens), bytes, of them (in a decode) keys and values attended to in order, and scattered
    ones, and products by kind. Prefill and scoring count as one step."""
    if case.kind == "decode":
        rows = heads = 1
        size, in_order, scattered, int8, f32 = decode_needs(model, case, case["depth"] + gen / 2)
    else:
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
        size, in_order, scattered = _weights(model, case) + model.kv_per_position * positions, 0, 0
        int8, f32 = 0, rows * own * model.attention_macs
    macs = _matrices(model, case, rows, heads)
    macs["int8"] += int8
    macs["f32"] += f32
    sizes = {"bytes": size, "attended_bytes": in_order, "scattered_bytes": scattered}
    return {"rows": rows, **sizes, **{f"{kind}_macs": macs[kind] for kind in KINDS}}


def working_sets(model, cases, gen):
    """Bytes for which the read bandwidth must be known, in rising order."""
    return sorted({int(needs(model, case, gen)["bytes"]) for case in cases})


def piece_of(model, case):
    """Bytes of a piece of a chosen page: a head's keys, or values, of its tokens; the next power of two where that is none."""
    size = PAGE * model.key_length * (1 if _rounded(case) else 2)
    return min(max(1 << (size - 1).bit_length(), _LEAST_PIECE), _MOST_PIECE)


def pieces(model, cases, gen):
    """Sizes of the scattered pieces that the cases read, in rising order."""
    return sorted({piece_of(model, case) for case in cases if needs(model, case, gen)["scattered_bytes"]})


def queries(model, cases):
    """Counts of queries whose products stand beside reads: of the model where there is a decode; none otherwise."""
    return [min(model.queries, _MOST_QUERIES)] if any(case.kind == "decode" for case in cases) else []


def bandwidth(points, size):
    """Bytes per second for a working set: interpolated over the logarithm of the size between measured ones; None when none
    was measured."""
    points = sorted((p["bytes"], p["bytes_per_second"]) for p in points or [])
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
    """The bound of a case in tokens per second with what it is made of; None when the rates are incomplete. Where records lack
    the rate of products in blocks, or of scattered pieces, that of products alone, or of reading in order, stands for it."""
    need = needs(model, case, gen)
    reads = bandwidth(rates.get("read"), need["bytes"]) if rates else None
    if not reads or not rates.get("int8_macs_per_second") or not rates.get("f32_macs_per_second"):
        return None
    alone = rates["int8_macs_per_second"]
    rate = {kind: rates.get(f"{kind}_macs_per_second") or alone for kind in KINDS}
    of_piece = [p for p in rates.get("scattered") or [] if p["piece"] == piece_of(model, case)]
    scattered = bandwidth(of_piece, need["bytes"]) or reads
    in_order, pages = _attended_rates(model, case, rates, need)
    # A loop with products reads, too: where noise made it the faster one, memory gave that rate.
    reads, scattered = max(reads, in_order or 0), max(scattered, pages or 0)
    reading = (need["bytes"] - need["scattered_bytes"]) / reads + need["scattered_bytes"] / scattered
    computing = sum(need[f"{kind}_macs"] / rate[kind] for kind in KINDS)
    parts = [(size, rate) for size, rate in ((need["attended_bytes"], in_order), (need["scattered_bytes"], pages)) if size]
    together = None
    if parts and all(rate for _, rate in parts):
        beside = (need["bytes"] - sum(size for size, _ in parts)) / reads
        together = max(beside + sum(size / rate for size, rate in parts), computing)
    return {
        "tokens_per_second": need["rows"] / max(reading, computing),
        "with_products_tokens_per_second": need["rows"] / together if together else None,
        "attended_bytes_per_second": in_order,
        "attended_scattered_bytes_per_second": pages,
        "attended_bytes_per_step": need["attended_bytes"],
        "bound": "reading" if reading >= computing else "arithmetic",
        "reading_seconds_per_step": reading,
        "arithmetic_seconds_per_step": computing,
        "rows_per_step": need["rows"],
        "bytes_per_step": need["bytes"],
        "scattered_bytes_per_step": need["scattered_bytes"],
        **{f"{kind}_macs_per_step": need[f"{kind}_macs"] for kind in KINDS},
        "bytes_per_second": reads,
        "scattered_bytes_per_second": scattered,
        **{f"{kind}_macs_per_second": rate[kind] for kind in KINDS},
        f"{BESIDE}_macs_per_second": rates.get(f"{BESIDE}_macs_per_second"),
    }


def _attended_rates(model, case, rates, need):
    """Bytes per second with attention's products beside the reads: in order, and in pieces of chosen pages; None where a case has
    none of it, or that was not measured."""
    kv = "int8" if _rounded(case) else "f16"
    counts = queries(model, [case])
    points = [p for p in rates.get("attended") or [] if p["kv"] == kv and [p["queries"]] == counts]
    parts = ((need["attended_bytes"], None), (need["scattered_bytes"], piece_of(model, case)))
    return [bandwidth([p for p in points if p["piece"] == piece], need["bytes"]) if size else None for size, piece in parts]
