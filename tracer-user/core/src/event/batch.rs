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
