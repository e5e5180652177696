//! Why a goroutine waits, in the words of Go's tracer.

use sfgi_core::goruntime::WaitReason;

/// Put where the trace needs a transition that was not seen, for what was lost or for what the probes cannot
/// see.
pub(super) const NOT_SEEN: &str = "sfgi: not seen";

/// What `gopark`'s callers give the tracer with a wait reason (`traceBlockReasonStrings` in
/// `src/runtime/traceruntime.go`, and the calls of `gopark`). Analyses of traces go by these words: `network`, `sync`,
/// `chan receive`. A wait reason that is not here is told as it is, in `text`.
pub(super) fn block(reason: WaitReason, text: &str) -> &str {
    use WaitReason::*;
    match reason.outside_of_bubbles() {
        IoWait => "network",
        ChanReceiveNilChan | ChanSendNilChan | SelectNoCases | PanicWait => "forever",
        ChanReceive => "chan receive",
        ChanSend => "chan send",
        Select => "select",
        SyncCondWait => "sync.(*Cond).Wait",
        Semacquire | SyncMutexLock | SyncRwMutexRLock | SyncRwMutexLock | SyncWaitGroupWait => "sync",
        GcAssistWait => "GC mark assist wait for work",
        GcSweepWait => "GC background sweeper wait",
        WaitForGcCycle => "wait until GC ends",
        DebugCall => "wait for debug call",
        GcScavengeWait | GcWorkerIdle | FinalizerWait | CleanupWait | ForceGcIdle | UpdateGomaxprocsIdle
        | TraceReaderBlocked => "system goroutine wait",
        SynctestRun | SynctestWait => "synctest",
        _ => text,
    }
}
