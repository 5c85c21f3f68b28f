//! `inferc check`: diagnostics of files, and the proved bounds of their strategies.

use super::{FAILED, OK, WARNED, color, print, print_json, say};
use crate::args::{CheckArgs, Format};
use anyhow::Result;
use dsl::bounds::BoundsRow;
use inferc::inputs::{self, Checked};
use inferc::{manifest, render};
use ir::diagnostic::{Diagnostic, Severity};
use serde_json::{Value, json};
use std::path::Path;

/// Runs the command.
pub(crate) fn run(args: &CheckArgs) -> Result<u8> {
    let mut code = OK;
    let mut diagnostics = Vec::new();
    let mut strategies = Vec::new();
    for path in &args.files {
        let mut checked = inputs::check(path)?;
        if args.fix && apply(path, &checked.diagnostics)? {
            checked = inputs::check(path)?;
        }
        code = code.max(severity(&checked.diagnostics, args.deny_warnings));
        let rows = if args.bounds && checked.is_clean() { dsl::bounds::bounds(&checked.program) } else { Vec::new() };
        let kv = kv_per_token(path, args, &checked)?;
        match args.format {
            Format::Json => {
                let Value::Array(found) = render::json(&checked.diagnostics, &checked.sources) else { continue };
                diagnostics.extend(found);
                strategies.extend(rows.iter().map(|row| document(path, row, kv)));
            }
            Format::Text => text(path, args.files.len() > 1, &checked, &rows, kv),
        }
    }
    if args.format == Format::Json {
        print_json(json!({ "ok": code == OK, "diagnostics": diagnostics, "strategies": strategies }));
    }
    Ok(code)
}

fn severity(diagnostics: &[Diagnostic], deny_warnings: bool) -> u8 {
    if diagnostics.iter().any(|d| d.severity == Severity::Error) {
        FAILED
    } else if deny_warnings && !diagnostics.is_empty() {
        WARNED
    } else {
        OK
    }
}

/// Bytes of KV per token of the largest generator that the manifest binds, for bounds in bytes.
fn kv_per_token(path: &Path, args: &CheckArgs, checked: &Checked) -> Result<Option<u64>> {
    if !args.bounds {
        return Ok(None);
    }
    let manifest = manifest::load(path, args.manifest.as_deref())?;
    let mut largest = None;
    for role in &checked.program.roles {
        if let Some(manifest::Bound::Local(ir::strategy::Binding::Gguf(file))) = manifest.models.get(&role.name)
            && Path::new(file).is_file()
        {
            let model = inputs::model_shape(file)?;
            largest = largest.max(Some(model.kv_bytes_per_token()));
        }
    }
    Ok(largest)
}

fn document(path: &Path, row: &BoundsRow, kv: Option<u64>) -> Value {
    let (b, d) = (row.bounds, row.declared);
    json!({
        "file": path.display().to_string(), "strategy": row.strategy,
        "tokens": b.tokens, "calls": b.calls, "live": b.live, "kv_tokens": b.kv_tokens,
        "kv_bytes": kv.map(|k| k.saturating_mul(b.kv_tokens)),
        "declared": { "tokens": d.tokens, "calls": d.calls, "kv_bytes": d.kv, "time_seconds": d.time, "usd": d.usd },
        "derivation": row.derivation,
    })
}

fn text(path: &Path, many: bool, checked: &Checked, rows: &[BoundsRow], kv: Option<u64>) {
    if !checked.diagnostics.is_empty() {
        say(render::text(&checked.diagnostics, &checked.sources, color()).trim_end());
    }
    if many && !rows.is_empty() {
        print(&format!("{}\n", path.display()));
    }
    if rows.is_empty() {
        return;
    }
    print(&format!(
        "{:<18} {:>10} {:>10}      {:>7} {:>6} {:>10}\n",
        "strategy", "tokens", "declared", "calls", "live", "KV"
    ));
    for row in rows {
        let (b, d) = (row.bounds, row.declared);
        let declared = d.tokens.map_or("—".to_owned(), grouped);
        let verdict = match d.tokens {
            Some(_) => "ok",
            None => "  ",
        };
        let kv = kv.map_or_else(
            || format!("{} tok", grouped(b.kv_tokens)),
            |k| ir::plan_text::bytes(to_f64(k.saturating_mul(b.kv_tokens))),
        );
        print(&format!(
            "{:<18} {:>10} {declared:>10}  {verdict}  {:>7} {:>6} {kv:>10}\n",
            row.strategy,
            grouped(b.tokens),
            grouped(b.calls),
            b.live,
        ));
    }
}

#[allow(clippy::cast_precision_loss, reason = "sizes for people")]
fn to_f64(x: u64) -> f64 {
    x as f64
}

/// `32 000`
pub(crate) fn grouped(x: u64) -> String {
    let digits = x.to_string();
    let mut out = String::new();
    for (i, c) in digits.chars().enumerate() {
        if i > 0 && (digits.len() - i).is_multiple_of(3) {
            out.push(' ');
        }
        out.push(c);
    }
    out
}

/// Writes the mechanical fixes of the main file back, last place first. True when something changed.
fn apply(path: &Path, diagnostics: &[Diagnostic]) -> Result<bool> {
    let mut text = inputs::source_text(path)?;
    let mut fixes: Vec<_> = diagnostics.iter().filter_map(|d| d.fix.as_ref()).filter(|f| f.span.file == 0).collect();
    fixes.sort_by_key(|f| std::cmp::Reverse((f.span.start, f.span.end)));
    let mut limit = text.len();
    let mut changed = false;
    for fix in fixes {
        let (start, end) = (fix.span.start as usize, fix.span.end as usize);
        if end <= limit && start <= end && text.is_char_boundary(start) && text.is_char_boundary(end) {
            text.replace_range(start..end, &fix.text);
            say(&format!("fixed: {}", fix.title));
            limit = start;
            changed = true;
        }
    }
    if changed {
        inferc::artifact::write(path, text.as_bytes())?;
    }
    Ok(changed)
}
