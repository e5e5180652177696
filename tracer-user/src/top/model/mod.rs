//! What happens, added up by interval, and how things stand. Time is the events'.

mod creations;
mod detail;
mod findings;
mod goroutines;
mod picture;
mod places;
mod query;
mod standing;
mod states;
mod table;
mod timeline;
mod trend;
mod waits;

pub use detail::Detail;
pub use findings::Finding;
pub use picture::{Head, Picture};
pub use query::{By, Query, Sort};
pub use table::{Cell, Column, Key, Row, Table};
pub use timeline::Past;
pub use trend::Trend;

use crate::probe::Cost;
use creations::Creations;
use findings::Findings;
use goroutines::Delays;
use places::Places;
use sfgi_core::{
    event::{Birth, Mode},
    model::{Step, What},
    session::{End, Input, Observer, Round, Target},
};
use standing::Standing;
use states::States;
use std::io;
use timeline::Timeline;
use waits::Waits;

/// Rows of a table that are made, of findings that are kept: what is beyond is counted.
const MAX_ROWS: usize = 1000;

/// Where the goroutines' states come from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Source {
    /// Probes.
    Probes {
        /// Also the threads' context switches, without which nobody knows what is on a CPU.
        threads: bool,
    },
    /// Snapshots alone, read now and then: what happens between two is not known.
    Snapshots,
}

/// What can be known of one target.
#[derive(Clone, Copy, Debug)]
struct Knows {
    /// When waits begin and end.
    waits: bool,
    /// When goroutines begin and end.
    lives: bool,
    /// When goroutines run.
    runs: bool,
    /// When threads run.
    threads: bool,
}

impl Knows {
    fn of(source: Source, mode: Mode) -> Knows {
        let Source::Probes { threads } = source else {
            return Knows { waits: false, lives: false, runs: false, threads: false };
        };
        let full = mode == Mode::Full;
        Knows { waits: mode != Mode::Life, lives: true, runs: full, threads: threads && full }
    }
}

/// What is added up of one target.
struct Sums {
    knows: Knows,
    places: Places,
    waits: Waits,
    creations: Creations,
    states: States,
    delays: Delays,
    standing: Standing,
    events: u64,
    events_before: u64,
    lost: u64,
    lost_before: u64,
    cost: [Cost; 2],
    why_ended: Option<String>,
}

/// See the module.
pub struct Top {
    source: Source,
    targets: Vec<Sums>,
    findings: Findings,
    timeline: Timeline,
    /// When the first thing happened, and when the interval began that is being added up.
    began_ts: u64,
    interval_ts: u64,
    /// When the last whole interval ended, and how long it was.
    now_ts: u64,
    interval_ns: u64,
}

impl Top {
    /// Nothing has happened yet.
    pub fn new(source: Source) -> Top {
        Top {
            source,
            targets: Vec::new(),
            findings: Findings::default(),
            timeline: Timeline::default(),
            began_ts: 0,
            interval_ts: 0,
            now_ts: 0,
            interval_ns: 0,
        }
    }

    /// When the interval began that is being added up; 0: nothing has happened yet.
    pub fn interval_ts(&self) -> u64 {
        self.interval_ts
    }

    /// What the probes of a target have cost up to now; pictures show what was added since the last time.
    pub fn cost(&mut self, target: usize, cost: Cost) {
        if let Some(target) = self.targets.get_mut(target) {
            target.cost = [target.cost[1], cost];
        }
    }

    /// Ends the interval: what was added up is what pictures show from now on.
    pub fn tick(&mut self, followed: &mut [Target], ts: u64) {
        let interval_ns = ts.saturating_sub(self.interval_ts);
        (self.interval_ts, self.now_ts, self.interval_ns) = (ts, ts, interval_ns);
        self.findings.begin();
        for (index, (target, followed)) in self.targets.iter_mut().zip(followed).enumerate() {
            target.places.learn(followed);
            target.standing = Standing::of(followed, &target.places, ts, interval_ns);
            target.waits.close(&target.standing);
            target.creations.close(&target.standing);
            target.states.close(&target.standing);
            target.delays.forget_dead(followed.goroutines());
            (target.events_before, target.events) = (target.events, 0);
            (target.lost_before, target.lost) = (target.lost, 0);
            self.findings.look(index, followed, &target.places, target.knows, ts);
            target.why_ended = followed.ended().map(str::to_owned).or(target.why_ended.take());
        }
    }

