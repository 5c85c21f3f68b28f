//! Physical properties of a model's execution, chosen by enumeration with costed enforcers (in the manner of Cascades):
//! threads, rows per register block, where prologues run, interleaved weights, and per site the placement of a shared
//! prompt's keys. Rewrites never see these; every alternative gives the same tokens.

use crate::roofline::{Part, Roofline, Time};
use ir::model::Model;
use ir::plan::{Cost, Decision, PrefixMode};
use ir::schedule::{ModelSchedule, Numerics, Prologue};
use ir::target::{Target, TargetKind};

/// A typical step of the strategy on this model: how many rows decode together, over which contexts.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Demand {
    /// Sequences that decode together.
    pub(crate) branches: f64,
    /// Tokens of the shared prompt.
    pub(crate) prompt: f64,
    /// Tokens each sequence generates.
    pub(crate) tokens: f64,
}

/// Seconds per row and feature of a norm with quantisation, one thread: a few vector instructions per 16 features.
const PROLOGUE_SECONDS: f64 = 0.15e-9;

/// Chooses a model's schedule and says why.
pub(crate) fn schedule(
    role: &str,
    model: &Model,
    target: &Target,
    threads: u32,
    numerics: Numerics,
    demand: Demand,
) -> (ModelSchedule, Vec<Decision>) {
    let mut decisions = Vec::new();
    let group = (model.heads / model.kv_heads.max(1)).max(1);
    let registers = if target.isa.avx512 { 12 } else { 6 };
    let mut schedule = ModelSchedule {
        isa: target.isa,
        threads,
        row_block: 1,
        attend_rows: (registers / group).clamp(1, 8),
        max_rows: 512,
        max_head_rows: 64,
        prologue: Prologue::Fused,
        interleave: interleavable(model),
        numerics,
        prefetch: 0,
    };
    let mut decide = |topic: &str, chosen: String, cost: Cost, others: Vec<(String, Cost)>, reason: String| {
        let topic = format!("{topic} of {role}");
        decisions.push(Decision { topic, site: None, chosen, cost, runners_up: others, reason });
    };

    // Threads: all that were asked for, unless fewer are predicted to be as fast.
    let run = |threads: u32| Roofline { model, target, threads }.decode(demand.branches, demand.prompt, demand.tokens, false);
    let mut options: Vec<(u32, Time)> = (0..)
        .map(|i| 1u32 << i)
        .take_while(|t| *t < threads)
        .chain(std::iter::once(threads))
        .map(|t| (t, run(t)))
        .collect();
    options.sort_by(|a, b| a.1.seconds().total_cmp(&b.1.seconds()).then(a.0.cmp(&b.0)));
    let price = |t: &Time| t.cost(demand.branches * demand.tokens, 0.0, target);
    schedule.threads = options[0].0;
    let best = options[0].1;
    decide(
        "threads",
        format!("{}", options[0].0),
        price(&best),
        options[1..].iter().map(|(t, time)| (format!("{t}"), price(time))).collect(),
        format!("decode is bound by {}", best.bound_by()),
    );

    // Rows per register block: the largest that the registers hold; a smaller one reads unpacked weights more often.
    let most = if target.isa.avx512 { 8 } else { 2 };
    let blocks: Vec<u32> = [1, 2, 4, 8].into_iter().filter(|b| *b <= most).collect();
    let rows = demand.branches.max(f64::from(most)).max(demand.prompt.min(512.0));
    let unpack = |block: u32| {
        // Per tile block: unpacking costs about as much as two rows of dot products, shared by the rows of the block.
        let factor = 1.0 + 2.0 / f64::from(block);
        let macs = rows * Roofline::new(model, target).layer_macs();
        let seconds = macs * factor / (target.flops / 2.0).max(1.0);
        Cost { seconds, flops: 2.0 * macs, ..Cost::default() }
    };
    let mut priced: Vec<(u32, Cost)> = blocks.into_iter().map(|b| (b, unpack(b))).collect();
    priced.sort_by(|a, b| a.1.seconds.total_cmp(&b.1.seconds));
    schedule.row_block = priced[0].0;
    decide(
        "row block",
        format!("{} rows share an unpacked weight block", priced[0].0),
        priced[0].1,
        priced[1..].iter().map(|(b, c)| (format!("{b} rows"), *c)).collect(),
        format!("{} accumulators, 8 weight vectors and their scales fit the registers", priced[0].0),
    );

    // Prologues: repeated by every thread, or computed once behind one more barrier.
    let features = f64::from(3 * model.hidden + model.ffn) * f64::from(model.layers);
    let rows = demand.branches;
    let repeated = rows * (1.0 - 1.0 / f64::from(schedule.threads)) * features * PROLOGUE_SECONDS;
    let barriers = 4.0 * f64::from(model.layers) * target.launch;
    let per_step = |extra: f64| Cost { seconds: best.seconds() + extra * demand.tokens, ..price(&best) };
    let (fused, split) = (per_step(repeated), per_step(barriers));
    let single = schedule.threads == 1;
    let fuse = single || repeated <= barriers;
    schedule.prologue = if fuse { Prologue::Fused } else { Prologue::Split };
    let names = ["fused into their consumers", "kernels of their own"];
    let (chosen, other) = if fuse { ((names[0], fused), (names[1], split)) } else { ((names[1], split), (names[0], fused)) };
    decide(
        "prologues",
        chosen.0.to_owned(),
        chosen.1,
        vec![(other.0.to_owned(), other.1)],
        format!("{:.1} µs of repeated work against {:.1} µs of barriers per step", repeated * 1e6, barriers * 1e6),
    );

    // Interleaving gate and up costs nothing and makes one stream of two.
    let layout = if schedule.interleave { "tiles as stored, gate and up interleaved" } else { "tiles as stored" };
    let weights = Roofline::new(model, target).weight_bytes();
    let copy = Cost { bytes: weights, seconds: weights / target.bandwidth, ..Cost::default() };
    let f32_copy = Cost { bytes: 4.0 * weights, seconds: 4.0 * weights / target.bandwidth, ..Cost::default() };
    decide(
        "weights",
        layout.to_owned(),
        copy,
        vec![("a copy in f32".to_owned(), f32_copy)],
        "one pass over the weights per step: fewer bytes are faster".to_owned(),
    );
    (schedule, decisions)
}

