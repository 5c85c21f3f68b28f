//! How threads wait for each other: spin for moments, give the core away for longer, then sleep in the kernel.
//!
//! A [`Gate`] is a number that only grows; threads wait until it has changed. A [`Barrier`] lets a fixed number of
//! threads through together. Neither takes a core from other programs for longer than [`SPIN`] and [`YIELD`] say, so a
//! machine with more threads than cores gets slower, not stuck.

use super::cpu::{futex_wait, futex_wake};
use std::sync::atomic::{AtomicU32, Ordering::SeqCst};
use std::time::{Duration, Instant};

/// Looks at the number with a pause in between, before the core is offered to others: about 30 µs, and what a waiter does
/// meanwhile.
pub const SPIN: u32 = 2000;
/// How long the core is offered again and again before the thread sleeps.
pub const YIELD: Duration = Duration::from_micros(300);

/// A growing number and its waiters; alone on its cache lines.
#[derive(Debug, Default)]
#[repr(align(128))]
pub struct Gate {
    value: AtomicU32,
    sleepers: AtomicU32,
}

impl Gate {
    /// The number now.
    #[must_use]
    pub fn now(&self) -> u32 {
        self.value.load(SeqCst)
    }

    /// Adds one and lets the waiters go.
    pub fn advance(&self) {
        self.value.fetch_add(1, SeqCst);
        // A sleeper counts itself before it looks at the number a last time, so either it sees the new number or it is
        // seen here.
        if self.sleepers.load(SeqCst) > 0 {
            futex_wake(&self.value);
        }
    }

    /// Returns when the number is no longer `old`. Everything written before the matching [`Gate::advance`] is visible.
    pub fn wait(&self, old: u32) {
        self.wait_meanwhile(old, || ());
    }

    /// As [`Gate::wait`], with something short to do between looks, as long as the core is not offered to others.
    pub fn wait_meanwhile(&self, old: u32, mut meanwhile: impl FnMut()) {
        for _ in 0..SPIN {
            if self.now() != old {
                return;
            }
            meanwhile();
            std::hint::spin_loop();
        }
        let start = Instant::now();
        while start.elapsed() < YIELD {
            if self.now() != old {
                return;
            }
            std::thread::yield_now();
        }
        self.sleepers.fetch_add(1, SeqCst);
        while self.now() == old {
            futex_wait(&self.value, old);
        }
        self.sleepers.fetch_sub(1, SeqCst);
    }
}

/// A meeting point of `members` threads that can be used any number of times.
#[derive(Debug)]
pub struct Barrier {
    members: u32,
    arrived: Arrived,
    gate: Gate,
    poison: AtomicU32,
}

/// The count of a barrier, on cache lines that waiters do not read.
#[derive(Debug, Default)]
#[repr(align(128))]
struct Arrived(AtomicU32);

impl Barrier {
    /// A barrier for `members` threads.
    #[must_use]
    pub fn new(members: u32) -> Self {
        Self { members, arrived: Arrived::default(), gate: Gate::default(), poison: AtomicU32::new(0) }
    }

    /// Waits for the others, `meanwhile` as in [`Gate::wait_meanwhile`]. `false`: the barrier was poisoned, some member will
    /// never come.
    #[must_use]
    pub fn meet(&self, meanwhile: impl FnMut()) -> bool {
        // Read before the poison: a poisoning after this read moves the gate past `old`.
        let old = self.gate.now();
        if self.is_poisoned() {
            return false;
        }
        if self.arrived.0.fetch_add(1, SeqCst) + 1 == self.members {
            self.arrived.0.store(0, SeqCst);
            self.gate.advance();
        } else {
            self.gate.wait_meanwhile(old, meanwhile);
        }
        !self.is_poisoned()
    }

    /// Lets everybody go, now and from now on.
    pub fn poison(&self) {
        self.poison.store(1, SeqCst);
        self.gate.advance();
    }

    /// True once [`Barrier::poison`] was called.
    #[must_use]
    pub fn is_poisoned(&self) -> bool {
        self.poison.load(SeqCst) != 0
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::AtomicU64;

    #[test]
    fn no_thread_passes_before_all_arrived() {
        // More threads than cores on most machines, and rounds enough for every path of the wait.
        let (members, rounds) = (6, 400);
        let barrier = Barrier::new(members);
        let count = AtomicU64::new(0);
        std::thread::scope(|s| {
            for member in 0..members {
                let (barrier, count) = (&barrier, &count);
                s.spawn(move || {
                    for round in 0..rounds {
                        if member == 0 && round % 100 == 0 {
                            std::thread::sleep(Duration::from_millis(2));
                        }
                        count.fetch_add(1, SeqCst);
                        assert!(barrier.meet(|| ()));
                        let seen = count.load(SeqCst);
                        assert!(seen >= u64::from(members) * (round + 1), "round {round}: {seen}");
                        assert!(barrier.meet(|| ()));
                    }
                });
            }
        });
    }

    #[test]
    fn poison_releases_sleepers() {
        let barrier = Barrier::new(3);
        std::thread::scope(|s| {
            let waiting = s.spawn(|| barrier.meet(|| ()));
            std::thread::sleep(Duration::from_millis(5));
            barrier.poison();
            assert!(!waiting.join().expect("the waiter returns"));
            assert!(!barrier.meet(|| ()));
        });
    }
}
