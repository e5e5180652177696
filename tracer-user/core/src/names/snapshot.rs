//! Names for what a snapshot holds as numbers.

use super::{Site, Symbols};
use crate::{
    binary::GoBinary,
    goruntime::{is_plumbing, tracebacks},
    snapshot::{Goroutine, Pc, Snapshot},
};
use std::{collections::HashMap, sync::Arc};

/// One line of a stack: a function at a place.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StackLine {
    pub site: Site,
    /// Link-time address of the instruction, for an inlining function of the call.
    pub pc: u64,
    /// Line of the function's beginning; 0 where that is not known.
    pub start_line: u32,
    /// Whether the compiler put the function's body into its caller's, which is the next line.
    pub inlined: bool,
    /// Whether the compiler made the function to reach another one.
    pub wrapper: bool,
}

/// How many addresses are remembered; a hostile target can invent any number of them.
const CAPACITY: usize = 1 << 16;

/// Resolves the numbers of one snapshot.
pub struct Names {
    binary: Arc<GoBinary>,
    bias: u64,
    symbols: Symbols,
    lines: HashMap<Pc, Arc<[StackLine]>>,
    now_ns: u64,
}

impl Names {
    /// `bias`: what the kernel added to the binary's link-time addresses.
    pub fn new(binary: Arc<GoBinary>, bias: u64, snapshot: &Snapshot) -> Names {
        let symbols = Symbols::new(Arc::clone(&binary), bias);
        Names { binary, bias, symbols, lines: HashMap::new(), now_ns: snapshot.taken_ns.1 }
    }

    pub fn binary(&self) -> &GoBinary {
        &self.binary
    }

    /// The binary, in a handle that does not borrow the names.
    pub fn shared_binary(&self) -> Arc<GoBinary> {
        Arc::clone(&self.binary)
    }

    /// The load bias: what the kernel added to the binary's link-time addresses.
    pub fn bias(&self) -> u64 {
        self.bias
    }

    /// Why it waits, in the runtime's words; empty where it does not wait.
    pub fn reason(&self, goroutine: &Goroutine) -> &str {
        if !goroutine.state.waits() {
            return "";
        }
        self.binary.wait_reason(goroutine.reason)
    }

    /// How long it has been waiting as the runtime counts it, in nanoseconds; `None`: not known, or it does not
    /// wait.
    pub fn waiting_ns(&self, goroutine: &Goroutine) -> Option<u64> {
        // As the runtime's `goroutineheader` (`src/runtime/traceback.go`) has it.
        (goroutine.state.stays() && goroutine.waiting_since_ns != 0)
            .then(|| self.now_ns.saturating_sub(goroutine.waiting_since_ns))
    }

    /// The `go` statement that made it; `None` for the main goroutine, which the runtime made.
    pub fn creator(&mut self, goroutine: &Goroutine) -> Option<Site> {
        if goroutine.goid == 1 || goroutine.gopc == 0 {
            return None;
        }
        self.symbols.go_statement(goroutine.gopc)
    }

    /// The `go` statement before this return address.
    pub fn go_statement(&mut self, gopc: u64) -> Option<Site> {
        if gopc == 0 { None } else { self.symbols.go_statement(gopc) }
    }

    /// The function at this address.
    pub fn function_at(&mut self, addr: u64) -> Option<Site> {
        self.symbols.function(addr)
    }

    /// The lines of a stack that a traceback shows, innermost first, at most so many.
    pub fn sites(&mut self, stack: &[Pc], most: usize) -> Vec<Site> {
        self.stack(stack).into_iter().take(most).map(|line| line.site).collect()
    }

    /// The function that the goroutine runs, by `g.startpc`; `None` where that is not set.
    pub fn start(&mut self, goroutine: &Goroutine) -> Option<Site> {
        if goroutine.startpc == 0 { None } else { self.symbols.function(goroutine.startpc) }
    }

    /// Where a stack waits: the innermost line that is not plumbing; if all are, the outermost that is not the
    /// runtime's own.
    pub fn wait_site(&mut self, stack: &[Pc]) -> Option<Site> {
        let mut last = None;
        for line in self.frames(stack).into_iter().flatten() {
            if !is_plumbing(&line.site.func) {
                return Some(line.site);
            }
            // Where all is plumbing, the outermost line outside the runtime says most.
            if last.is_none() || !line.site.func.starts_with("runtime.") {
                last = Some(line.site);
            }
        }
        last
    }

    /// The lines of a stack that a traceback shows, innermost first: without the runtime's own,
    /// unless there are no others.
    pub fn stack(&mut self, stack: &[Pc]) -> Vec<StackLine> {
        let release = self.binary.version().release;
        let lines: Vec<StackLine> = self.frames(stack).into_iter().flatten().collect();
        let shows = |(index, line): &(usize, &StackLine)| {
            let func = &*line.site.func;
            // `showfuncinfo` (`src/runtime/traceback.go`) shows gopanic in the middle of a stack: deferred code
            // begins there.
            tracebacks::shows(func, release) || (func == tracebacks::PANIC && *index > 0)
        };
        let shown: Vec<StackLine> =
            lines.iter().enumerate().filter(shows).map(|(_, line)| line.clone()).collect();
        if shown.is_empty() { lines } else { shown }
    }

    /// The physical frames of a stack with what is inlined into each, innermost first; without
    /// wrappers, which the runtime leaves out of all stacks that it shows.
    pub fn frames(&mut self, stack: &[Pc]) -> Vec<Vec<StackLine>> {
        let mut callee_panics = false;
        let mut frames = Vec::with_capacity(stack.len());
        for pc in stack {
            let mut lines = self.lines(*pc).to_vec();
            lines.retain(|line| {
                // `elideWrapperCalling` (`src/runtime/traceback.go`): a wrapper that panicked itself is shown.
                let panics = tracebacks::shows_its_wrapper(&line.site.func);
                let called_for_panic = std::mem::replace(&mut callee_panics, panics);
                !line.wrapper || called_for_panic
            });
            if !lines.is_empty() {
                frames.push(lines);
            }
        }
        frames
    }

    /// The physical frame at `pc` with what is inlined into it, innermost first.
    pub fn lines(&mut self, pc: Pc) -> Arc<[StackLine]> {
        if let Some(lines) = self.lines.get(&pc) {
            return Arc::clone(lines);
        }
        if self.lines.len() >= CAPACITY {
            self.lines.clear();
        }
        let frames = self.binary.symbolize(pc.lookup().wrapping_sub(self.bias));
        let lines = frames.into_iter().map(|frame| StackLine {
            site: Site { func: frame.func.into(), file: frame.file.into(), line: frame.line },
            pc: frame.pc,
            start_line: frame.start_line,
            inlined: frame.inlined,
            wrapper: frame.wrapper,
        });
        let lines: Arc<[StackLine]> = lines.collect();
        self.lines.insert(pc, Arc::clone(&lines));
        lines
    }
}
