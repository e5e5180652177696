//! What a goroutine waits for, in the events of a trace: the addresses that the program itself says; and goroutines that
//! wait for each other, told when they do.

use std::{collections::BTreeMap, time::Duration};

use crate::harness::{Test, live};
use anyhow::{Context, Result, ensure};
use live_tests::{
    fixture::{self, Variant},
    leaks,
    process::Process,
    sfgi::{self, Event},
    toolchain::Go,
};
use serde_json::Value;

pub(crate) fn tests() -> Vec<Test> {
    vec![
        live(blocks_have_the_objects_of_the_program),
        live(rings_are_told_when_they_close).quick(),
        live(what_is_no_ring_is_not_told),
        live(what_cannot_be_told_of_is_refused),
    ]
}

/// Releases whose runtimes park in different ways, and those of them that are built with a profile.
const RELEASES: [u32; 5] = [19, 21, 24, 26, 27];
const PROFILED: [u32; 2] = [21, 27];
const TIMEOUT: Duration = Duration::from_secs(120);

/// Runs a fixture under a trace, and returns what it said and the events until it was done.
fn traced(name: &str, go: &Go, variant: Variant, set: &str) -> Result<(String, Vec<Event>)> {
    let mut command = std::process::Command::new(fixture::build(name, go, variant)?);
    command.env("FIXTURE_HOLD", "1");
    let mut target = fixture::start_command(&mut command)?;
    let mut sfgi = sfgi::attach(target.pid(), &["-e", "block,unblock", "--set", set])?;
    target.say()?;
    target.stdout.wait_for(TIMEOUT, |line| line.ends_with(" done"))?;
    target.say()?;
    target.wait_code(TIMEOUT, 0)?;
    sfgi.wait_code(sfgi::END, 0)?;
    Ok((target.stdout.text(), sfgi::events(&sfgi.stdout.text())?))
}

fn blocks_have_the_objects_of_the_program() -> Result<()> {
    for go in Go::all().into_iter().filter(|go| RELEASES.contains(&go.minor)) {
        let mut builds = vec![(Variant::Plain, "b")];
        if go.is_end() {
            builds.extend([(Variant::PieStripped, "a"), (Variant::Unoptimised, "b")]);
        }
        if PROFILED.contains(&go.minor) {
            builds.push((Variant::Pgo, "a"));
        }
        for (variant, set) in builds {
            let of = || format!("go{} {variant} set {set}", go.version);
            let (said, events) = traced("waits", &go, variant, set).with_context(of)?;
            same_as_said(&said, &events, variant == Variant::Unoptimised).with_context(of)?;
        }
        if !go.is_end() {
            continue;
        }
        let (said, events) = traced("chosen", &go, Variant::Plain, "b")?;
        let chosen = said.lines().find_map(|line| line.strip_prefix("chose main.chooser "));
        let chooser = |what: &'static str| {
            let mut of = events.iter().filter(|event| event.start_func.as_deref() == Some("main.chooser"));
            of.find(|event| event.event == what && event.reason.as_deref() == Some("select"))
        };
        ensure!(
            chooser("block").context("no block")?.object.is_none(),
            "a select waits for several channels"
        );
        ensure!(
            chooser("unblock").context("no unblock")?.object.as_deref() == chosen,
            "{chosen:?}: {events:#?}"
        );
    }
    Ok(())
}

/// The last block of each goroutine whose function said what it waits for.
/// `may_lack`: the code may not keep it where a probe finds it.
fn same_as_said(said: &str, events: &[Event], may_lack: bool) -> Result<()> {
    let mut expected: BTreeMap<&str, Vec<&str>> = BTreeMap::new();
    for line in said.lines().filter_map(|line| line.strip_prefix("expect ")) {
        let mut words = line.split(' ');
        let (function, kind, address) = (words.next().context("function")?, words.next(), words.next());
        expected.entry(function).or_default().push(if kind == Some("none") {
            "none"
        } else {
            address.context("address")?
        });
    }
    let mut last: BTreeMap<u64, &Event> = BTreeMap::new();
    for event in events {
        last.extend(event.goid.map(|goid| (goid, event)));
    }
    let mut compared = 0;
    for event in last.values().filter(|event| event.event == "block") {
        let Some(addresses) = event.start_func.as_deref().and_then(|function| expected.get(function)) else {
            continue;
        };
        let right = match (&addresses[..], event.object.as_deref()) {
            (_, object) if event.reason.as_deref() == Some("select") => object.is_none(),
            (_, None) if may_lack => true,
            (["any"], object) => object.is_some(),
            (["none"], object) => object.is_none(),
            ([one], object) => object == Some(one),
            (_, object) => object.is_none(),
        };
        ensure!(right, "{event:?} waits for {addresses:?}");
        compared += 1;
    }
    // Some functions do not begin the goroutine that is in them.
    ensure!(compared > 15, "only {compared} blocks of {} functions", expected.len());
    Ok(())
}

