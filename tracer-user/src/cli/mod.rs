//! The command line: one file a command, each thin.

mod agent;
mod attach;
mod doctor;
mod dump;
mod export;
mod launch;
mod leaks;
mod lines;
mod opened;
mod output;
mod progress;
mod record;
mod report;
mod stop;
mod top;
mod trace;

use crate::parse;
use clap::{Parser, Subcommand};
use std::{io, process::ExitCode};

/// The goroutine inspector: watches the goroutines of unmodified, already running Go programs.
#[derive(Parser)]
#[command(
    name = "sfgi",
    version,
    about,
    arg_required_else_help = true,
    after_help = "\
Exit codes: 0 done, 1 the tool failed, 2 bad usage, 3 something was found (leaks --fail).

EXAMPLES
  sfgi trace -p 1234                     every goroutine event of process 1234, live
  sfgi trace -p 1234 -c -d 10            a summary of ten seconds
  sfgi trace -- ./server -port 8080      from the first goroutine on
  sfgi top -p 1234                       where goroutines wait, which grow, what is wrong, live
  sfgi record -p 1234 -d 30 -o a.sfgi    the same into a file, ...
  sfgi report a.sfgi --min 10ms          ... to be looked at later, anywhere
  sfgi export a.sfgi --to pprof -o b.gz  ... or with go tool pprof
  sfgi dump -p 1234                      every goroutine with its stack, as a panic would print them
  sfgi dump -p 1234 --group              the same stack once, with how many there are
  sfgi leaks -p 1234                     which goroutines are leaked, why, and what to do
  sfgi agent                             all Go programs of this host, for 2 % of a core
  sfgi doctor -p 1234                    which probes would be used, where, at what cost"
)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Trace goroutine events live, a line each
    Trace(trace::Args),
    /// Show what the goroutines do, refreshed each second, with keys to look closer
    Top(top::Args),
    /// Record what trace would show, into a file
    Record(record::Args),
    /// Show a recording as trace would have
    Report(report::Args),
    /// Convert a recording for other tools: pprof, flame graphs, CSV
    Export(export::Args),
    /// Print all goroutines with their stacks, without stopping the program
    Dump(dump::Args),
    /// Say which goroutines are leaked, with evidence
    Leaks(Box<leaks::Args>),
    /// Watch all Go programs of this host, within a budget
    Agent(agent::Args),
    /// Say what this host and a binary allow: each probe with address, instruction and cost
    Doctor(doctor::Args),
}

/// How a command ended that did not fail.
enum Outcome {
    Done,
    /// What it looks for was found, and the user wants that to be an exit code.
    Found,
}

/// The exit code of [`Outcome::Found`].
const FOUND: u8 = 3;

/// Parses the arguments, runs the command, prints what went wrong.
pub fn main() -> ExitCode {
    let cli = Cli::parse();
    // The agent's log is what it has to say; the others have their output.
    let level = if matches!(cli.command, Command::Agent(_)) { "info" } else { "warn" };
    env_logger::Builder::from_env(env_logger::Env::new().filter_or("SFGI_LOG", level)).init();
    let result = match cli.command {
        Command::Top(args) => top::run(&args).map(|()| Outcome::Done),
        Command::Trace(args) => trace::run(&args).map(|()| Outcome::Done),
        Command::Record(args) => record::run(&args).map(|()| Outcome::Done),
        Command::Report(args) => report::run(&args).map(|()| Outcome::Done),
        Command::Export(args) => export::run(&args).map(|()| Outcome::Done),
        Command::Dump(args) => dump::run(&args).map(|()| Outcome::Done),
        Command::Leaks(args) => leaks::run(&args),
        Command::Agent(args) => agent::run(&args).map(|()| Outcome::Done),
        Command::Doctor(args) => doctor::run(&args).map(|()| Outcome::Done),
    };
    match result {
        Ok(Outcome::Done) => ExitCode::SUCCESS,
        Ok(Outcome::Found) => ExitCode::from(FOUND),
        // Whoever reads our output has seen enough (`sfgi … | head`).
        Err(err) if is_broken_pipe(&err) => ExitCode::SUCCESS,
        Err(err) => {
            eprintln!("sfgi: {err:#}");
            ExitCode::FAILURE
        }
    }
}

fn is_broken_pipe(err: &anyhow::Error) -> bool {
    err.chain()
        .filter_map(|cause| cause.downcast_ref::<io::Error>())
        .any(|err| err.kind() == io::ErrorKind::BrokenPipe)
}
