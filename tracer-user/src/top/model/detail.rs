//! One goroutine closely: all that the model knows of it, and its last steps.

use super::{
    Cell, Top,
    goroutines::{age, on_cpu_ns, state_in_words, why},
    waits::At,
};
use sfgi_core::{
    goruntime::State,
    model::{Measure, Step, What},
    names::Site,
    session::Target,
};
use std::{collections::VecDeque, sync::Arc};

/// Steps kept, of all goroutines together: the memory of the timeline is bounded, however many goroutines there are.
const MAX_STEPS: usize = 1 << 16;
/// Steps shown of one goroutine.
const MAX_SHOWN: usize = 64;

/// One step of a goroutine.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Past {
    /// `CLOCK_MONOTONIC` nanoseconds.
    pub ts: u64,
    pub what: What,
    pub to: State,
    /// The wait reason, an index into the target's own table of reasons.
    pub reason: u8,
    /// The goroutine that caused the step; 0: not known, or none did.
    pub by_goid: u64,
    /// How long the state before had lasted; `None`: not known.
    pub duration_ns: Option<u64>,
    pub measure: Measure,
}

/// The last steps of all goroutines, oldest first.
#[derive(Debug, Default)]
pub(super) struct Timeline(VecDeque<(usize, u64, Past)>);

impl Timeline {
    pub(super) fn push(&mut self, target: usize, step: &Step) {
        // All goroutines share the ring. Context switches and collections would push out what goroutines did.
        if matches!(
            step.what,
            What::ThreadOff | What::ThreadOn | What::ThreadWake | What::GcStart | What::GcEnd
        ) {
            return;
        }
        // The oldest step goes, whichever goroutine it is of: what is asked for is what happened last.
        if self.0.len() >= MAX_STEPS {
            self.0.pop_front();
        }
        let Step { ts, what, to, reason, by_goid, duration_ns, measure, .. } = *step;
        self.0.push_back((target, step.goid, Past { ts, what, to, reason, by_goid, duration_ns, measure }));
    }

    /// The steps of one goroutine, youngest first.
    fn of(&self, target: usize, goid: u64) -> Vec<Past> {
        let own = self.0.iter().rev().filter(|(at, whose, _)| (*at, *whose) == (target, goid));
        own.take(MAX_SHOWN).map(|(.., past)| *past).collect()
    }
}

/// The pane of one goroutine, with names.
#[derive(Clone, Debug)]
pub struct Detail {
    /// The target's number, and the goroutine's id.
    pub who: (usize, u64),
    /// Address of its `runtime.g`; 0: the model does not know it any more.
    pub g: u64,
    /// Thread of its last event; 0: none.
    pub tid: u32,
    /// Its wait reason, or its state where it does not wait.
    pub state: Arc<str>,
    /// Whether it waits or is in a system call, so that its stack can be read.
    pub waits: bool,
    /// How long it has been in that state.
    pub age: Cell,
    /// Time on a CPU since the trace began.
    pub on_cpu: Cell,
    /// Total and longest wait in the run queue.
    pub delays: (Cell, Cell),
    pub function: Arc<str>,
    /// The `go` statement that made it, and the goroutine that executed the statement (0: not known).
    pub creator: (Arc<str>, u64),
    /// Where it waits, innermost first: the whole stack if one was read, else the frames that the probe sent.
    pub stack: Vec<Site>,
    /// Its steps, youngest first, with the wait reason in words.
    pub past: Vec<(Past, Arc<str>)>,
}

/// Makes the pane. A goroutine that has ended has `g` 0, and its steps as long as the timeline holds them.
pub(super) fn of(top: &Top, target: &mut Target, at: &At<'_>, goid: u64) -> Detail {
    let past = top.timeline.of(at.target, goid).into_iter();
    let past = past.map(|past| (past, at.about.wait_reason(past.reason).into())).collect();
    let unknown = || Cell::Time(None, Measure::Exact);
    let Some(known) = target.goroutines().get(goid).cloned() else {
        return Detail {
            who: (at.target, goid),
            g: 0,
            tid: 0,
            state: "gone".into(),
            waits: false,
            age: unknown(),
            on_cpu: unknown(),
            delays: (unknown(), unknown()),
            function: "?".into(),
            creator: ("?".into(), 0),
            stack: Vec::new(),
            past,
        };
    };
    // The site of a goroutine that moves is where it last waited, not where it is.
    let mut stack = if known.state.stays() { target.whole_stack(goid) } else { Vec::new() };
    if stack.is_empty() && known.state.stays() {
        stack = known.site.pcs().iter().flat_map(|pc| target.symbols().caller(*pc).to_vec()).collect();
    }
    let delays = <[u64; 2]>::from(delay_of(top, at, goid)).map(|ns| Cell::exact(at.knows.runs.then_some(ns)));
    let statement = known.birth.map_or(0, |birth| at.places.statement(birth.gopc));
    Detail {
        who: (at.target, goid),
        g: known.g,
        tid: known.tid,
        state: state_in_words(&known, at, &mut String::new()).into(),
        waits: why(&known).is_some(),
        age: age(&known, top.now_ts).map_or_else(unknown, |(ns, measure)| Cell::Time(Some(ns), measure)),
        on_cpu: Cell::exact(on_cpu_ns(&known, at, top.now_ts)),
        delays: delays.into(),
        function: Arc::clone(&at.places.get(at.places.function_of(&known)).text),
        creator: (
            Arc::clone(&at.places.get(statement).text),
            known.birth.map_or(0, |birth| birth.parent_goid),
        ),
        stack,
        past,
    }
}

/// Total and longest wait in the run queue, nanoseconds.
fn delay_of(top: &Top, at: &At<'_>, goid: u64) -> (u64, u64) {
    let delay = top.targets.get(at.target).and_then(|sums| sums.delays.of(goid)).unwrap_or_default();
    (delay.total_ns, delay.longest_ns)
}
