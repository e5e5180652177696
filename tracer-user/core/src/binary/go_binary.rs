//! A Go binary: everything a trace needs to know of the executable file.

use super::buildinfo::{BuildInfo, GoVersion};
use super::elf::{Arch, ElfError, Image};
use super::globals::{self, Globals, GlobalsError};
use super::layout::{Known, Layout, LayoutError};
use super::pclntab::{Frame, Pclntab, PclntabError};
use crate::goruntime::{Release, WaitReasons, is_plumbing_package};
use bytes::Bytes;
use std::fs::File;
use std::io::{self, Read as _, Seek as _};
use std::path::Path;

/// Largest file that is read. The largest Go programs have a few hundred megabytes.
const MAX_FILE: u64 = 2 << 30;

/// Why a file is no binary that can be traced.
#[derive(Debug, thiserror::Error)]
pub enum BinaryError {
    #[error("its executable cannot be read")]
    Io(#[from] io::Error),
    #[error("its executable has {0} bytes; files of more than 2 GiB are not read")]
    TooLarge(u64),
    /// The file is no usable ELF image.
    #[error(transparent)]
    Elf(#[from] ElfError),
    /// Nothing in the file is Go's.
    #[error("it is not a Go program: the executable has neither Go build information nor a pclntab")]
    NotGo,
    /// Go's tables are there, the build information is not.
    #[error(
        "it is a Go program without build information that can be read: older than go1.18 (go1.{oldest} is the \
         oldest version supported), or .go.buildinfo was removed",
        oldest = Release::OLDEST.minor()
    )]
    NoBuildInfo,
    #[error(transparent)]
    Unsupported(LayoutError),
    /// A build mode that sfgi does not know how to read.
    #[error("it was built with -buildmode={0}, which is not supported yet; exe and pie are")]
    BuildMode(String),
    /// The Go runtime is in another file.
    #[error("its Go runtime lies in a shared library (built with -linkshared), which is not supported yet")]
    LinkShared,
    /// The function table cannot be used.
    #[error(transparent)]
    Pclntab(#[from] PclntabError),
}

/// A Go executable.
pub struct GoBinary {
    image: Image,
    info: BuildInfo,
    layout: Layout,
    functions: Pclntab,
    globals: Result<Globals, GlobalsError>,
    wait_reasons: WaitReasons,
    plumbing_end: u64,
}

/// What is kept of the file.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Keep {
    File,
    Mapped,
}

fn whole(mut file: File) -> Result<Bytes, BinaryError> {
    // `identify` moves the position of the same open file.
    file.rewind()?;
    let size = file.metadata()?.len();
    if size > MAX_FILE {
        return Err(BinaryError::TooLarge(size));
    }
    let mut data = Vec::with_capacity(usize::try_from(size).unwrap_or(0));
    file.take(MAX_FILE).read_to_end(&mut data)?;
    Ok(data.into())
}

impl GoBinary {
    /// Reads the executable at `path`; for a running process use `Process::exe`.
    ///
    /// # Errors
    /// [`BinaryError`], one sentence to be put behind the name of the program.
    pub fn open(path: &Path) -> Result<GoBinary, BinaryError> {
        GoBinary::read(File::open(path)?)
    }

    /// Reads the executable from an open file, from its start.
    ///
    /// # Errors
    /// As [`GoBinary::open`].
    pub fn read(file: File) -> Result<GoBinary, BinaryError> {
        GoBinary::read_with(file, None)
    }

    /// Reads the executable from an open file; `layout`: what the user supplied
    /// ([`Layout::from_file`]), which then holds without question.
    ///
    /// # Errors
    /// As [`GoBinary::open`]; also where the layout is of another version or processor.
    pub fn read_with(file: File, layout: Option<Layout>) -> Result<GoBinary, BinaryError> {
        GoBinary::parse_with(whole(file)?, layout, Keep::File)
    }

    /// As [`GoBinary::read`], to be kept for long: what is not mapped of the file (debug information, mostly) is
    /// let go of once it has been read. The separate sections are not found any more.
    ///
    /// # Errors
    /// As [`GoBinary::open`].
    pub fn read_to_keep(file: File) -> Result<GoBinary, BinaryError> {
        GoBinary::parse_with(whole(file)?, None, Keep::Mapped)
    }

    /// Reads the executable from its bytes.
    ///
    /// # Errors
    /// As [`GoBinary::open`].
    pub fn parse(data: Bytes) -> Result<GoBinary, BinaryError> {
        GoBinary::parse_with(data, None, Keep::File)
    }

