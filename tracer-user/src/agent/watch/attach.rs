//! Puts probes into a program, in the closest mode that the budget allows.
//!
//! What a mode will cost is told by its busiest probe, alone, for a moment: a program that switches a million times a
//! second is slowed down for that moment and not for the seconds that attaching all would take.

use super::target::{Target, TargetError};
use crate::{
    live::{Attach, LiveTarget, Opened},
    probe,
    probe::{Calibration, Counting, HostError, Options, ProbeError, Session},
};
use sfgi_core::{
    binary::GoBinary,
    event::Mode,
    plan::{CostClass, Plan, ProbeSite},
    process::Process,
    session,
};
use std::{
    num::NonZeroU32,
    sync::{Arc, OnceLock},
    thread,
    time::Duration,
};
use tracer_common::Kind;

/// How long the busiest probe stands.
const SAMPLE: Duration = Duration::from_millis(40);
/// The part of the budget that a mode may take by its sample, which sees one probe for a moment: there are other probes, and
/// other times.
const SHARE: f64 = 0.6;
/// Bytes of an event ring: what a program within its budget sends in a second fits in.
const RING: u32 = 1 << 21;
/// The probes that are hit most, the busiest first.
const BUSY: [Kind; 5] = [Kind::Status, Kind::Execute, Kind::Park, Kind::Ready, Kind::NewProc];

/// Why it is not known what a probe costs here.
#[derive(Debug, thiserror::Error)]
pub(crate) enum CalibrationError {
    #[error(transparent)]
    Host(HostError),
    #[error("cannot measure what a probe costs here: {0}")]
    Measure(ProbeError),
}

/// What a hit costs on this host: measured once, in the life of the agent.
pub(crate) fn calibration() -> Result<Calibration, &'static CalibrationError> {
    static MEASURED: OnceLock<Result<Calibration, CalibrationError>> = OnceLock::new();
    let measure = || {
        probe::check_host().map_err(CalibrationError::Host)?;
        let _counts = probe::count_runs();
        probe::calibrate().map_err(CalibrationError::Measure)
    };
    MEASURED.get_or_init(measure).as_ref().copied()
}

/// What probes may cost a program, cores.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Ceiling(pub(crate) f64);

/// Probes that stand.
pub(crate) struct Attached {
    pub(crate) mode: Mode,
    pub(crate) live: LiveTarget,
    pub(crate) state: session::Target,
    /// Why the mode is not the one that was wanted; empty where it is.
    pub(crate) reason: String,
    /// The kernel counts what the programs run as long as this is kept; `None`: it cannot.
    pub(crate) counting: Option<Counting>,
}

/// Why there are no probes.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Refused {
    /// All modes are too dear.
    #[error("{0}")]
    TooDear(String),
    #[error(transparent)]
    Calibration(#[from] &'static CalibrationError),
    #[error(transparent)]
    Target(#[from] TargetError),
    /// Probes cannot be put into it.
    #[error("it cannot be probed: {0}")]
    Probes(String),
}

/// Attaches in `wanted` or, where that is too dear, in the closest mode that is not, but in none below `least`. `callers` is that of
/// [`Attach::callers`].
pub(crate) fn attach(
    target: &Target,
    wanted: Mode,
    least: Mode,
    ceiling: Ceiling,
    callers: bool,
) -> Result<Attached, Refused> {
    let failed = |err: &dyn std::fmt::Display| Refused::Probes(format!("{err:#}"));
    let calibration = calibration()?;
    let counting = probe::count_runs().ok();
    let opened = target.open()?;
    let exe = || target.process.exe().map_err(|err| failed(&err));
    let least = least.max(Mode::Life);
    let modes = Mode::ALL.into_iter().rev().filter(|mode| (least..=wanted).contains(mode));
    let mut reason = String::new();
    for mode in modes {
        let plan = Plan::choose(&opened.binary, mode, None, false).map_err(|err| failed(&err))?;
        let rate = sample(target, &opened.binary, &plan).map_err(|err| failed(&err))?;
        let cores = rate.per_second * rate.ns(&calibration) / 1e9;
        if cores > SHARE * ceiling.0 {
            let why = format!(
                "{mode} would cost about {:.1} % of a core ({:.0} hits/s of {}), of {:.1} % that it may",
                cores * 100.0,
                rate.per_second,
                rate.function,
                ceiling.0 * 100.0
            );
            // The first reason is about the mode that was wanted.
            if reason.is_empty() {
                reason = why;
            }
            continue;
        }
        let pid = target.pid();
        let process = Process::open(pid.cast_signed()).map_err(|err| failed(&err))?;
        let binary = Arc::clone(&opened.binary);
        let opened = Opened { process: Some(process), exe: exe()?, name: target.exe(), binary };
        let attach = Attach {
            mode,
            set: None,
            gc: false,
            threads: false,
            goids: Vec::new(),
            ring_bytes: RING,
            stacks_ns: None,
            callers,
        };
        let (live, state) = LiveTarget::attach(pid, opened, &attach).map_err(|err| failed(&err))?;
        target.still_the_same()?;
        return Ok(Attached { mode, live, state, reason, counting });
    }
    Err(Refused::TooDear(reason))
}

struct Rate {
    function: &'static str,
    class: CostClass,
    per_second: f64,
}

impl Rate {
    fn ns(&self, calibration: &Calibration) -> f64 {
        match self.class {
            CostClass::SingleStepped => calibration.single_stepped_ns,
            CostClass::Emulated => calibration.emulated_ns,
        }
    }
}

/// How often the busiest probe of a plan is hit.
fn sample(target: &Target, binary: &GoBinary, plan: &Plan) -> Result<Rate, ProbeError> {
    let busiest = BUSY.iter().find_map(|kind| plan.probes.iter().find(|probe| probe.kind == *kind));
    let Some(busiest) = busiest.or(plan.probes.first()) else {
        return Ok(Rate { function: "", class: CostClass::SingleStepped, per_second: 0.0 });
    };
    let ProbeSite { function, .. } = *busiest;
    let alone = Plan { set: plan.set, probes: vec![busiest.clone()], missing: Vec::new() };
    let options =
        Options { ring_bytes: 1 << 16, goids: Vec::new(), threads: false, callers: false, from_birth: false };
    let exe = target.process.exe().map_err(|err| ProbeError::Load(err.into()))?;
    let pid = NonZeroU32::new(target.pid()).ok_or(ProbeError::Object("process id"))?;
    let session = Session::start(pid, &exe, binary, &alone, &options)?;
    thread::sleep(SAMPLE);
    let hits: u64 = session.totals()?.hits.values().sum();
    let seconds = session.seconds().max(1e-3);
    Ok(Rate { function, class: busiest.cost(), per_second: hits as f64 / seconds })
}
