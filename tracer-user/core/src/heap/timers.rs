//! Timers that are set, of package `time`.
//!
//! They lie in a heap of each `p` (`src/runtime/time.go`): up to Go 1.22 a slice of pointers, since 1.23 of pairs of a
//! pointer and a time. Since 1.23 a timer with a channel is among them only while a goroutine waits for the channel
//! (`timer.needsAdd`): one that is forgotten costs nothing then, and is not found here; with `asynctimerchan=1` all are, as
//! before. Timers that the runtime uses
//! itself, for `time.Sleep` and for deadlines of connections, are left out.

use super::roots::processors;
use super::spans::words;
use crate::binary::Globals;
use crate::binary::bytes::{u32_at, u64_at};
use crate::budget;
use crate::memory::{Fault, Range};
use crate::snapshot::View;
use hashbrown::HashMap;
use serde::{Deserialize, Serialize};

/// Most timers that are read, of all `p`s together; then how many are read together.
const MAX_TIMERS: u64 = 1 << 22;
const CHUNK: u64 = 4096;
/// Largest offset in a `timer` that is believed; a `timer` of Go 1.27 has 96 bytes.
const MAX_LEN: usize = 512;
/// Bit `timerZombie` of `timer.state` (since 1.23): stopped, but not yet removed from the heap.
const ZOMBIE: u8 = 4;
/// Values of `timer.status` (up to 1.22) of a timer that will fire: `timerWaiting`, `timerRunning`, `timerModifying`,
/// `timerModifiedEarlier`, `timerModifiedLater`, `timerMoving`. All others are stopped, or about to be.
const SET: [u32; 6] = [1, 2, 6, 7, 8, 9];
/// The values among [`SET`] with which `nextwhen` is the time, not `when`: `timerModifiedEarlier`,
/// `timerModifiedLater`.
const MODIFIED: [u32; 2] = [7, 8];

/// Timers of one kind with one function.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TimerSite {
    /// Entry of the function that runs when they fire, in the target's memory. For `time.AfterFunc` it is the function
    /// given to that; 0: it could not be read.
    pub func: u64,
    /// What made the timers.
    pub kind: TimerKind,
    /// Number of timers.
    pub count: u64,
    /// Nanoseconds from now until the first and until the last of them fires; 0: due.
    pub fires_in_ns: (u64, u64),
    /// Whether nothing but the timers themselves reaches their channels, so that no goroutine can receive what they
    /// send.
    pub unreachable: bool,
}

/// Kinds of timers of package `time`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub enum TimerKind {
    /// `time.NewTicker`, `time.Tick`: sends to its channel periodically.
    Ticker,
    /// `time.NewTimer`, `time.After`: sends to its channel once.
    Timer,
    /// `time.AfterFunc`: calls a function in a new goroutine.
    AfterFunc,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Timer {
    /// Address of the runtime's `timer`, which may lie within an object (`time.Timer`).
    pub(super) addr: u64,
    pub(super) kind: TimerKind,
    /// As [`TimerSite::func`].
    pub(super) func: u64,
    /// Address of the `hchan` that it sends to; 0: none.
    pub(super) channel: u64,
    /// When it fires, `CLOCK_MONOTONIC` nanoseconds.
    pub(super) when_ns: u64,
}

/// Offsets in a `timer`, and that of the timer heap in a `p`.
struct Fields {
    heap: u64,
    /// Bytes of an entry of the heap: a pointer up to 1.22, then a pointer and a time.
    entry: u64,
    when: usize,
    period: usize,
    f: usize,
    arg: usize,
    state: usize,
    /// `None` since 1.23, where `state` is a set of bits and not a number.
    nextwhen: Option<usize>,
    len: usize,
}

impl Fields {
    fn of(view: &View<'_>) -> Option<Fields> {
        let layout = view.binary.layout();
        let at = |name| layout.field("timer", name).map(|at| at as usize).filter(|at| *at < MAX_LEN - 16);
        // `timers.heap` exists since 1.23; before, `p.timers` is the slice itself.
        let (heap, entry, state) = match layout.field("p", "timers.heap") {
            Some(heap) => (heap, 16, at("state")?),
            None => (layout.field("p", "timers")?, 8, at("status")?),
        };
        let [when, period, f, arg] = [at("when")?, at("period")?, at("f")?, at("arg")?];
        let nextwhen = at("nextwhen");
        let last = [when, period, f, arg, state, nextwhen.unwrap_or(0)].into_iter().max()?;
        Some(Fields { heap: heap.into(), entry, when, period, f, arg, state, nextwhen, len: last + 16 })
    }

    /// When a timer fires, `CLOCK_MONOTONIC` nanoseconds; `None`: it is not set.
    fn when(&self, timer: &[u8]) -> Option<u64> {
        match self.nextwhen {
            None if timer.get(self.state)? & ZOMBIE != 0 => None,
            None => u64_at(timer, self.when),
            Some(nextwhen) => {
                let status = u32_at(timer, self.state).filter(|status| SET.contains(status))?;
                u64_at(timer, if MODIFIED.contains(&status) { nextwhen } else { self.when })
            }
        }
    }
}

