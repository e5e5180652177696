//! Link-time addresses of the runtime's variables.
//!
//! A stripped binary has no symbols for variables, but the pclntab names the functions that refer to them. Which
//! function refers to which variable, and in which order, is the same from Go 1.19 to 1.27 on both processors
//! (`src/runtime/proc.go`, `sema.go`, `symtab.go`, `mgcwork.go`, `mfinal.go`, `mcleanup.go`, `src/sync/pool.go`).

use super::bytes::u64_at;
use super::code::{Access, Step, steps};
use super::elf::Image;
use super::layout::Layout;
use super::pclntab::Pclntab;

const WAIT_REASON_STRING: &str = "runtime.waitReason.String";
/// Longest wait reason that is believed; the longest up to 1.27, `sync.WaitGroup.Wait (durable)`, has 29 bytes.
const MAX_TEXT: u64 = 64;
/// Most wait reasons: `g.waitreason` is one byte.
const MAX_COUNT: u64 = 256;
/// Bytes of a slice.
const SLICE: u64 = 24;

/// The code does not show `runtime.allglen` and `runtime.allgptr`, so goroutines cannot be listed from outside.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "the list of all goroutines (runtime.allgs) cannot be found in its code: runtime.forEachGRace is missing or \
     not as Go 1.19 to 1.27 compile it; build it with an ordinary Go toolchain"
)]
pub struct GlobalsError;

/// Link-time addresses of the runtime's variables; the reader adds the load bias. `None`: the code does not show the
/// variable.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Globals {
    /// `allglen`, a word. Read it before `allgptr`: the runtime publishes a new array before the new length
    /// (`allgadd`), so this order never indexes behind the array.
    pub allglen: u64,
    /// `allgptr`, the address of an array of at least `allglen` pointers to `g`.
    pub allgptr: u64,
    /// `allm`, a pointer to the first `m`; the others follow by `m.alllink`.
    pub allm: Option<u64>,
    /// `allp`, a slice of pointers to `p`.
    pub allp: Option<u64>,
    /// `sched`, the `schedt`.
    pub sched: Option<u64>,
    /// `semtable`, the hash table of goroutines that wait for semaphores.
    pub semtable: Option<SemTable>,
    /// `firstmoduledata`, the `moduledata` of the executable.
    pub first_module: Option<u64>,
    /// `mheap_`, the `mheap`.
    pub mheap: Option<u64>,
    /// The lists of all `sync.Pool`s.
    pub pools: Option<Pools>,
    /// The queue of finalizers.
    pub finalizers: Option<FinalizerQueue>,
    /// `gcCleanups`, the queue of cleanups (Go 1.25 and later; 1.24 has them in that of finalizers).
    pub cleanups: Option<u64>,
}

/// The lists of `sync.Pool`s (`src/sync/pool.go`): slices of pointers. A pool that was not used since the last two
/// collections is in neither.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Pools {
    /// `allPools`: pools with something of their own.
    pub all: u64,
    /// `oldPools`: pools that have only what was left over by the last collection.
    pub old: u64,
}

/// The queue of finalizers (`src/runtime/mfinal.go`): pointers to `finblock`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FinalizerQueue {
    /// `finq`: blocks that wait. The goroutine that runs finalizers takes all of them at once.
    pub waiting: u64,
    /// `finc`: blocks that are empty.
    pub free: u64,
    /// `allfin`: all blocks, also those that are taken.
    pub all: u64,
}

/// `runtime.semtable`: an array of `semaRoot`, each padded to a cache line.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SemTable {
    /// Link-time address of the first `semaRoot`.
    pub addr: u64,
    /// Bytes from one `semaRoot` to the next.
    pub stride: u64,
    /// Number of `semaRoot`s. A semaphore at `addr` belongs to number `(addr >> 3) % count`.
    pub count: u64,
}

