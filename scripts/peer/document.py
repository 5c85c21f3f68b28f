"""Writes docs/performance.md and its plots from measured records. Takes what performance.py keeps; returns texts by file name;
measures nothing, and every sentence about a result is computed from the numbers.
"""

import datetime
import statistics

import placement
from cases import parse_case
from plot import rates_over_depth, ratio_bars
from roof import BESIDE, KINDS
from suite import MODELS, ROWS, brief, label

# Above this share of others, and below so many repeats, figures are not to be quoted.
_QUIET, _REPEATS = 0.15, 3

RATIOS, DEPTHS = "performance-ratios-{}.svg", "performance-depth-{}.svg"


def documents(cache):
    """File names below docs/ and their texts."""
    measured = [(row, cache["rows"].get(key(row.model, threads, row.case)), threads) for threads in _threads(cache) for row in ROWS]
    measured = [(row, record, threads) for row, record, threads in measured if record]
    good = [m for m in measured if "error" not in m[1]]
    files, pictures = {}, []
    for threads in _threads(cache):
        of_threads = [(row, record) for row, record, t in good if t == threads]
        for name, text, words in _plots(of_threads, threads):
            files[name] = text
            pictures.append(f"![{words}]({name})")
    parts = [_opening(cache, good), _doubts(good), *pictures, *_tables(good), _losses(good), *_reasons(good), _failures(measured)]
    parts += [_profiles(good), _roofs(good)]
    parts += [_settings(good), _driver(cache), _closing(cache, measured)]
    files["performance.md"] = "\n\n".join(p for p in parts if p) + "\n"
    return files


def key(model, threads, case):
    """Name of a row in the cache."""
    return f"{model}|{threads}|{case}"


def _threads(cache):
    return sorted({int(k.split("|")[1]) for k in cache["rows"]}, reverse=True)


def _count(threads):
    return f"{threads} thread{'s' if threads > 1 else ''}"


def _short(model):
    return {"smollm2": "SmolLM2", "qwen05": "Qwen 0.5B", "qwen15": "Qwen 1.5B"}[model]


def _opening(cache, good):
    machine, peer = cache["machine"], cache["peer"]
    counts = sorted({r["ratio"]["repeats"] for _, r, _ in good if r["ratio"]})
    dates = sorted({_date(r) for _, r, _ in good})
    features = ", ".join(machine["features"]) or "none of those watched"
    amx = "with AMX" if peer.get("amx") else "without AMX"
    disturbed = max((r["disturbance"]["max"] for _, r, _ in good), default=0)
    repeats = " or ".join(map(str, counts)) or "no"
    when = f"{dates[0]} to {dates[-1]}" if len(dates) > 1 else "".join(dates)
    return f"""# Performance

Made by `scripts/performance`; do not edit. Ours beside llama.cpp on one machine, on the same files, threads and CPUs, and beside
what the machine itself allows.

- **Machine.** {machine["cpu"]} (family/model/stepping {machine["family_model_stepping"]}), {machine["cores"]} cores, {features};
  {machine["memory_bytes"] / 2**30:.0f} GiB; Linux {machine["kernel"]}; huge pages {machine["huge_pages"]}; governor {machine["governor"]}. Measured
  {when}. In the runs that count others took at most {100 * disturbed:.0f} % of the CPUs.
- **Peer.** {peer["engine"]} {peer["version"]} as in {peer["package"]}, {peer["compiler"]}, built for this CPU, {amx}. It runs at its best
  setting of each row: flash attention on or off, weights repacked or not, and where sequences share a prompt, one key-value
  buffer or one for each.
- **Work.** Weights are the models' own, prompts are random tokens. Decode and branches: 64 tokens, each computed from all weights; ours
  also samples every token (temperature 0.8 over the whole vocabulary) and feeds it back, the peer's next token is drawn without
  looking at its logits. Branches count the tokens of all branches and not their prompt. Scoring: logits of every token of every text and
  their log-sum-exp. Attention is dense, keys and values have 16 bits, on both sides, but in rows that say otherwise: there the
  peer may round its keys and values to 8 bits, too (`cache=q8_0`).
- **Numbers.** Median of the interleaved repeats ({repeats}), each side in a process of its own, the side that goes first alternating; the
  ratio is taken pair by pair, in brackets the least and the greatest.{_cores(good)}
- **Roof.** Tokens per second if a step took only the longer of two times: reading its bytes once (the file's weights, keys and values),
  or computing its products (matrices in int8, attention in f32, over keys and values of int8 in int8). What a block's scales
  and minima need on the same units as its products is counted. Where a row attends to a part of the context, it is what that
  part and its choice need, chosen pages at the rate of scattered pieces. The rates were measured on the same CPUs between
  the repeats, with kernels of our own Kernel IR, and the median counts; see below."""


