//! What objects add to a search: who keeps alive what goroutines wait for, and contexts that nobody can cancel.

use super::{
    children::{Children, Present},
    fds::{FdObjects, KnownFd},
    pooled,
    view::LeakView,
};
use crate::{
    clock,
    detect::{ContextSite, ContextTrouble, Growth, PoolSite, Verdict},
    fds::Fds,
    heap::Observed,
    memory::ThreadRegisters,
    objects::{Above, Context, Contexts, Files, Known, Objects, Pool, Pools, Reading, Settling, settled},
    process::Process,
    snapshot::{Clock, View},
};
use hashbrown::{HashMap, HashSet};
use std::{
    collections::BTreeMap,
    fs::File,
    rc::Rc,
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};

/// Groups for which the way is looked for.
const MAX_GROUPS: usize = 64;
/// Sites of lost contexts that are told apart.
const MAX_SITES: usize = 64;
/// Goroutines that are remembered between two readings.
const MAX_GOIDS: usize = 1 << 17;
/// Descriptors that nothing leads to.
const MAX_DROPPED: usize = 1 << 16;
/// A deadline so far away is far, and so many contexts with one are told of.
const FAR: Duration = Duration::from_secs(3600);
const MANY_FAR: u64 = 100;
/// Objects that a heap may have room for. Each costs us some 20 bytes and half a microsecond; `sfgi contexts` and
/// `sfgi why` look at more of them.
const MAX_OBJECTS: u64 = 12_000_000;
/// A reading is good for so many times as long as it took: one search after the other spends a tenth of its time on
/// them at most.
const GOOD_FOR: u32 = 9;

/// What a reading of all objects said.
#[derive(Debug)]
pub(super) struct Kept {
    /// When the reading began, and how long it took.
    began: Instant,
    took: Duration,
    /// Why it says nothing; `None`: it does.
    pub(super) doubt: Option<String>,
    /// Whether lost contexts are proven to be so.
    pub(super) sure: bool,
    /// Goroutines that wait for something else than the end of their context, and those that cut it off: by goid.
    ignoring: HashSet<u64>,
    cutting: HashSet<u64>,
    /// Addresses of the `Done` channels of contexts that were made of those of `signal.NotifyContext`, and of these.
    pub(super) until_signal: HashSet<u64>,
    /// Lost contexts, those that become more, and those that end late, by their type and by what keeps them; the most
    /// first. Of those that become more with how.
    pub(super) contexts: Vec<(ContextSite, Option<Growth>)>,
    /// Objects in all pools; `None`: not known.
    pub(super) pool_objects: Option<u64>,
    /// Pools that something is wrong with, or why they are not known.
    pub(super) pools: Result<Vec<PoolSite>, String>,
    /// What keeps alive what goroutines wait for, by its address.
    ways: HashMap<u64, String>,
    /// What objects tell of descriptors.
    pub(super) fds: FdObjects,
}

/// The process whose descriptors are of interest, and what the passes over its heap have reached.
#[derive(Clone, Copy)]
pub(super) struct Descriptors<'d> {
    pub(super) process: &'d Process,
    pub(super) reached: &'d dyn Fn(u64) -> Option<bool>,
}

/// What of the goroutines of a target matters for its objects.
#[derive(Clone, Copy)]
pub(super) struct Among<'g> {
    /// The registers of their threads.
    pub(super) registers: &'g [ThreadRegisters],
    /// Those that are no roots, because they cannot wake themselves.
    pub(super) without: &'g HashSet<u64>,
    /// The `Done` channels of contexts of `signal.NotifyContext`.
    pub(super) signals: &'g HashSet<u64>,
}

