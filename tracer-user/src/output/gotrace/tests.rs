//! Traces of made-up timelines, held against the rules of `src/internal/trace/order.go` (Go 1.24), written down in
//! [`Rules`]. Go's own reader reads real traces in the live tests.

use super::*;
use crate::output::tests::timeline::{made, target, tell};
use proptest::prelude::*;
use sfgi_core::session::News;
use std::collections::BTreeMap;

/// The contents of a trace.
#[derive(Default)]
struct Read {
    strings: BTreeMap<u64, String>,
    /// Numbers of the functions' names, innermost first.
    stacks: BTreeMap<u64, Vec<u64>>,
    /// Time, thread, number, arguments.
    events: Vec<(u64, u64, u8, Vec<u64>)>,
}

/// The number of arguments of each event, by its number.
const ARGUMENTS: [(u8, usize); 18] = [
    (10, 2),
    (11, 0),
    (13, 2),
    (14, 3),
    (15, 1),
    (16, 2),
    (17, 0),
    (18, 0),
    (19, 2),
    (20, 2),
    (21, 3),
    (22, 2),
    (23, 0),
    (24, 0),
    (25, 3),
    (29, 2),
    (30, 1),
    (44, 4),
];

fn take(data: &mut &[u8]) -> u64 {
    let mut value = 0;
    for shift in (0..).step_by(7) {
        let byte = data[0];
        *data = &data[1..];
        value |= u64::from(byte & 0x7f) << shift;
        if byte < 0x80 {
            break;
        }
    }
    value
}

fn read(trace: &[u8]) -> Read {
    let mut read = Read::default();
    let mut rest = trace.strip_prefix(b"go 1.22 trace\0\0\0").unwrap();
    let (mut frequencies, mut first_ts) = (0, None);
    while !rest.is_empty() {
        assert_eq!((take(&mut rest), take(&mut rest)), (1, 1), "a batch of the first generation");
        let (thread, mut ts, len) = (take(&mut rest), take(&mut rest), take(&mut rest));
        assert!(ts >= *first_ts.get_or_insert(ts), "a batch from before the beginning");
        assert!(len <= 64 << 10, "too long a batch");
        let (mut data, after) = rest.split_at(len as usize);
        rest = after;
        let first = data[0];
        if matches!(first, 2 | 4 | 8) {
            data = &data[1..];
        }
        while !data.is_empty() {
            match first {
                2 => {
                    assert_eq!(take(&mut data), 3);
                    let (id, frames) = (take(&mut data), take(&mut data));
                    let frames = (0..frames).map(|_| [(); 4].map(|()| take(&mut data))[1]).collect();
                    assert_eq!(read.stacks.insert(id, frames), None);
                }
                4 => {
                    assert_eq!(take(&mut data), 5);
                    let (id, len) = (take(&mut data), take(&mut data) as usize);
                    assert_eq!(
                        read.strings.insert(id, String::from_utf8(data[..len].to_vec()).unwrap()),
                        None
                    );
                    data = &data[len..];
                }
                8 => {
                    assert_eq!(take(&mut data), 1_000_000_000);
                    frequencies += 1;
                }
                _ => {
                    let kind = take(&mut data) as u8;
                    ts += take(&mut data);
                    let count = ARGUMENTS.iter().find(|(known, _)| *known == kind).unwrap().1;
                    read.events.push((ts, thread, kind, (0..count).map(|_| take(&mut data)).collect()));
                }
            }
        }
    }
    assert_eq!(frequencies, 1);
    read.events.sort_by_key(|(ts, ..)| *ts);
    read
}

/// The state that readers keep, by their rules.
#[derive(Default)]
struct Rules {
    /// Goroutine → state, sequence number.
    goroutines: BTreeMap<u64, (u64, u64)>,
    /// P → state (1 running, 2 idle, 3 in a system call), sequence number.
    ps: BTreeMap<u64, (u64, u64)>,
    /// Thread → goroutine, P.
    threads: BTreeMap<u64, (Option<u64>, Option<u64>)>,
    gc: Option<u64>,
}

const RUNNABLE: u64 = GoStatus::Runnable as u64;
const RUNNING: u64 = GoStatus::Running as u64;
const SYSCALL: u64 = GoStatus::Syscall as u64;
const WAITING: u64 = GoStatus::Waiting as u64;

