//! What happens, added up by interval, and how things stand. Time is the events'.

mod creations;
mod detail;
mod findings;
mod goroutines;
mod places;
mod table;
mod waits;

pub use detail::{Detail, Past};
pub use findings::Finding;
pub use table::{By, Cell, Column, Key, Query, Row, Sort, Table, Trend};

use crate::probe::Cost;
use creations::Creations;
use detail::Timeline;
use findings::Findings;
use goroutines::{Delays, Standing, States};
use places::Places;
use sfgi_core::{
    event::{Birth, Mode},
    goruntime::State,
    model::{Step, What},
    session::{About, End, Input, Observer, Round, Target},
};
use std::io;
use waits::{At, Waits};

/// Rows of a table that are made, of findings that are kept: what is beyond is counted.
const MAX_ROWS: usize = 1000;

/// Where the goroutines' states come from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Source {
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
        take(self, followed, query)
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
            What::Create
            | What::Found
            | What::Preempt
            | What::Exit
            | What::Leak
            | What::Illegal
            | What::GcStart
            | What::GcEnd
            | What::ThreadOff
            | What::ThreadOn
            | What::ThreadWake
            | What::Exec => {}
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

#[derive(Clone, Debug)]
pub struct Head {
    pub pid: u32,
    /// The name of its executable, without the directory.
    pub program: String,
    /// `go1.26.6`.
    pub go_version: String,
    /// Goroutines of the program by state, in the order of the runtime's numbers.
    pub counts: Vec<(State, u64)>,
    pub total: u64,
    pub system: u64,
    /// Events a second; `None`: there are none to be had.
    pub events: Option<f64>,
    /// Hits of its probes, a second; `None`: not known.
    pub hits: Option<f64>,
    /// What a hit takes, nanoseconds.
    pub hit_ns: Option<f64>,
    /// What the hits take of the target's CPU time, 1: all of it.
    pub share: Option<f64>,
    /// Events lost, all in all, and in the last interval.
    pub lost: (u64, u64),
    /// How often an event came of a goroutine for which there was no room.
    pub refused: u64,
    /// Why there is nothing more to come.
    pub ended: Option<String>,
}

/// How things stand, in plain data with names: everything there is to show.
#[derive(Clone, Debug)]
pub struct Picture {
    /// What it was made for.
    pub query: Query,
    /// Its time, `CLOCK_MONOTONIC` nanoseconds.
    pub ts: u64,
    /// How long it has been going on.
    pub lasted_ns: u64,
    /// How long the interval is that rates are of; 0: there was none yet.
    pub interval_ns: u64,
    pub heads: Vec<Head>,
    /// The tables, as in [`By::ALL`].
    pub tables: [Table; 4],
    /// What is wrong, the gravest first.
    pub findings: Vec<Finding>,
    /// How many more findings there was no room for.
    pub more_findings: u64,
    /// The goroutine that was asked for.
    pub detail: Option<Detail>,
}

impl Picture {
    /// The rows of one kind.
    pub fn table(&self, by: By) -> &Table {
        &self.tables[by as usize]
    }
}

fn take(top: &Top, followed: &mut [Target], query: &Query) -> Picture {
    let tables = By::ALL.map(|by| {
        let mut tables = top.targets.iter().zip(&*followed).enumerate().map(|(index, (target, followed))| {
            let at = at(top, index, target, followed.about());
            match by {
                By::Wait => target.waits.table(&at, query),
                By::Creation => target.creations.table(&at, query),
                By::State => target.states.table(&at, query),
                By::Goroutine => {
                    let sort = query.sort[by as usize];
                    goroutines::table(followed.goroutines(), &at, &target.delays, top.now_ts, query, sort)
                }
            }
        });
        let mut all = tables.next().unwrap_or_else(|| Table::new(&[]));
        for table in tables {
            all.rows.extend(table.rows);
            all.more += table.more;
        }
        all.arrange(query.sort[by as usize]);
        all
    });
    let detail = query.detail.and_then(|(index, goid)| {
        let (target, followed) = (top.targets.get(index)?, followed.get_mut(index)?);
        let about = followed.about().clone();
        Some(detail::of(top, followed, &at(top, index, target, &about), goid))
    });
    let (findings, more_findings) =
        top.findings.list(|index| top.targets.get(index).map(|target| &target.places), query);
    Picture {
        query: query.clone(),
        ts: top.now_ts,
        lasted_ns: top.now_ts.saturating_sub(top.began_ts),
        interval_ns: top.interval_ns,
        heads: top
            .targets
            .iter()
            .zip(followed)
            .map(|(target, followed)| head(top, target, followed))
            .collect(),
        tables,
        findings,
        more_findings,
        detail,
    }
}

fn at<'a>(top: &Top, index: usize, target: &'a Sums, about: &'a About) -> At<'a> {
    At {
        target: index,
        about,
        places: &target.places,
        standing: &target.standing,
        knows: target.knows,
        interval_ns: top.interval_ns,
    }
}

fn head(top: &Top, target: &Sums, followed: &Target) -> Head {
    let about = followed.about();
    let rate = |number: f64, ns: u64| (ns > 0).then(|| number * 1e9 / ns as f64);
    let [before, now] = target.cost;
    let known = before.ts != 0 && now.ts > before.ts;
    let (hits, ns) = (now.hits.saturating_sub(before.hits) as f64, now.ns - before.ns);
    let cpu_ns = now.cpu_ns.saturating_sub(before.cpu_ns) as f64;
    let mut counts: Vec<(State, u64)> =
        target.standing.counts.iter().map(|(state, count)| (*state, *count)).collect();
    counts.sort_by_key(|(state, _)| state.status());
    Head {
        pid: about.pid,
        program: about.exe.rsplit('/').next().unwrap_or_default().to_owned(),
        go_version: about.go_version.clone(),
        counts,
        total: target.standing.total,
        system: target.standing.system,
        events: rate(target.events_before as f64, top.interval_ns).filter(|_| target.knows.lives),
        hits: rate(hits, now.ts.saturating_sub(before.ts)).filter(|_| known),
        hit_ns: (known && hits > 0.0).then(|| ns / hits),
        share: (known && cpu_ns > 0.0).then(|| ns / cpu_ns),
        lost: (followed.goroutines().lost_events(), target.lost_before),
        refused: followed.goroutines().refused(),
        ended: target.why_ended.clone(),
    }
}
