//! Observations made by hand.

use crate::goruntime::WaitReason;
use crate::{
    detect::{Lookup, Report, Rules, Scope, Thresholds, detect},
    goruntime::State,
    heap::{Facts, Look, Observed},
    snapshot::{Goroutine, Object, ObjectKind, Pc, Snapshot, StackId, Trust, Wait, Wants},
};
use std::{
    sync::{Arc, OnceLock},
    time::Duration,
};

pub(super) const SECOND: u64 = 1_000_000_000;
pub(super) const NOW: u64 = 10_000 * SECOND;
/// How many looks each observation has.
pub(super) const LOOKS: u32 = 5;

/// A program as it was observed. Address n is the function with number n.
#[derive(Default)]
pub(super) struct World {
    pub(super) observed: Observed,
    names: Vec<Arc<str>>,
    reasons: Vec<String>,
    next_goid: u64,
}

impl World {
    /// With a proof of four passes.
    pub(super) fn new() -> World {
        let snapshot = Snapshot { taken_ns: (NOW, NOW), ..Snapshot::default() };
        let observed = Observed { passes: 4, snapshot, ..Observed::default() };
        World { observed, reasons: vec![String::new()], next_goid: 2, ..World::default() }
    }

    fn address(&mut self, name: &str) -> u64 {
        let known = self.names.iter().position(|known| &**known == name);
        let index = known.unwrap_or_else(|| {
            self.names.push(name.into());
            self.names.len() - 1
        });
        index as u64 + 1
    }

    /// `count` goroutines that wait for this reason (empty: they are in a system call) with this stack, innermost
    /// function first; made by goroutine 1 in main.main, ten seconds old, seen by every look and moved in none. `change`
    /// gets the number of each.
    pub(super) fn add(
        &mut self,
        count: u64,
        reason: &str,
        stack: &[&str],
        mut change: impl FnMut(u64, &mut Goroutine, &mut Facts),
    ) -> &mut World {
        let pcs: Vec<Pc> = stack.iter().map(|name| Pc::exact(self.address(name))).collect();
        let stack = self.observed.snapshot.stacks.intern(&pcs).unwrap();
        let known = self.reasons.iter().position(|known| known == reason);
        let reason = known.unwrap_or_else(|| {
            self.reasons.push(reason.to_owned());
            self.reasons.len() - 1
        });
        let gopc = self.address("main.main");
        for number in 0..count {
            let goid = self.next_goid;
            self.next_goid += 1;
            let state = if reason == 0 { State::Syscall } else { State::Waiting };
            let mut goroutine = Goroutine { goid, reason: reason as u8, stack, state, gopc, ..goroutine() };
            let mut facts = Facts { looks: LOOKS, since_ns: NOW - SECOND, ..Facts::default() };
            change(number, &mut goroutine, &mut facts);
            let index = self.observed.snapshot.goroutines.len() as u32;
            for wait in &goroutine.waits {
                self.observed.snapshot.objects[wait.object as usize].waiters.push(index);
            }
            self.observed.snapshot.goroutines.push(goroutine);
            self.observed.facts.push(facts);
        }
        self
    }

    /// An object to wait for.
    pub(super) fn object(&mut self, kind: ObjectKind) -> u32 {
        let objects = &mut self.observed.snapshot.objects;
        objects.push(Object { addr: 0xc000_1000 + objects.len() as u64 * 0x60, kind, waiters: Vec::new() });
        objects.len() as u32 - 1
    }

    /// A function that made goroutines.
    pub(super) fn creator(&mut self, name: &str) -> u64 {
        self.address(name)
    }

    /// Looks, half a second apart, at which main.main had made so many.
    pub(super) fn looks(&mut self, counts: &[u64]) -> &mut World {
        let site = (self.address("main.main"), 0);
        let look = |(number, count): (u64, &u64)| Look {
            at_ns: NOW - 10 * SECOND + number * SECOND / 2,
            counts: [(site, *count)].into(),
            after_gap: false,
        };
        self.observed.looks = (0..).zip(counts).map(look).collect();
        self
    }

