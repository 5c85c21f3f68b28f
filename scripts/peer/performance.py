"""The command behind scripts/performance: measures the rows of suite.py, keeps them in a file, and writes docs/performance.md.

Exit code 0: measured and written; 1: a row failed (it is named in the document); 2: wrong usage; 130: interrupted, what was
measured is kept. Installs and builds nothing. Reports that targets are missed, but does not fail for it: a slow machine is no
error.
"""

import argparse
import hashlib
import json
import os
import subprocess
import sys
import time

import placement
from bench import UsageError, peer_record, session_of
from bench import options as bench_options
from cases import DEFAULT_CASES, CaseError, parse_case, parse_setting
from document import documents, key
from machine import describe
from measure import check_driver, measure_case, measure_profile
from model import ModelError
from suite import DRIVER_CHECKS, MODELS, ROWS

CACHE_VERSION = 1
# Where rows are kept, below the root: with the document, so that a part of it can be measured anew.
KEPT = "docs/data/performance.json"
# What makes two machines the same one for a document.
SAME = ("cpu", "family_model_stepping", "cores", "features")


def options(argv):
    """Reads the command line."""
    parser = argparse.ArgumentParser(
        prog="scripts/performance",
        description="Measures every row of docs/performance.md beside llama.cpp and writes the document with its plots.",
        epilog=f"Rows are kept in {KEPT}, so that a run can be done in parts, from any checkout on such a machine; a row measured "
        "again replaces the old one.",
    )
    add = parser.add_argument
    add("--quick", action="store_true", help="SmolLM2 with all cores only, two repeats, no check of the driver")
    add("--models", default=",".join(MODELS), metavar="LIST", help=f"models to measure (default: {','.join(MODELS)})")
    add("--cases", default="", metavar="LIST", help="only cases that contain one of these texts, such as depth=2048,prefill; $ is the end of a case")
    add("--threads", metavar="LIST", help="thread counts, such as 2,1 (default: all cores, then one)")
    add("--repeats", type=int, metavar="N", help="interleaved repeats per row (default: 3, with --quick 2)")
    add("--resume", action="store_true", help="leave out rows that this build has measured already, as often as asked for and with the cores in one state")
    add("--anew", action="store_true", help="drop the kept rows first, as on another machine")
    add("--write-only", action="store_true", help="measure nothing, write the document from what is kept")
    add("--profiles", action="store_true", help="of rows that are kept, measure only where our steps' time goes")
    add("--quiet-limit", type=float, default=0.1, metavar="SHARE", help="as in bench-peer (default: 0.1)")
    add("--retries", type=int, default=4, metavar="N", help="as in bench-peer (default: 4)")
    add("--patience", type=float, default=10, metavar="S", help="as in bench-peer (default: 10)")
    add("--priority", type=int, default=-10, metavar="NICE", help="as in bench-peer (default: -10)")
    add("--inferc", metavar="FILE", help="our binary (default: target/release/inferc)")
    add("--folder", metavar="DIR", help="the models' folder (default: models)")
    add("--cache", metavar="FILE", help=f"where rows are kept (default: {KEPT})")
    add("--output", metavar="DIR", help="where the document goes (default: docs)")
    add("--root", default=".", help=argparse.SUPPRESS)
    chosen = parser.parse_args(argv)
    chosen.repeats = chosen.repeats or (2 if chosen.quick else 3)
    return chosen


def _load(path):
    try:
        with open(path, encoding="utf-8") as file:
            cache = json.load(file)
    except OSError:
        cache = {}
    except ValueError as error:
        raise UsageError(f"{path}: {error}; remove it to start over") from error
    if cache.get("version", CACHE_VERSION) != CACHE_VERSION:
        raise UsageError(f"{path}: has another version; remove it to start over")
    return {"version": CACHE_VERSION, "rows": {}, "driver_checks": {}, **cache}


def _replace(path, text):
    os.makedirs(os.path.dirname(path) or ".", exist_ok=True)
    with open(path + ".part", "w", encoding="utf-8") as file:
        file.write(text)
    os.replace(path + ".part", path)


def _named(machine):
    return f"{machine['cpu']}, {machine['family_model_stepping']}, {machine['cores']} cores"


def _build(inferc, root):
    """What identifies our binary: its content, and the commit of the tree for people."""
    with open(inferc, "rb") as file:
        content = hashlib.sha256(file.read()).hexdigest()[:16]
    try:
        commit, changed = (
            subprocess.run(["git", "-C", root, *asked], capture_output=True, text=True, check=True).stdout.strip()
            # Documents, which this program writes some of, are no part of the binary.
            for asked in (["describe", "--always"], ["status", "--porcelain", "--untracked-files=no", "--", ":(exclude)docs", ":(exclude)*.md"])
        )
    except (OSError, subprocess.CalledProcessError):
        return content, "unknown"
    commit += "-dirty" if changed else ""
    return content, commit


def _wanted(chosen, threads):
    """Rows to measure as (row, threads)."""
    models = chosen.models.split(",")
    unknown = [m for m in models if m not in MODELS]
    if unknown:
        raise UsageError(f"--models: `{unknown[0]}` is none of {', '.join(MODELS)}")
    texts = [t for t in chosen.cases.split(",") if t] or [""]
    rows = [r for r in ROWS if r.model in models and any(t in f"{r.case}$" for t in texts)]
    if chosen.quick:
        rows, threads = [r for r in rows if r.model == "smollm2"], threads[:1]
    if not rows:
        raise UsageError("no row has such a model and case")
    return [(row, t) for t in threads for row in rows]


