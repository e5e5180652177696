//! Differences between the releases of Go, as predicates. Each names its source: a file below `src/runtime` (unless the
//! path begins with `src/`) and the first release with the change.

use serde::{Deserialize, Serialize};
use std::fmt;

/// A series of releases, Go 1.`minor`. Other modules ask the predicates of this type and never compare numbers, so a
/// new release changes this file only.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Release {
    minor: u32,
}

/// Values of `special.kind` (`mheap.go`) that the heap search tells apart. `None` before the release has such.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct SpecialKinds {
    pub(crate) finalizer: u8,
    pub(crate) weak: Option<u8>,
    pub(crate) cleanup: Option<u8>,
}

impl Release {
    /// The oldest supported release.
    pub const OLDEST: Release = Release::new(19);
    /// The newest release whose runtime was read and whose layouts are in `layouts.json`. A newer one is treated like
    /// it, and its layout is checked against the binary's code.
    pub const NEWEST: Release = Release::new(27);

    /// Go 1.`minor`. Any number is allowed: of a target, it is what the target's build information says.
    pub const fn new(minor: u32) -> Release {
        Release { minor }
    }

    /// The 26 of Go 1.26.
    pub const fn minor(self) -> u32 {
        self.minor
    }

    const fn since(self, minor: u32) -> bool {
        self.minor >= minor
    }
}

/// Where the collector's bits lie that say which words of an object are pointers (`mbitmap.go`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum HeapBitmap {
    /// In the `heapArena`, at its begin: one bit a word (`wide`, 1.20), or four words a byte with as many bits that say
    /// whether more words are scanned.
    InArena { wide: bool },
    /// Behind the objects of a span, if these have 512 bytes at most. With `inline_marks` the collector's marks come
    /// behind that (1.26, `mgcmark_greenteagc.go`).
    InSpan { inline_marks: bool },
}

/// Version numbers.
impl Release {
    /// The first release of a series is `go1.21.0`, not `go1.21` (the file `VERSION` of the release, 1.21).
    pub const fn numbers_its_first_patch(self) -> bool {
        self.since(21)
    }
}

/// How goroutines begin and end.
impl Release {
    /// A `g` has the goid of its creator: `g.parentGoid` (`runtime2.go`, 1.21).
    pub const fn records_parent(self) -> bool {
        self.since(21)
    }

    /// `newproc1` can make a goroutine that waits: arguments `parked` and `waitreason` (`proc.go`, 1.23).
    pub const fn creates_parked(self) -> bool {
        self.since(23)
    }

    /// `newproc1` writes `g.goid` before it calls `casgstatus` (`proc.go`, 1.24). Until then a probe on
    /// `casgstatus` finds the goid of the `g`'s previous goroutine.
    pub const fn goid_at_birth(self) -> bool {
        self.since(24)
    }

    /// Every goroutine ends in `gdestroy`; until then in `goexit0` (`proc.go`, 1.22).
    pub const fn has_gdestroy(self) -> bool {
        self.since(22)
    }

    /// `coroswitch_m` switches two goroutines without the scheduler (`coro.go`, 1.22).
    pub const fn has_coroutines(self) -> bool {
        self.since(22)
    }

    /// The idle goroutine of a C thread has the state `_Gdeadextra`, not `_Gdead` (`runtime2.go`, 1.26).
    pub const fn has_dead_extra(self) -> bool {
        self.since(26)
    }

    /// The collector moves a leaked goroutine to the state `_Gleaked` (`runtime2.go`, `mgc.go`, 1.26).
    pub const fn has_leaked(self) -> bool {
        self.since(26)
    }
}

/// The network poller.
impl Release {
    /// The address of the `pollDesc` that the runtime noted with a descriptor in its epoll instance, as the kernel shows it.
    /// Up to 1.20 it is the address itself, then a tagged pointer (`netpoll_epoll.go`: `netpollopen`, 1.21): 19 bits of a tag
    /// (`tagptr_64bit.go`), of which addresses have 48, or since 1.25 24 bits, because records are aligned to 512 bytes.
    pub(crate) const fn poll_of(self, data: u64) -> u64 {
        let data = data.cast_signed();
        match self.minor {
            ..21 => data.cast_unsigned(),
            21..25 => (data >> 19 << 3).cast_unsigned(),
            25.. => (data >> 24 << 9).cast_unsigned(),
        }
    }

    /// What wakes the poller is noted as 0, not as the address of a variable (`netpoll_epoll.go`: `netpollinit`, 1.27).
    pub(crate) const fn wakes_its_poller_by_0(self) -> bool {
        self.since(27)
    }
}

/// System calls and the scheduler.
impl Release {
    /// `reentersyscall` and `exitsyscall` swap the status word themselves, without `casgstatus` (`proc.go`, 1.26).
    pub const fn syscalls_pass_casgstatus_by(self) -> bool {
        self.since(26)
    }

    /// `exitsyscall` makes the goroutine running before it looks for a P, and `exitsyscallNoP` then makes it runnable.
    /// Until then `exitsyscall0` goes from syscall to runnable at once (`proc.go`, 1.26).
    pub const fn runs_before_it_has_a_p(self) -> bool {
        self.since(26)
    }
}

/// Tracebacks: which frames and texts they print.
impl Release {
    /// A traceback prints both ends of a long stack, 50 frames each; until then the innermost 100 (`traceback.go`:
    /// `traceback2`, 1.21).
    pub const fn prints_both_ends(self) -> bool {
        self.since(21)
    }

