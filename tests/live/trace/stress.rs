//! All fixtures together, of all releases, for a while (`SFGI_STRESS_SECS`, default 60): nothing
//! that the runtime does by itself is called illegal, however busy the machine and whatever is lost.

use std::{env, time::Duration};

use crate::harness::{Test, live};
use anyhow::Result;
use live_tests::{
    fixture::{self, Variant},
    machine,
    process::Process,
    sfgi,
    toolchain::Go,
};

pub(crate) fn tests() -> Vec<Test> {
    vec![live(nothing_legal_is_called_illegal).alone()]
}

fn nothing_legal_is_called_illegal() -> Result<()> {
    let secs =
        env::var("SFGI_STRESS_SECS").map_or(60, |text| text.parse().expect("SFGI_STRESS_SECS is a number"));
    let mut targets = start_all(&format!("{secs}s"))?;
    let pids: Vec<String> = targets.iter().map(|target| target.pid().to_string()).collect();
    let mut args = vec!["trace", "-e", "illegal", "--format", "json"];
    args.extend(pids.iter().flat_map(|pid| ["-p", pid]));
    let mut sfgi = Process::spawn(&mut sfgi::command(&args)?)?;
    for pid in &pids {
        let attached = format!("attached to PID {pid}");
        sfgi.stderr.wait_for(sfgi::ATTACH * 4, |line| line.contains(&attached))?;
    }
    for target in &mut targets {
        target.say()?;
    }
    for target in &mut targets {
        target.wait_code(Duration::from_secs(secs + 240), 0)?;
    }
    sfgi.wait_code(sfgi::END, 0)?;
    machine::report(&sfgi.stderr.text());
    sfgi::none_illegal(&sfgi::events(&sfgi.stdout.text())?)?;
    Ok(())
}

/// Each fixture that does nothing illegal and stays what it is, built by another release and in
/// another way.
fn start_all(duration: &str) -> Result<Vec<Process>> {
    let all = Go::all();
    let names = fixture::ALL.into_iter().filter(|name| !["illegal", "children"].contains(name));
    names
        .enumerate()
        .map(|(i, name)| {
            let usable: Vec<&Go> = all.iter().filter(|go| fixture::supported(name, go)).collect();
            let go = usable[i % usable.len()];
            let variants = Variant::all(go);
            fixture::start(name, go, variants[i % variants.len()], &["-d", duration])
        })
        .collect()
}
