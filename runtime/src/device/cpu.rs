//! Memory, machine code and threads of this computer.
//!
//! * [`Region`]: zeroed anonymous memory that grows as it is touched, on huge pages where the system gives them.
//! * [`Image`]: machine code of [`ir::code::Code`] in memory that is never writable and executable at once.
//! * [`Team`]: threads that run lists of [`Launch`]es together, with a barrier after each launch.
//!
//! **Trust.** A launch calls machine code with addresses. Whoever builds a [`Launch`] promises that the code came from
//! our own back ends through an artifact whose checksum was checked, that one word is given per parameter, and that
//! the regions named by address are large enough and outlive the launch. Nothing can check that at run time; bounds
//! of the *parsing* (symbols, sizes) are checked for any bytes.

#![allow(unsafe_code, reason = "system calls, mapped memory and calls into generated code have no safe form")]

use super::gate::{Barrier, Gate};
use crate::error::{Error, Result};
use ir::code::Code;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::ptr::NonNull;
use std::sync::atomic::Ordering::{Acquire, Relaxed, Release, SeqCst};
use std::sync::atomic::{AtomicBool, AtomicPtr, AtomicU32, AtomicUsize};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Instant;

/// Size of a huge page.
const HUGE: usize = 2 << 20;
/// Most threads of a team.
pub const MAX_TEAM: usize = 256;

fn system<T>(what: &'static str, bytes: usize) -> Result<T> {
    Err(Error::System { what, bytes: bytes as u64, cause: std::io::Error::last_os_error() })
}

/// Anonymous memory: zeroed, aligned to 4096 bytes at least, given by the system when first touched or asked for.
#[derive(Debug)]
pub struct Region {
    start: NonNull<u8>,
    bytes: usize,
    mapping: (usize, usize),
}

// SAFETY: a region owns its memory like a `Box<[u8]>`.
unsafe impl Send for Region {}
// SAFETY: shared access is reading only; writing takes `&mut` or a launch, whose builder vouches for it.
unsafe impl Sync for Region {}

impl Region {
    /// `bytes` bytes of zeros (at least 64). From 2 MiB on the memory is aligned to and asks for huge pages.
    ///
    /// # Errors
    /// [`Error::System`] when the system refuses the address range.
    pub fn new(bytes: usize) -> Result<Self> {
        let bytes = bytes.max(64);
        let what = "memory for weights, keys or buffers";
        let slack = if bytes >= HUGE { HUGE } else { 0 };
        let Some(total) = bytes.checked_add(slack).filter(|t| isize::try_from(*t).is_ok()) else {
            return Err(Error::System { what, bytes: bytes as u64, cause: std::io::ErrorKind::OutOfMemory.into() });
        };
        let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_NORESERVE;
        // SAFETY: a fresh anonymous mapping touches no existing memory.
        let base = unsafe { libc::mmap(std::ptr::null_mut(), total, libc::PROT_READ | libc::PROT_WRITE, flags, -1, 0) };
        if base == libc::MAP_FAILED {
            return system(what, bytes);
        }
        let address = base as usize;
        let start = if slack == 0 { address } else { address.next_multiple_of(HUGE) };
        if slack > 0 {
            // SAFETY: the range lies inside the mapping above. A refusal means small pages, which are correct too.
            unsafe { libc::madvise(start as *mut libc::c_void, bytes, libc::MADV_HUGEPAGE) };
        }
        let Some(start) = NonNull::new(start as *mut u8) else { return system(what, bytes) };
        Ok(Self { start, bytes, mapping: (address, total) })
    }

    /// Has the system give the first `bytes` bytes now, not when they are first touched; whether it did. Where it refuses
    /// (Linux before 5.14 does), they come then.
    pub fn populate(&mut self, bytes: usize) -> bool {
        let start = self.start.as_ptr().cast();
        // SAFETY: the range lies inside the mapping, and no byte of it changes.
        unsafe { libc::madvise(start, bytes.min(self.bytes), libc::MADV_POPULATE_WRITE) == 0 }
    }

    /// Address of the first byte.
    #[must_use]
    pub fn address(&self) -> u64 {
        self.start.as_ptr() as u64
    }

    /// All bytes.
    #[must_use]
    pub fn bytes(&self) -> &[u8] {
        // SAFETY: `start` is valid for `bytes` bytes as long as `self` lives.
        unsafe { std::slice::from_raw_parts(self.start.as_ptr(), self.bytes) }
    }

