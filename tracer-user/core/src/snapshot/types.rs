//! What a snapshot holds.

use crate::event::Birth;
use crate::goruntime::State;
use crate::memory::Fault;
use std::collections::HashMap;

/// All goroutines of a target as its memory showed them, read without stopping it.
#[derive(Debug, Default)]
pub struct Snapshot {
    /// When the reading began and ended, on the target's `CLOCK_MONOTONIC`, nanoseconds. Of a core
    /// file both are the latest time that the runtime had noted in it, or 0.
    pub taken_ns: (u64, u64),
    /// In the order of `runtime.allgs`; the dead are left out.
    pub goroutines: Vec<Goroutine>,
    /// The stacks of the goroutines, each once.
    pub stacks: Stacks,
    /// Label sets (`runtime/pprof` labels) by [`Goroutine::labels`] − 1, each once, keys in order.
    pub labels: Vec<Vec<(String, String)>>,
    /// What goroutines wait for, each once, by [`Wait::object`].
    pub objects: Vec<Object>,
    /// The `sudog`s with which goroutines are in the queues of these objects: the goroutine, by index,
    /// and the address.
    pub sudogs: Vec<(u32, u64)>,
    /// Entries of `runtime.allgs` that could not be read or were no `g`.
    pub unreadable: u64,
    /// Why the reading ended before the last goroutine; `None`: it did not.
    pub incomplete: Option<Fault>,
    /// Arguments of all frames, see [`Goroutine::args`].
    pub args: String,
}

/// How far what is said about a goroutine can be trusted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Trust {
    /// It stood still while it was read: status, goid, wait reason and `sched` were the same before
    /// and after its stack was read.
    #[default]
    Still,
    /// It moved while it was read, each time we tried: the state is the last one seen, the stack is
    /// empty.
    InMotion,
    /// It runs: its registers cannot be had from outside, so the stack is a best effort (the outer
    /// frames, or none).
    Running,
    /// Its stack or its `g` makes no sense (hostile or corrupt memory): as much as could be read.
    Broken,
}

#[derive(Clone, Debug, Default)]
pub struct Goroutine {
    pub goid: u64,
    /// Address of its `runtime.g`.
    pub g: u64,
    /// Its state, without the scan bit.
    pub state: State,
    /// The garbage collector was scanning its stack (`_Gscan`).
    pub scan: bool,
    /// How far to trust the rest.
    pub trust: Trust,
    /// Why it waits: an index into the binary's wait reasons; 0 where it does not wait.
    pub reason: u8,
    /// `g.waitsince`, `CLOCK_MONOTONIC` nanoseconds: the time of the garbage collection before the one that
    /// found it waiting, so it may have begun up to one such cycle later; 0: no collection has found it.
    pub waiting_since_ns: u64,
    /// The goroutine that made it (Go 1.21+); 0: not known.
    pub parent_goid: u64,
    /// Return address of the `go` statement; 0: the main goroutine, or none.
    pub gopc: u64,
    pub startpc: u64,
    /// The thread it is on, in the target's PID namespace; 0: none.
    pub tid: u32,
    /// Whether it is locked to a thread (`runtime.LockOSThread`, cgo).
    pub locked: bool,
    /// Whether the runtime made it for itself (`runtime.isSystemGoroutine`).
    pub system: bool,
    /// Index + 1 into [`Snapshot::labels`]; 0: no labels.
    pub labels: u32,
    /// Where it goes on when it runs again (`g.sched.pc`); stale while it runs.
    pub resume_pc: u64,
    /// Where its stack lies: the lowest address, and the one behind it (`g.stack`).
    pub stack_bounds: (u64, u64),
    pub stack: StackId,
    /// Where in [`Snapshot::args`] the arguments of its frames stand, if they were asked for: first
    /// byte and length. One line for each pc of the stack: the text between the parentheses of a
    /// traceback; empty lines for frames a traceback does not show.
    pub args: (usize, usize),
    /// What it waits for, if that was asked for and is known; several for a select.
    pub waits: Vec<Wait>,
    /// Whether `waits` is all that it waits for: each case of a select was found, and a list that is empty is
    /// empty in the target, too (only nil channels).
    pub waits_known: bool,
    /// Changes when it runs between two snapshots, and not when the collector moves its stack (but see
    /// system calls since Go 1.26, which the runtime does not count).
    pub stamp: u64,
}

impl Goroutine {
    pub fn birth(&self) -> Birth {
        Birth { parent_goid: self.parent_goid, gopc: self.gopc, startpc: self.startpc, funcval: 0 }
    }
}

