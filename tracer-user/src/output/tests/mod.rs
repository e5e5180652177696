//! Small traces made by hand, in each format.

mod columns;
mod forms;
mod kinds;
pub(in crate::output) mod timeline;

use super::{
    stacks::{Form, Kind, Span, Stacks, Wanted},
    *,
};
use sfgi_core::goruntime::Release;
use sfgi_core::{
    event::{Batch, Birth, By, Event, Kind as Probe, Mode, Payload, Set, Stack, status},
    goruntime::State,
    model::Seen,
    names::{Site, Symbols},
    session::{About, End, Input, Observer, Round, SnapshotInput, Target},
};
use std::{
    io::{self, Write},
    sync::{Arc, Mutex},
};

const REASONS: [&str; 5] = ["", "chan receive", "sync.Mutex.Lock", "GC worker (idle)", "IO wait"];
const RECEIVE: u8 = 1;
const LOCK: u8 = 2;
const IDLE: u8 = 3;

/// Functions by the address of a call in them; the return address is one more.
const FUNCTIONS: [(u64, &[&str]); 8] = [
    (10, &["runtime.gopark"]),
    (20, &["main.receive"]),
    (30, &["main.inlined", "main.outer"]),
    (40, &["main.main"]),
    (50, &["sync.(*Mutex).Lock"]),
    (60, &["main.(*store[go.shape.struct { A int; B int }]).get"]),
    (70, &["runtime.gcBgMarkWorker"]),
    (80, &["main.worker"]),
];

/// A writer whose bytes outlive it.
#[derive(Clone, Default)]
struct Written(Arc<Mutex<Vec<u8>>>);

impl Write for Written {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.lock().unwrap().write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Written {
    fn bytes(&self) -> Vec<u8> {
        self.0.lock().unwrap().clone()
    }

    fn text(&self) -> String {
        String::from_utf8(self.bytes()).unwrap()
    }
}

fn target(pid: u32) -> Target {
    let about = About {
        pid,
        exe: "/srv/shop <1>".to_owned(),
        module: "example.com/shop".to_owned(),
        go_version: "go1.26.6".to_owned(),
        release: Release::new(26),
        wait_reasons: REASONS.map(String::from).to_vec().into(),
        set: Set::B,
        mode: Mode::Full,
        blind: Vec::new(),
        from_birth: false,
    };
    let mut symbols = Symbols::told();
    for (pc, names) in FUNCTIONS {
        let site = |name: &&str| Site { func: (*name).into(), file: "/src/main.go".into(), line: pc as u32 };
        symbols.tell_frames(pc, names.iter().map(site).collect());
    }
    Target::new(about, symbols)
}

fn event(ts: u64, goid: u64, from: u8, to: u8, payload: Payload) -> Event {
    let kind = match (from, to) {
        (status::WAITING, status::RUNNABLE) => Probe::StatusWake,
        (status::RUNNING, status::WAITING) => Probe::StatusPark,
        (status::DEAD, _) => Probe::StatusCreate,
        _ => Probe::Status,
    };
    Event { ts, g: goid * 0x1000, goid, tid: goid as u32, kind, from, to, reason: 0, payload }
}

fn stack(calls: &[u64]) -> Stack {
    Stack::of(&calls.iter().map(|call| call + 1).collect::<Vec<u64>>())
}

fn create(ts: u64, goid: u64, gopc: u64, startpc: u64) -> Event {
    let birth = Birth { parent_goid: 1, gopc: gopc + 1, startpc, funcval: 0 };
    event(ts, goid, status::DEAD, status::RUNNABLE, Payload::Birth(birth))
}

fn run(ts: u64, goid: u64) -> Event {
    event(ts, goid, status::RUNNABLE, status::RUNNING, Payload::None)
}

fn block(ts: u64, goid: u64, reason: u8, calls: &[u64]) -> Event {
    Event {
        reason,
        ..event(ts, goid, status::RUNNING, status::WAITING, Payload::Stack { stack: stack(calls), object: 0 })
    }
}

fn wake(ts: u64, goid: u64) -> Event {
    event(ts, goid, status::WAITING, status::RUNNABLE, Payload::By(By { by_goid: 1, object: 0 }))
}

/// A thread loses or gets a CPU.
fn cpu(ts: u64, tid: u64, kind: Probe) -> Event {
    Event { kind, g: 0, goid: 0, ..event(ts, tid, 0, 0, Payload::None) }
}

fn events(events: Vec<Event>) -> Input {
    let complete_until = events.last().map_or(0, |event| event.ts);
    Input::Events(Batch { events, complete_until, ..Batch::default() })
}

/// Plays the inputs, a round each, in a trace that ends at 1000.
fn play(observer: &mut dyn Observer, inputs: &[Input]) -> io::Result<()> {
    let mut targets = [target(7)];
    let mut round = Round::default();
    observer.begin(&mut targets)?;
    for input in inputs {
        round.clear(1);
        targets[0].take(input, &mut round.news[0]);
        observer.input(0, input, &mut targets[0])?;
        observer.round(&mut targets, &round)?;
    }
    observer.end(&mut targets, &[End { until_ts: 1000, ..End::default() }])
}

fn wanted(kind: Kind) -> Wanted {
    let span = Span { from_ts: 0, to_ts: u64::MAX };
    Wanted { kind, span, pid: None, reason: None, system: false, by_creator: false }
}

/// The bytes of a profile in this form.
fn written(form: Form, wanted: Wanted, inputs: &[Input]) -> Written {
    let out = Written::default();
    play(&mut Stacks::new(out.clone(), form, wanted, 5), inputs).unwrap();
    out
}

fn folded(wanted: Wanted, inputs: &[Input]) -> String {
    written(Form::Folded, wanted, inputs).text()
}

/// Goroutine 2 waits twice in a call of main.inlined, 3 waits for a lock, 4 is the runtime's own. 3 and 4 still wait at
/// the end.
fn waits() -> Vec<Input> {
    vec![
        events(vec![
            create(100, 2, 40, 80),
            create(101, 3, 40, 80),
            create(102, 4, 10, 70),
            run(110, 2),
            run(111, 3),
            run(112, 4),
            block(150, 4, IDLE, &[10, 70]),
            block(200, 2, RECEIVE, &[10, 20, 30, 80]),
            block(210, 3, LOCK, &[50, 60, 80]),
        ]),
        events(vec![
            wake(300, 2),
            run(310, 2),
            block(400, 2, RECEIVE, &[10, 20, 30, 80]),
            wake(450, 2),
            run(451, 2),
        ]),
    ]
}
