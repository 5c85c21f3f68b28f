//! A language model on this computer: compiled kernels over resident weights and a paged cache of keys and values.
//!
//! [`Loaded`] is what never changes (weights, code, program) and may be shared; [`LocalModel`] is one user's sequences,
//! buffers and threads. A step fills the tables that [`ir::program`] describes and runs the program's launches; it
//! chooses no kernel. What it does not do: tokenise, say how tokens are sampled, or decide what to run.

mod check;
mod draws;
mod profile;
mod work;

use crate::device::cpu::{Divided, Function, Image, Launch, Region, Team};
use crate::error::{Error, Result};
use crate::gguf::Gguf;
use crate::kv::{Edit, PageShape, Pool, Store, batches};
use crate::model::{Append, LanguageModel, ModelInfo, Row, SeqId, Wanted};
use crate::sample::{Choice, Draw};
use crate::{quant, weights};
use draws::Asked;
use ir::code::Code;
use ir::model::Model;
use ir::plan::PrefixMode;
use ir::program::{
    Arg, Buf, CHOICE_WORDS, DRAW_WORDS, EDIT_WORDS, FACT_WORDS, ITEM_WORDS, PAGE, PICK_WORDS, Program, STAT_BLOCK,
    STAT_WORDS, mask_bytes,
};
use ir::tensor::{DType, TILE_ROWS};
use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Instant;
use work::{Limits, Run, Work};

pub use profile::KernelTime;

/// Name of the embedding matrix.
const EMBEDDING: &str = "token_embd.weight";
/// Name of the optional divisors of rope frequencies, one per pair.
const ROPE_FACTORS: &str = "rope_freqs.weight";
/// Attention partials of a step at least; more let few long rows be cut finely.
const PARTIALS: usize = 4096;
/// Positions of the rope table that are computed together.
const ROPE_STEP: usize = 1024;
/// Bytes of each buffer, and of the keys and values, that are there before the first step: what a short run touches.
const FIRST_BUFFER: usize = 2 << 20;
const FIRST_KEYS: usize = 16 << 20;

fn program_error(place: impl Into<String>, cause: impl Into<String>) -> Error {
    Error::Program { place: place.into(), cause: cause.into() }
}

/// A model in memory: weights in their resident layout, machine code, the program.
#[derive(Debug)]
pub struct Loaded {
    gguf: Arc<Gguf>,
    model: Model,
    program: Program,
    functions: Vec<Function>,
    weights: Arc<Region>,
    offsets: Vec<u64>,
    embedding: DType,
    factors: Option<Vec<f32>>,
    /// Seconds that making the resident weights took.
    pub repack_seconds: f64,
}

impl Loaded {
    /// Maps the code and makes the resident weights with `threads` threads.
    ///
    /// # Errors
    /// [`Error::Program`] when program and model do not fit each other, [`Error::Code`] when a kernel is missing,
    /// [`Error::Weights`] when the file lacks a tensor, [`Error::System`] without memory.
    pub fn load(gguf: Arc<Gguf>, model: &Model, program: &Program, code: &Code, threads: usize) -> Result<Arc<Self>> {
        check::check(model, program)?;
        let image = Image::load(code)?;
        let functions = program.kernels.iter().map(|k| image.function(&k.name)).collect::<Result<Vec<_>>>()?;
        let embedding = match gguf.tensor(EMBEDDING) {
            Some(t) if t.shape == [u64::from(model.hidden), u64::from(model.vocab)] => t.dtype,
            found => {
                let found = found.map_or("none".to_owned(), |t| format!("shape {:?}", t.shape));
                let cause = format!("expected shape [{}, {}], found {found} in the file", model.hidden, model.vocab);
                return Err(program_error(format!("tensor `{EMBEDDING}`"), cause));
            }
        };
        let factors = rope_factors(&gguf, model)?;
        let mut sizes = Vec::with_capacity(program.weights.len());
        for w in &program.weights {
            let size =
                weights::bytes(w).ok_or_else(|| program_error(format!("weight `{}`", w.name), "its size is absurd"))?;
            sizes.push(size);
        }
        let total = sizes.iter().try_fold(0_usize, |sum, s| sum.checked_add(*s)).unwrap_or(usize::MAX);
        let mut memory = Region::new(total)?;
        let start = Instant::now();
        let (mut rest, mut parts, mut offsets, mut at) = (memory.bytes_mut(), Vec::new(), Vec::new(), 0);
        for size in sizes {
            let (part, tail) = rest.split_at_mut(size);
            parts.push(part);
            offsets.push(at);
            rest = tail;
            at += size as u64;
        }
        gguf.read_ahead();
        weights::load_all(&gguf, &program.weights, parts, threads.max(1))?;
        // Only the embedding is read again; what was copied need not be in memory twice.
        gguf.release_pages();
        let repack_seconds = start.elapsed().as_secs_f64();
        let (model, program) = (model.clone(), program.clone());
        Ok(Arc::new(Self {
            gguf,
            model,
            program,
            functions,
            weights: Arc::new(memory),
            offsets,
            embedding,
            factors,
            repack_seconds,
        }))
    }

