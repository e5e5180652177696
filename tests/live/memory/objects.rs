//! What goroutines wait for: every kind of object, in every Go release, against what the program
//! itself says.

use std::{collections::BTreeMap, fmt::Write as _, process::Command, time::Duration};

use crate::harness::{Test, plain};
use anyhow::{Result, ensure};
use live_tests::{
    fixture::{self, Variant},
    machine,
    process::Process,
    toolchain::Go,
};
use sfgi_core::{
    binary::{GoBinary, Source},
    memory::Live,
    process::Process as Target,
    snapshot::{self, Clock, ObjectKind, Options, Snapshot, View, Wants},
};

pub(crate) fn tests() -> Vec<Test> {
    vec![plain(what_goroutines_wait_for)]
}

/// What a goroutine is to wait for: its function, then kind, address, direction and facts.
#[derive(Debug)]
struct Expected {
    function: String,
    /// `None`: nothing.
    wait: Option<[String; 3]>,
    facts: BTreeMap<String, String>,
}

/// Starts the fixture and waits until it stands still.
fn parked(go: &Go, variant: Variant) -> Result<(Process, Vec<Expected>)> {
    let mut command = Command::new(fixture::build("waits", go, variant)?);
    // The channels of timers as new modules have them, in spite of the old version in `go.mod`.
    command.env("GODEBUG", "asynctimerchan=0").env("FIXTURE_HOLD", "1");
    let mut target = fixture::start_command(&mut command)?;
    target.say()?;
    target.stdout.wait_for(Duration::from_secs(120), |line| line.ends_with(" done"))?;
    let lines = target.stdout.lines();
    let expected = lines.iter().filter_map(|line| line.text.strip_prefix("expect ").map(parse)).collect();
    Ok((target, expected))
}

fn parse(line: &str) -> Expected {
    let mut words = line.split(' ').map(str::to_owned);
    let function = words.next().unwrap_or_default();
    let wait = match (words.next(), words.next(), words.next()) {
        (Some(kind), Some(addr), Some(wants)) => Some([kind, addr, wants]),
        _ => None,
    };
    let facts = words.filter_map(|word| word.split_once('=').map(|(key, value)| (key.into(), value.into())));
    Expected { function, wait, facts: facts.collect() }
}

fn everywhere(check: impl Fn(&Go, &Process, &GoBinary, &[Expected]) -> Result<()>) -> Result<()> {
    let mut failures = 0;
    for go in Go::all() {
        let unknown = Some(Variant::Unknown).filter(|_| go == Go::newest());
        let unknown = unknown.into_iter().chain(go.is_end().then_some(Variant::Unoptimised));
        for variant in Variant::unprofiled(&go).into_iter().chain(unknown) {
            let checked = (|| {
                let (target, expected) = parked(&go, variant)?;
                ensure!(expected.len() > 20, "only {} lines", expected.len());
                let process = Target::open(i32::try_from(target.pid())?)?;
                let binary = GoBinary::read(process.exe()?)?;
                let described = matches!(binary.layout().source(), Source::Described(_));
                ensure!(described == (variant == Variant::Unknown), "layout: {}", binary.layout().source());
                check(&go, &target, &binary, &expected)
            })();
            if let Err(error) = checked {
                failures += 1;
                machine::report(&format!("waits go{} {variant}: {error:#}", go.version));
            }
        }
    }
    ensure!(failures == 0, "{failures} builds failed, see above");
    Ok(())
}

