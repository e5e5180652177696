//! Link-time addresses of the runtime's variables.
//!
//! A stripped binary has no symbols for variables, but the pclntab names the functions that refer to them. Which
//! function refers to which variable, and in which order, is the same from Go 1.19 to 1.27 on both processors
//! (`src/runtime/proc.go`, `sema.go`, `symtab.go`, `mgcwork.go`).

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
            // mput refers to sched.midle first, not to sched itself.
            sched: code.first("runtime.mput", |_| true).and_then(|midle| {
                let sched = midle.checked_sub(layout.field("schedt", "midle")?.into())?;
                image.is_writable(sched, 1).then_some(sched)
            }),
            semtable: code.first("runtime.semrelease1", is_address).and_then(|addr| {
                let size = u64::from(layout.field("semTable", "_size")?);
                let count = u64::from(layout.field("semTable", "_count")?);
                let stride = size.checked_div(count)?;
                image.is_writable(addr, size).then_some(SemTable { addr, stride, count })
            }),
            first_module: code.first("runtime.findfunc", is_address),
            mheap: code.first("runtime.getempty.func1", is_address),
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

    /// `allglen` and `allgptr`: `forEachGRace` loads them in this order and refers to no other variable. (Built with
    /// `-N -l` it refers to none, and nothing is found.)
    fn all_goroutines(&self) -> Option<(u64, u64)> {
        let mut found = self.variables("runtime.forEachGRace");
        let (len, array, more) = (found.next()?, found.next()?, found.next());
        let loads = [len.1, array.1] == [Access::Load(8); 2];
        (loads && len.0 != array.0 && more.is_none()).then_some((len.0, array.0))
    }

    /// `allm`: `mcommoninit` puts an `m` in front of the list and `mexit` takes it out, so `allm` is the only word that
    /// `mcommoninit` loads and `mexit` refers to.
    fn threads(&self) -> Option<u64> {
        let removed: Vec<_> = self.variables("runtime.mexit").map(|(addr, _)| addr).collect();
        let mut loaded = self.variables("runtime.mcommoninit").filter(|(_, how)| *how == Access::Load(8));
        loaded.find(|(addr, _)| removed.contains(addr)).map(|(addr, _)| addr)
    }
}

fn is_address(access: Access) -> bool {
    access == Access::Address
}
