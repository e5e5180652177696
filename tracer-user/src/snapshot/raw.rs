//! The words of one `runtime.g`, as its bytes say.

use super::offsets::Offsets;
use super::unwind::Saved;
use crate::event::status;
use crate::model::State;

/// `_Gscan` (`src/runtime/runtime2.go`).
const SCAN: u32 = 0x1000;

/// A `g` read at one moment.
#[derive(Clone, Copy, Debug)]
pub(super) struct Raw {
    pub(super) still: Still,
    pub(super) scan: bool,
    pub(super) m: u64,
    pub(super) stktopsp: u64,
    pub(super) lr: u64,
    pub(super) waitsince: u64,
    pub(super) lockedm: u64,
    pub(super) parent_goid: u64,
    pub(super) gopc: u64,
    pub(super) startpc: u64,
    pub(super) labels: u64,
}

/// What stays the same as long as a goroutine does not move. `tracking_seq` counts how often it
/// stopped running (`casgstatus`), so that one that ran and parked at the same place is noticed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Still {
    pub(super) goid: u64,
    pub(super) status: u8,
    pub(super) reason: u8,
    tracking_seq: u8,
    pub(super) stack: (u64, u64),
    pub(super) sched: (u64, u64),
    pub(super) syscall: (u64, u64),
}

impl Raw {
    /// Where it stopped.
    pub(super) fn saved(&self) -> Saved {
        let (sp, pc) = self.still.sched;
        let (syscallsp, syscallpc) = self.still.syscall;
        Saved { sched: (pc, sp, self.lr), syscall: (syscallpc, syscallsp), stack: self.still.stack }
    }

    /// From the bytes of the `g` at `addr`. `None`: they are no `g` (`sched.g` of every `g` that was
    /// ever used points to the `g` itself, in all versions).
    pub(super) fn parse(bytes: &[u8], addr: u64, at: &Offsets) -> Option<Raw> {
        let word = |offset: usize| {
            let bytes = bytes.get(offset..)?.first_chunk::<8>()?;
            Some(u64::from_le_bytes(*bytes))
        };
        let flags = u32::from_le_bytes(*bytes.get(at.status..)?.first_chunk()?);
        let status = u8::try_from(flags & !SCAN).unwrap_or(status::UNSAID);
        // One that is in the list but was never used is dead.
        let used_by = word(at.sched_g)?;
        if used_by != addr && !(used_by == 0 && State::from_status(status).is_dead()) {
            return None;
        }
        let byte = |offset: usize| bytes.get(offset).copied();
        Some(Raw {
            still: Still {
                goid: word(at.goid)?,
                status,
                reason: byte(at.waitreason)?,
                tracking_seq: byte(at.tracking_seq)?,
                stack: (word(at.stack_lo)?, word(at.stack_hi)?),
                sched: (word(at.sched_sp)?, word(at.sched_pc)?),
                syscall: (word(at.syscallsp)?, word(at.syscallpc)?),
            },
            scan: flags & SCAN != 0,
            m: word(at.m)?,
            stktopsp: word(at.stktopsp)?,
            lr: word(at.sched_lr)?,
            waitsince: word(at.waitsince)?,
            lockedm: word(at.lockedm)?,
            parent_goid: at.parent_goid.map_or(Some(0), word)?,
            gopc: word(at.gopc)?,
            startpc: word(at.startpc)?,
            labels: word(at.labels)?,
        })
    }
}
