"""The command behind scripts/bench-peer: reads options, measures the cases in turn, prints the report.

Exit code 0: measured (and with --check, every floor reached); 1: a side failed or a floor was missed; 2: wrong usage;
130: interrupted. Installs and builds nothing.
"""

import argparse
import json
import os
import shutil
import sys

from cases import DEFAULT_CASES, CaseError, parse_case, parse_setting
from machine import allowed_cpus, describe, parse_cpus
from measure import Session, measure_cases
from model import ModelError, read_model
from report import as_json, as_text

DEFAULT_MODEL = "models/smollm2-135m-instruct-q4_1.gguf"


class UsageError(Exception):
    """An option that cannot be met on this machine; the text says why and what to do."""


def options(argv):
    """Reads the command line."""
    parser = argparse.ArgumentParser(
        prog="scripts/bench-peer",
        description="Measures our kernels beside llama.cpp: same GGUF, threads and CPUs, interleaved, each at its best setting.",
        epilog="Cases: decode:depth=D | branches:n=N,prompt=P,gen=G | prefill:n=N | score:n=N,prompt=P,len=L. "
        "Build our side first: cargo build --release.",
    )
    add = parser.add_argument
    add("--model", metavar="FILE", help=f"GGUF to measure (default: {DEFAULT_MODEL})")
    add("--threads", type=int, metavar="N", help="threads of both sides (default: the physical cores)")
    add("--cpus", metavar="LIST", help="CPUs to pin to, such as 0,2-3 (default: one per core, as many as threads)")
    add("--case", action="append", metavar="CASE", help="measure this case; may be repeated (default: the five standard ones)")
    add("--repeats", type=int, default=5, metavar="N", help="interleaved repeats per case (default: 5)")
    add("--tries", type=int, default=1, metavar="N", help="short runs per peer setting before the slow ones are left out (default: 1)")
    add("--peer-setting", metavar="S", help="skip that choice: fa=on|off,repack=on|off[,kv=split|unified][,cache=f16|q8_0]")
    add("--only", choices=("ours", "peer"), help="measure one side")
    add("--format", choices=("text", "json"), default="text", help="report for people or programs (default: text)")
    add("--check", action="store_true", help="exit 1 when a median ratio is below its floor")
    limit_help = "CPU share of others above which to wait before a repeat, and to discard one (default: 0.1)"
    add("--quiet-limit", type=float, default=0.1, metavar="SHARE", help=limit_help)
    add("--retries", type=int, default=10, metavar="N", help="disturbed runs to discard per case at most (default: 10)")
    add("--patience", type=float, default=20, metavar="S", help="seconds to wait for quiet before each repeat (default: 20)")
    add("--priority", type=int, default=-10, metavar="NICE", help="nice value of both sides, where permitted (default: -10)")
    add("--timeout", type=float, default=900, metavar="S", help="seconds allowed to one run (default: 900)")
    add("--inferc", metavar="FILE", help="our binary (default: target/release/inferc)")
    add("--install-only", action="store_true", help="install the peer and stop")
    add("--root", default=".", help=argparse.SUPPRESS)
    chosen = parser.parse_args(argv)
    for name, least in (("repeats", 1), ("tries", 1), ("timeout", 1), ("patience", 0), ("retries", 0), ("quiet_limit", 0)):
        if getattr(chosen, name) < least:
            parser.error(f"--{name.replace('_', '-')} must be at least {least}")
    if chosen.check and chosen.only:
        parser.error("--check needs both sides; leave out --only")
    return chosen


