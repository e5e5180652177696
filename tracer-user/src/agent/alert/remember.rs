//! What of the alerts outlives the agent: the alerts that stand, with how far their timers have run. An alert that is
//! found again is no news and no reason for another recording.

use super::{
    Alert, Alerts, Change, Standing,
    level::{Timers, Tracker},
};
use crate::agent::{
    config::LevelName,
    picture::{NameFrom, Picture, ProcessId, ProcessPicture, cut},
};
use serde::{Deserialize, Serialize};
use sfgi_core::detect::Verdict;
use std::{collections::BTreeMap, sync::Arc, time::Duration};

/// How long an alert waits for its process to appear in a picture. A process that is missing for longer has ended, or
/// is no target any more.
const ABSENT: Duration = Duration::from_secs(300);

/// An alert as it stood when the store was written last.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Remembered {
    pub pid: u32,
    /// Clock ticks since boot: with the PID and the boot it names the process.
    pub start_ticks: u64,
    /// Cut to the length that is kept; tells whether the process runs another program by now.
    pub exe: String,
    /// `None`: the target itself.
    pub group: Option<String>,
    service: String,
    #[serde(default)]
    service_from: NameFrom,
    class: String,
    verdict: Option<String>,
    level: LevelName,
    reason: String,
    since_unix_ns: u64,
    timers: Timers,
}

/// Alerts of an earlier agent whose processes have not been found yet.
#[derive(Debug, Default)]
pub(super) struct Resuming {
    /// By PID and start time: the number of programs in [`ProcessId`] begins anew with each agent.
    waiting: BTreeMap<(u32, u64), Vec<Remembered>>,
    /// How long an alert does not fall after the first look at its target.
    settle: Duration,
    /// When the alerts that still wait are given up; `None`: no picture has come yet.
    until: Option<Duration>,
}

/// How far an alert of an earlier agent is certain again.
#[derive(Debug)]
pub(super) enum Resumed {
    /// No look at the target yet: its timers stand still at these values.
    Awaits(Timers),
    /// Looked at, but a group that needs `leaks.min_age` to be found again may be missing: the level does not fall
    /// until this time.
    Settles(Duration),
}

impl Standing {
    /// Whether nothing can be said yet about an alert of an earlier agent.
    pub(super) fn awaits_a_look(&self) -> bool {
        matches!(self.resumed, Some(Resumed::Awaits(_)))
    }

    /// The level that a look keeps; while the alert settles, no lower one than it has.
    pub(super) fn kept(&self, now: Duration, kept: Option<LevelName>) -> Option<LevelName> {
        match self.resumed {
            Some(Resumed::Settles(until)) if now < until => kept.max(self.tracker.level()),
            _ => kept,
        }
    }

    /// Starts the timers: there was a look at the target.
    fn wake(&mut self, now: Duration, settle: Duration) {
        let (Some(Resumed::Awaits(timers)), Some(level)) = (&self.resumed, self.tracker.level()) else {
            return;
        };
        // Once more: `found` began the timers when the process appeared, before there was a look at it.
        self.tracker = Tracker::resumed(now, level, timers);
        // A level that was about to fall had lost its goroutines before the restart; it need not wait for them to be
        // found again.
        self.resumed = (!timers.falls()).then(|| Resumed::Settles(now.saturating_add(settle)));
    }
}

impl Alerts {
    /// Takes over the alerts that stood when an earlier agent ended. `settle` is how long it takes until all is known
    /// of a target again.
    pub fn remember(&mut self, remembered: Vec<Remembered>, settle: Duration) {
        self.remembered.settle = settle;
        for one in remembered {
            self.remembered.waiting.entry((one.pid, one.start_ticks)).or_default().push(one);
        }
    }

    /// What the store must keep, as of the last picture: alerts that stand, and those whose process has not been
    /// found yet.
    pub fn remembered(&self) -> Vec<Remembered> {
        let waiting = self.remembered.waiting.values().flatten().cloned();
        let standing = self.known.iter().filter_map(|((id, group), standing)| {
            let alert = standing.alert.as_ref()?;
            let pace = if group.is_some() { self.pace() } else { self.pace_of_signs() };
            let timers = match &standing.resumed {
                Some(Resumed::Awaits(timers)) => timers.clone(),
                _ => standing.tracker.timers(self.now, pace),
            };
            Some(Remembered {
                pid: id.pid,
                start_ticks: id.start_ticks,
                exe: alert.exe.clone(),
                group: group.clone(),
                service: cut(&alert.service),
                service_from: alert.service_from,
                class: alert.class.clone(),
                verdict: alert.verdict.map(str::to_owned),
                level: alert.level,
                reason: alert.reason.clone(),
                since_unix_ns: alert.since_unix_ns,
                timers,
            })
        });
        waiting.chain(standing).collect()
    }

