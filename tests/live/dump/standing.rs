//! `sfgi dump` held against what the program says of itself, while the program goes on.

use std::{
    collections::BTreeMap,
    fmt, thread,
    time::{Duration, Instant},
};

use crate::harness::{Test, live};
use anyhow::{Context, Result, ensure};
use live_tests::{
    crowd::{self, Crowd},
    dump::{self, Dump},
    fixture::Variant,
    machine,
    source::Source,
    toolchain::Go,
    traceback::Goroutine,
};

pub(crate) fn tests() -> Vec<Test> {
    vec![
        live(what_stands_is_alike_and_what_moves_is_possible),
        live(what_has_stood_for_a_minute_says_so),
        live(labels_locks_threads_and_system_goroutines),
        live(selections_orders_and_groups).quick(),
    ]
}

/// Dumps of each build while it moves.
const DUMPS: usize = 50;

/// The largest share of moving goroutines that may be given up on as moving too fast.
const IN_MOTION: f64 = 0.2;

/// What a series of dumps showed.
#[derive(Default)]
struct Tally {
    dumps: u32,
    elapsed: Duration,
    /// Standing goroutines compared, and those called in motion: the collector scans them, too.
    standing: usize,
    standing_in_motion: usize,
    /// Moving goroutines whose stack was checked, by the text; and by trust, by the JSON.
    checked: usize,
    trust: BTreeMap<String, usize>,
}

impl Tally {
    fn share(&self, trust: &str) -> f64 {
        let count = self.trust.get(trust).copied().unwrap_or(0);
        count as f64 / self.trust.values().sum::<usize>().max(1) as f64
    }
}

impl fmt::Display for Tally {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let each = self.elapsed / self.dumps.max(1);
        write!(
            f,
            "{} standing alike ({} in motion), {} moving possible, {:.1} % in motion, {:.1} % running; {each:.0?} a dump",
            self.standing,
            self.standing_in_motion,
            self.checked,
            self.share("in motion") * 100.0,
            self.share("running") * 100.0,
        )
    }
}

/// Every release, as `go build` makes it and without symbols: what stands still is line by line what
/// the runtime says of it in each of many dumps, and what moves is shown as something it can be.
fn what_stands_is_alike_and_what_moves_is_possible() -> Result<()> {
    let source = Source::of("crowd")?;
    let mut failures = 0;
    for go in Go::all() {
        for variant in [Variant::Plain, Variant::PieStripped] {
            let result = Crowd::start(&go, variant).and_then(|crowd| many_dumps(crowd, &source));
            let build = format!("go{} {variant}", go.version);
            match result {
                Ok(tally) => machine::report(&format!("{build}: {tally}")),
                Err(error) => {
                    failures += 1;
                    machine::report(&format!("{build}: FAILED: {error:#}"));
                }
            }
        }
    }
    ensure!(failures == 0, "{failures} builds failed, see above");
    Ok(())
}

/// Every release at the same time.
fn what_has_stood_for_a_minute_says_so() -> Result<()> {
    let mut aging = Go::all().iter().map(Aging::start).collect::<Result<Vec<_>>>()?;
    aging.iter_mut().try_for_each(Aging::has_aged)
}

fn many_dumps(mut crowd: Crowd, source: &Source) -> Result<Tally> {
    let pid = crowd.process.pid();
    let mut tally = Tally::default();
    tally.standing_in_motion += crowd.agrees(&dump::traceback(pid, &[])?)?;
    ensure!(tally.standing_in_motion == 0, "in motion though nothing moves: {}", tally.standing_in_motion);

    crowd.set_in_motion()?;
    let moving = crowd.moving()?;
    for goroutine in moving.values().filter(|goroutine| goroutine.status != "running") {
        source.check(goroutine).context("the check is wrong: the runtime itself says so")?;
    }
    let started = Instant::now();
    for _ in 0..DUMPS / 2 {
        text_is_right(&crowd, &moving, source, &mut tally)?;
        json_is_right(&crowd, &moving, &mut tally)?;
        tally.dumps += 2;
    }
    tally.elapsed = started.elapsed();
    let signals = crowd.process.stdout.lines().into_iter().filter(|line| line.text.starts_with("signal"));
    ensure!(signals.count() == 0, "the target got signals");
    ensure!(tally.checked > DUMPS * 10, "only {} stacks of moving goroutines were checked", tally.checked);
    ensure!(tally.share("in motion") < IN_MOTION, "too many in motion: {tally}");
    ensure!(tally.standing_in_motion * 100 <= tally.standing, "standing, yet in motion: {tally}");
    Ok(tally)
}

