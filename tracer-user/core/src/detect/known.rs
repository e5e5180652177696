//! What is judged: the goroutines in scope, gathered into shapes, and what is known of all of them together.
//!
//! Names are asked for once a shape: a million goroutines have few different stacks.

use super::{cycles::Cycles, growth::Site, history::Age};
use crate::{
    goruntime::{State, WaitReason},
    heap::{Facts, Observed},
    snapshot::{Goroutine, Object, Pc, StackId, Trust},
};
use regex::Regex;
use std::{
    cell::OnceCell,
    collections::{HashMap, HashSet},
    sync::Arc,
    time::Duration,
};

/// The gap between goids from which on two goroutines count as made by different loops. A P takes 16 ids at a time
/// (`runtime.newproc1`, `_GoidCacheBatch`), so the ids of one loop may jump.
const GOID_GAP: u64 = 32;

/// Functions of goroutines that wait by design for as long as the program runs.
const SERVICES: [&str; 8] = [
    "os/signal.loop",
    "os/signal.signal_recv",
    "os/signal.NotifyContext.func1",
    "internal/poll.(*FD).Accept",
    "runtime/trace.Start.func1",
    "runtime/pprof.profileWriter",
    "net/http.(*Server).ListenAndServe",
    "database/sql.(*DB).connectionCleaner",
];

/// Functions of pools that belong to a running client or server: idle connections, and one opener for each database.
const POOLS: [&str; 5] = [
    "net/http.(*persistConn).readLoop",
    "net/http.(*persistConn).writeLoop",
    "net/http.(*conn).readRequest",
    "net/http.(*connReader).backgroundRead",
    "database/sql.(*DB).connectionOpener",
];

/// The same of HTTP/2, behind the name of its package and "(*" ([`in_http2`]).
const HTTP2_POOLS: [&str; 4] =
    ["ClientConn).readLoop", "clientConnReadLoop).run", "serverConn).readFrames", "serverConn).serve"];

/// What follows the name of the package of HTTP/2 in the name of a method; `None`: it is of another package. Up to Go 1.26
/// that is a part of `net/http` in which all names begin with `http2` (`src/net/http/h2_bundle.go`), since 1.27
/// `net/http/internal/http2`; programs may have one of their own.
fn in_http2(name: &str) -> Option<&str> {
    let packages = ["net/http.(*http2", "net/http/internal/http2.(*", "golang.org/x/net/http2.(*"];
    packages.into_iter().find_map(|package| {
        let (before, method) = name.split_once(package)?;
        (before.is_empty() || before.ends_with("/vendor/")).then_some(method)
    })
}

/// Names for the addresses of a snapshot.
pub trait Lookup {
    /// The functions of a stack, innermost first: the runtime's own and inlined ones too.
    fn functions(&mut self, stack: &[Pc]) -> Vec<Arc<str>>;
    /// The function in which a stack waits, behind what only passes the wait on, and its line; `None` for an
    /// empty stack.
    fn wait_site(&mut self, stack: &[Pc]) -> Option<(Arc<str>, u32)>;
    /// The function with the `go` statement that made this goroutine; `None` for the main goroutine.
    fn creator(&mut self, goroutine: &Goroutine) -> Option<Arc<str>>;
    /// The function at an address.
    fn function(&mut self, addr: u64) -> Option<Arc<str>>;
    /// Why it waits; [`WaitReason::Zero`] where it does not wait.
    fn wait_reason(&self, goroutine: &Goroutine) -> WaitReason;
    /// Why it waits, in the runtime's words; empty where it does not wait.
    fn reason(&self, goroutine: &Goroutine) -> &str;
}

/// From when on age and number are signs of a leak.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Thresholds {
    /// How long a goroutine must have been waiting.
    pub min_age: Duration,
    /// How many goroutines must be alike.
    pub min_count: u64,
}

impl Default for Thresholds {
    fn default() -> Thresholds {
        Thresholds { min_age: Duration::from_secs(300), min_count: 3 }
    }
}

impl Thresholds {
    pub(super) fn min_age_ns(&self) -> u64 {
        u64::try_from(self.min_age.as_nanos()).unwrap_or(u64::MAX)
    }
}

