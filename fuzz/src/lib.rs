//! The parts of sfgi under test, compiled by themselves: the fuzz targets need neither the eBPF
//! programs nor the rest of the library.
//!
//! Run them with `cargo xtask fuzz`. It uses the ordinary compiler with LLVM's coverage counters
//! switched on; `cargo +nightly fuzz run NAME` works too.

// What only the parts that are left out use.
#![allow(dead_code, unused_imports)]

#[path = "../../tracer-user/src/clock.rs"]
pub mod clock;
#[path = "../../tracer-user/src/detect/mod.rs"]
pub mod detect;
#[path = "../../tracer-user/src/event/mod.rs"]
pub mod event;
#[path = "../../tracer-user/src/follow/mod.rs"]
pub mod follow;
#[path = "../../tracer-user/src/heap/mod.rs"]
pub mod heap;
#[path = "../../tracer-user/src/memory/mod.rs"]
pub mod memory;
#[path = "../../tracer-user/src/model/mod.rs"]
pub mod model;
#[path = "../../tracer-user/src/present/mod.rs"]
pub mod present;
#[path = "../../tracer-user/src/recording/mod.rs"]
pub mod recording;
#[path = "../../tracer-user/src/snapshot/mod.rs"]
pub mod snapshot;
mod stopped;
#[path = "../../tracer-user/src/target/tests/synthetic.rs"]
mod synthetic;
#[path = "../../tracer-user/src/target/mod.rs"]
pub mod target;

pub use stopped::Stopped;
use synthetic::{Recipe, binary};
use target::{FuncData, GoBinary, Mode, PcData, Plan, Set};

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
