//! What objects add to a search: who keeps alive what goroutines wait for, and contexts that nobody can cancel.

use super::view::LeakView;
use crate::{
    detect::{ContextSite, ContextTrouble, Verdict},
    heap::Observed,
    memory::ThreadRegisters,
    objects::{Above, Contexts, Known, Objects, ObjectsError, Reading, settled},
    snapshot::{Clock, View},
};
use hashbrown::HashSet;
use std::{
    collections::BTreeMap,
    fs::File,
    rc::Rc,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

/// Groups for which the way is looked for.
const MAX_GROUPS: usize = 64;
/// Sites of lost contexts that are told apart.
const MAX_SITES: usize = 64;
/// A deadline so far away is far, and so many contexts with one are told of.
const FAR: Duration = Duration::from_secs(3600);
const MANY_FAR: u64 = 100;

/// What the objects of a target said.
pub(super) struct Kept<'a> {
    objects: Objects<'a>,
    contexts: Contexts,
    /// A deadline behind this is far, nanoseconds since 1970.
    far_unix_ns: i64,
}

impl<'a> Kept<'a> {
    /// Reads the objects of a target. The members of these groups are no roots: they cannot wake themselves.
    ///
    /// # Errors
    /// As [`Objects::read`]; what was observed before stays as it is.
    pub(super) fn read(
        view: &View<'a>,
        exe: Option<&File>,
        registers: &[ThreadRegisters],
        stopped: bool,
        without: &HashSet<u64>,
    ) -> Result<Kept<'a>, ObjectsError> {
        let known = Rc::new(Known::of(view.binary, exe.and_then(|exe| exe.try_clone().ok())));
        let mut read = || {
            let (known, progress) = (Rc::clone(&known), &mut |_, _| {});
            Objects::read(*view, Reading { known, registers, stopped, without, progress })
        };
        let (objects, contexts) = settled(view, stopped, &mut read)?;
        let now = SystemTime::now().duration_since(UNIX_EPOCH).ok().filter(|_| view.clock == Clock::Live);
        let far = now.and_then(|now| i64::try_from((now + FAR).as_nanos()).ok()).unwrap_or(i64::MAX);
        Ok(Kept { objects, contexts, far_unix_ns: far })
    }

    /// Whether lost contexts are proven to be so.
    pub(super) fn is_sure(&self) -> bool {
        self.contexts.doubt.is_none()
    }

    /// Notes which goroutines wait for something else than the end of their context.
    pub(super) fn note(&self, observed: &mut Observed) {
        let goroutine = |index: u32| self.objects.snapshot().goroutines.get(index as usize);
        let goids = |list: &[(u32, u32)]| -> HashSet<u64> {
            list.iter().filter_map(|(index, _)| goroutine(*index)).map(|goroutine| goroutine.goid).collect()
        };
        let (ignoring, cutting) = (goids(&self.contexts.ignored), goids(&self.contexts.cut));
        for (goroutine, facts) in observed.snapshot.goroutines.iter().zip(&mut observed.facts) {
            facts.ignores_context = ignoring.contains(&goroutine.goid);
            facts.cuts_context = cutting.contains(&goroutine.goid);
        }
    }

    /// Lost contexts, and those that end late, by their type and by what keeps them; the most first.
    pub(super) fn contexts(&self) -> Vec<ContextSite> {
        let types = self.objects.types();
        let mut sites: BTreeMap<(ContextTrouble, u32, u64), (u64, u64)> = BTreeMap::new();
        let list = &self.contexts.list;
        for context in list {
            let far = !context.ended && context.deadline_unix_ns > self.far_unix_ns;
            let trouble = match context {
                context if context.lost => ContextTrouble::Lost,
                _ if far => ContextTrouble::Far,
                _ => continue,
            };
            let parent = self.keeper(context.above);
            let (count, _) = sites.entry((trouble, context.of.number(), parent)).or_insert((0, context.addr));
            *count += 1;
        }
        sites.retain(|(trouble, ..), (count, _)| *trouble == ContextTrouble::Lost || *count >= MANY_FAR);
        let mut sites: Vec<_> = sites.into_iter().collect();
        sites.sort_by_key(|(key, (count, _))| (std::cmp::Reverse(*count), *key));
        let site = |((trouble, _, parent), (count, address)): ((ContextTrouble, u32, u64), (u64, u64))| {
            let found = list.binary_search_by_key(&address, |context| context.addr).ok();
            let of = found.and_then(|index| list.get(index)).map(|context| types.name(context.of).to_owned());
            let keeper = list.binary_search_by_key(&parent, |context| context.addr).ok();
            let keeper = keeper.and_then(|index| list.get(index)).map(|context| types.name(context.of));
            ContextSite {
                trouble,
                of: of.unwrap_or_default(),
                count,
                address,
                parent: keeper.unwrap_or("context").to_owned(),
                parent_address: parent,
                kept_by: self.way(parent).unwrap_or_default(),
            }
        };
        sites.into_iter().take(MAX_SITES).map(site).collect()
    }

    /// Address of the nearest context above that can have children; 0: there is none.
    fn keeper(&self, above: Above) -> u64 {
        let mut above = above;
        for _ in 0..self.contexts.list.len() {
            let Above::Context(index) = above else { break };
            let Some(context) = self.contexts.list.get(index as usize) else { break };
            if context.kind.can_end() {
                return context.addr;
            }
            above = context.above;
        }
        0
    }

    /// Says of each group that is not proven what keeps alive what its first member waits for.
    pub(super) fn tell(&self, groups: &mut [LeakView]) {
        let unproven = groups.iter_mut().filter(|group| group.verdict < Verdict::Proven);
        for group in unproven.take(MAX_GROUPS) {
            let Some(awaited) = &group.awaited else { continue };
            group.kept_by = self.way(awaited.object.addr);
            if let Some(way) = &group.kept_by {
                // Behind the sentence that says whether anything leads to it.
                let at = group.evidence.len().min(1);
                group.evidence.insert(at, format!("kept alive by {way}"));
            }
        }
    }

    fn way(&self, addr: u64) -> Option<String> {
        let ways = self.objects.ways(addr, 1).ok()?;
        ways.first().map(ToString::to_string)
    }
}
