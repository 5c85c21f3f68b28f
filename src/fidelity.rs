//! What a lossy cache or attention does to a model's answers, beside what it costs: the distance of next-token
//! distributions from those of dense attention over f16, perplexity, pass keys found in long contexts, seconds per token.
//!
//! Takes a model file, a text, contexts and alternatives. Everything that is compared is decoded token by token behind a
//! prompt that is computed at once, because only decoded tokens attend to a part of the context; a pass key's question is
//! decoded too, so that finding the key is up to the alternative. It draws nothing and knows no strategy.

use crate::machine::Machine;
use crate::measure;
use anyhow::{Context as _, Result, bail};
use ir::schedule::{Attention, KvFormat};
use optimizer::lossy::Forced;
use runtime::forward::LocalModel;
use runtime::model::{Append, LanguageModel, SeqId, Wanted};
use runtime::tokenizer::Tokenizer;
use std::path::Path;
use std::time::Instant;

/// A cache and the attention over it.
pub type Way = (KvFormat, Attention);

/// What everything is compared with.
pub const EXACT: Way = (KvFormat::F16, Attention::Dense);

/// What a pass key is hidden in: repeated until the context has its length.
const FILLER: &str = "The grass is green. The sky is blue. The sun is yellow. Here we go. There and back again.\n";
/// Digits of a pass key.
const DIGITS: usize = 5;

/// How much is measured.
#[derive(Clone, Copy, Debug)]
pub struct Extent {
    /// Tokens at the end of a context that are predicted.
    pub predict: usize,
    /// Pass keys per context.
    pub needles: usize,
}

/// One alternative at one context.
#[derive(Clone, Debug)]
pub struct Fidelity {
    /// Which.
    pub way: Way,
    /// Tokens of context at the end.
    pub context: usize,
    /// Mean and largest Kullback-Leibler divergence of next-token distributions from the exact ones, nats.
    pub kl: (f64, f64),
    /// Share of positions whose most probable token is the exact one's.
    pub top1: f64,
    /// Perplexity of the text.
    pub perplexity: f64,
    /// Pass keys found; as many as were hidden at most.
    pub found: usize,
    /// Depths (share of the context before the key) at which the key was not found.
    pub missed: Vec<f64>,
    /// Median seconds of a decode step.
    pub step_seconds: f64,
    /// Bytes of KV per token.
    pub kv_bytes_per_token: u64,
}

/// The model, made to use one alternative.
fn load(path: &Path, machine: &Machine, (kv, attention): Way) -> Result<LocalModel> {
    let forced = Forced { kv: Some(kv), attention: Some(attention) };
    Ok(measure::load(path, &Machine { forced, ..machine.clone() }, machine.threads)?.0)
}

/// Natural logarithms of a row's probabilities.
type LogProbs = Vec<f32>;

/// Measures the alternatives, the exact one first, at each context; `each` sees a result as soon as there is one.
///
/// # Errors
/// When the model cannot be loaded, the text is too short for a context, or a context too long for the model.
pub fn measure(
    path: &Path,
    machine: &Machine,
    text: &str,
    contexts: &[usize],
    ways: &[Way],
    extent: Extent,
    each: &mut dyn FnMut(&Fidelity),
) -> Result<()> {
    let mut exact = load(path, machine, EXACT)?;
    let tokenizer = Tokenizer::from_gguf(exact.loaded().gguf()).context("the model's tokenizer")?;
    let tokens = tokenizer.encode(text, false).context("the text")?;
    let most = exact.info().context;
    for &context in contexts {
        if context > most || extent.predict == 0 || extent.predict + 64 > context {
            bail!("a context of {context} tokens with {} predicted does not fit: the model has {most}", extent.predict);
        }
        if tokens.len() < context {
            bail!("the text has {} tokens, a context of {context} needs as many: name more with --text", tokens.len());
        }
    }
    let mut references = Vec::new();
    for &context in contexts {
        let (rows, result) = look(&mut exact, &tokenizer, EXACT, &tokens[..context], extent, None)?;
        each(&result);
        references.push(rows);
    }
    drop(exact);
    for &way in ways.iter().filter(|w| **w != EXACT) {
        let mut model = load(path, machine, way)?;
        for (&context, reference) in contexts.iter().zip(&references) {
            each(&look(&mut model, &tokenizer, way, &tokens[..context], extent, Some(reference))?.1);
        }
    }
    Ok(())
}

