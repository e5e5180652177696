//! What the pclntab has of each function beside its name: the inlined calls at a pc, the frame size at a pc, the kind
//! of function, and the numbered tables (PCDATA, FUNCDATA) that the compiler makes for the runtime.

use super::super::bytes::{i32_at, u32_at};
use super::pcvalue::{Runs, value_at};
use super::{Format, Function, Pclntab};
use std::collections::{BTreeMap, BTreeSet, HashMap};

/// Offsets of `_func.pcsp` and `_func.npcdata`, the same in every version.
const PCSP: usize = 16;
const PCDATA_COUNT: usize = 28;
/// Offset of `_func.args`.
const ARGS: usize = 8;
/// Offset of `_func.startLine`, which exists since 1.20.
const START_LINE: usize = 36;
/// Bits of `_func.flag` (`abi.FuncFlag`), the same from 1.18 to 1.27.
const TOP_FRAME: u8 = 1;
const SP_WRITE: u8 = 2;

/// Tables from a pc to a number (`abi.PCDATA_…`, `src/internal/abi/symtab.go`; 1.19:
/// `_PCDATA_…`, `src/runtime/symtab.go`).
#[expect(clippy::enum_variant_names, reason = "the names of the runtime: `PCDATA_StackMapIndex` and so on")]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum PcData {
    /// Index of the stack map that holds; −1: the map of the function's entry.
    StackMapIndex = 1,
    /// Index into [`FuncData::InlTree`] of the inlined call that the code belongs to; −1: none.
    InlTreeIndex = 2,
    /// Offset in [`FuncData::ArgLiveInfo`] of the liveness of the arguments.
    ArgLiveIndex = 3,
}

/// Tables of a whole function (`abi.FUNCDATA_…`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum FuncData {
    /// Which words of the arguments are pointers.
    ArgsPointerMaps = 0,
    /// Which words of the local variables are pointers.
    LocalsPointerMaps = 1,
    /// Variables on the stack whose address is taken.
    StackObjects = 2,
    /// The tree of inlined calls.
    InlTree = 3,
    /// Which deferred calls a frame has still to make, and where it keeps their closures (`OpenCodedDeferInfo`).
    OpenDefers = 4,
    /// How a traceback prints the arguments.
    ArgInfo = 5,
    /// Which arguments that came in registers were spilled to memory.
    ArgLiveInfo = 6,
    /// The function that a `go` statement's wrapper calls.
    WrapInfo = 7,
}

impl Pclntab {
    /// Bytes by which the stack pointer lies below its value at the function's entry, when the instruction at `pc`
    /// (link-time) is the next one. `None`: the function has no such table (it is not Go's), or the table ends before.
    pub(crate) fn sp_delta(&self, function: &Function<'_>, pc: u64) -> Option<i32> {
        self.pcvalue(function, PCSP, pc.checked_sub(function.entry)?)
    }

    /// Whether a stack ends with this function (`goexit`, `mstart`).
    pub(crate) fn is_top_frame(&self, function: &Function<'_>) -> bool {
        self.flag(function) & TOP_FRAME != 0
    }

    /// Whether the function moves the stack pointer in a way that [`Pclntab::sp_delta`] cannot tell.
    pub(crate) fn writes_sp(&self, function: &Function<'_>) -> bool {
        self.flag(function) & SP_WRITE != 0
    }

    /// Bytes of the arguments on the stack, results included. `None`: `ArgsSizeUnknown`, as assembly and functions that
    /// reflection makes have it.
    pub(crate) fn args_size(&self, function: &Function<'_>) -> Option<u64> {
        // `ArgsSizeUnknown` is -0x80000000.
        u32_at(&self.data, function.record + ARGS).filter(|size| *size < 1 << 31).map(u64::from)
    }

    /// Line of the function's declaration; 0 up to Go 1.19.
    pub(super) fn start_line(&self, function: &Function<'_>) -> u32 {
        match self.format {
            Format::Go118 => 0,
            Format::Go120 => u32_at(&self.data, function.record + START_LINE).unwrap_or(0),
        }
    }

    fn flag(&self, function: &Function<'_>) -> u8 {
        self.data.get(function.record + self.format.func_id() + 1).copied().unwrap_or(0)
    }

    /// Whether the compiler made the function only to call another one (`FuncIDWrapper`).
    pub fn is_wrapper(&self, function: &Function<'_>) -> bool {
        self.func_id(function) == Some(self.wrapper_id())
    }

    fn func_id(&self, function: &Function<'_>) -> Option<u8> {
        self.data.get(function.record + self.format.func_id()).copied()
    }

