//! What a process of sfgi gives up once it has what it needs: privileges, capabilities, system calls and files.
//!
//! Most of the code reads what a hostile program has written. Where it has a mistake all the same, the process that made it can do
//! no more than its own work. Each part is taken where the kernel has it, and [`InForce`] says what was: nothing fails because a
//! kernel is old. A call that is not allowed answers `EPERM`, so that an oversight of ours is an error message and no crash.
//!
//! Landlock and reading processes exclude each other: a process in a Landlock domain may look into no process outside of it
//! (`hook_ptrace_access_check`, security/landlock/task.c), whatever capabilities it has, and `process_vm_readv` asks for just that.
//! So processes that read targets are kept from writing files by their system call filter.

use std::{collections::BTreeMap, fmt, path::PathBuf};

pub use caps::Capability;
use caps::{CapSet, CapsHashSet};
use landlock::{
    ABI, AccessFs, CompatLevel, Compatible as _, Ruleset, RulesetAttr as _, RulesetCreatedAttr as _,
    RulesetStatus, path_beneath_rules,
};
use seccompiler::{
    BpfProgram, SeccompAction, SeccompCmpArgLen, SeccompCmpOp, SeccompCondition, SeccompFilter, SeccompRule,
    TargetArch, apply_filter_all_threads,
};
use serde::{Serialize, Serializer};

/// The newest Landlock whose rights are asked for; an older kernel takes what it knows of them.
const LANDLOCK: ABI = ABI::V5;

/// What a process does from now on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Profile {
    /// Reads processes and executables.
    Reader,
    /// As a reader, and has probes.
    Prober,
    /// Talks to clients. Reads no process.
    Server,
    /// Starts the agent's other processes. Reads nothing.
    Launcher,
    /// Makes one file of another: recordings, core files. Neither processes nor network.
    Converter,
}

/// Which files may be opened for writing, made, removed or renamed from now on. Those that are open stay so.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Writes {
    /// None.
    Nothing,
    /// What lies below these, by Landlock. Of a process that reads others: anything, see the head of this file.
    Below(Vec<PathBuf>),
    /// What the user may write.
    Anything,
}

/// What a process still needs. Everything else is taken from it by [`apply`].
#[derive(Clone, Debug)]
pub struct Needs {
    /// Its work.
    pub profile: Profile,
    /// The capabilities that stay, if it has them.
    pub capabilities: Vec<Capability>,
    /// Files that may be written.
    pub writes: Writes,
    /// Files that may be read, and what lies below folders; `None`: all. Not of a process that reads others.
    pub reads: Option<Vec<PathBuf>>,
    /// Stops targets, by ptrace.
    pub freeze: bool,
    /// Samples the registers of targets, by `perf_event_open`.
    pub registers: bool,
    /// Loads and attaches programs. Without it a prober can read the maps of those that it has.
    pub load: bool,
    /// Sends signals to other processes.
    pub signals: bool,
}

/// What reading other users' processes and their executables takes.
const READING: [Capability; 2] = [Capability::CAP_SYS_PTRACE, Capability::CAP_DAC_READ_SEARCH];

impl Needs {
    fn of(profile: Profile, capabilities: &[Capability]) -> Needs {
        Needs {
            profile,
            capabilities: capabilities.to_vec(),
            writes: Writes::Nothing,
            reads: None,
            freeze: false,
            registers: false,
            load: false,
            signals: false,
        }
    }

    /// Of what reads targets and writes to what is open.
    pub fn reader() -> Needs {
        Needs::of(Profile::Reader, &READING)
    }

    /// Of what puts probes. `CAP_SYS_ADMIN` stays, because newer kernels ask for it at each uprobe (`probe/object.rs`).
    pub fn prober() -> Needs {
        let mut needs = Needs { load: true, ..Needs::attached() };
        needs.capabilities.push(Capability::CAP_SYS_ADMIN);
        needs
    }

    /// Of what has put its probes: it reads rings, counters and targets. Before Linux 5.19 reading a map takes `CAP_BPF`
    /// (`__sys_bpf`, kernel/bpf/syscall.c).
    pub fn attached() -> Needs {
        let mut needs = Needs::of(Profile::Prober, &READING).with_registers();
        needs.capabilities.push(Capability::CAP_BPF);
        needs
    }

