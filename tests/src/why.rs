//! Running `sfgi why`, the form of its JSON, and what the fixture `objects` says of its own objects.

use std::{
    collections::BTreeMap,
    fmt::Write as _,
    process::{Command, Output},
    time::Duration,
};

use anyhow::{Context, Result, ensure};
use serde::Deserialize;

use crate::{
    crowd,
    fixture::{self, Variant},
    leaks::Turn,
    process::Process,
    sfgi,
    toolchain::Go,
    traceback,
};

/// How long a command to the fixture may take on the slowest machine.
const SOON: Duration = Duration::from_secs(120);

/// The document of `sfgi why --format json`.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Why {
    /// `sfgi.why/1`.
    pub schema: String,
    /// Absent for a core file that does not tell.
    pub pid: Option<u32>,
    pub exe: String,
    /// `go1.26.6`.
    pub go_version: String,
    /// The goroutine that was asked for.
    pub goid: Option<u64>,
    /// How long the target stood still, with `--freeze`.
    pub frozen_ns: Option<u64>,
    /// How many objects of the whole heap have a type.
    pub typed: Share,
    /// What limits the answer.
    pub notes: Vec<String>,
    /// The waits of the goroutines that were asked about, and who could end them.
    #[serde(default)]
    pub holders: Vec<Turn>,
    /// In the order in which they were asked for.
    pub objects: Vec<Kept>,
}

#[derive(Clone, Copy, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Share {
    pub objects: u64,
    pub bytes: u64,
    pub typed_objects: u64,
    pub typed_bytes: u64,
}

/// An object that was asked for.
#[derive(Clone, Debug, Deserialize)]
pub struct Kept {
    #[serde(flatten)]
    pub object: Object,
    /// What only it keeps alive.
    pub retained: Option<Retained>,
    /// Why there are no ways; empty where there are.
    #[serde(default)]
    pub unkept: String,
    pub ways: Vec<Way>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Retained {
    pub objects: u64,
    pub bytes: u64,
}

/// What is known of an object.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Deserialize)]
pub struct Object {
    /// `0x…`.
    pub address: String,
    /// Bytes that the allocator has for it.
    pub bytes: u64,
    /// As `reflect` calls it; `None`: not known.
    #[serde(rename = "type")]
    pub of: Option<String>,
    #[serde(default)]
    pub package: String,
    /// Of a closure.
    pub function: Option<String>,
    /// Of an array how many values it has room for; 0: it is one value.
    #[serde(default)]
    pub count: u64,
}

/// A way from a root to an object.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Way {
    /// On one line: `main.hub → .sessions → []`.
    pub way: String,
    pub root: Root,
    /// The last is the object.
    pub hops: Vec<Hop>,
}

#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Root {
    /// `variable`, `goroutine` and so on.
    pub kind: String,
    pub name: String,
    /// Of the word that refers to the first object; `None`: it is none, or not known.
    pub address: Option<String>,
    /// Of a goroutine.
    pub goid: Option<u64>,
}

#[derive(Clone, Debug, Deserialize)]
pub struct Hop {
    /// Where in the object before the pointer to this one is.
    pub via: String,
    #[serde(flatten)]
    pub object: Object,
    /// Objects in a row by the same `via`, of which this is the last.
    pub times: u64,
}

impl Object {
    /// Where it begins.
    ///
    /// # Errors
    /// It is no address.
    pub fn addr(&self) -> Result<u64> {
        addr(&self.address)
    }
}

/// Reads `0x…`.
///
/// # Errors
/// It is no address.
pub fn addr(text: &str) -> Result<u64> {
    let digits = text.strip_prefix("0x").with_context(|| format!("no address: {text}"))?;
    u64::from_str_radix(digits, 16).with_context(|| format!("no address: {text}"))
}

/// The command `sfgi why ARGS…`.
///
/// # Errors
/// sfgi was not built.
pub fn command(args: &[&str]) -> Result<Command> {
    let mut command = sfgi::command(&["why"])?;
    command.args(args);
    Ok(command)
}

/// Runs `sfgi why ARGS…` to its end; it must succeed.
///
/// # Errors
/// It fails; the error holds what it said.
pub fn run(args: &[&str]) -> Result<Output> {
    let output = command(args)?.output().context("cannot run sfgi")?;
    let stderr = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success(), "sfgi why {}: {}\n{stderr}", args.join(" "), output.status);
    Ok(output)
}

/// What `sfgi why ARGS…` prints; it must succeed.
///
/// # Errors
/// It fails; the error holds what it said.
pub fn text(args: &[&str]) -> Result<String> {
    String::from_utf8(run(args)?.stdout).context("sfgi prints no UTF-8")
}

/// The document of `sfgi why --format json ARGS…`.
///
/// # Errors
/// It fails, or the document is not what the schema says.
pub fn json(args: &[&str]) -> Result<Why> {
    let text = text(&[&["--format", "json"], args].concat())?;
    let why: Why = serde_json::from_str(&text).context("not the document that sfgi promises")?;
    ensure!(why.schema == "sfgi.why/1", "unknown schema {}", why.schema);
    for kept in &why.objects {
        ensure!(kept.ways.is_empty() != kept.unkept.is_empty(), "{kept:?}");
        for way in &kept.ways {
            let last = way.hops.last().with_context(|| format!("a way without an object: {way:?}"))?;
            ensure!(
                last.object == kept.object,
                "{} leads to {:?}, not {:?}",
                way.way,
                last.object,
                kept.object
            );
        }
    }
    Ok(why)
}

