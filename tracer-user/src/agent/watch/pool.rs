//! The threads that read targets. A thread that hangs on a target, for example because its memory is mapped from a
//! file system that does not answer, is replaced; other targets are not held up.

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

/// Threads in the pool. The core lets scans have three of them (`AT_ONCE` in `core/mod.rs`), so one is left for
/// requests.
const WORKERS: usize = 4;
/// Bytes of the stack of each thread. Nothing on them recurses deeply: the marker keeps a stack of its own on the heap.
const STACK: usize = 2 << 20;
/// A thread whose last [`beat`] is so long ago hangs.
const HANGS_NS: u64 = 60_000_000_000;
/// The most threads that are given up at the same time, because a thread that hangs cannot be ended. With more, the
/// pool stands still.
const MAX_HANGING: usize = 16;

thread_local! {
    /// The time of the last beat of this thread, shared with the pool; `None` on threads that are not of a pool.
    static BEAT: RefCell<Option<Arc<AtomicU64>>> = const { RefCell::new(None) };
}

/// Notes that the task of this thread makes progress. A task calls it at every step that may take long. It does
/// nothing on threads that are not of a pool.
pub(super) fn beat() {
    BEAT.with_borrow(|beat| {
        if let Some(beat) = beat {
            // Relaxed: only the value counts, and only against a minute.
            beat.store(clock::now(), Ordering::Relaxed);
        }
    });
}

pub(crate) struct Task {
    /// The PID of the target that it reads, for the report if it hangs.
    pub(crate) about: u32,
    pub(crate) run: Box<dyn FnOnce() + Send>,
}

/// A pool of threads. They start when there is work, and end when the pool is dropped.
#[derive(Default)]
pub(crate) struct Pool {
    shared: Arc<Shared>,
    /// Threads that were given up, as long as they hang.
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
    /// For each thread at work: its number, the PID, and its last beat.
    running: Vec<(u64, u32, Arc<AtomicU64>)>,
    /// Threads that are not given up.
    threads: usize,
    idle: usize,
    next: u64,
    /// Numbers of threads that were given up. They still count in `running`, and end when their task returns.
    given_up: Vec<u64>,
    closed: bool,
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Pool {
    /// Queues a task; the first free thread takes it.
    pub(crate) fn run(&self, task: Task) {
        let mut state = self.shared.lock();
        state.tasks.push_back(task);
        if state.idle < state.tasks.len() && state.threads < WORKERS {
            self.start(&mut state);
        }
        self.shared.changed.notify_one();
    }

    /// How many tasks wait or run; those of threads that were given up do not count.
    pub(crate) fn busy(&self) -> usize {
        let state = self.shared.lock();
        state.tasks.len() + state.running.len() - state.given_up.len()
    }

    /// Replaces threads that hang. Returns the PIDs that they hang on, each once.
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
        // A number of our own, never used twice: a thread that was given up must not be taken for its successor.
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
        // Threads are not joined: one that hangs would hang the end of the agent.
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
        // After the beat: it would be found to hang by the time of its last task.
        state.running.push((number, task.about, Arc::clone(&own)));
        drop(state);
        // A target may find a bug that no test has found; it must not cost the thread.
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