    pub(super) fn detect(&mut self) -> Report {
        self.detect_with(&Scope::default(), 300 * SECOND)
    }

    pub(super) fn detect_with(&mut self, scope: &Scope, min_age_ns: u64) -> Report {
        let thresholds = Thresholds { min_age: Duration::from_nanos(min_age_ns), min_count: 3 };
        static RULES: OnceLock<Rules> = OnceLock::new();
        let rules = RULES.get_or_init(|| Rules::built_in().unwrap());
        let mut names = Names { names: &self.names, reasons: &self.reasons };
        detect(&self.observed, rules, scope, &thresholds, &mut names)
    }

    /// Verdict, rule and number of each group.
    pub(super) fn found(&mut self) -> Vec<(&'static str, String, u64)> {
        self.found_younger(300)
    }

    /// With `--min-age` of so many seconds.
    pub(super) fn found_younger(&mut self, seconds: u64) -> Vec<(&'static str, String, u64)> {
        let report = self.detect_with(&Scope::default(), seconds * SECOND);
        report.groups.iter().map(|group| (group.verdict.word(), group.rule.id.clone(), group.count)).collect()
    }
}

fn goroutine() -> Goroutine {
    Goroutine {
        goid: 0,
        g: 0,
        state: State::Waiting,
        scan: false,
        trust: Trust::Still,
        reason: 0,
        waiting_since_ns: NOW - 10 * SECOND,
        parent_goid: 1,
        gopc: 0,
        startpc: 0,
        tid: 0,
        stamp: 0,
        resume_pc: 0,
        stack_bounds: (0, 0),
        waits_known: true,
        locked: false,
        system: false,
        labels: 0,
        stack: StackId::default(),
        args: (0, 0),
        waits: Vec::new(),
    }
}

struct Names<'a> {
    names: &'a [Arc<str>],
    reasons: &'a [String],
}

impl Names<'_> {
    fn name(&self, addr: u64) -> Option<Arc<str>> {
        self.names.get((addr as usize).checked_sub(1)?).cloned()
    }
}

impl Lookup for Names<'_> {
    fn functions(&mut self, stack: &[Pc]) -> Vec<Arc<str>> {
        stack.iter().filter_map(|pc| self.name(pc.addr())).collect()
    }

    fn wait_site(&mut self, stack: &[Pc]) -> Option<(Arc<str>, u32)> {
        let functions = self.functions(stack);
        functions.into_iter().find(|name| name.starts_with("main.")).map(|name| (name, 10))
    }

    fn creator(&mut self, goroutine: &Goroutine) -> Option<Arc<str>> {
        if goroutine.goid == 1 { None } else { self.name(goroutine.gopc) }
    }

    fn function(&mut self, addr: u64) -> Option<Arc<str>> {
        self.name(addr)
    }

    fn reason(&self, goroutine: &Goroutine) -> &str {
        if goroutine.state.waits() { &self.reasons[usize::from(goroutine.reason)] } else { "" }
    }

    fn wait_reason(&self, goroutine: &Goroutine) -> WaitReason {
        WaitReason::parse(self.reason(goroutine))
    }
}

/// A wait for an object.
pub(super) fn waits(object: u32, wants: Wants) -> Vec<Wait> {
    vec![Wait { object, wants }]
}

pub(super) fn channel() -> ObjectKind {
    ObjectKind::Channel {
        len: 0,
        cap: 0,
        closed: false,
        timer: false,
        element_size: 8,
        receivers: 1,
        senders: 0,
    }
}

/// The channel of a timer.
pub(super) fn timer() -> ObjectKind {
    ObjectKind::Channel {
        len: 0,
        cap: 1,
        closed: false,
        timer: true,
        element_size: 24,
        receivers: 1,
        senders: 0,
    }
}
