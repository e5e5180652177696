//! The contents of a data frame: inputs of targets, and the ends of rounds.

use super::bytes::{Put, Senseless, Take};
use crate::{
    budget,
    event::{Batch, Birth, By, Event, Kind, NewProc, Payload, Stack, Switch, status},
    goruntime::State,
    model::Seen,
    session::{Input, SnapshotInput, WholeStack},
};
use hashbrown::HashMap;
use std::sync::Arc;
use tracer_common::MAX_FRAMES;

const ROUND: u64 = 0;
const EVENTS: u64 = 1;
const SNAPSHOT: u64 = 2;
const STACKS: u64 = 3;

/// Tag and target share a number.
const TAG_BITS: u32 = 2;

/// Events, goroutines or stacks in one item; more are several items.
pub(super) const CHUNK: usize = 1 << 12;

/// Goroutines of one snapshot at most: a hostile file may go on with pieces forever.
const MAX_SEEN: usize = 1 << 22;

/// Frames of a whole stack at most; the writer cuts longer ones.
const MAX_STACK: usize = 1 << 14;

/// One thing in a data frame.
#[derive(Debug)]
pub(super) enum Item {
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

    pub(super) fn round(&mut self) {
        self.out.number(ROUND);
    }

    /// Writes a piece of a batch, with the events of its own. The first piece tells of losses, because their doubt
    /// comes before the events; the last tells up to when the batch is complete.
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
            // Equal stacks of one reading often share their `Arc`, so the pointers are compared first.
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
    state.status().unwrap_or(status::UNSAID)
}

/// A count of what is in one item, which no writer makes larger than [`CHUNK`].
fn few(count: usize) -> Result<usize, Senseless> {
    if count <= CHUNK { Ok(count) } else { Err(Senseless) }
}

/// Reads the contents of data frames, one after the other.
#[derive(Debug)]
pub(super) struct Reader {
    events: Decoder,
    /// By target: the pieces so far of a snapshot that is not complete.
    pieces: Vec<Vec<Seen>>,
    /// The events of the last batch, given back by the player, so that not each batch allocates.
    pub(super) spare: Vec<Event>,
}

impl Reader {
    pub(super) fn new(targets: usize) -> Reader {
        Reader { events: Decoder::new(), pieces: vec![Vec::new(); targets], spare: Vec::new() }
    }

    /// Begins a frame, which has tables of its own.
    pub(super) fn begin(&mut self) {
        self.events.clear();
    }

    /// The next item of the frame; `None`: it was a piece of one.
    pub(super) fn item(&mut self, take: &mut Take<'_>) -> Result<Option<Item>, Senseless> {
        let number = take.number()?;
        let target = usize::try_from(number >> TAG_BITS).map_err(|_| Senseless)?;
        // A number beyond the targets of the head comes from a hostile file.
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
        let count = take.count().and_then(few)?;
        let mut events = std::mem::take(&mut self.spare);
        events.clear();
        // Room for what a writer puts in one item, whatever the count claims.
        events.reserve(count);
        for _ in 0..count {
            events.push(self.events.event(take)?);
        }
        Ok(Batch { events, lost, blurred, doubt_until, complete_until })
    }

    fn snapshot(&mut self, target: usize, take: &mut Take<'_>) -> Result<Option<Input>, Senseless> {
        let (last, complete) = (take.byte()? != 0, take.byte()? != 0);
        let (began_ts, ended_ts) = (self.events.ts(take)?, self.events.ts(take)?);
        let count = take.count().and_then(few)?;
        if self.pieces[target].len() + count > MAX_SEEN {
            return Err(Senseless);
        }
        // Any number of pieces may come before the last.
        budget::reserve(&mut self.pieces[target], count).map_err(|_| Senseless)?;
        let (mut g, mut goid) = (0, 0);
        for _ in 0..count {
            (g, goid) = (take.near(g)?, take.near(goid)?);
            let (state, reason) = (State::from_status(take.byte()?), take.byte()?);
            let (since_ts, tid) = (take.near(began_ts)?, take.small()?);
            let birth: Birth = self.events.birth(take)?;
            let site = self.events.stack(take)?;
            self.pieces[target].push(Seen { g, goid, state, reason, since_ts, tid, birth, site });
        }
        let seen = |pieces: &mut Vec<Seen>| std::mem::take(pieces);
        Ok(last.then(|| {
            let seen = seen(&mut self.pieces[target]);
            Input::Snapshot(SnapshotInput { seen, began_ts, ended_ts, complete })
        }))
    }

