//! Verdicts on samples: `score(v, s)` and `verify(v, s)`, of one candidate or of a list at once.
//!
//! A region that is pure but for one score ([`Region::lone_score`]) is run for a whole list in three passes: everything
//! before the score, element by element; all verdicts; everything after. The values are those of running it element by
//! element, and so is the first failure: where an element fails or a budget trips, the elements before it are still
//! judged first. Programs run as the plan says: so many candidates per call, so many programs at once.
//! Deliberately absent: how programs are run and read (`crate::verify`).

use super::guard::remaining;
use super::interp::{Flow, Interp};
use super::{Event, RoleState, RunError};
use crate::value::{Usage, Value, Verifier};
use crate::verify::{self, Answer, Bounds, Request, Verdict};
use ir::plan::SitePlan;
use ir::strategy::{Binding, MockOutput, Op, Region, Var};
use std::time::{Duration, Instant};

/// Binds what a region sees of the element of this place.
pub(super) type Enter<'e, 'a> = &'e dyn Fn(&mut Interp<'a>, usize) -> Result<(), Flow>;

/// A candidate: verifier and sample.
type Candidate = (Value, Value);

/// A program's part of the work: which candidate, the words of its command line, its request.
struct Job<'j> {
    candidate: usize,
    words: &'j [String],
    lines: bool,
    request: Request<'j>,
}

impl<'j> Job<'j> {
    fn of(candidate: usize, words: &'j [String], lines: bool, args: &'j [Value], answer: Answer<'j>) -> Self {
        Self { candidate, words, lines, request: Request::new(args, answer) }
    }
}

/// A verdict, or why the run ends.
type Judged = Result<Verdict, RunError>;

impl<'a> Interp<'a> {
    /// `score(v, s)` and `verify(v, s)`: a number; no verdict counts as 0 and is counted apart.
    pub(super) fn score(&mut self, site: u32, verifier: Var, sample: Var, calibrated: bool) -> Result<Value, Flow> {
        let begun = self.begin_call()?;
        let candidate = (self.value(verifier)?, self.value(sample)?);
        let verdict = self.judge_all(site, &[candidate])?.pop();
        let verdict = verdict.ok_or_else(|| RunError::Plan("a candidate without a verdict".to_owned()))??;
        Ok(self.scored(site, verdict, calibrated, begun.elapsed().as_secs_f64()))
    }

    /// Where the score of a region stands, when the plan has all elements of a list judged together there.
    pub(super) fn judged_together(&self, region: &Region, elements: usize) -> Option<usize> {
        let place = region.lone_score().filter(|_| elements > 1)?;
        let Op::Score(site, ..) = &region.binds[place].op else { return None };
        match self.run.site_plan(*site)? {
            SitePlan::Verify { batch, at_once, .. } if *batch > 1 || *at_once > 1 => {}
            _ => return None,
        }
        // Written answers are taken in the order of single judgements.
        let written = self.run.roles.iter().any(|r| r.script.is_some());
        (!written).then_some(place)
    }

    /// Runs a region for every element, with the verdicts of its lone score at `place` taken together.
    pub(super) fn all_judged(
        &mut self,
        region: &'a Region,
        place: usize,
        elements: usize,
        enter: Enter<'_, 'a>,
    ) -> Result<Vec<Value>, Flow> {
        let (before, after) = (&region.binds[..place], &region.binds[place + 1..]);
        let bind = &region.binds[place];
        let Op::Score(site, verifier, sample, calibrated) = bind.op else {
            return Err(Flow::from(RunError::Plan("a region without its score".to_owned())));
        };
        let (mut known, mut candidates, mut stopped) = (Vec::new(), Vec::new(), None);
        for i in 0..elements {
            let prepared = enter(self, i).and_then(|()| self.binds(before)).and_then(|()| {
                self.begin_call().map_err(|flow| flow.at(bind.at))?;
                Ok((self.value(verifier)?, self.value(sample)?))
            });
            match prepared {
                Ok(candidate) => candidates.push(candidate),
                Err(flow) => {
                    stopped = Some(flow);
                    break;
                }
            }
            known.push(before.iter().map(|b| self.value(b.var)).collect::<Result<Vec<_>, _>>()?);
        }
        let begun = Instant::now();
        let verdicts = self.judge_all(site, &candidates).map_err(|flow| flow.at(bind.at))?;
        let seconds = begun.elapsed().as_secs_f64() / candidates.len().max(1) as f64;
        let mut values = Vec::new();
        for (i, (verdict, known)) in verdicts.into_iter().zip(known).enumerate() {
            let verdict = verdict.map_err(|cause| Flow::from(cause).at(bind.at))?;
            enter(self, i)?;
            before.iter().zip(known).for_each(|(b, value)| self.set(b.var, value));
            let score = self.scored(site, verdict, calibrated, seconds);
            self.set(bind.var, score);
            self.binds(after)?;
            values.push(region.result.map_or(Ok(Value::Unit), |var| self.value(var))?);
        }
        stopped.map_or(Ok(values), Err)
    }

