//! The rules of the house: crate edges, file names and sizes, where unsafe code may be, words that must not occur, codes
//! and examples that must be tested.

use crate::program::inferc;
use crate::project::root;
use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::process::Command;

const CRATES: [&str; 5] = ["ir", "dsl", "optimizer", "codegen", "runtime"];

/// Files that may hold unsafe code: memory maps, machine code, threads on raw buffers, instructions that are tried.
const UNSAFE: &[&str] = &[
    "codegen/tests/backends/amx.rs",
    "codegen/tests/backends/native.rs",
    "codegen/tests/lower/speed.rs",
    "runtime/src/device/cpu.rs",
    "runtime/src/device/extensions.rs",
    "runtime/src/gguf.rs",
    "runtime/tests/files_gguf.rs",
];

/// Files of the project with an extension, sorted, without build outputs.
fn files(extension: &str) -> Vec<PathBuf> {
    fn walk(folder: &Path, extension: &str, out: &mut Vec<PathBuf>) {
        for entry in std::fs::read_dir(folder).expect("a folder").flatten() {
            let (path, name) = (entry.path(), entry.file_name().to_string_lossy().into_owned());
            if path.is_dir() {
                if !name.starts_with("target") && (!name.starts_with('.') || name == ".ci") {
                    walk(&path, extension, out);
                }
            } else if extension.is_empty() || path.extension().is_some_and(|e| e == extension) {
                out.push(path);
            }
        }
    }
    let mut out = Vec::new();
    for folder in CRATES.iter().chain(&["src", "tests", "examples", "scripts", "docs", "benches", ".ci"]) {
        if root(folder).is_dir() {
            walk(&root(folder), extension, &mut out);
        }
    }
    for entry in std::fs::read_dir(root(".")).expect("the project").flatten() {
        let path = root(&entry.file_name().to_string_lossy());
        if path.is_file() && (extension.is_empty() || path.extension().is_some_and(|e| e == extension)) {
            out.push(path);
        }
    }
    out.sort();
    out
}

fn shown(path: &Path) -> String {
    path.strip_prefix(root("")).unwrap_or(path).display().to_string()
}

fn read(path: &Path) -> String {
    String::from_utf8_lossy(&std::fs::read(path).expect("readable")).into_owned()
}

#[test]
fn crate_edges_are_the_star() {
    let output = Command::new(env!("CARGO"))
        .args(["metadata", "--format-version", "1", "--no-deps", "--offline"])
        .current_dir(root(""))
        .output()
        .expect("cargo runs");
    let document: serde_json::Value = serde_json::from_slice(&output.stdout).expect("JSON");
    let mut edges = BTreeMap::new();
    for package in document["packages"].as_array().expect("packages") {
        let name = package["name"].as_str().expect("a name").to_owned();
        let ours: BTreeSet<String> = package["dependencies"]
            .as_array()
            .expect("dependencies")
            .iter()
            // Tests of a room may use another room to make their inputs.
            .filter(|d| d["kind"].is_null() && d["path"].is_string())
            .map(|d| d["name"].as_str().expect("a name").to_owned())
            .collect();
        edges.insert(name, ours);
    }
    let set = |names: &[&str]| names.iter().map(|n| format!("inferc-{n}")).collect::<BTreeSet<_>>();
    assert_eq!(edges["inferc-ir"], BTreeSet::new());
    for spoke in ["dsl", "optimizer", "codegen", "runtime"] {
        assert_eq!(edges[&format!("inferc-{spoke}")], set(&["ir"]), "{spoke}");
    }
    assert_eq!(edges["inferc"], set(&CRATES));
    assert_eq!(edges.len(), 6);
}

