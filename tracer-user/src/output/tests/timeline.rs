//! Steps of made-up goroutines, for tests. A line is one step, `10 m1 g7 running>waiting chan receive by g1`: time in
//! nanoseconds, thread, goroutine, states, wait reason, the goroutine that caused it. `-- lost 3` is a loss.

use sfgi_core::goruntime::Release;
use sfgi_core::{
    event::{Birth, Mode, Set},
    goruntime::State,
    model::{Measure, Note, Step, What},
    names::{Site, Symbols},
    session::{About, End, News, Observer, Round, Target},
};

pub(in crate::output) const REASONS: [&str; 4] = ["", "chan receive", "IO wait", "coroutine"];

/// A target with two known functions: goroutines run `main.work`, and are made in `main.main`.
pub(in crate::output) fn target() -> Target {
    let mut symbols = Symbols::told();
    let site = |func: &str, line| Site { func: func.into(), file: "main.go".into(), line };
    symbols.tell_frames(100, [site("main.work", 10)].into());
    symbols.tell_frames(199, [site("main.inlined", 5), site("main.main", 20)].into());
    let about = About {
        pid: 42,
        exe: "/bin/made-up".into(),
        module: String::new(),
        go_version: "go1.26.6".into(),
        release: Release::new(26),
        wait_reasons: REASONS.map(String::from).to_vec().into(),
        set: Set::B,
        mode: Mode::Full,
        blind: Vec::new(),
        from_birth: false,
    };
    Target::new(about, symbols)
}

/// Gives an observer these lines, each as a round of its own, and the end.
pub(in crate::output) fn tell(observer: &mut dyn Observer, lines: &str) {
    let mut targets = [target()];
    observer.begin(&mut targets).unwrap();
    let mut ts = 0;
    for line in lines.lines().map(str::trim).filter(|line| !line.is_empty()) {
        let mut news = News { ts, ..News::default() };
        match line.strip_prefix("-- lost ") {
            Some(count) => news.lost = count.parse().unwrap(),
            None => news.steps.push(step(line)),
        }
        ts = news.steps.first().map_or(ts, |step| step.ts);
        observer.round(&mut targets, &Round { news: vec![news] }).unwrap();
    }
    observer.end(&mut targets, &[End { until_ts: ts, ..End::default() }]).unwrap();
}

fn step(line: &str) -> Step {
    let (line, by) = line.split_once(" by g").map_or((line, 0), |(line, by)| (line, by.parse().unwrap()));
    let mut words = line.splitn(5, ' ');
    let mut next = || words.next().unwrap_or_default();
    let ts = next().parse().unwrap();
    let tid = next().trim_start_matches('m').parse().unwrap();
    let goid = next().trim_start_matches('g').parse().unwrap();
    let change = next();
    let (what, from, to) = match change {
        "gc_start" => (What::GcStart, State::Unknown, State::Unknown),
        "gc_end" => (What::GcEnd, State::Unknown, State::Unknown),
        "off" => (What::ThreadOff, State::Unknown, State::Unknown),
        "on" => (What::ThreadOn, State::Unknown, State::Unknown),
        change => {
            let (from, to) = change.split_once('>').unwrap();
            let what = if from == "found" { What::Found } else { what(state(from), state(to)) };
            (what, state(from), state(to))
        }
    };
    let told = next();
    let reason = REASONS.iter().position(|reason| *reason == told).unwrap() as u8;
    let birth = Birth { parent_goid: by, gopc: 200, startpc: 100, funcval: 0 };
    Step { birth: (what == What::Create).then_some(birth), reason, ..made(ts, tid, goid, what, from, to, by) }
}

/// A step without reason, duration, stack, birth or note.
pub(in crate::output) fn made(
    ts: u64,
    tid: u32,
    goid: u64,
    what: What,
    from: State,
    to: State,
    by_goid: u64,
) -> Step {
    Step {
        ts,
        goid,
        g: goid,
        tid,
        what,
        from,
        to,
        reason: 0,
        by_goid,
        duration_ns: None,
        measure: Measure::Exact,
        stack: None,
        object: 0,
        birth: None,
        note: Note::None,
    }
}

fn state(name: &str) -> State {
    match name {
        "dead" => State::Dead,
        "runnable" => State::Runnable,
        "running" => State::Running,
        "waiting" => State::Waiting,
        "syscall" => State::Syscall,
        "preempted" => State::Preempted,
        _ => State::Unknown,
    }
}

fn what(from: State, to: State) -> What {
    match (from, to) {
        (State::Dead, _) => What::Create,
        (_, State::Dead) => What::Exit,
        (_, State::Syscall) => What::SyscallEnter,
        (State::Syscall, _) => What::SyscallExit,
        (_, State::Waiting) => What::Block,
        (State::Waiting, _) => What::Unblock,
        (_, State::Running) => What::Start,
        _ => What::Preempt,
    }
}
