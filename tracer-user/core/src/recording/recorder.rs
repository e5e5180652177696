//! Writes a recording while the trace runs.

use super::{
    frame::{self, Head, Kind, Tail},
    items, names,
};
use crate::{
    event::Batch,
    model::{Measure, Seen, What},
    session::{End, Input, Observer, Round, SnapshotInput, Target},
};
use std::{
    collections::VecDeque,
    io::{self, Write},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
};

/// A frame is cut when it holds so many bytes …
const FRAME_BYTES: usize = 1 << 20;
/// … or so many nanoseconds: what a crash may cost.
const FRAME_NS: u64 = 1_000_000_000;

/// When a ring is written, apart from the end of the trace.
#[derive(Clone, Default)]
pub struct Trigger {
    /// Set to ask for a file; the next round resets it and writes one.
    pub asked: Arc<AtomicBool>,
    /// An illegal transition, or a goroutine that the target's own collector found leaked, asks for a file, too.
    pub on_finding: bool,
}

/// Gives the outputs: the first for the recording, or the first writing of a ring, then one for each further.
pub type Outputs = Box<dyn FnMut() -> io::Result<Box<dyn Write + Send>> + Send>;

/// An [`Observer`] that records: into a file, or into a ring in memory.
pub struct Recorder {
    head: Head,
    outputs: Outputs,
    store: Store,
    wanted: Vec<names::Wanted>,
    names: names::Writer,
    data: items::Writer,
    /// Something came in since the last round.
    dirty: bool,
    /// When the frame began; 0: it is empty.
    frame_ts: u64,
    now_ts: u64,
    /// Up to when everything has come in; behind `now_ts` where there is much to read.
    complete_ts: u64,
    lost: Vec<u64>,
}

enum Store {
    File(Box<dyn Write + Send>),
    Ring {
        ring: Ring,
        trigger: Trigger,
        /// All names since the beginning: anything that is kept may need any of them.
        names: Vec<u8>,
    },
}

impl Recorder {
    /// Nothing is written before the first round.
    ///
    /// # Errors
    /// There is no output.
    pub fn new(head: Head, keep: Keep, trigger: Trigger, mut outputs: Outputs) -> io::Result<Recorder> {
        let store = match keep {
            Keep::All => Store::File(outputs()?),
            keep => Store::Ring { ring: Ring::new(keep), trigger, names: Vec::new() },
        };
        Ok(Recorder {
            head,
            outputs,
            store,
            wanted: Vec::new(),
            names: names::Writer::default(),
            data: items::Writer::new(),
            dirty: false,
            frame_ts: 0,
            now_ts: 0,
            complete_ts: 0,
            lost: Vec::new(),
        })
    }

    /// Packs what is collected into frames.
    fn cut(&mut self) -> io::Result<()> {
        for raw in self.names.take() {
            let frame = frame::pack(Kind::Names, &raw)?;
            match &mut self.store {
                Store::File(out) => out.write_all(&frame)?,
                Store::Ring { names, .. } => names.extend_from_slice(&frame),
            }
        }
        if !self.data.out.is_empty() {
            let frame = frame::pack(Kind::Data, &self.data.out)?;
            match &mut self.store {
                Store::File(out) => out.write_all(&frame)?,
                Store::Ring { ring, .. } => ring.push(&frame),
            }
            // The tables of a frame are its own.
            self.data = items::Writer::new();
        }
        if let Store::File(out) = &mut self.store {
            out.flush()?;
        }
        self.frame_ts = 0;
        Ok(())
    }

    fn resolve(&mut self, targets: &mut [Target]) {
        for (at, (wanted, target)) in self.wanted.iter_mut().zip(targets).enumerate() {
            self.names.write(at, wanted, target);
        }
    }

