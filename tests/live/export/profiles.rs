//! `sfgi export`: profiles by stack and tables of events, each opened by what they are made for, and held
//! against what the program says of itself.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
    thread,
    time::Duration,
};

use crate::harness::{Test, live};
use anyhow::{Context, Result, ensure};
use live_tests::{
    fixture::{self, Variant},
    pprof,
    process::Process,
    sfgi,
    toolchain::Go,
};
use rustix::process::Signal;
use tempfile::TempDir;

pub(crate) fn tests() -> Vec<Test> {
    vec![
        live(blocked_time_is_what_the_program_says_of_itself),
        live(every_form_opens_and_has_the_same_total),
        live(who_made_it_stands_before_it_but_not_what_made_the_main_goroutine),
        live(spans_that_follow_each_other_add_up),
        live(tables_have_every_event).quick(),
        live(what_cannot_be_written_is_refused),
    ]
}

const TIME: Duration = Duration::from_secs(60);

/// What Go's block profile knows of (`blockevent` in `chan.go`, `select.go` and `sema.go`). Locks of package
/// sync waited for a `semacquire` up to Go 1.19.
const GO_S_OWN: &str = "^(chan (send|receive)|select|sync\\.|semacquire$)";

/// A recording of the fixture that waits, and the program's own block profile of the same run.
struct Run {
    dir: TempDir,
}

impl Run {
    fn new(go: &Go, more: &[&str]) -> Result<Run> {
        let run = Run { dir: tempfile::tempdir()? };
        let profile = run.theirs().display().to_string();
        let binary = fixture::build("blocking", go, Variant::Plain)?;
        let mut command = Command::new(binary);
        command.args(["-blockprofile", &profile]).env("FIXTURE_HOLD", "1");
        let mut target = fixture::start_command(&mut command)?;
        let (pid, file) = (target.pid().to_string(), run.recording().display().to_string());
        let mut command = sfgi::command(&["record", "-p", &pid, "-o", &file])?;
        let mut sfgi = sfgi::attached(command.args(more))?;
        target.say()?;
        target.stdout.wait_for(TIME, |line| line.ends_with(" done"))?;
        // Its main goroutine is in a system call now, its thread without a CPU.
        thread::sleep(Duration::from_millis(300));
        sfgi.signal(Signal::INT)?;
        sfgi.wait_code(sfgi::END, 0)?;
        Ok(run)
    }

    fn theirs(&self) -> PathBuf {
        self.dir.path().join("theirs.pb.gz")
    }

    fn recording(&self) -> PathBuf {
        self.dir.path().join("run.sfgi")
    }

    /// Exports, and gives the file.
    fn export(&self, arguments: &[&str]) -> Result<PathBuf> {
        let file = self.dir.path().join("export");
        let name = self.recording().display().to_string();
        let mut command = sfgi::command(&["export", &name, "-o"])?;
        Process::spawn(command.arg(&file).args(arguments))?.wait_code(TIME, 0)?;
        Ok(file)
    }

    fn text(&self, arguments: &[&str]) -> Result<String> {
        fs::read_to_string(self.export(arguments)?).context("no text")
    }

    fn report(&self, arguments: &[&str]) -> Result<String> {
        let name = self.recording().display().to_string();
        let output = sfgi::command(&["report", &name])?.args(arguments).output()?;
        ensure!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        Ok(String::from_utf8(output.stdout)?)
    }
}

/// The nanoseconds of all samples, and of those with this function.
fn delays(file: &Path, function: &str) -> Result<(u64, u64)> {
    let samples = pprof::samples(file)?;
    let ns = |sample: &pprof::Sample| sample.values.get(1).copied().unwrap_or(0);
    let with = samples.iter().filter(|sample| sample.functions.iter().any(|name| name == function));
    Ok((samples.iter().map(ns).sum(), with.map(ns).sum()))
}

fn agree(ours: u64, theirs: u64, what: &str) -> Result<()> {
    let off = ours.abs_diff(theirs) as f64 / theirs.max(1) as f64;
    println!("{what}: sfgi {ours} ns, the program {theirs} ns, {:.3} % apart", off * 100.0);
    ensure!(off <= 0.05, "{what}: {ours} ns are not the program's {theirs} ns");
    Ok(())
}

