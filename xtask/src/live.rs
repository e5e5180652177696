//! The live tests: real Go programs, started, traced and read as root. Which of them run beside each other, and that one that
//! failed runs once more, is the affair of their own harness (`tests/live/harness.rs`).

use crate::{build, report::Tally, setup, sh};
use anyhow::Result;

/// Builds and runs them; if `quick`, only a few that together use every command of sfgi.
pub(crate) fn run(compiler: setup::Compiler, tally: &mut Tally, quick: bool) -> Result<()> {
    let tests = build::live_tests(compiler)?;
    let mut command = sh::root_command(&tests.program.file)?;
    // What failed is told by its chain of causes; backtraces hide that.
    command.current_dir(&tests.program.package).env("SFGI_BIN", &tests.sfgi).env("RUST_BACKTRACE", "0");
    command.args(quick.then_some("--quick"));
    tally.count(&tests.program.name, &mut command)
}