/// Starts one of the ways of the fixture under a trace, and returns what the program said and the deadlocks that were told: up
/// to the first one, or for a while.
fn deadlocks(go: &Go, variant: Variant, way: &str, first: bool) -> Result<(String, Vec<Value>)> {
    let seconds = if first { "20" } else { "4" };
    let mut command =
        sfgi::command(&["trace", "-e", "deadlock", "--mode", "wait", "--format", "json", "-d", seconds])?;
    command.arg("--").arg(fixture::build("rings", go, variant)?).args(["-way", way]);
    let mut sfgi = Process::spawn(&mut command)?;
    if first {
        sfgi.stdout.wait_for(sfgi::ATTACH + Duration::from_secs(20), |line| line.contains("\"deadlock\""))?;
    } else {
        sfgi.wait_code(sfgi::ATTACH + sfgi::END, 0)?;
    }
    let text = sfgi.stdout.text();
    let told = text
        .lines()
        .filter(|line| line.starts_with('{'))
        .map(serde_json::from_str)
        .collect::<Result<_, _>>()?;
    Ok((text, told))
}

fn rings_are_told_when_they_close() -> Result<()> {
    // Those over locks are told within milliseconds, the others when they have stood for a second.
    let ways = [
        ("order-deferred", true),
        ("order-plain", true),
        ("recursive", true),
        ("recursive-read", true),
        ("channels", false),
    ];
    for go in Go::all().into_iter().filter(|go| [21, 27].contains(&go.minor)) {
        for (way, at_once) in ways {
            for variant in [Variant::Plain, Variant::PieStripped] {
                ring(&go, variant, way, at_once)
                    .with_context(|| format!("{way} go{} {variant}", go.version))?;
            }
        }
    }
    Ok(())
}

fn ring(go: &Go, variant: Variant, way: &str, at_once: bool) -> Result<()> {
    let (text, told) = deadlocks(go, variant, way, true)?;
    let said = text.lines().find_map(|line| line.strip_prefix("ring "));
    let deadlock = told.first().with_context(|| format!("nothing told: {text}"))?;
    let members = deadlock["members"].as_array().context("members")?;
    if let Some((class, functions)) = said.and_then(|said| said.split_once(' ')) {
        ensure!(deadlock["class"] == class, "{deadlock:#}");
        ensure!(members.len() == functions.split(' ').count(), "{functions}: {deadlock:#}");
    }
    for member in members {
        let last = member["last"].as_array().context("last steps")?;
        let step = last.last().with_context(|| format!("no last step of {member:#}"))?;
        ensure!(step["event"] == "block" && step["at"]["func"] == member["at"]["func"], "{member:#}");
    }
    let after_ns =
        deadlock["ts_ns"].as_u64().zip(deadlock["since_ts_ns"].as_u64()).map(|(told, since)| told - since);
    let after_ns = after_ns.context("times")?;
    // What a machine with much else to do leaves of 5 ms; `cargo xtask bench deadlock` measures it.
    let most = if at_once { 200_000_000 } else { 3_000_000_000 };
    ensure!(after_ns < most, "told {after_ns} ns after its last step");
    Ok(())
}

fn what_is_no_ring_is_not_told() -> Result<()> {
    let go = Go::newest();
    fixture::build("rings", &go, Variant::Plain)?;
    let ways = ["helped", "handed-over", "condition-again", "let-go", "neighbours", "slow-network"];
    let failures = leaks::side_by_side(3, &ways, |way| {
        let (_, told) = deadlocks(&go, Variant::Plain, way, false)?;
        ensure!(told.is_empty(), "{way}: {told:#?}");
        Ok(())
    });
    ensure!(failures.is_empty(), "{failures:?}");
    Ok(())
}

fn what_cannot_be_told_of_is_refused() -> Result<()> {
    let own = std::process::id().to_string();
    let mut goid = sfgi::command(&["trace", "-e", "deadlock", "--goid", "7", "-p", &own])?;
    sfgi::fails(&mut goid, 1, &["without --goid"])?;
    let mut life = sfgi::command(&["trace", "-e", "deadlock", "--mode", "life", "-p", &own])?;
    sfgi::fails(&mut life, 1, &["--mode wait"])
}
