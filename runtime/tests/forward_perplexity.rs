//! Perplexity of the reference text: tokenizer, kernels and statistics together against the published number.

mod forward_setup;

use forward_setup::{SMOLLM2, backend, load, model, reference_text, schedule, step};
use inferc_runtime::model::{LanguageModel, Wanted};
use inferc_runtime::tokenizer::Tokenizer;

/// Perplexity of a float32 forward pass over the same weights, context 512, second half of each of three chunks.
const EXACT: f64 = 32.987;

#[test]
fn smollm2_perplexity_is_within_one_percent() {
    if backend().is_none() {
        return;
    }
    let (Some(text), Some(loaded)) = (reference_text("perplexity.txt"), load(SMOLLM2, &schedule())) else { return };
    let tokenizer = Tokenizer::from_gguf(loaded.gguf()).expect("a tokenizer");
    let tokens = tokenizer.encode(&text, false).expect("encodes");
    let mut model = model(&loaded, 2, 40);
    let (mut sum, mut count) = (0.0, 0);
    for chunk in tokens.chunks_exact(512).take(3) {
        let seq = model.create().expect("a sequence");
        let rows = step(&mut model, &[(seq, chunk, Wanted::All)]);
        model.free(seq);
        for (row, next) in rows[256..511].iter().zip(&chunk[257..]) {
            sum += f64::from(row.stats[1] - row.logits[*next as usize]);
            count += 1;
        }
    }
    let perplexity = (sum / f64::from(count)).exp();
    eprintln!("{count} tokens: perplexity {perplexity:.3}, exact {EXACT}");
    assert_eq!(count, 3 * 255);
    assert!((perplexity / EXACT - 1.0).abs() < 0.01);
}
