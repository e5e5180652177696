//! Whether the agent works, told to who asks (`/healthz`, `/readyz`) and to systemd. All comes from pictures and the
//! clock: an agent that makes no pictures any more cannot say that it is well.

use super::notify::Notify;
use crate::agent::{Config, Handle, Picture};
use sfgi_core::clock;
use std::{
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};
use tokio::{sync::watch, time};

/// Without a picture for so long the agent is not ready. One is made each second (`PUBLISH` in `core/mod.rs`).
const STALE: Duration = Duration::from_secs(10);

/// Without a picture for so long the agent should be started anew: a machine that was stopped for a moment needs none.
const DEAD: Duration = Duration::from_secs(30);

/// Intervals without a completed scan after which the agent is not ready.
const LATE: u32 = 3;

/// What the agent tells of itself.
#[derive(Debug)]
pub struct Health {
    agent: Handle,
    config: watch::Receiver<Arc<Config>>,
    seen: Mutex<Seen>,
}

/// What has to be remembered from picture to picture. Times are of `CLOCK_MONOTONIC`: the wall clock may be set.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Seen {
    /// When the agent began, and then when the last picture was made.
    picture: Duration,
    /// The last scan that has ended, as the pictures date it, and when a picture showed it first.
    scan: (u64, Duration),
    /// Since when there have been targets without a break.
    targets_since: Option<Duration>,
}

impl Seen {
    fn take(&mut self, picture: &Picture) {
        let now = Duration::from_nanos(picture.monotonic_ns);
        self.picture = self.picture.max(now);
        let scans = picture.processes.iter().filter_map(|process| process.scan.as_ref());
        let last = scans.map(|scan| scan.unix_ns).fold(picture.node.last_scan_unix_ns, u64::max);
        if last != self.scan.0 {
            self.scan = (last, now);
        }
        self.targets_since =
            (picture.node.seen.tracked > 0).then(|| self.targets_since.map_or(now, |since| since.min(now)));
    }

    /// Whether the agent need not be started anew.
    fn lives(&self, now: Duration) -> Result<(), String> {
        let silent = now.saturating_sub(self.picture);
        if silent >= DEAD {
            return Err(format!("nothing was published for {} s: the agent hangs", silent.as_secs()));
        }
        Ok(())
    }

    /// Whether it sees what it should.
    fn ready(&self, now: Duration, picture: &Picture, interval: Duration) -> Result<(), String> {
        if picture.unix_ns == 0 {
            return Err("no look at the node has ended yet".to_owned());
        }
        self.lives(now)?;
        let silent = now.saturating_sub(self.picture);
        if silent >= STALE {
            return Err(format!("nothing was published for {} s", silent.as_secs()));
        }
        let node = &picture.node;
        // No reason to start anew: workers that hang are ended and replaced.
        if node.workers > 0 && node.workers_hanging >= node.workers {
            return Err(format!("all {} workers hang: no program is scanned", node.workers));
        }
        let Some(since) = self.targets_since else { return Ok(()) };
        let waited = now.saturating_sub(since.max(self.scan.1));
        if waited >= interval.saturating_mul(LATE).max(STALE) {
            let (targets, seconds) = (picture.node.seen.tracked, waited.as_secs());
            return Err(format!("no scan of any of {targets} programs has ended for {seconds} s"));
        }
        Ok(())
    }
}

impl Health {
    pub fn new(agent: Handle, config: watch::Receiver<Arc<Config>>) -> Health {
        let seen = Seen { picture: now(), ..Seen::default() };
        Health { agent, config, seen: Mutex::new(seen) }
    }

    /// Whether the agent works.
    ///
    /// # Errors
    /// Why it does not, in a sentence.
    pub fn lives(&self) -> Result<(), String> {
        self.seen().lives(now())
    }

    /// Whether the agent works and sees what it should.
    ///
    /// # Errors
    /// Why it does not, in a sentence.
    pub fn ready(&self) -> Result<(), String> {
        // A closed channel means that the core has ended; its last picture would still look ready.
        if self.agent.requests.is_closed() {
            return Err("the agent is ending".to_owned());
        }
        let picture = Arc::clone(&self.agent.pictures.borrow());
        let longest = self.config.borrow().longest_interval();
        let kept = Duration::try_from_secs_f64(picture.node.interval_seconds.1).unwrap_or_default();
        self.seen().ready(now(), &picture, longest.max(kept))
    }

