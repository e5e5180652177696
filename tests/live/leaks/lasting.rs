//! `sfgi leaks` on what is meant to last, and on what only looks like it; and what it says beyond the target's memory.

use std::{fmt, process::Command, time::Duration};

use crate::harness::{Test, live};
use anyhow::{Context, Result, ensure};
use live_tests::{
    fixture::{self, Variant},
    leaks::{self, Report, Verdict},
    machine,
    process::Process,
    toolchain::Go,
};

pub(crate) fn tests() -> Vec<Test> {
    vec![
        live(what_lasts_as_long_as_the_program_is_a_suspect_at_most),
        live(what_a_child_of_a_command_holds_open),
        live(when_sleepers_wake),
        live(which_call_a_thread_is_in),
        live(channels_of_timers_by_go_mod_and_environment),
        live(a_steady_leak_is_told_of_in_each_round),
    ]
}

const RELEASES: [u32; 4] = [21, 24, 26, 27];
const WIDTH: usize = 4;
const HASTE: [&str; 4] = ["--observe", "600ms", "--min-age", "300ms"];

struct Case {
    way: &'static str,
    go: Go,
    variant: Variant,
}

impl fmt::Display for Case {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} go{} {}", self.way, self.go.version, self.variant)
    }
}

fn for_each(ways: &[&'static str], check: impl Fn(&Case, &Report) -> Result<()> + Sync) -> Result<()> {
    let mut cases = Vec::new();
    for go in Go::all().into_iter().filter(|go| RELEASES.contains(&go.minor)) {
        for variant in [Variant::Plain, Variant::PieStripped] {
            fixture::build("lasting", &go, variant)?;
            cases.extend(ways.iter().map(|way| Case { way, go: go.clone(), variant }));
        }
    }
    let failures = leaks::side_by_side(WIDTH, &cases, |case| {
        let target = fixture::start("lasting", &case.go, case.variant, &["-way", case.way])?;
        let report = leaks::json(target.pid(), &HASTE)?;
        check(case, &report).with_context(|| report.lines(Verdict::Suspect).join("\n"))
    });
    failures.iter().for_each(|failure| machine::report(failure));
    ensure!(failures.is_empty(), "{} of {} cases failed, see above", failures.len(), cases.len());
    Ok(())
}

/// How many goroutines in a function have at least this verdict.
fn count(report: &Report, func: &str, least: Verdict) -> usize {
    report.leaks.iter().filter(|leak| leak.has(func) && leak.verdict >= least).count()
}

fn what_lasts_as_long_as_the_program_is_a_suspect_at_most() -> Result<()> {
    for_each(&["start", "later", "signal", "cancel"], |case, report| {
        let (func, likely) = match case.way {
            "start" => ("main.(*client).watch", 0),
            "later" => ("main.(*client).watch", 5),
            "signal" => ("main.serve", 0),
            _ => ("main.serve", 5),
        };
        let found = count(report, func, Verdict::Likely);
        ensure!(found == likely, "{found} of {likely} in {func} are likely");
        ensure!(count(report, func, Verdict::Suspect) == 5, "they are not told of at all");
        let why = match case.way {
            "start" => "were made when the program started",
            "signal" => "waits for a context of signal.NotifyContext",
            _ => return Ok(()),
        };
        let told = report.groups.iter().flat_map(|group| &group.evidence).any(|said| said.contains(why));
        ensure!(told, "it does not say why");
        Ok(())
    })
}

fn what_a_child_of_a_command_holds_open() -> Result<()> {
    for_each(&["exec", "exec-limit"], |case, report| {
        let found: Vec<_> = report.groups.iter().filter(|group| group.class == "exec-output-held").collect();
        if case.way == "exec-limit" {
            ensure!(found.is_empty(), "it ends by itself: {found:?}");
            return Ok(());
        }
        ensure!(found.len() == 1 && found[0].count == 3, "{found:?}");
        let group = found[0];
        ensure!(group.verdict == Verdict::Likely && group.fix.contains("WaitDelay"), "{group:?}");
        let held = |said: &&String| {
            said.contains(" (sleep) still holds pipe:[") && said.ends_with("open and can write to it")
        };
        ensure!(group.evidence.iter().filter(held).count() == 3, "{:?}", group.evidence);
        Ok(())
    })
}

fn when_sleepers_wake() -> Result<()> {
    for_each(&["sleep"], |_, report| {
        let group = report.groups.iter().find(|group| group.count == 5).context("no sleepers")?;
        // An hour less what has passed.
        let told = |said: &String| said.starts_with("they sleep, and wake in 59m");
        ensure!(group.evidence.iter().any(told), "{:?}", group.evidence);
        Ok(())
    })
}

/// A read of a pipe that the poller does not know.
fn which_call_a_thread_is_in() -> Result<()> {
    for go in Go::all().into_iter().filter(|go| RELEASES.contains(&go.minor)) {
        let target = fixture::start("leaks", &go, Variant::Stripped, &["-class", "stuck-syscall"])?;
        let report = leaks::json(target.pid(), &HASTE)?;
        let group = report.groups.iter().find(|group| group.class == "stuck-syscall").context("no call")?;
        let told = |said: &&String| said.contains(" is in read of descriptor ") && said.contains(", pipe:[");
        ensure!(group.evidence.iter().filter(told).count() == 3, "go{}: {:?}", go.version, group.evidence);
    }
    Ok(())
}

/// The ways to say whether channels of timers are like any other, and whether they are then.
const SAID: [(Variant, Option<&str>, bool); 5] = [
    (Variant::Plain, None, true),
    (Variant::Plain, Some("asynctimerchan=0"), false),
    (Variant::NewModule, None, false),
    (Variant::NewModule, Some("gctrace=0,asynctimerchan=1"), true),
    (Variant::NewModule, Some("asynctimerchan=2"), false),
];

fn channels_of_timers_by_go_mod_and_environment() -> Result<()> {
    let mut cases = Vec::new();
    for go in Go::all().into_iter().filter(|go| [24, 26, 27].contains(&go.minor)) {
        for (variant, environment, old) in SAID {
            // Go 1.27 has no such setting, and refuses to start with an old value of it.
            if go.minor >= 27 && environment.is_some_and(|said| !said.ends_with("=0")) {
                continue;
            }
            fixture::build("leaks", &go, variant)?;
            cases.push((go.clone(), variant, environment, old && go.minor < 27));
        }
    }
    for (go, variant, environment, old) in cases {
        let about = format!("go{} {variant} {environment:?}", go.version);
        for (way, class) in [
            ("timer-stopped", "timer-stopped"),
            // Its elements are no times.
            ("range-of-three-words", "range-never-closed"),
        ] {
            let mut command = Command::new(fixture::build("leaks", &go, variant)?);
            command.args(["-class", way]);
            environment.map(|godebug| command.env("GODEBUG", godebug));
            let target = fixture::start_command(&mut command)?;
            let text = leaks::text(target.pid(), &HASTE)?;
            let report = leaks::json(target.pid(), &HASTE)?;
            let group = report.groups.iter().find(|group| group.count == 5).context(about.clone())?;
            ensure!(
                (group.verdict, group.class.as_str()) == (Verdict::Proven, class),
                "{about}: {way} is {group:?}"
            );
            let known = text.contains(", of a timer)");
            ensure!(known == (way == "timer-stopped" && !old), "{about}: {text}");
        }
    }
    Ok(())
}

fn a_steady_leak_is_told_of_in_each_round() -> Result<()> {
    let target =
        fixture::start("growing", &Go::newest(), Variant::Plain, &["-every", "5ms", "-heap", "4096"])?;
    let args = ["--watch=2s", "--observe", "500ms", "--format", "json"];
    let mut sfgi = Process::spawn(&mut leaks::command(target.pid(), &args)?)?;
    let reports = leaks::watched(&mut sfgi, 6, Duration::from_secs(60))?;
    let counts: Vec<u64> = (reports.iter())
        .map(|report| {
            let growing = report.groups.iter().filter(|group| group.growth_per_s.is_some());
            growing.map(|group| group.count).sum()
        })
        .collect();
    ensure!(
        counts.len() >= 6 && counts.first() > Some(&0) && counts.windows(2).all(|pair| pair[0] < pair[1]),
        "growing, by round: {counts:?}"
    );
    Ok(())
}
