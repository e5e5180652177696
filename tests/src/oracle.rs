//! Holds sfgi's account of a program against Go's own: for each goroutine the two sequences of
//! state transitions must be the same.
//!
//! Go's tracer and the runtime's status word define some steps differently. Each such difference is a [`Class`] with
//! its exact pattern on both sides (`RULES`); a difference that no rule fits is a [`Disagreement`].

use std::{
    collections::{BTreeMap, BTreeSet, HashSet},
    fmt,
};

use crate::{
    gotrace::Recording,
    state::{
        State::{self, Dead, Preempted, Runnable, Running, Syscall, Unknown, Waiting},
        Transition,
    },
};

/// A step that lies this near to an edge of a recording, ns, may be in it or not. The fixtures are quiet there for
/// twice as long (`margin` of their harness).
const EDGE: u64 = 100_000_000;

/// How far apart the two times of one transition may lie, ns: a thread can lose its processor between the probe and
/// the runtime's own note, on a crowded machine for long.
const SKEW: u64 = 1_000_000_000;

/// A difference that comes from how the two define a step.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Class {
    /// [`Class::explanation`] says what it is, as for all classes.
    LostProcessor,
    #[expect(missing_docs, reason = "see explanation()")]
    ExitWithoutProcessor,
    #[expect(missing_docs, reason = "see explanation()")]
    StalledExit,
    #[expect(missing_docs, reason = "see explanation()")]
    Suspended,
    #[expect(missing_docs, reason = "see explanation()")]
    CoroutineSwitch,
    #[expect(missing_docs, reason = "see explanation()")]
    ExtraGoroutineMade,
    #[expect(missing_docs, reason = "see explanation()")]
    FirstSight,
    #[expect(missing_docs, reason = "see explanation()")]
    OutsideRecording,
}

impl Class {
    /// What the difference is and where in Go's source it comes from.
    pub fn explanation(self) -> &'static str {
        match self {
            Class::LostProcessor => {
                "The goroutine came back from a system call, its P had been taken, it got one at once. The status word \
                 goes syscall→running; the trace writes GoSyscallEndBlocked and GoStart, i.e. through runnable \
                 (src/runtime/proc.go, exitsyscall)."
            }
            Class::ExitWithoutProcessor => {
                "The same, but there was no P to be had. Since Go 1.26 the status word goes syscall→running→runnable \
                 (src/runtime/proc.go, exitsyscall, exitsyscallNoP); the trace writes only GoSyscallEndBlocked."
            }
            Class::StalledExit => {
                "Up to Go 1.25, set A, no P was to be had, and the machine let the thread wait for longer than sfgi holds a \
                 return from a system call back (10 ms): sfgi has said running by then, and says runnable when exitsyscall0 \
                 comes."
            }
            Class::Suspended => {
                "A goroutine stopped for its stack to be scanned or its status to be traced. The status word goes \
                 running→preempted→waiting (src/runtime/preempt.go, suspendG; proc.go, preemptPark); the trace has no \
                 preempted state and writes one GoBlock with the reason \"preempted\"."
            }
            Class::CoroutineSwitch => {
                "iter.Pull hands the thread to a goroutine. The status word goes waiting→running (src/runtime/coro.go, \
                 coroswitch_m); the trace's reader makes GoUnblock and GoStart of the one GoSwitch, i.e. through \
                 runnable (src/internal/trace/order.go, advanceGoSwitch)."
            }
            Class::ExtraGoroutineMade => {
                "The goroutine for a C thread is prepared before a thread needs it: idle→dead or deadextra \
                 (src/runtime/proc.go, oneNewExtraM). The trace knows it only from its use on (GoCreateSyscall)."
            }
            Class::FirstSight => {
                "sfgi sees the goroutine for the first time, it has been parked since before the probes stood, and in \
                 set A nothing tells its wake-up when the scheduler wakes it by itself (src/runtime/proc.go, \
                 findRunnable; mgcpacer.go, findRunnableGCWorker): its account begins with runnable→running. The \
                 trace's first generation wrote the status of every goroutine (tracestatus.go)."
            }
            Class::OutsideRecording => {
                "sfgi was attached before the recording began or after it ended (src/runtime/trace.go, StartTrace, \
                 StopTrace)."
            }
        }
    }
}

