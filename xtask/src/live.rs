//! The live tests: real Go programs, started, traced and read as root. Their own harness (`tests/live/harness.rs`)
//! decides which run beside each other, and runs a test that failed once more.

use crate::{build, report::Tally, setup, sh};
use anyhow::Result;

/// Builds and runs the live tests; `quick`: only a few that together use every command of sfgi.
pub(crate) fn run(compiler: setup::Compiler, tally: &mut Tally, quick: bool) -> Result<()> {
    let tests = build::live_tests(compiler)?;
    let mut command = sh::root_command(&tests.program.file)?;
    // A failure is told by its chain of causes, which backtraces hide.
    command.current_dir(&tests.program.package).env("SFGI_BIN", &tests.sfgi).env("RUST_BACKTRACE", "0");
    command.args(quick.then_some("--quick"));
    tally.count(&tests.program.name, &mut command)
}
