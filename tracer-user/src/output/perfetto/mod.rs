//! Targets as a Perfetto trace, for ui.perfetto.dev and `trace_processor`.
//!
//! A goroutine is a track whose slices are its states, `waiting: chan receive` with the stack. A thread is a track
//! whose slices are the goroutines that it runs or has in a system call; the track below shows when the kernel gave it
//! no CPU. An arrow goes from a goroutine that wakes or makes another one to where that becomes runnable. Counters show
//! goroutines by state, and lost events. Times are `CLOCK_MONOTONIC`.
//!
//! Where a transition was not seen, the next slice says so (`not seen, was`). A slice that has not ended stays open.

mod counters;
mod packets;
mod process;
mod proto;
#[cfg(test)]
mod tests;

use packets::Packets;
use process::Process;
use sfgi_core::session::{End, Observer, Round, Target};
use std::io::{self, Write};

/// The observer of `sfgi export --to perfetto`.
pub struct Perfetto<W> {
    packets: Packets<W>,
    pid: Option<u32>,
    /// One for each target; `None` before the first round with events.
    processes: Vec<Option<Process>>,
    /// Time of the last step; 0: there was none.
    last_ts: u64,
}

impl<W: Write> Perfetto<W> {
    /// A trace of the process with this PID; without one, of all targets.
    pub fn new(out: W, pid: Option<u32>) -> Perfetto<W> {
        Perfetto { packets: Packets::new(out), pid, processes: Vec::new(), last_ts: 0 }
    }
}

impl<W: Write> Observer for Perfetto<W> {
    fn begin(&mut self, targets: &mut [Target]) -> io::Result<()> {
        if self.pid.is_some_and(|pid| targets.iter().all(|target| target.about().pid != pid)) {
            return Err(io::Error::other("no process with this PID was traced"));
        }
        self.processes.resize_with(targets.len(), || None);
        Ok(())
    }

    fn round(&mut self, targets: &mut [Target], round: &Round) -> io::Result<()> {
        let pid = self.pid;
        let wants = |target: &Target| pid.is_none_or(|pid| pid == target.about().pid);
        let wanted = |at: usize| targets.get(at).is_some_and(wants);
        let first_ts = round.steps().filter(|(at, _)| wanted(*at)).map(|(_, step)| step.ts).min();
        let Some(ts) = first_ts.or_else(|| round.news.iter().map(|news| news.ts).max()) else {
            return Ok(());
        };
        if round.is_empty() {
            return Ok(());
        }
        if self.last_ts == 0 {
            self.packets.begin(ts)?;
        }
        for (at, target) in targets.iter_mut().enumerate().filter(|(_, target)| wants(target)) {
            let (Some(place), Some(news)) = (self.processes.get_mut(at), round.news.get(at)) else {
                continue;
            };
            let process = match place {
                Some(process) => process,
                None => place.insert(Process::new(target, ts, &mut self.packets)?),
            };
            if news.lost != 0 {
                process.lost(news.lost, news.ts, &mut self.packets)?;
            }
            for step in &news.steps {
                process.step(step, target, &mut self.packets)?;
                self.last_ts = self.last_ts.max(step.ts);
            }
        }
        Ok(())
    }

    fn end(&mut self, targets: &mut [Target], ends: &[End]) -> io::Result<()> {
        for (at, target) in targets.iter_mut().enumerate() {
            let Some(Some(process)) = self.processes.get_mut(at) else { continue };
            let until_ts = ends.get(at).map_or(0, |end| end.until_ts);
            process.end(target, self.last_ts.max(until_ts), &mut self.packets)?;
        }
        self.packets.flush()
    }
}
