//! Runs the built `inferc` as a stranger would: arguments in; exit code, standard output and standard error out.
//!
//! Every run is checked for what must never happen: death by a signal or a panic, and colours without a terminal.

use serde_json::Value;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::OnceLock;

/// What a run came to.
#[derive(Debug)]
pub(crate) struct Ran {
    pub(crate) code: i32,
    pub(crate) out: String,
    pub(crate) err: String,
}

/// A kernel cache of this test run alone: empty at its beginning, shared by all its tests.
pub(crate) fn cache() -> &'static Path {
    static CACHE: OnceLock<PathBuf> = OnceLock::new();
    CACHE.get_or_init(|| {
        let dir = Path::new(env!("CARGO_TARGET_TMPDIR")).join("it-cache");
        let _ = std::fs::remove_dir_all(&dir);
        std::fs::create_dir_all(&dir).expect("the target folder can be written");
        dir
    })
}

/// The command, in a folder, with the cache of the tests.
pub(crate) fn command(folder: &Path, args: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_inferc"));
    command
        .args(args)
        .current_dir(folder)
        .env("INFERC_CACHE", cache())
        .env_remove("NO_COLOR")
        .env("RUST_BACKTRACE", "0");
    command
}

/// Runs the command without input.
pub(crate) fn inferc(folder: &Path, args: &[&str]) -> Ran {
    fed(folder, args, b"")
}

/// Runs the command with bytes on its standard input.
pub(crate) fn fed(folder: &Path, args: &[&str], input: &[u8]) -> Ran {
    let mut child = command(folder, args)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("the program starts");
    let mut stdin = child.stdin.take().expect("a pipe");
    // A program that does not read its input closes the pipe early.
    let _ = stdin.write_all(input);
    drop(stdin);
    let output = child.wait_with_output().expect("the program ends");
    let text = |bytes| String::from_utf8(bytes).expect("UTF-8");
    let (out, err) = (text(output.stdout), text(output.stderr));
    let code = output.status.code().unwrap_or_else(|| panic!("{args:?} died: {:?}\n{err}", output.status));
    assert!((0..=3).contains(&code), "{args:?}: exit code {code}\n{err}");
    assert!(!err.contains("panicked at"), "{args:?}\n{err}");
    assert!(!out.contains('\u{1b}') && !err.contains('\u{1b}'), "{args:?}: colours without a terminal");
    Ran { code, out, err }
}

impl Ran {
    /// Asserts the exit code.
    #[track_caller]
    pub(crate) fn code(self, expected: i32) -> Self {
        assert_eq!(self.code, expected, "\nstdout: {}\nstderr: {}", self.out, self.err);
        self
    }

    /// Asserts that standard error has all the words.
    #[track_caller]
    pub(crate) fn says(self, words: &[&str]) -> Self {
        for word in words {
            assert!(self.err.contains(word), "no {word:?} in: {}", self.err);
        }
        self
    }

    /// Standard output as the one JSON document it must be.
    #[track_caller]
    pub(crate) fn json(&self) -> Value {
        let value: Value =
            serde_json::from_str(&self.out).unwrap_or_else(|e| panic!("{e}: {}\n{}", self.out, self.err));
        assert_eq!(value["format_version"], "1.0");
        value
    }
}
