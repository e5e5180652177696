//! What `/proc` tells of goroutines that were found: the system call that a thread is in, the file that a goroutine waits
//! for, and what a child of a child still holds open.

use super::view::LeakView;
use crate::{
    goruntime::State,
    heap::Observed,
    names::Names,
    process::{Argument, Call, End, Process, writers},
    snapshot::{Goroutine, View, descriptor},
};
use std::collections::HashSet;

/// Groups that are asked about, and goroutines of each that are.
const MAX_GROUPS: usize = 64;
const MAX_MEMBERS: usize = 3;
/// Bytes of a path that are shown.
const MAX_PATH: usize = 256;
/// Goroutines that copy what a command prints (`src/os/exec/exec.go`: `Start`), of which the pipe is looked for.
const MAX_COPIERS: usize = 256;
/// What copies what a command prints is made by this function, and its closures.
const STARTS: &str = "os/exec.(*Cmd).Start";

/// Adds what is found out to the evidence of each group.
pub(super) fn tell(
    process: &Process,
    view: &View<'_>,
    observed: &Observed,
    names: &mut Names,
    groups: &mut [LeakView],
) {
    let mut pipes = Pipes::default();
    let goroutine = |index: &u32| observed.snapshot.goroutines.get(*index as usize);
    for (number, group) in groups.iter_mut().enumerate().take(MAX_GROUPS) {
        let members = || group.members.iter().filter_map(goroutine).take(MAX_MEMBERS);
        let mut said: Vec<String> = Vec::new();
        if group.state == Some(State::Syscall) {
            said.extend(members().filter_map(|one| {
                let call = process.call(one.tid)?;
                Some(format!("goroutine {} is in {}", one.goid, words(process, view, &call)))
            }));
        } else if group.reason == "IO wait" {
            for one in members() {
                let Some(fd) = descriptor(view, one) else { continue };
                let goid = one.goid;
                let Some(file) = process.file_name(fd) else {
                    said.push(format!("goroutine {goid} waits for descriptor {fd}"));
                    continue;
                };
                said.push(format!("goroutine {goid} waits for descriptor {fd}, {}", named(process, &file)));
                if group.stack.iter().any(|site| site.func.starts_with("os/exec.(*Cmd).")) {
                    pipes.add(number, file);
                }
            }
        } else if group.stack.iter().any(|site| waits_for_output(&site.func)) {
            let waiters: HashSet<u64> = group.goids.iter().copied().collect();
            for one in copiers(observed, names).into_iter().filter(|one| waiters.contains(&one.parent_goid)) {
                let file = descriptor(view, one).and_then(|fd| process.file_name(fd));
                file.into_iter().for_each(|file| pipes.add(number, file));
            }
        }
        // Behind what proves it, or does not.
        let at = group.evidence.len().min(1);
        group.evidence.splice(at..at, said);
    }
    pipes.tell(process, groups);
}

/// Whether this function waits until nobody can write to a command's pipes any more; the command itself has ended then
/// (`awaitGoroutines` since Go 1.20, until then `Wait` itself).
fn waits_for_output(func: &str) -> bool {
    matches!(func, "os/exec.(*Cmd).awaitGoroutines" | "os/exec.(*Cmd).Wait")
}

/// Goroutines that copy what commands print.
fn copiers<'o>(observed: &'o Observed, names: &mut Names) -> Vec<&'o Goroutine> {
    let mut known: std::collections::HashMap<u64, bool> = std::collections::HashMap::new();
    let mut starts = |one: &Goroutine| {
        *known
            .entry(one.gopc)
            .or_insert_with(|| names.go_statement(one.gopc).is_some_and(|site| site.func.starts_with(STARTS)))
    };
    let all = observed.snapshot.goroutines.iter().filter(|one| one.state.waits() && one.gopc != 0);
    all.filter(|one| starts(one)).take(MAX_COPIERS).collect()
}

