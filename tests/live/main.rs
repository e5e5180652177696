//! The live tests: real Go programs, started, traced and read by the sfgi that was built, as root.
//!
//! `cargo xtask test live` runs all of them. `cargo test -p live-tests --test live -- NAME…` runs those whose names contain one of
//! the words, `--list` says which there are and what each needs.

mod agent;
mod commands;
mod contexts;
mod doctor;
mod dump;
mod export;
mod fds;
mod harness;
mod hostile;
mod leaks;
mod memory;
mod pools;
mod ps;
mod record;
mod top;
mod trace;
mod why;

use std::process::ExitCode;

use anyhow::Result;
use clap::Parser as _;

fn main() -> Result<ExitCode> {
    let options = harness::Options::parse();
    if let Some(pid) = options.freeze {
        return memory::freeze_until_killed(pid).map(|()| ExitCode::SUCCESS);
    }
    if let Some(file) = &options.peak {
        return hostile::measure(file, &options.names);
    }
    let groups = [
        agent::tests(),
        commands::tests(),
        contexts::tests(),
        doctor::tests(),
        dump::tests(),
        export::tests(),
        fds::tests(),
        hostile::tests(),
        leaks::tests(),
        memory::tests(),
        pools::tests(),
        ps::tests(),
        record::tests(),
        top::tests(),
        trace::tests(),
        why::tests(),
    ];
    harness::run(groups.into_iter().flatten().collect(), &options)
}
