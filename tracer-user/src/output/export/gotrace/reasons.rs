//! Why a goroutine waits, in the words of Go's tracer.

/// Put where the trace needs a transition that was not seen, for what was lost or for what the probes cannot
/// see.
pub(super) const NOT_SEEN: &str = "sfgi: not seen";

/// What `gopark`'s callers give the tracer with a wait reason (`traceBlockReasonStrings` in
/// `src/runtime/traceruntime.go`, and the calls of `gopark`). Analyses of traces go by these words: `network`, `sync`,
/// `chan receive`. A wait reason that is not here is told as it is.
pub(super) fn block(wait_reason: &str) -> &str {
    match wait_reason.trim_end_matches(" (durable)") {
        "IO wait" => "network",
        "chan receive (nil chan)" | "chan send (nil chan)" | "select (no cases)" | "panicwait" => "forever",
        "chan receive" => "chan receive",
        "chan send" => "chan send",
        "select" => "select",
        "sync.Cond.Wait" => "sync.(*Cond).Wait",
        "semacquire"
        | "sync.Mutex.Lock"
        | "sync.RWMutex.RLock"
        | "sync.RWMutex.Lock"
        | "sync.WaitGroup.Wait" => "sync",
        "GC assist wait" => "GC mark assist wait for work",
        "GC sweep wait" => "GC background sweeper wait",
        "wait for GC cycle" => "wait until GC ends",
        "debug call" => "wait for debug call",
        "GC scavenge wait"
        | "GC worker (idle)"
        | "finalizer wait"
        | "cleanup wait"
        | "force gc (idle)"
        | "GOMAXPROCS updater (idle)"
        | "trace reader (blocked)" => "system goroutine wait",
        "synctest.Run" | "synctest.Wait" => "synctest",
        other => other,
    }
}
