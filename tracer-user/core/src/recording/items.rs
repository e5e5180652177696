//! What is in a data frame: inputs of targets, and where a round ends.

use super::{
    bytes::{Put, Senseless, Take},
    events::{Decoder, Encoder},
};
use crate::{
    event::{Batch, Birth, Event},
    goruntime::State,
    model::Seen,
    session::{Input, SnapshotInput, WholeStack},
};
use std::sync::Arc;

const ROUND: u64 = 0;
const EVENTS: u64 = 1;
const SNAPSHOT: u64 = 2;
const STACKS: u64 = 3;

/// Tag and target share a number.
const TAG_BITS: u32 = 2;

/// Events, goroutines or stacks in one item; more are several items.
pub(super) const CHUNK: usize = 1 << 12;

/// Goroutines of one snapshot.
const MAX_SEEN: usize = 1 << 22;

/// Frames of a whole stack.
const MAX_STACK: usize = 1 << 14;

/// One thing in a data frame.
#[derive(Debug)]
pub(super) enum Item {
    /// A round is over.
    Round,
    /// What came in of the target with this number.
    Input(usize, Input),
}

fn tag(tag: u64, target: usize) -> u64 {
    tag | ((target as u64) << TAG_BITS)
}

/// Writes the contents of one frame.
#[derive(Debug)]
pub(super) struct Writer {
    events: Encoder,
    pub(super) out: Vec<u8>,
}

impl Writer {
    pub(super) fn new() -> Writer {
        Writer { events: Encoder::new(), out: Vec::new() }
    }

    /// A round is over.
    pub(super) fn round(&mut self) {
        self.out.number(ROUND);
    }

    /// A piece of a batch: its first `events` are its own, the rest is said by the batch. What a loss casts doubt
    /// on comes before the events, what is complete is known behind the last.
    pub(super) fn events(&mut self, target: usize, batch: &Batch, events: &[Event], first: bool, last: bool) {
        let out = &mut self.out;
        out.number(tag(EVENTS, target));
        let (lost, blurred) = if first { (batch.lost, batch.blurred) } else { (0, 0) };
        out.number(lost);
        out.number(blurred);
        self.events.ts(batch.doubt_until, out);
        out.number(u64::from(last));
        if last {
            out.near(batch.complete_until, batch.doubt_until);
        }
        out.number(events.len() as u64);
        for event in events {
            self.events.event(event, out);
        }
    }

    /// A piece of a snapshot.
    pub(super) fn snapshot(&mut self, target: usize, snapshot: &SnapshotInput, seen: &[Seen], last: bool) {
        let out = &mut self.out;
        out.number(tag(SNAPSHOT, target));
        out.extend_from_slice(&[u8::from(last), u8::from(snapshot.complete)]);
        self.events.ts(snapshot.began_ts, out);
        self.events.ts(snapshot.ended_ts, out);
        out.number(seen.len() as u64);
        let (mut g, mut goid) = (0, 0);
        for seen in seen {
            out.near(seen.g, g);
            out.near(seen.goid, goid);
            (g, goid) = (seen.g, seen.goid);
            out.extend_from_slice(&[state_byte(seen.state), seen.reason]);
            out.near(seen.since_ts, snapshot.began_ts);
            out.number(u64::from(seen.tid));
            self.events.birth(&seen.birth, out);
            self.events.stack(seen.site, out);
        }
    }

    /// Whole stacks.
    pub(super) fn stacks(&mut self, target: usize, stacks: &[WholeStack]) {
        let out = &mut self.out;
        out.number(tag(STACKS, target));
        out.number(stacks.len() as u64);
        let mut last: Option<&WholeStack> = None;
        for stack in stacks {
            out.number(stack.goid);
            out.number(u64::from(stack.since_ts.is_some()));
            if let Some(ts) = stack.since_ts {
                self.events.ts(ts, out);
            }
            self.events.ts(stack.read_ts, out);
            let same = last.is_some_and(|last| Arc::ptr_eq(&last.pcs, &stack.pcs) || last.pcs == stack.pcs);
            if same {
                out.number(0);
            } else {
                let pcs = &stack.pcs[..stack.pcs.len().min(MAX_STACK)];
                out.number(pcs.len() as u64 + 1);
                let mut base = 0;
                for pc in pcs {
                    out.near(*pc, base);
                    base = *pc;
                }
            }
            last = Some(stack);
        }
    }
}