/// What limits the judgement to some goroutines.
#[derive(Clone, Debug, Default)]
pub struct Scope {
    /// Only these are judged, and no timers; empty: all.
    pub goids: HashSet<u64>,
    /// Goroutines with a matching function on their stack are left out, and timers that run one.
    pub ignore_func: Vec<Regex>,
    /// Goroutines that a matching function made are left out.
    pub ignore_created_by: Vec<Regex>,
}

impl Scope {
    /// Whether a function that timers run is not to be reported.
    pub(super) fn ignores_function(&self, name: &str) -> bool {
        self.ignore_func.iter().any(|regex| regex.is_match(name))
    }

    fn holds_goid(&self, goid: u64) -> bool {
        self.goids.is_empty() || self.goids.contains(&goid)
    }

    fn ignores(&self, shape: &Shape) -> bool {
        let on_stack = |regex: &Regex| shape.functions.iter().any(|name| regex.is_match(name));
        let creator = |regex: &Regex| shape.creator.as_ref().is_some_and(|name| regex.is_match(name));
        self.ignore_func.iter().any(on_stack) || self.ignore_created_by.iter().any(creator)
    }
}

/// Goroutines with the same creation site, stack, state and wait reason.
pub(super) struct Shape {
    /// Indices into `Snapshot::goroutines`, ascending.
    pub(super) members: Vec<u32>,
    /// All functions on the stack, innermost first.
    pub(super) functions: Vec<Arc<str>>,
    pub(super) creator: Option<Arc<str>>,
    /// Function and line of the wait, behind what only passes it on; `None` for an empty stack.
    pub(super) wait_site: Option<(Arc<str>, u32)>,
    pub(super) reason: String,
    pub(super) state: State,
    pub(super) site: Site,
    pub(super) main: bool,
}

#[derive(PartialEq, Eq, Hash)]
struct Key {
    site: Site,
    stack: StackId,
    state: State,
    reason: u8,
    main: bool,
}

impl Key {
    fn of(goroutine: &Goroutine) -> Key {
        Key {
            site: (goroutine.gopc, goroutine.startpc),
            stack: goroutine.stack,
            state: goroutine.state,
            reason: if goroutine.state.waits() { goroutine.reason } else { 0 },
            main: goroutine.goid == 1,
        }
    }
}

/// The shapes of all goroutines that can be judged, in the order in which they first occur; and how many
/// goroutines that are.
pub(super) fn shapes(observed: &Observed, scope: &Scope, lookup: &mut dyn Lookup) -> (Vec<Shape>, u64) {
    let mut places: HashMap<Key, Option<usize>> = HashMap::new();
    let mut shapes: Vec<Shape> = Vec::new();
    let mut judged = 0;
    for (index, goroutine) in (0..).zip(&observed.snapshot.goroutines) {
        if never(goroutine, lookup.wait_reason(goroutine)) || !scope.holds_goid(goroutine.goid) {
            continue;
        }
        judged += 1;
        // Names are asked for and the scope applied once a shape; `None` is a shape that the scope leaves out.
        let place = *places.entry(Key::of(goroutine)).or_insert_with(|| {
            let shape = Shape::of(observed, goroutine, lookup);
            (!scope.ignores(&shape)).then(|| {
                shapes.push(shape);
                shapes.len() - 1
            })
        });
        if let Some(shape) = place.and_then(|place| shapes.get_mut(place)) {
            shape.members.push(index);
        }
    }
    (shapes, judged)
}

impl Shape {
    fn of(observed: &Observed, goroutine: &Goroutine, lookup: &mut dyn Lookup) -> Shape {
        let stack = observed.snapshot.stacks.get(goroutine.stack);
        Shape {
            members: Vec::new(),
            functions: lookup.functions(stack),
            creator: lookup.creator(goroutine),
            wait_site: lookup.wait_site(stack),
            reason: lookup.reason(goroutine).to_owned(),
            state: goroutine.state,
            site: (goroutine.gopc, goroutine.startpc),
            main: goroutine.goid == 1,
        }
    }

    /// Whether they belong to a service that runs as long as the program: a goroutine of it that can still be woken
    /// does not leak.
    pub(super) fn serves(&self) -> bool {
        serves(&self.functions)
    }

