"""Tests of the benchmark itself, with stand-ins for both sides: `python3 -B scripts/peer/test_bench.py`.

Needs neither the peer nor our binary; a few seconds.
"""

import contextlib
import io
import json
import os
import stat
import struct
import subprocess
import tempfile
import unittest

import bench
import cases
import machine
import measure
import model

HERE = os.path.dirname(os.path.abspath(__file__))

# Stands for our binary, llama-bench and llama-batched-bench. Rates: ours 300; the peer 50, and 100 without flash attention
# but with repacked weights (and one buffer for all sequences, where there is that choice).
STAND_IN = """#!/usr/bin/env python3
import json, os, sys
args = sys.argv[1:]
name = os.path.basename(sys.argv[0])
def after(flag): return args[args.index(flag) + 1]
with open(os.environ["LOG"], "a") as log: log.write(" ".join([name, *args, str(sorted(os.sched_getaffinity(0)))]) + "\\n")
if name == "inferc" and args[0] == "profile-device":
    open(after("-o"), "w").close()
    print(json.dumps({"format_version": 1, "profile": {"bandwidth": 1e6, "threads": 1, "read": []}}))
elif name == "inferc":
    case = after("--case")
    if os.environ.get("OURS") == "crash": sys.exit("no such case: " + case)
    tokens = {"d": 64, "b": 512, "p": 512}[case[0]] // int(os.environ.get("SHORT", "1"))
    print("loading")
    for prefix, rate in (("shared", 200), ("cascade", 300)) if case[0] == "b" else (("shared", 300),):
        print(json.dumps({"case": case, "prefix": prefix, "tokens_per_second": rate, "seconds": tokens / rate, "tokens": tokens}))
elif name == "llama-bench":
    rate = 100 if after("-fa") == "off" and after("--repack") == "1" else 50
    p, n = int(after("-p")), int(after("-n"))
    print(json.dumps({"n_prompt": p, "n_gen": n, "samples_ns": [1, int((p + n) / rate * 1e9)]}))
else:
    rate = 100 if after("-fa") == "off" and "--repack" in args and "-kvu" in args else 50
    tg = int(after("-ntg"))
    for run, pl in enumerate(after("-npl").split(",")):
        print("\\n" + json.dumps({"pl": int(pl), "tg": tg, "t_tg": int(pl) * tg / rate * run, "speed_tg": rate}) + "\\n")
"""


def string(text):
    return struct.pack("<Q", len(text)) + text.encode()


