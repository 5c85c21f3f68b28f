//! Instructions that a processor may have and that are asked about, tried or timed here, outside the generated code.
//!
//! * [`tiles`]: whether this process may use AMX tiles, asked for and tried once.
//! * [`bf16_products`]: a loop that no kernel has, to be timed.

#![allow(unsafe_code, reason = "such instructions, and system calls around them, have no safe form")]

use super::cpu::Function;

/// Whether kernels of this process may use AMX tiles with products of bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Tiles {
    /// The processor has them, the system let this process use them, and a trial gave the right sums.
    Work,
    /// The processor has none, or has no products of bytes.
    Lacking,
    /// The processor has them, but the system (or the hypervisor) does not keep their state.
    NotKept,
    /// The system refused this process the use of them: the number of the error.
    Refused(i32),
    /// A trial in a child process ended with another status than 0, as `waitpid` tells it.
    Failed(i32),
}

/// Asks the system for the use of tiles and tries them, at the first call; threads started later may use them too.
///
/// The trial is a product with a known answer in a child process, so that a processor or hypervisor that promises tiles
/// and faults on them costs a process and not this one.
#[must_use]
pub fn tiles() -> Tiles {
    static FOUND: std::sync::OnceLock<Tiles> = std::sync::OnceLock::new();
    *FOUND.get_or_init(find_tiles)
}

#[cfg(not(target_arch = "x86_64"))]
fn find_tiles() -> Tiles {
    Tiles::Lacking
}

#[cfg(target_arch = "x86_64")]
fn find_tiles() -> Tiles {
    use std::arch::x86_64::{__cpuid, __cpuid_count};
    /// Bits of CPUID leaf 7, EDX: AMX-TILE and AMX-INT8.
    const CPU: u32 = 1 << 24 | 1 << 25;
    /// Bits of XCR0: tile configuration and tile data.
    const STATE: u32 = 1 << 17 | 1 << 18;
    /// `arch_prctl`: asks for the use of a part of the processor's state, here of tile data.
    const ARCH_REQ_XCOMP_PERM: i32 = 0x1023;
    const TILE_DATA: u64 = 18;
    if __cpuid(0).eax < 7 || __cpuid_count(7, 0).edx & CPU != CPU {
        return Tiles::Lacking;
    }
    let mut state = 0_u32;
    // OSXSAVE: without it there is no XCR0 to read.
    if __cpuid(1).ecx >> 27 & 1 == 1 {
        // SAFETY: reads a register, which CPUID says exists.
        unsafe { std::arch::asm!("xgetbv", in("ecx") 0, out("eax") state, out("edx") _, options(nomem, nostack)) };
    }
    if state & STATE != STATE {
        return Tiles::NotKept;
    }
    // SAFETY: changes what this process may use, no memory.
    if unsafe { libc::syscall(libc::SYS_arch_prctl, ARCH_REQ_XCOMP_PERM, TILE_DATA) } != 0 {
        return Tiles::Refused(std::io::Error::last_os_error().raw_os_error().unwrap_or(0));
    }
    // SAFETY: CPUID, XCR0 and the system promise that the instructions exist.
    match in_child(|| unsafe { tile_trial() }) {
        0 => Tiles::Work,
        status => Tiles::Failed(status),
    }
}

/// Runs `f` in a child process; the status that `waitpid` tells, 0 when `f` returned true, -1 when there was no child.
///
/// `f` must not allocate or take locks: other threads of this process may have held them.
#[cfg(target_arch = "x86_64")]
fn in_child(f: impl FnOnce() -> bool) -> i32 {
    // SAFETY: the child calls `f`, which keeps to what may be done after a fork, and system calls, and ends.
    unsafe {
        match libc::fork() {
            -1 => -1,
            0 => {
                // A child that dies of the trial is not worth a dump.
                let none = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
                libc::setrlimit(libc::RLIMIT_CORE, &raw const none);
                libc::signal(libc::SIGILL, libc::SIG_DFL);
                libc::_exit(i32::from(!f()))
            }
            child => {
                let mut status = -1;
                while libc::waitpid(child, &raw mut status, 0) == -1 {
                    if std::io::Error::last_os_error().raw_os_error() != Some(libc::EINTR) {
                        return -1;
                    }
                }
                status
            }
        }
    }
}