    /// The number of a verdict; counts it and tells of it.
    fn scored(&self, site: u32, mut verdict: Verdict, calibrated: bool, seconds: f64) -> Value {
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
        self.end_call(site, score, inconclusive, seconds);
        Value::Float(score)
    }

    /// Asks for a call and counts it.
    pub(super) fn begin_call(&mut self) -> Result<Instant, Flow> {
        self.admit(0, 1, 0)?;
        self.charge(&Usage { calls: 1, ..Usage::default() });
        Ok(Instant::now())
    }

    /// Tells of a call's result.
    pub(super) fn end_call(&self, site: u32, score: f64, inconclusive: Option<&str>, seconds: f64) {
        self.run.metrics().score(site, seconds);
        self.emit(&Event::Scored { site, score, inconclusive, seconds });
    }

    /// The verdicts on candidates, in their order.
    fn judge_all(&self, site: u32, candidates: &[Candidate]) -> Result<Vec<Judged>, Flow> {
        let texts: Vec<String> = candidates.iter().map(|(_, s)| text_of(s)).collect();
        let answers: Vec<Answer<'_>> = candidates.iter().zip(&texts).map(|((_, s), text)| answer(s, text)).collect();
        let asked: Vec<(usize, &Value)> = candidates.iter().map(|(v, _)| v).enumerate().collect();
        let mut ran = false;
        let verdicts = self.judge(site, &asked, &answers, &mut ran);
        if ran {
            // A cancelled run ends here, it does not go on with verdicts that nobody gave.
            self.admit(0, 0, 0)?;
        }
        Ok(verdicts)
    }

