//! What this machine can do at most: bytes read per second in order and in scattered pieces, products of bytes and of f32 per
//! second, on the threads given.
//!
//! Takes threads, an ISA, working sets and pieces in bytes; returns rates for shares of a roof. The loops are kernels of the
//! Kernel IR through a real back end, so a roof is what generated code could reach, not what another compiler's loop does.
//! Several shapes of each loop are tried and the fastest run of the fastest shape counts: a roof is a bound, and neighbours on
//! a shared machine only ever lower it. Buffers are random (identical pages are read from one copy), accumulators distinct.
//! Matrix extensions (AMX, the tiles of the Kernel IR) are not measured.

mod kernels;

use crate::cache::Cache;
use crate::synthetic::Random;
use anyhow::{Context as _, Result, bail};
use codegen::Backend;
use ir::kernel::Kernel;
use ir::target::Isa;
use kernels::{AHEAD, Arithmetic, BYTE_LINES, Factors, PIECE, STEPS, pieces_ahead};
use runtime::device::cpu::{Function, Image, Launch, Region, Team};
use runtime::device::probe;
use std::time::Instant;

/// Seconds that a working set is read by each kernel.
const READING: f64 = 0.33;
/// Smallest working set.
const LEAST: u64 = 1 << 20;
/// Smallest scattered piece: a line of the caches.
const LEAST_PIECE: u64 = 64;

/// Rate of reading one working set.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Read {
    /// Size of the working set, bytes.
    pub bytes: u64,
    /// Bytes per second of the fastest pass.
    pub best: f64,
    /// Bytes per second of the median pass.
    pub median: f64,
}

/// Rate of reading one working set in pieces of one size, each once, in random order.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Scattered {
    /// Bytes of a piece.
    pub piece: u64,
    /// The rate.
    pub read: Read,
}

/// Rates of all threads together.
#[derive(Clone, Debug, PartialEq)]
pub struct Roofs {
    /// Reading in the order of addresses, by working set in rising order.
    pub read: Vec<Read>,
    /// Reading scattered pieces, by working set, then by piece, in rising order.
    pub scattered: Vec<Scattered>,
    /// Products of unsigned and signed bytes, summed, per second.
    pub int8_macs: f64,
    /// The same in blocks of 32 with a scale of the row and a scale of the weights.
    pub int8_scaled_macs: f64,
    /// The same in blocks of 32 with scales and minima.
    pub int8_scaled_min_macs: f64,
    /// Fused multiply-adds of f32 per second.
    pub f32_macs: f64,
}

