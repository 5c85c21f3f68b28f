//! How one model's forward program is to be generated: the planner writes it, `codegen::lower` reads it.

use crate::program::PAGE;
use crate::target::Isa;
use serde::{Deserialize, Serialize};

/// Arithmetic of linear layers over quantised weights. Named in reports; never mixed within one sequence.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Numerics {
    /// Weights as stored; activations rounded to int8 with one f32 scale per 32 features. The default class.
    Int8,
    /// Weights as stored, activations in f32: the arbiter, slow.
    F32,
    /// The layers' matrices rounded once more, to int8 with one f32 scale per output channel; activations rounded to int8
    /// with one f32 scale per block of features, mixed before ([`crate::tensor::CHANNEL_BLOCKS`]). The output matrix stays as
    /// stored. Lossy beyond what the file is: only where the strategy allows it or the caller asks for it.
    Int8Channel,
}

impl Numerics {
    /// Every class.
    pub const ALL: [Self; 3] = [Self::Int8, Self::F32, Self::Int8Channel];

    /// Name on the command line and in reports.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Int8 => "int8",
            Self::F32 => "f32",
            Self::Int8Channel => "int8-channel",
        }
    }
}

/// Where norms and activation quantisation happen.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Prologue {
    /// Every thread prepares all rows in its own scratch at the head of the consuming kernel: no barrier.
    Fused,
    /// A kernel of its own prepares the rows, divided over the team: one more barrier, no repeated work.
    Split,
}

impl Prologue {
    /// The name of reports.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Fused => "fused",
            Self::Split => "split",
        }
    }
}

/// How keys and values are kept. Named in reports; never mixed within one sequence.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum KvFormat {
    /// 16-bit floats. The default.
    #[default]
    F16,
    /// Bytes with one f32 scale per token and head, symmetric: `x ≈ q · max|x| / 127`. Attention over them rounds queries the
    /// same way, and weights to 255 steps of the largest of 16 keys. Lossy: only where the strategy allows it.
    Int8,
}

impl KvFormat {
    /// Name on the command line and in reports.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::F16 => "f16",
            Self::Int8 => "int8",
        }
    }

    /// Bytes of one element, without its share of a scale.
    #[must_use]
    pub fn element_bytes(self) -> u64 {
        match self {
            Self::F16 => 2,
            Self::Int8 => 1,
        }
    }

    /// Bytes of the keys (and of the values) of one page and head: the elements, then the scales of its tokens.
    #[must_use]
    pub fn head_bytes(self, head_dim: u64) -> u64 {
        let scales = match self {
            Self::F16 => 0,
            Self::Int8 => 4 * PAGE as u64,
        };
        (self.element_bytes() * PAGE as u64).saturating_mul(head_dim).saturating_add(scales)
    }
}

/// Which pages a decoded token attends to. Prompts and scored texts always attend to everything before them, however few
/// tokens of them are left to compute; decoded is what a sampling step continues a sequence with.
///
/// Whatever is left out is left out by pages of [`PAGE`] tokens. A sequence that has no more pages than `pages` attends to
/// all of them, in the same order and to the same bits as [`Attention::Dense`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum Attention {
    /// All of them. The default.
    #[default]
    Dense,
    /// The first `sinks` and the last `window` pages, and of those between them, for each KV head by itself, the ones
    /// whose bound on the scores is largest (minimum and maximum of every channel of the keys, as in Quest, summed over
    /// the query heads of the KV head): `pages` in all at most. Lossy: only where the strategy allows it.
    ///
    /// Below `top_p` = 1000 a KV head keeps no more of the chosen pages than hold that share, in thousandths, of what the
    /// pages between the first and the last ones are estimated to weigh: a page with bound `b` weighs `exp((b − max) / g)`,
    /// with the largest bound as `max` and `g` query heads per KV head. Kept are all pages down to the largest bound at
    /// which the share is reached, in the order of the sequence; never fewer than one, never more than the budget.
    Sparse {
        /// Pages attended to at most.
        pages: u32,
        /// First pages, always attended to.
        sinks: u32,
        /// Last pages, always attended to; at least 1, the page that is being filled.
        window: u32,
        /// First layers, which stay dense.
        dense_layers: u32,
        /// Share of the estimated weight that the chosen pages must hold, in thousandths, 1 to 1000; 1000: the budget alone
        /// decides.
        top_p: u32,
    },
    /// The first `sinks` and the last `window` pages. Forgets what lies between: for comparing.
    Window {
        /// First pages.
        sinks: u32,
        /// Last pages, at least 1.
        window: u32,
        /// First layers, which stay dense.
        dense_layers: u32,
    },
}

impl Attention {
    /// Sparse attention over so many pages: one page of sinks, an eighth of the pages (at least 2) as the window, two
    /// dense layers.
    #[must_use]
    pub fn sparse(pages: u32) -> Self {
        Self::Sparse { pages, sinks: 1, window: (pages / 8).max(2), dense_layers: 2, top_p: 1000 }
    }

    /// The same with fewer pages where fewer hold `top_p` thousandths of the estimated weight; other kinds stay as they are.
    #[must_use]
    pub fn trimmed(self, top_p: u32) -> Self {
        match self {
            Self::Sparse { pages, sinks, window, dense_layers, .. } => {
                Self::Sparse { pages, sinks, window, dense_layers, top_p }
            }
            other => other,
        }
    }