    /// Of what talks to clients and writes below these folders.
    pub fn server(folders: Vec<PathBuf>) -> Needs {
        Needs { writes: Writes::Below(folders), ..Needs::of(Profile::Server, &[]) }
    }

    /// Of what reads these files only, and writes to what is open.
    pub fn converter(reads: Vec<PathBuf>) -> Needs {
        Needs { reads: Some(reads), ..Needs::of(Profile::Converter, &[]) }
    }

    /// Of what looks after a child.
    pub fn supervisor() -> Needs {
        Needs { reads: Some(Vec::new()), signals: true, ..Needs::of(Profile::Converter, &[]) }
    }

    /// Of what starts the agent's other processes: their capabilities, and those that a hook needs to become another user. What it
    /// gave up they could not have, so it has no filter; it reads nothing of a target.
    pub fn launcher() -> Needs {
        let mut needs = Needs::prober();
        needs.profile = Profile::Launcher;
        needs.capabilities.extend([Capability::CAP_KILL, Capability::CAP_SETUID, Capability::CAP_SETGID]);
        // To take capabilities out of the bounding set of a child.
        needs.capabilities.push(Capability::CAP_SETPCAP);
        needs
    }

    /// And stops targets.
    #[must_use]
    pub fn with_freeze(self, freeze: bool) -> Needs {
        Needs { freeze, ..self }
    }

    /// And samples registers.
    #[must_use]
    pub fn with_registers(mut self) -> Needs {
        self.capabilities.push(Capability::CAP_PERFMON);
        Needs { registers: true, ..self }
    }

    /// And sends signals, also to a process of another user.
    #[must_use]
    pub fn with_signals(mut self) -> Needs {
        self.capabilities.push(Capability::CAP_KILL);
        Needs { signals: true, ..self }
    }

    /// And writes files. For files of any user root has capabilities, as for giving a new one to who called sudo.
    #[must_use]
    pub fn with_writes(mut self, writes: Writes) -> Needs {
        if writes == Writes::Anything {
            self.capabilities.extend([
                Capability::CAP_DAC_OVERRIDE,
                Capability::CAP_FOWNER,
                Capability::CAP_CHOWN,
            ]);
        }
        Needs { writes, ..self }
    }

    /// Landlock would keep it from reading processes.
    fn reads_processes(&self) -> bool {
        matches!(self.profile, Profile::Reader | Profile::Prober)
    }
}

/// Whether one of the parts is in force.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Status {
    /// As asked for.
    InForce,
    /// As far as this kernel knows it.
    Partly,
    /// This process does not need it, or cannot work with it; the text says why.
    NotUsed(&'static str),
    /// It was asked for, and the kernel did not take it; the text says what it answered.
    Missing(String),
}

impl fmt::Display for Status {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Status::InForce => f.write_str("in force"),
            Status::Partly => f.write_str("in force as far as this kernel has it"),
            Status::NotUsed(why) => write!(f, "not used: {why}"),
            Status::Missing(why) => write!(f, "missing: {why}"),
        }
    }
}

impl Serialize for Status {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

/// What holds this process now.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct InForce {
    /// What it does.
    pub profile: Profile,
    /// No program that it would execute gets more rights than it has.
    pub no_new_privs: bool,
    /// The capabilities that it has, by name.
    pub capabilities: Vec<String>,
    /// The filter of system calls.
    pub seccomp: Status,
    /// The files that it may write, and read.
    pub landlock: Status,
}

impl fmt::Display for InForce {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let privileges =
            if self.no_new_privs { "no new privileges" } else { "new privileges (no_new_privs is missing)" };
        let capabilities = match &self.capabilities[..] {
            [] => "no capabilities".to_owned(),
            some => some.join(" "),
        };
        write!(f, "{privileges}; {capabilities}; seccomp {}; Landlock {}", self.seccomp, self.landlock)
    }
}

