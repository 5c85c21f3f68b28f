//! Every command on real files: exit codes, JSON shapes, errors that name place, cause and remedy.

use crate::program::{Ran, command, fed, inferc};
use crate::project::{ONE, SHAPE, artifact, backends, machine, project, root};
use ::inferc::synthetic::{Shape, gguf};
use ir::schedule::Numerics;
use serde_json::{Value, json};
use std::path::Path;
use std::process::Stdio;

const BROKEN: &str = "model base : Generator;\n\nprompt ask(q: Text) {\n    user \"${q}\"\n}\n\n\
                      strategy s(q: Text) -> Sample<Text>\nwithin { tokens: 1ktok }\n{\n    gen(bsae, ask(q), max: 1ktok)\n}\n";

fn put(dir: &Path, name: &str, text: &str) {
    std::fs::write(dir.join(name), text).expect("the folder can be written");
}

fn fields(value: &Value, names: &[&str]) {
    for name in names {
        assert!(value.get(name).is_some(), "no `{name}` in {value}");
    }
}

#[test]
fn check_says_place_cause_and_remedy() {
    let dir = project();
    inferc(dir.path(), &["check", "one.infer", "votes.infer"]).code(0);
    put(dir.path(), "broken.infer", BROKEN);
    let ran = inferc(dir.path(), &["check", "broken.infer"]).code(1);
    assert_eq!(ran.out, "");
    ran.says(&["error[E0201]", "broken.infer:10:9", "bsae", "base", "1 error"]);
    let report = inferc(dir.path(), &["check", "broken.infer", "--format", "json"]).code(1).json();
    assert_eq!(report["ok"], false);
    let found = &report["diagnostics"][0];
    assert_eq!((&found["code"], &found["severity"]), (&"E0201".into(), &"error".into()));
    assert_eq!(
        (&found["at"]["line"], &found["at"]["column"], &found["at"]["end_column"]),
        (&10.into(), &9.into(), &13.into())
    );
    fields(found, &["message", "label", "help", "fix", "related", "notes"]);
    // The mechanical fix mends it.
    inferc(dir.path(), &["check", "--fix", "broken.infer"]).code(0);
    inferc(dir.path(), &["check", "broken.infer"]).code(0);
    // One clean and one broken file: the worst decides.
    put(dir.path(), "broken.infer", BROKEN);
    inferc(dir.path(), &["check", "one.infer", "broken.infer"]).code(1);
    inferc(dir.path(), &["check", "none.infer"]).code(2).says(&["none.infer", "check the path"]);
}

/// What is left of a file that does not parse is not worth a lint or a type error.
#[test]
fn a_file_that_does_not_parse_shows_its_syntax_errors_only() {
    let dir = project();
    put(dir.path(), "broken.infer", "use std::prompts::solve;\nfn f(a: Int, b: Int) -> Bool { 1 < a < g(3) }\n");
    let found = inferc(dir.path(), &["check", "broken.infer", "--format", "json"]).code(1).json();
    let codes: Vec<_> = found["diagnostics"].as_array().expect("a list").iter().map(|d| d["code"].clone()).collect();
    assert_eq!(codes, ["E0113"], "{found}");
    put(dir.path(), "whole.infer", "use std::prompts::solve;\nfn f(a: Int, b: Int) -> Bool { a < 3 }\n");
    inferc(dir.path(), &["check", "whole.infer"]).code(0).says(&["W0401", "W0402"]);
}

#[test]
fn warnings_count_only_when_denied() {
    let dir = project();
    put(dir.path(), "w.infer", &ONE.replace("q: Text) -> Sample", "q: Text, idle: Int = 1) -> Sample"));
    inferc(dir.path(), &["check", "w.infer"]).code(0).says(&["warning[W0402]", "idle"]);
    let denied = inferc(dir.path(), &["check", "--deny-warnings", "--format", "json", "w.infer"]).code(3).json();
    assert_eq!(denied["ok"], false);
    inferc(dir.path(), &["check", "--deny-warnings", "one.infer"]).code(0);
}

#[test]
fn bounds_are_those_of_the_book() {
    let folder = root("tests/suite/language");
    let none = Value::Null;
    let table: [(&str, &str, u64, Value); 11] = [
        ("best_of_n", "best_of_n", 32_000, 48_000.into()),
        ("self_consistency", "self_consistency", 32_000, 32_000.into()),
        ("eager", "eager", 72_000, 72_000.into()),
        ("cascades", "ead", 2_000, 2_000.into()),
        ("cascades", "frugal", 3_000, none),
        ("spec_reason", "spec_reason", 16_000, 20_000.into()),
        ("particles", "particles", 131_072, 160_000.into()),
        ("plan_and_budget", "plan_and_budget", 12_000, 12_000.into()),
        ("precompute", "study", 8_000, 16_000.into()),
        ("precompute", "ask", 512, 512.into()),
        ("extras", "routed", 4_528, 8_000.into()),
    ];
    for (file, strategy, tokens, declared) in table {
        let name = format!("{file}.infer");
        let report = inferc(&folder, &["check", "--bounds", "--format", "json", &name]).code(0).json();
        let rows = report["strategies"].as_array().expect("strategies");
        let row =
            rows.iter().find(|r| r["strategy"] == strategy).unwrap_or_else(|| panic!("no {strategy} in {report}"));
        assert_eq!((&row["tokens"], &row["declared"]["tokens"]), (&tokens.into(), &declared), "{strategy}");
        fields(row, &["calls", "live", "kv_tokens", "kv_bytes", "derivation"]);
    }
    let best = inferc(&folder, &["check", "--bounds", "--format", "json", "best_of_n.infer"]).code(0).json();
    let row = &best["strategies"][0];
    assert_eq!((&row["calls"], &row["live"], &row["declared"]["time_seconds"]), (&64.into(), &32.into(), &8.0.into()));
    let text = inferc(&folder, &["check", "--bounds", "particles.infer"]).code(0).out;
    assert!(text.contains("131 072") && text.contains("160 000") && text.contains("ok"), "{text}");
    // A model that the manifest binds gives bytes.
    let dir = project();
    let report = inferc(dir.path(), &["check", "--bounds", "--format", "json", "one.infer"]).code(0).json();
    let row = &report["strategies"][0];
    let per_token = 2 * 2 * 2 * 64 * 2; // keys and values, layers, KV heads, width, bytes
    assert_eq!(row["kv_bytes"], json!(row["kv_tokens"].as_u64().expect("a number") * per_token));
}

#[test]
fn a_program_that_can_exceed_its_budget_does_not_compile() {
    let dir = project();
    put(dir.path(), "over.infer", &ONE.replace("max: 16tok", "max: 65tok"));
    for args in [
        &["check", "over.infer"][..],
        &["compile", "over.infer", "-o", "x.plan"],
        &["run", "over.infer", "--", "--q", "a"],
    ] {
        inferc(dir.path(), args).code(1).says(&["error[E0401]", "over.infer", "65", "64"]);
    }
    assert!(!dir.path().join("x.plan").exists());
}

