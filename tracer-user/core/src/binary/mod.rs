//! The target's executable file: what the ELF headers, Go's build information, the pclntab and DWARF say.
//!
//! Everything that comes from the file is hostile: each read is checked against the bytes there are.

mod build_id;
mod buildinfo;
pub(crate) mod bytes;
mod code;
mod dwarf;
mod elf;
mod globals;
mod go_binary;
mod identify;
mod infer;
mod layout;
mod pclntab;
mod pcvalue;
mod wait_reasons;

pub use buildinfo::{BuildInfo, GoVersion};
pub use elf::file_header;
pub use elf::{Arch, ElfError, Image};
pub use globals::{Globals, GlobalsError, SemTable};
pub use go_binary::{BinaryError, GoBinary};
pub use identify::{Identified, identify};
pub use layout::{Layout, LayoutError, Source};
pub use pclntab::{Frame, FuncData, Function, PcData, Pclntab, PclntabError};

#[cfg(test)]
pub(crate) mod tests;