    /// Ends the last interval, at the end of all, unless it is too short to tell rates: less than a tenth of
    /// `every_ns`. Then the one before is the last.
    pub fn close(&mut self, followed: &mut [Target], ts: u64, every_ns: u64) {
        let lasted_ns = ts.saturating_sub(self.interval_ts);
        if self.interval_ns == 0 || lasted_ns >= every_ns / 10 {
            self.tick(followed, ts);
        }
    }

    /// How things stand, for those that are asked for.
    pub fn picture(&self, followed: &mut [Target], query: &Query) -> Picture {
        picture::take(self, followed, query)
    }

    fn step(&mut self, index: usize, step: &Step, followed: &mut Target) {
        let Some(target) = self.targets.get_mut(index) else { return };
        let known = followed.goroutines().get(step.goid).map(|known| (known.site, known.reason, known.birth));
        let (site, reason, birth) = known.unwrap_or_default();
        let birth: Option<Birth> = step.birth.or(birth);
        let system = birth.is_some_and(|birth| target.places.is_system(followed.symbols(), birth.startpc));
        // What lasted from before the interval counts from its beginning on.
        let clipped_ns = step.duration_ns.map(|ns| ns.min(step.ts.saturating_sub(self.interval_ts)));
        match step.what {
            What::Block | What::SyscallEnter | What::Unblock | What::SyscallExit => {
                let place = target.places.of_stack(followed.symbols(), step.stack.unwrap_or(site));
                target.waits.step(step, clipped_ns, place, system);
            }
            What::Start => {
                let place = target.places.of_stack(followed.symbols(), site);
                target.waits.started(reason, place, system, step.duration_ns);
                target.delays.started(step);
            }
            _ => {}
        }
        if let Some(birth) = birth {
            target.creations.step(step, clipped_ns, &birth, system);
        }
        if step.goid != 0 && !system {
            self.timeline.push(index, step);
            let place = birth.map_or(places::UNKNOWN, |birth| {
                target.places.of_function(followed.symbols(), birth.startpc)
            });
            self.findings.step(index, step, place);
        }
    }
}

impl Observer for Top {
    fn begin(&mut self, followed: &mut [Target]) -> io::Result<()> {
        let target = |followed: &Target| Sums {
            knows: Knows::of(self.source, followed.about().mode),
            places: Places::new(followed.about().release),
            waits: Waits::default(),
            creations: Creations::default(),
            states: States::default(),
            delays: Delays::default(),
            standing: Standing::default(),
            events: 0,
            events_before: 0,
            lost: 0,
            lost_before: 0,
            cost: Default::default(),
            why_ended: None,
        };
        self.targets = followed.iter().map(target).collect();
        Ok(())
    }

    fn input(&mut self, target: usize, input: &Input, _: &mut Target) -> io::Result<()> {
        if let (Some(target), Input::Events(batch)) = (self.targets.get_mut(target), input) {
            target.events += batch.events.len() as u64;
        }
        Ok(())
    }

    fn round(&mut self, followed: &mut [Target], round: &Round) -> io::Result<()> {
        if self.began_ts == 0 {
            let first = round.news.iter().map(|news| news.ts).filter(|ts| *ts != 0).min().unwrap_or(0);
            (self.began_ts, self.interval_ts, self.now_ts) = (first, first, first);
        }
        for (target, news) in self.targets.iter_mut().zip(&round.news) {
            target.lost += news.lost;
        }
        for (index, step) in round.steps() {
            if let Some(followed) = followed.get_mut(index) {
                self.step(index, step, followed);
            }
        }
        Ok(())
    }

    fn end(&mut self, _: &mut [Target], ends: &[End]) -> io::Result<()> {
        for (target, end) in self.targets.iter_mut().zip(ends) {
            target.why_ended = end.why.clone().or(target.why_ended.take());
        }
        Ok(())
    }
}
