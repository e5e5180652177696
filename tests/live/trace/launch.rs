//! `sfgi trace -- CMD`: nothing is missed from the first goroutine on.

use crate::harness::{Test, live};
use anyhow::Result;
use live_tests::{
    fixture::{self, Variant},
    process::Process,
    sfgi::{self, Event},
    toolchain::Go,
};

pub(crate) fn tests() -> Vec<Test> {
    vec![
        live(the_first_goroutine_is_seen_from_its_creation_on),
        live(the_programs_exit_code_is_not_sfgis).quick(),
    ]
}

fn the_first_goroutine_is_seen_from_its_creation_on() -> Result<()> {
    for go in Go::all() {
        let dir = tempfile::tempdir()?;
        let output = dir.path().join("events");
        let binary = fixture::build("workers", &go, Variant::Plain)?;
        let mut command = sfgi::command(&["trace", "--format", "json", "-o"])?;
        command.arg(&output).arg("--").arg(binary).args(["-n", "1"]);
        let mut sfgi = Process::spawn(&mut command)?;
        sfgi.wait_code(sfgi::ATTACH + sfgi::END, 0)?;

        // The program's own output comes through.
        assert!(sfgi.stdout.text().ends_with(" done"), "go{}: {}", go.version, sfgi.stdout.text());
        let events = sfgi::events(&std::fs::read_to_string(&output)?)?;
        sfgi::none_illegal(&events)?;
        let main: Vec<&Event> = events.iter().filter(|event| event.goid == Some(1)).collect();
        let first: Vec<&str> = main.iter().take(2).map(|event| event.event.as_str()).collect();
        assert_eq!(first, ["create", "start"], "go{}: goroutine 1 begins with {main:#?}", go.version);
        let created = events.iter().filter(|event| is_made_by_batch(event)).count();
        assert_eq!(created, 10, "go{}: goroutines of batch created", go.version);
    }
    Ok(())
}

/// `batch` starts its workers, a feeder and one that closes.
fn is_made_by_batch(event: &Event) -> bool {
    event.event == "create" && event.func.as_deref() == Some("main.batch")
}

fn the_programs_exit_code_is_not_sfgis() -> Result<()> {
    // Go 1.19 cannot do coroutines: the fixture says so and fails.
    let go = Go::all().remove(0);
    let binary = fixture::build("coro", &go, Variant::Plain)?;
    let mut command = sfgi::command(&["trace", "--format", "json", "--"])?;
    let mut sfgi = Process::spawn(command.arg(binary))?;
    sfgi.wait_code(sfgi::ATTACH + sfgi::END, 0)?;
    assert!(sfgi.stderr.text().contains("coroutines need Go 1.23"), "{}", sfgi.stderr.text());
    Ok(())
}
