//! Channels (`runtime.hchan`, `src/runtime/chan.go`) and the goroutines that wait for them.

use super::super::{Object, ObjectKind, Snapshot, View, Wait, Wants};
use super::{Fields, MAX_SIZE, Sort, Waiting, records};
use crate::binary::bytes::{array, u32_at, u64_at};
use crate::memory::Range;
use hashbrown::{HashMap, HashSet};

/// Most cases of one select that are read.
const MAX_CASES: usize = 4096;
/// Most cases of all goroutines together: [`MEAN_CASES`] for each that waits, and [`MORE_CASES`] so that a few
/// goroutines with large selects are read, too.
const MEAN_CASES: usize = 16;
const MORE_CASES: usize = 1 << 16;

/// A goroutine in the queue of a channel: one case of a select, or a plain send or receive.
struct Case {
    goroutine: u32,
    /// Index into [`Channels::addrs`].
    channel: u32,
    wants: Wants,
    sudog: u64,
    next: u64,
    prev: u64,
}

/// The different channels, in the order in which they were met.
#[derive(Default)]
struct Channels {
    addrs: Vec<u64>,
    by_addr: HashMap<u64, u32>,
}

impl Channels {
    fn index(&mut self, addr: u64) -> u32 {
        *self.by_addr.entry(addr).or_insert_with(|| {
            self.addrs.push(addr);
            (self.addrs.len() - 1) as u32
        })
    }
}

/// Adds the channels to the snapshot, and to each goroutine what it waits for.
pub(super) fn find(view: &View, fields: &Fields, waiting: &[Waiting], snapshot: &mut Snapshot) {
    let mut channels = Channels::default();
    let (mut cases, whole) = cases(view, fields, waiting, &mut channels);
    for goroutine in whole {
        if let Some(goroutine) = snapshot.goroutines.get_mut(goroutine as usize) {
            goroutine.waits_known = true;
        }
    }
    let read = read(view, &channels.addrs);
    directions(&mut cases, &read);
    cases.sort_by_key(|case| case.goroutine);
    let mut objects: Vec<_> = vec![None; read.len()];
    for case in &cases {
        snapshot.sudogs.push((case.goroutine, case.sudog));
        let (Some(Some(channel)), Some(object)) =
            (read.get(case.channel as usize), objects.get_mut(case.channel as usize))
        else {
            // The `hchan` could not be read or makes no sense, so this case is missing from `waits`.
            if let Some(goroutine) = snapshot.goroutines.get_mut(case.goroutine as usize) {
                goroutine.waits_known = false;
            }
            continue;
        };
        let object = *object.get_or_insert_with(|| {
            snapshot.objects.push(Object { addr: channel.addr, kind: channel.kind(), waiters: Vec::new() });
            snapshot.objects.len() - 1
        });
        add(snapshot, object, case);
    }
}

fn add(snapshot: &mut Snapshot, index: usize, case: &Case) {
    let Some(object) = snapshot.objects.get_mut(index) else { return };
    if let ObjectKind::Channel { receivers, senders, .. } = &mut object.kind {
        match case.wants {
            Wants::Receive => *receivers += 1,
            Wants::Send => *senders += 1,
            _ => {}
        }
    }
    // Two cases of one select may have the same channel. Cases are sorted by goroutine, so the last entry tells.
    if object.waiters.last() != Some(&case.goroutine) {
        object.waiters.push(case.goroutine);
    }
    if let Some(goroutine) = snapshot.goroutines.get_mut(case.goroutine as usize) {
        goroutine.waits.push(Wait { object: index as u32, wants: case.wants });
    }
}

