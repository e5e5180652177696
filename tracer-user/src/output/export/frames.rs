//! The frames of a stack that was sent with an event.

use sfgi_core::goruntime::Release;
use sfgi_core::{
    event::Stack,
    goruntime::tracebacks,
    names::{Site, Symbols},
};

/// Inlined frames have the same address: the number of a frame within its address goes above the bits that
/// addresses use, for formats that tell frames by address.
pub(super) const NUMBER_SHIFT: u32 = 48;

/// A frame, and the address it is known by.
pub(super) struct Frame {
    /// The return address, with the frame's number at [`NUMBER_SHIFT`].
    pub(super) pc: u64,
    /// Where it is.
    pub(super) site: Site,
}

/// The frames of a return address, innermost first.
pub(super) fn callers(symbols: &mut Symbols, pc: u64) -> Vec<Frame> {
    let numbered =
        |(at, site): (usize, &Site)| Frame { pc: pc | (at as u64) << NUMBER_SHIFT, site: site.clone() };
    symbols.caller(pc).iter().enumerate().map(numbered).collect()
}

/// The frames of a stack that a traceback of this release would show, innermost first; if it would show none, all.
pub(super) fn shown(stack: Stack, symbols: &mut Symbols, release: Release) -> Vec<Frame> {
    let mut frames: Vec<Frame> = stack.pcs().iter().flat_map(|pc| callers(symbols, *pc)).collect();
    let shows = |frame: &Frame| tracebacks::shows(&frame.site.func, release);
    if frames.iter().any(shows) {
        frames.retain(shows);
    }
    frames
}
