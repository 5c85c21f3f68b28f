//! `dsl/REFERENCE.md` is generated: this test writes it with `REFERENCE_BLESS=1` and fails when it is stale.

use inferc_dsl as dsl;

use std::path::Path;

#[test]
fn reference_is_fresh() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("REFERENCE.md");
    let text = dsl::builtins::reference();
    if std::env::var_os("REFERENCE_BLESS").is_some() {
        std::fs::write(&path, &text).expect("writable");
    }
    let written = std::fs::read_to_string(&path).expect("REFERENCE.md exists");
    assert!(written == text, "dsl/REFERENCE.md is stale: run this test with REFERENCE_BLESS=1");
}

#[test]
fn signatures_take_apart() {
    let sample = dsl::builtins::callable("sample").expect("built in");
    let params = sample.params();
    let names: Vec<&str> = params.iter().map(|p| p.name).collect();
    assert_eq!(names, ["m", "c", "n", "live", "max", "temp", "top_p", "top_k", "min_p", "step", "stop", "seed", "out"]);
    assert!(!params[1].named && params[2].named && !params[2].optional && params[3].optional);
    let same = dsl::builtins::callable("semantic_entropy").expect("built in").params();
    assert_eq!(same[1].ty, "fn(T, T) -> Bool");
}
