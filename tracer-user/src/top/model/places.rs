//! Places in the source, each kept once and known by a number: goroutines have many stacks, but wait at few places.

use crate::output::printed;
use hashbrown::HashMap;
use sfgi_core::goruntime::Release;
use sfgi_core::{
    detect::Rules,
    event::Stack,
    goruntime::{State, starts_system},
    model::Goroutine,
    names::{Site, Symbols},
    session::Target,
};
use std::{
    hash::Hash,
    iter,
    sync::{Arc, LazyLock},
};

/// Addresses and stacks kept in each map. A hostile target can invent any number of them.
const MAX_KEYS: usize = 1 << 16;
/// Places kept, each with its name; the others are [`OTHER`].
const MAX_PLACES: usize = 1 << 13;

/// The catalogue of `sfgi leaks`. `None` cannot be: the tests read it.
static RULES: LazyLock<Option<Rules>> = LazyLock::new(|| Rules::built_in().ok());

/// Index into [`Places::list`].
pub(super) type PlaceId = u32;
/// The place that could not be named.
pub(super) const UNKNOWN: PlaceId = 0;
/// Stands for all places beyond [`MAX_PLACES`] and those not learned yet.
pub(super) const OTHER: PlaceId = 1;

#[derive(Clone, Debug)]
pub(super) struct Place {
    pub(super) func: Arc<str>,
    /// The cell's text: the function without its package's path, file and line without the directory.
    pub(super) text: Arc<str>,
    /// The function without its package's path.
    pub(super) short: Arc<str>,
    system: bool,
}

/// The places of one target. Methods with `symbols` look up what is new; the others read what was learned.
pub(super) struct Places {
    release: Release,
    list: Vec<Place>,
    sites: HashMap<Site, PlaceId>,
    stacks: HashMap<Stack, PlaceId>,
    functions: HashMap<u64, PlaceId>,
    /// By stack, whether a call from there is meant to last: of another goroutine than the main one, and of that.
    lasting: HashMap<Stack, [bool; 2]>,
    statements: HashMap<u64, PlaceId>,
}

impl Places {
    pub(super) fn new(release: Release) -> Places {
        let named =
            |name: &str| Place { func: name.into(), text: name.into(), short: name.into(), system: false };
        Places {
            release,
            list: vec![named("?"), named("(other places)")],
            sites: HashMap::new(),
            stacks: HashMap::new(),
            functions: HashMap::new(),
            lasting: HashMap::new(),
            statements: HashMap::new(),
        }
    }

    pub(super) fn get(&self, id: PlaceId) -> &Place {
        // `list` always holds UNKNOWN and OTHER, so the index is in bounds whatever `id` is.
        &self.list[(id as usize).min(self.list.len() - 1)]
    }

    /// The place at which a stack waits: its innermost frame that is not plumbing ([`Symbols::wait_site`]).
    pub(super) fn of_stack(&mut self, symbols: &mut Symbols, stack: Stack) -> PlaceId {
        self.stacks.get(&stack).copied().unwrap_or_else(|| {
            let site = if stack.is_empty() { None } else { symbols.wait_site(stack) };
            let id = self.intern(site);
            keep(&mut self.stacks, stack, id)
        })
    }

    /// The function with this entry.
    pub(super) fn of_function(&mut self, symbols: &mut Symbols, startpc: u64) -> PlaceId {
        self.functions.get(&startpc).copied().unwrap_or_else(|| {
            let site = if startpc == 0 { None } else { symbols.function(startpc) };
            let id = self.intern(site);
            keep(&mut self.functions, startpc, id)
        })
    }

    /// The `go` statement that returns to this address.
    fn of_statement(&mut self, symbols: &mut Symbols, gopc: u64) -> PlaceId {
        self.statements.get(&gopc).copied().unwrap_or_else(|| {
            let site = if gopc == 0 { None } else { symbols.go_statement(gopc) };
            let id = self.intern(site);
            keep(&mut self.statements, gopc, id)
        })
    }

    /// Whether goroutines that start with this function are the runtime's own.
    pub(super) fn is_system(&mut self, symbols: &mut Symbols, startpc: u64) -> bool {
        let id = self.of_function(symbols, startpc);
        self.get(id).system
    }

    /// Looks up the place of every goroutine, for the methods that only read.
    pub(super) fn learn(&mut self, target: &mut Target) {
        // Collected first, because `target` cannot lend its goroutines and its symbols at once.
        let (mut stacks, mut births, mut calls) = (Vec::new(), Vec::new(), Vec::new());
        for goroutine in target.goroutines().iter() {
            let calls_now = goroutine.state == State::Syscall && !goroutine.site.is_empty();
            if calls_now && calls.len() < MAX_KEYS && !self.lasting.contains_key(&goroutine.site) {
                calls.push(goroutine.site);
            }
            if stacks.len() < MAX_KEYS && !self.stacks.contains_key(&goroutine.site) {
                stacks.push(goroutine.site);
            }
            if let Some(birth) = goroutine.birth
                && births.len() < MAX_KEYS
                && !(self.functions.contains_key(&birth.startpc) && self.statements.contains_key(&birth.gopc))
            {
                births.push(birth);
            }
        }
        let symbols = target.symbols();
        for stack in stacks {
            self.of_stack(symbols, stack);
        }
        for stack in calls {
            let pcs = stack.pcs();
            let frames = pcs.iter().flat_map(|pc| symbols.caller(*pc).to_vec());
            let functions: Vec<Arc<str>> = frames.map(|site| site.func).collect();
            let lasts = |main| RULES.as_ref().is_some_and(|rules| rules.means_call_to_last(&functions, main));
            if self.lasting.len() < MAX_KEYS {
                self.lasting.insert(stack, [lasts(false), lasts(true)]);
            }
        }
        for birth in births {
            self.of_function(symbols, birth.startpc);
            self.of_statement(symbols, birth.gopc);
        }
    }

