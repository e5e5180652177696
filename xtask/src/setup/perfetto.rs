//! Perfetto's published messages and a reader of them that is not ours: the wheels `perfetto` and `protobuf` of PyPI, in
//! a directory of their own. What reads whole traces, `trace_processor`, is not on PyPI.

use crate::sh;
use anyhow::{Context as _, Result};
use std::{fs, path::PathBuf};

/// What is installed, as pip names it.
const WHEELS: [&str; 2] = ["perfetto==0.59.1", "protobuf==7.36.2"];

/// The module that has the messages.
const MESSAGES: &str = "perfetto/protos/perfetto/trace/perfetto_trace_pb2.py";

/// Whether it is there, complete.
pub(super) fn installed() -> bool {
    directory().is_ok_and(|dir| dir.join(MESSAGES).is_file())
}

/// Installs it into the cache.
pub(super) fn install() -> Result<()> {
    sh::step("the messages of Perfetto", || {
        let dir = directory()?;
        let partial = dir.with_file_name("perfetto.partial");
        sh::remove(&partial)?;
        let mut pip = sh::command("pip3")?;
        pip.args([
            "install",
            "--quiet",
            "--no-deps",
            "--no-compile",
            "--disable-pip-version-check",
            "--target",
        ]);
        sh::output(pip.arg(&partial).args(WHEELS))?;
        sh::remove(&dir)?;
        fs::rename(&partial, &dir).with_context(|| format!("cannot move {} into place", partial.display()))
    })
}

fn directory() -> Result<PathBuf> {
    Ok(sh::cache_dir()?.join("python").join("perfetto"))
}
