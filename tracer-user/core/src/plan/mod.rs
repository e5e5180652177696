//! Which functions to probe: chosen for one binary and one mode, from what the binary itself says.
//!
//! There are two sets. Set B asks `casgstatus`, through which an ordinary build takes nearly all
//! transitions. A profile-guided build (automatic with `default.pgo` since Go 1.21) inlines it at
//! the hot sites, where a probe sees nothing; then set A asks the functions that can only be
//! reached by a call. A function that occurs as an inlined callee anywhere is never trusted.

use crate::{
    binary::GoBinary,
    event::{Mode, Set},
    goruntime::Release,
};

mod place;

pub use place::{CostClass, PlaceError, Placement, StackFrame};

use place::{ArgUse, Stack, place};
use std::collections::{BTreeMap, BTreeSet};
use tracer_common::Kind;

/// One function and the place of its probe.
#[derive(Clone, Debug)]
pub struct ProbeSite {
    /// What the probe sends; for a probe that sends several kinds, the first of them.
    pub kind: Kind,
    pub function: &'static str,
    pub placement: Placement,
    /// The same place as an offset in the file, which is what a uprobe is attached to.
    pub file_offset: u64,
}

impl ProbeSite {
    pub fn cost(&self) -> CostClass {
        self.placement.class
    }
}

/// A function that belongs to the set and gets no probe, or one that does not see all calls.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Missing {
    /// What its probe would have sent.
    pub kind: Kind,
    pub function: &'static str,
    pub reason: String,
}

/// The probes for a binary and a mode.
#[derive(Clone, Debug)]
pub struct Plan {
    /// Which set; modes other than [`Mode::Full`] are a part of set A.
    pub set: Set,
    pub probes: Vec<ProbeSite>,
    /// What the trace will not see.
    pub missing: Vec<Missing>,
}

#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PlanError {
    /// A function without which the mode makes no sense.
    #[error("{function} cannot be probed: {reason}")]
    Mandatory { function: &'static str, reason: String },
    /// Set B was asked for, and the binary does not allow it.
    #[error(
        "probe set B would miss transitions: the compiler inlined {0} (a profile-guided build); use set A"
    )]
    Inlined(&'static str),
    #[error("mode poll has no probes")]
    Poll,
}

/// What to do where a function is not in the binary.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Need {
    /// Give up.
    Must,
    /// Say so.
    Should,
    /// Nothing: the linker leaves it out where the program does not use it.
    IfThere,
}

/// A function of the runtime that a probe may stand on.
struct Candidate {
    kind: Kind,
    function: &'static str,
    need: Need,
    args: ArgUse,
    stack: Stack,
}

/// The largest function that is decoded; the largest of these has four kilobytes.
const MAX_CODE: u64 = 1 << 20;

/// No argument, only the current g.
const NONE: ArgUse = ArgUse { integers: 0, frames: false };
/// `gp *g` alone.
const GP: ArgUse = ArgUse { integers: 1, frames: false };
const THREE: ArgUse = ArgUse { integers: 3, frames: false };
/// No argument; the callers by frame pointer.
const FRAMES: ArgUse = ArgUse { integers: 0, frames: true };

/// Calls that the compiler may inline away in a profile-guided build, and what sees them then: a
/// function inlined into a host, and the function to probe in its place, which is called once for
/// each of these inlined calls and says as much of the goroutine. The coroutine switch and `Gosched`
/// are probed anyway. Seen in builds of 1.22, 1.25, 1.26 and 1.27.
const STAND_INS: [(&str, &str, &str); 7] = [
    ("runtime.reentersyscall", "runtime.entersyscall", "runtime.entersyscall"),
    // newproc.func1 runs on the system stack for newproc, with its arguments in a closure.
    ("runtime.newproc1", "runtime.newproc.func1", "runtime.newproc"),
    ("runtime.gdestroy", "runtime.goexit0", "runtime.goexit0"),
    ("runtime.gdestroy", "runtime.coroswitch_m", "runtime.coroswitch_m"),
    ("runtime.goschedImpl", "runtime.gosched_m", "runtime.gosched_m"),
    ("runtime.goschedImpl", "runtime.goschedguarded_m", "runtime.goschedguarded_m"),
    ("runtime.goschedImpl", "runtime.gopreempt_m", "runtime.gopreempt_m"),
];

/// For each inlined function, the functions that it was inlined into.
type Inlined<'a> = BTreeMap<&'static str, BTreeSet<&'a str>>;