#[test]
fn fmt_is_idempotent_and_keeps_comments() {
    let dir = project();
    let ugly = "// first\nmodel   base:Generator ; // role\nprompt ask( q :Text ){user \"${q}\"}\n\
                strategy one(q:Text)->Sample<Text> within{tokens:64tok}{ gen( base,ask(q),max:16tok,temp:0.8 ) // last\n}\n";
    put(dir.path(), "ugly.infer", ugly);
    let read = || std::fs::read_to_string(dir.path().join("ugly.infer")).expect("readable");
    inferc(dir.path(), &["fmt", "--check", "ugly.infer"]).code(1).says(&["ugly.infer", "inferc fmt"]);
    assert_eq!(read(), ugly, "--check changes nothing");
    inferc(dir.path(), &["fmt", "ugly.infer"]).code(0);
    let once = read();
    for comment in ["// first", "// role", "// last"] {
        assert!(once.contains(comment), "{comment} is lost:\n{once}");
    }
    inferc(dir.path(), &["fmt", "--check", "ugly.infer"]).code(0);
    inferc(dir.path(), &["fmt", "ugly.infer"]).code(0);
    assert_eq!(read(), once);
    assert_eq!(fed(dir.path(), &["fmt", "-"], ugly.as_bytes()).code(0).out, once);
    let unlike = fed(dir.path(), &["fmt", "--check", "-"], ugly.as_bytes()).code(1);
    assert_eq!(unlike.says(&["standard input"]).out, "");
    assert_eq!(fed(dir.path(), &["fmt", "--check", "-"], once.as_bytes()).code(0).out, "");
    inferc(dir.path(), &["check", "ugly.infer"]).code(0);
    let cut = &ugly[..ugly.len() - 4];
    put(dir.path(), "ugly.infer", cut);
    inferc(dir.path(), &["fmt", "ugly.infer"]).code(1).says(&["error[E01", "ugly.infer"]);
    assert_eq!(read(), cut, "a file with syntax errors is left as it is");
    fed(dir.path(), &["fmt", "-"], b"\xff\xfe").code(2).says(&["UTF-8"]);
}

#[test]
fn rewritten_files_stay_what_they_are() {
    use std::os::unix::fs::{PermissionsExt as _, symlink};
    let dir = project();
    let real = dir.path().join("real.infer");
    std::fs::write(&real, ONE.replace("    gen", "gen")).expect("written");
    std::fs::set_permissions(&real, std::fs::Permissions::from_mode(0o640)).expect("set");
    symlink("real.infer", dir.path().join("link.infer")).expect("linked");
    inferc(dir.path(), &["fmt", "link.infer"]).code(0);
    assert_eq!(std::fs::read_to_string(&real).expect("readable"), ONE);
    assert!(dir.path().join("link.infer").is_symlink());
    assert_eq!(std::fs::metadata(&real).expect("there").permissions().mode() & 0o777, 0o640);
    // A plan goes behind a link, too, and into a device, which stays one.
    put(dir.path(), "real.plan", "");
    for (link, to) in [("plan", "real.plan"), ("null", "/dev/null")] {
        symlink(to, dir.path().join(link)).expect("linked");
        inferc(dir.path(), &["compile", "one.infer", "-o", link]).code(0);
        assert!(dir.path().join(link).is_symlink(), "{link}");
    }
    assert!(std::fs::metadata(dir.path().join("real.plan")).expect("there").len() > 0);
    assert!(!std::fs::metadata("/dev/null").expect("there").is_file());
}

#[test]
fn every_code_is_explained() {
    let folder = root("");
    for entry in dsl::codes::CODES {
        let text = inferc(&folder, &["explain", entry.code.0]).code(0).out;
        assert!(text.starts_with(&format!("{}: {}", entry.code.0, entry.title)) && text.len() > 60, "{text}");
    }
    let lower = inferc(&folder, &["explain", "e0310", "--format", "json"]).code(0).json();
    assert_eq!(lower["code"], "E0310");
    fields(&lower, &["title", "text"]);
    inferc(&folder, &["explain", "E9999"]).code(2).says(&["no code E9999"]);
}

#[test]
fn explain_shows_bounds_estimates_choices_and_what_ifs() {
    let dir = project();
    let text = inferc(dir.path(), &["explain", "votes.infer"]).code(0).out;
    for word in [
        "strategy votes(q, n)",
        "proved",
        "tokens ≤",
        "estimated",
        "model",
        "op",
        "choices",
        "instead of",
        "what-if",
        "n=1",
        "n=8",
    ] {
        assert!(text.contains(word), "no {word:?} in\n{text}");
    }
    let document = inferc(dir.path(), &["explain", "votes.infer", "--set", "n=2", "--format", "json"]).code(0).json();
    fields(
        &document,
        &["bounds", "declared", "estimated", "operators", "decisions", "sites", "what_if", "assumptions"],
    );
    let classes = document["numerics"].as_object().expect("classes by role");
    assert!(!classes.is_empty() && classes.values().all(|class| class == "int8"), "{classes:?}");
    let channel = inferc(dir.path(), &["explain", "votes.infer", "--numerics", "int8-channel"]).code(0).out;
    assert!(channel.contains("· arithmetic int8-channel"), "{channel}");
    assert!(
        document["decisions"]
            .as_array()
            .is_some_and(|d| d.iter().any(|d| d["runners_up"].as_array().is_some_and(|r| !r.is_empty())))
    );
    // What is assumed of texts may be said; shorter sequences cost less.
    let short = ["explain", "votes.infer", "--set", "n=2", "--length-share", "0.1", "--stop-chance", "0.9"];
    let short = inferc(dir.path(), &[&short[..], &["--format", "json"]].concat()).code(0).json();
    let assumed = |name: &str| short["assumptions"][name].as_f64();
    assert_eq!((assumed("length_share"), assumed("stop_chance")), (Some(0.1), Some(0.9)), "{short}");
    let estimated = |report: &Value| report["estimated"]["tokens"].as_f64().expect("tokens");
    assert!(estimated(&short) < estimated(&document), "{short}");
    for (option, value) in [("--length-share", "0"), ("--length-share", "nan"), ("--stop-chance", "1")] {
        inferc(dir.path(), &["explain", "votes.infer", option, value]).code(2).says(&[option, "expected a"]);
    }
    let again = inferc(dir.path(), &["explain", "votes.infer", "--set", "n=2", "--format", "json"]).code(0);
    assert_eq!(again.json(), document, "the same input gives the same plan");
    let h200 =
        inferc(dir.path(), &["explain", "votes.infer", "--target", "h200", "--target", "l4", "--format", "json"])
            .code(0)
            .json();
    assert!(h200["target"].as_str().is_some_and(|t| t.contains("h200")));
    assert_eq!(h200["what_if"].as_array().map(|w| w.last().map(|w| w["name"].clone())), Some(Some("l4".into())));
    inferc(dir.path(), &["explain", "votes.infer", "--target", "abacus"]).code(2).says(&[
        "abacus",
        "h200",
        "profile-device",
    ]);
    inferc(dir.path(), &["explain", "votes.infer", "--set", "m=2"]).code(2).says(&["--set m=2", "calm"]);
    inferc(dir.path(), &["explain", "votes.infer", "--set", "n=9"]).code(2).says(&["n=9", "1 to 8"]);
}

