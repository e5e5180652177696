//! Which Go programs run on the host: found in `/proc`, by the build information of their executables.

mod cgroup;
mod identity;
mod kubernetes;
mod programs;
mod space;
mod sweep;
mod watch;

pub(super) use programs::{Binaries, Program};
pub(super) use sweep::Found;
use sweep::{Changes, Sweep};
pub(super) use watch::{Discovery, Swept};

#[cfg(test)]
mod tests;
