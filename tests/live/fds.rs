//! `sfgi fds`, held against what the program and the kernel say.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    os::unix::fs::FileExt as _,
    time::{Duration, Instant},
};

use crate::harness::{Test, live};
use anyhow::{Context as _, Result, ensure};
use live_tests::{
    fixture::{self, Variant},
    leaks::{self, Verdict},
    process::Process,
    sfgi,
    toolchain::Go,
};
use rustix::process::Signal;
use serde_json::Value;

pub(crate) fn tests() -> Vec<Test> {
    vec![
        live(each_descriptor_is_what_the_program_says),
        live(what_is_right_is_not_told_of),
        live(descriptors_that_come_and_go_are_read),
        live(many_descriptors_take_a_bounded_time),
        live(a_poller_that_lies_is_not_believed),
        live(leaks_says_what_is_wrong_and_nothing_else),
        live(ever_more_descriptors_are_told_of),
    ]
}

/// One for each form of what epoll was given and of `pollDesc`, and both before 1.21.
const RELEASES: [u32; 5] = [19, 21, 24, 26, 27];

fn for_each_release(check: impl Fn(&Go, Variant) -> Result<()>) -> Result<()> {
    for go in Go::all().iter().filter(|go| RELEASES.contains(&go.minor)) {
        for variant in [Variant::Plain, Variant::PieStripped] {
            check(go, variant).with_context(|| format!("go{} {variant}", go.version))?;
        }
    }
    Ok(())
}

/// The facts of the fixture, by descriptor.
fn facts(target: &Process) -> Result<BTreeMap<u64, Value>> {
    let lines = target.stdout.lines();
    let facts = lines.iter().filter_map(|line| line.text.strip_prefix("fd "));
    facts
        .map(|fact| {
            let fact: Value = serde_json::from_str(fact)?;
            Ok((number(&fact, "fd"), fact))
        })
        .collect()
}

fn text<'v>(value: &'v Value, key: &str) -> &'v str {
    value.get(key).and_then(Value::as_str).unwrap_or_default()
}

fn number(value: &Value, key: &str) -> u64 {
    value.get(key).and_then(Value::as_u64).unwrap_or_default()
}

fn is(value: &Value, key: &str) -> bool {
    value.get(key).and_then(Value::as_bool) == Some(true)
}

/// What `sfgi fds` says, and its rows by descriptor.
fn fds(target: &Process, more: &[&str]) -> Result<(Value, BTreeMap<u64, Value>)> {
    let pid = target.pid().to_string();
    let arguments = [&["fds", "-p", &pid, "--format", "json"], more].concat();
    let output = sfgi::command(&arguments)?.output()?;
    ensure!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let document: Value = serde_json::from_slice(&output.stdout)?;
    ensure!(text(&document, "schema") == "sfgi.fds/1", "{document}");
    let list = document.get("list").and_then(Value::as_array).context("no list")?;
    let rows: BTreeMap<u64, Value> = list.iter().map(|row| (number(row, "fd"), row.clone())).collect();
    ensure!(rows.len() == list.len(), "a descriptor is there twice");
    ensure!(number(&document, "descriptors") == rows.len() as u64, "{document}");
    Ok((document, rows))
}

/// The descriptors of a process as the kernel lists them: the links.
fn kernel(target: &Process) -> Result<BTreeMap<u64, String>> {
    let mut links = BTreeMap::new();
    for entry in fs::read_dir(format!("/proc/{}/fd", target.pid()))? {
        let path = entry?.path();
        let number = path.file_name().and_then(|name| name.to_str()).context("a name")?.parse()?;
        links.insert(number, fs::read_link(path)?.to_string_lossy().into_owned());
    }
    Ok(links)
}

/// The state of each TCP socket as the kernel numbers it, by inode.
fn states(target: &Process) -> Result<BTreeMap<u64, u8>> {
    let table = fs::read_to_string(format!("/proc/{}/net/tcp", target.pid()))?;
    let state = |line: &str| {
        let fields: Vec<&str> = line.split_whitespace().collect();
        Some((fields.get(9)?.parse().ok()?, u8::from_str_radix(fields.get(3)?, 16).ok()?))
    };
    Ok(table.lines().skip(1).filter_map(state).collect())
}