fn blocked_time_is_what_the_program_says_of_itself() -> Result<()> {
    for go in Go::all() {
        compare(&go).with_context(|| format!("go{}", go.version))?;
    }
    Ok(())
}

fn compare(go: &Go) -> Result<()> {
    let run = Run::new(go, &[])?;
    let ours = run.export(&["--to", "pprof", "--reason", GO_S_OWN])?;
    let ((our_all, our_hot), (their_all, their_hot)) =
        (delays(&ours, "main.hot")?, delays(&run.theirs(), "main.hot")?);
    agree(our_all, their_all, &format!("go{} all", go.version))?;
    agree(our_hot, their_hot, &format!("go{} main.hot", go.version))?;
    // Four goroutines for nearly a second: that it was about something.
    ensure!(their_hot > 2_000_000_000, "{their_hot}");

    let top = pprof::run(&["-top"], &[&ours])?;
    let first = top.lines().skip_while(|line| !line.contains("flat%")).nth(1);
    ensure!(first.is_some_and(|line| line.ends_with(" main.hot")), "{top}");
    ensure!(top.contains("Type: delay"), "{top}");
    Ok(())
}

fn every_form_opens_and_has_the_same_total() -> Result<()> {
    let run = Run::new(&Go::newest(), &["--sched"])?;
    for (kind, function, value) in [
        ("blocked", "main.hot", 1),
        ("offcpu", "main.main", 1),
        ("created", "main.work", 0),
        ("goroutines", "main.main", 0),
    ] {
        form(&run, kind, function, value).with_context(|| kind.to_owned())?;
    }
    Ok(())
}

fn form(run: &Run, kind: &str, function: &str, value: usize) -> Result<()> {
    let kind = ["--kind", kind];
    let profile = run.export(&[&["--to", "pprof"], &kind[..]].concat())?;
    let samples = pprof::samples(&profile)?;
    let total: u64 = samples.iter().filter_map(|sample| sample.values.get(value)).sum();
    ensure!(total > 0, "nothing in it");
    let has = |sample: &pprof::Sample| sample.functions.iter().any(|name| name == function);
    ensure!(samples.iter().any(has), "no {function} in {samples:?}");
    let svg = pprof::run(&["-svg"], &[&profile])?;
    ensure!(svg.contains("</svg>"), "{svg}");

    let folded = run.text(&[&["--to", "folded"], &kind[..]].concat())?;
    let numbers = folded
        .lines()
        .map(|line| line.rsplit_once(' ').context("no number")?.1.parse::<u64>().context("no number"));
    let sum: u64 = numbers.sum::<Result<u64>>()?;
    ensure!(sum == total, "{sum} is not {total}:\n{folded}");

    let svg = run.text(&[&["--to", "flamegraph"], &kind[..]].concat())?;
    let options = roxmltree::ParsingOptions { allow_dtd: true, ..Default::default() };
    let document = roxmltree::Document::parse_with_options(&svg, options).context("not well-formed")?;
    ensure!(document.root_element().has_tag_name(("http://www.w3.org/2000/svg", "svg")), "{svg}");
    let titles: Vec<&str> = document
        .descendants()
        .filter(|node| node.has_tag_name(("http://www.w3.org/2000/svg", "title")))
        .filter_map(|node| node.text())
        .collect();
    ensure!(titles.iter().any(|title| title.starts_with(&format!("{function} ("))), "{titles:?}");
    Ok(())
}

/// The number of all stacks of a folded profile that have this function.
fn folded(text: &str, function: &str) -> Result<u64> {
    let with = text.lines().filter(|line| line.contains(function));
    with.map(|line| line.rsplit_once(' ').context("no number")?.1.parse::<u64>().context("no number")).sum()
}

