#!/usr/bin/env python3
"""Judges answers of benchmark tasks: for each line of standard input a line `pass` or `fail`.

The verifier of the strategies in benches/strategies.infer. A line is {"text", "value", "args"} as JSON, where args[0] is
the task's `check`, JSON in a text. Checks of the project's own tasks (benches/make_tasks.py) do not hold the answer; a check
with an `answer` (made by scripts/strategy-table for tasks of other origin) makes this an oracle: it knows what is right.
Deliberately absent: anything but the standard library, and exceptions: what cannot be judged fails.
"""
import json
import re
import sys

EXPRESSION = re.compile(r"[0-9(][0-9+\-*/() ]*")
NUMBER = re.compile(r"-?[0-9]+(?:,[0-9]{3})*(?:\.[0-9]+)?")


def evaluate(text):
    """Value of an expression of + - * / ( ) over integers, and the integers it uses; None when it is not one."""
    if len(text) > 200 or "**" in text or "//" in text or not re.fullmatch(r"[0-9+\-*/() ]+", text):
        return None
    if re.search(r"[0-9)] *\(|\) *[0-9]", text):  # Python would take it for a call.
        return None
    try:
        return eval(text, {"__builtins__": {}}), [int(n) for n in re.findall("[0-9]+", text)]  # noqa: S307
    except (SyntaxError, ArithmeticError, ValueError, TypeError, RecursionError, MemoryError):
        return None


def countdown(check, answer):
    """Some line or side of an equation makes the target of the numbers, each used at most once; there are many ways."""
    for line in answer.replace("×", "*").replace("÷", "/").splitlines():
        for part in line.split("="):
            match = EXPRESSION.search(part)
            found = match and evaluate(match.group().strip())
            if not found or abs(found[0] - check["target"]) > 1e-9 or len(found[1]) < 2:
                continue
            pool = list(check["numbers"])
            if all(n in pool and (pool.remove(n) or True) for n in found[1]):
                return True
    return False


def integers(text):
    return [int(n) for n in re.findall("-?[0-9]+", text)]


def last_number(text):
    found = NUMBER.findall(text)
    return float(found[-1].replace(",", "")) if found else None


def normal(text):
    return "".join(c.lower() for c in text if c.isalnum())


def oracle(check, answer):
    kind, expected = check["kind"], str(check["answer"])
    if kind in ("int", "number"):
        found, wanted = last_number(answer), last_number(expected)
        return found is not None and wanted is not None and abs(found - wanted) <= 1e-6 * max(abs(wanted), 1.0)
    if kind == "contains":
        return normal(expected) in normal(answer)
    if kind == "intlist":
        return integers(answer) == integers(expected)
    if kind == "countdown":
        return countdown({"numbers": check["numbers"], "target": last_number(expected)}, answer)
    return normal(answer) == normal(expected)


def right(check, answer):
    if "answer" in check:
        return oracle(check, answer)
    kind = check["kind"]
    letters = re.sub(r"[^a-z]", "", answer.lower())
    if kind == "countdown":
        return countdown(check, answer)
    if kind == "sorting":
        return integers(answer) == sorted(check["numbers"])
    if kind == "chain_sum":
        return last_number(answer) == evaluate(check["expression"])[0]
    if "reverse" in check:
        return letters == check["reverse"][::-1]
    return letters == check["letter"][check["index"] - 1]


def judge(line):
    try:
        request = json.loads(line)
        return right(json.loads(request["args"][0]), request["text"])
    except (KeyError, ValueError, TypeError, IndexError, AttributeError):
        return False


def main():
    for line in sys.stdin:
        print("pass" if judge(line) else "fail", flush=True)


if __name__ == "__main__":
    main()
