//! The identity of a process: service, package, unit, container and pod, from what the host itself knows.

use super::target::Program;
use crate::agent::{
    Config,
    picture::{Identity, NameFrom, Pod},
};
use crate::output::clean;
use sfgi_core::process::{Group, Process};
use std::{
    collections::HashMap,
    fs, io,
    path::Path,
    time::{Duration, Instant},
};

/// The only variables of an environment that are kept; the others may be secrets.
const VARIABLES: [&str; 3] = ["OTEL_SERVICE_NAME", "POD_NAME", "POD_NAMESPACE"];
/// The prefix of the variables whose values are labels of a pod.
const LABEL: &str = "POD_LABEL_";
/// The most variables of one process, and characters of a value.
const MAX_LABELS: usize = 64;
const MAX_VALUE: usize = 256;
/// The shortest time between two reads of the directory of logs, so that many new pods do not cause one each.
const PAUSE: Duration = Duration::from_secs(5);
/// The most entries of that directory that are read; a node has some hundred pods.
const MAX_PODS: usize = 4096;

pub(super) fn of(
    process: &Process,
    program: &Program,
    pods: &mut PodNames,
    config: &Config,
) -> io::Result<Identity> {
    let exe = process.exe_name().map_err(io::Error::other)?;
    let group = Group::parse(&process.proc_text("cgroup")?);
    // An environment that cannot be read costs only these names.
    let environment = environment(&process.proc_text("environ").unwrap_or_default());
    let (info, mut identity) = (program.info.as_ref(), Identity::default());
    if let Some(info) = info {
        identity.package = tame(info.path.as_deref().unwrap_or_default());
        identity.module = tame(info.module.as_deref().unwrap_or_default());
        identity.module_version = tame(info.module_version.as_deref().unwrap_or_default());
        identity.go_version = tame(&info.version.raw);
    }
    identity.build_id = program.build_id.clone().unwrap_or_default();
    identity.inner_pid = inner_pid(&process.proc_text("status").unwrap_or_default(), process.pid());
    identity.pod = group.pod.map(|uid| pods.pod(uid, &config.host.pod_logs, &environment));
    let told = environment.iter().find(|(key, _)| key == VARIABLES[0]).map(|(_, value)| value.clone());
    let name =
        || exe.file_name().unwrap_or_default().to_string_lossy().trim_end_matches(" (deleted)").to_owned();
    let unit = || group.unit.as_deref().and_then(|unit| unit.strip_suffix(".service")).map(str::to_owned);
    // What the program says of itself first, then the unit that the administrator named, then the file.
    let told = told.filter(|name| !name.is_empty()).map(|name| (name, NameFrom::Environment));
    let named = told.or_else(|| Some((unit()?, NameFrom::Unit)));
    let (service, from) = named.unwrap_or_else(|| (name(), NameFrom::Exe));
    (identity.service, identity.service_from) = (tame(&service), from);
    let tamed = |name: Option<String>| name.map(|name| tame(&name));
    (identity.unit, identity.container) = (tamed(group.unit), tamed(group.container));
    identity.cgroup = group.path;
    identity.exe = exe;
    Ok(identity)
}

fn environment(text: &str) -> Vec<(String, String)> {
    let variables = text.split('\0').filter_map(|variable| variable.split_once('='));
    let wanted = variables.filter(|(key, _)| VARIABLES.contains(key) || key.starts_with(LABEL));
    wanted
        .take(MAX_LABELS)
        .map(|(key, value)| (tame(key), tame(&value.chars().take(MAX_VALUE).collect::<String>())))
        .collect()
}

/// A name that a target has chosen, without what may mislead: it gets into logs, labels and the hook.
fn tame(name: &str) -> String {
    clean(name).into_owned()
}

/// The PID in the process's own namespace; `None` where it is the same as ours.
fn inner_pid(status: &str, pid: i32) -> Option<u32> {
    let pids = status.lines().find_map(|line| line.strip_prefix("NSpid:"))?;
    let inner = pids.split_ascii_whitespace().next_back()?.parse().ok()?;
    (i64::from(inner) != i64::from(pid)).then_some(inner)
}

/// Names of pods by uid, from the node itself, without an API server. The kubelet keeps the logs of each pod in a
/// directory `NAMESPACE_NAME_UID`. The downward API puts names into environment variables where the pod's author asks
/// for it.
#[derive(Debug, Default)]
pub(super) struct PodNames {
    /// By uid: namespace and name.
    known: HashMap<String, (String, String)>,
    read: Option<Instant>,
}