/// Compares each goroutine of the fixture's functions with what was said of it. Returns what is
/// wrong.
fn differences(view: &View, snapshot: &Snapshot, expected: &[Expected], go: &Go) -> String {
    let mut wrong = String::new();
    let mut by_function: BTreeMap<&str, Vec<&Expected>> = BTreeMap::new();
    for expected in expected {
        by_function.entry(&expected.function).or_default().push(expected);
    }
    for (function, expected) in by_function {
        let goroutines: Vec<_> = (snapshot.goroutines.iter())
            .filter(|goroutine| {
                let pcs = snapshot.stacks.get(goroutine.stack).iter();
                let mut frames =
                    pcs.flat_map(|pc| view.binary.symbolize(pc.lookup().wrapping_sub(view.bias)));
                frames.any(|frame| frame.func == function)
            })
            .collect();
        if goroutines.is_empty() {
            let _ = writeln!(wrong, "{function}: no goroutine");
        }
        for goroutine in goroutines {
            let wanted: Vec<_> = expected.iter().filter(|expected| expected.wait.is_some()).collect();
            if goroutine.waits.len() != wanted.len() {
                let _ = writeln!(wrong, "{function}: waits for {:?}, not for {wanted:?}", goroutine.waits);
                continue;
            }
            for expected in wanted {
                let found = goroutine.waits.iter().any(|wait| {
                    let object = &snapshot.objects[wait.object as usize];
                    expected.wait.as_ref().is_some_and(|[kind, addr, wants]| {
                        let (facts, found) = facts(&object.kind, object.waiters.len());
                        let addr_fits = addr == "any" || *addr == format!("{:#x}", object.addr);
                        found == kind
                            && addr_fits
                            && wants_name(wait.wants) == wants
                            && expected.facts.iter().all(|(key, value)| {
                                // Channels of timers are known since Go 1.23.
                                let value = if key == "timer" && go.minor < 23 { "false" } else { value };
                                facts.get(key.as_str()).is_some_and(|fact| fact == value)
                            })
                    })
                });
                if !found {
                    let waits = goroutine
                        .waits
                        .iter()
                        .map(|wait| (wait.wants, &snapshot.objects[wait.object as usize]));
                    let _ =
                        writeln!(wrong, "{function}: {expected:?} is not in {:?}", waits.collect::<Vec<_>>());
                }
            }
        }
    }
    wrong
}

fn wants_name(wants: Wants) -> &'static str {
    match wants {
        Wants::Receive => "receive",
        Wants::Send => "send",
        Wants::Lock => "lock",
        Wants::RLock => "rlock",
        Wants::Wake => "wake",
        Wants::Unknown => "unknown",
    }
}

fn facts(kind: &ObjectKind, waiters: usize) -> (BTreeMap<&'static str, String>, &'static str) {
    let mut facts = BTreeMap::from([("waiters", waiters.to_string())]);
    let name = match kind {
        ObjectKind::Channel { len, cap, closed, timer, element_size, receivers, senders } => {
            facts.extend([
                ("len", len.to_string()),
                ("cap", cap.to_string()),
                ("closed", closed.to_string()),
                ("timer", timer.to_string()),
                ("element_size", element_size.to_string()),
                ("receivers", receivers.to_string()),
                ("senders", senders.to_string()),
            ]);
            "chan"
        }
        ObjectKind::Mutex { locked } => {
            facts.insert("locked", locked.to_string());
            "mutex"
        }
        ObjectKind::RwMutex { writer, readers, .. } => {
            facts.extend([("writer", writer.to_string()), ("readers", readers.to_string())]);
            "rwmutex"
        }
        ObjectKind::WaitGroup { counter } => {
            facts.insert("counter", counter.to_string());
            "waitgroup"
        }
        ObjectKind::Cond => "cond",
        ObjectKind::Semaphore => "semaphore",
    };
    (facts, name)
}

const ALL: Options = Options { stacks: true, args: false, labels: false, objects: true, most: 0 };

fn what_goroutines_wait_for() -> Result<()> {
    everywhere(|go, target, binary, expected| {
        let process = Target::open(i32::try_from(target.pid())?)?;
        let memory = Live::of(&process);
        let bias = process.load_bias(binary.image().entry())?;
        let view = View { memory: &memory, binary, bias, clock: Clock::Live };
        let snapshot = snapshot::take(&view, ALL, &mut |_, _| {})?;
        let wrong = differences(&view, &snapshot, expected, go);
        ensure!(wrong.is_empty(), "\n{wrong}");
        Ok(())
    })
}
