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
    /// Class: `linear.<dtype>` (work: multiply-adds), `attend` (work: key × query-head pairs of the profile's head
    /// dimension 64), `head.<dtype>`.
    pub class: String,
    /// Rows processed together.
    pub rows: u32,
    /// Work per second, one thread.
    pub one_thread: f64,
    /// Work per second, all threads.
    pub all_threads: f64,
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
    /// Money per hour, USD; 0 when unknown.
    pub usd_per_hour: f64,
    /// True for a profile that `profile-device` wrote.
    pub measured: bool,
}
