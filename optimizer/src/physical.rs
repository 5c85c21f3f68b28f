//! Physical properties of a model's execution, chosen by enumeration with costed enforcers (in the manner of Cascades):
//! threads, rows per register block, where prologues run, interleaved weights, and per site the placement of a shared
//! prompt's keys. Rewrites never see these; every alternative gives the same tokens.

use crate::lossy::{self, Allowed, Forced};
use crate::roofline::{Part, Roofline, Time, attend_rows};
use ir::model::Model;
use ir::plan::{Cost, Decision, PrefixMode};
use ir::schedule::{Attention, KvFormat, ModelSchedule, Numerics, Prologue};
use ir::target::TargetKind;
use ir::tensor::DType;

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

/// Multiply-adds per second are those of rows of dot products; unpacking a block of quantised weights costs about two.
const UNPACK_ROWS: f64 = 2.0;
/// Converting a block of 16-bit or 32-bit weights.
const CONVERT_ROWS: f64 = 0.5;
/// Rows that one row of accumulators beyond the registers costs: a store and a load beside each multiply-add.
const SPILL_ROWS: f64 = 2.0;
/// Seconds until a second stream of weights runs at full speed: a few memory latencies per layer.
const STREAM_SECONDS: f64 = 0.3e-6;
/// Seconds to fold one more partial state of attention, per row and layer.
const FOLD_SECONDS: f64 = 20e-9;
/// Bytes ahead that a stream of weights asks for: a few microseconds of one or of several rows' arithmetic.
const PREFETCH: u32 = 8192;
/// Prompt rows of a step at most.
const MAX_ROWS: u32 = 512;

/// Chooses a model's schedule and says why.
pub(crate) fn schedule(
    role: &str,
    roofline: &Roofline<'_>,
    threads: u32,
    numerics: Numerics,
    demand: Demand,
    (allowed, forced): (Allowed, &Forced),
) -> (ModelSchedule, Vec<Decision>) {
    let (model, target) = (roofline.model(), roofline.target());
    let mut schedule = ModelSchedule {
        isa: target.isa,
        threads: 1,
        row_block: 1,
        tile_from: 0,
        attend_rows: attend_rows(model, target),
        max_rows: MAX_ROWS,
        max_head_rows: 64,
        prologue: Prologue::Fused,
        interleave: interleavable(model),
        numerics,
        prefetch: PREFETCH,
        kv: KvFormat::F16,
        attention: Attention::Dense,
    };
    let mut decisions = Vec::new();
    let (chosen, threads) = self::threads(roofline, threads, demand);
    schedule.threads = chosen;
    decisions.extend(threads);
    let roofline = &roofline.with_threads(chosen);
    schedule.tile_from = roofline.tile_from();
    let (kv, attention, lossy) = lossy::choose(roofline, allowed, forced, demand);
    (schedule.kv, schedule.attention) = (kv, attention);
    decisions.extend(lossy);
    let roofline = &roofline.with_cache(kv, attention);
    let (chosen, block) = row_block(roofline, numerics, demand);
    schedule.row_block = chosen;
    decisions.push(block);
    let (chosen, prologue) = prologue(roofline, f64::from(schedule.threads), demand);
    schedule.prologue = chosen;
    decisions.push(prologue);
    decisions.push(weights(roofline, schedule.interleave, numerics, demand));
    for decision in &mut decisions {
        decision.topic = format!("{} of {role}", decision.topic);
    }
    (schedule, decisions)
}

/// A decision among priced alternatives, the first of which is the choice.
fn decision(topic: &str, mut options: Vec<(String, Cost)>, reason: String) -> Decision {
    let (chosen, cost) = options.remove(0);
    Decision { topic: topic.to_owned(), site: None, chosen, cost, runners_up: options, reason }
}

