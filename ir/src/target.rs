//! What a machine can do: a profile that the planner prices against. Built-in profiles and the type of measured ones.

use serde::{Deserialize, Serialize};

/// Instruction-set features kernels may use.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Isa {
    /// AVX2 with FMA and F16C (x86-64-v3): the least the compiled tiers ask for.
    pub avx2: bool,
    /// AVX-512 F, BW, DQ, VL.
    pub avx512: bool,
    /// AVX512-VNNI.
    pub vnni: bool,
    /// AMX-TILE and AMX-INT8, where the system lets processes use them. Profiles from before it have none.
    #[serde(default)]
    pub amx_int8: bool,
}

/// CPU or GPU.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum TargetKind {
    /// Threads and caches.
    Cpu,
    /// A CUDA device.
    Gpu,
}

/// Read bandwidth for a working set.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Bandwidth {
    /// Size of the working set, bytes.
    pub bytes: f64,
    /// Bytes per second, one thread.
    pub one_thread: f64,
    /// Bytes per second, all threads of the profile.
    pub all_threads: f64,
}

/// Rate of a kernel class, measured or derived.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct KernelRate {
    /// Class: `linear.<format>` and `head.<format>` (work: multiply-adds), where the formats `int8_channel` and
    /// `int8_channel_tiles` are int8 per channel by blocks of rows and through tiles; `attend` over 16-bit keys and `attend.int8`
    /// (work: key × query-head pairs at head dimension 64; rows are query heads that read a key together); `choose`, the
    /// choice of pages (work: bounds of a page for one KV head at head dimension 64; rows are pages of the sequence).
    pub class: String,
    /// Rows processed together.
    pub rows: u32,
    /// Working set of the measurement, bytes: weights of a step (linear, head), or keys and values (attend, choose).
    pub bytes: f64,
    /// Work per second, one thread.
    pub one_thread: f64,
    /// Work per second, all threads.
    pub all_threads: f64,
    /// Relative distance of the two measurements that agree best, the worse of one and all threads: what is above a few
    /// per cent was disturbed.
    pub spread: f64,
}

/// A machine.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Target {
    /// Name: `h200-sxm`, `cpu-avx512`, `host`.
    pub name: String,
    /// CPU or GPU.
    pub kind: TargetKind,
    /// CPU features.
    pub isa: Isa,
    /// Threads the profile was made for (1 for a GPU).
    pub threads: u32,
    /// Memory for weights, KV and workspace, bytes.
    pub memory: f64,
    /// Peak dense 16-bit rate (GPU) or f32 rate (CPU), FLOP/s, whole machine.
    pub flops: f64,
    /// Peak memory bandwidth, bytes/s, whole machine.
    pub bandwidth: f64,
    /// Read bandwidth by working set, rising sizes; empty: `bandwidth` for all sizes.
    pub read: Vec<Bandwidth>,
    /// Measured kernel rates; empty: derived from the peaks.
    pub kernels: Vec<KernelRate>,
    /// Seconds per barrier (CPU) or launch (GPU).
    pub launch: f64,
    /// Seconds to start a process of a program that does nothing and to see its end; 0 when not measured.
    pub start: f64,
    /// Money per hour, USD; 0 when unknown.
    pub usd_per_hour: f64,
    /// True for a profile that `profile-device` wrote.
    pub measured: bool,
}

/// Built-in profiles by name: peaks from the makers' data sheets (dense 16-bit rates, SXM boards where there is a choice).
/// CPU classes are estimates of their kind; `inferc profile-device` writes measured ones.
struct Builtin {
    name: &'static str,
    aliases: &'static [&'static str],
    kind: TargetKind,
    /// Memory in bytes, FLOP/s, bytes/s.
    peaks: (f64, f64, f64),
    threads: u32,
    launch: f64,
    isa: Isa,
}

const NO_ISA: Isa = Isa { avx2: false, avx512: false, vnni: false, amx_int8: false };

