//! What scans know of targets, kept for the next agent: bytes that only the core can read.

use crate::agent::{
    Earlier,
    picture::{Picture, ProcessId},
};
use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::Duration,
};

/// The bound of all targets together, bytes; what would go beyond is not kept.
pub(super) const MAX_BYTES: usize = 64 << 20;

/// How long a target may be missing from the pictures before its bytes are dropped: right after the agent's start no
/// target is in any picture.
const FORGET: Duration = Duration::from_secs(300);

/// PID and start time in ticks: `program` of a [`ProcessId`] begins anew with each agent.
type Which = (u32, u64);

/// The bytes of all targets, as they are or will be in the file.
pub(super) struct Pasts {
    boot: String,
    max_processes: usize,
    known: BTreeMap<Which, Past>,
    bytes: usize,
    /// Dropped since the last [`changes`](Self::changes).
    gone: Vec<Which>,
    /// The file may have rows of other boots, or rows that did not fit; the next write sweeps them out.
    unswept: bool,
}

/// What one write does to the file.
#[derive(Debug, Default, PartialEq)]
pub(super) struct Changes {
    pub(super) put: Vec<(String, Arc<[u8]>)>,
    pub(super) remove: Vec<String>,
    /// `None`: no sweep. Otherwise rows with other keys are removed.
    pub(super) only: Option<BTreeSet<String>>,
}

struct Past {
    bytes: Arc<[u8]>,
    /// The time of the last picture with the target; 0: none yet.
    seen_unix_ns: u64,
    changed: bool,
}

impl Pasts {
    /// Begins with the content of the file.
    pub(super) fn new(boot: &str, max_processes: usize, earlier: &Earlier) -> Pasts {
        let past = |bytes: &Arc<[u8]>| Past { bytes: Arc::clone(bytes), seen_unix_ns: 0, changed: false };
        let known: BTreeMap<Which, Past> =
            earlier.iter().map(|(which, bytes)| (*which, past(bytes))).collect();
        let bytes = known.values().map(|past| past.bytes.len()).sum();
        Pasts { boot: boot.to_owned(), max_processes, known, bytes, gone: Vec::new(), unswept: true }
    }

    /// Takes the bytes of a picture that are new.
    pub(super) fn take(&mut self, picture: &Picture) {
        for process in &picture.processes {
            let which = which(process.id);
            if let Some(kept) = &process.kept {
                self.put(which, kept);
            }
            if let Some(past) = self.known.get_mut(&which) {
                past.seen_unix_ns = picture.unix_ns;
            }
        }
        let forget_ns = u64::try_from(FORGET.as_nanos()).unwrap_or(u64::MAX);
        self.known.retain(|which, past| {
            // A row of the file counts as seen in the first picture: it gets the whole of [`FORGET`] to be found.
            if past.seen_unix_ns == 0 {
                past.seen_unix_ns = picture.unix_ns;
            }
            let stays = picture.unix_ns.saturating_sub(past.seen_unix_ns) < forget_ns;
            if !stays {
                self.bytes -= past.bytes.len();
                self.gone.push(*which);
            }
            stays
        });
    }

    fn put(&mut self, which: Which, kept: &Arc<[u8]>) {
        let before = self.known.get(&which);
        // The core's pictures share the bytes until a scan packs new ones, so the pointer tells what is unchanged.
        if before.is_some_and(|past| Arc::ptr_eq(&past.bytes, kept)) {
            return;
        }
        let without = self.bytes - before.map_or(0, |past| past.bytes.len());
        let full = before.is_none() && self.known.len() >= self.max_processes;
        // The target keeps its older bytes, if it has any.
        if full || without + kept.len() > MAX_BYTES {
            return;
        }
        self.bytes = without + kept.len();
        self.known.insert(which, Past { bytes: Arc::clone(kept), seen_unix_ns: 0, changed: true });
    }

