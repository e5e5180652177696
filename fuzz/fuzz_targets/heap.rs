//! The input is which executable (one byte), then changes to a memory in which it has a small heap,
//! variables, finalizers, cleanups, timers, and two goroutines that wait for a channel each: where (two bytes) and to
//! what (a word; small ones are places in that memory).
#![no_main]

use libfuzzer_sys::fuzz_target;
use sfgi_core::{
    binary::GoBinary,
    heap::{Options, Registers, observe},
    memory::{Fault, Memory},
    objects::{Objects, Reading},
    snapshot::{Clock, View},
};
use sfgi_fuzz::executable_with_heap;
use std::{collections::HashMap, time::Duration};

/// Where the memory begins, and how much there is.
const BASE: u64 = 0xc0_0000_0000;
const SIZE: usize = 64 << 10;
/// Offsets in it.
const LIST: usize = 0;
const SPANS: usize = 0x40;
const PS: usize = 0x80;
const G: usize = 0x200;
const G_SIZE: usize = 0x400;
const SUDOG: usize = 0xa00;
const SUDOG_SIZE: usize = 0x100;
const SPECIAL: usize = 0xd00;
const SPAN: usize = 0xe00;
const SPAN_SIZE: usize = 0x100;
const STACK: usize = 0x1000;
const STACK_SIZE: usize = 0x400;
const VARIABLES: usize = 0x2000;
const MASK: usize = 0x2100;
const TIMERS: usize = 0x2200;
const M: usize = 0x3000;
/// A block of finalizers that are due, and one of cleanups.
const FINALIZERS: usize = 0x4000;
const CLEANUPS: usize = 0x5000;
/// Offset of `cleanupQueue.all`.
const ALL_CLEANUPS: u64 = 128;
/// Descriptors of types, the fields of one, and their names.
const TYPES: usize = 0x6000;
const FIELDS: usize = 0x6800;
const NAMES: usize = 0x6c00;
const TYPES_END: usize = 0x7000;
/// The heap: a page of objects with pointers, and one without.
const OBJECTS: usize = 0x8000;
const OBJECT: u64 = 128;
const PAGE: usize = 8192;

struct Target {
    bytes: Vec<u8>,
    /// The runtime's variables, by their addresses.
    variables: HashMap<u64, u64>,
}

fn at(offset: usize) -> u64 {
    BASE + offset as u64
}

impl Target {
    fn set(&mut self, at: usize, word: u64) {
        if let Some(place) = self.bytes.get_mut(at..at + 8) {
            place.copy_from_slice(&word.to_le_bytes());
        }
    }

    fn of(binary: &GoBinary) -> Option<Target> {
        let mut target = Target { bytes: vec![0; SIZE], variables: HashMap::new() };
        let layout = |of, field| binary.layout().field(of, field).map(|at| at as usize);
        target.runtime(binary)?;
        for index in 0..2 {
            let (g, sudog) = (G + index * G_SIZE, SUDOG + index * SUDOG_SIZE);
            let (stack, channel) = (STACK + index * STACK_SIZE, OBJECTS + index * OBJECT as usize);
            target.set(LIST + index * 8, at(g));
            for (field, word) in [
                ("stack.lo", at(stack)),
                ("stack.hi", at(stack + STACK_SIZE)),
                ("sched.sp", at(stack + STACK_SIZE - 0x80)),
                ("sched.pc", binary.functions().find("main.main")?.entry + 4),
                ("sched.g", at(g)),
                ("goid", index as u64 + 1),
                ("atomicstatus", 4),
                ("waitreason", 2),
                ("waiting", at(sudog)),
            ] {
                target.set(g + layout("g", field)?, word);
            }
            target.set(sudog + layout("sudog", "g")?, at(g));
            // With the word that holds for good since Go 1.26.
            let vu = layout("sudog", "elem.vu").map_or(0, |vu| vu - layout("sudog", "elem").unwrap_or(vu));
            target.set(sudog + layout("sudog", "c")? + vu, at(channel));
            target.set(channel + layout("hchan", "recvq.first")?, at(sudog));
            // Its elements are structs; behind their size it says that it is open.
            target.set(channel + layout("hchan", "elemtype")?, at(TYPES));
            target.set(channel + layout("hchan", "elemsize")?, OBJECT);
        }
        for (index, noscan) in [0, 1].into_iter().enumerate() {
            let span = SPAN + index * SPAN_SIZE;
            target.set(SPANS + index * 8, at(span));
            for (field, word) in [
                ("startAddr", at(OBJECTS + index * PAGE)),
                ("npages", 1),
                ("nelems", PAGE as u64 / OBJECT),
                ("elemsize", OBJECT),
                ("specials", if index == 0 { at(SPECIAL) } else { 0 }),
            ] {
                target.set(span + layout("mspan", field)?, word);
            }
            target.bytes[span + layout("mspan", "state")?] = 1;
            target.bytes[span + layout("mspan", "spanclass")?] = 10 + noscan;
        }
        // Somebody refers to the first channel.
        target.set(VARIABLES + 8, at(OBJECTS));
        target.set(MASK, u64::MAX);
        Some(target)
    }

