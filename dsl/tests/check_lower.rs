//! Lowering: what checks and runs becomes well-formed Strategy IR; what does not run yet is refused by name.

use inferc_dsl as dsl;

use ir::diagnostic::{Diagnostic, Severity};
use ir::strategy::Strategy;
use std::path::{Path, PathBuf};

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..")
}

fn program(path: &Path) -> dsl::hir::Program {
    let source = std::fs::read_to_string(path).expect("readable");
    let folder = path.parent().expect("has a folder").to_owned();
    checked(&source, &|name| std::fs::read_to_string(folder.join(name)).ok())
}

fn checked(source: &str, load: &dyn Fn(&str) -> Option<String>) -> dsl::hir::Program {
    let (file, mut messages) = dsl::parse(source, 0);
    let (program, more) = dsl::check("main.infer", source, &file, load);
    messages.extend(more);
    messages.retain(|d| d.severity == Severity::Error);
    assert!(messages.is_empty(), "{messages:#?}");
    program
}

fn lowered(source: &str) -> Result<Strategy, Vec<Diagnostic>> {
    let program = checked(source, &|_| None);
    let name = program.strategies().next().expect("a strategy").name.clone();
    dsl::lower(&program, &name)
}

fn programs(folder: &str) -> Vec<PathBuf> {
    let mut paths: Vec<PathBuf> = std::fs::read_dir(root().join(folder))
        .expect("folder exists")
        .filter_map(|e| Some(e.ok()?.path()))
        .filter(|p| p.extension().is_some_and(|e| e == "infer"))
        .collect();
    paths.sort();
    paths
}

#[test]
fn examples_lower_to_well_formed_strategies() {
    for path in programs("examples") {
        let program = program(&path);
        for strategy in program.strategies() {
            let lowered = dsl::lower(&program, &strategy.name).unwrap_or_else(|e| panic!("{path:?}: {e:#?}"));
            assert_eq!(ir::strategy_check::strategy(&lowered), Ok(()), "{path:?}\n{lowered}");
            assert_eq!(dsl::lower(&program, &strategy.name).as_ref(), Ok(&lowered), "deterministic");
        }
        for test in dsl::tests(&program) {
            let test = test.unwrap_or_else(|e| panic!("{path:?}: {e:#?}"));
            for strategy in &test.strategies {
                assert_eq!(ir::strategy_check::strategy(strategy), Ok(()), "{path:?}");
            }
        }
    }
}

/// Which strategies of the book run, and which code refuses the others.
#[test]
fn the_book_runs_or_is_refused_by_name() {
    let mut found = Vec::new();
    for path in programs("tests/suite/language") {
        let program = program(&path);
        for strategy in program.strategies() {
            let result = match dsl::lower(&program, &strategy.name) {
                Ok(lowered) => {
                    assert_eq!(ir::strategy_check::strategy(&lowered), Ok(()), "{lowered}");
                    "runs".to_owned()
                }
                Err(errors) => {
                    assert!(errors.iter().all(|d| d.code.0.starts_with("E09") && d.help.is_some()), "{errors:#?}");
                    errors.iter().map(|d| d.code.0).collect::<Vec<_>>().join(" ")
                }
            };
            found.push(format!("{} {result}", strategy.name));
        }
        for test in dsl::tests(&program) {
            assert_eq!(test.map(|t| (t.title, t.strategies.len())), Ok(("the vote stops early".to_owned(), 1)));
        }
    }
    let expected = [
        "best_of_n runs",
        "ead E0901 E0901",
        "frugal runs",
        "eager runs",
        "proxy_tuned E0902",
        "routed E0903",
        "fastest E0902",
        "particles E0902 E0902 E0902 E0902 E0902",
        "plan_and_budget E0902",
        "ask E0903",
        "self_consistency runs",
        "spec_reason E0901 E0901",
        "self_consistency runs",
    ];
    assert_eq!(found, expected);
}

const HEAD: &str = "use std::prompts::solve;\nmodel base : Generator;\n";

#[test]
fn a_tail_return_is_a_value_and_an_early_one_a_break() {
    let tail = lowered(&format!(
        "{HEAD}fn pick(s: Sample<Text>) -> Text {{ if s.ended {{ return s.text }} s.text + \"…\" }}\n\
         strategy s(q: Text) -> Text {{ let a = gen(base, solve(q), max: 10tok); pick(a) + \"!\" }}"
    ))
    .expect("lowers")
    .to_string();
    assert!(tail.contains("break") && !tail.contains("return"), "{tail}");
    let only_tail = lowered(&format!(
        "{HEAD}fn pick(s: Sample<Text>) -> Text {{ if s.ended {{ return s.text }} else {{ s.last }} }}\n\
         strategy s(q: Text) -> Text {{ let a = gen(base, solve(q), max: 10tok); pick(a) + \"!\" }}"
    ))
    .expect("lowers")
    .to_string();
    assert!(!only_tail.contains("break") && !only_tail.contains("for "), "{only_tail}");
}

#[test]
fn functions_as_arguments_are_written_out() {
    let text = lowered(&format!(
        "{HEAD}fn twice(f: fn(Text) -> Text, x: Text) -> Text {{ f(f(x)) }}\n\
         strategy s(q: Text) -> Text {{ let y = \"!\"; twice(|t| twice(|u| u + y, t), q) }}"
    ))
    .expect("lowers")
    .to_string();
    assert_eq!(text.matches(" + ").count(), 4, "{text}");
}

#[test]
fn a_called_strategy_keeps_its_guard_and_its_streams() {
    let strategy = lowered(&format!(
        "{HEAD}strategy outer(q: Text) -> Text within {{ tokens: 20ktok }} {{\n\
           let a = inner(q); let b = inner(q); a.text + b.text }}\n\
         strategy inner(q: Text) -> Sample<Text> within {{ tokens: 2ktok }} {{ gen(base, solve(q), max: 1ktok) }}"
    ))
    .expect("lowers");
    let text = strategy.to_string();
    assert_eq!(text.matches("within {").count(), 3, "{text}");
    assert!(text.contains("#0 ~0") && text.contains("#1 ~1"), "{text}");
    assert_eq!(strategy.bounds.tokens, 2000);
}

#[test]
fn nothing_follows_what_never_returns() {
    let strategy = lowered(&format!(
        "{HEAD}strategy s(q: Text, n: Int = 1 in 1..=4) -> Sample<Text> {{\n\
           if n > 2 {{ fail \"too many\"; gen(base, solve(q), max: 1ktok); }}\n\
           for i in 0..3 {{ break; }}\n\
           gen(base, solve(q), max: 1ktok) }}"
    ))
    .expect("lowers");
    assert_eq!(ir::strategy_check::strategy(&strategy), Ok(()), "{strategy}");
    assert_eq!(strategy.sites, 1);
}