    /// Takes up the alerts of the targets in a picture. Equal levels of a change mean that the alert still stands.
    pub(super) fn resume(&mut self, picture: &Picture) -> Vec<Change> {
        let mut changes = Vec::new();
        if !self.remembered.waiting.is_empty() {
            for process in &picture.processes {
                changes.extend(self.found(process));
            }
            changes.extend(self.give_up());
        }
        if self.known.values().any(Standing::awaits_a_look) {
            self.wake(picture);
        }
        changes
    }

    fn found(&mut self, process: &ProcessPicture) -> Vec<Change> {
        let id = process.id;
        let Some(remembered) = self.remembered.waiting.remove(&(id.pid, id.start_ticks)) else {
            return Vec::new();
        };
        // An `exec` keeps PID and start time; what the old program leaked is gone with its memory.
        let exe = cut(&process.identity.exe_text());
        let (same, other): (Vec<_>, Vec<_>) = remembered.into_iter().partition(|one| one.exe == exe);
        let mut changes: Vec<Change> =
            other.iter().map(|one| one.ended(id, "the process runs another program")).collect();
        for one in same {
            let alert = Arc::new(one.alert(id));
            let level = Some(one.level);
            changes.push(Change { alert: Arc::clone(&alert), from: level, to: level });
            let standing = Standing {
                tracker: Tracker::resumed(self.now, one.level, &one.timers),
                alert: Some(alert),
                resumed: Some(Resumed::Awaits(one.timers)),
            };
            self.known.insert((id, one.group), standing);
        }
        changes
    }

    fn give_up(&mut self) -> Vec<Change> {
        let until = *self.remembered.until.get_or_insert(self.now.saturating_add(ABSENT));
        if self.now < until {
            return Vec::new();
        }
        let gone = std::mem::take(&mut self.remembered.waiting);
        // The number of programs is not kept; nothing looks a process up by this id any more.
        let id = |one: &Remembered| ProcessId { pid: one.pid, start_ticks: one.start_ticks, program: 0 };
        gone.values().flatten().map(|one| one.ended(id(one), "the process was not found again")).collect()
    }

    fn wake(&mut self, picture: &Picture) {
        let of_signs = self.config.signs.hold;
        let processes: BTreeMap<ProcessId, &ProcessPicture> =
            picture.processes.iter().map(|process| (process.id, &**process)).collect();
        for ((id, group), standing) in &mut self.known {
            // A group is known only by a look at the heap, the signs by any scan.
            match (group, processes.get(id)) {
                (Some(_), Some(process)) if process.leaks_unix_ns > 0 => {
                    standing.wake(self.now, self.remembered.settle);
                }
                (None, Some(process)) if process.scan.is_some() => standing.wake(self.now, of_signs),
                _ => {}
            }
        }
    }
}

impl Remembered {
    fn alert(&self, id: ProcessId) -> Alert {
        let verdicts = [Verdict::Suspect, Verdict::Likely, Verdict::Proven].map(Verdict::word);
        Alert {
            pid: id.pid,
            process: id,
            exe: self.exe.clone(),
            service: self.service.clone(),
            service_from: self.service_from,
            group: self.group.clone(),
            class: self.class.clone(),
            // [`Alert::verdict`] borrows the program's own words; one of another version is left out.
            verdict: verdicts.into_iter().find(|word| self.verdict.as_deref() == Some(word)),
            level: self.level,
            reason: self.reason.clone(),
            since_unix_ns: self.since_unix_ns,
        }
    }

    fn ended(&self, id: ProcessId, why: &str) -> Change {
        let alert = Alert { reason: why.to_owned(), ..self.alert(id) };
        Change { alert: Arc::new(alert), from: Some(self.level), to: None }
    }
}
