//! Verifiers that need no model: exact text, number, pattern, host program.
//!
//! Takes an answer (text and value) and returns a [`Verdict`]: a number (1 pass, 0 fail, or the program's own score), or
//! `Inconclusive` with the reason, which never counts as a pass. Patterns run in linear time under size caps. A host
//! program gets one JSON object on its standard input, runs in a process group of its own without the caller's
//! environment, under limits of wall time, CPU, memory and output; at a limit the whole group is killed. It is *not* a
//! sandbox: the program has the user's rights on files and network, and a descendant that leaves the group outlives it.

use crate::value::Value;
use rustix::process::{Pid, Resource, Rlimit, Signal, kill_process_group, prlimit};
use serde_json::{Value as Json, json};
use std::io::{Read as _, Write as _};
use std::os::unix::process::CommandExt as _;
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc;
use std::time::{Duration, Instant};

/// Longest pattern, bytes.
pub const MAX_PATTERN: usize = 8 * 1024;
/// Largest compiled pattern, bytes.
const MAX_COMPILED: usize = 2 * 1024 * 1024;
/// Longest text a pattern is tried on, bytes.
pub const MAX_HAYSTACK: usize = 1024 * 1024;

/// What a verifier looks at.
#[derive(Clone, Copy, Debug)]
pub struct Answer<'a> {
    /// Whole text.
    pub text: &'a str,
    /// Value of its format; [`Value::None`] when there is none.
    pub value: &'a Value,
}

impl Answer<'_> {
    /// The extracted value as text when the format gave one, else the whole text.
    #[must_use]
    pub fn essence(&self) -> String {
        if *self.value == Value::None { self.text.to_owned() } else { self.value.to_text() }
    }
}

/// The outcome of a verification.
#[derive(Clone, Debug, PartialEq)]
pub enum Verdict {
    /// Pass (1), fail (0), or the score of a program.
    Score(f64),
    /// No verdict, and why.
    Inconclusive(String),
}

impl Verdict {
    fn of(pass: bool) -> Self {
        Self::Score(f64::from(u8::from(pass)))
    }

    /// Whether it is a pass: a score of at least one half. No verdict is no pass.
    #[must_use]
    pub fn passes(&self) -> bool {
        matches!(self, Self::Score(x) if *x >= 0.5)
    }

    /// The number that a strategy sees; no verdict counts as 0.
    #[must_use]
    pub fn score(&self) -> f64 {
        match self {
            Self::Score(x) => *x,
            Self::Inconclusive(_) => 0.0,
        }
    }
}

/// A verifier that cannot be used at all.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum VerifyError {
    /// The pattern.
    #[error("verifier pattern {pattern:?}: {cause}; write a shorter or simpler pattern")]
    Pattern {
        /// The pattern, shortened.
        pattern: String,
        /// What is wrong.
        cause: String,
    },
    /// The host program does not start.
    #[error(
        "verifier program {program:?} does not start: {cause}; check that it exists, is executable and is for this machine"
    )]
    Start {
        /// Program name.
        program: String,
        /// What the system said.
        cause: std::io::Error,
    },
    /// An empty command line or broken quotes.
    #[error("verifier command {line:?}: {cause}; write the program and its arguments, quoted where they hold spaces")]
    CommandLine {
        /// The line.
        line: String,
        /// What is wrong.
        cause: &'static str,
    },
}

/// Limits of a host program.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct CommandLimits {
    /// Wall time.
    pub wall: Duration,
    /// Bytes of output.
    pub output: usize,
    /// Bytes of address space.
    pub memory: u64,
}

impl Default for CommandLimits {
    fn default() -> Self {
        Self { wall: Duration::from_secs(10), output: 64 * 1024, memory: 8 << 30 }
    }
}

/// Equality of the answer with a text. White space around both is ignored, runs of white space inside count as one
/// space; upper and lower case differ.
#[must_use]
pub fn exact(expected: &str, answer: Answer<'_>) -> Verdict {
    let squeeze = |text: &str| text.split_whitespace().collect::<Vec<_>>().join(" ");
    Verdict::of(squeeze(&answer.essence()) == squeeze(expected))
}

