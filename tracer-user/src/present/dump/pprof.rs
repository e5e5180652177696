//! A profile as `runtime/pprof` makes its goroutine profile (`src/runtime/pprof/pprof.go`,
//! `printCountProfile`, and `proto.go`; Go 1.19 to 1.27): one sample for all goroutines with the
//! same stack and labels, their number as its value, one location for a physical frame with a line
//! for each function inlined into it.
//!
//! Unlike the runtime's, a stack is whole however deep it is (the runtime cuts at 32 frames, since
//! 1.23 at 128), and goroutines whose stack cannot be had stand in a frame of their own name.

use super::{
    Names,
    names::Line,
    proto::{self, Profile},
};
use crate::snapshot::{Goroutine, Pc, Snapshot, StackId, Trust};
use flate2::{Compression, write::GzEncoder};
use prost::Message;
use std::{
    cmp::Reverse,
    collections::HashMap,
    io::{self, Write},
    path::Path,
};

/// Parts of the profile that are held in memory before they are written: messages of protocol
/// buffers may be cut anywhere between two elements of a list, and joined again by putting one
/// behind the other.
const PART: usize = 4096;

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
    let mut builder = Builder::new(GzEncoder::new(out, Compression::fast()), names);
    builder.head(kind, exe, time_ns);
    for ((stack, labels, trust), count) in samples(snapshot, chosen) {
        builder.sample(snapshot.stacks.get(stack), labels_of(snapshot, labels), trust, count);
        builder.flush(PART)?;
    }
    builder.flush(0)?;
    builder.out.finish()?.flush()
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

/// A profile on its way.
struct Builder<'a, W: Write> {
    out: GzEncoder<W>,
    names: &'a mut Names,
    part: Profile,
    strings: HashMap<String, i64>,
    /// By name, as the runtime has it.
    functions: HashMap<String, u64>,
    /// By link-time address and number of lines.
    locations: HashMap<(u64, usize), u64>,
    /// Of the goroutines without a stack.
    notes: HashMap<&'static str, u64>,
    last_location: u64,
}

impl<'a, W: Write> Builder<'a, W> {
    fn new(out: GzEncoder<W>, names: &'a mut Names) -> Self {
        let mut builder = Builder {
            out,
            names,
            part: Profile::default(),
            strings: HashMap::new(),
            functions: HashMap::new(),
            locations: HashMap::new(),
            notes: HashMap::new(),
            last_location: 0,
        };
        // The first string is the empty one.
        builder.string("");
        builder
    }

    fn head(&mut self, kind: ProfileKind, exe: &Path, time_ns: i64) {
        let count = proto::ValueType { r#type: self.string(kind.name()), unit: self.string("count") };
        self.part.period_type = Some(count);
        self.part.period = 1;
        self.part.sample_type.push(count);
        self.part.time_nanos = time_ns;
        let comment = self.string(concat!("sfgi ", env!("CARGO_PKG_VERSION")));
        self.part.comment.push(comment);
        let (image, bias) = (self.names.binary().image(), self.names.bias());
        let (build_id, code) = (image.build_id().unwrap_or_default(), image.code());
        let (addrs, file_offset) = code.unwrap_or_default();
        // A file that was deleted since is still known by its name.
        let name = exe.to_string_lossy();
        let mapping = proto::Mapping {
            id: 1,
            memory_start: addrs.start.wrapping_add(bias),
            memory_limit: addrs.end.wrapping_add(bias),
            file_offset,
            filename: self.string(name.strip_suffix(" (deleted)").unwrap_or(&name)),
            build_id: self.string(&build_id),
            has_functions: true,
        };
        self.part.mapping.push(mapping);
    }

    fn string(&mut self, text: &str) -> i64 {
        if let Some(index) = self.strings.get(text) {
            return *index;
        }
        let index = self.strings.len() as i64;
        self.strings.insert(text.to_owned(), index);
        self.part.string_table.push(text.to_owned());
        index
    }

    fn sample(&mut self, stack: &[Pc], labels: &[(String, String)], note: Option<&'static str>, count: i64) {
        let location_id = match note {
            Some(note) => vec![self.note(note)],
            None => self.locations(stack),
        };
        let label =
            labels.iter().map(|(key, value)| proto::Label { key: self.string(key), str: self.string(value) });
        let label = label.collect();
        self.part.sample.push(proto::Sample { location_id, value: vec![count], label });
    }

    /// The locations of a stack: all but the end of every stack, `runtime.goexit`, and wrappers.
    fn locations(&mut self, stack: &[Pc]) -> Vec<u64> {
        let mut frames = self.names.frames(stack);
        frames.retain(|lines| lines.first().is_none_or(|line| &*line.site.func != "runtime.goexit"));
        // A function that is inlined into itself is two locations, as the runtime has it: it cannot
        // tell that from a recursion (`pcDeck.tryAdd`).
        let runs =
            frames.iter().flat_map(|lines| lines.chunk_by(|one, next| one.site.func != next.site.func));
        runs.filter_map(|lines| self.location(lines)).collect()
    }

    fn location(&mut self, lines: &[Line]) -> Option<u64> {
        let pc = lines.first()?.pc;
        // With and without wrappers it is not the same place.
        let key = (pc, lines.len());
        if let Some(id) = self.locations.get(&key) {
            return Some(*id);
        }
        let lines = lines.iter().map(|line| proto::Line {
            function_id: self.function(&line.site.func, &line.site.file, line.start_line),
            line: i64::from(line.site.line),
        });
        let lines = lines.collect();
        let id = self.push_location(pc.wrapping_add(self.names.bias()), lines);
        self.locations.insert(key, id);
        Some(id)
    }

    fn push_location(&mut self, address: u64, line: Vec<proto::Line>) -> u64 {
        self.last_location += 1;
        let mapping_id = u64::from(address != 0);
        self.part.location.push(proto::Location { id: self.last_location, mapping_id, address, line });
        self.last_location
    }

    fn note(&mut self, note: &'static str) -> u64 {
        if let Some(id) = self.notes.get(note) {
            return *id;
        }
        let line = proto::Line { function_id: self.function(note, "", 0), line: 0 };
        let id = self.push_location(0, vec![line]);
        self.notes.insert(note, id);
        id
    }

    fn function(&mut self, name: &str, file: &str, start_line: u32) -> u64 {
        if let Some(id) = self.functions.get(name) {
            return *id;
        }
        let id = self.functions.len() as u64 + 1;
        self.functions.insert(name.to_owned(), id);
        let (name, filename) = (self.string(name), self.string(file));
        let start_line = i64::from(start_line);
        self.part.function.push(proto::Function { id, name, system_name: name, filename, start_line });
        id
    }

    /// Writes what has come together, once it is more than `limit` samples.
    fn flush(&mut self, limit: usize) -> io::Result<()> {
        if self.part.sample.len() < limit {
            return Ok(());
        }
        let part = std::mem::take(&mut self.part);
        self.out.write_all(&part.encode_to_vec())
    }
}
