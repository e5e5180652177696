//! What sfgi reads of executables: of every Go release, for both processors, in every kind of
//! build. The symbol table, which sfgi does not use, and Go's sources say whether it is right.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs::{self, File},
    ops::Range,
    path::{Path, PathBuf},
    process::Command,
};

use crate::harness::{Need, Test, live, plain};
use anyhow::{Context, Result, ensure};
use live_tests::{
    fixture::{self, Variant},
    leaks, machine, sfgi,
    toolchain::Go,
};
use object::{Object, ObjectSymbol};
use sfgi_core::binary::{Described, GoBinary, Layout, Source};

pub(crate) fn tests() -> Vec<Test> {
    vec![
        plain(every_build_says_where_everything_is),
        plain(stripped_is_no_different),
        plain(what_code_tells_of_variables_is_so),
        plain(without_section_headers),
        plain(a_version_that_nobody_knows),
        plain(between_two_rows_the_code_decides).needs(Need::Go("1.24.11")),
        plain(broken_dwarf_falls_back_to_the_table),
        live(a_release_that_nobody_knows_is_traced),
    ]
}

/// The fixture with the most of the runtime in it.
const FIXTURE: &str = "waits";

/// Runs `check` for every release; reports all failures.
fn every_release(check: impl Fn(&Go) -> Result<()>) -> Result<()> {
    let mut failures = 0;
    for go in Go::all() {
        if let Err(error) = check(&go) {
            failures += 1;
            machine::report(&format!("go{}: {error:#}", go.version));
        }
    }
    ensure!(failures == 0, "{failures} releases failed, see above");
    Ok(())
}

/// Whether the other processor's build of this release is looked at, for which Go compiles its whole library once more:
/// of the oldest and the newest, and of one between them.
fn has_other(go: &Go) -> bool {
    go.is_end() || go.minor == 23
}

/// The builds that are looked at. Those for which Go compiles its whole library once more, which takes a
/// machine minutes the first time, only of the oldest and the newest release.
fn builds(go: &Go) -> Result<Vec<(String, PathBuf)>> {
    use Variant::*;
    let every = go.is_end();
    let native = [Plain, Stripped, Pie, PieStripped, External, Race, Trimpath];
    let native = native.into_iter().filter(|variant| every || !matches!(variant, Race | Trimpath));
    let native = native.map(|variant| (variant, None));
    let other = [Plain, Stripped, Pie, PieStripped];
    let other = other.into_iter().filter(|variant| every || !matches!(variant, Pie | PieStripped));
    let other = other.filter(|_| has_other(go));
    let other = other.map(|variant| (variant, Some("arm64")));
    let build = |(variant, arch): (Variant, Option<&str>)| {
        let path = fixture::build_for(FIXTURE, go, variant, arch)?;
        Ok((format!("{} {variant}", arch.unwrap_or("amd64")), path))
    };
    native.chain(other).map(build).collect()
}

fn fields(binary: &GoBinary) -> BTreeMap<&str, u32> {
    binary.layout().fields().collect()
}

/// The variables of the runtime, and with their package those of sync, by the symbol table; `None` for a stripped
/// program.
fn symbols(path: &Path) -> Result<Option<BTreeMap<String, (u64, u64)>>> {
    let data = fs::read(path)?;
    let file = object::File::parse(&*data)?;
    let runtime = file.symbols().filter_map(|symbol| {
        let name = symbol.name().ok()?;
        let sync = Some(name).filter(|name| name.starts_with("sync."));
        let name = name.strip_prefix("runtime.").or(sync)?;
        Some((name.to_owned(), (symbol.address(), symbol.size())))
    });
    let found: BTreeMap<_, _> = runtime.collect();
    Ok((!found.is_empty()).then_some(found))
}