/// What the fixture says of an object: its `main.go` explains it.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Fact {
    pub name: String,
    #[serde(rename = "type")]
    pub of: String,
    #[serde(default)]
    pub package: String,
    pub address: String,
    #[serde(default)]
    pub count: u64,
    pub function: Option<String>,
    pub goid: Option<u64>,
    #[serde(default)]
    pub untyped: bool,
    pub ways: Vec<String>,
}

impl Fact {
    /// What of a type that is told is not so. `None`: it is right, or no type is told.
    pub fn contradicts(&self, told: &Object) -> Option<String> {
        let mut wrong = String::new();
        if let Some(function) = &told.function
            && self.function.as_ref() != Some(function)
        {
            let _ = write!(wrong, "the function is {function}, not {:?}; ", self.function);
        }
        let Some(of) = &told.of else { return (!wrong.is_empty()).then_some(wrong) };
        let is = match &self.function {
            // The compiler makes the struct of what a closure captured.
            Some(_) => of.starts_with("struct { F uintptr") || of.starts_with("struct { .F uintptr"),
            None => *of == self.of,
        };
        // The allocator rounds an array up by an eighth at most.
        let counts = self.count..=self.count + self.count / 8;
        if !is || self.package != told.package {
            let _ = write!(wrong, "{of:?} of {:?}, not {:?} of {:?}; ", told.package, self.of, self.package);
        }
        if !counts.contains(&told.count) {
            let _ = write!(wrong, "{} in a row, not {}; ", told.count, self.count);
        }
        (!wrong.is_empty()).then_some(wrong)
    }
}

/// Whether steps are as the fixture says, where `…` stands for any number of them.
fn are_like(steps: &[&str], right: &[&str]) -> bool {
    match right {
        [] => steps.is_empty(),
        ["…", rest @ ..] => (0..=steps.len()).any(|skipped| are_like(&steps[skipped..], rest)),
        [step, rest @ ..] => steps.first() == Some(step) && are_like(&steps[1..], rest),
    }
}

/// Whether a goroutine has this function on its stack.
pub fn has(goroutine: &traceback::Goroutine, function: &str) -> bool {
    goroutine.frames.iter().any(|frame| frame.func == function)
}

/// The running fixture, which stands still.
#[derive(Debug)]
pub struct Objects {
    pub process: Process,
    pub facts: Vec<Fact>,
    /// As the runtime's own traceback shows them, by goid.
    pub goroutines: BTreeMap<u64, traceback::Goroutine>,
}

impl Objects {
    /// Starts it and waits until all objects stand.
    ///
    /// # Errors
    /// It cannot be built or started, or says less than it should.
    pub fn start(go: &Go, variant: Variant) -> Result<Objects> {
        let mut process = fixture::start("objects", go, variant, &[])?;
        let lines = process.stdout.lines();
        let facts = lines.iter().filter_map(|line| line.text.strip_prefix("object "));
        let facts: Vec<Fact> = facts
            .map(|fact| serde_json::from_str(fact).with_context(|| fact.to_owned()))
            .collect::<Result<_>>()?;
        ensure!(facts.len() > 70, "only {} objects", facts.len());
        let goroutines = crowd::own_stacks(&mut process)?;
        Ok(Objects { process, facts, goroutines })
    }

    pub fn pid(&self) -> String {
        self.process.pid().to_string()
    }

    /// What is said of the object with this name.
    ///
    /// # Errors
    /// Nothing is.
    pub fn fact(&self, name: &str) -> Result<&Fact> {
        self.facts.iter().find(|fact| fact.name == name).with_context(|| format!("no object {name}"))
    }

    /// One call of `sfgi why` for all objects of the live process, with these further arguments.
    ///
    /// # Errors
    /// As [`json`]; it tells of others than were asked for.
    pub fn why(&self, args: &[&str]) -> Result<Why> {
        self.of(&[&["-p", &self.pid()], args].concat())
    }

    /// As [`why`](Self::why), of whatever the arguments name.
    ///
    /// # Errors
    /// As [`why`](Self::why).
    pub fn of(&self, args: &[&str]) -> Result<Why> {
        let addrs = self.facts.iter().map(|fact| fact.address.as_str());
        let args: Vec<&str> =
            args.iter().copied().chain(["--ways", "8", "--no-retained"]).chain(addrs).collect();
        let why = json(&args)?;
        ensure!(why.objects.len() == self.facts.len(), "{} objects are told", why.objects.len());
        Ok(why)
    }

    /// What is said, and what `sfgi why` told.
    pub fn beside<'a>(&'a self, why: &'a Why) -> impl Iterator<Item = (&'a Fact, &'a Kept)> {
        self.facts.iter().zip(&why.objects)
    }

    /// Whether a way is one of those that are right.
    pub fn allows(&self, fact: &Fact, way: &Way) -> bool {
        let steps: Vec<&str> = way.way.split(" → ").collect();
        let is_root = |right: &str| match (right.strip_prefix("goroutine "), way.root.goid) {
            // The reference may be in the frame of any function that this one has called.
            (Some(function), Some(goid)) => {
                (fact.goid.is_none() || fact.goid == Some(goid))
                    && self.goroutines.get(&goid).is_some_and(|goroutine| has(goroutine, function))
            }
            _ => right == steps[0],
        };
        fact.ways.iter().any(|right| {
            let right: Vec<&str> = right.split(" → ").collect();
            // What differs by release may begin within a variable.
            let within = right.get(1) == Some(&"…")
                && steps[0].strip_prefix(right[0]).is_some_and(|place| place.starts_with('.'));
            (is_root(right[0]) || within) && are_like(&steps[1..], &right[1..])
        })
    }

    /// Gives the fixture a command.
    ///
    /// # Errors
    /// It does not do it.
    pub fn command(&mut self, command: &str) -> Result<()> {
        self.process.command(command, SOON).map(drop)
    }
}
