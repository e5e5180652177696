//! One pass: from the roots to a fixed point. What it does not reach, it did not see anybody refer to.

use super::alive::{Alive, Wanted};
use super::candidates::Candidates;
use super::marker::{Found, Marker, Source};
use super::registers::Depths;
use super::roots::{Roots, processors};
use super::spans::{ObjectId, Spans, words};
use super::timers::{self, Timer};
use crate::binary::Globals;
use crate::memory::{Range, ThreadRegisters};
use crate::{
    snapshot,
    snapshot::{ObjectKind, Snapshot, Trust, View},
};
use hashbrown::{HashMap, HashSet};
use std::time::{Duration, Instant};

/// `m`s in the list of all.
const MAX_MS: usize = 1 << 16;
/// How often what moved during the pass is looked for, and how often if that takes no longer than this.
const ROUNDS: u32 = 4;
const MAX_ROUNDS: u32 = 12;
const AGAIN: Duration = Duration::from_millis(20);

/// What a pass found.
pub(super) struct Pass<'a> {
    pub(super) snapshot: Snapshot,
    pub(super) marker: Marker<'a>,
    pub(super) candidates: Candidates,
    /// What was seen to refer to an object that is waited for.
    pub(super) reached_by: HashMap<ObjectId, Source>,
    pub(super) timers: Vec<Timer>,
    /// Of these, by their address: no root led to the channel that they send to.
    pub(super) unheard: HashSet<u64>,
    /// Why it proves nothing; `None`: it does.
    pub(super) doubt: Option<String>,
    /// By address of its `g`, the goroutine and its stamp when it was last seen.
    seen: HashMap<u64, (u64, u64)>,
}

/// What a pass is made with.
pub(super) struct Setting<'s, 'a> {
    pub(super) view: &'s View<'a>,
    pub(super) globals: &'s Globals,
    pub(super) threads: usize,
    /// How deep running goroutines were seen to be.
    pub(super) depths: Depths,
    /// What threads held in their registers while this pass was made, or shortly before.
    pub(super) registers: &'s mut dyn FnMut() -> Vec<ThreadRegisters>,
    /// Told how many bytes of about how many were read.
    pub(super) progress: &'s mut dyn FnMut(u64, u64),
}

