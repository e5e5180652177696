//! Where the fields of the runtime's structures lie in one binary: from its DWARF, else from the
//! table of known versions.

use super::buildinfo::GoVersion;
use super::elf::{Arch, Image};
use super::{dwarf, layout_table};
use std::collections::HashMap;
use std::fmt;

/// The newest minor version the table knows.
pub(super) const NEWEST: u32 = 27;
/// The oldest minor version sfgi supports.
pub(super) const OLDEST: u32 = 19;

/// Why the layout is not known.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum LayoutError {
    /// The version is newer than the table, and there is no DWARF.
    #[error(
        "it was built with {0}, newer than go1.{NEWEST}, the newest version known, and without DWARF: build it \
         without -ldflags=-w (or -s), or use a newer sfgi"
    )]
    TooNew(String),
    /// Older than [`OLDEST`].
    #[error("it was built with {0}; go1.{OLDEST} is the oldest version supported")]
    TooOld(String),
    /// A field that the probes read is not where the layout can say.
    #[error("the layout of {0} is not known for this binary ({1})")]
    NoField(&'static str, String),
    /// Fields that the probes read together do not lie together.
    #[error("{0} does not lie {1} bytes behind {2} in this binary, as the probes need ({3})")]
    Apart(&'static str, u32, &'static str, String),
}

/// Where a layout comes from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Source {
    /// The binary's own DWARF.
    Dwarf,
    /// The table; the text says which version's row, e.g. `1.24.3–1.24.11` for what the two rows
    /// around the binary's version agree on.
    Table(String),
}

impl fmt::Display for Source {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Source::Dwarf => f.write_str("DWARF"),
            Source::Table(rows) => write!(f, "table of {rows}"),
        }
    }
}

/// Offsets of fields of the runtime's structures, in bytes.
#[derive(Clone, Debug)]
pub struct Layout {
    source: Source,
    /// By `struct.field` or `struct.field.field`, without the package.
    offsets: HashMap<String, u32>,
}

impl Layout {
    /// The layout of this binary.
    ///
    /// # Errors
    /// [`LayoutError::TooOld`], or [`LayoutError::TooNew`] where there is no DWARF either.
    pub fn find(image: &Image, version: &GoVersion) -> Result<Layout, LayoutError> {
        if version.minor < OLDEST {
            return Err(LayoutError::TooOld(version.raw.clone()));
        }
        if let Some(offsets) = dwarf::offsets(image) {
            return Ok(Layout { source: Source::Dwarf, offsets });
        }
        Layout::from_table(image.arch(), version)
    }

    /// The layout that the table has for a version.
    ///
    /// # Errors
    /// [`LayoutError::TooNew`] where it has none.
    pub fn from_table(arch: Arch, version: &GoVersion) -> Result<Layout, LayoutError> {
        let found = layout_table::lookup(arch, version.minor, version.patch.unwrap_or(0));
        let (rows, offsets) = found.ok_or_else(|| LayoutError::TooNew(version.raw.clone()))?;
        Ok(Layout { source: Source::Table(rows), offsets })
    }

    /// Where it comes from.
    pub fn source(&self) -> &Source {
        &self.source
    }

    /// The offset of a field (`"g", "goid"`, also `"g", "sched.pc"`), or the size of the struct for
    /// the field `_size`. `None`: this version has no such field, or the table cannot tell.
    pub fn field(&self, of: &str, field: &str) -> Option<u32> {
        self.offsets.get(&format!("{of}.{field}")).copied()
    }

