//! A target that is stopped, and one that is a core file, tell the same as one that runs.

use std::{path::Path, time::Instant};

use crate::harness::{Need, Test, live};
use anyhow::{Context, Result, ensure};
use live_tests::{
    dump,
    fixture::{self, Variant},
    toolchain::Go,
    why::{self, Objects, Why},
};

pub(crate) fn tests() -> Vec<Test> {
    vec![
        live(freezing_tells_the_same_and_lets_it_go_on),
        live(a_core_file_tells_the_same).needs(Need::Program("gcore")),
    ]
}

const RELEASES: [u32; 2] = [19, 27];

fn each_build(check: impl Fn(&Go, Variant) -> Result<()>) -> Result<()> {
    for go in Go::all().iter().filter(|go| RELEASES.contains(&go.minor)) {
        for variant in [Variant::Plain, Variant::PieStripped] {
            check(go, variant).with_context(|| format!("go{} {variant}", go.version))?;
        }
    }
    Ok(())
}

/// The same objects with the same types, and each is kept alive as before, or by another way that is right.
fn same(target: &Objects, running: &Why, other: &Why) -> Result<()> {
    ensure!(running.go_version == other.go_version, "{} is now {}", running.go_version, other.go_version);
    for ((fact, before), now) in target.beside(running).zip(&other.objects) {
        ensure!(before.object == now.object, "{}: {:?}\nis now {:?}", fact.name, before.object, now.object);
        let right = now.ways.iter().any(|way| target.allows(fact, way));
        let ways = |kept: &why::Kept| kept.ways.iter().map(|way| way.way.clone()).collect::<Vec<_>>();
        let (before, now) = (ways(before), ways(now));
        let shared = before.is_empty() && now.is_empty() || before.iter().any(|way| now.contains(way));
        ensure!(shared || right, "{}: {before:?}\nare now {now:?}", fact.name);
    }
    Ok(())
}

fn freezing_tells_the_same_and_lets_it_go_on() -> Result<()> {
    each_build(|go, variant| {
        let mut target = Objects::start(go, variant)?;
        let running = target.why(&[])?;
        ensure!(running.frozen_ns.is_none(), "stopped without --freeze");
        let began = Instant::now();
        let frozen = target.why(&["--freeze"])?;
        let (stopped, all) = (frozen.frozen_ns.context("it was not stopped")?, began.elapsed().as_nanos());
        ensure!(stopped > 0 && u128::from(stopped) < all, "stopped for {stopped} ns of {all} ns");
        let said = frozen.notes.iter().any(|note| note.starts_with("it was stopped for "));
        ensure!(said, "it does not say so: {:?}", frozen.notes);
        same(&target, &running, &frozen)?;
        target.command("stacks").context("it does not go on")?;
        let output = why::run(&["-p", &target.pid(), &target.fact("hub")?.address, "--freeze"])?;
        let said = String::from_utf8_lossy(&output.stderr);
        ensure!(said.contains("it was stopped for ") && said.lines().count() == 1, "{said}");
        target.command("stacks").context("it does not go on")
    })
}

fn a_core_file_tells_the_same() -> Result<()> {
    each_build(|go, variant| {
        let target = Objects::start(go, variant)?;
        let running = target.why(&[])?;
        let dir = tempfile::tempdir()?;
        let core = dump::gcore(&target.pid(), dir.path())?;
        let exe = fixture::build("objects", go, variant)?;
        let of_core = target.of(&["--core", utf8(&core)?, "--exe", utf8(&exe)?])?;
        let is_it = of_core.pid == running.pid && of_core.frozen_ns.is_none();
        ensure!(is_it, "{:?}, stopped {:?}", of_core.pid, of_core.frozen_ns);
        same(&target, &running, &of_core)
    })
}

fn utf8(path: &Path) -> Result<&str> {
    path.to_str().context("a name in UTF-8")
}