impl Kept {
    /// Reads the objects of a target. What cannot be read says nothing, and leaves what was observed before as it is.
    pub(super) fn read<'a>(
        view: &View<'a>,
        exe: Option<&File>,
        among: Among<'_>,
        children: Option<&mut Children>,
        descriptors: Option<Descriptors<'_>>,
    ) -> (Kept, Option<Objects<'a>>) {
        let (Among { registers, without, signals }, stopped) = (among, view.clock == Clock::Stopped);
        let mut kept = Kept {
            began: Instant::now(),
            took: Duration::ZERO,
            doubt: None,
            sure: false,
            ignoring: HashSet::new(),
            cutting: HashSet::new(),
            until_signal: HashSet::new(),
            contexts: Vec::new(),
            pool_objects: None,
            pools: Ok(Vec::new()),
            ways: HashMap::new(),
            fds: FdObjects::default(),
        };
        let known = Rc::new(Known::of(view.binary, exe.and_then(|exe| exe.try_clone().ok())));
        let before = descriptors.and_then(|descriptors| Fds::of(descriptors.process).ok());
        let mut settling = Settling::default();
        let read = |settling: &mut Settling| {
            let (known, progress) = (Rc::clone(&known), &mut |_, _| {});
            let reading = Reading { known, registers, stopped, most: MAX_OBJECTS, without, progress };
            let mut objects = Objects::read(*view, reading)?;
            if before.is_some() {
                settling.add(objects.files(stopped)?);
            }
            Ok(objects)
        };
        let mut objects = match settled(view, stopped, &mut || read(&mut settling)) {
            Ok((objects, contexts)) => {
                kept.learn(view, &objects, &contexts, signals, children);
                let pools = objects.pools(stopped, false);
                let count = |pools: &Pools| pools.list.iter().map(Pool::count).sum();
                kept.pool_objects = pools.as_ref().ok().map(count);
                kept.pools =
                    pools.map(|pools| pooled::sites(&objects, &pools)).map_err(|error| error.to_string());
                Some(objects)
            }
            Err(error) => {
                kept.doubt = Some(error.to_string());
                None
            }
        };
        while objects.is_some() && !stopped && settling.wants_more() {
            drop(objects);
            objects = read(&mut settling).ok();
        }
        if let (Some(descriptors), Some(before), Some(objects)) = (descriptors, &before, &objects) {
            kept.learn_fds(view, objects, settling.files(), before, descriptors);
        }
        kept.took = kept.began.elapsed();
        (kept, objects)
    }

    fn learn(
        &mut self,
        view: &View<'_>,
        objects: &Objects<'_>,
        contexts: &Contexts,
        signals: &HashSet<u64>,
        children: Option<&mut Children>,
    ) {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).ok().filter(|_| view.clock == Clock::Live);
        let far = now.and_then(|now| i64::try_from((now + FAR).as_nanos()).ok()).unwrap_or(i64::MAX);
        let goroutine = |index: u32| objects.snapshot().goroutines.get(index as usize);
        let goids = |list: &[(u32, u32)]| -> HashSet<u64> {
            let goids =
                list.iter().filter_map(|(index, _)| goroutine(*index)).map(|goroutine| goroutine.goid);
            goids.take(MAX_GOIDS).collect()
        };
        self.sure = contexts.doubt.is_none();
        (self.ignoring, self.cutting) = (goids(&contexts.ignored), goids(&contexts.cut));
        self.until_signal = made_of(&contexts.list, signals);
        let keepers = keepers(contexts);
        let growing = children.map(|children| children.extend(clock::now(), present(contexts, &keepers)));
        self.contexts = sites(objects, contexts, &keepers, far, &growing.unwrap_or_default());
    }

    /// Takes in the objects that have descriptors; `before`: what was open when they were read.
    fn learn_fds(
        &mut self,
        view: &View<'_>,
        objects: &Objects<'_>,
        mut files: Files,
        before: &Fds,
        descriptors: Descriptors<'_>,
    ) {
        let (Ok(now), Ok(())) = (Fds::of(descriptors.process), files.refresh(view)) else { return };
        self.fds.sure = files.doubt.is_none();
        let kept: HashSet<u32> = files.list.iter().filter(|file| file.kept).map(|file| file.number).collect();
        let dropped = files.list.iter().filter(|file| !file.kept && !kept.contains(&file.number));
        for file in dropped.take(MAX_DROPPED) {
            let same = |fds: &Fds| fds.get(file.number).map(|fd| fd.raw.clone());
            let Some(raw) = same(before).filter(|raw| same(&now).as_ref() == Some(raw)) else { continue };
            let sure = (descriptors.reached)(file.addr) == Some(false);
            let mut known = KnownFd::of(objects, file, &raw, false);
            known.sure = sure;
            self.fds.dropped.push(known);
        }
        self.fds.learn(objects, &files.list, &now);
    }

    /// Whether it is too early for another reading.
    pub(super) fn is_good(&self) -> bool {
        self.age() < self.took * GOOD_FOR
    }

    /// The time since it ended.
    pub(super) fn age(&self) -> Duration {
        self.began.elapsed().saturating_sub(self.took)
    }

    /// Notes which goroutines wait for something else than the end of their context.
    pub(super) fn note(&self, observed: &mut Observed) {
        for (goroutine, facts) in observed.snapshot.goroutines.iter().zip(&mut observed.facts) {
            facts.ignores_context = self.ignoring.contains(&goroutine.goid);
            facts.cuts_context = self.cutting.contains(&goroutine.goid);
        }
    }

    /// Finds what keeps alive what the first member of each group that is not proven waits for. Only in the objects of
    /// this reading.
    pub(super) fn find_ways(&mut self, objects: &Objects<'_>, groups: &[LeakView]) {
        let unproven = groups.iter().filter(|group| group.verdict < Verdict::Proven).take(MAX_GROUPS);
        let awaited = unproven.filter_map(|group| Some(group.awaited.as_ref()?.object.addr));
        self.ways.extend(awaited.filter_map(|addr| Some((addr, way(objects, addr)?))));
    }

    /// Says of each group that is not proven what keeps alive what its first member waits for.
    pub(super) fn tell(&self, groups: &mut [LeakView]) {
        let unproven = groups.iter_mut().filter(|group| group.verdict < Verdict::Proven);
        for group in unproven.take(MAX_GROUPS) {
            let Some(awaited) = &group.awaited else { continue };
            group.kept_by = self.ways.get(&awaited.object.addr).cloned();
            if let Some(way) = &group.kept_by {
                // Behind the sentence that says whether anything leads to it.
                let at = group.evidence.len().min(1);
                group.evidence.insert(at, format!("kept alive by {way}"));
            }
        }
    }
}

