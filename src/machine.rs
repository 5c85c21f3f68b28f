//! What a command works with: the target, the threads, the back end, the kernel cache.
//!
//! The default target is this machine: the profile that `profile-device` stored, else the built-in class of its CPU. A
//! stored profile is used only on the machine it was measured on.

use crate::cache::Cache;
use crate::inputs;
use crate::manifest::Manifest;
use anyhow::{Context as _, Result, bail};
use codegen::Backend;
use ir::schedule::Numerics;
use ir::target::{Isa, Target, TargetKind};
use optimizer::lossy::Forced;
use runtime::device::cpu::MAX_TEAM;
use std::path::PathBuf;

/// What the caller asked for; `None` where the machine decides.
#[derive(Clone, Debug)]
pub struct Wishes {
    /// Target by name or file.
    pub target: Option<String>,
    /// Threads.
    pub threads: Option<u32>,
    /// Back end.
    pub backend: Option<Backend>,
    /// Instruction set not to exceed.
    pub isa: Option<Isa>,
    /// Arithmetic class of all models; `None`: the planner decides, within what the strategy allows.
    pub numerics: Option<Numerics>,
    /// Lossy choices to take instead of the planner's.
    pub forced: Forced,
    /// Use the kernel cache.
    pub cache: bool,
}

/// The circumstances of a compilation.
#[derive(Clone, Debug)]
pub struct Machine {
    /// Target; its ISA is what kernels are generated for.
    pub target: Target,
    /// Threads of the team.
    pub threads: u32,
    /// Code generator.
    pub backend: Backend,
    /// Kernel cache, if it may be used.
    pub cache: Option<Cache>,
    /// Arithmetic class of all models; `None`: the planner decides, within what the strategy allows.
    pub numerics: Option<Numerics>,
    /// Lossy choices to take instead of the planner's.
    pub forced: Forced,
    /// What the person should know.
    pub warnings: Vec<String>,
}

/// What a back end makes use of. Cranelift has no tiles: what is planned for them would run as loops.
pub(crate) fn usable(isa: Isa, backend: Backend) -> Isa {
    Isa { amx_int8: isa.amx_int8 && backend == Backend::Llvm, ..isa }
}

impl Machine {
    /// Works out the circumstances.
    ///
    /// # Errors
    /// When the target is unknown, the back end is not in this build, or this CPU lacks what is asked for.
    pub fn new(wishes: &Wishes, manifest: Option<&Manifest>) -> Result<Self> {
        let host = runtime::device::probe::probe();
        let mut warnings = Vec::new();
        let target = match &wishes.target {
            Some(name) => inputs::target(name, manifest)?,
            None => host_target(&host, &mut warnings),
        };
        let mut target = target;
        if let Some(isa) = wishes.isa {
            if !within(isa, host.isa) {
                bail!("--isa asks for CPU features that this CPU lacks: it has {:?}", host.isa);
            }
            target.isa = isa;
        }
        let threads = team(wishes.threads, host.threads)?;
        let backend = wishes.backend.unwrap_or_else(crate::default_backend);
        if !backend.available() {
            bail!("this build has no {} back end: build inferc with its feature", backend.name());
        }
        target.isa = usable(target.isa, backend);
        let cache = if wishes.cache { Cache::open().map_err(|why| warnings.push(why)).ok() } else { None };
        Ok(Self { target, threads, backend, cache, numerics: wishes.numerics, forced: wishes.forced, warnings })
    }

    /// One thread and all of them.
    #[must_use]
    pub fn teams(&self) -> Vec<u32> {
        if self.threads > 1 { vec![1, self.threads] } else { vec![1] }
    }

    /// The target can run code on this machine.
    ///
    /// # Errors
    /// Names what is missing here.
    pub fn runs_here(&self) -> Result<()> {
        if self.target.kind != TargetKind::Cpu {
            bail!("target {} is a GPU: this version runs on CPUs; leave --target out to run here", self.target.name);
        }
        let host = runtime::device::probe::isa();
        if !within(self.target.isa, host) {
            bail!("target {} needs {:?}, this CPU has {host:?}", self.target.name, self.target.isa);
        }
        if !self.target.isa.avx2 {
            bail!("compiled kernels need AVX2, FMA, F16C and BMI2 (x86-64-v3); this CPU lacks them");
        }
        Ok(())
    }

