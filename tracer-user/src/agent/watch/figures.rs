//! What probes tell of a process, in numbers that only rise; kept from session to session.

use super::scan::{nowhere, table};
use crate::agent::picture::{Distribution, Events};
use sfgi_core::{
    model::{Measure, What, Whats},
    names::Site,
    session::{End, Followed, Observer, Round},
};
use std::{
    collections::HashMap,
    io,
    sync::{Arc, Mutex, PoisonError},
};

/// Places that are kept apart; what comes from others is counted together.
const MAX_SITES: usize = 1024;
/// Wait reasons; the runtime has about forty.
const MAX_REASONS: usize = 64;

/// All that was told so far. Shared with the thread that listens.
#[derive(Clone, Debug, Default)]
pub(in crate::agent) struct Figures(Arc<Mutex<Sums>>);

#[derive(Debug, Default)]
struct Sums {
    created: HashMap<Site, u64>,
    exited: HashMap<Site, u64>,
    blocked: HashMap<Arc<str>, Distribution>,
    run_queue: Distribution,
    illegal: u64,
}

impl Figures {
    /// An observer that adds to them.
    pub(in crate::agent) fn listener(&self) -> Listener {
        Listener { figures: self.clone(), births: HashMap::new() }
    }

    /// Puts them into a picture, with tables of so many rows.
    pub(in crate::agent) fn show(&self, events: &mut Events, top: usize) {
        let sums = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let rows = |sites: &HashMap<Site, u64>| {
            table(sites.iter().map(|(site, count)| (site.clone(), *count)).collect(), top)
        };
        events.created = rows(&sums.created);
        events.exited = rows(&sums.exited);
        events.blocked =
            sums.blocked.iter().map(|(reason, times)| (Arc::clone(reason), times.clone())).collect();
        events.blocked.sort_by(|one, other| one.0.cmp(&other.0));
        events.run_queue = sums.run_queue.clone();
        events.illegal = sums.illegal;
    }
}

/// See [`Figures::listener`].
pub(in crate::agent) struct Listener {
    figures: Figures,
    /// Return address of a `go` statement → its place, in this session.
    births: HashMap<u64, Site>,
}

impl Observer for Listener {
    fn wants(&self) -> Whats {
        Whats::from_iter([What::Create, What::Exit, What::Unblock, What::Start, What::Illegal])
    }

    fn round(&mut self, targets: &mut [Followed], round: &Round) -> io::Result<()> {
        let figures = self.figures.clone();
        let mut sums = figures.0.lock().unwrap_or_else(PoisonError::into_inner);
        for (index, step) in round.steps() {
            let Some(followed) = targets.get_mut(index) else { continue };
            let exact = step.duration_ns.filter(|_| step.measure == Measure::Exact);
            match step.what {
                What::Create | What::Exit => {
                    let gopc = step.birth.map_or(0, |birth| birth.gopc);
                    let site = self.site(followed, gopc);
                    let sums = if step.what == What::Create { &mut sums.created } else { &mut sums.exited };
                    add(sums, site);
                }
                What::Unblock => {
                    let Some(ns) = exact else { continue };
                    let reason = followed.about().wait_reason(step.reason);
                    if let Some(times) = sums.blocked.get_mut(reason) {
                        times.add(ns);
                    } else if sums.blocked.len() < MAX_REASONS {
                        sums.blocked.entry(reason.into()).or_default().add(ns);
                    }
                }
                What::Start => exact.into_iter().for_each(|ns| sums.run_queue.add(ns)),
                What::Illegal => sums.illegal += 1,
                _ => {}
            }
        }
        Ok(())
    }

    fn end(&mut self, _: &mut [Followed], _: &[End]) -> io::Result<()> {
        Ok(())
    }
}

impl Listener {
    fn site(&mut self, followed: &mut Followed, gopc: u64) -> Site {
        if let Some(site) = self.births.get(&gopc) {
            return site.clone();
        }
        let site = if gopc == 0 { None } else { followed.symbols().go_statement(gopc) };
        let site = site.unwrap_or_else(nowhere);
        if self.births.len() < MAX_SITES {
            self.births.insert(gopc, site.clone());
        }
        site
    }
}

fn add(sites: &mut HashMap<Site, u64>, site: Site) {
    let site = if sites.len() >= MAX_SITES && !sites.contains_key(&site) { nowhere() } else { site };
    *sites.entry(site).or_default() += 1;
}
