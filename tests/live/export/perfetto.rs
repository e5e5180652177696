//! `sfgi export --to perfetto`: read by Perfetto's own published messages with a reader that is not ours (Google's
//! protobuf for Python), it says of each goroutine what `sfgi report` says of the same recording.

use std::{collections::BTreeMap, path::Path, process::Command, time::Duration};

use crate::harness::{Need, Test, live};
use anyhow::{Context, Result, ensure};
use live_tests::{
    fixture::{self, Variant},
    machine,
    process::Process,
    sfgi,
    toolchain::Go,
};
use serde::Deserialize;

pub(crate) fn tests() -> Vec<Test> {
    vec![
        live(goroutines_that_wake_each_other).needs(Need::Wheels("perfetto")),
        live(system_calls_on_threads).needs(Need::Wheels("perfetto")),
        live(collections).needs(Need::Wheels("perfetto")),
    ]
}

const WORK: Duration = Duration::from_secs(120);

/// An event as the reader prints it.
#[derive(Deserialize)]
struct Shown {
    ts_ns: u64,
    r#type: String,
    track: String,
    name: String,
    values: BTreeMap<String, serde_json::Value>,
    #[serde(rename = "in")]
    arrows_in: Vec<u64>,
}

fn shown(trace: &Path) -> Result<Vec<Shown>> {
    let dir = machine::wheels("perfetto")?;
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("live/export/read_perfetto.py");
    let output = Command::new("python3").arg(script).arg(trace).env("PYTHONPATH", dir).output()?;
    ensure!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let lines = std::str::from_utf8(&output.stdout)?.lines();
    lines.map(|line| serde_json::from_str(line).with_context(|| line.to_owned())).collect()
}

/// What a goroutine is in after each of its steps: time, name of the slice.
type States = BTreeMap<u64, Vec<(u64, String)>>;

/// The goroutines' slices, as far as they came of a step: not of those that were there before.
fn slices(shown: &[Shown]) -> States {
    let mut states = States::new();
    for event in shown.iter().filter(|event| event.r#type == "TYPE_SLICE_BEGIN") {
        let goid = event.track.strip_prefix('G').and_then(|name| name.split(' ').next()?.parse().ok());
        if let Some(goid) = goid {
            states.entry(goid).or_default().push((event.ts_ns, event.name.clone()));
        }
    }
    states
}

/// The same as reported.
fn reported(events: &[sfgi::Event]) -> States {
    let mut states = States::new();
    for event in events {
        let (Some(goid), Some(to)) = (event.goid, &event.to) else { continue };
        if to.starts_with("dead") {
            continue;
        }
        let reason = event.reason.as_deref().filter(|reason| !reason.is_empty() && to == "waiting");
        let name = reason.map_or_else(|| to.clone(), |reason| format!("{to}: {reason}"));
        states.entry(goid).or_default().push((event.ts_ns, name));
    }
    states
}

fn agrees(name: &str, units: u32, check: impl Fn(&[Shown]) -> Result<()>) -> Result<()> {
    let dir = tempfile::tempdir()?;
    let file = |name: &str| dir.path().join(name).display().to_string();
    let binary = fixture::build(name, &Go::newest(), Variant::Plain)?;
    let mut target = fixture::start_command(Command::new(binary).args(["-n", &units.to_string()]))?;
    let (pid, recording) = (target.pid().to_string(), file("run.sfgi"));
    let mut record = sfgi::command(&["record", "--sched", "-p", &pid, "-o", &recording])?;
    let mut sfgi = sfgi::attached(&mut record)?;
    target.say()?;
    target.wait_code(WORK, 0)?;
    sfgi.wait_code(sfgi::END, 0)?;
    let exported = file("trace.pb");
    let mut export = sfgi::command(&["export", &recording, "--to", "perfetto", "-o", &exported])?;
    Process::spawn(&mut export)?.wait_code(WORK, 0)?;

    let output = sfgi::command(&["report", &recording, "--format", "json"])?.output()?;
    let events = sfgi::events(std::str::from_utf8(&output.stdout)?)?;
    let shown = shown(exported.as_ref())?;
    let (slices, reported) = (slices(&shown), reported(&events));
    let mut compared = 0;
    for (goid, reported) in &reported {
        let mut slices = slices.get(goid).map(Vec::as_slice).unwrap_or_default();
        // How it was found is shown from when it was so.
        if events.iter().any(|event| event.goid == Some(*goid) && event.event == "found") {
            assert_eq!(slices[0].1, reported[0].1, "{name}: goroutine {goid} was found in another state");
            slices = &slices[1..];
            assert_eq!(slices, &reported[1..], "{name}: goroutine {goid}");
        } else {
            assert_eq!(slices, reported, "{name}: goroutine {goid}");
        }
        compared += slices.len();
    }
    ensure!(compared > 0, "{name}: nothing was compared");
    machine::report(&format!("{name}: {compared} slices agree"));
    check(&shown)
}

fn goroutines_that_wake_each_other() -> Result<()> {
    agrees("pingpong", 1, |shown| {
        let woken = shown.iter().filter(|event| event.name == "runnable" && !event.arrows_in.is_empty());
        ensure!(woken.count() > 100, "hardly any arrow");
        let stack = |event: &Shown| event.values.get("stack").map(ToString::to_string).unwrap_or_default();
        ensure!(shown.iter().any(|event| stack(event).contains("main.pong")), "no stack of main.pong");
        ensure!(shown.iter().any(|event| event.r#type == "TYPE_COUNTER"), "nothing is counted");
        Ok(())
    })
}

fn system_calls_on_threads() -> Result<()> {
    agrees("syscalls", 5, |shown| {
        let on_thread = |event: &Shown| event.track.starts_with("M ") && event.name.starts_with('G');
        ensure!(shown.iter().any(on_thread), "no goroutine on a thread");
        let off_cpu = |event: &Shown| event.track == "CPU" && event.name.starts_with("off CPU");
        ensure!(shown.iter().any(off_cpu), "every thread always had a CPU");
        Ok(())
    })
}

fn collections() -> Result<()> {
    agrees("gcheavy", 1, |shown| {
        ensure!(shown.iter().any(|event| event.name == "garbage collection"), "no collection");
        Ok(())
    })
}
