//! The live tests: programs that start, trace and read real Go programs as root. They wait more than they work, so two
//! run at a time; none of them is about speed.

use crate::{build, setup, sh, test::Tally};
use anyhow::{Context as _, Result, ensure};
use serde_json::Value;
use std::{
    path::PathBuf,
    process::Stdio,
    sync::{Mutex, PoisonError},
    thread,
    time::Instant,
};

/// Programs that run at the same time.
const STREAMS: usize = 2;

/// A test program that was built.
struct Program {
    name: String,
    file: PathBuf,
}

/// Builds all, runs them with the release build of sfgi, the one that people run, and prints what each said when it
/// has ended.
pub(crate) fn run(compiler: setup::Compiler, tally: &mut Tally) -> Result<()> {
    let sfgi = build::sfgi(compiler, true)?;
    let programs = Mutex::new(build_tests(compiler)?.into_iter());
    let outcome = Mutex::new((tally, Vec::new()));
    thread::scope(|scope| {
        let stream = || -> Result<()> {
            loop {
                let next = programs.lock().unwrap_or_else(PoisonError::into_inner).next();
                let Some(program) = next else { return Ok(()) };
                let began = Instant::now();
                let mut command = sh::root_command(&program.file)?;
                command.current_dir(sh::root().join("tests")).env("SFGI_BIN", &sfgi).arg("--test-threads=1");
                let output = command.stdin(Stdio::null()).output().with_context(|| program.name.clone())?;
                let (said, complained) =
                    (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
                let mut outcome = outcome.lock().unwrap_or_else(PoisonError::into_inner);
                println!("\n--- {} ({:.0} s){said}{complained}", program.name, began.elapsed().as_secs_f64());
                said.lines().for_each(|line| outcome.0.add(line));
                if !output.status.success() {
                    outcome.1.push(program.name);
                }
            }
        };
        let streams: Vec<_> = (0..STREAMS).map(|_| scope.spawn(stream)).collect();
        let join = |stream: thread::ScopedJoinHandle<'_, Result<()>>| {
            stream.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
        };
        streams.into_iter().try_for_each(join)
    })?;
    let (_, failed) = outcome.into_inner().unwrap_or_else(PoisonError::into_inner);
    ensure!(failed.is_empty(), "live tests failed: {}; what failed is listed above", failed.join(", "));
    Ok(())
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
