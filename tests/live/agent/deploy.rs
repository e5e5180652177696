//! The agent really run with no more than the systemd unit and the DaemonSet of `deploy/` give it.

use std::{
    fs,
    os::unix::{fs::PermissionsExt as _, process::CommandExt as _},
    path::Path,
    process::Command,
    thread,
    time::{Duration, Instant},
};

use crate::harness::{Need, Test, live};
use anyhow::{Context, Result, ensure};
use live_tests::{
    agent_http::{Agent, LONGEST, ask},
    confined::{self, Confined, Confinement},
    deploy::{self, Kubernetes, Unit},
    filter::{self, Filter},
    fixture::{self, Own, Variant},
    machine,
    process::Process,
    sfgi,
    toolchain::{self, Go},
};
use rustix::thread::CapabilitySet;
use serde_json::Value;

pub(crate) fn tests() -> Vec<Test> {
    vec![
        live(the_unit_gives_the_agent_all_that_it_takes),
        live(without_administrator_it_does_all_that_needs_no_probes),
        live(the_daemon_set_gives_the_agent_all_that_it_takes).needs(Need::Wheels("kubernetes")),
    ]
}

const TOKEN: &str = "5d1d0a35ce4cd6d2f1d1a83f3d0d9c1b";

/// Where the unit and the DaemonSet keep what outlives a restart.
const STATE: &str = "/var/lib/sfgi";

/// A program of somebody else, which works and leaks.
fn of_another_user() -> Result<Process> {
    let own = Own::new("faults", &Go::newest(), Variant::Plain)?;
    let mut target =
        fixture::start_command(Command::new(&own.exe).args(["-d", "10m"]).uid(65534).gid(65534))?;
    target.say()?;
    Ok(target.keeping(own.dir))
}

/// What is added to a configuration so that the test need not wait: only this program, often, with all probes.
fn hurry(target: &Process) -> Result<String> {
    let exe = fs::read_link(format!("/proc/{}/exe", target.pid()))?;
    Ok(format!(
        "[scan]\ninterval = \"1s\"\nmode = \"full\"\n[leaks]\nmin_age = \"1s\"\n[[include]]\nexe = '^{}$'\n\
         [alerts]\nfor = \"1s\"\nintervene = {{ count = 3 }}\nwarn = {{ count = 2 }}\n",
        exe.display()
    ))
}

/// What needs no probes: goroutines, with their stacks, and which of them are leaked for certain.
fn proves_leaks(agent: &Agent, pid: u32) -> Result<()> {
    let path = format!("/sfgi/processes?pid={pid}");
    let processes = agent.until(&path, |document| document[0]["findings"].as_u64() > Some(0))?;
    let process = &processes[0];
    ensure!(process["error"].is_null() && process["doubt"].is_null(), "{process:#}");
    ensure!(process["exe"].as_str().is_some_and(|exe| exe.contains("faults")), "{process:#}");
    let path = format!("/sfgi/leaks?pid={pid}&verdict=proven");
    let leaks = agent.until(&path, |document| !document[0].is_null())?;
    let stack = leaks[0]["stack_trace"].as_array().context("no stack")?;
    ensure!(
        stack.iter().any(|at| at["func"].as_str().is_some_and(|func| func.starts_with("main."))),
        "{leaks:#}"
    );
    let dump = agent.json(&format!("/sfgi/goroutines?pid={pid}&func=main&limit=10000"))?;
    ensure!(dump["goroutines"].as_array().is_some_and(|all| all.len() > 3), "{dump:#}");
    Ok(())
}

