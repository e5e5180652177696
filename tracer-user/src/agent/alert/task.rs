//! Holds each picture against the thresholds, keeps what stands, and has done what is to be done.

use super::{Alert, Alerts, Change, Remembered, act::Actor};
use crate::agent::{
    Handle, config,
    config::{Config, LevelName, Part},
    store::{Store, StoreError},
};
use std::{
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};
use tokio::{
    sync::watch,
    task::{JoinHandle, spawn_blocking},
    time::{Instant, timeout},
};

/// Between two writings while nothing changes but timers.
const KEEP: Duration = Duration::from_secs(10);

/// How long a disk may keep actions waiting.
const DISK: Duration = Duration::from_secs(5);

/// Goes on until no pictures come any more.
pub async fn run(
    mut agent: Handle,
    mut config: watch::Receiver<Arc<Config>>,
    store: Arc<Mutex<Store>>,
    publish: watch::Sender<Arc<[Arc<Alert>]>>,
) {
    let mut now = Arc::clone(&config.borrow_and_update());
    let mut alerts = Alerts::new(now.alerts.clone());
    let remembered = store.lock().unwrap_or_else(PoisonError::into_inner).take_alerts();
    alerts.remember(remembered, now.leaks.min_age);
    let mut keeper = Keeper { store, writes: None, last: Instant::now(), failed: false };
    let mut actor = Actor::new(&now.alerts, &now.evidence, agent.requests.clone());
    let mut dropped = false;
    while agent.pictures.changed().await.is_ok() {
        if config.has_changed().unwrap_or(false) {
            let new = Arc::clone(&config.borrow_and_update());
            if config::changes(&now, &new).parts.contains(&Part::Alerts) {
                alerts.reload(new.alerts.clone());
                actor = Actor::new(&new.alerts, &new.evidence, agent.requests.clone());
            }
            now = new;
        }
        let picture = Arc::clone(&agent.pictures.borrow_and_update());
        let changes = alerts.feed(&picture);
        if alerts.dropped() > 0 && !std::mem::replace(&mut dropped, true) {
            log::warn!("more than {} alerts: those above are left out", super::MAX_ALERTS);
        }
        if changes.is_empty() {
            if keeper.last.elapsed() >= KEEP {
                keeper.keep(alerts.remembered()).await;
            }
            continue;
        }
        publish.send_replace(alerts.active().cloned().collect());
        // First what is remembered, then what is done: killed between the two, the agent would do it again.
        keeper.keep(alerts.remembered()).await;
        for change in changes {
            say(&change);
            change.actions().into_iter().for_each(|action| actor.begin(action));
        }
    }
}

fn say(change: &Change) {
    let alert = &change.alert;
    let word = |level: Option<LevelName>| level.map_or("none", LevelName::word);
    let (service, pid, class, reason) = (&alert.service, alert.pid, &alert.class, &alert.reason);
    if change.from == change.to {
        log::info!("alert {service} (PID {pid}), {class}: still {}: {reason}", word(change.to));
    } else {
        let (from, to) = (word(change.from), word(change.to));
        log::info!("alert {service} (PID {pid}), {class}: {from} -> {to}: {reason}");
    }
}

/// Writes the alerts that stand, and does not wait for ever for that.
struct Keeper {
    store: Arc<Mutex<Store>>,
    /// What still writes, for a disk that does not answer.
    writes: Option<JoinHandle<Result<(), StoreError>>>,
    last: Instant,
    failed: bool,
}

impl Keeper {
    async fn keep(&mut self, alerts: Vec<Remembered>) {
        self.last = Instant::now();
        if self.writes.as_ref().is_some_and(|writes| !writes.is_finished()) {
            return;
        }
        let store = Arc::clone(&self.store);
        let write = move || store.lock().unwrap_or_else(PoisonError::into_inner).keep_alerts(&alerts);
        let mut writes = spawn_blocking(write);
        match timeout(DISK, &mut writes).await {
            Ok(Ok(Ok(()))) => self.failed = false,
            Ok(Ok(Err(error))) => self.fail(&error.to_string()),
            Ok(_) => {}
            Err(_) => {
                self.fail("the disk does not answer");
                self.writes = Some(writes);
            }
        }
    }

    /// Says it once, not each time.
    fn fail(&mut self, why: &str) {
        if !std::mem::replace(&mut self.failed, true) {
            log::error!("alerts are not remembered: {why}");
        }
    }
}
