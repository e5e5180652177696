//! Builds the Go programs of `fixtures/`, once for each content, toolchain and variant, and starts them. What a
//! fixture does and which arguments it takes is in its `main.go` and in `fixtures/internal/harness`.
//!
//! Built fixtures are kept outside the checkout, in `~/.cache/sfgi/fixtures`, so that a fresh checkout need not build
//! three hundred programs. Each is built from a copy of its sources in that directory, so that the paths in it hold
//! for every checkout.

use std::{
    collections::{BTreeMap, hash_map::DefaultHasher},
    fmt, fs,
    hash::{Hash, Hasher},
    os::unix::fs::PermissionsExt as _,
    path::{Path, PathBuf},
    process::Command,
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, SystemTime},
};

use anyhow::{Context, Result};
use rustix::fs::{AtFlags, CWD, Timestamps, UTIME_NOW, utimensat};
use tempfile::TempDir;

use crate::{machine, process::Process, toolchain, toolchain::Go};

/// All fixtures of `fixtures/internal/harness`: they work for a while.
pub const ALL: [&str; 15] = [
    "pingpong", "workers", "mutex", "selects", "tcpecho", "syscalls", "cgo", "coro", "gcheavy", "panics",
    "short", "preempt", "illegal", "faults", "children",
];

/// How long a fixture may take to say that it is ready, on the slowest machine.
const READY: Duration = Duration::from_secs(120);

/// A fixture that no test has used for so long is removed, and built anew when it is needed.
const UNUSED: Duration = Duration::from_secs(14 * 24 * 60 * 60);

/// How a fixture is built.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Variant {
    /// As `go build` does it.
    Plain,
    /// Without symbol table and DWARF (`-ldflags="-s -w"`).
    Stripped,
    /// Position independent (`-buildmode=pie`).
    Pie,
    /// Both.
    PieStripped,
    /// With a CPU profile of `pingpong`, so that the compiler inlines the hot functions of the
    /// scheduler (Go 1.21+).
    Pgo,
    /// Linked by the C linker (`-ldflags=-linkmode=external`), with cgo.
    External,
    /// With the race detector (`-race`), which is C code.
    Race,
    /// Without the paths of this machine (`-trimpath`).
    Trimpath,
    /// As for a debugger: not optimised, nothing inlined (`-gcflags='all=-N -l'`).
    Unoptimised,
    /// With a `go.mod` that says `go 1.23`, so that nothing behaves as in older releases (Go 1.23+).
    NewModule,
    /// Stripped, as a release of the next series that nobody knows would build it: with fields in the runtime's structs
    /// that no release has ([`NEW_FIELDS`]).
    Unknown,
}

/// Before which line of which file in `src/runtime` [`Variant::Unknown`] has a new field; holds for Go 1.25 to 1.27.
const NEW_FIELDS: [(&str, &str); 6] = [
    ("runtime2.go", "\tparentGoid "),
    ("runtime2.go", "\tcurg "),
    ("runtime2.go", "\tisSelect bool"),
    ("runtime2.go", "\tgoidcache "),
    ("chan.go", "\trecvq "),
    ("mheap.go", "\tallocCount "),
];

impl Variant {
    /// The builds that differ in where they are loaded and whether they have symbols. Of a release between the oldest
    /// and the newest only the two that differ in both, because each build takes its time once.
    pub fn unprofiled(go: &Go) -> Vec<Variant> {
        if go.is_end() {
            vec![Variant::Plain, Variant::Stripped, Variant::Pie, Variant::PieStripped]
        } else {
            vec![Variant::Plain, Variant::PieStripped]
        }
    }

    /// [`unprofiled`](Self::unprofiled), and a profile-guided build where the release can make one.
    pub fn all(go: &Go) -> Vec<Variant> {
        let mut all = Variant::unprofiled(go);
        if go.minor >= 21 {
            all.push(Variant::Pgo);
        }
        all
    }
}

impl fmt::Display for Variant {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Variant::Plain => "plain",
            Variant::Stripped => "stripped",
            Variant::Pie => "pie",
            Variant::PieStripped => "pie+stripped",
            Variant::Pgo => "pgo",
            Variant::External => "external",
            Variant::Race => "race",
            Variant::Trimpath => "trimpath",
            Variant::Unoptimised => "unoptimised",
            Variant::NewModule => "new-module",
            Variant::Unknown => "unknown",
        })
    }
}