/// Threads: all that were asked for, unless fewer are predicted to be as fast. Nothing to decide on a GPU.
fn threads(roofline: &Roofline<'_>, threads: u32, demand: Demand) -> (u32, Option<Decision>) {
    let target = roofline.target();
    if target.kind == TargetKind::Gpu || threads <= 1 {
        return (1, None);
    }
    let mut options: Vec<(u32, Time)> = (0..31)
        .map(|i| 1u32 << i)
        .take_while(|t| *t < threads)
        .chain(std::iter::once(threads))
        .map(|t| (t, roofline.with_threads(t).decode(demand.branches, demand.prompt, demand.tokens, false)))
        .collect();
    options.sort_by(|a, b| a.1.seconds().total_cmp(&b.1.seconds()).then(a.0.cmp(&b.0)));
    let reason = format!("decode is bound by {}; more threads also wait longer at barriers", options[0].1.bound_by());
    let price = |t: &Time| t.cost(demand.branches * demand.tokens, 0.0, target);
    let priced = options.iter().map(|(t, time)| (t.to_string(), price(time))).collect();
    (options[0].0, Some(decision("threads", priced, reason)))
}

/// Rows per register block: blocks share the unpacking of weights, rows beyond the registers spill.
pub(crate) fn row_block(roofline: &Roofline<'_>, numerics: Numerics, demand: Demand) -> (u32, Decision) {
    let (model, target) = (roofline.model(), roofline.target());
    let held: u32 = if target.isa.avx512 { 8 } else { 2 };
    let unpack = match numerics {
        Numerics::Int8Channel => 0.0,
        _ if stored_as_floats(model) => CONVERT_ROWS,
        _ => UNPACK_ROWS,
    };
    let rate = target.flops / 2.0;
    let bandwidth = target.read_bandwidth(roofline.weight_bytes(), target.threads);
    // A step of `rows`: full blocks, then the rest in blocks of 4, 2, 1.
    let step = |rows: f64, block: u32| {
        let full = (rows / f64::from(block)).floor();
        #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "the rest is below 8")]
        let rest = f64::from(((rows - full * f64::from(block)) as u32).count_ones());
        let spilled = full * f64::from(block.saturating_sub(held)) * SPILL_ROWS;
        let seconds = (rows + (full + rest) * unpack + spilled) * roofline.layer_macs() / rate;
        seconds.max(roofline.layer_bytes() / bandwidth)
    };
    let price = |block: u32| Cost {
        seconds: demand.tokens * step(demand.branches.round().max(1.0), block)
            + step(demand.prompt.min(f64::from(MAX_ROWS)), block),
        flops: 2.0 * (demand.tokens * demand.branches + demand.prompt) * roofline.layer_macs(),
        ..Cost::default()
    };
    // Unrolled exact arithmetic of 8 rows takes compilers longer than it ever saves a checking run.
    let most = if numerics == Numerics::F32 { 4 } else { 8 };
    let mut priced: Vec<(u32, Cost)> = [1, 2, 4, 8].into_iter().filter(|b| *b <= most).map(|b| (b, price(b))).collect();
    // Equal price: the larger block, which leaves room for longer prompts, as long as the registers hold it.
    let spills = |b: u32| b > held;
    priced.sort_by(|a, b| a.1.seconds.total_cmp(&b.1.seconds).then(spills(a.0).cmp(&spills(b.0))).then(b.0.cmp(&a.0)));
    let name = |b: u32| if b == 1 { "1 row".to_owned() } else { format!("{b} rows share an unpacked weight block") };
    let reason = format!("the registers hold the accumulators of {held} rows beside weights and scales");
    (priced[0].0, decision("row block", priced.into_iter().map(|(b, c)| (name(b), c)).collect(), reason))
}

/// The layers' matrices are stored as floats: nothing to unpack.
fn stored_as_floats(model: &Model) -> bool {
    let plain = |d: DType| matches!(d, DType::F32 | DType::F16 | DType::BF16);
    model.tensors.iter().filter(|t| t.shape.len() == 2 && t.name.starts_with("blk.")).all(|t| plain(t.dtype))
}

