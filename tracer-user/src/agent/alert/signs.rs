//! Several signs of one process that mean something together: heap in use, goroutines, goroutines that wait for a mutex. A sign
//! is up when it has risen by its share over the stated time, and only when all that are asked for are up at every look of such a time
//! do they agree. Each alone wanders with the load.

use crate::agent::config::Signs;
use std::{collections::VecDeque, time::Duration};

/// What one look says.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(super) struct SignValues {
    /// Heap in use, bytes.
    pub heap: Option<f64>,
    pub goroutines: Option<f64>,
    /// Goroutines that wait for a mutex.
    pub mutex_wait: Option<f64>,
}

/// Looks that are kept of a process; more are thinned out.
const MAX_LOOKS: usize = 64;

/// The looks of one process.
#[derive(Clone, Debug, Default)]
pub(super) struct Correlation {
    looks: VecDeque<(Duration, SignValues)>,
}

impl Correlation {
    /// Takes one look. Why the signs agree, in words, if they do.
    pub(super) fn feed(&mut self, now: Duration, values: SignValues, signs: &Signs) -> Option<String> {
        // Looks that are closer together than the window needs would push out the old ones.
        let apart = signs.hold / u32::try_from(MAX_LOOKS / 2).unwrap_or(1);
        let newest = self.looks.back().map(|(at, _)| *at);
        if newest.is_none_or(|newest| now.saturating_sub(newest) >= apart) {
            self.looks.push_back((now, values));
        }
        // The last look that is old enough is what the signs are held against.
        while self.looks.get(1).is_some_and(|(at, _)| now.saturating_sub(*at) >= signs.hold) {
            self.looks.pop_front();
        }
        self.looks.truncate(MAX_LOOKS);
        let (first, base) = *self.looks.front()?;
        if now.saturating_sub(first) < signs.hold {
            return None;
        }
        let asked = [
            ("heap in use", signs.heap, base.heap, values.heap, Pick::Heap),
            ("goroutines", signs.goroutines, base.goroutines, values.goroutines, Pick::Goroutines),
            (
                "goroutines that wait for a mutex",
                signs.mutex_wait,
                base.mutex_wait,
                values.mutex_wait,
                Pick::Mutex,
            ),
        ];
        let mut words = Vec::new();
        for (name, share, old, new, pick) in asked {
            let Some(share) = share else { continue };
            let (old, new) = (old?, new?);
            if new < old.max(1.0) * (1.0 + share) || !self.rises(pick, new - old) {
                return None;
            }
            words.push(format!("{name} from {old:.0} to {new:.0}"));
        }
        let all = words.join(", ");
        (!words.is_empty()).then(|| format!("all have risen for {:.0} s: {all}", signs.hold.as_secs_f64()))
    }

    /// Whether a sign has been rising all the time, and not in one step: no quarter of the time holds nearly all of it.
    fn rises(&self, pick: Pick, all: f64) -> bool {
        let values: Vec<f64> = self.looks.iter().filter_map(|(_, values)| pick.of(values)).collect();
        let quarter = (values.len() / 4).max(1);
        let step = |at: usize| Some(values.get(at + quarter)? - values.get(at)?);
        (0..values.len()).filter_map(step).all(|step| step < all * 0.9)
    }
}

#[derive(Clone, Copy)]
enum Pick {
    Heap,
    Goroutines,
    Mutex,
}

impl Pick {
    fn of(self, values: &SignValues) -> Option<f64> {
        match self {
            Pick::Heap => values.heap,
            Pick::Goroutines => values.goroutines,
            Pick::Mutex => values.mutex_wait,
        }
    }
}
