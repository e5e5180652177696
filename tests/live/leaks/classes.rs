//! `sfgi leaks` on programs that leak in each of the classes, and on the same programs done right.

use std::fmt;

use anyhow::{Result, ensure};
use live_tests::{
    fixture::{self, Variant},
    leaks::{self, Report, Verdict},
    machine,
    toolchain::Go,
};

/// The releases that the classes are tried on.
const RELEASES: [u32; 4] = [21, 24, 26, 27];

/// How many programs run at a time: most of them only stand.
const WIDTH: usize = 6;

/// A leak is to be seen now, not in five minutes.
const HASTE: [&str; 4] = ["--observe", "1200ms", "--min-age", "500ms"];

/// A way to leak, and what is to be said of it.
struct Leak {
    /// Its name in the fixture.
    way: &'static str,
    class: &'static str,
    verdict: Verdict,
    /// Functions, and how many goroutines are to be found in each at least.
    funcs: &'static [(&'static str, usize)],
    /// Functions of other goroutines that belong to it: these may be reported as well.
    may: &'static [&'static str],
}

const fn leak(
    way: &'static str,
    class: &'static str,
    verdict: Verdict,
    funcs: &'static [(&'static str, usize)],
) -> Leak {
    Leak { way, class, verdict, funcs, may: &[] }
}

use crate::harness::{Test, live};
use Verdict::{Likely, Proven};

pub(crate) fn tests() -> Vec<Test> {
    vec![live(each_class_has_its_verdict), live(the_same_done_right_is_silent)]
}

const HTTP_SERVER: &[&str] = &["net/http.(*conn).serve"];

const LEAKS: [Leak; 33] = [
    leak("nil-channel", "nil-channel", Proven, &[("main.(*mailer).run", 5)]),
    leak("select-no-cases", "select-no-cases", Proven, &[("main.keepSubscribed", 5)]),
    leak("send-without-receiver", "send-without-receiver", Proven, &[("main.askReplica", 10)]),
    leak("send-without-receiver-return", "send-without-receiver", Proven, &[("main.checkAddress", 5)]),
    leak("send-without-receiver-timeout", "send-without-receiver", Proven, &[("main.fetch", 5)]),
    leak("receive-without-sender", "receive-without-sender", Proven, &[("main.audit", 5)]),
    leak("range-never-closed", "range-never-closed", Proven, &[("main.resize", 5)]),
    leak("select-dead", "select-dead", Proven, &[("main.(*watcher).watch", 5)]),
    leak("waitgroup-never-done", "waitgroup-never-done", Proven, &[("main.finishUpload", 5)]),
    leak("mutex-never-unlocked", "mutex-never-unlocked", Proven, &[("main.(*account).deposit", 5)]),
    leak("mutex-never-unlocked-rw", "mutex-never-unlocked", Proven, &[("main.(*cache).get", 5)]),
    leak("lock-order-cycle", "lock-order-cycle", Proven, &[("main.transfer", 10)]),
    leak(
        "lock-channel-mixed",
        "lock-channel-mixed",
        Proven,
        &[("main.(*board).publish", 5), ("main.(*board).consume", 5)],
    ),
    leak("cond-never-signalled", "cond-never-signalled", Proven, &[("main.(*queue).pop", 5)]),
    leak("context-never-cancelled", "context-never-cancelled", Proven, &[("main.watchConfig", 5)]),
    leak("context-never-cancelled-chain", "context-never-cancelled", Proven, &[("main.export", 5)]),
    leak("context-never-cancelled-server", "context-never-cancelled", Likely, &[("main.session", 5)]),
    leak("timer-stopped", "timer-stopped", Proven, &[("main.refresh", 5)]),
    leak("timer-never-stopped", "timer-never-stopped", Likely, &[("main.pollPrices", 5)]),
    leak("timer-never-stopped-afterfunc", "timer-never-stopped", Likely, &[]),
    leak(
        "connection-never-closed",
        "connection-never-closed",
        Likely,
        &[("main.readReplies", 5), ("main.answer", 5)],
    ),
    leak(
        "connection-never-closed-tls",
        "connection-never-closed",
        Likely,
        &[("main.handshake", 5), ("main.swallow", 5)],
    ),
    Leak {
        way: "connection-never-closed-body",
        class: "connection-never-closed",
        verdict: Likely,
        funcs: &[("net/http.(*persistConn).readLoop", 5), ("net/http.(*persistConn).writeLoop", 5)],
        may: HTTP_SERVER,
    },
    Leak {
        way: "connection-never-closed-idle",
        class: "connection-never-closed",
        verdict: Likely,
        funcs: &[("net/http.(*persistConn).readLoop", 5), ("net/http.(*persistConn).writeLoop", 5)],
        may: HTTP_SERVER,
    },
    Leak {
        way: "connection-never-closed-http2",
        class: "connection-never-closed",
        verdict: Likely,
        funcs: &[("net/http.(*http2ClientConn).readLoop", 5)],
        may: &["net/http.(*http2serverConn).readFrames", "net/http.(*conn).serve"],
    },
    leak(
        "connection-never-closed-rows",
        "connection-never-closed",
        Likely,
        &[("database/sql.(*Rows).awaitDone", 5)],
    ),
    leak(
        "connection-never-closed-db",
        "connection-never-closed",
        Proven,
        &[("database/sql.(*DB).connectionOpener", 5)],
    ),
    leak("sdk-resident", "sdk-resident", Likely, &[("main.(*rpcClient).intercept", 5)]),
    leak("sdk-resident-collector", "sdk-resident", Likely, &[("main.(*collector).collect", 5)]),
    leak("pseudo-idle-spin", "pseudo-idle-spin", Likely, &[("main.yieldUntil", 3)]),
    leak("pseudo-idle-spin-sleep", "pseudo-idle-spin", Likely, &[("main.sleepZeroUntil", 3)]),
    leak("stuck-syscall", "stuck-syscall", Likely, &[("main.tail", 5)]),
    leak("stuck-syscall-cgo", "stuck-syscall", Likely, &[("main.readDevice", 5)]),
];

