//! Answers that take a look at a process now.

use crate::{
    agent::{
        request::{Filter, Form, Profile, Refusal},
        settings::Settings,
        watch::{Target, scan},
    },
    output::{
        Traceback,
        dump::{About, Choice, Group, JsonDump, Names, ProfileKind, write_profile},
    },
};
use bytes::Bytes;
use sfgi_core::{detect::Verdict, memory::Live, snapshot, snapshot::Options};
use std::{io, sync::Arc};

/// Goroutines in a document where nobody says how many, and at most.
const LIMIT: usize = 1000;
const MAX_LIMIT: usize = 100_000;

/// The goroutines of a process as a document.
pub(super) fn goroutines(target: &Target, filter: &Filter, form: Form) -> Result<Bytes, Refusal> {
    let opened = target.open().map_err(Refusal::Failed)?;
    let memory = Live::of(&target.process);
    let view = opened.view(&memory);
    let text = form == Form::Text;
    let options = Options { stacks: true, args: text, labels: true, objects: !text };
    let snapshot = snapshot::take(&view, options, &mut |_, _| {}).map_err(failed)?;
    target.still_the_same().map_err(Refusal::Failed)?;
    let mut names = Names::new(Arc::clone(&opened.binary), opened.bias, &snapshot);
    let choice = Choice {
        states: filter.states.clone(),
        reason: filter.reason.clone(),
        func: filter.func.clone(),
        older_ns: u64::try_from(filter.older.as_nanos()).unwrap_or(u64::MAX),
        goids: filter.goids.iter().copied().collect(),
        object: None,
        system: filter.system,
    };
    let limit = if filter.limit == 0 { LIMIT } else { filter.limit.min(MAX_LIMIT) };
    let mut chosen = choice.of(&snapshot, &mut names);
    let incomplete = snapshot.incomplete.map(|fault| fault.to_string());
    let exe = target.exe();
    let about = About { pid: Some(target.pid()), exe: &exe, incomplete: incomplete.as_deref(), object: None };
    let mut out = Vec::new();
    match form {
        Form::JsonGroups => {
            let mut groups = Group::all(&snapshot, &names, &chosen);
            groups.drain(..filter.skip.min(groups.len()));
            groups.truncate(limit);
            JsonDump::new(&mut out, &snapshot, &mut names).groups(&about, &groups).map_err(failed)?;
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
                        out.push(b'\n');
                    }
                    traceback.write(&mut out, goroutine).map_err(failed)?;
                }
            } else {
                JsonDump::new(&mut out, &snapshot, &mut names).goroutines(&about, &chosen).map_err(failed)?;
            }
        }
    }
    Ok(out.into())
}

/// A profile of a process, as `net/http/pprof` would serve it.
pub(super) fn profile(target: &Target, kind: Profile, settings: &Settings) -> Result<Bytes, Refusal> {
    let opened = target.open().map_err(Refusal::Failed)?;
    let memory = Live::of(&target.process);
    let view = opened.view(&memory);
    let (exe, time_ns) = (target.exe(), i64::try_from(scan::unix_ns()).unwrap_or(0));
    let mut out = Vec::new();
    let mut write = |kind, snapshot, names: &mut Names, chosen: &[u32]| -> io::Result<()> {
        write_profile(&mut out, kind, snapshot, names, chosen, &exe, time_ns)
    };
    match kind {
        Profile::Goroutines => {
            let options = Options { stacks: true, labels: true, ..Options::default() };
            let snapshot = snapshot::take(&view, options, &mut |_, _| {}).map_err(failed)?;
            target.still_the_same().map_err(Refusal::Failed)?;
            let mut names = Names::new(Arc::clone(&opened.binary), opened.bias, &snapshot);
            let chosen = Choice::default().of(&snapshot, &mut names);
            write(ProfileKind::Goroutines, &snapshot, &mut names, &chosen).map_err(failed)?;
        }
        Profile::Leaks => {
            let (observation, report, mut names) =
                scan::observe(target, &opened, &view, None, settings).map_err(Refusal::Failed)?;
            let sure = report.groups.iter().filter(|group| group.verdict > Verdict::Suspect);
            let chosen: Vec<u32> = sure.flat_map(|group| &group.members).copied().collect();
            let snapshot = &observation.observed.snapshot;
            write(ProfileKind::Leaks, snapshot, &mut names, &chosen).map_err(failed)?;
        }
        Profile::Block(_) => {
            return Err(Refusal::Failed("where it blocks is told by events, not by its memory".to_owned()));
        }
    }
    Ok(out.into())
}

fn failed(error: impl std::fmt::Display) -> Refusal {
    Refusal::Failed(error.to_string())
}
