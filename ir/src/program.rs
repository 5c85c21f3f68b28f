//! The forward program: which kernels run in which order over which buffers, as data.
//!
//! `codegen::lower` writes it from a model and the plan's [`crate::schedule::ModelSchedule`]; the runtime binds addresses
//! and launches. The runtime makes no choices and knows no kernel by name.
//!
//! One *step* runs `fork` over the pages that must be copied or cleared first, `forward` over `n` rows (tokens of any mix
//! of sequences), then `head` over the rows whose logits are wanted, then `sample` over the tokens to be drawn from them.
//! Every launch is run by the whole team and ends at a barrier.
//!
//! **Attention.** Keys are cut into chunks of [`CHUNK`] positions counted from the start of the sequence. A row's result
//! is the left fold, in chunk order, of its chunks' partial states `(m, l, o)`. A partial may cover the chunks `0..c`
//! (first partial) or exactly one chunk (the others), so the fold is the same however work is cut: results are the same
//! bits for any batch, any sharing and any number of threads.
//!
//! **Attention to a part of the pages.** In layers from [`Attention::dense_layers`] on, launches read [`Buf::PartStep`],
//! [`Buf::PartRows`] and [`Buf::PartItems`] in place of their namesakes. There, a decoded row with more pages than the
//! budget is a row over the pages of a *list* behind the sequences' tables in [`Buf::Tables`]: positions are counted along
//! the list, its limit is the list's, and everything else (chunks, fold, partials) is as above. The runtime writes the
//! lists of a window; lists chosen by bounds are written by a kernel, one per row and KV head, as [`Buf::Picks`] says. Such
//! a list may be shorter for one KV head than for another ([`Attention::trims`]): items say where the difference stands, and
//! a partial over chunks that a list does not reach is the identity of the fold.

use crate::kernel::Kernel;
use crate::schedule::{Attention, KvFormat};
use crate::tensor::DType;
use serde::{Deserialize, Serialize};

/// Keys per attention chunk: the unit of the reduction order.
pub const CHUNK: usize = 256;
/// Tokens per KV page.
pub const PAGE: usize = 16;

/// The most pages of a sequence that attention may choose from by their bounds: what a kernel's locals hold.
pub const MOST_PAGES: usize = 32 * 1024;

/// KV pages of a group. Pages of one group lie side by side per layer and head, so that a chunk on them is read as one
/// run of memory: a page alone is too short for hardware to see a stream.
pub const GROUP: usize = CHUNK / PAGE;

