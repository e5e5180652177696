//! What may be asked of the agent. Each request carries the way back; one who has gone away meanwhile is not waited for.

use super::{Config, picture::ProcessId};
use bytes::Bytes;
use regex::Regex;
use serde::Serialize;
use sfgi_core::{event::Mode, goruntime::State};
use std::{path::PathBuf, sync::Arc, time::Duration};
use tokio::sync::{mpsc, oneshot};

#[derive(Debug)]
pub enum Request {
    /// Scan now, and look for leaks, whatever the interval says. The budget is not asked either: limit the rate.
    TriggerScan {
        /// This process; `None`: all.
        pid: Option<u32>,
        /// Answered when all have been scanned.
        answer: Answer<Scanned>,
    },
    /// Watch a process more or less closely from now on, in place of what the rules say.
    SetMode {
        pid: u32,
        /// How closely; `None`: as the rules say again.
        mode: Option<Mode>,
        /// That it was noted: see [`super::picture::ProcessPicture::mode`] for what became of it.
        answer: Answer<()>,
    },
    /// Watch this process more closely for a while, within the budget, as the configuration has it: an alert asks for more detail.
    /// A mode that was set by [`Request::SetMode`] stays.
    Raise {
        process: ProcessId,
        /// Why, in a few words.
        why: String,
    },
    Profile {
        pid: u32,
        kind: Profile,
        /// The profile, as pprof reads it (compressed).
        answer: Answer<Bytes>,
    },
    /// Read its goroutines now.
    Goroutines { pid: u32, filter: Filter, form: Form, answer: Answer<Bytes> },
    /// Stream what its goroutines do, as JSON lines (`sfgi.trace/1`).
    Trace {
        pid: u32,
        /// For how long; it ends earlier when the receiver is dropped, or the process ends.
        seconds: Duration,
        /// Chunks of whole lines; the trace has ended when the channel is closed.
        answer: Answer<mpsc::Receiver<Bytes>>,
    },
    /// Record what its goroutines do into a file, for `sfgi report`.
    Record {
        pid: u32,
        seconds: Duration,
        /// A file that is not there yet.
        file: PathBuf,
        /// Answered when the file is complete: its size.
        answer: Answer<u64>,
    },
    /// Go on by another configuration.
    Reload(Arc<Config>),
    /// End: remove all probes, answer what can be answered.
    Stop,
}

/// The way back.
pub type Answer<T> = oneshot::Sender<Result<T, Refusal>>;

/// Why there is no answer.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// No such process is watched.
    #[error("no Go process with PID {0} is watched")]
    Unknown(u32),
    #[error("PID {0} has ended")]
    Ended(u32),
    /// Too much of it is done already, or it would cost too much.
    #[error("{0}")]
    Busy(String),
    /// It cannot be done with this process.
    #[error("{0}")]
    Failed(String),
}

/// What a triggered scan found.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Scanned {
    /// Goroutines that were judged.
    pub scanned: u64,
    /// Those with a verdict of `likely` or `proven`.
    pub leaked: u64,
}

/// Profiles, by the names that `net/http/pprof` gives them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Profile {
    /// `goroutine`: all of them by stack.
    Goroutines,
    /// `goroutineleak`: those with a verdict of `likely` or `proven`, as a look at the heap finds them now.
    Leaks,
    /// `block`: how long goroutines were blocked, by stack, from now on for so long. It needs probes.
    Block(Duration),
}

/// The form of a document.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Form {
    /// `sfgi.dump/1`.
    Json,
    /// `sfgi.dump/1` with `groups`.
    JsonGroups,
    /// A traceback as the runtime's own.
    Text,
}

/// Which goroutines; everything that is set must hold.
#[derive(Clone, Debug, Default)]
pub struct Filter {
    /// In one of these states; empty: any.
    pub states: Vec<State>,
    /// Their wait reason matches.
    pub reason: Option<Regex>,
    /// A function on their stack matches, or the one that created them.
    pub func: Option<Regex>,
    /// They have been waiting for at least so long, as the runtime counts it.
    pub older: Duration,
    /// With these ids; empty: any.
    pub goids: Vec<u64>,
    /// The runtime's own too.
    pub system: bool,
    /// Leave out so many of the first.
    pub skip: usize,
    /// At most so many goroutines, or groups; 0: 1000.
    pub limit: usize,
}
