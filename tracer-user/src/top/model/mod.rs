//! Adds up steps by interval, and looks at all goroutines at the end of each. All times are the events', so that a
//! recording gives what the live trace gave.

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

/// Rows made of each table, and findings kept; beyond that, both are only counted. Pictures are made by the thread that
/// drains the rings, so they must stay small whatever the target has.
const MAX_ROWS: usize = 1000;

/// Where the goroutines' states come from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Source {
    Probes {
        /// Context switches are traced, too; without them time on a CPU is not known.
        threads: bool,
    },
    /// Snapshots alone: what happens between two is not known.
    Snapshots,
}

/// What is known of one target. Where it is not, cells show `-` instead of a wrong 0.
#[derive(Clone, Copy, Debug)]
struct Knows {
    /// Beginning and end of waits.
    waits: bool,
    /// Beginning and end of goroutines.
    lives: bool,
    /// The states runnable and running, and so time in the run queue.
    runs: bool,
    /// Context switches of threads, and so time on a CPU.
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

/// What is added up for one target. The fields `*_before` are of the last whole interval, which pictures show.
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
    /// The last two sums of what the probes cost: pictures show the difference.
    cost: [Cost; 2],
    why_ended: Option<String>,
}

pub struct Top {
    source: Source,
    targets: Vec<Sums>,
    findings: Findings,
    timeline: Timeline,
    /// Time of the first event, and of the beginning of the current interval; 0: nothing has happened.
    began_ts: u64,
    interval_ts: u64,
    /// End of the last whole interval, and its length.
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

    /// Beginning of the current interval, `CLOCK_MONOTONIC` nanoseconds; 0: nothing has happened yet.
    pub fn interval_ts(&self) -> u64 {
        self.interval_ts
    }

    /// Takes what the probes of a target have cost since they stand. Pictures show the difference of the last two.
    pub fn cost(&mut self, index: usize, cost: Cost) {
        if let Some(sums) = self.targets.get_mut(index) {
            sums.cost = [sums.cost[1], cost];
        }
    }

    /// Ends the current interval at `ts`. Pictures show it from now on.
    pub fn tick(&mut self, targets: &mut [Target], ts: u64) {
        let interval_ns = ts.saturating_sub(self.interval_ts);
        (self.interval_ts, self.now_ts, self.interval_ns) = (ts, ts, interval_ns);
        self.findings.begin();
        for (index, (sums, target)) in self.targets.iter_mut().zip(targets).enumerate() {
            // Names are looked up here, because `Standing` and the tables only read `places`.
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

    /// Ends the last interval of all, unless it is shorter than a tenth of `every_ns`: rates of so short a time mean
    /// nothing. Then the picture keeps the interval before.
    pub fn close(&mut self, targets: &mut [Target], ts: u64, every_ns: u64) {
        let lasted_ns = ts.saturating_sub(self.interval_ts);
        if self.interval_ns == 0 || lasted_ns >= every_ns / 10 {
            self.tick(targets, ts);
        }
    }

    /// Makes the picture that `query` asks for.
    pub fn picture(&self, targets: &mut [Target], query: &Query) -> Picture {
        take(self, targets, query)
    }

    fn step(&mut self, index: usize, step: &Step, target: &mut Target) {
        let Some(sums) = self.targets.get_mut(index) else { return };
        // The model has applied the whole round already: place and reason are the goroutine's last ones.
        let known = target.goroutines().get(step.goid).map(|known| (known.site, known.reason, known.birth));
        let (site, reason, birth) = known.unwrap_or_default();
        let birth: Option<Birth> = step.birth.or(birth);
        let system = birth.is_some_and(|birth| sums.places.is_system(target.symbols(), birth.startpc));
        // A wait from before the interval counts from the interval's beginning on: earlier intervals had the rest.
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
        // Timeline and findings are about the program; the runtime's own goroutines would take their room.
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
            // Events, not steps: they are what the rings and this thread carry.
            sums.events += batch.events.len() as u64;
        }
        Ok(())
    }

    fn round(&mut self, targets: &mut [Target], round: &Round) -> io::Result<()> {
        if self.began_ts == 0 {
            // A target that brought nothing has time 0, which is not the beginning.
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
            // A target that ended in between has said why; the end of the trace must not replace that by nothing.
            sums.why_ended = end.why.clone().or(sums.why_ended.take());
        }
        Ok(())
    }
}

#[derive(Clone, Debug)]
pub struct Head {
    pub pid: u32,
    /// File name of the executable.
    pub program: String,
    /// The Go version as the build recorded it: `go1.26.6`.
    pub go_version: String,
    /// The program's goroutines by state, in the order of the runtime's state numbers.
    pub counts: Vec<(State, u64)>,
    pub total: u64,
    pub system: u64,
    /// Events a second; `None`: no probes.
    pub events: Option<f64>,
    /// Hits of its probes a second; `None`: not known yet.
    pub hits: Option<f64>,
    /// Nanoseconds a hit costs the target.
    pub hit_ns: Option<f64>,
    /// Part of the target's CPU time that the hits take; 1 is all of it.
    pub share: Option<f64>,
    /// Events lost in all, and in the last interval.
    pub lost: (u64, u64),
    /// Events of goroutines that the model had no room for.
    pub refused: u64,
    /// Why the trace of this target ended; `None`: it goes on.
    pub ended: Option<String>,
}

/// One moment in plain data with names, which never changes: everything that the screen can show.
#[derive(Clone, Debug)]
pub struct Picture {
    pub query: Query,
    /// End of the interval that it shows, `CLOCK_MONOTONIC` nanoseconds.
    pub ts: u64,
    /// Time from the first event to `ts`.
    pub lasted_ns: u64,
    /// Length of the interval that rates are of; 0: there was none yet.
    pub interval_ns: u64,
    pub heads: Vec<Head>,
    /// In the order of [`By::ALL`].
    pub tables: [Table; 4],
    /// The gravest first.
    pub findings: Vec<Finding>,
    /// Sightings of findings for which there was no room.
    pub more_findings: u64,
    /// The goroutine of [`Query::detail`].
    pub detail: Option<Detail>,
}

impl Picture {
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
        // Each target may fill its table; all together are cut to one table's bound.
        all.arrange(query.sort[by as usize]);
        all
    });
    let detail = query.detail.and_then(|(index, goid)| {
        let (sums, target) = (top.targets.get(index)?, targets.get_mut(index)?);
        // `detail::of` needs the target mutably, for its symbols.
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
    // Two costs are needed for a rate; until then `known` is false.
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
