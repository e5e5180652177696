//! Where the runtime's fields lie, by version: the table for binaries without DWARF (`layouts.json`, made by
//! `cargo xtask layouts` from the DWARF of real toolchains), and the fields that a trace or a snapshot cannot do
//! without (`src/runtime/runtime2.go`, `chan.go`, `sema.go`, `coro.go`, `symtab.go`).

pub(crate) mod evidence;

use super::Release;
use crate::binary::Arch;
use serde::Deserialize;
use std::collections::HashMap;
use std::sync::LazyLock;

const DATA: &str = include_str!("layouts.json");

static TABLE: LazyLock<Option<Table>> = LazyLock::new(|| serde_json::from_str(DATA).ok());

#[derive(Deserialize)]
struct Table {
    rows: Vec<Row>,
    /// By `struct.field`, the offset in each row; `None`: the row's version has no such field.
    offsets: HashMap<String, Vec<Option<u32>>>,
}

#[derive(Deserialize)]
struct Row {
    /// The first release with this layout, without `go`.
    go: String,
    /// The last release of the series with this layout, if it is another one. All releases between that were examined
    /// have the same layout.
    last: Option<String>,
    arch: String,
}

pub(crate) struct Found {
    /// The version, e.g. `1.24.11`; for a row of several versions the one nearest to the version asked for.
    pub name: String,
    /// Whether the version asked for lies within the row, so that the layout is no guess.
    pub holds: bool,
    /// Offsets in bytes by `struct.field`; sizes and counts by `struct._size` and `array._count`.
    pub offsets: HashMap<String, u32>,
}

impl Row {
    /// First and last patch number of the row. `None`: the row is of another series or processor.
    fn patches(&self, arch: Arch, release: Release) -> Option<(u32, u32)> {
        let patch = |version: &str| {
            let (series, patch) = version.strip_prefix("1.")?.split_once('.')?;
            (series.parse() == Ok(release.minor())).then(|| patch.parse().ok())?
        };
        let first = (self.arch == arch.go_name()).then(|| patch(&self.go))??;
        Some((first, self.last.as_deref().map_or(Some(first), patch)?))
    }
}

/// The row that holds this patch of a release; else the rows before and behind it in the series, that before first.
/// Empty: the series has no row.
pub(crate) fn lookup(arch: Arch, release: Release, patch: u32) -> Vec<Found> {
    // A table that does not parse is as good as none; the tests of this module would fail.
    let Some(table) = TABLE.as_ref() else { return Vec::new() };
    let series: Vec<_> = (table.rows.iter().enumerate())
        .filter_map(|(index, row)| Some((row.patches(arch, release)?, index)))
        .collect();
    let before = series.iter().filter(|((first, _), _)| *first <= patch).max();
    let behind = series.iter().filter(|((first, _), _)| *first > patch).min();
    let holds = |row: &&((u32, u32), usize)| (row.0.0..=row.0.1).contains(&patch);
    let rows = match before.filter(holds) {
        Some(row) => vec![row],
        None => before.into_iter().chain(behind).collect(),
    };
    let found = |row: &((u32, u32), usize)| {
        let offset = |column: &Vec<Option<u32>>| column.get(row.1).copied().flatten();
        let offsets =
            table.offsets.iter().filter_map(|(field, column)| Some((field.clone(), offset(column)?)));
        let nearest = patch.clamp(row.0.0, row.0.1);
        Found {
            name: format!("1.{}.{nearest}", release.minor()),
            holds: holds(&row),
            offsets: offsets.collect(),
        }
    };
    rows.into_iter().map(found).collect()
}

/// `struct.field`, and the first and last minor version with the field.
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

/// The fields that probes and snapshots cannot do without. The heap's fields are not among them: without those only the
/// search for leaks is missing.
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

/// Structs that every DWARF describes. The linker drops types that a program does not use, such as `notifyList` in a
/// program without `sync.Cond`, so the other structs may be missing as a whole.
const ALWAYS: [&str; 7] = ["g", "m", "p", "sudog", "hchan", "schedt", "moduledata"];

/// Largest offset or size that is believed. The largest real one is `heapArena._size` of Go 1.19 with 2 MB.
const MAX_OFFSET: u32 = 16 << 20;

/// Whether these offsets are a layout of a release: the structures that it describes have every needed field, within
/// the structure, and no two at one place. A release newer than [`Release::NEWEST`] is asked for what that one has.
///
/// # Errors
/// What is wrong, with the name of the field.
pub(crate) fn check(offsets: &HashMap<String, u32>, release: Release) -> Result<(), String> {
    if let Some((name, offset)) = offsets.iter().find(|(_, offset)| **offset > MAX_OFFSET) {
        return Err(format!("{name} cannot be {offset}"));
    }
    let minor = release.min(Release::NEWEST).minor();
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
        // Sizes and counts may equal an offset.
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

    #[test]
    fn the_table_has_what_is_needed_of_every_version() {
        for minor in Release::OLDEST.minor()..=Release::NEWEST.minor() {
            let release = Release::new(minor);
            for arch in [Arch::Amd64, Arch::Arm64] {
                for patch in [0, 4, u32::MAX] {
                    let rows = lookup(arch, release, patch);
                    assert!(!rows.is_empty(), "Go 1.{minor} has no row for {arch:?}");
                    for row in rows {
                        assert_eq!(check(&row.offsets, release), Ok(()), "{} {arch:?}", row.name);
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
        let good = lookup(Arch::Amd64, Release::NEWEST, u32::MAX).remove(0).offsets;
        let fault = |change: &dyn Fn(&mut HashMap<String, u32>)| {
            let mut offsets = good.clone();
            change(&mut offsets);
            check(&offsets, Release::new(Release::NEWEST.minor() + 3)).unwrap_err()
        };
        assert_eq!(fault(&|offsets| offsets.retain(|name, _| name != "g.goid")), "g.goid is missing");
        assert_eq!(
            fault(&|offsets| offsets.retain(|name, _| name != "notifyList.head")),
            "notifyList.head is missing"
        );
        let mut unused = good.clone();
        unused.retain(|name, _| !name.starts_with("notifyList."));
        assert_eq!(check(&unused, Release::NEWEST), Ok(()));
        let moved = |name: &str, to| fault(&|offsets| offsets.extend([(name.to_owned(), to)]));
        assert_eq!(moved("g.goid", good["g.gopc"]), "g.goid and g.gopc lie at the same place");
        assert_eq!(moved("g.goid", good["g._size"]), "g.goid lies behind the end of g");
        assert_eq!(moved("mheap.arenas", u32::MAX), "mheap.arenas cannot be 4294967295");
    }
}
