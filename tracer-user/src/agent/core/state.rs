//! One target: what is known of it, and what is to be done next.

use super::{
    detail::{Cause, Detail, Wish},
    probes::Probes,
};
use crate::agent::{
    Config,
    config::{Plan, Raise},
    picture::{Identity, Memory, ProcessPicture, Scan, SiteGrowth},
    watch::{
        Target, TargetError,
        scan::{Past, Told},
    },
};
use sfgi_core::{event::Mode, leaks::LeakView};
use std::{
    sync::{Arc, Mutex},
    time::{Duration, Instant},
};

/// Intervals between two looks at the heap: the fewest, where something is suspicious, and the most.
const LOOK_PAUSE: u32 = 4;
const LOOK_AT_LEAST: u32 = 20;
/// Intervals after which a target that could not be read is tried again.
const RETRY: u32 = 4;
/// CPU seconds that a scan and a look at the heap are taken to cost before the first was measured.
const SCAN_COST: f64 = 0.005;
const LOOK_COST: f64 = 0.05;

/// What to do with a target.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Work {
    Scan,
    Look,
}

/// A target, as the core sees it.
pub(super) struct TargetState {
    pub(super) target: Arc<Target>,
    /// The target's, with the name that a rule gives its service.
    pub(super) identity: Arc<Identity>,
    plan: Plan,
    /// Asked for in place of the plan's.
    asked_mode: Option<Mode>,
    /// Whether it is raised to a closer mode for a while; what the last scan wishes for, and an alert.
    detail: Detail,
    wish: Option<Wish>,
    alert: Option<Wish>,
    pub(super) past: Arc<Mutex<Past>>,
    /// A thread scans it, or looks at its heap.
    pub(super) running: Option<Work>,
    /// A look at the heap was asked for.
    pub(super) triggered: bool,
    scan_due: Instant,
    look_due: Option<Instant>,
    last_scan: Option<Instant>,
    last_look: Option<Instant>,
    /// Between the last two scans.
    pub(super) achieved: Option<Duration>,
    costs: Costs,
    scan: Option<Arc<Scan>>,
    leaks: Arc<[LeakView]>,
    leaks_unix_ns: u64,
    leaks_doubt: Option<Arc<str>>,
    growth: Vec<SiteGrowth>,
    memory: Memory,
    scans: u64,
    scan_cpu_seconds: f64,
    error: Option<Arc<str>>,
    kept: Option<Arc<[u8]>>,
    pub(super) probes: Probes,
    /// The last picture of it, as long as nothing has changed since.
    picture: Option<Arc<ProcessPicture>>,
}

/// What looks have cost of late, CPU seconds.
#[derive(Clone, Copy, Debug)]
struct Costs {
    scan: f64,
    look: f64,
}

