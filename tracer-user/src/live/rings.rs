//! Goroutines that wait for each other, told of while a program is traced.
//!
//! Events say who waits for what, but not who holds a lock: that is in the stacks. So a goroutine that has waited for a
//! moment makes a *look* due: all goroutines with their stacks are read, and who waits for whom is worked out from them
//! ([`heap::waits`]). A ring that a look finds is told as soon as the events up to its end are known, if none of its members has
//! moved since.

use sfgi_core::{
    binary::GoBinary,
    clock,
    detect::{Cycle, Ring, Rules, RulesError, rings},
    goruntime::{State, WaitReason, WaitReasons},
    heap::{self, Sign},
    leaks::Turn,
    model::{Goroutines, Measure, Step, Wakers, What},
    names::Names,
    session::{Deadlock, Member},
    snapshot::{self, Options, Snapshot, View, has_object},
};
use std::{
    collections::{HashMap, HashSet, VecDeque},
    sync::Arc,
};

/// How long a goroutine waits before a look is due, nanoseconds: for a lock, which healthy programs hold for microseconds, and for
/// anything else, which many wait for all the time.
const LOCK_NS: u64 = 500_000;
const OTHER_NS: u64 = 100_000_000;
/// A ring over anything but locks is told when a second look finds it so much later: what is known of who may use a channel is
/// no more than a guess.
const AGAIN_NS: u64 = 1_000_000_000;
/// The longest pause between two looks: what holds up a ring from outside may let go without anybody waiting anew. The pause
/// begins with [`AGAIN_NS`], and doubles as long as nobody does.
const LONGEST_NS: u64 = 60_000_000_000;
/// Looks take at most one `SHARE`th of the time, and at first, or after a rest, so much more.
const SHARE: u64 = 20;
const REST_NS: u64 = 100_000_000;
/// Waits that are remembered until a look is due; goroutines whose last steps are, and how many steps of each; rings that were
/// told or are to be seen again.
const MAX_WAITS: usize = 1 << 16;
const MAX_GOROUTINES: usize = 1 << 16;
const STEPS: usize = 4;
const MAX_RINGS: usize = 1 << 12;
/// Most members of a ring that are told of.
const MAX_MEMBERS: usize = 64;

/// A wait that may be part of a ring: whose, since when, and when it has lasted long enough.
#[derive(Clone, Copy)]
struct Young {
    goid: u64,
    since_ts: u64,
    due_ts: u64,
}

/// A ring by its members and where they stand: goid and [`sfgi_core::snapshot::Goroutine::stamp`], by goid.
type Key = Vec<(u64, u64)>;

/// What a look found.
pub(crate) struct Looked {
    found: Vec<Found>,
    /// When the goroutines were read, `CLOCK_MONOTONIC` nanoseconds.
    began_ts: u64,
    ended_ts: u64,
}

struct Found {
    key: Key,
    kind: Cycle,
    /// All is known for certain, or is about locks: it needs no second look.
    at_once: bool,
    turns: Vec<Turn>,
}

/// Reads all goroutines and finds the rings among them; `None`: they cannot be read at the moment. Calls `further` whenever it got
/// further.
pub(crate) fn look(
    view: &View<'_>,
    binary: &Arc<GoBinary>,
    wakers: &Wakers,
    further: &dyn Fn(),
) -> Option<Looked> {
    let options = Options { stacks: true, objects: true, ..Options::default() };
    let snapshot = snapshot::take(view, options, &mut |_, _| further()).ok()?;
    further();
    let waits = heap::waits(view, &snapshot, wakers).ok()?;
    further();
    let mut names = None;
    let found = rings(&snapshot, &waits).into_iter().take(MAX_RINGS).map(|ring| {
        further();
        let names = names.get_or_insert_with(|| Names::new(Arc::clone(binary), view.bias, &snapshot));
        Found::of(&ring, &snapshot, names)
    });
    let (began_ts, ended_ts) = snapshot.taken_ns;
    Some(Looked { found: found.collect(), began_ts, ended_ts })
}

