//! The pace at which requests are answered. A client that asks in a loop must not take the CPU time that scans need: it
//! waits for its turn, and all others with it.

use super::access::Who;
use std::{
    sync::{Mutex, PoisonError},
    time::{Duration, Instant},
};
use tokio::time::sleep;

/// Requests a second from who has shown that it may ask, and at once. One costs about 0.1 ms: a tenth of a core at most.
const KNOWN: (u32, u32) = (1000, 2000);

/// Requests a second from anybody: metrics, health, and those that are refused. A scraper asks a few times a minute.
const ANYBODY: (u32, u32) = (100, 200);

/// Requests a second that make the agent read a target, and at once. Each costs some milliseconds for a thousand
/// goroutines.
const READS: (u32, u32) = (4, 16);

/// Connections a second. More wait in the kernel's queue, where they cost nothing.
const CONNECTIONS: (u32, u32) = (1000, 2000);

/// The longest wait for a turn. Clients that leave while they wait have taken theirs: without a bound they could put off
/// all others for ever.
const LONGEST: Duration = Duration::from_secs(5);

/// Lets so many begin a second, after a pause more at once; the others wait, in order.
#[derive(Debug)]
pub(super) struct Pace {
    every: Duration,
    /// How far turns may be ahead of the pace.
    ahead: Duration,
    /// When the pace would let the next one begin.
    next: Mutex<Option<Instant>>,
}

impl Pace {
    fn of((a_second, at_once): (u32, u32)) -> Pace {
        let every = Duration::from_secs(1) / a_second;
        Pace { every, ahead: every * (at_once - 1), next: Mutex::new(None) }
    }

    pub(super) fn of_connections() -> Pace {
        Pace::of(CONNECTIONS)
    }

    pub(super) fn of_reads() -> Pace {
        Pace::of(READS)
    }

    /// Waits for its turn.
    pub(super) async fn turn(&self) {
        let wait = self.take(Instant::now());
        if !wait.is_zero() {
            sleep(wait).await;
        }
    }

    /// Takes a turn; how long it is until then.
    fn take(&self, now: Instant) -> Duration {
        let mut next = self.next.lock().unwrap_or_else(PoisonError::into_inner);
        let last = now + self.ahead + LONGEST;
        let at = next.map_or(now, |next| next.max(now)).min(last);
        *next = Some(at + self.every);
        at.duration_since(now).saturating_sub(self.ahead)
    }
}

/// The paces of all requests, by who asks: who may not ask must not hold up who may.
#[derive(Debug)]
pub(super) struct Paces {
    known: Pace,
    anybody: Pace,
}

impl Default for Paces {
    fn default() -> Self {
        Paces { known: Pace::of(KNOWN), anybody: Pace::of(ANYBODY) }
    }
}

impl Paces {
    pub(super) fn of(&self, who: Who) -> &Pace {
        match who {
            Who::Known => &self.known,
            Who::Anybody => &self.anybody,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn some_begin_at_once_and_the_others_one_after_the_other() {
        let (pace, now) = (Pace::of((10, 3)), Instant::now());
        let waits: Vec<u128> = (0..6).map(|_| pace.take(now).as_millis()).collect();
        assert_eq!(waits, [0, 0, 0, 100, 200, 300]);
        let later = now + Duration::from_secs(1);
        assert_eq!((0..4).map(|_| pace.take(later).as_millis()).collect::<Vec<_>>(), [0, 0, 0, 100]);
        assert!((0..10_000).all(|_| pace.take(later) <= LONGEST));
    }
}
