//! What several measurements of one time say together.
//!
//! Others on the machine only ever make a run slower, and for a stretch of time. So of the runs of one visit the lower
//! quartile counts, of several visits at different times the two fastest, and these must agree. Takes seconds, returns
//! seconds and how far they are apart; measures nothing.

/// Relative distance up to which two visits agree.
pub const AGREE: f64 = 0.05;
/// Share of a visit that its threads waited for a CPU, above which it does not count as long as others do.
const DELAYED: f64 = 0.03;

/// One visit: lower quartiles of the runs of a step.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Visit {
    /// Seconds without the head.
    pub(super) layers: f64,
    /// Seconds in the head.
    pub(super) head: f64,
    /// Share of the time that threads were ready and did not run.
    pub(super) waited: f64,
}

/// What visits agree on.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Settled {
    /// Seconds without the head.
    pub(super) layers: f64,
    /// Seconds in the head.
    pub(super) head: f64,
    /// Relative distance of the two fastest visits, the worse of both parts; infinite where there is only one.
    pub(super) spread: f64,
}

impl Settled {
    /// The two fastest visits agree.
    pub(super) fn agrees(&self) -> bool {
        self.spread <= AGREE
    }
}

/// What visits say together; `None` without any. Visits that waited for a CPU count only where fewer than two did not.
pub(super) fn settle(visits: &[Visit]) -> Option<Settled> {
    let calm: Vec<Visit> = visits.iter().copied().filter(|v| v.waited <= DELAYED).collect();
    let enough = calm.len() >= 2;
    let counted = if enough { &calm[..] } else { visits };
    let (layers, a) = fastest_two(counted.iter().map(|v| v.layers))?;
    let (head, b) = fastest_two(counted.iter().map(|v| v.head))?;
    // Two that were disturbed alike agree by chance.
    let spread = if enough || visits.len() < 2 { a.max(b) } else { a.max(b).max(2.0 * AGREE) };
    Some(Settled { layers, head, spread })
}

/// Mean of the two fastest where they agree, else the fastest; and their relative distance.
fn fastest_two(seconds: impl Iterator<Item = f64>) -> Option<(f64, f64)> {
    let mut sorted: Vec<f64> = seconds.collect();
    sorted.sort_by(f64::total_cmp);
    let first = *sorted.first()?;
    let Some(second) = sorted.get(1).copied() else { return Some((first, f64::INFINITY)) };
    let spread = if second <= 0.0 { 0.0 } else { second / first.max(f64::MIN_POSITIVE) - 1.0 };
    Some((if spread <= AGREE { f64::midpoint(first, second) } else { first }, spread))
}

/// The lower quartile: a quarter of the runs were faster. 0 without runs.
pub(crate) fn lower_quartile(seconds: &mut [f64]) -> f64 {
    seconds.sort_by(f64::total_cmp);
    seconds.get(seconds.len() / 4).copied().unwrap_or(0.0)
}

/// Repairs times in an order in which they cannot fall: more rows, or a larger working set. A measured time is at least
/// the true one, so what comes earlier takes at most what a later one was seen to take.
pub(super) fn rising(seconds: &mut [f64]) {
    let mut least = f64::INFINITY;
    for one in seconds.iter_mut().rev() {
        least = least.min(*one);
        *one = least;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::synthetic::Random;

    fn visit(layers: f64) -> Visit {
        Visit { layers, head: layers / 10.0, waited: 0.0 }
    }

    /// A uniform number below 1.
    fn uniform(random: &mut Random) -> f64 {
        f64::from(u32::try_from(random.next() >> 33).expect("31 bits")) / f64::from(1_u32 << 31)
    }

    /// A visit of 20 runs of about a second; `slow` of them, in a row, take 1.3 to 2.5 times as long.
    fn runs(random: &mut Random, slow: usize) -> f64 {
        let mut seconds: Vec<f64> = (0..20)
            .map(|i| {
                let calm = 1.0 + 0.02 * uniform(random);
                if i < slow { calm * (1.3 + 1.2 * uniform(random)) } else { calm }
            })
            .collect();
        lower_quartile(&mut seconds)
    }

    #[test]
    fn a_quartile_stands_most_of_a_visit_disturbed() {
        let mut random = Random(7);
        for slow in 0..=14 {
            let seconds = runs(&mut random, slow);
            assert!((1.0..1.03).contains(&seconds), "{slow} of 20 runs disturbed: {seconds}");
        }
        assert!(runs(&mut random, 20) > 1.25, "when all are, the visit is slow");
        assert_eq!(lower_quartile(&mut []), 0.0);
    }

    #[test]
    fn one_disturbed_pass_is_found_and_outvoted() {
        let mut random = Random(11);
        for _ in 0..200 {
            let mut visits = vec![visit(runs(&mut random, 20)), visit(runs(&mut random, 0))];
            let settled = settle(&visits).expect("two visits");
            assert!(!settled.agrees() && settled.layers < 1.03, "{settled:?}");
            visits.push(visit(runs(&mut random, 5)));
            let settled = settle(&visits).expect("three visits");
            assert!(settled.agrees() && (1.0..1.03).contains(&settled.layers), "{settled:?}");
        }
    }

    #[test]
    fn what_waited_for_a_cpu_does_not_settle_alone() {
        let late = |layers| Visit { waited: 0.2, ..visit(layers) };
        assert!(!settle(&[late(2.0), late(2.0)]).expect("two visits").agrees());
        assert!(!settle(&[late(2.0), visit(1.0), late(1.01)]).expect("three visits").agrees());
        let settled = settle(&[late(0.9), visit(1.0), visit(1.01)]).expect("three visits");
        assert!(settled.agrees() && (settled.layers - 1.005).abs() < 1e-12, "{settled:?}");
        assert!(settle(&[]).is_none());
        assert!(!settle(&[visit(1.0)]).expect("one visit").agrees(), "one has nothing to agree with");
    }

    #[test]
    fn a_step_without_a_head_settles() {
        let bare = |layers| Visit { layers, head: 0.0, waited: 0.0 };
        let settled = settle(&[bare(1.0), bare(1.02)]).expect("two visits");
        assert!(settled.agrees() && settled.head == 0.0);
    }

    #[test]
    fn repaired_times_rise_and_never_above_what_was_measured() {
        let mut times = [1.0, 5.0, 2.0, 3.0, 2.5, 4.0];
        let measured = times;
        rising(&mut times);
        assert_eq!(times, [1.0, 2.0, 2.0, 2.5, 2.5, 4.0]);
        assert!(times.iter().zip(measured).all(|(t, m)| *t <= m));
        let mut sorted = [1.0, 2.0, 3.0];
        rising(&mut sorted);
        assert_eq!(sorted, [1.0, 2.0, 3.0]);
    }
}
