//! A small world of goroutines, told in the model's timelines, and the pictures of it.

mod keys;
mod model;
mod view;

use super::*;
use sfgi_core::goruntime::Release;
use sfgi_core::{
    event::{Batch, Mode, Set},
    names::{Site, Symbols},
    session::{About, Input, Observer as _, Round, Target},
    testing::timeline,
};

const MS: u64 = 1_000_000;

/// `go` statements and functions, as `pc=GO,START` in a timeline.
pub(super) const SERVE: &str = "pc=1001,2000";
pub(super) const RUNTIME: &str = "pc=1003,2002";

pub(super) struct World {
    pub(super) targets: Vec<Target>,
    pub(super) top: Top,
}

fn site(func: &str, file: &str, line: u32) -> std::sync::Arc<[Site]> {
    [Site { func: func.into(), file: file.into(), line }].into()
}

/// Addresses in events are return addresses: the call that has a name is one byte before.
fn symbols() -> Symbols {
    let mut symbols = Symbols::told();
    symbols.tell_frames(1000, site("main.main", "/src/shop/main.go", 20));
    symbols.tell_frames(2000, site("example.org/shop/store.(*Store).serve", "/src/shop/store.go", 30));
    symbols.tell_frames(1002, site("runtime.init.7", "/go/src/runtime/proc.go", 1));
    symbols.tell_frames(2002, site("runtime.bgsweep", "/go/src/runtime/mgcsweep.go", 2));
    symbols.tell_frames(100, site("runtime.chanrecv1", "/go/src/runtime/chan.go", 1));
    symbols.tell_frames(102, site("example.org/shop/store.(*Store).wait", "/src/shop/store.go", 44));
    symbols.tell_frames(104, site("main.load", "/src/shop/main.go", 60));
    symbols
}

impl World {
    pub(super) fn new(pids: &[u32], source: Source) -> World {
        World::with(pids, source, symbols)
    }

    pub(super) fn with(pids: &[u32], source: Source, symbols: impl Fn() -> Symbols) -> World {
        let about = |pid: &u32| About {
            pid: *pid,
            exe: "/srv/shop".to_owned(),
            module: "example.org/shop".to_owned(),
            go_version: "go1.26.6".to_owned(),
            release: Release::new(26),
            wait_reasons: timeline::REASONS.map(str::to_owned).to_vec().into(),
            set: Set::B,
            mode: Mode::Full,
            blind: Vec::new(),
            from_birth: false,
        };
        let mut world = World {
            targets: pids.iter().map(|pid| Target::new(about(pid), symbols())).collect(),
            top: Top::new(source),
        };
        world.top.begin(&mut world.targets).expect("nothing is written");
        // The first drain says when the trace began.
        for target in 0..pids.len() {
            world.round(target, "", 1);
        }
        world
    }

    /// One target, traced with all probes.
    pub(super) fn one() -> World {
        World::new(&[1234], Source::Probes { threads: true })
    }

    /// Gives the events of one target up to a time, as one round. The lines are those of `testing::timeline`, in
    /// milliseconds.
    pub(super) fn round(&mut self, target: usize, events: &str, until_ms: u64) {
        let lines = events.lines().map(str::trim).filter(|line| !line.is_empty());
        let events = lines.map(|line| {
            let mut event = timeline::event(line);
            event.ts *= MS;
            event
        });
        let ts = until_ms * MS;
        let batch =
            Batch { events: events.collect(), lost: 0, blurred: 0, doubt_until: ts, complete_until: ts };
        self.input(target, &Input::Events(batch));
    }

    pub(super) fn input(&mut self, target: usize, input: &Input) {
        let mut round = Round::default();
        round.clear(self.targets.len());
        self.targets[target].take(input, &mut round.news[target]);
        self.top.input(target, input, &mut self.targets[target]).expect("nothing is written");
        self.top.round(&mut self.targets, &round).expect("nothing is written");
    }

    pub(super) fn tick(&mut self, ms: u64) {
        self.top.tick(&mut self.targets, ms * MS);
    }

    pub(super) fn picture(&mut self, query: &Query) -> Picture {
        self.top.picture(&mut self.targets, query)
    }

    /// The text under the heading `title` in the only row that has a cell `row`.
    pub(super) fn cell(&mut self, by: By, row: &str, title: &str) -> String {
        let picture = self.picture(&Query { system: true, ..Query::usual() });
        let table = picture.table(by);
        let found: Vec<&Row> =
            table.rows.iter().filter(|one| one.cells.iter().any(|cell| cell.text(9) == row)).collect();
        assert_eq!(found.len(), 1, "{row}: {table:?}");
        let column = table.columns.iter().position(|column| column.title == title).expect("a column");
        found[0].cells[column].text(9)
    }
}

/// A shop: three goroutines serve, of which two wait for a channel and one is in a system call; one is the runtime's.
pub(super) fn shop() -> World {
    let mut world = World::one();
    world.round(
        0,
        &format!(
            "10 m1 g7 casgstatus 6>1 {SERVE} parent=g1
             10 m1 g8 casgstatus 6>1 {SERVE} parent=g1
             10 m1 g9 casgstatus 6>1 {SERVE} parent=g1
             10 m1 g2 casgstatus 6>1 {RUNTIME}
             20 m2 g7 casgstatus 1>2
             30 m3 g8 casgstatus 1>2
             40 m4 g2 casgstatus 1>2
             50 m4 g2 casgstatus 2>4 GC worker (idle) pc=101
             100 m2 g7 casgstatus 2>4 chan receive pc=101,103
             500 m3 g8 casgstatus 2>4 chan receive pc=101,103
             510 m3 g9 casgstatus 1>2
             520 m3 g9 entersyscall pc=105
             600 m2 g7 casgstatus 4>1 by g9
             650 m2 g7 casgstatus 1>2
             700 m2 g7 casgstatus 2>4 chan receive pc=101,103"
        ),
        1001,
    );
    world.tick(1001);
    world
}
