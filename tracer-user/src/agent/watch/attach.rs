//! Attaches probes to a target in the closest mode that the budget allows.
//!
//! The cost of a mode is estimated first: its busiest probe stands alone for [`SAMPLE`]. A program that switches a
//! million times a second is slowed down for that moment only, not for the seconds that attaching and removing all
//! probes would take.

use super::{
    target::{Target, TargetError},
    wire::Failure,
};
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

/// How long the busiest probe stands alone.
const SAMPLE: Duration = Duration::from_millis(40);
/// The part of the budget that a mode may take by its sample. The sample sees one probe for a moment, so some is kept
/// for the other probes and for busier moments.
const SHARE: f64 = 0.6;
/// Bytes of an event ring. It holds what a target within its budget sends in a second.
const RING: u32 = 1 << 21;
/// The kinds of the probes that are hit most, the busiest first.
const BUSY: [Kind; 5] = [Kind::Status, Kind::Execute, Kind::Park, Kind::Ready, Kind::NewProc];

/// Why the price of a probe on this host is not known.
#[derive(Debug, thiserror::Error)]
pub(crate) enum CalibrationError {
    #[error(transparent)]
    Host(HostError),
    #[error("cannot measure what a probe costs here: {0}")]
    Measure(ProbeError),
}

/// The price of a hit on this host, measured once in the life of the agent. Failure is kept, too: the host does not
/// change.
pub(crate) fn calibration() -> Result<Calibration, &'static CalibrationError> {
    static MEASURED: OnceLock<Result<Calibration, CalibrationError>> = OnceLock::new();
    let measure = || {
        probe::check_host().map_err(CalibrationError::Host)?;
        // Without the right to count, `program_ns` is `None` and prices are never corrected.
        let _counts = probe::count_runs();
        probe::calibrate().map_err(CalibrationError::Measure)
    };
    MEASURED.get_or_init(measure).as_ref().copied()
}

/// What probes may cost a target, cores.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Ceiling(pub(crate) f64);

/// Probes that stand, with what must live as long as they do.
pub(crate) struct Attached {
    pub(crate) mode: Mode,
    pub(crate) live: LiveTarget,
    pub(crate) state: session::Target,
    /// Why the mode is not the wanted one; empty where it is.
    pub(crate) reason: String,
    /// The kernel counts runs as long as this is kept; `None`: the agent may not ask for it.
    pub(crate) counting: Option<Counting>,
}

/// Why no probes were attached.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Refused {
    /// Every mode is too dear; the text is about the wanted one.
    #[error("{0}")]
    TooDear(String),
    #[error(transparent)]
    Calibration(#[from] &'static CalibrationError),
    #[error(transparent)]
    Target(#[from] TargetError),
    /// The kernel or the binary does not allow the probes.
    #[error("it cannot be probed: {0}")]
    Probes(String),
}

impl From<Refused> for Failure {
    fn from(refused: Refused) -> Failure {
        match refused {
            Refused::TooDear(reason) => Failure::TooDear(reason),
            Refused::Target(error) => error.into(),
            refused @ (Refused::Calibration(_) | Refused::Probes(_)) => Failure::Other(refused.to_string()),
        }
    }
}

/// Attaches in mode `wanted` or, if that is too dear, in the closest mode that is not, but in none below `least`.
/// `callers`: see [`Attach::callers`]. Takes seconds: call it on a thread of its own.
pub(crate) fn attach(
    target: &Target,
    wanted: Mode,
    least: Mode,
    ceiling: Ceiling,
    callers: bool,
) -> Result<Attached, Refused> {
    let failed = |err: &dyn std::fmt::Display| Refused::Probes(format!("{err:#}"));
    let calibration = calibration()?;
    // Before the first program is loaded: runs from before are not counted.
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
            // Only the first: it is about the wanted mode.
            if reason.is_empty() {
                reason = why;
            }
            continue;
        }
        let pid = target.pid();
        // A process of its own, because `LiveTarget` keeps it; `still_the_same` below notices if the PID is another
        // process by now.
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
            deadlocks: false,
        };
        let (live, state) = LiveTarget::attach(pid, opened, &attach).map_err(|err| failed(&err))?;
        // After attaching: an `exec` in between would leave the probes on code that no longer runs.
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

/// Measures how often the busiest probe of a plan is hit.
fn sample(target: &Target, binary: &GoBinary, plan: &Plan) -> Result<Rate, ProbeError> {
    let busiest = BUSY.iter().find_map(|kind| plan.probes.iter().find(|probe| probe.kind == *kind));
    let Some(busiest) = busiest.or(plan.probes.first()) else {
        return Ok(Rate { function: "", class: CostClass::SingleStepped, per_second: 0.0 });
    };
    let ProbeSite { function, .. } = *busiest;
    let alone = Plan { set: plan.set, probes: vec![busiest.clone()], missing: Vec::new() };
    let options =
        // Nobody drains: hits are counted whether their event finds room or not, so a small ring will do.
        Options { ring_bytes: 1 << 16, goids: Vec::new(), threads: false, callers: false, from_birth: false };
    let exe = target.process.exe().map_err(|err| ProbeError::Load(err.into()))?;
    let pid = NonZeroU32::new(target.pid()).ok_or(ProbeError::Object("process id"))?;
    let session = Session::start(pid, &exe, binary, &alone, &options)?;
    thread::sleep(SAMPLE);
    let hits: u64 = session.totals()?.hits.values().sum();
    // Before the session is dropped: the probe stays until then.
    let seconds = session.seconds().max(1e-3);
    Ok(Rate { function, class: busiest.cost(), per_second: hits as f64 / seconds })
}
