//! The Go toolchains of this machine: `$SFGI_GO_DIR/<version>/go`, by default in `~/.cache/sfgi/go`, and Debian's
//! `/usr/lib/go-1.19`.

use std::{
    env, fs,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context, Result};

/// Releases (1.N) that continuous integration must cover.
const REQUIRED: [u32; 6] = [19, 21, 23, 25, 26, 27];

/// The first release whose `runtime/trace` tells every state transition in the format that [`crate::gotrace`] reads.
/// 1.22 has the format, but no event for `coroswitch` (`src/runtime/coro.go`).
pub const TRACE_SINCE: u32 = 23;

/// One Go toolchain.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Go {
    /// The N of 1.N.
    pub minor: u32,
    /// As the toolchain calls itself, without `go`: `1.26.6`.
    pub version: String,
    root: PathBuf,
}

impl Go {
    /// All toolchains found, oldest first.
    ///
    /// # Panics
    /// There is none; or, with `CI` set, one of the required releases is missing.
    pub fn all() -> Vec<Go> {
        let mut roots = vec![PathBuf::from("/usr/lib/go-1.19")];
        if let Ok(entries) = fs::read_dir(toolchains_dir()) {
            roots.extend(entries.flatten().map(|entry| entry.path().join("go")));
        }
        let mut all: Vec<Go> = roots.iter().filter_map(|root| Go::at(root)).collect();
        all.sort();
        assert!(
            !all.is_empty(),
            "no Go toolchain in {}: run `cargo xtask setup`",
            toolchains_dir().display()
        );
        if env::var_os("CI").is_some() {
            for minor in REQUIRED {
                assert!(
                    all.iter().any(|go| go.minor == minor),
                    "Go 1.{minor} is missing: run `cargo xtask setup`"
                );
            }
        }
        all
    }

    /// The toolchains whose execution tracer can be held against sfgi.
    pub fn with_trace() -> Vec<Go> {
        Go::all().into_iter().filter(|go| go.minor >= TRACE_SINCE).collect()
    }

    /// Whether this is the oldest or the newest toolchain of the machine.
    pub fn is_end(&self) -> bool {
        let all = Go::all();
        [all.first(), all.last()].contains(&Some(self))
    }

    /// The version of the next series with the same patch, which no toolchain here has: of 1.27.3 1.28.3.
    pub fn next(&self) -> String {
        format!("1.{}.{}", self.minor + 1, self.version.split('.').nth(2).unwrap_or("0"))
    }

    /// The newest toolchain.
    pub fn newest() -> Go {
        Go::all().pop().expect("all() is never empty")
    }

    /// The `go` command of this toolchain, which uses no other and never the network.
    pub fn command(&self) -> Command {
        let mut command = Command::new(self.root.join("bin/go"));
        command
            .env("GOROOT", &self.root)
            .env("GOTOOLCHAIN", "local")
            .env("GOPROXY", "off")
            .env_remove("GOFLAGS");
        command
    }

    /// The directory of this toolchain (`GOROOT`).
    pub fn root(&self) -> &Path {
        &self.root
    }

    fn at(root: &Path) -> Option<Go> {
        let text = fs::read_to_string(root.join("VERSION")).ok()?;
        let version = text.lines().next()?.strip_prefix("go")?.to_owned();
        let minor = version.split('.').nth(1)?.parse().ok()?;
        Some(Go { minor, version, root: root.to_owned() })
    }
}

fn toolchains_dir() -> PathBuf {
    match env::var_os("SFGI_GO_DIR") {
        Some(dir) => dir.into(),
        None => PathBuf::from(env::var_os("HOME").unwrap_or_default()).join(".cache/sfgi/go"),
    }
}

/// Runs a command to its end and returns its stdout.
///
/// # Errors
/// It cannot be started or fails; the error holds its stderr.
pub fn output(command: &mut Command) -> Result<Vec<u8>> {
    let output = command.output().with_context(|| format!("cannot run {command:?}"))?;
    let stderr = String::from_utf8_lossy(&output.stderr);
    anyhow::ensure!(output.status.success(), "{command:?}: {}\n{stderr}", output.status);
    Ok(output.stdout)
}
