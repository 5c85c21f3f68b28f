//! Written answers in place of models: what `test` blocks run on.
//!
//! Takes a checked test with its mocks; returns a [`TestReport`]. A mocked generator says the given texts in the order
//! in which sequences start, the last one for ever; a mocked verifier gives the numbers. Everything else — rules, votes,
//! budgets, counts — is the code that runs real models, over a small vocabulary made of the texts' words.

use crate::error::Error;
use crate::exec::{ChatMessage, Guard, Interp, Options, RoleState, Run, RunError, TextCodec, Watch};
use crate::exec::{Flow, Host};
use crate::metrics::Metrics;
use crate::model::{Append, LanguageModel, ModelInfo, Row, SeqId, Wanted};
use crate::sample::{Choice, Draw, logprob};
use crate::session::{Execution, execute};
use crate::value::{Budget, Usage, Value};
use ir::strategy::{MockOutput, Strategy, Test, TestStep};
use std::borrow::Cow;
use std::collections::BTreeMap;
use std::sync::atomic::AtomicBool;
use std::sync::{Arc, Mutex, PoisonError};

/// The written outputs of a role, used up in order.
#[derive(Debug)]
pub struct Script {
    outputs: Vec<MockOutput>,
    used: Mutex<usize>,
}

impl Script {
    /// A script; `None` without outputs.
    #[must_use]
    pub fn new(outputs: Vec<MockOutput>) -> Option<Self> {
        (!outputs.is_empty()).then_some(Self { outputs, used: Mutex::new(0) })
    }

    /// The next output; the last one repeats.
    pub fn next(&self) -> MockOutput {
        let mut used = self.used.lock().unwrap_or_else(PoisonError::into_inner);
        let output = self.outputs[(*used).min(self.outputs.len() - 1)].clone();
        *used += 1;
        output
    }
}

/// Longest piece of a written text that is one token, bytes.
const PIECE: usize = 16;

/// A vocabulary of all bytes, the pieces of the written texts (words with the white space before them), and one end
/// token.
#[derive(Debug)]
pub struct ScriptCodec {
    words: Vec<Vec<u8>>,
    ids: BTreeMap<Vec<u8>, u32>,
    ends: [u32; 1],
}

impl ScriptCodec {
    /// The vocabulary of these texts.
    #[must_use]
    pub fn new<'a>(texts: impl Iterator<Item = &'a str>) -> Self {
        let mut words: Vec<Vec<u8>> = (0..=255u8).map(|b| vec![b]).collect();
        let mut ids: BTreeMap<Vec<u8>, u32> = words.iter().cloned().zip(0..).collect();
        for piece in texts.flat_map(pieces) {
            if !ids.contains_key(piece) {
                ids.insert(piece.to_vec(), words.len() as u32);
                words.push(piece.to_vec());
            }
        }
        let ends = [words.len() as u32];
        words.push(Vec::new());
        Self { words, ids, ends }
    }
}

/// Cuts a text before white space and at [`PIECE`] bytes.
fn pieces(text: &str) -> impl Iterator<Item = &[u8]> {
    let bytes = text.as_bytes();
    let mut at = 0;
    std::iter::from_fn(move || {
        let from = at;
        while at < bytes.len() && at - from < PIECE {
            at += 1;
            let gap = |i: usize| bytes.get(i).is_none_or(u8::is_ascii_whitespace);
            if gap(at) && !gap(at - 1) {
                break;
            }
        }
        (from < at).then(|| &bytes[from..at])
    })
}

impl TextCodec for ScriptCodec {
    fn encode_chat(&self, messages: &[ChatMessage<'_>], _: bool) -> Result<Vec<u32>, String> {
        let mut tokens = Vec::new();
        for message in messages {
            tokens.extend(self.encode(message.text)?);
            tokens.extend(self.ends);
        }
        // Never empty: an empty conversation still opens an answer.
        tokens.extend(self.ends);
        Ok(tokens)
    }

    fn encode(&self, text: &str) -> Result<Vec<u32>, String> {
        Ok(pieces(text)
            .flat_map(|piece| match self.ids.get(piece) {
                Some(&id) => vec![id],
                None => piece.iter().map(|&b| u32::from(b)).collect(),
            })
            .collect())
    }

    fn token_bytes(&self, id: u32) -> Cow<'_, [u8]> {
        self.words.get(id as usize).map_or(Cow::Borrowed(&[]), |w| Cow::Borrowed(w))
    }

    fn end_tokens(&self) -> &[u32] {
        &self.ends
    }

    fn vocabulary(&self) -> usize {
        self.words.len()
    }
}

/// A language model that says written texts: each sequence claims the next text when its first row is asked for.
pub struct ScriptedModel {
    script: Arc<Script>,
    codec: Arc<ScriptCodec>,
    info: ModelInfo,
    sequences: BTreeMap<u32, Scripted>,
    next: u32,
}