/// Takes everything from this process that it does not need. Files and sockets that are open stay so. For good: nothing gives it
/// back, and children inherit it. Before other threads are started: a thread has capabilities and a Landlock domain of its own, only
/// the filter of system calls reaches those that run.
pub fn apply(needs: &Needs) -> InForce {
    // SAFETY: prctl with these arguments takes no pointer.
    let no_new_privs = unsafe { libc::prctl(libc::PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) } == 0;
    drop_capabilities(&needs.capabilities);
    // Landlock first: the filter allows neither its system calls nor the opening of what its rules name.
    let landlock = restrict_files(needs);
    let seccomp = match (needs.profile, filter_calls) {
        (Profile::Launcher, _) => Status::NotUsed("its children would inherit it"),
        (_, filter) => {
            filter(needs).map_or_else(|error| Status::Missing(error.to_string()), |()| Status::InForce)
        }
    };
    let mut capabilities: Vec<String> =
        caps::read(None, CapSet::Effective).unwrap_or_default().iter().map(ToString::to_string).collect();
    capabilities.sort_unstable();
    InForce { profile: needs.profile, no_new_privs, capabilities, seccomp, landlock }
}

/// Leaves these of the capabilities that the thread has. What cannot be taken away is seen afterwards in those that are left.
fn drop_capabilities(keep: &[Capability]) {
    // First: it takes CAP_SETPCAP, which goes below. A user who lacks it executes nothing that could use them (the filter).
    for capability in caps::read(None, CapSet::Bounding).unwrap_or_default() {
        if !keep.contains(&capability) {
            let _ = caps::drop(None, CapSet::Bounding, capability);
        }
    }
    let _ = caps::clear(None, CapSet::Ambient);
    let _ = caps::clear(None, CapSet::Inheritable);
    let has = caps::read(None, CapSet::Permitted).unwrap_or_default();
    let left: CapsHashSet = keep.iter().copied().filter(|capability| has.contains(capability)).collect();
    // The effective ones first: they may not be more than the permitted ones.
    let _ = caps::set(None, CapSet::Effective, &left);
    let _ = caps::set(None, CapSet::Permitted, &left);
}

fn restrict_files(needs: &Needs) -> Status {
    if needs.profile == Profile::Launcher {
        return Status::NotUsed("its children would inherit it");
    }
    if needs.reads_processes() {
        return Status::NotUsed("it would bar reading processes; seccomp keeps files from being written");
    }
    match landlock(needs) {
        Ok(RulesetStatus::FullyEnforced) => Status::InForce,
        Ok(RulesetStatus::PartiallyEnforced) => Status::Partly,
        Ok(RulesetStatus::NotEnforced) => Status::Missing("this kernel has no Landlock".to_owned()),
        Err(error) => Status::Missing(error.to_string()),
    }
}

fn landlock(needs: &Needs) -> Result<RulesetStatus, landlock::RulesetError> {
    let (read, write) = (AccessFs::from_read(LANDLOCK), AccessFs::from_write(LANDLOCK));
    let handled = if needs.reads.is_some() { read | write } else { write };
    let mut rules =
        Ruleset::default().set_compatibility(CompatLevel::BestEffort).handle_access(handled)?.create()?;
    let writable: &[PathBuf] = match &needs.writes {
        Writes::Nothing => &[],
        Writes::Below(folders) => folders,
        Writes::Anything => &[PathBuf::from("/")],
    };
    // A path that does not exist is left out, and so is nothing that may be written.
    rules = rules.add_rules(path_beneath_rules(writable, handled))?;
    if let Some(readable) = &needs.reads {
        rules = rules.add_rules(path_beneath_rules(readable, read))?;
    }
    Ok(rules.restrict_self()?.ruleset)
}

