//! A pass over the heap, and what several of them prove.
//!
//! Registers come first, then variables and specials, then the goroutines that are no candidates. Timers that no
//! goroutine waits for come last, so that it shows whether anything else leads to their channels. While all this is
//! read a reference may move to where the pass has been already. So the pass catches up: it reads the registers again,
//! and what has run, until nothing has or its time is over.

use super::candidates::Candidates;
use super::marker::{Found, Marker, Source};
use super::references::{Depths, References, Wanted};
use super::roots::{Roots, processors};
use super::spans::{ObjectId, Spans, words};
use super::timers::{self, Timer};
use crate::binary::Globals;
use crate::budget;
use crate::goruntime::WaitReason;
use crate::memory::{Fault, Range, ThreadRegisters};
use crate::{
    snapshot,
    snapshot::{Goroutine, ObjectKind, Snapshot, Trust, View},
};
use hashbrown::{HashMap, HashSet};
use std::time::{Duration, Instant};

/// Most `m`s of the list `runtime.allm`; the runtime's own default is 10,000 (`sched.maxmcount`).
const MAX_MS: usize = 1 << 16;
/// Most entries of `runtime.allgs`, as `MAX_ENTRIES` of a snapshot.
const MAX_GS: u64 = 1 << 24;
/// Bytes that an entry and its `g` have at least in the memory of the target, and entries beyond those that there is
/// room for: the kernel counts memory with a delay.
const LEAST_G: u64 = 128;
const MORE_GS: u64 = 1 << 16;
/// Goroutines that are looked at together while the pass catches up.
const LOOKED_AT: usize = 1 << 16;
/// How often a pass catches up, and how often if all that takes no longer than [`QUICK`]. More rounds,
/// while they are cheap, catch goroutines that pass one reference to and fro (ARCHITECTURE.md, "Proof").
const CATCH_UPS: u32 = 4;
const QUICK_CATCH_UPS: u32 = 12;
const QUICK: Duration = Duration::from_millis(20);
/// `sudog`s that are read together, and most bytes of one.
const SUDOGS: usize = 1 << 14;
const MAX_SUDOG: u32 = 1 << 10;
/// Number of passes in a row without a change after which an observation ends, and the factor on the requested number
/// of passes after which it ends anyway.
const QUIET: u32 = 3;
const AT_MOST: u32 = 4;

/// A pass and its results.
pub(super) struct Pass<'a> {
    pub(super) snapshot: Snapshot,
    pub(super) marker: Marker<'a>,
    /// From where each awaited object was first reached.
    pub(super) reached_by: HashMap<ObjectId, Source>,
    pub(super) timers: Vec<Timer>,
    candidates: Candidates,
    /// Addresses of timers whose channel was reached from nothing but the timers.
    unheard: HashSet<u64>,
    /// Why the pass proves nothing; `None`: no doubt.
    doubt: Option<String>,
    /// By address of a `g`, the goid and the stamp at the time when it was last marked from, or first seen.
    seen: HashMap<u64, (u64, u64)>,
}

/// The inputs of a pass.
pub(super) struct Setting<'s, 'a> {
    pub(super) view: &'s View<'a>,
    pub(super) globals: &'s Globals,
    pub(super) threads: usize,
    pub(super) depths: Depths,
    /// Returns the registers of threads that were sampled since its last call.
    pub(super) registers: &'s mut dyn FnMut() -> Vec<ThreadRegisters>,
    /// Called with the bytes read so far and the bytes of all spans with pointers.
    pub(super) progress: &'s mut dyn FnMut(u64, u64),
}

/// Makes a pass. The snapshot must have been taken just before.
///
/// # Errors
/// Why the pass could not be made, as a clause for the user.
pub(super) fn run<'a>(setting: &mut Setting<'_, 'a>, snapshot: Snapshot) -> Result<Pass<'a>, String> {
    let view = setting.view;
    let spans = Spans::read(view, setting.globals).map_err(|error| error.to_string())?;
    let mut marker = Marker::new(view.memory, spans).map_err(|error| error.to_string())?;
    let listed = listed(view, setting.globals)
        .map_err(|fault| format!("the list of its goroutines cannot be read: {fault}"))?;
    let opaque = hide(setting, &snapshot, &listed, &marker)?;
    let candidates = Candidates::of(view, &snapshot, &mut marker);
    let references = References::new(view, std::mem::take(&mut setting.depths))
        .ok_or("the layout of its runtime.g is not known")?;
    let doubt = unseen_queue(view, setting.globals, &snapshot);
    let seen = snapshot.goroutines.iter().map(|one| (one.g, (one.goid, one.stamp))).collect();
    let mut pass = Pass {
        snapshot,
        marker,
        candidates,
        reached_by: HashMap::new(),
        timers: Vec::new(),
        unheard: HashSet::new(),
        doubt,
        seen,
    };
    pass.mark(setting, references, &opaque)?;
    if let Some(fault) = pass.snapshot.incomplete {
        return Err(fault.to_string());
    }
    // An object that could not be read may lead to anything.
    let unread = pass.marker.bytes_unread();
    if unread > 0 {
        pass.doubt.get_or_insert(format!("{unread} bytes of its heap could not be read"));
    }
    if pass.marker.has_dropped() {
        let doubt = "its heap grew while it was read by more than could be read again";
        pass.doubt.get_or_insert(doubt.to_owned());
    }
    if pass.snapshot.unreadable > 0 {
        let count = pass.snapshot.unreadable;
        pass.doubt.get_or_insert(format!("{count} of its goroutines could not be read"));
    }
    Ok(pass)
}

