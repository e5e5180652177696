//! The bytes of an execution trace: header, batches and events (`src/internal/trace/event/go122` and `batch.go` of Go
//! 1.24).

use prost::encoding::encode_varint;
use std::{
    collections::BTreeMap,
    io::{self, Write},
};

/// The oldest of the second format's headers; the readers of Go 1.22 and all later ones take it.
const HEADER: &[u8; 16] = b"go 1.22 trace\0\0\0";

/// The only generation; the documentation of [`super`] says why.
const GENERATION: u64 = 1;

/// The thread of events that belong to none.
pub(super) const NO_THREAD: u64 = u64::MAX;

/// A batch is written when it has this many bytes; readers take 64 KiB (`MaxBatchSize`).
const FULL: usize = 16 << 10;

/// First bytes of batches, and of entries of tables.
const EVENT_BATCH: u8 = 1;
pub(super) const STACKS: u8 = 2;
pub(super) const STACK: u8 = 3;
pub(super) const STRINGS: u8 = 4;
pub(super) const STRING: u8 = 5;
const FREQUENCY: u8 = 8;

/// Numbers of timed events (`go122/event.go`). The arguments of each are in its doc, in order.
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
    /// New goroutine, on the thread of the event.
    GoCreateSyscall = 15,
    /// Goroutine, sequence number of the goroutine.
    GoStart = 16,
    GoDestroy = 17,
    GoDestroySyscall = 18,
    /// Reason, stack of the goroutine that stops.
    GoStop = 19,
    /// Reason, stack of the goroutine that blocks.
    GoBlock = 20,
    /// Goroutine, sequence number of the goroutine, stack of the one that wakes it.
    GoUnblock = 21,
    /// Sequence number of P, stack.
    GoSyscallBegin = 22,
    GoSyscallEnd = 23,
    GoSyscallEndBlocked = 24,
    /// Goroutine, thread or [`NO_THREAD`], [`GoStatus`].
    GoStatus = 25,
    /// Sequence number of the collector, stack.
    GcBegin = 29,
    /// Sequence number of the collector.
    GcEnd = 30,
    /// Task (0: none), key, value, stack.
    UserLog = 44,
}

/// States of a P as `ProcStatus` of the trace numbers them, as far as sfgi writes them.
#[derive(Clone, Copy, Debug)]
#[repr(u8)]
pub(super) enum ProcStatus {
    Running = 1,
    Syscall = 3,
}

/// States of a goroutine as `GoStatus` of the trace numbers them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub(super) enum GoStatus {
    Runnable = 1,
    Running = 2,
    Syscall = 3,
    Waiting = 4,
}

/// Writes a trace. Events are gathered by thread, since a batch holds one thread.
pub(super) struct Wire<W> {
    out: W,
    threads: BTreeMap<u64, Batch>,
    /// Least time of the next event.
    now_ts: u64,
    /// Time of the last event, of any thread.
    last_ts: u64,
    /// Time of the first event; 0: there was none. Readers take the lowest time of any batch for the beginning, so
    /// batches of tables get this time.
    first_ts: u64,
}

/// Events of one thread that are not written yet. Times are differences to the event before.
#[derive(Default)]
struct Batch {
    ts: u64,
    last_ts: u64,
    data: Vec<u8>,
}

impl<W: Write> Wire<W> {
    pub(super) fn new(out: W) -> Wire<W> {
        Wire { out, threads: BTreeMap::new(), now_ts: 0, last_ts: 0, first_ts: 0 }
    }

    /// Writes the header.
    pub(super) fn begin(&mut self) -> io::Result<()> {
        self.out.write_all(HEADER)
    }

    /// Writes the frequency batch: when the trace begins, and that times are in nanoseconds.
    fn first(&mut self, ts: u64) -> io::Result<()> {
        self.first_ts = ts;
        let mut frequency = vec![FREQUENCY];
        encode_varint(1_000_000_000, &mut frequency);
        self.batch(NO_THREAD, ts, &frequency)
    }

    /// The next events happen at this time, or right behind the event before if that was later.
    pub(super) fn advance(&mut self, ts: u64) {
        self.now_ts = self.now_ts.max(ts);
    }

    /// Adds an event to its thread's batch. No two events have the same time: readers merge threads by time, and at
    /// equal times could take first what depends on the other.
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

    /// Writes a piece of a table.
    pub(super) fn table(&mut self, data: &[u8]) -> io::Result<()> {
        if self.first_ts == 0 {
            self.first(self.now_ts.max(1))?;
        }
        self.batch(NO_THREAD, self.first_ts, data)
    }

    /// Writes the batches that are not full.
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
