//! `trace -- CMD` under sudo: the command runs as the user who called, not as root.

use std::{fs::Permissions, os::unix::fs::PermissionsExt as _, time::Duration};

use anyhow::{Context, Result, ensure};
use live_tests::{
    fixture::{Own, Variant},
    machine,
    process::Process,
    sfgi::{self, fails},
    toolchain::Go,
};

use crate::harness::{Test, live};

pub(crate) fn tests() -> Vec<Test> {
    vec![live(a_command_runs_as_the_user_who_called_sudo), live(a_user_that_is_not_there_is_refused)]
}

const SOON: Duration = Duration::from_secs(60);
/// The user `nobody`.
const NOBODY: &str = "65534";

/// The four user ids, and the supplementary groups, of the launched command.
fn ids(sfgi: &Process) -> Result<(String, String)> {
    let child = *machine::children(sfgi.pid())?.first().context("no child")?;
    let command = *machine::children(child)?.first().context("no command")?;
    let status = std::fs::read_to_string(format!("/proc/{command}/status"))?;
    let field = |name: &str| {
        let line = status.lines().find_map(|line| line.strip_prefix(name));
        line.map(|line| line.split_whitespace().collect::<Vec<_>>().join(" ")).with_context(|| status.clone())
    };
    Ok((field("Uid:")?, field("Groups:")?))
}

fn a_command_runs_as_the_user_who_called_sudo() -> Result<()> {
    let own = Own::new("workers", &Go::newest(), Variant::Plain)?;
    let exe = own.exe.to_str().context("its name is text")?;
    let dir = tempfile::Builder::new().permissions(Permissions::from_mode(0o777)).tempdir()?;
    let output = dir.path().join("events").display().to_string();
    let nobody = "65534 65534 65534 65534";
    type Case<'a> = (&'a [&'a str], &'a [(&'a str, &'a str)], &'a str);
    let cases: [Case<'_>; 5] = [
        (&[], &[], "0 0 0 0"),
        (&[], &[("SUDO_UID", NOBODY), ("SUDO_GID", NOBODY)], nobody),
        (&["--user", "nobody"], &[], nobody),
        (&["--user", NOBODY], &[], nobody),
        (&["--user", "root"], &[("SUDO_UID", NOBODY), ("SUDO_GID", NOBODY)], "0 0 0 0"),
    ];
    for command in [&["trace", "-o"][..], &["record", "-o"]] {
        for (number, (args, environment, expected)) in cases.into_iter().enumerate() {
            // The commands share what starts the other one: of the second, the case that counts.
            if command[0] == "record" && number != 1 {
                continue;
            }
            let mut run = sfgi::command(command)?;
            run.arg(&output).args(args).args(["--", exe, "-d", "1h"]);
            run.env_remove("SUDO_UID").env_remove("SUDO_GID").envs(environment.iter().copied());
            let sfgi = sfgi::attached(&mut run)?;
            std::thread::sleep(Duration::from_millis(300));
            let (uids, groups) = ids(&sfgi)?;
            ensure!(uids == expected, "{command:?} {args:?} {environment:?}: {uids}");
            ensure!(
                expected.starts_with('0') || !groups.split(' ').any(|group| group == "0"),
                "in group root: {groups}"
            );
            sfgi.signal(rustix::process::Signal::INT)?;
            let mut sfgi = sfgi;
            sfgi.wait_code(SOON, 0)?;
            std::fs::remove_file(&output)?;
        }
    }
    Ok(())
}

fn a_user_that_is_not_there_is_refused() -> Result<()> {
    let own = Own::new("workers", &Go::newest(), Variant::Plain)?;
    let exe = own.exe.to_str().context("its name is text")?;
    fails(
        &mut sfgi::command(&["trace", "--user", "no-such-user", "--", exe])?,
        1,
        &["there is no user no-such-user", "--user"],
    )?;
    fails(&mut sfgi::command(&["trace", "--user", "root", "-p", "1"])?, 2, &["--user"])
}
