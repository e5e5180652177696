//! `sfgi top` on a terminal of its own and as pages of text, against a service in which things go wrong.

use std::{fs, process::Command, time::Duration};

use crate::harness::{Test, live};
use anyhow::{Context, Result};
use live_tests::{
    fixture::{self, Variant},
    machine,
    process::Process,
    screen::Terminal,
    sfgi,
    toolchain::Go,
};

pub(crate) fn tests() -> Vec<Test> {
    vec![
        live(keys_lead_from_a_place_to_a_goroutine_and_back),
        live(leaks_are_found_while_the_table_goes_on),
        live(a_signal_gives_the_terminal_back_and_a_kill_leaves_nothing_in_the_kernel),
        live(pages_of_text_with_probes_and_without).quick(),
        live(programs_of_old_versions),
        live(two_processes_and_one_that_ends),
        live(wrong_usage).quick(),
    ]
}

/// Far longer than anything here takes on a machine that has something else to do.
const SOON: Duration = Duration::from_secs(60);
const SIZE: (u16, u16) = (80, 24);

/// The service, at work until it is killed.
fn service() -> Result<Process> {
    service_of(&Go::newest())
}

fn service_of(go: &Go) -> Result<Process> {
    let mut target = fixture::start("faults", go, Variant::Plain, &["-d", "1h"])?;
    target.say()?;
    Ok(target)
}

/// `sfgi top ARGS…` at the service on a terminal, when it shows its first table.
fn on_terminal(name: &str, target: &Process, args: &str) -> Result<Terminal> {
    let terminal = Terminal::new(name, SIZE)?;
    let binary = sfgi::binary()?;
    terminal.type_in(&format!("{} top -p {} {args}", binary.display(), target.pid()))?;
    terminal.press(&["Enter"])?;
    terminal.wait_for(SOON, "the table", |text| text.contains("REASON") && text.contains("main."))?;
    Ok(terminal)
}

/// The process that runs sfgi on it.
fn pid_of(terminal: &Terminal) -> Result<u32> {
    let shell: u32 = terminal.state("#{pane_pid}")?.parse()?;
    // `env` replaced itself by the shell, so sfgi is its child.
    let children = fs::read_to_string(format!("/proc/{shell}/task/{shell}/children"))?;
    children.split_whitespace().next().context("the shell has no child")?.parse().context("a process id")
}

/// The alternate screen, the mouse, and the echo of what is typed.
fn is_as_before(terminal: &Terminal) -> Result<()> {
    terminal.wait_for(SOON, "the prompt", |text| text.trim_end().ends_with("prompt>"))?;
    assert_eq!(terminal.state("#{alternate_on} #{mouse_any_flag} #{cursor_flag}")?, "0 0 1");
    terminal.type_in("echo $((6 * 7))")?;
    terminal.press(&["Enter"])?;
    terminal.wait_for(SOON, "the echo", |text| text.contains("prompt> echo $((6 * 7))\n42\n")).map(drop)
}

fn keys_lead_from_a_place_to_a_goroutine_and_back() -> Result<()> {
    let target = service()?;
    let terminal = on_terminal("keys", &target, "")?;
    let objects = machine::bpf_objects_of(pid_of(&terminal)?)?;
    assert!(objects.iter().any(|object| object.starts_with("prog")), "{objects:?}");

    terminal.press(&["2"])?;
    terminal.wait_for(SOON, "what grows", |text| {
        // The first row is the fault that makes most: each quote leaves a goroutine behind.
        let rows: Vec<&str> = text.lines().skip_while(|line| !line.contains("ALIVE")).skip(1).collect();
        rows.first().is_some_and(|row| row.contains("main.askSupplier") && row.contains('+'))
    })?;
    terminal.press(&["4", "/"])?;
    terminal.type_in("askSupplier")?;
    terminal.press(&["Enter"])?;
    terminal.wait_for(SOON, "those that match", |text| {
        text.contains("/askSupplier/") && text.contains("chan send") && !text.contains("main.(*shop).book")
    })?;
    terminal.press(&["Home", "Enter"])?;
    terminal.wait_for(SOON, "the goroutine with its stack and its channel", |text| {
        let stack = text.contains("main.askSupplier(") && text.contains("main.go:");
        stack && text.contains("chan 0x") && text.contains("GOROUTINE") && text.contains("main.(*shop).quote")
    })?;
    terminal.press(&["Escape"])?;
    terminal.wait_for(SOON, "the table again", |text| text.contains("RUNQ"))?;
    terminal.press(&["Escape"])?;
    terminal.wait_for(SOON, "all goroutines", |text| !text.contains("/askSupplier/"))?;
    terminal.press(&["1", "p"])?;
    terminal.wait_for(SOON, "the pause", |text| text.contains("PAUSED"))?;
    terminal.press(&["p", "?"])?;
    terminal.wait_for(SOON, "the help", |text| text.contains("KEYS"))?;
    terminal.press(&["Escape"])?;
    terminal.resize((120, 30))?;
    terminal.wait_for(SOON, "more columns", |text| text.contains("TOTAL"))?;

    terminal.press(&["q"])?;
    is_as_before(&terminal)?;
    machine::nothing_left(&objects)
}