/// Reads the `sudog`s: the first of each goroutine, then the second of each, and so on, so that each round is few
/// calls. Also returns the goroutines of which all `sudog`s were read.
fn cases(
    view: &View,
    fields: &Fields,
    waiting: &[Waiting],
    channels: &mut Channels,
) -> (Vec<Case>, Vec<u32>) {
    let mut todo: Vec<(&Waiting, Wants, u64)> = (waiting.iter())
        .filter_map(|waiting| match waiting.sort {
            Sort::Channel(wants) if waiting.sudog != 0 => Some((waiting, wants, waiting.sudog)),
            _ => None,
        })
        .collect();
    let mut left = waiting.len().saturating_mul(MEAN_CASES).saturating_add(MORE_CASES);
    let mut cases = Vec::with_capacity(todo.len());
    // A select with nothing but nil channels is in no queue: to have no `sudog` is all there is to know.
    let is_channel = |waiting: &&Waiting| matches!(waiting.sort, Sort::Channel(_));
    let none = waiting.iter().filter(is_channel).filter(|waiting| waiting.sudog == 0);
    let mut whole: Vec<u32> = none.map(|waiting| waiting.goroutine).collect();
    for _ in 0..MAX_CASES {
        // A hostile target could give every goroutine the same long list.
        todo.truncate(left);
        left -= todo.len();
        if todo.is_empty() {
            break;
        }
        let ranges: Vec<_> = todo.iter().map(|(_, _, sudog)| fields.range(*sudog)).collect();
        let mut later = Vec::new();
        records(view.memory, &ranges, |at, bytes| {
            let (waiting, wants, addr) = *todo.get(at)?;
            let sudog = fields.decode(bytes)?;
            // The goroutine was woken meanwhile, and the `sudog` was freed or belongs to another one.
            if sudog.g != waiting.g || sudog.c == 0 || sudog.c % 8 != 0 {
                return None;
            }
            cases.push(Case {
                goroutine: waiting.goroutine,
                channel: channels.index(sudog.c),
                wants,
                sudog: addr,
                next: sudog.next,
                prev: sudog.prev,
            });
            // 0 ends the list. A ring is no list of cases, and would never end.
            match sudog.waitlink {
                0 => whole.push(waiting.goroutine),
                ring if ring == waiting.sudog => {}
                next => later.push((waiting, wants, next)),
            }
            Some(())
        });
        todo = later;
    }
    (cases, whole)
}

/// The fields of an `hchan`.
#[derive(Clone, Copy, Debug)]
struct Channel {
    addr: u64,
    len: u64,
    cap: u64,
    element_size: u16,
    closed: bool,
    timer: bool,
    /// First and last `sudog` of the receive queue.
    receivers: [u64; 2],
    /// First and last `sudog` of the send queue.
    senders: [u64; 2],
}

impl Channel {
    fn kind(&self) -> ObjectKind {
        ObjectKind::Channel {
            len: self.len,
            cap: self.cap,
            closed: self.closed,
            timer: self.timer,
            element_size: self.element_size,
            receivers: 0,
            senders: 0,
        }
    }
}

/// Offsets in an `hchan`.
struct Layout {
    size: usize,
    qcount: usize,
    dataqsiz: usize,
    elemsize: usize,
    closed: usize,
    /// `None` up to Go 1.22, where a timer's channel is like any other.
    timer: Option<usize>,
    receivers: [usize; 2],
    senders: [usize; 2],
}

impl Layout {
    fn of(view: &View) -> Option<Layout> {
        let field = |name| {
            let at = view.binary.layout().field("hchan", name)?;
            (at < MAX_SIZE).then_some(at as usize)
        };
        Some(Layout {
            size: field("_size")?,
            qcount: field("qcount")?,
            dataqsiz: field("dataqsiz")?,
            elemsize: field("elemsize")?,
            closed: field("closed")?,
            timer: field("timer"),
            receivers: [field("recvq.first")?, field("recvq.last")?],
            senders: [field("sendq.first")?, field("sendq.last")?],
        })
    }

    fn decode(&self, addr: u64, bytes: &[u8]) -> Option<Channel> {
        let word = |at| u64_at(bytes, at);
        let queue = |[first, last]: [usize; 2]| Some([word(first)?, word(last)?]);
        let (len, cap, closed) = (word(self.qcount)?, word(self.dataqsiz)?, u32_at(bytes, self.closed)?);
        // What breaks these rules of `chan.go` is no `hchan`: the memory was reused meanwhile.
        (len <= cap && closed <= 1).then_some(())?;
        Some(Channel {
            addr,
            len,
            cap,
            element_size: u16::from_le_bytes(array(bytes, self.elemsize)?),
            closed: closed == 1,
            timer: self.timer.and_then(word).is_some_and(|timer| timer != 0),
            receivers: queue(self.receivers)?,
            senders: queue(self.senders)?,
        })
    }
}

/// Reads the `hchan`s; `None` for one that cannot be read or makes no sense.
fn read(view: &View, addrs: &[u64]) -> Vec<Option<Channel>> {
    let mut channels = vec![None; addrs.len()];
    let Some(layout) = Layout::of(view) else { return channels };
    let ranges: Vec<_> = addrs.iter().map(|addr| Range { addr: *addr, len: layout.size }).collect();
    records(view.memory, &ranges, |at, bytes| {
        *channels.get_mut(at)? = layout.decode(*addrs.get(at)?, bytes);
        Some(())
    });
    channels
}

