//! An observation: looks at a target and passes over its heap, repeated until passes no longer change the result.

use super::pass::{self, Pass, Proof, Setting};
use super::references::Depths;
use super::relations::{self, Holders, Related};
use super::sleepers;
use super::timers;
use super::waits::Waits;
use super::{Facts, Look, Observation, Observed, due, usage};
use crate::budget;
use crate::goruntime::State;
use crate::memory::{FreezeError, Frozen, Sampler, ThreadRegisters};
use crate::process::Process;
use crate::{
    snapshot,
    snapshot::{Clock, Goroutine, Snapshot, SnapshotError, Trust, View},
};
use hashbrown::HashMap;
use std::time::{Duration, Instant};

/// Looks in one window, about; more would only cost CPU time.
const LOOKS: u32 = 20;
/// Looks take at most one `SHARE`th of the time.
const SHARE: u32 = 10;
/// Bytes that a goroutine takes in a look and in a pass, and the share of the memory that is left which they may take:
/// one in so many. The heap's tables come after them.
const LOOK_COST: usize = 640;
const LOOK_SHARE: usize = 2;
/// Most addresses of code that are cached with whether they only yield.
const MAX_NAMES: usize = 1 << 16;
/// Functions in which a goroutine does nothing but give way to others.
const YIELDING: [&str; 2] = ["runtime.Gosched", "time.Sleep"];

/// How long and how thoroughly to observe.
#[derive(Clone, Copy, Debug)]
pub struct Options {
    /// Shortest duration of the observation.
    pub window: Duration,
    /// Least number of passes. More follow while they still change the result, up to four times as many.
    pub passes: u32,
    /// Threads that mark, at least 1.
    pub threads: usize,
    /// Whether to make passes at all; without them nothing is proven.
    pub heap: bool,
    /// The most goroutines that are looked at; of more a sample is, and nothing is proven. 0: as many as the budget has
    /// room for.
    pub most: usize,
}

/// How far an observation is, for a line on the terminal.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Progress {
    /// A look with this number, from 1 on.
    Looking(u32),
    /// A pass: its number from 1 on, bytes read, and bytes of all spans with pointers.
    Scanning(u32, u64, u64),
}

