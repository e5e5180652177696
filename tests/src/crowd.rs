//! The fixture `crowd`: goroutines that stand still in every kind of wait, and others that never do.

use std::{
    collections::BTreeMap,
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, ensure};

use crate::{
    dump,
    fixture::{self, Variant},
    process::Process,
    toolchain::Go,
    traceback::{self, Goroutine},
};

/// Goroutines of each kind that stands still.
pub const EACH: usize = 3;

/// Kinds of goroutines that stand still.
pub const KINDS: usize = 20;

/// How long a command to the fixture, a traceback among them, may take on the slowest machine.
const SOON: Duration = Duration::from_secs(120);

/// The running fixture.
#[derive(Debug)]
pub struct Crowd {
    pub process: Process,
    /// The goroutines that stand still, by goid, as the runtime's own traceback shows them.
    pub standing: BTreeMap<u64, Goroutine>,
}

impl Crowd {
    /// Starts it; nothing moves yet.
    ///
    /// # Errors
    /// It cannot be built or started, or not all kinds stand still.
    pub fn start(go: &Go, variant: Variant) -> Result<Crowd> {
        Crowd::of(fixture::start("crowd", go, variant, &[])?)
    }

    /// As [`start`](Self::start), for a fixture that runs already.
    ///
    /// # Errors
    /// Not all kinds stand still.
    pub fn of(mut process: Process) -> Result<Crowd> {
        let deadline = Instant::now() + SOON;
        loop {
            let mut standing = own_stacks(&mut process)?;
            standing.retain(|_, goroutine| is_standing(goroutine));
            // Each of the kinds ends in a wait or in a system call.
            let on_its_way =
                standing.values().find(|goroutine| ["running", "runnable"].contains(&&*goroutine.status));
            let all = standing.len() == KINDS * EACH;
            if all && on_its_way.is_none() {
                return Ok(Crowd { process, standing });
            }
            ensure!(Instant::now() < deadline, "{} goroutines are there, {on_its_way:?}", standing.len());
            thread::sleep(Duration::from_millis(100));
        }
    }

    /// Its process id as an argument.
    pub fn pid(&self) -> String {
        self.process.pid().to_string()
    }

    /// Starts the goroutines that move.
    ///
    /// # Errors
    /// It has ended.
    pub fn set_in_motion(&mut self) -> Result<()> {
        self.process.command("move", SOON).map(drop)
    }

    /// The goroutines that the command "move" started, by goid. They stay as long as the fixture.
    ///
    /// # Errors
    /// It has ended.
    pub fn moving(&mut self) -> Result<BTreeMap<u64, Goroutine>> {
        let mut all = own_stacks(&mut self.process)?;
        all.retain(|_, goroutine| made_by(goroutine, "main.move"));
        Ok(all)
    }

    /// Holds a dump's text against the runtime's traceback: every goroutine that stands still must be there and be
    /// the same. Returns how many of them the dump calls in motion and so shows without a stack.
    ///
    /// # Errors
    /// One is missing or other than the runtime says.
    pub fn agrees(&self, shown: &BTreeMap<u64, Goroutine>) -> Result<usize> {
        let mut in_motion = 0;
        for (goid, own) in &self.standing {
            let shown = shown.get(goid).with_context(|| format!("goroutine {goid} is missing: {own}"))?;
            if dump::is_marked(shown) {
                in_motion += 1;
                continue;
            }
            let (own, shown) = (own.timeless(), shown.timeless());
            ensure!(own == shown, "goroutine {goid} is\n{own}\nbut shown is\n{shown}");
        }
        Ok(in_motion)
    }
}

/// The runtime's traceback of all goroutines, printed by a fixture of `internal/command`.
///
/// # Errors
/// It has ended, or prints something else.
pub fn own_stacks(process: &mut Process) -> Result<BTreeMap<u64, Goroutine>> {
    let lines = process.command("stacks", SOON)?;
    let begin = lines.iter().position(|line| line == "stacks begin").context("no stacks")?;
    let end = lines.iter().position(|line| line == "stacks end").context("no end of the stacks")?;
    traceback::parse(&lines[begin + 1..end].join("\n"))
}

/// Whether this is one of the goroutines that stand still.
pub fn is_standing(goroutine: &Goroutine) -> bool {
    made_by(goroutine, "main.standStill")
}

fn made_by(goroutine: &Goroutine, func: &str) -> bool {
    goroutine.creator.as_ref().is_some_and(|creator| creator.func == func)
}