/// Words (i64) per row of [`Buf::Rows`]: position, KV slot (`page number · PAGE + slot in page`), limit (keys visible to the
/// row, itself included), index of its first partial in [`Buf::Partials`], number of partials, 0, 0, 0.
pub const ROW_WORDS: usize = 8;
/// Words (i64) per attention item of [`Buf::Items`]: first row, rows (1..=`attend_rows`), first chunk, end chunk,
/// index in [`Buf::Tables`] of the sequence's first page, which partial of each row it writes (0, 1, …), how much further
/// in [`Buf::Tables`] the list of the next KV head is (0: all heads read the same pages), index in [`Buf::Tables`] of how
/// many pages the list of KV head 0 is shorter than the rows' limits say, those of further heads behind it (0: none is).
/// The rows of an item are neighbours; the chunks' pages are the same for all of them.
pub const ITEM_WORDS: usize = 8;
/// Words (i64) of [`Buf::Step`]: rows, items, rows that want logits, KV pages in the pool, tokens to draw, edits of
/// pages, threads of the team (a hint for prefetches: results must not depend on it), lists of pages to choose.
pub const STEP_WORDS: usize = 8;
/// Words (i64) per entry of [`Buf::Picks`]: row, index in [`Buf::Tables`] of its sequence's first page, pages it sees,
/// index in [`Buf::Tables`] of the list of KV head 0; the lists of further heads follow at the distance of the budget, and
/// behind them, where lists may be shorter, by how many pages each of them is.
pub const PICK_WORDS: usize = 4;
/// f32 statistics per logits row and vocabulary block ([`Buf::Stats`]): maximum, Σ exp(x − max), Σ (x − max)·exp(x − max),
/// index of the maximum (as f32 bits of an i32).
pub const STAT_WORDS: usize = 4;
/// f32 words of a row's summary ([`Buf::Facts`]): largest logit, ln Σ exp(logit), Shannon entropy in nats, index of the
/// largest logit, the lowest of equals (as f32 bits of an i32). A NaN or +∞ among the logits makes one of the first two no
/// finite number.
pub const FACT_WORDS: usize = 4;
/// Words (64 bits) per token to draw ([`Buf::Draws`]): row of logits; row of [`Buf::Masks`], −1 without (a row of logits
/// is masked in place and by one draw only); tokens to keep, at least 1, the vocabulary for all; 1 / temperature (f32, 0
/// for the most probable token); probability to keep (f32, 1 for all); least share of the highest probability (f32, 0 for
/// all); a random number in [0, 1) (f64); 1 when the row has no statistics in [`Buf::Stats`], else 0.
pub const DRAW_WORDS: usize = 8;
/// Words (32 bits) per drawn token ([`Buf::Choices`]): the token, −1 when the row is not sound or nothing is allowed; its
/// log-probability in nats (f32) under the row's own distribution, before temperature, filters and mask.
pub const CHOICE_WORDS: usize = 2;
/// Words (i64) per edit of a page ([`Buf::Edits`]): page to read, page to write, slots to copy; the slots behind become 0.
/// Pages are numbers as in [`Buf::Tables`]; both may be the same page. No edit writes what another one reads or writes.
pub const EDIT_WORDS: usize = 4;
/// Vocabulary entries per statistics block.
pub const STAT_BLOCK: usize = 2048;

/// Channels of a key whose bounds on a page are kept together ([`Arg::Summary`]).
pub const SUMMARY_CHANNELS: usize = 64;
/// Scales of so many channels' bounds: every scale is that of four channels.
pub const SUMMARY_SCALES: usize = SUMMARY_CHANNELS / 4;

/// Bytes of the summary of one KV head on a page: per [`SUMMARY_CHANNELS`] channels two lines of bytes and their scales.
#[must_use]
pub fn summary_bytes(head_dim: u64) -> u64 {
    head_dim.div_ceil(SUMMARY_CHANNELS as u64) * (2 * SUMMARY_CHANNELS + 2 * SUMMARY_SCALES) as u64
}

/// Blocks (of [`KvFormat::head_bytes`]) of one KV head in a group of pages: its keys, its values, and room for the summaries
/// of the pages where they have any.
#[must_use]
pub fn head_blocks(kv: KvFormat, head_dim: u64, summaries: bool) -> u64 {
    let room = if summaries { GROUP as u64 * summary_bytes(head_dim) } else { 0 };
    2 * GROUP as u64 + room.div_ceil(kv.head_bytes(head_dim).max(1))
}

