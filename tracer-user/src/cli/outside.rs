//! What a trace learns by reading the target's memory, beside its probes: the goroutines that were
//! there before, how things stand after a loss, and the stacks of long blocks.

use crate::{
    event::Stack,
    model::{Goroutines, Measure, Merged, Seen, State, Step, What},
    snapshot::{self, Goroutine, Options, Pc, Reading, Snapshot, Trust, View},
};
use std::{
    collections::{HashMap, VecDeque},
    sync::Arc,
};

/// Long blocks whose stack is kept or waited for.
const CAPACITY: usize = 1_000_000;
/// Between two snapshots after losses lies at least this, and so many times what the last one took:
/// a program that loses events all the time is not read all the time.
const PAUSE_NS: u64 = 1_000_000_000;
const PAUSE_TIMES: u64 = 20;

/// A snapshot that waits for the events of its time.
struct Pending {
    seen: Vec<Seen>,
    began_ts: u64,
    ended_ts: u64,
    complete: bool,
}

/// The stack of a block that lasts.
struct Long {
    /// When the block began; `None`: before the trace.
    since_ts: Option<u64>,
    /// When the stack had been read.
    read_ts: u64,
    stack: Arc<[Pc]>,
}

/// See above.
pub(super) struct Outside {
    /// How long a block must last for its stack to be read, nanoseconds; `None`: no stacks.
    threshold_ns: Option<u64>,
    wanted: bool,
    /// When the next snapshot may be taken.
    not_before_ts: u64,
    pending: Option<Pending>,
    /// Blocks by the time they began, with their goroutine: not yet long.
    young: VecDeque<(u64, u64)>,
    long: HashMap<u64, Long>,
}

impl Outside {
    /// `threshold_ns`: how long a block must last for its stack to be read. `running`: the target
    /// has goroutines already.
    pub(super) fn new(threshold_ns: Option<u64>, running: bool) -> Outside {
        Outside {
            threshold_ns,
            wanted: running,
            not_before_ts: 0,
            pending: None,
            young: VecDeque::new(),
            long: HashMap::new(),
        }
    }

    /// Events were lost: only a snapshot can say how things stand.
    pub(super) fn lost(&mut self) {
        self.wanted = true;
    }

    /// Whether a snapshot is to be taken now.
    pub(super) fn wants_snapshot(&self, now_ts: u64) -> bool {
        self.wanted && self.pending.is_none() && now_ts >= self.not_before_ts
    }

    /// What to read of the goroutines.
    pub(super) fn options() -> Options {
        Options { stacks: true, ..Options::default() }
    }

    /// Takes a finished reading; it is merged when the events of its time have come.
    pub(super) fn take(&mut self, snapshot: &Snapshot) {
        let (began_ts, ended_ts) = snapshot.taken_ns;
        self.wanted = false;
        self.not_before_ts = ended_ts + PAUSE_NS.max((ended_ts - began_ts).saturating_mul(PAUSE_TIMES));
        if self.threshold_ns.is_some() {
            self.keep_stacks(snapshot, |_| None);
        }
        let complete = snapshot.incomplete.is_none() && snapshot.unreadable == 0;
        let seen = snapshot.goroutines.iter().map(|goroutine| seen(goroutine, snapshot)).collect();
        self.pending = Some(Pending { seen, began_ts, ended_ts, complete });
    }

    /// There will be no snapshot, for a reason that was said.
    pub(super) fn give_up(&mut self) {
        self.wanted = false;
        self.not_before_ts = u64::MAX;
    }

    /// Merges the snapshot that waits, if every event up to `complete_until` has been applied.
    pub(super) fn merge(&mut self, goroutines: &mut Goroutines, complete_until: u64) -> Option<Merged> {
        let pending = self.pending.take_if(|pending| pending.ended_ts <= complete_until)?;
        Some(goroutines.merge(&pending.seen, pending.began_ts, pending.complete))
    }

