//! Ring-buffer bytes → [`Event`]. A pure function; it never panics, whatever the bytes are.

use super::{Event, Payload, Stack};
use bytes::Buf;
use tracer_common::{Birth, By, Header, Kind, MAX_FRAMES, NewProc, Stack as Sent, Switch};

/// Why a record could not be decoded.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum DecodeError {
    /// Fewer bytes than its kind needs.
    #[error("record of {have} bytes is shorter than the {need} its kind needs")]
    Truncated { have: usize, need: usize },
    /// A kind no probe of this version sends.
    #[error("unknown record kind {0}")]
    UnknownKind(u8),
}

/// Decodes one record. Bytes behind it are ignored, because the ring pads records to eight.
pub fn decode(mut raw: &[u8]) -> Result<Event, DecodeError> {
    let have = raw.len();
    let need = |payload: usize| DecodeError::Truncated { have, need: size_of::<Header>() + payload };
    if have < size_of::<Header>() {
        return Err(need(0));
    }
    let (ts, g, goid, tid) = (raw.get_u64_ne(), raw.get_u64_ne(), raw.get_u64_ne(), raw.get_u32_ne());
    let (kind, from, to, reason) = (raw.get_u8(), raw.get_u8(), raw.get_u8(), raw.get_u8());
    // The kind first: it says how many bytes must follow.
    let kind = Kind::from_u8(kind).ok_or(DecodeError::UnknownKind(kind))?;
    let payload_len = payload_len(kind);
    if raw.len() < payload_len {
        return Err(need(payload_len));
    }
    let payload = match kind {
        Kind::StatusWake | Kind::Ready | Kind::Inject => {
            Payload::By(By { by_goid: raw.get_u64_ne(), object: raw.get_u64_ne() })
        }
        Kind::StatusPark | Kind::StatusSyscall | Kind::Park | Kind::SyscallEnter | Kind::SyscallBlock => {
            // The length comes from outside: cut, so that the slice below cannot panic.
            let len = raw.get_u64_ne().min(MAX_FRAMES as u64) as usize;
            let object = raw.get_u64_ne();
            let pcs: [u64; MAX_FRAMES] = std::array::from_fn(|_| raw.get_u64_ne());
            Payload::Stack { stack: Stack::of(&pcs[..len]), object }
        }
        Kind::StatusCreate | Kind::FirstRun | Kind::Destroy => Payload::Birth(Birth {
            parent_goid: raw.get_u64_ne(),
            gopc: raw.get_u64_ne(),
            startpc: raw.get_u64_ne(),
            funcval: raw.get_u64_ne(),
        }),
        Kind::NewProc => Payload::NewProc(NewProc {
            callerpc: raw.get_u64_ne(),
            funcval: raw.get_u64_ne(),
            startpc: raw.get_u64_ne(),
        }),
        Kind::CoroSwitch => Payload::Switch(Switch {
            next_g: raw.get_u64_ne(),
            next_goid: raw.get_u64_ne(),
            exit: raw.get_u64_ne(),
        }),
        _ => Payload::None,
    };
    Ok(Event { ts, g, goid, tid, kind, from, to, reason, payload })
}