    /// Whether they belong to an idle pool, of which age and number say nothing.
    pub(super) fn pools(&self) -> bool {
        let mut names = self.functions.iter().map(|name| &**name);
        let pools = |name: &str| {
            POOLS.contains(&name) || in_http2(name).is_some_and(|method| HTTP2_POOLS.contains(&method))
        };
        if names.any(pools) {
            return true;
        }
        // A server's connection between two requests waits in a Peek of its own.
        let serve = self.functions.iter().position(|name| &**name == "net/http.(*conn).serve");
        let caller = serve.and_then(|at| at.checked_sub(1)).and_then(|at| self.functions.get(at));
        caller.is_some_and(|name| &**name == "bufio.(*Reader).Peek")
    }
}

/// Whether one of these functions belongs to a service that runs as long as the program.
pub(super) fn serves(functions: &[Arc<str>]) -> bool {
    functions.iter().any(|name| SERVICES.contains(&&**name))
}

/// Whether a goroutine cannot leak or cannot be judged: the runtime's own, the main one parked for good, one that was
/// in motion or makes no sense.
fn never(goroutine: &Goroutine, reason: WaitReason) -> bool {
    // A goroutine that keeps moving can still be said to spin.
    let unjudged = match goroutine.trust {
        Trust::InMotion => goroutine.state.stays(),
        Trust::Broken => true,
        Trust::Still | Trust::Running => false,
    };
    let parked_main = goroutine.goid == 1 && reason == WaitReason::SelectNoCases;
    // Goroutines of the program that work for the runtime or a tool: the reader of `runtime/trace.Start`, and the
    // call that a debugger injected.
    let foreign =
        matches!(reason, WaitReason::TraceReaderBlocked | WaitReason::DebugCall | WaitReason::Preempted);
    goroutine.system || goroutine.state.is_dead() || unjudged || parked_main || foreign || reason.is_fake()
}

/// Looks that found that a goroutine had run since the look before, from which on it works: one that was just made has
/// run, too, before it waits for good.
const WORKS: u32 = 3;

fn working(observed: &Observed) -> HashSet<Site> {
    let both = observed.snapshot.goroutines.iter().zip(&observed.facts);
    let working = both.filter(|(_, facts)| facts.moved >= WORKS);
    working.map(|(goroutine, _)| (goroutine.gopc, goroutine.startpc)).collect()
}

/// What is made within this part of the program's life, one in so many, is made at its start.
const START: u64 = 10;
/// So many goroutines a program must have made for the order in which they were made to tell anything: a program with many
/// processors jumps some thousand ids when it starts.
const ENOUGH: u64 = 10_000;

/// `go` statements of which all goroutines that live were made at the start of the program, and none while it was looked
/// at: they may be meant to live as long as it does.
///
/// Nothing records when a goroutine was made. But ids are given out in order, in small batches: it was made before any later
/// one began to wait, and, in a program that has made many, long ago if most ids are behind its own.
fn at_start(observed: &Observed) -> HashSet<Site> {
    let looks = observed.looks.len();
    let (mut last, mut later): (HashMap<Site, u64>, HashSet<Site>) = Default::default();
    // By id, from when on it is known to have waited.
    let mut waits: Vec<(u64, u64)> = Vec::with_capacity(observed.facts.len());
    for (goroutine, facts) in observed.snapshot.goroutines.iter().zip(&observed.facts) {
        let site = (goroutine.gopc, goroutine.startpc);
        let of = last.entry(site).or_default();
        *of = (*of).max(goroutine.goid);
        if looks > 1 && (facts.looks as usize) < looks {
            later.insert(site);
        }
        let since = [goroutine.waiting_since_ns, facts.since_ns].into_iter().filter(|ns| *ns != 0).min();
        waits.extend(since.map(|since| (goroutine.goid, since)));
    }
    waits.sort_unstable();
    let made = waits.last().map_or(0, |(goid, _)| *goid);
    // When the first of it and all later ones waited.
    let mut earliest: Vec<u64> = waits.iter().map(|(_, since)| *since).collect();
    let mut first = u64::MAX;
    for since in earliest.iter_mut().rev() {
        first = first.min(*since);
        *since = first;
    }
    let (now_ns, started_ns) = (observed.snapshot.taken_ns.1, observed.started_ns);
    let is_early = |goid: u64| {
        let own = waits.binary_search_by_key(&goid, |(other, _)| *other).ok();
        let own = own.and_then(|at| waits.get(at)).map(|(_, since)| *since);
        let behind = waits.partition_point(|(other, _)| *other < goid.saturating_add(GOID_GAP));
        let by_ns = own.into_iter().chain(earliest.get(behind).copied()).min();
        let by_time = started_ns.zip(by_ns).is_some_and(|(started, by)| {
            by.saturating_sub(started) <= now_ns.saturating_sub(started) / START
        });
        by_time || made >= ENOUGH && goid <= made / START
    };
    last.into_iter()
        .filter(|(site, goid)| !later.contains(site) && is_early(*goid))
        .map(|(site, _)| site)
        .collect()
}

