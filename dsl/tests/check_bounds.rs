//! The programs of the language book: they check clean, and their bounds are exactly those of its table.

use inferc_dsl as dsl;

use dsl::BoundsRow;
use ir::diagnostic::{Diagnostic, Severity};
use std::path::{Path, PathBuf};

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..")
}

fn check(path: &Path) -> (dsl::hir::Program, Vec<Diagnostic>) {
    let source = std::fs::read_to_string(path).expect("readable");
    let (file, mut messages) = dsl::parse(&source, 0);
    let folder = path.parent().expect("has a folder").to_owned();
    let load = |name: &str| std::fs::read_to_string(folder.join(name)).ok();
    let (program, more) = dsl::check(&path.display().to_string(), &source, &file, &load);
    messages.extend(more);
    (program, messages)
}

fn shown(messages: &[Diagnostic], program: &dsl::hir::Program) -> String {
    messages
        .iter()
        .map(|d| {
            let source = &program.sources[d.span.file as usize];
            let line = source.text[..d.span.start as usize].matches('\n').count() + 1;
            format!("{}:{line}: {} {} ({}) {:?} {:?}\n", source.path, d.code.0, d.message, d.label, d.help, d.notes)
        })
        .collect()
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
fn the_book_checks_clean() {
    for path in programs("tests/suite/language") {
        let (program, messages) = check(&path);
        let unexpected: Vec<Diagnostic> =
            messages.into_iter().filter(|d| d.severity == Severity::Error || d.code.0 != "W0405").collect();
        assert!(unexpected.is_empty(), "{}", shown(&unexpected, &program));
    }
}

#[test]
fn the_examples_check_clean() {
    for path in programs("examples") {
        let (program, messages) = check(&path);
        assert!(messages.is_empty(), "{}", shown(&messages, &program));
    }
}

#[test]
fn the_table_of_the_book() {
    let mut rows: Vec<BoundsRow> = Vec::new();
    for path in programs("tests/suite/language") {
        rows.extend(dsl::bounds(&check(&path).0));
    }
    let expected: [(&str, u64, Option<u64>); 11] = [
        ("best_of_n", 32_000, Some(48_000)),
        ("self_consistency", 32_000, Some(32_000)),
        ("eager", 72_000, Some(72_000)),
        ("ead", 2_000, Some(2_000)),
        ("frugal", 3_000, None),
        ("spec_reason", 16_000, Some(20_000)),
        ("particles", 131_072, Some(160_000)),
        ("plan_and_budget", 12_000, Some(12_000)),
        ("study", 8_000, Some(16_000)),
        ("ask", 512, Some(512)),
        ("routed", 4_528, Some(8_000)),
    ];
    for (name, tokens, declared) in expected {
        let row = rows.iter().find(|r| r.strategy == name).unwrap_or_else(|| panic!("no row of {name}"));
        assert_eq!((row.bounds.tokens, row.declared.tokens), (tokens, declared), "{name}: {:?}", row.derivation);
    }
    let best = rows.iter().find(|r| r.strategy == "best_of_n").expect("has a row");
    assert_eq!((best.bounds.calls, best.bounds.live, best.bounds.kv_tokens), (64, 32, 32_000));
}
