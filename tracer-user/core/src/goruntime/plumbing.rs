//! "Plumbing": functions that only pass a wait on to their caller, so that a stack which is still within them does
//! not yet say who waits.
//!
//! Two questions are asked, and their answers differ on purpose. A probe walks a stack until it is out of
//! [`is_plumbing_package`]; each further frame costs the target time, so only packages that nearly every wait
//! passes through count. A name for the place is sought among the frames that were walked ([`is_plumbing`]); there
//! `bufio` and `fmt` can be skipped for nothing, while a function of `net` or `time` that is called for its own
//! sake (`net.(*Dialer).Dial`) says more than its caller.

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
    PACKAGES.contains(&package) || TREES.iter().any(|tree| below(&tree))
}

/// Whether a function only passes a wait on. The main goroutine may have nothing else on its stack than
/// `runtime.main`.
pub fn is_plumbing(func: &str) -> bool {
    func != "runtime.main" && PREFIXES.iter().any(|prefix| func.starts_with(prefix))
}
