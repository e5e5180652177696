//! Reads one target: all goroutines ([`poll`]), or those and its heap ([`look`]).

mod counts;
mod kept;
mod past;
mod places;

pub(super) use counts::{nowhere, table};
pub(crate) use past::Past;

use super::{
    target::{Opened, Target, TargetError},
    worker::beat,
};
use crate::agent::{
    Config,
    picture::{Memory, Runtime, Scan, SiteGrowth},
};
use serde::{Deserialize, Serialize};
use sfgi_core::{
    clock,
    detect::Scope,
    fds::Fds,
    heap::Registers,
    leaks::{Found, LeakView, Search},
    memory::{Live, Sampler},
    names::{Names, Site},
    snapshot,
    snapshot::{Snapshot, View},
};
use std::{
    mem,
    sync::Arc,
    time::{Instant, SystemTime},
};

/// The most groups of one target that are kept. The surest and most severe come first.
const MAX_GROUPS: usize = 200;
/// Rows of a table, and groups, where the server has no room for more.
const FEW: usize = 8;
/// The most goroutines that are named of a group, and frames of its stack: a recursion may have a million.
const MAX_GOIDS: usize = 100;
const MAX_STACK: usize = 64;

/// The result of a poll or a look.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Told {
    pub(crate) scan: Scan,
    pub(crate) memory: Memory,
    pub(crate) runtime: Runtime,
    pub(crate) growth: Vec<SiteGrowth>,
    /// `None`: it was a poll, which does not read the heap.
    pub(crate) leaks: Option<Leaks>,
    /// Goroutines have waited for long that had not at the last look at the heap, so a look may find more.
    pub(crate) suspicious: bool,
    /// The very goroutines that had waited for so long (nanoseconds) at the last look at the heap still wait, and no others;
    /// `None`: not so.
    pub(crate) still_ns: Option<u64>,
    /// What the store is to keep for the next agent; `None`: the last one still holds.
    pub(crate) kept: Option<Arc<[u8]>>,
}

impl Told {
    /// Keeps the first few rows of each table, and says so: the server has no room for more.
    pub(crate) fn shorten(&mut self) {
        for table in [&mut self.scan.creators, &mut self.scan.waits] {
            table.shorten(FEW);
        }
        self.growth.truncate(FEW);
        if let Some(leaks) = &mut self.leaks
            && leaks.groups.len() > FEW
        {
            leaks.groups.truncate(FEW);
            let why =
                format!("only the first {FEW} groups are kept: the agent's memory is in use, raise --memory");
            leaks.doubt = Some(leaks.doubt.take().map_or(why.clone(), |doubt| format!("{doubt}; {why}")));
        }
    }
}

/// The leaks that a look at the heap found.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Leaks {
    pub(crate) groups: Vec<LeakView>,
    /// The doubt that turned `proven` into `likely`; `None`: the look saw everything.
    pub(crate) doubt: Option<String>,
    /// How many goroutines were judged.
    pub(crate) scanned: u64,
    /// Objects in pools; `None`: no objects were read.
    pub(crate) pool_objects: Option<u64>,
}

/// Reads all goroutines of a target.
pub(crate) fn poll(target: &Target, past: &mut Past, config: &Config) -> Result<Told, TargetError> {
    let began = Began::now();
    let opened = target.open()?;
    past.resume(target.run(), clock::now(), config);
    let memory = Live::of(&target.process);
    let view = opened.view(&memory);
    let plain = snapshot::Options::default();
    let mut snapshot = snapshot::take(&view, plain, &mut |_, _| beat())?;
    let mut names = Names::new(Arc::clone(&opened.binary), view.bias, &snapshot);
    // Most goroutines of most programs still wait where they waited last time. Stacks are the dear part, so only
    // those of the others are read.
    let unknown = past.unknown(&snapshot);
    if !unknown.is_empty() {
        let options = snapshot::Options { stacks: true, ..plain };
        let fresh = snapshot::take_only(&view, options, &unknown)?;
        past.learn(&mut snapshot, fresh, &mut names);
    }
    let used = counts::memory(target, &view, &config.host);
    let runtime = counts::runtime(target, &view);
    target.still_the_same()?;
    let waits = past.places(&mut snapshot);
    let mut told = tell((used, runtime), &snapshot, &mut names, waits, config);
    let reasons = view.binary.wait_reasons();
    (told.suspicious, told.still_ns) = past.poll(snapshot, reasons, config);
    told.scan.descriptors = Fds::of(&target.process).map(|fds| fds.counts()).unwrap_or_default();
    told.growth = past.growth(&mut names);
    told.kept = past.keep(target.run());
    (told.scan.wall_seconds, told.scan.cpu_seconds) = began.passed();
    Ok(told)
}