fn text_is_right(
    crowd: &Crowd,
    moving: &BTreeMap<u64, Goroutine>,
    source: &Source,
    tally: &mut Tally,
) -> Result<()> {
    let shown = dump::traceback(crowd.process.pid(), &[])?;
    tally.standing_in_motion += crowd.agrees(&shown)?;
    tally.standing += crowd.standing.len();
    let lost = moving.keys().find(|goid| !shown.contains_key(goid));
    ensure!(lost.is_none(), "a moving goroutine is missing: {:?}", lost.map(|goid| &moving[goid]));
    let of_main = |goroutine: &&Goroutine| {
        let creator = goroutine.creator.as_ref();
        creator.is_some_and(|creator| creator.func.starts_with("main.")) && !crowd::is_standing(goroutine)
    };
    for goroutine in shown.values().filter(of_main).filter(|goroutine| !dump::is_marked(goroutine)) {
        source.check(goroutine)?;
        tally.checked += 1;
    }
    Ok(())
}

fn json_is_right(crowd: &Crowd, moving: &BTreeMap<u64, Goroutine>, tally: &mut Tally) -> Result<()> {
    let dump = dump::json(crowd.process.pid(), &[])?;
    ensure!(dump.unreadable == 0, "{} goroutines could not be read", dump.unreadable);
    let shown: BTreeMap<u64, &dump::Goroutine> = dump.goroutines.iter().map(|g| (g.goid, g)).collect();
    ensure!(shown.len() == dump.goroutines.len(), "a goroutine occurs twice");
    for own in crowd.standing.values() {
        let shown = shown.get(&own.goid).with_context(|| format!("missing: {own:#?}"))?;
        if shown.trust == "still" {
            same(own, shown).with_context(|| format!("is\n{own:#?}\nbut shown is\n{shown:#?}"))?;
        }
    }
    for goid in moving.keys() {
        ensure!(shown.contains_key(goid), "a moving goroutine is missing: {:?}", moving[goid]);
    }
    for goroutine in dump.goroutines.iter().filter(|g| !crowd.standing.contains_key(&g.goid)) {
        ensure!(goroutine.trust != "broken", "broken: {goroutine:#?}");
        *tally.trust.entry(goroutine.trust.clone()).or_default() += 1;
    }
    Ok(())
}

/// The JSON says of a goroutine what the runtime says. It has all frames, the runtime shows some.
fn same(own: &Goroutine, shown: &dump::Goroutine) -> Result<()> {
    let status = if shown.wait_reason.is_empty() { &shown.status } else { &shown.wait_reason };
    ensure!(*status == own.status, "status {status}");
    let locked = own.remarks.iter().any(|remark| remark == "locked to thread");
    ensure!(shown.locked_to_thread == locked, "locked: {}", shown.locked_to_thread);
    let mut all = shown.stack.iter();
    for frame in &own.frames {
        let place = (frame.func.as_str(), frame.file.as_str(), frame.line);
        // The text shortens type arguments, and the JSON need not.
        let found = all.any(|shown| (shown.func.as_str(), shown.file.as_str(), shown.line) == place);
        ensure!(found, "no frame {place:?} in this order");
    }
    let creator = own.creator.as_ref().map(|creator| (creator.func.as_str(), creator.line, creator.goid));
    let shown = shown.created_by.as_ref().map(|creator| (creator.func.as_str(), creator.line, creator.goid));
    ensure!(shown == creator, "created by {shown:?}");
    Ok(())
}