impl Globals {
    /// Finds them in the code.
    ///
    /// # Errors
    /// [`GlobalsError`]: `allglen` or `allgptr` is not found. The others are optional.
    pub(super) fn find(image: &Image, functions: &Pclntab, layout: &Layout) -> Result<Globals, GlobalsError> {
        let code = Code { image, functions };
        let (allglen, allgptr) = code.all_goroutines().ok_or(GlobalsError)?;
        Ok(Globals {
            allglen,
            allgptr,
            allm: code.threads(),
            allp: code.first("runtime.preemptall", |_| true),
            sched: code.idle_threads().and_then(|midle| {
                let sched = midle.checked_sub(layout.field("schedt", "midle")?.into())?;
                image.is_writable(sched, 1).then_some(sched)
            }),
            semtable: code.first("runtime.semrelease1", is_address).and_then(|addr| {
                let size = u64::from(layout.field("semTable", "_size")?);
                let count = u64::from(layout.field("semTable", "_count")?);
                let stride = size.checked_div(count)?;
                image.is_writable(addr, size).then_some(SemTable { addr, stride, count })
            }),
            first_module: (code.first("runtime.findfunc", is_address))
                // What it calls there is inlined in optimised code only.
                .or_else(|| code.first("runtime.findmoduledatap", is_address)),
            mheap: code.first("runtime.getempty.func1", is_address),
            pools: code.pools(),
            finalizers: code.finalizers(),
            cleanups: code.cleanups(),
        })
    }
}

/// The wait reasons of a binary, in its own numbering: `runtime.waitReasonStrings` (`src/runtime/runtime2.go`).
/// `None`: the code of `waitReason.String` does not show the array.
///
/// `waitReason.String` compares its number with the length of the array, and then refers to it.
pub(super) fn wait_reasons(image: &Image, functions: &Pclntab) -> Option<Vec<String>> {
    let mut count = None;
    for step in steps(image, functions, WAIT_REASON_STRING) {
        match step {
            Step::Compare(bound) => count = Some(bound).filter(|count| *count <= MAX_COUNT),
            // The function also refers to the text "unknown wait reason", which `strings` refuses.
            Step::Global(addr, Access::Address) => {
                if let Some(found) = strings(image, addr, count?) {
                    return Some(found);
                }
            }
            _ => {}
        }
    }
    None
}

/// The array of `count` Go strings (pointer and length) at `vaddr`. `None`: the bytes do not look like wait reasons.
fn strings(image: &Image, vaddr: u64, count: u64) -> Option<Vec<String>> {
    let one = |index| {
        let at = vaddr.checked_add(index * 16)?;
        let len = u64_at(image.read(at, 16)?, 8).filter(|len| *len <= MAX_TEXT)?;
        if len == 0 {
            return Some(String::new());
        }
        let text = image.read(image.read_ptr(at)?, len)?;
        let printable = text.iter().all(|byte| (b' '..=b'~').contains(byte));
        printable.then(|| String::from_utf8_lossy(text).into_owned())
    };
    let found: Vec<_> = (0..count).map(one).collect::<Option<_>>()?;
    // Only `waitReasonZero` has the empty text.
    (found.len() > 1 && found.iter().skip(1).all(|text| !text.is_empty())).then_some(found)
}

struct Code<'a> {
    image: &'a Image,
    functions: &'a Pclntab,
}

