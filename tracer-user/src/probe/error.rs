//! Why a target cannot be traced.

use super::host;
use aya::programs::ProgramError;
use sfgi_core::binary::LayoutError;
use std::{error::Error, io};

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
    /// The kernel puts uprobes for administrators only: all do since July 2025 (CVE-2025-38466), which went into 6.16, 6.12.39,
    /// 6.6.99, 6.1.146, 5.15.189 and 5.10.240.
    #[error("this kernel lets only CAP_SYS_ADMIN put uprobes, not CAP_PERFMON: run with sudo, or add it")]
    AdministratorsOnly,
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

impl ProbeError {
    /// Why the kernel put no uprobe there.
    pub(super) fn of_attaching(function: &str, offset: u64, source: ProgramError) -> ProbeError {
        let mut cause: Option<&(dyn Error + 'static)> = Some(&source);
        while let Some(error) = cause {
            let refused = error.downcast_ref::<io::Error>().map(io::Error::kind);
            if refused == Some(io::ErrorKind::PermissionDenied) && !host::is_administrator() {
                return ProbeError::AdministratorsOnly;
            }
            cause = error.source();
        }
        ProbeError::Attach { function: function.into(), offset, source }
    }
}
