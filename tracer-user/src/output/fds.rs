//! The descriptors of a program: as a table in text, and as a JSON document.

use super::{count, duration, is_false, one_line};
use serde::Serialize;
use sfgi_core::{
    binary::TypeId,
    fds::{Deadline, Fd, FdCount, Fds, Owner, Waiter},
    names::{Names, Site},
    objects::{FileObject, Files, Objects, RootKind},
    snapshot::Snapshot,
};
use std::{
    borrow::Cow,
    cmp::Reverse,
    io::{self, Write},
    path::Path,
};

/// The schema name of the document.
const SCHEMA: &str = "sfgi.fds/1";
/// Descriptors for which it is looked for what keeps them alive, the first ones; each takes some reads.
const MAX_WAYS: usize = 2000;
/// Ways of which the first that is no finalizer's is shown.
const WAYS: usize = 3;

/// What was found, and what names it.
pub struct FdTable<'a> {
    pub pid: u32,
    pub exe: &'a Path,
    pub go_version: &'a str,
    pub fds: &'a Fds,
    /// The objects of the program, and those of them that have descriptors; `None`: they were not looked at.
    pub objects: Option<(&'a Objects<'a>, &'a Files)>,
    /// The goroutines at the time of the look.
    pub snapshot: &'a Snapshot,
    pub names: Names,
    /// The target's time, nanoseconds of the monotonic clock.
    pub now_ns: u64,
    /// Most rows of the text; `None`: all.
    pub limit: Option<usize>,
    /// What limits the answer, in clauses.
    pub notes: Vec<String>,
}

#[derive(Serialize)]
struct Document<'a> {
    schema: &'static str,
    pid: u32,
    exe: Cow<'a, str>,
    go_version: &'a str,
    /// How many descriptors there are, and how many of these are not in the list.
    descriptors: u64,
    left_out: u64,
    /// `RLIMIT_NOFILE`.
    #[serde(skip_serializing_if = "Option::is_none")]
    limit: Option<u64>,
    kinds: Vec<KindCount>,
    /// Whose peer has closed and that nobody reads.
    peer_closed: u64,
    /// That only a finalizer would close; absent: not looked for.
    #[serde(skip_serializing_if = "Option::is_none")]
    unreachable: Option<u64>,
    notes: &'a [String],
}

#[derive(Serialize)]
struct KindCount {
    kind: Cow<'static, str>,
    #[serde(skip_serializing_if = "str::is_empty")]
    state: Cow<'static, str>,
    count: u64,
}

impl KindCount {
    fn of(FdCount { kind, state, count }: FdCount) -> KindCount {
        KindCount { kind, state, count }
    }
}

/// A descriptor.
#[derive(Default, Serialize)]
struct Row {
    fd: u32,
    kind: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    state: Option<&'static str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    local: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    peer: Option<String>,
    /// Of a file, a device or a Unix socket.
    #[serde(skip_serializing_if = "String::is_empty")]
    path: String,
    /// Of a socket or pipe.
    #[serde(skip_serializing_if = "Option::is_none")]
    inode: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    receive_queue: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    send_queue: Option<u64>,
    /// `go`, `runtime`, `not_go` or `unknown`.
    owner: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    reader: Option<Waits>,
    #[serde(skip_serializing_if = "Option::is_none")]
    writer: Option<Waits>,
    /// Something came and nobody has taken it.
    #[serde(skip_serializing_if = "is_false")]
    ready: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    read_deadline: Option<DeadlineJson>,
    #[serde(skip_serializing_if = "Option::is_none")]
    write_deadline: Option<DeadlineJson>,
    #[serde(skip_serializing_if = "Option::is_none")]
    object: Option<ObjectJson>,
    /// Who has the object, the nearest first.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    held_by: Vec<ObjectJson>,
    /// What keeps it alive, on one line.
    #[serde(skip_serializing_if = "Option::is_none")]
    kept_by: Option<String>,
    #[serde(skip_serializing_if = "is_false")]
    peer_closed: bool,
    #[serde(skip_serializing_if = "is_false")]
    unreachable: bool,
    /// The one of `held_by` that says most, for people.
    #[serde(skip)]
    holder: Option<String>,
    #[serde(skip)]
    waiters_known: bool,
}

/// A goroutine that waits.
#[derive(Serialize)]
struct Waits {
    /// 0: a goroutine that was not found again.
    goid: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    waiting_ns: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    at: Option<SiteJson>,
}

#[derive(Serialize)]
struct SiteJson {
    func: String,
    file: String,
    line: u32,
}

impl SiteJson {
    fn of(site: &Site) -> SiteJson {
        SiteJson { func: site.func.to_string(), file: site.file.to_string(), line: site.line }
    }
}