/// Memory a launch may name.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum Buf {
    /// Step header, [`STEP_WORDS`] × i64; written by the runtime.
    Step,
    /// Row table, [`ROW_WORDS`] × i64 per row; written by the runtime.
    Rows,
    /// Attention items, [`ITEM_WORDS`] × i64 each; written by the runtime.
    Items,
    /// [`Buf::Step`] for layers that attend to a part of the pages; written by the runtime.
    PartStep,
    /// [`Buf::Rows`] for those layers: the limit is the list's where there is one. Written by the runtime.
    PartRows,
    /// [`Buf::Items`] for those layers; written by the runtime.
    PartItems,
    /// Lists that a kernel has to choose, [`PICK_WORDS`] × i64 each; written by the runtime.
    Picks,
    /// Page numbers (i32) of all sequences in the step, written by the runtime; behind them lists of pages.
    Tables,
    /// Rows (i32) whose logits are wanted; written by the runtime.
    HeadRows,
    /// Rope table, f32: `[position][2][head_dim / 2]`, the cosines of a position, then its sines; written once at load.
    Rope,
    /// Keys of one layer. With `block =` [`KvFormat::head_bytes`], the keys of head `h` on the page with number `n` are
    /// `[head_dim][PAGE]` f16, or for int8 `[head_dim / 4][PAGE][4]` bytes, each 128 more than the rounded key, and `[PAGE]`
    /// f32 scales behind them, at byte `(n + h·`[`head_blocks`]`)·block` behind [`Arg::Kv`]. Numbers are the pool's: those
    /// of a group's pages follow each other, the first is a multiple of [`GROUP`], and between groups there is room for
    /// what else the pool keeps there.
    Keys,
    /// Values of one layer: per page and head `[PAGE][head_dim]` f16, or for int8 `[PAGE / 4][head_dim][4]` signed bytes, the
    /// last index over keys, with scales as keys have them, at the same offsets as the keys; a prefetch may count on them
    /// lying `GROUP` blocks behind the keys.
    Values,
    /// Keys and values of the step's rows before they are rounded to int8, f32: `[row][2][kv_heads · head_dim]`.
    Fresh,
    /// Residual stream, f32 `[row][hidden]`; the runtime writes embeddings, `forward` leaves the last layer's output.
    Hidden,
    /// Scaled queries, f32 `[row][heads · head_dim]`.
    Query,
    /// Attention partials, f32 `[partial][heads][head_dim + 16]`: `o`, then `m`, `l`, padding.
    Partials,
    /// Quantised or plain activations between gate/up and down, per row.
    Act,
    /// Scratch of each thread: rows normed or folded, and quantised; candidates of drawn tokens and chosen pages.
    Scratch,
    /// Logits, f32 `[wanted row][vocab rounded up to 16]`.
    Logits,
    /// Statistics of logits, f32 `[wanted row][blocks of STAT_BLOCK][STAT_WORDS]`.
    Stats,
    /// Summaries of logits, f32 `[wanted row][FACT_WORDS]`.
    Facts,
    /// Tokens to draw, [`DRAW_WORDS`] each, as many as rows may want logits; written by the runtime.
    Draws,
    /// Allowed tokens, one bit each, the lowest first: `[draw][`[`mask_bytes`]`]`; written by the runtime.
    Masks,
    /// Statistics at the temperature of a draw, under its mask: as [`Buf::Stats`], per draw; the third word means nothing.
    Weighed,
    /// Drawn tokens, [`CHOICE_WORDS`] each.
    Choices,
    /// Edits of pages, [`EDIT_WORDS`] each, as many as rows of a step at most; written by the runtime.
    Edits,
}

/// Bytes of a row of [`Buf::Masks`]: two per 16 tokens, and two more that may be read; a multiple of 64.
#[must_use]
pub fn mask_bytes(vocab: u64) -> u64 {
    (vocab.div_ceil(16) * 2 + 2).next_multiple_of(64)
}

/// How large a buffer is: `fixed + per_row · max_rows + per_thread · team + per_partial · max_partials
/// + per_head_row · max_head_rows` bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Size {
    /// Bytes whatever the step.
    pub fixed: u64,
    /// Bytes per row of a step.
    pub per_row: u64,
    /// Bytes per thread.
    pub per_thread: u64,
    /// Bytes per attention partial.
    pub per_partial: u64,
    /// Bytes per row that wants logits.
    pub per_head_row: u64,
}

/// One word passed to a kernel.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Arg {
    /// Address of a buffer.
    Buf(Buf),
    /// Address of weight `i` of [`Program::weights`] plus bytes.
    Weight(u32, u64),
    /// Address of [`Buf::Keys`] (`false`) or [`Buf::Values`] (`true`) of a layer.
    Kv(u32, bool),
    /// Address of the summaries of a layer's pages: bounds on every channel of a page's keys, in signed bytes with a scale for
    /// four channels. With `c` [`SUMMARY_CHANNELS`] in a head, rounded up, those of head `h` and the pages of group `g` are
    /// `[GROUP][c][2][`[`SUMMARY_CHANNELS`]`]` bytes and behind them `[GROUP][c][`[`SUMMARY_SCALES`]`]` f16, from byte
    /// `(g + h·`[`head_blocks`]`)·block` on. Byte `4·l + j` of a line belongs to channel `16·j + l` of its channels and to
    /// scale `l`. Times its scale it is at least the channel's maximum over the keys of the page in the first line, at least
    /// the negated minimum in the second, both for channels behind the last as if they were 0. A scale is no number where a
    /// key is none or not finite. Only full pages have a summary.
    Summary(u32),
    /// Byte stride between threads in [`Buf::Scratch`].
    ScratchStride,
}

