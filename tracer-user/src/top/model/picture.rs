//! How things stand, in plain data with names: everything there is to show.

use super::{By, Detail, Finding, Query, Sums, Table, Top, detail, goroutines, waits::At};
use sfgi_core::{
    goruntime::State,
    session::{About, Target},
};

/// One target.
#[derive(Clone, Debug)]
pub struct Head {
    /// Its process.
    pub pid: u32,
    /// The name of its executable, without the directory.
    pub program: String,
    /// `go1.26.6`.
    pub go_version: String,
    /// Goroutines of the program by state, in the order of the runtime's numbers.
    pub counts: Vec<(State, u64)>,
    /// All of them.
    pub total: u64,
    /// The runtime's own.
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

/// See the module.
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
    /// The targets.
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

pub(super) fn take(top: &Top, followed: &mut [Target], query: &Query) -> Picture {
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
