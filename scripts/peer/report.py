"""Prints a finished benchmark: a table for people, or one JSON object for programs. Computes nothing but rounding."""

import json

import placement
from roof import BESIDE, KINDS

FORMAT_VERSION = 2


def as_json(header, records):
    """The whole record, with every sample."""
    return json.dumps({"format_version": FORMAT_VERSION, **header, "cases": records}, indent=2)


def as_text(header, records):
    """Header lines, one row per case, and what to know when reading them."""
    machine, peer = header["machine"], header["peer"]
    lines = [
        f"model    {header['model']}",
        f"machine  {machine['cpu']} (family/model/stepping {machine['family_model_stepping']}), {machine['cores']} cores; "
        f"{header['threads']} thread(s) on CPU {','.join(map(str, header['cpus']))}",
        f"         {' '.join(machine['features'])}; load average {_load(header['load_average'])} at the start; "
        f"governor {machine['governor']}",
    ]
    if peer:
        amx = {True: "with AMX", False: "no AMX"}[bool(peer.get("amx"))]
        lines.append(f"peer     {peer['engine']} {peer['version']} ({peer['package']}), {peer['compiler']}, native, {amx}")
    measured = [r for r in records if "error" not in r]
    if measured:
        lines += ["", *_table(measured), ""]
        lines += [_settings(r) for r in measured if r["peer_setting"] or r["ours_setting"]]
        lines += [f"{r['case']}: cores {placement.WORDS[r['cores']]}" for r in measured if r["cores"]]
        lines += _roofs(measured)
        lines += _notes(measured)
    lines += [f"\n{r['case']} failed: {r['error']}" for r in records if "error" in r]
    return "\n".join(lines)


def _roofs(records):
    return [f"{r['case']}: {_roof(r['roof'])}" for r in records if r["roof"]]


def _roof(roof):
    rate = {kind: f"{roof[f'{kind}_macs_per_second'] / 1e9:.0f}" for kind in KINDS}
    rated = roof.get(f"{BESIDE}_macs_per_second")
    beside = f", {BESIDE} {rated / 1e9:.0f}" if rated else ""
    pages = ""
    if roof["scattered_bytes_per_step"]:
        pages = f" ({roof['scattered_bytes_per_step'] / 1e6:.1f} MB scattered at {roof['scattered_bytes_per_second'] / 1e9:.1f} GB/s)"
    return (
        f"{roof['bytes_per_step'] / 1e6:.1f} MB a step at {roof['bytes_per_second'] / 1e9:.1f} GB/s{pages}; int8 {rate['int8']}, with scales "
        f"{rate['int8_scaled']}, and minima {rate['int8_scaled_min']}, f32 {rate['f32']}{beside} billion products per second"
    )


def _settings(record):
    sides = (("ours", record["ours_setting"]), ("peer", record["peer_setting"]))
    return f"{record['case']}: " + "; ".join(f"{side} at {setting}" for side, setting in sides if setting)


def _load(load):
    return " ".join(f"{x:.2f}" for x in load)


def _table(records):
    head = ["case", "ours tok/s", "peer tok/s", "ratio", "floor", "roof tok/s", "bound by", "ours/roof", "peer/roof", "others' CPU"]
    rows = [head]
    for r in records:
        share = r["share_of_roof"]
        rows.append(
            [
                r["case"],
                _spread(r["ours"], 1),
                _spread(r["peer"], 1),
                _spread(r["ratio"], 2, "×"),
                f"{r['floor']:.1f}×" if r["floor"] else "–",
                f"{r['roof']['tokens_per_second']:.0f}" if r["roof"] else "–",
                r["roof"]["bound"] if r["roof"] else "–",
                _percent(share["ours"]),
                _percent(share["peer"]),
                f"{_percent(r['disturbance']['median'])} ({_percent(r['disturbance']['max'])})",
            ]
        )
    widths = [max(len(row[i]) for row in rows) for i in range(len(head))]
    return ["  ".join(cell.ljust(width) for cell, width in zip(row, widths)).rstrip() for row in rows]


def _spread(value, digits, unit=""):
    if value is None:
        return "–"
    return f"{value['median']:.{digits}f}{unit} ({value['min']:.{digits}f}–{value['max']:.{digits}f})"


def _percent(value):
    return "–" if value is None else f"{100 * value:.0f} %"


def _notes(records):
    counts = {s["repeats"] for r in records for s in (r["ours"], r["peer"]) if s}
    repeats = ", ".join(map(str, sorted(counts)))
    notes = [
        "",
        f"Median (least–greatest) of {repeats} interleaved repeats; the ratio is taken pair by pair. On either side a part of the",
        "work runs first in the same process and is not timed, nor is a prompt that was cached before. Our decode and branches",
        "sample every token, the peer's compute the logits only. Roof: the longer of reading the step's bytes (weights as in the",
        "file and 16-bit keys and values, each once) and computing its products (matrices in int8, attention in f32), at rates that",
        "were measured on the same CPUs between the runs.",
    ]
    discarded, disturbed, moved = (sum(r[k] for r in records) for k in ("discarded_repeats", "disturbed_repeats", "moved_repeats"))
    if moved:
        notes.append(f"{moved} repeats were left out because the host moved the cores (side by side or apart).")
    if where := [r["case"] for r in records if r["cores"] == placement.MOVED]:
        notes.append(f"The host moved the cores during every repeat of {', '.join(where)}: do not quote.")
    if where := [r["case"] for r in records if r["roof"] and r["roof_cores"] != r["cores"]]:
        notes.append(f"The cores never lay in the roof's measurement as in the runs of {', '.join(where)}: no share of a roof holds there.")
    if discarded:
        notes.append(f"{discarded} runs were discarded because others used the CPUs meanwhile.")
    if disturbed:
        notes.append(f"{disturbed} repeats were disturbed and kept for want of retries: do not quote; repeat on a quiet machine.")
    if counts and min(counts) < 5:
        notes.append("Fewer than five repeats: an orientation, not a result.")
    return notes