/// A timer whose function is not known yet.
struct Raw {
    addr: u64,
    when_ns: u64,
    period: u64,
    /// A func value: the address of the word that holds the code's address.
    f: u64,
    /// The data word of the interface `arg`: a channel or a func value.
    arg: u64,
}

/// Reads the timers of all `p`s; none if the layout lacks a field.
///
/// # Errors
/// The list of `p`s or the header of a timer heap cannot be read.
pub(super) fn read(view: &View<'_>, globals: &Globals) -> Result<Vec<Timer>, Fault> {
    let Some(fields) = Fields::of(view) else { return Ok(Vec::new()) };
    let entry_of =
        |name| view.binary.functions().find(name).map(|function| function.entry.wrapping_add(view.bias));
    let known = [entry_of("time.sendTime"), entry_of("time.goFunc")];
    let (mut timers, mut seen) = (Vec::new(), 0);
    for p in processors(view, globals)? {
        let slice = p.wrapping_add(fields.heap);
        let (array, len) = (view.memory.word(slice)?, view.memory.word(slice.wrapping_add(8))?);
        // Bounds the whole walk, whatever each `p` claims.
        let count = len.min(MAX_TIMERS - seen);
        seen += count;
        for first in (0..count).step_by(CHUNK as usize) {
            budget::check(CHUNK as usize * (size_of::<Timer>() * 2 + MAX_LEN))?;
            let mut entries = vec![0; ((count - first).min(CHUNK) * fields.entry) as usize];
            let at = array.wrapping_add(first * fields.entry);
            match view.memory.read(at, &mut entries) {
                Ok(()) => {}
                // The heap has moved meanwhile, or its length is a lie.
                Err(Fault::Unmapped(_)) => break,
                Err(fault) => return Err(fault),
            }
            let addrs = words(&entries).step_by(fields.entry as usize / 8).filter(|addr| *addr != 0);
            let raws = raws(view, &fields, addrs)?;
            named(view, &raws, known, &mut timers)?;
        }
    }
    Ok(timers)
}

fn raws(view: &View<'_>, fields: &Fields, addrs: impl Iterator<Item = u64>) -> Result<Vec<Raw>, Fault> {
    let ranges: Vec<_> = addrs.map(|addr| Range { addr, len: fields.len }).collect();
    let (mut bytes, mut whole) = (Vec::new(), Vec::new());
    view.memory.scatter(&ranges, &mut bytes, &mut whole)?;
    let raw = |(bytes, (range, whole)): (&[u8], (&Range, &bool))| {
        Some(Raw {
            addr: range.addr,
            when_ns: fields.when(bytes).filter(|_| *whole)?,
            period: u64_at(bytes, fields.period)?,
            f: u64_at(bytes, fields.f)?,
            // `arg` is an interface: the type, then the channel or the func value itself.
            arg: u64_at(bytes, fields.arg + 8)?,
        })
    };
    Ok(bytes.chunks_exact(fields.len).zip(ranges.iter().zip(&whole)).filter_map(raw).collect())
}

/// Adds the timers of package `time`, which run `time.sendTime` or `time.goFunc`. All others are the runtime's own.
fn named(
    view: &View<'_>,
    raws: &[Raw],
    [send_time, go_func]: [Option<u64>; 2],
    timers: &mut Vec<Timer>,
) -> Result<(), Fault> {
    let values = raws.iter().flat_map(|raw| [raw.f, raw.arg]);
    let ranges: Vec<_> = values.map(|addr| Range { addr, len: 8 }).collect();
    let (mut bytes, mut whole) = (Vec::new(), Vec::new());
    view.memory.scatter(&ranges, &mut bytes, &mut whole)?;
    let code: Vec<Option<u64>> =
        words(&bytes).zip(&whole).map(|(word, whole)| whole.then_some(word)).collect();
    for (raw, code) in raws.iter().zip(code.as_chunks::<2>().0) {
        let [Some(f), arg] = *code else { continue };
        // `sendTime` serves timers and tickers: only a ticker has a period.
        let (kind, func, channel) = match raw.period {
            _ if Some(f) == go_func => (TimerKind::AfterFunc, arg.unwrap_or(0), 0),
            0 if Some(f) == send_time => (TimerKind::Timer, f, raw.arg),
            _ if Some(f) == send_time => (TimerKind::Ticker, f, raw.arg),
            _ => continue,
        };
        timers.push(Timer { addr: raw.addr, kind, func, channel, when_ns: raw.when_ns });
    }
    Ok(())
}

