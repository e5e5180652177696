//! `cargo xtask test`: every check and test, section by section. CI runs this command and no other.

use crate::{fuzz, layouts, live, setup, setup::deny, sh};
use anyhow::{Context as _, Result, ensure};
use clap::ValueEnum;
use std::{
    env::consts::ARCH,
    fmt::Write as _,
    io::{BufRead as _, BufReader},
    process::{Command, Stdio},
    time::Instant,
};

/// One part of the tests, in the order in which they run: quick ones first.
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

/// Tests passed and failed so far, by the word of the test programs; a section that has none is one test.
#[derive(Default)]
pub(crate) struct Tally {
    passed: u64,
    failed: u64,
    /// What both were when the section began.
    before: (u64, u64),
}

/// Runs `sections` (all if none is named) and stops after the first that fails.
pub(crate) fn run(sections: &[Section], fuzz_secs: u32) -> Result<()> {
    let compiler = setup::run(&setup::TEST)?;
    let mut tally = Tally::default();
    let mut report = String::new();
    let mut result = Ok(());
    for section in Section::value_variants() {
        if !sections.is_empty() && !sections.contains(section) {
            continue;
        }
        let name = section.to_possible_value().map_or_else(String::new, |value| value.get_name().to_owned());
        println!("\n=== {name}");
        let start = Instant::now();
        result =
            section.run(compiler, fuzz_secs, &mut tally).with_context(|| format!("section {name} failed"));
        tally.close(result.is_ok());
        let outcome = if result.is_ok() { "ok" } else { "FAILED" };
        writeln!(report, "{name:8} {outcome:6} {:6.1} s", start.elapsed().as_secs_f64())?;
        if result.is_err() {
            break;
        }
    }
    println!("\n{report}{} passed, {} failed", tally.passed, tally.failed);
    result
}

impl Section {
    fn run(self, compiler: setup::Compiler, fuzz_secs: u32, tally: &mut Tally) -> Result<()> {
        match self {
            Self::Format => format(),
            Self::Lint => lint(compiler),
            Self::Deny => deny_check(),
            Self::Unit => unit(compiler, tally),
            Self::Layouts => layouts::check(compiler),
            Self::Fuzz => fuzz::run_targets(fuzz_secs, &[]),
            Self::Live => live::run(compiler, tally),
        }
    }
}

fn format() -> Result<()> {
    sh::show(sh::cargo()?.args(["fmt", "--all", "--check"]))?;
    sh::show(sh::cargo()?.args(["fmt", "--check", "--manifest-path", fuzz::MANIFEST]))
}

fn lint(compiler: setup::Compiler) -> Result<()> {
    let mut user_space = sh::cargo()?;
    compiler.tell(&mut user_space).args(["clippy", "--all-targets", "--", "-D", "warnings"]);
    sh::show(&mut user_space)?;
    // The eBPF side is checked as if it were code for this machine: the compilers for eBPF bring no clippy.
    let flags = format!("-Cpanic=abort\x1f--cfg=bpf_target_arch=\"{ARCH}\"");
    let mut kernel_side = sh::cargo()?;
    kernel_side.env("CARGO_ENCODED_RUSTFLAGS", flags).args([
        "clippy",
        "--package",
        "tracer-ebpf",
        "--target-dir",
    ]);
    sh::show(kernel_side.arg(sh::target_dir().join("lint-ebpf")).args(["--", "-D", "warnings"]))
}

fn deny_check() -> Result<()> {
    let deny = |command: &str| -> Result<Command> {
        let mut deny = sh::command(deny::program()?)?;
        deny.args(["--manifest-path", "Cargo.toml", command]);
        Ok(deny)
    };
    sh::show(deny("check")?.args(["--hide-inclusion-graph", "bans", "licenses", "sources"]))?;
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

fn unit(compiler: setup::Compiler, tally: &mut Tally) -> Result<()> {
    for packages in [
        ["--workspace", "--exclude=tracer-ebpf", "--exclude=live-tests"].as_slice(),
        &["--package=live-tests", "--lib"],
    ] {
        let mut cargo = sh::cargo()?;
        compiler.tell(&mut cargo).args(["test", "--no-fail-fast"]).args(packages);
        tally.count(&mut cargo)?;
    }
    Ok(())
}

impl Tally {
    /// Ends a section, which was good or not.
    fn close(&mut self, good: bool) {
        let (passed, failed) = self.before;
        if good && self.passed == passed {
            self.passed += 1;
        }
        if !good && self.failed == failed {
            self.failed += 1;
        }
        self.before = (self.passed, self.failed);
    }

    /// Runs `cargo test` with its output on the screen and adds what its result lines say.
    fn count(&mut self, cargo: &mut Command) -> Result<()> {
        let mut child = sh::Child::spawn(cargo.stdin(Stdio::null()).stdout(Stdio::piped()))?;
        let stdout = child.0.stdout.take().context("no stdout")?;
        for line in BufReader::new(stdout).lines() {
            let line = line?;
            println!("{line}");
            self.add(&line);
        }
        ensure!(child.0.wait()?.success(), "cargo test failed: what failed is listed above");
        Ok(())
    }

    /// A test that was counted as failed has passed when it was run again.
    pub(crate) fn pardon(&mut self) {
        self.failed = self.failed.saturating_sub(1);
        self.passed += 1;
    }

    /// Adds "test result: ok. 12 passed; 1 failed; …"; other lines add nothing.
    pub(crate) fn add(&mut self, line: &str) {
        let Some(counts) = line.strip_prefix("test result: ") else { return };
        let number = |what: &str| {
            let before = counts.split(what).next()?;
            before.trim_end().rsplit(' ').next()?.parse::<u64>().ok()
        };
        self.passed += number(" passed;").unwrap_or(0);
        self.failed += number(" failed;").unwrap_or(0);
    }
}

#[cfg(test)]
mod tests {
    use super::Tally;

    #[test]
    fn result_lines_are_added_and_others_are_not() {
        let mut tally = Tally::default();
        tally.add(
            "test result: ok. 12 passed; 0 failed; 3 ignored; 0 measured; 0 filtered out; finished in 0.01s",
        );
        tally.add("test result: FAILED. 1 passed; 2 failed; 0 ignored; 0 measured; 0 filtered out");
        tally.add("7 passed; 7 failed;");
        assert_eq!((tally.passed, tally.failed), (13, 2));
    }

    #[test]
    fn a_section_without_test_programs_is_one_test() {
        let mut tally = Tally::default();
        tally.close(true);
        tally.add("test result: ok. 5 passed; 0 failed;");
        tally.close(true);
        assert_eq!((tally.passed, tally.failed), (6, 0));
        tally.add("test result: ok. 5 passed; 0 failed;");
        tally.close(false); // such as a program that did not compile
        assert_eq!((tally.passed, tally.failed), (11, 1));
    }
}
