//! Plan files: what is damaged, foreign or out of date is refused with the first difference named; what is interrupted
//! leaves no half-written file.

use crate::program::{command, fed, inferc};
use crate::project::{SHAPE, VOTES, artifact, backends, machine, project};
use ::inferc::artifact::fits;
use ::inferc::synthetic::{Shape, gguf};
use ir::artifact::{Artifact, ArtifactError, FORMAT};
use ir::schedule::Numerics;
use ir::strategy::Const;
use std::path::Path;
use std::process::Stdio;
use std::time::Duration;

fn plan(dir: &Path) -> Artifact {
    let machine = machine(backends()[0], None, 1, Numerics::Int8);
    artifact(VOTES, &dir.join("model.gguf"), &machine)
}

/// Numbers without a pattern.
fn scattered(count: usize, below: usize) -> impl Iterator<Item = usize> {
    let mut state = 0x9E37_79B9_7F4A_7C15_u64;
    (0..count).map(move |_| {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        usize::try_from(state % below as u64).expect("below a usize")
    })
}

#[test]
fn a_plan_keeps_the_tunables_it_was_compiled_with() {
    let dir = project();
    let calm = |set: &[&str]| {
        inferc(dir.path(), &[&["compile", "votes.infer", "-o", "v.plan"], set].concat()).code(0);
        let bytes = std::fs::read(dir.path().join("v.plan")).expect("written");
        Artifact::decode(&bytes).expect("whole").plan.strategy.tunables[0].value.clone()
    };
    assert_eq!(calm(&[]), Const::Float(3.0));
    assert_eq!(calm(&["--set", "calm=5"]), Const::Float(5.0));
    let manifest = std::fs::read_to_string(dir.path().join("infer.toml")).expect("there");
    std::fs::write(dir.path().join("infer.toml"), format!("{manifest}\n[tunables]\ncalm = 6.5\n")).expect("written");
    assert_eq!(calm(&[]), Const::Float(6.5));
    assert_eq!(calm(&["--set", "calm=5"]), Const::Float(5.0));
    inferc(dir.path(), &["compile", "votes.infer", "--set", "calm=10", "-o", "v.plan"])
        .code(2)
        .says(&["calm", "0 to 9"]);
}

#[test]
fn bytes_come_back_and_do_not_depend_on_the_day() {
    let dir = project();
    let plan_ = plan(dir.path());
    let bytes = plan_.encode();
    assert_eq!(plan(dir.path()).encode(), bytes);
    let back = Artifact::decode(&bytes).expect("whole");
    assert_eq!(back, plan_);
    assert_eq!(back.encode(), bytes);
    fits(&back).expect("it was made here");
}

#[test]
fn every_cut_is_refused() {
    let dir = project();
    let bytes = plan(dir.path()).encode();
    let header = 16 + 4 * 64 + 32;
    let cuts = (0..header + 64).chain((header..bytes.len()).step_by(1024)).chain([bytes.len() - 1]);
    for cut in cuts {
        let error = Artifact::decode(&bytes[..cut]).expect_err("a cut file is no plan");
        match (cut, error) {
            (0..8, ArtifactError::Magic) | (8.., ArtifactError::Truncated(_)) => {}
            (_, other) => panic!("cut at {cut}: {other}"),
        }
    }
    let longer = [&bytes[..], b"x"].concat();
    assert!(matches!(Artifact::decode(&longer), Err(ArtifactError::Malformed(..))));
}

#[test]
fn every_flipped_bit_is_refused() {
    let dir = project();
    let mut bytes = plan(dir.path()).encode();
    let header = 16 + 4 * 64 + 32;
    let places: Vec<usize> = (0..header * 8).chain(scattered(3000, bytes.len() * 8)).collect();
    for bit in places {
        bytes[bit / 8] ^= 1 << (bit % 8);
        let error = Artifact::decode(&bytes).expect_err("a flipped bit is seen");
        match (bit / 8, error) {
            (0..8, ArtifactError::Magic) | (8..12, ArtifactError::Version(_, FORMAT)) => {}
            (12.., ArtifactError::Corrupt(what)) => {
                assert_eq!(what == "the header", bit / 8 < header, "bit {bit}: {what}")
            }
            (_, other) => panic!("bit {bit}: {other}"),
        }
        bytes[bit / 8] ^= 1 << (bit % 8);
    }
    Artifact::decode(&bytes).expect("all bits are back");
}

/// Sections whose checksums were made again after tampering: still no crash, an error or a plan.
#[test]
fn tampered_sections_with_good_checksums_do_not_crash() {
    let dir = project();
    let whole = plan(dir.path()).encode();
    for (i, place) in scattered(400, whole.len()).enumerate() {
        let mut bytes = whole.clone();
        bytes[place] = bytes[place].wrapping_add(u8::try_from(i % 255).expect("below 255") + 1);
        reseal(&mut bytes);
        // Either outcome is right; not returning is not.
        let _ = Artifact::decode(&bytes);
    }
}

