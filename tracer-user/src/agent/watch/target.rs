//! A process as scans and probes need it.

use super::{Binaries, Found, Program};
use crate::agent::picture::{Identity, ProcessId};
use sfgi_core::{
    binary::GoBinary,
    memory::Live,
    process::Process,
    snapshot::{Clock, View},
};
use std::{
    os::unix::fs::MetadataExt as _,
    path::PathBuf,
    sync::{Arc, Mutex, PoisonError},
};

/// A process, and how to get its parsed executable.
pub(in crate::agent) struct Target {
    pub(in crate::agent) id: ProcessId,
    pub(in crate::agent) process: Arc<Process>,
    pub(in crate::agent) identity: Arc<Identity>,
    program: Arc<Program>,
    binaries: Arc<Binaries>,
    /// The auxiliary vector as the first scan found it: each `exec` has another one, also of the same program.
    auxv: Mutex<Option<Vec<u8>>>,
}

/// A program in memory, and where it lies in the process.
pub(in crate::agent) struct Opened {
    pub(in crate::agent) binary: Arc<GoBinary>,
    pub(in crate::agent) bias: u64,
}

impl Opened {
    pub(in crate::agent) fn view<'v>(&'v self, memory: &'v Live<'v>) -> View<'v> {
        View { memory, binary: &self.binary, bias: self.bias, clock: Clock::Live }
    }
}

impl Target {
    pub(in crate::agent) fn new(found: &Found, identity: Arc<Identity>, binaries: Arc<Binaries>) -> Target {
        Target {
            id: found.id,
            process: Arc::clone(&found.process),
            identity,
            program: Arc::clone(&found.program),
            binaries,
            auxv: Mutex::default(),
        }
    }

    /// The process with this number, in our PID namespace.
    pub(in crate::agent) fn pid(&self) -> u32 {
        self.id.pid
    }

    /// Tells this run of a program from others, also from one of the same file before or after an `exec`: where the
    /// kernel put what it gave it is random. `None`: nothing was read of it yet.
    pub(in crate::agent) fn run(&self) -> Option<u32> {
        self.auxv.lock().unwrap_or_else(PoisonError::into_inner).as_deref().map(crc32fast::hash)
    }

    /// The name of the executable, as the process sees it.
    pub(in crate::agent) fn exe(&self) -> PathBuf {
        self.identity.exe.clone()
    }

    /// What it runs.
    pub(in crate::agent) fn open(&self) -> Result<Opened, String> {
        self.still_the_same()?;
        let binary = self.binaries.get(&self.program, || {
            let file = self.process.exe().map_err(|err| err.to_string())?;
            // What it runs by now may be another file.
            match file.metadata() {
                Ok(file) if self.program.is(file.dev(), file.ino()) => {}
                Ok(_) => return Err("it has replaced its program".to_owned()),
                Err(err) => return Err(err.to_string()),
            }
            Ok(file)
        })?;
        let bias = self.process.load_bias(binary.image().entry()).map_err(|err| err.to_string())?;
        Ok(Opened { binary, bias })
    }

    /// It runs what it ran when it was first opened: nothing that was read is another program's.
    pub(in crate::agent) fn still_the_same(&self) -> Result<(), String> {
        let now =
            std::fs::read(format!("/proc/{}/auxv", self.id.pid)).map_err(|_| "it has ended".to_owned())?;
        let mut first = self.auxv.lock().unwrap_or_else(PoisonError::into_inner);
        if !self.process.alive() {
            return Err("it has ended".to_owned());
        }
        match &*first {
            Some(first) if *first != now => Err("it has replaced its program".to_owned()),
            Some(_) => Ok(()),
            None => {
                *first = Some(now);
                Ok(())
            }
        }
    }
}
