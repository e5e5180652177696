//! Commands that look at one program for a while run in a child, and this process looks after it.
//!
//! The kernel keeps whoever reads a page that nobody fills (userfaultfd, a file system that does not answer), and only SIGKILL ends
//! that: not a signal handler, not the end of the thread. So the reads of the child are noted in a page that both share
//! ([`patience`]), and where one lasts too long the child is killed and one sentence says so. With it goes all that it had: probes,
//! what it stopped, files that had no name yet. Whatever ends the child, the exit code and the sentence are this process's.
//!
//! The child dies with this process. Signals of the terminal reach both; those that somebody sends to this process only are handed
//! on; and who stops one (Ctrl-Z) stops both.

use std::{
    io::{self, IsTerminal as _, Write as _},
    mem::MaybeUninit,
    process::ExitCode,
    ptr::{self, NonNull},
    sync::atomic::{AtomicPtr, AtomicU64, Ordering::Relaxed},
    thread,
    time::{Duration, Instant},
};

use libc::c_int;
use sfgi_core::{
    budget, clock,
    patience::{self, Pending, Table, What},
};

use crate::{
    confine::{self, Needs},
    output::{duration, say},
};

/// Between two looks at the reads of the child.
const TICK: Duration = Duration::from_millis(100);
/// After Ctrl-C a command has so long before a read that hangs ends it, and after a second one before it is ended whatever it does.
const AFTER_ASKED: Duration = Duration::from_millis(1500);
/// A read that has taken so long after Ctrl-C hangs: of a healthy program it takes milliseconds.
const HANGS: Duration = Duration::from_secs(1);
/// How long the child has to notice a signal that was sent to both, as `timeout` and systemd do. Handed on it would be a second one.
const BOTH: Duration = Duration::from_millis(20);

/// What a command may take, and what is said of it.
pub(crate) struct Limits {
    /// How long one read may last; zero: for ever.
    pub(crate) timeout: Duration,
    /// Bytes of heap memory; 0: no limit.
    pub(crate) memory: u64,
    /// What is read, as `PID 1234`; `None` where that is a file, or several.
    pub(crate) subject: Option<String>,
    /// The command draws on the terminal.
    pub(crate) draws: bool,
}

/// What both processes see.
#[repr(C)]
struct Page {
    reads: Table,
    /// When the child last noticed a signal that asks it to end, milliseconds of the clock.
    noticed_ms: AtomicU64,
}

/// The page, in the child.
static PAGE: AtomicPtr<Page> = AtomicPtr::new(ptr::null_mut());

/// Says that this process has noticed a signal that asks it to end.
pub(crate) fn noticed() {
    if let Some(page) = NonNull::new(PAGE.load(Relaxed)) {
        // SAFETY: the page stays mapped until the process ends.
        unsafe { page.as_ref() }.noticed_ms.store(now_ms(), Relaxed);
    }
}

fn now_ms() -> u64 {
    clock::now() / 1_000_000
}

/// Runs `command` in a child. Returns twice: in the child what the command returned, here how the child ended. Before any thread
/// is started.
pub(crate) fn run(limits: &Limits, command: impl FnOnce() -> ExitCode) -> ExitCode {
    let (page, terminal) = match shared_page() {
        Ok(page) => (page, Terminal::remember(limits.draws)),
        Err(error) => return failed(&format!("cannot share memory with a child: {error}")),
    };
    let before = block(&watched());
    // SAFETY: getpid has no arguments.
    let parent = unsafe { libc::getpid() };
    // SAFETY: this process has one thread, so the child may do what it likes.
    match unsafe { libc::fork() } {
        -1 => {
            set_mask(&before);
            failed(&format!("cannot start a child: {}", io::Error::last_os_error()))
        }
        0 => {
            // SAFETY: both take no pointers.
            let orphan = unsafe {
                libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL);
                // The parent may have died before the line above.
                libc::getppid() != parent
            };
            if orphan {
                return ExitCode::FAILURE;
            }
            PAGE.store(page.as_ptr(), Relaxed);
            // SAFETY: the page is mapped until this process ends, its first part is a table of zeros, and nothing was read yet.
            unsafe { patience::share(page.cast()) };
            budget::set_limit(usize::try_from(limits.memory).unwrap_or(usize::MAX));
            set_mask(&before);
            command()
        }
        child => {
            // Only signals to the child, and words, come from here any more.
            confine::apply(&Needs::supervisor());
            // SAFETY: the page is mapped until this process ends, and holds atomics only.
            let page = unsafe { page.as_ref() };
            let mut parent =
                Parent { child, page, limits, terminal, before, asked: None, again: None, resumed: None };
            parent.supervise()
        }
    }
}

fn failed(why: &str) -> ExitCode {
    say(why);
    ExitCode::FAILURE
}

fn shared_page() -> io::Result<NonNull<Page>> {
    use rustix::mm::{MapFlags, ProtFlags, mmap_anonymous};
    let access = ProtFlags::READ | ProtFlags::WRITE;
    // SAFETY: a new mapping at an address that the kernel chooses.
    let page = unsafe { mmap_anonymous(ptr::null_mut(), size_of::<Page>(), access, MapFlags::SHARED)? };
    NonNull::new(page.cast()).ok_or_else(|| io::ErrorKind::OutOfMemory.into())
}

