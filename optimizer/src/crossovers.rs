//! From where on one way of doing the same becomes the faster one: int8 keys before 16-bit ones, a part of the pages before
//! all, a shared prompt attended together before branch by branch, more rows in a block, int8 per channel before weights as
//! stored, tiles before blocks.
//!
//! Takes a model on its target, returns for each pair of ways the point from which the second stays the faster one as far
//! as the model's context goes, by the cost model that decides. It allows nothing and chooses nothing.

use crate::physical::{Demand, prefix_step, row_block};
use crate::roofline::{Part, Roofline};
use ir::plan::PrefixMode;
use ir::program::PAGE;
use ir::schedule::{Attention, KvFormat, Numerics};

/// Budgets of pages that sparse attention is looked at with.
const BUDGETS: [u32; 4] = [16, 32, 64, 128];
/// Tokens of the shared prompts.
const PROMPTS: [u32; 2] = [512, 2048];
/// Branches and rows that are looked at.
const MOST_ROWS: u32 = 64;
/// Rows of a step that the arithmetic classes are compared at: up to a whole step of a prompt.
const CLASS_ROWS: u32 = 512;

/// A point from which one way is faster than another.
#[derive(Clone, Debug, PartialEq)]
pub struct Crossover {
    /// The way that is faster from there on.
    pub faster: String,
    /// The way that is faster before.
    pub than: String,
    /// What is counted: tokens of context, branches, rows of a step.
    pub unit: &'static str,
    /// The first count from which it stays faster; `None`: never within the range.
    pub from: Option<u32>,
    /// Where the range ends.
    pub most: u32,
    /// Time of the old way over that of the new one where the range ends.
    pub gain: f64,
}

/// The crossovers of a model.
#[must_use]
pub fn crossovers(roofline: &Roofline<'_>, numerics: Numerics) -> Vec<Crossover> {
    let context = roofline.model().context;
    let decode = |kv, attention| {
        let roofline = roofline.with_cache(kv, attention);
        move |keys: u32| {
            let part = Part { count: 1.0, rows: 1.0, keys: f64::from(keys), shared: 0.0, together: false };
            roofline.step(&[part], 1.0).seconds()
        }
    };
    let dense = decode(KvFormat::F16, Attention::Dense);
    let contexts = contexts(context);
    let mut all = Vec::new();
    let (int8, tokens) = (decode(KvFormat::Int8, Attention::Dense), "tokens of context");
    all.extend(crossover(("int8 keys and values", "f16"), tokens, &contexts, &dense, &int8));
    for pages in BUDGETS {
        let sparse = decode(KvFormat::F16, Attention::sparse(pages));
        all.extend(crossover((&format!("{pages} chosen pages"), "all pages"), tokens, &contexts, &dense, &sparse));
    }
    let branches: Vec<u32> = (2..=MOST_ROWS).collect();
    for prompt in PROMPTS.into_iter().filter(|p| *p < context) {
        let step = |mode| {
            move |n: u32| {
                let step = prefix_step(roofline, f64::from(n), f64::from(prompt), 0.0, mode);
                step.map_or(f64::INFINITY, |t| t.seconds())
            }
        };
        let names = (&*format!("prompt of {prompt} attended together"), "branch by branch");
        let (apart, together) = (step(PrefixMode::Shared), step(PrefixMode::Cascade));
        all.extend(crossover(names, "branches", &branches, &apart, &together));
    }
    all.extend(block(roofline, numerics));
    let rows: Vec<u32> = (1..=CLASS_ROWS).collect();
    let step = |class| {
        let roofline = roofline.with_numerics(class);
        move |rows: u32| {
            let part = Part { count: 1.0, rows: f64::from(rows), keys: 0.0, shared: 0.0, together: false };
            roofline.step(&[part], 0.0).seconds()
        }
    };
    let (stored, channel) = (step(Numerics::Int8), step(Numerics::Int8Channel));
    all.extend(crossover(("int8 per channel", "weights as stored"), "rows of a step", &rows, &stored, &channel));
    all.extend(tiles(roofline));
    all
}

/// The rows from which products of int8 per channel go through tiles, where tiles were measured.
fn tiles(roofline: &Roofline<'_>) -> Option<Crossover> {
    const MOST: u32 = 16;
    let channel = roofline.with_numerics(Numerics::Int8Channel);
    let gain = channel.tile_gain(f64::from(MOST)).filter(|_| roofline.target().isa.amx_int8)?;
    let from = Some(channel.tile_from()).filter(|rows| *rows > 0);
    let (faster, than) = ("int8 per channel in tiles".to_owned(), "in blocks of rows".to_owned());
    Some(Crossover { faster, than, unit: "rows of a step", from, most: MOST, gain })
}

/// The rows from which the planner takes the row block that it takes for many.
fn block(roofline: &Roofline<'_>, numerics: Numerics) -> Option<Crossover> {
    let priced = |rows: u32| {
        let demand = Demand { branches: f64::from(rows), prompt: 0.0, tokens: 1.0 };
        row_block(roofline, numerics, demand)
    };
    let (block, last) = priced(MOST_ROWS);
    let one = last.runners_up.iter().find(|o| o.0 == "1 row")?.1.seconds;
    let other = (1..MOST_ROWS).rev().find(|rows| priced(*rows).0 != block);
    let from = Some(other.map_or(1, |rows| rows + 1));
    let (faster, than) = (format!("blocks of {block} rows"), "single rows".to_owned());
    Some(Crossover { faster, than, unit: "rows of a step", from, most: MOST_ROWS, gain: one / last.cost.seconds })
}