    /// Another program of the same model on these resident weights; `None` when it wants other ones.
    ///
    /// # Errors
    /// As [`Loaded::load`], but for weights and memory.
    pub fn with_program(&self, program: &Program, code: &Code) -> Result<Option<Arc<Self>>> {
        if program.weights != self.program.weights {
            return Ok(None);
        }
        check::check(&self.model, program)?;
        let image = Image::load(code)?;
        let functions = program.kernels.iter().map(|k| image.function(&k.name)).collect::<Result<Vec<_>>>()?;
        Ok(Some(Arc::new(Self {
            gguf: self.gguf.clone(),
            model: self.model.clone(),
            program: program.clone(),
            functions,
            weights: self.weights.clone(),
            offsets: self.offsets.clone(),
            embedding: self.embedding,
            factors: self.factors.clone(),
            repack_seconds: 0.0,
        })))
    }

    /// Whether both read the same resident weights, not equal ones.
    #[must_use]
    pub fn shares_weights(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.weights, &other.weights)
    }

    /// Bytes of resident weights.
    #[must_use]
    pub fn weight_bytes(&self) -> u64 {
        self.weights.bytes().len() as u64
    }

    /// The model's shape.
    #[must_use]
    pub fn model(&self) -> &Model {
        &self.model
    }

    /// The file it was made from.
    #[must_use]
    pub fn gguf(&self) -> &Arc<Gguf> {
        &self.gguf
    }

    /// The forward program.
    #[must_use]
    pub fn program(&self) -> &Program {
        &self.program
    }
}

/// Reads the optional divisors of rope frequencies.
fn rope_factors(gguf: &Gguf, model: &Model) -> Result<Option<Vec<f32>>> {
    let Some((tensor, bytes)) = gguf.tensor(ROPE_FACTORS).zip(gguf.tensor_data(ROPE_FACTORS)) else { return Ok(None) };
    let fail = |cause: String| program_error(format!("tensor `{ROPE_FACTORS}`"), cause);
    let pairs = model.head_dim as usize / 2;
    if tensor.shape != [pairs as u64] {
        return Err(fail(format!("expected shape [{pairs}], found {:?} in the file", tensor.shape)));
    }
    let mut factors = vec![0.0; pairs];
    quant::dequantize_row(tensor.dtype, bytes, &mut factors).map_err(|e| fail(e.to_string()))?;
    match factors.iter().find(|f| !(f.is_finite() && **f > 0.0)) {
        Some(bad) => Err(fail(format!("a frequency divisor is {bad}"))),
        None => Ok(Some(factors)),
    }
}

fn page_shape(model: &Model, program: &Program, pages: usize) -> PageShape {
    PageShape {
        layers: model.layers as usize,
        kv_heads: model.kv_heads as usize,
        head_dim: model.head_dim as usize,
        format: program.kv,
        summaries: program.summary_bytes > 0,
        pages,
    }
}

/// f32 words of statistics per logits row.
fn stat_words(model: &Model) -> usize {
    (model.vocab as usize).div_ceil(STAT_BLOCK) * STAT_WORDS
}

/// What a user of a model may choose.
#[derive(Clone, Copy, Debug)]
pub struct Options {
    /// Threads of the team.
    pub threads: usize,
    /// KV pages; but for a first part, their memory is taken as it is used.
    pub kv_pages: u32,
}