use super::wire::GoStatus;

impl Rules {
    /// Takes an event; `None`: the rules refuse it.
    fn take(&mut self, thread: u64, kind: u8, args: &[u64]) -> Option<()> {
        let (goroutine, p) = self.threads.get(&thread).copied().unwrap_or_default();
        let running = || {
            p?;
            goroutine.filter(|goid| self.goroutines.get(goid).is_some_and(|known| known.0 == RUNNING))
        };
        let mut now = (goroutine, p);
        match kind {
            10 => {
                let known = self.ps.get_mut(&args[0])?;
                (p.is_none() && *known == (2, args[1] - 1)).then_some(())?;
                *known = (1, args[1]);
                now.1 = Some(args[0]);
            }
            11 => {
                self.ps.get_mut(&p?)?.0 = 2;
                now.1 = None;
            }
            13 => {
                (p.is_none() && self.ps.insert(args[0], (args[1], 0)).is_none()).then_some(())?;
                now.1 = Some(args[0]);
            }
            14 => {
                p?;
                (goroutine.is_none() || running().is_some()).then_some(())?;
                self.goroutines.insert(args[0], (RUNNABLE, 0)).is_none().then_some(())?;
            }
            15 => {
                (goroutine.is_none() && p.is_none()).then_some(())?;
                self.goroutines.insert(args[0], (SYSCALL, 0)).is_none().then_some(())?;
                now.0 = Some(args[0]);
            }
            16 => {
                (goroutine.is_none() && self.ps.get(&p?)?.0 == 1).then_some(())?;
                let known = self.goroutines.get_mut(&args[0])?;
                (*known == (RUNNABLE, args[1] - 1)).then_some(())?;
                *known = (RUNNING, args[1]);
                now.0 = Some(args[0]);
            }
            17 => {
                self.goroutines.remove(&running()?);
                now.0 = None;
            }
            18 => {
                (p.is_none() && self.goroutines.remove(&goroutine?)?.0 == SYSCALL).then_some(())?;
                now.0 = None;
            }
            19 | 20 => {
                let state = if kind == 19 { RUNNABLE } else { WAITING };
                let goid = running()?;
                self.goroutines.get_mut(&goid)?.0 = state;
                now.0 = None;
            }
            21 => {
                let known = self.goroutines.get_mut(&args[0])?;
                (*known == (WAITING, args[1] - 1)).then_some(())?;
                *known = (RUNNABLE, args[1]);
            }
            22 => {
                let goid = running()?;
                self.goroutines.get_mut(&goid)?.0 = SYSCALL;
                let known = self.ps.get_mut(&p?)?;
                (known.1 + 1 == args[0]).then_some(())?;
                *known = (3, args[0]);
            }
            23 => {
                let known = self.goroutines.get_mut(&goroutine?)?;
                let p = self.ps.get_mut(&p?)?;
                (known.0 == SYSCALL && p.0 == 3).then_some(())?;
                (known.0, p.0) = (RUNNING, 1);
            }
            24 => {
                let known = self.goroutines.get_mut(&goroutine?)?;
                (known.0 == SYSCALL && p.is_none()).then_some(())?;
                known.0 = RUNNABLE;
                now.0 = None;
            }
            25 => {
                self.goroutines.insert(args[0], (args[2], 0)).is_none().then_some(())?;
                if args[2] == RUNNING || args[2] == SYSCALL {
                    (goroutine.is_none() && args[1] == thread && p.is_some()).then_some(())?;
                    now.0 = Some(args[0]);
                }
            }
            29 | 30 => {
                running()?;
                let sequence = self.gc.map_or(1, |gc| gc + 1);
                (args[0] == sequence && sequence % 2 == u64::from(kind == 29)).then_some(())?;
                self.gc = Some(sequence);
            }
            44 => drop(running()?),
            _ => return None,
        }
        self.threads.insert(thread, now);
        Some(())
    }
}