#[derive(Clone, Copy, Serialize)]
#[serde(rename_all = "snake_case")]
enum DeadlineJson {
    Passed(bool),
    InNs(u64),
}

#[derive(Clone, Serialize)]
struct ObjectJson {
    address: String,
    #[serde(rename = "type")]
    of: String,
    #[serde(skip_serializing_if = "String::is_empty")]
    package: String,
}

/// A number with its noun.
fn many(number: u64, one: &str, several: &str) -> String {
    format!("{} {}", count(number), if number == 1 { one } else { several })
}

impl FdTable<'_> {
    fn file(&self, fd: &Fd) -> Option<&FileObject> {
        match (fd.owner, &self.objects) {
            (Owner::Object(index), Some((_, files))) => files.list.get(index as usize),
            _ => None,
        }
    }

    fn is_unreachable(&self, fd: &Fd) -> bool {
        self.file(fd).is_some_and(|file| !file.kept)
    }

    /// What is wrong first, then by number.
    fn order(&self) -> Vec<&Fd> {
        let mut order: Vec<&Fd> = self.fds.list.iter().collect();
        order.sort_by_key(|fd| {
            (Reverse(self.is_unreachable(fd)), Reverse(self.fds.is_left(fd)), fd.raw.number)
        });
        order
    }

    fn count_of(&self, what: impl Fn(&Fd) -> bool) -> u64 {
        self.fds.list.iter().filter(|fd| what(fd)).count() as u64
    }

    fn row(&mut self, fd: &Fd, with_way: bool) -> io::Result<Row> {
        let raw = &fd.raw;
        let mut row = Row {
            fd: raw.number,
            kind: raw.kind.word(),
            path: raw.path.to_string(),
            inode: (raw.inode != 0).then_some(raw.inode),
            owner: match fd.owner {
                Owner::Object(_) => "go",
                Owner::Runtime => "runtime",
                Owner::NotGos => "not_go",
                Owner::Unknown => "unknown",
            },
            peer_closed: self.fds.is_left(fd),
            unreachable: self.is_unreachable(fd),
            ..Row::default()
        };
        if let Some(socket) = self.fds.socket(fd) {
            row.state = Some(socket.state.word());
            row.local = socket.local.map(|addr| addr.to_string());
            row.peer = socket.peer.map(|addr| addr.to_string());
            row.path = socket.path.to_string();
            (row.receive_queue, row.send_queue) = socket.queues.unzip();
        }
        if let Some(poll) = fd.poll {
            row.waiters_known = true;
            (row.reader, row.writer) = (self.waits(poll.reader), self.waits(poll.writer));
            row.ready = poll.reader == Waiter::Ready;
            row.read_deadline = self.deadline(poll.read_deadline);
            row.write_deadline = self.deadline(poll.write_deadline);
        }
        self.object(fd, &mut row, with_way)?;
        Ok(row)
    }

    fn object(&self, fd: &Fd, row: &mut Row, with_way: bool) -> io::Result<()> {
        let (Some(file), Some((objects, _))) = (self.file(fd), self.objects) else { return Ok(()) };
        let types = objects.types();
        let json = |(addr, of): (u64, TypeId)| ObjectJson {
            address: format!("{addr:#x}"),
            of: types.name(of).to_owned(),
            package: types.package(of).to_owned(),
        };
        row.object = Some(json(file.object()));
        row.held_by = file.holders.iter().skip(1).copied().map(json).collect();
        row.holder = file.holder(types).map(|(addr, of)| format!("{} {addr:#x}", types.name(of)));
        if with_way && file.kept {
            let ways = objects.ways(file.addr, WAYS).map_err(io::Error::other)?;
            let ends = |kind| matches!(kind, RootKind::Finalizer | RootKind::Cleanup);
            row.kept_by = ways.iter().find(|way| !ends(way.root.kind)).map(ToString::to_string);
        }
        Ok(())
    }

    fn waits(&mut self, waiter: Waiter) -> Option<Waits> {
        match waiter {
            Waiter::Nobody | Waiter::Ready => None,
            Waiter::Gone(_) => Some(Waits { goid: 0, waiting_ns: None, at: None }),
            Waiter::Goroutine(index) => {
                let goroutine = self.snapshot.goroutines.get(index as usize)?;
                let site = self.names.wait_site(self.snapshot.stacks.get(goroutine.stack));
                Some(Waits {
                    goid: goroutine.goid,
                    waiting_ns: self.names.waiting_ns(goroutine),
                    at: site.as_ref().map(SiteJson::of),
                })
            }
        }
    }

    fn deadline(&self, deadline: Deadline) -> Option<DeadlineJson> {
        match deadline {
            Deadline::None => None,
            Deadline::At(at) if at > self.now_ns => Some(DeadlineJson::InNs(at - self.now_ns)),
            Deadline::At(_) | Deadline::Passed => Some(DeadlineJson::Passed(true)),
        }
    }

    /// Writes one JSON document; the list as it is made.
    ///
    /// # Errors
    /// The output cannot be written, or the program has ended.
    pub fn write_json(&mut self, mut out: impl Write) -> io::Result<()> {
        if self.fds.list.len() > MAX_WAYS && self.objects.is_some() {
            self.notes
                .push(format!("what keeps them alive was looked for of {} only", count(MAX_WAYS as u64)));
        }
        let head = serde_json::to_string(&Document {
            schema: SCHEMA,
            pid: self.pid,
            exe: self.exe.to_string_lossy(),
            go_version: self.go_version,
            descriptors: self.fds.count(),
            left_out: self.fds.left_out,
            limit: self.fds.most,
            kinds: self.fds.counts().into_iter().map(KindCount::of).collect(),
            peer_closed: self.count_of(|fd| self.fds.is_left(fd)),
            unreachable: self.objects.map(|_| self.count_of(|fd| self.is_unreachable(fd))),
            notes: &self.notes,
        })?;
        write!(out, "{},\"list\":[", head.trim_end_matches('}'))?;
        let fds = self.fds;
        let order: Vec<u32> = self.order().iter().map(|fd| fd.raw.number).collect();
        for (number, index) in order.into_iter().zip(0..) {
            let Some(fd) = fds.get(number) else { continue };
            let row = self.row(fd, index < MAX_WAYS)?;
            if index > 0 {
                write!(out, ",")?;
            }
            serde_json::to_writer(&mut out, &row)?;
        }
        writeln!(out, "]}}")?;
        out.flush()
    }

    /// Writes a summary and a table.
    ///
    /// # Errors
    /// The output cannot be written, or the program has ended.
    pub fn write_text(&mut self, mut out: impl Write) -> io::Result<()> {
        writeln!(out, "{}", self.summary())?;
        let fds = self.fds;
        let all: Vec<u32> = self.order().iter().map(|fd| fd.raw.number).collect();
        let shown = all.get(..self.limit.unwrap_or(all.len())).unwrap_or(&all);
        let mut rows = Vec::new();
        for (number, index) in shown.iter().zip(0..) {
            if let Some(fd) = fds.get(*number) {
                rows.push(self.row(fd, index < MAX_WAYS)?);
            }
        }
        if !rows.is_empty() {
            writeln!(out)?;
            table(&mut out, &rows)?;
        }
        let left = (all.len() - shown.len()) as u64 + self.fds.left_out;
        if left > 0 {
            writeln!(out, "… and {} more (--all, --limit)", count(left))?;
        }
        out.flush()
    }

    /// How many there are of what.
    fn summary(&self) -> String {
        let mut kinds: Vec<(String, u64, Vec<String>)> = Vec::new();
        for FdCount { kind, state, count: number } in self.fds.counts() {
            let state = (!state.is_empty()).then(|| format!("{} {state}", count(number)));
            match kinds.last_mut().filter(|(last, ..)| *last == kind) {
                Some((_, all, states)) => {
                    *all += number;
                    states.extend(state);
                }
                None => kinds.push((kind.into(), number, state.into_iter().collect())),
            }
        }
        let kinds = kinds.into_iter().map(|(kind, number, states)| match &states[..] {
            [] => format!("{} {kind}", count(number)),
            some => format!("{} {kind} ({})", count(number), some.join(", ")),
        });
        let of = self.fds.most.map_or_else(String::new, |most| format!(" of at most {}", count(most)));
        let mut text = format!(
            "{}{of}: {}",
            many(self.fds.count(), "descriptor", "descriptors"),
            kinds.collect::<Vec<_>>().join(", ")
        );
        let closed = self.count_of(|fd| self.fds.is_left(fd));
        if closed > 0 {
            text += &format!(
                "\n{} whose peer has closed, and that nobody reads",
                many(closed, "connection", "connections")
            );
        }
        let unreachable = self.count_of(|fd| self.is_unreachable(fd));
        if unreachable > 0 {
            text += &format!(
                "\n{} that nothing refers to: only a finalizer would close {}",
                many(unreachable, "descriptor", "descriptors"),
                if unreachable == 1 { "it" } else { "them" }
            );
        }
        text
    }

    /// A line that sums up.
    pub fn closing(&self) -> String {
        let of = self.fds.most.map_or_else(String::new, |most| format!(" of at most {}", count(most)));
        let mut text = format!("{}{of}", many(self.fds.count(), "descriptor", "descriptors"));
        let closed = self.count_of(|fd| self.fds.is_left(fd));
        text += &format!(", {} closed by the peer and read by nobody", count(closed));
        if self.objects.is_some() {
            let unreachable = self.count_of(|fd| self.is_unreachable(fd));
            text += &format!(", {} that only a finalizer would close", count(unreachable));
        }
        for note in &self.notes {
            text += &format!("; {note}");
        }
        text
    }
}

