//! The files of `deploy/`, held against what is to read them and against each other; the agent itself does not run here.

use std::{fs, process::Command};

use crate::harness::{Need, Test, live, plain};
use anyhow::{Context, Result, ensure};
use live_tests::{
    agent_http::LONGEST,
    deploy::{self, Kubernetes},
    machine,
    process::Process,
    sfgi, toolchain,
};
use serde_json::Value;

pub(crate) fn tests() -> Vec<Test> {
    vec![
        live(the_unit_says_nothing_that_systemd_does_not_know).needs(Need::Program("systemd-analyze")),
        live(the_objects_for_kubernetes_fit_its_schemas_and_each_other).needs(Need::Wheels("kubernetes")),
        plain(the_image_has_all_that_the_binary_needs),
    ]
}

/// Releases of Kubernetes that know all that the file says, the oldest and the newest whose schemas are at hand.
const RELEASES: [&str; 2] = ["1.30", "1.37"];

fn the_unit_says_nothing_that_systemd_does_not_know() -> Result<()> {
    // It looks for the program, which is not installed here.
    let directory = tempfile::tempdir()?;
    let unit = directory.path().join("sfgi-agent.service");
    let binary = sfgi::binary()?;
    fs::write(
        &unit,
        deploy::text("sfgi-agent.service")?.replace("/usr/local/bin/sfgi", &binary.to_string_lossy()),
    )?;
    let mut verify = Command::new("systemd-analyze");
    let output = verify.args(["verify", "--man=no"]).arg(&unit).output()?;
    let said = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success() && said.is_empty(), "{said}");
    let mut security = Command::new("systemd-analyze");
    let told = toolchain::output(
        security.args(["security", "--offline=true", "--no-pager", "--threshold=35"]).arg(&unit),
    )?;
    let told = String::from_utf8(told)?;
    machine::report(told.lines().last().unwrap_or_default());
    Ok(())
}

fn the_objects_for_kubernetes_fit_its_schemas_and_each_other() -> Result<()> {
    let kubernetes = Kubernetes::read("kubernetes.yaml")?;
    for release in RELEASES {
        kubernetes.validate("kubernetes.yaml", release)?;
    }
    let name = |object: &Value| object["metadata"]["name"].as_str().unwrap_or_default().to_owned();
    let namespace = name(kubernetes.one("Namespace")?);
    for object in kubernetes.objects.iter().filter(|object| object["kind"] != "Namespace") {
        ensure!(object["metadata"]["namespace"] == *namespace, "{object:#}");
    }
    let set = &kubernetes.one("DaemonSet")?["spec"];
    let (labels, pod) = (&set["template"]["metadata"]["labels"], &set["template"]["spec"]);
    ensure!(set["selector"]["matchLabels"] == *labels, "{labels} are not selected");
    let account = name(kubernetes.one("ServiceAccount")?);
    ensure!(pod["serviceAccountName"] == *account && pod["automountServiceAccountToken"] == false);
    for role in kubernetes
        .objects
        .iter()
        .filter(|object| object["kind"].as_str().is_some_and(|kind| kind.ends_with("Role")))
    {
        for rule in role["rules"].as_array().context("no rules")? {
            let verbs = rule["verbs"].as_array().context("no verbs")?;
            ensure!(
                verbs.iter().all(|verb| ["get", "list", "watch"].iter().any(|reads| verb == reads)),
                "{rule}"
            );
        }
    }

    let config = kubernetes.one("ConfigMap")?;
    let text = config["data"]["sfgi.toml"].as_str().context("no sfgi.toml")?;
    let directory = tempfile::tempdir()?;
    let file = directory.path().join("sfgi.toml");
    fs::write(&file, text)?;
    let mut check =
        sfgi::command(&["agent".as_ref(), "--check-config".as_ref(), "--config".as_ref(), file.as_os_str()])?;
    Process::spawn(&mut check)?.wait_code(LONGEST, 0)?;

    let volumes = pod["volumes"].as_array().context("no volumes")?;
    let container = &pod["containers"][0];
    let mounts = container["volumeMounts"].as_array().context("no mounts")?;
    let names = |all: &[Value]| {
        all.iter().map(|one| one["name"].to_string()).collect::<std::collections::BTreeSet<_>>()
    };
    ensure!(names(volumes) == names(mounts), "volumes that are not mounted, or the other way round");
    ensure!(volumes.iter().any(|one| one["configMap"]["name"] == *name(config)));
    let mounted = |path: &str, writes: bool| {
        mounts.iter().any(|one| {
            one["mountPath"].as_str().is_some_and(|at| path.starts_with(&format!("{at}/")))
                && (one["readOnly"] != true || !writes)
        })
    };
    let paths = text
        .lines()
        .filter_map(|line| line.split_once(" = \"/"))
        .map(|(key, path)| (key, format!("/{}", path.trim_end_matches('"'))));
    for (key, path) in paths {
        ensure!(
            mounted(&path, key != "token_file"),
            "{key} = {path} lies in no volume that can be written to"
        );
    }
    let given =
        container["args"].as_array().and_then(|args| args.last()?.as_str()).context("no arguments")?;
    ensure!(mounted(given, false) && given.ends_with("/sfgi.toml"), "{given}");
    let listens =
        text.lines().find_map(|line| line.strip_prefix("listen = ")).context("it listens nowhere")?;
    let port = &container["ports"][0];
    ensure!(listens.trim_matches('"').ends_with(&format!(":{}", port["containerPort"])), "{listens}, {port}");
    for probe in ["livenessProbe", "readinessProbe"] {
        ensure!(container[probe]["httpGet"]["port"] == port["name"], "{probe}");
    }
    Ok(())
}

/// The oldest C library of a Debian that has this name, as its release notes say.
const GLIBC: [(&str, (u32, u32)); 2] = [("bookworm", (2, 36)), ("trixie", (2, 41))];

fn the_image_has_all_that_the_binary_needs() -> Result<()> {
    let recipe = deploy::text("Containerfile")?;
    let base = recipe.lines().find_map(|line| line.strip_prefix("FROM ")).context("no base")?;
    let (_, has) = GLIBC
        .into_iter()
        .find(|(name, _)| base.contains(name))
        .with_context(|| format!("{base} is not known"))?;
    let dump = String::from_utf8(toolchain::output(Command::new("objdump").arg("-p").arg(sfgi::binary()?))?)?;
    let needed: Vec<&str> =
        dump.lines().filter_map(|line| line.trim().strip_prefix("NEEDED")).map(str::trim).collect();
    let of_c = ["libc.so.6", "libm.so.6", "libgcc_s.so.1", "ld-linux-x86-64.so.2"];
    ensure!(
        needed.iter().all(|one| of_c.contains(one)),
        "it needs {needed:?}, and the image may not have it"
    );
    let versions = dump.split("GLIBC_").skip(1).filter_map(|rest| {
        let (major, minor) = rest.split_ascii_whitespace().next()?.split_once('.')?;
        Some((major.parse().ok()?, minor.split('.').next()?.parse().ok()?))
    });
    let newest: (u32, u32) = versions.max().context("no versions of the C library")?;
    ensure!(newest <= has, "it needs glibc {newest:?}, the image has {has:?}");
    machine::report(&format!(
        "needs {}, glibc {}.{}; {base} has {}.{}",
        needed.join(", "),
        newest.0,
        newest.1,
        has.0,
        has.1
    ));
    Ok(())
}
