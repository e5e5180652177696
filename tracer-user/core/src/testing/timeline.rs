//! Events as text, one a line, for tests that read as timelines.
//!
//! `10 m1 g7 casgstatus 2>4 chan receive`: time, thread, goroutine, probed function and its states. `g7@3` is goroutine
//! 7 on the `g` of goroutine 3; `g0@3` has no goid yet. Then, in any order: a wait reason, `by g1`, `pc=5,6`, `fn=9`
//! (funcval), `parent=g1`, `to g8`, `exit`, `parked`, `runnable`.

use crate::event::{Birth, By, Event, Kind, NewProc, Payload, Stack, Switch, status};

/// The wait reasons that lines may name; the index is the number in the event.
pub const REASONS: [&str; 11] = [
    "",
    "chan receive",
    "select",
    "coroutine",
    "preempted",
    "garbage collection",
    "GC worker (idle)",
    "stopping the world",
    "dumping heap",
    "IO wait",
    "select (no cases)",
];

/// The event that a line stands for.
///
/// # Panics
/// The line is malformed.
pub fn event(text: &str) -> Event {
    let mut words = text.split(' ');
    let mut next = || words.next().unwrap_or_else(|| panic!("too short: {text}"));
    let ts = number(next());
    let tid = number(next()) as u32;
    let (goid, g) = goroutine(next());
    let kind = next();
    let mut event =
        Event { ts, g, goid, tid, kind: Kind::Exec, from: 0, to: 0, reason: 0, payload: Payload::None };
    let rest = match kind {
        "casgstatus" => {
            let (from, to) = next().split_once('>').expect("FROM>TO");
            (event.from, event.to) = (number(from) as u8, number(to) as u8);
            ""
        }
        other => other,
    };
    event.kind = kind_of(rest, event.from, event.to);
    let rest: Vec<&str> = words.collect();
    details(&mut event, &rest.join(" "));
    event
}

fn kind_of(name: &str, from: u8, to: u8) -> Kind {
    match (name, from, to) {
        // The probes have a kind of their own for the commonest changes of `casgstatus`.
        ("", status::WAITING, status::RUNNABLE) => Kind::StatusWake,
        ("", status::RUNNING, status::WAITING) => Kind::StatusPark,
        ("", status::RUNNING, status::SYSCALL) => Kind::StatusSyscall,
        ("", status::DEAD, status::RUNNABLE | status::WAITING) => Kind::StatusCreate,
        ("", ..) => Kind::Status,
        ("casGToPreemptScan", ..) => Kind::PreemptScan,
        ("casGFromPreempted", ..) => Kind::FromPreempted,
        ("coroswitch_m", ..) => Kind::CoroSwitch,
        ("newproc1", ..) => Kind::NewProc,
        ("execute", ..) => Kind::Execute,
        ("firstrun", ..) => Kind::FirstRun,
        ("park_m", ..) => Kind::Park,
        ("ready", ..) => Kind::Ready,
        ("injectglist", ..) => Kind::Inject,
        ("gosched_m", ..) => Kind::Gosched,
        ("goyield_m", ..) => Kind::Goyield,
        ("goschedImpl", ..) => Kind::GoschedImpl,
        ("preemptPark", ..) => Kind::PreemptPark,
        ("gdestroy", ..) => Kind::Destroy,
        ("entersyscall", ..) => Kind::SyscallEnter,
        ("entersyscallblock", ..) => Kind::SyscallBlock,
        ("exitsyscall", ..) => Kind::SyscallExit,
        ("exitsyscall0" | "exitsyscallNoP", ..) => Kind::SyscallExitNoP,
        ("needm", ..) => Kind::NeedM,
        ("dropm", ..) => Kind::DropM,
        ("gcstart", ..) => Kind::GcStart,
        ("gcend", ..) => Kind::GcEnd,
        ("off", ..) => Kind::ThreadOff,
        ("on", ..) => Kind::ThreadOn,
        ("wake", ..) => Kind::ThreadWake,
        ("exec", ..) => Kind::Exec,
        _ => panic!("no such function: {name}"),
    }
}

/// Reads the words behind the function: the payload's, and what is left as the wait reason.
fn details(event: &mut Event, rest: &str) {
    let (mut by, mut to, mut parent, mut pcs, mut funcval) = (0, (0, 0), 0, Vec::new(), 0);
    let (mut exit, mut object, mut reason) = (0, 0, Vec::new());
    let mut words = rest.split(' ').filter(|word| !word.is_empty());
    while let Some(word) = words.next() {
        match word.split_once('=') {
            Some(("pc", list)) => pcs = list.split(',').map(number).collect(),
            Some(("fn", value)) => funcval = number(value),
            Some(("on", value)) => object = number(value),
            Some(("parent", who)) => parent = goroutine(who).0,
            _ if word == "by" => by = goroutine(words.next().expect("by whom")).0,
            _ if word == "to" => to = goroutine(words.next().expect("to whom")),
            _ if word == "exit" => exit = 1,
            _ if word == "parked" => event.to = status::WAITING,
            _ if word == "runnable" => event.from = 1,
            _ => reason.push(word),
        }
    }
    let reason = reason.join(" ");
    let index = REASONS.iter().position(|known| *known == reason);
    event.reason = index.unwrap_or_else(|| panic!("no such wait reason: {reason}")) as u8;
    let pc = |at: usize| pcs.get(at).copied().unwrap_or(0);
    event.payload = match event.kind {
        Kind::StatusWake | Kind::Ready | Kind::Inject => Payload::By(By { by_goid: by, object }),
        Kind::StatusPark | Kind::StatusSyscall | Kind::Park | Kind::SyscallEnter | Kind::SyscallBlock => {
            Payload::Stack { stack: Stack::of(&pcs), object }
        }
        Kind::StatusCreate | Kind::FirstRun | Kind::Destroy => {
            Payload::Birth(Birth { parent_goid: parent, gopc: pc(0), startpc: pc(1), funcval })
        }
        Kind::NewProc => Payload::NewProc(NewProc { callerpc: pc(0), startpc: pc(1), funcval }),
        Kind::CoroSwitch => Payload::Switch(Switch { next_g: to.1, next_goid: to.0, exit }),
        _ => Payload::None,
    };
}

/// `g7` → (7, its `g`), `g7@3` → (7, the `g` of 3), `g0@3` → (0, the `g` of 3).
fn goroutine(text: &str) -> (u64, u64) {
    let (goid, on) = text.split_once('@').unwrap_or((text, text));
    // Each goroutine has a made-up address, so that one `g` can be named by the goid that had it first.
    (number(goid), number(on) * 0x1000)
}

fn number(text: &str) -> u64 {
    let digits = text.trim_start_matches(['g', 'm']);
    digits.parse().unwrap_or_else(|_| panic!("no number: {text}"))
}
