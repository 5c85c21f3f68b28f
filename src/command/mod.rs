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

use crate::args::{BackendArg, Binding, CompletionArgs, IsaArg, NumericsArg};
use anyhow::Result;
use clap::CommandFactory as _;
use codegen::Backend;
use inferc::manifest::Manifest;
use inferc::machine::{Machine, Wishes};
use ir::schedule::Numerics;
use ir::target::Isa;
use serde_json::Value;
use std::io::{IsTerminal as _, Write as _};

/// Success.
pub const OK: u8 = 0;
/// The program, or its run, failed.
pub const FAILED: u8 = 1;
/// Wrong usage or unreadable input.
pub const USAGE: u8 = 2;
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

impl Binding {
    /// The circumstances that the options ask for, warnings said.
    pub fn machine(&self, manifest: Option<&Manifest>, cache: bool) -> Result<Machine> {
        if self.target.len() > 1 {
            anyhow::bail!("this command takes one --target");
        }
        self.machine_for(self.target.first().cloned(), manifest, cache)
    }

    /// The same for one of several targets.
    pub fn machine_for(&self, target: Option<String>, manifest: Option<&Manifest>, cache: bool) -> Result<Machine> {
        let wishes = Wishes {
            target,
            threads: self.threads,
            backend: self.backend.map(|b| match b {
                BackendArg::Llvm => Backend::Llvm,
                BackendArg::Cranelift => Backend::Cranelift,
            }),
            isa: self.isa.map(|i| Isa { avx2: true, avx512: i != IsaArg::Avx2, vnni: i == IsaArg::Avx512Vnni }),
            numerics: match self.numerics {
                NumericsArg::Int8 => Numerics::Int8,
                NumericsArg::F32 => Numerics::F32,
            },
            cache,
        };
        let machine = Machine::new(&wishes, manifest)?;
        for warning in &machine.warnings {
            say(&format!("warning: {warning}"));
        }
        Ok(machine)
    }
}

/// Writes a file all at once.
pub fn write_atomically(path: &std::path::Path, bytes: &[u8]) -> Result<()> {
    inferc::artifact::write(path, bytes)
}

/// Says the diagnostics of a checked file.
pub fn report_diagnostics(checked: &inferc::inputs::Checked) {
    say_diagnostics(&checked.diagnostics, &checked.sources);
}

/// Says diagnostics.
pub fn say_diagnostics(diagnostics: &[ir::diagnostic::Diagnostic], sources: &inferc::render::Sources) {
    if !diagnostics.is_empty() {
        say(inferc::render::text(diagnostics, sources, color()).trim_end());
    }
}

/// The second Ctrl-C: the person means it.
#[expect(clippy::exit, reason = "the run did not react to the first interrupt")]
pub fn give_up() -> ! {
    std::process::exit(130)
}