/// Everything that the agent is for, of one program.
fn does_everything(agent: &Agent, target: &Process, state: &Path) -> Result<()> {
    let pid = target.pid();
    proves_leaks(agent, pid)?;
    agent.until(&format!("/sfgi/processes?pid={pid}"), |document| document[0]["mode"] == "full")?;
    let traced = agent.post(&format!("/sfgi/trace?pid={pid}&seconds=1"))?;
    ensure!(
        traced.status == 200 && traced.text().contains("\"create\""),
        "{} {}",
        traced.status,
        traced.text()
    );
    let blocked = agent.get(&format!("/debug/pprof/block?pid={pid}&seconds=1"))?;
    ensure!(blocked.status == 200 && blocked.body.len() > 100, "{} {}", blocked.status, blocked.text());
    let hits = format!("sfgi_probe_hits_total{{pid=\"{pid}\"");
    let metrics = agent.get("/metrics")?.text();
    ensure!(metrics.lines().any(|line| line.starts_with(&hits) && !line.ends_with(" 0")), "{metrics}");

    let intervenes = |alerts: &Vec<Value>| alerts.iter().any(|alert| alert["level"] == "intervene");
    agent.until("/sfgi/alerts", |document| document.as_array().is_some_and(intervenes))?;
    agent.process.stderr.wait_for(LONGEST, |line| line.contains(": kept "))?;
    let kept = fs::read_dir(state.join("evidence"))?.count();
    ensure!(kept >= 2, "{kept} files of evidence");
    let deadline = Instant::now() + LONGEST;
    while fs::metadata(state.join("history")).map_or(0, |meta| meta.len()) == 0 {
        ensure!(Instant::now() < deadline, "nothing is remembered");
        thread::sleep(Duration::from_millis(100));
    }
    // Only what not even root may look at is said to be out of reach.
    let log = agent.process.stderr.text();
    let wrong = |line: &&str| line.contains(" ERROR ") || line.contains(" WARN ");
    let wrong: Vec<&str> = log.lines().filter(wrong).filter(|line| !line.contains("PID 1 cannot")).collect();
    ensure!(wrong.is_empty(), "{wrong:#?}");
    Ok(())
}

/// What the kernel says that a process may: its capabilities, whether it can get more, whether its system calls are filtered.
fn rights(pid: u32) -> Result<(CapabilitySet, bool, bool)> {
    let status = fs::read_to_string(format!("/proc/{pid}/status"))?;
    let value = |key: &str| {
        let line = status.lines().find_map(|line| line.strip_prefix(key)).context(key.to_owned())?;
        Ok::<_, anyhow::Error>(line.trim().to_owned())
    };
    let effective = u64::from_str_radix(&value("CapEff:")?, 16)?;
    Ok((CapabilitySet::from_bits_retain(effective), value("NoNewPrivs:")? == "1", value("Seccomp:")? == "2"))
}

/// The mounts that the unit's settings make, as far as they can be made without systemd.
fn mounts_of(unit: &Unit, sfgi: &Path, config: &Path, state: &Path) -> Result<String> {
    ensure!(unit.one("StateDirectory")? == "sfgi" && unit.one("ConfigurationDirectory")? == "sfgi");
    let program = unit.one("ExecStart")?.split(' ').next().context("no program")?;
    let directory = Path::new(program).parent().context("no directory")?;
    let mut script = String::new();
    let mut does = |line: String| script.push_str(&(line + "\n"));
    // What is not there on this machine, without leaving it behind.
    does(format!("mount -t tmpfs none {0} && cp '{1}' {program}", directory.display(), sfgi.display()));
    does(format!(
        "mount -t tmpfs none /etc && mkdir /etc/sfgi && cp '{}' /etc/sfgi/sfgi.toml",
        config.display()
    ));
    does(format!(
        "mount -t tmpfs none /var/lib && mkdir {STATE} && mount --bind '{}' {STATE}",
        state.display()
    ));
    for directory in [directory, Path::new("/etc"), Path::new("/var/lib")] {
        does(format!("mount -o remount,ro {}", directory.display()));
    }
    if unit.one("ProtectSystem")? == "strict" {
        does("mount -o remount,bind,ro /".into());
    }
    if unit.is("ProtectKernelTunables") {
        does("mount --bind /proc/sys /proc/sys && mount -o remount,bind,ro /proc/sys".into());
        does("mount -o remount,bind,ro /sys".into());
    }
    if unit.is("ProtectControlGroups") {
        does("mount -o remount,bind,ro /sys/fs/cgroup".into());
    }
    if unit.is("PrivateDevices") {
        let devices = "null zero full random urandom tty";
        does("mount -t tmpfs none /mnt".into());
        does(format!("for it in {devices}; do touch /mnt/$it; mount --bind /dev/$it /mnt/$it; done"));
        does("mount -n --move /mnt /dev".into());
    }
    // The state lies there, so these come last.
    if unit.is("PrivateTmp") {
        does("mount -t tmpfs none /tmp && mount -t tmpfs none /var/tmp".into());
    }
    Ok(script)
}