fn with(rows: &BTreeMap<u64, Value>, key: &str) -> BTreeSet<u64> {
    rows.iter().filter(|(_, row)| is(row, key)).map(|(fd, _)| *fd).collect()
}

/// By descriptor, the goroutine that waits to read.
fn readers(rows: &BTreeMap<u64, Value>) -> BTreeMap<u64, u64> {
    let reader = |(fd, row): (&u64, &Value)| {
        let goid = row.get("reader").map(|reader| reader.as_u64().unwrap_or_else(|| number(reader, "goid")));
        goid.map(|goid| (*fd, goid))
    };
    rows.iter().filter_map(reader).collect()
}

fn agrees_with_the_kernel(target: &Process, rows: &BTreeMap<u64, Value>) -> Result<()> {
    let links = kernel(target)?;
    ensure!(links.keys().eq(rows.keys()), "{links:?}, not {:?}", rows.keys());
    let states = states(target)?;
    for (fd, link) in &links {
        let row = rows.get(fd).context("a row")?;
        let kind = match link {
            link if link.starts_with("socket:") => ["tcp", "unix"].as_slice(),
            link if link.starts_with("pipe:") => &["pipe"],
            link if link.starts_with("/dev/") => &["device"],
            link if link.starts_with('/') => &["file"],
            link if link.contains("[eventpoll]") => &["eventpoll"],
            link if link.contains("[eventfd]") => &["eventfd"],
            // Since Go 1.23 a child has one.
            link if link.contains("pidfd") => &["pidfd"],
            _ => &["other"],
        };
        ensure!(kind.contains(&text(row, "kind")), "{fd} is {link}, not {row}");
        if text(row, "kind") == "tcp" {
            let words = ["", "ESTABLISHED", "", "", "", "", "", "", "CLOSE_WAIT", "", "LISTEN"];
            let state = states.get(&number(row, "inode")).context("a state")?;
            ensure!(words.get(usize::from(*state)) == Some(&text(row, "state")), "{state}: {row}");
        }
    }
    Ok(())
}

