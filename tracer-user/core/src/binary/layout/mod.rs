//! Where the fields of the runtime's structs lie in one binary: by the row of its version in `layouts.json`, else by
//! its DWARF, else by its type descriptors and, for what has none, by the row of a version near its own, if the binary's
//! code agrees.
//!
//! The table comes first because DWARF is large, and hostile where somebody wants it to be.

mod described;
mod infer;

use super::buildinfo::GoVersion;
use super::contents::Contents;
use super::dwarf;
use super::elf::{Arch, Image};
use super::pclntab::Pclntab;
use crate::files::{self, FileError};
use crate::goruntime::{Release, layouts};
use serde::Deserialize;
use serde::de::{Error as _, MapAccess, Visitor};
use std::collections::HashMap;
use std::fmt;
use std::fs::File;
use std::path::Path;
use tracer_common::ProbeOffsets;

/// Most entries of a layout file. `layouts.json` has 910 for Go 1.27.
const MAX_OFFSETS: usize = 10_000;
/// Bytes of a layout file that are read; a real one has 30 KB.
const MAX_FILE: u64 = 4 << 20;

/// Why there is no layout, or none that the probes can use.
#[derive(Debug, thiserror::Error)]
pub enum LayoutError {
    /// Neither DWARF nor `layouts.json` has the version, and the binary's code contradicts the row of the nearest one.
    #[error(
        "it was built with {version} and without DWARF; the layout of that version is not known, and that of \
         go{like} does not fit: {field} lies elsewhere in {function}; supply the layout with --layout FILE \
         (`cargo xtask layouts --one GOROOT -o FILE` writes one), build it without -ldflags=-w (or -s), or use a \
         newer sfgi"
    )]
    Unconfirmed {
        /// The version that built the binary, as its build information has it.
        version: String,
        /// The version whose layout was tried, without `go`.
        like: String,
        /// The `struct.field` whose offset does not occur in `function`.
        field: &'static str,
        /// The function of the runtime that uses `field`.
        function: &'static str,
    },
    /// `layouts.json` has no row of the series; the text is the version.
    #[error(
        "it was built with {0} and without DWARF, and the layout of no version of that series is known; supply the layout with --layout FILE, or build it without -ldflags=-w (or -s)"
    )]
    NoRow(String),
    /// The version is older than [`Release::OLDEST`]; the text is the version.
    #[error("it was built with {0}; go1.{oldest} is the oldest version supported", oldest = Release::OLDEST.minor())]
    TooOld(String),
    /// The layout lacks a field that the probes read: the field, and where the layout comes from.
    #[error("the layout of {0} is not known for this binary ({1})")]
    NoField(&'static str, String),
    /// Two fields that the probes read with one access lie at another distance than the BPF programs assume: the field,
    /// the distance, the field before it, and where the layout comes from.
    #[error("{0} does not lie {1} bytes behind {2} in this binary, as the probes need ({3})")]
    Apart(&'static str, u32, &'static str, String),
    /// The layout file cannot be read.
    #[error("the layout file {file} {error}")]
    Unread { file: String, error: FileError },
    /// The layout file was read, but its contents are no complete layout.
    #[error(
        "{file} is no layout: {fault}; `cargo xtask layouts --one GOROOT -o FILE` writes one as it should be"
    )]
    BadFile { file: String, fault: String },
    /// The supplied layout is of another series of Go or another processor than the binary.
    #[error(
        "{source_of} is of {of}; the binary was built with {version} for {arch}: supply a layout of that"
    )]
    OtherBinary {
        /// Where the layout comes from.
        source_of: String,
        /// The version and processor of the layout.
        of: String,
        /// The version that built the binary.
        version: String,
        /// The binary's processor, as `GOARCH` has it.
        arch: &'static str,
    },
}

/// Where a layout comes from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Source {
    /// The binary's own DWARF.
    Dwarf,
    /// The DWARF in the separate debug file of this path.
    DebugFile(String),
    /// The row of this version in `layouts.json`, e.g. `1.24.3`.
    Table(String),
    /// The row of another version, which the binary's code confirms, and its type descriptors as far as it has any.
    Inferred(String),
    /// Its type descriptors, which contradict the row of this version; what has no descriptor is taken from that row.
    /// The binary's code confirms both.
    Described(String),
    /// A file that the user named (`--layout FILE`).
    File {
        /// The path, as the user wrote it.
        path: String,
        /// The version that the file says it is of, without `go`: `1.28.0`.
        go: String,
        /// The processor that the file says it is of, as `GOARCH` has it.
        arch: String,
    },
}

