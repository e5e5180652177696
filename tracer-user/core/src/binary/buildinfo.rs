//! `.go.buildinfo`, which `go build` writes: the Go version, the main module and the build settings. It survives
//! `-ldflags=-s -w` and `strip`.
//!
//! The format is that of `debug/buildinfo`, Go 1.18 and newer: both texts inline.

use super::bytes::uvarint;
use super::elf::{Image, Segment};
use crate::goruntime::Release;
use std::collections::BTreeMap;
use std::fmt;

const MAGIC: &[u8] = b"\xff Go buildinf:";
/// Offset of the inline version string in the blob.
const INLINE: usize = 32;
/// Byte 15, bit 1: the strings follow inline (since 1.18).
const FLAG_INLINE: u8 = 2;
/// Largest of either text. A module list has about a hundred bytes for each dependency, so a longer text is not real.
const MAX_TEXT: u64 = 8 << 20;
/// Bytes of the blob in which the version must end. The longest, of a vendor's development build, has about a hundred.
const HEAD: u64 = 4 << 10;
/// Most places with the magic that are examined. A real file has one or two (the linker's own text of it); a hostile
/// one may be full of them.
const MAX_CANDIDATES: usize = 64;
/// Modules that are kept. The largest programs have about a thousand.
const MAX_DEPS: usize = 1 << 14;
/// Bytes of each of the two random marks around `runtime.modinfo` (`cmd/go/internal/modload/build.go`).
const MARK: usize = 16;

/// A version of Go. Ordered by series, then patch (none first), then text.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GoVersion {
    /// The series, Go 1.26 of `go1.26.6`.
    pub release: Release,
    /// The 6 of `go1.26.6`. `None`: the first release of a series before 1.21, a beta, a release candidate or a
    /// development version.
    pub patch: Option<u32>,
    /// The whole text as the toolchain wrote it.
    pub raw: String,
    /// `GOEXPERIMENT`s that differ from the toolchain's default: the list behind `X:`.
    pub experiments: Vec<String>,
}

impl GoVersion {
    /// Reads `go1.26.6`, `go1.23rc1`, `go1.26.6 X:goroutineleakprofile`, `devel go1.28-0f3a…`, and the same with a
    /// vendor's suffix. `None`: no word of the text begins with `go1.N`.
    pub(crate) fn parse(raw: &str) -> Option<GoVersion> {
        let number = raw.split_ascii_whitespace().find_map(|word| word.strip_prefix("go1."))?;
        let (minor, rest) = leading_number(number)?;
        let patch = rest.strip_prefix('.').and_then(leading_number).map(|(patch, _)| patch);
        let experiments = raw
            .split_ascii_whitespace()
            .filter_map(|word| word.strip_prefix("X:"))
            .flat_map(|list| list.split(','))
            .map(str::to_owned)
            .collect();
        Some(GoVersion { release: Release::new(minor), patch, raw: raw.to_owned(), experiments })
    }

    /// Whether it is a release of the Go project, not a beta, a release candidate, a development version or a vendor's.
    /// Only then is the layout that `layouts.json` has for the version sure.
    pub(crate) fn is_release(&self) -> bool {
        let minor = self.release.minor();
        let number = match self.patch {
            Some(patch) => format!("go1.{minor}.{patch}"),
            // Since 1.21 the first release of a series is `go1.21.0`, and a text without a patch is no release.
            None if !self.release.numbers_its_first_patch() => format!("go1.{minor}"),
            None => return false,
        };
        self.raw.split_ascii_whitespace().next() == Some(&number)
    }
}

impl fmt::Display for GoVersion {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.raw)
    }
}

impl PartialOrd for GoVersion {
    fn partial_cmp(&self, other: &GoVersion) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for GoVersion {
    fn cmp(&self, other: &GoVersion) -> std::cmp::Ordering {
        let key = |version: &GoVersion| (version.release, version.patch);
        key(self).cmp(&key(other)).then_with(|| self.raw.cmp(&other.raw))
    }
}

fn leading_number(text: &str) -> Option<(u32, &str)> {
    let end = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    let (digits, rest) = text.split_at(end);
    Some((digits.parse().ok()?, rest))
}

/// The build information of a binary. Everything but the version is absent if the text around it is damaged.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BuildInfo {
    /// The toolchain that built the binary.
    pub version: GoVersion,
    /// Import path of the main package. `None`: not built in module mode.
    pub path: Option<String>,
    /// Path of the main module.
    pub module: Option<String>,
    /// Version of the main module; `(devel)` for a build from a work tree.
    pub module_version: Option<String>,
    /// Paths of the modules it depends on, without the main module.
    pub deps: Vec<String>,
    /// Build settings such as `-buildmode`, `CGO_ENABLED`, `-pgo`.
    pub settings: BTreeMap<String, String>,
}

