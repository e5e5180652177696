//! The part of a trace that counts.

use std::time::Duration;

/// The part of a trace that counts, from its beginning on.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Window {
    /// Where it begins.
    pub from: Duration,
    /// Where it ends; `None`: where the trace does.
    pub to: Option<Duration>,
}

/// The same, `CLOCK_MONOTONIC` nanoseconds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Span {
    pub(super) from_ts: u64,
    pub(super) to_ts: u64,
}

impl Window {
    /// Where it lies in a trace that began at this time.
    pub(super) fn since(self, began_ts: u64) -> Span {
        let at =
            |offset: Duration| began_ts.saturating_add(u64::try_from(offset.as_nanos()).unwrap_or(u64::MAX));
        Span { from_ts: at(self.from), to_ts: self.to.map_or(u64::MAX, at) }
    }
}

impl Span {
    /// Whether this moment is in it.
    pub(super) fn has(self, ts: u64) -> bool {
        (self.from_ts..=self.to_ts).contains(&ts)
    }

    /// How much of the time between the two is in it; `None`: nothing.
    pub(super) fn part(self, began_ts: u64, ended_ts: u64) -> Option<u64> {
        (began_ts <= self.to_ts && ended_ts >= self.from_ts)
            .then(|| ended_ts.min(self.to_ts).saturating_sub(began_ts.max(self.from_ts)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_reaches_over_an_edge_counts_in_part() {
        let span = Span { from_ts: 100, to_ts: 200 };
        let cases = [
            ((110, 120), Some(10)),
            ((50, 120), Some(20)),
            ((150, 900), Some(50)),
            ((0, 900), Some(100)),
            ((0, 99), None),
            ((201, 300), None),
        ];
        for ((began_ts, ended_ts), part) in cases {
            assert_eq!(span.part(began_ts, ended_ts), part, "{began_ts}–{ended_ts}");
        }
    }
}
