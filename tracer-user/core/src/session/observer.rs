//! Who is told what happened: whatever shows, counts, converts.

use super::{Followed, Input, Round};
use crate::model::Whats;
use serde::{Deserialize, Serialize};
use std::io;

/// Someone who is told everything that happens, live or from a recording.
pub trait Observer {
    /// The steps that are of use; others may be told all the same.
    fn wants(&self) -> Whats {
        Whats::ALL
    }

    /// Before the first round.
    ///
    /// # Errors
    /// Those of its output; nothing more is told then.
    fn begin(&mut self, targets: &mut [Followed]) -> io::Result<()> {
        let _ = targets;
        Ok(())
    }

    /// What came in of the target with this number; told when `followed` has taken it, before the round it
    /// belongs to, and only if it changed anything.
    ///
    /// # Errors
    /// Those of its output.
    fn input(&mut self, target: usize, input: &Input, followed: &mut Followed) -> io::Result<()> {
        let _ = (target, input, followed);
        Ok(())
    }

    /// What happened in one go; the targets are as they were right behind it.
    ///
    /// # Errors
    /// Those of its output.
    fn round(&mut self, targets: &mut [Followed], round: &Round) -> io::Result<()>;

    /// After the last round.
    ///
    /// # Errors
    /// Those of its output.
    fn end(&mut self, targets: &mut [Followed], ends: &[End]) -> io::Result<()>;
}

/// How the trace of one target ended.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct End {
    /// Up to when its events count, `CLOCK_MONOTONIC` nanoseconds.
    pub until_ts: u64,
    /// Events lost, all in all.
    pub lost: u64,
    /// Why it ended; `None`: the target lives, or ended itself.
    pub why: Option<String>,
    /// What the trace cost and what it missed, in a sentence or two.
    pub closing: String,
}
