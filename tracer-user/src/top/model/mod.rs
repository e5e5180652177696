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
    pub fn cost(&mut self, index: usize, cost: Cost) {
        if let Some(sums) = self.targets.get_mut(index) {
            sums.cost = [sums.cost[1], cost];
        }
    }

    /// Ends the interval: what was added up is what pictures show from now on.
    pub fn tick(&mut self, targets: &mut [Target], ts: u64) {
        let interval_ns = ts.saturating_sub(self.interval_ts);
        (self.interval_ts, self.now_ts, self.interval_ns) = (ts, ts, interval_ns);
        self.findings.begin();
        for (index, (sums, target)) in self.targets.iter_mut().zip(targets).enumerate() {
            sums.places.learn(target);
            sums.standing = Standing::of(target, &sums.places, ts, interval_ns);
            sums.waits.close(&sums.standing);
            sums.creations.close(&sums.standing);
            sums.states.close(&sums.standing);
            sums.delays.forget_dead(target.goroutines());
            (sums.events_before, sums.events) = (sums.events, 0);
            (sums.lost_before, sums.lost) = (sums.lost, 0);
            self.findings.look(index, target, &sums.places, sums.knows, ts);
            sums.why_ended = target.ended().map(str::to_owned).or(sums.why_ended.take());
        }
    }

    /// Ends the last interval, at the end of all, unless it is too short to tell rates: less than a tenth of
    /// `every_ns`. Then the one before is the last.
    pub fn close(&mut self, targets: &mut [Target], ts: u64, every_ns: u64) {
        let lasted_ns = ts.saturating_sub(self.interval_ts);
        if self.interval_ns == 0 || lasted_ns >= every_ns / 10 {
            self.tick(targets, ts);
        }
    }

    /// How things stand, for those that are asked for.
    pub fn picture(&self, targets: &mut [Target], query: &Query) -> Picture {
        take(self, targets, query)
    }

    fn step(&mut self, index: usize, step: &Step, target: &mut Target) {
        let Some(sums) = self.targets.get_mut(index) else { return };
        let known = target.goroutines().get(step.goid).map(|known| (known.site, known.reason, known.birth));
        let (site, reason, birth) = known.unwrap_or_default();
        let birth: Option<Birth> = step.birth.or(birth);
        let system = birth.is_some_and(|birth| sums.places.is_system(target.symbols(), birth.startpc));
        // What lasted from before the interval counts from its beginning on.
        let clipped_ns = step.duration_ns.map(|ns| ns.min(step.ts.saturating_sub(self.interval_ts)));
        match step.what {
            What::Block | What::SyscallEnter | What::Unblock | What::SyscallExit => {
                let place = sums.places.of_stack(target.symbols(), step.stack.unwrap_or(site));
                sums.waits.step(step, clipped_ns, place, system);
            }
            What::Start => {
                let place = sums.places.of_stack(target.symbols(), site);
                sums.waits.started(reason, place, system, step.duration_ns);
                sums.delays.started(step);
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
            sums.creations.step(step, clipped_ns, &birth, system);
        }
        if step.goid != 0 && !system {
            self.timeline.push(index, step);
            let place = birth
                .map_or(places::UNKNOWN, |birth| sums.places.of_function(target.symbols(), birth.startpc));
            self.findings.step(index, step, place);
        }
    }
}

