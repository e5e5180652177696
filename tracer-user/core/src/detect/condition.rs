//! What a rule asks of a goroutine (`match` in a rule file), and whether it holds.

use super::{
    cycles::Cycle,
    fds::FdTrouble,
    known::{Known, Shape, Thresholds},
    pools::PoolTrouble,
};
use crate::budget;
use crate::{
    goruntime::{State, WaitReason, calls_finalizers},
    heap::{Facts, TimerKind, TimerSite},
    snapshot::{Goroutine, Object, ObjectKind},
};
use hashbrown::HashSet;
use regex::{Regex, RegexBuilder};
use serde::{Deserialize, Deserializer, de::Error as _};
use std::sync::Arc;

/// What a rule asks. A key that is left out asks nothing.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(super) struct Condition {
    /// Whether the rule needs the proof that nothing can end the wait. A goroutine that fits such a rule without the
    /// proof can still be a suspect.
    pub(super) verdict: Need,
    /// Its state is one of these; none: it waits.
    state: Vec<StateName>,
    /// Its wait reason is one of these, or matches.
    wait_reason: Option<Words>,
    /// For each of these there is a function on the stack that matches.
    pub(super) frames: Vec<Pattern>,
    /// They match in this order, the innermost function first.
    pub(super) in_order: bool,
    /// No function on the stack matches one of these.
    not_frames: Vec<Pattern>,
    /// The function that made it matches.
    creator: Option<Pattern>,
    /// It is the main goroutine, or is not.
    main: Option<bool>,
    /// One of the things that it waits for is one of these.
    object: Vec<Kind>,
    /// One of the channels that it waits for is like this.
    channel: Option<Channel>,
    /// It waits in a cycle of this kind.
    cycle: Option<Cycles>,
    /// It is in no cycle, but waits for somebody who is, or who waits for such.
    behind: bool,
    /// It belongs to a set of unreachable goroutines that wait for each other, or does not.
    set: Option<bool>,
    /// At least so many are alike.
    pub(super) count: Count,
    /// Its creation site grows for certain (`growth.rs`).
    pub(super) growth: bool,
    /// It has been waiting for at least this long.
    age: Option<Age>,
    /// Every look found it, and none found that it had run.
    stable: bool,
    /// Every look found it, whatever it did meanwhile.
    lived: bool,
    /// At least so many looks found it.
    looks: Option<u32>,
    /// It was running or runnable in at least this part of the looks (0 to 1).
    pub(super) busy: Option<f64>,
    /// It was in a function that only yields in at least this part of the looks.
    pub(super) yielding: Option<f64>,
    /// It had run since the look before in at least this part of the looks.
    pub(super) moved: Option<f64>,
    /// At least so many of them were started at different times by goroutines that have ended.
    pub(super) orphans: Option<Count>,
    /// No other goroutine of the same `go` statement works: of a pool that is in use some are idle.
    idle_siblings: bool,
    /// Not all goroutines of the same `go` statement were made when the program started: those may be meant to live as long
    /// as it does.
    late: bool,
    /// Each of them waits for an object of its own.
    own: bool,
    /// It is about timers, not goroutines.
    pub(super) timer: Option<Timer>,
    /// It is about contexts that nobody can cancel, not goroutines.
    pub(super) lost_context: bool,
    /// Its stack has a context that has ended, and it waits for something else.
    ignores_context: bool,
    /// It waits for the end of a context that was not made of the one that its stack has.
    cuts_context: bool,
    /// It is about contexts that become ever more, not goroutines.
    pub(super) growing_children: bool,
    /// It is about contexts that end by themselves, but late; not goroutines.
    pub(super) far_deadline: bool,
    /// It is locked to a thread.
    locked: bool,
    /// It runs a finalizer or a cleanup.
    pub(super) finalizers: bool,
    /// It is about a `sync.Pool` that this is wrong with, not about goroutines.
    pub(super) pool: Option<PoolTrouble>,
    /// It is about descriptors of which this is so, not goroutines.
    pub(super) descriptor: Option<FdTrouble>,
}

