//! The name of a pod, from what the node itself has: no API server is asked.
//!
//! The kubelet keeps the logs of each pod in a directory `NAMESPACE_NAME_UID`; and the downward API puts names
//! into environment variables, where the pod's author wants that.

use crate::agent::picture::Pod;
use std::{
    collections::HashMap,
    fs,
    path::Path,
    time::{Duration, Instant},
};

/// Between two looks into the directory of logs.
const PAUSE: Duration = Duration::from_secs(5);
/// Directories that are looked at: a node has some hundred pods.
const MAX_PODS: usize = 4096;
/// The prefix of the variables whose values are labels.
const LABEL: &str = "POD_LABEL_";

/// Names of pods by uid.
#[derive(Debug, Default)]
pub(super) struct PodNames {
    /// Namespace and name.
    known: HashMap<String, (String, String)>,
    read: Option<Instant>,
}

impl PodNames {
    /// The pod with this uid; `logs`: where the kubelet keeps them.
    pub(super) fn pod(&mut self, uid: String, logs: &Path, environment: &[(String, String)]) -> Pod {
        if !self.known.contains_key(&uid) && self.read.is_none_or(|read| read.elapsed() >= PAUSE) {
            self.read = Some(Instant::now());
            self.known = read(logs);
        }
        let variable =
            |name: &str| environment.iter().find(|(key, _)| key == name).map(|(_, value)| value.clone());
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

/// Neither of the three has an underscore in it.
fn parse(name: &str) -> Option<(String, (String, String))> {
    let mut parts = name.split('_').map(str::to_owned);
    let (namespace, name, uid) = (parts.next()?, parts.next()?, parts.next()?);
    parts.next().is_none().then_some((uid, (namespace, name)))
}

#[cfg(test)]
mod tests {
    use super::*;

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