/// Multiplies a tile of signed by a tile of unsigned bytes onto sums that are there, and compares. Uses no heap.
///
/// # Safety
/// The processor executes tile instructions, and the system lets this process.
#[cfg(target_arch = "x86_64")]
unsafe fn tile_trial() -> bool {
    let mut shape = [0_u8; 64];
    shape[0] = 1;
    for tile in 0..8 {
        (shape[16 + 2 * tile], shape[48 + tile]) = (64, 16);
    }
    let mut a = [[0_i8; 64]; 16];
    let mut b = [[0_u8; 64]; 16];
    let mut sums = [[0_i32; 16]; 16];
    for (row, feature) in (0..16).flat_map(|r| (0..64).map(move |f| (r, f))) {
        a[row][feature] = (row * 37 + feature * 11) as u8 as i8;
        b[row][feature] = (row * 53 + feature * 7 + 128) as u8;
        sums[row][feature / 4] = (row * 1000 + feature) as i32 - 9000;
    }
    let mut expected = sums;
    for (row, feature) in (0..16).flat_map(|r| (0..64).map(move |f| (r, f))) {
        for (column, sum) in expected[row].iter_mut().enumerate() {
            *sum += i32::from(a[row][feature]) * i32::from(b[feature / 4][4 * column + feature % 4]);
        }
    }
    // SAFETY: the caller promises the instructions; each tile is 1024 bytes of a local array, tmm0 to tmm2 are declared,
    // and tiles are released before the end.
    unsafe {
        std::arch::asm!(
            "ldtilecfg [{shape}]",
            "tileloadd tmm0, [{sums} + {step}]",
            "tileloadd tmm1, [{a} + {step}]",
            "tileloadd tmm2, [{b} + {step}]",
            "tdpbsud tmm0, tmm1, tmm2",
            "tilestored [{sums} + {step}], tmm0",
            "tilerelease",
            shape = in(reg) shape.as_ptr(),
            sums = in(reg) sums.as_mut_ptr(),
            a = in(reg) a.as_ptr(),
            b = in(reg) b.as_ptr(),
            step = in(reg) 64_u64,
            out("tmm0") _,
            out("tmm1") _,
            out("tmm2") _,
            options(nostack),
        );
    }
    sums == expected
}

/// Products of one thread in a call of [`bf16_products`].
pub const BF16_PRODUCTS: u64 = BF16_STEPS * 12 * 32;
const BF16_STEPS: u64 = 8192;

/// A loop of products of bf16, in pairs and summed in f32, on registers alone: how fast they could be at most. Its second
/// argument is the address of a line of 64 bytes for each member of the team, where it leaves the sums of its registers. `None`
/// where the processor has no such products (AVX512_BF16).
#[must_use]
pub fn bf16_products() -> Option<Function> {
    #[cfg(target_arch = "x86_64")]
    if std::is_x86_feature_detected!("avx512bf16") {
        return Some(Function::native(multiply_bf16));
    }
    None
}

