//! The bytes of an execution trace: header, batches, events (`src/internal/trace/event/go122` and `batch.go` of
//! Go 1.24).

use prost::encoding::encode_varint;
use std::{
    collections::BTreeMap,
    io::{self, Write},
};

/// The oldest of the second format's headers; the readers of Go 1.22 and all later ones take it.
const HEADER: &[u8; 16] = b"go 1.22 trace\0\0\0";

/// The only generation, see the module's documentation.
const GENERATION: u64 = 1;

/// The thread of what happens on none.
pub(super) const NO_THREAD: u64 = u64::MAX;

/// A batch is written when it has this many bytes; readers take 64 KiB.
const FULL: usize = 16 << 10;

/// What a batch begins with if it does not hold events.
const EVENT_BATCH: u8 = 1;
pub(super) const STACKS: u8 = 2;
pub(super) const STACK: u8 = 3;
pub(super) const STRINGS: u8 = 4;
pub(super) const STRING: u8 = 5;
const FREQUENCY: u8 = 8;

/// Events with a time, as they are numbered; beside each its arguments.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub(super) enum Kind {
    /// P, sequence number of P.
    ProcStart = 10,
    ProcStop = 11,
    /// P, [`ProcStatus`].
    ProcStatus = 13,
    /// New goroutine, stack it begins with, stack of the `go` statement.
    GoCreate = 14,
    /// New goroutine.
    GoCreateSyscall = 15,
    /// Goroutine, its sequence number.
    GoStart = 16,
    GoDestroy = 17,
    GoDestroySyscall = 18,
    /// Reason, stack.
    GoStop = 19,
    /// Reason, stack.
    GoBlock = 20,
    /// Goroutine, its sequence number, stack of the one who wakes.
    GoUnblock = 21,
    /// Sequence number of P, stack.
    GoSyscallBegin = 22,
    GoSyscallEnd = 23,
    GoSyscallEndBlocked = 24,
    /// Goroutine, thread, [`GoStatus`].
    GoStatus = 25,
    /// Sequence number, stack.
    GcBegin = 29,
    /// Sequence number.
    GcEnd = 30,
    /// Task, key, value, stack.
    UserLog = 44,
}

/// States of a P.
#[derive(Clone, Copy, Debug)]
#[repr(u8)]
pub(super) enum ProcStatus {
    Running = 1,
    Syscall = 3,
}

/// States of a goroutine.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub(super) enum GoStatus {
    Runnable = 1,
    Running = 2,
    Syscall = 3,
    Waiting = 4,
}

/// Writes a trace. Events are gathered by thread.
pub(super) struct Wire<W> {
    out: W,
    threads: BTreeMap<u64, Batch>,
    /// When what comes next happens.
    now_ts: u64,
    /// Time of the last event.
    last_ts: u64,
    /// Time of the first; 0: there is none. Readers take the lowest time of a batch for the beginning, so every batch has one.
    first_ts: u64,
}

/// Events of one thread that are not written yet.
#[derive(Default)]
struct Batch {
    /// Time of the first.
    ts: u64,
    /// Time of the last.
    last_ts: u64,
    data: Vec<u8>,
}

impl<W: Write> Wire<W> {
    pub(super) fn new(out: W) -> Wire<W> {
        Wire { out, threads: BTreeMap::new(), now_ts: 0, last_ts: 0, first_ts: 0 }
    }

    /// What a trace begins with.
    pub(super) fn begin(&mut self) -> io::Result<()> {
        self.out.write_all(HEADER)
    }

    /// Says when the trace begins, and that times are in nanoseconds.
    fn first(&mut self, ts: u64) -> io::Result<()> {
        self.first_ts = ts;
        let mut frequency = vec![FREQUENCY];
        encode_varint(1_000_000_000, &mut frequency);
        self.batch(NO_THREAD, ts, &frequency)
    }

    /// What comes now happens at this time, or right behind the event before if that was later.
    pub(super) fn advance(&mut self, ts: u64) {
        self.now_ts = self.now_ts.max(ts);
    }

    /// An event of a thread. No two have the same time: readers go by time from thread to thread, and could take what
    /// depends on the other first.
    pub(super) fn event(&mut self, thread: u64, kind: Kind, args: &[u64]) -> io::Result<()> {
        let ts = self.now_ts.max(self.last_ts + 1);
        self.last_ts = ts;
        if self.first_ts == 0 {
            self.first(ts)?;
        }
        let batch = self.threads.entry(thread).or_default();
        if batch.data.is_empty() {
            (batch.ts, batch.last_ts) = (ts, ts);
        }
        batch.data.push(kind as u8);
        encode_varint(ts - batch.last_ts, &mut batch.data);
        batch.last_ts = ts;
        for arg in args {
            encode_varint(*arg, &mut batch.data);
        }
        if batch.data.len() < FULL {
            return Ok(());
        }
        let (ts, data) = (batch.ts, std::mem::take(&mut batch.data));
        self.batch(thread, ts, &data)
    }

    /// Entries of a table.
    pub(super) fn table(&mut self, data: &[u8]) -> io::Result<()> {
        if self.first_ts == 0 {
            self.first(self.now_ts.max(1))?;
        }
        self.batch(NO_THREAD, self.first_ts, data)
    }

    /// Writes what was gathered.
    pub(super) fn end(&mut self) -> io::Result<()> {
        if self.first_ts == 0 {
            self.first(self.now_ts.max(1))?;
        }
        for (thread, batch) in std::mem::take(&mut self.threads) {
            if !batch.data.is_empty() {
                self.batch(thread, batch.ts, &batch.data)?;
            }
        }
        self.out.flush()
    }

    fn batch(&mut self, thread: u64, ts: u64, data: &[u8]) -> io::Result<()> {
        let mut header = vec![EVENT_BATCH];
        for field in [GENERATION, thread, ts, data.len() as u64] {
            encode_varint(field, &mut header);
        }
        self.out.write_all(&header)?;
        self.out.write_all(data)
    }
}
