//! The outer frames of a goroutine that runs. Its registers cannot be had without stopping it, but
//! where its stack begins is known, and from there each frame's size says where the next one's
//! return address would lie. A frame that has returned leaves its bytes behind, so the inner ones
//! may be over: a best effort, and said to be one.

use super::types::Pc;
use crate::binary::{Arch, Function, GoBinary};
use crate::memory::Memory;

/// Frames that are looked for.
const MAX_FRAMES: usize = 64;
/// Words that are searched for one frame's return address: frames of 32 KiB.
const MAX_WORDS: u64 = 4096;
/// `CALL rel32`.
const CALL: u8 = 0xe8;

/// The outer frames, innermost first, of a goroutine that started at `startpc` and whose stack begins
/// at `top` (`g.stktopsp`). At least the function it started with; where in that it is may be unknown, and
/// then it is said to be at its entry. Empty on arm64.
pub(super) fn frames(memory: &dyn Memory, binary: &GoBinary, bias: u64, startpc: u64, top: u64) -> Vec<Pc> {
    let mut frames = Vec::new();
    if binary.arch() != Arch::Amd64 {
        return frames;
    }
    let functions = binary.functions();
    let (mut function, mut frame) = (functions.function_at(startpc.wrapping_sub(bias)), top);
    while let Some(of) = function
        && frames.len() < MAX_FRAMES
    {
        let Some((slot, pc)) = return_address(memory, binary, bias, &of, frame) else {
            frames.push(Pc::exact(of.entry.wrapping_add(bias)));
            break;
        };
        frames.push(Pc::of_return(pc.wrapping_add(bias)));
        // The frame of the called function begins above the return address.
        frame = slot + 8;
        function = callee(binary, pc);
    }
    frames.reverse();
    frames
}

/// Where below `frame`, the stack pointer before `of` was called, `of` has left the return address of
/// a call of its own; and that address, link-time.
fn return_address(
    memory: &dyn Memory,
    binary: &GoBinary,
    bias: u64,
    of: &Function<'_>,
    frame: u64,
) -> Option<(u64, u64)> {
    // Its own return address, then its frame, then the one we look for.
    let own = frame.checked_sub(8)?;
    (1..=MAX_WORDS).map_while(|words| own.checked_sub(8 * words)).find_map(|slot| {
        let pc = memory.word(slot).ok()?.wrapping_sub(bias);
        let inside = of.entry < pc && pc < of.end;
        let delta = inside.then(|| binary.functions().sp_delta(of, pc)).flatten()?;
        (u64::try_from(delta) == Ok(own - slot - 8)).then_some((slot, pc))
    })
}

/// The function that the call before `pc` calls, where the instruction names it.
fn callee(binary: &GoBinary, pc: u64) -> Option<Function<'_>> {
    let code = binary.image().read(pc.checked_sub(5)?, 5)?;
    let (first, offset) = code.split_first()?;
    let offset = i32::from_le_bytes(*offset.first_chunk()?);
    let entry = (*first == CALL).then(|| pc.wrapping_add_signed(i64::from(offset)))?;
    binary.functions().function_at(entry).filter(|function| function.entry == entry)
}
