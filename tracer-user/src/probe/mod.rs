//! The kernel side of a trace: loads the eBPF programs for one target, attaches them to the instructions that
//! [`sfgi_core::plan`] chose, drains their events in order, and measures what a probe costs.

mod calibrate;
mod host;
mod object;
mod ring;
mod session;

pub use calibrate::{Calibration, Cost, Counting, Programs, calibrate, count_runs, ran_ns};
pub use host::{HostError, check as check_host};
pub use object::{Options, ProbeError};
pub use session::{Session, Totals};