/// Whether this release can build the fixture.
pub fn supported(name: &str, go: &Go) -> bool {
    !matches!(name, "coro" | "pulls") || go.minor >= 23
}

/// Path of the built fixture; builds it if it is not there yet.
///
/// # Errors
/// `go build` fails, or the profile for [`Variant::Pgo`] cannot be recorded.
pub fn build(name: &str, go: &Go, variant: Variant) -> Result<PathBuf> {
    build_for(name, go, variant, None)
}

/// As [`build`], for a processor other than this machine's (its `GOARCH`).
///
/// # Errors
/// As [`build`].
pub fn build_for(name: &str, go: &Go, variant: Variant, arch: Option<&str>) -> Result<PathBuf> {
    let (key, kept) = (content_hash(name)?, kept_dir());
    let dir = kept.join(format!("{name}-{key:016x}"));
    let version = [go.version.as_str()].into_iter().chain(arch).collect::<Vec<_>>().join("-");
    let binary = dir.join(format!("{name}-{version}-{variant}"));
    // Tests that run beside each other may want the same fixture.
    let lock = lock_of(&binary);
    let _building = lock.lock().unwrap_or_else(PoisonError::into_inner);
    if binary.exists() {
        // The time of the last use, for `forget_unused`.
        let now = Timestamps { last_access: NOW, last_modification: NOW };
        utimensat(CWD, &binary, &now, AtFlags::empty()).with_context(|| binary.display().to_string())?;
        return Ok(binary);
    }
    let sources = copied_sources(name, &dir)?;
    // Only a finished binary gets the name that other tests look for.
    let unfinished = dir.join(format!("{version}-{variant}.{}", std::process::id()));
    let cgo = name.starts_with("cgo") || matches!(variant, Variant::External | Variant::Race);
    let mut command = go.command();
    command.current_dir(&sources).env("CGO_ENABLED", if cgo { "1" } else { "0" });
    if let Some(arch) = arch {
        command.env("GOARCH", arch);
    }
    command
        .args(["build", "-buildvcs=false"])
        .arg("-o")
        .arg(&unfinished)
        .arg(format!("-ldflags={}", linker_flags(name, go, variant)));
    match variant {
        Variant::Plain | Variant::Stripped | Variant::External => {}
        Variant::Race => {
            command.arg("-race");
        }
        Variant::Trimpath => {
            command.arg("-trimpath");
        }
        Variant::Pie | Variant::PieStripped => {
            command.arg("-buildmode=pie");
        }
        Variant::Unoptimised => {
            command.arg("-gcflags=all=-N -l");
        }
        Variant::NewModule => {
            let module = dir.join("new.mod");
            fs::write(&module, "module fixtures\n\ngo 1.23\n")?;
            command.arg(format!("-modfile={}", module.display()));
        }
        Variant::Unknown => {
            command.arg("-overlay").arg(with_new_fields(go, &dir)?);
        }
        Variant::Pgo => {
            command.arg(format!("-pgo={}", profile(go)?.display()));
        }
    }
    toolchain::output(command.arg(format!("./{name}")))?;
    if variant == Variant::Unknown {
        replace(&unfinished, &format!("go{}", go.version), &format!("go{}", go.next()))?;
    }
    fs::rename(&unfinished, &binary)?;
    Ok(binary)
}

/// Builds the fixture and starts it with these arguments; it waits for a line on its stdin
/// ([`Process::say`]) before it works. Returns when it has said that it is ready.
///
/// # Errors
/// It cannot be built or started, or does not become ready.
pub fn start(name: &str, go: &Go, variant: Variant, args: &[&str]) -> Result<Process> {
    start_command(Command::new(build(name, go, variant)?).args(args))
}

/// As [`start`], for a command that runs a fixture, possibly with more environment.
///
/// # Errors
/// As [`start`].
pub fn start_command(command: &mut Command) -> Result<Process> {
    let process = Process::spawn(command.env("FIXTURE_WAIT", "1"))?;
    process.stdout.wait_for(READY, |line| line.ends_with(" ready"))?;
    Ok(process)
}

/// A fixture that no other test runs: a copy in a directory of its own. An agent that watches only this copy sees
/// nothing that a test beside it has started.
#[derive(Debug)]
pub struct Own {
    /// The directory of the copy, with room for files of the test.
    pub dir: TempDir,
    pub exe: PathBuf,
}

