//! What the numbers of a snapshot stand for.

use crate::{
    model::State,
    present::{Site, Symbols},
    snapshot::{Goroutine, Pc, Snapshot},
    target::GoBinary,
};
use std::sync::Arc;

/// One line of a stack, as a traceback shows it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Shown {
    /// Function, file and line.
    pub site: Site,
    /// Whether the compiler put the function's body into its caller's, which is the next line.
    pub inlined: bool,
}

/// Resolves what a snapshot holds as numbers.
pub struct Names {
    binary: Arc<GoBinary>,
    symbols: Symbols,
    now_ns: u64,
}

impl Names {
    /// `bias`: what the kernel added to the binary's link-time addresses.
    pub fn new(binary: Arc<GoBinary>, bias: u64, snapshot: &Snapshot) -> Names {
        Names { symbols: Symbols::new(Arc::clone(&binary), bias), binary, now_ns: snapshot.taken_ns.1 }
    }

    /// The binary.
    pub fn binary(&self) -> &GoBinary {
        &self.binary
    }

    /// Why it waits, in the runtime's words; empty where it does not wait.
    pub fn reason(&self, goroutine: &Goroutine) -> &str {
        if !waits(goroutine.state) {
            return "";
        }
        self.binary.wait_reasons().get(usize::from(goroutine.reason)).map_or("", String::as_str)
    }

    /// How long it has been waiting at least, in nanoseconds; `None`: not known, or it does not
    /// wait.
    pub fn waiting_ns(&self, goroutine: &Goroutine) -> Option<u64> {
        // As the runtime's `goroutineheader` (`src/runtime/traceback.go`) has it.
        let tells = waits(goroutine.state) || goroutine.state == State::Syscall;
        (tells && goroutine.waiting_since_ns != 0)
            .then(|| self.now_ns.saturating_sub(goroutine.waiting_since_ns))
    }

    /// The `go` statement that made it; none for the main goroutine, which the runtime made.
    pub fn creator(&mut self, goroutine: &Goroutine) -> Option<Site> {
        if goroutine.goid == 1 || goroutine.gopc == 0 {
            return None;
        }
        self.symbols.go_statement(goroutine.gopc)
    }

    /// The function it runs.
    pub fn start(&mut self, goroutine: &Goroutine) -> Option<Site> {
        if goroutine.startpc == 0 { None } else { self.symbols.function(goroutine.startpc) }
    }

    /// All lines of a stack, innermost first.
    pub fn stack(&mut self, stack: &[Pc]) -> Vec<Shown> {
        let mut lines = Vec::new();
        for pc in stack {
            let frames = self.symbols.frames(pc.lookup());
            let physical = frames.len().saturating_sub(1);
            lines.extend(
                frames
                    .iter()
                    .enumerate()
                    .map(|(level, site)| Shown { site: site.clone(), inlined: level < physical }),
            );
        }
        lines
    }

    /// The physical frame at `pc` with what is inlined into it, innermost first.
    pub(super) fn frames(&mut self, pc: Pc) -> Arc<[Site]> {
        self.symbols.frames(pc.lookup())
    }
}

/// Whether a goroutine in this state has a wait reason.
fn waits(state: State) -> bool {
    matches!(state, State::Waiting | State::Leaked)
}
