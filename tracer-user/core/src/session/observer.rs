//! Rounds, and the observers that are told of them: what shows, counts, converts.

use super::{Input, Target};
use crate::leaks::Turn;
use crate::model::{Merged, Step, Whats};
use serde::{Deserialize, Serialize};
use std::io;

/// What happened in one round, by target.
#[derive(Debug, Default)]
pub struct Round {
    /// In the order of the targets.
    pub news: Vec<News>,
}

/// What happened to one target.
#[derive(Debug, Default)]
pub struct News {
    /// What its goroutines did, nearly by time.
    pub steps: Vec<Step>,
    /// Events that were lost before these.
    pub lost: u64,
    /// What a snapshot changed that was taken after a loss; `None`: none was merged in this round.
    pub resync: Option<Merged>,
    /// Rings of goroutines that wait for each other, as they are found.
    pub deadlocks: Vec<Deadlock>,
    /// When this was known, `CLOCK_MONOTONIC` nanoseconds; 0: nothing came in.
    pub ts: u64,
}

/// Goroutines that wait for each other in a ring: none goes on unless another one does.
#[derive(Clone, Debug)]
pub struct Deadlock {
    /// The class that [`crate::leaks`] gives such a ring, and what it is called.
    pub class: String,
    pub title: String,
    /// Each member's wait, and who could end it.
    pub members: Vec<Member>,
    /// When the last of them began to wait, `CLOCK_MONOTONIC` nanoseconds; `None`: before the trace.
    pub since_ts: Option<u64>,
    /// When it was found out, on the same clock.
    pub found_ts: u64,
}

/// A goroutine of a [`Deadlock`].
#[derive(Clone, Debug)]
pub struct Member {
    pub turn: Turn,
    /// The last things that it did, the oldest first: few, and none where it waited before the trace.
    pub last: Vec<Step>,
}

impl Round {
    /// Empties the round for the next one, of so many targets; keeps the allocations.
    pub fn clear(&mut self, targets: usize) {
        self.news.resize_with(targets, News::default);
        for news in &mut self.news {
            news.steps.clear();
            news.deadlocks.clear();
            (news.lost, news.resync, news.ts) = (0, None, 0);
        }
    }

    pub fn is_empty(&self) -> bool {
        self.news.iter().all(|news| {
            news.steps.is_empty() && news.lost == 0 && news.resync.is_none() && news.deadlocks.is_empty()
        })
    }

    /// The steps with the number of their target; those of several targets by time.
    pub fn steps(&self) -> impl Iterator<Item = (usize, &Step)> {
        let all = || {
            self.news.iter().enumerate().flat_map(|(at, news)| news.steps.iter().map(move |step| (at, step)))
        };
        // The steps of a single target are taken as they are, without a copy.
        let several = self.news.iter().filter(|news| !news.steps.is_empty()).count() > 1;
        let mut sorted: Vec<(usize, &Step)> = if several { all().collect() } else { Vec::new() };
        sorted.sort_by_key(|(_, step)| step.ts);
        sorted.into_iter().chain((!several).then(all).into_iter().flatten())
    }
}

/// Receives everything that happens, live or from a recording: `begin`, then for each round its inputs and `round`,
/// then `end`.
pub trait Observer {
    /// The kinds of steps it uses; other kinds may come all the same.
    fn wants(&self) -> Whats {
        Whats::ALL
    }

    /// Before the first round.
    ///
    /// # Errors
    /// Those of its output; nothing more is told then.
    fn begin(&mut self, targets: &mut [Target]) -> io::Result<()> {
        let _ = targets;
        Ok(())
    }

    /// What came in of the target with this number, after `target` has taken it and before the round that it belongs
    /// to; only if it changed anything.
    ///
    /// # Errors
    /// Those of its output.
    fn input(&mut self, index: usize, input: &Input, target: &mut Target) -> io::Result<()> {
        let _ = (index, input, target);
        Ok(())
    }

    /// What happened in one round; the targets are in the state right behind it.
    ///
    /// # Errors
    /// Those of its output.
    fn round(&mut self, targets: &mut [Target], round: &Round) -> io::Result<()>;

    /// After the last round.
    ///
    /// # Errors
    /// Those of its output.
    fn end(&mut self, targets: &mut [Target], ends: &[End]) -> io::Result<()>;
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
