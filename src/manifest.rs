//! `infer.toml`: which model or verifier each role is, which targets exist, values of tunables.
//!
//! Takes the text and the folder it stands in, returns a [`Manifest`] with paths made absolute to that folder. It opens
//! no model. Unknown keys are errors with the nearest known key, so that a misspelt binding is never silently ignored.

use anyhow::{Context, Result, anyhow, bail};
use ir::strategy::Binding;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

/// A read manifest.
#[derive(Clone, Debug, Default)]
pub struct Manifest {
    /// File it was read from; `None` when there is none.
    pub path: Option<PathBuf>,
    /// Role → binding.
    pub models: BTreeMap<String, Bound>,
    /// Target name → built-in profile name or profile file.
    pub targets: BTreeMap<String, TargetRef>,
    /// Values of tunables.
    pub tunables: BTreeMap<String, f64>,
}

/// What a role is bound to.
#[derive(Clone, Debug, PartialEq)]
pub enum Bound {
    /// A model file or a verifier that runs here.
    Local(Binding),
    /// A served model: part of the manifest's format, not executable in this version.
    Endpoint(String),
}

/// Where a target's profile comes from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum TargetRef {
    /// A built-in profile.
    Builtin(String),
    /// A file that `profile-device` wrote.
    File(PathBuf),
}

const TOP: &[&str] = &["edition", "models", "targets", "tunables"];
const MODEL: &[&str] = &[
    "gguf",
    "exact",
    "numeric",
    "tolerance",
    "regex",
    "command",
    "lines",
    "endpoint",
    "model",
    "api_key_env",
    "calibration",
    "safetensors",
];
const TARGET: &[&str] = &["gpu", "cpu", "profile", "count"];

/// The manifest next to a source file, or the one given; an empty one when there is none.
///
/// # Errors
/// When a given file is missing or any manifest is malformed.
pub fn load(source: &Path, given: Option<&Path>) -> Result<Manifest> {
    let beside = source.parent().unwrap_or(Path::new(".")).join("infer.toml");
    let path = match given {
        Some(path) => path.to_owned(),
        None if beside.is_file() => beside,
        None => return Ok(Manifest::default()),
    };
    let text = crate::inputs::source_text(&path).with_context(|| {
        format!("cannot read the manifest {}: check the path given with --manifest", path.display())
    })?;
    parse(&text, &path).with_context(|| format!("in the manifest {}", path.display()))
}

/// Parses the text of a manifest; paths inside are relative to its folder.
///
/// # Errors
/// Names the table and key, the cause and what is expected.
pub fn parse(text: &str, path: &Path) -> Result<Manifest> {
    let table: toml::Table = text.parse().map_err(|e: toml::de::Error| {
        // The error's own text repeats the line, however long it is.
        let line = e.span().and_then(|s| text.get(..s.start)).map_or(1, |before| before.matches('\n').count() + 1);
        anyhow!("line {line} is not valid TOML: {}", e.message())
    })?;
    known_keys(&table, TOP, "the manifest")?;
    match table.get("edition").map(|e| e.as_str()) {
        None | Some(Some("2026")) => {}
        _ => bail!("edition: this inferc knows only edition = \"2026\""),
    }
    let base = path.parent().unwrap_or(Path::new("."));
    let mut manifest = Manifest { path: Some(path.to_owned()), ..Manifest::default() };
    for (role, value) in tables(&table, "models")? {
        let entry = model(value, base).with_context(|| format!("in [models.{role}]"))?;
        manifest.models.insert(role.clone(), entry);
    }
    for (name, value) in tables(&table, "targets")? {
        let entry = target(value, base).with_context(|| format!("in [targets.{name}]"))?;
        manifest.targets.insert(name.clone(), entry);
    }
    if let Some(value) = table.get("tunables") {
        let values = value.as_table().context("tunables must be a table of numbers: [tunables] name = 0.5")?;
        for (name, v) in values {
            let number = number(v).with_context(|| format!("tunable `{name}` must be a number"))?;
            manifest.tunables.insert(name.clone(), number);
        }
    }
    Ok(manifest)
}

fn tables<'a>(table: &'a toml::Table, key: &str) -> Result<Vec<(&'a String, &'a toml::Table)>> {
    let Some(value) = table.get(key) else { return Ok(Vec::new()) };
    let group = value.as_table().with_context(|| format!("{key} must be tables: [{key}.NAME]"))?;
    group
        .iter()
        .map(|(name, v)| {
            Ok((name, v.as_table().with_context(|| format!("{key}.{name} must be a table: [{key}.{name}]"))?))
        })
        .collect()
}

fn known_keys(table: &toml::Table, known: &[&str], place: &str) -> Result<()> {
    for key in table.keys() {
        if !known.contains(&key.as_str()) {
            bail!("unknown key `{key}` in {place}: known are {}", known.join(", "));
        }
    }
    Ok(())
}

