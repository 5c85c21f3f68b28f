//! What commands read from outside: sources, models, targets, and which role is bound to what.
//!
//! Every failure names the file or option, the cause and the remedy.

use crate::manifest::{Bound, Manifest, TargetRef};
use crate::profile::FORMAT;
use crate::render::Sources;
use anyhow::{Context, Result, anyhow, bail};
use ir::model::Model;
use ir::strategy::{Binding, Role, RoleKind};
use ir::target::{KernelRate, Target};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

/// Sources larger than this are refused.
const MAX_SOURCE: u64 = 16 << 20;

/// `FILE[::STRATEGY]` split.
#[must_use]
pub fn split(source: &str) -> (PathBuf, Option<String>) {
    match source.rsplit_once("::") {
        Some((file, name)) if !name.is_empty() && !name.contains(['/', '.']) => (file.into(), Some(name.to_owned())),
        _ => (source.into(), None),
    }
}

/// The text of a source file: regular files up to 16 MiB, UTF-8.
///
/// # Errors
/// When it cannot be read, is too large or is not UTF-8.
pub fn source_text(path: &Path) -> Result<String> {
    let shown = path.display();
    let meta = std::fs::metadata(path).with_context(|| format!("cannot read {shown}: check the path"))?;
    if !meta.is_file() {
        bail!("cannot read {shown}: it is not a regular file");
    }
    if meta.len() > MAX_SOURCE {
        bail!("{shown} has {} bytes: sources are limited to {MAX_SOURCE} bytes", meta.len());
    }
    let bytes = std::fs::read(path).with_context(|| format!("cannot read {shown}"))?;
    String::from_utf8(bytes).map_err(|e| {
        anyhow!(
            "{shown} is not UTF-8: the first invalid byte is at offset {}; save the file as UTF-8",
            e.utf8_error().valid_up_to()
        )
    })
}

/// A checked program and everything needed to talk about it.
#[derive(Debug)]
pub struct Checked {
    /// The syntax tree of the main file.
    pub file: dsl::ast::File,
    /// The program.
    pub program: dsl::hir::Program,
    /// Diagnostics of parser and checker, in order of place.
    pub diagnostics: Vec<ir::diagnostic::Diagnostic>,
    /// All sources read; index = file number.
    pub sources: Sources,
}

impl Checked {
    /// No errors.
    #[must_use]
    pub fn is_clean(&self) -> bool {
        self.diagnostics.iter().all(|d| d.severity != ir::diagnostic::Severity::Error)
    }
}

/// Reads, parses and checks a file and what it uses. Imported files lie in the main file's folder.
///
/// # Errors
/// When the main file cannot be read; everything else is a diagnostic.
pub fn check(path: &Path) -> Result<Checked> {
    let text = source_text(path)?;
    Ok(check_text(&path.display().to_string(), text, path.parent().unwrap_or(Path::new("."))))
}

/// The same for a text that is already read.
#[must_use]
pub fn check_text(name: &str, text: String, folder: &Path) -> Checked {
    let (file, syntax) = dsl::parse(&text, 0);
    let loader = |path: &str| -> Option<String> { beside(folder, path) };
    let (program, found) = dsl::check::check(name, &text, &file, &loader);
    let mut diagnostics = dsl::messages(syntax, found);
    diagnostics.sort_by_key(|d| (d.span, d.severity, d.code));
    let sources = Sources(program.sources.iter().map(|s| (s.path.clone(), s.text.clone())).collect());
    Checked { file, program, diagnostics, sources }
}

/// The text of a file in `folder` or below it; nothing outside can be reached.
fn beside(folder: &Path, path: &str) -> Option<String> {
    let relative = Path::new(path);
    if !relative.components().all(|c| matches!(c, std::path::Component::Normal(_))) {
        return None;
    }
    let full = folder.join(relative).canonicalize().ok()?;
    let root = if folder.as_os_str().is_empty() { Path::new(".") } else { folder };
    if !full.starts_with(root.canonicalize().ok()?) {
        return None;
    }
    source_text(&full).ok()
}

/// A model's shape: a known name, a GGUF file or a `config.json`.
///
/// # Errors
/// When it is neither.
pub fn model_shape(name: &str) -> Result<Model> {
    if let Some(model) = ir::model::known(name) {
        return Ok(model);
    }
    let path = Path::new(name);
    if !path.exists() {
        bail!("no model `{name}`: neither a known shape (inferc cost --list) nor a file");
    }
    if path.extension().is_some_and(|e| e == "json") {
        let text = source_text(path)?;
        return runtime::model_config::model_from_config(&text).map_err(|e| anyhow!("{name}: {e}"));
    }
    Ok(runtime::gguf::Gguf::open(path)?.model()?)
}