/// Bytes that follow the header of a record of this kind.
fn payload_len(kind: Kind) -> usize {
    match kind {
        Kind::StatusWake | Kind::Ready | Kind::Inject => size_of::<By>(),
        Kind::StatusPark | Kind::StatusSyscall | Kind::Park | Kind::SyscallEnter | Kind::SyscallBlock => {
            size_of::<Sent>()
        }
        Kind::StatusCreate | Kind::FirstRun | Kind::Destroy => size_of::<Birth>(),
        Kind::NewProc => size_of::<NewProc>(),
        Kind::CoroSwitch => size_of::<Switch>(),
        _ => 0,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// A record of this kind whose header and payload words are all different.
    fn record(kind: Kind) -> Vec<u8> {
        let mut raw = Vec::new();
        for word in [0x1111_u64, 0x2222, 0x3333] {
            raw.extend(word.to_ne_bytes());
        }
        raw.extend(0x4444_u32.to_ne_bytes());
        raw.extend([kind as u8, 5, 6, 7]);
        let words = payload_len(kind) as u64 / 8;
        raw.extend((0..words).flat_map(|word| (word + 3).to_ne_bytes()));
        raw
    }

    fn payload(kind: Kind) -> Payload {
        decode(&record(kind)).expect("whole").payload
    }

    #[test]
    fn the_header_comes_out_as_it_went_in() {
        for kind in Kind::ALL {
            let event = decode(&record(kind)).expect("whole");
            assert_eq!((event.ts, event.g, event.goid, event.tid), (0x1111, 0x2222, 0x3333, 0x4444));
            assert_eq!((event.kind, event.from, event.to, event.reason), (kind, 5, 6, 7));
        }
    }

    #[test]
    fn each_kind_has_its_payload() {
        let by = Payload::By(By { by_goid: 3, object: 4 });
        let stack = Payload::Stack { stack: Stack::of(&[5, 6, 7]), object: 4 };
        let birth = Payload::Birth(Birth { parent_goid: 3, gopc: 4, startpc: 5, funcval: 6 });
        let switch = Payload::Switch(Switch { next_g: 3, next_goid: 4, exit: 5 });
        for kind in Kind::ALL {
            let expected = match kind {
                Kind::StatusWake | Kind::Ready | Kind::Inject => by,
                Kind::StatusPark
                | Kind::StatusSyscall
                | Kind::Park
                | Kind::SyscallEnter
                | Kind::SyscallBlock => stack,
                Kind::StatusCreate | Kind::FirstRun | Kind::Destroy => birth,
                Kind::NewProc => Payload::NewProc(NewProc { callerpc: 3, funcval: 4, startpc: 5 }),
                Kind::CoroSwitch => switch,
                _ => Payload::None,
            };
            assert_eq!(payload(kind), expected, "{kind:?}");
        }
    }

    #[test]
    fn the_bytes_are_those_of_the_shared_structs() {
        // The probes write the structs; this reads them back by the structs' own offsets.
        let raw = record(Kind::FirstRun);
        let word = |at: usize| u64::from_ne_bytes(raw[at..at + 8].try_into().expect("eight"));
        let header = size_of::<Header>();
        assert_eq!(word(std::mem::offset_of!(Header, goid)), 0x3333);
        assert_eq!(raw[std::mem::offset_of!(Header, kind)], Kind::FirstRun as u8);
        assert_eq!(word(header + std::mem::offset_of!(Birth, gopc)), 4);
        assert_eq!(word(header + std::mem::offset_of!(Birth, funcval)), 6);
    }

    #[test]
    fn a_stack_is_never_longer_than_its_room() {
        let mut raw = record(Kind::Park);
        raw[size_of::<Header>()..][..8].copy_from_slice(&u64::MAX.to_ne_bytes());
        let Payload::Stack { stack, .. } = decode(&raw).expect("whole").payload else { panic!("a stack") };
        assert_eq!(stack.pcs().len(), MAX_FRAMES);
    }

    #[test]
    fn every_truncation_is_told_with_both_lengths() {
        for kind in Kind::ALL {
            let raw = record(kind);
            for have in 0..raw.len() {
                let need = if have < size_of::<Header>() { size_of::<Header>() } else { raw.len() };
                assert_eq!(decode(&raw[..have]), Err(DecodeError::Truncated { have, need }), "{kind:?}");
            }
        }
    }

    #[test]
    fn unknown_kinds_are_refused_and_padding_is_ignored() {
        let mut raw = record(Kind::Status);
        raw.extend([0xaa; 24]);
        assert!(decode(&raw).is_ok());
        for unknown in tracer_common::KINDS as u8..=255 {
            raw[28] = unknown;
            assert_eq!(decode(&raw), Err(DecodeError::UnknownKind(unknown)));
        }
    }

    proptest! {
        #[test]
        fn any_bytes_are_an_event_or_an_error(raw in prop::collection::vec(any::<u8>(), 0..200)) {
            if let Ok(event) = decode(&raw) {
                prop_assert!(raw.len() >= size_of::<Header>() + payload_len(event.kind));
                prop_assert_eq!(event.kind as u8, raw[28]);
            }
        }
    }
}
