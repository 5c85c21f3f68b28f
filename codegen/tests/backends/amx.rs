//! AMX in tests: native where the processor and the system have it, else emulated from the signal of an illegal instruction.
//!
//! The emulator decodes the tile instructions of generated code (VEX forms of `ldtilecfg`, `sttilecfg`, `tilerelease`,
//! `tilezero`, `tileloadd`, `tileloaddt1`, `tilestored`, `tdpb[su][su]d`), performs them on tiles of the thread and goes
//! on behind them. It is as strict as the manual about what faults, and stricter where our kernels are: all eight tiles
//! have 16 rows of 64 bytes. Anything else that is illegal ends the process as it would have. What this cannot show:
//! speed, and that the system saves tiles between threads.

#![expect(unsafe_code, reason = "signal handlers and the memory of interrupted code are addresses")]

use std::cell::UnsafeCell;
use std::sync::OnceLock;

/// How tile instructions run here.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Tiles {
    /// By the processor.
    Native,
    /// By the handler of this file.
    Emulated,
}

/// Tile instructions that ran on a thread, by the emulator.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Count {
    pub(crate) configured: u64,
    pub(crate) released: u64,
    pub(crate) zeroed: u64,
    pub(crate) loaded: u64,
    pub(crate) stored: u64,
    pub(crate) products: u64,
}

struct State {
    configured: bool,
    tiles: [[u8; 1024]; 8],
    count: Count,
}

thread_local! {
    // Constant and without a destructor: the handler may use it on any thread, it never allocates.
    static STATE: UnsafeCell<State> = const {
        let count = Count { configured: 0, released: 0, zeroed: 0, loaded: 0, stored: 0, products: 0 };
        UnsafeCell::new(State { configured: false, tiles: [[0; 1024]; 8], count })
    };
}

/// Makes tile instructions work in this process, once.
pub(crate) fn enable() -> Tiles {
    static ENABLED: OnceLock<Tiles> = OnceLock::new();
    *ENABLED.get_or_init(|| {
        let has = |flag: &str| {
            let info = std::fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
            info.split_whitespace().any(|word| word == flag)
        };
        // SAFETY: ARCH_REQ_XCOMP_PERM for tile data; changes what this process may use, no memory.
        let permitted = || unsafe { libc::syscall(libc::SYS_arch_prctl, 0x1023, 18) } == 0;
        if has("amx_tile") && has("amx_int8") && permitted() {
            return Tiles::Native;
        }
        // SAFETY: the handler has the signature that SA_SIGINFO asks for and keeps to what handlers may do.
        unsafe {
            let mut action: libc::sigaction = std::mem::zeroed();
            action.sa_sigaction = illegal as *const () as usize;
            action.sa_flags = libc::SA_SIGINFO;
            assert_eq!(libc::sigaction(libc::SIGILL, &raw const action, std::ptr::null_mut()), 0);
        }
        Tiles::Emulated
    })
}

/// What ran on this thread so far, and whether tiles are configured now.
pub(crate) fn count() -> (Count, bool) {
    // SAFETY: the thread's own state; the handler runs on this thread only at illegal instructions, of which there are
    // none here.
    STATE.with(|state| unsafe { ((*state.get()).count, (*state.get()).configured) })
}

extern "C" fn illegal(_signal: libc::c_int, _info: *mut libc::siginfo_t, context: *mut libc::c_void) {
    // SAFETY: the system gives the interrupted thread's context to handlers with SA_SIGINFO.
    let context = unsafe { &mut *context.cast::<libc::ucontext_t>() };
    // SAFETY: the state of the thread that was interrupted, which was not inside this file.
    let done = STATE.with(|state| unsafe { step(&mut context.uc_mcontext.gregs, &mut *state.get()) });
    if done.is_none() {
        // SAFETY: both may be called in handlers. The instruction runs again and ends the process.
        unsafe {
            let text = "\nan illegal instruction, or a tile instruction used against its rules\n";
            libc::write(2, text.as_ptr().cast(), text.len());
            libc::signal(libc::SIGILL, libc::SIG_DFL);
        }
    }
}

/// Bytes of an instruction, read one after the other.
struct Fetch(*const u8);

impl Fetch {
    fn byte(&mut self) -> u8 {
        // SAFETY: the processor has fetched the instruction up to here, or decoding goes on inside one.
        unsafe {
            let byte = *self.0;
            self.0 = self.0.add(1);
            byte
        }
    }

    fn displacement(&mut self, wide: bool) -> i64 {
        if !wide {
            return i64::from(self.byte() as i8);
        }
        i64::from(i32::from_le_bytes([(); 4].map(|()| self.byte())))
    }
}

/// An operand in memory.
struct Operand {
    start: i64,
    /// Content of the index register times its scale; `None` without an SIB byte.
    stride: Option<i64>,
}

/// Where a register is in a signal context, by its number in instructions.
const PLACES: [i32; 16] = [
    libc::REG_RAX,
    libc::REG_RCX,
    libc::REG_RDX,
    libc::REG_RBX,
    libc::REG_RSP,
    libc::REG_RBP,
    libc::REG_RSI,
    libc::REG_RDI,
    libc::REG_R8,
    libc::REG_R9,
    libc::REG_R10,
    libc::REG_R11,
    libc::REG_R12,
    libc::REG_R13,
    libc::REG_R14,
    libc::REG_R15,
];

