//! The command line: one file for each command. What several commands share is in `args`, `source` and `session`.

mod agent;
mod args;
mod contexts;
mod doctor;
mod dump;
mod export;
mod fds;
mod leaks;
mod objects;
mod pools;
mod ps;
mod record;
mod report;
mod session;
mod source;
mod top;
mod trace;
mod user;
mod why;

use crate::{
    output::{one_line, raw, say},
    parse,
    supervise::{self, Limits},
};
use clap::{Args as ClapArgs, Parser, Subcommand};
use std::{
    io::{self, Write as _},
    process::ExitCode,
    time::Duration,
};

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
  sfgi why -p 1234 0xc000012120          what keeps this object alive
  sfgi contexts -p 1234                  the tree of contexts, and which nobody can cancel
  sfgi pools -p 1234                     what lies in each sync.Pool, and what is wrong with it
  sfgi fds -p 1234                       open descriptors, who waits for each, what keeps it open
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
    Trace(Limited<trace::Args>),
    /// Show what the goroutines do, refreshed each second, with keys to look closer
    Top(Limited<top::Args>),
    /// Record what trace would show, into a file
    Record(Limited<record::Args>),
    /// Show a recording as trace would have
    Report(Limited<report::Args>),
    /// Convert a recording for other tools: pprof, flame graphs, CSV
    Export(Limited<export::Args>),
    /// Print all goroutines with their stacks, without stopping the program
    Dump(Limited<dump::Args>),
    /// Say which goroutines are leaked, with evidence
    Leaks(Box<Limited<leaks::Args>>),
    /// Say what keeps an object alive, or what a goroutine waits for
    Why(Box<Limited<why::Args>>),
    /// Show the contexts of a program as a tree, and which of them nobody can cancel
    Contexts(Limited<contexts::Args>),
    /// Show the sync.Pools of a program: what lies in each, and what is wrong with it
    Pools(Limited<pools::Args>),
    /// Show the open descriptors of a program, who waits for each, and which Go object has it
    Fds(Limited<fds::Args>),
    /// Watch all Go programs of this host, within a budget
    Agent(agent::Args),
    /// List the Go processes of this host, and what can be done with each
    Ps(Limited<ps::Args>),
    /// Say what this host and a binary allow: each probe with address, instruction and cost
    Doctor(Limited<doctor::Args>),
}

/// A command that ends by itself or by Ctrl-C, and runs in a child ([`supervise`]).
#[derive(ClapArgs)]
struct Limited<A: ClapArgs> {
    #[command(flatten)]
    args: A,
    #[command(flatten)]
    limits: LimitArgs,
}

/// What such a command may take.
#[derive(Clone, Copy, ClapArgs)]
struct LimitArgs {
    /// End if the program, or a file, does not answer for so long: a number of seconds, or 500ms, 1m (0: wait for ever)
    #[arg(long, value_name = "TIME", value_parser = parse::time, default_value = "10s", help_heading = "Limits")]
    timeout: Duration,
    /// End rather than use more memory: bytes, or 512MiB, 4GiB (0: no limit)
    #[arg(long, value_name = "SIZE", value_parser = parse::size, default_value = "2GiB", help_heading = "Limits")]
    memory: u64,
}

impl<A: ClapArgs> Limited<A> {
    /// `pids`: the processes that are read.
    fn limits(&self, pids: &[u32], draws: bool) -> Limits {
        let LimitArgs { timeout, memory } = self.limits;
        let subject = match pids {
            [pid] => Some(format!("PID {pid}")),
            _ => None,
        };
        Limits { timeout, memory, subject, draws }
    }
}

impl Command {
    /// `None`: the agent, which looks after its processes itself.
    fn limits(&self) -> Option<Limits> {
        Some(match self {
            Command::Trace(limited) => limited.limits(limited.args.pids(), false),
            Command::Top(limited) => limited.limits(limited.args.pids(), limited.args.draws()),
            Command::Record(limited) => limited.limits(limited.args.pids(), false),
            Command::Report(limited) => limited.limits(&[], false),
            Command::Export(limited) => limited.limits(&[], false),
            Command::Dump(limited) => limited.limits(limited.args.target.pids(), false),
            Command::Leaks(limited) => limited.limits(limited.args.target.pids(), false),
            Command::Why(limited) => limited.limits(limited.args.target.pids(), false),
            Command::Contexts(limited) => limited.limits(limited.args.target.pids(), false),
            Command::Pools(limited) => limited.limits(limited.args.target.pids(), false),
            Command::Fds(limited) => limited.limits(limited.args.pids(), false),
            Command::Agent(_) => return None,
            Command::Ps(limited) => limited.limits(&[], false),
            Command::Doctor(limited) => limited.limits(limited.args.pids(), false),
        })
    }