#[test]
fn an_allowed_class_is_chosen_by_its_price_and_can_be_forbidden() {
    let dir = project();
    let one = std::fs::read_to_string(dir.path().join("one.infer")).expect("readable");
    let with = |allowance: &str| one.replacen("64tok }", &format!("64tok }}\nallow {{ {allowance} }}"), 1);
    std::fs::write(dir.path().join("allowed.infer"), with("weight_quant: int8")).expect("written");
    let explain = |file: &str, more: &[&str]| {
        let args = [&["explain", file, "--target", "cpu-avx512"], more].concat();
        inferc(dir.path(), &args).code(0).out
    };
    let chosen = explain("allowed.infer", &[]);
    for word in ["· arithmetic int8-channel", "arithmetic of base: int8-channel", "instead of int8 ("] {
        assert!(chosen.contains(word), "no {word:?} in\n{chosen}");
    }
    let forbidden = explain("allowed.infer", &["--numerics", "int8"]);
    assert!(forbidden.contains("· arithmetic int8 ·") && forbidden.contains("asked for"), "{forbidden}");
    assert!(explain("one.infer", &[]).contains("· arithmetic int8 ·"), "nobody allowed it");
    std::fs::write(dir.path().join("wrong.infer"), with("weight_quant: int4")).expect("written");
    inferc(dir.path(), &["check", "wrong.infer"]).code(1).says(&["E0215", "no such weight precision", "known is int8"]);
}

#[test]
fn a_plan_runs_like_its_source_and_compiles_to_the_same_bytes() {
    let dir = project();
    let summary = inferc(dir.path(), &["compile", "votes.infer", "-o", "x.plan", "--format", "json"]).code(0).json();
    fields(&summary, &["plan", "bytes", "strategy", "backend", "kernels", "seconds", "predicted", "bounds"]);
    inferc(dir.path(), &["compile", "votes.infer", "-o", "y.plan", "--no-cache"]).code(0);
    let read = |name: &str| std::fs::read(dir.path().join(name)).expect("written");
    assert_eq!(read("x.plan"), read("y.plan"));
    assert_eq!(summary["bytes"], read("x.plan").len());
    let inspected = inferc(dir.path(), &["inspect", "x.plan", "--format", "json"]).code(0).json();
    fields(
        &inspected,
        &["format", "compiler", "backend", "source_hash", "isa", "threads", "target", "kernels", "bounds", "predicted"],
    );
    assert_eq!((&inspected["strategy"], &inspected["fits_this_machine"]), (&"votes".into(), &true.into()));
    assert!(inspected["numerics"].as_object().is_some_and(|classes| classes.values().all(|class| class == "int8")));
    assert_eq!(inspected["sections"].as_array().map(Vec::len), Some(4));
    assert_eq!(inspected["models"][0]["role"], "base");
    let text = inferc(dir.path(), &["inspect", "x.plan"]).code(0).out;
    assert!(text.contains("plan of votes") && text.contains("fits this machine"), "{text}");
    let run = |source: &str, seed: &str| {
        let args = ["run", source, "--seed", seed, "--format", "json", "--", "--q", "Why?", "--n=5"];
        inferc(dir.path(), &args).code(0).json()
    };
    let (plan, source, other) = (run("x.plan", "9"), run("votes.infer", "9"), run("x.plan", "10"));
    for key in ["value", "text", "tokens", "logprobs", "stop", "seed"] {
        assert_eq!(plan[key], source[key], "{key}");
    }
    assert_eq!(plan["usage"]["tokens"], source["usage"]["tokens"]);
    assert_ne!(plan["text"], other["text"], "another seed gives another text");
    fields(&plan, &["usage", "predicted", "measured", "operators", "strategy", "target"]);
    assert_eq!(plan["tokens"].as_array().map(Vec::len), plan["logprobs"].as_array().map(Vec::len));
    // What a plan has decided cannot be asked for when it runs.
    for (option, value) in [
        ("--model", "base=model.gguf"),
        ("--threads", "1"),
        ("--numerics", "f32"),
        ("--kv", "f16"),
        ("--attention", "dense"),
        ("--prompt", "9"),
        ("--length-share", "0.2"),
        ("--stop-chance", "0.9"),
        ("--backend", "llvm"),
        ("--isa", "avx2"),
    ] {
        let words = [option, "source file only", "x.plan has it decided", "compile its source anew"];
        inferc(dir.path(), &["run", "x.plan", option, value, "--", "--q", "a"]).code(2).says(&words);
    }
}

#[test]
fn run_prints_text_on_stdout_and_words_on_stderr() {
    let dir = project();
    let args = ["run", "one.infer::one", "--seed", "3", "--trace", "t.jsonl", "--", "--q", "Hello"];
    let ran = inferc(dir.path(), &args).code(0);
    let json = inferc(dir.path(), &["run", "one.infer", "--seed", "3", "--format", "json", "--", "--q", "Hello"])
        .code(0)
        .json();
    assert_eq!(ran.out.strip_suffix('\n'), json["text"].as_str());
    let ran = ran.says(&["plan one", "seed 3", "predicted", "measured", "prefill base", "decode base", "sum"]);
    assert_eq!(inferc(dir.path(), &args).code(0).out, ran.out);
    let trace = std::fs::read_to_string(dir.path().join("t.jsonl")).expect("written");
    let events: Vec<Value> = trace.lines().map(|l| serde_json::from_str(l).expect("JSON lines")).collect();
    assert_eq!((&events[0]["event"], &events.last().expect("events")["event"]), (&"started".into(), &"done".into()));
    let tokens: Vec<&Value> = events.iter().filter(|e| e["event"] == "token").map(|e| &e["token"]).collect();
    assert_eq!(json!(tokens), json["tokens"]);
}

#[test]
fn every_stage_can_be_seen_and_is_stable() {
    let dir = project();
    let show = |stage: &str| {
        let args = ["compile", "votes.infer", "--emit", stage, "--target", "cpu-avx2", "--threads", "2"];
        let ran = inferc(dir.path(), &args);
        if ran.code == 2 && ran.err.contains("llvm") {
            eprintln!("skipped: this build has no LLVM to show {stage}");
            return None;
        }
        let first = ran.code(0);
        assert_eq!(inferc(dir.path(), &args).code(0).out, first.out, "--emit {stage} is not stable");
        Some(first.out)
    };
    for (stage, words) in [
        ("ast", &["votes", "ask"][..]),
        ("hir", &["votes", "base"]),
        ("ir", &["strategy votes", "sample(", "branch(2)", "bounds tokens 112"]),
        ("plan", &["plan of votes", "decided", "not ", "predicted"]),
        ("kernels", &["kernel"]),
        ("llvm", &["define", "target triple"]),
        ("asm", &["ret"]),
    ] {
        let Some(text) = show(stage) else { continue };
        for word in words {
            assert!(text.contains(word), "--emit {stage}: no {word:?} in\n{}", &text[..text.len().min(3000)]);
        }
    }
    inferc(dir.path(), &["compile", "votes.infer", "--emit", "bytecode"]).code(2).says(&["bytecode", "kernels"]);
}