    /// All bytes, to write.
    #[must_use]
    pub fn bytes_mut(&mut self) -> &mut [u8] {
        // SAFETY: as `bytes`, and `self` is borrowed exclusively.
        unsafe { std::slice::from_raw_parts_mut(self.start.as_ptr(), self.bytes) }
    }

    /// The memory as f32.
    #[must_use]
    pub fn f32s(&self) -> &[f32] {
        // SAFETY: aligned to 4096, every bit pattern is an f32, the length is rounded down.
        unsafe { std::slice::from_raw_parts(self.start.as_ptr().cast(), self.bytes / 4) }
    }

    /// The memory as f32, to write.
    #[must_use]
    pub fn f32s_mut(&mut self) -> &mut [f32] {
        // SAFETY: as `f32s`, and `self` is borrowed exclusively.
        unsafe { std::slice::from_raw_parts_mut(self.start.as_ptr().cast(), self.bytes / 4) }
    }

    /// The memory as i32, to write.
    #[must_use]
    pub fn i32s_mut(&mut self) -> &mut [i32] {
        // SAFETY: as `f32s_mut`.
        unsafe { std::slice::from_raw_parts_mut(self.start.as_ptr().cast(), self.bytes / 4) }
    }

    /// The memory as i64, to write.
    #[must_use]
    pub fn i64s_mut(&mut self) -> &mut [i64] {
        // SAFETY: as `f32s_mut`, with a length rounded down to 8 bytes.
        unsafe { std::slice::from_raw_parts_mut(self.start.as_ptr().cast(), self.bytes / 8) }
    }
}

impl Drop for Region {
    fn drop(&mut self) {
        // SAFETY: exactly the mapping made in `new`; no slice of it outlives `self`.
        unsafe { libc::munmap(self.mapping.0 as *mut libc::c_void, self.mapping.1) };
    }
}

/// A compiled kernel. The calling convention may unwind so that kernels written in Rust can fail tests; generated code
/// never does.
pub type Entry = unsafe extern "C-unwind" fn(args: *const u64, tid: i64, team: i64);

/// Machine code, readable and executable, never writable.
#[derive(Debug)]
pub struct Image {
    region: Region,
    symbols: Vec<(String, u64)>,
}

impl Image {
    /// Copies code to fresh memory and makes that executable.
    ///
    /// # Errors
    /// [`Error::Code`] when a symbol lies outside the bytes or is there twice; [`Error::System`] when the system gives no
    /// executable memory.
    pub fn load(code: &Code) -> Result<Arc<Self>> {
        code.check().map_err(|cause| Error::Code { place: "symbols".to_owned(), cause })?;
        let mut region = Region::new(code.bytes.len())?;
        region.bytes_mut()[..code.bytes.len()].copy_from_slice(&code.bytes);
        // SAFETY: the region's own pages; from here on nobody writes to them, `Image` hands out no `&mut`.
        let failed = unsafe {
            libc::mprotect(region.start.as_ptr().cast(), region.bytes, libc::PROT_READ | libc::PROT_EXEC) != 0
        };
        if failed {
            return system("executable memory", code.bytes.len());
        }
        Ok(Arc::new(Self { region, symbols: code.symbols.clone() }))
    }

    /// A kernel by name.
    ///
    /// # Errors
    /// [`Error::Code`] when it is not here.
    pub fn function(self: &Arc<Self>, name: &str) -> Result<Function> {
        let symbol = self.symbols.iter().find(|(symbol, _)| symbol == name);
        let Some((_, offset)) = symbol else {
            return Err(Error::Code { place: format!("kernel `{name}`"), cause: "it is not in the code".to_owned() });
        };
        // SAFETY: `Code::check` put the offset inside the bytes; that the bytes there are a function of this type is
        // the promise of whoever made the code (see the head of this file).
        let entry = unsafe {
            let address = self.region.start.as_ptr().add(usize::try_from(*offset).expect("checked against a length"));
            std::mem::transmute::<*mut u8, Entry>(address)
        };
        Ok(Function { entry, image: Some(Arc::clone(self)) })
    }
}

/// A kernel that can be called; keeps its code in memory.
#[derive(Clone, Debug)]
pub struct Function {
    entry: Entry,
    #[expect(dead_code, reason = "owned so that the code stays mapped")]
    image: Option<Arc<Image>>,
}