fn who_made_it_stands_before_it_but_not_what_made_the_main_goroutine() -> Result<()> {
    let run = Run::new(&Go::newest(), &[])?;
    for kind in ["blocked", "created"] {
        let text = run.text(&["--to", "folded", "--by-creator", "--kind", kind])?;
        ensure!(!text.contains("newproc") && !text.contains("rt0_go"), "{kind}:\n{text}");
        ensure!(text.contains("main.work"), "{kind}:\n{text}");
    }
    let text = run.text(&["--to", "folded", "--by-creator"])?;
    let hot: Vec<&str> = text.lines().filter(|line| line.contains("main.hot")).collect();
    ensure!(
        !hot.is_empty() && hot.iter().all(|line| line.starts_with("main.work;main.work.gowrap")),
        "{text}"
    );
    Ok(())
}

fn spans_that_follow_each_other_add_up() -> Result<()> {
    let run = Run::new(&Go::newest(), &[])?;
    // It works for a second, four goroutines at a time.
    let first = run.report(&["-e", "block", "--func", "main\\.hot$"])?;
    let began =
        first.lines().nth(1).and_then(|line| line.split_whitespace().next()).context("nothing blocks")?;
    let began = Duration::from_secs_f64(began.parse()?);
    let cuts: Vec<String> =
        [200, 400, 600].map(|ms| format!("{}us", (began + Duration::from_millis(ms)).as_micros())).into();
    let hot = |arguments: &[&str]| folded(&run.text(&[&["--to", "folded"], arguments].concat())?, "main.hot");
    let parts = [
        hot(&["--until", &cuts[0]])?,
        hot(&["--from", &cuts[0], "--until", &cuts[1]])?,
        hot(&["--from", &cuts[1], "--until", &cuts[2]])?,
        hot(&["--from", &cuts[2]])?,
    ];
    let (sum, whole) = (parts.iter().sum::<u64>(), hot(&[])?);
    ensure!(sum.abs_diff(whole) <= whole / 1000, "{parts:?} are {sum}, not {whole}");
    ensure!(parts.iter().all(|ns| *ns > 0), "{parts:?}");
    ensure!(parts[..3].iter().all(|ns| *ns <= 4 * 200_000_000), "{parts:?}");
    Ok(())
}

fn tables_have_every_event() -> Result<()> {
    let run = Run::new(&Go::newest(), &[])?;
    let json = run.text(&["--to", "json"])?;
    let events = json.lines().map(serde_json::from_str).collect::<Result<Vec<sfgi::Event>, _>>()?;
    let report = run.report(&["--format", "json", "--stacks=0ns"])?;
    ensure!(
        report == json,
        "sfgi report has {} lines, {} were exported",
        report.lines().count(),
        events.len()
    );
    ensure!(events.len() > 1000, "{}", events.len());

    let csv = run.text(&["--to", "csv"])?;
    let mut rows = csv.split_terminator("\r\n");
    let columns: Vec<&str> = rows.next().unwrap_or_default().split(',').collect();
    let place = |name: &str| columns.iter().position(|column| *column == name).context(name.to_owned());
    let (ts, event) = (place("ts_ns")?, place("event")?);
    let rows: Vec<&str> = rows.collect();
    ensure!(rows.len() == events.len(), "{} rows of {} events", rows.len(), events.len());
    for (row, told) in rows.iter().zip(&events) {
        // Neither column is behind one that can hold a comma.
        let fields: Vec<&str> = row.split(',').collect();
        let same = fields[ts] == told.ts_ns.to_string() && fields[event] == told.event;
        ensure!(same, "{row} is not {told:?}");
    }
    Ok(())
}

fn what_cannot_be_written_is_refused() -> Result<()> {
    let run = Run::new(&Go::newest(), &[])?;
    let name = run.recording().display().to_string();
    let before = fs::read(run.recording())?;
    let none = run.dir.path().join("none/out").display().to_string();
    for (arguments, words) in [
        (&["--to", "folded", "-o", &none][..], "cannot write"),
        (&["--to", "csv", "-o", &name], "that is the recording itself"),
        (&["--to", "csv", "--kind", "created"], "--kind is only for a profile"),
        (&["--to", "pprof", "--kind", "leaks"], "no leaks were looked for"),
        (&["--to", "folded", "--pid", "1"], "nothing is known of PID 1"),
    ] {
        sfgi::fails(sfgi::command(&["export", &name])?.args(arguments), 1, &[words])?;
    }
    ensure!(fs::read(run.recording())? == before, "the recording was changed");
    Ok(())
}
