//! What the table knows of each function beside its name: how large its frame is at a pc, what kind
//! of function it is, and the numbered tables that the compiler made for the runtime.

use super::super::bytes::u32_at;
use super::super::pcvalue::value_at;
use super::{Format, Function, Pclntab};

/// `_func.pcsp` and `_func.npcdata`, at the same place in every version.
const PCSP: usize = 16;
const PCDATA_COUNT: usize = 28;
/// `_func.args`.
const ARGS: usize = 8;
/// `_func.startLine`, since 1.20.
const START_LINE: usize = 36;
/// Bits of `_func.flag` (`abi.FuncFlag`), the same from 1.18 to 1.27.
const TOP_FRAME: u8 = 1;
const SP_WRITE: u8 = 2;

/// Tables from a pc to a number (`abi.PCDATA_…`, `src/internal/abi/symtab.go`; 1.19:
/// `_PCDATA_…`, `src/runtime/symtab.go`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PcData {
    /// Which of the function's stack maps holds; −1: the one of its entry.
    StackMapIndex = 1,
    /// Which inlined call the code belongs to; −1: none.
    InlTreeIndex = 2,
    /// Where in [`FuncData::ArgLiveInfo`] the liveness of the arguments stands.
    ArgLiveIndex = 3,
}

/// Tables of a whole function (`abi.FUNCDATA_…`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FuncData {
    /// Which words of the arguments are pointers.
    ArgsPointerMaps = 0,
    /// Which words of the local variables are.
    LocalsPointerMaps = 1,
    /// Variables on the stack whose address is taken.
    StackObjects = 2,
    /// The tree of inlined calls.
    InlTree = 3,
    /// How a traceback prints the arguments.
    ArgInfo = 5,
    /// Which arguments that came in registers are in memory.
    ArgLiveInfo = 6,
    /// The function that a `go` statement's wrapper calls.
    WrapInfo = 7,
}

impl Pclntab {
    /// How many bytes the stack pointer lies below where it was at the function's entry, when `pc`
    /// (link-time) is next to be executed. `None`: the function has no such table (it is not Go's),
    /// or the table makes no sense.
    pub fn sp_delta(&self, function: &Function<'_>, pc: u64) -> Option<i32> {
        self.pcvalue(function, PCSP, pc.checked_sub(function.entry)?)
    }

    /// Whether a stack ends in this function (`goexit`, `mstart`).
    pub fn is_top_frame(&self, function: &Function<'_>) -> bool {
        self.flag(function) & TOP_FRAME != 0
    }

    /// Whether the function moves the stack pointer in a way that [`Pclntab::sp_delta`] cannot tell.
    pub fn writes_sp(&self, function: &Function<'_>) -> bool {
        self.flag(function) & SP_WRITE != 0
    }

    /// Bytes of its arguments on the stack, results included; `None`: it does not say
    /// (`ArgsSizeUnknown`: assembly, and functions that reflection makes).
    pub fn args_size(&self, function: &Function<'_>) -> Option<u64> {
        u32_at(&self.data, function.record + ARGS).filter(|size| *size < 1 << 31).map(u64::from)
    }

    /// Line of its beginning; 0 where the table does not tell.
    pub(super) fn start_line(&self, function: &Function<'_>) -> u32 {
        match self.format {
            Format::Go118 => 0,
            Format::Go120 => u32_at(&self.data, function.record + START_LINE).unwrap_or(0),
        }
    }

    fn flag(&self, function: &Function<'_>) -> u8 {
        self.data.get(function.record + self.format.func_id() + 1).copied().unwrap_or(0)
    }

    /// Whether the compiler made the function to reach another one (`FuncIDWrapper`).
    pub fn is_wrapper(&self, function: &Function<'_>) -> bool {
        self.func_id(function) == Some(self.wrapper_id())
    }

    fn func_id(&self, function: &Function<'_>) -> Option<u8> {
        self.data.get(function.record + self.format.func_id()).copied()
    }

    /// `FuncIDWrapper` is the largest function id of every version, and every binary has wrappers.
    pub(super) fn wrapper_id(&self) -> u8 {
        *self.wrapper.get_or_init(|| {
            self.functions().filter_map(|function| self.func_id(&function)).max().unwrap_or(u8::MAX)
        })
    }

    /// The number in a table of the function at `pc` (link-time); `None` where there is none, which
    /// the runtime takes for −1.
    pub fn pcdata(&self, function: &Function<'_>, table: PcData, pc: u64) -> Option<i32> {
        self.pcvalue(function, self.pcdata_field(function, table)?, pc.checked_sub(function.entry)?)
    }

    /// Where in the `_func` the offset of a pc table stands.
    pub(super) fn pcdata_field(&self, function: &Function<'_>, table: PcData) -> Option<usize> {
        let count = u32_at(&self.data, function.record + PCDATA_COUNT)? as usize;
        let index = table as usize;
        (index < count).then(|| self.format.func_id() + 4 + index * 4)
    }

    /// A table of the function, up to the end of the segment: how long it is, it says itself.
    pub fn funcdata(&self, function: &Function<'_>, table: FuncData) -> Option<&[u8]> {
        let count = u32_at(&self.data, function.record + PCDATA_COUNT)? as usize;
        let kinds = *self.data.get(function.record + self.format.func_id() + 3)?;
        let first = (function.record + self.format.func_id() + 4).checked_add(count.checked_mul(4)?)?;
        let index = table as usize;
        let offset = (index < usize::from(kinds)).then(|| u32_at(&self.data, first + index * 4))??;
        // ^uint32(0): this function has none.
        (offset != u32::MAX).then(|| self.funcdata.get(offset as usize..))?
    }

    /// The number `into` bytes behind the function's entry, of the pc table whose offset stands at
    /// `field` of the `_func`.
    pub(super) fn pcvalue(&self, function: &Function<'_>, field: usize, into: u64) -> Option<i32> {
        value_at(self.pc_table(function, field)?, self.quantum, function.end - function.entry, into)
    }

    fn pc_table(&self, function: &Function<'_>, field: usize) -> Option<&[u8]> {
        let offset = u32_at(&self.data, function.record + field).filter(|offset| *offset != 0)?;
        self.data.get(self.pcs + offset as usize..)
    }

    /// The table of inlined calls by pc.
    pub(super) fn inline_table(&self, function: &Function<'_>) -> Option<&[u8]> {
        self.pc_table(function, self.pcdata_field(function, PcData::InlTreeIndex)?)
    }
}