#[test]
fn wrong_usage_is_told_with_a_remedy() {
    let dir = project();
    put(
        dir.path(),
        "two.infer",
        &format!("{ONE}\n{}", &ONE[ONE.find("strategy").expect("there")..].replace("one(", "two(")),
    );
    put(dir.path(), "unbound.infer", &ONE.replace("base", "other"));
    put(dir.path(), "bad.toml", "edition = \"2026\"\n[models.base]\nguff = \"model.gguf\"\n");
    put(dir.path(), "lost.toml", "[models.base]\ngguf = \"lost.gguf\"\n");
    put(dir.path(), "served.toml", "[models.base]\nendpoint = \"http://localhost:1/v1\"\n");
    put(dir.path(), "verifier.toml", "[models.base]\nexact = \"4\"\n");
    put(dir.path(), "notes.gguf", "this is no model");
    let cases: &[(&[&str], &[&str])] = &[
        (&["run", "none.infer", "--", "--q", "a"], &["none.infer", "check the path"]),
        (
            &["run", "unbound.infer", "--", "--q", "a"],
            &["role `other` is bound to no model", "[models.other]", "--model other=FILE"],
        ),
        (&["run", "one.infer", "--model", "bass=model.gguf", "--", "--q", "a"], &["no role `bass`", "base"]),
        (&["run", "one.infer", "--model", "model.gguf", "--", "--q", "a"], &["expected ROLE=FILE"]),
        (&["run", "one.infer", "--model", "base=none.gguf", "--", "--q", "a"], &["none.gguf", "base"]),
        (&["run", "one.infer", "--model", "base=notes.gguf", "--", "--q", "a"], &["notes.gguf"]),
        (&["run", "one.infer", "--manifest", "none.toml", "--", "--q", "a"], &["none.toml", "--manifest"]),
        (
            &["run", "one.infer", "--manifest", "bad.toml", "--", "--q", "a"],
            &["bad.toml", "models.base", "guff", "gguf"],
        ),
        (&["run", "one.infer", "--manifest", "lost.toml", "--", "--q", "a"], &["lost.gguf", "base"]),
        (&["run", "one.infer", "--manifest", "served.toml", "--", "--q", "a"], &["endpoint", "--model base=FILE"]),
        (&["run", "one.infer", "--manifest", "verifier.toml", "--", "--q", "a"], &["Generator", "gguf"]),
        (&["run", "two.infer", "--", "--q", "a"], &["several strategies", "FILE::NAME", "one, two"]),
        (&["run", "two.infer::three", "--", "--q", "a"], &["no strategy `three`", "one, two"]),
        (&["run", "one.infer"], &["q", "--q \"text\""]),
        (&["run", "one.infer", "--", "--p", "a"], &["p", "q"]),
        (&["run", "one.infer", "--", "--q"], &["--q has no value"]),
        (&["run", "one.infer", "--", "q"], &["expected --NAME VALUE"]),
        (&["run", "votes.infer", "--", "--q", "a", "--n", "9"], &["n", "9"]),
        (&["run", "votes.infer", "--", "--q", "a", "--n", "many"], &["n", "many"]),
        (&["run", "votes.infer", "--set", "calm=high", "--", "--q", "a"], &["calm=high", "number"]),
        (&["run", "one.infer", "--threads", "0", "--", "--q", "a"], &["--threads"]),
        (&["run", "one.infer", "--threads", "100000", "--", "--q", "a"], &["--threads", "at most 256"]),
        (&["profile-device", "--threads", "257"], &["--threads 257", "at most 256"]),
        (&["run", "one.infer", "--target", "h200", "--", "--q", "a"], &["GPU", "--target"]),
        (&["run", "one.infer", "--loud", "--", "--q", "a"], &["--loud"]),
        (&["run", "one.infer", "--trace", "no/where.jsonl", "--", "--q", "a"], &["no/where.jsonl"]),
        (&["frobnicate"], &["frobnicate"]),
        (&[], &["Usage"]),
        (&["check"], &["FILE"]),
        (&["cost", "--model", "gpt-9"], &["gpt-9", "--list"]),
        (&["cost", "--model", "qwen3-8b", "--gen", "0"], &["--gen"]),
        (&["cost", "--model", "qwen3-8b", "--sparse", "block:16"], &["block:SIZE,BLOCKS"]),
        (&["cost", "--model", "qwen3-8b", "--model-kind", "roofline", "--target", "abacus"], &["abacus"]),
        (&["compile", "one.infer", "--emit", "ir", "-o", "x"], &["--emit", "cannot be used"]),
        (&["bench", "--kernels"], &["--model FILE"]),
        (&["bench", "one.infer"], &["--data"]),
        (&["bench", "one.infer", "--data", "t.jsonl", "--case", "decode"], &["--case", "cannot be used"]),
        (&["bench", "--case", "decode"], &["--kernels"]),
        (&["bench", "one.infer", "--data", "t.jsonl", "--bytes", "9"], &["--bytes", "cannot be used"]),
        (
            &["bench", "one.infer", "--data", "t.jsonl", "--kernels", "--model", "m.gguf"],
            &["--kernels", "cannot be used"],
        ),
        (&["bench", "--data", "t.jsonl", "--roofs"], &["--roofs", "--data", "cannot be used"]),
        (&["bench", "one.infer", "--roofs"], &["--roofs", "cannot be used"]),
        (&["bench", "one.infer", "--plans", "2", "--roofs", "--", "--q", "a"], &["--roofs", "cannot be used"]),
        (&["bench", "one.infer", "--plans", "2", "--analyze", "--", "--q", "a"], &["--analyze", "cannot be used"]),
        (&["bench", "one.infer", "--plans", "2", "--limit", "3", "--", "--q", "a"], &["--limit", "cannot be used"]),
        (&["bench", "one.infer", "--plans", "2", "--limit", "3"], &["required", "--data"]),
        (&["bench", "one.infer", "--plans", "2", "--data", "t.jsonl", "--", "--q", "a"], &["--data", "cannot be used"]),
        (&["bench", "one.infer", "--data", "t.jsonl", "--repeat", "2"], &["required", "--kernels", "--plans"]),
        (&["bench", "--kernels", "--model", "m.gguf", "--prompt", "9"], &["--prompt", "--kernels", "cases"]),
        (&["bench", "--roofs", "--", "--q", "a"], &["--roofs", "cannot be used"]),
        (&["bench", "--roofs", "--seed", "2"], &["--seed", "--roofs", "cannot be used"]),
        (
            &["fidelity", "--model", "model.gguf", "--text", "infer.toml", "--with", "int8,dense"],
            &["context of 1024 tokens", "--context"],
        ),
        (
            &["fidelity", "--model", "model.gguf", "--text", "infer.toml", "--with", "int8,dense", "--predict", "0"],
            &["--predict", "1.."],
        ),
        (&["doc", "std::nothing"], &["std::nothing", "std::prompts"]),
    ];
    for (args, words) in cases {
        inferc(dir.path(), args).code(2).says(words);
    }
}

