//! The fields that a trace or a snapshot cannot do without, and since which version of Go the
//! runtime has them (`src/runtime/runtime2.go`, `chan.go`, `sema.go`, `coro.go`, `symtab.go`).

use super::NEWEST;
use std::collections::HashMap;

/// `struct.field`; the first and the last minor version that has it.
type Needed = (&'static str, u32, u32);

const fn always(name: &'static str) -> Needed {
    (name, 0, u32::MAX)
}

const fn since(minor: u32, name: &'static str) -> Needed {
    (name, minor, u32::MAX)
}

const fn until(minor: u32, name: &'static str) -> Needed {
    (name, 0, minor)
}

/// All of them.
const NEEDED: &[Needed] = &[
    always("g.stack.lo"),
    always("g.stack.hi"),
    always("g.m"),
    always("g.sched.sp"),
    always("g.sched.pc"),
    always("g.sched.g"),
    always("g.sched.ctxt"),
    until(24, "g.sched.ret"),
    always("g.sched.lr"),
    always("g.sched.bp"),
    always("g.syscallsp"),
    always("g.syscallpc"),
    since(23, "g.syscallbp"),
    always("g.stktopsp"),
    always("g.param"),
    always("g.atomicstatus"),
    always("g.goid"),
    always("g.schedlink"),
    always("g.waitsince"),
    always("g.waitreason"),
    always("g.trackingSeq"),
    always("g.lockedm"),
    since(21, "g.parentGoid"),
    always("g.gopc"),
    always("g.startpc"),
    always("g.waiting"),
    always("g.labels"),
    always("g.timer"),
    since(22, "g.coroarg"),
    since(22, "g.coroexit"),
    always("m.g0"),
    always("m.procid"),
    always("m.gsignal"),
    always("m.curg"),
    always("m.p"),
    always("m.alllink"),
    always("m.lockedg"),
    always("p.goidcache"),
    always("p.goidcacheend"),
    since(22, "coro.gp"),
    always("sudog.g"),
    always("sudog.next"),
    always("sudog.prev"),
    always("sudog.elem"),
    since(26, "sudog.elem.vu"),
    always("sudog.ticket"),
    always("sudog.isSelect"),
    always("sudog.success"),
    always("sudog.parent"),
    always("sudog.waitlink"),
    always("sudog.waittail"),
    always("sudog.c"),
    always("sudog._size"),
    always("hchan.qcount"),
    always("hchan.dataqsiz"),
    always("hchan.elemsize"),
    always("hchan.closed"),
    since(23, "hchan.timer"),
    always("hchan.recvq.first"),
    always("hchan.sendq.first"),
    always("hchan._size"),
    always("notifyList.head"),
    always("notifyList.tail"),
    always("semaRoot.treap"),
    always("semTable._size"),
    always("semTable._count"),
    always("schedt.lastpoll"),
    always("schedt.midle"),
    always("moduledata.gofunc"),
];

/// Structures that every program has. The linker leaves out the types that a program does not use,
/// such as `notifyList` where there is no `sync.Cond`.
const ALWAYS: [&str; 7] = ["g", "m", "p", "sudog", "hchan", "schedt", "moduledata"];

/// The largest offset that is believed. `heapArena` had two megabytes in Go 1.19.
const MAX_OFFSET: u32 = 16 << 20;

/// Whether these offsets are a layout of Go 1.`minor`: every needed field of the structures that are
/// there is there, within its structure, and not where another one is. Of versions newer than the newest known nothing else
/// can be asked.
///
/// # Errors
/// What is wrong, with the name of the field.
pub(super) fn check(offsets: &HashMap<String, u32>, minor: u32) -> Result<(), String> {
    if let Some((name, offset)) = offsets.iter().find(|(_, offset)| **offset > MAX_OFFSET) {
        return Err(format!("{name} cannot be {offset}"));
    }
    let minor = minor.min(NEWEST);
    let mut taken = HashMap::new();
    for (name, first, last) in NEEDED {
        if !(*first..=*last).contains(&minor) {
            continue;
        }
        let Some((of, field)) = name.split_once('.') else { continue };
        let size = offsets.get(&format!("{of}._size"));
        let Some(offset) = offsets.get(*name) else {
            if size.is_none() && !ALWAYS.contains(&of) {
                continue;
            }
            return Err(format!("{name} is missing"));
        };
        if field.starts_with('_') {
            continue;
        }
        if size.is_some_and(|size| offset >= size) {
            return Err(format!("{name} lies behind the end of {of}"));
        }
        // elem.vu lies within elem, not behind it.
        let clash = taken.insert((of, *offset), field).filter(|other| !field.starts_with(*other));
        if let Some(other) = clash {
            return Err(format!("{of}.{other} and {name} lie at the same place"));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::binary::elf::Arch;
    use crate::binary::layout::{OLDEST, table};

    #[test]
    fn the_table_has_what_is_needed_of_every_version() {
        for minor in OLDEST..=NEWEST {
            for arch in [Arch::Amd64, Arch::Arm64] {
                for patch in [0, 4, u32::MAX] {
                    let rows = table::lookup(arch, minor, patch);
                    assert!(!rows.is_empty(), "Go 1.{minor} has no row for {arch:?}");
                    for row in rows {
                        assert_eq!(check(&row.offsets, minor), Ok(()), "{} {arch:?}", row.name);
                        let needed =
                            NEEDED.iter().filter(|(_, first, last)| (*first..=*last).contains(&minor));
                        let usage = ["mheap.pagesInUse", "mheap.sweepgen"].map(|name| (name, 0, 0));
                        for (field, ..) in needed.chain(&usage) {
                            assert!(row.offsets.contains_key(*field), "{} {arch:?} lacks {field}", row.name);
                        }
                    }
                }
            }
        }
    }

    #[test]
    fn what_is_no_layout_is_refused() {
        let good = table::lookup(Arch::Amd64, NEWEST, u32::MAX).remove(0).offsets;
        let fault = |change: &dyn Fn(&mut HashMap<String, u32>)| {
            let mut offsets = good.clone();
            change(&mut offsets);
            check(&offsets, NEWEST + 3).unwrap_err()
        };
        assert_eq!(fault(&|offsets| offsets.retain(|name, _| name != "g.goid")), "g.goid is missing");
        assert_eq!(
            fault(&|offsets| offsets.retain(|name, _| name != "notifyList.head")),
            "notifyList.head is missing"
        );
        let mut unused = good.clone();
        unused.retain(|name, _| !name.starts_with("notifyList."));
        assert_eq!(check(&unused, NEWEST), Ok(()));
        let moved = |name: &str, to| fault(&|offsets| offsets.extend([(name.to_owned(), to)]));
        assert_eq!(moved("g.goid", good["g.gopc"]), "g.goid and g.gopc lie at the same place");
        assert_eq!(moved("g.goid", good["g._size"]), "g.goid lies behind the end of g");
        assert_eq!(moved("mheap.arenas", u32::MAX), "mheap.arenas cannot be 4294967295");
    }
}
