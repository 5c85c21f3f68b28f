//! What this machine can do at most: bytes read per second in order and in scattered pieces, alone and with attention's products
//! beside them, and products of bytes, of f32 and of bf16 per second, on the threads given.
//!
//! Takes threads, an ISA, working sets and pieces in bytes, and counts of queries; returns rates for shares of a roof. The
//! loops are kernels of the Kernel IR through a real back end, so a roof is what generated code could reach, not what another
//! compiler's loop does; but for bf16, which the Kernel IR has not. Several shapes of each of them are tried and the fastest run
//! of the fastest shape counts: a roof is a bound, and neighbours on a shared machine only ever lower it. Buffers are random
//! (identical pages are read from one copy), accumulators distinct. Matrix extensions (AMX, the tiles of the Kernel IR) are not
//! measured.

mod kernels;

use crate::cache::Cache;
use crate::synthetic::Random;
use anyhow::{Context as _, Result, bail};
use codegen::Backend;
use ir::kernel::Kernel;
use ir::schedule::KvFormat;
use ir::target::Isa;
use kernels::{AHEAD, Arithmetic, BYTE_LINES, Factors, MOST_QUERIES, PIECE, Requests, STEPS, Work};
use runtime::device::cpu::{Function, Image, Launch, Region, Team};
use runtime::device::extensions::{BF16_PRODUCTS, bf16_products};
use runtime::device::probe;
use std::time::Instant;

/// Seconds that a working set is read by each kernel.
const READING: f64 = 0.33;
/// The same of each of the kernels that also multiply: they are many.
const ATTENDING: f64 = 0.12;
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
    /// The shortest and the longest [`Team::round_trip`] before, between and after the passes of the kernels; none on one thread.
    pub round_trips: Option<[f64; 2]>,
}

/// Rate of reading one working set in pieces of one size, each once, in random order.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Scattered {
    /// Bytes of a piece.
    pub piece: u64,
    /// The rate.
    pub read: Read,
}

/// Rate of reading one working set as keys and values, each element multiplied and added for every query of its KV head:
/// attention without its choice of what to read, its exponentials and its partial states.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Attended {
    /// Format of keys and values.
    pub kv: KvFormat,
    /// Queries of a KV head.
    pub queries: u32,
    /// Bytes of a scattered piece; none where the set is read in order.
    pub piece: Option<u64>,
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
    /// Reading with products beside it, by working set, format, count of queries, in order and then by piece.
    pub attended: Vec<Attended>,
    /// Products of unsigned and signed bytes, summed, per second.
    pub int8_macs: f64,
    /// The same in blocks of 32 with a scale of the row and a scale of the weights.
    pub int8_scaled_macs: f64,
    /// The same in blocks of 32 with scales and minima.
    pub int8_scaled_min_macs: f64,
    /// Fused multiply-adds of f32 per second.
    pub f32_macs: f64,
    /// Products of bf16, summed in f32, per second; none where the processor or the ISA has no such products. No kernel computes
    /// in them: the rate is there to be compared.
    pub bf16_macs: Option<f64>,
}

/// What is measured of reading.
#[derive(Clone, Copy, Debug, Default)]
pub struct Sets<'a> {
    /// Working sets, bytes, from 1 MiB to half of the memory; rounded up to multiples of 64 KiB.
    pub bytes: &'a [u64],
    /// Scattered pieces, bytes: powers of two from 64 bytes to 64 KiB.
    pub pieces: &'a [u64],
    /// Queries of a KV head for which what is read is multiplied, 1 to 28.
    pub queries: &'a [u32],
}

