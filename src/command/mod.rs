//! One file per command: arguments to library calls to output. Each returns the exit code; an `Err` is wrong usage or an
//! unreadable input and ends in exit code 2.

pub(crate) mod bench;
pub(crate) mod check;
pub(crate) mod compile;
pub(crate) mod cost;
pub(crate) mod doc;
pub(crate) mod doctor;
pub(crate) mod explain;
pub(crate) mod fidelity;
pub(crate) mod fmt;
pub(crate) mod inspect;
pub(crate) mod interrupt;
pub(crate) mod new;
pub(crate) mod plans;
pub(crate) mod profile;
pub(crate) mod run;
pub(crate) mod test;

use crate::args::{BackendArg, Binding, CompletionArgs, IsaArg, NumericsArg};
use anyhow::Result;
use clap::CommandFactory as _;
use codegen::Backend;
use inferc::inputs::Checked;
use inferc::machine::{Machine, Wishes};
use inferc::manifest::Manifest;
use inferc::prepare::Prepared;
use ir::plan::Assumptions;
use ir::schedule::Numerics;
use ir::strategy::Strategy;
use ir::target::Isa;
use optimizer::lossy::Forced;
use serde_json::Value;
use std::io::{IsTerminal as _, Write as _};
use std::sync::OnceLock;

/// Success.
pub(crate) const OK: u8 = 0;
/// The program, or its run, failed.
pub(crate) const FAILED: u8 = 1;
/// Wrong usage or unreadable input.
pub(crate) const USAGE: u8 = 2;
/// Only warnings, and they were denied.
pub(crate) const WARNED: u8 = 3;
/// Version of every JSON document: a new minor number adds fields, a new major number may change them.
pub(crate) const FORMAT_VERSION: &str = "1.0";

/// Prints data. A closed pipe ends the output silently, as `head` expects.
pub(crate) fn print(text: &str) {
    let mut out = std::io::stdout().lock();
    if let Err(e) = out.write_all(text.as_bytes()).and_then(|()| out.flush())
        && e.kind() != std::io::ErrorKind::BrokenPipe
    {
        let _ = LOST.set(e.to_string());
    }
}

/// Why printed data did not arrive: the first failure.
static LOST: OnceLock<String> = OnceLock::new();

/// The same for whoever decides on the exit code: a full disk must not look like success.
pub(crate) fn lost_output() -> Option<&'static str> {
    LOST.get().map(String::as_str)
}

/// Says words to the person.
pub(crate) fn say(text: &str) {
    let mut err = std::io::stderr().lock();
    let _ = writeln!(err, "{text}");
}

/// Prints a JSON document; the object gets `format_version` as its first field.
pub(crate) fn print_json(value: Value) {
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
pub(crate) fn color() -> bool {
    std::io::stderr().is_terminal() && std::env::var_os("NO_COLOR").is_none_or(|v| v.is_empty())
}

/// `inferc completions`
pub(crate) fn completions(args: &CompletionArgs) -> Result<u8> {
    let mut bytes = Vec::new();
    clap_complete::generate(args.shell, &mut crate::args::Cli::command(), "inferc", &mut bytes);
    print(&String::from_utf8_lossy(&bytes));
    Ok(OK)
}

impl Binding {
    /// The first option given that only a compilation heeds.
    pub(crate) fn of_compilation(&self) -> Option<&'static str> {
        let given = [
            ("--model", !self.models.is_empty()),
            ("--threads", self.threads.is_some()),
            ("--numerics", self.numerics.is_some()),
            ("--kv", self.kv.is_some()),
            ("--attention", self.attention.is_some()),
            ("--prompt", self.prompt.is_some()),
            ("--length-share", self.length_share.is_some()),
            ("--stop-chance", self.stop_chance.is_some()),
            ("--backend", self.backend.is_some()),
            ("--isa", self.isa.is_some()),
        ];
        given.into_iter().find(|(_, is)| *is).map(|(option, _)| option)
    }

    /// The first option given that says what texts are like.
    pub(crate) fn of_texts(&self) -> Option<&'static str> {
        let given = [
            ("--prompt", self.prompt.is_some()),
            ("--length-share", self.length_share.is_some()),
            ("--stop-chance", self.stop_chance.is_some()),
        ];
        given.into_iter().find(|(_, is)| *is).map(|(option, _)| option)
    }

    /// What plans assume.
    pub(crate) fn assumptions(&self) -> Assumptions {
        let usual = optimizer::ASSUMPTIONS;
        let prompt_tokens = self.prompt.map_or(usual.prompt_tokens, |n| n.clamp(1, 1 << 30));
        Assumptions {
            prompt_tokens,
            length_share: self.length_share.unwrap_or(usual.length_share),
            stop_chance: self.stop_chance.unwrap_or(usual.stop_chance),
        }
    }

    /// The circumstances that the options ask for, warnings said.
    pub(crate) fn machine(&self, manifest: Option<&Manifest>, cache: bool) -> Result<Machine> {
        if self.target.len() > 1 {
            anyhow::bail!("this command takes one --target");
        }
        self.machine_for(self.target.first().cloned(), manifest, cache)
    }

    /// The same for one of several targets.
    pub(crate) fn machine_for(
        &self,
        target: Option<String>,
        manifest: Option<&Manifest>,
        cache: bool,
    ) -> Result<Machine> {
        let wishes = Wishes {
            target,
            threads: self.threads,
            backend: self.backend.map(|b| match b {
                BackendArg::Llvm => Backend::Llvm,
                BackendArg::Cranelift => Backend::Cranelift,
            }),
            isa: self.isa.map(|level| Isa {
                avx2: true,
                avx512: level != IsaArg::Avx2,
                vnni: matches!(level, IsaArg::Avx512Vnni | IsaArg::AmxInt8),
                amx_int8: level == IsaArg::AmxInt8,
            }),
            numerics: self.numerics.map(|class| match class {
                NumericsArg::Int8 => Numerics::Int8,
                NumericsArg::F32 => Numerics::F32,
                NumericsArg::Int8Channel => Numerics::Int8Channel,
            }),
            forced: Forced { kv: self.kv, attention: self.attention },
            cache,
        };
        announced(&wishes, manifest)
    }
}

