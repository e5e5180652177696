//! Looks at a program again and again, and makes passes over its heap, until what was found holds still.

use super::marker::{Marker, Source};
use super::pass::{self, Pass, Setting};
use super::registers::{Depths, Registers};
use super::relations::{self, Relation};
use super::spans::ObjectId;
use super::types::{Facts, Holders, Look, Observed};
use super::{Observation, ObserveError, Options, Progress, timers};
use crate::goruntime::State;
use crate::memory::ThreadRegisters;
use crate::{
    snapshot,
    snapshot::{Clock, Goroutine, Snapshot, SnapshotError, Trust, View},
};
use hashbrown::{HashMap, HashSet};
use std::sync::atomic::Ordering::Relaxed;
use std::time::{Duration, Instant};

/// Passes without a change that end it, and passes that end it anyway: as many times what was asked for.
const QUIET: u32 = 3;
const AT_MOST: u32 = 4;
/// Looks that are made of one program, about; more would only cost.
const LOOKS: u32 = 20;
/// Share of the time that looking may take: one in so many.
const SHARE: u32 = 10;
/// Addresses of code of which it is remembered whether they only yield.
const MAX_NAMES: usize = 1 << 16;
/// Functions that only give way to others.
const YIELDING: [&str; 2] = ["runtime.Gosched", "time.Sleep"];
/// Goroutines that are named as holders of one object.
const MAX_HOLDERS: usize = 16;

/// See [`super::observe`].
pub(super) fn observe<'a>(
    view: &View<'a>,
    options: &Options,
    registers: &mut Registers<'_>,
    progress: &mut dyn FnMut(Progress),
) -> Result<Observation<'a>, ObserveError> {
    let mut watch = Watch {
        view,
        options,
        tracks: HashMap::new(),
        looks: Vec::new(),
        names: HashMap::new(),
        yielded: Vec::new(),
        depths: Depths::default(),
        unseen: registers.are_unknown(),
    };
    let (begun, began_ns) = (Instant::now(), view.now_ns());
    let stopped = view.clock == Clock::Stopped;
    let freezes = matches!(registers, Registers::Frozen(_));
    if freezes {
        // How things were before, for what changes over time.
        watch.look(false)?;
        watch.pause(options.window, registers)?;
    }
    let frozen = registers.freeze()?;
    let least = if stopped || freezes { 1 } else { options.passes.max(1) };
    let mut proof = Proof { least, ..Proof::default() };
    let (snapshot, pass) = loop {
        let number = proof.passes + 1;
        progress(Progress::Looking(watch.looks.len() as u32 + 1));
        let mut snapshot = watch.look(true)?;
        let mut pass = None;
        if options.heap && proof.failed.is_none() {
            // Before it is asked how deep stacks are: one may have grown since.
            let mut sampled = Some(watch.note(registers.take()));
            let mut setting = Setting {
                view,
                globals: view.binary.globals().map_err(|error| SnapshotError::NoList(error.to_string()))?,
                threads: options.threads.max(1),
                depths: frozen
                    .as_ref()
                    .map_or_else(|| watch.depths.clone(), |frozen| Depths::exact(frozen.registers())),
                registers: &mut || match &frozen {
                    Some(frozen) => frozen.registers().to_vec(),
                    None => sampled.take().unwrap_or_else(|| watch.note(registers.take())),
                },
                progress: &mut |read, all| progress(Progress::Scanning(number, read, all)),
            };
            let started = Instant::now();
            match pass::run(&mut setting, snapshot) {
                Ok(made) => {
                    proof.add(&made, started.elapsed());
                    (snapshot, pass) = (Snapshot::default(), Some(made));
                }
                Err(reason) => {
                    proof.failed = Some(reason);
                    snapshot = watch.look(true)?;
                }
            }
        }
        let over = stopped || freezes || begun.elapsed() >= options.window;
        let proven = !options.heap || proof.failed.is_some() || proof.is_settled();
        if over && proven {
            break (snapshot, pass);
        }
        let pause = if over { Duration::ZERO } else { options.window / least };
        watch.pause(pause, registers)?;
    };
    let frozen_ns = frozen.map(|frozen| u64::try_from(frozen.stopped_for().as_nanos()).unwrap_or(u64::MAX));
    let mut observation = watch.finish(snapshot, pass, proof);
    observation.observed.frozen_ns = frozen_ns;
    observation.observed.took_ns = view.now_ns().saturating_sub(began_ns);
    Ok(observation)
}

