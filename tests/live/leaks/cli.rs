//! The command `sfgi leaks`: its formats, its exit codes, what is accepted and ignored, watching, and what
//! it leaves of a target that it stopped.

use std::{
    collections::BTreeSet,
    fs,
    path::Path,
    process::{Command, Output},
    thread,
    time::{Duration, Instant},
};

use crate::harness::{Test, live};
use anyhow::{Context, Result, ensure};
use live_tests::{
    fixture::{self, Variant},
    leaks::{self, Verdict},
    machine,
    process::Process,
    sfgi::fails,
    toolchain::Go,
};
use rustix::process::Signal;
use serde_json::Value;

pub(crate) fn tests() -> Vec<Test> {
    vec![
        live(wrong_usage),
        live(fail_means_exit_code_three).quick(),
        live(text_says_what_why_and_what_to_do),
        live(those_that_wait_for_each_other_are_a_set),
        live(what_a_leak_pins),
        live(known_leaks_are_accepted),
        live(what_is_ignored),
        live(sarif).quick(),
        live(pprof_opens_it),
        live(watching_says_what_is_new),
        live(freezing_tells_its_time_and_releases),
        live(the_target_goes_on_when_sfgi_is_killed),
        live(nothing_stops_or_traces_without_freeze),
        live(the_target_ends_meanwhile),
    ]
}

const SHORT: [&str; 2] = ["--observe", "300ms"];

/// Longer than anything here takes.
const LONGEST: Duration = Duration::from_secs(120);

fn leaking(way: &str) -> Result<Process> {
    fixture::start("leaks", &Go::newest(), Variant::Plain, &["-class", way])
}

fn healthy(way: &str) -> Result<Process> {
    fixture::start("leaks", &Go::newest(), Variant::Plain, &["-class", way, "-fixed"])
}

fn with<'a>(more: &[&'a str]) -> Vec<&'a str> {
    [&SHORT[..], more].concat()
}

/// It ends with this code, and says no more on stderr than it should.
fn ends(pid: u32, args: &[&str], code: i32) -> Result<Output> {
    let output = leaks::run(pid, &with(args))?;
    let stderr = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.code() == Some(code), "{args:?}: {}, expected {code}:\n{stderr}", output.status);
    ensure!(!stderr.contains("panicked"), "{stderr}");
    Ok(output)
}

fn stdout(output: &Output) -> String {
    String::from_utf8_lossy(&output.stdout).into_owned()
}

fn wrong_usage() -> Result<()> {
    let target = healthy("select-dead")?;
    let wrong: [(&[&str], i32, &str); 8] = [
        (&["--format", "xml"], 2, "xml"),
        (&["--min-verdict", "certain"], 2, "certain"),
        (&["--min-age", "old"], 2, "old"),
        (&["--ignore-func", "("], 2, "("),
        (&["--observe", "soon"], 2, "soon"),
        (&["--baseline", "/no/such/baseline"], 1, "/no/such/baseline"),
        (&["--rules", "/no/such/rules"], 1, "/no/such/rules"),
        (&["-o", "/no/such/directory/report"], 1, "/no/such/directory/report"),
    ];
    for (args, code, word) in wrong {
        fails(&mut leaks::command(target.pid(), args)?, code, &[word])?;
    }
    fails(&mut leaks::command(4_194_303, &[])?, 1, &["4194303", "no process"])?;
    let sleep = Process::spawn(Command::new("sleep").arg("60"))?;
    fails(&mut leaks::command(sleep.pid(), &[])?, 1, &["not a Go program"])
}

fn fail_means_exit_code_three() -> Result<()> {
    let (leaking, right) = (leaking("select-dead")?, healthy("select-dead")?);
    ends(leaking.pid(), &[], 0)?;
    ends(leaking.pid(), &["--fail"], 3)?;
    ends(leaking.pid(), &["--fail", "--min-verdict", "proven"], 3)?;
    let output = ends(right.pid(), &["--fail"], 0)?;
    let text = stdout(&output);
    ensure!(text.to_lowercase().contains("nothing found"), "it does not say that there is nothing:\n{text}");
    // Nothing is proven without the heap.
    ends(leaking.pid(), &["--fail", "--min-verdict", "proven", "--no-heap"], 0)?;
    Ok(())
}

