//! `sfgi dump --format pprof` against the goroutine profile that the process writes of itself, both
//! as `go tool pprof` reads them.

use std::{
    collections::{BTreeMap, HashMap},
    fmt,
    path::Path,
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

pub(crate) fn tests() -> Vec<Test> {
    vec![live(goroutines_that_stand_still_have_the_profile_that_the_program_writes)]
}

const TIME: Duration = Duration::from_secs(120);

/// The goroutine that writes the program's profile: it runs then, and waits when we look.
const WRITER: &str = "main.main ";

fn goroutines_that_stand_still_have_the_profile_that_the_program_writes() -> Result<()> {
    for go in Go::all() {
        for variant in [Variant::Plain, Variant::PieStripped] {
            compare(&go, variant).with_context(|| format!("go{} {variant}", go.version))?;
        }
    }
    Ok(())
}

fn compare(go: &Go, variant: Variant) -> Result<()> {
    let dir = tempfile::tempdir()?;
    let (theirs, ours) = (dir.path().join("theirs.pb.gz"), dir.path().join("ours.pb.gz"));
    let mut target = fixture::start("profile", go, variant, &[&theirs.display().to_string()])?;
    dump(&target, &ours)?;
    target.say()?;
    target.stdout.wait_for(TIME, |line| line == "written")?;

    let (expected, found) = (Profile::read(&theirs)?, Profile::read(&ours)?);
    for (sample, count) in &expected.samples {
        let ours = found.samples.get(sample);
        ensure!(ours == Some(count), "{count} of\n{sample}\nare {ours:?} in our profile: {found}");
    }
    ensure!(expected.samples.len() == found.samples.len(), "theirs: {expected}\nours: {found}");
    ensure!(expected.period == found.period, "theirs: {}\nours: {}", expected.period, found.period);
    // That it was about something.
    ensure!(expected.samples.values().sum::<u64>() >= 30, "{expected}");
    for part in ["kind:[", "main.inlinedHere", "main.generic", "panic", "sync.(*Mutex).Lock"] {
        ensure!(expected.samples.keys().any(|sample| sample.contains(part)), "no {part} in {expected}");
    }
    nothing_remains(&theirs, &ours)
}

fn dump(target: &Process, file: &Path) -> Result<()> {
    let pid = target.pid().to_string();
    let mut command = sfgi::command(&["dump", "-p", &pid, "--format", "pprof", "-o"])?;
    Process::spawn(command.arg(file))?.wait_code(sfgi::END, 0)
}

/// The difference of the profiles, as pprof itself makes it.
fn nothing_remains(theirs: &Path, ours: &Path) -> Result<()> {
    let text = pprof::run(&["-top", "-ignore=^main\\.main$", "-diff_base"], &[theirs, ours])?;
    ensure!(text.contains("Showing nodes accounting for 0, 0% of"), "{text}");
    Ok(())
}

/// A profile as `go tool pprof -raw` prints it.
#[derive(Default)]
struct Profile {
    period: String,
    /// How many goroutines have these labels and this stack: addresses, mappings, functions, files,
    /// lines.
    samples: BTreeMap<String, u64>,
}

impl Profile {
    fn read(file: &Path) -> Result<Profile> {
        let text = pprof::run(&["-raw"], &[file])?;
        let (head, rest) = text.split_once("Samples:\n").with_context(|| text.clone())?;
        let (samples, rest) = rest.split_once("Locations\n").with_context(|| text.clone())?;
        let (locations, mappings) = rest.split_once("Mappings\n").with_context(|| text.clone())?;
        let mappings: HashMap<&str, &str> =
            mappings.lines().filter_map(|line| line.split_once(": ")).collect();
        let mut named: HashMap<&str, String> = HashMap::new();
        let mut last = "";
        for line in locations.lines() {
            // What the code is inlined into stands on lines without a number.
            let (id, mut text) = match line.trim().split_once(": 0x") {
                Some((id, rest)) => (id, format!("0x{rest}")),
                None => (last, line.trim().to_owned()),
            };
            if let Some((before, rest)) = text.split_once(" M=") {
                let (mapping, rest) = rest.split_once(' ').with_context(|| line.to_owned())?;
                text = format!("{before} {} {rest}", mappings.get(mapping).context("no such mapping")?);
            }
            named.entry(id).or_default().push_str(&format!("{text}\n"));
            last = id;
        }
        let period = head.lines().filter(|line| line.starts_with("Period")).collect();
        let mut profile = Profile { period, ..Profile::default() };
        let mut open: Option<(u64, String, String)> = None;
        // The first line names the column.
        for line in samples.lines().skip(1) {
            if let Some((count, ids)) = line.split_once(": ").filter(|_| !line.contains(":[")) {
                profile.add(open.take());
                let stack =
                    ids.split_whitespace().map(|id| named.get(id).context("no such location").cloned());
                open = Some((count.trim().parse()?, String::new(), stack.collect::<Result<String>>()?));
            } else if let Some((_, labels, _)) = &mut open {
                labels.push_str(&format!("{}\n", line.trim()));
            }
        }
        profile.add(open);
        Ok(profile)
    }

    fn add(&mut self, sample: Option<(u64, String, String)>) {
        if let Some((count, labels, stack)) = sample.filter(|(_, _, stack)| !stack.contains(WRITER)) {
            *self.samples.entry(labels + &stack).or_default() += count;
        }
    }
}

impl fmt::Display for Profile {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.samples.iter().try_for_each(|(sample, count)| write!(f, "\n{count} of\n{sample}"))
    }
}
