//! Decides when a finding is worth closer probes for a while. Pure: time, findings and modes are arguments, so the
//! tests need neither a clock nor a target.

use crate::agent::{
    config::Raise,
    picture::{Raises, SiteGrowth},
};
use sfgi_core::{detect::Verdict, event::Mode, goruntime::State, leaks::LeakView};
use std::sync::Arc;

/// Why a closer mode is wanted. The order matters: a later variant is the stronger one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Cause {
    /// A creation site grows. Only births and deaths tell how fast it makes goroutines and how many of them end.
    Growth,
    /// Goroutines wait that may be leaked. Only parks and wake-ups tell whether others pass the place where they stand.
    Finding,
    /// An alert has risen to `warn` or above.
    Alert,
}

/// A closer mode that a finding makes worth its cost.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Wish {
    pub(super) cause: Cause,
    pub(super) mode: Mode,
    pub(super) why: Arc<str>,
}

impl Wish {
    /// The wish that follows from the last scan and the last look. A proven leak wishes for nothing: probes could add
    /// nothing to it.
    pub(super) fn of(growth: &[SiteGrowth], leaks: &[LeakView]) -> Option<Wish> {
        let open = |group: &&LeakView| match group.verdict {
            Verdict::Proven => false,
            Verdict::Likely => true,
            // A suspect is only old and many, which long-lived pools are, too.
            Verdict::Suspect => group.growth.is_some(),
        };
        let waits = |group: &&LeakView| group.state == Some(State::Waiting);
        if let Some(group) = leaks.iter().filter(waits).filter(open).max_by_key(|group| group.count) {
            let why = format!("{} × {} ({})", group.count, group.title, group.verdict.word());
            return Some(Wish { cause: Cause::Finding, mode: Mode::Wait, why: why.into() });
        }
        let proven = |site: &SiteGrowth| {
            let mut proven = leaks.iter().filter(|group| group.verdict == Verdict::Proven);
            proven.any(|group| group.created_by.as_ref() == Some(&site.site))
        };
        // Sites come the fastest first.
        let site = growth.iter().find(|site| !proven(site))?;
        let why = format!("goroutines of {} grow by {:.1} a minute", site.site.func, site.per_second * 60.0);
        Some(Wish { cause: Cause::Growth, mode: Mode::Life, why: why.into() })
    }
}

/// The raise of one target: whether it stands, until when, and what came before.
#[derive(Debug, Default)]
pub(super) struct Detail {
    raised: Option<Raised>,
    /// The cause of the last raise, and the time until which only a stronger cause raises the target again.
    rests: Option<(Cause, f64)>,
    said: Arc<str>,
}

#[derive(Debug)]
struct Raised {
    wish: Wish,
    /// The time when the raise ends, seconds.
    until: f64,
    /// Its probes stand, and `until` counts from then. Before that, `until` limits how long the raise waits for them:
    /// the budget may not allow them at all.
    stands: bool,
}

impl Detail {
    /// The mode that the target is raised to; `Poll` where it is not raised.
    pub(super) fn mode(&self) -> Mode {
        self.raised.as_ref().map_or(Mode::Poll, |raised| raised.wish.mode)
    }

    /// The last sentence about a raise; empty where there was none.
    pub(super) fn said(&self) -> Arc<str> {
        Arc::clone(&self.said)
    }

    /// Decides at `at` (seconds on a monotonic clock), when mode `base` is wanted anyway and probes stand in mode
    /// `now`. `None`: nothing changes. Otherwise the text for the log, with the cause if the target is raised.
    pub(super) fn step(
        &mut self,
        at: f64,
        wish: Option<&Wish>,
        (base, now): (Mode, Mode),
        raise: &Raise,
    ) -> Option<(Option<Cause>, Arc<str>)> {
        let wish = wish.filter(|wish| raise.on_finding && wish.mode > base);
        let hold = raise.hold.as_secs_f64();
        if let Some(raised) = &mut self.raised {
            let stronger = wish.is_some_and(|wish| wish.cause > raised.wish.cause);
            // Any probes count: the budget may have allowed only `Life` of a wish for `Wait`.
            if !raised.stands && now >= raised.wish.mode.min(Mode::Life) {
                (raised.stands, raised.until) = (true, at + hold);
            }
            if !stronger && at < raised.until && raise.on_finding {
                return None;
            }
            if !stronger {
                let Wish { cause, mode, why } = raised.wish.clone();
                let stood = if raised.stands { "was raised" } else { "should have been raised" };
                self.rests = Some((cause, at + raise.cool_down.as_secs_f64()));
                self.raised = None;
                return Some((None, self.say(format!("{stood} to {mode} for {hold:.0} s: {why}"))));
            }
        } else if self
            .rests
            .is_some_and(|(cause, until)| at < until && wish.is_none_or(|wish| wish.cause <= cause))
        {
            return None;
        }
        // Not raised and not at rest, or a stronger cause takes over from a raise, and the time begins anew.
        let wish = wish?.clone();
        let said = self.say(format!("is raised to {} for {hold:.0} s: {}", wish.mode, wish.why));
        let cause = wish.cause;
        self.raised = Some(Raised { wish, until: at + hold, stands: false });
        Some((Some(cause), said))
    }

    fn say(&mut self, text: String) -> Arc<str> {
        self.said = text.into();
        self.said()
    }
}

