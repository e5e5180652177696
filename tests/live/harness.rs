//! Which tests run, when, and what is printed of them.
//!
//! Most tests wait for a process most of the time, so several run beside each other; those that measure time or load the machine
//! run afterwards, one at a time. A test that failed beside others runs once more alone: it has failed if it fails again.

use std::{
    any::type_name,
    collections::{BTreeMap, BTreeSet, VecDeque},
    env, fs,
    num::NonZeroUsize,
    panic::{AssertUnwindSafe, catch_unwind},
    path::PathBuf,
    process::ExitCode,
    sync::{Mutex, MutexGuard, PoisonError, mpsc},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Result, anyhow, ensure};
use clap::Parser;
use live_tests::{fixture, machine, toolchain::Go};

/// Tests that run beside each other where the command line does not say how many: on two processors more of them make each
/// slower and all together no faster.
const WIDTH: &str = "6";

/// After this time without the end of any test, those that run are listed.
const SILENCE: Duration = Duration::from_secs(60);

/// The command line.
#[derive(Parser)]
pub(crate) struct Options {
    /// Runs only tests whose name contains one of these
    pub(crate) names: Vec<String>,
    /// The names are whole ones
    #[arg(long)]
    exact: bool,
    /// Runs only a few tests that together use every command of sfgi
    #[arg(long)]
    quick: bool,
    /// Prints the tests and what they need, and runs none
    #[arg(long)]
    list: bool,
    /// How many tests run beside each other
    #[arg(long, default_value = WIDTH)]
    test_threads: NonZeroUsize,
    /// Stops this process until this one is killed: one half of a test
    #[arg(long, hide = true)]
    pub(crate) freeze: Option<i32>,
    /// Runs the command that follows and writes its peak of memory into this file: one half of a test
    #[arg(long, hide = true)]
    pub(crate) peak: Option<PathBuf>,
}