#[test]
fn what_cannot_run_yet_is_refused_with_a_code() {
    let folder = root("tests/suite/language");
    for (file, strategy) in
        [("cascades", "ead"), ("spec_reason", "spec_reason"), ("particles", "particles"), ("extras", "proxy_tuned")]
    {
        let source = format!("{file}.infer::{strategy}");
        let ran = inferc(&folder, &["compile", &source, "-o", "never.plan"]).code(1);
        ran.says(&["error[E09", &format!("{file}.infer:")]);
        assert!(!folder.join("never.plan").exists());
    }
}

#[test]
fn cost_reproduces_the_published_numbers() {
    let folder = root("");
    let cost = |args: &[&str]| inferc(&folder, &[&["cost", "--format", "json"], args].concat()).code(0).json();
    let near = |value: &Value, expected: f64| {
        let x = value.as_f64().expect("a number");
        assert!((x / expected - 1.0).abs() <= 1e-12, "{x} for {expected}");
    };
    for (model, prompt, generated, n, flops, bytes, eflops) in [
        (
            "qwen3-0.6b",
            "128",
            "32768",
            "1",
            173_390_446_985_216_f64,
            62_053_687_492_608_f64,
            35_078_589_661_577_216_f64,
        ),
        ("qwen3-8b", "128", "32768", "1", 855_873_089_961_984.0, 79_783_312_490_496.0, 45_733_986_365_865_984.0),
        ("qwen3-14b", "128", "32768", "1", 1_411_207_344_947_200.0, 88_648_124_989_440.0, 51_275_777_651_507_200.0),
        ("qwen3-0.6b", "256", "8192", "1", 20_498_385_731_584.0, 4_088_808_865_792.0, 2_320_453_372_739_584.0),
        ("qwen3-8b", "256", "8192", "1", 155_213_119_881_216.0, 5_257_039_970_304.0, 3_112_298_103_177_216.0),
        ("qwen3-14b", "256", "8192", "1", 271_197_457_612_800.0, 5_841_155_522_560.0, 3_556_847_439_052_800.0),
        ("qwen3-8b", "200", "15000", "8", 2_510_597_376_000_000.0, 133_152_768_000_000.0, 77_409_029_376_000_000.0),
    ] {
        let c = cost(&["--model", model, "--prompt", prompt, "--gen", generated, "--n", n]);
        assert_eq!(
            (c["flops"].as_f64(), c["bytes"].as_f64()),
            (Some(flops), Some(bytes)),
            "{model} {prompt} {generated} {n}"
        );
        near(&c["eflops"], eflops);
    }
    // Tera-eFLOPs of compute and of memory.
    for (model, prompt, generated, n, sparse, mode, compute, memory) in [
        ("qwen3-8b", "200", "32768", "1", "topk:1024", "compat", 556.731_287_470_08, 2_811.297_300_48),
        ("qwen3-8b", "200", "32768", "8", "topk:1024", "compat", 4_453.850_299_760_64, 22_490.378_403_84),
        ("qwen3-8b", "2048", "32768", "1", "topk:1024", "compat", 556.531_049_299_968, 2_783.138_807_808),
        ("qwen3-8b", "200", "32768", "1", "block:16,64", "compat", 566.347_211_735_04, 4_163.536_650_24),
        ("qwen3-8b", "200", "32768", "8", "block:16,64", "compat", 4_530.777_693_880_32, 33_189.384_683_52),
        ("qwen3-14b", "200", "32768", "1", "block:32,16", "compat", 988.623_221_555_2, 2_323.856_424_96),
        ("qwen3-8b", "2048", "10001", "3", "block:16,64,64", "compat", 514.600_572_351_744, 3_149.491_237_632),
        ("qwen3-8b", "100", "500", "1", "topk:1024", "compat", 8.743_778_675_712, 77.875_126_272),
        ("qwen3-8b", "100", "500", "1", "topk:1024", "exact", 8.293_219_2, 14.515_2),
        ("qwen3-8b", "200", "32768", "1", "topk:1024", "exact", 556.330_811_129_856, 2_754.980_315_136),
        ("qwen3-8b", "200", "32768", "8", "topk:1024", "exact", 4_450.646_489_038_848, 22_039.842_521_088),
    ] {
        let c = cost(&[
            "--model", model, "--prompt", prompt, "--gen", generated, "--n", n, "--sparse", sparse, "--mode", mode,
        ]);
        near(&c["flops"], compute * 1e12);
        near(&json!(c["bytes"].as_f64().expect("a number") * 562.5), memory * 1e12);
    }
    let roofline =
        cost(&["--model", "qwen3-8b", "--model-kind", "roofline", "--target", "h200", "--gen", "1000", "--n", "8"]);
    assert!(roofline["seconds"].as_f64().is_some_and(|s| (3.0..6.0).contains(&s)), "{roofline}");
    let list = cost(&["--list"]);
    assert!(list["models"].as_array().is_some_and(|m| m.contains(&"qwen3-8b".into())));
    for target in ["h100", "h200", "a100", "b200", "l4"] {
        let c = cost(&["--model", "qwen3-8b", "--model-kind", "roofline", "--target", target]);
        assert!(c["seconds"].as_f64().is_some_and(|s| s > 0.0));
    }
    // The shape of a file.
    let dir = project();
    let c = inferc(dir.path(), &["cost", "--model", "model.gguf", "--format", "json"]).code(0).json();
    assert!(c["flops"].as_f64().is_some_and(|f| f > 0.0));
}

#[test]
fn tests_run_without_any_model() {
    let dir = project();
    let with = |expected: &str| {
        format!(
            "{ONE}\ntest \"what the model said\" {{\n    mock base = [\"Hi.\"];\n    assert one(\"a\").text == \"{expected}\";\n}}\n"
        )
    };
    put(dir.path(), "good.infer", &with("Hi."));
    put(dir.path(), "bad.infer", &with("Bye."));
    std::fs::remove_file(dir.path().join("model.gguf")).expect("removed");
    let good = inferc(dir.path(), &["test", "good.infer", "--format", "json"]).code(0).json();
    assert_eq!((&good["ok"], &good["passed"], &good["failed"]), (&true.into(), &1.into(), &0.into()));
    let bad = inferc(dir.path(), &["test", "good.infer", "bad.infer", "--format", "json"]).code(1).json();
    assert_eq!((&bad["ok"], &bad["passed"], &bad["failed"]), (&false.into(), &1.into(), &1.into()));
    assert!(bad["tests"][1]["failure"].as_str().is_some_and(|f| !f.is_empty()));
    let text = inferc(dir.path(), &["test", "bad.infer"]).code(1).out;
    assert!(text.contains("FAILED  bad.infer: what the model said") && text.contains("0 passed, 1 failed"), "{text}");
    put(dir.path(), "broken.infer", BROKEN);
    inferc(dir.path(), &["test", "broken.infer"]).code(1).says(&["E0201"]);
}