fn number(value: &toml::Value) -> Option<f64> {
    #[allow(clippy::cast_precision_loss, reason = "settings are small numbers")]
    value.as_float().or_else(|| value.as_integer().map(|i| i as f64))
}

fn model(table: &toml::Table, base: &Path) -> Result<Bound> {
    known_keys(table, MODEL, "a model")?;
    let text = |key: &str| -> Result<Option<String>> {
        table
            .get(key)
            .map(|v| v.as_str().map(str::to_owned).with_context(|| format!("{key} must be a string")))
            .transpose()
    };
    let kinds = ["gguf", "exact", "numeric", "regex", "command", "lines", "endpoint", "safetensors"];
    let given: Vec<_> = kinds.iter().filter(|k| table.contains_key(**k)).collect();
    if given.len() != 1 {
        bail!("a model needs exactly one of {}; found {}", kinds.join(", "), given.len());
    }
    if let Some(path) = text("gguf")? {
        return Ok(Bound::Local(Binding::Gguf(base.join(path).to_string_lossy().into_owned())));
    }
    if let Some(expected) = text("exact")? {
        return Ok(Bound::Local(Binding::Exact(expected)));
    }
    if let Some(value) = table.get("numeric") {
        let expected = number(value).context("numeric must be a number")?;
        let tolerance = match table.get("tolerance") {
            None => 1e-6,
            Some(v) => number(v).filter(|t| *t >= 0.0).context("tolerance must be a number ≥ 0")?,
        };
        return Ok(Bound::Local(Binding::Numeric(expected, tolerance)));
    }
    if let Some(pattern) = text("regex")? {
        return Ok(Bound::Local(Binding::Regex(pattern)));
    }
    for key in ["command", "lines"] {
        let Some(value) = table.get(key) else { continue };
        let words: Option<Vec<String>> =
            value.as_array().and_then(|a| a.iter().map(|w| w.as_str().map(str::to_owned)).collect());
        let words = words.filter(|w| !w.is_empty());
        let words = words.with_context(|| format!("{key} must be a list of words: [\"./check\", \"arg\"]"))?;
        return Ok(Bound::Local(if key == "lines" { Binding::Lines(words) } else { Binding::Command(words) }));
    }
    if let Some(url) = text("endpoint")? {
        return Ok(Bound::Endpoint(url));
    }
    bail!("safetensors models are not executable in this version: bind a GGUF file with gguf = \"…\"")
}

fn target(table: &toml::Table, base: &Path) -> Result<TargetRef> {
    known_keys(table, TARGET, "a target")?;
    if let Some(count) = table.get("count")
        && count.as_integer() != Some(1)
    {
        bail!("count: this version plans for one device");
    }
    let text = |key: &str| table.get(key).and_then(|v| v.as_str());
    match (text("gpu").or(text("cpu")), text("profile")) {
        (Some(name), None) => Ok(TargetRef::Builtin(name.to_owned())),
        (None, Some(file)) => Ok(TargetRef::File(base.join(file))),
        _ => bail!("a target needs exactly one of gpu, cpu (a built-in profile) or profile (a file)"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(text: &str) -> Result<Manifest> {
        parse(text, Path::new("/home/a/infer.toml"))
    }

    #[test]
    fn bindings_are_read_and_paths_are_relative_to_the_file() {
        let m = check(
            "edition = \"2026\"\n[models.base]\ngguf = \"m/x.gguf\"\n[models.v]\nnumeric = 4\n[tunables]\ntau = 2",
        )
        .unwrap();
        assert_eq!(m.models["base"], Bound::Local(Binding::Gguf("/home/a/m/x.gguf".into())));
        assert_eq!(m.models["v"], Bound::Local(Binding::Numeric(4.0, 1e-6)));
        assert_eq!(m.tunables["tau"], 2.0);
        let m = check("[models.v]\nlines = [\"./judge\", \"-q\"]").unwrap();
        assert_eq!(m.models["v"], Bound::Local(Binding::Lines(vec!["./judge".into(), "-q".into()])));
    }

    #[test]
    fn mistakes_name_the_table_and_the_remedy() {
        for (text, part) in [
            ("[models.base]\nguf = \"x\"", "unknown key `guf`"),
            ("[models.base]\ngguf = \"x\"\nexact = \"y\"", "exactly one"),
            ("[models]\nbase = 3", "must be a table"),
            ("edition = \"2019\"", "edition"),
            ("[targets.t]\ncount = 2\ngpu = \"h200\"", "one device"),
            ("[models.v]\ncommand = []", "list of words"),
            ("x =", "TOML"),
        ] {
            let error = format!("{:#}", check(text).unwrap_err());
            assert!(error.contains(part), "{error}");
        }
    }
}
