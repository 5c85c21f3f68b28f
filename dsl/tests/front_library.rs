//! The shipped sources: the standard library and the examples are there, short, and in the canonical layout.

use std::fs;
use std::path::Path;

use inferc_dsl as dsl;
use inferc_dsl::ast::ItemKind;

#[test]
fn the_library_has_its_prompts() {
    let source = dsl::std_source("std::prompts").expect("the module");
    let names: Vec<_> = dsl::parse(source, 0)
        .0
        .items
        .into_iter()
        .filter_map(|item| match item.kind {
            ItemKind::Prompt { name, .. } if !item.doc.is_empty() => Some(name.text),
            _ => None,
        })
        .collect();
    let expected = ["solve", "think", "decompose", "substep", "stub", "conclude", "read", "self_questions", "question"];
    assert_eq!(names, expected);
    assert!(dsl::std_source("std::nothing").is_none());
    assert!(dsl::std_files().is_sorted());
}

#[test]
fn the_library_is_in_the_canonical_layout() {
    for (path, source) in dsl::std_files() {
        assert_eq!(dsl::format(source).as_deref(), Ok(*source), "{path}");
    }
}

#[test]
fn examples_are_short_and_in_the_canonical_layout() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../examples");
    let mut count = 0;
    for entry in fs::read_dir(folder).expect("the examples") {
        let path = entry.expect("a readable folder").path();
        if path.extension().is_none_or(|e| e != "infer") {
            continue;
        }
        count += 1;
        let source = fs::read_to_string(&path).expect("a readable file");
        assert_eq!(dsl::format(&source).as_deref(), Ok(source.as_str()), "{}", path.display());
        let test = source.find("\ntest ").unwrap_or(source.len());
        let code = source[..test].lines().filter(|l| !l.trim().is_empty() && !l.trim().starts_with("//")).count();
        assert!(code <= 30, "{}: {code} lines of code", path.display());
        assert!(source.starts_with("/// "), "{} does not say what it shows", path.display());
    }
    assert!(count >= 12);
}