def _cores(good):
    """What is said about where the host ran the cores, if it is known of any row."""
    placed = [r for _, r, _ in good if r.get("cores")]
    if not placed:
        return ""
    trips = {state: [] for state in placement.WORDS}
    for sample in (x for r in placed for side in r["samples"].values() for runs in side.values() for x in runs if x.get("round_trips")):
        trips[placement.state(sample["round_trips"])] += sample["round_trips"]
    seen = " and ".join(f"{1e9 * statistics.median(found):.0f} ns {placement.WORDS[s]}" for s, found in trips.items() if found and s != placement.MOVED)
    moved = sum(r["moved_repeats"] for r in placed)
    unknown = sum(not r.get("cores") for _, r, threads in good if threads > 1)
    older = f" Of {unknown} rows it is not known." if unknown else ""
    return f"""
- **Cores.** The host of this machine may run its cores side by side, where they share a cache and their way to the memory, or apart,
  and moves them at any time (seen: a line of memory goes from one to the other and back in {seen}, median; below
  {1e9 * placement.APART_SECONDS:.0f} ns they count as side by side). Where the tables say so of a row, both runs of every pair had them in that state
  before and after, and so had its roof. {moved} pairs of {moved + sum(r["ratio"]["repeats"] for r in placed)} were left out for it.{older}"""


def _doubts(good):
    """What forbids quoting the figures, or nothing."""
    doubts = []
    loud = sum(r["disturbance"]["median"] > _QUIET for _, r, _ in good)
    few = sum(r["ratio"]["repeats"] < _REPEATS for _, r, _ in good)
    if loud:
        doubts.append(f"in {loud} of {len(good)} rows others used more than {100 * _QUIET:.0f} % of the CPUs in half of the runs or more")
    if moved := sum(r.get("cores") == placement.MOVED for _, r, _ in good):
        doubts.append(f"in {moved} of {len(good)} rows the host moved the cores during every repeat")
    if elsewhere := sum(bool(r["roof"]) and r.get("roof_cores") != r.get("cores") for _, r, _ in good):
        doubts.append(f"the roof of {elsewhere} of {len(good)} rows was measured with the cores elsewhere than in the runs")
    if few:
        doubts.append(f"{few} of {len(good)} rows have fewer than {_REPEATS} repeats")
    return f"**An orientation, not a result:** {'; '.join(doubts)}." if doubts else ""


def _date(record):
    return datetime.datetime.fromtimestamp(record["at"], datetime.timezone.utc).strftime("%Y-%m-%d")


def _tables(good):
    parts = []
    for threads in sorted({t for _, _, t in good}, reverse=True):
        placed = any(r.get("cores") for _, r, t in good if t == threads)
        lines = [
            f"## {_count(threads).capitalize()}",
            "",
            "| model | case | inferc tok/s | llama.cpp tok/s | ratio [least, greatest] | target | met | share of roof (llama.cpp's) | bound by |"
            + (" cores |" if placed else ""),
            "|---|---|---|---|---|---|---|---|---|" + ("---|" if placed else ""),
        ]
        for row, record, t in good:
            if t == threads:
                lines.append(_table_row(row, record, placed))
        parts.append("\n".join(lines))
    if any(r["disturbed_repeats"] for _, r, _ in good):
        parts.append("Rows with * kept repeats during which others used the CPUs: an orientation, not a result.")
    return parts