/// Measures. Working sets are rounded up to multiples of 64 KiB; `pieces` have a power of two from 64 bytes to 64 KiB.
///
/// # Errors
/// When a working set is below 1 MiB or above half of the memory, a piece has another size, the kernels cannot be compiled, or
/// threads are refused.
pub fn measure(
    threads: u32,
    isa: Isa,
    backend: Backend,
    cache: Option<&Cache>,
    sets: &[u64],
    pieces: &[u64],
) -> Result<Roofs> {
    let most = probe::probe().total_memory / 2;
    if let Some(bad) = sets.iter().find(|s| !(LEAST..=most).contains(*s)) {
        bail!("--bytes {bad}: a working set has {LEAST} to {most} bytes here");
    }
    let largest = PIECE.unsigned_abs();
    if let Some(bad) = pieces.iter().find(|p| !(p.is_power_of_two() && (LEAST_PIECE..=largest).contains(*p))) {
        bail!("--pieces {bad}: a piece has a power of two from {LEAST_PIECE} to {largest} bytes");
    }
    let mut team = Team::new(threads as usize)?;
    let kernels: Vec<Kernel> =
        Arithmetic::ALL.iter().flat_map(|what| what.shapes().iter().map(|shape| what.kernel(*shape))).collect();
    let image = Image::load(&crate::machine_code(&kernels, isa, backend, cache)?)?;
    let mut out = Region::new(64 * threads as usize)?;
    let operands = operands()?;
    let mut best = |what: Arithmetic| -> Result<f64> {
        let mut rate = 0.0_f64;
        for shape in what.shapes() {
            let function = image.function(&what.name(*shape))?;
            let seconds = products(&mut team, &function, &operands, &mut out, threads)?;
            #[allow(clippy::cast_precision_loss, reason = "small counts")]
            let macs = (shape.0 * shape.1) as f64 * (STEPS * what.macs()) as f64 * f64::from(threads);
            rate = rate.max(macs / seconds);
        }
        Ok(rate)
    };
    let (int8_macs, f32_macs) = (best(Arithmetic::Plain(Factors::Int8))?, best(Arithmetic::Plain(Factors::F32))?);
    let int8_scaled_macs = best(Arithmetic::Scaled { minima: false })?;
    let int8_scaled_min_macs = best(Arithmetic::Scaled { minima: true })?;
    let sizes = rising(sets.iter().map(|s| s.next_multiple_of(largest)));
    let (mut read, mut scattered) = (Vec::new(), Vec::new());
    if let Some(largest) = sizes.last() {
        let mut reader = Reader::new(*largest, threads, isa, backend, cache)?;
        let by_piece = rising(pieces.iter().copied())
            .into_iter()
            .map(|piece| Ok((piece, compiled(&scattered_kernels(piece)?, isa, backend, cache)?)))
            .collect::<Result<Vec<_>>>()?;
        for bytes in &sizes {
            read.push(reader.read(&mut team, *bytes, READING)?);
            for (piece, kernels) in &by_piece {
                let read = reader.scattered(&mut team, *bytes, *piece, kernels, READING)?;
                scattered.push(Scattered { piece: *piece, read });
            }
        }
    }
    Ok(Roofs { read, scattered, int8_macs, int8_scaled_macs, int8_scaled_min_macs, f32_macs })
}

/// Without repetitions, in rising order.
fn rising(sizes: impl Iterator<Item = u64>) -> Vec<u64> {
    let mut sizes: Vec<u64> = sizes.collect();
    sizes.sort_unstable();
    sizes.dedup();
    sizes
}

/// Machine code of kernels, in their order.
fn compiled(kernels: &[Kernel], isa: Isa, backend: Backend, cache: Option<&Cache>) -> Result<Vec<Function>> {
    let image = Image::load(&crate::machine_code(kernels, isa, backend, cache)?)?;
    Ok(kernels.iter().map(|kernel| image.function(&kernel.name)).collect::<Result<_, _>>()?)
}

/// The variants of the kernel that reads pieces of so many bytes.
fn scattered_kernels(piece: u64) -> Result<Vec<Kernel>> {
    let piece = i64::try_from(piece)?;
    Ok(pieces_ahead(piece).into_iter().map(|ahead| kernels::scattered(piece, ahead)).collect())
}

/// The numbers of the pieces of a working set in random order, 32 bits each, and behind them as many zeros as a kernel looks
/// ahead.
fn shuffled(bytes: u64, piece: u64) -> Result<Region> {
    let numbers = i32::try_from(bytes / piece)
        .with_context(|| format!("--pieces {piece}: {bytes} bytes have more such pieces than can be numbered"))?;
    let count = usize::try_from(numbers)?;
    let ahead = usize::try_from(pieces_ahead(i64::try_from(piece)?).into_iter().max().unwrap_or(0))?;
    let mut table = Region::new(4 * (count + ahead).next_multiple_of(16))?;
    let places = &mut table.i32s_mut()[..count];
    for (number, place) in (0..numbers).zip(places.iter_mut()) {
        *place = number;
    }
    let mut random = Random(0xD1B5_4A32_D192_ED03);
    for last in (1..count).rev() {
        places.swap(last, usize::try_from(random.next() % (last as u64 + 1))?);
    }
    Ok(table)
}