    /// What the probes need.
    ///
    /// # Errors
    /// [`LayoutError::NoField`] and [`LayoutError::Apart`] say which field is at fault.
    pub fn probe_offsets(&self) -> Result<ProbeOffsets, LayoutError> {
        let at = |name: &'static str| {
            self.offsets.get(name).copied().ok_or_else(|| LayoutError::NoField(name, self.source.to_string()))
        };
        let near = |name, distance, base| {
            let apart = LayoutError::Apart(name, distance, base, self.source.to_string());
            (at(name)?.checked_sub(at(base)?) == Some(distance)).then_some(()).ok_or(apart)
        };
        near("g.goid", 8, "g.atomicstatus")?;
        near("g.waitreason", 32, "g.atomicstatus")?;
        near("g.sched.g", 8, "g.sched.pc")?;
        near("g.sched.ctxt", 16, "g.sched.pc")?;
        near("g.startpc", 16, "g.gopc")?;
        // All of `sched.pc` … `startpc` is read at once (`PARKED` in tracer-ebpf).
        if at("g.startpc")?.checked_sub(at("g.sched.pc")?).is_none_or(|distance| distance > 31 * 8) {
            return Err(LayoutError::Apart("g.startpc", 31 * 8, "g.sched.pc", self.source.to_string()));
        }
        near("p.goidcacheend", 8, "p.goidcache")?;
        // Up to 1.24 `sched.ret` lies in between.
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
        })
    }
}

/// The offsets that go into `tracer_common::Config`, under the same names and with the same
/// meaning of zero. The distances between fields that the probes rely on have been checked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[expect(missing_docs, reason = "documented where they are used, in tracer_common::Config")]
pub struct ProbeOffsets {
    pub g_status: u32,
    pub g_m: u32,
    pub g_sched_pc: u32,
    pub g_sched_bp: u32,
    pub g_schedlink: u32,
    pub g_parent_goid: u32,
    pub g_gopc: u32,
    pub g_coroarg: u32,
    pub g_coroexit: u32,
    pub m_curg: u32,
    pub m_p: u32,
    pub p_goidcache: u32,
    pub coro_gp: u32,
}

#[cfg(test)]
mod tests {
    use super::*;

    fn table(raw: &str) -> Layout {
        Layout::from_table(Arch::Amd64, &GoVersion::parse(raw).unwrap()).unwrap()
    }

    #[test]
    fn every_supported_version_has_what_the_probes_need() {
        for minor in OLDEST..=NEWEST {
            for patch in [0, 1, 2, 4, 7, 20] {
                for arch in [Arch::Amd64, Arch::Arm64] {
                    let version = GoVersion::parse(&format!("go1.{minor}.{patch}")).unwrap();
                    let offsets = Layout::from_table(arch, &version).unwrap().probe_offsets().unwrap();
                    assert_eq!(offsets.g_parent_goid != 0, minor >= 21, "{version}");
                    assert_eq!(offsets.g_coroarg != 0, minor >= 22, "{version}");
                }
            }
        }
    }

    #[test]
    fn rows_are_chosen_by_patch() {
        let source = |raw| table(raw).source().to_string();
        assert_eq!(source("go1.26.6"), "table of 1.26.6");
        assert_eq!(source("go1.24.11"), "table of 1.24.11");
        assert_eq!(source("go1.24.7"), "table of 1.24.3–1.24.11");
        assert_eq!(source("go1.24.1"), "table of 1.24.3");
        assert_eq!(source("go1.25.9"), "table of 1.25.5");
        assert_eq!(source("go1.27rc1"), "table of 1.27.0");
    }

    #[test]
    fn what_two_rows_disagree_on_is_not_guessed() {
        assert_eq!(table("go1.24.3").field("m", "alllink"), Some(328));
        assert_eq!(table("go1.24.11").field("m", "alllink"), Some(352));
        assert_eq!(table("go1.24.7").field("m", "alllink"), None);
        assert_eq!(table("go1.24.7").field("m", "curg"), Some(192));
    }

    #[test]
    fn versions_without_a_row_are_refused() {
        let devel = GoVersion::parse("devel go1.28-0f3a8c91b2").unwrap();
        let error = Layout::from_table(Arch::Amd64, &devel).unwrap_err();
        assert!(
            error.to_string().starts_with("it was built with devel go1.28-0f3a8c91b2, newer than go1.27"),
            "{error}"
        );
    }
}
