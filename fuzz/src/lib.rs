//! What the fuzz targets share. They are about [`sfgi_core`], which reads what a target may have made up.
//!
//! Run them with `cargo xtask fuzz`. It uses the ordinary compiler with LLVM's coverage counters
//! switched on; `cargo +nightly fuzz run NAME` works too.

mod stopped;

use sfgi_core::testing::binary::{Recipe, binary};
pub use stopped::Stopped;

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