def _table_row(row, record, placed):
    share, ratio = record["share_of_roof"], record["ratio"]
    cells = [
        _short(row.model),
        label(row.case) + ("*" if record["disturbed_repeats"] else ""),
        f"{record['ours']['median']:.0f}",
        f"{record['peer']['median']:.0f}" if record["peer"]["median"] >= 100 else f"{record['peer']['median']:.1f}",
        f"{ratio['median']:.2f}× [{ratio['min']:.2f}, {ratio['max']:.2f}]",
        f"{row.target:g}×",
        met(row, record),
        f"{100 * share['ours']:.0f} % ({100 * share['peer']:.0f} %)" if share["ours"] else "–",
        record["roof"]["bound"] if record["roof"] else "–",
    ]
    if placed:
        cells.append(placement.WORDS.get(record.get("cores"), "–"))
    return "| " + " | ".join(cells) + " |"


def _losses(good):
    """What goes with the rows that lose something."""
    rows = sorted({row for row, _, _ in good if row.loss}, key=lambda row: row.case)
    if not rows:
        return ""
    lines = ["Rows that name a class of arithmetic, a format of keys and values or a number of pages lose something, and run only"]
    lines += ["where a strategy allows it:", ""]
    for row in rows:
        allowance, lost = row.loss
        lines.append(f"- {label(row.case)}: what the planner chooses for `allow {{ {allowance} }}`. {lost}")
    lines += ["", "How that was measured, other budgets and pass keys: [sparse-attention.md](sparse-attention.md), classes:"]
    lines += ["[COST_MODEL.md](COST_MODEL.md)."]
    return "\n".join(lines)


def met(row, record):
    """Whether the median ratio reaches the row's target, and what is hoped for."""
    if record["ratio"]["median"] < row.target:
        return "**no**"
    hoped = row.stretch is None or record["ratio"]["median"] >= row.stretch
    near = row.roof is None or (record["share_of_roof"]["ours"] or 0) >= row.roof
    stretched = (row.stretch is not None or row.roof is not None) and hoped and near
    return "yes, and the stretch" if stretched else "yes"


def _reasons(good):
    """For each missed target what the roof says about it; then the same for what was hoped for."""
    missed = [_reason(row, record, threads) for row, record, threads in good if record["ratio"]["median"] < row.target]
    wished = [_wish(row, record, threads) for row, record, threads in good if met(row, record) == "yes"]
    wished = [w for w in wished if w]
    parts = ["## What is missed, and why"] if missed or wished else []
    if missed:
        parts += ["Targets:", "\n".join(missed)]
    elif wished:
        parts.append("No target is missed.")
    if wished:
        parts += ["Met, but short of the stretch:", "\n".join(wished)]
    if missed or wished:
        parts.append("What was found when the larger gaps were looked into by hand: [limits.md](limits.md).")
    return parts


# Kinds of products in words.
_KINDS_OF_PRODUCTS = {"int8": "int8", "int8_scaled": "int8 with scales", "int8_scaled_min": "int8 with scales and minima", "f32": "f32"}


def _macs(roof):
    """Products of a step by kind; a record made before a kind was told apart has none of it."""
    return {kind: roof.get(f"{kind}_macs_per_step", 0) for kind in KINDS}


def _bound(record):
    roof = record["roof"]
    if roof["bound"] == "reading":
        scattered = roof.get("scattered_bytes_per_step")
        pages = f", {scattered / 1e6:.0f} MB of it scattered pages at {roof['scattered_bytes_per_second'] / 1e9:.1f} GB/s" if scattered else ""
        return f"reading {roof['bytes_per_step'] / 1e6:.0f} MB a step at {roof['bytes_per_second'] / 1e9:.1f} GB/s{pages}"
    macs = _macs(roof)
    each = sum(macs.values()) / roof["rows_per_step"] / 1e6
    rates = [f"{roof[f'{kind}_macs_per_second'] / 1e9:.0f} ({_KINDS_OF_PRODUCTS[kind]})" for kind in KINDS if macs[kind]]
    return f"computing {each:.0f} million products a token at {', '.join(rates)} billion a second"


def _place(row, threads):
    return f"- **{_short(row.model)}, {label(row.case)}, {_count(threads)}**"


