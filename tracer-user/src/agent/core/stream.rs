//! Requests that follow one target for a time: a stream of its events, a recording, a profile of where it blocks.
//! Probes stand meanwhile, in the closest mode that the budget allows; if it allows none, the request is refused.

use crate::{
    agent::{
        request::{Answer, Refusal},
        watch::{Attached, Ceiling, Refused, Target, attach, calibration, scan::unix_ns},
    },
    files,
    live::{Engine, Observers},
    output::{
        Json, Printer,
        stacks::{Form, Kind, Span, Stacks, Wanted},
    },
};
use bytes::Bytes;
use sfgi_core::{
    clock,
    event::Mode,
    model::Whats,
    names::Filter,
    recording::{Head, Keep, Recorder, Trigger},
};
use std::{
    io::{self, Write},
    path::Path,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    thread,
    time::{Duration, Instant},
};
use tokio::sync::mpsc;

/// The most requests of this kind at the same time: each takes a thread, rings and probes of its own.
const MOST: usize = 4;
/// The most recordings for alerts, as many as `alert/act.rs` begins. They have places of their own: what clients trace
/// must not keep evidence from being taken.
const MOST_OF_ALERTS: usize = 4;
/// The longest that one request may last, whatever it asks for.
const LONGEST: Duration = Duration::from_secs(600);
/// The time between two drains of the rings, and between two questions whether the stream is over.
const EVERY: Duration = Duration::from_millis(10);
const ASK: Duration = Duration::from_millis(50);
/// For a slow client: chunks of lines that the channel holds, and bytes that are buffered behind it. Beyond both the
/// stream ends, because the tracing thread must not wait and our memory is bounded.
const CHUNKS: usize = 64;
const BEHIND: usize = 4 << 20;

static STREAMS: AtomicUsize = AtomicUsize::new(0);
static OF_ALERTS: AtomicUsize = AtomicUsize::new(0);