    /// What has changed since the last call; `None`: nothing.
    pub(super) fn changes(&mut self) -> Option<Changes> {
        let key = |(pid, start_ticks): &Which| format!("{}/{pid}/{start_ticks}", self.boot);
        let changed = self.known.iter_mut().filter_map(|(which, past)| {
            std::mem::take(&mut past.changed).then(|| (key(which), Arc::clone(&past.bytes)))
        });
        let put: Vec<_> = changed.collect();
        let remove: Vec<_> = self.gone.drain(..).map(|which| key(&which)).collect();
        if put.is_empty() && remove.is_empty() {
            return None;
        }
        let unswept = std::mem::take(&mut self.unswept);
        Some(Changes { put, remove, only: unswept.then(|| self.known.keys().map(key).collect()) })
    }
}

fn which(id: ProcessId) -> Which {
    (id.pid, id.start_ticks)
}

#[cfg(test)]
mod tests {
    use super::{super::file::File, *};
    use crate::agent::picture::ProcessPicture;

    const SECOND: u64 = 1_000_000_000;

    fn picture(at_s: u64, processes: &[(u32, &Arc<[u8]>)]) -> Picture {
        let process = |(pid, kept): &(u32, &Arc<[u8]>)| {
            Arc::new(ProcessPicture {
                id: ProcessId { pid: *pid, start_ticks: 5, program: 0 },
                kept: Some(Arc::clone(kept)),
                ..ProcessPicture::default()
            })
        };
        let processes = processes.iter().map(process).collect();
        Picture { unix_ns: at_s * SECOND, processes, ..Picture::default() }
    }

    #[test]
    fn what_is_kept_is_there_after_a_restart_and_only_in_its_boot() {
        let directory = tempfile::tempdir().unwrap();
        let (file, _) = File::open(&directory.path().join("history")).unwrap();
        assert_eq!(file.read_pasts("boot").unwrap(), Earlier::new());
        let mut pasts = Pasts::new("boot", 10, &Earlier::new());
        let (one, two): (Arc<[u8]>, Arc<[u8]>) = ([1].into(), [2, 2].into());
        pasts.take(&picture(1, &[(7, &one), (8, &two)]));
        file.write_pasts(&pasts.changes().unwrap()).unwrap();
        pasts.take(&picture(2, &[(7, &one), (8, &two)]));
        assert_eq!(pasts.changes(), None, "these are the same");
        let earlier = file.read_pasts("boot").unwrap();
        assert_eq!(earlier, [((7, 5), one.clone()), ((8, 5), two)].into());
        assert_eq!(file.read_pasts("another").unwrap(), Earlier::new());
        assert_eq!(file.read_pasts("boo").unwrap(), Earlier::new());

        // The next agent finds only one of them, but not at once.
        let mut pasts = Pasts::new("boot", 10, &earlier);
        for (at, known) in [(100, 2), (399, 2), (400, 1)] {
            let found: &[_] = if at == 100 { &[] } else { &[(7, &one)] };
            pasts.take(&picture(at, found));
            assert_eq!(pasts.known.len(), known, "{at}");
        }
        file.write_pasts(&pasts.changes().unwrap()).unwrap();
        assert_eq!(file.read_pasts("boot").unwrap(), [((7, 5), one)].into());
    }

    #[test]
    fn no_more_is_kept_than_fits() {
        let mut pasts = Pasts::new("boot", 2, &Earlier::new());
        let large: Arc<[u8]> = vec![0; MAX_BYTES / 2].into();
        let larger: Arc<[u8]> = vec![0; MAX_BYTES / 2 + 1].into();
        pasts.take(&picture(1, &[(1, &large), (2, &larger)]));
        assert_eq!(pasts.known.len(), 1);
        pasts.take(&picture(1, &[(1, &larger), (2, &large)]));
        assert_eq!((pasts.known.len(), pasts.bytes), (1, MAX_BYTES / 2 + 1));
        let small: Arc<[u8]> = [0].into();
        pasts.take(&picture(1, &[(1, &small), (2, &small), (3, &small)]));
        assert_eq!((pasts.known.len(), pasts.bytes), (2, 2));
    }
}
