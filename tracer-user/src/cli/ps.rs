//! `sfgi ps`: the Go processes of this host, and what can be done with each.
//!
//! A host runs thousands of processes, and any executable may be hostile. Each file is looked at once, by its sections.
//! Only Go programs are parsed, up to [`MAX_BINARY`]; parsing and counting end after [`PATIENCE`].

use super::session;
use crate::{
    confine::{self, Needs},
    live::Aside,
    output::{clean, count, raw, say},
    probe,
};
use anyhow::{Context as _, Result, anyhow};
use clap::{Args as ClapArgs, ValueEnum};
use serde::Serialize;
use sfgi_core::{
    binary::{BinaryError, BuildInfo, GoBinary, Identified, identify},
    memory::Live,
    process::{Group, Process, ProcessError},
    snapshot::{Clock, Options, Reading, View},
};
use std::{
    collections::{BTreeMap, HashMap, btree_map::Entry},
    fs::{self, File},
    io::{self, Read as _, Write},
    os::unix::fs::MetadataExt as _,
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

/// The schema name of the JSON document.
const SCHEMA: &str = "sfgi.ps/1";
/// Larger executables are not parsed: the largest Go programs have about 200 MB, and a list must come quickly.
const MAX_BINARY: u64 = 256 << 20;
/// After this time no further program is parsed and no further goroutine counted: the list shows `-` instead.
const PATIENCE: Duration = Duration::from_secs(3);
/// Bytes of `/etc/passwd` that are read, which bounds the memory for it.
const MAX_PASSWD: u64 = 4 << 20;
/// Characters of a container's id: as many as `docker ps` shows.
const SHORT_ID: usize = 12;
/// Characters of a program's name in the table; [`short`] cuts longer ones.
const MAX_NAME: usize = 40;

#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Format {
    Text,
    Json,
}

#[derive(ClapArgs)]
#[command(after_help = "\
GOROUTINES counts those of the program, as runtime.NumGoroutine does. CAN names what can be done with the
process by this user, or says why nothing can. `-`: it cannot be read, or counting took too long.

JSON is one document, schema sfgi.ps/1: `processes`, by PID, each with `pid`, `uid`, `user`, `program`, `exe`,
`package`, `go_version`, `goroutines`, `container`, `can` and `why_not`; what is not known is null. `unreadable`
is the number of processes that this user may not look at: some may be Go programs.

EXAMPLES
  sfgi ps                        all Go processes, with the number of their goroutines
  sudo sfgi ps                   those of other users, too
  sfgi ps --format json          for scripts")]
pub(super) struct Args {
    /// Output format
    #[arg(long, value_enum, default_value = "text")]
    format: Format,
    /// Write to FILE instead of standard output
    #[arg(short, long, value_name = "FILE")]
    output: Option<PathBuf>,
}

pub(super) fn run(args: &Args) -> Result<()> {
    let (mut out, _) = session::output(args.output.as_deref())?;
    let host = Host::look()?;
    match args.format {
        Format::Json => {
            serde_json::to_writer(&mut out, &host).map_err(io::Error::from)?;
            writeln!(out)?;
        }
        Format::Text => {
            out.write_all(host.table().as_bytes())?;
            host.notes().iter().for_each(say);
        }
    }
    Ok(out.flush()?)
}

/// Prints the table for a user who called a command without a process.
pub(super) fn to_stderr() {
    match Host::look() {
        Ok(host) => {
            raw(&host.table());
            host.notes().iter().for_each(say);
        }
        Err(error) => say(format_args!("{error:#}")),
    }
}

/// The commands that would work with a process.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
enum Can {
    Dump,
    Leaks,
    Trace,
}

impl Can {
    fn word(self) -> &'static str {
        match self {
            Can::Dump => "dump",
            Can::Leaks => "leaks",
            Can::Trace => "trace",
        }
    }
}

/// One Go process: a row of the table, and an element of `processes` in the JSON document.
#[derive(Debug, Serialize)]
struct Row {
    pid: i32,
    uid: Option<u32>,
    user: Option<String>,
    /// File name of the executable.
    program: String,
    exe: Option<String>,
    /// Import path of the main package, from the build information.
    package: Option<String>,
    go_version: Option<String>,
    goroutines: Option<u64>,
    container: Option<String>,
    can: Vec<Can>,
    /// Why `can` is empty; `None` where it is not.
    why_not: Option<String>,
}

