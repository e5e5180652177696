//! The part of a trace that counts.

/// The part of a trace that counts: from one time to another, `CLOCK_MONOTONIC` nanoseconds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Span {
    /// Where it begins.
    pub from_ts: u64,
    /// Where it ends.
    pub to_ts: u64,
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
