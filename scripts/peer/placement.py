"""Where the host of a virtual machine ran the cores of a measurement: side by side, sharing a cache and their way to the memory,
or apart. Hosts move them at any time, and rates of reading differ by almost two. Takes round trips of a memory line between
cores, in seconds; measures nothing.
"""

# On the Zen 5 where it was measured a line goes to a core that shares a cache and back in 64 to 135 ns, to another one in 410 to
# 460 (docs/limits.md). On machines whose ways all lie on one side of it, no run is told from another.
APART_SECONDS = 250e-9

NEAR, APART, MOVED = "near", "apart", "moved"

# For people.
WORDS = {NEAR: "side by side", APART: "apart", MOVED: "moved"}


def state(round_trips):
    """NEAR, APART, or MOVED when the round trips do not agree; None without any, as on one thread."""
    found = {APART if seconds >= APART_SECONDS else NEAR for seconds in round_trips or ()}
    return found.pop() if len(found) == 1 else (MOVED if found else None)


def common(states):
    """The state that all have; MOVED when they differ."""
    found = set(states)
    return found.pop() if len(found) == 1 else MOVED


def settled(states, wanted):
    """The state that `wanted` of the states have first, None included; None when no state has as many, with `False` beside."""
    for one in dict.fromkeys(states):
        if one != MOVED and states.count(one) >= wanted:
            return one, True
    return None, False


def most(states):
    """The state that most have, MOVED only where there is no other."""
    still = [s for s in states if s != MOVED] or states
    return max(dict.fromkeys(still), key=still.count)
