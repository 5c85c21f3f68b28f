//! `inferc test`: the test blocks of files, run with mocked models.

use super::{FAILED, OK, print, print_json};
use crate::args::{Format, TestArgs};
use anyhow::Result;
use inferc::inputs;
use runtime::script::run_test;
use serde_json::json;

/// Runs the command.
pub(crate) fn run(args: &TestArgs) -> Result<u8> {
    let mut rows = Vec::new();
    let mut broken = false;
    for path in &args.files {
        let checked = inputs::check(path)?;
        super::report_diagnostics(&checked);
        if !checked.is_clean() {
            broken = true;
            continue;
        }
        for test in dsl::lower::tests(&checked.program) {
            match test {
                Ok(test) => {
                    let outcome = run_test(&test);
                    let failure = (!outcome.failures.is_empty()).then(|| outcome.failures.join("; "));
                    rows.push((path.display().to_string(), test.title.clone(), failure));
                }
                Err(diagnostics) => {
                    super::say_diagnostics(&diagnostics, &checked.sources);
                    broken = true;
                }
            }
        }
    }
    let failed = rows.iter().filter(|r| r.2.is_some()).count();
    let passed = rows.len() - failed;
    match args.format {
        Format::Json => print_json(json!({
            "ok": failed == 0 && !broken, "passed": passed, "failed": failed,
            "tests": rows.iter().map(|(file, title, failure)| {
                json!({ "file": file, "title": title, "ok": failure.is_none(), "failure": failure })
            }).collect::<Vec<_>>(),
        })),
        Format::Text => {
            for (file, title, failure) in &rows {
                print(&match failure {
                    None => format!("ok      {file}: {title}\n"),
                    Some(why) => format!("FAILED  {file}: {title}\n        {why}\n"),
                });
            }
            print(&format!("{passed} passed, {failed} failed\n"));
        }
    }
    Ok(if failed == 0 && !broken { OK } else { FAILED })
}