/// Reads all goroutines and the heap, and judges which goroutines are leaked.
pub(crate) fn look(target: &Target, past: &mut Past, config: &Config) -> Result<Told, TargetError> {
    let began = Began::now();
    let opened = target.open()?;
    past.resume(target.run(), clock::now(), config);
    let memory = Live::of(&target.process);
    let view = opened.view(&memory);
    let Found { mut leaks, mut names } = search(target, &opened, &view, Some(past), config)?;
    let used = counts::memory(target, &view, &config.host);
    let runtime = counts::runtime(target, &view);
    target.still_the_same()?;
    let (observed, mut groups) = (&leaks.observed, mem::take(&mut leaks.groups));
    groups.truncate(MAX_GROUPS);
    groups.iter_mut().for_each(|group| group.shorten(MAX_GOIDS, MAX_STACK));
    // The search has read every stack, so the places need no cache.
    let waits = counts::waits(&observed.snapshot, &mut names);
    let mut told = tell((used, runtime), &observed.snapshot, &mut names, waits, config);
    past.looked(observed, view.binary.wait_reasons(), config);
    past.date(&mut groups, told.scan.unix_ns);
    told.scan.descriptors = mem::take(&mut leaks.descriptors);
    told.growth = past.growth(&mut names);
    told.kept = past.keep(target.run());
    told.leaks = Some(Leaks {
        groups,
        doubt: observed.doubt.clone(),
        scanned: leaks.scanned,
        pool_objects: leaks.pool_objects,
    });
    (told.scan.wall_seconds, told.scan.cpu_seconds) = began.passed();
    Ok(told)
}

/// Searches a target for leaks. With `past`, the earlier looks count, and what each group pins is measured.
pub(crate) fn search(
    target: &Target,
    opened: &Opened,
    view: &View<'_>,
    past: Option<&mut Past>,
    config: &Config,
) -> Result<Found, TargetError> {
    // Without the right to sample the search goes on, with a doubt: a pointer may be in a register only.
    let mut registers = Sampler::start(&target.process).map_or(Registers::Unknown, Registers::Sampled);
    let scope = Scope::default();
    // The names of variables are not kept: they are read anew where they are needed.
    let exe = target.process.exe().ok();
    let search = Search {
        thresholds: config.leaks.thresholds(),
        pinned: past.is_some(),
        exe: exe.as_ref(),
        process: Some(&target.process),
        ..Search::new(&config.leaks.catalogue, &scope)
    };
    let earlier = past.map(|past| &mut past.earlier);
    Ok(search.run(view, &opened.binary, &mut registers, earlier, &mut |_| beat())?)
}

/// The part of the result that polls and looks have in common.
fn tell(
    (memory, runtime): (Memory, Runtime),
    snapshot: &Snapshot,
    names: &mut Names,
    waits: Vec<(Site, u64)>,
    config: &Config,
) -> Told {
    let mut scan = counts::count(snapshot, names, waits, config.metrics.sites);
    scan.unix_ns = unix_ns();
    Told {
        scan,
        memory,
        runtime,
        growth: Vec::new(),
        leaks: None,
        suspicious: false,
        still_ns: None,
        kept: None,
    }
}

/// The wall clock: nanoseconds since 1970; 0 for a clock before that.
pub(crate) fn unix_ns() -> u64 {
    let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_nanos()).unwrap_or(u64::MAX)
}

/// The start of a poll or look: the wall clock, and the CPU time of this thread by then.
struct Began {
    wall: Instant,
    cpu_ns: u64,
}

impl Began {
    fn now() -> Began {
        Began { wall: Instant::now(), cpu_ns: clock::thread_cpu() }
    }

    /// Wall seconds and CPU seconds since then. Only on the same thread.
    fn passed(&self) -> (f64, f64) {
        let cpu_ns = clock::thread_cpu().saturating_sub(self.cpu_ns);
        (self.wall.elapsed().as_secs_f64(), cpu_ns as f64 / 1e9)
    }
}
