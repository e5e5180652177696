//! What happened in one go.

use crate::model::{Merged, Step};

/// What happened in one go, by target.
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
    /// What a snapshot changed, when it was taken to see how things stand after a loss.
    pub resync: Option<Merged>,
    /// When this was known, `CLOCK_MONOTONIC` nanoseconds; 0: nothing came.
    pub ts: u64,
}

impl Round {
    /// Begins a round of so many targets.
    pub fn clear(&mut self, targets: usize) {
        self.news.resize_with(targets, News::default);
        for news in &mut self.news {
            news.steps.clear();
            (news.lost, news.resync, news.ts) = (0, None, 0);
        }
    }

    /// Whether nothing came.
    pub fn is_empty(&self) -> bool {
        self.news.iter().all(|news| news.steps.is_empty() && news.lost == 0 && news.resync.is_none())
    }

    /// The steps with the number of their target; those of several targets by time.
    pub fn steps(&self) -> impl Iterator<Item = (usize, &Step)> {
        let all = || {
            self.news.iter().enumerate().flat_map(|(at, news)| news.steps.iter().map(move |step| (at, step)))
        };
        let several = self.news.iter().filter(|news| !news.steps.is_empty()).count() > 1;
        let mut sorted: Vec<(usize, &Step)> = if several { all().collect() } else { Vec::new() };
        sorted.sort_by_key(|(_, step)| step.ts);
        sorted.into_iter().chain((!several).then(all).into_iter().flatten())
    }
}
