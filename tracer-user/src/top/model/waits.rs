//! Waits and system calls by place.

use super::{
    Cell, Column, Key, Knows, Query, Row, Table, Trend,
    goroutines::Standing,
    places::{OTHER, PlaceId, Places},
};
use hashbrown::HashMap;
use sfgi_core::{
    model::{Measure, Step, What},
    session::About,
};
use std::sync::Arc;

/// Places with a reason that have a row of their own. A hostile target can invent any number; the rest share a row.
const MAX_SITES: usize = 1 << 12;
/// A system call among the wait reasons, which are `u8`.
pub(super) const SYSCALL: u16 = 256;

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) struct WaitKey {
    /// Index of the wait reason, or [`SYSCALL`].
    pub(super) why: u16,
    pub(super) place: PlaceId,
    pub(super) system: bool,
}

/// What was added up at one place for one reason.
#[derive(Debug, Default)]
struct Site {
    now: Sums,
    /// The last whole interval; its `ns` includes waits that have not ended.
    last: Sums,
    /// Time waited up to the end of the last whole interval.
    total_ns: u64,
    longest_ns: u64,
    trend: Trend,
}

#[derive(Clone, Copy, Debug, Default)]
struct Sums {
    began: u64,
    ns: u64,
    /// Delays in the run queue after these waits: their number and sum.
    delays: u64,
    delay_ns: u64,
}

#[derive(Debug, Default)]
pub(super) struct Waits(HashMap<WaitKey, Site>);

pub(super) const COLUMNS: [Column; 9] = [
    column("NOW", "goroutines that wait here now", 6, 0, true),
    column("RATE/s", "waits that began, a second", 7, 0, true),
    column("WAITED", "time that goroutines were blocked here in the last interval, added up", 7, 0, true),
    column("TOTAL", "the same since the beginning", 7, 100, true),
    column("MAX", "the longest wait so far, ended or not", 7, 0, true),
    column("RUNQ", "average wait in the run queue after these waits, in the last interval", 7, 110, true),
    column("TREND", "NOW of the last intervals", 12, 130, false),
    column("REASON", "what they wait for, in the runtime's words", 14, 0, false),
    column("WHERE", "the place in the program", 0, 0, false),
];

pub(super) const fn column(
    title: &'static str,
    about: &'static str,
    width: u16,
    from: u16,
    right: bool,
) -> Column {
    Column { title, about, width, from, right }
}

pub(super) fn reason_in_words(about: &About, why: u16) -> &str {
    match u8::try_from(why) {
        Ok(reason) => about.wait_reason(reason),
        Err(_) => "syscall",
    }
}

impl Waits {
    fn at(&mut self, key: WaitKey) -> &mut Site {
        let room = self.0.len() < MAX_SITES || self.0.contains_key(&key);
        let key = if room { key } else { WaitKey { place: OTHER, ..key } };
        self.0.entry(key).or_default()
    }

    /// Takes the beginning or the end of a wait; `clipped_ns` is its length within the interval.
    pub(super) fn step(&mut self, step: &Step, clipped_ns: Option<u64>, place: PlaceId, system: bool) {
        let syscall = matches!(step.what, What::SyscallEnter | What::SyscallExit);
        let why = if syscall { SYSCALL } else { u16::from(step.reason) };
        let site = self.at(WaitKey { why, place, system });
        if matches!(step.what, What::Block | What::SyscallEnter) {
            site.now.began += 1;
        } else if let (Some(clipped_ns), Some(ns)) = (clipped_ns, step.duration_ns) {
            site.now.ns = site.now.ns.saturating_add(clipped_ns);
            site.longest_ns = site.longest_ns.max(ns);
        }
    }