/// One alternative on one text; also the log-probabilities of every predicted position.
fn look(
    model: &mut LocalModel,
    tokenizer: &Tokenizer,
    way: Way,
    tokens: &[u32],
    extent: Extent,
    reference: Option<&Vec<LogProbs>>,
) -> Result<(Vec<LogProbs>, Fidelity)> {
    let (seq, start) = (model.create()?, tokens.len() - extent.predict);
    prompt(model, seq, &tokens[..start - 1])?;
    let (mut rows, mut seconds) = (Vec::with_capacity(extent.predict), Vec::with_capacity(extent.predict));
    for token in &tokens[start - 1..tokens.len() - 1] {
        let clock = Instant::now();
        rows.push(decode(model, seq, *token)?);
        seconds.push(clock.elapsed().as_secs_f64());
    }
    model.free(seq);
    seconds.sort_by(f64::total_cmp);
    #[allow(clippy::cast_precision_loss, reason = "a few hundred positions")]
    let n = rows.len() as f64;
    let surprise = |(row, token): (&LogProbs, &u32)| -f64::from(row[*token as usize]);
    let perplexity = (rows.iter().zip(&tokens[start..]).map(surprise).sum::<f64>() / n).exp();
    let (mut kl, mut same) = ((0.0, 0.0_f64), n);
    if let Some(reference) = reference {
        let pairs = || reference.iter().zip(&rows);
        let apart: Vec<f64> = pairs().map(|(p, q)| divergence(p, q)).collect();
        kl = (apart.iter().sum::<f64>() / n, apart.into_iter().fold(0.0, f64::max));
        #[allow(clippy::cast_precision_loss, reason = "a few hundred positions")]
        let agree = pairs().filter(|(p, q)| top(p) == top(q)).count() as f64;
        same = agree;
    }
    let missed = needles(model, tokenizer, tokens.len(), extent.needles)?;
    let fidelity = Fidelity {
        way,
        context: tokens.len(),
        kl,
        top1: same / n,
        perplexity,
        found: extent.needles - missed.len(),
        missed,
        step_seconds: seconds[seconds.len() / 2],
        kv_bytes_per_token: model.info().kv_bytes_per_token,
    };
    Ok((rows, fidelity))
}

fn prompt(model: &mut LocalModel, seq: SeqId, tokens: &[u32]) -> Result<()> {
    Ok(model.step(&[Append { seq, tokens, wanted: Wanted::None, decoded: false }], &mut |_, _, _| {})?)
}

/// Appends one token; the log-probabilities of the next one.
fn decode(model: &mut LocalModel, seq: SeqId, token: u32) -> Result<LogProbs> {
    let mut row = Vec::new();
    let mut sound = true;
    let tokens = [token];
    model.step(&[Append { seq, tokens: &tokens, wanted: Wanted::Last, decoded: true }], &mut |_, _, r| {
        sound = r.is_sound();
        row = r.logits.iter().map(|x| x - r.log_z).collect();
    })?;
    if sound { Ok(row) } else { bail!("the model gave logits that are not numbers") }
}

fn top(row: &LogProbs) -> usize {
    let best = |best: (usize, f32), (i, x): (usize, &f32)| if *x > best.1 { (i, *x) } else { best };
    row.iter().enumerate().fold((0, f32::NEG_INFINITY), best).0
}

/// Σ p·(ln p − ln q).
fn divergence(p: &LogProbs, q: &LogProbs) -> f64 {
    let term = |(p, q): (&f32, &f32)| f64::from(p.exp()) * (f64::from(*p) - f64::from(*q));
    p.iter().zip(q).map(term).sum::<f64>().max(0.0)
}

/// Hides a pass key at `count` depths of a context of about `length` tokens; the depths at which it was not found.
fn needles(model: &mut LocalModel, tokenizer: &Tokenizer, length: usize, count: usize) -> Result<Vec<f64>> {
    let encode = |text: &str| tokenizer.encode(text, false).context("a pass key's text");
    let opening = "There is a pass key hidden in a lot of irrelevant text. Find it and remember it.\n";
    let (opening, filler) = (encode(opening)?, encode(FILLER)?);
    let question = encode("What is the pass key? The pass key is")?;
    let mut missed = Vec::new();
    for i in 0..count {
        #[allow(clippy::cast_precision_loss, reason = "a few depths")]
        let depth = (i as f64 + 0.5) / count as f64;
        let key: String =
            (0..DIGITS).map(|d| char::from(b'0' + ((i * 7919 + d * 4793 + i * d * 31) % 10) as u8)).collect();
        let needle = encode(&format!("The pass key is {key}. Remember it. {key} is the pass key.\n"))?;
        let answer = encode(&format!(" {key}"))?;
        let room = length.saturating_sub(opening.len() + needle.len() + question.len() + answer.len() + 8);
        let repeats = room / filler.len();
        #[allow(
            clippy::cast_precision_loss,
            clippy::cast_possible_truncation,
            clippy::cast_sign_loss,
            reason = "small"
        )]
        let before = (repeats as f64 * depth) as usize;
        let mut tokens = opening.clone();
        (0..before).for_each(|_| tokens.extend(&filler));
        tokens.extend(&needle);
        (before..repeats).for_each(|_| tokens.extend(&filler));
        let seq = model.create()?;
        prompt(model, seq, &tokens)?;
        let mut row = Vec::new();
        for token in &question {
            row = decode(model, seq, *token)?;
        }
        let mut right = true;
        for token in &answer {
            right &= top(&row) == *token as usize;
            if !right {
                break;
            }
            row = decode(model, seq, *token)?;
        }
        model.free(seq);
        if !right {
            missed.push(depth);
        }
    }
    Ok(missed)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn divergence_of_distributions() {
        let row = |p: &[f32]| p.iter().map(|x| x.ln()).collect::<LogProbs>();
        let (p, q) = (row(&[0.5, 0.25, 0.25]), row(&[0.25, 0.5, 0.25]));
        assert!(divergence(&p, &p) < 1e-9);
        assert!((divergence(&p, &q) - 0.25 * 2.0f64.ln()).abs() < 1e-6);
        assert_eq!((top(&p), top(&q)), (0, 1));
    }
}