/// One difference: the steps `go` on Go's side mean the steps `sfgi` on ours.
struct Rule {
    class: Class,
    /// The Go releases 1.N that have this difference.
    minors: std::ops::RangeInclusive<u32>,
    go: &'static [(State, State)],
    /// The reason that the first step of `go` must have; empty: any.
    reason: &'static str,
    sfgi: &'static [(State, State)],
    /// Nanoseconds that must lie at least between the first and the last step of `sfgi`.
    pause_ns: u64,
}

/// All differences within a goroutine's sequence. Where several fit, `align` tries each.
const RULES: [Rule; 5] = [
    Rule {
        class: Class::LostProcessor,
        minors: 22..=u32::MAX,
        go: &[(Syscall, Runnable), (Runnable, Running)],
        reason: "",
        sfgi: &[(Syscall, Running)],
        pause_ns: 0,
    },
    Rule {
        class: Class::ExitWithoutProcessor,
        minors: 26..=u32::MAX,
        go: &[(Syscall, Runnable)],
        reason: "",
        sfgi: &[(Syscall, Running), (Running, Runnable)],
        pause_ns: 0,
    },
    Rule {
        class: Class::StalledExit,
        minors: 22..=25,
        go: &[(Syscall, Runnable)],
        reason: "",
        sfgi: &[(Syscall, Running), (Running, Runnable)],
        pause_ns: 10_000_000,
    },
    Rule {
        class: Class::Suspended,
        minors: 22..=u32::MAX,
        go: &[(Running, Waiting)],
        reason: "preempted",
        sfgi: &[(Running, Preempted), (Preempted, Waiting)],
        pause_ns: 0,
    },
    Rule {
        class: Class::CoroutineSwitch,
        minors: 23..=u32::MAX,
        go: &[(Waiting, Runnable), (Runnable, Running)],
        reason: "",
        sfgi: &[(Waiting, Running)],
        pause_ns: 0,
    },
];

#[derive(Debug, Default)]
pub struct Agreement {
    /// Goroutines that were compared.
    pub goroutines: usize,
    /// Transitions in Go's recording.
    pub transitions: usize,
    /// Transitions that sfgi's account has just so.
    pub same: usize,
    /// How often each difference occurred.
    pub classes: BTreeMap<Class, usize>,
    /// The largest difference between the two times of a transition, ns.
    pub max_skew: u64,
}

impl Agreement {
    fn count(&mut self, class: Class, times: usize) {
        if times > 0 {
            *self.classes.entry(class).or_default() += times;
        }
    }

    fn add(&mut self, other: Agreement) {
        self.goroutines += other.goroutines;
        self.transitions += other.transitions;
        self.same += other.same;
        self.max_skew = self.max_skew.max(other.max_skew);
        for (class, times) in other.classes {
            self.count(class, times);
        }
    }
}

impl fmt::Display for Agreement {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let explained = self.transitions - self.same;
        write!(
            f,
            "{} goroutines, {} transitions: {} same, {explained} explained",
            self.goroutines, self.transitions, self.same
        )?;
        write!(f, ", clocks within {} µs", self.max_skew / 1000)?;
        self.classes.iter().try_for_each(|(class, times)| write!(f, ", {class:?} {times}"))
    }
}

/// The first place where the two accounts of a goroutine part and no rule explains it.
#[derive(Debug)]
pub struct Disagreement {
    goid: u64,
    what: &'static str,
    go: Vec<Transition>,
    sfgi: Vec<Transition>,
}

impl fmt::Display for Disagreement {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "goroutine {}: {}", self.goid, self.what)?;
        for (name, list) in [("go", &self.go), ("sfgi", &self.sfgi)] {
            write!(f, "\n  {name}:")?;
            list.iter().try_for_each(|transition| write!(f, "\n    {transition}"))?;
        }
        Ok(())
    }
}

/// Compares Go's recording with sfgi's transitions (by goid, in order) of a program that Go 1.`minor` built. Returns
/// what agreed and what did not.
pub fn compare(
    minor: u32,
    go: &Recording,
    sfgi: &BTreeMap<u64, Vec<Transition>>,
) -> (Agreement, Vec<Disagreement>) {
    let mut agreement = Agreement::default();
    let mut disagreements = Vec::new();
    let goids: BTreeSet<u64> = go.goroutines.keys().chain(sfgi.keys()).copied().collect();
    for goid in goids {
        let theirs = go.goroutines.get(&goid).map(Vec::as_slice).unwrap_or_default();
        let ours = with_wakes_of_the_reader(sfgi.get(&goid).map(Vec::as_slice).unwrap_or_default());
        match compare_one(minor, (go.begin, go.end), theirs, &ours) {
            Ok(one) => agreement.add(one),
            Err(what) => disagreements.push(Disagreement {
                goid,
                what: what.what,
                go: around(theirs, what.go),
                sfgi: around(&ours, what.sfgi),
            }),
        }
    }
    (agreement, disagreements)
}

