//! Queues made by hand: whole, racing, and of hostile memory. Real ones are read in the live tests.

use super::super::{Clock, Goroutine, ObjectKind, StackId, Trust, Wait, Wants};
use super::*;
use crate::binary::{GoBinary, SemTable};
use crate::goruntime::State;
use crate::memory::{Fault, Memory};
use crate::testing::binary::{REASONS, Recipe, binary};
use crate::testing::memory::Image;
use proptest::prelude::*;
use std::collections::HashMap;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};

const G: u64 = 0xc000_0000;
const SUDOG: u64 = 0xd000_0000;
const CHANNEL: u64 = 0xe000_0000;
const STACK: u64 = 0xf000_0000;
const SEMTABLE: u64 = 0x9000_0000;
const LIST: u64 = 0xa000_0000;

/// A program with some goroutines, whose memory is filled field by field.
struct Program {
    binary: GoBinary,
    words: HashMap<u64, u64>,
    snapshot: Snapshot,
}

impl Program {
    fn new(version: &'static str) -> Program {
        let binary = GoBinary::parse(binary(Recipe { version, pie: false, heap: false }).into()).unwrap();
        Program { binary, words: HashMap::new(), snapshot: Snapshot::default() }
    }

    fn set(&mut self, of: &str, base: u64, field: &str, value: u64) {
        let at = self.binary.layout().field(of, field).unwrap();
        self.words.insert(base + u64::from(at), value);
    }

    /// A goroutine that waits for this reason, with this `g.waiting`. Returns its `g`.
    fn goroutine(&mut self, reason: &str, waiting: u64) -> u64 {
        let number = self.snapshot.goroutines.len() as u64;
        let g = G + number * 0x1000;
        self.set("g", g, "waiting", waiting);
        self.set("g", g, "sched.sp", STACK + number * 0x1000 + 0xe00);
        self.set("g", g, "stack.hi", STACK + number * 0x1000 + 0x1000);
        let reason = REASONS.iter().position(|text| *text == reason).unwrap() as u8;
        self.snapshot.goroutines.push(Goroutine {
            goid: number + 1,
            g,
            state: State::Waiting,
            scan: false,
            trust: Trust::Still,
            reason,
            waiting_since_ns: 0,
            parent_goid: 0,
            gopc: 0,
            startpc: 0,
            tid: 0,
            locked: false,
            system: false,
            labels: 0,
            stack: StackId::default(),
            args: (0, 0),
            waits: Vec::new(),
            waits_known: false,
            stamp: 0,
            resume_pc: 0,
            stack_bounds: (0, 0),
        });
        g
    }

    /// Fills a `sudog`; `channel` and `elem` are the words that always hold.
    fn sudog(&mut self, number: u64, fields: &[(&str, u64)]) -> u64 {
        let addr = SUDOG + number * 0x100;
        let into = u64::from(self.binary.version().release.hides_sudog_elem()) * 8;
        for &(field, value) in fields {
            let into = if matches!(field, "c" | "elem") { into } else { 0 };
            let at = self.binary.layout().field("sudog", field).unwrap();
            self.words.insert(addr + u64::from(at) + into, value);
        }
        addr
    }

    fn globals(&self) -> Globals {
        Globals {
            allglen: 0,
            allgptr: 0,
            allm: None,
            allp: None,
            sched: None,
            semtable: Some(SemTable { addr: SEMTABLE, stride: 64, count: 251 }),
            first_module: None,
            mheap: None,
            pools: None,
            finalizers: None,
            cleanups: None,
        }
    }

    fn find_in(&mut self, memory: &(dyn Memory + Sync)) {
        let globals = self.globals();
        let view = View { memory, binary: &self.binary, bias: 0, clock: Clock::Stopped };
        find(&view, &globals, &mut self.snapshot);
    }

    fn find(&mut self) {
        let words = std::mem::take(&mut self.words);
        self.find_in(&Sparse(words));
    }

    /// What goroutine `index` waits for: address, kind, direction.
    fn waits(&self, index: usize) -> Vec<(u64, &ObjectKind, Wants)> {
        let object = |wait: &Wait| &self.snapshot.objects[wait.object as usize];
        let waits = self.snapshot.goroutines[index].waits.iter();
        waits.map(|wait| (object(wait).addr, &object(wait).kind, wait.wants)).collect()
    }
}

/// Words in pages that are otherwise zero.
struct Sparse(HashMap<u64, u64>);

impl Memory for Sparse {
    fn read(&self, addr: u64, buffer: &mut [u8]) -> Result<(), Fault> {
        let len = buffer.len() as u64;
        let end = addr
            .checked_add(len)
            .filter(|_| addr >= 4096 && addr.is_multiple_of(4))
            .ok_or(Fault::Unmapped(addr))?;
        buffer.fill(0);
        for start in (addr & !7..end).step_by(8) {
            let Some(word) = self.0.get(&start) else { continue };
            for (at, byte) in (start..).zip(word.to_le_bytes()).filter(|(at, _)| (addr..end).contains(at)) {
                buffer[(at - addr) as usize] = byte;
            }
        }
        Ok(())
    }
}

