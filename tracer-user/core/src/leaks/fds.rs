//! Descriptors in a search: what earlier looks saw of them, and which are troubled.

use super::children::{Children, Present};
use crate::detect::{FdFinding, FdSite, FdTrouble};
use crate::fds::{Fd, Fds, Owner};
use crate::objects::{FileObject, Objects, RootKind};
use crate::process::{FdKind, Process, RawFd, SocketState};
use crate::snapshot::View;
use hashbrown::{HashMap, HashSet};
use std::collections::BTreeMap;
use std::hash::{DefaultHasher, Hasher as _};

/// Connections that are followed.
const MAX_LEFT: usize = 1 << 16;
/// Groups of descriptors that are told of.
const MAX_SITES: usize = 64;
/// Objects of which it is remembered what keeps them alive.
const MAX_KNOWN: usize = 64;
/// Nearly as many as may be: this part, and a limit below which nobody could do anything.
const NEAR: f64 = 0.9;
const LEAST_LIMIT: u64 = 16;

/// What earlier looks at the descriptors of a target saw.
#[derive(Debug, Default)]
pub(super) struct FdLooks {
    /// By inode, when a connection was first found left by its peer (monotonic clock, ns), and at how many looks since.
    left: HashMap<u64, (u64, u32)>,
    /// By origin, which there were at each look.
    origins: Children,
    looks: u32,
}

/// What a reading of all objects told of descriptors.
#[derive(Debug, Default)]
pub(super) struct FdObjects {
    /// Those that nothing seems to lead to.
    pub(super) dropped: Vec<KnownFd>,
    /// Of some others, what keeps them alive; by inode.
    known: HashMap<u64, KnownFd>,
    /// Whether all objects were read without a doubt.
    pub(super) sure: bool,
}

/// A descriptor, and the object that has it.
#[derive(Clone, Debug)]
pub(super) struct KnownFd {
    raw: RawFd,
    of: String,
    pub(super) address: u64,
    kept_by: String,
    /// Whether the passes over the heap did not find it either.
    pub(super) sure: bool,
}

impl KnownFd {
    pub(super) fn of(objects: &Objects<'_>, file: &FileObject, raw: &RawFd, with_way: bool) -> KnownFd {
        let (address, of) = file.object();
        let ends = |kind| matches!(kind, RootKind::Finalizer | RootKind::Cleanup);
        let ways = if with_way { objects.ways(file.addr, 2).unwrap_or_default() } else { Vec::new() };
        let kept_by = ways.iter().find(|way| !ends(way.root.kind)).map(ToString::to_string);
        KnownFd {
            raw: raw.clone(),
            of: objects.types().name(of).to_owned(),
            address,
            kept_by: kept_by.unwrap_or_default(),
            sure: false,
        }
    }

    /// Whether a descriptor is still the same.
    fn is(&self, fd: &Fd) -> bool {
        let RawFd { number, inode, path, .. } = &self.raw;
        (*number, *inode, path) == (fd.raw.number, fd.raw.inode, &fd.raw.path)
    }
}

impl FdObjects {
    /// Notes what keeps alive what these descriptors lead to, of those that are left by their peers.
    pub(super) fn learn(&mut self, objects: &Objects<'_>, files: &[FileObject], fds: &Fds) {
        let by_number: HashMap<u32, &FileObject> = files.iter().map(|file| (file.number, file)).collect();
        let left = fds.list.iter().filter(|fd| fds.is_closed_by_its_peer(fd)).take(MAX_KNOWN);
        for fd in left {
            if let Some(file) = by_number.get(&fd.raw.number) {
                self.known.insert(fd.raw.inode, KnownFd::of(objects, file, &fd.raw, true));
            }
        }
    }
}

/// Where a descriptor comes from, behind a noun; the same in another run.
fn origin(fds: &Fds, fd: &Fd, listening: &HashSet<u16>) -> String {
    let Some(socket) = fds.socket(fd) else {
        // Files of one folder are mostly of one origin; their own names differ.
        let folder = fd.raw.path.rsplit_once('/').map_or("", |(folder, _)| folder);
        return if folder.is_empty() { String::new() } else { format!("in {folder}") };
    };
    match (socket.local, socket.peer) {
        (Some(local), Some(_)) if listening.contains(&local.port()) => {
            format!("accepted at port {}", local.port())
        }
        (_, Some(peer)) => format!("connected to {peer}"),
        _ => String::new(),
    }
}

