//! Chooses the functions to probe, for one binary and one mode, from the binary itself.
//!
//! There are two sets. Set B stands on `casgstatus`, which nearly all transitions of an ordinary build pass. A
//! profile-guided build (automatic with `default.pgo` since Go 1.21) inlines `casgstatus` at the hot sites, where a
//! probe sees nothing. Set A stands on the scheduler's functions that are reached by a real call only. The inline
//! trees in pclntab tell which functions were inlined anywhere; such a function is never trusted alone.

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

/// A function with the place of its probe.
#[derive(Clone, Debug)]
pub struct ProbeSite {
    /// The kind under which the probe counts its hits; the usual one of a probe that sends several.
    pub kind: Kind,
    pub function: &'static str,
    pub placement: Placement,
    /// The place as an offset in the file: a uprobe is attached to a file, not to an address.
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
    /// The kind that its probe would have sent.
    pub kind: Kind,
    pub function: &'static str,
    pub reason: String,
}

/// The probes for a binary and a mode.
#[derive(Clone, Debug)]
pub struct Plan {
    /// The set; modes other than [`Mode::Full`] take a part of set A.
    pub set: Set,
    pub probes: Vec<ProbeSite>,
    /// Functions without a probe or with one that misses calls: what the trace will not see.
    pub missing: Vec<Missing>,
}

#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PlanError {
    /// A function that the mode cannot do without has no place for a probe.
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

/// What to do if a function cannot be probed.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Need {
    /// The plan fails with [`PlanError::Mandatory`].
    Must,
    /// The plan goes on and lists it in [`Plan::missing`].
    Should,
    /// If it is absent, nothing: the linker leaves it out of a program that does not use it.
    IfThere,
}

/// A function of the runtime that a set wants to probe.
struct Candidate {
    kind: Kind,
    function: &'static str,
    need: Need,
    args: ArgUse,
    stack: Stack,
}

/// The largest function that is decoded, bytes. The largest of the candidates has four kilobytes; the bound is for
/// hostile binaries.
const MAX_CODE: u64 = 1 << 20;

/// The program reads only the current g.
const NONE: ArgUse = ArgUse { integers: 0, frames: false };
/// The program reads the first argument, `gp *g`.
const GP: ArgUse = ArgUse { integers: 1, frames: false };
/// The program reads three arguments: those of casgstatus and its kin, and of newproc1.
const THREE: ArgUse = ArgUse { integers: 3, frames: false };
/// The program reads no argument and walks the callers by frame pointer.
const FRAMES: ArgUse = ArgUse { integers: 0, frames: true };

/// Stand-ins for calls that a profile-guided build may inline away: (function, host that it was inlined into,
/// function to probe instead). The stand-in is called once for each inlined call and says as much of the goroutine.
/// The coroutine switch and `Gosched` are probed anyway. Seen in builds of 1.22, 1.25, 1.26 and 1.27.
const STAND_INS: [(&str, &str, &str); 7] = [
    ("runtime.reentersyscall", "runtime.entersyscall", "runtime.entersyscall"),
    // Not newproc.func1, the host itself: it has its arguments in a closure, not in registers.
    ("runtime.newproc1", "runtime.newproc.func1", "runtime.newproc"),
    ("runtime.gdestroy", "runtime.goexit0", "runtime.goexit0"),
    ("runtime.gdestroy", "runtime.coroswitch_m", "runtime.coroswitch_m"),
    ("runtime.goschedImpl", "runtime.gosched_m", "runtime.gosched_m"),
    ("runtime.goschedImpl", "runtime.goschedguarded_m", "runtime.goschedguarded_m"),
    ("runtime.goschedImpl", "runtime.gopreempt_m", "runtime.gopreempt_m"),
];

/// For each function that was inlined anywhere, the functions that it was inlined into.
type Inlined<'a> = BTreeMap<&'static str, BTreeSet<&'a str>>;

impl Plan {
    /// Chooses the probes. `forced`: this set and no other; meant for [`Mode::Full`] only. `gc`: also probe
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
            // Refused, although the user asked for it: a set that misses transitions would call the next ones illegal.
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

    /// Adds the probe of a candidate, and the stand-ins for the hosts that it was inlined into.
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
            // Inlined everywhere: no body is left, and the loop over the hosts below decides what is missing.
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
        // Two hosts may share a stand-in, or the stand-in may be a candidate itself: two probes would send every
        // event twice.
        if self.probes.iter().all(|known| known.function != site.function) {
            self.probes.push(site);
        }
    }
}

/// Finds the place of a candidate's probe. The error is `None` if the binary has no such function, else the reason.
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

/// The functions of set B that must not be inlined anywhere: together they see every transition of an ordinary build,
/// but only as long as each of them is whole.
const NEVER_INLINED: [&str; 3] =
    ["runtime.casgstatus", "runtime.casGToPreemptScan", "runtime.casGFromPreempted"];
/// The kinds that [`Mode::Wait`] takes of set A: parks, wake-ups, births and deaths.
const WAIT: [Kind; 5] = [Kind::Park, Kind::Ready, Kind::Inject, Kind::NewProc, Kind::Destroy];
/// The kinds that [`Mode::Life`] takes of set A: births and deaths.
const LIFE: [Kind; 2] = [Kind::NewProc, Kind::Destroy];

impl Candidate {
    /// The candidate for the same event on a stand-in. Every stand-in has the goroutine, or the function to run, as
    /// its first argument. `newproc` has no other one; it runs on the creator's stack, whose top is the return
    /// address behind the `go` statement.
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

/// Set B of a release (signatures: `src/runtime/proc.go`, `coro.go`).
fn set_b(release: Release) -> Vec<Candidate> {
    use Need::*;
    let mut set = vec![
        candidate(Kind::Status, "runtime.casgstatus", Must, THREE, Stack::User),
        candidate(Kind::PreemptScan, "runtime.casGToPreemptScan", Must, THREE, Stack::System),
        candidate(Kind::FromPreempted, "runtime.casGFromPreempted", Must, THREE, Stack::System),
    ];
    if release.syscalls_pass_casgstatus_by() {
        // Only the two fast edges: entersyscallblock still calls casgstatus.
        set.extend(syscall_edges());
    }
    set.extend(coroutines(release));
    set
}

/// Set A of a release (signatures: `src/runtime/proc.go`).
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
        // The garbage collector calls it from goroutines, too, so its stack check may fail.
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

/// The coroutine switch of `iter.Pull`, for both sets: it changes both states by a bare CAS, which no other probe sees.
fn coroutines(release: Release) -> Option<Candidate> {
    let switch = candidate(Kind::CoroSwitch, "runtime.coroswitch_m", Need::IfThere, GP, Stack::System);
    release.has_coroutines().then_some(switch)
}

/// The fast edges of system calls. The probe stands on `reentersyscall`, because `entersyscall` calls it and the end
/// of a callback from C does, too.
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
