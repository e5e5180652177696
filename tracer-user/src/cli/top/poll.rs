//! Without probes: all goroutines are read once an interval.

use crate::{
    cli::opened::{LayoutArg, Opened},
    live::{Observers, Outside, read_all},
};
use anyhow::{Context as _, Result};
use sfgi_core::{
    event::{Batch, Mode, Set},
    memory::Live,
    names::Symbols,
    process::Process,
    session::{About, End, Input, News, Round, Target},
    snapshot::{Clock, View},
};
use std::{
    io,
    os::fd::OwnedFd,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

/// How long it takes at most to end.
const TURN: Duration = Duration::from_millis(20);

/// Reads processes.
pub(super) struct Poller {
    opened: Vec<(Opened, Process)>,
    targets: Vec<Target>,
    observers: Observers,
    every: Duration,
}

impl Poller {
    pub(super) fn new(
        pids: &[u32],
        layout: &LayoutArg,
        observers: Observers,
        every: Duration,
    ) -> Result<Poller> {
        let (mut opened, mut targets) = (Vec::new(), Vec::new());
        for pid in pids {
            let mut one = Opened::process(*pid, layout)?;
            let symbols = Symbols::new(Arc::clone(&one.binary), one.bias()?);
            targets.push(Target::new(about(*pid, &one), symbols));
            let process = one.process.take().context("a process was opened")?;
            opened.push((one, process));
        }
        Ok(Poller { opened, targets, observers, every })
    }

    /// Descriptors that become readable when the processes end.
    pub(super) fn pidfds(&self) -> io::Result<Vec<OwnedFd>> {
        self.opened.iter().map(|(_, process)| process.pidfd().try_clone_to_owned()).collect()
    }

    /// Until it is asked to stop.
    pub(super) fn run(mut self, stop: &AtomicBool) -> Result<()> {
        for observer in &mut self.observers {
            observer.begin(&mut self.targets)?;
        }
        let mut next = Instant::now();
        let mut round = Round::default();
        while !stop.load(Ordering::Relaxed) {
            if Instant::now() < next {
                thread::sleep(TURN);
                continue;
            }
            next = Instant::now() + self.every;
            round.clear(self.targets.len());
            for index in 0..self.targets.len() {
                self.read(index, &mut round.news[index])?;
            }
            for observer in &mut self.observers {
                observer.round(&mut self.targets, &round)?;
            }
        }
        let ends: Vec<End> =
            round.news.iter().map(|news| End { until_ts: news.ts, ..End::default() }).collect();
        for observer in &mut self.observers {
            observer.end(&mut self.targets, &ends)?;
        }
        Ok(())
    }

    fn read(&mut self, index: usize, news: &mut News) -> Result<()> {
        let (opened, process) = &self.opened[index];
        let target = &mut self.targets[index];
        let memory = Live::of(process);
        let view = View { memory: &memory, binary: &opened.binary, bias: target.bias(), clock: Clock::Live };
        let snapshot = match read_all(&view, || Ok(()))? {
            Ok(snapshot) => snapshot,
            // It shows as it was last.
            Err(_) if !process.alive() => return Ok(()),
            Err(error) => return Err(error).with_context(|| format!("PID {}", process.pid())),
        };
        if !process.alive() {
            return Ok(());
        }
        let ended_ts = snapshot.taken_ns.1;
        let (snapshot, _) = Outside::new(None, true).take(&snapshot);
        // No events, but all up to the end of the reading: that is when a snapshot counts.
        let time = Batch { doubt_until: ended_ts, complete_until: ended_ts, ..Batch::default() };
        for input in [snapshot, Input::Events(time)] {
            target.take(&input, news);
            for observer in &mut self.observers {
                observer.input(index, &input, target)?;
            }
        }
        Ok(())
    }
}

/// What there is to know without probes.
fn about(pid: u32, opened: &Opened) -> About {
    let version = opened.binary.version();
    About {
        pid,
        exe: opened.name.display().to_string(),
        module: opened.binary.info().path.clone().unwrap_or_default(),
        go_version: version.raw.clone(),
        release: version.release,
        wait_reasons: opened.binary.wait_reasons().clone(),
        set: Set::B,
        mode: Mode::Poll,
        blind: Vec::new(),
        from_birth: false,
    }
}
