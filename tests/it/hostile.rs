//! Sources that mean harm or are damaged: always a diagnostic with a place or a refused file, soon, and never a crash.

use crate::program::{Ran, inferc};
use crate::project::{ONE, VOTES, project, root};
use std::os::unix::fs::symlink;
use std::path::Path;
use std::time::{Duration, Instant};

fn check(dir: &Path, name: &str, text: &[u8]) -> Ran {
    std::fs::write(dir.join(name), text).expect("the folder can be written");
    let start = Instant::now();
    let ran = inferc(dir, &["check", name]);
    assert!(start.elapsed() < Duration::from_secs(30), "{name} took {:?}", start.elapsed());
    assert!(ran.err.len() < 1 << 20, "{name}: {} bytes of messages", ran.err.len());
    let json = inferc(dir, &["check", "--format", "json", name]);
    assert_eq!(json.code, ran.code);
    if ran.code < 2 {
        json.json();
    }
    ran
}

#[test]
fn hostile_texts_are_diagnosed() {
    let dir = tempfile::tempdir().expect("a temporary folder");
    let body = |inner: &str| ONE.replace("gen(base, ask(q), max: 16tok, temp: 0.8)", inner);
    let doubled: String = (1..=64).map(|i| format!("let a{i} = (a{}, a{});\n", i - 1, i - 1)).collect();
    let cases: [(&str, Vec<u8>, i32); 17] = [
        ("empty.infer", Vec::new(), 0),
        ("bom.infer", [b"\xef\xbb\xbf", ONE.as_bytes()].concat(), 0),
        ("crlf.infer", ONE.replace('\n', "\r\n").into_bytes(), 0),
        ("nul.infer", b"model base\0 : Generator;".to_vec(), 1),
        ("latin.infer", b"// caf\xe9\nmodel base : Generator;".to_vec(), 2),
        ("bidi.infer", "// \u{202e}evil\nmodel base : Generator;".as_bytes().to_vec(), 1),
        ("parens.infer", body(&"(".repeat(60_000)).into_bytes(), 1),
        ("huge.infer", "(".repeat(4 << 20).into_bytes(), 1),
        ("larger.infer", "(".repeat(17 << 20).into_bytes(), 2),
        ("semicolons.infer", body(&"; ".repeat(1000)).into_bytes(), 1),
        ("name.infer", body(&"a".repeat(900_000)).into_bytes(), 1),
        ("digits.infer", body(&"1".repeat(900_000)).into_bytes(), 1),
        ("exponent.infer", body("1e999999").into_bytes(), 1),
        ("doubling.infer", body(&format!("let a0 = q;\n{doubled}gen(base, ask(q), max: 1tok)")).into_bytes(), 1),
        ("loop.infer", body("for i in 0..1000000000 carry s = none { gen(base, ask(q), max: 1tok) }").into_bytes(), 1),
        ("many.infer", body("sample(base, ask(q), n: 1000000000, max: 64tok)").into_bytes(), 1),
        ("recursion.infer", format!("fn f(x: Int) -> Int {{ f(x) }}\n{ONE}").into_bytes(), 1),
    ];
    for (name, text, code) in cases {
        let ran = check(dir.path(), name, &text);
        if let Some((_, code)) = [("huge.infer", "E0101"), ("semicolons.infer", "E0121")].iter().find(|c| c.0 == name) {
            assert!(ran.err.contains(code), "{name}: no {code} in {}", ran.err);
        }
        if name == "doubling.infer" && ran.code == 0 {
            continue; // unused names that double a type: refused or taken, but soon
        }
        let ran = ran.code(code);
        if code > 0 {
            assert!(ran.err.contains(name), "{name} is not named: {}", ran.err);
            assert!(!ran.err.contains('\u{202e}') && !ran.err.contains('\0'), "{name}: hostile characters are echoed");
        }
    }
}

#[test]
fn imports_stay_in_their_folder() {
    let dir = tempfile::tempdir().expect("a temporary folder");
    let inner = dir.path().join("inner");
    std::fs::create_dir(&inner).expect("made");
    let secret = "prompt secret(q: Text) { user \"XYZZY ${q}\" }\n";
    std::fs::write(dir.path().join("secret.infer"), secret).expect("written");
    symlink("../secret.infer", inner.join("link.infer")).expect("linked");
    symlink("/dev/zero", inner.join("zero.infer")).expect("linked");
    std::fs::write(inner.join("a.infer"), "use b::{two};\nfn one() -> Int { two() }\n").expect("written");
    std::fs::write(inner.join("b.infer"), "use a::{one};\nfn two() -> Int { one() }\n").expect("written");
    let main = |uses: &str| format!("{uses}\n{ONE}");
    for uses in [
        "use link::{secret};",
        "use zero::{x};",
        "use none::{x};",
        "use super::secret::{x};",
        "use main::{one};",
        "use a::{one};",
    ] {
        let ran = check(&inner, "main.infer", main(uses).as_bytes()).code(1);
        assert!(ran.err.contains("main.infer") && !ran.err.contains("XYZZY"), "{}", ran.err);
    }
    // A chain of two thousand files, and a diamond of depth thirty.
    for i in 0..2000 {
        std::fs::write(inner.join(format!("c{i}.infer")), format!("use c{}::{{f}};\n", i + 1)).expect("written");
    }
    check(&inner, "main.infer", main("use c0::{f};").as_bytes()).code(1);
    for i in 0..30 {
        let (l, r) = (format!("l{}", i + 1), format!("r{}", i + 1));
        for side in ["l", "r"] {
            let text =
                format!("use {l}::{{{l}f}};\nuse {r}::{{{r}f}};\nfn {side}{i}f() -> Int {{ {l}f() + {r}f() }}\n");
            std::fs::write(inner.join(format!("{side}{i}.infer")), text).expect("written");
        }
    }
    for side in ["l30", "r30"] {
        std::fs::write(inner.join(format!("{side}.infer")), format!("fn {side}f() -> Int {{ 1 }}\n")).expect("written");
    }
    let ran = check(&inner, "main.infer", main("use l0::{l0f};").as_bytes());
    assert!(ran.code <= 1);
    for path in ["/dev/zero", "/dev/null", ".", "/proc/self/mem"] {
        inferc(&inner, &["check", path]).code(2).says(&[path]);
    }
}

