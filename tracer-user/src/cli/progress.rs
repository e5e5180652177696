//! A line on the terminal that says how far a command is.

use std::{
    io::{self, IsTerminal as _},
    time::{Duration, Instant},
};

/// How often it is shown, and how long a command may take without.
const EVERY: Duration = Duration::from_millis(200);

/// The line.
pub(super) struct Progress {
    next: Option<Instant>,
    shown: bool,
}

impl Progress {
    /// Nothing is shown before [`EVERY`] is over, nor where standard error is no terminal.
    pub(super) fn new() -> Progress {
        Progress { next: io::stderr().is_terminal().then(|| Instant::now() + EVERY), shown: false }
    }

    /// Shows what `text` says, if it is time.
    pub(super) fn show(&mut self, text: impl FnOnce() -> String) {
        if let Some(next) = &mut self.next
            && Instant::now() >= *next
        {
            *next = Instant::now() + EVERY;
            self.shown = true;
            eprint!("\r\x1b[Ksfgi: {}", text());
        }
    }

    /// Takes the line away.
    pub(super) fn clear(&mut self) {
        if std::mem::take(&mut self.shown) {
            eprint!("\r\x1b[K");
        }
    }
}
