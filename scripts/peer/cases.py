"""What is measured: the cases, the peer's settings, and the command line of each side for each case.

A case is written as our own benchmark takes it (`decode:depth=2048`, `branches:n=8,prompt=512,gen=64`, `prefill:n=512`).
Takes text; returns commands as argument lists; runs nothing.
"""

import itertools
import re
from dataclasses import dataclass

DEFAULT_CASES = ("decode:depth=0", "decode:depth=2048", "branches:n=8,prompt=512,gen=64", "prefill:n=512")

# The least ratio to the peer that `--check` accepts; cases that are not listed have no floor.
FLOORS = {
    "decode:depth=0": 1.0,
    "decode:depth=2048": 2.0,
    "branches:n=8,prompt=512,gen=64": 3.0,
    "prefill:n=512": 1.0,
}

# Tokens that the peer decodes when our side has not said how many it decodes.
DEFAULT_GEN = 128

_FIELDS = {"decode": ("depth",), "branches": ("n", "prompt", "gen"), "prefill": ("n",)}
_LIMIT = 1 << 20


class CaseError(ValueError):
    """A case or a setting that cannot be read; the text says what is allowed."""


@dataclass(frozen=True)
class Case:
    """One thing to measure. `values` in the order of the kind's fields; counts of tokens, and `n` branches."""

    kind: str
    values: tuple

    def __getitem__(self, field):
        return self.values[_FIELDS[self.kind].index(field)]

    def __str__(self):
        return self.kind + ":" + ",".join(f"{k}={v}" for k, v in zip(_FIELDS[self.kind], self.values))

    @property
    def floor(self):
        """The least ratio that `--check` accepts, or None."""
        return FLOORS.get(str(self))

    def expected_tokens(self):
        """Tokens of the measured part; None for decode, where our side chooses."""
        if self.kind == "branches":
            return self["n"] * self["gen"]
        return self["n"] if self.kind == "prefill" else None


def parse_case(text):
    """Reads a case; raises CaseError with the fields that its kind takes."""
    kind, _, rest = text.partition(":")
    if kind not in _FIELDS:
        raise CaseError(f"unknown case `{text}`: the kinds are {', '.join(_FIELDS)}")
    fields = _FIELDS[kind]
    given = {}
    for part in rest.split(",") if rest else []:
        key, _, value = part.partition("=")
        least = 0 if key == "depth" else 1
        if key not in fields or key in given or not re.fullmatch(r"[0-9]{1,7}", value) or not least <= int(value) <= _LIMIT:
            raise CaseError(f"case `{text}`: cannot use `{part}`; `{kind}` takes {', '.join(f + '=COUNT' for f in fields)}")
        given[key] = int(value)
    missing = [f for f in fields if f not in given]
    if missing:
        raise CaseError(f"case `{text}`: `{missing[0]}=COUNT` is missing")
    return Case(kind, tuple(given[f] for f in fields))


@dataclass(frozen=True)
class Setting:
    """How the peer runs: flash attention, weights repacked at load (AMX buffers included), and for branches whether one
    key-value buffer serves all sequences (`kv=unified`) or each has its own (`kv=split`)."""

    flash: bool
    repack: bool
    unified: bool = False

    def text(self, case):
        """`fa=off repack=on`, with `kv=` for branches."""
        on = {True: "on", False: "off"}
        parts = [f"fa={on[self.flash]}", f"repack={on[self.repack]}"]
        if case.kind == "branches":
            parts.append("kv=unified" if self.unified else "kv=split")
        return " ".join(parts)


def settings_of(case):
    """Every setting worth trying for a case, in a fixed order."""
    unified = (False, True) if case.kind == "branches" else (False,)
    return [Setting(fa, rp, kv) for fa, rp, kv in itertools.product((False, True), (True, False), unified)]


def parse_setting(text):
    """Reads `fa=on|off,repack=on|off[,kv=split|unified]`; raises CaseError."""
    allowed = {"fa": {"on": True, "off": False}, "repack": {"on": True, "off": False}, "kv": {"unified": True, "split": False}}
    given = {}
    for part in text.split(","):
        key, _, value = part.partition("=")
        if key in given or value not in allowed.get(key, {}):
            raise CaseError(f"cannot use `{part}`: a peer setting is fa=on|off,repack=on|off[,kv=split|unified]")
        given[key] = allowed[key][value]
    if "fa" not in given or "repack" not in given:
        raise CaseError(f"`{text}`: a peer setting needs both fa= and repack=")
    return Setting(given["fa"], given["repack"], given.get("kv", False))


def ours_command(inferc, model, threads, case):
    """Our side: JSON objects on the standard output, for branches one per way of reading the shared prompt. It runs the case
    once to warm up; one repetition, because it reports the fastest of several and the peer has no such choice."""
    return [
        *(inferc, "bench", "--kernels", "--model", model, "--threads", str(threads), "--case", str(case)),
        *("--repeat", "1", "--format", "json"),
    ]


def profile_command(inferc, threads, output):
    """Our measurement of the machine; the profile goes to `output`, not to where later plans would be priced with it."""
    return [inferc, "profile-device", "--threads", str(threads), "-o", output, "--format", "json"]


def peer_command(bin_dir, model, threads, case, setting, gen):
    """The peer's side. `gen`: tokens to decode in a decode case. JSON lines on the standard output. As on our side, the case
    runs twice and the second run counts."""
    on = {True: "on", False: "off"}
    if case.kind == "branches":
        return _batched_command(bin_dir, model, threads, case, setting)
    work = ["-p", str(case["n"]), "-n", "0"] if case.kind == "prefill" else ["-p", "0", "-n", str(gen), "-d", str(case["depth"])]
    return [
        *(f"{bin_dir}/llama-bench", "-m", model, "-t", str(threads), *work),
        *("-fa", on[setting.flash], "--repack", str(int(setting.repack)), "-r", "2", "-o", "jsonl"),
    ]


def _batched_command(bin_dir, model, threads, case, setting):
    n, prompt, gen = case.values
    # The context is rounded up to 256 per sequence; a split buffer holds the prompt once per sequence, and one token more
    # that applies the copy.
    if setting.unified:
        context = _round(prompt + n * gen + 1)
    else:
        context = n * _round(prompt + gen + 1)
    return [
        *(f"{bin_dir}/llama-batched-bench", "-m", model, "-t", str(threads), "-tb", str(threads), "-c", str(context)),
        *("-b", "2048", "-ub", "512", "-npp", str(prompt), "-ntg", str(gen), "-npl", f"{n},{n}", "-pps"),
        *("-fa", "on" if setting.flash else "off", "--repack" if setting.repack else "--no-repack"),
        *("-kvu" if setting.unified else "-no-kvu", "--output-format", "jsonl"),
    ]


def _round(tokens):
    return -(-tokens // 256) * 256