const HEADINGS: [&str; 7] = ["FD", "KIND", "STATE", "RECV-Q", "SEND-Q", "NAME", "WAITS"];

fn table(out: &mut impl Write, rows: &[Row]) -> io::Result<()> {
    let cells: Vec<[String; 7]> = rows.iter().map(Row::cells).collect();
    let mut widths = HEADINGS.map(str::len);
    for row in &cells {
        for (width, cell) in widths.iter_mut().zip(row) {
            *width = (*width).max(cell.chars().count());
        }
    }
    let [number, ..] = widths;
    let line = |cells: &[String; 7], out: &mut dyn Write| {
        let mut text = String::new();
        for ((cell, width), index) in cells.iter().zip(widths).zip(0..) {
            // Numbers to the right, the last column as it is.
            match index {
                0 | 3 | 4 => text += &format!("{cell:>width$}  "),
                6 => text += cell,
                _ => text += &format!("{cell:<width$}  "),
            }
        }
        writeln!(out, "{}", text.trim_end())
    };
    line(&HEADINGS.map(str::to_owned), out)?;
    for (row, cells) in rows.iter().zip(&cells) {
        line(cells, out)?;
        if let Some(more) = row.more() {
            writeln!(out, "{:indent$}└ {}", "", one_line(&more), indent = number + 2)?;
        }
    }
    Ok(())
}

