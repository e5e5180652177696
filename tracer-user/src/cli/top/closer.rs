//! What is read of a target when the user asks: one goroutine's whole stack and what it waits for; what is leaked.

use crate::{
    cli::{args::LayoutArg, source::Opened},
    output::{
        Traceback, bytes,
        dump::{Names, object_in_full},
        leaks::{Found, summary},
    },
    top::{LeakGroup, Leaks},
};
use anyhow::{Context as _, Result};
use sfgi_core::{
    detect,
    detect::{Rules, Scope, Thresholds},
    heap,
    heap::Registers,
    memory::{Live, Sampler},
    snapshot,
    snapshot::{Clock, Options, Snapshot, Trust, View},
};
use std::{
    collections::HashMap,
    num::NonZero,
    sync::{Arc, Mutex, PoisonError},
    thread,
    time::Duration,
};

/// As `sfgi leaks` has them where nobody says otherwise.
const WINDOW: Duration = Duration::from_secs(1);
const PASSES: u32 = 4;
const MIN_AGE_NS: u64 = 300_000_000_000;
const MIN_COUNT: u64 = 3;
/// Goroutines of a group that are named.
const NAMED: usize = 10;

/// Reads targets; each is opened when it is asked for.
pub(super) struct Closer {
    layout: LayoutArg,
    opened: HashMap<u32, Arc<Opened>>,
    leaks: Arc<Mutex<Leaks>>,
}

/// A goroutine's whole stack, and what it waits for, in lines.
pub(super) type Lines = (Vec<String>, Vec<String>);

impl Closer {
    pub(super) fn new(layout: &LayoutArg) -> Closer {
        Closer { layout: layout.clone(), opened: HashMap::new(), leaks: Arc::default() }
    }

    fn opened(&mut self, pid: u32) -> Result<Arc<Opened>> {
        if let Some(opened) = self.opened.get(&pid) {
            return Ok(Arc::clone(opened));
        }
        let opened = Arc::new(Opened::process(pid, &self.layout)?);
        self.opened.insert(pid, Arc::clone(&opened));
        Ok(opened)
    }

    /// One goroutine; `None`: it does not wait, or cannot be read.
    pub(super) fn goroutine(&mut self, pid: u32, goid: u64, g: u64) -> Option<Lines> {
        let opened = self.opened(pid).ok()?;
        let process = opened.process.as_ref()?;
        let (memory, bias) = (Live::of(process), opened.bias().ok()?);
        let view = View { memory: &memory, binary: &opened.binary, bias, clock: Clock::Live };
        let options = Options { stacks: true, objects: true, ..Options::default() };
        let snapshot = snapshot::take_only(&view, options, &[g]).ok()?;
        let one = snapshot.goroutines.first().filter(|one| one.goid == goid && one.trust == Trust::Still)?;
        if !one.state.stays() {
            return None;
        }
        let mut text = Vec::new();
        let mut traceback = Traceback::new(&opened.binary, bias, &snapshot, snapshot.taken_ns.1);
        traceback.write(&mut text, one).ok()?;
        let text = String::from_utf8_lossy(&text);
        // The heading says what the pane says already.
        let stack = text.lines().skip(1).map(|line| line.replace('\t', "    "));
        let objects = one.waits.iter().filter_map(|wait| object_in_full(&snapshot, wait.object));
        let objects = objects.flat_map(|text| text.lines().map(str::to_owned).collect::<Vec<_>>());
        Some((stack.filter(|line| !line.is_empty()).collect(), objects.collect()))
    }

    /// How far the search for leaks is.
    pub(super) fn leaks(&self) -> Leaks {
        self.leaks.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Begins to search a process for leaks on a thread of its own, unless a search goes on.
    pub(super) fn find_leaks(&mut self, pid: u32) -> Result<()> {
        if matches!(self.leaks(), Leaks::Searching(_)) {
            return Ok(());
        }
        let opened = self.opened(pid)?;
        let leaks = Arc::clone(&self.leaks);
        let tell = move |now: Leaks| *leaks.lock().unwrap_or_else(PoisonError::into_inner) = now;
        tell(Leaks::Searching(format!("looking at PID {pid}")));
        thread::Builder::new().name("leaks".to_owned()).spawn(move || {
            let found = search(&opened, pid, &tell);
            tell(found.unwrap_or_else(|error| Leaks::Failed(format!("{error:#}"))));
        })?;
        Ok(())
    }
}

fn search(opened: &Opened, pid: u32, tell: &impl Fn(Leaks)) -> Result<Leaks> {
    let process = opened.process.as_ref().context("it does not run")?;
    let (memory, bias) = (Live::of(process), opened.bias()?);
    let view = View { memory: &memory, binary: &opened.binary, bias, clock: Clock::Live };
    // Without registers nothing counts as proven, which the summary says.
    let mut registers = Sampler::start(process).map_or(Registers::Unknown, Registers::Sampled);
    let mut progress = |progress| {
        tell(Leaks::Searching(match progress {
            heap::Progress::Looking(look) => format!("looking at the goroutines, {look}"),
            heap::Progress::Scanning(pass, read, all) => {
                format!("reading the heap, pass {pass}: {} of {}", bytes(read), bytes(all))
            }
        }));
    };
    let threads = thread::available_parallelism().map_or(1, NonZero::get).min(2);
    let options = heap::Options { window: WINDOW, passes: PASSES, threads, heap: true };
    let observation = heap::observe(&view, &options, &mut registers, &mut progress)?;
    let snapshot = &observation.observed.snapshot;
    let mut names = Names::new(Arc::clone(&opened.binary), bias, snapshot);
    let thresholds = Thresholds { min_age_ns: MIN_AGE_NS, min_count: MIN_COUNT, now_ns: snapshot.taken_ns.1 };
    let scope = Scope { goids: [].into(), ignore_func: Vec::new(), ignore_created_by: Vec::new() };
    let report = detect::detect(&observation.observed, &Rules::built_in()?, &scope, &thresholds, &mut names);
    let found = Found {
        pid: Some(pid),
        exe: &opened.name,
        observed: &observation.observed,
        report: &report,
        pinned: &[],
        accepted: 0,
    };
    let groups = report.groups.iter().map(|group| leak_group(group, snapshot, &mut names));
    Ok(Leaks::Found(summary(&found), groups.collect()))
}

fn leak_group(group: &detect::Group, snapshot: &Snapshot, names: &mut Names) -> LeakGroup {
    let goroutine = |index: &u32| snapshot.goroutines.get(*index as usize);
    let first = group.members.first().and_then(goroutine);
    let site = first.and_then(|first| names.wait_site(snapshot.stacks.get(first.stack)));
    LeakGroup {
        verdict: group.verdict,
        class: group.rule.class.to_string(),
        title: group.title(),
        count: group.count,
        place: site.map(|site| site.func.to_string()).unwrap_or_default(),
        goids: group.members.iter().take(NAMED).filter_map(goroutine).map(|one| one.goid).collect(),
        evidence: group.evidence.clone(),
        fix: group.rule.fix.clone(),
    }
}