    /// `FuncIDWrapper` of this version. Function ids are renumbered between versions, but the wrapper's is the largest
    /// in all of them, and every binary has wrappers.
    pub(super) fn wrapper_id(&self) -> u8 {
        *self.wrapper.get_or_init(|| {
            self.functions().filter_map(|function| self.func_id(&function)).max().unwrap_or(u8::MAX)
        })
    }

    /// The number that a PCDATA table of the function has at `pc` (link-time). `None`: it has no such table, which the
    /// runtime takes for −1.
    pub(crate) fn pcdata(&self, function: &Function<'_>, table: PcData, pc: u64) -> Option<i32> {
        self.pcvalue(function, self.pcdata_field(function, table)?, pc.checked_sub(function.entry)?)
    }

    /// The offset in the `_func` of the word that says where a PCDATA table lies.
    pub(super) fn pcdata_field(&self, function: &Function<'_>, table: PcData) -> Option<usize> {
        let count = u32_at(&self.data, function.record + PCDATA_COUNT)? as usize;
        let index = table as usize;
        (index < count).then(|| self.format.func_id() + 4 + index * 4)
    }

    /// A FUNCDATA table of the function, up to the end of the segment: only the table itself says how long it is.
    pub(crate) fn funcdata(&self, function: &Function<'_>, table: FuncData) -> Option<&[u8]> {
        let count = u32_at(&self.data, function.record + PCDATA_COUNT)? as usize;
        let kinds = *self.data.get(function.record + self.format.func_id() + 3)?;
        let first = (function.record + self.format.func_id() + 4).checked_add(count.checked_mul(4)?)?;
        let index = table as usize;
        let offset = (index < usize::from(kinds)).then(|| u32_at(&self.data, first + index * 4))??;
        // ^uint32(0) says that this function has no such table, although the count includes it.
        (offset != u32::MAX).then(|| self.funcdata.get(offset as usize..))?
    }

    /// The number `into` bytes behind the function's entry, from the pc table that the word at `field` of the `_func`
    /// points to.
    pub(super) fn pcvalue(&self, function: &Function<'_>, field: usize, into: u64) -> Option<i32> {
        value_at(self.pc_table(function, field)?, self.quantum, function.end - function.entry, into)
    }

    // Offset 0 stands for "no table": the linker keeps the first byte of the pc tables unused.
    fn pc_table(&self, function: &Function<'_>, field: usize) -> Option<&[u8]> {
        let offset = u32_at(&self.data, function.record + field).filter(|offset| *offset != 0)?;
        self.data.get(self.pcs + offset as usize..)
    }

    pub(super) fn inline_table(&self, function: &Function<'_>) -> Option<&[u8]> {
        self.pc_table(function, self.pcdata_field(function, PcData::InlTreeIndex)?)
    }
}

/// Runs of all inline tables together, some dozens for each function. Hostile functions share one long table.
const MAX_RUNS: usize = 1 << 26;
/// Deepest nest of inlined calls; the compiler stops far earlier. A hostile tree may be its own parent.
const MAX_INLINE_DEPTH: usize = 64;
/// Runs of the inline table of one function whose names are wanted.
const MAX_INLINED: usize = 256;
/// Offsets of `_func.pcfile` and `_func.pcln`.
const PCFILE: usize = 20;
const PCLN: usize = 24;
/// Offset of `inlinedCall.startLine`, which exists since 1.20.
const START_LINE_INLINED: usize = 12;

/// One level of a symbolized pc: a function, or a call that was inlined into it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Frame<'a> {
    /// Full name of the function, as the linker has it.
    pub func: &'a str,
    /// Source file, as the compiler saw it; empty: not known.
    pub file: &'a str,
    /// Line in the file; 0: not known.
    pub line: u32,
    /// Whether the compiler put the function's body into its caller's.
    pub inlined: bool,
    /// Line of the function's declaration; 0 up to Go 1.19, whose table has none.
    pub start_line: u32,
    /// Whether the compiler made the function only to call another one.
    pub wrapper: bool,
    /// Link-time address of the instruction: the one that was asked for, or the place of the inlined call that the
    /// frame before this one stands for (the compiler leaves an instruction there).
    pub pc: u64,
    /// Link-time entry of the function that physically contains the code; the same for all frames of one pc.
    pub entry: u64,
}

/// An entry of an inline tree (`runtime.inlinedCall`).
struct InlinedCall {
    func_id: u8,
    name: i32,
    parent: i32,
    start_line: u32,
}

impl Format {
    /// Size of an entry of the inline tree, and the offsets of `funcID`, `nameOff` and `parentPc` in it.
    fn inlined_call(self) -> (usize, usize, usize, usize) {
        match self {
            Format::Go118 => (20, 2, 12, 16),
            Format::Go120 => (16, 0, 4, 8),
        }
    }
}