/// The addresses of a socket, or the path.
fn name(fds: &Fds, fd: &Fd) -> String {
    match fds.socket(fd).map(|socket| (socket.local, socket.peer, &socket.path)) {
        Some((Some(local), Some(peer), _)) => format!("{local} → {peer}"),
        Some((Some(local), None, _)) => local.to_string(),
        Some((_, _, path)) => path.to_string(),
        None => fd.raw.path.to_string(),
    }
}

/// The ports that the program listens at.
fn listening(fds: &Fds) -> HashSet<u16> {
    let sockets = fds.list.iter().filter_map(|fd| fds.socket(fd));
    let listening =
        sockets.filter(|socket| socket.kind == FdKind::Tcp && socket.state == SocketState::Listen);
    listening.filter_map(|socket| Some(socket.local?.port())).collect()
}

fn number_of(parts: impl std::hash::Hash) -> u64 {
    let mut hasher = DefaultHasher::new();
    parts.hash(&mut hasher);
    hasher.finish()
}

impl FdLooks {
    /// Takes in a look.
    pub(super) fn look(&mut self, fds: &Fds, at_ns: u64) {
        self.looks = self.looks.saturating_add(1);
        let mut before = std::mem::take(&mut self.left);
        for fd in fds.list.iter().filter(|fd| fds.is_left(fd)).take(MAX_LEFT) {
            let (since, looks) = before.remove(&fd.raw.inode).unwrap_or((at_ns, 0));
            self.left.insert(fd.raw.inode, (since, looks.saturating_add(1)));
        }
    }

    /// What is wrong, after a look. `first`: no search was made before. `objects`: what the last reading of all objects told.
    pub(super) fn findings(
        &mut self,
        fds: &Fds,
        objects: Option<&FdObjects>,
        at_ns: u64,
        first: bool,
    ) -> Vec<FdFinding> {
        let listening = listening(fds);
        let mut findings = self.left(fds, objects, &listening, at_ns, first);
        findings.extend(objects.map(|objects| dropped(fds, objects)).into_iter().flatten());
        if !first {
            findings.extend(self.growing(fds, &listening, at_ns));
        }
        findings.extend(near_limit(fds));
        findings
    }

    fn left(
        &self,
        fds: &Fds,
        objects: Option<&FdObjects>,
        listening: &HashSet<u16>,
        at_ns: u64,
        first: bool,
    ) -> Vec<FdFinding> {
        let mut sites: BTreeMap<String, FdFinding> = BTreeMap::new();
        for fd in &fds.list {
            // At a single look it may just have happened.
            let Some((since, looks)) = self.left.get(&fd.raw.inode).copied().filter(|(_, looks)| *looks > 1)
            else {
                continue;
            };
            let age = at_ns.saturating_sub(since);
            let origin = origin(fds, fd, listening);
            if sites.len() >= MAX_SITES && !sites.contains_key(&origin) {
                continue;
            }
            let finding = sites.entry(origin.clone()).or_insert_with(|| {
                let site = site(FdTrouble::PeerClosed, fds, fd, origin);
                FdFinding { age_ns: Some((age, age)), looks, first, ..bare(site) }
            });
            finding.site.count += 1;
            finding.looks = finding.looks.min(looks);
            finding.age_ns = finding.age_ns.map(|(youngest, oldest)| (youngest.min(age), oldest.max(age)));
            // The end itself counts as a byte until it is read (`net/ipv4/tcp_ipv4.c`: `get_tcp4_sock`).
            match fds.socket(fd).and_then(|socket| socket.queues) {
                Some((0, _)) => finding.site.read_to_end += 1,
                Some((bytes, _)) => finding.site.unread += bytes - 1,
                None => {}
            }
            let known = objects.and_then(|objects| objects.known.get(&fd.raw.inode));
            if finding.site.of.is_empty()
                && let Some(known) = known.filter(|known| known.is(fd))
            {
                (finding.site.number, finding.site.name) = (fd.raw.number, name(fds, fd));
                (finding.site.of, finding.site.address) = (known.of.clone(), known.address);
                finding.site.kept_by.clone_from(&known.kept_by);
            }
        }
        sites.into_values().collect()
    }

