//! Goroutines by the `go` statement that made them.

use super::{
    Cell, Column, Key, Query, Row, Table, Trend,
    goroutines::Standing,
    waits::{At, column},
};
use hashbrown::HashMap;
use sfgi_core::{
    event::Birth,
    model::{Step, What},
};
use std::sync::Arc;

/// `go` statements with a row of their own. A hostile target can invent any number; the rest share the row [`OTHER`].
const MAX_SITES: usize = 1 << 12;
/// Stands for all statements beyond [`MAX_SITES`]; no return address has this value.
const OTHER: u64 = u64::MAX;
/// Least growth of ALIVE over the trend that marks a row; it must also be half of what is alive.
const GROWS: i64 = 8;

#[derive(Debug, Default)]
struct Site {
    startpc: u64,
    alive: u64,
    now: Sums,
    last: Sums,
    trend: Trend,
}

#[derive(Clone, Copy, Debug, Default)]
struct Sums {
    created: u64,
    exited: u64,
    /// Time in the state running, and how much of it the thread had no CPU, nanoseconds.
    ran_ns: u64,
    off_ns: u64,
    delays: u64,
    delay_ns: u64,
}

/// By the return address of the `go` statement, and whether the goroutines are the runtime's own.
#[derive(Debug, Default)]
pub(super) struct Creations(HashMap<(u64, bool), Site>);

pub(super) const COLUMNS: [Column; 9] = [
    column("ALIVE", "goroutines that were made here and live", 8, 0, true),
    column("MADE/s", "goroutines that were made here, a second", 7, 0, true),
    column("END/s", "goroutines that were made here and ended, a second", 7, 0, true),
    column("GROWTH", "change of ALIVE over the trend", 7, 0, true),
    column("TREND", "ALIVE of the last intervals", 14, 0, false),
    column("ON-CPU", "time on a CPU in the last interval, added up", 8, 100, true),
    column("RUNQ", "average wait in the run queue in the last interval", 7, 110, true),
    column("FUNCTION", "what they run", 0, 0, false),
    column("WHERE", "the go statement", 0, 110, false),
];

impl Creations {
    fn at(&mut self, key: (u64, bool)) -> &mut Site {
        let room = self.0.len() < MAX_SITES || self.0.contains_key(&key);
        // Program and runtime keep a row each, so that hiding the runtime's own hides only those.
        self.0.entry(if room { key } else { (OTHER, key.1) }).or_default()
    }

    pub(super) fn step(&mut self, step: &Step, clipped_ns: Option<u64>, birth: &Birth, system: bool) {
        // Chosen before the row is looked up: most kinds of steps change nothing here and must make no row.
        let add: fn(&mut Sums, Option<u64>, u64) = match step.what {
            What::Create => |sums, _, _| sums.created += 1,
            What::Exit => |sums, _, _| sums.exited += 1,
            What::Start => |sums, lasted_ns, _| {
                sums.delays += u64::from(lasted_ns.is_some());
                sums.delay_ns = sums.delay_ns.saturating_add(lasted_ns.unwrap_or(0));
            },
            What::ThreadOn => |sums, _, clipped_ns| sums.off_ns = sums.off_ns.saturating_add(clipped_ns),
            What::Block | What::Preempt | What::SyscallEnter => {
                |sums, _, clipped_ns| sums.ran_ns = sums.ran_ns.saturating_add(clipped_ns)
            }
            What::Found
            | What::Unblock
            | What::SyscallExit
            | What::Leak
            | What::Illegal
            | What::GcStart
            | What::GcEnd
            | What::ThreadOff
            | What::ThreadWake
            | What::Exec => return,
        };
        let site = self.at((birth.gopc, system));
        site.startpc = birth.startpc;
        add(&mut site.now, step.duration_ns, clipped_ns.unwrap_or(0));
    }

    pub(super) fn close(&mut self, standing: &Standing) {
        for (key, (_, startpc)) in &standing.creations {
            // A snapshot may know goroutines whose creation was never seen: they make a row as well.
            self.at(*key).startpc = *startpc;
        }
        // Standing goroutines of statements without a row count in `OTHER`, by program and runtime.
        let mut crowded = [0; 2];
        for (key, (count, _)) in standing.creations.iter().filter(|(key, _)| !self.0.contains_key(*key)) {
            crowded[usize::from(key.1)] += count;
        }
        for (key, site) in &mut self.0 {
            site.alive = standing.creations.get(key).map_or(0, |(count, _)| *count);
            site.alive += if key.0 == OTHER { crowded[usize::from(key.1)] } else { 0 };
            site.last = std::mem::take(&mut site.now);
            site.trend.push(site.alive);
        }
    }

    pub(super) fn table(&self, at: &At<'_>, query: &Query) -> Table {
        let mut table = Table::new(&COLUMNS);
        for ((gopc, system), site) in &self.0 {
            let function = at.places.get(at.places.function(site.startpc));
            let statement = at.places.get(at.places.statement(*gopc));
            if !query.wants(at.target, *system, &[&function.func, &statement.func]) {
                continue;
            }
            let Sums { created, exited, ran_ns, off_ns, delays, delay_ns } = site.last;
            // Before the first whole interval nothing was added up, and 0 would look like a measured time.
            let whole = at.interval_ns > 0;
            let on_cpu = (at.knows.threads && whole).then(|| ran_ns.saturating_sub(off_ns));
            let growth = site.trend.growth();
            table.rows.push(Row {
                key: Key { target: at.target, id: gopc.wrapping_mul(2) | u64::from(*system), goid: 0 },
                cells: vec![
                    Cell::Count(Some(site.alive)),
                    // Snapshots alone tell who is alive, but not how many were made and ended in between.
                    Cell::Rate(at.rate(created).filter(|_| at.knows.lives)),
                    Cell::Rate(at.rate(exited).filter(|_| at.knows.lives)),
                    Cell::Change(growth),
                    Cell::Trend(site.trend.clone()),
                    Cell::exact(on_cpu),
                    Cell::exact(delay_ns.checked_div(delays).filter(|_| at.knows.runs)),
                    Cell::Text(Arc::clone(&function.short)),
                    Cell::Text(if *gopc == 0 { "(the runtime)".into() } else { Arc::clone(&statement.text) }),
                ],
                words: vec![Arc::clone(&function.func), Arc::clone(&statement.func)],
                system: *system,
                alarm: growth
                    .is_some_and(|growth| growth >= GROWS && growth.unsigned_abs() * 2 >= site.alive),
            });
        }
        table
    }
}
