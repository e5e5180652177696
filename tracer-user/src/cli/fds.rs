//! `sfgi fds`: the descriptors of a running program, with their Go side.

use super::{
    args::LayoutArg,
    objects::Whole,
    session,
    source::{self, MemoryArgs, Opened},
};
use crate::{
    confine::{self, Needs},
    output::{fds::FdTable, say},
};
use anyhow::{Context as _, Result};
use clap::{Args as ClapArgs, ValueEnum};
use hashbrown::HashSet;
use sfgi_core::{
    fds::Fds,
    names::Names,
    objects::{Files, Objects, settled_files},
    process::Process,
    snapshot::{self, Options, View},
};
use std::{io::BufWriter, path::PathBuf, sync::Arc};

#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Format {
    Text,
    Json,
}

#[derive(ClapArgs)]
#[command(
    override_usage = "sfgi fds [OPTIONS] -p PID",
    after_help = "\
What is wrong comes first: what nothing refers to (only a finalizer would close it, after a
collection), then connections that the peer has closed and nobody reads. Below each descriptor
stands the Go object that has it, what holds that, and what keeps it alive. RECV-Q of a listener is
how many connections wait to be accepted.

Objects take a pass over the heap, three or more where something seems unreachable; --quick does
without them.

EXAMPLES
  sfgi fds -p 1234                          all that is wrong, and the first of the others
  sfgi fds -p 1234 --quick                  who waits for what, without a look at the heap
  sfgi fds -p 1234 --freeze --all           every descriptor, at one moment
  sfgi fds -p 1234 --format json | jq '.list[] | select(.peer_closed)'
  sfgi why -p 1234 0xc000012120             every way to the object that has one"
)]
pub(super) struct Args {
    /// Process to look at
    #[arg(short, long, value_name = "PID")]
    pid: Option<u32>,
    /// Do not read the heap: no objects, and nothing is found unreachable
    #[arg(long, conflicts_with = "freeze")]
    quick: bool,
    /// Stop the program while it is read, for one consistent view; how long that took is said
    #[arg(long)]
    freeze: bool,
    /// Output format; JSON has every descriptor
    #[arg(long, value_enum, default_value = "text")]
    format: Format,
    /// Write to FILE instead of standard output
    #[arg(short, long, value_name = "FILE")]
    output: Option<PathBuf>,
    /// Show every descriptor
    #[arg(long, conflicts_with = "limit")]
    all: bool,
    /// Show at most so many descriptors
    #[arg(long, value_name = "N", default_value = "50")]
    limit: usize,
    #[command(flatten)]
    layout: LayoutArg,
}

impl Args {
    pub(super) fn pids(&self) -> &[u32] {
        self.pid.as_slice()
    }

    pub(super) fn has_no_target(&self) -> bool {
        self.pid.is_none()
    }
}

pub(super) fn run(args: &Args) -> Result<()> {
    // A process that is not there is said before an output is made for it.
    source::may_be_read(args.pid)?;
    let (out, _) = session::output(args.output.as_deref())?;
    confine::apply(&Needs::reader().with_registers().with_freeze(args.freeze));
    let target = MemoryArgs { pid: args.pid, core: None, exe: None, layout: args.layout.clone() };
    let opened = target.open()?;
    let process = opened.process.as_ref().context("no process was given: use -p PID")?;
    let mut out = BufWriter::with_capacity(1 << 16, out);
    target.with_view(&opened, |view, _| {
        let look = Look { args, target: &target, opened: &opened, process };
        if args.quick {
            let fds = Fds::read(process, view).with_context(|| look.name())?;
            return look.write(view, fds, None, Vec::new(), &mut out);
        }
        let before = process.open_fds().with_context(|| look.name())?;
        let everything = || Ok(HashSet::new());
        let mut whole = Whole::read(&target, args.freeze, &opened, view, everything, |once| {
            settled_files(once.stopped, &mut || once.read())
        })?;
        let notes = whole.notes(&whole.found.0);
        let (objects, files) = &mut whole.found;
        // The kernel's view comes last, and is the one that is shown.
        let mut fds = Fds::read(process, view).with_context(|| look.name())?;
        files.refresh(view).with_context(|| look.name())?;
        fds.join_objects(view, files, &before).with_context(|| look.name())?;
        look.write(view, fds, Some((objects, files)), notes, &mut out)
    })
}

struct Look<'a> {
    args: &'a Args,
    target: &'a MemoryArgs,
    opened: &'a Opened,
    process: &'a Process,
}

impl Look<'_> {
    fn name(&self) -> String {
        self.target.name(self.opened, Some(self.pid()))
    }

    fn pid(&self) -> u32 {
        self.process.pid().cast_unsigned()
    }

    fn write(
        &self,
        view: &View<'_>,
        mut fds: Fds,
        objects: Option<(&Objects<'_>, &Files)>,
        mut notes: Vec<String>,
        out: &mut impl std::io::Write,
    ) -> Result<()> {
        let options = Options { stacks: true, args: false, labels: false, objects: false, most: usize::MAX };
        let snapshot = snapshot::take(view, options, &mut |_, _| {}).with_context(|| self.name())?;
        fds.join_goroutines(&snapshot);
        notes.extend(fds.doubt.clone());
        notes.extend(objects.and_then(|(_, files)| files.doubt.clone()));
        let mut table = FdTable {
            pid: self.pid(),
            exe: &self.opened.name,
            go_version: &self.opened.binary.version().raw,
            fds: &fds,
            objects,
            snapshot: &snapshot,
            names: Names::new(Arc::clone(&self.opened.binary), view.bias, &snapshot),
            now_ns: view.now_ns(),
            limit: (!self.args.all).then_some(self.args.limit),
            notes,
        };
        match self.args.format {
            Format::Text => table.write_text(&mut *out)?,
            Format::Json => table.write_json(&mut *out)?,
        }
        say(format_args!("{}: {}", self.name(), table.closing()));
        Ok(())
    }
}
