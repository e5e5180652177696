//! A table by stack with its names, and the profile that pprof reads.

use super::{
    Wanted,
    table::{Gap, Key, Table, Tally},
};
use crate::output::pprof::{Builder, Head, Place, Unit};
use sfgi_core::{
    goruntime::{State, starts_system, tracebacks},
    names::Site,
    session::Target,
};
use std::{
    cmp::Reverse,
    io::{self, Write},
};

/// What a profile counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Kind {
    /// Time that goroutines waited, by place: Go's block profile for every wait reason.
    Blocked,
    /// Time in which threads of goroutines that run or are in a system call had no CPU, by the place where the
    /// goroutine last waited or called.
    OffCpu,
    /// Goroutines made, by `go` statement.
    Created,
    /// Goroutines that exist at the end, by the place where they wait.
    Goroutines,
}

impl Kind {
    /// The values of a sample, in pprof's terms.
    fn values(self) -> &'static [Unit] {
        match self {
            // The values of the runtime's block profile (`printCountCycleProfile`, `src/runtime/pprof/pprof.go`).
            Kind::Blocked => &[("contentions", "count"), ("delay", "nanoseconds")],
            Kind::OffCpu => &[("switches", "count"), ("off_cpu", "nanoseconds")],
            Kind::Created => &[("created", "count")],
            Kind::Goroutines => &[("goroutine", "count")],
        }
    }

    /// Whether samples are weighed by time; else by number.
    pub(super) fn is_time(self) -> bool {
        matches!(self, Kind::Blocked | Kind::OffCpu)
    }

    /// The title of a flame graph.
    pub(super) fn title(self) -> &'static str {
        match self {
            Kind::Blocked => "Time blocked",
            Kind::OffCpu => "Time off CPU",
            Kind::Created => "Goroutines made",
            Kind::Goroutines => "Goroutines",
        }
    }
}

/// A profile with names, ready to be written.
pub(super) struct Profile {
    pub(super) kind: Kind,
    pub(super) pid: u32,
    /// Path of the executable as the target sees it.
    pub(super) exe: String,
    /// Wall clock of its beginning, nanoseconds since 1970; 0: not known.
    pub(super) time_ns: i64,
    /// Length, nanoseconds.
    pub(super) duration_ns: u64,
    /// What the reader must know: losses, open waits, unknown beginnings.
    pub(super) comments: Vec<String>,
    /// The heaviest first.
    pub(super) samples: Vec<Sample>,
}

/// One stack with its labels.
pub(super) struct Sample {
    pub(super) frames: Vec<Frame>,
    pub(super) labels: Vec<(&'static str, String)>,
    pub(super) tally: Tally,
}

/// A physical frame, or a text in its place.
pub(super) enum Frame {
    /// The address, and the functions there: innermost first, each inlined into the next.
    Code(u64, Vec<Site>),
    /// Why there is no frame, in brackets.
    Note(&'static str),
}

impl Frame {
    /// Names of the functions, innermost first.
    pub(super) fn names(&self) -> impl DoubleEndedIterator<Item = &str> {
        let (sites, note) = match self {
            Frame::Code(_, sites) => (&sites[..], None),
            Frame::Note(note) => (&[][..], Some(*note)),
        };
        sites.iter().map(|site| &*site.func).chain(note)
    }
}

impl Sample {
    /// The weight of the sample in flame graphs and in the order of samples.
    pub(super) fn value(&self, kind: Kind) -> u64 {
        if kind.is_time() { self.tally.ns } else { self.tally.count }
    }
}

impl Profile {
    /// Looks up names, and drops what is not wanted. `when`: wall clock of the beginning, and length.
    pub(super) fn of(
        target: &mut Target,
        table: Table,
        wanted: &Wanted,
        when: (i64, u64),
        lost: u64,
    ) -> Profile {
        let kind = wanted.kind;
        let (unmeasured, mut open) = (table.unmeasured, 0);
        let mut samples = Vec::new();
        for (key, tally) in table.into_rows() {
            let reason = target.about().wait_reason(key.label.reason);
            let matches = wanted.reason.as_ref().is_none_or(|wanted| wanted.is_match(reason));
            if !matches || (!wanted.system && is_system(target, &key)) {
                continue;
            }
            open += if key.label.open { tally.count } else { 0 };
            let labels = labels(target, &key, kind);
            let frames = frames(target, &key, wanted.by_creator);
            samples.push(Sample { frames, labels, tally });
        }
        // Rows come in the random order of a hash map; the sort is total, so that equal input gives equal output.
        samples
            .sort_by_cached_key(|sample| (Reverse(sample.value(kind)), path(sample), sample.labels.clone()));
        let about = target.about();
        Profile {
            kind,
            pid: about.pid,
            exe: about.exe.clone(),
            time_ns: when.0,
            duration_ns: when.1,
            comments: comments(kind, open, unmeasured, lost),
            samples,
        }
    }

