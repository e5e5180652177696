//! The pclntab: names, entries, files, lines and inlining of every Go function. The runtime needs
//! it for tracebacks and for the garbage collector, so every Go binary has it, stripped or not.
//!
//! Layout: `src/runtime/symtab.go` (`pcHeader`, `functab`, `_func`, `inlinedCall`) and
//! `src/cmd/link/internal/ld/pcln.go`; unchanged in form from 1.20 to 1.27.

mod locate;

use super::bytes::{c_string, i32_at, u32_at};
use super::elf::Image;
use super::pcvalue::{Runs, value_at};
use bytes::Bytes;
use locate::{Header, MODULEDATA_TEXT, candidates, moduledata};
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::hash::{BuildHasher, RandomState};
use std::sync::OnceLock;

/// `_PCDATA_InlTreeIndex`, `_FUNCDATA_InlTree`.
const PCDATA_INL_TREE: usize = 2;
const FUNCDATA_INL_TREE: usize = 3;
/// `_FUNCDATA_WrapInfo` (`src/internal/abi/symtab.go`; `src/runtime/symtab.go` in 1.19).
const FUNCDATA_WRAP_INFO: usize = 7;
/// An inlined call within an inlined call …: the compiler stops far earlier.
const MAX_INLINE_DEPTH: usize = 64;

/// Why a pclntab cannot be used.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PclntabError {
    /// No header anywhere in the image.
    #[error("it has no pclntab")]
    Missing,
    /// There is a header, but what it describes is not there.
    #[error("its pclntab is corrupt: {0}")]
    Corrupt(&'static str),
}

/// How `_func` and the inline tree are laid out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Format {
    Go118,
    Go120,
}

impl Format {
    /// Offset of `_func.funcID`; `nfuncdata` is three bytes on, the arrays behind that.
    fn func_id(self) -> usize {
        match self {
            Format::Go118 => 36,
            Format::Go120 => 40,
        }
    }

    /// Bytes of an entry of the inline tree, and where in it `nameOff` and `parentPc` are.
    fn inlined_call(self) -> (usize, usize, usize) {
        match self {
            Format::Go118 => (20, 12, 16),
            Format::Go120 => (16, 4, 8),
        }
    }
}

/// A function of the binary.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Function<'a> {
    /// Its full name, e.g. `net.(*conn).Read`.
    pub name: &'a str,
    /// Link-time address of its first instruction.
    pub entry: u64,
    /// Link-time address behind its last byte (padding included).
    pub end: u64,
    /// Offset of its `_func` in the table.
    record: usize,
}

/// One level of a symbolized pc.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Frame<'a> {
    /// Full name of the function.
    pub func: &'a str,
    /// Source file, as the compiler saw it; empty where there is none.
    pub file: &'a str,
    /// Line in the file; 0 where there is none.
    pub line: u32,
    /// Whether the compiler put the function's body into its caller's.
    pub inlined: bool,
}

/// Function indices by a hash of the name, ordered.
struct Names {
    hasher: RandomState,
    hashed: Vec<(u64, u32)>,
}

/// The table, located and checked. All reads are lazy and bounds-checked.
pub struct Pclntab {
    /// From the header to the end of its segment.
    data: Bytes,
    /// From `go:func.*`, the base of all FUNCDATA, to the end of its segment.
    funcdata: Bytes,
    format: Format,
    quantum: u64,
    count: usize,
    text: u64,
    names: usize,
    cu: usize,
    files: usize,
    pcs: usize,
    functab: usize,
    by_name: OnceLock<Names>,
}

impl Pclntab {
    /// Finds the pclntab and the module data that refers to it. `gofunc` is the offset of
    /// `moduledata.gofunc` in this version of Go.
    ///
    /// # Errors
    /// [`PclntabError`], also when the table is there and its module data is not: without it
    /// neither addresses nor inlining can be told from Go 1.26 on.
    pub fn locate(image: &Image, gofunc: u32) -> Result<Pclntab, PclntabError> {
        let mut verdict = PclntabError::Missing;
        for vaddr in candidates(image) {
            match Pclntab::at(image, vaddr, gofunc) {
                Ok(found) => return Ok(found),
                Err(error) => verdict = error,
            }
        }
        Err(verdict)
    }

    /// Whether there is a pclntab, of a version that can be read or an older one.
    pub(super) fn is_in(image: &Image) -> bool {
        locate::has_section(image)
            || candidates(image).any(|vaddr| {
                image.tail(vaddr).is_some_and(|data| Header::parse(&data, image.arch()).is_some())
            })
    }