def _reason(row, record, threads):
    head = f"{_place(row, threads)}: {record['ratio']['median']:.2f}× where {row.target:g}× is aimed at."
    if not record["roof"]:
        return head
    at_most, share = record["roof"]["tokens_per_second"], record["share_of_roof"]["ours"]
    possible = at_most / record["peer"]["median"]
    if possible < row.target:
        return f"{head} The roof itself ({at_most:.0f} tok/s, {_bound(record)}) is {possible:.2f}× of the peer: the target is out of reach here."
    reached = f"{head} The roof ({at_most:.0f} tok/s, {_bound(record)}) would allow {possible:.1f}×; ours reaches {100 * share:.0f} % of it."
    return f"{reached}{_with_products(row, record)} {_parts(record)}"


def _with_products(row, record):
    """What a decode could have with attention's products beside its reads."""
    roof = record["roof"]
    rate = roof.get("with_products_tokens_per_second")
    if not rate:
        return ""
    loops = [roof.get("attended_bytes_per_second"), roof.get("attended_scattered_bytes_per_second")]
    speeds = " and ".join(
        f"{speed / 1e9:.1f} GB/s {where}" for speed, where in zip(loops, ("in order", "in scattered pages")) if speed
    )
    share, possible = record["ours"]["median"] / rate, rate / record["peer"]["median"]
    beyond = ": the target is out of reach" if possible < row.target else ""
    return (
        f" Loops that have attention's products beside their reads ({speeds}) would allow {possible:.1f}×{beyond}; "
        f"ours reaches {100 * share:.0f} % of that."
    )


def _parts(record):
    """What a step of ours takes beside what its parts take at least: a roof knows only the longer one."""
    roof, step = record["roof"], record["roof"]["rows_per_step"] / record["ours"]["median"]
    parts = f"reading takes at least {1e3 * roof['reading_seconds_per_step']:.1f} ms and arithmetic {1e3 * roof['arithmetic_seconds_per_step']:.1f} ms"
    spent = ", ".join(f"{name} {1e3 * took:.1f}" for name, took, _ in _spent(record) if took >= 0.02 * step)
    seen = record.get("profile_cores")
    other = f" (cores {placement.WORDS[seen]})" if seen and seen != record["cores"] else ""
    by_kernel = f" Kernel by kernel, in ms{other}: {spent}." if spent else ""
    return f"Of a step's {1e3 * step:.1f} ms {parts}; the roof counts the longer only.{by_kernel}"


# Kernels by what their names begin with, as the table of profiles has them.
_KINDS = {
    "matrices of the layers": ("qkv", "out", "gate_up", "down"),
    "output matrix": ("head.",),
    "attention": ("attend",),
    "choice of pages": ("append",),
    "norms and folds": ("norm", "fold", "head_norm"),
}
_REST = "the rest"


def _spent(record):
    """What the kinds of kernels took of a step of the profile: name, seconds, bytes of weights; nothing without one."""
    found = {name: [0.0, 0.0] for name in (*_KINDS, _REST)}
    for kernel in record.get("profile") or []:
        kind = next((name for name, heads in _KINDS.items() if kernel["name"].startswith(heads)), _REST)
        found[kind][0] += kernel["seconds_per_step"]
        found[kind][1] += kernel["weight_bytes_per_step"]
    return [(name, took, size) for name, (took, size) in found.items() if took]


def _profiles(good):
    rows = [(row, record, threads) for row, record, threads in good if record.get("profile")]
    if not rows:
        return ""
    names = [*_KINDS, _REST]
    lines = [
        "## Where a step's time goes",
        "",
        "Milliseconds of one step of ours, every kernel timed by itself in a run of its own (`inferc bench --kernels --profile`), which",
        "costs some microseconds a kernel. In brackets GB/s of weights, if they are read once. A prefill or a scoring is one step.",
        "",
        f"| model | case | threads | {' | '.join(names)} |",
        f"|---|---|---|{'---|' * len(names)}",
    ]
    for row, record, threads in rows:
        spent = {name: (took, size) for name, took, size in _spent(record)}
        cells = [_short(row.model), label(row.case), f"{threads}{_where(record.get('profile_cores'))}"]
        for name in names:
            took, size = spent.get(name, (0, 0))
            # Rows of a batch compute longer than they read: a rate of reading says nothing there.
            rate = f" ({size / took / 1e9:.0f})" if size and record["roof"] and record["roof"]["rows_per_step"] == 1 else ""
            cells.append(f"{1e3 * took:.2f}{rate}" if took else "–")
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)