/// Performs the tile instruction at RIP; `None` when it is none or may not be done.
unsafe fn step(registers: &mut [i64; 23], state: &mut State) -> Option<()> {
    let rip = libc::REG_RIP as usize;
    let mut code = Fetch(registers[rip] as *const u8);
    let (vex, high, low, opcode) = (code.byte(), code.byte(), code.byte(), code.byte());
    // VEX of three bytes, map 0F38, W0, 128 bits.
    if vex != 0xC4 || high & 0x1F != 2 || low & 0x84 != 0 {
        return None;
    }
    let (prefix, vvvv) = (low & 3, !low >> 3 & 15);
    let (extend_reg, extend_index, extend_base) = (high & 0x80 == 0, high & 0x40 == 0, high & 0x20 == 0);
    let modrm = code.byte();
    let (mode, reg, rm) = (modrm >> 6, usize::from(modrm >> 3 & 7), usize::from(modrm & 7));
    if extend_reg || (opcode != 0x5E && vvvv != 0) {
        return None;
    }
    if mode == 3 {
        register_form(opcode, prefix, modrm, [reg, rm, usize::from(vvvv)], state)?;
    } else {
        let extend = |number: u8, more: bool| usize::from(number) | usize::from(more) << 3;
        let get = |number: usize| registers[PLACES[number] as usize];
        let mut stride = None;
        let mut base = Some(extend(rm as u8, extend_base));
        if rm == 4 {
            let sib = code.byte();
            let index = extend(sib >> 3 & 7, extend_index);
            stride = Some(if index == 4 { 0 } else { get(index) << (sib >> 6) });
            base = Some(extend(sib & 7, extend_base)).filter(|_| !(mode == 0 && sib & 7 == 5));
        } else if mode == 0 && rm == 5 {
            base = None;
        }
        let offset = if mode == 0 && base.is_some() { 0 } else { code.displacement(mode != 1) };
        let start = match base {
            Some(number) => get(number),
            None if rm == 4 => 0,
            None => code.0 as i64,
        };
        // SAFETY: the caller's.
        unsafe { memory_form(opcode, prefix, reg, &Operand { start: start.wrapping_add(offset), stride }, state)? };
    }
    registers[rip] = code.0 as i64;
    Some(())
}

/// `tilerelease`, `tilezero`, products.
fn register_form(opcode: u8, prefix: u8, modrm: u8, tiles: [usize; 3], state: &mut State) -> Option<()> {
    match (opcode, prefix) {
        (0x49, 0) if modrm == 0xC0 => {
            (state.configured, state.tiles) = (false, [[0; 1024]; 8]);
            state.count.released += 1;
        }
        (0x49, 3) if state.configured && modrm & 7 == 0 => {
            state.tiles[tiles[0]] = [0; 1024];
            state.count.zeroed += 1;
        }
        (0x5E, _) if state.configured => {
            let [acc, a, b] = tiles;
            if acc == a || acc == b || a == b || b > 7 {
                return None;
            }
            // Prefixes: none, 66, F3, F2.
            let (a_signed, b_signed) =
                [(false, false), (false, true), (true, false), (true, true)][usize::from(prefix)];
            let value = |byte: u8, signed| if signed { i32::from(byte as i8) } else { i32::from(byte) };
            let (left, right) = (state.tiles[a], state.tiles[b]);
            for m in 0..16 {
                for n in 0..16 {
                    let at = 64 * m + 4 * n;
                    let sum: &mut [u8; 4] = (&mut state.tiles[acc][at..at + 4]).try_into().ok()?;
                    let mut total = i32::from_le_bytes(*sum);
                    for k in 0..16 {
                        for i in 0..4 {
                            let (x, y) = (left[64 * m + 4 * k + i], right[64 * k + 4 * n + i]);
                            total = total.wrapping_add(value(x, a_signed) * value(y, b_signed));
                        }
                    }
                    *sum = total.to_le_bytes();
                }
            }
            state.count.products += 1;
        }
        _ => return None,
    }
    Some(())
}

/// `ldtilecfg`, `sttilecfg`, loads and stores.
unsafe fn memory_form(opcode: u8, prefix: u8, tile: usize, at: &Operand, state: &mut State) -> Option<()> {
    let mut shape = [0u8; 64];
    shape[0] = 1;
    for tile in 0..8 {
        (shape[16 + 2 * tile], shape[48 + tile]) = (64, 16);
    }
    match (opcode, prefix) {
        (0x49, 0) if tile == 0 => {
            // SAFETY: the interrupted code reads 64 bytes here.
            let given = unsafe { std::ptr::read_unaligned(at.start as *const [u8; 64]) };
            if given != shape {
                return None;
            }
            (state.configured, state.tiles) = (true, [[0; 1024]; 8]);
            state.count.configured += 1;
        }
        (0x49, 1) if tile == 0 => {
            let shape = if state.configured { shape } else { [0; 64] };
            // SAFETY: the interrupted code writes 64 bytes here.
            unsafe { std::ptr::write_unaligned(at.start as *mut [u8; 64], shape) };
        }
        (0x4B, 1..=3) if state.configured => {
            for row in 0..16 {
                let memory = at.start.wrapping_add(at.stride?.wrapping_mul(row)) as *mut u8;
                let row = &mut state.tiles[tile][64 * row as usize..][..64];
                // SAFETY: the interrupted code reads or writes the 64 bytes of every row.
                unsafe {
                    match prefix {
                        2 => std::ptr::copy_nonoverlapping(row.as_ptr(), memory, 64),
                        _ => std::ptr::copy_nonoverlapping(memory, row.as_mut_ptr(), 64),
                    }
                }
            }
            let count = if prefix == 2 { &mut state.count.stored } else { &mut state.count.loaded };
            *count += 1;
        }
        _ => return None,
    }
    Some(())
}