/// A buffer of random words and the kernels that read it.
pub(crate) struct Reader {
    kernels: Vec<Function>,
    buffer: Region,
    out: Region,
}

impl Reader {
    /// A buffer of `largest` bytes, rounded up to whole pieces, for teams of at most `threads`.
    ///
    /// # Errors
    /// When memory is refused or the kernels cannot be compiled.
    pub(crate) fn new(largest: u64, threads: u32, isa: Isa, backend: Backend, cache: Option<&Cache>) -> Result<Self> {
        let kernels = compiled(&AHEAD.map(kernels::reading), isa, backend, cache)?;
        let mut buffer = Region::new(usize::try_from(largest.next_multiple_of(PIECE.unsigned_abs()))?)?;
        let mut random = Random(0x9E37_79B9_7F4A_7C15);
        for word in buffer.i64s_mut() {
            *word = random.next().cast_signed();
        }
        Ok(Self { kernels, buffer, out: Region::new(64 * threads as usize)? })
    }

    /// Reads the first `bytes`, a multiple of 64 KiB, with every kernel for so many seconds.
    ///
    /// # Errors
    /// When a thread of the team is lost.
    pub(crate) fn read(&mut self, team: &mut Team, bytes: u64, seconds: f64) -> Result<Read> {
        let args = vec![self.buffer.address(), self.out.address(), bytes / PIECE.unsigned_abs()];
        fastest(team, &self.kernels, &args, bytes, seconds)
    }

    /// The same in pieces of `piece` bytes in random order, with kernels for that piece.
    fn scattered(
        &mut self,
        team: &mut Team,
        bytes: u64,
        piece: u64,
        kernels: &[Function],
        seconds: f64,
    ) -> Result<Read> {
        let table = shuffled(bytes, piece)?;
        let args = [self.buffer.address(), self.out.address(), bytes / PIECE.unsigned_abs(), table.address()];
        fastest(team, kernels, &args, bytes, seconds)
    }
}

/// Passes over `bytes` with every kernel for so many seconds: the rate of the fastest kernel.
fn fastest(team: &mut Team, kernels: &[Function], args: &[u64], bytes: u64, seconds: f64) -> Result<Read> {
    let mut passes = Vec::new();
    for kernel in kernels {
        let list = [Launch::new(kernel.clone(), args.to_vec())];
        team.run(&list)?;
        let begun = Instant::now();
        let mut of_kernel = Vec::new();
        while of_kernel.len() < 5 || begun.elapsed().as_secs_f64() < seconds {
            let start = Instant::now();
            team.run(&list)?;
            of_kernel.push(start.elapsed().as_secs_f64());
        }
        of_kernel.sort_by(f64::total_cmp);
        passes.push((of_kernel[0], of_kernel[of_kernel.len() / 2]));
    }
    let least = |times: &mut dyn Iterator<Item = f64>| times.fold(f64::MAX, f64::min);
    #[allow(clippy::cast_precision_loss, reason = "sizes of memory are far below 2^53")]
    let size = bytes as f64;
    Ok(Read {
        bytes,
        best: size / least(&mut passes.iter().map(|p| p.0)),
        median: size / least(&mut passes.iter().map(|p| p.1)),
    })
}

/// Seconds of the fastest of many calls of an arithmetic loop, each on every thread.
fn products(team: &mut Team, function: &Function, operands: &Region, out: &mut Region, threads: u32) -> Result<f64> {
    let args = vec![operands.address(), out.address(), u64::from(threads)];
    let list = [Launch::new(function.clone(), args)];
    let begun = Instant::now();
    let mut best = f64::MAX;
    while begun.elapsed().as_secs_f64() < 0.06 {
        let start = Instant::now();
        team.run(&list)?;
        best = best.min(start.elapsed().as_secs_f64());
    }
    Ok(best)
}

