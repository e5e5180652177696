//! One process under probes: a thread that attaches, listens, and says what that costs.

use super::{
    Target,
    attach::{self, Attached, Ceiling, Refused},
    figures::Figures,
    price,
};
use crate::{
    live::{Engine, Observers},
    probe::{Calibration, Programs},
    top::Cost,
};
use sfgi_core::{clock, event::Mode};
use std::{
    io,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread,
    time::Duration,
};

/// How often the rings are read.
const EVERY: Duration = Duration::from_millis(50);

/// What the thread has to say.
#[derive(Clone, Debug)]
pub(in crate::agent) enum News {
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
pub(in crate::agent) struct Spent {
    /// Since the last time: seconds, and hits a second.
    pub(in crate::agent) seconds: f64,
    pub(in crate::agent) hits_per_second: f64,
    /// In all the session.
    pub(in crate::agent) hits: u64,
    pub(in crate::agent) lost: u64,
    /// What a hit costs, nanoseconds.
    pub(in crate::agent) hit_ns: f64,
    /// What they cost the program, and us, since the last time: cores.
    pub(in crate::agent) program_cores: f64,
    pub(in crate::agent) own_cores: f64,
    /// What the BPF programs ran, cores; `None`: the kernel does not count.
    pub(in crate::agent) bpf_cores: Option<f64>,
}

type Tell = Arc<dyn Fn(News) + Send + Sync>;

/// See above. When it is dropped, the probes are removed soon.
pub(in crate::agent) struct Watcher {
    stop: Arc<AtomicBool>,
}

impl Drop for Watcher {
    fn drop(&mut self) {
        self.stop();
    }
}

impl Watcher {
    /// Begins; `tell` is told on the thread.
    ///
    /// # Errors
    /// There is no thread to be had.
    pub(in crate::agent) fn start(
        target: Arc<Target>,
        wanted: Mode,
        ceiling: Ceiling,
        figures: Figures,
        tell: impl Fn(News) + Send + Sync + 'static,
    ) -> io::Result<Watcher> {
        let stop = Arc::new(AtomicBool::new(false));
        let flag = Arc::clone(&stop);
        thread::Builder::new().name("watch".to_owned()).spawn(move || {
            let tell: Tell = Arc::new(tell);
            let error = run(&target, wanted, ceiling, &figures, &flag, &tell);
            tell(News::Ended(error));
        })?;
        Ok(Watcher { stop })
    }

    /// Removes the probes soon; [`News::Ended`] says when that is done.
    pub(in crate::agent) fn stop(&self) {
        self.stop.store(true, Ordering::Relaxed);
    }
}

/// Returns what went wrong.
fn run(
    target: &Target,
    wanted: Mode,
    ceiling: Ceiling,
    figures: &Figures,
    stop: &AtomicBool,
    tell: &Tell,
) -> Option<String> {
    // Declared first, and so there until all else has gone.
    let Attached { counting: _counting, mode, traced, followed, reason } =
        match attach::attach(target, wanted, Mode::Life, ceiling, false) {
            Ok(attached) => attached,
            Err(Refused::TooDear(reason)) => {
                tell(News::TooDear(reason));
                return None;
            }
            Err(Refused::Failed(error)) => return Some(error),
        };
    tell(News::Attached { mode, reason });
    let calibration = attach::calibration().ok()?;
    let mut gauge = Gauge { last: Cost::default(), own_ns: clock::thread_cpu(), factor: 1.0 };
    let observers: Observers = vec![Box::new(figures.listener())];
    let meter_tell = Arc::clone(tell);
    let engine =
        Engine::new(vec![(traced, followed)], observers, calibration, EVERY).quiet().metered(move |costs| {
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
        if let Some(factor) = price::correction(calibration, last.programs, cost.programs) {
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
