//! The live tests: programs that start, trace and read real Go programs as root. They wait more than they work, so two
//! run at a time; none of them is about speed. But each shares the processors with a neighbour that it knows nothing of, so a
//! test that fails is run once more alone. It has failed if it fails then, too; that it failed beside another is said.

use crate::{build, report::Tally, setup, sh};
use anyhow::{Context as _, Result, ensure};
use serde_json::Value;
use std::{
    path::{Path, PathBuf},
    process::Stdio,
    sync::{Mutex, MutexGuard, PoisonError},
    thread,
    time::Instant,
};

/// Programs that run at the same time.
const STREAMS: usize = 2;

/// Programs that together touch every command and take seconds.
const QUICK: [&str; 7] =
    ["bad_input", "dump", "export_flamegraph", "labels", "launch", "leaks_cli", "report"];

/// A test program that was built.
struct Program {
    name: String,
    file: PathBuf,
}

/// How a program ended.
struct Ended {
    good: bool,
    /// What it printed.
    said: String,
}

impl Program {
    /// Runs all its tests, or only the one of this name.
    fn run(&self, sfgi: &Path, only: Option<&str>) -> Result<Ended> {
        let mut command = sh::root_command(&self.file)?;
        // What failed is told by its chain of causes; backtraces hide that.
        command.current_dir(sh::root().join("tests")).env("SFGI_BIN", sfgi).env("RUST_BACKTRACE", "0");
        command.arg("--test-threads=1").args(only.map(|name| ["--exact", name]).into_iter().flatten());
        let began = Instant::now();
        let output = command.stdin(Stdio::null()).output().with_context(|| self.name.clone())?;
        let said = String::from_utf8_lossy(&output.stdout) + String::from_utf8_lossy(&output.stderr);
        let which = only.map_or_else(|| self.name.clone(), |test| format!("{}: {test}, alone", self.name));
        println!("\n--- {which} ({:.0} s){said}", began.elapsed().as_secs_f64());
        Ok(Ended { good: output.status.success(), said: said.into_owned() })
    }
}

/// Builds all, runs them (if `quick`, only [`QUICK`]) with the release build of sfgi, the one that people run, and prints what each said when it
/// has ended.
pub(crate) fn run(compiler: setup::Compiler, tally: &mut Tally, quick: bool) -> Result<()> {
    let sfgi = build::sfgi(compiler, true)?;
    let mut programs = build_tests(compiler)?;
    programs.retain(|program| !quick || QUICK.contains(&program.name.as_str()));
    let programs = Mutex::new(programs.into_iter());
    let ended = Mutex::new(Vec::new());
    thread::scope(|scope| {
        let stream = || -> Result<()> {
            loop {
                let next = lock(&programs).next();
                let Some(program) = next else { return Ok(()) };
                let outcome = program.run(&sfgi, None)?;
                lock(&ended).push((program, outcome));
            }
        };
        let streams: Vec<_> = (0..STREAMS).map(|_| scope.spawn(stream)).collect();
        let join = |stream: thread::ScopedJoinHandle<'_, Result<()>>| {
            stream.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
        };
        streams.into_iter().try_for_each(join)
    })?;
    let mut failed = Vec::new();
    for (program, outcome) in ended.into_inner().unwrap_or_else(PoisonError::into_inner) {
        outcome.said.lines().for_each(|line| tally.add(line));
        let tests = failures(&outcome.said);
        if !outcome.good && tests.is_empty() {
            failed.push(format!("{} did not end well", program.name));
        }
        for test in tests {
            if program.run(&sfgi, Some(test))?.good {
                println!("{}: {test} failed beside another program and passed alone", program.name);
                tally.pardon(format!("{}: {test}", program.name));
            } else {
                failed.push(format!("{}: {test}", program.name));
            }
        }
    }
    ensure!(failed.is_empty(), "live tests failed, also alone: {}", failed.join("; "));
    Ok(())
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The names of the tests that failed, by what their program printed.
fn failures(said: &str) -> Vec<&str> {
    let Some((_, list)) = said.rsplit_once("\nfailures:\n") else { return Vec::new() };
    list.lines().map_while(|line| line.strip_prefix("    ")).collect()
}

/// Compiles the test programs, as whoever calls; the order is cargo's.
fn build_tests(compiler: setup::Compiler) -> Result<Vec<Program>> {
    let mut cargo = sh::cargo()?;
    compiler.tell(&mut cargo).args(["test", "--no-run", "--package", "live-tests", "--test", "*"]);
    let messages = sh::output(cargo.args(["--message-format", "json-render-diagnostics"]))?;
    let program = |message: Value| {
        let of_tests = message["target"]["kind"].as_array()?.iter().any(|kind| kind == "test");
        let file = message["executable"].as_str().filter(|_| of_tests)?;
        Some(Program { name: message["target"]["name"].as_str()?.to_owned(), file: file.into() })
    };
    let messages = messages.lines().filter_map(|line| serde_json::from_str(line).ok());
    let mut programs: Vec<Program> = messages.filter_map(program).collect();
    programs.sort_by(|a, b| a.name.cmp(&b.name));
    ensure!(!programs.is_empty(), "cargo built no test program");
    Ok(programs)
}

#[cfg(test)]
mod tests {
    use super::failures;

    #[test]
    fn the_last_list_of_failures_has_the_names() {
        let said = "test a ... FAILED\n\nfailures:\n\n---- a stdout ----\nError: x\n    indented\n\n\nfailures:\n    a\n    b::c\n\n\
                    test result: FAILED. 0 passed; 2 failed;\n";
        assert_eq!(failures(said), ["a", "b::c"]);
        assert!(failures("test result: ok. 1 passed;").is_empty());
    }
}
