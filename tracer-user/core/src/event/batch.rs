//! Events in one piece, as one drain of the rings brings them.

use super::Event;

/// The events of one drain of the rings. Times are `CLOCK_MONOTONIC`, nanoseconds.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Batch {
    /// Events by time, oldest first.
    pub events: Vec<Event>,
    /// Events lost since the last drain.
    pub lost: u64,
    /// Reads of the target's memory that failed since the last drain.
    pub blurred: u64,
    /// With `lost` or `blurred`: what was learned from events up to this time is in doubt.
    pub doubt_until: u64,
    /// Everything up to this time has been delivered.
    pub complete_until: u64,
}

impl Batch {
    /// Adds what the next drain of the same rings has brought, and leaves it without events.
    pub fn append(&mut self, later: &mut Batch) {
        self.events.append(&mut later.events);
        self.lost += later.lost;
        self.blurred += later.blurred;
        (self.doubt_until, self.complete_until) = (later.doubt_until, later.complete_until);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_lost_and_blurred_in_any_drain_counts() {
        let drain = |lost, blurred, until| Batch {
            lost,
            blurred,
            doubt_until: until,
            complete_until: until,
            ..Batch::default()
        };
        let mut all = drain(1, 2, 10);
        all.append(&mut drain(0, 3, 20));
        all.append(&mut drain(4, 0, 30));
        assert_eq!(all, drain(5, 5, 30));
    }
}