fn each_descriptor_is_what_the_program_says() -> Result<()> {
    for_each_release(|go, variant| {
        let target = fixture::start("descriptors", go, variant, &[])?;
        let facts = facts(&target)?;
        ensure!(facts.len() > 20, "{facts:?}");
        for more in [&["--freeze"][..], &[]] {
            let (document, rows) = fds(&target, more)?;
            agrees_with_the_kernel(&target, &rows)?;
            for (fd, fact) in &facts {
                let row = rows.get(fd).with_context(|| format!("{fact} is missing"))?;
                let owner = if is(fact, "raw") { "not_go" } else { "go" };
                ensure!(text(row, "owner") == owner, "{row}, not {fact}");
                for key in ["kind", "state", "local", "peer"] {
                    ensure!(text(row, key) == text(fact, key), "{key} of {row}, not of {fact}");
                }
                if text(fact, "kind") != "pipe" {
                    ensure!(text(row, "path") == text(fact, "path"), "{row}, not {fact}");
                }
                let object = row.get("object").unwrap_or(&Value::Null);
                // Who reads needs what the object has, and no more the object itself; and of a variable without a symbol nobody
                // knows what it points to.
                let may_be_bare = fact.get("reader").is_some() || variant != Variant::Plain;
                let has_gone = may_be_bare && ["net.netFD", "os.file"].contains(&text(object, "type"));
                if !text(fact, "object").is_empty() && !has_gone {
                    ensure!(text(object, "address") == text(fact, "object"), "{row}, not {fact}");
                    ensure!(text(object, "type") == text(fact, "type"), "{row}, not {fact}");
                    ensure!(!text(row, "kept_by").is_empty(), "nothing keeps {row}");
                }
                let held =
                    row.get("held_by").and_then(Value::as_array).map(Vec::as_slice).unwrap_or_default();
                let held = held.iter().any(|holder| text(holder, "type") == text(fact, "holder"));
                let told = held || text(fact, "holder").is_empty() || variant != Variant::Plain;
                ensure!(told, "{row}, not {fact}");
                ensure!(row.get("read_deadline").is_some() == is(fact, "deadline"), "{row}, not {fact}");
            }
            ensure!(readers(&rows) == readers(&facts), "{:?}, not {:?}", readers(&rows), readers(&facts));
            let at = |row: &Value| {
                let site = row.get("reader")?.get("at")?;
                Some(text(site, "func").to_owned())
            };
            let places: BTreeSet<String> = rows.values().filter_map(at).collect();
            ensure!(places.iter().eq(["main.pipes.func1", "main.read"]), "{places:?}");
            let dropped = with(&facts, "dropped");
            ensure!(
                with(&rows, "unreachable") == dropped,
                "{:?}, not {dropped:?}",
                with(&rows, "unreachable")
            );
            ensure!(number(&document, "unreachable") == dropped.len() as u64, "{document}");
            let closed = with(&facts, "peer_closed");
            ensure!(with(&rows, "peer_closed") == closed, "{:?}, not {closed:?}", with(&rows, "peer_closed"));
            let runtime: Vec<&str> = (rows.values())
                .filter(|row| text(row, "owner") == "runtime")
                .map(|row| text(row, "kind"))
                .collect();
            let expected = match go.minor {
                ..21 => vec!["eventpoll", "pipe", "pipe"],
                21..23 if runtime.contains(&"pipe") => vec!["eventpoll", "pipe", "pipe"],
                _ => vec!["eventpoll", "eventfd"],
            };
            ensure!(runtime == expected, "{runtime:?}");
        }
        let (_, rows) = fds(&target, &["--quick"])?;
        agrees_with_the_kernel(&target, &rows)?;
        ensure!(readers(&rows) == readers(&facts), "{:?}, not {:?}", readers(&rows), readers(&facts));
        ensure!(with(&rows, "peer_closed") == with(&facts, "peer_closed"));
        Ok(())
    })
}

fn what_is_right_is_not_told_of() -> Result<()> {
    for_each_release(|go, variant| {
        for mode in ["served", "closed"] {
            let target = fixture::start("descriptors", go, variant, &["-mode", mode, "-n", "20"])?;
            let (document, rows) = fds(&target, &[])?;
            agrees_with_the_kernel(&target, &rows)?;
            ensure!(number(&document, "peer_closed") == 0, "{mode}: {document}");
            ensure!(document.get("unreachable").and_then(Value::as_u64) == Some(0), "{mode}: {document}");
        }
        let mut target = fixture::start("descriptors", go, variant, &["-mode", "left", "-n", "7"])?;
        ensure!(number(&fds(&target, &[])?.0, "peer_closed") == 7);
        target.command("close", Duration::from_secs(20))?;
        ensure!(number(&fds(&target, &[])?.0, "peer_closed") == 0);
        Ok(())
    })
}

/// The text, with its summary.
fn shown(target: &Process, more: &[&str]) -> Result<String> {
    let pid = target.pid().to_string();
    let output = sfgi::command(&[&["fds", "-p", &pid], more].concat())?.output()?;
    ensure!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    Ok(String::from_utf8(output.stdout)?)
}

fn descriptors_that_come_and_go_are_read() -> Result<()> {
    let mut target = fixture::start("tcpecho", &Go::newest(), Variant::Plain, &["-d", "60s"])?;
    target.say()?;
    for _ in 0..10 {
        let (document, rows) = fds(&target, &[])?;
        ensure!(rows.len() > 3, "{document}");
        // It closes what it opens, and hands it on meanwhile.
        ensure!(document.get("unreachable").and_then(Value::as_u64) == Some(0), "{document}");
    }
    Ok(())
}