impl Raises {
    pub(super) fn count(&mut self, cause: Cause) {
        *match cause {
            Cause::Growth => &mut self.growth,
            Cause::Finding => &mut self.finding,
            Cause::Alert => &mut self.alert,
        } += 1;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use sfgi_core::{detect::Growth, names::Site, testing::leak};
    use std::time::Duration;

    const RAISE: Raise =
        Raise { on_finding: true, hold: Duration::from_secs(60), cool_down: Duration::from_secs(600) };

    fn wish(cause: Cause) -> Wish {
        let mode = if cause == Cause::Growth { Mode::Life } else { Mode::Wait };
        Wish { cause, mode, why: "why".into() }
    }

    /// The mode after a step at each of these times, with probes that stand at once.
    fn modes(detail: &mut Detail, wish: &Wish, times: &[f64]) -> Vec<Mode> {
        let step = |at: &f64| {
            detail.step(*at, Some(wish), (Mode::Poll, detail.mode()), &RAISE);
            detail.mode()
        };
        times.iter().map(step).collect()
    }

    #[test]
    fn it_is_raised_for_its_time_and_rests_after_it() {
        let mut detail = Detail::default();
        let times = [0.0, 1.0, 60.9, 61.1, 62.0, 661.0, 661.2];
        let expected = [Mode::Life, Mode::Life, Mode::Life, Mode::Poll, Mode::Poll, Mode::Poll, Mode::Life];
        assert_eq!(modes(&mut detail, &wish(Cause::Growth), &times), expected);
        assert_eq!(&*detail.said(), "is raised to life for 60 s: why");
    }

    #[test]
    fn the_time_counts_from_when_probes_stand_and_they_are_not_waited_for_any_longer() {
        let (mut detail, growth) = (Detail::default(), wish(Cause::Growth));
        let mut step = |at: f64, now| detail.step(at, Some(&growth), (Mode::Poll, now), &RAISE);
        assert_eq!(step(0.0, Mode::Poll).unwrap().0, Some(Cause::Growth));
        assert_eq!(step(50.0, Mode::Life), None);
        assert_eq!(step(109.0, Mode::Life), None);
        assert_eq!(&*step(110.0, Mode::Life).unwrap().1, "was raised to life for 60 s: why");
        assert_eq!(step(710.0, Mode::Poll).unwrap().0, Some(Cause::Growth));
        assert_eq!(&*step(770.0, Mode::Poll).unwrap().1, "should have been raised to life for 60 s: why");
    }

    #[test]
    fn only_what_is_stronger_does_not_wait() {
        let mut detail = Detail::default();
        assert_eq!(modes(&mut detail, &wish(Cause::Growth), &[0.0, 1.0]), [Mode::Life; 2]);
        assert_eq!(
            modes(&mut detail, &wish(Cause::Finding), &[2.0, 3.0, 64.0]),
            [Mode::Wait, Mode::Wait, Mode::Poll]
        );
        assert_eq!(modes(&mut detail, &wish(Cause::Growth), &[65.0]), [Mode::Poll]);
        assert_eq!(modes(&mut detail, &wish(Cause::Finding), &[66.0]), [Mode::Poll]);
        assert_eq!(modes(&mut detail, &wish(Cause::Alert), &[67.0]), [Mode::Wait]);
    }

    #[test]
    fn nothing_is_raised_that_is_watched_as_closely_or_when_it_is_switched_off() {
        let mut detail = Detail::default();
        let growth = wish(Cause::Growth);
        assert_eq!(detail.step(0.0, Some(&growth), (Mode::Life, Mode::Poll), &RAISE), None);
        let off = Raise { on_finding: false, ..RAISE };
        assert_eq!(detail.step(0.0, Some(&growth), (Mode::Poll, Mode::Poll), &off), None);
        assert!(detail.step(0.0, Some(&growth), (Mode::Poll, Mode::Poll), &RAISE).is_some());
        assert!(detail.step(1.0, Some(&growth), (Mode::Poll, Mode::Life), &off).is_some());
        assert_eq!(detail.mode(), Mode::Poll);
    }

    #[test]
    fn what_is_proven_needs_no_more_detail() {
        let site = Site { func: "main.f".into(), file: "f.go".into(), line: 7 };
        let growth = [SiteGrowth { site: site.clone(), per_second: 0.5, confidence: 1.0 }];
        let group = |verdict, per_s: Option<f64>| LeakView {
            verdict,
            growth: per_s.map(|per_s| Growth { per_s, confidence: 1.0, looks: 9 }),
            count: 12,
            state: Some(State::Waiting),
            created_by: Some(site.clone()),
            ..leak("class", "wait", "fix")
        };
        let of =
            |growth: &[SiteGrowth], group| Wish::of(growth, &[group]).map(|wish| (wish.cause, wish.mode));
        assert_eq!(of(&growth, group(Verdict::Proven, Some(0.5))), None);
        assert_eq!(of(&growth, group(Verdict::Suspect, None)), Some((Cause::Growth, Mode::Life)));
        assert_eq!(of(&growth, group(Verdict::Suspect, Some(0.5))), Some((Cause::Finding, Mode::Wait)));
        assert_eq!(of(&[], group(Verdict::Likely, None)), Some((Cause::Finding, Mode::Wait)));
        assert_eq!(of(&[], group(Verdict::Suspect, None)), None);
        let runs = LeakView { state: Some(State::Running), ..group(Verdict::Likely, None) };
        assert_eq!(of(&[], runs), None);
        assert_eq!(&*Wish::of(&growth, &[]).unwrap().why, "goroutines of main.f grow by 30.0 a minute");
    }
}