/// The agent as the unit starts it, but for capabilities that are taken away besides.
fn as_a_unit(target: &Process, directory: &Path, without: CapabilitySet) -> Result<Confined<Agent>> {
    let unit = Unit::read("sfgi-agent.service")?;
    let (config, state) = (directory.join("sfgi.toml"), directory.join("state"));
    fs::create_dir(&state)?;
    let own = format!(
        "[http]\nlisten = \"127.0.0.1:0\"\n[budget]\nnode = \"50%\"\n\
         [evidence]\ndirectory = \"{STATE}/evidence\"\nrecord = \"1s\"\n"
    );
    fs::write(&config, own + &hurry(target)?)?;
    let mut filter = Filter::of(unit.all("SystemCallFilter"))?;
    let families = unit.one("RestrictAddressFamilies")?;
    filter.families = Some(filter::families(families.split_ascii_whitespace())?);
    filter.deny_write_execute = unit.is("MemoryDenyWriteExecute");
    let all = deploy::capabilities(unit.one("CapabilityBoundingSet")?.split_ascii_whitespace())?;
    ensure!(unit.is("NoNewPrivileges") && all.contains(without));
    let capabilities = all - without;
    let confinement = Confinement {
        mounts: mounts_of(&unit, &sfgi::binary()?, &config, &state)?,
        root: None,
        capabilities,
        filter: Some(filter),
    };
    let words: Vec<String> = unit.one("ExecStart")?.split(' ').map(str::to_owned).collect();
    let agent = confined::start(confinement, move || Agent::of(Command::new(&words[0]).args(&words[1..])))?;
    ensure!(rights(agent.started.process.pid())? == (capabilities, true, true));
    Ok(agent)
}

fn the_unit_gives_the_agent_all_that_it_takes() -> Result<()> {
    let (target, directory) = (of_another_user()?, tempfile::tempdir()?);
    let agent = as_a_unit(&target, directory.path(), CapabilitySet::empty())?;
    does_everything(&agent.started, &target, &directory.path().join("state"))
}

fn without_administrator_it_does_all_that_needs_no_probes() -> Result<()> {
    let (target, directory) = (of_another_user()?, tempfile::tempdir()?);
    let confined = as_a_unit(&target, directory.path(), CapabilitySet::SYS_ADMIN)?;
    let (agent, pid) = (&confined.started, target.pid());
    proves_leaks(agent, pid)?;
    let traced = agent.post(&format!("/sfgi/trace?pid={pid}&seconds=1"))?;
    // Kernels from before July 2025 let it.
    let refused = traced.status == 502 && traced.text().contains("CAP_SYS_ADMIN");
    ensure!(refused || traced.status == 200, "{} {}", traced.status, traced.text());
    machine::report(if refused {
        "this kernel puts probes for CAP_SYS_ADMIN only"
    } else {
        "CAP_PERFMON puts probes"
    });
    let why = agent.json(&format!("/sfgi/processes?pid={pid}"))?[0]["mode_reason"].clone();
    ensure!(!refused || why.as_str().is_some_and(|why| why.contains("CAP_SYS_ADMIN")), "{why}");
    Ok(())
}

/// What a container runtime mounts for a pod: an image with no more than the binary and the C library that it needs, and the volumes.
fn mounts_of_pod(pod: &Value, sfgi: &Path, config: &Path, state: &Path) -> Result<String> {
    let container = &pod["containers"][0];
    let root = ROOT;
    let mut script = String::new();
    let mut does = |line: String| script.push_str(&(line + "\n"));
    does(format!("mount -t tmpfs none {root} && cd {root} && mkdir -p proc sys dev etc tmp usr/local/bin"));
    for library in libraries(sfgi)? {
        does(format!("cp --parents -L '{library}' ."));
    }
    does(format!("cp '{}' usr/local/bin/sfgi", sfgi.display()));
    ensure!(pod["hostPID"] == true, "it must see the processes of its node");
    does("mount -t proc -o nosuid,nodev,noexec none proc && mount -t sysfs -o ro none sys".into());
    does(
        "for it in null zero full random urandom tty; do touch dev/$it; mount --bind /dev/$it dev/$it; done"
            .into(),
    );
    for mount in container["volumeMounts"].as_array().context("no mounts")? {
        let (name, path) = (&mount["name"], mount["mountPath"].as_str().context("no path")?);
        let volume = pod["volumes"].as_array().and_then(|all| all.iter().find(|one| one["name"] == *name));
        let volume = volume.with_context(|| format!("there is no volume {name}"))?;
        let options = if mount["readOnly"] == true { "bind,ro" } else { "bind" };
        let from = match volume["hostPath"]["path"].as_str() {
            Some(STATE) => state.display().to_string(),
            Some(path) => {
                format!("$(mkdir -p /run/host{path}; test -d {path} && echo {path} || echo /run/host{path})")
            }
            None => config.join(name.as_str().context("no name")?).display().to_string(),
        };
        does(format!(
            "mkdir -p ./{path} 2>/dev/null || true; mount --rbind {from} ./{path}; mount -o remount,{options} ./{path}"
        ));
    }
    if container["securityContext"]["readOnlyRootFilesystem"] == true {
        does(format!("mount -o remount,ro {root}"));
    }
    Ok(script)
}

