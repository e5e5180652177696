//! One target as the core sees it: its results, its costs, and when the next scan and the next look at its heap are
//! due.

use super::{
    detail::{Cause, Detail, Wish},
    probes::Probes,
};
use crate::agent::{
    Config,
    config::{Plan, Raise},
    picture::{Identity, Memory, NameFrom, ProcessPicture, Runtime, Scan, SiteGrowth},
    watch::{Failure, TargetSpec, scan::Told},
};
use sfgi_core::{event::Mode, leaks::LeakView};
use std::{
    sync::Arc,
    time::{Duration, Instant},
};

/// Scan intervals between two looks at the heap: `LOOK_PAUSE` where something is suspicious, `LOOK_AT_LEAST` otherwise.
const LOOK_PAUSE: u32 = 4;
const LOOK_AT_LEAST: u32 = 20;
/// Scan intervals until a target that could not be read is tried again.
const RETRY: u32 = 4;
/// The pause until the next try doubles this often.
const MAX_DOUBLINGS: u32 = 5;
/// CPU seconds that a scan and a look at the heap are assumed to cost until the first one was measured.
const SCAN_COST: f64 = 0.005;
const LOOK_COST: f64 = 0.05;

/// A task for the pool: read all goroutines (`Scan`), or those and the heap (`Look`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Work {
    Scan,
    Look,
}

/// A target, as the core sees it.
pub(super) struct TargetState {
    pub(super) target: Arc<TargetSpec>,
    /// The target's identity; a rule may have replaced the name of the service.
    pub(super) identity: Arc<Identity>,
    plan: Plan,
    /// A mode that somebody set by hand; it overrides the plan and every wish.
    asked_mode: Option<Mode>,
    /// Whether the target is raised to a closer mode for a while, and the wishes of the last scan and of an alert for
    /// that.
    detail: Detail,
    wish: Option<Wish>,
    alert: Option<Wish>,
    /// Shared with the thread that scans: locked only on it, for the length of a scan, so the core must not lock it.
    /// The reader that scanned it last, and so knows its past.
    pub(super) reader: Option<u32>,
    /// It was never read to the end, or was not the last time.
    pub(super) unproven: bool,
    /// Bytes that a reader may take for it; 0: the usual share.
    pub(super) limit: u64,
    /// Failures in a row: the pause until the next try doubles with each.
    failures: u32,
    /// The task of this target that the pool has now: at most one.
    pub(super) running: Option<Work>,
    /// Somebody asked for a look at the heap; it comes before everything else.
    pub(super) triggered: bool,
    scan_due: Instant,
    look_due: Option<Instant>,
    last_scan: Option<Instant>,
    last_look: Option<Instant>,
    /// The pause between the ends of the last two scans or looks.
    pub(super) achieved: Option<Duration>,
    costs: Costs,
    scan: Option<Arc<Scan>>,
    leaks: Arc<[LeakView]>,
    leaks_unix_ns: u64,
    leaks_aged_ns: u64,
    leaks_followed_ns: u64,
    leaks_doubt: Option<Arc<str>>,
    pool_objects: Option<u64>,
    runtime: Runtime,
    growth: Vec<SiteGrowth>,
    memory: Memory,
    scans: u64,
    scan_cpu_seconds: f64,
    error: Option<Arc<str>>,
    kept: Option<Arc<[u8]>>,
    pub(super) probes: Probes,
    /// The last picture, while nothing has changed since: an idle target costs nothing to publish.
    picture: Option<Arc<ProcessPicture>>,
}

/// Moving averages of what a scan and a look cost, CPU seconds.
#[derive(Clone, Copy, Debug)]
struct Costs {
    scan: f64,
    look: f64,
}

impl TargetState {
    /// A target that was just found. Its first scan is due after `first`; `kept` is what an earlier agent knew of it.
    pub(super) fn new(
        target: Arc<TargetSpec>,
        plan: Plan,
        first: Duration,
        kept: Option<Arc<[u8]>>,
    ) -> TargetState {
        TargetState {
            identity: named(&target.identity, &plan),
            target,
            plan,
            asked_mode: None,
            detail: Detail::default(),
            wish: None,
            alert: None,
            reader: None,
            unproven: true,
            limit: 0,
            failures: 0,
            running: None,
            triggered: false,
            scan_due: Instant::now() + first,
            look_due: None,
            last_scan: None,
            last_look: None,
            achieved: None,
            costs: Costs { scan: SCAN_COST, look: LOOK_COST },
            scan: None,
            leaks: Arc::default(),
            leaks_unix_ns: 0,
            leaks_aged_ns: 0,
            leaks_followed_ns: 0,
            leaks_doubt: None,
            growth: Vec::new(),
            memory: Memory::default(),
            runtime: Runtime::default(),
            pool_objects: None,
            scans: 0,
            scan_cpu_seconds: 0.0,
            error: None,
            kept,
            probes: Probes::default(),
            picture: None,
        }
    }