    /// Takes the delay in the run queue of a goroutine that waited here before.
    pub(super) fn started(&mut self, reason: u8, place: PlaceId, system: bool, delay_ns: Option<u64>) {
        // The step does not say whether a wait or a system call came before. The place nearly always decides: only one
        // of the two keys exists.
        let why = [u16::from(reason), SYSCALL].into_iter();
        let mut keys = why.map(|why| WaitKey { why, place, system });
        let known = keys.find(|key| self.0.contains_key(key));
        if let (Some(site), Some(delay_ns)) = (known.and_then(|key| self.0.get_mut(&key)), delay_ns) {
            site.now.delays += 1;
            site.now.delay_ns = site.now.delay_ns.saturating_add(delay_ns);
        }
    }

    pub(super) fn close(&mut self, standing: &Standing) {
        for key in standing.waits.keys() {
            self.at(*key);
        }
        for (key, site) in &mut self.0 {
            let open = standing.waits.get(key).copied().unwrap_or_default();
            site.last = std::mem::take(&mut site.now);
            site.last.ns = site.last.ns.saturating_add(open.ns);
            site.total_ns = site.total_ns.saturating_add(site.last.ns);
            site.trend.push(open.count);
        }
    }

    pub(super) fn table(&self, at: &At<'_>, query: &Query) -> Table {
        let mut table = Table::new(&COLUMNS);
        let other = |key: &&WaitKey| !self.0.contains_key(*key);
        // Places without a row count in the row `OTHER`, and so must the goroutines that stand at them.
        let crowded: u64 =
            at.standing.waits.iter().filter(|(key, _)| other(key)).map(|(_, open)| open.count).sum();
        for (key, site) in &self.0 {
            let (place, reason) = (at.places.get(key.place), reason_in_words(at.about, key.why));
            if !query.wants(at.target, key.system, &[&place.func, reason]) {
                continue;
            }
            table.rows.push(site.row(*key, at, reason, crowded));
        }
        // Without events a place where nobody waits now has nothing else to show.
        table.rows.retain(|row| row.cells.first() != Some(&Cell::Count(Some(0))) || at.knows.waits);
        table
    }
}

/// What all tables of one target are made from.
pub(super) struct At<'a> {
    pub(super) target: usize,
    pub(super) about: &'a About,
    pub(super) places: &'a Places,
    pub(super) standing: &'a Standing,
    pub(super) knows: Knows,
    pub(super) interval_ns: u64,
}

impl At<'_> {
    /// The rate of a number that was counted in the interval; `None` before the first whole one.
    pub(super) fn rate(&self, number: u64) -> Option<f64> {
        (self.interval_ns > 0).then(|| number as f64 * 1e9 / self.interval_ns as f64)
    }
}

impl Site {
    fn row(&self, key: WaitKey, at: &At<'_>, reason: &str, crowded: u64) -> Row {
        let place = at.places.get(key.place);
        let open = at.standing.waits.get(&key).copied().unwrap_or_default();
        let count = open.count + if key.place == OTHER { crowded } else { 0 };
        let known = |ns: u64| at.knows.waits.then_some(ns);
        let longest = match open.longest {
            Some((ns, measure)) if ns > self.longest_ns => Cell::Time(Some(ns), measure),
            _ if self.longest_ns > 0 => Cell::exact(known(self.longest_ns)),
            _ => Cell::Time(None, Measure::Exact),
        };
        let delay_ns = self.last.delay_ns.checked_div(self.last.delays);
        let reason: Arc<str> = reason.into();
        Row {
            key: Key { target: at.target, id: id(key), goid: 0 },
            cells: vec![
                Cell::Count(Some(count)),
                Cell::Rate(at.rate(self.last.began).filter(|_| at.knows.waits)),
                Cell::exact(known(self.last.ns).filter(|_| at.interval_ns > 0)),
                Cell::exact(known(self.total_ns)),
                longest,
                Cell::exact(delay_ns.filter(|_| at.knows.runs)),
                Cell::Trend(self.trend.clone()),
                Cell::Text(Arc::clone(&reason)),
                Cell::Text(Arc::clone(&place.text)),
            ],
            words: vec![Arc::clone(&place.func), reason],
            system: key.system,
            alarm: false,
        }
    }
}

fn id(key: WaitKey) -> u64 {
    u64::from(key.why) << 33 | u64::from(key.system) << 32 | u64::from(key.place)
}
