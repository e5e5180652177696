//! Rules and what they say: the built-in ones and those of a directory.

use super::condition::Condition;
use super::cycles::Cycle;
use super::known::serves;
use crate::files::{self, FileError};
use serde::{Deserialize, Serialize};
use std::{
    cmp::Reverse,
    fmt, io,
    path::{Path, PathBuf},
    str::FromStr,
    sync::Arc,
};

/// The built-in catalogue: the files' names, for messages, and their texts.
const BUILT_IN: [(&str, &str); 13] = [
    ("channels.toml", include_str!("rules/channels.toml")),
    ("sync.toml", include_str!("rules/sync.toml")),
    ("contexts.toml", include_str!("rules/contexts.toml")),
    ("coroutines.toml", include_str!("rules/coroutines.toml")),
    ("finalizers.toml", include_str!("rules/finalizers.toml")),
    ("pools.toml", include_str!("rules/pools.toml")),
    ("threads.toml", include_str!("rules/threads.toml")),
    ("timers.toml", include_str!("rules/timers.toml")),
    ("connections.toml", include_str!("rules/connections.toml")),
    ("descriptors.toml", include_str!("rules/descriptors.toml")),
    ("resident.toml", include_str!("rules/resident.toml")),
    ("running.toml", include_str!("rules/running.toml")),
    ("suspects.toml", include_str!("rules/suspects.toml")),
];
/// Bytes of a file of rules; all of the built-in ones together are less than a tenth of that.
const MAX_FILE: u64 = 256 << 10;
/// Files of rules in one directory; whoever has many has some dozens.
const MAX_FILES: usize = 1 << 10;

/// How sure it is that goroutines are leaked.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Deserialize, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Verdict {
    /// Old and many, or made faster than they end: worth a look.
    Suspect,
    /// A rule of the catalogue says so.
    Likely,
    /// No live goroutine, variable or timer can reach what would wake them.
    Proven,
}

/// How bad a finding is, the worst first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Deserialize, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Severity {
    /// The program does not do what it should.
    Error,
    /// It holds on to more than it needs.
    Warning,
    /// Worth a look; nothing need be wrong.
    Note,
}

/// What a program seems to do while it fails: a coarser word than the class, for alerts.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Deserialize, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Failure {
    BlockedForever,
    Deadlock,
    Livelock,
    Starvation,
    ResourceHeld,
    Growth,
}

/// The words of a closed set: `word`, `Display` and `FromStr`, the same as in JSON and in configuration.
macro_rules! words {
    ($name:ident, $what:literal, $($case:ident => $word:literal),+) => {
        impl $name {
            pub const ALL: [$name; [$($word),+].len()] = [$($name::$case),+];

            pub const fn word(self) -> &'static str {
                match self {
                    $($name::$case => $word),+
                }
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.pad(self.word())
            }
        }

        impl FromStr for $name {
            type Err = String;

            fn from_str(text: &str) -> Result<$name, String> {
                $name::ALL.into_iter().find(|one| one.word() == text).ok_or_else(|| {
                    let words = $name::ALL.map($name::word).join(", ");
                    format!(concat!("{:?} is no ", $what, ": those are {}"), text, words)
                })
            }
        }
    };
}

words!(Verdict, "verdict", Suspect => "suspect", Likely => "likely", Proven => "proven");
words!(Severity, "severity", Error => "error", Warning => "warning", Note => "note");
words!(Failure, "type of failure", BlockedForever => "blocked_forever", Deadlock => "deadlock",
    Livelock => "livelock", Starvation => "starvation", ResourceHeld => "resource_held", Growth => "growth");

/// A rule of the catalogue.
#[derive(Debug, Serialize, Deserialize)]
pub struct Rule {
    /// Small letters, digits and hyphens; unique among the rules, and what a rule of a directory replaces.
    pub id: String,
    /// The mistake that it finds; several rules may find the same one.
    pub class: String,
    /// What it finds, in a line.
    pub title: String,
    /// The rule with the highest one is asked first.
    pub priority: i32,
    pub severity: Severity,
    /// What the program seems to do while it fails so.
    pub failure: Failure,
    /// The verdict where nothing is proven.
    pub gives: Verdict,
    /// What happens, and why it does not end.
    pub explanation: String,
    /// What to do about it.
    pub fix: String,
    pub formal: Formal,
    /// Not serialised: what reads a rule shows it, and judges by none.
    #[serde(skip)]
    pub(super) condition: Condition,
}

