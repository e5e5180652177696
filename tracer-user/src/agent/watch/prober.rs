//! One target under probes: a thread that attaches, listens, and says what that costs; and what the events come to, in numbers
//! that only rise and are kept from session to session.

use super::{
    attach::{self, Attached, Ceiling, Refused},
    budget,
    scan::{nowhere, table},
    target::Target,
};
use crate::{
    agent::picture::{Distribution, Events},
    live::{Engine, Observers},
    probe::{Calibration, Cost, Programs},
};
use sfgi_core::{
    clock,
    event::Mode,
    model::{Measure, What, Whats},
    names::Site,
    session::{self, End, Observer, Round},
};
use std::{
    collections::HashMap,
    io,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    thread,
    time::Duration,
};

/// How often the rings are read.
const EVERY: Duration = Duration::from_millis(50);

/// What the thread has to say.
#[derive(Clone, Debug)]
pub(crate) enum News {
    /// Probes stand; why they are not for what was wanted, if they are not.
    Attached { mode: Mode, reason: String },
    /// No probes stand: all were too dear.
    TooDear(String),
    /// What they cost.
    Cost(Spent),
    /// It is over, and no probe is left; why, if it went wrong.
    Ended(Option<String>),
}

/// What a session of probes costs.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(crate) struct Spent {
    /// Since the last time: seconds, and hits a second.
    pub(crate) seconds: f64,
    pub(crate) hits_per_second: f64,
    /// In all the session.
    pub(crate) hits: u64,
    pub(crate) lost: u64,
    /// What a hit costs, nanoseconds.
    pub(crate) hit_ns: f64,
    /// What they cost the program, and us, since the last time: cores.
    pub(crate) program_cores: f64,
    pub(crate) own_cores: f64,
    /// What the BPF programs ran, cores; `None`: the kernel does not count.
    pub(crate) bpf_cores: Option<f64>,
}

type Tell = Arc<dyn Fn(News) + Send + Sync>;

/// The thread. When this is dropped, the probes are removed soon.
pub(crate) struct Prober {
    stop: Arc<AtomicBool>,
}

impl Drop for Prober {
    fn drop(&mut self) {
        self.stop();
    }
}

impl Prober {
    /// `tell` is called on the thread.
    pub(crate) fn start(
        target: Arc<Target>,
        wanted: Mode,
        ceiling: Ceiling,
        figures: Figures,
        tell: impl Fn(News) + Send + Sync + 'static,
    ) -> io::Result<Prober> {
        let stop = Arc::new(AtomicBool::new(false));
        let flag = Arc::clone(&stop);
        thread::Builder::new().name("probe".to_owned()).spawn(move || {
            let tell: Tell = Arc::new(tell);
            let error = run(&target, wanted, ceiling, &figures, &flag, &tell);
            tell(News::Ended(error));
        })?;
        Ok(Prober { stop })
    }

    /// Removes the probes soon; [`News::Ended`] says when that is done.
    pub(crate) fn stop(&self) {
        self.stop.store(true, Ordering::Relaxed);
    }
}

/// Returns the error that ended it.
fn run(
    target: &Target,
    wanted: Mode,
    ceiling: Ceiling,
    figures: &Figures,
    stop: &AtomicBool,
    tell: &Tell,
) -> Option<String> {
    // `_counting` is declared first, so it is dropped last: the kernel counts until the probes are gone.
    let Attached { counting: _counting, mode, live, state, reason } =
        match attach::attach(target, wanted, Mode::Life, ceiling, false) {
            Ok(attached) => attached,
            Err(Refused::TooDear(reason)) => {
                tell(News::TooDear(reason));
                return None;
            }
            Err(refused) => return Some(refused.to_string()),
        };
    tell(News::Attached { mode, reason });
    let calibration = attach::calibration().ok()?;
    let mut gauge = Gauge { last: Cost::default(), own_ns: clock::thread_cpu(), factor: 1.0 };
    let observers: Observers = vec![Box::new(figures.listener())];
    let meter_tell = Arc::clone(tell);
    let engine =
        Engine::new(vec![(live, state)], observers, calibration, EVERY).quiet().metered(move |costs| {
            if let Some(spent) = costs.first().and_then(|cost| gauge.read(*cost, &calibration)) {
                meter_tell(News::Cost(spent));
            }
        });
    engine.run(stop).err().map(|err| format!("its probes cannot be read: {err:#}"))
}

/// Makes rates of totals.
struct Gauge {
    last: Cost,
    own_ns: u64,
    /// By how much hits are dearer than they were measured to be.
    factor: f64,
}

