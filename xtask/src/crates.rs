//! Compiled crates of the registry, kept outside the checkout, so that a clean clone does not compile three hundred
//! of them again.
//!
//! Cargo accepts what another target directory had if times are kept and everything comes from one directory: a crate
//! that was compiled twice need not be the same crate for those that use it. So only a checkout whose tests were
//! never built is filled, and only one that was filled from the store, or founded it, adds to it.

use crate::{build::PROFILE, sh};
use anyhow::{Context as _, Result};
use serde_json::Value;
use std::{
    collections::{BTreeSet, hash_map::DefaultHasher},
    fs,
    hash::{Hash as _, Hasher as _},
    path::{Path, PathBuf},
    process,
    time::{SystemTime, UNIX_EPOCH},
};

/// Directories within the profile's directory that hold the parts of a unit of cargo's. The fingerprint comes last:
/// without it cargo ignores the rest, which may be half a copy.
const PARTS: [&str; 3] = ["deps", "build", ".fingerprint"];

/// What the build script of sfgi compiles for eBPF, `core` among it; a directory beside the profile's.
const EBPF: &str = "ebpf";

/// The file in the profile's directory that names the state of the store: the one from which it was filled, or which
/// it became.
const STATE: &str = "crates";

/// Stores that stay: each is for one lock file and compiler.
const STORES: usize = 2;

/// Fills the target directory if no test was built in it yet; that costs the seconds of a copy.
pub(crate) fn fill() -> Result<()> {
    let (target, store) = (sh::target_dir(), store()?);
    let profile = target.join(PROFILE);
    if profile.exists() {
        return Ok(());
    }
    if !store.exists() {
        fs::create_dir_all(&profile).with_context(|| format!("cannot create {}", profile.display()))?;
        return name_state(&profile);
    }
    fs::create_dir_all(&target).with_context(|| format!("cannot create {}", target.display()))?;
    for part in [PROFILE, EBPF].map(Path::new) {
        if target.join(part).exists() || !store.join(part).exists() {
            continue;
        }
        // A copy that is cut short must not have the name that cargo looks for.
        let partial = target.join(part.with_extension("partial"));
        sh::remove(&partial)?;
        sh::output(sh::command("cp")?.arg("-a").arg(store.join(part)).arg(&partial))?;
        fs::rename(&partial, target.join(part))
            .with_context(|| format!("cannot move {} into place", partial.display()))?;
    }
    Ok(())
}

/// Adds to the store what cargo compiled, by its messages, and the store lacks.
pub(crate) fn keep(messages: &[Value]) -> Result<()> {
    let (target, store) = (sh::target_dir(), store()?);
    let profile = target.join(PROFILE);
    let Ok(state) = fs::read(profile.join(STATE)) else { return Ok(()) };
    // Another checkout has added to the store since: crates from two directories do not go together.
    if store.exists() && fs::read(store.join(PROFILE).join(STATE)).ok() != Some(state) {
        return Ok(());
    }
    let mut missing = missing(messages, &profile, &store);
    if target.join(EBPF).exists() && !store.join(EBPF).exists() {
        missing.push(EBPF.to_owned());
    }
    if missing.is_empty() {
        return Ok(());
    }
    let partial = store.with_extension(format!("partial.{}", process::id()));
    fs::create_dir_all(&partial).with_context(|| format!("cannot create {}", partial.display()))?;
    if store.exists() {
        // As hard links: files of the store are never changed.
        sh::output(sh::command("cp")?.arg("-al").arg(store.join(".")).arg(&partial))?;
    }
    let mut copy = sh::command("cp")?;
    copy.current_dir(&target).args(["-a", "--parents", "--target-directory"]).arg(&partial);
    sh::output(copy.args(missing))?;
    remove_ours(&partial.join(EBPF))?;
    let kept_state = partial.join(PROFILE).join(STATE);
    // The link shares its file with the old store, which would get the new state.
    sh::remove(&kept_state)?;
    name_state(&profile)?;
    fs::copy(profile.join(STATE), &kept_state)
        .with_context(|| format!("cannot write {}", kept_state.display()))?;
    sh::remove(&store)?;
    fs::rename(&partial, &store).with_context(|| format!("cannot move {} into place", partial.display()))?;
    forget_old(&store)
}

/// What the profile's directory has of the units in these messages and the store lacks: paths within the target
/// directory.
fn missing(messages: &[Value], profile: &Path, store: &Path) -> Vec<String> {
    let units: BTreeSet<String> = messages.iter().flat_map(units).collect();
    let mut missing = Vec::new();
    for part in PARTS {
        let kept: BTreeSet<String> = names(&store.join(PROFILE).join(part)).collect();
        let is_new =
            |name: &String| !kept.contains(name) && unit(name).is_some_and(|unit| units.contains(unit));
        let new = names(&profile.join(part)).filter(is_new);
        missing.extend(new.map(|name| format!("{PROFILE}/{part}/{name}")));
    }
    missing
}

/// The ids of the units of the registry's crates that a message of cargo's is about.
fn units(message: &Value) -> Vec<String> {
    let from_registry = message["package_id"].as_str().is_some_and(|id| id.starts_with("registry+"));
    let files = message["filenames"].as_array().into_iter().flatten().chain([&message["out_dir"]]);
    let files = files.filter(|_| from_registry).filter_map(Value::as_str);
    files.flat_map(|file| file.rsplit('/').take(2).filter_map(unit).map(str::to_owned)).collect()
}