/// One of them, built by one release.
struct Case<'a> {
    leak: &'a Leak,
    go: &'a Go,
}

impl fmt::Display for Case<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} go{}", self.leak.way, self.go.version)
    }
}

impl Case<'_> {
    /// Starts it, or its twin, and returns the reports with each of these arguments.
    fn reports<const N: usize>(&self, fixed: bool, args: [&[&str]; N]) -> Result<[Report; N]> {
        let name = if self.leak.way == "stuck-syscall-cgo" { "cgoleaks" } else { "leaks" };
        let mut start = vec!["-class", self.leak.way];
        start.extend(fixed.then_some("-fixed"));
        let target = fixture::start(name, self.go, Variant::Plain, &start)?;
        let reports = args.iter().map(|args| leaks::json(target.pid(), args)).collect::<Result<Vec<_>>>()?;
        reports.try_into().map_err(|_| anyhow::anyhow!("as many as there are arguments"))
    }
}

impl Case<'_> {
    /// The name of a function in this release: HTTP/2 has a package of its own since Go 1.27.
    fn named(&self, func: &str) -> String {
        match func.strip_prefix("net/http.(*http2") {
            Some(method) if self.go.minor >= 27 => format!("net/http/internal/http2.(*{method}"),
            _ => func.to_owned(),
        }
    }
}

fn for_each_case(check: impl Fn(&Case) -> Result<()> + Sync) -> Result<()> {
    let releases: Vec<Go> = Go::all().into_iter().filter(|go| RELEASES.contains(&go.minor)).collect();
    let mut cases = Vec::new();
    for go in &releases {
        // Not all at a time want to build it.
        fixture::build("leaks", go, Variant::Plain)?;
        fixture::build("cgoleaks", go, Variant::Plain)?;
        cases.extend(LEAKS.iter().map(|leak| Case { leak, go }));
    }
    let failures = leaks::side_by_side(WIDTH, &cases, check);
    for failure in &failures {
        machine::report(failure);
    }
    ensure!(failures.is_empty(), "{} of {} cases failed, see above", failures.len(), cases.len());
    machine::report(&format!("{} cases on {} releases", cases.len(), releases.len()));
    Ok(())
}

fn each_class_has_its_verdict() -> Result<()> {
    for_each_case(|case| {
        let leak = case.leak;
        let [report] = case.reports(false, [&HASTE])?;
        let shown = || report.lines(Verdict::Suspect).join("\n");
        for (func, count) in leak.funcs {
            let func = case.named(func);
            let there = report.leaks.iter().filter(|found| found.has(&func));
            let right =
                there.filter(|found| (found.verdict, found.class.as_str()) == (leak.verdict, leak.class));
            let right = right.count();
            ensure!(
                right >= *count,
                "{right} of {count} in {func} are {:?} {}:\n{}",
                leak.verdict,
                leak.class,
                shown()
            );
        }
        if leak.funcs.is_empty() {
            let right = report.groups.iter().any(|group| {
                (group.verdict, group.class.as_str()) == (leak.verdict, leak.class) && group.count >= 100
            });
            ensure!(right, "no group of timers is {:?} {}:\n{}", leak.verdict, leak.class, shown());
        }
        let belongs = |found: &leaks::Leak| {
            let mut funcs = leak.funcs.iter().map(|(func, _)| *func).chain(leak.may.iter().copied());
            funcs.any(|func| found.has(&case.named(func)))
        };
        let other = report.leaks.iter().find(|found| found.verdict > Verdict::Suspect && !belongs(found));
        ensure!(other.is_none(), "{other:?} is none of the leaked ones");
        Ok(())
    })
}

fn the_same_done_right_is_silent() -> Result<()> {
    for_each_case(|case| {
        let [usual, hasty] = case.reports(true, [&["--observe", "300ms"], &HASTE])?;
        let lines = usual.lines(Verdict::Suspect);
        ensure!(lines.is_empty(), "by default:\n{}", lines.join("\n"));
        let lines = hasty.lines(Verdict::Likely);
        ensure!(lines.is_empty(), "with {HASTE:?}:\n{}", lines.join("\n"));
        Ok(())
    })
}
