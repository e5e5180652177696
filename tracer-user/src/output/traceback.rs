//! Goroutines exactly as the target's own runtime prints them in a crash, by `runtime.Stack(buf, true)` and by
//! `pprof.Lookup("goroutine").WriteTo(w, 2)`, so that existing tools read the text. Source: `src/runtime/traceback.go`
//! of Go 1.19 and 1.21 to 1.27.
//!
//! What sfgi adds stands in parentheses within the brackets of the first line: a goroutine that moved while it was read
//! or that runs, and a stack that makes no sense.

mod header;
mod names;
mod stack;

use header::Header;
pub(super) use names::{Frame, NUMBER_SHIFT, caller_frames, shown_frames};
pub(crate) use names::{clean, printed};
use sfgi_core::snapshot::{Goroutine, Snapshot};
use sfgi_core::{binary::GoBinary, goruntime::tracebacks};
use stack::{Rendered, Renderer, place};
use std::collections::HashMap;
use std::io::{self, Write};
use std::rc::Rc;

/// Rendered stacks and `go` statements kept, of each; a full map is cleared.
const CAPACITY: usize = 1 << 14;
/// The runtime's text for a stack that it cannot walk, written where there is no stack: readers of tracebacks expect
/// this line or a function.
const UNAVAILABLE: &str = "\tgoroutine running on other thread; stack unavailable\n";

/// Writes goroutines of one snapshot. Stacks and `go` statements are rendered once.
pub struct Traceback<'a> {
    snapshot: &'a Snapshot,
    header: Header<'a>,
    renderer: Renderer<'a>,
    /// By the number of [`sfgi_core::snapshot::StackId`].
    stacks: HashMap<u32, Rc<Rendered>>,
    /// By `g.gopc`; `None`: the runtime would print no creator.
    creators: HashMap<u64, Option<Creator>>,
}

/// A `go` statement: the name behind `created by`, and the line with the place.
type Creator = (Rc<str>, Rc<str>);

impl<'a> Traceback<'a> {
    /// `bias` is what the kernel added to the link addresses of `binary`. Waits are counted up to `now_ns`,
    /// `CLOCK_MONOTONIC` nanoseconds.
    pub fn new(binary: &'a GoBinary, bias: u64, snapshot: &'a Snapshot, now_ns: u64) -> Traceback<'a> {
        Traceback {
            snapshot,
            header: Header::new(binary, now_ns),
            renderer: Renderer::new(binary, bias),
            stacks: HashMap::new(),
            creators: HashMap::new(),
        }
    }

    /// Writes one goroutine. The caller puts an empty line between two and leaves out the runtime's own, as the
    /// runtime does.
    pub fn write(&mut self, out: &mut dyn Write, goroutine: &Goroutine) -> io::Result<()> {
        self.header.write(out, goroutine, self.snapshot)?;
        let stack = self.stack(goroutine);
        if stack.is_empty() {
            out.write_all(UNAVAILABLE.as_bytes())?;
        } else {
            let (start, len) = goroutine.args;
            // The range is into text that was read from the target, so it is checked like everything of it.
            let args = start.checked_add(len).and_then(|end| self.snapshot.args.get(start..end));
            stack.write(out, args.filter(|args| !args.is_empty()))?;
        }
        match self.creator(goroutine) {
            Some((func, place)) if goroutine.parent_goid != 0 => {
                write!(out, "created by {func} in goroutine {}\n{place}", goroutine.parent_goid)
            }
            Some((func, place)) => write!(out, "created by {func}\n{place}"),
            None => Ok(()),
        }
    }

    fn stack(&mut self, goroutine: &Goroutine) -> Rc<Rendered> {
        if let Some(stack) = self.stacks.get(&goroutine.stack.0) {
            return Rc::clone(stack);
        }
        let stack = Rc::new(self.renderer.render(self.snapshot.stacks.get(goroutine.stack)));
        if self.stacks.len() >= CAPACITY {
            self.stacks.clear();
        }
        self.stacks.insert(goroutine.stack.0, Rc::clone(&stack));
        stack
    }

    fn creator(&mut self, goroutine: &Goroutine) -> Option<Creator> {
        // `printcreatedby` skips goroutine 1, which the runtime's start-up code made.
        if goroutine.goid == 1 {
            return None;
        }
        if let Some(creator) = self.creators.get(&goroutine.gopc) {
            return creator.clone();
        }
        let creator = self.look_up_creator(goroutine.gopc);
        if self.creators.len() >= CAPACITY {
            self.creators.clear();
        }
        self.creators.insert(goroutine.gopc, creator.clone());
        creator
    }

    /// What `printcreatedby` prints: the function that holds the code, with the innermost place in the source.
    fn look_up_creator(&self, gopc: u64) -> Option<Creator> {
        let Renderer { binary, bias, release, .. } = self.renderer;
        let functions = binary.functions();
        let pc = gopc.wrapping_sub(bias);
        let function = functions.function_at(pc)?;
        let shown = tracebacks::shows(function.name, release) || function.name == tracebacks::PANIC;
        if !shown || functions.is_wrapper(&function) {
            return None;
        }
        // `gopc` is a return address: the `go` statement is before it (`printcreatedby1` does the same).
        let frames = functions.symbolize(if pc > function.entry { pc - 1 } else { pc });
        let innermost = frames.first()?;
        let place = place(innermost.file, innermost.line, pc - function.entry);
        Some((names::printed(function.name, release).into(), place.into()))
    }
}