impl Source {
    /// Whether commands mention the source to the user: neither the binary nor the exact version vouches for it.
    pub fn is_unusual(&self) -> bool {
        matches!(self, Source::Inferred(_) | Source::Described(_) | Source::File { .. })
    }
}

impl fmt::Display for Source {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Source::Dwarf => f.write_str("DWARF"),
            Source::DebugFile(path) => write!(f, "DWARF in {path}"),
            Source::Table(row) => write!(f, "table of {row}"),
            Source::Inferred(row) => write!(f, "as go{row}, checked against the code"),
            Source::Described(row) => {
                write!(f, "its own types, the rest as go{row}, checked against the code")
            }
            Source::File { path, .. } => write!(f, "file {path}"),
        }
    }
}

/// Offsets of the fields of the runtime's structs, in bytes.
#[derive(Clone, Debug)]
pub struct Layout {
    source: Source,
    /// By `struct.field` or `struct.field.field`, without the package.
    offsets: HashMap<String, u32>,
}

/// What is known of a binary's layout before its code is read.
pub(super) enum Known {
    Surely(Layout),
    /// One of these, if the code confirms it ([`Layout::confirm`]); best first.
    Maybe(Vec<Layout>),
}

impl Layout {
    /// Looks for the layout in `layouts.json`; for a version that has no row of its own, in the binary's DWARF, its
    /// separate debug file, and then in its type descriptors and the rows near it.
    ///
    /// # Errors
    /// [`LayoutError::TooOld`].
    pub(super) fn find(image: &Image, version: &GoVersion) -> Result<Known, LayoutError> {
        if version.release < Release::OLDEST {
            return Err(LayoutError::TooOld(version.raw.clone()));
        }
        let tabled = Layout::of_version(image.arch(), version);
        // An experiment may change structs: `exectracer2` did.
        if version.experiments.is_empty() && matches!(tabled, Known::Surely(_)) {
            return Ok(tabled);
        }
        // DWARF that lacks a field or contradicts itself was rewritten by another tool: the table is safer.
        let complete = |offsets: &HashMap<_, _>| layouts::check(offsets, version.release).is_ok();
        if let Some(offsets) = dwarf::offsets(image).filter(complete) {
            return Ok(Known::Surely(Layout { source: Source::Dwarf, offsets }));
        }
        if let Some((path, offsets)) = dwarf::separate(image).filter(|(_, offsets)| complete(offsets)) {
            return Ok(Known::Surely(Layout { source: Source::DebugFile(path), offsets }));
        }
        let Some(described) = described::offsets(image) else { return Ok(tabled) };
        let rows = match tabled {
            Known::Surely(row) if row.differences(&described) == 0 => return Ok(Known::Surely(row)),
            Known::Surely(row) => vec![row],
            Known::Maybe(rows) => rows,
        };
        let mut rows: Vec<_> = rows.into_iter().map(|row| (row.differences(&described), row)).collect();
        rows.sort_by_key(|(differences, _)| *differences);
        let with = |(differences, row): (usize, Layout)| {
            if differences == 0 {
                return row;
            }
            let merged = row.clone().with(&described);
            // Descriptors that lack what is needed were rewritten by another tool.
            if complete(&merged.offsets) { merged } else { row }
        };
        Ok(Known::Maybe(rows.into_iter().map(with).collect()))
    }

    /// How many fields of the structs that are described lie elsewhere, are missing or are new.
    fn differences(&self, described: &HashMap<String, u32>) -> usize {
        let moved = described.iter().filter(|(name, offset)| self.offsets.get(*name) != Some(offset));
        let gone = self
            .offsets
            .keys()
            .filter(|name| is_described(name, described) && !described.contains_key(*name));
        moved.count() + gone.count()
    }

    /// This layout with the structs that are described as they are described.
    fn with(self, described: &HashMap<String, u32>) -> Layout {
        let source = match self.source {
            Source::Table(row) | Source::Inferred(row) => Source::Described(row),
            other => other,
        };
        let mut offsets = self.offsets;
        offsets.retain(|name, _| !is_described(name, described));
        offsets.extend(described.iter().map(|(name, offset)| (name.clone(), *offset)));
        Layout { source, offsets }
    }

