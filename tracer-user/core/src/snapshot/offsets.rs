//! Where in a `runtime.g` the fields are that a snapshot reads, resolved once a binary.

use crate::binary::Layout;

/// Offsets in `runtime.g`, bytes.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Offsets {
    pub(crate) stack_lo: usize,
    pub(crate) stack_hi: usize,
    pub(crate) m: usize,
    pub(crate) sched_sp: usize,
    pub(crate) sched_pc: usize,
    pub(crate) sched_g: usize,
    pub(crate) sched_lr: usize,
    pub(crate) stktopsp: usize,
    pub(crate) syscallsp: usize,
    pub(crate) syscallpc: usize,
    pub(crate) status: usize,
    pub(crate) goid: usize,
    pub(crate) waitsince: usize,
    pub(crate) waitreason: usize,
    pub(crate) tracking_seq: usize,
    pub(crate) lockedm: usize,
    /// Since 1.21.
    pub(crate) parent_goid: Option<usize>,
    pub(crate) gopc: usize,
    pub(crate) startpc: usize,
    pub(crate) labels: usize,
    /// Bytes of a `g` up to the last of these fields.
    pub(crate) len: usize,
    /// Of `runtime.m`.
    pub(crate) m_procid: u64,
}

/// More than the largest `g` up to 1.27 (456 bytes) by far; a layout that says more is nonsense.
const MAX_LEN: usize = 4096;

impl Offsets {
    /// From the layout of a binary.
    ///
    /// # Errors
    /// The name of the first field that the layout does not have.
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
