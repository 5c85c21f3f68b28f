//! `inferc doc`: the language reference and the sources of the standard library.

use super::{OK, print};
use crate::args::DocArgs;
use anyhow::{Result, bail};

/// Runs the command.
pub(crate) fn run(args: &DocArgs) -> Result<u8> {
    match args.module.as_deref() {
        None => print(&dsl::builtins::reference()),
        Some("std") => {
            for (path, source) in dsl::std_files() {
                print(&format!("// {path}\n{source}\n"));
            }
        }
        Some(path) => match dsl::std_source(path) {
            Some(source) => print(source),
            None => {
                let known: Vec<_> = dsl::std_files().iter().map(|(path, _)| *path).collect();
                bail!("no module `{path}`: known are {}", known.join(", "));
            }
        },
    }
    Ok(OK)
}
