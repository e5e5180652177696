//! What a trace learns by reading the target's memory, beside its probes: the goroutines that were
//! there before, how things stand after a loss, and the stacks of long blocks.

use sfgi_core::{
    event::Stack,
    goruntime::State,
    model::{Goroutines, Seen, Step, What},
    session::{Input, SnapshotInput, WholeStack},
    snapshot,
    snapshot::{Goroutine, Options, Reading, Snapshot, Trust, View},
};
use std::{
    collections::{HashMap, VecDeque},
    sync::Arc,
};

/// Blocks that are waited for to become long.
const CAPACITY: usize = 1_000_000;
/// How often a stack is tried to be read: the kernel may hold a thread up just where a probe stands, and then
/// the goroutine that is said to wait is not off its thread yet.
const TRIES: u8 = 5;
/// Two snapshots after losses are at least `PAUSE_NS` apart, and `PAUSE_TIMES` × what the last one took: a target that
/// loses events all the time is not read all the time.
const PAUSE_NS: u64 = 1_000_000_000;
const PAUSE_TIMES: u64 = 20;

/// What is to be read next.
pub(crate) struct Outside {
    /// How long a block must last for its stack to be read, nanoseconds; `None`: no stacks.
    threshold_ns: Option<u64>,
    wanted: bool,
    /// When the next snapshot may be taken.
    not_before_ts: u64,
    /// Blocks that are not yet long, by when they will be.
    young: VecDeque<Young>,
}

/// A block whose stack is to be read.
#[derive(Clone, Copy)]
struct Young {
    goid: u64,
    since_ts: u64,
    due_ts: u64,
    tries: u8,
}

impl Outside {
    /// `threshold_ns`: how long a block must last for its stack to be read. `running`: the target
    /// has goroutines already.
    pub(crate) fn new(threshold_ns: Option<u64>, running: bool) -> Outside {
        Outside { threshold_ns, wanted: running, not_before_ts: 0, young: VecDeque::new() }
    }

    /// Events were lost: only a snapshot can say how things stand.
    pub(crate) fn lost(&mut self) {
        self.wanted = true;
    }

    /// Whether a snapshot is to be taken now.
    pub(crate) fn wants_snapshot(&self, now_ts: u64) -> bool {
        self.wanted && now_ts >= self.not_before_ts
    }

    /// What to read of the goroutines.
    pub(crate) fn options() -> Options {
        Options { stacks: true, ..Options::default() }
    }

    /// Takes a finished reading: what it tells, and the stacks of what waits.
    pub(crate) fn take(&mut self, snapshot: &Snapshot) -> (Input, Input) {
        let (began_ts, ended_ts) = snapshot.taken_ns;
        self.wanted = false;
        self.not_before_ts = ended_ts + PAUSE_NS.max((ended_ts - began_ts).saturating_mul(PAUSE_TIMES));
        let stacks = if self.threshold_ns.is_some() { whole_stacks(snapshot, |_| None) } else { Vec::new() };
        let complete = snapshot.incomplete.is_none() && snapshot.unreadable == 0;
        let seen = snapshot.goroutines.iter().map(|goroutine| seen(goroutine, snapshot)).collect();
        (Input::Snapshot(SnapshotInput { seen, began_ts, ended_ts, complete }), Input::Stacks(stacks))
    }

    /// There will be no snapshot, for a reason that was said.
    pub(crate) fn give_up(&mut self) {
        self.wanted = false;
        self.not_before_ts = u64::MAX;
    }

    pub(crate) fn note(&mut self, steps: &[Step]) {
        let Some(threshold_ns) = self.threshold_ns else { return };
        for step in steps.iter().filter(|step| matches!(step.what, What::Block | What::SyscallEnter)) {
            if self.young.len() >= CAPACITY {
                self.young.pop_front();
            }
            let due_ts = step.ts.saturating_add(threshold_ns);
            self.young.push_back(Young { goid: step.goid, since_ts: step.ts, due_ts, tries: 0 });
        }
    }

    /// Reads the stacks of blocks that have become long by `now_ts`.
    pub(crate) fn read_long(
        &mut self,
        view: &View<'_>,
        goroutines: &Goroutines,
        now_ts: u64,
    ) -> Option<Input> {
        let threshold_ns = self.threshold_ns?;
        let mut due = HashMap::new();
        while let Some(block) = self.young.pop_front_if(|block| block.due_ts <= now_ts) {
            if let Some(known) = goroutines.get(block.goid)
                && known.since_ts == block.since_ts
                && known.state.stays()
            {
                due.insert(block.goid, (block, known.g));
            }
        }
        if due.is_empty() {
            return None;
        }
        let addrs: Vec<u64> = due.values().map(|(_, g)| *g).collect();
        // What cannot be read has no stack to show.
        let snapshot = snapshot::take_only(view, Outside::options(), &addrs).ok()?;
        let stacks = whole_stacks(&snapshot, |goid| due.get(&goid).map(|(block, _)| block.since_ts));
        for stack in &stacks {
            due.remove(&stack.goid);
        }
        // All that comes later is due later, so the order is kept.
        let due_ts = now_ts.saturating_add(threshold_ns);
        let again = due.into_values().map(|(block, _)| Young { due_ts, tries: block.tries + 1, ..block });
        self.young.extend(again.filter(|block| block.tries < TRIES));
        Some(Input::Stacks(stacks))
    }
}

/// The stacks of those that wait, and did not move while they were read.
fn whole_stacks(snapshot: &Snapshot, since_ts: impl Fn(u64) -> Option<u64>) -> Vec<WholeStack> {
    let mut shared: HashMap<_, Arc<[u64]>> = HashMap::new();
    let still = |goroutine: &&Goroutine| goroutine.trust == Trust::Still && goroutine.state.stays();
    let stack = |goroutine: &Goroutine| {
        let pcs = shared
            .entry(goroutine.stack)
            .or_insert_with(|| snapshot.stacks.get(goroutine.stack).iter().map(|pc| pc.lookup()).collect());
        let (goid, read_ts) = (goroutine.goid, snapshot.taken_ns.1);
        WholeStack { goid, since_ts: since_ts(goid), read_ts, pcs: Arc::clone(pcs) }
    };
    snapshot.goroutines.iter().filter(still).map(stack).collect()
}

fn seen(goroutine: &Goroutine, snapshot: &Snapshot) -> Seen {
    // Where the probes walk a stack, every address is a return address.
    let pcs = snapshot.stacks.get(goroutine.stack).iter().take(tracer_common::MAX_FRAMES);
    let site: Vec<u64> = pcs.map(|pc| pc.lookup().wrapping_add(1)).collect();
    let still = matches!(goroutine.trust, Trust::Still | Trust::Running | Trust::Broken);
    Seen {
        g: goroutine.g,
        goid: goroutine.goid,
        state: if still { goroutine.state } else { State::Unknown },
        reason: goroutine.reason,
        since_ts: goroutine.waiting_since_ns,
        tid: goroutine.tid,
        birth: goroutine.birth(),
        site: Stack::of(&site),
    }
}

/// Reads all goroutines; `between` is called now and then, so that the rings do not overflow
/// meanwhile.
pub(crate) fn read_all(
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
