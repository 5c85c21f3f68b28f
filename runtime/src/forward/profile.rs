//! Where a step's time goes: launches run one by one, each timed by itself.
//!
//! Without a profile a whole list is handed to the team at once and nothing is timed. A launch by itself pays for waking the
//! team, so that a profile's sum is some microseconds a launch above the step's time.

use crate::device::cpu::{Launch, Team};
use crate::error::Result;
use crate::weights::bytes;
use ir::program::{Arg, Program, Weight};
use std::time::Instant;

/// What a kernel took since a profile was started.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct KernelTime {
    /// The kernel's name.
    pub name: String,
    /// How often it was launched.
    pub launches: u64,
    /// Seconds of all launches.
    pub seconds: f64,
    /// Bytes of resident weights that the launches were given, each read at least once.
    pub weight_bytes: u64,
}

/// An empty profile of a program.
pub(super) fn start(program: &Program) -> Vec<KernelTime> {
    program.kernels.iter().map(|k| KernelTime { name: k.name.clone(), ..KernelTime::default() }).collect()
}

/// Runs launches, which `list` describes; with a profile, one after the other, each timed.
pub(super) fn run(
    team: &mut Team,
    launches: &[Launch],
    weights: &[Weight],
    list: &[ir::program::Launch],
    profile: Option<&mut Vec<KernelTime>>,
) -> Result<()> {
    let Some(profile) = profile else { return team.run(launches) };
    for (one, what) in launches.iter().zip(list) {
        let start = Instant::now();
        team.run(std::slice::from_ref(one))?;
        let time = &mut profile[what.kernel as usize];
        time.seconds += start.elapsed().as_secs_f64();
        time.launches += 1;
        let given = what.args.iter().filter_map(|arg| match arg {
            Arg::Weight(w, _) => bytes(&weights[*w as usize]),
            _ => None,
        });
        time.weight_bytes += given.sum::<usize>() as u64;
    }
    Ok(())
}