#[test]
fn every_source_file_says_what_it_is_and_is_short() {
    let mut bad = Vec::new();
    for path in files("rs") {
        let text = read(&path);
        if !text.starts_with("//! ") {
            bad.push(format!("{}: does not open with //!", shown(&path)));
        }
        let lines = text.lines().count();
        if lines > 900 {
            bad.push(format!("{}: {lines} lines", shown(&path)));
        }
    }
    assert!(bad.is_empty(), "{}", bad.join("\n"));
}

#[test]
fn unsafe_code_is_where_it_may_be() {
    let word = concat!("uns", "afe");
    let mut found = BTreeSet::new();
    for path in files("rs") {
        let text = read(&path);
        let code = text.lines().map(|l| l.split("//").next().unwrap_or_default());
        let mut uses = code.filter(|l| l.split(|c: char| !c.is_alphanumeric() && c != '_').any(|w| w == word));
        if uses.next().is_some() {
            found.insert(shown(&path));
        }
    }
    assert_eq!(found, UNSAFE.iter().map(|f| (*f).to_owned()).collect::<BTreeSet<_>>());
}

#[test]
fn no_file_has_a_name_that_says_nothing() {
    for path in files("") {
        let stem = path.file_stem().unwrap_or_default().to_string_lossy().to_lowercase();
        let stem = stem.trim_end_matches('s');
        let banned = ["util", "helper", "common", "misc", "base", "core", "prelude", "stuff", "temp", "foo"];
        assert!(!banned.contains(&stem), "{}", shown(&path));
    }
}

#[test]
fn no_text_speaks_of_one_machine() {
    let machine = [
        concat!("/wo", "rk/"),
        concat!("/tmp", "/t/"),
        concat!("/ro", "ot/"),
        concat!("/home", "/user"),
        concat!("index", ".crates.io"),
        concat!("static", ".crates.io"),
        concat!("files.", "pythonhosted"),
        concat!("127.0", ".0.1:3"),
        concat!("artif", "actory"),
        concat!("TO", "DO"),
        concat!("FIX", "ME"),
    ];
    let mut bad = Vec::new();
    for path in files("").into_iter().filter(|p| !p.starts_with(root("models"))) {
        for (number, line) in read(&path).lines().enumerate() {
            for word in machine {
                if line.contains(word) {
                    bad.push(format!("{}:{}: {word}", shown(&path), number + 1));
                }
            }
        }
    }
    assert!(bad.is_empty(), "{}", bad.join("\n"));
}

/// The language knows no hardware and no weights; compile stages do no I/O.
#[test]
fn rooms_name_only_what_is_theirs() {
    let paths = ["ir::target", "ir::model", "ir::plan", "ir::kernel", "ir::schedule", "ir::program", "ir::code"];
    let doors = [
        "std::fs",
        "std::env",
        "std::net",
        "std::process",
        "std::thread",
        "Instant::",
        "SystemTime",
        "println!",
        "eprintln!",
    ];
    let mut bad = Vec::new();
    for path in files("rs") {
        let name = shown(&path);
        let text = read(&path);
        let code = text.split("#[cfg(test)]").next().unwrap_or_default();
        let mut check = |room: &str, words: &[&str]| {
            if name.starts_with(&format!("{room}/src/")) && !name.ends_with("/tests.rs") {
                for line in code.lines().filter(|l| !l.trim_start().starts_with("//")) {
                    bad.extend(words.iter().filter(|w| line.contains(**w)).map(|w| format!("{name}: {w}")));
                }
            }
        };
        check("dsl", &paths);
        for room in ["ir", "dsl", "optimizer", "codegen"] {
            check(room, &doors);
        }
        for spoke in ["ir", "dsl", "optimizer", "codegen", "runtime"] {
            check(spoke, &["clap::", "serde_json::to_writer(std::io::stdout"]);
        }
    }
    assert!(bad.is_empty(), "{}", bad.join("\n"));
}