impl BuildInfo {
    /// Finds and reads the build information. `None`: none names a version, so the file is no Go program, one older
    /// than Go 1.18, or its build information was removed.
    pub(crate) fn find(image: &Image) -> Option<BuildInfo> {
        if let Some(found) = image.section(".go.buildinfo").and_then(|vaddr| at(image, vaddr)) {
            return Some(found);
        }
        // Without sections: the linker puts it at the start of the writable data, aligned to 16, so that data goes
        // first.
        let (writable, other): (Vec<&Segment>, Vec<_>) =
            image.segments().iter().partition(|segment| segment.writable);
        let mut candidates = 0;
        writable.into_iter().chain(other).find_map(|segment| {
            image.scan(segment, 16, |vaddr, piece| {
                (0..piece.len())
                    .step_by(16)
                    .filter(|into| piece.get(*into..).is_some_and(|rest| rest.starts_with(MAGIC)))
                    .take_while(|_| {
                        candidates += 1;
                        candidates <= MAX_CANDIDATES
                    })
                    .find_map(|into| at(image, vaddr + into as u64))
            })
        })
    }

    /// A build setting, as `go version -m` prints it.
    pub fn setting(&self, key: &str) -> Option<&str> {
        self.settings.get(key).map(String::as_str)
    }
}

/// Reads the blob at a link-time address. Its two texts say how long it is.
fn at(image: &Image, vaddr: u64) -> Option<BuildInfo> {
    let head = image.beginning(vaddr, HEAD)?;
    parse(&head)?;
    let mut end = INLINE;
    text(&head, &mut end)?;
    // Without the second text the first one still counts.
    let more = uvarint(&head, &mut end).filter(|len| *len <= MAX_TEXT).unwrap_or(0);
    parse(&image.beginning(vaddr, end as u64 + more)?)
}

/// Reads the contents of `.go.buildinfo`. `None`: other contents, or the format before Go 1.18.
pub(super) fn parse(blob: &[u8]) -> Option<BuildInfo> {
    // Before 1.18 the blob holds pointers instead of texts; such programs are too old anyway.
    if !blob.starts_with(MAGIC) || blob.get(15)? & FLAG_INLINE == 0 {
        return None;
    }
    let mut at = INLINE;
    let version = GoVersion::parse(std::str::from_utf8(text(blob, &mut at)?).ok()?)?;
    let module = text(blob, &mut at).unwrap_or_default();
    let mut info = BuildInfo {
        version,
        path: None,
        module: None,
        module_version: None,
        deps: Vec::new(),
        settings: BTreeMap::new(),
    };
    // As in debug/buildinfo: without both marks and the final newline the module text does not count.
    if let Some(body) = module.get(MARK..module.len().saturating_sub(MARK))
        && body.last() == Some(&b'\n')
    {
        read_modules(&String::from_utf8_lossy(body), &mut info);
    }
    Some(info)
}

fn text<'a>(blob: &'a [u8], at: &mut usize) -> Option<&'a [u8]> {
    let len = usize::try_from(uvarint(blob, at).filter(|len| *len <= MAX_TEXT)?).ok()?;
    let found = blob.get(*at..at.checked_add(len)?)?;
    *at += len;
    Some(found)
}

/// Reads the lines `path`, `mod`, `dep` and `build` (`runtime/debug.ParseBuildInfo`).
fn read_modules(text: &str, info: &mut BuildInfo) {
    for line in text.lines() {
        let Some((word, rest)) = line.split_once('\t') else { continue };
        let first = || rest.split('\t').next().unwrap_or(rest).to_owned();
        match word {
            "path" => info.path = Some(first()),
            "mod" => {
                info.module = Some(first());
                info.module_version =
                    rest.split('\t').nth(1).filter(|text| !text.is_empty()).map(str::to_owned);
            }
            "dep" if info.deps.len() < MAX_DEPS => info.deps.push(first()),
            "build" => {
                if let Some((key, value)) = rest.split_once('=') {
                    info.settings.insert(unquote(key), unquote(value));
                }
            }
            _ => {}
        }
    }
}