/// The JSON document.
#[derive(Debug, Serialize)]
struct Host {
    schema: &'static str,
    processes: Vec<Row>,
    /// Processes whose executable this user may not open: some may be Go programs.
    unreadable: u64,
    /// Why this user can trace nothing on this host; `None`: tracing works.
    #[serde(skip_serializing_if = "Option::is_none")]
    no_trace: Option<String>,
    /// Programs that were found after [`PATIENCE`], and so not parsed.
    #[serde(skip)]
    out_of_time: u64,
    /// Executables that could not be looked at, because their file system does not answer.
    #[serde(skip)]
    no_answer: u64,
    /// Why executables could not be read, one for each.
    #[serde(skip)]
    failed: Vec<io::Error>,
    /// Executables whose sections do not say whether they are Go programs, larger than [`MAX_BINARY`].
    #[serde(skip)]
    too_large: u64,
}

/// A Go executable and the processes that run it: parsed once for all of them.
struct Program {
    file: File,
    size: u64,
    /// Build information from the sections; `None`: only the whole file can tell whether it is a Go program.
    info: Option<BuildInfo>,
    processes: Vec<Arc<Process>>,
}

impl Host {
    fn look() -> Result<Host> {
        let deadline = Instant::now() + PATIENCE;
        // Asked before the capabilities go that it asks for.
        let no_trace = probe::check_host().err().map(|error| error.to_string());
        confine::apply(&Needs::reader());
        let mut aside = Aside::default();
        let listed = programs(&mut aside, deadline).context("cannot list the processes of this host")?;
        let Listed { programs, unreadable, no_answer, failed } = listed;
        let users = users();
        let mut host = Host {
            schema: SCHEMA,
            processes: Vec::new(),
            unreadable,
            no_trace,
            out_of_time: 0,
            no_answer,
            failed,
            too_large: 0,
        };
        for program in programs {
            host.add(program, &users, &mut aside, deadline)?;
        }
        host.processes.sort_by_key(|row| row.pid);
        Ok(host)
    }

    fn add(
        &mut self,
        program: Program,
        users: &HashMap<u32, String>,
        aside: &mut Aside,
        deadline: Instant,
    ) -> Result<()> {
        let Program { file, size, info, processes } = program;
        // A program found too late is listed by what its sections said.
        let (late, large) = (Instant::now() >= deadline, size > MAX_BINARY);
        self.out_of_time += u64::from(late);
        let parsed = if late || large {
            None
        } else {
            let parsed = aside.patiently(|_| GoBinary::read_to_keep(file).map(Arc::new), || Ok(()))?;
            self.no_answer += u64::from(parsed.is_none());
            parsed
        };
        match &parsed {
            // The sections left it open, and the whole file says no.
            Some(Err(BinaryError::NotGo | BinaryError::Elf(_))) if info.is_none() => return Ok(()),
            // The whole file was not read, so nobody knows: it is counted, not listed.
            None if info.is_none() => {
                self.too_large += u64::from(large && !late);
                return Ok(());
            }
            _ => {}
        }
        let binary = parsed.as_ref().and_then(|parsed| parsed.as_ref().ok());
        let info = binary.map(|binary| binary.info()).or(info.as_ref());
        for process in processes {
            let mut row = Row::of(&process, info, users);
            let read = match &parsed {
                None => Ok(None),
                Some(Err(error)) => Err(anyhow!("{error}")),
                Some(Ok(binary)) => {
                    let (process, binary) = (Arc::clone(&process), Arc::clone(binary));
                    let counted = aside.patiently(
                        move |progress| goroutines(&process, &binary, deadline, progress),
                        || Ok(()),
                    )?;
                    counted.unwrap_or_else(|| Err(anyhow!("its memory does not answer")))
                }
            };
            match read {
                Ok(goroutines) => {
                    row.goroutines = goroutines;
                    row.can = vec![Can::Dump, Can::Leaks];
                    row.can.extend(self.no_trace.is_none().then_some(Can::Trace));
                }
                Err(error) => row.why_not = Some(format!("{error:#}")),
            }
            if process.alive() {
                self.processes.push(row);
            }
        }
        Ok(())
    }

    /// One line for each process, below a line of titles.
    fn table(&self) -> String {
        if self.processes.is_empty() {
            return "no Go process was found\n".to_owned();
        }
        let titles = ["PID", "USER", "PROGRAM", "GO", "GOROUTINES", "CONTAINER", "CAN"].map(str::to_owned);
        let lines: Vec<[String; 7]> =
            std::iter::once(titles).chain(self.processes.iter().map(Row::cells)).collect();
        let width = |column: usize| lines.iter().map(|line| line[column].chars().count()).max().unwrap_or(0);
        let widths: [usize; 6] = std::array::from_fn(width);
        let mut text = String::new();
        for [pid, user, program, go, goroutines, container, can] in &lines {
            let [p, u, n, g, r, c] = widths;
            text += &format!(
                "{pid:>p$}  {user:u$}  {program:n$}  {go:g$}  {goroutines:>r$}  {container:c$}  {can}\n"
            );
        }
        text
    }