#[test]
fn a_new_project_checks_tests_and_explains() {
    let dir = tempfile::tempdir().expect("a temporary folder");
    inferc(dir.path(), &["new", "mine"]).code(0).says(&["mine/answer.infer", "inferc test"]);
    let mine = dir.path().join("mine");
    inferc(&mine, &["check", "--deny-warnings", "answer.infer"]).code(0);
    inferc(&mine, &["fmt", "--check", "answer.infer"]).code(0);
    inferc(&mine, &["test", "answer.infer"]).code(0);
    inferc(dir.path(), &["new", "mine"]).code(2).says(&["exists already"]);
    std::fs::copy(project().path().join("model.gguf"), mine.join("model.gguf")).expect("copied");
    inferc(&mine, &["run", "answer.infer", "--", "--q", "2+2?", "--n", "1"]).code(0);
    let doctor = inferc(&mine, &["doctor", "--format", "json"]).json();
    let model =
        doctor["checks"].as_array().expect("checks").iter().find(|c| c["name"] == "model").expect("the bound model");
    assert_eq!(model["ok"], true);
}

#[test]
fn a_trace_that_cannot_be_written_is_said_and_the_result_is_kept() {
    let dir = project();
    let args =
        ["run", "one.infer::one", "--seed", "3", "--format", "json", "--trace", "/dev/full", "--", "--q", "Hello"];
    let ran = inferc(dir.path(), &args).code(1).says(&["the trace /dev/full is not whole"]);
    let whole = inferc(dir.path(), &["run", "one.infer::one", "--seed", "3", "--format", "json", "--", "--q", "Hello"]);
    assert_eq!(ran.json()["text"], whole.code(0).json()["text"]);
    assert_eq!(ran.err.matches("not whole").count(), 1, "{}", ran.err);
}

#[test]
fn small_commands_print_what_they_promise() {
    let dir = project();
    for (shell, word) in [("bash", "complete"), ("zsh", "#compdef inferc"), ("fish", "complete -c inferc")] {
        assert!(inferc(dir.path(), &["completions", shell]).code(0).out.contains(word), "{shell}");
    }
    assert!(inferc(dir.path(), &["--version"]).code(0).out.contains(env!("CARGO_PKG_VERSION")));
    let help = inferc(dir.path(), &["--help"]).code(0).out;
    for name in
        ["check", "fmt", "explain", "compile", "run", "test", "bench", "cost", "profile-device", "inspect", "doctor"]
    {
        assert!(help.contains(name), "{name}");
        assert!(inferc(dir.path(), &[name, "--help"]).code(0).out.contains("Usage"), "{name}");
    }
    assert!(inferc(dir.path(), &["doc"]).code(0).out.contains("# Language reference"));
    assert!(inferc(dir.path(), &["doc", "std"]).code(0).out.contains("std::prompts"));
    assert!(inferc(dir.path(), &["doc", "std::prompts"]).code(0).out.contains("prompt"));
    let doctor: Ran = inferc(dir.path(), &["doctor"]).code(0);
    assert!(
        doctor.out.contains("cpu") && doctor.out.contains("features") && doctor.out.contains("cache"),
        "{}",
        doctor.out
    );
}

#[test]
fn bench_grades_tasks_and_measures_kernels() {
    let dir = project();
    put(dir.path(), "t.jsonl", "{\"question\": \"1+1?\", \"answer\": \"2\"}\n\n{\"q\": \"2+2?\"}\n");
    let report = inferc(dir.path(), &["bench", "one.infer", "--data", "t.jsonl", "--analyze", "--format", "json"])
        .code(0)
        .json();
    assert_eq!((&report["tasks"], &report["graded"], &report["failed"]), (&2.into(), &1.into(), &0.into()));
    fields(
        &report,
        &["accuracy", "accuracy_low", "accuracy_high", "tokens_per_task", "seconds_per_task", "latency", "operators"],
    );
    fields(&report, &["predicted_seconds", "measured_seconds"]);
    let rows = report["results"].as_array().expect("a row a task");
    assert_eq!((rows.len(), &rows[0]["id"], &rows[1]["id"]), (2, &1.into(), &3.into()));
    assert!(rows[0]["right"].is_boolean() && rows[1]["right"].is_null() && rows[0]["tokens"].is_u64(), "{rows:?}");
    let text =
        inferc(dir.path(), &["bench", "one.infer", "--data", "t.jsonl", "--limit", "1", "--analyze"]).code(0).out;
    assert!(text.contains("1 tasks") && text.contains("operator") && text.contains("decode base"), "{text}");
    // A verifier that cannot run is no wrong answer: it is said, and the command fails.
    let judged = ONE.replace("    gen(base, ask(q), max: 16tok, temp: 0.8)", "    let s = gen(base, ask(q), max: 16tok, temp: 0.8);\n    if verify(command(\"no-such-program\"), s) > 0.5 { s } else { fail \"wrong\" }");
    put(dir.path(), "judged.infer", &judged);
    let args = ["bench", "judged.infer", "--data", "t.jsonl", "--format", "json"];
    let report = inferc(dir.path(), &args).code(1).says(&["no-such-program", "2 of 2 runs could not be done"]).json();
    assert!(report["results"][0]["error"].as_str().is_some_and(|e| e.contains("no-such-program")), "{report}");
    put(dir.path(), "bad.jsonl", "{\"q\": \"a\"}\n[1]\n");
    inferc(dir.path(), &["bench", "one.infer", "--data", "bad.jsonl"]).code(2).says(&["bad.jsonl:2", "JSON object"]);
    put(dir.path(), "bad.jsonl", "{\"x\": \"a\"}\n");
    inferc(dir.path(), &["bench", "one.infer", "--data", "bad.jsonl"]).code(2).says(&["bad.jsonl:1", "q"]);
    let kernels =
        ["bench", "--kernels", "--model", "model.gguf", "--repeat", "1", "--format", "json", "--threads", "1"];
    let row = inferc(dir.path(), &[&kernels[..], &["--case", "decode:depth=16"]].concat()).code(0).json();
    assert!(row["tokens_per_second"].as_f64().is_some_and(|t| t > 0.0) && row["kernels"].is_null());
    let row = inferc(dir.path(), &[&kernels[..], &["--case", "decode", "--profile"]].concat()).code(0).json();
    let profile = row["kernels"].as_array().expect("a profile");
    let kernel = |name: &str| profile.iter().find(|k| k["name"].as_str().is_some_and(|n| n.starts_with(name)));
    assert!(kernel("attend").is_some_and(|k| k["weight_bytes_per_step"] == 0.0), "{row}");
    assert!(kernel("down").is_some_and(|k| k["weight_bytes_per_step"].as_f64() > Some(0.0)), "{row}");
    assert!(profile.iter().all(|k| k["seconds_per_step"].as_f64() > Some(0.0)), "{row}");
    inferc(dir.path(), &[&kernels[..], &["--case", "encode:n=1"]].concat())
        .code(2)
        .says(&["encode:n=1", "prefill:n=N"]);
    let scored = inferc(dir.path(), &[&kernels[..], &["--case", "score:n=2,prompt=20,len=9"]].concat()).code(0).out;
    let rows: Vec<serde_json::Value> =
        scored.lines().map(|line| serde_json::from_str(line).expect("a document per line")).collect();
    assert_eq!(rows.iter().map(|r| r["prefix"].as_str()).collect::<Vec<_>>(), [Some("shared"), Some("cascade")]);
    assert!(rows.iter().all(|r| r["tokens"] == 18), "{scored}");
    let roofs = ["bench", "--roofs", "--threads", "1", "--format", "json"];
    let report = inferc(dir.path(), &[&roofs[..], &["--bytes", "2000000", "--pieces", "1024"]].concat()).code(0).json();
    fields(&report, &["threads", "isa", "backend", "read", "scattered", "int8_macs_per_second", "f32_macs_per_second"]);
    fields(&report, &["int8_scaled_macs_per_second", "int8_scaled_min_macs_per_second"]);
    let bf16 = &report["bf16_macs_per_second"];
    assert!(bf16.is_null() || bf16.as_f64() > Some(1e9), "{report}");
    fields(&report["scattered"][0], &["bytes", "piece", "bytes_per_second", "median_bytes_per_second"]);
    assert!(report["read"][0]["bytes"].as_u64().is_some_and(|b| b >= 2_000_000));
    inferc(dir.path(), &[&roofs[..], &["--bytes", "5"]].concat()).code(2).says(&["--bytes 5"]);
    let odd = ["--bytes", "2000000", "--pieces", "96"];
    inferc(dir.path(), &[&roofs[..], &odd].concat()).code(2).says(&["--pieces 96"]);
    let attended = ["--bytes", "2000000", "--queries", "2"];
    let report = inferc(dir.path(), &[&roofs[..], &attended].concat()).code(0).json();
    let loops = report["attended"].as_array().expect("a list");
    assert_eq!(loops.iter().map(|a| a["kv"].as_str()).collect::<Vec<_>>(), [Some("f16"), Some("int8")]);
    fields(&loops[0], &["bytes", "kv", "queries", "piece", "bytes_per_second", "median_bytes_per_second"]);
    let many = ["--bytes", "2000000", "--queries", "29"];
    inferc(dir.path(), &[&roofs[..], &many].concat()).code(2).says(&["--queries 29", "1 to 28"]);
    inferc(dir.path(), &[&kernels[..], &["--case", "decode:depth=5000"]].concat()).code(2).says(&["1024"]);
}