    /// Writes the compressed profile for pprof.
    pub(super) fn write_pprof(&self, out: impl Write) -> io::Result<()> {
        let head = Head {
            values: self.kind.values(),
            time_ns: self.time_ns,
            duration_ns: signed(self.duration_ns),
            exe: &self.exe,
            build_id: "",
            code: Default::default(),
            comments: &self.comments,
        };
        let mut builder = Builder::new(out, &head);
        for sample in &self.samples {
            let location = |frame: &Frame| match frame {
                Frame::Code(pc, sites) => {
                    builder.location(*pc, sites.iter().map(|site| Place { site, start_line: 0 }))
                }
                Frame::Note(note) => builder.note(note),
            };
            let locations = sample.frames.iter().map(location).collect();
            let values = [sample.tally.count, sample.tally.ns].map(signed);
            builder.sample(locations, values[..head.values.len()].to_vec(), &sample.labels)?;
        }
        builder.finish()
    }
}

fn path(sample: &Sample) -> Vec<String> {
    sample.frames.iter().rev().flat_map(|frame| frame.names().rev().map(str::to_owned)).collect()
}

fn comments(kind: Kind, open: u64, unmeasured: u64, lost: u64) -> Vec<String> {
    let mut comments = Vec::new();
    if open > 0 {
        comments.push(format!(
            "{open} had not ended: counted with their time up to the end of the trace, label open:true"
        ));
    }
    if unmeasured > 0 {
        comments.push(format!("{unmeasured} whose beginning is not known: counted without their time"));
    }
    if lost > 0 {
        comments.push(format!("{lost} events were lost: what they would have told is missing"));
    }
    if kind == Kind::OffCpu {
        comments.push("Where is where the goroutine last waited or called, not where it lost the CPU".into());
    }
    comments
}

/// Whether the row is of one of the runtime's own goroutines.
fn is_system(target: &mut Target, key: &Key) -> bool {
    let symbols = target.symbols();
    let Some(start) = (key.startpc != 0).then(|| symbols.function(key.startpc)).flatten() else {
        return false;
    };
    let stack: Vec<_> = key.pcs.iter().map(|pc| symbols.frames(*pc)).collect();
    starts_system(&start.func, stack.iter().flat_map(|sites| sites.iter()).map(|site| &*site.func))
}

/// The frames of a row: those that a traceback shows, or all if it would show none.
fn frames(target: &mut Target, key: &Key, by_creator: bool) -> Vec<Frame> {
    let mut frames = code(target, &key.pcs);
    let note = match key.gap {
        Gap::None => None,
        Gap::Deeper => Some("[deeper frames not recorded]"),
        Gap::NoStack => Some("[no stack]"),
        Gap::Other => Some("[other]"),
        Gap::State(State::Running) => Some("[running]"),
        Gap::State(State::Runnable | State::Preempted) => Some("[runnable]"),
        Gap::State(_) => Some("[unknown]"),
    };
    if let Some(note) = note {
        let symbols = target.symbols();
        let entry = symbols.entry(key.startpc);
        let start = (key.startpc != 0).then(|| symbols.function(key.startpc)).flatten();
        // A stack may have exactly as many frames as a probe walks; then nothing is missing.
        let outermost = frames.last().and_then(|frame| frame.names().next_back());
        if start.is_none() || start.as_ref().map(|site| &*site.func) != outermost {
            frames.push(Frame::Note(note));
            frames.extend(start.map(|site| Frame::Code(entry, vec![site])));
        }
    }
    if by_creator && key.gopc != 0 {
        frames.extend(code(target, &[key.gopc.wrapping_sub(1)]));
    }
    frames
}

fn code(target: &mut Target, pcs: &[u64]) -> Vec<Frame> {
    let release = target.about().release;
    let all: Vec<(u64, Vec<Site>)> =
        pcs.iter().map(|pc| (*pc, target.symbols().frames(*pc).to_vec())).collect();
    let shown = |(pc, sites): &(u64, Vec<Site>)| {
        let sites: Vec<Site> =
            sites.iter().filter(|site| tracebacks::shows(&site.func, release)).cloned().collect();
        (!sites.is_empty()).then_some(Frame::Code(*pc, sites))
    };
    let frames: Vec<Frame> = all.iter().filter_map(shown).collect();
    if !frames.is_empty() {
        return frames;
    }
    let unnamed = |(pc, sites): (u64, Vec<Site>)| match sites.is_empty() {
        true => Frame::Note("[no name]"),
        false => Frame::Code(pc, sites),
    };
    all.into_iter().map(unnamed).collect()
}

fn labels(target: &mut Target, key: &Key, kind: Kind) -> Vec<(&'static str, String)> {
    let label = key.label;
    let reason = target.about().wait_reason(label.reason).to_owned();
    let started = (kind == Kind::Created).then(|| target.symbols().function(key.startpc)).flatten();
    let labels = [
        ("reason", (!reason.is_empty()).then_some(reason)),
        ("state", label.state.map(|state| state.to_string())),
        ("function", started.map(|site| site.func.to_string())),
        ("open", label.open.then(|| "true".to_owned())),
    ];
    labels.into_iter().filter_map(|(key, value)| Some((key, value?))).collect()
}

fn signed(value: u64) -> i64 {
    i64::try_from(value).unwrap_or(i64::MAX)
}