impl Observer for Top {
    fn begin(&mut self, targets: &mut [Target]) -> io::Result<()> {
        let sums = |target: &Target| Sums {
            knows: Knows::of(self.source, target.about().mode),
            places: Places::new(target.about().release),
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
        self.targets = targets.iter().map(sums).collect();
        Ok(())
    }

    fn input(&mut self, index: usize, input: &Input, _: &mut Target) -> io::Result<()> {
        if let (Some(sums), Input::Events(batch)) = (self.targets.get_mut(index), input) {
            sums.events += batch.events.len() as u64;
        }
        Ok(())
    }

    fn round(&mut self, targets: &mut [Target], round: &Round) -> io::Result<()> {
        if self.began_ts == 0 {
            let first = round.news.iter().map(|news| news.ts).filter(|ts| *ts != 0).min().unwrap_or(0);
            (self.began_ts, self.interval_ts, self.now_ts) = (first, first, first);
        }
        for (sums, news) in self.targets.iter_mut().zip(&round.news) {
            sums.lost += news.lost;
        }
        for (index, step) in round.steps() {
            if let Some(target) = targets.get_mut(index) {
                self.step(index, step, target);
            }
        }
        Ok(())
    }

    fn end(&mut self, _: &mut [Target], ends: &[End]) -> io::Result<()> {
        for (sums, end) in self.targets.iter_mut().zip(ends) {
            sums.why_ended = end.why.clone().or(sums.why_ended.take());
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

fn take(top: &Top, targets: &mut [Target], query: &Query) -> Picture {
    let tables = By::ALL.map(|by| {
        let mut tables = top.targets.iter().zip(&*targets).enumerate().map(|(index, (sums, target))| {
            let at = at(top, index, sums, target.about());
            match by {
                By::Wait => sums.waits.table(&at, query),
                By::Creation => sums.creations.table(&at, query),
                By::State => sums.states.table(&at, query),
                By::Goroutine => {
                    let sort = query.sort[by as usize];
                    goroutines::table(target.goroutines(), &at, &sums.delays, top.now_ts, query, sort)
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
        let (sums, target) = (top.targets.get(index)?, targets.get_mut(index)?);
        let about = target.about().clone();
        Some(detail::of(top, target, &at(top, index, sums, &about), goid))
    });
    let (findings, more_findings) =
        top.findings.list(|index| top.targets.get(index).map(|sums| &sums.places), query);
    Picture {
        query: query.clone(),
        ts: top.now_ts,
        lasted_ns: top.now_ts.saturating_sub(top.began_ts),
        interval_ns: top.interval_ns,
        heads: top.targets.iter().zip(targets).map(|(sums, target)| head(top, sums, target)).collect(),
        tables,
        findings,
        more_findings,
        detail,
    }
}

fn at<'a>(top: &Top, index: usize, sums: &'a Sums, about: &'a About) -> At<'a> {
    At {
        target: index,
        about,
        places: &sums.places,
        standing: &sums.standing,
        knows: sums.knows,
        interval_ns: top.interval_ns,
    }
}

fn head(top: &Top, sums: &Sums, target: &Target) -> Head {
    let about = target.about();
    let rate = |number: f64, ns: u64| (ns > 0).then(|| number * 1e9 / ns as f64);
    let [before, now] = sums.cost;
    let known = before.ts != 0 && now.ts > before.ts;
    let (hits, ns) = (now.hits.saturating_sub(before.hits) as f64, now.ns - before.ns);
    let cpu_ns = now.cpu_ns.saturating_sub(before.cpu_ns) as f64;
    let mut counts: Vec<(State, u64)> =
        sums.standing.counts.iter().map(|(state, count)| (*state, *count)).collect();
    counts.sort_by_key(|(state, _)| state.status());
    Head {
        pid: about.pid,
        program: about.exe.rsplit('/').next().unwrap_or_default().to_owned(),
        go_version: about.go_version.clone(),
        counts,
        total: sums.standing.total,
        system: sums.standing.system,
        events: rate(sums.events_before as f64, top.interval_ns).filter(|_| sums.knows.lives),
        hits: rate(hits, now.ts.saturating_sub(before.ts)).filter(|_| known),
        hit_ns: (known && hits > 0.0).then(|| ns / hits),
        share: (known && cpu_ns > 0.0).then(|| ns / cpu_ns),
        lost: (target.goroutines().lost_events(), sums.lost_before),
        refused: target.goroutines().refused(),
        ended: sums.why_ended.clone(),
    }
}
