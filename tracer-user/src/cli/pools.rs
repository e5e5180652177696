//! `sfgi pools`: the `sync.Pool`s of a running program, or of a core file, and what is wrong with what lies in them.

use super::{
    objects::Whole,
    session,
    source::{self, MemoryArgs},
};
use crate::{
    confine::{self, Needs},
    output::{pools::PoolList, say},
};
use anyhow::Result;
use clap::{Args as ClapArgs, ValueEnum};
use hashbrown::HashSet;
use std::{io::BufWriter, path::PathBuf};

#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Format {
    Text,
    Json,
}

#[derive(ClapArgs)]
#[command(
    override_usage = "sfgi pools [OPTIONS] (-p PID | --core FILE --exe FILE)",
    after_help = "\
Pools are shown that were used since the last two collections, those with something wrong first. Each
has the objects of its Ps (private, shared) and those left over from before the last collection
(victim); the next one drops these. Besides its own size an object keeps what nothing else leads to.

  TWICE  the same object is in the pool more than once: it was put back twice, and two users will
         get it at the same time
  DIRTY  most objects were emptied before they were put back, and some were not
  BLOAT  an object has room for far more than the others, and keeps it as long as it is used
  filled says what other objects have in them; that is no error where they are emptied when taken

Objects that were not the same in every look (16 in 16 ms) are counted, but not compared.

EXAMPLES
  sfgi pools -p 1234                        all pools, and what is wrong with them
  sfgi pools -p 1234 --freeze               the same of one moment
  sfgi pools -p 1234 --format json --all    each object with its address, for other programs
  sfgi why -p 1234 0xc000012120             what keeps the object at an address"
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
    /// Do not measure how much objects keep alive, which takes another pass over the heap
    #[arg(long)]
    no_retained: bool,
    /// In JSON list each object, too
    #[arg(long)]
    all: bool,
    /// At most so many pools in text, and objects of one kind of each
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
            let objects = once.read()?;
            let pools = objects.pools(once.stopped || stands, !args.no_retained)?;
            Ok((objects, pools))
        })?;
        let (objects, pools) = &whole.found;
        let list = PoolList {
            pid,
            exe: &opened.name,
            go_version: &opened.binary.version().raw,
            types: objects.types(),
            pools,
            measured: !args.no_retained,
            all: args.all,
            limit: args.limit,
        };
        let notes: Vec<String> = whole.notes(objects).into_iter().map(|note| format!("; {note}")).collect();
        match args.format {
            Format::Text => list.write_text(&mut out)?,
            Format::Json => list.write_json(&mut out)?,
        }
        say(format_args!("{}: {}{}", args.target.name(&opened, pid), list.closing(), notes.concat()));
        Ok(())
    })
}
