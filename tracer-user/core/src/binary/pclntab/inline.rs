//! Inlining: the functions that a pc belongs to, and what the compiler put into what.

use super::super::bytes::{i32_at, u32_at};
use super::super::pcvalue::Runs;
use super::{Format, FuncData, Function, PcData, Pclntab};
use std::collections::{BTreeMap, BTreeSet, HashMap};

/// An inlined call within an inlined call …: the compiler stops far earlier.
const MAX_INLINE_DEPTH: usize = 64;
/// `_func.pcfile` and `_func.pcln`.
const PCFILE: usize = 20;
const PCLN: usize = 24;
/// `inlinedCall.startLine`, since 1.20.
const START_LINE_INLINED: usize = 12;

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
    /// Line of the function's beginning; 0 up to Go 1.19, which does not tell.
    pub start_line: u32,
    /// Whether the compiler made it to reach another function.
    pub wrapper: bool,
    /// Link-time address of the instruction: the one that was asked for, or where the function that
    /// is inlined before this frame was called (the compiler leaves an instruction there).
    pub pc: u64,
    /// Link-time address of the first instruction of the function that the code lies in: the one
    /// at the end of the chain of inlined calls.
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
    /// Bytes of an entry of the inline tree, and where in it `funcID`, `nameOff` and `parentPc` are.
    fn inlined_call(self) -> (usize, usize, usize, usize) {
        match self {
            Format::Go118 => (20, 2, 12, 16),
            Format::Go120 => (16, 0, 4, 8),
        }
    }
}

impl Pclntab {
    /// Which functions a link-time address belongs to, the innermost inlined one first, with the
    /// file and line of each. For a return address pass `pc - 1`. Empty: not Go code.
    pub fn symbolize(&self, pc: u64) -> Vec<Frame<'_>> {
        let Some(function) = self.function_at(pc) else { return Vec::new() };
        let wrapper = self.wrapper_id();
        let mut frames = Vec::new();
        let mut into = pc - function.entry;
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

    /// The function itself, with the place in the source that `into` belongs to.
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

    /// The inlined function at `into`, and where in `function` its call stands.
    fn inlined_at(&self, function: &Function<'_>, into: u64) -> Option<(InlinedCall, u64)> {
        let index = self.pcvalue(function, self.pcdata_field(function, PcData::InlTreeIndex)?, into)?;
        let call = self.inlined_call(self.funcdata(function, FuncData::InlTree)?, index)?;
        let parent = u64::try_from(call.parent).ok()?;
        Some((call, parent))
    }

    /// Which of `wanted` the compiler inlined, and into which functions. A probe on such a function
    /// misses those calls.
    pub fn inlined_callees<'w>(&self, wanted: &[&'w str]) -> BTreeMap<&'w str, BTreeSet<&str>> {
        let offsets = self.name_offsets(wanted);
        let mut found = BTreeMap::<_, BTreeSet<_>>::new();
        for function in self.functions() {
            let Some(table) = self.inline_table(&function) else { continue };
            let Some(tree) = self.funcdata(&function, FuncData::InlTree) else { continue };
            for run in Runs::new(table, self.quantum, function.end - function.entry) {
                if let Some(call) = self.inlined_call(tree, run.value)
                    && let Some(name) = offsets.get(&call.name)
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