impl Gauge {
    /// On the thread that listens. `None` at the first reading.
    fn read(&mut self, cost: Cost, calibration: &Calibration) -> Option<Spent> {
        let last = std::mem::replace(&mut self.last, cost);
        let own_ns = clock::thread_cpu();
        let own = own_ns.saturating_sub(std::mem::replace(&mut self.own_ns, own_ns)) as f64;
        if last.ts == 0 {
            return None;
        }
        if let Some(factor) = budget::correction(calibration, last.programs, cost.programs) {
            // Half of what is new: one reading may have been disturbed.
            self.factor = 0.5 * self.factor + 0.5 * factor;
        }
        let passed = cost.ts.saturating_sub(last.ts).max(1) as f64;
        let hits = cost.hits.saturating_sub(last.hits);
        let ns = (cost.ns - last.ns).max(0.0) * self.factor;
        let ran = |then: Option<Programs>, now: Option<Programs>| {
            let then = then.unwrap_or_default();
            Some(now?.ns.saturating_sub(then.ns) as f64 / passed)
        };
        Some(Spent {
            seconds: passed / 1e9,
            hits_per_second: hits as f64 * 1e9 / passed,
            hits: cost.hits,
            lost: cost.lost,
            hit_ns: if hits == 0 { calibration.emulated_ns * self.factor } else { ns / hits as f64 },
            program_cores: ns / passed,
            own_cores: own / passed,
            bpf_cores: ran(last.programs, cost.programs),
        })
    }
}

/// Places that are kept apart; what comes from others is counted together.
const MAX_SITES: usize = 1024;
/// Wait reasons; the runtime has about forty.
const MAX_REASONS: usize = 64;

/// All that the events of a target came to so far. Shared with the thread that listens.
#[derive(Clone, Debug, Default)]
pub(crate) struct Figures(Arc<Mutex<Sums>>);

#[derive(Debug, Default)]
struct Sums {
    created: HashMap<Site, u64>,
    exited: HashMap<Site, u64>,
    blocked: HashMap<Arc<str>, Distribution>,
    run_queue: Distribution,
    illegal: u64,
}

impl Figures {
    /// An observer that adds to them.
    fn listener(&self) -> Listener {
        Listener { figures: self.clone(), births: HashMap::new() }
    }

    /// Puts them into a picture, with tables of so many rows.
    pub(crate) fn show(&self, events: &mut Events, top: usize) {
        let sums = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let rows = |sites: &HashMap<Site, u64>| {
            table(sites.iter().map(|(site, count)| (site.clone(), *count)).collect(), top)
        };
        events.created = rows(&sums.created);
        events.exited = rows(&sums.exited);
        events.blocked =
            sums.blocked.iter().map(|(reason, times)| (Arc::clone(reason), times.clone())).collect();
        events.blocked.sort_by(|one, other| one.0.cmp(&other.0));
        events.run_queue = sums.run_queue.clone();
        events.illegal = sums.illegal;
    }
}

/// See [`Figures::listener`].
struct Listener {
    figures: Figures,
    /// Return address of a `go` statement → its place, in this session.
    births: HashMap<u64, Site>,
}

impl Observer for Listener {
    fn wants(&self) -> Whats {
        Whats::from_iter([What::Create, What::Exit, What::Unblock, What::Start, What::Illegal])
    }

    fn round(&mut self, targets: &mut [session::Target], round: &Round) -> io::Result<()> {
        let figures = self.figures.clone();
        let mut sums = figures.0.lock().unwrap_or_else(PoisonError::into_inner);
        for (index, step) in round.steps() {
            let Some(target) = targets.get_mut(index) else { continue };
            let exact = step.duration_ns.filter(|_| step.measure == Measure::Exact);
            match step.what {
                What::Create | What::Exit => {
                    let gopc = step.birth.map_or(0, |birth| birth.gopc);
                    let site = self.site(target, gopc);
                    let sums = if step.what == What::Create { &mut sums.created } else { &mut sums.exited };
                    add(sums, site);
                }
                What::Unblock => {
                    let Some(ns) = exact else { continue };
                    let reason = target.about().wait_reason(step.reason);
                    if let Some(times) = sums.blocked.get_mut(reason) {
                        times.add(ns);
                    } else if sums.blocked.len() < MAX_REASONS {
                        sums.blocked.entry(reason.into()).or_default().add(ns);
                    }
                }
                What::Start => exact.into_iter().for_each(|ns| sums.run_queue.add(ns)),
                What::Illegal => sums.illegal += 1,
                _ => {}
            }
        }
        Ok(())
    }

    fn end(&mut self, _: &mut [session::Target], _: &[End]) -> io::Result<()> {
        Ok(())
    }
}

impl Listener {
    fn site(&mut self, target: &mut session::Target, gopc: u64) -> Site {
        if let Some(site) = self.births.get(&gopc) {
            return site.clone();
        }
        let site = if gopc == 0 { None } else { target.symbols().go_statement(gopc) };
        let site = site.unwrap_or_else(nowhere);
        if self.births.len() < MAX_SITES {
            self.births.insert(gopc, site.clone());
        }
        site
    }
}

fn add(sites: &mut HashMap<Site, u64>, site: Site) {
    let site = if sites.len() >= MAX_SITES && !sites.contains_key(&site) { nowhere() } else { site };
    *sites.entry(site).or_default() += 1;
}
