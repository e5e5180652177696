//! `cargo xtask …`: everything a person or CI does with this repository, one command each.
//!
//! This crate is the first thing that a fresh machine compiles, so it has few dependencies. Each command installs
//! what it needs ([`setup`]) and says so.

mod bench;
mod build;
mod crates;
mod demo;
mod fuzz;
mod interrupt;
mod layouts;
mod live;
mod report;
mod setup;
mod sh;
mod test;

use anyhow::Result;
use clap::{Parser, Subcommand};
use std::{path::PathBuf, process::ExitCode};

/// Set up, build, test, show and measure sfgi.
#[derive(Parser)]
#[command(bin_name = "cargo xtask")]
struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Install whatever is missing to build and test (the other commands do this by themselves)
    Setup,
    /// Build the sfgi binary, with the eBPF object inside
    Build {
        /// Optimised: target/release/sfgi instead of target/debug/sfgi
        #[arg(long)]
        release: bool,
    },
    /// Run every check and test; live tests need root and use sudo where it is missing
    Test {
        /// Only these sections
        #[arg(value_enum)]
        sections: Vec<test::Section>,
        /// Seconds for all fuzz targets together
        #[arg(long, default_value_t = 60)]
        fuzz_secs: u32,
        /// Only format, lint, unit tests, and those live tests that touch every command quickly
        #[arg(long)]
        quick: bool,
    },
    /// Trace a small Go service that has real faults, and explain what is to be seen
    Demo,
    /// Measure, and compare with the goals
    Bench {
        /// Which benches (default: all)
        #[arg(value_name = "NAME", value_parser = bench::names())]
        names: Vec<String>,
        /// Also write the rows to this file
        #[arg(long, value_name = "FILE")]
        json: Option<PathBuf>,
    },
    /// Make the table of runtime layouts from the installed Go toolchains, or the layout of one
    Layouts(layouts::Args),
    /// Fuzz the readers of hostile input
    Fuzz {
        /// Seconds for all targets together
        #[arg(long, default_value_t = 60)]
        secs: u32,
        /// Which targets (default: all)
        #[arg(value_name = "TARGET")]
        targets: Vec<String>,
    },
}

fn main() -> ExitCode {
    match run(Args::parse().command) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("xtask: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(command: Command) -> Result<()> {
    match command {
        Command::Setup => setup::run(&setup::TEST).map(drop),
        Command::Build { release } => build::run(release),
        Command::Test { sections, fuzz_secs, quick } => test::run(&sections, fuzz_secs, quick),
        Command::Demo => demo::run(),
        Command::Bench { names, json } => bench::run(&names, json.as_deref()),
        Command::Layouts(args) => layouts::run(&args),
        Command::Fuzz { secs, targets } => fuzz::run(secs, &targets),
    }
}
