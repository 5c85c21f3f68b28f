"""Runs both sides of a case and turns what they print into samples.

A measurement of a case is: measure the machine's roofs, choose the peer's fastest setting by short trials, then repeat ours
and the peer's in turn (the side that goes first alternates, so that drift of the machine falls on both), each in a process of
its own, pinned to the same CPUs, until enough turns ran with the host's cores in one state (see placement.py). Takes a Session and cases; returns plain data for the report; prints nothing but progress.
"""

import hashlib
import json
import os
import resource
import statistics
import subprocess
import sys
import time
from dataclasses import dataclass, replace

import placement
from cases import DEFAULT_GEN, Setting, ours_command, peer_command, roofs_command, settings_of, state_command, tool_command
from machine import Busy, allowed_cpus, wait_until_quiet
from roof import BESIDE, KINDS, pieces, queries, roof_of, working_sets

# A setting whose trial is this many times slower than the fastest is out; those nearer are tried again, interleaved.
_HOPELESS = 1.5
_AGAIN = 2
# Settings within this factor of the fastest after that stay in the interleaved runs; the one with the best median is reported.
_CLOSE = 0.9
_MAX_SETTINGS = 2
# Turns at most, in wanted repeats: the host may move the cores between the two sides of a turn, which says nothing then.
_TURNS = 3
# Further measurements of roofs, or profiles, where none was made with the cores as they were in the turns that count.
_AGAIN_IN_STATE = 3


class BenchError(Exception):
    """A side that failed, or two sides that did different work; the text says which command and what it said."""


@dataclass
class Session:
    """What all runs of one benchmark share."""

    inferc: str
    peer_bin: str
    model: str
    model_bytes: object
    threads: int
    cpus: list
    repeats: int
    tries: int
    retries: int
    timeout: float
    priority: int
    patience: float
    quiet: float
    sides: tuple
    fixed_setting: object = None
    states: object = None


@dataclass(frozen=True)
class Sample:
    """One run of one side."""

    tokens_per_second: float
    seconds: float
    tokens: int
    foreign_share: float
    rows: object = None
    round_trips: object = None

    def plain(self):
        """For JSON."""
        return {k: v for k, v in self.__dict__.items() if v is not None}


def run(session, command):
    """Runs one command pinned to the session's CPUs; returns its standard output and the share of the CPUs that others
    took meanwhile. Raises BenchError when it fails or runs too long."""
    pinned = ["taskset", "-c", ",".join(map(str, session.cpus)), *command]

    def raise_priority():
        try:
            os.setpriority(os.PRIO_PROCESS, 0, session.priority)
        except OSError:
            pass  # Only root may; the report says what was asked for, the disturbance is measured anyway.

    meter, before = Busy(session.cpus), _children_seconds()
    try:
        done = subprocess.run(
            pinned,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            timeout=session.timeout,
            preexec_fn=raise_priority if session.priority else None,
            check=False,
        )
    except subprocess.TimeoutExpired as error:
        raise BenchError(f"took longer than {session.timeout:.0f} s: {' '.join(command)}") from error
    except OSError as error:
        raise BenchError(f"cannot start {command[0]}: {error.strerror}") from error
    share = meter.foreign_share(_children_seconds() - before)
    if done.returncode != 0:
        said = done.stderr.decode("utf-8", "replace").strip().splitlines()[-12:]
        raise BenchError(f"exit code {done.returncode}: {' '.join(command)}\n" + "\n".join("    " + line for line in said))
    return done.stdout.decode("utf-8", "replace"), share


def _children_seconds():
    usage = resource.getrusage(resource.RUSAGE_CHILDREN)
    return usage.ru_utime + usage.ru_stime


def json_values(text):
    """All JSON objects in a text that may hold other lines."""
    decoder, at = json.JSONDecoder(), 0
    while (at := text.find("{", at)) >= 0:
        try:
            value, at = decoder.raw_decode(text, at)
        except ValueError:
            at += 1
            continue
        yield value


