//! The tables of strings and stacks, to which events refer by number; 0 is no stack.

use super::wire::{STACK, STACKS, STRING, STRINGS, Wire};
use crate::output::traceback::{Frame, NUMBER_SHIFT, caller_frames, shown_frames};
use hashbrown::HashMap;
use prost::encoding::encode_varint;
use sfgi_core::goruntime::{Release, WaitReason};
use sfgi_core::{
    event::Stack,
    names::{Site, Symbols},
};
use std::{
    io::{self, Write},
    sync::Arc,
};

/// Reason and stack of a transition that the trace needs, but that was lost or that no probe can see.
pub(super) const NOT_SEEN: &str = "sfgi: not seen";

/// Longest string that readers take, bytes (`MaxEventTrailerDataSize`, `src/internal/trace/tracev2/events.go`).
const MAX_STRING: usize = 1024;

/// Stacks kept; later ones are 0. A hostile target can invent any number.
const MAX_STACKS: usize = 1 << 20;

/// A table is written in pieces of about this many bytes; readers take batches of up to 64 KiB.
const FULL: usize = 16 << 10;

/// The frame number of a function as a whole, which no inlined frame has.
const WHOLE_FUNCTION: u64 = 0xffff;

/// The strings and stacks used so far, and what of them is not written yet.
#[derive(Default)]
pub(super) struct Tables {
    strings: HashMap<Arc<str>, u64>,
    stacks: HashMap<Box<[u64]>, u64>,
    string_data: Vec<u8>,
    stack_data: Vec<u8>,
}

impl Tables {
    /// The number of a string, which is cut at [`MAX_STRING`].
    pub(super) fn string(&mut self, text: &str) -> u64 {
        let text = &text[..text.floor_char_boundary(MAX_STRING)];
        if let Some(id) = self.strings.get(text) {
            return *id;
        }
        let id = self.strings.len() as u64 + 1;
        self.strings.insert(text.into(), id);
        let data = begin(&mut self.string_data, STRINGS);
        data.push(STRING);
        encode_varint(id, data);
        encode_varint(text.len() as u64, data);
        data.extend_from_slice(text.as_bytes());
        id
    }

    pub(super) fn stack(&mut self, stack: Stack, symbols: &mut Symbols, release: Release) -> u64 {
        self.intern(&stack.pcs(), || shown_frames(stack, symbols, release))
    }

    /// The number of the stack of a `go` statement: its own frames, since its callers are not known.
    pub(super) fn go_statement(&mut self, gopc: u64, symbols: &mut Symbols) -> u64 {
        self.intern(&[gopc], || caller_frames(symbols, gopc))
    }

    /// The number of the stack that a goroutine begins with: its function alone.
    pub(super) fn function(&mut self, startpc: u64, symbols: &mut Symbols) -> u64 {
        let pc = startpc | WHOLE_FUNCTION << NUMBER_SHIFT;
        self.intern(&[pc], || symbols.function(startpc).map(|site| Frame { pc, site }).into_iter().collect())
    }

    /// The number of a stack whose only frame is a text.
    pub(super) fn remark(&mut self, text: &str) -> u64 {
        self.intern(&[0], || {
            vec![Frame { pc: 0, site: Site { func: text.into(), file: "".into(), line: 0 } }]
        })
    }

    fn intern(&mut self, key: &[u64], frames: impl FnOnce() -> Vec<Frame>) -> u64 {
        if let Some(id) = self.stacks.get(key) {
            return *id;
        }
        if self.stacks.len() >= MAX_STACKS {
            return 0;
        }
        // A key without frames is kept, too, so that it is not looked up again.
        let frames = frames();
        let id = if frames.is_empty() { 0 } else { self.stacks.len() as u64 + 1 };
        self.stacks.insert(key.into(), id);
        if id != 0 {
            self.put(id, &frames);
        }
        id
    }

    fn put(&mut self, id: u64, frames: &[Frame]) {
        let mut fields = vec![id, frames.len() as u64];
        for Frame { pc, site } in frames {
            fields.extend([*pc, self.string(&site.func), self.string(&site.file), u64::from(site.line)]);
        }
        let data = begin(&mut self.stack_data, STACKS);
        data.push(STACK);
        for field in fields {
            encode_varint(field, data);
        }
    }

    /// Writes the new entries, if there are many.
    pub(super) fn spill(&mut self, wire: &mut Wire<impl Write>) -> io::Result<()> {
        if self.string_data.len() >= FULL || self.stack_data.len() >= FULL {
            self.write(wire)
        } else {
            Ok(())
        }
    }

    /// Writes the new entries. Readers take tables anywhere within their generation.
    pub(super) fn write(&mut self, wire: &mut Wire<impl Write>) -> io::Result<()> {
        for data in [&mut self.string_data, &mut self.stack_data] {
            if !data.is_empty() {
                wire.table(data)?;
                data.clear();
            }
        }
        Ok(())
    }
}

/// Begins a piece of a table with the byte that says which table it is.
fn begin(data: &mut Vec<u8>, table: u8) -> &mut Vec<u8> {
    if data.is_empty() {
        data.push(table);
    }
    data
}

/// The text that `gopark`'s callers give the tracer beside a wait reason (`traceBlockReasonStrings` in
/// `src/runtime/traceruntime.go`, and the calls of `gopark`). Tools search for these words: `network`, `sync`,
/// `chan receive`. A wait reason without such a text stays as it is, in `text`.
pub(super) fn block_reason(reason: WaitReason, text: &str) -> &str {
    use WaitReason::*;
    match reason.outside_of_bubbles() {
        IoWait => "network",
        ChanReceiveNilChan | ChanSendNilChan | SelectNoCases | PanicWait => "forever",
        ChanReceive => "chan receive",
        ChanSend => "chan send",
        Select => "select",
        SyncCondWait => "sync.(*Cond).Wait",
        Semacquire | SyncMutexLock | SyncRwMutexRLock | SyncRwMutexLock | SyncWaitGroupWait => "sync",
        GcAssistWait => "GC mark assist wait for work",
        GcSweepWait => "GC background sweeper wait",
        WaitForGcCycle => "wait until GC ends",
        DebugCall => "wait for debug call",
        GcScavengeWait | GcWorkerIdle | FinalizerWait | CleanupWait | ForceGcIdle | UpdateGomaxprocsIdle
        | TraceReaderBlocked => "system goroutine wait",
        SynctestRun | SynctestWait => "synctest",
        _ => text,
    }
}
