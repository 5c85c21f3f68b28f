//! Sampling sites: `gen` and `sample` with their rules.
//!
//! The prompt is computed once and forked; then one model step per token carries all live sequences. Rules are looked at
//! where the language says: token rules before each token, end and set rules when a sequence ends, in the order of the
//! sequences, so that a stop that the third of eight fires drops the others even if they would have ended in this step.

use super::decide::{Decision, Pending};
use super::guard::remaining;
use super::interp::{Flow, Interp};
use super::meeting::Request;
use super::rules::History;
use super::sequence::{Detokenised, Ending, Sequence, Taken};
use super::site::Site;
use super::{Event, RunError};
use crate::model::{Append, OwnedRow, Row, SeqId, Wanted};
use crate::sample::Draw;
use crate::value::{EndReason, Sample, Usage, Value};
use ir::strategy::{Action, Generate, Level, Rule};
use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Instant;

/// The state of a site.
#[derive(Default)]
struct Work {
    root: Option<SeqId>,
    first: Option<OwnedRow>,
    live: Vec<Sequence>,
    done: Vec<Finished>,
    /// Sequences started so far.
    started: u32,
    /// Sequences still to start.
    waiting: u32,
    /// Sequences that a set rule asked for, to start at once.
    grown: u32,
    waves: u32,
    stopped: bool,
}

struct Finished {
    sample: Arc<Sample>,
    dropped: bool,
}

impl<'a> Interp<'a> {
    /// Carries out a sampling site: a sample for `gen`, a list for `sample`.
    pub(super) fn generate(&mut self, generate: &'a Generate) -> Result<Value, Flow> {
        let mut site = self.site(generate)?;
        let mut work = Work { waiting: site.n, ..Work::default() };
        let outcome = self.run_site(&mut site, &mut work);
        let cancelled = self.release(&site, &mut work)?;
        self.charge(&Usage { cancelled, ..Usage::default() });
        outcome?;
        work.done.sort_by_key(|f| f.sample.index);
        let results: Vec<Arc<Sample>> = work.done.into_iter().filter(|f| !f.dropped).map(|f| f.sample).collect();
        if let Some(first) = results.first()
            && results.iter().all(|s| s.reason == EndReason::Error)
        {
            return Err(Flow::from(RunError::AllFailed {
                role: site.role.name.clone(),
                sequences: results.len(),
                cause: first.error.as_deref().unwrap_or("unknown").to_owned(),
            }));
        }
        if generate.n.is_some() {
            return Ok(Value::List(results.into_iter().map(Value::Sample).collect()));
        }
        let none = || Flow::from(RunError::Operation("every sequence was dropped by a rule".to_owned()));
        results.into_iter().next().map(Value::Sample).ok_or_else(none)
    }

    /// Gives sequences back; returns how many were cut off.
    fn release(&mut self, site: &Site<'a>, work: &mut Work) -> Result<u64, Flow> {
        if work.root.is_none() && work.live.is_empty() {
            return Ok(0);
        }
        let cancelled = self.cut_off(site, work)?;
        let mut host = site.role.host()?;
        if let Some(root) = work.root.take() {
            host.keep(root, site.prompt.to_vec(), site.prompt.len());
        }
        Ok(cancelled)
    }

    /// Cancels all live sequences; returns how many.
    fn cut_off(&mut self, site: &Site<'a>, work: &mut Work) -> Result<u64, Flow> {
        let cut: Vec<Sequence> = work.live.drain(..).collect();
        let mut host = site.role.host()?;
        for sequence in &cut {
            host.free(sequence.seq);
        }
        drop(host);
        for Sequence { index, tokens, .. } in &cut {
            let (seq, tokens) = (*index, tokens.len() as u32);
            let reason = EndReason::Cancelled;
            self.emit(&Event::SequenceEnded { site: site.generate.site, seq, reason, tokens });
        }
        Ok(cut.len() as u64)
    }