    fn at(image: &Image, vaddr: u64, gofunc: u32) -> Result<Pclntab, PclntabError> {
        let corrupt = PclntabError::Corrupt;
        let data = image.tail(vaddr).ok_or(corrupt("it lies outside the file"))?;
        let header = Header::parse(&data, image.arch()).ok_or(corrupt("its header makes no sense"))?;
        let module = moduledata(image, vaddr, &header).ok_or(corrupt("no module data refers to it"))?;
        let read = |offset| image.read_ptr(module + offset);
        let text = read(MODULEDATA_TEXT).ok_or(corrupt("the module data has no text"))?;
        let funcdata = read(u64::from(gofunc))
            .and_then(|vaddr| image.tail(vaddr))
            .ok_or(corrupt("the module data has no function data"))?;
        let table = Pclntab {
            funcdata,
            format: header.format,
            quantum: header.quantum,
            count: header.count,
            text,
            names: header.names,
            cu: header.cu,
            files: header.files,
            pcs: header.pcs,
            functab: header.functab,
            by_name: OnceLock::new(),
            data,
        };
        table.check_order(image)?;
        Ok(table)
    }

    /// Entries ascend and end within the code: what bounds every walk below.
    fn check_order(&self, image: &Image) -> Result<(), PclntabError> {
        let mut last = 0;
        for index in 0..=self.count {
            let entry =
                self.entry_offset(index).ok_or(PclntabError::Corrupt("its function table is cut off"))?;
            if entry < last {
                return Err(PclntabError::Corrupt("its function table is not in order"));
            }
            last = entry;
        }
        let end = self.text.checked_add(u64::from(last));
        let inside = image.segments().iter().filter(|segment| segment.executable).any(|segment| {
            self.text >= segment.vaddr && end.is_some_and(|end| end - segment.vaddr <= segment.file_size)
        });
        inside.then_some(()).ok_or(PclntabError::Corrupt("its functions lie outside the code"))
    }

    /// Offset of a function's entry from the text base; at `count`, the end of the last one.
    fn entry_offset(&self, index: usize) -> Option<u32> {
        u32_at(&self.data, self.functab + index * 8)
    }

