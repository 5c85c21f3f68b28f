//! The arms of a `par`, decoded together: threads that take turns and meet at every decode step.
//!
//! One arm runs at a time, in the order of the arms; an arm that asks for a step hands its turn on, and when all arms of
//! the round have asked (or ended), one merged step per model answers them. So an arm sees exactly what it would see
//! alone, budgets are charged in a fixed order, and a model reads its weights once for all arms. Meetings nest: the
//! merged request of an inner meeting is one request at the outer one.

use super::RunError;
use super::host::RoleState;
use super::interp::{Flow, Interp};
use crate::error::Error;
use crate::model::{Append, OwnedRow, SeqId, Wanted};
use crate::value::Value;
use ir::plan::PrefixMode;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};

/// Arms that meet; more run in groups of this many.
const ARMS: usize = 64;

/// One decoded token for each of these sequences of a role.
pub(super) struct Request<'a> {
    /// The role.
    pub(super) role: &'a RoleState,
    /// Sequences with their tokens.
    pub(super) appends: Vec<(SeqId, Vec<u32>)>,
    /// How the arm's site treats the keys of its shared prompt.
    pub(super) prefix: PrefixMode,
}

/// The row after the last token of each append.
pub(super) type Reply = Result<Vec<OwnedRow>, Error>;

/// An arm's place in a meeting.
#[derive(Clone)]
pub(super) struct Seat<'a> {
    meeting: Arc<Meeting<'a>>,
    arm: usize,
}

struct Meeting<'a> {
    outer: Option<Seat<'a>>,
    table: Mutex<Table<'a>>,
    bell: Condvar,
}

struct Table<'a> {
    turn: usize,
    arms: Vec<Arm<'a>>,
    /// The first arm that ended without a value: the others end at their next step.
    failed: Option<usize>,
}

#[derive(Default)]
struct Arm<'a> {
    requests: Vec<Request<'a>>,
    replies: Vec<Reply>,
    ended: bool,
}

impl<'a> Seat<'a> {
    /// Asks for steps; returns a reply for each, or `None` when another arm has failed.
    pub(super) fn ask(&self, requests: Vec<Request<'a>>) -> Option<Vec<Reply>> {
        let mut table = self.meeting.lock();
        table.arms[self.arm].requests = requests;
        table = self.meeting.pass(table, self.arm);
        while table.turn != self.arm {
            table = self.meeting.bell.wait(table).unwrap_or_else(PoisonError::into_inner);
        }
        let replies = std::mem::take(&mut table.arms[self.arm].replies);
        table.failed.is_none().then_some(replies)
    }

    fn wait_for_turn(&self) -> bool {
        let mut table = self.meeting.lock();
        while table.turn != self.arm {
            table = self.meeting.bell.wait(table).unwrap_or_else(PoisonError::into_inner);
        }
        table.failed.is_none()
    }

    fn leave(&self, failed: bool) {
        let mut table = self.meeting.lock();
        table.arms[self.arm].ended = true;
        if failed {
            table.failed.get_or_insert(self.arm);
        }
        drop(self.meeting.pass(table, self.arm));
    }
}

impl<'a> Meeting<'a> {
    fn lock(&self) -> MutexGuard<'_, Table<'a>> {
        self.table.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Hands the turn of an arm on; the last arm of a round has the steps done first.
    fn pass<'t>(&'t self, mut table: MutexGuard<'t, Table<'a>>, arm: usize) -> MutexGuard<'t, Table<'a>> {
        let next = (arm + 1..table.arms.len()).find(|&i| !table.arms[i].ended);
        if let Some(next) = next {
            table.turn = next;
        } else if let Some(first) = table.arms.iter().position(|a| !a.ended) {
            if table.failed.is_none() {
                self.answer(&mut table);
            }
            table.turn = first;
        }
        self.bell.notify_all();
        table
    }

    /// An arm that got no thread has failed; when it is its turn, nobody else would end that.
    fn never_began(&self, arm: usize) {
        let mut table = self.lock();
        table.arms[arm].ended = true;
        table.failed.get_or_insert(arm);
        if table.turn == arm {
            drop(self.pass(table, arm));
        }
    }

    /// Has all requests done and gives the replies to their arms.
    fn answer(&self, table: &mut Table<'a>) {
        let counts: Vec<usize> = table.arms.iter().map(|a| a.requests.len()).collect();
        let requests = table.arms.iter_mut().flat_map(|a| std::mem::take(&mut a.requests)).collect();
        let replies = match &self.outer {
            Some(seat) => seat.ask(requests),
            None => Some(steps(requests)),
        };
        let Some(replies) = replies else {
            // Nobody here is to blame: all end, and the outer meeting knows who failed.
            table.failed.get_or_insert(usize::MAX);
            return;
        };
        let mut replies = replies.into_iter();
        for (arm, count) in table.arms.iter_mut().zip(counts) {
            arm.replies = replies.by_ref().take(count).collect();
        }
    }
}

