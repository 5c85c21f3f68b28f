//! `inferc doctor`: what this machine and this build offer, and what is in the way.

use super::{FAILED, OK, print, print_json};
use crate::args::{DoctorArgs, Format};
use anyhow::Result;
use codegen::Backend;
use inferc::{cache::Cache, machine, manifest};
use ir::strategy::Binding;
use runtime::device::probe;
use runtime::gguf::Gguf;
use serde_json::json;
use std::path::Path;

/// Runs the command.
pub(crate) fn run(args: &DoctorArgs) -> Result<u8> {
    let host = probe::probe();
    let mut rows: Vec<(&str, bool, String)> = Vec::new();
    rows.push(("cpu", true, format!("{} · {} threads · {:.1} GB available", host.name, host.threads, gb(host.memory))));
    let features = [
        ("AVX2+FMA+F16C", host.isa.avx2),
        ("AVX-512", host.isa.avx512),
        ("VNNI", host.isa.vnni),
        ("AMX-INT8", host.isa.amx_int8),
    ];
    let list: Vec<_> = features.iter().filter(|f| f.1).map(|f| f.0).collect();
    let remedy =
        if host.isa.avx2 { String::new() } else { "compiled kernels need AVX2, FMA, F16C and BMI2".to_owned() };
    rows.push(("features", host.isa.avx2, format!("{} {remedy}", list.join(", "))));
    if let Some(why) = probe::tiles_withheld() {
        rows.push(("tiles", true, why));
    }
    for backend in [Backend::Llvm, Backend::Cranelift] {
        let text = if backend.available() { backend.version() } else { "not in this build" };
        rows.push((backend.name(), backend.available() || inferc::default_backend() != backend, text.to_owned()));
    }
    match Cache::open() {
        Ok(cache) => rows.push(("cache", true, cache.dir().display().to_string())),
        Err(why) => rows.push(("cache", false, why)),
    }
    let profile = machine::profile_path().filter(|p| p.is_file());
    rows.push((
        "profile",
        true,
        profile.map_or("none: estimates use the built-in CPU class; run inferc profile-device".to_owned(), |p| {
            p.display().to_string()
        }),
    ));
    let folder = args.manifest.as_deref().unwrap_or(Path::new("infer.toml"));
    match manifest::load(&folder.with_file_name("x.infer"), args.manifest.as_deref()) {
        Err(why) => rows.push(("manifest", false, format!("{why:#}"))),
        Ok(found) => {
            for (role, bound) in &found.models {
                let manifest::Bound::Local(Binding::Gguf(path)) = bound else { continue };
                let model = Gguf::open(Path::new(path)).and_then(|g| g.model());
                let (ok, text) = match model {
                    Ok(m) => (true, format!("{role} = {} · {} layers · {} parameters", m.name, m.layers, m.parameters)),
                    Err(e) => (false, format!("{role}: {e}")),
                };
                rows.push(("model", ok, text));
            }
        }
    }
    let healthy = rows.iter().all(|r| r.1);
    match args.format {
        Format::Json => print_json(json!({
            "ok": healthy,
            "checks": rows.iter().map(|(name, ok, text)| json!({ "name": name, "ok": ok, "text": text })).collect::<Vec<_>>(),
        })),
        Format::Text => {
            for (name, ok, text) in &rows {
                print(&format!("{} {name:<10} {text}\n", if *ok { "ok " } else { "BAD" }));
            }
        }
    }
    Ok(if healthy { OK } else { FAILED })
}

#[allow(clippy::cast_precision_loss, reason = "sizes for people")]
fn gb(bytes: u64) -> f64 {
    bytes as f64 / 1e9
}
