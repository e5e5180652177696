//! The worker that puts probes into targets: a thread for each session, which attaches, drains, and says what the events come to.
//! One worker watches all targets that the core wants watched; a stream has a worker of its own, which its client ends.

use super::{
    attach::{self, Attached, Ceiling, Refused},
    budget,
    scan::{nowhere, table},
    stream,
    target::{Binaries, Target, TargetSpec},
    wire::{self, Failure, ProbeAsk, ProbeSaid},
};
use crate::{
    agent::picture::{Distribution, Events},
    live::{Engine, Observers},
    probe,
    probe::{Calibration, Cost, Programs},
};
use serde::{Deserialize, Serialize};
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
    os::unix::net::UnixStream,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    thread,
    time::Duration,
};

/// The time between two drains of the rings. Longer than that of a trace: nobody waits for a line, and each drain
/// costs the agent CPU time.
const EVERY: Duration = Duration::from_millis(50);
/// Bytes of executables that stay parsed while no session needs them.
const IDLE_BYTES: u64 = 8 << 20;

/// Messages about one session, in this order: `Attached` or `TooDear`, any number of `Cost`, `Ended`.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) enum News {
    /// Probes stand in `mode`. `reason`: why it is not the wanted mode; empty where it is.
    Attached { mode: Mode, reason: String },
    /// No probes stand, because every mode was too dear; the text says by how much.
    TooDear(String),
    /// A reading of the cost, about twice a second, and what the events since the last one came to.
    Cost(Spent, Box<Sums>),
    /// No probe is left. `None`: it was asked to end, or all modes were too dear.
    Ended(Option<Failure>),
}

/// The cost of a session of probes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub(crate) struct Spent {
    /// Seconds since the last reading, and hits a second in them.
    pub(crate) seconds: f64,
    pub(crate) hits_per_second: f64,
    /// Hits and lost events since the session began.
    pub(crate) hits: u64,
    pub(crate) lost: u64,
    /// The price of a hit, corrected by [`budget::correction`], nanoseconds.
    pub(crate) hit_ns: f64,
    /// The cost to the target and to the agent since the last reading, cores.
    pub(crate) program_cores: f64,
    pub(crate) own_cores: f64,
    /// Run time of the BPF programs since the last reading, cores; `None`: the kernel does not count.
    pub(crate) bpf_cores: Option<f64>,
    /// Run time of all BPF programs of this worker since it began, nanoseconds; `None`: the kernel does not count.
    pub(crate) ran_ns: Option<u64>,
}

/// The way to the server, shared by the threads of a prober.
#[derive(Clone)]
pub(super) struct Server(Arc<Mutex<UnixStream>>);

impl Server {
    pub(super) fn say(&self, said: &ProbeSaid) -> io::Result<()> {
        wire::send(&mut *self.0.lock().unwrap_or_else(PoisonError::into_inner), said)
    }
}

/// Works until the server closes the socket; then the process ends, and the kernel removes what probes are left.
pub(super) fn probe(socket: UnixStream) -> io::Result<()> {
    let mut from = socket.try_clone()?;
    let server = Server(Arc::new(Mutex::new(socket)));
    let binaries = Arc::<Binaries>::default();
    binaries.keep_bytes(IDLE_BYTES);
    let mut sessions: HashMap<u64, Arc<AtomicBool>> = HashMap::new();
    while let Some(ask) = wire::receive::<ProbeAsk>(&mut from)? {
        match ask {
            ProbeAsk::Stop { number } => {
                if let Some(stop) = sessions.remove(&number) {
                    stop.store(true, Ordering::Relaxed);
                }
            }
            ProbeAsk::Watch { number, target, mode, cores } => {
                let stop = Arc::new(AtomicBool::new(false));
                // Those that have ended by themselves let go of their flags.
                sessions.retain(|_, stop| Arc::strong_count(stop) > 1);
                sessions.insert(number, Arc::clone(&stop));
                let (to, binaries) = (server.clone(), Arc::clone(&binaries));
                thread::Builder::new().name("probe".to_owned()).spawn(move || {
                    let tell = |news| to.say(&ProbeSaid::News { number, news });
                    let failure = watch(&target, &binaries, mode, Ceiling(cores), &stop, &tell);
                    // A server that does not listen is gone, and this worker ends as well.
                    let _ = tell(News::Ended(failure));
                })?;
            }
            ProbeAsk::Stream { target, what, cores, seconds } => {
                let (to, binaries) = (server.clone(), Arc::clone(&binaries));
                thread::Builder::new().name("stream".to_owned()).spawn(move || {
                    let failure = stream::run(target, binaries, what, Ceiling(cores), seconds, &to).err();
                    let _ = to.say(&ProbeSaid::StreamEnded(failure));
                })?;
            }
        }
    }
    Ok(())
}