    /// What is found by the binary's code.
    fn runtime(&mut self, binary: &GoBinary) -> Option<()> {
        let globals = binary.globals().ok()?;
        let layout = |of, field| binary.layout().field(of, field).map(u64::from);
        let (module, allp) = (globals.first_module?, globals.allp?);
        let spans = globals.mheap? + layout("mheap", "allspans")?;
        self.variables.extend([
            (globals.allglen, 2),
            (globals.allgptr, at(LIST)),
            (globals.allm?, at(M)),
            (allp, at(PS)),
            (allp + 8, 1),
            (spans, at(SPANS)),
            (spans + 8, 2),
            (globals.finalizers?.all, at(FINALIZERS)),
            (globals.cleanups? + ALL_CLEANUPS, at(CLEANUPS)),
        ]);
        // One of each, for the object that somebody refers to anyway.
        for (count, entry) in [(FINALIZERS + 16, FINALIZERS + 24), (CLEANUPS + 24, CLEANUPS + 32)] {
            self.set(count, 1);
            self.set(entry, at(OBJECTS));
        }
        let fields = [("data", VARIABLES), ("edata", MASK), ("gcdatamask.bytedata", MASK)];
        for (field, offset) in fields {
            self.variables.insert(module + layout("moduledata", field)?, at(offset));
        }
        self.types();
        for (field, offset) in [("types", TYPES), ("etypes", TYPES_END)] {
            self.variables.insert(module + layout("moduledata", field)?, at(offset));
        }
        for field in ["bss", "ebss", "gcbssmask.bytedata", "next"] {
            self.variables.insert(module + layout("moduledata", field)?, 0);
        }
        // A p with two timers; it is large, and only the end of it is there.
        let heap = layout("p", "timers.heap").or_else(|| layout("p", "timers"))?;
        let p = 0x7000_0000;
        self.set(PS, p);
        self.variables.extend([(p + heap, at(TIMERS)), (p + heap + 8, 2)]);
        Some(())
    }
}

impl Target {
    /// A struct with a pointer to itself, a slice and an interface, what these are made of, and an interface that holds it.
    fn types(&mut self) {
        const STRUCT: usize = TYPES;
        const POINTER: usize = TYPES + 0x100;
        const SLICE: usize = TYPES + 0x200;
        const EMPTY: usize = TYPES + 0x300;
        let types = [
            (STRUCT, OBJECT, 25, "S"),
            (POINTER, 8, 22, "*S"),
            (SLICE, 24, 23, "[]S"),
            (EMPTY, 16, 20, "interface {}"),
        ];
        for (index, (place, size, kind, name)) in types.into_iter().enumerate() {
            let named = NAMES + index * 0x40;
            self.bytes[named + 1] = name.len() as u8;
            self.bytes[named + 2..named + 2 + name.len()].copy_from_slice(name.as_bytes());
            // Only the struct has a name of its own, and a pointer is the value in an interface.
            let flags: u64 = if kind == 25 { 4 } else { 0x20 };
            self.set(place, size);
            self.set(place + 8, size);
            self.set(place + 16, flags << 32 | 8 << 40 | 8 << 48 | kind << 56);
            self.set(place + 32, at(TYPES));
            self.set(place + 40, (named - TYPES) as u64);
            self.set(place + 48, at(STRUCT));
        }
        self.set(STRUCT + 56, at(FIELDS));
        self.set(STRUCT + 64, 3);
        self.set(EMPTY + 64, 0);
        for (index, (of, offset)) in [(POINTER, 0), (SLICE, 8), (EMPTY, 32)].into_iter().enumerate() {
            let field = FIELDS + index * 24;
            self.set(field, at(NAMES));
            self.set(field + 8, at(of));
            self.set(field + 16, offset);
        }
        // An interface that holds the object which somebody refers to.
        self.set(VARIABLES, at(POINTER));
    }
}

