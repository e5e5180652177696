//! What `sfgi agent` keeps of programs that come and go: fifty a second for five minutes must leave nothing behind,
//! neither those that end at once nor those that stay long enough to be watched.

use super::{Row, Setting, fixture::Fixture};
use crate::{setup::go, sh};
use anyhow::{Context as _, Result, ensure};
use serde_json::Value;
use std::{
    collections::{BTreeSet, VecDeque},
    fs,
    io::{BufRead as _, BufReader, Read as _, Write as _},
    net::TcpStream,
    process::Stdio,
    sync::{Arc, Mutex, PoisonError},
    thread,
    time::{Duration, Instant},
};

/// Programs that start in a second, and for how long they do.
const A_SECOND: u32 = 50;
const LONG: Duration = Duration::from_secs(300);
/// Time until the agent is used to it: from then on nothing may grow.
const USED_TO: Duration = Duration::from_secs(60);
/// What a program does: it makes so many goroutines that end at once.
const WORK: &str = "1000";
/// Every other program ends after its work; those between stay for this long, which is enough to be watched.
const STAYS: Duration = Duration::from_secs(3);
/// The largest good ratio of the agent's memory at the end to its memory when it was used to it.
const GROWTH: f64 = 1.1;

pub(super) fn run(setting: &Setting) -> Result<Vec<Row>> {
    let program = Fixture::build("short", go::BENCH, &[])?;
    let mut command = sh::root_command(&setting.sfgi)?;
    let include = format!("^{}$", program.display());
    command.args(["agent", "--pictures", "--listen", "127.0.0.1:0", "--include", &include]);
    let mut agent = sh::Child::spawn(command.stdout(Stdio::piped()).stderr(Stdio::piped()))?;
    let pid = agent.0.id();
    let mut log = BufReader::new(agent.0.stderr.take().context("no stderr")?).lines().map_while(Result::ok);
    let address = log.find_map(|line| line.split_once("listens on ").map(|(_, at)| at.trim().to_owned()));
    let address = address.context("sfgi agent does not listen")?;
    // A full pipe would stop the agent.
    thread::spawn(move || log.count());
    let pictures = BufReader::new(agent.0.stdout.take().context("no stdout")?).lines();
    let latest = Arc::new(Mutex::new(Value::Null));
    let keep = Arc::clone(&latest);
    thread::spawn(move || {
        for line in pictures.map_while(Result::ok) {
            *keep.lock().unwrap_or_else(PoisonError::into_inner) =
                serde_json::from_str(&line).unwrap_or_default();
        }
    });
    thread::sleep(Duration::from_secs(5));
    let before = series(&address)?;

    let (began, mut started, mut memory) = (Instant::now(), 0u32, None);
    let (mut staying, mut ending) = (VecDeque::new(), Vec::new());
    while began.elapsed() < LONG {
        let mut short = sh::command(&program)?;
        short.args(["-n", WORK]).stdin(Stdio::piped()).stdout(Stdio::null());
        if started % 2 == 0 {
            short.env("FIXTURE_HOLD", "1");
        }
        staying.push_back((Instant::now(), short.spawn()?));
        started += 1;
        while let Some((_, mut child)) = staying.pop_front_if(|(at, _)| at.elapsed() > STAYS) {
            drop(child.stdin.take()); // which it waits for
            ending.push(child);
        }
        ending.retain_mut(|child| !matches!(child.try_wait(), Ok(Some(_))));
        if memory.is_none() && began.elapsed() > USED_TO {
            memory = Some(number(&latest, "rss_bytes")?);
        }
        if started % (A_SECOND * 30) == 0 {
            eprintln!("bench churn: {started} programs in {:.0} s", began.elapsed().as_secs_f64());
        }
        thread::sleep(
            (began + Duration::from_secs(1) * started / A_SECOND).saturating_duration_since(Instant::now()),
        );
    }
    let rate = f64::from(started) / began.elapsed().as_secs_f64();
    let (grown, cpu) = (number(&latest, "rss_bytes")?, number(&latest, "cpu_seconds")?);
    let seconds = began.elapsed().as_secs_f64();
    for mut child in ending.into_iter().chain(staying.into_iter().map(|(_, child)| child)) {
        child.wait()?;
    }
    // Long enough for the agent to see that all have ended, and to forget them.
    thread::sleep(Duration::from_secs(30));
    let after = series(&address)?;
    let stale: Vec<&String> =
        after.iter().filter(|series| series.contains("short") && !before.contains(*series)).collect();
    ensure!(stale.is_empty(), "series of programs that have ended: {stale:?}");
    let seen = number(&latest, "seen/started_total")?;
    let tracked = number(&latest, "seen/tracked")?;
    ensure!(tracked == 0.0, "{tracked} programs are watched that have ended");
    let left = dead(pid)? as f64;
    let memory = memory.context("it ended too early")?;
    let what = format!("sfgi agent, {A_SECOND} programs a second for {} minutes", LONG.as_secs() / 60);
    Ok(vec![
        Row::new(format!("{what}: programs a second"), "", vec![rate]),
        Row::new(
            format!("{what}: watched of those that stay"),
            "%",
            vec![seen / f64::from(started / 2) * 100.0],
        ),
        Row::new(format!("{what}: CPU"), "% of a core", vec![cpu / seconds * 100.0]),
        Row::new(format!("{what}: memory at the end to after a minute"), "", vec![grown / memory])
            .within(GROWTH),
        Row::new(format!("{what}: held of programs that have ended"), "", vec![left]).within(1.0),
    ])
}

/// A figure of the node in the latest picture.
fn number(latest: &Mutex<Value>, name: &str) -> Result<f64> {
    let picture = latest.lock().unwrap_or_else(PoisonError::into_inner);
    let number = picture.pointer(&format!("/node/{name}")).and_then(Value::as_f64);
    number.with_context(|| format!("the picture has no {name}"))
}

/// Processes that have ended and that the agent still holds on to: a pidfd of such a process says `Pid: -1`
/// (`fs/pidfs.c`). Other programs of this machine may have ended a moment ago, so the caller allows for one.
fn dead(pid: u32) -> Result<usize> {
    let mut dead = 0;
    for entry in fs::read_dir(format!("/proc/{pid}/fdinfo"))? {
        // A descriptor that was closed meanwhile is not held any more.
        let info = fs::read_to_string(entry?.path()).unwrap_or_default();
        dead += usize::from(info.lines().any(|line| line.starts_with("Pid:") && line.ends_with("-1")));
    }
    Ok(dead)
}

/// The names of all series of `/metrics`, with their labels.
fn series(address: &str) -> Result<BTreeSet<String>> {
    let mut stream = TcpStream::connect(address)?;
    write!(stream, "GET /metrics HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\n\r\n")?;
    let mut text = String::new();
    stream.read_to_string(&mut text)?;
    ensure!(text.starts_with("HTTP/1.1 200"), "no metrics: {}", text.lines().next().unwrap_or_default());
    let names = text.lines().filter(|line| !line.starts_with('#')).filter_map(|line| line.rsplit_once(' '));
    Ok(names.map(|(series, _)| series.to_owned()).collect())
}
