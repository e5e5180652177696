//! What detection asks of names.

use crate::goruntime::{Release, WaitReason};
use crate::snapshot::{Goroutine, Pc};
use std::sync::Arc;

/// Names for the addresses of a snapshot.
pub trait Lookup {
    /// The functions of a stack, innermost first: the runtime's own and inlined ones too.
    fn functions(&mut self, stack: &[Pc]) -> Vec<Arc<str>>;
    /// The function in which a stack waits, behind what only passes the wait on, and its line; `None` for an
    /// empty stack.
    fn wait_site(&mut self, stack: &[Pc]) -> Option<(Arc<str>, u32)>;
    /// The function with the `go` statement that made this goroutine; `None` for the main goroutine.
    fn creator(&mut self, goroutine: &Goroutine) -> Option<Arc<str>>;
    /// The function at an address.
    fn function(&mut self, addr: u64) -> Option<Arc<str>>;
    /// The program's release of Go.
    fn release(&self) -> Release;
    /// Why it waits, in the runtime's words; empty where it does not wait.
    fn reason(&self, goroutine: &Goroutine) -> &str;
    /// Why it waits; [`WaitReason::Zero`] where it does not wait.
    fn wait_reason(&self, goroutine: &Goroutine) -> WaitReason;
}
