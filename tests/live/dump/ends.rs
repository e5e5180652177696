//! `sfgi dump` of what ends, is no Go program or is not to be read: a sentence and the right exit code,
//! never a panic, never a hang. And of what stands still for another reason: it stays as it is.

use std::{
    collections::BTreeMap,
    fs,
    os::unix::fs::PermissionsExt,
    path::Path,
    process::{Command, Output},
    sync::{
        atomic::{AtomicBool, AtomicU32, Ordering},
        mpsc,
    },
    thread,
    time::{Duration, Instant},
};

use crate::harness::{Test, live};
use anyhow::{Context, Result, ensure};
use live_tests::{
    crowd::Crowd,
    dump,
    fixture::{self, Variant},
    machine,
    process::Process,
    sfgi::{self, fails},
    toolchain::Go,
    traceback::{self, Goroutine},
};
use rustix::process::Signal;

pub(crate) fn tests() -> Vec<Test> {
    vec![
        live(wrong_usage).quick(),
        live(no_such_process_no_go_program_no_core),
        live(no_permission),
        live(the_target_is_killed_in_the_middle),
        live(the_target_becomes_another_program),
        live(nothing_is_stopped_and_what_is_stopped_stays_so),
    ]
}

/// Targets that die in the middle of dumps.
const DEATHS: u32 = 60;

/// Targets of which one must be dumped while it is another program.
const TRIES: u32 = 10;

/// No dump of a fixture takes longer, on the slowest machine.
const LONGEST: Duration = Duration::from_secs(120);

/// Looks at the threads of a target that is dumped.
const LOOKS: u32 = 500;

fn wrong_usage() -> Result<()> {
    let wrong: [(&[&str], &str); 8] = [
        (&[], "sfgi dump -p PID"),
        (&["-p", "seven"], "seven"),
        (&["-p", "1", "--format", "xml"], "xml"),
        (&["-p", "1", "--state", "flying"], "flying"),
        (&["-p", "1", "--func", "("], "("),
        (&["-p", "1", "--older", "10 parsecs"], "10 parsecs"),
        (&["-p", "1", "--sort", "colour"], "colour"),
        (&["-p", "1", "--object", "here"], "here"),
    ];
    wrong.iter().try_for_each(|(args, word)| fails(&mut dump::sfgi_command(args)?, 2, &[word]))
}

fn no_such_process_no_go_program_no_core() -> Result<()> {
    let dump_fails = |args: &[&str], words: &[&str]| fails(&mut dump::sfgi_command(args)?, 1, words);
    dump_fails(&["-p", "4194303"], &["4194303", "no process"])?;
    let sleep = Process::spawn(Command::new("sleep").arg("60"))?;
    dump_fails(&["-p", &sleep.pid().to_string()], &["not a Go program"])?;
    let exe = fixture::build("crowd", &Go::newest(), Variant::Plain)?;
    let exe = exe.to_str().context("its name is UTF-8")?;
    dump_fails(&["--core", "/no/such/core", "--exe", exe], &["/no/such/core"])?;
    dump_fails(&["--core", exe, "--exe", exe], &["core"])?;
    dump_fails(&["--core", "/bin/true", "--exe", "/no/such/file"], &[])
}

fn no_permission() -> Result<()> {
    let crowd = Crowd::start(&Go::newest(), Variant::Plain)?;
    // A copy that the unprivileged user can execute, wherever the build lies.
    let dir = tempfile::Builder::new().permissions(fs::Permissions::from_mode(0o755)).tempdir()?;
    let copy = dir.path().join("sfgi");
    fs::copy(sfgi::binary()?, &copy)?;
    let mut unprivileged = Command::new("setpriv");
    unprivileged.args(["--reuid", "65534", "--regid", "65534", "--clear-groups", "--inh-caps", "-all"]);
    fails(unprivileged.arg(copy).args(["dump", "-p", &crowd.pid()]), 1, &["CAP_SYS_PTRACE"])
}