impl Condition {
    /// Whether it says of a goroutine without a proof that one is missing and nothing else: what it waits for and where
    /// is all one to it.
    pub(super) fn only_proves(&self) -> bool {
        let asks = self.wait_reason.is_some()
            || !self.frames.is_empty()
            || self.creator.is_some()
            || !self.object.is_empty()
            || self.channel.is_some()
            || self.cycle.is_some()
            || self.set.is_some();
        self.verdict == Need::Proven && !asks
    }

    /// Whether the goroutines of the same `go` statement are as idle, and as late, as it asks for.
    pub(super) fn holds_of_siblings(&self, known: &Known<'_>, shape: &Shape) -> bool {
        (!self.idle_siblings || !known.works(shape.site)) && (!self.late || !known.made_at_start(shape.site))
    }

    /// Whether it is about calls that last, of the system or into C, and leaves out one with these functions on its stack.
    pub(super) fn spares_call(&self, functions: &[Arc<str>]) -> bool {
        let spares = |name: &Arc<str>| self.not_frames.iter().any(|pattern| pattern.0.is_match(name));
        self.state == [StateName::Syscall] && functions.iter().any(spares)
    }

    /// Whether it is about calls that last, and the main goroutine may be in one.
    pub(super) fn spares_main_in_call(&self) -> bool {
        self.state == [StateName::Syscall] && self.main == Some(false)
    }

    /// Whether it asks how often looks found that a goroutine had run, or wanted to.
    pub(super) fn is_about_running(&self) -> bool {
        self.moved.is_some() || self.busy.is_some()
    }

    /// Whether it asks for a cycle of waits.
    pub(super) fn is_about_cycles(&self) -> bool {
        self.cycle.is_some()
    }

    /// Whether it asks for a cycle, and this one will do.
    pub(super) fn asks_for_cycle(&self, cycle: Cycle) -> bool {
        self.cycle.is_some_and(|cycles| cycles != Cycles::Any && cycles.hold(Some(cycle)))
    }

    /// Whether what the goroutines of a shape have in common fits.
    pub(super) fn holds_of_shape(&self, shape: &Shape) -> bool {
        let state = match &*self.state {
            [] => StateName::Waiting.holds(shape.state),
            states => states.iter().any(|state| state.holds(shape.state)),
        };
        state
            && self.timer.is_none()
            && !self.lost_context
            && !self.growing_children
            && !self.far_deadline
            && self.pool.is_none()
            && (!self.finalizers || shape.functions.iter().any(|name| calls_finalizers(name)))
            && self.descriptor.is_none()
            && self.wait_reason.as_ref().is_none_or(|words| words.hold(&shape.reason))
            && self.main.is_none_or(|main| main == shape.main)
            && self.creator.as_ref().is_none_or(|pattern| {
                shape.creator.as_ref().is_some_and(|creator| pattern.0.is_match(creator))
            })
            && self.holds_of_stack(&shape.functions)
    }

    fn holds_of_stack(&self, functions: &[Arc<str>]) -> bool {
        if self.not_frames.iter().any(|pattern| functions.iter().any(|name| pattern.0.is_match(name))) {
            return false;
        }
        // `from` moves only with `in_order`; otherwise each pattern may match any function.
        let mut from = 0;
        self.frames.iter().all(|pattern| {
            let rest = functions.get(from..).unwrap_or_default();
            let found = rest.iter().position(|name| pattern.0.is_match(name));
            if let (true, Some(at)) = (self.in_order, found) {
                from += at + 1;
            }
            found.is_some()
        })
    }