fn text_says_what_why_and_what_to_do() -> Result<()> {
    for (way, words) in [
        (
            "send-without-receiver",
            &["10", "proven", "send-without-receiver", "main.askReplica", "chan send"][..],
        ),
        ("lock-order-cycle", &["10", "proven", "lock-order-cycle", "main.transfer", "sync.Mutex.Lock"]),
        ("context-never-cancelled", &["5", "proven", "context-never-cancelled", "main.watchConfig"]),
    ] {
        let target = leaking(way)?;
        let text = leaks::text(target.pid(), &SHORT)?;
        for word in words {
            ensure!(text.contains(word), "{way}: {word:?} is not in\n{text}");
        }
        ensure!(!text.contains('\x1b'), "colour, and no terminal");
        let report = leaks::json(target.pid(), &SHORT)?;
        for group in &report.groups {
            ensure!(text.contains(&group.fix), "{way}: no fix {:?} in\n{text}", group.fix);
        }
    }
    Ok(())
}

fn those_that_wait_for_each_other_are_a_set() -> Result<()> {
    for way in ["lock-order-cycle", "lock-channel-mixed"] {
        let target = leaking(way)?;
        let report = leaks::json(target.pid(), &SHORT)?;
        ensure!(report.sets.len() == 5, "{way}: {:?}", report.sets);
        for set in &report.sets {
            let (members, cycle): (BTreeSet<_>, BTreeSet<_>) =
                (set.members.iter().collect(), set.cycle.iter().collect());
            ensure!(members.len() == 2 && cycle == members, "{way}: {set:?}");
        }
        let sets: BTreeSet<_> = report.leaks.iter().filter_map(|leak| leak.set).collect();
        ensure!(sets.len() == 5, "{way}: leaks name the sets {sets:?}");
    }
    Ok(())
}

fn what_a_leak_pins() -> Result<()> {
    let target =
        fixture::start("leaks", &Go::newest(), Variant::Plain, &["-class", "select-dead", "-rounds", "200"])?;
    let report = leaks::json(target.pid(), &SHORT)?;
    // A watcher and two channels each: 32 + 2 × 96 bytes or a little more.
    let pinned: u64 = report.groups.iter().filter_map(|group| group.pinned_bytes).sum();
    ensure!((200 * 224..200 * 600).contains(&pinned), "{pinned} bytes");
    Ok(())
}

fn known_leaks_are_accepted() -> Result<()> {
    let dir = tempfile::tempdir()?;
    let file = dir.path().join("baseline");
    let file = file.to_str().context("its name is UTF-8")?;
    let first = leaking("select-dead")?;
    ends(first.pid(), &["--fail", "--write-baseline", file], 0)
        .or_else(|_| ends(first.pid(), &["--write-baseline", file], 0))?;
    ends(first.pid(), &["--fail", "--baseline", file], 0)?;
    // Other goroutines of another build, at other addresses.
    let before = Go::all().into_iter().rev().nth(1).context("there is only one release")?;
    let again = fixture::start("leaks", &before, Variant::Plain, &["-class", "select-dead", "-rounds", "8"])?;
    ends(again.pid(), &["--fail", "--baseline", file], 0)?;
    let other = leaking("range-never-closed")?;
    ends(other.pid(), &["--fail", "--baseline", file], 3)?;
    Ok(())
}

fn what_is_ignored() -> Result<()> {
    let target = leaking("select-dead")?;
    ends(target.pid(), &["--fail", "--ignore-func", r"^main\.\(\*watcher\)\.watch$"], 0)?;
    ends(target.pid(), &["--fail", "--ignore-created-by", r"newWatcher"], 0)?;
    ends(target.pid(), &["--fail", "--ignore-func", "nobody"], 3)?;
    ends(target.pid(), &["--fail", "--ignore-created-by", "nobody"], 3)?;
    Ok(())
}

fn sarif() -> Result<()> {
    let target = leaking("lock-channel-mixed")?;
    let document: Value = serde_json::from_str(&leaks::text(target.pid(), &with(&["--format", "sarif"]))?)?;
    ensure!(document["version"] == "2.1.0", "{}", document["version"]);
    let run = &document["runs"][0];
    ensure!(run["tool"]["driver"]["name"] == "sfgi", "{}", run["tool"]);
    let rules = run["tool"]["driver"]["rules"].as_array().context("no rules")?;
    let results = run["results"].as_array().context("no results")?;
    let report = leaks::json(target.pid(), &SHORT)?;
    ensure!(!results.is_empty() && results.len() == report.groups.len(), "{} results", results.len());
    for result in results {
        let rule = rules.iter().find(|rule| rule["id"] == result["ruleId"]).context("no such rule")?;
        ensure!(rule["shortDescription"]["text"].is_string(), "{rule}");
        ensure!(result["message"]["text"].is_string(), "{result}");
        ensure!(["error", "warning", "note"].iter().any(|level| result["level"] == *level), "{result}");
        let prints = result["partialFingerprints"].as_object().context("no fingerprint")?;
        let known = |print: &Value| report.groups.iter().any(|group| print == group.id.as_str());
        ensure!(prints.values().any(known), "{prints:?} is no group");
        let place = &result["locations"][0]["physicalLocation"];
        let file = place["artifactLocation"]["uri"].as_str().context("no file")?;
        let line = usize::try_from(place["region"]["startLine"].as_u64().context("no line")?)?;
        let source = fs::read_to_string(file.trim_start_matches("file://"))?;
        ensure!(line > 0 && line <= source.lines().count(), "{file} has no line {line}");
    }
    Ok(())
}