    fn run_site(&mut self, site: &mut Site<'a>, work: &mut Work) -> Result<(), Flow> {
        self.prefill_site(site, work)?;
        loop {
            // Arms of a `par` share the model: each asks for its own site's way.
            site.role.host()?.place_prompts(site.prefix);
            let grown = std::mem::take(&mut work.grown);
            if grown > 0 || (work.live.is_empty() && work.waiting > 0) {
                let wave = if grown > 0 {
                    grown
                } else {
                    site.waves.pop_front().filter(|&w| w > 0).unwrap_or(u32::MAX).min(work.waiting)
                };
                work.waiting -= wave.min(work.waiting) * u32::from(grown == 0);
                self.emit(&Event::WaveStarted { site: site.generate.site, wave: work.waves, sequences: wave });
                work.waves += 1;
                self.start_sequences(site, work, wave)?;
            } else if work.live.is_empty() {
                return Ok(());
            } else {
                self.step_site(site, work)?;
            }
        }
    }

    /// Computes the prompt.
    fn prefill_site(&mut self, site: &Site<'a>, work: &mut Work) -> Result<(), Flow> {
        self.admit(0, 0, self.kv())?;
        let begun = Instant::now();
        let most = site.prompt.len() - usize::from(!site.shares);
        let mut host = site.role.host()?;
        let (root, reused) = host.begin(&site.prompt).map_err(|e| site.role.failed(e))?;
        work.root = Some(root);
        let wanted = if site.shares { Wanted::Last } else { Wanted::None };
        let rest = &site.prompt[reused.min(most)..most];
        let mut first = None;
        let mut trip = None;
        let mut go_on = |kv| match self.admit(0, 0, kv) {
            Ok(()) => true,
            Err(flow) => {
                trip = Some(flow);
                false
            }
        };
        let result =
            host.prefill(root, rest, site.chunk, wanted, &mut go_on, &mut |row| first = Some(OwnedRow::of(&row)));
        drop(host);
        if let Some(flow) = trip {
            return Err(flow);
        }
        result.map_err(|e| site.role.failed(e))?;
        work.first = first;
        self.charge(&Usage { prompt_tokens: rest.len() as u64, ..Usage::default() });
        let seconds = begun.elapsed().as_secs_f64();
        let event = Event::Prefilled {
            site: site.generate.site,
            role: &site.role.name,
            tokens: site.prompt.len(),
            reused,
            seconds,
        };
        self.run.metrics().prefill(site.generate.site, rest.len(), reused, seconds);
        self.emit(&event);
        Ok(())
    }

    /// Starts `count` sequences; with a shared row they take their first token here.
    fn start_sequences(&mut self, site: &Site<'a>, work: &mut Work, count: u32) -> Result<(), Flow> {
        let count = count.min(site.cap.saturating_sub(work.started));
        let Some(root) = work.root else { return Ok(()) };
        let tokens = if site.shares && site.max > 0 { u64::from(count) } else { 0 };
        let kv = self.kv();
        self.reserve(tokens, u64::from(count), kv)?;
        let mut fresh = Vec::new();
        for _ in 0..count {
            let seq = match site.role.host()?.fork(root) {
                Ok(seq) => seq,
                Err(e) => {
                    work.live.append(&mut fresh);
                    return Err(Flow::from(site.role.failed(e)));
                }
            };
            let index = work.started;
            work.started += 1;
            fresh.push(Sequence {
                index,
                key: index,
                seq,
                pending: site.prompt[site.prompt.len() - 1..].to_vec(),
                tokens: Vec::new(),
                logprobs: Vec::new(),
                entropy: 0.0,
                text: Detokenised::default(),
                history: History::new(&site.statistics),
                matcher: site.matcher.clone(),
                inherited: 0,
                started: Instant::now(),
            });
        }
        self.run.metrics().sequences(site.generate.site, u64::from(count));
        if site.max == 0 {
            for sequence in fresh {
                self.finish(site, work, sequence, EndReason::Max, None, false)?;
            }
            return Ok(());
        }
        let Some(first) = work.first.take() else {
            work.live.append(&mut fresh);
            return Ok(());
        };
        let mut room = self.room(site, work);
        let row = first.row();
        let looks: Vec<_> = fresh.iter_mut().map(|s| self.decide(site, s, &row, &mut room)).collect();
        let decisions = settle(site, &[row], looks.into_iter().map(|look| (0, look)));
        work.first = Some(first);
        let decisions = match decisions {
            Ok(decisions) => decisions,
            Err(flow) => {
                work.live.append(&mut fresh);
                return Err(flow);
            }
        };
        let mut older = std::mem::take(&mut work.live);
        let result = self.apply(site, work, fresh, decisions);
        // Sequences started later have higher indices; those that ran before stay in front.
        older.append(&mut work.live);
        work.live = older;
        if work.stopped {
            let cancelled = self.cut_off(site, work)?;
            self.charge(&Usage { cancelled, ..Usage::default() });
        }
        result
    }

