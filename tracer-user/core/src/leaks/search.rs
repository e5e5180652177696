//! From a target's memory to what is said of its leaked goroutines.

use super::{
    children::Children,
    fds::{self, FdLooks},
    kept::{Among, Descriptors, Kept},
    outside,
    view::{LeakView, views},
};
use crate::{
    binary::GoBinary,
    detect::{
        Baseline, Group, History, Lookup, Report, Rules, Scope, Thresholds, Verdict, detect,
        troubled_contexts, troubled_fds, troubled_pools,
    },
    fds::{FdCount, Fds},
    goruntime::{Godebug, WaitReason},
    heap::{self, Observation, ObserveError, Observed, Options, Progress, Registers},
    names::Names,
    objects::Objects,
    process::Process,
    snapshot::{Goroutine, Pc, Snapshot, View, of_one_time},
};
use hashbrown::{HashMap, HashSet};
use std::{fs::File, mem, sync::Arc, time::Duration};

/// The defaults for looking at a heap: four passes over a second, which `proven` takes at least, by one thread.
pub const OPTIONS: Options =
    Options { window: Duration::from_secs(1), passes: 4, threads: 1, heap: true, most: 0 };

/// What to search for, and how.
#[derive(Clone, Copy, Debug)]
pub struct Search<'a> {
    pub rules: &'a Rules,
    pub scope: &'a Scope,
    pub thresholds: Thresholds,
    /// Groups with a lesser verdict are left out.
    pub least: Verdict,
    /// Groups that are accepted: they are reported apart.
    pub baseline: Option<&'a Baseline>,
    pub options: Options,
    /// Measure the heap that each group pins: another mark phase over what the groups reach.
    pub pinned: bool,
    /// Look at all objects, too: for lost contexts, and for what keeps alive what goroutines wait for. It takes about as
    /// long as two passes over the heap; searches one after the other do it for a tenth of their time at most.
    pub objects: bool,
    /// The executable, for the names of variables; `None`: the binary has them, or nobody does.
    pub exe: Option<&'a File>,
    /// The target, for what `/proc` tells of it; `None`: it is a core file.
    pub process: Option<&'a Process>,
}

/// What earlier searches of the same target told.
#[derive(Debug, Default)]
pub struct Earlier {
    pub history: History,
    kept: Option<Kept>,
    children: Children,
    fds: FdLooks,
}

/// What a search found, and the names to show it with.
pub struct Found {
    pub leaks: Leaks,
    pub names: Names,
}

/// What was observed, and what is said of it.
#[derive(Debug, Default)]
pub struct Leaks {
    pub observed: Observed,
    /// The surest first, of those the most severe, of those the largest.
    pub groups: Vec<LeakView>,
    /// Groups that the baseline accepts.
    pub accepted: Vec<Group>,
    /// Goroutines in scope that could be judged, leaked or not.
    pub scanned: u64,
    /// Why contexts, and what keeps objects alive, were not looked at, as a clause; `None`: they were, or nobody wanted it.
    pub objects_doubt: Option<String>,
    /// Why pools were not looked at, as a clause; `None`: they were, or nobody wanted it.
    pub pools_doubt: Option<String>,
    /// Objects in all pools; `None`: not known, or nobody wanted it.
    pub pool_objects: Option<u64>,
    /// The open descriptors; empty where they were not looked at.
    pub descriptors: Vec<FdCount>,
}

impl Earlier {
    /// Of searches whose history goes on with this one.
    pub fn with(history: History) -> Earlier {
        Earlier { history, ..Earlier::default() }
    }
}

