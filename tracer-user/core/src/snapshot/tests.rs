//! Whole snapshots of memory made by hand: goroutines that move between two looks, a process that
//! ends half way, and hostile memory. Real programs are read in the live tests.

mod hostile;

use super::{Clock, Options, Snapshot, Trust, View, take, take_only};
use crate::binary::GoBinary;
use crate::event::status;
use crate::goruntime::State;
use crate::memory::{Fault, Memory};
use crate::testing::binary::{CODE, FUNCTION, REASONS, Recipe, binary};
use std::collections::HashMap;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};

const ARRAY: u64 = 0x7000_0000;
const G: u64 = 0xc000_0000;
const STACK: u64 = 0xf000_0000;
const ALL: Options = Options { stacks: true, args: true, labels: true, objects: true, most: 0 };

/// What happens while the memory is read: after so many calls.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Then {
    Nothing,
    Ends(usize),
    /// With each further call every goroutine has parked once more.
    Moves(usize),
}

/// A program with goroutines that wait, whose memory is filled word by word.
struct Program {
    binary: GoBinary,
    words: HashMap<u64, u64>,
    goroutines: u64,
    then: Then,
    calls: AtomicUsize,
}

impl Program {
    fn new() -> Program {
        let recipe = Recipe { version: "go1.26.6", pie: false, heap: false };
        let binary = GoBinary::parse(binary(recipe).into()).unwrap();
        let globals = binary.globals().unwrap();
        let words = HashMap::from([(globals.allglen, 0), (globals.allgptr, ARRAY)]);
        Program { binary, words, goroutines: 0, then: Then::Nothing, calls: AtomicUsize::new(0) }
    }

    fn offset(&self, field: &str) -> u64 {
        self.binary.layout().field("g", field).unwrap().into()
    }

    /// A goroutine that waits to receive in `main.main`, which `runtime.main` called. Returns its `g`.
    fn parked(&mut self) -> u64 {
        let number = self.goroutines;
        let (g, sp) = (G + number * 0x1000, STACK + number * 0x1000 + 0xf00);
        let reason = REASONS.iter().position(|text| *text == "chan receive").unwrap() as u64;
        let main = CODE + 4 * FUNCTION + 4;
        for (field, value) in [
            ("stack.lo", STACK + number * 0x1000),
            ("stack.hi", STACK + number * 0x1000 + 0x1000),
            ("sched.sp", sp),
            ("sched.pc", main),
            ("sched.g", g),
            ("atomicstatus", status::WAITING.into()),
            ("goid", number + 1),
            ("waitreason", reason),
            ("startpc", main - 4),
        ] {
            self.words.insert(g + self.offset(field), value);
        }
        self.words.insert(ARRAY + number * 8, g);
        self.goroutines += 1;
        let len = self.binary.globals().unwrap().allglen;
        self.words.insert(len, self.goroutines);
        g
    }

    fn set(&mut self, g: u64, field: &str, value: u64) {
        self.words.insert(g + self.offset(field), value);
    }

    fn snapshot(&self, options: Options) -> Snapshot {
        let view = View { memory: self, binary: &self.binary, bias: 0, clock: Clock::Stopped };
        take(&view, options, &mut |_, _| ()).unwrap()
    }
}

/// Words that were not set are 0; a `g`'s trackingSeq counts the calls where it moves.
impl Memory for Program {
    fn read(&self, addr: u64, buffer: &mut [u8]) -> Result<(), Fault> {
        let call = self.calls.fetch_add(1, Relaxed);
        if let Then::Ends(after) = self.then
            && call >= after
        {
            return Err(Fault::Gone);
        }
        let moved = matches!(self.then, Then::Moves(after) if call >= after);
        let (at, seq) = (self.offset("trackingSeq"), call as u8);
        for (addr, byte) in (addr..).zip(buffer) {
            let word = self.words.get(&(addr & !7)).copied().unwrap_or(0);
            let counted = moved && (G..STACK).contains(&addr) && addr % 0x1000 == at;
            *byte = if counted { seq } else { word.to_le_bytes()[(addr % 8) as usize] };
        }
        Ok(())
    }
}