fn pprof_opens_it() -> Result<()> {
    let go = Go::newest();
    let target = leaking("send-without-receiver")?;
    let dir = tempfile::tempdir()?;
    let file = dir.path().join("leaks.pb.gz");
    let name = file.to_str().context("its name is UTF-8")?;
    ends(target.pid(), &["--format", "pprof", "-o", name], 0)?;
    let shown = |how: &str| -> Result<String> {
        let output = go.command().args(["tool", "pprof", how, name]).output()?;
        let stderr = String::from_utf8_lossy(&output.stderr);
        ensure!(output.status.success(), "pprof {how}: {stderr}");
        Ok(stdout(&output))
    };
    let raw = shown("-raw")?;
    ensure!(raw.contains("PeriodType: goroutine") || raw.contains("goroutine/count"), "{raw}");
    let samples: Vec<_> = raw.lines().filter(|line| line.trim_start().starts_with("10: ")).collect();
    ensure!(samples.len() == 1, "not one sample of ten goroutines:\n{raw}");
    let top = shown("-top")?;
    let line = top.lines().find(|line| line.contains("main.askReplica")).with_context(|| top.clone())?;
    ensure!(line.split_whitespace().any(|word| word == "10"), "{line}");
    Ok(())
}

fn watching_says_what_is_new() -> Result<()> {
    let target = leaking("sdk-resident")?;
    let mut command =
        leaks::command(target.pid(), &with(&["--watch=500ms", "--format", "json", "--min-age", "100ms"]))?;
    let mut sfgi = Process::spawn(&mut command)?;
    let reports = leaks::watched(&mut sfgi, 5, LONGEST)?;
    let counts: Vec<_> = reports.iter().map(|report| report.leaks.len()).collect();
    let grown = counts.first() < counts.last();
    ensure!(grown, "twenty a second more, and {counts:?}");
    let last = reports.last().context("there are some")?;
    ensure!(last.groups.iter().any(|group| group.growth_per_s > Some(1.0)), "{:?}", last.groups);
    Ok(())
}

/// Threads of a process that stand still for a tracer or a signal, and its tracer.
fn held(pid: u32) -> Result<Option<String>> {
    for task in fs::read_dir(format!("/proc/{pid}/task"))? {
        // A thread may end meanwhile.
        let Ok(status) = fs::read_to_string(task?.path().join("status")) else { continue };
        let of =
            |key: &str| status.lines().find_map(|line| line.strip_prefix(key)).unwrap_or_default().trim();
        let (state, tracer) = (of("State:"), of("TracerPid:"));
        if state.starts_with(['t', 'T']) || tracer != "0" {
            return Ok(Some(format!("state {state}, tracer {tracer}")));
        }
    }
    Ok(frozen(pid).then(|| "frozen by its cgroup".to_owned()))
}

/// Whether its cgroup is frozen.
fn frozen(pid: u32) -> bool {
    let cgroup = fs::read_to_string(format!("/proc/{pid}/cgroup")).unwrap_or_default();
    let path = cgroup.lines().find_map(|line| line.strip_prefix("0::")).unwrap_or_default();
    let events = Path::new("/sys/fs/cgroup").join(path.trim_start_matches('/')).join("cgroup.events");
    fs::read_to_string(events).is_ok_and(|events| events.lines().any(|line| line == "frozen 1"))
}

/// It stands free and does what it is told.
fn is_free(target: &mut Process) -> Result<()> {
    let deadline = Instant::now() + LONGEST;
    while let Some(how) = held(target.pid())? {
        ensure!(Instant::now() < deadline, "still held: {how}");
        thread::sleep(Duration::from_millis(5));
    }
    target.command("stacks", LONGEST).map(drop)
}