/// Bytes of a `time.Time`, and its fields and the first of them (`src/time/time.go`, Go 1.19 to 1.27).
const TIME_SIZE: u64 = 24;
const TIME_FIELDS: u64 = 3;
const TIME_FIELD: &[u8] = b"wall";
/// Where a descriptor has the size, the kind and, of a struct, the address and number of its fields (`src/internal/abi/type.go:
/// Type`, `StructType`); the kind of a struct among the lowest five bits.
const DESCRIPTOR: usize = 72;
const KIND: usize = 23;
const FIELDS: usize = 56;
const STRUCT: u8 = 25;
/// Descriptors that are looked at: programs have few types of channels.
const MAX_TYPES: usize = 1 << 10;

/// Addresses of the channels of a snapshot that have room for one `time.Time`, as that of a timer has.
pub(crate) fn of_one_time(view: &View, snapshot: &Snapshot) -> HashSet<u64> {
    let mut known: HashMap<u64, bool> = HashMap::new();
    let mut is_time = |object: &&Object| {
        let ObjectKind::Channel { cap: 1, element_size, .. } = object.kind else { return false };
        let fits = u64::from(element_size) == TIME_SIZE;
        let Some(of) = fits.then(|| view.field(object.addr, "hchan", "elemtype")).flatten() else {
            return false;
        };
        let room = known.len() < MAX_TYPES;
        known.get(&of).copied().unwrap_or_else(|| {
            let is_time = room && describes_time(view, of).unwrap_or(false);
            known.insert(of, is_time);
            is_time
        })
    };
    snapshot.objects.iter().filter(|object| is_time(object)).map(|object| object.addr).collect()
}

/// Whether the descriptor at this address is that of `time.Time`: by its fields, because the text of a name hangs on a table
/// of the module.
fn describes_time(view: &View, addr: u64) -> Option<bool> {
    let mut descriptor = [0; DESCRIPTOR];
    view.memory.read(addr, &mut descriptor).ok()?;
    let (fields, count) = (u64_at(&descriptor, FIELDS)?, u64_at(&descriptor, FIELDS + 8)?);
    let is_struct = descriptor.get(KIND)? & 0x1f == STRUCT;
    if u64_at(&descriptor, 0)? != TIME_SIZE || !is_struct || count != TIME_FIELDS {
        return Some(false);
    }
    // A byte of flags and the length come before the text.
    let mut name = [0; 2 + TIME_FIELD.len()];
    view.memory.read(view.word(fields)?, &mut name).ok()?;
    Some(usize::from(name[1]) == TIME_FIELD.len() && name.ends_with(TIME_FIELD))
}

/// Finds the direction of select cases, which neither the wait reason nor the `sudog` has: a case receives if the
/// receive queue leads to its `sudog`. Only `sudog`s that were read are followed.
fn directions(cases: &mut [Case], channels: &[Option<Channel>]) {
    let unknown = |case: &&Case| case.wants == Wants::Unknown;
    let mut asked = vec![false; channels.len()];
    for case in cases.iter().filter(unknown) {
        if let Some(asked) = asked.get_mut(case.channel as usize) {
            *asked = true;
        }
    }
    let is_asked = |case: &Case| asked.get(case.channel as usize) == Some(&true);
    let by_sudog: HashMap<u64, usize> = (cases.iter().enumerate())
        .filter(|(_, case)| is_asked(case))
        .map(|(index, case)| (case.sudog, index))
        .collect();
    for (index, channel) in channels.iter().enumerate() {
        let (Some(channel), Some(true)) = (channel, asked.get(index)) else { continue };
        for ([first, last], wants) in [(channel.receivers, Wants::Receive), (channel.senders, Wants::Send)] {
            // From both ends, because one in the middle may not have been read.
            for (start, forward) in [(first, true), (last, false)] {
                let mut sudog = start;
                // No queue is longer than all cases together; a longer one is a ring.
                for _ in 0..by_sudog.len() {
                    let Some(case) = by_sudog.get(&sudog).and_then(|at| cases.get_mut(*at)) else { break };
                    if case.channel as usize != index {
                        break;
                    }
                    if case.wants == Wants::Unknown {
                        case.wants = wants;
                    }
                    sudog = if forward { case.next } else { case.prev };
                }
            }
        }
    }
}
