//! Ctrl-C of a command that repeats: what it is doing is finished first.

use anyhow::Result;
use std::{
    sync::{Arc, Condvar, Mutex, PoisonError},
    time::Duration,
};
use tokio::signal::unix::{SignalKind, signal};

/// Whether the user has asked to stop.
#[derive(Clone, Default)]
pub(super) struct Stop(Arc<(Mutex<bool>, Condvar)>);

impl Stop {
    /// Listens for SIGINT, SIGTERM and SIGHUP from now on. A second one ends the process at once.
    pub(super) fn on_signals() -> Result<Stop> {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let guard = runtime.enter();
        let mut interrupt = signal(SignalKind::interrupt())?;
        let mut terminate = signal(SignalKind::terminate())?;
        let mut hangup = signal(SignalKind::hangup())?;
        drop(guard);
        let stop = Stop::default();
        let asked = stop.clone();
        std::thread::Builder::new().name("signals".to_owned()).spawn(move || {
            runtime.block_on(async {
                for _ in 0..2 {
                    tokio::select! {
                        _ = interrupt.recv() => {}
                        _ = terminate.recv() => {}
                        _ = hangup.recv() => {}
                    }
                    asked.ask();
                }
            });
            std::process::exit(1);
        })?;
        Ok(stop)
    }

    fn ask(&self) {
        let (asked, changed) = &*self.0;
        *asked.lock().unwrap_or_else(PoisonError::into_inner) = true;
        changed.notify_all();
    }

    /// Waits for so long, or until it was asked; says whether it was.
    pub(super) fn wait(&self, time: Duration) -> bool {
        let (asked, changed) = &*self.0;
        let guard = asked.lock().unwrap_or_else(PoisonError::into_inner);
        let (asked, _) =
            changed.wait_timeout_while(guard, time, |asked| !*asked).unwrap_or_else(PoisonError::into_inner);
        *asked
    }
}