/// The signals that this process waits for.
const WATCHED: [c_int; 9] = [
    libc::SIGCHLD,
    libc::SIGINT,
    libc::SIGTERM,
    libc::SIGHUP,
    libc::SIGQUIT,
    libc::SIGUSR1,
    libc::SIGUSR2,
    libc::SIGTSTP,
    libc::SIGCONT,
];

/// These signals as a set.
pub(crate) fn set_of(signals: &[c_int]) -> libc::sigset_t {
    let mut set = MaybeUninit::uninit();
    // SAFETY: sigemptyset makes it a set, to which these are added.
    unsafe {
        libc::sigemptyset(set.as_mut_ptr());
        for signal in signals {
            libc::sigaddset(set.as_mut_ptr(), *signal);
        }
        set.assume_init()
    }
}

/// [`WATCHED`] as a set.
fn watched() -> libc::sigset_t {
    set_of(&WATCHED)
}

/// Keeps these signals, and SIGTTOU, for [`wait`]; returns what was blocked before. Signals that are blocked wait, also ignored ones.
fn block(signals: &libc::sigset_t) -> libc::sigset_t {
    let (mut with, mut before) = (*signals, set_of(&[]));
    // SAFETY: all are sets. SIGTTOU would stop us when the terminal is given back from the background.
    unsafe {
        libc::sigaddset(&raw mut with, libc::SIGTTOU);
        libc::sigprocmask(libc::SIG_BLOCK, &raw const with, &raw mut before);
    }
    before
}

fn set_mask(mask: &libc::sigset_t) {
    // SAFETY: it is a set.
    unsafe { libc::sigprocmask(libc::SIG_SETMASK, mask, ptr::null_mut()) };
}

/// The next of these signals, and whether a process sent it; `None`: the time is over.
fn wait(signals: &libc::sigset_t, time: Duration) -> Option<(c_int, bool)> {
    let time =
        libc::timespec { tv_sec: time.as_secs().cast_signed(), tv_nsec: i64::from(time.subsec_nanos()) };
    let mut info = MaybeUninit::<libc::siginfo_t>::zeroed();
    // SAFETY: a set, a place for what is known of the signal, and a time.
    let signal = unsafe { libc::sigtimedwait(signals, info.as_mut_ptr(), &raw const time) };
    // SAFETY: zeros are one, too.
    let info = unsafe { info.assume_init() };
    // Codes above 0 are the kernel's: the terminal's signals among them (sigaction(2)).
    (signal > 0).then_some((signal, info.si_code <= 0))
}

/// This process, once the child runs.
struct Parent<'a> {
    child: libc::pid_t,
    page: &'a Page,
    limits: &'a Limits,
    terminal: Terminal,
    /// The signals that were blocked before.
    before: libc::sigset_t,
    /// When somebody first asked for the end.
    asked: Option<Instant>,
    /// When somebody asked a second time.
    again: Option<Instant>,
    /// When both last went on after they had been stopped: no read was making progress before.
    resumed: Option<Instant>,
}

