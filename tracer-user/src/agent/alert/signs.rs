//! Signs of one target that together mean more than each alone: heap in use, goroutines, goroutines that wait for a
//! mutex. The signs agree when all that are asked for have risen by their share over the stated time, and none of
//! them in one step. Each alone wanders with the load.

use crate::agent::config::Signs;
use std::{collections::VecDeque, time::Duration};

/// The values of one picture; `None`: not known.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(super) struct SignValues {
    /// Bytes.
    pub heap: Option<f64>,
    pub goroutines: Option<f64>,
    pub mutex_wait: Option<f64>,
}

/// The bound of looks that are kept of a target; [`Correlation::feed`] needs about half of it.
const MAX_LOOKS: usize = 64;

/// The looks of one target, the oldest first.
#[derive(Clone, Debug, Default)]
pub(super) struct Correlation {
    looks: VecDeque<(Duration, SignValues)>,
}

impl Correlation {
    /// Takes one look and returns in words why the signs agree, if they do.
    pub(super) fn feed(&mut self, now: Duration, values: SignValues, signs: &Signs) -> Option<String> {
        // Pictures come each second: all of a window of ten minutes would be 600 looks.
        let apart = signs.hold / u32::try_from(MAX_LOOKS / 2).unwrap_or(1);
        let newest = self.looks.back().map(|(at, _)| *at);
        if newest.is_none_or(|newest| now.saturating_sub(newest) >= apart) {
            self.looks.push_back((now, values));
        }
        // The first look is the youngest that is at least `signs.hold` old: today's values are compared with it.
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
            // A sign whose value is not known cannot agree, and so all do not.
            let (old, new) = (old?, new?);
            // `max(1.0)`: from nothing any value would be a rise by any share.
            if new < old.max(1.0) * (1.0 + share) || !self.rises(pick, new - old) {
                return None;
            }
            words.push(format!("{name} from {old:.0} to {new:.0}"));
        }
        let all = words.join(", ");
        (!words.is_empty()).then(|| format!("all have risen for {:.0} s: {all}", signs.hold.as_secs_f64()))
    }

    /// Whether a sign has risen all the time: no quarter of the time has 90 % or more of the whole rise.
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