impl Found {
    fn of(ring: &Ring, snapshot: &Snapshot, names: &mut Names) -> Found {
        let goroutine = |index: u32| snapshot.goroutines.get(index as usize);
        let members = ring.edges.iter().filter_map(|edge| goroutine(edge.waiter));
        let mut key: Key = members.map(|one| (one.goid, one.stamp)).collect();
        key.sort_unstable();
        let is_lock =
            |object: u32| snapshot.objects.get(object as usize).is_some_and(|object| object.kind.is_lock());
        let sure = |sign: Sign, object| !sign.is_hint() || sign == Sign::Code && is_lock(object);
        Found {
            key,
            kind: ring.kind,
            at_once: ring.edges.iter().all(|edge| sure(edge.sign, edge.object)),
            turns: (ring.edges.iter().take(MAX_MEMBERS))
                .filter_map(|edge| Turn::of(edge, snapshot, names))
                .collect(),
        }
    }
}

/// Decides when to look, and which rings to tell of.
pub(crate) struct Rings {
    rules: Rules,
    reasons: WaitReasons,
    wakers: Wakers,
    /// Waits for locks, and other waits, each ordered by `due_ts`.
    locks: VecDeque<Young>,
    others: VecDeque<Young>,
    /// The last steps of goroutines that are there.
    last: HashMap<u64, VecDeque<Step>>,
    /// A look is due, whatever waits: the first, and one that is to see a ring again.
    wanted_ts: u64,
    /// Until the next look that nothing else makes due, nanoseconds.
    pause_ns: u64,
    /// What a look has found, until the events of its time are known.
    looked: Option<Looked>,
    /// Rings that were found and not told yet, with the time when.
    seen: HashMap<Key, u64>,
    told: HashSet<Key>,
    /// Time that looks may take, nanoseconds, and when that was worked out.
    credit_ns: u64,
    credit_ts: u64,
}

impl Rings {
    /// `reasons`: those of the target's binary.
    pub(crate) fn new(reasons: &WaitReasons) -> Result<Rings, RulesError> {
        Ok(Rings {
            rules: Rules::built_in()?,
            reasons: reasons.clone(),
            wakers: Wakers::default(),
            locks: VecDeque::new(),
            others: VecDeque::new(),
            last: HashMap::new(),
            wanted_ts: 0,
            pause_ns: AGAIN_NS,
            looked: None,
            seen: HashMap::new(),
            told: HashSet::new(),
            credit_ns: REST_NS,
            credit_ts: 0,
        })
    }

    /// Who woke whom so far, for a look; [`Rings::take`] takes it back.
    pub(crate) fn lend(&mut self) -> Wakers {
        std::mem::take(&mut self.wakers)
    }

    /// Events were lost: nobody knows who has moved, so what was found is not told.
    pub(crate) fn forget(&mut self) {
        self.looked = None;
        self.seen.clear();
        self.wanted_ts = 0;
    }

    /// Takes what goroutines did.
    pub(crate) fn note(&mut self, steps: &[Step]) {
        for step in steps.iter().filter(|step| step.goid != 0) {
            self.wakers.add(step);
            if step.what == What::Exit {
                self.last.remove(&step.goid);
                continue;
            }
            if self.last.len() >= MAX_GOROUTINES && !self.last.contains_key(&step.goid) {
                self.last.clear();
            }
            let last = self.last.entry(step.goid).or_default();
            if last.len() >= STEPS {
                last.pop_front();
            }
            last.push_back(*step);
            let reason = self.reasons.get(step.reason);
            // Who waits for a timer or the network is in no ring.
            if step.what == What::Block && has_object(reason) {
                // Up to Go 1.19 locks have no reason of their own.
                let lock = reason.is_lock() || reason == WaitReason::Semacquire;
                let (queue, wait_ns) =
                    if lock { (&mut self.locks, LOCK_NS) } else { (&mut self.others, OTHER_NS) };
                if queue.len() >= MAX_WAITS {
                    queue.pop_front();
                }
                let due_ts = step.ts.saturating_add(wait_ns);
                queue.push_back(Young { goid: step.goid, since_ts: step.ts, due_ts });
            }
        }
    }

