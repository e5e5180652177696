//! `sfgi agent --config`: what is refused, and what a reload does.

use std::{fs, path::Path};

use crate::harness::{Test, live};
use anyhow::{Result, ensure};
use live_tests::{
    agent_http::{self, Agent, LONGEST},
    fixture::{self, Variant},
    process::Process,
    sfgi::{self, fails},
    toolchain::Go,
};
use rustix::process::Signal;

pub(crate) fn tests() -> Vec<Test> {
    vec![
        live(a_configuration_is_checked_without_anything_being_watched).quick(),
        live(what_cannot_be_had_is_said_before_anything_is_watched),
        live(a_reload_takes_what_is_right_and_keeps_what_is_known),
    ]
}

fn example() -> std::path::PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../deploy/sfgi.toml")
}

fn a_configuration_is_checked_without_anything_being_watched() -> Result<()> {
    let directory = tempfile::tempdir()?;
    let check = |file: &Path| {
        sfgi::command(&["agent".as_ref(), "--check-config".as_ref(), "--config".as_ref(), file.as_os_str()])
    };
    let mut right = Process::spawn(&mut check(&example())?)?;
    right.wait_code(LONGEST, 0)?;
    let wrong = directory.path().join("wrong.toml");
    for (text, words) in [
        ("[scan]\nintervall = \"1s\"\n", &["wrong.toml, line 2", "did you mean `interval`?"][..]),
        ("[http]\nlisten = \"127.0.0.1\"\n", &["wrong.toml, line 2"]),
        ("[budget]\nnode = \"0%\"\n", &["budget.node"]),
        ("[[rule]]\nmatch = { exe = \"(\" }\n", &["no regular expression"]),
    ] {
        fs::write(&wrong, text)?;
        fails(&mut check(&wrong)?, 1, words)?;
    }
    fails(&mut check(&directory.path().join("none.toml"))?, 1, &["none.toml"])
}

fn what_cannot_be_had_is_said_before_anything_is_watched() -> Result<()> {
    let directory = tempfile::tempdir()?;
    let token = directory.path().join("token");
    fs::write(&token, "short")?;
    let token = token.to_string_lossy();
    let refuses = |args: &[&str], word| {
        fails(agent_http::command(args)?.env_remove(agent_http::TOKEN_VARIABLE), 1, &[word])
    };
    refuses(&["--listen", "0.0.0.0:0"], "can be reached from other machines")?;
    refuses(&["--listen", "[::]:0"], "can be reached from other machines")?;
    refuses(&["--listen", "0.0.0.0:0", "--token-file", &token], "openssl rand")?;
    refuses(&["--listen", "0.0.0.0:0", "--token-file", "/does/not/exist"], "cannot read the token")?;
    refuses(&["--store", "/proc/history"], "/proc/history")?;
    let agent = Agent::start(&["--include", "^/nothing$"])?;
    refuses(&["--listen", &agent.address.to_string()], "cannot listen on")
}

fn a_reload_takes_what_is_right_and_keeps_what_is_known() -> Result<()> {
    let target =
        fixture::start_own("leaks", &Go::newest(), Variant::Plain, &["-class", "send-without-receiver"])?;
    let directory = tempfile::tempdir()?;
    let file = directory.path().join("sfgi.toml");
    let exe = fs::read_link(format!("/proc/{}/exe", target.pid()))?;
    let base = format!(
        "[[include]]\nexe = '^{}$'\n[leaks]\nmin_age = \"1s\"\n[http]\nlisten = \"127.0.0.1:0\"\n",
        exe.display()
    );
    fs::write(&file, &base)?;
    let agent = Agent::start(&["--config", &file.to_string_lossy()])?;
    let found = |document: &serde_json::Value| document.as_array().is_some_and(|leaks| !leaks.is_empty());
    let before = agent.until("/sfgi/leaks", found)?;
    ensure!(agent.json("/sfgi/processes")?[0]["service"] != "renamed");

    let reload = |text: &str, said: &str| {
        fs::write(&file, text)?;
        let seen = agent.process.stderr.lines().len();
        agent.process.signal(Signal::HUP)?;
        agent.process.stderr.wait_for(LONGEST, |line| line.contains(said))?;
        ensure!(agent.process.stderr.lines().len() > seen);
        Ok(())
    };
    reload("[scam]\n", "did you mean `scan`?")?;
    let rule = format!("{base}[[rule]]\nmatch = {{ exe = '^{}$' }}\nservice = \"renamed\"\n", exe.display());
    reload(&rule, "changed: core")?;
    agent.until("/sfgi/processes", |document| document[0]["service"] == "renamed")?;
    let after = agent.json("/sfgi/leaks")?;
    ensure!(after[0]["first_seen_unix_ms"] == before[0]["first_seen_unix_ms"], "{before} became {after}");
    reload(&rule.replace("127.0.0.1:0", "127.0.0.1:1"), "restart sfgi for http.listen")
}