/// What the passes proved.
#[derive(Default)]
struct Proof {
    passes: u32,
    /// Passes without a doubt, and how many of these it takes.
    sound: u32,
    least: u32,
    /// Passes since one changed what was found.
    quiet: u32,
    /// By goid, with the stamp: unreachable in every pass.
    dead: HashMap<u64, u64>,
    /// Addresses of timers that nobody could hear in any pass.
    unheard: HashSet<u64>,
    doubt: Option<String>,
    failed: Option<String>,
    scanned: (u64, u64),
}

impl Proof {
    fn add(&mut self, pass: &Pass<'_>, took: Duration) {
        let goroutine = |index: u32| pass.snapshot.goroutines.get(index as usize);
        let found: HashMap<u64, u64> =
            pass.candidates.left().filter_map(goroutine).map(|one| (one.goid, one.stamp)).collect();
        self.passes += 1;
        let before = self.dead.len();
        if self.passes == 1 {
            self.dead = found;
            self.unheard.clone_from(&pass.unheard);
        } else {
            self.dead.retain(|goid, stamp| found.get(goid) == Some(stamp));
            self.unheard.retain(|timer| pass.unheard.contains(timer));
        }
        self.quiet = if self.passes > 1 && self.dead.len() == before { self.quiet + 1 } else { 0 };
        match &pass.doubt {
            None => self.sound += 1,
            doubt => self.doubt.clone_from(doubt),
        }
        self.scanned = (pass.marker.read.load(Relaxed), u64::try_from(took.as_nanos()).unwrap_or(u64::MAX));
    }

    fn is_settled(&self) -> bool {
        let quiet = self.quiet >= QUIET.min(self.least.saturating_sub(1));
        self.sound >= self.least && quiet || self.passes >= self.least.saturating_mul(AT_MOST)
    }

    /// What stands against it in the end.
    fn doubt(&mut self) -> Option<String> {
        let doubt = self.doubt.take().filter(|_| self.sound < self.least);
        self.failed.take().or(doubt)
    }
}

/// A goroutine over the looks.
#[derive(Clone, Copy)]
struct Track {
    stamp: u64,
    since_ns: u64,
    looks: u32,
    moved: u32,
    busy: u32,
    yielding: u32,
    /// The number of the last look that found it.
    last: usize,
}

struct Watch<'s, 'a> {
    view: &'s View<'a>,
    options: &'s Options,
    tracks: HashMap<u64, Track>,
    looks: Vec<Look>,
    /// By address of code, whether it belongs to a function that only yields.
    names: HashMap<u64, bool>,
    /// Stack pointers of threads that were seen in one since the last look, ascending.
    yielded: Vec<u64>,
    /// Of the stacks of what runs.
    depths: Depths,
    /// Registers cannot be had.
    unseen: bool,
}