def parse_ours(text, case, share):
    """Reads our side's samples of a case, by the way of reading the prompt where there are several (else one, named "")."""
    found = {}
    for value in json_values(text):
        if value.get("case") != case.work:
            continue
        try:
            rate, seconds, tokens = float(value["tokens_per_second"]), float(value["seconds"]), int(value["tokens"])
        except (KeyError, TypeError, ValueError) as error:
            raise BenchError(f"our side's result for {case} lacks a number: {error}") from error
        mode = f"prefix={value['prefix']}" if case.many and "prefix" in value else ""
        if mode in found:
            raise BenchError(f"our side printed two results for {case}")
        found[mode] = _checked("ours", case, Sample(rate, seconds, tokens, share, value.get("rows"), value.get("round_trip_seconds")))
    if not found:
        raise BenchError(f"our side printed no result for {case}")
    return found


def parse_peer(text, case, share):
    """Reads the peer's sample of a case: the driver's, or the last of llama-bench's runs, or of llama-batched-bench's (its
    decode part alone)."""
    sample, trips = None, None
    for value in json_values(text):
        try:
            trips = value.get("round_trip_seconds", trips)
            if value.get("driver") == case.kind:
                tokens, seconds = int(value["tokens"]), float(value["seconds"])
            elif case.kind == "branches" and "speed_tg" in value:
                tokens, seconds = int(value["tg"]) * int(value["pl"]), float(value["t_tg"])
            elif not case.many and value.get("samples_ns"):
                tokens = int(value["n_prompt"]) + int(value["n_gen"])
                seconds = float(value["samples_ns"][-1]) / 1e9
            else:
                continue
        except (KeyError, TypeError, ValueError) as error:
            raise BenchError(f"the peer's result for {case} lacks a number: {error}") from error
        sample = Sample(tokens / seconds if seconds > 0 else 0.0, seconds, tokens, share, None, trips)
    if sample is None:
        raise BenchError(f"the peer printed no result for {case}")
    return _checked("the peer", case, sample)


def _checked(side, case, sample):
    """Refuses a figure that contradicts itself or was made from other work than the case says."""
    if not (sample.tokens_per_second > 0 and sample.seconds > 0 and sample.tokens > 0):
        raise BenchError(f"{side}: {case}: {sample.tokens} tokens in {sample.seconds} s is no measurement")
    if abs(sample.tokens / sample.seconds / sample.tokens_per_second - 1) > 0.05:
        raise BenchError(
            f"{side}: {case}: {sample.tokens} tokens in {sample.seconds} s are not {sample.tokens_per_second} tokens per second"
        )
    expected = case.expected_tokens()
    if expected is not None and sample.tokens != expected:
        raise BenchError(f"{side}: {case}: did {sample.tokens} tokens of work, not {expected}")
    return sample


def measure_cases(session, cases, progress):
    """Measures the cases in turn; a case that fails has `case` and `error` in its record, and the others still run."""
    return [measure_case(session, case, cases, progress) for case in cases]


def measure_case(session, case, cases, progress):
    """Measures one of `cases`, whose depths share the peer's computed prompt; the record of a failure has `error`."""
    try:
        return _measure_case(session, case, cases, progress)
    except BenchError as error:
        return {"case": str(case), "error": str(error)}


class Retries:
    """How often runs of a case may still be thrown away because others used the CPUs meanwhile. A peer whose threads spin at
    barriers collapses when it is disturbed, ours less so: keeping such runs would flatter the ratio."""

    def __init__(self, session):
        self.session, self.left, self.used = session, session.retries, 0

    def undisturbed(self, run_once):
        """Calls `run_once`, which returns samples with their sides, until no sample was disturbed or no retry is left.
        Returns what it returned last, and whether that was undisturbed."""
        while True:
            wait_until_quiet(self.session.cpus, self.session.quiet, self.session.patience)
            done = run_once()
            calm = all(sample.foreign_share <= self.session.quiet for _, sample in done)
            if calm or self.left == 0:
                return done, calm
            self.left -= 1
            self.used += 1