/// Prologues: repeated by every thread, or computed once behind one more barrier each. A layer has three, two norms and the
/// fold of attention's partials; one more norm is before the output matrix, of the rows that want logits.
fn prologue(roofline: &Roofline<'_>, threads: f64, demand: Demand) -> (Prologue, Decision) {
    let (model, target) = (roofline.model(), roofline.target());
    let wide = |x: u32| f64::from(x);
    let hidden = wide(model.hidden);
    let features = (2.0 * hidden + wide(model.heads) * wide(model.head_dim)) * wide(model.layers);
    let rows = demand.branches.round().max(1.0);
    let prompts = (demand.prompt / f64::from(MAX_ROWS)).ceil();
    let decoded = demand.tokens * spared_rows(rows, threads);
    let spared = (decoded + spared_rows(demand.prompt, threads)) * features + decoded * hidden;
    let [fused, split] = [Prologue::Fused, Prologue::Split].map(|p| roofline.with_prologue(p).launches());
    #[allow(clippy::cast_precision_loss, reason = "a few launches a layer")]
    let [layers, head] = [split.layers - fused.layers, split.head - fused.head].map(|more| more as f64);
    let more = (demand.tokens + prompts) * layers + (demand.tokens + 1.0) * head;
    let (repeated, barriers) = (spared * PROLOGUE_SECONDS, more * target.launch);
    let best = roofline.decode(demand.branches, demand.prompt, demand.tokens, false);
    let cost = best.cost(demand.branches * demand.tokens, 0.0, target);
    let with = |extra: f64| Cost { seconds: best.seconds() + extra, ..cost };
    let mut options = vec![
        ("fused into their consumers".to_owned(), with(repeated)),
        ("kernels of their own".to_owned(), with(barriers)),
    ];
    let fused = repeated <= barriers;
    if !fused {
        options.swap(0, 1);
    }
    let reason = format!(
        "{:.1} µs of repeated work against {:.1} µs of barriers in a prefill and {:.0} steps",
        repeated * 1e6,
        barriers * 1e6,
        demand.tokens
    );
    (if fused { Prologue::Fused } else { Prologue::Split }, decision("prologues", options, reason))
}

/// Rows of a step that the slowest thread is spared when the threads share its rows instead of each doing all of them: of a
/// single row none, because the others wait for the one that does it.
fn spared_rows(rows: f64, threads: f64) -> f64 {
    rows - (rows / threads).ceil()
}

/// The resident layout of weights: seconds and bytes that decode streams.
fn weights(roofline: &Roofline<'_>, interleave: bool, numerics: Numerics, demand: Demand) -> Decision {
    let (model, target) = (roofline.model(), roofline.target());
    let stream = |bytes: f64, streams: f64| {
        let seconds =
            bytes / target.read_bandwidth(bytes, target.threads) + streams * STREAM_SECONDS * f64::from(model.layers);
        Cost { seconds: demand.tokens * seconds, bytes: demand.tokens * bytes, ..Cost::default() }
    };
    let stored = roofline.weight_bytes();
    if numerics == Numerics::Int8Channel {
        // What it was chosen over is another class, and that is decided by whole plans.
        let layout = if interleave { "gate and up interleaved" } else { "gate and up apart" };
        let chosen = (format!("int8 per output channel, {layout}"), stream(stored, 0.0));
        return decision(
            "weights",
            vec![chosen],
            "the class int8-channel keeps one scale per output channel, 8 bits a weight".to_owned(),
        );
    }
    #[allow(clippy::cast_precision_loss, reason = "parameters are far below 2^53")]
    let wide = (4.0 * model.parameters as f64).max(stored);
    let apart = ("tiles as stored, gate and up apart".to_owned(), stream(stored, 1.0));
    let copy = ("a copy in f32".to_owned(), stream(wide, 1.0));
    if interleave {
        let one = ("tiles as stored, gate and up interleaved".to_owned(), stream(stored, 0.0));
        decision(
            "weights",
            vec![one, apart, copy],
            "every step streams all weights: few bytes in one stream".to_owned(),
        )
    } else {
        decision("weights", vec![apart, copy], "gate and up have different types; fewer bytes stream faster".to_owned())
    }
}

/// Gate and up have one type in every layer.
fn interleavable(model: &Model) -> bool {
    (0..model.layers).all(|l| {
        let dtype = |part: &str| model.tensor(&format!("blk.{l}.{part}.weight")).map(|t| t.dtype);
        dtype("ffn_gate") == dtype("ffn_up")
    })
}

