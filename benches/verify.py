#!/usr/bin/env python3
"""Judges one answer of a benchmark task without knowing the solution: exit code 0 passes, 1 does not.

A host verifier of the strategies in benches/strategies.infer: reads {"text", "value", "args"} as JSON on standard input,
where args[0] is the task's `check`.
"""
import json
import re
import sys


def evaluate(text):
    """Value of an expression of + - * / ( ) over integers, and the integers it uses; None when it is not one."""
    if not re.fullmatch(r"[\d+\-*/() ]{3,60}", text) or "**" in text or "//" in text:
        return None
    try:
        return eval(text), [int(n) for n in re.findall(r"\d+", text)]  # noqa: S307 - digits and + - * / ( ) only
    except (SyntaxError, ZeroDivisionError, ValueError):
        return None


def countdown(check, answer):
    for line in answer.splitlines():
        for part in line.split("="):
            found = evaluate(part.strip())
            if found is None or abs(found[0] - check["target"]) > 1e-9 or len(found[1]) < 2:
                continue
            pool = list(check["numbers"])
            if all(n in pool and (pool.remove(n) or True) for n in found[1]):
                return True
    return False


def main():
    request = json.load(sys.stdin)
    check, answer = json.loads(request["args"][0]), request["text"]
    kind = check["kind"]
    letters = re.sub(r"[^a-z]", "", answer.lower())
    if kind == "countdown":
        right = countdown(check, answer)
    elif kind == "sorting":
        right = [int(n) for n in re.findall(r"-?\d+", answer)] == sorted(check["numbers"])
    elif kind == "chain_sum":
        numbers = re.findall(r"-?\d+", answer)
        right = bool(numbers) and int(numbers[-1]) == evaluate(check["expression"])[0]
    elif "reverse" in check:
        right = letters == check["reverse"][::-1]
    else:
        right = letters == check["letter"][check["index"] - 1]
    sys.exit(0 if right else 1)


if __name__ == "__main__":
    main()
