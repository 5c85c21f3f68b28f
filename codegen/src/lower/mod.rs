//! Lowering: a model and its schedule to the forward program, kernels and all.
//!
//! Takes an [`ir::model::Model`] with its tensors and an [`ir::schedule::ModelSchedule`], returns an
//! [`ir::program::Program`] or an error that names the tensor or number at fault. Kernels are specialised on shapes and
//! types, never on positions or rows; layers of equal types share kernels. It reads no weights and measures nothing.
//!
//! Per layer five launches: `qkv` (norm, projections, rope, KV append), `attend`, `out` (fold of partials, projection,
//! residual), `gate_up` (norm, projections, SiLU), `down` (projection, residual); a prologue that is split off adds one
//! each before `qkv`, `out`, `gate_up` and `head`. Keys and values in int8, and layers that attend to chosen pages, add
//! an `append` between `qkv` and `attend`. Then `head` and `finalise` for the rows that want logits, `weigh` and `draw`
//! for the tokens that are drawn from them, and `fork` per layer for the pages that a step must copy first.

mod append;
mod assemble;
mod attend;
mod attend_int8;
mod build;
mod channel;
mod channel_tiles;
mod error;
mod ffn;
mod finalise;
mod fork;
mod head;
mod linear;
mod math;
mod pages;
mod project;
mod prologue;
mod qkv;
mod record;
mod rounding;
mod sample;
mod select;

pub use error::Error;

use ir::model::Model;
use ir::program::{GROUP, PAGE, Program, STAT_BLOCK, SUMMARY_CHANNELS, SUMMARY_SCALES, head_blocks, summary_bytes};
use ir::schedule::{KvFormat, ModelSchedule, Prologue};
use linear::Blocking;

/// The forward program of a model.
///
/// # Errors
/// [`Error`] when a tensor is missing, misshapen or of a type its role does not allow, or when a number of the model or
/// of the schedule is outside what the kernels serve.
pub fn program(model: &Model, schedule: &ModelSchedule) -> Result<Program, Error> {
    assemble::program(model, schedule)
}

/// The numbers that kernels are specialised on.
#[derive(Clone, Debug)]
struct Dims {
    hidden: i64,
    heads: i64,
    kv_heads: i64,
    head_dim: i64,
    ffn: i64,
    vocab: i64,
    eps: f32,
    blocking: Blocking,
    prologue: Prologue,
    kv: KvFormat,
    /// Pages have summaries.
    summaries: bool,
}

impl Dims {
    /// Query heads per KV head.
    fn group(&self) -> i64 {
        self.heads / self.kv_heads
    }

    /// Pairs of tiles that rope turns together, per head.
    fn pairs(&self) -> i64 {
        self.head_dim / 32
    }

    /// Bytes of a row of queries.
    fn query_bytes(&self) -> i64 {
        4 * self.heads * self.head_dim
    }

    /// Factor of queries.
    fn query_scale(&self) -> f32 {
        1.0 / (self.head_dim as f32).sqrt()
    }

    /// Bytes of keys, and of values, of a page of one layer.
    fn page_bytes(&self) -> i64 {
        self.kv_heads * self.block_bytes()
    }

    /// Bytes of keys, and of values, of one head on one page.
    fn block_bytes(&self) -> i64 {
        self.kv.head_bytes(self.head_dim.unsigned_abs()).cast_signed()
    }

    /// Bytes from one KV head to the next.
    fn head_stride(&self) -> i64 {
        head_blocks(self.kv, self.head_dim.unsigned_abs(), self.summaries).cast_signed() * self.block_bytes()
    }

    /// Bytes of an element of the keys and values.
    fn kv_bytes(&self) -> i64 {
        self.kv.element_bytes().cast_signed()
    }

    /// Offset of the scales in the keys, and in the values, of one head on a page.
    fn scales(&self) -> i64 {
        PAGE as i64 * self.head_dim * self.kv_bytes()
    }

    /// Bytes of the summaries of a page of one layer.
    fn summary_bytes(&self) -> u64 {
        self.kv_heads.unsigned_abs() * summary_bytes(self.head_dim.unsigned_abs())
    }

    /// How many [`SUMMARY_CHANNELS`] a head has, rounded up.
    fn summary_groups(&self) -> i64 {
        let channels = SUMMARY_CHANNELS as i64;
        (self.head_dim + channels - 1) / channels
    }

    /// Where a head's summary of the page with number `page` is, behind [`ir::program::Arg::Summary`].
    fn summary_at(&self, b: &mut build::Build, page: build::Int, head: build::Int) -> Summary {
        let in_group = b.int(GROUP as i64 - 1);
        let in_group = b.and(page, in_group);
        let base = b.mul_const(page, self.block_bytes());
        let base = b.scale_add(head, self.head_stride(), base);
        let lines = b.scale_add(in_group, self.summary_groups() * Summary::LINES - self.block_bytes(), base);
        let scales = b.scale_add(in_group, self.summary_groups() * Summary::SCALES - self.block_bytes(), base);
        let scales = b.add_const(scales, GROUP as i64 * self.summary_groups() * Summary::LINES);
        Summary { lines, scales }
    }

