//! What the core can be asked for. Each request carries the channel for its answer; the core does not care when
//! the receiver has gone.

use super::{Config, alert::hook::HookJob, picture::ProcessId};
use crate::output::graph::GraphFormat;
use bytes::Bytes;
use regex::Regex;
use serde::{Deserialize, Serialize};
use sfgi_core::{event::Mode, goruntime::State};
use std::{path::PathBuf, sync::Arc, time::Duration};
use tokio::sync::{mpsc, oneshot};

#[derive(Debug)]
pub enum Request {
    /// Scan and look at the heap now, whatever interval and budget say: callers must limit the rate
    /// (`Shared::may_trigger` in `serve/http`).
    TriggerScan {
        /// `None`: all targets.
        pid: Option<u32>,
        /// Sent when all of them have been scanned.
        answer: Answer<Scanned>,
    },
    /// Keep a target in this mode from now on, in place of what the rules say, within the budget.
    SetMode {
        pid: u32,
        /// `None`: the mode of the rules again.
        mode: Option<Mode>,
        /// Sent at once; [`super::picture::ProcessPicture::mode`] says later which mode the budget allowed.
        answer: Answer<()>,
    },
    /// Watch this target more closely for a while, within the budget, as `raise` of the configuration allows:
    /// an alert asks for more detail. A mode that [`Request::SetMode`] has set stays.
    Raise {
        process: ProcessId,
        /// Shown as [`super::picture::ProcessPicture::mode_reason`].
        why: String,
    },
    Profile {
        pid: u32,
        kind: Profile,
        /// The profile as gzip-compressed protobuf, as pprof reads it.
        answer: Answer<Bytes>,
    },
    /// Read the target's goroutines now.
    Goroutines { pid: u32, filter: Filter, form: Form, answer: Answer<Bytes> },
    /// Stream the target's events as JSON lines (`sfgi.trace/1`).
    Trace {
        pid: u32,
        /// The longest duration; the stream ends earlier when the receiver is dropped or the target ends.
        seconds: Duration,
        /// Sent when the probes stand. Each chunk has whole lines; the channel is closed at the end.
        answer: Answer<mpsc::Receiver<Bytes>>,
    },
    /// Record the target's events into a file, for `sfgi report`.
    Record {
        pid: u32,
        seconds: Duration,
        /// Must not exist yet.
        file: PathBuf,
        /// The file's size in bytes, sent when the file is complete.
        answer: Answer<u64>,
    },
    /// Run the hook of an alert.
    RunHook {
        job: HookJob,
        /// Sent when it has ended.
        answer: Answer<()>,
    },
    /// Go on with another configuration; nothing that is known of targets is lost.
    Reload(Arc<Config>),
    /// End: remove all probes.
    Stop,
}

/// The longest document or profile, bytes: ten thousand goroutines with deep stacks. The server makes it whole before it
/// sends it.
pub const MAX_DOCUMENT: usize = 16 << 20;

/// The channel for the answer to one request.
pub type Answer<T> = oneshot::Sender<Result<T, Refusal>>;

/// Why the core does not do what was asked.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// No target has this PID.
    #[error("no Go process with PID {0} is watched")]
    Unknown(u32),
    #[error("PID {0} has ended")]
    Ended(u32),
    /// As many do the same already, or it would go beyond the budget.
    #[error("{0}")]
    Busy(String),
    /// The document would be longer than any may be.
    #[error("the answer has more than {} MiB: ask for less at a time", MAX_DOCUMENT >> 20)]
    TooLarge,
    /// The target cannot be read or probed for it.
    #[error("{0}")]
    Failed(String),
}

/// The sum over all targets that a [`Request::TriggerScan`] was about.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Scanned {
    /// Goroutines that were judged, whatever the verdict.
    pub scanned: u64,
    /// Goroutines with a verdict of `likely` or `proven`.
    pub leaked: u64,
}

/// Profiles, by their names in `net/http/pprof`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Profile {
    /// `goroutine`: all goroutines, by stack.
    Goroutines,
    /// `goroutineleak`: goroutines with a verdict of `likely` or `proven`, by a look at the heap now.
    Leaks,
    /// `block`: time blocked by stack, from now on for this long. Needs probes.
    Block(Duration),
}

/// The format of a document about goroutines.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Form {
    /// The schema `sfgi.dump/1`, each goroutine by itself.
    Json,
    /// The schema `sfgi.dump/1`, with goroutines of the same stack as one of its `groups`.
    JsonGroups,
    /// A traceback in the runtime's own format.
    Text,
    /// Who waits for whom: the schema `sfgi.graph/1`, or another language.
    Graph(GraphFormat),
}

/// Which goroutines a document has: all conditions must hold.
#[derive(Clone, Debug, Default)]
pub struct Filter {
    /// Empty: any.
    pub states: Vec<State>,
    pub reason: Option<Regex>,
    /// Matches a function on the stack, or the creator.
    pub func: Option<Regex>,
    /// The shortest wait, as the runtime counts it.
    pub older: Duration,
    /// Empty: any.
    pub goids: Vec<u64>,
    /// Include the runtime's own goroutines.
    pub system: bool,
    /// Number of goroutines or groups to leave out at the beginning: pages.
    pub skip: usize,
    /// At most this many goroutines or groups; 0: 1,000 (`LIMIT` in `core/answer.rs`).
    pub limit: usize,
}
