//! What a rule asks of a goroutine, as it stands in a rule file under `match`.

use super::cycles::Cycle;
use crate::goruntime::Release;
use crate::{
    goruntime::State,
    heap::TimerKind,
    snapshot::{Object, ObjectKind},
};
use regex::Regex;
use serde::{Deserialize, Deserializer, de::Error as _};
use std::time::Duration;

/// What a rule asks. What is left out is not asked.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(super) struct Condition {
    /// Whether it must be proven that nothing can end the wait. A goroutine that waits like this and of which
    /// it is not proven can still be a suspect.
    pub(super) verdict: Need,
    /// Its state is one of these; none: it waits.
    pub(super) state: Vec<StateName>,
    /// Its wait reason is one of these, or matches.
    pub(super) wait_reason: Option<Words>,
    /// For each of these there is a function on the stack that matches.
    pub(super) frames: Vec<Pattern>,
    /// They match in this order, the innermost function first.
    pub(super) in_order: bool,
    /// No function on the stack matches one of these.
    pub(super) not_frames: Vec<Pattern>,
    /// The function that made it matches.
    pub(super) creator: Option<Pattern>,
    /// It is the main goroutine, or is not.
    pub(super) main: Option<bool>,
    /// One of the things that it waits for is one of these.
    pub(super) object: Vec<Kind>,
    /// One of the channels that it waits for is like this.
    pub(super) channel: Option<Channel>,
    /// It waits in a cycle of this kind.
    pub(super) cycle: Option<Cycles>,
    /// It belongs to a set of unreachable goroutines that wait for each other, or does not.
    pub(super) set: Option<bool>,
    /// At least so many are alike.
    pub(super) count: Count,
    /// Its creation site grows.
    pub(super) growth: bool,
    /// It has been waiting for so long.
    pub(super) age: Option<Age>,
    /// Every look found it, and none found that it had run.
    pub(super) stable: bool,
    /// Every look found it, whatever it did meanwhile.
    pub(super) lived: bool,
    /// So many looks found it, at least.
    pub(super) looks: Option<u32>,
    /// In this part of the looks, at least, it was running or runnable.
    pub(super) busy: Option<f64>,
    /// In this part of the looks, at least, it was in a function that only yields.
    pub(super) yielding: Option<f64>,
    /// In this part of the looks, at least, it had run since the look before.
    pub(super) moved: Option<f64>,
    /// At least so many of them were started at different times by goroutines that have ended.
    pub(super) orphans: Option<Count>,
    /// Each of them waits for something of its own.
    pub(super) own: bool,
    /// It is about timers, not goroutines.
    pub(super) timer: Option<Timer>,
}

/// Whether a rule needs the proof.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum Need {
    Proven,
    #[default]
    Any,
}

/// States that a rule can ask for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum StateName {
    Waiting,
    Syscall,
    Runnable,
    Running,
}

impl StateName {
    pub(super) fn holds(self, state: State) -> bool {
        match self {
            StateName::Waiting => state.waits(),
            StateName::Syscall => state == State::Syscall,
            StateName::Runnable => state == State::Runnable,
            StateName::Running => matches!(state, State::Running | State::CopyStack | State::Preempted),
        }
    }
}

/// Some texts, or a pattern.
#[derive(Debug, Deserialize)]
#[serde(untagged, expecting = "expected a list of wait reasons, or a regular expression")]
pub(super) enum Words {
    Texts(Vec<String>),
    Matching(Pattern),
}

impl Words {
    /// A wait in a synctest bubble has a suffix (Go 1.24+), which changes nothing.
    pub(super) fn hold(&self, text: &str) -> bool {
        let plain = text.strip_suffix(" (durable)").or_else(|| text.strip_suffix(" (synctest)"));
        let text = plain.unwrap_or(text);
        match self {
            Words::Texts(texts) => texts.iter().any(|one| one == text),
            Words::Matching(pattern) => pattern.0.is_match(text),
        }
    }
}

/// A regular expression.
#[derive(Debug)]
pub(super) struct Pattern(pub(super) Regex);

impl<'de> Deserialize<'de> for Pattern {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Pattern, D::Error> {
        let text = String::deserialize(from)?;
        // Its own message is of several lines, the last of which says what is wrong.
        Regex::new(&text).map(Pattern).map_err(|err| {
            let all = err.to_string();
            let what = all.lines().last().unwrap_or_default().trim_start_matches("error: ").to_owned();
            D::Error::custom(format!("{text:?} is no regular expression: {what}"))
        })
    }
}

/// What a goroutine can wait for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum Kind {
    Channel,
    /// A nil channel.
    Nil,
    /// No object: `select {}`, sleep, the network; or none was found.
    None,
    Mutex,
    RwMutex,
    WaitGroup,
    Cond,
    Semaphore,
    /// The `Done` of a context.
    Context,
    /// A channel that a timer or ticker sends to.
    Timer,
}

/// Bytes of a `time.Time`, which timers send.
const TIME_BYTES: u16 = 24;

impl Kind {
    /// Whether an object of a program of this release is of this kind.
    pub(super) fn is(self, object: &Object, release: Release) -> bool {
        match object.kind {
            ObjectKind::Channel { timer, cap, element_size, .. } => match self {
                Kind::Channel => true,
                Kind::Timer => {
                    let guessed = !release.channels_know_their_timer() && cap == 1;
                    timer || guessed && element_size == TIME_BYTES
                }
                _ => false,
            },
            ObjectKind::Mutex { .. } => self == Kind::Mutex,
            ObjectKind::RwMutex { .. } => self == Kind::RwMutex,
            ObjectKind::WaitGroup { .. } => self == Kind::WaitGroup,
            ObjectKind::Cond => self == Kind::Cond,
            ObjectKind::Semaphore => self == Kind::Semaphore,
        }
    }
}