/// A target: a built-in profile, a name of the manifest, or a profile file.
///
/// # Errors
/// When it is none of these or the file is malformed.
pub fn target(name: &str, manifest: Option<&Manifest>) -> Result<Target> {
    if let Some(named) = manifest.and_then(|m| m.targets.get(name)) {
        return match named {
            TargetRef::Builtin(builtin) => ir::target::builtin(builtin).ok_or_else(|| unknown_target(builtin)),
            TargetRef::File(path) => profile(path),
        };
    }
    match ir::target::builtin(name) {
        Some(target) => Ok(target),
        None if Path::new(name).is_file() => profile(Path::new(name)),
        None => Err(unknown_target(name)),
    }
}

fn unknown_target(name: &str) -> anyhow::Error {
    anyhow!(
        "no target `{name}`: known are {}, names of [targets] in infer.toml, or a profile file written by \
             `inferc profile-device`",
        ir::target::names().join(", ")
    )
}

/// Reads a measured profile.
///
/// # Errors
/// When the file is no profile, one of another format, or its numbers make no sense.
pub fn profile(path: &Path) -> Result<Target> {
    let text = source_text(path)?;
    let broken = || format!("{} is no profile: write one with `inferc profile-device -o FILE`", path.display());
    let document: serde_json::Value = serde_json::from_str(&text).with_context(broken)?;
    let inner = match document.get("target") {
        Some(target) => {
            let format = document.get("format").and_then(serde_json::Value::as_u64).unwrap_or(1);
            if format != FORMAT {
                bail!(
                    "{} holds a profile of format {format}, this version reads format {FORMAT}: measure again with \
                     `inferc profile-device`",
                    path.display()
                );
            }
            target.clone()
        }
        None => document,
    };
    let target: Target = serde_json::from_value(inner).with_context(broken)?;
    let sound = |x: f64| x.is_finite() && x > 0.0;
    let whole = |k: &KernelRate| sound(k.one_thread) && sound(k.all_threads) && sound(k.bytes) && k.rows > 0;
    let rates = target.kernels.iter().all(whole) && target.start.is_finite() && target.start >= 0.0;
    let reads = target.read.iter().all(|b| sound(b.bytes) && sound(b.one_thread) && sound(b.all_threads));
    if !(sound(target.flops) && sound(target.bandwidth) && sound(target.memory) && rates && reads && target.threads > 0)
    {
        bail!("{}: rates must be positive numbers; measure again with `inferc profile-device`", path.display());
    }
    Ok(target)
}

/// What every role of a strategy is bound to: the command line first, then the manifest, then the source.
///
/// # Errors
/// Names the first role that is bound to nothing or to something that cannot play its kind.
pub fn bind(roles: &[Role], manifest: &Manifest, given: &[String]) -> Result<Vec<Binding>> {
    let mut by_flag = BTreeMap::new();
    for entry in given {
        let (role, file) = entry.split_once('=').with_context(|| format!("--model {entry}: expected ROLE=FILE"))?;
        if !roles.iter().any(|r| r.name == role) {
            let known: Vec<_> = roles.iter().map(|r| r.name.as_str()).collect();
            bail!("--model {entry}: the strategy has no role `{role}`; its roles are {}", known.join(", "));
        }
        by_flag.insert(role, Binding::Gguf(file.to_owned()));
    }
    roles.iter().map(|role| bind_one(role, manifest, by_flag.remove(role.name.as_str()))).collect()
}

fn bind_one(role: &Role, manifest: &Manifest, flag: Option<Binding>) -> Result<Binding> {
    let name = &role.name;
    let binding = match (flag, manifest.models.get(name), &role.binding) {
        (Some(binding), _, _) => binding,
        (None, Some(Bound::Local(binding)), _) | (None, None, Some(binding)) => binding.clone(),
        (None, Some(Bound::Endpoint(url)), _) => bail!(
            "role `{name}` is bound to the endpoint {url}: this version runs local models only; bind a GGUF file with \
             --model {name}=FILE"
        ),
        (None, None, None) => bail!(
            "role `{name}` is bound to no model: add [models.{name}] gguf = \"FILE\" to infer.toml next to the source, \
             or pass --model {name}=FILE"
        ),
    };
    let local = matches!(binding, Binding::Gguf(_));
    match role.kind {
        RoleKind::Generator if !local => {
            bail!("role `{name}` is a Generator: it needs gguf = \"FILE\", not a verifier")
        }
        RoleKind::Scorer | RoleKind::Verifier if local => bail!(
            "role `{name}` is a {:?}: reward models are not executable in this version; bind exact, numeric, regex or \
             command",
            role.kind
        ),
        _ => Ok(binding),
    }
}

/// `NAME=NUMBER` options.
///
/// # Errors
/// When one is malformed.
pub fn settings(given: &[String]) -> Result<BTreeMap<String, String>> {
    given
        .iter()
        .map(|entry| {
            let (name, value) = entry.split_once('=').with_context(|| format!("--set {entry}: expected NAME=VALUE"))?;
            Ok((name.to_owned(), value.to_owned()))
        })
        .collect()
}
