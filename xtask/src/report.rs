//! What `cargo xtask test` reports at its end: the outcome and the time of each section, the slowest tests, the tests
//! that needed a second run, and one line with the sums.

use crate::sh;
use anyhow::{Context as _, Result, ensure};
use std::{
    fmt,
    io::{BufRead as _, BufReader},
    process::{Command, Stdio},
    time::Duration,
};

/// Slowest tests that are named.
const SLOWEST: usize = 10;

/// Tests passed and failed so far, as the test programs count them; a section without a count is one test.
#[derive(Default)]
pub(crate) struct Tally {
    passed: u64,
    failed: u64,
    ignored: u64,
    /// `passed` and `failed` when the running section began.
    before: (u64, u64),
    sections: Vec<Section>,
    tests: Vec<(String, Duration)>,
    /// Tests that failed and then passed when they were run again.
    second: Vec<String>,
}

/// A section that has ended.
struct Section {
    name: String,
    good: bool,
    took: Duration,
}

impl Tally {
    /// Notes how long the set-up took, which is no test.
    pub(crate) fn set_up(&mut self, took: Duration) {
        self.sections.push(Section { name: "setup".to_owned(), good: true, took });
    }

    /// Ends the running section.
    pub(crate) fn close(&mut self, name: &str, good: bool, took: Duration) {
        let (passed, failed) = self.before;
        // A section that counted no test is one test.
        if good && self.passed == passed {
            self.passed += 1;
        }
        if !good && self.failed == failed {
            self.failed += 1;
        }
        self.before = (self.passed, self.failed);
        self.sections.push(Section { name: name.to_owned(), good, took });
    }

    /// Runs a test program with its output on the screen and adds what its lines say.
    pub(crate) fn count(&mut self, program: &str, command: &mut Command) -> Result<()> {
        let mut child = sh::Child::spawn(command.stdin(Stdio::null()).stdout(Stdio::piped()))?;
        let stdout = child.0.stdout.take().context("no stdout")?;
        for line in BufReader::new(stdout).lines() {
            let line = line?;
            println!("{line}");
            self.add(&line);
            if let Some(test) = line.strip_prefix("passed only the second time: ") {
                self.second.push(format!("{program}: {test}"));
            }
            if let Some((test, took)) = time_of(&line) {
                self.timed(format!("{program}: {test}"), took);
            }
        }
        ensure!(child.0.wait()?.success(), "{program} failed: what failed is listed above");
        Ok(())
    }

    /// Adds "test result: ok. 12 passed; 1 failed; …"; other lines add nothing.
    pub(crate) fn add(&mut self, line: &str) {
        let Some(counts) = line.strip_prefix("test result: ") else { return };
        let number = |what: &str| {
            let before = counts.split(what).next()?;
            before.trim_end().rsplit(' ').next()?.parse::<u64>().ok()
        };
        self.passed += number(" passed;").unwrap_or(0);
        self.failed += number(" failed;").unwrap_or(0);
        self.ignored += number(" ignored;").unwrap_or(0);
    }

    /// Notes how long a test took.
    pub(crate) fn timed(&mut self, test: String, took: Duration) {
        self.tests.push((test, took));
    }
}

/// The name and the time in libtest's "test a::b ... ok <1.234s>", which it prints with `--report-time`.
fn time_of(line: &str) -> Option<(&str, Duration)> {
    let (test, rest) = line.strip_prefix("test ")?.split_once(" ... ")?;
    let seconds = rest.strip_suffix("s>")?.rsplit_once('<')?.1.parse().ok()?;
    Some((test, Duration::try_from_secs_f64(seconds).ok()?))
}

impl fmt::Display for Tally {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut line = |name: &str, outcome: &str, took: Duration| {
            writeln!(f, "{name:8} {outcome:6} {:7.1} s", took.as_secs_f64())
        };
        for Section { name, good, took } in &self.sections {
            line(name, if *good { "ok" } else { "FAILED" }, *took)?;
        }
        line("all", "", self.sections.iter().map(|section| section.took).sum())?;
        let mut slowest: Vec<_> = self.tests.iter().collect();
        slowest.sort_by_key(|(_, took)| std::cmp::Reverse(*took));
        if !slowest.is_empty() {
            writeln!(f, "\nThe slowest tests:")?;
        }
        for (test, took) in slowest.into_iter().take(SLOWEST) {
            writeln!(f, "{:7.1} s  {test}", took.as_secs_f64())?;
        }
        if !self.second.is_empty() {
            writeln!(f, "\nFailed first and passed when run again, each a defect to be mended:")?;
        }
        self.second.iter().try_for_each(|test| writeln!(f, "  {test}"))?;
        if self.ignored > 0 {
            writeln!(f, "\n{} ignored: their lines above say why", self.ignored)?;
        }
        write!(f, "\n{} passed, {} failed", self.passed, self.failed)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn result_lines_are_added_and_others_are_not() {
        let mut tally = Tally::default();
        tally.add(
            "test result: ok. 12 passed; 0 failed; 3 ignored; 0 measured; 0 filtered out; finished in 0.01s",
        );
        tally.add("test result: FAILED. 1 passed; 2 failed; 0 ignored; 0 measured; 0 filtered out");
        tally.add("7 passed; 7 failed;");
        assert_eq!((tally.passed, tally.failed, tally.ignored), (13, 2, 3));
    }

    #[test]
    fn a_section_without_test_programs_is_one_test() {
        let mut tally = Tally::default();
        tally.close("format", true, Duration::ZERO);
        tally.add("test result: ok. 5 passed; 0 failed;");
        tally.close("unit", true, Duration::ZERO);
        assert_eq!((tally.passed, tally.failed), (6, 0));
        tally.add("test result: ok. 5 passed; 0 failed;");
        tally.close("live", false, Duration::ZERO); // such as a program that did not compile
        assert_eq!((tally.passed, tally.failed), (11, 1));
    }

    #[test]
    fn the_time_of_a_test_is_read_from_its_line() {
        let time = |line| time_of(line).map(|(test, took)| (test, took.as_millis()));
        assert_eq!(time("test a::b ... ok <1.234s>"), Some(("a::b", 1234)));
        assert_eq!(time("test a::b - should panic ... FAILED <0.010s>"), Some(("a::b - should panic", 10)));
        assert_eq!(time("test a::b ... ok"), None);
        assert_eq!(time("test result: ok. 5 passed; 0 failed; finished in 0.01s"), None);
    }

    #[test]
    fn the_report_has_the_slowest_first_and_the_sums_alone_on_the_last_line() {
        let mut tally = Tally::default();
        for secs in 1..=11 {
            tally.timed(format!("sfgi: test{secs}"), Duration::from_secs(secs));
        }
        tally.add("test result: ok. 11 passed; 0 failed; 0 ignored;");
        tally.second.push("live: trace".to_owned());
        tally.close("unit", true, Duration::from_millis(1500));
        let report = tally.to_string();
        assert!(
            report.starts_with("unit     ok         1.5 s\nall                 1.5 s\n\nThe slowest"),
            "{report}"
        );
        assert!(report.contains("   11.0 s  sfgi: test11\n   10.0 s  sfgi: test10\n"), "{report}");
        assert!(!report.contains("sfgi: test1\n"), "{report}");
        assert!(report.ends_with("\n  live: trace\n\n11 passed, 0 failed"), "{report}");
    }
}