impl Pass<'_> {
    fn mark(
        &mut self,
        setting: &mut Setting<'_, '_>,
        mut references: References<'_>,
        opaque: &[(u64, u64)],
    ) -> Result<(), String> {
        let ended = |fault: Fault| fault.to_string();
        self.registers(setting);
        let (mut found, marker) = (Found::default(), &self.marker);
        // Locks are taken once for many roots, and what is found is small in between.
        let mut reach = |word, by| {
            marker.reach(word, by, &mut found);
            if found.is_large() {
                marker.give(&mut found);
            }
        };
        Roots::new(setting.view, setting.globals, marker.spans(), opaque).each(&mut reach)?;
        marker.give(&mut found);
        let mut live: Vec<u32> = self.candidates.live().collect();
        self.candidates.hosted_by_live(&mut live);
        self.timers(setting, &mut references, &mut live, opaque)?;
        let began = Instant::now();
        for number in 1.. {
            self.until_settled(setting, &mut references, &mut live).map_err(ended)?;
            let more = number < CATCH_UPS || number < QUICK_CATCH_UPS && began.elapsed() < QUICK;
            if !more || !self.catch_up(setting, &mut references, &mut live).map_err(ended)? {
                break;
            }
        }
        Ok(())
    }

    /// Marks from timers: first from those whose channel is awaited and those without a channel, then, when it is known
    /// what else leads to the other channels, from all.
    fn timers(
        &mut self,
        setting: &mut Setting<'_, '_>,
        references: &mut References<'_>,
        live: &mut Vec<u32>,
        opaque: &[(u64, u64)],
    ) -> Result<(), String> {
        let (view, globals) = (setting.view, setting.globals);
        let unreadable = |fault| format!("its timers cannot be read: {fault}");
        let timers = timers::read(view, globals).map_err(unreadable)?;
        let awaited: HashSet<u64> = self.snapshot.objects.iter().map(|object| object.addr).collect();
        let mut found = Found::default();
        for timer in timers.iter().filter(|timer| timer.channel == 0 || awaited.contains(&timer.channel)) {
            self.marker.reach(timer.addr, Source::Other, &mut found);
        }
        self.marker.give(&mut found);
        self.until_settled(setting, references, live).map_err(|fault| fault.to_string())?;
        // Up to Go 1.22, and with asynctimerchan=1 up to 1.26, the channel itself does not say that a timer
        // sends to it.
        let channels: HashSet<u64> = timers.iter().map(|timer| timer.channel).collect();
        for object in self.snapshot.objects.iter_mut().filter(|object| channels.contains(&object.addr)) {
            if let ObjectKind::Channel { timer, .. } = &mut object.kind {
                *timer = true;
            }
        }
        let unheard = |timer: &&Timer| timer.channel != 0 && !self.marker.is_reached(timer.channel);
        self.unheard = timers.iter().filter(unheard).map(|timer| timer.addr).collect();
        self.timers = timers;
        let (mut found, marker) = (Found::default(), &self.marker);
        let mut reach = |word, by| marker.reach(word, by, &mut found);
        Roots::new(view, globals, marker.spans(), opaque).timers(&mut reach).map_err(unreadable)?;
        marker.give(&mut found);
        Ok(())
    }

    /// Marks until no more candidate becomes live.
    fn until_settled(
        &mut self,
        setting: &mut Setting<'_, '_>,
        references: &mut References<'_>,
        live: &mut Vec<u32>,
    ) -> Result<(), Fault> {
        loop {
            self.mark_live(setting, references, live)?;
            let all = self.marker.spans().scannable();
            self.marker.drain(setting.threads, &mut |read| (setting.progress)(read, all))?;
            for woken in self.marker.woken() {
                self.reached_by.entry(woken.object).or_insert(woken.by);
                self.candidates.reached(woken.object, live);
            }
            if live.is_empty() {
                return Ok(());
            }
        }
    }

    /// Marks from the goroutines in `live`, and empties it.
    fn mark_live(
        &self,
        setting: &Setting<'_, '_>,
        references: &mut References<'_>,
        live: &mut Vec<u32>,
    ) -> Result<(), Fault> {
        let wanted: Vec<_> = (live.drain(..))
            .filter_map(|index| {
                let goroutine = self.snapshot.goroutines.get(index as usize)?;
                let moved = goroutine.trust != Trust::Still;
                Some(Wanted { index, g: goroutine.g, moved })
            })
            .collect();
        references.mark(&wanted, &self.marker)?;
        // `hide` kept the marker out of the `sudog`s of waiting goroutines. Those of live ones count like any object.
        let live: HashSet<u32> = wanted.iter().map(|wanted| wanted.index).collect();
        let len = setting
            .view
            .binary
            .layout()
            .field("sudog", "_size")
            .map_or(0, |size| size.min(MAX_SUDOG) as usize);
        let sudogs: Vec<_> = (self.snapshot.sudogs.iter())
            .filter(|(index, _)| live.contains(index))
            .map(|(_, addr)| Range { addr: *addr, len })
            .collect();
        let mut found = Found::default();
        let (mut bytes, mut whole) = (Vec::new(), Vec::new());
        for sudogs in sudogs.chunks(SUDOGS) {
            setting.view.memory.scatter(sudogs, &mut bytes, &mut whole)?;
            words(&bytes).for_each(|word| self.marker.reach(word, Source::Other, &mut found));
        }
        self.marker.give(&mut found);
        Ok(())
    }

    /// Marks from what changed during the pass: new spans, and goroutines that are new or moved. `false`: nothing
    /// changed.
    fn catch_up(
        &mut self,
        setting: &mut Setting<'_, '_>,
        references: &mut References<'_>,
        live: &mut Vec<u32>,
    ) -> Result<bool, Fault> {
        let misses = self.marker.misses();
        let mut found = Found::default();
        if !misses.is_empty() {
            match self.marker.extend(setting.view, setting.globals) {
                Ok(()) => misses.iter().for_each(|word| self.marker.reach(*word, Source::Other, &mut found)),
                // Without the new spans their objects are missing, and these may lead to anything.
                Err(error) => {
                    self.doubt.get_or_insert(format!("its heap has grown meanwhile: {error}"));
                }
            }
        }
        let changed = found.is_any();
        self.marker.give(&mut found);
        self.registers(setting);
        let moved = self.moved(setting, live)?;
        references.mark(&moved, &self.marker)?;
        Ok(changed || !moved.is_empty() || !live.is_empty())
    }

    /// The goroutines that have run since they were marked from, and new ones; candidates among them become live. One
    /// of them may have handed a reference to a goroutine that was marked from too early to have it, and dropped its
    /// own before it was marked from itself.
    fn moved(&mut self, setting: &Setting<'_, '_>, live: &mut Vec<u32>) -> Result<Vec<Wanted>, Fault> {
        let mut wanted = Vec::new();
        for listed in listed(setting.view, setting.globals)?.chunks(LOOKED_AT) {
            // Whoever cannot be read may have moved: without this round nothing is proven.
            let now =
                snapshot::take_only(setting.view, snapshot::Options::default(), listed).map_err(|error| {
                    match error {
                        snapshot::SnapshotError::Unreadable(fault) => fault,
                        snapshot::SnapshotError::NoList(_) | snapshot::SnapshotError::NoField(_) => {
                            Fault::Unmapped(0)
                        }
                    }
                })?;
            if let Some(fault) = now.incomplete {
                return Err(fault);
            }
            for goroutine in &now.goroutines {
                let id = (goroutine.goid, goroutine.stamp);
                let rests = goroutine.trust == Trust::Still && goroutine.state.stays();
                if self.seen.insert(goroutine.g, id) != Some(id) || !rests {
                    wanted.push(Wanted { index: u32::MAX, g: goroutine.g, moved: false });
                }
            }
        }
        for index in self.candidates.left().collect::<Vec<_>>() {
            let Some(goroutine) = self.snapshot.goroutines.get(index as usize) else { continue };
            if self.seen.get(&goroutine.g) != Some(&(goroutine.goid, goroutine.stamp)) {
                self.candidates.revive(index, live);
            }
        }
        Ok(wanted)
    }

    /// Marks from the sampled registers of threads. Any word there may be stale or no pointer.
    fn registers(&self, setting: &mut Setting<'_, '_>) {
        let mut found = Found::default();
        for thread in (setting.registers)() {
            for word in &thread.words {
                self.marker.reach_doubtful(setting.view, *word, Source::Other, &mut found);
            }
        }
        self.marker.give(&mut found);
    }
}