/// Equality of the answer's number with a number, within an absolute tolerance. The number is the value itself when the
/// format gave a number, else the last number in the text ([`last_number`]); no number is a fail.
#[must_use]
pub fn numeric(expected: f64, tolerance: f64, answer: Answer<'_>) -> Verdict {
    let found = answer.value.number().or_else(|| last_number(&answer.essence()));
    Verdict::of(found.is_some_and(|x| (x - expected).abs() <= tolerance.max(0.0)))
}

/// Whether the pattern matches somewhere in the answer.
///
/// # Errors
/// When the pattern is too long, malformed or compiles to too much.
pub fn pattern(pattern: &str, answer: Answer<'_>) -> Result<Verdict, VerifyError> {
    let refuse = |cause: String| VerifyError::Pattern { pattern: pattern.chars().take(60).collect(), cause };
    if pattern.len() > MAX_PATTERN {
        return Err(refuse(format!("it has {} bytes, at most {MAX_PATTERN} are accepted", pattern.len())));
    }
    let compiled = regex::RegexBuilder::new(pattern)
        .size_limit(MAX_COMPILED)
        .dfa_size_limit(MAX_COMPILED)
        .build()
        .map_err(|e| refuse(e.to_string()))?;
    let essence = answer.essence();
    if essence.len() > MAX_HAYSTACK {
        return Ok(Verdict::Inconclusive(format!("the answer has {} bytes, more than {MAX_HAYSTACK}", essence.len())));
    }
    Ok(Verdict::of(compiled.is_match(&essence)))
}

/// The last number in a text: an optional sign, digits with separators of thousands (`1,234` or `1_234`), a fraction,
/// an exponent; `3/4` is a quotient, `50%` is 50.
#[must_use]
pub fn last_number(text: &str) -> Option<f64> {
    let bytes = text.as_bytes();
    let mut at = 0;
    let mut last = None;
    while at < bytes.len() {
        if !(digit(bytes, at) || bytes[at] == b'.' && digit(bytes, at + 1)) {
            at += 1;
            continue;
        }
        let end = number_end(bytes, at);
        let signed = at > 0 && bytes[at - 1] == b'-' && !(at > 1 && (bytes[at - 2].is_ascii_alphanumeric()));
        let digits: String = text[at..end].chars().filter(|c| !matches!(c, ',' | '_')).collect();
        if let Ok(x) = digits.parse::<f64>() {
            last = Some(if signed { -x } else { x });
        }
        at = end;
        // A quotient of two whole numbers.
        if at + 1 < bytes.len() && bytes[at] == b'/' && digit(bytes, at + 1) {
            let end = number_end(bytes, at + 1);
            if let (Some(x), Ok(y)) = (last, text[at + 1..end].replace([',', '_'], "").parse::<f64>())
                && y != 0.0
            {
                last = Some(x / y);
            }
            at = end;
        }
    }
    last.filter(|x| x.is_finite())
}

/// The number that a text is as a whole, sign included, in the notations of [`last_number`].
#[must_use]
pub fn whole_number(text: &str) -> Option<f64> {
    let (sign, digits) = match text.strip_prefix(['-', '+']) {
        Some(rest) if text.starts_with('-') => (-1.0, rest),
        Some(rest) => (1.0, rest),
        None => (1.0, text),
    };
    let bytes = digits.as_bytes();
    let starts = digit(bytes, 0) || (bytes.first() == Some(&b'.') && digit(bytes, 1));
    let mut end = if starts { number_end(bytes, 0) } else { return None };
    if bytes.get(end) == Some(&b'/') && digit(bytes, end + 1) {
        end = number_end(bytes, end + 1);
    }
    if end == bytes.len() { last_number(digits).map(|x| sign * x) } else { None }
}

fn digit(bytes: &[u8], at: usize) -> bool {
    bytes.get(at).is_some_and(u8::is_ascii_digit)
}

