//! The target's executable file: ELF headers, Go's build information, pclntab and DWARF.
//!
//! The file is hostile: every offset and length in it is checked against the bytes that exist before it is used.

mod buildinfo;
pub(crate) mod bytes;
mod code;
mod contents;
mod descriptors;
pub(crate) mod dwarf;
mod elf;
mod fields;
mod globals;
mod go_binary;
mod identify;
mod layout;
mod pclntab;
mod variables;

pub use buildinfo::{BuildInfo, GoVersion};
pub(crate) use code::{ChannelCalls, Hold};
pub use code::{CodeTypes, Described};
pub(crate) use contents::Contents;
pub(crate) use descriptors::MAX_TYPE_BYTES;
pub use descriptors::{Detail, Field, Kind, Type, TypeId, Types, TypesError};
pub(crate) use elf::file_header;
pub use elf::{Arch, ElfError, Image};
pub use globals::{FinalizerQueue, Globals, GlobalsError, Pools, SemTable};
pub use go_binary::{BinaryError, GoBinary};
pub use identify::{Identified, identify};
pub use layout::{Layout, LayoutError, Source};
pub use pclntab::{Frame, Function, Pclntab, PclntabError};
pub(crate) use pclntab::{FuncData, PcData};
pub use variables::{Member, Variable, Variables};

#[cfg(test)]
pub(crate) mod tests;