/// Undoes Go's quoting, which a key or value has if it contains spaces, quotes or control characters.
fn unquote(text: &str) -> String {
    let Some(inner) = text.strip_prefix('"').and_then(|rest| rest.strip_suffix('"')) else {
        return text.trim_matches('`').to_owned();
    };
    inner.replace("\\\"", "\"").replace("\\\\", "\\")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn version(raw: &str) -> (u32, Option<u32>) {
        let parsed = GoVersion::parse(raw).unwrap();
        assert_eq!(parsed.raw, raw);
        (parsed.release.minor(), parsed.patch)
    }

    #[test]
    fn versions_of_releases_betas_vendors_and_trees() {
        assert_eq!(version("go1.26.6"), (26, Some(6)));
        assert_eq!(version("go1.20"), (20, None));
        assert_eq!(version("go1.23rc1"), (23, None));
        assert_eq!(version("go1.21.13 (Red Hat 1.21.13-2.el9)"), (21, Some(13)));
        assert_eq!(version("go1.22.3-fips"), (22, Some(3)));
        assert_eq!(version("go1.20.6b4"), (20, Some(6)));
        assert_eq!(version("devel go1.28-0f3a8c91b2 Tue Nov 4 12:00:00 2026 +0000"), (28, None));
        assert_eq!(version("go1.28-devel_0f3a8c91b2 Tue Nov 4 12:00:00 2026 +0000"), (28, None));
        let experiment = GoVersion::parse("go1.26.6 X:goroutineleakprofile,synctest").unwrap();
        assert_eq!(experiment.experiments, ["goroutineleakprofile", "synctest"]);
    }

    #[test]
    fn no_version_is_none() {
        for raw in ["", "go", "go1", "go1.", "go2.1", "devel +abcdef Wed", "go1.99999999999", "ago1.2"] {
            assert_eq!(GoVersion::parse(raw), None, "{raw}");
        }
    }

    #[test]
    fn versions_are_ordered_by_minor_and_patch() {
        let at = |raw| GoVersion::parse(raw).unwrap();
        assert!(at("go1.9.7") < at("go1.19.8"));
        assert!(at("go1.23rc1") < at("go1.23.1"));
        assert!(at("go1.23.9") < at("go1.23.10"));
    }

    fn blob(version: &str, module: &str) -> Vec<u8> {
        let mut blob = MAGIC.to_vec();
        blob.extend([8, FLAG_INLINE]);
        blob.resize(INLINE, 0);
        for text in [version, module] {
            assert!(text.len() < 128 * 128);
            if text.len() >= 128 {
                blob.push(text.len() as u8 | 0x80);
                blob.push((text.len() >> 7) as u8);
            } else {
                blob.push(text.len() as u8);
            }
            blob.extend(text.as_bytes());
        }
        blob
    }

    fn framed(body: &str) -> String {
        format!("0123456789abcdef{body}fedcba9876543210")
    }

    #[test]
    fn module_text_is_read() {
        let body = "path\texample.com/x/cmd\nmod\texample.com/x\t(devel)\t\ndep\tgolang.org/x/sys\tv0.1.0\th1:abc=\n\
                    build\t-buildmode=pie\nbuild\tCGO_ENABLED=1\nbuild\t-ldflags=\"-s -w\"\n";
        let info = parse(&blob("go1.26.6", &framed(body))).unwrap();
        assert_eq!(info.path.as_deref(), Some("example.com/x/cmd"));
        assert_eq!(info.module.as_deref(), Some("example.com/x"));
        assert_eq!(info.deps, ["golang.org/x/sys"]);
        assert_eq!(info.setting("-buildmode"), Some("pie"));
        assert_eq!(info.setting("CGO_ENABLED"), Some("1"));
        assert_eq!(info.setting("-ldflags"), Some("-s -w"));
    }

    #[test]
    fn truncated_at_every_length_never_panics_and_never_lies() {
        let whole = blob("go1.26.6", &framed("path\tx\nbuild\tCGO_ENABLED=0\n"));
        for len in 0..whole.len() {
            if let Some(info) = parse(&whole[..len]) {
                assert_eq!(info.version.raw, "go1.26.6");
                assert_eq!(info.path, None, "cut at {len}");
            }
        }
    }

    #[test]
    fn a_blob_of_before_1_18_has_no_inline_texts() {
        let mut old = blob("go1.17.1", "");
        old[15] = 0;
        assert_eq!(parse(&old), None);
    }
}
