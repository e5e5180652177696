//! The input is a valid executable with changes to it, each where (two bytes) and to what (one byte),
//! and then the memory of the program that runs it: see [`Stopped`].
#![no_main]

use libfuzzer_sys::fuzz_target;
use sfgi_core::{
    binary::GoBinary,
    snapshot::{self, Clock, Options, View},
};
use sfgi_fuzz::{Stopped, executable};

fuzz_target!(|input: &[u8]| sfgi_fuzz::bounded(|| {
    let [which, changes, rest @ ..] = input else { return };
    let Some((changes, memory)) = rest.split_at_checked(usize::from(changes % 16) * 3) else { return };
    let mut data = executable(*which);
    for change in changes.chunks_exact(3) {
        let at = usize::from(u16::from_le_bytes([change[0], change[1]])) % data.len();
        data[at] = change[2];
    }
    let Ok(binary) = GoBinary::parse(data.into()) else { return };
    let Some(memory) = Stopped::new(&binary, memory) else { return };
    let view = View { memory: &memory, binary: &binary, bias: 0, clock: Clock::Stopped };
    let options = Options { stacks: true, args: true, labels: true, objects: true, most: 0 };
    let Ok(snapshot) = snapshot::take(&view, options, &mut |_, _| {}) else { return };
    for goroutine in &snapshot.goroutines {
        let (start, len) = goroutine.args;
        let args = &snapshot.args[start..start + len];
        let frames = snapshot.stacks.get(goroutine.stack).len();
        // Where there are arguments, there is a line for each frame.
        assert!(args.is_empty() || args.lines().count() == frames, "{goroutine:?}");
    }
}));
