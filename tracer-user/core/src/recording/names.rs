//! The names of addresses: what a recording needs to be read where the binary is not.

use super::{
    bytes::{Put, Senseless, Take},
    frame::MAX_RAW,
};
use crate::{
    event::{Birth, Payload, Stack},
    names::{Site, Symbols},
    session::{Input, Target},
};
use hashbrown::{HashMap, HashSet};
use std::sync::Arc;

const STRING: u64 = 0;
const FRAMES: u64 = 1;
const ENTRY: u64 = 2;

/// Names that a reader keeps at most; a writer leaves further addresses without one.
const CAPACITY: usize = 1 << 22;

/// Bytes from which on a frame of names is finished. What one address adds at most (`MAX_INLINED` functions and files
/// of `MAX_STRING` bytes) still fits below `MAX_RAW`.
const FRAME: usize = MAX_RAW / 16;

/// Bytes that a reader keeps of them, about: those of a very large program over a day are some ten million.
const MAX_BYTES: usize = 256 << 20;
/// Bytes that a string and an address take beside their contents, and how many more a place has in memory than in the
/// frame, where it is three numbers.
const STRING_COST: usize = 32;
const NAME_COST: usize = 64;
pub(super) const SITE_RATIO: usize = size_of::<Site>() / 3;

/// Frames at one address: inlined functions lie within each other.
const MAX_INLINED: usize = 100;

/// The addresses of one target that have names already, and those that still need them.
#[derive(Debug, Default)]
pub(super) struct Wanted {
    known: HashSet<u64>,
    known_starts: HashSet<u64>,
    /// Stacks whose addresses are known: most events bring one of few.
    known_stacks: HashSet<Stack>,
    pcs: Vec<u64>,
    starts: Vec<u64>,
}

impl Wanted {
    /// Notes the addresses that an input brings.
    pub(super) fn note(&mut self, input: &Input) {
        match input {
            Input::Events(batch) => batch.events.iter().for_each(|event| self.payload(&event.payload)),
            Input::Snapshot(snapshot) => {
                for seen in &snapshot.seen {
                    self.birth(&seen.birth);
                    self.stack(seen.site);
                }
            }
            Input::Stacks(stacks) => {
                stacks.iter().flat_map(|stack| stack.pcs.iter()).for_each(|pc| self.pc(*pc));
            }
        }
    }

    fn payload(&mut self, payload: &Payload) {
        match payload {
            Payload::Stack { stack, .. } => self.stack(*stack),
            Payload::Birth(birth) => self.birth(birth),
            Payload::NewProc(new) => {
                self.pc(new.callerpc.wrapping_sub(1));
                self.start(new.startpc);
            }
            Payload::None | Payload::By(_) | Payload::Switch(_) => {}
        }
    }

    fn birth(&mut self, birth: &Birth) {
        self.pc(birth.gopc.wrapping_sub(1));
        self.start(birth.startpc);
    }

    fn stack(&mut self, stack: Stack) {
        if self.known_stacks.contains(&stack) {
            return;
        }
        if self.known_stacks.len() < CAPACITY {
            self.known_stacks.insert(stack);
        }
        for pc in stack.pcs().iter() {
            self.pc(pc.wrapping_sub(1)); // a return address: the call is before it
        }
    }

    fn pc(&mut self, pc: u64) {
        if self.known.len() < CAPACITY && self.known.insert(pc) {
            self.pcs.push(pc);
        }
    }

    fn start(&mut self, startpc: u64) {
        if self.known_starts.len() < CAPACITY && self.known_starts.insert(startpc) {
            self.starts.push(startpc);
        }
    }
}

/// Bytes of a name at most; a hostile binary can have longer ones.
const MAX_STRING: usize = 1 << 16;

#[derive(Debug, Default)]
pub(super) struct Writer {
    strings: HashMap<Arc<str>, u64>,
    /// Contents of frames, the last of which is being filled.
    frames: Vec<Vec<u8>>,
    out: Vec<u8>,
}

impl Writer {
    /// Takes the contents of the frames to write.
    pub(super) fn take(&mut self) -> Vec<Vec<u8>> {
        if !self.out.is_empty() {
            self.frames.push(std::mem::take(&mut self.out));
        }
        std::mem::take(&mut self.frames)
    }