    /// Sentences for standard error about what the table leaves out.
    fn notes(&self) -> Vec<String> {
        let things = |number: u64, one: &str, many: &str| match number {
            1 => one.to_owned(),
            number => format!("{} {many}", count(number)),
        };
        let mut notes = Vec::new();
        if let Some(why) = &self.no_trace {
            notes.push(format!("nothing can be traced: {why}"));
        }
        if self.out_of_time > 0 {
            let programs = things(self.out_of_time, "one program was", "programs were");
            notes.push(format!("{programs} not read: it took too long"));
        }
        if self.no_answer > 0 {
            let executables = things(self.no_answer, "one executable", "executables");
            notes.push(format!("{executables} could not be looked at: the file system does not answer"));
        }
        if let Some(error) = self.failed.first() {
            let executables = things(self.failed.len() as u64, "one executable", "executables");
            notes.push(format!("{executables} could not be read: {error}"));
        }
        if self.too_large > 0 {
            let executables = things(self.too_large, "one executable was", "executables were");
            let mib = MAX_BINARY >> 20;
            notes.push(format!("{executables} not read and may be Go's: more than {mib} MiB"));
        }
        if self.unreadable > 0 {
            let processes = things(self.unreadable, "one process", "processes");
            notes.push(format!("{processes} may not be looked at by this user: root sees all"));
        }
        notes
    }
}

impl Row {
    fn of(process: &Process, info: Option<&BuildInfo>, users: &HashMap<u32, String>) -> Row {
        let exe = process.exe_name().ok();
        let name = exe.as_deref().and_then(Path::file_name).map(|name| name.to_string_lossy().into_owned());
        let group = process.proc_text("cgroup").map(|text| Group::parse(&text)).unwrap_or_default();
        let uid = process.uid().ok();
        Row {
            pid: process.pid(),
            uid,
            user: uid.and_then(|uid| users.get(&uid).cloned()),
            program: name.unwrap_or_default(),
            exe: exe.map(|exe| exe.to_string_lossy().into_owned()),
            package: info.and_then(|info| info.path.clone()),
            go_version: info.map(|info| info.version.raw.clone()),
            goroutines: None,
            container: group.container,
            can: Vec::new(),
            why_not: None,
        }
    }

    fn cells(&self) -> [String; 7] {
        let none = || "-".to_owned();
        let uid = || self.uid.map_or_else(none, |uid| uid.to_string());
        let can: Vec<&str> = self.can.iter().map(|can| can.word()).collect();
        // `go1.26.6 X:jsonv2` names experiments of the build, too; the table has room for the version.
        let go = self.go_version.as_deref().and_then(|version| version.split(' ').next());
        [
            self.pid.to_string(),
            self.user.as_deref().map_or_else(uid, |user| clean(user).into_owned()),
            short(&clean(self.name())),
            go.map_or_else(none, |go| clean(go).into_owned()),
            self.goroutines.map_or_else(none, count),
            self.container.as_deref().map_or_else(none, |id| id.chars().take(SHORT_ID).collect()),
            self.why_not.as_deref().map_or_else(|| can.join(" "), |why| clean(why).into_owned()),
        ]
    }

    /// The main package's path. For a build that was given files, Go records `command-line-arguments`: then the name of
    /// the executable says more.
    fn name(&self) -> &str {
        let package = self.package.as_deref();
        let told = package.filter(|path| !path.is_empty() && *path != "command-line-arguments");
        told.unwrap_or(&self.program)
    }
}

/// Keeps the end of a long name: package paths differ there.
fn short(name: &str) -> String {
    let length = name.chars().count();
    if length <= MAX_NAME {
        return name.to_owned();
    }
    let end: String = name.chars().skip(length - MAX_NAME + 1).collect();
    format!("…{end}")
}

/// The Go programs that run.
struct Listed {
    programs: Vec<Program>,
    /// Processes that this user may not look at.
    unreadable: u64,
    /// Executables whose file system does not answer.
    no_answer: u64,
    /// Why executables could not be read.
    failed: Vec<io::Error>,
}