def _thread_counts(text):
    if not text:
        cores = describe()["cores"]
        return [cores, 1] if cores > 1 else [1]
    try:
        counts = [int(t) for t in text.split(",")]
    except ValueError as error:
        raise UsageError(f"--threads {text}: {error}") from error
    if min(counts) < 1 or len(set(counts)) != len(counts):
        raise UsageError(f"--threads {text}: counts from 1 on, each once")
    return counts


def _session(chosen, model, threads):
    folder = chosen.folder or os.path.join(chosen.root, "models")
    passed = ["--model", os.path.join(folder, MODELS[model][1]), "--threads", str(threads), "--repeats", str(chosen.repeats)]
    for name in ("quiet_limit", "retries", "patience", "priority"):
        passed.append(f"--{name.replace('_', '-')}={getattr(chosen, name)}")
    if chosen.inferc:
        passed += ["--inferc", chosen.inferc]
    # The cases are given to `measure_case` one by one.
    return session_of(bench_options([*passed, "--case", DEFAULT_CASES[0], "--root", chosen.root]))[0]


def measure(chosen, cache, path, say):
    """Measures the wanted rows into the cache and saves it after each; returns how many failed."""
    failed = 0
    rows = _wanted(chosen, _thread_counts(chosen.threads))
    sessions = {}
    for row, threads in rows:
        sessions.setdefault((row.model, threads), _session(chosen, row.model, threads))
    content, commit = _build(next(iter(sessions.values())).inferc, chosen.root)
    machine = describe()
    if chosen.anew:
        cache.update(rows={}, driver_checks={})
    elif cache["rows"] and any(cache["machine"][part] != machine[part] for part in SAME):
        machines = f"{_named(cache['machine'])}, this is {_named(machine)}"
        raise UsageError(f"{path}: its rows are of another machine ({machines}); --anew drops them, --cache FILE keeps both")
    cache["machine"], cache["peer"] = machine, peer_record(chosen.root)
    for done, (row, threads) in enumerate(rows):
        name = key(row.model, threads, row.case)
        old = cache["rows"].get(name)
        if chosen.resume and old and _done(old, content, chosen.repeats):
            continue
        if chosen.profiles:
            if old and "error" not in old:
                say(f"[{done + 1}/{len(rows)}] {row.model}: {row.case}: kernel by kernel")
                session = sessions[row.model, threads]
                profile = measure_profile(session, parse_case(row.case), old["ours_setting"], lambda text: None, old.get("cores"))
                old["profile"], old["profile_cores"] = profile
                _replace(path, json.dumps(cache, indent=1))
            continue
        together = [parse_case(r.case) for r, _ in rows if r.model == row.model]

        def progress(text, done=done, row=row):
            say(f"[{done + 1}/{len(rows)}] {row.model}: {text}")

        record = measure_case(sessions[row.model, threads], parse_case(row.case), together, progress)
        failed += "error" in record
        cache["rows"][name] = {**record, "build": content, "commit": commit, "at": time.time()}
        _replace(path, json.dumps(cache, indent=1))
    if not (chosen.quick or chosen.profiles):
        _check_drivers(cache, sessions, chosen.resume, say)
        _replace(path, json.dumps(cache, indent=1))
    return failed


def _done(record, build, repeats):
    """Whether a row was measured with this build as often as asked for, the cores in one state."""
    whole = "error" not in record and record["ratio"] and record["ratio"]["repeats"] >= repeats
    return record["build"] == build and whole and record.get("cores") != placement.MOVED


def _check_drivers(cache, sessions, resume, say):
    """Compares the driver with the peer's tools where this run measured the row, at the setting that won there."""
    for (model, threads), session in sessions.items():
        for case in DRIVER_CHECKS if model == "smollm2" else ():
            name = key(model, threads, case)
            row = cache["rows"].get(name, {})
            if not row.get("peer_setting") or (resume and name in cache["driver_checks"]):
                continue
            setting = parse_setting(row["peer_setting"].replace(" ", ","))
            parsed = parse_case(case)
            record = check_driver(session, parsed, setting, [parsed], lambda text: say(f"driver: {text}"))
            cache["driver_checks"][name] = {**record, "threads": threads}


def main(argv):
    """Returns the exit code."""
    chosen = options(argv)
    path = chosen.cache or os.path.join(chosen.root, KEPT)
    shown = sys.stderr.isatty()

    def say(text):
        print(f"\r\033[K{text}" if shown else text, end="" if shown else "\n", file=sys.stderr, flush=True)

    failed, code = 0, 0
    try:
        cache = _load(path)
        if not chosen.write_only:
            failed = measure(chosen, cache, path, say)
        if not cache["rows"]:
            raise UsageError("nothing was measured yet; leave out --write-only")
    except (UsageError, CaseError) as error:
        print(f"performance: {error}", file=sys.stderr)
        return 2
    except (ModelError, OSError) as error:
        print(f"performance: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        code = 130
        if not cache["rows"]:
            return code
    output = chosen.output or os.path.join(chosen.root, "docs")
    for name, text in documents(cache).items():
        _replace(os.path.join(output, name), text)
    say(f"written: {os.path.join(output, 'performance.md')}")
    if shown:
        print(file=sys.stderr)
    return code or (1 if failed else 0)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
