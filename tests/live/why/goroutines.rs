//! `sfgi why --goid`, `--finding`, and what is refused with a sentence.

use std::{collections::BTreeSet, time::Duration};

use crate::harness::{Test, live};
use anyhow::{Context, Result, ensure};
use live_tests::{
    dump,
    fixture::{self, Variant},
    leaks::{self, Verdict},
    process::Process,
    sfgi::fails,
    toolchain::Go,
    why::{self, Objects, Way, Why},
};

pub(crate) fn tests() -> Vec<Test> {
    vec![
        live(what_could_wake_a_goroutine),
        live(what_a_finding_waits_for),
        live(what_keeps_what_a_finding_waits_for),
        live(what_waits_for_a_variable),
        live(what_is_no_object_or_waits_for_none_is_said_so),
        live(wrong_usage),
    ]
}

const RELEASES: [u32; 2] = [19, 27];

const SHORT: [&str; 2] = ["--observe", "300ms"];

fn ways(why: &Why) -> impl Iterator<Item = &Way> {
    why.objects.iter().flat_map(|kept| &kept.ways)
}

/// The goroutine with this function on its stack.
fn goid(target: &Objects, function: &str) -> Result<u64> {
    goid_in(&target.process, function)
}

fn goid_in(process: &Process, function: &str) -> Result<u64> {
    let dump = dump::json(process.pid(), &[])?;
    let goroutine = dump.goroutines.iter().find(|goroutine| goroutine.has(function));
    Ok(goroutine.with_context(|| format!("no goroutine has {function}"))?.goid)
}

fn what_could_wake_a_goroutine() -> Result<()> {
    for go in Go::all().iter().filter(|go| RELEASES.contains(&go.minor)) {
        let target = Objects::start(go, Variant::Plain)?;
        of_a_variable(&target).with_context(|| format!("go{}, a variable", go.version))?;
        of_another(&target).with_context(|| format!("go{}, another goroutine", go.version))?;
    }
    Ok(())
}

/// Nobody closes `main.forever`, and those who wait for it do not count.
fn of_a_variable(target: &Objects) -> Result<()> {
    let waiting: BTreeSet<u64> = target.facts.iter().filter_map(|fact| fact.goid).collect();
    let goid = *waiting.first().context("nobody waits")?;
    let why = why::json(&["-p", &target.pid(), "--goid", &goid.to_string()])?;
    ensure!(why.goid == Some(goid) && why.objects.len() == 1, "{why:?}");
    ensure!(why.objects[0].object.of.as_deref() == Some("chan struct {}"), "{:?}", why.objects);
    let told: Vec<_> = ways(&why).map(|way| &way.way).collect();
    ensure!(told.iter().any(|way| *way == "main.forever"), "{told:?}");
    let waits = ways(&why).find(|way| way.root.goid.is_some_and(|goid| waiting.contains(&goid)));
    ensure!(waits.is_none(), "one of those who wait for it is to wake them: {waits:?}");
    Ok(())
}

/// `writeLoop` waits in a select for what `readLoop` has, too.
fn of_another(target: &Objects) -> Result<()> {
    let goid_of = |function: &str| goid(target, &format!("net/http.(*persistConn).{function}"));
    let (writes, reads) = (goid_of("writeLoop")?, goid_of("readLoop")?);
    let why = why::json(&["-p", &target.pid(), "--goid", &writes.to_string(), "--ways", "16"])?;
    ensure!(why.objects.len() == 2, "{} objects: {why:?}", why.objects.len());
    let told: Vec<_> = ways(&why).map(|way| &way.way).collect();
    for field in [".writech", ".closech"] {
        let by = |way: &Way| way.root.goid == Some(reads) && way.way.ends_with(&format!(" → {field}"));
        ensure!(ways(&why).any(by), "{reads} has no {field}: {told:?}");
    }
    ensure!(ways(&why).all(|way| way.root.goid != Some(writes)), "it is to wake itself: {told:?}");
    Ok(())
}

fn what_a_finding_waits_for() -> Result<()> {
    let target =
        fixture::start("leaks", &Go::newest(), Variant::Plain, &["-class", "send-without-receiver"])?;
    let report = leaks::json(target.pid(), &SHORT)?;
    let group = report.groups.first().context("nothing is found")?;
    ensure!(report.groups.len() == 1 && group.verdict == Verdict::Proven, "{:?}", report.groups);
    let pid = target.pid().to_string();
    let why = why::json(&["-p", &pid, "--finding", &group.id])?;
    let told: BTreeSet<&str> = why.objects.iter().map(|kept| kept.object.address.as_str()).collect();
    let awaited: BTreeSet<&str> = report.leaks.iter().filter_map(|leak| leak.object.as_deref()).collect();
    ensure!(!told.is_empty() && told == awaited, "{told:?} are told, {awaited:?} is waited for");
    for kept in &why.objects {
        ensure!(kept.object.of.as_deref().is_some_and(|of| of.starts_with("chan ")), "{kept:?}");
        // That is what `proven` means.
        ensure!(kept.unkept.contains("nothing but those that wait for it leads to it"), "{kept:?}");
    }
    fails(
        &mut why::command(&["-p", &pid, "--finding", "0123456789abcdef"])?,
        1,
        &["finds no group 0123456789abcdef"],
    )
}