    /// Bytes of the rows of [`ir::program::Buf::Fresh`]: keys, then values.
    fn fresh_bytes(&self) -> i64 {
        8 * self.kv_heads * self.head_dim
    }

    /// Bytes of one head's partial: `o`, then `m`, `l` and padding to 16 words.
    fn head_partial_bytes(&self) -> i64 {
        4 * (self.head_dim + 16)
    }

    /// Bytes of a row's partial.
    fn partial_bytes(&self) -> i64 {
        self.heads * self.head_partial_bytes()
    }

    /// Vocabulary rounded up to whole tiles.
    fn vocab_padded(&self) -> i64 {
        (self.vocab + 15) / 16 * 16
    }

    /// Statistics blocks of a row of logits.
    fn stat_blocks(&self) -> i64 {
        (self.vocab_padded() + STAT_BLOCK as i64 - 1) / STAT_BLOCK as i64
    }
}

/// Bytes of a head's summary of a page, as [`ir::program::Arg::Summary`] says.
#[derive(Clone, Copy)]
struct Summary {
    /// Byte of the first line of bounds.
    lines: build::Int,
    /// Byte of the first scale.
    scales: build::Int,
}

impl Summary {
    /// Bytes of a line of bounds.
    const LINE: i64 = SUMMARY_CHANNELS as i64;
    /// Bytes of the two lines of as many channels.
    const LINES: i64 = 2 * Self::LINE;
    /// Bytes of their scales.
    const SCALES: i64 = 2 * SUMMARY_SCALES as i64;
}

/// Byte offsets in the step header.
mod step_words {
    use super::build::{Build, Int};
    use ir::program::Buf;

    /// Rows of the step.
    pub(super) const ROWS: i64 = 0;
    /// Attention items.
    pub(super) const ITEMS: i64 = 8;
    /// Rows that want logits.
    pub(super) const HEAD_ROWS: i64 = 16;
    /// Tokens to draw.
    pub(super) const DRAWS: i64 = 32;
    /// Edits of pages.
    pub(super) const EDITS: i64 = 40;
    /// Threads of the team.
    pub(super) const TEAM: i64 = 48;
    /// Lists of pages to choose.
    pub(super) const PICKS: i64 = 56;

    /// What kernels over all rows of a step ask of the header.
    #[derive(Clone, Copy)]
    pub(super) struct RowsOfStep {
        /// Rows.
        pub(super) rows: Int,
        /// Threads of the team.
        pub(super) team: Int,
    }

    /// Declares the header and loads rows and threads.
    pub(super) fn rows(b: &mut Build) -> RowsOfStep {
        let step = b.read_buf("step", Buf::Step);
        RowsOfStep { rows: b.load_i64(step.fixed(ROWS)), team: b.load_i64(step.fixed(TEAM)) }
    }

    /// Declares the header and loads one word of it.
    pub(super) fn load(b: &mut Build, word: i64) -> Int {
        let step = b.read_buf("step", Buf::Step);
        b.load_i64(step.fixed(word))
    }
}

/// Byte offsets in an entry of the row table.
mod row_words {
    use ir::program::ROW_WORDS;

    /// Bytes of an entry.
    pub(super) const BYTES: i64 = 8 * ROW_WORDS as i64;
    /// Position in the sequence.
    pub(super) const POSITION: i64 = 0;
    /// KV slot.
    pub(super) const SLOT: i64 = 8;
    /// Keys the row sees.
    pub(super) const LIMIT: i64 = 16;
    /// Index of its first partial.
    pub(super) const FIRST_PARTIAL: i64 = 24;
    /// Number of its partials.
    pub(super) const PARTIALS: i64 = 32;
}

/// Byte offsets in an attention item.
mod item_words {
    use ir::program::ITEM_WORDS;

    /// Bytes of an item.
    pub(super) const BYTES: i64 = 8 * ITEM_WORDS as i64;
    /// First row.
    pub(super) const FIRST_ROW: i64 = 0;
    /// Rows.
    pub(super) const ROWS: i64 = 8;
    /// First chunk.
    pub(super) const FIRST_CHUNK: i64 = 16;
    /// End of chunks.
    pub(super) const END_CHUNK: i64 = 24;
    /// Index of the sequence's first page number.
    pub(super) const TABLE: i64 = 32;
    /// Which partial of each row.
    pub(super) const PARTIAL: i64 = 40;
    /// Distance of the KV heads' lists of pages.
    pub(super) const LIST_STRIDE: i64 = 48;
    /// Index of how many pages the list of KV head 0 is too short; 0: none.
    pub(super) const TRIMS: i64 = 56;
}

/// Byte offsets in an entry of the lists to choose.
mod pick_words {
    use ir::program::PICK_WORDS;

    /// Bytes of an entry.
    pub(super) const BYTES: i64 = 8 * PICK_WORDS as i64;
    /// Row.
    pub(super) const ROW: i64 = 0;
    /// Index of its sequence's first page number.
    pub(super) const TABLE: i64 = 8;
    /// Pages it sees.
    pub(super) const PAGES: i64 = 16;
    /// Index of the list of KV head 0.
    pub(super) const LIST: i64 = 24;
}

/// Byte offsets in the list of rows that want logits.
mod head_words {
    /// Bytes of an entry.
    pub(super) const BYTES: i64 = 4;
}