const fn gpu(name: &'static str, aliases: &'static [&'static str], peaks: (f64, f64, f64)) -> Builtin {
    Builtin { name, aliases, kind: TargetKind::Gpu, peaks, threads: 1, launch: 1.3e-6, isa: NO_ISA }
}

const BUILTINS: &[Builtin] = &[
    gpu("b200", &["b200-sxm"], (192e9, 2250e12, 8.0e12)),
    gpu("h200-sxm", &["h200"], (141e9, 989.5e12, 4.8e12)),
    gpu("h100-sxm", &["h100"], (80e9, 989.5e12, 3.35e12)),
    gpu("a100-80g", &["a100"], (80e9, 312e12, 2.039e12)),
    gpu("l40s", &[], (48e9, 362e12, 0.864e12)),
    gpu("l4", &[], (24e9, 121e12, 0.3e12)),
    Builtin {
        name: "cpu-avx512",
        aliases: &["cpu"],
        kind: TargetKind::Cpu,
        peaks: (24e9, 400e9, 36e9),
        threads: 2,
        launch: 0.3e-6,
        isa: Isa { avx2: true, avx512: true, vnni: true, amx_int8: false },
    },
    Builtin {
        name: "cpu-avx2",
        aliases: &[],
        kind: TargetKind::Cpu,
        peaks: (24e9, 250e9, 30e9),
        threads: 2,
        launch: 0.3e-6,
        isa: Isa { avx2: true, avx512: false, vnni: false, amx_int8: false },
    },
    // A fixed machine of round numbers: plans in tests do not change with the host.
    Builtin {
        name: "reference",
        aliases: &[],
        kind: TargetKind::Cpu,
        peaks: (16e9, 200e9, 20e9),
        threads: 2,
        launch: 1e-6,
        isa: Isa { avx2: true, avx512: true, vnni: true, amx_int8: false },
    },
];

/// Names of the built-in profiles, in the order of the table.
#[must_use]
pub fn names() -> Vec<&'static str> {
    BUILTINS.iter().map(|b| b.name).collect()
}

/// A built-in profile by name or alias.
#[must_use]
pub fn builtin(name: &str) -> Option<Target> {
    let row = BUILTINS.iter().find(|b| b.name == name || b.aliases.contains(&name))?;
    let (memory, flops, bandwidth) = row.peaks;
    Some(Target {
        name: row.name.to_owned(),
        kind: row.kind,
        isa: row.isa,
        threads: row.threads,
        memory,
        flops,
        bandwidth,
        read: Vec::new(),
        kernels: Vec::new(),
        launch: row.launch,
        start: 0.0,
        usd_per_hour: 0.0,
        measured: false,
    })
}

impl Target {
    /// Stable hash of the whole profile (hex): what a plan was priced for.
    #[must_use]
    pub fn hash(&self) -> String {
        let bytes = postcard::to_stdvec(self).expect("plain data always serialises");
        blake3::hash(&bytes).to_hex().to_string()
    }

    /// Read bandwidth for a working set of `bytes`, bytes/s, with `threads` threads: log-linear between the measured
    /// sizes, the last one beyond them, the peak where nothing was measured.
    #[must_use]
    pub fn read_bandwidth(&self, bytes: f64, threads: u32) -> f64 {
        let rate = |b: &Bandwidth| {
            if threads >= self.threads {
                b.all_threads
            } else {
                let share = f64::from(threads.max(1) - 1) / f64::from(self.threads.max(2) - 1);
                b.one_thread + (b.all_threads - b.one_thread) * share
            }
        };
        match self.read.iter().position(|b| b.bytes >= bytes) {
            _ if self.read.is_empty() => {
                self.bandwidth * f64::from(threads.min(self.threads)) / f64::from(self.threads)
            }
            None => rate(&self.read[self.read.len() - 1]),
            Some(0) => rate(&self.read[0]),
            Some(i) => {
                let (a, b) = (&self.read[i - 1], &self.read[i]);
                let t = (bytes / a.bytes).ln() / (b.bytes / a.bytes).ln();
                (rate(a).ln() * (1.0 - t) + rate(b).ln() * t).exp()
            }
        }
    }