impl PodNames {
    /// The pod with this uid; `logs` is the kubelet's directory of logs.
    fn pod(&mut self, uid: String, logs: &Path, environment: &[(String, String)]) -> Pod {
        if !self.known.contains_key(&uid) && self.read.is_none_or(|read| read.elapsed() >= PAUSE) {
            self.read = Some(Instant::now());
            self.known = read(logs);
        }
        let variable =
            |name: &str| environment.iter().find(|(key, _)| key == name).map(|(_, value)| value.clone());
        // The name of the directory is the kubelet's, the variables are the program's own: the former is trusted first.
        let (namespace, name) = self.known.get(&uid).cloned().unzip();
        let labels = environment.iter().filter_map(|(key, value)| {
            let name = key.strip_prefix(LABEL).filter(|name| !name.is_empty())?;
            Some((name.to_ascii_lowercase(), value.clone()))
        });
        Pod {
            uid,
            name: name.or_else(|| variable("POD_NAME")),
            namespace: namespace.or_else(|| variable("POD_NAMESPACE")),
            labels: labels.collect(),
        }
    }
}

fn read(logs: &Path) -> HashMap<String, (String, String)> {
    let Ok(entries) = fs::read_dir(logs) else { return HashMap::new() };
    let names = entries.flatten().take(MAX_PODS).filter_map(|entry| entry.file_name().into_string().ok());
    names.filter_map(|name| parse(&name)).collect()
}

/// Parses `NAMESPACE_NAME_UID`. None of the three may contain an underscore (they are DNS names and a UUID), so any
/// other number of parts is something else.
fn parse(name: &str) -> Option<(String, (String, String))> {
    let mut parts = name.split('_').map(str::to_owned);
    let (namespace, name, uid) = (parts.next()?, parts.next()?, parts.next()?);
    parts.next().is_none().then_some((uid, (namespace, name)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn of_an_environment_only_names_are_kept() {
        let kept = environment("SECRET=x\0OTEL_SERVICE_NAME=cart\0POD_LABEL_APP=shop\0PATH=/bin\0");
        let kept: Vec<_> = kept.iter().map(|(key, value)| (key.as_str(), value.as_str())).collect();
        assert_eq!(kept, [("OTEL_SERVICE_NAME", "cart"), ("POD_LABEL_APP", "shop")]);
    }

    #[test]
    fn a_name_that_would_split_a_log_is_tamed() {
        let kept = environment("OTEL_SERVICE_NAME=a\n\u{1b}[31m\u{9b}b\u{202e}c\0");
        assert_eq!(kept[0].1, "a??[31m?b?c");
    }

    #[test]
    fn the_innermost_pid_is_the_last() {
        assert_eq!(inner_pid("Name:\ta\nNSpid:\t4711\t12\t1\n", 4711), Some(1));
        assert_eq!(inner_pid("NSpid:\t4711\n", 4711), None);
        assert_eq!(inner_pid("", 4711), None);
    }

    #[test]
    fn the_logs_name_the_pod_and_the_environment_its_labels() {
        let logs = tempfile::tempdir().unwrap();
        fs::create_dir(logs.path().join("shop_cart-7d4b_0a1b2c3d-1111-2222-3333-444455556666")).unwrap();
        fs::create_dir(logs.path().join("unrelated")).unwrap();
        let environment: Vec<(String, String)> =
            [("POD_NAME", "other"), ("POD_LABEL_TEAM", "blue"), ("POD_LABEL_", "x")]
                .map(|(key, value)| (key.to_owned(), value.to_owned()))
                .into();
        let mut names = PodNames::default();
        let pod = names.pod("0a1b2c3d-1111-2222-3333-444455556666".into(), logs.path(), &environment);
        assert_eq!((pod.namespace.as_deref(), pod.name.as_deref()), (Some("shop"), Some("cart-7d4b")));
        assert_eq!(pod.labels.into_iter().collect::<Vec<_>>(), [("team".to_owned(), "blue".to_owned())]);
        let pod = names.pod("unknown".into(), logs.path(), &environment);
        assert_eq!((pod.namespace, pod.name.as_deref()), (None, Some("other")));
    }
}