    /// For a command that needs a process and was given none: how it is called, and what `-p PID` can be replaced by, if anything.
    /// `None`: the command has a target, or needs none.
    fn without_target(&self) -> Option<(&'static str, &'static str)> {
        const LAUNCH: &str = "-- CMD";
        const CORE: &str = "--core FILE --exe FILE";
        let (missing, call, other) = match self {
            Command::Trace(limited) => (limited.args.has_no_target(), "sfgi trace", LAUNCH),
            Command::Top(limited) => (limited.args.has_no_target(), "sfgi top", LAUNCH),
            Command::Record(limited) => (limited.args.has_no_target(), "sfgi record -o FILE", LAUNCH),
            Command::Dump(limited) => (limited.args.target.is_none(), "sfgi dump", CORE),
            Command::Leaks(limited) => (limited.args.target.is_none(), "sfgi leaks", CORE),
            Command::Why(limited) => (limited.args.target.is_none(), "sfgi why ADDR", CORE),
            Command::Contexts(limited) => (limited.args.target.is_none(), "sfgi contexts", CORE),
            Command::Pools(limited) => (limited.args.target.is_none(), "sfgi pools", CORE),
            Command::Fds(limited) => (limited.args.has_no_target(), "sfgi fds", ""),
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
    /// Another process of the command has ended so, and has said why.
    Said(ExitCode),
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
    match cli.command.limits() {
        Some(limits) => supervise::run(&limits, || run(cli)),
        None => run(cli),
    }
}

fn run(cli: Cli) -> ExitCode {
    // clap would only say that an argument is missing. Who calls `sfgi trace` alone needs the PID, so show the list.
    if let Some((call, other)) = cli.command.without_target() {
        let or = if other.is_empty() { String::new() } else { format!(", or {call} {other}") };
        say(format_args!("of which process? Call {call} -p PID{or}. The Go processes of this host:"));
        raw("\n");
        ps::to_stderr();
        return ExitCode::from(USAGE);
    }
    // The agent has no output but its log; the other commands print results, and only warnings beside them.
    let level = if matches!(cli.command, Command::Agent(_)) { "info" } else { "warn" };
    let mut logger = env_logger::Builder::from_env(env_logger::Env::new().filter_or("SFGI_LOG", level));
    // What a message quotes of a target must not end the line or reach the terminal.
    logger.format(|out, record| {
        let (time, level, message) = (out.timestamp_seconds(), record.level(), record.args().to_string());
        writeln!(out, "[{time} {level:<5} {}] {}", record.target(), one_line(&message))
    });
    logger.init();
    let result = match cli.command {
        Command::Top(limited) => top::run(&limited.args).map(|()| Outcome::Done),
        Command::Trace(limited) => trace::run(&limited.args).map(|()| Outcome::Done),
        Command::Record(limited) => record::run(&limited.args).map(|()| Outcome::Done),
        Command::Report(limited) => report::run(&limited.args).map(|()| Outcome::Done),
        Command::Export(limited) => export::run(&limited.args).map(|()| Outcome::Done),
        Command::Dump(limited) => dump::run(&limited.args).map(|()| Outcome::Done),
        Command::Leaks(limited) => leaks::run(&limited.args),
        Command::Why(limited) => why::run(&limited.args).map(|()| Outcome::Done),
        Command::Contexts(limited) => contexts::run(&limited.args).map(|()| Outcome::Done),
        Command::Pools(limited) => pools::run(&limited.args).map(|()| Outcome::Done),
        Command::Fds(limited) => fds::run(&limited.args).map(|()| Outcome::Done),
        Command::Agent(args) => agent::run(&args).map(Outcome::Said),
        Command::Ps(limited) => ps::run(&limited.args).map(|()| Outcome::Done),
        Command::Doctor(limited) => doctor::run(&limited.args).map(|()| Outcome::Done),
    };
    match result {
        Ok(Outcome::Done) => ExitCode::SUCCESS,
        Ok(Outcome::Found) => ExitCode::from(FOUND),
        Ok(Outcome::Said(code)) => code,
        // The reader of our output has closed it (`sfgi … | head`): it has what it wanted.
        Err(err) if is_broken_pipe(&err) => ExitCode::SUCCESS,
        Err(err) => {
            // The whole chain of causes, with whatever it quotes of a target, is cleaned here.
            say(format_args!("{err:#}"));
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
                // What --timeout takes is said in its own line: every command has it.
                let own = command.get_arguments().filter(|arg| arg.get_id() != "timeout");
                let mut names = own.filter_map(|arg| arg.get_value_names()).flatten();
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
            "dump -p 1 --timeout 500ms --memory 512MiB",
            "ps --timeout 0 --memory 0",
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
