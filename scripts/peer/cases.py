"""What is measured: the cases, the peer's settings, and the command line of each side for each case.

A case is written as our own benchmark takes it (`decode:depth=2048`, `branches:n=8,prompt=512,gen=64`, `prefill:n=512`,
`score:n=16,prompt=512,len=128`). Behind it may stand what our side may lose there: the arithmetic class of the layers,
`branches:n=32,prompt=512,gen=64 numerics=int8-channel`, and for a decode case keys and values, `decode:depth=7900 kv=int8
attention=sparse:256`; the peer then may round its keys and values, too. Takes text; returns commands as argument lists; runs
nothing.
"""

import itertools
import re
from dataclasses import dataclass

DEFAULT_CASES = (
    "decode:depth=0",
    "decode:depth=2048",
    "branches:n=8,prompt=512,gen=64",
    "prefill:n=512",
    "score:n=16,prompt=512,len=128",
)

# The least ratio to the peer that `--check` accepts; cases that are not listed have no floor.
FLOORS = {
    "decode:depth=0": 1.0,
    "decode:depth=2048": 2.0,
    "branches:n=8,prompt=512,gen=64": 3.0,
    "prefill:n=512": 1.0,
    "score:n=16,prompt=512,len=128": 1.0,
}

# Tokens that a decode case decodes, on either side, unless the context ends before.
DEFAULT_GEN = 64

_FIELDS = {
    "decode": ("depth",),
    "branches": ("n", "prompt", "gen"),
    "prefill": ("n",),
    "score": ("n", "prompt", "len"),
}
_LIMIT = 1 << 20

# What may stand behind a case, in this order, and for which kinds; each is an option of our benchmark.
_LOSSY = {"numerics": r"int8-channel", "kv": r"int8", "attention": r"(sparse|window):[0-9]{1,7}(:0\.[0-9]{1,3})?"}
_LOSSY_KINDS = {"numerics": tuple(_FIELDS), "kv": ("decode",), "attention": ("decode",)}


class CaseError(ValueError):
    """A case or a setting that cannot be read; the text says what is allowed."""


@dataclass(frozen=True)
class Case:
    """One thing to measure. `values` in the order of the kind's fields; counts of tokens, and `n` branches or texts. `lossy`:
    options of our side that change its answers, as pairs."""

    kind: str
    values: tuple
    lossy: tuple = ()

    def __getitem__(self, field):
        return self.values[_FIELDS[self.kind].index(field)]

    def __str__(self):
        return " ".join([self.work, *(f"{k}={v}" for k, v in self.lossy)])

    @property
    def work(self):
        """The case as our benchmark takes it: without what may be lost."""
        return self.kind + ":" + ",".join(f"{k}={v}" for k, v in zip(_FIELDS[self.kind], self.values))

    @property
    def floor(self):
        """The least ratio that `--check` accepts, or None."""
        return FLOORS.get(str(self))

    @property
    def many(self):
        """Whether several sequences share a prompt."""
        return self.kind in ("branches", "score")

    @property
    def loses_context(self):
        """Whether something of the keys and values is lost."""
        return any(name != "numerics" for name, _ in self.lossy)

    def expected_tokens(self):
        """Tokens of the measured part; None for decode, where our side chooses."""
        if self.kind == "branches":
            return self["n"] * self["gen"]
        if self.kind == "score":
            return self["n"] * self["len"]
        return self["n"] if self.kind == "prefill" else None

    def trial(self):
        """The same case with less work: enough to tell settings apart, too little to quote."""
        less = {"gen": 8, "len": 128, "n": 256 if self.kind == "prefill" else 4 if self.kind == "score" else _LIMIT}
        values = (min(v, less.get(f, v)) for f, v in zip(_FIELDS[self.kind], self.values))
        return Case(self.kind, tuple(values), self.lossy)


def parse_case(text):
    """Reads a case; raises CaseError with the fields that its kind takes."""
    work, *tail = text.split(" ")
    kind, _, rest = work.partition(":")
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
    return Case(kind, tuple(given[f] for f in fields), _lossy(text, kind, tail))


def _lossy(text, kind, parts):
    pairs = tuple(tuple(part.split("=", 1)) for part in parts)
    names = [pair[0] for pair in pairs]
    sound = all(len(p) == 2 and p[0] in _LOSSY and re.fullmatch(_LOSSY[p[0]], p[1], re.ASCII) for p in pairs)
    if not sound or names != [n for n in _LOSSY if n in names] or any(kind not in _LOSSY_KINDS[n] for n in names):
        decode = ", of a decode case then kv=int8, then attention=sparse:PAGES[:SHARE] or =window:PAGES"
        raise CaseError(f"case `{text}`: behind a case may stand numerics=int8-channel{decode}")
    return pairs


@dataclass(frozen=True)
class Setting:
    """How the peer runs: flash attention, weights repacked at load (AMX buffers included), and where several sequences share
    a prompt whether one key-value buffer serves all of them (`kv=unified`) or each has its own (`kv=split`). `cache`: the type
    of keys and values; other than f16 it needs flash attention."""

    flash: bool
    repack: bool
    unified: bool = False
    cache: str = "f16"

    def text(self, case):
        """`fa=off repack=on`, with `kv=` where sequences share a prompt, and `cache=` where it is not f16."""
        parts = [f"fa={_on(self.flash)}", f"repack={_on(self.repack)}"]
        if case.many:
            parts.append("kv=unified" if self.unified else "kv=split")
        if self.cache != "f16":
            parts.append(f"cache={self.cache}")
        return " ".join(parts)