fn way(objects: &Objects<'_>, addr: u64) -> Option<String> {
    let ways = objects.ways(addr, 1).ok()?;
    ways.first().map(ToString::to_string)
}

/// The `Done` channels of contexts that were made of those with these.
fn made_of(list: &[Context], done: &HashSet<u64>) -> HashSet<u64> {
    let above = |at: usize| match list.get(at)?.above {
        Above::Context(index) => Some(index as usize),
        _ => None,
    };
    let mut ends: HashMap<usize, bool> = HashMap::new();
    ends.extend(
        list.iter().enumerate().filter(|(_, one)| done.contains(&one.done)).map(|(at, _)| (at, true)),
    );
    if ends.is_empty() {
        return HashSet::new();
    }
    let mut path = Vec::new();
    for start in 0..list.len() {
        let mut at = Some(start);
        // Up to what is known; a hostile chain leads back to itself, to what is known as none by then.
        let found = loop {
            let Some(here) = at else { break false };
            if let Some(known) = ends.get(&here) {
                break *known;
            }
            ends.insert(here, false);
            path.push(here);
            at = above(here);
        };
        ends.extend(path.drain(..).map(|here| (here, found)));
    }
    let found = list.iter().enumerate().filter(|(at, _)| ends.get(at) == Some(&true));
    found.map(|(_, context)| context.done).filter(|done| *done != 0).take(MAX_GOIDS).collect()
}

/// Whether a child may be forgotten: it has not ended, somebody may still end it, but no goroutine has it.
fn is_forgotten(context: &Context) -> bool {
    let open = !context.ended && !context.lost && context.kind.can_end();
    open && context.registered && context.goroutines == 0
}

/// The children that may be forgotten.
fn present(contexts: &Contexts, keepers: &[u64]) -> Present {
    let mut present = Present::new();
    for (context, keeper) in contexts.list.iter().zip(keepers).filter(|(context, _)| is_forgotten(context)) {
        present.entry(*keeper).or_default().push(context.addr);
    }
    present.remove(&0);
    present
}

/// As [`Kept::contexts`]. A deadline behind `far_unix_ns` (nanoseconds since 1970) is far.
fn sites(
    objects: &Objects<'_>,
    contexts: &Contexts,
    keepers: &[u64],
    far_unix_ns: i64,
    growing: &HashMap<u64, Growth>,
) -> Vec<(ContextSite, Option<Growth>)> {
    let types = objects.types();
    let mut sites: BTreeMap<(ContextTrouble, u32, u64), (u64, u64)> = BTreeMap::new();
    let list = &contexts.list;
    for (context, parent) in list.iter().zip(keepers.iter().copied()) {
        let far = !context.ended && context.deadline_unix_ns > far_unix_ns;
        let trouble = match context {
            context if context.lost => ContextTrouble::Lost,
            context if is_forgotten(context) && growing.contains_key(&parent) => ContextTrouble::Growing,
            _ if far => ContextTrouble::Far,
            _ => continue,
        };
        let (count, _) = sites.entry((trouble, context.of.number(), parent)).or_insert((0, context.addr));
        *count += 1;
    }
    sites.retain(|(trouble, ..), (count, _)| *trouble != ContextTrouble::Far || *count >= MANY_FAR);
    if sites.len() > MAX_SITES {
        // Those of one type together, whatever keeps them.
        for (key, (count, address)) in std::mem::take(&mut sites) {
            sites.entry((key.0, key.1, 0)).or_insert((0, address)).0 += count;
        }
    }
    let mut sites: Vec<_> = sites.into_iter().collect();
    sites.sort_by_key(|(key, (count, _))| (std::cmp::Reverse(*count), *key));
    let found = |addr: u64| {
        let index = list.binary_search_by_key(&addr, |context| context.addr).ok()?;
        list.get(index).map(|context| types.name(context.of))
    };
    let site = |((trouble, _, parent), (count, address)): ((ContextTrouble, u32, u64), (u64, u64))| {
        let site = ContextSite {
            trouble,
            of: found(address).unwrap_or_default().to_owned(),
            count,
            address,
            parent: found(parent).unwrap_or_default().to_owned(),
            parent_address: parent,
            kept_by: way(objects, parent).unwrap_or_default(),
        };
        (site, growing.get(&parent).copied().filter(|_| trouble == ContextTrouble::Growing))
    };
    sites.into_iter().take(MAX_SITES).map(site).collect()
}

