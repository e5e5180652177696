//! Objects that goroutines wait for, in words.

use sfgi_core::snapshot::{Goroutine, Object, ObjectKind, Snapshot, Wants};

/// An object in a few words: `chan 0xc000012120 (0/8, open)`.
pub(in crate::output) fn in_words(object: &Object) -> String {
    let addr = object.addr;
    match &object.kind {
        ObjectKind::Channel { len, cap, closed, timer, .. } => {
            let closed = if *closed { "closed" } else { "open" };
            let timer = if *timer { ", of a timer" } else { "" };
            format!("chan {addr:#x} ({len}/{cap}, {closed}{timer})")
        }
        ObjectKind::Mutex { locked } => {
            format!("sync.Mutex {addr:#x} ({})", if *locked { "locked" } else { "unlocked" })
        }
        ObjectKind::RwMutex { writer, readers } => {
            let writer = if *writer { "a writer" } else { "no writer" };
            format!("sync.RWMutex {addr:#x} ({writer}, {readers} readers)")
        }
        ObjectKind::WaitGroup { counter } => format!("sync.WaitGroup {addr:#x} (counter {counter})"),
        ObjectKind::Cond => format!("sync.Cond {addr:#x}"),
        ObjectKind::Semaphore => format!("semaphore {addr:#x}"),
    }
}

/// What a goroutine wants of the object: `to receive from`.
pub(in crate::output) fn verb(wants: Wants) -> &'static str {
    match wants {
        Wants::Receive => "to receive from",
        Wants::Send => "to send to",
        Wants::Lock => "to lock",
        Wants::RLock => "to read-lock",
        Wants::Wake | Wants::Unknown => "for",
    }
}

/// The object, and how many goroutines wait for it in which way, in a few lines: the head of `sfgi dump --object`.
/// `None`: there is no such object.
pub fn in_full(snapshot: &Snapshot, index: u32) -> Option<String> {
    let object = snapshot.objects.get(index as usize)?;
    let mut text = in_words(object);
    if let ObjectKind::Channel { element_size, .. } = object.kind {
        text += &format!(", elements of {element_size} bytes");
    }
    for wants in [Wants::Receive, Wants::Send, Wants::Lock, Wants::RLock, Wants::Wake, Wants::Unknown] {
        let waits = |goroutine: &&Goroutine| {
            goroutine.waits.iter().any(|wait| wait.object == index && wait.wants == wants)
        };
        let count = snapshot.goroutines.iter().filter(waits).count();
        let waiting = match count {
            0 => continue,
            1 => "1 goroutine waits".to_owned(),
            count => format!("{count} goroutines wait"),
        };
        let what = match wants {
            Wants::Receive => " to receive",
            Wants::Send => " to send",
            Wants::Lock => " to lock it",
            Wants::RLock => " to read-lock it",
            Wants::Wake => " for it",
            Wants::Unknown => ", which way could not be told",
        };
        text += &format!("\n{waiting}{what}");
    }
    Some(text)
}
