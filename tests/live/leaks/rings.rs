//! `sfgi leaks` on programs whose goroutines wait for each other over what variables hold: nothing is proven, and the
//! ring is named all the same; and on programs that only look like it.

use std::{
    fmt,
    io::Write as _,
    process::{Command, Stdio},
};

use crate::harness::{Need, Test, live};
use anyhow::{Context, Result, ensure};
use live_tests::{
    fixture::{self, Variant},
    leaks::{self, Report, Verdict},
    machine,
    process::Process,
    sfgi,
    toolchain::Go,
};
use serde_json::Value;

pub(crate) fn tests() -> Vec<Test> {
    vec![
        live(rings_are_named_exactly),
        live(what_is_no_ring_is_told_of_as_none),
        live(the_graph_has_who_holds_what).needs(Need::Program("dot")),
    ]
}

/// The releases that they are tried on.
const RELEASES: [u32; 4] = [21, 24, 26, 27];
/// How many programs run at a time: most of them only stand.
const WIDTH: usize = 4;
/// A ring is to be seen now, not in a minute.
const HASTE: [&str; 4] = ["--observe", "700ms", "--min-age", "300ms"];
/// What is said of rings.
const CLASSES: [&str; 5] =
    ["recursive-lock", "recursive-read-lock", "lock-order-cycle", "lock-channel-mixed", "channel-cycle"];

/// The ways of the fixture, and whether every wait of the ring is known for certain.
const RINGS: [(&str, bool); 7] = [
    ("order-deferred", true),
    ("order-plain", false),
    ("order-of-three", true),
    ("recursive", true),
    ("recursive-read", true),
    ("queue-locked", false),
    ("channels", false),
];
/// Those without a ring, and the same done right.
const OTHERS: [&str; 6] =
    ["helped", "handed-over", "condition-again", "let-go", "neighbours", "slow-network"];

struct Case {
    way: &'static str,
    sure: bool,
    fixed: bool,
    go: Go,
    variant: Variant,
}

impl fmt::Display for Case {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let fixed = if self.fixed { ", fixed" } else { "" };
        write!(f, "{}{fixed} go{} {}", self.way, self.go.version, self.variant)
    }
}

impl Case {
    fn report(&self) -> Result<(Process, Report)> {
        let mut args = vec!["-way", self.way];
        args.extend(self.fixed.then_some("-fixed"));
        let target = fixture::start("rings", &self.go, self.variant, &args)?;
        let report = leaks::json(target.pid(), &HASTE)?;
        Ok((target, report))
    }
}