    /// Notes what began.
    pub(super) fn note(&mut self, steps: &[Step]) {
        if self.threshold_ns.is_none() {
            return;
        }
        for step in steps.iter().filter(|step| matches!(step.what, What::Block | What::SyscallEnter)) {
            if self.young.len() >= CAPACITY {
                self.young.pop_front();
            }
            self.young.push_back((step.ts, step.goid));
        }
    }

    /// Reads the stacks of blocks that have become long by `now_ts`.
    pub(super) fn read_long(&mut self, view: &View<'_>, goroutines: &Goroutines, now_ts: u64) {
        let Some(threshold_ns) = self.threshold_ns else { return };
        let mut due = HashMap::new();
        while let Some((ts, goid)) = self.young.pop_front_if(|(ts, _)| *ts + threshold_ns <= now_ts) {
            let still = goroutines.get(goid).filter(|known| known.since_ts == ts && known.state.stays());
            if let Some(known) = still {
                due.insert(goid, (ts, known.g));
            }
        }
        if due.is_empty() {
            return;
        }
        let addrs: Vec<u64> = due.values().map(|(_, g)| *g).collect();
        // What cannot be read has no stack to show.
        if let Ok(snapshot) = snapshot::look(view, Outside::options(), &addrs) {
            self.keep_stacks(&snapshot, |goid| due.get(&goid).map(|(ts, _)| *ts));
        }
    }

    fn keep_stacks(&mut self, snapshot: &Snapshot, since_ts: impl Fn(u64) -> Option<u64>) {
        let mut shared: HashMap<_, Arc<[Pc]>> = HashMap::new();
        for goroutine in &snapshot.goroutines {
            if goroutine.trust != Trust::Still || !goroutine.state.stays() || self.long.len() >= CAPACITY {
                continue;
            }
            let stack =
                shared.entry(goroutine.stack).or_insert_with(|| snapshot.stacks.get(goroutine.stack).into());
            let (read_ts, stack) = (snapshot.taken_ns.1, Arc::clone(stack));
            self.long.insert(goroutine.goid, Long { since_ts: since_ts(goroutine.goid), read_ts, stack });
        }
    }

    /// The stack of the block that this step ends, or introduces, if it was long enough to be read.
    pub(super) fn stack(&mut self, step: &Step) -> Option<Arc<[Pc]>> {
        if !matches!(step.what, What::Found | What::Unblock | What::SyscallExit) {
            return None;
        }
        let began_ts = step.ts.checked_sub(step.duration_ns?)?;
        let long = self.long.get(&step.goid)?;
        // A stack that was read after the end of the block is another block's.
        let exact = step.measure == Measure::Exact;
        let same = long.since_ts.map_or(!exact, |since_ts| exact && since_ts == began_ts);
        (same && long.read_ts < step.ts).then(|| self.long.remove(&step.goid))?.map(|long| long.stack)
    }
}

fn seen(goroutine: &Goroutine, snapshot: &Snapshot) -> Seen {
    let mut site = Stack::default();
    let pcs = snapshot.stacks.get(goroutine.stack);
    for (to, pc) in site.pcs.iter_mut().zip(pcs) {
        // Where the probes walk a stack, every address is a return address.
        *to = pc.lookup().wrapping_add(1);
        site.len += 1;
    }
    let still = matches!(goroutine.trust, Trust::Still | Trust::Running | Trust::Broken);
    Seen {
        g: goroutine.g,
        goid: goroutine.goid,
        state: if still { goroutine.state } else { State::Unknown },
        reason: goroutine.reason,
        since_ts: goroutine.waiting_since_ns,
        tid: goroutine.tid,
        birth: goroutine.birth(),
        site,
    }
}

/// Reads all goroutines; `between` is called now and then, so that the rings do not overflow
/// meanwhile.
pub(super) fn read_all(
    view: &View<'_>,
    mut between: impl FnMut() -> anyhow::Result<()>,
) -> anyhow::Result<Result<Snapshot, snapshot::SnapshotError>> {
    let mut reading = match Reading::begin(view, Outside::options()) {
        Ok(reading) => reading,
        Err(error) => return Ok(Err(error)),
    };
    while reading.chunk() {
        between()?;
    }
    Ok(Ok(reading.finish()))
}
