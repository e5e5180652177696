//! Writes pprof profiles, whatever they are of.

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

/// Parts of the profile that are held in memory before they are written: messages of protocol
/// buffers may be cut anywhere between two elements of a list, and joined again by putting one
/// behind the other.
const PART: usize = 4096;

/// A kind of value, and its unit.
pub(crate) type Unit = (&'static str, &'static str);

/// What a profile says of itself.
pub(crate) struct Head<'a> {
    /// What the values of each sample are, in order; pprof shows the last one first.
    pub(crate) values: &'a [Unit],
    /// When what it tells was so, or began: the wall clock's nanoseconds, 0 for unknown.
    pub(crate) time_ns: i64,
    /// How long that took, nanoseconds; 0: it is of one moment.
    pub(crate) duration_ns: i64,
    /// Name of the executable.
    pub(crate) exe: &'a str,
    /// The build id of that, empty where it is not known.
    pub(crate) build_id: &'a str,
    /// Where its code lies in memory, and in the file.
    pub(crate) code: (std::ops::Range<u64>, u64),
    /// Sentences for who looks at it (`go tool pprof -comments`).
    pub(crate) comments: &'a [String],
}

/// A function at a place in the source.
pub(crate) struct Place<'a> {
    pub(crate) site: &'a Site,
    /// Line of the function's beginning; 0 where that is not known.
    pub(crate) start_line: u32,
}

/// A compressed profile on its way.
pub(crate) struct Builder<W: Write> {
    out: GzEncoder<W>,
    part: Profile,
    strings: HashMap<String, i64>,
    /// By name, as the runtime has it.
    functions: HashMap<String, u64>,
    /// By address and number of lines: with and without wrappers it is not the same place.
    locations: HashMap<(u64, usize), u64>,
    /// Those that are not in the program.
    notes: HashMap<&'static str, u64>,
    last_location: u64,
}

impl<W: Write> Builder<W> {
    /// Into `out`.
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
        // The first string is the empty one.
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
        // A file that was deleted since is still known by its name.
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

    /// One sample: the locations of its stack, innermost first, as many values as the head says, labels.
    ///
    /// # Errors
    /// Those of the writer.
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

    /// The physical frame whose instruction is at `address`, with what is inlined into it, innermost first.
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
        let mapping_id = u64::from(address != 0);
        self.part.location.push(proto::Location { id: self.last_location, mapping_id, address, line });
        self.last_location
    }

    /// A frame that says something else than a function of the program.
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

    /// Writes what has come together.
    fn flush(&mut self) -> io::Result<()> {
        let part = std::mem::take(&mut self.part);
        self.out.write_all(&part.encode_to_vec())
    }

    /// Writes the rest.
    ///
    /// # Errors
    /// Those of the writer.
    pub(crate) fn finish(mut self) -> io::Result<()> {
        self.flush()?;
        self.out.finish()?.flush()
    }
}
