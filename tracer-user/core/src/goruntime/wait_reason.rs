//! Why a goroutine waits. The runtime renumbers its wait reasons between versions, even within a series, but keeps
//! their texts. So each text of a binary is looked up once ([`WaitReason::parse`]), and the binary's numbers then stand
//! for [`WaitReason`]s.

use serde::{Deserialize, Serialize};

/// `waitReason` (`src/runtime/runtime2.go`) of Go 1.19 to 1.27. Variants carry the runtime's names;
/// [`WaitReason::parse`] has their texts.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum WaitReason {
    /// `waitReasonZero`: the goroutine never waited.
    Zero,
    GcAssistMarking,
    IoWait,
    ChanReceiveNilChan,
    ChanSendNilChan,
    DumpingHeap,
    GarbageCollection,
    GarbageCollectionScan,
    PanicWait,
    Select,
    SelectNoCases,
    GcAssistWait,
    GcSweepWait,
    GcScavengeWait,
    ChanReceive,
    ChanSend,
    FinalizerWait,
    ForceGcIdle,
    UpdateGomaxprocsIdle,
    Semacquire,
    Sleep,
    SyncCondWait,
    TimerGoroutineIdle,
    TraceReaderBlocked,
    WaitForGcCycle,
    GcWorkerIdle,
    GcWorkerActive,
    Preempted,
    DebugCall,
    GcMarkTermination,
    StoppingTheWorld,
    FlushProcCaches,
    TraceGoroutineStatus,
    TraceProcStatus,
    PageTraceFlush,
    Coroutine,
    GcWeakToStrongWait,
    SyncMutexLock,
    SyncRwMutexRLock,
    SyncRwMutexLock,
    SyncWaitGroupWait,
    SynctestRun,
    SynctestWait,
    // Go has own reasons for waits within a synctest bubble: `outside_of_bubbles` gives the ordinary ones.
    SynctestChanReceive,
    SynctestChanSend,
    SynctestSelect,
    SynctestWaitGroupWait,
    CleanupWait,
    /// A text or a number that no version up to [`Release::NEWEST`](super::Release::NEWEST) has.
    Unknown,
}

impl WaitReason {
    /// The reason with this text, an element of `runtime.waitReasonStrings`.
    pub fn parse(text: &str) -> WaitReason {
        use WaitReason::*;
        match text {
            "" => Zero,
            "GC assist marking" => GcAssistMarking,
            "IO wait" => IoWait,
            "chan receive (nil chan)" => ChanReceiveNilChan,
            "chan send (nil chan)" => ChanSendNilChan,
            "dumping heap" => DumpingHeap,
            "garbage collection" => GarbageCollection,
            "garbage collection scan" => GarbageCollectionScan,
            "panicwait" => PanicWait,
            "select" => Select,
            "select (no cases)" => SelectNoCases,
            "GC assist wait" => GcAssistWait,
            "GC sweep wait" => GcSweepWait,
            "GC scavenge wait" => GcScavengeWait,
            "chan receive" => ChanReceive,
            "chan send" => ChanSend,
            "finalizer wait" => FinalizerWait,
            "force gc (idle)" => ForceGcIdle,
            "GOMAXPROCS updater (idle)" => UpdateGomaxprocsIdle,
            "semacquire" => Semacquire,
            "sleep" => Sleep,
            "sync.Cond.Wait" => SyncCondWait,
            "timer goroutine (idle)" => TimerGoroutineIdle,
            "trace reader (blocked)" => TraceReaderBlocked,
            "wait for GC cycle" => WaitForGcCycle,
            "GC worker (idle)" => GcWorkerIdle,
            "GC worker (active)" => GcWorkerActive,
            "preempted" => Preempted,
            "debug call" => DebugCall,
            "GC mark termination" => GcMarkTermination,
            "stopping the world" => StoppingTheWorld,
            "flushing proc caches" => FlushProcCaches,
            "trace goroutine status" => TraceGoroutineStatus,
            "trace proc status" => TraceProcStatus,
            "page trace flush" => PageTraceFlush,
            "coroutine" => Coroutine,
            "GC weak to strong wait" => GcWeakToStrongWait,
            "sync.Mutex.Lock" => SyncMutexLock,
            "sync.RWMutex.RLock" => SyncRwMutexRLock,
            "sync.RWMutex.Lock" => SyncRwMutexLock,
            "sync.WaitGroup.Wait" => SyncWaitGroupWait,
            "synctest.Run" => SynctestRun,
            "synctest.Wait" => SynctestWait,
            // 1.24 writes "(synctest)", later releases "(durable)".
            "chan receive (synctest)" | "chan receive (durable)" => SynctestChanReceive,
            "chan send (synctest)" | "chan send (durable)" => SynctestChanSend,
            "select (synctest)" | "select (durable)" => SynctestSelect,
            "sync.WaitGroup.Wait (durable)" => SynctestWaitGroupWait,
            "cleanup wait" => CleanupWait,
            _ => Unknown,
        }
    }

