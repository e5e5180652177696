//! What the fuzz targets share. They are about [`sfgi_core`], which reads what a target may have made up.
//!
//! Run them with `cargo xtask fuzz`. It uses the ordinary compiler with LLVM's coverage counters
//! switched on; `cargo +nightly fuzz run NAME` works too.

mod stopped;

use sfgi_core::{
    binary::{FuncData, GoBinary, PcData},
    event::{Mode, Set},
    plan::Plan,
    testing::binary::{Recipe, binary},
};
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

/// Asks a binary everything that a trace asks.
pub fn use_all(data: Vec<u8>) {
    let Ok(binary) = GoBinary::parse(data.into()) else { return };
    for function in binary.functions().functions().take(64) {
        for pc in (function.entry..function.end).take(64) {
            binary.symbolize(pc);
            binary.functions().sp_delta(&function, pc);
            binary.functions().pcdata(&function, PcData::ArgLiveIndex, pc);
        }
        binary.functions().funcdata(&function, FuncData::ArgInfo);
        binary.functions().is_wrapper(&function);
        binary.functions().find(function.name);
    }
    binary.functions().inlined_callees(&["runtime.gopark"]);
    for mode in [Mode::Full, Mode::Life] {
        for set in [None, Some(Set::A)] {
            let _ = Plan::choose(&binary, mode, set, true);
        }
    }
}