    /// Children that branches of this step may add: bounded by the site's cap and by what is left of tokens and calls
    /// once the sequences themselves have theirs.
    fn room(&self, site: &Site<'a>, work: &Work) -> u32 {
        let left = remaining(self.guards());
        let most = |left: Option<u64>| left.map_or(u32::MAX, |n| u32::try_from(n).unwrap_or(u32::MAX));
        let places = site.cap.saturating_sub(work.started + work.waiting + work.grown);
        places.min(most(left.tokens)).min(most(left.calls))
    }

    /// One token for every live sequence.
    fn step_site(&mut self, site: &Site<'a>, work: &mut Work) -> Result<(), Flow> {
        let begun = Instant::now();
        let kv = self.kv();
        self.reserve(work.live.len() as u64, 0, kv)?;
        let pending: Vec<(SeqId, Vec<u32>)> =
            work.live.iter_mut().map(|s| (s.seq, std::mem::take(&mut s.pending))).collect();
        let rows = pending.len();
        let decisions = match self.seat.clone() {
            None => self.step_alone(site, work, &pending)?,
            Some(seat) => {
                let request = Request { role: site.role, appends: pending, prefix: site.prefix };
                let reply = seat.ask(vec![request]).and_then(|mut replies| replies.pop());
                let reply = reply.ok_or_else(|| Flow::from(RunError::Cancelled))?;
                let rows = reply.map_err(|e| site.role.failed(e))?;
                let mut room = self.room(site, work);
                let rows: Vec<Row<'_>> = rows.iter().map(OwnedRow::row).collect();
                let decide = |(s, row): (&mut Sequence, &Row<'_>)| self.decide(site, s, row, &mut room);
                let looks: Vec<_> = work.live.iter_mut().zip(&rows).map(decide).collect();
                settle(site, &rows, looks.into_iter().enumerate())?
            }
        };
        self.run.metrics().step(site.generate.site, rows, begun.elapsed().as_secs_f64());
        let live = std::mem::take(&mut work.live);
        self.apply(site, work, live, decisions)
    }

    /// A step of this site's sequences alone: rows are looked at and drawn from where they are, without a copy.
    fn step_alone(
        &mut self,
        site: &Site<'a>,
        work: &mut Work,
        pending: &[(SeqId, Vec<u32>)],
    ) -> Result<Vec<Decision>, Flow> {
        let mut room = self.room(site, work);
        // Where rows after a prompt are not shared, its last token is among these: such a model keeps no keys.
        let appends: Vec<Append<'_>> = pending
            .iter()
            .map(|(seq, tokens)| Append { seq: *seq, tokens, wanted: Wanted::Last, decoded: true })
            .collect();
        let mut looks: Vec<Option<Pending>> = appends.iter().map(|_| None).collect();
        let live = &mut work.live;
        let me = &*self;
        let mut look = |i: usize, row: Row<'_>| {
            let (pending, draw) = me.decide(site, &mut live[i], &row, &mut room);
            looks[i] = Some(pending);
            draw
        };
        let choices = site.role.host()?.step_and_choose(&appends, &mut look).map_err(|e| site.role.failed(e))?;
        let lost = || Decision::Failed("the model delivered no row".to_owned());
        let settle = |(look, choice): (Option<Pending>, _)| look.map_or_else(lost, |l| l.settle(choice));
        Ok(looks.into_iter().zip(choices).map(settle).collect())
    }

