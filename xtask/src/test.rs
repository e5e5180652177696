//! `cargo xtask test`: every check and test, section by section. CI runs this command and no other.

use crate::{
    build::{self, MESSAGES, PROFILE},
    fuzz, layouts, live,
    report::Tally,
    setup,
    setup::deny,
    sh,
};
use anyhow::{Context as _, Result, ensure};
use clap::ValueEnum;
use std::{env::consts::ARCH, process::Command, thread, time::Instant};

/// One part of the tests, in the order in which they run: the quick ones first.
#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Section {
    /// Formatting is rustfmt's
    Format,
    /// Clippy finds nothing
    Lint,
    /// Licences, sources and duplicates of dependencies; known vulnerabilities where the database can be reached
    Deny,
    /// Tests that need no privilege
    Unit,
    /// The table of layouts is what the Go toolchains say
    Layouts,
    /// Fuzzing of the readers of hostile input
    Fuzz,
    /// Real Go programs, traced; as root
    Live,
}

/// The sections of `--quick`: what a change breaks most often, in a few minutes.
const QUICK: [Section; 4] = [Section::Format, Section::Lint, Section::Unit, Section::Live];

/// Runs `sections` (all if none is named; with `quick` those of [`QUICK`], and of the live tests only the quick ones)
/// and stops after the first that fails.
pub(crate) fn run(sections: &[Section], fuzz_secs: u32, quick: bool) -> Result<()> {
    let mut tally = Tally::default();
    let start = Instant::now();
    let compiler = setup::run(&setup::TEST)?;
    tally.set_up(start.elapsed());
    let all = if quick { QUICK.as_slice() } else { Section::value_variants() };
    let mut result = Ok(());
    for section in all.iter().filter(|section| sections.is_empty() || sections.contains(section)) {
        let name = section.to_possible_value().map_or_else(String::new, |value| value.get_name().to_owned());
        println!("\n=== {name}");
        let start = Instant::now();
        result = section
            .run(compiler, fuzz_secs, quick, &mut tally)
            .with_context(|| format!("section {name} failed"));
        tally.close(&name, result.is_ok(), start.elapsed());
        if result.is_err() {
            break;
        }
    }
    println!("\n{tally}");
    result
}

impl Section {
    fn run(self, compiler: setup::Compiler, fuzz_secs: u32, quick: bool, tally: &mut Tally) -> Result<()> {
        match self {
            Self::Format => format(),
            Self::Lint => lint(compiler),
            Self::Deny => deny_check(),
            Self::Unit => unit(compiler, tally),
            Self::Layouts => layouts::check(compiler),
            Self::Fuzz => fuzz::run_targets(fuzz_secs, &[]),
            Self::Live => live::run(compiler, tally, quick),
        }
    }
}

fn format() -> Result<()> {
    sh::show(sh::cargo()?.args(["fmt", "--all", "--check"]))
}

fn lint(compiler: setup::Compiler) -> Result<()> {
    let mut user_space = sh::cargo()?;
    compiler.tell(&mut user_space).args(["clippy", "--profile", PROFILE, "--all-targets", MESSAGES]);
    user_space.args(["--", "-D", "warnings"]);
    // The eBPF side is checked as if it were code for this machine, because the compilers for eBPF bring no clippy.
    // CARGO_ENCODED_RUSTFLAGS separates flags by 0x1f.
    let flags = format!("-Cpanic=abort\x1f--cfg=bpf_target_arch=\"{ARCH}\"");
    let mut kernel_side = sh::cargo()?;
    kernel_side.env("CARGO_ENCODED_RUSTFLAGS", flags).args([
        "clippy",
        "--quiet",
        "--package",
        "tracer-ebpf",
        "--target-dir",
    ]);
    kernel_side.arg(sh::target_dir().join("lint-ebpf")).args(["--", "-D", "warnings"]);
    thread::scope(|scope| {
        let kernel_side = scope.spawn(|| sh::show(&mut kernel_side));
        build::compile(&mut user_space)?;
        sh::join(kernel_side)
    })
}

fn deny_check() -> Result<()> {
    let deny = |command: &str| -> Result<Command> {
        let mut deny = sh::command(deny::program()?)?;
        deny.args(["--manifest-path", "Cargo.toml", command]);
        Ok(deny)
    };
    sh::show(deny("check")?.args(["--hide-inclusion-graph", "bans", "licenses", "sources"]))?;
    // The database of advisories is on GitHub, which a machine that reaches only package registries cannot fetch.
    match sh::output(deny("fetch")?.arg("db")) {
        Ok(_) => sh::show(deny("check")?.args(["--disable-fetch", "advisories"])),
        Err(error) => {
            println!(
                "advisories are NOT checked: their database cannot be fetched ({})",
                sh::last_line(&error)
            );
            Ok(())
        }
    }
}

/// Runs the test programs themselves, not `cargo test`: only then can libtest be told to report how long each test
/// took. `--report-time` is unstable, so it takes RUSTC_BOOTSTRAP.
fn unit(compiler: setup::Compiler, tally: &mut Tally) -> Result<()> {
    let mut failed = Vec::new();
    for program in build::unit_tests(compiler)? {
        let mut command = sh::command(&program.file)?;
        command.current_dir(&program.package).env("CARGO_MANIFEST_DIR", &program.package);
        command.env("RUSTC_BOOTSTRAP", "1").args(["-Zunstable-options", "--report-time"]);
        println!("\n--- {}", program.name);
        if let Err(error) = tally.count(&program.name, &mut command) {
            failed.push(format!("{error:#}"));
        }
    }
    ensure!(failed.is_empty(), "{}", failed.join("; "));
    Ok(())
}