/// Where the pod's root directory is made, in its own mount namespace.
const ROOT: &str = "/mnt";

/// The shared libraries of a binary, and what loads them.
fn libraries(binary: &Path) -> Result<Vec<String>> {
    let text = String::from_utf8(toolchain::output(Command::new("ldd").arg(binary))?)?;
    let path =
        |line: &str| line.split_ascii_whitespace().find(|word| word.starts_with('/')).map(str::to_owned);
    Ok(text.lines().filter_map(path).collect())
}

fn the_daemon_set_gives_the_agent_all_that_it_takes() -> Result<()> {
    let kubernetes = Kubernetes::read("kubernetes.yaml")?;
    let pod = kubernetes.one("DaemonSet")?["spec"]["template"]["spec"].clone();
    let target = of_another_user()?;
    let directory = tempfile::tempdir()?;
    let (state, config, token) =
        (directory.path().join("state"), directory.path().join("config"), directory.path().join("token"));
    for directory in [&state, &config, &token] {
        fs::create_dir(directory)?;
    }
    fs::write(token.join("token"), TOKEN)?;
    // `defaultMode` of the volume.
    fs::set_permissions(token.join("token"), fs::Permissions::from_mode(0o400))?;
    let told = kubernetes.one("ConfigMap")?["data"]["sfgi.toml"].as_str().context("no sfgi.toml")?.to_owned();
    // Another may use the port here, and the test does not wait for half a minute.
    let changed = told.replace(":6061", ":0").replace("node = \"2%\"", "node = \"50%\"");
    let changed = changed.replace("[evidence]\n", "[evidence]\nrecord = \"1s\"\n");
    ensure!(changed.len() > told.len(), "{told}");
    fs::write(config.join("sfgi.toml"), changed + &hurry(&target)?)?;

    let container = &pod["containers"][0];
    let security = &container["securityContext"];
    ensure!(security["capabilities"]["drop"] == serde_json::json!(["ALL"]), "{security}");
    ensure!(security["privileged"] == false && security["allowPrivilegeEscalation"] == false, "{security}");
    let added = security["capabilities"]["add"].as_array().context("no capabilities")?;
    let capabilities = deploy::capabilities(added.iter().filter_map(Value::as_str))?;
    let confinement = Confinement {
        mounts: mounts_of_pod(&pod, &sfgi::binary()?, directory.path(), &state)?,
        root: Some(ROOT.to_owned()),
        capabilities,
        filter: None,
    };
    let args: Vec<String> = serde_json::from_value(container["args"].clone())?;
    let started = confined::start(confinement, move || {
        let mut agent = Agent::of(Command::new("/usr/local/bin/sfgi").args(args))?;
        agent.token = Some(TOKEN.to_owned());
        Ok(agent)
    })?;
    let agent = &started.started;
    ensure!(rights(agent.process.pid())? == (capabilities, true, false));
    does_everything(agent, &target, &state)?;

    // What a kubelet asks, without the token, is answered, and described.
    let paths = agent.json("/openapi.json")?["paths"].clone();
    for probe in ["livenessProbe", "readinessProbe"] {
        let asked = &container[probe]["httpGet"];
        let path = asked["path"].as_str().with_context(|| format!("no {probe}"))?;
        ensure!(paths[path]["get"].is_object(), "{path} is not in the document");
        ensure!(ask(agent.address, "GET", path, &[])?.status == 200, "{path} wants a token");
    }
    ensure!(ask(agent.address, "GET", "/metrics", &[])?.status == 401);
    Ok(())
}
