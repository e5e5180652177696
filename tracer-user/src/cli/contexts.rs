//! `sfgi contexts`: the contexts of a running program, or of a core file, as a tree.

use super::{
    objects::Whole,
    session,
    source::{self, MemoryArgs},
};
use crate::{
    confine::{self, Needs},
    output::{contexts::ContextTree, say},
};
use anyhow::Result;
use clap::{Args as ClapArgs, ValueEnum};
use hashbrown::HashSet;
use sfgi_core::objects::settled;
use std::{collections::HashMap, io::BufWriter, path::PathBuf};

#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Format {
    Text,
    Json,
}

#[derive(ClapArgs)]
#[command(
    override_usage = "sfgi contexts [OPTIONS] (-p PID | --core FILE --exe FILE)",
    after_help = "\
A line stands for all contexts that were made in the same way of the same parents. A context is lost
if it has not ended, its parent keeps it, and neither a closure that anything leads to nor a stack
has it: only the end of its parent ends it. Contexts of other makes are shown with their type.

EXAMPLES
  sfgi contexts -p 1234                     the tree, with what is lost first
  sfgi contexts -p 1234 --freeze            the same of one moment
  sfgi contexts -p 1234 --format json --all each context with its address
  sfgi why -p 1234 0xc000012120             who keeps the context at an address"
)]
pub(super) struct Args {
    #[command(flatten)]
    pub(super) target: MemoryArgs,
    /// Stop the program while it is read, for one consistent view; how long that took is said
    #[arg(long, conflicts_with = "core")]
    freeze: bool,
    /// Output format
    #[arg(long, value_enum, default_value = "text")]
    format: Format,
    /// Write to FILE instead of standard output
    #[arg(short, long, value_name = "FILE")]
    output: Option<PathBuf>,
    /// In JSON list each context, too
    #[arg(long)]
    all: bool,
    /// At most so many lines below one
    #[arg(long, value_name = "N", default_value = "50")]
    limit: usize,
}

pub(super) fn run(args: &Args) -> Result<()> {
    // A process that is not there is said before an output is made for it.
    source::may_be_read(args.target.pid)?;
    let (out, _) = session::output(args.output.as_deref())?;
    confine::apply(&Needs::reader().with_registers().with_freeze(args.freeze));
    let opened = args.target.open()?;
    let mut out = BufWriter::with_capacity(1 << 16, out);
    args.target.with_view(&opened, |view, pid| {
        let everything = || Ok(HashSet::new());
        let stands = args.target.core.is_some();
        let whole = Whole::read(&args.target, args.freeze, &opened, view, everything, |once| {
            settled(view, once.stopped || stands, &mut || once.read())
        })?;
        let (objects, contexts) = &whole.found;
        let waiting: HashMap<u64, u64> = (objects.snapshot().objects.iter())
            .map(|object| (object.addr, object.waiters.len() as u64))
            .collect();
        let tree = ContextTree {
            pid,
            exe: &opened.name,
            go_version: &opened.binary.version().raw,
            types: objects.types(),
            contexts,
            waiting: &waiting,
            now_unix_ns: if args.target.core.is_some() { 0 } else { session::wall_clock_ns() },
            all: args.all,
            limit: args.limit,
        };
        match args.format {
            Format::Text => tree.write_text(&mut out)?,
            Format::Json => tree.write_json(&mut out)?,
        }
        let notes: Vec<String> = whole.notes(objects).into_iter().map(|note| format!("; {note}")).collect();
        say(format_args!("{}: {}{}", args.target.name(&opened, pid), tree.closing(), notes.concat()));
        Ok(())
    })
}
