//! Alerts: findings held against thresholds over time. There is one alert for each group of leaked goroutines, and
//! one for each target whose signs agree; each has a level from L1 to L4. This module has no clock and no side
//! effects: it returns what is to be done as values, which [`act`] carries out.

pub mod act;
pub(crate) mod hook;
mod level;
mod remember;
mod signs;

#[cfg(test)]
mod tests;

use super::{
    config::{self, LevelName},
    picture::{NameFrom, Picture, ProcessId, ProcessPicture, cut},
};
use level::{Measured, Pace, Tracker, level};
pub use remember::Remembered;
use remember::{Resumed, Resuming};
use sfgi_core::{detect::Verdict, goruntime::WaitReason, leaks::LeakView};
use signs::{Correlation, SignValues};
use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::Duration,
};

/// The bound of alerts; subjects beyond are only counted. A node has hundreds of targets with a few groups each.
pub const MAX_ALERTS: usize = 10_000;

/// The subject of an alert: a group of leaked goroutines, or without a group the target itself.
type Key = (ProcessId, Option<String>);

/// One alert at its present level.
#[derive(Clone, Debug, PartialEq)]
pub struct Alert {
    pub pid: u32,
    pub process: ProcessId,
    /// The executable's path, cut to the length that the store keeps (`picture::cut`).
    pub exe: String,
    pub service: String,
    pub service_from: NameFrom,
    /// The fingerprint of the group of leaked goroutines; `None`: the target itself, whose signs agree.
    pub group: Option<String>,
    /// The group's class; `signs` for the target itself.
    pub class: String,
    pub verdict: Option<&'static str>,
    pub level: LevelName,
    pub reason: String,
    /// When it reached this level: nanoseconds since 1970.
    pub since_unix_ns: u64,
}

/// A level that has changed. Equal levels stand for an alert that an earlier agent left and that still stands.
#[derive(Clone, Debug, PartialEq)]
pub struct Change {
    /// The alert as it is now; as it was, where it has ended.
    pub alert: Arc<Alert>,
    /// `None`: there was no alert.
    pub from: Option<LevelName>,
    /// `None`: the alert has ended.
    pub to: Option<LevelName>,
}

/// What a risen level asks for.
#[derive(Clone, Debug, PartialEq)]
pub enum Action {
    /// Watch the target more closely for a while.
    WantDetail(Arc<Alert>),
    /// Keep a recording and a dump of the target.
    KeepEvidence(Arc<Alert>),
    RunHook(Arc<Alert>),
}

impl Change {
    /// The actions of this change: one for each level that it crosses upwards.
    pub fn actions(&self) -> Vec<Action> {
        // An alert that jumps from nothing to L4 crosses all levels and gets all actions. Equal levels cross none, so
        // a restarted agent acts on no alert twice.
        let crossed = |level| self.from < Some(level) && self.to >= Some(level);
        let mut actions = Vec::new();
        if crossed(LevelName::Warn) {
            actions.push(Action::WantDetail(Arc::clone(&self.alert)));
        }
        if crossed(LevelName::Intervene) {
            actions.push(Action::KeepEvidence(Arc::clone(&self.alert)));
        }
        if crossed(LevelName::Isolate) {
            actions.push(Action::RunHook(Arc::clone(&self.alert)));
        }
        actions
    }
}

#[derive(Debug)]
pub struct Alerts {
    config: config::Alerts,
    known: BTreeMap<Key, Standing>,
    signs: BTreeMap<ProcessId, Correlation>,
    remembered: Resuming,
    /// The time of the last picture, `CLOCK_MONOTONIC`.
    now: Duration,
    dropped: u64,
}

/// The timers and the alert of one subject.
#[derive(Debug, Default)]
struct Standing {
    tracker: Tracker,
    /// `None`: no level has been deserved for long enough yet.
    alert: Option<Arc<Alert>>,
    /// Set while an alert that an earlier agent left is not certain again.
    resumed: Option<Resumed>,
}