/// Why there is no observation at all.
#[derive(Debug, thiserror::Error)]
pub enum ObserveError {
    /// A look failed.
    #[error(transparent)]
    Snapshot(#[from] SnapshotError),
    /// The target could not be stopped for [`Registers::Frozen`].
    #[error(transparent)]
    Freeze(#[from] FreezeError),
}

/// Where the registers of threads come from. A running goroutine may have its only reference to an object in a
/// register.
#[derive(Debug)]
pub enum Registers<'p> {
    /// From samples, while the target runs.
    Sampled(Sampler<'p>),
    /// From the stopped threads of this target: it is stopped for the one pass that is made.
    Frozen(&'p Process),
    /// Not available: the target is a core file, or the kernel does not allow sampling.
    Unknown,
}

impl Registers<'_> {
    /// The samples since the last call.
    pub(crate) fn take(&mut self) -> Vec<ThreadRegisters> {
        match self {
            Registers::Sampled(sampler) => sampler.take(),
            Registers::Frozen(_) | Registers::Unknown => Vec::new(),
        }
    }

    /// Stops the target if `self` is [`Registers::Frozen`].
    fn freeze(&self) -> Result<Option<Frozen>, FreezeError> {
        match self {
            Registers::Frozen(process) => Frozen::stop(process).map(Some),
            Registers::Sampled(_) | Registers::Unknown => Ok(None),
        }
    }

    fn are_unknown(&self) -> bool {
        matches!(self, Registers::Unknown)
    }
}

/// Observes a target for at least the window of the options.
///
/// # Errors
/// [`ObserveError`]. Everything else that goes wrong becomes [`Observed::doubt`].
pub fn observe<'a>(
    view: &View<'a>,
    options: &Options,
    registers: &mut Registers<'_>,
    progress: &mut dyn FnMut(Progress),
) -> Result<Observation<'a>, ObserveError> {
    let mut looks = Looks::new(view, options, registers);
    let (begun, began_ns) = (Instant::now(), view.now_ns());
    let stopped = view.clock == Clock::Stopped;
    let freezes = matches!(registers, Registers::Frozen(_));
    if freezes {
        // Nothing moves while the target is stopped, so the looks that show what moves and grows come before.
        looks.look(false)?;
        looks.pause(options.window, registers)?;
    }
    let frozen = registers.freeze()?;
    let least = if stopped || freezes { 1 } else { options.passes.max(1) };
    let mut proof = Proof::of_at_least(least);
    let (snapshot, pass) = loop {
        let number = proof.passes() + 1;
        progress(Progress::Looking(looks.taken.len() as u32 + 1));
        let mut snapshot = looks.look(true)?;
        let mut pass = None;
        if let Some(sampled) = snapshot.sampled
            && options.heap
        {
            // What is not in the sample may hold what a goroutine of it waits for.
            proof.give_up(sampled.to_string());
        }
        if options.heap && !proof.has_failed() {
            // Take the samples before `depths` is copied: a stack may have grown deeper since the last ones.
            let mut sampled = Some(looks.note(registers.take()));
            let mut setting = Setting {
                view,
                globals: view.binary.globals().map_err(|error| SnapshotError::NoList(error.to_string()))?,
                threads: options.threads.max(1),
                depths: frozen
                    .as_ref()
                    .map_or_else(|| looks.depths.clone(), |frozen| Depths::exact(frozen.registers())),
                registers: &mut || match &frozen {
                    Some(frozen) => frozen.registers().to_vec(),
                    None => sampled.take().unwrap_or_else(|| looks.note(registers.take())),
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
                    // What stands still fails again.
                    if stopped || freezes {
                        proof.give_up(reason);
                    } else {
                        proof.fail(reason);
                    }
                    // `run` consumed the snapshot, so take another one.
                    snapshot = looks.look(true)?;
                }
            }
        }
        // A stopped target does not move, so a second pass would find the same.
        let over = stopped || freezes || begun.elapsed() >= options.window;
        let proven = !options.heap || proof.has_failed() || proof.is_settled();
        if over && proven {
            break (snapshot, pass);
        }
        let pause = if over { Duration::ZERO } else { options.window / least };
        looks.pause(pause, registers)?;
    };
    let frozen_ns = frozen.map(|frozen| u64::try_from(frozen.stopped_for().as_nanos()).unwrap_or(u64::MAX));
    let mut observation = looks.finish(snapshot, pass, proof);
    observation.observed.frozen_ns = frozen_ns;
    observation.observed.took_ns = view.now_ns().saturating_sub(began_ns);
    Ok(observation)
}

/// What the looks found of one goroutine; fields as in [`Facts`].
#[derive(Clone, Copy)]
struct Track {
    stamp: u64,
    since_ns: u64,
    looks: u32,
    moved: u32,
    busy: u32,
    yielding: u32,
    /// Number of the last look that found it.
    last: usize,
}

struct Looks<'s, 'a> {
    view: &'s View<'a>,
    options: &'s Options,
    /// By goid, which is never reused, while a `g` is.
    tracks: HashMap<u64, Track>,
    taken: Vec<Look>,
    /// By address of code, whether it lies in a function of [`YIELDING`].
    names: HashMap<u64, bool>,
    /// Stack pointers of threads that were sampled in such a function since the last look, ascending.
    yielded: Vec<u64>,
    depths: Depths,
    /// Whether registers are not available.
    unseen: bool,
}

impl<'s, 'a> Looks<'s, 'a> {
    fn new(view: &'s View<'a>, options: &'s Options, registers: &Registers<'_>) -> Looks<'s, 'a> {
        Looks {
            view,
            options,
            tracks: HashMap::new(),
            taken: Vec::new(),
            names: HashMap::new(),
            yielded: Vec::new(),
            depths: Depths::default(),
            unseen: registers.are_unknown(),
        }
    }

    /// Takes a look; a `whole` one also reads labels and objects.
    fn look(&mut self, whole: bool) -> Result<Snapshot, SnapshotError> {
        // A pass keeps as much of each goroutine again, and looks follow each other.
        let fit = (budget::left() / LOOK_SHARE / LOOK_COST).max(1);
        let most = if self.options.most == 0 { fit } else { fit.min(self.options.most) };
        let options = snapshot::Options { stacks: true, args: false, labels: whole, objects: whole, most };
        let snapshot = snapshot::take(self.view, options, &mut |_, _| {})?;
        let at_ns = snapshot.taken_ns.0;
        let mut look = Look { at_ns, ..Look::default() };
        for goroutine in snapshot.goroutines.iter().filter(|goroutine| !goroutine.system) {
            *look.counts.entry((goroutine.gopc, goroutine.startpc)).or_default() += 1;
        }
        self.taken.push(look);
        for goroutine in &snapshot.goroutines {
            self.track(goroutine, at_ns);
        }
        self.yielded.clear();
        let last = self.taken.len();
        // Drop goroutines that have ended: their goids do not come again.
        self.tracks.retain(|_, track| track.last == last);
        Ok(snapshot)
    }

