//! What the agent and its workers say to each other: frames over a socket pair, each a length and a value as postcard.
//!
//! A worker has read what a target says of itself, so the agent takes a frame for hostile: it is bounded before it is read,
//! and one that does not decode is the end of that worker.

use super::{prober::News, scan::Told, sweep::Changes, target::TargetSpec};
use crate::agent::{
    picture::Seen,
    request::{Form, Profile},
};
use serde::{Deserialize, Serialize, de::DeserializeOwned};
use sfgi_core::{event::Mode, goruntime::State};
use std::{
    ffi::CStr,
    io::{self, Read, Write},
    sync::Arc,
    time::Duration,
};
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};

/// Bytes of a frame: 200 groups of leaks with their evidence have about 2 MiB.
const MAX_FRAME: usize = 16 << 20;

/// What a worker is started for. It keeps the capabilities for that alone.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) enum Role {
    /// Finds Go processes; not in these, which hung earlier ones.
    Sweeper { skipped: Vec<i32> },
    /// Reads targets, one at a time.
    Reader,
    /// Runs the hook of an alert.
    Hook,
    /// Puts probes into targets, with so many bytes of heap memory.
    Prober { limit: u64 },
}

impl Role {
    /// The name of such a worker in `ps`.
    pub(crate) fn name(&self) -> &'static CStr {
        match self {
            Role::Sweeper { .. } => c"sfgi-sweeper",
            Role::Reader => c"sfgi-reader",
            Role::Hook => c"sfgi-hook",
            Role::Prober { .. } => c"sfgi-prober",
        }
    }
}

/// Why a target could not be looked at.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error, Serialize, Deserialize)]
pub(crate) enum Failure {
    #[error("it has ended")]
    Ended,
    /// By an `exec`: nothing that was read before holds for what it runs now.
    #[error("it has replaced its program")]
    Replaced,
    /// It did not fit into this many bytes.
    #[error("reading it takes more than the {} MiB that the agent has for one program: raise --memory", limit >> 20)]
    Exhausted { limit: u64 },
    #[error("its memory or its executable does not answer")]
    Hangs,
    /// All modes cost more than the budget allows.
    #[error("{0}")]
    TooDear(String),
    #[error("{0}")]
    Other(String),
}

/// What a reader is asked.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Job {
    pub(crate) target: Arc<TargetSpec>,
    /// Bytes of heap memory that the worker may hold while it does this.
    pub(crate) limit: u64,
    pub(crate) ask: Ask,
}

#[derive(Debug, Serialize, Deserialize)]
pub(crate) enum Ask {
    /// Read all goroutines. `kept`: what was known of the target, where this worker did not scan it last.
    Poll { kept: Option<Arc<[u8]>> },
    /// Read all goroutines and the heap.
    Look { kept: Option<Arc<[u8]>> },
    /// Send the goroutines as a document.
    Goroutines { filter: WireFilter, form: Form },
    /// Send a profile.
    Profile(Profile),
}

/// A [`crate::agent::request::Filter`] on its way; its expressions were compiled once, so they compile again.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct WireFilter {
    pub(crate) states: Vec<State>,
    pub(crate) reason: Option<String>,
    pub(crate) func: Option<String>,
    pub(crate) older: Duration,
    pub(crate) goids: Vec<u64>,
    pub(crate) system: bool,
    pub(crate) skip: usize,
    pub(crate) limit: usize,
}

/// What a reader says. After [`Said::End`] it waits for the next job.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) enum Said {
    /// It gets on with its job.
    Beat,
    /// A piece of a document.
    Chunk(Vec<u8>),
    /// `used`: bytes of heap memory that the worker holds now, with what it keeps for later jobs.
    End { end: End, used: u64 },
}

/// How a job ended.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) enum End {
    Told(Box<Told>),
    /// All chunks of the document were sent.
    Done,
    Failed(Failure),
}

/// What a sweeper is asked: to look at these again, which may run another program by now.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Again(pub(crate) Vec<i32>);

/// What a sweeper says.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) enum Sweeper {
    Swept(Swept),
    /// It ends, because a look at this process does not.
    Stuck(i32),
}

/// What a sweep found.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Swept {
    pub(crate) changes: Changes,
    pub(crate) seen: Seen,
    /// The first of its sweeper: everything is new to it, and what it does not name has ended.
    pub(crate) first: bool,
}