    /// Writes the names that are wanted.
    pub(super) fn write(&mut self, index: usize, wanted: &mut Wanted, target: &mut Target) {
        for startpc in std::mem::take(&mut wanted.starts) {
            let entry = target.symbols().entry(startpc);
            // The frames at the entry name the function.
            wanted.pc(entry);
            self.out.number(ENTRY);
            self.out.number(index as u64);
            self.out.number(startpc);
            self.out.near(entry, startpc);
            self.cut();
        }
        for pc in std::mem::take(&mut wanted.pcs) {
            let frames = target.symbols().frames(pc);
            let frames = &frames[..frames.len().min(MAX_INLINED)];
            let strings: Vec<(u64, u64)> =
                frames.iter().map(|site| (self.string(&site.func), self.string(&site.file))).collect();
            self.out.number(FRAMES);
            self.out.number(index as u64);
            self.out.number(pc);
            self.out.number(frames.len() as u64);
            for ((func, file), site) in strings.iter().zip(frames) {
                self.out.number(*func);
                self.out.number(*file);
                self.out.number(u64::from(site.line));
            }
            self.cut();
        }
    }

    /// Finishes the frame when it is long enough.
    fn cut(&mut self) {
        if self.out.len() > FRAME {
            self.frames.push(std::mem::take(&mut self.out));
        }
    }

    fn string(&mut self, text: &Arc<str>) -> u64 {
        if let Some(number) = self.strings.get(text) {
            return *number;
        }
        let number = self.strings.len() as u64;
        self.strings.insert(Arc::clone(text), number);
        self.out.number(STRING);
        self.out.slice(text[..text.floor_char_boundary(MAX_STRING)].as_bytes());
        number
    }
}

#[derive(Debug, Default)]
pub(super) struct Reader {
    strings: Vec<Arc<str>>,
    /// Bytes of all that was kept, about.
    bytes: usize,
    named: usize,
}

impl Reader {
    /// Takes the contents of one frame and tells the names to the symbols of their targets.
    pub(super) fn read(&mut self, mut take: Take<'_>, targets: &mut [Target]) -> Result<(), Senseless> {
        while !take.is_empty() {
            let tag = take.number()?;
            if tag == STRING {
                let text = take.text()?;
                // A file may have any number of frames of names: the total is bounded.
                self.room(self.strings.len())?;
                self.take(text.len() + STRING_COST)?;
                self.strings.push(text.into());
                continue;
            }
            let target = targets.get_mut(take.small::<usize>()?).ok_or(Senseless)?;
            self.named += 1;
            self.room(self.named)?;
            let before = take.0.len();
            self.name(tag, &mut take, target.symbols())?;
            self.take((before - take.0.len()) * SITE_RATIO + NAME_COST)?;
        }
        Ok(())
    }

    fn name(&self, tag: u64, take: &mut Take<'_>, symbols: &mut Symbols) -> Result<(), Senseless> {
        let pc = take.number()?;
        match tag {
            FRAMES => {
                let count = take.count().ok().filter(|count| *count <= MAX_INLINED).ok_or(Senseless)?;
                let frames = (0..count).map(|_| self.site(take)).collect::<Result<_, Senseless>>()?;
                symbols.tell_frames(pc, frames);
            }
            ENTRY => symbols.tell_entry(pc, take.near(pc)?),
            _ => return Err(Senseless),
        }
        Ok(())
    }

    fn site(&self, take: &mut Take<'_>) -> Result<Site, Senseless> {
        let mut string = || self.strings.get(take.small::<usize>()?).cloned().ok_or(Senseless);
        Ok(Site { func: string()?, file: string()?, line: take.small()? })
    }

    /// Counts bytes that are kept.
    fn take(&mut self, bytes: usize) -> Result<(), Senseless> {
        self.bytes += bytes;
        if self.bytes <= MAX_BYTES { Ok(()) } else { Err(Senseless) }
    }

    fn room(&self, used: usize) -> Result<(), Senseless> {
        if used < CAPACITY { Ok(()) } else { Err(Senseless) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        event::{Mode, NewProc, Set},
        goruntime::Release,
        session::About,
    };

    fn target() -> Target {
        let about = About {
            pid: 1,
            exe: String::new(),
            module: String::new(),
            go_version: String::new(),
            release: Release::new(26),
            wait_reasons: Vec::new().into(),
            set: Set::B,
            mode: Mode::Full,
            blind: Vec::new(),
            from_birth: false,
        };
        Target::new(about, Symbols::told())
    }

    #[test]
    fn no_frame_is_larger_than_a_reader_takes_however_many_functions_are_new() {
        let (mut wanted, mut writer) = (Wanted::default(), Writer::default());
        let starts = 300_000;
        for startpc in 0..starts {
            // One place for all, and each address as long as it can be.
            let new = NewProc { callerpc: 1, startpc: u64::MAX - startpc, ..NewProc::default() };
            wanted.payload(&Payload::NewProc(new));
        }
        writer.write(0, &mut wanted, &mut target());
        let frames = writer.take();
        assert!(frames.iter().all(|frame| frame.len() < FRAME + 64), "{} frames", frames.len());
        let (mut reader, mut targets) = (Reader::default(), [target()]);
        for frame in &frames {
            reader.read(Take(frame), &mut targets).unwrap();
        }
        assert_eq!(reader.named, 2 * starts as usize + 1);
    }
}