/// The addresses of all `g`s, those of dead goroutines included (`runtime.allgs`), each once.
pub(crate) fn listed(view: &View<'_>, globals: &Globals) -> Result<Vec<u64>, Fault> {
    // The length before the array, as in `Reading::begin`.
    let most = view.memory.resident().map_or(MAX_GS, |bytes| bytes / LEAST_G + MORE_GS);
    let len = view.memory.word(globals.allglen.wrapping_add(view.bias))?.min(MAX_GS).min(most) as usize;
    let array = view.memory.word(globals.allgptr.wrapping_add(view.bias))?;
    budget::check(len * 2 * size_of::<u64>())?;
    let mut bytes = vec![0; len * 8];
    view.memory.read(array, &mut bytes)?;
    let mut listed: Vec<u64> = words(&bytes).collect();
    listed.sort_unstable();
    listed.dedup();
    Ok(listed)
}

/// Keeps the marker out of the structs by which the runtime knows its goroutines, and the `sudog`s of waiting goroutines.
/// Returns the ranges of those that are variables (`m0`, `g0`), which [`Roots`] must leave out.
fn hide(
    setting: &Setting<'_, '_>,
    snapshot: &Snapshot,
    listed: &[u64],
    marker: &Marker<'_>,
) -> Result<Vec<(u64, u64)>, String> {
    let structs = structs(setting.view, setting.globals)?;
    structs.iter().for_each(|found| marker.never_scan(found.addr));
    listed.iter().for_each(|g| marker.never_scan(*g));
    snapshot.sudogs.iter().for_each(|(_, sudog)| marker.never_scan(*sudog));
    // The others are objects of the heap, which `never_scan` has covered.
    let variables = structs.into_iter().filter(|found| marker.spans().object(found.addr).is_none());
    Ok(variables.map(|found| (found.addr, found.end)).collect())
}

