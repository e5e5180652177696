//! Which reads of this process are in progress, and for how long.
//!
//! A page that nobody fills (userfaultfd), a file system that does not answer: the kernel keeps whoever reads there,
//! and no signal but SIGKILL ends it. So every such read is noted in a table, which another process or thread looks at
//! ([`longest`]) and draws the consequence. A read costs two stores and a look at the clock, which needs no system
//! call.
//!
//! The table may lie in memory that is shared with the process that watches ([`share`]).

use std::{
    cell::Cell,
    ptr::{self, NonNull},
    sync::atomic::{AtomicPtr, AtomicU64, Ordering::Relaxed},
    time::Duration,
};

use rustix::time::{ClockId, clock_gettime};

/// Threads whose reads are noted at one time: a bit of [`Table::taken`] each. Further ones read unwatched; no command
/// has so many.
const SLOTS: usize = 64;
/// Bits of a slot that say what is read. The rest is the time.
const WHAT_BITS: u32 = 8;

/// What is being read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum What {
    /// The memory of a target.
    Memory = 1,
    /// A file of `/proc` about a target: the kernel may wait for a lock of the target.
    Proc = 2,
    /// The executable of a target, or its debug file.
    Executable = 3,
    /// A file that the user named.
    File = 4,
}

impl What {
    fn of(byte: u64) -> Option<What> {
        [What::Memory, What::Proc, What::Executable, What::File].into_iter().find(|what| *what as u64 == byte)
    }
}

impl std::fmt::Display for What {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            What::Memory => "its memory",
            What::Proc => "what the kernel says of it in /proc",
            What::Executable => "its executable",
            What::File => "a file",
        })
    }
}

/// A read that has not ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Pending {
    /// What is read.
    pub what: What,
    /// How long it has taken so far. The clock has a resolution of a few milliseconds.
    pub since: Duration,
}

/// The reads in progress. Zero bytes are an empty one.
#[repr(C)]
#[derive(Debug)]
pub struct Table {
    /// By slot, when its read began (milliseconds of the clock) and what it reads; 0: it reads nothing.
    slots: [AtomicU64; SLOTS],
    /// Slots that belong to a thread.
    taken: AtomicU64,
}

impl Table {
    /// One in which nothing is read.
    pub const fn new() -> Table {
        Table { slots: [const { AtomicU64::new(0) }; SLOTS], taken: AtomicU64::new(0) }
    }

    /// The read that has taken longest so far.
    pub fn longest(&self) -> Option<Pending> {
        let now = now_ms();
        let pending = self.slots.iter().filter_map(|slot| {
            let entry = slot.load(Relaxed);
            let what = What::of(entry & ((1 << WHAT_BITS) - 1))?;
            Some(Pending { what, since: Duration::from_millis(now.saturating_sub(entry >> WHAT_BITS)) })
        });
        pending.max_by_key(|pending| pending.since)
    }
}

impl Default for Table {
    fn default() -> Table {
        Table::new()
    }
}

/// The table of a process that shares none.
static OWN: Table = Table::new();
/// The table in use; null: [`OWN`].
static SHARED: AtomicPtr<Table> = AtomicPtr::new(ptr::null_mut());

fn table() -> &'static Table {
    match NonNull::new(SHARED.load(Relaxed)) {
        // SAFETY: who called `share` promised that the table stays as long as the process.
        Some(shared) => unsafe { shared.as_ref() },
        None => &OWN,
    }
}

/// Notes reads in this table from now on. Before the first read of this process, else threads that have a slot in the
/// table before share it with others.
///
/// # Safety
/// `table` is aligned, holds a [`Table`] (zero bytes do), and stays mapped and writable until the process ends. Other
/// processes may read it meanwhile.
pub unsafe fn share(table: NonNull<Table>) {
    SHARED.store(table.as_ptr(), Relaxed);
}

/// The read of this process that has taken longest so far.
pub fn longest() -> Option<Pending> {
    table().longest()
}

/// A slot of the table, given back when its thread ends.
struct Slot {
    /// Its number; [`SLOTS`]: there was none left.
    number: usize,
}