/// Groups timers by kind, function and reachability; the largest group first.
pub(super) fn sites(timers: &[Timer], now_ns: u64, unreachable: impl Fn(&Timer) -> bool) -> Vec<TimerSite> {
    let mut sites: HashMap<(TimerKind, u64, bool), TimerSite> = HashMap::new();
    for timer in timers {
        let unreachable = unreachable(timer);
        let fires_in = timer.when_ns.saturating_sub(now_ns);
        let site = sites.entry((timer.kind, timer.func, unreachable)).or_insert(TimerSite {
            func: timer.func,
            kind: timer.kind,
            count: 0,
            fires_in_ns: (fires_in, fires_in),
            unreachable,
        });
        site.count += 1;
        site.fires_in_ns.0 = site.fires_in_ns.0.min(fires_in);
        site.fires_in_ns.1 = site.fires_in_ns.1.max(fires_in);
    }
    let mut sites: Vec<TimerSite> = sites.into_values().collect();
    sites
        .sort_unstable_by_key(|site| (std::cmp::Reverse(site.count), site.kind, site.func, site.unreachable));
    sites
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::binary::GoBinary;
    use crate::snapshot::Clock;
    use crate::testing::binary::{CODE, Recipe, binary};
    use crate::testing::memory::Image;

    const ALLP: u64 = 0x7000_0000;
    const P: u64 = 0x7100_0000;
    const HEAP: u64 = 0x7200_0000;
    const TIMER: u64 = 0x7300_0000;
    const VALUE: u64 = 0x7400_0000;

    fn program(version: &'static str) -> GoBinary {
        GoBinary::parse(binary(Recipe { version, pie: false, heap: false }).into()).unwrap()
    }

    /// One `p` with a heap of `len` timers, as it says, of which `TIMER` is the first and all there is.
    fn with_heap<T>(binary: &GoBinary, len: u64, then: impl FnOnce(&View<'_>, &Globals) -> T) -> T {
        let globals = Globals { allp: Some(ALLP), ..*binary.globals().unwrap() };
        let mut image = Image::default();
        image.put_words(ALLP, &[ALLP + 16, 1, P]);
        let view = View { memory: &Image::default(), binary, bias: 0, clock: Clock::Stopped };
        let fields = Fields::of(&view).unwrap();
        image.put_words(P + fields.heap, &[HEAP, len]);
        image.put_words(HEAP, &[TIMER, 1, 8, 1]);
        let mut timer = vec![0; MAX_LEN];
        timer[fields.f..fields.f + 8].copy_from_slice(&VALUE.to_le_bytes());
        timer[fields.state] = 1;
        image.put(TIMER, &timer);
        image.put_words(VALUE, &[CODE]);
        then(&View { memory: &image, ..view }, &globals)
    }

    #[test]
    fn what_lies_about_its_length_ends() {
        for version in ["go1.19.8", "go1.26.6"] {
            let binary = program(version);
            for len in [0, 1, 2, 4096, 1 << 22, 1 << 40, u64::MAX] {
                // None is of package time: the code is another function's.
                with_heap(&binary, len, |view, globals| assert_eq!(read(view, globals), Ok(Vec::new())));
            }
        }
    }

    #[test]
    fn only_what_is_set_counts() {
        let old: fn(u8) -> bool = |state| SET.contains(&state.into());
        let new: fn(u8) -> bool = |state| state & ZOMBIE == 0;
        for (version, is_set) in [("go1.19.8", old), ("go1.26.6", new)] {
            let binary = program(version);
            with_heap(&binary, 1, |view, _| {
                let fields = Fields::of(view).unwrap();
                let mut timer = vec![0; MAX_LEN];
                let put = |timer: &mut [u8], at: usize, value: u64| {
                    timer[at..at + 8].copy_from_slice(&value.to_le_bytes());
                };
                for state in 0..=10 {
                    put(&mut timer, fields.when, 70);
                    fields.nextwhen.into_iter().for_each(|at| put(&mut timer, at, 80));
                    timer[fields.state] = state;
                    let modified = fields.nextwhen.is_some() && MODIFIED.contains(&state.into());
                    let expected = if modified { 80 } else { 70 };
                    assert_eq!(fields.when(&timer), is_set(state).then_some(expected), "{version} {state}");
                }
                assert_eq!(fields.when(&[]), None);
            });
        }
    }

    #[test]
    fn those_that_do_the_same_are_one() {
        let timer =
            |func, channel, when_ns| Timer { addr: 0, kind: TimerKind::Timer, func, channel, when_ns };
        let timers = [timer(1, 5, 100), timer(1, 6, 300), timer(1, 7, 50), timer(2, 5, 10)];
        let sites = sites(&timers, 60, |timer| timer.channel == 6);
        let told: Vec<_> =
            sites.iter().map(|site| (site.func, site.count, site.fires_in_ns, site.unreachable)).collect();
        assert_eq!(told, [(1, 2, (0, 40), false), (1, 1, (240, 240), true), (2, 1, (0, 0), false)]);
    }
}