    /// Asks for room for tokens and calls, and takes it at once: what is not used is given back by `apply`.
    fn reserve(&mut self, tokens: u64, calls: u64, kv: u64) -> Result<(), Flow> {
        self.admit(tokens, calls, kv)?;
        self.charge(&Usage { tokens, calls, ..Usage::default() });
        Ok(())
    }

    /// Carries out decisions in the order of the sequences.
    fn apply(
        &mut self,
        site: &Site<'a>,
        work: &mut Work,
        sequences: Vec<Sequence>,
        decisions: Vec<Decision>,
    ) -> Result<(), Flow> {
        let chosen = |d: &Decision| if let Decision::Tokens(tokens, _) = d { tokens.len() as u64 } else { 0 };
        // One token each is charged already: branches use more, sequences that end without a token use none.
        let (reserved, used) = (sequences.len() as u64, decisions.iter().map(chosen).sum::<u64>());
        self.charge(&Usage { tokens: used.saturating_sub(reserved), ..Usage::default() });
        self.refund(reserved.saturating_sub(used));
        let live = sequences.len() as u32;
        let mut queue: VecDeque<(Sequence, Decision)> = sequences.into_iter().zip(decisions).collect();
        let mut born = Vec::new();
        let mut outcome = Ok(());
        while let Some((sequence, decision)) = queue.pop_front() {
            outcome = self.apply_one(site, work, sequence, decision, live, &mut born);
            if outcome.is_err() || work.stopped {
                break;
            }
        }
        // What is left here after a stop or a failure is cut off and given back by `release`.
        work.live.extend(queue.into_iter().map(|(sequence, _)| sequence));
        work.live.append(&mut born);
        if work.stopped {
            (work.waiting, work.grown) = (0, 0);
            let cancelled = self.cut_off(site, work)?;
            self.charge(&Usage { cancelled, ..Usage::default() });
        }
        outcome
    }

    fn apply_one(
        &mut self,
        site: &Site<'a>,
        work: &mut Work,
        mut sequence: Sequence,
        decision: Decision,
        live: u32,
        born: &mut Vec<Sequence>,
    ) -> Result<(), Flow> {
        let (tokens, entropy) = match decision {
            Decision::Failed(cause) => return self.finish(site, work, sequence, EndReason::Error, Some(cause), false),
            Decision::Stopped(dropped) => {
                sequence.text.finish();
                return self.finish(site, work, sequence, EndReason::Rule, None, dropped);
            }
            Decision::Tokens(tokens, entropy) => (tokens, entropy),
        };
        let position = sequence.tokens.len() as u32;
        let mut children = Vec::new();
        for number in 1..tokens.len() {
            let seq = match site.role.host()?.fork(sequence.seq) {
                Ok(seq) => seq,
                Err(e) => {
                    work.live.push(sequence);
                    born.append(&mut children);
                    return Err(Flow::from(site.role.failed(e)));
                }
            };
            let index = work.started;
            work.started += 1;
            let mut child = sequence.clone();
            (child.index, child.seq, child.inherited) = (index, seq, position as usize);
            child.key = branch_key(sequence.key, position, number as u32);
            child.started = Instant::now();
            self.charge(&Usage { calls: 1, ..Usage::default() });
            self.run.metrics().sequences(site.generate.site, 1);
            self.emit(&Event::Branched { site: site.generate.site, parent: sequence.index, child: index, position });
            children.push(child);
        }
        let mut family: VecDeque<Sequence> = std::iter::once(sequence).chain(children).collect();
        let mut outcome = Ok(());
        for (number, (token, logprob)) in tokens.into_iter().enumerate() {
            let Some(member) = family.pop_front() else { break };
            match self.take(site, work, member, (token, logprob, entropy), live) {
                Ok(Some(alive)) if number == 0 => work.live.push(alive),
                Ok(Some(alive)) => born.push(alive),
                Ok(None) => {}
                Err(flow) => outcome = Err(flow),
            }
            if work.stopped || outcome.is_err() {
                break;
            }
        }
        born.extend(family);
        outcome
    }

