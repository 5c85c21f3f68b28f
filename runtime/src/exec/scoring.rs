//! Scores, choices, expectations and log-probabilities: one model step (or one verification) each.

use super::generate::OwnedRow;
use super::guard::remaining;
use super::interp::{Flow, Interp};
use super::site::{PREFILL, encode};
use super::{Event, RoleState, RunError};
use crate::error::Error;
use crate::model::{Append, Row, SeqId, Wanted};
use crate::sample;
use crate::value::{Choice, Context, Usage, Value, Verifier};
use crate::verify::{self, Answer, Verdict};
use ir::plan::SitePlan;
use ir::strategy::{Binding, MockOutput, Var};
use std::sync::Arc;
use std::time::{Duration, Instant};

impl Interp<'_> {
    /// `score(v, s)` and `verify(v, s)`: a number; no verdict counts as 0 and is counted apart.
    pub(super) fn score(&mut self, site: u32, verifier: Var, sample: Var, calibrated: bool) -> Result<Value, Flow> {
        let begun = self.begin_call()?;
        let verifier = self.value(verifier)?;
        let sample = self.value(sample)?;
        let text;
        let answer = match &sample {
            Value::Sample(s) => Answer { text: &s.text, value: &s.value },
            other => {
                text = other.to_text();
                Answer { text: &text, value: other }
            }
        };
        let mut verdict = self.judge(site, &verifier, answer)?;
        if calibrated
            && let Verdict::Score(x) = verdict
            && !(0.0..=1.0).contains(&x)
        {
            verdict = Verdict::Inconclusive(format!("{x} is no probability"));
        }
        let score = verdict.score();
        let inconclusive = match &verdict {
            Verdict::Inconclusive(cause) => {
                self.charge(&Usage { inconclusive: 1, ..Usage::default() });
                Some(cause.as_str())
            }
            Verdict::Score(_) => None,
        };
        self.end_call(site, begun, score, inconclusive);
        Ok(Value::Float(score))
    }

    fn begin_call(&mut self) -> Result<Instant, Flow> {
        self.admit(0, 1, 0)?;
        self.charge(&Usage { calls: 1, ..Usage::default() });
        Ok(Instant::now())
    }

    fn end_call(&self, site: u32, begun: Instant, score: f64, inconclusive: Option<&str>) {
        let seconds = begun.elapsed().as_secs_f64();
        self.run.metrics().score(site, seconds);
        self.emit(&Event::Scored { site, score, inconclusive, seconds });
    }

    /// The verdict of a verifier value.
    fn judge(&self, site: u32, verifier: &Value, answer: Answer<'_>) -> Result<Verdict, Flow> {
        match verifier {
            Value::Verifier(built) => match &**built {
                Verifier::Exact(expected) => Ok(verify::exact(expected, answer)),
                Verifier::Numeric(expected, tolerance) => Ok(verify::numeric(*expected, *tolerance, answer)),
                Verifier::Regex(pattern) => Ok(verify::pattern(pattern, answer).map_err(RunError::from)?),
                Verifier::Command(words, args) => {
                    let words: Vec<String> = words.iter().map(ToString::to_string).collect();
                    self.program(&words, args, answer)
                }
                Verifier::All(parts) => self.judge_all(site, parts, answer),
            },
            Value::Model(index) => {
                let unknown = || RunError::Plan(format!("there is no role {index}"));
                let role = self.run.roles.get(*index as usize).ok_or_else(unknown)?;
                self.judge_by_role(role, answer)
            }
            other => Err(Flow::from(RunError::Plan(format!("a verifier operand is {}", other.kind())))),
        }
    }

    fn program(&self, words: &[String], args: &[Value], answer: Answer<'_>) -> Result<Verdict, Flow> {
        // A program never outlives the deadline of the guards around it.
        let mut limits = self.run.options.command;
        if let Some(left) = remaining(self.guards()).time {
            limits.wall = limits.wall.min(Duration::try_from_secs_f64(left).unwrap_or(limits.wall));
        }
        let verdict = verify::command(words, args, answer, &limits, self.run.watch.cancel).map_err(RunError::from)?;
        // A cancelled run ends here, it does not go on with a verdict that nobody gave.
        self.admit(0, 0, 0)?;
        Ok(verdict)
    }

    /// All parts must pass, tried in the plan's order up to the first that does not: the least score.
    fn judge_all(&self, site: u32, parts: &[Value], answer: Answer<'_>) -> Result<Verdict, Flow> {
        let mut order: Vec<usize> = match self.run.site_plan(site) {
            Some(SitePlan::Verify { order, .. }) => order.iter().map(|&i| i as usize).collect(),
            _ => Vec::new(),
        };
        order.retain(|&i| i < parts.len());
        order.extend((0..parts.len()).filter(|i| !order.contains(i)).collect::<Vec<_>>());
        let mut least = Verdict::Score(1.0);
        for i in order {
            let verdict = self.judge(site, &parts[i], answer)?;
            if !verdict.passes() {
                return Ok(verdict);
            }
            if verdict.score() < least.score() {
                least = verdict;
            }
        }
        Ok(least)
    }

    fn judge_by_role(&self, role: &RoleState, answer: Answer<'_>) -> Result<Verdict, Flow> {
        if let Some(script) = &role.script {
            return match script.next() {
                MockOutput::Number(x) => Ok(Verdict::Score(x)),
                MockOutput::Text(t) => match verify::whole_number(t.trim()) {
                    Some(x) => Ok(Verdict::Score(x)),
                    None => {
                        Err(Flow::from(role.lacks(&format!("is mocked with the text {t:?} where a score is asked"))))
                    }
                },
            };
        }
        match &role.binding {
            Some(Binding::Exact(expected)) => Ok(verify::exact(expected, answer)),
            Some(Binding::Numeric(expected, tolerance)) => Ok(verify::numeric(*expected, *tolerance, answer)),
            Some(Binding::Regex(pattern)) => Ok(verify::pattern(pattern, answer).map_err(RunError::from)?),
            Some(Binding::Command(words)) => self.program(words, &[], answer),
            Some(Binding::Gguf(_)) | None => {
                let cause = "gives no scores; bind it to exact(…), numeric(…), regex(…) or command(…)";
                Err(Flow::from(role.lacks(cause)))
            }
        }
    }

    /// `choose(m, c, labels)`: probabilities of the labels as answers, normalised over the labels. A label's weight is
    /// the product of its tokens' probabilities.
    pub(super) fn choose(&mut self, site: u32, model: Var, context: Var, labels: Var) -> Result<Value, Flow> {
        let begun = self.begin_call()?;
        let Value::List(items) = self.value(labels)? else {
            return Err(Flow::from(RunError::Plan("the labels of a choice are no list".to_owned())));
        };
        let labels: Vec<Arc<str>> = items.iter().map(|v| Arc::from(v.to_text())).collect();
        let choice = self.distribution(site, model, context, labels)?;
        self.end_call(site, begun, choice.top().map_or(0.0, |i| choice.probabilities[i]), None);
        Ok(Value::Choice(Arc::new(choice)))
    }

    /// `expect(m, c, lo..=hi)`: mean of the digits under their normalised probabilities.
    pub(super) fn expect(&mut self, site: u32, model: Var, context: Var, lo: i64, hi: i64) -> Result<Value, Flow> {
        let begun = self.begin_call()?;
        let (_, role) = self.role(model)?;
        let mean = match role.script.as_ref().map(|s| s.next()) {
            Some(MockOutput::Number(x)) => x,
            Some(MockOutput::Text(t)) => verify::last_number(&t)
                .ok_or_else(|| role.lacks(&format!("is mocked with the text {t:?} where a digit is asked")))?,
            None => {
                let labels = (lo..=hi).map(|d| Arc::from(d.to_string())).collect();
                let choice = self.distribution(site, model, context, labels)?;
                (lo..=hi).zip(&choice.probabilities).map(|(digit, p)| digit as f64 * p).sum()
            }
        };
        self.end_call(site, begun, mean, None);
        Ok(Value::Float(mean))
    }

    /// `logprob(m, c, text)`: log-probability of the text as the beginning of the answer, nats.
    pub(super) fn logprob(&mut self, site: u32, model: Var, context: Var, text: Var) -> Result<Value, Flow> {
        let begun = self.begin_call()?;
        let (index, role) = self.role(model)?;
        let logprob = match role.script.as_ref().map(|s| s.next()) {
            Some(MockOutput::Number(x)) => x,
            Some(MockOutput::Text(t)) => {
                let cause = format!("is mocked with the text {t:?} where a log-probability is asked");
                return Err(Flow::from(role.lacks(&cause)));
            }
            None => {
                let context = self.context(context)?;
                let text = Arc::from(self.value(text)?.to_text());
                self.answers(index, role, &context, &[text])?[0]
            }
        };
        self.end_call(site, begun, logprob, None);
        Ok(Value::Float(logprob))
    }

    fn distribution(&mut self, _site: u32, model: Var, context: Var, labels: Vec<Arc<str>>) -> Result<Choice, Flow> {
        let (index, role) = self.role(model)?;
        if labels.is_empty() {
            return Err(Flow::from(RunError::Operation("a choice between no labels".to_owned())));
        }
        if let Some(script) = &role.script {
            let said = match script.next() {
                MockOutput::Text(t) => t,
                MockOutput::Number(x) => x.to_string(),
            };
            let found = labels.iter().position(|l| **l == *said.trim());
            let cause = || format!("is mocked with {said:?}, which is none of the labels {}", labels.join(", "));
            let found = found.ok_or_else(|| role.lacks(&cause()))?;
            let probabilities = (0..labels.len()).map(|i| f64::from(u8::from(i == found))).collect();
            return Ok(Choice { labels, probabilities });
        }
        let context = self.context(context)?;
        let logprobs = self.answers(index, role, &context, &labels)?;
        let top = logprobs.iter().copied().fold(f64::NEG_INFINITY, f64::max);
        let weights: Vec<f64> = logprobs.iter().map(|x| if top.is_finite() { (x - top).exp() } else { 1.0 }).collect();
        let total: f64 = weights.iter().sum();
        Ok(Choice { labels, probabilities: weights.into_iter().map(|w| w / total).collect() })
    }

    /// Log-probabilities of texts as answers to a context: one prompt, then one step over all of them.
    fn answers(
        &mut self,
        index: u32,
        role: &RoleState,
        context: &Context,
        texts: &[Arc<str>],
    ) -> Result<Vec<f64>, Flow> {
        let prompt = encode(role, context, index)?;
        let codec = role.codec()?;
        let mut answers = Vec::new();
        for text in texts {
            let tokens = codec.encode(text).map_err(|cause| RunError::Codec { role: role.name.clone(), cause })?;
            if tokens.is_empty() {
                let cause = format!("the text {text:?} has no tokens");
                return Err(Flow::from(RunError::Codec { role: role.name.clone(), cause }));
            }
            answers.push(tokens);
        }
        let mut host = role.host()?;
        let holds = host.model().info().context;
        let longest = prompt.len() + answers.iter().map(Vec::len).max().unwrap_or(0);
        if prompt.is_empty() || longest > holds {
            let role = role.name.clone();
            return Err(Flow::from(RunError::PromptTooLong { role, tokens: longest, context: holds }));
        }
        let (root, reused) = host.begin(&prompt).map_err(|e| role.failed(e))?;
        let mut forks: Vec<SeqId> = Vec::new();
        let mut flow = None;
        let result = (|| {
            let mut first = None;
            let mut go_on = |kv| self.admit(0, 0, kv).map_err(|f| flow = Some(f)).is_ok();
            host.prefill(root, &prompt[reused..], PREFILL, Wanted::Last, &mut go_on, &mut |row| {
                first = Some(OwnedRow::of(&row));
            })?;
            let first = first.ok_or(Error::Cancelled)?;
            let mut sums: Vec<f64> = answers.iter().map(|a| logprob(&first.row(), a[0])).collect();
            let longer: Vec<usize> = (0..answers.len()).filter(|&i| answers[i].len() > 1).collect();
            for _ in &longer {
                forks.push(host.fork(root)?);
            }
            if !longer.is_empty() {
                let append = |(seq, i): (&SeqId, &usize)| {
                    let tokens = &answers[*i][..answers[*i].len() - 1];
                    Append { seq: *seq, tokens, wanted: Wanted::All }
                };
                let appends: Vec<Append<'_>> = forks.iter().zip(&longer).map(append).collect();
                host.step(&appends, &mut |which, token, row| {
                    let i = longer[which];
                    sums[i] += logprob(&row, answers[i][token + 1]);
                })?;
            }
            Ok::<Vec<f64>, Error>(sums)
        })();
        for seq in forks {
            host.free(seq);
        }
        let computed = (prompt.len() - reused + answers.iter().map(|a| a.len() - 1).sum::<usize>()) as u64;
        host.keep(root, prompt);
        drop(host);
        if let Some(flow) = flow {
            return Err(flow);
        }
        let sums = result.map_err(|e| role.failed(e))?;
        self.charge(&Usage { prompt_tokens: computed, ..Usage::default() });
        if sums.iter().any(|x| x.is_nan()) {
            let cause = format!("model `{}` produced logits that are no numbers", role.name);
            return Err(Flow::from(RunError::Operation(cause)));
        }
        Ok(sums)
    }
}

fn logprob(row: &Row<'_>, token: u32) -> f64 {
    if row.is_sound() { f64::from(sample::logprob(row, token)) } else { f64::NAN }
}
