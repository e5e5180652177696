//! Container, pod and systemd unit of a process, from the path of its control group.
//!
//! Knows the names that docker, containerd, CRI-O and podman make, with systemd's slices and with plain directories,
//! in control groups v1 and v2. A path may begin with `/..` if the process is outside of our own namespace of control
//! groups.

/// The control group of a process and what its path tells.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Group {
    /// The path of the group that holds the memory limit, from the root of the hierarchy; empty: not told.
    pub path: String,
    /// The id of the innermost container.
    pub container: Option<String>,
    /// The uid of the pod, with dashes; of a static pod the hash that stands for one.
    pub pod: Option<String>,
    /// The innermost systemd unit that is not the scope of a container.
    pub unit: Option<String>,
}

impl Group {
    /// Parses the text of `/proc/PID/cgroup`.
    pub fn parse(text: &str) -> Group {
        let entries: Vec<(&str, &str)> = text
            .lines()
            .filter_map(|line| {
                let mut fields = line.splitn(3, ':');
                let (_, controllers, path) = (fields.next()?, fields.next()?, fields.next()?);
                Some((controllers, path))
            })
            .collect();
        let of = |wanted: &str| {
            let has = |(controllers, _): &&(&str, &str)| controllers.split(',').any(|name| name == wanted);
            entries.iter().find(has).map(|(_, path)| *path)
        };
        // On a hybrid host the path of v2 may tell nothing while that of a v1 controller does.
        let paths = [of(""), of("memory"), of("name=systemd"), of("cpu"), of("pids")];
        let told = paths.iter().flatten().map(|path| Group::of_path(path));
        let best = told.max_by_key(|group| {
            let known = [group.container.is_some(), group.pod.is_some(), group.unit.is_some()];
            known.iter().filter(|known| **known).count()
        });
        let mut group = best.unwrap_or_default();
        // Independent of the choice above: the path is used to read the memory limit.
        let path = of("memory").or_else(|| of("")).unwrap_or_default();
        path.clone_into(&mut group.path);
        group
    }

    fn of_path(path: &str) -> Group {
        let mut group = Group::default();
        for part in path.split('/') {
            // Without systemd, containerd writes slice, kind and id into one name: `kubepods-…:cri-containerd:ID`.
            for piece in part.split(':') {
                if let Some(uid) = pod(piece) {
                    group.pod = Some(uid);
                }
                if let Some(id) = container(piece) {
                    // Units outside of the container (the engine's own service) are not what the process is.
                    (group.container, group.unit) = (Some(id), None);
                }
            }
            let unit = part.ends_with(".service") || part.ends_with(".scope") || part.ends_with(".socket");
            if unit && container(part).is_none() && !part.starts_with("crio-conmon-") && part != "init.scope"
            {
                group.unit = Some(part.to_owned());
            }
        }
        group
    }
}

/// The uid in the name of a pod's group: `…pod0f3c1a2b_….slice` with systemd, `pod0f3c1a2b-…` without.
fn pod(part: &str) -> Option<String> {
    let part = part.strip_suffix(".slice").unwrap_or(part);
    let uid = part.rsplit_once("pod").map(|(_, uid)| uid)?;
    let uid = uid.replace('_', "-");
    let groups: Vec<usize> = uid.split('-').map(str::len).collect();
    let hexadecimal = |text: &str| text.bytes().all(|byte| byte.is_ascii_hexdigit() || byte == b'-');
    // Static pods have a hash in place of a uid.
    let shaped = groups == [8, 4, 4, 4, 12] || groups == [32];
    (shaped && hexadecimal(&uid)).then_some(uid)
}