    /// Begins a segment of a ring, if it is time.
    fn segment(&mut self, targets: &[Target]) -> io::Result<()> {
        let now_ts = self.complete_ts;
        if !matches!(&self.store, Store::Ring { ring, .. } if ring.is_full(now_ts)) {
            return Ok(());
        }
        self.cut()?;
        let standing = standing(targets, now_ts)?;
        if let Store::Ring { ring, .. } = &mut self.store {
            ring.begin(now_ts, standing);
        }
        Ok(())
    }

    /// Cuts a frame that is large already, because the size of a round has no bound.
    fn fit(&mut self) -> io::Result<()> {
        if self.data.out.len() > 4 * FRAME_BYTES { self.cut() } else { Ok(()) }
    }

    /// Writes a ring as a file of its own.
    fn write_ring(&mut self, ends: Vec<End>) -> io::Result<()> {
        self.cut()?;
        let Store::Ring { ring, names, .. } = &self.store else { return Ok(()) };
        let mut out = (self.outputs)()?;
        // The file of a ring begins with its oldest segment, and so does its wall clock.
        let start_ts = ring.began_ts().unwrap_or(self.head.start_ts);
        let later_ns = start_ts.saturating_sub(self.head.start_ts).cast_signed();
        let start_unix_ns = self.head.start_unix_ns.saturating_add(later_ns);
        begin(&mut out, &Head { start_ts, start_unix_ns, ..self.head.clone() })?;
        out.write_all(names)?;
        for frames in ring.frames() {
            out.write_all(frames)?;
        }
        end(&mut out, ends)
    }

    /// How things stand, for a ring that is written before the end.
    fn ends_so_far(&self, why: &str) -> Vec<End> {
        let end = |(about, lost): (&crate::session::About, &u64)| End {
            until_ts: self.now_ts,
            lost: *lost,
            why: None,
            closing: format!("PID {}: written because {why}; {lost} events lost so far", about.pid),
        };
        self.head.targets.iter().zip(&self.lost).map(end).collect()
    }
}

/// The header and the first frame.
fn begin(out: &mut dyn Write, head: &Head) -> io::Result<()> {
    out.write_all(&frame::header())?;
    out.write_all(&frame::pack(Kind::Head, &serde_json::to_vec(head)?)?)
}

fn end(out: &mut dyn Write, ends: Vec<End>) -> io::Result<()> {
    out.write_all(&frame::pack(Kind::Tail, &serde_json::to_vec(&Tail { ends })?)?)?;
    out.flush()
}

/// The state of all goroutines, as frames: a ring begins with it, since the events of before are gone.
fn standing(targets: &[Target], now_ts: u64) -> io::Result<Vec<u8>> {
    let (mut data, mut frames) = (items::Writer::new(), Vec::new());
    for (at, target) in targets.iter().enumerate() {
        let all = known(target, now_ts);
        in_pieces(&all.seen, |seen, _, last| {
            data.snapshot(at, &all, seen, last);
            if data.out.len() > FRAME_BYTES {
                frames.extend(frame::pack(Kind::Data, &data.out)?);
                data = items::Writer::new();
            }
            Ok(())
        })?;
        // A snapshot is merged when the events of its time are complete, so this makes it due.
        let complete = Batch { doubt_until: now_ts, complete_until: now_ts, ..Batch::default() };
        data.events(at, &complete, &[], true, true);
    }
    data.round();
    frames.extend(frame::pack(Kind::Data, &data.out)?);
    Ok(frames)
}

/// Gives the pieces that items are made of, and which is the first and the last; there is at least one.
fn in_pieces<T>(all: &[T], mut each: impl FnMut(&[T], bool, bool) -> io::Result<()>) -> io::Result<()> {
    let mut pieces = all.chunks(items::CHUNK).peekable();
    let mut first = true;
    loop {
        let piece = pieces.next().unwrap_or_default();
        let last = pieces.peek().is_none();
        each(piece, first, last)?;
        if last {
            return Ok(());
        }
        first = false;
    }
}

