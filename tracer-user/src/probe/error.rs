//! Why a target cannot be traced.

use crate::target::LayoutError;
use aya::programs::ProgramError;

/// Why a target cannot be traced.
#[derive(Debug, thiserror::Error)]
pub enum ProbeError {
    /// The object's maps could not be created.
    #[error("the kernel refused the eBPF object: {0:#}")]
    Load(anyhow::Error),
    /// The build is broken.
    #[error("the eBPF object has no {0}: this sfgi was built wrongly")]
    Object(&'static str),
    /// The verifier or the attach point refused a program.
    #[error("the kernel refused the eBPF program {name}")]
    Program {
        /// Name of the program.
        name: &'static str,
        /// The kernel's reason.
        source: ProgramError,
    },
    /// A uprobe could not be placed.
    #[error("cannot put a uprobe on {function} (file offset {offset:#x})")]
    Attach {
        /// The Go function.
        function: String,
        /// Where in the file.
        offset: u64,
        /// The kernel's reason.
        source: ProgramError,
    },
    /// The rings could not be made.
    #[error("cannot create an event ring of {bytes} bytes (a power of two, at least a page)")]
    Ring {
        /// The size asked for.
        bytes: u32,
        /// The kernel's reason.
        source: aya::maps::MapError,
    },
    /// The kernel's types could not be read.
    #[error("cannot read the kernel's BTF: {0}")]
    Btf(String),
    /// A structure of this Go version does not look as the probes need it.
    #[error(transparent)]
    Layout(#[from] LayoutError),
    /// Counters could not be read.
    #[error("cannot read the probes' counters")]
    Counters(#[source] aya::maps::MapError),
}