impl Plan {
    /// Chooses the probes. `forced`: this set and no other ([`Mode::Full`] only). `gc`: also the
    /// begin and end of garbage collections.
    ///
    /// # Errors
    /// [`PlanError`]: a function that the mode cannot do without has no place for a probe, or the
    /// forced set does not fit the binary.
    pub fn choose(binary: &GoBinary, mode: Mode, forced: Option<Set>, gc: bool) -> Result<Plan, PlanError> {
        let release = binary.version().release;
        let (whole_b, full_a) = (set_b(release), set_a(release, binary.cgo()));
        let names: Vec<_> = whole_b.iter().chain(&full_a).map(|candidate| candidate.function).collect();
        let inlined = binary.functions().inlined_callees(&names);
        let cut = NEVER_INLINED.iter().find(|function| inlined.contains_key(*function));
        let set = match (forced, cut) {
            (Some(Set::B), Some(cut)) => return Err(PlanError::Inlined(cut)),
            (Some(forced), _) => forced,
            (None, Some(_)) => Set::A,
            (None, None) => Set::B,
        };
        let (set, mut wanted) = match mode {
            Mode::Full if set == Set::B => (set, whole_b),
            Mode::Full => (set, full_a),
            Mode::Wait => (Set::A, keep(full_a, &WAIT)),
            Mode::Life => (Set::A, keep(full_a, &LIFE)),
            Mode::Poll => return Err(PlanError::Poll),
        };
        if gc {
            wanted.extend(gc_marks());
        }
        let mut plan = Plan { set, probes: Vec::new(), missing: Vec::new() };
        for candidate in &wanted {
            plan.add(binary, candidate, &inlined)?;
        }
        Ok(plan)
    }

    /// Adds the probe of a candidate, and what stands in for it where it was inlined.
    fn add(
        &mut self,
        binary: &GoBinary,
        candidate: &Candidate,
        inlined: &Inlined<'_>,
    ) -> Result<(), PlanError> {
        let function = candidate.function;
        let hosts = inlined.get(function);
        match site(binary, candidate) {
            Ok(site) => self.push(site),
            Err(None) if hosts.is_some() || candidate.need == Need::IfThere => {}
            Err(reason) => {
                let reason = reason.unwrap_or_else(|| "the binary has no such function".into());
                if candidate.need == Need::Must {
                    return Err(PlanError::Mandatory { function, reason });
                }
                self.missing.push(Missing { kind: candidate.kind, function, reason });
            }
        }
        let mut unseen = Vec::new();
        for host in hosts.into_iter().flatten() {
            let stand_in = STAND_INS.iter().find(|(of, into, _)| *of == function && into == host);
            let site = stand_in.and_then(|(.., probed)| site(binary, &candidate.moved_to(probed)).ok());
            match site {
                Some(site) => self.push(site),
                None => unseen.push(*host),
            }
        }
        if !unseen.is_empty() {
            let reason =
                format!("the compiler inlined it into {} (a profile-guided build)", unseen.join(", "));
            self.missing.push(Missing { kind: candidate.kind, function, reason });
        }
        Ok(())
    }

    fn push(&mut self, site: ProbeSite) {
        if self.probes.iter().all(|known| known.function != site.function) {
            self.probes.push(site);
        }
    }
}

/// The place of a candidate's probe; without a reason where the function is not there.
fn site(binary: &GoBinary, candidate: &Candidate) -> Result<ProbeSite, Option<String>> {
    let function = binary.functions().find(candidate.function).ok_or(None)?;
    let image = binary.image();
    let size = Some(function.end - function.entry).filter(|size| *size <= MAX_CODE);
    let placement = size
        .and_then(|size| image.read(function.entry, size))
        .ok_or(PlaceError::Undecodable)
        .and_then(|code| place(binary.arch(), code, function.entry, candidate.args, candidate.stack))
        .map_err(|error| Some(error.to_string()))?;
    let file_offset =
        image.file_offset(placement.vaddr).ok_or_else(|| Some(PlaceError::Undecodable.to_string()))?;
    Ok(ProbeSite { kind: candidate.kind, function: candidate.function, placement, file_offset })
}

fn keep(mut candidates: Vec<Candidate>, kinds: &[Kind]) -> Vec<Candidate> {
    candidates.retain(|candidate| kinds.contains(&candidate.kind));
    candidates
}

/// The functions that see every transition of an ordinary build between them, only as long as each
/// is whole.
const NEVER_INLINED: [&str; 3] =
    ["runtime.casgstatus", "runtime.casGToPreemptScan", "runtime.casGFromPreempted"];
/// What [`Mode::Wait`] takes of set A.
const WAIT: [Kind; 5] = [Kind::Park, Kind::Ready, Kind::Inject, Kind::NewProc, Kind::Destroy];
/// What [`Mode::Life`] takes of set A.
const LIFE: [Kind; 2] = [Kind::NewProc, Kind::Destroy];

