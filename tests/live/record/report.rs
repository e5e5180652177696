//! What `sfgi report` makes of a recording, held against the text it should be. Needs no root and no Go.
//!
//! `recordings/shop.sfgi` is 1.2 seconds of the fixture `faults` under Go 1.26.6, as `sfgi record --sched --leaks`
//! wrote it. After a change that is wanted, `SFGI_EXPECT=1 cargo test -p live-tests --test live -- record::report` writes the texts
//! anew: read the difference.

use std::{env, fs, path::Path};

use crate::harness::{Test, plain};
use anyhow::{Context, Result, ensure};
use live_tests::sfgi;

pub(crate) fn tests() -> Vec<Test> {
    vec![plain(a_recording_is_shown_as_it_was_seen).quick()]
}

/// A text, and what makes it. Every option of `report` that chooses occurs.
const CASES: [(&str, &[&str]); 16] = [
    ("all", &["--until", "150ms"]),
    ("stacks", &["--stacks", "-e", "found,unblock", "--until", "200ms"]),
    ("long-stacks", &["--stacks=100ms", "-e", "unblock", "--min", "100ms"]),
    ("min", &["--min", "50ms"]),
    ("create-exit", &["-e", "create,exit"]),
    ("func", &["--func", r"\(\*shop\)\.book$"]),
    ("goid", &["--goid", "1"]),
    ("syscalls", &["-e", "syscall"]),
    ("threads", &["-e", "sched", "--until", "60ms"]),
    ("nothing", &["-e", "illegal"]),
    ("summary", &["-c"]),
    ("summary-json", &["-c", "--format", "json"]),
    ("json", &["--format", "json", "--until", "60ms"]),
    ("info", &["--info"]),
    ("leaks", &["--leaks"]),
    ("top", &["--top", "--at", "1s"]),
];

fn a_recording_is_shown_as_it_was_seen() -> Result<()> {
    let recordings = Path::new(env!("CARGO_MANIFEST_DIR")).join("recordings");
    let recording = recordings.join("shop.sfgi");
    let mut wrong = Vec::new();
    for (name, args) in CASES {
        let output = sfgi::command(&["report"])?.args(args).arg(&recording).output()?;
        ensure!(output.status.success(), "{name}: {}", String::from_utf8_lossy(&output.stderr));
        let shown = String::from_utf8(output.stdout)?;
        let file = recordings.join("shop").join(format!("{name}.txt"));
        if env::var_os("SFGI_EXPECT").is_some() {
            fs::create_dir_all(recordings.join("shop"))?;
            fs::write(&file, &shown)?;
        }
        let expected = fs::read_to_string(&file).with_context(|| file.display().to_string())?;
        if let Some((at, (shown, expected))) =
            shown.lines().zip(expected.lines()).enumerate().find(|(_, (shown, expected))| shown != expected)
        {
            wrong.push(format!("{name}, line {}:\n  shown:    {shown}\n  expected: {expected}", at + 1));
        } else if shown != expected {
            wrong.push(format!("{name}: {} lines, not {}", shown.lines().count(), expected.lines().count()));
        }
    }
    ensure!(wrong.is_empty(), "{}", wrong.join("\n"));
    Ok(())
}
