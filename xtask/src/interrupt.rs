//! Ctrl-C while a child has the terminal: the child gets it, too, and ends in its own way, while xtask stays to clean
//! up. Children start with the default handling, because exec does not inherit a handler (it would inherit "ignore").

use std::sync::atomic::{AtomicBool, Ordering::Relaxed};

static HAPPENED: AtomicBool = AtomicBool::new(false);

extern "C" fn note(_: libc::c_int) {
    HAPPENED.store(true, Relaxed);
}

/// From now on, Ctrl-C does not end this process but makes [`happened`] true.
pub(crate) fn catch() {
    // SAFETY: `note` only stores to an atomic, which a signal handler may do.
    unsafe { libc::signal(libc::SIGINT, note as *const () as libc::sighandler_t) };
}

/// Whether Ctrl-C was pressed since [`catch`].
pub(crate) fn happened() -> bool {
    HAPPENED.load(Relaxed)
}
