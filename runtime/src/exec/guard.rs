//! Budgets while a strategy runs: what was used, what is left, and when a guard trips.
//!
//! A guard is a set of limits around a part of the strategy; guards nest, and every use counts for all guards around it.
//! Tokens and calls are reserved before the work, so they are never exceeded; time, money and KV are looked at before
//! every step.

use crate::value::{Budget, Usage};
use std::sync::{Mutex, PoisonError};
use std::time::Instant;

/// Limits and what was used under them.
#[derive(Debug)]
pub(crate) struct Guard {
    limits: Budget,
    started: Instant,
    usd_per_second: f64,
    spent: Mutex<Usage>,
}

/// A limit that would be exceeded.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Trip {
    /// Which.
    pub(crate) limit: &'static str,
    /// What was used.
    pub(crate) spent: String,
    /// The limit.
    pub(crate) most: String,
}

impl Guard {
    /// A guard that starts now.
    pub(crate) fn new(limits: Budget, usd_per_second: f64) -> Self {
        Self { limits, started: Instant::now(), usd_per_second, spent: Mutex::new(Usage::default()) }
    }

    /// What was used since it started; seconds are wall time.
    pub(crate) fn spent(&self) -> Usage {
        let mut usage = *self.spent.lock().unwrap_or_else(PoisonError::into_inner);
        usage.seconds = self.started.elapsed().as_secs_f64();
        usage.usd = usage.seconds * self.usd_per_second;
        usage
    }

    /// What is left.
    pub(crate) fn remaining(&self) -> Budget {
        let spent = self.spent();
        Budget {
            tokens: self.limits.tokens.map(|most| most.saturating_sub(spent.tokens)),
            calls: self.limits.calls.map(|most| most.saturating_sub(spent.calls)),
            kv: self.limits.kv,
            time: self.limits.time.map(|most| (most - spent.seconds).max(0.0)),
            usd: self.limits.usd.map(|most| (most - spent.usd).max(0.0)),
        }
    }

    /// Whether tokens and calls can be used and the others are not used up.
    pub(crate) fn admits(&self, tokens: u64, calls: u64, kv: u64) -> Result<(), Trip> {
        let spent = self.spent();
        let count = |limit, most: Option<u64>, spent: u64, more: u64| match most {
            Some(most) if spent.saturating_add(more) > most => {
                Err(Trip { limit, spent: spent.to_string(), most: most.to_string() })
            }
            _ => Ok(()),
        };
        let amount = |limit, most: Option<f64>, spent: f64| match most {
            Some(most) if spent >= most => Err(Trip { limit, spent: format!("{spent:.3}"), most: most.to_string() }),
            _ => Ok(()),
        };
        count("tokens", self.limits.tokens, spent.tokens, tokens)?;
        count("calls", self.limits.calls, spent.calls, calls)?;
        count("kv", self.limits.kv, kv, 0)?;
        amount("time", self.limits.time, spent.seconds)?;
        amount("usd", self.limits.usd, spent.usd)
    }

    /// Adds a use (its seconds and dollars are not added: the guard's own clock measures them).
    pub(crate) fn charge(&self, usage: &Usage) {
        self.spent.lock().unwrap_or_else(PoisonError::into_inner).add(&Usage { seconds: 0.0, usd: 0.0, ..*usage });
    }
}

impl Guard {
    /// Takes tokens back that were charged and not used.
    pub(crate) fn refund(&self, tokens: u64) {
        let mut spent = self.spent.lock().unwrap_or_else(PoisonError::into_inner);
        spent.tokens = spent.tokens.saturating_sub(tokens);
    }
}

/// What is left under all guards: the smallest of each.
pub(crate) fn remaining<'a>(guards: impl Iterator<Item = &'a Guard>) -> Budget {
    fn least<T: PartialOrd>(a: Option<T>, b: Option<T>) -> Option<T> {
        match (a, b) {
            (Some(a), Some(b)) => Some(if b < a { b } else { a }),
            (a, b) => a.or(b),
        }
    }
    guards.map(Guard::remaining).fold(Budget::default(), |a, b| Budget {
        tokens: least(a.tokens, b.tokens),
        calls: least(a.calls, b.calls),
        kv: least(a.kv, b.kv),
        time: least(a.time, b.time),
        usd: least(a.usd, b.usd),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reservations_stop_exactly_at_the_limit() {
        let guard = Guard::new(Budget { tokens: Some(10), calls: Some(1), ..Budget::default() }, 0.0);
        guard.charge(&Usage { tokens: 7, ..Usage::default() });
        assert_eq!(guard.admits(3, 1, 0), Ok(()));
        assert_eq!(guard.admits(4, 0, 0).map_err(|t| t.limit), Err("tokens"));
        assert_eq!(guard.admits(0, 2, 0).map_err(|t| t.limit), Err("calls"));
        assert_eq!(guard.remaining().tokens, Some(3));
        let outer = Guard::new(Budget { tokens: Some(2), ..Budget::default() }, 0.0);
        assert_eq!(remaining([&guard, &outer].into_iter()).tokens, Some(2));
    }

    #[test]
    fn time_trips() {
        let guard = Guard::new(Budget { time: Some(0.0), ..Budget::default() }, 0.0);
        assert_eq!(guard.admits(0, 0, 0).map_err(|t| t.limit), Err("time"));
    }
}