/// Measures.
///
/// # Errors
/// When a working set, a piece or a count of queries is none that [`Sets`] allows, the kernels cannot be compiled, or threads are
/// refused.
pub fn measure(threads: u32, isa: Isa, backend: Backend, cache: Option<&Cache>, sets: Sets) -> Result<Roofs> {
    let most = probe::probe().total_memory / 2;
    if let Some(bad) = sets.bytes.iter().find(|s| !(LEAST..=most).contains(*s)) {
        bail!("--bytes {bad}: a working set has {LEAST} to {most} bytes here");
    }
    let largest = PIECE.unsigned_abs();
    if let Some(bad) = sets.pieces.iter().find(|p| !(p.is_power_of_two() && (LEAST_PIECE..=largest).contains(*p))) {
        bail!("--pieces {bad}: a piece has a power of two from {LEAST_PIECE} to {largest} bytes");
    }
    if let Some(bad) = sets.queries.iter().find(|q| !(1..=MOST_QUERIES).contains(&i64::from(**q))) {
        bail!("--queries {bad}: a loop has products for 1 to {MOST_QUERIES} queries");
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
    let bf16_macs = match bf16_products().filter(|_| isa.avx512) {
        Some(function) => {
            let seconds = products(&mut team, &function, &operands, &mut out, threads)?;
            #[allow(clippy::cast_precision_loss, reason = "small counts")]
            let macs = BF16_PRODUCTS as f64 * f64::from(threads);
            Some(macs / seconds)
        }
        None => None,
    };
    let sizes = rising(sets.bytes.iter().map(|s| s.next_multiple_of(largest)));
    let (mut read, mut scattered, mut attended) = (Vec::new(), Vec::new(), Vec::new());
    if let Some(largest) = sizes.last() {
        let reader = Reader::new(*largest, threads, isa, backend, cache)?;
        let pieces = rising(sets.pieces.iter().copied());
        let by_piece = pieces
            .iter()
            .map(|&piece| Ok((piece, compiled(&scattered_kernels(&[Work::Sum], piece)?, isa, backend, cache)?)))
            .collect::<Result<Vec<_>>>()?;
        let with_products = attending(&sets, &pieces, |kernels| compiled(kernels, isa, backend, cache))?;
        for bytes in &sizes {
            read.push(reader.read(&mut team, *bytes, READING)?);
            for (piece, kernels) in &by_piece {
                let read = reader.read_with(kernels, &mut team, *bytes, Some(*piece), READING)?;
                scattered.push(Scattered { piece: *piece, read });
            }
            for (of, kernels) in &with_products {
                let read = reader.read_with(kernels, &mut team, *bytes, of.piece, ATTENDING)?;
                attended.push(Attended { read, ..*of });
            }
        }
    }
    Ok(Roofs { read, scattered, attended, int8_macs, int8_scaled_macs, int8_scaled_min_macs, f32_macs, bf16_macs })
}

/// The loops with products for everything that is asked for, each with its rate still at none.
fn attending(
    sets: &Sets,
    pieces: &[u64],
    compiled: impl Fn(&[Kernel]) -> Result<Vec<Function>>,
) -> Result<Vec<(Attended, Vec<Function>)>> {
    let none = Read { bytes: 0, best: 0.0, median: 0.0, round_trips: None };
    let mut all = Vec::new();
    for kv in [KvFormat::F16, KvFormat::Int8] {
        for queries in rising(sets.queries.iter().copied()) {
            let of = Attended { kv, queries, piece: None, read: none };
            let loops = Work::attending(kv, queries.into(), PIECE);
            all.push((of, compiled(&loops.into_iter().flat_map(reading_kernels).collect::<Vec<_>>())?));
            for &piece in pieces {
                let loops = Work::attending(kv, queries.into(), i64::try_from(piece)?);
                all.push((Attended { piece: Some(piece), ..of }, compiled(&scattered_kernels(&loops, piece)?)?));
            }
        }
    }
    Ok(all)
}

/// Without repetitions, in rising order.
fn rising<T: Ord>(sizes: impl Iterator<Item = T>) -> Vec<T> {
    let mut sizes: Vec<T> = sizes.collect();
    sizes.sort_unstable();
    sizes.dedup();
    sizes
}

/// Machine code of kernels, in their order.
fn compiled(kernels: &[Kernel], isa: Isa, backend: Backend, cache: Option<&Cache>) -> Result<Vec<Function>> {
    let image = Image::load(&crate::machine_code(kernels, isa, backend, cache)?)?;
    Ok(kernels.iter().map(|kernel| image.function(&kernel.name)).collect::<Result<_, _>>()?)
}

/// The variants of a kernel that reads in the order of addresses.
fn reading_kernels(work: Work) -> [Kernel; AHEAD.len()] {
    AHEAD.map(|ahead| kernels::reading(work, ahead))
}

/// The variants of the kernels that read pieces of so many bytes.
fn scattered_kernels(loops: &[Work], piece: u64) -> Result<Vec<Kernel>> {
    let piece = i64::try_from(piece)?;
    let variants =
        |work: Work| Requests::of(piece).into_iter().map(move |requests| kernels::scattered(work, piece, &requests));
    Ok(loops.iter().copied().flat_map(variants).collect())
}

/// The numbers of the pieces of a working set in random order, 32 bits each, and behind them as many zeros as a kernel looks
/// ahead.
fn shuffled(bytes: u64, piece: u64) -> Result<Region> {
    let numbers = i32::try_from(bytes / piece)
        .with_context(|| format!("--pieces {piece}: {bytes} bytes have more such pieces than can be numbered"))?;
    let count = usize::try_from(numbers)?;
    let requests = Requests::of(i64::try_from(piece)?);
    let ahead = usize::try_from(requests.into_iter().flat_map(|requests| requests.ahead).max().unwrap_or(0))?;
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

/// A buffer of random halves between 1/8 and 1/4, of either sign, and the kernels that read it.
pub(crate) struct Reader {
    kernels: Vec<Function>,
    buffer: Region,
    operands: Region,
    out: Region,
}

impl Reader {
    /// A buffer of `largest` bytes, rounded up to whole pieces, for teams of at most `threads`.
    ///
    /// # Errors
    /// When memory is refused or the kernels cannot be compiled.
    pub(crate) fn new(largest: u64, threads: u32, isa: Isa, backend: Backend, cache: Option<&Cache>) -> Result<Self> {
        let kernels = compiled(&reading_kernels(Work::Sum), isa, backend, cache)?;
        let mut buffer = Region::new(usize::try_from(largest.next_multiple_of(PIECE.unsigned_abs()))?)?;
        let mut random = Random(0x9E37_79B9_7F4A_7C15);
        for word in buffer.i64s_mut() {
            *word = (random.next() & 0x83FF_83FF_83FF_83FF | 0x3000_3000_3000_3000).cast_signed();
        }
        Ok(Self { kernels, buffer, operands: operands()?, out: Region::new(64 * threads as usize)? })
    }

    /// Reads the first `bytes`, a multiple of 64 KiB, with every kernel for so many seconds.
    ///
    /// # Errors
    /// When a thread of the team is lost.
    pub(crate) fn read(&self, team: &mut Team, bytes: u64, seconds: f64) -> Result<Read> {
        self.read_with(&self.kernels, team, bytes, None, seconds)
    }

    /// The same with these kernels, where there is a piece in pieces of so many bytes in random order.
    fn read_with(
        &self,
        kernels: &[Function],
        team: &mut Team,
        bytes: u64,
        piece: Option<u64>,
        seconds: f64,
    ) -> Result<Read> {
        let table = piece.map(|piece| shuffled(bytes, piece)).transpose()?;
        let args = self.args(bytes, table.as_ref().map_or(0, Region::address));
        fastest(team, kernels, &args, bytes, seconds)
    }

    /// Arguments of every kernel that reads.
    fn args(&self, bytes: u64, table: u64) -> [u64; 5] {
        let count = bytes / PIECE.unsigned_abs();
        [self.buffer.address(), self.out.address(), count, table, self.operands.address()]
    }
}

/// Passes over `bytes` with every kernel for so many seconds: the rate of the fastest kernel.
fn fastest(team: &mut Team, kernels: &[Function], args: &[u64], bytes: u64, seconds: f64) -> Result<Read> {
    let mut trips: Vec<f64> = team.round_trip()?.into_iter().collect();
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
        trips.extend(team.round_trip()?);
    }
    trips.sort_by(f64::total_cmp);
    let round_trips = trips.first().zip(trips.last()).map(|(shortest, longest)| [*shortest, *longest]);
    let least = |times: &mut dyn Iterator<Item = f64>| times.fold(f64::MAX, f64::min);
    #[allow(clippy::cast_precision_loss, reason = "sizes of memory are far below 2^53")]
    let size = bytes as f64;
    Ok(Read {
        bytes,
        best: size / least(&mut passes.iter().map(|p| p.0)),
        median: size / least(&mut passes.iter().map(|p| p.1)),
        round_trips,
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

    /// What the kernels leave on two threads of three pieces of `PIECE` bytes, each word of which is its number.
    struct Input {
        team: Team,
        buffer: Region,
        operands: Region,
    }

    impl Input {
        fn new(word: impl Fn(i64) -> i64) -> Self {
            let mut buffer = Region::new(3 << 16).expect("memory");
            for (i, place) in (0_i64..).zip(buffer.i64s_mut()) {
                *place = word(i);
            }
            Self { team: Team::new(2).expect("threads"), buffer, operands: operands().expect("memory") }
        }

        /// The output of each kernel.
        fn outputs(&mut self, kernels: &[Kernel], table: &Region) -> Vec<Region> {
            let (backend, isa) = (crate::default_backend(), probe::probe().isa);
            let functions = compiled(kernels, isa, backend, None).expect("code");
            let run = |function| {
                let out = Region::new(128).expect("memory");
                let args = [&self.buffer, &out].map(Region::address).into_iter().chain([3, table.address()]);
                let args = args.chain([self.operands.address()]).collect();
                self.team.run(&[Launch::new(function, args)]).expect("runs");
                out
            };
            functions.into_iter().map(run).collect()
        }
    }

    const BYTES: u64 = 3 << 16;

    #[test]
    fn every_word_is_read_once() {
        let mut input = Input::new(|i| i);
        let mut check = |kernels: &[Kernel], table: &Region| {
            for mut out in input.outputs(kernels, table) {
                let sum: i64 = out.i32s_mut().iter().map(|x| i64::from(*x)).sum();
                let words = 3 * 65536 / 8_i64;
                assert_eq!(sum, words * (words - 1) / 2);
            }
        };
        check(&reading_kernels(Work::Sum), &Region::new(64).expect("memory"));
        for piece in [64, 512, 1024, 65536] {
            let mut table = shuffled(BYTES, piece).expect("memory");
            check(&scattered_kernels(&[Work::Sum], piece).expect("small"), &table);
            let mut numbers = table.i32s_mut()[..usize::try_from(BYTES / piece).expect("small")].to_vec();
            assert!(piece > 1024 || !numbers.is_sorted());
            numbers.sort_unstable();
            assert!((0..).zip(numbers).all(|(expected, number)| expected == number));
        }
    }

    #[test]
    fn loops_that_attend_multiply_every_element_for_every_query() {
        // With all factors one, every query's sum is that of the elements: halves of 0.5, bytes of 3.
        for (kv, word, element) in
            [(KvFormat::F16, 0x3800_3800_3800_3800, 0.5), (KvFormat::Int8, 0x0303_0303_0303_0303, 3.0)]
        {
            let mut input = Input::new(|_| word);
            let bytes = usize::try_from(BYTE_LINES * 64).expect("small");
            input.operands.i64s_mut()[..bytes / 8].fill(0x0101_0101_0101_0101);
            input.operands.f32s_mut()[bytes / 4..].fill(1.0);
            let elements = f64::from(u32::try_from(BYTES / kv.element_bytes()).expect("small"));
            for queries in [1, 3, 7] {
                let loops = Work::attending(kv, queries, PIECE);
                let mut check = |kernels: &[Kernel], table: &Region| {
                    for mut out in input.outputs(kernels, table) {
                        let sum: f64 = match kv {
                            KvFormat::F16 => out.f32s_mut().iter().map(|x| f64::from(*x)).sum(),
                            KvFormat::Int8 => out.i32s_mut().iter().map(|x| f64::from(*x)).sum(),
                        };
                        assert_eq!(
                            sum,
                            elements * element * f64::from(i32::try_from(queries).expect("small")),
                            "{kv:?} {queries}"
                        );
                    }
                };
                let in_order: Vec<Kernel> = loops.iter().flat_map(|work| reading_kernels(*work)).collect();
                check(&in_order, &Region::new(64).expect("memory"));
                for piece in [64, 1024] {
                    let loops = Work::attending(kv, queries, i64::try_from(piece).expect("small"));
                    check(&scattered_kernels(&loops, piece).expect("small"), &shuffled(BYTES, piece).expect("memory"));
                }
            }
        }
    }

    #[test]
    fn rates_are_credible_and_sizes_checked() {
        let (backend, isa) = (crate::default_backend(), probe::probe().isa);
        let sets = Sets { bytes: &[LEAST + 1, LEAST], pieces: &[1024, 64], queries: &[3] };
        let roofs = measure(1, isa, backend, None, sets).expect("measured");
        assert_eq!(roofs.read.iter().map(|r| r.bytes).collect::<Vec<_>>(), [LEAST, LEAST + 65536]);
        assert!(roofs.read.iter().all(|r| r.best >= r.median && r.median > 1e7), "{roofs:?}");
        let pieces: Vec<_> = roofs.scattered.iter().map(|s| (s.read.bytes, s.piece)).collect();
        assert_eq!(pieces, [(LEAST, 64), (LEAST, 1024), (LEAST + 65536, 64), (LEAST + 65536, 1024)]);
        assert!(roofs.scattered.iter().all(|s| s.read.best >= s.read.median && s.read.median > 1e7), "{roofs:?}");
        let attended: Vec<_> = roofs.attended.iter().map(|a| (a.read.bytes, a.kv, a.queries, a.piece)).collect();
        let ways = |bytes| {
            let of = |kv| [None, Some(64), Some(1024)].map(|piece| (bytes, kv, 3, piece));
            [of(KvFormat::F16), of(KvFormat::Int8)].concat()
        };
        assert_eq!(attended, [ways(LEAST), ways(LEAST + 65536)].concat());
        assert!(roofs.attended.iter().all(|a| a.read.best >= a.read.median && a.read.median > 1e7), "{roofs:?}");
        // Not more than a CPU could do: 10 GHz, four operations of 64 products.
        assert!(roofs.int8_macs > 1e8 && roofs.int8_macs < 2.6e12, "{roofs:?}");
        assert!(roofs.f32_macs > 1e8 && roofs.f32_macs < 6.4e11, "{roofs:?}");
        for scaled in [roofs.int8_scaled_macs, roofs.int8_scaled_min_macs] {
            assert!(scaled > 1e8 && scaled < 2.6e12, "{roofs:?}");
        }
        let refused = |bytes: &[u64], pieces: &[u64], queries: &[u32]| {
            measure(1, isa, backend, None, Sets { bytes, pieces, queries }).is_err()
        };
        assert!(refused(&[1], &[], &[]) && refused(&[u64::MAX], &[], &[]));
        assert!(refused(&[LEAST], &[32], &[]) && refused(&[LEAST], &[96], &[]) && refused(&[LEAST], &[1 << 17], &[]));
        assert!(refused(&[LEAST], &[], &[0]) && refused(&[LEAST], &[], &[29]));
    }
}
