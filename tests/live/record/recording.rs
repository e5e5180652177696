//! Recordings: what is reported is what was live, whatever happens while it is recorded.

use std::{fs, path::Path, process::Command, time::Duration};

use crate::harness::{Test, live, plain};
use anyhow::{Context, Result, ensure};
use live_tests::{
    fixture::{self, Variant},
    pprof,
    process::Process,
    sfgi,
    toolchain::Go,
};
use rustix::process::Signal;

pub(crate) fn tests() -> Vec<Test> {
    vec![
        live(what_is_reported_is_what_was_live_line_by_line),
        live(a_command_is_recorded_from_its_first_goroutine_on).quick(),
        live(what_was_recorded_before_a_kill_can_be_read),
        live(a_full_disk_ends_the_recording_and_not_what_is_in_it),
        live(a_flight_recorder_writes_the_last_second_when_it_is_asked),
        live(a_flight_recorder_writes_when_something_is_found),
        live(the_leaks_at_the_end_are_in_it),
        live(what_cannot_be_written_is_refused_first),
        plain(what_cannot_be_read_is_refused_and_no_recording_is_written_over).quick(),
    ]
}

/// Enough for a target or an sfgi that does what it should.
const SOON: Duration = Duration::from_secs(120);

fn name(path: &Path) -> &str {
    path.to_str().expect("a temporary file's name is text")
}

/// Runs sfgi to its end; what it wrote to standard output and standard error.
fn run(args: &[&str]) -> Result<(String, String)> {
    let mut sfgi = Process::spawn(&mut sfgi::command(args)?)?;
    sfgi.wait_code(SOON, 0)?;
    Ok((sfgi.stdout.text(), sfgi.stderr.text()))
}

/// The first line in which two texts differ.
fn same(live: &str, reported: &str) -> Result<()> {
    ensure!(live.lines().count() > 10, "hardly anything was traced:\n{live}");
    let differs = |(a, b): &(&str, &str)| a != b;
    if let Some((live, reported)) = live.lines().zip(reported.lines()).find(differs) {
        anyhow::bail!("live:     {live}\nreported: {reported}");
    }
    ensure!(live == reported, "{} and {} lines", live.lines().count(), reported.lines().count());
    Ok(())
}

fn what_is_reported_is_what_was_live_line_by_line() -> Result<()> {
    let dir = tempfile::tempdir()?;
    let releases = Go::all();
    let oldest = releases.first().context("no Go")?;
    // Each kind of output, each way of probing, both ends of the versions.
    let cases: [(&str, &Go, &[&str], &[&str]); 6] = [
        ("faults", &Go::newest(), &["--set", "b"], &["--stacks"]),
        ("selects", oldest, &["--set", "a"], &["--stacks=1ms"]),
        ("tcpecho", oldest, &["--set", "b"], &["--format", "json"]),
        ("coro", &Go::newest(), &["--set", "a"], &["--format", "json", "-e", "block,unblock,sched"]),
        ("gcheavy", &Go::newest(), &["--ring-size", "4096"], &[]),
        ("workers", &Go::newest(), &["--mode", "wait"], &["-c"]),
    ];
    for (fixture, go, probes, lines) in cases {
        let file = dir.path().join("recording.sfgi");
        let context = format!("{fixture} {probes:?} {lines:?}");
        let mut target = fixture::start(fixture, go, Variant::PieStripped, &["-d", "1h"])?;
        let pid = target.pid().to_string();
        let mut command = sfgi::command(
            &[&["trace", "-p", &pid, "-d", "1", "--record", name(&file)], probes, lines].concat(),
        )?;
        let mut live = sfgi::attached(&mut command)?;
        target.say()?;
        live.wait_code(SOON, 0)?;
        target.signal(Signal::KILL)?;
        // The program is not needed any more.
        let (reported, _) = run(&[&["report", name(&file)], lines].concat())?;
        same(&live.stdout.text(), &reported).context(context)?;
    }
    Ok(())
}

