//! [`GoBinary`]: the parsed executable, with everything that probes, snapshots and names need of it.

use super::buildinfo::{BuildInfo, GoVersion};
use super::code::{self, ChannelCalls, CodeTypes, Described, Hold, Unlocks};
use super::contents::Contents;
use super::elf::{Arch, ElfError, Image, ImageError};
use super::globals::{self, Globals, GlobalsError};
use super::layout::{Known, Layout, LayoutError};
use super::pclntab::{Frame, Pclntab, PclntabError};
use super::variables::Variables;
use crate::budget::{self, Exhausted};
use crate::files::{self, FileError};
use crate::goruntime::{Release, WaitReasons, is_plumbing_package};
use bytes::Bytes;
use std::collections::HashSet;
use std::fs::File;
use std::io;
use std::ops::Range;
use std::path::Path;

/// Of the memory that is left, the share that a binary may take that is kept for long: one in so many. Others come
/// after it.
const KEPT_SHARE: usize = 2;
/// Elements of an import path, and bytes of the names of all functions. Very large programs have 30 MB of names.
const MAX_DEPTH: usize = 64;
const MAX_NAMES: usize = 256 << 20;

/// Why a file is no binary that sfgi can work with. Each message is a sentence whose subject is the program.
#[derive(Debug, thiserror::Error)]
pub enum BinaryError {
    #[error("its executable cannot be read")]
    Io(#[from] io::Error),
    /// It maps more than is read of any file: so many bytes.
    #[error("its executable maps {0} bytes of the file; more than 1 GiB are not read")]
    TooLarge(u64),
    /// What would have to be read of it does not fit.
    #[error("its executable cannot be read: {0}")]
    Exhausted(#[from] Exhausted),
    #[error(transparent)]
    Elf(#[from] ElfError),
    /// The file has neither Go build information nor a pclntab.
    #[error("it is not a Go program: the executable has neither Go build information nor a pclntab")]
    NotGo,
    /// The file has a pclntab but no build information.
    #[error(
        "it is a Go program without build information that can be read: older than go1.18 (go1.{oldest} is the \
         oldest version supported), or .go.buildinfo was removed",
        oldest = Release::OLDEST.minor()
    )]
    NoBuildInfo,
    #[error(transparent)]
    Unsupported(LayoutError),
    /// A `-buildmode` other than `exe` and `pie`.
    #[error("it was built with -buildmode={0}, which is not supported yet; exe and pie are")]
    BuildMode(String),
    /// The pclntab has no `runtime.main`: the runtime is in a shared library.
    #[error("its Go runtime lies in a shared library (built with -linkshared), which is not supported yet")]
    LinkShared,
    #[error(transparent)]
    Pclntab(#[from] PclntabError),
}

/// A Go executable, read once and never changed: facts of the file, addresses before the load bias.
pub struct GoBinary {
    image: Image,
    info: BuildInfo,
    layout: Layout,
    functions: Pclntab,
    globals: Result<Globals, GlobalsError>,
    wait_reasons: WaitReasons,
    plumbing_end: u64,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Keep {
    /// The whole file, so that sections which are not mapped can still be read.
    File,
    /// Only what the kernel maps, for binaries that the agent keeps for hours.
    Mapped,
}

impl From<ImageError> for BinaryError {
    fn from(error: ImageError) -> BinaryError {
        match error {
            ImageError::Io(error) => BinaryError::Io(error),
            ImageError::Elf(error) => BinaryError::Elf(error),
            ImageError::Exhausted(exhausted) => BinaryError::Exhausted(exhausted),
            ImageError::TooLarge(bytes) => BinaryError::TooLarge(bytes),
        }
    }
}

impl GoBinary {
    /// Reads the executable at `path`; for a running process use `Process::exe`.
    ///
    /// # Errors
    /// [`BinaryError`]; its message follows the name of the program.
    pub fn open(path: &Path) -> Result<GoBinary, BinaryError> {
        GoBinary::read(files::open(path).map_err(FileError::into_io)?)
    }

    /// Reads the executable from an open file, from its first byte, wherever the file's position is.
    ///
    /// # Errors
    /// As [`GoBinary::open`].
    pub fn read(file: File) -> Result<GoBinary, BinaryError> {
        GoBinary::read_with(file, None)
    }

    /// Reads the executable from an open file. A `layout` that the user supplied ([`Layout::from_file`]) goes before
    /// DWARF and the table, and is not checked against the code.
    ///
    /// # Errors
    /// As [`GoBinary::open`]; also if the layout is of another series or processor.
    pub fn read_with(file: File, layout: Option<Layout>) -> Result<GoBinary, BinaryError> {
        GoBinary::parse_with(Contents::of(file)?, layout, Keep::File)
    }

    /// As [`GoBinary::read`], for a binary that is kept for long: what the kernel does not map (mostly debug
    /// information) is freed after parsing. [`Image`] finds no sections in such a binary.
    ///
    /// # Errors
    /// As [`GoBinary::open`].
    pub fn read_to_keep(file: File) -> Result<GoBinary, BinaryError> {
        GoBinary::parse_with(Contents::of(file)?, None, Keep::Mapped)
    }

    /// Reads the executable from its bytes.
    ///
    /// # Errors
    /// As [`GoBinary::open`].
    pub fn parse(data: Bytes) -> Result<GoBinary, BinaryError> {
        GoBinary::parse_with(Contents::Memory(data), None, Keep::File)
    }

    fn parse_with(file: Contents, layout: Option<Layout>, keep: Keep) -> Result<GoBinary, BinaryError> {
        let mut image = Image::headers(file)?;
        let info = BuildInfo::find(&image).ok_or_else(|| {
            if Pclntab::is_in(&image) { BinaryError::NoBuildInfo } else { BinaryError::NotGo }
        })?;
        if let Some(mode) = info.setting("-buildmode").filter(|mode| !matches!(*mode, "exe" | "pie")) {
            return Err(BinaryError::BuildMode(mode.to_owned()));
        }
        // Only now: nothing is kept of a program that is not Go's.
        image.load(match keep {
            Keep::File => usize::MAX,
            Keep::Mapped => budget::left() / KEPT_SHARE,
        })?;
        let (layout, functions) = layout_and_functions(&image, &info.version, layout)?;
        // A `-linkshared` executable has a pclntab of its own, but the runtime's functions are in the shared library's.
        if functions.find("runtime.main").is_none() {
            return Err(BinaryError::LinkShared);
        }
        // Kept as a result: without `allgs` there are no snapshots, but probes still work.
        let globals = Globals::find(&image, &functions, &layout);
        let wait_reasons = globals::wait_reasons(&image, &functions).unwrap_or_default().into();
        let plumbing_end = plumbing_end(&functions, &info);
        if keep == Keep::Mapped {
            image.forget_file();
        }
        Ok(GoBinary { image, info, layout, functions, globals, wait_reasons, plumbing_end })
    }

    /// The version of Go that built it, as `.go.buildinfo` says.
    pub fn version(&self) -> &GoVersion {
        &self.info.version
    }

    /// The processor it was built for.
    pub fn arch(&self) -> Arch {
        self.image.arch()
    }

    /// Whether the kernel may load it at any address (`-buildmode=pie`), so that addresses need a load bias.
    pub fn pie(&self) -> bool {
        self.image.pie()
    }

    /// The ELF image, for bytes and file offsets by link-time address.
    pub fn image(&self) -> &Image {
        &self.image
    }

    /// Bytes of the executable that it keeps in memory.
    pub fn bytes(&self) -> usize {
        self.image.bytes()
    }

    /// The build information: version, main module, dependencies and settings.
    pub fn info(&self) -> &BuildInfo {
        &self.info
    }

    /// Offsets of the runtime's fields in this binary.
    pub fn layout(&self) -> &Layout {
        &self.layout
    }

    /// The table of all functions.
    pub fn functions(&self) -> &Pclntab {
        &self.functions
    }

    /// Link-time addresses of the runtime's variables.
    ///
    /// # Errors
    /// The code does not show `runtime.allgs`, so goroutines cannot be read from memory.
    pub fn globals(&self) -> Result<&Globals, GlobalsError> {
        self.globals.as_ref().map_err(|error| *error)
    }

    /// The package-level variables that the symbol table and DWARF name, read anew at each call; none in a stripped
    /// program. `again` is the executable opened once more, for a binary of [`GoBinary::read_to_keep`], which keeps
    /// neither; another file has no variables of this one.
    pub fn variables(&self, again: Option<File>) -> Variables {
        let again = again.filter(|_| !self.image.has_file());
        let again = again.and_then(|file| Image::headers(Contents::of(file).ok()?).ok());
        let again = again.filter(|again| again.is_same(&self.image));
        Variables::find(&self.image, again.as_ref().unwrap_or(&self.image))
    }

    /// What code tells of types, stripped or not: which struct each closure is, and what variables hold. `types` is
    /// where descriptors are, `moduledata.types` to `moduledata.etypes`, and `described` says what the descriptor at an
    /// address describes. All addresses are link-time. Nothing is found on arm64.
    pub fn code_types(&self, types: Range<u64>, described: &dyn Fn(u64) -> Option<Described>) -> CodeTypes {
        code::types(&self.image, &self.functions, types, described)
    }

    /// What the function at this entry unlocks, if the compiler made it only for a deferred call of one method of a
    /// lock; link-time addresses.
    pub(crate) fn unlocks(&self, entry: u64) -> Option<Unlocks> {
        code::unlocks(&self.image, &self.functions, entry)
    }

    /// The locks in variables that a function has taken before this place in it and not given back, as far as the order
    /// of its instructions tells: a hint. Link-time addresses; empty on arm64.
    pub(crate) fn taken_before(&self, pc: u64) -> Vec<u64> {
        code::taken_before(&self.image, &self.functions, pc)
    }

    /// Whether the function with this place unlocks something in this way itself, and not only by a deferred call.
    pub(crate) fn lets_go(&self, pc: u64, how: Hold) -> bool {
        code::lets_go(&self.image, &self.functions, pc, how)
    }

    /// The locks in variables that a function unlocks after this place in it, not by deferred calls; link-time
    /// addresses, empty on arm64.
    pub(crate) fn given_after(&self, pc: u64) -> Vec<u64> {
        code::given_after(&self.image, &self.functions, pc)
    }

    /// The variables that a function refers to after this place in it; link-time addresses, ascending.
    pub(crate) fn used_after(&self, pc: u64) -> Vec<u64> {
        code::used_after(&self.image, &self.functions, pc)
    }

    /// What a function does with channels after this place in it, whichever they are.
    pub(crate) fn channel_calls(&self, pc: u64) -> ChannelCalls {
        code::channel_calls(&self.image, &self.functions, pc)
    }

    /// Whether a link-time address lies where variables are.
    pub(crate) fn is_variable(&self, addr: u64) -> bool {
        self.image.is_writable(addr, 8)
    }

    /// As [`Pclntab::symbolize`]; `pc` is a link-time address.
    pub fn symbolize(&self, pc: u64) -> Vec<Frame<'_>> {
        self.functions.symbolize(pc)
    }

    /// The entry of the function that a goroutine with this `g.startpc` (link-time) runs: `startpc` itself, or the
    /// function that the `go` statement's wrapper calls.
    pub(crate) fn goroutine_entry(&self, startpc: u64) -> u64 {
        self.functions.wrapped(startpc).unwrap_or(startpc)
    }

    /// Whether C code is linked in that may call Go: such calls go through `crosscall2`.
    pub fn cgo(&self) -> bool {
        self.functions.find("crosscall2").is_some()
    }

    /// Whether the code of a function (`runtime.chanrecv`) keeps its first argument where the caller leaves room for that, so that
    /// whoever knows the frame can read it.
    pub fn saves_first_argument(&self, function: &str) -> bool {
        code::saves_first_argument(&self.image, self.functions(), function)
    }

    /// The binary's own table of wait reasons; empty if its code does not show the table.
    pub fn wait_reasons(&self) -> &WaitReasons {
        &self.wait_reasons
    }

    /// The text of a wait reason by `g.waitreason`; empty for 0 and for numbers that the table lacks.
    pub fn wait_reason(&self, reason: u8) -> &str {
        self.wait_reasons.text(reason)
    }

    /// Link-time address behind the plumbing: functions of runtime, sync, net and so on, which only pass a wait on. A
    /// probe's stack walk ends at the first frame at or above this address. 0: functions of the target itself lie
    /// among the plumbing, so there is no such border.
    pub fn plumbing_end(&self) -> u64 {
        self.plumbing_end
    }
}

/// Finds the layout and the pclntab together: the pclntab needs the offset of `moduledata.gofunc`, and a guessed layout
/// is confirmed against code that only the pclntab finds.
fn layout_and_functions(
    image: &Image,
    version: &GoVersion,
    supplied: Option<Layout>,
) -> Result<(Layout, Pclntab), BinaryError> {
    let locate = |layout: &Layout| {
        let gofunc = layout.field("moduledata", "gofunc");
        let gofunc = gofunc.ok_or(PclntabError::Corrupt("the layout of its module data is not known"))?;
        Pclntab::locate(image, gofunc)
    };
    let known = match supplied {
        Some(layout) => {
            layout.check_supplied(image, version).map_err(BinaryError::Unsupported)?;
            Known::Surely(layout)
        }
        None => Layout::find(image, version).map_err(BinaryError::Unsupported)?,
    };
    let guesses = match known {
        Known::Surely(layout) => {
            let functions = locate(&layout)?;
            return Ok((layout, functions));
        }
        Known::Maybe(guesses) => guesses,
    };
    let mut verdict = BinaryError::Unsupported(LayoutError::NoRow(version.raw.clone()));
    for layout in guesses {
        let functions = locate(&layout)?;
        match layout.confirm(image, &functions, version) {
            Ok(()) => return Ok((layout, functions)),
            Err(error) => verdict = BinaryError::Unsupported(error),
        }
    }
    Err(verdict)
}

/// Finds the border for [`GoBinary::plumbing_end`]. The linker lays packages out in the order of their dependencies, so
/// plumbing comes first; only a package of the target that imports little can precede it.
fn plumbing_end(functions: &Pclntab, info: &BuildInfo) -> u64 {
    let paths: HashSet<&str> =
        info.module.iter().chain(&info.path).chain(&info.deps).map(String::as_str).collect();
    let own = |name: &str| {
        let package = package(name);
        package == "main" || is_or_below(package, &paths)
    };
    let (mut end, mut runtime_end, mut left) = (0, 0, MAX_NAMES);
    for function in functions.functions() {
        // A walk that passed over a function of the target would lose the very place it looks for.
        left = left.saturating_sub(function.name.len());
        if left == 0 || own(function.name) {
            break;
        }
        if is_plumbing_package(package(function.name)) {
            end = function.end;
        }
        if package(function.name) == "runtime" {
            runtime_end = function.end;
        }
    }
    // A border below the runtime would end every walk in `gopark`: worse than no border.
    if runtime_end == 0 { 0 } else { end }
}

/// The import path of a function's package. The linker writes a dot in the last element of the path as `%2e`, so the
/// path ends at the first dot behind the last slash.
fn package(function: &str) -> &str {
    // Type arguments may hold slashes of other packages.
    let plain = function.split('[').next().unwrap_or(function);
    let last = plain.rfind('/').map_or(0, |slash| slash + 1);
    let dot = plain.get(last..).and_then(|rest| rest.find('.'));
    plain.get(..dot.map_or(plain.len(), |dot| last + dot)).unwrap_or(plain)
}

/// Whether one of these paths is the package's or leads to it.
fn is_or_below(package: &str, paths: &HashSet<&str>) -> bool {
    let mut path = package;
    for _ in 0..MAX_DEPTH {
        if paths.contains(path) {
            return true;
        }
        let Some((parent, _)) = path.rsplit_once('/') else { return false };
        path = parent;
    }
    false
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn packages_of_functions() {
        assert_eq!(package("main.main.func1"), "main");
        assert_eq!(package("internal/poll.(*FD).Read"), "internal/poll");
        assert_eq!(package("example.com/x/y%2ez.F"), "example.com/x/y%2ez");
        assert_eq!(package("slices.SortFunc[go.shape.[]example.com/a.T,go.shape.int]"), "slices");
        assert_eq!(package("crosscall2"), "crosscall2");
    }

    #[test]
    fn files_that_are_no_go_programs() {
        let message = |data: &[u8]| match GoBinary::parse(data.to_vec().into()) {
            Ok(_) => panic!("accepted"),
            Err(error) => error.to_string(),
        };
        assert_eq!(message(b"#!/bin/sh\n"), "it is not an ELF file");
        assert_eq!(message(b""), "it is not an ELF file");
        let own = std::fs::read(std::env::current_exe().unwrap()).unwrap();
        assert!(message(&own).starts_with("it is not a Go program"));
        let file = File::open(std::env::current_exe().unwrap()).unwrap();
        crate::binary::identify(&file).unwrap();
        assert!(matches!(GoBinary::read(file), Err(BinaryError::NotGo)), "it is read from its start");
        assert!(message(&own[..4096]).starts_with("it is a truncated ELF file"));
    }
}
