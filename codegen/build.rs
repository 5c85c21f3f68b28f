//! Names the code generator: a hash of its sources, so that machine code cached by one generator is never taken for the
//! code of another.

use std::path::{Path, PathBuf};

fn main() {
    println!("cargo:rerun-if-changed=src");
    let mut files = Vec::new();
    collect(Path::new("src"), &mut files);
    files.sort();
    let mut hasher = blake3::Hasher::new();
    for file in files {
        hasher.update(file.to_string_lossy().as_bytes());
        hasher.update(&std::fs::read(&file).unwrap_or_else(|e| panic!("{}: {e}", file.display())));
    }
    println!("cargo:rustc-env=CODEGEN_SOURCES={}", hasher.finalize().to_hex());
}

fn collect(folder: &Path, files: &mut Vec<PathBuf>) {
    let entries = std::fs::read_dir(folder).unwrap_or_else(|e| panic!("{}: {e}", folder.display()));
    for entry in entries {
        let path = entry.expect("a folder that was just opened can be listed").path();
        if path.is_dir() { collect(&path, files) } else { files.push(path) }
    }
}
