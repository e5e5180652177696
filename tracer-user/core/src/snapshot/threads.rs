//! What the threads of a target do, by the runtime's own list of them (`runtime.allm`).

use super::View;
use crate::binary::bytes::{u32_at, u64_at};
use crate::budget;
use crate::goruntime::State;
use serde::{Deserialize, Serialize};

/// Most threads; the runtime's own default is 10,000 (`sched.maxmcount`).
const MAX: usize = 100_000;
/// Bytes of an `m` that are read at most.
const MAX_BYTES: usize = 1 << 12;

/// How many threads do what. The runtime's list has only those that run Go.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ThreadCounts {
    /// They run a goroutine, or look for one.
    pub running: u64,
    /// The goroutine on them is in a system call.
    pub syscall: u64,
    /// The goroutine on them has called C.
    pub cgo: u64,
    /// They belong to a goroutine that waits (`runtime.LockOSThread`), and sleep as long as it does.
    pub locked: u64,
    /// They have nothing to do; the runtime's monitor is one of them.
    pub idle: u64,
}

impl ThreadCounts {
    /// All of them.
    pub fn all(self) -> u64 {
        self.by_state().iter().map(|(_, count)| count).sum()
    }

    /// The counts, by a word for each.
    pub fn by_state(self) -> [(&'static str, u64); 5] {
        let ThreadCounts { running, syscall, cgo, locked, idle } = self;
        [("running", running), ("syscall", syscall), ("cgo", cgo), ("locked", locked), ("idle", idle)]
    }
}

/// Counts the threads by what they do. `None`: where the list lies, or where an `m` has what, is not known, or the list
/// has no end.
pub fn threads(view: &View<'_>) -> Option<ThreadCounts> {
    let layout = view.binary.layout();
    let at = |field| layout.field("m", field).map(|at| at as usize);
    let (procid, curg, lockedg, p) = (at("procid")?, at("curg")?, at("lockedg")?, at("p")?);
    let (next, incgo) = (at("alllink")?, at("incgo"));
    let len = [procid, curg, lockedg, p, next, incgo.unwrap_or(0)].into_iter().max()? + 8;
    if len > MAX_BYTES {
        return None;
    }
    let status = u64::from(layout.field("g", "atomicstatus")?);
    budget::check(len).ok()?;
    let (mut bytes, mut found) = (vec![0; len], ThreadCounts::default());
    let mut m = view.word(view.binary.globals().ok()?.allm?.wrapping_add(view.bias))?;
    for _ in 0..MAX {
        if m == 0 {
            return Some(found);
        }
        view.memory.read(m, &mut bytes).ok()?;
        let word = |at: usize| u64_at(&bytes, at).unwrap_or(0);
        let in_c = incgo.and_then(|at| bytes.get(at)).is_some_and(|flag| *flag != 0);
        // One that waits for a thread of C has none.
        if word(procid) != 0 {
            let goroutine = word(curg);
            let in_syscall = || {
                let mut state = [0; 4];
                view.memory.read(goroutine.wrapping_add(status), &mut state).ok()?;
                // Above the lowest byte is the scan bit.
                Some(State::from_status(u32_at(&state, 0)?.to_le_bytes()[0]) == State::Syscall)
            };
            let count = match (goroutine, in_c) {
                (0, _) if word(p) != 0 => &mut found.running,
                (0, _) if word(lockedg) != 0 => &mut found.locked,
                (0, _) => &mut found.idle,
                (_, true) => &mut found.cgo,
                _ if in_syscall() == Some(true) => &mut found.syscall,
                _ => &mut found.running,
            };
            *count += 1;
        }
        m = word(next);
    }
    None
}