impl TargetState {
    /// One that has just come; its first scan is due after `first`. `kept` is what an earlier agent knew of it.
    pub(super) fn new(
        target: Arc<Target>,
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
            past: Arc::new(Mutex::new(Past::remembering(kept))),
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
            leaks_doubt: None,
            growth: Vec::new(),
            memory: Memory::default(),
            scans: 0,
            scan_cpu_seconds: 0.0,
            error: None,
            kept: None,
            probes: Probes::default(),
            picture: None,
        }
    }

    /// Whether nothing was read of it yet.
    pub(super) fn waits_for_first(&self) -> bool {
        self.scan.is_none() && self.error.is_none()
    }

    /// Sets the mode that is wanted; `None`: the plan's.
    pub(super) fn ask_mode(&mut self, mode: Option<Mode>) {
        (self.asked_mode, self.picture) = (mode, None);
    }

    /// An alert wants more detail, if that is to be had now.
    pub(super) fn ask_detail(&mut self, why: &str) {
        self.alert = Some(Wish { cause: Cause::Alert, mode: Mode::Wait, why: why.into() });
    }

    /// Whether it is raised or lowered for what was found: see [`Detail::step`].
    pub(super) fn raise(&mut self, at: f64, raise: &Raise) -> Option<(Option<Cause>, Arc<str>)> {
        let (alert, raise) = (self.alert.take(), &Raise { on_finding: self.plan.raise, ..*raise });
        let base = self.asked_mode.map_or(self.plan.mode, |_| Mode::Full);
        let changed =
            self.detail.step(at, alert.as_ref().or(self.wish.as_ref()), (base, self.probes.mode()), raise);
        if changed.is_some() {
            self.changed();
        }
        changed
    }

    /// The mode that it should be in.
    pub(super) fn wanted(&self) -> Mode {
        self.asked_mode.unwrap_or(self.plan.mode.max(self.detail.mode()))
    }

    /// Why it is in the mode that it is in.
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

    /// What is due, and how late it is, in intervals.
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
        // A look at the heap costs as much as many scans, and must not hold them up.
        let look = self.look_due.and_then(|due| late(due, interval * f64::from(LOOK_AT_LEAST)));
        let scan = late(self.scan_due, interval);
        match (look, scan) {
            (Some(look), scan) if scan.is_none_or(|scan| look >= scan) => Some((Work::Look, look)),
            (_, scan) => scan.map(|scan| (Work::Scan, scan)),
        }
    }

    /// Whether a scan should have begun by now.
    pub(super) fn waits(&self, now: Instant) -> bool {
        self.running.is_none() && now >= self.scan_due
    }

    /// What this would cost, CPU seconds.
    pub(super) fn estimate(&self, work: Work) -> f64 {
        match work {
            Work::Scan => self.costs.scan,
            Work::Look => self.costs.look,
        }
    }

    /// Takes in what was found.
    pub(super) fn told(&mut self, work: Work, result: Result<Box<Told>, TargetError>, config: &Config) {
        self.running = None;
        self.picture = None;
        let now = Instant::now();
        let told = match result {
            Ok(told) => told,
            Err(error) => {
                self.error = Some(error.to_string().into());
                self.triggered = false;
                self.scan_due = now + self.plan.interval * RETRY;
                self.look_due = None;
                return;
            }
        };
        self.error = None;
        let cost = told.scan.cpu_seconds;
        let known = match work {
            Work::Scan => &mut self.costs.scan,
            Work::Look => &mut self.costs.look,
        };
        *known = if self.scans == 0 { cost } else { 0.7 * *known + 0.3 * cost };
        self.scans += 1;
        self.scan_cpu_seconds += cost;
        self.achieved = self.last_scan.replace(now).map(|last| now - last);
        // A target whose scans cost more than its share of the budget is scanned less often.
        let share = config.budget.process().max(1e-4);
        let pause = |least: Duration, cost: f64| {
            least.max(Duration::try_from_secs_f64(cost / share).unwrap_or(least))
        };
        self.scan_due = now + pause(self.plan.interval, self.costs.scan);
        let look_pause = pause(self.plan.interval * LOOK_PAUSE, 2.0 * self.costs.look);
        if let Some(leaks) = told.leaks {
            self.triggered = false;
            self.last_look = Some(now);
            self.look_due = Some(now + look_pause.max(self.plan.interval * LOOK_AT_LEAST));
            self.leaks = leaks.groups.into();
            self.leaks_unix_ns = told.scan.unix_ns;
            self.leaks_doubt = leaks.doubt.map(Into::into);
        } else if told.suspicious || !told.growth.is_empty() {
            let earliest = self.last_look.map_or(now, |last| last + look_pause);
            self.look_due = Some(self.look_due.map_or(earliest, |due| due.min(earliest)));
        } else if self.look_due.is_none() {
            self.look_due = Some(now + look_pause);
        }
        (self.growth, self.memory) = (told.growth, told.memory);
        self.kept = told.kept.or(self.kept.take());
        self.wish = Wish::of(&self.growth, &self.leaks);
        self.scan = Some(Arc::new(told.scan));
    }

    /// The last picture of it holds no more.
    pub(super) fn changed(&mut self) {
        self.picture = None;
    }

    /// Whether it was never read, and will not be.
    pub(super) fn unsupported(&self) -> bool {
        self.error.is_some() && self.scan.is_none()
    }

    /// What is published of it.
    pub(super) fn picture(&mut self, top: usize) -> Arc<ProcessPicture> {
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
            leaks_doubt: self.leaks_doubt.clone(),
            growth: self.growth.clone(),
            memory: self.memory,
            events: self.probes.events(top).map(Arc::new),
            scans: self.scans,
            scan_cpu_seconds: self.scan_cpu_seconds,
            error: self.error.clone(),
            kept: self.kept.clone(),
        });
        self.picture = Some(Arc::clone(&picture));
        picture
    }

    /// Goes on by another plan.
    pub(super) fn replan(&mut self, plan: Plan) {
        let now = Instant::now();
        self.scan_due = self.scan_due.min(now + plan.interval);
        self.identity = named(&self.target.identity, &plan);
        (self.plan, self.picture) = (plan, None);
    }
}

/// The identity with the name that a rule gives.
fn named(identity: &Arc<Identity>, plan: &Plan) -> Arc<Identity> {
    match &plan.service {
        Some(service) => Arc::new(Identity { service: service.to_string(), ..(**identity).clone() }),
        None => Arc::clone(identity),
    }
}