/// Computes all checksums again, as an attacker would.
fn reseal(bytes: &mut [u8]) {
    for entry in (16..16 + 4 * 64).step_by(64) {
        let word = |at: usize| u64::from_le_bytes(bytes[at..at + 8].try_into().expect("eight bytes"));
        let (start, len) = (word(entry + 16), word(entry + 24));
        let range = usize::try_from(start).ok().zip(start.checked_add(len).and_then(|e| usize::try_from(e).ok()));
        if let Some(hash) = range.and_then(|(a, b)| bytes.get(a..b)).map(blake3::hash) {
            bytes[entry + 32..entry + 64].copy_from_slice(hash.as_bytes());
        }
    }
    let end = 16 + 4 * 64;
    let hash = blake3::hash(&bytes[..end]);
    bytes[end..end + 32].copy_from_slice(hash.as_bytes());
}

/// Absurd section tables, resealed: lengths near 2^64, overlaps, sections outside.
#[test]
fn hostile_section_tables_are_refused() {
    let dir = project();
    let whole = plan(dir.path()).encode();
    for entry in (16..16 + 4 * 64).step_by(64) {
        for (field, value) in [(16, 0), (16, u64::MAX), (16, 16), (24, u64::MAX), (24, u64::MAX - 300), (24, 0)] {
            let mut bytes = whole.clone();
            bytes[entry + field..entry + field + 8].copy_from_slice(&value.to_le_bytes());
            reseal(&mut bytes);
            Artifact::decode(&bytes).expect_err("a section table that lies");
        }
    }
}

#[test]
fn the_first_difference_is_named() {
    let dir = project();
    let whole = plan(dir.path());
    let refused = |artifact: &Artifact, words: &[&str]| {
        let path = dir.path().join("x.plan");
        std::fs::write(&path, artifact.encode()).expect("written");
        let ran = inferc(dir.path(), &["run", "x.plan", "--", "--q", "Hello"]);
        ran.code(2).says(&["x.plan does not run here"]).says(words);
        let inspected = inferc(dir.path(), &["inspect", "x.plan", "--format", "json"]).code(1).json();
        assert_eq!(inspected["fits_this_machine"], false);
        let difference = inspected["difference"].as_str().expect("a sentence").to_owned();
        for word in words {
            assert!(difference.contains(word), "{difference}");
        }
    };
    let mut other = whole.clone();
    other.manifest.compiler = "9.9.9".to_owned();
    refused(&other, &["9.9.9", env!("CARGO_PKG_VERSION"), "compile the source again"]);
    let mut other = whole.clone();
    other.manifest.models[0].2 = "0123456789abcdef".repeat(4);
    refused(&other, &["another model", "0123456789abcdef", "compile the source again"]);
    let mut other = whole.clone();
    other.manifest.models[0].1 = "gone.gguf".to_owned();
    refused(&other, &["gone.gguf", "base"]);
    // Another compiler and another model: the compiler comes first.
    other.manifest.compiler = "9.9.9".to_owned();
    refused(&other, &["9.9.9"]);
    let host = runtime::device::probe::isa();
    for (feature, lacking) in [("AVX-512", !host.avx512), ("VNNI", !host.vnni), ("AMX-INT8", !host.amx_int8)] {
        if !lacking {
            continue;
        }
        let mut other = whole.clone();
        other.manifest.isa.avx512 |= feature == "AVX-512";
        other.manifest.isa.vnni |= feature == "VNNI";
        other.manifest.isa.amx_int8 |= feature == "AMX-INT8";
        refused(&other, &[feature, "this CPU lacks"]);
    }
    if host.avx512 && host.vnni && host.amx_int8 {
        eprintln!("skipped: this CPU has every feature that a plan may ask for");
    }
}

#[test]
fn another_model_under_the_same_name_is_refused() {
    let dir = project();
    inferc(dir.path(), &["compile", "one.infer", "-o", "x.plan"]).code(0);
    inferc(dir.path(), &["run", "x.plan", "--", "--q", "Hello"]).code(0);
    std::fs::write(dir.path().join("model.gguf"), gguf(Shape { ffn: 256, ..SHAPE })).expect("written");
    inferc(dir.path(), &["run", "x.plan", "--", "--q", "Hello"]).code(2).says(&[
        "model.gguf",
        "another model",
        "compile",
    ]);
    // A truncated model is no model.
    let image = gguf(SHAPE);
    std::fs::write(dir.path().join("model.gguf"), &image[..image.len() / 2]).expect("written");
    inferc(dir.path(), &["run", "x.plan", "--", "--q", "Hello"]).code(2).says(&["model.gguf"]);
}