    /// Options of the planner with the given assumptions and values.
    #[must_use]
    pub fn planner(
        &self,
        assumptions: ir::plan::Assumptions,
        values: std::collections::BTreeMap<String, f64>,
    ) -> optimizer::Options {
        optimizer::Options {
            assumptions,
            values,
            threads: self.threads,
            numerics: self.numerics,
            naive: false,
            forced: self.forced,
        }
    }
}

/// Threads of the team on so many cores: as many as are asked for, else one a core, as far as a team goes.
///
/// # Errors
/// When none are asked for, or more than a team may have.
pub fn team(asked: Option<u32>, cores: usize) -> Result<u32> {
    const MOST: u32 = MAX_TEAM as u32;
    match asked {
        Some(0) => bail!("--threads must be at least 1"),
        Some(n) if n > MOST => bail!("--threads {n}: a team has at most {MOST}"),
        Some(n) => Ok(n),
        None => Ok(u32::try_from(cores).unwrap_or(MOST).clamp(1, MOST)),
    }
}

/// Every feature of `needed` is in `have`.
#[must_use]
pub fn within(needed: Isa, have: Isa) -> bool {
    let ok = |n: bool, h: bool| h || !n;
    ok(needed.avx2, have.avx2)
        && ok(needed.avx512, have.avx512)
        && ok(needed.vnni, have.vnni)
        && ok(needed.amx_int8, have.amx_int8)
}

/// Where this machine's profile is stored.
#[must_use]
pub fn profile_path() -> Option<PathBuf> {
    Cache::open().ok().map(|c| c.dir().join("host.json"))
}

/// The name a profile of this machine carries.
#[must_use]
pub fn host_name(host: &runtime::device::probe::Host) -> String {
    format!("{} ×{}", host.name, host.threads)
}

fn host_target(host: &runtime::device::probe::Host, warnings: &mut Vec<String>) -> Target {
    if let Some(path) = profile_path().filter(|p| p.is_file()) {
        match inputs::profile(&path) {
            Ok(target) if target.name == host_name(host) => return target,
            Ok(target) => {
                warnings.push(format!("{} was measured on {}: it is not used here", path.display(), target.name))
            }
            Err(why) => warnings.push(format!("{why:#}")),
        }
    }
    let class = if host.isa.avx512 { "cpu-avx512" } else { "cpu-avx2" };
    let mut target = ir::target::builtin(class).expect("the table has both CPU classes");
    #[allow(clippy::cast_precision_loss, reason = "memory sizes are far below 2^53")]
    // All there is, not what is free just now: the same machine gives the same plan, byte for byte.
    let memory = host.total_memory as f64;
    // The class is made of two cores; rates grow with the cores there are.
    let cores = u32::try_from(host.threads).unwrap_or(1).max(1);
    let scale = f64::from(cores) / f64::from(target.threads);
    target.isa = host.isa;
    target.threads = cores;
    target.flops *= scale;
    target.memory = memory;
    target
}

/// Reads a JSON number or word of `--set`.
///
/// # Errors
/// When the value is no number.
pub fn number(name: &str, value: &str) -> Result<f64> {
    let (digits, scale) = match value {
        v if v.ends_with("ktok") => (&v[..v.len() - 4], 1000.0),
        v if v.ends_with("tok") => (&v[..v.len() - 3], 1.0),
        v => (v, 1.0),
    };
    let x: f64 = digits.parse().with_context(|| format!("--set {name}={value}: expected a number"))?;
    if x.is_finite() { Ok(x * scale) } else { bail!("--set {name}={value}: expected a finite number") }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_team_has_no_more_threads_than_run() {
        let most = u32::try_from(MAX_TEAM).expect("a small number");
        assert_eq!([1, 2, MAX_TEAM + 1].map(|cores| team(None, cores).expect("a team")), [1, 2, most]);
        assert_eq!(team(Some(most), 2).expect("as asked"), most);
        let error = team(Some(most + 1), 4 * MAX_TEAM).expect_err("nobody gets so many").to_string();
        assert!(error.contains("--threads 257") && error.contains("256"), "{error}");
        assert!(team(Some(0), 2).is_err());
    }
}
