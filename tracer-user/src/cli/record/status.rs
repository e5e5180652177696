//! What a recording has come to so far, for whoever waits.

use crate::{
    cli::progress::Progress,
    output::{bytes, count},
};
use sfgi_core::session::{End, Input, Observer, Round, Target};
use std::{
    io,
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Instant,
};

/// Events that came in and those that were lost.
#[derive(Default)]
pub(super) struct Counts {
    events: AtomicU64,
    lost: AtomicU64,
}

impl Counts {
    /// The last words about the file.
    pub(super) fn closing(&self, path: &Path, size: Option<u64>) -> String {
        let events = self.events.load(Ordering::Relaxed);
        let mut text = format!("{}: {} events", path.display(), count(events));
        if let Some(size) = size {
            text += &format!(", {}", bytes(size));
            if events > 0 {
                text += &format!(" ({:.1} bytes an event)", size as f64 / events as f64);
            }
        }
        text
    }
}

/// Counts, and shows the count on a terminal.
pub(super) struct Status {
    counts: Arc<Counts>,
    line: Progress,
    began: Instant,
}

impl Status {
    pub(super) fn new(counts: Arc<Counts>) -> Status {
        Status { counts, line: Progress::new(), began: Instant::now() }
    }
}

impl Observer for Status {
    fn input(&mut self, _: usize, input: &Input, _: &mut Target) -> io::Result<()> {
        if let Input::Events(batch) = input {
            self.counts.events.fetch_add(batch.events.len() as u64, Ordering::Relaxed);
            self.counts.lost.fetch_add(batch.lost, Ordering::Relaxed);
        }
        Ok(())
    }

    fn round(&mut self, _: &mut [Target], _: &Round) -> io::Result<()> {
        let Status { counts, line, began } = self;
        line.show(|| {
            let events = counts.events.load(Ordering::Relaxed);
            let lost = counts.lost.load(Ordering::Relaxed);
            let seconds = began.elapsed().as_secs();
            format!(
                "recording for {seconds} s: {} events, {} lost; Ctrl-C ends it",
                count(events),
                count(lost)
            )
        });
        Ok(())
    }

    fn end(&mut self, _: &mut [Target], _: &[End]) -> io::Result<()> {
        self.line.clear();
        Ok(())
    }
}