/// Gate and up have one type in every layer.
fn interleavable(model: &Model) -> bool {
    (0..model.layers).all(|l| {
        let dtype = |part: &str| model.tensor(&format!("blk.{l}.{part}.weight")).map(|t| t.dtype);
        dtype("ffn_gate") == dtype("ffn_up")
    })
}

/// The alternatives for the keys of a prompt that `branches` sequences share, cheapest first.
pub(crate) fn prefix(roofline: &Roofline<'_>, demand: Demand) -> Vec<(PrefixMode, Time, f64)> {
    #[allow(clippy::cast_precision_loss, reason = "bytes per token are far below 2^53")]
    let per_token = roofline.model.kv_bytes_per_token() as f64;
    let Demand { branches, prompt, tokens } = demand;
    let own = branches * tokens * per_token;
    let shared = roofline.decode(branches, prompt, tokens, false);
    let mut options = vec![(PrefixMode::Shared, shared, own + prompt * per_token)];
    // A copy moves the prompt's keys once more for every branch but the first.
    let copied_bytes = (branches - 1.0).max(0.0) * prompt * per_token;
    let mut copied = shared;
    copied.kv_bytes += 2.0 * copied_bytes;
    copied.attend += 2.0 * copied_bytes / roofline.target.bandwidth;
    options.push((PrefixMode::Copied, copied, own + branches * prompt * per_token));
    #[allow(clippy::cast_precision_loss, reason = "a chunk is 256 keys")]
    let whole = (prompt / ir::program::CHUNK as f64).floor() * ir::program::CHUNK as f64;
    if branches > 1.0 && whole > 0.0 {
        let cascade = cascade(roofline, demand, whole);
        options.push((PrefixMode::Cascade, cascade, own + prompt * per_token));
    }
    options.sort_by(|a, b| a.1.seconds().total_cmp(&b.1.seconds()).then((a.0 as u8).cmp(&(b.0 as u8))));
    options
}

/// Decode with the whole shared chunks attended by groups of rows together, the rest row by row.
fn cascade(roofline: &Roofline<'_>, demand: Demand, whole: f64) -> Time {
    const STRETCHES: u32 = 8;
    let group = f64::from((roofline.model.heads / roofline.model.kv_heads.max(1)).max(1));
    let registers = if roofline.target.kind == TargetKind::Gpu { 64.0 } else if roofline.target.isa.avx512 { 12.0 } else { 6.0 };
    let together = (registers / group).floor().clamp(1.0, 8.0).min(demand.branches);
    let mut time = Time::default();
    for i in 0..STRETCHES {
        let keys = demand.tokens * (f64::from(i) + 0.5) / f64::from(STRETCHES) + demand.prompt - whole;
        let groups = (demand.branches / together).ceil();
        // The keys of a group are read once for its rows; groups read them again.
        let part = Part { count: together, rows: 1.0, keys, shared: whole, together: true };
        let mut step = roofline.step(&[Part { count: demand.branches, rows: 1.0, keys, shared: 0.0, together: false }], demand.branches);
        let with = roofline.step(&[part], 0.0);
        let without = roofline.step(&[Part { shared: 0.0, together: false, ..part }], 0.0);
        step.attend += (with.attend - without.attend).max(0.0) * groups;
        step.kv_bytes += (with.kv_bytes - without.kv_bytes).max(0.0) * groups;
        step.flops += (with.flops - without.flops).max(0.0) * groups;
        // One more fold per row and layer for the partial state of the shared chunks.
        step.launch += f64::from(roofline.model.layers) * demand.branches * 20e-9;
        time = time.then(step.times(demand.tokens / f64::from(STRETCHES)));
    }
    time
}