    fn stacks(&mut self, take: &mut Take<'_>) -> Result<Vec<WholeStack>, Senseless> {
        let count = take.count().and_then(few)?;
        let mut stacks: Vec<WholeStack> = Vec::new();
        for _ in 0..count {
            let goid = take.number()?;
            let since_ts = if take.number()? == 0 { None } else { Some(self.events.ts(take)?) };
            let read_ts = self.events.ts(take)?;
            // 0: the stack before; else one more than the number of its frames.
            let pcs = match take.count()? {
                0 => Arc::clone(&stacks.last().ok_or(Senseless)?.pcs),
                len if len > MAX_STACK + 1 => return Err(Senseless),
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

/// What the events of one probe have in common: kind, states, reason, and form of the payload.
type Shape = [u8; 5];

fn form(payload: &Payload) -> u8 {
    match payload {
        Payload::None => 0,
        Payload::By(By { object: 0, .. }) => 1,
        Payload::Stack { object: 0, .. } => 2,
        Payload::Birth(_) => 3,
        Payload::NewProc(_) => 4,
        Payload::Switch(_) => 5,
        // Since version 2.
        Payload::By(_) => 6,
        Payload::Stack { .. } => 7,
    }
}

/// Numbers for values: a value's number, or the table's length and then the value itself.
#[derive(Debug)]
struct Numbers<T>(HashMap<T, u64>);

impl<T: Eq + std::hash::Hash + Copy> Numbers<T> {
    /// The number of `value`, and whether it is new.
    #[inline]
    fn of(&mut self, value: T) -> (u64, bool) {
        let next = self.0.len() as u64;
        let number = *self.0.entry(value).or_insert(next);
        (number, number == next)
    }
}

/// Writes events of one frame. What repeats is a number in a table that the frame builds as it goes, so that a frame
/// can be read without those before it.
#[derive(Debug)]
struct Encoder {
    shapes: Numbers<Shape>,
    goroutines: Numbers<(u64, u64)>,
    threads: Numbers<u32>,
    stacks: Numbers<Stack>,
    births: Numbers<Birth>,
    objects: Numbers<u64>,
    ts: u64,
    /// The last address and id that were written whole.
    goroutine: (u64, u64),
    pc: u64,
}

impl Encoder {
    fn new() -> Encoder {
        Encoder {
            shapes: Numbers(HashMap::new()),
            goroutines: Numbers(HashMap::new()),
            threads: Numbers(HashMap::new()),
            stacks: Numbers(HashMap::new()),
            births: Numbers(HashMap::new()),
            objects: Numbers(HashMap::new()),
            ts: 0,
            goroutine: (0, 0),
            pc: 0,
        }
    }

    fn event(&mut self, event: &Event, out: &mut Vec<u8>) {
        let shape = [event.kind as u8, event.from, event.to, event.reason, form(&event.payload)];
        let (number, new) = self.shapes.of(shape);
        out.number(number);
        if new {
            out.extend_from_slice(&shape);
        }
        self.ts(event.ts, out);
        let (number, new) = self.goroutines.of((event.g, event.goid));
        out.number(number);
        if new {
            out.near(event.g, self.goroutine.0);
            out.near(event.goid, self.goroutine.1);
            self.goroutine = (event.g, event.goid);
        }
        let (number, new) = self.threads.of(event.tid);
        out.number(number);
        if new {
            out.number(u64::from(event.tid));
        }
        match &event.payload {
            Payload::None => {}
            Payload::By(by) => {
                out.near(by.by_goid, event.goid);
                self.object(by.object, out);
            }
            Payload::Stack { stack, object } => {
                self.stack(*stack, out);
                self.object(*object, out);
            }
            Payload::Birth(birth) => self.birth(birth, out),
            Payload::NewProc(new) => {
                for pc in [new.callerpc, new.funcval, new.startpc] {
                    out.near(pc, self.pc);
                    self.pc = pc;
                }
            }
            Payload::Switch(switch) => {
                out.near(switch.next_g, event.g);
                out.near(switch.next_goid, event.goid);
                out.number(switch.exit);
            }
        }
    }

    /// A time, as its difference to the last one.
    fn ts(&mut self, ts: u64, out: &mut Vec<u8>) {
        out.near(ts, self.ts);
        self.ts = ts;
    }

    fn stack(&mut self, stack: Stack, out: &mut Vec<u8>) {
        let (number, new) = self.stacks.of(stack);
        out.number(number);
        if new {
            out.number(stack.pcs().len() as u64);
            for pc in stack.pcs().iter() {
                out.near(*pc, self.pc);
                self.pc = *pc;
            }
        }
    }

    /// An object, which forms without one do not have.
    fn object(&mut self, object: u64, out: &mut Vec<u8>) {
        if object == 0 {
            return;
        }
        let (number, new) = self.objects.of(object);
        out.number(number);
        if new {
            out.near(object, self.goroutine.0);
        }
    }

    fn birth(&mut self, birth: &Birth, out: &mut Vec<u8>) {
        let (number, new) = self.births.of(*birth);
        out.number(number);
        if new {
            out.near(birth.parent_goid, self.goroutine.1);
            for pc in [birth.gopc, birth.startpc, birth.funcval] {
                out.near(pc, self.pc);
                self.pc = pc;
            }
        }
    }
}

/// Reads events of one frame.
#[derive(Debug)]
struct Decoder {
    shapes: Vec<(Kind, u8, u8, u8, u8)>,
    goroutines: Vec<(u64, u64)>,
    threads: Vec<u32>,
    stacks: Vec<Stack>,
    births: Vec<Birth>,
    objects: Vec<u64>,
    ts: u64,
    goroutine: (u64, u64),
    pc: u64,
}

impl Decoder {
    fn new() -> Decoder {
        Decoder {
            shapes: Vec::new(),
            goroutines: Vec::new(),
            threads: Vec::new(),
            stacks: Vec::new(),
            births: Vec::new(),
            objects: Vec::new(),
            ts: 0,
            goroutine: (0, 0),
            pc: 0,
        }
    }

    fn clear(&mut self) {
        self.shapes.clear();
        self.goroutines.clear();
        self.threads.clear();
        self.stacks.clear();
        self.births.clear();
        self.objects.clear();
        (self.ts, self.goroutine, self.pc) = (0, (0, 0), 0);
    }

    fn event(&mut self, take: &mut Take<'_>) -> Result<Event, Senseless> {
        let number = take.small::<usize>()?;
        if number == self.shapes.len() {
            let kind = Kind::from_u8(take.byte()?).ok_or(Senseless)?;
            self.shapes.push((kind, take.byte()?, take.byte()?, take.byte()?, take.byte()?));
        }
        let (kind, from, to, reason, form) = *self.shapes.get(number).ok_or(Senseless)?;
        let ts = self.ts(take)?;
        let number = take.small::<usize>()?;
        if number == self.goroutines.len() {
            self.goroutine = (take.near(self.goroutine.0)?, take.near(self.goroutine.1)?);
            self.goroutines.push(self.goroutine);
        }
        let (g, goid) = *self.goroutines.get(number).ok_or(Senseless)?;
        let number = take.small::<usize>()?;
        if number == self.threads.len() {
            self.threads.push(take.small()?);
        }
        let tid = *self.threads.get(number).ok_or(Senseless)?;
        let payload = match form {
            0 => Payload::None,
            1 => Payload::By(By { by_goid: take.near(goid)?, object: 0 }),
            2 => Payload::Stack { stack: self.stack(take)?, object: 0 },
            3 => Payload::Birth(self.birth(take)?),
            4 => Payload::NewProc(NewProc {
                callerpc: self.pc(take)?,
                funcval: self.pc(take)?,
                startpc: self.pc(take)?,
            }),
            5 => Payload::Switch(Switch {
                next_g: take.near(g)?,
                next_goid: take.near(goid)?,
                exit: take.number()?,
            }),
            6 => Payload::By(By { by_goid: take.near(goid)?, object: self.object(take)? }),
            7 => Payload::Stack { stack: self.stack(take)?, object: self.object(take)? },
            _ => return Err(Senseless),
        };
        Ok(Event { ts, g, goid, tid, kind, from, to, reason, payload })
    }

    fn ts(&mut self, take: &mut Take<'_>) -> Result<u64, Senseless> {
        self.ts = take.near(self.ts)?;
        Ok(self.ts)
    }

    fn pc(&mut self, take: &mut Take<'_>) -> Result<u64, Senseless> {
        self.pc = take.near(self.pc)?;
        Ok(self.pc)
    }

    fn stack(&mut self, take: &mut Take<'_>) -> Result<Stack, Senseless> {
        let number = take.small::<usize>()?;
        if number == self.stacks.len() {
            let mut room = [0; MAX_FRAMES];
            // A length beyond `MAX_FRAMES` is refused by the slice.
            let pcs = room.get_mut(..take.small()?).ok_or(Senseless)?;
            for pc in &mut *pcs {
                *pc = self.pc(take)?;
            }
            self.stacks.push(Stack::of(pcs));
        }
        self.stacks.get(number).copied().ok_or(Senseless)
    }

    fn object(&mut self, take: &mut Take<'_>) -> Result<u64, Senseless> {
        let number = take.small::<usize>()?;
        if number == self.objects.len() {
            self.objects.push(take.near(self.goroutine.0)?);
        }
        self.objects.get(number).copied().ok_or(Senseless)
    }

    fn birth(&mut self, take: &mut Take<'_>) -> Result<Birth, Senseless> {
        let number = take.small::<usize>()?;
        if number == self.births.len() {
            let parent_goid = take.near(self.goroutine.1)?;
            let (gopc, startpc, funcval) = (self.pc(take)?, self.pc(take)?, self.pc(take)?);
            self.births.push(Birth { parent_goid, gopc, startpc, funcval });
        }
        self.births.get(number).copied().ok_or(Senseless)
    }
}