impl Row {
    fn cells(&self) -> [String; 7] {
        let queue = |queue: Option<u64>| queue.map_or_else(String::new, |bytes| bytes.to_string());
        [
            self.fd.to_string(),
            self.kind.to_owned(),
            self.state.unwrap_or_default().to_owned(),
            queue(self.receive_queue),
            queue(self.send_queue),
            one_line(&self.name()),
            one_line(&self.who()),
        ]
    }

    /// The addresses of a socket, or the path.
    fn name(&self) -> String {
        match (&self.local, &self.peer) {
            (Some(local), Some(peer)) => format!("{local} → {peer}"),
            (Some(local), None) => local.clone(),
            (None, Some(peer)) => format!("→ {peer}"),
            (None, None) if self.path.is_empty() => {
                self.inode.map_or_else(String::new, |inode| format!("[{inode}]"))
            }
            (None, None) => self.path.clone(),
        }
    }

    /// Who waits.
    fn who(&self) -> String {
        let one = |waits: &Waits, does: &str, deadline: Option<DeadlineJson>| {
            let who = match waits.goid {
                0 => "a goroutine".to_owned(),
                goid => format!("goroutine {goid}"),
            };
            let at = match &waits.at {
                Some(SiteJson { func, line: 0, .. }) => format!(" at {func}"),
                Some(SiteJson { func, line, .. }) => format!(" at {func}:{line}"),
                None => String::new(),
            };
            let since = waits.waiting_ns.map_or_else(String::new, |ns| format!(" for {}", duration(ns)));
            let until = match deadline {
                None => ", no deadline".to_owned(),
                Some(DeadlineJson::Passed(_)) => ", deadline passed".to_owned(),
                Some(DeadlineJson::InNs(ns)) => format!(", {} left", duration(ns)),
            };
            format!("{who} {does}{at}{since}{until}")
        };
        let both = [
            self.reader.as_ref().map(|waits| one(waits, "reads", self.read_deadline)),
            self.writer.as_ref().map(|waits| one(waits, "writes", self.write_deadline)),
        ];
        let both: Vec<String> = both.into_iter().flatten().collect();
        match self.owner {
            _ if !both.is_empty() => both.join("; "),
            "runtime" => "the runtime's poller".to_owned(),
            _ if self.waiters_known => "nobody".to_owned(),
            _ => String::new(),
        }
    }

    /// The object and what has it.
    fn more(&self) -> Option<String> {
        let Some(object) = &self.object else {
            let text = match (self.owner, self.kind) {
                // `os.Process` has it bare.
                (_, "pidfd") => return None,
                // The same file may have been closed and opened anew while the heap was read, by its old number.
                ("not_go", "file") => "no poll.FD had it when the heap was read",
                ("not_go", _) => "not Go's: no poll.FD has it",
                _ => return None,
            };
            return Some(text.to_owned());
        };
        let mut parts = vec![format!("{} {}", object.of, object.address)];
        parts.extend(self.holder.as_ref().map(|holder| format!("held by {holder}")));
        parts.extend(self.kept_by.as_ref().map(|way| format!("kept alive by {way}")));
        if self.unreachable {
            parts.push("nothing refers to it: only a finalizer would close it".to_owned());
        }
        Some(parts.join(" · "))
    }
}