/// Checks a trace as readers do, and returns what goroutines did, one line each.
fn checked(trace: &[u8]) -> Vec<String> {
    let read = read(trace);
    let text = |id: u64| read.strings.get(&id).unwrap_or_else(|| panic!("no string {id}"));
    let stack = |id: u64| -> String {
        let frames = if id == 0 { &Vec::new() } else { &read.stacks[&id] };
        frames.iter().map(|func| format!(" < {}", text(*func))).collect()
    };
    let (mut rules, mut lines, mut last_ts) = (Rules::default(), Vec::new(), 0);
    for (ts, thread, kind, args) in &read.events {
        let on = rules.threads.get(thread).and_then(|thread| thread.0);
        let taken = rules.take(*thread, *kind, args);
        assert!(
            taken.is_some(),
            "readers refuse {kind} {args:?} on thread {thread} at {ts}, after {lines:#?}"
        );
        assert!(*ts > last_ts, "two at the same time: {ts}");
        last_ts = *ts;
        let on = on.map_or("nobody".to_owned(), |goid| format!("g{goid}"));
        let what = match kind {
            14 => format!("{on} creates g{}{}{}", args[0], stack(args[1]), stack(args[2])),
            15 => format!("g{} comes from C", args[0]),
            16 => format!("g{} starts", args[0]),
            17 | 18 => format!("{on} ends"),
            19 => format!("{on} stops {:?}{}", text(args[0]), stack(args[1])),
            20 => format!("{on} blocks {:?}{}", text(args[0]), stack(args[1])),
            21 => format!("{on} wakes g{}{}", args[0], stack(args[2])),
            22 => format!("{on} enters syscall{}", stack(args[1])),
            23 => format!("{on} comes back"),
            24 => format!("{on} comes back without a P"),
            25 => format!(
                "g{} is {}",
                args[0],
                ["", "runnable", "running", "in syscall", "waiting"][args[2] as usize]
            ),
            29 => "collection".to_owned(),
            30 => "collected".to_owned(),
            44 => format!("{}: {}", text(args[1]), text(args[2])),
            _ => continue,
        };
        let thread =
            if *thread >> 32 == 0 { format!("m{thread}") } else { format!("m?{}", thread - (1 << 32)) };
        lines.push(format!("{ts} {thread} {what}"));
    }
    lines
}

#[track_caller]
fn timeline(steps: &str, expected: &[&str]) {
    let mut trace = Vec::new();
    tell(&mut GoTrace::new(&mut trace, None), steps);
    assert_eq!(checked(&trace), expected);
}

#[test]
fn a_goroutine_from_its_creation_to_its_end() {
    timeline(
        "100 m1 g1 found>running
         110 m1 g7 dead>runnable by g1
         120 m1 g1 running>waiting chan receive
         130 m1 g7 runnable>running
         140 m1 g7 running>syscall
         150 m1 g7 syscall>running
         160 m1 g1 waiting>runnable by g7
         170 m1 g7 running>dead
         180 m2 g1 runnable>running",
        &[
            "101 m1 g1 is running",
            "110 m1 g1 creates g7 < main.work < main.inlined < main.main",
            "120 m1 g1 blocks \"chan receive\"",
            "130 m1 g7 starts",
            "140 m1 g7 enters syscall",
            "150 m1 g7 comes back",
            "160 m1 g7 wakes g1",
            "170 m1 g7 ends",
            "182 m2 g1 starts",
        ],
    );
}

#[test]
fn what_was_there_before_is_told_at_the_beginning() {
    // Both by what they do first; the second has no thread until then.
    timeline(
        "100 m1 g1 runnable>running
         200 m2 g2 syscall>running
         300 m3 g3 waiting>running coroutine",
        &[
            "100 m?0 g1 is runnable",
            "102 m2 g2 is in syscall",
            "103 m?0 g3 is waiting",
            "105 m1 g1 starts",
            "200 m2 g2 comes back",
            "300 m3 nobody wakes g3",
            "302 m3 g3 starts",
        ],
    );
}

#[test]
fn steps_that_come_late_are_put_where_they_belong() {
    timeline(
        "100 m1 g1 found>running
         300 m1 g1 running>waiting IO wait
         200 m1 g2 dead>runnable by g1",
        &[
            "101 m1 g1 is running",
            "200 m1 g1 creates g2 < main.work < main.inlined < main.main",
            "300 m1 g1 blocks \"network\"",
        ],
    );
}

