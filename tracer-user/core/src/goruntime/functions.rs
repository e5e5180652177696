//! What the name of a function says: whether a goroutine is the runtime's own, and whether the function is "plumbing",
//! which only passes a wait on to its caller.
//!
//! Plumbing is defined twice, on purpose. A probe walks a stack until it leaves [`is_plumbing_package`]. Each further
//! frame costs the target time, so that list has only packages that nearly every wait passes through. User space names
//! a wait by the first frame that is not [`is_plumbing`]. Skipping `bufio` and `fmt` costs nothing there, and a
//! function of `net` or `time` that is called for its own sake (`net.(*Dialer).DialContext`) says more than its caller.

/// Start functions in package runtime whose goroutines are the target's own (exceptions in `isSystemGoroutine`).
const USERS: [&str; 3] = ["runtime.main", "runtime.corostart", "runtime.handleAsyncEvent"];
/// Start functions of runtime goroutines that call finalizers and cleanups of the target (`runfinq` up to 1.24). While
/// they do, the goroutine counts as the target's own.
const CALLERS: [&str; 3] = ["runtime.runfinq", "runtime.runFinalizers", "runtime.runCleanups"];

/// Whether a goroutine is the runtime's own (`src/runtime/traceback.go`: `isSystemGoroutine`), by the name of the
/// function that it starts with and those on its stack.
pub fn starts_system<'n>(start: &str, mut stack: impl Iterator<Item = &'n str>) -> bool {
    if USERS.contains(&start) {
        return false;
    }
    if CALLERS.contains(&start) {
        // As `isSystemGoroutine`: while it calls a finalizer, functions outside of the runtime are on its stack.
        return stack.all(|name| name.starts_with("runtime."));
    }
    start.starts_with("runtime.")
}

/// Whether a function is that of a goroutine which calls finalizers or cleanups.
pub fn calls_finalizers(func: &str) -> bool {
    CALLERS.contains(&func)
}

/// Packages that a probe's stack walk passes through.
const PACKAGES: [&str; 6] = ["runtime", "syscall", "time", "io", "os", "net"];
/// Import paths that a probe's stack walk passes through, with everything below them.
const TREES: [&str; 3] = ["internal", "runtime/internal", "sync"];

/// Prefixes of functions that are never shown as the place of a wait.
const PREFIXES: [&str; 14] = [
    "runtime.",
    "runtime/",
    "internal/",
    "sync.",
    "sync/",
    "syscall.",
    "time.Sleep",
    "golang.org/x/sys/",
    "net.(*netFD).",
    "net.(*conn).",
    "os.(*File).",
    "io.",
    "bufio.",
    "fmt.",
];

/// Whether a probe's stack walk goes on behind a function of this package.
pub(crate) fn is_plumbing_package(package: &str) -> bool {
    let below = |tree: &&str| {
        package.strip_prefix(*tree).is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
    };
    PACKAGES.contains(&package) || TREES.iter().any(below)
}

/// Whether a function only passes a wait on to its caller. `runtime.main` does not: it may be the only frame that the
/// main goroutine has.
pub fn is_plumbing(func: &str) -> bool {
    func != "runtime.main" && PREFIXES.iter().any(|prefix| func.starts_with(prefix))
}
