//! Events within a frame: what repeats is a number in a table that the frame builds as it goes, so that a
//! frame can be read without those before it.

use super::bytes::{Put, Senseless, Take};
use crate::event::{Birth, By, Event, Kind, NewProc, Payload, Stack, Switch};
use hashbrown::HashMap;
use tracer_common::MAX_FRAMES;

/// What events of one probe have in common: kind, states, reason, and which payload.
type Shape = [u8; 5];

/// The number of a payload's form.
fn form(payload: &Payload) -> u8 {
    match payload {
        Payload::None => 0,
        Payload::By(_) => 1,
        Payload::Stack(_) => 2,
        Payload::Birth(_) => 3,
        Payload::NewProc(_) => 4,
        Payload::Switch(_) => 5,
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

/// Writes events of one frame.
#[derive(Debug)]
pub(super) struct Encoder {
    shapes: Numbers<Shape>,
    goroutines: Numbers<(u64, u64)>,
    threads: Numbers<u32>,
    stacks: Numbers<Stack>,
    births: Numbers<Birth>,
    ts: u64,
    /// The last address and id that were written whole.
    goroutine: (u64, u64),
    pc: u64,
}

impl Encoder {
    pub(super) fn new() -> Encoder {
        Encoder {
            shapes: Numbers(HashMap::new()),
            goroutines: Numbers(HashMap::new()),
            threads: Numbers(HashMap::new()),
            stacks: Numbers(HashMap::new()),
            births: Numbers(HashMap::new()),
            ts: 0,
            goroutine: (0, 0),
            pc: 0,
        }
    }

    pub(super) fn event(&mut self, event: &Event, out: &mut Vec<u8>) {
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
            Payload::By(by) => out.near(by.by_goid, event.goid),
            Payload::Stack(stack) => self.stack(*stack, out),
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
    pub(super) fn ts(&mut self, ts: u64, out: &mut Vec<u8>) {
        out.near(ts, self.ts);
        self.ts = ts;
    }

    pub(super) fn stack(&mut self, stack: Stack, out: &mut Vec<u8>) {
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

    pub(super) fn birth(&mut self, birth: &Birth, out: &mut Vec<u8>) {
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
pub(super) struct Decoder {
    shapes: Vec<(Kind, u8, u8, u8, u8)>,
    goroutines: Vec<(u64, u64)>,
    threads: Vec<u32>,
    stacks: Vec<Stack>,
    births: Vec<Birth>,
    ts: u64,
    goroutine: (u64, u64),
    pc: u64,
}

impl Decoder {
    pub(super) fn new() -> Decoder {
        Decoder {
            shapes: Vec::new(),
            goroutines: Vec::new(),
            threads: Vec::new(),
            stacks: Vec::new(),
            births: Vec::new(),
            ts: 0,
            goroutine: (0, 0),
            pc: 0,
        }
    }

    /// For the next frame.
    pub(super) fn clear(&mut self) {
        self.shapes.clear();
        self.goroutines.clear();
        self.threads.clear();
        self.stacks.clear();
        self.births.clear();
        (self.ts, self.goroutine, self.pc) = (0, (0, 0), 0);
    }

    pub(super) fn event(&mut self, take: &mut Take<'_>) -> Result<Event, Senseless> {
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
            1 => Payload::By(By { by_goid: take.near(goid)? }),
            2 => Payload::Stack(self.stack(take)?),
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
            _ => return Err(Senseless),
        };
        Ok(Event { ts, g, goid, tid, kind, from, to, reason, payload })
    }

    pub(super) fn ts(&mut self, take: &mut Take<'_>) -> Result<u64, Senseless> {
        self.ts = take.near(self.ts)?;
        Ok(self.ts)
    }

    fn pc(&mut self, take: &mut Take<'_>) -> Result<u64, Senseless> {
        self.pc = take.near(self.pc)?;
        Ok(self.pc)
    }

    pub(super) fn stack(&mut self, take: &mut Take<'_>) -> Result<Stack, Senseless> {
        let number = take.small::<usize>()?;
        if number == self.stacks.len() {
            let mut room = [0; MAX_FRAMES];
            let pcs = room.get_mut(..take.small()?).ok_or(Senseless)?;
            for pc in &mut *pcs {
                *pc = self.pc(take)?;
            }
            self.stacks.push(Stack::of(pcs));
        }
        self.stacks.get(number).copied().ok_or(Senseless)
    }

    pub(super) fn birth(&mut self, take: &mut Take<'_>) -> Result<Birth, Senseless> {
        let number = take.small::<usize>()?;
        if number == self.births.len() {
            let parent_goid = take.near(self.goroutine.1)?;
            let (gopc, startpc, funcval) = (self.pc(take)?, self.pc(take)?, self.pc(take)?);
            self.births.push(Birth { parent_goid, gopc, startpc, funcval });
        }
        self.births.get(number).copied().ok_or(Senseless)
    }
}