    fn seen(&self) -> Seen {
        *self.seen.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Follows the pictures, and tells systemd: ready with the first one, and alive as long as it lives.
    pub async fn follow(self: Arc<Self>, notify: Arc<Notify>) {
        let mut pictures = self.agent.pictures.clone();
        // Without a watchdog once a minute, for nobody.
        let mut tick = time::interval(notify.watchdog().unwrap_or(Duration::from_secs(60)));
        let mut ready = false;
        loop {
            tokio::select! {
                changed = pictures.changed() => {
                    if changed.is_err() {
                        return;
                    }
                    let picture = Arc::clone(&pictures.borrow_and_update());
                    self.seen.lock().unwrap_or_else(PoisonError::into_inner).take(&picture);
                    if !std::mem::replace(&mut ready, true) {
                        notify.say("READY=1");
                    }
                }
                _ = tick.tick() => match self.lives() {
                    Ok(()) => notify.say("WATCHDOG=1"),
                    Err(why) => log::error!("{why}"),
                },
            }
        }
    }
}

fn now() -> Duration {
    Duration::from_nanos(clock::now())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::agent::picture::{NodePicture, Seen as Counts};

    const INTERVAL: Duration = Duration::from_secs(30);

    fn at(seconds: u64) -> Duration {
        Duration::from_secs(seconds)
    }

    fn picture(seconds: u64, tracked: u64, last_scan_unix_ns: u64, hanging: u64) -> Picture {
        let seen = Counts { tracked, ..Counts::default() };
        let node = NodePicture {
            seen,
            last_scan_unix_ns,
            workers: 4,
            workers_hanging: hanging,
            ..NodePicture::default()
        };
        Picture { unix_ns: 1, monotonic_ns: seconds * 1_000_000_000, node, processes: Vec::new() }
    }

    #[test]
    fn an_agent_that_publishes_nothing_is_not_ready_and_then_dead() {
        let mut seen = Seen::default();
        let nothing = Picture::default();
        assert!(seen.ready(at(1), &nothing, INTERVAL).unwrap_err().contains("no look"));
        assert!(seen.lives(at(1)).is_ok());
        let last = picture(100, 0, 0, 0);
        seen.take(&last);
        assert_eq!(seen.ready(at(109), &last, INTERVAL), Ok(()));
        assert!(seen.ready(at(110), &last, INTERVAL).unwrap_err().contains("for 10 s"));
        assert!(seen.lives(at(129)).is_ok());
        assert!(seen.lives(at(130)).unwrap_err().contains("for 30 s"));
    }

    #[test]
    fn an_agent_whose_scans_do_not_end_is_not_ready() {
        let mut seen = Seen::default();
        // Nothing to scan for long is no reason, nor is what has just come.
        for seconds in [1, 1000] {
            seen.take(&picture(seconds, 0, 5, 0));
            assert_eq!(seen.ready(at(seconds), &picture(seconds, 0, 5, 0), INTERVAL), Ok(()));
        }
        for seconds in 1001..1091 {
            let now = picture(seconds, 2, 5, 0);
            seen.take(&now);
            assert_eq!(seen.ready(at(seconds), &now, INTERVAL), Ok(()), "{seconds}");
        }
        let late = picture(1091, 2, 5, 0);
        seen.take(&late);
        let why = seen.ready(at(1091), &late, INTERVAL).unwrap_err();
        assert_eq!(why, "no scan of any of 2 programs has ended for 90 s");
        assert!(seen.lives(at(1091)).is_ok());
        // An interval that is longer is waited for, and a scan that ends is enough.
        assert_eq!(seen.ready(at(1091), &late, INTERVAL * 2), Ok(()));
        let scanned = picture(1092, 2, 6, 0);
        seen.take(&scanned);
        assert_eq!(seen.ready(at(1092), &scanned, INTERVAL), Ok(()));
    }

    #[test]
    fn workers_that_all_hang_are_said() {
        let mut seen = Seen::default();
        for (hanging, ready) in [(0, true), (3, true), (4, false)] {
            let now = picture(10, 1, 1, hanging);
            seen.take(&now);
            assert_eq!(seen.ready(at(10), &now, INTERVAL).is_ok(), ready, "{hanging}");
            assert_eq!(seen.lives(at(10)), Ok(()), "{hanging}");
        }
    }
}
