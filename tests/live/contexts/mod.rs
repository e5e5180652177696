//! `sfgi contexts`, what `sfgi leaks` says of contexts, and dropped coroutines.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use crate::harness::{Test, live};
use anyhow::{Context as _, Result, ensure};
use live_tests::{
    fixture::{self, Variant},
    leaks::{self, Verdict},
    process::Process,
    sfgi,
    toolchain::Go,
};
use serde_json::Value;

pub(crate) fn tests() -> Vec<Test> {
    vec![
        live(the_tree_is_as_the_program_made_it),
        live(what_nobody_can_cancel_is_lost_and_nothing_else),
        live(whose_children_become_more_is_told_of),
        live(whoever_does_not_hear_its_context_is_told_of),
        live(many_contexts_are_counted_to_the_unit),
        live(dropped_coroutines_are_proven),
    ]
}

/// One for each form of contexts and maps: without `cause` and `AfterFunc`, with them, with Swiss maps, with an atomic
/// error, and the newest.
const RELEASES: [u32; 5] = [19, 21, 24, 26, 27];

/// How long a command to the fixture may take.
const SOON: Duration = Duration::from_secs(60);

fn for_each_release(check: impl Fn(&Go, Variant) -> Result<()>) -> Result<()> {
    for go in Go::all().iter().filter(|go| RELEASES.contains(&go.minor)) {
        for variant in [Variant::Plain, Variant::PieStripped] {
            check(go, variant).with_context(|| format!("go{} {variant}", go.version))?;
        }
    }
    Ok(())
}

/// The facts of a fixture's lines that begin with a word.
fn facts(target: &Process, word: &str) -> Result<Vec<Value>> {
    let lines = target.stdout.lines();
    let facts = lines.iter().filter_map(|line| line.text.strip_prefix(word));
    facts.map(|fact| Ok(serde_json::from_str(fact)?)).collect()
}

fn text<'v>(value: &'v Value, key: &str) -> &'v str {
    value.get(key).and_then(Value::as_str).unwrap_or_default()
}

fn number(value: &Value, key: &str) -> u64 {
    value.get(key).and_then(Value::as_u64).unwrap_or_default()
}

/// What `sfgi contexts` says.
fn contexts(target: &Process, more: &[&str]) -> Result<Value> {
    let pid = target.pid().to_string();
    let arguments = [&["contexts", "-p", &pid, "--format", "json"], more].concat();
    let output = sfgi::command(&arguments)?.output()?;
    ensure!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let document: Value = serde_json::from_slice(&output.stdout)?;
    ensure!(text(&document, "schema") == "sfgi.contexts/1", "{document}");
    Ok(document)
}

fn list(document: &Value) -> BTreeMap<&str, &Value> {
    let list = document.get("list").and_then(Value::as_array).map(Vec::as_slice).unwrap_or_default();
    list.iter().map(|context| (text(context, "address"), context)).collect()
}

fn the_tree_is_as_the_program_made_it() -> Result<()> {
    for_each_release(|go, variant| {
        let target = fixture::start("contexts", go, variant, &["-mode", "tree"])?;
        let document = contexts(&target, &["--all"])?;
        let list = list(&document);
        let named = facts(&target, "context ")?;
        ensure!(named.len() > 10, "{} have a name", named.len());
        let address =
            |name: &str| named.iter().find(|one| text(one, "name") == name).map(|one| text(one, "address"));
        for one in &named {
            // What the program has no interface of has no address.
            let Some(found) = list.get(text(one, "address")) else {
                ensure!(text(one, "address").is_empty(), "{one} is missing");
                continue;
            };
            ensure!(text(found, "type") == text(one, "type"), "{one} is {found}");
            ensure!(number(found, "children") == number(one, "children"), "{one} is {found}");
            let registered = found.get("registered").and_then(Value::as_bool) == Some(true);
            ensure!(registered == one.get("registered").is_some(), "{one} is {found}");
            if let Some(parent) = one.get("parent").and_then(Value::as_str).and_then(address) {
                ensure!(text(found, "parent") == parent, "{one} is {found}");
            }
            let deadline = found.get("deadline_unix_ns").and_then(Value::as_i64);
            if let Some(deadline) = deadline {
                let said = one.get("deadline_ns").and_then(Value::as_i64).unwrap_or_default();
                ensure!(deadline.abs_diff(said) < 1_000_000, "{one} is {found}");
            }
        }
        let tree = facts(&target, "tree ")?;
        let tree = tree.first().context("the fixture's totals")?;
        ensure!(number(&document, "contexts") == number(tree, "contexts"), "{document}, not {tree}");
        ensure!(number(&document, "lost") == 0, "{document}");
        Ok(())
    })
}