/// End of the number that starts at `at`.
fn number_end(bytes: &[u8], mut at: usize) -> usize {
    while digit(bytes, at) {
        at += 1;
        // A separator only between a digit and exactly three digits, or any digits after an underscore.
        let group = bytes.get(at) == Some(&b',') && (1..=3).all(|i| digit(bytes, at + i)) && !digit(bytes, at + 4);
        if group || (bytes.get(at) == Some(&b'_') && digit(bytes, at + 1)) {
            at += 1;
        }
    }
    if bytes.get(at) == Some(&b'.') && digit(bytes, at + 1) {
        at += 1;
        while digit(bytes, at) {
            at += 1;
        }
    }
    if matches!(bytes.get(at), Some(b'e' | b'E')) {
        let sign = usize::from(matches!(bytes.get(at + 1), Some(b'+' | b'-')));
        if digit(bytes, at + 1 + sign) {
            at += 1 + sign;
            while digit(bytes, at) {
                at += 1;
            }
        }
    }
    at
}

/// Splits a command line into words: at white space, except inside `"…"` or `'…'`. No shell is involved.
///
/// # Errors
/// When it is empty or a quote is not closed.
pub fn command_words(line: &str) -> Result<Vec<String>, VerifyError> {
    let refuse = |cause| VerifyError::CommandLine { line: line.chars().take(80).collect(), cause };
    let (mut words, mut word, mut quote, mut open) = (Vec::new(), String::new(), None, false);
    for c in line.chars() {
        match (quote, c) {
            (Some(q), _) if c == q => quote = None,
            (Some(_), _) => word.push(c),
            (None, '"' | '\'') => (quote, open) = (Some(c), true),
            (None, _) if c.is_whitespace() => {
                if open || !word.is_empty() {
                    words.push(std::mem::take(&mut word));
                }
                open = false;
            }
            (None, _) => word.push(c),
        }
    }
    if quote.is_some() {
        return Err(refuse("a quote is not closed"));
    }
    if open || !word.is_empty() {
        words.push(word);
    }
    if words.is_empty() || words[0].is_empty() || words.iter().any(|w| w.contains('\0')) {
        return Err(refuse("no program is named"));
    }
    Ok(words)
}

/// Runs a host program on an answer. Its standard input is one line of JSON, `{"text": …, "value": …, "args": […]}`.
/// Exit 0 is a pass, or, when the last line of its output is a number, that score; another exit status is a fail; death
/// by a signal, a limit, or an output that is a broken score is no verdict.
///
/// # Errors
/// When the program does not start.
pub fn command(
    words: &[String],
    args: &[Value],
    answer: Answer<'_>,
    limits: &CommandLimits,
    cancel: &AtomicBool,
) -> Result<Verdict, VerifyError> {
    let program = words.first().map_or("", String::as_str);
    let mut line = json!({
        "text": answer.text, "value": answer.value.to_json(),
        "args": args.iter().map(Value::to_json).collect::<Vec<Json>>(),
    })
    .to_string();
    line.push('\n');
    let mut child = Command::new(program)
        .args(words.get(1..).unwrap_or_default())
        .env_clear()
        .env("PATH", "/usr/local/bin:/usr/bin:/bin")
        .env("LANG", "C.UTF-8")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .process_group(0)
        .spawn()
        .map_err(|cause| VerifyError::Start { program: program.to_owned(), cause })?;
    let group = i32::try_from(child.id()).ok().and_then(Pid::from_raw);
    restrain(group, limits);
    let verdict = supervise(&mut child, group, line, limits, cancel);
    kill_group(group);
    // Reaps the child; the group is dead, so this does not block.
    let _ = child.wait();
    Ok(verdict)
}

/// Limits that the system keeps; set right after the start, so a program's first instructions run without them.
fn restrain(group: Option<Pid>, limits: &CommandLimits) {
    let cpu = limits.wall.as_secs().saturating_add(1);
    for (resource, most) in [(Resource::Cpu, cpu), (Resource::As, limits.memory), (Resource::Core, 0)] {
        // A refusal leaves the wall limit, which always holds.
        let _ = prlimit(group, resource, Rlimit { current: Some(most), maximum: Some(most) });
    }
}

fn kill_group(group: Option<Pid>) {
    if let Some(group) = group {
        // An error means that nobody is left in the group.
        let _ = kill_process_group(group, Signal::KILL);
    }
}

