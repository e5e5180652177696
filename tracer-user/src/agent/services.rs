//! Runs what is beside the core of the agent: alerts, the store, the HTTP interface, the export. All of them
//! read pictures and send requests. Each is a task of its own, so that one that fails or is slow holds up no other.

use super::{
    Earlier, Handle,
    alert::{self, Alert, Alerts, Change, Remembered, act::Actor},
    config::{self, Config, LevelName, Part},
    picture::NameFrom,
    serve::{
        health::Health,
        http::{ListenError, Listener, Shared},
        notify::Notify,
        otlp::Exporter,
    },
    store::{Store, StoreError, own_folder},
};
use std::{
    io::IsTerminal as _,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};
use tokio::{
    sync::watch,
    task::{JoinHandle, spawn_blocking},
    time::{Instant, sleep, timeout},
};

/// Why the agent cannot start.
#[derive(Debug, thiserror::Error)]
pub enum ServiceError {
    #[error(transparent)]
    Listen(#[from] ListenError),
    #[error(transparent)]
    Store(#[from] StoreError),
    #[error("evidence.directory: {0}")]
    Evidence(std::io::Error),
}

/// Socket and store, opened but not used yet.
pub struct Opened {
    listener: Listener,
    store: Store,
    notify: Notify,
}

impl Opened {
    /// Opens the socket and the store before the core looks at any process, so that a mistake in their settings
    /// ends the agent before it has touched a target.
    ///
    /// # Errors
    /// One of them cannot be opened.
    pub async fn open(config: &Config) -> Result<Opened, ServiceError> {
        // The store first: a token may be made beside it, and would be blamed for a folder that is not there.
        let store = Store::open(&config.store)?;
        let terminal = std::io::stderr().is_terminal();
        let listener = Listener::bind(&config.http, config.store.file.as_deref(), terminal).await?;
        if let Some(directory) = &config.evidence.directory {
            own_folder(directory).map_err(ServiceError::Evidence)?;
        }
        Ok(Opened { listener, store, notify: Notify::of_environment() })
    }

    /// What an earlier agent knew of targets, for the core; empty when called a second time.
    pub fn take_earlier(&mut self) -> Earlier {
        self.store.take_earlier()
    }

    /// Starts all tasks. Must be called within a tokio runtime.
    pub fn start(self, config: Arc<Config>, agent: &Handle) -> Services {
        let (alerts_to, standing) = watch::channel(Arc::from([]));
        let (max_series_to, max_series) = watch::channel(config.metrics.max_series);
        let (trigger_to, trigger_interval) = watch::channel(config.http.trigger_interval);
        let (config_to, config) = watch::channel(config);
        let history = self.store.history();
        self.listener.announce();
        let health = Arc::new(Health::new(agent.clone(), config.clone()));
        let notify = Arc::new(self.notify);
        let shared = Shared::new(
            agent.clone(),
            standing.clone(),
            history,
            max_series.clone(),
            trigger_interval,
            Arc::clone(&health),
        );
        let store = Arc::new(Mutex::new(self.store));
        let listener = self.listener;
        let tasks = vec![
            tokio::spawn(async move {
                listener.serve(Arc::new(shared)).await;
            }),
            tokio::spawn(health.follow(Arc::clone(&notify))),
            tokio::spawn(alerts(agent.clone(), config.clone(), Arc::clone(&store), alerts_to)),
            tokio::spawn(remember(agent.clone(), Arc::clone(&store))),
            tokio::spawn(export(agent.clone(), config, standing, max_series)),
        ];
        Services {
            config: config_to,
            max_series: max_series_to,
            trigger_interval: trigger_to,
            store,
            tasks,
            notify,
        }
    }
}

pub struct Services {
    config: watch::Sender<Arc<Config>>,
    max_series: watch::Sender<usize>,
    trigger_interval: watch::Sender<Duration>,
    store: Arc<Mutex<Store>>,
    tasks: Vec<JoinHandle<()>>,
    notify: Arc<Notify>,
}

impl Services {
    /// Says that the agent is about to end.
    pub fn ending(&self) {
        self.notify.say("STOPPING=1");
    }

    /// Goes on with another configuration and says what has changed, and which keys need a restart. The caller
    /// sends the core its own [`Request::Reload`](super::Request::Reload).
    pub fn reload(&self, new: Arc<Config>) -> config::Reload {
        let changes = config::changes(&self.config.borrow(), &new);
        self.max_series.send_replace(new.metrics.max_series);
        self.trigger_interval.send_replace(new.http.trigger_interval);
        self.config.send_replace(new);
        changes
    }

    /// Ends all tasks and commits the store.
    ///
    /// # Errors
    /// The store cannot be written.
    pub fn stop(self) -> Result<(), StoreError> {
        // Aborting does not end a `spawn_blocking` that still writes; the lock of the store waits for it.
        self.tasks.iter().for_each(JoinHandle::abort);
        self.store.lock().unwrap_or_else(PoisonError::into_inner).commit().map(drop)
    }
}

/// Puts each picture into the store. A commit may wait for the disk, so it runs on a thread for blocking work.
async fn remember(mut agent: Handle, store: Arc<Mutex<Store>>) {
    let mut failed = false;
    // `changed` tells only that there is a newer picture: where the disk is slow, pictures are skipped, not queued.
    while agent.pictures.changed().await.is_ok() {
        let picture = Arc::clone(&agent.pictures.borrow_and_update());
        let store = Arc::clone(&store);
        let taken =
            spawn_blocking(move || store.lock().unwrap_or_else(PoisonError::into_inner).take(&picture));
        match taken.await {
            // A `take` that writes nothing is no success: most of them commit nothing.
            Ok(Ok(wrote)) => failed &= !wrote,
            // Once in a row of failures.
            Ok(Err(error)) if !failed => {
                failed = true;
                log::error!("the history is not written: {error}");
            }
            Ok(Err(_)) | Err(_) => {}
        }
    }
}

/// Exports by OTLP while an endpoint is configured, and waits for one otherwise.
async fn export(
    agent: Handle,
    mut config: watch::Receiver<Arc<Config>>,
    alerts: watch::Receiver<Arc<[Arc<Alert>]>>,
    max_series: watch::Receiver<usize>,
) {
    loop {
        let wanted = config.borrow_and_update().otlp.clone();
        let Some(otlp) = wanted else {
            if config.changed().await.is_err() {
                return;
            }
            continue;
        };
        // A new exporter knows of no findings that were sent: another collector gets all of them.
        let mut exporter = Exporter::new(&otlp.endpoint);
        while config.borrow().otlp.as_ref() == Some(&otlp) {
            tokio::select! {
                () = sleep(otlp.interval) => {
                    let (picture, alerts) = (Arc::clone(&agent.pictures.borrow()), Arc::clone(&alerts.borrow()));
                    let max_series = *max_series.borrow();
                    exporter.export(&picture, &alerts, max_series).await;
                }
                // A new configuration cuts the sleep short: it may have another interval.
                changed = config.changed() => if changed.is_err() { return },
            }
        }
    }
}

/// Between two writes of alerts while only their timers advance; a change of a level is written at once.
const KEEP: Duration = Duration::from_secs(10);

/// How long a disk that does not answer may hold up the actions of alerts.
const DISK: Duration = Duration::from_secs(5);

/// Feeds each picture to the alerts, remembers what stands and carries out the actions, until the core has ended.
async fn alerts(
    mut agent: Handle,
    mut config: watch::Receiver<Arc<Config>>,
    store: Arc<Mutex<Store>>,
    publish: watch::Sender<Arc<[Arc<Alert>]>>,
) {
    let mut now = Arc::clone(&config.borrow_and_update());
    let mut alerts = Alerts::new(now.alerts.clone());
    // This async task may take the lock: the first commit comes ten seconds after the store was opened (`COMMIT`).
    let remembered = store.lock().unwrap_or_else(PoisonError::into_inner).take_alerts();
    alerts.remember(remembered, now.leaks.min_age);
    let mut keeper = Keeper { store, writes: None, last: Instant::now(), failed: false };
    let mut actor = Actor::new(&now.alerts, &now.evidence, agent.requests.clone());
    let mut dropped = false;
    while agent.pictures.changed().await.is_ok() {
        if config.has_changed().unwrap_or(false) {
            let new = Arc::clone(&config.borrow_and_update());
            // An `Actor` counts the actions that run; a new one for every reload would forget them without need.
            if config::changes(&now, &new).parts.contains(&Part::Alerts) {
                alerts.reload(new.alerts.clone());
                actor = Actor::new(&new.alerts, &new.evidence, agent.requests.clone());
            }
            now = new;
        }
        let picture = Arc::clone(&agent.pictures.borrow_and_update());
        let changes = alerts.feed(&picture);
        if alerts.dropped() > 0 && !std::mem::replace(&mut dropped, true) {
            log::warn!("more than {} alerts: those above are left out", alert::MAX_ALERTS);
        }
        if changes.is_empty() {
            if keeper.last.elapsed() >= KEEP {
                keeper.keep(alerts.remembered()).await;
            }
            continue;
        }
        publish.send_replace(alerts.active().cloned().collect());
        // Remember before acting: an agent that is killed between the two would otherwise act again after its restart.
        keeper.keep(alerts.remembered()).await;
        for change in changes {
            say(&change);
            change.actions().into_iter().for_each(|action| actor.begin(action));
        }
    }
}

fn say(change: &Change) {
    let alert = &change.alert;
    // What a program calls itself is no fact, and whoever reads the log should know.
    let called = match alert.service_from {
        NameFrom::Environment => ", as it calls itself",
        NameFrom::Rule | NameFrom::Unit | NameFrom::Exe => "",
    };
    let word = |level: Option<LevelName>| level.map_or("none", LevelName::word);
    let (service, pid, class, reason) = (&alert.service, alert.pid, &alert.class, &alert.reason);
    // `Alerts::resume` gives equal levels for an alert that an earlier agent left.
    if change.from == change.to {
        log::info!("alert {service} (PID {pid}{called}), {class}: still {}: {reason}", word(change.to));
    } else {
        let (from, to) = (word(change.from), word(change.to));
        log::info!("alert {service} (PID {pid}{called}), {class}: {from} -> {to}: {reason}");
    }
}

/// Writes the alerts that stand, and gives up waiting after [`DISK`].
struct Keeper {
    store: Arc<Mutex<Store>>,
    /// A write that took longer than [`DISK`] and still runs.
    writes: Option<JoinHandle<Result<(), StoreError>>>,
    last: Instant,
    failed: bool,
}

impl Keeper {
    async fn keep(&mut self, alerts: Vec<Remembered>) {
        self.last = Instant::now();
        // One write at a time: more would only queue for the lock of the store. A later call writes what stands then.
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

    /// Logs the first failure after a success only.
    fn fail(&mut self, why: &str) {
        if !std::mem::replace(&mut self.failed, true) {
            log::error!("alerts are not remembered: {why}");
        }
    }
}
