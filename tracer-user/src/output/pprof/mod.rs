//! Writes pprof profiles of any kind, as they are made.

pub(crate) mod proto;
mod snapshot;

use flate2::{Compression, write::GzEncoder};
use prost::Message;
use proto::Profile;
use sfgi_core::names::Site;
pub use snapshot::{ProfileKind, write_profile};
use std::{
    collections::HashMap,
    io::{self, Write},
};

/// Samples held in memory before they are written. Concatenated protocol buffers are one message whose lists are
/// joined, so a profile is written in parts.
const PART: usize = 4096;

/// A kind of value and its unit.
pub(crate) type Unit = (&'static str, &'static str);

/// What a profile says about itself.
pub(crate) struct Head<'a> {
    /// The values of each sample, in order. pprof shows the last one by default.
    pub(crate) values: &'a [Unit],
    /// Wall clock of the profile's beginning, nanoseconds since 1970; 0: not known.
    pub(crate) time_ns: i64,
    /// Length of the profiled time, nanoseconds; 0: one moment.
    pub(crate) duration_ns: i64,
    /// Path of the executable as the target sees it.
    pub(crate) exe: &'a str,
    /// Its build id; empty: not known.
    pub(crate) build_id: &'a str,
    /// Addresses of its code in memory, and the code's offset in the file.
    pub(crate) code: (std::ops::Range<u64>, u64),
    /// Sentences for `go tool pprof -comments`.
    pub(crate) comments: &'a [String],
}

/// A function with a place in it.
pub(crate) struct Place<'a> {
    pub(crate) site: &'a Site,
    /// First line of the function; 0: not known.
    pub(crate) start_line: u32,
}

/// A compressed profile while it is written. Strings, functions and locations are numbered as they are first used.
pub(crate) struct Builder<W: Write> {
    out: GzEncoder<W>,
    part: Profile,
    strings: HashMap<String, i64>,
    /// By name alone, as the runtime's profiles have them (`profileBuilder.funcs`, `src/runtime/pprof/proto.go`).
    functions: HashMap<String, u64>,
    /// By address and number of lines: an address has fewer lines where wrappers are left out.
    locations: HashMap<(u64, usize), u64>,
    /// Locations of texts in brackets, which are no code.
    notes: HashMap<&'static str, u64>,
    last_location: u64,
}

impl<W: Write> Builder<W> {
    pub(crate) fn new(out: W, head: &Head<'_>) -> Self {
        let mut builder = Builder {
            out: GzEncoder::new(out, Compression::fast()),
            part: Profile::default(),
            strings: HashMap::new(),
            functions: HashMap::new(),
            locations: HashMap::new(),
            notes: HashMap::new(),
            last_location: 0,
        };
        // The format demands that string 0 is empty.
        builder.string("");
        builder.head(head);
        builder
    }

    fn head(&mut self, head: &Head<'_>) {
        for (what, unit) in head.values {
            let value = proto::ValueType { r#type: self.string(what), unit: self.string(unit) };
            self.part.period_type.get_or_insert(value);
            self.part.sample_type.push(value);
        }
        self.part.period = 1;
        (self.part.time_nanos, self.part.duration_nanos) = (head.time_ns, head.duration_ns);
        let tool = concat!("sfgi ", env!("CARGO_PKG_VERSION"));
        let comments = std::iter::once(tool).chain(head.comments.iter().map(String::as_str));
        self.part.comment = comments.map(|text| self.string(text)).collect();
        let (addrs, file_offset) = head.code.clone();
        // The kernel appends ` (deleted)` to the path of a file that is gone; pprof needs the name.
        let filename = head.exe.strip_suffix(" (deleted)").unwrap_or(head.exe);
        let mapping = proto::Mapping {
            id: 1,
            memory_start: addrs.start,
            memory_limit: addrs.end,
            file_offset,
            filename: self.string(filename),
            build_id: self.string(head.build_id),
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

    /// Adds a sample: the locations of its stack, innermost first; a value for each of [`Head::values`]; labels.
    pub(crate) fn sample<K: AsRef<str>, V: AsRef<str>>(
        &mut self,
        location_id: Vec<u64>,
        value: Vec<i64>,
        labels: &[(K, V)],
    ) -> io::Result<()> {
        let label = labels.iter().map(|(key, value)| proto::Label {
            key: self.string(key.as_ref()),
            str: self.string(value.as_ref()),
        });
        let label = label.collect();
        self.part.sample.push(proto::Sample { location_id, value, label });
        if self.part.sample.len() < PART { Ok(()) } else { self.flush() }
    }

    /// The number of a physical frame with its instruction at `address`. `lines`: its functions, innermost first.
    pub(crate) fn location<'p>(
        &mut self,
        address: u64,
        lines: impl ExactSizeIterator<Item = Place<'p>>,
    ) -> u64 {
        let key = (address, lines.len());
        if let Some(id) = self.locations.get(&key) {
            return *id;
        }
        let lines = lines.map(|Place { site, start_line }| proto::Line {
            function_id: self.function(&site.func, &site.file, start_line),
            line: i64::from(site.line),
        });
        let lines = lines.collect();
        let id = self.push_location(address, lines);
        self.locations.insert(key, id);
        id
    }

    fn push_location(&mut self, address: u64, line: Vec<proto::Line>) -> u64 {
        self.last_location += 1;
        // A text in brackets has no address and belongs to no mapping.
        let mapping_id = u64::from(address != 0);
        self.part.location.push(proto::Location { id: self.last_location, mapping_id, address, line });
        self.last_location
    }

    /// The number of a frame that is a text instead of a function.
    pub(crate) fn note(&mut self, note: &'static str) -> u64 {
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

    /// Writes a part, and begins the next.
    fn flush(&mut self) -> io::Result<()> {
        let part = std::mem::take(&mut self.part);
        self.out.write_all(&part.encode_to_vec())
    }

    /// Writes the last part and the end of the compressed stream.
    pub(crate) fn finish(mut self) -> io::Result<()> {
        self.flush()?;
        self.out.finish()?.flush()
    }
}