impl<'a> Search<'a> {
    /// A search with the defaults of `sfgi leaks`, for a caller without options of its own.
    pub fn new(rules: &'a Rules, scope: &'a Scope) -> Search<'a> {
        Search {
            rules,
            scope,
            thresholds: Thresholds::default(),
            least: Verdict::Suspect,
            baseline: None,
            options: OPTIONS,
            pinned: true,
            objects: true,
            exe: None,
            process: None,
        }
    }

    /// Searches once. `binary` is that of `view`; `earlier`, where the search is one of many, is read and extended.
    ///
    /// # Errors
    /// The goroutines cannot be read. A heap that cannot be read is no error: [`Observed::doubt`] says so.
    pub fn run(
        &self,
        view: &View<'_>,
        binary: &Arc<GoBinary>,
        registers: &mut Registers<'_>,
        mut earlier: Option<&mut Earlier>,
        progress: &mut dyn FnMut(Progress),
    ) -> Result<Found, ObserveError> {
        // A single search looks at descriptors before and behind all else, one of many each time.
        let (mut own, first) = (FdLooks::default(), earlier.is_none());
        if first {
            self.look(view, &mut own);
        }
        let mut observation = heap::observe(view, &self.options, registers, progress)?;
        observation.observed.started_ns = self.process.map(Process::started_ns);
        if self.hides_timers(binary) {
            observation.observed.timer_like = of_one_time(view, &observation.observed.snapshot);
        }
        // Before the judgement: age, growth and repetition come from all looks.
        if let Some(earlier) = &mut earlier {
            earlier.history.extend(&mut observation.observed);
        }
        let mut names = Names::new(Arc::clone(binary), view.bias, &observation.observed.snapshot);
        let mut signals = signals(&observation.observed.snapshot, &mut names);
        let mut kept = earlier.as_mut().and_then(|earlier| earlier.kept.take()).filter(Kept::is_good);
        let mut objects = None;
        if kept.is_none() && self.objects && self.options.heap {
            let children = earlier.as_mut().map(|earlier| &mut earlier.children);
            let (read, of) = self.kept(view, &observation, registers, &signals, children);
            (kept, objects) = (Some(read), of);
        }
        if let Some(kept) = &kept {
            kept.note(&mut observation.observed);
            signals.extend(&kept.until_signal);
        }
        until_signal(&mut observation.observed, &signals);
        let observed = &observation.observed;
        let mut report = detect(observed, self.rules, self.scope, &self.thresholds, &mut names);
        if let Some(kept) = &kept
            && self.scope.goids.is_empty()
        {
            let sure = kept.sure && observed.doubt.is_none();
            report.add(troubled_contexts(&kept.contexts, sure, kept.age(), self.rules));
            let pools = kept.pools.as_deref().unwrap_or_default();
            report.add(troubled_pools(pools, kept.age(), self.rules));
        }
        let looks = earlier.as_mut().map_or(&mut own, |earlier| &mut earlier.fds);
        let now = self.look(view, looks);
        if let Some(fds) = &now {
            let mut findings = looks.findings(fds, kept.as_ref().map(|kept| &kept.fds), view.now_ns(), first);
            findings.iter_mut().for_each(|finding| finding.sure &= observed.doubt.is_none());
            report.add(troubled_fds(&findings, &self.thresholds, self.rules));
        }
        let accepted = self.sift(&mut report);
        let pinned = if self.pinned {
            let members: Vec<Vec<u32>> = report.groups.iter().map(|group| group.members.clone()).collect();
            observation.pinned(&members)
        } else {
            Vec::new()
        };
        let scanned = report.scanned;
        let mut groups = views(report, &observation.observed, &pinned, &mut names);
        if let Some(kept) = &mut kept {
            if let Some(objects) = &objects {
                kept.find_ways(objects, &groups);
            }
            kept.tell(&mut groups);
        }
        if let Some(process) = self.process {
            outside::tell(process, view, &observation.observed, &mut names, &mut groups);
        }
        let objects_doubt = kept.as_ref().and_then(|kept| kept.doubt.clone());
        let pool_objects = kept.as_ref().and_then(|kept| kept.pool_objects);
        let pools_doubt = kept.as_ref().and_then(|kept| kept.pools.as_ref().err().cloned());
        if let Some(earlier) = earlier {
            earlier.kept = kept;
        }
        let observed = observation.observed;
        let descriptors = now.map(|fds| fds.counts()).unwrap_or_default();
        let leaks = Leaks {
            observed,
            groups,
            accepted,
            scanned,
            objects_doubt,
            pools_doubt,
            pool_objects,
            descriptors,
        };
        Ok(Found { leaks, names })
    }

    fn hides_timers(&self, binary: &GoBinary) -> bool {
        let environment = self.process.and_then(|process| process.variable("GODEBUG")).unwrap_or_default();
        let default = binary.info().setting("DefaultGODEBUG").unwrap_or_default();
        let godebug = Godebug { default, environment: &environment };
        binary.version().release.hides_timers_of_channels(&godebug)
    }

    fn kept<'v>(
        &self,
        view: &View<'v>,
        observation: &Observation<'_>,
        registers: &mut Registers<'_>,
        signals: &HashSet<u64>,
        children: Option<&mut Children>,
    ) -> (Kept, Option<Objects<'v>>) {
        let observed = &observation.observed;
        // What nobody can wake keeps nothing alive that could wake it.
        let dead =
            observed.snapshot.goroutines.iter().zip(&observed.facts).filter(|(_, facts)| facts.unreachable);
        let without = dead.map(|(goroutine, _)| goroutine.goid).collect();
        let reached = |addr| observation.is_reached(addr);
        let descriptors = self.process.map(|process| Descriptors { process, reached: &reached });
        let among = Among { registers: &registers.take(), without: &without, signals };
        Kept::read(view, self.exe, among, children, descriptors)
    }

    /// Looks at the descriptors.
    fn look(&self, view: &View<'_>, looks: &mut FdLooks) -> Option<Fds> {
        // A question for certain goroutines is none for descriptors.
        let process = self.process.filter(|_| self.scope.goids.is_empty())?;
        let fds = fds::read(process, view, self.thresholds.min_count)?;
        looks.look(&fds, view.now_ns());
        Some(fds)
    }

    /// Takes out the groups that are not wanted; returns those that the baseline accepts.
    fn sift(&self, report: &mut Report) -> Vec<Group> {
        report.groups.retain(|group| group.verdict >= self.least);
        let Some(baseline) = self.baseline else { return Vec::new() };
        let (accepted, left) =
            mem::take(&mut report.groups).into_iter().partition(|group| baseline.accepts(group.id));
        report.groups = left;
        accepted
    }
}