/// The wait reasons that the sources of this release have.
fn reasons(go: &Go) -> Result<BTreeSet<String>> {
    let file = fs::read_to_string(go.root().join("src/runtime/runtime2.go"))?;
    let (_, table) = file.split_once("var waitReasonStrings = ").context("no waitReasonStrings")?;
    let (table, _) = table.split_once("\n}").context("no end of waitReasonStrings")?;
    Ok(table.lines().filter_map(|line| Some(line.split('"').nth(1)?.to_owned())).collect())
}

fn check_symbols(binary: &GoBinary, symbols: &BTreeMap<String, (u64, u64)>) -> Result<()> {
    let globals = binary.globals()?;
    let table = globals.semtable.context("no semtable")?;
    let found = [
        ("allglen", Some(globals.allglen)),
        ("allgptr", Some(globals.allgptr)),
        ("allm", globals.allm),
        ("allp", globals.allp),
        ("sched", globals.sched),
        ("semtable", Some(table.addr)),
        ("firstmoduledata", globals.first_module),
        ("mheap_", globals.mheap),
        ("sync.allPools", globals.pools.map(|pools| pools.all)),
        ("sync.oldPools", globals.pools.map(|pools| pools.old)),
        ("finq", globals.finalizers.map(|queue| queue.waiting)),
        ("finc", globals.finalizers.map(|queue| queue.free)),
        ("allfin", globals.finalizers.map(|queue| queue.all)),
    ];
    for (name, addr) in found {
        let symbol = symbols.get(name).map(|(addr, _)| *addr);
        ensure!(addr.is_some() && addr == symbol, "{name} is at {symbol:x?}, not at {addr:x?}");
    }
    let size = symbols.get("semtable").map(|(_, size)| *size);
    ensure!(size == Some(table.stride * table.count), "semtable has {size:?} bytes: {table:?}");
    let size = symbols.get("waitReasonStrings").map(|(_, size)| *size);
    let count = binary.wait_reasons().texts().len() as u64;
    ensure!(size == Some(count * 16), "waitReasonStrings has {size:?} bytes for {count} texts");
    Ok(())
}

/// Every variable that DWARF names lies where the symbol table has it, and has as many bytes.
fn check_variables(binary: &GoBinary, path: &Path) -> Result<()> {
    let data = fs::read(path)?;
    let file = object::File::parse(&*data)?;
    let symbols: BTreeMap<_, _> = file
        .symbols()
        .filter_map(|symbol| Some((symbol.name().ok()?, (symbol.address(), symbol.size()))))
        .collect();
    let found = binary.variables(None);
    for variable in found.all() {
        let symbol = symbols.get(&*variable.name);
        ensure!(symbol == Some(&(variable.addr, variable.size)), "{variable:x?} is at {symbol:x?}");
    }
    let typed = found.all().iter().filter(|variable| variable.descriptor.is_some()).count();
    ensure!(typed > 200 && found.all().len() > typed, "{typed} of {} have types", found.all().len());
    Ok(())
}

fn every_build_says_where_everything_is() -> Result<()> {
    every_release(|go| {
        let reasons = reasons(go)?;
        for (build, path) in builds(go)? {
            let binary = GoBinary::open(&path).with_context(|| build.clone())?;
            let found: BTreeSet<_> = binary.wait_reasons().texts().iter().cloned().collect();
            ensure!(found == reasons, "{build}: wait reasons {found:?}");
            let stripped = build.ends_with("stripped");
            let source = Source::Table(go.version.clone());
            ensure!(*binary.layout().source() == source, "{build}: from {}", binary.layout().source());
            match symbols(&path)? {
                Some(symbols) => {
                    check_symbols(&binary, &symbols).with_context(|| build.clone())?;
                    check_variables(&binary, &path).with_context(|| build.clone())?;
                }
                None => {
                    ensure!(stripped, "{build} has no symbols");
                    ensure!(binary.variables(None).all().is_empty(), "{build} has variables");
                }
            }
        }
        Ok(())
    })
}

/// Descriptors of types, as they are in the file (`src/internal/abi/type.go`).
struct Descriptors {
    binary: GoBinary,
    data: Vec<u8>,
    all: Range<u64>,
}

