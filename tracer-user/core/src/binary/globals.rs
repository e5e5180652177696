//! Where the runtime keeps its own tables: link-time addresses of its variables.
//!
//! A stripped binary has no symbols for them, but functions that refer to them, and the pclntab
//! has the names of those. Which function refers to what, and in which order, is the same from Go
//! 1.19 to 1.27 on both processors (`src/runtime/proc.go`, `sema.go`, `symtab.go`, `mgcwork.go`).

use super::bytes::u64_at;
use super::code::{Access, Step, steps};
use super::elf::Image;
use super::layout::Layout;
use super::pclntab::Pclntab;

const WAIT_REASON_STRING: &str = "runtime.waitReason.String";
/// The longest text up to 1.27 has 28 bytes.
const MAX_TEXT: u64 = 64;
/// The number is a byte.
const MAX_COUNT: u64 = 256;

/// Why the goroutines of a binary cannot be listed from outside.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "the list of all goroutines (runtime.allgs) cannot be found in its code: runtime.forEachGRace is missing or \
     not as Go 1.19 to 1.27 compile it; build it with an ordinary Go toolchain"
)]
pub struct GlobalsError;

/// Link-time addresses of the runtime's variables; the load bias is to be added. `None`: the
/// binary does not show it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Globals {
    /// `allglen`, a word. To be read before `allgptr`.
    pub allglen: u64,
    /// `allgptr`, the address of an array of at least `allglen` pointers to `g`.
    pub allgptr: u64,
    /// `allm`, a pointer to the first `m`; the others follow by `m.alllink`.
    pub allm: Option<u64>,
    /// `allp`, a slice of pointers to `p`.
    pub allp: Option<u64>,
    pub sched: Option<u64>,
    /// `semtable`, the table of those that wait for semaphores.
    pub semtable: Option<SemTable>,
    /// `firstmoduledata`, the `moduledata` of the executable.
    pub first_module: Option<u64>,
    pub mheap: Option<u64>,
}

/// An array of `semaRoot`, each with padding behind it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SemTable {
    /// Link-time address of the first.
    pub addr: u64,
    /// Bytes from one to the next.
    pub stride: u64,
    /// How many there are. A semaphore at `addr` belongs to number `(addr >> 3) % count`.
    pub count: u64,
}

impl Globals {
    /// Finds them.
    ///
    /// # Errors
    /// [`GlobalsError`] where `allglen` or `allgptr` is not to be found.
    pub(super) fn find(image: &Image, functions: &Pclntab, layout: &Layout) -> Result<Globals, GlobalsError> {
        let code = Code { image, functions };
        let (allglen, allgptr) = code.all_goroutines().ok_or(GlobalsError)?;
        Ok(Globals {
            allglen,
            allgptr,
            allm: code.threads(),
            allp: code.first("runtime.preemptall", |_| true),
            // mput begins with sched.midle.
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
/// `None` where they cannot be found.
///
/// `waitReason.String` compares its number with the length of the array, and then refers to it.
pub(super) fn wait_reasons(image: &Image, functions: &Pclntab) -> Option<Vec<String>> {
    let mut count = None;
    for step in steps(image, functions, WAIT_REASON_STRING) {
        match step {
            Step::Compare(bound) => count = Some(bound).filter(|count| *count <= MAX_COUNT),
            // It also refers to the text "unknown wait reason", which is no array of strings.
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

/// The array of Go strings (pointer and length) at `vaddr`, if it looks like the wait reasons.
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
    // The first is the zero value, "".
    (found.len() > 1 && found.iter().skip(1).all(|text| !text.is_empty())).then_some(found)
}

struct Code<'a> {
    image: &'a Image,
    functions: &'a Pclntab,
}

impl Code<'_> {
    /// The variables that a function refers to; texts and other constants are left out.
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

    /// `forEachGRace` loads `allglen` and then `allgptr`, and nothing else.
    fn all_goroutines(&self) -> Option<(u64, u64)> {
        let mut found = self.variables("runtime.forEachGRace");
        let (len, array, more) = (found.next()?, found.next()?, found.next());
        let loads = [len.1, array.1] == [Access::Load(8); 2];
        (loads && len.0 != array.0 && more.is_none()).then_some((len.0, array.0))
    }

    /// `mcommoninit` puts a thread in front of `allm`, `mexit` takes it out: it is the only word
    /// that one loads and the other refers to as well.
    fn threads(&self) -> Option<u64> {
        let removed: Vec<_> = self.variables("runtime.mexit").map(|(addr, _)| addr).collect();
        let mut loaded = self.variables("runtime.mcommoninit").filter(|(_, how)| *how == Access::Load(8));
        loaded.find(|(addr, _)| removed.contains(addr)).map(|(addr, _)| addr)
    }
}

fn is_address(access: Access) -> bool {
    access == Access::Address
}