fn state_byte(state: State) -> u8 {
    state.status().unwrap_or(crate::event::status::UNSAID)
}

/// Reads the contents of data frames, one after the other.
#[derive(Debug)]
pub(super) struct Reader {
    events: Decoder,
    /// By target: the pieces of a snapshot that came so far.
    pieces: Vec<Vec<Seen>>,
    /// Given back by whoever is done with it, to be filled again.
    pub(super) spare: Vec<Event>,
}

impl Reader {
    pub(super) fn new(targets: usize) -> Reader {
        Reader { events: Decoder::new(), pieces: vec![Vec::new(); targets], spare: Vec::new() }
    }

    /// The next frame begins.
    pub(super) fn begin(&mut self) {
        self.events.clear();
    }

    /// The next item of the frame; `None`: a piece of one.
    pub(super) fn item(&mut self, take: &mut Take<'_>) -> Result<Option<Item>, Senseless> {
        let number = take.number()?;
        let target = usize::try_from(number >> TAG_BITS).map_err(|_| Senseless)?;
        if target >= self.pieces.len() {
            return Err(Senseless);
        }
        Ok(match number & ((1 << TAG_BITS) - 1) {
            ROUND => Some(Item::Round),
            EVENTS => Some(Item::Input(target, Input::Events(self.batch(take)?))),
            SNAPSHOT => self.snapshot(target, take)?.map(|snapshot| Item::Input(target, snapshot)),
            _ => Some(Item::Input(target, Input::Stacks(self.stacks(take)?))),
        })
    }

    fn batch(&mut self, take: &mut Take<'_>) -> Result<Batch, Senseless> {
        let (lost, blurred) = (take.number()?, take.number()?);
        let doubt_until = self.events.ts(take)?;
        let complete_until = if take.number()? == 0 { 0 } else { take.near(doubt_until)? };
        let count = take.count()?;
        let mut events = std::mem::take(&mut self.spare);
        events.clear();
        events.reserve(count.min(CHUNK));
        for _ in 0..count {
            events.push(self.events.event(take)?);
        }
        Ok(Batch { events, lost, blurred, doubt_until, complete_until })
    }

    fn snapshot(&mut self, target: usize, take: &mut Take<'_>) -> Result<Option<Input>, Senseless> {
        let (last, complete) = (take.byte()? != 0, take.byte()? != 0);
        let (began_ts, ended_ts) = (self.events.ts(take)?, self.events.ts(take)?);
        let count = take.count()?;
        let (mut g, mut goid) = (0, 0);
        for _ in 0..count {
            (g, goid) = (take.near(g)?, take.near(goid)?);
            let (state, reason) = (State::from_status(take.byte()?), take.byte()?);
            let (since_ts, tid) = (take.near(began_ts)?, take.small()?);
            let birth: Birth = self.events.birth(take)?;
            let site = self.events.stack(take)?;
            self.pieces[target].push(Seen { g, goid, state, reason, since_ts, tid, birth, site });
        }
        if self.pieces[target].len() > MAX_SEEN {
            return Err(Senseless);
        }
        let seen = |pieces: &mut Vec<Seen>| std::mem::take(pieces);
        Ok(last.then(|| {
            let seen = seen(&mut self.pieces[target]);
            Input::Snapshot(SnapshotInput { seen, began_ts, ended_ts, complete })
        }))
    }

    fn stacks(&mut self, take: &mut Take<'_>) -> Result<Vec<WholeStack>, Senseless> {
        let count = take.count()?;
        let mut stacks: Vec<WholeStack> = Vec::new();
        for _ in 0..count {
            let goid = take.number()?;
            let since_ts = if take.number()? == 0 { None } else { Some(self.events.ts(take)?) };
            let read_ts = self.events.ts(take)?;
            let pcs = match take.count()? {
                0 => Arc::clone(&stacks.last().ok_or(Senseless)?.pcs),
                len => {
                    let mut base = 0;
                    let mut pc = || {
                        base = take.near(base)?;
                        Ok(base)
                    };
                    (1..len).map(|_| pc()).collect::<Result<_, Senseless>>()?
                }
            };
            stacks.push(WholeStack { goid, since_ts, read_ts, pcs });
        }
        Ok(stacks)
    }
}
