//! The traced program: its executable file and its process.
//!
//! This module owns every fact that is read from outside: what the ELF file, Go's build
//! information, the pclntab and DWARF say about a binary, where a probe may stand in it, and where
//! the kernel has put it. Nothing here changes the target. Everything that comes from it is
//! hostile: each read is checked against the bytes there are.

mod binary;
mod build_id;
mod buildinfo;
pub(crate) mod bytes;
mod code;
mod dwarf;
mod elf;
mod globals;
mod identify;
mod infer;
mod layout;
mod pclntab;
mod pcvalue;
mod placement;
mod probes;
mod process;
pub(crate) mod threads;
pub(crate) mod tracebacks;
mod wait_reasons;

pub use binary::{BinaryError, GoBinary};
pub use buildinfo::{BuildInfo, GoVersion};
pub(crate) use elf::file_header;
pub use elf::{Arch, ElfError, Image};
pub use globals::{Globals, GlobalsError, SemTable};
pub use identify::{Identified, identify};
pub use layout::{Layout, LayoutError, Source};
pub use pclntab::{Frame, FuncData, Function, PcData, Pclntab, PclntabError};
pub use placement::{CostClass, PlaceError, Placement, StackFrame};
pub use probes::{Missing, Mode, Plan, PlanError, ProbeSet, ProbeSite};
pub use process::{Process, ProcessError};
pub use threads::Thread;

#[cfg(test)]
pub(crate) mod tests;
