//! What this machine offers to us: instruction sets, cores we may use, memory. Reads `/proc` and `/sys`; measures nothing.

use super::cpu::allowed_cpus;
use super::extensions::{Tiles, tiles};
use ir::target::Isa;

/// A machine as seen from this process.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Host {
    /// The processor's name, or its architecture when the system does not tell.
    pub name: String,
    /// Instruction sets that kernels may use.
    pub isa: Isa,
    /// Threads worth starting: cores in the affinity mask, not more than the control group's quota.
    pub threads: usize,
    /// Bytes of memory available now, not more than the control group's limit.
    pub memory: u64,
    /// Bytes of memory there are, not more than the control group's limit: the same from one look to the next.
    pub total_memory: u64,
}

/// Looks at this machine.
#[must_use]
pub fn probe() -> Host {
    let read = |path: &str| std::fs::read_to_string(path).unwrap_or_default();
    let name = field(&read("/proc/cpuinfo"), "model name").unwrap_or_else(|| std::env::consts::ARCH.to_owned());
    let meminfo = read("/proc/meminfo");
    let bytes = |name: &str| {
        let kilobytes =
            field(&meminfo, name).and_then(|v| v.split_whitespace().next().and_then(|n| n.parse::<u64>().ok()));
        kilobytes.unwrap_or(0).saturating_mul(1024)
    };
    let (available, total) = (bytes("MemAvailable"), bytes("MemTotal"));
    let cores = allowed_cpus().len().max(1);
    let threads = quota(&read("/sys/fs/cgroup/cpu.max")).map_or(cores, |q| q.min(cores));
    let max = read("/sys/fs/cgroup/memory.max");
    let memory =
        memory_limit(&max, &read("/sys/fs/cgroup/memory.current")).map_or(available, |left| left.min(available));
    let total_memory = memory_limit(&max, "0").map_or(total, |limit| limit.min(total));
    Host { name, isa: isa(), threads, memory, total_memory }
}

/// The instruction sets. The first call asks the system for the use of AMX tiles, if there are any, and tries them.
#[must_use]
pub fn isa() -> Isa {
    #[cfg(target_arch = "x86_64")]
    {
        let avx2 = std::arch::is_x86_feature_detected!("avx2")
            && std::arch::is_x86_feature_detected!("fma")
            && std::arch::is_x86_feature_detected!("f16c")
            && std::arch::is_x86_feature_detected!("bmi2");
        let avx512 = avx2
            && std::arch::is_x86_feature_detected!("avx512f")
            && std::arch::is_x86_feature_detected!("avx512bw")
            && std::arch::is_x86_feature_detected!("avx512dq")
            && std::arch::is_x86_feature_detected!("avx512vl");
        let vnni = avx512 && std::arch::is_x86_feature_detected!("avx512vnni");
        Isa { avx2, avx512, vnni, amx_int8: vnni && tiles() == Tiles::Work }
    }
    #[cfg(not(target_arch = "x86_64"))]
    Isa::default()
}

/// Why kernels do not use AMX tiles that the processor has, for people; `None` when they may, or when it has none.
#[must_use]
pub fn tiles_withheld() -> Option<String> {
    match tiles() {
        Tiles::Work | Tiles::Lacking => None,
        Tiles::NotKept => Some("AMX is off: the system or the hypervisor does not keep the state of tiles".to_owned()),
        Tiles::Refused(error) => {
            let cause = std::io::Error::from_raw_os_error(error);
            Some(format!("AMX is off: the system refuses the use of tiles ({cause})"))
        }
        Tiles::Failed(status) => Some(format!(
            "AMX is off: a product of tiles in a child process did not come out right (status {status:#x})"
        )),
    }
}

/// The value of `name : value` in a file of such lines.
fn field(text: &str, name: &str) -> Option<String> {
    let line = text.lines().find(|l| l.split(':').next().is_some_and(|k| k.trim() == name))?;
    line.split_once(':').map(|(_, v)| v.trim().to_owned())
}

/// Whole cores of `cpu.max` (`"max 100000"` or `"150000 100000"`), at least one; `None` without a limit.
fn quota(text: &str) -> Option<usize> {
    let mut parts = text.split_whitespace();
    let (quota, period) = (parts.next()?.parse::<usize>().ok()?, parts.next()?.parse::<usize>().ok()?);
    Some((quota / period.max(1)).max(1))
}

/// Bytes left below `memory.max`.
fn memory_limit(max: &str, current: &str) -> Option<u64> {
    let (max, used) = (max.trim().parse::<u64>().ok()?, current.trim().parse::<u64>().unwrap_or(0));
    Some(max.saturating_sub(used))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quotas_and_limits() {
        assert_eq!(quota("max 100000\n"), None);
        assert_eq!(quota("250000 100000\n"), Some(2));
        assert_eq!(quota("50000 100000\n"), Some(1));
        assert_eq!(quota(""), None);
        assert_eq!(memory_limit("max\n", "5\n"), None);
        assert_eq!(memory_limit("100\n", "30\n"), Some(70));
        assert_eq!(memory_limit("100\n", "300\n"), Some(0));
    }

    #[test]
    fn this_machine_has_cores_and_memory() {
        let host = probe();
        assert!(host.threads >= 1 && !host.name.is_empty());
        assert!(host.memory > 0 && host.memory <= host.total_memory);
        assert_eq!(probe().total_memory, host.total_memory);
    }
}