/// A library has a table of all its clients, so their goroutines wait for what somebody could close.
fn what_keeps_what_a_finding_waits_for() -> Result<()> {
    let target = fixture::start("leaks", &Go::newest(), Variant::Plain, &["-class", "sdk-resident"])?;
    let report = leaks::json(target.pid(), &[])?;
    let group = report.groups.first().context("nothing is found")?;
    let why = why::json(&["-p", &target.pid().to_string(), "--finding", &group.id])?;
    for field in [".calls", ".closed"] {
        let by = |way: &Way| {
            way.root.name.starts_with("main.clients") && way.way.ends_with(&format!(" → [key] → {field}"))
        };
        ensure!(ways(&why).any(by), "{field}: {:?}", why.objects.first());
    }
    Ok(())
}

/// A lock that is a variable is kept by the program itself.
fn what_waits_for_a_variable() -> Result<()> {
    let target = fixture::start("idle", &Go::newest(), Variant::Plain, &["-n", "8"])?;
    let waits = goid_in(&target, "main.turnTaker")?.to_string();
    let why = why::json(&["-p", &target.pid().to_string(), "--goid", &waits])?;
    let told: Vec<_> = ways(&why).map(|way| way.way.as_str()).collect();
    ensure!(told.first().is_some_and(|way| way.starts_with("main.turn")), "{why:?}");
    ensure!(why.objects.len() == 1, "{why:?}");
    Ok(())
}

fn what_is_no_object_or_waits_for_none_is_said_so() -> Result<()> {
    for go in Go::all().iter().filter(|go| RELEASES.contains(&go.minor)) {
        refusals(go).with_context(|| format!("go{}", go.version))?;
    }
    Ok(())
}

fn refusals(go: &Go) -> Result<()> {
    let mut target = Objects::start(go, Variant::Plain)?;
    let pid = target.pid();
    let refused = |args: &[&str], words: &[&str]| {
        let about = format!("PID {pid}: ");
        let words: Vec<&str> = words.iter().copied().chain([about.as_str()]).collect();
        fails(&mut why::command(&[&["-p", &pid], args].concat())?, 1, &words)
    };
    let accepts = goid(&target, "net/http.(*Server).Serve")?.to_string();
    refused(
        &["--goid", &accepts],
        &[&format!("goroutine {accepts} waits (IO wait), but for no channel or lock")],
    )?;
    // It reads stdin, a system call.
    refused(&["--goid", "1"], &["goroutine 1 does not wait for anything"])?;
    refused(&["--goid", "123456789"], &["goroutine 123456789 is not there"])?;
    let why = target.why(&[])?;
    let root = |kind: &str| {
        let root = ways(&why).map(|way| &way.root).find(|root| root.kind == kind && root.address.is_some());
        root.and_then(|root| root.address.clone()).with_context(|| format!("no {kind} is a root"))
    };
    for addr in [root("goroutine")?, "0x10".into(), "0xffffffffffffffff".into()] {
        refused(&[&addr], &[&format!("{addr} is no object of its heap")])?;
    }
    let variable = root("variable")?;
    let told = why::json(&["-p", &pid, &variable])?;
    ensure!(ways(&told).all(|way| way.root.kind == "variable" && way.hops.len() == 1), "{told:?}");
    // One of several is enough.
    let hub = target.fact("hub")?.address.clone();
    refused(&[&hub, "0x10"], &["0x10 is no object of its heap"])?;
    let dropped = target.fact("dropped-behind")?.address.clone();
    target.process.command("gc", Duration::from_secs(120))?;
    refused(&[&dropped], &[&dropped, "is no object of its heap", "free memory"])
}

fn wrong_usage() -> Result<()> {
    let target = Objects::start(&Go::newest(), Variant::Plain)?;
    let pid = target.pid();
    let hub = target.fact("hub")?.address.as_str();
    let wrong: [(&[&str], i32, &str); 10] = [
        (&["-p", &pid], 2, "--goid"),
        (&["-p", &pid, hub, "--goid", "1"], 2, "--goid"),
        (&["-p", &pid, "hub"], 2, "hub"),
        (&["-p", &pid, "--finding", "hub"], 2, "hub"),
        (&["-p", &pid, hub, "--format", "xml"], 2, "xml"),
        (&["-p", &pid, hub, "--ways", "0"], 2, "--ways"),
        (&["-p", &pid, hub, "--core", "core", "--exe", "exe"], 2, "--core"),
        (&["--core", "core", hub], 2, "--exe"),
        (&["-p", "4194303", hub], 1, "no process"),
        (&["-p", &pid, hub, "-o", "/no/such/directory/why"], 1, "/no/such/directory/why"),
    ];
    wrong.iter().try_for_each(|(args, code, word)| fails(&mut why::command(args)?, *code, &[word]))
}
