//! Objects that goroutines wait for, in words.

use sfgi_core::snapshot::{Goroutine, ObjectKind, Snapshot, Wants};

/// The object, and how many goroutines wait for it in which way, in a few lines: the head of `sfgi dump --object`.
/// `None`: there is no such object.
pub fn in_full(snapshot: &Snapshot, index: u32) -> Option<String> {
    let object = snapshot.objects.get(index as usize)?;
    let mut text = object.to_string();
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