impl Candidate {
    /// The same event, from a probe on another function. All that stand in have the goroutine, or
    /// the function to run, as their first argument; `newproc`, which has no more, is on the
    /// creator's stack, whose top says from where it was called.
    fn moved_to(&self, function: &'static str) -> Candidate {
        let (integers, stack) =
            if function == "runtime.newproc" { (1, Stack::User) } else { (self.args.integers, self.stack) };
        let args = ArgUse { integers, ..self.args };
        Candidate { kind: self.kind, function, need: self.need, args, stack }
    }
}

fn candidate(kind: Kind, function: &'static str, need: Need, args: ArgUse, stack: Stack) -> Candidate {
    Candidate { kind, function, need, args, stack }
}

/// Set B of a release. Signatures: `src/runtime/proc.go`, `coro.go`.
fn set_b(release: Release) -> Vec<Candidate> {
    use Need::*;
    let mut set = vec![
        candidate(Kind::Status, "runtime.casgstatus", Must, THREE, Stack::User),
        candidate(Kind::PreemptScan, "runtime.casGToPreemptScan", Must, THREE, Stack::System),
        candidate(Kind::FromPreempted, "runtime.casGFromPreempted", Must, THREE, Stack::System),
    ];
    if release.syscalls_pass_casgstatus_by() {
        // entersyscallblock still calls it.
        set.extend(syscall_edges());
    }
    set.extend(coroutines(release));
    set
}

/// Set A of a release. Signatures: `src/runtime/proc.go`.
fn set_a(release: Release, cgo: bool) -> Vec<Candidate> {
    use Need::*;
    let destroy = if release.has_gdestroy() { "runtime.gdestroy" } else { "runtime.goexit0" };
    let exit_no_p =
        if release.runs_before_it_has_a_p() { "runtime.exitsyscallNoP" } else { "runtime.exitsyscall0" };
    let mut set = vec![
        candidate(Kind::NewProc, "runtime.newproc1", Must, THREE, Stack::System),
        candidate(Kind::Execute, "runtime.execute", Must, GP, Stack::System),
        candidate(Kind::Park, "runtime.park_m", Must, GP, Stack::System),
        candidate(Kind::Ready, "runtime.ready", Must, GP, Stack::System),
        // The garbage collector calls it from goroutines, too.
        candidate(Kind::Inject, "runtime.injectglist", Must, GP, Stack::User),
        candidate(Kind::Gosched, "runtime.gosched_m", Should, GP, Stack::System),
        candidate(Kind::Goyield, "runtime.goyield_m", IfThere, GP, Stack::System),
        candidate(Kind::GoschedImpl, "runtime.goschedImpl", Must, GP, Stack::System),
        candidate(Kind::PreemptPark, "runtime.preemptPark", Should, GP, Stack::System),
        candidate(Kind::Destroy, destroy, Must, GP, Stack::System),
        candidate(Kind::SyscallBlock, "runtime.entersyscallblock", Should, FRAMES, Stack::User),
        candidate(Kind::SyscallExitNoP, exit_no_p, Must, GP, Stack::System),
    ];
    set.extend(syscall_edges());
    if cgo {
        set.push(candidate(Kind::NeedM, "runtime.needm", Should, NONE, Stack::System));
        set.push(candidate(Kind::DropM, "runtime.dropm", Should, NONE, Stack::System));
    }
    set.extend(coroutines(release));
    set
}

/// Both sets: the switch of `iter.Pull` goes round everything else.
fn coroutines(release: Release) -> Option<Candidate> {
    let switch = candidate(Kind::CoroSwitch, "runtime.coroswitch_m", Need::IfThere, GP, Stack::System);
    release.has_coroutines().then_some(switch)
}

/// Entering and leaving system calls. `entersyscall` calls `reentersyscall`, as does the end of a
/// callback from C.
fn syscall_edges() -> [Candidate; 2] {
    [
        candidate(Kind::SyscallEnter, "runtime.reentersyscall", Need::Must, FRAMES, Stack::User),
        candidate(Kind::SyscallExit, "runtime.exitsyscall", Need::Must, NONE, Stack::User),
    ]
}

fn gc_marks() -> [Candidate; 2] {
    use Need::*;
    [
        candidate(Kind::GcStart, "runtime.(*gcControllerState).startCycle", Should, NONE, Stack::User),
        candidate(Kind::GcEnd, "runtime.gcMarkTermination", Should, NONE, Stack::User),
    ]
}