/// # Safety
/// The processor has AVX512_BF16, and `args[1]` is the address of 64 bytes for each member.
#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx512f")]
unsafe extern "C-unwind" fn multiply_bf16(args: *const u64, member: i64, _team: i64) {
    // SAFETY: the caller promises the instructions and the line that is written; twelve sums do not wait for each other.
    unsafe {
        let out = *args.add(1) + 64 * member.unsigned_abs();
        std::arch::asm!(
            "vpbroadcastd zmm12, {eighths:e}",
            "vpbroadcastd zmm13, {ones:e}",
            "vpxord zmm0, zmm0, zmm0",
            "vmovdqa64 zmm1, zmm0",
            "vmovdqa64 zmm2, zmm0",
            "vmovdqa64 zmm3, zmm0",
            "vmovdqa64 zmm4, zmm0",
            "vmovdqa64 zmm5, zmm0",
            "vmovdqa64 zmm6, zmm0",
            "vmovdqa64 zmm7, zmm0",
            "vmovdqa64 zmm8, zmm0",
            "vmovdqa64 zmm9, zmm0",
            "vmovdqa64 zmm10, zmm0",
            "vmovdqa64 zmm11, zmm0",
            "2:",
            "vdpbf16ps zmm0, zmm12, zmm13",
            "vdpbf16ps zmm1, zmm12, zmm13",
            "vdpbf16ps zmm2, zmm12, zmm13",
            "vdpbf16ps zmm3, zmm12, zmm13",
            "vdpbf16ps zmm4, zmm12, zmm13",
            "vdpbf16ps zmm5, zmm12, zmm13",
            "vdpbf16ps zmm6, zmm12, zmm13",
            "vdpbf16ps zmm7, zmm12, zmm13",
            "vdpbf16ps zmm8, zmm12, zmm13",
            "vdpbf16ps zmm9, zmm12, zmm13",
            "vdpbf16ps zmm10, zmm12, zmm13",
            "vdpbf16ps zmm11, zmm12, zmm13",
            "dec {steps}",
            "jnz 2b",
            "vaddps zmm0, zmm0, zmm1",
            "vaddps zmm2, zmm2, zmm3",
            "vaddps zmm4, zmm4, zmm5",
            "vaddps zmm6, zmm6, zmm7",
            "vaddps zmm8, zmm8, zmm9",
            "vaddps zmm10, zmm10, zmm11",
            "vaddps zmm0, zmm0, zmm2",
            "vaddps zmm4, zmm4, zmm6",
            "vaddps zmm8, zmm8, zmm10",
            "vaddps zmm0, zmm0, zmm4",
            "vaddps zmm0, zmm0, zmm8",
            "vmovups [{out}], zmm0",
            "vzeroupper",
            eighths = in(reg) 0x3E00_3E00_u64,
            ones = in(reg) 0x3F80_3F80_u64,
            steps = inout(reg) BF16_STEPS => _,
            out = in(reg) out,
            out("zmm0") _, out("zmm1") _, out("zmm2") _, out("zmm3") _, out("zmm4") _, out("zmm5") _, out("zmm6") _,
            out("zmm7") _, out("zmm8") _, out("zmm9") _, out("zmm10") _, out("zmm11") _, out("zmm12") _, out("zmm13") _,
            out("zmm14") _, out("zmm15") _,
            options(nostack),
        );
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::device::amx;
    use crate::device::cpu::{Launch, Region, Team};

    #[test]
    fn the_trial_of_tiles_is_right_and_a_fault_in_it_stays_in_the_child() {
        // Here the emulator or the processor does what the trial asks for.
        let native = amx::enable() == amx::Tiles::Native;
        // SAFETY: as said.
        assert!(unsafe { tile_trial() });
        let (count, configured) = amx::count();
        assert_eq!((count.products, configured), (u64::from(!native), false));
        assert_eq!(in_child(|| true), 0);
        assert_eq!(in_child(|| false) >> 8, 1);
        // SAFETY: ends the child with the signal of an illegal instruction.
        let status = in_child(|| unsafe { libc::raise(libc::SIGILL) } == 0);
        assert_eq!(status & 0x7F, libc::SIGILL);
        assert_eq!(tiles() == Tiles::Work, native, "{:?}", tiles());
        assert_eq!(tiles(), tiles());
    }

    /// The loop computes what it is timed for: twelve sums of steps of two products of an eighth.
    #[test]
    fn products_of_bf16_are_products() {
        let Some(function) = bf16_products() else { return };
        let mut team = Team::new(2).expect("threads");
        let mut out = Region::new(128).expect("memory");
        out.bytes_mut().fill(0xFF);
        team.run(&[Launch::new(function, vec![0, out.address()])]).expect("it runs");
        let expected = 12.0 * BF16_STEPS as f32 / 4.0;
        assert!(out.f32s()[..32].iter().all(|sum| *sum == expected), "{:?}", &out.f32s()[..32]);
    }
}