fn programs(aside: &mut Aside, deadline: Instant) -> Result<Listed> {
    let (mut unreadable, mut no_answer, mut failed) = (0, 0, Vec::new());
    let mut seen: BTreeMap<(u64, u64), Option<Program>> = BTreeMap::new();
    for entry in fs::read_dir("/proc")? {
        let Some(pid) = entry?.file_name().to_str().and_then(|name| name.parse().ok()) else { continue };
        // Processes that have ended meanwhile and kernel threads are skipped.
        let Ok(process) = Process::open(pid) else { continue };
        let file = match process.exe() {
            Ok(file) => file,
            Err(ProcessError::Permission { .. }) => {
                unreadable += 1;
                continue;
            }
            Err(_) => continue,
        };
        // The file was opened through /proc, so it is the one that runs, whatever its path names by now.
        let Ok(metadata) = file.metadata() else { continue };
        // A file is known by device and inode: the same path may be another file in another mount namespace.
        let program = match seen.entry((metadata.dev(), metadata.ino())) {
            Entry::Occupied(program) => program.into_mut(),
            Entry::Vacant(new) => {
                // Each that does not answer takes its second, so there may not be many.
                let given_up = no_answer > 0 && Instant::now() >= deadline;
                let looked = if given_up { None } else { aside.patiently(|_| looked_at(file), || Ok(()))? };
                no_answer += u64::from(looked.is_none());
                let looked = match looked {
                    Some(Err(error)) => {
                        failed.push(error);
                        None
                    }
                    Some(Ok(looked)) => looked,
                    None => None,
                };
                let size = metadata.size();
                new.insert(looked.map(|(file, info)| Program { file, size, info, processes: Vec::new() }))
            }
        };
        if let Some(program) = program {
            program.processes.push(Arc::new(process));
        }
    }
    Ok(Listed { programs: seen.into_values().flatten().collect(), unreadable, no_answer, failed })
}

/// What the sections of an executable tell; `None`: it is no Go program.
fn looked_at(file: File) -> io::Result<Option<(File, Option<BuildInfo>)>> {
    Ok(match identify(&file)? {
        Identified::NotGo => None,
        Identified::Go { info, .. } => Some((file, Some(*info))),
        Identified::Unsure => Some((file, None)),
    })
}

/// Counts the goroutines of a process without the runtime's own; `None`: the time was up.
fn goroutines(
    process: &Process,
    binary: &GoBinary,
    deadline: Instant,
    progress: &AtomicU64,
) -> Result<Option<u64>> {
    if Instant::now() >= deadline {
        return Ok(None);
    }
    let bias = process.load_bias(binary.image().entry())?;
    let memory = Live::of(process);
    let view = View { memory: &memory, binary, bias, clock: Clock::Live };
    let mut reading = Reading::begin(&view, Options::default())?;
    while reading.chunk() {
        progress.fetch_add(1, Ordering::Relaxed);
        if Instant::now() >= deadline {
            return Ok(None);
        }
    }
    let snapshot = reading.finish();
    if let (Some(fault), true) = (snapshot.incomplete, snapshot.goroutines.is_empty()) {
        return Err(fault.into());
    }
    Ok(Some(snapshot.goroutines.iter().filter(|goroutine| !goroutine.system).count() as u64))
}

/// User names of this host by uid. Users of another service (LDAP and the like) are shown as numbers.
fn users() -> HashMap<u32, String> {
    let mut text = String::new();
    // Without the file, or if it is not UTF-8, the table shows numbers.
    let read = File::open("/etc/passwd").and_then(|file| file.take(MAX_PASSWD).read_to_string(&mut text));
    if read.is_err() { HashMap::new() } else { named(&text) }
}