    /// Whether its first scan has neither succeeded nor failed yet.
    pub(super) fn waits_for_first(&self) -> bool {
        self.scan.is_none() && self.error.is_none()
    }

    /// Sets the wanted mode by hand; `None` returns to that of the plan.
    pub(super) fn ask_mode(&mut self, mode: Option<Mode>) {
        (self.asked_mode, self.picture) = (mode, None);
    }

    /// Notes that an alert wants a closer mode. The wish counts for the next step only.
    pub(super) fn ask_detail(&mut self, why: &str) {
        self.alert = Some(Wish { cause: Cause::Alert, mode: Mode::Wait, why: why.into() });
    }

    /// Raises or lowers it for what was found: see [`Detail::step`].
    pub(super) fn raise(&mut self, at: f64, raise: &Raise) -> Option<(Option<Cause>, Arc<str>)> {
        let (alert, raise) = (self.alert.take(), &Raise { on_finding: self.plan.raise, ..*raise });
        // `Full` is above every wish: a mode that was set by hand stays as it is, be it `Poll`.
        let base = self.asked_mode.map_or(self.plan.mode, |_| Mode::Full);
        let changed =
            self.detail.step(at, alert.as_ref().or(self.wish.as_ref()), (base, self.probes.mode()), raise);
        if changed.is_some() {
            self.changed();
        }
        changed
    }

    /// The mode that it should be in: the one set by hand, or else the closer one of plan and raise.
    pub(super) fn wanted(&self) -> Mode {
        self.asked_mode.unwrap_or(self.plan.mode.max(self.detail.mode()))
    }

    /// Why its mode is what it is, for people.
    fn mode_reason(&self) -> Arc<str> {
        let (of_probes, of_detail) = (self.probes.reason(), self.detail.said());
        if of_probes.is_empty() {
            of_detail
        } else if self.detail.mode() == Mode::Poll {
            of_probes
        } else {
            format!("{of_detail}; {of_probes}").into()
        }
    }

    /// The task that is due and how late it is, in intervals of that task; infinite if somebody asked for it. `None`:
    /// nothing is due, or the pool has a task of this target already.
    pub(super) fn due(&self, now: Instant) -> Option<(Work, f64)> {
        if self.running.is_some() {
            return None;
        }
        if self.triggered {
            return Some((Work::Look, f64::INFINITY));
        }
        let interval = self.plan.interval.as_secs_f64().max(0.1);
        let late = |due: Instant, interval: f64| {
            now.checked_duration_since(due).map(|late| late.as_secs_f64() / interval)
        };
        // A look costs as much as many scans. Its lateness is measured in its own, longer interval, so that scans are
        // not held up by looks.
        let look = self.look_due.and_then(|due| late(due, interval * f64::from(LOOK_AT_LEAST)));
        let scan = late(self.scan_due, interval);
        match (look, scan) {
            (Some(look), scan) if scan.is_none_or(|scan| look >= scan) => Some((Work::Look, look)),
            (_, scan) => scan.map(|scan| (Work::Scan, scan)),
        }
    }

    /// Whether a scan is overdue: it waits for a thread or for the budget.
    pub(super) fn waits(&self, now: Instant) -> bool {
        self.running.is_none() && now >= self.scan_due
    }

    /// What this task will probably cost, CPU seconds.
    pub(super) fn estimate(&self, work: Work) -> f64 {
        match work {
            Work::Scan => self.costs.scan,
            Work::Look => self.costs.look,
        }
    }

    /// Whether a quarter of so many cores, since the last scan, pays for a scan: the rest is for looks, for what the agent
    /// needs itself, and for those that nobody has scanned yet. `first`: what the first scan of a program costs, CPU
    /// seconds.
    pub(super) fn has_saved(&self, cores: f64, first: f64, now: Instant) -> bool {
        let since = self.last_scan.unwrap_or(self.scan_due);
        let cost = if self.is_new() { self.costs.scan.max(first) } else { self.costs.scan };
        now.saturating_duration_since(since).as_secs_f64() * cores / 4.0 > cost
    }

    /// Whether nobody has scanned it yet.
    pub(super) fn is_new(&self) -> bool {
        self.scans == 0
    }

    /// Times in a row that it could not be read.
    pub(super) fn failures(&self) -> u32 {
        self.failures
    }

    /// What another reader, or another agent, should know of its past.
    pub(super) fn kept(&self) -> Option<Arc<[u8]>> {
        self.kept.clone()
    }

