//! The picture of one moment of a recording: what `sfgi report --top` shows.

use super::{Look, Picture, Query, Screen, Source, Top, text};
use sfgi_core::session::{End, Input, Observer, Round, Target};
use std::io;

/// Adds up a recording until a time, and keeps the picture of that moment. Inputs reach a target before their round,
/// so the picture may already show changes between that time and the next event of the recording.
pub struct Frozen {
    top: Top,
    query: Query,
    every_ns: u64,
    at_ts: u64,
    picture: Option<Picture>,
}

impl Frozen {
    /// `at_ts`: the time, `CLOCK_MONOTONIC` nanoseconds as the events have it (`u64::MAX`: the end). `every_ns`: length
    /// of an interval.
    pub fn new(source: Source, query: Query, every_ns: u64, at_ts: u64) -> Frozen {
        Frozen { top: Top::new(source), query, every_ns: every_ns.max(1), at_ts, picture: None }
    }

    /// The picture; `None` until `at_ts` has passed or the recording has ended.
    pub fn picture(&self) -> Option<&Picture> {
        self.picture.as_ref()
    }

    /// The picture as lines of text, as a terminal of this size would show it.
    pub fn text(&self, screen: &Screen, width: u16, height: u16) -> Option<String> {
        Some(text(self.picture()?, screen, &Look::default(), width, height))
    }

    fn freeze(&mut self, targets: &mut [Target], ts: u64) {
        self.top.close(targets, ts, self.every_ns);
        self.picture = Some(self.top.picture(targets, &self.query));
    }
}

impl Observer for Frozen {
    fn begin(&mut self, targets: &mut [Target]) -> io::Result<()> {
        self.top.begin(targets)
    }

    fn input(&mut self, index: usize, input: &Input, target: &mut Target) -> io::Result<()> {
        if self.picture.is_some() { Ok(()) } else { self.top.input(index, input, target) }
    }

    fn round(&mut self, targets: &mut [Target], round: &Round) -> io::Result<()> {
        if self.picture.is_some() {
            return Ok(());
        }
        let ts = round.news.iter().map(|news| news.ts).max().unwrap_or(0);
        // This round is the first behind `at_ts`: its steps must not be added up. Before the first round there is no
        // interval to close, so that one is taken in any case.
        if ts > self.at_ts && self.top.interval_ts() != 0 {
            self.freeze(targets, self.at_ts.max(self.top.interval_ts()));
            return Ok(());
        }
        self.top.round(targets, round)?;
        if ts >= self.top.interval_ts().saturating_add(self.every_ns) && ts != self.at_ts {
            self.top.tick(targets, ts);
        }
        Ok(())
    }

    fn end(&mut self, targets: &mut [Target], ends: &[End]) -> io::Result<()> {
        self.top.end(targets, ends)?;
        if self.picture.is_none() {
            let until_ts = ends.iter().map(|end| end.until_ts).max().unwrap_or(0);
            self.freeze(targets, until_ts.min(self.at_ts).max(self.top.interval_ts()));
        }
        Ok(())
    }
}
