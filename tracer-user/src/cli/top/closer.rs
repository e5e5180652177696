//! What is read of a target when the user asks: one goroutine's whole stack and what it waits for; what is leaked.

use crate::{
    cli::{args::LayoutArg, source::Opened},
    output::{
        Traceback,
        dump::object_in_full,
        leaks::{progress, summary},
    },
    top::LeakSearch,
};
use anyhow::{Context as _, Result};
use sfgi_core::{
    detect::{Rules, Scope},
    heap,
    heap::Registers,
    leaks::{OPTIONS, Search},
    memory::{Live, Sampler},
    snapshot,
    snapshot::{Clock, Options, Trust, View},
};
use std::{
    collections::HashMap,
    num::NonZero,
    sync::{Arc, Mutex, PoisonError},
    thread,
};

/// Ids that are kept of each group, of which fewer are shown.
const MAX_GOIDS: usize = 100;

/// Reads targets; each is opened when it is asked for.
pub(super) struct Closer {
    layout: LayoutArg,
    opened: HashMap<u32, Arc<Opened>>,
    leaks: Arc<Mutex<LeakSearch>>,
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
    pub(super) fn leaks(&self) -> LeakSearch {
        self.leaks.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Begins to search a process for leaks on a thread of its own, unless a search goes on.
    pub(super) fn find_leaks(&mut self, pid: u32) -> Result<()> {
        if matches!(self.leaks(), LeakSearch::Searching(_)) {
            return Ok(());
        }
        let opened = self.opened(pid)?;
        let leaks = Arc::clone(&self.leaks);
        let tell = move |now: LeakSearch| *leaks.lock().unwrap_or_else(PoisonError::into_inner) = now;
        tell(LeakSearch::Searching(format!("looking at PID {pid}")));
        thread::Builder::new().name("leaks".to_owned()).spawn(move || {
            let found = search(&opened, &tell);
            tell(found.unwrap_or_else(|error| LeakSearch::Failed(format!("{error:#}"))));
        })?;
        Ok(())
    }
}

fn search(opened: &Opened, tell: &impl Fn(LeakSearch)) -> Result<LeakSearch> {
    let process = opened.process.as_ref().context("it does not run")?;
    let (memory, bias) = (Live::of(process), opened.bias()?);
    let view = View { memory: &memory, binary: &opened.binary, bias, clock: Clock::Live };
    // Without registers nothing counts as proven, which the summary says.
    let mut registers = Sampler::start(process).map_or(Registers::Unknown, Registers::Sampled);
    let threads = thread::available_parallelism().map_or(1, NonZero::get).min(2);
    let (rules, scope) = (Rules::built_in()?, Scope::default());
    // What is pinned is not shown here, and takes another walk over the heap.
    let options = heap::Options { threads, ..OPTIONS };
    let search = Search { options, pinned: false, ..Search::new(&rules, &scope) };
    let mut found = search.run(&view, &opened.binary, &mut registers, None, &mut |how_far| {
        tell(LeakSearch::Searching(progress(how_far)));
    })?;
    // It is drawn anew many times a second.
    found.leaks.groups.iter_mut().for_each(|group| group.shorten(MAX_GOIDS, 0));
    Ok(LeakSearch::Found(summary(&found.leaks), found.leaks.groups.into()))
}