/// Contexts that are looked at: whole pages, each about 3 % longer than the one before.
fn contexts(most: u32) -> Vec<u32> {
    let page = u32::try_from(PAGE).expect("a page is a few tokens");
    let mut all = Vec::new();
    let mut at = page;
    while at <= most {
        all.push(at);
        at = (at + at / 32).next_multiple_of(page).max(at + page);
    }
    all
}

/// The first of `counts` from which `new` stays below `old`; nothing where there is nothing to look at.
fn crossover(
    (faster, than): (&str, &str),
    unit: &'static str,
    counts: &[u32],
    old: &dyn Fn(u32) -> f64,
    new: &dyn Fn(u32) -> f64,
) -> Option<Crossover> {
    let most = *counts.last()?;
    let slower = counts.iter().rposition(|n| new(*n) >= old(*n));
    let from = counts.get(slower.map_or(0, |i| i + 1)).copied();
    Some(Crossover { faster: faster.to_owned(), than: than.to_owned(), unit, from, most, gain: old(most) / new(most) })
}

#[cfg(test)]
mod tests {
    use super::*;
    use ir::target::{KernelRate, Target, builtin};

    fn target(int8: f64, choose: f64) -> Target {
        let mut target = builtin("reference").expect("a built-in profile");
        let rate = |class: &str, rows, rate| KernelRate {
            class: class.to_owned(),
            rows,
            bytes: 1e8,
            one_thread: rate,
            all_threads: 2.0 * rate,
            spread: 0.0,
        };
        target.kernels = vec![
            rate("attend", 1, 1e8),
            rate("attend", 16, 4e8),
            rate("attend.int8", 1, int8 * 1e8),
            rate("attend.int8", 16, int8 * 4e8),
            rate("choose", 64, choose),
            rate("choose", 512, choose),
        ];
        target
    }

    #[test]
    fn a_crossover_is_where_the_new_way_stays_faster() {
        let cross = |old: &dyn Fn(u32) -> f64, new: &dyn Fn(u32) -> f64| {
            crossover(("a", "b"), "rows", &[1, 2, 3, 4, 5], old, new).expect("counts are given")
        };
        let found = cross(&|n| f64::from(n), &|_| 2.5);
        assert_eq!((found.from, found.most, found.gain), (Some(3), 5, 2.0));
        assert_eq!(cross(&|_| 1.0, &|_| 1.0).from, None);
        assert_eq!(cross(&|_| 2.0, &|_| 1.0).from, Some(1));
        // Faster once in between is not enough.
        assert_eq!(cross(&|_| 2.0, &|n| if n == 3 || n == 5 { 1.0 } else { 3.0 }).from, Some(5));
        assert!(crossover(("a", "b"), "rows", &[], &|_| 1.0, &|_| 1.0).is_none());
    }

    #[test]
    fn measured_rates_move_the_crossovers() {
        let model = ir::model::known("smollm2-135m").expect("a row of the table");
        let from = |target: &Target, faster: &str| {
            let all = crossovers(&Roofline::new(&model, target), Numerics::Int8);
            all.into_iter().find(|c| c.faster.starts_with(faster)).expect("this pair of ways is looked at").from
        };
        let (slow, fast) = (target(0.9, 1e6), target(1.5, 1e9));
        assert_eq!(from(&slow, "int8"), None, "slower at every length");
        let int8 = from(&fast, "int8").expect("faster at some length");
        assert!(int8 > 16, "a launch more per layer must be earned: {int8}");
        let pages = |target: &Target| from(target, "32 chosen").unwrap_or(u32::MAX);
        assert!(pages(&fast) > 32 * 16, "with as few pages nothing is left out");
        assert!(pages(&fast) < pages(&slow), "{} {}", pages(&fast), pages(&slow));
        let apart = from(&fast, "prompt of 512").expect("keys read together are faster");
        assert!(apart <= 8, "{apart}");
    }

    #[test]
    fn the_class_int8_per_channel_pays_from_some_rows_on() {
        let model = ir::model::known("smollm2-135m").expect("a row of the table");
        let mut target = target(1.0, 1e6);
        let mut rate = |class: &str, rows, rate: f64| {
            let (one_thread, all_threads) = (rate, 2.0 * rate);
            let class = class.to_owned();
            target.kernels.push(KernelRate { class, rows, bytes: 1e8, one_thread, all_threads, spread: 0.0 });
        };
        for (rows, stored, channel) in [(1, 2e10, 1e10), (16, 5e10, 4e10), (64, 5e10, 8e10)] {
            rate("linear.f16", rows, stored);
            rate("linear.int8_channel", rows, channel);
        }
        rate("linear.int8_channel_tiles", 16, 9e10);
        rate("linear.int8_channel_tiles", 128, 9e10);
        let of = |target: &Target, faster: &str| {
            let all = crossovers(&Roofline::new(&model, target), Numerics::Int8);
            all.into_iter().find(|c| c.faster.starts_with(faster))
        };
        // 16 rows take 0.32 and 0.4, 64 rows 1.28 and 0.8: they are equal at 22.9.
        let blocks = of(&target, "int8 per channel").expect("it is looked at");
        assert_eq!((blocks.from, blocks.most), (Some(23), 512));
        assert!((1.5..1.6).contains(&blocks.gain), "attention takes as long: {}", blocks.gain);
        assert_eq!(of(&target, "int8 per channel in tiles"), None, "there are no tiles here");
        // A tile takes 0.178, as blocks take for 4.9 rows.
        target.isa.amx_int8 = true;
        let tiles = of(&target, "int8 per channel in tiles").expect("they were measured");
        assert_eq!((tiles.from, tiles.most), (Some(5), 16));
        assert!((tiles.gain - 2.25).abs() < 1e-9, "{}", tiles.gain);
        let through = of(&target, "int8 per channel").expect("it is looked at").from.expect("it pays");
        assert!(through < 23, "{through}");
    }
}
