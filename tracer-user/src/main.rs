//! The command `sfgi`.

use std::process::ExitCode;

fn main() -> ExitCode {
    sfgi::cli::main()
}
