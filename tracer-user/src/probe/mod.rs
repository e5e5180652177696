//! The kernel side of a trace: loads the eBPF programs for one target, puts them on the
//! instructions that [`sfgi_core::binary`] chose, and drains what they send.

mod btf;
mod calibrate;
mod config;
mod error;
mod host;
mod merge;
mod object;
mod ring;
mod runs;
mod session;

pub use calibrate::{Calibration, calibrate};
pub use config::Options;
pub use error::ProbeError;
pub use host::{HostError, check as check_host};
pub use runs::{Counting, Programs, count_runs, ran_ns};
pub use session::{Session, Totals};