fn a_command_is_recorded_from_its_first_goroutine_on() -> Result<()> {
    let dir = tempfile::tempdir()?;
    let file = dir.path().join("recording.sfgi");
    let binary = fixture::build("short", &Go::newest(), Variant::Plain)?;
    run(&["record", "-o", name(&file), "--", name(&binary)])?;
    let (reported, _) = run(&["report", "-e", "create", name(&file)])?;
    let first = reported.lines().nth(1).context("nothing was created")?;
    ensure!(first.contains("runtime.main"), "{first}");
    let (info, _) = run(&["report", "--info", name(&file)])?;
    ensure!(info.contains("ended          yes") && info.contains("fixtures/short"), "{info}");
    Ok(())
}

/// `sfgi record` of a fixture that works until it is killed, which has recorded something.
fn recording(file: &Path, args: &[&str]) -> Result<(Process, Process)> {
    let mut target = fixture::start("workers", &Go::newest(), Variant::Plain, &["-d", "1h"])?;
    let pid = target.pid().to_string();
    let mut command = sfgi::command(&[&["record", "-p", &pid, "-o", name(file)], args].concat())?;
    let sfgi = sfgi::attached(&mut command)?;
    target.say()?;
    Ok((target, sfgi))
}

fn until(what: &str, mut holds: impl FnMut() -> Result<bool>) -> Result<()> {
    let deadline = std::time::Instant::now() + SOON;
    while !holds()? {
        ensure!(std::time::Instant::now() < deadline, "{what} did not happen");
        std::thread::sleep(Duration::from_millis(50));
    }
    Ok(())
}

fn size(file: &Path) -> u64 {
    fs::metadata(file).map_or(0, |meta| meta.len())
}

fn what_was_recorded_before_a_kill_can_be_read() -> Result<()> {
    let dir = tempfile::tempdir()?;
    let file = dir.path().join("recording.sfgi");
    let (_target, mut sfgi) = recording(&file, &[])?;
    until("a second frame", || Ok(size(&file) > 10_000))?;
    sfgi.signal(Signal::KILL)?;
    sfgi.wait(SOON)?;
    let (reported, said) = run(&["report", name(&file)])?;
    ensure!(reported.lines().count() > 100, "{reported}");
    ensure!(said.contains("the recording was not ended"), "{said}");
    Ok(())
}

fn a_full_disk_ends_the_recording_and_not_what_is_in_it() -> Result<()> {
    let dir = tempfile::tempdir()?;
    let disk = dir.path().join("disk");
    fs::create_dir(&disk)?;
    let mounted =
        Command::new("mount").args(["-t", "tmpfs", "-o", "size=1m", "sfgi-test"]).arg(&disk).status()?;
    ensure!(mounted.success(), "a small disk cannot be made");
    let file = disk.join("recording.sfgi");
    let result = (|| {
        let (target, mut sfgi) = recording(&file, &[])?;
        let status = sfgi.wait(SOON)?;
        let said = sfgi.stderr.text();
        ensure!(status.code() == Some(1) && said.contains("No space left on device"), "{status}: {said}");
        target.signal(Signal::KILL)?;
        let (reported, _) = run(&["report", name(&file)])?;
        ensure!(reported.lines().count() > 100, "{reported}");
        Ok(())
    })();
    Command::new("umount").arg(&disk).status()?;
    result
}

fn a_flight_recorder_writes_the_last_second_when_it_is_asked() -> Result<()> {
    let dir = tempfile::tempdir()?;
    let (file, second) = (dir.path().join("recording.sfgi"), dir.path().join("recording.sfgi.2"));
    let (target, mut sfgi) = recording(&file, &["--last", "1s"])?;
    std::thread::sleep(Duration::from_secs(3));
    ensure!(size(&file) == 0, "it was written though nobody asked");
    sfgi.signal(Signal::USR2)?;
    until("the writing", || {
        Ok(run(&["report", "--info", name(&file)]).is_ok_and(|(info, _)| info.contains("ended          yes")))
    })?;
    target.signal(Signal::KILL)?;
    sfgi.wait_code(SOON, 0)?;
    for file in [&file, &second] {
        let (info, _) = run(&["report", "--info", name(file)])?;
        let lasted = info.lines().find_map(|line| line.strip_prefix("lasted")).context("no length")?;
        ensure!(lasted.trim().ends_with('s') && !lasted.contains("ms"), "less than a second: {info}");
        let (reported, said) = run(&["report", name(file)])?;
        ensure!(reported.contains("found") && reported.contains("unblock"), "{reported}\n{said}");
    }
    Ok(())
}