/// Of each context the address of the one that keeps it: the nearest above that can have children and is not lost itself,
/// so that what hangs on a lost one belongs to it. 0: there is none.
fn keepers(contexts: &Contexts) -> Vec<u64> {
    let list = &contexts.list;
    let mut known: Vec<Option<u64>> = vec![None; list.len()];
    let mut path = Vec::new();
    for start in 0..list.len() {
        let mut at = start;
        // Up to what is known, or to where none is above; a hostile chain leads back to itself.
        let found = loop {
            if let Some(found) = known.get(at).copied().flatten() {
                break found;
            }
            path.push(at);
            if let Some(known) = known.get_mut(at) {
                // For the case that the chain leads back here.
                *known = Some(0);
            }
            let Some(Above::Context(index)) = list.get(at).map(|context| context.above) else { break 0 };
            let Some(context) = list.get(index as usize) else { break 0 };
            if context.kind.can_end() && !context.lost {
                break context.addr;
            }
            at = index as usize;
        };
        for index in path.drain(..) {
            if let Some(known) = known.get_mut(index) {
                *known = Some(found);
            }
        }
    }
    known.into_iter().map(Option::unwrap_or_default).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::objects::ContextKind;

    fn context(addr: u64, kind: ContextKind, above: Above, lost: bool) -> Context {
        Context { addr, registered: true, lost, ..Context::of(kind, above) }
    }

    #[test]
    fn a_context_is_kept_by_the_nearest_that_can_end() {
        use ContextKind::{Cancel, Value};
        let list = vec![
            context(1, Cancel, Above::Background, false),
            context(2, Value, Above::Context(0), false),
            context(3, Cancel, Above::Context(1), true),
            context(4, Value, Above::Context(2), false),
            context(5, Cancel, Above::Context(3), true),
            // Each above the other.
            context(6, Value, Above::Context(6), false),
            context(7, Value, Above::Context(5), false),
        ];
        let contexts = Contexts { list, ..Contexts::default() };
        assert_eq!(keepers(&contexts), [0, 1, 1, 1, 1, 0, 0]);
    }

    #[test]
    fn what_is_made_of_a_context_ends_with_it() {
        use ContextKind::{Cancel, Other, Value};
        let of = |addr, kind, above| Context { done: addr + 100, ..context(addr, kind, above, false) };
        let list = vec![
            of(1, Cancel, Above::Background),
            of(2, Other, Above::Context(0)),
            of(3, Value, Above::Context(1)),
            of(4, Cancel, Above::Context(2)),
            of(5, Cancel, Above::Background),
            // Each above the other.
            of(6, Value, Above::Context(6)),
            of(7, Value, Above::Context(5)),
        ];
        let found = made_of(&list, &HashSet::from([101]));
        let mut found: Vec<u64> = found.into_iter().collect();
        found.sort_unstable();
        assert_eq!(found, [101, 102, 103, 104]);
        assert!(made_of(&list, &HashSet::from([0, 7])).is_empty());
    }

    #[test]
    fn a_long_chain_takes_no_longer_than_a_short_one_for_each() {
        let of = |index: u32| {
            let above = index.checked_sub(1).map_or(Above::Background, Above::Context);
            context(u64::from(index) + 1, ContextKind::Value, above, false)
        };
        // From its end on, which is the worst order: nothing above is known yet.
        let mut list: Vec<_> = (0..1_000_000).map(of).collect();
        let last = list.len() as u32 - 1;
        for context in &mut list {
            context.above = match context.above {
                Above::Context(index) => Above::Context(last - index),
                other => other,
            };
        }
        list.reverse();
        let contexts = Contexts { list, ..Contexts::default() };
        let began = Instant::now();
        assert!(keepers(&contexts).iter().all(|keeper| *keeper == 0));
        assert!(began.elapsed() < Duration::from_secs(5), "{:?}", began.elapsed());
    }
}