impl Function {
    /// A kernel written in Rust.
    #[must_use]
    pub fn native(entry: Entry) -> Self {
        Self { entry, image: None }
    }

    /// Calls a small kernel on this thread: its parameters are the buffers to read, then the one to write.
    pub fn call(&self, reads: &[&[f32]], out: &mut [f32]) {
        let mut args: Vec<u64> = reads.iter().map(|r| r.as_ptr() as u64).collect();
        args.push(out.as_mut_ptr() as u64);
        // SAFETY: the promise at the head of this file; the buffers live until the call returns.
        unsafe { (self.entry)(args.as_ptr(), 0, 1) }
    }
}

/// A kernel with its arguments, ready to run any number of times.
#[derive(Clone, Debug)]
pub struct Launch {
    function: Function,
    args: Box<[u64]>,
    /// What it reads and the members divide, in the order in which they do.
    divided: Box<[Divided]>,
}

/// Memory of which every member of a team reads neighbouring units.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Divided {
    /// Address of the first unit.
    pub address: u64,
    /// Bytes of a unit.
    pub unit_bytes: u64,
    /// Number of units.
    pub units: u64,
}

impl Launch {
    /// Binds arguments. See the head of this file for what the caller promises.
    #[must_use]
    pub fn new(function: Function, args: Vec<u64>) -> Self {
        Self { function, args: args.into_boxed_slice(), divided: Box::default() }
    }

    /// Names what the launch reads and its members divide, in the order in which they do: member `m` of `n` begins at unit
    /// `units · m / n` of all. A member that waits for the launch to begin asks for the beginning of its part; where that is not
    /// its part, it asks in vain.
    #[must_use]
    pub fn dividing(mut self, parts: Vec<Divided>) -> Self {
        self.divided = parts.into_boxed_slice();
        self
    }

    /// What a member reads first.
    fn first_reads(&self, member: usize, members: usize) -> Lines {
        let all: u64 = self.divided.iter().map(|d| d.units).sum();
        let mut unit = all * member as u64 / members as u64;
        for d in &self.divided {
            if unit < d.units {
                let start = d.address + unit * d.unit_bytes;
                return Lines { next: start & !63, end: start + WAITING.min((d.units - unit) * d.unit_bytes) };
            }
            unit -= d.units;
        }
        Lines { next: 0, end: 0 }
    }
}

/// Bytes that a waiting member asks for at most, far less than a second cache has.
const WAITING: u64 = 128 << 10;

/// Lines of memory that are asked for one after the other.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Lines {
    next: u64,
    end: u64,
}

impl Lines {
    /// Has the second cache ask for some lines; without them, or on other processors, does nothing.
    fn ask(&mut self) {
        const TOGETHER: u64 = 4;
        for _ in 0..TOGETHER {
            if self.next < self.end {
                // SAFETY: a request reads nothing and faults at no address.
                #[cfg(target_arch = "x86_64")]
                unsafe {
                    use std::arch::x86_64::{_MM_HINT_T1, _mm_prefetch};
                    _mm_prefetch::<_MM_HINT_T1>(self.next as *const i8);
                }
                self.next += 64;
            }
        }
    }
}

/// What the threads of a team share.
#[derive(Debug)]
struct Shared {
    /// Advances when there is a list to run, or when the team is dissolved.
    jobs: Gate,
    list: AtomicPtr<Launch>,
    len: AtomicUsize,
    /// Meeting point after each launch but the last.
    barrier: Barrier,
    /// Workers that still run the list; the last one opens `done`.
    busy: AtomicU32,
    done: Gate,
    stop: AtomicBool,
    failure: Mutex<Option<(usize, String)>>,
    members: usize,
}

impl Shared {
    /// Runs the list as one member of the team.
    fn work(&self, list: &[Launch], member: usize) {
        let outcome = catch_unwind(AssertUnwindSafe(|| {
            for (i, launch) in list.iter().enumerate() {
                // SAFETY: the promise at the head of this file.
                unsafe { (launch.function.entry)(launch.args.as_ptr(), member as i64, self.members as i64) };
                if let Some(next) = list.get(i + 1).filter(|_| self.members > 1) {
                    // Found only by members that do wait: the last to arrive has better things to do.
                    let mut reads = None;
                    let ask = || reads.get_or_insert_with(|| next.first_reads(member, self.members)).ask();
                    if !self.barrier.meet(ask) {
                        return;
                    }
                }
            }
        }));
        if let Err(cause) = outcome {
            let text = cause.downcast_ref::<String>().map(String::as_str);
            let text = text.or_else(|| cause.downcast_ref::<&str>().copied()).unwrap_or("no message").to_owned();
            self.failure.lock().unwrap_or_else(PoisonError::into_inner).get_or_insert((member, text));
            self.barrier.poison();
        }
    }