impl Own {
    /// Builds the fixture and copies it; the copy has the fixture's name.
    ///
    /// # Errors
    /// As [`build`]; there is no room.
    pub fn new(name: &str, go: &Go, variant: Variant) -> Result<Own> {
        // Other users may run it, too.
        let readable = fs::Permissions::from_mode(0o755);
        let dir = tempfile::Builder::new().permissions(readable).tempdir()?;
        let exe = dir.path().join(name);
        fs::copy(build(name, go, variant)?, &exe)?;
        Ok(Own { dir, exe })
    }

    /// The regular expression for `--include` that only the copy matches.
    pub fn include(&self) -> String {
        format!("^{}/", self.dir.path().display())
    }

    /// As [`start`](self::start).
    ///
    /// # Errors
    /// As [`start`](self::start).
    pub fn start(&self, args: &[&str]) -> Result<Process> {
        start_command(Command::new(&self.exe).args(args))
    }
}

/// As [`start`], from an executable that no other test runs: [`Own`].
///
/// # Errors
/// As [`start`].
pub fn start_own(name: &str, go: &Go, variant: Variant, args: &[&str]) -> Result<Process> {
    let own = Own::new(name, go, variant)?;
    Ok(own.start(args)?.keeping(own.dir))
}

/// The line of a fixture's source that contains this text.
///
/// # Errors
/// There is none.
pub fn line_of(name: &str, text: &str) -> Result<u32> {
    let source = fs::read_to_string(sources_dir().join(name).join("main.go"))?;
    let index = source.lines().position(|line| line.contains(text)).with_context(|| text.to_owned())?;
    Ok(u32::try_from(index)? + 1)
}

fn linker_flags(name: &str, go: &Go, variant: Variant) -> String {
    let mut flags = Vec::new();
    if matches!(variant, Variant::Stripped | Variant::PieStripped | Variant::Unknown) {
        flags.push("-s -w");
    }
    if variant == Variant::External {
        flags.push("-linkmode=external");
    }
    // From Go 1.23 on the linker refuses references to the runtime's own functions without this.
    if name == "illegal" && go.minor >= 23 {
        flags.push("-checklinkname=0");
    }
    flags.join(" ")
}

/// Writes changed files of package runtime, and the file for `go build -overlay` that puts them in the place of the
/// real ones; gives the path of that.
fn with_new_fields(go: &Go, dir: &Path) -> Result<PathBuf> {
    let mut sources = BTreeMap::new();
    for (file, line) in NEW_FIELDS {
        let source = go.root().join("src/runtime").join(file);
        let text = match sources.remove(&source) {
            Some(text) => text,
            None => fs::read_to_string(&source).with_context(|| source.display().to_string())?,
        };
        anyhow::ensure!(text.matches(&format!("\n{line}")).count() == 1, "{file} has no single {line:?}");
        let changed = text.replace(&format!("\n{line}"), &format!("\n\tnobodyKnows uintptr\n{line}"));
        sources.insert(source, changed);
    }
    let changed = dir.join(format!("runtime-{}-unknown", go.version));
    fs::create_dir_all(&changed)?;
    let mut places = BTreeMap::new();
    for (source, text) in sources {
        let place = changed.join(source.file_name().context("no name")?);
        fs::write(&place, text)?;
        places.insert(source, place);
    }
    let overlay = changed.join("overlay.json");
    fs::write(&overlay, serde_json::json!({ "Replace": places }).to_string())?;
    Ok(overlay)
}

/// Puts another text of the same length in the place of one, everywhere in a file.
///
/// # Errors
/// The text is nowhere, or has another length.
pub fn replace(file: &Path, from: &str, to: &str) -> Result<()> {
    anyhow::ensure!(from.len() == to.len(), "{from} is not as long as {to}");
    let mut data = fs::read(file)?;
    let places: Vec<_> = (0..data.len().saturating_sub(from.len()))
        .filter(|at| data[*at..].starts_with(from.as_bytes()))
        .collect();
    anyhow::ensure!(!places.is_empty(), "{from} is nowhere in {}", file.display());
    for at in places {
        data[at..at + to.len()].copy_from_slice(to.as_bytes());
    }
    Ok(fs::write(file, data)?)
}