    /// Whether the goroutine executes on the system stack while its status says waiting. The runtime has this list
    /// since 1.23 (`runtime2.go`: `isWaitingForSuspendG`, at first `isWaitingForGC`). `DumpingHeap` is not in the
    /// runtime's list but behaves the same (`heapdump.go`).
    pub fn is_fake(self) -> bool {
        use WaitReason::*;
        matches!(
            self,
            StoppingTheWorld
                | GcMarkTermination
                | GarbageCollection
                | GarbageCollectionScan
                | TraceGoroutineStatus
                | TraceProcStatus
                | PageTraceFlush
                | GcAssistMarking
                | GcWorkerActive
                | FlushProcCaches
                | DumpingHeap
        )
    }

    /// Whether the reason names a lock of package `sync`. Up to Go 1.19 locks wait as `Semacquire`.
    pub fn is_lock(self) -> bool {
        matches!(self, WaitReason::SyncMutexLock | WaitReason::SyncRwMutexLock | WaitReason::SyncRwMutexRLock)
    }

    pub fn is_select(self) -> bool {
        self.outside_of_bubbles() == WaitReason::Select
    }

    /// The reason that the same wait has outside of a synctest bubble.
    pub fn outside_of_bubbles(self) -> WaitReason {
        match self {
            WaitReason::SynctestChanReceive => WaitReason::ChanReceive,
            WaitReason::SynctestChanSend => WaitReason::ChanSend,
            WaitReason::SynctestSelect => WaitReason::Select,
            WaitReason::SynctestWaitGroupWait => WaitReason::SyncWaitGroupWait,
            other => other,
        }
    }
}

/// The wait reasons of one binary (`runtime.waitReasonStrings`), by `g.waitreason`. Serialised as the list of texts.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(from = "Vec<String>", into = "Vec<String>")]
pub struct WaitReasons {
    texts: Vec<String>,
    reasons: Vec<WaitReason>,
}

impl WaitReasons {
    /// The runtime's text of a number; empty for 0 and for a number that the binary lacks.
    pub fn text(&self, number: u8) -> &str {
        self.texts.get(usize::from(number)).map_or("", String::as_str)
    }

    /// The reason of a number; [`WaitReason::Unknown`] for a number that the binary lacks.
    #[inline]
    pub fn get(&self, number: u8) -> WaitReason {
        // Number 0 is `waitReasonZero` in every version, so it needs no table.
        let unknown = if number == 0 { WaitReason::Zero } else { WaitReason::Unknown };
        self.reasons.get(usize::from(number)).copied().unwrap_or(unknown)
    }

    /// All texts; the index is the number.
    pub fn texts(&self) -> &[String] {
        &self.texts
    }

    /// All reasons in the order of their numbers.
    pub fn iter(&self) -> impl Iterator<Item = WaitReason> {
        self.reasons.iter().copied()
    }

    /// The number of a reason. `None`: the binary has no such reason.
    pub fn number(&self, reason: WaitReason) -> Option<u8> {
        self.reasons.iter().position(|one| *one == reason).and_then(|number| number.try_into().ok())
    }
}

impl From<Vec<String>> for WaitReasons {
    fn from(texts: Vec<String>) -> WaitReasons {
        let reasons = texts.iter().map(|text| WaitReason::parse(text)).collect();
        WaitReasons { texts, reasons }
    }
}

impl From<WaitReasons> for Vec<String> {
    fn from(reasons: WaitReasons) -> Vec<String> {
        reasons.texts
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_stand_for_reasons_and_keep_their_texts() {
        let texts = ["", "select", "chan receive (synctest)", "waiting for Godot"];
        let reasons = WaitReasons::from(texts.map(str::to_owned).to_vec());
        let wanted =
            [WaitReason::Zero, WaitReason::Select, WaitReason::SynctestChanReceive, WaitReason::Unknown];
        assert!(reasons.iter().eq(wanted));
        assert_eq!((reasons.text(3), reasons.text(4), reasons.text(255)), (texts[3], "", ""));
        assert_eq!((reasons.get(4), WaitReasons::default().get(0)), (WaitReason::Unknown, WaitReason::Zero));
        assert_eq!(reasons.number(WaitReason::Select), Some(1));
        assert_eq!(reasons.number(WaitReason::Coroutine), None);
        assert_eq!(WaitReason::SynctestChanReceive.outside_of_bubbles(), WaitReason::ChanReceive);
    }

    #[test]
    fn recordings_hold_the_texts() {
        let reasons: WaitReasons = serde_json::from_str(r#"["","IO wait"]"#).unwrap();
        assert_eq!(reasons.get(1), WaitReason::IoWait);
        assert_eq!(serde_json::to_string(&reasons).unwrap(), r#"["","IO wait"]"#);
    }
}
