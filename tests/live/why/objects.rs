//! Every object of the fixture has its type and a way that the fixture knows.

use std::{collections::BTreeMap, fmt::Write as _, fs};

use crate::harness::{Test, live};
use anyhow::{Context, Result, ensure};
use live_tests::{
    fixture::{self, Variant},
    machine,
    toolchain::Go,
    traceback,
    why::{self, Fact, Kept, Objects, Way, Why, addr},
};
use object::{Object as _, ObjectSymbol as _};

pub(crate) fn tests() -> Vec<Test> {
    vec![
        live(every_object_has_its_type_and_a_known_way).quick(),
        live(without_symbols_no_type_is_wrong_and_no_variable_has_a_name),
    ]
}

/// The oldest and the newest, and one of each way since in which the collector marks pointers. Swiss maps and cleanups came
/// with 1.24.
const RELEASES: [u32; 5] = [19, 21, 24, 26, 27];

/// How many of a hundred reached objects of the whole program have a type.
const TYPED: u64 = 90;
/// How many have one without symbols, where the variable that leads to a long list says nothing of it.
const TYPED_STRIPPED: u64 = 60;

fn for_each_release(check: impl Fn(&Go) -> Result<()>) -> Result<()> {
    let releases = Go::all().into_iter().filter(|go| RELEASES.contains(&go.minor));
    releases.into_iter().try_for_each(|go| check(&go).with_context(|| format!("go{}", go.version)))
}

fn every_object_has_its_type_and_a_known_way() -> Result<()> {
    for_each_release(|go| {
        let target = Objects::start(go, Variant::Plain)?;
        let why = target.why(&[])?;
        let mut wrong = String::new();
        for (fact, kept) in target.beside(&why) {
            for what in differences(&target, fact, kept) {
                let _ = writeln!(wrong, "{}: {what}", fact.name);
            }
        }
        ensure!(wrong.is_empty(), "\n{wrong}");
        typed(&why, go, TYPED)?;
        let roots = Roots::of(&target, go)?;
        why.objects.iter().flat_map(|kept| &kept.ways).try_for_each(|way| roots.exists(way))
    })
}

/// So many of a hundred reached objects have a type, at least.
fn typed(why: &Why, go: &Go, least: u64) -> Result<()> {
    let share = why.typed;
    let percent = share.typed_objects * 100 / share.objects.max(1);
    machine::report(&format!("go{}: {percent} % of {} objects have a type", go.version, share.objects));
    ensure!(percent >= least, "{share:?}");
    Ok(())
}

fn differences(target: &Objects, fact: &Fact, kept: &Kept) -> Vec<String> {
    let mut wrong: Vec<String> = fact.contradicts(&kept.object).into_iter().collect();
    if kept.object.of.is_none() && kept.object.function.is_none() && !fact.untyped {
        wrong.push(format!("its type is {}, and none is told", fact.of));
    }
    // Of a closure the code is known as well.
    if kept.object.function.is_none() && fact.function.is_some() {
        wrong.push(format!("its function is {:?}, and none is told", fact.function));
    }
    wrong.extend(lacks_a_way(target, fact, kept));
    wrong
}

/// Nothing leads to what nothing keeps alive, and that is said.
fn lacks_a_way(target: &Objects, fact: &Fact, kept: &Kept) -> Option<String> {
    let told: Vec<_> = kept.ways.iter().map(|way| &way.way).collect();
    if fact.ways.is_empty() {
        let said = kept.ways.is_empty() && kept.unkept.contains("nothing leads to it");
        return (!said).then(|| format!("nothing keeps it alive, but told are {told:?} {:?}", kept.unkept));
    }
    let known = kept.ways.iter().any(|way| target.allows(fact, way));
    (!known).then(|| format!("none of {:?} is among {told:?} {:?}", fact.ways, kept.unkept))
}