/// What one picture says about one subject.
struct Look {
    key: Key,
    alert: Alert,
    deserved: Option<(LevelName, String)>,
    kept: Option<LevelName>,
    pace: Pace,
}

impl Alerts {
    pub fn new(config: config::Alerts) -> Alerts {
        Alerts {
            config,
            known: BTreeMap::new(),
            signs: BTreeMap::new(),
            remembered: Resuming::default(),
            now: Duration::ZERO,
            dropped: 0,
        }
    }

    /// Goes on with other thresholds; levels stay until a look at the new thresholds changes them.
    pub fn reload(&mut self, config: config::Alerts) {
        self.config = config;
    }

    /// The alerts that stand, by target.
    pub fn active(&self) -> impl Iterator<Item = &Arc<Alert>> {
        self.known.values().filter_map(|standing| standing.alert.as_ref())
    }

    /// Looks at subjects that were left out because of [`MAX_ALERTS`].
    pub fn dropped(&self) -> u64 {
        self.dropped
    }

    /// Takes a picture and returns what has changed by it.
    pub fn feed(&mut self, picture: &Picture) -> Vec<Change> {
        let now = Duration::from_nanos(picture.monotonic_ns);
        self.now = now;
        // First of all: an alert of an earlier agent must be in `known` before the looks, or its group would begin
        // anew.
        let mut changes = self.resume(picture);
        let mut looks = Vec::new();
        for process in &picture.processes {
            looks.extend(process.leaks.iter().map(|group| self.group(process, group)));
            looks.extend(self.process(now, process));
        }
        let ids: BTreeSet<ProcessId> = picture.processes.iter().map(|process| process.id).collect();
        let lives = |id: &ProcessId| ids.contains(id);
        self.signs.retain(|id, _| lives(id));
        changes.extend(self.end(lives));
        // A group that is missing from the picture deserves no level. With an alert it is fed to its tracker as
        // nothing, so that the level falls only after `clear_after`; without one its timers are void.
        let seen: BTreeSet<&Key> = looks.iter().map(|look| &look.key).collect();
        self.known.retain(|key, standing| standing.alert.is_some() || seen.contains(key));
        let gone =
            self.known.iter().filter(|(key, standing)| !seen.contains(key) && !standing.awaits_a_look());
        let gone: Vec<Look> =
            gone.filter_map(|(key, standing)| self.nothing(key, standing.alert.as_ref()?)).collect();
        for look in looks.into_iter().chain(gone) {
            changes.extend(self.take(now, picture.unix_ns, look));
        }
        // A tracker at its default has no level and no timer that runs.
        self.known.retain(|_, standing| standing.tracker != Tracker::default());
        changes
    }

    fn group(&self, process: &ProcessPicture, group: &LeakView) -> Look {
        let measured = Measured {
            count: group.count,
            growth_per_minute: group.growth_per_s().unwrap_or(0.0) * 60.0,
            age: Duration::try_from_secs_f64(process.waiting_seconds(group).unwrap_or(0.0))
                .unwrap_or_default(),
            pinned: group.pinned_bytes,
            limit: process.memory.limit_bytes,
        };
        let service = &process.identity.service;
        // A suspect is old and many, or growing, but neither proven nor known by a rule: `suspect_limit` bounds it.
        let highest = match group.verdict {
            Verdict::Suspect => self.config.suspect_limit,
            Verdict::Likely | Verdict::Proven => LevelName::Isolate,
        };
        let deserves = |factor| {
            let (level, reason) = level(&self.config, service, &measured, factor)?;
            Some((level.min(highest), reason))
        };
        let verdict = Some(group.verdict.word());
        Look {
            key: (process.id, Some(group.id.to_string())),
            alert: alert(process, Some(group.id.to_string()), &group.rule.class, verdict),
            deserved: deserves(1.0),
            kept: deserves(self.config.clear_below).map(|(level, _)| level),
            pace: self.pace(),
        }
    }

