//! What a process is: names for it, from everything that the host tells.

use super::{cgroup::Group, kubernetes::PodNames, programs::Program};
use crate::agent::{picture::Identity, settings::Settings};
use sfgi_core::process::Process;
use std::{
    fs::File,
    io::{self, Read as _},
    path::Path,
};

/// Bytes of a file of `/proc` that are read: a process may make its environment as large as it likes.
const MAX_FILE: u64 = 256 << 10;
/// The only variables of an environment that are looked at; what else is in it is nobody's business.
const VARIABLES: [&str; 3] = ["OTEL_SERVICE_NAME", "POD_NAME", "POD_NAMESPACE"];
const LABELS: &str = "POD_LABEL_";
/// Labels of a pod, and characters of a value.
const MAX_LABELS: usize = 64;
const MAX_VALUE: usize = 256;

/// Asks the host.
pub(super) fn of(
    process: &Process,
    program: &Program,
    pods: &mut PodNames,
    settings: &Settings,
) -> io::Result<Identity> {
    let exe = process.exe_name().map_err(io::Error::other)?;
    let group = Group::parse(&text(process.pid(), "cgroup")?);
    let environment = environment(&text(process.pid(), "environ").unwrap_or_default());
    let (info, mut identity) = (program.info.as_ref(), Identity::default());
    if let Some(info) = info {
        identity.package = info.path.clone().unwrap_or_default();
        identity.module = info.module.clone().unwrap_or_default();
        identity.module_version = info.module_version.clone().unwrap_or_default();
        identity.go_version.clone_from(&info.version.raw);
    }
    identity.build_id = program.build_id.clone().unwrap_or_default();
    identity.inner_pid = inner_pid(&text(process.pid(), "status").unwrap_or_default(), process.pid());
    identity.pod = group.pod.map(|uid| pods.pod(uid, &settings.host.pod_logs, &environment));
    let told = environment.iter().find(|(key, _)| key == VARIABLES[0]).map(|(_, value)| value.clone());
    let name =
        || exe.file_name().unwrap_or_default().to_string_lossy().trim_end_matches(" (deleted)").to_owned();
    let unit = || group.unit.as_deref().and_then(|unit| unit.strip_suffix(".service")).map(str::to_owned);
    identity.service = told.filter(|name| !name.is_empty()).or_else(unit).unwrap_or_else(name);
    (identity.unit, identity.container, identity.cgroup) = (group.unit, group.container, group.path);
    identity.exe = exe;
    Ok(identity)
}

fn text(pid: i32, name: &str) -> io::Result<String> {
    let mut bytes = Vec::new();
    File::open(Path::new("/proc").join(pid.to_string()).join(name))?
        .take(MAX_FILE)
        .read_to_end(&mut bytes)?;
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}

fn environment(text: &str) -> Vec<(String, String)> {
    let variables = text.split('\0').filter_map(|variable| variable.split_once('='));
    let wanted = variables.filter(|(key, _)| VARIABLES.contains(key) || key.starts_with(LABELS));
    wanted
        .take(MAX_LABELS)
        .map(|(key, value)| (key.to_owned(), value.chars().take(MAX_VALUE).collect()))
        .collect()
}

/// The PID in the innermost namespace, where that is another.
fn inner_pid(status: &str, pid: i32) -> Option<u32> {
    let pids = status.lines().find_map(|line| line.strip_prefix("NSpid:"))?;
    let inner = pids.split_ascii_whitespace().next_back()?.parse().ok()?;
    (i64::from(inner) != i64::from(pid)).then_some(inner)
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
    fn the_innermost_pid_is_the_last() {
        assert_eq!(inner_pid("Name:\ta\nNSpid:\t4711\t12\t1\n", 4711), Some(1));
        assert_eq!(inner_pid("NSpid:\t4711\n", 4711), None);
        assert_eq!(inner_pid("", 4711), None);
    }
}
