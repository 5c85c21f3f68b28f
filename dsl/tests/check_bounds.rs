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

fn messages(source: &str) -> Vec<Diagnostic> {
    let (file, mut messages) = dsl::parse(source, 0);
    messages.extend(dsl::check("main.infer", source, &file, &|_| None).1);
    messages
}

/// The refusal of the book: how the bound comes about, and what would fit.
#[test]
fn a_refused_budget_says_what_would_fit() {
    let path = root().join("tests/suite/language/particles.infer");
    let source = std::fs::read_to_string(path).expect("readable").replace("160ktok", "96ktok");
    let found = messages(&source);
    assert_eq!(found.len(), 1, "{found:?}");
    assert_eq!(found[0].code.0, "E0401");
    assert_eq!(found[0].message, "`particles` may sample 131 072 tokens, but declares at most 96 000");
    assert_eq!(found[0].notes, ["for 0..32 (32) × par ps (16) × max 256tok = 131 072"]);
    assert_eq!(found[0].help.as_deref(), Some("n in 2..=11, or 0..23, or tokens: 132ktok"));
}

/// The message of the book about branching without a limit, with its fix.
#[test]
fn unlimited_branching_is_mended_by_live() {
    let path = root().join("tests/suite/language/eager.infer");
    let source = std::fs::read_to_string(path).expect("readable").replace("live: 16, ", "");
    let found = messages(&source);
    assert_eq!(found.len(), 1, "{found:?}");
    let d = &found[0];
    assert_eq!((d.code.0, d.message.as_str()), ("E0310", "branching has no upper limit"));
    assert_eq!(d.label, "every match doubles the set");
    assert_eq!(d.related[0].1, "nothing says how many sequences may be alive");
    let fix = d.fix.as_ref().expect("a fix");
    let mut mended = source.clone();
    mended.replace_range(fix.span.start as usize..fix.span.end as usize, &fix.text);
    assert!(mended.contains("n: 1, live: 16, max: 4ktok"), "{mended}");
    assert_eq!(messages(&mended), []);
}
