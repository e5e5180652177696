//! One goroutine closely.

use super::{
    Cell, Past, Top,
    goroutines::{on_cpu_ns, state_in_words},
    standing::{age, why},
    waits::At,
};
use sfgi_core::{model::Measure, names::Site, session::Target};
use std::sync::Arc;

/// All that is known of one goroutine.
#[derive(Clone, Debug)]
pub struct Detail {
    /// The target's number, and the goroutine's id.
    pub who: (usize, u64),
    /// Address of its `runtime.g`; 0: it is not there any more.
    pub g: u64,
    /// The thread of its last event; 0: none.
    pub tid: u32,
    /// What it waits for, or its state.
    pub state: Arc<str>,
    /// Whether it stays so until something outside ends that.
    pub waits: bool,
    /// How long it has been so.
    pub age: Cell,
    /// How long it was on a CPU.
    pub on_cpu: Cell,
    /// How long it waited in the run queue all in all, and at most.
    pub delays: (Cell, Cell),
    /// The function it runs.
    pub function: Arc<str>,
    /// The `go` statement that made it, and the goroutine that executed that (0: not known).
    pub creator: (Arc<str>, u64),
    /// Where it waits, innermost first: the whole stack where that was read, else as far as the probes saw.
    pub stack: Vec<Site>,
    /// What happened to it, youngest first, with the wait reason in words.
    pub past: Vec<(Past, Arc<str>)>,
}

/// See [`Detail`]; where the goroutine is not known any more, what it did is still told.
pub(super) fn of(top: &Top, followed: &mut Target, at: &At<'_>, goid: u64) -> Detail {
    let past = top.timeline.of(at.target, goid).into_iter();
    let past = past.map(|past| (past, at.about.wait_reason(past.reason).into())).collect();
    let unknown = || Cell::Time(None, Measure::Exact);
    let Some(known) = followed.goroutines().get(goid).cloned() else {
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
    let mut stack = if known.state.stays() { followed.whole_stack(goid) } else { Vec::new() };
    if stack.is_empty() && known.state.stays() {
        stack = known.site.pcs().iter().flat_map(|pc| followed.symbols().caller(*pc).to_vec()).collect();
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

/// How long it waited in the run queue, all in all and at most.
fn delay_of(top: &Top, at: &At<'_>, goid: u64) -> (u64, u64) {
    let delay = top.targets.get(at.target).and_then(|target| target.delays.of(goid)).unwrap_or_default();
    (delay.total_ns, delay.longest_ns)
}