/// Where the time went; seconds since the model was made.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Metrics {
    /// Runs of the forward launches.
    pub steps: u64,
    /// Rows they processed.
    pub rows: u64,
    /// Rows that wanted logits.
    pub head_rows: u64,
    /// Seconds of bookkeeping: pages, tables, embeddings.
    pub prepare_seconds: f64,
    /// Seconds in the forward launches.
    pub forward_seconds: f64,
    /// Tokens drawn.
    pub draws: u64,
    /// Seconds in the head launches.
    pub head_seconds: f64,
    /// Seconds in drawing tokens.
    pub sample_seconds: f64,
    /// Seconds in the caller's sink.
    pub sink_seconds: f64,
}

/// A model with its sequences.
#[derive(Debug)]
pub struct LocalModel {
    loaded: Arc<Loaded>,
    info: ModelInfo,
    prefix: PrefixMode,
    team: Team,
    pool: Pool,
    store: Store,
    buffers: BTreeMap<Buf, Region>,
    forward: Vec<Launch>,
    head: Vec<Launch>,
    sample: Vec<Launch>,
    fork: Vec<Launch>,
    limits: Limits,
    work: Work,
    rope_ready: usize,
    cancel: Option<Arc<AtomicBool>>,
    metrics: Metrics,
    /// What each kernel took, when asked for.
    profile: Option<Vec<KernelTime>>,
}

/// What becomes of rows: who looks at them, and the tokens chosen as the looker says, per append.
struct Out<'a> {
    look: &'a mut dyn FnMut(usize, usize, Row<'_>) -> Option<Draw>,
    choices: Vec<Option<Choice>>,
}

/// Tokens of one append that go into one step.
#[derive(Clone, Copy)]
struct Piece {
    append: usize,
    start: usize,
    rows: usize,
    together: bool,
}

impl LocalModel {
    /// Buffers, pages and threads for one user of a loaded model.
    ///
    /// # Errors
    /// [`Error::System`] when memory or threads are refused, [`Error::Program`] when buffers are absurdly large.
    pub fn new(loaded: Arc<Loaded>, options: &Options) -> Result<Self> {
        let (model, program) = (&loaded.model, &loaded.program);
        let team = Team::new(options.threads)?;
        let shape = page_shape(model, program, options.kv_pages as usize);
        let max_rows = program.max_rows as usize;
        let store = Store::new(shape)?;
        let limits = Limits {
            attend_rows: program.attend_rows as usize,
            max_partials: PARTIALS.max(2 * max_rows),
            threads: team.members(),
            pages: store.shape(),
            attention: program.attention,
        };
        let (buffers, stride) = buffers(&loaded, &limits)?;
        // Tiles that a launch gives to a thread as one.
        let bind = |launches: &[ir::program::Launch], tiles: u64| -> Vec<Launch> {
            let word = |arg: &Arg| match arg {
                Arg::Buf(buf) => buffers.get(buf).map_or(0, Region::address),
                Arg::Weight(w, offset) => loaded.weights.address() + loaded.offsets[*w as usize] + offset,
                Arg::Kv(layer, values) => store.address(*layer as usize, *values),
                Arg::Summary(layer) => store.summary(*layer as usize),
                Arg::ScratchStride => stride,
            };
            let matrix = |arg: &Arg| {
                let Arg::Weight(w, 0) = arg else { return None };
                let (all, bytes) = weights::tiles(&program.weights[*w as usize])?;
                Some(Divided { address: word(arg), unit_bytes: tiles * bytes, units: all.div_ceil(tiles) })
            };
            let one = |l: &ir::program::Launch| {
                let function = loaded.functions[l.kernel as usize].clone();
                let mut matrices: Vec<_> = l.args.iter().filter_map(matrix).collect();
                // Two are gate and up, which are read side by side and not one after the other.
                if matrices.len() == 2 {
                    matrices.pop();
                }
                Launch::new(function, l.args.iter().map(word).collect()).dividing(matrices)
            };
            launches.iter().map(one).collect()
        };
        let (forward, head) = (bind(&program.forward, 1), bind(&program.head, (STAT_BLOCK / TILE_ROWS) as u64));
        let (sample, fork) = (bind(&program.sample, 1), bind(&program.fork, 1));
        let info = ModelInfo {
            vocab: model.vocab as usize,
            context: model.context as usize,
            kv_bytes_per_token: (shape.bytes() / PAGE) as u64,
            page: PAGE,
            max_rows,
        };
        let pool = Pool::new(options.kv_pages);
        let (work, metrics, prefix) = (Work::default(), Metrics::default(), PrefixMode::Shared);
        let (cancel, profile, rope_ready) = (None, None, 0);
        let mut ready = Self {
            loaded,
            info,
            prefix,
            team,
            pool,
            store,
            buffers,
            forward,
            head,
            sample,
            fork,
            limits,
            work,
            rope_ready,
            cancel,
            metrics,
            profile,
        };
        ready.prepare_first_steps();
        Ok(ready)
    }