const VERSIONS: [&str; 2] = ["go1.19.8", "go1.26.6"];

#[test]
fn the_cases_of_selects_are_told_by_their_queues() {
    for version in VERSIONS {
        let mut program = Program::new(version);
        // Three selects that send to a channel; the one in the middle is not in the snapshot.
        for index in [0, 2] {
            let g = program.goroutine("select", SUDOG + index * 0x100);
            program.sudog(index, &[("g", g), ("c", CHANNEL)]);
        }
        program.sudog(0, &[("next", SUDOG + 0x100)]);
        program.sudog(1, &[("g", G + 0x9000), ("c", CHANNEL), ("prev", SUDOG), ("next", SUDOG + 0x200)]);
        program.sudog(2, &[("prev", SUDOG + 0x100), ("waitlink", SUDOG + 0x300)]);
        program.set("hchan", CHANNEL, "sendq.first", SUDOG);
        program.set("hchan", CHANNEL, "sendq.last", SUDOG + 0x200);
        // The last one's second case is of a channel whose queue does not have it (any more).
        let g = program.snapshot.goroutines[1].g;
        program.sudog(3, &[("g", g), ("c", CHANNEL + 0x100)]);
        program.set("hchan", CHANNEL, "dataqsiz", 0);
        program.find();
        let kind = |senders| ObjectKind::Channel {
            len: 0,
            cap: 0,
            closed: false,
            timer: false,
            element_size: 0,
            receivers: 0,
            senders,
        };
        assert_eq!(program.waits(0), [(CHANNEL, &kind(2), Wants::Send)]);
        let second = [(CHANNEL, &kind(2), Wants::Send), (CHANNEL + 0x100, &kind(0), Wants::Unknown)];
        assert_eq!(program.waits(1), second);
        assert_eq!(program.snapshot.objects[0].waiters, [0, 1]);
    }
}

#[test]
fn sudogs_of_others_and_channels_that_make_no_sense_do_not_count() {
    for version in VERSIONS {
        let mut program = Program::new(version);
        program.goroutine("chan receive", SUDOG);
        program.sudog(0, &[("g", G + 0x1000), ("c", CHANNEL)]);
        let g = program.goroutine("chan receive", SUDOG + 0x100);
        program.sudog(1, &[("g", g), ("c", CHANNEL)]);
        program.set("hchan", CHANNEL, "qcount", 1);
        program.goroutine("IO wait", SUDOG + 0x100);
        program.find();
        assert!(program.snapshot.objects.is_empty());
        assert!((0..3).all(|index| program.waits(index).is_empty()));
    }
}

/// Bucket 7 of the table has a tree of three addresses; two goroutines wait at the one on the left.
#[test]
fn semaphores_of_old_versions_are_in_the_table() {
    let mut program = Program::new("go1.19.8");
    let mutex = 0xb000_0000;
    for (number, reason) in
        ["sync.Mutex.Lock", "semacquire", "sync.Mutex.Lock", "semacquire"].iter().enumerate()
    {
        let g = program.goroutine(reason, 0);
        let elem = [mutex + 0x104, mutex + 0x204, mutex + 4, mutex + 4][number];
        program.sudog(number as u64, &[("g", g), ("elem", elem)]);
    }
    program.set("semaRoot", SEMTABLE + 7 * 64, "treap", SUDOG);
    program.sudog(0, &[("prev", SUDOG + 0x200), ("next", SUDOG + 0x100)]);
    program.sudog(2, &[("waitlink", SUDOG + 0x300)]);
    // A ring: what was read is not looked at again.
    program.sudog(3, &[("waitlink", SUDOG)]);
    program.words.insert(mutex, 1);
    program.find();
    let locked = ObjectKind::Mutex { locked: true };
    assert_eq!(program.waits(0), [(mutex + 0x100, &ObjectKind::Mutex { locked: false }, Wants::Lock)]);
    assert_eq!(program.waits(1), [(mutex + 0x204, &ObjectKind::Semaphore, Wants::Wake)]);
    assert_eq!(program.waits(2), [(mutex, &locked, Wants::Lock)]);
    assert_eq!(program.waits(3), [(mutex + 4, &ObjectKind::Semaphore, Wants::Wake)]);
    let at = |addr| program.snapshot.object_at(addr).map(|index| &program.snapshot.objects[index as usize]);
    assert_eq!(at(mutex).map(|object| &object.kind), Some(&locked));
    assert_eq!(at(mutex + 0x104).map(|object| object.addr), Some(mutex + 0x100), "the semaphore in it");
    assert_eq!(at(mutex + 4).map(|object| &object.kind), Some(&ObjectKind::Semaphore), "its own start");
    assert_eq!((at(mutex + 0x108), at(mutex + 0x208)), (None, None));
}

