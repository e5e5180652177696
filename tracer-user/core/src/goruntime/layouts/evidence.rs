//! Evidence for a layout in the runtime's own code: functions that every Go program contains, and the fields that they
//! access. `binary/layout/infer.rs` looks for the accesses.

use Use::{Atomic, Reads, Writes};

/// How a function accesses a field, with the number of bytes.
#[derive(Clone, Copy)]
pub(crate) enum Use {
    Reads(u8),
    Writes(u8),
    /// An atomic access. On arm64 an `add` computes the address first, so the size is not seen.
    Atomic(u8),
}
/// A function, and the fields that it accesses: `struct.field`, the access, and the first minor version with it (0:
/// every one). Holds for the code of Go 1.19 to 1.27 on both processors.
pub(crate) type Evidence = (&'static str, &'static [(&'static str, Use, u32)]);

pub(crate) const EVIDENCE: &[Evidence] = &[
    ("runtime.casgstatus", &[("g.atomicstatus", Atomic(4), 0)]),
    (
        "runtime.gopark",
        &[
            ("g.m", Reads(8), 0),
            ("m.curg", Reads(8), 0),
            ("g.atomicstatus", Atomic(4), 0),
            ("g.waitreason", Writes(1), 0),
        ],
    ),
    (
        "runtime.mcall",
        &[
            ("g.sched.sp", Writes(8), 0),
            ("g.sched.pc", Writes(8), 0),
            ("g.sched.bp", Writes(8), 0),
            ("g.m", Reads(8), 0),
            ("m.g0", Reads(8), 0),
        ],
    ),
    (
        "runtime.newproc1",
        &[
            ("g.stack.hi", Reads(8), 0),
            ("g.sched.sp", Writes(8), 0),
            ("g.sched.pc", Writes(8), 0),
            ("g.sched.g", Writes(8), 0),
            ("g.stktopsp", Writes(8), 0),
            ("g.parentGoid", Writes(8), 21),
            ("g.gopc", Writes(8), 0),
            ("g.startpc", Writes(8), 0),
            ("g.labels", Writes(8), 0),
            ("g.trackingSeq", Writes(1), 0),
            ("g.goid", Writes(8), 0),
            ("m.curg", Reads(8), 0),
            ("m.p", Reads(8), 0),
            ("p.goidcache", Writes(8), 0),
            ("p.goidcacheend", Writes(8), 0),
        ],
    ),
    (
        "runtime.reentersyscall",
        &[
            ("g.syscallsp", Writes(8), 0),
            ("g.syscallpc", Writes(8), 0),
            ("g.syscallbp", Writes(8), 23),
            ("g.stack.lo", Reads(8), 0),
            ("g.stack.hi", Reads(8), 0),
        ],
    ),
    (
        "runtime.goroutineheader",
        &[
            ("g.atomicstatus", Atomic(4), 0),
            ("g.waitreason", Reads(1), 0),
            ("g.waitsince", Reads(8), 0),
            ("g.goid", Reads(8), 0),
            ("g.lockedm", Reads(8), 0),
        ],
    ),
    ("runtime.minit", &[("m.procid", Writes(8), 0)]),
    ("runtime.schedule", &[("m.lockedg", Reads(8), 0), ("g.schedlink", Writes(8), 0), ("m.p", Reads(8), 0)]),
    ("runtime.mcommoninit", &[("m.alllink", Writes(8), 0)]),
    (
        "runtime.chansend",
        &[
            ("hchan.qcount", Reads(8), 0),
            ("hchan.dataqsiz", Reads(8), 0),
            ("hchan.closed", Reads(4), 0),
            ("hchan.recvq.first", Reads(8), 0),
            ("sudog.next", Reads(8), 0),
            ("sudog.isSelect", Reads(1), 0),
            ("sudog.c", Writes(8), 0),
            ("g.waiting", Writes(8), 0),
            ("g.param", Writes(8), 0),
        ],
    ),
    (
        "runtime.closechan",
        &[
            ("hchan.closed", Writes(4), 0),
            ("hchan.sendq.first", Reads(8), 0),
            ("sudog.success", Writes(1), 0),
            ("sudog.elem", Writes(8), 0),
        ],
    ),
    (
        "runtime.(*semaRoot).queue",
        &[
            ("sudog.g", Writes(8), 0),
            ("sudog.elem", Writes(8), 0),
            ("sudog.elem.vu", Writes(8), 26),
            ("sudog.ticket", Writes(4), 0),
            ("sudog.parent", Writes(8), 0),
            ("sudog.prev", Writes(8), 0),
            ("sudog.waitlink", Writes(8), 0),
            ("sudog.waittail", Writes(8), 0),
            ("semaRoot.treap", Reads(8), 0),
        ],
    ),
    // The function came with 1.21. It reads the base of FUNCDATA, without which the pclntab is of no use.
    ("runtime.newInlineUnwinder", &[("moduledata.gofunc", Reads(8), 21)]),
];