/// Makes a pass over a snapshot that was taken just now.
///
/// # Errors
/// Why it could not be made.
pub(super) fn run<'a>(setting: &mut Setting<'_, 'a>, snapshot: Snapshot) -> Result<Pass<'a>, String> {
    let view = setting.view;
    let spans = Spans::read(view, setting.globals).map_err(|error| error.to_string())?;
    let mut marker = Marker::new(view.memory, spans);
    let listed =
        listed(setting).map_err(|fault| format!("the list of its goroutines cannot be read: {fault}"))?;
    let opaque = hide(setting, &snapshot, &listed, &marker)?;
    let candidates = Candidates::of(view, &snapshot, &mut marker);
    let mut alive = Alive::new(view).ok_or("the layout of its runtime.g is not known")?;
    alive.depths = std::mem::take(&mut setting.depths);
    let doubt = stuck_finalizer(view, &snapshot);
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
    pass.mark(setting, alive, &opaque)?;
    if let Some(fault) = pass.snapshot.incomplete {
        return Err(fault.to_string());
    }
    let unread = pass.marker.unread.load(std::sync::atomic::Ordering::Relaxed);
    if unread > 0 {
        pass.doubt.get_or_insert(format!("{unread} bytes of its heap could not be read"));
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
        mut alive: Alive<'_>,
        opaque: &[(u64, u64)],
    ) -> Result<(), String> {
        let ended = |fault: crate::memory::Fault| fault.to_string();
        self.registers(setting);
        let view = setting.view;
        let roots = Roots { view, globals: setting.globals, marker: &self.marker, opaque };
        roots.mark()?;
        let mut live: Vec<u32> = self.candidates.live().collect();
        self.candidates.hosted_by_live(&mut live);
        self.timers(setting, &mut alive, &mut live, opaque)?;
        let began = Instant::now();
        for round in 1.. {
            self.until_settled(setting, &mut alive, &mut live).map_err(ended)?;
            let more = round < ROUNDS || round < MAX_ROUNDS && began.elapsed() < AGAIN;
            if !more || !self.look_again(setting, &mut alive, &mut live).map_err(ended)? {
                break;
            }
        }
        Ok(())
    }

    /// Marks from the timers. Those that nobody waits for come last: only so does it show whether anything
    /// else leads to the channels that they send to.
    fn timers(
        &mut self,
        setting: &mut Setting<'_, '_>,
        alive: &mut Alive<'_>,
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
        self.until_settled(setting, alive, live).map_err(|fault| fault.to_string())?;
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
        Roots { view, globals, marker: &self.marker, opaque }.timers().map_err(unreadable)
    }

    /// Marks until no candidate becomes live any more.
    fn until_settled(
        &mut self,
        setting: &mut Setting<'_, '_>,
        alive: &mut Alive<'_>,
        live: &mut Vec<u32>,
    ) -> Result<(), crate::memory::Fault> {
        loop {
            self.mark_live(setting, alive, live)?;
            let all = self.marker.spans.scannable;
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

    fn mark_live(
        &self,
        setting: &Setting<'_, '_>,
        alive: &mut Alive<'_>,
        live: &mut Vec<u32>,
    ) -> Result<(), crate::memory::Fault> {
        let wanted: Vec<_> = (live.drain(..))
            .filter_map(|index| {
                let goroutine = self.snapshot.goroutines.get(index as usize)?;
                let whole = goroutine.trust != Trust::Still;
                Some(Wanted { index, g: goroutine.g, whole })
            })
            .collect();
        alive.mark(&wanted, &self.marker)?;
        // What they wait with was hidden.
        let live: HashSet<u32> = wanted.iter().map(|wanted| wanted.index).collect();
        let len =
            setting.view.binary.layout().field("sudog", "_size").map_or(0, |size| size.min(1 << 10) as usize);
        let sudogs: Vec<_> = (self.snapshot.sudogs.iter())
            .filter(|(index, _)| live.contains(index))
            .map(|(_, addr)| Range { addr: *addr, len })
            .collect();
        let mut found = Found::default();
        let (mut bytes, mut whole) = (Vec::new(), Vec::new());
        for sudogs in sudogs.chunks(1 << 14) {
            setting.view.memory.scatter(sudogs, &mut bytes, &mut whole)?;
            words(&bytes).for_each(|word| self.marker.reach(word, Source::Other, &mut found));
        }
        self.marker.give(&mut found);
        Ok(())
    }

    /// What changed while the pass went on: new spans, goroutines that are new or moved. Says whether there was
    /// any.
    fn look_again(
        &mut self,
        setting: &mut Setting<'_, '_>,
        alive: &mut Alive<'_>,
        live: &mut Vec<u32>,
    ) -> Result<bool, crate::memory::Fault> {
        let misses = self.marker.misses();
        let mut found = Found::default();
        if !misses.is_empty() && self.marker.spans.extend(setting.view, setting.globals).is_ok() {
            self.marker.grow();
            misses.iter().for_each(|word| self.marker.reach(*word, Source::Other, &mut found));
        }
        let changed = found.is_any();
        self.marker.give(&mut found);
        self.registers(setting);
        let moved = self.moved(setting, live)?;
        alive.mark(&moved, &self.marker)?;
        Ok(changed || !moved.is_empty() || !live.is_empty())
    }

    /// Goroutines that have run since they were marked from, and those that were not there yet: one may have handed to
    /// another, after that one had been marked from, what it was not marked with itself. Candidates among them
    /// are live.
    fn moved(
        &mut self,
        setting: &Setting<'_, '_>,
        live: &mut Vec<u32>,
    ) -> Result<Vec<Wanted>, crate::memory::Fault> {
        // What cannot be read now has been marked from as it was.
        let Ok(look) = snapshot::look(setting.view, snapshot::Options::default(), &listed(setting)?) else {
            return Ok(Vec::new());
        };
        let mut wanted = Vec::new();
        for goroutine in &look.goroutines {
            let id = (goroutine.goid, goroutine.stamp);
            let rests = goroutine.trust == Trust::Still && goroutine.state.stays();
            if self.seen.insert(goroutine.g, id) != Some(id) || !rests {
                wanted.push(Wanted { index: u32::MAX, g: goroutine.g, whole: false });
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

/// All entries of `runtime.allgs`, the dead included.
fn listed(setting: &Setting<'_, '_>) -> Result<Vec<u64>, crate::memory::Fault> {
    let (view, globals) = (setting.view, setting.globals);
    let len = view.memory.word(globals.allglen.wrapping_add(view.bias))?.min(1 << 24);
    let array = view.memory.word(globals.allgptr.wrapping_add(view.bias))?;
    let mut bytes = vec![0; len as usize * 8];
    view.memory.read(array, &mut bytes)?;
    Ok(words(&bytes).collect())
}

/// Keeps the marker out of what the runtime knows its goroutines by: every `g`, `m` and `p`, and the
/// `sudog`s of those that wait. Gives those that are variables.
fn hide(
    setting: &Setting<'_, '_>,
    snapshot: &Snapshot,
    listed: &[u64],
    marker: &Marker<'_>,
) -> Result<Vec<(u64, u64)>, String> {
    let (view, layout) = (setting.view, setting.view.binary.layout());
    let size = |of| u64::from(layout.field(of, "_size").unwrap_or(0)).min(1 << 16);
    let mut opaque = Vec::new();
    let mut hide = |addr: u64, len: u64| {
        marker.never_scan(addr);
        opaque.push((addr, addr.saturating_add(len)));
    };
    let mut m = setting.globals.allm.and_then(|addr| view.word(addr.wrapping_add(view.bias)));
    m.ok_or("the list of its threads (runtime.allm) is not known")?;
    for _ in 0..MAX_MS {
        let Some(addr @ 1..) = m else { break };
        hide(addr, size("m"));
        for g in ["g0", "gsignal"].into_iter().filter_map(|field| view.field(addr, "m", field)) {
            hide(g, size("g"));
        }
        m = view.field(addr, "m", "alllink");
    }
    let ps =
        processors(view, setting.globals).map_err(|fault| format!("runtime.allp cannot be read: {fault}"))?;
    ps.into_iter().for_each(|p| hide(p, size("p")));
    // Those of the heap need no list.
    let heap = opaque.iter().filter(|(addr, _)| marker.spans.object(*addr).is_none()).copied().collect();
    listed.iter().for_each(|g| marker.never_scan(*g));
    snapshot.sudogs.iter().for_each(|(_, sudog)| marker.never_scan(*sudog));
    Ok(heap)
}

/// What waits for its finalizer or cleanup is in queues of the runtime that we do not read. They are empty
/// but for moments, unless the goroutine that works them off is held up.
fn stuck_finalizer(view: &View<'_>, snapshot: &Snapshot) -> Option<String> {
    let name = |pc: u64| view.binary.functions().function_at(pc.wrapping_sub(view.bias)).map(|f| f.name);
    let busy = snapshot.goroutines.iter().find(|goroutine| {
        matches!(
            name(goroutine.startpc),
            Some("runtime.runfinq" | "runtime.runFinalizers" | "runtime.runCleanups")
        ) && !matches!(view.binary.wait_reason(goroutine.reason), "finalizer wait" | "cleanup wait")
    })?;
    Some(format!(
        "goroutine {} runs finalizers or cleanups, and what else waits for one cannot be seen",
        busy.goid
    ))
}
