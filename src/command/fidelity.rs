//! `inferc fidelity`: what int8 KV and attention to a part of the context do to a model's answers, and what they save.

use super::{OK, print};
use crate::args::{FidelityArgs, Format};
use anyhow::{Result, bail};
use inferc::fidelity::{self, EXACT, Extent, Fidelity, Way};
use inferc::inputs;
use runtime::gguf::Gguf;
use serde_json::json;

/// Contexts when none are named.
const CONTEXTS: [usize; 3] = [2048, 4096, 8000];

/// Runs the command.
pub(crate) fn run(args: &FidelityArgs) -> Result<u8> {
    let machine = super::here(args.threads)?;
    let mut text = String::new();
    for path in &args.texts {
        text.push_str(&inputs::source_text(path)?);
        text.push('\n');
    }
    let contexts = match &args.contexts[..] {
        [] => usual(Gguf::open(&args.model)?.model()?.context)?,
        named => named.to_vec(),
    };
    let extent = Extent { predict: args.predict, needles: args.needles };
    let mut exact: Vec<Fidelity> = Vec::new();
    if args.format == Format::Text {
        print(&format!(
            "{:<20} {:>7} {:>9} {:>9} {:>7} {:>10} {:>7} {:>10} {:>6}\n",
            "kv, attention", "context", "KL mean", "KL max", "top 1", "perplexity", "keys", "ms/token", "ratio"
        ));
    }
    fidelity::measure(&args.model, &machine, &text, &contexts, &args.with, extent, &mut |f| {
        if f.way == EXACT {
            exact.push(f.clone());
        }
        let base = exact.iter().find(|e| e.context == f.context).map_or(f.step_seconds, |e| e.step_seconds);
        match args.format {
            Format::Json => print(&format!("{}\n", line(f, args.needles))),
            Format::Text => print(&format!(
                "{:<20} {:>7} {:>9.5} {:>9.4} {:>7.3} {:>10.3} {:>4}/{:<2} {:>10.3} {:>6.2}\n",
                name(f.way),
                f.context,
                f.kl.0,
                f.kl.1,
                f.top1,
                f.perplexity,
                f.found,
                args.needles,
                f.step_seconds * 1e3,
                base / f.step_seconds
            )),
        }
    })?;
    Ok(OK)
}

/// The usual contexts that a model has, of `most` tokens.
fn usual(most: u32) -> Result<Vec<usize>> {
    let found: Vec<usize> = CONTEXTS.into_iter().filter(|c| *c <= most as usize).collect();
    if found.is_empty() {
        bail!("the model has a context of {most} tokens, less than the usual {CONTEXTS:?}: name one with --context");
    }
    Ok(found)
}

/// `int8, sparse:64`
fn name((kv, attention): Way) -> String {
    let words = attention.to_string();
    format!("{}, {}", kv.name(), words.split_once(' ').map_or(words.as_str(), |(kind, _)| kind))
}

fn line(f: &Fidelity, needles: usize) -> serde_json::Value {
    json!({
        "format_version": super::FORMAT_VERSION, "way": name(f.way), "kv": f.way.0.name(), "attention": f.way.1.to_string(),
        "pages": f.way.1.pages(), "context": f.context, "kl_mean": f.kl.0, "kl_max": f.kl.1, "top1": f.top1,
        "perplexity": f.perplexity, "needles": needles, "found": f.found, "missed_depths": f.missed,
        "step_seconds": f.step_seconds, "kv_bytes_per_token": f.kv_bytes_per_token,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn usual_contexts_are_those_the_model_has() {
        assert_eq!(usual(8192).expect("all"), CONTEXTS);
        assert_eq!(usual(4096).expect("two"), [2048, 4096]);
        let error = usual(1024).expect_err("none").to_string();
        assert!(error.contains("1024") && error.contains("--context"), "{error}");
    }
}