    fn track(&mut self, goroutine: &Goroutine, at_ns: u64) {
        let runnable = goroutine.state == State::Runnable;
        let (lo, hi) = goroutine.stack_bounds;
        let sampled =
            self.yielded.get(self.yielded.partition_point(|sp| *sp < lo)).is_some_and(|sp| *sp < hi);
        // A goroutine that yields is runnable when it is looked at, with its stack in `runtime.Gosched`, or its thread
        // was sampled in it.
        let yields = sampled || runnable && self.yields(goroutine.resume_pc.wrapping_sub(1));
        let busy =
            matches!(goroutine.state, State::Running | State::Runnable | State::CopyStack | State::Preempted);
        let stamp = goroutine.stamp;
        let new = Track { stamp, since_ns: at_ns, looks: 0, moved: 0, busy: 0, yielding: 0, last: 0 };
        let last = self.taken.len();
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

    /// Whether an address lies in a function of [`YIELDING`], also one inlined there.
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

    /// Notes from sampled registers how deep stacks are and which threads only yielded; returns them for marking.
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

    /// Waits for `pause` and takes looks meanwhile.
    fn pause(&mut self, pause: Duration, registers: &mut Registers<'_>) -> Result<(), SnapshotError> {
        let (end, before) = (Instant::now() + pause, self.taken.len());
        let shortest = self.options.window / LOOKS;
        let mut every = shortest;
        loop {
            let left = end.saturating_duration_since(Instant::now());
            if left < every || every.is_zero() {
                std::thread::sleep(left);
                break;
            }
            // The longer a look takes (a million goroutines), the more rarely it is taken.
            let took = self.look_again(every, registers)?;
            every = every.max(took * SHARE);
        }
        // Where passes are slow, because the heap is large or other programs have the processors, no time is left
        // between them. But only looks tell a goroutine that never waits from one that happened to run.
        let never_waits = |track: &Track| track.busy == track.looks;
        if self.taken.len() == before && !shortest.is_zero() && self.tracks.values().any(never_waits) {
            self.look_again(shortest, registers)?;
        }
        Ok(())
    }

    /// Takes a look after a pause, and returns how long the look took.
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
        let (snapshot, reached, timers) = match pass {
            Some(Pass { snapshot, marker, reached_by, timers, .. }) => {
                (snapshot, Some((marker, reached_by)), timers)
            }
            None => {
                let timers = view.binary.globals().ok().and_then(|globals| timers::read(&view, globals).ok());
                (snapshot, None, timers.unwrap_or_default())
            }
        };
        let timers = timers::sites(&timers, snapshot.taken_ns.1, |timer| proof.is_unheard(timer));
        let mut facts: Vec<Facts> = snapshot.goroutines.iter().map(|one| self.facts(one, &proof)).collect();
        for (index, wakes_ns) in sleepers::wakes(&view, &snapshot) {
            if let Some(facts) = facts.get_mut(index as usize) {
                facts.wakes_ns = wakes_ns;
            }
        }
        let Related { sets, holders, waits } = match &reached {
            Some((marker, reached_by)) => {
                relations::relate(&view, &snapshot, marker.spans(), reached_by, &mut facts)
            }
            None => Related {
                sets: Vec::new(),
                holders: vec![Holders::default(); snapshot.objects.len()],
                waits: Waits::default(),
            },
        };
        let observed = Observed {
            facts,
            sets,
            holders,
            waits,
            timers,
            due: due(&view),
            collections: usage(&view).map(|usage| usage.cycles),
            passes: proof.passes(),
            scanned: proof.scanned(),
            doubt: proof.doubt().or_else(|| self.always_running(&snapshot)),
            looks: self.taken,
            snapshot,
            ..Observed::default()
        };
        let marker = reached.map(|(marker, _)| marker);
        Observation { observed, view, marker, threads: self.options.threads.max(1) }
    }

    /// The doubt if registers are not available and a goroutine ran at every look: it may have the only reference to
    /// anything in a register.
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
        let unreachable = proof.is_unreachable(goroutine);
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
