//! The files of `deploy/`, read as the programs that they are for read them.

use std::{collections::BTreeMap, fs, path::PathBuf, process::Command};

use anyhow::{Context, Result, ensure};
use rustix::thread::CapabilitySet;
use serde_json::Value;

use crate::{machine, toolchain};

pub fn file(name: &str) -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../deploy").join(name)
}

pub fn text(name: &str) -> Result<String> {
    fs::read_to_string(file(name)).with_context(|| format!("deploy/{name}"))
}

/// The `[Service]` section of a systemd unit.
#[derive(Debug)]
pub struct Unit(BTreeMap<String, Vec<String>>);

impl Unit {
    /// Reads one.
    ///
    /// # Errors
    /// It is not there, or a line has no `=`.
    pub fn read(name: &str) -> Result<Unit> {
        let mut settings: BTreeMap<String, Vec<String>> = BTreeMap::new();
        let text = text(name)?;
        let lines = text.lines().skip_while(|line| *line != "[Service]").skip(1);
        for line in lines.take_while(|line| !line.starts_with('[')).filter(|line| !line.starts_with('#')) {
            if line.is_empty() {
                continue;
            }
            let (key, value) = line.split_once('=').with_context(|| line.to_owned())?;
            settings.entry(key.to_owned()).or_default().push(value.to_owned());
        }
        Ok(Unit(settings))
    }

    /// All values of a setting, in the order of their lines.
    pub fn all(&self, key: &str) -> &[String] {
        self.0.get(key).map_or(&[], Vec::as_slice)
    }

    /// The only value of a setting.
    ///
    /// # Errors
    /// It has none, or several.
    pub fn one(&self, key: &str) -> Result<&str> {
        let all = self.all(key);
        ensure!(all.len() == 1, "{key} has {} values", all.len());
        Ok(&all[0])
    }

    /// Whether a setting is `yes`.
    pub fn is(&self, key: &str) -> bool {
        self.all(key) == ["yes"]
    }
}

/// Capabilities by their names, with or without `CAP_`.
///
/// # Errors
/// One is none.
pub fn capabilities<'a>(names: impl IntoIterator<Item = &'a str>) -> Result<CapabilitySet> {
    let mut set = CapabilitySet::empty();
    for name in names {
        let short = name.trim_start_matches("CAP_");
        set |= CapabilitySet::from_name(short).with_context(|| format!("{name} is no capability"))?;
    }
    Ok(set)
}

/// Reads YAML as JSON, and refuses a key that is given twice.
const YAML_TO_JSON: &str = "
import json, sys, yaml

class Strict(yaml.SafeLoader):
    def construct_mapping(self, node, deep=False):
        keys = [self.construct_object(key, deep) for key, _ in node.value]
        twice = {key for key in keys if keys.count(key) > 1}
        if twice:
            raise SystemExit(f'given twice: {twice}, {node.start_mark}')
        return super().construct_mapping(node, deep)

json.dump(list(yaml.load_all(open(sys.argv[1]), Strict)), sys.stdout)
";

/// A file of Kubernetes objects, and the validator that holds it against the schemas of Kubernetes' releases.
#[derive(Debug)]
pub struct Kubernetes {
    wheels: PathBuf,
    /// The objects of the file.
    pub objects: Vec<Value>,
}

impl Kubernetes {
    /// Reads a file of `deploy/`.
    ///
    /// # Errors
    /// It is no YAML, or `cargo xtask setup` has not run.
    pub fn read(name: &str) -> Result<Kubernetes> {
        let wheels = machine::wheels("kubernetes")?;
        let mut python = Command::new("python3");
        python.env("PYTHONPATH", &wheels).env("PYTHONDONTWRITEBYTECODE", "1");
        let json = toolchain::output(python.args(["-c", YAML_TO_JSON]).arg(file(name)))?;
        Ok(Kubernetes { wheels, objects: serde_json::from_slice(&json)? })
    }

    /// Holds a file of `deploy/` against the schemas of a release such as `1.30`; a key that they do not have is an
    /// error.
    ///
    /// # Errors
    /// It does not fit.
    pub fn validate(&self, name: &str, release: &str) -> Result<()> {
        let mut python = Command::new("python3");
        python.env("PYTHONPATH", &self.wheels).env("PYTHONDONTWRITEBYTECODE", "1");
        python.args(["-m", "kubernetes_validate", "--strict", "-k", release]).arg(file(name));
        toolchain::output(&mut python).map(drop).with_context(|| format!("Kubernetes {release}"))
    }

    /// The only object of a kind.
    ///
    /// # Errors
    /// There is none, or there are several.
    pub fn one(&self, kind: &str) -> Result<&Value> {
        let mut these = self.objects.iter().filter(|object| object["kind"] == kind);
        let one = these.next().with_context(|| format!("no {kind}"))?;
        ensure!(these.next().is_none(), "more than one {kind}");
        Ok(one)
    }
}
