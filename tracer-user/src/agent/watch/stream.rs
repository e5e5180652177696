//! One target followed for a time: a stream of its events, a recording, a profile of where it blocks. Probes stand
//! meanwhile, in the closest mode that the budget allows; where it allows none, that is refused.

use super::{
    attach::{Attached, Ceiling, Refused, attach, calibration},
    prober::Server,
    scan::unix_ns,
    target::{Binaries, Target, TargetSpec},
    wire::{Failure, ProbeSaid, Stream},
};
use crate::{
    live::{Engine, Observers},
    output::{
        Json, Printer,
        stacks::{Form, Kind, Span, Stacks, Wanted},
    },
};
use sfgi_core::{
    clock,
    event::Mode,
    model::Whats,
    names::Filter,
    recording::{Head, Keep, Recorder, Trigger},
};
use std::{
    io::{self, Write},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
        mpsc::{Receiver, RecvTimeoutError, SyncSender, TrySendError, sync_channel},
    },
    thread,
    time::{Duration, Instant},
};

/// The longest that one request may last, whatever it asks for.
const LONGEST: Duration = Duration::from_secs(600);
/// The time between two drains of the rings, and between two beats while there is nothing to send.
const EVERY: Duration = Duration::from_millis(10);
const BEAT: Duration = Duration::from_millis(500);
/// For a slow client: pieces that wait to be sent, and bytes that are buffered behind them. Beyond both the stream
/// ends, because the tracing thread must not wait and the memory of this worker is bounded.
const PIECES: usize = 64;
const BEHIND: usize = 4 << 20;

/// Follows a target until the time is over or it has ended. All that it makes goes to the server in pieces.
///
/// # Errors
/// No probes could be attached, or the stream ended early.
pub(super) fn run(
    target: Arc<TargetSpec>,
    binaries: Arc<Binaries>,
    what: Stream,
    ceiling: Ceiling,
    seconds: Duration,
    server: &Server,
) -> Result<(), Failure> {
    let target = Target::open_process(target, binaries)?;
    let (wanted, least, callers) = match what {
        Stream::Trace => (Mode::Full, Mode::Life, false),
        Stream::Record => (Mode::Full, Mode::Life, true),
        Stream::Block => (Mode::Wait, Mode::Wait, true),
    };
    let attached = attach(&target, wanted, least, ceiling, callers).map_err(|refused| match refused {
        Refused::TooDear(reason) => Failure::TooDear(format!(
            "{reason}; a larger budget, or sfgi trace -p {}, does it anyway",
            target.pid()
        )),
        refused => refused.into(),
    })?;
    let (sender, pieces) = sync_channel(PIECES);
    let out = Pieces {
        sender,
        buffer: Vec::new(),
        behind: if what == Stream::Trace { BEHIND } else { usize::MAX },
    };
    let observers: Observers = match what {
        Stream::Trace => {
            let filter =
                Filter { events: Whats::ALL, goids: Vec::new(), func: None, min_ns: 0, stacks_ns: None };
            vec![Box::new(Printer::new(Box::new(Json::new(out)), filter, false))]
        }
        Stream::Record => {
            let mut first = Some(out);
            let outputs = move || {
                let out = first.take().ok_or_else(|| io::Error::other("a recording is one file"))?;
                Ok(Box::new(out) as Box<dyn Write + Send>)
            };
            let head = Head::new(clock::now(), i64::try_from(unix_ns()).unwrap_or(0), false);
            let trigger = Trigger { asked: Arc::default(), on_finding: false };
            let recorder = Recorder::new(head, Keep::All, trigger, Box::new(outputs));
            vec![Box::new(recorder.map_err(|error| Failure::Other(error.to_string()))?)]
        }
        Stream::Block => {
            let span = Span { from_ts: clock::now(), to_ts: u64::MAX };
            let wanted = Wanted {
                kind: Kind::Blocked,
                span,
                pid: None,
                reason: None,
                system: false,
                by_creator: false,
            };
            let time_ns = i64::try_from(unix_ns()).unwrap_or(0);
            vec![Box::new(Stacks::new(out, Form::Pprof, wanted, time_ns))]
        }
    };
    // A server that is gone ends this process; nothing else is to be done here.
    let _ = server.say(&ProbeSaid::StreamBegun);
    follow(&target, attached, observers, seconds, pieces, server)
}