    fn follow(&self, member: usize) {
        let mut seen = 0;
        loop {
            self.jobs.wait(seen);
            seen = seen.wrapping_add(1);
            if self.stop.load(SeqCst) {
                return;
            }
            // SAFETY: `run` keeps the list borrowed until every worker has counted itself out of `busy`.
            let list = unsafe { std::slice::from_raw_parts(self.list.load(Acquire), self.len.load(Acquire)) };
            self.work(list, member);
            if self.busy.fetch_sub(1, SeqCst) == 1 {
                self.done.advance();
            }
        }
    }
}

/// Threads that run launches together. The thread that calls [`Team::run`] is member 0.
#[derive(Debug)]
pub struct Team {
    shared: Arc<Shared>,
    workers: Vec<std::thread::JoinHandle<()>>,
    /// Processors of the members, the caller's first; empty when there are fewer processors than members.
    cpus: Vec<usize>,
}

impl Team {
    /// Starts `members - 1` threads (at most [`MAX_TEAM`] members). When every member can have a core of its own, each
    /// started thread stays on one; the caller's thread is only moved off those cores when a run finds it there.
    ///
    /// # Errors
    /// [`Error::System`] when a thread cannot be started.
    pub fn new(members: usize) -> Result<Self> {
        let members = members.clamp(1, MAX_TEAM);
        let shared = Arc::new(Shared {
            jobs: Gate::default(),
            list: AtomicPtr::new(NonNull::dangling().as_ptr()),
            len: AtomicUsize::new(0),
            barrier: Barrier::new(u32::try_from(members).expect("at most MAX_TEAM")),
            busy: AtomicU32::new(0),
            done: Gate::default(),
            stop: AtomicBool::new(false),
            failure: Mutex::new(None),
            members,
        });
        let mut cpus = allowed_cpus();
        if members > cpus.len() {
            cpus.clear();
        }
        cpus.truncate(members);
        let mut team = Self { shared, workers: Vec::new(), cpus };
        for member in 1..members {
            let shared = Arc::clone(&team.shared);
            let cpu = team.cpus.get(member).copied();
            let spawned = std::thread::Builder::new().name(format!("team-{member}")).spawn(move || {
                if let Some(cpu) = cpu {
                    restrict(&[cpu]);
                }
                shared.follow(member);
            });
            match spawned {
                Ok(handle) => team.workers.push(handle),
                // Dropping the unfinished team stops the threads that did start.
                Err(cause) => return Err(Error::System { what: "a thread of the team", bytes: 0, cause }),
            }
        }
        Ok(team)
    }

    /// Number of members, the caller included.
    #[must_use]
    pub fn members(&self) -> usize {
        self.shared.members
    }

    /// Runs a list of launches, all members each of them, one launch after the other. Returns when all are done.
    ///
    /// # Errors
    /// [`Error::Team`] when a member panicked, now or before. The team is of no use then; make a new one.
    pub fn run(&mut self, list: &[Launch]) -> Result<()> {
        let shared = &*self.shared;
        if !list.is_empty() && !shared.barrier.is_poisoned() {
            self.step_aside();
            let done = shared.done.now();
            if shared.members > 1 {
                shared.list.store(list.as_ptr().cast_mut(), Release);
                shared.len.store(list.len(), Release);
                shared.busy.store(u32::try_from(shared.members - 1).expect("at most MAX_TEAM"), Relaxed);
                shared.jobs.advance();
            }
            shared.work(list, 0);
            if shared.members > 1 {
                shared.done.wait(done);
            }
        }
        match &*shared.failure.lock().unwrap_or_else(PoisonError::into_inner) {
            None => Ok(()),
            Some((member, cause)) => Err(Error::Team { member: *member, cause: cause.clone() }),
        }
    }