fn named(passwd: &str) -> HashMap<u32, String> {
    let mut users = HashMap::new();
    for line in passwd.lines() {
        let mut fields = line.split(':');
        let (name, uid) = (fields.next(), fields.nth(1).and_then(|uid| uid.parse().ok()));
        if let (Some(name), Some(uid)) = (name, uid) {
            // The first line of a uid counts, as in getpwuid(3).
            users.entry(uid).or_insert_with(|| name.to_owned());
        }
    }
    users
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row(pid: i32) -> Row {
        Row {
            pid,
            uid: Some(1000),
            user: Some("kim".to_owned()),
            program: "shop".to_owned(),
            exe: Some("/usr/bin/shop".to_owned()),
            package: Some("example.org/shop/cmd/shop".to_owned()),
            go_version: Some("go1.26.6 X:jsonv2".to_owned()),
            goroutines: Some(1234),
            container: Some("9f3c0b9f7d7a4a3e8c0b5f1d2e3a4b5c6d7e8f90a1b2c3d4e5f60718293a4b5c".to_owned()),
            can: vec![Can::Dump, Can::Leaks, Can::Trace],
            why_not: None,
        }
    }

    fn host(processes: Vec<Row>) -> Host {
        Host {
            schema: SCHEMA,
            processes,
            unreadable: 7,
            no_trace: None,
            out_of_time: 0,
            no_answer: 0,
            failed: Vec::new(),
            too_large: 0,
        }
    }

    /// The notes about an executable of which the sections say nothing.
    fn notes_of(size: u64, patience: Duration) -> Vec<String> {
        let mut host = Host { unreadable: 0, ..host(Vec::new()) };
        let file = tempfile::tempfile().expect("a file");
        let program = Program { file, size, info: None, processes: Vec::new() };
        let deadline = Instant::now() + patience;
        host.add(program, &HashMap::new(), &mut Aside::default(), deadline)
            .expect("nothing is asked between");
        host.notes()
    }

    #[test]
    fn what_may_be_a_go_program_and_was_not_read_is_said() {
        assert_eq!(notes_of(0, PATIENCE), [""; 0]);
        assert_eq!(notes_of(0, Duration::ZERO), ["one program was not read: it took too long"]);
        let large = "one executable was not read and may be Go's: more than 256 MiB";
        assert_eq!(notes_of(MAX_BINARY + 1, PATIENCE), [large]);
    }

    #[test]
    fn an_executable_that_cannot_be_read_is_said() {
        let error = looked_at(File::open("/").expect("a folder")).expect_err("it is no file");
        let host = Host { unreadable: 0, failed: vec![error], ..host(Vec::new()) };
        assert_eq!(host.notes(), ["one executable could not be read: Is a directory (os error 21)"]);
    }

    #[test]
    fn a_line_a_process() {
        let old = Row {
            user: None,
            package: Some("command-line-arguments".to_owned()),
            program: "old\x1b[2J".to_owned(),
            go_version: None,
            goroutines: None,
            container: None,
            can: Vec::new(),
            why_not: Some("it was built with go1.16; go1.19 is the oldest version supported".to_owned()),
            ..row(12_345)
        };
        let table = host(vec![row(17), old]).table();
        let expected = [
            "  PID  USER  PROGRAM                    GO        GOROUTINES  CONTAINER     CAN",
            "   17  kim   example.org/shop/cmd/shop  go1.26.6       1,234  9f3c0b9f7d7a  dump leaks trace",
            "12345  1000  old?[2J                    -                  -  -             it was built with go1.16; \
             go1.19 is the oldest version supported",
        ];
        assert_eq!(table.lines().collect::<Vec<_>>(), expected);
        assert_eq!(host(Vec::new()).table(), "no Go process was found\n");
        assert_eq!(host(Vec::new()).notes().len(), 1);
    }

    #[test]
    fn json_says_what_is_not_known() {
        let json =
            serde_json::to_value(host(vec![Row { goroutines: None, ..row(17) }])).expect("it is plain data");
        assert_eq!(json["schema"], "sfgi.ps/1");
        assert_eq!(json["processes"][0]["can"], serde_json::json!(["dump", "leaks", "trace"]));
        assert_eq!(json["processes"][0]["goroutines"], serde_json::Value::Null);
        assert_eq!(json["unreadable"], 7);
    }

    #[test]
    fn long_names_keep_their_end() {
        assert_eq!(short("main"), "main");
        let long = format!("example.org/{}/cmd/shop", "x".repeat(100));
        assert!(short(&long).starts_with('…') && short(&long).ends_with("/cmd/shop"));
        assert_eq!(short(&long).chars().count(), MAX_NAME);
    }

    #[test]
    fn names_of_users_are_those_of_the_first_line() {
        let users = named(
            "root:x:0:0:root:/root:/bin/sh\ntoor:x:0:0::/:\nbad\nkim:x:1000:1000::/home/kim:\nno:x:-1:\n",
        );
        assert_eq!(users.len(), 2);
        assert_eq!((users[&0].as_str(), users[&1000].as_str()), ("root", "kim"));
    }

    #[test]
    fn this_host_can_be_listed() {
        let deadline = Instant::now() + PATIENCE;
        let listed = programs(&mut Aside::default(), deadline).expect("/proc is there");
        let own = std::process::id().cast_signed();
        let processes = || listed.programs.iter().flat_map(|program| &program.processes);
        assert!(processes().all(|process| process.pid() != own), "a Rust program is none of Go's");
    }
}
