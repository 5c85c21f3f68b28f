//! `inferc compile`: a plan file, or a look at any stage on the way to it.

use super::{FAILED, OK, print, print_json, say};
use crate::args::{CompileArgs, Emit, Format};
use anyhow::{Result, bail};
use inferc::inputs;
use inferc::prepare::Prepared;
use serde_json::json;

/// Runs the command.
pub(crate) fn run(args: &CompileArgs) -> Result<u8> {
    let (path, name) = inputs::split(&args.source);
    if let Some(Emit::Ast | Emit::Hir) = args.emit {
        let checked = inputs::check(&path)?;
        super::report_diagnostics(&checked);
        match args.emit {
            Some(Emit::Ast) => print(&format!("{:#?}\n", checked.file)),
            _ => print(&format!("{:#?}\n", checked.program)),
        }
        return Ok(if checked.is_clean() { OK } else { FAILED });
    }
    let Some((checked, strategy)) = super::lowered(&path, name.as_deref())? else { return Ok(FAILED) };
    if args.emit == Some(Emit::Ir) {
        print(&strategy.to_string());
        return Ok(OK);
    }
    let manifest = inferc::manifest::load(&path, args.binding.manifest.as_deref())?;
    let machine = args.binding.machine(Some(&manifest), !args.no_cache)?;
    let prepared = Prepared::new(strategy, &manifest, &args.binding.models, &args.binding.set)?;
    match args.emit {
        Some(Emit::Plan) => print(&prepared.plan(&machine, args.binding.assumptions())?.to_string()),
        Some(stage) => {
            let plan = prepared.plan(&machine, args.binding.assumptions())?;
            for model in plan.models.iter().flatten() {
                let program = inferc::program(model)?;
                print(&match stage {
                    Emit::Kernels => program.kernels.iter().map(ToString::to_string).collect::<Vec<_>>().join("\n"),
                    Emit::Llvm => codegen::llvm_ir(&program.kernels, machine.target.isa)?,
                    _ => codegen::assembly(&program.kernels, machine.target.isa, machine.backend)?,
                });
            }
            let (_, rules): (Vec<_>, Vec<_>) = codegen::rules::lower(&plan.strategy).into_iter().unzip();
            if !rules.is_empty() {
                print(&match stage {
                    Emit::Kernels => rules.iter().map(ToString::to_string).collect::<Vec<_>>().join("\n"),
                    Emit::Llvm => codegen::llvm_ir(&rules, machine.target.isa)?,
                    _ => codegen::assembly(&rules, machine.target.isa, machine.backend)?,
                });
            }
        }
        None => {
            let Some(output) = &args.output else {
                bail!("name the plan file with -o PLAN, or a stage with --emit STAGE")
            };
            let start = std::time::Instant::now();
            let artifact = prepared.artifact(&machine, args.binding.assumptions(), &checked)?;
            let bytes = artifact.encode();
            inferc::artifact::write(output, &bytes)?;
            let seconds = start.elapsed().as_secs_f64();
            let kernels: usize = artifact.programs.iter().flatten().map(|p| p.kernels.len()).sum();
            match args.format {
                Format::Json => print_json(json!({
                    "plan": output.display().to_string(), "bytes": bytes.len(), "strategy": artifact.manifest.strategy,
                    "backend": artifact.manifest.backend, "kernels": kernels, "seconds": seconds,
                    "predicted": artifact.plan.cost, "bounds": artifact.plan.strategy.bounds,
                })),
                Format::Text => say(&format!(
                    "{}: plan of {} · {kernels} kernels by {} · {} bytes · {seconds:.2} s",
                    output.display(),
                    artifact.manifest.strategy,
                    artifact.manifest.backend,
                    bytes.len()
                )),
            }
        }
    }
    Ok(OK)
}
