//! The command line: one file for each command. What several commands share is in `args`, `source` and `session`.

mod agent;
mod args;
mod doctor;
mod dump;
mod export;
mod leaks;
mod ps;
mod record;
mod report;
mod session;
mod source;
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
  sfgi ps                                the Go processes of this host
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
    /// List the Go processes of this host, and what can be done with each
    Ps(ps::Args),
    /// Say what this host and a binary allow: each probe with address, instruction and cost
    Doctor(doctor::Args),
}

impl Command {
    /// For a command that needs a process and was given none: how it is called, and what `-p PID` can be replaced by.
    /// `None`: the command has a target, or needs none.
    fn without_target(&self) -> Option<(&'static str, &'static str)> {
        const LAUNCH: &str = "-- CMD";
        const CORE: &str = "--core FILE --exe FILE";
        let (missing, call, other) = match self {
            Command::Trace(args) => (args.has_no_target(), "sfgi trace", LAUNCH),
            Command::Top(args) => (args.has_no_target(), "sfgi top", LAUNCH),
            Command::Record(args) => (args.has_no_target(), "sfgi record -o FILE", LAUNCH),
            Command::Dump(args) => (args.has_no_target(), "sfgi dump", CORE),
            Command::Leaks(args) => (args.has_no_target(), "sfgi leaks", CORE),
            Command::Report(_)
            | Command::Export(_)
            | Command::Agent(_)
            | Command::Ps(_)
            | Command::Doctor(_) => {
                return None;
            }
        };
        missing.then_some((call, other))
    }
}

/// How a command ended that did not fail.
enum Outcome {
    Done,
    /// `sfgi leaks --fail` found something.
    Found,
}

/// The exit code for wrong usage, the same as clap's.
const USAGE: u8 = 2;
/// The exit code of [`Outcome::Found`].
const FOUND: u8 = 3;

/// Parses the arguments, runs the command, prints what went wrong.
pub fn main() -> ExitCode {
    let cli = Cli::parse();
    // clap would only say that an argument is missing. Who calls `sfgi trace` alone needs the PID, so show the list.
    if let Some((call, other)) = cli.command.without_target() {
        eprintln!(
            "sfgi: of which process? Call {call} -p PID, or {call} {other}. The Go processes of this host:\n"
        );
        ps::to_stderr();
        return ExitCode::from(USAGE);
    }
    // The agent has no output but its log; the other commands print results, and only warnings beside them.
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
        Command::Ps(args) => ps::run(&args).map(|()| Outcome::Done),
        Command::Doctor(args) => doctor::run(&args).map(|()| Outcome::Done),
    };
    match result {
        Ok(Outcome::Done) => ExitCode::SUCCESS,
        Ok(Outcome::Found) => ExitCode::from(FOUND),
        // The reader of our output has closed it (`sfgi … | head`): it has what it wanted.
        Err(err) if is_broken_pipe(&err) => ExitCode::SUCCESS,
        Err(err) => {
            eprintln!("sfgi: {err:#}");
            ExitCode::FAILURE
        }
    }
}

fn is_broken_pipe(err: &anyhow::Error) -> bool {
    // The `io::Error` is wrapped by whatever context the command added.
    err.chain()
        .filter_map(|cause| cause.downcast_ref::<io::Error>())
        .any(|err| err.kind() == io::ErrorKind::BrokenPipe)
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::{CommandFactory as _, error::ErrorKind};

    #[test]
    fn the_commands_fit_together() {
        Cli::command().debug_assert();
    }

    #[test]
    fn every_command_has_examples_and_says_what_a_time_is() {
        for command in Cli::command().get_subcommands() {
            let name = command.get_name();
            let help = command.get_after_help().map(ToString::to_string).unwrap_or_default();
            assert!(help.contains("EXAMPLES\n  sfgi "), "{name}");
            let takes = |wanted: &str| {
                let mut names = command.get_arguments().filter_map(|arg| arg.get_value_names()).flatten();
                names.any(|name| name.contains(wanted))
            };
            assert_eq!(
                takes("TIME"),
                help.contains("TIME is a number of seconds, or has a unit: 10ms, 30s, 5m, 1h"),
                "{name}"
            );
            assert!(!takes("SECS"), "{name}");
        }
    }

    #[test]
    fn a_command_that_is_told_of_no_process_is_not_refused_by_the_parser() {
        for call in ["trace", "top", "record", "dump", "leaks", "trace -d 5 -e block", "leaks --min-age 5m"] {
            let cli = Cli::try_parse_from(std::iter::once("sfgi").chain(call.split(' '))).expect(call);
            assert!(cli.command.without_target().is_some(), "{call}");
        }
        for call in [
            "trace -p 1",
            "top -p 1 -p 2",
            "record -p 1 -o a",
            "dump --core a --exe b",
            "trace -- ls",
            "ps",
            "doctor",
        ] {
            let cli = Cli::try_parse_from(std::iter::once("sfgi").chain(call.split(' '))).expect(call);
            assert!(cli.command.without_target().is_none(), "{call}");
        }
        let refused = |call: &str| Cli::try_parse_from(call.split(' ')).err().map(|error| error.kind());
        for call in ["sfgi record -p 1", "sfgi record -- ls", "sfgi dump --core a", "sfgi leaks --exe a"] {
            assert_eq!(refused(call), Some(ErrorKind::MissingRequiredArgument), "{call}");
        }
        assert_eq!(refused("sfgi trace -p 1 -- ls"), Some(ErrorKind::ArgumentConflict));
    }

    #[test]
    fn times_are_seconds_or_have_a_unit_everywhere() {
        for call in [
            "trace -p 1 -d 0.5 --min 10ms --stacks=5 --drain-every 2ms",
            "record -p 1 -o a -d 1m --stacks 1ms --last 30s",
            "report a --until 2 --min 1.5s",
            "report a --top --at 2s",
            "export a --to folded --from 2 --until 5s",
            "dump -p 1 --older 5m",
            "leaks -p 1 --watch=30 --min-age 5m --observe 2",
            "top -p 1 --every 0.5",
            "agent --interval 10 --min-age 1h",
            "record -p 1 -o a --last 64MiB --ring-size 1MiB",
            "trace -p 1 --ring-size 4096",
        ] {
            let parsed = Cli::try_parse_from(std::iter::once("sfgi").chain(call.split(' ')));
            assert!(
                parsed.is_ok(),
                "{call}: {}",
                parsed.err().map(|error| error.to_string()).unwrap_or_default()
            );
        }
        let error = Cli::try_parse_from(["sfgi", "trace", "-p", "1", "-d", "soon"])
            .err()
            .map(|error| error.to_string());
        let error = error.expect("that is no time");
        assert!(
            error.contains("soon: a time is a number of seconds, or has a unit: 10ms, 30s, 5m, 1h"),
            "{error}"
        );
    }
}