impl Rule {
    /// One that asks for nothing.
    #[doc(hidden)]
    pub fn testing(class: &str, title: &str, fix: &str) -> Rule {
        Rule {
            id: class.to_owned(),
            class: class.to_owned(),
            title: title.to_owned(),
            priority: 0,
            severity: Severity::Error,
            failure: Failure::BlockedForever,
            gives: Verdict::Likely,
            explanation: String::new(),
            fix: fix.to_owned(),
            formal: Formal::default(),
            condition: Condition::default(),
        }
    }
}

/// A class as a transition that cannot happen.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct Formal {
    /// The types of what takes part.
    pub context: String,
    /// What holds when the goroutine begins to wait.
    pub precondition: String,
    /// The change of state that it waits for.
    pub change: String,
    /// What an observer sees: `waiting (chan receive)`.
    pub label: String,
}

/// Why rules cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum RulesError {
    #[error("cannot read the rules in {path}")]
    Read { path: PathBuf, source: io::Error },
    /// What stands in a file is no rule; lines count from 1.
    #[error("{file}:{line}: {what}; see sfgi leaks --help for the form of a rule")]
    Bad { file: String, line: usize, what: String },
    /// Two rules of one set have the same id; `file` has the second one.
    #[error("{file}: there are two rules with the id {id}: give one of them another id")]
    Twice { file: String, id: String },
    /// It is no file of rules: too large, a device, not text.
    #[error("the rules in {path} cannot be used: the file {error}")]
    Unread { path: PathBuf, error: FileError },
    #[error("{path} has more than {MAX_FILES} files of rules: give a directory of rules")]
    Many { path: PathBuf },
}

/// Rules in the order in which they are asked.
#[derive(Clone, Debug)]
pub struct Rules(Vec<Arc<Rule>>);

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Document {
    #[serde(default)]
    rule: Vec<Entry>,
}

/// A rule as it stands in a file.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Entry {
    id: String,
    class: String,
    title: String,
    #[serde(default)]
    priority: i32,
    severity: Severity,
    failure: Option<Failure>,
    #[serde(default)]
    gives: Gives,
    explanation: String,
    fix: String,
    formal: Formal,
    #[serde(rename = "match")]
    condition: Condition,
}

/// What a rule can say without a proof.
#[derive(Default, Deserialize)]
#[serde(rename_all = "lowercase")]
enum Gives {
    #[default]
    Likely,
    Suspect,
}

impl Rules {
    /// The rule for goroutines that wait in a cycle of this kind.
    pub fn of_cycle(&self, cycle: Cycle) -> Option<&Arc<Rule>> {
        self.iter().find(|rule| rule.condition.asks_for_cycle(cycle))
    }

    /// The rule with this id.
    pub fn find(&self, id: &str) -> Option<&Arc<Rule>> {
        self.0.iter().find(|rule| rule.id == id)
    }

    /// The built-in rules.
    ///
    /// # Errors
    /// A built-in file is malformed; a unit test reads all of them.
    pub fn built_in() -> Result<Rules, RulesError> {
        let mut rules = Vec::new();
        for (file, text) in BUILT_IN {
            add(&mut rules, file, text, |_| None)?;
        }
        Ok(Rules::in_order(rules))
    }

    /// These rules and those of all `.toml` files of a directory; a rule with the id of one of these takes its place.
    ///
    /// # Errors
    /// The directory or one of its files cannot be read, or holds what is no rule.
    pub fn with_directory(self, directory: &Path) -> Result<Rules, RulesError> {
        let failed = |path: &Path| {
            let path = path.to_owned();
            move |source| RulesError::Read { path, source }
        };
        let mut paths = Vec::new();
        for entry in std::fs::read_dir(directory).map_err(failed(directory))? {
            let path = entry.map_err(failed(directory))?.path();
            if path.extension().is_some_and(|extension| extension == "toml") {
                if paths.len() == MAX_FILES {
                    return Err(RulesError::Many { path: directory.to_owned() });
                }
                paths.push(path);
            }
        }
        // `read_dir` has no order, and rules of the same priority are asked in the order of their files.
        paths.sort();
        let mut added = Vec::new();
        for path in paths {
            let text = match files::read_text_limited(&path, MAX_FILE) {
                Ok(text) => text,
                Err(error) => return Err(RulesError::Unread { path, error }),
            };
            let class_fails = |class: &str| {
                let known = self.0.iter().find(|rule| rule.class == class);
                Some(known.map_or(Failure::BlockedForever, |rule| rule.failure))
            };
            add(&mut added, &path.display().to_string(), &text, class_fails)?;
        }
        let kept = self.0.into_iter().filter(|rule| added.iter().all(|new| new.id != rule.id));
        Ok(Rules::in_order(kept.chain(added.clone()).collect()))
    }