/// The reason of the goroutine that reads the trace, while it waits (`src/runtime/runtime2.go`, waitReasonStrings).
const READER: &str = "trace reader (blocked)";

/// Our account with the wakes of the trace's reader put in: in set A nothing tells that the scheduler wakes it by itself
/// (`src/runtime/proc.go`, findRunnable), and only that it runs is seen. It is there for the sake of the comparison
/// alone, and is woken meanwhile where the machine is slow.
fn with_wakes_of_the_reader(ours: &[Transition]) -> Vec<Transition> {
    let mut all: Vec<Transition> = Vec::with_capacity(ours.len());
    for step in ours {
        let waited = all.last().is_some_and(|last| last.to == Waiting && last.reason == READER);
        if waited && (step.from, step.to) == (Runnable, Running) {
            all.push(Transition { ts: step.ts, from: Waiting, to: Runnable, reason: READER.to_owned() });
        }
        all.push(step.clone());
    }
    all
}

const NEVER_BEGAN: &str = "only Go saw it move";

/// The indices at which two sequences part.
struct Parting {
    what: &'static str,
    go: usize,
    sfgi: usize,
}

/// A few steps before and after `at`.
fn around(list: &[Transition], at: usize) -> Vec<Transition> {
    let from = at.saturating_sub(4).min(list.len());
    let to = (at + 5).min(list.len());
    list[from..to].to_vec()
}

fn compare_one(
    minor: u32,
    (begin, end): (u64, u64),
    go: &[Transition],
    ours: &[Transition],
) -> Result<Agreement, Parting> {
    let mut agreement = Agreement { goroutines: 1, transitions: go.len(), ..Agreement::default() };
    let inside = |t: &Transition| t.ts > begin + EDGE && t.ts + EDGE < end;
    let Some(first) = go.first() else {
        if let Some(at) = ours.iter().position(inside) {
            return Err(Parting { what: "only sfgi saw it move", go: 0, sfgi: at });
        }
        agreement.count(Class::OutsideRecording, ours.len());
        return Ok(agreement);
    };
    // Where Go's sequence may begin in ours: at its birth, or at the same time.
    let may_begin = |our: &Transition| match first.from {
        Dead => our.from == Dead && !is_preparation(our),
        _ => our.ts.abs_diff(first.ts) < SKEW,
    };
    let mut parting = Parting { what: NEVER_BEGAN, go: 0, sfgi: ours.len() };
    let mut starts: Vec<usize> = (0..ours.len()).filter(|&at| may_begin(&ours[at])).collect();
    // The nearest in time first: a sequence may repeat itself.
    starts.sort_by_key(|&at| ours[at].ts.abs_diff(first.ts));
    for start in starts {
        match align(minor, go, &ours[start..], start == 0) {
            Ok(aligned) => {
                let after = start + aligned.sfgi;
                let missed =
                    ours[..start].iter().chain(&ours[after..]).filter(|t| !is_preparation(t)).any(inside);
                if missed {
                    if parting.what == NEVER_BEGAN {
                        parting = Parting { what: "sfgi saw more", go: go.len(), sfgi: after };
                    }
                    continue;
                }
                let prepared = ours[..start].iter().filter(|t| is_preparation(t)).count();
                agreement.count(Class::ExtraGoroutineMade, prepared);
                agreement.count(Class::OutsideRecording, ours.len() - aligned.sfgi - prepared);
                agreement.add(aligned.agreement);
                return Ok(agreement);
            }
            // The start nearest in time shows best where the two part.
            Err((at_go, at_sfgi)) if parting.what == NEVER_BEGAN => {
                parting = Parting { what: "they part", go: at_go, sfgi: start + at_sfgi };
            }
            Err(_) => {}
        }
    }
    Err(parting)
}

/// Whether this is `idle→dead`. Both states are read as [`State::Dead`], so it reads dead→dead.
fn is_preparation(transition: &Transition) -> bool {
    transition.from == Dead && transition.to == Dead
}

