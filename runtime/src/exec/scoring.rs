//! Choices, expectations and log-probabilities: one model step each.
//!
//! The context starts from what the plan says: the keys that are there already, or nothing. The bits are the same, because
//! only keys are kept that a prompt of the same tokens has, and because contexts and texts always attend to everything.

use super::interp::{Flow, Interp};
use super::site::{PREFILL, encode};
use super::{Event, RoleState, RunError};
use crate::error::Error;
use crate::model::{Append, OwnedRow, Row, SeqId, Wanted};
use crate::sample;
use crate::value::{Choice, Context, Usage, Value};
use crate::verify;
use ir::plan::{ScoreMode, SitePlan};
use ir::strategy::{MockOutput, Var};
use std::sync::Arc;
use std::time::Instant;

impl Interp<'_> {
    /// `choose(m, c, labels)`: probabilities of the labels as answers, normalised over the labels. A label's weight is
    /// the product of its tokens' probabilities.
    pub(super) fn choose(&mut self, site: u32, model: Var, context: Var, labels: Var) -> Result<Value, Flow> {
        let begun = self.begin_call()?;
        let Value::List(items) = self.value(labels)? else {
            return Err(Flow::from(RunError::Plan("the labels of a choice are no list".to_owned())));
        };
        let labels: Vec<Arc<str>> = items.iter().map(|v| Arc::from(v.to_text())).collect();
        let choice = self.distribution(site, model, context, labels)?;
        let score = choice.top().map_or(0.0, |i| choice.probabilities[i]);
        self.end_call(site, score, None, begun.elapsed().as_secs_f64());
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
        self.end_call(site, mean, None, begun.elapsed().as_secs_f64());
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
                self.answers(site, index, role, &context, &[text])?[0]
            }
        };
        self.end_call(site, logprob, None, begun.elapsed().as_secs_f64());
        Ok(Value::Float(logprob))
    }

    fn distribution(&mut self, site: u32, model: Var, context: Var, labels: Vec<Arc<str>>) -> Result<Choice, Flow> {
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
        let logprobs = self.answers(site, index, role, &context, &labels)?;
        let top = logprobs.iter().copied().fold(f64::NEG_INFINITY, f64::max);
        let weights: Vec<f64> = logprobs.iter().map(|x| if top.is_finite() { (x - top).exp() } else { 1.0 }).collect();
        let total: f64 = weights.iter().sum();
        Ok(Choice { labels, probabilities: weights.into_iter().map(|w| w / total).collect() })
    }

    /// Log-probabilities of texts as answers to a context: one prompt, then one step over all of them.
    fn answers(
        &mut self,
        site: u32,
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
        // "Prefilled again": nothing is taken from kept keys, and none are left behind for others.
        let fresh = matches!(self.run.site_plan(site), Some(SitePlan::Score { mode: ScoreMode::Fresh, .. }));
        let begun = Instant::now();
        let begin = if fresh { host.create().map(|seq| (seq, 0)) } else { host.begin(&prompt) };
        let (root, reused) = begin.map_err(|e| role.failed(e))?;
        let mut prefilled = 0.0;
        let mut forks: Vec<SeqId> = Vec::new();
        let mut flow = None;
        let result = (|| {
            let mut first = None;
            let mut go_on = |kv| self.admit(0, 0, kv).map_err(|f| flow = Some(f)).is_ok();
            host.prefill(root, &prompt[reused..], PREFILL, Wanted::Last, &mut go_on, &mut |row| {
                first = Some(OwnedRow::of(&row));
            })?;
            let first = first.ok_or(Error::Cancelled)?;
            prefilled = begun.elapsed().as_secs_f64();
            let mut sums: Vec<f64> = answers.iter().map(|a| logprob(&first.row(), a[0])).collect();
            let longer: Vec<usize> = (0..answers.len()).filter(|&i| answers[i].len() > 1).collect();
            for _ in &longer {
                forks.push(host.fork(root)?);
            }
            if !longer.is_empty() {
                let append = |(seq, i): (&SeqId, &usize)| {
                    let tokens = &answers[*i][..answers[*i].len() - 1];
                    Append { seq: *seq, tokens, wanted: Wanted::All, decoded: false }
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
        let tokens = prompt.len();
        if fresh {
            host.free(root);
        } else {
            let given = prompt.len();
            host.keep(root, prompt, given);
        }
        drop(host);
        if let Some(flow) = flow {
            return Err(flow);
        }
        let sums = result.map_err(|e| role.failed(e))?;
        self.charge(&Usage { prompt_tokens: computed, ..Usage::default() });
        self.run.metrics().prefill(site, tokens - reused, reused, prefilled);
        self.emit(&Event::Prefilled { site, role: &role.name, tokens, reused, seconds: prefilled });
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
