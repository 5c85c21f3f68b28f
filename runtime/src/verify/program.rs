//! Host programs as verifiers: one call per answer ([`command`]), or one call for many, a line each ([`lines`]).
//!
//! A program runs in a process group of its own without the caller's environment, under limits of wall time, CPU, memory
//! and output; at a limit the whole group is killed. It is *not* a sandbox: the program has the user's rights on files and
//! network, and a descendant that leaves the group outlives it. Standard error goes nowhere.
//! The verdict on an answer does not depend on how many others were judged in the same call, as long as the program
//! judges each line by itself: a call that breaks off is made up for one by one.

use super::{Answer, Verdict, VerifyError};
use crate::value::Value;
use rustix::process::{Pid, Resource, Rlimit, Signal, kill_process_group, prlimit};
use serde_json::{Value as Json, json};
use std::io::{Read as _, Write as _};
use std::os::unix::process::CommandExt as _;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::mpsc::{self, RecvTimeoutError};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

/// Limits of a host program, for each answer that it judges.
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

/// What bounds a call of a program.
#[derive(Clone, Copy, Debug)]
pub struct Bounds<'a> {
    /// Limits for each answer.
    pub limits: CommandLimits,
    /// When nobody waits any longer.
    pub until: Option<Instant>,
    /// Set to end the program.
    pub cancel: &'a AtomicBool,
}

impl Bounds<'_> {
    /// Why nothing may run any more, if so.
    fn over(&self) -> Option<String> {
        if self.cancel.load(Ordering::Relaxed) {
            return Some("cancelled".to_owned());
        }
        self.until.filter(|until| Instant::now() >= *until).map(|_| "there is no time left".to_owned())
    }

    /// The sentence when something that began at `since` has had its time.
    fn late(&self, since: Instant) -> Option<String> {
        let late = since.elapsed() >= self.limits.wall;
        late.then(|| format!("it ran longer than {:.1} s", self.limits.wall.as_secs_f64())).or_else(|| self.over())
    }
}

/// What a program is asked.
#[derive(Clone, Copy, Debug)]
pub struct Request<'a> {
    args: &'a [Value],
    answer: Answer<'a>,
}

impl<'a> Request<'a> {
    /// A question about an answer, with the verifier's further arguments.
    #[must_use]
    pub fn new(args: &'a [Value], answer: Answer<'a>) -> Self {
        Self { args, answer }
    }