    /// A sliding window of so many pages, one of them sinks; two dense layers.
    #[must_use]
    pub fn window(pages: u32) -> Self {
        Self::Window { sinks: 1, window: pages.saturating_sub(1), dense_layers: 2 }
    }

    /// Pages attended to at most; `None` when all are.
    #[must_use]
    pub fn pages(&self) -> Option<u32> {
        match self {
            Self::Dense => None,
            Self::Sparse { pages, .. } => Some(*pages),
            Self::Window { sinks, window, .. } => Some(sinks.saturating_add(*window)),
        }
    }

    /// Words that the lists of pages of one row take, one list per KV head where pages are chosen, with what each list is
    /// too short where they may be trimmed; 0 when all pages are attended to.
    #[must_use]
    pub fn list_words(&self, kv_heads: u64) -> u64 {
        let lists = if self.chooses() { kv_heads } else { 1 };
        self.pages().map_or(0, |n| (u64::from(n) + u64::from(self.trims())).saturating_mul(lists))
    }

    /// Layers that attend to everything; `u32::MAX` when all do.
    #[must_use]
    pub fn dense_layers(&self) -> u32 {
        match self {
            Self::Dense => u32::MAX,
            Self::Sparse { dense_layers, .. } | Self::Window { dense_layers, .. } => *dense_layers,
        }
    }

    /// KV heads may attend to fewer pages than the budget, each to a number of its own.
    #[must_use]
    pub fn trims(&self) -> bool {
        matches!(self, Self::Sparse { top_p, .. } if *top_p < 1000)
    }

    /// Pages are chosen by bounds, which needs summaries of pages.
    #[must_use]
    pub fn chooses(&self) -> bool {
        matches!(self, Self::Sparse { .. })
    }
}

impl std::fmt::Display for Attention {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Dense => f.write_str("dense"),
            Self::Sparse { pages, sinks, window, dense_layers, top_p } => {
                let chosen = pages.saturating_sub(sinks.saturating_add(*window));
                let (share, most) = if self.trims() {
                    (format!(":{}", f64::from(*top_p) / 1000.0), "at most ")
                } else {
                    (String::new(), "")
                };
                write!(
                    f,
                    "sparse:{pages}{share} ({most}{chosen} of {pages} pages by bounds, {sinks} first, {window} last, \
                     {dense_layers} dense layers)"
                )
            }
            Self::Window { sinks, window, dense_layers } => {
                let pages = sinks.saturating_add(*window);
                write!(f, "window:{pages} ({sinks} first, {window} last, {dense_layers} dense layers)")
            }
        }
    }
}

/// The schedule of one model on one target.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ModelSchedule {
    /// Features the kernels may use.
    pub isa: Isa,
    /// Threads of the team.
    pub threads: u32,
    /// Rows whose accumulators live in registers together: 1, 2, 4 or 8. Kernels accept any number of rows and take
    /// the rest in smaller blocks of 4, 2, 1.
    pub row_block: u32,
    /// Rows from which products of the class int8 per channel go through tiles of 16 rows, 1 to 16; 0: never. The rows that
    /// do not fill so much of a tile are taken by blocks. The bits are the same; it is for machines with AMX.
    pub tile_from: u32,
    /// Rows per attention item at most.
    pub attend_rows: u32,
    /// Rows of one step at most.
    pub max_rows: u32,
    /// Rows of one step that may want logits at most.
    pub max_head_rows: u32,
    /// Fused or split prologues.
    pub prologue: Prologue,
    /// Gate and up tiles interleaved in memory (needs equal types).
    pub interleave: bool,
    /// Arithmetic class.
    pub numerics: Numerics,
    /// Distance of software prefetch in weight streams, bytes; 0: none.
    pub prefetch: u32,
    /// How keys and values are kept.
    pub kv: KvFormat,
    /// Which pages decoded tokens attend to.
    pub attention: Attention,
}

impl ModelSchedule {
    /// Launches of the program that a model of so many layers gets.
    #[must_use]
    pub fn launches(&self, layers: u32) -> Launches {
        Launches::of(layers, self.prologue, self.kv, self.attention)
    }
}

/// Launches of the forward program, each run by the whole team and ended by a barrier: what lowering makes and prices count.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Launches {
    /// Of all layers, once per step.
    pub layers: u64,
    /// For the rows of a step that want logits.
    pub head: u64,
}

impl Launches {
    /// Those of a model of so many layers.
    #[must_use]
    pub fn of(layers: u32, prologue: Prologue, kv: KvFormat, attention: Attention) -> Self {
        // Projections, attention, output, gate and up, down; two norms and the fold of partials where they are split off.
        let (each, head) = match prologue {
            Prologue::Fused => (5, 2),
            Prologue::Split => (8, 3),
        };
        // New keys are rounded, or full pages summarised, before anything attends to them.
        let appends = match kv {
            KvFormat::Int8 => layers,
            KvFormat::F16 if attention.chooses() => layers.saturating_sub(attention.dense_layers()),
            KvFormat::F16 => 0,
        };
        Self { layers: each * u64::from(layers) + u64::from(appends), head }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn absurd_attention_has_words() {
        let text = Attention::Window { sinks: 2, window: u32::MAX, dense_layers: 0 }.to_string();
        assert_eq!(text, "window:4294967295 (2 first, 4294967295 last, 0 dense layers)");
        assert_eq!(Attention::window(16).to_string(), "window:16 (1 first, 15 last, 2 dense layers)");
    }
}
