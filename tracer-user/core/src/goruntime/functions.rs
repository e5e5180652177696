//! What the name of a function says: whether a goroutine is the runtime's own, and which functions are "plumbing",
//! that is, only pass a wait on to their caller.
//!
//! Plumbing has two sides, which differ on purpose. A probe walks a stack until it is out of
//! [`is_plumbing_package`]; each further frame costs the target time, so only packages that nearly every wait
//! passes through count. The place of a wait is named by the first walked frame that is not [`is_plumbing`]: there
//! `bufio` and `fmt` can be skipped for nothing, while a function of `net` or `time` that is called for its own
//! sake (`net.(*Dialer).DialContext`) says more than its caller.

/// Functions of the runtime that start goroutines of the program.
const USERS: [&str; 3] = ["runtime.main", "runtime.corostart", "runtime.handleAsyncEvent"];
/// Goroutines of the runtime that run functions of the program now and then (`runfinq` up to 1.24).
/// While they do, they count as the program's.
const CALLERS: [&str; 3] = ["runtime.runfinq", "runtime.runFinalizers", "runtime.runCleanups"];

/// Whether a goroutine is the runtime's own (`src/runtime/traceback.go`: `isSystemGoroutine`), by the name of the function that it starts with and those on its
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

/// Packages that a probe walks through.
const PACKAGES: [&str; 6] = ["runtime", "syscall", "time", "io", "os", "net"];
/// The same for everything at or below these paths.
const TREES: [&str; 3] = ["internal", "runtime/internal", "sync"];

/// Beginnings of names of functions that do not name a place.
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

/// Whether a probe walks on behind a function of this package.
pub(crate) fn is_plumbing_package(package: &str) -> bool {
    let below = |tree: &&str| {
        package.strip_prefix(*tree).is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
    };
    PACKAGES.contains(&package) || TREES.iter().any(below)
}

/// Whether a function only passes a wait on. The main goroutine may have nothing else on its stack than
/// `runtime.main`.
pub fn is_plumbing(func: &str) -> bool {
    func != "runtime.main" && PREFIXES.iter().any(|prefix| func.starts_with(prefix))
}
