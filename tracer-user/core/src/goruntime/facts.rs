//! What changed between the releases of Go, as predicates with a name and a source. Files are below
//! `src/runtime` where nothing else is said; the release is the first one with the change.

use serde::{Deserialize, Serialize};
use std::fmt;

/// A series of releases, Go 1.`minor`. Everything that the runtime may do differently is asked here, so that no
/// other module compares release numbers.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Release {
    minor: u32,
}

/// The kinds of a `special` that matter to a search for leaks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct SpecialKinds {
    pub(crate) finalizer: u8,
    pub(crate) weak: Option<u8>,
}

impl Release {
    /// The oldest release that is supported.
    pub const OLDEST: Release = Release::new(19);
    /// The newest release whose runtime was read and whose layouts are in the table. A newer one is taken for it
    /// until its code shows otherwise.
    pub const NEWEST: Release = Release::new(27);

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

/// Names of releases.
impl Release {
    /// The first release of a series is called `go1.21.0`, not `go1.21` (the file `VERSION` of a release, 1.21).
    pub const fn numbers_its_first_patch(self) -> bool {
        self.since(21)
    }
}

/// How goroutines begin and end.
impl Release {
    /// A goroutine knows who made it: `g.parentGoid` (`runtime2.go`, 1.21).
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

    /// Every end of a goroutine passes `gdestroy`; until then `goexit0` (`proc.go`, 1.22).
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

/// System calls.
impl Release {
    /// `reentersyscall` and `exitsyscall` swap the status word themselves, without `casgstatus` (`proc.go`, 1.26).
    pub const fn syscalls_pass_casgstatus_by(self) -> bool {
        self.since(26)
    }

    /// `exitsyscall` makes the goroutine running before it looks for a P, and `exitsyscallNoP` takes that back;
    /// until then `exitsyscall0` goes from syscall to runnable (`proc.go`, 1.26).
    pub const fn runs_before_it_has_a_p(self) -> bool {
        self.since(26)
    }
}

/// What tracebacks show.
impl Release {
    /// Of a long stack both ends are printed, 50 frames each; until then the first 100 (`traceback.go`:
    /// `traceback2`, 1.21).
    pub const fn prints_both_ends(self) -> bool {
        self.since(21)
    }

    /// An `unwinder` with a PC for each inlined call takes the place of `gentraceback`, which asked for the
    /// arguments where the outermost call lies (`traceback.go`, 1.21).
    pub const fn unwinds_inlined_calls(self) -> bool {
        self.since(21)
    }

    /// Type arguments are shortened to `[...]` when a name is printed (`symtab.go`: `funcNamePiecesForPrint`,
    /// 1.21); until then the linker did so.
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

    /// Shows `runFinalizers` and `runCleanups`, which say what the goroutine does (`traceback.go`:
    /// `showfuncinfo`, 1.25).
    pub const fn shows_finalizers(self) -> bool {
        self.since(25)
    }

    /// `GODEBUG=tracebacklabels` is on by default (`src/internal/godebugs/table.go`, 1.27).
    pub const fn prints_labels(self) -> bool {
        self.since(27)
    }
}

/// Structures.
impl Release {
    /// A goroutine's labels are a slice of pairs, no longer a map (`src/runtime/pprof/label.go`, 1.24).
    pub const fn labels_are_a_slice(self) -> bool {
        self.since(24)
    }

    /// `hchan.timer` says that a timer sends to a channel (`chan.go`, 1.23).
    pub const fn channels_know_their_timer(self) -> bool {
        self.since(23)
    }

    /// `mspan.nelems` and `mspan.freeindex` have two bytes (`mheap.go`, 1.22).
    pub const fn counts_span_objects_in_16_bits(self) -> bool {
        self.since(22)
    }

    /// `special.offset` is a word; until then two bytes (`mheap.go`, 1.24).
    pub const fn special_offset_is_a_word(self) -> bool {
        self.since(24)
    }

    /// `_KindSpecialFinalizer` and `_KindSpecialWeakHandle`: weak pointers came in 1.23, and the kinds were
    /// numbered anew in 1.25 (`mheap.go`).
    pub(crate) const fn special_kinds(self) -> SpecialKinds {
        match self.minor {
            25.. => SpecialKinds { finalizer: 2, weak: Some(3) },
            23 | 24 => SpecialKinds { finalizer: 1, weak: Some(2) },
            _ => SpecialKinds { finalizer: 1, weak: None },
        }
    }

    /// Offset of `_defer.link` (`runtime2.go`): `{ started, heap, openDefer bool; sp, pc, fn, _panic, link }` up
    /// to 1.21, `{ heap, rangefunc bool; sp, pc, fn, link, head }` since 1.22.
    pub(crate) const fn defer_link(self) -> usize {
        if self.since(22) { 32 } else { 40 }
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
