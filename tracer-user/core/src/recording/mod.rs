//! A trace as a file: everything that came in of the targets, with the names of all addresses, so that it can
//! be followed again anywhere, as if it were live.
//!
//! What is recorded is what goes into the model ([`crate::session::Input`]), not what comes out: a report passes
//! through the same code as a live trace, and shows the same.
//!
//! The file (`frame`) is a row of checked, compressed frames that are only ever appended: the
//! [`Head`]; before each frame of inputs (`items`) the names that it needs (`names`); documents
//! that only the live program could give; and the [`Tail`]. Each frame of inputs can be read by itself,
//! so a ring ([`Keep::Last`]) lets go of the oldest ones.

pub mod bytes;
mod document;
pub(crate) mod frame;
mod items;
mod names;
mod player;
mod recorder;

pub use document::{Document, append, copy_document};
pub use frame::{Damage, Head, Tail};
pub use player::{OpenError, PlayError, Played, Player};
pub use recorder::{Keep, Outputs, Recorder, Trigger};

#[cfg(test)]
mod hostile;
