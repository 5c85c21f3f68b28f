//! Plan files: reading, writing, and whether one fits this machine and its models.

use anyhow::{Context as _, Result, anyhow, bail};
use ir::artifact::Artifact;
use runtime::gguf::Gguf;
use std::collections::BTreeMap;
use std::io::{Read as _, Write as _};
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// Plans larger than this are refused.
const MAX_PLAN: u64 = 256 << 20;

/// True for a file that starts like a compiled plan, or is named like one.
#[must_use]
pub fn is_plan(path: &Path) -> bool {
    let starts = || {
        let mut magic = [0u8; 8];
        std::fs::File::open(path).and_then(|mut f| f.read_exact(&mut magic)).is_ok() && &magic == b"INFERPLN"
    };
    path.is_file() && (path.extension().is_some_and(|e| e == "plan") || starts())
}

/// The bytes of a plan file.
///
/// # Errors
/// When it is no regular file, cannot be read or is too large.
pub fn read(path: &Path) -> Result<Vec<u8>> {
    let meta = std::fs::metadata(path).with_context(|| format!("cannot read {}: check the path", path.display()))?;
    if !meta.is_file() || meta.len() > MAX_PLAN {
        bail!("{} is no plan: expected a regular file of at most {} MiB", path.display(), MAX_PLAN >> 20);
    }
    std::fs::read(path).with_context(|| format!("cannot read {}", path.display()))
}

/// The plan in the bytes of a file.
///
/// # Errors
/// The first thing that is wrong with it.
pub fn decode(path: &Path, bytes: &[u8]) -> Result<Artifact> {
    // Regions are decoded by recursion, as deep as `ir::nested` allows: a thread with room for that, however it is built.
    let decode = || Artifact::decode(bytes);
    let outcome = std::thread::scope(|scope| {
        let thread = std::thread::Builder::new().stack_size(64 << 20).spawn_scoped(scope, decode);
        thread.map(|t| t.join())
    });
    match outcome {
        Ok(Ok(artifact)) => artifact.with_context(|| format!("{} cannot be used", path.display())),
        Ok(Err(_)) => bail!("{} cannot be used: reading it failed; compile the source again", path.display()),
        Err(e) => Err(e).context("no thread to read the plan with"),
    }
}

/// Writes bytes under a name all at once: a temporary file beside it, synced, renamed. A file that is there already keeps
/// its permissions; behind a link it is the file that the link names. A device or a pipe is written to as it is.
///
/// # Errors
/// When the folder cannot be written; nothing is left under the name then.
pub fn write(path: &Path, bytes: &[u8]) -> Result<()> {
    let old = std::fs::metadata(path).ok();
    if old.as_ref().is_some_and(|old| !old.is_file()) {
        let put = || std::fs::OpenOptions::new().write(true).open(path)?.write_all(bytes);
        return put().map_err(|e| anyhow!("cannot write {}: {e}", path.display()));
    }
    let real = std::fs::canonicalize(path).unwrap_or_else(|_| path.to_owned());
    let path = real.as_path();
    let folder = path.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let name =
        path.file_name().ok_or_else(|| anyhow!("cannot write {}: it names no file", path.display()))?.to_string_lossy();
    let temporary: PathBuf = folder.join(format!(".{name}.{}", std::process::id()));
    let put = || -> std::io::Result<()> {
        // What a killed writer of this number left; never a link that someone put there.
        let _ = std::fs::remove_file(&temporary);
        let mut file = std::fs::File::create_new(&temporary)?;
        if let Some(old) = &old {
            file.set_permissions(old.permissions())?;
        }
        file.write_all(bytes)?;
        file.sync_all()?;
        std::fs::rename(&temporary, path)
    };
    put().map_err(|e| {
        let _ = std::fs::remove_file(&temporary);
        anyhow!("cannot write {}: {e}", path.display())
    })
}

/// Whether a plan runs on this machine with the models it names; their files by path, opened.
///
/// # Errors
/// Names the first difference: compiler, CPU feature, model file, model identity.
pub fn fits(artifact: &Artifact) -> Result<BTreeMap<String, Arc<Gguf>>> {
    fits_machine(artifact)?;
    let mut files = BTreeMap::new();
    for (role, path, identity) in &artifact.manifest.models {
        let file = Gguf::open(Path::new(path)).with_context(|| format!("model `{role}`"))?;
        same_model(role, path, &file.model().with_context(|| format!("model `{role}`"))?.identity, identity)?;
        files.insert(path.clone(), Arc::new(file));
    }
    Ok(files)
}

/// Whether the file of a role holds the model that a plan was compiled for.
///
/// # Errors
/// When it holds another one.
pub(crate) fn same_model(role: &str, path: &str, found: &str, expected: &str) -> Result<()> {
    if found != expected {
        let head = |identity: &str| identity.chars().take(16).collect::<String>();
        bail!(
            "model `{role}`: {path} is another model than the plan was compiled for (identity {}…, expected {}…): \
             compile the source again",
            head(found),
            head(expected)
        );
    }
    Ok(())
}

/// Whether a plan runs on this machine, whatever its models are.
fn fits_machine(artifact: &Artifact) -> Result<()> {
    let m = &artifact.manifest;
    if m.compiler != env!("CARGO_PKG_VERSION") {
        bail!(
            "it was compiled by inferc {}, this is {}: compile the source again",
            m.compiler,
            env!("CARGO_PKG_VERSION")
        );
    }
    let host = runtime::device::probe::isa();
    for (name, needed, have) in [
        ("AVX2, FMA, F16C and BMI2", m.isa.avx2, host.avx2),
        ("AVX-512 (F, BW, DQ, VL)", m.isa.avx512, host.avx512),
        ("AVX512-VNNI", m.isa.vnni, host.vnni),
        ("AMX-INT8 that processes may use", m.isa.amx_int8, host.amx_int8),
    ] {
        if needed && !have {
            bail!("it was compiled for a CPU with {name}, which this CPU lacks: compile the source again here");
        }
    }
    Ok(())
}
