//! Reads targets on the user's side, when the user asks: the whole stack of one goroutine and what it waits for, and
//! the leaked goroutines. The tracing thread must not wait for such reads.

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

/// Goids kept of each group. The pane shows fewer.
const MAX_GOIDS: usize = 100;

/// Reads targets. Each executable is opened and parsed when it is first asked for.
pub(super) struct Closer {
    layout: LayoutArg,
    opened: HashMap<u32, Arc<Opened>>,
    leaks: Arc<Mutex<LeakSearch>>,
}

/// A goroutine's whole stack, and the objects it waits for, in lines.
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

    /// Reads one goroutine by the address of its `g`; `None`: it does not wait, or cannot be read.
    pub(super) fn goroutine(&mut self, pid: u32, goid: u64, g: u64) -> Option<Lines> {
        let opened = self.opened(pid).ok()?;
        let process = opened.process.as_ref()?;
        let (memory, bias) = (Live::of(process), opened.bias().ok()?);
        let view = View { memory: &memory, binary: &opened.binary, bias, clock: Clock::Live };
        let options = Options { stacks: true, objects: true, ..Options::default() };
        let snapshot = snapshot::take_only(&view, options, &[g]).ok()?;
        // The runtime reuses a `g` for another goroutine, and one that moved while it was read has no stack.
        let one = snapshot.goroutines.first().filter(|one| one.goid == goid && one.trust == Trust::Still)?;
        if !one.state.stays() {
            return None;
        }
        let mut text = Vec::new();
        let mut traceback = Traceback::new(&opened.binary, bias, &snapshot, snapshot.taken_ns.1);
        traceback.write(&mut text, one).ok()?;
        let text = String::from_utf8_lossy(&text);
        // The first line of a traceback is its heading, which the pane has already.
        let stack = text.lines().skip(1).map(|line| line.replace('\t', "    "));
        let objects = one.waits.iter().filter_map(|wait| object_in_full(&snapshot, wait.object));
        let objects = objects.flat_map(|text| text.lines().map(str::to_owned).collect::<Vec<_>>());
        Some((stack.filter(|line| !line.is_empty()).collect(), objects.collect()))
    }

    /// The state of the search for leaks, as of now.
    pub(super) fn leaks(&self) -> LeakSearch {
        self.leaks.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Starts a search on a thread of its own, unless one runs already: the search takes seconds, and keys must work.
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
    // Sampling may be refused. The search then proves nothing, and its summary says why.
    let mut registers = Sampler::start(process).map_or(Registers::Unknown, Registers::Sampled);
    let threads = thread::available_parallelism().map_or(1, NonZero::get).min(2);
    let (rules, scope) = (Rules::built_in()?, Scope::default());
    // The pane does not show what groups pin, and computing it takes another walk over the heap.
    let options = heap::Options { threads, ..OPTIONS };
    let search = Search { options, pinned: false, process: Some(process), ..Search::new(&rules, &scope) };
    let mut found = search.run(&view, &opened.binary, &mut registers, None, &mut |how_far| {
        tell(LeakSearch::Searching(progress(how_far)));
    })?;
    // The pane shows few of the ids and no stacks, so the rest would only take memory.
    found.leaks.groups.iter_mut().for_each(|group| group.shorten(MAX_GOIDS, 0));
    Ok(LeakSearch::Found(summary(&found.leaks), found.leaks.groups.into()))
}