/// This machine with so many threads (`None`: all of them) as its own target; warnings said.
pub(crate) fn here(threads: Option<u32>) -> Result<Machine> {
    let (numerics, forced) = (None, Forced::default());
    let wishes = Wishes { target: None, threads, backend: None, isa: None, numerics, forced, cache: true };
    let machine = announced(&wishes, None)?;
    machine.runs_here()?;
    Ok(machine)
}

fn announced(wishes: &Wishes, manifest: Option<&Manifest>) -> Result<Machine> {
    let machine = Machine::new(wishes, manifest)?;
    for warning in &machine.warnings {
        say(&format!("warning: {warning}"));
    }
    Ok(machine)
}

/// Says the diagnostics of a checked file.
pub(crate) fn report_diagnostics(checked: &Checked) {
    say_diagnostics(&checked.diagnostics, &checked.sources);
}

/// A checked file and one of its strategies, ready to be planned; `None` when there are errors, which were said.
pub(crate) fn lowered(path: &std::path::Path, name: Option<&str>) -> Result<Option<(Checked, Strategy)>> {
    let checked = inferc::inputs::check(path)?;
    report_diagnostics(&checked);
    if !checked.is_clean() {
        return Ok(None);
    }
    match inferc::prepare::strategy(&checked, name)? {
        Ok(strategy) => Ok(Some((checked, strategy))),
        Err(diagnostics) => {
            say_diagnostics(&diagnostics, &checked.sources);
            Ok(None)
        }
    }
}

/// A strategy bound to the models of its manifest and the machine it can run on here; `None` as [`lowered`].
pub(crate) fn runnable(
    path: &std::path::Path,
    name: Option<&str>,
    binding: &Binding,
    cache: bool,
) -> Result<Option<(Checked, Machine, Prepared)>> {
    let Some((checked, strategy)) = lowered(path, name)? else { return Ok(None) };
    let manifest = inferc::manifest::load(path, binding.manifest.as_deref())?;
    let machine = binding.machine(Some(&manifest), cache)?;
    machine.runs_here()?;
    let prepared = Prepared::new(strategy, &manifest, &binding.models, &binding.set)?;
    Ok(Some((checked, machine, prepared)))
}

/// Says diagnostics.
pub(crate) fn say_diagnostics(diagnostics: &[ir::diagnostic::Diagnostic], sources: &inferc::render::Sources) {
    if !diagnostics.is_empty() {
        say(inferc::render::text(diagnostics, sources, color()).trim_end());
    }
}

/// The second Ctrl-C: the person means it.
#[expect(clippy::exit, reason = "the run did not react to the first interrupt")]
pub(crate) fn give_up() -> ! {
    std::process::exit(130)
}