/// A decode step of `branches` sequences with `keys` keys of their own each behind a shared prompt, whose keys are placed
/// one way; `None` when there is nothing to attend together. Making copies is not part of a step.
#[must_use]
pub fn prefix_step(roofline: &Roofline<'_>, branches: f64, prompt: f64, keys: f64, mode: PrefixMode) -> Option<Time> {
    #[allow(clippy::cast_precision_loss, reason = "a chunk is a few hundred keys")]
    let chunk = ir::program::CHUNK as f64;
    let whole = match mode {
        PrefixMode::Shared | PrefixMode::Copied => {
            let part = Part { count: branches, rows: 1.0, keys, shared: prompt, together: false };
            return Some(roofline.step(&[part], branches));
        }
        PrefixMode::Cascade => (prompt / chunk).floor() * chunk,
    };
    if whole == 0.0 {
        return None;
    }
    // Whole shared chunks are attended by groups of rows together, the rest row by row.
    let part = Part { count: branches, rows: 1.0, keys: keys + prompt - whole, shared: whole, together: true };
    let mut step = roofline.step(&[part], branches);
    step.launch += f64::from(roofline.model().layers) * branches * FOLD_SECONDS;
    Some(step)
}

/// Giving every branch but the first a copy of the prompt's keys: a read and a write.
pub(crate) fn copies(roofline: &Roofline<'_>, branches: f64, prompt: f64) -> Time {
    let bytes = 2.0 * (branches - 1.0).max(0.0) * prompt * roofline.kv_bytes_per_token();
    Time { attend: bytes / roofline.target().bandwidth, kv_bytes: bytes, memory_bound: 1.0, ..Time::default() }
}

#[cfg(test)]
mod tests {
    use super::*;
    use ir::{model::known, target::builtin};

    fn chosen(hidden: u32, ffn: u32, threads: f64, demand: Demand) -> Prologue {
        let mut model = known("smollm2-135m").expect("a row of the table");
        (model.hidden, model.ffn) = (hidden, ffn);
        let mut target = builtin("reference").expect("a built-in profile");
        target.launch = 80e-9;
        prologue(&Roofline::new(&model, &target), threads, demand).0
    }

    #[test]
    fn threads_spare_each_other_rows_and_never_the_only_one() {
        assert_eq!([1.0, 2.0, 3.0, 8.0].map(|rows| spared_rows(rows, 2.0)), [0.0, 1.0, 1.0, 4.0]);
        assert_eq!([1.0, 2.0, 3.0, 8.0].map(|rows| spared_rows(rows, 4.0)), [0.0, 1.0, 2.0, 6.0]);
        assert_eq!([1.0, 8.0].map(|rows| spared_rows(rows, 1.0)), [0.0, 0.0]);
    }

    /// However wide the model: one row is one row for every thread, and a barrier comes on top.
    #[test]
    fn a_single_sequence_behind_a_short_prompt_needs_no_barrier() {
        let one = Demand { branches: 1.0, prompt: 1.0, tokens: 128.0 };
        for (hidden, ffn) in [(576, 1536), (896, 4864), (4096, 14336)] {
            for threads in [1.0, 2.0, 16.0] {
                assert_eq!(chosen(hidden, ffn, threads, one), Prologue::Fused, "{hidden} on {threads}");
                // Many rows are shared, on more than one thread.
                let many = if threads > 1.0 { Prologue::Split } else { Prologue::Fused };
                assert_eq!(
                    chosen(hidden, ffn, threads, Demand { branches: 32.0, ..one }),
                    many,
                    "{hidden} on {threads}"
                );
            }
        }
        // A long prompt of many rows and a short answer: what its prefill saves counts too.
        let long = Demand { prompt: 2048.0, tokens: 16.0, ..one };
        assert_eq!(chosen(896, 4864, 2.0, long), Prologue::Split);
        assert_eq!(chosen(896, 4864, 2.0, Demand { prompt: 16.0, tokens: 512.0, ..one }), Prologue::Fused);
    }
}