    /// An `unwinder` has a pc for each inlined call. `gentraceback`, which it replaced, looked the arguments up at the
    /// pc of the outermost call (`traceback.go`, 1.21).
    pub const fn unwinds_inlined_calls(self) -> bool {
        self.since(21)
    }

    /// A traceback shortens type arguments to `[...]` when it prints a name (`symtab.go`: `funcNamePiecesForPrint`,
    /// 1.21); until then the linker did.
    pub const fn shortens_type_arguments(self) -> bool {
        self.since(21)
    }

    /// A method of a generic type can have type arguments of its own (`symtab.go`: `funcNamePiecesForPrint`, 1.27).
    pub const fn methods_have_type_arguments(self) -> bool {
        self.since(27)
    }

    /// Exported methods of exported types count as exported (`traceback.go`: `isExportedRuntime`, 1.23); until
    /// then the first letter behind `runtime.` decides.
    pub const fn shows_exported_methods(self) -> bool {
        self.since(23)
    }

    /// A traceback shows `runFinalizers` and `runCleanups`, which say what the goroutine does (`traceback.go`:
    /// `showfuncinfo`, 1.25).
    pub const fn shows_finalizers(self) -> bool {
        self.since(25)
    }

    /// `GODEBUG=tracebacklabels` is on by default (`src/internal/godebugs/table.go`, 1.27).
    pub const fn prints_labels(self) -> bool {
        self.since(27)
    }
}

/// Structs in memory.
impl Release {
    /// A goroutine's labels are a slice of pairs, no longer a map (`src/runtime/pprof/label.go`, 1.24).
    pub const fn labels_are_a_slice(self) -> bool {
        self.since(24)
    }

    /// `hchan.timer` points to the timer that sends to the channel (`chan.go`, 1.23), unless the setting `asynctimerchan`
    /// says otherwise ([`Release::hides_timers_of_channels`]).
    pub(super) const fn channels_know_their_timer(self) -> bool {
        self.since(23)
    }

    /// There is a setting `asynctimerchan` (`src/internal/godebugs/table.go`: changed in 1.23, removed in 1.27).
    pub(super) const fn has_asynctimerchan(self) -> bool {
        self.since(23) && !self.since(27)
    }

    /// `mspan.nelems` and `mspan.freeindex` have two bytes (`mheap.go`, 1.22).
    pub const fn counts_span_objects_in_16_bits(self) -> bool {
        self.since(22)
    }

    /// `special.offset` is a word; until then two bytes (`mheap.go`, 1.24).
    pub const fn special_offset_is_a_word(self) -> bool {
        self.since(24)
    }

    /// `_KindSpecialFinalizer`, `_KindSpecialWeakHandle` and `_KindSpecialCleanup`: weak pointers came in 1.23, cleanups
    /// in 1.24, and the kinds were numbered anew in 1.25 (`mheap.go`).
    pub(crate) const fn special_kinds(self) -> SpecialKinds {
        match self.minor {
            25.. => SpecialKinds { finalizer: 2, weak: Some(3), cleanup: Some(7) },
            24 => SpecialKinds { finalizer: 1, weak: Some(2), cleanup: Some(6) },
            23 => SpecialKinds { finalizer: 1, weak: Some(2), cleanup: None },
            _ => SpecialKinds { finalizer: 1, weak: None, cleanup: None },
        }
    }

    /// Where the bits lie that say which words of an object are pointers (1.20, 1.22, 1.26).
    pub(crate) const fn heap_bitmap(self) -> HeapBitmap {
        match self.minor {
            26.. => HeapBitmap::InSpan { inline_marks: true },
            22..26 => HeapBitmap::InSpan { inline_marks: false },
            minor => HeapBitmap::InArena { wide: minor >= 20 },
        }
    }

    /// An object with pointers of more than 512 bytes begins with the address of its descriptor, or its span has that
    /// if it is large (`mbitmap.go`: `heapSetTypeSmallHeader`, `mspan.largeType`, 1.22).
    pub(crate) const fn objects_have_headers(self) -> bool {
        self.since(22)
    }

    /// Bytes of a cleanup in the queue: a funcval, since 1.26 `cleanupFn { call, fn, arg }` (`mcleanup.go`).
    pub(crate) const fn cleanup_size(self) -> usize {
        if self.since(26) { 24 } else { 8 }
    }

    /// A cleanup is taken out of the queue before it is called, and not behind (`mcleanup.go`: `runCleanups`, 1.26).
    pub(crate) const fn takes_cleanups_out_first(self) -> bool {
        self.since(26)
    }

    /// Offset of `_defer.link` (`runtime2.go`): `{ started, heap, openDefer bool; sp, pc, fn, _panic, link }` up
    /// to 1.21, `{ heap, rangefunc bool; sp, pc, fn, link, head }` since 1.22.
    pub(crate) const fn defer_link(self) -> usize {
        if self.since(22) { 32 } else { 40 }
    }

    /// The table of a frame's deferred calls lists the place of each closure, the last first; since 1.22 they are an array
    /// (`src/cmd/compile/internal/ssagen/ssa.go: emitOpenDeferInfo`).
    pub(crate) const fn lists_open_defers(self) -> bool {
        !self.since(22)
    }

    /// `sudog.elem` has two words, of which the collector sees the first (`runtime2.go`: `maybeTraceablePtr`, 1.26).
    #[cfg(test)]
    pub(crate) const fn hides_sudog_elem(self) -> bool {
        self.since(26)
    }
}

impl fmt::Display for Release {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Go 1.{}", self.minor)
    }
}
