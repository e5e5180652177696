//! What the fuzz targets share. They are about [`sfgi_core`], which reads what a target may have made up.
//!
//! Run them with `cargo xtask fuzz`. It uses the ordinary compiler with LLVM's coverage counters
//! switched on; `cargo +nightly fuzz run NAME` works too.

mod stopped;

use sfgi_core::testing::binary::{Recipe, binary};
use sfgi_core::testing::peak::{self, PerThread};
pub use stopped::Stopped;

/// Counts, so that an input that takes more memory than it may is found at once; libFuzzer itself looks once a second.
#[global_allocator]
static ALLOCATOR: PerThread = PerThread;

/// Bytes that one input may have allocated at a time; libFuzzer's are some kilobytes.
const MEMORY: usize = 64 << 20;

/// Runs a target on one input. An input that needs more than 64 MiB is a finding, as one that needs more than the
/// seconds of `cargo xtask fuzz` is.
pub fn bounded(run: impl FnOnce()) {
    peak::bounded(MEMORY, run);
}

/// The made-up executables that inputs change, chosen by `which`: old and new tables, fixed and
/// position-independent.
pub fn executable(which: u8) -> Vec<u8> {
    binary(recipe(which))
}

/// As [`executable`], with what shows where the heap is.
pub fn executable_with_heap(which: u8) -> Vec<u8> {
    binary(Recipe { heap: true, ..recipe(which) })
}

fn recipe(which: u8) -> Recipe {
    let version = if which & 1 == 0 { "go1.26.6" } else { "go1.19.8" };
    Recipe { version, pie: which & 2 != 0, heap: false }
}