def _wish(row, record, threads):
    wishes = []
    if row.stretch and record["ratio"]["median"] < row.stretch:
        wishes.append(f"{record['ratio']['median']:.2f}× of {row.stretch:g}×")
    share = record["share_of_roof"]["ours"]
    if row.roof and share and share < row.roof:
        wishes.append(f"{100 * share:.0f} % of the roof where {100 * row.roof:.0f} % is hoped for")
    if not wishes:
        return None
    if not record["roof"]:
        return f"{_place(row, threads)}: {'; '.join(wishes)}."
    possible = record["roof"]["tokens_per_second"] / record["peer"]["median"]
    return f"{_place(row, threads)}: {'; '.join(wishes)}. The roof ({_bound(record)}) is {possible:.1f}× of the peer."


def _failures(measured):
    failed = [f"- {_short(row.model)}, {label(row.case)}, {_count(t)}: {r['error'].splitlines()[0]}" for row, r, t in measured if "error" in r]
    return "## Not measured\n\n" + "\n".join(failed) if failed else ""


def _roofs(good):
    bounded = [(row, record["roof"], threads) for row, record, threads in good if record["roof"]]
    if not bounded:
        return ""
    lines = [
        "## Roofs",
        "",
        "Rates measured between the repeats, the median, all threads together; bytes and products of one step (a prefill or a scoring is one step).",
        "In brackets: the part of the bytes that is chosen pages, and the rate of scattered pieces of their size. Int8: products alone / in",
        "blocks with scales / with scales and minima. What a block's scales need on the same units is counted: a matrix has the rate of the",
        "way it is stored. The peer may pass a roof only by arithmetic that these kernels do not have (matrix extensions; bf16, which stands",
        "beside f32 where the CPU has it and it was measured). The last column takes a decode's keys and values at the rate of loops that have",
        "attention's products beside their reads (–: not measured).",
        "",
        "| model | case | threads | read GB/s | int8 G products/s | f32 (bf16) G products/s | MB a step | M products a token | roof tok/s | with attention's products |",
        "|---|---|---|---|---|---|---|---|---|---|",
    ]
    for row, roof, threads in bounded:
        each = sum(_macs(roof).values()) / roof["rows_per_step"]
        read, size = f"{roof['bytes_per_second'] / 1e9:.1f}", f"{roof['bytes_per_step'] / 1e6:.0f}"
        if roof.get("scattered_bytes_per_step"):
            read += f" ({roof['scattered_bytes_per_second'] / 1e9:.1f})"
            size += f" ({roof['scattered_bytes_per_step'] / 1e6:.0f})"
        int8 = [roof[name] for name in (f"{kind}_macs_per_second" for kind in KINDS if kind != "f32") if name in roof]
        floats = f"{roof['f32_macs_per_second'] / 1e9:.0f}"
        if beside := roof.get(f"{BESIDE}_macs_per_second"):
            floats += f" ({beside / 1e9:.0f})"
        cells = [
            *(_short(row.model), label(row.case), str(threads), read, " / ".join(f"{rate / 1e9:.0f}" for rate in int8)),
            *(floats, size, f"{each / 1e6:.0f}", f"{roof['tokens_per_second']:.0f}"),
            f"{together:.0f}" if (together := roof.get("with_products_tokens_per_second")) else "–",
        ]
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)


def _settings(good):
    lines = [
        "## The peer's settings",
        "",
        "Every setting was tried with less work; those within 1.5× of the fastest were tried again, interleaved; the fastest, and a",
        "second within 10 %, ran in the interleaved repeats. In brackets tokens per second of the tries (median).",
        "",
        "| model | case | threads | used | tried |",
        "|---|---|---|---|---|",
    ]
    for row, record, threads in good:
        tried = sorted(((statistics.median(t["tokens_per_second"]), t["setting"]) for t in record["peer_settings_tried"]), reverse=True)
        shown = "; ".join(f"{setting} ({rate:.0f})" for rate, setting in tried) or "given"
        lines.append(f"| {_short(row.model)} | {label(row.case)} | {threads} | {record['peer_setting']} | {shown} |")
    ours = sorted({r["ours_setting"] for _, r, _ in good if r["ours_setting"]})
    if ours:
        lines += ["", "Ours runs with the planner's choices for the row. It had a second try only where sequences share a prompt: the faster of reading"]
        lines += ["the prompt once for all of them (`cascade`) and once for each (`shared`); the results are the same bits."]
    return "\n".join(lines)


