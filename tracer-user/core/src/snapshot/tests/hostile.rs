//! Lists that are longer than what is behind them, and more goroutines than are wanted. Each test has a bound on
//! memory.

use super::super::{Clock, Options, Sampled, Snapshot, View, take};
use super::{ARRAY, G};
use crate::binary::GoBinary;
use crate::event::status;
use crate::memory::{Fault, Memory};
use crate::testing::binary::{Recipe, binary};
use crate::testing::peak::peak;
use std::time::{Duration, Instant};

const SIZE: u64 = 1 << 10;
const MIB: usize = 1 << 20;

/// A program whose list has any number of entries, for a smaller number of goroutines. Every other one has ended.
struct Crowd {
    binary: GoBinary,
    entries: u64,
    goroutines: u64,
    resident: Option<u64>,
}

impl Crowd {
    fn new(entries: u64, goroutines: u64, resident: Option<u64>) -> Crowd {
        let recipe = Recipe { version: "go1.26.6", pie: false, heap: false };
        let binary = GoBinary::parse(binary(recipe).into()).unwrap();
        Crowd { binary, entries, goroutines, resident }
    }

    fn snapshot(&self, most: usize) -> Snapshot {
        let view = View { memory: self, binary: &self.binary, bias: 0, clock: Clock::Stopped };
        take(&view, Options { most, ..Options::default() }, &mut |_, _| {}).unwrap()
    }

    fn put(&self, g: u64, addr: u64, buffer: &mut [u8]) {
        let number = (g - G) / SIZE;
        let state = if number.is_multiple_of(2) { status::WAITING } else { status::DEAD };
        buffer.fill(0);
        for (field, word) in [("sched.g", g), ("goid", number + 1), ("atomicstatus", state.into())] {
            let at = g + u64::from(self.binary.layout().field("g", field).unwrap());
            let len = if field == "atomicstatus" { 4 } else { 8 };
            if let Some(into) = at.checked_sub(addr)
                && let Some(place) = buffer.get_mut(into as usize..).and_then(|rest| rest.get_mut(..len))
            {
                place.copy_from_slice(&word.to_le_bytes()[..len]);
            }
        }
    }
}

impl Memory for Crowd {
    fn read(&self, addr: u64, buffer: &mut [u8]) -> Result<(), Fault> {
        let globals = self.binary.globals().unwrap();
        if addr == globals.allglen || addr == globals.allgptr {
            let word = if addr == globals.allglen { self.entries } else { ARRAY };
            buffer.copy_from_slice(&word.to_le_bytes());
        } else if (ARRAY..ARRAY + self.entries * 8).contains(&addr) {
            for (word, index) in buffer.as_chunks_mut::<8>().0.iter_mut().zip((addr - ARRAY) / 8..) {
                *word = (G + index % self.goroutines * SIZE).to_le_bytes();
            }
        } else if (G..G + self.goroutines * SIZE).contains(&addr) {
            self.put(addr - (addr - G) % SIZE, addr, buffer);
        } else {
            return Err(Fault::Unmapped(addr));
        }
        Ok(())
    }

    fn resident(&self) -> Option<u64> {
        self.resident
    }
}

#[test]
fn sixteen_million_entries_that_are_one_goroutine() {
    let entries = 1 << 24;
    for resident in [None, Some(256 << 20)] {
        let crowd = Crowd::new(entries, 1, resident);
        let began = Instant::now();
        let (snapshot, used) = peak(|| crowd.snapshot(0));
        assert_eq!(snapshot.goroutines.len(), 1, "a g counts once");
        // Entries that the program has no memory for are not even looked at.
        assert_eq!(snapshot.unreadable > 14 << 20, resident.is_some());
        assert!(used < 4 * MIB, "{used}");
        assert!(began.elapsed() < Duration::from_secs(30));
        let (snapshot, used) = peak(|| crowd.snapshot(1000));
        assert_eq!(snapshot.goroutines.len(), 1);
        assert!(snapshot.sampled.is_none() && used < 8 * MIB, "{used}");
    }
}

#[test]
fn of_more_goroutines_than_are_wanted_a_sample_is_kept() {
    let (snapshot, used) = peak(|| Crowd::new(100_000, 100_000, None).snapshot(2000));
    let kept = snapshot.goroutines.len();
    assert!((800..=2400).contains(&kept), "{kept}");
    assert_eq!(snapshot.sampled, Some(Sampled { kept: kept as u64, total: 50_000 }));
    assert!(snapshot.lacks().unwrap().contains("of its 50000 goroutines were read, an even sample"));
    assert!(used < 4 * MIB, "{used}");
    // The list has grown, and the same are looked at again.
    let more = Crowd::new(110_000, 110_000, None).snapshot(2000);
    let goids = |snapshot: &Snapshot| snapshot.goroutines.iter().map(|one| one.goid).collect::<Vec<_>>();
    let again = goids(&more).into_iter().filter(|goid| *goid <= 100_000).collect::<Vec<_>>();
    assert_eq!(again, goids(&snapshot));
    let all = Crowd::new(100_000, 100_000, None).snapshot(50_000);
    assert_eq!((all.goroutines.len(), all.sampled), (50_000, None), "those that have ended do not count");
}
