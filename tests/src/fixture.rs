//! Builds the Go programs of `fixtures/`, once for each content, toolchain and variant, and starts
//! them. What each does and which arguments it takes stands in its `main.go` and in
//! `fixtures/internal/harness`.

use std::{
    collections::hash_map::DefaultHasher,
    fmt, fs,
    hash::{Hash, Hasher},
    os::unix::fs::PermissionsExt as _,
    path::{Path, PathBuf},
    process::Command,
    time::Duration,
};

use anyhow::{Context, Result};
use tempfile::TempDir;

use crate::{machine, process::Process, toolchain, toolchain::Go};

/// All fixtures of `fixtures/internal/harness`: they work for a while.
pub const ALL: [&str; 15] = [
    "pingpong", "workers", "mutex", "selects", "tcpecho", "syscalls", "cgo", "coro", "gcheavy", "panics",
    "short", "preempt", "illegal", "faults", "children",
];

/// How long a fixture may take to say that it is ready, on the slowest machine.
const READY: Duration = Duration::from_secs(120);

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
}

impl Variant {
    /// The builds that can be told apart by where they lie and whether they have symbols. Of a release between the
    /// oldest and the newest only the two that differ in both: each takes its time the first time.
    pub fn unprofiled(go: &Go) -> Vec<Variant> {
        if go.is_end() {
            vec![Variant::Plain, Variant::Stripped, Variant::Pie, Variant::PieStripped]
        } else {
            vec![Variant::Plain, Variant::PieStripped]
        }
    }

    /// As [`unprofiled`](Self::unprofiled), and with a profile.
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
        })
    }
}

/// Whether this release can build the fixture at all.
pub fn supported(name: &str, go: &Go) -> bool {
    name != "coro" || go.minor >= 23
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
    let sources = sources_dir();
    let dir = machine::target_dir().join("fixtures");
    fs::create_dir_all(&dir)?;
    let key = content_hash(&[sources.join(name), sources.join("internal"), sources.join("go.mod")])?;
    let version = [go.version.as_str()].into_iter().chain(arch).collect::<Vec<_>>().join("-");
    let binary = dir.join(format!("{name}-{version}-{variant}-{key:016x}"));
    if binary.exists() {
        return Ok(binary);
    }
    // Only a finished binary gets the name that others look for.
    let unfinished = dir.join(format!("{name}.{}", std::process::id()));
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
        Variant::Pgo => {
            command.arg(format!("-pgo={}", profile(go)?.display()));
        }
    }
    toolchain::output(command.arg(format!("./{name}")))?;
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

/// A fixture that nobody else runs: a copy in a directory of its own. An agent that is told to watch only that sees
/// nothing of what a test beside it has started.
#[derive(Debug)]
pub struct Own {
    /// Where it lies, with room for files of the test.
    pub dir: TempDir,
    /// The copy.
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

    /// The regular expression by which an agent includes its executable only.
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

/// As [`start`], of an executable that nobody else runs: [`Own`].
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
    if matches!(variant, Variant::Stripped | Variant::PieStripped) {
        flags.push("-s -w");
    }
    if variant == Variant::External {
        flags.push("-linkmode=external");
    }
    if name == "illegal" && go.minor >= 23 {
        flags.push("-checklinkname=0");
    }
    flags.join(" ")
}

/// A CPU profile of the plain `pingpong` of this release, recorded by itself, once.
fn profile(go: &Go) -> Result<PathBuf> {
    let binary = build("pingpong", go, Variant::Plain)?;
    let profile = binary.with_extension("profile");
    if !profile.exists() {
        let unfinished = profile.with_extension(std::process::id().to_string());
        toolchain::output(Command::new(&binary).args(["-d", "2s"]).env("FIXTURE_CPUPROFILE", &unfinished))?;
        fs::rename(&unfinished, &profile)?;
    }
    Ok(profile)
}

/// Where the sources of the fixtures lie, a directory each.
pub fn sources_dir() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("fixtures")
}

fn content_hash(paths: &[PathBuf]) -> Result<u64> {
    let mut hasher = DefaultHasher::new();
    for path in paths {
        hash_tree(path, &mut hasher)?;
    }
    Ok(hasher.finish())
}

fn hash_tree(path: &Path, hasher: &mut DefaultHasher) -> Result<()> {
    path.hash(hasher);
    if path.is_dir() {
        let mut entries = fs::read_dir(path)?.map(|e| e.map(|e| e.path())).collect::<Result<Vec<_>, _>>()?;
        entries.sort();
        entries.iter().try_for_each(|entry| hash_tree(entry, hasher))
    } else {
        fs::read(path).with_context(|| path.display().to_string())?.hash(hasher);
        Ok(())
    }
}
