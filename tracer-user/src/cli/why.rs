//! `sfgi why`: what keeps an object of a running program, or of a core file, alive.

use super::{
    objects::{Whole, read_once},
    parse, session,
    source::{self, MemoryArgs, Opened},
};
use crate::{
    confine::{self, Needs},
    output::{
        say,
        why::{Kept, Why},
    },
};
use anyhow::{Context as _, Result, bail, ensure};
use clap::{ArgGroup, Args as ClapArgs, ValueEnum};
use hashbrown::HashSet;
use sfgi_core::{
    detect::{Fingerprint, Rules, Scope, Thresholds},
    heap,
    heap::Registers,
    leaks::{Earlier, Search, Turn},
    memory::Sampler,
    model::Wakers,
    names::Names,
    objects::Objects,
    process::Process,
    snapshot::{self, Options, Snapshot, View},
};
use std::{
    io::{BufWriter, Write},
    path::PathBuf,
    sync::Arc,
    time::Duration,
};

/// Goroutines that are named as those who could end the waits that were asked about.
const MAX_HOLDERS: usize = 16;

#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Format {
    Text,
    Json,
    Dot,
}

#[derive(ClapArgs)]
#[command(
    override_usage = "sfgi why [OPTIONS] (-p PID | --core FILE --exe FILE) (ADDR... | --goid N | --finding ID)",
    group = ArgGroup::new("what").required(true).args(["addr", "goid", "finding"]),
    after_help = "\
A way goes from a root to the object: `main.hub → .sessions → []` says that an element of the map
in field sessions of what variable main.hub points to is the object. `{}` is what a closure
captured, `*` a variable of its own, `+0x18` a place in an object whose type is not known.

With --goid it is what the goroutine waits for, and goroutines that wait for the same do not count
as roots: what is shown could wake it. The program goes on running unless --freeze is given; each
way is read again before it is shown.

EXAMPLES
  sfgi why -p 1234 0xc000012120             what keeps this object alive
  sfgi why -p 1234 --goid 42                who could still wake goroutine 42
  sfgi why -p 1234 --finding 2f3a9c0b41d7e865   the same of a group that sfgi leaks shows
  sfgi why -p 1234 0xc000012120 --format dot | dot -Tsvg > why.svg
  sfgi why --core core.1234 --exe ./server 0xc000012120"
)]
pub(super) struct Args {
    /// Addresses of objects, or in some
    #[arg(value_name = "ADDR", value_parser = parse::address)]
    addr: Vec<u64>,
    /// What this goroutine waits for
    #[arg(long, value_name = "GOID")]
    goid: Option<u64>,
    /// What the goroutines of this group of `sfgi leaks` wait for
    #[arg(long, value_name = "ID")]
    finding: Option<Fingerprint>,
    /// Output format
    #[arg(long, value_enum, default_value = "text")]
    format: Format,
    /// Write to FILE instead of standard output
    #[arg(short, long, value_name = "FILE")]
    output: Option<PathBuf>,
    /// At most so many ways, from different roots first
    #[arg(long, value_name = "N", default_value = "3", value_parser = clap::value_parser!(u16).range(1..=1000))]
    ways: u16,
    /// Do not measure how much only the object keeps alive, which takes another pass over the heap
    #[arg(long)]
    no_retained: bool,
    #[command(flatten)]
    pub(super) target: MemoryArgs,
    /// Stop the program while it is read, for one consistent view; how long that took is said
    #[arg(long, conflicts_with = "core")]
    freeze: bool,
}

pub(super) fn run(args: &Args) -> Result<()> {
    // A process that is not there is said before an output is made for it.
    source::may_be_read(args.target.pid)?;
    let (out, _) = session::output(args.output.as_deref())?;
    confine::apply(&Needs::reader().with_registers().with_freeze(args.freeze));
    let opened = args.target.open()?;
    let mut out = BufWriter::with_capacity(1 << 16, out);
    args.target.with_view(&opened, |view, pid| Question { args, opened: &opened, pid }.answer(view, &mut out))
}

struct Question<'a> {
    args: &'a Args,
    opened: &'a Opened,
    pid: Option<u32>,
}