    /// Seconds that a line of memory needs from the caller's core to another member's and back, the longest of all members;
    /// `None` in a team of one. It tells cores that share a cache, and with it often their way to the memory, from cores that
    /// do not: the host of a virtual machine may move its processors from the one to the other at any time.
    ///
    /// # Errors
    /// [`Error::Team`] as [`Team::run`].
    pub fn round_trip(&mut self) -> Result<Option<f64>> {
        let mut longest = None;
        for partner in 1..self.members() {
            let mut shortest = f64::MAX;
            // The first run may have to wake the partner. Members that take turns on one core are timed once: each exchange
            // takes them a turn.
            for _ in 0..if self.cpus.is_empty() { 1 } else { 4 } {
                let gates = Rally::default();
                let args = vec![(&raw const gates) as u64, partner as u64];
                let list = [Launch::new(Function::native(rally), args)];
                let start = Instant::now();
                self.run(&list)?;
                shortest = shortest.min(start.elapsed().as_secs_f64() / f64::from(ROUND_TRIPS));
            }
            longest = Some(shortest.max(longest.unwrap_or(0.0)));
        }
        Ok(longest)
    }

    /// Moves the caller's thread off a worker's processor: the two would take turns on it while another one idles. The
    /// thread may go anywhere afterwards, so that processes it starts are not tied to one core.
    fn step_aside(&self) {
        let [home, workers @ ..] = &self.cpus[..] else { return };
        // SAFETY: no arguments; a negative answer means that the system does not tell.
        let now = unsafe { libc::sched_getcpu() };
        if usize::try_from(now).is_ok_and(|cpu| workers.contains(&cpu)) {
            let allowed = allowed_cpus();
            restrict(&[*home]);
            restrict(&allowed);
        }
    }
}

impl Drop for Team {
    fn drop(&mut self) {
        self.shared.stop.store(true, SeqCst);
        self.shared.jobs.advance();
        for worker in self.workers.drain(..) {
            // A worker's panic was caught in `work` and reported by `run`.
            let _ = worker.join();
        }
    }
}

/// Round trips that are timed together.
const ROUND_TRIPS: u32 = 500;

/// Gates that two members open for each other in turn.
#[derive(Debug, Default)]
struct Rally {
    there: Gate,
    back: Gate,
}

/// Member 0 and the member `args[1]` answer each other.
///
/// # Safety
/// `args[0]` is the address of a new [`Rally`] that outlives the launch.
unsafe extern "C-unwind" fn rally(args: *const u64, member: i64, _team: i64) {
    // SAFETY: the caller promises two words and what they are.
    let (gates, partner) = unsafe { (&*(*args as *const Rally), (*args.add(1)).cast_signed()) };
    for turn in 0..ROUND_TRIPS {
        if member == 0 {
            gates.there.advance();
            gates.back.wait(turn);
        } else if member == partner {
            gates.there.wait(turn);
            gates.back.advance();
        }
    }
}

/// The processors this thread may run on, rising; empty when the system does not tell.
#[must_use]
pub fn allowed_cpus() -> Vec<usize> {
    // SAFETY: plain data; all zeros is an empty set.
    let mut set: libc::cpu_set_t = unsafe { std::mem::zeroed() };
    // SAFETY: the pointer and the size describe `set`.
    let failed = unsafe { libc::sched_getaffinity(0, size_of::<libc::cpu_set_t>(), &raw mut set) != 0 };
    if failed {
        return Vec::new();
    }
    let count = 8 * size_of::<libc::cpu_set_t>();
    // SAFETY: every index is below the number of bits of the set.
    (0..count).filter(|cpu| unsafe { libc::CPU_ISSET(*cpu, &set) }).collect()
}

/// Keeps this thread on some processors; a refusal changes nothing but speed.
fn restrict(cpus: &[usize]) {
    // SAFETY: plain data, indices taken from such a set, and a pointer with its size.
    unsafe {
        let mut set: libc::cpu_set_t = std::mem::zeroed();
        for cpu in cpus {
            libc::CPU_SET(*cpu, &mut set);
        }
        libc::sched_setaffinity(0, size_of::<libc::cpu_set_t>(), &raw const set);
    }
}

/// Runs `f` compiled for the widest vectors of this machine, as far as it is inlined; the results are the same bits.
#[inline(always)]
pub fn widest<R>(f: impl FnOnce() -> R) -> R {
    #[cfg(target_arch = "x86_64")]
    {
        #[target_feature(enable = "avx2")]
        fn avx2<R>(f: impl FnOnce() -> R) -> R {
            f()
        }
        #[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq")]
        fn avx512<R>(f: impl FnOnce() -> R) -> R {
            f()
        }
        let isa = super::probe::isa();
        if isa.avx512 {
            // SAFETY: the machine has what the function was compiled for.
            return unsafe { avx512(f) };
        }
        if isa.avx2 {
            // SAFETY: as above.
            return unsafe { avx2(f) };
        }
    }
    f()
}

