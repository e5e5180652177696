//! `kill -9` at any moment, of the process that was called or of its child: nothing is left. And what a shell does with a command:
//! stop it, let it go on, learn how it ended.

use std::{
    collections::BTreeSet,
    env, fs,
    os::unix::process::{CommandExt as _, ExitStatusExt as _},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, ensure};
use live_tests::{
    fixture::{self, Variant},
    machine,
    process::Process,
    sfgi,
    toolchain::Go,
};
use rustix::process::{Pid, Signal, kill_process};

use crate::harness::{Test, live};

pub(crate) fn tests() -> Vec<Test> {
    vec![
        live(nothing_is_left_whenever_it_is_killed).alone(),
        live(who_stops_the_one_stops_both),
        live(how_it_ends_is_told_to_who_waits),
    ]
}

const SOON: Duration = Duration::from_secs(60);
/// Kills, unless `SFGI_KILLS` says how many: 1000 take a quarter of an hour.
const KILLS: u32 = 32;
/// How long each command takes about, within which a moment is chosen.
const LASTS: Duration = Duration::from_millis(2500);

/// The state of a process as in ps(1); `None`: it has gone.
fn state(pid: u32) -> Option<char> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    stat.rsplit_once(')')?.1.trim().chars().next()
}

/// Whether a thread of it is stopped or traced.
fn is_held(pid: u32) -> Result<bool> {
    for task in fs::read_dir(format!("/proc/{pid}/task"))? {
        let Ok(status) = fs::read_to_string(task?.path().join("status")) else { continue };
        let traced = status.lines().any(|line| line.starts_with("TracerPid:") && line != "TracerPid:\t0");
        if traced || status.contains("State:\tt") || status.contains("State:\tT") {
            return Ok(true);
        }
    }
    Ok(false)
}

fn until(what: &str, mut holds: impl FnMut() -> Result<bool>) -> Result<()> {
    let deadline = Instant::now() + SOON;
    while !holds()? {
        ensure!(Instant::now() < deadline, "{what}: not so");
        thread::sleep(Duration::from_millis(2));
    }
    Ok(())
}

fn nothing_is_left_whenever_it_is_killed() -> Result<()> {
    let kills = env::var("SFGI_KILLS").ok().and_then(|number| number.parse().ok()).unwrap_or(KILLS);
    let mut target = fixture::start("workers", &Go::newest(), Variant::Plain, &["-d", "1h"])?;
    target.say()?;
    let pid = target.pid().to_string();
    let dir = tempfile::tempdir()?;
    let file = |name: &str| dir.path().join(name).display().to_string();
    let (dump, recording, baseline) = (file("dump"), file("recording"), file("baseline"));
    let commands: [&[&str]; 4] = [
        &["dump", "-o", &dump],
        &["leaks", "--freeze", "--observe", "500ms", "--write-baseline", &baseline],
        &["trace", "-d", "1", "-c"],
        &["record", "-d", "1", "-o", &recording],
    ];
    let mut of_children = 0;
    for kill in 0..kills {
        let command = commands[kill as usize % commands.len()];
        let mut sfgi = Process::spawn(sfgi::command(command)?.args(["-p", &pid]))?;
        // Moments that repeat in no command: the golden section spreads them evenly.
        thread::sleep(LASTS.mul_f64((f64::from(kill) * 0.618_034).fract()));
        let children = machine::children(sfgi.pid())?;
        let objects: BTreeSet<String> = machine::bpf_objects_of(sfgi.pid()).unwrap_or_default();
        match children.first().filter(|_| kill / 4 % 2 == 1) {
            Some(child) => {
                of_children += 1;
                // It may have ended meanwhile.
                let _ =
                    kill_process(Pid::from_raw(child.cast_signed()).context("a process id")?, Signal::KILL);
            }
            None => drop(sfgi.signal(Signal::KILL)),
        }
        let context = || format!("kill {kill} of {command:?}");
        sfgi.wait(SOON).with_context(context)?;
        ensure!(!sfgi.stderr.text().contains("panicked"), "{}", sfgi.stderr.text());
        for child in children {
            until("the child has gone", || Ok(state(child).is_none_or(|state| state == 'Z')))
                .with_context(context)?;
        }
        until("the target goes on", || Ok(!is_held(target.pid())?)).with_context(context)?;
        machine::nothing_left(&objects).with_context(context)?;
        for entry in fs::read_dir(dir.path())? {
            let name = entry?.file_name().to_string_lossy().into_owned();
            ensure!(
                ["dump", "recording", "baseline"].contains(&name.as_str()),
                "{}: {name} is left",
                context()
            );
        }
    }
    ensure!(of_children > 0, "no child was ever killed");
    machine::report(&format!("killed {kills} times, {of_children} times the child: nothing left"));
    Ok(())
}

fn who_stops_the_one_stops_both() -> Result<()> {
    let mut target = fixture::start("workers", &Go::newest(), Variant::Plain, &["-d", "1h"])?;
    target.say()?;
    // A group of its own, as a shell with job control gives it: SIGTSTP stops nobody in a group that nobody looks after
    // (an orphaned one, setpgid(2)), which that of a test may be.
    let pid = target.pid().to_string();
    let mut command = sfgi::command(&["trace", "-p", &pid, "--format", "json", "--timeout", "1"])?;
    let mut sfgi = sfgi::attached(command.process_group(0))?;
    let child = *machine::children(sfgi.pid())?.first().context("no child")?;
    sfgi.signal(Signal::TSTP)?;
    until("both stand", || Ok(state(sfgi.pid()) == Some('T') && state(child) == Some('T')))?;
    // Longer than a read may last: none was making progress meanwhile.
    thread::sleep(Duration::from_millis(1500));
    let before = sfgi.stdout.lines().len();
    sfgi.signal(Signal::CONT)?;
    until("both go on", || {
        Ok(state(sfgi.pid()) != Some('T') && state(child) != Some('T') && sfgi.stdout.lines().len() > before)
    })?;
    thread::sleep(Duration::from_millis(500));
    sfgi.signal(Signal::INT)?;
    sfgi.wait_code(SOON, 0)
}

fn how_it_ends_is_told_to_who_waits() -> Result<()> {
    let mut target = fixture::start("workers", &Go::newest(), Variant::Plain, &["-d", "1h"])?;
    target.say()?;
    let pid = target.pid();
    // What does not listen to a signal ends by it, and so does who was called.
    let mut leaks = Process::spawn(sfgi::command(&["leaks", "--observe", "1h", "-p"])?.arg(pid.to_string()))?;
    until("it has a child", || Ok(!machine::children(leaks.pid())?.is_empty()))?;
    thread::sleep(Duration::from_millis(300));
    leaks.signal(Signal::INT)?;
    let status = leaks.wait(SOON)?;
    ensure!(status.signal() == Some(Signal::INT.as_raw()), "{status}: {}", leaks.stderr.text());
    // A child that somebody kills is an error, with a sentence.
    let mut trace = sfgi::attach(pid, &[])?;
    let child = *machine::children(trace.pid())?.first().context("no child")?;
    kill_process(Pid::from_raw(child.cast_signed()).context("a process id")?, Signal::KILL)?;
    trace.wait_code(SOON, 1)?;
    let said = trace.stderr.text();
    ensure!(said.contains("the process that did the work was killed"), "{said}");
    let mut usage = Process::spawn(&mut sfgi::command(&["dump"])?)?;
    usage.wait_code(SOON, 2)
}