    /// Whether one goroutine fits, but for its age; `waived`: without the proof.
    pub(super) fn holds_of_one(&self, known: &Known<'_>, shape: &Shape, index: u32, waived: bool) -> bool {
        let Some(goroutine) = known.goroutine(index) else { return false };
        let facts = known.facts(index);
        let part = |wanted: Option<f64>, looks: u32| {
            wanted.is_none_or(|wanted| facts.looks > 0 && f64::from(looks) / f64::from(facts.looks) >= wanted)
        };
        // A single look shows neither stability nor a life.
        (waived || self.verdict == Need::Any || facts.unreachable)
            && self.set.is_none_or(|set| set == facts.set.is_some())
            && self.cycle.is_none_or(|cycles| cycles.hold(known.cycles.kind(index)))
            && (!self.behind || known.cycles.is_behind(index))
            && self.holds_of_objects(known, shape, goroutine, facts)
            && (!self.ignores_context || facts.ignores_context)
            && (!self.cuts_context || facts.cuts_context)
            && (!self.locked || goroutine.locked)
            && (!self.stable || (facts.looks > 1 && facts.moved == 0))
            && (!self.lived || (facts.looks > 1 && facts.looks as usize >= known.observed.looks.len()))
            && self.looks.is_none_or(|looks| facts.looks >= looks)
            && part(self.busy, facts.busy)
            && part(self.yielding, facts.yielding)
            && part(self.moved, facts.moved)
    }

    fn holds_of_objects(
        &self,
        known: &Known<'_>,
        shape: &Shape,
        goroutine: &Goroutine,
        facts: &Facts,
    ) -> bool {
        let kind = |kind: &Kind| match kind {
            Kind::Context => facts.context,
            Kind::Nil => matches!(
                WaitReason::parse(&shape.reason),
                WaitReason::ChanReceiveNilChan | WaitReason::ChanSendNilChan
            ),
            Kind::None => goroutine.waits.is_empty(),
            kind => known.objects(goroutine).any(|object| kind.is(object, &known.observed.timer_like)),
        };
        let channel = |channel: &Channel| known.objects(goroutine).any(|object| channel.holds(object));
        (self.object.is_empty() || self.object.iter().any(kind)) && self.channel.as_ref().is_none_or(channel)
    }

    /// Whether so many that are so old (nanoseconds) are what it asks for.
    pub(super) fn holds_of_fds(&self, thresholds: &Thresholds, count: u64, age_ns: u64) -> bool {
        let old = self.age.is_none_or(|age| age_ns >= age.of(thresholds.min_age_ns()));
        old && count >= self.count.of(thresholds.min_count)
    }

    pub(super) fn old_enough(&self, known: &Known<'_>, index: u32) -> bool {
        let Some(age) = self.age else { return true };
        known.age(index).is_some_and(|one| one.ns >= age.of(known.thresholds.min_age_ns()))
    }