/// A `fail` is an end like another: every plan must come to it, and its time counts.
#[test]
fn plans_beside_the_chosen_one_end_as_it_does() {
    let dir = project();
    put(
        dir.path(),
        "fails.infer",
        &ONE.replace("-> Sample<Text>", "-> Text").replace(
            "gen(base, ask(q), max: 16tok, temp: 0.8)",
            "let s = gen(base, ask(q), max: 16tok, temp: 0.8);\n    if s.text == \"no such text\" { s.text } else { fail \"nothing fits\" }",
        ),
    );
    let words = ["--plans", "3", "--repeat", "1", "--threads", "2", "--format", "json", "--", "--q", "Hello"];
    for (file, failed) in [("one.infer", None), ("fails.infer", Some("nothing fits"))] {
        let report = inferc(dir.path(), &[&["bench", file][..], &words[..]].concat()).code(0).json();
        fields(
            &report,
            &["strategy", "outcome", "regret", "regret_alike", "chosen_seconds", "best_seconds", "stopped"],
        );
        assert!(report["regret_alike"].as_f64() <= report["regret"].as_f64(), "{report}");
        assert_eq!(report["outcome"]["failed"].as_str(), failed, "{report}");
        assert_eq!(report["outcome"]["text"].is_string(), failed.is_none(), "{report}");
        assert!(report["regret"].as_f64().is_some_and(|r| r >= 1.0), "the best is one of them: {report}");
        let rows = report["rows"].as_array().expect("a row a plan");
        assert_eq!((report["plans"].as_u64(), rows.len(), &rows[0]["plan"]), (Some(4), 4, &"chosen".into()));
        for row in rows {
            // On a busy machine a plan may be stopped, but not the chosen one.
            let whole = row["stopped"] == false;
            assert!(whole || row["plan"] != "chosen", "{row}");
            let rounds = row["rounds"].as_u64().expect("a number");
            assert!(row["finalist"] == whole && if whole { (3..=15).contains(&rounds) } else { rounds == 0 }, "{row}");
            assert_eq!(row["regret"].is_null(), !whole, "{row}");
            assert!(row["seconds"].as_f64().is_some_and(|s| s > 0.0), "{row}");
        }
    }
    let text = inferc(dir.path(), &["bench", "fails.infer", "--plans", "1", "--", "--q", "Hello"]).code(0).out;
    assert!(text.contains("the same `fail` by ") && text.contains(": nothing fits; regret "), "{text}");
    // Tasks of a file are a round together; a task that does not fit the strategy is named.
    put(dir.path(), "t.jsonl", "{\"question\": \"Hello\"}\n\n{\"q\": \"Why?\"}\n{\"q\": 3}\n");
    let on = |limit: &str, more: &[&str]| {
        let words = ["bench", "one.infer", "--plans", "1", "--repeat", "1", "--data", "t.jsonl", "--limit", limit];
        inferc(dir.path(), &[&words[..], more].concat())
    };
    let report = on("2", &["--format", "json"]).code(0).json();
    assert_eq!((report["inputs"].as_u64(), report["outcome"]["text"].is_string()), (Some(2), true), "{report}");
    assert!(on("2", &[]).code(0).out.contains("for each of 2 tasks the same end by "));
    on("3", &[]).code(2).says(&["t.jsonl:4", "q"]);
    put(dir.path(), "t.jsonl", "\n");
    on("3", &[]).code(2).says(&["t.jsonl", "no task"]);
    // What is no outcome of the strategy ends the command.
    let long = "word ".repeat(2000);
    inferc(dir.path(), &["bench", "one.infer", "--plans", "1", "--", "--q", &long])
        .code(2)
        .says(&["plan \"chosen\"", "context"]);
}