def gguf(tied):
    """A small GGUF: 2 layers, 2 key-value heads of 4, tensors of 640 bytes (table), 128 and, untied, 640 bytes."""
    numbers = {"block_count": 2, "attention.head_count": 4, "attention.head_count_kv": 2, "embedding_length": 16}
    pairs = [string("general.architecture") + struct.pack("<I", 8) + string("llama")]
    pairs.append(string("tokens") + struct.pack("<IIQ", 9, 8, 2) + string("a") + string("b"))
    pairs += [string("llama." + k) + struct.pack("<II", 4, v) for k, v in numbers.items()]
    sizes = {"token_embd.weight": 640, "blk.0.w": 128, **({} if tied else {"output.weight": 640})}
    tensors, offset = [], 0
    for name, size in sizes.items():
        tensors.append(string(name) + struct.pack("<IQIQ", 1, size // 4, 0, offset))
        offset += size
    head = b"GGUF" + struct.pack("<IQQ", 3, len(tensors), len(pairs)) + b"".join(pairs + tensors)
    return head + b"\0" * (-len(head) % 32) + b"\1" * offset


class Cases(unittest.TestCase):
    def test_text_round_trips(self):
        for text in (*cases.DEFAULT_CASES, "branches:n=32,prompt=1,gen=1"):
            self.assertEqual(str(cases.parse_case(text)), text)

    def test_every_floor_names_a_standard_case(self):
        self.assertEqual(set(cases.FLOORS), set(cases.DEFAULT_CASES))

    def test_bad_text_is_refused(self):
        bad = ("", "decode", "decode:depth=", "decode:depth=-1", "decode:depth=1,depth=2", "prefill:n=0", "branches:n=8", "x:n=1")
        for text in (*bad, "prefill:n=9999999", "decode:depth=１"):
            with self.assertRaises(cases.CaseError, msg=text):
                cases.parse_case(text)
        for text in ("", "fa=on", "fa=maybe,repack=on", "fa=on,fa=on,repack=on"):
            with self.assertRaises(cases.CaseError, msg=text):
                cases.parse_setting(text)

    def test_context_holds_the_work(self):
        case = cases.parse_case("branches:n=8,prompt=512,gen=64")
        for setting in cases.settings_of(case):
            command = cases.peer_command("bin", "m", 2, case, setting, 0)
            self.assertGreater(int(command[command.index("-c") + 1]), 512 + 512 if setting.unified else 8 * 576)


class Model(unittest.TestCase):
    def setUp(self):
        self.dir = tempfile.TemporaryDirectory()
        self.addCleanup(self.dir.cleanup)
        self.path = os.path.join(self.dir.name, "m.gguf")

    def read(self, data):
        with open(self.path, "wb") as file:
            file.write(data)
        return model.read_model(self.path)

    def test_a_step_reads_the_table_only_when_it_is_the_output(self):
        self.assertEqual(self.read(gguf(tied=True)).weights, 768)
        self.assertEqual(self.read(gguf(tied=False)).weights, 768)
        # 2 layers × 2 heads × (4 + 4) elements of two bytes.
        self.assertEqual(self.read(gguf(tied=True)).per_step(10), 768 + 10 * 64)

    def test_every_truncated_header_is_an_error(self):
        whole = gguf(tied=True)
        for length in range(0, len(whole) - 768, 7):
            with self.assertRaises(model.ModelError, msg=length):
                self.read(whole[:length])

    def test_absurd_counts_are_an_error(self):
        with self.assertRaises(model.ModelError):
            self.read(b"GGUF" + struct.pack("<IQQ", 3, 1, 1) + struct.pack("<Q", 1 << 60))
        with self.assertRaises(model.ModelError):
            self.read(b"GGUF" + struct.pack("<IQQ", 3, 1 << 60, 1))


class Machine(unittest.TestCase):
    def test_cpu_lists(self):
        self.assertEqual(machine.parse_cpus("0,2-4"), [0, 2, 3, 4])
        for text in ("", "a", "3-1", "1,1", "0-99999999"):
            with self.assertRaises(ValueError, msg=text):
                machine.parse_cpus(text)

    def test_bandwidth_between_measured_sizes(self):
        read = [{"bytes": 1e6, "one_thread": 30.0, "all_threads": 60.0}, {"bytes": 1e8, "one_thread": 10.0, "all_threads": 20.0}]
        profile = {"threads": 4, "bandwidth": 99.0, "read": read}
        self.assertEqual(machine.read_bandwidth(profile, 4, 1e5), 60.0)
        self.assertAlmostEqual(machine.read_bandwidth(profile, 4, 1e7), 40.0)
        self.assertEqual(machine.read_bandwidth(profile, 1, 1e9), 10.0)
        self.assertEqual(machine.read_bandwidth(profile, 2, 1e9), 20.0)
        self.assertIsNone(machine.read_bandwidth({"threads": 4, "bandwidth": 99.0}, 1, 1e9))

    def test_own_work_is_not_foreign(self):
        meter = machine.Busy(sorted(os.sched_getaffinity(0)))
        self.assertEqual(meter.foreign_share(own_seconds=1e9), 0.0)


class Parsing(unittest.TestCase):
    case = cases.parse_case("prefill:n=512")

    def test_other_output_is_passed_over(self):
        text = '{ not json\n{"case": "other", "x": 1}\nwarn {}\n{"case":"prefill:n=512","tokens_per_second":512,"seconds":1,"tokens":512}'
        self.assertEqual(measure.parse_ours(text, self.case, 0.0)[""].tokens_per_second, 512)

    def test_bad_figures_are_refused(self):
        good = {"case": "prefill:n=512", "tokens_per_second": 512, "seconds": 1, "tokens": 512}
        for change in ({"tokens": 256}, {"seconds": 2}, {"seconds": 0}, {"tokens_per_second": None}, {"case": "decode:depth=0"}):
            with self.assertRaises(measure.BenchError, msg=change):
                measure.parse_ours(json.dumps({**good, **change}), self.case, 0.0)
        with self.assertRaises(measure.BenchError):
            measure.parse_peer("error: out of memory", self.case, 0.0)


class WholeRun(unittest.TestCase):
    def setUp(self):
        self.dir = tempfile.TemporaryDirectory()
        self.addCleanup(self.dir.cleanup)
        root = self.dir.name
        os.makedirs(os.path.join(root, ".cache/peer/bin"))
        for name in ("inferc", ".cache/peer/bin/llama-bench", ".cache/peer/bin/llama-batched-bench"):
            path = os.path.join(root, name)
            with open(path, "w", encoding="utf-8") as file:
                file.write(STAND_IN)
            os.chmod(path, os.stat(path).st_mode | stat.S_IXUSR)
        with open(os.path.join(root, ".cache/peer/peer.json"), "w", encoding="utf-8") as file:
            json.dump({"engine": "llama.cpp", "version": "0", "package": "p 1", "compiler": "c 1", "amx": False}, file)
        with open(os.path.join(root, "m.gguf"), "wb") as file:
            file.write(gguf(tied=True))
        self.log = os.path.join(root, "log")
        self.environment = {"LOG": self.log}

    def run_bench(self, *extra):
        root = self.dir.name
        common = ["--root", root, "--inferc", f"{root}/inferc", "--model", f"{root}/m.gguf", "--threads", "1"]
        out, err = io.StringIO(), io.StringIO()
        saved = dict(os.environ)
        os.environ.pop("INFERC_PEER_DIR", None)
        os.environ.update(self.environment)
        try:
            with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
                code = bench.main([*common, "--quiet-limit", "1", "--priority", "0", *extra])
        finally:
            os.environ.clear()
            os.environ.update(saved)
        return code, out.getvalue(), err.getvalue()

    def test_ratios_at_the_peers_best_setting(self):
        code, out, _ = self.run_bench("--format", "json", "--repeats", "2")
        self.assertEqual(code, 0)
        report = json.loads(out)
        self.assertEqual(report["format_version"], 1)
        self.assertEqual([r["case"] for r in report["cases"]], list(cases.DEFAULT_CASES))
        for record in report["cases"]:
            self.assertTrue(record["peer_setting"].startswith("fa=off repack=on"), record)
            self.assertAlmostEqual(record["ratio"]["median"], 3.0, places=3)
        self.assertEqual(report["cases"][2]["peer_setting"], "fa=off repack=on kv=unified")
        self.assertEqual(len(report["cases"][2]["peer_settings_tried"]), 8)
        self.assertEqual(report["cases"][2]["ours_setting"], "prefix=cascade")
        self.assertEqual(len(report["cases"][2]["samples"]["ours"]["prefix=shared"]), 2)
        # Depth 0 and 64 tokens: 32 positions of 64 bytes beside 768 bytes of weights, at a megabyte per second.
        self.assertAlmostEqual(report["cases"][0]["roof"]["tokens_per_second"], 1e6 / (768 + 32 * 64))
        self.assertAlmostEqual(report["cases"][0]["share_of_roof"]["ours"], 300 * (768 + 32 * 64) / 1e6)
        self.assertIsNone(report["cases"][3]["roof"])

    def test_sides_alternate_and_share_cpus_and_work(self):
        self.run_bench("--case", "decode:depth=7", "--repeats", "2", "--peer-setting", "fa=off,repack=on")
        with open(self.log, encoding="utf-8") as file:
            lines = file.read().splitlines()
        self.assertEqual([line.split()[0] for line in lines[2:]], ["inferc", "llama-bench", "llama-bench", "inferc"])
        self.assertEqual(len({line[line.index("[") :] for line in lines}), 1)
        self.assertIn("-n 64 -d 7", lines[3])
        self.assertIn("-r 2", lines[3])
        self.assertIn("--repeat 1", lines[2])

    def test_check_fails_below_the_floor_only(self):
        self.assertEqual(self.run_bench("--repeats", "1", "--check")[0], 0)
        saved = cases.FLOORS["prefill:n=512"]
        cases.FLOORS["prefill:n=512"] = 3.5
        try:
            code, _, err = self.run_bench("--repeats", "1", "--check", "--case", "prefill:n=512")
        finally:
            cases.FLOORS["prefill:n=512"] = saved
        self.assertEqual(code, 1)
        self.assertIn("prefill:n=512", err)

    def test_a_failed_case_is_named_with_what_it_said(self):
        self.environment["OURS"] = "crash"
        code, out, _ = self.run_bench("--repeats", "1", "--case", "prefill:n=512")
        self.assertEqual(code, 1)
        self.assertIn("no such case: prefill:n=512", out)

    def test_different_work_is_refused(self):
        self.environment["SHORT"] = "2"
        code, out, _ = self.run_bench("--repeats", "1", "--case", "prefill:n=512")
        self.assertEqual(code, 1)
        self.assertIn("did 256 tokens of work, not 512", out)

    def test_disturbed_repeats_are_discarded_while_retries_last(self):
        # Shares that others take: before each run one look at the machine, then the run itself.
        recovers = [0.0, 0.9, 0.0, 0.1, 0.0, 0.0, 0.0, 0.9, 0.0, 0.2]
        never = [0.0, 0.9] * 5
        for values, discarded, disturbed in ((recovers, 2, 0), (never, 2, 3)):
            shares = iter(values)
            saved = measure.Busy.foreign_share
            measure.Busy.foreign_share = lambda self, own_seconds=0.0, shares=shares: next(shares)
            try:
                only = ("--only", "peer", "--case", "prefill:n=4", "--peer-setting", "fa=on,repack=on", "--format", "json")
                _, out, _ = self.run_bench("--repeats", "3", "--retries", "2", "--patience", "0", "--quiet-limit", "0.5", *only)
            finally:
                measure.Busy.foreign_share = saved
            record = json.loads(out)["cases"][0]
            self.assertEqual(record["peer"]["repeats"], 3)
            self.assertEqual((record["discarded_repeats"], record["disturbed_repeats"]), (discarded, disturbed))
            self.assertLessEqual(record["disturbance"]["max"], 0.9 if disturbed else 0.5)

    def test_one_side_alone(self):
        code, out, _ = self.run_bench("--repeats", "1", "--only", "peer", "--case", "decode:depth=0")
        self.assertEqual(code, 0)
        self.assertIn("100.0", out)
        self.assertIn("an orientation, not a result", out)

    def test_wrong_use_is_exit_code_2(self):
        for extra in (["--case", "x"], ["--cpus", "900"], ["--model", "/absent"], ["--inferc", "/absent"], ["--threads", "999"]):
            code, out, err = self.run_bench(*extra)
            self.assertEqual((code, out), (2, ""), extra)
            self.assertIn("bench-peer: ", err)


class AmxHeader(unittest.TestCase):
    def test_every_tile_load_gets_its_clobber(self):
        with tempfile.TemporaryDirectory() as folder:
            done = subprocess.run([f"{HERE}/amx-header", folder], capture_output=True, text=True, check=True)
            copy = done.stdout.strip()
            if not copy:
                self.skipTest("this compiler's header needs no correction")
            program = (
                "#include <immintrin.h>\nvoid f(char *b, void *c) { _tile_loadconfig(c); _tile_loadd(0, b, 64);"
                " _tile_stream_loadd(1, b, 64); _tile_stored(2, b, 64); }\n"
            )
            command = [os.environ.get("CC", "cc"), "-mamx-tile", f"-I{folder}", "-E", "-P", "-x", "c", "-"]
            text = subprocess.run(command, input=program, capture_output=True, text=True, check=True).stdout
            function = text[text.index("void f(char") :]
            self.assertEqual(function.count('"memory"'), 3, function)
            self.assertRegex(text, r'ldtilecfg[^;]*: "memory"\);')


if __name__ == "__main__":
    unittest.main()
