//! `inferc new`: a project to start from.

use super::{OK, say};
use crate::args::NewArgs;
use anyhow::{Context as _, Result, bail};
use std::fs;

const STRATEGY: &str = r#"/// Self-consistency: sample several answers, stop when the vote is settled.
use std::answer::boxed;
use std::prompts::solve;

model base : Generator;
tunable settled: Float = 0.75 in 0.5..1.0;

strategy answer(q: Text, n: Int = 8 in 1..=16) -> Vote<Text>
within { tokens: 8ktok }
{
    let tries = sample(base, solve(q), n: n, max: 500tok, temp: 0.7, out: boxed) on {
        set(d) when d.len >= 3 and agree(d) >= settled => stop;
    };
    vote(tries, by: |s| s.value)
}

test "the majority wins" {
    mock base = ["\\boxed{4}", "\\boxed{4}", "\\boxed{4}", "\\boxed{5}"];
    let v = answer("2+2?", 4);
    assert v.value == "4";
}
"#;

const MANIFEST: &str = r#"edition = "2026"

[models.base]
gguf = "model.gguf"    # a llama or qwen2 model in GGUF
"#;

/// Runs the command.
pub(crate) fn run(args: &NewArgs) -> Result<u8> {
    let dir = &args.name;
    if dir.exists() {
        bail!("{} exists already: choose another name", dir.display());
    }
    fs::create_dir_all(dir).with_context(|| format!("cannot make the folder {}", dir.display()))?;
    for (name, text) in [("answer.infer", STRATEGY), ("infer.toml", MANIFEST)] {
        fs::write(dir.join(name), text).with_context(|| format!("cannot write {}", dir.join(name).display()))?;
    }
    let dir = dir.display();
    say(&format!("made {dir}/answer.infer and {dir}/infer.toml\nnext: inferc test {dir}/answer.infer"));
    Ok(OK)
}