/// A place that a counter counts. Dropping it gives the place back.
struct Place(&'static AtomicUsize);

impl Place {
    fn take(counter: &'static AtomicUsize, most: usize) -> Result<Place, Refusal> {
        let place = Place(counter);
        // `place` exists before the count is known: dropping it on the way out takes back what `fetch_add` added.
        if counter.fetch_add(1, Ordering::Relaxed) < most {
            return Ok(place);
        }
        Err(Refusal::Busy(format!("{most} processes are followed already: try again later")))
    }

    /// For a client.
    fn of_requests() -> Result<Place, Refusal> {
        Place::take(&STREAMS, MOST)
    }

    /// For the evidence of an alert.
    fn of_alerts() -> Result<Place, Refusal> {
        Place::take(&OF_ALERTS, MOST_OF_ALERTS)
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

/// What a stream may cost, and how long it may last.
#[derive(Clone, Copy)]
pub(super) struct Limits {
    pub(super) ceiling: Ceiling,
    pub(super) seconds: Duration,
}

/// Streams events as JSON lines. The answer, a channel of them, is sent when the probes stand.
pub(super) fn trace(target: Arc<Target>, limits: Limits, answer: Answer<mpsc::Receiver<Bytes>>) {
    spawn(answer, move |answer| {
        // The place before anything is attached: probes cost the target.
        let begun = Place::of_requests()
            .and_then(|place| Ok((place, begin(&target, Mode::Full, Mode::Life, limits, false)?)));
        let (_place, attached) = match begun {
            Ok(begun) => begun,
            Err(refusal) => return drop(answer.send(Err(refusal))),
        };
        let (sender, receiver) = mpsc::channel(CHUNKS);
        let closed = sender.clone();
        let filter = Filter { events: Whats::ALL, goids: Vec::new(), func: None, min_ns: 0, stacks_ns: None };
        let sink = Box::new(Json::new(Lines { sender, buffer: Vec::new() }));
        let observers: Observers = vec![Box::new(Printer::new(sink, filter, false))];
        if answer.send(Ok(receiver)).is_err() {
            return;
        }
        // The answer has been sent, so an error can only end the stream early; a client that went away is none.
        if let Err(err) = run(&target, attached, observers, limits, &|| closed.is_closed()) {
            log::debug!("PID {}: a stream ended early: {err}", target.pid());
        }
    });
}

/// Records into a file that must not exist yet. The answer, its length, is sent when the recording is complete.
pub(super) fn record(target: Arc<Target>, limits: Limits, file: Box<Path>, answer: Answer<u64>) {
    spawn(answer, move |answer| {
        let made = (|| {
            let _place = Place::of_alerts()?;
            let attached = begin(&target, Mode::Full, Mode::Life, limits, true)?;
            let cannot = |err: io::Error| Refusal::Failed(format!("cannot write {}: {err}", file.display()));
            // A request must not overwrite a file, nor follow a symbolic link.
            let out = files::create_new(&file).map_err(cannot)?;
            let mut first = Some(out);
            let outputs = move || {
                let file = first.take().ok_or_else(|| io::Error::other("a recording is one file"))?;
                Ok(Box::new(file) as Box<dyn Write + Send>)
            };
            let head = Head::new(clock::now(), i64::try_from(unix_ns()).unwrap_or(0), false);
            let trigger = Trigger { asked: Arc::default(), on_finding: false };
            let recorder = Recorder::new(head, Keep::All, trigger, Box::new(outputs)).map_err(cannot)?;
            run(&target, attached, vec![Box::new(recorder)], limits, &|| false)?;
            Ok(file.metadata().map_err(cannot)?.len())
        })();
        let _ = answer.send(made);
    });
}

/// Makes a profile of where the goroutines block from now on. The answer, a pprof file, is sent at the end.
pub(super) fn block_profile(target: Arc<Target>, limits: Limits, answer: Answer<Bytes>) {
    spawn(answer, move |answer| {
        let made = (|| {
            let _place = Place::of_requests()?;
            let attached = begin(&target, Mode::Wait, Mode::Wait, limits, true)?;
            let out = Shared::default();
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
            let stacks = Stacks::new(out.clone(), Form::Pprof, wanted, time_ns);
            run(&target, attached, vec![Box::new(stacks)], limits, &|| false)?;
            let bytes = std::mem::take(&mut *out.0.lock().unwrap_or_else(PoisonError::into_inner));
            Ok(Bytes::from(bytes))
        })();
        let _ = answer.send(made);
    });
}

/// Runs `work` on a thread of its own: it lasts for minutes and would keep a thread of the pool from scans.
fn spawn<T: Send + 'static>(answer: Answer<T>, work: impl FnOnce(Answer<T>) + Send + 'static) {
    // Without a thread the sender is dropped, and the receiver sees that nothing will come.
    if let Err(err) = thread::Builder::new().name("stream".to_owned()).spawn(move || work(answer)) {
        log::error!("no thread can be started to follow a process with: {err}");
    }
}

fn begin(
    target: &Target,
    wanted: Mode,
    least: Mode,
    limits: Limits,
    callers: bool,
) -> Result<Attached, Refusal> {
    attach(target, wanted, least, limits.ceiling, callers).map_err(|refused| match refused {
        Refused::TooDear(reason) => Refusal::Busy(format!(
            "{reason}; a larger budget, or sfgi trace -p {}, does it anyway",
            target.pid()
        )),
        refused @ (Refused::Calibration(_) | Refused::Target(_) | Refused::Probes(_)) => {
            Refusal::Failed(refused.to_string())
        }
    })
}

/// Follows the target until the time is over, the process has ended, or `over` returns true.
fn run(
    target: &Target,
    attached: Attached,
    observers: Observers,
    limits: Limits,
    over: &dyn Fn() -> bool,
) -> Result<(), Refusal> {
    let calibration = calibration().map_err(|err| Refusal::Failed(err.to_string()))?;
    let Attached { live, state, counting: _counting, .. } = attached;
    let engine = Engine::new(vec![(live, state)], observers, calibration, EVERY).quiet();
    let (stop, until) = (AtomicBool::new(false), Instant::now() + limits.seconds.min(LONGEST));
    // Two threads: the engine drains, and this one asks at its own pace whether the stream is over.
    let result = thread::scope(|scope| {
        let listener = scope.spawn(|| engine.run(&stop));
        while Instant::now() < until && !listener.is_finished() && !over() && target.process.alive() {
            thread::sleep(ASK);
        }
        stop.store(true, Ordering::Relaxed);
        listener.join()
    });
    match result {
        Ok(Ok(())) => Ok(()),
        Ok(Err(err)) => Err(Refusal::Failed(format!("{err:#}"))),
        Err(_) => Err(Refusal::Failed("following it failed inside sfgi, which is a bug".to_owned())),
    }
}

/// Lines on their way to a client that may be slow.
struct Lines {
    sender: mpsc::Sender<Bytes>,
    buffer: Vec<u8>,
}

impl Write for Lines {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.buffer.extend_from_slice(bytes);
        Ok(bytes.len())
    }

    /// Sends what was written. The writer flushes only behind whole lines, so a chunk never ends within one.
    fn flush(&mut self) -> io::Result<()> {
        if self.buffer.is_empty() {
            return Ok(());
        }
        // Never waits: this runs on the thread that drains the rings.
        match self.sender.try_reserve() {
            Ok(place) => place.send(std::mem::take(&mut self.buffer).into()),
            Err(mpsc::error::TrySendError::Closed(())) => return Err(io::ErrorKind::BrokenPipe.into()),
            Err(mpsc::error::TrySendError::Full(())) if self.buffer.len() > BEHIND => {
                return Err(io::Error::other("the client reads too slowly"));
            }
            Err(mpsc::error::TrySendError::Full(())) => {}
        }
        Ok(())
    }
}

/// A buffer that its owner reads after the observer that writes it has ended.
#[derive(Clone, Default)]
struct Shared(Arc<Mutex<Vec<u8>>>);

impl Write for Shared {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_clients_trace_takes_no_place_of_an_alert() {
        let traced: Vec<Place> = (0..MOST).map(|_| Place::of_requests().unwrap()).collect();
        assert!(matches!(Place::of_requests(), Err(Refusal::Busy(_))));
        let kept: Vec<Place> = (0..MOST_OF_ALERTS).map(|_| Place::of_alerts().unwrap()).collect();
        assert!(matches!(Place::of_alerts(), Err(Refusal::Busy(_))));
        drop((traced, kept));
        assert!(Place::of_requests().is_ok() && Place::of_alerts().is_ok());
    }

    #[test]
    fn a_client_that_is_slow_gets_his_lines_later_and_one_that_stops_ends_the_stream() {
        let (sender, mut receiver) = mpsc::channel(1);
        let mut lines = Lines { sender, buffer: Vec::new() };
        for line in ["a\n", "b\n", "c\n"] {
            lines.write_all(line.as_bytes()).unwrap();
            lines.flush().unwrap();
        }
        assert_eq!(receiver.try_recv().unwrap(), "a\n");
        lines.flush().unwrap();
        assert_eq!(receiver.try_recv().unwrap(), "b\nc\n");
        lines.write_all(b"d\n").unwrap();
        lines.flush().unwrap();
        lines.write_all(&vec![b'x'; BEHIND + 1]).unwrap();
        assert!(lines.flush().is_err());
        drop(receiver);
        assert_eq!(lines.flush().unwrap_err().kind(), io::ErrorKind::BrokenPipe);
    }
}