/// The body of a session. Returns what ended it, unless it was asked to end.
fn watch(
    target: &Arc<TargetSpec>,
    binaries: &Arc<Binaries>,
    wanted: Mode,
    ceiling: Ceiling,
    stop: &AtomicBool,
    tell: &impl Fn(News) -> io::Result<()>,
) -> Option<Failure> {
    let target = match Target::open_process(Arc::clone(target), Arc::clone(binaries)) {
        Ok(target) => target,
        Err(error) => return Some(error.into()),
    };
    // `_counting` is bound first and so dropped last: the kernel counts until the probes are gone.
    let Attached { counting: _counting, mode, live, state, reason } =
        match attach::attach(&target, wanted, Mode::Life, ceiling, false) {
            Ok(attached) => attached,
            Err(Refused::TooDear(reason)) => {
                let _ = tell(News::TooDear(reason));
                return None;
            }
            Err(_) if !target.process.alive() => return Some(Failure::Ended),
            Err(refused) => return Some(refused.into()),
        };
    tell(News::Attached { mode, reason }).ok()?;
    let calibration = attach::calibration().ok()?;
    let mut gauge = Gauge { last: Cost::default(), own_ns: clock::thread_cpu(), factor: 1.0 };
    let figures = Figures::default();
    let observers: Observers = vec![Box::new(figures.listener())];
    // The meter is called on the thread that drains, which this function is: it only keeps the reading.
    let (readings, read) = std::sync::mpsc::channel();
    let engine =
        Engine::new(vec![(live, state)], observers, calibration, EVERY).quiet().metered(move |costs| {
            if let Some(spent) = costs.first().and_then(|cost| gauge.read(*cost, &calibration)) {
                let _ = readings.send(spent);
            }
        });
    let result = thread::scope(|scope| {
        let engine = scope.spawn(|| engine.run(stop));
        // Ends when the engine drops its meter.
        for spent in read {
            if tell(News::Cost(spent, Box::new(figures.take()))).is_err() {
                stop.store(true, Ordering::Relaxed);
            }
        }
        engine.join()
    });
    match result {
        Ok(Ok(())) => None,
        Ok(Err(error)) => Some(Failure::Other(format!("its probes cannot be read: {error:#}"))),
        Err(_) => Some(Failure::Other("following it failed inside sfgi, which is a bug".to_owned())),
    }
}

/// Turns totals into rates.
struct Gauge {
    last: Cost,
    own_ns: u64,
    /// By how much a hit is dearer than calibrated, a moving average of [`budget::correction`].
    factor: f64,
}

impl Gauge {
    /// Must be called on the thread that drains, whose CPU time it reads. `None` at the first reading, which has
    /// nothing to compare with.
    fn read(&mut self, cost: Cost, calibration: &Calibration) -> Option<Spent> {
        let last = std::mem::replace(&mut self.last, cost);
        let own_ns = clock::thread_cpu();
        let own = own_ns.saturating_sub(std::mem::replace(&mut self.own_ns, own_ns)) as f64;
        if last.ts == 0 {
            return None;
        }
        if let Some(factor) = budget::correction(calibration, last.programs, cost.programs) {
            // Half of the new value: one reading may have been disturbed.
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
            ran_ns: probe::ran_ns(),
        })
    }
}

/// Creation sites that are counted apart, a bound for our memory; all further ones are counted together.
const MAX_SITES: usize = 1024;
/// Wait reasons that are counted; the runtime has about forty.
const MAX_REASONS: usize = 64;

/// Sums of events, shared with the thread that drains.
#[derive(Clone, Debug, Default)]
pub(crate) struct Figures(Arc<Mutex<Sums>>);

/// What events came to. At most [`MAX_SITES`] places and [`MAX_REASONS`] reasons each.
#[derive(Debug, Default, Serialize, Deserialize)]
pub(crate) struct Sums {
    created: HashMap<Site, u64>,
    exited: HashMap<Site, u64>,
    blocked: HashMap<Arc<str>, Distribution>,
    run_queue: Distribution,
    illegal: u64,
}

impl Figures {
    /// An observer that adds events to these sums.
    fn listener(&self) -> Listener {
        Listener { figures: self.clone(), births: HashMap::new() }
    }

    /// The sums since this was called last.
    fn take(&self) -> Sums {
        std::mem::take(&mut *self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// Adds what another worker counted.
    pub(crate) fn add(&self, more: Sums) {
        let mut sums = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        more.created.into_iter().for_each(|(site, count)| add(&mut sums.created, site, count));
        more.exited.into_iter().for_each(|(site, count)| add(&mut sums.exited, site, count));
        for (reason, times) in more.blocked {
            if sums.blocked.len() < MAX_REASONS || sums.blocked.contains_key(&reason) {
                sums.blocked.entry(reason).or_default().merge(&times);
            }
        }
        sums.run_queue.merge(&more.run_queue);
        sums.illegal += more.illegal;
    }

    /// Copies the sums into a picture, with tables of `top` rows.
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

struct Listener {
    figures: Figures,
    /// Return address behind a `go` statement → its place. Of this session only: an `exec` moves the code.
    births: HashMap<u64, Site>,
}

impl Observer for Listener {
    fn wants(&self) -> Whats {
        Whats::from_iter([What::Create, What::Exit, What::Unblock, What::Start, What::Illegal])
    }

    fn round(&mut self, targets: &mut [session::Target], round: &Round) -> io::Result<()> {
        let figures = self.figures.clone();
        // Locked once a round, not once an event.
        let mut sums = figures.0.lock().unwrap_or_else(PoisonError::into_inner);
        for (index, step) in round.steps() {
            let Some(target) = targets.get_mut(index) else { continue };
            // A duration that began before the probes, or spans a loss, would bend the distribution.
            let exact = step.duration_ns.filter(|_| step.measure == Measure::Exact);
            match step.what {
                What::Create | What::Exit => {
                    let gopc = step.birth.map_or(0, |birth| birth.gopc);
                    let site = self.site(target, gopc);
                    let sums = if step.what == What::Create { &mut sums.created } else { &mut sums.exited };
                    add(sums, site, 1);
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
        // Beyond the bound names are looked up each time: slower, but right.
        if self.births.len() < MAX_SITES {
            self.births.insert(gopc, site.clone());
        }
        site
    }
}

fn add(sites: &mut HashMap<Site, u64>, site: Site, count: u64) {
    let site = if sites.len() >= MAX_SITES && !sites.contains_key(&site) { nowhere() } else { site };
    *sites.entry(site).or_default() += count;
}