    /// Whether the goroutines that fit are enough. What is proven is not asked this: it needs no second sign.
    pub(super) fn holds_of_all(&self, known: &Known<'_>, members: &[u32], grows: bool) -> bool {
        let min_count = known.thresholds.min_count;
        !members.is_empty()
            && members.len() as u64 >= self.count.of(min_count)
            && (grows || !self.growth)
            && (!self.own || known.different(members) == members.len())
            && self.orphans.is_none_or(|count| known.orphans(members) >= count.of(min_count))
    }
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum Need {
    Proven,
    #[default]
    Any,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
enum StateName {
    Waiting,
    Syscall,
    Runnable,
    Running,
}

impl StateName {
    fn holds(self, state: State) -> bool {
        match self {
            StateName::Waiting => state.waits(),
            StateName::Syscall => state == State::Syscall,
            StateName::Runnable => state == State::Runnable,
            StateName::Running => matches!(state, State::Running | State::CopyStack | State::Preempted),
        }
    }
}

/// Wait reasons, or a pattern for them.
#[derive(Debug, Deserialize)]
#[serde(untagged, expecting = "expected a list of wait reasons, or a regular expression")]
enum Words {
    Texts(Vec<String>),
    Matching(Pattern),
}

impl Words {
    /// A wait in a synctest bubble has a suffix (Go 1.24+), which changes nothing.
    fn hold(&self, text: &str) -> bool {
        let plain = text.strip_suffix(" (durable)").or_else(|| text.strip_suffix(" (synctest)"));
        let text = plain.unwrap_or(text);
        match self {
            Words::Texts(texts) => texts.iter().any(|one| one == text),
            Words::Matching(pattern) => pattern.0.is_match(text),
        }
    }
}

/// Bytes of a compiled pattern: names of functions need some thousand, and a dozen characters can ask for megabytes.
const MAX_PATTERN: usize = 256 << 10;

/// A regular expression; one that does not compile is an error of the rule file.
#[derive(Debug)]
pub(super) struct Pattern(Regex);

impl<'de> Deserialize<'de> for Pattern {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Pattern, D::Error> {
        let text = String::deserialize(from)?;
        // The error's text has several lines, the last of which says what is wrong.
        if let Err(exhausted) = budget::check(2 * MAX_PATTERN) {
            return Err(D::Error::custom(format!("{text:?} is one pattern too many: {exhausted}")));
        }
        let mut builder = RegexBuilder::new(&text);
        let built = builder.size_limit(MAX_PATTERN).dfa_size_limit(MAX_PATTERN).build();
        built.map(Pattern).map_err(|err| {
            let all = err.to_string();
            let what = all.lines().last().unwrap_or_default().trim_start_matches("error: ").to_owned();
            D::Error::custom(format!("{text:?} is no regular expression: {what}"))
        })
    }
}

/// What a goroutine can wait for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
enum Kind {
    Channel,
    /// A nil channel, for which there is no object: the wait reason tells it.
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

impl Kind {
    /// Whether an object is of this kind. `timer_like`: see [`Observed::timer_like`](crate::heap::Observed::timer_like).
    fn is(self, object: &Object, timer_like: &HashSet<u64>) -> bool {
        match object.kind {
            ObjectKind::Channel { timer, .. } => match self {
                Kind::Channel => true,
                Kind::Timer => timer || timer_like.contains(&object.addr),
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

/// What a rule asks of a channel's state.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct Channel {
    timer: Option<bool>,
    closed: Option<bool>,
    cap: Option<Bounds>,
    len: Option<Bounds>,
    receivers: Option<Bounds>,
    senders: Option<Bounds>,
}

impl Channel {
    fn holds(&self, object: &Object) -> bool {
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
enum Bounds {
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
enum Cycles {
    Recursive,
    #[serde(rename = "recursive-read")]
    RecursiveRead,
    Lock,
    Mixed,
    Other,
    Any,
}

impl Cycles {
    fn hold(self, cycle: Option<Cycle>) -> bool {
        match self {
            Cycles::Recursive => cycle == Some(Cycle::Recursive),
            Cycles::RecursiveRead => cycle == Some(Cycle::RecursiveRead),
            Cycles::Other => cycle == Some(Cycle::Other),
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

/// `"min"`: that of `--min-age`; or a time, which `--min-age` can only shorten, so that young leaks can be asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Age {
    Min,
    AtMost(u64),
}

impl Age {
    fn of(self, min_age_ns: u64) -> u64 {
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
        let ns = seconds.and_then(|seconds| seconds.checked_mul(1_000_000_000));
        Ok(Age::AtMost(ns.ok_or_else(bad)?))
    }
}

/// What a rule asks of timers.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Timer {
    kind: TimerName,
    /// Matches the function that they run.
    #[serde(default)]
    func: Option<Pattern>,
    /// Does not match it.
    #[serde(default)]
    not_func: Option<Pattern>,
    /// Whether no root reaches their channel.
    #[serde(default)]
    unreachable: Option<bool>,
    /// The last of them fires in this time at the earliest.
    #[serde(default)]
    fires_in: Option<Age>,
}

/// [`TimerKind`] as rules have it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
enum TimerName {
    Ticker,
    Timer,
    AfterFunc,
}

impl TimerName {
    fn is(self, kind: TimerKind) -> bool {
        match self {
            TimerName::Ticker => kind == TimerKind::Ticker,
            TimerName::Timer => kind == TimerKind::Timer,
            TimerName::AfterFunc => kind == TimerKind::AfterFunc,
        }
    }
}

impl Timer {
    pub(super) fn holds(&self, site: &TimerSite, function: &str, thresholds: &Thresholds) -> bool {
        let (_, last) = site.fires_in_ns;
        self.kind.is(site.kind)
            && self.func.as_ref().is_none_or(|pattern| pattern.0.is_match(function))
            && self.not_func.as_ref().is_none_or(|pattern| !pattern.0.is_match(function))
            && self.unreachable.is_none_or(|unreachable| unreachable == site.unreachable)
            && self.fires_in.is_none_or(|age| last >= age.of(thresholds.min_age_ns()))
    }
}
