//! Watches targets: finds the Go processes of the host, scans them on a pool of threads, and puts probes into them. What
//! is done when is decided by the core.

mod attach;
mod bucket;
mod cgroup;
mod discovery;
mod figures;
mod identity;
mod kubernetes;
mod pace;
mod pool;
mod price;
mod prober;
mod programs;
pub(super) mod scan;
mod space;
mod sweep;
mod target;

#[cfg(test)]
mod tests;

pub(super) use attach::{Attached, Ceiling, Refused, attach, calibration};
pub(super) use bucket::Bucket;
pub(super) use discovery::{Discovery, Swept};
pub(super) use figures::Figures;
pub(super) use pace::{Pace, Reading, Step};
pub(super) use pool::{Pool, Task};
pub(super) use prober::{News, Spent, Watcher};
pub(super) use programs::{Binaries, Program};
pub(super) use sweep::Found;
use sweep::{Changes, Sweep};
pub(super) use target::{Opened, Target};