    fn in_order(mut rules: Vec<Arc<Rule>>) -> Rules {
        rules.sort_by_key(|rule| Reverse(rule.priority));
        Rules(rules)
    }

    /// Whether a call, of the system or into C, is meant to last, by the functions on the stack and whether it is the main
    /// goroutine that is in it: then no rule says anything of it. Who looks at calls without a search asks here, so that
    /// everything calls the same stuck.
    pub fn means_call_to_last(&self, functions: &[Arc<str>], main: bool) -> bool {
        let spares = |rule: &Arc<Rule>| {
            let condition = &rule.condition;
            condition.spares_call(functions) || main && condition.spares_main_in_call()
        };
        serves(functions) || self.iter().any(spares)
    }

    /// The highest priority first; rules of the same priority in the order of their files.
    pub fn iter(&self) -> std::slice::Iter<'_, Arc<Rule>> {
        self.0.iter()
    }
}

/// Reads the text of a file of rules, for fuzzing.
pub(crate) fn parse_alone(text: &str) -> Result<usize, RulesError> {
    let mut rules = Vec::new();
    add(
        &mut rules,
        "rules.toml",
        text.get(..text.floor_char_boundary(MAX_FILE as usize)).unwrap_or_default(),
        |_| Some(Failure::BlockedForever),
    )?;
    Ok(rules.len())
}

/// Adds the rules of a file. `class_fails` gives the failure of a rule that names none, by its class; where it gives
/// `None`, the rule must name one.
fn add(
    rules: &mut Vec<Arc<Rule>>,
    file: &str,
    text: &str,
    class_fails: impl Fn(&str) -> Option<Failure>,
) -> Result<(), RulesError> {
    let document: Document = toml::from_str(text).map_err(|err| RulesError::Bad {
        file: file.to_owned(),
        line: err.span().map_or(1, |span| line_of(text, span.start)),
        what: err.message().lines().collect::<Vec<_>>().join(" "),
    })?;
    for entry in document.rule {
        if rules.iter().any(|rule| rule.id == entry.id) {
            return Err(RulesError::Twice { file: file.to_owned(), id: entry.id });
        }
        let bad = |what| {
            // A parsed rule has no position: the line of its id stands for it.
            let at = text.find(&format!("\"{}\"", entry.id)).unwrap_or(0);
            RulesError::Bad { file: file.to_owned(), line: line_of(text, at), what }
        };
        if let Some(what) = entry.objection() {
            return Err(bad(what));
        }
        let failure = entry.failure.or_else(|| class_fails(&entry.class));
        let failure = failure.ok_or_else(|| bad(format!("rule {}: its failure is not named", entry.id)))?;
        rules.push(Arc::new(entry.into_rule(failure)));
    }
    Ok(())
}

fn line_of(text: &str, at: usize) -> usize {
    text.bytes().take(at).filter(|byte| *byte == b'\n').count() + 1
}

impl Entry {
    /// What the form allows but makes no sense.
    fn objection(&self) -> Option<String> {
        let name = |text: &str| {
            !text.is_empty()
                && text.bytes().all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-')
        };
        let part = |part: Option<f64>| part.is_none_or(|part| (0.0..=1.0).contains(&part));
        let condition = &self.condition;
        if !name(&self.id) || !name(&self.class) {
            return Some(format!(
                "id {:?} and class {:?}: both are made of small letters, digits and hyphens",
                self.id, self.class
            ));
        }
        if !part(condition.busy) || !part(condition.yielding) || !part(condition.moved) {
            return Some(format!("rule {}: busy, yielding and moved are parts, from 0 to 1", self.id));
        }
        if condition.in_order && condition.frames.is_empty() {
            return Some(format!("rule {}: in_order without frames says nothing", self.id));
        }
        None
    }

    fn into_rule(self, failure: Failure) -> Rule {
        Rule {
            id: self.id,
            class: self.class,
            title: self.title,
            priority: self.priority,
            severity: self.severity,
            failure,
            gives: match self.gives {
                Gives::Likely => Verdict::Likely,
                Gives::Suspect => Verdict::Suspect,
            },
            explanation: one_line(&self.explanation),
            fix: one_line(&self.fix),
            formal: self.formal,
            condition: self.condition,
        }
    }
}

/// Joins a text that is broken into lines in the file, where it reads best.
fn one_line(text: &str) -> String {
    text.split_whitespace().collect::<Vec<_>>().join(" ")
}