/// One merged step per role.
fn steps(requests: Vec<Request<'_>>) -> Vec<Reply> {
    let mut replies: Vec<Option<Reply>> = requests.iter().map(|_| None).collect();
    for first in 0..requests.len() {
        if replies[first].is_some() {
            continue;
        }
        let same = |i: &usize| std::ptr::eq(requests[*i].role, requests[first].role);
        let group: Vec<usize> = (first..requests.len()).filter(same).collect();
        match step(&requests, &group) {
            Ok(rows) => {
                for (i, rows) in group.iter().zip(rows) {
                    replies[*i] = Some(Ok(rows));
                }
            }
            Err(error) if group.len() == 1 => replies[first] = Some(Err(error)),
            // One by one, so that each arm gets what it would get alone.
            Err(_) => {
                for &i in &group {
                    let rows = step(&requests, &[i]).map(|mut rows| rows.pop().unwrap_or_default());
                    replies[i] = Some(rows);
                }
            }
        }
    }
    replies.into_iter().map(|r| r.unwrap_or(Err(Error::Cancelled))).collect()
}

/// A step over the requests of a group, all of one role: rows per request.
fn step(requests: &[Request<'_>], group: &[usize]) -> Result<Vec<Vec<OwnedRow>>, Error> {
    let Some(model) = group.first().and_then(|&i| requests[i].role.model.as_ref()) else {
        return Ok(Vec::new());
    };
    let all = group.iter().enumerate().flat_map(|(g, &i)| requests[i].appends.iter().map(move |a| (g, a)));
    let (owners, appends): (Vec<usize>, Vec<Append<'_>>) =
        all.map(|(g, (seq, tokens))| (g, Append { seq: *seq, tokens, wanted: Wanted::Last, decoded: true })).unzip();
    let modes: Vec<PrefixMode> = owners.iter().map(|&g| requests[group[g]].prefix).collect();
    let mut rows: Vec<Vec<OwnedRow>> = group.iter().map(|_| Vec::new()).collect();
    let mut host = model.lock().unwrap_or_else(PoisonError::into_inner);
    host.step_placed(&appends, &modes, &mut |i, _, row| rows[owners[i]].push(OwnedRow::of(&row)))?;
    Ok(rows)
}

/// What an arm of a `par` does.
pub(super) type ArmBody<'b, 'a> = &'b (dyn Fn(&mut Interp<'a>, usize) -> Result<Value, Flow> + Sync);

/// Tells the meeting that an arm is gone, also when it panics.
struct Leaving<'s, 'a> {
    seat: &'s Seat<'a>,
    failed: bool,
}

impl Drop for Leaving<'_, '_> {
    fn drop(&mut self) {
        self.seat.leave(self.failed);
    }
}

impl<'a> Interp<'a> {
    /// Runs the arms of a `par` together: their values in order, or how the first that failed ended.
    pub(super) fn together(&mut self, count: usize, body: ArmBody<'_, 'a>) -> Result<Vec<Value>, Flow> {
        let mut values = Vec::new();
        for first in (0..count).step_by(ARMS) {
            values.extend(self.group(first..count.min(first + ARMS), body)?);
        }
        Ok(values)
    }

    fn group(&mut self, arms: std::ops::Range<usize>, body: ArmBody<'_, 'a>) -> Result<Vec<Value>, Flow> {
        let table = Table { turn: 0, arms: arms.clone().map(|_| Arm::default()).collect(), failed: None };
        let meeting = Arc::new(Meeting { outer: self.seat.clone(), table: Mutex::new(table), bell: Condvar::new() });
        let me = &*self;
        let mut results: Vec<Option<Result<Value, Flow>>> = std::thread::scope(|scope| {
            let run = |(place, arm): (usize, usize)| {
                let seat = Seat { meeting: meeting.clone(), arm: place };
                let mut interp = me.clone();
                interp.seat = Some(seat.clone());
                let thread = std::thread::Builder::new().spawn_scoped(scope, move || {
                    let mut leaving = Leaving { seat: &seat, failed: true };
                    if !seat.wait_for_turn() {
                        return Err(Flow::from(RunError::Cancelled));
                    }
                    let result = body(&mut interp, arm);
                    leaving.failed = result.is_err();
                    result
                });
                thread.map_err(|e| {
                    meeting.never_began(place);
                    Flow::from(RunError::Operation(format!("no thread for an arm of `par`: {e}")))
                })
            };
            let handles: Vec<_> = arms.enumerate().map(run).collect();
            handles.into_iter().map(|h| h.map_or_else(|flow| Some(Err(flow)), |h| h.join().ok())).collect()
        });
        let failed = meeting.lock().failed;
        let lost = || Flow::from(RunError::Operation("an arm of `par` stopped without a result".to_owned()));
        match failed {
            Some(usize::MAX) => Err(Flow::from(RunError::Cancelled)),
            Some(arm) => match results.swap_remove(arm) {
                Some(Err(flow)) => Err(flow),
                _ => Err(lost()),
            },
            None => results.into_iter().map(|r| r.unwrap_or_else(|| Err(lost()))).collect(),
        }
    }
}