fn with_func<'a>(dump: &'a Dump, func: &str) -> Vec<&'a dump::Goroutine> {
    dump.goroutines.iter().filter(|goroutine| goroutine.has(func)).collect()
}

fn labels_locks_threads_and_system_goroutines() -> Result<()> {
    for go in Go::all() {
        attributes(&go).with_context(|| format!("go{}", go.version))?;
    }
    Ok(())
}

fn attributes(go: &Go) -> Result<()> {
    let mut crowd = Crowd::start(go, Variant::PieStripped)?;
    let own = crowd::own_stacks(&mut crowd.process)?;
    let pid = crowd.process.pid();
    let dump = dump::json(pid, &[])?;
    ensure!(dump.pid == Some(pid) && dump.go_version == format!("go{}", go.version), "{dump:?}");

    let labelled = with_func(&dump, "main.stillLabelled");
    let expected = BTreeMap::from([("request", "42"), ("tenant", "blue")].map(|(k, v)| (k.into(), v.into())));
    ensure!(labelled.len() == crowd::EACH, "{} labelled", labelled.len());
    for goroutine in &dump.goroutines {
        let labels = if goroutine.has("main.stillLabelled") { &expected } else { &BTreeMap::new() };
        ensure!(goroutine.labels == *labels, "labels: {goroutine:#?}");
        let own = own.get(&goroutine.goid).with_context(|| format!("no such goroutine: {goroutine:#?}"))?;
        let locked = own.remarks.iter().any(|remark| remark == "locked to thread");
        ensure!(goroutine.locked_to_thread == locked, "locked: {goroutine:#?}");
        ensure!(!goroutine.system, "a system goroutine: {goroutine:#?}");
    }
    // A goroutine in a system call has a thread, and the thread is in that call.
    for goroutine in with_func(&dump, "main.stillSyscall") {
        let tid = goroutine.tid.context("no thread")?;
        let call = std::fs::read_to_string(format!("/proc/{pid}/task/{tid}/syscall"))?;
        ensure!(call.starts_with("0 ") && goroutine.status == "syscall", "{call}{goroutine:#?}");
    }
    let all = dump::json(pid, &["--system"])?;
    let system = all.goroutines.iter().filter(|goroutine| goroutine.system);
    let starts: Vec<&str> = system.filter_map(|goroutine| goroutine.start_func.as_deref()).collect();
    for func in ["runtime.forcegchelper", "runtime.bgsweep", "runtime.bgscavenge"] {
        ensure!(starts.contains(&func), "no {func} among {starts:?}");
    }
    let user = all.goroutines.iter().filter(|goroutine| !goroutine.system).count();
    ensure!(user == dump.goroutines.len(), "{user} of {} are user goroutines", dump.goroutines.len());
    Ok(())
}

/// A program that has collected garbage, which stamps `g.waitsince` of all that wait (`src/runtime/mgcmark.go`,
/// `markroot`). Before, no age is known.
struct Aging {
    crowd: Crowd,
    /// When it was told to collect, and when it had done so.
    stamped: (Instant, Instant),
}

impl Aging {
    fn start(go: &Go) -> Result<Aging> {
        let mut crowd = Crowd::start(go, Variant::Plain)?;
        let dump = dump::json(crowd.process.pid(), &["--func", "main.stillReceive"])?;
        ensure!(dump.goroutines.len() == crowd::EACH, "{dump:?}");
        let aged = dump.goroutines.iter().find(|goroutine| goroutine.waiting_ms.is_some());
        ensure!(aged.is_none(), "go{}: no collection, yet an age: {aged:?}", go.version);
        let told = Instant::now();
        crowd.process.command("gc", Duration::from_secs(120))?;
        Ok(Aging { crowd, stamped: (told, Instant::now()) })
    }

