//! What of the alerts outlives the agent: those that stand, with how far their timers have run. One that is found again is neither news
//! nor an occasion for another recording.

use super::{
    Alert, Alerts, Change, Standing,
    level::{Timers, Tracker},
};
use crate::agent::{
    config::LevelName,
    picture::{Picture, ProcessId, ProcessPicture, cut},
};
use serde::{Deserialize, Serialize};
use sfgi_core::detect::Verdict;
use std::{collections::BTreeMap, sync::Arc, time::Duration};

/// How long a process may take to be found again. After this it has ended, or is not watched any more.
const ABSENT: Duration = Duration::from_secs(300);

/// An alert as it stood when the agent ended.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Remembered {
    pub pid: u32,
    /// When it was made: ticks since boot.
    pub start_ticks: u64,
    /// Its executable, cut to a length that is kept.
    pub exe: String,
    /// The group; `None`: the process itself.
    pub group: Option<String>,
    service: String,
    class: String,
    verdict: Option<String>,
    level: LevelName,
    reason: String,
    since_unix_ns: u64,
    timers: Timers,
}

/// Alerts of processes that were not found yet.
#[derive(Debug, Default)]
pub(super) struct Resuming {
    /// By PID and start.
    waiting: BTreeMap<(u32, u64), Vec<Remembered>>,
    /// For how long an alert does not fall after the first look at its process.
    settle: Duration,
    /// When those that were not found are given up; `None`: no picture has come yet.
    until: Option<Duration>,
}

/// How an alert that was remembered goes on.
#[derive(Debug)]
pub(super) enum Resumed {
    /// Its process was not looked at yet: no time runs.
    Awaits(Timers),
    /// It was, but what takes its time to be known again may be missing: the level does not fall.
    Settles(Duration),
}

impl Standing {
    /// Whether nothing can be said yet of an alert that was remembered.
    pub(super) fn awaits_a_look(&self) -> bool {
        matches!(self.resumed, Some(Resumed::Awaits(_)))
    }

    /// The level that is kept by a look: while what was remembered settles, none below what it has.
    pub(super) fn kept(&self, now: Duration, kept: Option<LevelName>) -> Option<LevelName> {
        match self.resumed {
            Some(Resumed::Settles(until)) if now < until => kept.max(self.tracker.level()),
            _ => kept,
        }
    }

    /// Begins to count: its process was looked at.
    fn wake(&mut self, now: Duration, settle: Duration) {
        let (Some(Resumed::Awaits(timers)), Some(level)) = (&self.resumed, self.tracker.level()) else {
            return;
        };
        self.tracker = Tracker::resumed(now, level, timers);
        // What was about to fall was not there before either.
        self.resumed = (!timers.falls()).then(|| Resumed::Settles(now.saturating_add(settle)));
    }
}

impl Alerts {
    /// Goes on with alerts that stood when the agent ended. `settle` is how long it takes until all is known of a process again.
    pub fn remember(&mut self, remembered: Vec<Remembered>, settle: Duration) {
        self.remembered.settle = settle;
        for one in remembered {
            self.remembered.waiting.entry((one.pid, one.start_ticks)).or_default().push(one);
        }
    }

    /// What is to be remembered, as of the last picture.
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

    /// Takes up what was remembered of the processes in a picture. A change from a level to the same one says that an alert still stands.
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
        // It runs another program since: what the old one did is over.
        let exe = cut(&process.identity.exe.to_string_lossy());
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
        let id = |one: &Remembered| ProcessId { pid: one.pid, start_ticks: one.start_ticks, program: 0 };
        gone.values().flatten().map(|one| one.ended(id(one), "the process was not found again")).collect()
    }

    fn wake(&mut self, picture: &Picture) {
        let of_signs = self.config.signs.hold;
        let processes: BTreeMap<ProcessId, &ProcessPicture> =
            picture.processes.iter().map(|process| (process.id, &**process)).collect();
        for ((id, group), standing) in &mut self.known {
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
            group: self.group.clone(),
            class: self.class.clone(),
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