impl Pclntab {
    /// The functions that a link-time address belongs to, the innermost inlined one first. For a return address pass
    /// `pc - 1`: the call is the instruction before. Empty: not Go code.
    pub fn symbolize(&self, pc: u64) -> Vec<Frame<'_>> {
        let Some(function) = self.function_at(pc) else { return Vec::new() };
        let wrapper = self.wrapper_id();
        let mut frames = Vec::new();
        let mut into = pc - function.entry;
        // As the runtime expands inlining: each inlined call leads to the pc of its own call in the parent.
        while frames.len() < MAX_INLINE_DEPTH
            && let Some((call, parent)) = self.inlined_at(&function, into)
        {
            let frame = self.frame(&function, into);
            let (func, wrapper) = (self.name(call.name), call.func_id == wrapper);
            frames.push(Frame { func, inlined: true, start_line: call.start_line, wrapper, ..frame });
            into = parent;
        }
        frames.push(self.frame(&function, into));
        frames
    }

    /// The frame of the function itself; file and line are those of the code `into` bytes behind its entry.
    fn frame<'a>(&'a self, function: &Function<'a>, into: u64) -> Frame<'a> {
        let line = self.pcvalue(function, PCLN, into).and_then(|line| u32::try_from(line).ok());
        let file = self.pcvalue(function, PCFILE, into).and_then(|index| self.file(function, index));
        Frame {
            func: function.name,
            file: file.unwrap_or(""),
            line: line.unwrap_or(0),
            inlined: false,
            start_line: self.start_line(function),
            wrapper: self.is_wrapper(function),
            pc: function.entry.wrapping_add(into),
            entry: function.entry,
        }
    }

    fn inlined_call(&self, tree: &[u8], index: i32) -> Option<InlinedCall> {
        let (size, func_id, name, parent) = self.format.inlined_call();
        // -1 (not inlined) fails here as well, and ends the expansion.
        let entry = tree.get(usize::try_from(index).ok()?.checked_mul(size)?..)?.get(..size)?;
        Some(InlinedCall {
            func_id: *entry.get(func_id)?,
            name: i32_at(entry, name)?,
            parent: i32_at(entry, parent)?,
            start_line: match self.format {
                Format::Go118 => 0,
                Format::Go120 => u32_at(entry, START_LINE_INLINED)?,
            },
        })
    }

    /// The functions that the compiler inlined into this one; one may come several times.
    pub(crate) fn inlined_names<'a>(&'a self, function: &Function<'a>) -> Vec<&'a str> {
        let mut names = Vec::new();
        let Some(table) = self.inline_table(function) else { return names };
        let mut begin = 0;
        for run in Runs::new(table, self.quantum, function.end - function.entry).take(MAX_INLINED) {
            let mut into = std::mem::replace(&mut begin, run.end);
            for _ in 0..MAX_INLINE_DEPTH {
                let Some((call, parent)) = self.inlined_at(function, into) else { break };
                names.push(self.name(call.name));
                into = parent;
            }
        }
        names
    }

    /// The inlined call at `into`, and the offset in `function` at which it was called.
    fn inlined_at(&self, function: &Function<'_>, into: u64) -> Option<(InlinedCall, u64)> {
        let index = self.pcvalue(function, self.pcdata_field(function, PcData::InlTreeIndex)?, into)?;
        let call = self.inlined_call(self.funcdata(function, FuncData::InlTree)?, index)?;
        let parent = u64::try_from(call.parent).ok()?;
        Some((call, parent))
    }

    /// Which of `wanted` the compiler inlined, and into which functions. A probe on such a function misses those calls,
    /// so `plan` then chooses other functions.
    pub(crate) fn inlined_callees<'w>(&self, wanted: &[&'w str]) -> BTreeMap<&'w str, BTreeSet<&str>> {
        let offsets = self.name_offsets(wanted);
        let mut found = BTreeMap::<_, BTreeSet<_>>::new();
        let mut left = MAX_RUNS;
        for function in self.functions() {
            let Some(table) = self.inline_table(&function) else { continue };
            let Some(tree) = self.funcdata(&function, FuncData::InlTree) else { continue };
            for run in Runs::new(table, self.quantum, function.end - function.entry) {
                left -= 1;
                if left == 0 {
                    return found;
                }
                if let Some(call) = self.inlined_call(tree, run.value)
                    && let Some(name) = offsets.get(&call.name)
                {
                    found.entry(*name).or_default().insert(function.name);
                }
            }
        }
        found
    }

    /// Offsets of the wanted names in the name table, so that inlined calls are compared by number and not by text.
    fn name_offsets<'w>(&self, wanted: &[&'w str]) -> HashMap<i32, &'w str> {
        // A hostile header may put the next table before the names.
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