/// What a goroutine of `signal.NotifyContext` waits for (`src/os/signal/signal.go`): a signal, and the end of its context.
fn signals(snapshot: &Snapshot, names: &mut Names) -> HashSet<u64> {
    let mut known: HashMap<u64, bool> = HashMap::new();
    let mut watches = |one: &Goroutine| {
        *known.entry(one.gopc).or_insert_with(|| {
            names.go_statement(one.gopc).is_some_and(|site| &*site.func == "os/signal.NotifyContext")
        })
    };
    let waiting = snapshot.goroutines.iter().filter(|one| !one.waits.is_empty());
    let waits = waiting.filter(|one| watches(one)).flat_map(|one| &one.waits);
    waits.filter_map(|wait| Some(snapshot.objects.get(wait.object as usize)?.addr)).collect()
}

/// Notes which goroutines wait for one of these channels.
fn until_signal(observed: &mut Observed, signals: &HashSet<u64>) {
    let objects = &observed.snapshot.objects;
    let is_one = |object: u32| objects.get(object as usize).is_some_and(|one| signals.contains(&one.addr));
    for (goroutine, facts) in observed.snapshot.goroutines.iter().zip(&mut observed.facts) {
        facts.until_signal = goroutine.waits.iter().any(|wait| is_one(wait.object));
    }
}

impl Leaks {
    /// Goroutines, timers, contexts and descriptors with this verdict.
    pub fn count_of(&self, verdict: Verdict) -> u64 {
        self.groups.iter().filter(|group| group.verdict == verdict).map(|group| group.count).sum()
    }

    /// Goroutines with this verdict, without anything else.
    pub fn goroutines_of(&self, verdict: Verdict) -> u64 {
        let groups = self.groups.iter().filter(|group| group.verdict == verdict && group.is_of_goroutines());
        groups.map(|group| group.count).sum()
    }

    /// Goroutines and timers that the baseline accepts.
    pub fn accepted_count(&self) -> u64 {
        self.accepted.iter().map(|group| group.count).sum()
    }

    /// A baseline that accepts everything that was found, and what the present one accepts.
    pub fn baseline(&self) -> String {
        let found = self.groups.iter().map(|group| (group.id, &*group.rule));
        Baseline::text(found.chain(self.accepted.iter().map(|group| (group.id, &*group.rule))))
    }

    /// Why the snapshot lacks goroutines; `None`: it is complete.
    pub fn incomplete(&self) -> Option<String> {
        self.observed.snapshot.lacks()
    }
}

impl Lookup for Names {
    fn functions(&mut self, stack: &[Pc]) -> Vec<Arc<str>> {
        self.frames(stack).into_iter().flatten().map(|line| line.site.func).collect()
    }

    fn wait_site(&mut self, stack: &[Pc]) -> Option<(Arc<str>, u32)> {
        Names::wait_site(self, stack).map(|site| (site.func, site.line))
    }

    fn creator(&mut self, goroutine: &Goroutine) -> Option<Arc<str>> {
        Names::creator(self, goroutine).map(|site| site.func)
    }

    fn function(&mut self, addr: u64) -> Option<Arc<str>> {
        self.lines(Pc::exact(addr)).last().map(|line| Arc::clone(&line.site.func))
    }

    fn wait_reason(&self, goroutine: &Goroutine) -> WaitReason {
        // `g.waitreason` keeps its last value after the wait.
        let number = if goroutine.state.waits() { goroutine.reason } else { 0 };
        self.binary().wait_reasons().get(number)
    }

    fn reason(&self, goroutine: &Goroutine) -> &str {
        Names::reason(self, goroutine)
    }
}
