//! The contents of a snapshot.

use crate::budget;
use crate::event::Birth;
use crate::goruntime::State;
use crate::memory::Fault;
use serde::{Deserialize, Serialize};
use std::collections::HashMap;
use std::fmt;

/// All goroutines of a target as its memory showed them, read without stopping it.
#[derive(Debug, Default)]
pub struct Snapshot {
    /// Begin and end of the reading, target's `CLOCK_MONOTONIC`, nanoseconds. For a core file both are the latest time
    /// that the runtime noted in its memory, or 0.
    pub taken_ns: (u64, u64),
    /// All goroutines but dead ones, in the order of `runtime.allgs`.
    pub goroutines: Vec<Goroutine>,
    /// The different stacks, by [`Goroutine::stack`].
    pub stacks: Stacks,
    /// The different label sets (`runtime/pprof`), by [`Goroutine::labels`] − 1; keys ascend.
    pub labels: Vec<Vec<(String, String)>>,
    /// The different objects that goroutines wait for, by [`Wait::object`].
    pub objects: Vec<Object>,
    /// The `sudog`s with which goroutines wait in queues: index into `goroutines`, address of the `sudog`.
    pub sudogs: Vec<(u32, u64)>,
    /// Number of entries of `runtime.allgs` that could not be read, or were no `g`.
    pub unreadable: u64,
    /// Why the reading ended before the last goroutine; `None`: it read all.
    pub incomplete: Option<Fault>,
    /// There are more goroutines than are kept, and `goroutines` are a sample of them; `None`: they are all of them.
    pub sampled: Option<Sampled>,
    /// The arguments of all frames as one text; [`Goroutine::args`] are ranges of it.
    pub args: String,
}

impl Snapshot {
    /// Why it lacks goroutines; `None`: it has all that could be read.
    pub fn lacks(&self) -> Option<String> {
        let fault = self.incomplete.map(|fault| fault.to_string());
        fault.or_else(|| self.sampled.map(|sampled| sampled.to_string()))
    }
}

/// A part of the goroutines that stands for all of them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Sampled {
    /// How many are in the snapshot.
    pub kept: u64,
    /// How many there are.
    pub total: u64,
}

impl fmt::Display for Sampled {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} of its {} goroutines were read, an even sample", self.kept, self.total)
    }
}

/// How far the stack and state of a goroutine can be trusted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Trust {
    /// It did not move: status, goid, wait reason and saved registers were the same before and after the stack was
    /// read.
    #[default]
    Still,
    /// It moved during each attempt to read it. The state is the last one seen, the stack is empty.
    InMotion,
    /// It runs, and its registers cannot be read from outside: the stack is a best effort (the outer frames, or none).
    Running,
    /// Its stack makes no sense (hostile or corrupt memory), and the frames end at the fault; or [`Stacks`] had no room
    /// for the stack, which is then empty.
    Broken,
}

/// One goroutine of a [`Snapshot`]. Addresses are those of the target's memory.
#[derive(Clone, Debug, Default)]
pub struct Goroutine {
    /// `g.goid`, never reused within a process.
    pub goid: u64,
    /// Address of the `runtime.g`, which later goroutines reuse.
    pub g: u64,
    /// `g.atomicstatus`, without the scan bit.
    pub state: State,
    /// Whether the garbage collector was scanning the stack (`_Gscan`).
    pub scan: bool,
    /// How far to trust state and stack.
    pub trust: Trust,
    /// `g.waitreason`, an index into the binary's wait reasons; 0: it does not wait.
    pub reason: u8,
    /// `g.waitsince`, `CLOCK_MONOTONIC` nanoseconds: the time of the garbage collection before the one that first found
    /// the goroutine blocked, so the wait may have begun up to one cycle later. 0: no collection has found it blocked.
    pub waiting_since_ns: u64,
    /// Goid of the creator (Go 1.21+); 0: not known.
    pub parent_goid: u64,
    /// Return address of the `go` statement; 0: the main goroutine, or none.
    pub gopc: u64,
    /// Entry of the function that the goroutine started with, often a compiler-made wrapper.
    pub startpc: u64,
    /// The thread that it is on, in the target's PID namespace; 0: none.
    pub tid: u32,
    /// Whether it is locked to a thread (`runtime.LockOSThread`, cgo).
    pub locked: bool,
    /// Whether the runtime started it for itself (`runtime.isSystemGoroutine`).
    pub system: bool,
    /// Index + 1 into [`Snapshot::labels`]; 0: no labels.
    pub labels: u32,
    /// `g.sched.pc`: where it goes on when it runs again; stale while it runs.
    pub resume_pc: u64,
    /// `g.stack`: the lowest address of the stack, and the address behind its end.
    pub stack_bounds: (u64, u64),
    /// The frames, by [`Stacks::get`]; the empty stack if stacks were not asked for.
    pub stack: StackId,
    /// First byte and length of the frames' arguments in [`Snapshot::args`], if they were asked for. They are one line
    /// for each pc of the stack: the text between the parentheses of a traceback, empty for frames that a traceback
    /// hides.
    pub args: (usize, usize),
    /// The objects that it waits for, if asked for and known; a select may have several.
    pub waits: Vec<Wait>,
    /// Whether `waits` is complete: each case of a select was found. An empty but complete list means that only nil
    /// channels are waited for.
    pub waits_known: bool,
    /// A number that differs between two snapshots if the goroutine ran between them, even if it is blocked at the same
    /// place again. It does not change when the collector moves the stack. Since Go 1.26 it misses a system call that
    /// began and ended in between, because the runtime does not count those.
    pub stamp: u64,
}