    /// A minute after the collection.
    fn has_aged(&mut self) -> Result<()> {
        let (told, done) = self.stamped;
        thread::sleep(Duration::from_millis(61_500).saturating_sub(done.elapsed()));
        let pid = self.crowd.process.pid();
        let minutes = |all: BTreeMap<u64, Goroutine>| {
            let standing = all.into_iter().filter(|(_, goroutine)| crowd::is_standing(goroutine));
            standing.map(|(goid, goroutine)| (goid, goroutine.minutes)).collect::<BTreeMap<_, _>>()
        };
        let before = minutes(crowd::own_stacks(&mut self.crowd.process)?);
        let shown = minutes(dump::traceback(pid, &[])?);
        let after = minutes(crowd::own_stacks(&mut self.crowd.process)?);
        ensure!(shown.len() == before.len() && !shown.is_empty(), "{before:?} {shown:?}");
        for (goid, minutes) in &shown {
            let own = before.get(goid).zip(after.get(goid));
            let (before, after) = own.with_context(|| format!("{goid} is not the program's"))?;
            ensure!((before..=after).contains(&minutes), "minutes of {goid}: {before}, {minutes}, {after}");
        }
        ensure!(shown.values().any(|minutes| *minutes >= 1), "no minutes: {shown:?}");

        let ms = |time: Duration| time.as_secs_f64() * 1000.0;
        let least = ms(done.elapsed());
        let dump = dump::json(pid, &["--func", "main.stillReceive"])?;
        let most = ms(told.elapsed());
        for goroutine in &dump.goroutines {
            let age = goroutine.waiting_ms.context("no age")?;
            ensure!((least..=most).contains(&age), "{age} ms, {least} to {most} ms after the collection");
        }
        let older = |age: &str| Ok::<_, anyhow::Error>(dump::json(pid, &["--older", age])?.goroutines.len());
        let (minute, hour) = (older("1m")?, older("1h")?);
        ensure!(minute >= dump.goroutines.len() && hour == 0, "{minute} older than 1m, {hour} than 1h");
        Ok(())
    }
}

fn selections_orders_and_groups() -> Result<()> {
    let crowd = Crowd::start(&Go::newest(), Variant::Stripped)?;
    let pid = crowd.process.pid();
    let count = |args: &[&str]| Ok::<_, anyhow::Error>(dump::json(pid, args)?.goroutines.len());
    let all = dump::json(pid, &[])?;
    let expected =
        |wanted: &dyn Fn(&dump::Goroutine) -> bool| all.goroutines.iter().filter(|g| wanted(g)).count();

    let in_syscall = expected(&|g| g.status == "syscall");
    ensure!(in_syscall >= crowd::EACH && count(&["--state", "syscall"])? == in_syscall);
    let selecting = expected(&|g| g.wait_reason.starts_with("select"));
    ensure!(selecting >= 2 * crowd::EACH && count(&["--reason", "select"])? == selecting);
    ensure!(count(&["--func", "main.stillDeep"])? == crowd::EACH);
    ensure!(count(&["--func", "no.such.function"])? == 0);
    ensure!(count(&["--limit", "7"])? == 7);
    ensure!(count(&["--goid", "1"])? == 1);

    let goids = |dump: &Dump| dump.goroutines.iter().map(|goroutine| goroutine.goid).collect::<Vec<_>>();
    let by_goid = goids(&dump::json(pid, &["--sort", "goid"])?);
    let mut sorted = goids(&all);
    sorted.sort_unstable();
    ensure!(by_goid == sorted, "not sorted: {by_goid:?}");

    let grouped = dump::text(&["-p", &pid.to_string(), "--group", "--func", "main.stillDeep"])?;
    ensure!(grouped.starts_with("3 goroutines [chan receive]\n"), "not three in one group:\n{grouped}");
    ensure!(grouped.matches("main.stillDeep ").count() == 41, "the stack is not shown once:\n{grouped}");
    Ok(())
}
