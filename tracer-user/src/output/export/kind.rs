//! What a profile by stack counts.

use crate::output::pprof::Unit;

/// What a profile by stack counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Kind {
    /// Time that goroutines waited, by where: what Go's block profile has, but for every wait reason.
    Blocked,
    /// Time that threads of running goroutines, or of those in a system call, had no CPU, by where the
    /// goroutine last waited or called.
    OffCpu,
    /// Goroutines made, by `go` statement.
    Created,
    /// Goroutines that existed at the end, by where they wait.
    Goroutines,
}

impl Kind {
    /// The values of each sample.
    pub(super) fn values(self) -> &'static [Unit] {
        match self {
            // As `runtime/pprof` writes its block profile (`printCountCycleProfile`).
            Kind::Blocked => &[("contentions", "count"), ("delay", "nanoseconds")],
            Kind::OffCpu => &[("switches", "count"), ("off_cpu", "nanoseconds")],
            Kind::Created => &[("created", "count")],
            Kind::Goroutines => &[("goroutine", "count")],
        }
    }

    /// Whether what matters is time; else it is a number.
    pub(super) fn is_time(self) -> bool {
        matches!(self, Kind::Blocked | Kind::OffCpu)
    }

    /// Its name in a heading.
    pub(super) fn title(self) -> &'static str {
        match self {
            Kind::Blocked => "Time blocked",
            Kind::OffCpu => "Time off CPU",
            Kind::Created => "Goroutines made",
            Kind::Goroutines => "Goroutines",
        }
    }
}