#[test]
fn what_stands_still_is_whole() {
    let mut program = Program::new();
    let dead = program.parked();
    for _ in 0..3 {
        program.parked();
    }
    program.set(dead, "atomicstatus", status::DEAD.into());
    let snapshot = program.snapshot(ALL);
    let goids: Vec<u64> = snapshot.goroutines.iter().map(|goroutine| goroutine.goid).collect();
    assert_eq!(goids, [2, 3, 4], "the dead are left out");
    for goroutine in &snapshot.goroutines {
        assert_eq!((goroutine.state, goroutine.trust), (State::Waiting, Trust::Still));
        assert_eq!(REASONS[usize::from(goroutine.reason)], "chan receive");
        let stack = snapshot.stacks.get(goroutine.stack);
        assert_eq!(stack[0].addr(), CODE + 4 * FUNCTION + 4);
    }
    assert_eq!((snapshot.unreadable, snapshot.incomplete), (0, None));
    assert_eq!(snapshot.stacks.len(), 2, "equal stacks are kept once");
}

#[test]
fn what_moves_between_two_looks_has_no_stack() {
    let mut program = Program::new();
    program.parked();
    program.then = Then::Moves(0);
    let snapshot = program.snapshot(ALL);
    let goroutine = &snapshot.goroutines[0];
    assert_eq!((goroutine.goid, goroutine.trust), (1, Trust::InMotion));
    assert_eq!(snapshot.stacks.get(goroutine.stack), []);
    assert_eq!(snapshot.args, "");
}

#[test]
fn one_that_settles_is_read_again() {
    for settles in 1..12 {
        let mut program = Program::new();
        program.parked();
        // The first look sees it elsewhere than all others.
        program.then = Then::Moves(settles);
        let moving = program.snapshot(ALL).goroutines[0].trust;
        program.calls.store(usize::MAX / 2, Relaxed);
        program.then = Then::Nothing;
        assert!(matches!(moving, Trust::Still | Trust::InMotion));
        assert_eq!(program.snapshot(ALL).goroutines[0].trust, Trust::Still);
    }
}

#[test]
fn a_process_that_ends_half_way_leaves_what_was_read() {
    let mut program = Program::new();
    for _ in 0..2000 {
        program.parked();
    }
    program.snapshot(ALL);
    let calls = program.calls.swap(0, Relaxed);
    for ends in [2, 3, 10, calls / 3, calls / 2] {
        program.calls.store(0, Relaxed);
        program.then = Then::Ends(ends);
        let snapshot = program.snapshot(ALL);
        assert_eq!(snapshot.incomplete, Some(Fault::Gone), "after {ends} of {calls} calls");
        assert!(snapshot.goroutines.len() < 2000);
    }
}

#[test]
fn only_what_is_asked_for_is_looked_at() {
    let mut program = Program::new();
    let (_, second) = (program.parked(), program.parked());
    let view = View { memory: &program, binary: &program.binary, bias: 0, clock: Clock::Stopped };
    let snapshot = take_only(&view, ALL, &[second, 0x10]).unwrap();
    let goids: Vec<u64> = snapshot.goroutines.iter().map(|goroutine| goroutine.goid).collect();
    assert_eq!((goids, snapshot.unreadable), (vec![2], 1));
}

#[test]
fn a_list_that_is_not_there_is_an_error() {
    let mut program = Program::new();
    program.then = Then::Ends(0);
    let view = View { memory: &program, binary: &program.binary, bias: 0, clock: Clock::Stopped };
    let error = take(&view, ALL, &mut |_, _| ()).unwrap_err();
    assert_eq!(error.to_string(), "the list of its goroutines cannot be read: the process has ended");
}

/// Memory that says anything: every word is made of its address and a seed, unless it is said to
/// point into the memory again, or to look like a `g` that is alive.
struct Chaos {
    binary: GoBinary,
    seed: u64,
    /// The value of `allglen`.
    entries: u64,
}

/// Its array is no longer than this.
const MAPPED: u64 = 64 * 8;