/// Feeds and reads the program until it ends or a limit is met.
fn supervise(
    child: &mut Child,
    group: Option<Pid>,
    line: String,
    limits: &CommandLimits,
    cancel: &AtomicBool,
) -> Verdict {
    let started = Instant::now();
    if let Some(mut stdin) = child.stdin.take() {
        // Its own thread: a program that does not read must not hold us. A broken pipe is its own business.
        std::thread::spawn(move || {
            let _ = stdin.write_all(line.as_bytes());
        });
    }
    let (send, output) = mpsc::channel();
    if let Some(mut stdout) = child.stdout.take() {
        let most = limits.output;
        std::thread::spawn(move || {
            let (mut kept, mut block) = (Vec::new(), [0u8; 8192]);
            while let Ok(n @ 1..) = stdout.read(&mut block) {
                kept.extend_from_slice(&block[..n]);
                if kept.len() > most {
                    let _ = send.send(Err(()));
                    return;
                }
            }
            let _ = send.send(Ok(kept));
        });
    }
    let mut printed = None;
    let mut pause = Duration::from_micros(200);
    loop {
        match output.try_recv() {
            Ok(Err(())) => return Verdict::Inconclusive(format!("it printed more than {} bytes", limits.output)),
            Ok(Ok(bytes)) => printed = Some(bytes),
            Err(_) => {}
        }
        match child.try_wait() {
            Ok(Some(status)) => {
                // Whoever of the group still holds the pipe is killed, then the pipe ends.
                kill_group(group);
                let left = limits.wall.saturating_sub(started.elapsed()).max(Duration::from_millis(50));
                let printed = printed.or_else(|| output.recv_timeout(left).ok().and_then(Result::ok));
                return judge(status, printed, limits);
            }
            Ok(None) => {}
            Err(e) => return Verdict::Inconclusive(format!("its end could not be awaited: {e}")),
        }
        if started.elapsed() >= limits.wall {
            return Verdict::Inconclusive(format!("it ran longer than {:.1} s", limits.wall.as_secs_f64()));
        }
        if cancel.load(Ordering::Relaxed) {
            return Verdict::Inconclusive("cancelled".to_owned());
        }
        std::thread::sleep(pause);
        pause = (pause * 2).min(Duration::from_millis(10));
    }
}