    /// Whether to look now. `until_ts`: all events up to there are known.
    pub(crate) fn are_due(&mut self, goroutines: &Goroutines, until_ts: u64) -> bool {
        let passed_ns = until_ts.saturating_sub(self.credit_ts);
        self.credit_ns = self.credit_ns.saturating_add(passed_ns / SHARE).min(REST_NS);
        self.credit_ts = until_ts;
        let mut due = self.wanted_ts <= until_ts;
        for queue in [&mut self.locks, &mut self.others] {
            // What is found due stays in its queue until there is credit.
            while let Some(young) = queue.front().filter(|young| young.due_ts <= until_ts) {
                let still = goroutines
                    .get(young.goid)
                    .is_some_and(|known| known.since_ts == young.since_ts && known.state == State::Waiting);
                if still {
                    due = true;
                    break;
                }
                queue.pop_front();
            }
        }
        due && self.looked.is_none() && self.credit_ns > 0
    }

    /// Takes what a look has found, and what it was lent.
    pub(crate) fn take(&mut self, (looked, wakers): (Option<Looked>, Wakers)) {
        let now_ts = clock::now();
        self.wakers = wakers;
        let began_ts = looked.as_ref().map_or(now_ts, |looked| looked.began_ts);
        self.credit_ns = self.credit_ns.saturating_sub(now_ts.saturating_sub(began_ts));
        // A later look sees whoever waited before this one, too.
        let mut anew = false;
        for queue in [&mut self.locks, &mut self.others] {
            while queue.pop_front_if(|young| young.since_ts < began_ts).is_some() {
                anew = true;
            }
        }
        self.pause_ns = if anew { AGAIN_NS } else { (self.pause_ns * 2).min(LONGEST_NS) };
        self.wanted_ts = now_ts.saturating_add(self.pause_ns);
        self.looked = looked;
    }

    /// The rings that the last look found, that still stand at `until_ts`, and that were not told yet.
    pub(crate) fn confirmed(&mut self, goroutines: &Goroutines, until_ts: u64) -> Vec<Deadlock> {
        let Some(looked) = self.looked.take_if(|looked| looked.ended_ts <= until_ts) else {
            return Vec::new();
        };
        if self.seen.len() + self.told.len() >= MAX_RINGS {
            self.seen.clear();
            self.told.clear();
        }
        let mut deadlocks = Vec::new();
        let mut seen = HashMap::new();
        for found in looked.found {
            // Whoever has been woken since is waiting for something else by now.
            let stands = |(goid, _): &(u64, u64)| {
                goroutines.get(*goid).is_some_and(|known| {
                    known.state == State::Waiting
                        && (known.since_ts <= looked.began_ts || known.since_is != Measure::Exact)
                })
            };
            if self.told.contains(&found.key) || !found.key.iter().all(stands) {
                continue;
            }
            let first_ts = self.seen.get(&found.key).copied().unwrap_or(looked.began_ts);
            if found.at_once || looked.began_ts.saturating_sub(first_ts) >= AGAIN_NS {
                deadlocks.extend(self.deadlock(&found, goroutines));
                self.told.insert(found.key);
            } else {
                self.wanted_ts = self.wanted_ts.min(first_ts + AGAIN_NS);
                seen.insert(found.key, first_ts);
            }
        }
        // What this look did not find again is none.
        self.seen = seen;
        deadlocks
    }

    fn deadlock(&self, found: &Found, goroutines: &Goroutines) -> Option<Deadlock> {
        let rule = self.rules.of_cycle(found.kind)?;
        let since = found.key.iter().filter_map(|(goid, _)| goroutines.get(*goid));
        let exact = |measure| measure == Measure::Exact;
        // Of those whose wait the trace has seen begin.
        let since_ts = since.filter(|known| exact(known.since_is)).map(|known| known.since_ts).max();
        let member = |turn: &Turn| Member {
            turn: turn.clone(),
            last: self.last.get(&turn.waiter).into_iter().flatten().copied().collect(),
        };
        Some(Deadlock {
            class: rule.class.clone(),
            title: rule.title.clone(),
            members: found.turns.iter().map(member).collect(),
            since_ts,
            found_ts: clock::now(),
        })
    }
}