/// One kernel launch.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Launch {
    /// Index into [`Program::kernels`].
    pub kernel: u32,
    /// One word per parameter.
    pub args: Vec<Arg>,
}

/// A resident weight: what the runtime makes of tensors of the file.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Weight {
    /// Name, for people and reports.
    pub name: String,
    /// What it is made of.
    pub source: Source,
}

/// How a resident weight is made.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Source {
    /// A vector (norm, bias) as f32. `rows` picks and orders elements as in [`Source::Tiles`].
    Vector {
        /// Tensor name in the file.
        tensor: String,
        /// Number of elements.
        len: u64,
        /// Row order.
        rows: RowOrder,
    },
    /// Tiles of 16 rows × `k` of one or more tensors of equal shape and type, interleaved tile by tile: tile 0 of the
    /// first tensor, tile 0 of the second, …, tile 1 of the first, ….
    Tiles {
        /// Tensor names in the file.
        tensors: Vec<String>,
        /// Element type in the file, kept in the tiles.
        dtype: DType,
        /// Output rows of each tensor.
        n: u64,
        /// Input features.
        k: u64,
        /// Row order within each tensor.
        rows: RowOrder,
    },
    /// The same mixed block by block ([`crate::tensor::CHANNEL_BLOCKS`]) and rounded to int8 with one scale per row, to the
    /// nearest, symmetric, `scale = max|w| / 127`: tiles of [`crate::tensor::channel_tile_bytes`].
    Int8Channel {
        /// Tensor names in the file.
        tensors: Vec<String>,
        /// Element type in the file.
        dtype: DType,
        /// Output rows of each tensor.
        n: u64,
        /// Input features.
        k: u64,
        /// Row order within each tensor.
        rows: RowOrder,
        /// Features that are mixed.
        block: u64,
    },
}

/// The order in which a tensor's rows are laid out.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum RowOrder {
    /// As in the file.
    File,
    /// Per head of `d` rows: 0, 2, 4, …, d−2, 1, 3, …, d−1. Turns rope on neighbouring pairs (GGUF's llama) into
    /// rope on halves, for q, k and their biases alike.
    PairsToHalves(u32),
    /// Per head of `d` rows, a multiple of 32: 0, …, 15, d/2, …, d/2 + 15, 16, …, 31, d/2 + 16, …. Puts the tiles whose
    /// rows rope turns together side by side. Where rope turns pairs, [`RowOrder::PairsToHalves`] of 32 does the same.
    HalvesTogether(u32),
}

/// Everything the runtime needs to run one model's steps.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Program {
    /// Kernels, in order of first use.
    pub kernels: Vec<Kernel>,
    /// Buffers and their sizes ([`Buf::Keys`] and [`Buf::Values`] are sized by the KV pool: bytes per page and layer).
    pub buffers: Vec<(Buf, Size)>,
    /// Resident weights.
    pub weights: Vec<Weight>,
    /// Launches of a step.
    pub forward: Vec<Launch>,
    /// Launches that turn hidden rows into logits, statistics and summaries.
    pub head: Vec<Launch>,
    /// Launches that draw tokens from logits.
    pub sample: Vec<Launch>,
    /// Launches that copy and clear pages, before the step that needs them.
    pub fork: Vec<Launch>,
    /// Rows an attention item may hold.
    pub attend_rows: u32,
    /// Bytes of keys (and of values) per page and layer.
    pub page_bytes: u64,
    /// Bytes of summaries per page and layer; 0 when there are none.
    pub summary_bytes: u64,
    /// How keys and values are kept.
    pub kv: KvFormat,
    /// Which pages decoded tokens attend to.
    pub attention: Attention,
    /// Rows of one step at most.
    pub max_rows: u32,
    /// Rows of one step that may want logits.
    pub max_head_rows: u32,
}
