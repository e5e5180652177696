//! Which goroutines are the runtime's own (`src/runtime/traceback.go: isSystemGoroutine`).

/// Functions of the runtime that start goroutines of the program.
const USERS: [&str; 3] = ["runtime.main", "runtime.corostart", "runtime.handleAsyncEvent"];
/// Goroutines of the runtime that run functions of the program now and then (`runfinq` up to 1.24).
/// While they do, they count as the program's.
const CALLERS: [&str; 3] = ["runtime.runfinq", "runtime.runFinalizers", "runtime.runCleanups"];

/// Whether a goroutine is the runtime's own, by the name of the function that it starts with and those on its
/// stack.
pub fn starts_system<'n>(start: &str, mut stack: impl Iterator<Item = &'n str>) -> bool {
    if USERS.contains(&start) {
        return false;
    }
    if CALLERS.contains(&start) {
        return stack.all(|name| name.starts_with("runtime."));
    }
    start.starts_with("runtime.")
}