/// How a channel stands.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(super) struct Channel {
    pub(super) timer: Option<bool>,
    pub(super) closed: Option<bool>,
    pub(super) cap: Option<Bounds>,
    pub(super) len: Option<Bounds>,
    pub(super) receivers: Option<Bounds>,
    pub(super) senders: Option<Bounds>,
}

impl Channel {
    pub(super) fn holds(&self, object: &Object) -> bool {
        let ObjectKind::Channel { len, cap, closed, timer, receivers, senders, .. } = object.kind else {
            return false;
        };
        let within = |bounds: Option<Bounds>, number: u64| bounds.is_none_or(|bounds| bounds.hold(number));
        self.timer.is_none_or(|wanted| wanted == timer)
            && self.closed.is_none_or(|wanted| wanted == closed)
            && within(self.cap, cap)
            && within(self.len, len)
            && within(self.receivers, receivers.into())
            && within(self.senders, senders.into())
    }
}

/// The smallest and the largest number, or the only one.
#[derive(Clone, Copy, Debug, Deserialize)]
#[serde(untagged, expecting = "expected a number, or two: the smallest and the largest")]
pub(super) enum Bounds {
    Exactly(u64),
    Between([u64; 2]),
}

impl Bounds {
    fn hold(self, number: u64) -> bool {
        match self {
            Bounds::Exactly(wanted) => number == wanted,
            Bounds::Between([min, max]) => (min..=max).contains(&number),
        }
    }
}

/// Kinds of cycles that a rule can ask for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum Cycles {
    Lock,
    Mixed,
    Any,
}

impl Cycles {
    pub(super) fn hold(self, cycle: Option<Cycle>) -> bool {
        match self {
            Cycles::Lock => cycle == Some(Cycle::Locks),
            Cycles::Mixed => cycle == Some(Cycle::Mixed),
            Cycles::Any => cycle.is_some(),
        }
    }
}

/// A number, or `"min"`: that of `--min-count`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Count {
    Min,
    Number(u64),
}

impl Default for Count {
    fn default() -> Count {
        Count::Number(1)
    }
}

impl Count {
    pub(super) fn of(self, min_count: u64) -> u64 {
        match self {
            Count::Min => min_count,
            Count::Number(number) => number,
        }
    }
}

#[derive(Deserialize)]
#[serde(untagged, expecting = "expected a number, or \"min\" (--min-count)")]
enum NumberOrWord {
    Number(u64),
    Word(String),
}

impl<'de> Deserialize<'de> for Count {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Count, D::Error> {
        match NumberOrWord::deserialize(from)? {
            NumberOrWord::Number(number) => Ok(Count::Number(number)),
            NumberOrWord::Word(word) if word == "min" => Ok(Count::Min),
            NumberOrWord::Word(word) => Err(D::Error::custom(format!(
                "{word:?} is no count: give a number, or \"min\" (--min-count)"
            ))),
        }
    }
}

/// `"min"`: that of `--min-age`; or a time, which `--min-age` can only make shorter: who asks for young leaks gets
/// them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Age {
    Min,
    AtMost(u64),
}

impl Age {
    pub(super) fn of(self, min_age_ns: u64) -> u64 {
        match self {
            Age::Min => min_age_ns,
            Age::AtMost(ns) => ns.min(min_age_ns),
        }
    }
}

impl<'de> Deserialize<'de> for Age {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Age, D::Error> {
        let text = String::deserialize(from)?;
        if text == "min" {
            return Ok(Age::Min);
        }
        let bad = || {
            D::Error::custom(format!("{text:?} is no age: give a time as \"30s\", or \"min\" (--min-age)"))
        };
        let split = text.find(|c: char| !c.is_ascii_digit()).ok_or_else(bad)?;
        let (number, unit) = text.split_at(split);
        let seconds = match unit {
            "s" => 1,
            "m" => 60,
            "h" => 3600,
            _ => return Err(bad()),
        };
        let seconds = number.parse::<u64>().ok().and_then(|number| number.checked_mul(seconds));
        let time = Duration::from_secs(seconds.ok_or_else(bad)?);
        Ok(Age::AtMost(u64::try_from(time.as_nanos()).map_err(|_| bad())?))
    }
}

/// What a rule asks of timers.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Timer {
    pub(super) kind: TimerName,
    /// The function that they run matches.
    #[serde(default)]
    pub(super) func: Option<Pattern>,
    /// It does not match.
    #[serde(default)]
    pub(super) not_func: Option<Pattern>,
    /// No root reaches their channel.
    #[serde(default)]
    pub(super) unreachable: Option<bool>,
    /// The last of them fires not before this.
    #[serde(default)]
    pub(super) fires_in: Option<Age>,
}

/// [`TimerKind`] as rules have it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum TimerName {
    Ticker,
    Timer,
    AfterFunc,
}

impl TimerName {
    pub(super) fn is(self, kind: TimerKind) -> bool {
        match self {
            TimerName::Ticker => kind == TimerKind::Ticker,
            TimerName::Timer => kind == TimerKind::Timer,
            TimerName::AfterFunc => kind == TimerKind::AfterFunc,
        }
    }
}