/// What a test cannot do without.
#[derive(Clone, Copy)]
pub(crate) enum Need {
    /// Root, a kernel with BTF and a built sfgi
    Tracing,
    /// A program that `cargo xtask setup` unpacks and does not install
    Unpacked(&'static str),
    /// Python packages that `cargo xtask setup` unpacks
    Wheels(&'static str),
    /// A program in PATH
    Program(&'static str),
    /// This release of Go
    Go(&'static str),
    /// A kernel that writes core files itself
    CoreFiles,
}

impl Need {
    /// Why the test cannot run here.
    fn missing(self) -> Option<String> {
        match self {
            Self::Tracing => machine::obstacle(),
            Self::Unpacked(program) => machine::unpacked(program).err().map(|error| error.to_string()),
            Self::Wheels(name) => machine::wheels(name).err().map(|error| error.to_string()),
            Self::Program(name) => {
                let path = env::var_os("PATH").unwrap_or_default();
                let found = env::split_paths(&path).any(|dir| dir.join(name).is_file());
                (!found).then(|| format!("no {name}: run `cargo xtask setup`"))
            }
            Self::Go(version) => {
                let found = Go::all().iter().any(|go| go.version == version);
                (!found).then(|| format!("no Go {version}: run `cargo xtask setup`"))
            }
            Self::CoreFiles => {
                let piped =
                    fs::read_to_string("/proc/sys/kernel/core_pattern").is_ok_and(|to| to.starts_with('|'));
                piped
                    .then(|| "the kernel hands cores to a program (/proc/sys/kernel/core_pattern)".to_owned())
            }
        }
    }
}

/// A test.
pub(crate) struct Test {
    /// Its path: `agent::watch::what_is_excluded_is_not_read`.
    name: &'static str,
    run: Box<dyn Fn() -> Result<()> + Send + Sync>,
    needs: Vec<Need>,
    alone: bool,
    quick: bool,
}

/// A test that needs nothing but Go and a built sfgi. Its name is the path of the function.
pub(crate) fn plain<F: Fn() -> Result<()> + Send + Sync + 'static>(run: F) -> Test {
    let name = type_name::<F>();
    let name = name.split_once("::").map_or(name, |(_, name)| name);
    Test { name, run: Box::new(run), needs: Vec::new(), alone: false, quick: false }
}

/// A test that needs [`Need::Tracing`].
pub(crate) fn live<F: Fn() -> Result<()> + Send + Sync + 'static>(run: F) -> Test {
    plain(run).needs(Need::Tracing)
}

impl Test {
    pub(crate) fn needs(mut self, need: Need) -> Self {
        self.needs.push(need);
        self
    }

    /// It runs when no other does: it measures time, loads the machine or needs an idle processor.
    pub(crate) fn alone(mut self) -> Self {
        self.alone = true;
        self
    }

    /// It belongs to those of `--quick`.
    pub(crate) fn quick(mut self) -> Self {
        self.quick = true;
        self
    }

    /// Runs it on a thread of its own, which has its name: whatever it started and forgot ends with that thread.
    fn outcome(&self) -> Outcome {
        let began = Instant::now();
        let result = thread::scope(|scope| {
            let run = || {
                catch_unwind(AssertUnwindSafe(&self.run))
                    .unwrap_or_else(|_| Err(anyhow!("it panicked, see above")))
            };
            let started = thread::Builder::new().name(self.name.to_owned()).spawn_scoped(scope, run);
            started
                .map_err(anyhow::Error::from)
                .and_then(|thread| thread.join().unwrap_or_else(|_| Err(anyhow!("it panicked"))))
        });
        Outcome { name: self.name, result, took: began.elapsed() }
    }
}

/// How a test ended.
struct Outcome {
    name: &'static str,
    result: Result<()>,
    took: Duration,
}

impl Outcome {
    /// As libtest does with `--report-time`.
    fn print(&self) {
        let seconds = self.took.as_secs_f64();
        match &self.result {
            Ok(()) => println!("test {} ... ok <{seconds:.1}s>", self.name),
            Err(error) => println!("test {} ... FAILED <{seconds:.1}s>\n{error:?}\n", self.name),
        }
    }
}

/// Runs those of the tests that are asked for.
pub(crate) fn run(mut tests: Vec<Test>, options: &Options) -> Result<ExitCode> {
    let names: BTreeSet<&str> = tests.iter().map(|test| test.name).collect();
    ensure!(names.len() == tests.len(), "a test is registered twice");
    let all = tests.len();
    let is_named = |test: &Test| {
        let fits =
            |name: &String| if options.exact { test.name == name } else { test.name.contains(name.as_str()) };
        options.names.is_empty() || options.names.iter().any(fits)
    };
    tests.retain(|test| is_named(test) && (test.quick || !options.quick));
    let filtered = all - tests.len();
    if options.list {
        for test in &tests {
            let alone = if test.alone { ", alone" } else { "" };
            let missing = test.needs.iter().find_map(|need| need.missing());
            println!(
                "{}: test{alone}{}",
                test.name,
                missing.map_or_else(String::new, |why| format!(", cannot run: {why}"))
            );
        }
        return Ok(ExitCode::SUCCESS);
    }
    println!("running {} tests, {} beside each other", tests.len(), options.test_threads);
    let (began, width) = (Instant::now(), options.test_threads.get());
    fixture::forget_unused()?;
    let mut times = Times::read();
    let mut failed = Vec::new();
    let (mut passed, mut ignored, mut second) = (0, 0, Vec::new());
    let (mut beside, mut alone) = (Vec::new(), Vec::new());
    for test in tests {
        match test.needs.iter().find_map(|need| need.missing()) {
            None if test.alone => alone.push(test),
            None => beside.push(test),
            Some(why) if env::var_os("CI").is_some() => {
                println!("test {} ... FAILED: it cannot run here, and CI is set: {why}", test.name);
                failed.push(test.name);
            }
            Some(why) => {
                println!("test {} ... ignored: {why}", test.name);
                ignored += 1;
            }
        }
    }
    // The longest first, so that none of them is left for the end.
    beside.sort_by_key(|test| std::cmp::Reverse(times.of(test.name)));
    let mut again = Vec::new();
    let mut ended = |outcome: Outcome, may_be_repeated: bool| {
        outcome.print();
        times.add(outcome.name, outcome.took);
        match outcome.result {
            Ok(()) => passed += 1,
            Err(_) if may_be_repeated => again.push(outcome.name),
            Err(_) => failed.push(outcome.name),
        }
    };
    side_by_side(&beside, width, |outcome| ended(outcome, width > 1));
    for test in &alone {
        ended(test.outcome(), false);
    }
    for name in again {
        let Some(test) = beside.iter().find(|test| test.name == name) else { continue };
        println!("test {name} failed beside others and runs once more, alone");
        let outcome = test.outcome();
        outcome.print();
        if outcome.result.is_ok() {
            passed += 1;
            second.push(name);
        } else {
            failed.push(name);
        }
    }
    times.write();
    for name in &second {
        println!("passed only the second time: {name}");
    }
    if !failed.is_empty() {
        println!("\nfailures:");
        failed.iter().for_each(|name| println!("    {name}"));
    }
    let word = if failed.is_empty() { "ok" } else { "FAILED" };
    println!(
        "\ntest result: {word}. {passed} passed; {} failed; {ignored} ignored; 0 measured; {filtered} filtered out; finished in {:.1}s",
        failed.len(),
        began.elapsed().as_secs_f64()
    );
    Ok(if failed.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// Runs tests, so many at a time, and tells of each when it ends.
fn side_by_side(tests: &[Test], width: usize, mut ended: impl FnMut(Outcome)) {
    let queue: Mutex<VecDeque<&Test>> = Mutex::new(tests.iter().collect());
    let running: Mutex<BTreeMap<&str, Instant>> = Mutex::default();
    let (say, said) = mpsc::channel();
    thread::scope(|scope| {
        for _ in 0..width.min(tests.len()) {
            let say = say.clone();
            scope.spawn(|| {
                let say = say;
                loop {
                    let Some(test) = lock(&queue).pop_front() else { return };
                    lock(&running).insert(test.name, Instant::now());
                    let outcome = test.outcome();
                    lock(&running).remove(test.name);
                    // The receiver stays until all senders have gone.
                    let _ = say.send(outcome);
                }
            });
        }
        drop(say);
        loop {
            match said.recv_timeout(SILENCE) {
                Ok(outcome) => ended(outcome),
                Err(mpsc::RecvTimeoutError::Timeout) => {
                    for (name, since) in lock(&running).iter() {
                        println!("    {name} has been running for {:.0} s", since.elapsed().as_secs_f64());
                    }
                }
                Err(mpsc::RecvTimeoutError::Disconnected) => return,
            }
        }
    });
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// How long each test took the last time, kept in the target directory. Without it the order is that of the tables, no more.
struct Times {
    file: PathBuf,
    seconds: BTreeMap<String, f64>,
}

impl Times {
    fn read() -> Self {
        let file = machine::target_dir().join("live-times.json");
        let seconds = fs::read(&file).ok().and_then(|text| serde_json::from_slice(&text).ok());
        Self { file, seconds: seconds.unwrap_or_default() }
    }

    /// A test that never ran may be a long one.
    fn of(&self, name: &str) -> Duration {
        self.seconds.get(name).map_or(Duration::MAX, |seconds| Duration::from_secs_f64(seconds.max(0.0)))
    }

    fn add(&mut self, name: &str, took: Duration) {
        self.seconds.insert(name.to_owned(), took.as_secs_f64());
    }

    fn write(&self) {
        // The next run is a little slower if this fails.
        let _ = serde_json::to_vec_pretty(&self.seconds).map(|text| fs::write(&self.file, text));
    }
}