impl Goroutine {
    /// Creator and creation site as an event has them. The funcval is 0: it is not kept in the `g`.
    pub fn birth(&self) -> Birth {
        Birth { parent_goid: self.parent_goid, gopc: self.gopc, startpc: self.startpc, funcval: 0 }
    }
}

/// One thing that a goroutine waits for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Wait {
    /// Index into [`Snapshot::objects`].
    pub object: u32,
    /// What it wants of the object.
    pub wants: Wants,
}

/// What a goroutine wants of the object that it waits for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub enum Wants {
    /// To receive from the channel.
    Receive,
    /// To send to the channel.
    Send,
    /// To hold the lock.
    Lock,
    /// To hold the lock for reading.
    RLock,
    /// The counter to become zero, the condition to be signalled, or the semaphore to be released.
    Wake,
    /// To receive from or send to the channel: the `sudog` was found in neither of its queues.
    Unknown,
}

/// Something that goroutines wait for.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Object {
    /// Address of the `hchan`, `sync.Mutex`, `sync.RWMutex`, `sync.WaitGroup` or `sync.Cond`; of the semaphore's word
    /// if it belongs to none of these.
    pub addr: u64,
    /// The type of the object, and its state.
    pub kind: ObjectKind,
    /// Goroutines of the snapshot that wait for it: indices into [`Snapshot::goroutines`].
    pub waiters: Vec<u32>,
}

impl ObjectKind {
    /// Whether goroutines hold it: a mutex of either kind.
    pub fn is_lock(&self) -> bool {
        matches!(self, ObjectKind::Mutex { .. } | ObjectKind::RwMutex { .. })
    }

    /// Who holds a `sync.RWMutex` and who waits for it, by its counters; empty for anything else.
    fn holders(&self) -> String {
        let ObjectKind::RwMutex { writer, readers, reading } = *self else { return String::new() };
        let many = |number: i32, verb: &str| match number {
            1 => format!("1 reader {verb}s"),
            number => format!("{number} readers {verb}"),
        };
        // A lock that is unlocked too often has less than none.
        match (writer, reading, readers.saturating_sub(reading)) {
            (false, ..=0, _) => "unlocked".to_owned(),
            (false, reading, _) => many(reading, "hold") + " it",
            (true, ..=0, ..=0) => "a writer holds it".to_owned(),
            (true, ..=0, waiting) => format!("a writer holds it, {}", many(waiting, "wait")),
            (true, reading, ..=0) => many(reading, "hold") + " it, a writer waits",
            (true, reading, waiting) => {
                format!("{} it, a writer waits, and {}", many(reading, "hold"), many(waiting, "wait"))
            }
        }
    }
}

impl Object {
    /// The object without its waiters, who may be many.
    pub fn alone(&self) -> Object {
        Object { addr: self.addr, kind: self.kind.clone(), waiters: Vec::new() }
    }
}

impl fmt::Display for Object {
    /// In a few words: `chan 0xc000012120 (0/8, open)`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let addr = self.addr;
        match &self.kind {
            ObjectKind::Channel { len, cap, closed, timer, .. } => {
                let closed = if *closed { "closed" } else { "open" };
                let timer = if *timer { ", of a timer" } else { "" };
                write!(f, "chan {addr:#x} ({len}/{cap}, {closed}{timer})")
            }
            ObjectKind::Mutex { locked } => {
                write!(f, "sync.Mutex {addr:#x} ({})", if *locked { "locked" } else { "unlocked" })
            }
            ObjectKind::RwMutex { .. } => write!(f, "sync.RWMutex {addr:#x} ({})", self.kind.holders()),
            ObjectKind::WaitGroup { counter } => write!(f, "sync.WaitGroup {addr:#x} (counter {counter})"),
            ObjectKind::Cond => write!(f, "sync.Cond {addr:#x}"),
            ObjectKind::Semaphore => write!(f, "semaphore {addr:#x}"),
        }
    }
}

impl Wants {
    /// What a goroutine wants of the object, between "waits" and the object: `to receive from`.
    pub fn verb(self) -> &'static str {
        match self {
            Wants::Receive => "to receive from",
            Wants::Send => "to send to",
            Wants::Lock => "to lock",
            Wants::RLock => "to read-lock",
            Wants::Wake | Wants::Unknown => "for",
        }
    }
}

