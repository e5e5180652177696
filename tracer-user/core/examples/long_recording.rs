//! Writes the recording of a made-up service that works for an hour: `long_recording FILE EVENTS`. A thousand
//! goroutines hand work to each other at fifty places, and after each round of that one ends and another one is made.
//! `cargo xtask bench replay` reads it, to see that memory does not grow with length.

use anyhow::{Context as _, Result};
use sfgi_core::goruntime::Release;
use sfgi_core::{
    event::{Batch, Birth, By, Event, Kind, Mode, Payload, Set, Stack, status},
    names::Symbols,
    recording::{Head, Keep, Recorder, Trigger},
    session::{About, End, Input, Observer as _, Round, Target},
};
use std::{
    env,
    fs::File,
    io::{BufWriter, Write},
    path::PathBuf,
};

const HOUR_NS: u64 = 3_600_000_000_000;
const GOROUTINES: u64 = 1000;
const PLACES: u64 = 50;
/// Events of one drain.
const BATCH: usize = 10_000;

/// The service, as far as it has come.
struct Service {
    now_ts: u64,
    step_ns: u64,
    /// What the goroutine that sits at each place is called; ids are not used again.
    goids: Vec<u64>,
    next_goid: u64,
    turn: u64,
}

impl Service {
    fn event(&mut self, seat: usize, kind: Kind, (from, to): (u8, u8), payload: Payload) -> Event {
        self.now_ts += self.step_ns;
        let (g, tid) = (0xc000_0000 + seat as u64 * 0x200, 100 + seat as u32 % 8);
        Event { ts: self.now_ts, g, goid: self.goids[seat], tid, kind, from, to, reason: 1, payload }
    }

    /// One waits, and the next one is woken and runs; the last of all ends, and another one is made in its place.
    fn turn(&mut self, events: &mut Vec<Event>) {
        let seat = (self.turn % GOROUTINES) as usize;
        let other = (seat + 1) % GOROUTINES as usize;
        let pc = 0x40_0000 + self.turn % PLACES * 0x100;
        let stack = Payload::Stack { stack: Stack::of(&[pc, pc + 0x10, pc + 0x20]), object: 0 };
        let by = Payload::By(By { by_goid: self.goids[seat], object: 0 });
        events.extend([
            self.event(other, Kind::StatusWake, (status::WAITING, status::RUNNABLE), by),
            self.event(seat, Kind::StatusPark, (status::RUNNING, status::WAITING), stack),
            self.event(other, Kind::Status, (status::RUNNABLE, status::RUNNING), Payload::None),
        ]);
        self.turn += 1;
        if seat == 0 && self.turn > 1 {
            let birth =
                Birth { parent_goid: self.goids[1], gopc: pc + 8, startpc: 0x50_0000, funcval: 0x60_0000 };
            let last = GOROUTINES as usize - 1;
            events.extend([
                self.event(last, Kind::StatusWake, (status::WAITING, status::RUNNABLE), by),
                self.event(last, Kind::Status, (status::RUNNABLE, status::RUNNING), Payload::None),
                self.event(last, Kind::Status, (status::RUNNING, status::DEAD), Payload::None),
            ]);
            self.goids[last] = self.next_goid;
            self.next_goid += 1;
            events.extend([
                self.event(last, Kind::StatusCreate, (status::DEAD, status::RUNNABLE), Payload::Birth(birth)),
                self.event(last, Kind::Status, (status::RUNNABLE, status::RUNNING), Payload::None),
                self.event(last, Kind::StatusPark, (status::RUNNING, status::WAITING), stack),
            ]);
        }
    }
}

fn main() -> Result<()> {
    let mut args = env::args_os().skip(1);
    let file = PathBuf::from(args.next().context("say which FILE to write")?);
    let count = args.next().context("say how many EVENTS")?.to_string_lossy().parse::<u64>()?;
    let about = About {
        pid: 1,
        exe: "/usr/bin/service".to_owned(),
        module: "service".to_owned(),
        go_version: "go1.26.6".to_owned(),
        release: Release::new(26),
        wait_reasons: vec![String::new(), "chan receive".to_owned()].into(),
        set: Set::B,
        mode: Mode::Full,
        blind: Vec::new(),
        from_birth: false,
    };
    let outputs =
        Box::new(move || Ok(Box::new(BufWriter::new(File::create(&file)?)) as Box<dyn Write + Send>));
    let mut recorder = Recorder::new(Head::new(0, 0, false), Keep::All, Trigger::default(), outputs)?;
    let mut targets = [Target::new(about, Symbols::told())];
    recorder.begin(&mut targets)?;
    let mut service = Service {
        now_ts: 1,
        step_ns: HOUR_NS / count.max(1),
        goids: (1..=GOROUTINES).collect(),
        next_goid: GOROUTINES + 1,
        turn: 0,
    };
    let (mut round, mut written) = (Round::default(), 0);
    while written < count {
        let mut events = Vec::with_capacity(BATCH + 16);
        while events.len() < BATCH {
            service.turn(&mut events);
        }
        written += events.len() as u64;
        let ts = service.now_ts;
        let input = Input::Events(Batch { events, lost: 0, blurred: 0, doubt_until: ts, complete_until: ts });
        round.clear(1);
        targets[0].take(&input, &mut round.news[0]);
        recorder.input(0, &input, &mut targets[0])?;
        recorder.round(&mut targets, &round)?;
    }
    let closing = format!("{written} made-up events");
    recorder.end(&mut targets, &[End { until_ts: service.now_ts, lost: 0, why: None, closing }])?;
    println!("{written}");
    Ok(())
}
