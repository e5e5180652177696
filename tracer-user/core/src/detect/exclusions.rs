//! Goroutines that are never reported, or only where a rule means just them.

use crate::{
    goruntime::WaitReason,
    snapshot::{Goroutine, Trust},
};
use std::sync::Arc;

/// Functions of goroutines that wait by design for as long as the program runs.
const SERVICES: [&str; 8] = [
    "os/signal.loop",
    "os/signal.signal_recv",
    "os/signal.NotifyContext.func1",
    "internal/poll.(*FD).Accept",
    "runtime/trace.Start.func1",
    "runtime/pprof.profileWriter",
    "net/http.(*Server).ListenAndServe",
    "database/sql.(*DB).connectionCleaner",
];

/// Functions of pools that belong to a running client or server: idle connections, one opener for each
/// database.
const POOLS: [&str; 9] = [
    "net/http.(*persistConn).readLoop",
    "net/http.(*persistConn).writeLoop",
    "net/http.(*http2ClientConn).readLoop",
    "net/http.(*http2clientConnReadLoop).run",
    "net/http.(*http2serverConn).readFrames",
    "net/http.(*http2serverConn).serve",
    "net/http.(*conn).readRequest",
    "net/http.(*connReader).backgroundRead",
    "database/sql.(*DB).connectionOpener",
];

/// Whether a goroutine is none that could leak: the runtime's own, the main one parked for good, one that
/// cannot be judged because it was in motion or makes no sense.
pub(super) fn never(goroutine: &Goroutine, reason: WaitReason) -> bool {
    // One that moves on and on can still be said to spin.
    let unjudged = match goroutine.trust {
        Trust::InMotion => goroutine.state.stays(),
        Trust::Broken => true,
        Trust::Still | Trust::Running => false,
    };
    let parked_main = goroutine.goid == 1 && reason == WaitReason::SelectNoCases;
    // Goroutines of the program that work for the runtime or a tool: the reader of `runtime/trace.Start`, and the
    // call that a debugger injected.
    let foreign =
        matches!(reason, WaitReason::TraceReaderBlocked | WaitReason::DebugCall | WaitReason::Preempted);
    goroutine.system || goroutine.state.is_dead() || unjudged || parked_main || foreign || reason.is_fake()
}

/// Whether a goroutine that can still be woken is of a service that runs as long as the program.
pub(super) fn service(functions: &[Arc<str>]) -> bool {
    functions.iter().any(|name| SERVICES.contains(&&**name))
}

/// Whether it belongs to an idle pool: age and number say nothing then.
pub(super) fn pool(functions: &[Arc<str>]) -> bool {
    // A server's connection between two requests waits in a Peek of its own.
    let idle_server = || {
        let serve = functions.iter().position(|name| &**name == "net/http.(*conn).serve");
        let caller = serve.and_then(|at| at.checked_sub(1)).and_then(|at| functions.get(at));
        caller.is_some_and(|name| &**name == "bufio.(*Reader).Peek")
    };
    functions.iter().any(|name| POOLS.contains(&&**name)) || idle_server()
}