/// The contexts that `sfgi leaks` says are lost.
fn lost(report: &leaks::Report) -> Vec<(Verdict, u64)> {
    let groups = report.groups.iter().filter(|group| group.class == "context-lost");
    groups.map(|group| (group.verdict, group.count)).collect()
}

/// How many the program has made, and has ended.
fn count(target: &mut Process) -> Result<(u64, u64)> {
    let said = target.command("count", SOON)?;
    let told = said.iter().find_map(|line| line.strip_prefix("count ")).context("no count")?;
    let told: Value = serde_json::from_str(told)?;
    Ok((number(&told, "made"), number(&told, "ended")))
}

fn what_nobody_can_cancel_is_lost_and_nothing_else() -> Result<()> {
    for_each_release(|go, variant| {
        let mut target = fixture::start("contexts", go, variant, &["-mode", "lost", "-every", "1h"])?;
        let (made, ended) = count(&mut target)?;
        let document = contexts(&target, &["--freeze"])?;
        ensure!(number(&document, "lost") == made - ended, "{document}, of {made}");
        let found = lost(&leaks::json(target.pid(), &["--observe", "1s"])?);
        ensure!(found == [(Verdict::Proven, made - ended)], "{found:?} of {made}");
        for mode in ["kept", "held", "background-lost"] {
            let target = fixture::start("contexts", go, variant, &["-mode", mode])?;
            let document = contexts(&target, &[])?;
            ensure!(number(&document, "lost") == 0, "{mode}: {document}");
            let report = leaks::json(target.pid(), &["--observe", "1s"])?;
            ensure!(lost(&report).is_empty(), "{mode}: {:?}", lost(&report));
        }
        Ok(())
    })
}

/// Reports in which children that become more must be told of: all objects are read in a tenth of the time.
const REPORTS: usize = 25;

fn whose_children_become_more_is_told_of() -> Result<()> {
    let grow = |report: &leaks::Report| {
        let groups = report.groups.iter().filter(|group| group.class == "context-growth");
        groups.map(|group| (group.verdict, group.count)).collect::<Vec<_>>()
    };
    for go in Go::all().iter().filter(|go| [21, 27].contains(&go.minor)) {
        for mode in ["held", "kept"] {
            let mut target = fixture::start("contexts", go, Variant::Plain, &["-mode", mode])?;
            let args = ["--watch=200ms", "--observe", "150ms", "--format", "json"];
            let mut sfgi = Process::spawn(&mut leaks::command(target.pid(), &args)?)?;
            let reports = leaks::watched(&mut sfgi, REPORTS, SOON)?;
            let found: Vec<_> = reports.iter().flat_map(grow).collect();
            if mode == "kept" {
                ensure!(found.is_empty(), "go{} {mode}: {found:?}", go.version);
                continue;
            }
            let (verdict, told) =
                found.last().with_context(|| format!("go{} {mode}: nothing", go.version))?;
            let (made, _) = count(&mut target)?;
            ensure!(*verdict == Verdict::Likely, "go{}: {found:?}", go.version);
            ensure!(*told > 20 && *told <= made, "go{}: {found:?} of {made}", go.version);
            ensure!(
                reports.iter().all(|report| lost(report).is_empty()),
                "go{}: held ones are lost",
                go.version
            );
        }
    }
    Ok(())
}