impl Chaos {
    fn word(&self, addr: u64) -> u64 {
        let globals = self.binary.globals().unwrap();
        if addr == globals.allglen {
            return self.entries;
        }
        if addr == globals.allgptr {
            return ARRAY;
        }
        let mut word = (addr ^ self.seed).wrapping_mul(0x9e37_79b9_7f4a_7c15);
        word ^= word >> 29;
        word = word.wrapping_mul(0xbf58_476d_1ce4_e5b9);
        word ^= word >> 32;
        if (ARRAY..ARRAY + MAPPED).contains(&addr) {
            return G + (word % 64) * 0x1000;
        }
        let field = |name: &str| u64::from(self.binary.layout().field("g", name).unwrap());
        match (addr - G.min(addr)) % 0x1000 {
            at if at == field("sched.g") && !word.is_multiple_of(8) => addr - at,
            at if at == field("atomicstatus") => {
                (word % 12) | if word.is_multiple_of(5) { 0x1000 } else { 0 }
            }
            at if at == field("stack.lo") => STACK,
            at if at == field("stack.hi") => STACK + (word % 0x10_0000),
            at if at == field("sched.sp") || at == field("syscallsp") => STACK + word % 0x8000 / 8 * 8,
            // Code, addresses of this memory, small numbers, anything.
            _ => match word % 5 {
                0 => CODE + word % (6 * FUNCTION),
                1 => G + (word >> 8) % 0x100_0000 / 8 * 8,
                2 => STACK + (word >> 8) % 0x1_0000 / 8 * 8,
                3 => word % 64,
                _ => word,
            },
        }
    }
}

impl Memory for Chaos {
    fn read(&self, addr: u64, buffer: &mut [u8]) -> Result<(), Fault> {
        let end = addr.checked_add(buffer.len() as u64).ok_or(Fault::Unmapped(addr))?;
        let in_array = (ARRAY..ARRAY + (1 << 24)).contains(&addr);
        // Some pages are not mapped, and nothing behind the array.
        if in_array && end > ARRAY + MAPPED || (addr >> 12) % 7 == self.seed % 7 && !in_array && addr >= G {
            return Err(Fault::Unmapped(addr));
        }
        let mut from = addr;
        for part in buffer.chunk_by_mut({
            let mut next = addr;
            move |_, _| {
                next += 1;
                !next.is_multiple_of(8)
            }
        }) {
            let word = self.word(from & !7).to_le_bytes();
            let start = (from % 8) as usize;
            part.copy_from_slice(&word[start..start + part.len()]);
            from += part.len() as u64;
        }
        Ok(())
    }
}

#[test]
fn hostile_memory_is_read_within_bounds() {
    let versions = ["go1.19.8", "go1.26.6"];
    for (seed, entries) in [0, 7, 64, 65, u64::MAX / 8, u64::MAX].into_iter().enumerate() {
        let recipe = Recipe { version: versions[seed % 2], pie: false, heap: false };
        let binary = GoBinary::parse(binary(recipe).into()).unwrap();
        let chaos = Chaos { binary, seed: seed as u64, entries };
        let view = View { memory: &chaos, binary: &chaos.binary, bias: 0, clock: Clock::Live };
        let snapshot = take(&view, ALL, &mut |_, _| ()).unwrap();
        let most = entries.min(MAPPED / 8) as usize;
        let behind = entries.saturating_sub(1 << 24);
        assert!(snapshot.goroutines.len() + (snapshot.unreadable - behind) as usize <= most);
        assert_eq!(snapshot.incomplete.is_some(), entries > MAPPED / 8);
        for goroutine in &snapshot.goroutines {
            let (start, len) = goroutine.args;
            let frames = snapshot.stacks.get(goroutine.stack).len();
            assert!(frames <= 10_000);
            let text = snapshot.args.get(start..start + len).unwrap();
            assert!(len == 0 || text.lines().count() == frames);
            assert!(goroutine.waits.iter().all(|wait| (wait.object as usize) < snapshot.objects.len()));
        }
    }
}