/// One thing that a goroutine waits for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Wait {
    /// Index into [`Snapshot::objects`].
    pub object: u32,
    pub wants: Wants,
}

/// What a goroutine wants of what it waits for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Wants {
    Receive,
    Send,
    Lock,
    /// To hold the lock for reading.
    RLock,
    /// The counter to become zero, the condition to be signalled, the semaphore to be released.
    Wake,
    /// It waits for a channel; which way could not be told.
    Unknown,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Object {
    /// Its address: of the `hchan`, `sync.Mutex`, `sync.RWMutex`, `sync.WaitGroup`, `sync.Cond`; of
    /// the semaphore's word where it belongs to none of these.
    pub addr: u64,
    /// What it is, and how it stands.
    pub kind: ObjectKind,
    /// Goroutines of this snapshot that wait for it, by index into [`Snapshot::goroutines`].
    pub waiters: Vec<u32>,
}

/// Kinds of objects with what their memory says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ObjectKind {
    /// A channel (`runtime.hchan`).
    Channel {
        len: u64,
        cap: u64,
        closed: bool,
        /// Whether a timer sends to it (Go 1.23+): its receivers will be woken.
        timer: bool,
        element_size: u16,
        /// Goroutines in its receive queue and its send queue, of this snapshot.
        receivers: u32,
        /// See `receivers`.
        senders: u32,
    },
    /// A `sync.Mutex`: whether it is locked. Nothing in it says by whom.
    Mutex {
        /// Its lowest bit.
        locked: bool,
    },
    RwMutex {
        /// A writer holds it or waits for the readers to leave.
        writer: bool,
        /// Readers that hold it or wait for the writer.
        readers: i32,
    },
    WaitGroup {
        counter: i32,
    },
    Cond,
    /// A semaphore of the runtime (`semacquire`) that belongs to none of these.
    Semaphore,
}

/// An address in code as a stack has it.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Pc(u64);

impl Pc {
    const EXACT: u64 = 1 << 63;

    /// A return address: the call is the instruction before it.
    pub fn of_return(addr: u64) -> Pc {
        Pc(addr & !Pc::EXACT)
    }

    /// The instruction that is next: of a goroutine that was stopped by a signal or never ran.
    pub fn exact(addr: u64) -> Pc {
        Pc(addr | Pc::EXACT)
    }

    pub fn addr(self) -> u64 {
        self.0 & !Pc::EXACT
    }

    /// The address whose function and line are meant.
    pub fn lookup(self) -> u64 {
        if self.0 & Pc::EXACT == 0 { self.addr().wrapping_sub(1) } else { self.addr() }
    }
}

impl std::fmt::Debug for Pc {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{:#x}{}", self.addr(), if self.0 & Pc::EXACT == 0 { "" } else { "!" })
    }
}

/// A stack in [`Stacks`]; the default is the empty one.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct StackId(pub u32);

/// Addresses of all different stacks together: a target cannot make us keep a gigabyte of them.
const MAX_PCS: usize = 1 << 25;

/// Stacks, each once: a million goroutines have few different ones. Addresses are as in the
/// target's memory; innermost first; physical frames, inlined ones are told by the pclntab.
#[derive(Debug)]
pub struct Stacks {
    pcs: Vec<Pc>,
    ends: Vec<usize>,
    ids: HashMap<Box<[Pc]>, StackId>,
}

impl Default for Stacks {
    fn default() -> Self {
        Stacks { pcs: Vec::new(), ends: vec![0], ids: HashMap::from([(Box::default(), StackId(0))]) }
    }
}

impl Stacks {
    /// The id of this stack; `None` where there is no room for another one.
    pub fn intern(&mut self, stack: &[Pc]) -> Option<StackId> {
        if let Some(id) = self.ids.get(stack) {
            return Some(*id);
        }
        if self.pcs.len() + stack.len() > MAX_PCS {
            return None;
        }
        let id = StackId(u32::try_from(self.ends.len()).ok()?);
        self.pcs.extend_from_slice(stack);
        self.ends.push(self.pcs.len());
        self.ids.insert(stack.into(), id);
        Some(id)
    }

    pub fn get(&self, id: StackId) -> &[Pc] {
        let index = id.0 as usize;
        let start = index.checked_sub(1).and_then(|before| self.ends.get(before)).copied().unwrap_or(0);
        self.ends.get(index).and_then(|end| self.pcs.get(start..*end)).unwrap_or_default()
    }

    /// How many different ones there are, the empty one included.
    pub fn len(&self) -> usize {
        self.ends.len()
    }

    /// Never: the empty stack is always among them.
    pub fn is_empty(&self) -> bool {
        self.ends.is_empty()
    }
}
