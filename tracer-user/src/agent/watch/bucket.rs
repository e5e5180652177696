//! What may be spent of CPU time: a bucket that fills at the pace of the budget, and from which everything is taken
//! that the agent used, whatever it was for.

/// Seconds of the budget that are saved up at most.
const SAVED_SECONDS: f64 = 20.0;
/// What can be spent at once however small the budget is, seconds of CPU: else nothing would ever be done.
const LEAST: f64 = 0.1;

/// The part of the budget that is used: the rest is for what no meter sees, as what the kernel does for us.
const SHARE: f64 = 0.95;

/// See above. Times are seconds.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(in crate::agent) struct Bucket {
    level: f64,
    /// What runs now will cost about this.
    promised: f64,
    last: Option<Reading>,
}

/// When, and how much CPU time had been used by then.
#[derive(Clone, Copy, Debug, PartialEq)]
struct Reading {
    at: f64,
    used: f64,
}

impl Bucket {
    /// One with little in it: what is begun at the start is not for free.
    pub(in crate::agent) fn new() -> Bucket {
        Bucket { level: LEAST, promised: 0.0, last: None }
    }

    /// What the clock and the meter say now; `budget` in cores.
    pub(in crate::agent) fn read(&mut self, at: f64, used: f64, budget: f64) {
        if let Some(last) = self.last {
            let passed = (at - last.at).max(0.0);
            self.level =
                (self.level + passed * SHARE * budget - (used - last.used).max(0.0)).min(most(budget));
        }
        self.last = Some(Reading { at, used });
    }

    /// Whether there is something left to begin with.
    pub(in crate::agent) fn has_left(&self) -> bool {
        self.level - self.promised > 0.0
    }

    /// Something begins that will cost about so much.
    pub(in crate::agent) fn promise(&mut self, cost: f64) {
        self.promised += cost;
    }

    /// It is over, and has been used by now.
    pub(in crate::agent) fn settle(&mut self, cost: f64) {
        self.promised = (self.promised - cost).max(0.0);
    }
}

fn most(budget: f64) -> f64 {
    (budget * SAVED_SECONDS).max(LEAST)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn over_time_no_more_is_begun_than_the_budget_pays_for() {
        let (budget, cost) = (0.02, 0.005);
        let mut bucket = Bucket::new();
        let (mut used, mut begun) = (0.0, 0);
        for tick in 0..6000 {
            bucket.read(f64::from(tick) * 0.1, used, budget);
            while bucket.has_left() {
                bucket.promise(cost);
                begun += 1;
                used += cost;
                bucket.settle(cost);
                bucket.read(f64::from(tick) * 0.1, used, budget);
            }
        }
        let allowed = 600.0 * SHARE * budget + LEAST;
        assert!((used - allowed).abs() <= 2.0 * cost, "{begun} begun, {used} used of {allowed}");
    }

    #[test]
    fn what_runs_already_counts() {
        let mut bucket = Bucket::new();
        bucket.read(0.0, 0.0, 0.0);
        bucket.promise(LEAST);
        assert!(!bucket.has_left());
        bucket.settle(LEAST);
        assert!(bucket.has_left());
    }

    #[test]
    fn a_debt_is_paid_off_before_anything_begins() {
        let mut bucket = Bucket::new();
        bucket.read(0.0, 0.0, 0.1);
        bucket.read(1.0, 9.6, 0.1);
        assert!(!bucket.has_left());
        bucket.read(99.0, 9.6, 0.1);
        assert!(!bucket.has_left());
        bucket.read(102.0, 9.6, 0.1);
        assert!(bucket.has_left());
    }
}