/// The stack has the address of the `Cond`, not of its list; and other words.
#[test]
fn conds_of_old_versions_are_on_the_stack() {
    let mut program = Program::new("go1.19.8");
    for number in 0..3 {
        let g = program.goroutine("sync.Cond.Wait", 0);
        let next = if number < 2 { SUDOG + (number + 1) * 0x100 } else { 0 };
        program.sudog(number, &[("g", g), ("next", next)]);
    }
    let words = [(0, 1), (8, u64::MAX), (16, STACK + 0xf00), (24, SUDOG), (32, LIST - 16)];
    program.words.extend(words.map(|(at, word)| (STACK + 0xe00 + at, word)));
    // One that is not in the list, although the list is on its stack.
    program.goroutine("sync.Cond.Wait", 0);
    program.words.insert(STACK + 0x3e00, LIST);
    // wait = 3, notify = 0
    program.words.insert(LIST, 3);
    program.set("notifyList", LIST, "head", SUDOG);
    program.set("notifyList", LIST, "tail", SUDOG + 0x200);
    program.find();
    for index in 0..3 {
        assert_eq!(program.waits(index), [(LIST - 16, &ObjectKind::Cond, Wants::Wake)]);
    }
    assert!(program.waits(3).is_empty());
    assert_eq!(program.snapshot.objects[0].waiters, [0, 1, 2]);
}

/// Memory that goes on for ever: every word is one of a few, chosen by its address.
struct Endless {
    words: Vec<u64>,
    reads: AtomicUsize,
}

impl Memory for Endless {
    fn read(&self, addr: u64, buffer: &mut [u8]) -> Result<(), Fault> {
        self.reads.fetch_add(1, Relaxed);
        for (at, word) in (0u64..).zip(buffer.chunks_mut(8)) {
            let hash = (addr / 8).wrapping_add(at).wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 32;
            let chosen = self.words[hash as usize % self.words.len()];
            // An address that leads on and on.
            let value = if chosen == 1 { 0x10_0000 + hash * 64 } else { chosen };
            word.copy_from_slice(&value.to_le_bytes()[..word.len()]);
        }
        Ok(())
    }
}

/// What must hold of any result.
fn check(snapshot: &Snapshot) {
    for (index, goroutine) in snapshot.goroutines.iter().enumerate() {
        for wait in &goroutine.waits {
            let object = &snapshot.objects[wait.object as usize];
            assert!(object.waiters.contains(&(index as u32)));
        }
    }
    for object in &snapshot.objects {
        assert!(object.waiters.is_sorted_by(|a, b| a < b) && !object.waiters.is_empty());
    }
}

fn reasons() -> impl Strategy<Value = Vec<usize>> {
    prop::collection::vec(2..REASONS.len(), 1..8)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(8))]

    #[test]
    fn memory_without_end_is_not_followed_without_end(
        which in 0..2usize,
        reasons in reasons(),
        words in prop::collection::vec(prop_oneof![Just(1), Just(0), (0..8u64).prop_map(|n| G + n * 0x1000), 0..9u64], 1..20),
    ) {
        let mut program = Program::new(VERSIONS[which]);
        for reason in reasons {
            program.goroutine(REASONS[reason], 0);
        }
        let memory = Endless { words, reads: AtomicUsize::new(0) };
        program.find_in(&memory);
        prop_assert!(memory.reads.load(Relaxed) < 100_000, "{}", memory.reads.load(Relaxed));
        check(&program.snapshot);
    }
}

proptest! {

    /// `sudog`s, channels, lists and stacks that point to each other in any way.
    #[test]
    fn any_net_of_pointers_is_survived(
        which in 0..2usize,
        reasons in reasons(),
        links in prop::collection::vec((0..12u64, 0..9usize, 0..40u64), 0..80),
    ) {
        let mut program = Program::new(VERSIONS[which]);
        for (number, reason) in (0u64..).zip(reasons) {
            let g = program.goroutine(REASONS[reason], SUDOG + number * 0x100);
            program.sudog(number, &[("g", g), ("c", CHANNEL), ("elem", LIST)]);
            program.words.insert(STACK + number * 0x1000 + 0xe00, LIST);
        }
        program.words.insert(LIST, 9);
        for (number, field, target) in links {
            let to = [SUDOG, CHANNEL, LIST, 0][target as usize % 4] + target / 4 * 0x100;
            let sudog_fields = ["g", "next", "prev", "elem", "waitlink", "c"];
            match field {
                6 => program.set("hchan", CHANNEL + number % 3 * 0x100, "recvq.first", to),
                7 => program.set("notifyList", LIST, "head", to),
                8 => program.set("semaRoot", SEMTABLE + number * 64, "treap", to),
                field => { program.sudog(number, &[(sudog_fields[field], to)]); }
            }
        }
        program.set("notifyList", LIST, "tail", SUDOG);
        program.find();
        check(&program.snapshot);
    }
}

#[test]
fn a_memory_with_nothing_in_it() {
    for version in VERSIONS {
        let mut program = Program::new(version);
        program.goroutine("select", SUDOG);
        program.find_in(&Image::default());
        assert!(program.waits(0).is_empty());
    }
}