/// Kinds of types.
const MAP: u8 = 21;
const POINTER: u8 = 22;
const STRUCT: u8 = 25;
const UNSAFE_POINTER: u8 = 26;

impl Descriptors {
    fn of(path: &Path) -> Result<Descriptors> {
        let binary = GoBinary::open(path)?;
        let mut descriptors = Descriptors { binary, data: fs::read(path)?, all: 0..0 };
        let module = descriptors.binary.globals()?.first_module.context("no module data")?;
        let bound = |name| {
            let field = descriptors.binary.layout().field("moduledata", name)?;
            descriptors.word(module + u64::from(field))
        };
        descriptors.all = bound("types").context("no types")?..bound("etypes").context("no end of types")?;
        Ok(descriptors)
    }

    fn read<const N: usize>(&self, at: u64) -> Option<[u8; N]> {
        let offset = usize::try_from(self.binary.image().file_offset(at)?).ok()?;
        self.data.get(offset..offset + N)?.try_into().ok()
    }

    fn word(&self, at: u64) -> Option<u64> {
        self.read(at).map(u64::from_le_bytes)
    }

    fn kind(&self, descriptor: u64) -> Option<u8> {
        self.read::<1>(descriptor + 23).map(|[kind]| kind & 31)
    }

    /// The type's name with that of its package, or its literal.
    fn name(&self, descriptor: u64) -> Option<String> {
        let name = self.all.start + u64::from(u32::from_le_bytes(self.read(descriptor + 40)?));
        let [_, low, high] = self.read(name)?;
        let (len, head) =
            if low < 128 { (u64::from(low), 2) } else { (u64::from(low & 127) | u64::from(high) << 7, 3) };
        let bytes: Option<Vec<u8>> = (0..len).map(|at| Some(self.read::<1>(name + head + at)?[0])).collect();
        // With the flag for it, the name is that of the pointer to the type.
        let [flags] = self.read(descriptor + 20)?;
        let text = String::from_utf8(bytes?).ok()?;
        Some(if flags & 2 == 0 { text } else { text.trim_start_matches('*').to_owned() })
    }

    fn described(&self, descriptor: u64) -> Option<Described> {
        Some(match self.kind(descriptor)? {
            MAP => Described::Map,
            STRUCT if self.name(descriptor).is_some_and(|name| name.contains("F uintptr")) => {
                Described::Closure
            }
            _ => Described::Other,
        })
    }
}

/// The types that code tells of variables are those that DWARF has.
fn what_code_tells_of_variables_is_so() -> Result<()> {
    every_release(|go| {
        let types = Descriptors::of(&fixture::build("objects", go, Variant::Plain)?)?;
        let found = types.binary.code_types(types.all.clone(), &|at| types.described(at));
        let variables = types.binary.variables(None);
        let known: BTreeMap<u64, (&str, u64)> = (variables.all().iter())
            .filter_map(|one| Some((one.addr, (&*one.name, types.all.start + one.descriptor?))))
            .collect();
        let pointed = |at: u64| {
            let (name, pointer) = *known.get(&at)?;
            match types.kind(pointer)? {
                // It does not say what it points to; code does.
                UNSAFE_POINTER => None,
                POINTER => Some((name, types.word(pointer + 48)?)),
                // The types differ.
                _ => Some((name, 0)),
            }
        };
        let mut compared = [0; 3];
        for (at, map) in &found.maps {
            let Some((name, of)) = known.get(at) else { continue };
            ensure!(of == map, "{name} is a {:?}, not a {:?}", types.name(*of), types.name(*map));
            compared[0] += 1;
        }
        for (at, to) in &found.pointers {
            let Some((name, of)) = pointed(*at) else { continue };
            ensure!(of == *to, "{name} points to {:?}, not to {:?}", types.name(of), types.name(*to));
            compared[1] += 1;
        }
        for (at, to) in &found.receivers {
            let Some((name, of)) = pointed(*at) else { continue };
            // The last element of an import path need not be the package's name.
            let own = |name: &str| name.rsplit('.').next().map(str::to_owned);
            let of = types.name(of).context(name.to_owned())?;
            ensure!(own(&of) == own(to), "{name} points to {of}, not to {to}");
            compared[2] += 1;
        }
        let enough = compared.iter().zip([20, 15, 1]).all(|(count, least)| *count >= least);
        ensure!(enough, "only {compared:?} variables are compared");
        Ok(())
    })
}