/// What a dump of a target that may end meanwhile must be: complete, or what was read and a sentence. Returns its goroutines.
fn is_decent(output: &Output) -> Result<BTreeMap<u64, Goroutine>> {
    let stderr = String::from_utf8_lossy(&output.stderr);
    ensure!(!stderr.contains("panicked"), "{stderr}");
    let code = output.status.code().with_context(|| format!("{}: {stderr}", output.status))?;
    ensure!(code == 0 || code == 1, "exit code {code}: {stderr}");
    ensure!(code == 0 || !stderr.trim().is_empty(), "it fails and does not say why");
    ensure!(stderr.lines().count() <= 3, "more than a sentence or two:\n{stderr}");
    traceback::parse(&String::from_utf8_lossy(&output.stdout))
}

/// How dumps of a target that ends meanwhile ended.
#[derive(Clone, Copy, Debug, Default)]
struct Ends {
    complete: u32,
    /// They show what was read before the target had gone, and say so.
    incomplete: u32,
    failed: u32,
}

/// Dumps the process again and again until it has gone. Hands on the dumps that are complete, each with the time that it took.
fn dump_until_gone(pid: u32, complete: impl Fn(BTreeMap<u64, Goroutine>, Duration)) -> Result<Ends> {
    let mut ends = Ends::default();
    loop {
        let started = Instant::now();
        let output = dump::run(&["-p", &pid.to_string()])?;
        let took = started.elapsed();
        let shown = is_decent(&output).with_context(|| format!("after {ends:?}"))?;
        ensure!(took < LONGEST, "a dump took {took:?}");
        if !output.status.success() {
            ends.failed += 1;
            if !Path::new(&format!("/proc/{pid}/exe")).exists() {
                return Ok(ends);
            }
        } else if String::from_utf8_lossy(&output.stderr).contains("incomplete: ") {
            ends.incomplete += 1;
        } else {
            ends.complete += 1;
            complete(shown, took);
        }
        ensure!(ends.complete + ends.incomplete < 1000, "the target does not go");
    }
}

fn the_target_is_killed_in_the_middle() -> Result<()> {
    let (go, mut all) = (Go::newest(), Ends::default());
    for death in 0..DEATHS {
        let mut crowd = Crowd::start(&go, Variant::PieStripped)?;
        crowd.set_in_motion()?;
        let pid = crowd.process.pid();
        let (made, dumps) = mpsc::channel();
        let (first, ends) = thread::scope(|scope| {
            let hand_on = move |shown, took| drop(made.send((shown, took)));
            let dumping = scope.spawn(move || dump_until_gone(pid, hand_on));
            // Another moment of the second dump each time. How long one takes is told by the first: how busy the machine
            // is changes from target to target. Where the first does not come, the thread says why.
            let first = dumps.recv_timeout(LONGEST);
            if let Ok((_, usual)) = &first {
                thread::sleep(*usual * (death * 7 % DEATHS) / DEATHS);
            }
            crowd.process.signal(Signal::KILL)?;
            crowd.process.wait(LONGEST)?;
            anyhow::Ok((first, dumping.join().expect("no panic")?))
        })?;
        let (first, _) = first.context("no dump was complete before the target was killed")?;
        crowd.agrees(&first)?;
        dumps.into_iter().try_for_each(|(shown, _)| crowd.agrees(&shown).map(drop))?;
        all.complete += ends.complete;
        all.incomplete += ends.incomplete;
        all.failed += ends.failed;
    }
    let Ends { complete, incomplete, failed } = all;
    machine::report(&format!(
        "{DEATHS} targets killed: {complete} dumps complete, {incomplete} incomplete, {failed} failed, with a sentence"
    ));
    Ok(())
}

