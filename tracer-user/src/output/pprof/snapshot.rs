//! Profiles of a snapshot, made as `runtime/pprof` makes its goroutine profile (`printCountProfile`,
//! `src/runtime/pprof/pprof.go`, and `proto.go`; Go 1.19 to 1.27): one sample for all goroutines with the same stack
//! and labels, their number as its value, one location for each physical frame with a line for each function there.
//!
//! Two things differ. A stack is whole however deep it is (the runtime cuts at 32 frames, since 1.23 at 128), and
//! goroutines without a stack have a frame that says why.

use super::{Builder, Head, Place};
use sfgi_core::{
    names::{Names, StackLine},
    snapshot::{Goroutine, Pc, Snapshot, StackId, Trust},
};
use std::{
    cmp::Reverse,
    collections::HashMap,
    io::{self, Write},
    path::Path,
};

/// The profile of the runtime's that this one is like.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ProfileKind {
    /// `goroutine`: all goroutines.
    Goroutines,
    /// `goroutineleak` of Go 1.26 and later: leaked goroutines.
    Leaks,
}

impl ProfileKind {
    /// The runtime's name of the profile, which is also the type of its samples.
    fn name(self) -> &'static str {
        match self {
            ProfileKind::Goroutines => "goroutine",
            ProfileKind::Leaks => "goroutineleak",
        }
    }
}

/// Writes the goroutines with the indices `chosen` as a compressed profile. `exe` is the path of the executable as the
/// target sees it; `time_ns` is the wall clock, 0 for unknown.
pub fn write_profile(
    out: impl Write,
    kind: ProfileKind,
    snapshot: &Snapshot,
    names: &mut Names,
    chosen: &[u32],
    exe: &Path,
    time_ns: i64,
) -> io::Result<()> {
    let (image, bias) = (names.binary().image(), names.bias());
    // With mapping and build id pprof can look up source and assembly itself.
    let (addrs, file_offset) = image.code().unwrap_or_default();
    let head = Head {
        values: &[(kind.name(), "count")],
        time_ns,
        duration_ns: 0,
        exe: &exe.to_string_lossy(),
        build_id: &image.build_id().unwrap_or_default(),
        code: (addrs.start.wrapping_add(bias)..addrs.end.wrapping_add(bias), file_offset),
        comments: &[],
    };
    let mut builder = Builder::new(out, &head);
    for ((stack, labels, trust), count) in samples(snapshot, chosen) {
        let locations = match trust {
            Some(note) => vec![builder.note(note)],
            None => locations(&mut builder, names, snapshot.stacks.get(stack)),
        };
        builder.sample(locations, vec![count], labels_of(snapshot, labels))?;
    }
    builder.finish()
}

/// Stack, set of labels, and the text in place of a stack, if there is none.
type Key = (StackId, u32, Option<&'static str>);

/// Counts goroutines by key, the largest number first; equal ones in the order of the snapshot.
fn samples(snapshot: &Snapshot, chosen: &[u32]) -> Vec<(Key, i64)> {
    let mut places: HashMap<Key, usize> = HashMap::new();
    let mut counts: Vec<(Key, i64)> = Vec::new();
    for goroutine in chosen.iter().filter_map(|index| snapshot.goroutines.get(*index as usize)) {
        let key = (goroutine.stack, goroutine.labels, without_stack(goroutine));
        let place = *places.entry(key).or_insert(counts.len());
        match counts.get_mut(place) {
            Some((_, count)) => *count += 1,
            None => counts.push((key, 1)),
        }
    }
    counts.sort_by_key(|(_, count)| Reverse(*count));
    counts
}

/// The text in place of the stack of a goroutine that has none.
fn without_stack(goroutine: &Goroutine) -> Option<&'static str> {
    if goroutine.stack != StackId::default() {
        return None;
    }
    Some(match goroutine.trust {
        Trust::Still => "[no stack]",
        Trust::InMotion => "[in motion]",
        Trust::Running => "[running]",
        Trust::Broken => "[broken]",
    })
}

fn labels_of(snapshot: &Snapshot, set: u32) -> &[(String, String)] {
    set.checked_sub(1).and_then(|set| snapshot.labels.get(set as usize)).map_or(&[], Vec::as_slice)
}

/// The locations of a stack without `runtime.goexit`, which ends every stack, and without wrappers.
fn locations<W: Write>(builder: &mut Builder<W>, names: &mut Names, stack: &[Pc]) -> Vec<u64> {
    let mut frames = names.frames(stack);
    frames.retain(|lines| lines.first().is_none_or(|line| &*line.site.func != "runtime.goexit"));
    // A function that is inlined into itself gets two locations, as in the runtime's profiles: it takes that for a
    // recursion (`pcDeck.tryAdd`, `src/runtime/pprof/proto.go`).
    let runs = frames.iter().flat_map(|lines| lines.chunk_by(|one, next| one.site.func != next.site.func));
    let bias = names.bias();
    let location = |lines: &[StackLine]| {
        let address = lines.first()?.pc.wrapping_add(bias);
        let places = lines.iter().map(|line| Place { site: &line.site, start_line: line.start_line });
        Some(builder.location(address, places))
    };
    runs.filter_map(location).collect()
}