/// How far the runtime's variables lie behind the first of them: the linker may move all of them.
fn distances(binary: &GoBinary) -> Result<Vec<Option<u64>>> {
    let globals = binary.globals()?;
    let all = [
        Some(globals.allglen),
        Some(globals.allgptr),
        globals.allm,
        globals.allp,
        globals.sched,
        globals.semtable.map(|table| table.addr),
        globals.first_module,
        globals.mheap,
        globals.pools.map(|pools| pools.all),
        globals.pools.map(|pools| pools.old),
        globals.finalizers.map(|queue| queue.waiting),
        globals.finalizers.map(|queue| queue.free),
        globals.finalizers.map(|queue| queue.all),
    ];
    let first = all.iter().flatten().min().copied().unwrap_or(0);
    Ok(all.map(|addr| addr.map(|addr| addr - first)).into())
}

/// A stripped program is the same but for what was left out, so nothing else may be found in it.
fn stripped_is_no_different() -> Result<()> {
    every_release(|go| {
        let other = Some("arm64").filter(|_| has_other(go));
        for arch in [None].into_iter().chain(other.map(Some)) {
            let build = |variant| -> Result<_> {
                let path = fixture::build_for(FIXTURE, go, variant, arch)?;
                Ok((GoBinary::open(&path).context(arch.unwrap_or("amd64"))?, path))
            };
            let ((plain, path), (stripped, cut_path)) = (build(Variant::Plain)?, build(Variant::Stripped)?);
            ensure!(plain.wait_reasons() == stripped.wait_reasons());
            let (whole, cut) = (distances(&plain)?, distances(&stripped)?);
            ensure!(whole == cut, "{arch:?}: {whole:x?}, {cut:x?}");
            let dwarf = Layout::of_dwarf(File::open(path)?).context("its DWARF tells no layout")?;
            let (dwarf, table) = (dwarf.fields().collect::<BTreeMap<_, _>>(), fields(&stripped));
            descriptors_say_the_same(&cut_path, &table)?;
            for (name, offset) in &dwarf {
                ensure!(
                    table.get(name) == Some(offset),
                    "{arch:?} {name}: {offset}, not {:?}",
                    table.get(name)
                );
            }
        }
        Ok(())
    })
}

/// The runtime's structs have the same fields at the same places by their descriptors, and the ones that matter have
/// descriptors.
fn descriptors_say_the_same(path: &Path, table: &BTreeMap<&str, u32>) -> Result<()> {
    let described = Layout::of_descriptors(File::open(path)?).context("it describes no runtime.g")?;
    for of in ["g", "m", "p", "sudog", "hchan", "mspan", "moduledata", "pollDesc"] {
        let of = format!("{of}._size");
        ensure!(described.contains_key(&of), "{of} is not described");
    }
    let of = |name: &str| name.split('.').next().unwrap_or(name).to_owned();
    for (name, offset) in &described {
        ensure!(
            table.get(name.as_str()) == Some(offset),
            "{name}: {offset}, not {:?}",
            table.get(name.as_str())
        );
    }
    for name in table.keys().filter(|name| described.contains_key(&format!("{}._size", of(name)))) {
        ensure!(described.contains_key(*name), "{name} is not described");
    }
    Ok(())
}