/// The roots that there are.
struct Roots<'a> {
    /// Variables by address, with their sizes.
    variables: BTreeMap<u64, (u64, String)>,
    target: &'a Objects,
}

impl<'a> Roots<'a> {
    fn of(target: &'a Objects, go: &Go) -> Result<Roots<'a>> {
        let bytes = fs::read(fixture::build("objects", go, Variant::Plain)?)?;
        let file = object::File::parse(&*bytes)?;
        let symbols = file.symbols().filter(|symbol| symbol.size() > 0);
        let variables = symbols
            .filter_map(|symbol| Some((symbol.address(), (symbol.size(), symbol.name().ok()?.to_owned()))));
        Ok(Roots { variables: variables.collect(), target })
    }

    /// The variable has the name of the symbol at its address, and the goroutine has the function on its stack.
    fn exists(&self, way: &Way) -> Result<()> {
        let root = &way.root;
        match root.kind.as_str() {
            "variable" => {
                let at = addr(root.address.as_deref().with_context(|| format!("no address: {way:?}"))?)?;
                let symbol = self.variables.range(..=at).next_back();
                let symbol = symbol.filter(|(start, (size, _))| at - *start < *size);
                let (_, (_, name)) = symbol.with_context(|| format!("no variable is at {at:#x}: {way:?}"))?;
                let rest = root.name.strip_prefix(name.as_str());
                let is = rest.is_some_and(|rest| rest.is_empty() || rest.starts_with(['.', '[', '+']));
                ensure!(is, "{at:#x} is {name}, not {}", root.name);
            }
            "goroutine" => {
                let goid = root.goid.with_context(|| format!("no goid: {way:?}"))?;
                // The runtime shows no frames of its own.
                if root.name.starts_with("runtime.") {
                    return Ok(());
                }
                let goroutine =
                    self.target.goroutines.get(&goid).with_context(|| format!("no goroutine {goid}"))?;
                let is = why::has(goroutine, &root.name) || is_wrapper(goroutine, &root.name);
                ensure!(is, "{} is not on the stack of\n{goroutine}", root.name);
            }
            "timer" | "finalizer" | "cleanup" | "weak" | "runtime" => {
                ensure!(root.goid.is_none() && root.address.is_none(), "{way:?}");
            }
            other => anyhow::bail!("no kind of root: {other}"),
        }
        Ok(())
    }
}

/// Whether a function is one that the compiler made and the runtime does not show: it calls what a `go` statement calls,
/// or the method of an embedded field.
fn is_wrapper(goroutine: &traceback::Goroutine, name: &str) -> bool {
    let method = |name: &str| name.rsplit_once(").").map(|(_, method)| method.to_owned());
    goroutine.creator.as_ref().is_some_and(|creator| name.starts_with(&format!("{}.", creator.func)))
        || method(name).is_some() && goroutine.frames.iter().any(|frame| method(&frame.func) == method(name))
}

fn without_symbols_no_type_is_wrong_and_no_variable_has_a_name() -> Result<()> {
    for_each_release(|go| {
        let target = Objects::start(go, Variant::PieStripped)?;
        let why = target.why(&[])?;
        let mut wrong = String::new();
        for (fact, kept) in target.beside(&why) {
            if let Some(what) = fact.contradicts(&kept.object) {
                let _ = writeln!(wrong, "{}: {what}", fact.name);
            }
            if kept.ways.is_empty() != fact.ways.is_empty() {
                let _ = writeln!(wrong, "{}: {} ways, {:?}", fact.name, kept.ways.len(), kept.unkept);
            }
            for way in kept.ways.iter().filter(|way| way.root.kind == "variable") {
                if !way.root.name.is_empty() || way.root.address.is_none() {
                    let _ = writeln!(wrong, "{}: {:?}", fact.name, way.root);
                }
            }
        }
        ensure!(wrong.is_empty(), "\n{wrong}");
        typed(&why, go, TYPED_STRIPPED)
    })
}