/// What is known of all goroutines together.
pub(super) struct Known<'a> {
    pub(super) observed: &'a Observed,
    pub(super) thresholds: &'a Thresholds,
    pub(super) cycles: Cycles,
    /// `go` statements of which a goroutine works.
    working: HashSet<Site>,
    /// Of [`at_start`], once it is asked for: most programs have nothing of which that matters.
    at_start: OnceCell<HashSet<Site>>,
    goids: HashSet<u64>,
    /// Stands in for the facts of an index without any.
    unknown: Facts,
}

impl<'a> Known<'a> {
    pub(super) fn new(observed: &'a Observed, thresholds: &'a Thresholds) -> Known<'a> {
        Known {
            observed,
            thresholds,
            cycles: Cycles::of(observed),
            working: working(observed),
            at_start: OnceCell::new(),
            goids: observed.snapshot.goroutines.iter().map(|goroutine| goroutine.goid).collect(),
            unknown: Facts::default(),
        }
    }

    /// Whether a goroutine of this `go` statement has run again and again from look to look.
    pub(super) fn works(&self, site: Site) -> bool {
        self.working.contains(&site)
    }

    /// Whether one that waits where all of these wait has run again and again.
    pub(super) fn is_in_use(&self, shape: &Shape) -> bool {
        shape.members.iter().any(|index| self.facts(*index).moved >= WORKS)
    }

    /// Whether all goroutines of this `go` statement were made when the program started, as far as can be told.
    pub(super) fn made_at_start(&self, site: Site) -> bool {
        self.at_start.get_or_init(|| at_start(self.observed)).contains(&site)
    }

    pub(super) fn goroutine(&self, index: u32) -> Option<&'a Goroutine> {
        self.observed.snapshot.goroutines.get(index as usize)
    }

    pub(super) fn facts(&self, index: u32) -> &Facts {
        self.observed.facts.get(index as usize).unwrap_or(&self.unknown)
    }

    pub(super) fn unreachable(&self, index: u32) -> bool {
        self.facts(index).unreachable
    }

    pub(super) fn age(&self, index: u32) -> Option<Age> {
        Age::of(self.goroutine(index)?, self.facts(index), self.observed.snapshot.taken_ns.1)
    }

    pub(super) fn objects(&self, goroutine: &Goroutine) -> impl Iterator<Item = &'a Object> {
        let objects = &self.observed.snapshot.objects;
        goroutine.waits.iter().filter_map(|wait| objects.get(wait.object as usize))
    }

    /// How many different objects these wait for, by the first that each waits for.
    pub(super) fn different(&self, members: &[u32]) -> usize {
        let first = |index: &u32| self.goroutine(*index)?.waits.first().map(|wait| wait.object);
        members.iter().filter_map(first).collect::<HashSet<u32>>().len()
    }

    /// How many different goroutines that have ended made these. Where the program does not record who made them (up
    /// to Go 1.20): in how many separate runs of goids they were made.
    pub(super) fn orphans(&self, members: &[u32]) -> u64 {
        let of = |index: &u32| self.goroutine(*index);
        let parents: HashSet<u64> = members.iter().filter_map(of).map(|one| one.parent_goid).collect();
        if !parents.contains(&0) {
            return parents.iter().filter(|parent| !self.goids.contains(parent)).count() as u64;
        }
        let mut goids: Vec<u64> = members.iter().filter_map(of).map(|one| one.goid).collect();
        goids.sort_unstable();
        let gaps = goids.windows(2).filter(|pair| matches!(pair, [one, next] if next - one >= GOID_GAP));
        gaps.count() as u64 + u64::from(!goids.is_empty())
    }
}
