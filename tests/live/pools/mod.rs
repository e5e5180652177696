//! `sfgi pools`, and what `sfgi leaks` says of pools.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use crate::harness::{Need, Test, live};
use anyhow::{Context as _, Result, ensure};
use live_tests::{
    dump,
    fixture::{self, Variant},
    leaks::{self, Verdict},
    process::Process,
    sfgi,
    toolchain::Go,
};
use serde_json::Value;

pub(crate) fn tests() -> Vec<Test> {
    vec![
        live(pools_are_as_the_program_counts_them),
        live(what_is_wrong_with_a_pool_is_told_and_nothing_else),
        live(pools_at_work_are_never_wrong),
        live(a_core_file_has_the_same_pools).needs(Need::Program("gcore")),
    ]
}

/// The oldest, one before malloc headers, and one for each form of bitmaps and maps since.
const RELEASES: [u32; 5] = [19, 21, 24, 26, 27];

/// How long a command to the fixture may take.
const SOON: Duration = Duration::from_secs(60);

fn for_each_release(check: impl Fn(&Go, Variant) -> Result<()>) -> Result<()> {
    for go in Go::all().iter().filter(|go| RELEASES.contains(&go.minor)) {
        let variants =
            if go.is_end() { vec![Variant::Plain, Variant::PieStripped] } else { vec![Variant::Plain] };
        for variant in variants {
            check(go, variant).with_context(|| format!("go{} {variant}", go.version))?;
        }
    }
    Ok(())
}

fn text<'v>(value: &'v Value, key: &str) -> &'v str {
    value.get(key).and_then(Value::as_str).unwrap_or_default()
}

fn number(value: &Value, key: &str) -> u64 {
    value.get(key).and_then(Value::as_u64).unwrap_or_default()
}

fn list<'v>(value: &'v Value, key: &str) -> &'v [Value] {
    value.get(key).and_then(Value::as_array).map(Vec::as_slice).unwrap_or_default()
}

/// What `sfgi pools` says.
fn pools(target: &[&str], more: &[&str]) -> Result<Value> {
    let arguments = [&["pools"], target, &["--format", "json"], more].concat();
    let output = sfgi::command(&arguments)?.output()?;
    ensure!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let document: Value = serde_json::from_slice(&output.stdout)?;
    ensure!(text(&document, "schema") == "sfgi.pools/1", "{document}");
    Ok(document)
}

fn pools_of(target: &Process, more: &[&str]) -> Result<Value> {
    pools(&["-p", &target.pid().to_string()], more)
}

fn by_address(document: &Value) -> BTreeMap<&str, &Value> {
    list(document, "pools").iter().map(|pool| (text(pool, "address"), pool)).collect()
}

/// The facts of lines that begin with a word.
fn facts(lines: impl IntoIterator<Item = String>, word: &str) -> Result<Vec<Value>> {
    let facts = lines.into_iter().filter_map(|line| Some(line.strip_prefix(word)?.to_owned()));
    facts.map(|fact| Ok(serde_json::from_str(&fact)?)).collect()
}

/// What the program says of its pools now.
fn counted(target: &mut Process) -> Result<Vec<Value>> {
    facts(target.command("count", SOON)?, "pool ")
}

/// Holds what sfgi says against what the program says.
fn agree(document: &Value, counted: &[Value], variant: Variant) -> Result<()> {
    let found = by_address(document);
    ensure!(!counted.is_empty(), "the program has no pools");
    for said in counted {
        let pool = found.get(text(said, "address")).with_context(|| format!("{said} is missing"))?;
        ensure!(number(pool, "objects") == number(said, "objects"), "{said} is {pool}");
        ensure!(number(pool, "procs") == number(said, "procs"), "{said} is {pool}");
        ensure!(pool.get("by_p") == said.get("by_p"), "{said} is {pool}");
        ensure!(number(pool, "compared") == number(said, "objects"), "{said} does not stand: {pool}");
        let types: Vec<&str> = list(pool, "types").iter().map(|of| text(of, "type")).collect();
        ensure!(types == [text(said, "type")] || number(said, "objects") == 0, "{said} is {pool}");
        let name = text(said, "name");
        ensure!(text(pool, "new").starts_with("main."), "{said} is {pool}");
        // Where a pool lies in an object, types are enough.
        if variant == Variant::Plain || name != "main.buffers" {
            ensure!(text(pool, "name") == name, "{said} is {pool}");
        }
    }
    Ok(())
}

fn pools_are_as_the_program_counts_them() -> Result<()> {
    for_each_release(|go, variant| {
        let mut target = fixture::start("pools", go, variant, &["-mode", "once", "-procs", "4"])?;
        agree(&pools_of(&target, &["--all"])?, &counted(&mut target)?, variant)?;
        // What was there is left over then, and after another collection it has gone.
        target.command("collect", SOON)?;
        let said = counted(&mut target)?;
        let document = pools_of(&target, &["--freeze"])?;
        agree(&document, &said, variant)?;
        let victims = list(&document, "pools").iter().map(|pool| number(pool, "victim")).sum::<u64>();
        ensure!(victims >= 80, "{document}");
        target.command("collect", SOON)?;
        let gone = pools_of(&target, &[])?;
        for said in &said {
            let pool = by_address(&gone).get(text(said, "address")).map_or(0, |pool| number(pool, "objects"));
            ensure!(pool == 0, "{said} is still there: {gone}");
        }
        Ok(())
    })
}

