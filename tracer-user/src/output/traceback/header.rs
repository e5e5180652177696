//! The first line of a goroutine, as `goroutineheader` (`src/runtime/traceback.go`) prints it.

use super::names::clean;
use sfgi_core::binary::GoBinary;
use sfgi_core::goruntime::State;
use sfgi_core::goruntime::{Release, WaitReasons};
use sfgi_core::snapshot::{Goroutine, Snapshot, Trust};
use std::io::{self, Write};

const MINUTE_NS: u64 = 60_000_000_000;

pub(super) struct Header<'a> {
    reasons: &'a WaitReasons,
    now_ns: u64,
    labels: bool,
}

impl<'a> Header<'a> {
    pub(super) fn new(binary: &'a GoBinary, now_ns: u64) -> Header<'a> {
        let defaults = binary.info().setting("DefaultGODEBUG").unwrap_or("");
        let labels = prints_labels(binary.version().release, defaults);
        Header { reasons: binary.wait_reasons(), now_ns, labels }
    }

    pub(super) fn write(
        &self,
        out: &mut dyn Write,
        goroutine: &Goroutine,
        snapshot: &Snapshot,
    ) -> io::Result<()> {
        write!(out, "goroutine {} [{}", goroutine.goid, self.status(goroutine))?;
        if goroutine.state == State::Leaked {
            out.write_all(b" (leaked)")?;
        }
        if goroutine.scan {
            out.write_all(b" (scan)")?;
        }
        out.write_all(match goroutine.trust {
            Trust::Still => b"",
            Trust::InMotion => b" (in motion)",
            Trust::Running if goroutine.stack.0 == 0 => b"",
            Trust::Running => b" (outer frames)",
            Trust::Broken => b" (broken stack)",
        })?;
        let minutes = self.minutes(goroutine);
        if minutes > 0 {
            write!(out, ", {minutes} minutes")?;
        }
        if goroutine.locked {
            out.write_all(b", locked to thread")?;
        }
        let index = (goroutine.labels as usize).checked_sub(1).filter(|_| self.labels);
        match index.and_then(|index| snapshot.labels.get(index)).filter(|set| !set.is_empty()) {
            None => out.write_all(b"]:\n"),
            Some(set) => writeln!(out, "] {{{}}}:", listed(set)),
        }
    }

    fn status(&self, goroutine: &Goroutine) -> std::borrow::Cow<'_, str> {
        // The runtime does not clear `waitreason` on a wake-up, so it is read only of a goroutine that waits.
        let waits = goroutine.state.waits();
        if waits && goroutine.reason != 0 {
            return match self.reasons.text(goroutine.reason) {
                "" => "unknown wait reason".into(),
                reason => clean(reason),
            };
        }
        match goroutine.state {
            State::DeadExtra => "waiting for cgo callback".into(),
            State::Unknown | State::Invalid(_) => "???".into(),
            state => state.to_string().into(),
        }
    }

    fn minutes(&self, goroutine: &Goroutine) -> u64 {
        // The runtime prints minutes for exactly these two states.
        let counts = matches!(goroutine.state, State::Waiting | State::Syscall);
        if !counts || goroutine.waiting_since_ns == 0 {
            return 0;
        }
        self.now_ns.saturating_sub(goroutine.waiting_since_ns) / MINUTE_NS
    }
}

/// Whether headers have the labels: `GODEBUG=tracebacklabels`, on by default since Go 1.27. `defaults` is the build's
/// `DefaultGODEBUG` (from the `go` line of go.mod and `//go:debug`). The environment of the target is not read.
fn prints_labels(release: Release, defaults: &str) -> bool {
    let set = defaults.split(',').rev().find_map(|setting| setting.strip_prefix("tracebacklabels="));
    release.prints_labels() && set.is_none_or(|value| value == "1")
}

fn listed(set: &[(String, String)]) -> String {
    let pair =
        |(key, value): &(String, String)| format!("{}: {}", quoted_if_need_be(key), quoted_if_need_be(value));
    set.iter().map(pair).collect::<Vec<_>>().join(", ")
}

/// Quotes a text where the runtime's `tracebackStringNeedsQuoting` says so (Go 1.27).
fn quoted_if_need_be(text: &str) -> String {
    let plain = |char: char| char.is_ascii_alphanumeric() || matches!(char, '.' | '/' | '_');
    if text.chars().all(plain) { text.to_owned() } else { quoted(text) }
}