/// One of the structs by which the runtime knows its goroutines and threads.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Struct {
    /// Its name in package runtime: `g`, `m` or `p`.
    pub(crate) of: &'static str,
    pub(crate) addr: u64,
    /// Address behind it.
    pub(crate) end: u64,
}

/// Every `m` and `p`, and the `g`s of threads. Through these everything would reach every goroutine, so none of them is
/// a root.
///
/// # Errors
/// Their lists cannot be read; as a clause for the user.
pub(crate) fn structs(view: &View<'_>, globals: &Globals) -> Result<Vec<Struct>, String> {
    let layout = view.binary.layout();
    let size = |of| u64::from(layout.field(of, "_size").unwrap_or(0)).min(1 << 16);
    let mut found = Vec::new();
    let mut add = |of, addr: u64| found.push(Struct { of, addr, end: addr.saturating_add(size(of)) });
    let mut m = globals.allm.and_then(|addr| view.word(addr.wrapping_add(view.bias)));
    m.ok_or("the list of its threads (runtime.allm) is not known")?;
    for _ in 0..MAX_MS {
        let Some(addr @ 1..) = m else { break };
        add("m", addr);
        for g in ["g0", "gsignal"].into_iter().filter_map(|field| view.field(addr, "m", field)) {
            add("g", g);
        }
        m = view.field(addr, "m", "alllink");
    }
    let ps = processors(view, globals).map_err(|fault| format!("runtime.allp cannot be read: {fault}"))?;
    ps.into_iter().for_each(|p| add("p", p));
    Ok(found)
}

/// The doubt that a finalizer or cleanup casts which runs, where the binary does not show the queue in which others
/// wait for it ([`Globals::finalizers`], [`Globals::cleanups`]): what these lead to is not seen then.
fn unseen_queue(view: &View<'_>, globals: &Globals, snapshot: &Snapshot) -> Option<String> {
    let name = |pc: u64| view.binary.functions().function_at(pc.wrapping_sub(view.bias)).map(|f| f.name);
    let busy = snapshot.goroutines.iter().find(|goroutine| {
        let unseen = match name(goroutine.startpc) {
            Some("runtime.runfinq" | "runtime.runFinalizers") => globals.finalizers.is_none(),
            Some("runtime.runCleanups") => globals.cleanups.is_none(),
            _ => false,
        };
        unseen
            && !matches!(
                view.binary.wait_reasons().get(goroutine.reason),
                WaitReason::FinalizerWait | WaitReason::CleanupWait
            )
    })?;
    Some(format!(
        "goroutine {} runs finalizers or cleanups, and what else waits for one cannot be seen",
        busy.goid
    ))
}