def _measure_case(session, case, cases, progress):
    begun = time.monotonic()
    retries = Retries(session)
    gen, settings, tried = DEFAULT_GEN, [], []
    if "ours" in session.sides:
        progress(f"{case}: ours, warm-up")
        gen = next(iter(_ours(session, case).values())).tokens if case.kind == "decode" else DEFAULT_GEN
    if "peer" in session.sides:
        settings, tried = _choose_setting(session, case, cases, gen, retries, progress)

    turns, roofs = [], []
    while True:
        states = [state for state, _, _ in turns]
        state, enough = placement.settled(states, session.repeats)
        if enough or len(turns) >= _TURNS * session.repeats:
            break
        if "ours" in session.sides and len(roofs) < session.repeats:
            roofs.append(_measure_roofs(session, case, gen, progress))
        still = [s for s in states if s != placement.MOVED]
        progress(f"{case}: {max(map(still.count, still), default=0) + 1} of {session.repeats}")
        order = list(settings)
        if "ours" in session.sides:
            order.insert(0 if len(still) % 2 == 0 else len(order), None)
        runs, calm = retries.undisturbed(lambda sides=order: [x for s in sides for x in _one(session, case, s, gen)])
        turns.append((placement.common(placement.state(sample.round_trips) for _, sample in runs), runs, calm))
    state = state if enough else placement.most(states)
    kept = [(runs, calm) for found, runs, calm in turns if found == state]
    ours, peers = {}, {s: [] for s in settings}
    for side, sample in (x for runs, _ in kept for x in runs):
        (peers if isinstance(side, Setting) else ours).setdefault(side, []).append(sample)
    for _ in range(_AGAIN_IN_STATE if any(roofs) and state != placement.MOVED else 0):
        if _measured_in(roofs, state):
            break
        roofs.append(_measure_roofs(session, case, gen, progress))
    record = _record(session, case, _median_rates(roofs, state), ours, peers, gen)
    if "ours" in session.sides:
        record["profile"], record["profile_cores"] = measure_profile(session, case, record["ours_setting"], progress, state)
    counts = {"disturbed_repeats": sum(not calm for _, calm in kept), "discarded_repeats": retries.used}
    counts |= {"cores": state, "moved_repeats": len(turns) - len(kept), "roof_cores": state if _measured_in(roofs, state) else None}
    return {**record, **counts, "took_seconds": time.monotonic() - begun, "peer_settings_tried": tried}


def _one(session, case, setting, gen):
    """One run: of the peer at a setting, or ours for None. Returns samples, each with the setting or our mode."""
    if setting is None:
        return list(_ours(session, case).items())
    return [(setting, _peer(session, case, setting, gen))]


def _fastest(samples):
    """The setting with the best median; None when there is none."""
    return max(samples, key=lambda s: statistics.median(x.tokens_per_second for x in samples[s]), default=None)


def _ours(session, case):
    text, share = run(session, ours_command(session.inferc, session.model, session.threads, case))
    return parse_ours(text, case, share)


def _peer(session, case, setting, gen):
    state = _state_files(session, setting) if session.states else None
    text, share = run(session, peer_command(session.peer_bin, session.model, session.threads, case, setting, gen, state))
    return parse_peer(text, case, share)


def _state_files(session, setting):
    """Where the peer's prompts for this model are kept; another file, peer, attention or cache has another name."""
    about = os.stat(session.model)
    with open(os.path.join(session.peer_bin, "peer-driver"), "rb") as driver:
        peer = hashlib.sha256(driver.read()).hexdigest()
    name = f"{os.path.abspath(session.model)} {about.st_size} {about.st_mtime_ns} {peer}"
    kind = ("fa" if setting.flash else "plain") + ("" if setting.cache == "f16" else f"-{setting.cache}")
    return os.path.join(session.states, f"{hashlib.sha256(name.encode()).hexdigest()[:16]}-{kind}")


def _deep(case):
    return case.kind == "decode" and case["depth"] > 0


def ensure_states(session, cases, setting, progress):
    """Computes the peer's prompts for the depths of all decode cases, once for all runs of this machine."""
    depths = sorted({c["depth"] for c in cases if c.kind == "decode" and c["depth"]})
    if not session.states or not depths:
        return
    everyone = replace(session, cpus=sum(allowed_cpus(), []))
    os.makedirs(session.states, exist_ok=True)
    state = _state_files(session, setting)
    if all(os.path.isfile(f"{state}.{depth}") for depth in depths):
        return
    progress(f"the peer's prompt of {depths[-1]} tokens, flash attention {'on' if setting.flash else 'off'}, cache {setting.cache}")
    # Not timed, so all cores may help. Depths that exist are written again: the longest needs the others on its way.
    run(everyone, state_command(session.peer_bin, session.model, len(everyone.cpus), setting, depths, state))


