//! Goroutines in the form in which the program's own runtime prints them, to the letter:
//! `runtime.Stack(buf, true)`, `pprof.Lookup("goroutine").WriteTo(w, 2)`, a crash. Existing tools
//! read that. Source: `src/runtime/traceback.go` of 1.19 and 1.21–1.27.
//!
//! What is said in addition stands in the brackets behind the state, in parentheses: that a
//! goroutine moved while it was read, runs, or has a stack that makes no sense.

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

/// Rendered stacks and `go` statements that are kept.
const CAPACITY: usize = 1 << 14;
/// What the runtime prints of a goroutine whose stack it cannot walk; what we print where there is
/// no stack. Readers of tracebacks expect it or a function.
const UNAVAILABLE: &str = "\tgoroutine running on other thread; stack unavailable\n";

/// Writes the goroutines of a snapshot.
pub struct Traceback<'a> {
    snapshot: &'a Snapshot,
    header: Header<'a>,
    renderer: Renderer<'a>,
    /// By `StackId`.
    stacks: HashMap<u32, Rc<Rendered>>,
    /// By `g.gopc`.
    creators: HashMap<u64, Option<Creator>>,
}

/// A `go` statement: `created by FUNC`, and the line with the place.
type Creator = (Rc<str>, Rc<str>);

impl<'a> Traceback<'a> {
    /// Of a program that runs `binary`; `bias` is what the kernel added to its link addresses.
    /// `now_ns` is the time that waits are counted to, `CLOCK_MONOTONIC` nanoseconds.
    pub fn new(binary: &'a GoBinary, bias: u64, snapshot: &'a Snapshot, now_ns: u64) -> Traceback<'a> {
        Traceback {
            snapshot,
            header: Header::new(binary, now_ns),
            renderer: Renderer::new(binary, bias),
            stacks: HashMap::new(),
            creators: HashMap::new(),
        }
    }

    /// Writes one goroutine of the snapshot. Between two of them the runtime writes an empty line;
    /// it leaves out those that are its own.
    ///
    /// # Errors
    /// Those of `out`.
    pub fn write(&mut self, out: &mut dyn Write, goroutine: &Goroutine) -> io::Result<()> {
        self.header.write(out, goroutine, self.snapshot)?;
        let stack = self.stack(goroutine);
        if stack.is_empty() {
            out.write_all(UNAVAILABLE.as_bytes())?;
        } else {
            let (start, len) = goroutine.args;
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

    /// `printcreatedby`: the function that the code lies in, with the innermost place in the source.
    fn look_up_creator(&self, gopc: u64) -> Option<Creator> {
        let Renderer { binary, bias, release, .. } = self.renderer;
        let functions = binary.functions();
        let pc = gopc.wrapping_sub(bias);
        let function = functions.function_at(pc)?;
        let shown = tracebacks::shows(function.name, release) || function.name == tracebacks::PANIC;
        if !shown || functions.is_wrapper(&function) {
            return None;
        }
        let frames = functions.symbolize(if pc > function.entry { pc - 1 } else { pc });
        let innermost = frames.first()?;
        let place = place(innermost.file, innermost.line, pc - function.entry);
        Some((names::printed(function.name, release).into(), place.into()))
    }
}
