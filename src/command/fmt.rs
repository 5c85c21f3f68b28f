//! `inferc fmt`: the canonical layout.

use super::{FAILED, OK, color, print, say};
use crate::args::FmtArgs;
use anyhow::{Context as _, Result};
use inferc::inputs;
use inferc::render::{self, Sources};
use std::io::Read as _;
use std::path::Path;

/// Runs the command.
pub(crate) fn run(args: &FmtArgs) -> Result<u8> {
    let mut code = OK;
    for path in &args.files {
        code = code.max(if path == Path::new("-") { stdin(args.check)? } else { file(path, args.check)? });
    }
    Ok(code)
}

fn stdin(check: bool) -> Result<u8> {
    let mut text = String::new();
    std::io::stdin().take(16 << 20).read_to_string(&mut text).context("cannot read standard input as UTF-8")?;
    let Some(formatted) = format("<stdin>", &text) else { return Ok(FAILED) };
    if check {
        if formatted != text {
            say("standard input is not in the canonical layout");
            return Ok(FAILED);
        }
    } else {
        print(&formatted);
    }
    Ok(OK)
}

fn file(path: &Path, check: bool) -> Result<u8> {
    let text = inputs::source_text(path)?;
    let Some(formatted) = format(&path.display().to_string(), &text) else { return Ok(FAILED) };
    if formatted == text {
        return Ok(OK);
    }
    if check {
        say(&format!("{} is not in the canonical layout; run inferc fmt {}", path.display(), path.display()));
        return Ok(FAILED);
    }
    inferc::artifact::write(path, formatted.as_bytes())?;
    Ok(OK)
}

/// The formatted text, or its syntax errors said.
fn format(name: &str, text: &str) -> Option<String> {
    match dsl::format(text) {
        Ok(formatted) => Some(formatted),
        Err(diagnostics) => {
            let sources = Sources(vec![(name.to_owned(), text.to_owned())]);
            say(render::text(&diagnostics, &sources, color()).trim_end());
            None
        }
    }
}