def _on(flag):
    return "on" if flag else "off"


def settings_of(case):
    """Every setting worth trying for a case, in a fixed order."""
    unified = (False, True) if case.many else (False,)
    exact = [Setting(fa, rp, kv) for fa, rp, kv in itertools.product((False, True), (True, False), unified)]
    rounded = [Setting(True, rp, False, "q8_0") for rp in (True, False)] if case.loses_context else []
    return exact + rounded


def parse_setting(text):
    """Reads `fa=on|off,repack=on|off[,kv=split|unified][,cache=f16|q8_0]`; raises CaseError."""
    allowed = {"fa": {"on": True, "off": False}, "repack": {"on": True, "off": False}, "kv": {"unified": True, "split": False}}
    allowed["cache"] = {"f16": "f16", "q8_0": "q8_0"}
    given = {}
    for part in text.split(","):
        key, _, value = part.partition("=")
        if key in given or value not in allowed.get(key, {}):
            raise CaseError(f"cannot use `{part}`: a peer setting is fa=on|off,repack=on|off[,kv=split|unified][,cache=f16|q8_0]")
        given[key] = allowed[key][value]
    if "fa" not in given or "repack" not in given:
        raise CaseError(f"`{text}`: a peer setting needs both fa= and repack=")
    cache = given.get("cache", "f16")
    if cache != "f16" and not given["fa"]:
        raise CaseError(f"`{text}`: cache={cache} needs fa=on")
    return Setting(given["fa"], given["repack"], given.get("kv", False), cache)


def ours_command(inferc, model, threads, case):
    """Our side: JSON objects on the standard output, where sequences share a prompt one per way of reading it. It runs the
    case once to warm up; one repetition, because it reports the fastest of several and the peer has no such choice."""
    return [
        *(inferc, "bench", "--kernels", "--model", model, "--threads", str(threads), "--case", case.work),
        *("--repeat", "1", "--format", "json"),
        *(word for name, value in case.lossy for word in (f"--{name}", value)),
    ]


def roofs_command(inferc, threads, sets, pieces, queries):
    """Our measurement of what the machine can do at most, with the read bandwidth for working sets of so many bytes, in order
    and in scattered pieces of so many, alone and with the products of so many queries."""
    bytes_ = [x for size in sets for x in ("--bytes", str(size))]
    scattered = [x for size in pieces for x in ("--pieces", str(size))]
    products = [x for count in queries for x in ("--queries", str(count))]
    return [inferc, "bench", "--roofs", "--threads", str(threads), *bytes_, *scattered, *products, "--format", "json"]


def _driver(bin_dir, model, threads, setting, kind):
    return [
        *(f"{bin_dir}/peer-driver", "--model", model, "--threads", str(threads), "--flash", _on(setting.flash)),
        *("--repack", _on(setting.repack), "--kv", "unified" if setting.unified else "split", "--cache", setting.cache),
        *("--case", kind),
    ]


def peer_command(bin_dir, model, threads, case, setting, gen, state=None):
    """The peer's side: our driver of the peer's library. `gen`: tokens to decode in a decode case; `state`: where prompts'
    states are, see `state_command`. A JSON object on the standard output. A part of the work runs first and is not timed."""
    command = _driver(bin_dir, model, threads, setting, case.kind)
    if case.kind == "decode":
        depth = case["depth"]
        kept = ["--state", state] if state and depth else []
        return [*command, "--depth", str(depth), "--gen", str(gen), "--warm", str(max(4, gen // 4)), *kept]
    if case.kind == "prefill":
        return [*command, "--prompt", str(case["n"]), "--warm", str(min(case["n"], 512))]
    n, prompt, each = case.values
    size, warm = ("--gen", max(2, each // 16)) if case.kind == "branches" else ("--len", 4)
    return [*command, "--n", str(n), "--prompt", str(prompt), size, str(each), "--warm", str(warm)]


def state_command(bin_dir, model, threads, setting, lengths, state):
    """Computes one prompt with the peer and writes its state after each of so many tokens to the files `state`.LENGTH. Decode
    cases read them back, so that a deep cache is computed once for all runs; its values do not change the work of a run."""
    command = _driver(bin_dir, model, threads, Setting(setting.flash, True, False, setting.cache), "state")
    return [*command, "--depth", str(max(lengths)), "--lengths", ",".join(map(str, lengths)), "--state", state]


def tool_command(bin_dir, model, threads, case, setting, gen):
    """The same case by the peer's own benchmark tools, or None where it has none (score): what the driver is checked against.
    JSON lines on the standard output; the last one counts."""
    if case.kind == "score":
        return None
    if case.kind == "branches":
        return _batched_command(bin_dir, model, threads, case, setting)
    work = ["-p", str(case["n"]), "-n", "0"] if case.kind == "prefill" else ["-p", "0", "-n", str(gen), "-d", str(case["depth"])]
    return [
        *(f"{bin_dir}/llama-bench", "-m", model, "-t", str(threads), *work),
        *("-fa", _on(setting.flash), "--repack", str(int(setting.repack)), "-r", "2", "-o", "jsonl"),
        *("-ctk", setting.cache, "-ctv", setting.cache),
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
        *("-fa", _on(setting.flash), "--repack" if setting.repack else "--no-repack"),
        *("-kvu" if setting.unified else "-no-kvu", "--output-format", "jsonl"),
    ]


def _round(tokens):
    return -(-tokens // 256) * 256
