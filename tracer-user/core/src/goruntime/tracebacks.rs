//! Which functions the runtime's tracebacks show: `showfuncinfo`, `isExportedRuntime` and `elideWrapperCalling` of
//! `src/runtime/traceback.go`.

use super::Release;

/// Shown within a stack but not as its innermost frame: there it separates the deferred functions from the code that
/// panicked.
pub const PANIC: &str = "runtime.gopanic";

/// Whether a traceback of this release shows a function of this name wherever it stands. Wrappers and [`PANIC`] depend
/// on the frames around them, which the caller knows.
pub fn shows(name: &str, release: Release) -> bool {
    if release.shows_finalizers() && matches!(name, "runtime.runFinalizers" | "runtime.runCleanups") {
        return true;
    }
    match name.strip_prefix("runtime.") {
        Some(name) => is_exported(name, release),
        // `showfuncinfo` hides names without a dot: assembly and C, such as `crosscall2`.
        None => name.contains('.'),
    }
}

/// Whether a traceback shows a wrapper that called this function: a wrapper that panicked itself did not reach the
/// method it was made for (`elideWrapperCalling`).
pub fn shows_its_wrapper(name: &str) -> bool {
    matches!(name, PANIC | "runtime.sigpanic" | "runtime.panicwrap")
}

/// `isExportedRuntime`, for a name without `runtime.`.
fn is_exported(name: &str, release: Release) -> bool {
    let upper = |name: &str| name.starts_with(|first: char| first.is_ascii_uppercase());
    match name.rsplit_once('.').filter(|_| release.shows_exported_methods()) {
        None => upper(name),
        Some((receiver, name)) => {
            let pointer = receiver.strip_prefix("(*").and_then(|receiver| receiver.strip_suffix(')'));
            let receiver = pointer.unwrap_or(receiver);
            upper(name) && (receiver.is_empty() || upper(receiver))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shows(name: &str, minor: u32) -> bool {
        super::shows(name, Release::new(minor))
    }

    #[test]
    fn the_runtime_s_own_frames_are_hidden() {
        for minor in [19, 22, 23, 27] {
            assert!(shows("main.main", minor) && shows("runtime.Gosched", minor));
            assert!(shows("runtime/debug.Stack", minor) && shows("example.com/runtime.go", minor));
            assert!(!shows("runtime.gopark", minor) && !shows("runtime.main.func1", minor));
            assert!(!shows("crosscall2", minor) && !shows("runtime.", minor) && !shows("", minor));
            assert!(!shows(PANIC, minor));
        }
    }

    #[test]
    fn what_counts_as_exported_changed() {
        // Up to 1.22 only the first letter counts.
        assert!(!shows("runtime.(*Func).Entry", 22) && shows("runtime.(*Func).Entry", 23));
        assert!(shows("runtime.Caller.func1", 22) && !shows("runtime.Caller.func1", 23));
        assert!(!shows("runtime.(*timers).Run", 23) && !shows("runtime.(*Func).entry", 23));
        assert!(shows("runtime.Func.Entry", 23) && !shows("runtime.(func).Entry", 23));
    }

    #[test]
    fn finalizers_are_shown_since_1_25() {
        assert!(!shows("runtime.runFinalizers", 24) && shows("runtime.runFinalizers", 25));
        assert!(!shows("runtime.runCleanups", 24) && shows("runtime.runCleanups", 25));
    }
}
