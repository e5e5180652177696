//! Documents about one target that a request asks for: its goroutines, profiles. Written in pieces, as they are made.

use super::{
    scan,
    target::Target,
    wire::{Failure, WireFilter},
    worker::beat,
};
use crate::{
    agent::{
        Config,
        request::{Form, Profile},
    },
    output::{
        Traceback,
        dump::{About, Choice, Group, JsonDump},
        graph::Graph,
        pprof::{ProfileKind, write_profile},
    },
};
use regex::Regex;
use sfgi_core::{
    detect::Verdict, heap, leaks::Found, memory::Live, model::Wakers, names::Names, snapshot,
    snapshot::Options,
};
use std::{
    io::{self, Write},
    sync::Arc,
};

/// Goroutines in a document: where the request names no limit, and the largest that it may name.
const LIMIT: usize = 1000;
const MAX_LIMIT: usize = 100_000;

/// Reads the goroutines of a target into a document.
///
/// # Errors
/// The target cannot be read, or `out` takes no more.
pub(super) fn goroutines(
    target: &Target,
    filter: &WireFilter,
    form: Form,
    out: &mut impl Write,
) -> Result<(), Failure> {
    let opened = target.open()?;
    let memory = Live::of(&target.process);
    let view = opened.view(&memory);
    let text = form == Form::Text;
    let options = Options { stacks: true, args: text, labels: true, objects: !text, most: 0 };
    let snapshot = snapshot::take(&view, options, &mut |_, _| beat()).map_err(failed)?;
    target.still_the_same()?;
    let mut names = Names::new(Arc::clone(&opened.binary), opened.bias, &snapshot);
    let choice = Choice {
        states: filter.states.clone(),
        reason: compiled(filter.reason.as_deref())?,
        func: compiled(filter.func.as_deref())?,
        older_ns: u64::try_from(filter.older.as_nanos()).unwrap_or(u64::MAX),
        goids: filter.goids.iter().copied().collect(),
        object: None,
        system: filter.system,
    };
    let limit = if filter.limit == 0 { LIMIT } else { filter.limit.min(MAX_LIMIT) };
    let mut chosen = choice.of(&snapshot, &mut names);
    let incomplete = snapshot.lacks();
    let exe = target.exe();
    let about = About { pid: Some(target.pid()), exe: &exe, incomplete: incomplete.as_deref(), object: None };
    match form {
        Form::Graph(format) => {
            let waits = heap::waits(&view, &snapshot, &Wakers::default()).map_err(failed)?;
            let about = (Some(target.pid()), &*exe);
            let graph = Graph::new(about, &snapshot, &waits, &chosen, &mut names);
            graph.write(format, &mut *out).map_err(failed)?;
        }
        Form::JsonGroups => {
            let mut groups = Group::all(&snapshot, &names, &chosen);
            groups.drain(..filter.skip.min(groups.len()));
            groups.truncate(limit);
            JsonDump::new(&mut *out, &snapshot, &mut names).groups(&about, &groups).map_err(failed)?;
        }
        Form::Json | Form::Text => {
            chosen.drain(..filter.skip.min(chosen.len()));
            chosen.truncate(limit);
            if text {
                let mut traceback =
                    Traceback::new(&opened.binary, opened.bias, &snapshot, snapshot.taken_ns.1);
                let goroutine = |index: &u32| snapshot.goroutines.get(*index as usize);
                for (number, goroutine) in chosen.iter().filter_map(goroutine).enumerate() {
                    if number > 0 {
                        out.write_all(b"\n").map_err(failed)?;
                    }
                    traceback.write(&mut *out, goroutine).map_err(failed)?;
                }
            } else {
                JsonDump::new(&mut *out, &snapshot, &mut names)
                    .goroutines(&about, &chosen)
                    .map_err(failed)?;
            }
        }
    }
    out.flush().map_err(failed)
}

/// Makes a profile of a target as `net/http/pprof` would serve it.
///
/// # Errors
/// As [`goroutines`].
pub(super) fn profile(
    target: &Target,
    kind: Profile,
    config: &Config,
    out: &mut impl Write,
) -> Result<(), Failure> {
    let opened = target.open()?;
    let memory = Live::of(&target.process);
    let view = opened.view(&memory);
    let (exe, time_ns) = (target.exe(), i64::try_from(scan::unix_ns()).unwrap_or(0));
    let mut write = |kind, snapshot, names: &mut Names, chosen: &[u32]| -> io::Result<()> {
        write_profile(&mut *out, kind, snapshot, names, chosen, &exe, time_ns)
    };
    match kind {
        Profile::Goroutines => {
            let options = Options { stacks: true, labels: true, ..Options::default() };
            let snapshot = snapshot::take(&view, options, &mut |_, _| beat()).map_err(failed)?;
            target.still_the_same()?;
            let mut names = Names::new(Arc::clone(&opened.binary), opened.bias, &snapshot);
            let chosen = Choice::default().of(&snapshot, &mut names);
            write(ProfileKind::Goroutines, &snapshot, &mut names, &chosen).map_err(failed)?;
        }
        Profile::Leaks => {
            let Found { leaks, mut names } = scan::search(target, &opened, &view, None, config)?;
            let sure = leaks.groups.iter().filter(|group| group.verdict > Verdict::Suspect);
            let chosen: Vec<u32> = sure.flat_map(|group| &group.members).copied().collect();
            let snapshot = &leaks.observed.snapshot;
            write(ProfileKind::Leaks, snapshot, &mut names, &chosen).map_err(failed)?;
        }
        // The core orders a stream for this kind.
        Profile::Block(_) => {
            return Err(failed("where it blocks is told by events, not by its memory"));
        }
    }
    out.flush().map_err(failed)
}

fn compiled(pattern: Option<&str>) -> Result<Option<Regex>, Failure> {
    pattern.map(Regex::new).transpose().map_err(failed)
}

fn failed(error: impl std::fmt::Display) -> Failure {
    Failure::Other(error.to_string())
}
