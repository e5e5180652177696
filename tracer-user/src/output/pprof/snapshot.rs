//! A profile as `runtime/pprof` makes its goroutine profile (`src/runtime/pprof/pprof.go`,
//! `printCountProfile`, and `proto.go`; Go 1.19 to 1.27): one sample for all goroutines with the
//! same stack and labels, their number as its value, one location for a physical frame with a line
//! for each function inlined into it.
//!
//! Unlike the runtime's, a stack is whole however deep it is (the runtime cuts at 32 frames, since
//! 1.23 at 128), and goroutines whose stack cannot be had stand in a frame of their own name.

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

/// Which profile of the runtime's it is like.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ProfileKind {
    /// All goroutines: `goroutine`.
    Goroutines,
    /// Those that are leaked: `goroutineleak` of Go 1.26 and later.
    Leaks,
}

impl ProfileKind {
    /// The name of the profile, which is also what its samples are.
    fn name(self) -> &'static str {
        match self {
            ProfileKind::Goroutines => "goroutine",
            ProfileKind::Leaks => "goroutineleak",
        }
    }
}

/// Writes these goroutines as a compressed profile. `exe` is the name of the executable as the
/// process saw it; `time_ns` is the wall clock's, 0 for unknown.
///
/// # Errors
/// Those of the writer.
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

/// Stack, labels and, where there is no stack, why.
type Key = (StackId, u32, Option<&'static str>);

/// How many goroutines have the same, most first.
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

/// What stands in place of the stack of a goroutine that has none.
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

/// The locations of a stack: all but the end of every stack, `runtime.goexit`, and wrappers.
fn locations<W: Write>(builder: &mut Builder<W>, names: &mut Names, stack: &[Pc]) -> Vec<u64> {
    let mut frames = names.frames(stack);
    frames.retain(|lines| lines.first().is_none_or(|line| &*line.site.func != "runtime.goexit"));
    // A function that is inlined into itself is two locations, as the runtime has it: it cannot
    // tell that from a recursion (`pcDeck.tryAdd`).
    let runs = frames.iter().flat_map(|lines| lines.chunk_by(|one, next| one.site.func != next.site.func));
    let bias = names.bias();
    let location = |lines: &[StackLine]| {
        let address = lines.first()?.pc.wrapping_add(bias);
        let places = lines.iter().map(|line| Place { site: &line.site, start_line: line.start_line });
        Some(builder.location(address, places))
    };
    runs.filter_map(location).collect()
}