    /// The offsets of the structs that an executable's type descriptors tell, whatever the table has, by
    /// `struct.field`. `None`: it is no ELF file, or describes no `runtime.g`.
    pub fn of_descriptors(file: File) -> Option<HashMap<String, u32>> {
        let mut image = Image::headers(Contents::of(file).ok()?).ok()?;
        image.load(usize::MAX).ok()?;
        described::offsets(&image)
    }

    /// The layout that the DWARF of an executable tells, whatever the table has: what the table is made of and compared
    /// with. `None`: it is no ELF file, or its DWARF does not describe `runtime.g`.
    pub fn of_dwarf(file: File) -> Option<Layout> {
        let image = Image::headers(Contents::of(file).ok()?).ok()?;
        Some(Layout { source: Source::Dwarf, offsets: dwarf::offsets(&image)? })
    }

    fn of_version(arch: Arch, version: &GoVersion) -> Known {
        let (release, patch) = match version.release {
            // The last patch of the newest series is the best guess for any later one.
            newer if newer > Release::NEWEST => (Release::NEWEST, u32::MAX),
            known => (known, version.patch.unwrap_or(0)),
        };
        let rows = layouts::lookup(arch, release, patch);
        let mut layouts = rows.into_iter().map(|row| {
            let exact = row.holds && release == version.release && version.is_release();
            let source = if exact { Source::Table(row.name) } else { Source::Inferred(row.name) };
            Layout { source, offsets: row.offsets }
        });
        match layouts.next() {
            Some(layout) if matches!(layout.source, Source::Table(_)) => Known::Surely(layout),
            first => Known::Maybe(first.into_iter().chain(layouts).collect()),
        }
    }

    /// Reads a layout file, as `cargo xtask layouts --one` writes it.
    ///
    /// # Errors
    /// [`LayoutError::Unread`] and [`LayoutError::BadFile`].
    pub fn from_file(path: &Path) -> Result<Layout, LayoutError> {
        let file = path.display().to_string();
        let text = files::read_text_limited(path, MAX_FILE)
            .map_err(|error| LayoutError::Unread { file: file.clone(), error })?;
        Layout::from_json(&text, file.clone()).map_err(|fault| LayoutError::BadFile { file, fault })
    }

    /// Reads the text of a layout file; `path` only names the source.
    ///
    /// # Errors
    /// What is wrong with the text, as a clause for the user.
    pub(crate) fn from_json(text: &str, path: String) -> Result<Layout, String> {
        let file: Supplied = serde_json::from_str(text).map_err(|error| error.to_string())?;
        let version = GoVersion::parse(&format!("go{}", file.go));
        let version = version.ok_or_else(|| format!("{:?} is no version of Go", file.go))?;
        layouts::check(&file.offsets.0, version.release)?;
        let source = Source::File { path, go: file.go, arch: file.arch };
        Ok(Layout { source, offsets: file.offsets.0 })
    }

    /// Refuses a supplied layout that cannot be this binary's. A patch may differ, because the user vouches for it.
    ///
    /// # Errors
    /// [`LayoutError::OtherBinary`]: the layout is of another series or processor.
    pub(super) fn check_supplied(&self, image: &Image, version: &GoVersion) -> Result<(), LayoutError> {
        let Source::File { go, arch, .. } = &self.source else { return Ok(()) };
        let release = GoVersion::parse(&format!("go{go}")).map(|of| of.release);
        if release == Some(version.release) && arch == image.arch().go_name() {
            return Ok(());
        }
        Err(LayoutError::OtherBinary {
            source_of: self.source.to_string(),
            of: format!("go{go} for {arch}"),
            version: version.raw.clone(),
            arch: image.arch().go_name(),
        })
    }

    /// Checks this guessed layout against the binary's code.
    ///
    /// # Errors
    /// [`LayoutError::Unconfirmed`].
    pub(super) fn confirm(
        &self,
        image: &Image,
        functions: &Pclntab,
        version: &GoVersion,
    ) -> Result<(), LayoutError> {
        let unconfirmed = |(field, function)| LayoutError::Unconfirmed {
            version: version.raw.clone(),
            like: match &self.source {
                Source::Inferred(row) | Source::Described(row) => row.clone(),
                other => other.to_string(),
            },
            field,
            function,
        };
        infer::confirm(image, functions, &self.offsets, version.release).map_err(unconfirmed)
    }