#[test]
fn damaged_files_are_refused_by_the_program() {
    let dir = project();
    inferc(dir.path(), &["compile", "one.infer", "-o", "x.plan"]).code(0);
    let whole = std::fs::read(dir.path().join("x.plan")).expect("written");
    let put = |bytes: &[u8]| std::fs::write(dir.path().join("bad.plan"), bytes).expect("written");
    let mut version = whole.clone();
    version[8] = 9;
    let mut flipped = whole.clone();
    *flipped.last_mut().expect("not empty") ^= 0x10;
    for (bytes, words) in [
        (&b""[..], "not a compiled plan"),
        (&whole[..100], "truncated"),
        (&whole[..whole.len() - 1], "truncated"),
        (&version[..], "format version 9"),
        (&flipped[..], "corrupt"),
    ] {
        put(bytes);
        for args in [&["inspect", "bad.plan"][..], &["run", "bad.plan", "--", "--q", "Hello"]] {
            inferc(dir.path(), args).code(2).says(&["bad.plan", words]);
        }
    }
    inferc(dir.path(), &["inspect", "."]).code(2).says(&["regular file"]);
    inferc(dir.path(), &["inspect", "none.plan"]).code(2).says(&["none.plan"]);
}

#[test]
fn a_killed_compiler_leaves_a_whole_plan_or_none() {
    let dir = project();
    for milliseconds in [0, 20, 60, 120, 200, 300] {
        let mut child = command(dir.path(), &["compile", "votes.infer", "-o", "k.plan", "--no-cache"])
            .stderr(Stdio::null())
            .spawn()
            .expect("the program starts");
        std::thread::sleep(Duration::from_millis(milliseconds));
        let _ = child.kill();
        let _ = child.wait();
        let path = dir.path().join("k.plan");
        if path.exists() {
            inferc(dir.path(), &["inspect", "k.plan"]).code(0);
            std::fs::remove_file(path).expect("removed");
        }
    }
    inferc(dir.path(), &["compile", "votes.infer", "-o", "k.plan"]).code(0);
}

#[test]
fn several_compilers_of_one_plan_agree() {
    let dir = project();
    let cache = tempfile::tempdir().expect("a temporary folder");
    let start = || {
        let mut command = command(dir.path(), &["compile", "votes.infer", "-o", "x.plan"]);
        command.env("INFERC_CACHE", cache.path().join("c")).stderr(Stdio::null()).spawn().expect("the program starts")
    };
    let children: Vec<_> = (0..4).map(|_| start()).collect();
    for mut child in children {
        assert!(child.wait().expect("it ends").success());
    }
    let first = std::fs::read(dir.path().join("x.plan")).expect("written");
    inferc(dir.path(), &["compile", "votes.infer", "-o", "y.plan", "--no-cache"]).code(0);
    assert_eq!(std::fs::read(dir.path().join("y.plan")).expect("written"), first);
    let left: Vec<_> = std::fs::read_dir(dir.path()).expect("a folder").flatten().map(|e| e.file_name()).collect();
    assert!(left.iter().all(|n| !n.to_string_lossy().starts_with('.')), "temporary files stay: {left:?}");
}

#[test]
fn a_cache_that_cannot_be_trusted_is_not_used_and_changes_nothing() {
    use std::os::unix::fs::PermissionsExt as _;
    let dir = project();
    let expected = inferc(dir.path(), &["run", "one.infer", "--format", "json", "--", "--q", "Hello"]).code(0);
    let expected = expected.json()["tokens"].clone();
    let open = dir.path().join("open");
    std::fs::create_dir(&open).expect("made");
    std::fs::set_permissions(&open, std::fs::Permissions::from_mode(0o777)).expect("set");
    std::fs::write(dir.path().join("file"), b"").expect("written");
    for (cache, word) in [("open", "others can write"), ("file", "not used"), ("/proc/nothing", "not used")] {
        let output = command(dir.path(), &["run", "one.infer", "--format", "json", "--", "--q", "Hello"])
            .env("INFERC_CACHE", cache)
            .output()
            .expect("the program runs");
        let err = String::from_utf8(output.stderr).expect("UTF-8");
        assert!(output.status.success() && err.contains(word), "{cache}: {err}");
        assert_eq!(err.matches("warning").count(), 1, "{err}");
        let json: serde_json::Value = serde_json::from_slice(&output.stdout).expect("JSON");
        assert_eq!(json["tokens"], expected);
    }
    assert!(std::fs::read_dir(&open).expect("a folder").next().is_none(), "an untrusted cache was written to");
}

#[test]
fn plans_to_places_that_cannot_be_written_are_errors() {
    let dir = project();
    for output in ["none/x.plan", "/proc/x.plan", "."] {
        inferc(dir.path(), &["compile", "one.infer", "-o", output]).code(2).says(&["cannot write", output]);
    }
    assert_eq!(fed(dir.path(), &["compile", "one.infer"], b"").code(2).says(&["-o PLAN", "--emit"]).out, "");
}