    /// The verdicts of verifiers on the answers of the places they stand with; `ran` is set when a program ran.
    fn judge(&self, site: u32, asked: &[(usize, &Value)], answers: &[Answer<'_>], ran: &mut bool) -> Vec<Judged> {
        let mut verdicts: Vec<Option<Judged>> = Vec::new();
        let (mut jobs, mut conjunctions) = (Vec::new(), Vec::new());
        let mut job = |job| {
            jobs.push(job);
            None
        };
        for (at, (candidate, verifier)) in asked.iter().enumerate() {
            let answer = answers[*candidate];
            verdicts.push(match verifier {
                Value::Verifier(built) => match &**built {
                    Verifier::Exact(expected) => Some(Ok(verify::exact(expected, answer))),
                    Verifier::Numeric(expected, tolerance) => Some(Ok(verify::numeric(*expected, *tolerance, answer))),
                    Verifier::Regex(pattern) => Some(verify::pattern(pattern, answer).map_err(RunError::from)),
                    Verifier::Command(words, args) => job(Job::of(at, words, false, args, answer)),
                    Verifier::Lines(words, args) => job(Job::of(at, words, true, args, answer)),
                    Verifier::All(parts) => {
                        conjunctions.push((at, *candidate, parts));
                        None
                    }
                },
                Value::Model(index) => match self.run.roles.get(*index as usize) {
                    None => Some(Err(RunError::Plan(format!("there is no role {index}")))),
                    Some(role) => match (&role.script, &role.binding) {
                        (None, Some(Binding::Command(words))) => job(Job::of(at, words, false, &[], answer)),
                        (None, Some(Binding::Lines(words))) => job(Job::of(at, words, true, &[], answer)),
                        _ => Some(judge_by_role(role, answer)),
                    },
                },
                other => Some(Err(RunError::Plan(format!("a verifier operand is {}", other.kind())))),
            });
        }
        *ran |= !jobs.is_empty();
        for (at, verdict) in self.programs(site, &jobs) {
            verdicts[at] = Some(verdict);
        }
        for (at, verdict) in self.conjunctions(site, &conjunctions, answers, ran) {
            verdicts[at] = Some(verdict);
        }
        let missing = || Err(RunError::Plan("a candidate without a verdict".to_owned()));
        verdicts.into_iter().map(|v| v.unwrap_or_else(missing)).collect()
    }

    /// All parts must pass, tried in the plan's order up to the first that does not: the least score. Each part judges
    /// together those candidates that passed the parts before it.
    fn conjunctions(
        &self,
        site: u32,
        conjunctions: &[(usize, usize, &Vec<Value>)],
        answers: &[Answer<'_>],
        ran: &mut bool,
    ) -> Vec<(usize, Judged)> {
        let orders: Vec<Vec<usize>> = conjunctions.iter().map(|(_, _, parts)| self.order(site, parts.len())).collect();
        let mut least: Vec<Judged> = conjunctions.iter().map(|_| Ok(Verdict::Score(1.0))).collect();
        let mut open: Vec<usize> = (0..conjunctions.len()).collect();
        for round in 0..orders.iter().map(Vec::len).max().unwrap_or(0) {
            open.retain(|i| round < orders[*i].len());
            let part = |i: &usize| (conjunctions[*i].1, &conjunctions[*i].2[orders[*i][round]]);
            let asked: Vec<(usize, &Value)> = open.iter().map(part).collect();
            let verdicts = self.judge(site, &asked, answers, ran);
            let mut passed = Vec::new();
            for (i, verdict) in open.into_iter().zip(verdicts) {
                match verdict {
                    Ok(verdict) if verdict.passes() => {
                        passed.push(i);
                        if least[i].as_ref().is_ok_and(|before| verdict.score() < before.score()) {
                            least[i] = Ok(verdict);
                        }
                    }
                    last => least[i] = last,
                }
            }
            open = passed;
        }
        conjunctions.iter().map(|(at, ..)| *at).zip(least).collect()
    }

    /// The order in which the parts of a conjunction are tried.
    fn order(&self, site: u32, parts: usize) -> Vec<usize> {
        let mut order: Vec<usize> = match self.run.site_plan(site) {
            Some(SitePlan::Verify { order, .. }) => order.iter().map(|&i| i as usize).collect(),
            _ => Vec::new(),
        };
        order.retain(|&i| i < parts);
        order.extend((0..parts).filter(|i| !order.contains(i)).collect::<Vec<_>>());
        order
    }

    /// Runs programs: those that answer line by line on as many candidates per call as the plan says, others on one.
    fn programs(&self, site: u32, jobs: &[Job<'_>]) -> Vec<(usize, Judged)> {
        if jobs.is_empty() {
            return Vec::new();
        }
        let (batch, at_once) = match self.run.site_plan(site) {
            Some(SitePlan::Verify { batch, at_once, .. }) => (*batch as usize, *at_once as usize),
            _ => (1, 1),
        };
        let mut calls: Vec<Vec<&Job<'_>>> = Vec::new();
        for job in jobs {
            let room = |call: &&mut Vec<&Job<'_>>| {
                let first = call[0];
                job.lines && first.lines && first.words == job.words && call.len() < batch
            };
            match calls.iter_mut().find(room) {
                Some(call) => call.push(job),
                None => calls.push(vec![job]),
            }
        }
        // No program outlives the deadline of the guards around it.
        let left = remaining(self.guards()).time.and_then(|s| Duration::try_from_secs_f64(s).ok());
        let until = left.and_then(|left| Instant::now().checked_add(left));
        let bounds = Bounds { limits: self.run.options.command, until, cancel: self.run.watch.cancel };
        let work = |call: &Vec<&Job<'_>>| {
            let requests: Vec<Request<'_>> = call.iter().map(|job| job.request).collect();
            let words = call[0].words;
            if call[0].lines {
                verify::lines(words, &requests, &bounds)
            } else {
                verify::command(words, &requests[0], &bounds).map(|verdict| vec![verdict])
            }
        };
        let results = verify::side_by_side(&calls, at_once, &work);
        let mut judged = Vec::new();
        for (call, result) in calls.iter().zip(results) {
            match result {
                Ok(verdicts) => judged.extend(call.iter().map(|j| j.candidate).zip(verdicts.into_iter().map(Ok))),
                Err(cause) => {
                    // One program did not start: the first of its candidates tells why, the run ends there.
                    judged.push((call[0].candidate, Err(RunError::from(cause))));
                }
            }
        }
        judged
    }
}

/// The text of a candidate that is no sample; samples have their own.
fn text_of(sample: &Value) -> String {
    if let Value::Sample(_) = sample { String::new() } else { sample.to_text() }
}

fn answer<'s>(sample: &'s Value, text: &'s str) -> Answer<'s> {
    match sample {
        Value::Sample(s) => Answer { text: &s.text, value: &s.value },
        other => Answer { text, value: other },
    }
}

/// The verdict of a role that is no host program.
fn judge_by_role(role: &RoleState, answer: Answer<'_>) -> Judged {
    if let Some(script) = &role.script {
        return match script.next() {
            MockOutput::Number(x) => Ok(Verdict::Score(x)),
            MockOutput::Text(t) => match verify::whole_number(t.trim()) {
                Some(x) => Ok(Verdict::Score(x)),
                None => Err(role.lacks(&format!("is mocked with the text {t:?} where a score is asked"))),
            },
        };
    }
    match &role.binding {
        Some(Binding::Exact(expected)) => Ok(verify::exact(expected, answer)),
        Some(Binding::Numeric(expected, tolerance)) => Ok(verify::numeric(*expected, *tolerance, answer)),
        Some(Binding::Regex(pattern)) => Ok(verify::pattern(pattern, answer)?),
        Some(Binding::Gguf(_) | Binding::Command(_) | Binding::Lines(_)) | None => {
            Err(role.lacks("gives no scores; bind it to exact(…), numeric(…), regex(…), command(…) or lines(…)"))
        }
    }
}
