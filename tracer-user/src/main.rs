//! The command `sfgi`.

use sfgi_core::budget::Counted;
use std::process::ExitCode;

#[global_allocator]
static ALLOCATOR: Counted = Counted;

fn main() -> ExitCode {
    sfgi::cli::main()
}