impl<'a> Watch<'_, 'a> {
    /// Looks at all goroutines.
    fn look(&mut self, whole: bool) -> Result<Snapshot, SnapshotError> {
        let options = snapshot::Options { stacks: true, args: false, labels: whole, objects: whole };
        let snapshot = snapshot::take(self.view, options, &mut |_, _| {})?;
        let at_ns = snapshot.taken_ns.0;
        let mut look = Look { at_ns, ..Look::default() };
        for goroutine in snapshot.goroutines.iter().filter(|goroutine| !goroutine.system) {
            *look.counts.entry((goroutine.gopc, goroutine.startpc)).or_default() += 1;
        }
        self.looks.push(look);
        for goroutine in &snapshot.goroutines {
            self.track(goroutine, at_ns);
        }
        self.yielded.clear();
        let last = self.looks.len();
        self.tracks.retain(|_, track| track.last == last);
        Ok(snapshot)
    }

    fn track(&mut self, goroutine: &Goroutine, at_ns: u64) {
        let runnable = goroutine.state == State::Runnable;
        let (lo, hi) = goroutine.stack_bounds;
        let sampled =
            self.yielded.get(self.yielded.partition_point(|sp| *sp < lo)).is_some_and(|sp| *sp < hi);
        let yields = sampled || runnable && self.yields(goroutine.resume_pc.wrapping_sub(1));
        let busy =
            matches!(goroutine.state, State::Running | State::Runnable | State::CopyStack | State::Preempted);
        let stamp = goroutine.stamp;
        let new = Track { stamp, since_ns: at_ns, looks: 0, moved: 0, busy: 0, yielding: 0, last: 0 };
        let last = self.looks.len();
        let track = self.tracks.entry(goroutine.goid).or_insert(new);
        track.looks += 1;
        track.last = last;
        if track.stamp != stamp {
            (track.stamp, track.since_ns) = (stamp, at_ns);
            track.moved += 1;
        }
        track.busy += u32::from(busy);
        track.yielding += u32::from(yields && goroutine.state != State::Waiting);
    }

    /// Whether an address lies in a function that only yields.
    fn yields(&mut self, pc: u64) -> bool {
        let (view, names) = (self.view, &mut self.names);
        if names.len() > MAX_NAMES {
            names.clear();
        }
        *names.entry(pc).or_insert_with(|| {
            let frames = view.binary.symbolize(pc.wrapping_sub(view.bias));
            frames.iter().any(|frame| YIELDING.contains(&frame.func))
        })
    }

    /// Remembers which threads only yielded.
    fn note(&mut self, registers: Vec<ThreadRegisters>) -> Vec<ThreadRegisters> {
        self.depths.add(&registers);
        for thread in &registers {
            if self.yields(thread.pc) {
                self.yielded.push(thread.sp);
            }
        }
        self.yielded.sort_unstable();
        registers
    }

    /// Waits, and looks meanwhile.
    fn pause(&mut self, pause: Duration, registers: &mut Registers<'_>) -> Result<(), SnapshotError> {
        let (end, before) = (Instant::now() + pause, self.looks.len());
        let shortest = self.options.window / LOOKS;
        let mut every = shortest;
        loop {
            let left = end.saturating_duration_since(Instant::now());
            if left < every || every.is_zero() {
                std::thread::sleep(left);
                break;
            }
            let took = self.look_again(every, registers)?;
            every = every.max(took * SHARE);
        }
        // Where passes are slow, because the heap is large or somebody else has the processors, there is no time left
        // between them. But only looks tell what never waits from what happened to run.
        let never_waits = |track: &Track| track.busy == track.looks;
        if self.looks.len() == before && !shortest.is_zero() && self.tracks.values().any(never_waits) {
            self.look_again(shortest, registers)?;
        }
        Ok(())
    }

    /// Looks after a while, and says how long looking took.
    fn look_again(
        &mut self,
        after: Duration,
        registers: &mut Registers<'_>,
    ) -> Result<Duration, SnapshotError> {
        std::thread::sleep(after);
        let started = Instant::now();
        self.note(registers.take());
        self.look(false)?;
        Ok(started.elapsed())
    }

    fn finish(self, snapshot: Snapshot, pass: Option<Pass<'a>>, mut proof: Proof) -> Observation<'a> {
        let view = *self.view;
        let (mut snapshot, marker, reached_by, timers) = match pass {
            Some(pass) => (pass.snapshot, Some(pass.marker), pass.reached_by, pass.timers),
            None => {
                let timers = view.binary.globals().ok().and_then(|globals| timers::read(&view, globals).ok());
                (snapshot, None, HashMap::new(), timers.unwrap_or_default())
            }
        };
        let unheard = |timer: &timers::Timer| proof.unheard.contains(&timer.addr);
        let timers = timers::sites(&timers, snapshot.taken_ns.1, unheard);
        let mut facts: Vec<Facts> = snapshot.goroutines.iter().map(|one| self.facts(one, &proof)).collect();
        let dead: Vec<u32> =
            facts.iter().zip(0u32..).filter(|(facts, _)| facts.unreachable).map(|(_, index)| index).collect();
        let mut observed = Observed { timers, ..Observed::default() };
        if let Some(marker) = &marker {
            let waiting = snapshot.objects.iter().flat_map(|object| object.waiters.iter().copied());
            let related: HashSet<u32> = dead.iter().copied().chain(waiting).collect();
            let mut related: Vec<u32> = related.into_iter().collect();
            related.sort_unstable_by_key(|index| {
                (facts.get(*index as usize).is_none_or(|facts| !facts.unreachable), *index)
            });
            let mut relations = relations::find(&view, &snapshot, marker, &related);
            observed.holders = holders(&snapshot, marker, &reached_by, &relations, view.bias);
            for (index, relation) in &relations {
                if let Some(facts) = facts.get_mut(*index as usize) {
                    facts.holds.clone_from(&relation.holds);
                    facts.context = relation.context;
                }
            }
            for (object, waits) in snapshot.objects.iter().map(|object| (object.addr, &object.waiters)) {
                let by = marker.spans.object(object).and_then(|id| reached_by.get(&id));
                let Some(Source::Heap(by)) = by else { continue };
                let by = marker.spans.object(*by);
                if by.is_some_and(|by| relations::is_context_of(&view, &snapshot, marker, by, object)) {
                    for waiter in waits {
                        if let Some(facts) = facts.get_mut(*waiter as usize) {
                            facts.context = true;
                        }
                    }
                }
            }
            relations.retain(|index, _| facts.get(*index as usize).is_some_and(|facts| facts.unreachable));
            observed.sets = relations::sets(&snapshot, &relations);
            for (set, number) in observed.sets.iter().zip(0u32..) {
                for member in &set.members {
                    if let Some(facts) = facts.get_mut(*member as usize) {
                        facts.set = Some(number);
                    }
                }
            }
        } else {
            observed.holders = vec![Holders::default(); snapshot.objects.len()];
        }
        observed.passes = proof.passes;
        observed.scanned = proof.scanned;
        observed.doubt = proof.doubt().or_else(|| self.always_running(&snapshot));
        observed.facts = facts;
        observed.looks = self.looks;
        std::mem::swap(&mut observed.snapshot, &mut snapshot);
        Observation { observed, view, marker, threads: self.options.threads.max(1) }
    }

    /// A goroutine that ran whenever we looked may have the only reference to anything in a register.
    fn always_running(&self, snapshot: &Snapshot) -> Option<String> {
        let goroutine = snapshot.goroutines.iter().filter(|_| self.unseen).find(|goroutine| {
            let track = self.tracks.get(&goroutine.goid);
            goroutine.trust == Trust::Running && track.is_some_and(|track| track.busy == track.looks)
        })?;
        Some(format!(
            "goroutine {} ran whenever it was looked at, and what it holds in registers cannot be seen here",
            goroutine.goid
        ))
    }

    fn facts(&self, goroutine: &Goroutine, proof: &Proof) -> Facts {
        let unreachable = proof.dead.get(&goroutine.goid) == Some(&goroutine.stamp);
        let Some(track) = self.tracks.get(&goroutine.goid) else {
            return Facts { unreachable, ..Facts::default() };
        };
        Facts {
            unreachable,
            since_ns: track.since_ns,
            looks: track.looks,
            moved: track.moved,
            busy: track.busy,
            yielding: track.yielding,
            ..Facts::default()
        }
    }
}