/// What is wrong with pools: addresses of objects that are twice in one, dirty fields, addresses of oversized objects.
type Wrong = (BTreeSet<String>, BTreeSet<String>, BTreeSet<String>);

fn wrong(document: &Value) -> Wrong {
    let all = |key: &str, one: &dyn Fn(&Value) -> String| {
        list(document, "pools").iter().flat_map(|pool| list(pool, key)).map(one).collect()
    };
    let address = |value: &Value| text(value, "address").to_owned();
    let path = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    (all("twice", &address), all("dirty", &path), all("oversized", &address))
}

/// What the program says is wrong with them.
fn said_wrong(target: &Process) -> Result<Wrong> {
    let lines = || target.stdout.lines().into_iter().map(|line| line.text);
    let all = |word: &str, key: &str| -> Result<BTreeSet<String>> {
        Ok(facts(lines(), word)?.iter().map(|fact| text(fact, key).to_owned()).collect())
    };
    Ok((all("twice ", "address")?, all("dirty ", "path")?, all("bloat ", "address")?))
}

/// Bytes of what the fixture's large request needs.
const LARGE: u64 = 4 << 20;

/// Modes with something wrong and the class that `sfgi leaks` has for it, and modes with nothing wrong.
const WRONG: [(&str, &str, Verdict); 5] = [
    ("twice", "pool-double-put", Verdict::Proven),
    ("twice-slices", "pool-double-put", Verdict::Proven),
    ("dirty", "pool-dirty", Verdict::Likely),
    ("dirty-fields", "pool-dirty", Verdict::Likely),
    ("bloat", "pool-bloat", Verdict::Likely),
];
const RIGHT: [&str; 5] = ["once", "clean", "taken", "lazy", "capped"];

fn what_is_wrong_with_a_pool_is_told_and_nothing_else() -> Result<()> {
    for_each_release(|go, variant| {
        let modes = WRONG.iter().map(|(mode, class, verdict)| (*mode, Some((*class, *verdict))));
        for (mode, class) in modes.chain(RIGHT.map(|mode| (mode, None))) {
            let whole = || -> Result<()> {
                let target = fixture::start("pools", go, variant, &["-mode", mode])?;
                let said = said_wrong(&target)?;
                let document = pools_of(&target, &[])?;
                let found = wrong(&document);
                ensure!(found == said, "{found:?}, not {said:?}");
                for large in list(&document, "pools").iter().flat_map(|pool| list(pool, "oversized")) {
                    let kept = number(large, "retained_bytes");
                    ensure!((LARGE..2 * LARGE).contains(&kept), "it keeps {kept} bytes: {large}");
                }
                let report = leaks::json(target.pid(), &["--observe", "1s"])?;
                let doubt = report.objects_doubt.as_ref().or(report.pools_doubt.as_ref());
                ensure!(doubt.is_none(), "{doubt:?}");
                let told: BTreeSet<(&str, Verdict)> =
                    report.groups.iter().map(|group| (group.class.as_str(), group.verdict)).collect();
                ensure!(told == class.into_iter().collect(), "{told:?}");
                Ok(())
            };
            whole().with_context(|| mode.to_owned())?;
        }
        Ok(())
    })
}

/// Reports of each program that works.
const REPORTS: usize = 20;

fn pools_at_work_are_never_wrong() -> Result<()> {
    for go in Go::all().iter().filter(|go| RELEASES.contains(&go.minor)) {
        let target = fixture::start("pools", go, Variant::Plain, &["-mode", "busy", "-n", "8"])?;
        for number in 0..REPORTS {
            let more: &[&str] =
                if number % 5 == 4 { &["--freeze", "--no-retained"] } else { &["--no-retained"] };
            let document = pools_of(&target, more)?;
            ensure!(wrong(&document) == Wrong::default(), "go{}: {document}", go.version);
        }
    }
    Ok(())
}

fn a_core_file_has_the_same_pools() -> Result<()> {
    let all = Go::all();
    for go in all.iter().filter(|go| go.is_end()) {
        let mut target = fixture::start("pools", go, Variant::Plain, &["-mode", "dirty"])?;
        let (said, counted) = (said_wrong(&target)?, counted(&mut target)?);
        let dir = tempfile::tempdir()?;
        let core = dump::gcore(&target.pid().to_string(), dir.path())?;
        let exe = fixture::build("pools", go, Variant::Plain)?;
        let (core, exe) = (core.display().to_string(), exe.display().to_string());
        let document = pools(&["--core", &core, "--exe", &exe], &[])?;
        agree(&document, &counted, Variant::Plain)?;
        ensure!(wrong(&document) == said, "{document}");
    }
    Ok(())
}