/// How many files the program opens, and how long sfgi may take on the slowest machine.
const MANY: u64 = 15_000;
const LONG: Duration = Duration::from_secs(60);

fn many_descriptors_take_a_bounded_time() -> Result<()> {
    let many = MANY.to_string();
    let target =
        fixture::start("descriptors", &Go::newest(), Variant::Plain, &["-mode", "many", "-n", &many])?;
    let began = Instant::now();
    let (document, rows) = fds(&target, &[])?;
    ensure!(began.elapsed() < LONG, "{:?}", began.elapsed());
    ensure!(rows.len() as u64 >= MANY, "{} descriptors", rows.len());
    ensure!(number(&document, "unreachable") == 0, "some are unreachable");
    let text = shown(&target, &["--limit", "3"])?;
    let left = rows.len() - 3;
    let grouped = format!("… and {},{:03} more (--all, --limit)", left / 1000, left % 1000);
    ensure!(text.contains(&grouped), "no {grouped}: {text}");
    ensure!(text.lines().next().is_some_and(|line| line.contains(" file")), "{text}");
    Ok(())
}

/// Offsets in `poll.FD` of Go 1.27, and in `pollDesc`: `rg`, `wg`, `rd` and `wd`.
const SYSFD: u64 = 16;
const POLL: u64 = 32;
const WAITERS: [u64; 2] = [32, 40];
const DEADLINES: [u64; 2] = [168, 280];

fn a_poller_that_lies_is_not_believed() -> Result<()> {
    let go = Go::all().into_iter().find(|go| go.minor == 27).context("Go 1.27")?;
    let target = fixture::start("descriptors", &go, Variant::Plain, &["-mode", "left", "-n", "5"])?;
    let memory = fs::OpenOptions::new().read(true).write(true).open(format!("/proc/{}/mem", target.pid()))?;
    let word = |addr: u64| -> Result<u64> {
        let mut word = [0; 8];
        memory.read_exact_at(&mut word, addr)?;
        Ok(u64::from_le_bytes(word))
    };
    let put = |addr: u64, word: u64| memory.write_all_at(&word.to_le_bytes(), addr);
    target.signal(Signal::STOP)?;
    let mut files = Vec::new();
    for fact in facts(&target)?.values() {
        let conn = text(fact, "object").strip_prefix("0x").context("an address")?;
        files.push((number(fact, "fd"), word(u64::from_str_radix(conn, 16)?)?));
    }
    let [first, second, third, fourth, fifth] = files[..] else { anyhow::bail!("{files:?}") };
    // It has the number of another one, or none at all.
    put(first.1 + SYSFD, second.0)?;
    put(third.1 + SYSFD, u64::MAX)?;
    // Who waits lies nowhere, and the times are none.
    let poll = word(fourth.1 + POLL)?;
    for (at, lie) in WAITERS.into_iter().zip([u64::MAX, 0x1234_5678]) {
        put(poll + at, lie)?;
    }
    for (at, lie) in DEADLINES.into_iter().zip([1 << 63, u64::MAX >> 1]) {
        put(poll + at, lie)?;
    }
    // The record lies nowhere.
    put(fifth.1 + POLL, 0xdead_beef_0000)?;
    for more in [&[][..], &["--quick"]] {
        let (_, rows) = fds(&target, more)?;
        agrees_with_the_kernel(&target, &rows)?;
        let row = |fd: u64| rows.get(&fd).context("a row");
        ensure!(row(first.0)?.get("object").is_none(), "{}", row(first.0)?);
        ensure!(row(third.0)?.get("object").is_none(), "{}", row(third.0)?);
        ensure!(readers(&rows) == BTreeMap::from([(fourth.0, 0)]), "{:?}", readers(&rows));
        ensure!(!is(row(fourth.0)?, "peer_closed"), "{}", row(fourth.0)?);
        ensure!(is(row(second.0)?, "peer_closed"), "{}", row(second.0)?);
        ensure!(is(row(fifth.0)?, "peer_closed"), "{}", row(fifth.0)?);
    }
    let text = shown(&target, &["--all"])?;
    ensure!(text.contains("a goroutine reads, deadline passed"), "{text}");
    target.signal(Signal::CONT)
}