def _driver(cache):
    checks = [c for c in cache.get("driver_checks", {}).values() if "error" not in c]
    if not checks:
        return ""
    lines = [
        "## The driver beside the peer's own tools",
        "",
        "The peer's cases run through a small program on its library (`scripts/peer/driver.cpp`), which keeps deep prompts between runs and",
        "can score texts. Where the peer has a tool for the case, both ran in turn at the same setting; above 1 the driver is the faster.",
        "",
        "| case | threads | tool | tool tok/s | driver tok/s | driver/tool [least, greatest] |",
        "|---|---|---|---|---|---|",
    ]
    for c in checks:
        ratio = c["ratio"]
        rates = f"{c['tool_rate']['median']:.0f} | {c['driver_rate']['median']:.0f}"
        spread = f"{ratio['median']:.2f} [{ratio['min']:.2f}, {ratio['max']:.2f}]"
        lines.append(f"| {label(c['case'])}, {c['peer_setting']} | {c['threads']} | {c['tool']} | {rates} | {spread} |")
    return "\n".join(lines)


def _closing(cache, measured):
    builds = sorted({r["commit"] for _, r, _ in measured})
    minutes = sum(r.get("took_seconds", 0) for _, r, _ in measured) / 60
    files = ", ".join(f"{name} (`{file}`)" for name, file in MODELS.values())
    return f"""## Again

```
cargo build --release
scripts/performance                # everything, then this document
scripts/performance --quick        # the small model, fewer repeats
scripts/performance --resume       # only rows that this build has not measured
scripts/bench-peer --case decode:depth=2048 --threads 2    # one row, with all its samples: --format json
```

The machine must be otherwise idle: a run is repeated while others use more than a tenth of the CPUs, and marked when that does not
help. These rows took {minutes:.0f} minutes and were measured at {"commit " if len(builds) == 1 else "commits "}{", ".join(builds)}. Models: {files}."""


def _plots(records, threads):
    bars = [
        (f"{_short(row.model)}, {brief(row.case)}{_where(record.get('cores'))}", *(record["ratio"][k] for k in ("median", "min", "max")), row.target)
        for row, record in records
    ]
    if bars:
        title = f"inferc / llama.cpp, {_count(threads)}"
        yield RATIOS.format(threads), ratio_bars(title, bars), f"Ratios of tokens per second, {_count(threads)}"
    cases = [(row, parse_case(row.case), record) for row, record in records]
    decodes = [(c["depth"], record) for row, c, record in cases if row.model == "smollm2" and c.kind == "decode" and not c.lossy]
    if len(decodes) > 1:
        series = [("inferc", "a", [(d, r["ours"]["median"]) for d, r in decodes])]
        series.append(("llama.cpp", "b", [(d, r["peer"]["median"]) for d, r in decodes]))
        if all(r["roof"] for _, r in decodes):
            series.append(("roof", "c", [(d, r["roof"]["tokens_per_second"]) for d, r in decodes]))
        title = f"SmolLM2, decode: tokens per second by depth, {_count(threads)}{_placed(decodes)}"
        yield DEPTHS.format(threads), rates_over_depth(title, series), f"Tokens per second by depth, {_count(threads)}"


def _where(state):
    """Where the cores lay, behind a name."""
    return f", {placement.WORDS[state]}" if state else ""


def _placed(rows):
    """Where the cores of rows by depth lay, behind the title of their plot: a state for all or each."""
    states = {depth: placement.WORDS[record["cores"]] for depth, record in rows if record.get("cores")}
    if len(set(states.values())) < 2 and len(states) == len(rows):
        return f", cores {next(iter(states.values()))}"
    return ", cores " + ", ".join(f"{words} at {depth}" for depth, words in states.items()) if states else ""
