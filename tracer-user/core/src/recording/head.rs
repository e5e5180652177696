//! What a recording says of itself, as JSON: fields may be added, and are ignored by those who do not know them.

use crate::session::{About, End};
use serde::{Deserialize, Serialize};

/// The schema of both.
pub(super) const SCHEMA: &str = "sfgi.recording/1";

/// The first frame.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Head {
    /// `sfgi.recording/1`.
    pub schema: String,
    /// The version of sfgi that recorded it.
    pub sfgi: String,
    /// When the trace began, `CLOCK_MONOTONIC` nanoseconds: times are shown from here.
    pub start_ts: u64,
    /// The same by the wall clock, nanoseconds since 1970.
    pub start_unix_ns: i64,
    /// The kernel's release.
    pub kernel: String,
    /// Whether the threads' times on a CPU were recorded.
    pub threads: bool,
    /// The targets, in the order of their numbers.
    pub targets: Vec<About>,
}

impl Head {
    /// Of a trace that begins now; the targets are added by the [`super::Recorder`].
    pub fn new(start_ts: u64, start_unix_ns: i64, threads: bool) -> Head {
        Head {
            schema: SCHEMA.to_owned(),
            sfgi: env!("CARGO_PKG_VERSION").to_owned(),
            start_ts,
            start_unix_ns,
            kernel: rustix::system::uname().release().to_string_lossy().into_owned(),
            threads,
            targets: Vec::new(),
        }
    }
}

/// The frame behind the last inputs: how the trace of each target ended.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Tail {
    /// In the order of the targets.
    pub ends: Vec<End>,
}
