//! The input is which executable (one byte), then changes to a memory in which it has goroutines
//! that wait: where (two bytes) and to what (a word; small ones are places in that memory).
#![no_main]

use libfuzzer_sys::fuzz_target;
use sfgi_core::{
    binary::GoBinary,
    memory::{Fault, Memory},
    snapshot::{Clock, Options, View, take},
};
use sfgi_fuzz::executable;

/// Where the memory begins, and how much there is.
const BASE: u64 = 0xc0_0000_0000;
const SIZE: usize = 16 << 10;
/// Offsets in it: the list of goroutines, the goroutines, their stacks, their `sudog`s, a channel
/// and the list of a `sync.Cond`.
const LIST: usize = 0;
const G: usize = 0x100;
const G_SIZE: usize = 0x200;
const STACK: usize = 0x1000;
const STACK_SIZE: usize = 0x400;
const SUDOG: usize = 0x2800;
const SUDOG_SIZE: usize = 0x80;
const CHANNEL: usize = 0x3000;
const COND: usize = 0x3100;
const GOROUTINES: usize = 5;

struct Target {
    bytes: Vec<u8>,
    /// Addresses of `allglen` and `allgptr`.
    list: [u64; 2],
}

impl Target {
    fn set(&mut self, at: usize, word: u64) {
        if let Some(place) = self.bytes.get_mut(at..at + 8) {
            place.copy_from_slice(&word.to_le_bytes());
        }
    }

    /// Goroutines that wait for each of the binary's reasons.
    fn of(binary: &GoBinary) -> Option<Target> {
        let globals = binary.globals().ok()?;
        let mut target = Target { bytes: vec![0; SIZE], list: [globals.allglen, globals.allgptr] };
        let layout = |of, field| binary.layout().field(of, field).map(|at| at as usize);
        let functions: Vec<u64> = binary.functions().functions().map(|function| function.entry + 8).collect();
        for index in 0..GOROUTINES {
            let g = G + index * G_SIZE;
            let (stack, sudog) = (STACK + index * STACK_SIZE, SUDOG + index * SUDOG_SIZE);
            let [stack_at, sudog_at, g_at] = [stack, sudog, g].map(|at| BASE + at as u64);
            target.set(LIST + index * 8, g_at);
            let sp = stack_at + STACK_SIZE as u64 - 0x80;
            for (field, word) in [
                ("stack.lo", stack_at),
                ("stack.hi", stack_at + STACK_SIZE as u64),
                ("sched.sp", sp),
                ("sched.pc", *functions.get(index % functions.len().max(1))?),
                ("sched.g", g_at),
                ("goid", index as u64 + 1),
                ("atomicstatus", 4),
                ("waitreason", index as u64 + 2),
                ("waiting", sudog_at),
                ("labels", sudog_at),
            ] {
                target.set(g + layout("g", field)?, word);
            }
            for (field, word) in [("g", g_at), ("next", sudog_at + SUDOG_SIZE as u64)] {
                target.set(sudog + layout("sudog", field)?, word);
            }
            // With the word that holds for good since Go 1.26.
            let elem = layout("sudog", "elem.vu").or(layout("sudog", "elem"))?;
            let c = layout("sudog", "c")? + elem - layout("sudog", "elem")?;
            let what = if index < 2 { (c, CHANNEL) } else { (elem, COND) };
            target.set(sudog + what.0, BASE + what.1 as u64);
            target.set(stack + STACK_SIZE - 0x80, BASE + COND as u64);
        }
        for field in ["recvq.first", "sendq.first"] {
            target.set(CHANNEL + layout("hchan", field)?, BASE + SUDOG as u64);
        }
        target.set(COND, GOROUTINES as u64);
        for (field, index) in [("head", 2), ("tail", GOROUTINES - 1)] {
            target.set(COND + layout("notifyList", field)?, BASE + (SUDOG + index * SUDOG_SIZE) as u64);
        }
        Some(target)
    }
}

impl Memory for Target {
    fn read(&self, addr: u64, buffer: &mut [u8]) -> Result<(), Fault> {
        let global = [GOROUTINES as u64, BASE + LIST as u64];
        if let (Some(index), 8) = (self.list.iter().position(|at| *at == addr), buffer.len()) {
            buffer.copy_from_slice(&global[index].to_le_bytes());
            return Ok(());
        }
        let at = addr.checked_sub(BASE).ok_or(Fault::Unmapped(addr))? as usize;
        let end = at.checked_add(buffer.len()).ok_or(Fault::Unmapped(addr))?;
        buffer.copy_from_slice(self.bytes.get(at..end).ok_or(Fault::Unmapped(addr))?);
        Ok(())
    }
}

fuzz_target!(|input: &[u8]| sfgi_fuzz::bounded(|| {
    let Some((which, changes)) = input.split_first() else { return };
    let Ok(binary) = GoBinary::parse(executable(which & 1).into()) else { return };
    let mut target = Target::of(&binary).expect("the executable has all that is needed");
    for change in changes.chunks_exact(10) {
        let at = usize::from(u16::from_le_bytes([change[0], change[1]])) % (SIZE - 8);
        let word = u64::from_le_bytes(change[2..].try_into().expect("eight bytes"));
        target.set(at, if word < SIZE as u64 { BASE + word } else { word });
    }
    let view = View { memory: &target, binary: &binary, bias: 0, clock: Clock::Stopped };
    let options = Options { stacks: true, args: true, labels: true, objects: true, most: 0 };
    let snapshot = take(&view, options, &mut |_, _| {}).expect("the list of goroutines can be read");
    if changes.len() < 10 {
        assert_eq!(snapshot.goroutines.len(), GOROUTINES);
        assert!(!snapshot.objects.is_empty());
    }
    for goroutine in &snapshot.goroutines {
        for wait in &goroutine.waits {
            assert!(snapshot.objects.get(wait.object as usize).is_some());
        }
    }
}));
