//! When goroutines in `time.Sleep` wake (`src/runtime/time.go: timeSleep`): since Go 1.23 `g.sleepWhen` says so, up to 1.22
//! the timer of the `g`.

use crate::binary::bytes::u64_at;
use crate::goruntime::WaitReason;
use crate::memory::{Range, read_each};
use crate::snapshot::{Snapshot, View};

/// Largest offset in a `g` or `timer` that is believed.
const MAX_LEN: usize = 4 << 10;

/// Goroutines that sleep, by index into [`Snapshot::goroutines`], and when each wakes (`CLOCK_MONOTONIC`, nanoseconds).
/// Those of which it is not known are left out.
pub(super) fn wakes(view: &View<'_>, snapshot: &Snapshot) -> Vec<(u32, u64)> {
    let sleeps = |reason| view.binary.wait_reasons().get(reason).outside_of_bubbles() == WaitReason::Sleep;
    let sleepers = snapshot.goroutines.iter().zip(0u32..);
    let sleepers = sleepers.filter(|(one, _)| one.state.waits() && sleeps(one.reason));
    let gs: Vec<(u32, u64)> = sleepers.map(|(one, index)| (index, one.g)).collect();
    let layout = view.binary.layout();
    let field = |of, name| layout.field(of, name).map(|at| at as usize).filter(|at| *at < MAX_LEN);
    let found = match (field("g", "sleepWhen"), field("g", "timer"), field("timer", "when")) {
        (Some(when), ..) => fields(view, &gs, when),
        // `resettimer` sets `when`.
        (None, Some(timer), Some(when)) => fields(view, &fields(view, &gs, timer), when),
        _ => Vec::new(),
    };
    found.into_iter().filter(|(_, when)| *when != 0).collect()
}

/// The word at this offset of each struct, with the number of the struct; what cannot be read is left out.
fn fields(view: &View<'_>, structs: &[(u32, u64)], at: usize) -> Vec<(u32, u64)> {
    let ranges: Vec<Range> =
        structs.iter().map(|(_, addr)| Range { addr: addr.wrapping_add(at as u64), len: 8 }).collect();
    let mut found = Vec::with_capacity(structs.len());
    let read = read_each(view.memory, &ranges, |place, bytes| {
        if let (Some((index, _)), Some(word)) = (structs.get(place), u64_at(bytes, 0)) {
            found.push((*index, word));
        }
    });
    if read.is_ok() { found } else { Vec::new() }
}