fn leaks_are_found_while_the_table_goes_on() -> Result<()> {
    let target = service()?;
    let terminal = on_terminal("leaks", &target, "--no-colour")?;
    terminal.press(&["L"])?;
    terminal.wait_for(SOON, "the search", |text| text.contains("LEAKS"))?;
    terminal.press(&["Escape"])?;
    terminal.wait_for(SOON, "the table", |text| text.contains("RATE/s"))?;
    terminal.press(&["l"])?;
    terminal
        .wait_for(SOON, "what is leaked", |text| text.contains("proven") && text.contains("goroutines"))?;
    terminal.press(&["C-c"])?;
    is_as_before(&terminal)
}

fn a_signal_gives_the_terminal_back_and_a_kill_leaves_nothing_in_the_kernel() -> Result<()> {
    let mut target = service()?;
    for (signal, orderly) in [("TERM", true), ("KILL", false)] {
        let terminal = on_terminal(signal, &target, "")?;
        let pid = pid_of(&terminal)?;
        let objects = machine::bpf_objects_of(pid)?;
        assert!(!objects.is_empty());
        Command::new("kill").args(["-s", signal, &pid.to_string()]).status()?;
        if orderly {
            is_as_before(&terminal)?;
        }
        machine::nothing_left(&objects)?;
    }
    let error = target.wait(Duration::from_millis(500)).expect_err("the service must not end with sfgi");
    assert!(error.to_string().contains("did not end"), "{error:#}");
    Ok(())
}

/// The cells of a row by the headings, of a page of text.
fn number(page: &str, row: &str, title: &str) -> Result<String> {
    let heading = page.lines().find(|line| line.contains("WHERE")).context("no headings")?;
    let row =
        page.lines().find(|line| line.contains(row)).with_context(|| format!("no row {row}:\n{page}"))?;
    let end = heading.find(title).context("no such column")? + title.len();
    let cells: Vec<char> = row.chars().collect();
    let columns = heading.get(..end).unwrap_or(heading).chars().count();
    let text: String = cells[..columns.min(cells.len())].iter().collect();
    Ok(text.split_whitespace().next_back().unwrap_or_default().to_owned())
}

fn pages(target: &Process, args: &[&str]) -> Result<(String, String)> {
    let pid = target.pid().to_string();
    let mut sfgi = Process::spawn(sfgi::command(&["top", "-p", &pid, "--filter", "^main\\."])?.args(args))?;
    sfgi.wait_code(SOON, 0)?;
    Ok((sfgi.stdout.text(), sfgi.stderr.text()))
}

fn pages_of_text_with_probes_and_without() -> Result<()> {
    let target = service()?;
    let (traced, _) = pages(&target, &["-b", "2", "--every", "2s"])?;
    assert_eq!(traced.matches("1 wait sites").count(), 2, "{traced}");
    let last = traced.rsplit("PID ").next().unwrap_or_default();
    // The customer sleeps after each request: ten a second, a little fewer for the time they take.
    let rate: f64 = number(last, "main.customers", "RATE/s")?.parse()?;
    assert!((1.0..=11.0).contains(&rate), "{rate} a second:\n{last}");

    let (polled, _) = pages(&target, &["-b", "2", "--every", "1s", "--mode", "poll"])?;
    let last = polled.rsplit("PID ").next().unwrap_or_default();
    assert_eq!(number(last, "main.askSupplier", "RATE/s")?, "-", "{last}");
    let waiting: u64 = number(last, "main.askSupplier", "NOW")?.replace(',', "").parse()?;
    assert!(waiting > 0, "{last}");
    Ok(())
}

fn programs_of_old_versions() -> Result<()> {
    let all: Vec<Go> = Go::all().into_iter().filter(|go| fixture::supported("faults", go)).collect();
    for go in [&all[0], &all[all.len() / 2]] {
        let target = service_of(go)?;
        for mode in ["wait", "poll"] {
            let (text, _) = pages(&target, &["-b", "2", "--every", "1s", "--mode", mode])?;
            let last = text.rsplit("PID ").next().unwrap_or_default();
            let waiting = number(last, "main.askSupplier", "NOW")
                .with_context(|| format!("go{} --mode {mode}", go.version))?;
            assert_ne!(waiting, "0", "go{} --mode {mode}:\n{last}", go.version);
        }
    }
    Ok(())
}

fn two_processes_and_one_that_ends() -> Result<()> {
    let mut targets = [service()?, service()?];
    let pids = [&targets[0], &targets[1]].map(|target| target.pid().to_string());
    let mut command =
        sfgi::command(&["top", "-p", &pids[0], "-p", &pids[1], "-b", "1000", "--every", "500ms"])?;
    let mut sfgi = Process::spawn(&mut command)?;
    for pid in &pids {
        sfgi.stdout
            .wait_for(SOON, |line| line.trim_start().starts_with(pid.as_str()) && line.contains("main."))?;
    }
    for target in &mut targets {
        target.signal(rustix::process::Signal::KILL)?;
    }
    // Nothing more comes of either.
    sfgi.wait_code(SOON, 0)
}

fn wrong_usage() -> Result<()> {
    let target = service()?;
    let pid = target.pid().to_string();
    let wrong: [(&[&str], i32, &str); 5] = [
        (&["--every", "1ms", "-b", "1"], 2, "100ms"),
        (&["--filter", "(", "-b", "1"], 2, "("),
        (&["--sort", "taste", "-b", "1"], 1, "RATE/s"),
        (&["-b", "0"], 2, "0"),
        (&[], 1, "--batch"),
    ];
    for (args, code, word) in wrong {
        sfgi::fails(sfgi::command(&["top", "-p", &pid])?.args(args), code, &[word])?;
    }
    sfgi::fails(&mut sfgi::command(&["top", "-p", "4194303", "-b", "1"])?, 1, &["4194303", "no process"])
}