/// What was seen to refer to each object.
fn holders(
    snapshot: &Snapshot,
    marker: &Marker<'_>,
    reached_by: &HashMap<ObjectId, Source>,
    relations: &HashMap<u32, Relation>,
    bias: u64,
) -> Vec<Holders> {
    let by_source = |addr: u64| {
        let mut holders = Holders::default();
        match marker.spans.object(addr).and_then(|object| reached_by.get(&object)) {
            Some(Source::Global(at)) => holders.global = Some(at.wrapping_sub(bias)),
            Some(Source::Goroutine(index)) if *index != u32::MAX => holders.goroutines.push(*index),
            Some(Source::Heap(_)) => holders.heap = 1,
            Some(Source::Goroutine(_) | Source::Other) | None => {}
        }
        holders
    };
    let mut all: Vec<Holders> = snapshot.objects.iter().map(|object| by_source(object.addr)).collect();
    for (index, relation) in relations {
        for object in &relation.holds {
            let Some(holders) = all.get_mut(*object as usize) else { continue };
            if holders.goroutines.len() < MAX_HOLDERS && !holders.goroutines.contains(index) {
                holders.goroutines.push(*index);
            }
        }
    }
    all.iter_mut().for_each(|holders| holders.goroutines.sort_unstable());
    all
}