fn without_section_headers() -> Result<()> {
    let dir = tempfile::tempdir()?;
    every_release(|go| {
        let path = fixture::build(FIXTURE, go, Variant::PieStripped)?;
        let mut data = fs::read(&path)?;
        // e_shoff; e_shnum, e_shstrndx
        data.get_mut(40..48).context("no header")?.fill(0);
        data.get_mut(60..64).context("no header")?.fill(0);
        let cut = dir.path().join("cut");
        fs::write(&cut, data)?;
        let (whole, cut) = (GoBinary::open(&path)?, GoBinary::open(&cut)?);
        ensure!(whole.globals()? == cut.globals()? && whole.wait_reasons() == cut.wait_reasons());
        ensure!(fields(&whole) == fields(&cut));
        Ok(())
    })
}

/// Writes a copy of a file with one text in the place of another, everywhere; gives its bytes.
fn altered(dir: &Path, file: &Path, from: &str, to: &str) -> Result<Vec<u8>> {
    let copy = dir.join("altered");
    fs::copy(file, &copy)?;
    fixture::replace(&copy, from, to)?;
    Ok(fs::read(copy)?)
}

/// A layout as a file, of another release.
fn layout_file(dir: &Path, binary: &GoBinary, go: &str, arch: &str) -> Result<Layout> {
    let file = dir.join("layout.json");
    let layout = serde_json::json!({"go": go, "arch": arch, "offsets": fields(binary)});
    fs::write(&file, layout.to_string())?;
    Ok(Layout::from_file(&file)?)
}

fn a_version_that_nobody_knows() -> Result<()> {
    let dir = tempfile::tempdir()?;
    let path = dir.path().join("altered");
    let newest = Go::newest();
    for arch in [None, Some("arm64")] {
        let known = fixture::build_for(FIXTURE, &newest, Variant::Stripped, arch)?;
        let next = newest.next();
        let data = altered(dir.path(), &known, &format!("go{}", newest.version), &format!("go{next}"))?;
        let (known, unknown) = (GoBinary::open(&known)?, GoBinary::open(&path)?);
        ensure!(unknown.version().raw == format!("go{next}"));
        ensure!(*unknown.layout().source() == Source::Inferred(newest.version.clone()));
        ensure!(fields(&known) == fields(&unknown) && known.globals()? == unknown.globals()?);

        let moved = move_wait_reason(&known, data)?;
        fs::write(&path, moved)?;
        let error = GoBinary::open(&path).err().context("a layout that its code contradicts was believed")?;
        let error = error.to_string();
        for words in ["g.waitreason lies elsewhere in runtime.gopark", "--layout FILE", &next] {
            ensure!(error.contains(words), "it does not say {words:?}: {error}");
        }
        // What the user says holds.
        let arch = arch.unwrap_or("amd64");
        let layout = layout_file(dir.path(), &known, &next, arch)?;
        let supplied = GoBinary::read_with(File::open(&path)?, Some(layout))?;
        ensure!(matches!(supplied.layout().source(), Source::File { .. }));
        ensure!(fields(&known) == fields(&supplied));
        for (go, on) in [("1.25.0", arch), (next.as_str(), "riscv64")] {
            let other = layout_file(dir.path(), &known, go, on)?;
            let error = GoBinary::read_with(File::open(&path)?, Some(other)).err().context("taken")?;
            ensure!(error.to_string().contains(&format!("is of go{go} for {on}")), "{error}");
        }
    }
    Ok(())
}

/// Lets `gopark` write the wait reason eight bytes further on.
fn move_wait_reason(binary: &GoBinary, mut data: Vec<u8>) -> Result<Vec<u8>> {
    let function = binary.functions().find("runtime.gopark").context("no gopark")?;
    let start = binary.image().file_offset(function.entry).context("gopark is not in the file")? as usize;
    let code = data.get_mut(start..start + (function.end - function.entry) as usize).context("no code")?;
    let at = binary.layout().field("g", "waitreason").context("no waitreason")?;
    let mut changed = 0;
    if binary.arch().go_name() == "amd64" {
        // mov [reg+disp32],reg8: 88 /r, perhaps behind a REX prefix.
        for start in 0..code.len() - 6 {
            if code[start] == 0x88 && code[start + 2..start + 6] == at.to_le_bytes() {
                code[start + 2..start + 6].copy_from_slice(&(at + 8).to_le_bytes());
                changed += 1;
            }
        }
    } else {
        // strb reg,[reg,#imm12]
        for word in code.chunks_exact_mut(4) {
            let value = u32::from_le_bytes([word[0], word[1], word[2], word[3]]);
            if value & 0xfffc_0000 | (value & 0x003f_fc00) == 0x3900_0000 | at << 10 {
                word.copy_from_slice(&(value + (8 << 10)).to_le_bytes());
                changed += 1;
            }
        }
    }
    ensure!(changed == 1, "gopark writes a byte at {at} in {changed} places");
    Ok(data)
}

