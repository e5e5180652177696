//! What runs beside the core of the agent: alerts, the store, the HTTP interface, the export. All of it reads pictures and asks by
//! requests; each may fail or be slow without holding up another.

use super::{
    Earlier, Handle,
    alert::{self, Alert},
    config::{self, Config},
    serve::{
        http::{ListenError, Listener, Shared},
        otlp::Exporter,
    },
    store::{Store, StoreError},
};
use std::sync::{Arc, Mutex, PoisonError};
use tokio::{
    sync::watch,
    task::{JoinHandle, spawn_blocking},
    time::sleep,
};

/// Why the agent does not begin.
#[derive(Debug, thiserror::Error)]
pub enum ServiceError {
    /// Nothing listens.
    #[error(transparent)]
    Listen(#[from] ListenError),
    /// The history cannot be kept.
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// What is open, before anything runs.
pub struct Opened {
    listener: Listener,
    store: Store,
}

impl Opened {
    /// Opens the socket and the store, so that what is wrong with them is said before any program is looked at.
    ///
    /// # Errors
    /// One of them cannot be opened.
    pub async fn open(config: &Config) -> Result<Opened, ServiceError> {
        let listener = Listener::bind(&config.http).await?;
        Ok(Opened { listener, store: Store::open(&config.store)? })
    }

    /// What an earlier agent knew of processes, for the core; the second time nothing.
    pub fn take_earlier(&mut self) -> Earlier {
        self.store.take_earlier()
    }

    /// Begins. Must be called within a tokio runtime.
    pub fn start(self, config: Config, agent: &Handle) -> Services {
        let (alerts_to, alerts) = watch::channel(Arc::from([]));
        let (max_series_to, max_series) = watch::channel(config.metrics.max_series);
        let (trigger_to, trigger_interval) = watch::channel(config.http.trigger_interval);
        let (config_to, config) = watch::channel(Arc::new(config));
        let history = self.store.history();
        if let Ok(address) = self.listener.address() {
            log::info!("listens on {address}");
        }
        let guarded = self.listener.guarded();
        let shared = Shared::new(
            agent.clone(),
            alerts.clone(),
            history,
            max_series.clone(),
            trigger_interval,
            guarded,
        );
        let store = Arc::new(Mutex::new(self.store));
        let listener = self.listener;
        let tasks = vec![
            tokio::spawn(async move {
                listener.serve(Arc::new(shared)).await;
            }),
            tokio::spawn(alert::task::run(agent.clone(), config.clone(), Arc::clone(&store), alerts_to)),
            tokio::spawn(remember(agent.clone(), Arc::clone(&store))),
            tokio::spawn(export(agent.clone(), config, alerts, max_series)),
        ];
        Services { config: config_to, max_series: max_series_to, trigger_interval: trigger_to, store, tasks }
    }
}

/// What runs.
pub struct Services {
    config: watch::Sender<Arc<Config>>,
    max_series: watch::Sender<usize>,
    trigger_interval: watch::Sender<std::time::Duration>,
    store: Arc<Mutex<Store>>,
    tasks: Vec<JoinHandle<()>>,
}

impl Services {
    /// Goes on with another configuration, as far as that can be without a restart, and says what has changed. The core is told by
    /// whoever calls, with [`Config::settings`].
    pub fn reload(&self, new: Config) -> config::Reload {
        let changes = config::changes(&self.config.borrow(), &new);
        self.max_series.send_replace(new.metrics.max_series);
        self.trigger_interval.send_replace(new.http.trigger_interval);
        self.config.send_replace(Arc::new(new));
        changes
    }

    /// Ends all and writes what is remembered.
    ///
    /// # Errors
    /// The store cannot be written.
    pub fn stop(self) -> Result<(), StoreError> {
        self.tasks.iter().for_each(JoinHandle::abort);
        self.store.lock().unwrap_or_else(PoisonError::into_inner).commit()
    }
}

/// Puts each picture into the store; the disk is waited for elsewhere.
async fn remember(mut agent: Handle, store: Arc<Mutex<Store>>) {
    let mut failed = false;
    while agent.pictures.changed().await.is_ok() {
        let picture = Arc::clone(&agent.pictures.borrow_and_update());
        let store = Arc::clone(&store);
        let taken =
            spawn_blocking(move || store.lock().unwrap_or_else(PoisonError::into_inner).take(&picture));
        match taken.await {
            Ok(Ok(())) => failed = false,
            // Once, not each second.
            Ok(Err(error)) if !failed => {
                failed = true;
                log::error!("the history is not written: {error}");
            }
            _ => {}
        }
    }
}

/// Exports by OTLP, where that is configured.
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
        let mut exporter = Exporter::new(&otlp.endpoint);
        while config.borrow().otlp.as_ref() == Some(&otlp) {
            tokio::select! {
                () = sleep(otlp.interval) => {
                    let (picture, alerts) = (Arc::clone(&agent.pictures.borrow()), Arc::clone(&alerts.borrow()));
                    let max_series = *max_series.borrow();
                    exporter.export(&picture, &alerts, max_series).await;
                }
                changed = config.changed() => if changed.is_err() { return },
            }
        }
    }
}