    /// A line of JSON, `{"text": …, "value": …, "args": […]}`.
    fn line(&self) -> String {
        let mut line = json!({
            "text": self.answer.text, "value": self.answer.value.to_json(),
            "args": self.args.iter().map(Value::to_json).collect::<Vec<Json>>(),
        })
        .to_string();
        line.push('\n');
        line
    }
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

/// Does pieces of work on up to `at_once` threads; results in the order of the work.
pub fn side_by_side<W: Sync, R: Send>(work: &[W], at_once: usize, does: &(dyn Fn(&W) -> R + Sync)) -> Vec<R> {
    let threads = at_once.min(work.len());
    if threads < 2 {
        return work.iter().map(does).collect();
    }
    let (next, done) = (AtomicUsize::new(0), Mutex::new(Vec::new()));
    let pieces = || {
        while let Some((i, piece)) = Some(next.fetch_add(1, Ordering::Relaxed)).and_then(|i| Some((i, work.get(i)?))) {
            let result = does(piece);
            done.lock().unwrap_or_else(PoisonError::into_inner).push((i, result));
        }
    };
    std::thread::scope(|scope| {
        for _ in 1..threads {
            // Where the system gives no thread, the others do its part.
            let _ = std::thread::Builder::new().spawn_scoped(scope, pieces);
        }
        pieces();
    });
    let mut done = done.into_inner().unwrap_or_else(PoisonError::into_inner);
    done.sort_by_key(|(i, _)| *i);
    done.into_iter().map(|(_, result)| result).collect()
}

/// Runs a host program on an answer: its standard input is the request's line. Exit 0 is a pass, or, when the last line of
/// its output is a number, that score; another exit status is a fail; death by a signal, a limit, or an output that is a
/// broken score is no verdict.
///
/// # Errors
/// When the program does not start.
pub fn command(words: &[String], request: &Request<'_>, bounds: &Bounds<'_>) -> Result<Verdict, VerifyError> {
    if let Some(cause) = bounds.over() {
        return Ok(Verdict::Inconclusive(cause));
    }
    let mut program = Program::start(words, request.line(), 1, &bounds.limits)?;
    Ok(program.one_verdict(bounds))
}

/// Runs a host program on many answers in one call: its standard input is a line for each request, and then ends. It
/// prints one line for each, in order: a number, `true`, `false`, `pass`, `fail`, or JSON with a number named `score`
/// (blank lines do not count). Another line is no verdict on its answer. The limits hold for each answer: so much time
/// from one line to the next, so many bytes a line. When the program ends early, meets a limit or prints too many lines,
/// the answers that are left are asked one by one; what fails alone is no verdict.
///
/// # Errors
/// When the program does not start.
pub fn lines(words: &[String], requests: &[Request<'_>], bounds: &Bounds<'_>) -> Result<Vec<Verdict>, VerifyError> {
    let (mut verdicts, mut broken) = ask(words, requests, bounds)?;
    while verdicts.len() < requests.len() {
        let over = bounds.over();
        verdicts.push(match (broken.take(), over) {
            (_, Some(cause)) => Verdict::Inconclusive(cause),
            // It was asked alone already.
            (Some(cause), None) if requests.len() == 1 => Verdict::Inconclusive(cause),
            _ => {
                let (mut alone, cause) = ask(words, &requests[verdicts.len()..=verdicts.len()], bounds)?;
                alone.pop().unwrap_or_else(|| Verdict::Inconclusive(cause.unwrap_or_default()))
            }
        });
    }
    Ok(verdicts)
}

/// One call for all requests: the verdicts on the first of them that can be relied on, and why there are no more.
fn ask(
    words: &[String],
    requests: &[Request<'_>],
    bounds: &Bounds<'_>,
) -> Result<(Vec<Verdict>, Option<String>), VerifyError> {
    if requests.is_empty() || bounds.over().is_some() {
        return Ok((Vec::new(), bounds.over()));
    }
    let input = requests.iter().map(Request::line).collect();
    Ok(Program::start(words, input, requests.len(), &bounds.limits)?.line_verdicts(requests.len(), bounds))
}

/// A running program; dropped, its group is killed and it is reaped.
struct Program {
    child: Child,
    group: Option<Pid>,
    started: Instant,
}

impl Program {
    /// Starts it and feeds it.
    fn start(words: &[String], input: String, answers: usize, limits: &CommandLimits) -> Result<Self, VerifyError> {
        let name = words.first().map_or("", String::as_str);
        let mut child = Command::new(name)
            .args(words.get(1..).unwrap_or_default())
            .env_clear()
            .env("PATH", "/usr/local/bin:/usr/bin:/bin")
            .env("LANG", "C.UTF-8")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .process_group(0)
            .spawn()
            .map_err(|cause| VerifyError::Start { program: name.to_owned(), cause })?;
        let group = i32::try_from(child.id()).ok().and_then(Pid::from_raw);
        restrain(group, answers, limits);
        let stdin = child.stdin.take();
        // From here on an early return ends it.
        let program = Self { child, group, started: Instant::now() };
        if let Some(mut stdin) = stdin {
            // Its own thread: a program that does not read must not hold us. A broken pipe is its own business.
            beside(move || {
                let _ = stdin.write_all(input.as_bytes());
            })
            .map_err(|cause| VerifyError::Start { program: name.to_owned(), cause })?;
        }
        Ok(program)
    }

    /// Its end, if it has ended; then whoever of the group still holds the pipe is killed, so that the pipe ends too.
    fn ended(&mut self) -> Result<Option<ExitStatus>, String> {
        let status = self.child.try_wait().map_err(|e| format!("its end could not be awaited: {e}"))?;
        if status.is_some() {
            kill_group(self.group);
        }
        Ok(status)
    }

    /// Its output, read on a thread of its own: whole, or `Err` when there is too much of it.
    fn output(&mut self, most: usize) -> std::io::Result<mpsc::Receiver<Result<Vec<u8>, ()>>> {
        let (send, output) = mpsc::channel();
        if let Some(mut stdout) = self.child.stdout.take() {
            beside(move || {
                let (mut kept, mut block) = (Vec::new(), [0u8; 8192]);
                while let Ok(n @ 1..) = stdout.read(&mut block) {
                    kept.extend_from_slice(&block[..n]);
                    if kept.len() > most {
                        let _ = send.send(Err(()));
                        return;
                    }
                }
                let _ = send.send(Ok(kept));
            })?;
        }
        Ok(output)
    }

    /// Its lines that are not blank as they come, read on a thread of its own; `Err` when one is too long.
    fn output_lines(&mut self, most: usize) -> std::io::Result<mpsc::Receiver<Result<Vec<u8>, ()>>> {
        // Bounded, so that a program that prints without end waits for us.
        let (send, output) = mpsc::sync_channel(64);
        if let Some(mut stdout) = self.child.stdout.take() {
            beside(move || {
                let (mut line, mut block) = (Vec::new(), [0u8; 8192]);
                let blank = |line: &[u8]| line.iter().all(u8::is_ascii_whitespace);
                while let Ok(n @ 1..) = stdout.read(&mut block) {
                    for byte in &block[..n] {
                        let whole = *byte == b'\n';
                        if whole && !blank(&line) && send.send(Ok(std::mem::take(&mut line))).is_err() {
                            return;
                        }
                        if whole {
                            line.clear();
                        } else if line.len() < most {
                            line.push(*byte);
                        } else {
                            let _ = send.send(Err(()));
                            return;
                        }
                    }
                }
                if !blank(&line) {
                    let _ = send.send(Ok(line));
                }
            })?;
        }
        Ok(output)
    }

    /// Waits until it ends or a limit is met, and judges.
    fn one_verdict(&mut self, bounds: &Bounds<'_>) -> Verdict {
        let limits = &bounds.limits;
        let output = match self.output(limits.output) {
            Ok(output) => output,
            Err(cause) => return Verdict::Inconclusive(unread(&cause)),
        };
        let mut printed = None;
        let mut pause = Duration::from_micros(200);
        loop {
            match output.try_recv() {
                Ok(Err(())) => return Verdict::Inconclusive(format!("it printed more than {} bytes", limits.output)),
                Ok(Ok(bytes)) => printed = Some(bytes),
                Err(_) => {}
            }
            match self.ended() {
                Ok(Some(status)) => {
                    let left = limits.wall.saturating_sub(self.started.elapsed()).max(Duration::from_millis(50));
                    let printed = printed.or_else(|| output.recv_timeout(left).ok().and_then(Result::ok));
                    return verdict_of_call(status, printed, limits);
                }
                Ok(None) => {}
                Err(cause) => return Verdict::Inconclusive(cause),
            }
            if let Some(cause) = bounds.late(self.started) {
                return Verdict::Inconclusive(cause);
            }
            std::thread::sleep(pause);
            pause = (pause * 2).min(Duration::from_millis(10));
        }
    }

    /// Waits for a line for each of `wanted` answers and for the end: the verdicts on the first answers, and why there are
    /// fewer than wanted.
    fn line_verdicts(&mut self, wanted: usize, bounds: &Bounds<'_>) -> (Vec<Verdict>, Option<String>) {
        let output = match self.output_lines(bounds.limits.output) {
            Ok(output) => output,
            Err(cause) => return (Vec::new(), Some(unread(&cause))),
        };
        let mut verdicts = Vec::new();
        let mut since = self.started;
        let mut status = None;
        loop {
            match output.recv_timeout(Duration::from_millis(5)) {
                Ok(Ok(line)) if verdicts.len() < wanted => {
                    verdicts.push(verdict_of_line(&line));
                    since = Instant::now();
                    continue;
                }
                // Which of them belongs to which answer is not known.
                Ok(Ok(_)) => {
                    return (Vec::new(), Some(format!("it printed more than {wanted} lines for {wanted} answers")));
                }
                Ok(Err(())) => {
                    let cause = format!("it printed a line of more than {} bytes", bounds.limits.output);
                    return (verdicts, Some(cause));
                }
                Err(RecvTimeoutError::Disconnected) if verdicts.len() == wanted => return (verdicts, None),
                Err(RecvTimeoutError::Disconnected) => {
                    let end = status.map_or_else(|| "it closed its output".to_owned(), |s| format!("it ended: {s}"));
                    let cause = format!("{end}, after {} of {wanted} lines", verdicts.len());
                    return (verdicts, Some(cause));
                }
                Err(RecvTimeoutError::Timeout) => {}
            }
            match self.ended() {
                Ok(ended) => status = status.or(ended),
                Err(cause) => return (verdicts, Some(cause)),
            }
            if let Some(cause) = bounds.late(since) {
                // A program that has answered all and does not end has judged; it is killed.
                let cause = (verdicts.len() < wanted).then_some(cause);
                return (verdicts, cause);
            }
        }
    }
}

/// Starts a thread that ends by itself when its pipe does.
fn beside(does: impl FnOnce() + Send + 'static) -> std::io::Result<()> {
    std::thread::Builder::new().spawn(does).map(drop)
}

/// Why nothing is known of an output.
fn unread(cause: &std::io::Error) -> String {
    format!("the system gave no thread to read its output: {cause}")
}

impl Drop for Program {
    fn drop(&mut self) {
        kill_group(self.group);
        // The group is dead, so this does not block.
        let _ = self.child.wait();
    }
}

/// Limits that the system keeps; set right after the start, so a program's first instructions run without them.
fn restrain(group: Option<Pid>, answers: usize, limits: &CommandLimits) {
    let cpu = limits.wall.as_secs().saturating_add(1).saturating_mul(answers as u64);
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

fn verdict_of_call(status: ExitStatus, printed: Option<Vec<u8>>, limits: &CommandLimits) -> Verdict {
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
    score(last).unwrap_or(Verdict::Score(1.0))
}

fn verdict_of_line(line: &[u8]) -> Verdict {
    let text = String::from_utf8_lossy(line);
    let text = text.trim();
    match text {
        "true" | "pass" => Verdict::Score(1.0),
        "false" | "fail" => Verdict::Score(0.0),
        _ => score(text).unwrap_or_else(|| {
            let shown: String = text.chars().take(60).collect();
            Verdict::Inconclusive(format!(
                "it printed {shown:?}, which is neither a number nor true, false, pass or fail"
            ))
        }),
    }
}

/// The score that a line is, if it looks like one.
fn score(line: &str) -> Option<Verdict> {
    if let Ok(score) = line.parse::<f64>() {
        return Some(match score.is_finite() {
            true => Verdict::Score(score),
            false => Verdict::Inconclusive(format!("it printed the score {score}")),
        });
    }
    if !line.starts_with('{') {
        return None;
    }
    let score = serde_json::from_str::<Json>(line).ok().and_then(|j| j.get("score").and_then(Json::as_f64));
    let broken = || Verdict::Inconclusive("it printed JSON without a number named \"score\"".to_owned());
    Some(score.map_or_else(broken, Verdict::Score))
}

#[cfg(test)]
mod tests {
    use super::*;

    static GO_ON: AtomicBool = AtomicBool::new(false);

    fn bounds(limits: CommandLimits) -> Bounds<'static> {
        Bounds { limits, until: None, cancel: &GO_ON }
    }

    fn words(script: &str) -> [String; 3] {
        ["sh".to_owned(), "-c".to_owned(), script.to_owned()]
    }

    fn answer(text: &str) -> Answer<'_> {
        Answer { text, value: &Value::None }
    }

    fn shell(script: &str, limits: &CommandLimits) -> Verdict {
        command(&words(script), &Request::new(&[], answer("42")), &bounds(*limits)).expect("sh starts")
    }

    /// Verdicts on the texts `1`, `2`, …, `n`, and the calls that were made.
    fn batch(script: &str, n: usize, limits: CommandLimits) -> (Vec<Verdict>, usize) {
        let dir = tempfile::tempdir().expect("a folder");
        let log = dir.path().join("calls");
        let script = format!("echo >> {}; {script}", log.display());
        let texts: Vec<String> = (1..=n).map(|i| i.to_string()).collect();
        let requests: Vec<Request<'_>> = texts.iter().map(|t| Request::new(&[], answer(t))).collect();
        let verdicts = lines(&words(&script), &requests, &bounds(limits)).expect("sh starts");
        (verdicts, std::fs::read_to_string(&log).expect("it ran").lines().count())
    }

    /// Prints the number of the text.
    const NUMBER: &str = r#"n=${l#*text\":\"}; n=${n%%\"*}"#;

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
        let request = Request::new(&[], answer(""));
        let bounds = bounds(CommandLimits::default());
        assert!(matches!(command(&words, &request, &bounds), Err(VerifyError::Start { .. })));
        assert!(matches!(lines(&words, &[request, request], &bounds), Err(VerifyError::Start { .. })));
        assert_eq!(lines(&words, &[], &bounds).expect("nothing to start"), []);
    }

    #[test]
    fn one_call_judges_many() {
        let limits = CommandLimits::default();
        let script = format!("while read -r l; do {NUMBER}; echo 0.$n; done");
        let (verdicts, calls) = batch(&script, 6, limits);
        assert_eq!(verdicts, (1..=6).map(|i| Verdict::Score(f64::from(i) / 10.0)).collect::<Vec<_>>());
        assert_eq!(calls, 1);
        // All answers at the end, blank lines between, words for numbers, no line end behind the last.
        let (verdicts, calls) =
            batch("cat > /dev/null; printf 'pass\\n\\nfail\\ntrue\\n{\"score\": 2}\\nperhaps\\nnan'", 6, limits);
        assert_eq!(verdicts[..4], [1.0, 0.0, 1.0, 2.0].map(Verdict::Score));
        assert!(matches!((&verdicts[4], &verdicts[5]), (Verdict::Inconclusive(_), Verdict::Inconclusive(_))));
        assert_eq!(calls, 1);
    }

    #[test]
    fn a_call_that_breaks_off_is_made_up_for_one_by_one() {
        let limits = CommandLimits { wall: Duration::from_millis(400), ..CommandLimits::default() };
        let script =
            |third: &str| format!("while read -r l; do {NUMBER}; if [ $n = 3 ]; then {third}; fi; echo $n; done");
        for third in ["exit 0", "kill -9 $$", "sleep 1000", "head -c 100000 /dev/zero"] {
            let (verdicts, calls) = batch(&script(third), 5, limits);
            let Verdict::Inconclusive(cause) = &verdicts[2] else { panic!("{third}: {verdicts:?}") };
            assert!(cause.contains("it "), "{cause}");
            for i in [0, 1, 3, 4] {
                assert_eq!(verdicts[i], Verdict::Score(i as f64 + 1.0), "{third}");
            }
            assert_eq!(calls, 4, "{third}: one call for all, then one for each that is left");
        }
        // A line too many: none of the call's lines can be relied on.
        let (verdicts, calls) = batch("while read -r l; do echo 1; done; echo 1", 3, limits);
        assert!(verdicts.iter().all(|v| matches!(v, Verdict::Inconclusive(_))), "{verdicts:?}");
        assert_eq!(calls, 4);
        // Answers given before a hang at the end count.
        assert_eq!(batch("while read -r l; do echo 1; done; sleep 1000", 2, limits), (vec![Verdict::Score(1.0); 2], 1));
    }

    #[test]
    fn a_deadline_and_a_cancellation_end_all_calls() {
        let started = Instant::now();
        let requests = [Request::new(&[], answer("1")); 50];
        let until = Some(started + Duration::from_millis(300));
        let bounds = Bounds { limits: CommandLimits::default(), until, cancel: &GO_ON };
        let verdicts = lines(&words("sleep 1000"), &requests, &bounds).expect("sh starts");
        assert!(verdicts.iter().all(|v| matches!(v, Verdict::Inconclusive(_))) && verdicts.len() == 50);
        let cancelled = AtomicBool::new(true);
        let bounds = Bounds { limits: CommandLimits::default(), until: None, cancel: &cancelled };
        let verdicts = lines(&words("sleep 1000"), &requests, &bounds).expect("nothing starts");
        assert_eq!(verdicts, vec![Verdict::Inconclusive("cancelled".to_owned()); 50]);
        assert!(started.elapsed() < Duration::from_secs(5));
    }

    #[test]
    fn work_side_by_side_keeps_its_order() {
        let work: Vec<u64> = (0..20).collect();
        let slow = |i: &u64| {
            std::thread::sleep(Duration::from_millis(20 - i));
            *i
        };
        for at_once in [0, 1, 3, 100] {
            assert_eq!(side_by_side(&work, at_once, &slow), work);
        }
    }
}
