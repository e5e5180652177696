//! How a trace begins and ends: whatever happens to either side, the other one goes on, the output
//! is complete, and nothing is left in the kernel.

use std::{
    collections::BTreeSet,
    time::{Duration, Instant},
};

use crate::harness::{Test, live};
use anyhow::Result;
use live_tests::{
    fixture::{self, Variant},
    machine,
    process::Process,
    sfgi,
    toolchain::Go,
};
use rustix::process::Signal;

pub(crate) fn tests() -> Vec<Test> {
    vec![
        live(the_target_exits).quick(),
        live(the_target_is_killed),
        live(the_target_runs_children_and_becomes_another_program),
        live(interrupt_and_terminate_end_the_trace_but_not_the_target),
        live(the_time_is_over),
        live(a_killed_sfgi_leaves_nothing_behind),
    ]
}

/// Enough for a target or an sfgi that does what it should.
const SOON: Duration = Duration::from_secs(120);

/// A fixture that works until it is killed, and sfgi at it.
fn pair(args: &[&str]) -> Result<(Process, Process)> {
    let mut target = fixture::start("workers", &Go::newest(), Variant::Plain, &["-d", "1h"])?;
    let sfgi = sfgi::attach(target.pid(), args)?;
    target.say()?;
    sfgi.stdout.wait_for(SOON, |line| line.contains("\"create\""))?;
    Ok((target, sfgi))
}

/// sfgi ends with 0 and a summary, all its lines are whole and none reports an illegal transition,
/// and none of its BPF objects is left.
fn ends_cleanly(mut sfgi: Process, objects: &BTreeSet<String>) -> Result<()> {
    sfgi.wait_code(sfgi::END, 0)?;
    let events = sfgi::events(&sfgi.stdout.text())?;
    sfgi::none_illegal(&events)?;
    let summary = sfgi.stderr.text();
    assert!(summary.contains("lost"), "the summary does not say what was lost:\n{summary}");
    machine::nothing_left(objects)
}

fn objects(sfgi: &Process) -> Result<BTreeSet<String>> {
    let objects = machine::bpf_objects_of(sfgi.pid())?;
    assert!(
        objects.iter().any(|object| object.starts_with("prog")),
        "sfgi holds no BPF program: {objects:?}"
    );
    Ok(objects)
}

fn still_works(target: &mut Process) {
    let error = target.wait(Duration::from_millis(500)).expect_err("the target must not end with sfgi");
    assert!(error.to_string().contains("did not end"), "{error:#}");
}

fn the_target_exits() -> Result<()> {
    let mut target = fixture::start("workers", &Go::newest(), Variant::Plain, &[])?;
    let sfgi = sfgi::attach(target.pid(), &[])?;
    let objects = objects(&sfgi)?;
    target.say()?;
    target.wait_code(SOON, 0)?;
    ends_cleanly(sfgi, &objects)
}

fn the_target_is_killed() -> Result<()> {
    let (target, sfgi) = pair(&[])?;
    let objects = objects(&sfgi)?;
    target.signal(Signal::KILL)?;
    ends_cleanly(sfgi, &objects)
}

fn the_target_runs_children_and_becomes_another_program() -> Result<()> {
    let mut target = fixture::start("children", &Go::newest(), Variant::Plain, &[])?;
    let sfgi = sfgi::attach(target.pid(), &[])?;
    let objects = objects(&sfgi)?;
    target.say()?;
    let pid = target.pid();
    let started = Instant::now();
    target.wait_code(SOON, 0)?;
    assert!(started.elapsed() > Duration::from_millis(900), "the target did not become sleep(1)");
    let strangers = sfgi::events(&sfgi.stdout.text())?.into_iter().find(|event| event.pid != pid);
    assert!(strangers.is_none(), "an event of a child: {strangers:?}");
    ends_cleanly(sfgi, &objects)
}

fn interrupt_and_terminate_end_the_trace_but_not_the_target() -> Result<()> {
    for signal in [Signal::INT, Signal::TERM] {
        let (mut target, sfgi) = pair(&[])?;
        let objects = objects(&sfgi)?;
        sfgi.signal(signal)?;
        ends_cleanly(sfgi, &objects)?;
        still_works(&mut target);
    }
    Ok(())
}

fn the_time_is_over() -> Result<()> {
    // The fixture would go on for an hour. How late sfgi is told that its second is over is the machine's affair.
    let (mut target, mut sfgi) = pair(&["-d", "1"])?;
    let objects = objects(&sfgi)?;
    sfgi.wait(sfgi::END)?;
    ends_cleanly(sfgi, &objects)?;
    still_works(&mut target);
    Ok(())
}

fn a_killed_sfgi_leaves_nothing_behind() -> Result<()> {
    let (mut target, mut sfgi) = pair(&[])?;
    let objects = objects(&sfgi)?;
    sfgi.signal(Signal::KILL)?;
    sfgi.wait(SOON)?;
    machine::nothing_left(&objects)?;
    still_works(&mut target);
    Ok(())
}
