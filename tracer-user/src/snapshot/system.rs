//! Which goroutines are the runtime's own (`src/runtime/traceback.go: isSystemGoroutine`).

use super::{Pc, View};

/// Functions of the runtime that start goroutines of the program.
const USERS: [&str; 3] = ["runtime.main", "runtime.corostart", "runtime.handleAsyncEvent"];
/// Goroutines of the runtime that run functions of the program now and then (`runfinq` up to 1.24).
/// While they do, they count as the program's.
const CALLERS: [&str; 3] = ["runtime.runfinq", "runtime.runFinalizers", "runtime.runCleanups"];

/// Whether the goroutine that starts at `startpc` is the runtime's own.
pub(super) fn is_system(view: &View<'_>, startpc: u64, stack: &[Pc]) -> bool {
    let name = |pc: u64| view.binary.functions().function_at(pc.wrapping_sub(view.bias)).map(|f| f.name);
    name(startpc).is_some_and(|start| starts_system(start, stack.iter().filter_map(|pc| name(pc.lookup()))))
}

/// The same, by the name of the function that it starts with and those on its stack.
pub(crate) fn starts_system<'n>(start: &str, mut stack: impl Iterator<Item = &'n str>) -> bool {
    if USERS.contains(&start) {
        return false;
    }
    if CALLERS.contains(&start) {
        return stack.all(|name| name.starts_with("runtime."));
    }
    start.starts_with("runtime.")
}