/// Random operands of the arithmetic loops: lines of bytes, then as many of floats of about ±0.1, far from denormal and from
/// infinite sums.
fn operands() -> Result<Region> {
    let bytes = usize::try_from(BYTE_LINES * 64)?;
    let mut region = Region::new(2 * bytes)?;
    let mut random = Random(0x2545_F491_4F6C_DD1D);
    region.i64s_mut()[..bytes / 8].iter_mut().for_each(|w| *w = random.next().cast_signed());
    region.f32s_mut()[bytes / 4..].iter_mut().for_each(|x| *x = random.small());
    Ok(region)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_word_is_read_once() {
        const BYTES: u64 = 3 << 16;
        let (backend, isa) = (crate::default_backend(), probe::probe().isa);
        let mut team = Team::new(2).expect("threads");
        let mut buffer = Region::new(3 << 16).expect("memory");
        for (i, word) in (0_i64..).zip(buffer.i64s_mut()) {
            *word = i;
        }
        let mut check = |kernels: &[Kernel], table: &Region| {
            for function in compiled(kernels, isa, backend, None).expect("code") {
                let mut out = Region::new(128).expect("memory");
                let args = vec![buffer.address(), out.address(), 3, table.address()];
                team.run(&[Launch::new(function, args)]).expect("runs");
                let sum: i64 = out.i32s_mut().iter().map(|x| i64::from(*x)).sum();
                let words = 3 * 65536 / 8_i64;
                assert_eq!(sum, words * (words - 1) / 2);
            }
        };
        check(&AHEAD.map(kernels::reading), &Region::new(64).expect("memory"));
        for piece in [64, 512, 1024, 65536] {
            let mut table = shuffled(BYTES, piece).expect("memory");
            check(&scattered_kernels(piece).expect("small"), &table);
            let mut numbers = table.i32s_mut()[..usize::try_from(BYTES / piece).expect("small")].to_vec();
            assert!(piece > 1024 || !numbers.is_sorted());
            numbers.sort_unstable();
            assert!((0..).zip(numbers).all(|(expected, number)| expected == number));
        }
    }

    #[test]
    fn rates_are_credible_and_sizes_checked() {
        let (backend, isa) = (crate::default_backend(), probe::probe().isa);
        let roofs = measure(1, isa, backend, None, &[LEAST + 1, LEAST], &[1024, 64]).expect("measured");
        assert_eq!(roofs.read.iter().map(|r| r.bytes).collect::<Vec<_>>(), [LEAST, LEAST + 65536]);
        assert!(roofs.read.iter().all(|r| r.best >= r.median && r.median > 1e7), "{roofs:?}");
        let pieces: Vec<_> = roofs.scattered.iter().map(|s| (s.read.bytes, s.piece)).collect();
        assert_eq!(pieces, [(LEAST, 64), (LEAST, 1024), (LEAST + 65536, 64), (LEAST + 65536, 1024)]);
        assert!(roofs.scattered.iter().all(|s| s.read.best >= s.read.median && s.read.median > 1e7), "{roofs:?}");
        // Not more than a CPU could do: 10 GHz, four operations of 64 products.
        assert!(roofs.int8_macs > 1e8 && roofs.int8_macs < 2.6e12, "{roofs:?}");
        assert!(roofs.f32_macs > 1e8 && roofs.f32_macs < 6.4e11, "{roofs:?}");
        for scaled in [roofs.int8_scaled_macs, roofs.int8_scaled_min_macs] {
            assert!(scaled > 1e8 && scaled < 2.6e12, "{roofs:?}");
        }
        let refused = |sets: &[u64], pieces: &[u64]| measure(1, isa, backend, None, sets, pieces).is_err();
        assert!(refused(&[1], &[]) && refused(&[u64::MAX], &[]));
        assert!(refused(&[LEAST], &[32]) && refused(&[LEAST], &[96]) && refused(&[LEAST], &[1 << 17]));
    }
}
