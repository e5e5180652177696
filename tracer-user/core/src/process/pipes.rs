//! Who else has a pipe: all descriptors of all processes that we may look at.

use super::Process;
use crate::patience::{self, What};
use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;

/// Most processes and descriptors that are looked at, and ends that are returned of each pipe.
const MAX_PROCESSES: usize = 1 << 14;
const MAX_DESCRIPTORS: usize = 1 << 17;
const MAX_ENDS: usize = 4;
/// The bit of a link in `/proc/PID/fd` that says that the descriptor is open for writing (`fs/proc/fd.c:
/// tid_fd_update_inode`).
const WRITES: u32 = 0o200;

/// A process that holds the end of a pipe that is written to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct End {
    /// Which pipe, as [`Process::file_name`] names it.
    pub pipe: String,
    /// The PID in our PID namespace.
    pub pid: i32,
    /// The name of the process, or `?`.
    pub name: String,
}

/// Which processes hold these pipes open for writing, each once; at most four of each pipe. Processes whose descriptors we
/// may not look at are left out.
pub fn writers(pipes: &[String]) -> Vec<End> {
    let mut ends: Vec<End> = Vec::new();
    let Ok(processes) = fs::read_dir("/proc") else { return ends };
    let pid = |entry: fs::DirEntry| entry.file_name().to_str()?.parse::<i32>().ok();
    let mut left = MAX_DESCRIPTORS;
    for pid in processes.flatten().filter_map(pid).take(MAX_PROCESSES) {
        let _reading = patience::reading(What::Proc);
        let Ok(descriptors) = fs::read_dir(Path::new("/proc").join(pid.to_string()).join("fd")) else {
            continue;
        };
        for descriptor in descriptors.flatten() {
            let Some(rest) = left.checked_sub(1) else { return ends };
            left = rest;
            let path = descriptor.path();
            let Ok(to) = fs::read_link(&path) else { continue };
            let Some(pipe) = pipes.iter().find(|pipe| to.to_str() == Some(pipe)) else { continue };
            let writes =
                fs::symlink_metadata(&path).is_ok_and(|link| link.permissions().mode() & WRITES != 0);
            let known = ends.iter().filter(|end| end.pipe == *pipe);
            if writes && known.clone().all(|end| end.pid != pid) && known.count() < MAX_ENDS {
                let name = Process::name_of(pid).unwrap_or_else(|| "?".to_owned());
                ends.push(End { pipe: pipe.clone(), pid, name });
            }
        }
    }
    ends
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::fd::AsRawFd as _;
    use std::process::{Command, Stdio};

    #[test]
    fn the_end_that_writes_is_told_from_the_one_that_reads() {
        let mut child = Command::new("sleep").arg("60").stdout(Stdio::piped()).spawn().unwrap();
        let pid = i32::try_from(child.id()).unwrap();
        let ourselves = Process::open(i32::try_from(std::process::id()).unwrap()).unwrap();
        let end = child.stdout.as_ref().unwrap().as_raw_fd();
        let pipe = ourselves.file_name(end.cast_unsigned()).unwrap();
        assert!(pipe.starts_with("pipe:["), "{pipe}");
        let found = writers(&[pipe.clone(), "pipe:[none]".to_owned()]);
        child.kill().unwrap();
        child.wait().unwrap();
        assert_eq!(found.len(), 1, "we only read: {found:?}");
        assert_eq!((&found[0].pipe, found[0].pid), (&pipe, pid));
    }
}