/// What a prober is asked. `number` names a session, never the same twice.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) enum ProbeAsk {
    /// Put probes into a target, and say what they tell in numbers.
    Watch { number: u64, target: Arc<TargetSpec>, mode: Mode, cores: f64 },
    /// Remove them.
    Stop { number: u64 },
    /// Follow a target for a time: the only thing that this worker does.
    Stream { target: Arc<TargetSpec>, what: Stream, cores: f64, seconds: Duration },
}

/// What is made of the events of a stream.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum Stream {
    /// JSON lines (`sfgi.trace/1`).
    Trace,
    /// A recording for `sfgi report`.
    Record,
    /// A profile of where goroutines block, as pprof reads it.
    Block,
}

/// What a prober says.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) enum ProbeSaid {
    News {
        number: u64,
        news: News,
    },
    /// The probes of the stream stand.
    StreamBegun,
    Chunk(Vec<u8>),
    /// The stream gets on although there is nothing to send.
    Beat,
    /// No probe is left; why, if it went wrong.
    StreamEnded(Option<Failure>),
}

/// Writes a frame.
///
/// # Errors
/// The other side is gone, or the value is too large for a frame.
pub(crate) fn send(to: &mut impl Write, message: &impl Serialize) -> io::Result<()> {
    to.write_all(&frame(message)?)
}

/// Reads a frame; `None`: the other side has ended.
///
/// # Errors
/// It ended within a frame, or this is none.
pub(crate) fn receive<T: DeserializeOwned>(from: &mut impl Read) -> io::Result<Option<T>> {
    let mut length = [0; 4];
    match from.read_exact(&mut length) {
        Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => return Ok(None),
        read => read?,
    }
    let mut bytes = vec![0; bounded(length)?];
    from.read_exact(&mut bytes)?;
    parse(&bytes).map(Some)
}

/// As [`send`].
pub(crate) async fn send_to(to: &mut (impl AsyncWrite + Unpin), message: &impl Serialize) -> io::Result<()> {
    to.write_all(&frame(message)?).await
}

/// As [`receive`], but the end is an error.
pub(crate) async fn receive_from<T: DeserializeOwned>(from: &mut (impl AsyncRead + Unpin)) -> io::Result<T> {
    let mut length = [0; 4];
    from.read_exact(&mut length).await?;
    let mut bytes = vec![0; bounded(length)?];
    from.read_exact(&mut bytes).await?;
    parse(&bytes)
}

/// A value as a frame.
pub(crate) fn frame(message: &impl Serialize) -> io::Result<Vec<u8>> {
    let mut bytes = postcard::to_extend(message, vec![0; 4]).map_err(io::Error::other)?;
    let length = bytes.len() - 4;
    let prefix = u32::try_from(length).ok().filter(|_| length <= MAX_FRAME);
    let prefix = prefix.ok_or_else(|| io::Error::other("too large for a frame"))?;
    bytes.iter_mut().zip(prefix.to_le_bytes()).for_each(|(byte, of)| *byte = of);
    Ok(bytes)
}

fn bounded(length: [u8; 4]) -> io::Result<usize> {
    let length = u32::from_le_bytes(length) as usize;
    if length > MAX_FRAME { Err(io::ErrorKind::InvalidData.into()) } else { Ok(length) }
}

fn parse<T: DeserializeOwned>(bytes: &[u8]) -> io::Result<T> {
    match postcard::take_from_bytes(bytes) {
        Ok((message, [])) => Ok(message),
        Ok(_) | Err(_) => Err(io::ErrorKind::InvalidData.into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_sent_is_received_and_nothing_else() {
        let mut bytes = Vec::new();
        send(&mut bytes, &Again(vec![1, -2])).unwrap();
        send(&mut bytes, &Again(Vec::new())).unwrap();
        let mut from = &bytes[..];
        assert_eq!(receive::<Again>(&mut from).unwrap().unwrap().0, [1, -2]);
        assert!(receive::<Again>(&mut from).unwrap().unwrap().0.is_empty());
        assert!(receive::<Again>(&mut from).unwrap().is_none());
        for end in 1..bytes.len() {
            let mut cut = &bytes[..end];
            // Cut at any byte, it is a frame less or an error.
            while let Ok(Some(_)) = receive::<Again>(&mut cut) {}
        }
        let huge = (MAX_FRAME as u32 + 1).to_le_bytes();
        assert!(receive::<Again>(&mut &huge[..]).is_err());
        let mut foreign = Vec::new();
        // As a list it would say that it has two million numbers.
        send(&mut foreign, &[u8::MAX; 3]).unwrap();
        assert!(receive::<Again>(&mut &foreign[..]).is_err());
    }
}