/// Go 1.24 changed `m` between 1.24.3 and 1.24.11; the code tells which of the two it is.
fn between_two_rows_the_code_decides() -> Result<()> {
    let go = Go::all().into_iter().find(|go| go.version == "1.24.11").context("no Go 1.24.11")?;
    let dir = tempfile::tempdir()?;
    let path = fixture::build(FIXTURE, &go, Variant::Stripped)?;
    altered(dir.path(), &path, "go1.24.11", "go1.24.10")?;
    let binary = GoBinary::open(&dir.path().join("altered"))?;
    ensure!(
        *binary.layout().source() == Source::Inferred("1.24.11".to_owned()),
        "{}",
        binary.layout().source()
    );
    ensure!(binary.layout().field("m", "alllink") == Some(352));
    Ok(())
}

/// Probes and the search for leaks go by what its own types say.
fn a_release_that_nobody_knows_is_traced() -> Result<()> {
    let mut target = fixture::start("pingpong", &Go::newest(), Variant::Unknown, &["-d", "20s"])?;
    target.say()?;
    let pid = target.pid().to_string();
    let output = sfgi::command(&["trace", "-p", &pid, "-d", "1", "-c", "--format", "json"])?.output()?;
    let (stdout, stderr) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    ensure!(output.status.success() && stderr.contains("its own types"), "{}: {stderr}", output.status);
    let summary: serde_json::Value = serde_json::from_str(stdout.lines().last().context("no summary")?)?;
    ensure!(summary["illegal"] == 0, "{summary:#}");
    let waits = summary["wait_sites"].as_array().context("wait sites")?;
    let waited = waits.iter().any(|site| {
        site["func"].as_str().is_some_and(|func| func.starts_with("main."))
            && site["count"].as_u64() > Some(100)
    });
    ensure!(waited, "{summary:#}");
    let leaks = leaks::json(target.pid(), &["--observe", "300ms"])?;
    ensure!(leaks.doubt.is_none() && leaks.passes > 0, "{:?}", leaks.doubt);
    Ok(())
}

/// The DWARF of a release that is not in the table counts, unless it lacks a field: then it was tampered with.
fn broken_dwarf_falls_back_to_the_table() -> Result<()> {
    let dir = tempfile::tempdir()?;
    let go = Go::newest();
    let plain = dir.path().join("plain");
    let whole = fixture::build(FIXTURE, &go, Variant::Plain)?;
    let mut objcopy = Command::new("objcopy");
    let status = objcopy.arg("--decompress-debug-sections").arg(&whole).arg(&plain).status()?;
    ensure!(status.success(), "objcopy failed: {status}");
    let next = format!("go{}", go.next());
    let known = format!("go{}", go.version);
    altered(dir.path(), &plain, &known, &next)?;
    let path = dir.path().join("altered");
    let unknown = GoBinary::open(&path)?;
    ensure!(*unknown.layout().source() == Source::Dwarf, "{}", unknown.layout().source());
    fixture::replace(&path, "waitreason\0", "weightless\0")?;
    let binary = GoBinary::open(&path)?;
    ensure!(
        *binary.layout().source() == Source::Inferred(go.version.clone()),
        "{}",
        binary.layout().source()
    );
    ensure!(fields(&binary) == fields(&GoBinary::open(&fixture::build(FIXTURE, &go, Variant::Stripped)?)?));
    Ok(())
}
