//! The options of `sfgi leaks`.

use crate::{cli::source::MemoryArgs, parse};
use anyhow::{Context as _, Result, anyhow};
use clap::{
    Args as ClapArgs, ValueEnum,
    builder::{PossibleValue, PossibleValuesParser, TypedValueParser},
};
use regex::Regex;
use sfgi_core::{
    detect::{Baseline, Rules, Scope, Thresholds, Verdict},
    files, heap,
};
use std::{num::NonZero, path::PathBuf, time::Duration};

/// Default bound of `--threads`: more scanning threads would take the machine's processors from the target.
const MAX_THREADS: usize = 4;

#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(super) enum Format {
    Text,
    Json,
    Pprof,
    Sarif,
}

/// Accepts a verdict, and lists all in the help.
fn verdict() -> impl TypedValueParser<Value = Verdict> {
    let named = |verdict: Verdict| {
        PossibleValue::new(verdict.word()).help(match verdict {
            Verdict::Suspect => "Old and many, or made faster than they end",
            Verdict::Likely => "A rule of the catalogue says so",
            Verdict::Proven => "Nothing that can still run reaches what would wake them",
        })
    };
    PossibleValuesParser::new(Verdict::ALL.map(named)).try_map(|word| word.parse())
}

#[derive(ClapArgs)]
#[command(
    override_usage = "sfgi leaks [OPTIONS] (-p PID | --core FILE --exe FILE)",
    after_help = "\
The program goes on running. `proven` says that no variable, no timer and no goroutine that can
still run leads to what would wake these; `likely` that a rule for a known kind of leak holds;
`suspect` that many of the same stack are old, or that a go statement makes them faster than they
end.

JSON is one document, schema sfgi.leaks/1: `leaks` (a goroutine each), `groups` (same creation
site, stack, class and verdict; their ids stay the same from run to run) and `sets` (goroutines
that wait for each other). With --watch it is one document a line.