    fn parse_with(data: Bytes, layout: Option<Layout>, keep: Keep) -> Result<GoBinary, BinaryError> {
        let mut image = Image::parse(data)?;
        if keep == Keep::Mapped {
            image.keep_mapped();
        }
        let info = BuildInfo::find(&image).ok_or_else(|| {
            if Pclntab::is_in(&image) { BinaryError::NoBuildInfo } else { BinaryError::NotGo }
        })?;
        if let Some(mode) = info.setting("-buildmode").filter(|mode| !matches!(*mode, "exe" | "pie")) {
            return Err(BinaryError::BuildMode(mode.to_owned()));
        }
        let (layout, functions) = layout_and_functions(&image, &info.version, layout)?;
        if functions.find("runtime.main").is_none() {
            return Err(BinaryError::LinkShared);
        }
        let globals = Globals::find(&image, &functions, &layout);
        let wait_reasons = globals::wait_reasons(&image, &functions).unwrap_or_default().into();
        let plumbing_end = plumbing_end(&functions, &info);
        if keep == Keep::Mapped {
            image.forget_file();
        }
        Ok(GoBinary { image, info, layout, functions, globals, wait_reasons, plumbing_end })
    }

    /// The version of Go it was built with.
    pub fn version(&self) -> &GoVersion {
        &self.info.version
    }

    pub fn arch(&self) -> Arch {
        self.image.arch()
    }

    /// Whether the kernel may load it anywhere.
    pub fn pie(&self) -> bool {
        self.image.pie()
    }

    /// The file as it is mapped.
    pub fn image(&self) -> &Image {
        &self.image
    }

    /// Main module, modules and build settings.
    pub fn info(&self) -> &BuildInfo {
        &self.info
    }

    /// Where the runtime's fields lie.
    pub fn layout(&self) -> &Layout {
        &self.layout
    }

    pub fn functions(&self) -> &Pclntab {
        &self.functions
    }

    /// Where the runtime's variables are.
    ///
    /// # Errors
    /// The goroutines of this binary cannot be found from outside.
    pub fn globals(&self) -> Result<&Globals, GlobalsError> {
        self.globals.as_ref().map_err(|error| *error)
    }

    pub fn symbolize(&self, pc: u64) -> Vec<Frame<'_>> {
        self.functions.symbolize(pc)
    }

    /// The entry of the function that a goroutine runs which starts at `startpc`: that itself, or
    /// what the wrapper of its `go` statement stands for.
    pub(crate) fn goroutine_entry(&self, startpc: u64) -> u64 {
        self.functions.wrapped(startpc).unwrap_or(startpc)
    }

    /// Whether C code is linked in, which may call back into Go (`crosscall2` is the way).
    pub fn cgo(&self) -> bool {
        self.functions.find("crosscall2").is_some()
    }

    /// Empty where the binary does not show them.
    pub fn wait_reasons(&self) -> &WaitReasons {
        &self.wait_reasons
    }

    /// The text of a wait reason; empty for 0 and for numbers that the binary does not have.
    pub fn wait_reason(&self, reason: u8) -> &str {
        self.wait_reasons.text(reason)
    }

    /// Link-time address behind the functions that only pass a wait on (runtime, sync, net, …): a
    /// stack walk may end at the first frame from here on. 0: there is no such border, because the
    /// program's own functions lie among them.
    pub fn plumbing_end(&self) -> u64 {
        self.plumbing_end
    }
}

/// The pclntab needs the layout of the module data, and a layout that is a guess needs the pclntab.
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

/// The linker lays packages out in the order of their dependencies, so the plumbing comes early;
/// packages of the program that import little may come earlier.
fn plumbing_end(functions: &Pclntab, info: &BuildInfo) -> u64 {
    let own = |name: &str| {
        let package = package(name);
        let below = |path: &String| is_or_below(package, path);
        package == "main" || info.module.iter().chain(&info.path).chain(&info.deps).any(below)
    };
    let (mut end, mut runtime_end) = (0, 0);
    for function in functions.functions() {
        if own(function.name) {
            break;
        }
        if is_plumbing_package(package(function.name)) {
            end = function.end;
        }
        if package(function.name) == "runtime" {
            runtime_end = function.end;
        }
    }
    if runtime_end == 0 { 0 } else { end }
}

/// The import path of a function's package. In the linker's names a dot in the last element of the
/// path is written `%2e`, so the path ends at the first dot behind the last slash.
fn package(function: &str) -> &str {
    // Type arguments may hold slashes of other packages.
    let plain = function.split('[').next().unwrap_or(function);
    let last = plain.rfind('/').map_or(0, |slash| slash + 1);
    let dot = plain.get(last..).and_then(|rest| rest.find('.'));
    plain.get(..dot.map_or(plain.len(), |dot| last + dot)).unwrap_or(plain)
}

fn is_or_below(package: &str, path: &str) -> bool {
    package.strip_prefix(path).is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
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
