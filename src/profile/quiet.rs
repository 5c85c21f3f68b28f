//! How much others used the CPUs meanwhile, as the system counts it. Takes nothing, returns shares; says "unknown" where the
//! system has no such counters.

use std::fs;
use std::time::Instant;

/// Ticks per second of the kernel's counters for programs.
const TICKS: f64 = 100.0;

/// A stretch of time that is watched.
#[derive(Debug)]
pub(super) struct Watch {
    start: Instant,
    before: Option<(f64, f64)>,
}

impl Watch {
    /// Starts watching.
    pub(super) fn start() -> Self {
        Self { start: Instant::now(), before: busy() }
    }

    /// CPUs that other processes (and the machine's other guests) kept busy on average since the start.
    pub(super) fn foreign(&self) -> Option<f64> {
        let ((all, own), (all_before, own_before)) = (busy()?, self.before?);
        let ticks = (all - all_before) - (own - own_before);
        Some((ticks / TICKS / self.start.elapsed().as_secs_f64().max(0.1)).max(0.0))
    }
}

/// Ticks that the CPUs were busy, and those of them that this process and its children used.
fn busy() -> Option<(f64, f64)> {
    let stat = fs::read_to_string("/proc/stat").ok()?;
    let own = fs::read_to_string("/proc/self/stat").ok()?;
    Some((busy_ticks(&stat)?, own_ticks(&own)?))
}

/// User, nice, system, interrupts and what other guests took, of the line over all CPUs.
fn busy_ticks(stat: &str) -> Option<f64> {
    let line = stat.lines().find(|l| l.starts_with("cpu "))?;
    let numbers: Vec<f64> = line.split_whitespace().skip(1).filter_map(|n| n.parse().ok()).collect();
    let all = numbers.get(..8)?;
    Some(all.iter().sum::<f64>() - all[3] - all[4])
}

/// User and system ticks of a process and of its children, which follow the name in parentheses.
fn own_ticks(stat: &str) -> Option<f64> {
    let (_, fields) = stat.rsplit_once(')')?;
    let numbers: Vec<f64> = fields.split_whitespace().skip(11).take(4).filter_map(|n| n.parse().ok()).collect();
    (numbers.len() == 4).then(|| numbers.iter().sum())
}

/// Seconds that threads of this process were ready to run and did not, since they started; 0 where nobody counts.
pub(super) fn waited() -> f64 {
    let Ok(tasks) = fs::read_dir("/proc/self/task") else { return 0.0 };
    let waits = tasks.flatten().filter_map(|t| fs::read_to_string(t.path().join("schedstat")).ok());
    1e-9 * waits.filter_map(|text| text.split_whitespace().nth(1)?.parse::<f64>().ok()).sum::<f64>()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counters_are_read_by_position() {
        let stat = "cpu  10 20 30 1000 2000 1 2 4 99 99\ncpu0 1 1 1 1 1 1 1 1 1 1\n";
        assert_eq!(busy_ticks(stat), Some(67.0));
        let own = "12 (a) name) R 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16";
        assert_eq!(own_ticks(own), Some(11.0 + 12.0 + 13.0 + 14.0));
        for broken in ["", "cpu 1 2", "12 (x", "12 (x) R 1"] {
            assert_eq!((busy_ticks(broken), own_ticks(broken)), (None, None), "{broken}");
        }
    }

    #[test]
    fn a_stretch_has_a_share_and_waiting_only_grows() {
        let (watch, before) = (Watch::start(), waited());
        assert!(watch.foreign().is_none_or(|cpus| cpus >= 0.0));
        assert!(waited() >= before);
    }
}