    /// Takes in the result of a task, and sets when the next ones are due. `most`: bytes that a reader can have at most.
    pub(super) fn told(
        &mut self,
        work: Work,
        result: Result<Box<Told>, Failure>,
        config: &Config,
        most: u64,
    ) {
        self.running = None;
        self.picture = None;
        let now = Instant::now();
        let told = match result {
            Ok(told) => told,
            Err(Failure::Exhausted { limit }) if limit < most => {
                // At once, with more.
                self.limit = limit.saturating_mul(2).min(most);
                self.scan_due = now;
                return;
            }
            Err(error) => {
                self.error = Some(error.to_string().into());
                self.triggered = false;
                self.unproven = true;
                let times = RETRY << self.failures.min(MAX_DOUBLINGS);
                self.failures += 1;
                self.scan_due = now + self.plan.interval * times;
                self.look_due = None;
                return;
            }
        };
        (self.error, self.unproven, self.failures) = (None, false, 0);
        let cost = told.scan.cpu_seconds;
        let known = match work {
            Work::Scan => &mut self.costs.scan,
            Work::Look => &mut self.costs.look,
        };
        // The first measurement replaces the assumption; later ones move the average by 30 %.
        *known = if self.scans == 0 { cost } else { 0.7 * *known + 0.3 * cost };
        self.scans += 1;
        self.scan_cpu_seconds += cost;
        self.achieved = self.last_scan.replace(now).map(|last| now - last);
        // A target whose scans cost more than its share of the budget is scanned less often: cost / pause = share.
        let share = config.budget.process().max(1e-4);
        let pause = |least: Duration, cost: f64| {
            least.max(Duration::try_from_secs_f64(cost / share).unwrap_or(least))
        };
        self.scan_due = now + pause(self.plan.interval, self.costs.scan);
        // Twice the cost: looks get half of the share.
        let look_pause = pause(self.plan.interval * LOOK_PAUSE, 2.0 * self.costs.look);
        if let Some(followed_ns) = told.still_ns {
            self.leaks_aged_ns = told.scan.unix_ns.saturating_sub(self.leaks_unix_ns);
            self.leaks_followed_ns = followed_ns;
        }
        if let Some(leaks) = told.leaks {
            self.triggered = false;
            self.last_look = Some(now);
            self.look_due = Some(now + look_pause.max(self.plan.interval * LOOK_AT_LEAST));
            self.leaks = leaks.groups.into();
            (self.leaks_unix_ns, self.leaks_aged_ns) = (told.scan.unix_ns, 0);
            self.leaks_doubt = leaks.doubt.map(Into::into);
            self.pool_objects = leaks.pool_objects;
        } else if told.suspicious || !told.growth.is_empty() {
            let earliest = self.last_look.map_or(now, |last| last + look_pause);
            self.look_due = Some(self.look_due.map_or(earliest, |due| due.min(earliest)));
        // After the first scan, and after an error: the first look comes soon, not only after `LOOK_AT_LEAST`
        // intervals.
        } else if self.look_due.is_none() {
            self.look_due = Some(now + look_pause);
        }
        (self.growth, self.memory, self.runtime) = (told.growth, told.memory, told.runtime);
        // Only every fourth scan packs what is to be kept.
        self.kept = told.kept.or(self.kept.take());
        self.wish = Wish::of(&self.growth, &self.leaks);
        self.scan = Some(Arc::new(told.scan));
    }

    /// Drops the last picture, so that the next one is made anew.
    pub(super) fn changed(&mut self) {
        self.picture = None;
    }

    /// Whether it could never be read so far.
    pub(super) fn unsupported(&self) -> bool {
        self.error.is_some() && self.scan.is_none()
    }

    /// Its part of the picture, with tables of `top` rows.
    pub(super) fn picture(&mut self, top: usize) -> Arc<ProcessPicture> {
        // Rates of probes change all the time.
        if self.probes.is_active() {
            self.changed();
        }
        if let Some(picture) = &self.picture {
            return Arc::clone(picture);
        }
        let wanted = self.wanted();
        let picture = Arc::new(ProcessPicture {
            id: self.target.id,
            identity: Arc::clone(&self.identity),
            mode: self.probes.mode(),
            wanted,
            mode_reason: self.mode_reason(),
            scan: self.scan.clone(),
            leaks: Arc::clone(&self.leaks),
            leaks_unix_ns: self.leaks_unix_ns,
            leaks_aged_ns: self.leaks_aged_ns,
            leaks_followed_ns: self.leaks_followed_ns,
            leaks_doubt: self.leaks_doubt.clone(),
            growth: self.growth.clone(),
            memory: self.memory,
            runtime: self.runtime,
            pool_objects: self.pool_objects,
            events: self.probes.events(top).map(Arc::new),
            scans: self.scans,
            scan_cpu_seconds: self.scan_cpu_seconds,
            error: self.error.clone(),
            kept: self.kept.clone(),
        });
        self.picture = Some(Arc::clone(&picture));
        picture
    }

    /// Continues with another plan.
    pub(super) fn replan(&mut self, plan: Plan) {
        let now = Instant::now();
        // A shorter interval holds at once; a longer one after the scan that is due already.
        self.scan_due = self.scan_due.min(now + plan.interval);
        self.identity = named(&self.target.identity, &plan);
        (self.plan, self.picture) = (plan, None);
    }
}

fn named(identity: &Arc<Identity>, plan: &Plan) -> Arc<Identity> {
    match &plan.service {
        Some(service) => Arc::new(Identity {
            service: service.to_string(),
            service_from: NameFrom::Rule,
            ..(**identity).clone()
        }),
        None => Arc::clone(identity),
    }
}
