//! Whether a layout is the one that a binary's own code was compiled with. The runtime's functions
//! address the fields of its structures by their offsets; those of a layout must be among them, each
//! with the size and the direction of that access.
//!
//! Needed where the layout is a guess: for a version that is newer than the table, between two of
//! its rows, or of somebody's own making.

use super::code::{Access, Step, steps};
use super::elf::Image;
use super::pclntab::Pclntab;
use crate::goruntime::Release;
use std::collections::HashMap;

/// How a function uses a field.
#[derive(Clone, Copy)]
enum Use {
    /// Reads this many bytes.
    Reads(u8),
    /// Writes this many bytes.
    Writes(u8),
    /// Atomic access to this many bytes; on arm64 the address is made first.
    Atomic(u8),
}
use Use::{Atomic, Reads, Writes};

/// Functions of the runtime that every program has, and fields that they use, with the first minor
/// version in which they do. The same in the code of Go 1.19 to 1.27 on both processors.
type Evidence = (&'static str, &'static [(&'static str, Use, u32)]);

const EVIDENCE: &[Evidence] = &[
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
    // Where the function data of a module begins; the function came with 1.21.
    ("runtime.newInlineUnwinder", &[("moduledata.gofunc", Reads(8), 21)]),
];

/// Compares a layout with the code of a binary of this release.
///
/// # Errors
/// A field that is not where the layout says, and the function whose code shows it; also where the
/// binary has no such function.
pub(super) fn confirm(
    image: &Image,
    functions: &Pclntab,
    offsets: &HashMap<String, u32>,
    release: Release,
) -> Result<(), (&'static str, &'static str)> {
    for (function, fields) in EVIDENCE {
        let steps = steps(image, functions, function);
        for (field, how, _) in fields.iter().filter(|(.., since)| release.minor() >= *since) {
            let there =
                offsets.get(*field).is_some_and(|offset| steps.iter().any(|step| how.is(*step, *offset)));
            if !there {
                return Err((field, function));
            }
        }
    }
    Ok(())
}

impl Use {
    /// Whether a step uses the field at `wanted` so. An instruction may access two fields at once.
    fn is(self, step: Step, wanted: u32) -> bool {
        let Step::Field { offset, access, .. } = step else { return false };
        let into = i64::from(wanted) - offset;
        match (self, access) {
            (Atomic(_), Access::Address) => into == 0,
            (Atomic(size), Access::Load(of) | Access::Update(of)) => into == 0 && of == size,
            (Reads(size), Access::Load(of) | Access::Update(of))
            | (Writes(size), Access::Store(of) | Access::Update(of)) => {
                into == 0 && of == size || size == 8 && of == 16 && (into == 0 || into == 8)
            }
            _ => false,
        }
    }
}