    fn growing(&mut self, fds: &Fds, listening: &HashSet<u16>, at_ns: u64) -> Vec<FdFinding> {
        let mut present = Present::new();
        let mut firsts: HashMap<u64, (&Fd, String)> = HashMap::new();
        for fd in fds.list.iter().filter(|fd| fd.owner != Owner::Runtime) {
            let origin = origin(fds, fd, listening);
            let key = number_of((fd.raw.kind, &origin));
            present.entry(key).or_default().push(number_of((fd.raw.number, fd.raw.inode, &fd.raw.path)));
            firsts.entry(key).or_insert((fd, origin));
        }
        let counts: HashMap<u64, u64> =
            present.iter().map(|(key, members)| (*key, members.len() as u64)).collect();
        let growing = self.origins.extend(at_ns, present);
        let finding = |(key, growth)| {
            let (fd, origin) = firsts.remove(&key)?;
            let mut site = site(FdTrouble::Growing, fds, fd, origin);
            site.count = counts.get(&key).copied().unwrap_or(0);
            Some(FdFinding { growth: Some(growth), ..bare(site) })
        };
        growing.into_iter().take(MAX_SITES).filter_map(finding).collect()
    }
}

fn site(trouble: FdTrouble, fds: &Fds, fd: &Fd, origin: String) -> FdSite {
    FdSite {
        trouble,
        kind: fd.raw.kind.word().to_owned(),
        origin,
        count: 0,
        number: fd.raw.number,
        name: name(fds, fd),
        of: String::new(),
        address: 0,
        kept_by: String::new(),
        unread: 0,
        read_to_end: 0,
        limit: 0,
    }
}

fn bare(site: FdSite) -> FdFinding {
    FdFinding { site, age_ns: None, looks: 0, growth: None, sure: false, first: false }
}

/// Descriptors that nothing leads to, by kind and type, of those that are still open.
fn dropped(fds: &Fds, objects: &FdObjects) -> Vec<FdFinding> {
    let mut sites: BTreeMap<(FdKind, &str), FdFinding> = BTreeMap::new();
    for known in &objects.dropped {
        let Some(fd) = fds.get(known.raw.number).filter(|fd| known.is(fd)) else { continue };
        let finding = sites.entry((fd.raw.kind, &known.of)).or_insert_with(|| {
            let site = site(FdTrouble::Unreachable, fds, fd, String::new());
            FdFinding { sure: true, ..bare(FdSite { of: known.of.clone(), address: known.address, ..site }) }
        });
        finding.site.count += 1;
        finding.sure &= known.sure && objects.sure;
    }
    sites.into_values().take(MAX_SITES).collect()
}

fn near_limit(fds: &Fds) -> Option<FdFinding> {
    let limit = fds.most.filter(|most| *most >= LEAST_LIMIT)?;
    let near = fds.count() as f64 >= limit as f64 * NEAR;
    let fd = fds.list.last().filter(|_| near)?;
    let site = FdSite {
        kind: String::new(),
        count: fds.count(),
        limit,
        ..site(FdTrouble::NearLimit, fds, fd, String::new())
    };
    Some(bare(site))
}

/// Descriptors of a target, with who waits for each if there are so many connections that their peers have closed.
pub(super) fn read(process: &Process, view: &View<'_>, least: u64) -> Option<Fds> {
    let mut fds = Fds::of(process).ok()?;
    // The program's poller waits meanwhile, so it is done only where something may come of it.
    let closed = fds.list.iter().filter(|fd| fds.is_closed_by_its_peer(fd)).count() as u64;
    if closed >= least.max(1) {
        fds.read_polls(process, view);
    }
    Some(fds)
}