    fn process(&mut self, now: Duration, process: &ProcessPicture) -> Option<Look> {
        let scan = process.scan.as_ref()?;
        let mutex = scan.states.iter().filter(|state| WaitReason::parse(&state.reason).is_lock());
        let values = SignValues {
            heap: process.memory.heap_bytes.map(|bytes| bytes as f64),
            goroutines: Some(scan.goroutines.saturating_sub(scan.system) as f64),
            mutex_wait: Some(mutex.map(|state| state.count).sum::<u64>() as f64),
        };
        let agreed = self.signs.entry(process.id).or_default().feed(now, values, &self.config.signs);
        let deserved = agreed.map(|reason| (self.config.signs.level, reason));
        let key = (process.id, None);
        if deserved.is_none() && !self.known.contains_key(&key) {
            return None;
        }
        Some(Look {
            key,
            alert: alert(process, None, "signs", None),
            kept: deserved.as_ref().map(|(level, _)| *level),
            deserved,
            pace: self.pace_of_signs(),
        })
    }

    fn nothing(&self, key: &Key, alert: &Arc<Alert>) -> Option<Look> {
        let alert = Alert::clone(alert);
        Some(Look { key: key.clone(), alert, deserved: None, kept: None, pace: self.pace() })
    }

    fn pace(&self) -> Pace {
        Pace { hold: self.config.hold, clear_after: self.config.clear_after }
    }

    /// The signs have agreed over `signs.for` already; a second hold would come on top.
    fn pace_of_signs(&self) -> Pace {
        Pace { hold: Duration::ZERO, ..self.pace() }
    }

    fn take(&mut self, now: Duration, unix_ns: u64, look: Look) -> Option<Change> {
        if look.deserved.is_none() && !self.known.contains_key(&look.key) {
            return None;
        }
        // A group that is known goes on: the bound must not end alerts that stand.
        if self.known.len() >= MAX_ALERTS && !self.known.contains_key(&look.key) {
            self.dropped += 1;
            return None;
        }
        let standing = self.known.entry(look.key).or_default();
        let kept = standing.kept(now, look.kept);
        let (deserved, reason) =
            look.deserved.map_or((None, String::new()), |(level, why)| (Some(level), why));
        let from = standing.tracker.feed(now, deserved, kept, look.pace)?;
        let to = standing.tracker.level();
        let level = to.or(from)?;
        let reason = match to {
            None => "below the thresholds again".to_owned(),
            // `None` is below every level in the order of `Option`.
            Some(_) if to < from => "below the thresholds of a higher level again".to_owned(),
            Some(_) => reason,
        };
        let alert = Arc::new(Alert { level, reason, since_unix_ns: unix_ns, ..look.alert });
        standing.alert = to.map(|_| Arc::clone(&alert));
        Some(Change { alert, from, to })
    }

    /// Ends the alerts of targets that have ended, at once: no timer applies.
    fn end(&mut self, lives: impl Fn(&ProcessId) -> bool) -> Vec<Change> {
        let mut changes = Vec::new();
        self.known.retain(|(id, _), standing| {
            if lives(id) {
                return true;
            }
            if let (Some(alert), Some(from)) = (standing.alert.take(), standing.tracker.level()) {
                let alert = Alert { reason: "the process has ended".into(), ..Alert::clone(&alert) };
                changes.push(Change { alert: Arc::new(alert), from: Some(from), to: None });
            }
            false
        });
        changes
    }
}

fn alert(
    process: &ProcessPicture,
    group: Option<String>,
    class: &str,
    verdict: Option<&'static str>,
) -> Alert {
    Alert {
        pid: process.id.pid,
        process: process.id,
        exe: cut(&process.identity.exe_text()),
        service: process.identity.service.clone(),
        service_from: process.identity.service_from,
        group,
        class: class.to_owned(),
        verdict,
        level: LevelName::Observe,
        reason: String::new(),
        since_unix_ns: 0,
    }
}