/// Sleeps while `word` is `old`; may return early.
pub(super) fn futex_wait(word: &AtomicU32, old: u32) {
    // SAFETY: the address is that of a live, aligned 32-bit word; no timeout.
    unsafe {
        libc::syscall(
            libc::SYS_futex,
            word.as_ptr(),
            libc::FUTEX_WAIT | libc::FUTEX_PRIVATE_FLAG,
            old,
            std::ptr::null::<libc::timespec>(),
        );
    }
}

/// Wakes all that sleep on `word`.
pub(super) fn futex_wake(word: &AtomicU32) {
    // SAFETY: as `futex_wait`.
    unsafe { libc::syscall(libc::SYS_futex, word.as_ptr(), libc::FUTEX_WAKE | libc::FUTEX_PRIVATE_FLAG, i32::MAX) };
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    /// `buf[tid] += 1`, then checks that the launch before was complete: args are the buffer's address and the round.
    unsafe extern "C-unwind" fn count(args: *const u64, tid: i64, team: i64) {
        // SAFETY: the tests pass the address of one counter per member and a round.
        let (counters, round) = unsafe { (*args as *const AtomicU32, *args.add(1)) };
        for member in 0..team {
            // SAFETY: as above.
            let seen = unsafe { &*counters.offset(member as isize) }.load(SeqCst);
            assert!(u64::from(seen) == round || u64::from(seen) == round + 1, "member {member} is in round {seen}");
        }
        // SAFETY: as above.
        unsafe { &*counters.offset(tid as isize) }.fetch_add(1, SeqCst);
    }

    unsafe extern "C-unwind" fn fail(args: *const u64, tid: i64, _team: i64) {
        // SAFETY: the test passes one word.
        if tid as u64 == unsafe { *args } {
            panic!("member {tid} gives up");
        }
    }

    unsafe extern "C-unwind" fn stall(_args: *const u64, tid: i64, _team: i64) {
        if tid == 1 {
            std::thread::sleep(Duration::from_millis(30));
        }
    }

    #[test]
    fn launches_run_in_order_with_a_barrier() {
        for members in [1, 2, 5] {
            let mut team = Team::new(members).expect("threads start");
            let mut region = Region::new(4096).expect("memory");
            region.bytes_mut().fill(0);
            let rounds = 300;
            let list: Vec<Launch> =
                (0..rounds).map(|r| Launch::new(Function::native(count), vec![region.address(), r])).collect();
            team.run(&list).expect("no member panics");
            team.run(&[]).expect("nothing to do");
            let counters = &region.i32s_mut()[..members];
            assert!(counters.iter().all(|c| u64::from(c.unsigned_abs()) == rounds));
        }
    }

    #[test]
    fn a_panic_poisons_the_team_and_nobody_hangs() {
        for failing in 0..3_u64 {
            let mut team = Team::new(3).expect("threads start");
            let mut region = Region::new(4096).expect("memory");
            let ok = Launch::new(Function::native(count), vec![region.address(), 0]);
            let bad = Launch::new(Function::native(fail), vec![failing]);
            let error = team.run(&[ok.clone(), bad, ok.clone()]).expect_err("a member panicked");
            assert!(matches!(&error, Error::Team { member, .. } if *member as u64 == failing), "{error}");
            assert!(error.to_string().contains("gives up"), "{error}");
            assert!(team.run(&[ok]).is_err(), "a poisoned team stays poisoned");
            assert_eq!(region.i32s_mut()[..3], [1, 1, 1]);
        }
    }

    #[test]
    fn a_line_takes_time_to_another_core_and_back() {
        assert_eq!(Team::new(1).expect("no threads").round_trip().expect("alone"), None);
        for members in [2, 5] {
            let mut team = Team::new(members).expect("threads start");
            let seconds = team.round_trip().expect("no member panics").expect("two members at least");
            // Nothing crosses a chip in a nanosecond; members that share a core wait for turns on it.
            assert!((1e-9..1.0).contains(&seconds), "{members} members: {seconds} s");
        }
    }

    #[test]
    fn a_waiting_member_asks_for_the_beginning_of_its_part() {
        let launch = Launch::new(Function::native(stall), vec![]);
        assert_eq!(launch.first_reads(1, 2), Lines { next: 0, end: 0 }, "nothing is divided");
        let part = |address, unit_bytes, units| Divided { address, unit_bytes, units };
        let launch = launch.dividing(vec![part(4096, 1024, 3), part(1 << 20, 8192, 76)]);
        assert_eq!(launch.first_reads(0, 2), Lines { next: 4096, end: 4096 + (3 << 10) });
        // 79 units: the second member begins at unit 39, which is 36 of the second part.
        let second = (1 << 20) + 36 * 8192;
        assert_eq!(launch.first_reads(1, 2), Lines { next: second, end: second + WAITING });
        let last = (1 << 20) + 75 * 8192;
        assert_eq!(launch.first_reads(78, 79), Lines { next: last, end: last + 8192 }, "not behind the end");
        let mut lines = Lines { next: 64, end: 400 };
        lines.ask();
        assert_eq!(lines.next, 320);
        lines.ask();
        lines.ask();
        assert_eq!(lines.next, 448, "no line behind the end");
    }

    #[test]
    fn a_stalled_member_is_waited_for() {
        let mut team = Team::new(2).expect("threads start");
        let list = vec![Launch::new(Function::native(stall), vec![]); 2];
        let start = Instant::now();
        team.run(&list).expect("no member panics");
        assert!(start.elapsed() >= Duration::from_millis(60));
    }

    /// `ret` and a copy of it: the smallest kernels.
    fn tiny() -> Code {
        Code { symbols: vec![("first".into(), 0), ("last".into(), 4095)], bytes: vec![0xC3; 4096] }
    }

    #[test]
    fn images_are_never_writable_and_executable_and_do_not_leak() {
        let rwx = || {
            let maps = std::fs::read_to_string("/proc/self/maps").expect("maps");
            (maps.lines().filter(|l| l.split(' ').nth(1) == Some("rwxp")).count(), maps.lines().count())
        };
        let before = rwx();
        for _ in 0..2000 {
            let image = Image::load(&tiny()).expect("loads");
            for name in ["first", "last"] {
                Team::new(1)
                    .expect("no threads")
                    .run(&[Launch::new(image.function(name).expect("there"), vec![])])
                    .expect("runs");
            }
            assert!(image.function("other").is_err_and(|e| e.to_string().contains("`other`")));
        }
        let after = rwx();
        assert_eq!(after.0, 0);
        assert!(after.1 < before.1 + 50, "{before:?} {after:?}");
        let wild = Code { symbols: vec![("k".into(), 9)], bytes: vec![0; 9] };
        assert!(matches!(Image::load(&wild), Err(Error::Code { .. })));
    }

    /// Pages of the first `bytes` bytes that are in memory.
    fn present(region: &Region, bytes: usize) -> usize {
        let mut pages = vec![0_u8; bytes.div_ceil(4096)];
        // SAFETY: the region is mapped, and there is a byte for each of its pages.
        let failed = unsafe { libc::mincore(region.address() as *mut libc::c_void, bytes, pages.as_mut_ptr()) };
        assert_eq!(failed, 0, "{}", std::io::Error::last_os_error());
        pages.iter().filter(|p| **p & 1 == 1).count()
    }

    #[test]
    fn populated_memory_is_there_and_unchanged() {
        for bytes in [3 << 12, 9 << 20] {
            let mut region = Region::new(bytes).expect("memory");
            region.bytes_mut()[1] = 7;
            for part in [bytes / 2, usize::MAX] {
                let given = region.populate(part);
                let (pages, least) = (present(&region, bytes), part.min(bytes) / 4096);
                assert!(!given || (least..=bytes / 4096).contains(&pages), "{pages} pages of {bytes} bytes");
            }
            assert_eq!(region.bytes().iter().map(|b| u64::from(*b)).sum::<u64>(), 7);
        }
    }

    #[test]
    fn regions_are_zero_and_large_ones_cost_nothing() {
        let region = Region::new(100).expect("memory");
        assert!(region.bytes().iter().all(|b| *b == 0) && region.bytes().len() == 100);
        // Far more than the machine has: only what is touched counts.
        let mut large = Region::new(1 << 40).expect("address space");
        assert_eq!(large.address() % HUGE as u64, 0);
        *large.bytes_mut().last_mut().expect("not empty") = 7;
        assert!(matches!(Region::new(usize::MAX), Err(Error::System { .. })));
    }
}
