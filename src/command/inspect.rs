//! `inferc inspect`: what a compiled plan holds, whether it fits this machine. Executes nothing of it.

use super::{FAILED, OK, print, print_json};
use crate::args::{Format, InspectArgs};
use anyhow::Result;
use inferc::{artifact, report};
use ir::artifact::{FORMAT, section_sizes};
use serde_json::json;

/// Runs the command.
pub(crate) fn run(args: &InspectArgs) -> Result<u8> {
    let bytes = artifact::read(&args.plan)?;
    let artifact = artifact::decode(&args.plan, &bytes)?;
    let sizes = section_sizes(&bytes)?;
    let unfit = artifact::fits(&artifact).err().map(|e| format!("{e:#}"));
    let m = &artifact.manifest;
    let kernels: Vec<&str> =
        artifact.programs.iter().flatten().flat_map(|p| &p.kernels).map(|k| k.name.as_str()).collect();
    let code = if unfit.is_some() { FAILED } else { OK };
    if args.format == Format::Json {
        print_json(json!({
            "format": FORMAT, "compiler": m.compiler, "backend": m.backend, "strategy": m.strategy, "source_hash": m.source_hash,
            "isa": m.isa, "threads": m.threads,
            "models": m.models.iter().map(|(role, path, id)| json!({ "role": role, "path": path, "identity": id })).collect::<Vec<_>>(),
            "target": artifact.plan.target, "target_hash": artifact.plan.target_hash,
            "sections": sizes.iter().map(|(name, size)| json!({ "name": name, "bytes": size })).collect::<Vec<_>>(),
            "numerics": report::numerics(&artifact.plan), "kernels": kernels, "rules": artifact.rules.len(),
            "bounds": artifact.plan.strategy.bounds, "predicted": artifact.plan.cost,
            "fits_this_machine": unfit.is_none(), "difference": unfit,
        }));
        return Ok(code);
    }
    let mut out = format!(
        "plan of {} · format {FORMAT} · inferc {} · {}\nsource   {}\ntarget   {} ({})\nisa      {:?}, {} threads\n",
        m.strategy,
        m.compiler,
        m.backend,
        m.source_hash.get(..16).unwrap_or(&m.source_hash),
        artifact.plan.target,
        artifact.plan.target_hash.get(..8).unwrap_or(""),
        m.isa,
        m.threads,
    );
    for (role, path, identity) in &m.models {
        out.push_str(&format!("model    {role} = {path} ({})\n", identity.get(..16).unwrap_or(identity)));
    }
    if let Some(classes) = report::arithmetic(&artifact.plan) {
        out.push_str(&format!("classes  {classes}\n"));
    }
    for (name, size) in &sizes {
        out.push_str(&format!("section  {name:<10} {size:>9} bytes\n"));
    }
    let b = artifact.plan.strategy.bounds;
    out.push_str(&format!("kernels  {} · token rules {}\n", kernels.join(" "), artifact.rules.len()));
    out.push_str(&format!("proved   tokens ≤ {} · calls ≤ {} · live ≤ {}\n", b.tokens, b.calls, b.live));
    out.push_str(&format!("predicts {}\n", artifact.plan.cost));
    out.push_str(&unfit.map_or("fits this machine\n".to_owned(), |why| format!("does not run here: {why}\n")));
    print(&out);
    Ok(code)
}