/// The id at the end of a name: of `serde-0123456789abcdef` and `libserde-0123456789abcdef.rlib`, what is after the dash.
fn unit(name: &str) -> Option<&str> {
    let id = name.split('.').next()?.rsplit_once('-')?.1;
    (id.len() == 16 && id.bytes().all(|byte| byte.is_ascii_hexdigit())).then_some(id)
}

/// Removes what each checkout compiles for itself below a directory of the eBPF side.
fn remove_ours(dir: &Path) -> Result<()> {
    for name in names(dir) {
        let path = dir.join(&name);
        // The directory that is named after the package `tracer-ebpf` has the crates of others in it.
        if is_ours(&name) && (path.is_file() || unit(&name).is_some()) {
            sh::remove(&path)?;
        } else if path.is_dir() {
            remove_ours(&path)?;
        }
    }
    Ok(())
}

/// Whether a file or unit of the eBPF side belongs to `tracer-ebpf` or `tracer-common`.
fn is_ours(name: &str) -> bool {
    name.trim_start_matches("lib").starts_with("tracer")
}

/// Gives the profile's directory a state that no other has.
fn name_state(profile: &Path) -> Result<()> {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    fs::write(profile.join(STATE), format!("{}-{}\n", now.as_nanos(), process::id()))
        .with_context(|| format!("cannot write to {}", profile.display()))
}

/// Removes all stores but the [`STORES`] that were changed last.
fn forget_old(newest: &Path) -> Result<()> {
    let parent = newest.parent().context("the store is in no directory")?;
    let mut stores: Vec<PathBuf> = names(parent).map(|name| parent.join(name)).collect();
    stores.sort_by_key(|store| {
        let changed = fs::metadata(store.join(PROFILE).join(STATE)).and_then(|file| file.modified());
        std::cmp::Reverse(changed.unwrap_or(UNIX_EPOCH))
    });
    stores.iter().skip(STORES).try_for_each(|store| sh::remove(store))
}

/// Where the crates of this lock file and compiler are.
fn store() -> Result<PathBuf> {
    let mut hasher = DefaultHasher::new();
    let lock = sh::root().join("Cargo.lock");
    fs::read(&lock).with_context(|| format!("cannot read {}", lock.display()))?.hash(&mut hasher);
    sh::output(sh::command("rustc")?.arg("-vV"))?.hash(&mut hasher);
    Ok(sh::cache_dir()?.join("crates").join(format!("{:016x}", hasher.finish())))
}

/// The names in a directory, none if it is not there.
fn names(dir: &Path) -> impl Iterator<Item = String> + use<> {
    let entries = fs::read_dir(dir).into_iter().flatten().flatten();
    entries.map(|entry| entry.file_name().to_string_lossy().into_owned())
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;
    use std::env;

    #[test]
    fn a_unit_is_known_by_the_end_of_its_name() {
        assert_eq!(unit("libserde-0123456789abcdef.rlib"), Some("0123456789abcdef"));
        assert_eq!(unit("aho-corasick-0123456789abcdef"), Some("0123456789abcdef"));
        assert_eq!(unit("build-script-build"), None);
        assert_eq!(unit("libserde.rlib"), None);
    }

    #[test]
    fn only_crates_of_the_registry_are_kept() {
        let registry = "registry+https://github.com/rust-lang/crates.io-index#serde@1.0.0";
        let library =
            json!({"package_id": registry, "filenames": ["/t/debug/deps/libserde-0123456789abcdef.rlib"]});
        assert_eq!(units(&library), ["0123456789abcdef"]);
        let script = json!({"package_id": registry, "out_dir": "/t/debug/build/serde-0123456789abcdef/out"});
        assert_eq!(units(&script), ["0123456789abcdef"]);
        let own = json!({"package_id": "path+file:///sfgi#0.1.0", "out_dir": "/t/debug/build/sfgi-0123456789abcdef/out"});
        assert!(units(&own).is_empty());
    }

    #[test]
    fn of_the_ebpf_side_only_what_others_wrote_stays() {
        let dir = env::temp_dir().join(format!("xtask-crates-{}", process::id()));
        let deps = dir.join("target/tracer-ebpf/bpfel-unknown-none/release/deps");
        fs::create_dir_all(&deps).unwrap();
        let files =
            ["libcore-0123456789abcdef.rlib", "libtracer_common-0123456789abcdef.rlib", "tracer_ebpf.d"];
        files.iter().for_each(|file| fs::write(deps.join(file), "").unwrap());
        fs::create_dir_all(dir.join("target/tracer-ebpf/release/.fingerprint/tracer-ebpf-0123456789abcdef"))
            .unwrap();
        remove_ours(&dir).unwrap();
        assert_eq!(names(&deps).collect::<Vec<_>>(), ["libcore-0123456789abcdef.rlib"]);
        assert_eq!(names(&dir.join("target/tracer-ebpf/release/.fingerprint")).count(), 0);
        sh::remove(&dir).unwrap();
    }
}