impl Slot {
    fn take() -> Slot {
        let taken = &table().taken;
        let mut known = taken.load(Relaxed);
        loop {
            let number = known.trailing_ones() as usize;
            if number >= SLOTS {
                return Slot { number: SLOTS };
            }
            match taken.compare_exchange_weak(known, known | 1 << number, Relaxed, Relaxed) {
                Ok(_) => return Slot { number },
                Err(now) => known = now,
            }
        }
    }
}

impl Drop for Slot {
    fn drop(&mut self) {
        if let Some(slot) = table().slots.get(self.number) {
            slot.store(0, Relaxed);
            table().taken.fetch_and(!(1 << self.number), Relaxed);
        }
    }
}

/// Leaves the reads of this thread out of the table from now on: whoever waits for the thread goes on without it where
/// it hangs.
pub fn unwatch() {
    UNWATCHED.set(true);
}

thread_local! {
    static UNWATCHED: Cell<bool> = const { Cell::new(false) };
    static SLOT: Slot = Slot::take();
    /// The entry of the read around the one that begins: reading a debug file is part of reading the executable.
    static OUTER: Cell<u64> = const { Cell::new(0) };
}

/// A read in progress, until it is dropped.
#[must_use = "the read counts until this is dropped"]
#[derive(Debug)]
pub struct Reading {
    outer: u64,
}

/// Notes that this thread begins to read. Within another read it is noted instead of that one, which then counts on
/// with the time at which it began.
pub fn reading(what: What) -> Reading {
    let entry = now_ms() << WHAT_BITS | what as u64;
    let outer = OUTER.replace(entry);
    note(entry);
    Reading { outer }
}

impl Drop for Reading {
    fn drop(&mut self) {
        OUTER.set(self.outer);
        note(self.outer);
    }
}

fn note(entry: u64) {
    if UNWATCHED.get() {
        return;
    }
    // A thread that ends has no slot any more.
    let _ = SLOT.try_with(|slot| {
        if let Some(slot) = table().slots.get(slot.number) {
            slot.store(entry, Relaxed);
        }
    });
}

/// The clock, milliseconds: the same for all processes.
fn now_ms() -> u64 {
    let now = clock_gettime(ClockId::MonotonicCoarse);
    now.tv_sec.unsigned_abs() * 1000 + now.tv_nsec.unsigned_abs() / 1_000_000
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_read_is_in_the_table_while_it_lasts() {
        let seen = |what| OWN.slots.iter().any(|slot| slot.load(Relaxed) & 0xff == what as u64);
        let outer = reading(What::File);
        std::thread::sleep(Duration::from_millis(30));
        let pending = longest().unwrap();
        assert!(pending.since >= Duration::from_millis(10), "{pending:?}");
        let number = SLOT.with(|slot| slot.number);
        {
            let _inner = reading(What::Executable);
            assert_eq!(OWN.slots[number].load(Relaxed) & 0xff, What::Executable as u64);
        }
        let entry = OWN.slots[number].load(Relaxed);
        assert!(seen(What::File) && now_ms() - (entry >> WHAT_BITS) >= 10, "the outer one goes on");
        drop(outer);
        assert_eq!(OWN.slots[number].load(Relaxed), 0);
        threads_beyond_the_table_read_unwatched();
    }

    #[test]
    fn a_thread_can_read_unwatched() {
        let noted = std::thread::spawn(|| {
            unwatch();
            let _reading = reading(What::Proc);
            OWN.slots.iter().any(|slot| slot.load(Relaxed) & 0xff == What::Proc as u64)
        });
        assert!(!noted.join().unwrap());
    }

    // Not beside the other one: it takes all slots.
    fn threads_beyond_the_table_read_unwatched() {
        let wait = std::sync::Barrier::new(SLOTS + 8);
        let numbers: Vec<usize> = std::thread::scope(|scope| {
            let threads: Vec<_> = (0..SLOTS + 8)
                .map(|_| {
                    scope.spawn(|| {
                        let _reading = reading(What::Memory);
                        wait.wait();
                        SLOT.with(|slot| slot.number)
                    })
                })
                .collect();
            threads.into_iter().map(|thread| thread.join().unwrap()).collect()
        });
        assert!(numbers.contains(&SLOTS));
        let within = std::thread::spawn(|| SLOT.with(|slot| slot.number)).join().unwrap();
        assert!(within < SLOTS);
    }
}