    /// A sequence takes a token; `None` when it ended by it.
    fn take(
        &mut self,
        site: &Site<'a>,
        work: &mut Work,
        mut sequence: Sequence,
        (token, logprob, entropy): (u32, f32, f32),
        live: u32,
    ) -> Result<Option<Sequence>, Flow> {
        let codec = site.role.codec()?.clone();
        if let Some(matcher) = &mut sequence.matcher
            && let Err(cause) = matcher.accept(token)
        {
            return self.finish(site, work, sequence, EndReason::Error, Some(cause), false).map(|()| None);
        }
        let bytes = codec.token_bytes(token);
        let before = sequence.text.text.len();
        let ending = Ending {
            ends: &site.ends,
            stops: &site.stops,
            max: site.max,
            prompt: site.prompt.len(),
            context: site.holds,
        };
        let ended = sequence.take(Taken { id: token, logprob, entropy, bytes: &bytes }, &ending);
        let text = sequence.text.text.get(before..).unwrap_or("");
        let seq = sequence.index;
        self.emit(&Event::Token { site: site.generate.site, seq, token, logprob, text, live });
        match ended {
            None => Ok(Some(sequence)),
            Some(reason) => self.finish(site, work, sequence, reason, None, false).map(|()| None),
        }
    }

    /// Tells that a rule fired.
    pub(super) fn fired(&self, site: &Site<'a>, rule: u32, sequence: Option<&Sequence>) {
        self.emit(&Event::RuleFired {
            site: site.generate.site,
            rule,
            seq: sequence.map(|s| s.index),
            position: sequence.map_or(0, |s| s.tokens.len() as u32),
        });
    }

    /// Ends a sequence: makes its sample, gives its keys back, looks at end and set rules.
    fn finish(
        &mut self,
        site: &Site<'a>,
        work: &mut Work,
        sequence: Sequence,
        reason: EndReason,
        error: Option<String>,
        dropped: bool,
    ) -> Result<(), Flow> {
        {
            let mut host = site.role.host()?;
            if site.keeps && error.is_none() {
                let tokens = site.prompt.iter().chain(&sequence.tokens).copied().collect();
                host.keep(sequence.seq, tokens, site.prompt.len());
            } else {
                host.free(sequence.seq);
            }
        }
        let index = sequence.index;
        let event =
            Event::SequenceEnded { site: site.generate.site, seq: index, reason, tokens: sequence.tokens.len() as u32 };
        self.emit(&event);
        if error.is_none() {
            self.charge(&Usage { samples: 1, ..Usage::default() });
        }
        let sample = Arc::new(finished(site, sequence, reason, error));
        let mut dropped = dropped;
        let generate = site.generate;
        for (number, rule) in (0u32..).zip(&generate.rules).filter(|(_, r)| r.level == Level::End) {
            if !self.condition(rule, Value::Sample(sample.clone()))? {
                continue;
            }
            self.emit(&Event::RuleFired {
                site: generate.site,
                rule: number,
                seq: Some(index),
                position: sample.tokens.len() as u32,
            });
            dropped |= rule.actions.contains(&Action::Drop);
        }
        let failed = sample.reason == EndReason::Error;
        work.done.push(Finished { sample, dropped });
        if dropped || failed { Ok(()) } else { self.set_rules(site, work) }
    }

