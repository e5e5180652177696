//! Threads that look at processes. One that hangs on a process (whose memory, say, lies on a file system that does
//! not answer) is replaced; the others are not held up.

use sfgi_core::clock;
use std::{
    cell::RefCell,
    collections::VecDeque,
    panic::{AssertUnwindSafe, catch_unwind},
    sync::{
        Arc, Condvar, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    thread,
};

/// Threads that work.
const WORKERS: usize = 4;
/// Bytes of their stacks; the marker keeps its own.
const STACK: usize = 2 << 20;
/// A thread that has done nothing for so long hangs: see [`beat`].
const HANGS_NS: u64 = 60_000_000_000;
/// Threads that may hang; with more, all stand still.
const MAX_HANGING: usize = 16;

thread_local! {
    /// When this thread last did something.
    static BEAT: RefCell<Option<Arc<AtomicU64>>> = const { RefCell::new(None) };
}

/// Says that this thread gets on with its task, however long that takes. On other threads it does nothing.
pub(super) fn beat() {
    BEAT.with_borrow(|beat| {
        if let Some(beat) = beat {
            beat.store(clock::now(), Ordering::Relaxed);
        }
    });
}

pub(crate) struct Task {
    /// What it is about: the PID.
    pub(crate) about: u32,
    pub(crate) run: Box<dyn FnOnce() + Send>,
}

/// Threads that work on tasks.
#[derive(Default)]
pub(crate) struct Pool {
    shared: Arc<Shared>,
    /// Threads that were told to hang, as long as they do.
    hanging: Vec<u64>,
}

#[derive(Default)]
struct Shared {
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Default)]
struct State {
    tasks: VecDeque<Task>,
    /// By the number of the thread: what it works on, and when it last did something.
    running: Vec<(u64, u32, Arc<AtomicU64>)>,
    threads: usize,
    idle: usize,
    next: u64,
    /// Those that hang do not count, and end when they come back.
    given_up: Vec<u64>,
    closed: bool,
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Pool {
    /// Does it as soon as a thread is free.
    pub(crate) fn run(&self, task: Task) {
        let mut state = self.shared.lock();
        state.tasks.push_back(task);
        if state.idle < state.tasks.len() && state.threads < WORKERS {
            self.start(&mut state);
        }
        self.shared.changed.notify_one();
    }

    /// How many tasks run or wait to.
    pub(crate) fn busy(&self) -> usize {
        let state = self.shared.lock();
        state.tasks.len() + state.running.len() - state.given_up.len()
    }

    /// Replaces threads that hang. Returns what they hang on, each once.
    pub(crate) fn check(&mut self) -> Vec<u32> {
        self.check_at(clock::now())
    }

    fn check_at(&mut self, now: u64) -> Vec<u32> {
        let mut state = self.shared.lock();
        let running = state.running.clone();
        self.hanging.retain(|number| running.iter().any(|(other, ..)| other == number));
        let mut found = Vec::new();
        for (number, about, beat) in running {
            let silent_ns = now.saturating_sub(beat.load(Ordering::Relaxed));
            let hangs = silent_ns >= HANGS_NS && !state.given_up.contains(&number);
            if hangs && self.hanging.len() < MAX_HANGING {
                self.hanging.push(number);
                state.given_up.push(number);
                state.threads -= 1;
                found.push(about);
                self.start(&mut state);
            }
        }
        found
    }

    fn start(&self, state: &mut State) {
        let (shared, number) = (Arc::clone(&self.shared), state.next);
        state.next += 1;
        let builder = thread::Builder::new().name("scan".to_owned()).stack_size(STACK);
        match builder.spawn(move || work(&shared, number)) {
            Ok(_) => state.threads += 1,
            Err(err) => log::error!("no thread can be started to scan with: {err}"),
        }
    }
}

impl Drop for Pool {
    fn drop(&mut self) {
        let mut state = self.shared.lock();
        state.closed = true;
        state.tasks.clear();
        self.shared.changed.notify_all();
    }
}

fn work(shared: &Shared, number: u64) {
    let own = Arc::new(AtomicU64::new(0));
    BEAT.set(Some(Arc::clone(&own)));
    let mut state = shared.lock();
    loop {
        if let Some(at) = state.given_up.iter().position(|other| *other == number) {
            state.given_up.swap_remove(at);
            return;
        }
        if state.closed {
            return;
        }
        let Some(task) = state.tasks.pop_front() else {
            state.idle += 1;
            state = shared.changed.wait(state).unwrap_or_else(PoisonError::into_inner);
            state.idle -= 1;
            continue;
        };
        beat();
        state.running.push((number, task.about, Arc::clone(&own)));
        drop(state);
        // What a target can make us do was tested, but not all of it.
        if catch_unwind(AssertUnwindSafe(task.run)).is_err() {
            log::error!("PID {}: looking at it failed inside sfgi, which is a bug", task.about);
        }
        state = shared.lock();
        state.running.retain(|(other, ..)| *other != number);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::mpsc;

    #[test]
    fn threads_that_hang_are_replaced() {
        let mut pool = Pool::default();
        let (release, held) = mpsc::channel::<()>();
        let held = Arc::new(Mutex::new(held));
        let (sender, receiver) = mpsc::channel();
        for about in 0..WORKERS as u32 {
            let (held, sender) = (Arc::clone(&held), sender.clone());
            let run = Box::new(move || {
                sender.send(about).unwrap();
                // Until the other end is dropped.
                let _ = held.lock().unwrap().recv();
            });
            pool.run(Task { about, run });
        }
        let mut hang: Vec<u32> = (0..WORKERS).map(|_| receiver.recv().unwrap()).collect();
        hang.sort_unstable();
        assert!(pool.check().is_empty());
        pool.run(Task { about: 99, run: Box::new(move || sender.send(99).unwrap()) });
        assert!(receiver.try_recv().is_err());
        let mut found = pool.check_at(clock::now() + HANGS_NS);
        found.sort_unstable();
        assert_eq!(found, hang);
        assert_eq!(receiver.recv(), Ok(99));
        assert!(pool.check_at(clock::now() + HANGS_NS).iter().all(|about| *about == 99));
        drop(release);
    }

    #[test]
    fn a_task_that_panics_does_not_hold_up_others() {
        let pool = Pool::default();
        let (sender, receiver) = mpsc::channel();
        for number in 0..20 {
            let sender = sender.clone();
            let run = Box::new(move || {
                assert!(number % 2 == 0, "this one is to panic");
                sender.send(number).unwrap();
            });
            pool.run(Task { about: 1, run });
        }
        drop(sender);
        let mut done: Vec<i32> = receiver.iter().collect();
        done.sort_unstable();
        assert_eq!(done, (0..20).step_by(2).collect::<Vec<_>>());
    }
}