/// The process becomes other programs: a Go program again, then one that is none.
fn the_target_becomes_another_program() -> Result<()> {
    for go in [Go::newest(), Go::all().remove(0)] {
        // It is `sleep` for a second only: on a slow machine no dump may fall into that.
        let seen_otherwise = (0..TRIES).try_fold(false, |seen, _| {
            if seen {
                return Ok(true);
            }
            let mut target = fixture::start("children", &go, Variant::Plain, &["-n", "3"])?;
            let pid = target.pid();
            target.say()?;
            thread::scope(|scope| {
                let dumps = scope.spawn(move || dump_until_gone(pid, |_, _| ()));
                target.wait(LONGEST)?;
                // The last one fails because there is no process.
                anyhow::Ok(dumps.join().expect("no panic")?.failed > 1)
            })
        })?;
        ensure!(seen_otherwise, "go{}: it was never dumped as another program", go.version);
    }
    Ok(())
}

/// No ptrace and no signal: nothing of it is to be seen in `/proc`, however often one looks, and a
/// process that a debugger holds or that is stopped can be dumped all the same.
fn nothing_is_stopped_and_what_is_stopped_stays_so() -> Result<()> {
    let mut crowd = Crowd::start(&Go::newest(), Variant::Plain)?;
    let pid = crowd.process.pid();
    crowd.set_in_motion()?;
    let (done, looks) = (AtomicBool::new(false), AtomicU32::new(0));
    thread::scope(|scope| {
        let watcher = scope.spawn(|| {
            while !done.load(Ordering::Relaxed) {
                is_free(pid)?;
                looks.fetch_add(1, Ordering::Relaxed);
            }
            anyhow::Ok(())
        });
        // The watcher may get the processor seldom.
        let deadline = Instant::now() + LONGEST;
        let enough = || looks.load(Ordering::Relaxed) > LOOKS || Instant::now() >= deadline;
        let dumps = (0..)
            .take_while(|made| *made < 30 || !enough())
            .try_for_each(|_| crowd.agrees(&dump::traceback(pid, &[])?).map(drop));
        done.store(true, Ordering::Relaxed);
        watcher.join().expect("no panic")?;
        dumps
    })?;
    let looks = looks.into_inner();
    ensure!(looks > LOOKS, "only {looks} looks");
    machine::report(&format!("{looks} looks at the threads during dumps: never traced, never stopped"));

    crowd.process.signal(Signal::STOP)?;
    until_state(pid, 'T')?;
    let first = dump::traceback(pid, &[])?;
    ensure!(crowd.agrees(&first)? == 0, "in motion, though stopped");
    ensure!(first == dump::traceback(pid, &[])?, "two dumps of a stopped process differ");
    until_state(pid, 'T').context("after the dump")?;
    crowd.process.signal(Signal::CONT)?;
    crowd.moving().context("it does not go on")?;

    let _debugger = Process::spawn(Command::new("gdb").args(["-q", "-nx", "-p", &pid.to_string()]))?;
    until_state(pid, 't')?;
    ensure!(crowd.agrees(&dump::traceback(pid, &[])?)? == 0, "in motion, though held by a debugger");
    until_state(pid, 't').context("after the dump")
}

/// No thread of the process is traced or stopped now.
fn is_free(pid: u32) -> Result<()> {
    for task in fs::read_dir(format!("/proc/{pid}/task"))? {
        // A thread may end meanwhile.
        let Ok(status) = fs::read_to_string(task?.path().join("status")) else { continue };
        let traced = status.lines().any(|line| line.starts_with("TracerPid:") && line != "TracerPid:\t0");
        let state = status.lines().find_map(|line| line.strip_prefix("State:\t")).unwrap_or_default();
        ensure!(!traced && !state.starts_with(['t', 'T']), "traced or stopped:\n{status}");
    }
    Ok(())
}

/// Waits until the process is in this state.
fn until_state(pid: u32, state: char) -> Result<()> {
    let deadline = Instant::now() + LONGEST;
    loop {
        let status = fs::read_to_string(format!("/proc/{pid}/status"))?;
        if status.lines().any(|line| line.starts_with(&format!("State:\t{state}"))) {
            return Ok(());
        }
        ensure!(Instant::now() < deadline, "it is not in state {state}:\n{status}");
        thread::sleep(Duration::from_millis(5));
    }
}