fn freezing_tells_its_time_and_releases() -> Result<()> {
    let mut target = fixture::start("healthy", &Go::newest(), Variant::Plain, &["-kind", "all"])?;
    for _ in 0..5 {
        let started = Instant::now();
        let report = leaks::json(target.pid(), &["--freeze"])?;
        let (frozen, all) =
            (report.frozen_ms.context("it was not stopped")?, started.elapsed().as_secs_f64() * 1e3);
        ensure!(frozen > 0.0 && frozen < all, "stopped for {frozen} ms of {all} ms");
        ensure!(report.proven().is_empty(), "{:?}", report.lines(Verdict::Proven));
        is_free(&mut target)?;
    }
    let output = leaks::run(target.pid(), &["--freeze"])?;
    let said = stdout(&output) + &String::from_utf8_lossy(&output.stderr);
    ensure!(said.contains("stood still for"), "it does not say so:\n{said}");
    let leaking = leaking("cond-never-signalled")?;
    let report = leaks::json(leaking.pid(), &["--freeze"])?;
    ensure!(report.proven().len() == 5, "{:?}", report.lines(Verdict::Suspect));
    // Without being told to, it stops nothing.
    ensure!(leaks::json(leaking.pid(), &SHORT)?.frozen_ms.is_none(), "stopped without --freeze");
    Ok(())
}

/// Deaths of sfgi, at another moment each.
const DEATHS: u32 = 24;

fn the_target_goes_on_when_sfgi_is_killed() -> Result<()> {
    let mut target = fixture::start("healthy", &Go::newest(), Variant::Plain, &["-kind", "all"])?;
    let pid = target.pid();
    let (mut stopped, started) = (0, Instant::now());
    leaks::json(pid, &with(&["--freeze"]))?;
    let usual = started.elapsed();
    for death in 0..DEATHS {
        let mut sfgi = Process::spawn(&mut leaks::command(pid, &with(&["--freeze"]))?)?;
        if death % 2 == 0 {
            thread::sleep(usual * death / DEATHS);
        } else {
            // As soon as it is seen to stand.
            let deadline = Instant::now() + usual * 2;
            while Instant::now() < deadline {
                if held(pid)?.is_some() {
                    stopped += 1;
                    break;
                }
            }
        }
        ensure!(stopped > 0 || death < 6, "never seen to be stopped: this says nothing");
        sfgi.signal(Signal::KILL)?;
        sfgi.wait(LONGEST)?;
        is_free(&mut target).with_context(|| format!("after death {death}"))?;
    }
    machine::report(&format!("sfgi killed {DEATHS} times, {stopped} times while the target was stopped"));
    Ok(())
}

fn nothing_stops_or_traces_without_freeze() -> Result<()> {
    let target = fixture::start("healthy", &Go::newest(), Variant::Plain, &["-kind", "list"])?;
    let pid = target.pid();
    thread::scope(|scope| {
        let scan = scope.spawn(move || leaks::json(pid, &[]));
        let mut looks = 0;
        while !scan.is_finished() {
            if let Some(how) = held(pid)? {
                anyhow::bail!("{how}");
            }
            looks += 1;
        }
        ensure!(looks > 10, "{looks} looks");
        scan.join().expect("no panic").map(drop)
    })
}

fn the_target_ends_meanwhile() -> Result<()> {
    let args = with(&["--format", "json"]);
    let (mut complete, mut failed) = (0, 0);
    for death in 0..20_u64 {
        let mut target = fixture::start("healthy", &Go::newest(), Variant::Plain, &["-kind", "all"])?;
        let mut sfgi = Process::spawn(&mut leaks::command(target.pid(), &args)?)?;
        thread::sleep(Duration::from_millis(100 * death));
        target.signal(Signal::KILL)?;
        target.wait(LONGEST)?;
        let status = sfgi.wait(LONGEST)?;
        let stderr = sfgi.stderr.text();
        ensure!(!stderr.contains("panicked"), "{stderr}");
        if status.success() {
            let report = leaks::document(&sfgi.stdout.text())?;
            ensure!(report.proven().is_empty(), "of a dead one: {:?}", report.lines(Verdict::Proven));
            complete += 1;
        } else {
            ensure!(status.code() == Some(1), "{status}: {stderr}");
            ensure!(!stderr.trim().is_empty(), "it fails and does not say why");
            failed += 1;
        }
    }
    machine::report(&format!("20 targets killed: {complete} reports, {failed} failed with a sentence"));
    Ok(())
}
