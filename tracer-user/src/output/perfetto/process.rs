//! The tracks of one target: its goroutines, its threads, its counters.

use super::{
    counters::Counters,
    packets::{Packets, Said, Value, counted, named},
    proto::{ProcessDescriptor, ThreadDescriptor, TrackDescriptor, Type},
};
use crate::output::traceback::shown_frames;
use hashbrown::HashMap;
use sfgi_core::{
    event::Birth,
    goruntime::State,
    model::{Goroutine, Note, Step, What},
    session::Target,
};
use std::{
    fmt::Write as _,
    io::{self, Write},
};

pub(super) struct Process {
    pid: i32,
    /// Time of its first round: no slice begins before.
    began_ts: u64,
    track: u64,
    goroutines_track: u64,
    collections_track: u64,
    lost_track: u64,
    lost: u64,
    goroutines: HashMap<u64, Shown>,
    threads: HashMap<u32, Thread>,
    counters: Counters,
}

/// A goroutine's track and open slice.
struct Shown {
    track: u64,
    name: Box<str>,
    state: State,
    /// Time of its last event. Times on a track must not go back, so earlier ones are raised to this.
    ts: u64,
    /// The thread whose track shows it; 0: none.
    tid: u32,
}

struct Thread {
    track: u64,
    cpu_track: u64,
    /// The goroutine whose slice is open; 0: none.
    goid: u64,
    off_cpu: bool,
}

/// The slice of a state that begins.
#[derive(Default)]
struct Begin<'a> {
    state: State,
    reason: &'a str,
    stack: Option<String>,
    by_goid: u64,
    end_of_flow: Option<u64>,
    /// The state before by the runtime's word, where the trace shows another one.
    before: Option<State>,
}

impl Process {
    /// Makes the tracks of a target.
    pub(super) fn new(target: &Target, began_ts: u64, out: &mut Packets<impl Write>) -> io::Result<Process> {
        let about = target.about();
        let pid = about.pid.cast_signed();
        let name = about.exe.rsplit('/').next().unwrap_or_default().to_owned();
        let process = ProcessDescriptor { pid: Some(pid), process_name: Some(name) };
        let track = out.track(TrackDescriptor { process: Some(process), ..TrackDescriptor::default() })?;
        Ok(Process {
            pid,
            began_ts,
            track,
            goroutines_track: out.track(named(track, "Goroutines"))?,
            collections_track: out.track(named(track, "Garbage collector"))?,
            lost_track: out.track(counted(track, "events lost", "events"))?,
            lost: 0,
            goroutines: HashMap::new(),
            threads: HashMap::new(),
            counters: Counters::new(track, out)?,
        })
    }

    pub(super) fn lost(&mut self, count: u64, ts: u64, out: &mut Packets<impl Write>) -> io::Result<()> {
        self.lost += count;
        out.counter(self.lost_track, ts, self.lost)?;
        let said =
            Said { name: "events lost", values: vec![("count", Value::Number(count))], ..Said::default() };
        out.event(self.track, ts, Type::Instant, &said)
    }

    pub(super) fn step(
        &mut self,
        step: &Step,
        target: &mut Target,
        out: &mut Packets<impl Write>,
    ) -> io::Result<()> {
        match step.what {
            What::GcStart | What::GcEnd => {
                let begins = step.what == What::GcStart;
                let kind = if begins { Type::SliceBegin } else { Type::SliceEnd };
                let name = if begins { "garbage collection" } else { "" };
                out.event(self.collections_track, step.ts, kind, &Said { name, ..Said::default() })
            }
            What::ThreadOff | What::ThreadOn | What::ThreadWake => self.thread_step(step, out),
            What::Exec => Ok(()),
            _ if step.goid == 0 => Ok(()),
            _ => self.goroutine_step(step, target, out),
        }
    }

    fn goroutine_step(
        &mut self,
        step: &Step,
        target: &mut Target,
        out: &mut Packets<impl Write>,
    ) -> io::Result<()> {
        let mut ts = step.ts;
        if step.what == What::Found {
            // The state of a found goroutine began before this step; the trace goes back to its own beginning at most.
            ts = step.duration_ns.map_or(0, |ns| ts.saturating_sub(ns)).max(self.began_ts).min(ts);
        }
        if !self.goroutines.contains_key(&step.goid) {
            if step.to.is_dead() {
                return Ok(());
            }
            let birth = step.birth.or_else(|| target.goroutines().get(step.goid)?.birth);
            self.introduce(step.goid, birth, ts, target, out)?;
        }
        if step.to.is_dead() {
            return self.end_goroutine(step, out);
        }
        let mut begin = self.begin(step, target);
        begin.end_of_flow = self.flow(step, out)?;
        self.enter(step.goid, ts, step.tid, &begin, out)?;
        self.counters.write(step.ts, false, out)
    }