    /// Rate of a kernel class at `rows` rows over a working set of `bytes`, work per second; `None` when the class was not
    /// measured. Between measured row counts the *time* is interpolated (a step of more rows never takes less), between
    /// measured working sets its logarithm over that of the size; outside the nearest measurement counts.
    #[must_use]
    pub fn kernel_rate(&self, class: &str, rows: f64, bytes: f64, threads: u32) -> Option<f64> {
        let mut points: Vec<&KernelRate> = self.kernels.iter().filter(|k| k.class == class).collect();
        points.sort_by(|a, b| a.bytes.total_cmp(&b.bytes).then(a.rows.cmp(&b.rows)));
        let mut sets: Vec<(f64, f64)> = Vec::new();
        for set in points.chunk_by(|a, b| a.bytes == b.bytes) {
            sets.push((set[0].bytes, self.seconds_at(set, rows, threads)));
        }
        let next = sets.iter().position(|(b, _)| *b >= bytes);
        let seconds = match (next, sets.last()) {
            (_, None) => return None,
            (None, Some(last)) => last.1,
            (Some(0), _) => sets[0].1,
            (Some(i), _) => {
                let (a, b) = (sets[i - 1], sets[i]);
                let t = (bytes / a.0).ln() / (b.0 / a.0).ln();
                (a.1.ln() * (1.0 - t) + b.1.ln() * t).exp()
            }
        };
        Some(rows.max(f64::MIN_POSITIVE) / seconds)
    }

    /// Seconds per unit of work of each row for `rows` rows, from measurements of one working set in order of rows.
    fn seconds_at(&self, points: &[&KernelRate], rows: f64, threads: u32) -> f64 {
        let share = if threads >= self.threads {
            1.0
        } else {
            f64::from(threads.max(1) - 1) / f64::from(self.threads.max(2) - 1)
        };
        let time = |k: &KernelRate| f64::from(k.rows) / (k.one_thread + (k.all_threads - k.one_thread) * share);
        let (first, last) = (points[0], points[points.len() - 1]);
        match points.iter().position(|k| f64::from(k.rows) >= rows) {
            Some(0) => time(first),
            None => time(last) * rows / f64::from(last.rows),
            Some(i) => {
                let (a, b) = (points[i - 1], points[i]);
                let t = (rows - f64::from(a.rows)) / f64::from(b.rows - a.rows);
                time(a) * (1.0 - t) + time(b) * t
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rates_are_interpolated_in_time_and_working_set() {
        let mut target = builtin("reference").expect("a built-in profile");
        target.threads = 2;
        let point = |rows, bytes, rate| KernelRate {
            class: "linear.q8_0".to_owned(),
            rows,
            bytes,
            one_thread: rate,
            all_threads: 2.0 * rate,
            spread: 0.0,
        };
        target.kernels = vec![point(1, 1e6, 100.0), point(4, 1e6, 200.0), point(1, 1e8, 25.0), point(4, 1e8, 100.0)];
        let rate = |rows, bytes, threads| target.kernel_rate("linear.q8_0", rows, bytes, threads).expect("measured");
        // Small set: 1 row takes 10 ms, 4 take 20 ms, so 2.5 take 15 ms.
        assert!((2.5 / rate(2.5, 1e5, 1) - 0.015).abs() < 1e-12);
        assert!((8.0 / rate(8.0, 1e6, 1) - 0.040).abs() < 1e-12);
        // Half way between the sets: the geometric mean of 10 ms and 40 ms.
        assert!((1.0 / rate(1.0, 1e7, 1) - 0.020).abs() < 1e-12);
        // Less than a row takes as long as one.
        assert!((0.5 / rate(0.5, 1e9, 2) - 0.020).abs() < 1e-12);
        assert!(target.kernel_rate("head.q8_0", 1.0, 1e6, 1).is_none());
    }
}
