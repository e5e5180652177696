//! `sfgi ps`, and what stands in for a process that a command was not told of.

use anyhow::{Context, Result, ensure};
use live_tests::{
    fixture::{self, Variant},
    process::Process,
    sfgi,
    toolchain::Go,
};
use serde_json::Value;

use crate::harness::{Test, live};

pub(crate) fn tests() -> Vec<Test> {
    vec![
        live(a_go_process_is_listed_with_what_can_be_done).quick(),
        live(a_command_without_a_process_lists_them).quick(),
    ]
}

fn a_go_process_is_listed_with_what_can_be_done() -> Result<()> {
    let go = Go::newest();
    let target = fixture::start("idle", &go, Variant::Stripped, &["-n", "40"])?;
    let mut ps = Process::spawn(&mut sfgi::command(&["ps", "--format", "json"])?)?;
    ps.wait_code(sfgi::ATTACH, 0)?;
    let document: Value = serde_json::from_str(&ps.stdout.text())?;
    ensure!(document["schema"] == "sfgi.ps/1", "{document}");
    let rows = document["processes"].as_array().context("no list")?;
    let row = rows.iter().find(|row| row["pid"] == target.pid()).context("it is not listed")?;
    ensure!(
        row["go_version"] == format!("go{}", go.version)
            && row["user"] == "root"
            && row["package"] == "fixtures/idle",
        "{row}"
    );
    ensure!(row["goroutines"].as_u64() >= Some(40), "{row}");
    ensure!(row["can"] == serde_json::json!(["dump", "leaks", "trace"]), "{row}");
    Ok(())
}

fn a_command_without_a_process_lists_them() -> Result<()> {
    let go = Go::newest();
    let target = fixture::start("idle", &go, Variant::Stripped, &["-n", "4"])?;
    for (args, way) in [
        (&["trace"][..], "sfgi trace -- CMD"),
        (&["top", "-b", "1"], "sfgi top -- CMD"),
        (&["record"], "sfgi record -o FILE -- CMD"),
        (&["dump"], "--core FILE --exe FILE"),
        (&["leaks"], "--core FILE --exe FILE"),
    ] {
        let mut command = Process::spawn(&mut sfgi::command(args)?)?;
        command.wait_code(sfgi::ATTACH, 2)?;
        let (stdout, stderr) = (command.stdout.text(), command.stderr.text());
        let pid = target.pid().to_string();
        let listed = stderr.lines().any(|line| line.split_whitespace().next() == Some(&pid));
        ensure!(stdout.is_empty() && listed && stderr.contains(way), "{args:?}: {stdout}\n{stderr}");
    }
    Ok(())
}