/// The type of an object, and its state as its memory says.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum ObjectKind {
    /// A channel (`runtime.hchan`).
    Channel {
        /// Elements in the buffer, at most `cap`.
        len: u64,
        /// Elements that the buffer holds; 0: unbuffered.
        cap: u64,
        /// Whether `close` was called.
        closed: bool,
        /// Whether a timer sends to it, so that its receivers will be woken. `hchan.timer` says so since Go 1.23;
        /// before, and with `asynctimerchan=1`, only a pass over the heap finds out.
        timer: bool,
        /// Bytes of one element.
        element_size: u16,
        /// Cases of goroutines of the snapshot in its receive queue; two if a select has it twice.
        receivers: u32,
        /// Cases of goroutines of the snapshot in its send queue.
        senders: u32,
    },
    /// A `sync.Mutex`. Nothing in it says who holds it.
    Mutex {
        /// The bit `mutexLocked` of its state.
        locked: bool,
    },
    /// A `sync.RWMutex`.
    RwMutex {
        /// Whether a writer holds it, or waits for the readers to leave.
        writer: bool,
        /// Readers that hold it, or wait for the writer.
        readers: i32,
        /// Those of them that hold it.
        reading: i32,
    },
    /// A `sync.WaitGroup`.
    WaitGroup {
        /// `Add` minus `Done`.
        counter: i32,
    },
    /// A `sync.Cond`.
    Cond,
    /// A semaphore of the runtime (`semacquire`) that belongs to none of the others.
    Semaphore,
}

/// An address in the target's code, as a stack has it: a return address, or the next instruction.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Pc(u64);

impl Pc {
    // User space has no addresses with this bit, so the flag costs no memory.
    const EXACT: u64 = 1 << 63;

    /// A return address: the call is the instruction before.
    pub fn of_return(addr: u64) -> Pc {
        Pc(addr & !Pc::EXACT)
    }

    /// The next instruction, of a goroutine that a signal stopped or that never ran.
    pub fn exact(addr: u64) -> Pc {
        Pc(addr | Pc::EXACT)
    }

    /// The address in the target's memory.
    pub fn addr(self) -> u64 {
        self.0 & !Pc::EXACT
    }

    /// The address to symbolize: one byte before a return address, because the call may be the function's last
    /// instruction.
    pub fn lookup(self) -> u64 {
        if self.0 & Pc::EXACT == 0 { self.addr().wrapping_sub(1) } else { self.addr() }
    }
}

impl fmt::Debug for Pc {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:#x}{}", self.addr(), if self.0 & Pc::EXACT == 0 { "" } else { "!" })
    }
}

/// The index of a stack in [`Stacks`]; the default is the empty stack.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct StackId(pub u32);

/// Most addresses of all different stacks together (256 MiB), so that a hostile target cannot use up our memory.
const MAX_PCS: usize = 1 << 25;

/// The different stacks of a snapshot, each once: a million goroutines have few different ones. A stack is its physical
/// frames, innermost first; the pclntab expands inlined calls.
#[derive(Debug)]
pub struct Stacks {
    pcs: Vec<Pc>,
    ends: Vec<usize>,
    ids: HashMap<Box<[Pc]>, StackId>,
}

impl Default for Stacks {
    fn default() -> Self {
        // `ends[0]` is 0 and belongs to the empty stack, which is thus always `StackId(0)`.
        Stacks { pcs: Vec::new(), ends: vec![0], ids: HashMap::from([(Box::default(), StackId(0))]) }
    }
}

impl Stacks {
    /// The id of this stack, which is added if it is new. `None`: no room for another one.
    pub fn intern(&mut self, stack: &[Pc]) -> Option<StackId> {
        if let Some(id) = self.ids.get(stack) {
            return Some(*id);
        }
        // Twice, and what keeps them; growing needs as much again.
        let needed = stack.len() * 4 * size_of::<Pc>() + 128;
        if self.pcs.len() + stack.len() > MAX_PCS || budget::check(needed).is_err() {
            return None;
        }
        let id = StackId(u32::try_from(self.ends.len()).ok()?);
        self.pcs.extend_from_slice(stack);
        self.ends.push(self.pcs.len());
        self.ids.insert(stack.into(), id);
        Some(id)
    }

    /// The frames of a stack, innermost first; empty for an unknown id.
    pub fn get(&self, id: StackId) -> &[Pc] {
        let index = id.0 as usize;
        let start = index.checked_sub(1).and_then(|before| self.ends.get(before)).copied().unwrap_or(0);
        self.ends.get(index).and_then(|end| self.pcs.get(start..*end)).unwrap_or_default()
    }

    /// Number of different stacks, the empty one included.
    pub fn len(&self) -> usize {
        self.ends.len()
    }

    /// Always `false`, because the empty stack is always there; clippy wants it beside `len`.
    pub fn is_empty(&self) -> bool {
        self.ends.is_empty()
    }
}