impl Parent<'_> {
    fn supervise(&mut self) -> ExitCode {
        let signals = watched();
        loop {
            if let Some((signal, sent)) = wait(&signals, TICK) {
                self.signal(signal, sent);
            }
            if let Some(status) = self.ended() {
                return self.end(status);
            }
            if let Some(why) = self.hangs() {
                self.send(libc::SIGKILL);
                // It ends as soon as the kernel has taken its threads down.
                while self.ended().is_none() {
                    wait(&set_of(&[libc::SIGCHLD]), TICK);
                }
                self.terminal.give_back();
                return failed(&why);
            }
        }
    }

    fn send(&self, signal: c_int) {
        // SAFETY: our own child, not waited for yet.
        unsafe { libc::kill(self.child, signal) };
    }

    fn signal(&mut self, signal: c_int, sent: bool) {
        match signal {
            libc::SIGCHLD => {}
            libc::SIGCONT => {
                self.resumed = Some(Instant::now());
                self.send(signal);
            }
            libc::SIGTSTP => {
                if sent {
                    self.send(signal);
                }
            }
            libc::SIGUSR1 | libc::SIGUSR2 => self.send(signal),
            _ => {
                if self.asked.is_some() {
                    self.again.get_or_insert_with(Instant::now);
                }
                self.asked.get_or_insert_with(Instant::now);
                if sent {
                    let since = now_ms().saturating_sub(ms(BOTH));
                    thread::sleep(BOTH);
                    if self.page.noticed_ms.load(Relaxed) < since {
                        self.send(signal);
                    }
                }
            }
        }
    }

    /// How the child ended; `None`: it has not. Where the terminal has stopped it, this process stops, too.
    fn ended(&mut self) -> Option<c_int> {
        let mut status = 0;
        loop {
            // SAFETY: our own child, and a place for its status.
            let pid = unsafe { libc::waitpid(self.child, &raw mut status, libc::WNOHANG | libc::WUNTRACED) };
            if pid != self.child {
                return None;
            }
            if !libc::WIFSTOPPED(status) {
                return Some(status);
            }
            if matches!(libc::WSTOPSIG(status), libc::SIGTSTP | libc::SIGTTIN | libc::SIGTTOU) {
                // SAFETY: raise takes no pointer. It returns when somebody lets us go on.
                unsafe { libc::raise(libc::SIGSTOP) };
                self.resumed = Some(Instant::now());
                self.send(libc::SIGCONT);
            }
        }
    }

    /// Why the child is to be killed, if it is.
    fn hangs(&self) -> Option<String> {
        if self.again.is_some_and(|again| again.elapsed() > AFTER_ASKED) {
            return Some("interrupted twice, so it was ended at once: the end is missing".to_owned());
        }
        let Pending { what, since } = self.page.reads.longest()?;
        let since = self.resumed.map_or(since, |resumed| since.min(resumed.elapsed()));
        let allowed = self.limits.timeout;
        if !allowed.is_zero() && since > allowed {
            let allowed = duration(u64::try_from(allowed.as_nanos()).unwrap_or(u64::MAX));
            let subject = self.subject(what);
            return Some(format!(
                "{subject} does not answer: a read of {what} has lasted {allowed}; try again, or allow more with --timeout"
            ));
        }
        let asked = self.asked.filter(|asked| self.again.is_some() || asked.elapsed() > AFTER_ASKED);
        if asked.is_some() && since > HANGS {
            let subject = self.subject(what);
            return Some(format!(
                "interrupted while {subject} did not answer: a read of {what} had not ended"
            ));
        }
        None
    }

    fn subject(&self, what: What) -> &str {
        let file = "the file system";
        match what {
            What::File => file,
            What::Memory | What::Proc | What::Executable => {
                self.limits.subject.as_deref().unwrap_or("the program")
            }
        }
    }

    /// The exit code for how the child ended, and the sentence where the child could not say it.
    fn end(&self, status: c_int) -> ExitCode {
        if libc::WIFEXITED(status) {
            let code = libc::WEXITSTATUS(status);
            if code == budget::EXIT_CODE {
                self.terminal.give_back();
                let mib = self.limits.memory >> 20;
                return failed(&format!(
                    "it needs more than the {mib} MiB that --memory allows: allow more, or ask for less"
                ));
            }
            return ExitCode::from(u8::try_from(code).unwrap_or(1));
        }
        self.terminal.give_back();
        match libc::WTERMSIG(status) {
            // Whoever waits for us is to see what ended the command.
            signal @ (libc::SIGINT
            | libc::SIGTERM
            | libc::SIGHUP
            | libc::SIGQUIT
            | libc::SIGPIPE
            | libc::SIGUSR1
            | libc::SIGUSR2) => self.end_by(signal),
            libc::SIGKILL => failed(
                "the process that did the work was killed: by somebody, or by the kernel because memory was short",
            ),
            signal => failed(&format!(
                "the process that did the work ended by signal {signal} ({}): a defect of sfgi, please report it",
                name(signal)
            )),
        }
    }

    /// Ends by this signal as the child did.
    fn end_by(&self, signal: c_int) -> ExitCode {
        let no_core = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
        // SAFETY: no pointers but that to the limit; what is left is the end of this process.
        unsafe {
            // The child has written one if one is wanted.
            libc::setrlimit(libc::RLIMIT_CORE, &raw const no_core);
            libc::signal(signal, libc::SIG_DFL);
        }
        set_mask(&self.before);
        // SAFETY: as above.
        unsafe { libc::raise(signal) };
        // It was blocked by who started us.
        ExitCode::FAILURE
    }
}

fn ms(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
}

fn name(signal: c_int) -> &'static str {
    match signal {
        libc::SIGSEGV => "SIGSEGV",
        libc::SIGBUS => "SIGBUS",
        libc::SIGSYS => "SIGSYS",
        libc::SIGILL => "SIGILL",
        libc::SIGABRT => "SIGABRT",
        libc::SIGFPE => "SIGFPE",
        _ => "see signal(7)",
    }
}

/// The terminal as it was before the child drew on it.
struct Terminal {
    draws: bool,
    modes: Option<rustix::termios::Termios>,
}

impl Terminal {
    fn remember(draws: bool) -> Terminal {
        let modes = if draws { rustix::termios::tcgetattr(io::stdin()).ok() } else { None };
        Terminal { draws, modes }
    }

    /// After a child that could not do it.
    fn give_back(&self) {
        if let Some(modes) = &self.modes {
            let _ = rustix::termios::tcsetattr(io::stdin(), rustix::termios::OptionalActions::Flush, modes);
        }
        if self.draws && io::stdout().is_terminal() {
            // Mouse off, the other screen left, the cursor shown: what `cli/top/ui.rs` does the other way round.
            let _ = io::stdout()
                .write_all(b"\x1b[?1006l\x1b[?1015l\x1b[?1003l\x1b[?1002l\x1b[?1000l\x1b[?1049l\x1b[?25h");
            let _ = io::stdout().flush();
        }
    }
}
