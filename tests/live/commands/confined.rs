//! What a command still may do while it looks at a program, as the kernel tells it.

use std::{
    fs,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, ensure};
use live_tests::{
    fixture::{self, Variant},
    machine,
    process::Process,
    sfgi,
    toolchain::Go,
};
use serde_json::Value;

use crate::harness::{Test, live};

pub(crate) fn tests() -> Vec<Test> {
    vec![live(each_command_keeps_what_it_needs_only), live(what_is_in_force_is_told).quick()]
}

const SOON: Duration = Duration::from_secs(60);

/// Bits of `CapEff` (`include/uapi/linux/capability.h`).
const DAC_READ_SEARCH: u64 = 1 << 2;
const SYS_PTRACE: u64 = 1 << 19;
const PERFMON: u64 = 1 << 38;
const BPF: u64 = 1 << 39;

fn field(pid: u32, name: &str) -> Result<String> {
    let status = fs::read_to_string(format!("/proc/{pid}/status"))?;
    let line = status.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'));
    Ok(line.with_context(|| format!("no {name}"))?.trim().to_owned())
}

/// Waits until the process is confined, and says which capabilities it has left.
fn capabilities(pid: u32) -> Result<u64> {
    let deadline = Instant::now() + SOON;
    while field(pid, "Seccomp")? != "2" {
        ensure!(Instant::now() < deadline, "process {pid} is not confined");
        std::thread::sleep(Duration::from_millis(10));
    }
    ensure!(field(pid, "NoNewPrivs")? == "1", "process {pid} may get new privileges");
    let sets = ["CapEff", "CapPrm", "CapBnd", "CapInh", "CapAmb"].map(|name| field(pid, name));
    let [effective, permitted, bounding, inheritable, ambient] = sets;
    let effective = effective?;
    ensure!(permitted? == effective && bounding? == effective, "process {pid} can get more");
    ensure!([inheritable?, ambient?].iter().all(|set| set.trim_matches('0').is_empty()), "process {pid}");
    Ok(u64::from_str_radix(&effective, 16)?)
}

fn each_command_keeps_what_it_needs_only() -> Result<()> {
    let target = fixture::start("workers", &Go::newest(), Variant::Plain, &["-d", "1h"])?;
    let pid = target.pid().to_string();
    let reading = DAC_READ_SEARCH | SYS_PTRACE;
    let commands: [(&[&str], u64); 3] = [
        (&["leaks", "--watch=1h", "--no-heap"], reading | PERFMON),
        (&["trace", "-c"], reading | PERFMON | BPF),
        (&["top", "-b", "999"], reading | PERFMON | BPF),
    ];
    for (command, expected) in commands {
        let sfgi = Process::spawn(sfgi::command(command)?.args(["-p", &pid]))?;
        let deadline = Instant::now() + SOON;
        let child = loop {
            if let Some(child) = machine::children(sfgi.pid())?.first() {
                break *child;
            }
            ensure!(Instant::now() < deadline, "{command:?} has no child");
            std::thread::sleep(Duration::from_millis(5));
        };
        let left = capabilities(child).with_context(|| format!("{command:?}"))?;
        ensure!(left == expected, "{command:?} has {left:#x}, expected {expected:#x}");
        let parent = capabilities(sfgi.pid()).with_context(|| format!("{command:?}"))?;
        ensure!(parent == 0, "the parent of {command:?} has {parent:#x}");
        // Every thread that reads is confined as well.
        for task in fs::read_dir(format!("/proc/{child}/task"))? {
            let Ok(status) = fs::read_to_string(task?.path().join("status")) else { continue };
            ensure!(status.contains("Seccomp:\t2"), "{command:?}:\n{status}");
            ensure!(status.contains(&format!("CapEff:\t{expected:016x}")), "{command:?}:\n{status}");
        }
    }
    Ok(())
}

fn what_is_in_force_is_told() -> Result<()> {
    let mut text = Process::spawn(&mut sfgi::command(&["doctor"])?)?;
    text.wait_code(sfgi::ATTACH, 0)?;
    let text = text.stdout.text();
    let line = text.lines().find(|line| line.starts_with("confined ")).with_context(|| text.clone())?;
    for word in ["no new privileges", "CAP_SYS_PTRACE", "seccomp in force", "Landlock"] {
        ensure!(line.contains(word), "no {word:?} in {line}");
    }
    ensure!(!line.contains("CAP_SYS_ADMIN"), "{line}");
    let mut json = Process::spawn(&mut sfgi::command(&["doctor", "--format", "json"])?)?;
    json.wait_code(sfgi::ATTACH, 0)?;
    let document: Value = serde_json::from_str(&json.stdout.text())?;
    ensure!(
        document["schema"] == "sfgi.doctor/1" && document["refused"] == serde_json::json!([]),
        "{document}"
    );
    let confined = &document["confined"];
    ensure!(confined["no_new_privs"] == true && confined["seccomp"] == "in force", "{document}");
    Ok(())
}