    /// Has the system clear the memory that a short run touches, and computes the first rope angles, while the model is being
    /// loaded: the first steps would wait for both, and take longer than any after them.
    fn prepare_first_steps(&mut self) {
        for region in self.buffers.values_mut() {
            region.populate(FIRST_BUFFER);
        }
        self.store.populate(FIRST_KEYS);
        self.extend_rope(1);
    }

    /// How forks and steps treat shared prompts from now on; at first they are shared. The results are the same bits in
    /// every mode.
    pub fn set_prefix_mode(&mut self, mode: PrefixMode) {
        self.prefix = mode;
    }

    /// A flag that stops a step between its parts when it becomes true.
    pub fn set_cancel(&mut self, flag: Arc<AtomicBool>) {
        self.cancel = Some(flag);
    }

    /// Where the time went.
    #[must_use]
    pub fn metrics(&self) -> &Metrics {
        &self.metrics
    }

    /// From now on times every launch by itself, which costs some microseconds each.
    pub fn start_profile(&mut self) {
        self.profile = Some(profile::start(&self.loaded.program));
    }

    /// Ends the timing of launches; [`LocalModel::profile`] is empty afterwards.
    pub fn stop_profile(&mut self) {
        self.profile = None;
    }

    /// What each kernel took since [`LocalModel::start_profile`], in the program's order; empty without a profile.
    #[must_use]
    pub fn profile(&self) -> &[KernelTime] {
        self.profile.as_deref().unwrap_or_default()
    }

    /// The shared part.
    #[must_use]
    pub fn loaded(&self) -> &Arc<Loaded> {
        &self.loaded
    }

    /// Members of the thread team.
    #[must_use]
    pub fn threads(&self) -> usize {
        self.team.members()
    }

    /// As [`Team::round_trip`] of the model's threads.
    ///
    /// # Errors
    /// When the team lost a member.
    pub fn round_trip(&mut self) -> Result<Option<f64>> {
        let outcome = self.team.round_trip();
        self.renew_team(&outcome)?;
        outcome
    }