impl Code<'_> {
    /// The variables that a function refers to, in the order of its code; constants in read-only data are left out.
    fn variables(&self, function: &str) -> impl Iterator<Item = (u64, Access)> {
        steps(self.image, self.functions, function).into_iter().filter_map(|step| match step {
            Step::Global(addr, access) if self.image.is_writable(addr, 8) => Some((addr, access)),
            _ => None,
        })
    }

    /// The first variable that a function refers to in this way.
    fn first(&self, function: &str, how: impl Fn(Access) -> bool) -> Option<u64> {
        self.variables(function).find(|(_, access)| how(*access)).map(|(addr, _)| addr)
    }

    /// `allglen` and `allgptr`: `atomicAllG` loads them in this order and refers to no other variable. Optimised code has no such
    /// function: it is inlined into `forEachGRace`, which refers to no other variable, either.
    fn all_goroutines(&self) -> Option<(u64, u64)> {
        ["runtime.atomicAllG", "runtime.forEachGRace"].into_iter().find_map(|function| {
            let mut found = self.variables(function);
            let (len, array, more) = (found.next()?, found.next()?, found.next());
            let loads = [len.1, array.1] == [Access::Load(8); 2];
            (loads && len.0 != array.0 && more.is_none()).then_some((len.0, array.0))
        })
    }

    /// `sched.midle`, to which `mput` refers first. Code that is not optimised (`-N -l`) takes the address of `sched.lock` before, the
    /// word in front of it, for an assertion that does nothing.
    fn idle_threads(&self) -> Option<u64> {
        let mut found = self.variables("runtime.mput");
        let (first, second) = (found.next()?, found.next());
        let lock = is_address(first.1) && second.is_some_and(|(addr, _)| addr == first.0 + 8);
        second.filter(|_| lock).or(Some(first)).map(|(addr, _)| addr)
    }

    /// `allm`: `mcommoninit` puts an `m` in front of the list and `mexit` takes it out, so `allm` is the only word that
    /// `mcommoninit` loads and `mexit` refers to.
    fn threads(&self) -> Option<u64> {
        let removed: Vec<_> = self.variables("runtime.mexit").map(|(addr, _)| addr).collect();
        let mut loaded = self.variables("runtime.mcommoninit").filter(|(_, how)| *how == Access::Load(8));
        loaded.find(|(addr, _)| removed.contains(addr)).map(|(addr, _)| addr)
    }

    /// `oldPools` and `allPools`: `poolCleanup` goes through the old pools, then through all, then moves one slice to
    /// the place of the other. So it refers to each of their words, and to no other words but the write barrier's flag,
    /// which has four bytes. In memory the slices may touch.
    fn pools(&self) -> Option<Pools> {
        let words: Vec<u64> = (self.variables("sync.poolCleanup"))
            .flat_map(|(addr, access)| {
                match access {
                    Access::Load(8) | Access::Store(8) => addr..addr.saturating_add(8),
                    Access::Load(16) | Access::Store(16) => addr..addr.saturating_add(16),
                    _ => 0..0,
                }
                .step_by(8)
            })
            .collect();
        let old = *words.first()?;
        let mut sorted = words;
        sorted.sort_unstable();
        sorted.dedup();
        let [one, other] = *sorted.chunks(3).map(slice).collect::<Option<Vec<_>>>()? else { return None };
        // The first word that is loaded is one of the old pools.
        let first = |slice: u64| (slice..slice.saturating_add(SLICE)).contains(&old);
        match (first(one), first(other)) {
            (true, false) => Some(Pools { old: one, all: other }),
            (false, true) => Some(Pools { old: other, all: one }),
            _ => None,
        }
    }

    /// `finq`, `finc` and `allfin`: `queuefinalizer` looks whether the first block of the queue is full, then takes an
    /// empty one, and where there is none makes one and puts it into the list of all.
    fn finalizers(&self) -> Option<FinalizerQueue> {
        let mut words: Vec<u64> = Vec::new();
        for (addr, access) in self.variables("runtime.queuefinalizer") {
            if matches!(access, Access::Load(8) | Access::Store(8)) && !words.contains(&addr) {
                words.push(addr);
            }
        }
        // On arm64 a counter follows (`finqueued`, Go 1.25): only amd64 adds to memory in one instruction.
        let [waiting, free, all, ..] = *words else { return None };
        Some(FinalizerQueue { waiting, free, all })
    }

    /// `gcCleanups`: `runCleanups` refers to several fields of it by their addresses, and to nothing else.
    fn cleanups(&self) -> Option<u64> {
        let named = self.variables("runtime.runCleanups").filter(|(_, access)| is_address(*access));
        named.map(|(addr, _)| addr).min()
    }
}

/// The slice that has these three words.
fn slice(words: &[u64]) -> Option<u64> {
    let [array, len, cap] = *words else { return None };
    (array.checked_add(8) == Some(len) && len.checked_add(8) == Some(cap)).then_some(array)
}

fn is_address(access: Access) -> bool {
    access == Access::Address
}