/// Foreign types stay at home.
#[test]
fn public_lines_name_no_foreign_type() {
    let foreign = ["egg::", "nom::", "cranelift", "inkwell", "LLVM", "llguidance::", "minijinja::", "tokenizers::"];
    let mut bad = Vec::new();
    for path in files("rs").into_iter().filter(|p| CRATES.iter().any(|c| p.starts_with(root(c).join("src")))) {
        for line in read(&path).lines() {
            let code = line.trim_start();
            if code.starts_with("pub fn") || code.starts_with("pub struct") || code.starts_with("pub type") {
                bad.extend(foreign.iter().filter(|f| code.contains(**f)).map(|f| format!("{}: {f}", shown(&path))));
            }
        }
    }
    assert!(bad.is_empty(), "{}", bad.join("\n"));
}

#[test]
fn every_code_is_provoked_and_explained() {
    let cases: String = files("infer").iter().filter(|p| p.starts_with(root("tests/suite"))).map(|p| read(p)).collect();
    let codes = dsl::codes::CODES
        .iter()
        .map(|e| (e.code.0, e.text))
        .chain(dsl::parse::SYNTAX_CODES.iter().map(|c| (c.0.0, c.2)));
    let mut missing = Vec::new();
    for (code, text) in codes {
        assert!(!text.trim().is_empty(), "{code} explains nothing");
        // What takes a file of a mebibyte or a hundred errors is provoked by the parser's own tests and by `hostile`.
        if !cases.contains(&format!("[{code}]")) && !["E0101", "E0121"].contains(&code) {
            missing.push(code);
        }
    }
    assert!(missing.is_empty(), "no case of the suite provokes {missing:?}");
}

fn examples() -> Vec<PathBuf> {
    let examples: Vec<PathBuf> = files("infer").into_iter().filter(|p| p.starts_with(root("examples"))).collect();
    assert!(examples.len() >= 20, "{} examples", examples.len());
    examples
}

#[test]
fn every_example_checks_lowers_and_is_formatted() {
    let folder = root("");
    for path in examples() {
        let name = path.display().to_string();
        inferc(&folder, &["check", "--deny-warnings", &name]).code(0);
        inferc(&folder, &["fmt", "--check", &name]).code(0);
        let checked = ::inferc::inputs::check(&path).expect("readable");
        let strategies: Vec<String> = checked.program.strategies().map(|f| f.name.clone()).collect();
        for strategy in strategies {
            let lowered = ::inferc::prepare::strategy(&checked, Some(&strategy)).expect("it is there");
            let ir = lowered.unwrap_or_else(|d| panic!("{name}::{strategy}: {d:?}"));
            assert_eq!(
                ir.to_string(),
                ::inferc::prepare::strategy(&checked, Some(&strategy)).expect("there").expect("lowers").to_string()
            );
        }
    }
}

#[test]
fn tests_of_examples_pass() {
    let names: Vec<String> = examples().iter().map(|p| p.display().to_string()).collect();
    let args: Vec<&str> = ["test", "--format", "json"].into_iter().chain(names.iter().map(String::as_str)).collect();
    let report = inferc(&root(""), &args).code(0).json();
    assert_eq!((&report["ok"], &report["failed"]), (&true.into(), &0.into()));
    assert!(report["passed"].as_u64().is_some_and(|n| n >= 10), "{report}");
}

#[test]
fn scripts_can_be_run() {
    use std::os::unix::fs::PermissionsExt as _;
    let scripts = [
        "scripts/demo",
        "scripts/test",
        "scripts/setup",
        "scripts/fetch-models",
        "scripts/bench-peer",
        "scripts/performance",
        "scripts/strategy-table",
        "scripts/sparse-quality",
        "scripts/plan-regret",
        ".ci/run",
    ];
    for script in scripts {
        let mode = std::fs::metadata(root(script)).unwrap_or_else(|e| panic!("{script}: {e}")).permissions().mode();
        assert!(mode & 0o111 == 0o111, "{script} is not executable");
        assert!(read(&root(script)).starts_with("#!"), "{script} has no interpreter line");
    }
}