#[derive(Clone, Default)]
struct Scripted {
    length: usize,
    answer: Option<(Arc<[u32]>, usize)>,
}

/// Logit of what is not said: its probability vanishes beside that of what is.
const UNSAID: f32 = -60.0;

impl ScriptedModel {
    /// A model over a script.
    #[must_use]
    pub fn new(script: Arc<Script>, codec: Arc<ScriptCodec>) -> Self {
        let info = ModelInfo {
            vocab: codec.vocabulary(),
            context: 1 << 24,
            kv_bytes_per_token: 0,
            page: 16,
            max_rows: 1 << 16,
        };
        Self { script, codec, info, sequences: BTreeMap::new(), next: 0 }
    }

    fn known(&mut self, seq: SeqId) -> Result<&mut Scripted, Error> {
        let unknown = || Error::Sequence { seq: seq.0, cause: "it was never created or is freed".to_owned() };
        self.sequences.get_mut(&seq.0).ok_or_else(unknown)
    }

    fn add(&mut self, sequence: Scripted) -> SeqId {
        let id = self.next;
        self.next += 1;
        self.sequences.insert(id, sequence);
        SeqId(id)
    }
}

impl LanguageModel for ScriptedModel {
    fn info(&self) -> &ModelInfo {
        &self.info
    }

    fn create(&mut self) -> Result<SeqId, Error> {
        Ok(self.add(Scripted::default()))
    }

    fn fork(&mut self, seq: SeqId) -> Result<SeqId, Error> {
        let copy = self.known(seq)?.clone();
        Ok(self.add(copy))
    }

    fn len(&self, seq: SeqId) -> usize {
        self.sequences.get(&seq.0).map_or(0, |s| s.length)
    }

    fn truncate(&mut self, seq: SeqId, len: usize) -> Result<(), Error> {
        let sequence = self.known(seq)?;
        sequence.length = sequence.length.min(len);
        sequence.answer = None;
        Ok(())
    }

    fn free(&mut self, seq: SeqId) {
        self.sequences.remove(&seq.0);
    }

    fn step(&mut self, appends: &[Append<'_>], sink: &mut dyn FnMut(usize, usize, Row<'_>)) -> Result<(), Error> {
        for append in appends {
            self.known(append.seq)?;
        }
        for (number, append) in appends.iter().enumerate() {
            let (script, codec) = (self.script.clone(), self.codec.clone());
            let sequence = self.known(append.seq)?;
            sequence.length += append.tokens.len();
            let rows = match append.wanted {
                Wanted::None => {
                    sequence.answer = None;
                    continue;
                }
                Wanted::Last => append.tokens.len() - 1..append.tokens.len(),
                Wanted::All => 0..append.tokens.len(),
            };
            let (answer, at) = match sequence.answer.take() {
                Some((answer, at)) => (answer, at + 1),
                None => {
                    let text = match script.next() {
                        MockOutput::Text(text) => text,
                        MockOutput::Number(x) => x.to_string(),
                    };
                    (codec.encode(&text).unwrap_or_default().into(), 0)
                }
            };
            let said = answer.get(at).copied().unwrap_or(codec.ends[0]);
            sequence.answer = Some((answer, at));
            let mut logits = vec![UNSAID; codec.vocabulary()];
            logits[said as usize] = 0.0;
            for row in rows {
                sink(number, row, Row { logits: &logits, max: 0.0, log_z: 0.0, entropy: 0.0, argmax: said });
            }
        }
        Ok(())
    }