/// The id in the name of a container's group: `docker-ID.scope`, `cri-containerd-ID.scope`, `crio-ID.scope`,
/// `libpod-ID.scope`, or `ID` alone. An id has 64 hexadecimal digits.
fn container(part: &str) -> Option<String> {
    let part = part.strip_suffix(".scope").unwrap_or(part);
    // The monitor of a container, which is named after it but runs beside it.
    if part.starts_with("libpod-conmon-") || part.starts_with("crio-conmon-") {
        return None;
    }
    let id = part.rsplit_once('-').map_or(part, |(_, id)| id);
    (id.len() == 64 && id.bytes().all(|byte| byte.is_ascii_hexdigit())).then(|| id.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    const ID: &str = "9f3c0b9f7d7a4a3e8c0b5f1d2e3a4b5c6d7e8f90a1b2c3d4e5f60718293a4b5c";

    fn group(line: &str) -> (Option<String>, Option<String>, Option<String>) {
        let Group { container, pod, unit, .. } = Group::parse(&line.replace("ID", ID));
        (container, pod, unit)
    }

    fn some(text: &str) -> Option<String> {
        Some(text.to_owned())
    }

    #[test]
    fn containers_of_all_engines() {
        let uid = some("0a1b2c3d-1111-2222-3333-444455556666");
        let slice = "kubepods.slice/kubepods-burstable.slice/kubepods-burstable-pod0a1b2c3d_1111_2222_3333_444455556666.slice";
        let cases = [
            ("0::/system.slice/docker-ID.scope".to_owned(), None),
            ("12:memory:/docker/ID\n0::/".to_owned(), None),
            ("0::/docker/ID".to_owned(), None),
            (format!("0::/{slice}/cri-containerd-ID.scope"), uid.clone()),
            (format!("0::/{slice}/crio-ID.scope"), uid.clone()),
            ("0::/kubepods/besteffort/pod0a1b2c3d-1111-2222-3333-444455556666/ID".to_owned(), uid.clone()),
            (
                "0::/system.slice/containerd.service/kubepods-burstable-pod0a1b2c3d_1111_2222_3333_444455556666.slice:cri-containerd:ID"
                    .to_owned(),
                uid.clone(),
            ),
            (format!("0::/../../{slice}/cri-containerd-ID.scope"), uid),
            ("0::/machine.slice/libpod-ID.scope/container".to_owned(), None),
            ("0::/user.slice/user-1000.slice/user@1000.service/user.slice/libpod-ID.scope".to_owned(), None),
            ("11:pids:/docker/ID\n4:memory:/docker/ID\n1:name=systemd:/docker/ID\n0::/system.slice/containerd.service".to_owned(), None),
        ];
        for (line, pod) in cases {
            assert_eq!(group(&line), (some(ID), pod, None), "{line}");
        }
    }

    #[test]
    fn units() {
        let cases = [
            ("0::/system.slice/nginx.service", "nginx.service"),
            ("0::/user.slice/user-1000.slice/user@1000.service/app.slice/shop.service", "shop.service"),
            ("0::/user.slice/user-1000.slice/session-3.scope", "session-3.scope"),
            (
                "5:cpu,cpuacct:/system.slice/a.service\n1:name=systemd:/system.slice/a.service\n0::/",
                "a.service",
            ),
        ];
        for (line, unit) in cases {
            assert_eq!(group(line), (None, None, some(unit)), "{line}");
        }
        // A container that runs systemd itself.
        assert_eq!(
            group("0::/system.slice/docker-ID.scope/system.slice/a.service"),
            (some(ID), None, some("a.service"))
        );
    }

    #[test]
    fn what_tells_nothing() {
        for line in ["", "0::/", "0::/init.scope", "nonsense", "0:", "0::/podcast", "0::/pod0a1b/x-y-z"] {
            assert_eq!(group(line), (None, None, None), "{line}");
        }
    }

    #[test]
    fn a_static_pod_has_a_hash() {
        let (_, pod, _) = group("0::/kubepods/burstable/pod0123456789abcdef0123456789abcdef/ID");
        assert_eq!(pod, some("0123456789abcdef0123456789abcdef"));
    }

    #[test]
    fn the_path_is_that_of_the_memory() {
        assert_eq!(Group::parse("4:memory:/a\n0::/b").path, "/a");
        assert_eq!(Group::parse("4:cpu:/a\n0::/b").path, "/b");
    }
}