#[derive(Debug, thiserror::Error)]
enum FilterError {
    #[error("sfgi has no list of system calls for this processor")]
    Processor,
    #[error(transparent)]
    Filter(#[from] seccompiler::Error),
}

impl From<seccompiler::BackendError> for FilterError {
    fn from(error: seccompiler::BackendError) -> FilterError {
        FilterError::Filter(error.into())
    }
}

fn filter_calls(needs: &Needs) -> Result<(), FilterError> {
    let arch = TargetArch::try_from(std::env::consts::ARCH).map_err(|_| FilterError::Processor)?;
    let program = |rules: Rules, answer: i32| -> Result<BpfProgram, FilterError> {
        let refuse = SeccompAction::Errno(answer.unsigned_abs());
        Ok(SeccompFilter::new(rules, SeccompAction::Allow, refuse, arch)?.try_into()?)
    };
    // These take their flags in memory, where no filter sees them. The C library falls back on the older call of each.
    let absent: Rules = [libc::SYS_clone3, libc::SYS_openat2].map(|call| (call, Vec::new())).into();
    apply_filter_all_threads(&program(absent, libc::ENOSYS)?)?;
    apply_filter_all_threads(&program(refused(needs)?, libc::EPERM)?)?;
    Ok(())
}

/// System calls by number, with the conditions under which the rule holds; none: always.
type Rules = BTreeMap<i64, Vec<SeccompRule>>;

/// What nothing of sfgi does once it is confined: other programs, other users, other namespaces, the machine itself, and ways around
/// a filter.
const NEVER: &[i64] = &[
    libc::SYS_execve,
    libc::SYS_execveat,
    libc::SYS_process_vm_writev,
    libc::SYS_pidfd_getfd,
    libc::SYS_kcmp,
    libc::SYS_userfaultfd,
    libc::SYS_io_uring_setup,
    libc::SYS_io_uring_enter,
    libc::SYS_io_uring_register,
    libc::SYS_unshare,
    libc::SYS_setns,
    libc::SYS_chroot,
    libc::SYS_pivot_root,
    libc::SYS_mount,
    libc::SYS_umount2,
    libc::SYS_move_mount,
    libc::SYS_open_tree,
    libc::SYS_fsopen,
    libc::SYS_fsconfig,
    libc::SYS_fsmount,
    libc::SYS_fspick,
    libc::SYS_mount_setattr,
    libc::SYS_open_by_handle_at,
    libc::SYS_fanotify_init,
    libc::SYS_keyctl,
    libc::SYS_add_key,
    libc::SYS_request_key,
    libc::SYS_init_module,
    libc::SYS_finit_module,
    libc::SYS_delete_module,
    libc::SYS_kexec_load,
    libc::SYS_reboot,
    libc::SYS_swapon,
    libc::SYS_swapoff,
    libc::SYS_acct,
    libc::SYS_quotactl,
    libc::SYS_syslog,
    libc::SYS_settimeofday,
    libc::SYS_clock_settime,
    libc::SYS_adjtimex,
    libc::SYS_clock_adjtime,
    libc::SYS_sethostname,
    libc::SYS_setdomainname,
    libc::SYS_vhangup,
    libc::SYS_personality,
    libc::SYS_setuid,
    libc::SYS_setgid,
    libc::SYS_setreuid,
    libc::SYS_setregid,
    libc::SYS_setresuid,
    libc::SYS_setresgid,
    libc::SYS_setgroups,
    #[cfg(target_arch = "x86_64")]
    libc::SYS_fork,
    #[cfg(target_arch = "x86_64")]
    libc::SYS_vfork,
    #[cfg(target_arch = "x86_64")]
    libc::SYS_iopl,
    #[cfg(target_arch = "x86_64")]
    libc::SYS_ioperm,
    #[cfg(target_arch = "x86_64")]
    libc::SYS_modify_ldt,
    #[cfg(target_arch = "x86_64")]
    libc::SYS_kexec_file_load,
];

/// The network. Pairs of sockets stay: they lead nowhere else.
const NETWORK: &[i64] = &[
    libc::SYS_socket,
    libc::SYS_connect,
    libc::SYS_bind,
    libc::SYS_listen,
    libc::SYS_accept,
    libc::SYS_accept4,
];

/// Signals to other processes. `tgkill` stays, by which a process ends itself.
const SIGNALS: &[i64] =
    &[libc::SYS_kill, libc::SYS_pidfd_send_signal, libc::SYS_rt_sigqueueinfo, libc::SYS_rt_tgsigqueueinfo];

/// `renameat` of arm64 (`include/uapi/asm-generic/unistd.h`), which the C library's headers leave out there.
#[cfg(target_arch = "aarch64")]
const RENAMEAT: i64 = 38;
#[cfg(not(target_arch = "aarch64"))]
const RENAMEAT: i64 = libc::SYS_renameat;

/// What changes files by their names.
const NAMES: &[i64] = &[
    libc::SYS_truncate,
    RENAMEAT,
    libc::SYS_renameat2,
    libc::SYS_unlinkat,
    libc::SYS_mkdirat,
    libc::SYS_linkat,
    libc::SYS_symlinkat,
    libc::SYS_mknodat,
    libc::SYS_fchmodat,
    libc::SYS_fchownat,
    libc::SYS_utimensat,
    libc::SYS_setxattr,
    libc::SYS_lsetxattr,
    libc::SYS_removexattr,
    libc::SYS_lremovexattr,
    #[cfg(target_arch = "x86_64")]
    libc::SYS_creat,
    #[cfg(target_arch = "x86_64")]
    libc::SYS_rename,
    #[cfg(target_arch = "x86_64")]
    libc::SYS_unlink,
    #[cfg(target_arch = "x86_64")]
    libc::SYS_rmdir,
    #[cfg(target_arch = "x86_64")]
    libc::SYS_mkdir,
    #[cfg(target_arch = "x86_64")]
    libc::SYS_link,
    #[cfg(target_arch = "x86_64")]
    libc::SYS_symlink,
    #[cfg(target_arch = "x86_64")]
    libc::SYS_mknod,
    #[cfg(target_arch = "x86_64")]
    libc::SYS_chmod,
    #[cfg(target_arch = "x86_64")]
    libc::SYS_chown,
    #[cfg(target_arch = "x86_64")]
    libc::SYS_lchown,
    #[cfg(target_arch = "x86_64")]
    libc::SYS_utime,
    #[cfg(target_arch = "x86_64")]
    libc::SYS_utimes,
    #[cfg(target_arch = "x86_64")]
    libc::SYS_futimesat,
];

/// The commands of bpf(2) that make, load, attach or pin something (`enum bpf_cmd`, include/uapi/linux/bpf.h): `MAP_CREATE`,
/// `PROG_LOAD`, `OBJ_PIN`, `OBJ_GET`, `PROG_ATTACH`, `PROG_TEST_RUN`, the three `GET_FD_BY_ID`, `RAW_TRACEPOINT_OPEN`, `BTF_LOAD`,
/// `LINK_CREATE`, `LINK_UPDATE`, `LINK_GET_FD_BY_ID`, `ENABLE_STATS`, `PROG_BIND_MAP`, `TOKEN_CREATE`.
const MAKING: [u64; 17] = [0, 5, 6, 7, 8, 10, 13, 14, 17, 18, 19, 28, 29, 30, 32, 35, 36];

fn refused(needs: &Needs) -> Result<Rules, seccompiler::BackendError> {
    let mut rules = Rules::new();
    let mut always = |calls: &[i64]| rules.extend(calls.iter().map(|call| (*call, Vec::new())));
    always(NEVER);
    if needs.profile != Profile::Server {
        always(NETWORK);
    }
    if !needs.reads_processes() {
        always(&[libc::SYS_process_vm_readv]);
    }
    if !needs.freeze {
        always(&[libc::SYS_ptrace]);
    }
    if !needs.registers {
        always(&[libc::SYS_perf_event_open]);
    }
    if !needs.signals {
        always(SIGNALS);
    }
    if needs.profile != Profile::Prober {
        always(&[libc::SYS_bpf]);
    } else if !needs.load {
        let is = |command| holds(0, SeccompCmpOp::Eq, command);
        rules.insert(libc::SYS_bpf, MAKING.into_iter().map(is).collect::<Result<_, _>>()?);
    }
    // A thread shares everything with us; whatever shares less is a process.
    let thread = u64::from(libc::CLONE_THREAD.unsigned_abs());
    rules.insert(libc::SYS_clone, vec![holds(0, SeccompCmpOp::MaskedEq(thread), 0)?]);
    // Landlock knows names, so it is the better one where it can be had.
    if needs.writes == Writes::Nothing {
        rules.extend(NAMES.iter().map(|call| (*call, Vec::new())));
        rules.insert(libc::SYS_openat, to_write(2)?);
        #[cfg(target_arch = "x86_64")]
        rules.insert(libc::SYS_open, to_write(1)?);
    }
    Ok(rules)
}

/// The flags of an open that is not only for reading; `flags` is the number of the argument.
fn to_write(flags: u8) -> Result<Vec<SeccompRule>, seccompiler::BackendError> {
    let bits = |bits: libc::c_int| u64::from(bits.unsigned_abs());
    let mut rules = Vec::new();
    for mode in [libc::O_WRONLY, libc::O_RDWR, libc::O_ACCMODE] {
        rules.push(holds(flags, SeccompCmpOp::MaskedEq(bits(libc::O_ACCMODE)), bits(mode))?);
    }
    for flag in [libc::O_CREAT, libc::O_TRUNC] {
        rules.push(holds(flags, SeccompCmpOp::MaskedEq(bits(flag)), bits(flag))?);
    }
    Ok(rules)
}

fn holds(argument: u8, how: SeccompCmpOp, value: u64) -> Result<SeccompRule, seccompiler::BackendError> {
    SeccompRule::new(vec![SeccompCondition::new(argument, SeccompCmpArgLen::Dword, how, value)?])
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::{
        fs::{self, File, OpenOptions},
        io::{self, Read as _},
        os::fd::AsRawFd as _,
        path::Path,
    };

    /// Runs `check` in a child that is confined first; its sentences are what was wrong.
    fn confined(needs: &Needs, check: impl FnOnce(&InForce) -> Vec<String>) {
        let (read, write) = rustix::pipe::pipe().unwrap();
        // SAFETY: the child runs this closure and `_exit`, on its only thread; the C library's allocator works after a fork.
        let pid = unsafe { libc::fork() };
        assert!(pid >= 0);
        if pid == 0 {
            drop(read);
            let said = check(&apply(needs)).join("\n");
            // SAFETY: the descriptor is open, and the text as long as said.
            unsafe {
                libc::write(write.as_raw_fd(), said.as_ptr().cast(), said.len());
                libc::_exit(7);
            }
        }
        drop(write);
        let mut said = String::new();
        File::from(read).read_to_string(&mut said).unwrap();
        let mut status = 0;
        // SAFETY: our own child, and a place for its status.
        unsafe { libc::waitpid(pid, &raw mut status, 0) };
        assert!(said.is_empty(), "{needs:?}\n{said}");
        assert_eq!(libc::WEXITSTATUS(status), 7, "{needs:?}: it ended by {status:#x}");
    }

    /// What the call answers, with zeros for arguments.
    fn call(number: i64) -> Option<i32> {
        // SAFETY: the calls that are tried take null pointers and answer with an error.
        let answer = unsafe { libc::syscall(number, 0, 0, 0, 0, 0, 0) };
        (answer < 0).then(|| io::Error::last_os_error().raw_os_error().unwrap_or(0))
    }

    fn is_refused(what: &str, number: i64, said: &mut Vec<String>) {
        if call(number) != Some(libc::EPERM) {
            said.push(format!("{what} is not refused"));
        }
    }

    /// What every profile must hold.
    fn common(force: &InForce) -> Vec<String> {
        let mut said = Vec::new();
        if !force.no_new_privs || force.seccomp != Status::InForce {
            said.push(force.to_string());
        }
        is_refused("execve", libc::SYS_execve, &mut said);
        is_refused("unshare", libc::SYS_unshare, &mut said);
        is_refused("mount", libc::SYS_mount, &mut said);
        is_refused("keyctl", libc::SYS_keyctl, &mut said);
        is_refused("userfaultfd", libc::SYS_userfaultfd, &mut said);
        // SAFETY: where it is not refused, the child ends at once.
        match unsafe { libc::fork() } {
            // SAFETY: the child of a child, which has nothing to do.
            0 => unsafe { libc::_exit(0) },
            pid if pid > 0 => said.push("fork is not refused".to_owned()),
            _ => {}
        }
        if std::thread::spawn(|| 1).join().ok() != Some(1) {
            said.push("no thread can be started".to_owned());
        }
        said
    }

    #[test]
    fn a_reader_reads_processes_and_does_nothing_else() {
        let parent = std::process::id();
        let secret = Box::new(0x5346_4749_u64);
        let addr = &raw const *secret as usize;
        confined(&Needs::reader(), |force| {
            let mut said = common(force);
            for (what, number) in [
                ("bpf", libc::SYS_bpf),
                ("ptrace", libc::SYS_ptrace),
                ("perf_event_open", libc::SYS_perf_event_open),
                ("socket", libc::SYS_socket),
                ("kill", libc::SYS_kill),
            ] {
                is_refused(what, number, &mut said);
            }
            let mut word = 0u64;
            let (local, remote) = (
                libc::iovec { iov_base: (&raw mut word).cast(), iov_len: 8 },
                libc::iovec { iov_base: addr as *mut libc::c_void, iov_len: 8 },
            );
            // SAFETY: one word of ours is written.
            unsafe {
                libc::process_vm_readv(parent.cast_signed(), &raw const local, 1, &raw const remote, 1, 0)
            };
            // As another user than root it is Yama's to say.
            if rustix::process::geteuid().is_root() && word != 0x5346_4749 {
                said.push("the parent cannot be read".to_owned());
            }
            if File::open("/proc/self/status").is_err() {
                said.push("no file can be read".to_owned());
            }
            let mut to_write = OpenOptions::new();
            let name = format!("/tmp/sfgi-confined-{parent}");
            for made in [to_write.write(true).open("/dev/null"), File::create(&name)] {
                if made.err().and_then(|error| error.raw_os_error()) != Some(libc::EPERM) {
                    said.push("a file can be written".to_owned());
                }
            }
            let expected: &[&str] = if rustix::process::geteuid().is_root() {
                &["CAP_DAC_READ_SEARCH", "CAP_SYS_PTRACE"]
            } else {
                &[]
            };
            if force.capabilities != expected {
                said.push(format!("{force}"));
            }
            said
        });
        drop(secret);
    }

    #[test]
    fn a_reader_has_what_it_asked_for_besides() {
        confined(&Needs::reader().with_registers().with_freeze(true).with_signals(), |force| {
            let mut said = common(force);
            let calls = [libc::SYS_perf_event_open, libc::SYS_ptrace];
            if calls.into_iter().any(|number| call(number) == Some(libc::EPERM)) {
                said.push("what was asked for is refused".to_owned());
            }
            if call(libc::SYS_kill).is_some() {
                said.push("no signal can be sent".to_owned());
            }
            said
        });
    }

    #[test]
    fn a_prober_that_has_attached_loads_nothing_more() {
        let bpf = |command: i64| {
            // SAFETY: an attribute of no bytes.
            let answer = unsafe { libc::syscall(libc::SYS_bpf, command, 0, 0) };
            if answer < 0 { io::Error::last_os_error().raw_os_error() } else { None }
        };
        confined(&Needs::attached(), |force| {
            let mut said = common(force);
            is_refused("socket", libc::SYS_socket, &mut said);
            for command in MAKING {
                if bpf(command.cast_signed()) != Some(libc::EPERM) {
                    said.push(format!("bpf command {command} is not refused"));
                }
            }
            // MAP_LOOKUP_ELEM
            if rustix::process::geteuid().is_root() && bpf(1) == Some(libc::EPERM) {
                said.push("no map can be read".to_owned());
            }
            said
        });
    }

    #[test]
    fn a_server_writes_below_its_folders_and_reads_no_process() {
        let dir = tempfile::tempdir().unwrap();
        let (within, beside) = (dir.path().join("within"), dir.path().join("beside"));
        fs::create_dir(&within).unwrap();
        confined(&Needs::server(vec![within.clone()]), |force| {
            let mut said = common(force);
            is_refused("process_vm_readv", libc::SYS_process_vm_readv, &mut said);
            is_refused("ptrace", libc::SYS_ptrace, &mut said);
            is_refused("bpf", libc::SYS_bpf, &mut said);
            if std::net::TcpListener::bind("127.0.0.1:0").is_err() {
                said.push("it cannot listen".to_owned());
            }
            if !force.capabilities.is_empty() {
                said.push(force.to_string());
            }
            if let Err(error) = fs::write(within.join("file"), "text") {
                said.push(format!("within: {error}"));
            }
            if force.landlock == Status::InForce && File::create(&beside).is_ok() {
                said.push("it writes elsewhere".to_owned());
            }
            said
        });
    }

    #[test]
    fn a_converter_reads_its_file_only() {
        let dir = tempfile::tempdir().unwrap();
        let (own, other) = (dir.path().join("own"), dir.path().join("other"));
        fs::write(&own, "own").unwrap();
        fs::write(&other, "other").unwrap();
        confined(&Needs::converter(vec![own.clone()]), |force| {
            let mut said = common(force);
            is_refused("process_vm_readv", libc::SYS_process_vm_readv, &mut said);
            is_refused("socket", libc::SYS_socket, &mut said);
            if fs::read_to_string(&own).ok().as_deref() != Some("own") {
                said.push("its file cannot be read".to_owned());
            }
            let elsewhere = [other.as_path(), Path::new("/proc/self/status"), Path::new("/etc/passwd")];
            if force.landlock == Status::InForce && elsewhere.into_iter().any(|path| File::open(path).is_ok())
            {
                said.push("other files can be read".to_owned());
            }
            if File::create(dir.path().join("new")).is_ok() {
                said.push("a file can be made".to_owned());
            }
            said
        });
    }
}
