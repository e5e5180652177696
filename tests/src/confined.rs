//! A process as a service manager or a container runtime starts it: with few capabilities, mounts of its own and a
//! filter of system calls.
//!
//! All of these belong to a thread and are inherited by what it starts. So a thread takes them on, starts the
//! process, and stays for as long as the process is needed, because its end would kill the process (the parent-death
//! signal of `process.rs`).

use std::{process::Command, sync::mpsc, thread};

use anyhow::{Context, Result, anyhow};
use rustix::{
    process::chroot,
    thread::{
        CapabilitySet, UnshareFlags, remove_capability_from_bounding_set, set_no_new_privs, unshare_unsafe,
    },
};

use crate::{filter::Filter, toolchain};

/// What a process is kept from.
#[derive(Clone, Debug)]
pub struct Confinement {
    /// A script for `sh -e` that makes mounts, in a mount namespace of its own.
    pub mounts: String,
    /// The root directory after the mounts; `None`: unchanged.
    pub root: Option<String>,
    /// The bounding set: the only capabilities that the process can ever have.
    pub capabilities: CapabilitySet,
    /// The system calls that the process may make; `None`: all.
    pub filter: Option<Filter>,
}

/// What was started; it is killed when this is dropped.
#[derive(Debug)]
pub struct Confined<T> {
    /// What the starting closure returned.
    pub started: T,
    /// Keeps the thread alive; the process ends with it.
    _thread: mpsc::Sender<()>,
}

/// Runs `start` in a confined thread; what it starts is confined, too.
///
/// # Errors
/// The thread cannot be confined, or `start` fails.
pub fn start<T: Send + 'static>(
    confinement: Confinement,
    start: impl FnOnce() -> Result<T> + Send + 'static,
) -> Result<Confined<T>> {
    let (say, said) = mpsc::channel();
    let (_thread, over) = mpsc::channel::<()>();
    thread::spawn(move || {
        // The receiver may have gone.
        let _ = say.send(confine(&confinement).and_then(|()| start()));
        let _ = over.recv();
    });
    let started = said.recv().map_err(|_| anyhow!("the confined thread has panicked"))??;
    Ok(Confined { started, _thread })
}

fn confine(confinement: &Confinement) -> Result<()> {
    // SAFETY: nothing of this thread depends on the mounts that it shared with others, nor on their working directory.
    unsafe { unshare_unsafe(UnshareFlags::NEWNS) }.context("no mount namespace of its own")?;
    // Private: a mount of this namespace must not appear on the machine.
    let script = format!("mount --make-rprivate /\n{}", confinement.mounts);
    toolchain::output(Command::new("sh").args(["-e", "-c", &script])).context("the mounts")?;
    if let Some(root) = &confinement.root {
        chroot(root.as_str()).with_context(|| root.clone())?;
    }
    std::env::set_current_dir("/").context("no working directory")?;
    for capability in (0..u64::BITS).filter_map(|bit| CapabilitySet::from_bits(1 << bit)) {
        if !confinement.capabilities.contains(capability) {
            remove_capability_from_bounding_set(capability).or_else(unknown)?;
        }
    }
    // Without this, only a privileged thread may install a filter.
    set_no_new_privs(true)?;
    confinement.filter.as_ref().map_or(Ok(()), Filter::install)
}

/// A capability that this kernel does not know cannot be had either.
fn unknown(error: rustix::io::Errno) -> Result<(), rustix::io::Errno> {
    if error == rustix::io::Errno::INVAL { Ok(()) } else { Err(error) }
}
