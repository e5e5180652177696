//! One `runtime.g`: the offsets of its fields, and its bytes decoded.

use super::unwind::Saved;
use crate::binary::Layout;
use crate::event::status;
use crate::goruntime::State;
use std::hash::{DefaultHasher, Hash as _, Hasher as _};

/// `_Gscan` (`src/runtime/runtime2.go`), a flag on top of the state: the collector owns the stack.
pub(super) const SCAN: u32 = 0x1000;
/// Largest `g` that is believed; that of Go 1.27 has 456 bytes. Every goroutine costs a read of this length.
const MAX_LEN: usize = 4096;

/// Offsets in `runtime.g`, resolved once for a binary.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Offsets {
    stack_lo: usize,
    stack_hi: usize,
    m: usize,
    sched_sp: usize,
    sched_pc: usize,
    sched_g: usize,
    sched_lr: usize,
    stktopsp: usize,
    syscallsp: usize,
    syscallpc: usize,
    pub(super) status: usize,
    goid: usize,
    waitsince: usize,
    waitreason: usize,
    tracking_seq: usize,
    lockedm: usize,
    /// `None` up to Go 1.20, which does not record the creator.
    parent_goid: Option<usize>,
    gopc: usize,
    startpc: usize,
    labels: usize,
    /// Bytes of a `g` up to the end of the last of these fields: what is read of each.
    pub(crate) len: usize,
    /// Offset of `procid` in `runtime.m`.
    pub(super) m_procid: u64,
}

impl Offsets {
    /// Resolves the offsets by the layout of a binary.
    ///
    /// # Errors
    /// The first field that the layout lacks, or that lies beyond [`MAX_LEN`].
    pub(crate) fn of(layout: &Layout) -> Result<Offsets, &'static str> {
        let mut len = 0;
        let mut g = |name: &'static str| {
            let offset = layout.field("g", name).map(|offset| offset as usize).ok_or(name)?;
            len = len.max(offset.saturating_add(8));
            if len <= MAX_LEN { Ok(offset) } else { Err(name) }
        };
        let offsets = Offsets {
            stack_lo: g("stack.lo")?,
            stack_hi: g("stack.hi")?,
            m: g("m")?,
            sched_sp: g("sched.sp")?,
            sched_pc: g("sched.pc")?,
            sched_g: g("sched.g")?,
            sched_lr: g("sched.lr")?,
            stktopsp: g("stktopsp")?,
            syscallsp: g("syscallsp")?,
            syscallpc: g("syscallpc")?,
            status: g("atomicstatus")?,
            goid: g("goid")?,
            waitsince: g("waitsince")?,
            waitreason: g("waitreason")?,
            tracking_seq: g("trackingSeq")?,
            lockedm: g("lockedm")?,
            parent_goid: g("parentGoid").ok(),
            gopc: g("gopc")?,
            startpc: g("startpc")?,
            labels: g("labels")?,
            len: 0,
            m_procid: u64::from(layout.field("m", "procid").ok_or("procid")?),
        };
        Ok(Offsets { len, ..offsets })
    }
}

/// A `g` as one read found it.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Raw {
    pub(crate) still: Still,
    pub(crate) scan: bool,
    pub(crate) m: u64,
    pub(crate) stktopsp: u64,
    pub(crate) lr: u64,
    pub(crate) waitsince: u64,
    pub(crate) lockedm: u64,
    pub(crate) parent_goid: u64,
    pub(crate) gopc: u64,
    pub(crate) startpc: u64,
    pub(crate) labels: u64,
}

/// The part of a `g` that stays the same as long as the goroutine does not run. `g.trackingSeq` counts how often it
/// stopped running (`casgstatus`), so a goroutine that ran and parked again at the same place shows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Still {
    pub(crate) goid: u64,
    pub(crate) status: u8,
    pub(crate) reason: u8,
    tracking_seq: u8,
    pub(crate) stack: (u64, u64),
    pub(crate) sched: (u64, u64),
    pub(crate) syscall: (u64, u64),
}

impl Still {
    /// A number that changes when the goroutine runs, but not when the collector moves its stack.
    pub(crate) fn stamp(&self) -> u64 {
        let depth = |sp: u64| self.stack.1.wrapping_sub(sp);
        let words = [
            self.goid,
            u64::from(self.status) << 16 | u64::from(self.reason) << 8 | u64::from(self.tracking_seq),
            // The depth and not the stack pointer: the collector moves a stack when it shrinks it.
            depth(self.sched.0),
            self.sched.1,
            if self.syscall.0 == 0 { 0 } else { depth(self.syscall.0) },
            self.syscall.1,
        ];
        let mut hasher = DefaultHasher::new();
        words.hash(&mut hasher);
        hasher.finish()
    }
}

impl Raw {
    pub(crate) fn saved(&self) -> Saved {
        let (sp, pc) = self.still.sched;
        let (syscallsp, syscallpc) = self.still.syscall;
        Saved { sched: (pc, sp, self.lr), syscall: (syscallpc, syscallsp), stack: self.still.stack }
    }

    /// Decodes the bytes of the `g` at `addr`. `None`: they are no `g`. In all versions `sched.g` of a `g` that was
    /// ever used points to the `g` itself, which tells a stale array of `allgs` from a real one.
    pub(crate) fn parse(bytes: &[u8], addr: u64, at: &Offsets) -> Option<Raw> {
        let word = |offset: usize| {
            let bytes = bytes.get(offset..)?.first_chunk::<8>()?;
            Some(u64::from_le_bytes(*bytes))
        };
        let flags = u32::from_le_bytes(*bytes.get(at.status..)?.first_chunk()?);
        // A status that fits no byte is no state of any version.
        let status = u8::try_from(flags & !SCAN).unwrap_or(status::UNSAID);
        // `newproc1` lists a new `g` as dead before it sets `sched.g`.
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