    /// The offsets that are patched into the BPF object. Distances between fields that the BPF programs assume are
    /// checked here.
    ///
    /// # Errors
    /// [`LayoutError::NoField`] and [`LayoutError::Apart`] name the field at fault.
    pub fn probe_offsets(&self) -> Result<ProbeOffsets, LayoutError> {
        let at = |name: &'static str| {
            self.offsets.get(name).copied().ok_or_else(|| LayoutError::NoField(name, self.source.to_string()))
        };
        let near = |name, distance, base| {
            let apart = LayoutError::Apart(name, distance, base, self.source.to_string());
            (at(name)?.checked_sub(at(base)?) == Some(distance)).then_some(()).ok_or(apart)
        };
        // tracer-ebpf takes these fields with one read: its price hardly depends on the length
        // (tracer-ebpf/goroutine.rs).
        near("g.goid", 8, "g.atomicstatus")?;
        near("g.waitreason", 32, "g.atomicstatus")?;
        near("g.atomicstatus", 8, "g.param")?;
        near("g.sched.g", 8, "g.sched.pc")?;
        near("g.sched.ctxt", 16, "g.sched.pc")?;
        near("g.startpc", 16, "g.gopc")?;
        // `PARKED` (tracer-ebpf/src/goroutine.rs) reads 32 words from `sched.pc` on; `startpc` must be the last at
        // most.
        if at("g.startpc")?.checked_sub(at("g.sched.pc")?).is_none_or(|distance| distance > 31 * 8) {
            return Err(LayoutError::Apart("g.startpc", 31 * 8, "g.sched.pc", self.source.to_string()));
        }
        near("p.goidcacheend", 8, "p.goidcache")?;
        // Up to 1.24 `sched.ret` lies between them.
        near("g.sched.bp", 32, "g.sched.pc").or_else(|_| near("g.sched.bp", 40, "g.sched.pc"))?;
        if at("g.parentGoid").is_ok() {
            near("g.gopc", 8, "g.parentGoid")?;
        }
        Ok(ProbeOffsets {
            g_status: at("g.atomicstatus")?,
            g_m: at("g.m")?,
            g_sched_pc: at("g.sched.pc")?,
            g_sched_bp: at("g.sched.bp")?,
            g_schedlink: at("g.schedlink")?,
            g_parent_goid: at("g.parentGoid").unwrap_or(0),
            g_gopc: at("g.gopc")?,
            g_coroarg: at("g.coroarg").unwrap_or(0),
            g_coroexit: at("g.coroexit").unwrap_or(0),
            m_curg: at("m.curg")?,
            m_p: at("m.p")?,
            p_goidcache: at("p.goidcache")?,
            coro_gp: at("coro.gp").unwrap_or(0),
            g_param: at("g.param")?,
            sudog_c: at("sudog.c")?,
        })
    }

    /// Where the offsets come from.
    pub fn source(&self) -> &Source {
        &self.source
    }

    /// The offset of a field (`"g", "goid"`, also `"g", "sched.pc"`); for the field `_size` the size of the struct, for
    /// `_count` the number of elements of an array type. `None`: the version has no such field, or the layout lacks it.
    pub fn field(&self, of: &str, field: &str) -> Option<u32> {
        self.offsets.get(&format!("{of}.{field}")).copied()
    }

    /// All offsets with their `struct.field`, in no particular order.
    pub fn fields(&self) -> impl Iterator<Item = (&str, u32)> {
        self.offsets.iter().map(|(name, offset)| (name.as_str(), *offset))
    }
}

/// Whether the struct that `struct.field` names has a descriptor.
fn is_described(name: &str, described: &HashMap<String, u32>) -> bool {
    let of = name.split('.').next().unwrap_or(name);
    described.contains_key(&format!("{of}._size"))
}

/// A layout that the user supplies (`--layout FILE`), as `cargo xtask layouts --one` writes it:
/// `{"go": "1.28.0", "arch": "amd64", "offsets": {"g.goid": 152, …}}`.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Supplied {
    /// The version, without `go`.
    go: String,
    /// The processor, as `GOARCH` has it.
    arch: String,
    offsets: Offsets,
}

/// Offsets by `struct.field`. Not a plain map: serde would silently let the last of two equal keys win.
struct Offsets(HashMap<String, u32>);

impl<'de> Deserialize<'de> for Offsets {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Offsets, D::Error> {
        deserializer.deserialize_map(Collect)
    }
}

