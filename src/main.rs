//! The command line: arguments in, one command run, an exit code out. Data goes to standard output, words to standard
//! error; `--format json` prints one JSON document with `format_version`.

mod args;
mod command;

use args::{Cli, Command};
use clap::Parser as _;
use std::process::ExitCode;

fn main() -> ExitCode {
    let cli = Cli::parse();
    let outcome = match &cli.command {
        Command::Check(a) => command::check::run(a),
        Command::Fmt(a) => command::fmt::run(a),
        Command::Explain(a) => command::explain::run(a),
        Command::Compile(a) => command::compile::run(a),
        Command::Run(a) => command::run::run(a),
        Command::Test(a) => command::test::run(a),
        Command::Bench(a) => command::bench::run(a),
        Command::Fidelity(a) => command::fidelity::run(a),
        Command::Cost(a) => command::cost::run(a),
        Command::ProfileDevice(a) => command::profile::run(a),
        Command::Inspect(a) => command::inspect::run(a),
        Command::Doctor(a) => command::doctor::run(a),
        Command::Doc(a) => command::doc::run(a),
        Command::New(a) => command::new::run(a),
        Command::Completions(a) => command::completions(a),
    };
    match outcome {
        Ok(code) => match command::lost_output() {
            None => ExitCode::from(code),
            Some(why) => {
                command::say(&format!("error: cannot write to standard output: {why}"));
                ExitCode::from(2)
            }
        },
        Err(error) => {
            command::say(&format!("error: {error:#}"));
            ExitCode::from(2)
        }
    }
}
