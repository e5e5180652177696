//! Which functions the runtime's tracebacks show: `showfuncinfo` and `isExportedRuntime` of
//! `src/runtime/traceback.go`.

/// Shown within a stack, where it tells the code that panicked from the deferred functions.
pub const PANIC: &str = "runtime.gopanic";

/// Whether a traceback of Go 1.`minor` shows a function of this name wherever it stands; the
/// frames around it decide about wrappers and about [`PANIC`].
pub fn shows(name: &str, minor: u32) -> bool {
    // Since 1.25 they say that a goroutine runs finalizers or cleanups.
    if minor >= 25 && matches!(name, "runtime.runFinalizers" | "runtime.runCleanups") {
        return true;
    }
    match name.strip_prefix("runtime.") {
        Some(name) => is_exported(name, minor),
        None => name.contains('.'),
    }
}

/// Whether a wrapper is shown that called this function instead of what it is for
/// (`elideWrapperCalling`).
pub fn shows_its_wrapper(name: &str) -> bool {
    matches!(name, PANIC | "runtime.sigpanic" | "runtime.panicwrap")
}

/// Whether a function of the runtime can be called from elsewhere. Methods count since 1.23.
fn is_exported(name: &str, minor: u32) -> bool {
    let upper = |name: &str| name.starts_with(|first: char| first.is_ascii_uppercase());
    match name.rsplit_once('.').filter(|_| minor >= 23) {
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
