//! The timers that a program has set, in every Go release.

use std::{collections::BTreeMap, process::Command, time::Duration};

use crate::harness::{Test, live};
use anyhow::{Result, ensure};
use live_tests::{
    fixture::{self, Variant},
    toolchain::Go,
};
use sfgi_core::{
    binary::GoBinary,
    heap::Registers,
    heap::{self, Options, TimerKind, TimerSite},
    memory::Live,
    process::Process as Target,
    snapshot::{Clock, View},
};

pub(crate) fn tests() -> Vec<Test> {
    vec![live(every_timer_that_is_set_is_counted)]
}

const HOUR: u64 = 3_600_000_000_000;

/// The timers of the fixture, each site with the name of its function.
fn timers(go: &Go, variant: Variant, heap: bool) -> Result<Vec<(String, TimerSite)>> {
    let mut command = Command::new(fixture::build("timers", go, variant)?);
    // As new modules have it, in spite of the old version in `go.mod`.
    command.env("GODEBUG", "asynctimerchan=0");
    let target = fixture::start_command(&mut command)?;
    let process = Target::open(i32::try_from(target.pid())?)?;
    let binary = GoBinary::read(process.exe()?)?;
    let memory = Live::of(&process);
    let bias = process.load_bias(binary.image().entry())?;
    let view = View { memory: &memory, binary: &binary, bias, clock: Clock::Live };
    let options = Options { window: Duration::ZERO, passes: 1, threads: 1, heap, most: 0 };
    let observed = heap::observe(&view, &options, &mut Registers::Unknown, &mut |_| {})?.observed;
    ensure!(!heap || observed.passes > 0, "no pass: {:?}", observed.doubt);
    let name = |site: TimerSite| {
        let frames = binary.symbolize(site.func.wrapping_sub(bias));
        (frames.last().map_or_else(String::new, |frame| frame.func.to_owned()), site)
    };
    Ok(observed.timers.into_iter().map(name).collect())
}

fn every_timer_that_is_set_is_counted() -> Result<()> {
    for go in Go::all() {
        for (variant, heap) in [(Variant::Plain, true), (Variant::PieStripped, true), (Variant::Plain, false)]
        {
            let found = timers(&go, variant, heap)?;
            let counts: BTreeMap<_, _> = (found.iter())
                .map(|(name, site)| ((site.kind, name.as_str(), site.unreachable), site.count))
                .collect();
            let (timer, ticker) = (TimerKind::Timer, TimerKind::Ticker);
            let send = "time.sendTime";
            let mut expected = BTreeMap::from([
                ((TimerKind::AfterFunc, "main.fire", false), 7),
                ((TimerKind::AfterFunc, "main.set.func1", false), 5),
            ]);
            // Since Go 1.23 a channel's timer is set only while somebody waits.
            if go.minor >= 23 {
                expected.extend([((timer, send, false), 1), ((ticker, send, false), 2)]);
            } else if heap {
                expected.extend([
                    ((timer, send, false), 4),
                    ((ticker, send, false), 4),
                    ((ticker, send, true), 4),
                ]);
            } else {
                expected.extend([((timer, send, false), 4), ((ticker, send, false), 8)]);
            }
            assert_eq!(counts, expected, "go{} {variant}, heap {heap}", go.version);
            for (name, site) in &found {
                let (first, last) = site.fires_in_ns;
                let all = first <= last && first > HOUR * 9 / 10 && last <= 2 * HOUR;
                assert!(all, "go{} {variant}: {name} {site:?}", go.version);
                // The seventh fires six minutes later than the first, and one was set anew.
                let apart = match (name.as_str(), site.kind) {
                    ("main.fire", _) => HOUR / 10,
                    (_, TimerKind::Timer) if go.minor < 23 => HOUR,
                    _ => 0,
                };
                assert!((last - first).abs_diff(apart) < HOUR / 100, "go{}: {name} {site:?}", go.version);
            }
        }
    }
    Ok(())
}