/// What all passes of an observation prove together: only what held in each of them.
#[derive(Default)]
pub(super) struct Proof {
    passes: u32,
    /// Number of passes without a doubt.
    sound: u32,
    /// Number of passes without a doubt that a proof takes.
    least: u32,
    /// Number of passes in a row that changed nothing.
    quiet: u32,
    /// Goid and stamp of the goroutines that were unreachable in every pass and have not run since the first.
    dead: HashMap<u64, u64>,
    /// Addresses of timers whose channel nothing else reached in every pass.
    unheard: HashSet<u64>,
    doubt: Option<String>,
    /// Why no further pass can be made.
    failed: Option<String>,
    /// A pass failed that was made again.
    retried: bool,
    scanned: (u64, u64),
}

impl Proof {
    pub(super) fn of_at_least(passes: u32) -> Proof {
        Proof { least: passes, ..Proof::default() }
    }

    /// Adds a pass and its duration.
    pub(super) fn add(&mut self, pass: &Pass<'_>, took: Duration) {
        let goroutine = |index: u32| pass.snapshot.goroutines.get(index as usize);
        let found: HashMap<u64, u64> =
            pass.candidates.left().filter_map(goroutine).map(|one| (one.goid, one.stamp)).collect();
        self.passes += 1;
        let before = self.dead.len();
        if self.passes == 1 {
            self.dead = found;
            self.unheard.clone_from(&pass.unheard);
        } else {
            // Keep what the first pass had: a goroutine that ran in between has another stamp and is not proven.
            self.dead.retain(|goid, stamp| found.get(goid) == Some(stamp));
            self.unheard.retain(|timer| pass.unheard.contains(timer));
        }
        self.quiet = if self.passes > 1 && self.dead.len() == before { self.quiet + 1 } else { 0 };
        match &pass.doubt {
            None => self.sound += 1,
            doubt => self.doubt.clone_from(doubt),
        }
        self.scanned = (pass.marker.bytes_read(), u64::try_from(took.as_nanos()).unwrap_or(u64::MAX));
    }

    /// A pass could not be made. The target moves, so one failure ends nothing: the next pass is the retry.
    pub(super) fn fail(&mut self, reason: String) {
        if std::mem::replace(&mut self.retried, true) {
            self.give_up(reason);
        }
    }

    /// No further pass can be made.
    pub(super) fn give_up(&mut self, reason: String) {
        self.failed = Some(reason);
    }

    pub(super) fn has_failed(&self) -> bool {
        self.failed.is_some()
    }

    /// Whether enough passes were made. A pass can only take away from what the first one found, so after several
    /// passes without a change a goroutine that was merely in motion would have been missed by each of them.
    pub(super) fn is_settled(&self) -> bool {
        let quiet = self.quiet >= QUIET.min(self.least.saturating_sub(1));
        self.sound >= self.least && quiet || self.passes >= self.least.saturating_mul(AT_MOST)
    }

    pub(super) fn passes(&self) -> u32 {
        self.passes
    }

    /// As [`super::Observed::scanned`].
    pub(super) fn scanned(&self) -> (u64, u64) {
        self.scanned
    }

    pub(super) fn is_unreachable(&self, goroutine: &Goroutine) -> bool {
        self.dead.get(&goroutine.goid) == Some(&goroutine.stamp)
    }

    /// Whether in every pass nothing but timers reached the channel that this timer sends to.
    pub(super) fn is_unheard(&self, timer: &Timer) -> bool {
        self.unheard.contains(&timer.addr)
    }

    /// The doubt that remains: why passes failed, or the doubt of the last pass that had one if too few passes had
    /// none.
    pub(super) fn doubt(&mut self) -> Option<String> {
        let doubt = self.doubt.take().filter(|_| self.sound < self.least);
        self.failed.take().or(doubt)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_pass_that_fails_is_made_again() {
        let mut proof = Proof::of_at_least(4);
        proof.fail("it moved".to_owned());
        assert!(!proof.has_failed());
        proof.fail("it moved again".to_owned());
        assert!(proof.has_failed());
        assert_eq!(proof.doubt().as_deref(), Some("it moved again"));
        let mut proof = Proof::of_at_least(4);
        proof.give_up("it stands".to_owned());
        assert!(proof.has_failed());
    }
}