    /// Looks at the set rules after a change of the finished set.
    fn set_rules(&mut self, site: &Site<'a>, work: &mut Work) -> Result<(), Flow> {
        let generate = site.generate;
        for (number, rule) in (0u32..).zip(&generate.rules).filter(|(_, r)| r.level == Level::Set) {
            let mut done: Vec<&Finished> =
                work.done.iter().filter(|f| !f.dropped && f.sample.reason != EndReason::Error).collect();
            done.sort_by_key(|f| f.sample.index);
            let set = Value::List(done.iter().map(|f| Value::Sample(f.sample.clone())).collect());
            if !self.condition(rule, set)? {
                continue;
            }
            self.fired(site, number, None);
            for action in &rule.actions {
                match action {
                    Action::Stop => {
                        work.stopped = true;
                        return Ok(());
                    }
                    Action::Grow(k) => {
                        let taken = work.started + work.waiting + work.grown;
                        work.grown += (*k).min(site.cap.saturating_sub(taken));
                    }
                    Action::Branch(_) | Action::Drop | Action::Temperature(_) => {}
                }
            }
        }
        Ok(())
    }

    /// Whether an end or set rule fires for a value.
    fn condition(&mut self, rule: &'a Rule, value: Value) -> Result<bool, Flow> {
        let Some(region) = &rule.when else { return Ok(true) };
        match self.call(region, vec![value])? {
            Value::Bool(fires) => Ok(fires),
            other => Err(Flow::from(RunError::Plan(format!("a rule's condition is {}", other.kind())))),
        }
    }
}

/// Draws what looks at rows asked for, each look with the number of its row, and settles them.
fn settle(
    site: &Site<'_>,
    rows: &[Row<'_>],
    looks: impl Iterator<Item = (usize, (Pending, Option<Draw>))>,
) -> Result<Vec<Decision>, Flow> {
    let (mut draws, mut pending) = (Vec::new(), Vec::new());
    for (row, (look, draw)) in looks {
        pending.push((look, draw.is_some()));
        draws.extend(draw.map(|draw| (row, draw)));
    }
    let choices = match draws.is_empty() {
        true => Vec::new(),
        false => site.role.host()?.choose(rows, &draws).map_err(|e| site.role.failed(e))?,
    };
    let mut choices = choices.into_iter();
    let settle = |(look, drawn): (Pending, bool)| look.settle(if drawn { choices.next().flatten() } else { None });
    Ok(pending.into_iter().map(settle).collect())
}

fn finished(site: &Site<'_>, sequence: Sequence, reason: EndReason, error: Option<String>) -> Sample {
    let text: Arc<str> = Arc::from(sequence.text.text);
    let value = match error {
        Some(_) => Value::None,
        None => super::format::value(&site.generate.format, &text, reason.is_complete()),
    };
    let usage = Usage {
        tokens: (sequence.tokens.len() - sequence.inherited) as u64,
        calls: 1,
        samples: u64::from(error.is_none()),
        seconds: sequence.started.elapsed().as_secs_f64(),
        ..Usage::default()
    };
    Sample {
        index: sequence.index,
        role: site.role_index,
        text,
        value,
        entropy: sequence.entropy / sequence.tokens.len().max(1) as f64,
        tokens: sequence.tokens.into(),
        logprobs: sequence.logprobs.into(),
        reason,
        error: error.map(Arc::from),
        context: site.context.clone(),
        prompt: site.prompt.clone(),
        usage,
    }
}

/// The number that a child's draws are keyed by: a hash of its path, so that it does not depend on what else branched.
/// The highest bit keeps it apart from the indices of sequences that were asked for.
fn branch_key(parent: u32, position: u32, child: u32) -> u32 {
    let mut hash = 0xCBF2_9CE4_8422_2325_u64;
    for word in [parent, position, child] {
        hash = (hash ^ u64::from(word)).wrapping_mul(0x0000_0100_0000_01B3);
        hash ^= hash >> 29;
    }
    (hash >> 16) as u32 | 0x8000_0000
}