struct Collect;

impl<'de> Visitor<'de> for Collect {
    type Value = Offsets;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a map of offsets by struct.field")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Offsets, A::Error> {
        let mut found = HashMap::new();
        while let Some((name, offset)) = map.next_entry::<String, u32>()? {
            if found.len() == MAX_OFFSETS {
                return Err(A::Error::custom("there are more offsets than any version has"));
            }
            if found.contains_key(&name) {
                return Err(A::Error::custom(format!("{name} stands there twice")));
            }
            found.insert(name, offset);
        }
        Ok(Offsets(found))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn known(raw: &str) -> Vec<Layout> {
        match Layout::of_version(Arch::Amd64, &GoVersion::parse(raw).unwrap()) {
            Known::Surely(layout) => vec![layout],
            Known::Maybe(layouts) => layouts,
        }
    }

    fn sources(raw: &str) -> Vec<String> {
        known(raw).iter().map(|layout| layout.source.to_string()).collect()
    }

    #[test]
    fn only_the_very_version_is_sure() {
        assert_eq!(sources("go1.26.6"), ["table of 1.26.6"]);
        assert_eq!(sources("go1.26.6 X:noswissmap"), ["table of 1.26.6"]);
        assert_eq!(sources("go1.24.11"), ["table of 1.24.11"]);
        let guess = |row: &str| format!("as go{row}, checked against the code");
        assert_eq!(sources("go1.26.6-vendor"), [guess("1.26.6")]);
        assert_eq!(sources("go1.24.7"), [guess("1.24.3"), guess("1.24.11")]);
        assert_eq!(sources("go1.24.1"), [guess("1.24.3")]);
        assert_eq!(sources("go1.25.99"), [guess("1.25.5")]);
        assert_eq!(sources("go1.27rc1"), [guess("1.27.0")]);
        assert_eq!(sources("devel go1.28-0f3a8c91b2"), [guess("1.27.3")]);
        assert_eq!(sources("go1.99.1"), [guess("1.27.3")]);
    }

    #[test]
    fn the_rows_of_a_series_differ() {
        let alllink = |raw| known(raw)[0].field("m", "alllink");
        assert_eq!((alllink("go1.24.3"), alllink("go1.24.11")), (Some(328), Some(352)));
    }

    #[test]
    fn files_are_checked() {
        let mut offsets: Vec<_> = known("go1.27.3")[0].offsets.clone().into_iter().collect();
        offsets.sort();
        let text = |offsets: &[(String, u32)]| {
            let entries: Vec<_> = offsets.iter().map(|(name, at)| format!("{name:?}: {at}")).collect();
            format!(r#"{{"go": "1.28.0", "arch": "amd64", "offsets": {{{}}}}}"#, entries.join(","))
        };
        let read = |text: &str| Layout::from_json(text, "x.json".to_owned());
        let layout = read(&text(&offsets)).unwrap();
        assert_eq!(layout.source.to_string(), "file x.json");
        assert_eq!(layout.field("g", "goid"), Some(152));
        let fault = |text: &str| read(text).unwrap_err();
        assert_eq!(fault(&text(&offsets[..9])), "g.stack.lo is missing");
        let twice: Vec<_> = offsets.iter().chain(&offsets[..1]).cloned().collect();
        assert!(fault(&text(&twice)).starts_with("coro._size stands there twice"));
        assert!(fault("{}").contains("missing field `go`"));
        assert!(fault(&text(&offsets).replace("1.28.0", "tip")).contains("no version of Go"));
        assert!(fault(&text(&offsets).replace("152", "-1")).contains("invalid value"));
    }

    #[test]
    fn every_row_has_what_the_probes_need() {
        for minor in Release::OLDEST.minor()..=Release::NEWEST.minor() {
            let release = Release::new(minor);
            for (arch, patch) in [(Arch::Amd64, 0), (Arch::Arm64, 0), (Arch::Amd64, 99), (Arch::Arm64, 99)] {
                let row = layouts::lookup(arch, release, patch).remove(0);
                let layout = Layout { source: Source::Table(row.name), offsets: row.offsets };
                let offsets = layout.probe_offsets().unwrap();
                assert_eq!(offsets.g_parent_goid != 0, release.records_parent(), "{}", layout.source);
                assert_eq!(offsets.g_coroarg != 0, release.has_coroutines(), "{}", layout.source);
            }
        }
    }
}