/// A plan beside the chosen one for whose copies of the prompt there are too few pages: a row, not the end of the command.
#[test]
fn plans_that_do_not_fit_are_rows() {
    let dir = project();
    let source = ONE.replace("-> Sample<Text>", "-> Text").replace("tokens: 64tok", "tokens: 1ktok").replace(
        "gen(base, ask(q), max: 16tok, temp: 0.8)",
        "let s = sample(base, ask(q), n: 8, max: 16tok, temp: 0.8);\n    vote(s, by: |s| s.text).value ?? \"\"",
    );
    put(dir.path(), "eight.infer", &source);
    // Memory for the weights and for a few hundred tokens: the prompt once, but not eight times.
    let model = dir.path().join("model.gguf");
    let weights = artifact(&source, &model, &machine(backends()[0], None, 2, Numerics::Int8));
    let weights = weights.plan.models.into_iter().flatten().map(|m| m.weight_bytes).sum::<u64>();
    let page = 16 * 2 * 2 * 64 * 2 * u64::from(SHAPE.layers);
    let class = if runtime::device::probe::isa().avx512 { "cpu-avx512" } else { "cpu-avx2" };
    let mut target = ir::target::builtin(class).expect("built in");
    target.memory = (weights + 80 * page) as f64;
    put(dir.path(), "small.json", &serde_json::to_string(&target).expect("JSON"));
    let long = "word ".repeat(100);
    let words = ["bench", "eight.infer", "--plans", "12", "--repeat", "1", "--threads", "2", "--target", "small.json"];
    let asked = ["--", "--q", &long];
    let report = inferc(dir.path(), &[&words[..], &["--format", "json"], &asked].concat()).code(0).json();
    let rows = report["rows"].as_array().expect("a row a plan");
    let misfits: Vec<&Value> = rows.iter().filter(|r| r["does_not_fit"].is_string()).collect();
    assert!(!misfits.is_empty() && report["does_not_fit"] == misfits.len(), "{report}");
    for row in misfits {
        assert!(row["does_not_fit"].as_str().is_some_and(|why| why.contains("pages")), "{row}");
        assert!(row["seconds"].is_null() && row["finalist"] == false && row["plan"] != "chosen", "{row}");
    }
    assert!(
        rows[0]["plan"] == "chosen" && rows[0]["seconds"].is_f64() && rows[0]["does_not_fit"].is_null(),
        "{report}"
    );
    assert!(report["regret"].as_f64().is_some_and(|r| r >= 1.0), "{report}");
    let text = inferc(dir.path(), &[&words[..], &asked].concat()).code(0).out;
    assert!(text.contains("does not fit: ") && text.contains("regret "), "{text}");
    // The chosen plan has to fit.
    target.memory = (weights + 40 * page) as f64;
    put(dir.path(), "small.json", &serde_json::to_string(&target).expect("JSON"));
    inferc(dir.path(), &[&words[..], &asked].concat()).code(2).says(&["plan \"chosen\"", "pages"]);
}

/// A closed pipe ends the output silently; an interrupt ends a run with a sentence.
#[test]
fn pipes_and_interrupts_end_cleanly() {
    let dir = project();
    let mut child =
        command(dir.path(), &["doc"]).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("starts");
    drop(child.stdout.take());
    let output = child.wait_with_output().expect("ends");
    assert!(output.status.success() && output.stderr.is_empty(), "{output:?}");

    let full = || std::fs::File::options().write(true).open("/dev/full").expect("a full device");
    let output = command(dir.path(), &["doc"]).stdout(full()).stderr(Stdio::piped()).output().expect("runs");
    assert_eq!(output.status.code(), Some(2));
    assert!(String::from_utf8_lossy(&output.stderr).contains("cannot write to standard output"), "{output:?}");

    put(dir.path(), "long.infer", &ONE.replace("64tok", "900tok").replace("16tok", "900tok"));
    let model = gguf(Shape { layers: 24, ..SHAPE });
    std::fs::write(dir.path().join("model.gguf"), model).expect("written");
    let args = ["run", "long.infer", "--trace", "t.jsonl", "--", "--q", "Hello"];
    let child = command(dir.path(), &args).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("starts");
    // The trace exists once the model is loaded and the run is about to begin.
    for _ in 0..600 {
        if dir.path().join("t.jsonl").exists() {
            break;
        }
        std::thread::sleep(std::time::Duration::from_millis(20));
    }
    let kill = std::process::Command::new("kill").args(["-INT", &child.id().to_string()]).status().expect("kill runs");
    assert!(kill.success());
    let output = child.wait_with_output().expect("ends");
    assert_eq!(output.status.code(), Some(1), "{output:?}");
    assert!(String::from_utf8_lossy(&output.stderr).contains("cancel"), "{output:?}");
}

#[test]
fn a_measured_profile_is_a_target() {
    let dir = project();
    let args = ["profile-device", "-o", "here.json", "--threads", "1", "--format", "json"];
    let report = inferc(dir.path(), &args).code(0).json();
    assert!(report["bandwidth"].as_f64().is_some_and(|b| b > 1e6), "{report}");
    let kernels = report["target"]["kernels"].as_array().expect("a list of rates");
    for class in ["linear.q8_0", "head.q4_1", "attend", "attend.int8"] {
        let sound = |k: &serde_json::Value| k["one_thread"].as_f64().is_some_and(|r| r > 0.0) && k["spread"].is_f64();
        assert!(kernels.iter().any(|k| k["class"] == class && sound(k)), "no rate of {class}: {report}");
    }
    assert!(report["target"]["start"].as_f64().is_some_and(|s| s > 0.0 && s < 10.0), "{report}");
    assert!(report["steps"].as_u64() > Some(100) && report["again"].is_u64() && report["noisy"].is_u64(), "{report}");
    let explained = ["explain", "votes.infer", "--target", "here.json", "--format", "json"];
    let first = inferc(dir.path(), &explained).code(0).json();
    assert_eq!(inferc(dir.path(), &explained).code(0).json(), first, "the same profile gives the same plan");
    assert!(first["estimated"]["seconds"].as_f64().is_some_and(|s| s > 0.0));
    let run = ["run", "one.infer", "--target", "here.json", "--format", "json", "--", "--q", "Hello"];
    assert_eq!(inferc(dir.path(), &run).code(0).json()["target"], first["target"]);
    let crossed = ["profile-device", "--crossovers", "model.gguf", "--threads", "1", "--format", "json"];
    let crossed = inferc(dir.path(), &crossed).code(0).json();
    let rows = crossed["crossovers"].as_array().expect("a list");
    assert!(rows.iter().any(|r| r["faster"] == "int8 keys and values" && r["gain"].as_f64() > Some(0.0)), "{crossed}");
    assert!(rows.iter().all(|r| r["from"].is_null() || r["from"].as_u64() <= r["most"].as_u64()), "{crossed}");
    let start = std::time::Instant::now();
    inferc(dir.path(), &["profile-device", "-o", "none/here.json"]).code(2).says(&["none/here.json", "no folder"]);
    inferc(dir.path(), &["profile-device", "--threads", "0"]).code(2).says(&["--threads"]);
    assert!(start.elapsed().as_secs() < 5, "what cannot be written is measured first");
}