    /// What is said is said, at any temperature.
    fn choose(&mut self, rows: &[Row<'_>], draws: &[(usize, Draw)]) -> Result<Vec<Option<Choice>>, Error> {
        let said = |(row, _): &(usize, Draw)| {
            let row = rows.get(*row)?;
            Some(Choice { token: row.argmax, logprob: logprob(row, row.argmax) })
        };
        Ok(draws.iter().map(said).collect())
    }

    fn kv_bytes(&self) -> u64 {
        0
    }

    fn answers_differ(&self) -> bool {
        true
    }
}

/// What a test came to.
#[derive(Clone, Debug, PartialEq)]
pub struct TestReport {
    /// Title.
    pub title: String,
    /// Assertions that held.
    pub passed: usize,
    /// What went wrong: assertions that did not hold, runs that failed. Empty: the test passed.
    pub failures: Vec<String>,
    /// What all runs used.
    pub usage: Usage,
}

/// Runs a test with its mocks. Every assertion is looked at; a run that fails ends the test.
#[must_use]
pub fn run_test(test: &Test) -> TestReport {
    let mut report = TestReport { title: test.title.clone(), passed: 0, failures: Vec::new(), usage: Usage::default() };
    if let Err(failure) = steps(test, &mut report) {
        report.failures.push(failure);
    }
    report
}

fn steps(test: &Test, report: &mut TestReport) -> Result<(), String> {
    let mut scripts: BTreeMap<&str, Arc<Script>> = BTreeMap::new();
    for (role, outputs) in &test.mocks {
        let script = Script::new(outputs.clone()).ok_or_else(|| format!("mock `{role}` has no outputs"))?;
        scripts.insert(role, Arc::new(script));
    }
    let texts = test.mocks.iter().flat_map(|(_, outputs)| outputs).filter_map(|o| match o {
        MockOutput::Text(text) => Some(text.as_str()),
        MockOutput::Number(_) => None,
    });
    let codec = Arc::new(ScriptCodec::new(texts));
    let mut functions = BTreeMap::new();
    for step in &test.steps {
        if let TestStep::Eval(binds) = step {
            crate::exec::functions(binds, &mut functions);
        }
    }
    let options = Options::default();
    let cancel = AtomicBool::new(false);
    let watch = Watch { events: &|_| {}, cancel: &cancel };
    let run = Run {
        sites: &[],
        tunables: &[],
        roles: &[],
        rules: None,
        options: &options,
        seed: 0,
        watch,
        metrics: Mutex::new(Metrics::default()),
        functions,
    };
    let guard = Arc::new(Guard::new(Budget::default(), 0.0));
    let mut interp = Interp::new(&run, test.vars, guard);
    for step in &test.steps {
        match step {
            TestStep::Eval(binds) => interp.binds(binds).map_err(|flow| words(&flow))?,
            TestStep::Assert(var, source) => match interp.peek(*var) {
                Some(Value::Bool(true)) => report.passed += 1,
                Some(Value::Bool(false)) => report.failures.push(format!("assertion does not hold: {source}")),
                _ => report.failures.push(format!("assertion has no truth value: {source}")),
            },
            TestStep::Run(var, index, args) => {
                let unknown = || format!("the test calls strategy {index}, which it does not have");
                let strategy = test.strategies.get(*index as usize).ok_or_else(unknown)?;
                let args = args
                    .iter()
                    .map(|arg| arg.map(|v| interp.peek(v).cloned().ok_or("an argument is not set")).transpose())
                    .collect::<Result<Vec<_>, _>>()?;
                let args = crate::session::complete(strategy, args).map_err(|e| format!("{}: {e}", strategy.name))?;
                let roles = mocked(strategy, &scripts, &codec);
                let tunables: Vec<Value> = strategy.tunables.iter().map(|t| Value::from_const(&t.value)).collect();
                let execution = Execution {
                    strategy,
                    sites: &[],
                    tunables: &tunables,
                    roles: &roles,
                    rules: None,
                    seed: 0,
                    options: &options,
                    watch,
                };
                let finished = execute(&execution, args).map_err(|e| format!("{} failed: {e}", strategy.name))?;
                report.usage.add(&finished.usage);
                interp.set(*var, finished.value);
            }
        }
    }
    Ok(())
}

fn words(flow: &Flow) -> String {
    match flow {
        Flow::Failed(failure) | Flow::Tripped(_, _, failure) => failure.to_string(),
        Flow::Return(_) | Flow::Break(_) => RunError::Plan("a test returns".to_owned()).to_string(),
    }
}

/// The strategy's roles with the mocks of the same name.
fn mocked(strategy: &Strategy, scripts: &BTreeMap<&str, Arc<Script>>, codec: &Arc<ScriptCodec>) -> Vec<RoleState> {
    let role = |role: &ir::strategy::Role| {
        let script = scripts.get(role.name.as_str()).cloned();
        let model = script.clone().map(|s| Mutex::new(Host::new(Box::new(ScriptedModel::new(s, codec.clone())))));
        RoleState {
            name: role.name.clone(),
            binding: role.binding.clone(),
            codec: script.as_ref().map(|_| codec.clone() as Arc<dyn TextCodec>),
            grammars: None,
            model,
            script,
        }
    };
    strategy.roles.iter().map(role).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn texts_survive_their_pieces() {
        let text = "The answer is\n\n\\boxed{4}, überlangeswortohneeinleerzeichen  end ";
        let codec = ScriptCodec::new([text].into_iter());
        let tokens = codec.encode(text).expect("total");
        let bytes: Vec<u8> = tokens.iter().flat_map(|&t| codec.token_bytes(t).into_owned()).collect();
        assert_eq!(bytes, text.as_bytes());
        assert!(tokens.len() < 12);
    }

    #[test]
    fn the_last_output_repeats() {
        let script = Script::new(vec![MockOutput::Number(1.0), MockOutput::Number(2.0)]).expect("two outputs");
        let said: Vec<MockOutput> = (0..3).map(|_| script.next()).collect();
        assert_eq!(said, [MockOutput::Number(1.0), MockOutput::Number(2.0), MockOutput::Number(2.0)]);
        assert!(Script::new(Vec::new()).is_none());
    }
}
