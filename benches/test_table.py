#!/usr/bin/env python3
"""Tests of the tasks, their verifier and the table's statistics, without a model: `python3 -B benches/test_table.py`."""
import importlib.machinery
import importlib.util
import json
import os
import pathlib
import stat
import subprocess
import sys
import tempfile
import unittest

HERE = pathlib.Path(__file__).resolve().parent
sys.path.insert(0, str(HERE))
import make_tasks  # noqa: E402
import verify  # noqa: E402

SCRIPT = HERE.parent / "scripts/strategy-table"
loader = importlib.machinery.SourceFileLoader("strategy_table", str(SCRIPT))
table = importlib.util.module_from_spec(importlib.util.spec_from_loader("strategy_table", loader))
loader.exec_module(table)

# Stands for the program: answers each task right when its number is even, and counts its runs.
STAND_IN = """#!/usr/bin/env python3
import json, sys
source, data = sys.argv[2], sys.argv[4]
open(__file__ + ".runs", "a").write(source + "\\n")
tasks = [json.loads(line) for line in open(data)]
results = [{"id": t["id"], "right": i % 2 == 0, "tokens": 3, "seconds": 0.1} for i, t in enumerate(tasks)]
right = sum(r["right"] for r in results)
print(json.dumps({"strategy": source.split("::")[1], "tasks": len(tasks), "graded": len(tasks), "right": right,
    "accuracy": right / len(tasks), "tokens_per_task": 3, "seconds_per_task": 0.1, "predicted_seconds": 1, "measured_seconds": 2,
    "results": results}))
"""


class Tasks(unittest.TestCase):
    def test_the_same_for_the_same_seed(self):
        one, again = list(make_tasks.tasks(3, 5)), list(make_tasks.tasks(3, 5))
        self.assertEqual(one, again)
        self.assertNotEqual(one, list(make_tasks.tasks(4, 5)))
        self.assertEqual({t["category"] for t in one}, {"countdown", "sorting", "chain_sum", "spelling"})

    def test_every_answer_passes_its_check_and_no_check_holds_it(self):
        for task in make_tasks.tasks(1, 100):
            check = json.loads(task["check"])
            self.assertNotIn("answer", check)
            if task["category"] != "countdown":
                self.assertTrue(verify.right(check, task["answer"]), task)
            self.assertFalse(verify.right(check, ""), task)


class Verifier(unittest.TestCase):
    def test_countdown(self):
        check = {"kind": "countdown", "numbers": [4, 6, 3], "target": 24}
        for answer, right in [
            ("4 * 6 = 24", True), ("24 = 6 × 4", True), ("so: (6) * 4.", True), ("(4 + 4) * 3", False), ("24", False),
            ("4(6)", False), ("4 ** 6", False), ("6 / 0", False), ("(" * 150 + "4*6" + ")" * 150, False), ("", False),
        ]:
            self.assertEqual(verify.right(check, answer), right, answer)

    def test_oracles_grade_as_the_program_does(self):
        for kind, expected, answer, right in [
            ("int", "11", "The sum is 11.", True), ("int", "11", "12", False), ("number", "70000", "$70,000", True),
            ("text", "Paris", "paris.", True), ("contains", "Paris", "It is Paris, of course", True),
            ("intlist", "1, 2, 10", "[1, 2, 10]", True), ("intlist", "1, 2, 10", "2, 1, 10", False),
        ]:
            self.assertEqual(verify.right({"kind": kind, "answer": expected}, answer), right, (kind, answer))

    def test_a_line_for_each_line_whatever_it_holds(self):
        check = json.dumps({"kind": "chain_sum", "expression": "3 + 4"})
        good = {"text": "7", "value": None, "args": [check]}
        lines = [json.dumps(good), "nonsense", "{}", "[]", json.dumps({"text": 7, "args": [check]}), json.dumps(good)]
        done = subprocess.run(
            [sys.executable, "-S", "-E", HERE / "verify.py"], input="\n".join(lines) + "\n", text=True, capture_output=True,
            check=True,
        )
        self.assertEqual(done.stdout.split(), ["pass", "fail", "fail", "fail", "fail", "pass"])


class Statistics(unittest.TestCase):
    def test_wilson(self):
        low, high = table.wilson(25, 200)
        self.assertAlmostEqual(low, 0.0862, 3)
        self.assertAlmostEqual(high, 0.1778, 3)
        self.assertEqual(table.wilson(0, 0), (0.0, 1.0))

    def test_pairs(self):
        ids = range(100)
        one = {i: i < 40 for i in ids}
        same = table.paired(one, one)
        self.assertEqual((same[0], same[2]), (0.0, 1.0))
        self.assertTrue(same[1][0] < 0 < same[1][1])
        # Ten gained, none lost: two tails of 1/1024.
        difference, (low, high), p = table.paired({i: i < 50 for i in ids}, one)
        self.assertAlmostEqual(difference, 0.1)
        self.assertTrue(0 < low < 0.1 < high, (low, high))
        self.assertAlmostEqual(p, 2 / 1024)
        self.assertEqual(table.paired({}, one), (0.0, (-1.0, 1.0), 1.0))


class Table(unittest.TestCase):
    def test_parts_are_resumed_and_other_tasks_kept_apart(self):
        with tempfile.TemporaryDirectory() as folder:
            folder = pathlib.Path(folder)
            program = folder / "inferc"
            program.write_text(STAND_IN)
            program.chmod(program.stat().st_mode | stat.S_IXUSR)
            tasks = folder / "t.jsonl"
            tasks.write_text("".join(json.dumps({"question": f"{i}?", "answer": str(i), "verifier": "int"}) + "\n" for i in range(10)))
            out = folder / "out.jsonl"

            def run(*args):
                command = [sys.executable, "-c", RUN, SCRIPT, "--tasks", "t.jsonl", "--out", out, *args]
                environment = {**os.environ, "INFERC": str(program), "INFERC_REFERENCE": str(folder)}
                return subprocess.run(command, env=environment, text=True, capture_output=True, check=True).stdout

            runs = pathlib.Path(f"{program}.runs")
            run("greedy")
            with out.open("a") as file:
                file.write('{"cut')
            text = run("greedy", "best_of_8")
            self.assertEqual(runs.read_text().count("::greedy"), 1)
            self.assertEqual(runs.read_text().count("::best_of_8"), 1)
            self.assertIn("oracle", text)
            self.assertIn("| greedy | 0.500 [", text)
            self.assertIn("| best_of_8 (oracle) | 0.500 [", text)
            self.assertIn("+0.000 [", text)
            run("--count", "4", "greedy")
            self.assertEqual(runs.read_text().count("::greedy"), 2)
            self.assertEqual(run("--report"), text)


# The script without its models, which the stand-in does not need.
RUN = """
import runpy, subprocess, sys
real = subprocess.run
subprocess.run = lambda c, *a, **k: None if "fetch-models" in str(c[0]) else real(c, *a, **k)
sys.argv = sys.argv[1:]
runpy.run_path(sys.argv[0], run_name="__main__")
"""


if __name__ == "__main__":
    unittest.main()