    /// The learned place of a goroutine: where it waits or calls, else the function it runs.
    pub(super) fn of(&self, goroutine: &Goroutine) -> PlaceId {
        // Only a goroutine that stays is at its site; of any other one the site is where it was before.
        let waits = goroutine.state.stays() && !goroutine.site.is_empty();
        let place = waits.then(|| self.stacks.get(&goroutine.site).copied().unwrap_or(OTHER));
        place.unwrap_or_else(|| self.function_of(goroutine))
    }

    /// The learned function that it runs.
    pub(super) fn function_of(&self, goroutine: &Goroutine) -> PlaceId {
        let birth = goroutine.birth;
        birth.map_or(UNKNOWN, |birth| self.functions.get(&birth.startpc).copied().unwrap_or(OTHER))
    }

    /// The learned `go` statement that returns to this address.
    pub(super) fn statement(&self, gopc: u64) -> PlaceId {
        self.statements.get(&gopc).copied().unwrap_or(OTHER)
    }

    /// The learned function with this entry.
    pub(super) fn function(&self, startpc: u64) -> PlaceId {
        self.functions.get(&startpc).copied().unwrap_or(UNKNOWN)
    }

    /// Whether the goroutine is known to be the runtime's own.
    pub(super) fn is_own(&self, goroutine: &Goroutine) -> bool {
        goroutine.state != State::Unknown && self.get(self.function_of(goroutine)).system
    }

    /// Whether the call that a goroutine is in is meant to last, as far as it was learned.
    pub(super) fn is_meant_to_last(&self, goroutine: &Goroutine) -> bool {
        let main = goroutine.goid == 1;
        self.lasting.get(&goroutine.site).is_some_and(|lasting| lasting[usize::from(main)])
    }

    fn intern(&mut self, site: Option<Site>) -> PlaceId {
        let Some(site) = site else { return UNKNOWN };
        if let Some(id) = self.sites.get(&site) {
            return *id;
        }
        // New places end at the bound; those that are known keep their numbers, because sums go by them.
        let Ok(id) = PlaceId::try_from(self.list.len()) else { return OTHER };
        if self.list.len() >= MAX_PLACES {
            return OTHER;
        }
        let short: Arc<str> = short(&site.func, self.release).into();
        let file = site.file.rsplit('/').next().unwrap_or_default();
        let text =
            if file.is_empty() { Arc::clone(&short) } else { format!("{short} {file}:{}", site.line).into() };
        self.list.push(Place { func: Arc::clone(&site.func), text, short, system: is_system(&site.func) });
        self.sites.insert(site, id);
        id
    }
}

/// Shortens a name for the table: `example.org/shop/cmd/main.(*shop).quote` becomes `main.(*shop).quote`.
fn short(func: &str, release: Release) -> String {
    let name = printed(func, release);
    // A path may stand within brackets, too (a type argument, a receiver): only the one before them is cut.
    let (path, arguments) = name.split_at(name.find(['[', '(']).unwrap_or(name.len()));
    format!("{}{arguments}", path.rsplit('/').next().unwrap_or_default())
}

/// Decides by the function alone: without a stack, a goroutine that runs the program's finalizers counts as the
/// runtime's own.
fn is_system(func: &str) -> bool {
    starts_system(func, iter::empty())
}

/// Keeps a looked-up key, if there is room. Without room it is looked up anew each time, which costs time, not memory.
fn keep<K: Eq + Hash>(map: &mut HashMap<K, PlaceId>, key: K, id: PlaceId) -> PlaceId {
    if map.len() < MAX_KEYS {
        map.insert(key, id);
    }
    id
}

#[cfg(test)]
mod tests {
    use super::*;

    fn short(func: &str) -> String {
        super::short(func, Release::new(26))
    }

    #[test]
    fn names_are_shown_without_the_path_of_their_package() {
        assert_eq!(short("example.org/a/b.(*T).Get"), "b.(*T).Get");
        assert_eq!(short("main.each[example.org/a.T]"), "main.each[...]");
        assert_eq!(short("main.main"), "main.main");
        assert_eq!(short("a/b.(*x/y).z"), "b.(*x/y).z");
    }

    #[test]
    fn the_programs_own_main_is_no_goroutine_of_the_runtime() {
        assert!(is_system("runtime.bgsweep") && !is_system("runtime.main") && !is_system("main.main"));
    }
}