/// The CPU profile of this release's plain `pingpong`, which records it itself, once.
fn profile(go: &Go) -> Result<PathBuf> {
    let binary = build("pingpong", go, Variant::Plain)?;
    let profile = PathBuf::from(format!("{}.profile", binary.display()));
    let lock = lock_of(&profile);
    let _recording = lock.lock().unwrap_or_else(PoisonError::into_inner);
    if !profile.exists() {
        let unfinished = PathBuf::from(format!("{}.{}", profile.display(), std::process::id()));
        toolchain::output(Command::new(&binary).args(["-d", "2s"]).env("FIXTURE_CPUPROFILE", &unfinished))?;
        fs::rename(&unfinished, &profile)?;
    }
    Ok(profile)
}

fn kept_dir() -> PathBuf {
    machine::cache_dir().join("fixtures")
}

/// Removes the fixtures that no test has used for [`UNUSED`]: those of sources and toolchains that are gone.
///
/// # Errors
/// They cannot be removed.
pub fn forget_unused() -> Result<()> {
    let Ok(fixtures) = fs::read_dir(kept_dir()) else { return Ok(()) };
    for fixture in fixtures {
        let dir = fixture?.path();
        let mut used = false;
        for file in fs::read_dir(&dir)? {
            let file = file?;
            let meta = file.metadata()?;
            let age = SystemTime::now().duration_since(meta.modified()?).unwrap_or_default();
            if meta.is_dir() || age < UNUSED {
                used |= meta.is_file();
            } else {
                fs::remove_file(file.path())?;
            }
        }
        if !used {
            fs::remove_dir_all(&dir)?;
        }
    }
    Ok(())
}

const NOW: rustix::fs::Timespec = rustix::fs::Timespec { tv_sec: 0, tv_nsec: UTIME_NOW };

/// The lock of the file that is built or copied.
fn lock_of(file: &Path) -> Arc<Mutex<()>> {
    static LOCKS: Mutex<BTreeMap<PathBuf, Arc<Mutex<()>>>> = Mutex::new(BTreeMap::new());
    let mut locks = LOCKS.lock().unwrap_or_else(PoisonError::into_inner);
    Arc::clone(locks.entry(file.to_owned()).or_default())
}

/// What a fixture is built from, as paths within [`sources_dir`].
fn parts(name: &str) -> [PathBuf; 3] {
    [name.into(), "internal".into(), "go.mod".into()]
}

/// The directory with a copy of the fixture's sources, beside its binaries; makes the copy if it is not there.
fn copied_sources(name: &str, dir: &Path) -> Result<PathBuf> {
    let sources = dir.join("src");
    let lock = lock_of(&sources);
    let _copying = lock.lock().unwrap_or_else(PoisonError::into_inner);
    if !sources.exists() {
        fs::create_dir_all(dir)?;
        let unfinished = tempfile::tempdir_in(dir)?;
        for part in parts(name) {
            copy_tree(&sources_dir().join(&part), &unfinished.path().join(&part))?;
        }
        // Another test run, with locks of its own, may have been quicker.
        let renamed = fs::rename(unfinished.path(), &sources);
        anyhow::ensure!(
            renamed.is_ok() || sources.exists(),
            "cannot copy to {}: {renamed:?}",
            sources.display()
        );
    }
    Ok(sources)
}

fn copy_tree(from: &Path, to: &Path) -> Result<()> {
    if !from.is_dir() {
        return fs::copy(from, to).map(drop).with_context(|| from.display().to_string());
    }
    fs::create_dir_all(to)?;
    for entry in fs::read_dir(from)? {
        let name = entry?.file_name();
        copy_tree(&from.join(&name), &to.join(&name))?;
    }
    Ok(())
}

/// The sources of the fixtures, a directory each.
pub fn sources_dir() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("fixtures")
}

fn content_hash(name: &str) -> Result<u64> {
    let mut hasher = DefaultHasher::new();
    for part in parts(name) {
        hash_tree(&part, &mut hasher)?;
    }
    Ok(hasher.finish())
}

fn hash_tree(part: &Path, hasher: &mut DefaultHasher) -> Result<()> {
    part.hash(hasher);
    let path = sources_dir().join(part);
    if path.is_dir() {
        let mut names =
            fs::read_dir(path)?.map(|e| e.map(|e| e.file_name())).collect::<Result<Vec<_>, _>>()?;
        // `read_dir` has no order, and the hash must not depend on one.
        names.sort();
        names.iter().try_for_each(|name| hash_tree(&part.join(name), hasher))
    } else {
        fs::read(&path).with_context(|| path.display().to_string())?.hash(hasher);
        Ok(())
    }
}