impl Memory for Target {
    fn read(&self, addr: u64, buffer: &mut [u8]) -> Result<(), Fault> {
        if let (Some(word), 8) = (self.variables.get(&addr), buffer.len()) {
            buffer.copy_from_slice(&word.to_le_bytes());
            return Ok(());
        }
        let from = addr.checked_sub(BASE).ok_or(Fault::Unmapped(addr))? as usize;
        let end = from.checked_add(buffer.len()).ok_or(Fault::Unmapped(addr))?;
        buffer.copy_from_slice(self.bytes.get(from..end).ok_or(Fault::Unmapped(addr))?);
        Ok(())
    }
}

fuzz_target!(|input: &[u8]| sfgi_fuzz::bounded(|| {
    let Some((which, changes)) = input.split_first() else { return };
    let Ok(binary) = GoBinary::parse(executable_with_heap(which & 1).into()) else { return };
    let mut target = Target::of(&binary).expect("the executable has all that is needed");
    for change in changes.chunks_exact(10) {
        let place = usize::from(u16::from_le_bytes([change[0], change[1]])) % (SIZE - 8);
        let word = u64::from_le_bytes(change[2..].try_into().expect("eight bytes"));
        target.set(place, if word < SIZE as u64 { BASE + word } else { word });
    }
    let view = View { memory: &target, binary: &binary, bias: 0, clock: Clock::Stopped };
    let options = Options { window: Duration::ZERO, passes: 1, threads: 1, heap: true, most: 0 };
    let mut found = observe(&view, &options, &mut Registers::Unknown, &mut |_| {})
        .expect("the list of goroutines can be read");
    let observed = &found.observed;
    assert_eq!(observed.facts.len(), observed.snapshot.goroutines.len());
    if changes.len() < 10 {
        let unreachable: Vec<bool> = observed.facts.iter().map(|facts| facts.unreachable).collect();
        assert_eq!((unreachable, observed.passes), (vec![false, true], 1), "{:?}", observed.doubt);
    }
    let all: Vec<u32> = (0..observed.facts.len() as u32).collect();
    for set in &observed.sets {
        assert!(set.members.iter().all(|member| all.contains(member)));
    }
    found.pinned(&[all]);
    let reading = Reading {
        most: u64::MAX,
        known: Default::default(),
        registers: &[],
        stopped: true,
        without: &Default::default(),
        progress: &mut |_, _| {},
    };
    let read = Objects::read(view, reading);
    assert!(read.is_ok() || changes.len() >= 10, "{:?}", read.err());
    // A change can make the heap one that cannot be read.
    let Ok(mut objects) = read else { return };
    let contexts = objects.contexts().expect("the budget allows so little");
    assert!(contexts.list.is_sorted_by_key(|context| context.addr));
    let share = objects.share();
    assert!(share.typed_objects <= share.objects && share.typed_bytes <= share.bytes);
    for index in 0..2 * PAGE as u64 / OBJECT {
        let addr = at(OBJECTS) + index * OBJECT;
        for way in objects.ways(addr, 3).expect("the budget allows so little") {
            assert!(
                way.hops
                    .last()
                    .is_some_and(|hop| (hop.object.address..hop.object.address + OBJECT).contains(&addr))
            );
            assert!(!way.to_string().is_empty());
        }
        let (objects_kept, _) = objects.retained(&[addr]).expect("the budget allows so little");
        assert!(objects_kept <= share.objects);
    }
    if changes.len() < 10 {
        assert!(objects.untyped().is_none(), "{:?}", objects.untyped());
        let first = objects.describe(at(OBJECTS)).expect("an object");
        assert_eq!(first.of.as_deref(), Some("chan S"));
    }
}));
