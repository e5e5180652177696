//! Wait reasons that mean something to the model, found by their text: the numbers differ
//! between versions.

/// Reasons of a goroutine that only looks as if it waited, and goes on executing on the system
/// stack. The runtime lists them itself since 1.23 (`runtime2.go: isWaitingForSuspendG`; there
/// `isWaitingForGC`); the heap dump is not in its list, but does the same (`heapdump.go`).
pub const FAKE_WAITS: [&str; 11] = [
    "stopping the world",
    "GC mark termination",
    "garbage collection",
    "garbage collection scan",
    "trace goroutine status",
    "trace proc status",
    "page trace flush",
    "GC assist marking",
    "GC worker (active)",
    "flushing proc caches",
    "dumping heap",
];

#[derive(Clone, Debug)]
pub(crate) struct Reasons {
    fake: [bool; 256],
    /// `waitReasonCoroutine`; 0 where the version has none.
    pub(crate) coroutine: u8,
}

impl Reasons {
    pub(crate) fn new(texts: &[String]) -> Reasons {
        let mut reasons = Reasons { fake: [false; 256], coroutine: 0 };
        for (index, text) in (0u8..=255).zip(texts) {
            reasons.fake[usize::from(index)] = FAKE_WAITS.contains(&text.as_str());
            if text == "coroutine" {
                reasons.coroutine = index;
            }
        }
        reasons
    }

    pub(crate) fn is_fake(&self, reason: u8) -> bool {
        self.fake[usize::from(reason)]
    }
}