fn for_each(ways: &[(&'static str, bool, bool)], check: impl Fn(&Case) -> Result<()> + Sync) -> Result<()> {
    let mut cases = Vec::new();
    for go in Go::all().into_iter().filter(|go| RELEASES.contains(&go.minor)) {
        for variant in [Variant::Plain, Variant::PieStripped] {
            fixture::build("rings", &go, variant)?;
            for &(way, sure, fixed) in ways {
                cases.push(Case { way, sure, fixed, go: go.clone(), variant });
            }
        }
    }
    let failures = leaks::side_by_side(WIDTH, &cases, check);
    failures.iter().for_each(|failure| machine::report(failure));
    ensure!(failures.is_empty(), "{} of {} cases failed, see above", failures.len(), cases.len());
    Ok(())
}

/// The function of the fixture that a goroutine was started with.
fn function(report: &Report, goid: u64) -> Result<String> {
    let leak = report.leaks.iter().find(|leak| leak.goid == goid);
    let outermost = leak.and_then(|leak| leak.stack.last()).with_context(|| format!("no stack of {goid}"))?;
    Ok(outermost.func.trim_start_matches("main.").to_owned())
}

fn rings_are_named_exactly() -> Result<()> {
    let ways = RINGS.map(|(way, sure)| (way, sure, false));
    for_each(&ways, |case| {
        let (target, report) = case.report()?;
        let shown = || report.lines(Verdict::Suspect).join("\n");
        let lines = target.stdout.lines();
        let said = lines.iter().find_map(|line| line.text.strip_prefix("ring ")).context("no ring")?;
        let (class, expected) = said.split_once(' ').context("no members")?;
        let expected: Vec<&str> = expected.split(' ').collect();
        let rings: Vec<_> = report.groups.iter().filter(|group| group.class == class).collect();
        let members: u64 = rings.iter().map(|group| group.count).sum();
        ensure!(members == expected.len() as u64, "{members} are in the ring of {expected:?}:\n{}", shown());
        for group in rings {
            ensure!(group.verdict == Verdict::Likely, "not likely:\n{}", shown());
            let ring =
                group.ring.iter().map(|turn| function(&report, turn.waiter)).collect::<Result<Vec<_>>>()?;
            // It begins with the group's own member.
            let mut right = expected.clone();
            let begin = right.iter().position(|name| Some(*name) == ring.first().map(String::as_str));
            right.rotate_left(begin.with_context(|| format!("{ring:?} is not {expected:?}"))?);
            ensure!(ring == right, "the ring is {ring:?}, not {right:?}:\n{}", shown());
            let next = group.ring.iter().cycle().skip(1);
            ensure!(
                group.ring.iter().zip(next).all(|(turn, next)| turn.holder == next.waiter),
                "{:?}",
                group.ring
            );
            let sure = group.ring.iter().all(|turn| !turn.inferred);
            ensure!(sure == case.sure, "{:?}", group.ring);
            ensure!(
                group.evidence.iter().filter(|said| said.contains(" waits ")).count() >= expected.len(),
                "{:?}",
                group.evidence
            );
        }
        let other =
            report.groups.iter().find(|group| CLASSES.contains(&&*group.class) && group.class != class);
        ensure!(other.is_none(), "{other:?}");
        for behind in lines.iter().filter_map(|line| line.text.strip_prefix("behind ")) {
            let waits = report.leaks.iter().find(|leak| leak.has(&format!("main.{behind}")));
            let in_ring = waits.is_some_and(|leak| CLASSES.contains(&&*leak.class));
            ensure!(!in_ring, "{behind} only waits behind it:\n{}", shown());
        }
        Ok(())
    })
}

/// `sfgi dump --graph`: two in a ring and one behind them, and nobody else.
fn the_graph_has_who_holds_what() -> Result<()> {
    let target = fixture::start("rings", &Go::newest(), Variant::Stripped, &["-way", "order-deferred"])?;
    let dump = |form: &str| -> Result<String> {
        let output = sfgi::command(&["dump", "-p", &target.pid().to_string(), "--graph", form])?.output()?;
        let stderr = String::from_utf8_lossy(&output.stderr).into_owned();
        ensure!(
            output.status.success() && stderr.contains("3 of them are stuck"),
            "{}: {stderr}",
            output.status
        );
        Ok(String::from_utf8(output.stdout)?)
    };
    let graph: Value = serde_json::from_str(&dump("json")?)?;
    ensure!(graph["schema"] == "sfgi.graph/1", "{graph:#}");
    let at = |goid: &Value| {
        let all = graph["goroutines"].as_array().into_iter().flatten();
        let mut function =
            all.filter(|one| one["goid"] == *goid).filter_map(|one| one["at"]["func"].as_str());
        function.next_back().unwrap_or_default().to_owned()
    };
    let mut waits: Vec<_> = (graph["waits"].as_array().context("waits")?.iter())
        .map(|wait| {
            (at(&wait["waiter"]), at(&wait["holder"]), wait["by"] == "unlock" && wait["inferred"] == false)
        })
        .collect();
    waits.sort();
    let wait = |waiter: &str, holder: &str| (format!("main.{waiter}"), format!("main.{holder}"), true);
    let expected = [
        wait("lockOrdersThenUsers", "lockUsersThenOrders"),
        wait("lockUsersThenOrders", "lockOrdersThenUsers"),
        wait("readUsers", "lockUsersThenOrders"),
    ];
    ensure!(waits == expected, "{waits:?}");
    let mermaid = dump("mermaid")?;
    ensure!(mermaid.starts_with("flowchart LR\n") && mermaid.matches(" -->|").count() == 3, "{mermaid}");
    let mut dot = Command::new("dot").arg("-Tsvg").stdin(Stdio::piped()).stdout(Stdio::piped()).spawn()?;
    dot.stdin.take().context("stdin")?.write_all(dump("dot")?.as_bytes())?;
    let drawn = dot.wait_with_output()?;
    let svg = String::from_utf8(drawn.stdout)?;
    ensure!(drawn.status.success() && svg.matches("class=\"edge\"").count() == 3, "{svg}");
    Ok(())
}

fn what_is_no_ring_is_told_of_as_none() -> Result<()> {
    let fixed = RINGS.iter().map(|(way, _)| (*way, false, true));
    let ways: Vec<_> = OTHERS.iter().map(|way| (*way, false, false)).chain(fixed).collect();
    for_each(&ways, |case| {
        let (_target, report) = case.report()?;
        let ring = report.groups.iter().find(|group| CLASSES.contains(&&*group.class));
        ensure!(ring.is_none(), "{ring:?}");
        if case.way == "slow-network" {
            // Who holds it sleeps, and waits for nothing that has an address.
            let told = |line: &String| line.contains("holds it: its Unlock is deferred at main.holdAndSleep");
            let shown = report.lines(Verdict::Suspect);
            ensure!(report.groups.iter().any(|group| group.evidence.iter().any(told)), "{shown:?}");
        }
        ensure!(
            !case.fixed || report.lines(Verdict::Likely).is_empty(),
            "{:?}",
            report.lines(Verdict::Likely)
        );
        Ok(())
    })
}
