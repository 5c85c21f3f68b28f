"""The machine under the benchmark: which CPUs to pin to, what it is, and how busy others keep it. Linux only (it reads /proc
and /sys). Changes nothing.
"""

import os
import platform
import time


def allowed_cpus():
    """CPUs that this process may use, one per physical core first, then the remaining hardware threads."""
    allowed = sorted(os.sched_getaffinity(0))
    seen, first, rest = set(), [], []
    for cpu in allowed:
        siblings = _read(f"/sys/devices/system/cpu/cpu{cpu}/topology/thread_siblings_list").strip() or str(cpu)
        (rest if siblings in seen else first).append(cpu)
        seen.add(siblings)
    return first, rest


def parse_cpus(text):
    """Reads `0,2-3` into a list; raises ValueError."""
    cpus = []
    for part in text.split(","):
        low, dash, high = part.partition("-")
        span = range(int(low), int(high if dash else low) + 1)
        if not span or len(span) > 4096:
            raise ValueError(f"`{part}` is not a range of CPUs")
        cpus.extend(span)
    if len(set(cpus)) != len(cpus):
        raise ValueError(f"`{text}` names a CPU twice")
    return cpus


def describe():
    """Model, cores and features that matter to the kernels, as plain data."""
    info = _read("/proc/cpuinfo")
    fields = dict(line.split("\t: ", 1) for line in info.replace("\t\t", "\t").splitlines() if "\t: " in line)
    flags = fields.get("flags", fields.get("Features", "")).split()
    watched = ("avx2", "avx512f", "avx512_vnni", "avx512_bf16", "avx512_fp16", "avx_vnni", "amx_tile", "amx_int8", "amx_bf16")
    memory = next((int(line.split()[1]) * 1024 for line in _read("/proc/meminfo").splitlines() if line.startswith("MemTotal")), 0)
    first, rest = allowed_cpus()
    return {
        "cpu": fields.get("model name", platform.processor() or "unknown"),
        "family_model_stepping": "/".join(fields.get(k, "?") for k in ("cpu family", "model", "stepping")),
        "cores": len(first),
        "hardware_threads": len(first) + len(rest),
        "features": [flag for flag in watched if flag in flags],
        "memory_bytes": memory,
        "kernel": platform.release(),
        "huge_pages": _read("/sys/kernel/mm/transparent_hugepage/enabled").strip(),
        "governor": _read("/sys/devices/system/cpu/cpu0/cpufreq/scaling_governor").strip() or "not exposed",
    }


class Busy:
    """Counts how busy the given CPUs are, from its creation on."""

    def __init__(self, cpus):
        self.cpus = {f"cpu{c}" for c in cpus}
        self.started = time.monotonic()
        self.busy, self.stolen = self._ticks()

    def _ticks(self):
        busy = stolen = 0
        for line in _read("/proc/stat").splitlines():
            name, *ticks = line.split()
            if name in self.cpus:
                user, nice, system, _idle, _iowait, irq, softirq, steal = (int(t) for t in ticks[:8])
                busy += user + nice + system + irq + softirq
                stolen += steal
        return busy, stolen

    def foreign_share(self, own_seconds=0.0):
        """Share of the CPUs' time that others took (processes here beyond `own_seconds` of CPU time, and stolen time)."""
        wall = (time.monotonic() - self.started) * len(self.cpus)
        busy, stolen = self._ticks()
        hertz = os.sysconf("SC_CLK_TCK")
        others = (busy - self.busy) / hertz - own_seconds + (stolen - self.stolen) / hertz
        return min(1.0, max(0.0, others / wall)) if wall > 0 else 0.0


def wait_until_quiet(cpus, limit, patience):
    """Waits until others use less than `limit` of the CPUs, at most `patience` seconds; a limit of 1
    waits for nothing."""
    if limit >= 1:
        return
    deadline = time.monotonic() + patience
    while True:
        meter = Busy(cpus)
        time.sleep(0.4)
        if meter.foreign_share() <= limit or time.monotonic() >= deadline:
            return


def _read(path):
    try:
        with open(path, encoding="utf-8", errors="replace") as file:
            return file.read()
    except OSError:
        return ""