def session_of(chosen):
    """Checks what the options name and returns the session and its cases."""
    sides = (chosen.only,) if chosen.only else ("ours", "peer")
    if not shutil.which("taskset"):
        raise UsageError("taskset is absent; install util-linux")
    cases = [parse_case(text) for text in chosen.case or DEFAULT_CASES]
    setting = parse_setting(chosen.peer_setting) if chosen.peer_setting else None
    model = chosen.model or os.path.join(chosen.root, DEFAULT_MODEL)
    if not os.path.isfile(model):
        raise UsageError(f"the model {model} is absent; name one with --model (scripts/demo fetches the default)")
    inferc = chosen.inferc or os.path.join(chosen.root, "target/release/inferc")
    if "ours" in sides and not os.access(inferc, os.X_OK):
        raise UsageError(f"{inferc} is absent; run `cargo build --release`, or measure the peer alone with --only peer")
    threads, cpus = _threads_and_cpus(chosen)
    session = Session(
        inferc=inferc,
        peer_bin=os.path.join(_peer_dir(chosen.root), "bin"),
        model=model,
        model_bytes=read_model(model),
        threads=threads,
        cpus=cpus,
        repeats=chosen.repeats,
        tries=chosen.tries,
        retries=chosen.retries,
        timeout=chosen.timeout,
        priority=chosen.priority,
        patience=chosen.patience,
        quiet=chosen.quiet_limit,
        sides=sides,
        fixed_setting=setting,
        states=os.path.join(_peer_dir(chosen.root), "states"),
    )
    return session, cases


def _threads_and_cpus(chosen):
    first, rest = allowed_cpus()
    if chosen.cpus:
        try:
            cpus = parse_cpus(chosen.cpus)
        except ValueError as error:
            raise UsageError(f"--cpus {chosen.cpus}: {error}") from error
        missing = [c for c in cpus if c not in first + rest]
        if missing:
            raise UsageError(f"--cpus: CPU {missing[0]} may not be used here; these may: {sorted(first + rest)}")
        threads = chosen.threads or len(cpus)
    else:
        threads = chosen.threads or len(first)
        cpus = (first + rest)[: max(threads, 0)]
    if not 1 <= threads <= len(cpus):
        raise UsageError(f"{threads} threads do not fit on {len(cpus)} CPU(s)")
    return threads, cpus


def _peer_dir(root):
    return os.environ.get("INFERC_PEER_DIR") or os.path.join(root, ".cache/peer")


def peer_record(root):
    """What the installed peer is; raises UsageError when there is none."""
    try:
        with open(os.path.join(_peer_dir(root), "peer.json"), encoding="utf-8") as file:
            return json.load(file)
    except (OSError, ValueError) as error:
        raise UsageError("the peer is not installed; run scripts/bench-peer --install-only") from error


def main(argv):
    """Returns the exit code."""
    chosen = options(argv)
    shown = sys.stderr.isatty()

    def progress(text):
        if shown:
            print(f"\r\033[K{text}", end="", file=sys.stderr, flush=True)

    try:
        session, cases = session_of(chosen)
        header = {
            "model": session.model,
            "model_architecture": session.model_bytes.architecture,
            "model_bytes_per_step": session.model_bytes.weights,
            "machine": describe(),
            "threads": session.threads,
            "cpus": session.cpus,
            "priority": session.priority,
            "load_average": os.getloadavg(),
            "peer": peer_record(chosen.root) if "peer" in session.sides else None,
        }
        records = measure_cases(session, cases, progress)
    except (UsageError, CaseError) as error:
        print(f"bench-peer: {error}", file=sys.stderr)
        return 2
    except (ModelError, OSError) as error:
        progress("")
        print(f"bench-peer: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        progress("")
        return 130
    progress("")
    print(as_json(header, records) if chosen.format == "json" else as_text(header, records))
    failed = [r for r in records if "error" in r]
    missed = [r["case"] for r in records if r.get("floor") and r["ratio"] and r["ratio"]["median"] < r["floor"]]
    if failed:
        print(f"bench-peer: {len(failed)} of {len(records)} cases failed", file=sys.stderr)
    if chosen.check and missed:
        print(f"bench-peer: below the floor: {'; '.join(missed)}", file=sys.stderr)
    return 1 if failed or (chosen.check and missed) else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