struct Aligned {
    agreement: Agreement,
    /// How many of our steps the alignment took.
    sfgi: usize,
}

/// A way in which two sequences can go on together: steps of Go's, steps of ours, and the difference that this is.
type Move = (usize, usize, Option<Class>);

/// Consumes all of `go` along the beginning of `ours`, or says how far that is possible: `(steps of go, steps of
/// ours)`. `first_sight`: sfgi saw nothing of the goroutine before. Goes depth first over the rules that fit and
/// tries no pair of positions twice, so the work is bounded by the product of the two lengths.
fn align(
    minor: u32,
    go: &[Transition],
    ours: &[Transition],
    first_sight: bool,
) -> Result<Aligned, (usize, usize)> {
    let mut tried = HashSet::new();
    let mut furthest = (0, 0);
    // The positions on the way, each with the moves that are still to be tried from it.
    let begin = if first_sight { first_moves(minor, go, ours) } else { moves(minor, go, ours) };
    let mut path: Vec<(usize, usize, Vec<Move>)> = vec![(0, 0, begin)];
    while let Some((g, s, open)) = path.last_mut() {
        let (g, s) = (*g, *s);
        if g == go.len() {
            return Ok(Aligned { agreement: account(&path, go, ours), sfgi: s });
        }
        furthest = furthest.max((g, s));
        let Some(&(more_g, more_s, _)) = open.last() else {
            path.pop();
            if let Some((_, _, open)) = path.last_mut() {
                open.pop();
            }
            continue;
        };
        let (g, s) = (g + more_g, s + more_s);
        if tried.insert((g, s)) {
            path.push((g, s, moves(minor, &go[g..], &ours[s..])));
        } else {
            open.pop();
        }
    }
    Err(furthest)
}

/// The moves that are possible at the beginning of both, the likeliest last, since `align` takes from the end.
fn moves(minor: u32, go: &[Transition], ours: &[Transition]) -> Vec<Move> {
    let mut moves: Vec<Move> = RULES
        .iter()
        .filter(|rule| rule.minors.contains(&minor))
        .filter(|rule| starts_with(go, rule.go) && starts_with(ours, rule.sfgi))
        .filter(|rule| rule.reason.is_empty() || go[0].reason == rule.reason)
        .filter(|rule| ours[rule.sfgi.len() - 1].ts.saturating_sub(ours[0].ts) >= rule.pause_ns)
        .map(|rule| (rule.go.len(), rule.sfgi.len(), Some(rule.class)))
        .collect();
    if let (Some(theirs), Some(our)) = (go.first(), ours.first())
        && (theirs.from, theirs.to) == (our.from, our.to)
    {
        moves.push((1, 1, None));
    }
    moves
}

/// As [`moves`], at the first step that sfgi saw of a goroutine: sfgi may not know the state before it, or knows that
/// state only from the step itself and has not seen the step into it.
fn first_moves(minor: u32, go: &[Transition], ours: &[Transition]) -> Vec<Move> {
    let mut moves = moves(minor, go, ours);
    if let (Some(theirs), Some(our)) = (go.first(), ours.first()) {
        if (our.from, our.to) == (Unknown, theirs.to) {
            moves.push((1, 1, Some(Class::FirstSight)));
        } else if (theirs.from, theirs.to) == (Waiting, our.from)
            && starts_with(&go[1..], &[(our.from, our.to)])
        {
            moves.push((2, 1, Some(Class::FirstSight)));
        }
    }
    moves
}

fn starts_with(list: &[Transition], pattern: &[(State, State)]) -> bool {
    list.len() >= pattern.len()
        && list.iter().zip(pattern).all(|(t, &(from, to))| (t.from, t.to) == (from, to))
}

/// Sums up the moves of a whole path.
fn account(path: &[(usize, usize, Vec<Move>)], go: &[Transition], ours: &[Transition]) -> Agreement {
    let mut agreement = Agreement::default();
    for (g, s, open) in path {
        match open.last() {
            Some((_, _, None)) if *g < go.len() => {
                agreement.same += 1;
                agreement.max_skew = agreement.max_skew.max(go[*g].ts.abs_diff(ours[*s].ts));
            }
            Some((_, _, Some(class))) if *g < go.len() => agreement.count(*class, 1),
            _ => {}
        }
    }
    agreement
}

#[cfg(test)]
mod tests;