/// The objects that were asked for.
#[derive(Default)]
struct Asked {
    addrs: Vec<u64>,
    /// Goroutines that are no roots.
    without: HashSet<u64>,
    goid: Option<u64>,
}

impl Question<'_> {
    fn answer(&self, view: &View<'_>, out: &mut impl Write) -> Result<()> {
        let args = self.args;
        let (goids, addrs) = match args.finding {
            Some(finding) => self.members(view, finding)?,
            None => (args.goid.into_iter().collect(), args.addr.clone()),
        };
        let mut asked = Asked::default();
        let holders = self.holders(view, &goids);
        let without = || {
            asked = self.asked(view, &goids, &addrs)?;
            Ok(std::mem::take(&mut asked.without))
        };
        let whole = Whole::read(&args.target, args.freeze, self.opened, view, without, read_once)?;
        let objects = &whole.found;
        let waited_for = !goids.is_empty();
        let found = asked.addrs.iter().map(|addr| self.kept(objects, *addr, waited_for));
        let found = found.collect::<Result<Vec<_>>>()?;
        let why = Why {
            pid: self.pid,
            exe: &self.opened.name,
            go_version: &self.opened.binary.version().raw,
            goid: asked.goid,
            holders,
            found,
            share: objects.share(),
            frozen_ns: whole.frozen_ns(),
            notes: whole.notes(objects),
        };
        // It goes on before a reader of the output can hold it up.
        drop(whole);
        match args.format {
            Format::Text => why.write_text(&mut *out)?,
            Format::Json => why.write_json(&mut *out)?,
            Format::Dot => why.write_dot(&mut *out)?,
        }
        say(format_args!("{}: {}", self.name(), why.closing()));
        Ok(())
    }

    fn kept(&self, objects: &Objects<'_>, addr: u64, waited_for: bool) -> Result<Kept> {
        if let Some((object, way)) = objects.variable(addr) {
            return Ok(Kept { object, retained: None, ways: vec![way], unkept: String::new() });
        }
        // What is reached is told, even if it has been freed while the heap was read.
        let known = objects.is_reached(addr) || objects.is_allocated(addr);
        let object = objects.describe(addr).filter(|_| known).with_context(|| {
            format!(
                "{}: {addr:#x} is no object of its heap: a variable without a name, a stack, or free memory",
                self.name()
            )
        })?;
        let ways = objects.ways(addr, usize::from(self.args.ways))?;
        let unkept = if !ways.is_empty() {
            ""
        } else if objects.is_reached(addr) {
            "what kept it alive has changed while it was read: ask again, or with --freeze"
        } else if waited_for {
            "nothing but those that wait for it leads to it: nobody will ever wake them"
        } else {
            "nothing leads to it: the collector will free it"
        };
        let measure = !self.args.no_retained && objects.is_reached(addr);
        let retained = if measure { Some(objects.retained(&[addr])?) } else { None };
        Ok(Kept { object, retained, ways, unkept: unkept.to_owned() })
    }

    /// Who could end the waits of these goroutines, as far as their locks, code and stacks tell: what keeps a lock alive is
    /// not who holds it.
    fn holders(&self, view: &View<'_>, goids: &[u64]) -> Vec<Turn> {
        if goids.is_empty() {
            return Vec::new();
        }
        let options = Options { stacks: true, args: false, labels: false, objects: true, most: 0 };
        let Ok(snapshot) = snapshot::take(view, options, &mut |_, _| {}) else { return Vec::new() };
        let Ok(waits) = heap::waits(view, &snapshot, &Wakers::default()) else { return Vec::new() };
        let mut names = Names::new(Arc::clone(&self.opened.binary), view.bias, &snapshot);
        let asked =
            |index: u32| snapshot.goroutines.get(index as usize).is_some_and(|one| goids.contains(&one.goid));
        let edges = waits.edges.iter().filter(|edge| asked(edge.waiter)).take(MAX_HOLDERS);
        edges.filter_map(|edge| Turn::of(edge, &snapshot, &mut names)).collect()
    }

    /// The goroutines of a group that `sfgi leaks` finds, or the address of one of its contexts.
    fn members(&self, view: &View<'_>, finding: Fingerprint) -> Result<(Vec<u64>, Vec<u64>)> {
        let (rules, scope) = (Rules::built_in()?, Scope::default());
        let mut registers = match &self.opened.process {
            Some(process) => registers(process),
            None => Registers::Unknown,
        };
        let process = self.opened.process.as_ref();
        let search = Search { pinned: false, process, ..Search::new(&rules, &scope) };
        // A group that only other options show must be found, too.
        let (min_age, min_count) = (Duration::from_secs(1), 1);
        let any = Search { thresholds: Thresholds { min_age, min_count }, ..search };
        let mut earlier = Earlier::default();
        for search in [search, any] {
            let earlier = Some(&mut earlier);
            let found = search.run(view, &self.opened.binary, &mut registers, earlier, &mut |_| {})?;
            let Some(group) = found.leaks.groups.into_iter().find(|group| group.id == finding) else {
                continue;
            };
            if let Some(contexts) = &group.contexts {
                return Ok((Vec::new(), vec![contexts.address]));
            }
            if let Some(pool) = &group.pools {
                return Ok((Vec::new(), vec![pool.example]));
            }
            if let Some(fds) = &group.fds {
                ensure!(
                    fds.address != 0,
                    "{}: group {finding} is of descriptors without a known object: see sfgi fds",
                    self.name()
                );
                return Ok((Vec::new(), vec![fds.address]));
            }
            ensure!(
                !group.goids.is_empty(),
                "{}: group {finding} is of timers, which the runtime keeps",
                self.name()
            );
            return Ok((group.goids, Vec::new()));
        }
        bail!("{}: sfgi leaks finds no group {finding} now: run it again for the ids", self.name())
    }

    /// The objects that were asked for, by what goroutines wait for.
    fn asked(&self, view: &View<'_>, goids: &[u64], addrs: &[u64]) -> Result<Asked> {
        if !addrs.is_empty() {
            return Ok(Asked { addrs: addrs.to_vec(), ..Asked::default() });
        }
        let options = Options { stacks: false, args: false, labels: false, objects: true, most: 0 };
        let snapshot = snapshot::take(view, options, &mut |_, _| {}).with_context(|| self.name())?;
        let mut asked = Asked { goid: self.args.goid, ..Asked::default() };
        let mut reason = None;
        for goid in goids {
            let goroutine = snapshot.goroutines.iter().find(|goroutine| goroutine.goid == *goid);
            let Some(goroutine) = goroutine else { continue };
            reason.get_or_insert_with(|| view.binary.wait_reason(goroutine.reason).to_owned());
            for wait in &goroutine.waits {
                asked.add(&snapshot, wait.object);
            }
        }
        if asked.addrs.is_empty() {
            let name = self.name();
            let goid = goids.first().copied().unwrap_or(0);
            match reason {
                None => bail!("{name}: goroutine {goid} is not there any more"),
                Some(reason) if reason.is_empty() => {
                    bail!("{name}: goroutine {goid} does not wait for anything")
                }
                Some(reason) => {
                    bail!(
                        "{name}: goroutine {goid} waits ({reason}), but for no channel or lock that something could keep"
                    )
                }
            }
        }
        Ok(asked)
    }

    fn name(&self) -> String {
        self.args.target.name(self.opened, self.pid)
    }
}

impl Asked {
    /// Adds an object that is waited for; whoever waits for it cannot be what wakes the others.
    fn add(&mut self, snapshot: &Snapshot, object: u32) {
        let Some(object) = snapshot.objects.get(object as usize) else { return };
        if !self.addrs.contains(&object.addr) {
            self.addrs.push(object.addr);
            let waiters = object.waiters.iter().filter_map(|index| snapshot.goroutines.get(*index as usize));
            self.without.extend(waiters.map(|waiter| waiter.goid));
        }
    }
}

fn registers(process: &Process) -> Registers<'_> {
    Sampler::start(process).map_or(Registers::Unknown, Registers::Sampled)
}
