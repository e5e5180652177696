//! Looks at one process: all goroutines (`poll`), or those and its heap (`look`).

mod counts;
mod kept;
mod past;
mod places;

pub(super) use counts::{nowhere, table};
pub(crate) use past::Past;

use super::{Opened, Target, TargetError, pool::beat};
use crate::agent::{
    Config,
    picture::{Memory, Scan, SiteGrowth},
};
use sfgi_core::{
    clock,
    detect::Scope,
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

/// Groups of one process that are kept: the surest and the most severe come first.
const MAX_GROUPS: usize = 200;
/// Goroutines that are named of a group, and lines of its stack: a recursion may have a million.
const MAX_GOIDS: usize = 100;
const MAX_STACK: usize = 64;

/// What a look at a process told.
#[derive(Debug)]
pub(crate) struct Told {
    pub(crate) scan: Scan,
    pub(crate) memory: Memory,
    pub(crate) growth: Vec<SiteGrowth>,
    /// `None`: the heap was not looked at.
    pub(crate) leaks: Option<Leaks>,
    /// Goroutines wait for long enough that a look at the heap may tell something that the last one did not.
    pub(crate) suspicious: bool,
    /// What is to outlive this agent; `None`: what was told last.
    pub(crate) kept: Option<Arc<[u8]>>,
}

/// What a look at the heap told.
#[derive(Debug)]
pub(crate) struct Leaks {
    pub(crate) groups: Vec<LeakView>,
    /// Why nothing counts as proven.
    pub(crate) doubt: Option<String>,
    /// Goroutines that were judged.
    pub(crate) scanned: u64,
}

/// Reads all goroutines of a process.
pub(crate) fn poll(target: &Target, past: &mut Past, config: &Config) -> Result<Told, TargetError> {
    let began = Began::now();
    let opened = target.open()?;
    past.resume(target.run(), clock::now(), config);
    let memory = Live::of(&target.process);
    let view = opened.view(&memory);
    let plain = snapshot::Options::default();
    let mut snapshot = snapshot::take(&view, plain, &mut |_, _| beat())?;
    let mut names = Names::new(Arc::clone(&opened.binary), view.bias, &snapshot);
    // Most goroutines of most programs wait where they waited last time: only of the others is the stack read.
    let unknown = past.unknown(&snapshot);
    if !unknown.is_empty() {
        let options = snapshot::Options { stacks: true, ..plain };
        let fresh = snapshot::take_only(&view, options, &unknown)?;
        past.learn(&mut snapshot, fresh, &mut names);
    }
    let used = counts::memory(target, &view, &config.host);
    target.still_the_same()?;
    let waits = past.places(&mut snapshot);
    let mut told = tell(used, &snapshot, &mut names, waits, config);
    let reasons = view.binary.wait_reasons();
    told.suspicious = past.poll(snapshot, reasons, config);
    told.growth = past.growth(&mut names);
    if config.store.file.is_some() {
        told.kept = past.keep(target.run());
    }
    (told.scan.wall_seconds, told.scan.cpu_seconds) = began.passed();
    Ok(told)
}

/// The same, and judges which goroutines are leaked, with a look at the heap.
pub(crate) fn look(target: &Target, past: &mut Past, config: &Config) -> Result<Told, TargetError> {
    let began = Began::now();
    let opened = target.open()?;
    past.resume(target.run(), clock::now(), config);
    let memory = Live::of(&target.process);
    let view = opened.view(&memory);
    let Found { mut leaks, mut names } = search(target, &opened, &view, Some(past), config)?;
    let used = counts::memory(target, &view, &config.host);
    target.still_the_same()?;
    let (observed, mut groups) = (&leaks.observed, mem::take(&mut leaks.groups));
    groups.truncate(MAX_GROUPS);
    groups.iter_mut().for_each(|group| group.shorten(MAX_GOIDS, MAX_STACK));
    let waits = counts::waits(&observed.snapshot, &mut names);
    let mut told = tell(used, &observed.snapshot, &mut names, waits, config);
    past.looked(observed, view.binary.wait_reasons(), config);
    past.date(&mut groups, told.scan.unix_ns);
    told.growth = past.growth(&mut names);
    if config.store.file.is_some() {
        told.kept = past.keep(target.run());
    }
    told.leaks = Some(Leaks { groups, doubt: observed.doubt.clone(), scanned: leaks.scanned });
    (told.scan.wall_seconds, told.scan.cpu_seconds) = began.passed();
    Ok(told)
}

/// Searches a process for leaks: with what earlier looks told, if that is given, and with what each group pins then.
pub(crate) fn search(
    target: &Target,
    opened: &Opened,
    view: &View<'_>,
    past: Option<&mut Past>,
    config: &Config,
) -> Result<Found, TargetError> {
    let mut registers = Sampler::start(&target.process).map_or(Registers::Unknown, Registers::Sampled);
    let scope = Scope::default();
    let search = Search {
        thresholds: config.leaks.thresholds(),
        pinned: past.is_some(),
        ..Search::new(&config.leaks.catalogue, &scope)
    };
    let history = past.map(|past| &mut past.history);
    Ok(search.run(view, &opened.binary, &mut registers, history, &mut |_| beat())?)
}

/// What every look tells.
fn tell(
    memory: Memory,
    snapshot: &Snapshot,
    names: &mut Names,
    waits: Vec<(Site, u64)>,
    config: &Config,
) -> Told {
    let mut scan = counts::count(snapshot, names, waits, config.metrics.sites);
    scan.unix_ns = unix_ns();
    Told { scan, memory, growth: Vec::new(), leaks: None, suspicious: false, kept: None }
}

/// Nanoseconds since 1970.
pub(crate) fn unix_ns() -> u64 {
    let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_nanos()).unwrap_or(u64::MAX)
}

/// When something began, and what this thread had cost by then.
struct Began {
    wall: Instant,
    cpu_ns: u64,
}

impl Began {
    fn now() -> Began {
        Began { wall: Instant::now(), cpu_ns: clock::thread_cpu() }
    }

    /// Seconds by the clock, and of CPU.
    fn passed(&self) -> (f64, f64) {
        let cpu_ns = clock::thread_cpu().saturating_sub(self.cpu_ns);
        (self.wall.elapsed().as_secs_f64(), cpu_ns as f64 / 1e9)
    }
}
