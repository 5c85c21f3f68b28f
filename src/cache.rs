//! Machine code of kernels on disk, keyed by content. Entries are written to a temporary name, synced and renamed, carry
//! a checksum, and are ignored when anything is wrong with them: the worst case is compiling again.
//!
//! The folder is `$INFERC_CACHE`, else `$XDG_CACHE_HOME/inferc`, else `~/.cache/inferc`. It is used only when it belongs
//! to this user and others cannot write to it, because what it holds is executed.

use ir::code::Code;
use std::fs;
use std::io::Write as _;
use std::os::unix::fs::{DirBuilderExt as _, MetadataExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

/// Temporary files older than this are leftovers of killed writers.
const STALE: Duration = Duration::from_secs(3600);

/// A cache folder that may be used.
#[derive(Clone, Debug)]
pub struct Cache {
    dir: PathBuf,
}

impl Cache {
    /// Opens (and creates) the user's cache; `None` with a reason when it cannot be trusted or written.
    ///
    /// # Errors
    /// A sentence to warn with; results are unaffected.
    pub fn open() -> Result<Self, String> {
        let var = |name: &str| std::env::var_os(name).filter(|v| !v.is_empty()).map(PathBuf::from);
        let dir = var("INFERC_CACHE")
            .or_else(|| var("XDG_CACHE_HOME").map(|d| d.join("inferc")))
            .or_else(|| var("HOME").map(|d| d.join(".cache/inferc")))
            .ok_or("no cache folder: set INFERC_CACHE or HOME")?;
        Self::at(&dir)
    }

    /// Opens a given folder.
    ///
    /// # Errors
    /// As [`Cache::open`].
    pub fn at(dir: &Path) -> Result<Self, String> {
        let refuse = |why: &str| format!("kernel cache {} is not used: {why}", dir.display());
        fs::DirBuilder::new().recursive(true).mode(0o700).create(dir).map_err(|e| refuse(&e.to_string()))?;
        let meta = fs::symlink_metadata(dir).map_err(|e| refuse(&e.to_string()))?;
        if !meta.is_dir() {
            return Err(refuse("it is not a folder"));
        }
        let me = fs::metadata("/proc/self").map(|m| m.uid()).map_err(|e| refuse(&e.to_string()))?;
        if meta.uid() != me {
            return Err(refuse("it belongs to another user"));
        }
        if meta.permissions().mode() & 0o022 != 0 {
            return Err(refuse("others can write to it; run chmod go-w on it"));
        }
        let cache = Self { dir: dir.to_owned() };
        cache.sweep();
        Ok(cache)
    }

    /// The folder.
    #[must_use]
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// The entry of a key, if it is there and whole.
    #[must_use]
    pub fn get(&self, key: &str) -> Option<Code> {
        let bytes = fs::read(self.path(key)).ok()?;
        let (hash, body) = bytes.split_at_checked(32)?;
        if blake3::hash(body).as_bytes() != hash {
            return None;
        }
        let (stored, code): (String, Code) = postcard::from_bytes(body).ok()?;
        (stored == key && code.check().is_ok()).then_some(code)
    }

    /// Stores an entry. A failure is reported, nothing half-written stays under the entry's name.
    ///
    /// # Errors
    /// A sentence to warn with.
    pub fn put(&self, key: &str, code: &Code) -> Result<(), String> {
        let body = postcard::to_stdvec(&(key, code)).map_err(|e| e.to_string())?;
        let path = self.path(key);
        let temporary = self.dir.join(format!("tmp.{}.{}", std::process::id(), &key[..key.len().min(24)]));
        let write = || -> std::io::Result<()> {
            let mut file = fs::File::create(&temporary)?;
            file.write_all(blake3::hash(&body).as_bytes())?;
            file.write_all(&body)?;
            file.sync_all()?;
            fs::rename(&temporary, &path)?;
            fs::File::open(&self.dir)?.sync_all()
        };
        write().map_err(|e| {
            let _ = fs::remove_file(&temporary);
            format!("cannot write {}: {e}", path.display())
        })
    }

    fn path(&self, key: &str) -> PathBuf {
        self.dir.join(format!("{key}.kernels"))
    }

    /// Removes what killed writers left behind.
    fn sweep(&self) {
        let Ok(entries) = fs::read_dir(&self.dir) else { return };
        for entry in entries.flatten() {
            let old = entry
                .metadata()
                .and_then(|m| m.modified())
                .is_ok_and(|t| SystemTime::now().duration_since(t).is_ok_and(|age| age > STALE));
            if old && entry.file_name().to_string_lossy().starts_with("tmp.") {
                let _ = fs::remove_file(entry.path());
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn code() -> Code {
        Code { symbols: vec![("k".into(), 0)], bytes: vec![0xC3; 100] }
    }

    #[test]
    fn what_is_put_comes_back_and_damage_is_a_miss() {
        let dir = tempfile::tempdir().unwrap();
        let cache = Cache::at(&dir.path().join("c")).unwrap();
        assert_eq!(cache.get("abc"), None);
        cache.put("abc", &code()).unwrap();
        assert_eq!(cache.get("abc"), Some(code()));
        let path = cache.path("abc");
        let whole = fs::read(&path).unwrap();
        for cut in [0, 31, 32, whole.len() - 1] {
            fs::write(&path, &whole[..cut]).unwrap();
            assert_eq!(cache.get("abc"), None);
        }
        for i in 0..whole.len() {
            let mut flipped = whole.clone();
            flipped[i] ^= 1;
            fs::write(&path, flipped).unwrap();
            assert_eq!(cache.get("abc"), None, "byte {i}");
        }
        fs::write(cache.path("other"), whole).unwrap();
        assert_eq!(cache.get("other"), None, "an entry under another key is not taken");
    }

    #[test]
    fn a_folder_that_others_can_write_to_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        fs::set_permissions(dir.path(), fs::Permissions::from_mode(0o777)).unwrap();
        assert!(Cache::at(dir.path()).is_err_and(|e| e.contains("others can write")));
    }
}