fn follow(
    target: &Target,
    attached: Attached,
    observers: Observers,
    seconds: Duration,
    pieces: Receiver<Vec<u8>>,
    server: &Server,
) -> Result<(), Failure> {
    let calibration = calibration().map_err(|error| Failure::Other(error.to_string()))?;
    let Attached { live, state, counting: _counting, .. } = attached;
    let engine = Engine::new(vec![(live, state)], observers, calibration, EVERY).quiet();
    let (stop, until) = (AtomicBool::new(false), Instant::now() + seconds.min(LONGEST));
    // Two threads: the engine drains and must not wait for the server, this one sends.
    let result = thread::scope(|scope| {
        let drained = scope.spawn(|| engine.run(&stop));
        let mut beat = Instant::now();
        loop {
            let sent = match pieces.recv_timeout(EVERY) {
                Ok(piece) => server.say(&ProbeSaid::Chunk(piece)),
                // The engine has ended, and dropped what writes.
                Err(RecvTimeoutError::Disconnected) => break,
                Err(RecvTimeoutError::Timeout) if beat.elapsed() >= BEAT => {
                    beat = Instant::now();
                    server.say(&ProbeSaid::Beat)
                }
                Err(RecvTimeoutError::Timeout) => Ok(()),
            };
            if sent.is_err() || Instant::now() >= until || !target.process.alive() {
                stop.store(true, Ordering::Relaxed);
            }
        }
        drained.join()
    });
    match result {
        Ok(Ok(())) => Ok(()),
        Ok(Err(error)) => Err(Failure::Other(format!("{error:#}"))),
        Err(_) => Err(Failure::Other("following it failed inside sfgi, which is a bug".to_owned())),
    }
}

/// Writes in pieces to the thread that sends, and never waits for it while it is behind by less than it may be.
struct Pieces {
    sender: SyncSender<Vec<u8>>,
    buffer: Vec<u8>,
    /// Bytes that may be buffered; a document, which is written when nothing is drained any more, has no bound but its own.
    behind: usize,
}

/// Bytes of a piece at most: a frame has room for many.
const PIECE: usize = 1 << 20;

impl Write for Pieces {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.buffer.extend_from_slice(bytes);
        if self.behind == usize::MAX && self.buffer.len() >= PIECE {
            self.flush()?;
        }
        Ok(bytes.len())
    }

    /// Sends what was written. A stream of lines is flushed only behind whole lines, so that no piece ends within one.
    fn flush(&mut self) -> io::Result<()> {
        if self.buffer.is_empty() {
            return Ok(());
        }
        let piece = std::mem::take(&mut self.buffer);
        match self.sender.try_send(piece) {
            Ok(()) => Ok(()),
            Err(TrySendError::Disconnected(_)) => Err(io::ErrorKind::BrokenPipe.into()),
            Err(TrySendError::Full(piece)) if piece.len() > self.behind => {
                Err(io::Error::other("the client reads too slowly"))
            }
            Err(TrySendError::Full(piece)) => {
                self.buffer = piece;
                Ok(())
            }
        }
    }
}

impl Drop for Pieces {
    /// What could not be sent before is waited for: nothing is drained any more.
    fn drop(&mut self) {
        for piece in self.buffer.chunks(PIECE) {
            let _ = self.sender.send(piece.to_vec());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_client_that_is_slow_gets_its_lines_later_and_one_that_stops_ends_the_stream() {
        let (sender, receiver) = sync_channel(1);
        let mut lines = Pieces { sender, buffer: Vec::new(), behind: BEHIND };
        for line in ["a\n", "b\n", "c\n"] {
            lines.write_all(line.as_bytes()).unwrap();
            lines.flush().unwrap();
        }
        assert_eq!(receiver.try_recv().unwrap(), b"a\n");
        lines.flush().unwrap();
        assert_eq!(receiver.try_recv().unwrap(), b"b\nc\n");
        lines.write_all(b"d\n").unwrap();
        lines.flush().unwrap();
        lines.write_all(&vec![b'x'; BEHIND + 1]).unwrap();
        assert!(lines.flush().is_err());
        drop(receiver);
        assert_eq!(
            lines.write_all(b"e\n").and_then(|()| lines.flush()).unwrap_err().kind(),
            io::ErrorKind::BrokenPipe
        );
    }
}