    fn function(&self, index: usize) -> Option<Function<'_>> {
        let entry = self.text + u64::from(self.entry_offset(index)?);
        let end = self.text + u64::from(self.entry_offset(index + 1)?);
        let record = self.functab + u32_at(&self.data, self.functab + index * 8 + 4)? as usize;
        Some(Function { name: self.name(i32_at(&self.data, record + 4)?), entry, end, record })
    }

    /// The string at an offset of the name table; `?` where it is no text.
    fn name(&self, offset: i32) -> &str {
        usize::try_from(offset)
            .ok()
            .and_then(|offset| c_string(&self.data, self.names + offset))
            .and_then(|name| std::str::from_utf8(name).ok())
            .unwrap_or("?")
    }

    /// All functions in the order of their addresses.
    pub fn functions(&self) -> impl Iterator<Item = Function<'_>> {
        (0..self.count).filter_map(|index| self.function(index))
    }

    /// The function of this name. Where an assembly wrapper shares the name of the function that
    /// it calls, the latter: `FuncIDWrapper` is the largest function id in every version.
    pub fn find(&self, name: &str) -> Option<Function<'_>> {
        let names = self.by_name.get_or_init(|| self.hash_names());
        let hash = names.hasher.hash_one(name);
        let start = names.hashed.partition_point(|(other, _)| *other < hash);
        (names.hashed.iter().skip(start))
            .take_while(|(other, _)| *other == hash)
            .filter_map(|(_, index)| self.function(*index as usize))
            .filter(|function| function.name == name)
            .min_by_key(|function| self.data.get(function.record + self.format.func_id()))
    }

    fn hash_names(&self) -> Names {
        let hasher = RandomState::new();
        let names = self.functions().map(|function| hasher.hash_one(function.name));
        let mut hashed: Vec<_> = names.zip(0u32..).collect();
        hashed.sort_unstable();
        Names { hasher, hashed }
    }

    /// The function whose code contains a link-time address.
    pub fn function_at(&self, pc: u64) -> Option<Function<'_>> {
        let offset = u32::try_from(pc.checked_sub(self.text)?).ok()?;
        let (mut low, mut high) = (0, self.count);
        while low < high {
            let middle = low + (high - low) / 2;
            if self.entry_offset(middle + 1)? <= offset {
                low = middle + 1;
            } else {
                high = middle;
            }
        }
        self.function(low).filter(|function| function.entry <= pc && pc < function.end)
    }

    /// Which functions a link-time address belongs to, the innermost inlined one first, with the
    /// file and line of each. For a return address pass `pc - 1`. Empty: not Go code.
    pub fn symbolize(&self, pc: u64) -> Vec<Frame<'_>> {
        let Some(function) = self.function_at(pc) else { return Vec::new() };
        let mut frames = Vec::new();
        let mut into = pc - function.entry;
        while frames.len() < MAX_INLINE_DEPTH
            && let Some((name, parent)) = self.inlined_at(&function, into)
        {
            frames.push(self.frame(&function, into, self.name(name), true));
            into = parent;
        }
        frames.push(self.frame(&function, into, function.name, false));
        frames
    }

    fn frame<'a>(&'a self, function: &Function<'_>, into: u64, func: &'a str, inlined: bool) -> Frame<'a> {
        let value = |field| {
            let table = u32_at(&self.data, function.record + field).filter(|offset| *offset != 0)?;
            self.pcvalue(function, table, into)
        };
        // _func: pcfile at 20, pcln at 24.
        let line = value(24).and_then(|line| u32::try_from(line).ok()).unwrap_or(0);
        Frame {
            func,
            file: value(20).and_then(|index| self.file(function, index)).unwrap_or(""),
            line,
            inlined,
        }
    }

    fn file(&self, function: &Function<'_>, index: i32) -> Option<&str> {
        let base = u32_at(&self.data, function.record + 32)? as usize;
        let index = base.checked_add(usize::try_from(index).ok()?)?;
        let offset = u32_at(&self.data, self.cu.checked_add(index.checked_mul(4)?)?)?;
        std::str::from_utf8(c_string(&self.data, self.files.checked_add(offset as usize)?)?).ok()
    }

    fn pcvalue(&self, function: &Function<'_>, table: u32, into: u64) -> Option<i32> {
        let table = self.data.get(self.pcs + table as usize..)?;
        value_at(table, self.quantum, function.end - function.entry, into)
    }

    /// The offset of a PCDATA table in the pc tables.
    fn pcdata(&self, function: &Function<'_>, index: usize) -> Option<u32> {
        let count = u32_at(&self.data, function.record + 28)? as usize;
        let first = function.record + self.format.func_id() + 4;
        let offset = (index < count).then(|| u32_at(&self.data, first + index * 4))??;
        (offset != 0).then_some(offset)
    }

    /// The FUNCDATA of a function, up to the end of the segment.
    fn funcdata(&self, function: &Function<'_>, index: usize) -> Option<&[u8]> {
        let count = u32_at(&self.data, function.record + 28)? as usize;
        let kinds = *self.data.get(function.record + self.format.func_id() + 3)?;
        let first = (function.record + self.format.func_id() + 4).checked_add(count.checked_mul(4)?)?;
        let offset = (index < usize::from(kinds)).then(|| u32_at(&self.data, first + index * 4))??;
        // ^uint32(0): this function has none.
        (offset != u32::MAX).then(|| self.funcdata.get(offset as usize..))?
    }

    /// The entry of the function that the wrapper at `entry` was made for: `go f(x)` starts a
    /// closure that holds `x` and calls `f`. `None`: there is no such wrapper at `entry`.
    pub fn wrapped(&self, entry: u64) -> Option<u64> {
        let wrapper = self.function_at(entry)?;
        let offset = u32_at(self.funcdata(&wrapper, FUNCDATA_WRAP_INFO)?, 0)?;
        let entry = self.text.checked_add(u64::from(offset))?;
        (self.function_at(entry)?.entry == entry).then_some(entry)
    }

    /// `nameOff` and `parentPc` of an entry of an inline tree.
    fn inlined_call(&self, tree: &[u8], index: i32) -> Option<(i32, i32)> {
        let (size, name, parent) = self.format.inlined_call();
        let entry = tree.get(usize::try_from(index).ok()?.checked_mul(size)?..)?.get(..size)?;
        Some((i32_at(entry, name)?, i32_at(entry, parent)?))
    }

    /// The inlined function at `into`, and where in `function` its call stands.
    fn inlined_at(&self, function: &Function<'_>, into: u64) -> Option<(i32, u64)> {
        let table = self.pcdata(function, PCDATA_INL_TREE)?;
        let tree = self.funcdata(function, FUNCDATA_INL_TREE)?;
        let index = self.pcvalue(function, table, into)?;
        let (name, parent) = self.inlined_call(tree, index)?;
        Some((name, u64::try_from(parent).ok()?))
    }

    /// Which of `wanted` the compiler inlined, and into which functions. A probe on such a function
    /// misses those calls.
    pub fn inlined_callees<'w>(&self, wanted: &[&'w str]) -> BTreeMap<&'w str, BTreeSet<&str>> {
        let offsets = self.name_offsets(wanted);
        let mut found = BTreeMap::<_, BTreeSet<_>>::new();
        for function in self.functions() {
            let Some(table) = self.pcdata(&function, PCDATA_INL_TREE) else { continue };
            let Some(tree) = self.funcdata(&function, FUNCDATA_INL_TREE) else { continue };
            let Some(table) = self.data.get(self.pcs + table as usize..) else { continue };
            for run in Runs::new(table, self.quantum, function.end - function.entry) {
                if let Some((name, _)) = self.inlined_call(tree, run.value)
                    && let Some(name) = offsets.get(&name)
                {
                    found.entry(*name).or_default().insert(function.name);
                }
            }
        }
        found
    }

    /// Where in the name table the wanted names stand.
    fn name_offsets<'w>(&self, wanted: &[&'w str]) -> HashMap<i32, &'w str> {
        let table = self.data.get(self.names..self.cu.max(self.names)).unwrap_or_default();
        let mut found = HashMap::new();
        let mut start = 0;
        for name in table.split(|byte| *byte == 0) {
            if let Some(wanted) = wanted.iter().find(|wanted| wanted.as_bytes() == name)
                && let Ok(offset) = i32::try_from(start)
            {
                found.insert(offset, *wanted);
            }
            start += name.len() + 1;
        }
        found
    }
}