fn whoever_does_not_hear_its_context_is_told_of() -> Result<()> {
    for go in Go::all().iter().filter(|go| RELEASES.contains(&go.minor)) {
        let told = |mode: &str, class: &str| -> Result<(BTreeSet<u64>, BTreeSet<u64>)> {
            let target = fixture::start("contexts", go, Variant::Plain, &["-mode", mode])?;
            let wanted = facts(&target, "goroutine ")?.iter().map(|one| number(one, "goid")).collect();
            let report = leaks::json(target.pid(), &["--observe", "2s", "--min-age", "1"])?;
            let groups = report.groups.iter().filter(|group| group.class == class);
            Ok((wanted, groups.flat_map(|group| group.goids.iter().copied()).collect()))
        };
        let whole = || -> Result<()> {
            let (deaf, found) = told("deaf", "context-ignored")?;
            // Some have their context in an object only, which their stack does not show.
            ensure!(found.len() >= 6 && found.is_subset(&deaf), "deaf: {found:?}, not {deaf:?}");
            let (_, found) = told("hears", "context-ignored")?;
            ensure!(found.is_empty(), "hears: {found:?}");
            let (_, found) = told("cut", "context-cut")?;
            ensure!(!found.is_empty(), "cut: nothing");
            let (_, found) = told("chained", "context-cut")?;
            ensure!(found.is_empty(), "chained: {found:?}");
            Ok(())
        };
        whole().with_context(|| format!("go{}", go.version))?;
    }
    Ok(())
}

fn many_contexts_are_counted_to_the_unit() -> Result<()> {
    let all = Go::all();
    let go = all.iter().find(|go| go.is_end()).context("a toolchain")?;
    let mut target =
        fixture::start("contexts", go, Variant::PieStripped, &["-mode", "million", "-n", "200000"])?;
    let (made, ended) = count(&mut target)?;
    let document = contexts(&target, &["--freeze"])?;
    // Besides these there are those that have a name.
    let named = facts(&target, "context ")?.len() as u64;
    let all = number(&document, "contexts");
    ensure!(all == made - ended + named, "{all}, not {made} - {ended} + {named}");
    Ok(())
}

fn dropped_coroutines_are_proven() -> Result<()> {
    for go in Go::all().iter().filter(|go| go.minor >= 23 && RELEASES.contains(&go.minor)) {
        for variant in [Variant::Plain, Variant::PieStripped] {
            for mode in [
                "dropped",
                "dropped-pairs",
                "unasked",
                "kept",
                "kept-next",
                "kept-stop",
                "stopped",
                "finished",
            ] {
                let whole = || -> Result<()> {
                    let target = fixture::start("pulls", go, variant, &["-mode", mode])?;
                    let pulls = facts(&target, "pull ")?;
                    let report = leaks::json(target.pid(), &["--observe", "1s"])?;
                    ensure!(report.doubt.is_none(), "{:?}", report.doubt);
                    let groups =
                        report.groups.iter().filter(|group| group.class == "coroutine-never-stopped");
                    let proven: u64 = groups
                        .filter(|group| group.verdict == Verdict::Proven)
                        .map(|group| group.count)
                        .sum();
                    let is_leak = mode.starts_with("dropped") || mode == "unasked";
                    let wanted = if is_leak { pulls.len() as u64 } else { 0 };
                    ensure!(!is_leak || wanted > 0, "nothing was dropped");
                    ensure!(proven == wanted, "{proven} are proven, {wanted} were dropped");
                    Ok(())
                };
                whole().with_context(|| format!("go{} {variant} {mode}", go.version))?;
            }
        }
    }
    Ok(())
}