/// A call and what it is about: `read of descriptor 0, /dev/pts/3`.
fn words(process: &Process, view: &View<'_>, call: &Call) -> String {
    let name = call.name.map_or_else(|| format!("system call {}", call.number), str::to_owned);
    match call.about {
        None => name,
        Some(Argument::Descriptor(fd)) => match process.file_name(fd) {
            Some(file) => format!("{name} of descriptor {fd}, {}", named(process, &file)),
            None => format!("{name} of descriptor {fd}"),
        },
        Some(Argument::Path(addr)) => match path(view, addr) {
            Some(path) => format!("{name} of {path}"),
            None => name,
        },
        Some(Argument::Child(None)) => format!("{name} for any child"),
        Some(Argument::Child(Some(pid))) => format!("{name} for child {pid}"),
    }
}

/// A file as the kernel names it; of a socket the connection, too.
fn named(process: &Process, file: &str) -> String {
    let inode = file.strip_prefix("socket:[").and_then(|rest| rest.strip_suffix(']'));
    let connection = inode.and_then(|inode| process.socket(inode.parse().ok()?));
    connection.map_or_else(|| file.to_owned(), |socket| socket.to_string())
}

/// A text that ends with a zero byte, cut where it is long.
fn path(view: &View<'_>, addr: u64) -> Option<String> {
    let mut bytes = Vec::new();
    while bytes.len() < MAX_PATH {
        // By words: the next page may not be mapped.
        let at = addr.wrapping_add(bytes.len() as u64);
        let word = view.word(at & !7)?.to_le_bytes();
        let more = word.get((at % 8) as usize..).unwrap_or_default();
        let end = more.iter().position(|byte| *byte == 0);
        bytes.extend_from_slice(more.get(..end.unwrap_or(more.len())).unwrap_or_default());
        if end.is_some() {
            break;
        }
    }
    (!bytes.is_empty()).then(|| String::from_utf8_lossy(&bytes).into_owned())
}

/// Pipes of commands that groups wait for, by the group's number.
#[derive(Default)]
struct Pipes(Vec<(usize, String)>);

impl Pipes {
    fn add(&mut self, group: usize, file: String) {
        let is_pipe = file.starts_with("pipe:[");
        if is_pipe && self.0.len() < MAX_COPIERS && !self.0.contains(&(group, file.clone())) {
            self.0.push((group, file));
        }
    }

    /// Says which processes still hold them open.
    fn tell(&self, process: &Process, groups: &mut [LeakView]) {
        if self.0.is_empty() {
            return;
        }
        let pipes: Vec<String> = self.0.iter().map(|(_, pipe)| pipe.clone()).collect();
        let ends = writers(&pipes);
        for (number, group) in groups.iter_mut().enumerate() {
            let mut said: Vec<String> = Vec::new();
            for (_, pipe) in self.0.iter().filter(|(of, _)| *of == number) {
                let holders: Vec<&End> = ends.iter().filter(|end| end.pipe == *pipe).collect();
                if let Some(sentence) = held_open(pipe, &holders, process.pid()) {
                    said.push(sentence);
                }
            }
            said.truncate(MAX_MEMBERS);
            let at = group.evidence.len().min(1);
            group.evidence.splice(at..at, said);
        }
    }
}

/// Who holds a pipe open; `None`: nobody who can be seen.
fn held_open(pipe: &str, holders: &[&End], own: i32) -> Option<String> {
    let name = |end: &&End| match end.pid {
        pid if pid == own => "the program itself".to_owned(),
        pid => format!("process {pid} ({})", end.name),
    };
    let names: Vec<String> = holders.iter().map(name).collect();
    let hold = if names.len() == 1 { "holds" } else { "hold" };
    (!names.is_empty()).then(|| format!("{} still {hold} {pipe} open and can write to it", names.join(", ")))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn end(pid: i32, name: &str) -> End {
        End { pipe: "pipe:[7]".to_owned(), pid, name: name.to_owned() }
    }

    #[test]
    fn who_holds_a_pipe_is_named() {
        let (one, other) = (end(12, "sleep"), end(5, "shop"));
        let said = |holders: &[&End]| held_open("pipe:[7]", holders, 5);
        assert_eq!(said(&[]), None);
        assert_eq!(
            said(&[&one]).unwrap(),
            "process 12 (sleep) still holds pipe:[7] open and can write to it"
        );
        assert_eq!(
            said(&[&one, &other]).unwrap(),
            "process 12 (sleep), the program itself still hold pipe:[7] open and can write to it"
        );
    }
}