fn a_flight_recorder_writes_when_something_is_found() -> Result<()> {
    let dir = tempfile::tempdir()?;
    let file = dir.path().join("recording.sfgi");
    let mut target = fixture::start("illegal", &Go::newest(), Variant::Plain, &["-n", "1"])?;
    let pid = target.pid().to_string();
    let mut command =
        sfgi::command(&["record", "-p", &pid, "-o", name(&file), "--last", "1MiB", "--on-finding"])?;
    let mut sfgi = sfgi::attached(&mut command)?;
    target.say()?;
    target.wait_code(SOON, 0)?;
    sfgi.wait_code(SOON, 0)?;
    let (reported, said) = run(&["report", "-e", "illegal", name(&file)])?;
    ensure!(reported.contains("ILLEGAL"), "{reported}");
    ensure!(said.contains("written because something was found"), "{said}");
    ensure!(size(&dir.path().join("recording.sfgi.2")) > 0, "nothing was written at the end");
    Ok(())
}

fn the_leaks_at_the_end_are_in_it() -> Result<()> {
    let dir = tempfile::tempdir()?;
    let file = dir.path().join("recording.sfgi");
    let mut target = fixture::start("faults", &Go::newest(), Variant::Plain, &["-d", "1h"])?;
    let pid = target.pid().to_string();
    let mut command = sfgi::command(&["record", "-p", &pid, "-o", name(&file), "--leaks", "-d", "3"])?;
    let mut sfgi = sfgi::attached(&mut command)?;
    target.say()?;
    sfgi.wait_code(SOON, 0)?;
    target.signal(Signal::KILL)?;
    let (text, _) = run(&["report", "--leaks", name(&file)])?;
    ensure!(text.contains("proven") && text.contains("main.askSupplier"), "{text}");
    let (json, _) = run(&["report", "--leaks=json", name(&file)])?;
    ensure!(
        json.contains("\"schema\":\"sfgi.leaks/1\"") || json.contains("\"schema\": \"sfgi.leaks/1\""),
        "{json}"
    );
    let profile = dir.path().join("leaks.pb.gz");
    run(&["export", "--to", "pprof", "--kind", "leaks", "-o", name(&profile), name(&file)])?;
    let samples = pprof::samples(&profile)?;
    let of = |function: &str| {
        samples.iter().filter(|sample| sample.functions.iter().any(|name| name == function)).count()
    };
    ensure!(of("main.askSupplier") > 0 && of("main.main") == 0, "{samples:?}");
    Ok(())
}

fn what_cannot_be_written_is_refused_first() -> Result<()> {
    let me = std::process::id().to_string();
    let mut command = sfgi::command(&["record", "-p", &me, "-o", "/nonexistent/x.sfgi"])?;
    sfgi::fails(&mut command, 1, &["cannot write /nonexistent/x.sfgi"])
}

fn what_cannot_be_read_is_refused_and_no_recording_is_written_over() -> Result<()> {
    let dir = tempfile::tempdir()?;
    let file = dir.path().join("x.sfgi");
    fs::write(&file, "no recording")?;
    sfgi::fails(&mut sfgi::command(&["report", name(&file)])?, 1, &["x.sfgi", "is no recording of sfgi"])?;
    // A recording is not written over by what is made of it.
    let recording = Path::new(env!("CARGO_MANIFEST_DIR")).join("recordings/shop.sfgi");
    fs::copy(recording, &file)?;
    let before = fs::read(&file)?;
    let onto = ["-o", name(&file), name(&file)];
    sfgi::fails(sfgi::command(&["report"])?.args(onto), 1, &["that is the recording itself"])?;
    sfgi::fails(sfgi::command(&["export", "--to", "csv"])?.args(onto), 1, &["that is the recording itself"])?;
    ensure!(fs::read(&file)? == before, "it was written over");
    sfgi::fails(&mut sfgi::command(&["report", "/nonexistent/x.sfgi"])?, 1, &["x.sfgi", "No such file"])
}