A rule file for --rules holds entries like this; what is left out under match is not asked:
  [[rule]]
  id = \"own-queue\"            # the id of a built-in rule replaces that
  class = \"queue-stuck\"
  title = \"waits for the queue\"
  priority = 600              # the highest is asked first; built in are -1000 to 1000
  severity = \"warning\"        # error, warning or note
  failure = \"deadlock\"         # or blocked_forever, livelock, starvation, resource_held, growth;
                              # left out: that of the built-in rules of the class
  gives = \"likely\"            # or suspect; what the heap proves is proven whatever stands here
  explanation = \"...\"
  fix = \"...\"
  formal = { context = \"...\", precondition = \"...\", change = \"...\", label = \"...\" }
  [rule.match]
  verdict = \"any\"             # \"proven\": where nothing is proven it can only be a suspect
  wait_reason = [\"select\"]    # or a regular expression; state = [\"waiting\", \"syscall\"]
  frames = ['^main\\.\\(\\*queue\\)\\.take$']   # each on the stack; in_order = true: in this order
  not_frames = ['^net/http\\.']
  creator = '^main\\.serve'
  object = [\"channel\"]        # nil none mutex rwmutex waitgroup cond semaphore context timer
  channel = { cap = [1, 64], closed = false, senders = 0 }
  count = \"min\"               # or a number; age = \"min\" or \"30s\"; growth, stable, lived,
                              # own, set, main, idle_siblings, late, behind = true;
                              # cycle = \"recursive\", \"recursive-read\", \"lock\",
                              # \"mixed\", \"other\", \"any\"; busy, yielding, moved = 0.5
                              # (part of the looks), looks = 4; orphans = \"min\" (made by so
                              # many goroutines that have ended)

TIME is a number of seconds, or has a unit: 10ms, 30s, 5m, 1h.

Exit codes: 0 done, 1 the tool failed, 2 bad usage, 3 something was found (--fail).

EXAMPLES
  sfgi leaks -p 1234                                  what is leaked, and what to do
  sfgi leaks -p 1234 --min-verdict proven --fail      for scripts: exit code 3 if so
  sfgi leaks -p 1234 --watch=30s                      again and again: what is new or gone
  sfgi leaks -p 1234 --write-baseline known.json      accept what there is now ...
  sfgi leaks -p 1234 --baseline known.json --fail     ... and be told of anything else
  sfgi leaks -p 1234 --min-age 30s --ignore-func '^main\\.idle$'
  sfgi leaks -p 1234 --format pprof -o leaks.pb.gz    then: go tool pprof -http : leaks.pb.gz
  sfgi leaks -p 1234 --format sarif -o leaks.sarif    for a code host or an editor
  sfgi leaks --core core.1234 --exe ./server          from a core file"
)]
pub(in crate::cli) struct Args {
    #[command(flatten)]
    pub(in crate::cli) target: MemoryArgs,
    /// Output format
    #[arg(long, value_enum, default_value = "text")]
    pub(super) format: Format,
    /// Write to FILE instead of standard output
    #[arg(short, long, value_name = "FILE")]
    pub(super) output: Option<PathBuf>,
    /// Look again and again, with a pause of TIME (30s if not given), until Ctrl-C
    #[arg(long, value_name = "TIME", value_parser = parse::time, num_args = 0..=1, require_equals = true,
          default_missing_value = "30s", conflicts_with = "core")]
    pub(super) watch: Option<Duration>,
    /// How long to look each time: stability and growth need some time
    #[arg(long, value_name = "TIME", value_parser = parse::time, default_value = "1s")]
    pub(super) observe: Duration,
    /// Passes over the heap at least
    #[arg(long, value_name = "N", default_value = "4", value_parser = clap::value_parser!(u32).range(1..=1000))]
    pub(super) passes: u32,
    /// Threads that read the heap [default: one a processor, at most 4]
    #[arg(long, value_name = "N")]
    pub(super) threads: Option<NonZero<usize>>,
    /// Do not read the heap: nothing is proven then
    #[arg(long)]
    pub(super) no_heap: bool,
    /// Stop the program while it is read, for one consistent view; how long that took is said
    #[arg(long, conflicts_with = "core")]
    pub(super) freeze: bool,
    /// The least verdict that is shown
    #[arg(long, value_parser = verdict(), default_value = "suspect", value_name = "VERDICT")]
    pub(super) min_verdict: Verdict,
    /// Exit with code 3 if anything is shown
    #[arg(long)]
    pub(super) fail: bool,
    /// Leave out what this file accepts
    #[arg(long, value_name = "FILE")]
    pub(super) baseline: Option<PathBuf>,
    /// Write a baseline that accepts all that is found
    #[arg(long, value_name = "FILE")]
    pub(super) write_baseline: Option<PathBuf>,
    /// Leave out goroutines with a matching function on their stack (several: repeat)
    #[arg(long, value_name = "REGEX")]
    pub(super) ignore_func: Vec<Regex>,
    /// Leave out goroutines that a matching function created (several: repeat)
    #[arg(long, value_name = "REGEX")]
    pub(super) ignore_created_by: Vec<Regex>,
    /// Only this goroutine (several: repeat)
    #[arg(long, value_name = "GOID")]
    pub(super) goid: Vec<u64>,
    /// From which age on waiting is suspicious
    #[arg(long, value_name = "TIME", value_parser = parse::time, default_value = "5m")]
    pub(super) min_age: Duration,
    /// How many alike are suspicious
    #[arg(long, value_name = "N", default_value = "3")]
    pub(super) min_count: NonZero<u64>,
    /// Add the rules of all .toml files in DIR; those with the id of a built-in one replace it
    #[arg(long, value_name = "DIR")]
    pub(super) rules: Option<PathBuf>,
}

impl Args {
    pub(super) fn rules(&self) -> Result<Rules> {
        let rules = Rules::built_in()?;
        Ok(match &self.rules {
            Some(directory) => rules.with_directory(directory)?,
            None => rules,
        })
    }

    pub(super) fn baseline(&self) -> Result<Baseline> {
        let Some(path) = &self.baseline else { return Ok(Baseline::default()) };
        let name = path.display();
        let text = files::read_text_limited(path, Baseline::MAX_FILE)
            .map_err(|error| anyhow!("the baseline {name} {error}"))?;
        Baseline::parse(&text).with_context(|| name.to_string())
    }

    pub(super) fn scope(&self) -> Scope {
        Scope {
            goids: self.goid.iter().copied().collect(),
            ignore_func: self.ignore_func.clone(),
            ignore_created_by: self.ignore_created_by.clone(),
        }
    }

    pub(super) fn thresholds(&self) -> Thresholds {
        Thresholds { min_age: self.min_age, min_count: self.min_count.get() }
    }

    pub(super) fn options(&self) -> heap::Options {
        let processors = std::thread::available_parallelism().map_or(1, NonZero::get);
        heap::Options {
            window: self.observe,
            passes: self.passes,
            threads: self.threads.map_or(processors.min(MAX_THREADS), NonZero::get),
            heap: !self.no_heap,
            most: 0,
        }
    }
}