#[test]
fn what_was_lost_is_said_and_marked() {
    timeline(
        "100 m1 g1 found>running
         110 m1 g1 running>waiting chan receive
         -- lost 3
         120 m2 g1 runnable>running
         130 m2 g1 running>runnable",
        &[
            "101 m1 g1 is running",
            "110 m1 g1 blocks \"chan receive\"",
            "120 m2 nobody wakes g1 < sfgi: not seen",
            "123 m2 g1 starts",
            "124 m2 sfgi: 3 events lost",
            "130 m2 g1 stops \"\"",
        ],
    );
}

#[test]
fn two_goroutines_are_never_on_one_thread() {
    timeline(
        "100 m1 g1 runnable>running
         110 m1 g2 runnable>running
         120 m1 g2 running>dead
         130 m1 g1 running>preempted",
        &[
            "100 m?0 g1 is runnable",
            "101 m?0 g2 is runnable",
            "103 m1 g1 starts",
            "111 m?0 g2 starts",
            "120 m?0 g2 ends",
            "130 m1 g1 blocks \"preempted\"",
        ],
    );
}

#[test]
fn a_c_thread_calls_go() {
    timeline(
        "100 m9 g5 dead>syscall
         110 m9 g5 syscall>running
         120 m9 g5 running>syscall
         130 m9 g5 syscall>dead
         140 m9 g5 dead>syscall",
        &[
            "100 m9 g5 comes from C",
            "110 m9 g5 comes back without a P",
            "112 m9 g5 starts",
            "120 m9 g5 enters syscall",
            "131 m9 g5 ends",
            "140 m9 g5 comes from C",
        ],
    );
}

#[test]
fn a_coroutine_ends_where_its_thread_goes_over_to_another() {
    timeline(
        "100 m1 g4 found>running
         110 m1 g1 waiting>running by g4
         111 m1 g4 running>dead
         120 m1 g1 running>waiting coroutine",
        &[
            "101 m1 g4 is running",
            "102 m?0 g1 is waiting",
            "110 m1 g4 ends",
            "111 m1 nobody wakes g1",
            "112 m1 g1 starts",
            "120 m1 g1 blocks \"coroutine\"",
        ],
    );
}

#[test]
fn collections_need_a_goroutine_that_runs() {
    timeline(
        "100 m1 g0 gc_end
         110 m1 g0 gc_start
         120 m1 g1 runnable>running
         130 m2 g0 gc_end",
        &["100 m?0 g1 is runnable", "121 m1 g1 starts", "122 m1 collection", "130 m1 collected"],
    );
}

#[test]
fn one_of_several_processes_must_be_chosen() {
    let mut trace = GoTrace::new(Vec::new(), None);
    assert!(trace.begin(&mut [target(), target()]).is_err());
    assert!(GoTrace::new(Vec::new(), Some(41)).begin(&mut [target()]).is_err());
    assert!(GoTrace::new(Vec::new(), Some(42)).begin(&mut [target()]).is_ok());
}

fn any_state() -> impl Strategy<Value = State> {
    prop_oneof![
        Just(State::Unknown),
        Just(State::Runnable),
        Just(State::Running),
        Just(State::Syscall),
        Just(State::Waiting),
        Just(State::Dead),
        Just(State::Preempted),
    ]
}

proptest! {
    /// Readers take what is written of any steps, however contradictory.
    #[test]
    fn readers_take_anything(
        told in prop::collection::vec((0u64..50, 0u32..4, 1u64..6, any_state(), any_state(), any::<bool>()), 0..60)
    ) {
        let mut bytes = Vec::new();
        let mut trace = GoTrace::new(&mut bytes, None);
        let mut targets = [target()];
        trace.begin(&mut targets).unwrap();
        for &(ts, tid, goid, from, to, gc) in &told {
            // Far enough apart that some are written before the next one comes.
            let ts = 1 + ts * 100_000_000;
            let what = if gc { What::GcStart } else { What::Start };
            let steps = vec![made(ts, tid, goid, what, from, to, 0)];
            trace.round(&mut targets, &Round { news: vec![News { steps, ts, ..News::default() }] }).unwrap();
        }
        trace.end(&mut targets, &[End::default()]).unwrap();
        checked(&bytes);
    }
}