    /// Describes the state that a step begins.
    fn begin<'a>(&self, step: &Step, target: &'a mut Target) -> Begin<'a> {
        let release = target.about().release;
        let symbols = target.symbols();
        // A step that ends a wait has the stack of that wait, which the slice before shows.
        let stack = step.stack.filter(|_| step.to.stays()).map(|stack| {
            let mut text = String::new();
            for frame in shown_frames(stack, symbols, release) {
                let site = frame.site;
                // Writing to a String cannot fail.
                let _ = writeln!(text, "{} {}:{}", site.func, site.file, site.line);
            }
            text
        });
        let shown = self.goroutines.get(&step.goid).map_or(State::Unknown, |shown| shown.state);
        let differs = shown != State::Unknown && step.from != State::Unknown && shown != step.from;
        Begin {
            state: step.to,
            reason: if step.to.waits() { target.about().wait_reason(step.reason) } else { "" },
            stack: stack.filter(|text| !text.is_empty()),
            by_goid: step.by_goid,
            end_of_flow: None,
            before: (differs && step.what != What::Found).then_some(step.from),
        }
    }

    /// Draws an arrow from the goroutine that woke or made this one; returns the arrow's number.
    fn flow(&self, step: &Step, out: &mut Packets<impl Write>) -> io::Result<Option<u64>> {
        let does = match step.what {
            What::Unblock => "wakes",
            What::Create => "go",
            _ => return Ok(None),
        };
        let (Some(by), Some(whom)) = (self.goroutines.get(&step.by_goid), self.goroutines.get(&step.goid))
        else {
            return Ok(None);
        };
        let flow = out.flow();
        let values = vec![("goroutine", Value::Text(&whom.name))];
        let said = Said { name: does, values, flow: Some(flow), end_of_flow: None };
        out.event(by.track, step.ts.max(by.ts), Type::Instant, &said)?;
        Ok(Some(flow))
    }

    /// Makes the track of a goroutine, with its function in the name.
    fn introduce(
        &mut self,
        goid: u64,
        birth: Option<Birth>,
        ts: u64,
        target: &mut Target,
        out: &mut Packets<impl Write>,
    ) -> io::Result<()> {
        let function = birth.and_then(|birth| target.symbols().function(birth.startpc));
        let name = match function {
            Some(site) => format!("G{goid} {}", site.func),
            None => format!("G{goid}"),
        };
        let track = out.track(named(self.goroutines_track, &name))?;
        let shown = Shown { track, name: name.into(), state: State::Unknown, ts, tid: 0 };
        self.goroutines.insert(goid, shown);
        Ok(())
    }

    /// Ends the open slice of a goroutine and begins the next one, on its own track and on its thread's.
    fn enter(
        &mut self,
        goid: u64,
        ts: u64,
        tid: u32,
        begin: &Begin<'_>,
        out: &mut Packets<impl Write>,
    ) -> io::Result<()> {
        let Some(shown) = self.goroutines.get_mut(&goid) else { return Ok(()) };
        shown.ts = shown.ts.max(ts);
        let (track, ts, left) = (shown.track, shown.ts, shown.tid);
        let before = std::mem::replace(&mut shown.state, begin.state);
        if before != State::Unknown {
            out.event(track, ts, Type::SliceEnd, &Said::default())?;
        }
        let state = begin.state.to_string();
        let name = if begin.reason.is_empty() { state } else { format!("{state}: {}", begin.reason) };
        let before_now = begin.before.map(|state| state.to_string());
        let mut values = Vec::new();
        values.extend(begin.stack.as_deref().map(|stack| ("stack", Value::Text(stack))));
        values.extend((begin.by_goid != 0).then_some(("by goroutine", Value::Number(begin.by_goid))));
        values.extend(before_now.as_deref().map(|state| ("not seen, was", Value::Text(state))));
        let said = Said { name: &name, values, flow: None, end_of_flow: begin.end_of_flow };
        out.event(track, ts, Type::SliceBegin, &said)?;
        self.counters.moved(before, begin.state);
        // In a system call the goroutine keeps its thread, so the thread's slice goes on.
        let stays = on_thread(begin.state) && (left == tid || tid == 0);
        if !stays {
            self.leave_thread(goid, left, ts, out)?;
        }
        if on_thread(begin.state) && left != tid && tid != 0 {
            self.take_thread(goid, tid, ts, out)?;
        }
        Ok(())
    }

    fn end_goroutine(&mut self, step: &Step, out: &mut Packets<impl Write>) -> io::Result<()> {
        let Some(shown) = self.goroutines.remove(&step.goid) else { return Ok(()) };
        let ts = step.ts.max(shown.ts);
        if shown.state != State::Unknown {
            out.event(shown.track, ts, Type::SliceEnd, &Said::default())?;
        }
        self.counters.moved(shown.state, step.to);
        self.leave_thread(step.goid, shown.tid, ts, out)?;
        self.counters.write(step.ts, false, out)
    }

    /// Begins the goroutine's slice on the thread's track. Whichever goroutine was there has left unseen.
    fn take_thread(&mut self, goid: u64, tid: u32, ts: u64, out: &mut Packets<impl Write>) -> io::Result<()> {
        let other = self.thread(tid, out)?.goid;
        self.leave_thread(other, tid, ts, out)?;
        let Some(shown) = self.goroutines.get_mut(&goid) else { return Ok(()) };
        shown.tid = tid;
        let name = shown.name.clone();
        let thread = self.thread(tid, out)?;
        thread.goid = goid;
        out.event(thread.track, ts, Type::SliceBegin, &Said { name: &name, ..Said::default() })
    }

    /// Ends the goroutine's slice on the thread's track, if it has one there.
    fn leave_thread(
        &mut self,
        goid: u64,
        tid: u32,
        ts: u64,
        out: &mut Packets<impl Write>,
    ) -> io::Result<()> {
        if let Some(shown) = self.goroutines.get_mut(&goid) {
            shown.tid = 0;
        }
        match self.threads.get_mut(&tid).filter(|thread| thread.goid == goid && goid != 0) {
            Some(thread) => {
                thread.goid = 0;
                out.event(thread.track, ts, Type::SliceEnd, &Said::default())
            }
            None => Ok(()),
        }
    }

    fn thread_step(&mut self, step: &Step, out: &mut Packets<impl Write>) -> io::Result<()> {
        let thread = self.thread(step.tid, out)?;
        let off = step.what == What::ThreadOff;
        let (kind, name) = match step.what {
            What::ThreadWake => (Type::Instant, "woken"),
            // Two changes of the same kind in a row: the one between was lost, and a slice must not open twice.
            _ if thread.off_cpu == off => return Ok(()),
            What::ThreadOff if step.note == Note::KernelPreempted => (Type::SliceBegin, "off CPU: preempted"),
            What::ThreadOff => (Type::SliceBegin, "off CPU"),
            _ => (Type::SliceEnd, ""),
        };
        if step.what != What::ThreadWake {
            thread.off_cpu = off;
        }
        out.event(thread.cpu_track, step.ts, kind, &Said { name, ..Said::default() })
    }

    /// The thread, whose tracks are made when it is first seen.
    fn thread(&mut self, tid: u32, out: &mut Packets<impl Write>) -> io::Result<&mut Thread> {
        if !self.threads.contains_key(&tid) {
            let thread = ThreadDescriptor {
                pid: Some(self.pid),
                tid: Some(tid.into()),
                thread_name: Some(format!("M {tid}")),
            };
            let descriptor = TrackDescriptor {
                thread: Some(thread),
                parent_uuid: Some(self.track),
                ..TrackDescriptor::default()
            };
            let track = out.track(descriptor)?;
            let cpu_track = out.track(named(track, "CPU"))?;
            self.threads.insert(tid, Thread { track, cpu_track, goid: 0, off_cpu: false });
        }
        self.threads.get_mut(&tid).ok_or_else(|| io::Error::other("a thread vanished"))
    }

    /// Shows goroutines that did nothing, which only a snapshot told of, with one open slice each.
    pub(super) fn end(
        &mut self,
        target: &mut Target,
        ts: u64,
        out: &mut Packets<impl Write>,
    ) -> io::Result<()> {
        let silent = target.goroutines().iter().filter(|goroutine| {
            goroutine.goid != 0
                && !self.goroutines.contains_key(&goroutine.goid)
                && Counters::counts(goroutine.state)
        });
        let mut silent: Vec<Goroutine> = silent.cloned().collect();
        silent.sort_unstable_by_key(|goroutine| goroutine.goid);
        for Goroutine { goid, birth, since_ts, state, reason, tid, .. } in silent {
            let since_ts = since_ts.max(self.began_ts);
            self.introduce(goid, birth, since_ts, target, out)?;
            let reason = if state.waits() { target.about().wait_reason(reason) } else { "" };
            self.enter(goid, since_ts, tid, &Begin { state, reason, ..Begin::default() }, out)?;
        }
        self.counters.write(ts, true, out)
    }
}

/// Whether a goroutine in this state occupies a thread.
fn on_thread(state: State) -> bool {
    matches!(state, State::Running | State::Syscall | State::CopyStack)
}