/// Quotes as the runtime's `printquoted` does (`src/runtime/print.go`).
fn quoted(text: &str) -> String {
    let mut out = String::from("\"");
    for char in text.chars() {
        match char {
            '\n' => out.push_str("\\n"),
            '\r' => out.push_str("\\r"),
            '\t' => out.push_str("\\t"),
            '\\' | '"' => out.extend(['\\', char]),
            ' '..='~' => out.push(char),
            '\0'..='\x1f' => out.push_str(&format!("\\x{:02x}", u32::from(char))),
            '\x7f'..='\u{ffff}' => out.push_str(&format!("\\u{:04x}", u32::from(char))),
            _ => out.push_str(&format!("\\U{:08x}", u32::from(char))),
        }
    }
    out.push('"');
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    fn prints_labels(minor: u32, defaults: &str) -> bool {
        super::prints_labels(Release::new(minor), defaults)
    }

    const REASONS: [&str; 3] = ["", "select", "chan receive"];

    fn goroutine() -> Goroutine {
        Goroutine {
            goid: 7,
            g: 0x1000,
            state: State::Waiting,
            scan: false,
            trust: Trust::Still,
            reason: 2,
            waiting_since_ns: 0,
            parent_goid: 0,
            gopc: 0,
            startpc: 0,
            tid: 0,
            locked: false,
            system: false,
            labels: 0,
            stack: Default::default(),
            args: (0, 0),
            waits: Vec::new(),
            waits_known: false,
            stamp: 0,
            resume_pc: 0,
            stack_bounds: (0, 0),
        }
    }

    fn written(goroutine: &Goroutine) -> String {
        written_with(false, goroutine)
    }

    fn written_with(labels: bool, goroutine: &Goroutine) -> String {
        let reasons = WaitReasons::from(REASONS.map(str::to_owned).to_vec());
        let header = Header { reasons: &reasons, now_ns: 200 * 1_000_000_000, labels };
        let label = |key: &str, value: &str| (key.to_owned(), value.to_owned());
        let sets = vec![vec![label("a.b/c_1", "x y"), label("k", "")], vec![]];
        let snapshot = Snapshot { labels: sets, ..Snapshot::default() };
        let mut out = Vec::new();
        header.write(&mut out, goroutine, &snapshot).unwrap();
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn what_a_goroutine_does() {
        let mut it = goroutine();
        assert_eq!(written(&it), "goroutine 7 [chan receive]:\n");
        it.reason = 0;
        assert_eq!(written(&it), "goroutine 7 [waiting]:\n");
        it.reason = 99;
        assert_eq!(written(&it), "goroutine 7 [unknown wait reason]:\n");
        (it.state, it.scan) = (State::Runnable, true);
        assert_eq!(written(&it), "goroutine 7 [runnable (scan)]:\n");
        (it.state, it.reason, it.scan) = (State::Leaked, 1, false);
        assert_eq!(written(&it), "goroutine 7 [select (leaked)]:\n");
        it.state = State::Invalid(5);
        assert_eq!(written(&it), "goroutine 7 [???]:\n");
    }

    #[test]
    fn whole_minutes() {
        let mut it = goroutine();
        it.waiting_since_ns = 140 * 1_000_000_000 + 1;
        assert_eq!(written(&it), "goroutine 7 [chan receive]:\n");
        (it.waiting_since_ns, it.locked) = (80 * 1_000_000_000, true);
        assert_eq!(written(&it), "goroutine 7 [chan receive, 2 minutes, locked to thread]:\n");
        (it.state, it.locked) = (State::Runnable, false);
        assert_eq!(written(&it), "goroutine 7 [runnable]:\n");
        (it.state, it.waiting_since_ns) = (State::Syscall, u64::MAX);
        assert_eq!(written(&it), "goroutine 7 [syscall]:\n");
    }

    #[test]
    fn what_is_doubtful_is_marked() {
        let mut it = goroutine();
        (it.trust, it.waiting_since_ns) = (Trust::InMotion, 1);
        assert_eq!(written(&it), "goroutine 7 [chan receive (in motion), 3 minutes]:\n");
        it.trust = Trust::Broken;
        assert_eq!(written(&it), "goroutine 7 [chan receive (broken stack), 3 minutes]:\n");
        (it.trust, it.state) = (Trust::Running, State::Running);
        assert_eq!(written(&it), "goroutine 7 [running]:\n");
        it.stack = sfgi_core::snapshot::StackId(1);
        assert_eq!(written(&it), "goroutine 7 [running (outer frames)]:\n");
    }

    #[test]
    fn labels_behind_the_bracket() {
        let mut it = goroutine();
        it.labels = 1;
        assert_eq!(written_with(false, &it), "goroutine 7 [chan receive]:\n");
        assert_eq!(written_with(true, &it), "goroutine 7 [chan receive] {a.b/c_1: \"x y\", k: }:\n");
        for none in [2, 3, u32::MAX] {
            it.labels = none;
            assert_eq!(written_with(true, &it), "goroutine 7 [chan receive]:\n");
        }
    }

    #[test]
    fn when_labels_are_printed() {
        assert!(!prints_labels(26, "") && !prints_labels(25, "tracebacklabels=1"));
        assert!(prints_labels(27, "a=1") && !prints_labels(27, "tracebacklabels=0,b=1"));
    }

    #[test]
    fn quotes_as_the_runtime() {
        assert_eq!(
            quoted("a\"\\\n\r\t\x01\x7fä世\u{1f600}~"),
            r#""a\"\\\n\r\t\x01\u007f\u00e4\u4e16\U0001f600~""#
        );
    }
}
