//! One file per command: arguments to library calls to output. Each returns the exit code; an `Err` is wrong usage or an
//! unreadable input and ends in exit code 2.

pub mod bench;
pub mod check;
pub mod compile;
pub mod cost;
pub mod doc;
pub mod doctor;
pub mod explain;
pub mod fmt;
pub mod inspect;
pub mod new;
pub mod profile;
pub mod run;
pub mod test;

use crate::args::CompletionArgs;
use anyhow::Result;
use clap::CommandFactory as _;
use serde_json::Value;
use std::io::{IsTerminal as _, Write as _};

/// Success.
pub const OK: u8 = 0;
/// The program, or its run, failed.
pub const FAILED: u8 = 1;
/// Only warnings, and they were denied.
pub const WARNED: u8 = 3;
/// Version of every JSON document: a new minor number adds fields, a new major number may change them.
pub const FORMAT_VERSION: &str = "1.0";

/// Prints data. A closed pipe ends the output silently, as `head` expects.
pub fn print(text: &str) {
    let mut out = std::io::stdout().lock();
    let _ = out.write_all(text.as_bytes());
    let _ = out.flush();
}

/// Says words to the person.
pub fn say(text: &str) {
    let mut err = std::io::stderr().lock();
    let _ = writeln!(err, "{text}");
}

/// Prints a JSON document; the object gets `format_version` as its first field.
pub fn print_json(value: Value) {
    let mut object = serde_json::Map::new();
    object.insert("format_version".to_owned(), FORMAT_VERSION.into());
    match value {
        Value::Object(fields) => object.extend(fields),
        other => {
            object.insert("value".to_owned(), other);
        }
    }
    print(&format!("{}\n", serde_json::to_string_pretty(&Value::Object(object)).unwrap_or_default()));
}

/// Colours are for terminals, unless `NO_COLOR` is set.
pub fn color() -> bool {
    std::io::stderr().is_terminal() && std::env::var_os("NO_COLOR").is_none_or(|v| v.is_empty())
}

/// `inferc completions`
pub fn completions(args: &CompletionArgs) -> Result<u8> {
    let mut bytes = Vec::new();
    clap_complete::generate(args.shell, &mut crate::args::Cli::command(), "inferc", &mut bytes);
    print(&String::from_utf8_lossy(&bytes));
    Ok(OK)
}