    fn check_appends(&self, appends: &[Append<'_>]) -> Result<()> {
        for a in appends {
            let fail = |cause: String| Err(Error::Sequence { seq: a.seq.0, cause });
            if a.tokens.is_empty() {
                return fail("no tokens are appended; leave it out of the step".to_owned());
            }
            if a.decoded && a.tokens.len() > 1 {
                let n = a.tokens.len();
                return fail(format!("{n} tokens are appended as one that was decoded; append them one by one"));
            }
            if let Some(bad) = a.tokens.iter().find(|t| **t as usize >= self.info.vocab) {
                return fail(format!(
                    "token {bad} is outside the vocabulary of {}; use this model's tokenizer",
                    self.info.vocab
                ));
            }
            let (len, context) = (self.pool.len(a.seq), self.info.context);
            if a.tokens.len() > context - len.min(context) {
                let n = a.tokens.len();
                return fail(format!(
                    "{len} tokens and {n} more exceed the context of {context}; shorten the prompt or max"
                ));
            }
        }
        Ok(())
    }

    fn buffer(&mut self, buf: Buf) -> &mut Region {
        self.buffers.get_mut(&buf).expect("every buffer was made")
    }

    /// Makes room for all tokens and runs them. On failure every sequence is as long as before; its keys are the same too,
    /// unless changes of pages themselves failed (the team was lost): then what a last page held that was shared may be
    /// missing from the copies that were being made of it.
    fn advance(&mut self, appends: &[Append<'_>], modes: &[PrefixMode], out: &mut Out<'_>) -> Result<()> {
        self.check_appends(appends)?;
        let start = Instant::now();
        let lens: Vec<usize> = appends.iter().map(|a| self.pool.len(a.seq)).collect();
        let asks: Vec<(SeqId, usize)> = appends.iter().map(|a| (a.seq, a.tokens.len())).collect();
        let mut edits = Vec::new();
        self.pool.extend(&asks, &mut edits)?;
        let ready = self.edit_pages(&edits);
        self.metrics.prepare_seconds += start.elapsed().as_secs_f64();
        let outcome = ready.and_then(|()| self.run(appends, modes, &lens, out));
        if outcome.is_err() {
            for (a, len) in appends.iter().zip(&lens) {
                self.pool.truncate(a.seq, *len)?;
            }
        }
        self.renew_team(&outcome)?;
        outcome
    }

    /// A team that lost a member is of no use.
    fn renew_team<T>(&mut self, outcome: &Result<T>) -> Result<()> {
        if matches!(outcome, Err(Error::Team { .. })) {
            self.team = Team::new(self.team.members())?;
        }
        Ok(())
    }

    /// Carries changes of pages out, in order as far as it matters.
    fn edit_pages(&mut self, edits: &[Edit]) -> Result<()> {
        let shape = self.store.shape();
        for batch in batches(edits) {
            // Nothing of a batch depends on the rest of it, so it may be cut anywhere.
            for part in batch.chunks(self.info.max_rows) {
                let table = self.buffer(Buf::Edits).i64s_mut();
                for (to, edit) in table.chunks_exact_mut(EDIT_WORDS).zip(part) {
                    let pages = [edit.from, edit.to].map(|page| shape.number(page) as i64);
                    to.copy_from_slice(&[pages[0], pages[1], edit.slots as i64, 0]);
                }
                self.buffer(Buf::Step).i64s_mut()[5] = part.len() as i64;
                let program = &self.loaded.program;
                profile::run(&mut self.team, &self.fork, &program.weights, &program.fork, self.profile.as_mut())?;
            }
        }
        Ok(())
    }

    /// Runs all appended tokens, cut into steps of at most `max_rows` rows. `modes` may be shorter than the appends: the
    /// others follow the model's mode.
    fn run(&mut self, appends: &[Append<'_>], modes: &[PrefixMode], lens: &[usize], out: &mut Out<'_>) -> Result<()> {
        let together = |append: usize| *modes.get(append).unwrap_or(&self.prefix) == PrefixMode::Cascade;
        let together: Vec<bool> = (0..appends.len()).map(together).collect();
        let mut pieces = Vec::new();
        let mut room = self.info.max_rows;
        for (append, a) in appends.iter().enumerate() {
            let mut start = 0;
            while start < a.tokens.len() {
                let rows = room.min(a.tokens.len() - start);
                pieces.push(Piece { append, start, rows, together: together[append] });
                (start, room) = (start + rows, room - rows);
                if room == 0 {
                    self.part(appends, lens, &pieces, out)?;
                    pieces.clear();
                    room = self.info.max_rows;
                }
            }
        }
        if pieces.is_empty() { Ok(()) } else { self.part(appends, lens, &pieces, out) }
    }

    /// One run of the launches.
    fn part(&mut self, appends: &[Append<'_>], lens: &[usize], pieces: &[Piece], out: &mut Out<'_>) -> Result<()> {
        if self.cancel.as_ref().is_some_and(|c| c.load(Ordering::Relaxed)) {
            return Err(Error::Cancelled);
        }
        let start = Instant::now();
        let runs: Vec<Run<'_>> = pieces
            .iter()
            .map(|p| Run {
                pages: self.pool.pages(appends[p.append].seq),
                first: lens[p.append] + p.start,
                rows: p.rows,
                decoded: appends[p.append].decoded,
                together: p.together,
            })
            .collect();
        let end = runs.iter().map(|r| r.first + r.rows).max().unwrap_or(0);
        self.work.plan(&runs, &self.limits);
        self.extend_rope(end);
        self.fill_tables();
        self.embed(appends, pieces)?;
        let mut wanted = Vec::new();
        let mut row = 0;
        for p in pieces {
            let a = &appends[p.append];
            for token in p.start..p.start + p.rows {
                if a.wanted == Wanted::All || (a.wanted == Wanted::Last && token + 1 == a.tokens.len()) {
                    wanted.push((row, p.append, token));
                }
                row += 1;
            }
        }
        let prepared = Instant::now();
        let program = &self.loaded.program;
        profile::run(&mut self.team, &self.forward, &program.weights, &program.forward, self.profile.as_mut())?;
        self.metrics.steps += 1;
        self.metrics.rows += row as u64;
        self.metrics.prepare_seconds += (prepared - start).as_secs_f64();
        self.metrics.forward_seconds += prepared.elapsed().as_secs_f64();
        for group in wanted.chunks(self.loaded.program.max_head_rows as usize) {
            self.head_part(group, out)?;
        }
        Ok(())
    }

    /// Logits of some rows of the step: (row, append, token).
    fn head_part(&mut self, group: &[(usize, usize, usize)], out: &mut Out<'_>) -> Result<()> {
        let start = Instant::now();
        let rows = self.buffer(Buf::HeadRows).i32s_mut();
        for (slot, (row, _, _)) in rows.iter_mut().zip(group) {
            *slot = *row as i32;
        }
        self.buffer(Buf::Step).i64s_mut()[2] = group.len() as i64;
        let program = &self.loaded.program;
        profile::run(&mut self.team, &self.head, &program.weights, &program.head, self.profile.as_mut())?;
        let done = Instant::now();
        let look = |(i, (_, append, token)): (usize, &(usize, usize, usize))| {
            (out.look)(*append, *token, self.row(i)).map(|draw| (i, *append, draw))
        };
        let wanted: Vec<(usize, usize, Draw)> = group.iter().enumerate().filter_map(look).collect();
        self.metrics.head_rows += group.len() as u64;
        self.metrics.head_seconds += (done - start).as_secs_f64();
        self.metrics.sink_seconds += done.elapsed().as_secs_f64();
        let asked: Vec<Asked<'_>> = wanted.iter().map(|(row, _, draw)| Asked { row: *row, draw }).collect();
        for ((_, append, _), choice) in wanted.iter().zip(self.draw(&asked, false)?) {
            out.choices[*append] = choice;
        }
        Ok(())
    }

    /// Copies the planned tables to where kernels read them.
    fn fill_tables(&mut self) {
        let work = std::mem::take(&mut self.work);
        let pages = self.pool.total();
        let (picks, team) = (work.picks.len() / PICK_WORDS, self.team.members());
        let cuts =
            [(Buf::Step, Buf::Rows, Buf::Items, &work.all), (Buf::PartStep, Buf::PartRows, Buf::PartItems, &work.part)];
        for (step, rows, items, cut) in cuts.into_iter().filter(|c| !c.3.rows.is_empty()) {
            let (rows_n, items_n) = (work.row_count(), cut.item_count());
            let header = [rows_n, items_n, 0, pages, 0, 0, team, picks].map(|w| w as i64);
            self.buffer(step).i64s_mut()[..header.len()].copy_from_slice(&header);
            self.buffer(rows).i64s_mut()[..cut.rows.len()].copy_from_slice(&cut.rows);
            self.buffer(items).i64s_mut()[..cut.items.len()].copy_from_slice(&cut.items);
        }
        self.buffer(Buf::Picks).i64s_mut()[..work.picks.len()].copy_from_slice(&work.picks);
        self.buffer(Buf::Tables).i32s_mut()[..work.tables.len()].copy_from_slice(&work.tables);
        self.work = work;
    }

    /// Writes the embeddings of the step's tokens to the residual stream.
    fn embed(&mut self, appends: &[Append<'_>], pieces: &[Piece]) -> Result<()> {
        let loaded = Arc::clone(&self.loaded);
        let width = loaded.model.hidden as usize;
        let bytes = loaded.embedding.bytes(width as u64).unwrap_or(0) as usize;
        let table = loaded.gguf.tensor_data(EMBEDDING).unwrap_or(&[]);
        let tokens = pieces.iter().flat_map(|p| &appends[p.append].tokens[p.start..p.start + p.rows]);
        let hidden = self.buffer(Buf::Hidden).f32s_mut();
        for (token, out) in tokens.zip(hidden.chunks_exact_mut(width)) {
            let row = table.get(*token as usize * bytes..(*token as usize + 1) * bytes).unwrap_or(&[]);
            quant::dequantize_row(loaded.embedding, row, out)
                .map_err(|e| program_error(format!("embedding of token {token}"), e.to_string()))?;
        }
        Ok(())
    }

    /// Computes the rope table up to position `end`, in f64.
    fn extend_rope(&mut self, end: usize) {
        if end <= self.rope_ready {
            return;
        }
        let end = end.next_multiple_of(ROPE_STEP).min(self.info.context);
        let (from, loaded) = (self.rope_ready, Arc::clone(&self.loaded));
        let pairs = loaded.model.head_dim as usize / 2;
        let frequency = |i: usize| {
            let divisor = loaded.factors.as_ref().map_or(1.0, |f| f64::from(f[i]));
            f64::from(loaded.model.rope_base).powf(-(i as f64) / pairs as f64) / divisor
        };
        let frequencies: Vec<f64> = (0..pairs).map(frequency).collect();
        let table = &mut self.buffer(Buf::Rope).f32s_mut()[from * 2 * pairs..end * 2 * pairs];
        for (position, out) in (from..end).zip(table.chunks_exact_mut(2 * pairs)) {
            let (cosines, sines) = out.split_at_mut(pairs);
            for ((f, c), s) in frequencies.iter().zip(cosines).zip(sines) {
                let (sin, cos) = (position as f64 * f).sin_cos();
                (*c, *s) = (cos as f32, sin as f32);
            }
        }
        self.rope_ready = end;
    }
}

/// Makes the buffers of a program; also returns the stride of [`Buf::Scratch`].
fn buffers(loaded: &Loaded, limits: &Limits) -> Result<(BTreeMap<Buf, Region>, u64)> {
    let (model, program) = (&loaded.model, &loaded.program);
    let size = |buf: Buf| program.buffers.iter().find(|(b, _)| *b == buf).map(|(_, s)| *s).unwrap_or_default();
    let stride = size(Buf::Scratch).per_thread.next_multiple_of(64);
    let (rows, context) = (u64::from(program.max_rows), u64::from(model.context));
    let head_rows = u64::from(program.max_head_rows);
    let lists = program.attention.list_words(u64::from(model.kv_heads));
    let once = u64::from(program.attention.pages().is_some());
    // What the runtime itself writes must fit whatever the program says.
    let least = |buf: Buf| match buf {
        Buf::Step => Some(64),
        Buf::Rows => Some(rows * 64),
        Buf::Items => (limits.max_partials as u64).checked_mul(8 * ITEM_WORDS as u64),
        Buf::PartStep => Some(64 * once),
        Buf::PartRows => Some(rows * 64 * once),
        Buf::PartItems => (limits.max_partials as u64).checked_mul(8 * ITEM_WORDS as u64 * once),
        Buf::Picks => Some(rows * 8 * PICK_WORDS as u64 * u64::from(program.attention.chooses())),
        Buf::Tables => context.div_ceil(PAGE as u64).saturating_add(lists).checked_mul(4 * rows),
        Buf::HeadRows => Some(head_rows * 4),
        Buf::Facts => Some(head_rows * 4 * FACT_WORDS as u64),
        Buf::Draws => Some(head_rows * 8 * DRAW_WORDS as u64),
        Buf::Masks => head_rows.checked_mul(mask_bytes(model.vocab.into())),
        Buf::Choices => Some(head_rows * 4 * CHOICE_WORDS as u64),
        Buf::Edits => Some(rows * 8 * EDIT_WORDS as u64),
        Buf::Rope => context.checked_mul(u64::from(model.head_dim) * 4),
        Buf::Scratch => stride.checked_mul(limits.threads as u64),
        _ => Some(0),
    };
    let mut regions = BTreeMap::new();
    let own = [
        Buf::Step,
        Buf::Rows,
        Buf::Items,
        Buf::PartStep,
        Buf::PartRows,
        Buf::PartItems,
        Buf::Picks,
        Buf::Tables,
        Buf::Fresh,
        Buf::HeadRows,
        Buf::Rope,
        Buf::Hidden,
        Buf::Query,
        Buf::Partials,
        Buf::Act,
        Buf::Scratch,
        Buf::Logits,
        Buf::Stats,
        Buf::Facts,
        Buf::Draws,
        Buf::Masks,
        Buf::Weighed,
        Buf::Choices,
        Buf::Edits,
    ];
    for buf in own {
        let s = size(buf);
        let parts = [
            (s.per_row, rows),
            (s.per_thread, limits.threads as u64),
            (s.per_partial, limits.max_partials as u64),
            (s.per_head_row, head_rows),
        ];
        let sum = parts.iter().try_fold(s.fixed, |sum, (each, n)| sum.checked_add(each.checked_mul(*n)?));
        let bytes = sum.zip(least(buf)).and_then(|(a, b)| usize::try_from(a.max(b)).ok());
        let bytes = bytes.ok_or_else(|| program_error(format!("buffer {buf:?}"), "its size exceeds any memory"))?;
        regions.insert(buf, Region::new(bytes)?);
    }
    Ok((regions, stride))
}

impl LanguageModel for LocalModel {
    fn info(&self) -> &ModelInfo {
        &self.info
    }

    fn create(&mut self) -> Result<SeqId> {
        self.pool.create()
    }

    fn fork(&mut self, seq: SeqId) -> Result<SeqId> {
        if self.prefix != PrefixMode::Copied {
            return self.pool.fork(seq);
        }
        let mut edits = Vec::new();
        let copy = self.pool.duplicate(seq, &mut edits)?;
        let outcome = self.edit_pages(&edits);
        if outcome.is_err() {
            self.pool.free(copy);
        }
        self.renew_team(&outcome)?;
        outcome.map(|()| copy)
    }

    fn len(&self, seq: SeqId) -> usize {
        self.pool.len(seq)
    }

    fn truncate(&mut self, seq: SeqId, len: usize) -> Result<()> {
        self.pool.truncate(seq, len)
    }

    fn free(&mut self, seq: SeqId) {
        self.pool.free(seq);
    }

    fn step(&mut self, appends: &[Append<'_>], sink: &mut dyn FnMut(usize, usize, Row<'_>)) -> Result<()> {
        self.step_placed(appends, &[], sink)
    }

    fn step_placed(
        &mut self,
        appends: &[Append<'_>],
        modes: &[PrefixMode],
        sink: &mut dyn FnMut(usize, usize, Row<'_>),
    ) -> Result<()> {
        let mut look = |append, token, row: Row<'_>| {
            sink(append, token, row);
            None
        };
        self.advance(appends, modes, &mut Out { look: &mut look, choices: Vec::new() })
    }

    fn choose(&mut self, rows: &[Row<'_>], draws: &[(usize, Draw)]) -> Result<Vec<Option<Choice>>> {
        let outcome = self.draw_from(rows, draws);
        self.renew_team(&outcome)?;
        outcome
    }

    fn step_and_choose(
        &mut self,
        appends: &[Append<'_>],
        look: &mut dyn FnMut(usize, Row<'_>) -> Option<Draw>,
    ) -> Result<Vec<Option<Choice>>> {
        let lens: Vec<usize> = appends.iter().map(|a| a.tokens.len()).collect();
        let mut look = |append: usize, token: usize, row: Row<'_>| {
            if token + 1 == lens[append] { look(append, row) } else { None }
        };
        let mut out = Out { look: &mut look, choices: vec![None; appends.len()] };
        self.advance(appends, &[], &mut out)?;
        Ok(out.choices)
    }

    fn place_prompts(&mut self, mode: PrefixMode) {
        self.set_prefix_mode(mode);
    }

    fn kv_bytes(&self) -> u64 {
        self.pool.used() as u64 * self.store.shape().bytes() as u64
    }

    fn dense_tokens(&self) -> usize {
        self.limits.attention.pages().map_or(usize::MAX, |pages| (pages as usize).saturating_mul(PAGE))
    }
}
