//! Recordings played: they show what the live trace showed, and damage costs only what comes behind it.

mod damage;

use super::{Json, Printer, Text};
use sfgi_core::goruntime::Release;
use sfgi_core::{
    event::{Batch, Birth, By, Event, Kind, Mode, Payload, Set, Stack, status},
    goruntime::State,
    model::{Seen, Whats},
    names::{Filter, Site, Symbols},
    recording::{Document, Head, Keep, Played, Player, Recorder, Trigger, append},
    session::{About, End, Input, News, Observer, Round, SnapshotInput, Target, WholeStack},
    testing::recording as files,
};
use std::{
    io::{self, Cursor, Write},
    sync::{Arc, Mutex, atomic::AtomicBool, atomic::Ordering},
};

/// A writer whose bytes can be read by the test.
#[derive(Clone, Default)]
struct Shared(Arc<Mutex<Vec<u8>>>);

impl Shared {
    fn bytes(&self) -> Vec<u8> {
        self.0.lock().expect("no panic while it is held").clone()
    }
}

impl Write for Shared {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.lock().expect("no panic while it is held").write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

fn about(pid: u32) -> About {
    About {
        pid,
        exe: "/bin/x".into(),
        module: "x".into(),
        go_version: "go1.26.6".into(),
        release: Release::new(26),
        wait_reasons: vec![String::new(), "chan receive".into(), "sleep".into()].into(),
        set: Set::B,
        mode: Mode::Full,
        blind: Vec::new(),
        from_birth: false,
    }
}

const G1: (u64, u64) = (0xc000_0000, 1);
const G2: (u64, u64) = (0xc000_1000, 2);

fn event(ts: u64, (g, goid): (u64, u64), kind: Kind, from: u8, to: u8, payload: Payload) -> Event {
    Event { ts, g, goid, tid: 7, kind, from, to, reason: 1, payload }
}

/// One turn of two goroutines that wake each other.
fn turn(ts: u64) -> Vec<Event> {
    let stack = |pc| Payload::Stack { stack: Stack::of(&[pc, pc + 1]), object: 0 };
    let half = |ts, who, other: (u64, u64), pc| {
        [
            event(ts, who, Kind::StatusPark, status::RUNNING, status::WAITING, stack(pc)),
            event(ts + 200, other, Kind::Status, status::RUNNABLE, status::RUNNING, Payload::None),
            event(
                ts + 400,
                who,
                Kind::StatusWake,
                status::WAITING,
                status::RUNNABLE,
                Payload::By(By { by_goid: other.1, object: 0 }),
            ),
        ]
    };
    half(ts, G1, G2, 0x1000).into_iter().chain(half(ts + 500, G2, G1, 0x2000)).collect()
}

fn batch(events: Vec<Event>) -> Input {
    let ts = events.last().map_or(0, |event| event.ts) + 100;
    Input::Events(Batch { events, lost: 0, blurred: 0, doubt_until: ts, complete_until: ts })
}

/// Every kind of input, by rounds.
fn inputs() -> Vec<Vec<Input>> {
    let birth = Birth { parent_goid: 1, gopc: 0x3001, startpc: 0x4000, funcval: 0x5000 };
    let site = Stack::of(&[0x1001]);
    let seen = |goid: u64, state| Seen {
        g: 0xc000_0000 + goid * 0x1000,
        goid,
        state,
        reason: 1,
        since_ts: 500,
        tid: 0,
        birth,
        site,
    };
    let snapshot = SnapshotInput {
        seen: (3..5_000).map(|goid| seen(goid, State::Waiting)).collect(),
        began_ts: 900,
        ended_ts: 1_000,
        complete: true,
    };
    let whole =
        |goid| WholeStack { goid, since_ts: None, read_ts: 1_000, pcs: vec![0x1000, 0x2000, 0x3000].into() };
    let mut rounds = vec![
        vec![Input::Snapshot(snapshot), Input::Stacks(vec![whole(3), whole(4)])],
        vec![batch(turn(2_000))],
    ];
    rounds.extend(
        (0..100)
            .map(|n| vec![batch((0..5).flat_map(|at| turn(10_000 + n * 200_000 + at * 1_000)).collect())]),
    );
    let wakes = |goid: u64, ts| {
        let who = (0xc000_0000 + goid * 0x1000, goid);
        event(
            ts,
            who,
            Kind::StatusWake,
            status::WAITING,
            status::RUNNABLE,
            Payload::By(By { by_goid: 1, object: 0 }),
        )
    };
    let Input::Events(lossy) = batch(vec![wakes(3, 30_000_000), wakes(4, 30_000_100)]) else {
        unreachable!()
    };
    rounds.push(vec![Input::Events(Batch { lost: 3, blurred: 1, ..lossy })]);
    rounds.push(vec![batch(vec![
        event(
            30_001_000,
            (0xc100_0000, 20_000),
            Kind::StatusCreate,
            status::DEAD,
            status::RUNNABLE,
            Payload::Birth(birth),
        ),
        event(
            30_002_000,
            (0xc100_0000, 20_000),
            Kind::Status,
            status::RUNNABLE,
            status::WAITING,
            Payload::None,
        ),
    ])]);
    rounds
}

fn symbols() -> Symbols {
    let mut symbols = Symbols::told();
    for (pc, func) in
        [(0x1000, "main.ping"), (0x2000, "main.pong"), (0x3000, "main.main"), (0x4000, "main.run")]
    {
        for pc in [pc, pc + 1] {
            symbols.tell_frames(pc, [Site { func: func.into(), file: "/x/main.go".into(), line: 3 }].into());
        }
    }
    symbols.tell_entry(0x4000, 0x4000);
    symbols
}

fn filter() -> Filter {
    Filter { events: Whats::ALL, goids: Vec::new(), func: None, min_ns: 0, stacks_ns: Some(0) }
}

/// Printers of text, JSON and the summary, with what each writes.
fn printers() -> (Vec<Shared>, Vec<Printer>) {
    let outs = vec![Shared::default(); 3].iter().map(|_| Shared::default()).collect::<Vec<_>>();
    let printers = vec![
        Printer::new(Box::new(Text::new(outs[0].clone(), 0, true, false)), filter(), false),
        Printer::new(Box::new(Json::new(outs[1].clone())), filter(), false),
        Printer::new(Box::new(Text::new(outs[2].clone(), 0, true, false)), filter(), true),
    ];
    (outs, printers)
}

fn ends(until_ts: u64) -> Vec<End> {
    [1, 2].map(|pid| End { until_ts, lost: 3, why: None, closing: format!("PID {pid}: done") }).into()
}

/// Feeds the same inputs to two targets, as a live trace does, and calls the observers.
fn follow(inputs: Vec<Vec<Input>>, observers: &mut [&mut dyn Observer]) {
    let mut targets: Vec<Target> = [1, 2].map(|pid| Target::new(about(pid), symbols())).into();
    let mut round = Round::default();
    observers.iter_mut().for_each(|observer| observer.begin(&mut targets).expect("it can be written"));
    for inputs in inputs {
        round.clear(targets.len());
        for (at, target) in targets.iter_mut().enumerate() {
            for input in &inputs {
                let news: &mut News = &mut round.news[at];
                if target.take(input, news).changed {
                    observers
                        .iter_mut()
                        .for_each(|observer| observer.input(at, input, target).expect("it can be written"));
                }
            }
        }
        observers
            .iter_mut()
            .for_each(|observer| observer.round(&mut targets, &round).expect("it can be written"));
    }
    let ends = ends(40_000_000);
    observers.iter_mut().for_each(|observer| observer.end(&mut targets, &ends).expect("it can be written"));
}

fn recorder(out: &Shared, keep: Keep, trigger: Trigger) -> Recorder {
    let out = out.clone();
    let outputs = Box::new(move || {
        out.0.lock().expect("no panic while it is held").clear();
        Ok(Box::new(out.clone()) as Box<dyn Write + Send>)
    });
    Recorder::new(Head::new(0, 0, false), keep, trigger, outputs).expect("it can be written")
}

/// A recording, and what was shown while it was made.
fn recorded(inputs: Vec<Vec<Input>>) -> (Vec<u8>, Vec<Vec<u8>>) {
    let out = Shared::default();
    let (texts, mut printers) = printers();
    let mut recorder = recorder(&out, Keep::All, Trigger::default());
    let mut observers: Vec<&mut dyn Observer> = vec![&mut recorder];
    observers.extend(printers.iter_mut().map(|printer| printer as &mut dyn Observer));
    follow(inputs, &mut observers);
    (out.bytes(), texts.iter().map(Shared::bytes).collect())
}

fn play(recording: &[u8], until_ts: u64) -> Option<(Played, Vec<Vec<u8>>)> {
    let player = Player::new(Box::new(Cursor::new(recording.to_vec())), recording.len() as u64).ok()?;
    let (texts, mut printers) = printers();
    let mut observers: Vec<&mut dyn Observer> =
        printers.iter_mut().map(|printer| printer as &mut dyn Observer).collect();
    let played =
        player.play(&mut observers, until_ts, &mut |_, _| {}).expect("memory can be read and written");
    Some((played, texts.iter().map(Shared::bytes).collect()))
}

#[test]
fn what_is_played_is_what_was_live() {
    let (recording, live) = recorded(inputs());
    let (played, shown) = play(&recording, u64::MAX).expect("it is a recording");
    assert_eq!(played, Played { ends: ends(40_000_000), damage: None, whole: true });
    for (live, shown) in live.iter().zip(&shown) {
        assert!(live.len() > 1_000, "something was shown");
        assert!(String::from_utf8_lossy(live) == String::from_utf8_lossy(shown), "live and played differ");
    }
    let text = String::from_utf8_lossy(&live[0]);
    for expected in ["main.ping", "main.pong", "found", "LOST 3 events", "main.main", "main.run"] {
        assert!(text.contains(expected), "{expected} is missing");
    }
}

#[test]
fn an_event_of_two_that_wake_each_other_takes_few_bytes() {
    let (recording, _) = recorded(inputs());
    let events = 2 * 100 * 30;
    assert!(recording.len() < 8 * events, "{} bytes for {events} events", recording.len());
}

#[test]
fn it_can_be_played_up_to_a_time() {
    let (recording, live) = recorded(inputs());
    let (played, shown) = play(&recording, 5_000_000).expect("it is a recording");
    assert!(!played.whole);
    assert!(live[0].starts_with(&shown[0]) && shown[0].len() < live[0].len() / 2);
    assert!(played.ends.iter().all(|end| end.until_ts == 5_000_000), "{:?}", played.ends);
}

#[test]
fn documents_can_be_put_behind_the_end() {
    let (mut recording, live) = recorded(inputs());
    let body = vec![7; 20_000_000];
    append(&mut recording, &Document { name: "leaks.text", pid: 1, body: b"old" }).expect("written");
    append(&mut recording, &Document { name: "leaks.text", pid: 1, body: &body }).expect("written");
    let (played, shown) = play(&recording, u64::MAX).expect("it is a recording");
    assert!(played.whole && played.damage.is_none() && shown == live);
    let file = tempfile::NamedTempFile::new().expect("a temporary file");
    std::fs::write(file.path(), &recording).expect("written");
    let mut copy = Vec::new();
    assert!(
        sfgi_core::recording::copy_document(file.path(), "leaks.text", None, &mut copy)
            .expect("it can be read")
    );
    assert!(copy == body, "the last one counts");
    assert!(
        !sfgi_core::recording::copy_document(file.path(), "leaks.text", Some(2), &mut copy)
            .expect("it can be read")
    );
}

#[test]
fn a_ring_keeps_the_end() {
    let out = Shared::default();
    let asked = Arc::new(AtomicBool::new(false));
    let trigger = Trigger { asked: Arc::clone(&asked), on_finding: false };
    let mut recorder = recorder(&out, Keep::Last(14_000_000), trigger);
    let (texts, mut printers) = printers();
    asked.store(true, Ordering::Relaxed);
    let mut observers: Vec<&mut dyn Observer> = vec![&mut recorder, &mut printers[1]];
    follow(inputs(), &mut observers);
    assert!(!asked.load(Ordering::Relaxed), "it was written when that was asked for");
    let (played, shown) = play(&out.bytes(), u64::MAX).expect("it is a recording");
    assert!(played.whole && played.damage.is_none());
    // What both have of two who never stop is the same, line by line, to the end.
    let turns = |json: &[u8]| -> Vec<String> {
        let lines = String::from_utf8_lossy(json).lines().map(str::to_owned).collect::<Vec<_>>();
        lines.into_iter().filter(|line| line.contains("\"block\"")).collect()
    };
    let (live, kept) = (turns(&texts[1].bytes()), turns(&shown[1]));
    assert!(!kept.is_empty() && kept.len() < live.len() / 2, "{} of {}", kept.len(), live.len());
    let last = |lines: &[String]| lines[lines.len() - 100..].to_vec();
    assert_eq!(last(&live), last(&kept));
    // Those that never moved are known, though the snapshot that told of them is gone.
    assert!(String::from_utf8_lossy(&shown[1]).contains("\"found\""));
}

#[test]
fn what_is_no_recording_is_refused_in_a_sentence() {
    let refusal = |bytes: &[u8]| {
        let player = Player::new(Box::new(Cursor::new(bytes.to_vec())), 0);
        player.err().map(|error| error.to_string()).expect("refused")
    };
    assert!(refusal(b"").contains("is no recording of sfgi"));
    assert!(refusal(b"\x7fELF and then some more").contains("is no recording of sfgi"));
    let mut young = files::header();
    young[8] = 99;
    assert!(refusal(&young).contains("version 99"));
    assert!(refusal(&files::header()).contains("nothing was recorded"));
}