/// All that is known of the goroutines, as a snapshot would tell it.
fn known(target: &Target, now_ts: u64) -> SnapshotInput {
    let alive = target.goroutines().iter().filter(|known| known.goid != 0 && !known.state.is_dead());
    let seen = alive.map(|known| Seen {
        g: known.g,
        goid: known.goid,
        state: known.state,
        reason: known.reason,
        // 0: the reader measures from `now_ts` and says "at least", as the model does here.
        since_ts: if known.since_is == Measure::AtLeast { 0 } else { known.since_ts },
        tid: known.tid,
        birth: known.birth.unwrap_or_default(),
        site: known.site,
    });
    SnapshotInput { seen: seen.collect(), began_ts: now_ts, ended_ts: now_ts, complete: false }
}

impl Observer for Recorder {
    fn begin(&mut self, targets: &mut [Target]) -> io::Result<()> {
        self.head.targets = targets.iter().map(|target| target.about().clone()).collect();
        self.wanted.resize_with(targets.len(), names::Wanted::default);
        self.lost.resize(targets.len(), 0);
        (self.now_ts, self.complete_ts) = (self.head.start_ts, self.head.start_ts);
        if let Store::File(out) = &mut self.store {
            begin(out, &self.head)?;
            out.flush()?;
        }
        self.segment(targets)
    }

    fn input(&mut self, target: usize, input: &Input, _: &mut Target) -> io::Result<()> {
        self.dirty = true;
        if let Some(wanted) = self.wanted.get_mut(target) {
            wanted.note(input);
        }
        match input {
            Input::Events(batch) => {
                // At the end (u64::MAX) no time has passed for the target, however long the probes took to remove.
                if batch.complete_until != u64::MAX {
                    self.complete_ts = self.complete_ts.max(batch.complete_until);
                }
                in_pieces(&batch.events, |events, first, last| {
                    self.data.events(target, batch, events, first, last);
                    self.fit()
                })
            }
            Input::Snapshot(snapshot) => in_pieces(&snapshot.seen, |seen, _, last| {
                self.data.snapshot(target, snapshot, seen, last);
                self.fit()
            }),
            Input::Stacks(stacks) => in_pieces(stacks, |stacks, _, _| {
                self.data.stacks(target, stacks);
                self.fit()
            }),
        }
    }

    fn round(&mut self, targets: &mut [Target], round: &Round) -> io::Result<()> {
        self.now_ts = round.news.iter().map(|news| news.ts).fold(self.now_ts, u64::max);
        for (lost, news) in self.lost.iter_mut().zip(&round.news) {
            *lost += news.lost;
        }
        // A round in which nothing came in leaves nothing in the file.
        if std::mem::take(&mut self.dirty) {
            self.resolve(targets);
            self.data.round();
            if self.frame_ts == 0 {
                self.frame_ts = self.now_ts;
            }
        }
        let old = self.frame_ts != 0 && self.now_ts.saturating_sub(self.frame_ts) >= FRAME_NS;
        if old || self.data.out.len() >= FRAME_BYTES {
            self.cut()?;
        }
        self.segment(targets)?;
        let Store::Ring { trigger, .. } = &self.store else { return Ok(()) };
        let finding = |step: &crate::model::Step| matches!(step.what, What::Illegal | What::Leak);
        // Relaxed: the flag carries no data.
        let why = if trigger.asked.swap(false, Ordering::Relaxed) {
            "it was asked for"
        } else if trigger.on_finding && round.steps().any(|(_, step)| finding(step)) {
            "something was found"
        } else {
            return Ok(());
        };
        let ends = self.ends_so_far(why);
        self.write_ring(ends)
    }

    fn end(&mut self, targets: &mut [Target], ends: &[End]) -> io::Result<()> {
        self.resolve(targets);
        self.cut()?;
        match &mut self.store {
            Store::File(out) => end(out, ends.to_vec()),
            Store::Ring { .. } => self.write_ring(ends.to_vec()),
        }
    }
}