fn judge(status: std::process::ExitStatus, printed: Option<Vec<u8>>, limits: &CommandLimits) -> Verdict {
    match status.code() {
        None => return Verdict::Inconclusive(format!("it died: {status}")),
        Some(0) => {}
        Some(_) => return Verdict::Score(0.0),
    }
    let Some(printed) = printed else {
        return Verdict::Inconclusive(format!("its output did not end or has more than {} bytes", limits.output));
    };
    let text = String::from_utf8_lossy(&printed);
    let last = text.lines().rev().map(str::trim).find(|l| !l.is_empty()).unwrap_or("");
    if let Ok(score) = last.parse::<f64>() {
        return match score.is_finite() {
            true => Verdict::Score(score),
            false => Verdict::Inconclusive(format!("it printed the score {score}")),
        };
    }
    if last.starts_with('{') {
        let score = serde_json::from_str::<Json>(last).ok().and_then(|j| j.get("score").and_then(Json::as_f64));
        return score.map_or_else(
            || Verdict::Inconclusive("it printed JSON without a number named \"score\"".to_owned()),
            Verdict::Score,
        );
    }
    Verdict::Score(1.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn answer(text: &str) -> Answer<'_> {
        Answer { text, value: &Value::None }
    }

    fn shell(script: &str, limits: &CommandLimits) -> Verdict {
        let words = ["sh".to_owned(), "-c".to_owned(), script.to_owned()];
        command(&words, &[], answer("42"), limits, &AtomicBool::new(false)).expect("sh starts")
    }

    #[test]
    fn numbers_are_found() {
        for (text, number) in [
            ("so 1,234.5 it is", Some(1234.5)),
            ("x = -7.", Some(-7.0)),
            ("10-7", Some(7.0)),
            ("3/4", Some(0.75)),
            ("1e3 apples", Some(1000.0)),
            ("1, 2, 3", Some(3.0)),
            ("$12,50", Some(50.0)),
            ("none here", None),
            ("1/0", Some(1.0)),
            ("50%", Some(50.0)),
            (".5", Some(0.5)),
        ] {
            assert_eq!(last_number(text), number, "{text}");
        }
        assert_eq!(last_number(&"9".repeat(400)), None);
    }

    #[test]
    fn values_come_before_texts() {
        let value = Value::text("12");
        let answer = Answer { text: "first 11, then \\boxed{12}, not 13", value: &value };
        assert!(exact(" 12 ", answer).passes());
        assert!(numeric(12.0, 0.0, answer).passes());
        assert!(!numeric(13.0, 0.0, answer).passes());
        assert!(!exact("A", Answer { text: "a", value: &Value::None }).passes());
    }

    #[test]
    fn patterns_have_caps() {
        assert!(pattern("^4.$", answer("42")).expect("legal").passes());
        assert!(pattern("(a+)+b", answer(&"a".repeat(100_000))).is_ok_and(|v| !v.passes()));
        assert!(pattern(&"a".repeat(MAX_PATTERN + 1), answer("")).is_err());
        assert!(pattern("((((a{100}){100}){100}){100})", answer("")).is_err());
        assert!(pattern("(", answer("")).is_err());
        let long = "a".repeat(MAX_HAYSTACK + 1);
        assert!(matches!(pattern("a", answer(&long)), Ok(Verdict::Inconclusive(_))));
    }

    #[test]
    fn command_lines_split_without_a_shell() {
        let words = command_words("check --name 'a b' \"\"").expect("legal");
        assert_eq!(words, ["check", "--name", "a b", ""]);
        assert!(command_words("  ").is_err());
        assert!(command_words("a 'b").is_err());
    }

    #[test]
    fn programs_judge() {
        let limits = CommandLimits::default();
        assert_eq!(shell("exit 0", &limits), Verdict::Score(1.0));
        assert_eq!(shell("exit 3", &limits), Verdict::Score(0.0));
        assert_eq!(shell("echo 0.25", &limits), Verdict::Score(0.25));
        assert_eq!(shell("echo '{\"score\": 0.5}'", &limits), Verdict::Score(0.5));
        assert_eq!(shell("grep -q '\"text\":\"42\"'", &limits), Verdict::Score(1.0));
        assert!(matches!(shell("echo nan", &limits), Verdict::Inconclusive(_)));
        assert!(matches!(shell("kill -9 $$", &limits), Verdict::Inconclusive(_)));
        assert_eq!(shell("test -z \"$CARGO$USER$SECRET\"", &limits), Verdict::Score(1.0));
    }

    #[test]
    fn programs_are_bounded() {
        let limits = CommandLimits { wall: Duration::from_millis(300), ..CommandLimits::default() };
        let started = Instant::now();
        assert!(matches!(shell("sleep 1000", &limits), Verdict::Inconclusive(_)));
        assert!(matches!(shell("trap '' TERM INT; while :; do :; done", &limits), Verdict::Inconclusive(_)));
        assert!(matches!(shell("sleep 1000 & sleep 1000 & wait", &limits), Verdict::Inconclusive(_)));
        assert!(started.elapsed() < Duration::from_secs(5));
        let generous = CommandLimits::default();
        assert!(matches!(shell("head -c 10000000000 /dev/zero", &generous), Verdict::Inconclusive(_)));
        assert!(started.elapsed() < Duration::from_secs(8));
        // A child left behind does not keep the verdict waiting.
        assert_eq!(shell("sleep 1000 & echo 1", &generous), Verdict::Score(1.0));
        assert!(started.elapsed() < Duration::from_secs(9));
    }

    #[test]
    fn a_missing_program_is_an_error() {
        let words = ["/nowhere/program".to_owned()];
        let error = command(&words, &[], answer(""), &CommandLimits::default(), &AtomicBool::new(false));
        assert!(matches!(error, Err(VerifyError::Start { .. })));
    }
}
