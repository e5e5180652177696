//! `sfgi dump --core`: a core file shows what the live process showed.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
    time::Duration,
};

use crate::harness::{Need, Test, live};
use anyhow::{Context, Result, ensure};
use live_tests::{
    crowd::Crowd,
    dump,
    fixture::{self, Variant},
    machine,
    toolchain::Go,
    traceback,
};
use rustix::process::Signal;

pub(crate) fn tests() -> Vec<Test> {
    vec![
        live(of_gcore),
        live(of_a_crash).needs(Need::CoreFiles),
        live(truncated),
        live(of_arm64).needs(Need::Unpacked("qemu-aarch64-static")),
    ]
}

/// Releases whose cores are read: one for each form of pclntab, and the newest.
const RELEASES: [u32; 3] = [19, 24, 27];

const SOON: Duration = Duration::from_secs(120);

/// Runs `check` on these releases, plain and stripped.
fn each_build(check: impl Fn(&Go, Variant) -> Result<()>) -> Result<()> {
    for go in Go::all().iter().filter(|go| RELEASES.contains(&go.minor)) {
        for variant in [Variant::Plain, Variant::PieStripped] {
            check(go, variant).with_context(|| format!("go{} {variant}", go.version))?;
        }
    }
    Ok(())
}

/// The core holds what stands still, in full.
fn agrees(crowd: &Crowd, core: &Path, exe: &Path) -> Result<()> {
    let text = dump::text(&["--core", utf8(core)?, "--exe", utf8(exe)?])?;
    let shown = traceback::parse(&text)?;
    let in_motion = crowd.agrees(&shown)?;
    ensure!(in_motion == 0, "{in_motion} are in motion, in a core");
    let json =
        dump::document(&dump::text(&["--core", utf8(core)?, "--exe", utf8(exe)?, "--format", "json"])?)?;
    ensure!(
        json.unreadable == 0 && json.goroutines.len() == shown.len(),
        "the JSON: {}",
        json.goroutines.len()
    );
    Ok(())
}

fn utf8(path: &Path) -> Result<&str> {
    path.to_str().context("a name in UTF-8")
}

fn of_gcore() -> Result<()> {
    each_build(|go, variant| {
        let mut crowd = Crowd::start(go, variant)?;
        crowd.set_in_motion()?;
        let dir = tempfile::tempdir()?;
        let core = dump::gcore(&crowd.pid(), dir.path())?;
        agrees(&crowd, &core, &fixture::build("crowd", go, variant)?)
    })
}

/// The kernel's own: the runtime of a program with `GOTRACEBACK=crash` aborts itself.
fn of_a_crash() -> Result<()> {
    each_build(|go, variant| {
        let dir = tempfile::tempdir()?;
        let exe = fixture::build("crowd", go, variant)?;
        let mut shell = Command::new("sh");
        shell.args(["-c", "ulimit -c unlimited && exec \"$0\""]).arg(&exe);
        let process = fixture::start_command(shell.env("GOTRACEBACK", "crash").current_dir(dir.path()))?;
        let mut crowd = Crowd::of(process)?;
        crowd.process.signal(Signal::ABORT)?;
        crowd.process.wait(SOON)?;
        let core = file(dir.path(), |name| name.starts_with("core"))?;
        agrees(&crowd, &core, &exe)
    })
}

/// The file in the directory with such a name.
fn file(dir: &Path, wanted: impl Fn(&str) -> bool) -> Result<PathBuf> {
    let names = fs::read_dir(dir)?.map(|entry| Ok(entry?.file_name())).collect::<Result<Vec<_>>>()?;
    let name = names.iter().find(|name| wanted(&name.to_string_lossy()));
    Ok(dir.join(name.with_context(|| format!("no core; there are {names:?}"))?))
}

/// A core that was cut off shows what is in it, and says that it was cut off; what it shows is right.
fn truncated() -> Result<()> {
    let go = Go::newest();
    let crowd = Crowd::start(&go, Variant::Plain)?;
    let exe = fixture::build("crowd", &go, Variant::Plain)?;
    let dir = tempfile::tempdir()?;
    let core = dump::gcore(&crowd.pid(), dir.path())?;
    let whole = fs::metadata(&core)?.len();
    let file = fs::OpenOptions::new().write(true).open(&core)?;
    for percent in (0..100).rev().step_by(3) {
        file.set_len(whole * percent / 100)?;
        let output = dump::run(&["--core", utf8(&core)?, "--exe", utf8(&exe)?])?;
        let stderr = String::from_utf8_lossy(&output.stderr);
        let context = || format!("{percent} % of the core: {}\n{stderr}", output.status);
        ensure!(!stderr.contains("panicked") && stderr.lines().count() <= 3, context());
        match output.status.code() {
            Some(0) => ensure!(stderr.contains("is cut off"), context()),
            Some(1) => ensure!(stderr.starts_with("sfgi: ") && output.stdout.is_empty(), context()),
            _ => anyhow::bail!(context()),
        }
        for (goid, shown) in traceback::parse(&String::from_utf8_lossy(&output.stdout))? {
            if let Some(own) = crowd.standing.get(&goid) {
                let is_start = own.frames.starts_with(&shown.frames);
                ensure!(is_start, "{percent} %: goroutine {goid} is\n{own}\nbut shown is\n{shown}");
            }
        }
    }
    Ok(())
}

/// A real arm64 process: qemu runs it, and writes its core when it aborts.
fn of_arm64() -> Result<()> {
    let qemu = machine::unpacked("qemu-aarch64-static")?;
    for go in Go::all().iter().filter(|go| RELEASES.contains(&go.minor)) {
        for variant in [Variant::Plain, Variant::Stripped] {
            of_qemu(&qemu, go, variant).with_context(|| format!("go{} arm64 {variant}", go.version))?;
        }
    }
    Ok(())
}

fn of_qemu(qemu: &Path, go: &Go, variant: Variant) -> Result<()> {
    let dir = tempfile::tempdir()?;
    let exe = fixture::build_for("crowd", go, variant, Some("arm64"))?;
    let mut shell = Command::new("sh");
    shell.args(["-c", "ulimit -c unlimited && exec \"$@\"", "sh"]).arg(qemu).arg(&exe);
    let mut crowd =
        Crowd::of(fixture::start_command(shell.env("GOTRACEBACK", "crash").current_dir(dir.path()))?)?;
    crowd.process.signal(Signal::ABORT)?;
    crowd.process.wait(SOON)?;
    // The kernel may write qemu's own core beside it.
    let core = file(dir.path(), |name| name.ends_with(".core"))?;
    agrees(&crowd, &core, &exe)
}