/// Deleted, doubled and swapped words of every example and of the book's programs.
#[test]
fn damaged_programs_never_crash() {
    let mut sources = vec![ONE.to_owned(), VOTES.to_owned()];
    for folder in ["examples", "tests/suite/language"] {
        for entry in std::fs::read_dir(root(folder)).expect("a folder").flatten() {
            if entry.path().extension().is_some_and(|e| e == "infer") {
                sources.push(std::fs::read_to_string(entry.path()).expect("readable"));
            }
        }
    }
    let mut state = 0x2545_F491_4F6C_DD1D_u64;
    let mut random = |below: usize| {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        usize::try_from(state % below.max(1) as u64).expect("below a usize")
    };
    for source in &sources {
        let words: Vec<&str> = source.split_inclusive(|c: char| !c.is_alphanumeric()).collect();
        for _ in 0..12 {
            let mut words = words.clone();
            for _ in 0..=random(3) {
                let (i, j) = (random(words.len()), random(words.len()));
                match random(3) {
                    0 => drop(words.remove(i)),
                    1 => words.insert(i, words[j]),
                    _ => words.swap(i, j),
                }
            }
            let text = words.concat();
            let checked = inferc::inputs::check_text("damaged.infer", text.clone(), Path::new("/nowhere"));
            let shown = inferc::render::text(&checked.diagnostics, &checked.sources, false);
            assert_eq!(shown.is_empty(), checked.diagnostics.is_empty());
            let _ = inferc::render::json(&checked.diagnostics, &checked.sources);
            if checked.is_clean() {
                let names: Vec<String> = checked.program.strategies().map(|f| f.name.clone()).collect();
                for name in names {
                    let _ = inferc::prepare::strategy(&checked, Some(&name)).expect("it is there");
                }
                let once = dsl::format(&text).expect("what checks can be formatted");
                assert_eq!(dsl::format(&once).expect("formatted text parses"), once);
            }
        }
    }
}

#[test]
fn hostile_manifests_and_settings_are_refused() {
    let dir = project();
    for (text, words) in [
        ("edition = 2026", "edition"),
        ("edition = \"2031\"", "2026"),
        ("[models]\nbase = 3", "base"),
        ("[models.base]\ngguf = 3", "gguf"),
        ("[models.base]\ngguf = \"a\"\nregex = \"b\"", "exactly one"),
        ("[models.base]\ncommand = []", "command"),
        ("[models.base", "TOML"),
        ("[tunables]\ncalm = \"x\"", "calm"),
        ("[targets.here]\ncount = 2\ncpu = \"cpu-avx2\"", "one device"),
        ("a.a.a.a = 1\n\u{0}", "TOML"),
    ] {
        std::fs::write(dir.path().join("infer.toml"), text).expect("written");
        inferc(dir.path(), &["run", "one.infer", "--", "--q", "a"]).code(2).says(&["infer.toml", words]);
    }
    std::fs::write(dir.path().join("infer.toml"), vec![b'['; 1 << 20]).expect("written");
    let ran = inferc(dir.path(), &["run", "one.infer", "--", "--q", "a"]).code(2).says(&["infer.toml", "line 1"]);
    assert!(ran.err.len() < 1000, "the error repeats the file");
    std::fs::remove_file(dir.path().join("infer.toml")).expect("removed");
    let endless = ["run", "one.infer", "--manifest", "/dev/zero", "--", "--q", "a"];
    inferc(dir.path(), &endless).code(2).says(&["/dev/zero", "regular file"]);
    for profile in ["{}", "[1]", "{\"target\": {}}", "\u{0}"] {
        std::fs::write(dir.path().join("p.json"), profile).expect("written");
        inferc(dir.path(), &["explain", "one.infer", "--model", "base=model.gguf", "--target", "p.json"])
            .code(2)
            .says(&["p.json", "profile-device"]);
    }
    // Profiles of other formats say what to do, whether they name their format or are older than formats.
    for (profile, found) in [("{\"target\": {}}", "format 1"), ("{\"format\": 9, \"target\": {}}", "format 9")] {
        std::fs::write(dir.path().join("p.json"), profile).expect("written");
        inferc(dir.path(), &["explain", "one.infer", "--model", "base=model.gguf", "--target", "p.json"])
            .code(2)
            .says(&["p.json", found, "reads format 2", "measure again with `inferc profile-device`"]);
    }
}