/// How much of a trace is kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Keep {
    All,
    /// At least the last so many nanoseconds.
    Last(u64),
    /// About so many bytes, at least half of it.
    Bytes(u64),
}

/// Segments of a ring, each an eighth of what is kept. A ring lets go of a segment as a whole.
const SEGMENTS: u64 = 8;

/// Frames that a ring lets go of together.
#[derive(Debug)]
struct Segment {
    began_ts: u64,
    /// How things stood when it began: needed when it is the first.
    standing: Vec<u8>,
    frames: Vec<u8>,
}

impl Segment {
    fn bytes(&self) -> u64 {
        (self.standing.len() + self.frames.len()) as u64
    }
}

/// The last so many seconds or bytes of a trace, in memory.
#[derive(Debug)]
struct Ring {
    keep: Keep,
    segments: VecDeque<Segment>,
    bytes: u64,
}

impl Ring {
    fn new(keep: Keep) -> Ring {
        Ring { keep, segments: VecDeque::new(), bytes: 0 }
    }

    /// Whether a new segment is due: then [`Ring::begin`].
    fn is_full(&self, now_ts: u64) -> bool {
        let Some(last) = self.segments.back() else { return true };
        match self.keep {
            Keep::All => false,
            Keep::Last(ns) => now_ts.saturating_sub(last.began_ts) >= ns / SEGMENTS,
            Keep::Bytes(bytes) => last.bytes() >= bytes / SEGMENTS,
        }
    }

    /// Begins a segment with frames that tell the state of all goroutines, and lets go of segments that need not be
    /// kept.
    fn begin(&mut self, now_ts: u64, standing: Vec<u8>) {
        while let Some(second) = self.segments.get(1) {
            let needed = match self.keep {
                Keep::All => true,
                Keep::Last(ns) => now_ts.saturating_sub(second.began_ts) < ns,
                // An eighth is left for the segment that begins.
                Keep::Bytes(bytes) => self.bytes <= bytes / SEGMENTS * (SEGMENTS - 1),
            };
            if needed {
                break;
            }
            let gone = self.segments.pop_front();
            self.bytes -= gone.map_or(0, |segment| segment.bytes());
        }
        self.bytes += standing.len() as u64;
        self.segments.push_back(Segment { began_ts: now_ts, standing, frames: Vec::new() });
    }

    fn push(&mut self, frame: &[u8]) {
        if let Some(segment) = self.segments.back_mut() {
            segment.frames.extend_from_slice(frame);
            self.bytes += frame.len() as u64;
        }
    }

    /// Everything that is kept, oldest first.
    fn frames(&self) -> impl Iterator<Item = &[u8]> {
        let first = self.segments.front().map(|segment| &*segment.standing);
        first.into_iter().chain(self.segments.iter().map(|segment| &*segment.frames))
    }

    /// When the oldest segment began; `None`: the ring is empty.
    fn began_ts(&self) -> Option<u64> {
        self.segments.front().map(|segment| segment.began_ts)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn kept(keep: Keep, seconds: u64) -> (u64, u64) {
        let mut ring = Ring::new(keep);
        for second in 0..seconds {
            if ring.is_full(second) {
                ring.begin(second, Vec::new());
            }
            ring.push(&[0; 10]);
        }
        (seconds - ring.began_ts().expect("something"), ring.frames().map(|frames| frames.len() as u64).sum())
    }

    #[test]
    fn at_least_the_time_and_not_much_more() {
        assert_eq!(kept(Keep::Last(80), 30), (30, 300));
        let (time, _) = kept(Keep::Last(80), 1000);
        assert!((80..=100).contains(&time), "{time}");
    }

    #[test]
    fn about_the_bytes() {
        let (_, bytes) = kept(Keep::Bytes(800), 1000);
        assert!((400..=900).contains(&bytes), "{bytes}");
        assert_eq!(kept(Keep::All, 1000).1, 10_000);
    }
}