def _choose_setting(session, case, cases, gen, retries, progress):
    """Tries every setting with less work, the promising ones again in turn; returns those worth repeating with all of the
    work, fastest first, and the rate of each try."""
    if session.fixed_setting is not None:
        if _deep(case):
            ensure_states(session, cases, session.fixed_setting, progress)
        return [session.fixed_setting], []
    settings, short = settings_of(case), case.trial()
    if _deep(case):
        for setting in {(s.flash, s.cache): s for s in settings}.values():
            ensure_states(session, cases, setting, progress)
    rates = {setting: [] for setting in settings}
    for turn in range(session.tries + _AGAIN):
        if turn >= session.tries:
            best = max(max(found) for found in rates.values())
            settings = [s for s in settings if max(rates[s]) * _HOPELESS >= best]
            if len(settings) == 1:
                break
        for setting in settings:
            progress(f"{case}: peer, trying {setting.text(case)}")
            (done,), _ = retries.undisturbed(lambda s=setting: [(s, _peer(session, short, s, max(8, gen // 4)))])
            rates[setting].append(done[1].tokens_per_second)
    # The median of all tries of a setting: one lucky or unlucky try decides nothing.
    ranked = sorted(settings, key=lambda s: -statistics.median(rates[s]))
    best = statistics.median(rates[ranked[0]])
    chosen = [s for s in ranked[:_MAX_SETTINGS] if statistics.median(rates[s]) >= _CLOSE * best]
    tried = [{"setting": s.text(case), "case": str(short), "tokens_per_second": found} for s, found in rates.items()]
    return chosen, tried


# What was measured of reading, and what tells its points apart.
_READING = {"read": ("bytes",), "scattered": ("bytes", "piece"), "attended": ("bytes", "kv", "queries", "piece")}


def _median_rates(roofs, state=None):
    """Rates of several measurements of the machine as one: a shared host's memory is not as fast in one minute as in the next.
    Of reading, those that were measured with the cores in this state, where there are such. None when there is none."""
    good = [r for r in roofs if r]
    if not good:
        return None
    names = [name for name in (f"{kind}_macs_per_second" for kind in (*KINDS, BESIDE)) if all(r.get(name) for r in good)]
    middle = {name: statistics.median(r[name] for r in good) for name in names}
    return {**middle, **{kind: _median_points(good, kind, names, state) for kind, names in _READING.items()}}


def _points(roofs, kind, fields):
    """The points of a kind by these fields."""
    found = {}
    for point in (p for r in roofs if r for p in r.get(kind) or []):
        found.setdefault(tuple(point[f] for f in fields), []).append(point)
    return found


def _in_state(points, state):
    return [p for p in points if placement.state(p.get("round_trip_seconds")) == state]


def _measured_in(roofs, state):
    """Whether every point of reading was measured with the cores in this state at least once, and there is one."""
    return any(roofs) and all(_in_state(points, state) for kind, fields in _READING.items() for points in _points(roofs, kind, fields).values())


def _median_points(roofs, kind, fields, state):
    """The points of a kind that agree in these fields as one each."""
    middle = lambda points: statistics.median(p["bytes_per_second"] for p in _in_state(points, state) or points)
    return [{**dict(zip(fields, at)), "bytes_per_second": middle(points)} for at, points in _points(roofs, kind, fields).items()]


def _measure_roofs(session, case, gen, progress):
    """The machine's rates just before a turn of runs, or None when our binary cannot measure them."""
    progress(f"{case}: roofs")
    try:
        sets = working_sets(session.model_bytes, [case], gen)
        scattered = pieces(session.model_bytes, [case], gen)
        products = queries(session.model_bytes, [case])
        text, share = run(session, roofs_command(session.inferc, session.threads, sets, scattered, products))
    except BenchError as error:
        print(f"bench-peer: no roofs: {error}", file=sys.stderr)
        return None
    for value in json_values(text):
        if value.get("int8_macs_per_second"):
            return {**value, "foreign_share": share, "at": time.time()}
    print("bench-peer: no roofs: our binary printed none", file=sys.stderr)
    return None


def measure_profile(session, case, mode, progress, state=None):
    """Where a step of ours goes, kernel by kernel, in one run of its own, where it can be had with the cores in this state, and
    the state it was measured in; None twice when our binary cannot say."""
    progress(f"{case}: ours, kernel by kernel")
    command = [*ours_command(session.inferc, session.model, session.threads, case), "--profile"]
    found = None, None
    for _ in range(_AGAIN_IN_STATE):
        try:
            text, _ = run(session, command)
        except BenchError as error:
            print(f"bench-peer: no profile: {error}", file=sys.stderr)
            return found
        for value in json_values(text):
            if value.get("case") == case.work and value.get("kernels") and mode in (None, f"prefix={value.get('prefix')}"):
                seen = placement.state(value.get("kernels_round_trip_seconds"))
                found = value["kernels"], seen
                if state in (None, placement.MOVED, seen):
                    return found
    if found[0] is None:
        print("bench-peer: no profile: our binary printed none", file=sys.stderr)
    return found


def check_driver(session, case, setting, cases, progress):
    """The same case at the same setting by our driver of the peer and by the peer's own tool, in turn: the driver must not
    be slower. Returns a record, with `error` when a side failed; None for a case that no tool of the peer has."""
    command = tool_command(session.peer_bin, session.model, session.threads, case, setting, DEFAULT_GEN)
    if command is None:
        return None
    driver, tool, retries = [], [], Retries(session)
    try:
        ensure_states(session, cases, setting, progress)
        for turn in range(session.repeats):
            progress(f"{case}: driver beside the peer's own tool, {turn + 1} of {session.repeats}")

            def both():
                text, share = run(session, command)
                return [("tool", parse_peer(text, case, share)), ("driver", _peer(session, case, setting, DEFAULT_GEN))]

            done, _ = retries.undisturbed(both)
            tool.append(done[0][1].tokens_per_second)
            driver.append(done[1][1].tokens_per_second)
    except BenchError as error:
        return {"case": str(case), "error": str(error)}
    ratios = [d / t for d, t in zip(driver, tool)]
    record = {"case": str(case), "peer_setting": setting.text(case), "tool": os.path.basename(command[0])}
    return {**record, "driver_rate": spread(driver), "tool_rate": spread(tool), "ratio": spread(ratios)}


def spread(values):
    """Median, least and greatest; None for no values."""
    if not values:
        return None
    return {"median": statistics.median(values), "min": min(values), "max": max(values), "repeats": len(values)}


def _record(session, case, rates, ours_by_mode, peers, gen):
    mode, best = _fastest(ours_by_mode), _fastest(peers)
    ours, theirs = ours_by_mode.get(mode, []), peers.get(best, [])
    ratios = [a.tokens_per_second / b.tokens_per_second for a, b in zip(ours, theirs)]
    limit = roof_of(session.model_bytes, case, rates, gen)
    ours_spread = spread([s.tokens_per_second for s in ours])
    peer_spread = spread([s.tokens_per_second for s in theirs])

    def share(side):
        return side["median"] / limit["tokens_per_second"] if side and limit else None

    shares = [s.foreign_share for s in (*ours, *theirs)]
    return {
        "case": str(case),
        "ours": ours_spread,
        "peer": peer_spread,
        "ratio": spread(ratios),
        "floor": case.floor,
        "ours_setting": mode or None,
        "peer_setting": best.text(case) if best else None,
        "roof": limit,
        "share_of_roof": {"ours": share(ours_spread), "peer": share(peer_spread)},
        "decode_tokens": gen if case.kind == "decode" else None,
        "disturbance": {"median": statistics.median(shares), "max": max(shares)},
        "load_average": os.getloadavg(),
        "samples": {
            "ours": {m or "default": [x.plain() for x in runs] for m, runs in ours_by_mode.items()},
            "peer": {s.text(case): [x.plain() for x in runs] for s, runs in peers.items()},
        },
    }