/// What `sfgi leaks` says of descriptors: class, verdict, how many.
fn told(report: &leaks::Report) -> Vec<(String, Verdict, u64)> {
    let of_fds = |class: &str| class.starts_with("fd-") || class == "conn-peer-closed";
    let groups = report.groups.iter().filter(|group| of_fds(&group.class));
    groups.map(|group| (group.class.clone(), group.verdict, group.count)).collect()
}

fn leaks_says_what_is_wrong_and_nothing_else() -> Result<()> {
    // Each search takes its second.
    for go in Go::all().iter().filter(|go| [21, 27].contains(&go.minor)) {
        let variant = if go.minor == 21 { Variant::Plain } else { Variant::PieStripped };
        let start = |args: &[&str]| fixture::start("descriptors", go, variant, args);
        let told = |target: &Process, more: &[&str]| -> Result<_> {
            let args = [&["--observe", "1100ms"], more].concat();
            Ok(told(&leaks::json(target.pid(), &args)?))
        };
        let is = |class: &str, verdict, count| vec![(class.to_owned(), verdict, count)];
        let whole = || -> Result<()> {
            let mut target = start(&["-mode", "left", "-n", "7"])?;
            let found = told(&target, &[])?;
            ensure!(found == is("conn-peer-closed", Verdict::Suspect, 7), "left: {found:?}");
            let found = told(&target, &["--min-age", "1s"])?;
            ensure!(found == is("conn-peer-closed", Verdict::Likely, 7), "left: {found:?}");
            target.command("close", SOON)?;
            let found = told(&target, &["--min-age", "1s"])?;
            ensure!(found.is_empty(), "left and closed: {found:?}");
            let mut target = start(&["-mode", "dropped", "-n", "6"])?;
            let found = told(&target, &[])?;
            ensure!(found == is("fd-unreachable", Verdict::Proven, 6), "dropped: {found:?}");
            // Finalizers run.
            target.command("gc", SOON)?;
            target.command("gc", SOON)?;
            let found = told(&target, &[])?;
            ensure!(found.is_empty(), "collected: {found:?}");
            for (limit, near) in [("50", true), ("100", false)] {
                let target = start(&["-mode", "many", "-n", "42", "-limit", limit])?;
                let found = told(&target, &[])?;
                let is_near =
                    matches!(&found[..], [(class, Verdict::Likely, 45..)] if class == "fd-near-limit");
                ensure!(is_near == near && (near || found.is_empty()), "limit {limit}: {found:?}");
            }
            for mode in ["served", "closed"] {
                let found = told(&start(&["-mode", mode, "-n", "9"])?, &["--min-age", "1s"])?;
                ensure!(found.is_empty(), "{mode}: {found:?}");
            }
            Ok(())
        };
        whole().with_context(|| format!("go{} {variant}", go.version))?;
    }
    Ok(())
}

/// How long a command to the fixture may take, and reports in which growth must be told of.
const SOON: Duration = Duration::from_secs(60);
const REPORTS: usize = 20;

fn ever_more_descriptors_are_told_of() -> Result<()> {
    for mode in ["growing", "turning"] {
        let target = fixture::start("descriptors", &Go::newest(), Variant::Plain, &["-mode", mode])?;
        let args = ["--watch=200ms", "--observe", "150ms", "--format", "json"];
        let mut sfgi = Process::spawn(&mut leaks::command(target.pid(), &args)?)?;
        let reports = leaks::watched(&mut sfgi, REPORTS, SOON)?;
        let found: Vec<_> = reports.iter().flat_map(told).collect();
        if mode == "turning" {
            ensure!(found.is_empty(), "{found:?}");
            continue;
        }
        let (class, verdict, count) = found.last().context("nothing")?;
        ensure!(class == "fd-growth" && *verdict == Verdict::Suspect && *count > 20, "{found:?}");
    }
    Ok(())
}
