//! Reading rules.

use crate::detect::{Failure, Rules, Severity, Verdict};
use std::{collections::HashSet, fmt, str::FromStr};

/// The class ids that are promised.
const CLASSES: [&str; 37] = [
    "behind-deadlock",
    "exec-output-held",
    "nil-channel",
    "select-no-cases",
    "send-without-receiver",
    "receive-without-sender",
    "range-never-closed",
    "select-dead",
    "waitgroup-never-done",
    "mutex-never-unlocked",
    "lock-order-cycle",
    "lock-channel-mixed",
    "cond-never-signalled",
    "context-never-cancelled",
    "context-cut",
    "context-far-deadline",
    "context-growth",
    "context-ignored",
    "context-lost",
    "coroutine-never-stopped",
    "thread-growth",
    "timer-never-stopped",
    "conn-peer-closed",
    "connection-never-closed",
    "finalizer-stuck",
    "pool-bloat",
    "pool-dirty",
    "pool-double-put",
    "fd-growth",
    "fd-near-limit",
    "fd-unreachable",
    "sdk-resident",
    "pseudo-idle-spin",
    "stuck-syscall",
    "spurious-wakeups",
    "never-yields",
    "starved",
];

#[test]
fn the_built_in_ones_hold_every_class() {
    let rules = Rules::built_in().unwrap();
    let classes: HashSet<&str> = rules.iter().map(|rule| rule.class.as_str()).collect();
    for class in CLASSES {
        assert!(classes.contains(class), "{class}");
    }
    for rule in rules.iter() {
        let texts = [&rule.title, &rule.explanation, &rule.fix, &rule.formal.label];
        assert!(texts.iter().all(|text| !text.is_empty() && !text.contains('\n')), "{}", rule.id);
    }
    assert!(rules.iter().is_sorted_by_key(|rule| -rule.priority));
}

const RULE: &str = r#"[[rule]]
id = "nil-channel"
class = "own-class"
title = "t"
priority = 2000
severity = "note"
explanation = "e"
fix = "f"
formal = { context = "c", precondition = "p", change = "x", label = "l" }
[rule.match]
wait_reason = "^chan"
"#;

fn with(text: &str) -> Result<Rules, String> {
    let directory = tempfile::tempdir().unwrap();
    std::fs::write(directory.path().join("own.toml"), text).unwrap();
    std::fs::write(directory.path().join("readme"), "no rules").unwrap();
    let rules = Rules::built_in().unwrap().with_directory(directory.path());
    rules.map_err(|err| err.to_string().replace(&directory.path().display().to_string(), ""))
}

#[test]
fn a_directory_adds_and_overrides() {
    let all = Rules::built_in().unwrap().iter().count();
    let rules = with(RULE).unwrap();
    assert_eq!(rules.iter().count(), all);
    assert_eq!(rules.iter().next().unwrap().class, "own-class");
    let rules = with(&RULE.replace("\"nil-channel\"", "\"own\"")).unwrap();
    assert_eq!(rules.iter().count(), all + 1);
    assert!(with("").is_ok());
}

#[test]
fn every_failure_is_that_of_some_class() {
    let rules = Rules::built_in().unwrap();
    for failure in Failure::ALL {
        assert!(rules.iter().any(|rule| rule.failure == failure), "{failure}");
    }
}

#[test]
fn a_rule_that_names_no_failure_has_that_of_its_class() {
    let failure = |class: &str, more: &str| {
        let text = RULE.replace("own-class", class).replace("fix = \"f\"", &format!("fix = \"f\"\n{more}"));
        with(&text).unwrap().iter().next().map(|rule| rule.failure)
    };
    assert_eq!(failure("lock-order-cycle", ""), Some(Failure::Deadlock));
    assert_eq!(failure("own-class", ""), Some(Failure::BlockedForever));
    assert_eq!(failure("own-class", "failure = \"livelock\""), Some(Failure::Livelock));
}

/// Text, JSON and the way back are the same word.
#[test]
fn words_come_back_as_what_they_name() {
    fn round_trip<T>(all: &[T])
    where
        T: Copy + PartialEq + fmt::Debug + fmt::Display + FromStr<Err = String>,
        T: serde::Serialize + for<'de> serde::Deserialize<'de>,
    {
        for one in all {
            assert_eq!(one.to_string().parse(), Ok(*one));
            let json = serde_json::to_string(one).unwrap();
            assert_eq!(json, format!("\"{one}\""));
            assert_eq!(serde_json::from_str::<T>(&json).unwrap(), *one);
        }
    }
    round_trip(&Verdict::ALL);
    round_trip(&Severity::ALL);
    round_trip(&Failure::ALL);
    assert!(Verdict::ALL.is_sorted() && Severity::ALL.is_sorted());
    let wrong = "sure".parse::<Verdict>().unwrap_err();
    assert_eq!(wrong, "\"sure\" is no verdict: those are suspect, likely, proven");
}

#[test]
fn bad_rules_are_refused_in_a_sentence() {
    let cases = [
        ("severity = \"note\"", "severity = \"bad\"", "/own.toml:6: unknown variant `bad`"),
        ("fix = \"f\"", "", "/own.toml:1: missing field `fix`"),
        ("fix = \"f\"", "fix = \"f\"\nfxi = 1", "/own.toml:9: unknown field `fxi`"),
        ("\"^chan\"", "\"(\"", "/own.toml:11: "),
        ("wait_reason", "wait_raeson", "/own.toml:11: unknown field `wait_raeson`"),
        ("\"^chan\"", "\"^chan\"\nage = \"5 parsecs\"", "/own.toml:12: \"5 parsecs\" is no age"),
        ("\"^chan\"", "\"^chan\"\ncount = \"max\"", "/own.toml:12: "),
        ("\"^chan\"", "\"^chan\"\nbusy = 2.0", "/own.toml:2: rule nil-channel: busy"),
        ("\"^chan\"", "\"^chan\"\nframes = ['a(']", "/own.toml:12: \"a(\" is no regular expression"),
        ("\"own-class\"", "\"Own class\"", "/own.toml:2: id \"nil-channel\" and class \"Own class\""),
        ("title = \"t\"", "title = t", "/own.toml:4: "),
    ];
    for (from, to, expected) in cases {
        let err = with(&RULE.replace(from, to)).unwrap_err();
        assert!(err.starts_with(expected), "{err}\n{expected}");
        assert!(!err.contains('\n'), "{err}");
    }
    let err = with(&format!("{RULE}{RULE}")).unwrap_err();
    assert!(err.contains("two rules with the id nil-channel"), "{err}");
    let none = Rules::built_in().unwrap().with_directory("/does/not/exist".as_ref());
    assert!(none.unwrap_err().to_string().starts_with("cannot read the rules in /does/not/exist"));
}
